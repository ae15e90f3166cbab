//! The checks before a partial signature: everything a member knows itself decides (rules 2, 3, 4, 13).

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, OutPoint, Transaction, Txid};
use secp256k1::XOnlyPublicKey;

use super::Participant;
use super::coverage::BindingState;
use super::round::MyRound;
use crate::beacon::signal::{
    BeaconOutput, CheckedSignal, DUST_LIMIT, SignalFault, SignalLimits, WEIGHT_WITH_CHANGE,
    check_signal,
};
use crate::hash::SignalBytes;
use crate::protocol::effect::{LabelOrder, SignOrder};
use crate::protocol::evidence::{LabelContext, Sighash};
use crate::protocol::ids::{Label, SessionId};
use crate::protocol::message::{Nonces, SignRequest};
use crate::protocol::terms::CohortBeacon;

/// A request that passed every check.
#[derive(Debug, Clone)]
pub(super) struct Approved {
    pub(super) tx: Transaction,
    pub(super) txid: Txid,
    pub(super) signal: SignalBytes,
    pub(super) input: OutPoint,
    pub(super) sighash: Sighash,
    pub(super) fee_sat: u64,
    pub(super) announcement: Option<String>,
    pub(super) contexts: BTreeMap<Label, LabelContext>,
    nonces: Nonces,
}

impl Approved {
    pub(super) fn order(&self, session: SessionId) -> SignOrder {
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
            spares: vec![Label::SIGNAL],
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
        let state = self.round.as_ref()?;
        let request = state.request.as_ref()?;
        let waits_for_proofs = self.terms.beacon == CohortBeacon::Smt
            && !state.plan.is_empty()
            && state.proofs.is_none();
        if waits_for_proofs {
            return None;
        }
        Some(match self.examine(state, request) {
            Ok(approved) => Verdict::Approved(Box::new(approved)),
            Err(verdict) => verdict,
        })
    }

    fn examine(&self, state: &MyRound, request: &SignRequest) -> Result<Approved, Verdict> {
        let never = |text: &str| Verdict::Never(text.to_owned());
        let Some(nonces) = state.nonces.get(&request.attempt) else {
            return Err(never("no nonces were offered for this session"));
        };
        let to_sign = match request.labels.get(&Label::SIGNAL) {
            Some(to_sign) if request.labels.len() == 1 => to_sign,
            _ => return Err(never("the session must sign the signal and nothing else")),
        };
        let tx = &to_sign.tx.0;
        if state.approved.as_ref().is_some_and(|known| known.tx != *tx) {
            return Err(never("a second transaction for the same round"));
        }
        let checked = self.check_transaction(tx)?;
        if self.announces_otherwise(state.round, &checked.signal) {
            return Err(never("other bytes than I signed in this round"));
        }
        self.check_lineage(tx)?;
        self.check_signal_bytes(state, request, &checked.signal)
            .map_err(Verdict::Never)?;
        self.check_coverage(state)?;
        let sighash = Sighash::from_bytes(checked.sighash);
        let context = LabelContext {
            aggregate_nonce: to_sign.aggregate_nonce,
            sighash,
        };
        Ok(Approved {
            tx: tx.clone(),
            txid: checked.txid,
            signal: checked.signal,
            input: tx
                .input
                .first()
                .map_or_else(OutPoint::null, |input| input.previous_output),
            sighash,
            fee_sat: checked.fee.to_sat(),
            announcement: request.announcement.clone(),
            contexts: BTreeMap::from([(Label::SIGNAL, context)]),
            nonces: nonces.clone(),
        })
    }

    /// Rule 2: the transaction is rebuilt from the tip that the own chain shows, and compared.
    fn check_transaction(&self, tx: &Transaction) -> Result<CheckedSignal, Verdict> {
        let rate = self.policy.max_fee_rate.min(self.terms.max_fee_rate);
        let max_fee_rate = FeeRate::from_sat_per_vb(rate.into()).unwrap_or(FeeRate::BROADCAST_MIN);
        let limits = SignalLimits {
            max_fee_rate,
            // Without change the remainder goes to the miner; it is dust at most.
            max_fee: max_fee_rate
                .fee_wu(WEIGHT_WITH_CHANGE)
                .and_then(|fee| fee.checked_add(DUST_LIMIT))
                .unwrap_or(Amount::MAX_MONEY),
        };
        self.check_transaction_within(tx, &limits)
    }

    /// The same, within these limits.
    pub(super) fn check_transaction_within(
        &self,
        tx: &Transaction,
        limits: &SignalLimits,
    ) -> Result<CheckedSignal, Verdict> {
        let Some((outpoint, value_sat)) = self.chain.ready_tip(self.terms.depth) else {
            return Err(Verdict::Wait(
                "my chain shows no spendable tip with enough confirmations".into(),
            ));
        };
        let tip = BeaconOutput {
            outpoint,
            value: Amount::from_sat(value_sat),
            height: None,
        };
        check_signal(tx, &tip, &self.script, limits).map_err(|fault| match fault {
            // The own backend may lag behind the aggregator's by a block.
            SignalFault::NotTip { .. } => Verdict::Wait(fault.to_string()),
            _ => Verdict::Never(fault.to_string()),
        })
    }

    /// Rule 4: any two unconfirmed signals this member signed spend the same output.
    ///
    /// A signal that a confirmed one conflicts with is out of the way at the depth the terms ask of a tip: what
    /// is signed now descends from its rival, so a reorg that revives the one kills the other.
    pub(super) fn check_lineage(&self, tx: &Transaction) -> Result<(), Verdict> {
        let input = tx.input.first().map(|input| input.previous_output);
        let stray = self
            .live(self.terms.depth.into())
            .find(|given| Some(given.input) != input);
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

/// Whether the only input carries a valid key-path signature (64 bytes, SIGHASH_DEFAULT) of `sighash`.
pub(super) fn is_complete(tx: &Transaction, sighash: &Sighash, output_key: XOnlyPublicKey) -> bool {
    let [input] = tx.input.as_slice() else {
        return false;
    };
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
}
