//! An aggregator whose store is an older copy of itself asks its members what was announced since, believes nothing
//! that it can check, and can prove every round again.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use btcr2_agent::hash::{LeafValue, SignalBytes};
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::effect::{Artifact, Effect, Ignored, Outcome, Report};
use btcr2_agent::protocol::ids::Seat;
use btcr2_agent::protocol::message::{
    HistoryRequest, KeptProofs, KeptSignal, Message, ProofRequest,
};
use btcr2_agent::protocol::participant::{BindingState, Decline, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Round, proof_message::MAX_SIGNALS_ASKED};

use super::net::{HOUR, Mail, Net, Setup};
use super::node::{key, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

/// Whose answers are lost, by seat key.
type Silent = Rc<RefCell<BTreeSet<btcr2_agent::keys::NostrKey>>>;

fn setup(beacon: CohortBeacon) -> Setup {
    Setup::new(beacon, 3)
        .dids(&[1, 2, 2])
        .decline(Decline::NoUpdate)
}

/// One round is in the copy, and so many are not. The second DID of the last member is not registered.
fn later(beacon: CohortBeacon, rounds: u32) -> (Net, super::agg_restored::Copy) {
    let mut net = Net::new(setup(beacon));
    net.form();
    net.fund(100_000);
    for (i, dids) in [(0, vec![0]), (1, vec![0, 1]), (2, vec![0])] {
        net.register(i, &dids);
    }
    net.run();
    net.round();
    let copy = net.copy_of_aggregator();
    for n in 0..rounds {
        // Announcements differ, as leaves do.
        net.mine(6);
        net.queue(0, 0, &format!("update {n}"));
        net.round();
    }
    (net, copy)
}

/// What proves rounds, in the order of rounds.
fn provable(net: &Net) -> Vec<Artifact> {
    let mut all: Vec<(Round, Artifact)> = net
        .agg_saved
        .iter()
        .filter_map(|artifact| match artifact {
            Artifact::LeafSet { round, .. } | Artifact::Announcement { round, .. } => {
                Some((*round, artifact.clone()))
            }
            _ => None,
        })
        .collect();
    all.sort_by_key(|(round, _)| *round);
    all.into_iter()
        .map(|(_, artifact)| match artifact {
            Artifact::LeafSet {
                round,
                signal,
                txid,
                mut leaves,
            } => {
                leaves.sort();
                Artifact::LeafSet {
                    round,
                    signal,
                    txid,
                    leaves,
                }
            }
            other => other,
        })
        .collect()
}

/// From now on the answers of some members get lost.
fn silence(net: &mut Net, members: &[usize]) -> Silent {
    let silent: BTreeSet<_> = members.iter().map(|i| net.nodes[*i].me()).collect();
    let silent = Rc::new(RefCell::new(silent));
    let lost = Rc::clone(&silent);
    net.hook = Some(Box::new(move |mail: Mail| {
        let kept = matches!(mail.message, Message::KeptProofs(_));
        if kept && lost.borrow().contains(&mail.from) {
            Vec::new()
        } else {
            vec![mail]
        }
    }));
    silent
}

fn seat_of(net: &Net, i: usize) -> Seat {
    net.nodes[i].core.my_seat().unwrap()
}

fn lacking(net: &Net) -> Vec<Vec<Seat>> {
    let unexplained = net.agg.unexplained();
    unexplained.into_iter().map(|one| one.lacking).collect()
}

fn explained(net: &Net) -> Vec<Round> {
    let reports = net.agg_reports.iter();
    reports
        .filter_map(|report| match report {
            Report::SignalExplained { round, .. } => Some(*round),
            _ => None,
        })
        .collect()
}

fn alarms(net: &Net) -> Vec<&str> {
    let reports = net.agg_reports.iter();
    reports
        .filter_map(|report| match report {
            Report::Alarm { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// A DID that nobody covered in these rounds is proved empty in all of them, and is bound once a round was held that
/// covers it: others may have been opened under the numbers that were left out.
fn binds_another_did(net: &mut Net) {
    net.register(2, &[1]);
    net.run();
    let index = net.nodes[2].dids[1].index;
    assert_eq!(net.nodes[2].core.proof_counts(&index), (4, 0));
    net.round();
    let state = net.nodes[2].core.binding_state(&index);
    assert_eq!(state, Some(BindingState::Bound));
    net.next_round_works();
}

#[test]
fn a_restored_aggregator_gets_back_what_was_announced_since() {
    for beacon in BEACONS {
        let (mut net, copy) = later(beacon, 3);
        let before = provable(&net);
        assert_eq!(before.len(), 4);
        net.restore_aggregator(copy);
        assert_eq!(provable(&net), before, "{beacon:?}");
        assert_eq!(explained(&net).len(), 3);
        assert_eq!(net.agg.unexplained(), []);
        assert_eq!(alarms(&net), [""; 0]);
        // It is not asked for again, also when a block goes and comes.
        let asked = |net: &Net| {
            let sent = net.archive.iter();
            sent.filter(|mail| matches!(mail.message, Message::ProofRequest(_)))
                .count()
        };
        let times = asked(&net);
        assert!(times > 0);
        net.mine(3);
        net.advance(30 * 24 * HOUR);
        assert_eq!(asked(&net), times);
        binds_another_did(&mut net);
    }
}

/// Every leaf is needed: who is away is named, and when it is back the rest follows.
#[test]
fn leaves_are_whole_when_every_member_has_shown_its_own() {
    let (mut net, copy) = later(CohortBeacon::Smt, 2);
    let before = provable(&net);
    let silent = silence(&mut net, &[1]);
    net.restore_aggregator(copy);
    assert_eq!(provable(&net).len(), 1);
    assert_eq!(lacking(&net), vec![vec![seat_of(&net, 1)]; 2]);
    // A member that needs these rounds is told nothing of them.
    net.register(2, &[1]);
    net.run();
    let index = net.nodes[2].dids[1].index;
    assert_eq!(net.nodes[2].core.proof_counts(&index), (1, 2));
    let told = |net: &Net| {
        let reports = net.agg_reports.iter();
        reports
            .filter(|report| match report {
                Report::SignalUnexplained { lacking, .. } => *lacking == [seat_of(net, 1)],
                _ => false,
            })
            .count()
    };
    assert_eq!(told(&net), 0, "it may just take its time");
    let requests = |net: &Net| {
        let mails = net.archive.iter();
        let to = super::net::Dest::Member(1);
        mails
            .filter(|mail| mail.to == to && matches!(mail.message, Message::ProofRequest(_)))
            .count()
    };
    net.advance(HOUR);
    assert_eq!((told(&net), requests(&net)), (2, 2));
    // Asked ever more seldom, and named once.
    net.advance(60 * 24 * HOUR);
    assert_eq!(told(&net), 2);
    assert!((10..20).contains(&requests(&net)), "{}", requests(&net));

    silent.borrow_mut().clear();
    net.advance(8 * 24 * HOUR);
    assert_eq!(provable(&net), before);
    assert_eq!(net.agg.unexplained(), []);
    // Who was told nothing asks again when the chain moves.
    net.mine(1);
    assert_eq!(net.nodes[2].core.proof_counts(&index), (3, 0));
    net.next_round_works();
}

/// One announcement is enough, and only one member is asked at a time.
#[test]
fn an_announcement_comes_from_whoever_has_it() {
    let (mut net, copy) = later(CohortBeacon::Cas, 2);
    let before = provable(&net);
    // The first one asked is away, the second one has lost what it kept.
    let second = (0..3).find(|i| seat_of(&net, *i) == Seat(1)).unwrap();
    let first = (0..3).find(|i| seat_of(&net, *i) == Seat(0)).unwrap();
    silence(&mut net, &[first]);
    net.nodes[second].saved.clear();
    net.restore_aggregator(copy);
    assert_eq!(lacking(&net).len(), 2);
    let asked = |net: &Net| {
        let mails = net.archive.iter();
        mails
            .filter(|mail| matches!(mail.message, Message::ProofRequest(_)))
            .count()
    };
    assert_eq!(asked(&net), 1);
    net.advance(599);
    assert_eq!(asked(&net), 1);
    net.advance(1);
    assert_eq!(asked(&net), 3, "the second has nothing, the third has it");
    assert_eq!(provable(&net), before);
    assert_eq!(net.agg.unexplained(), []);
    assert_eq!(alarms(&net), [""; 0]);
}

#[test]
fn what_is_shown_wrongly_counts_for_nothing() {
    type Lie = fn(&mut KeptSignal);
    let smt: [(&str, Lie, bool); 5] = [
        (
            "another leaf",
            |item| item.proofs[0].leaf = Some(LeafValue::from_bytes([9; 32])),
            true,
        ),
        ("no leaf", |item| item.proofs[0].leaf = None, true),
        (
            "a path cut",
            |item| _ = item.proofs[0].path.hashes.pop(),
            true,
        ),
        (
            "proofs without end",
            |item| item.proofs = vec![item.proofs[0].clone(); 1_000],
            true,
        ),
        ("nothing", |item| item.proofs.clear(), false),
    ];
    let cas: [(&str, Lie, bool); 2] = [
        (
            "another announcement",
            |item| item.announcement.as_mut().unwrap().push(' '),
            true,
        ),
        ("nothing", |item| item.announcement = None, false),
    ];
    let smt = smt.into_iter().map(|lie| (CohortBeacon::Smt, lie));
    let cas = cas.into_iter().map(|lie| (CohortBeacon::Cas, lie));
    for (beacon, (what, lie, alarming)) in smt.chain(cas) {
        let (mut net, copy) = later(beacon, 1);
        let before = provable(&net);
        let liar = (0..3).find(|i| seat_of(&net, *i) == Seat(0)).unwrap();
        let from = net.nodes[liar].me();
        net.hook = Some(Box::new(move |mut mail: Mail| {
            if let Message::KeptProofs(kept) = &mut mail.message
                && mail.from == from
            {
                kept.items.iter_mut().for_each(lie);
            }
            vec![mail]
        }));
        net.restore_aggregator(copy);
        // A thousand proofs of one index are eight: with those it may be the whole.
        let one = what == "proofs without end" && net.nodes[liar].dids.len() == 1;
        if beacon == CohortBeacon::Cas || one {
            assert_eq!(provable(&net), before, "{what}: others have it");
        } else {
            // What it says of itself is missing; what others say is not spoiled.
            assert_eq!(provable(&net).len(), 1, "{what}");
            assert_eq!(lacking(&net).len(), 1, "{what}");
        }
        assert_eq!(!alarms(&net).is_empty(), alarming, "{what}");
    }
}

/// The number of a round is all that can not be checked: most members decide, and none that is taken counts.
#[test]
fn a_wrong_number_of_a_round_is_outvoted() {
    for (wrong, beacon) in [
        (Some(Round(1)), CohortBeacon::Smt),
        (Some(Round(1)), CohortBeacon::Cas),
        (Some(Round(900)), CohortBeacon::Smt),
        (Some(Round(0)), CohortBeacon::Cas),
        (Some(Round(5_000)), CohortBeacon::Smt),
        (None, CohortBeacon::Smt),
    ] {
        let (mut net, copy) = later(beacon, 2);
        let before = provable(&net);
        let liar = (0..3).find(|i| seat_of(&net, *i) == Seat(0)).unwrap();
        let from = net.nodes[liar].me();
        net.hook = Some(Box::new(move |mut mail: Mail| {
            if let Message::KeptProofs(kept) = &mut mail.message
                && mail.from == from
            {
                for item in &mut kept.items {
                    item.round = wrong;
                }
            }
            vec![mail]
        }));
        net.restore_aggregator(copy);
        assert_eq!(provable(&net), before, "{wrong:?} {beacon:?}");
    }
}

#[test]
fn only_members_that_were_asked_are_heard_and_only_the_aggregator_is_answered() {
    let (mut net, copy) = later(CohortBeacon::Smt, 1);
    let shown = |signal: SignalBytes| {
        Message::KeptProofs(KeptProofs {
            items: vec![KeptSignal {
                signal,
                round: Some(Round(2)),
                proofs: Vec::new(),
                announcement: None,
            }],
        })
    };
    let signal = SignalBytes::from_bytes([5; 32]);
    assert_eq!(
        net.say(0, shown(signal)),
        Outcome::Ignored(Ignored::Unasked)
    );
    silence(&mut net, &[0, 1, 2]);
    net.restore_aggregator(copy);
    let stranger = key("stranger").public();
    let to = super::net::Dest::Aggregator;
    assert_eq!(
        net.deliver(stranger, to, shown(signal)),
        Outcome::Ignored(Ignored::NotAMember)
    );
    // An answer about something else is an answer, and changes nothing of what is asked for.
    assert_eq!(net.say(0, shown(signal)), Outcome::Accepted);
    assert_eq!(net.agg.unexplained().len(), 1);
    assert_eq!(
        net.say(0, shown(signal)),
        Outcome::Ignored(Ignored::Unasked)
    );

    let request = || {
        Message::ProofRequest(ProofRequest {
            signals: vec![signal; 1_000],
        })
    };
    let member = super::net::Dest::Member(0);
    assert_eq!(
        net.deliver(stranger, member, request()),
        Outcome::Ignored(Ignored::NotTheAggregator)
    );
    assert_eq!(net.tell(0, request()), Outcome::Accepted);
    let answered = net.last_sent("kept_proofs");
    let Message::KeptProofs(kept) = answered.message else {
        panic!()
    };
    assert_eq!(kept.items.len(), MAX_SIGNALS_ASKED);
    assert!(kept.items.iter().all(|item| item.round.is_none()));

    // Who has no seat has nothing to show.
    let mut without = Net::new(setup(CohortBeacon::Smt));
    without.advertise();
    assert_eq!(
        without.tell(0, request()),
        Outcome::Ignored(Ignored::WrongPhase)
    );
}

/// Many rounds, and short answers: all of them come, each once.
#[test]
fn answers_that_are_cut_are_gone_on_with() {
    for beacon in BEACONS {
        let (mut net, copy) = later(beacon, 5);
        let before = provable(&net);
        net.history_bytes = 0;
        net.restore_aggregator(copy);
        assert_eq!(provable(&net), before, "{beacon:?}");
        let rounds = explained(&net);
        let once: BTreeSet<Round> = rounds.iter().copied().collect();
        assert_eq!((rounds.len(), once.len()), (5, 5));
    }
}

/// A cohort that has ended still has its past to prove.
#[test]
fn what_was_announced_is_got_back_after_the_end_too() {
    let (mut net, copy) = later(CohortBeacon::Smt, 1);
    let before = provable(&net);
    let silent = silence(&mut net, &[0]);
    net.restore_aggregator(copy);
    assert_eq!(net.agg_input(AggregatorInput::Cancel), Outcome::Accepted);
    net.run();
    silent.borrow_mut().clear();
    net.advance(HOUR);
    assert_eq!(provable(&net), before);
}

/// Questions are not logged, so nothing may become due with them: what a replay leads to would lack it.
#[test]
fn what_is_not_logged_moves_no_timer() {
    let mut net = Net::ready(setup(CohortBeacon::Smt).terms(|terms| terms.response_seconds = 60));
    net.hold = Some("response");
    net.open();
    let mut replayed = Aggregator::new(net.agg.terms().clone());
    for (at, input, _) in &net.agg_log {
        let _ = replayed.handle(*at, input.clone());
    }
    let late = net.now.plus(HOUR);
    let from = net.nodes[0].me();
    let index = net.nodes[0].dids[0].index;
    let mut asked = Vec::new();
    for message in [
        Message::HistoryRequest(HistoryRequest {
            index,
            from_round: Round(1),
        }),
        Message::SeatRequest(btcr2_agent::protocol::message::SeatRequest {}),
    ] {
        let input = AggregatorInput::Message { from, message };
        asked.extend(replayed.handle(late, input).effects);
    }
    let late_opt_in = net
        .archive
        .iter()
        .find_map(|mail| matches!(mail.message, Message::OptIn(_)).then(|| mail.message.clone()));
    let input = AggregatorInput::Message {
        from: key("stranger").public(),
        message: late_opt_in.unwrap(),
    };
    let step = replayed.handle(late, input);
    assert!(matches!(step.outcome, Outcome::Ignored(_)));
    assert_eq!(replayed, net.agg);
    let failed = |effects: &[Effect]| {
        let mut effects = effects.iter();
        effects.any(|effect| matches!(effect, Effect::Report(Report::RoundFailed { .. })))
    };
    assert!(!failed(&asked));
    assert!(failed(
        &replayed.handle(late, AggregatorInput::Tick).effects
    ));
}

/// A member whose own store was lost has nothing to show; it gets it back from the aggregator once others have.
#[test]
fn a_member_without_its_store_learns_what_the_others_have_shown() {
    let (mut net, copy) = later(CohortBeacon::Cas, 2);
    let before = net.proved(0, 0);
    assert_eq!(before.last(), Some(&Some(Some(update("update 1")))));
    net.nodes[0].saved.clear();
    let index = net.nodes[0].dids[0].index;
    let signals: Vec<SignalBytes> = net.nodes[0].core.proved_signals(&index).collect();
    net.restore_aggregator(copy);
    net.input(0, ParticipantInput::Lost { index, signals });
    net.run();
    net.advance(HOUR);
    assert_eq!(net.proved(0, 0), before);
}
