//! Members that are there and stop every round all the same, under the output policy `k-of-n`: the round goes on through
//! the leaf, and they are named with what shows it, to the operator and to all members.

use btcr2_agent::protocol::conduct::Conduct;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::message::{Message, RoundCause};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Round, Seat};

use super::fallback::setup;
use super::net::{Dest, Net};
use super::node::{key, update};

const SPOILER: usize = 2;
const SEAT: Seat = Seat(2);

/// Why the fallback of a round was opened, as each machine reports it: the aggregator's first.
fn stalls(net: &Net, round: u32) -> Vec<Option<RoundCause>> {
    let machines = std::iter::once(&net.agg_reports);
    let machines = machines.chain(net.nodes.iter().map(|node| &node.reports));
    let opened = machines.map(|reports| {
        reports.iter().find_map(|report| match report {
            Report::FallbackOpened {
                round: of,
                absent,
                why,
                ..
            } if of.0 == round => {
                assert_eq!(absent, &[], "all have responded");
                Some(why.clone())
            }
            _ => None,
        })
    });
    opened.map(|why| why.expect("it stalled")).collect()
}

/// What is known of the seats: by the aggregator, and by a member.
fn conducts(net: &Net) -> [&Conduct; 2] {
    [net.agg.conduct(), net.nodes[0].core.conduct()]
}

/// The spoiler responds. What of these types it says afterwards does not come.
fn says_nothing_more(net: &mut Net) {
    let spoiler = net.nodes[SPOILER].me();
    net.hook = Some(Box::new(move |mail| {
        let dropped = matches!(
            mail.message,
            Message::PartialSignature(_) | Message::FallbackSignature(_)
        );
        if mail.from == spoiler && dropped {
            return Vec::new();
        }
        vec![mail]
    }));
}

#[test]
fn who_responds_and_never_signs_is_counted_though_the_rounds_go_on() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::ready(setup(beacon, 3, 2));
        says_nothing_more(&mut net);
        for round in 1..=2_u32 {
            net.queue(0, 0, &format!("update {round}"));
            net.open();
            net.advance(61);
            assert_eq!(net.agg.signals_signed(), round, "through the leaf");
            let why = RoundCause::NoSignature { absent: vec![SEAT] };
            assert_eq!(stalls(&net, round), vec![Some(why); 4]);
            net.mine(1);
            for conduct in conducts(&net) {
                let of = conduct.of(SEAT).unwrap();
                assert_eq!(u32::from(of.missed), round);
                assert_eq!(of.last_missed, Some(Round(round)));
                assert_eq!(conduct.of(Seat(0)), None);
                let stalling: Vec<Seat> = conduct.stalling(2).collect();
                assert_eq!(stalling.contains(&SEAT), round == 2);
            }
            net.mine(6);
        }
        // It signs again: what it missed is past.
        net.hook = None;
        net.round();
        for conduct in conducts(&net) {
            assert_eq!(conduct.of(SEAT).unwrap().missed, 0);
        }
    }
}

#[test]
fn who_loses_every_session_is_counted_by_its_own_word() {
    let setup = setup(CohortBeacon::Smt, 3, 2).terms(|terms| terms.sessions_max = 2);
    let mut net = Net::ready(setup);
    net.queue(0, 0, "a");
    assert_eq!(net.agg.open_refusal(), None);
    net.agg_input(btcr2_agent::protocol::aggregator::AggregatorInput::OpenRound);
    loop {
        let asked = net.mail.front().is_some_and(|mail| {
            matches!(mail.message, Message::SignRequest(_)) && mail.to == Dest::Member(SPOILER)
        });
        if asked {
            net.nodes[SPOILER].signer.drop_all_nonces();
        }
        if !net.step() {
            break;
        }
    }
    assert_eq!(net.agg.signals_signed(), 1, "through the leaf");
    let (cohort, member) = (net.agg.cohort(), net.nodes[SPOILER].me());
    for why in stalls(&net, 1) {
        let Some(RoundCause::SessionsUsedUp { lost }) = why else {
            panic!("{why:?}");
        };
        assert_eq!(lost.len(), 2);
        let shown = |lost: &btcr2_agent::protocol::message::LostSession| {
            lost.seat == SEAT && lost.is_shown(&cohort, Round(1), &member)
        };
        assert!(lost.iter().all(shown));
    }
    for conduct in conducts(&net) {
        assert_eq!(conduct.of(SEAT).unwrap().missed, 1);
        assert_eq!(conduct.of(Seat(0)), None);
    }
    net.mine(1);
    assert_eq!(net.proved(0, 0)[0], Some(Some(update("a"))));
}

/// Evidence of a round that ends well through the leaf reaches the members too, and is verified by each.
#[test]
fn what_shows_a_bad_partial_goes_to_all_with_the_request() {
    let mut net = Net::ready(setup(CohortBeacon::Cas, 3, 2));
    net.queue(0, 0, "a");
    net.hold = Some("partial_signature");
    net.open();
    let partials_of = |net: &Net, i: usize| {
        let mut held = net.held.iter();
        let mail = held.find(|mail| mail.from == net.nodes[i].me()).unwrap();
        match &mail.message {
            Message::PartialSignature(signed) => signed.content.clone(),
            _ => unreachable!(),
        }
    };
    let mut bad = partials_of(&net, SPOILER);
    bad.partials = partials_of(&net, 1).partials;
    let bad = net.signed(SPOILER, bad);
    let spoiler = key(&format!("member {SPOILER}")).public();
    net.held.retain(|mail| mail.from != spoiler);
    net.say(SPOILER, Message::PartialSignature(bad));
    net.release();
    net.advance(61);
    assert_eq!(net.agg.signals_signed(), 1, "through the leaf");
    for node in &net.nodes {
        let proved = node.reports.iter().any(|report| {
            matches!(report, Report::MemberBlamed { blame, proved: true } if blame.member == spoiler)
        });
        assert!(proved);
    }
    for conduct in conducts(&net) {
        let of = conduct.of(SEAT).unwrap();
        assert_eq!((of.missed, of.offences.len()), (1, 1));
        assert!(of.offences[0].proved);
        let stalling: Vec<Seat> = conduct.stalling(100).collect();
        assert_eq!(stalling, [SEAT], "evidence is reason enough");
    }
}
