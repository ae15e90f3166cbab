//! The fee ladder: every round signs its signal at several fees, and any of them may confirm.

use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, Txid};
use btcr2_agent::beacon::signal::signal_of;
use btcr2_agent::protocol::aggregator::{AggregatorInput, OpenRefusal};
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Message, SignRequest};
use btcr2_agent::protocol::terms::{CohortBeacon, Funding};
use btcr2_agent::protocol::{Label, Round};

use super::net::{Dest, Net, Setup};
use super::node::update;

/// The last request to sign.
fn request(net: &Net) -> SignRequest {
    match net.last_sent("sign_request").message {
        Message::SignRequest(request) => request,
        other => panic!("{other:?}"),
    }
}

/// What each rung of a request pays, when it spends `spent` sat.
fn fees(request: &SignRequest, spent: u64) -> Vec<u64> {
    let paid = |tx: &Transaction| tx.output.iter().map(|o| o.value.to_sat()).sum::<u64>();
    let rungs = request.rungs.iter();
    rungs.map(|rung| spent - paid(&rung.tx.0)).collect()
}

fn txids(request: &SignRequest) -> Vec<Txid> {
    let rungs = request.rungs.iter();
    rungs.map(|rung| rung.tx.0.compute_txid()).collect()
}

/// A signed and sent round of `n` members at 5 sat/vB that nobody mines.
fn stuck(setup: Setup) -> (Net, Vec<Txid>) {
    let mut net = Net::ready(setup);
    net.queue(0, 0, "a");
    net.open();
    assert_eq!(net.agg.signals_signed(), 1);
    let rungs = txids(&request(&net));
    assert!(net.chain.contains(&rungs[0]));
    (net, rungs)
}

/// Blocks come, and the signal is in none of them.
fn wait_blocks(net: &mut Net, blocks: u32) {
    net.chain.mine_empty(blocks);
    net.sync();
    net.run();
}

fn bumps(reports: &[Report]) -> Vec<Txid> {
    let bumped = reports.iter().filter_map(|report| match report {
        Report::SignalBumped { txid, .. } => Some(*txid),
        _ => None,
    });
    bumped.collect()
}

fn confirmed(reports: &[Report]) -> Vec<Txid> {
    let confirmed = reports.iter().filter_map(|report| match report {
        Report::SignalConfirmed { txid, .. } => Some(*txid),
        _ => None,
    });
    confirmed.collect()
}

#[test]
fn a_session_signs_every_rung_and_the_lowest_goes_out() {
    for (beacon, n) in [(CohortBeacon::Smt, 3), (CohortBeacon::Cas, 2)] {
        let (net, rungs) = stuck(Setup::new(beacon, n).refunds());
        let asked = request(&net);
        // 154 vB at 5, 15 and 50 sat/vB.
        assert_eq!(fees(&asked, 100_000), [770, 2_310, 7_700]);
        let labels = Label::of_round(3, 1, true);
        assert!(asked.aggregate_nonces.keys().eq(&labels));
        for (tx, refund) in asked.rungs.iter().map(|rung| (&rung.tx.0, &rung.refund)) {
            assert_eq!(tx.input, asked.rungs[0].tx.0.input);
            assert_eq!(signal_of(tx), signal_of(&asked.rungs[0].tx.0));
            let refund = &refund.as_ref().unwrap().0;
            let change = OutPoint::new(tx.compute_txid(), 0);
            assert_eq!(refund.input[0].previous_output, change);
            assert_eq!(refund.input[0].sequence, Sequence::from_height(1_008));
        }
        for node in &net.nodes {
            let given: Vec<Txid> = node.core.given().iter().map(|given| given.txid).collect();
            assert_eq!(given, rungs);
            let complete = node.core.given().iter().map(|given| given.signed.is_some());
            assert!(complete.eq([true, false, false]), "only what was sent");
            assert_eq!(node.core.live_signals().count(), 1, "one signal, not three");
        }
        let signal = &net.agg.unsettled()[0];
        assert_eq!((signal.txid(), signal.rung()), (rungs[0], (1, 3)));
        assert_eq!(signal.txids(), rungs);
        assert!(!net.chain.contains(&rungs[1]) && !net.chain.contains(&rungs[2]));
    }
}

#[test]
fn rungs_that_the_terms_cap_or_the_tip_can_not_pay_are_left_out() {
    // Ladder, ceiling, tip; the fees that come of it at 5 sat/vB.
    type Case = (&'static [u8], u32, u64, &'static [u64]);
    let cases: [Case; 9] = [
        (&[1, 3, 10], 50, 100_000, &[770, 2_310, 7_700]),
        (&[1], 50, 100_000, &[770]),
        (&[1, 2], 50, 100_000, &[770, 1_540]),
        // The second is capped, the third would be the same again.
        (&[1, 3, 10], 10, 100_000, &[770, 1_540]),
        (&[1, 3, 10], 5, 100_000, &[770]),
        (&[1, 3, 10], 50, 5_000, &[770, 2_310]),
        // What the second would leave is dust: all goes to the miner, and no higher rung is any different.
        (&[1, 2, 3], 50, 1_800, &[770, 1_800]),
        (&[1, 3, 10], 50, 1_664, &[770]),
        // Without change already: 555 sat are needed.
        (&[1, 3, 10], 50, 1_050, &[1_050]),
    ];
    for (ladder, ceiling, tip, expected) in cases {
        let setup = Setup::cas(2).refunds().terms(|terms| {
            terms.fee_ladder = ladder.to_vec();
            terms.max_fee_rate = ceiling;
        });
        let mut net = Net::new(setup);
        net.form();
        net.fund(tip);
        net.register_all();
        net.open();
        assert_eq!(net.agg.signals_signed(), 1, "{ladder:?} {ceiling} {tip}");
        let asked = request(&net);
        assert_eq!(fees(&asked, tip), expected, "{ladder:?} {ceiling} {tip}");
        for rung in &asked.rungs {
            // Change of a few hundred satoshi is not refunded: what comes back would be dust.
            let change = rung.tx.0.output.len() == 2;
            let value = rung.tx.0.output[0].value.to_sat();
            assert_eq!(rung.refund.is_some(), change && value > 440, "{value}");
        }
        net.mine(1);
        let given = net.nodes[0].core.given();
        assert_eq!(given.len(), expected.len());
    }
}

/// Six blocks without a confirmation while the chain asks for more: the next rung goes out, and then the next.
#[test]
fn a_signal_that_waits_six_blocks_is_replaced_and_resolves() {
    for (beacon, n, steps) in [
        (CohortBeacon::Smt, 3, 1),
        (CohortBeacon::Cas, 2, 1),
        (CohortBeacon::Smt, 2, 2),
        (CohortBeacon::Cas, 4, 2),
    ] {
        let (mut net, rungs) = stuck(Setup::new(beacon, n).refunds());
        net.chain.fee_rate = Some(60);
        for step in 1..=steps {
            wait_blocks(&mut net, 5);
            assert!(
                net.chain.contains(&rungs[step - 1]),
                "five blocks are not six"
            );
            wait_blocks(&mut net, 1);
            assert!(!net.chain.contains(&rungs[step - 1]));
            assert!(net.chain.contains(&rungs[step]));
            assert_eq!(bumps(&net.agg_reports), rungs[1..=step]);
        }
        for node in &net.nodes {
            assert_eq!(bumps(&node.reports), rungs[1..=steps], "everybody has it");
            let saved = node.saved.iter().filter_map(|artifact| match artifact {
                Artifact::SignedTransaction { tx, .. } => Some(tx.compute_txid()),
                _ => None,
            });
            assert!(saved.eq(rungs[..=steps].iter().copied()));
            assert_eq!(node.core.open_round(), None);
        }
        // The refund of its change is complete before it is sent.
        let refunded = OutPoint::new(rungs[steps], 0);
        assert!(net.agg.refund_of(&refunded).is_some());

        net.mine(1);
        assert_eq!(confirmed(&net.agg_reports), [rungs[steps]]);
        for i in 0..n {
            assert_eq!(confirmed(&net.nodes[i].reports), [rungs[steps]]);
            let announced = (i == 0).then(|| update("a"));
            assert_eq!(net.proved(i, 0), [Some(announced)]);
            assert_eq!(net.nodes[i].core.live_signals().count(), 0);
            assert!(net.nodes[i].alarms().is_empty());
        }
        net.chain.fee_rate = Some(5);
        let next = net.round();
        assert_eq!(next.input[0].previous_output, refunded);
    }
}

#[test]
fn a_signal_is_not_replaced_while_it_pays_what_the_chain_asks() {
    for (estimate, bumped) in [
        (Some(5), false),
        (Some(4), false),
        (Some(6), true),
        (None, true),
    ] {
        let (mut net, rungs) = stuck(Setup::smt(2));
        net.chain.fee_rate = estimate;
        wait_blocks(&mut net, 20);
        assert_eq!(net.chain.contains(&rungs[1]), bumped, "{estimate:?}");
        assert_eq!(net.chain.contains(&rungs[0]), !bumped);
        net.mine(1);
        net.next_round_works();
    }
}

#[test]
fn the_operator_replaces_a_signal_when_there_is_something_to_replace() {
    let mut net = Net::ready(Setup::cas(3));
    let refused = |net: &mut Net, words: &str| {
        assert_eq!(net.agg.bump_refusal(), Some(words));
        assert_eq!(
            net.agg_input(AggregatorInput::Bump),
            Outcome::Ignored(Ignored::Contradiction(words.into()))
        );
    };
    refused(&mut net, "no signal waits for a confirmation");
    net.open();
    let rungs = txids(&request(&net));
    for rung in &rungs[1..] {
        assert_eq!(net.agg.bump_refusal(), None);
        assert_eq!(net.agg_input(AggregatorInput::Bump), Outcome::Accepted);
        net.run();
        assert!(net.chain.contains(rung));
    }
    assert_eq!(net.agg.unsettled()[0].rung(), (3, 3));
    refused(
        &mut net,
        "the signal was sent at the highest fee that was signed for it",
    );
    net.mine(1);
    refused(&mut net, "no signal waits for a confirmation");
    assert_eq!(confirmed(&net.nodes[0].reports), [rungs[2]]);
    net.next_round_works();
}

/// A node that says that a fee is too low is answered with the next rung at once.
#[test]
fn a_fee_below_what_nodes_take_goes_up_at_once() {
    for (least, rung) in [(6, 1), (16, 2)] {
        let mut net = Net::ready(Setup::smt(2));
        net.chain.min_fee_rate = least;
        net.open();
        let rungs = txids(&request(&net));
        assert!(net.chain.contains(&rungs[rung]));
        let failed = |report: &&Report| matches!(report, Report::BroadcastFailed { .. });
        assert_eq!(net.agg_reports.iter().filter(failed).count(), rung);
        net.mine(1);
        assert_eq!(confirmed(&net.nodes[1].reports), [rungs[rung]]);
    }
    // Nothing pays enough: the highest one is sent again until it does.
    let mut net = Net::ready(Setup::smt(2));
    net.chain.min_fee_rate = 51;
    net.open();
    let rungs = txids(&request(&net));
    assert_eq!(net.agg.unsettled()[0].txid(), rungs[2]);
    net.chain.min_fee_rate = 50;
    net.advance(60);
    assert!(net.chain.contains(&rungs[2]));
    net.mine(1);
    net.next_round_works();
}

/// Whichever rung a miner takes: it is the round's signal, and after a reorg another one may be.
#[test]
fn any_rung_may_confirm_and_a_reorg_may_choose_another() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let (mut net, rungs) = stuck(Setup::new(beacon, 3).refunds());
        let first = net.signed_txs()[0].1.clone();
        net.agg_input(AggregatorInput::Bump);
        net.run();
        let second = net.signed_txs()[1].1.clone();
        // The miner has not heard of the second.
        net.chain.replace(&first).unwrap();
        net.mine(1);
        assert_eq!(confirmed(&net.agg_reports), [rungs[0]]);
        net.chain.reorg(1);
        net.sync();
        net.chain.replace(&second).unwrap();
        net.mine(1);
        assert_eq!(confirmed(&net.agg_reports), [rungs[0], rungs[1]]);
        for node in &net.nodes {
            let told: Vec<_> = node
                .reports
                .iter()
                .filter_map(|report| match report {
                    Report::SignalConfirmed { txid, .. } => Some((true, *txid)),
                    Report::SignalReorganised { txid, .. } => Some((false, *txid)),
                    _ => None,
                })
                .collect();
            assert_eq!(
                told,
                [(true, rungs[0]), (false, rungs[0]), (true, rungs[1])]
            );
            let unknown = |report: &&Report| matches!(report, Report::UnknownSpend { .. });
            assert_eq!(node.reports.iter().filter(unknown).count(), 0);
        }
        assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
        // Straight from one rung to the other, in one look at the chain.
        net.chain.reorg(1);
        net.chain.replace(&first).unwrap();
        net.chain.mine(1);
        net.sync();
        net.run();
        assert_eq!(confirmed(&net.agg_reports)[2..], [rungs[0]]);
        assert_eq!(
            net.agg.unsettled()[0].confirmed_at(),
            Some(net.chain.height)
        );
        let next = net.round();
        assert_eq!(next.input[0].previous_output, OutPoint::new(rungs[0], 0));
    }
}

/// Rule 4: while one rung may still confirm nothing else is signed, and none counts once another is deep enough.
#[test]
fn every_rung_counts_as_a_signal_that_may_confirm() {
    let mut net = Net::ready(Setup::smt(2).terms(|terms| terms.depth = 3));
    net.mine(2);
    net.open();
    let rungs = txids(&request(&net));
    let live = |net: &Net| {
        let live = net.nodes[0].core.live_signals();
        live.map(|(_, txid)| txid).collect::<Vec<_>>()
    };
    assert_eq!(live(&net), [rungs[0]]);
    for _ in 0..2 {
        net.mine(1);
        assert_eq!(live(&net), [], "one of them is in a block");
        let refusal = OpenRefusal::PreviousUnconfirmed(rungs[0]);
        assert_eq!(net.agg.open_refusal(), Some(refusal));
    }
    // A reorg that takes the block away makes all of them possible again.
    net.chain.reorg(2);
    net.sync();
    assert_eq!(live(&net), [rungs[0]]);
    net.mine(3);
    assert_eq!(net.agg.open_refusal(), None);
    net.open();
    assert_eq!(net.agg.signals_signed(), 2);
    let next = net.signed_txs().pop().unwrap().1;
    assert_eq!(next.input[0].previous_output, OutPoint::new(rungs[0], 0));
}

/// The result of a higher rung counts for who has the lower one, once, and only with every signature.
#[test]
fn results_of_rungs_are_checked_like_the_first() {
    let (mut net, rungs) = stuck(Setup::cas(2));
    net.hold = Some("round_result");
    net.agg_input(AggregatorInput::Bump);
    net.run();
    let Message::RoundResult(good) = net.held[0].message.clone() else {
        unreachable!()
    };
    let mut unsigned = good.clone();
    unsigned.tx.as_mut().unwrap().0.input[0].witness.clear();
    let outcome = net.tell(0, Message::RoundResult(unsigned));
    assert!(matches!(
        outcome,
        Outcome::Ignored(Ignored::Contradiction(_))
    ));
    assert_eq!(bumps(&net.nodes[0].reports), []);
    assert_eq!(
        net.tell(0, Message::RoundResult(good.clone())),
        Outcome::Accepted
    );
    assert_eq!(
        net.tell(0, Message::RoundResult(good)),
        Outcome::Ignored(Ignored::Duplicate)
    );
    assert_eq!(bumps(&net.nodes[0].reports), [rungs[1]]);
    let leading: Vec<_> = net.nodes[0]
        .core
        .live_signals()
        .map(|(_, txid)| txid)
        .collect();
    assert_eq!(leading, [rungs[1]]);
    net.release();
    net.mine(1);
    net.next_round_works();
}

// ---- a lying aggregator ----------------------------------------------------------------------------------

/// A round of three whose request to member 0 is kept back; everybody else has signed.
fn at_request(setup: Setup) -> (Net, SignRequest) {
    let mut net = Net::ready(setup);
    net.queue(0, 0, "a");
    net.hold = Some("sign_request");
    net.open();
    let Message::SignRequest(request) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    (net, request)
}

fn other_script() -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x51, 0x20][..], &[2; 32]].concat())
}

/// Rule 2 and 3 hold on every rung: each is rebuilt and compared, and none may say or pay what the others do not.
#[test]
fn a_member_signs_no_ladder_with_one_bad_rung() {
    type Change = fn(&mut SignRequest);
    let cases: [(&str, Change); 14] = [
        ("there are 0 rungs", |request| request.rungs.clear()),
        ("there are 4 rungs", |request| {
            let mut more = request.rungs[2].clone();
            more.tx.0.output[0].value -= Amount::from_sat(1);
            request.rungs.push(more);
        }),
        ("rung 2 announces other bytes", |request| {
            let script = [&[0x6a, 0x20][..], &[7; 32]].concat();
            request.rungs[1].tx.0.output[1].script_pubkey = ScriptBuf::from_bytes(script);
        }),
        ("rung 3: the change does not go to the beacon", |request| {
            request.rungs[2].tx.0.output[0].script_pubkey = other_script();
        }),
        ("rung 2: sequence", |request| {
            request.rungs[1].tx.0.input[0].sequence = Sequence::MAX;
        }),
        // The terms allow 50 sat/vB.
        ("rung 3: the fee", |request| {
            request.rungs[2].tx.0.output[0].value = Amount::from_sat(100_000 - 154 * 51);
        }),
        ("rung 2 pays", |request| request.rungs.swap(0, 1)),
        ("rung 2 pays", |request| {
            request.rungs[1] = request.rungs[0].clone();
        }),
        ("the refund of rung 2: output 0", |request| {
            let refund = request.rungs[1].refund.as_mut().unwrap();
            refund.0.output[0].script_pubkey = other_script();
        }),
        ("the refund of rung 1: sequence", |request| {
            let refund = request.rungs[0].refund.as_mut().unwrap();
            refund.0.input[0].sequence = Sequence::from_height(1);
        }),
        ("the refund of rung 3: it spends", |request| {
            request.rungs[2].refund = request.rungs[1].refund.clone();
        }),
        ("the refund of rung 1: the fee", |request| {
            let refund = request.rungs[0].refund.as_mut().unwrap();
            for output in &mut refund.0.output {
                output.value = Amount::from_sat(10_000);
            }
        }),
        ("the change of rung 1 has no refund", |request| {
            request.rungs[0].refund = None;
        }),
        ("its transactions and nothing else", |request| {
            request.aggregate_nonces.remove(&Label::Refund { rung: 3 });
        }),
    ];
    for (beacon, funding) in [
        (CohortBeacon::Smt, Funding::Aggregator),
        (CohortBeacon::Cas, Funding::Members),
    ] {
        let setup = Setup::new(beacon, 3).refunds();
        let (mut net, good) = at_request(setup.terms(|terms| terms.funding = funding));
        for (words, change) in &cases {
            let mut bad = good.clone();
            change(&mut bad);
            let outcome = net.tell(0, Message::SignRequest(bad));
            let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
                panic!("{words}: {outcome:?}")
            };
            assert!(reason.contains(words), "{reason:?} is not about {words:?}");
            assert!(net.nodes[0].core.given().is_empty(), "nothing was signed");
        }
        let outcome = net.tell(0, Message::SignRequest(good));
        assert_eq!(outcome, Outcome::Accepted, "{:?}", net.nodes[0].refusals());
        net.finish();
    }
}

#[test]
fn a_rung_that_spends_something_else_waits_for_ever() {
    let (mut net, good) = at_request(Setup::smt(3));
    let script = net.script();
    let other = net.chain.fund(&script, 100_000);
    net.mine(1);
    let mut bad = good.clone();
    bad.rungs[1].tx.0.input[0].previous_output = other;
    assert_eq!(net.tell(0, Message::SignRequest(bad)), Outcome::Accepted);
    let refusals = net.nodes[0].refusals();
    assert!(refusals[0].contains("rung 2: it spends"), "{refusals:?}");
    assert!(net.nodes[0].core.given().is_empty());
    // It may be added beside the tip, where it is the member's own knowledge, but on all rungs or none.
    let mut beside = good.clone();
    let mut input = beside.rungs[1].tx.0.input[0].clone();
    input.previous_output = other;
    beside.rungs[1].tx.0.input.push(input);
    beside.rungs[1].tx.0.output[0].value += Amount::from_sat(100_000);
    let outcome = net.tell(0, Message::SignRequest(beside));
    let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(reason.contains("does not spend what the first"), "{reason}");
    assert_eq!(net.tell(0, Message::SignRequest(good)), Outcome::Accepted);
    net.finish();
}

#[test]
fn a_refund_where_the_terms_have_none() {
    let (mut net, good) = at_request(Setup::smt(3));
    assert!(good.rungs.iter().all(|rung| rung.refund.is_none()));
    let mut bad = good.clone();
    bad.rungs[0].refund = Some(bad.rungs[0].tx.clone());
    let outcome = net.tell(0, Message::SignRequest(bad));
    let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        reason.contains("rung 1 has nothing to be refunded"),
        "{reason}"
    );
    assert_eq!(net.tell(0, Message::SignRequest(good)), Outcome::Accepted);
    net.finish();
}

/// A bad partial signature under any label is blamed on its sender, and the round goes on.
#[test]
fn a_bad_partial_of_any_label_is_blamed() {
    for label in Label::of_round(3, 1, true) {
        let mut net = Net::ready(Setup::cas(3).refunds());
        net.hold = Some("partial_signature");
        net.open();
        let member = net.nodes[1].me();
        let held = net.held.iter().find(|mail| mail.from == member).unwrap();
        let Message::PartialSignature(signed) = held.message.clone() else {
            unreachable!()
        };
        let mut content = signed.content;
        let other = content
            .partials
            .values()
            .rev()
            .find(|p| **p != content.partials[&label]);
        let other = *other.unwrap();
        content.partials.insert(label, other);
        let bad = net.signed(1, content);
        let outcome = net.say(1, Message::PartialSignature(bad));
        assert_eq!(outcome, Outcome::Blamed(member), "{label}");
        let blamed = net
            .agg_reports
            .iter()
            .rev()
            .find_map(|report| match report {
                Report::MemberBlamed { blame, proved } => Some((blame.clone(), *proved)),
                _ => None,
            });
        let (blame, proved) = blamed.unwrap();
        let (_, keys) = net.agg.set().unwrap();
        assert!(proved);
        assert_eq!(blame.verify(&net.agg.cohort(), keys), Ok(()));
        net.finish();
    }
}

/// A member that loses its nonces after the request: the next session signs the very same rungs.
#[test]
fn a_lost_session_signs_the_same_ladder_again() {
    let mut net = Net::ready(Setup::smt(3).refunds());
    net.queue(0, 0, "a");
    net.nodes[1].dies_at_sign = true;
    net.open();
    assert_eq!(net.agg.signals_signed(), 1);
    let requests: Vec<SignRequest> = net
        .archive
        .iter()
        .filter_map(|mail| match &mail.message {
            Message::SignRequest(request) if mail.to == Dest::Member(0) => Some(request.clone()),
            _ => None,
        })
        .collect();
    let [first, second] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(first.rungs, second.rungs);
    assert_ne!(first.aggregate_nonces, second.aggregate_nonces);
    assert_eq!(net.nodes[0].rounds_signed(), 1);
    assert_eq!(net.nodes[0].core.given().len(), 3);
    assert_eq!(net.agg.unsettled()[0].round, Round(1));
    net.finish();
}
