//! What a member said or signed in a round that is over: others may still bring it to the chain, or ask for it again.

use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::participant::{Participant, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;

use super::fallback::{BEACONS, setup};
use super::net::{Dest, HOUR, Net, Setup};
use super::node::update;

/// The end of the round comes before the request to sign it through the leaf. Until the chain has decided, k others can
/// announce what was said: the update stays what it is, and what is announced is known to be one's own.
#[test]
fn a_fallback_that_comes_after_the_end_of_its_round_is_known() {
    for beacon in BEACONS {
        for (n, k) in [(3, 1), (4, 2)] {
            let mut net = Net::ready(setup(beacon, n, k));
            let last = n - 1;
            net.queue(1, 0, "one");
            let mut kept = Vec::new();
            net.hook = Some(Box::new(move |mail| {
                let name = mail.message.type_name();
                let away = mail.to == Dest::Member(last) && name == "round_open";
                let late = mail.to == Dest::Member(1) && name == "fallback_request";
                if late {
                    kept.push(mail);
                    return Vec::new();
                }
                if name == "round_failed" && mail.to == Dest::Member(1) {
                    // First the end, then the request.
                    let mut both = vec![mail];
                    both.append(&mut kept);
                    return both;
                }
                if away { Vec::new() } else { vec![mail] }
            }));
            net.hold = Some("fallback_signature");
            net.open();
            net.advance(61);
            assert!(!net.held.is_empty(), "others would sign it");
            net.advance(70);
            assert_eq!(net.agg.signals_signed(), 0);
            net.hook = None;

            let node = &net.nodes[1];
            let failed = |report: &Report| matches!(report, Report::RoundFailed { .. });
            assert!(node.reports.iter().any(failed));
            assert_eq!(node.alarms(), [""; 0], "{beacon:?}: it is its own");
            let kept = node.saved.iter().any(|artifact| match artifact {
                Artifact::SmtProof { update: said, .. } => *said == Some(update("one")),
                Artifact::Announcement { announcement, .. } => {
                    announcement.contains(node.dids[0].did.as_str())
                }
                _ => false,
            });
            assert!(kept, "{beacon:?}: and can be explained");
        }
    }
}

/// Also before the request is heard.
#[test]
fn an_update_that_was_said_stays_until_a_later_signal_is_final() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 1));
        let index = net.nodes[1].dids[0].index;
        net.queue(1, 0, "one");
        net.hook = Some(Box::new(|mail| {
            let name = mail.message.type_name();
            let heard = mail.to == Dest::Member(1) && name == "fallback_request";
            let away = mail.to == Dest::Member(2) && name == "round_open";
            if heard || away {
                Vec::new()
            } else {
                vec![mail]
            }
        }));
        net.hold = Some("fallback_signature");
        net.open();
        net.advance(140);
        (net.hook, net.hold) = (None, None);
        net.held.clear();
        assert_eq!(net.agg.signals_signed(), 0);
        assert_eq!(net.nodes[1].core.open_round(), None, "it heard of the end");

        let stays = |net: &mut Net| {
            let Outcome::Ignored(Ignored::Contradiction(why)) = net.queue(1, 0, "two") else {
                panic!("another update of the same version is taken");
            };
            assert!(why.contains("not final"), "{why}");
            let withdraw = ParticipantInput::Withdraw { index };
            assert_eq!(net.input(1, withdraw), Outcome::Ignored(Ignored::TooLate));
        };
        stays(&mut net);
        net.round();
        stays(&mut net);
        net.mine(5);
        assert_eq!(net.queue(1, 0, "two"), Outcome::Accepted);
        net.round();
        assert_eq!(
            net.proved(1, 0),
            [Some(Some(update("one"))), Some(Some(update("two")))]
        );
    }
}

/// A CAS announcement has nothing of its round in it: said again after a round that failed, it makes the very same
/// transaction.
#[test]
fn the_same_transaction_in_a_later_round_is_a_result_like_any() {
    for ladder in [vec![1], vec![1, 3]] {
        let setup = Setup::new(CohortBeacon::Cas, 3).terms(|terms| {
            terms.fee_ladder = ladder.clone();
            terms.signing_seconds = 60;
        });
        let mut net = Net::ready(setup);
        net.queue(0, 0, "one");
        net.hold = Some("partial_signature");
        net.open();
        assert_eq!(net.held.len(), 3, "everybody signed");
        net.advance(70);
        net.held.clear();
        net.hold = None;
        let given = net.nodes[0].core.given();
        assert_eq!(given.len(), ladder.len());
        let first = given[0].txid;

        let tx = net.round();
        assert_eq!(tx.compute_txid(), first, "nothing else is said");
        for node in &net.nodes {
            assert_eq!(node.alarms(), [""; 0]);
            assert_eq!(node.core.open_round(), None);
            let kept = node.saved.iter().any(
                |artifact| matches!(artifact, Artifact::SignedTransaction { tx: kept, .. } if *kept == tx),
            );
            assert!(kept, "the result is kept");
            assert_eq!(node.core.given().len(), ladder.len());
        }
        net.next_round_works();
    }
}

/// A request for history is of no use any more once something else explained the signal. That is noticed with what
/// explains it: a tick that does nothing is not logged, and must not change anything.
#[test]
fn a_tick_that_asks_for_nothing_changes_nothing() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 2));
        net.queue(0, 0, "one");
        let kept = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let keep = std::rc::Rc::clone(&kept);
        net.hook = Some(Box::new(move |mail| {
            if mail.to == Dest::Member(2) {
                keep.borrow_mut().push(mail);
                return Vec::new();
            }
            vec![mail]
        }));
        net.hold = Some("history_request");
        net.open();
        net.advance(61);
        assert_eq!(net.agg.signals_signed(), 1);
        net.mine(1);
        assert_eq!(net.held.len(), 1, "it asks what that signal was");
        net.hook = None;
        net.mail.extend(kept.borrow_mut().drain(..));
        net.run();
        assert_eq!(net.proved(2, 0), [Some(None)], "the request came after all");

        let state = |core: &Participant| {
            let text = format!("{core:?}");
            let (before, after) = text.split_once(", now: UnixTime(").unwrap();
            let (_, after) = after.split_once(')').unwrap();
            format!("{before}{after}")
        };
        let node = &net.nodes[2];
        assert_eq!(node.core.deadline(), None);
        let mut core = Participant::new(node.core.terms().clone(), node.me(), node.policy);
        for (at, input, _) in &node.log {
            let _ = core.handle(*at, input.clone());
        }
        let later = net.now.plus(48 * HOUR);
        let step = core.handle(later, ParticipantInput::Tick);
        assert_eq!(step.effects, [], "and so it is not logged");
        assert!(state(&core) == state(&node.core));
    }
}
