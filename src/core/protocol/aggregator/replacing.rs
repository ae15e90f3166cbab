//! Replacement sessions: a signal whose highest rung is stuck is signed again by all, at higher fees.
//!
//! The round it came from is kept for that until its signal is settled: what was built, and the spare nonces that rode
//! on the partial signatures. A replacement is the next session of that round. It spends the same outputs in the same
//! order and announces the same 32 bytes, so everything that explains the signal stays as it is, and whatever confirms
//! is still the one signal of the round (DESIGN §6 rule 4).
//!
//! What was signed through the k-of-n leaf is replaced through it: there is no session then, members are asked for
//! signatures of the same at a higher fee.

use bitcoin::{Amount, FeeRate};

use super::fallback::Fallback;
use super::round::{Built, RoundState};
use super::session::Session;
use super::signals::{BUMP_AFTER_BLOCKS, SignedSignal};
use super::{Aggregator, Phase};
use crate::beacon::signal::signed_weight;
use crate::protocol::chain_view::TipView;
use crate::protocol::effect::{Effect, Report, To};
use crate::protocol::evidence::Blame;
use crate::protocol::ids::Round;
use crate::protocol::ladder::{self, Ground, Ladder, SignedRung};
use crate::protocol::message::{Message, RoundCause, RoundFailed};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// The last round that was signed, for as long as its signal may have to be replaced.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Its session is the replacement's, while one is open.
    state: RoundState,
    /// The last session that was held.
    attempt: u32,
    /// The highest fee that members have signed for, or were asked to.
    paid: Amount,
    /// What was built last is not signed by all: some members may have signed it, so nothing cheaper may follow.
    unfinished: bool,
    /// The height at which the last replacement was begun.
    tried_at: Option<u32>,
    /// A node says that the highest rung pays too little.
    refused: bool,
    /// What was asked for last through the leaf, if that is how it was signed, and nothing is asked for now.
    leaf: Option<Box<Fallback>>,
}

impl Kept {
    fn of(mut state: RoundState, through_leaf: bool) -> Self {
        let fallback = state.fallback.take();
        let rungs = state.built.iter().flat_map(|built| &built.ladder.rungs);
        // Of a session that was never completed nothing is in anybody's mempool.
        let fees = rungs.map(|rung| rung.fee).filter(|_| !through_leaf);
        let fees = fees.chain(fallback.iter().map(|fallback| Fallback::fee(fallback)));
        let mut kept = Self {
            paid: fees.max().unwrap_or(Amount::ZERO),
            leaf: fallback.filter(|_| through_leaf),
            attempt: 0,
            unfinished: false,
            tried_at: None,
            refused: false,
            state,
        };
        kept.close();
        kept
    }

    const fn is_open(&self) -> bool {
        self.state.session.is_some() || self.state.fallback.is_some()
    }

    /// Ends the session. Its attempt is used up, whatever came of it.
    fn close(&mut self) {
        if let Some(session) = self.state.session.take() {
            self.attempt = session.attempt;
        }
        if let Some(fallback) = self.state.fallback.take() {
            self.leaf = Some(fallback);
        }
    }

    /// What signatures through the leaf still count for, and who is blamed: what is asked for now, or was until a
    /// while ago and not signed by enough.
    pub(super) fn through_leaf(
        &mut self,
        round: Round,
    ) -> Option<(&mut Option<Box<Fallback>>, &mut Vec<Blame>)> {
        if self.state.round != round || !self.unfinished {
            return None;
        }
        let open = self.state.fallback.is_some();
        let fallback = if open {
            &mut self.state.fallback
        } else {
            &mut self.leaf
        };
        fallback
            .is_some()
            .then_some((fallback, &mut self.state.blamed))
    }
}

/// The round that has a session now: the open one, or the one whose signal is being replaced.
pub(super) fn in_session<'a>(
    round: &'a mut Option<RoundState>,
    kept: &'a mut Option<Kept>,
) -> Option<&'a mut RoundState> {
    round.as_mut().or_else(|| {
        let kept = kept.as_mut().filter(|kept| kept.is_open());
        kept.map(|kept| &mut kept.state)
    })
}

impl Aggregator {
    /// The same, to look at.
    pub(super) fn round_in_session(&self) -> Option<&RoundState> {
        self.round.as_ref().or_else(|| {
            let kept = self.kept.as_ref().filter(|kept| kept.is_open());
            kept.map(|kept| &kept.state)
        })
    }

    /// Whether the signal of this round is being replaced.
    pub(super) fn is_replacing(&self, round: Round) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.state.round == round && kept.is_open())
    }

    /// The open round was signed, by all or through the leaf: keeps what a replacement needs.
    pub(super) fn keep_round(&mut self, through_leaf: bool) {
        let round = self.round.take();
        self.kept = round.map(|state| Kept::of(state, through_leaf));
    }

    /// Whether signatures through the leaf that replace this round's signal would still be of use.
    pub(super) fn may_finish_late(&self, round: Round) -> bool {
        let mut signals = self.signed.iter().filter(|signal| signal.round == round);
        !self.money_stopped && signals.any(|signal| self.may_replace(signal))
    }

    /// What a replacement of this round's signal would sign; `None` when there can be none.
    pub(super) fn replacement(&self, round: Round) -> Option<Ladder> {
        let kept = self.kept.as_ref().filter(|kept| kept.state.round == round);
        let kept = kept.filter(|kept| !kept.is_open())?;
        let active = matches!(self.phase, Phase::Active) && self.round.is_none();
        let allowed = kept.attempt < u32::from(self.terms.sessions_max);
        let mut signals = self.signed.iter().filter(|signal| signal.round == round);
        let signal = signals.find(|signal| signal.is_at_top())?;
        if !active || !allowed || self.money_stopped || !self.may_replace(signal) {
            return None;
        }
        let again = |ladder: &Ladder| {
            let allowed = ladder.rungs.iter().all(|rung| self.may_pay(rung.fee));
            allowed.then(|| ladder.clone())
        };
        if let Some(stuck) = &kept.leaf {
            return if kept.unfinished {
                again(stuck.ladder())
            } else {
                self.higher_through_leaf(stuck, kept.paid)
            };
        }
        let built = kept.state.built.as_ref()?;
        if kept.unfinished {
            return again(&built.ladder);
        }
        // BIP-125: whoever replaces pays what is replaced, and at least 1 sat/vB for itself.
        let weight = signed_weight(built.ladder.inputs.len(), true);
        let relay = Amount::from_sat(weight.to_vbytes_ceil());
        let least = kept.paid.checked_add(relay)?;
        let per_kwu = least.to_sat().checked_mul(1_000)?;
        let rate = FeeRate::from_sat_per_kwu(per_kwu.div_ceil(weight.to_wu()));
        let ceiling = self.ceiling_for(weight);
        if rate > ceiling {
            return None;
        }
        let base = rate.max(self.fee_rate());
        let rates = ladder::rates(base, &self.terms.fee_ladder, ceiling);
        let payees = self.refund_scripts();
        let ground = Ground {
            script: &built.script,
            lock_blocks: self.terms.refund_blocks,
            payees: &payees,
        };
        let (inputs, bytes) = (built.ladder.inputs.clone(), built.ladder.signal);
        let ladder = Ladder::build(inputs, bytes, &rates, &ground)
            .ok()
            .and_then(|ladder| ladder.within(|fee| self.may_pay(fee)))?;
        // What leaves no change pays all there is, whatever its rate.
        let enough = |fee: Amount| fee >= least;
        ladder
            .rungs
            .first()
            .is_some_and(|rung| enough(rung.fee))
            .then_some(ladder)
    }

    /// Whether nothing of the signal is in a block and its tip is still the tip.
    fn may_replace(&self, signal: &SignedSignal) -> bool {
        let waits = match self.chain.tip {
            TipView::Ready { outpoint, .. } => outpoint == signal.input(),
            TipView::InFlight { by } => signal.txids().contains(&by),
            TipView::NoFunds | TipView::Unconfirmed { .. } => false,
        };
        waits && signal.confirmed_at().is_none()
    }

    /// The highest rung is stuck: begins a replacement, if one is possible and none was begun just now.
    pub(super) fn replace_stuck(&mut self, now: UnixTime, round: Round) -> Vec<Effect> {
        let tried_at = self.kept.as_ref().and_then(|kept| kept.tried_at);
        let again = tried_at.map(|height| height.saturating_add(BUMP_AFTER_BLOCKS));
        if again.is_some_and(|again| self.chain.height < again) {
            return Vec::new();
        }
        self.replace(now, round)
    }

    /// A node says that the current rung pays too little: the next one goes out. After the highest a replacement is
    /// begun when the signal would be sent again: its result has to be with the members first.
    pub(super) fn refused(&mut self, now: UnixTime, round: Round) -> Vec<Effect> {
        let mut signals = self.signed.iter().filter(|signal| signal.round == round);
        if signals.any(|signal| !signal.is_at_top()) {
            return self.climb(now, round);
        }
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.state.round == round) {
            kept.refused = true;
        }
        Vec::new()
    }

    /// A node took the current rung.
    pub(super) fn taken(&mut self, round: Round) {
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.state.round == round) {
            kept.refused = false;
        }
    }

    /// What nodes refused is due again.
    pub(super) fn replacement_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        let refused = self.kept.as_ref().filter(|kept| kept.refused);
        let Some(round) = refused.map(|kept| kept.state.round) else {
            return;
        };
        let mut signals = self.signed.iter().filter(|signal| signal.round == round);
        if signals.any(|signal| signal.is_due(now)) {
            effects.extend(self.replace_stuck(now, round));
        }
    }

    /// Begins the next session of a signed round, over a ladder that pays more; nothing when that can not be.
    pub(super) fn replace(&mut self, now: UnixTime, round: Round) -> Vec<Effect> {
        let Some(ladder) = self.replacement(round) else {
            return Vec::new();
        };
        let fee_sat = ladder.rungs.first().map_or(0, |rung| rung.fee.to_sat());
        let highest = ladder.rungs.iter().map(|rung| rung.fee).max();
        let leaf = self.kept.as_mut().and_then(|kept| kept.leaf.take());
        let asked = leaf.map(|stuck| self.ask_again(now, round, stuck, ladder.clone()));
        let Some(kept) = &mut self.kept else {
            return Vec::new();
        };
        let attempt = kept.attempt.saturating_add(1);
        let mut effects = vec![Effect::Report(Report::ReplacementOpened {
            round,
            attempt,
            fee_sat,
        })];
        kept.paid = kept.paid.max(highest.unwrap_or(Amount::ZERO));
        kept.state.blamed.clear();
        kept.unfinished = true;
        kept.tried_at = Some(self.chain.height);
        match asked {
            Some(Some((fallback, request))) => {
                kept.attempt = attempt;
                kept.state.session = None;
                kept.state.fallback = Some(fallback);
                effects.push(request);
            }
            Some(None) => return Vec::new(),
            None => {
                let Some(before) = kept.state.built.take() else {
                    return Vec::new();
                };
                kept.state.built = Some(Built { ladder, ..before });
                kept.state.session = Some(Session::new(attempt, now));
                effects.extend(self.start_session(now));
            }
        }
        effects
    }

    /// All have signed the replacement: its first rung goes out in place of what is stuck.
    pub(super) fn replaced(&mut self, now: UnixTime, rungs: Vec<SignedRung>) -> Vec<Effect> {
        let Some(kept) = &mut self.kept else {
            return Vec::new();
        };
        kept.close();
        kept.unfinished = false;
        kept.tried_at = None;
        kept.refused = false;
        let round = kept.state.round;
        let mut signals = self.signed.iter_mut();
        let Some(signal) = signals.find(|signal| signal.round == round) else {
            return Vec::new();
        };
        let before = signal.txids();
        signal.add(rungs);
        self.deposits.announced_also_by(&before, &signal.txids());
        self.climb(now, round)
    }

    /// Ends the open replacement without a signature and tells everybody why. The signal stays what it was.
    pub(super) fn fail_replacement(&mut self, why: RoundCause) -> Vec<Effect> {
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.is_open()) else {
            return Vec::new();
        };
        kept.close();
        let round = kept.state.round;
        vec![
            Effect::Send {
                to: To::Channel,
                message: Message::RoundFailed(RoundFailed {
                    round,
                    why: why.clone(),
                    blamed: std::mem::take(&mut kept.state.blamed),
                }),
            },
            Effect::Report(Report::ReplacementFailed { round, why }),
        ]
    }

    /// What the chain says decides whether a replacement goes on, and whether there may ever be another one.
    pub(super) fn replacement_after_chain(&mut self) -> Vec<Effect> {
        let Some(round) = self.kept.as_ref().map(|kept| kept.state.round) else {
            return Vec::new();
        };
        let signal = self.signed.iter().find(|signal| signal.round == round);
        let goes_on = signal.is_some_and(|signal| self.may_replace(signal));
        let depth = u32::from(self.terms.depth);
        let settled = signal.is_none_or(|signal| {
            let height = signal.confirmed_at();
            height.is_some_and(|height| self.chain.confirmations(height) >= depth)
                || self.is_dead(signal, depth)
        });
        let effects = if goes_on {
            Vec::new()
        } else {
            self.fail_replacement(RoundCause::TipMoved)
        };
        if settled {
            self.kept = None;
        }
        effects
    }
}
