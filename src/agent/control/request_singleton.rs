//! What the operations on singleton announcements take.

use serde::{Deserialize, Serialize};

use super::request::{CohortRef, DidRef};
use super::views::FeeRate;

/// Arguments of `did announce`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnounceDid {
    /// The DID.
    pub did: DidRef,
    /// The beacon, by its service id; `None`: the first one of the document that can pay.
    #[serde(default)]
    pub service: Option<String>,
    /// The fee rate; `None`: the chain's estimate within the policy. For an update that is announced already, a rate
    /// replaces the transaction.
    #[serde(default)]
    pub fee_rate: Option<FeeRate>,
    /// Only say what it costs, or lacks: nothing is signed or stored.
    #[serde(default)]
    pub dry_run: bool,
}

/// Arguments of `did register --via singleton`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindDid {
    /// The DID.
    pub did: DidRef,
    /// The cohort whose beacon is added to its document.
    pub cohort: CohortRef,
    /// The singleton beacon that announces the update, by its service id.
    #[serde(default)]
    pub service: Option<String>,
    /// The fee rate.
    #[serde(default)]
    pub fee_rate: Option<FeeRate>,
    /// Only say how far it is, and what it costs, or lacks.
    #[serde(default)]
    pub dry_run: bool,
}
