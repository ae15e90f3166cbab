//! The messages of the protocol, version 1 (DESIGN §5).
//!
//! A message travels as `{type, body}` inside an envelope that names the cohort; who sent it is the
//! author of the Nostr event and nothing else. Bodies are strict JSON: a member nobody knows is
//! refused, so that what was signed is what was read.

use std::collections::BTreeMap;

use bitcoin::{ScriptBuf, Transaction, Txid};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::deposit::{Deposited, LeafOpening, UpdateDeposit};
use super::evidence::Signed;
pub use super::fallback_message::{Announced, FallbackRequest, FallbackSignature};
pub use super::formation_message::{
    Accept, CohortAck, EndCause, Ended, Frozen, Invite, Leave, OptIn, RefusalCode, Refused,
    Rejected, Relays, Release, SeatRequest, SeatState, Subscribe, Waiting,
};
use super::ids::{Label, Round, Seat, Subject};
pub use super::proof_message::{KeptProof, KeptProofs, KeptSignal, ProofRequest};
pub use super::raw_json::{MAX_RAW_DEPTH, RawJson};
pub use super::reform::Reform;
use super::refund_message::{
    RefundComplete, RefundNonces, RefundOpen, RefundPartial, RefundRequest,
};
pub use super::round_failed::{LostSession, RoundCause, RoundFailed};
use crate::beacon::smt::SmtPath;
use crate::did::Did;
use crate::hash::{
    LeafValue, SchnorrSignature, SignalBytes, SmtIndex, UpdateHash, array_from_hex, bytes_newtype,
    to_hex,
};
use crate::keys::NostrKey;
use crate::keys::musig::{AggregateNonce, PartialSignature, PublicNonce, SessionHash};
use crate::time::UnixTime;

bytes_newtype!(
    /// Hash of a frozen set: see [`super::set::CohortSet::hash`]. Text: lower-case hex.
    SetHash, 32, to_hex, array_from_hex
);

/// A transaction as consensus-serialised hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxHex(pub Transaction);

impl Serialize for TxHex {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&bitcoin::consensus::encode::serialize_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for TxHex {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        bitcoin::consensus::encode::deserialize_hex(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// Defines the message enum, its type names on the wire, and strict parsing by type name.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:literal => $variant:ident($body:ty),)*) => {
        /// Every message of wire version 1.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "body")]
        #[non_exhaustive]
        pub enum Message {
            $($(#[$doc])* #[serde(rename = $name)] $variant($body),)*
        }

        impl Message {
            /// Every type name.
            pub const TYPES: &[&str] = &[$($name),*];

            /// The type on the wire.
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }

            /// The body on the wire, as JSON.
            pub fn body(&self) -> Result<Box<RawValue>, serde_json::Error> {
                match self { $(Self::$variant(body) => serde_json::value::to_raw_value(body),)* }
            }

            /// Parses a body by its type.
            pub fn parse(type_name: &str, body: &RawValue) -> Result<Self, MessageError> {
                match type_name {
                    $($name => serde_json::from_str(body.get())
                        .map(Self::$variant)
                        .map_err(|error| MessageError::Malformed($name, error.to_string())),)*
                    other => Err(MessageError::UnknownType(other.chars().take(32).collect())),
                }
            }
        }
    };
}

/// Why a message can not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not a type of this version.
    #[error("unknown message type {0:?}")]
    UnknownType(String),
    /// The body is not what the type wants.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, String),
}

messages! {
    /// Participant → aggregator: asks for a seat; the author key is the seat's key.
    "opt_in" => OptIn(OptIn),
    /// Aggregator → participant: seated.
    "accept" => Accept(Accept),
    /// Aggregator → participant: the operator decides about the seat; wait.
    "waiting" => Waiting(Waiting),
    /// Aggregator → participant: the operator decided against the seat.
    "rejected" => Rejected(Rejected),
    /// Aggregator → participant: a request was not taken, and why.
    "refused" => Refused(Refused),
    /// Aggregator → channel: the key set.
    "cohort_set" => CohortSet(super::set::CohortSet),
    /// Member → aggregator: I recomputed the address.
    "cohort_ack" => CohortAck(Signed<CohortAck>),
    /// Aggregator → channel: all members acknowledged.
    "frozen" => Frozen(Frozen),
    /// Member → aggregator: indexes (CAS: DIDs) to cover from the next round on.
    "register" => Register(Register),
    /// Aggregator → member: what became of them.
    "registered" => Registered(Registered),
    /// Aggregator → member: another seat claims this SMT index; open it.
    "index_challenge" => IndexChallenge(IndexChallenge),
    /// Member → aggregator: opens an SMT index.
    "index_opening" => IndexOpening(IndexOpening),
    /// Member → aggregator: please open a round.
    "round_request" => RoundRequest(RoundRequest),
    /// Aggregator → channel: a round opens.
    "round_open" => RoundOpen(RoundOpen),
    /// Member → aggregator: the update behind a hash that it wants announced.
    "update_deposit" => UpdateDeposit(UpdateDeposit),
    /// Aggregator → member: what became of deposits.
    "deposited" => Deposited(Deposited),
    /// Member → aggregator: what to announce, and nonces.
    "response" => Response(Signed<Response>),
    /// Member → aggregator: replaces nonces, or says that they were lost.
    "nonce_update" => NonceUpdate(Signed<NonceUpdate>),
    /// Aggregator → channel: a further session needs nonces of these seats.
    "nonce_request" => NonceRequest(NonceRequest),
    /// Aggregator → channel: what to sign.
    "sign_request" => SignRequest(SignRequest),
    /// Aggregator → member, inside a channel post: its SMT proofs.
    "proofs" => Proofs(Proofs),
    /// Member → aggregator: partial signatures and spare nonces.
    "partial_signature" => PartialSignature(Signed<Partials>),
    /// Aggregator → channel: sign a stalled round's signal through the k-of-n leaf.
    "fallback_request" => FallbackRequest(FallbackRequest),
    /// Member → aggregator: its signatures of the signal through the leaf.
    "fallback_signature" => FallbackSignature(Signed<FallbackSignature>),
    /// Aggregator → channel: the refund of an output is to be signed; nonces, please.
    "refund_open" => RefundOpen(RefundOpen),
    /// Member → aggregator: nonces for a refund session.
    "refund_nonces" => RefundNonces(Signed<RefundNonces>),
    /// Aggregator → channel: the refund to sign.
    "refund_request" => RefundRequest(RefundRequest),
    /// Member → aggregator: its partial signature of a refund.
    "refund_partial" => RefundPartial(Signed<RefundPartial>),
    /// Aggregator → payee: a refund signed by all.
    "refund_complete" => RefundComplete(RefundComplete),
    /// Aggregator → channel: the round's outcome.
    "round_result" => RoundResult(RoundResult),
    /// Aggregator → channel: the round ended without a signature.
    "round_failed" => RoundFailed(RoundFailed),
    /// Member → aggregator: proofs of past rounds, please.
    "history_request" => HistoryRequest(HistoryRequest),
    /// Aggregator → member: proofs of past rounds.
    "history" => History(History),
    /// Aggregator → member: what do you keep of these signals? My store is older than they are.
    "proof_request" => ProofRequest(ProofRequest),
    /// Member → aggregator: what it keeps of them.
    "kept_proofs" => KeptProofs(KeptProofs),
    /// Member → aggregator: my store is new; what do you know of my seat?
    "seat_request" => SeatRequest(SeatRequest),
    /// Aggregator → member: what its seat was told.
    "seat_state" => SeatState(SeatState),
    /// Member → aggregator: I leave.
    "leave" => Leave(Leave),
    /// Aggregator → participant: your seat is free again.
    "release" => Release(Release),
    /// Aggregator → channel or participant: the cohort has ended.
    "ended" => Ended(Ended),
    /// Aggregator → channel: a new cohort without some seats.
    "reform" => Reform(Reform),
    /// Aggregator → channel: relays from now on.
    "relays" => Relays(Relays),
    /// Aggregator → invited key: terms of a cohort without a public advert.
    "invite" => Invite(Invite),
    /// Anybody → aggregator: I follow you; tell me of new cohorts.
    "subscribe" => Subscribe(Subscribe),
}

/// Types that a store which was restored does not send again: of a round that it gives up, and of sessions whose nonces
/// are gone. `parts` carries the proofs of a round.
pub const OF_A_ROUND: [&str; 11] = [
    "round_open",
    "response",
    "nonce_update",
    "nonce_request",
    "sign_request",
    "parts",
    "deposited",
    "fallback_request",
    "refund_open",
    "refund_nonces",
    "refund_request",
];

impl Message {
    /// What a message of a session is about: its round, or the refund session of an output that was paid in.
    #[must_use]
    pub const fn subject(&self) -> Option<Subject> {
        Some(match self {
            Self::RoundOpen(body) => Subject::Round(body.round),
            Self::Response(body) => Subject::Round(body.content.round),
            Self::NonceUpdate(body) => Subject::Round(body.content.round),
            Self::NonceRequest(body) => Subject::Round(body.round),
            Self::SignRequest(body) => Subject::Round(body.round),
            Self::Proofs(body) => Subject::Round(body.round),
            Self::PartialSignature(body) => Subject::Round(body.content.round),
            Self::FallbackRequest(body) => Subject::Round(body.round),
            Self::FallbackSignature(body) => Subject::Round(body.content.round),
            Self::RoundResult(body) => Subject::Round(body.round),
            Self::RoundFailed(body) => Subject::Round(body.round),
            Self::RefundOpen(body) => Subject::Deposit(body.deposit),
            Self::RefundNonces(body) => Subject::Deposit(body.content.deposit),
            Self::RefundRequest(body) => Subject::Deposit(body.deposit),
            Self::RefundPartial(body) => Subject::Deposit(body.content.deposit),
            _ => return None,
        })
    }
}

/// One index to cover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterItem {
    /// `SHA-256(DID)`.
    pub index: SmtIndex,
    /// CAS: the DID and the proof that the seat speaks for it. SMT: absent, the aggregator needs no DID.
    pub opening: Option<Opening>,
}

/// Shows that a seat speaks for a DID: a signature by a key of the DID's initial document over
/// `taggedhash("btcr2/registration/1", cohort ‖ seat key ‖ index)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The DID.
    pub did: Did,
    /// The x-only key that signs: of the k1 DID itself, or of a Multikey in the genesis document.
    pub key: NostrKey,
    /// The genesis document, for an x1 DID.
    pub genesis: Option<Box<RawJson>>,
    /// The signature.
    pub sig: SchnorrSignature,
}

/// Indexes to cover from the next round on. Repeating one is harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Register {
    /// The indexes.
    pub items: Vec<RegisterItem>,
}

/// What became of one registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisteredItem {
    /// The index.
    pub index: SmtIndex,
    /// The first round that covers it, if it was taken.
    pub from_round: Option<Round>,
    /// Why not, if it was refused.
    pub refused: Option<RefusalCode>,
}

/// Answer to [`Register`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// One item per index asked for.
    pub items: Vec<RegisteredItem>,
    /// The last round that was opened before, 0 if none: the member asks for the history up to here.
    pub last_round: u32,
}

/// Two seats claim one SMT index: both must open it, who does not loses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexChallenge {
    /// The index.
    pub index: SmtIndex,
    /// Until when.
    pub until: UnixTime,
}

/// Opens an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexOpening {
    /// The index.
    pub index: SmtIndex,
    /// The DID behind it and the proof.
    pub opening: Opening,
}

/// A member has something to announce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundRequest {
    /// How many updates it has waiting.
    pub pending: u16,
}

/// A round opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundOpen {
    /// The round.
    pub round: Round,
    /// Responses count until then.
    pub respond_by: UnixTime,
    /// How many indexes each seat has in this round: registrations acknowledged for a later round wait.
    pub indexes: BTreeMap<Seat, u16>,
    /// How many inputs the signal may have, 1 to 4: the tip and top-ups. A nonce is offered for each. Absent: 1.
    #[serde(default = "one_input", skip_serializing_if = "is_one_input")]
    pub inputs: u8,
}

const fn one_input() -> u8 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_one_input(inputs: &u8) -> bool {
    *inputs == 1
}

/// One index of an SMT response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtEntry {
    /// The index.
    pub index: SmtIndex,
    /// The leaf value; `null` leaves the index empty (a public "no update").
    pub leaf: Option<LeafValue>,
    /// The member has nothing to announce for it and does not mind if the round is skipped.
    pub idle: bool,
    /// What the leaf is made of, if its update was deposited or the terms require deposits; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<LeafOpening>,
}

/// One DID of a CAS response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CasEntry {
    /// The DID.
    pub did: Did,
    /// The update to announce; `null` is an explicit "no update".
    pub update: Option<UpdateHash>,
    /// The member has nothing to announce for it and does not mind if the round is skipped.
    pub idle: bool,
}

/// What a member wants announced, by beacon type. Every index of the seat appears exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entries {
    /// For an SMT beacon.
    Smt(Vec<SmtEntry>),
    /// For a CAS beacon.
    Cas(Vec<CasEntry>),
}

/// Public nonces of one session, one per label.
pub type Nonces = BTreeMap<Label, PublicNonce>;

/// Answer to [`RoundOpen`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// The round.
    pub round: Round,
    /// What to announce.
    pub entries: Entries,
    /// Public nonces of the first session.
    pub nonces: Nonces,
}

/// New nonces for a session: before its [`SignRequest`] they replace the earlier ones; for the session
/// after the current one they also say that the current one's are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceUpdate {
    /// The round.
    pub round: Round,
    /// The attempt these nonces are for.
    pub attempt: u32,
    /// The nonces.
    pub nonces: Nonces,
    /// Whether the author says with it that it can not sign the session before: a request for it was out, and the
    /// nonces it was made with are gone. Absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// A further session is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonceRequest {
    /// The round.
    pub round: Round,
    /// The attempt nonces are wanted for.
    pub attempt: u32,
    /// Seats whose nonces are missing.
    pub seats: Vec<Seat>,
    /// Until when.
    pub until: UnixTime,
}

/// An output that an input spends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrevoutInfo {
    /// Value in sat.
    pub value_sat: u64,
    /// Script, hex.
    pub script: ScriptBuf,
}

/// One rung of the fee ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RungToSign {
    /// The signal, unsigned.
    pub tx: TxHex,
    /// The refund of its change, unsigned; `null` if there is no change, or none is refunded.
    pub refund: Option<TxHex>,
}

/// What to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignRequest {
    /// The round.
    pub round: Round,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Partial signatures count until then.
    pub sign_by: UnixTime,
    /// The transactions, lowest fee first. All spend the same outputs and announce the same 32 bytes.
    pub rungs: Vec<RungToSign>,
    /// What their inputs spend, in order. Claims: a member uses what its own chain says.
    pub prevouts: Vec<PrevoutInfo>,
    /// The aggregate nonce of each message to sign: every input of every rung, and every refund.
    pub aggregate_nonces: BTreeMap<Label, AggregateNonce>,
    /// CAS: the announcement, exactly the bytes whose hash is the signal. SMT: `null`, proofs come apart.
    pub announcement: Option<String>,
}

/// The proof of one index in one round's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexProof {
    /// The index.
    pub index: SmtIndex,
    /// The path from its leaf to the root.
    pub path: SmtPath,
}

/// A member's own SMT proofs for a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proofs {
    /// The round.
    pub round: Round,
    /// One per index of the seat.
    pub proofs: Vec<IndexProof>,
}

/// Partial signatures of one session, with what they were made with, so that a third party can check a
/// blame: the nonces named here are the ones `session_hash` commits to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partials {
    /// The round.
    pub round: Round,
    /// The attempt.
    pub attempt: u32,
    /// Commits to key list, tweak and, per label, own nonce, aggregate nonce and sighash.
    pub session_hash: SessionHash,
    /// The public nonces used.
    pub nonces: Nonces,
    /// The partial signatures.
    pub partials: BTreeMap<Label, PartialSignature>,
    /// Public nonces for one further session of this round, should another member need one.
    pub spares: Nonces,
}

/// How a round ended well. It may come again with the same signal at a higher fee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundResult {
    /// The round.
    pub round: Round,
    /// The signed transaction; `null` when all were idle and the terms skip empty rounds.
    pub tx: Option<TxHex>,
}

/// Asks for proofs of past rounds, for any index: also one that was not registered then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryRequest {
    /// The index.
    pub index: SmtIndex,
    /// The first round wanted.
    pub from_round: Round,
}

/// One signed round, as it concerns one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryItem {
    /// The round.
    pub round: Round,
    /// Its signal.
    pub signal: SignalBytes,
    /// The transaction that carries it (its id does not depend on signatures).
    pub txid: Txid,
    /// SMT: the path of the index, and the value of its leaf when it had one.
    pub path: Option<SmtPath>,
    /// SMT: the leaf the index had; `null` if it was empty.
    pub leaf: Option<LeafValue>,
    /// CAS: the announcement.
    pub announcement: Option<String>,
}

/// Proofs of past rounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// The index.
    pub index: SmtIndex,
    /// The rounds that reached a signing request, oldest first.
    pub items: Vec<HistoryItem>,
    /// The next round to ask for when the answer was cut for size; `null` when it is complete.
    pub next: Option<Round>,
}
