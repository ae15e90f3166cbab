//! Messages around rounds: how members are seated, what a cohort is, and how it ends.

use bitcoin::ScriptBuf;
use serde::{Deserialize, Serialize};

use super::admission::Ticket;
use super::ids::{Round, Seat};
use super::message::{RegisteredItem, SetHash};
use super::terms::TextHash;
use crate::hash::{CohortId, SchnorrSignature};
use crate::time::UnixTime;

/// Asks for a seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptIn {
    /// The terms agreed to: the cohort's id again, so that consent is explicit.
    pub terms: CohortId,
    /// The terms of service accepted; must equal the terms' hash when they name one.
    pub tos: Option<TextHash>,
    /// Where refunds to this member go (hex of a P2WPKH, P2WSH or P2TR script), if anywhere.
    pub payee: Option<ScriptBuf>,
    /// What the terms ask for a seat, or more than they ask; absent where nothing is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
}

/// The operator has not decided yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Until when it can: the end of `join_by`.
    pub until: UnixTime,
}

/// The operator decided against a seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    /// Why: text for people, at most 200 characters.
    pub reason: String,
}

/// Seated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// The seat.
    pub seat: Seat,
}

/// Why a request was refused. Stable names: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The terms hash is of another cohort.
    WrongTerms,
    /// The terms of service were not accepted.
    TosNotAccepted,
    /// All seats are taken.
    Full,
    /// The time to join is over, or the set is closed.
    Closed,
    /// Only invited keys are seated.
    NotInvited,
    /// The opt-in shows no work, or less than the terms ask.
    WorkRequired,
    /// The opt-in shows no code that was handed out for this cohort, or not for its own key.
    BadCode,
    /// As many as the code is for have entered with it.
    CodeUsedUp,
    /// The operator decided against it.
    Rejected,
    /// This key asked before, with another opt-in. The first one counts.
    AlreadyAsked,
    /// The payee is not a P2WPKH, P2WSH or P2TR script.
    BadPayee,
    /// Members fund, so that each has to say where its share of a refund goes.
    PayeeRequired,
    /// The message does not parse, or does not fit the phase.
    Malformed,
    /// The index (CAS: DID) belongs to another seat.
    IndexTaken,
    /// More DIDs than the terms allow.
    TooManyDids,
    /// The registration proof is missing or wrong.
    BadRegistration,
    /// The response does not cover exactly the seat's indexes, or is of the wrong beacon type.
    WrongEntries,
    /// A leaf equals the empty leaf.
    EmptyLeaf,
    /// A public nonce was offered before.
    NonceReused,
    /// No round is open, or it is another.
    NoSuchRound,
    /// Asked too often.
    TooMany,
    /// Member: what the request asks to sign is not what was agreed.
    WillNotSign,
    /// The response announces what was not deposited, though the terms or its own opening ask for it.
    DepositRequired,
    /// A leaf is not made of what it was opened with, or is not opened though the terms ask for it.
    WrongLeaf,
}

/// A request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Type of the message that was refused.
    pub of: String,
    /// The reason.
    pub code: RefusalCode,
    /// The round it was about, if any.
    pub round: Option<Round>,
}

/// A member recomputed the beacon address from the key set and agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortAck {
    /// The set acknowledged.
    pub set: SetHash,
}

/// All members acknowledged the set; it never changes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// The set.
    pub set: SetHash,
    /// Every member's signature of its [`CohortAck`], in the order of the set's keys.
    pub acks: Vec<SchnorrSignature>,
}

/// A member whose store is new asks for what was said to its seat. The author's key is the seat's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeatRequest {}

/// What a seat was told so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeatState {
    /// The key set.
    pub set: super::set::CohortSet,
    /// The members' signatures of their acknowledgements, in seat order; empty while one is missing.
    pub acks: Vec<SchnorrSignature>,
    /// The indexes that are registered for the seat.
    pub items: Vec<RegisteredItem>,
    /// The last round that was opened before this was sent; 0 if there was none.
    pub last_round: u32,
    /// Why the cohort ended, if it has.
    pub ended: Option<EndCause>,
}

/// A member leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// Also when that ends the beacon for all (after the set froze).
    pub even_if_frozen: bool,
}

/// A seat is free again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The seat.
    pub seat: Seat,
    /// Why: text for people, at most 200 characters.
    pub reason: String,
}

/// Why a cohort ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause", deny_unknown_fields)]
pub enum EndCause {
    /// Too few members by the deadline.
    NotEnoughMembers {
        /// Seats taken.
        seated: u16,
    },
    /// These seats did not acknowledge the set in time.
    NotAcknowledged {
        /// The seats.
        absent: Vec<Seat>,
    },
    /// A member left after the set froze: an n-of-n beacon can not go on without it.
    MemberLeft {
        /// The seat.
        seat: Seat,
    },
    /// The operator cancelled it.
    Cancelled,
}

/// The cohort has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Why.
    pub why: EndCause,
}

/// Relays the aggregator uses from now on: hints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relays {
    /// URLs.
    pub relays: Vec<String>,
}

/// Terms of a cohort without a public advert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// Canonical terms; their hash is the cohort of the envelope.
    pub terms: String,
    /// Relays on which the aggregator listens: hints.
    pub relays: Vec<String>,
}

/// A follower introduces itself, or says goodbye.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Whether it still follows.
    pub on: bool,
}
