//! Signed signals: sending them, sending them again, at a higher fee where the first does not confirm, and what
//! the chain says of them (DESIGN §6 rule 9).
//!
//! A session has signed the signal at several fees (see [`crate::protocol::ladder`]). The lowest goes out first.
//! It is followed by the next when it was not confirmed for [`BUMP_AFTER_BLOCKS`] and does not pay what the chain
//! asks now, when a node says that it pays too little, or when the operator says so. Any of them may confirm. After the
//! highest one the same reasons begin a replacement session (see `replacing`).

use std::collections::VecDeque;

use bitcoin::{Amount, FeeRate, OutPoint, Transaction, Txid};

use super::{Aggregator, REBROADCAST_SECONDS};
use crate::beacon::signal::BeaconOutput;
use crate::hash::SignalBytes;
use crate::protocol::chain_view::ChainView;
use crate::protocol::effect::{Artifact, Effect, Ignored, Report, Step, To};
use crate::protocol::ids::Round;
use crate::protocol::ladder::{Ladder, SignedRung};
use crate::protocol::message::{Message, RoundResult, TxHex};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Blocks a signal may wait in the mempool before it is replaced: an hour, and as many as the fee estimate is for.
pub const BUMP_AFTER_BLOCKS: u32 = 6;

/// A signal that was signed by all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignedSignal {
    /// The round.
    pub round: Round,
    /// The 32 bytes.
    pub signal: SignalBytes,
    /// What every rung spends: the tip, then top-ups.
    pub inputs: Vec<BeaconOutput>,
    /// Rungs that were sent before the current one.
    passed: Vec<SignedRung>,
    /// What is sent now.
    current: SignedRung,
    /// Rungs that were not sent yet, lowest fee first.
    higher: VecDeque<SignedRung>,
    last_sent: UnixTime,
    /// The height of the chain when the current rung was sent first.
    sent_at: u32,
    /// The rung last reported as confirmed, and its height.
    confirmed: Option<(Txid, u32)>,
    /// The highest fee that was permitted when the next rung was last said to be over it.
    held_at: Option<Amount>,
}

impl SignedSignal {
    /// A signal whose first rung is about to be sent; `None` without any.
    pub(super) fn new(
        round: Round,
        ladder: &Ladder,
        rungs: Vec<SignedRung>,
        now: UnixTime,
    ) -> Option<Self> {
        let mut higher = VecDeque::from(rungs);
        Some(Self {
            round,
            signal: ladder.signal,
            inputs: ladder.inputs.clone(),
            passed: Vec::new(),
            current: higher.pop_front()?,
            higher,
            last_sent: now,
            sent_at: 0,
            confirmed: None,
            held_at: None,
        })
    }

    /// The transaction that was sent last.
    #[must_use]
    pub const fn tx(&self) -> &Transaction {
        &self.current.tx
    }

    /// Its id.
    #[must_use]
    pub const fn txid(&self) -> Txid {
        self.current.txid
    }

    /// The rung that was sent last, from 1, and how many there are.
    #[must_use]
    pub fn rung(&self) -> (usize, usize) {
        let rung = self.passed.len().saturating_add(1);
        (rung, rung.saturating_add(self.higher.len()))
    }

    /// The tip it spends.
    #[must_use]
    pub fn input(&self) -> OutPoint {
        self.inputs
            .first()
            .map_or_else(OutPoint::null, |input| input.outpoint)
    }

    /// Every transaction that carries it, lowest fee first: at most one of them confirms.
    #[must_use]
    pub fn txids(&self) -> Vec<Txid> {
        let sent = self.passed.iter().chain([&self.current]);
        sent.chain(&self.higher).map(|rung| rung.txid).collect()
    }

    /// Finds a signal, or the refund of one's change, by its id: the rung, from 1, and the transaction with its
    /// signatures.
    #[must_use]
    pub fn find(&self, txid: &Txid) -> Option<(u8, &Transaction)> {
        let sent = self.passed.iter().chain([&self.current]);
        (1..)
            .zip(sent.chain(&self.higher))
            .find_map(|(rung, signed)| {
                if signed.txid == *txid {
                    return Some((rung, &signed.tx));
                }
                let (_, refund) = signed.refund.as_ref()?;
                (refund.compute_txid() == *txid).then_some((rung, refund))
            })
    }

    /// The refunds of its change, rung by rung, each with the transaction that pays this change.
    pub(super) fn refunds(&self) -> impl Iterator<Item = (Txid, Txid)> {
        let sent = self.passed.iter().chain([&self.current]);
        let refunds = sent
            .chain(&self.higher)
            .filter_map(|rung| Some((&rung.refund.as_ref()?.1, rung.txid)));
        refunds.map(|(refund, of)| (refund.compute_txid(), of))
    }

    /// The height last reported as confirmed.
    #[must_use]
    pub fn confirmed_at(&self) -> Option<u32> {
        self.confirmed.map(|(_, height)| height)
    }

    pub(super) const fn last_sent(&self) -> UnixTime {
        self.last_sent
    }

    /// Whether no rung can confirm any more, as far as that can be told from what else was signed.
    pub(super) fn is_dead(&self, chain: &ChainView, depth: u32, signed: &[Self]) -> bool {
        let input_of = |txid: &Txid| {
            let mut signed = signed.iter();
            signed
                .find(|signal| signal.txids().contains(txid))
                .map(Self::input)
        };
        chain.are_dead(&self.txids(), &self.input(), depth)
            || chain.is_impossible(&self.input(), depth, input_of)
    }

    /// What the chain says now: which rung is in a block.
    pub(super) fn look(&mut self, chain: &ChainView) -> Vec<Report> {
        let (round, before) = (self.round, self.confirmed);
        let in_block = |txid: Txid| Some((txid, chain.signals.get(&txid)?.height?));
        self.confirmed = self.txids().into_iter().find_map(in_block);
        let mut reports = Vec::new();
        let same = self.confirmed.map(|(txid, _)| txid) == before.map(|(txid, _)| txid);
        if let Some((txid, _)) = before.filter(|_| !same) {
            reports.push(Report::SignalReorganised { round, txid });
        }
        if let Some((txid, height)) = self.confirmed.filter(|_| !same) {
            reports.push(Report::SignalConfirmed {
                round,
                txid,
                height,
            });
        }
        reports
    }

    /// Whether it is time to look after it again.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        self.confirmed.is_none() && now >= self.last_sent.plus(REBROADCAST_SECONDS)
    }

    /// Sends it again, if that is due and the chain does not have it.
    pub(super) fn repeat(&mut self, now: UnixTime, chain: &ChainView) -> Option<Effect> {
        if !self.is_due(now) {
            return None;
        }
        self.last_sent = now;
        let known = chain.signals.contains_key(&self.current.txid);
        (!known).then(|| Effect::Broadcast(self.current.tx.clone()))
    }

    /// Whether it has waited long enough for a higher fee, at this height and estimate.
    fn is_stuck(&self, height: u32, estimate: Option<FeeRate>) -> bool {
        let waited = height.saturating_sub(self.sent_at) >= BUMP_AFTER_BLOCKS;
        let too_low = estimate.is_none_or(|estimate| estimate > self.current.fee_rate());
        self.confirmed.is_none() && waited && too_low
    }

    /// Whether the highest rung that is signed was sent.
    pub(super) fn is_at_top(&self) -> bool {
        self.higher.is_empty()
    }

    /// Further rungs that all signed; each pays more than those there are.
    pub(super) fn add(&mut self, rungs: Vec<SignedRung>) {
        self.higher.extend(rungs);
    }

    /// What the next rung pays, if there is one.
    fn next_fee(&self) -> Option<Amount> {
        self.higher.front().map(|rung| rung.fee)
    }

    /// Goes on to the next rung; false when there is none.
    fn climb(&mut self) -> bool {
        let Some(next) = self.higher.pop_front() else {
            return false;
        };
        self.passed.push(std::mem::replace(&mut self.current, next));
        self.held_at = None;
        true
    }
}

impl Aggregator {
    /// Sends the signal that was signed just now.
    pub(super) fn send_signed(&mut self, opened: UnixTime, now: UnixTime) -> Vec<Effect> {
        let Some(signal) = self.signed.last() else {
            return Vec::new();
        };
        let report = Report::SignalSigned {
            round: signal.round,
            txid: signal.txid(),
            vsize: signal.tx().vsize() as u64,
            seconds: now.since(opened),
        };
        let round = signal.round;
        self.send_rung(now, round, report)
    }

    /// The current rung of a round's signal goes to the chain and to everybody. It and the refund of its change
    /// are kept first.
    fn send_rung(&mut self, now: UnixTime, round: Round, report: Report) -> Vec<Effect> {
        let height = self.chain.height;
        let Some(signal) = self.signed.iter_mut().find(|signal| signal.round == round) else {
            return Vec::new();
        };
        signal.last_sent = now;
        signal.sent_at = height;
        let bytes = signal.signal;
        let SignedRung { tx, refund, .. } = signal.current.clone();
        let mut effects = vec![
            Effect::Save(Artifact::SignedTransaction {
                round,
                signal: bytes,
                tx: tx.clone(),
            }),
            Effect::Report(report),
        ];
        if let Some((change, refund)) = refund {
            effects.extend(self.keep_refund(&change, refund));
        }
        effects.push(Effect::Broadcast(tx.clone()));
        effects.push(Effect::Send {
            to: To::Channel,
            message: Message::RoundResult(RoundResult {
                round,
                tx: Some(TxHex(tx)),
            }),
        });
        effects
    }

    /// Sends the next rung of a round's signal, or when there is none begins a session that signs further ones. A rung
    /// that the money gate would not send is not taken: the signal stays where it is, which is said once.
    pub(super) fn climb(&mut self, now: UnixTime, round: Round) -> Vec<Effect> {
        let most = self.max_fee;
        let found = self.signed.iter_mut().find(|signal| signal.round == round);
        let Some(signal) = found.filter(|signal| signal.confirmed.is_none()) else {
            return Vec::new();
        };
        if let Some((fee, most)) = signal.next_fee().zip(most)
            && fee > most
        {
            if signal.held_at.replace(most) == Some(most) {
                return Vec::new();
            }
            return vec![Effect::Report(Report::BumpHeld {
                round,
                fee_sat: fee.to_sat(),
                max_sat: most.to_sat(),
            })];
        }
        if !signal.climb() {
            return self.replace_stuck(now, round);
        }
        let report = Report::SignalBumped {
            round,
            txid: signal.txid(),
            vsize: signal.tx().vsize() as u64,
            fee_sat: signal.current.fee.to_sat(),
        };
        self.send_rung(now, round, report)
    }

    /// Sends the next rung of every signal that has waited long enough.
    pub(super) fn bump_stuck(&mut self, now: UnixTime) -> Vec<Effect> {
        let height = self.chain.height;
        let estimate = self
            .chain
            .fee_rate
            .and_then(|rate| FeeRate::from_sat_per_vb(rate.into()));
        let stuck: Vec<Round> = self
            .signed
            .iter()
            .filter(|signal| signal.is_stuck(height, estimate))
            .map(|signal| signal.round)
            .collect();
        let climbed = stuck.into_iter().map(|round| self.climb(now, round));
        climbed.collect::<Vec<_>>().concat()
    }

    /// The operator wants the unconfirmed signal to pay more.
    pub(super) fn bump(&mut self, now: UnixTime) -> Step {
        if let Some(why) = self.bump_refusal() {
            return Step::ignored(Ignored::Contradiction(why.to_owned()));
        }
        let Some(signal) = self.unconfirmed().next() else {
            return Step::accepted();
        };
        let round = signal.round;
        Step::with(if signal.is_at_top() {
            self.replace(now, round)
        } else {
            self.climb(now, round)
        })
    }

    /// Why no signal can be sent at a higher fee now, or `None` when one can.
    #[must_use]
    pub fn bump_refusal(&self) -> Option<&'static str> {
        let Some(signal) = self.unconfirmed().next() else {
            return Some("no signal waits for a confirmation");
        };
        if let Some(fee) = signal.next_fee() {
            let held = !self.may_pay(fee);
            return held.then_some("the next fee that was signed for it is over money.max_fee_sat");
        }
        if self.replacement(signal.round).is_some() {
            return None;
        }
        Some(if self.is_replacing(signal.round) {
            "the members are being asked to sign it at a higher fee"
        } else {
            "the signal was sent at the highest fee that was signed for it"
        })
    }

    pub(super) fn broadcast_answer(
        &mut self,
        now: UnixTime,
        txid: Txid,
        error: Option<String>,
        fee_too_low: bool,
    ) -> Step {
        let Some(round) = self.round_of(&txid) else {
            return Step::ignored(Ignored::Unasked);
        };
        let Some(reason) = error else {
            self.watch.accepted(&txid);
            self.taken(round);
            return Step::with(vec![Effect::Report(Report::SignalBroadcast {
                round,
                txid,
            })]);
        };
        let mut effects = vec![Effect::Report(Report::BroadcastFailed { round, reason })];
        // An answer about an earlier rung says nothing of the one that followed it.
        let is_current = self.signed.iter().any(|signal| signal.txid() == txid);
        if fee_too_low && is_current {
            effects.extend(self.refused(now, round));
        }
        Step::with(effects)
    }
}
