//! What becomes of a signal through the leaf: this member's signatures leave, and the transaction comes or is seen.

use bitcoin::Txid;

use super::super::{GivenPartial, Participant};
use super::{MAX_EARLY, MyFallback, RUNG, Stage};
use crate::beacon::signal::signal_of;
use crate::hash::SchnorrSignature;
use crate::protocol::effect::{Artifact, Effect, Ignored, Report, Step};
use crate::protocol::evidence::Signed;
use crate::protocol::ids::Round;
use crate::protocol::message::{FallbackSignature, Message, RoundResult};
use crate::time::UnixTime;

impl Participant {
    /// The driver made the signatures.
    pub(in super::super) fn fallback_signed(
        &mut self,
        round: Round,
        signatures: Vec<SchnorrSignature>,
    ) -> Step {
        let me = self.me;
        let mut known = self.fallbacks.known.iter_mut();
        let Some(fallback) =
            known.find(|known| known.round == round && known.stage == Stage::Signing)
        else {
            return Step::ignored(Ignored::Unasked);
        };
        let verify = fallback.sighashes.len() == signatures.len()
            && fallback
                .sighashes
                .iter()
                .zip(&signatures)
                .all(|(digest, made)| me.verifies(digest.as_bytes(), made));
        if !verify {
            fallback.stage = Stage::Over;
            return Self::contradiction("my own signature through the leaf does not verify");
        }
        fallback.stage = Stage::Signed;
        let txid = fallback.txid;
        let content = FallbackSignature {
            round,
            txid,
            sighashes: fallback.sighashes.clone(),
            signatures,
        };
        let adopted = self.adopt(round, &txid);
        let mut effects = vec![
            self.send(Message::FallbackSignature(Signed::unsigned(content))),
            Effect::Report(Report::FallbackSigned { round, txid }),
        ];
        effects.extend(adopted);
        // What was asked for meanwhile waited for this.
        effects.extend(self.try_fallback());
        Step::with(effects)
    }

    /// From now on the signal counts as one that may confirm.
    pub(super) fn adopt(&mut self, round: Round, txid: &Txid) -> Vec<Effect> {
        let mut of_round = self.fallbacks.of(round).enumerate();
        let Some((place, fallback)) = of_round.find(|(_, known)| known.txid == *txid) else {
            return Vec::new();
        };
        let (txid, signal) = (fallback.txid, fallback.signal);
        if self.given.iter().any(|given| given.txid == txid) {
            return Vec::new();
        }
        let seen = self.chain.signals.get(&txid);
        let confirmed = seen.and_then(|seen| seen.height);
        self.given.push(GivenPartial {
            round,
            signal,
            rung: RUNG.saturating_add(u8::try_from(place).unwrap_or(u8::MAX)),
            txid,
            input: fallback.input(),
            inputs: fallback.inputs.clone(),
            sighashes: fallback.sighashes.clone(),
            fee: fallback.fee(),
            tx: fallback.tx.clone(),
            refund: None,
            signed: fallback.complete.clone(),
            opened: fallback.heard,
            confirmed,
        });
        let report = confirmed.map(|height| Report::SignalConfirmed {
            round,
            txid,
            height,
        });
        report.map(Effect::Report).into_iter().collect()
    }

    /// Fallbacks that the chain shows, signed by this member or not, are followed like any signal.
    pub(in super::super) fn adopt_seen(&mut self) -> Vec<Effect> {
        let seen = |known: &&MyFallback| {
            let tip = known.tx.input.first().map(|input| input.previous_output);
            let spend = tip.and_then(|tip| self.chain.spends.get(&tip));
            spend.is_some_and(|spend| spend.by == known.txid)
        };
        let known = self.fallbacks.known.iter();
        let found: Vec<(Round, Txid)> = known
            .filter(seen)
            .map(|known| (known.round, known.txid))
            .collect();
        found
            .into_iter()
            .flat_map(|(round, txid)| self.adopt(round, &txid))
            .collect()
    }

    /// Takes a result that is a fallback; `None` when it is none.
    pub(in super::super) fn fallback_result(
        &mut self,
        now: UnixTime,
        result: &RoundResult,
    ) -> Option<Step> {
        let leaf = self.leaf()?;
        let (_, keys) = self.set.as_ref()?;
        let internal = keys.internal_key();
        let (round, tx) = (result.round, &result.tx.as_ref()?.0);
        let txid = tx.compute_txid();
        let replaces = self.is_complete_otherwise(round, &txid);
        let other_bytes = |known: &MyFallback| Some(known.signal) != signal_of(tx);
        let contradicts = self.fallbacks.of(round).next().is_some_and(other_bytes);
        let Some(fallback) = self.fallbacks.find_mut(round, &txid) else {
            let witness = &tx.input.first()?.witness;
            let through_leaf = witness.second_to_last() == Some(leaf.script().as_bytes());
            if !through_leaf || contradicts {
                return None;
            }
            // Its request is on its way still.
            let early = &mut self.fallbacks.early;
            early.retain(|(of, _)| *of != txid);
            early.push((txid, result.clone()));
            if early.len() > MAX_EARLY {
                early.remove(0);
            }
            return Some(Step::accepted());
        };
        if fallback.complete.is_some() {
            return Some(Step::ignored(Ignored::Duplicate));
        }
        let verifies = tx.input.len() == fallback.sighashes.len()
            && tx
                .input
                .iter()
                .zip(&fallback.sighashes)
                .all(|(input, digest)| {
                    let check = leaf.check_witness(&input.witness, internal, digest.as_bytes());
                    check.is_ok()
                });
        if !verifies {
            return Some(Self::contradiction(
                "the result's signatures through the leaf do not verify",
            ));
        }
        fallback.complete = Some(tx.clone());
        let (signal, heard) = (fallback.signal, fallback.heard);
        let fee_sat = fallback.fee().to_sat();
        // Anybody can bring it to the chain now, also if this member did not sign it.
        let adopted = self.adopt(round, &txid);
        if let Some(given) = self.given.iter_mut().find(|given| given.txid == txid) {
            given.signed = Some(tx.clone());
        }
        let opened = self
            .round
            .as_ref()
            .filter(|state| state.round == round)
            .map_or(heard, |state| state.opened);
        let mut effects = vec![
            Effect::Save(Artifact::SignedTransaction {
                round,
                signal,
                tx: tx.clone(),
            }),
            Effect::Report(if replaces {
                Report::SignalBumped {
                    round,
                    txid,
                    vsize: tx.vsize() as u64,
                    fee_sat,
                }
            } else {
                Report::SignalSigned {
                    round,
                    txid,
                    vsize: tx.vsize() as u64,
                    seconds: now.since(opened),
                }
            }),
        ];
        effects.extend(adopted);
        Some(self.end_round(round, effects))
    }
}
