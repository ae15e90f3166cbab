//! The checks before a partial signature: everything a member knows itself decides (rules 2, 3, 4, 13).

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Transaction};
use secp256k1::XOnlyPublicKey;

use super::Participant;
use super::coverage::BindingState;
use super::round::MyRound;
use crate::beacon::signal::SignalLimits;
use crate::hash::SignalBytes;
use crate::protocol::effect::{LabelOrder, SignOrder};
use crate::protocol::evidence::{LabelContext, Sighash};
use crate::protocol::ids::{Label, SessionId};
use crate::protocol::ladder::{Ground, Ladder};
use crate::protocol::message::{Nonces, SignRequest};
use crate::protocol::terms::CohortBeacon;
use serde::{Deserialize, Serialize};

/// A request that passed every check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Approved {
    pub(super) ladder: Ladder,
    pub(super) announcement: Option<String>,
    pub(super) contexts: BTreeMap<Label, LabelContext>,
    nonces: Nonces,
}

impl Approved {
    /// What the signer gets; nonces for `spares` are made ahead.
    pub(super) fn order(&self, session: SessionId, spares: Vec<Label>) -> SignOrder {
        let labels = self
            .contexts
            .iter()
            .filter_map(|(label, context)| {
                Some(LabelOrder {
                    label: *label,
                    nonce: *self.nonces.get(label)?,
                    aggregate_nonce: context.aggregate_nonce,
                    sighash: context.sighash,
                })
            })
            .collect();
        SignOrder {
            session,
            labels,
            spares,
        }
    }
}

/// What the checks say.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Sign.
    Approved(Box<Approved>),
    /// Not with what is known now; a later fact may change that.
    Wait(String),
    /// Not ever.
    Never(String),
}

impl Participant {
    /// Checks the pending request; `None` when there is none, or its proofs have not come.
    pub(super) fn check_request(&self) -> Option<Verdict> {
        let state = self.round_in_session()?;
        let request = state.request.as_ref()?;
        let waits_for_proofs = self.terms.beacon == CohortBeacon::Smt
            && !state.plan.is_empty()
            && state.proofs.is_none();
        if waits_for_proofs {
            return None;
        }
        // What a replacement spends was checked when it was approved, and is spent by now.
        let refunded = if self.is_replacing() {
            Ok(())
        } else {
            self.check_refunded(request)
        };
        Some(match refunded.and_then(|()| self.examine(state, request)) {
            Ok(approved) => Verdict::Approved(Box::new(approved)),
            Err(verdict) => verdict,
        })
    }

    fn examine(&self, state: &MyRound, request: &SignRequest) -> Result<Approved, Verdict> {
        let never = |text: &str| Verdict::Never(text.to_owned());
        let Some(nonces) = state.nonces.get(&request.attempt) else {
            return Err(never("no nonces were offered for this session"));
        };
        let ladder = if self.is_replacing() {
            self.check_replacement(state, request)?
        } else {
            let first = state.approved.as_ref();
            if first.is_some_and(|known| known.ladder.to_sign() != request.rungs) {
                return Err(never("other transactions for the same round"));
            }
            self.check_transactions(request)?
        };
        if self.announces_otherwise(state.round, &ladder.signal) {
            return Err(never("other bytes than I signed in this round"));
        }
        self.check_lineage(ladder.tip())?;
        self.check_signal_bytes(state, request, &ladder.signal)
            .map_err(Verdict::Never)?;
        if self.is_replacing() {
            self.check_explained(&ladder.signal)?;
        } else {
            self.check_coverage(state)?;
        }
        let digests = ladder.digests();
        if !digests.keys().eq(request.aggregate_nonces.keys())
            || !digests.keys().all(|label| nonces.contains_key(label))
        {
            return Err(never(
                "the session must sign its transactions and nothing else",
            ));
        }
        let contexts = digests
            .into_iter()
            .zip(request.aggregate_nonces.values())
            .map(|((label, sighash), aggregate_nonce)| {
                let context = LabelContext {
                    aggregate_nonce: *aggregate_nonce,
                    sighash,
                };
                (label, context)
            })
            .collect();
        Ok(Approved {
            ladder,
            announcement: request.announcement.clone(),
            contexts,
            nonces: nonces.clone(),
        })
    }

    /// What this member lets a signal or a refund cost: its own limits and the terms'.
    pub(super) fn limits(&self) -> SignalLimits {
        SignalLimits {
            max_fee_rate: self.policy.fee_rate_under(self.terms.max_fee_rate),
            max_fee: self.policy.max_fee(),
        }
    }

    /// Rule 2: every transaction is rebuilt from the outputs that the own chain shows, and compared.
    fn check_transactions(&self, request: &SignRequest) -> Result<Ladder, Verdict> {
        let Some(tip) = self.chain.ready_output(self.terms.depth) else {
            return Err(Verdict::Wait(
                "my chain shows no spendable tip with enough confirmations".into(),
            ));
        };
        let further = self.chain.ready_extra(self.terms.depth);
        let payees = self.refund_scripts();
        let ground = Ground {
            script: &self.script,
            lock_blocks: self.terms.refund_blocks,
            payees: &payees,
        };
        let rungs = &request.rungs;
        Ladder::check(
            rungs,
            self.terms.rungs(),
            &tip,
            &further,
            &ground,
            &self.limits(),
        )
        .map_err(|fault| {
            if fault.may_pass() {
                Verdict::Wait(fault.to_string())
            } else {
                Verdict::Never(fault.to_string())
            }
        })
    }

    /// Rule 4: any two unconfirmed signals this member signed spend the same output.
    ///
    /// A signal that a confirmed one conflicts with is out of the way at the depth the terms ask of a tip: what
    /// is signed now descends from its rival, so a reorg that revives the one kills the other.
    pub(super) fn check_lineage(&self, tip: OutPoint) -> Result<(), Verdict> {
        let stray = self
            .live(self.terms.depth.into())
            .find(|given| given.input != tip);
        match stray {
            None => Ok(()),
            Some(given) => Err(Verdict::Wait(format!(
                "the signal of round {} that I signed may still confirm",
                given.round
            ))),
        }
    }

    /// Rule 3: the 32 bytes announce exactly what this member submitted.
    fn check_signal_bytes(
        &self,
        state: &MyRound,
        request: &SignRequest,
        signal: &SignalBytes,
    ) -> Result<(), String> {
        match self.terms.beacon {
            CohortBeacon::Smt => {
                if request.announcement.is_some() {
                    return Err("an announcement in an SMT cohort".into());
                }
                for (index, planned) in &state.plan {
                    let path = state
                        .proofs
                        .as_ref()
                        .and_then(|proofs| proofs.get(index))
                        .ok_or_else(|| format!("no proof for my index {index}"))?;
                    path.verify_leaf_value(index, &planned.leaf.value(), signal)
                        .map_err(|fault| format!("the proof of my index {index}: {fault}"))?;
                }
                Ok(())
            }
            CohortBeacon::Cas => {
                let text = request
                    .announcement
                    .as_deref()
                    .ok_or("the announcement is missing")?;
                let map = self.parse_announcement(text)?;
                if map.signal_bytes() != *signal {
                    return Err("the announcement does not hash to the signal".into());
                }
                // Every DID of mine, registered for this round or not: an entry nobody asked for would be an
                // announcement in its name.
                for (index, mine) in &self.indexes {
                    let Some(did) = &mine.did else { continue };
                    let submitted = state.plan.get(index).and_then(|planned| planned.update);
                    if map.update_of(did.as_str()) != submitted {
                        return Err(format!("the announcement is not what I said for {did}"));
                    }
                }
                Ok(())
            }
        }
    }

    /// Rule 13: after this signal, every DID that lists the beacon can explain every signal.
    fn check_coverage(&self, state: &MyRound) -> Result<(), Verdict> {
        for (index, mine) in &self.indexes {
            if mine.binding != BindingState::Bound {
                continue;
            }
            if !state.plan.contains_key(index) && self.terms.beacon == CohortBeacon::Smt {
                return Err(Verdict::Never(format!(
                    "my index {index} lists the beacon and is not in this round"
                )));
            }
            let missing = self.missing(index);
            if !missing.is_empty() {
                return Err(Verdict::Wait(format!(
                    "{} proofs of earlier signals are missing for index {index}",
                    missing.len()
                )));
            }
        }
        Ok(())
    }
}

/// Whether every input carries a valid key-path signature (64 bytes, SIGHASH_DEFAULT) of its digest.
pub(super) fn is_complete(
    tx: &Transaction,
    sighashes: &[Sighash],
    output_key: XOnlyPublicKey,
) -> bool {
    let signed = |(input, sighash): (&bitcoin::TxIn, &Sighash)| {
        if input.witness.len() != 1 {
            return false;
        }
        let Some(Ok(signature)) = input
            .witness
            .nth(0)
            .map(secp256k1::schnorr::Signature::from_slice)
        else {
            return false;
        };
        let message = secp256k1::Message::from_digest(sighash.to_bytes());
        secp256k1::SECP256K1
            .verify_schnorr(&signature, &message, &output_key)
            .is_ok()
    };
    tx.input.len() == sighashes.len() && tx.input.iter().zip(sighashes).all(signed)
}
