//! Rule 11 in the machines: an aggregator that may not spend collects no signatures; what a member signs by is in its log.

use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{AggregatorInput, OpenRefusal};
use btcr2_agent::protocol::effect::{Outcome, Report};
use btcr2_agent::protocol::message::{Message, RoundCause};
use btcr2_agent::protocol::participant::{Decline, Participant, ParticipantInput, SigningPolicy};
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Net, Setup};
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
