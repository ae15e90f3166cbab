//! Messages of a fallback: a stalled round's signal, signed through the k-of-n leaf (output policy `k-of-n`).

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::evidence::{Blame, Sighash};
use super::ids::{Round, Seat};
use super::message::{PrevoutInfo, TxHex};
use super::round_failed::RoundCause;
use crate::hash::{LeafValue, SchnorrSignature, SmtIndex};
use crate::time::UnixTime;

/// Everything a signal announces. With it each member makes its own proofs, whether it signs or not, and whether
/// it is there now or comes back later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Announced {
    /// All leaves of the tree whose root is the signal. An index that is not listed is empty.
    Smt(Vec<(SmtIndex, LeafValue)>),
    /// The announcement, exactly the bytes whose hash is the signal.
    Cas(String),
}

/// Asks for signatures through the leaf. It goes to the channel, so that everybody has what the signal announces
/// before the first signature exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FallbackRequest {
    /// The round that stalled.
    pub round: Round,
    /// Signatures count until then.
    pub sign_by: UnixTime,
    /// The unsigned transaction.
    pub tx: TxHex,
    /// What its inputs spend, in order. Claims: who signs uses what its own chain says.
    pub prevouts: Vec<PrevoutInfo>,
    /// Seats whose responses did not come: their indexes are left empty. In the others each index is as its seat said.
    pub absent: Vec<Seat>,
    /// What the signal announces.
    pub announced: Announced,
    /// Why the round stalled, as it would have failed without a leaf: also seats that responded and did not sign, or
    /// lost session after session. Absent from what was stored before there was this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<RoundCause>,
    /// Members shown to have sent something invalid in the round, with the evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blamed: Vec<Blame>,
}

/// A member's signatures through the leaf.
///
/// `sighashes` say what was signed, so that a third party can tell a bad signature from one for something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FallbackSignature {
    /// The round.
    pub round: Round,
    /// The transaction.
    pub txid: Txid,
    /// The digest signed for each input (BIP-341, tapscript), in order.
    pub sighashes: Vec<Sighash>,
    /// The seat key's BIP-340 signature of each.
    pub signatures: Vec<SchnorrSignature>,
}
