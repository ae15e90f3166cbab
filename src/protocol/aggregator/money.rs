//! What happens when money is stopped (DESIGN §6, rule 11).
//!
//! An aggregator that may not spend must not collect signatures either: the last of them completes a transaction that
//! every member could send. Whether money may move is the gate's to decide; the machine is told.

use super::{Aggregator, Step};
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
}
