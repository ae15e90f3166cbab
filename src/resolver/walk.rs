//! The explanation of a resolution: what was found, and what became of it.

use std::fmt;

use bitcoin::Txid;
use serde::Serialize;

use super::CasKind;
use super::outcome::Failure;
use crate::did::BeaconKind;
use crate::hash::{DocumentHash, SignalBytes, UpdateHash};
use crate::time::UnixTime;

/// Every step of a resolution, in its order. As text: a line for each.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Walk {
    /// The steps.
    pub steps: Vec<WalkStep>,
}

/// Where data came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum DataSource {
    /// The identifier itself.
    Identifier,
    /// The sidecar.
    Sidecar,
    /// Content-addressed storage.
    Cas,
}

/// A signal on chain, and the beacon it was sent from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SignalRef {
    /// The absolute id of the beacon's service.
    pub service: String,
    /// The beacon's type.
    pub kind: BeaconKind,
    /// The transaction.
    pub txid: Txid,
    /// The height of its block; `None` while it is unconfirmed.
    pub height: Option<u32>,
    /// Its confirmations, as seen from the tip.
    pub confirmations: u32,
    /// The 32 bytes.
    pub signal: SignalBytes,
}

/// One step of a resolution.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "step",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum WalkStep {
    /// The initial document, version 1.
    Initial {
        /// Where it came from.
        source: DataSource,
        /// Its hash.
        hash: DocumentHash,
    },
    /// A beacon of the current document was looked up, once for all time.
    Scanned {
        /// The version whose document lists it.
        version: u64,
        /// The absolute id of the service.
        service: String,
        /// The beacon's type.
        kind: BeaconKind,
        /// Its address.
        address: String,
        /// Signals below this height do not count.
        from_height: u32,
        /// How many signals its address ever sent.
        signals: usize,
    },
    /// A signal, and what it says about the DID.
    Signal {
        /// The signal.
        #[serde(flatten)]
        signal: SignalRef,
        /// What it says.
        said: Said,
    },
    /// An update led to the next version.
    Applied {
        /// The version it led to.
        version: u64,
        /// The update.
        update: UpdateHash,
        /// The signal.
        #[serde(flatten)]
        signal: SignalRef,
    },
    /// An update that was applied already was announced again.
    Duplicate {
        /// The version it led to.
        version: u64,
        /// The update.
        update: UpdateHash,
        /// The second signal.
        #[serde(flatten)]
        signal: SignalRef,
    },
    /// An update was not looked at, because the current document does not list its beacon any more.
    Dropped {
        /// The current version.
        version: u64,
        /// The version it would have led to.
        target_version: u64,
        /// The update.
        update: UpdateHash,
        /// The signal.
        #[serde(flatten)]
        signal: SignalRef,
    },
    /// The version that was asked for is reached; what follows is only checked.
    Requested {
        /// The version.
        version: u64,
        /// Median time of the block that ended it, where a time was asked for.
        ended: Option<UnixTime>,
    },
    /// The current document is deactivated: nothing follows.
    Deactivated {
        /// Its version.
        version: u64,
        /// How many announced updates were not looked at any more.
        ignored: usize,
    },
    /// The resolution failed.
    Failed {
        /// The version it had reached, 0 before there was an initial document.
        version: u64,
        /// The signal at which it failed, if it was one.
        signal: Option<SignalRef>,
        /// Why.
        failure: Failure,
    },
}

/// What a signal says about the DID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(
    tag = "said",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum Said {
    /// There is an update.
    Update {
        /// Its hash.
        update: UpdateHash,
        /// The version it leads to.
        target_version: u64,
        /// Where it came from.
        source: DataSource,
    },
    /// There is no update for this DID.
    NoUpdate,
    /// It counts only when it is deeper. Nothing was asked for on its behalf.
    Pending {
        /// The update it will announce, where the sidecar could already tell.
        update: Option<UpdateHash>,
    },
    /// It was sent before the beacon was in the document, and does not count.
    BelowHeight {
        /// From this height on signals count.
        from_height: u32,
    },
    /// What it stands for was not available.
    Missing {
        /// What is missing; `None` for an SMT proof, which only a sidecar has.
        kind: Option<CasKind>,
        /// The hash by which it was looked for.
        hash: SignalBytes,
    },
    /// What it stands for contradicts it.
    Invalid,
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WalkStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
