use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{ScriptBuf, Sequence, TxIn, TxOut, Witness};
use proptest::prelude::*;

use super::*;

const TIP_HEIGHT: u32 = 200;
const MIN_START: Amount = Amount::from_sat(1000);

fn beacon() -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x51, 0x20][..], &[7; 32]].concat())
}

fn elsewhere() -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x00, 0x14][..], &[9; 20]].concat())
}

fn to_beacon(sat: u64) -> TxOut {
    TxOut {
        value: Amount::from_sat(sat),
        script_pubkey: beacon(),
    }
}

fn to_elsewhere(sat: u64) -> TxOut {
    TxOut {
        value: Amount::from_sat(sat),
        script_pubkey: elsewhere(),
    }
}

fn announce(byte: u8) -> TxOut {
    TxOut {
        value: Amount::ZERO,
        script_pubkey: ScriptBuf::new_op_return([byte; 32]),
    }
}

fn bytes(byte: u8) -> SignalBytes {
    SignalBytes::from_bytes([byte; 32])
}

/// An outpoint that is none of the address's.
fn outside(byte: u8) -> OutPoint {
    OutPoint::new(Txid::from_byte_array([byte; 32]), 0)
}

fn spend(inputs: &[OutPoint], outputs: &[TxOut]) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: inputs
            .iter()
            .map(|&previous_output| TxIn {
                previous_output,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            })
            .collect(),
        output: outputs.to_vec(),
    }
}

/// A history under construction.
#[derive(Default, Clone)]
struct Chain(Vec<AddressTx>);

impl Chain {
    fn add(&mut self, height: Option<u32>, tx: Transaction) -> Txid {
        let txid = tx.compute_txid();
        self.0.push(AddressTx {
            tx: tx.into(),
            height,
        });
        txid
    }

    /// A payment from outside to the address.
    fn deposit(&mut self, byte: u8, height: Option<u32>, sat: u64) -> OutPoint {
        let tx = spend(&[outside(byte)], &[to_elsewhere(5), to_beacon(sat)]);
        OutPoint::new(self.add(height, tx), 1)
    }

    /// A signal with change.
    fn signal(&mut self, tip: OutPoint, height: Option<u32>, byte: u8, sat: u64) -> OutPoint {
        let tx = spend(&[tip], &[to_beacon(sat), announce(byte)]);
        OutPoint::new(self.add(height, tx), 0)
    }

    fn history(&self) -> AddressHistory {
        AddressHistory::new(beacon(), TIP_HEIGHT, self.0.clone())
    }

    fn tip(&self, depth: u32) -> Tip {
        self.history().tip(MIN_START, depth)
    }
}

fn output(outpoint: OutPoint, sat: u64, height: Option<u32>) -> BeaconOutput {
    BeaconOutput {
        outpoint,
        value: Amount::from_sat(sat),
        height,
    }
}

fn ready(outpoint: OutPoint, sat: u64, height: u32) -> Tip {
    Tip::Ready {
        output: output(outpoint, sat, Some(height)),
        confirmations: TIP_HEIGHT - height + 1,
    }
}

#[test]
fn an_address_without_funds() {
    assert_eq!(
        Chain::default().tip(1),
        Tip::NoFunds {
            too_small: Amount::ZERO
        }
    );
    let mut chain = Chain::default();
    chain.deposit(1, Some(100), 999);
    chain.deposit(2, None, 500);
    assert_eq!(
        chain.tip(1),
        Tip::NoFunds {
            too_small: Amount::from_sat(1499)
        }
    );
}

#[test]
fn a_chain_starts_at_the_oldest_output_that_is_large_enough() {
    let mut chain = Chain::default();
    chain.deposit(1, None, 9000);
    chain.deposit(2, Some(150), 8000);
    let oldest = chain.deposit(3, Some(100), 1000);
    chain.deposit(4, Some(90), 999);
    assert_eq!(chain.tip(1), ready(oldest, 1000, 100));
    assert_eq!(chain.tip(101), ready(oldest, 1000, 100));
    assert_eq!(
        chain.tip(102),
        Tip::Unconfirmed {
            output: output(oldest, 1000, Some(100)),
            confirmations: 101,
            needed: 102
        }
    );
}

#[test]
fn outputs_of_one_block_are_ordered_by_txid_then_number() {
    let mut chain = Chain::default();
    let a = chain.deposit(1, Some(100), 2000);
    let b = chain.deposit(2, Some(100), 2000);
    assert_eq!(chain.tip(1), ready(a.min(b), 2000, 100));

    let mut chain = Chain::default();
    let two = spend(&[outside(1)], &[to_beacon(1500), to_beacon(2500)]);
    let txid = chain.add(Some(100), two);
    assert_eq!(chain.tip(1), ready(OutPoint::new(txid, 0), 1500, 100));
}

#[test]
fn a_deposit_in_the_mempool_is_not_a_tip() {
    let mut chain = Chain::default();
    let deposit = chain.deposit(1, None, 5000);
    for depth in [0, 1] {
        assert_eq!(
            chain.tip(depth),
            Tip::Unconfirmed {
                output: output(deposit, 5000, None),
                confirmations: 0,
                needed: 1
            }
        );
    }
}

#[test]
fn the_tip_follows_the_change_even_below_the_start_minimum() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 2000);
    chain.deposit(2, Some(101), 50_000);
    let first = chain.signal(start, Some(110), 1, 1500);
    let second = chain.signal(first, Some(120), 2, 600);
    assert_eq!(chain.tip(1), ready(second, 600, 120));
}

#[test]
fn an_unconfirmed_spender_makes_the_tip_pending() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 5000);
    let first = chain.signal(start, Some(110), 1, 4000);
    chain.deposit(2, Some(90), 500);
    let second = chain.signal(first, None, 2, 3000);
    assert_eq!(
        chain.tip(1),
        Tip::Pending {
            output: output(first, 4000, Some(110)),
            spent_by: second.txid,
            confirmations: 0,
            needed: 1
        }
    );
}

#[test]
fn a_new_chain_starts_only_after_the_old_one_ended_deep_enough() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 2000);
    let next = chain.deposit(2, Some(105), 7000);
    let last = spend(&[start], &[announce(1)]);
    let ended = |height, depth| {
        let mut chain = chain.clone();
        let txid = chain.add(height, last.clone());
        (chain.tip(depth), txid)
    };
    for (height, confirmations, needed) in [(None, 0, 1), (Some(199), 2, 3)] {
        let (tip, spent_by) = ended(height, needed);
        assert_eq!(
            tip,
            Tip::Pending {
                output: output(start, 2000, Some(100)),
                spent_by,
                confirmations,
                needed
            }
        );
    }
    assert_eq!(ended(Some(198), 3).0, ready(next, 7000, 105));
    assert_eq!(ended(Some(199), 1).0, ready(next, 7000, 105));
}

#[test]
fn foreign_spends_move_the_tip_and_are_reported() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 9000);
    let known = chain.signal(start, Some(110), 1, 8000);
    let foreign = spend(&[known], &[to_elsewhere(1000), to_beacon(6000)]);
    let foreign = chain.add(Some(120), foreign);
    let tip = OutPoint::new(foreign, 1);
    assert_eq!(chain.tip(1), ready(tip, 6000, 120));

    let hostile = chain.signal(tip, None, 66, 5000).txid;
    let history = chain.history();
    assert_eq!(
        history.unknown_spends(&BTreeSet::from([known.txid])),
        [
            UnknownSpend {
                txid: foreign,
                height: Some(120),
                signal: None
            },
            UnknownSpend {
                txid: hostile,
                height: None,
                signal: Some(bytes(66))
            },
        ]
    );
    let all = BTreeSet::from([known.txid, foreign, hostile]);
    assert_eq!(history.unknown_spends(&all), []);
}

#[test]
fn a_spender_of_two_beacon_outputs_is_walked_once() {
    let mut chain = Chain::default();
    let a = chain.deposit(1, Some(100), 5000);
    let b = chain.deposit(2, Some(101), 5000);
    let joined = spend(&[b, a], &[to_beacon(9000), announce(1)]);
    let joined = chain.add(Some(110), joined);
    assert_eq!(chain.tip(1), ready(OutPoint::new(joined, 0), 9000, 110));
    assert_eq!(chain.history().signals().len(), 1);

    // The joined chain ends: both starts are used up, and nothing is left.
    let end = spend(&[OutPoint::new(joined, 0)], &[announce(2)]);
    chain.add(Some(120), end);
    assert_eq!(
        chain.tip(1),
        Tip::NoFunds {
            too_small: Amount::ZERO
        }
    );
}

#[test]
fn only_spends_of_the_address_are_signals() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 9000);
    // An inbound payment with an OP_RETURN is none, though it pays the address.
    let inbound = spend(&[outside(9)], &[to_beacon(2000), announce(99)]);
    chain.add(Some(101), inbound);
    // Nor is a spend whose OP_RETURN is not last.
    let not_last = spend(&[start], &[announce(98), to_beacon(8000)]);
    let tip = OutPoint::new(chain.add(Some(102), not_last), 1);
    // One of another form than ours is.
    let with_value = TxOut {
        value: Amount::from_sat(7),
        ..announce(3)
    };
    let odd = spend(&[outside(8), tip], &[to_elsewhere(1), with_value]);
    let odd = chain.add(Some(150), odd);
    let second = chain.deposit(2, Some(120), 9000);
    let pending = chain.signal(second, None, 4, 8000).txid;

    assert_eq!(
        chain.history().signals(),
        [
            SeenSignal {
                txid: odd,
                height: Some(150),
                signal: bytes(3)
            },
            SeenSignal {
                txid: pending,
                height: None,
                signal: bytes(4)
            },
        ]
    );
    let other = AddressHistory::new(elsewhere(), TIP_HEIGHT, chain.0);
    assert_eq!(other.signals(), []);
}

#[test]
fn outputs_name_their_spenders() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 9000);
    let change = chain.signal(start, Some(110), 1, 8000);
    let pending = chain.signal(change, None, 2, 7000);
    let expected = [
        (
            output(start, 9000, Some(100)),
            Some((change.txid, Some(110))),
        ),
        (output(change, 8000, Some(110)), Some((pending.txid, None))),
        (output(pending, 7000, None), None),
    ]
    .map(|(output, spent_by)| AddressOutput { output, spent_by });
    assert_eq!(chain.history().outputs(), expected);
}

#[test]
fn copies_count_once_and_conflicts_with_the_chain_not_at_all() {
    let mut chain = Chain::default();
    let start = chain.deposit(1, Some(100), 9000);
    let confirmed = spend(&[start], &[to_beacon(8000), announce(1)]);
    chain.add(None, confirmed.clone());
    let replaced = chain.signal(start, None, 2, 8500).txid;
    let txid = chain.add(Some(110), confirmed);
    assert_ne!(txid, replaced);
    assert_eq!(chain.tip(1), ready(OutPoint::new(txid, 0), 8000, 110));
    assert_eq!(chain.history().signals().len(), 1);
    assert_eq!(chain.history().outputs().len(), 2);
}

#[test]
fn confirmations_count_from_one_and_never_overflow() {
    let history = AddressHistory::new(beacon(), TIP_HEIGHT, []);
    assert_eq!(history.confirmations(None), 0);
    assert_eq!(history.confirmations(Some(TIP_HEIGHT)), 1);
    assert_eq!(history.confirmations(Some(TIP_HEIGHT + 5)), 1);
    assert_eq!(history.confirmations(Some(0)), TIP_HEIGHT + 1);
    let history = AddressHistory::new(beacon(), u32::MAX, []);
    assert_eq!(history.confirmations(Some(0)), u32::MAX);
}

/// One step of a made-up history: what is spent (an earlier beacon output, if any), what is paid back,
/// whether it signals, how many blocks later it confirms (`None`: not).
type Step = (Option<prop::sample::Index>, bool, bool, u64, Option<u32>);

fn made_up(steps: &[Step]) -> Chain {
    let mut chain = Chain::default();
    let mut beacon_outputs: Vec<(OutPoint, Option<u32>)> = Vec::new();
    for (i, (spends, pays_back, signals, sat, delay)) in steps.iter().enumerate() {
        let (input, parent_height) = match spends {
            Some(index) if !beacon_outputs.is_empty() => {
                beacon_outputs.remove(index.index(beacon_outputs.len()))
            }
            _ => (outside(i as u8), Some(100)),
        };
        let height = parent_height
            .zip(*delay)
            .map(|(height, delay)| height + delay);
        let mut outputs = vec![to_elsewhere(i as u64)];
        if *pays_back {
            outputs.push(to_beacon(*sat));
        }
        if *signals {
            outputs.push(announce(i as u8));
        }
        let txid = chain.add(height, spend(&[input], &outputs));
        if *pays_back {
            beacon_outputs.push((OutPoint::new(txid, 1), height));
        }
    }
    chain
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        any::<Option<prop::sample::Index>>(),
        prop::bool::weighted(0.8),
        any::<bool>(),
        500_u64..3000,
        prop::option::weighted(0.8, 0_u32..30),
    );
    prop::collection::vec(step, 0..14)
}

proptest! {
    #[test]
    fn the_order_given_does_not_matter(
        (given, shuffled) in steps().prop_flat_map(|steps| {
            let chain = made_up(&steps);
            (Just(chain.0.clone()), Just(chain.0).prop_shuffle())
        }),
        depth in 0_u32..4,
    ) {
        let a = AddressHistory::new(beacon(), TIP_HEIGHT, given);
        let b = AddressHistory::new(beacon(), TIP_HEIGHT, shuffled);
        prop_assert_eq!(a.outputs(), b.outputs());
        prop_assert_eq!(a.signals(), b.signals());
        prop_assert_eq!(a.tip(MIN_START, depth), b.tip(MIN_START, depth));
        prop_assert_eq!(
            a.unknown_spends(&BTreeSet::new()),
            b.unknown_spends(&BTreeSet::new())
        );
    }

    /// A tip that is ready is confirmed and unspent; while one is pending or ready, whatever the mempool
    /// adds elsewhere does not move it.
    #[test]
    fn a_ready_tip_is_unspent_and_the_mempool_does_not_move_it(steps in steps(), sat in 1000_u64..9000) {
        let mut chain = made_up(&steps);
        let before = chain.tip(1);
        if let Tip::Ready { output, confirmations } = before {
            prop_assert!(confirmations >= 1 && output.height.is_some());
            let outputs = chain.history().outputs();
            let found = outputs.iter().find(|found| found.output == output).unwrap();
            prop_assert_eq!(found.spent_by, None);
        }
        if !matches!(before, Tip::NoFunds { .. } | Tip::Unconfirmed { .. }) {
            chain.deposit(200, None, sat);
            prop_assert_eq!(chain.tip(1), before);
            // Nor does a later deposit, once confirmed.
            chain.deposit(201, Some(TIP_HEIGHT), sat);
            if let Tip::Ready { output, .. } = before && output.height < Some(TIP_HEIGHT) {
                prop_assert_eq!(chain.tip(1), before);
            }
        }
    }
}

/// Top-ups are what a signal may spend beside the tip: confirmed, unspent, most valuable first, and no more
/// than asked for, however many small payments came.
#[test]
fn top_ups_are_the_most_valuable_spendable_outputs_beside_the_tip() {
    let mut chain = Chain::default();
    let tip = chain.deposit(1, Some(90), 5_000);
    let small = chain.deposit(2, Some(91), 1_500);
    let large = chain.deposit(3, Some(95), 9_000);
    chain.deposit(4, None, 50_000);
    let spent = chain.deposit(5, Some(92), 7_000);
    chain.signal(spent, None, 9, 6_000);
    let dust = chain.deposit(6, Some(80), 330);
    assert_eq!(chain.tip(1), ready(tip, 5_000, 90));
    let top_ups = |most| chain.history().top_ups(&tip, most);
    let expected = [
        output(large, 9_000, Some(95)),
        output(small, 1_500, Some(91)),
        output(dust, 330, Some(80)),
    ];
    assert_eq!(top_ups(16), expected);
    assert_eq!(top_ups(2), expected[..2]);
    assert_eq!(top_ups(0), []);
}

/// The same transactions with another fate for all that is not in blocks up to `above`: dropped, in the mempool, or in
/// another block.
fn otherwise(txs: &[AddressTx], above: u32, fates: &[u8]) -> Vec<AddressTx> {
    let mut fates = fates.iter().cycle();
    let fate = |entry: &AddressTx| {
        let stays = entry.height.is_some_and(|height| height <= above);
        let height = match fates.next().unwrap() % 4 {
            _ if stays => entry.height,
            0 => return None,
            1 => None,
            2 => entry.height,
            _ => Some(above + 1 + entry.height.unwrap_or(7) % 40),
        };
        Some(AddressTx {
            tx: entry.tx.clone(),
            height,
        })
    };
    txs.iter().filter_map(fate).collect()
}

proptest! {
    /// Reading on gives what reading all gives, whatever became of what is not settled; and the way to the tip goes on
    /// from where it was settled before.
    #[test]
    fn what_is_read_on_is_what_is_read_anew(
        steps in steps(),
        readings in prop::collection::vec(
            (100_u32..400, 1_u32..300, prop::collection::vec(any::<u8>(), 1..14)),
            1..4
        ),
        depth in 0_u32..110,
    ) {
        let all = made_up(&steps).0;
        let mut history = AddressHistory::new(beacon(), 250, all.clone());
        let mut txs = all.clone();
        let mut touched = Changes::default();
        let before = history.clone();
        for (above, blocks, fates) in readings {
            history.settle(MIN_START);
            let old = txs.iter().filter(|entry| entry.height.is_some_and(|at| at <= above));
            let kept: Vec<AddressTx> = old.cloned().collect();
            let is_kept = |entry: &&AddressTx| kept.iter().any(|kept| kept.tx == entry.tx);
            let open: Vec<AddressTx> = all.iter().filter(|entry| !is_kept(entry)).cloned().collect();
            let mut newer = otherwise(&open, above, &fates);
            newer.retain(|entry| entry.height.is_none_or(|height| height > above));
            let tip_height = above + blocks;
            touched.extend(&history.read_on(Some(above), tip_height, newer.clone()));
            txs = [kept, newer].concat();
            let anew = AddressHistory::new(beacon(), tip_height, txs.clone());
            prop_assert_eq!(&history, &anew);
            prop_assert_eq!(history.outputs(), anew.outputs());
            prop_assert_eq!(history.signals(), anew.signals());
            let unspent: Vec<_> = anew.outputs().into_iter().filter(|o| o.spent_by.is_none()).collect();
            prop_assert_eq!(history.unspent().collect::<Vec<_>>(), unspent.iter().map(|o| o.output).collect::<Vec<_>>());
            for seen in anew.outputs() {
                prop_assert_eq!(history.output(&seen.output.outpoint), Some(seen));
            }
            for depth in [1, depth] {
                prop_assert_eq!(history.tip(MIN_START, depth), anew.tip(MIN_START, depth));
            }
        }
        // What is not said to be touched is as it was.
        let Changes::Of(txids, outpoints) = touched else {
            panic!("only a part was read");
        };
        for entry in &all {
            let txid = entry.tx.compute_txid();
            let outpoint = OutPoint::new(txid, 1);
            prop_assert!(txids.contains(&txid) || before.signal(&txid) == history.signal(&txid));
            prop_assert!(outpoints.contains(&outpoint) || before.output(&outpoint) == history.output(&outpoint));
        }
    }
}

/// The way to the tip is gone once: with ten thousand signals behind it, a look takes only the unsettled ones.
#[test]
fn a_settled_way_to_the_tip_is_not_gone_again() {
    let mut chain = Chain::default();
    let mut tip = chain.deposit(1, Some(1), 1_000_000);
    for height in 2..=1_000 {
        tip = chain.signal(tip, Some(height), 2, 1_000_000 - u64::from(height));
    }
    let mut history = AddressHistory::new(beacon(), 1_000, chain.0.clone());
    let reached = |history: &AddressHistory| {
        let mut links = 0;
        let found = history.find_tip(MIN_START, 1, |_| links += 1);
        assert!(matches!(found, Some(Tip::Ready { output, .. }) if output.outpoint == tip));
        links
    };
    assert_eq!(reached(&history), 1_000);
    history.settle(MIN_START);
    assert_eq!(reached(&history), 100);
    assert_eq!(
        history.tip(Amount::from_sat(1), 1),
        history.tip(MIN_START, 1)
    );
    // It stays while what it is based on does.
    let newest = chain.0.iter().filter(|entry| entry.height > Some(995));
    history.read_on(Some(995), 1_000, newest.cloned());
    assert_eq!(reached(&history), 100);
    let many = chain.0.iter().filter(|entry| entry.height > Some(800));
    history.read_on(Some(800), 1_000, many.cloned());
    assert_eq!(reached(&history), 1_000);
}
