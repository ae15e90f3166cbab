//! Rule 6: a message counts only from the seat or aggregator it belongs to.

use std::collections::BTreeMap;

use btcr2_agent::hash::SmtIndex;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::{Ignored, Outcome};
use btcr2_agent::protocol::message::{
    EndCause, Ended, HistoryRequest, IndexChallenge, IndexOpening, Invite, Leave, Message,
    NonceRequest, NonceUpdate, OptIn, RefusalCode, Refused, Relays, Release, RoundCause,
    RoundFailed, RoundRequest, Subscribe,
};
use btcr2_agent::protocol::participant::ParticipantInput;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Label, Round, Seat};

use super::net::{Dest, Mail, Net, START, Setup};
use super::node::{MyDid, key};

/// A message of every type, most of them as an honest run of this very cohort sent them.
fn every_message(beacon: CohortBeacon) -> Vec<Message> {
    let mut net = Net::ready(Setup::new(beacon, 3));
    net.queue(0, 0, "a");
    net.round();
    net.open();
    let mut messages: BTreeMap<&'static str, Message> = BTreeMap::new();
    for mail in &net.archive {
        messages.insert(mail.message.type_name(), mail.message.clone());
    }
    let Message::PartialSignature(partials) = net.last_sent("partial_signature").message else {
        unreachable!()
    };
    let index = net.nodes[0].dids[0].index;
    let opening = net.nodes[0].dids[0].opening(&net.agg.cohort(), net.nodes[0].me());
    let made = [
        // A stranger may join an open cohort. Not under the terms of another.
        Message::OptIn(OptIn {
            terms: btcr2_agent::hash::CohortId::from_bytes([9; 32]),
            tos: None,
            payee: None,
            ticket: None,
        }),
        Message::Refused(Refused {
            of: "sign_request".into(),
            code: RefusalCode::WillNotSign,
            round: Some(Round(1)),
        }),
        Message::IndexChallenge(IndexChallenge {
            index,
            until: START,
        }),
        Message::IndexOpening(IndexOpening { index, opening }),
        Message::RoundRequest(RoundRequest { pending: 9 }),
        Message::NonceUpdate(net.signed(
            0,
            NonceUpdate {
                round: Round(1),
                attempt: 2,
                nonces: partials.content.spares.clone(),
                lost: true,
            },
        )),
        Message::NonceRequest(NonceRequest {
            round: Round(1),
            attempt: 2,
            seats: vec![Seat(0), Seat(1), Seat(2)],
            until: START,
        }),
        Message::RoundFailed(RoundFailed {
            round: Round(1),
            why: RoundCause::Operator,
            blamed: Vec::new(),
        }),
        Message::HistoryRequest(HistoryRequest {
            index: SmtIndex::from_bytes([1; 32]),
            from_round: Round(1),
        }),
        Message::History(btcr2_agent::protocol::message::History {
            index,
            items: Vec::new(),
            next: None,
        }),
        Message::Leave(Leave {
            even_if_frozen: true,
        }),
        Message::Release(Release {
            seat: Seat(0),
            reason: "out".into(),
        }),
        Message::Ended(Ended {
            why: EndCause::Cancelled,
        }),
        Message::Relays(Relays { relays: Vec::new() }),
        Message::Invite(Invite {
            terms: net.agg.terms().canonical(),
            relays: Vec::new(),
        }),
        Message::Subscribe(Subscribe { on: true }),
    ];
    for message in made {
        messages.insert(message.type_name(), message);
    }
    if beacon == CohortBeacon::Smt {
        assert_eq!(messages.len(), 28, "{:?}", messages.keys());
    }
    messages.into_values().collect()
}

/// Gives everybody every message from a stranger; nothing may change for anybody.
fn harass(net: &mut Net, messages: &[Message]) {
    let stranger = key("stranger").public();
    let before = format!("{:?}", net.agg);
    let members: Vec<String> = net
        .nodes
        .iter()
        .map(|node| format!("{:?}", node.core))
        .collect();
    let mail = net.mail.len();
    for message in messages {
        let name = message.type_name();
        let outcome = net.deliver(stranger, Dest::Aggregator, message.clone());
        if matches!(message, Message::HistoryRequest(_)) {
            // The past is told to anybody, and to nobody else.
            assert_eq!(outcome, Outcome::Accepted);
            let (to, answer) = net.elsewhere.pop().unwrap();
            assert_eq!(to, stranger);
            assert!(matches!(answer, Message::History(_)));
        } else {
            assert!(
                matches!(outcome, Outcome::Ignored(_)),
                "{name} of a stranger: {outcome:?}"
            );
        }
        for i in 0..net.nodes.len() {
            let fellow = net.nodes[(i + 1) % net.nodes.len()].me();
            for from in [stranger, fellow] {
                let outcome = net.deliver(from, Dest::Member(i), message.clone());
                assert_eq!(
                    outcome,
                    Outcome::Ignored(Ignored::NotTheAggregator),
                    "{name} to a member"
                );
            }
        }
    }
    assert_eq!(format!("{:?}", net.agg), before);
    for (node, before) in net.nodes.iter().zip(members) {
        assert_eq!(format!("{:?}", node.core), before);
    }
    assert_eq!(net.mail.len(), mail, "no member hears of it");
}

#[test]
fn a_strangers_messages_of_every_type_in_every_phase() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let messages = every_message(beacon);
        let mut net = Net::new(Setup::new(beacon, 3));
        harass(&mut net, &messages);
        net.advertise();
        for i in 0..3 {
            harass(&mut net, &messages);
            net.input(i, ParticipantInput::Join { payee: None });
        }
        while net.step() {
            harass(&mut net, &messages);
        }
        net.fund(100_000);
        harass(&mut net, &messages);
        for i in 0..3 {
            net.register(i, &[0]);
        }
        while net.step() {
            harass(&mut net, &messages);
        }
        net.queue(0, 0, "a");
        net.agg_input(AggregatorInput::OpenRound);
        while net.step() {
            harass(&mut net, &messages);
        }
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(1);
        harass(&mut net, &messages);
        net.next_round_works();
        net.agg_input(AggregatorInput::Cancel);
        net.run();
        harass(&mut net, &messages);
    }
}

#[test]
fn what_only_the_aggregator_says_counts_for_nothing_from_a_member_and_the_other_way_round() {
    let messages = every_message(CohortBeacon::Smt);
    let mut net = Net::ready(Setup::smt(3));
    net.queue(0, 0, "a");
    net.hold = Some("sign_request");
    net.open();
    let mut wrong_role = 0;
    for message in &messages {
        let of_member = matches!(
            message,
            Message::OptIn(_)
                | Message::CohortAck(_)
                | Message::Register(_)
                | Message::IndexOpening(_)
                | Message::RoundRequest(_)
                | Message::Response(_)
                | Message::NonceUpdate(_)
                | Message::PartialSignature(_)
                | Message::HistoryRequest(_)
                | Message::Leave(_)
                | Message::Subscribe(_)
        );
        let both = matches!(message, Message::Refused(_));
        if both {
            continue;
        }
        let outcome = if of_member {
            net.tell(1, message.clone())
        } else {
            net.say(1, message.clone())
        };
        assert_eq!(
            outcome,
            Outcome::Ignored(Ignored::WrongRole),
            "{}",
            message.type_name()
        );
        wrong_role += 1;
    }
    assert_eq!(wrong_role, 27);
    net.finish();
}

/// Bodies that carry evidence are signed by the seat; the author alone is not enough, and a body that
/// another seat signed is nobody's.
#[test]
fn forged_author() {
    let mut net = Net::new(Setup::cas(3));
    net.hold = Some("cohort_ack");
    net.advertise();
    for i in 0..3 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    replay_as_others(&mut net);
    net.release();
    net.fund(100_000);
    net.register_all();

    net.queue(1, 0, "b");
    net.hold = Some("response");
    net.open();
    replay_as_others(&mut net);
    net.hold = Some("partial_signature");
    let responses = std::mem::take(&mut net.held);
    net.mail.extend(responses);
    net.run();
    replay_as_others(&mut net);
    net.finish();
}

/// Every held message, as if each other member, the aggregator or a stranger had written it.
fn replay_as_others(net: &mut Net) {
    let held = net.held.clone();
    assert_eq!(held.len(), 3);
    let agg = net.agg_key.public();
    for Mail { from, message, .. } in held {
        for i in 0..3 {
            let other = net.nodes[i].me();
            if other != from {
                let outcome = net.deliver(other, Dest::Aggregator, message.clone());
                assert_eq!(outcome, Outcome::Ignored(Ignored::BadEvidence));
            }
        }
        for other in [agg, key("stranger").public()] {
            let outcome = net.deliver(other, Dest::Aggregator, message.clone());
            assert_eq!(outcome, Outcome::Ignored(Ignored::NotAMember));
        }
        // Without the signature, or with the signature of another body of the same author.
        let unsigned = match message {
            Message::CohortAck(mut body) => {
                body.sig = None;
                Message::CohortAck(body)
            }
            Message::Response(mut body) => {
                body.sig = None;
                Message::Response(body)
            }
            Message::PartialSignature(mut body) => {
                body.content.attempt = 1;
                body.content.spares.clear();
                assert!(body.content.nonces.contains_key(&Label::SIGNAL));
                Message::PartialSignature(body)
            }
            other => panic!("{other:?}"),
        };
        let outcome = net.deliver(from, Dest::Aggregator, unsigned);
        assert_eq!(outcome, Outcome::Ignored(Ignored::BadEvidence));
    }
}

#[test]
fn evidence_of_another_cohort_counts_for_nothing() {
    let mut other = Net::new(Setup::smt(2).terms(|terms| terms.name = "other".into()));
    other.form();
    let mut net = Net::new(Setup::smt(2));
    net.hold = Some("cohort_ack");
    net.advertise();
    for i in 0..2 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    // The same keys acknowledge the same set: what differs is the cohort.
    let mail = other.last_sent("cohort_ack");
    let outcome = net.deliver(mail.from, Dest::Aggregator, mail.message);
    assert!(matches!(
        outcome,
        Outcome::Ignored(Ignored::Contradiction(_))
    ));
    // With the right set's hash, its signature is still another cohort's.
    let Message::CohortAck(mut ack) = net.held[0].message.clone() else {
        unreachable!()
    };
    let seat = net.nodes.iter().find(|node| node.me() == net.held[0].from);
    let seat_key = &seat.unwrap().key;
    ack.sign_with(&other.agg.cohort(), |digest| seat_key.sign_digest(digest));
    let outcome = net.deliver(net.held[0].from, Dest::Aggregator, Message::CohortAck(ack));
    assert_eq!(outcome, Outcome::Ignored(Ignored::BadEvidence));
    // A registration proof is bound to the cohort too.
    let did = MyDid::k1(net.agg.terms().network, "did 0 0");
    let opening = did.opening(&other.agg.cohort(), net.nodes[0].me());
    let verdict = btcr2_agent::protocol::registration::verify_opening(
        &net.agg.cohort(),
        net.agg.terms().network,
        net.nodes[0].me(),
        &did.index,
        &opening,
    );
    assert_eq!(
        verdict,
        Err(btcr2_agent::protocol::registration::OpeningFault::Signature)
    );
    net.release();
    net.fund(10_000);
    net.register_all();
    net.round();
}
