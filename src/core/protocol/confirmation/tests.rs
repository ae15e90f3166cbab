use super::*;
use crate::protocol::chain_view::OutputSeen;
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, ScriptBuf, Sequence, TxIn, TxOut, Witness};

fn tip(n: u8) -> OutPoint {
    OutPoint::new(Txid::from_byte_array([n; 32]), 0)
}

fn tx(input: OutPoint, sat: u64) -> Transaction {
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: input,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::new(),
        }],
        output: vec![TxOut {
            value: Amount::from_sat(sat),
            script_pubkey: ScriptBuf::new(),
        }],
    }
}

/// A chain at `height` on which the tip is spent so.
fn chain(height: u32, spend: Option<(Txid, Option<u32>)>) -> ChainView {
    let mut view = ChainView {
        height,
        ..ChainView::default()
    };
    if let Some((by, height)) = spend {
        view.spends.insert(tip(9), SpendSeen { by, height });
    }
    view
}

/// Follows the tip, whatever was known of it.
fn follow(watch: &mut ConfirmationWatch, view: &ChainView) {
    let spend = view.spends.get(&tip(9)).copied();
    watch.follow(view, &[(tip(9), spend)]);
}

fn state(watch: &mut ConfirmationWatch, txid: Txid, view: &ChainView) -> WatchState {
    follow(watch, view);
    let watched = watch.all().find(|watched| watched.txid == txid).unwrap();
    watched.state(view)
}

#[test]
fn every_state_is_reached_and_left() {
    let signal = tx(tip(9), 1_000);
    let (id, rival) = (signal.compute_txid(), tip(4).txid);
    let mut watch = ConfirmationWatch::default();
    watch.complete(Round(1), &signal);
    let mut is = |spend, height, wanted| {
        let view = chain(height, spend);
        assert_eq!(state(&mut watch, id, &view), wanted, "{wanted}");
    };
    is(None, 100, WatchState::Signed);
    is(Some((id, None)), 100, WatchState::Mempool);
    let confirmed = WatchState::Confirmed { height: 101 };
    is(Some((id, Some(101))), 101, confirmed);
    is(Some((id, Some(101))), 105, confirmed);
    let last = WatchState::Final { height: 101 };
    is(Some((id, Some(101))), 106, last);
    // A reorganisation, deeper than what counts as final: first gone, then waiting, then higher up.
    is(None, 107, WatchState::ReorgedOut { height: 101 });
    is(Some((id, None)), 107, WatchState::Mempool);
    is(
        Some((id, Some(108))),
        108,
        WatchState::Confirmed { height: 108 },
    );
    // And one that puts another transaction in its place.
    let displaced = |height| WatchState::Conflicted { by: rival, height };
    is(Some((rival, None)), 108, displaced(None));
    is(Some((rival, Some(109))), 109, displaced(Some(109)));
    is(None, 110, WatchState::ReorgedOut { height: 108 });
}

#[test]
fn taken_by_the_backend_is_not_seen_in_the_mempool() {
    let signal = tx(tip(9), 1_000);
    let mut watch = ConfirmationWatch::default();
    assert!(!watch.accepted(&signal.compute_txid()), "not watched");
    watch.complete(Round(1), &signal);
    assert!(watch.accepted(&signal.compute_txid()));
    let view = chain(100, None);
    assert_eq!(
        state(&mut watch, signal.compute_txid(), &view),
        WatchState::Broadcast
    );
}

#[test]
fn what_nobody_gets_onto_the_chain_is_sent_with_every_block() {
    let signal = tx(tip(9), 1_000);
    let id = signal.compute_txid();
    let mut watch = ConfirmationWatch::default();
    let sent = |watch: &mut ConfirmationWatch, height, spend| {
        let view = chain(height, spend);
        follow(watch, &view);
        let due = watch.due(&view);
        assert!(due.iter().all(|tx| *tx == signal));
        (due.len(), watch.counts_blocks(&view))
    };
    watch.signed(Round(1), id, tip(9));
    assert_eq!(sent(&mut watch, 90, None), (0, false), "not complete");
    watch.complete(Round(1), &tx(tip(9), 1_000));
    assert_eq!(sent(&mut watch, 100, None), (0, true));
    assert_eq!(sent(&mut watch, 101, None), (0, true), "others first");
    assert_eq!(sent(&mut watch, 102, None), (1, true));
    assert_eq!(sent(&mut watch, 102, None), (0, true), "once a block");
    assert_eq!(sent(&mut watch, 103, None), (1, true));
    assert_eq!(sent(&mut watch, 104, Some((id, None))), (0, true));
    assert_eq!(sent(&mut watch, 110, Some((id, Some(105)))), (0, false));
    // Long after it was final.
    assert_eq!(sent(&mut watch, 120, None), (0, true));
    assert_eq!(sent(&mut watch, 122, None), (1, true));
    // Displaced: sending it would not help. It is settled when that is.
    let rival = tip(4).txid;
    assert_eq!(sent(&mut watch, 123, Some((rival, Some(123)))), (0, true));
    assert_eq!(sent(&mut watch, 128, Some((rival, Some(123)))), (0, false));
}

/// Three fee variants of one signal, and a transaction of an earlier attempt that never got all signatures.
#[test]
fn a_round_is_as_far_as_the_best_of_its_transactions() {
    let mut watch = ConfirmationWatch::default();
    let rungs = [tx(tip(9), 900), tx(tip(9), 700), tx(tip(9), 100)];
    watch.signed(Round(7), tip(3).txid, tip(9));
    for rung in &rungs {
        watch.complete(Round(7), rung);
    }
    let [first, second, third] = rungs.each_ref().map(Transaction::compute_txid);
    let best = |watch: &ConfirmationWatch, view: &ChainView| {
        let (watched, state) = watch.foremost(Round(7), view).unwrap();
        (watched.txid, state)
    };
    let view = chain(100, None);
    follow(&mut watch, &view);
    assert_eq!(best(&watch, &view), (third, WatchState::Signed));
    let later = chain(102, None);
    assert_eq!(watch.due(&later), [rungs[2].clone()], "it pays most");
    let view = chain(102, Some((first, None)));
    assert_eq!(best(&watch, &view), (first, WatchState::Mempool));
    let view = chain(103, Some((second, Some(103))));
    let confirmed = WatchState::Confirmed { height: 103 };
    assert_eq!(best(&watch, &view), (second, confirmed));
    follow(&mut watch, &view);
    assert_eq!(watch.unknown_spends(&view), [], "each of them was signed");
    let view = chain(103, Some((tip(3).txid, Some(103))));
    assert_eq!(best(&watch, &view), (tip(3).txid, confirmed));
    assert_eq!(watch.of_round(Round(7)).count(), 4);
    assert_eq!(watch.foremost(Round(8), &view).map(|(w, _)| w.txid), None);
}

#[test]
fn a_spend_nobody_signed_is_reported_once() {
    let mut watch = ConfirmationWatch::default();
    let (thief, refund) = (tip(4).txid, tip(5).txid);
    watch.expect(refund);
    let mut unknown = |spend| {
        let view = chain(101, spend);
        follow(&mut watch, &view);
        watch.unknown_spends(&view)
    };
    assert_eq!(unknown(Some((refund, None))), []);
    assert_eq!(unknown(Some((thief, None))), [thief]);
    assert_eq!(unknown(Some((thief, Some(101)))), []);
    // One that is gone again, and one that was explained before anybody looked.
    let mut watch = ConfirmationWatch::default();
    follow(&mut watch, &chain(100, Some((thief, None))));
    follow(&mut watch, &chain(100, None));
    assert_eq!(watch.unknown_spends(&chain(100, None)), []);
    let view = chain(100, Some((thief, None)));
    follow(&mut watch, &view);
    watch.signed(Round(1), thief, tip(9));
    assert_eq!(watch.unknown_spends(&view), []);
}

/// A hundred blocks down there is no way back: what the round was is known still, and nothing of it is looked at.
#[test]
fn what_is_settled_is_remembered_and_not_kept() {
    let mut watch = ConfirmationWatch::default();
    let rungs = [tx(tip(9), 900), tx(tip(9), 700)];
    for rung in &rungs {
        watch.complete(Round(7), rung);
    }
    let [loser, winner] = rungs.each_ref().map(Transaction::compute_txid);
    let view = chain(101 + SETTLED_DEPTH - 2, Some((winner, Some(101))));
    follow(&mut watch, &view);
    assert_eq!((watch.signed.len(), watch.settled.len()), (2, 0));
    let view = chain(101 + SETTLED_DEPTH - 1, Some((winner, Some(101))));
    follow(&mut watch, &view);
    assert_eq!((watch.signed.len(), watch.settled.len()), (0, 1));
    // Whoever tells of them again does not bring them back.
    watch.complete(Round(7), &rungs[1]);
    assert!(watch.signed.is_empty());
    let (watched, state) = watch.foremost(Round(7), &view).unwrap();
    assert_eq!((watched.txid, watched.is_complete()), (winner, true));
    assert_eq!(state, WatchState::Final { height: 101 });
    assert!(watch.knows(&winner) && !watch.knows(&loser));
    assert_eq!(watch.unknown_spends(&view), []);
    assert!(!watch.counts_blocks(&view) && watch.due(&view).is_empty());
}

/// Every rung has a refund of its change: of what is settled one may be used still, until its change is spent.
#[test]
fn refunds_are_forgotten_with_the_change_they_spend() {
    let mut watch = ConfirmationWatch::default();
    let rungs = [tx(tip(9), 900), tx(tip(9), 700)];
    let [loser, winner] = rungs.each_ref().map(Transaction::compute_txid);
    let refunds = [tip(5).txid, tip(6).txid];
    for ((rung, refund), of) in rungs.iter().zip(refunds).zip([loser, winner]) {
        watch.complete(Round(7), rung);
        watch.expect_refund(refund, of);
    }
    let deep = 101 + SETTLED_DEPTH - 1;
    let change = OutPoint::new(winner, 0);
    let mut view = chain(deep - 1, Some((winner, Some(101))));
    let lies = OutputSeen {
        value_sat: 700,
        height: Some(101),
    };
    view.outputs.insert(change, lies);
    follow(&mut watch, &view);
    assert!(refunds.iter().all(|refund| watch.knows(refund)));
    view.height = deep;
    follow(&mut watch, &view);
    assert!(!watch.knows(&refunds[0]) && watch.knows(&refunds[1]));
    // The next signal is signed; it, or the refund in its place, spends the change, and is settled.
    let next = tx(change, 600);
    for by in [next.compute_txid(), refunds[1]] {
        let json = serde_json::to_string(&watch).unwrap();
        let mut watch: ConfirmationWatch = serde_json::from_str(&json).unwrap();
        watch.complete(Round(8), &next);
        let height = Some(deep + 1);
        let mut view = view.clone();
        view.outputs.clear();
        view.spends.insert(change, SpendSeen { by, height });
        for (blocks, known) in [(1, true), (SETTLED_DEPTH, by == refunds[1])] {
            view.height = deep + blocks;
            follow(&mut watch, &view);
            assert_eq!(watch.knows(&refunds[1]), known);
            assert!(watch.unknown_spends(&view).is_empty());
        }
        assert!(watch.refunds.is_empty() && watch.signed.is_empty());
    }
}
