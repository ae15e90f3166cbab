//! Rule 11 in the machines: an aggregator that may not spend collects no signatures; what a member signs by is in its log.

use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{AggregatorInput, OpenRefusal};
use btcr2_agent::protocol::effect::{Outcome, Report};
use btcr2_agent::protocol::message::{Message, RoundCause};
use btcr2_agent::protocol::participant::{Decline, Participant, ParticipantInput, SigningPolicy};
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Dest, Net, Setup};
use super::node::key;

const TIGHT: SigningPolicy = SigningPolicy {
    max_fee_rate: 50,
    max_fee_sat: 100,
    decline: Decline::Idle,
};

fn stop(net: &mut Net) {
    net.agg_input(AggregatorInput::Money { permitted: false });
    net.run();
}

#[test]
fn no_round_opens_while_money_is_stopped() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net =
            Net::ready(Setup::new(beacon, 3).terms(|terms| terms.cadence_seconds = 90_000));
        net.queue(0, 0, "a");
        stop(&mut net);
        assert!(!net.agg.money_is_permitted());
        assert_eq!(net.agg.open_refusal(), Some(OpenRefusal::MoneyStopped));
        let outcome = net.agg_input(AggregatorInput::OpenRound);
        assert!(matches!(outcome, Outcome::Ignored(_)), "{outcome:?}");
        // Nor by the timer.
        net.advance(90_001);
        assert!(net.agg.open_round_now().is_none());
        // The round that was due opens as soon as money may move again.
        net.agg_input(AggregatorInput::Money { permitted: true });
        assert!(net.agg.money_is_permitted());
        net.run();
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(1);
        net.next_round_works();
    }
}

#[test]
fn an_open_round_ends_and_nobody_adds_up_what_was_signed() {
    let mut net = Net::ready(Setup::smt(3));
    net.queue(0, 0, "a");
    // The last signature is late.
    net.hook = Some(Box::new(|mail| {
        let last = mail.from == key("member 2").public()
            && matches!(mail.message, Message::PartialSignature(_));
        if last { Vec::new() } else { vec![mail] }
    }));
    net.open();
    assert_eq!(net.agg.open_round_now().unwrap().signed.len(), 2);
    net.hook = None;
    stop(&mut net);
    let failed = Report::RoundFailed {
        round: Round(1),
        why: RoundCause::Operator,
    };
    assert!(net.agg_reports.contains(&failed));
    assert!(net.nodes.iter().all(|node| node.reports.contains(&failed)));
    let late = net.archive.iter().rev().find(|mail| {
        mail.from == net.nodes[2].me() && matches!(mail.message, Message::PartialSignature(_))
    });
    if let Some(late) = late.cloned() {
        let outcome = net.deliver(late.from, late.to, late.message);
        assert!(matches!(outcome, Outcome::Ignored(_)), "{outcome:?}");
    }
    assert_eq!(net.agg.signals_signed(), 0);
    // What was signed may confirm for whom it knows; the next round spends the same output.
    assert_eq!(net.nodes[0].core.live_signals().count(), 1);
    net.agg_input(AggregatorInput::Money { permitted: true });
    net.run();
    net.next_round_works();
}

#[test]
fn a_fee_over_the_policy_is_not_signed() {
    let mut net = Net::ready(Setup::smt(2));
    net.input(1, ParticipantInput::Policy(TIGHT));
    assert_eq!(net.nodes[1].core.stated_policy(), Some(TIGHT));
    net.queue(0, 0, "a");
    net.open();
    let refused = net.nodes[1].reports.iter().any(|report| {
        matches!(report, Report::SignRefused { reason, waiting: false, .. } if reason.contains("fee"))
    });
    assert!(refused, "{:?}", net.nodes[1].reports);
    assert_eq!(net.agg.signals_signed(), 0);
}

/// The policy of today must not judge what was signed under that of yesterday: it would be forgotten that it may
/// confirm (rules 4 and 10).
#[test]
fn a_replay_under_a_tighter_policy_remembers_what_was_signed() {
    let mut net = Net::new(Setup::smt(2));
    let policy = SigningPolicy {
        max_fee_sat: 50_000,
        ..TIGHT
    };
    for i in 0..2 {
        net.input(i, ParticipantInput::Policy(policy));
    }
    net.get_ready();
    net.queue(0, 0, "a");
    net.open();
    let node = &net.nodes[0];
    let given = |core: &Participant| -> Vec<_> {
        core.given()
            .iter()
            .map(|given| (given.txid, given.signal))
            .collect()
    };
    assert!(!given(&node.core).is_empty());
    let mut again = Participant::new(net.agg.terms().clone(), node.me(), TIGHT);
    for (at, input, _) in &node.log {
        let _ = again.handle(*at, input.clone());
    }
    assert_eq!(given(&again), given(&node.core));
    assert_eq!(again.stated_policy(), Some(policy));
    // Without the policy in the log it would have been lost: that is what this is for.
    let mut forgetful = Participant::new(net.agg.terms().clone(), node.me(), TIGHT);
    for (at, input, _) in node
        .log
        .iter()
        .filter(|(_, input, _)| !matches!(input, ParticipantInput::Policy(_)))
    {
        let _ = forgetful.handle(*at, input.clone());
    }
    assert!(given(&forgetful).is_empty());
}

fn cap(net: &mut Net, sat: u64) {
    assert_eq!(
        net.agg_input(AggregatorInput::MaxFee { sat }),
        Outcome::Accepted
    );
    net.run();
}

/// Every fee that was said to be over the cap, with the cap.
fn held(net: &Net) -> Vec<(u64, u64)> {
    let held = net.agg_reports.iter().filter_map(|report| match report {
        Report::BumpHeld {
            fee_sat, max_sat, ..
        } => Some((*fee_sat, *max_sat)),
        _ => None,
    });
    held.collect()
}

fn results(net: &Net) -> usize {
    let told = net.archive.iter().filter(|mail| {
        mail.to == Dest::Member(0) && matches!(mail.message, Message::RoundResult(_))
    });
    told.count()
}

/// A rung over the cap is not taken, and members do not get it: each of them could send it. When the cap is raised the
/// signal goes on from where it is.
#[test]
fn a_signal_does_not_climb_over_the_cap() {
    let mut net = Net::ready(Setup::smt(2));
    net.queue(0, 0, "a");
    net.open();
    let first = net.agg.unsettled()[0].txid();
    // Without an estimate every six blocks are a reason to pay more.
    net.chain.fee_rate = None;
    cap(&mut net, 2_309);
    let text = "the next fee that was signed for it is over money.max_fee_sat";
    assert_eq!(net.agg.bump_refusal(), Some(text));
    let outcome = net.agg_input(AggregatorInput::Bump);
    assert!(matches!(outcome, Outcome::Ignored(_)), "{outcome:?}");
    for blocks in [6, 1, 1] {
        net.chain.mine_empty(blocks);
        net.sync();
        net.run();
        assert_eq!(held(&net), [(2_310, 2_309)], "said once");
        assert_eq!(net.agg.unsettled()[0].rung(), (1, 3));
        assert_eq!(net.agg.unsettled()[0].txid(), first);
        assert_eq!(results(&net), 1);
    }
    cap(&mut net, 2_310);
    assert_eq!(net.agg.bump_refusal(), None);
    net.agg_input(AggregatorInput::Bump);
    net.run();
    assert_eq!(net.agg.unsettled()[0].rung(), (2, 3));
    assert_eq!(results(&net), 2);
    // A node that refuses for the fee does not make it pay more than it may, either.
    net.agg_input(AggregatorInput::Broadcast {
        txid: net.agg.unsettled()[0].txid(),
        error: Some("insufficient fee".into()),
        fee_too_low: true,
    });
    net.run();
    assert_eq!(net.agg.unsettled()[0].rung(), (2, 3));
    assert_eq!(held(&net), [(2_310, 2_309), (7_700, 2_310)]);
    net.mine(1);
    net.next_round_works();
}

/// No member is asked to sign what is over the cap: neither a first time, nor in place of what is stuck.
#[test]
fn nothing_over_the_cap_is_offered() {
    for (sat, expected) in [(2_000, &[770, 2_000][..]), (700, &[700]), (154, &[154])] {
        let mut setup = Setup::cas(2).terms(|terms| terms.max_fee_rate = 200);
        setup.policy.max_fee_rate = 200;
        let mut net = Net::ready(setup);
        cap(&mut net, sat);
        net.queue(0, 0, "a");
        net.open();
        let Message::SignRequest(request) = net.last_sent("sign_request").message else {
            unreachable!()
        };
        let spent = request.prevouts[0].value_sat;
        let fees: Vec<u64> = request
            .rungs
            .iter()
            .map(|rung| spent - rung.tx.0.output[0].value.to_sat())
            .collect();
        assert_eq!(fees, expected);
        while net.agg.bump_refusal().is_none() {
            net.agg_input(AggregatorInput::Bump);
            net.run();
        }
        let (rung, of) = net.agg.unsettled()[0].rung();
        assert_eq!((rung, of), (expected.len(), expected.len()), "at the top");
        // Up to the terms' ceiling a replacement could pay more.
        cap(&mut net, 50_000);
        assert_eq!(net.agg.bump_refusal(), None);
        net.mine(1);
        net.next_round_works();
    }
    let mut net = Net::ready(Setup::smt(2));
    cap(&mut net, 153);
    let refused = OpenRefusal::FeeOverCap {
        fee_sat: 154,
        max_sat: 153,
    };
    assert_eq!(net.agg.open_refusal(), Some(refused));
    cap(&mut net, 154);
    net.next_round_works();
}
