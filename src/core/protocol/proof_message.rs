//! The messages by which an aggregator learns of its members what was signed while its store was not the one that
//! signed: it was restored from an older copy (docs/backup.md).

use serde::{Deserialize, Serialize};

use super::ids::Round;
use crate::beacon::smt::SmtPath;
use crate::hash::{LeafValue, SignalBytes, SmtIndex};

/// Signals that one request names at most.
pub const MAX_SIGNALS_ASKED: usize = 32;

/// Aggregator → member: what do you keep of these signals, which the chain shows and my store does not explain?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofRequest {
    /// The signals, at most [`MAX_SIGNALS_ASKED`]: a member reads no more.
    pub signals: Vec<SignalBytes>,
}

/// Member → aggregator: what it keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptProofs {
    /// One per signal that was asked for, in that order; the last ones are left out where the answer would be too long.
    pub items: Vec<KeptSignal>,
}

/// What a member keeps of one signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSignal {
    /// The signal.
    pub signal: SignalBytes,
    /// The round it is of; `null` if nothing is kept.
    pub round: Option<Round>,
    /// SMT: one per index of the member that the round covered.
    pub proofs: Vec<KeptProof>,
    /// CAS: the announcement.
    pub announcement: Option<String>,
}

/// The proof of one index. The leaf's value is what the aggregator was told in the round: not what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptProof {
    /// The index.
    pub index: SmtIndex,
    /// Its leaf; `null` if it was empty.
    pub leaf: Option<LeafValue>,
    /// The path from the leaf to the signal.
    pub path: SmtPath,
}
