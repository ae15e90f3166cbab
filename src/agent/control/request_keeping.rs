//! What the operations on proofs, sidecar data and the bundle take.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::request::DidRef;

/// Arguments of `did sidecar`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SidecarOf {
    /// The DID.
    pub did: DidRef,
}

/// Arguments of `did verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyDids {
    /// Which; `None` means all.
    pub did: Option<DidRef>,
    /// Ask aggregators for what is missing, and wait for it.
    pub fetch: bool,
    /// Seconds to wait for them; `None` is 60.
    pub wait_s: Option<u64>,
}

/// Arguments of `key backup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// Where to put a copy of the bundle, as an absolute path.
    pub out: Option<PathBuf>,
}
