//! An aggregator whose store is an older copy of itself: what it gave out since is not given out again.

use std::collections::BTreeSet;

use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::effect::Artifact;
use btcr2_agent::protocol::message::Message;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::CohortBeacon;

use super::net::{Net, Setup};

/// How much of its log and artifacts an aggregator had.
pub(super) type Copy = (usize, usize);

impl Net {
    pub(super) fn copy_of_aggregator(&self) -> Copy {
        (self.agg_log.len(), self.agg_saved.len())
    }

    /// The aggregator comes back with what was written then. What it had sent is on its way all the same.
    pub(super) fn restore_aggregator(&mut self, (log, saved): Copy) {
        self.agg_log.truncate(log);
        self.agg_saved.truncate(saved);
        let mut agg = Aggregator::new(self.agg.terms().clone());
        for (at, input, _) in &self.agg_log {
            let _ = agg.handle(*at, input.clone());
        }
        self.agg = agg;
        self.agg_input(AggregatorInput::Restored);
        self.sync();
        self.run();
    }

    /// Every round and every refund's session that was opened, with its attempt, as often as it was.
    fn given_out(&self) -> Vec<(&'static str, u32, u32)> {
        let mut given = Vec::new();
        let mut copies = BTreeSet::new();
        for mail in &self.archive {
            let named = match &mail.message {
                Message::RoundOpen(open) => ("round", open.round.0, 1),
                Message::RefundOpen(open) => ("deposit", open.deposit, open.attempt),
                Message::NonceRequest(request) => ("round", request.round.0, request.attempt),
                _ => continue,
            };
            // One of each per member.
            let json = serde_json::to_string(&mail.message).unwrap();
            if copies.insert(json) {
                given.push(named);
            }
        }
        given
    }

    fn nothing_given_out_twice(&self) {
        let given = self.given_out();
        let distinct: BTreeSet<_> = given.iter().collect();
        assert_eq!(distinct.len(), given.len(), "{given:?}");
    }

    fn refunds_kept(&self) -> usize {
        let refund = |artifact: &&Artifact| matches!(artifact, Artifact::Refund { .. });
        self.agg_saved.iter().filter(refund).count()
    }
}

fn setup(beacon: CohortBeacon) -> Setup {
    Setup::new(beacon, 3)
        .refunds()
        .decline(Decline::NoUpdate)
        .terms(|terms| {
            terms.response_seconds = 60;
            terms.signing_seconds = 60;
        })
}

/// Two rounds and a refund are newer than the copy.
#[test]
fn rounds_and_refunds_go_on_under_numbers_that_nobody_has_seen() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::ready(setup(beacon));
        net.round();
        let copy = net.copy_of_aggregator();
        net.round();
        net.round();
        let script = net.script();
        net.chain.fund(&script, 40_000);
        net.sync();
        net.run();
        let last = net
            .given_out()
            .into_iter()
            .max_by_key(|(_, number, _)| *number);
        assert_eq!(last, Some(("round", 3, 1)));

        net.restore_aggregator(copy);
        // The payment that it does not know to be protected is protected again, and the members play along.
        let again = net.given_out();
        assert!(again.contains(&("deposit", 1_002, 1)), "{again:?}");
        assert!(net.refunds_kept() > 0);
        assert_eq!(net.agg.refund_session(), None);
        let tx = net.round();
        let (round, of) = net.signed_txs().pop().unwrap();
        assert_eq!(
            (round, of.compute_txid()),
            (Round(1_002), tx.compute_txid())
        );
        net.nothing_given_out_twice();
    }
}

/// The copy was made in the middle of a round, or of a refund, which went on without it.
#[test]
fn what_was_open_is_given_up() {
    for held in ["partial_signature", "refund_partial"] {
        let mut net = Net::ready(setup(CohortBeacon::Smt));
        net.hold = Some(held);
        if held == "partial_signature" {
            net.open();
        } else {
            let script = net.script();
            net.chain.fund(&script, 40_000);
            net.sync();
            net.run();
            assert!(net.agg.refund_session().is_some());
        }
        let copy = net.copy_of_aggregator();
        net.broadcasts = false;
        net.release();
        let lost = net.signed_txs().pop();
        net.broadcasts = true;

        net.restore_aggregator(copy);
        assert!(net.agg.open_round_now().is_none());
        net.mine(1);
        let tx = net.round();
        net.nothing_given_out_twice();
        if held == "partial_signature" {
            // What the copy does not know was signed spends the same output: one of the two can be in a block.
            let (_, lost) = lost.unwrap();
            assert_eq!(lost.input[0].previous_output, tx.input[0].previous_output);
            assert_ne!(lost.compute_txid(), tx.compute_txid());
        } else {
            assert_eq!(net.agg.refund_session(), None);
            assert!(net.refunds_kept() > 0);
        }
    }
}
