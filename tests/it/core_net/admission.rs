//! Who is seated: work, codes, the operator, invited keys; and strangers who have any number of keys.

use bitcoin::ScriptBuf;
use btcr2_agent::hash::{CohortId, tagged_hash};
use btcr2_agent::keys::{InviteCode, NostrKey, OwnKey};
use btcr2_agent::protocol::Seat;
use btcr2_agent::protocol::admission::{
    Admission, Ticket, Vouch, VouchAs, mine, vouch_digest, work_bits,
};
use btcr2_agent::protocol::aggregator::{
    AggregatorInput, Decision, MAX_GIVEN_BACK, MAX_RETURNS, MAX_WAITING, Phase,
};
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Leave, Message, OptIn, RefusalCode};
use btcr2_agent::protocol::participant::{MemberPhase, ParticipantInput};

use super::net::{Dest, HOUR, Net, Setup};
use super::node::key;

/// Keys a stranger has: they cost nothing.
const FLOOD: u32 = 10_000;

fn asked(admission: Admission, n: usize) -> Net {
    let mut net = Net::new(Setup::smt(n).terms(|terms| terms.admission = admission));
    net.advertise();
    net
}

fn opt_in(net: &Net, ticket: Option<Ticket>) -> Message {
    Message::OptIn(OptIn {
        terms: net.agg.cohort(),
        tos: None,
        payee: None,
        ticket,
    })
}

fn refused(code: RefusalCode) -> Outcome {
    Outcome::Ignored(Ignored::Refused(code))
}

/// A public key of the curve that nobody needs to sign with.
fn stranger(n: u32) -> NostrKey {
    OwnKey::from_bytes(&tagged_hash("stranger", &[&n.to_be_bytes()]))
        .unwrap()
        .public()
}

/// Opt-ins of so many keys, and what became of them.
fn flood(net: &mut Net, ticket: impl Fn(NostrKey) -> Option<Ticket>) -> Vec<Outcome> {
    net.record = false;
    (0..FLOOD)
        .map(|n| {
            let from = stranger(n);
            let message = opt_in(net, ticket(from));
            net.deliver(from, Dest::Aggregator, message)
        })
        .collect()
}

fn vouch(own: &OwnKey, of: VouchAs, cohort: &CohortId, seat: NostrKey) -> Vouch {
    Vouch {
        key: own.public(),
        sig: own.sign_digest(&vouch_digest(of, cohort, seat)),
    }
}

fn ask(net: &mut Net, i: usize, ticket: Option<Ticket>) {
    net.input(i, ParticipantInput::Ticket(ticket));
    net.input(i, ParticipantInput::Join { payee: None });
    net.run();
}

fn decide(net: &mut Net, decision: Decision) -> Outcome {
    let outcome = net.agg_input(AggregatorInput::Decide(decision));
    net.run();
    outcome
}

fn approve(net: &mut Net, i: usize) -> Outcome {
    let key = net.nodes[i].me();
    decide(net, Decision::Approve { key })
}

/// A whole round, so that who was seated is of the cohort as others are.
fn works(net: &mut Net) {
    assert_eq!(*net.agg.phase(), Phase::Active);
    net.fund(50_000);
    net.register_all();
    net.round();
}

#[test]
fn work_is_for_one_key_and_a_flood_without_it_takes_no_seat() {
    let mut net = asked(Admission::Pow(12), 2);
    let cohort = net.agg.cohort();
    let work = |seat| Ticket::Work(mine(&cohort, seat, 12).unwrap());
    let shown = work(net.nodes[0].me());
    // One key's work, seen by somebody, shown for ten thousand others.
    let outcomes = flood(&mut net, |from| {
        let Ticket::Work(number) = shown.clone() else {
            unreachable!()
        };
        assert!(work_bits(&cohort, from, number) < 24);
        (work_bits(&cohort, from, number) < 12).then_some(Ticket::Work(number))
    });
    let counted = outcomes
        .iter()
        .filter(|outcome| **outcome == refused(RefusalCode::WorkRequired));
    assert_eq!(counted.count(), FLOOD as usize);
    assert!(net.agg.members().is_empty());
    ask(&mut net, 0, Some(shown));
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Seated(Seat(0)));
    // No work, then the work: a refusal is not the end.
    ask(&mut net, 1, None);
    let code = RefusalCode::WorkRequired;
    assert_eq!(*net.nodes[1].core.phase(), MemberPhase::Refused(code));
    let second = work(net.nodes[1].me());
    ask(&mut net, 1, Some(second));
    works(&mut net);
}

#[test]
fn a_code_is_for_so_many_seats_and_its_word_for_one_key() {
    let mut net = asked(Admission::Code, 3);
    let cohort = net.agg.cohort();
    let code = InviteCode::from_bytes([5; 16]).key_in(&cohort);
    let other = InviteCode::from_bytes([6; 16]).key_in(&cohort);
    let ticket = |own: &OwnKey, seat| Some(Ticket::Code(vouch(own, VouchAs::Code, &cohort, seat)));
    // Made after somebody tried it: the next try is good.
    let first = ticket(&code, net.nodes[0].me());
    ask(&mut net, 0, first.clone());
    let bad = MemberPhase::Refused(RefusalCode::BadCode);
    assert_eq!(*net.nodes[0].core.phase(), bad);
    let new = |key, uses| Decision::Code { key, uses };
    assert_eq!(decide(&mut net, new(code.public(), 2)), Outcome::Accepted);
    let outcomes = flood(&mut net, |_| first.clone());
    assert!(
        outcomes
            .iter()
            .all(|outcome| *outcome == refused(RefusalCode::BadCode))
    );
    // Not the code of another cohort, nor the word of an invited key.
    let elsewhere = InviteCode::from_bytes([5; 16]).key_in(&CohortId::from_bytes([9; 32]));
    let seat = net.nodes[1].me();
    let as_invited = Some(Ticket::Invited(vouch(
        &code,
        VouchAs::Invited,
        &cohort,
        seat,
    )));
    for (wrong, why) in [
        (ticket(&elsewhere, seat), RefusalCode::BadCode),
        (ticket(&other, seat), RefusalCode::BadCode),
        (as_invited, RefusalCode::NotInvited),
        (None, RefusalCode::BadCode),
    ] {
        ask(&mut net, 1, wrong);
        assert_eq!(*net.nodes[1].core.phase(), MemberPhase::Refused(why));
    }
    ask(&mut net, 0, first);
    // Asking once more does not use it up.
    let again = opt_in(&net, None);
    assert_eq!(net.say(0, again), Outcome::Ignored(Ignored::Duplicate));
    let second = ticket(&code, seat);
    ask(&mut net, 1, second);
    let seat = net.nodes[2].me();
    let third = ticket(&code, seat);
    ask(&mut net, 2, third);
    let full = MemberPhase::Refused(RefusalCode::CodeUsedUp);
    assert_eq!(*net.nodes[2].core.phase(), full);
    assert_eq!(net.agg.codes()[&code.public()].used.len(), 2);
    decide(&mut net, new(other.public(), 1));
    let third = ticket(&other, seat);
    ask(&mut net, 2, third);
    works(&mut net);
}

#[test]
fn the_operator_decides_and_everybody_is_told() {
    let mut net = asked(Admission::Approval, 3);
    for i in 0..3 {
        ask(&mut net, i, None);
        assert_eq!(*net.nodes[i].core.phase(), MemberPhase::Asked);
        assert_eq!(
            net.nodes[i].core.awaits_decision(),
            Some(net.agg.terms().join_by)
        );
    }
    assert_eq!(net.agg.waiting_opt_ins().count(), 3);
    assert!(net.agg.members().is_empty());
    // Asking again changes nothing, and another payee does not slip in.
    let again = opt_in(&net, None);
    assert_eq!(net.say(0, again), Outcome::Ignored(Ignored::Duplicate));
    let swap = Message::OptIn(OptIn {
        terms: net.agg.cohort(),
        tos: None,
        payee: Some(ScriptBuf::from_bytes([&[0, 20][..], &[9; 20]].concat())),
        ticket: None,
    });
    assert_eq!(net.say(0, swap), refused(RefusalCode::AlreadyAsked));
    net.run();
    assert_eq!(approve(&mut net, 1), Outcome::Accepted);
    assert_eq!(*net.nodes[1].core.phase(), MemberPhase::Seated(Seat(0)));
    assert_eq!(approve(&mut net, 1), Outcome::Ignored(Ignored::Duplicate));
    let reject = |key, reason: &str| Decision::Reject {
        key,
        reason: reason.into(),
    };
    let key = net.nodes[0].me();
    decide(&mut net, reject(key, "not one of ours"));
    let rejected = MemberPhase::Refused(RefusalCode::Rejected);
    assert_eq!(*net.nodes[0].core.phase(), rejected);
    assert!(net.nodes[0].reports.contains(&Report::Rejected {
        reason: "not one of ours".into()
    }));
    ask(&mut net, 0, None);
    assert_eq!(*net.nodes[0].core.phase(), rejected, "and stays so");
    // A seat that was given is taken back the same way, while the seats are open.
    let key = net.nodes[1].me();
    decide(&mut net, reject(key, "asked by mail"));
    assert_eq!(*net.nodes[1].core.phase(), MemberPhase::Released);
    assert!(net.agg.members().is_empty());
    // The operator changes its mind: the key gets its seat when it asks again.
    approve(&mut net, 0);
    ask(&mut net, 0, None);
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Seated(Seat(0)));
    approve(&mut net, 2);
    net.nodes.remove(1);
    assert_eq!(net.agg.members().len(), 2);
    net.agg_input(AggregatorInput::Close);
    net.run();
    works(&mut net);
    let late = Decision::Approve { key };
    assert_eq!(
        decide(&mut net, late),
        Outcome::Ignored(Ignored::WrongPhase)
    );
}

/// Ten thousand keys without work fill the list and put nobody out who did some; those with as much work as an honest
/// one come too late; and whom the operator knows needs no place at all.
#[test]
fn a_flood_of_keys_keeps_nobody_from_the_operator() {
    let mut net = asked(Admission::Approval, 3);
    let cohort = net.agg.cohort();
    let work = |seat, bits| Some(Ticket::Work(mine(&cohort, seat, bits).unwrap()));
    let early = work(net.nodes[0].me(), 8);
    ask(&mut net, 0, early);
    let outcomes = flood(&mut net, |_| None);
    let taken = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Accepted);
    assert_eq!(taken.count(), MAX_WAITING - 1);
    assert_eq!(outcomes.last(), Some(&refused(RefusalCode::TooMany)));
    // Later than all of them.
    let late = work(net.nodes[1].me(), 8);
    ask(&mut net, 1, late);
    assert_eq!(net.agg.waiting_opt_ins().count(), MAX_WAITING);
    let put_out = net.elsewhere.iter().filter(|(_, message)| {
        matches!(message, Message::Refused(refused) if refused.code == RefusalCode::TooMany)
    });
    assert_eq!(put_out.count(), FLOOD as usize - MAX_WAITING + 2);
    // A stranger that works as much takes the places of those that did none, and no others.
    for n in 0..u32::try_from(MAX_WAITING).unwrap() + 50 {
        let from = stranger(FLOOD + n);
        let message = opt_in(&net, work(from, 8));
        net.deliver(from, Dest::Aggregator, message);
    }
    let waits = |net: &Net, key| net.agg.waiting_opt_ins().any(|waiting| waiting.key == key);
    let least = net.agg.waiting_opt_ins().map(|waiting| waiting.work).min();
    assert!(least >= Some(8));
    for i in 0..2 {
        assert!(waits(&net, net.nodes[i].me()), "member {i} keeps its place");
        approve(&mut net, i);
        let seat = Seat(u16::try_from(i).unwrap());
        assert_eq!(*net.nodes[i].core.phase(), MemberPhase::Seated(seat));
    }
    // The list is filled again; whoever did less is told so, and is let in by name.
    for n in 0..10 {
        let from = stranger(2 * FLOOD + n);
        let message = opt_in(&net, work(from, 8));
        net.deliver(from, Dest::Aggregator, message);
    }
    ask(&mut net, 2, None);
    let full = MemberPhase::Refused(RefusalCode::TooMany);
    assert_eq!(*net.nodes[2].core.phase(), full);
    approve(&mut net, 2);
    ask(&mut net, 2, None);
    works(&mut net);
    assert_eq!(net.agg.waiting_opt_ins().count(), 0, "all others were told");
}

/// Leaving and asking again is no way to fill a log: the place stays taken, and the second request is refused.
#[test]
fn who_leaves_the_list_does_not_come_back() {
    let mut net = asked(Admission::Approval, 2);
    ask(&mut net, 0, None);
    let leave = || {
        Message::Leave(Leave {
            even_if_frozen: false,
        })
    };
    assert_eq!(net.say(0, leave()), Outcome::Accepted);
    assert_eq!(net.agg.waiting_opt_ins().count(), 0);
    assert_eq!(net.say(0, leave()), Outcome::Ignored(Ignored::NotAMember));
    let again = opt_in(&net, None);
    assert_eq!(
        net.say(0, again.clone()),
        refused(RefusalCode::AlreadyAsked)
    );
    // The operator knows better.
    approve(&mut net, 0);
    assert_eq!(net.say(0, again), Outcome::Accepted);
    assert_eq!(net.agg.members(), [net.nodes[0].me()]);
}

#[test]
fn who_waits_at_the_end_is_told_that_the_seats_are_closed() {
    let mut net = asked(Admission::Approval, 3);
    for i in 0..3 {
        ask(&mut net, i, None);
    }
    approve(&mut net, 0);
    approve(&mut net, 1);
    net.advance(2 * HOUR);
    assert_eq!(*net.agg.phase(), Phase::Active);
    let closed = MemberPhase::Refused(RefusalCode::Closed);
    assert_eq!(*net.nodes[2].core.phase(), closed);
    assert!(!net.nodes[2].in_channel);
    // Nobody is approved: the cohort ends, and says so.
    let mut net = asked(Admission::Approval, 2);
    ask(&mut net, 0, None);
    net.advance(2 * HOUR);
    assert!(matches!(net.agg.phase(), Phase::Ended(_)));
    assert_eq!(*net.nodes[0].core.phase(), closed);
}

/// An invited key speaks for the key of one seat: its owner need not sit under it.
#[test]
fn an_invited_key_vouches_for_one_seat() {
    let mut net = Net::new(Setup::smt(2).terms(|terms| terms.invite_only = true));
    let cohort = net.agg.cohort();
    let (first, second) = (key("first identity"), key("second identity"));
    net.agg_input(AggregatorInput::Advertise {
        invited: vec![first.public()],
        relays: Vec::new(),
        payee: None,
    });
    let keys = vec![second.public()];
    let sent = net.archive.len() + net.elsewhere.len();
    decide(&mut net, Decision::Invite { keys });
    assert_eq!(
        net.archive.len() + net.elsewhere.len(),
        sent,
        "told another way"
    );
    let word = |own: &OwnKey, seat| {
        let vouch = vouch(own, VouchAs::Invited, &cohort, seat);
        Some(Ticket::Invited(vouch))
    };
    let (seat, other) = (net.nodes[0].me(), net.nodes[1].me());
    let of_other = word(&first, other);
    let uninvited = word(&key("stranger"), seat);
    for wrong in [None, of_other, uninvited] {
        ask(&mut net, 0, wrong);
        let refused = MemberPhase::Refused(RefusalCode::NotInvited);
        assert_eq!(*net.nodes[0].core.phase(), refused);
    }
    let good = word(&first, seat);
    ask(&mut net, 0, good);
    // A second seat by the same word is refused; by the other invited key it is not.
    let twice = word(&first, other);
    ask(&mut net, 1, twice);
    let refused = MemberPhase::Refused(RefusalCode::NotInvited);
    assert_eq!(*net.nodes[1].core.phase(), refused);
    let good = word(&second, other);
    ask(&mut net, 1, good);
    works(&mut net);
}

fn leave(net: &mut Net, from: NostrKey) -> Outcome {
    let leave = Message::Leave(Leave {
        even_if_frozen: false,
    });
    net.deliver(from, Dest::Aggregator, leave)
}

/// Going in and out again and again ends, for one key and for all keys of the world: each time is kept in the log.
#[test]
fn seats_given_back_are_bounded_for_a_key_and_in_all() {
    let mut net = asked(Admission::Open, 3);
    net.record = false;
    let loops = |net: &mut Net, from, most: u16| {
        let in_and_out = |_: &u16| {
            let asks = opt_in(net, None);
            net.deliver(from, Dest::Aggregator, asks) == Outcome::Accepted
                && leave(net, from) == Outcome::Accepted
        };
        u16::try_from((0..most).take_while(in_and_out).count()).unwrap()
    };
    let restless = stranger(1);
    assert_eq!(loops(&mut net, restless, 50), u16::from(MAX_RETURNS));
    let asks = opt_in(&net, None);
    let outcome = net.deliver(restless, Dest::Aggregator, asks);
    assert_eq!(outcome, refused(RefusalCode::TooMany));
    // With any number of keys.
    let mut all = u16::from(MAX_RETURNS);
    for n in 2.. {
        match loops(&mut net, stranger(n), 50) {
            0 => break,
            some => all += some,
        }
    }
    assert_eq!(all, MAX_GIVEN_BACK);
    assert!(net.agg.members().is_empty());
    // From here on the operator says who gets a seat, and that is enough for a cohort.
    for i in 0..3 {
        let asks = opt_in(&net, None);
        assert_eq!(net.say(i, asks), refused(RefusalCode::TooMany));
        approve(&mut net, i);
        ask(&mut net, i, None);
    }
    works(&mut net);
}

/// A seat is released and taken by somebody else before the set is made.
#[test]
fn a_released_seat_is_taken_by_somebody_else() {
    let mut net = Net::new(Setup::smt(3).terms(|terms| terms.seats_max = 2));
    net.advertise();
    ask(&mut net, 0, None);
    let member = net.nodes[0].me();
    let reason = "asked by mail".to_owned();
    net.agg_input(AggregatorInput::Release { member, reason });
    net.run();
    assert_eq!(*net.nodes[0].core.phase(), MemberPhase::Released);
    ask(&mut net, 1, None);
    ask(&mut net, 2, None);
    net.nodes.remove(0);
    let (set, _) = net.agg.set().unwrap();
    assert!(!set.keys.contains(&member) && set.keys.len() == 2);
    works(&mut net);
}
