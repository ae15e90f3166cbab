//! Threats to the forming of a cohort.

use bitcoin::ScriptBuf;
use btcr2_agent::hash::CohortId;
use btcr2_agent::protocol::Seat;
use btcr2_agent::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{CohortAck, EndCause, Leave, Message, OptIn, RefusalCode};
use btcr2_agent::protocol::participant::{MemberPhase, ParticipantInput};
use btcr2_agent::protocol::set::CohortSet;
use btcr2_agent::protocol::terms::{TermsOfService, TextHash};

use super::net::{Dest, HOUR, Mail, Net, Setup};
use super::node::key;

fn refused(code: RefusalCode) -> Outcome {
    Outcome::Ignored(Ignored::Refused(code))
}

fn contradiction(outcome: &Outcome, words: &str) {
    let Outcome::Ignored(Ignored::Contradiction(text)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(text.contains(words), "{text}");
}

/// A P2WPKH script.
fn payee(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0, 20][..], &[byte; 20]].concat())
}

fn opt_in(net: &Net) -> OptIn {
    OptIn {
        terms: net.agg.cohort(),
        tos: net.agg.terms().tos.as_ref().map(|tos| tos.sha256),
        payee: None,
        ticket: None,
    }
}

/// All members have asked; nothing is delivered.
fn joining(setup: Setup) -> Net {
    let mut net = Net::new(setup);
    net.advertise();
    for i in 0..net.nodes.len() {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net
}

/// The set forms all the same, and a round works.
fn still_works(net: &mut Net) {
    net.release();
    assert_eq!(*net.agg.phase(), Phase::Active);
    net.fund(50_000);
    net.register_all();
    net.round();
}

#[test]
fn an_opt_in_that_does_not_agree_is_refused_with_its_reason() {
    let tos = TermsOfService {
        sha256: TextHash::from_bytes([5; 32]),
        url: "https://example.org/tos".into(),
    };
    let mut net = Net::new(Setup::smt(2).terms(|terms| terms.tos = Some(tos)));
    net.advertise();
    let stranger = key("stranger").public();
    let good = opt_in(&net);
    let wrong_terms = OptIn {
        terms: CohortId::from_bytes([1; 32]),
        ..good.clone()
    };
    let no_tos = OptIn {
        tos: None,
        ..good.clone()
    };
    let other_tos = OptIn {
        tos: Some(TextHash::from_bytes([6; 32])),
        ..good.clone()
    };
    // Rule 2: no payee that is, or could be read as, a signal, and none whose spend could change its id.
    let pay = |script: &[u8]| OptIn {
        payee: Some(ScriptBuf::from_bytes(script.to_vec())),
        ..good.clone()
    };
    let op_return = pay(&[&[0x6a, 0x20][..], &[7; 32]].concat());
    let p2pkh = pay(&[&[0x76, 0xa9, 20][..], &[7; 20], &[0x88, 0xac]].concat());
    let empty = pay(&[]);
    for (opt_in, code) in [
        (wrong_terms, RefusalCode::WrongTerms),
        (no_tos, RefusalCode::TosNotAccepted),
        (other_tos, RefusalCode::TosNotAccepted),
        (op_return, RefusalCode::BadPayee),
        (p2pkh, RefusalCode::BadPayee),
        (empty, RefusalCode::BadPayee),
    ] {
        let outcome = net.deliver(stranger, Dest::Aggregator, Message::OptIn(opt_in));
        assert_eq!(outcome, refused(code));
        assert!(net.agg_reports.contains(&Report::RequestRefused {
            member: stranger,
            code
        }));
        let (to, told) = net.elsewhere.last().unwrap();
        let Message::Refused(told) = told else {
            panic!("{told:?}")
        };
        assert_eq!(
            (*to, told.of.as_str(), told.code),
            (stranger, "opt_in", code)
        );
    }
    assert!(net.agg.members().is_empty());
    for i in 0..2 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    still_works(&mut net);
    let late = net.deliver(stranger, Dest::Aggregator, Message::OptIn(good));
    assert_eq!(late, refused(RefusalCode::Closed));
}

#[test]
fn a_second_opt_in_does_not_swap_the_payee() {
    let mut net = Net::new(Setup::smt(2));
    net.advertise();
    for (i, byte) in [1, 2].into_iter().enumerate() {
        net.input(
            i,
            ParticipantInput::Join {
                payee: Some(payee(byte)),
            },
        );
    }
    net.hold = Some("opt_in");
    net.run();
    let second = net.held.remove(1);
    net.release();
    // Whoever got hold of the seat's key for a moment, or a confused restore, asks again.
    let swap = OptIn {
        payee: Some(payee(9)),
        ..opt_in(&net)
    };
    let outcome = net.say(0, Message::OptIn(swap.clone()));
    assert_eq!(outcome, refused(RefusalCode::AlreadyAsked));
    net.mail.push_back(second);
    net.run();
    assert_eq!(
        net.say(0, Message::OptIn(swap)),
        refused(RefusalCode::AlreadyAsked)
    );
    let (set, _) = net.agg.set().unwrap();
    assert_eq!(set.payees[&net.nodes[0].me()], payee(1));
    assert_eq!(set.payees[&net.nodes[1].me()], payee(2));
    net.run();
    assert_eq!(
        *net.nodes[0].core.phase(),
        MemberPhase::Active,
        "the refusal of a second request does not undo the first"
    );
    still_works(&mut net);
}

#[test]
fn a_repeated_opt_in_gets_the_same_seat() {
    let mut net = joining(Setup::smt(3));
    net.duplicate = true;
    net.run();
    let again = opt_in(&net);
    assert_eq!(
        net.say(1, Message::OptIn(again)),
        Outcome::Ignored(Ignored::Duplicate)
    );
    let Message::Accept(accept) = net.last_sent("accept").message else {
        unreachable!()
    };
    assert_eq!(accept.seat, Seat(1));
    assert_eq!(net.agg.members().len(), 3);
    still_works(&mut net);
}

#[test]
fn one_more_than_there_are_seats_is_refused() {
    let mut net = Net::new(Setup::smt(3).terms(|terms| terms.seats_max = 2));
    net.advertise();
    for i in 0..3 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    assert_eq!(
        *net.nodes[2].core.phase(),
        MemberPhase::Refused(RefusalCode::Closed)
    );
    assert_eq!(net.agg.members().len(), 2);
    assert_eq!(*net.agg.phase(), Phase::Active);
    assert!(!net.nodes[2].in_channel);
}

/// What a member recomputes before it acknowledges. Each set is what a cheating aggregator may send.
#[test]
fn a_wrong_key_set_is_not_acknowledged() {
    type Change = fn(&mut CohortSet);
    let cases: [(&str, Change); 8] = [
        ("the address is", |set| {
            set.address = "bcrt1pfake".into();
        }),
        ("the address is", |set| set.keys[1] = key("sybil").public()),
        ("my key is not in the set", |set| {
            set.keys[0] = key("sybil").public();
        }),
        ("not distinct", |set| set.keys[1] = set.keys[0]),
        ("the terms say", |set| set.keys.truncate(1)),
        ("the terms say", |set| {
            set.keys.push(key("one more").public());
        }),
        ("my payee", |set| {
            let me = set.keys[0];
            set.payees
                .insert(me, ScriptBuf::from_bytes([&[0, 20][..], &[7; 20]].concat()));
        }),
        ("payee of", |set| {
            let other = set.keys[1];
            let signal = [&[0x6a, 0x20][..], &[7; 32]].concat();
            set.payees.insert(other, ScriptBuf::from_bytes(signal));
        }),
    ];
    for (words, change) in cases {
        let mut net = joining(Setup::smt(3));
        net.hold = Some("cohort_set");
        net.run();
        let Message::CohortSet(good) = net.held[0].message.clone() else {
            unreachable!()
        };
        let mut bad = good.clone();
        change(&mut bad);
        let outcome = net.tell(0, Message::CohortSet(bad));
        contradiction(&outcome, words);
        assert_eq!(net.nodes[0].alarms().len(), 1);
        assert!(net.on_its_way("cohort_ack").is_none());
        still_works(&mut net);
    }
}

#[test]
fn two_different_key_sets() {
    let mut net = joining(Setup::smt(2).terms(|terms| terms.seats_max = 3));
    net.run();
    net.agg_input(AggregatorInput::Close);
    net.hold = Some("cohort_ack");
    net.run();
    let members = [
        (net.nodes[0].me(), None),
        (net.nodes[1].me(), None),
        (key("sybil").public(), None),
    ];
    let (other, _) = CohortSet::build(net.agg.terms(), &members, None).unwrap();
    let outcome = net.tell(0, Message::CohortSet(other.clone()));
    contradiction(&outcome, "a second, different key set");
    // An acknowledgement of the other set is no acknowledgement of this one.
    let ack = CohortAck {
        set: other.hash(&net.agg.cohort()),
    };
    let outcome = net.say(1, Message::CohortAck(net.signed(1, ack)));
    contradiction(&outcome, "another set");
    still_works(&mut net);
    assert_eq!(net.nodes[0].core.set().unwrap().0.keys.len(), 2);
}

#[test]
fn frozen_with_a_missing_acknowledgement() {
    let mut net = joining(Setup::smt(3));
    net.hold = Some("frozen");
    net.run();
    let Message::Frozen(good) = net.held[0].message.clone() else {
        unreachable!()
    };
    let mut missing = good.clone();
    missing.acks.pop();
    let mut repeated = good.clone();
    repeated.acks[2] = repeated.acks[1];
    let mut foreign = good.clone();
    let stranger = key("stranger");
    foreign.acks[2] = stranger.sign_digest(&[1; 32]);
    let mut other_set = good;
    other_set.set = btcr2_agent::protocol::message::SetHash::from_bytes([8; 32]);
    for (frozen, words) in [
        (missing, "not the one acknowledged"),
        (repeated, "has not acknowledged"),
        (foreign, "has not acknowledged"),
        (other_set, "not the one acknowledged"),
    ] {
        let outcome = net.tell(0, Message::Frozen(frozen));
        contradiction(&outcome, words);
        assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Acknowledged);
    }
    still_works(&mut net);
}

#[test]
fn a_deadline_with_too_few_members_ends_the_cohort_and_says_so() {
    let mut net = joining(Setup::smt(3).terms(|terms| terms.seats_min = 3));
    net.hook = Some(Box::new(|mail: Mail| {
        let lost =
            matches!(mail.message, Message::OptIn(_)) && mail.from == key("member 2").public();
        if lost { Vec::new() } else { vec![mail] }
    }));
    net.run();
    net.advance(HOUR);
    assert_eq!(*net.agg.phase(), Phase::Open, "the deadline counts in");
    net.advance(1);
    let why = EndCause::NotEnoughMembers { seated: 2 };
    assert_eq!(*net.agg.phase(), Phase::Ended(why.clone()));
    for i in [0, 1] {
        assert_eq!(*net.nodes[i].core.phase(), MemberPhase::Ended(why.clone()));
    }
    assert_eq!(net.agg.deadline(), None);
}

#[test]
fn a_deadline_with_enough_members_forms_the_cohort() {
    let mut net = joining(Setup::smt(2).terms(|terms| terms.seats_max = 9));
    net.run();
    net.advance(HOUR);
    assert_eq!(*net.agg.phase(), Phase::Open);
    net.advance(1);
    still_works(&mut net);
}

#[test]
fn who_does_not_acknowledge_is_named() {
    let mut net = joining(Setup::smt(3).terms(|terms| terms.formation_seconds = 500));
    net.hold = Some("cohort_ack");
    net.run();
    let kept = net.held.remove(1);
    net.release();
    assert_eq!(net.agg.waiting_for(), [Seat(1)]);
    net.advance(500);
    assert!(matches!(net.agg.phase(), Phase::Forming { .. }));
    net.advance(1);
    let why = EndCause::NotAcknowledged {
        absent: vec![Seat(1)],
    };
    assert_eq!(*net.agg.phase(), Phase::Ended(why.clone()));
    for node in &net.nodes {
        assert_eq!(*node.core.phase(), MemberPhase::Ended(why.clone()));
    }
    let late = net.deliver(kept.from, kept.to, kept.message);
    assert_eq!(late, Outcome::Ignored(Ignored::WrongPhase));
}

#[test]
fn leaving_before_the_set_closes_frees_the_seat() {
    let mut net = Net::new(Setup::smt(3).terms(|terms| terms.seats_max = 2));
    net.advertise();
    net.input(0, ParticipantInput::Join { payee: None });
    net.run();
    let leave = ParticipantInput::Leave {
        even_if_frozen: false,
    };
    assert_eq!(net.input(0, leave), Outcome::Accepted);
    net.run();
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Released);
    assert!(net.agg.members().is_empty());
    for i in [1, 2] {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    assert_eq!(*net.agg.phase(), Phase::Active);
    assert_eq!(net.agg.members(), [net.nodes[1].me(), net.nodes[2].me()]);
}

#[test]
fn leaving_after_the_freeze_needs_to_be_said_twice_and_ends_the_beacon_for_all() {
    let mut net = Net::ready(Setup::smt(3));
    net.round();
    let leave = |even_if_frozen| ParticipantInput::Leave { even_if_frozen };
    assert_eq!(
        net.input(1, leave(false)),
        Outcome::Ignored(Ignored::WrongPhase)
    );
    let meek = Message::Leave(Leave {
        even_if_frozen: false,
    });
    assert_eq!(net.say(1, meek), refused(RefusalCode::Closed));
    assert_eq!(*net.agg.phase(), Phase::Active);
    net.run();
    net.next_round_works();
    assert_eq!(net.input(1, leave(true)), Outcome::Accepted);
    net.run();
    let why = EndCause::MemberLeft { seat: Seat(1) };
    assert_eq!(*net.agg.phase(), Phase::Ended(why.clone()));
    for node in &net.nodes {
        assert_eq!(*node.core.phase(), MemberPhase::Ended(why.clone()));
    }
}

#[test]
fn a_released_member_is_told_and_its_seat_is_free() {
    let mut net = Net::new(Setup::smt(3).terms(|terms| terms.seats_max = 2));
    net.advertise();
    net.input(0, ParticipantInput::Join { payee: None });
    net.run();
    let member = net.nodes[0].me();
    let release = |member| AggregatorInput::Release {
        member,
        reason: "asked us to".into(),
    };
    assert_eq!(net.agg_input(release(member)), Outcome::Accepted);
    assert_eq!(
        net.agg_input(release(member)),
        Outcome::Ignored(Ignored::NotAMember)
    );
    for i in [1, 2] {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Released);
    assert!(net.nodes[0].reports.contains(&Report::Released {
        reason: "asked us to".into()
    }));
    assert_eq!(*net.agg.phase(), Phase::Active);
    // A frozen set does not change, whoever says so.
    let member = net.nodes[1].me();
    assert_eq!(
        net.agg_input(release(member)),
        Outcome::Ignored(Ignored::WrongPhase)
    );
    let told = Message::Release(btcr2_agent::protocol::message::Release {
        seat: Seat(0),
        reason: "out".into(),
    });
    assert_eq!(net.tell(1, told), Outcome::Ignored(Ignored::WrongPhase));
}

#[test]
fn closing_early_needs_the_minimum() {
    let mut net = joining(Setup::smt(2).terms(|terms| terms.seats_max = 5));
    contradiction(
        &net.agg_input(AggregatorInput::Close),
        "0 of at least 2 seats",
    );
    net.run();
    assert_eq!(net.agg_input(AggregatorInput::Close), Outcome::Accepted);
    still_works(&mut net);
    assert_eq!(
        net.agg_input(AggregatorInput::Close),
        Outcome::Ignored(Ignored::WrongPhase)
    );
}

#[test]
fn cancel_before_and_between_rounds_ends_the_cohort_but_not_after_the_first_partial_signature() {
    let mut net = joining(Setup::smt(2).terms(|terms| terms.seats_max = 3));
    net.run();
    assert_eq!(net.agg_input(AggregatorInput::Cancel), Outcome::Accepted);
    net.run();
    for node in &net.nodes {
        assert_eq!(
            *node.core.phase(),
            MemberPhase::Ended(EndCause::Cancelled),
            "without the channel, each is told directly"
        );
    }

    let mut net = Net::ready(Setup::cas(3));
    net.queue(0, 0, "a");
    net.hold = Some("partial_signature");
    net.open();
    let first = net.held.remove(0);
    net.deliver(first.from, first.to, first.message);
    assert_eq!(
        net.agg_input(AggregatorInput::Cancel),
        Outcome::Ignored(Ignored::TooLate)
    );
    net.finish();
    assert_eq!(net.agg_input(AggregatorInput::Cancel), Outcome::Accepted);
    net.run();
    for node in &net.nodes {
        assert_eq!(*node.core.phase(), MemberPhase::Ended(EndCause::Cancelled));
    }
    assert_eq!(
        net.agg_input(AggregatorInput::Cancel),
        Outcome::Ignored(Ignored::WrongPhase)
    );
}

/// A signal that is signed is still sent and a history still answered when the cohort has ended.
#[test]
fn an_ended_cohort_serves_its_past() {
    let mut net = Net::ready(Setup::smt(2));
    net.queue(0, 0, "a");
    net.broadcasts = false;
    net.open();
    net.agg_input(AggregatorInput::Cancel);
    net.run();
    assert!(matches!(net.agg.phase(), Phase::Ended(_)));
    net.broadcasts = true;
    net.advance(120);
    assert_eq!(net.chain.verified, 1, "it was sent again");
    net.mine(1);
    net.mine(6);
    assert_eq!(net.agg.deadline(), None, "nothing is left to do");
    let index = net.nodes[1].dids[0].index;
    let request = btcr2_agent::protocol::message::HistoryRequest {
        index,
        from_round: btcr2_agent::protocol::Round(1),
    };
    assert_eq!(
        net.say(1, Message::HistoryRequest(request)),
        Outcome::Accepted
    );
    let Message::History(history) = net.last_sent("history").message else {
        unreachable!()
    };
    assert_eq!(history.items.len(), 1);
}
