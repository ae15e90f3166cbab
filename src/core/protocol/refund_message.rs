//! The messages of a refund session: all members sign the refund of one output at the beacon address, before
//! anybody depends on it (DESIGN §5, issue "Refunds without a script path").
//!
//! `refund_open` (channel) → `refund_nonces` (each member) → `refund_request` (channel) → `refund_partial` (each
//! member) → `refund_complete` (payees only). The aggregator numbers the sessions of a cohort, from 1, and holds
//! one at a time. A member that lost its nonces offers new ones for the next attempt.

use std::collections::BTreeMap;

use bitcoin::OutPoint;
use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::ids::Label;
use super::message::{Nonces, TxHex};
use crate::keys::musig::{AggregateNonce, PartialSignature, SessionHash};
use crate::time::UnixTime;

/// A refund session opens: nonces, please.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundOpen {
    /// Number of the session, from 1. Another try for the same output has another number.
    pub deposit: u32,
    /// The attempt, from 1: one more when a member lost its nonces.
    pub attempt: u32,
    /// The output to be refunded, `txid:vout`. It need not be on the chain yet.
    pub outpoint: OutPoint,
    /// Its value in sat. A claim: a signature for another value than the output has is good for nothing.
    pub value_sat: u64,
    /// Nonces count until then.
    pub until: UnixTime,
}

/// A member's nonces for a refund session. For the attempt after the current one they also say that the
/// current one's are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundNonces {
    /// Number of the session.
    pub deposit: u32,
    /// The attempt these nonces are for.
    pub attempt: u32,
    /// One public nonce, for `refund/1`.
    pub nonces: Nonces,
}

/// What to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundRequest {
    /// Number of the session.
    pub deposit: u32,
    /// The attempt.
    pub attempt: u32,
    /// The unsigned refund. Every member rebuilds it and compares.
    pub tx: TxHex,
    /// The aggregate nonce.
    pub aggregate_nonce: AggregateNonce,
    /// Partial signatures count until then.
    pub until: UnixTime,
}

/// A member's partial signature, with what it was made with, so that a third party can check a blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundPartial {
    /// Number of the session.
    pub deposit: u32,
    /// The attempt.
    pub attempt: u32,
    /// Commits to key list, tweak, own nonce, aggregate nonce and sighash.
    pub session_hash: SessionHash,
    /// The public nonce used, for `refund/1`.
    pub nonces: Nonces,
    /// The partial signature, for `refund/1`.
    pub partials: BTreeMap<Label, PartialSignature>,
}

/// A refund is complete. Whoever has it can send it once its lock is over, so only payees get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundComplete {
    /// The output it refunds.
    pub outpoint: OutPoint,
    /// Its value in sat.
    pub value_sat: u64,
    /// The signed transaction.
    pub tx: TxHex,
}

impl Evidence for RefundNonces {
    const TYPE: &'static str = "refund_nonces";
}

impl Evidence for RefundPartial {
    const TYPE: &'static str = "refund_partial";
}
