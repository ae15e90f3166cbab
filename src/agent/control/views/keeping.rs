//! What is kept of DIDs, and whether it is enough.

use serde::{Deserialize, Serialize};

use crate::agent::bundle::BundleState;
use crate::agent::recovery::Lack;
use crate::agent::sidecar::{KeptBeacon, MissingArtifact};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::time::UnixTime;

/// Answer of `did sidecar`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SidecarView {
    /// The DID.
    pub did: String,
    /// Whether a resolver finds everything it will ask for.
    pub complete: bool,
    /// The sidecar data (spec.md §2.7).
    pub sidecar: serde_json::Value,
    /// Every beacon that counts.
    pub beacons: Vec<KeptBeacon>,
    /// What is not there.
    pub missing: Vec<MissingArtifact>,
}

/// Answer of `did verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyView {
    /// The DIDs.
    pub dids: Vec<DidCheckView>,
    /// Aggregators that were asked for what was missing; absent if none was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<usize>,
}

impl VerifyView {
    /// Whether nothing is missing, at risk or unresolvable.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.dids.iter().all(DidCheckView::is_healthy)
    }
}

/// One DID, compared with the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidCheckView {
    /// The DID.
    pub did: String,
    /// The version stored here.
    pub version: u64,
    /// Every beacon that counts.
    pub beacons: Vec<KeptBeacon>,
    /// What a resolver will ask for and is not here.
    pub missing: Vec<MissingArtifact>,
    /// What else endangers it.
    pub risks: Vec<RiskView>,
    /// What came out of resolving it with what is stored.
    pub resolution: ResolutionCheckView,
}

impl DidCheckView {
    /// Whether nothing is missing or at risk, and it resolves to the version stored here.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.missing.is_empty()
            && self.risks.is_empty()
            && self.resolution.version == Some(self.version)
    }
}

/// Something that endangers a DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskView {
    /// A stable name: `no_seat`, `not_covered`, `unknown_spend`.
    pub code: String,
    /// One sentence.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// What came out of a resolution with every signal counted that is in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolutionCheckView {
    /// The version; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Confirmations of its last update.
    pub confirmations: u32,
    /// Whether it is deactivated.
    pub deactivated: bool,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answer of `key backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// The bundle in the home.
    pub file: String,
    /// The copy, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// What is in it.
    #[serde(flatten)]
    pub state: BundleState,
}

/// Answer of `recover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverView {
    /// The home.
    pub home: String,
    /// The agent.
    pub identity: NostrKey,
    /// The network of new cohorts and DIDs.
    pub network: Network,
    /// When the bundle was last written; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_at: Option<UnixTime>,
    /// Bytes at the bundle's end that were not whole and are lost.
    pub lost_bytes: u64,
    /// The store's new incarnation.
    pub inc: u64,
    /// The DIDs that came back, and those of which something is lacking.
    pub dids: Vec<RecoveredDidView>,
    /// The cohorts that came back.
    pub cohorts: Vec<RecoveredCohortView>,
    /// Why the chain was not asked for DIDs, if it was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_scanned: Option<String>,
}

/// A DID that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredDidView {
    /// The DID.
    pub did: String,
    /// Its version, as far as it is known.
    pub version: u64,
    /// What the words alone could not restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<Lack>,
}

/// A cohort that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredCohortView {
    /// The cohort.
    pub cohort: CohortId,
    /// `aggregator` or `participant`.
    pub role: String,
    /// Whether it goes on.
    pub resumes: bool,
}
