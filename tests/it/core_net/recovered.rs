//! A member whose store was made again out of a bundle, which may be older than what it did last.

use btcr2_agent::keys::Signer;
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::participant::{Decline, Participant, ParticipantInput};
use btcr2_agent::protocol::terms::{CohortBeacon, OutputPolicy, Terms};

use super::fallback;
use super::net::{Dest, Net, Setup};
use super::node::{key, update};

const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

impl Net {
    /// How much of a member's log and artifacts there is now.
    fn written(&self, i: usize) -> (usize, usize) {
        (self.nodes[i].log.len(), self.nodes[i].saved.len())
    }

    /// The member comes back with what was written then, and without a nonce.
    fn recover(&mut self, i: usize, (log, saved): (usize, usize)) {
        let node = &mut self.nodes[i];
        node.log.truncate(log);
        node.saved.truncate(saved);
        let mut core = Participant::new(node.core.terms().clone(), node.me(), node.policy);
        for (at, input, _) in &node.log {
            let _ = core.handle(*at, input.clone());
        }
        node.core = core;
        node.signer = Signer::new();
        node.signer.add_seat(key(&format!("member {i}")));
        self.input(i, ParticipantInput::Restarted);
        self.input(i, ParticipantInput::Recovered);
        self.sync();
        self.run();
    }
}

fn setup(beacon: CohortBeacon) -> Setup {
    Setup::new(beacon, 3)
        .decline(Decline::NoUpdate)
        .terms(|terms| {
            terms.response_seconds = 60;
            terms.signing_seconds = 60;
        })
}

/// What it said in the open round is not known: it takes no further part in it, and announces the same bytes in the
/// next one.
#[test]
fn an_open_round_is_left_and_its_update_announced_in_the_next() {
    for beacon in BEACONS {
        for held in ["sign_request", "partial_signature"] {
            let mut net = Net::ready(setup(beacon));
            net.queue(0, 0, "one");
            net.hold = Some(held);
            net.open();
            let written = net.written(0);
            net.recover(0, written);
            assert_eq!(net.nodes[0].core.open_round(), None);
            let Outcome::Ignored(Ignored::Contradiction(why)) = net.queue(0, 0, "two") else {
                panic!("another update of the same version is taken");
            };
            assert!(why.contains("not final"), "{why}");
            let index = net.nodes[0].dids[0].index;
            let withdraw = ParticipantInput::Withdraw { index };
            assert_eq!(
                net.input(0, withdraw),
                Outcome::Ignored(Ignored::TooLate),
                "it may have been announced"
            );
            if held == "partial_signature" {
                // It signed before it was lost: the others may finish.
                net.release();
                net.mine(1);
            } else {
                net.release();
                assert_eq!(net.agg.signals_signed(), 0);
                net.advance(200);
                net.round();
            }
            let proved = net.proved(0, 0);
            assert_eq!(proved.last(), Some(&Some(Some(update("one")))), "{held}");
            net.mine(6);
            assert_eq!(net.queue(0, 0, "two"), Outcome::Accepted);
            net.round();
            assert_eq!(net.proved(0, 0).last(), Some(&Some(Some(update("two")))));
        }
    }
}

/// Also where the others ask it to sign through the leaf after that: its store may be older than what it signed.
#[test]
fn an_open_round_is_not_signed_through_the_leaf() {
    for beacon in BEACONS {
        let mut net = Net::ready(fallback::setup(beacon, 3, 2));
        net.queue(0, 0, "one");
        let kept = fallback::leave(&mut net, &[2]);
        net.open();
        net.hold = Some("fallback_request");
        net.advance(61);
        let request = net.keep_back(Dest::Member(0));
        let written = net.written(0);
        net.recover(0, written);
        net.tell(0, request.message);
        net.run();
        let refusals = net.nodes[0].refusals();
        assert!(
            refusals.last().unwrap().contains("restored"),
            "{refusals:?}"
        );
        assert!(net.nodes[0].core.given().is_empty());
        assert_eq!(net.agg.signals_signed(), 0, "{beacon:?}");
        assert_eq!(net.nodes[0].alarms(), [""; 0]);

        net.advance(200);
        fallback::come_back(&mut net, &[2], &kept);
        net.round();
        assert_eq!(net.proved(0, 0), [Some(Some(update("one")))]);
    }
}

/// Rounds that the bundle does not know of: their proofs are fetched, an update that they announced is known to be
/// announced, and the cohort goes on.
#[test]
fn what_happened_since_the_bundle_is_learned_from_chain_and_aggregator() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon));
        let index = net.nodes[0].dids[0].index;
        net.queue(0, 0, "one");
        let written = net.written(0);
        net.round();
        net.mine(6);
        net.round();
        net.recover(0, written);
        assert_eq!(
            net.proved(0, 0),
            [Some(Some(update("one"))), Some(None)],
            "{beacon:?}"
        );
        assert_eq!(
            net.nodes[0].core.update_state(&index),
            Some((update("one"), true))
        );
        assert!(net.nodes[0].alarms().is_empty());
        // It says what it sees: spends that this log knows nothing of.
        let unknown = |report: &&Report| matches!(report, Report::UnknownSpend { .. });
        assert_eq!(net.nodes[0].reports.iter().filter(unknown).count(), 2);
        assert_eq!(
            net.queue(0, 0, "two"),
            Outcome::Accepted,
            "the first is final"
        );
        net.round();
        assert_eq!(net.proved(0, 0).last(), Some(&Some(Some(update("two")))));
        net.next_round_works();
    }
}

/// An update that was signed after the bundle was written and announced: nobody has its bytes any more. Nothing is
/// signed that would bury it.
#[test]
fn an_update_that_is_lost_with_the_bundle_stops_the_member() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon));
        let written = net.written(0);
        net.queue(0, 0, "one");
        net.round();
        net.nodes[0].updates.clear();
        net.recover(0, written);
        assert_eq!(net.proved(0, 0), [None]);
        assert!(net.nodes[0].alarms()[0].contains("did not ask for"));
        net.open();
        assert_eq!(net.agg.signals_signed(), 1, "rule 13: it does not sign");
        let refused = net.nodes[0].refusals().join(" ");
        assert!(
            refused.contains("proofs of earlier signals are missing"),
            "{refused}"
        );
    }
}

/// The user took an update back after the bundle was written, and announced another one for the same version. The
/// bundle has the first one in the queue. Others could sign it: it is not announced beside the other.
#[test]
fn an_update_from_the_bundle_is_not_announced_beside_one_that_took_its_place() {
    for beacon in BEACONS {
        let k_of_n = |terms: &mut Terms| {
            terms.seats_min = 3;
            terms.output_policy = OutputPolicy::KOfN(2);
        };
        let mut net = Net::ready(setup(beacon).terms(k_of_n));
        let index = net.nodes[0].dids[0].index;
        net.queue(0, 0, "one");
        let written = net.written(0);
        let withdraw = ParticipantInput::Withdraw { index };
        assert_eq!(net.input(0, withdraw), Outcome::Accepted);
        net.queue(0, 0, "another");
        net.round();
        net.nodes[0].updates.truncate(1);
        net.recover(0, written);
        let queued = net.nodes[0].core.update_state(&index);
        assert_eq!(queued, Some((update("one"), false)));
        net.open();
        let round = net.nodes[0].core.open_round_now().unwrap();
        assert!(round.responded);
        let said: Vec<_> = round.said.iter().map(|(_, update, _)| *update).collect();
        assert_eq!(said, [None], "{beacon:?}: rule 10");
        assert_eq!(net.agg.signals_signed(), 1);
    }
}

/// What it said last while the cohort formed may not have arrived.
#[test]
fn formation_goes_on() {
    // The opt-in is lost with the outbox.
    let mut net = Net::new(setup(CohortBeacon::Smt));
    net.advertise();
    net.hold = Some("opt_in");
    for i in 0..3 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    net.held.remove(0);
    let written = net.written(0);
    net.recover(0, written);
    net.release();
    assert_eq!(net.agg.set().unwrap().0.keys.len(), 3);

    // The acknowledgement is.
    let mut net = Net::new(setup(CohortBeacon::Smt));
    net.advertise();
    net.hold = Some("cohort_ack");
    for i in 0..3 {
        net.input(i, ParticipantInput::Join { payee: None });
    }
    net.run();
    net.held.remove(0);
    assert_eq!(net.agg.acknowledged(), 0);
    let written = net.written(0);
    net.recover(0, written);
    net.release();
    assert_eq!(net.agg.acknowledged(), 3);
    net.fund(100_000);
    net.register_all();
    net.round();
}
