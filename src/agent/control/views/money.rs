//! What may be done with money, and what a transaction does with it.

use serde::{Deserialize, Serialize};

use super::FeeRate;
use crate::agent::control::PeerText;
use crate::hash::{CohortId, SignalBytes};
use crate::network::Network;
use crate::protocol::Round;
use crate::time::UnixTime;

/// Answer of `money status` and `money stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoneyView {
    /// When this was so.
    pub now: UnixTime,
    /// Whether an agent runs in this home.
    pub running: bool,
    /// That money is stopped; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<StoppedView>,
    /// The kill switch: money is stopped while this file is there.
    pub switch: String,
    /// Whether mainnet may be used.
    pub mainnet: MainnetState,
    /// The highest fee of one transaction, in sat.
    pub max_fee_sat: u64,
    /// The most that is asked for at once, in sat.
    pub max_funding_sat: u64,
    /// The most an address may hold together with what is asked for, in sat.
    pub max_balance_sat: u64,
    /// The bounds of fee rates.
    pub fees: Vec<FeeBoundsView>,
}

/// Since when and why money is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedView {
    /// Since when, if the switch says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixTime>,
    /// Why, as it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PeerText>,
    /// Whether the file is there; if not, the running agent saw it once and stays stopped until its restart.
    pub file: bool,
}

/// Whether mainnet may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MainnetState {
    /// The configuration does not allow it.
    Off,
    /// The configuration allows it; the agent runs without `--mainnet`, or does not run.
    AllowedOnly,
    /// The configuration allows it, and the agent was started with `--mainnet`.
    On,
}

/// The bounds of fee rates on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeeBoundsView {
    /// The network.
    pub network: Network,
    /// Never less is paid.
    pub floor: FeeRate,
    /// Never more is paid or signed.
    pub ceiling: FeeRate,
    /// What is paid without an estimate.
    pub fallback: FeeRate,
}

/// Answer of `tx decode`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxView {
    /// The transaction.
    pub txid: bitcoin::Txid,
    /// What it is, as far as this agent knows.
    pub kind: TxKind,
    /// One sentence that says so.
    pub text: String,
    /// The network, if what it spends or pays is known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The cohort whose beacon it spends from or pays to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<CohortId>,
    /// The cohort's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerText>,
    /// The round it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Which rung of the round's fee ladder, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<u8>,
    /// The DID whose own beacon it spends from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<String>,
    /// The version the announced update leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The 32 bytes it commits to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalBytes>,
    /// What these announce, as far as it is known here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commits_to: Vec<CommitmentView>,
    /// Inputs, in order.
    pub inputs: Vec<TxInputView>,
    /// Outputs, in order.
    pub outputs: Vec<TxOutputView>,
    /// What goes to the miner, in sat, if all that is spent is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat: Option<u64>,
    /// Its size in virtual bytes, with signatures.
    pub vsize: u64,
    /// Its weight, with signatures.
    pub weight: u64,
    /// Its fee rate, if the fee is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_rate: Option<FeeRate>,
    /// Whether every input is signed.
    pub signed: bool,
    /// Blocks for which what it spends has to lie in the chain before it is valid, if it has the form of a refund.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_blocks: Option<u16>,
    /// The block it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Confirmations; 0 in the mempool; absent if the chain does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmations: Option<u32>,
    /// What to know: one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a transaction is to this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxKind {
    /// The signal of a cohort, signed by all.
    Signal,
    /// The signal of a cohort, signed by some of its members through the fallback leaf.
    FallbackSignal,
    /// The signal of a DID's own beacon.
    SingletonSignal,
    /// A refund of a beacon output.
    Refund,
    /// It spends from a beacon in none of these forms.
    UnknownSpend,
    /// It pays to a beacon.
    Funding,
    /// It has the form of a signal, of a beacon that is not known here.
    ForeignSignal,
    /// The same, signed through a leaf of what it spends.
    ForeignFallbackSignal,
    /// It has the form of a refund, of a beacon that is not known here.
    ForeignRefund,
    /// None of these forms, and nothing of this agent's.
    Other,
}

/// Something a signal announces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitmentView {
    /// The DID, or the beginning of its index where the DID is not known.
    pub did: String,
    /// The hash of its update, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<String>,
    /// In words: `update`, `no update`, or `hidden` by the member's nonce.
    pub says: String,
}

/// An input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxInputView {
    /// What it spends, `txid:vout`.
    pub outpoint: String,
    /// Its value in sat, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_sat: Option<u64>,
    /// What it spends, in words.
    pub what: String,
}

/// An output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxOutputView {
    /// Its value in sat.
    pub value_sat: u64,
    /// Whom it pays: an address, or its script in hex.
    pub to: String,
    /// What it is, in words.
    pub what: String,
}
