//! DIDs under this agent's control.

use std::fmt;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use crate::hash::{CohortId, UpdateHash};
use crate::network::Network;
use crate::protocol::Round;
use crate::time::UnixTime;

/// How a DID came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DidKind {
    /// From a key; its initial document follows from the identifier.
    K1,
    /// From a genesis document.
    X1,
}

impl fmt::Display for DidKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::K1 => "k1",
            Self::X1 => "x1",
        })
    }
}

/// One DID, or an index registered for one that is still to be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidView {
    /// The DID; absent before it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<String>,
    /// k1 or x1.
    pub kind: DidKind,
    /// Its network.
    pub network: Network,
    /// The version the chain shows, from 1.
    pub version: u64,
    /// Whether it is deactivated.
    pub deactivated: bool,
    /// Its cohorts.
    pub bindings: Vec<DidBindingView>,
    /// Its beacons.
    pub beacons: Vec<DidBeaconView>,
    /// An update that is not final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingUpdateView>,
    /// The current document (`did show`, `did create`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<serde_json::Value>,
    /// What the user has to do, if something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// A DID's registration with a cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidBindingView {
    /// The cohort.
    pub cohort: CohortId,
    /// How far the binding got (DESIGN §5, binding order).
    pub stage: BindingStage,
    /// Signals of the beacon for which a verified proof or announcement is stored.
    pub covered: u32,
    /// Signals of the beacon that need one.
    pub signals: u32,
}

/// How far a binding got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingStage {
    /// Sent to the aggregator.
    Registering,
    /// Acknowledged; the history of earlier signals is being fetched.
    History,
    /// Covered from now on and backwards; the DID may list the beacon.
    Ready,
    /// The DID's document lists the beacon.
    Bound,
}

impl fmt::Display for BindingStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Registering => "registering",
            Self::History => "fetching history",
            Self::Ready => "ready",
            Self::Bound => "bound",
        })
    }
}

/// A beacon service of a DID document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidBeaconView {
    /// Service id.
    pub id: String,
    /// `SingletonBeacon`, `CASBeacon` or `SMTBeacon`.
    #[serde(rename = "type")]
    pub beacon_type: String,
    /// The address of its endpoint.
    pub address: String,
}

/// How far an update got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateStage {
    /// Signed and stored; waits for a round.
    Queued,
    /// Sent in a response.
    Submitted,
    /// In the tree or map; the proof is verified and stored.
    Proved,
    /// This agent has co-signed the signal.
    Signed,
    /// The signal is in the mempool.
    Broadcast,
    /// The signal is in a block.
    Confirmed,
}

impl fmt::Display for UpdateStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Submitted => "submitted",
            Self::Proved => "proved",
            Self::Signed => "signed",
            Self::Broadcast => "broadcast",
            Self::Confirmed => "confirmed",
        })
    }
}

/// An update on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingUpdateView {
    /// The version it makes.
    pub to_version: u64,
    /// Its hash.
    pub hash: UpdateHash,
    /// How far it got.
    pub stage: UpdateStage,
    /// The cohort that announces it.
    pub cohort: CohortId,
    /// The round it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// The signal's transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<Txid>,
    /// Its confirmations.
    pub confirmations: u32,
}

/// Answer of `did update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidUpdateView {
    /// The DID.
    pub did: String,
    /// The version the update starts from.
    pub from_version: u64,
    /// The update.
    pub update: PendingUpdateView,
    /// The document before.
    pub before: serde_json::Value,
    /// The document after.
    pub after: serde_json::Value,
    /// When the next round opens, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_round_at: Option<UnixTime>,
}

/// Answer of `did list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidListView {
    /// The DIDs, without their documents.
    pub dids: Vec<DidView>,
}
