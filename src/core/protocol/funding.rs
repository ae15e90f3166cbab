//! What lies at a beacon address, what it pays for, and what has to be paid to it (DESIGN §6 rule 4).
//!
//! Everything here is a function of the address' history and a fee rate. What a signal will spend comes from
//! [`spend_plan`], which the aggregator builds with: what is asked for is what will be accepted.
//!
//! [`FundingWatch`] follows every payment: seen, confirmed, spent; short while it is too small to be used; lapsed when
//! it is gone again, because something else spent its inputs or nodes forgot it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bitcoin::{Amount, FeeRate, OutPoint};

use crate::beacon::history::{AddressHistory, Changes, Tip};
use crate::beacon::signal::{
    BeaconOutput, DUST_LIMIT, MAX_INPUTS, SignalError, SpendPlan, WEIGHT_OF_INPUT,
    WEIGHT_WITH_CHANGE, WEIGHT_WITHOUT_CHANGE, funding_needed, signed_weight, spend_plan,
};
use crate::protocol::chain_view::MAX_EXTRA;
use crate::protocol::terms::Terms;

/// Payments that are followed at one address: the first ones. Whoever pays dust a thousand times hides nothing.
const MAX_PAYMENTS: usize = 1_000;

/// Outputs beside the tip that a plan looks at: more than it can spend in a year of daily rounds are not asked about.
const MAX_FURTHER: usize = 1_000;

/// The rules by which outputs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FundingRules {
    /// The least output that starts a chain of signals: the fee of a signal at the terms' ceiling.
    pub min_start: Amount,
    /// Confirmations an output needs before it is spent.
    pub depth: u32,
    /// The fee rate of the signals.
    pub fee_rate: FeeRate,
}

/// The most that a signal of these terms can cost: all inputs there may be, at the ceiling, and change that is dust.
#[must_use]
pub fn dearest_signal(terms: &Terms) -> Amount {
    FeeRate::from_sat_per_vb_u32(terms.max_fee_rate)
        .fee_wu(signed_weight(MAX_INPUTS, true))
        .and_then(|fee| fee.checked_add(DUST_LIMIT))
        .unwrap_or(Amount::MAX_MONEY)
}

/// Where the funding of an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FundingState {
    /// Nothing was ever paid to it.
    Awaiting,
    /// A payment that starts, or continues, a chain of signals waits for confirmations.
    Seen,
    /// The next signal can be paid.
    Confirmed,
    /// What is there does not pay for a signal.
    Short,
    /// All that was paid is spent.
    Spent,
    /// What was seen is gone, and nothing else is there.
    Lapsed,
}

impl fmt::Display for FundingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Awaiting => "awaiting",
            Self::Seen => "seen",
            Self::Confirmed => "confirmed",
            Self::Short => "short",
            Self::Spent => "spent",
            Self::Lapsed => "lapsed",
        })
    }
}

/// What lies at a beacon address, and what it pays for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Funding {
    /// Where it stands.
    pub state: FundingState,
    /// Unspent and confirmed.
    pub confirmed: Amount,
    /// Unspent and in the mempool.
    pub unconfirmed: Amount,
    /// The part of both that no signal uses: too small to be worth its input.
    pub dust: Amount,
    /// The output that the next signal spends first, confirmed or not.
    pub tip: Option<BeaconOutput>,
    /// The next signal, as it would be built now; `None` if the tip is not there, or not deep enough, or short.
    pub next: Option<SpendPlan>,
    /// Signals that what is there pays for at this rate, one after the other, once it is confirmed.
    pub runway: u32,
    further: Vec<BeaconOutput>,
    rules: FundingRules,
}

/// What to pay so that a number of signals can be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What these signals need in all, beginning with nothing.
    pub needed: Amount,
    /// What is still to be paid, in one payment; zero if what is there is enough.
    pub send: Amount,
}

impl Funding {
    /// What the history of an address says, with `gone` for a payment that was seen and is not there any more.
    #[must_use]
    pub fn of(history: &AddressHistory, rules: FundingRules, gone: bool) -> Self {
        let unspent: Vec<BeaconOutput> = history.unspent().collect();
        let (mut tip, mut ready) = (None, false);
        match history.tip(rules.min_start, rules.depth) {
            Tip::NoFunds { .. } => {}
            Tip::Unconfirmed { output, .. } => tip = Some(output),
            Tip::Ready { output, .. } => {
                tip = Some(output);
                ready = true;
            }
            Tip::Pending { spent_by, .. } => {
                // What it pays back is what the next signal spends.
                tip = unspent
                    .iter()
                    .find(|output| output.outpoint.txid == spent_by)
                    .copied();
            }
        }
        let mut further: Vec<BeaconOutput> = unspent
            .iter()
            .filter(|output| tip.is_none_or(|tip| tip.outpoint != output.outpoint))
            .copied()
            .collect();
        further.sort_by_key(|output| (std::cmp::Reverse(output.value), output.outpoint));
        further.truncate(MAX_FURTHER);
        let sum = |confirmed: bool| {
            total(
                unspent
                    .iter()
                    .filter(|output| output.height.is_some() == confirmed),
            )
        };
        let next = tip.filter(|_| ready).and_then(|tip| {
            // As the machines see it: `ChainView::extra`, and of that what is deep enough.
            let mut deep = history.top_ups(&tip.outpoint, MAX_EXTRA);
            deep.retain(|output| history.confirmations(output.height) >= rules.depth.max(1));
            spend_plan(&tip, &deep, rules.fee_rate, MAX_INPUTS).ok()
        });
        let dust = total(
            further
                .iter()
                .filter(|output| !is_worth_it(output.value, rules.fee_rate)),
        );
        let runway = runway(tip, &further, rules.fee_rate);
        let state = if next.is_some() {
            FundingState::Confirmed
        } else if runway > 0 {
            FundingState::Seen
        } else if !unspent.is_empty() {
            FundingState::Short
        } else if gone {
            FundingState::Lapsed
        } else if history.was_paid() {
            FundingState::Spent
        } else {
            FundingState::Awaiting
        };
        Self {
            state,
            confirmed: sum(true),
            unconfirmed: sum(false),
            dust,
            tip,
            next,
            runway,
            further,
            rules,
        }
    }

    /// What to pay so that this number of signals can be paid, in one payment.
    ///
    /// A payment counts whole beside a tip. Without one it has to start a chain itself, so that it is at least
    /// [`FundingRules::min_start`].
    ///
    /// # Errors
    /// [`SignalError::FeeRate`]: the rate gives fees beyond all bitcoin.
    pub fn request(&self, rounds: u32) -> Result<Request, SignalError> {
        let least = self.least_payment()?;
        let needed = funding_needed(rounds, self.rules.fee_rate)?.max(self.rules.min_start);
        if self.runway >= rounds {
            return Ok(Request {
                needed,
                send: Amount::ZERO,
            });
        }
        // The least payment with which the runway is long enough: more never shortens it.
        let (mut low, mut high) = (least.to_sat(), needed.to_sat().max(least.to_sat()));
        // What is there may cost an input each beside what is paid.
        let inputs = u64::try_from(self.further.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        high = high.saturating_add(self.input_cost()?.to_sat().saturating_mul(inputs));
        while self.runway_with(Amount::from_sat(high)) < rounds {
            high = high.saturating_mul(2);
            if high > Amount::MAX_MONEY.to_sat() {
                return Err(SignalError::FeeRate(self.rules.fee_rate.to_sat_per_kwu()));
            }
        }
        while low < high {
            let middle = low.midpoint(high);
            if self.runway_with(Amount::from_sat(middle)) >= rounds {
                high = middle;
            } else {
                low = middle.saturating_add(1);
            }
        }
        Ok(Request {
            needed,
            send: Amount::from_sat(high),
        })
    }

    /// An equal share of what `rounds` signals need, when each of `members` pays one, beginning with nothing: whoever
    /// pays first starts the chain, and the others' shares are worth their inputs.
    ///
    /// # Errors
    /// [`SignalError::FeeRate`].
    pub fn share(&self, rounds: u32, members: u16) -> Result<Amount, SignalError> {
        let members = u64::from(members.max(1));
        let inputs = self
            .input_cost()?
            .checked_mul(members.saturating_sub(1))
            .unwrap_or(Amount::MAX_MONEY);
        let needed = funding_needed(rounds, self.rules.fee_rate)?
            .checked_add(inputs)
            .unwrap_or(Amount::MAX_MONEY);
        let share = Amount::from_sat(needed.to_sat().div_ceil(members));
        Ok(share.max(self.rules.min_start).max(self.worthwhile()?))
    }

    /// Signals paid for once one more payment of `value` is there.
    fn runway_with(&self, value: Amount) -> u32 {
        let paid = BeaconOutput {
            outpoint: OutPoint::null(),
            value,
            height: None,
        };
        let mut further = self.further.clone();
        match self.tip {
            None => runway(Some(paid), &further, self.rules.fee_rate),
            Some(tip) => {
                further.push(paid);
                runway(Some(tip), &further, self.rules.fee_rate)
            }
        }
    }

    fn least_payment(&self) -> Result<Amount, SignalError> {
        Ok(match self.tip {
            Some(_) => self.worthwhile()?,
            None => self.rules.min_start.max(DUST_LIMIT),
        })
    }

    /// The least output that a signal takes beside its tip, and that nodes relay.
    fn worthwhile(&self) -> Result<Amount, SignalError> {
        let twice = self.input_cost()?.checked_mul(2);
        Ok(twice.unwrap_or(Amount::MAX_MONEY).max(DUST_LIMIT))
    }

    fn input_cost(&self) -> Result<Amount, SignalError> {
        let rate = self.rules.fee_rate;
        rate.fee_wu(WEIGHT_OF_INPUT)
            .ok_or(SignalError::FeeRate(rate.to_sat_per_kwu()))
    }
}

/// Signals that a tip and further outputs pay for, one after the other: each is planned as it will be built, and its
/// change is the next one's tip.
fn runway(tip: Option<BeaconOutput>, further: &[BeaconOutput], fee_rate: FeeRate) -> u32 {
    let Some(mut tip) = tip else { return 0 };
    let mut further = further.to_vec();
    let mut rounds = 0_u32;
    loop {
        let Ok(plan) = spend_plan(&tip, &further, fee_rate, MAX_INPUTS) else {
            return rounds;
        };
        let Some(change) = plan.change else {
            // The chain ends; a further output that was not worth it does not start another.
            return rounds.saturating_add(1);
        };
        if plan.inputs.len() == 1 {
            // From here on nothing but the change is spent.
            return rounds.saturating_add(rounds_of_one(tip.value, fee_rate));
        }
        let spent = |output: &BeaconOutput| {
            plan.inputs
                .iter()
                .any(|input| input.outpoint == output.outpoint)
        };
        further.retain(|output| !spent(output));
        rounds = rounds.saturating_add(1);
        tip = BeaconOutput {
            outpoint: tip.outpoint,
            value: change,
            height: None,
        };
    }
}

/// Signals that one output pays for, each from the change of the one before.
fn rounds_of_one(value: Amount, fee_rate: FeeRate) -> u32 {
    let fee = |weight| {
        fee_rate
            .fee_wu(weight)
            .map_or(u64::MAX, Amount::to_sat)
            .max(1)
    };
    // The last one may leave nothing, and has to pay its fee.
    let (last, each) = (fee(WEIGHT_WITHOUT_CHANGE), fee(WEIGHT_WITH_CHANGE));
    let mut value = value.to_sat();
    // While there is change that is no dust, one more follows.
    let least = each.saturating_add(DUST_LIMIT.to_sat());
    let mut rounds = 0_u64;
    if value >= least {
        rounds = (value.saturating_sub(least) / each).saturating_add(1);
        value = value.saturating_sub(rounds.saturating_mul(each));
    }
    if value >= last {
        rounds = rounds.saturating_add(1);
    }
    u32::try_from(rounds).unwrap_or(u32::MAX)
}

fn is_worth_it(value: Amount, fee_rate: FeeRate) -> bool {
    fee_rate
        .fee_wu(WEIGHT_OF_INPUT)
        .is_some_and(|cost| cost.to_sat() <= value.to_sat() / 2)
}

fn total<'a>(outputs: impl Iterator<Item = &'a BeaconOutput>) -> Amount {
    outputs
        .map(|output| output.value)
        .try_fold(Amount::ZERO, Amount::checked_add)
        .unwrap_or(Amount::MAX_MONEY)
}

/// Follows every payment to an address from when it is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FundingWatch {
    payments: BTreeMap<OutPoint, Payment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Payment {
    value: Amount,
    state: PaymentState,
}

/// Where one payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentState {
    /// In the mempool.
    Seen,
    /// In a block.
    Confirmed,
    /// In a block, and too small to be used now.
    Short,
    /// Spent by a transaction in a block.
    Spent,
    /// Gone: something else spent what it spends, or nodes forgot it.
    Lapsed,
}

impl PaymentState {
    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Confirmed => "confirmed",
            Self::Short => "short",
            Self::Spent => "spent",
            Self::Lapsed => "lapsed",
        }
    }
}

/// A payment that moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentMoved {
    /// The output.
    pub outpoint: OutPoint,
    /// Its value.
    pub value: Amount,
    /// Where it stood; `None` for one that is seen for the first time.
    pub from: Option<PaymentState>,
    /// Where it stands.
    pub to: PaymentState,
}

impl FundingWatch {
    /// Takes the history of the address as it is now, of which its readings touched this since the last time, and says
    /// what moved, in the order of the outputs.
    ///
    /// What returns to the address as the change of a signal is no payment.
    pub fn observe(
        &mut self,
        history: &AddressHistory,
        touched: &Changes,
        rules: FundingRules,
    ) -> Vec<PaymentMoved> {
        let tip = match history.tip(rules.min_start, rules.depth) {
            Tip::Ready { output, .. } => Some(output.outpoint),
            _ => None,
        };
        let payment = |outpoint: &OutPoint| {
            let found = history.output(outpoint)?;
            if history.signal(&outpoint.txid).is_some() {
                return None;
            }
            let BeaconOutput { value, height, .. } = found.output;
            let usable = value >= rules.min_start
                || tip == Some(*outpoint)
                || (tip.is_some() && is_worth_it(value, rules.fee_rate));
            let state = match (found.spent_by, height) {
                (Some((_, Some(_))), _) => PaymentState::Spent,
                (_, None) => PaymentState::Seen,
                (_, Some(_)) if usable => PaymentState::Confirmed,
                (_, Some(_)) => PaymentState::Short,
            };
            Some(Payment { value, state })
        };
        let mut moved = Vec::new();
        for (outpoint, known) in &mut self.payments {
            let to = payment(outpoint).map_or(
                // What was spent, and is not listed any more, was reorganised away with its spender.
                PaymentState::Lapsed,
                |payment| payment.state,
            );
            if to != known.state {
                moved.push(PaymentMoved {
                    outpoint: *outpoint,
                    value: known.value,
                    from: Some(known.state),
                    to,
                });
                known.state = to;
            }
        }
        let all = || {
            history
                .outputs()
                .into_iter()
                .map(|seen| seen.output.outpoint)
        };
        let touched: BTreeSet<OutPoint> = match touched {
            Changes::All => all().collect(),
            Changes::Of(_, outpoints) => outpoints.clone(),
        };
        for outpoint in touched {
            if self.payments.len() >= MAX_PAYMENTS {
                break;
            }
            if self.payments.contains_key(&outpoint) {
                continue;
            }
            let Some(payment) = payment(&outpoint) else {
                continue;
            };
            self.payments.insert(outpoint, payment);
            moved.push(PaymentMoved {
                outpoint,
                value: payment.value,
                from: None,
                to: payment.state,
            });
        }
        moved
    }

    /// Whether a payment was seen and is gone.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.payments
            .values()
            .any(|payment| payment.state == PaymentState::Lapsed)
    }
}

#[cfg(test)]
mod tests;
