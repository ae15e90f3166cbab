//! A signal through the leaf that is stuck: the same is asked for again, at a higher fee.

use bitcoin::{Amount, OutPoint, Txid};

use super::super::Participant;
use super::super::checks::Verdict;
use super::{MyFallback, Stage};
use crate::beacon::signal::BeaconOutput;
use crate::protocol::chain_view::TipView;
use crate::protocol::effect::{Effect, Ignored, Report, Step};
use crate::protocol::ids::Round;
use crate::time::UnixTime;

impl Participant {
    /// The signal of a round that is signed through the leaf is asked for at another fee. What it announces was read and
    /// kept with the first, and has to be the same; so has what it spends.
    pub(super) fn further_fallback(&mut self, now: UnixTime, mut further: MyFallback) -> Step {
        let round = further.round;
        let Some(first) = self.fallbacks.of(round).next() else {
            return Step::ignored(Ignored::WrongRound);
        };
        if further.signal != first.signal {
            return Self::contradiction("a second fallback for the same round, with other bytes");
        }
        let spends = |fallback: &MyFallback| -> Vec<OutPoint> {
            let inputs = fallback.inputs.iter();
            inputs.map(|input| input.outpoint).collect()
        };
        if spends(&further) != spends(first) {
            return Self::contradiction(
                "a second fallback for the same round, which spends something else",
            );
        }
        let count = self.fallbacks.of(round).count();
        if count > usize::from(self.terms.sessions_max) {
            return Self::contradiction("more fallbacks for the same round than the terms allow");
        }
        further.objection.clone_from(&first.objection);
        // What was signed once was looked up in the own chain, which does not show it as unspent any more.
        let signed = self.fallbacks.of(round).find(|known| known.is_signed());
        if let Some(signed) = signed {
            further.inputs.clone_from(&signed.inputs);
        }
        let fee = further.fee();
        let highest = self.fallbacks.of(round).map(MyFallback::fee).max();
        if highest.is_some_and(|highest| fee <= highest) {
            // Mail comes in any order: it was replaced already. It may confirm all the same.
            further.stage = Stage::Over;
        } else {
            let before = self.fallbacks.known.iter_mut();
            for before in before.filter(|before| before.round == round) {
                if before.stage == Stage::Waiting {
                    before.stage = Stage::Over;
                }
            }
        }
        let report = Report::ReplacementOpened {
            round,
            attempt: u32::try_from(count).unwrap_or(u32::MAX),
            fee_sat: fee.to_sat(),
        };
        self.remember(now, further, vec![Effect::Report(report)])
    }

    /// What is checked of a fallback beside what is checked of each: it takes the place of one that is signed by enough,
    /// and pays more than every one this member signed in the round.
    pub(super) fn check_further(&self, fallback: &MyFallback) -> Result<(), Verdict> {
        let round = fallback.round;
        let first = self.fallbacks.of(round).next();
        let is_further = first.is_some_and(|first| first.txid != fallback.txid);
        if is_further && !self.is_complete_otherwise(round, &fallback.txid) {
            let text = "the signal of this round that it would replace is not signed yet";
            return Err(Verdict::Wait(text.into()));
        }
        let signed = self.fallbacks.of(round).filter(|known| known.is_signed());
        if let Some(highest) = signed.map(MyFallback::fee).max()
            && fallback.fee() <= highest
        {
            return Err(Verdict::Never(format!(
                "the replacement pays {}, no more than the {highest} that I signed",
                fallback.fee()
            )));
        }
        Ok(())
    }

    /// The outputs of a fallback whose tip is spent already, by an unconfirmed one of the same round.
    pub(super) fn in_flight(
        &self,
        fallback: &MyFallback,
    ) -> Result<(BeaconOutput, Vec<BeaconOutput>), Verdict> {
        let spent_by = |input: &BeaconOutput, by: Txid| {
            let spend = self.chain.spends.get(&input.outpoint);
            spend.is_some_and(|spend| spend.by == by && spend.height.is_none())
        };
        let in_flight = match self.chain.tip {
            TipView::InFlight { by } => {
                let mut known = self.fallbacks.of(fallback.round);
                known.any(|known| known.txid == by)
                    && fallback.inputs.iter().all(|input| spent_by(input, by))
            }
            TipView::Ready { .. } | TipView::NoFunds | TipView::Unconfirmed { .. } => false,
        };
        match fallback.inputs.split_first() {
            Some((tip, further)) if in_flight => Ok((*tip, further.to_vec())),
            _ => Err(Verdict::Wait(
                "my chain shows no spendable tip with enough confirmations".into(),
            )),
        }
    }

    /// Whether another transaction that carries the round's signal came with all its signatures.
    pub(super) fn is_complete_otherwise(&self, round: Round, txid: &Txid) -> bool {
        let mut known = self.fallbacks.of(round);
        known.any(|known| known.txid != *txid && known.complete.is_some())
    }

    /// The round is over: nothing more is signed for it, but what would replace its signal.
    pub(in super::super) fn close_fallback(&mut self, round: Round) {
        let complete = self.fallbacks.of(round);
        let complete = complete.filter(|known| known.complete.is_some());
        let paid = complete.map(MyFallback::fee).max();
        self.close_fallbacks(round, |fee| paid.is_none_or(|paid| fee <= paid));
    }

    /// Signs none of those of a round any more that pay so.
    pub(super) fn close_fallbacks(&mut self, round: Round, pays: impl Fn(Amount) -> bool) -> bool {
        let mut closed = false;
        let known = self.fallbacks.known.iter_mut();
        for known in known.filter(|known| known.round == round) {
            let open = matches!(known.stage, Stage::Waiting | Stage::Signing);
            if open && pays(known.fee()) {
                known.stage = Stage::Over;
                closed = true;
            }
        }
        closed
    }

    /// The aggregator says that too few signed what would have replaced a signal through the leaf; false when nothing
    /// was asked for.
    pub(in super::super) fn fallback_replacement_failed(&mut self, round: Round) -> bool {
        let of_round = || self.fallbacks.of(round);
        if !of_round().any(|known| known.complete.is_some()) {
            return false;
        }
        let signed = of_round().any(|known| known.is_signed() && known.complete.is_none());
        self.close_fallbacks(round, |_| true) || signed
    }
}
