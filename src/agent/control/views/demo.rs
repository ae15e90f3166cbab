//! What the demo shows when it closes.

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::BeaconType;
use crate::hash::SignalBytes;
use crate::protocol::Round;

/// The closing report of `demo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoReport {
    /// The beacon type.
    pub beacon: BeaconType,
    /// The beacon address.
    pub address: String,
    /// Milliseconds from the start to the end.
    pub took_ms: u64,
    /// The rounds.
    pub rounds: Vec<DemoRound>,
    /// The agents: the aggregator first, then the members by seat.
    pub agents: Vec<DemoAgent>,
    /// Every DID, as whoever has the chain and its sidecar resolves it.
    pub dids: Vec<DemoResolved>,
}

/// A DID of the demo, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoResolved {
    /// The DID.
    pub did: String,
    /// The member that controls it.
    pub controller: String,
    /// Its version.
    pub version: u64,
    /// Whether it is deactivated.
    pub deactivated: bool,
    /// Confirmations of its last update, 0 without one.
    pub confirmations: u32,
    /// Services that its updates added.
    pub services: Vec<String>,
    /// Signals of its cohort's beacon that its sidecar explains.
    pub signals: u32,
    /// Size of its sidecar.
    pub sidecar_bytes: u64,
}

/// One round of the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoRound {
    /// Its number.
    pub round: Round,
    /// The transaction.
    pub txid: Txid,
    /// The 32 bytes announced.
    pub signal: SignalBytes,
    /// Size in virtual bytes.
    pub vsize: u64,
    /// Fee in sat.
    pub fee_sat: u64,
    /// Milliseconds from the opening to the broadcast.
    pub took_ms: u64,
}

/// One agent of the demo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoAgent {
    /// `aggregator`, `member 1`, …
    pub actor: String,
    /// DIDs it controls.
    pub dids: u16,
    /// Updates announced.
    pub announced: u32,
    /// Explicit declines.
    pub declined: u32,
    /// Proofs or announcements verified and stored, one per DID and round.
    pub proved: u32,
    /// What it did on each relay.
    pub relays: Vec<DemoTraffic>,
}

/// What an agent did on one relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemoTraffic {
    /// The relay.
    pub relay: String,
    /// Events published.
    pub events: u64,
    /// Bytes of these events.
    pub bytes: u64,
}
