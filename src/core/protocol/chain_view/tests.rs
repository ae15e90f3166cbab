use super::*;
use bitcoin::hashes::Hash as _;

fn txid(n: u8) -> Txid {
    Txid::from_byte_array([n; 32])
}

#[test]
fn applying_the_difference_gives_the_new_view() {
    let seen = |height| SignalSeen {
        signal: SignalBytes::from_bytes([1; 32]),
        height,
    };
    let mut old = ChainView::default();
    old.signals.insert(txid(1), seen(None));
    old.signals.insert(txid(2), seen(Some(3)));
    let mut new = old.clone();
    new.height = 7;
    new.signals.insert(txid(1), seen(Some(7)));
    new.signals.remove(&txid(2));
    new.extra = vec![BeaconOutput {
        outpoint: OutPoint::new(txid(8), 1),
        value: Amount::from_sat(7_000),
        height: Some(5),
    }];
    new.spends.insert(
        OutPoint::new(txid(9), 0),
        SpendSeen {
            by: txid(1),
            height: Some(7),
        },
    );
    let update = old.diff(&new).unwrap();
    assert_eq!(update.signals.len(), 2);
    old.apply(&update);
    assert_eq!(old, new);
    assert_eq!(old.diff(&new), None);
    assert_eq!(old.ready_extra(3), new.extra);
    assert_eq!(old.ready_extra(4), []);
    let mut later = new.clone();
    later.height = 8;
    let update = new.diff(&later).unwrap();
    assert_eq!(update.extra, None, "unchanged");
    new.apply(&update);
    assert_eq!(new, later);
}

/// What is found by looking only at what was touched is what is found by comparing everything.
#[test]
fn the_news_of_what_was_touched_are_the_whole_difference() {
    use crate::beacon::history::AddressTx;
    use bitcoin::absolute::LockTime;
    use bitcoin::transaction::Version;
    use bitcoin::{ScriptBuf, Transaction, TxIn, TxOut};

    let script = ScriptBuf::from_bytes(vec![0x51]);
    let pays = |input, sat, signal: Option<u8>| {
        let change = TxOut {
            value: Amount::from_sat(sat),
            script_pubkey: script.clone(),
        };
        let signal = signal.map(|byte| TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return([byte; 32]),
        });
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: input,
                ..TxIn::default()
            }],
            output: std::iter::once(change).chain(signal).collect(),
        }
    };
    let paid = pays(OutPoint::new(txid(9), 0), 90_000, None);
    let first = pays(OutPoint::new(paid.compute_txid(), 0), 80_000, Some(1));
    let second = pays(OutPoint::new(first.compute_txid(), 0), 70_000, Some(2));
    let rival = pays(OutPoint::new(first.compute_txid(), 0), 60_000, Some(3));
    let dust = pays(OutPoint::new(txid(8), 0), 3_000, None);
    let at = |tx: &Transaction, height| AddressTx {
        tx: tx.clone().into(),
        height,
    };
    let readings = [
        (None, 10, vec![at(&paid, Some(5))]),
        (Some(5), 11, vec![at(&first, None)]),
        (Some(5), 12, vec![at(&first, Some(12))]),
        (
            Some(5),
            13,
            vec![at(&first, Some(12)), at(&second, Some(13)), at(&dust, None)],
        ),
        (
            Some(12),
            14,
            vec![at(&rival, Some(13)), at(&dust, Some(14))],
        ),
        (
            Some(12),
            14,
            vec![at(&rival, Some(13)), at(&dust, Some(14))],
        ),
        (Some(5), 15, vec![at(&dust, Some(14))]),
        (None, 16, vec![at(&paid, Some(5)), at(&first, Some(7))]),
    ];
    let min_start = Amount::from_sat(10_000);
    // Whoever is told each time, and whoever is told twice only.
    for told in [&[0, 1, 2, 3, 4, 5, 6, 7][..], &[4, 7]] {
        let mut history = AddressHistory::new(script.clone(), 0, []);
        let mut view = ChainView::default();
        let mut touched = Changes::All;
        for (n, (above, height, txs)) in readings.iter().enumerate() {
            touched.extend(&history.read_on(*above, *height, txs.clone()));
            history.settle(min_start);
            if !told.contains(&n) {
                continue;
            }
            let rate = Some(3);
            let whole = ChainView::of(&history, min_start, rate);
            let news = view.news(&history, &touched, min_start, rate);
            let sorted = |update: Option<ChainUpdate>| {
                update.map(|mut update| {
                    update.signals.sort_by_key(|(txid, _)| *txid);
                    update.spends.sort_by_key(|(outpoint, _)| *outpoint);
                    update.outputs.sort_by_key(|(outpoint, _)| *outpoint);
                    update
                })
            };
            assert_eq!(sorted(news.clone()), sorted(view.diff(&whole)), "{n}");
            assert_eq!(news.is_none(), n == 5);
            if let Some(news) = news {
                view.apply(&news);
            }
            // What it was before is all that it has beside that.
            view.displaced.clear();
            assert_eq!(view, whole, "{n}");
            touched = Changes::default();
        }
    }
}

#[test]
fn what_spends_the_change_of_the_dead_is_dead() {
    // 2 and 3 spend the same; 4 spends the change of 2, 5 that of 4.
    let change = |n| OutPoint::new(txid(n), 0);
    let input_of = |of: &Txid| match of.to_byte_array()[0] {
        2 | 3 => Some(change(1)),
        4 => Some(change(2)),
        5 => Some(change(4)),
        _ => None,
    };
    let mut view = ChainView {
        height: 10,
        ..ChainView::default()
    };
    let is = |view: &ChainView, n, depth| view.is_impossible(&change(n), depth, input_of);
    assert!(!is(&view, 2, 1) && !is(&view, 4, 1), "nothing is seen");
    let spend = |by, height| SpendSeen { by, height };
    view.spends.insert(change(1), spend(txid(3), None));
    assert!(!is(&view, 2, 1) && !is(&view, 4, 1), "in the mempool");
    view.spends.insert(change(1), spend(txid(3), Some(10)));
    for n in [2, 4, 5] {
        assert!(is(&view, n, 1) && !is(&view, n, 2), "{n}");
    }
    assert!(!is(&view, 3, 1), "that one is there");
    assert!(!is(&view, 9, 1), "and of that one nothing is known");
    view.spends.insert(change(1), spend(txid(2), Some(10)));
    assert!(!is(&view, 2, 1) && !is(&view, 4, 1) && is(&view, 3, 1));
}

/// The same for who knows the first of the two from the chain alone.
#[test]
fn what_the_chain_once_showed_is_remembered() {
    let change = |n| OutPoint::new(txid(n), 0);
    let spent = |of: u8, by: Option<u8>, height| {
        let spend = by.map(|by| SpendSeen {
            by: txid(by),
            height,
        });
        ChainUpdate {
            height: 10,
            spends: vec![(change(of), spend)],
            ..ChainUpdate::default()
        }
    };
    let mut view = ChainView::default();
    let is = |view: &ChainView, depth| view.is_impossible(&change(2), depth, |_| None);
    view.apply(&spent(1, Some(2), Some(10)));
    view.apply(&spent(1, Some(2), None));
    assert!(!is(&view, 1), "it is in the mempool again");
    view.apply(&spent(1, Some(3), None));
    assert!(!is(&view, 1));
    view.apply(&spent(1, Some(3), Some(10)));
    assert!(is(&view, 1) && !is(&view, 2));
    // It is no fact about the chain, so there is no difference, and it is kept with the view.
    let fresh = ChainView {
        displaced: Vec::new(),
        ..view.clone()
    };
    assert_eq!(view.diff(&fresh), None);
    let json = serde_json::to_string(&view).unwrap();
    assert_eq!(serde_json::from_str::<ChainView>(&json).unwrap(), view);
    view.apply(&spent(1, Some(2), Some(10)));
    assert!(!is(&view, 1), "it is back");

    // A server that claims what can not be ends nowhere, and takes no room.
    let mut view = ChainView::default();
    for n in 0..200 {
        view.apply(&spent(n, Some(n + 1), None));
        view.apply(&spent(n, None, None));
    }
    assert_eq!(view.displaced.len(), MAX_DISPLACED);
    view.apply(&spent(200, Some(150), None));
    view.apply(&spent(200, None, None));
    let line = |n| view.is_impossible(&change(n), 1, |_| None);
    assert!(!line(200) && !line(150));
}

#[test]
fn a_conflict_kills_only_with_depth() {
    let input = OutPoint::new(txid(9), 0);
    let mut view = ChainView {
        height: 10,
        ..ChainView::default()
    };
    assert!(!view.is_dead(&txid(1), &input, 1));
    let spend = |by, height| SpendSeen { by, height };
    view.spends.insert(input, spend(txid(2), None));
    assert!(!view.is_dead(&txid(1), &input, 1), "only in the mempool");
    view.spends.insert(input, spend(txid(2), Some(10)));
    assert!(view.is_dead(&txid(1), &input, 1));
    assert!(!view.is_dead(&txid(1), &input, 6), "not deep enough");
    assert!(
        !view.is_dead(&txid(2), &input, 1),
        "it is the one that confirmed"
    );
}
