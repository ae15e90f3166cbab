//! Refund sessions, as a member lives them (DESIGN §6 rule 2, second form).
//!
//! A refund pays the payees frozen with the set and nobody else, so a member signs one for whatever output the
//! aggregator names: it rebuilds the transaction and compares bytes, and needs no view of the chain for that. A
//! signature for an output that does not exist, or has another value, is good for nothing.

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};

use super::checks::Verdict;
use super::{GivenPartial, MemberPhase, Participant, SignedSession};
use crate::beacon::refund::{MIN_FEE_RATE, check_refund, refundable_from, verify_refund};
use crate::beacon::signal::BeaconOutput;
use crate::protocol::aggregator::KeptRefund;
use crate::protocol::effect::{
    Artifact, Effect, Ignored, LabelOrder, Outcome, Prepared, Report, SignOrder, Step,
};
use crate::protocol::evidence::{LabelContext, Sighash, Signed, commitment};
use crate::protocol::ids::{Label, SessionId, Subject};
use crate::protocol::message::{Message, Nonces, RefusalCode, Refused, SignRequest};
use crate::protocol::refund_message::{
    RefundComplete, RefundNonces, RefundOpen, RefundPartial, RefundRequest,
};
use crate::protocol::terms::Funding;
use serde::{Deserialize, Serialize};

/// Refunds kept until the set is frozen. There are few before that, but for a store that is an old copy, whose aggregator
/// sends no others before it has the last ones.
const MAX_EARLY: usize = 128;

/// What a member knows of refunds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MyRefunds {
    session: Option<MySession>,
    /// Every refund this member signed: what it spends is no unknown spend.
    known: BTreeMap<Txid, OutPoint>,
    /// An opening that came before the set was known to be frozen.
    early: Option<RefundOpen>,
    /// Refunds that came before the set was known to be frozen: relays serve the newest first, to a store that is an old
    /// copy too. They are verified then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    completed_early: BTreeMap<OutPoint, RefundComplete>,
    /// Complete refunds that pay this member.
    held: BTreeMap<OutPoint, KeptRefund>,
}

impl MyRefunds {
    pub(super) fn knows(&self, txid: &Txid) -> bool {
        self.known.contains_key(txid)
    }
}

/// The refund session that was opened last.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct MySession {
    deposit: u32,
    /// The attempt that nonces were last made for.
    attempt: u32,
    output: BeaconOutput,
    /// Of `attempt`; none while they are being made, or when they are lost.
    nonces: Option<Nonces>,
    /// What was ordered to be signed.
    signing: Option<BTreeMap<Label, LabelContext>>,
    /// The last attempt that was signed and sent, 0 if none was.
    sent: u32,
}

impl Participant {
    pub(super) fn refund_open(&mut self, open: &RefundOpen) -> Step {
        if matches!(
            self.phase,
            MemberPhase::Seated(_) | MemberPhase::Acknowledged
        ) {
            self.refunds.early = Some(open.clone());
            return Step::accepted();
        }
        if self.phase != MemberPhase::Active {
            return Step::ignored(Ignored::WrongPhase);
        }
        if self.refund_scripts().is_empty() {
            return Step::ignored(Ignored::Contradiction("these terms have no refunds".into()));
        }
        if open.attempt == 0 || open.attempt > u32::from(self.terms.sessions_max) {
            return Step::ignored(Ignored::WrongSession);
        }
        let output = BeaconOutput {
            outpoint: open.outpoint,
            value: Amount::from_sat(open.value_sat),
            height: None,
        };
        let mut sent = 0;
        let mut new = true;
        if let Some(known) = &self.refunds.session {
            if open.deposit < known.deposit {
                return Step::ignored(Ignored::WrongSession);
            }
            if open.deposit == known.deposit {
                if known.output != output {
                    return Self::contradiction("the aggregator changed an open refund session");
                }
                // Nonces for this attempt were offered already, as when it is this member that asked for it.
                if open.attempt <= known.attempt {
                    return Step::ignored(Ignored::Duplicate);
                }
                sent = known.sent;
                new = false;
            }
        }
        if new {
            self.counted.refund_opened(self.now);
        }
        self.refunds.session = Some(MySession {
            deposit: open.deposit,
            attempt: open.attempt,
            output,
            nonces: None,
            signing: None,
            sent,
        });
        Step::with(self.prepare_refund())
    }

    /// The set is frozen: takes up what came too early.
    pub(super) fn early_refund(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for complete in std::mem::take(&mut self.refunds.completed_early).into_values() {
            effects.extend(self.refund_complete(&complete).effects);
        }
        if let Some(open) = self.refunds.early.take() {
            effects.extend(self.refund_open(&open).effects);
        }
        effects
    }

    /// Orders nonces for the attempt of the open session.
    fn prepare_refund(&self) -> Vec<Effect> {
        let Some(session) = &self.refunds.session else {
            return Vec::new();
        };
        vec![Effect::Prepare {
            session: self.refund_session_id(session.deposit, session.attempt),
            labels: vec![Label::REFUND],
            indexes: Vec::new(),
        }]
    }

    const fn refund_session_id(&self, deposit: u32, attempt: u32) -> SessionId {
        SessionId {
            cohort: self.cohort,
            subject: Subject::Deposit(deposit),
            attempt,
        }
    }

    pub(super) fn refund_prepared(&mut self, deposit: u32, prepared: Prepared) -> Step {
        let attempt = prepared.session.attempt;
        let open = self.refunds.session.as_mut();
        let Some(session) = open.filter(|session| {
            (session.deposit, session.attempt) == (deposit, attempt) && session.sent < attempt
        }) else {
            return Step::ignored(Ignored::Unasked);
        };
        session.nonces = Some(prepared.nonces.clone());
        let content = RefundNonces {
            deposit,
            attempt,
            nonces: prepared.nonces,
        };
        Step::with(vec![
            self.send(Message::RefundNonces(Signed::unsigned(content))),
        ])
    }

    pub(super) fn refund_request(&mut self, request: &RefundRequest) -> Step {
        let scripts = self.refund_scripts();
        let open = self.refunds.session.as_ref();
        let Some(session) = open.filter(|session| session.deposit == request.deposit) else {
            return Step::ignored(Ignored::WrongSession);
        };
        if request.attempt <= session.sent || session.signing.is_some() {
            return Step::ignored(Ignored::Duplicate);
        }
        if request.attempt != session.attempt {
            return Step::ignored(Ignored::WrongSession);
        }
        // Built on nonces that a restart has lost.
        let Some(nonces) = session.nonces.clone() else {
            return Step::with(self.lose_refund());
        };
        let tx = &request.tx.0;
        let checked = check_refund(
            tx,
            &session.output,
            &self.script,
            self.terms.refund_blocks,
            &scripts,
            &self.limits(),
        );
        let outpoint = session.output.outpoint;
        let checked = match checked {
            Ok(checked) => checked,
            Err(fault) => {
                let reason = fault.to_string();
                return Step {
                    outcome: Outcome::Ignored(Ignored::WillNotSign(reason.clone())),
                    effects: vec![
                        self.send(Message::Refused(Refused {
                            of: "refund_request".into(),
                            code: RefusalCode::WillNotSign,
                            round: None,
                        })),
                        Effect::Report(Report::RefundRefused { outpoint, reason }),
                    ],
                };
            }
        };
        let Some(nonce) = nonces.get(&Label::REFUND).copied() else {
            return Step::with(self.lose_refund());
        };
        let context = LabelContext {
            aggregate_nonce: request.aggregate_nonce,
            sighash: Sighash::from_bytes(checked.sighash),
        };
        let order = SignOrder {
            session: self.refund_session_id(request.deposit, request.attempt),
            labels: vec![LabelOrder {
                label: Label::REFUND,
                nonce,
                aggregate_nonce: context.aggregate_nonce,
                sighash: context.sighash,
            }],
            spares: Vec::new(),
        };
        let value_sat = session.output.value.to_sat();
        self.know_refund(checked.txid, outpoint);
        if let Some(session) = &mut self.refunds.session {
            session.signing = Some(BTreeMap::from([(Label::REFUND, context)]));
        }
        Step::with(vec![
            Effect::Report(Report::RefundApproved {
                outpoint,
                value_sat,
                txid: checked.txid,
                fee_sat: checked.fee.to_sat(),
            }),
            Effect::Sign(order),
        ])
    }

    pub(super) fn refund_signed(&mut self, deposit: u32, signed: SignedSession) -> Step {
        let attempt = signed.session.attempt;
        let (Some(session), Some((_, keys))) = (&mut self.refunds.session, &self.set) else {
            return Step::ignored(Ignored::Unasked);
        };
        if (session.deposit, session.attempt) != (deposit, attempt) {
            return Step::ignored(Ignored::Unasked);
        }
        let (Some(contexts), Some(nonces)) = (session.signing.take(), session.nonces.clone())
        else {
            return Step::ignored(Ignored::Unasked);
        };
        let Some(session_hash) = commitment(keys, &nonces, &contexts) else {
            return Step::ignored(Ignored::Unasked);
        };
        session.sent = attempt;
        let content = RefundPartial {
            deposit,
            attempt,
            session_hash,
            nonces,
            partials: signed.partials,
        };
        Step::with(vec![
            self.send(Message::RefundPartial(Signed::unsigned(content))),
        ])
    }

    pub(super) fn refund_sign_failed(&mut self, deposit: u32, attempt: u32) -> Step {
        let open = self.refunds.session.as_ref();
        let ordered = open.is_some_and(|session| {
            (session.deposit, session.attempt) == (deposit, attempt) && session.signing.is_some()
        });
        if !ordered {
            return Step::ignored(Ignored::Unasked);
        }
        Step::with(self.lose_refund())
    }

    /// The nonces of the attempt are gone: offers fresh ones for the next. Also beyond the last attempt the terms
    /// allow, so that the aggregator can end the session instead of waiting.
    fn lose_refund(&mut self) -> Vec<Effect> {
        if let Some(session) = &mut self.refunds.session {
            session.attempt = session.attempt.saturating_add(1);
            session.nonces = None;
            session.signing = None;
        }
        self.prepare_refund()
    }

    /// After a restart all secret nonces are gone: offers fresh ones where that still counts.
    pub(super) fn refunds_restarted(&mut self) -> Vec<Effect> {
        let Some(session) = &mut self.refunds.session else {
            return Vec::new();
        };
        // Signed and sent: the outbox sends the same bytes again.
        if session.sent >= session.attempt {
            return Vec::new();
        }
        session.nonces = None;
        if session.signing.is_some() {
            return self.lose_refund();
        }
        self.prepare_refund()
    }

    /// The store was made again out of a bundle: the copy that is gone may have signed in the open session.
    pub(super) fn refunds_recovered(&mut self) {
        self.refunds.session = None;
    }

    pub(super) fn refund_complete(&mut self, complete: &RefundComplete) -> Step {
        let outpoint = complete.outpoint;
        if matches!(
            self.phase,
            MemberPhase::Asked | MemberPhase::Seated(_) | MemberPhase::Acknowledged
        ) {
            let early = &mut self.refunds.completed_early;
            if early.len() >= MAX_EARLY && !early.contains_key(&outpoint) {
                return Step::ignored(Ignored::WrongPhase);
            }
            early.insert(outpoint, complete.clone());
            return Step::accepted();
        }
        let tx = &complete.tx.0;
        let output = BeaconOutput {
            outpoint,
            value: Amount::from_sat(complete.value_sat),
            height: None,
        };
        let txid = tx.compute_txid();
        let held = self.refunds.held.get(&outpoint);
        if held.is_some_and(|held| held.txid == txid && held.value == output.value) {
            return Step::ignored(Ignored::Duplicate);
        }
        let verified = verify_refund(
            tx,
            &output,
            &self.script,
            self.terms.refund_blocks,
            &self.refund_scripts(),
        );
        if let Err(fault) = verified {
            return Self::contradiction(&format!("a refund of {outpoint} is none: {fault}"));
        }
        self.know_refund(txid, outpoint);
        let kept = KeptRefund {
            value: output.value,
            tx: tx.clone(),
            txid,
        };
        self.refunds.held.insert(outpoint, kept);
        Step::with(vec![
            Effect::Save(Artifact::Refund {
                outpoint,
                value_sat: complete.value_sat,
                tx: tx.clone(),
            }),
            Effect::Report(Report::RefundComplete {
                outpoint,
                value_sat: complete.value_sat,
                txid,
            }),
        ])
    }

    /// Notes a refund this member signs: when the chain shows it, it is no unknown spend.
    pub(super) fn know_refund(&mut self, txid: Txid, outpoint: OutPoint) {
        self.refunds.known.insert(txid, outpoint);
        self.watch.expect(txid);
    }

    /// Whether this member signed a refund of the output.
    #[must_use]
    pub fn signed_refund(&self, outpoint: &OutPoint) -> bool {
        let of_round = |given: &GivenPartial| given.txid == outpoint.txid && given.refund.is_some();
        self.refunds.known.values().any(|known| known == outpoint)
            || self.given.iter().any(of_round)
    }

    /// Whether this member signed the transaction as a refund.
    #[must_use]
    pub fn is_refund(&self, txid: &Txid) -> bool {
        self.refunds.knows(txid)
    }

    /// The complete refund of an output, if this member is one of its payees.
    #[must_use]
    pub fn refund_of(&self, outpoint: &OutPoint) -> Option<&KeptRefund> {
        self.refunds.held.get(outpoint)
    }

    /// Where refunds of this cohort pay; empty if it has none.
    #[must_use]
    pub fn refund_scripts(&self) -> Vec<ScriptBuf> {
        self.set
            .as_ref()
            .map(|(set, _)| set.refund_scripts(&self.terms))
            .unwrap_or_default()
    }

    /// Where members fund, the refund of what a signal spends has to be in their hands before they sign it. An
    /// output too small to be refunded is exempt.
    pub(super) fn check_refunded(&self, request: &SignRequest) -> Result<(), Verdict> {
        let mut rungs = request.rungs.iter();
        rungs.try_for_each(|rung| self.check_inputs_refunded(&rung.tx.0, &[]))
    }

    /// The same of one transaction.
    pub(super) fn check_inputs_refunded(
        &self,
        tx: &Transaction,
        spent: &[BeaconOutput],
    ) -> Result<(), Verdict> {
        let scripts = self.refund_scripts();
        if self.terms.funding != Funding::Members || scripts.is_empty() {
            return Ok(());
        }
        let least = refundable_from(&scripts, MIN_FEE_RATE).unwrap_or(Amount::MAX_MONEY);
        for input in &tx.input {
            let outpoint = input.previous_output;
            let unspent = self.chain.outputs.get(&outpoint).map(|seen| seen.value_sat);
            let known = spent.iter().find(|output| output.outpoint == outpoint);
            let value = unspent.or(known.map(|output| output.value.to_sat()));
            let large = value.is_none_or(|value_sat| value_sat >= least.to_sat());
            if large && !self.refunds.held.contains_key(&outpoint) {
                let text = format!("the refund of {outpoint}, which it spends, is not complete");
                return Err(Verdict::Wait(text));
            }
        }
        Ok(())
    }
}
