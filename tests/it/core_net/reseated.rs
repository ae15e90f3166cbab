//! A member whose store was made again out of its words alone: the aggregator is asked for what it told the seat.

use btcr2_agent::hash::SchnorrSignature;
use btcr2_agent::keys::Signer;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{EndCause, Message, SeatRequest, SeatState};
use btcr2_agent::protocol::participant::{
    Decline, MemberPhase, Participant, ParticipantInput, Regained,
};
use btcr2_agent::protocol::terms::{CohortBeacon, Funding, OutputPolicy};

use super::net::{Dest, HOUR, Mail, Net, Setup};
use super::node::{key, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

impl Net {
    /// All that a member knew is gone.
    fn forget_all(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.core = Participant::new(node.core.terms().clone(), node.me(), node.policy);
        node.signer = Signer::new();
        node.signer.add_seat(key(&format!("member {i}")));
        node.saved.clear();
        node.updates.clear();
        node.reports.clear();
        node.outcomes.clear();
        node.log.clear();
        node.in_channel = false;
    }

    /// It asks for its seat, and finds the DIDs behind the indexes it is told.
    fn reseat(&mut self, i: usize) {
        self.forget_all(i);
        let asked = self.input(i, ParticipantInput::Reseat { payee: None });
        assert_eq!(asked, Outcome::Accepted);
        self.run();
        self.claim(i);
    }

    fn claim(&mut self, i: usize) {
        let node = &self.nodes[i];
        let did_of = |index| node.dids.iter().find(|did| did.index == index);
        let items = node
            .core
            .unclaimed()
            .map(|(index, _)| Regained {
                index,
                did: did_of(index).map(|did| did.did.clone()),
            })
            .collect();
        self.input(i, ParticipantInput::Regained { items });
        self.sync();
        self.run();
    }

    fn sent_by(&self, i: usize, type_name: &str) -> usize {
        let me = self.nodes[i].me();
        let mail = self.archive.iter();
        mail.filter(|mail| mail.from == me && mail.message.type_name() == type_name)
            .count()
    }

    /// Every seat state on its way to members is changed.
    fn meddle(&mut self, change: impl Fn(&mut SeatState) + 'static) {
        self.hook = Some(Box::new(move |mut mail: Mail| {
            if let Message::SeatState(state) = &mut mail.message {
                change(state);
            }
            vec![mail]
        }));
    }
}

fn setup(beacon: CohortBeacon) -> Setup {
    Setup::new(beacon, 3)
        .dids(&[2, 1, 1])
        .decline(Decline::NoUpdate)
        .terms(|terms| {
            terms.response_seconds = 60;
            terms.signing_seconds = 60;
        })
}

/// Seat, set, indexes and proofs of all rounds are there again, and the next round covers everything.
#[test]
fn a_seat_comes_back_from_nothing_and_takes_part_in_the_next_round() {
    for beacon in BEACONS {
        for policy in [OutputPolicy::Musig2KeyPath, OutputPolicy::KOfN(2)] {
            let mut net = Net::ready(setup(beacon).terms(|terms| {
                terms.seats_min = 3;
                terms.output_policy = policy;
            }));
            net.queue(1, 0, "one");
            net.round();
            net.round();
            net.now = net.now.plus(HOUR);

            net.reseat(0);
            let core = &net.nodes[0].core;
            assert_eq!(*core.phase(), MemberPhase::Active);
            assert_eq!(core.set().unwrap().0, net.agg.set().unwrap().0);
            assert_eq!(core.unclaimed().count(), 0);
            for j in 0..2 {
                let none = [Some(None), Some(None)];
                assert_eq!(net.proved(0, j), none, "{beacon:?} {policy:?}");
            }
            assert_eq!(net.nodes[0].alarms(), [] as [&str; 0]);
            let unknown = |report: &&Report| matches!(report, Report::UnknownSpend { .. });
            assert_eq!(net.nodes[0].reports.iter().filter(unknown).count(), 0);

            assert_eq!(net.queue(0, 1, "two"), Outcome::Accepted);
            net.round();
            assert_eq!(net.proved(0, 1).last(), Some(&Some(Some(update("two")))));
            assert_eq!(net.proved(0, 0).last(), Some(&Some(None)));
            net.next_round_works();
        }
    }
}

/// Rule 13 holds from the start: until the past is proved, nothing is signed.
#[test]
fn nothing_is_signed_before_the_past_is_proved() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon));
        net.round();
        net.now = net.now.plus(HOUR);
        net.hold = Some("history");
        net.reseat(0);
        net.open();
        assert_eq!(net.sent_by(0, "response"), 2);
        assert_eq!(net.agg.signals_signed(), 1);
        let refused = net.nodes[0].refusals().join(" ");
        assert!(refused.contains("proofs of earlier signals"), "{refused}");
        net.release();
        assert_eq!(net.agg.signals_signed(), 2);
        net.mine(1);
        net.next_round_works();
    }
}

/// The store that is lost may have responded and signed.
#[test]
fn a_round_that_is_open_is_left() {
    for held in ["response", "sign_request", "partial_signature"] {
        let mut net = Net::ready(setup(CohortBeacon::Smt));
        net.hold = Some(held);
        net.open();
        let responses = net.sent_by(0, "response");
        net.reseat(0);
        let open = net.last_sent("round_open").message;
        let again = net.tell(0, open);
        assert!(matches!(again, Outcome::Ignored(_)), "{again:?}");
        net.release();
        assert_eq!(net.sent_by(0, "response"), responses, "{held}");
        assert_eq!(net.nodes[0].core.given().len(), 0);
        let signed = u32::from(held == "partial_signature");
        assert_eq!(net.agg.signals_signed(), signed, "{held}");
        net.advance(600);
        net.mine(1);
        net.round();
        assert_eq!(net.proved(0, 0).last(), Some(&Some(None)));
        net.next_round_works();
    }
}

/// Relays serve what the lost store was told in any order, also before the aggregator answers.
#[test]
fn what_became_of_earlier_rounds_is_no_news_of_its_own() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon));
        net.round();
        net.now = net.now.plus(HOUR);
        let result = net.last_sent("round_result").message;
        net.forget_all(0);
        net.hold = Some("seat_request");
        net.input(0, ParticipantInput::Reseat { payee: None });
        let frozen = [net.last_sent("cohort_set"), net.last_sent("frozen")];
        for mail in frozen {
            net.tell(0, mail.message);
        }
        let told = net.tell(0, result);
        assert_eq!(told, Outcome::Ignored(Ignored::WrongRound));
        assert_eq!(net.nodes[0].alarms(), [] as [&str; 0]);
        net.release();
        net.claim(0);
        net.next_round_works();
    }
}

/// Nobody has answered yet, and only the deadline of a round tells when it was opened: the second in which the store
/// began is taken for one before it.
#[test]
fn a_round_that_was_opened_before_the_answer_is_left_by_its_deadline() {
    for later in [0, 1, 3_600] {
        let mut net = Net::ready(setup(CohortBeacon::Smt));
        net.hold = Some("response");
        net.open();
        let open = net.last_sent("round_open").message;
        let responses = net.sent_by(0, "response");
        net.now = net.now.plus(later);
        net.forget_all(0);
        net.hold = Some("seat_request");
        net.input(0, ParticipantInput::Reseat { payee: None });
        for name in ["cohort_set", "frozen"] {
            let message = net.last_sent(name).message;
            net.tell(0, message);
        }
        let told = net.tell(0, open);
        assert!(matches!(told, Outcome::Ignored(_)), "{later}: {told:?}");
        assert_eq!(net.sent_by(0, "response"), responses, "{later}");
    }
}

/// A store that is a copy from before the set was told: relays serve the newest first.
#[test]
fn an_old_copy_hears_of_the_frozen_set_before_the_set() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon));
        net.round();
        net.forget_all(0);
        net.input(0, ParticipantInput::Join { payee: None });
        for told in ["frozen", "cohort_set"] {
            let message = net.last_sent(told).message;
            assert_eq!(net.tell(0, message), Outcome::Accepted, "{told}");
        }
        assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Active);
        assert_eq!(net.nodes[0].alarms(), [] as [&str; 0]);
    }
}

/// The same of the refund of what a signal will spend: without it nothing is signed where members fund.
#[test]
fn an_old_copy_hears_of_a_refund_before_the_set() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon).refunds().terms(|terms| {
            terms.funding = Funding::Members;
        }));
        net.forget_all(0);
        let payee = net.payee("member 0");
        net.input(0, ParticipantInput::Join { payee });
        let complete = net.last_sent("refund_complete").message;
        let Message::RefundComplete(refund) = &complete else {
            unreachable!()
        };
        let outpoint = refund.outpoint;
        assert_eq!(net.tell(0, complete), Outcome::Accepted);
        assert!(net.nodes[0].core.refund_of(&outpoint).is_none());
        for told in ["frozen", "cohort_set"] {
            let message = net.last_sent(told).message;
            assert_eq!(net.tell(0, message), Outcome::Accepted, "{told}");
        }
        assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Active);
        assert_eq!(net.nodes[0].alarms(), [] as [&str; 0]);
        assert!(net.nodes[0].core.refund_of(&outpoint).is_some());
        let saved = net.nodes[0].saved.iter();
        let of_it = |saved: &&Artifact| matches!(saved, Artifact::Refund { outpoint: of, .. } if *of == outpoint);
        assert_eq!(saved.filter(of_it).count(), 1);
    }
}

/// The set that counts is the one that this seat once signed, whoever says what.
#[test]
fn only_what_this_seat_signed_is_its_set() {
    let mut net = Net::ready(setup(CohortBeacon::Smt).refunds());
    let seat = net.agg.set().unwrap().0.seat_of(&net.nodes[0].me());
    let mine = usize::from(seat.unwrap().0);
    // It does not know where its refunds were to go: it acknowledges nothing anew.
    net.meddle(|state| state.acks.clear());
    net.reseat(0);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Acknowledged);
    assert_eq!(net.sent_by(0, "cohort_ack"), 1);
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);

    net.meddle(move |state| state.acks[mine] = SchnorrSignature::from_bytes([7; 64]));
    net.advance(HOUR);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Acknowledged);
    let alarm = net.nodes[0].alarms().join(" ");
    assert!(alarm.contains("has not acknowledged the set"), "{alarm}");

    let other = net.payee("a thief");
    let me = net.nodes[0].me();
    net.meddle(move |state| {
        state.set.payees.insert(me, other.clone().unwrap());
    });
    net.reseat(0);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Acknowledged);
    let alarm = net.nodes[0].alarms().join(" ");
    assert!(alarm.contains("has not acknowledged the set"), "{alarm}");

    net.hook = None;
    net.reseat(0);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Active);
    net.next_round_works();
}

/// An aggregator that was away is asked again, and one that names indexes nobody can claim gets no signature in a CAS
/// cohort: what it covers there would not be explained.
#[test]
fn it_asks_until_it_is_answered() {
    let mut net = Net::ready(setup(CohortBeacon::Cas));
    net.hook = Some(Box::new(|mail| match mail.message {
        Message::SeatRequest(_) => Vec::new(),
        _ => vec![mail],
    }));
    net.reseat(0);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Asked);
    net.advance(3 * HOUR);
    assert_eq!(net.sent_by(0, "seat_request"), 4);
    net.hook = None;
    net.advance(HOUR);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Active);
    net.advance(3 * HOUR);
    assert_eq!(net.sent_by(0, "seat_request"), 5);

    let (index, _) = net.nodes[0].core.unclaimed().next().unwrap();
    let items = vec![Regained { index, did: None }];
    net.input(0, ParticipantInput::Regained { items });
    assert_eq!(net.nodes[0].core.unclaimed().count(), 2);
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);
    net.claim(0);
    assert_eq!(net.agg.signals_signed(), 1);
}

/// Who has no seat is told nothing, and who did not ask believes nothing.
#[test]
fn nothing_is_said_to_strangers_nor_believed_of_them() {
    let mut net = Net::ready(setup(CohortBeacon::Smt));
    let archived = net.archive.len();
    let stranger = key("stranger").public();
    let outcome = net.deliver(
        stranger,
        Dest::Aggregator,
        Message::SeatRequest(SeatRequest {}),
    );
    assert_eq!(outcome, Outcome::Ignored(Ignored::NotAMember));
    assert_eq!(net.archive.len(), archived);

    net.say(1, Message::SeatRequest(SeatRequest {}));
    let answer = net.last_sent("seat_state").message;
    net.run();
    let unasked = ("seat_state", Outcome::Ignored(Ignored::Unasked));
    assert!(net.nodes[1].outcomes.contains(&unasked));
    net.reseat(0);
    let forged = net.deliver(stranger, Dest::Member(0), answer);
    assert_eq!(forged, Outcome::Ignored(Ignored::NotTheAggregator));
}

/// Before the seats are closed it is the seat alone, and after the end it is all of it.
#[test]
fn it_is_answered_before_the_set_and_after_the_end() {
    let mut net = Net::new(setup(CohortBeacon::Smt));
    net.advertise();
    for i in 0..2 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    net.reseat(0);
    assert!(matches!(
        net.nodes[0].core.phase(),
        MemberPhase::Seated(seat) if seat.0 == 0
    ));
    net.input(2, ParticipantInput::Join { payee: None });
    net.run();
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Active);
    net.fund(100_000);
    net.register_all();
    // A round of the second in which the store began would be left.
    net.now = net.now.plus(1);
    net.round();

    net.agg_input(AggregatorInput::Cancel);
    net.run();
    net.reseat(0);
    assert_eq!(
        *net.nodes[0].core.phase(),
        MemberPhase::Ended(EndCause::Cancelled)
    );
    assert_eq!(net.proved(0, 0), [Some(None)]);
}
