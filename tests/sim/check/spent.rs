//! What the chain takes, and what is left at the end.

use super::*;

impl World {
    pub fn is_final(&self, _txid: &Txid) -> bool {
        false
    }

    /// How many signals are in blocks.
    pub fn confirmed_signals(&self) -> u64 {
        let placed = self
            .chain
            .txs
            .values()
            .filter(|placed| placed.height.is_some());
        let signals = placed.filter(|placed| signal_of(&placed.tx).is_some());
        signals.count() as u64
    }

    /// Rule 5: what is sent was kept before.
    pub fn check_broadcast(&mut self, i: usize, tx: &Transaction) {
        if self.is_bad(i) {
            return;
        }
        let artifacts = &self.processes[i].disk.artifacts;
        let kept = artifacts.iter().any(|artifact| {
            matches!(artifact, Artifact::SignedTransaction { tx: kept, .. } if kept == tx)
        });
        let signal = signal_of(tx);
        let explained = i > 0
            || artifacts.iter().any(|artifact| match artifact {
                Artifact::LeafSet { signal: s, .. } | Artifact::Announcement { signal: s, .. } => {
                    Some(s.to_bytes()) == signal
                }
                _ => false,
            });
        if !kept || !explained {
            self.broken(i, "rule 5", "broadcast before it was kept");
        }
        if i == 0 {
            self.check_deposited(tx);
        }
        self.check_signed(i, tx);
    }

    /// Money and meaning: whatever spent the beacon was approved by every honest member, and each can explain it.
    pub fn check_chain(&mut self) {
        let Some(script) = self.chain.script.clone() else {
            return;
        };
        let spends = |tx: &Transaction| {
            tx.input.iter().any(|input| {
                let spent = self.chain.output(&input.previous_output);
                spent.is_some_and(|output| output.script_pubkey == script)
            })
        };
        let found: Vec<Txid> = self
            .chain
            .txs
            .iter()
            .filter(|(_, placed)| spends(&placed.tx))
            .map(|(txid, _)| *txid)
            .collect();
        for txid in found {
            if !self.checker.taken.insert(txid) {
                continue;
            }
            let through_leaf = match self.signers_through_leaf(&txid) {
                Some(Err(why)) => return self.broken(0, "money", &why),
                Some(Ok(signers)) => {
                    self.count("spends through the leaf");
                    Some(signers)
                }
                None => None,
            };
            for i in 1..self.processes.len() {
                // What k others signed is none of the rest's.
                let others = through_leaf.as_ref().is_some_and(|who| !who.contains(&i));
                if self.is_bad(i) || others {
                    continue;
                }
                let signed = self.checker.approved.get(&txid);
                if !signed.is_some_and(|who| who.contains(&i)) {
                    let why = format!("{txid} spends the beacon, and it did not sign it");
                    self.broken(i, "money", &why);
                    return;
                }
                let signal = signal_of(&self.chain.txs[&txid].tx);
                let dids: Vec<_> = self.processes[i].dids.iter().map(|did| did.index).collect();
                for index in dids {
                    let core = self.processes[i].core.member();
                    let bound = core.binding_state(&index) == Some(BindingState::Bound);
                    let Some(signal) = signal.filter(|_| bound && self.processes[i].up) else {
                        continue;
                    };
                    // With an old disk it asks for that first.
                    let anew = self.processes[i].lives > 0;
                    if !anew && !self.explains(i, &index, &signal) {
                        self.broken(i, "rule 13", "a signal that a bound DID can not explain");
                    }
                }
            }
        }
    }

    /// Liveness, and that everybody who is honest can explain everything.
    pub fn check_end(&mut self) {
        let ended = matches!(self.processes[0].core.aggregator().phase(), Phase::Ended(_));
        let leaves = ended && self.config.peers.iter().any(|p| p.leaves_at.is_none());
        let lost = self.is_anything_lost();
        if lost {
            self.count("runs with a lost update");
        }
        let live = self.config.family == Family::Faults && !self.left && !lost;
        if live && (ended || !self.is_done()) {
            let phase = self.processes[0].core.aggregator().phase().clone();
            let open = self.processes[0].core.aggregator().open_refusal();
            let why = format!(
                "the rounds did not end in confirmed signals: {phase:?}, {open:?}, rounds {:?}",
                self.checker.fates
            );
            self.broken(0, "liveness", &why);
        }
        let _ = leaves;
        self.check_logs();
        self.check_told();
        let cas = self.config.terms.beacon == CohortBeacon::Cas;
        for i in 1..self.processes.len() {
            if self.is_bad(i) || !self.processes[i].up {
                continue;
            }
            let Some(saw) = self.processes[i].saw.clone() else {
                continue;
            };
            for did in 0..self.processes[i].dids.len() {
                let index = self.processes[i].dids[did].index;
                let core = self.processes[i].core.member();
                let bound = core.binding_state(&index) == Some(BindingState::Bound);
                // What an old disk lacks is fetched from the aggregator, if that is honest.
                let anew = self.processes[i].lives > 0 && self.config.family != Family::Faults;
                if !bound || anew || self.lost_update(i, did) {
                    continue;
                }
                for (txid, seen) in &saw.view.signals {
                    // Whoever has k seats can keep from the rest what they sign.
                    let others = match self.signers_through_leaf(txid) {
                        Some(Ok(signers)) => !signers.contains(&i),
                        _ => false,
                    };
                    if others && self.config.family != Family::Faults {
                        continue;
                    }
                    if !self.explains(i, &index, &seen.signal.to_bytes()) {
                        let why = format!("DID {did} can not explain {} (cas: {cas})", seen.signal);
                        self.broken(i, "rule 13", &why);
                    }
                }
            }
        }
    }
}
