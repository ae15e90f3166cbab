//! What a PSBT says, and how much of it is so.

use std::fmt;

use bitcoin::XOnlyPublicKey;
use serde::{Deserialize, Serialize};

use super::{Tally, TxView};
use crate::hash::CohortId;
use crate::protocol::Round;

/// Answer of `psbt inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsbtInspectView {
    /// The version of the format: 0 (BIP-174) or 2 (BIP-370).
    pub version: u8,
    /// The unsigned transaction, as `tx decode` explains it.
    pub tx: TxView,
    /// What the agent knows of it; absent when no agent runs, or it spends from no beacon the agent knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<PsbtKnownView>,
    /// Inputs, in order.
    pub inputs: Vec<PsbtInputView>,
    /// What can not be so; one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl PsbtInspectView {
    /// Whether everything it says fits together.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What a running agent knows of a PSBT that spends from a cohort's beacon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsbtKnownView {
    /// The cohort.
    pub cohort: CohortId,
    /// Whether its transaction is, byte for byte, one that was made or signed here.
    pub identical: bool,
    /// The round it was made for; absent for the refund of what was paid in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Its rung in that round, or that of the signal whose change it refunds, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<u8>,
    /// Whether this agent signed it, as a member.
    pub signed_here: bool,
}

/// Whose keys an input lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PsbtKeys {
    /// It lists none for its internal key.
    NotListed,
    /// They add up to the output it spends; whose they are is not known here.
    AddUp,
    /// They are exactly the keys of the cohort.
    Cohort,
    /// They can not be so: see the problems.
    Wrong,
}

impl fmt::Display for PsbtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotListed => "not listed",
            Self::AddUp => "they add up to the output",
            Self::Cohort => "exactly those of the cohort",
            Self::Wrong => "WRONG",
        })
    }
}

/// How far an input is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PsbtSigning {
    /// No complete signature.
    Open,
    /// All partial signatures are there and add up to a signature that verifies.
    AddsUp,
    /// A signature by all members that verifies.
    KeyPath,
    /// Signatures of this number of members through the fallback leaf, which verify.
    Leaf(u16),
    /// Something that is not verified here.
    Unverified,
}

impl fmt::Display for PsbtSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.pad("not signed"),
            Self::AddsUp => f.pad("complete: the partial signatures add up, verified"),
            Self::KeyPath => f.pad("signed by all, verified"),
            Self::Leaf(k) => f.pad(&format!(
                "signed by {k} through the fallback leaf, verified"
            )),
            Self::Unverified => f.pad("signed, not verified here"),
        }
    }
}

/// An input of a PSBT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PsbtInputView {
    /// What it spends, `txid:vout`.
    pub outpoint: String,
    /// Its value in sat, as the PSBT says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_sat: Option<u64>,
    /// Whose keys it lists.
    pub keys: PsbtKeys,
    /// How many keys are aggregated.
    pub participants: u16,
    /// The internal key they add up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_key: Option<XOnlyPublicKey>,
    /// The root of the script tree beside it, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script_root: Option<String>,
    /// Public nonces.
    pub nonces: Tally,
    /// Partial signatures that verify.
    pub partials: Tally,
    /// Partial signatures that can not be verified, because nonces are missing.
    pub unverified: u16,
    /// How far it is signed.
    pub signing: PsbtSigning,
    /// MuSig2 fields about other keys, which are not looked at.
    pub foreign_fields: u32,
}
