//! Top-ups: a signal spends the tip and what was paid to the address besides, each input with its own signature.

use bitcoin::OutPoint;
use btcr2_agent::beacon::signal::signed_weight;
use btcr2_agent::protocol::aggregator::OpenRefusal;
use btcr2_agent::protocol::effect::{Ignored, Outcome};
use btcr2_agent::protocol::message::{Message, RoundOpen, SignRequest};
use btcr2_agent::protocol::terms::{CohortBeacon, Funding};
use btcr2_agent::protocol::{Label, Round};

use super::net::{Dest, Net, Setup};
use super::node::update;

/// A formed cohort with a tip of this value and these further payments, all confirmed.
fn funded(setup: Setup, tip: u64, further: &[u64]) -> (Net, Vec<OutPoint>) {
    let mut net = Net::new(setup);
    net.form();
    net.fund(tip);
    net.register_all();
    let script = net.script();
    let outputs = further
        .iter()
        .map(|sat| net.chain.fund(&script, *sat))
        .collect();
    net.mine(1);
    (net, outputs)
}

fn spent(tx: &bitcoin::Transaction) -> Vec<OutPoint> {
    tx.input.iter().map(|input| input.previous_output).collect()
}

fn opening(net: &Net) -> RoundOpen {
    match net.last_sent("round_open").message {
        Message::RoundOpen(open) => open,
        other => panic!("{other:?}"),
    }
}

fn request(net: &Net) -> SignRequest {
    match net.last_sent("sign_request").message {
        Message::SignRequest(request) => request,
        other => panic!("{other:?}"),
    }
}

/// One to three top-ups: the chain verifies every input's signature (and refuses each with a flipped byte), the
/// change is everything but the fee of the exact weight, and the next signal spends that alone.
#[test]
fn a_signal_spends_the_tip_and_up_to_three_top_ups() {
    for (beacon, n, funding) in [
        (CohortBeacon::Smt, 3, Funding::Aggregator),
        (CohortBeacon::Cas, 2, Funding::Members),
        (CohortBeacon::Smt, 1, Funding::Aggregator),
    ] {
        for count in 1..=3_usize {
            let further = [40_000, 30_000, 20_000];
            let further = &further[..count];
            let setup = Setup::new(beacon, n).refunds();
            let setup = setup.terms(|terms| terms.funding = funding);
            let (mut net, outputs) = funded(setup, 5_000, further);
            let tip = net.agg.chain().ready_tip(1).unwrap().0;
            net.queue(0, 0, "a");
            let verified = net.chain.verified;
            let tx = net.round();
            assert!(
                net.chain.verified > verified,
                "by the script verification of a node"
            );
            assert_eq!(spent(&tx), [&[tip][..], &outputs].concat());
            assert_eq!(tx.weight(), signed_weight(1 + count, true));
            let fee = (tx.weight().to_wu() * 5).div_ceil(4);
            let all = 5_000 + further.iter().sum::<u64>();
            assert_eq!(tx.output[0].value.to_sat(), all - fee);
            let inputs = u8::try_from(1 + count).unwrap();
            assert_eq!(opening(&net).inputs, inputs);
            let asked = request(&net);
            let labels = Label::of_round(3, inputs, true);
            assert!(asked.aggregate_nonces.keys().eq(&labels));
            assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
            let next = net.round();
            assert_eq!(spent(&next), [OutPoint::new(tx.compute_txid(), 0)]);
            assert_eq!(opening(&net).inputs, 1);
        }
    }
}

/// A further input costs 288 sat at 5 sat/vB: what is worth less than twice that stays where it is, for good, and
/// blocks nobody. Of many the most valuable are spent.
#[test]
fn dust_neither_blocks_nor_counts() {
    let dust = [330, 575, 330];
    let (mut net, outputs) = funded(Setup::cas(2), 20_000, &dust);
    let tx = net.round();
    assert_eq!(tx.input.len(), 1);
    // Cheaper blocks: the largest is worth it now.
    net.chain.fee_rate = Some(3);
    net.sync();
    let tx = net.round();
    assert_eq!(spent(&tx)[1..], outputs[1..2]);
    net.chain.fee_rate = Some(5);
    net.sync();
    let script = net.script();
    let paid = [900, 7_000, 800, 9_000, 600].map(|sat| net.chain.fund(&script, sat));
    net.mine(1);
    let tx = net.round();
    assert_eq!(spent(&tx)[1..], [paid[3], paid[1], paid[0]]);
    let tx = net.round();
    assert_eq!(spent(&tx)[1..], [paid[2], paid[4]]);
    let tx = net.round();
    assert_eq!(tx.input.len(), 1);
    for left in [outputs[0], outputs[2]] {
        assert!(net.chain.output(&left).is_some());
        assert!(!net.agg.chain().spends.contains_key(&left));
    }
}

#[test]
fn a_top_up_pays_what_the_tip_can_not() {
    // The change of the first signal is 430 sat: too little for a second.
    let (mut net, _) = funded(Setup::smt(2), 1_200, &[]);
    let first = net.round();
    assert_eq!(first.output[0].value.to_sat(), 430);
    assert_eq!(
        net.agg.open_refusal(),
        Some(OpenRefusal::TipTooSmall {
            have_sat: 430,
            need_sat: 555
        })
    );
    let script = net.script();
    let paid = net.chain.fund(&script, 600);
    net.sync();
    assert!(net.agg.open_refusal().is_some(), "not confirmed yet");
    net.mine(1);
    assert_eq!(net.agg.open_refusal(), None);
    net.queue(1, 0, "b");
    let second = net.round();
    let tip = OutPoint::new(first.compute_txid(), 0);
    assert_eq!(spent(&second), [tip, paid]);
    assert_eq!(second.output.len(), 1, "1030 sat, and nothing left of them");
    assert_eq!(net.proved(1, 0)[1], Some(Some(update("b"))));
    // A new chain starts with new money.
    net.fund(30_000);
    net.next_round_works();
}

/// The number of inputs is fixed with the opening, since nonces are: what comes later waits for the next round.
#[test]
fn a_payment_while_a_round_is_open_waits_for_the_next() {
    let (mut net, _) = funded(Setup::smt(3), 10_000, &[]);
    net.hold = Some("response");
    net.open();
    let script = net.script();
    let late = net.chain.fund(&script, 50_000);
    net.mine(1);
    net.release();
    assert_eq!(net.signed_txs()[0].1.input.len(), 1);
    net.mine(1);
    let next = net.round();
    assert_eq!(spent(&next)[1..], [late]);
}

/// A top-up that is reorganised away between opening and signing: fewer inputs than nonces were offered for.
#[test]
fn a_top_up_that_is_gone_is_left_out() {
    let (mut net, outputs) = funded(Setup::cas(2), 10_000, &[30_000, 20_000]);
    net.hold = Some("response");
    net.open();
    assert_eq!(opening(&net).inputs, 3);
    net.chain.reorg(1);
    net.chain.drop_tx(&outputs[0].txid);
    net.mine(1);
    net.release();
    let (round, tx) = net.signed_txs().pop().unwrap();
    assert_eq!(round, Round(1));
    assert_eq!(spent(&tx)[1..], outputs[1..]);
    let asked = request(&net);
    assert!(
        asked
            .aggregate_nonces
            .keys()
            .eq(&Label::of_round(3, 2, false))
    );
    net.mine(1);
    net.next_round_works();
}

/// What a member does not see it does not sign: a further input has to be in its own view, as deep as the terms
/// ask.
#[test]
fn a_top_up_that_my_chain_does_not_show() {
    let mut net = Net::new(Setup::smt(2));
    net.form();
    net.fund(10_000);
    net.register_all();
    net.nodes[0].sees_chain = false;
    let script = net.script();
    net.chain.fund(&script, 20_000);
    net.mine(1);
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);
    let refusals = net.nodes[0].refusals();
    assert!(
        refusals[0].contains("is not a spendable output of the beacon"),
        "{refusals:?}"
    );
    assert!(net.nodes[0].core.given().is_empty());
    net.nodes[0].sees_chain = true;
    net.sync();
    net.run();
    assert_eq!(net.agg.signals_signed(), 1, "it signs when it sees it");
    net.mine(1);
    net.next_round_works();
}

/// An aggregator that shifts value between inputs, drops one, or adds what is not the beacon's.
#[test]
fn a_member_signs_for_no_other_inputs() {
    type Change = fn(&mut SignRequest);
    let cases: [(&str, Change); 4] = [
        ("rung 2 does not spend what the first", |request| {
            request.rungs[1].tx.0.input.swap(1, 2);
        }),
        ("rung 1: the change of", |request| {
            for rung in &mut request.rungs {
                rung.tx.0.input.pop();
            }
        }),
        ("rung 1: sequence", |request| {
            request.rungs[0].tx.0.input[2].sequence = bitcoin::Sequence::MAX;
        }),
        ("its transactions and nothing else", |request| {
            let last = Label::Signal { rung: 1, input: 2 };
            request.aggregate_nonces.remove(&last);
        }),
    ];
    let (mut net, _) = funded(Setup::smt(3), 10_000, &[30_000, 20_000]);
    net.hold = Some("sign_request");
    net.open();
    let Message::SignRequest(good) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    for (words, change) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let outcome = net.tell(0, Message::SignRequest(bad));
        let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
            panic!("{words}: {outcome:?}")
        };
        assert!(reason.contains(words), "{reason:?} is not about {words:?}");
    }
    let mut foreign = good.clone();
    for rung in &mut foreign.rungs {
        rung.tx.0.input[2].previous_output = "77"
            .repeat(32)
            .parse()
            .map(|txid| OutPoint::new(txid, 0))
            .unwrap();
    }
    // It might be one that the member's chain shows later.
    assert_eq!(
        net.tell(0, Message::SignRequest(foreign)),
        Outcome::Accepted
    );
    assert!(net.nodes[0].core.given().is_empty());
    // The values it claims are claims: the member's own count.
    let mut lying = good;
    lying.prevouts[1].value_sat = 1;
    assert_eq!(net.tell(0, Message::SignRequest(lying)), Outcome::Accepted);
    net.finish();
}
