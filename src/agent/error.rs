//! What can go wrong in the runtime.

use crate::did::ErrorCode;
use crate::hash::CohortId;
use crate::nostr::RelayUrl;
use crate::protocol::money::MoneyRefused;
use crate::resolver::Failure;
use crate::store::StoreError;

/// Why a command was not carried out, or why the agent stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The store failed. What was not stored did not happen; the agent stops and resumes from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The encrypted bundle can not be kept.
    #[error(transparent)]
    Bundle(#[from] super::bundle::BundleError),
    /// The money gate is closed for this network.
    #[error(transparent)]
    Money(#[from] MoneyRefused),
    /// The log can not be read by this version.
    #[error("entry {seq} of the log can not be read: {reason}; was it written by a newer version?")]
    Log {
        /// Its number.
        seq: u64,
        /// Why not.
        reason: String,
    },
    /// The state of a cohort was written by a newer program.
    #[error(
        "the state of cohort {cohort} has format {found}, and this program knows formats up to {known}: use the newer \
         btcr2-agent that wrote it",
        known = crate::protocol::snapshot::FORMAT
    )]
    NewerSnapshot {
        /// The cohort.
        cohort: CohortId,
        /// The format.
        found: u32,
    },
    /// No snapshot of a cohort is intact, and the log they were taken of is gone.
    #[error(
        "the snapshots of cohort {0} are damaged, and the log before them is gone: restore the last backup"
    )]
    NoSnapshot(CohortId),
    /// No such cohort.
    #[error("this agent has no cohort {0}")]
    UnknownCohort(CohortId),
    /// No such DID.
    #[error("this agent does not control {0}")]
    UnknownDid(String),
    /// The request contradicts the state of things.
    #[error("{0}")]
    Refused(String),
    /// A DID, document or update is not valid.
    #[error("{code}: {reason}", code = code.as_str())]
    Did {
        /// The specification's code.
        code: ErrorCode,
        /// What is wrong.
        reason: String,
    },
    /// A DID of this agent does not resolve as things stand.
    #[error("{did} does not resolve now, so that no update of it may be made: {failure}")]
    Unresolvable {
        /// The DID.
        did: String,
        /// Why not, with the rule that was broken.
        failure: Failure,
    },
    /// The chain could not be asked.
    #[error("the chain could not be asked: {0}")]
    Lookup(String),
    /// The chain server could not be used.
    #[error(transparent)]
    Chain(#[from] crate::chain::ChainError),
    /// A singleton signal can not be paid, or its fee is not allowed.
    #[error(transparent)]
    Spend(#[from] crate::beacon::singleton::SpendError),
    /// There is no chain backend for the network.
    #[error("no chain backend is configured for {0}: set [chain.{0}] esplora in config.toml")]
    NoChain(crate::network::Network),
    /// A message can not be sent.
    #[error("a message can not be sent: {0}")]
    Send(String),
    /// A relay is not configured.
    #[error("{0} is not configured")]
    UnknownRelay(RelayUrl),
    /// A step of a cohort was not stored, so that memory is ahead of the disk.
    #[error("stopped, to go on from what is stored at the next start: {0}")]
    Broken(String),
    /// Another copy of this agent goes on with the same keys: this one stops, so that no DID is announced twice.
    #[error("{0}")]
    AnotherCopy(Box<super::copies::Sighting>),
    /// The agent has stopped.
    #[error("the agent has stopped")]
    Stopped,
    /// A defect of this program.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

impl AgentError {
    /// Whether the agent can not go on: what it has in memory is ahead of what is stored.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Store(_) | Self::Log { .. } | Self::Broken(_) | Self::AnotherCopy(_)
        )
    }
}
