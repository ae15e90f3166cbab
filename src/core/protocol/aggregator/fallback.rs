//! The way out of a stalled round where the terms have the output policy `k-of-n`: its signal is signed through the
//! leaf by k members (spec.md §6.6 S2).
//!
//! A round stalls when responses are missing at their deadline, or partial signatures at the session's. What was
//! submitted until then is announced; who is absent has its indexes left empty. Everything that the signal announces
//! goes to the channel with the request, so that who is away can still explain the signal later.
//!
//! A session that is open meanwhile stays open: should its last partial signatures come after all, its transaction
//! ends the round. Both spend the tip and announce the same bytes, so only one of them can ever confirm.
//!
//! A signal that was signed so has one fee. Where that is stuck, signatures are asked for again: for a transaction with
//! the same inputs and bytes that pays more (see `replacing`). Whoever has signed one of them may sign the next.

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, Script, Transaction, Weight};

use super::{Aggregator, SignedSignal, refuse};
use crate::beacon::address::beacon_script;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::fallback::FallbackLeaf;
use crate::beacon::signal::BeaconOutput;
use crate::beacon::smt::SmtTree;
use crate::hash::{SchnorrSignature, SignalBytes};
use crate::keys::NostrKey;
use crate::protocol::chain_view::TipView;
use crate::protocol::effect::{Artifact, Effect, Ignored, Outcome, Report, Step, To};
use crate::protocol::evidence::{Blame, Fault, Sighash, Signed};
use crate::protocol::ids::{Round, Seat};
use crate::protocol::ladder::{Ladder, Rung, SignedRung};
use crate::protocol::message::{
    Announced, FallbackRequest, FallbackSignature, Message, PrevoutInfo, RefusalCode, RoundCause,
    TxHex,
};
use crate::protocol::set::fallback_leaf;
use crate::protocol::terms::{CohortBeacon, EmptyRounds};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// A signal that waits for signatures through the leaf.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fallback {
    /// Until when they count.
    until: UnixTime,
    leaf: FallbackLeaf,
    /// What is signed: one rung without a refund, whose digests are those of the leaf.
    ladder: Ladder,
    rung: Rung,
    signatures: BTreeMap<NostrKey, Vec<SchnorrSignature>>,
    signed: Vec<Seat>,
    absent: Vec<Seat>,
    announced: Announced,
    /// Why the round stalled.
    #[serde(default)]
    why: Option<RoundCause>,
    /// What was bad in it until then.
    #[serde(default)]
    blamed: Vec<Blame>,
}

impl Fallback {
    pub(super) const fn until(&self) -> UnixTime {
        self.until
    }

    /// What it pays to the miner.
    pub(super) const fn fee(&self) -> Amount {
        self.rung.fee
    }

    /// What is signed.
    pub(super) const fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// What its transaction weighs when it is signed.
    fn weight(&self) -> Weight {
        self.leaf.signed_weight(&self.rung.tx)
    }

    /// What is asked of everybody.
    fn request(&self, round: Round, script: &Script) -> Message {
        let prevout = |input: &BeaconOutput| PrevoutInfo {
            value_sat: input.value.to_sat(),
            script: script.to_owned(),
        };
        Message::FallbackRequest(FallbackRequest {
            round,
            sign_by: self.until,
            tx: TxHex(self.rung.tx.clone()),
            prevouts: self.ladder.inputs.iter().map(prevout).collect(),
            absent: self.absent.clone(),
            announced: self.announced.clone(),
            why: self.why.clone(),
            blamed: self.blamed.clone(),
        })
    }

    /// The seats that have signed.
    pub(super) fn signed(&self) -> impl Iterator<Item = Seat> {
        self.signed.iter().copied()
    }

    /// The transaction with the witnesses of its inputs, once there are enough signatures.
    fn complete(&self, internal: secp256k1::XOnlyPublicKey) -> Option<Transaction> {
        let mut tx = self.rung.tx.clone();
        for (position, input) in tx.input.iter_mut().enumerate() {
            let signatures = self
                .signatures
                .iter()
                .filter_map(|(key, made)| Some((*key, *made.get(position)?)))
                .collect();
            input.witness = self.leaf.witness(internal, &signatures)?;
        }
        Some(tx)
    }
}

impl Aggregator {
    /// The open round can not go on as it should: asks for signatures through the leaf, if the terms have one and
    /// enough members are there; else ends it.
    pub(super) fn stalled(&mut self, now: UnixTime, why: RoundCause) -> Vec<Effect> {
        let waits = self
            .round
            .as_ref()
            .and_then(|state| state.fallback.as_ref())
            .is_some_and(|fallback| now <= fallback.until);
        if waits {
            return Vec::new();
        }
        self.fall_back(now, &why)
            .unwrap_or_else(|| self.fail_round(why))
    }

    /// `None` when there is no way out of the stall.
    fn fall_back(&mut self, now: UnixTime, why: &RoundCause) -> Option<Vec<Effect>> {
        let (_, keys) = self.set.as_ref()?;
        let leaf = fallback_leaf(&self.terms, keys)?;
        let script = beacon_script(keys.output_key());
        let state = self.round.as_ref()?;
        let all_idle = state.responses.values().all(|entered| entered.idle);
        if state.fallback.is_some()
            || state.responses.len() < usize::from(leaf.threshold())
            // Nobody has anything to announce: no reason to spend anything.
            || (all_idle && self.terms.empty_rounds == EmptyRounds::Skip)
        {
            return None;
        }
        let inputs = match &state.built {
            Some(built) => built.ladder.inputs.clone(),
            None => self.spend_plan(state.inputs.into())?.ok()?.inputs,
        };
        let (signal, announced) = self.announced()?;
        let ladder = self.leaf_ladder(&leaf, &inputs, &script, signal, self.fee_rate())?;
        let rung = ladder.rungs.first()?.clone();
        let round = state.round;
        let absent: Vec<Seat> = state
            .seats()
            .filter(|seat| !state.responses.contains_key(seat))
            .collect();
        let attempt = state.session.as_ref().map_or(0, |session| session.attempt);
        let fallback = Fallback {
            until: now.plus(self.terms.signing_seconds.into()),
            ladder,
            rung,
            signatures: BTreeMap::new(),
            signed: Vec::new(),
            absent: absent.clone(),
            announced,
            leaf,
            why: Some(why.clone()),
            blamed: state.blamed.clone(),
        };
        // What a session was built on is kept already, and is the same.
        let kept = state.built.is_some();
        let mut effects = Vec::new();
        if !kept {
            effects.push(Effect::Save(artifact(round, &fallback)));
        }
        effects.push(Effect::Report(Report::FallbackOpened {
            round,
            absent,
            threshold: fallback.leaf.threshold(),
            why: Some(why.clone()),
        }));
        effects.push(Effect::Report(Report::SignalFixed {
            round,
            attempt,
            signal,
            txid: fallback.rung.txid,
            fee_sat: fallback.rung.fee.to_sat(),
        }));
        effects.push(Effect::Send {
            to: To::Channel,
            message: fallback.request(round, &script),
        });
        if let Some(state) = &mut self.round {
            state.fallback = Some(Box::new(fallback));
        }
        Some(effects)
    }

    /// The one rung that is signed through the leaf at this rate, or at the highest that may be paid; `None` where the
    /// inputs do not pay for it.
    fn leaf_ladder(
        &self,
        leaf: &FallbackLeaf,
        inputs: &[BeaconOutput],
        script: &Script,
        signal: SignalBytes,
        rate: FeeRate,
    ) -> Option<Ladder> {
        let build = |rate| leaf.build(inputs, script, signal, rate).ok();
        let mut unsigned = build(rate)?;
        let ceiling = self.ceiling_for(leaf.signed_weight(&unsigned.tx));
        if rate > ceiling {
            unsigned = build(ceiling)?;
        }
        let sighashes = leaf.sighashes(&unsigned.tx, inputs, script)?;
        let rung = Rung {
            txid: unsigned.tx.compute_txid(),
            fee: unsigned.fee,
            sighashes: sighashes.into_iter().map(Sighash::from_bytes).collect(),
            refund: None,
            tx: unsigned.tx,
        };
        let ladder = Ladder {
            inputs: inputs.to_vec(),
            signal,
            rungs: vec![rung],
        };
        ladder.within(|fee| self.may_pay(fee))
    }

    /// What is asked for in place of a signal that was signed through the leaf and is stuck: the same, for more.
    ///
    /// There is one rung only, so where the chain has no estimate above what was paid, it is a step of the terms'
    /// ladder higher, and not just as much as nodes ask of a replacement.
    pub(super) fn higher_through_leaf(&self, stuck: &Fallback, paid: Amount) -> Option<Ladder> {
        let weight = stuck.weight();
        // BIP-125: whoever replaces pays what is replaced, and at least 1 sat/vB for itself.
        let least = paid.checked_add(Amount::from_sat(weight.to_vbytes_ceil()))?;
        let rate_of = |fee: Amount| {
            let per_kwu = fee.to_sat().checked_mul(1_000)?.div_ceil(weight.to_wu());
            Some(FeeRate::from_sat_per_kwu(per_kwu))
        };
        let (least_rate, paid_rate) = (rate_of(least)?, rate_of(paid)?);
        let ceiling = self.ceiling_for(weight);
        if least_rate > ceiling {
            return None;
        }
        let estimate = self.fee_rate();
        let step = u64::from(self.terms.fee_ladder.get(1).copied().unwrap_or(1));
        let wanted = if estimate > paid_rate {
            estimate
        } else {
            paid_rate.checked_mul(step).unwrap_or(ceiling)
        };
        let Ladder { inputs, signal, .. } = &stuck.ladder;
        let (_, keys) = self.set.as_ref()?;
        let script = beacon_script(keys.output_key());
        let rate = wanted.min(ceiling).max(least_rate);
        let ladder = self.leaf_ladder(&stuck.leaf, inputs, &script, *signal, rate)?;
        // What leaves no change pays all there is, whatever its rate.
        let enough = ladder.rungs.first().is_some_and(|rung| rung.fee >= least);
        enough.then_some(ladder)
    }

    /// Asks for signatures of this in place of what `stuck` asked for, and says so. What was asked for before and not
    /// signed by enough is asked for once more: its signatures still count.
    pub(super) fn ask_again(
        &self,
        now: UnixTime,
        round: Round,
        mut stuck: Box<Fallback>,
        ladder: Ladder,
    ) -> Option<(Box<Fallback>, Effect)> {
        let rung = ladder.rungs.first()?.clone();
        let (_, keys) = self.set.as_ref()?;
        let script = beacon_script(keys.output_key());
        stuck.until = now.plus(self.terms.signing_seconds.into());
        if stuck.rung.txid != rung.txid {
            stuck.signatures.clear();
            stuck.signed.clear();
            stuck.rung = rung;
            stuck.ladder = ladder;
        }
        let message = stuck.request(round, &script);
        let to = To::Channel;
        Some((stuck, Effect::Send { to, message }))
    }

    /// What the responses that came announce, whole, and the 32 bytes of it.
    fn announced(&self) -> Option<(SignalBytes, Announced)> {
        let responses = self.round.as_ref()?.responses.values();
        match self.terms.beacon {
            CohortBeacon::Smt => {
                let leaves: Vec<_> = responses
                    .flat_map(|entered| entered.leaves.iter().copied())
                    .collect();
                let tree = SmtTree::new(leaves.iter().copied()).ok()?;
                Some((tree.root(), Announced::Smt(leaves)))
            }
            CohortBeacon::Cas => {
                let updates = responses
                    .flat_map(|entered| entered.updates.iter())
                    .map(|(did, update)| (did.to_string(), *update));
                let map = CasAnnouncement::new(updates, |_| true).ok()?;
                let text = String::from_utf8(map.canonical_bytes()).ok()?;
                Some((map.signal_bytes(), Announced::Cas(text)))
            }
        }
    }

    pub(super) fn fallback_signature(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        signed: Signed<FallbackSignature>,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !signed.verifies(&self.cohort, from) {
            return Step::ignored(Ignored::BadEvidence);
        }
        let content = &signed.content;
        let round = content.round;
        let late = self.may_finish_late(round);
        let (fallback, blamed) = match (&mut self.round, &mut self.kept) {
            (Some(state), _) if state.round == round => (&mut state.fallback, &mut state.blamed),
            (None, Some(kept)) if late => match kept.through_leaf(round) {
                Some(found) => found,
                None => return Step::ignored(Ignored::WrongRound),
            },
            _ => return Step::ignored(Ignored::WrongRound),
        };
        let Some(fallback) = fallback else {
            return Step::ignored(Ignored::WrongSession);
        };
        if content.txid != fallback.rung.txid || content.sighashes != fallback.rung.sighashes {
            return Step::ignored(Ignored::WrongSession);
        }
        if fallback.signatures.contains_key(&from) {
            return Step::ignored(Ignored::Duplicate);
        }
        if content.signatures.len() != fallback.rung.sighashes.len() {
            let code = RefusalCode::Malformed;
            return refuse(from, "fallback_signature", code, Some(content.round));
        }
        let mut inputs = (0_u8..).zip(content.signatures.iter().zip(&fallback.rung.sighashes));
        if let Some((input, _)) =
            inputs.find(|(_, (made, digest))| !from.verifies(digest.as_bytes(), made))
        {
            let blame = Blame {
                member: from,
                fault: Fault::BadFallbackSignature {
                    signature: Box::new(signed.clone()),
                    input,
                },
            };
            // One piece of evidence per member and round is enough; the member may still send a good one.
            if !blamed.iter().any(|known| known.member == from) {
                blamed.push(blame.clone());
            }
            return Step {
                outcome: Outcome::Blamed(from),
                effects: vec![Effect::Report(Report::MemberBlamed {
                    blame,
                    proved: true,
                })],
            };
        }
        let made = content.signatures.clone();
        fallback.signatures.insert(from, made);
        fallback.signed.push(seat);
        let count = fallback.signed.len();
        let enough = count >= usize::from(fallback.leaf.threshold());
        let mut effects = vec![Effect::Report(Report::FallbackSignatureReceived {
            round,
            seat,
            signatures: u16::try_from(count).unwrap_or(u16::MAX),
        })];
        if enough {
            effects.extend(self.finish_fallback(now, round));
        }
        Step::with(effects)
    }

    /// Puts the witness together, keeps the transaction, then sends it to the chain and to everybody.
    fn finish_fallback(&mut self, now: UnixTime, round: Round) -> Vec<Effect> {
        let Some((_, keys)) = &self.set else {
            return Vec::new();
        };
        let fallback = match (&self.round, &mut self.kept) {
            (Some(state), _) => state.fallback.as_ref(),
            (None, Some(kept)) => kept
                .through_leaf(round)
                .and_then(|(found, _)| found.as_ref()),
            (None, None) => None,
        };
        let Some(fallback) = fallback else {
            return Vec::new();
        };
        let internal = keys.internal_key();
        let Some(tx) = fallback.complete(internal) else {
            return Vec::new();
        };
        let fits = tx
            .input
            .iter()
            .zip(&fallback.rung.sighashes)
            .all(|(input, digest)| {
                let check =
                    fallback
                        .leaf
                        .check_witness(&input.witness, internal, digest.as_bytes());
                check.is_ok()
            });
        if !fits {
            // Each signature verified; if their witness does not, this machine miscalculates.
            return self.fail_round(RoundCause::Operator);
        }
        let rung = SignedRung {
            tx,
            txid: fallback.rung.txid,
            fee: fallback.rung.fee,
            refund: None,
        };
        let Some(state) = &self.round else {
            return self.replaced(now, vec![rung]);
        };
        let Some(signed) = SignedSignal::new(round, &fallback.ladder, vec![rung], now) else {
            return self.fail_round(RoundCause::Operator);
        };
        let (opened, deposited) = (state.opened, state.deposited());
        self.deposits
            .announce(&signed.txids(), signed.input(), deposited);
        self.keep_round(true);
        self.signed_total = self.signed_total.saturating_add(1);
        self.signed.push(signed);
        self.send_signed(opened, now)
    }

    /// Whether the chain's tip is not any more what the fallback of the open round spends.
    pub(super) fn fallback_is_stranded(&self) -> bool {
        let fallback = self
            .round
            .as_ref()
            .and_then(|state| state.fallback.as_ref());
        fallback.is_some_and(|fallback| match self.chain.tip {
            TipView::Ready { outpoint, .. } => outpoint != fallback.ladder.tip(),
            TipView::InFlight { .. } | TipView::NoFunds | TipView::Unconfirmed { .. } => true,
        })
    }
}

/// What proves any index in the signal, for the life of the beacon.
fn artifact(round: Round, fallback: &Fallback) -> Artifact {
    let (signal, txid) = (fallback.ladder.signal, fallback.rung.txid);
    match &fallback.announced {
        Announced::Smt(leaves) => Artifact::LeafSet {
            round,
            signal,
            txid,
            leaves: leaves.clone(),
        },
        Announced::Cas(text) => Artifact::Announcement {
            round,
            signal,
            txid,
            announcement: text.clone(),
        },
    }
}
