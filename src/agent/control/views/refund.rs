//! Refunds: what is protected, and what can be recovered.

use std::fmt;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use crate::hash::CohortId;
use crate::network::Network;
use crate::protocol::{Label, Seat};

/// Whether the money of a beacon output comes back should a member vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// This agent holds a refund that all members signed.
    Protected,
    /// All members, this one included, were asked to sign its refund; the payees hold it.
    WithPayees,
    /// Its refund is being signed.
    Signing,
    /// There is no refund: without one of the members it can never be spent.
    Unprotected,
    /// Too small to be refunded.
    TooSmall,
    /// The cohort has no refunds.
    NoRefunds,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Protected => "protected",
            Self::WithPayees => "the payees hold its refund",
            Self::Signing => "being signed",
            Self::Unprotected => "UNPROTECTED",
            Self::TooSmall => "too small for a refund",
            Self::NoRefunds => "no refunds in this cohort",
        })
    }
}

/// An output at a beacon address that nothing spends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputView {
    /// `txid:vout`.
    pub outpoint: String,
    /// Its value, in sat.
    pub value_sat: u64,
    /// Confirmations; 0 in the mempool.
    pub confirmations: u32,
    /// Whether it comes back should a member vanish.
    pub protection: Protection,
    /// Its refund, if this agent holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Txid>,
    /// Blocks until the refund can be sent; absent while the output is not confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_missing: Option<u32>,
    /// Seats that did not answer when its refund was to be signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Seat>,
}

/// What became of the refund of an output in `cohort recover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// Its output is not in a block: the lock has not begun.
    NotConfirmed,
    /// The lock is not over.
    Locked,
    /// It can be sent.
    Ready,
    /// The chain took it.
    Sent,
    /// The chain did not take it.
    Refused,
}

impl fmt::Display for RefundState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotConfirmed => "its output is not confirmed",
            Self::Locked => "locked",
            Self::Ready => "can be sent",
            Self::Sent => "sent",
            Self::Refused => "refused",
        })
    }
}

/// A refund this agent holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundItem {
    /// The output it spends, `txid:vout`.
    pub outpoint: String,
    /// Value of that output, in sat.
    pub value_sat: u64,
    /// The refund.
    pub txid: Txid,
    /// The signed transaction, hex: whoever has it can send it once its lock is over.
    pub tx: String,
    /// What it pays to payees, in sat.
    pub pays_sat: u64,
    /// Its fee, in sat.
    pub fee_sat: u64,
    /// Height of the first block that may hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matures_at: Option<u32>,
    /// Blocks until it can be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_missing: Option<u32>,
    /// What became of it.
    pub state: RefundState,
    /// Why the chain did not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer of `cohort recover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundsView {
    /// The cohort.
    pub cohort: CohortId,
    /// Its network.
    pub network: Network,
    /// The beacon address.
    pub address: String,
    /// Height of the chain.
    pub height: u32,
    /// The refunds of what lies there.
    pub refunds: Vec<RefundItem>,
    /// What lies there and can not be recovered by this agent, in sat.
    pub without_refund_sat: u64,
}

/// Answer of `cohort fund --psbt`: the funding transaction, given back only once it is safe to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FundPsbtView {
    /// The cohort.
    pub cohort: CohortId,
    /// Its network.
    pub network: Network,
    /// The funding transaction.
    pub txid: Txid,
    /// What it pays to the beacon, each with the refund that is signed for it.
    pub outputs: Vec<OutputView>,
    /// Whether its sender can replace it by another one: that would have no refund.
    pub replaceable: bool,
    /// Whether it is signed.
    pub signed: bool,
    /// The PSBT, as it was given (base64).
    pub psbt: String,
    /// Whether it was sent.
    pub sent: bool,
}

/// A transaction that is being signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsbtView {
    /// `signal/<rung>` or `refund/<rung>`.
    pub label: Label,
    /// Its id, which signatures do not change.
    pub txid: Txid,
    /// The PSBT (BIP-174, with the fields of BIP-371 and BIP-373), base64.
    pub psbt: String,
}

/// Answer of `cohort psbt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsbtsView {
    /// The cohort.
    pub cohort: CohortId,
    /// Its network.
    pub network: Network,
    /// What is being signed.
    pub psbts: Vec<PsbtView>,
}
