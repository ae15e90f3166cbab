//! The way out of a stalled round where the terms have the output policy `k-of-n`: its signal is signed through the
//! leaf by k members (spec.md §6.6 S2).
//!
//! A round stalls when responses are missing at their deadline, or partial signatures at the session's. What was
//! submitted until then is announced; who is absent has its indexes left empty. Everything that the signal announces
//! goes to the channel with the request, so that who is away can still explain the signal later.
//!
//! A session that is open meanwhile stays open: should its last partial signatures come after all, its transaction
//! ends the round. Both spend the tip and announce the same bytes, so only one of them can ever confirm.

use std::collections::BTreeMap;

use bitcoin::{Amount, Transaction};

use super::{Aggregator, SignedSignal, refuse};
use crate::beacon::address::beacon_script;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::fallback::FallbackLeaf;
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

/// A signal that waits for signatures through the leaf.
#[derive(Debug)]
pub(super) struct Fallback {
    /// Until when they count.
    until: UnixTime,
    leaf: FallbackLeaf,
    /// What is signed: one rung without a refund, whose digests are those of the leaf.
    ladder: Ladder,
    rung: Rung,
    signatures: BTreeMap<NostrKey, Vec<SchnorrSignature>>,
    signed: Vec<Seat>,
}

impl Fallback {
    pub(super) const fn until(&self) -> UnixTime {
        self.until
    }

    /// What it pays to the miner.
    pub(super) const fn fee(&self) -> Amount {
        self.rung.fee
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
        self.fall_back(now).unwrap_or_else(|| self.fail_round(why))
    }

    /// `None` when there is no way out of the stall.
    fn fall_back(&mut self, now: UnixTime) -> Option<Vec<Effect>> {
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
        let unsigned = leaf.build(&inputs, &script, signal, self.fee_rate()).ok()?;
        let sighashes = leaf.sighashes(&unsigned.tx, &inputs, &script)?;
        let rung = Rung {
            txid: unsigned.tx.compute_txid(),
            fee: unsigned.fee,
            sighashes: sighashes.into_iter().map(Sighash::from_bytes).collect(),
            refund: None,
            tx: unsigned.tx,
        };
        let round = state.round;
        let absent: Vec<Seat> = state
            .seats()
            .filter(|seat| !state.responses.contains_key(seat))
            .collect();
        let attempt = state.session.as_ref().map_or(0, |session| session.attempt);
        let fallback = Fallback {
            until: now.plus(self.terms.signing_seconds.into()),
            ladder: Ladder {
                inputs,
                signal,
                rungs: vec![rung.clone()],
            },
            rung,
            signatures: BTreeMap::new(),
            signed: Vec::new(),
            leaf,
        };
        // What a session was built on is kept already, and is the same.
        let kept = state.built.is_some();
        let mut effects = Vec::new();
        if !kept {
            effects.push(Effect::Save(artifact(round, &fallback, &announced)));
        }
        effects.push(Effect::Report(Report::FallbackOpened {
            round,
            absent: absent.clone(),
            threshold: fallback.leaf.threshold(),
        }));
        effects.push(Effect::Report(Report::SignalFixed {
            round,
            attempt,
            signal,
            txid: fallback.rung.txid,
            fee_sat: fallback.rung.fee.to_sat(),
        }));
        let request = FallbackRequest {
            round,
            sign_by: fallback.until,
            tx: TxHex(fallback.rung.tx.clone()),
            prevouts: unsigned
                .prevouts
                .iter()
                .map(|output| PrevoutInfo {
                    value_sat: output.value.to_sat(),
                    script: output.script_pubkey.clone(),
                })
                .collect(),
            absent,
            announced,
        };
        effects.push(Effect::Send {
            to: To::Channel,
            message: Message::FallbackRequest(request),
        });
        if let Some(state) = &mut self.round {
            state.fallback = Some(Box::new(fallback));
        }
        Some(effects)
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
        let Some(state) = self
            .round
            .as_mut()
            .filter(|state| state.round == content.round)
        else {
            return Step::ignored(Ignored::WrongRound);
        };
        let Some(fallback) = &mut state.fallback else {
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
            if !state.blamed.iter().any(|known| known.member == from) {
                state.blamed.push(blame.clone());
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
            round: state.round,
            seat,
            signatures: u16::try_from(count).unwrap_or(u16::MAX),
        })];
        if enough {
            effects.extend(self.finish_fallback(now));
        }
        Step::with(effects)
    }

    /// Puts the witness together, keeps the transaction, then sends it to the chain and to everybody.
    fn finish_fallback(&mut self, now: UnixTime) -> Vec<Effect> {
        let (Some(state), Some((_, keys))) = (&self.round, &self.set) else {
            return Vec::new();
        };
        let Some(fallback) = &state.fallback else {
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
        let Some(signed) = SignedSignal::new(state.round, &fallback.ladder, vec![rung], now) else {
            return self.fail_round(RoundCause::Operator);
        };
        let (opened, deposited) = (state.opened, state.deposited());
        self.deposits
            .announce(&signed.txids(), signed.input(), deposited);
        self.round = None;
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
fn artifact(round: Round, fallback: &Fallback, announced: &Announced) -> Artifact {
    let (signal, txid) = (fallback.ladder.signal, fallback.rung.txid);
    match announced {
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
