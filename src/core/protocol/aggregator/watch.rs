//! What becomes of the signals that all signed: where they are, and sending them again after a deep reorganisation.

use bitcoin::Txid;

use super::Aggregator;
use crate::protocol::chain_view::ChainUpdate;
use crate::protocol::confirmation::ConfirmationWatch;
use crate::protocol::effect::{Effect, Report};
use crate::protocol::ids::Round;

impl Aggregator {
    /// Follows every signal that was ever signed, and raises the alarm over spends that are none.
    pub(super) fn watch_signals(&mut self, update: &ChainUpdate) -> Vec<Effect> {
        self.learn_signed();
        self.watch.follow(&self.chain, &update.spends);
        let unknown = self.watch.unknown_spends(&self.chain);
        let unknown = unknown.into_iter();
        let mut effects: Vec<Effect> = unknown
            .map(|txid| Effect::Report(Report::UnknownSpend { txid }))
            .collect();
        // What is not settled yet has a timer of its own, which is faster.
        let unsettled = |txid: &Txid| {
            let mut signals = self.signed.iter();
            signals.any(|signal| signal.txids().contains(txid))
        };
        let due = self.watch.due(&self.chain).into_iter();
        let due = due.filter(|tx| !unsettled(&tx.compute_txid()));
        effects.extend(due.map(Effect::Broadcast));
        effects
    }

    /// Takes over what was signed since. Each rung may confirm; what is sent is this signal's own affair until it is settled.
    fn learn_signed(&mut self) {
        for signal in &self.signed {
            for txid in signal.txids() {
                self.watch.signed(signal.round, txid, signal.input());
            }
            self.watch.complete(signal.round, signal.tx());
            for (refund, of) in signal.refunds() {
                self.watch.expect_refund(refund, of);
            }
        }
    }

    /// The round a signed transaction is of.
    pub(super) fn round_of(&mut self, txid: &Txid) -> Option<Round> {
        self.learn_signed();
        self.watch.round_of(txid)
    }

    /// Where everything that was signed is.
    #[must_use]
    pub const fn watch(&self) -> &ConfirmationWatch {
        &self.watch
    }
}
