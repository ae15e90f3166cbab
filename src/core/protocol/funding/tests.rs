use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{ScriptBuf, Transaction, TxIn, TxOut, Txid};
use proptest::prelude::*;

use super::*;
use crate::beacon::history::AddressTx;
use crate::beacon::signal::{SEQUENCE, build_signal};
use crate::hash::SignalBytes;

const RATE: FeeRate = FeeRate::from_sat_per_vb_u32(2);

/// Terms with a ceiling of 50 sat/vB.
const RULES: FundingRules = FundingRules {
    min_start: Amount::from_sat(5_550),
    depth: 1,
    fee_rate: RATE,
};

fn script() -> ScriptBuf {
    let mut bytes = vec![0x51, 0x20];
    bytes.extend([1; 32]);
    ScriptBuf::from_bytes(bytes)
}

/// A payment to the beacon, the `n`th.
fn payment(n: u8, sat: u64, height: Option<u32>) -> AddressTx {
    let tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([n; 32]), 0),
            sequence: SEQUENCE,
            ..TxIn::default()
        }],
        output: vec![TxOut {
            value: Amount::from_sat(sat),
            script_pubkey: script(),
        }],
    };
    AddressTx {
        tx: tx.into(),
        height,
    }
}

fn outpoint(of: &AddressTx) -> OutPoint {
    OutPoint::new(of.tx.compute_txid(), 0)
}

fn history(txs: &[AddressTx]) -> AddressHistory {
    AddressHistory::new(script(), 100, txs.iter().cloned())
}

fn funding(txs: &[AddressTx]) -> Funding {
    Funding::of(&history(txs), RULES, false)
}

/// The signal that spends what is planned.
fn spending(plan: &SpendPlan, height: Option<u32>) -> AddressTx {
    let signal = SignalBytes::from_bytes([9; 32]);
    let built = build_signal(&plan.inputs, &script(), signal, RATE).unwrap();
    AddressTx {
        tx: built.tx.into(),
        height,
    }
}

fn sat(amount: Amount) -> u64 {
    amount.to_sat()
}

#[test]
fn an_empty_address_awaits_what_ten_rounds_need() {
    let empty = funding(&[]);
    assert_eq!(empty.state, FundingState::Awaiting);
    assert_eq!(
        (empty.runway, empty.tip, empty.next.as_ref()),
        (0, None, None)
    );
    // 9 signals of 154 vB and a last one, which needs no change, at 2 sat/vB: less than what starts a chain.
    assert_eq!(sat(funding_needed(10, RATE).unwrap()), 9 * 308 + 330);
    let request = empty.request(10).unwrap();
    assert_eq!((sat(request.needed), sat(request.send)), (5_550, 5_550));
    // 25 rounds need more than that.
    let request = empty.request(25).unwrap();
    assert_eq!(
        sat(request.send),
        24 * 308 + 330,
        "the last spends change, which is no dust"
    );
    assert_eq!(sat(request.needed), 24 * 308 + 330);
    assert_eq!(sat(empty.request(0).unwrap().send), 0);
}

#[test]
fn a_payment_is_seen_then_confirmed_then_spent() {
    let seen = funding(&[payment(1, 10_000, None)]);
    assert_eq!(seen.state, FundingState::Seen);
    assert_eq!((sat(seen.confirmed), sat(seen.unconfirmed)), (0, 10_000));
    assert_eq!(seen.next, None, "nothing spends what is not confirmed");
    assert_eq!(seen.request(10).unwrap().send, Amount::ZERO, "it will do");

    let paid = payment(1, 10_000, Some(90));
    let confirmed = funding(std::slice::from_ref(&paid));
    assert_eq!(confirmed.state, FundingState::Confirmed);
    let next = confirmed.next.clone().unwrap();
    assert_eq!(next.inputs[0].outpoint, outpoint(&paid));
    assert_eq!((sat(next.fee), next.change.map(sat)), (308, Some(9_692)));
    // (10 000 - 638) / 308 + 1 with change, and one without.
    assert_eq!(confirmed.runway, 32);

    // Its change in the mempool: the next signal waits for it.
    let spent = spending(&next, None);
    let waiting = funding(&[paid.clone(), spent]);
    assert_eq!(waiting.state, FundingState::Seen);
    assert_eq!(waiting.runway, 31);
    let spent = spending(&next, Some(95));
    let after = funding(&[paid, spent]);
    assert_eq!((after.state, after.runway), (FundingState::Confirmed, 31));
}

#[test]
fn the_last_signal_leaves_the_address_spent() {
    let paid = payment(1, 5_550, Some(90));
    let expensive = FundingRules {
        fee_rate: FeeRate::from_sat_per_vb_u32(50),
        ..RULES
    };
    let before = Funding::of(&history(std::slice::from_ref(&paid)), expensive, false);
    assert_eq!((before.state, before.runway), (FundingState::Confirmed, 1));
    let last = before.next.unwrap();
    assert_eq!((sat(last.fee), last.change), (5_550, None));
    let signal = build_signal(
        &last.inputs,
        &script(),
        SignalBytes::from_bytes([9; 32]),
        expensive.fee_rate,
    );
    let spend = AddressTx {
        tx: signal.unwrap().tx.into(),
        height: Some(95),
    };
    let after = Funding::of(&history(&[paid, spend]), expensive, false);
    assert_eq!((after.state, after.runway), (FundingState::Spent, 0));
    assert_eq!(sat(after.request(1).unwrap().send), 5_550);
}

#[test]
fn dust_neither_blocks_nor_counts_and_a_top_up_does() {
    // Dust came first, and is older than what starts the chain.
    let txs = [
        payment(1, 200, Some(10)),
        payment(2, 1_000, Some(20)),
        payment(3, 6_000, Some(30)),
        payment(4, 3_000, Some(40)),
    ];
    let funding = funding(&txs);
    assert_eq!(funding.state, FundingState::Confirmed);
    let next = funding.next.clone().unwrap();
    let inputs: Vec<_> = next.inputs.iter().map(|input| input.outpoint).collect();
    let expected = [&txs[2], &txs[3], &txs[1]].map(outpoint);
    assert_eq!(
        inputs, expected,
        "the tip, then top-ups, the most valuable first"
    );
    assert_eq!(sat(funding.dust), 200);
    assert_eq!(sat(funding.confirmed), 10_200);
    // 3 inputs: 269 vB; then one after the other from 10 000 - 538.
    assert_eq!(sat(next.fee), 538);
    assert_eq!(
        funding.runway,
        1 + rounds_of_one(Amount::from_sat(9_462), RATE)
    );
}

#[test]
fn payments_that_start_nothing_are_short_and_count_with_one_that_does() {
    let txs = [payment(1, 3_000, Some(10)), payment(2, 3_000, Some(20))];
    let short = funding(&txs);
    assert_eq!((short.state, short.runway), (FundingState::Short, 0));
    let request = short.request(10).unwrap();
    assert_eq!(
        sat(request.send),
        5_550,
        "it starts the chain; the others top it up"
    );
    let more = short.request(40).unwrap();
    let (whole, alone) = (sat(more.send), sat(funding(&[]).request(40).unwrap().send));
    assert!(whole < alone, "what is there counts: {whole} < {alone}");

    let mut paid = txs.to_vec();
    paid.push(payment(3, whole, Some(90)));
    assert!(funding(&paid).runway >= 40);
}

#[test]
fn a_tip_that_is_too_small_is_short_until_a_top_up_confirms() {
    // The change of signals: a tip of any value.
    let start = payment(1, 5_550, Some(10));
    let costly = FundingRules {
        fee_rate: FeeRate::from_sat_per_vb_u32(33),
        ..RULES
    };
    let at = |txs: &[AddressTx]| Funding::of(&history(txs), costly, false);
    let next = at(std::slice::from_ref(&start)).next.unwrap();
    assert_eq!((sat(next.fee), next.change.map(sat)), (5_082, Some(468)));
    let signal = build_signal(
        &next.inputs,
        &script(),
        SignalBytes::from_bytes([9; 32]),
        costly.fee_rate,
    );
    let spend = AddressTx {
        tx: signal.unwrap().tx.into(),
        height: Some(50),
    };
    let mut txs = vec![start, spend];
    let short = at(&txs);
    assert_eq!((short.state, short.runway), (FundingState::Short, 0));
    let send = short.request(3).unwrap().send;
    txs.push(payment(2, sat(send), None));
    assert_eq!(at(&txs).state, FundingState::Seen);
    txs.pop();
    txs.push(payment(2, sat(send), Some(99)));
    let topped = at(&txs);
    assert_eq!((topped.state, topped.runway), (FundingState::Confirmed, 3));
    assert_eq!(topped.next.unwrap().inputs.len(), 2);
    txs.pop();
    txs.push(payment(2, sat(send) - 1, Some(99)));
    assert_eq!(at(&txs).runway, 2, "one satoshi less does not do");
}

#[test]
fn shares_of_any_number_of_members_pay_what_was_asked_for() {
    for members in [2_u8, 3, 7, 20] {
        for rounds in [1, 10, 52, 365] {
            let share = funding(&[]).share(rounds, members.into()).unwrap();
            assert!(share >= RULES.min_start, "each may be the first");
            let txs: Vec<_> = (0..members)
                .map(|n| payment(n.saturating_add(1), sat(share), Some(u32::from(n))))
                .collect();
            let paid = funding(&txs);
            assert!(paid.runway >= rounds, "{members} members, {rounds} rounds");
        }
    }
    // 3 650 rounds among four: the fees of all, three further inputs, a quarter each.
    let share = funding(&[]).share(3_650, 4).unwrap();
    assert_eq!(sat(share), (3_649 * 308_u64 + 330 + 3 * 115).div_ceil(4));
}

#[test]
fn payments_are_followed_there_and_back() {
    let mut watch = FundingWatch::default();
    let mut observe = |txs: &[AddressTx]| {
        let moved = watch.observe(&history(txs), &Changes::All, RULES);
        let moves: Vec<_> = moved.iter().map(|m| (m.outpoint, m.from, m.to)).collect();
        (moves, watch.has_lapsed())
    };
    use PaymentState::{Confirmed, Lapsed, Seen, Short, Spent};
    let (a, b) = (payment(1, 9_000, None), payment(2, 400, Some(50)));
    let (at_a, at_b) = (outpoint(&a), outpoint(&b));
    assert_eq!(
        observe(std::slice::from_ref(&a)),
        (vec![(at_a, None, Seen)], false)
    );
    assert_eq!(
        observe(std::slice::from_ref(&a)),
        (vec![], false),
        "no news"
    );
    // Gone from the mempool; then there again, in a block.
    assert_eq!(observe(&[]), (vec![(at_a, Some(Seen), Lapsed)], true));
    let a = AddressTx {
        height: Some(60),
        ..a
    };
    let (moves, lapsed) = observe(std::slice::from_ref(&a));
    assert_eq!(
        (moves, lapsed),
        (vec![(at_a, Some(Lapsed), Confirmed)], false)
    );
    // 400 sat are worth an input of 115 beside the tip.
    assert_eq!(
        observe(&[a.clone(), b.clone()]).0,
        [(at_b, None, Confirmed)]
    );
    let plan = funding(&[a.clone(), b.clone()]).next.unwrap();
    let spend = spending(&plan, Some(70));
    let all = [a.clone(), b.clone(), spend];
    let moved: std::collections::BTreeSet<_> =
        observe(&all).0.into_iter().map(|m| m.2 as u8).collect();
    assert_eq!(moved, [Spent as u8].into(), "and the change is no payment");
    // A reorg: the signal is gone, and one payment with it.
    let (moves, lapsed) = observe(&[b]);
    assert!(moves.contains(&(at_a, Some(Spent), Lapsed)), "{moves:?}");
    assert!(
        moves.contains(&(at_b, Some(Spent), Short)),
        "alone it starts nothing"
    );
    assert!(lapsed);
    assert_eq!(
        Funding::of(&history(&[]), RULES, lapsed).state,
        FundingState::Lapsed
    );
}

#[test]
fn thousands_of_payments_are_bounded() {
    let mut watch = FundingWatch::default();
    let txs: Vec<_> = (0..1_500_u32)
        .map(|n| {
            let mut paid = payment(1, 400, Some(10));
            std::sync::Arc::make_mut(&mut paid.tx).input[0]
                .previous_output
                .vout = n;
            paid
        })
        .collect();
    let moved = watch.observe(&history(&txs), &Changes::All, RULES);
    assert_eq!(moved.len(), MAX_PAYMENTS);
    assert_eq!(watch.payments.len(), MAX_PAYMENTS);
    let dusty = funding(&txs);
    assert_eq!((dusty.state, dusty.runway), (FundingState::Short, 0));
}

#[test]
fn rates_beyond_all_bitcoin_are_errors() {
    let rules = FundingRules {
        fee_rate: FeeRate::MAX,
        ..RULES
    };
    let funding = Funding::of(&history(&[]), rules, false);
    assert!(funding.request(1).is_err());
    assert!(funding.share(1, 3).is_err());
}

proptest! {
    #[test]
    fn what_is_asked_for_is_enough_and_is_not_too_much(
        values in prop::collection::vec(1_u64..40_000, 0..8),
        rate in 1_u32..50,
        rounds in 1_u32..120,
    ) {
        let rules = FundingRules { fee_rate: FeeRate::from_sat_per_vb_u32(rate), ..RULES };
        let mut txs: Vec<_> = (1_u8..).zip(&values)
            .map(|(n, value)| payment(n, *value, Some(u32::from(n))))
            .collect();
        let before = Funding::of(&history(&txs), rules, false);
        let request = before.request(rounds).unwrap();
        prop_assert_eq!(before.runway >= rounds, request.send == Amount::ZERO);
        if request.send > Amount::ZERO {
            prop_assert!(request.send >= DUST_LIMIT);
            // Later than all others, so that it is the tip only if none of them is.
            txs.push(payment(200, sat(request.send), Some(99)));
            let after = Funding::of(&history(&txs), rules, false);
            prop_assert!(after.runway >= rounds, "{} of {rounds}", after.runway);
            prop_assert_eq!(after.state, FundingState::Confirmed);
        }
    }

    #[test]
    fn the_runway_is_what_can_be_built_one_after_the_other(
        values in prop::collection::vec(1_u64..9_000, 1..7),
        rate in 1_u32..30,
    ) {
        let rules = FundingRules { fee_rate: FeeRate::from_sat_per_vb_u32(rate), ..RULES };
        let tip = BeaconOutput { outpoint: OutPoint::null(), value: Amount::from_sat(values[0]), height: Some(1) };
        let further: Vec<_> = (1_u32..).zip(&values[1..])
            .map(|(vout, value)| BeaconOutput {
                outpoint: OutPoint::new(Txid::all_zeros(), vout),
                value: Amount::from_sat(*value),
                height: Some(1),
            })
            .collect();
        let told = runway(Some(tip), &further, rules.fee_rate);
        let (mut built, mut tip, mut left) = (0, tip, further);
        while let Ok(plan) = spend_plan(&tip, &left, rules.fee_rate, MAX_INPUTS) {
            built += 1;
            left.retain(|output| !plan.inputs.contains(output));
            match plan.change {
                Some(change) => tip.value = change,
                None => break,
            }
        }
        prop_assert_eq!(told, built);
    }
}
