//! What the operations of `did publish` take.

use serde::{Deserialize, Serialize};

use super::request::DidRef;

/// Asks for a DID's artifacts of some kinds, as they can be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DidArtifacts {
    /// The DID.
    pub did: DidRef,
    /// Signed updates.
    pub updates: bool,
    /// Announcements of CAS beacons.
    pub announcements: bool,
    /// The genesis document.
    pub genesis: bool,
    /// The number of the first artifact to answer with, from 0: an answer holds only so many.
    #[serde(default)]
    pub from: u32,
}
