//! Spare nonces: what a member offers with its partial signature for a session that may never come.

use std::collections::BTreeMap;

use btcr2_agent::keys::{NonceSlot, PublicNonce, Signer};
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::evidence::{LabelContext, Sighash, commitment};
use btcr2_agent::protocol::message::{Message, NonceUpdate, Partials};
use btcr2_agent::protocol::participant::MemberPhase;
use btcr2_agent::protocol::{Label, Round, Seat, SessionId};

use super::net::{Dest, Net, Setup};
use super::node::{key, update};

/// Nonces out of nowhere.
fn fresh(net: &Net, i: usize, attempt: u32) -> (Signer, NonceSlot, PublicNonce) {
    let mut signer = Signer::new();
    signer.add_seat(key(&format!("member {i}")));
    let slot = NonceSlot {
        seat: net.nodes[i].me(),
        session: SessionId::of_round(net.agg.cohort(), Round(1), attempt),
        label: Label::SIGNAL,
    };
    let nonce = signer.new_nonces(slot, net.now).unwrap();
    (signer, slot, nonce)
}

fn labelled(nonce: PublicNonce) -> BTreeMap<Label, PublicNonce> {
    BTreeMap::from([(Label::SIGNAL, nonce)])
}

/// Three members have signed session 1; nothing has arrived. Gives what each sent.
fn signed_by_all() -> (Net, Vec<Partials>) {
    // One rung: these tests make the nonces of a session by hand.
    let mut net = Net::ready(Setup::smt(3).terms(|terms| terms.fee_ladder = vec![1]));
    net.queue(0, 0, "a");
    net.hold = Some("partial_signature");
    net.open();
    let mut all: Vec<(usize, Partials)> = net
        .held
        .drain(..)
        .map(|mail| {
            let i = net.nodes.iter().position(|node| node.me() == mail.from);
            let Message::PartialSignature(signed) = mail.message else {
                unreachable!()
            };
            (i.unwrap(), signed.content)
        })
        .collect();
    all.sort_by_key(|(i, _)| *i);
    net.hold = None;
    (net, all.into_iter().map(|(_, content)| content).collect())
}

fn partial(net: &mut Net, i: usize, content: &Partials) -> Outcome {
    let signed = net.signed(i, content.clone());
    net.say(i, Message::PartialSignature(signed))
}

/// Member 2 says that it lost its nonces of session 1.
fn member_2_lost(net: &mut Net) -> BTreeMap<Label, PublicNonce> {
    let nonces = labelled(fresh(net, 2, 2).2);
    let lost = NonceUpdate {
        round: Round(1),
        attempt: 2,
        nonces: nonces.clone(),
        lost: true,
    };
    let signed = net.signed(2, lost);
    assert_eq!(net.say(2, Message::NonceUpdate(signed)), Outcome::Accepted);
    nonces
}

/// Whom the aggregator asks for nonces of session 2 now.
fn asked(net: &Net) -> Vec<Seat> {
    let mail = net.mail.iter().rev();
    mail.into_iter()
        .find_map(|mail| match &mail.message {
            Message::NonceRequest(request) => Some(request.seats.clone()),
            _ => None,
        })
        .unwrap_or_default()
}

const WRONG: Outcome = Outcome::Ignored(Ignored::WrongSession);

#[test]
fn spares_that_are_missing_or_were_used_are_asked_for_again() {
    let (net, all) = signed_by_all();
    drop(net);
    assert_eq!(all.len(), 3);
    for reuse in [false, true] {
        let (mut net, all) = signed_by_all();
        let mut content = all[1].clone();
        content.spares = match reuse {
            false => BTreeMap::new(),
            true => content.nonces.clone(),
        };
        assert_eq!(
            partial(&mut net, 1, &content),
            Outcome::Accepted,
            "the signature itself is good"
        );
        assert_eq!(partial(&mut net, 0, &all[0]), Outcome::Accepted);
        member_2_lost(&mut net);
        assert_eq!(asked(&net), [Seat(1)], "seat 0 has given good ones");
    }
}

#[test]
fn spares_that_come_late_count_unless_they_are_bad() {
    let (mut net, all) = signed_by_all();
    let of_2 = member_2_lost(&mut net);
    assert_eq!(asked(&net), [Seat(0), Seat(1)]);
    // The partial signatures of session 1 come now: useless, but for their spares.
    let mut empty = all[0].clone();
    empty.spares.clear();
    assert_eq!(partial(&mut net, 0, &empty), WRONG);
    let mut used = all[0].clone();
    used.spares = used.nonces.clone();
    assert_eq!(partial(&mut net, 0, &used), WRONG);
    let mut anothers = all[0].clone();
    anothers.spares = of_2;
    assert_eq!(partial(&mut net, 0, &anothers), WRONG);
    assert_eq!(net.agg.waiting_for(), [Seat(0), Seat(1)]);
    assert_eq!(partial(&mut net, 0, &all[0]), Outcome::Accepted);
    assert_eq!(net.agg.waiting_for(), [Seat(1)]);
    // A partial signature of this round exists, so a signal may come out of it.
    assert_eq!(
        net.agg_input(AggregatorInput::Cancel),
        Outcome::Ignored(Ignored::TooLate)
    );
    assert_eq!(partial(&mut net, 1, &all[1]), Outcome::Accepted);
    let Message::SignRequest(request) = net.last_sent("sign_request").message else {
        unreachable!()
    };
    assert_eq!(request.attempt, 2);
}

#[test]
fn nonces_that_were_offered_on_their_own_are_not_replaced_by_late_spares() {
    let (mut net, all) = signed_by_all();
    member_2_lost(&mut net);
    // Member 0 restarted after it signed: it answers with nonces of its own.
    net.restart(0);
    net.hook = Some(Box::new(|mail| match mail.to {
        Dest::Member(2) => Vec::new(),
        _ => vec![mail],
    }));
    net.run();
    assert_eq!(net.agg.waiting_for(), [Seat(1)]);
    assert_eq!(partial(&mut net, 0, &all[0]), WRONG);
    assert_eq!(partial(&mut net, 1, &all[1]), Outcome::Accepted);
    net.run();
    let progress = net.agg.open_round_progress();
    assert_eq!(
        progress,
        Some((Round(1), 3, 2)),
        "members 0 and 1 sign session 2"
    );
}

/// A partial signature that is right in itself, with a nonce that did not go into the sum.
#[test]
fn a_partial_with_a_nonce_that_was_not_offered() {
    for bad_spares in [false, true] {
        let (mut net, all) = signed_by_all();
        let (_, keys) = net.agg.set().unwrap();
        let Message::SignRequest(request) = net.last_sent("sign_request").message else {
            unreachable!()
        };
        let aggregate_nonce = request.aggregate_nonces[&Label::SIGNAL];
        let sighash: Sighash = net.nodes[0].core.given()[0].sighashes[0];
        let (mut signer, slot, nonce) = fresh(&net, 1, 1);
        let made = signer
            .sign(slot, &nonce, keys, &aggregate_nonce, sighash.as_bytes())
            .unwrap();
        let context = LabelContext {
            aggregate_nonce,
            sighash,
        };
        let session = BTreeMap::from([(Label::SIGNAL, context)]);
        let mut content = all[1].clone();
        content.nonces = labelled(nonce);
        content.partials = BTreeMap::from([(Label::SIGNAL, made)]);
        content.session_hash = commitment(keys, &content.nonces, &session).unwrap();
        let sessions = |net: &Net| {
            let lost = |report: &&Report| matches!(report, Report::SessionLost { .. });
            net.agg_reports.iter().filter(lost).count()
        };
        if bad_spares {
            for spares in [BTreeMap::new(), all[1].nonces.clone()] {
                content.spares = spares;
                assert_eq!(partial(&mut net, 1, &content), WRONG);
                assert_eq!(sessions(&net), 0, "nothing is gained by another session");
            }
        } else {
            assert_eq!(partial(&mut net, 1, &content), Outcome::Accepted);
            assert_eq!(net.agg.open_round_progress(), Some((Round(1), 3, 0)));
            assert_eq!(sessions(&net), 1, "it can sign the next one");
        }
        for i in [0, 1, 2] {
            let outcome = partial(&mut net, i, &all[i]);
            let late = !bad_spares && i == 1;
            assert_eq!(outcome, if late { WRONG } else { Outcome::Accepted });
        }
        net.run();
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
        assert_eq!(*net.nodes[1].core.phase(), MemberPhase::Active);
    }
}
