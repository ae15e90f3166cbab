//! Replacement sessions, as a member lives them: the signal it signed last is stuck, and it is asked to sign it again
//! at a higher fee.
//!
//! What it spends and says was approved once, when the own chain still showed the tip unspent; a replacement must spend
//! and say exactly that. So nothing new can be announced by it, and at most one of all these transactions confirms
//! (DESIGN §6 rule 4). What is new is the fee: above every one this member signed, within its own limits and the terms'.

use super::checks::Verdict;
use super::coverage::BindingState;
use super::round::MyRound;
use super::{GivenPartial, Participant};
use crate::hash::SignalBytes;
use crate::protocol::chain_view::TipView;
use crate::protocol::effect::{Effect, Report};
use crate::protocol::ids::Round;
use crate::protocol::ladder::{Ground, Ladder};
use crate::protocol::message::{RoundCause, SignRequest};
use bitcoin::{Amount, Txid};

/// The round that has a session now, or may get one: the open one, or the one that was signed last.
pub(super) fn in_session<'a>(
    round: &'a mut Option<MyRound>,
    kept: &'a mut Option<MyRound>,
) -> Option<&'a mut MyRound> {
    round.as_mut().or(kept.as_mut())
}

impl Participant {
    /// The same, to look at.
    pub(super) fn round_in_session(&self) -> Option<&MyRound> {
        self.round.as_ref().or(self.kept.as_ref())
    }

    /// Whether what is signed now would replace a signal that was signed by all.
    pub(super) const fn is_replacing(&self) -> bool {
        self.round.is_none()
    }

    /// The result of a round came: what a replacement of it needs is kept.
    pub(super) fn keep_round(&mut self, round: Round, txid: &Txid) {
        let is_of = |state: &MyRound| {
            let approved = state.approved.as_ref();
            state.round == round
                && approved.is_some_and(|approved| approved.ladder.txids().contains(txid))
        };
        if self.round.as_ref().is_some_and(is_of) {
            self.kept = self.round.take();
        }
        if let Some(kept) = self.kept.as_mut().filter(|kept| is_of(kept)) {
            kept.settled = true;
            kept.request = None;
        }
    }

    /// Forgets the round that was signed last once its signal needs no replacement any more: it has the confirmations
    /// that the terms ask for, or can never confirm.
    pub(super) fn forget_kept(&mut self) {
        let Some(kept) = &self.kept else { return };
        let depth = u32::from(self.terms.depth);
        let of_round = || self.given_in(kept.round);
        let deep = |given: &GivenPartial| {
            let confirmed = given.confirmed;
            confirmed.is_some_and(|height| self.chain.confirmations(height) >= depth)
        };
        let txids: Vec<Txid> = of_round().map(|given| given.txid).collect();
        let dead = of_round().any(|given| self.chain.are_dead(&txids, &given.input, depth));
        let dead = dead
            || of_round().next().is_some() && of_round().all(|given| self.is_dead(given, depth));
        if dead || of_round().any(deep) {
            self.kept = None;
        }
    }

    fn given_in(&self, round: Round) -> impl Iterator<Item = &GivenPartial> {
        self.given.iter().filter(move |given| given.round == round)
    }

    /// The place in its round of the first transaction that is signed now, less one.
    pub(super) fn rungs_before(&self, round: Round) -> u8 {
        if !self.is_replacing() {
            return 0;
        }
        let rungs = self.given_in(round).map(|given| given.rung);
        rungs.max().unwrap_or(0)
    }

    /// The checks of a replacement's transactions, beside those that every session gets.
    pub(super) fn check_replacement(
        &self,
        state: &MyRound,
        request: &SignRequest,
    ) -> Result<Ladder, Verdict> {
        let never = |text: &str| Verdict::Never(text.to_owned());
        let approved = state.approved.as_ref().map(|approved| &approved.ladder);
        let Some((approved, tip)) =
            approved.and_then(|ladder| Some((ladder, ladder.inputs.first()?)))
        else {
            return Err(never("I signed nothing in this round"));
        };
        if state.round.0 != self.last_round {
            return Err(never("a later round was opened"));
        }
        if request.attempt > u32::from(self.terms.sessions_max) {
            return Err(never("the sessions of this round are used up"));
        }
        let settled = approved.inputs.iter().any(|input| {
            let spend = self.chain.spends.get(&input.outpoint);
            spend.is_some_and(|spend| spend.height.is_some())
        });
        if settled {
            return Err(never("what it spends is spent by a confirmed transaction"));
        }
        // The signal is in the mempool, or was dropped from it.
        let waits = match self.chain.tip {
            TipView::Ready { outpoint, .. } => outpoint == tip.outpoint,
            TipView::InFlight { by } => self.given_in(state.round).any(|given| given.txid == by),
            TipView::NoFunds | TipView::Unconfirmed { .. } => false,
        };
        if !waits {
            let text = "my chain does not show the tip of this round as the tip";
            return Err(Verdict::Wait(text.into()));
        }
        let further = approved.inputs.get(1..).unwrap_or_default();
        let payees = self.refund_scripts();
        let ground = Ground {
            script: &self.script,
            lock_blocks: self.terms.refund_blocks,
            payees: &payees,
        };
        let (most, limits) = (self.terms.rungs(), self.limits());
        let ladder = Ladder::check(&request.rungs, most, tip, further, &ground, &limits)
            .map_err(|fault| Verdict::Never(fault.to_string()))?;
        if ladder.inputs != approved.inputs {
            return Err(never(
                "a replacement must spend what the signal spends, in its order",
            ));
        }
        if ladder.signal != approved.signal {
            return Err(never(
                "a replacement must announce what the signal announces",
            ));
        }
        self.check_higher(state, &ladder)?;
        Ok(ladder)
    }

    /// Every rung pays more than all that this member signed in the round. A session that was lost signs the same again.
    fn check_higher(&self, state: &MyRound, ladder: &Ladder) -> Result<(), Verdict> {
        let approved = state.approved.as_ref().filter(|_| !state.settled);
        if approved.is_some_and(|approved| approved.ladder.txids() == ladder.txids()) {
            return Ok(());
        }
        let fees = self.given_in(state.round).map(|given| given.fee);
        let highest = fees.max().unwrap_or(Amount::ZERO);
        // They ascend.
        let lowest = ladder.rungs.first().map_or(Amount::ZERO, |rung| rung.fee);
        if lowest <= highest {
            return Err(Verdict::Never(format!(
                "the replacement pays {lowest}, no more than the {highest} that I signed"
            )));
        }
        Ok(())
    }

    /// Rule 13 for bytes that were signed before: every DID that lists the beacon can explain them.
    pub(super) fn check_explained(&self, signal: &SignalBytes) -> Result<(), Verdict> {
        let mut bound = self.indexes.iter();
        let bare = bound
            .find(|(_, mine)| mine.binding == BindingState::Bound && !mine.proved.contains(signal));
        match bare {
            None => Ok(()),
            Some((index, _)) => Err(Verdict::Wait(format!(
                "the proof of this signal is missing for index {index}"
            ))),
        }
    }

    /// The aggregator says that a replacement failed; `None` when there is none.
    pub(super) fn replacement_failed(&mut self, round: Round, why: RoundCause) -> Option<Effect> {
        if self.fallback_replacement_failed(round) {
            return Some(Effect::Report(Report::ReplacementFailed { round, why }));
        }
        let kept = self.kept.as_mut().filter(|kept| kept.round == round)?;
        let last_sent = kept.sent.keys().next_back().copied().unwrap_or(0);
        let asked = kept.request.take().is_some() || kept.offered > last_sent || !kept.settled;
        asked.then_some(Effect::Report(Report::ReplacementFailed { round, why }))
    }
}
