//! Who stalls is counted, and the others are offered to go on without it.

use btcr2_agent::keys::NostrKey;
use btcr2_agent::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_agent::protocol::conduct::{Conduct, STALLED_AFTER};
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Leave, Message};
use btcr2_agent::protocol::participant::MemberPhase;
use btcr2_agent::protocol::reform::Reform;
use btcr2_agent::protocol::terms::{Salt, Terms};
use btcr2_agent::protocol::{Round, Seat};

use super::net::{Net, Setup};
use super::node::key;
use super::sessions::after_a_bad_partial;

/// Terms in the place of the net's.
fn others(net: &Net) -> Terms {
    Terms {
        salt: Salt::from_bytes([9; 16]),
        invite_only: true,
        join_by: net.now.plus(3_600),
        ..net.agg.terms().clone()
    }
}

fn reform(without: &[u16], terms: &Terms) -> AggregatorInput {
    AggregatorInput::Reform {
        terms: terms.canonical(),
        relays: vec!["wss://relay.example.com".to_owned()],
        without: without.iter().copied().map(Seat).collect(),
        reason: "away since May".to_owned(),
    }
}

fn silence(net: &mut Net, member: NostrKey) {
    net.hook = Some(Box::new(move |mail| {
        let lost = mail.from == member && mail.message.type_name() == "response";
        if lost { Vec::new() } else { vec![mail] }
    }));
}

#[test]
fn rounds_missed_in_a_row_are_counted_until_the_member_answers() {
    let mut net = Net::ready(Setup::smt(3).terms(|terms| terms.response_seconds = 60));
    let member = net.nodes[2].me();
    silence(&mut net, member);
    let missed = |conduct: &Conduct| {
        conduct
            .of(Seat(2))
            .map(|seat| (seat.missed, seat.last_missed))
    };
    for round in 1..=STALLED_AFTER {
        assert_eq!(net.agg.conduct().stalling(STALLED_AFTER).count(), 0);
        net.open();
        assert_eq!(net.agg.waiting_for(), [Seat(2)]);
        net.advance(61);
        let expected = Some((round, Some(Round(round.into()))));
        assert_eq!(missed(net.agg.conduct()), expected);
        for node in &net.nodes {
            assert_eq!(missed(node.core.conduct()), expected);
            assert_eq!(node.core.conduct().of(Seat(0)), None);
        }
    }
    let stalling: Vec<Seat> = net.agg.conduct().stalling(STALLED_AFTER).collect();
    assert_eq!(stalling, [Seat(2)]);
    net.hook = None;
    net.next_round_works();
    assert_eq!(missed(net.agg.conduct()).unwrap().0, 0);
    assert_eq!(net.agg.conduct().stalling(STALLED_AFTER).count(), 0);
    for node in &net.nodes {
        assert_eq!(missed(node.core.conduct()).unwrap().0, 0);
    }
}

#[test]
fn the_others_are_offered_to_go_on_without_it_and_check_the_evidence() {
    let (mut net, blame) = after_a_bad_partial();
    assert_eq!(
        net.agg
            .conduct()
            .stalling(STALLED_AFTER)
            .collect::<Vec<_>>(),
        [Seat(1)]
    );
    let terms = others(&net);
    let outcome = net.agg_input(reform(&[1, 1], &terms));
    assert_eq!(outcome, Outcome::Accepted);
    net.run();
    let report = Report::ReformOffered {
        cohort: terms.cohort_id(),
        without: vec![Seat(1)],
    };
    assert!(net.agg_reports.contains(&report));
    for node in &net.nodes {
        assert!(node.reports.contains(&report));
        let offer = node.core.offer().unwrap();
        assert_eq!((offer.cohort, &offer.terms), (terms.cohort_id(), &terms));
        assert_eq!(offer.reason, "away since May");
        let [(left, proved)] = &offer.without[..] else {
            panic!("{:?}", offer.without)
        };
        assert_eq!((left.seat, left.missed), (Seat(1), 1));
        assert_eq!(left.blamed, std::slice::from_ref(&blame));
        assert_eq!(proved, &[true]);
        assert_eq!(
            offer.leaves_out(node.core.my_seat().unwrap()),
            node.me() == blame.member
        );
    }
    let rest = net.agg.members_without(&[Seat(1)]);
    assert_eq!(rest, [net.nodes[0].me(), net.nodes[2].me()]);
    // The same again is nothing new; another one takes its place. Evidence of nothing is shown as a claim.
    let Message::Reform(sent) = net.last_sent("reform").message else {
        unreachable!()
    };
    let again = net.tell(0, Message::Reform(sent.clone()));
    assert_eq!(again, Outcome::Ignored(Ignored::Duplicate));
    let mut framed = sent.clone();
    framed.terms = Terms {
        salt: Salt::from_bytes([8; 16]),
        ..terms.clone()
    }
    .canonical();
    framed.without[0].seat = Seat(2);
    assert_eq!(net.tell(0, Message::Reform(framed)), Outcome::Accepted);
    let offer = net.nodes[0].core.offer().unwrap();
    assert_eq!(
        (offer.without[0].0.seat, &offer.without[0].1[..]),
        (Seat(2), &[false][..])
    );
    // What is no offer of this cohort's aggregator to its members is not kept.
    let change = |change: &dyn Fn(&mut Reform)| {
        let mut reform = sent.clone();
        reform.terms = reform
            .terms
            .replace(&Salt::from_bytes([9; 16]).to_string(), &"77".repeat(16));
        change(&mut reform);
        Message::Reform(reform)
    };
    let other = Terms {
        aggregator: key("another").public(),
        ..terms.clone()
    };
    for bad in [
        change(&|reform| reform.terms = other.canonical()),
        change(&|reform| reform.terms = net.agg.terms().canonical()),
        change(&|reform| reform.terms = "{}".to_owned()),
        change(&|reform| reform.without[0].seat = Seat(9)),
        change(&|reform| reform.without.clear()),
    ] {
        let outcome = net.tell(0, bad);
        assert!(
            matches!(outcome, Outcome::Ignored(Ignored::Contradiction(_))),
            "{outcome:?}"
        );
    }
    // The old cohort goes on as long as its members let it.
    net.next_round_works();
}

#[test]
fn an_offer_needs_a_set_and_its_seats_and_outlives_the_cohort() {
    let mut net = Net::new(Setup::cas(3));
    net.advertise();
    let terms = others(&net);
    let early = net.agg_input(reform(&[1], &terms));
    assert_eq!(early, Outcome::Ignored(Ignored::WrongPhase));
    net.form();
    for (without, terms) in [
        (&[][..], terms.clone()),
        (&[3], terms.clone()),
        (&[1], net.agg.terms().clone()),
    ] {
        let outcome = net.agg_input(reform(without, &terms));
        assert!(
            matches!(outcome, Outcome::Ignored(Ignored::Contradiction(_))),
            "{outcome:?}"
        );
    }
    // A member leaves for good: the cohort is over, and the others are still reached.
    let leave = Leave {
        even_if_frozen: true,
    };
    net.say(2, Message::Leave(leave));
    net.run();
    assert!(matches!(net.agg.phase(), Phase::Ended(_)));
    let outcome = net.agg_input(reform(&[2], &terms));
    assert_eq!(outcome, Outcome::Accepted);
    net.run();
    for i in 0..2 {
        assert!(matches!(net.nodes[i].core.phase(), MemberPhase::Ended(_)));
        let offer = net.nodes[i].core.offer().unwrap();
        assert_eq!(offer.seats(), [Seat(2)]);
        assert!(offer.without[0].0.blamed.is_empty());
    }
}
