//! What becomes of the transactions this member signed: where they are, and sending them if nobody else does.

use bitcoin::Txid;

use super::Participant;
use crate::protocol::confirmation::ConfirmationWatch;
use crate::protocol::effect::{Effect, Ignored, Report, Step};

impl Participant {
    /// Follows everything this member signed, and raises the alarm over what it did not sign. Of an output that all n
    /// have to sign for, a spend this member does not know means that somebody else has its key.
    pub(super) fn watch_signals(&mut self) -> Vec<Effect> {
        for given in &self.given {
            self.watch.signed(given.round, given.txid, given.input);
            if let Some(tx) = &given.signed {
                self.watch.complete(given.round, tx);
            }
            if let Some(refund) = given.refund {
                self.watch.expect(refund);
            }
        }
        self.watch.follow(&self.chain);
        let unknown = self
            .watch
            .unknown_spends(&self.chain, |txid| self.refunds.knows(txid));
        let unknown = unknown.into_iter();
        let mut effects: Vec<Effect> = unknown
            .map(|txid| Effect::Report(Report::UnknownSpend { txid }))
            .collect();
        effects.extend(
            self.watch
                .due(&self.chain)
                .into_iter()
                .map(Effect::Broadcast),
        );
        effects
    }

    pub(super) fn broadcast_answer(&mut self, txid: Txid, error: Option<String>) -> Step {
        let of = self.given.iter().find(|given| given.txid == txid);
        let Some(round) = of.map(|given| given.round) else {
            return Step::ignored(Ignored::Unasked);
        };
        Step::with(vec![Effect::Report(match error {
            None => {
                self.watch.accepted(&txid);
                Report::SignalBroadcast { round, txid }
            }
            Some(reason) => Report::BroadcastFailed { round, reason },
        })])
    }

    /// Where everything this member signed is.
    #[must_use]
    pub const fn watch(&self) -> &ConfirmationWatch {
        &self.watch
    }
}
