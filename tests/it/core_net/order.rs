//! The network repeats, delays and reorders: nothing changes but the time it takes.

use btcr2_agent::network::Network;
use btcr2_agent::protocol::effect::{Ignored, Outcome};
use btcr2_agent::protocol::message::Message;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Dest, Mail, Net, Setup};
use super::node::{MyDid, update};

/// Two rounds, a DID that comes between them, updates and explicit declines.
fn story(net: &mut Net) {
    net.get_ready();
    net.queue(0, 0, "a");
    net.round();
    let did = MyDid::k1(Network::Regtest, "late");
    net.nodes[2].dids.push(did);
    net.register(2, &[1]);
    net.run();
    net.queue(1, 0, "b");
    net.queue(2, 1, "c");
    net.round();
    assert_eq!(net.proved(0, 0), [Some(Some(update("a"))), Some(None)]);
    assert_eq!(net.proved(1, 0), [Some(None), Some(Some(update("b")))]);
    assert_eq!(net.proved(2, 0), [Some(None), Some(None)]);
    assert_eq!(net.proved(2, 1), [Some(None), Some(Some(update("c")))]);
    for node in &net.nodes {
        assert_eq!(node.alarms(), [""; 0]);
        assert_eq!(node.refusals(), [""; 0]);
    }
}

fn setup(beacon: CohortBeacon) -> Setup {
    Setup::new(beacon, 3).decline(Decline::NoUpdate)
}

#[test]
fn every_message_duplicated() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::new(setup(beacon));
        net.duplicate = true;
        story(&mut net);
        assert_eq!(net.agg.last_round(), 2);
        assert_eq!(net.chain.verified, 2);
        let responses = net
            .agg_outcomes
            .iter()
            .filter(|(name, _)| *name == "response");
        let accepted = responses.filter(|(_, outcome)| *outcome == Outcome::Accepted);
        assert_eq!(accepted.count(), 6, "three members, two rounds");
    }
}

#[test]
fn deliveries_in_random_order() {
    for seed in 0..24 {
        let beacon = [CohortBeacon::Smt, CohortBeacon::Cas][seed as usize % 2];
        let mut net = Net::new(setup(beacon));
        net.shuffle = Some(seed);
        net.duplicate = seed % 3 == 0;
        story(&mut net);
    }
}

/// Whoever records everything and plays it again, at any time, to anybody it was sent to.
#[test]
fn everything_ever_sent_is_replayed_between_all_steps_of_a_round() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::ready(setup(beacon));
        net.queue(0, 0, "a");
        net.round();
        net.queue(1, 0, "b");
        net.agg_input(btcr2_agent::protocol::aggregator::AggregatorInput::OpenRound);
        let mut steps = 0;
        loop {
            let replayed: Vec<Mail> = net
                .archive
                .iter()
                // What is still on its way is no replay.
                .filter(|mail| !net.mail.iter().any(|other| same(mail, other)))
                .cloned()
                .collect();
            let before = (state(&net), net.mail.len());
            for Mail { from, to, message } in replayed {
                net.deliver(from, to, message);
            }
            // Answers to repeated questions are no news either.
            let answers = net.mail.split_off(before.1);
            assert_eq!(state(&net), before.0, "after {steps} steps");
            for Mail { from, to, message } in answers {
                net.deliver(from, to, message);
            }
            net.mail.truncate(before.1);
            assert_eq!(state(&net), before.0);
            if !net.step() {
                break;
            }
            steps += 1;
        }
        assert!(steps > 10);
        assert_eq!(net.agg.signals_signed(), 2);
        net.mine(1);
        assert_eq!(net.proved(1, 0), [Some(None), Some(Some(update("b")))]);
        net.next_round_works();
    }
}

fn same(one: &Mail, other: &Mail) -> bool {
    one.from == other.from && one.to == other.to && one.message == other.message
}

/// All that decides anything. Pending counts are a hint that a replay may set again, and how much was said is counted.
fn state(net: &Net) -> String {
    let but_counts = |machine: String| {
        let (state, _) = machine.split_once(", counted: Counted {").unwrap();
        state.to_owned()
    };
    let agg = but_counts(format!("{:?}", net.agg));
    let (head, rest) = agg.split_once("pending: {").unwrap();
    let (_, tail) = rest.split_once('}').unwrap();
    let members: Vec<String> = net
        .nodes
        .iter()
        .map(|node| {
            let core = but_counts(format!("{:?}", node.core));
            format!("{core}{}", node.saved.len())
        })
        .collect();
    format!("{head}{tail}{members:?}")
}

#[test]
fn messages_of_an_old_round_count_for_nothing_in_the_next() {
    let mut net = Net::ready(setup(CohortBeacon::Smt));
    net.round();
    let old: Vec<Mail> = ["response", "partial_signature"]
        .iter()
        .map(|name| net.last_sent(name))
        .collect();
    let old_told: Vec<Mail> = ["round_open", "sign_request", "proofs", "round_result"]
        .iter()
        .map(|name| net.last_sent(name))
        .collect();
    net.hold = Some("response");
    net.open();
    let outcomes: Vec<Outcome> = old
        .into_iter()
        .map(|mail| net.deliver(mail.from, mail.to, mail.message))
        .collect();
    use btcr2_agent::protocol::message::RefusalCode::NoSuchRound;
    assert_eq!(
        outcomes,
        [
            Outcome::Ignored(Ignored::Refused(NoSuchRound)),
            Outcome::Ignored(Ignored::WrongRound)
        ]
    );
    let outcomes: Vec<Outcome> = old_told
        .into_iter()
        .map(|mail| net.deliver(mail.from, mail.to, mail.message))
        .collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Ignored(Ignored::WrongRound),
            Outcome::Ignored(Ignored::WrongRound),
            Outcome::Ignored(Ignored::WrongRound),
            Outcome::Ignored(Ignored::Duplicate)
        ]
    );
    net.release();
    assert_eq!(net.agg.signals_signed(), 2);
    net.mine(1);
    net.next_round_works();
}

#[test]
fn a_result_that_comes_after_the_next_opening_still_counts() {
    let mut net = Net::ready(setup(CohortBeacon::Cas));
    net.queue(0, 0, "a");
    net.hold = Some("round_result");
    net.open();
    net.mine(1);
    net.open();
    net.mine(1);
    // Round 2 is signed without anybody having seen the result of round 1.
    assert_eq!(net.agg.signals_signed(), 2);
    net.release();
    for node in &net.nodes {
        let results = node
            .outcomes
            .iter()
            .filter(|(name, outcome)| *name == "round_result" && *outcome == Outcome::Accepted);
        assert_eq!(results.count(), 2);
    }
    assert_eq!(net.proved(0, 0), [Some(Some(update("a"))), Some(None)]);
    let Message::RoundResult(result) = net.last_sent("round_result").message else {
        unreachable!()
    };
    let again = net.deliver(
        net.agg_key.public(),
        Dest::Member(0),
        Message::RoundResult(result),
    );
    assert_eq!(again, Outcome::Ignored(Ignored::Duplicate));
    net.next_round_works();
}
