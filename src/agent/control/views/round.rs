//! Rounds, endings and the delivery of messages.

use std::fmt;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use crate::agent::control::PeerText;
use crate::hash::SignalBytes;
use crate::keys::NostrKey;
use crate::protocol::confirmation::WatchState;
use crate::protocol::{Round, Seat};
use crate::time::UnixTime;

/// How many of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tally {
    /// How many have.
    pub have: u16,
    /// How many should.
    pub of: u16,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.have, self.of))
    }
}

/// Where a round stands. Broadcast and confirmed only when the chain said so (DESIGN §6, rule 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundState {
    /// Members respond.
    Responding,
    /// Members sign.
    Signing,
    /// The transaction is complete; the chain backend has not taken it yet.
    Signed,
    /// The chain backend took it, and has not shown it in its mempool yet.
    Broadcast,
    /// It waits in the mempool.
    Mempool,
    /// It is in a block.
    Confirmed,
    /// It is in a block, deep enough that it is not expected to leave it.
    Final,
    /// Another transaction spends what it spends.
    Conflicted,
    /// It was in a block that is not in the best chain any more; it is sent again.
    ReorgedOut,
    /// Nobody updated, so there was no transaction.
    Empty,
    /// It ended without a signal.
    Failed,
}

impl fmt::Display for RoundState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Responding => "responding",
            Self::Signing => "signing",
            Self::Signed => "signed",
            Self::Broadcast => "broadcast",
            Self::Mempool => "in mempool",
            Self::Confirmed => "confirmed",
            Self::Final => "final",
            Self::Conflicted => "CONFLICTED",
            Self::ReorgedOut => "reorged out",
            Self::Empty => "empty",
            Self::Failed => "failed",
        })
    }
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundView {
    /// Its number.
    pub round: Round,
    /// Where it stands.
    pub state: RoundState,
    /// When it was opened.
    pub opened_at: UnixTime,
    /// When the current step ends, if it is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<UnixTime>,
    /// The current MuSig2 attempt; above 1 after a lost nonce or a bad partial.
    pub attempt: u32,
    /// Responses received.
    pub responses: Tally,
    /// Partial signatures received.
    pub partials: Tally,
    /// Seats the current step waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Seat>,
    /// Indexes with an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updates: Option<u32>,
    /// What this agent's own response said, if it is a member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnResponseView>,
    /// The 32 bytes of the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalBytes>,
    /// The transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<Txid>,
    /// Its size in virtual bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vsize: Option<u64>,
    /// Its fee in sat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fee_sat: Option<u64>,
    /// Its confirmations.
    pub confirmations: u32,
    /// Every transaction that was signed for it, in the order of signing: fee variants, and those of attempts that were
    /// not completed. At most one confirms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signed: Vec<SignedTxView>,
    /// Milliseconds from the opening to the broadcast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EndView>,
}

/// A transaction that was signed for a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTxView {
    /// Its rung in the ladder, from 1, counted on in replacement sessions; absent through the leaf, or where it is not
    /// known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<u8>,
    /// Whether some of the members signed it through the fallback leaf, instead of all.
    #[serde(default)]
    pub through_leaf: bool,
    /// Its id.
    pub txid: Txid,
    /// Whether this agent has it whole and sends it. It may confirm from the moment the last signature was given.
    pub complete: bool,
    /// Where it is.
    #[serde(flatten)]
    pub state: WatchState,
}

/// What this agent said in a round for one of its DIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnResponseView {
    /// The DID, or the label of an index registered for a DID still to be created.
    pub did: String,
    /// What was said.
    pub said: OwnResponse,
    /// Whether a proof or announcement for it was verified and stored.
    pub proved: bool,
}

/// A member's answer for one index (DESIGN §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnResponse {
    /// An update is announced.
    Update,
    /// Explicitly none.
    NoUpdate,
    /// Neither.
    Idle,
}

impl fmt::Display for OwnResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Update => "update",
            Self::NoUpdate => "no update",
            Self::Idle => "idle",
        })
    }
}

/// A terminal state: what, by whom, and how sure that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndView {
    /// When.
    pub at: UnixTime,
    /// Stable snake_case code of the cause, as in the protocol.
    pub cause: String,
    /// One sentence.
    pub text: PeerText,
    /// Seats it is put down to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Seat>,
    /// How it is known. Absence is a statement, never evidence.
    pub known_by: Knowledge,
    /// Whom it is put down to, each with what it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub culprits: Vec<CulpritView>,
}

/// A member that something is put down to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CulpritView {
    /// Its seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
    /// The key of the seat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NostrKey>,
    /// What it did: `absent`, or the name of the fault in the evidence.
    pub did: String,
    /// How that is known.
    pub known_by: Knowledge,
}

/// How a cause is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knowledge {
    /// This agent saw or decided it.
    Own,
    /// Signed bodies prove it; this agent verified them.
    Evidence,
    /// The aggregator or a member says so.
    Claim,
}

impl fmt::Display for Knowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "seen by this agent",
            Self::Evidence => "proved by signed messages",
            Self::Claim => "claimed, not proved",
        })
    }
}

/// To whom a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// All members, over the cohort's channel.
    Channel,
    /// The aggregator.
    Aggregator(NostrKey),
    /// A member.
    Member {
        /// Its seat.
        seat: Seat,
        /// Its key.
        key: NostrKey,
    },
    /// A key that has no seat (yet): an invited or refused one.
    Key(NostrKey),
    /// Everybody: an advert.
    Public,
}

/// What one relay did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayReceipt {
    /// Not sent yet.
    Pending,
    /// It said OK.
    Ok,
    /// It refused.
    Refused,
    /// It was sent and said nothing.
    Silent,
}

impl fmt::Display for RelayReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Silent => "silent",
        })
    }
}

/// One relay's receipt of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReceiptView {
    /// The relay.
    pub relay: String,
    /// What it did.
    pub receipt: RelayReceipt,
    /// Its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PeerText>,
}

/// Where one message of this agent stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryView {
    /// Message type of the protocol: `round_open`, `response`, …
    pub message: String,
    /// The round it belongs to; absent in formation, and of refund sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Number of the refund session it belongs to: the refund of an output that was paid in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<u32>,
    /// To whom.
    pub to: Recipient,
    /// When it was first sent.
    pub sent_at: UnixTime,
    /// What each relay did.
    pub relays: Vec<RelayReceiptView>,
    /// How many recipients acknowledged it.
    pub acknowledged: Tally,
    /// Seats that have not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<Seat>,
    /// How often it was sent.
    pub attempts: u32,
}
