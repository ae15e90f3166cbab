//! What becomes of the transactions this member signed: where they are, and sending them if nobody else does.

use bitcoin::Txid;

use super::Participant;
use crate::protocol::confirmation::ConfirmationWatch;
use crate::protocol::effect::{Effect, Ignored, Report, Step};

impl Participant {
    /// Follows everything this member signed, and raises the alarm over what it did not sign. Of an output that all n
    /// have to sign for, a spend this member does not know means that somebody else has its key.
    pub(super) fn watch_signals(&mut self) -> Vec<Effect> {
        self.learn_signed();
        self.watch.follow(&self.chain);
        let mut effects = self.unknown_spends();
        effects.extend(
            self.watch
                .due(&self.chain)
                .into_iter()
                .map(Effect::Broadcast),
        );
        effects
    }

    /// Takes over what was signed since.
    pub(super) fn learn_signed(&mut self) {
        for given in &self.given {
            self.watch.signed(given.round, given.txid, given.input);
            if let Some(tx) = &given.signed {
                self.watch.complete(given.round, tx);
            }
            if let Some(refund) = given.refund {
                self.watch.expect(refund);
            }
        }
        for (round, tip, tx) in self.fallbacks.complete() {
            self.watch.signed(round, tx.compute_txid(), tip);
            self.watch.complete(round, tx);
        }
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
