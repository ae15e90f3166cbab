//! DIDs under this agent's control.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::update::UpdateView;
use crate::hash::CohortId;
use crate::network::Network;

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
    pub pending: Option<UpdateView>,
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
    /// The update that lists the beacon is on its way.
    Pending,
    /// The DID's document lists the beacon.
    Bound,
    /// The DID's document listed the beacon: what explains its signals is still kept and needed.
    Former,
}

impl fmt::Display for BindingStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Registering => "registering",
            Self::History => "fetching history",
            Self::Ready => "ready",
            Self::Pending => "being bound",
            Self::Bound => "bound",
            Self::Former => "left",
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

/// Answer of `did list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidListView {
    /// The DIDs, without their documents.
    pub dids: Vec<DidView>,
}
