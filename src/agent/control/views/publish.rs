//! Artifacts on their way to content-addressed storage.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishedKind {
    /// The genesis document of an x1 DID.
    GenesisDocument,
    /// A signed update.
    Update,
    /// The announcement of a CAS beacon.
    Announcement,
}

impl fmt::Display for PublishedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GenesisDocument => "genesis document",
            Self::Update => "update",
            Self::Announcement => "announcement",
        })
    }
}

/// One artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidArtifactView {
    /// What it is.
    pub kind: PublishedKind,
    /// The version an update leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Its canonical form (RFC 8785): the bytes that are hashed.
    pub canonical: String,
}

/// Artifacts of a DID, or some of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidArtifactsView {
    /// The DID.
    pub did: String,
    /// Artifacts, in a fixed order.
    pub artifacts: Vec<DidArtifactView>,
    /// How many there are in all.
    pub count: u32,
    /// The number to ask from for more; absent if these are the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
    /// SMT proofs of the DID, which can not be published.
    pub proofs: u32,
    /// Artifacts a resolver needs and that this agent does not have.
    pub missing: u32,
}
