//! What happens when money is stopped (DESIGN §6, rule 11).
//!
//! An aggregator that may not spend must not collect signatures either: the last of them completes a transaction that
//! every member could send. Whether money may move is the gate's to decide; the machine is told.

use bitcoin::{Amount, FeeRate, Weight};

use super::{Aggregator, Step};
use crate::beacon::signal::signed_weight;
use crate::protocol::message::RoundCause;

impl Aggregator {
    /// Whether the gate permits money on the cohort's network, as it was last told.
    #[must_use]
    pub const fn money_is_permitted(&self) -> bool {
        !self.money_stopped
    }

    /// Money was stopped, or is permitted again. A round that is open ends: what members signed in it stays a signal
    /// that may confirm for each of them (rule 4), and nobody adds the signatures up.
    pub(super) fn money(&mut self, permitted: bool) -> Step {
        self.money_stopped = !permitted;
        if permitted || self.round_in_session().is_none() {
            return Step::accepted();
        }
        Step::with(self.fail_round(RoundCause::Operator))
    }

    /// The highest fee of one transaction that the gate permits, as it was last told.
    #[must_use]
    pub const fn max_fee(&self) -> Option<Amount> {
        self.max_fee
    }

    /// Whether a transaction with this fee may be sent. None is offered, and no signal moves on to one, that may not:
    /// every member could send what it gets.
    pub(super) fn may_pay(&self, fee: Amount) -> bool {
        self.max_fee.is_none_or(|most| fee <= most)
    }

    /// The highest rate for a transaction of this weight, by the terms and by the gate.
    pub(super) fn ceiling_for(&self, weight: Weight) -> FeeRate {
        let of_gate = self.max_fee.map_or(FeeRate::MAX, |most| {
            let per_kwu = most.to_sat().saturating_mul(1_000);
            FeeRate::from_sat_per_kwu(per_kwu.checked_div(weight.to_wu()).unwrap_or(0))
        });
        self.fee_ceiling().min(of_gate)
    }

    /// What the cheapest signal costs, if the gate permits not even that.
    pub(super) fn dearer_than_allowed(&self) -> Option<(Amount, Amount)> {
        let most = self.max_fee?;
        let least = FeeRate::BROADCAST_MIN.fee_wu(signed_weight(1, true))?;
        (least > most).then_some((least, most))
    }
}
