//! Updates of DIDs, and leaving a cohort with them.

use std::fmt;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::singleton::AnnouncementView;
use crate::hash::{CohortId, UpdateHash};
use crate::protocol::Round;
use crate::time::UnixTime;

/// How far an update got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateStage {
    /// Signed and stored; waits for a round, or for its own transaction.
    Queued,
    /// Sent in the response of a round.
    Submitted,
    /// This agent has signed the signal.
    Signed,
    /// The signal is in the mempool.
    Broadcast,
    /// The signal is in a block.
    Confirmed,
    /// The signal has the confirmations that the next update waits for.
    Final,
    /// Another update took its version.
    Superseded,
    /// The aggregator refused it when it was deposited: nothing announces it.
    Refused,
}

impl fmt::Display for UpdateStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Submitted => "submitted",
            Self::Signed => "signed",
            Self::Broadcast => "broadcast",
            Self::Confirmed => "confirmed",
            Self::Final => "final",
            Self::Superseded => "superseded",
            Self::Refused => "refused",
        })
    }
}

/// What became of the deposit of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepositStage {
    /// Sent; it is announced once the aggregator has verified it.
    Sent,
    /// Verified.
    Verified,
    /// Verified, but for one thing: the aggregator can not know that the source document is the current one.
    VerifiedNotAnchored,
    /// Refused.
    Refused,
}

impl fmt::Display for DepositStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sent => "sent to the aggregator, which has not answered yet",
            Self::Verified => "verified by the aggregator",
            Self::VerifiedNotAnchored => {
                "verified by the aggregator, which can not know whether the source document is the current one"
            }
            Self::Refused => "refused by the aggregator",
        })
    }
}

/// What announces an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteView {
    /// A round of this cohort.
    Cohort(CohortId),
    /// This singleton beacon, by its service id.
    Singleton(String),
}

impl fmt::Display for RouteView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cohort(cohort) => write!(f, "cohort {}", cohort.short()),
            Self::Singleton(service) => write!(f, "singleton beacon {service}"),
        }
    }
}

/// An update and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateView {
    /// The version it makes.
    pub to_version: u64,
    /// Its hash.
    pub hash: UpdateHash,
    /// How far it got.
    pub stage: UpdateStage,
    /// What announces it; absent when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteView>,
    /// The round it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// The signal's transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<Txid>,
    /// The height of its block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Its confirmations.
    pub confirmations: u32,
    /// The confirmations after which it is final.
    pub needed: u32,
    /// What became of its deposit; absent when only its hash is announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<DepositStage>,
    /// Why it is where it is, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was signed.
    pub created: UnixTime,
}

/// Answer of `did updates` and `did withdraw`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidUpdatesView {
    /// The DID.
    pub did: String,
    /// The version the chain shows.
    pub version: u64,
    /// Every update this agent made, by version.
    pub updates: Vec<UpdateView>,
}

/// Answer of `did update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DidUpdateView {
    /// The DID.
    pub did: String,
    /// The version the update starts from.
    pub from_version: u64,
    /// The version it leads to.
    pub to_version: u64,
    /// What announces it.
    pub route: RouteView,
    /// The update; absent after a dry run, which signs and stores nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateView>,
    /// The document before.
    pub before: serde_json::Value,
    /// The document after.
    pub after: serde_json::Value,
    /// What follows from the change and does not show in the documents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// When the next round opens, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_round_at: Option<UnixTime>,
    /// Of an update that is announced singly: what that costs or lacks, or what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcement: Option<AnnouncementView>,
}

/// What leaving a cohort means, and what has to be done before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitPlanView {
    /// The cohort.
    pub cohort: CohortId,
    /// Leaving ends the beacon for all members.
    pub ends_for_all: bool,
    /// Members, this agent included.
    pub members: u32,
    /// This agent's DIDs that have to do with it.
    pub dids: Vec<ExitingDidView>,
    /// What has to be kept afterwards.
    pub keep: Vec<String>,
}

/// A DID and the beacon of a cohort that is to be left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitingDidView {
    /// The DID.
    pub did: String,
    /// Its version.
    pub version: u64,
    /// Where it stands.
    pub state: ExitState,
    /// The services of its document that list the beacon.
    pub services: Vec<String>,
    /// What would announce the update that removes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteView>,
    /// Why it can not be removed now, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a DID stands on its way out of a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitState {
    /// Its document lists the beacon: an update has to remove it.
    Listed,
    /// It lists the beacon and no other one that this agent could announce at.
    OnlyBeacon,
    /// Another update of it is not final yet.
    Waiting,
    /// The update that removes the beacon is on its way.
    Removing,
    /// An earlier document listed the beacon; what explains its signals is still needed.
    Former,
    /// It is deactivated: nothing has to be done.
    Deactivated,
    /// It was registered and never listed the beacon.
    NeverListed,
}

impl fmt::Display for ExitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Listed => "lists the beacon",
            Self::OnlyBeacon => "has no other beacon",
            Self::Waiting => "waits for an earlier update",
            Self::Removing => "is leaving",
            Self::Former => "has left",
            Self::Deactivated => "deactivated",
            Self::NeverListed => "never listed it",
        })
    }
}
