//! Sessions: lost nonces at every point of a round, bad partial signatures, and who can be blamed for them.

use std::collections::BTreeMap;

use btcr2_agent::keys::musig::aggregate_nonces;
use btcr2_agent::keys::{PartialSignature, SessionHash};
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::evidence::{
    Blame, BlameError, Fault, LabelContext, Sighash, Signed, commitment,
};
use btcr2_agent::protocol::message::{
    LostSession, Message, NonceRequest, NonceUpdate, Partials, RefusalCode, RoundCause, RoundFailed,
};
use btcr2_agent::protocol::participant::ParticipantInput;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Label, Round, Seat, SessionId};

use super::net::{Dest, Net, Setup};
use super::node::{key, update};

/// What happens to a member in the middle of a round.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    /// Its process dies and starts again.
    Restart,
    /// It drops its secret nonces without knowing (a clock that jumped, a day that passed).
    Forgets,
    /// Its process dies when it is about to sign.
    DiesAtSign,
    /// Its process dies when it is about to make nonces.
    DiesAtPrepare,
}

fn happens(net: &mut Net, i: usize, mishap: Mishap) {
    match mishap {
        Mishap::Restart => net.restart(i),
        Mishap::Forgets => {
            net.nodes[i].signer.drop_all_nonces();
        }
        Mishap::DiesAtSign => net.nodes[i].dies_at_sign = true,
        Mishap::DiesAtPrepare => net.nodes[i].dies_at_prepare = true,
    }
}

/// A round in which mishaps happen after so many deliveries. Gives the deliveries and the sessions it took.
fn round_with(
    beacon: CohortBeacon,
    shuffle: Option<u64>,
    mishaps: &[(usize, usize, Mishap)],
) -> (usize, u32) {
    let mut net = Net::ready(Setup::new(beacon, 3).terms(|terms| terms.sessions_max = 8));
    for i in 0..3 {
        net.queue(i, 0, &format!("{i}"));
    }
    net.run();
    net.shuffle = shuffle;
    net.agg_input(AggregatorInput::OpenRound);
    let mut steps = 0;
    loop {
        for (at, i, mishap) in mishaps {
            if *at == steps {
                happens(&mut net, *i, *mishap);
            }
        }
        if !net.step() {
            break;
        }
        steps += 1;
    }
    assert_eq!(
        net.agg.signals_signed(),
        1,
        "{beacon} {shuffle:?} {mishaps:?}: {:?}",
        net.agg_reports.last()
    );
    for node in &mut net.nodes {
        (node.dies_at_sign, node.dies_at_prepare) = (false, false);
    }
    net.mine(1);
    for i in 0..3 {
        assert_eq!(net.proved(i, 0), [Some(Some(update(&format!("{i}"))))]);
        assert_eq!(net.nodes[i].alarms(), [""; 0]);
        assert_eq!(net.nodes[i].refusals(), [""; 0]);
    }
    net.shuffle = None;
    net.next_round_works();
    let lost = net.agg_reports.iter().filter_map(|report| match report {
        Report::SessionLost { attempt, .. } => Some(*attempt),
        _ => None,
    });
    (steps, lost.max().unwrap_or(1))
}

#[test]
fn nonces_lost_at_every_point_of_a_round() {
    for mishap in [
        Mishap::Restart,
        Mishap::Forgets,
        Mishap::DiesAtSign,
        Mishap::DiesAtPrepare,
    ] {
        let (total, sessions) = round_with(CohortBeacon::Smt, None, &[]);
        assert_eq!(sessions, 1);
        let mut most = 0;
        // Who dies at its next order does so wherever that was given to it: not every point is another.
        let stride = match mishap {
            Mishap::Restart | Mishap::Forgets => 1,
            Mishap::DiesAtSign | Mishap::DiesAtPrepare => 6,
        };
        for at in (0..=total).step_by(stride) {
            // The member in the middle: some were asked before it, some after.
            let (_, sessions) = round_with(CohortBeacon::Smt, None, &[(at, 1, mishap)]);
            most = most.max(sessions);
        }
        match mishap {
            Mishap::DiesAtPrepare => assert_eq!(most, 1, "the response was only late"),
            _ => assert_eq!(most, 2, "{mishap:?} costs one session at most"),
        }
    }
}

#[test]
fn several_mishaps_in_any_order_of_delivery() {
    for seed in 0..24_u64 {
        let beacon = [CohortBeacon::Smt, CohortBeacon::Cas][seed as usize % 2];
        let mishap = |n: u64| {
            [
                Mishap::Restart,
                Mishap::Forgets,
                Mishap::DiesAtSign,
                Mishap::DiesAtPrepare,
            ][(seed / 2 + n) as usize % 4]
        };
        let at = |n: u64| (seed.wrapping_mul(7 + n) % 17) as usize;
        let mishaps = [
            (at(0), 0, mishap(0)),
            (at(1), 1, mishap(1)),
            (at(2), 0, mishap(3)),
        ];
        round_with(beacon, Some(seed), &mishaps);
    }
}

#[test]
fn when_the_sessions_are_used_up_the_round_ends_and_says_so() {
    for sessions_max in [1, 2] {
        let setup = Setup::smt(3).terms(|terms| terms.sessions_max = sessions_max);
        let mut net = Net::ready(setup);
        net.queue(0, 0, "a");
        // Member 2 forgets its nonces each time before it is asked to sign.
        net.agg_input(AggregatorInput::OpenRound);
        loop {
            let asked = net.mail.front().is_some_and(|mail| {
                matches!(mail.message, Message::SignRequest(_)) && mail.to == Dest::Member(2)
            });
            if asked {
                net.nodes[2].signer.drop_all_nonces();
            }
            if !net.step() {
                break;
            }
        }
        let reports = std::iter::once(&net.agg_reports);
        let reports = reports.chain(net.nodes.iter().map(|node| &node.reports));
        for reports in reports {
            let lost = used_up(reports).expect("the round ends with its cause");
            let sessions: Vec<_> = lost.iter().map(|lost| (lost.attempt, lost.seat)).collect();
            let expected: Vec<_> = (1..=sessions_max.into()).map(|n| (n, Seat(2))).collect();
            assert_eq!(sessions, expected);
            // Its own word, signed: nobody has to take the aggregator's.
            let (cohort, member) = (net.agg.cohort(), net.nodes[2].me());
            assert!(
                lost.iter()
                    .all(|lost| lost.is_shown(&cohort, Round(1), &member))
            );
            let other = net.nodes[1].me();
            assert!(
                !lost
                    .iter()
                    .any(|lost| lost.is_shown(&cohort, Round(1), &other))
            );
            assert!(
                !lost
                    .iter()
                    .any(|lost| lost.is_shown(&cohort, Round(2), &member))
            );
        }
        for conduct in [net.agg.conduct(), net.nodes[0].core.conduct()] {
            assert_eq!(conduct.of(Seat(2)).unwrap().missed, 1);
            assert_eq!(conduct.of(Seat(0)), None);
        }
        net.next_round_works();
        assert_eq!(net.proved(0, 0)[0], Some(Some(update("a"))));
    }
}

/// Who lost the sessions of a round that ended for it.
fn used_up(reports: &[Report]) -> Option<Vec<LostSession>> {
    reports.iter().find_map(|report| match report {
        Report::RoundFailed {
            why: RoundCause::SessionsUsedUp { lost },
            ..
        } => Some(lost.clone()),
        _ => None,
    })
}

#[test]
fn one_accident_beside_three_is_not_held_against_anybody() {
    let lost = |attempt, seat| LostSession {
        attempt,
        seat: Seat(seat),
        shown: None,
    };
    let named = |seats: &[u16]| {
        let lost = (1..).zip(seats).map(|(attempt, seat)| lost(attempt, *seat));
        let why = RoundCause::SessionsUsedUp {
            lost: lost.collect(),
        };
        why.named()
    };
    assert_eq!(named(&[2, 0, 2, 2]), [Seat(2)]);
    assert_eq!(named(&[1, 0, 1, 0]), [Seat(0), Seat(1)]);
    assert_eq!(named(&[]), [Seat(0); 0]);
}

/// A cohort of three in which member 1 just said that it lost its nonces of the only session; what it said.
fn member_1_lost() -> (Net, Signed<NonceUpdate>) {
    let mut net = Net::ready(Setup::smt(3).terms(|terms| terms.sessions_max = 1));
    net.queue(0, 0, "a");
    net.hold = Some("nonce_update");
    net.nodes[1].dies_at_sign = true;
    net.agg_input(AggregatorInput::OpenRound);
    net.run();
    let said = net.held.iter().find_map(|mail| match &mail.message {
        Message::NonceUpdate(signed) => Some(signed.clone()),
        _ => None,
    });
    (net, said.expect("it says that it lost its nonces"))
}

/// The same with a change, signed by member 1 again.
fn again(
    net: &Net,
    said: &Signed<NonceUpdate>,
    change: fn(&mut NonceUpdate),
) -> Signed<NonceUpdate> {
    let mut content = said.content.clone();
    change(&mut content);
    net.signed(1, content)
}

#[test]
fn sessions_that_a_seat_never_said_it_lost_are_shown_as_a_claim() {
    type Shown = fn(&Net, Signed<NonceUpdate>) -> Option<Signed<NonceUpdate>>;
    let cases: [(u16, Shown, bool); 7] = [
        (1, |_, said| Some(said), true),
        // Nonces for a session that others lost: what anybody is asked for.
        (
            1,
            |net, said| Some(again(net, &said, |said| said.lost = false)),
            false,
        ),
        (
            1,
            |net, said| Some(again(net, &said, |said| said.attempt = 3)),
            false,
        ),
        (
            1,
            |net, said| Some(again(net, &said, |said| said.round = Round(2))),
            false,
        ),
        // Altered, and not signed again.
        (
            1,
            |_, mut said| {
                said.content.nonces.clear();
                Some(said)
            },
            false,
        ),
        // Another seat, and one that nobody has.
        (2, |_, said| Some(said), false),
        (9, |_, said| Some(said), false),
    ];
    for (n, (seat, shown, proved)) in cases.into_iter().enumerate() {
        let (mut net, said) = member_1_lost();
        let lost = LostSession {
            attempt: 1,
            seat: Seat(seat),
            shown: shown(&net, said).map(Box::new),
        };
        let failed = RoundFailed {
            round: Round(1),
            why: RoundCause::SessionsUsedUp { lost: vec![lost] },
            blamed: Vec::new(),
        };
        assert_eq!(net.tell(0, Message::RoundFailed(failed)), Outcome::Accepted);
        let lost = used_up(&net.nodes[0].reports).unwrap();
        assert_eq!(lost[0].shown.is_some(), proved, "case {n}");
    }
}

#[test]
fn a_session_needs_nonces_in_time_too() {
    let mut net = Net::ready(Setup::cas(3).terms(|terms| terms.signing_seconds = 100));
    net.queue(0, 0, "a");
    net.nodes[1].dies_at_sign = true;
    // Nobody's spares or nonces arrive any more.
    net.hook = Some(Box::new(|mail| {
        let silent = mail.from == key("member 2").public()
            && matches!(
                mail.message,
                Message::PartialSignature(_) | Message::NonceUpdate(_)
            );
        if silent { Vec::new() } else { vec![mail] }
    }));
    net.open();
    assert_eq!(net.agg.waiting_for(), [Seat(2)]);
    net.advance(101);
    let why = RoundCause::NoResponse {
        absent: vec![Seat(2)],
    };
    let report = Report::RoundFailed {
        round: Round(1),
        why,
    };
    assert!(net.agg_reports.contains(&report));
    net.hook = None;
    net.next_round_works();
}

#[test]
fn a_nonce_request_is_answered_once_and_only_where_it_counts() {
    let mut net = Net::ready(Setup::smt(3));
    net.hold = Some("sign_request");
    net.open();
    let request = |round, attempt, seats: &[u16]| {
        Message::NonceRequest(NonceRequest {
            round: Round(round),
            attempt,
            seats: seats.iter().map(|seat| Seat(*seat)).collect(),
            until: net.now,
        })
    };
    let cases = [
        (request(2, 2, &[0]), Ignored::WrongRound),
        (request(1, 1, &[0]), Ignored::WrongSession),
        (request(1, 2, &[1, 2]), Ignored::WrongSession),
        (request(1, 5, &[0]), Ignored::WrongSession),
    ];
    let good = request(1, 2, &[0]);
    for (message, why) in cases {
        assert_eq!(net.tell(0, message), Outcome::Ignored(why));
    }
    assert_eq!(net.tell(0, good.clone()), Outcome::Accepted);
    assert_eq!(
        net.tell(0, good),
        Outcome::Ignored(Ignored::WrongSession),
        "its nonces are out already"
    );
    // The member moved on: it offered nonces for session 2, so the request of session 1 is history.
    let kept = net.held.iter().position(|mail| mail.to == Dest::Member(0));
    let kept = net.held.remove(kept.unwrap());
    assert_eq!(
        net.tell(0, kept.message),
        Outcome::Ignored(Ignored::WrongSession)
    );
    net.finish();
}

#[test]
fn nonce_updates_that_do_not_count() {
    let mut net = Net::ready(Setup::smt(3));
    net.hold = Some("partial_signature");
    net.open();
    let Message::PartialSignature(partials) = net.held[1].message.clone() else {
        unreachable!()
    };
    let spares = partials.content.spares.clone();
    let update = |net: &Net, round, attempt, nonces: &BTreeMap<_, _>| {
        let content = NonceUpdate {
            round: Round(round),
            attempt,
            nonces: nonces.clone(),
            lost: false,
        };
        Message::NonceUpdate(net.signed(1, content))
    };
    let refused = |code| Outcome::Ignored(Ignored::Refused(code));
    let cases = [
        (
            update(&net, 2, 2, &spares),
            refused(RefusalCode::NoSuchRound),
        ),
        // Nonces of a session that is being signed do not change any more.
        (
            update(&net, 1, 1, &spares),
            Outcome::Ignored(Ignored::WrongSession),
        ),
        (
            update(&net, 1, 3, &spares),
            Outcome::Ignored(Ignored::WrongSession),
        ),
        (
            update(&net, 1, 2, &BTreeMap::new()),
            refused(RefusalCode::Malformed),
        ),
        // The public nonces it used in session 1.
        (
            update(&net, 1, 2, &partials.content.nonces),
            refused(RefusalCode::NonceReused),
        ),
    ];
    for (message, outcome) in cases {
        assert_eq!(net.say(1, message), outcome);
    }
    let Message::NonceUpdate(mut forged) = update(&net, 1, 2, &spares) else {
        unreachable!()
    };
    forged.sig = None;
    assert_eq!(
        net.say(1, Message::NonceUpdate(forged)),
        Outcome::Ignored(Ignored::BadEvidence)
    );
    net.finish();
}

// ---- blame ----------------------------------------------------------------------------------------------------

/// A round in which all have signed and nothing has arrived; gives member 1's partial signatures.
fn at_partials(beacon: CohortBeacon) -> (Net, Partials) {
    let mut net = Net::ready(Setup::new(beacon, 3));
    net.queue(0, 0, "a");
    net.hold = Some("partial_signature");
    net.open();
    assert_eq!(net.held.len(), 3);
    let from = net.nodes[1].me();
    let held = net.held.iter().find(|mail| mail.from == from).unwrap();
    let Message::PartialSignature(signed) = &held.message else {
        unreachable!()
    };
    let content = signed.content.clone();
    (net, content)
}

fn send(net: &mut Net, content: Partials) -> Outcome {
    let signed = net.signed(1, content);
    net.say(1, Message::PartialSignature(signed))
}

/// Another scalar, valid as such.
fn spoiled(content: &Partials) -> Partials {
    let mut content = content.clone();
    content.partials.insert(
        Label::SIGNAL,
        PartialSignature::from_bytes(&[7; 32]).unwrap(),
    );
    content
}

/// A cohort of three at its first round, in which member 1 sent a bad partial signature and no good one, up to the
/// end of the round.
pub fn after_a_bad_partial() -> (Net, Blame) {
    let (mut net, good) = at_partials(CohortBeacon::Smt);
    let member = net.nodes[1].me();
    assert_eq!(send(&mut net, spoiled(&good)), Outcome::Blamed(member));
    let at = net.held.iter().position(|mail| mail.from == member);
    net.held.remove(at.unwrap());
    net.release();
    net.advance(86_401);
    let (blame, _) = blames(&net.agg_reports)[0].clone();
    (net, blame)
}

fn blames(reports: &[Report]) -> Vec<(Blame, bool)> {
    reports
        .iter()
        .filter_map(|report| match report {
            Report::MemberBlamed { blame, proved } => Some((blame.clone(), *proved)),
            _ => None,
        })
        .collect()
}

/// What the session really signed.
fn contexts(net: &Net) -> BTreeMap<Label, LabelContext> {
    let given = net.nodes[0].core.given().iter();
    let context = |rung: u8, sighash: Sighash| {
        let label = Label::Signal { rung, input: 0 };
        let nonces: Vec<_> = net
            .held
            .iter()
            .map(|mail| match &mail.message {
                Message::PartialSignature(signed) => signed.content.nonces[&label],
                other => panic!("{other:?}"),
            })
            .collect();
        let context = LabelContext {
            aggregate_nonce: aggregate_nonces(&nonces).unwrap(),
            sighash,
        };
        (label, context)
    };
    given
        .map(|given| context(given.rung, given.sighashes[0]))
        .collect()
}

#[test]
fn a_bad_partial_is_blamed_with_evidence_and_does_not_kill_the_round() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let (mut net, good) = at_partials(beacon);
        let member = net.nodes[1].me();
        assert_eq!(send(&mut net, spoiled(&good)), Outcome::Blamed(member));
        assert_eq!(send(&mut net, spoiled(&good)), Outcome::Blamed(member));
        let [(blame, true), (_, true)] = &blames(&net.agg_reports)[..] else {
            panic!("{:?}", net.agg_reports)
        };
        assert_eq!(blame.member, member);
        // Somebody who has nothing but the cohort's id, its keys and the evidence, as JSON.
        let text = serde_json::to_string(blame).unwrap();
        let evidence: Blame = serde_json::from_str(&text).unwrap();
        let (_, keys) = net.agg.set().unwrap();
        assert_eq!(evidence.verify(&net.agg.cohort(), keys), Ok(()));
        // The good one still counts.
        assert_eq!(send(&mut net, good), Outcome::Accepted);
        net.finish();
    }
}

#[test]
fn a_member_that_sends_nothing_but_a_bad_partial_is_named_to_all() {
    let (mut net, good) = at_partials(CohortBeacon::Smt);
    let member = net.nodes[1].me();
    // One piece of evidence is enough, however often it tries.
    for _ in 0..3 {
        assert_eq!(send(&mut net, spoiled(&good)), Outcome::Blamed(member));
    }
    let at = net.held.iter().position(|mail| mail.from == member);
    net.held.remove(at.unwrap());
    net.release();
    net.advance(86_401);
    let report = Report::RoundFailed {
        round: Round(1),
        why: RoundCause::NoSignature {
            absent: vec![Seat(1)],
        },
    };
    assert!(net.agg_reports.contains(&report));
    for node in &net.nodes {
        assert!(node.reports.contains(&report));
        let [(blame, proved)] = &blames(&node.reports)[..] else {
            panic!("{:?}", node.reports)
        };
        assert_eq!((blame.member, *proved), (member, true));
    }
    net.next_round_works();
}

#[test]
fn a_partial_for_another_session_is_neither_taken_nor_blamed() {
    let (mut net, good) = at_partials(CohortBeacon::Cas);
    let mut other_hash = good.clone();
    other_hash.session_hash = SessionHash::from_bytes([1; 32]);
    let mut later = good.clone();
    later.attempt = 2;
    let mut earlier = good.clone();
    earlier.attempt = 0;
    let mut unlabelled = good.clone();
    unlabelled.partials.clear();
    for bad in [other_hash, later, earlier, unlabelled] {
        assert_eq!(send(&mut net, bad), Outcome::Ignored(Ignored::WrongSession));
    }
    let mut other_round = good.clone();
    other_round.round = Round(2);
    assert_eq!(
        send(&mut net, other_round),
        Outcome::Ignored(Ignored::WrongRound)
    );
    assert!(blames(&net.agg_reports).is_empty());
    assert_eq!(send(&mut net, good.clone()), Outcome::Accepted);
    // What was taken is not replaced, not even by a bad one.
    assert_eq!(
        send(&mut net, spoiled(&good)),
        Outcome::Ignored(Ignored::Duplicate)
    );
    net.finish();
}

#[test]
fn partials_before_there_is_anything_to_sign() {
    let (mut net, good) = at_partials(CohortBeacon::Smt);
    net.release();
    net.mine(1);
    net.hold = Some("response");
    net.open();
    let mut early = good;
    early.round = Round(2);
    assert_eq!(
        send(&mut net, early),
        Outcome::Ignored(Ignored::WrongSession)
    );
    net.release();
    assert_eq!(net.agg.signals_signed(), 2);
}

/// An aggregator that shows others what the member never signed.
#[test]
fn a_framed_member() {
    let (net, good) = at_partials(CohortBeacon::Smt);
    let (_, keys) = net.agg.set().unwrap();
    let cohort = net.agg.cohort();
    let member = net.nodes[1].me();
    let real = contexts(&net);
    assert_eq!(
        commitment(keys, &good.nonces, &real),
        Some(good.session_hash)
    );
    let blame = |partials: Signed<Partials>, session: &BTreeMap<Label, LabelContext>| Blame {
        member,
        fault: Fault::BadPartial {
            partials: Box::new(partials),
            label: Label::SIGNAL,
            session: session.clone(),
        },
    };
    let signed = net.signed(1, good.clone());

    let mut false_nonce = real.clone();
    let own = good.nonces[&Label::SIGNAL];
    false_nonce.get_mut(&Label::SIGNAL).unwrap().aggregate_nonce =
        aggregate_nonces(&[own]).unwrap();
    let mut false_sighash = real.clone();
    false_sighash.get_mut(&Label::SIGNAL).unwrap().sighash = Sighash::from_bytes([1; 32]);
    for session in [false_nonce, false_sighash, BTreeMap::new()] {
        assert_eq!(
            blame(signed.clone(), &session).verify(&cohort, keys),
            Err(BlameError::OtherSession)
        );
    }
    assert_eq!(
        blame(signed.clone(), &real).verify(&cohort, keys),
        Err(BlameError::Valid)
    );
    // The aggregator can not sign for the member, nor use what it said elsewhere.
    let mut altered = signed.clone();
    altered.content = spoiled(&good);
    assert_eq!(
        blame(altered.clone(), &real).verify(&cohort, keys),
        Err(BlameError::NotSigned)
    );
    altered.sign_with(&cohort, |digest| net.agg_key.sign_digest(digest));
    assert_eq!(
        blame(altered, &real).verify(&cohort, keys),
        Err(BlameError::NotSigned)
    );
    let other_cohort = btcr2_agent::hash::CohortId::from_bytes([4; 32]);
    assert_eq!(
        blame(signed.clone(), &real).verify(&other_cohort, keys),
        Err(BlameError::NotSigned)
    );
    let mut stranger = blame(signed, &real);
    stranger.member = key("stranger").public();
    assert_eq!(stranger.verify(&cohort, keys), Err(BlameError::NotAMember));
    // Only what is signed and really bad re-verifies.
    let bad = net.signed(1, spoiled(&good));
    assert_eq!(blame(bad, &real).verify(&cohort, keys), Ok(()));
}

#[test]
fn a_false_blame_is_shown_as_a_claim() {
    let (mut net, good) = at_partials(CohortBeacon::Cas);
    let session = contexts(&net);
    let blame = Blame {
        member: net.nodes[1].me(),
        fault: Fault::BadPartial {
            partials: Box::new(net.signed(1, good)),
            label: Label::SIGNAL,
            session,
        },
    };
    let failed = RoundFailed {
        round: Round(1),
        why: RoundCause::Operator,
        blamed: vec![blame],
    };
    assert_eq!(net.tell(0, Message::RoundFailed(failed)), Outcome::Accepted);
    let [(_, proved)] = blames(&net.nodes[0].reports)[..] else {
        panic!("{:?}", net.nodes[0].reports)
    };
    assert!(!proved);
    // Member 0 believes that the round failed; its partial signature counts all the same.
    net.release();
    assert_eq!(net.agg.signals_signed(), 1);
    net.mine(1);
    net.next_round_works();
}

#[test]
fn the_signer_answers_what_nobody_asked() {
    let mut net = Net::ready(Setup::smt(2));
    net.hold = Some("sign_request");
    net.open();
    let session = SessionId::of_round(net.agg.cohort(), Round(1), 1);
    assert_eq!(
        net.input(0, ParticipantInput::SignFailed { session }),
        Outcome::Ignored(Ignored::Unasked)
    );
    let signed = btcr2_agent::protocol::participant::SignedSession {
        session,
        partials: BTreeMap::new(),
        spares: BTreeMap::new(),
    };
    assert_eq!(
        net.input(0, ParticipantInput::Signed(signed)),
        Outcome::Ignored(Ignored::Unasked)
    );
    let prepared = btcr2_agent::protocol::effect::Prepared {
        session: SessionId {
            subject: btcr2_agent::protocol::Subject::Round(Round(7)),
            ..session
        },
        nonces: BTreeMap::new(),
        smt_nonces: Vec::new(),
    };
    assert_eq!(
        net.input(0, ParticipantInput::Prepared(prepared)),
        Outcome::Ignored(Ignored::Unasked)
    );
    net.finish();
}
