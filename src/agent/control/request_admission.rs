//! What the operations on who is seated take.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::request::{CohortRef, KeyRef};

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
