//! Going on without seats: the offer that a stalled cohort's aggregator makes to the others.

use serde::{Deserialize, Serialize};

use super::evidence::Blame;
use super::ids::Seat;
use super::terms::Terms;
use crate::hash::CohortId;

/// Most characters of the operator's words.
pub const MAX_REASON: usize = 200;

/// A seat that is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The seat.
    pub seat: Seat,
    /// Rounds in a row that it did not answer. A statement, never evidence.
    pub missed: u16,
    /// What it sent that is evidence against it.
    pub blamed: Vec<Blame>,
}

/// A new cohort in the place of this one, without some seats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reform {
    /// Canonical terms of the new cohort.
    pub terms: String,
    /// Relays on which the aggregator listens: hints.
    pub relays: Vec<String>,
    /// Who is left out.
    pub without: Vec<LeftOut>,
    /// The operator's words for people, at most 200 characters; may be empty.
    pub reason: String,
}

/// An offer that was made or came, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The new cohort.
    pub cohort: CohortId,
    /// Its terms.
    pub terms: Terms,
    /// Relays on which the aggregator listens: hints.
    pub relays: Vec<String>,
    /// Who is left out, and for each piece of evidence whether it verified here.
    pub without: Vec<(LeftOut, Vec<bool>)>,
    /// The operator's words.
    pub reason: String,
}

impl Offer {
    /// Whether this seat is left out.
    #[must_use]
    pub fn leaves_out(&self, seat: Seat) -> bool {
        self.without.iter().any(|(left, _)| left.seat == seat)
    }

    /// The seats that are left out.
    #[must_use]
    pub fn seats(&self) -> Vec<Seat> {
        self.without.iter().map(|(left, _)| left.seat).collect()
    }
}
