//! Announcements by a DID's own beacon.

use std::fmt;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::terms::FeeRate;
use crate::hash::{CohortId, UpdateHash};
use crate::network::Network;

/// Where an announcement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnouncementState {
    /// Nothing was signed.
    NotSigned,
    /// Signed and stored; the chain does not show it. It is sent again and again.
    Signed,
    /// The chain's nodes have it.
    Broadcast,
    /// In a block.
    Confirmed,
    /// In a block, deep enough for the next update.
    Final,
    /// Another transaction spends what it spends.
    Conflicted,
    /// Another transaction did so for good.
    Dead,
}

impl fmt::Display for AnnouncementState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotSigned => "not signed",
            Self::Signed => "signed, not on the chain",
            Self::Broadcast => "broadcast",
            Self::Confirmed => "confirmed",
            Self::Final => "final",
            Self::Conflicted => "in conflict with another transaction",
            Self::Dead => "dead: another transaction confirmed instead",
        })
    }
}

/// Answer of `did announce`: what it costs, what it lacks, and what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncementView {
    /// The DID.
    pub did: String,
    /// The network.
    pub network: Network,
    /// The version the update leads to; absent when there is no update yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_version: Option<u64>,
    /// The update's hash: the 32 bytes that are announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<UpdateHash>,
    /// The beacon's service.
    pub service: String,
    /// The beacon's address, which pays.
    pub address: String,
    /// Where it stands.
    pub state: AnnouncementState,
    /// The fee rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_rate: Option<FeeRate>,
    /// What it costs, in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat: Option<u64>,
    /// Its size in virtual bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsize: Option<u64>,
    /// What returns to the address, in sat; absent when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_sat: Option<u64>,
    /// What the address holds that can be spent, in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance_sat: Option<u64>,
    /// What it holds that waits for a confirmation, in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed_sat: Option<u64>,
    /// The least that has to be sent to the address first, in sat; 0 when it holds enough.
    pub needed_sat: u64,
    /// What to send so that four more announcements are paid as well, in sat; 0 when it holds enough.
    pub send_sat: u64,
    /// The BIP 21 URI of the address and `send_sat`.
    pub uri: String,
    /// The transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<Txid>,
    /// The transaction that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Txid>,
    /// Why the chain did not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What to know: one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How far a DID is on its way to a cohort's beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoiningStage {
    /// Not registered.
    Unregistered,
    /// Registered; the aggregator has not acknowledged it.
    Registering,
    /// The aggregator refused it.
    Refused,
    /// Acknowledged; the history or a round is outstanding.
    Covered,
    /// The update that adds the beacon may be announced.
    Ready,
    /// It is signed and stored.
    Stored,
    /// It is announced.
    Announced,
    /// The document lists the beacon.
    Bound,
}

/// Answer of `did register --via singleton`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoiningView {
    /// The DID.
    pub did: String,
    /// The cohort.
    pub cohort: CohortId,
    /// How far it is.
    pub stage: JoiningStage,
    /// The same in words, and what happens next.
    pub step: String,
    /// The announcement of the update that adds the beacon: what it costs or lacks, or what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcement: Option<AnnouncementView>,
}
