//! What becomes of the transactions this member signed: where they are, and sending them if nobody else does.

use std::collections::BTreeSet;

use bitcoin::{OutPoint, Txid};

use super::Participant;
use crate::protocol::chain_view::ChainUpdate;
use crate::protocol::confirmation::{ConfirmationWatch, SETTLED_DEPTH};
use crate::protocol::effect::{Effect, Ignored, Report, Step};

impl Participant {
    /// Follows everything this member signed, and raises the alarm over what it did not sign. Of an output that all n
    /// have to sign for, a spend this member does not know means that somebody else has its key.
    pub(super) fn watch_signals(&mut self, update: &ChainUpdate) -> Vec<Effect> {
        self.learn_signed();
        self.watch.follow(&self.chain, &update.spends);
        // Before anything is learned again: what is settled must not come back.
        self.forget_settled();
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
                self.watch.expect_refund(refund, given.txid);
            }
        }
        for (round, tip, tx) in self.fallbacks.complete() {
            self.watch.signed(round, tx.compute_txid(), tip);
            self.watch.complete(round, tx);
        }
    }

    /// Forgets the partial signatures of rounds that are settled. What still matters of such a round stays: its
    /// transaction, while its change is the tip or an update that it announces is the last one of its index.
    fn forget_settled(&mut self) {
        // Of what can never confirm because of that, too, while it can be told.
        let doomed = self.given.iter().filter(|given| {
            let unseen = !self.chain.spends.contains_key(&given.input);
            unseen && self.is_dead(given, SETTLED_DEPTH)
        });
        let doomed: BTreeSet<Txid> = doomed.map(|given| given.txid).collect();
        let (chain, indexes) = (&self.chain, &self.indexes);
        self.given.retain(|given| {
            if doomed.contains(&given.txid) {
                return false;
            }
            let spend = chain.spends.get(&given.input);
            let deep = spend
                .and_then(|spend| spend.height)
                .is_some_and(|height| chain.confirmations(height) >= SETTLED_DEPTH);
            let announces = || {
                let mut announced = indexes.values().map(|mine| &mine.announced);
                announced.any(|signals| signals.contains(&given.signal))
            };
            let pays = || {
                let [first, last] = [0, u32::MAX].map(|vout| OutPoint::new(given.txid, vout));
                chain.outputs.range(first..=last).next().is_some()
            };
            !deep || spend.is_some_and(|spend| spend.by == given.txid) && (announces() || pays())
        });
        let chain = &self.chain.signals;
        let mine = &self.indexes;
        self.unproved.retain(|txid, signal| {
            chain.get(txid).is_some_and(|seen| seen.signal == *signal)
                && mine.values().any(|mine| !mine.proved.contains(signal))
        });
    }

    /// Whether nothing can spend this output of the beacon any more: that was done long ago, or it is not there.
    pub(super) fn is_settled(&self, output: &OutPoint) -> bool {
        let (spends, outputs) = (&self.chain.spends, &self.chain.outputs);
        let deep = |height| self.chain.confirmations(height) >= SETTLED_DEPTH;
        match spends.get(output) {
            Some(spend) => spend.height.is_some_and(deep),
            None => !outputs.contains_key(output),
        }
    }

    /// Takes note of the signals that are new on the chain: some index may lack a proof of them.
    pub(super) fn note_signals(&mut self, update: &ChainUpdate) {
        let new = update.signals.iter();
        let new = new.filter_map(|(txid, seen)| Some((*txid, (*seen)?.signal)));
        self.unproved.extend(new);
    }

    /// Looks at all signals again: an index is new, or lost what it had.
    pub(super) fn look_at_all_signals(&mut self) {
        let all = self.chain.signals.iter();
        let all = all.map(|(txid, seen)| (*txid, seen.signal));
        self.unproved = all.collect();
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
