//! What the operations around refunds take.

use serde::{Deserialize, Serialize};

use super::request::CohortRef;

/// Arguments of `cohort recover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// The cohort.
    pub cohort: CohortRef,
    /// Only say what there is to recover, and when.
    #[serde(default)]
    pub look: bool,
}

/// Arguments of `cohort fund --psbt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FundPsbt {
    /// The cohort.
    pub cohort: CohortRef,
    /// The funding transaction, signed or not, as base64 of a PSBT (BIP-174).
    pub psbt: String,
    /// Seconds to wait for the members; `None` is as long as the terms give them.
    #[serde(default)]
    pub wait_s: Option<u64>,
    /// Send the transaction once it is safe to; it has to be signed.
    #[serde(default)]
    pub broadcast: bool,
}
