//! The DIDs of this agent: what is stored of them, and the words for their states.
//!
//! | file | what happens to a DID |
//! |---|---|
//! | `creating` | it is made |
//! | `held_keys` | its keys are derived |
//! | `registering` | a cohort covers it, up to where its document may list the beacon |
//! | `fresh` | it is resolved, before it is updated |
//! | `changes` | what its controller asks for becomes a patch |
//! | `routing` | a beacon of its document is chosen |
//! | `updating` | the update is signed and queued |
//! | `depositing` | the aggregator is shown it, and says what it thinks |
//! | `standing`, `settling` | updates and document follow the chain, forwards and back |
//! | `leaving` | it leaves a cohort |

use bitcoin::Address;

pub use super::changes::{Change, NewBeacon};
pub use super::depositing::Disclosure;
use super::error::AgentError;
use super::node::{Machine, NodeId};
pub use super::routing::{Route, Via};
use super::runtime::Agent;
pub use super::standing::Standing;
pub use super::updating::{ProposedUpdate, QueuedUpdate};
use crate::did::{BeaconKind, Did, Document};
use crate::hash::CohortId;
use crate::keys::OwnKey;
use crate::network::Network;
use crate::protocol::effect::{Ignored, Outcome};
use crate::protocol::ids::Round;
use crate::protocol::terms::CohortBeacon;
use crate::store::{ArtifactKind, DidRow};

/// States of a DID, as they are stored.
pub mod did_state {
    /// Registered; its history is not complete, so it must not be used yet.
    pub const REGISTERING: &str = "registering";
    /// It may be used.
    pub const ACTIVE: &str = "active";
    /// An update deactivated it.
    pub const DEACTIVATED: &str = "deactivated";
}

/// States of an update, as they are stored.
pub mod update_state {
    /// It waits for a round.
    pub const QUEUED: &str = "queued";
    /// A signature over a signal that announces it was given.
    pub const SIGNED: &str = "signed";
    /// Its signal is on the chain.
    pub const CONFIRMED: &str = "confirmed";
    /// Its signal has the confirmations that the next update waits for.
    pub const FINAL: &str = "final";
    /// The aggregator refused it when it was deposited: nothing announces it.
    pub const REFUSED: &str = "refused";
    /// Its version is another update, which was announced elsewhere.
    pub const SUPERSEDED: &str = "superseded";

    /// Whether an update in this state counts for the document.
    #[must_use]
    pub fn is_on_chain(state: &str) -> bool {
        matches!(state, CONFIRMED | FINAL)
    }
}

/// States of the binding of a DID to a cohort's beacon, as they are stored.
pub mod binding_state {
    /// The registration was sent.
    pub const REQUESTED: &str = "requested";
    /// It was acknowledged.
    pub const COVERED: &str = "covered";
    /// Its history is complete: a document may list the beacon.
    pub const MAY_BIND: &str = "may_bind";
    /// An update that lists the beacon was signed and is not on the chain yet.
    pub const PENDING: &str = "pending";
    /// The document lists the beacon.
    pub const BOUND: &str = "bound";
    /// An earlier document listed the beacon: its signals still have to be explained.
    pub const FORMER: &str = "former";
}

impl Agent {
    /// Verified proofs and announcements kept for this agent's DIDs in a cohort: an SMT proof per DID and
    /// signal, a CAS announcement per signal.
    pub fn proofs_kept(&self, cohort: CohortId) -> Result<usize, AgentError> {
        let artifacts = self.store.view().artifacts_of_cohort(cohort, Round(0))?;
        let is_proof =
            |kind| matches!(kind, ArtifactKind::SmtProof | ArtifactKind::CasAnnouncement);
        Ok(artifacts
            .iter()
            .filter(|kept| is_proof(kept.key.kind))
            .count())
    }

    /// Network, beacon type and address of a cohort whose set is frozen.
    pub(super) fn beacon_of(
        &self,
        id: NodeId,
    ) -> Result<(Network, CohortBeacon, Address), AgentError> {
        let node = self.nodes.get(&id).ok_or(AgentError::UnknownCohort(id.0))?;
        let active = matches!(&node.machine, Machine::Participant(machine)
            if *machine.phase() == crate::protocol::participant::MemberPhase::Active);
        let address = node.address().filter(|_| active).ok_or_else(|| {
            AgentError::Refused(
                "the cohort's set is not frozen: nobody can bind a DID to its beacon yet".into(),
            )
        })?;
        Ok((node.terms().network, node.terms().beacon, address))
    }

    /// The stored row of a DID this agent controls.
    pub(super) fn did_row(&self, did: &Did) -> Result<DidRow, AgentError> {
        self.store
            .view()
            .did(did.as_str())?
            .ok_or_else(|| AgentError::UnknownDid(did.to_string()))
    }

    /// The first key of a DID, which registrations are signed with: that of its initial document.
    pub(super) fn initial_key(&self, row: &DidRow) -> Result<OwnKey, AgentError> {
        let number = row.key_index.ok_or_else(|| {
            AgentError::Refused(format!("the key of {} is not this agent's", row.did))
        })?;
        self.derive_did_key(row.network, number)
    }
}

/// The kind of beacon service that a cohort of this type is listed as.
pub(super) const fn beacon_kind(beacon: CohortBeacon) -> BeaconKind {
    match beacon {
        CohortBeacon::Smt => BeaconKind::Smt,
        CohortBeacon::Cas => BeaconKind::Cas,
    }
}

/// Canonical JSON as text.
pub(super) fn text(bytes: &[u8]) -> Result<String, AgentError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| AgentError::Defect("canonical JSON is not UTF-8"))
}

/// A stored document.
pub(super) fn parse_document(text: &str) -> Result<Document, AgentError> {
    Document::parse(text).map_err(|error| AgentError::Did {
        code: error.code(),
        reason: error.to_string(),
    })
}

/// Turns an ignored command into an error its user sees.
pub(super) fn refused(outcome: Outcome) -> Result<(), AgentError> {
    match outcome {
        Outcome::Accepted | Outcome::Blamed(_) => Ok(()),
        Outcome::Ignored(Ignored::Contradiction(text)) => Err(AgentError::Refused(text)),
        Outcome::Ignored(Ignored::Duplicate) => Ok(()),
        Outcome::Ignored(reason) => Err(AgentError::Refused(format!(
            "not possible now: {}",
            serde_json::to_string(&reason).unwrap_or_default()
        ))),
    }
}
