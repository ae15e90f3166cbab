//! What the operations on who is seated take.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::request::{CohortRef, KeyRef};
use super::views::FeeRate;
use crate::protocol::Seat;

/// The text of an invite code on its way to the agent: a secret, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeText(pub String);

impl fmt::Debug for CodeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeText(..)")
    }
}

/// Arguments of `cohort approve` and `cohort reject`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecideSeat {
    /// The cohort.
    pub cohort: CohortRef,
    /// Who asks, or may.
    pub key: KeyRef,
    /// Whether it gets a seat.
    pub approve: bool,
    /// Words for it, if not.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Arguments of `cohort code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Codes {
    /// The cohort.
    pub cohort: CohortRef,
    /// Makes a code for so many seats; `None` makes none.
    #[serde(default)]
    pub uses: Option<u16>,
}

/// Arguments of `cohort reform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReformCohort {
    /// The cohort that stalls.
    pub cohort: CohortRef,
    /// The seats to go on without.
    pub without: Vec<Seat>,
    /// Words for the members.
    #[serde(default)]
    pub reason: Option<String>,
    /// Seconds from now until which the others can join; `None` is the setting.
    #[serde(default)]
    pub opt_in_s: Option<u64>,
}

/// Arguments of `cohort migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// The new cohort.
    pub cohort: CohortRef,
    /// Only say what would be done.
    #[serde(default)]
    pub plan: bool,
    /// The fee rate of the announcements.
    #[serde(default)]
    pub fee_rate: Option<FeeRate>,
}
