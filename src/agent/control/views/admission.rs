//! Who wants a seat, and what was handed out.

use serde::{Deserialize, Serialize};

use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::protocol::admission::Admission;
use crate::time::UnixTime;

/// Answer of `cohort applicants`, `cohort approve` and `cohort reject`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicantsView {
    /// When this was so.
    pub now: UnixTime,
    /// The cohort.
    pub cohort: CohortId,
    /// What its terms ask for.
    pub admission: Admission,
    /// Until when seats are given.
    pub until: UnixTime,
    /// Seats taken.
    pub seats_taken: u16,
    /// The most there can be.
    pub seats: u16,
    /// Who waits for a decision, in the order of asking.
    pub waiting: Vec<ApplicantView>,
    /// The most that can wait.
    pub waiting_max: u16,
    /// What was decided by this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<String>,
}

/// An opt-in that waits for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicantView {
    /// Who asks: the key of the seat.
    pub key: NostrKey,
    /// When.
    pub asked_at: UnixTime,
    /// The proof of work it shows, in bits.
    pub work_bits: u8,
}

/// Answer of `cohort code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodesView {
    /// The cohort.
    pub cohort: CohortId,
    /// The share link, to hand on with the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub naddr: Option<String>,
    /// The new code, shown this once: only its public key is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// All codes of the cohort.
    pub codes: Vec<CodeView>,
}

/// A code, by its public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeView {
    /// Its public key in this cohort.
    pub key: NostrKey,
    /// How many seats it is good for.
    pub uses: u16,
    /// Who entered with it.
    pub used_by: Vec<NostrKey>,
}
