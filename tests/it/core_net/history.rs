//! Proofs of past rounds: lost ones are had again, lies are refused, and nobody is asked to death.

use std::collections::BTreeSet;

use btcr2_agent::beacon::smt::SmtTree;
use btcr2_agent::hash::{LeafValue, SignalBytes};
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::{Artifact, Effect, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{
    History, HistoryRequest, Leave, Message, RefusalCode, Refused,
};
use btcr2_agent::protocol::participant::{BindingState, Decline, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Dest, HOUR, Net, Setup};
use super::node::{MyDid, key, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

/// Three signals: an update of the first member's DID, none of it, and another one.
fn three_rounds(beacon: CohortBeacon, decline: Decline) -> Net {
    let mut net = Net::ready(Setup::new(beacon, 3).decline(decline));
    net.queue(0, 0, "one");
    net.round();
    net.mine(6);
    net.queue(1, 0, "other");
    net.round();
    net.queue(0, 0, "two");
    net.round();
    assert_eq!(net.proved(0, 0), expected());
    net
}

fn expected() -> [Option<Option<btcr2_agent::hash::UpdateHash>>; 3] {
    [
        Some(Some(update("one"))),
        Some(None),
        Some(Some(update("two"))),
    ]
}

/// The first member's store loses everything it saved; the machine is told.
fn lose(net: &mut Net) -> Outcome {
    let index = net.nodes[0].dids[0].index;
    net.nodes[0].saved.clear();
    let signals: Vec<SignalBytes> = net.nodes[0].core.proved_signals(&index).collect();
    assert_eq!(signals.len(), 3);
    net.input(0, ParticipantInput::Lost { index, signals })
}

#[test]
fn lost_proofs_of_own_updates_and_private_silence_are_had_again() {
    for beacon in BEACONS {
        for decline in [Decline::Idle, Decline::NoUpdate] {
            let mut net = three_rounds(beacon, decline);
            let index = net.nodes[0].dids[0].index;
            let before: BTreeSet<String> = saved(&net);
            assert_eq!(lose(&mut net), Outcome::Accepted);
            assert_eq!(net.nodes[0].core.proof_counts(&index), (0, 3));
            assert_eq!(net.proved(0, 0), [None; 3]);
            net.run();
            assert_eq!(net.proved(0, 0), expected(), "{beacon:?} {decline:?}");
            assert_eq!(saved(&net), before, "the same bytes as before");
            assert_eq!(net.nodes[0].core.proof_counts(&index), (3, 0));
            assert!(net.nodes[0].alarms().is_empty());
            if decline == Decline::NoUpdate {
                net.next_round_works();
            }
        }
    }
}

/// The process ends with the answer in its log, and before it has looked at what it means: it looks after the restart.
#[test]
fn a_process_that_ends_before_it_remembers_remembers_after_its_restart() {
    for beacon in BEACONS {
        let mut net = three_rounds(beacon, Decline::NoUpdate);
        net.nodes[0].dies_at_recall = true;
        assert_eq!(lose(&mut net), Outcome::Accepted);
        net.run();
        assert!(!net.nodes[0].dies_at_recall);
        assert_eq!(net.proved(0, 0), expected(), "{beacon:?}");
        net.next_round_works();
    }
}

/// What the first member has saved to explain signals.
fn saved(net: &Net) -> BTreeSet<String> {
    let proofs = net.nodes[0].saved.iter().filter(|artifact| {
        matches!(
            artifact,
            Artifact::SmtProof { .. } | Artifact::Announcement { .. }
        )
    });
    proofs
        .map(|artifact| serde_json::to_string(artifact).unwrap())
        .collect()
}

/// While a proof is lacking the member does not sign; with it, it does.
#[test]
fn nothing_is_signed_before_what_was_lost_is_back() {
    for beacon in BEACONS {
        let mut net = three_rounds(beacon, Decline::NoUpdate);
        net.hold = Some("history");
        lose(&mut net);
        net.run();
        net.open();
        assert_eq!(net.agg.signals_signed(), 3);
        assert!(net.nodes[0].refusals()[0].contains("3 proofs of earlier signals are missing"));
        net.release();
        assert_eq!(net.agg.signals_signed(), 4);
        net.mine(1);
        assert_eq!(net.proved(0, 0)[..3], expected());
    }
}

#[test]
fn an_answer_that_lies_is_refused_and_another_one_counts() {
    type Lie = fn(&mut History);
    let lies: [(&str, Lie); 4] = [
        ("another leaf", |history| {
            history.items[0].leaf = Some(LeafValue::from_bytes([7; 32]));
            history.items[0].announcement = Some("{}".into());
        }),
        ("the proof of another round", |history| {
            let other = history.items[2].clone();
            history.items[0].path = other.path;
            history.items[0].leaf = other.leaf;
            history.items[0].announcement = other.announcement;
        }),
        ("no leaf where there was one", |history| {
            history.items[0].leaf = None;
            history.items[0].announcement = None;
        }),
        ("an empty tree", |history| {
            let empty = SmtTree::new([]).unwrap();
            history.items[0].path = Some(empty.prove(&history.index));
            history.items[0].leaf = None;
            history.items[0].announcement = Some(String::new());
        }),
    ];
    for beacon in BEACONS {
        for (lie, change) in lies {
            let mut net = three_rounds(beacon, Decline::NoUpdate);
            let index = net.nodes[0].dids[0].index;
            net.hold = Some("history");
            lose(&mut net);
            net.run();
            let Message::History(mut history) = net.held.remove(0).message else {
                unreachable!()
            };
            change(&mut history);
            assert_eq!(
                net.tell(0, Message::History(history)),
                Outcome::Ignored(Ignored::BadProof),
                "{beacon:?}: {lie}"
            );
            assert_eq!(net.nodes[0].core.proof_counts(&index), (2, 1), "{lie}");
            assert_eq!(net.proved(0, 0)[0], None, "nothing of the lie is saved");
            assert!(net.nodes[0].alarms()[0].contains("does not verify"));
            net.hold = None;
            net.mine(1);
            assert_eq!(net.proved(0, 0), expected());
            net.next_round_works();
        }
    }
}

/// Rounds and transactions are the aggregator's word: a wrong round derives a wrong nonce, and the transaction is
/// the one the own chain shows.
#[test]
fn neither_round_nor_transaction_is_taken_on_trust() {
    let mut net = three_rounds(CohortBeacon::Smt, Decline::NoUpdate);
    net.hold = Some("history");
    lose(&mut net);
    net.run();
    let Message::History(mut history) = net.held.remove(0).message else {
        unreachable!()
    };
    let truth: Vec<_> = history.items.iter().map(|item| item.txid).collect();
    history.items[0].round = Round(9);
    history.items[1].txid = "11".repeat(32).parse().unwrap();
    let outcome = net.tell(0, Message::History(history));
    // The path is right; only the nonce of round 9 does not open the leaf.
    assert_eq!(outcome, Outcome::Accepted);
    assert!(net.nodes[0].alarms()[0].contains("round 9 announced something"));
    let saved: Vec<_> = net.nodes[0]
        .saved
        .iter()
        .filter_map(|artifact| match artifact {
            Artifact::SmtProof { round, txid, .. } => Some((*round, *txid)),
            _ => None,
        })
        .collect();
    assert_eq!(saved, [(Round(2), truth[1]), (Round(3), truth[2])]);
    net.hold = None;
    net.mine(1);
    assert_eq!(net.proved(0, 0), expected());
}

/// A leaf made of an update that nobody here knows explains nothing.
#[test]
fn an_update_that_is_not_stored_any_more_is_said_to_be_unknown() {
    for beacon in BEACONS {
        let mut net = three_rounds(beacon, Decline::NoUpdate);
        let index = net.nodes[0].dids[0].index;
        net.nodes[0].updates.retain(|hash| *hash != update("two"));
        lose(&mut net);
        net.run();
        let mut right = expected();
        right[2] = None;
        assert_eq!(net.proved(0, 0), right);
        assert_eq!(net.nodes[0].core.proof_counts(&index), (2, 1));
        assert_eq!(
            net.nodes[0].alarms(),
            [format!(
                "round 3 announced something for index {index} that this agent did not ask for"
            )]
        );
    }
}

/// Nor is anything asked for again because another index has an answer: that would never end.
#[test]
fn what_nobody_can_explain_is_not_asked_for_in_turns() {
    for beacon in BEACONS {
        let setup = Setup::new(beacon, 2).dids(&[2, 1]);
        let mut net = Net::ready(setup.decline(Decline::NoUpdate));
        for (j, name) in [(0, "one"), (1, "two")] {
            net.queue(0, j, name);
            net.round();
            net.mine(6);
        }
        net.nodes[0].updates.clear();
        net.nodes[0].saved.clear();
        let before = requests(&net);
        for j in 0..2 {
            let index = net.nodes[0].dids[j].index;
            let signals: Vec<SignalBytes> = net.nodes[0].core.proved_signals(&index).collect();
            net.input(0, ParticipantInput::Lost { index, signals });
        }
        let ends = (0..1_000).any(|_| !net.step());
        assert!(ends, "{} requests", requests(&net) - before);
        assert_eq!(requests(&net), before + 2, "one for each");
        assert_eq!(net.nodes[0].alarms().len(), 2, "one for each");
        net.mine(1);
        assert_eq!(requests(&net), before + 4, "the chain has news");
    }
}

/// What the words of a lost store do not bring back is not asked for with every block for years, nor is it said each time.
#[test]
fn what_nobody_can_explain_is_asked_for_more_and_more_seldom() {
    for beacon in BEACONS {
        let mut net = three_rounds(beacon, Decline::NoUpdate);
        let known = net.nodes[0].updates.clone();
        net.nodes[0].updates.retain(|hash| *hash != update("two"));
        let before = requests(&net);
        lose(&mut net);
        net.run();
        // A block every ten minutes, for three days.
        let mut asked_at = Vec::new();
        for block in 1..=3 * 144_u32 {
            let so_far = requests(&net);
            net.now = net.now.plus(600);
            net.mine(1);
            if requests(&net) > so_far {
                asked_at.push(block);
            }
        }
        assert_eq!(requests(&net) - before, 1 + asked_at.len());
        // With the next two blocks, then after one hour, two, four, and then every six.
        assert_eq!(asked_at[..6], [1, 2, 8, 20, 44, 80]);
        let apart = asked_at.windows(2).skip(4).map(|two| two[1] - two[0]);
        assert_eq!(apart.collect::<Vec<_>>(), [36; 10]);
        assert_eq!(net.nodes[0].alarms().len(), 1, "said once");
        net.restart(0);
        assert_eq!(net.nodes[0].alarms().len(), 1);

        // Somebody found it: the next answer is understood.
        net.nodes[0].updates = known;
        net.now = net.now.plus(6 * HOUR);
        net.mine(1);
        assert_eq!(net.proved(0, 0), expected());
    }
}

/// The process may die between an answer and what it makes of it.
#[test]
fn what_was_to_be_recalled_survives_a_restart() {
    let mut net = three_rounds(CohortBeacon::Smt, Decline::NoUpdate);
    net.hold = Some("history");
    lose(&mut net);
    net.run();
    let history = net.held.remove(0).message;
    let (from, now) = (net.agg_key.public(), net.now);
    // The step is logged, its effects are not carried out.
    let input = ParticipantInput::Message {
        from,
        message: history,
    };
    let step = net.nodes[0].core.handle(now, input.clone());
    let recall = |effect: &Effect| matches!(effect, Effect::Recall { .. });
    assert!(step.effects.iter().any(recall));
    net.nodes[0].log.push((now, input, step));
    net.restart(0);
    net.hold = None;
    net.mine(1);
    assert_eq!(net.proved(0, 0), expected());
}

#[test]
fn a_request_that_is_not_answered_is_repeated_after_an_hour() {
    let mut net = three_rounds(CohortBeacon::Smt, Decline::Idle);
    let before = requests(&net);
    net.hold = Some("history_request");
    lose(&mut net);
    net.run();
    net.held.clear();
    net.mine(1);
    assert_eq!(requests(&net), before + 1, "blocks do not repeat it");
    let due = net.nodes[0].core.deadline().unwrap();
    assert_eq!(due.since(net.now), 3_600);
    net.now = due;
    net.hold = None;
    net.input(0, ParticipantInput::Tick);
    net.run();
    assert_eq!(requests(&net), before + 2);
    assert_eq!(net.proved(0, 0), expected());
    assert_eq!(net.nodes[0].core.deadline(), None);
}

fn requests(net: &Net) -> usize {
    let sent = net.archive.iter();
    sent.filter(|mail| mail.message.type_name() == "history_request")
        .count()
}

/// Long histories come in pages, each with its own request.
#[test]
fn lost_proofs_come_page_by_page() {
    let mut net = three_rounds(CohortBeacon::Smt, Decline::NoUpdate);
    let before = requests(&net);
    net.history_bytes = 1;
    lose(&mut net);
    net.run();
    assert_eq!(requests(&net), before + 3);
    assert_eq!(net.proved(0, 0), expected());
}

#[test]
fn strangers_are_answered_for_any_index_and_after_the_end() {
    let mut net = three_rounds(CohortBeacon::Smt, Decline::NoUpdate);
    let stranger = key("stranger").public();
    let leave = Message::Leave(Leave {
        even_if_frozen: true,
    });
    net.say(1, leave);
    // An index nobody registered.
    let index = btcr2_agent::hash::SmtIndex::from_bytes([9; 32]);
    let ask = Message::HistoryRequest(HistoryRequest {
        index,
        from_round: Round(2),
    });
    assert_eq!(
        net.deliver(stranger, Dest::Aggregator, ask),
        Outcome::Accepted
    );
    let (to, Message::History(history)) = net.elsewhere.pop().unwrap() else {
        unreachable!()
    };
    assert_eq!((to, history.items.len()), (stranger, 2));
    for item in history.items {
        assert_eq!(item.leaf, None);
        let path = item.path.unwrap();
        let empty = btcr2_agent::beacon::smt::EMPTY_LEAF;
        path.verify_leaf_value(&index, &empty, &item.signal)
            .unwrap();
    }
}

#[test]
fn a_member_that_asked_too_often_asks_again_a_minute_later() {
    let mut net = three_rounds(CohortBeacon::Smt, Decline::Idle);
    net.hold = Some("history_request");
    lose(&mut net);
    net.run();
    net.held.clear();
    net.hold = None;
    let refused = Message::Refused(Refused {
        of: "history_request".into(),
        code: RefusalCode::TooMany,
        round: None,
    });
    assert_eq!(net.tell(0, refused), Outcome::Accepted);
    let due = net.nodes[0].core.deadline().unwrap();
    assert_eq!(due.since(net.now), 60, "not in an hour");
    net.now = due;
    net.input(0, ParticipantInput::Tick);
    net.run();
    assert_eq!(net.proved(0, 0), expected());
    let complains = |report: &Report| matches!(report, Report::MyRequestRefused { .. });
    assert!(!net.nodes[0].reports.iter().any(complains));
}

/// A user who does not want to wait asks at once, whoever was asked before.
#[test]
fn a_user_may_ask_at_any_time() {
    let mut net = three_rounds(CohortBeacon::Cas, Decline::Idle);
    let index = net.nodes[0].dids[0].index;
    net.hold = Some("history_request");
    lose(&mut net);
    net.run();
    net.held.clear();
    net.hold = None;
    let outcome = net.input(0, ParticipantInput::Fetch { index });
    assert_eq!(outcome, Outcome::Accepted);
    net.run();
    assert_eq!(net.proved(0, 0), expected());
    let before = requests(&net);
    net.input(0, ParticipantInput::Fetch { index });
    assert_eq!(requests(&net), before, "nothing is missing");
}

/// One that waits to be bound, one that was registered while a round was open, one that is bound: each has a proof
/// of every signal, with an update or without.
#[test]
fn every_registered_did_is_complete_whatever_its_state() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2).decline(Decline::NoUpdate));
        net.nodes[0].binds = false;
        let network = net.agg.terms().network;
        net.nodes[0].dids.push(MyDid::k1(network, "waiting"));
        net.register(0, &[1]);
        net.run();
        let state = |net: &Net, j: usize| {
            let node = &net.nodes[0];
            node.core.binding_state(&node.dids[j].index)
        };
        assert_eq!(state(&net, 1), Some(BindingState::MayBind));
        net.round();
        net.queue(0, 0, "one");
        net.hold = Some("sign_request");
        net.open();
        net.nodes[0].dids.push(MyDid::k1(network, "late"));
        net.register(0, &[2]);
        net.run();
        assert_eq!(state(&net, 2), Some(BindingState::NotYet));
        net.release();
        net.mine(1);
        net.round();
        for j in 0..3 {
            let update = Some(update("one")).filter(|_| j == 0);
            assert_eq!(
                net.proved(0, j),
                [Some(None), Some(update), Some(None)],
                "{beacon:?}: DID {j}"
            );
            let index = net.nodes[0].dids[j].index;
            // Without any update, announcements of two rounds are the same bytes, and so one signal.
            let signals = match beacon {
                CohortBeacon::Smt => 3,
                CohortBeacon::Cas => 2,
            };
            assert_eq!(net.nodes[0].core.proof_counts(&index), (signals, 0));
        }
        for j in 1..3 {
            assert_eq!(state(&net, j), Some(BindingState::MayBind));
            let index = net.nodes[0].dids[j].index;
            let bound = net.input(0, ParticipantInput::Bound { index });
            assert_eq!(bound, Outcome::Accepted);
        }
        net.next_round_works();
    }
}
