//! What of a DID can be published to content-addressed storage (spec.md §2.9).
//!
//! It is taken from what a resolver would be handed ([`Agent::sidecar_of`]), so that everything was
//! verified, nothing is published that was not announced or signed for, and the address of each object
//! is the one a resolver computes.

use super::error::AgentError;
use super::runtime::Agent;
use crate::did::Did;
use crate::did::json::canonicalize;
use crate::resolver::CasKind;

/// Which kinds of artifacts to publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Selection {
    /// Signed updates.
    pub updates: bool,
    /// Announcements of the CAS beacons.
    pub announcements: bool,
    /// The genesis document of an x1 DID.
    pub genesis: bool,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// What it is.
    pub kind: CasKind,
    /// The version an update leads to.
    pub version: Option<u64>,
    /// Its canonical form (RFC 8785), whose hash is its address.
    pub canonical: String,
}

/// What of a DID can be published, and what can not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publishable {
    /// The objects: the genesis document, updates by version, announcements by hash.
    pub objects: Vec<Publication>,
    /// SMT proofs, which resolvers take from sidecar data only.
    pub proofs: usize,
    /// Artifacts that a resolver needs and that are not stored.
    pub missing: usize,
}

impl Agent {
    /// What of a DID of this agent can be published, of the selected kinds.
    ///
    /// An update that only waits for a round is left out: it may still change, and what is published
    /// can not be taken back.
    ///
    /// # Errors
    /// [`AgentError::UnknownDid`] if it is not this agent's; [`AgentError::Store`].
    pub fn publishable(&self, did: &Did, selection: Selection) -> Result<Publishable, AgentError> {
        let (sidecar, missing) = self.sidecar_of(did)?;
        let mut objects = Vec::new();
        if let Some(genesis) = sidecar.genesis().filter(|_| selection.genesis) {
            objects.push(object(CasKind::GenesisDocument, None, genesis)?);
        }
        if selection.updates {
            let mut updates = Vec::new();
            for (_, update) in sidecar.updates() {
                let version = update
                    .get("targetVersionId")
                    .and_then(serde_json::Value::as_u64);
                updates.push(object(CasKind::Update, version, update)?);
            }
            updates.sort_by_key(|update| update.version);
            objects.append(&mut updates);
        }
        if selection.announcements {
            for (_, announcement) in sidecar.announcements() {
                objects.push(object(CasKind::Announcement, None, announcement)?);
            }
        }
        Ok(Publishable {
            objects,
            proofs: sidecar.proofs().count(),
            missing: missing.len(),
        })
    }
}

fn object(
    kind: CasKind,
    version: Option<u64>,
    value: &serde_json::Value,
) -> Result<Publication, AgentError> {
    let canonical = canonicalize(value)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(AgentError::Defect(
            "a stored artifact has no canonical form",
        ))?;
    Ok(Publication {
        kind,
        version,
        canonical,
    })
}
