//! Rules 10 and 13: one update per DID at a time, and a proof for every signal.

use btcr2_agent::beacon::smt::SmtTree;
use btcr2_agent::hash::LeafValue;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::{Ignored, Outcome};
use btcr2_agent::protocol::message::{History, Message};
use btcr2_agent::protocol::participant::{BindingState, ParticipantInput};
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Net, Setup};
use super::node::{MyDid, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

fn contradiction(outcome: &Outcome, words: &str) {
    let Outcome::Ignored(Ignored::Contradiction(text)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_second_update_is_refused_until_the_first_is_final() {
    let mut net = Net::ready(Setup::smt(2));
    assert_eq!(net.queue(0, 0, "one"), Outcome::Accepted);
    assert_eq!(net.queue(0, 0, "one"), Outcome::Ignored(Ignored::Duplicate));
    assert_eq!(net.queue(0, 0, "better"), Outcome::Accepted, "not yet out");
    net.round();
    for _confirmations in 1..6 {
        contradiction(&net.queue(0, 0, "two"), "not final");
        net.mine(1);
    }
    assert_eq!(net.queue(0, 0, "two"), Outcome::Accepted);
    net.round();
    assert_eq!(
        net.proved(0, 0),
        [Some(Some(update("better"))), Some(Some(update("two")))]
    );
}

/// What was responded will be signed: it can not be replaced while the round is open.
#[test]
fn an_update_in_an_open_round_can_not_be_replaced_or_withdrawn() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2).terms(|terms| terms.response_seconds = 60));
        let index = net.nodes[0].dids[0].index;
        let withdraw = ParticipantInput::Withdraw { index };
        net.queue(0, 0, "zero");
        assert_eq!(net.input(0, withdraw.clone()), Outcome::Accepted);
        net.queue(0, 0, "one");
        net.hold = Some("sign_request");
        net.open();
        contradiction(&net.queue(0, 0, "two"), "not final");
        assert_eq!(
            net.input(0, withdraw.clone()),
            Outcome::Ignored(Ignored::TooLate)
        );
        net.release();
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(update("one")))]);

        // A round that fails before anything was signed sets it free.
        net.mine(6);
        net.queue(0, 0, "three");
        net.hold = Some("response");
        net.open();
        net.held.clear();
        contradiction(&net.queue(0, 0, "four"), "not final");
        net.hold = None;
        net.advance(61);
        assert_eq!(net.queue(0, 0, "four"), Outcome::Accepted);
        net.round();
        assert_eq!(net.proved(0, 0)[1], Some(Some(update("four"))));
    }
}

#[test]
fn an_update_queued_during_a_round_waits_for_the_next() {
    let mut net = Net::ready(Setup::cas(2));
    net.hold = Some("sign_request");
    net.open();
    assert_eq!(net.queue(0, 0, "late"), Outcome::Accepted);
    net.release();
    net.mine(1);
    assert_eq!(net.proved(0, 0), [Some(None)]);
    net.round();
    assert_eq!(net.proved(0, 0), [Some(None), Some(Some(update("late")))]);
}

// ---- history ----------------------------------------------------------------------------------------------------

/// A DID that comes after two rounds; the answer to its request is kept back.
fn at_history(beacon: CohortBeacon) -> (Net, History) {
    let mut net = Net::ready(Setup::new(beacon, 2));
    net.queue(1, 0, "b");
    net.round();
    net.round();
    let late = MyDid::k1(Network::Regtest, "late");
    net.nodes[0].dids.push(late);
    net.hold = Some("history");
    net.register(0, &[1]);
    net.run();
    let Message::History(history) = net.held.remove(0).message else {
        unreachable!()
    };
    assert_eq!(history.items.len(), 2);
    (net, history)
}

#[test]
fn a_history_that_does_not_prove_what_it_should() {
    for beacon in BEACONS {
        type Change = fn(&mut History);
        let cases: [Change; 4] = [
            |history| {
                // The proof or announcement of another signal.
                let other = history.items[1].clone();
                history.items[0].path = other.path;
                history.items[0].announcement = other.announcement;
            },
            |history| {
                history.items[0].path = None;
                history.items[0].announcement = None;
            },
            |history| {
                history.items[0].leaf = Some(LeafValue::from_bytes([1; 32]));
                history.items[0].announcement = Some("{}".into());
            },
            |history| {
                history.items.remove(0);
            },
        ];
        for (case, change) in cases.into_iter().enumerate() {
            let (mut net, good) = at_history(beacon);
            let index = net.nodes[0].dids[1].index;
            let mut bad = good.clone();
            change(&mut bad);
            let outcome = net.tell(0, Message::History(bad));
            if case == 3 {
                assert_eq!(outcome, Outcome::Accepted, "it is only incomplete");
            } else {
                assert_eq!(outcome, Outcome::Ignored(Ignored::BadProof));
                assert!(net.nodes[0].alarms()[0].contains("does not verify"));
            }
            assert_eq!(net.nodes[0].core.proof_counts(&index), (1, 1));
            assert_eq!(
                net.nodes[0].core.binding_state(&index),
                Some(BindingState::NotYet)
            );
            contradiction(
                &net.input(0, ParticipantInput::Bound { index }),
                "not complete",
            );
            // What nobody asked for counts for nothing; the next block asks again.
            assert_eq!(
                net.tell(0, Message::History(good)),
                Outcome::Ignored(Ignored::Unasked)
            );
            net.hold = None;
            net.mine(1);
            assert_eq!(
                net.nodes[0].core.binding_state(&index),
                Some(BindingState::Bound)
            );
            net.next_round_works();
        }
    }
}

#[test]
fn a_history_keeps_only_what_is_missing_and_gets_further() {
    let (mut net, good) = at_history(CohortBeacon::Smt);
    let saved = net.nodes[0].saved.len();
    let mut padded = good.clone();
    // A well-proved signal that is on no chain.
    let empty = SmtTree::new([]).unwrap();
    let mut bogus = good.items[0].clone();
    bogus.signal = empty.root();
    bogus.path = Some(empty.prove(&good.index));
    padded.items = vec![bogus; 3];
    padded.next = Some(Round(1));
    assert_eq!(net.tell(0, Message::History(padded)), Outcome::Accepted);
    assert_eq!(net.nodes[0].saved.len(), saved, "nothing of it is kept");
    assert!(
        net.on_its_way("history_request").is_none(),
        "asking for round 1 again would never end"
    );
    net.mine(1);
    net.release();
    assert_eq!(net.nodes[0].saved.len(), saved + 2);
    net.next_round_works();
}

#[test]
fn a_stale_chain_view_asks_for_nothing_it_can_not_know() {
    let mut net = Net::ready(Setup::smt(3));
    net.nodes[0].sees_chain = false;
    net.open();
    net.mine(1);
    // It signed the signal itself: it is known although its chain does not show it.
    let index = net.nodes[0].dids[0].index;
    assert_eq!(net.nodes[0].core.proof_counts(&index), (1, 0));
    net.nodes[0].sees_chain = true;
    net.sync();
    net.run();
    assert_eq!(net.nodes[0].core.proof_counts(&index), (1, 0));
    net.next_round_works();
}
