//! What the core asks its driver to do, and what it says became of an input.

use std::fmt;
use std::str::FromStr;

use bitcoin::{OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::deposit::DepositCode;
use super::ids::{Label, Round, SessionId};
use super::message::{HistoryRequest, Message, Nonces, RefusalCode};
pub use super::report::Report;
use crate::beacon::smt::SmtPath;
use crate::did::Did;
use crate::hash::{LeafValue, SignalBytes, SmtIndex, SmtNonce, UpdateHash};
use crate::keys::NostrKey;
use crate::keys::musig::{AggregateNonce, PublicNonce};

use super::evidence::Sighash;

/// To whom a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum To {
    /// One key, as a directed message.
    Key(NostrKey),
    /// All members, over the cohort's channel.
    Channel,
}

/// What an advert's `s` tag says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdvertStatus {
    /// Seats are free.
    Open,
    /// All seats are taken; the set is forming.
    Full,
    /// The cohort announces.
    Active,
    /// The cohort has ended.
    Closed,
}

/// A status nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a status is open, full, active or closed")]
pub struct UnknownStatus;

impl AdvertStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Open, Self::Full, Self::Active, Self::Closed];

    /// The value of the tag.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Full => "full",
            Self::Active => "active",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for AdvertStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AdvertStatus {
    type Err = UnknownStatus;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.name() == text)
            .ok_or(UnknownStatus)
    }
}

/// Something to be done by the driver, in order. What must be durable first comes first.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message. Bodies that carry evidence are still unsigned: the driver signs them with the seat key.
    Send {
        /// To whom.
        to: To,
        /// What.
        message: Message,
    },
    /// Send each member its own part, bundled in channel posts.
    SendParts(Vec<(NostrKey, Message)>),
    /// Hand the channel's secret to these members, directly.
    GrantChannel(Vec<NostrKey>),
    /// Publish the advert with this status.
    Advertise(AdvertStatus),
    /// Make nonces for these labels of a session, and derive the SMT nonces of these indexes (only a session about a
    /// round has any); answer with `Prepared`.
    Prepare {
        /// The session.
        session: SessionId,
        /// What it may have to sign.
        labels: Vec<Label>,
        /// Indexes whose SMT nonce of this round is wanted.
        indexes: Vec<SmtIndex>,
    },
    /// Sign; then make nonces for the next attempt of the round; answer with `Signed` or `SignFailed`.
    Sign(SignOrder),
    /// Sign these digests with the seat's key, without MuSig2: the inputs of a signal through the k-of-n leaf. Answer
    /// with `FallbackSigned`.
    SignFallback(FallbackOrder),
    /// Open an index: another seat claims it. Answer with `Open`, if the driver holds a key of the DID.
    OpenIndex(SmtIndex),
    /// Keep this for the life of the beacon. Durable before any later effect of the same step.
    Save(Artifact),
    /// Send a transaction to the chain; answer with `Broadcast`.
    Broadcast(Transaction),
    /// Answer a history request out of the kept leaf sets or announcements.
    AnswerHistory {
        /// Who asks.
        to: NostrKey,
        /// What.
        request: HistoryRequest,
    },
    /// Member: show the aggregator what is kept of these indexes and of the whole round under these signals.
    ShowProofs {
        /// The member's indexes.
        indexes: Vec<SmtIndex>,
        /// The signals, in the order they were asked for.
        signals: Vec<SignalBytes>,
    },
    /// Derive the SMT nonces of an index in these past rounds, and name the updates of its DID; answer with
    /// `Recalled`.
    Recall {
        /// The index.
        index: SmtIndex,
        /// The rounds.
        rounds: Vec<Round>,
    },
    /// Tell the user.
    Report(Report),
}

/// One approved session to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOrder {
    /// The session.
    pub session: SessionId,
    /// What to sign, in the order of labels.
    pub labels: Vec<LabelOrder>,
    /// The labels of the next attempt, for which nonces are made ahead. None: there is no next attempt.
    pub spares: Vec<Label>,
}

/// An approved signal to sign through the k-of-n leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackOrder {
    /// The round.
    pub round: Round,
    /// The digest of each input, computed locally from the approved transaction.
    pub sighashes: Vec<Sighash>,
}

/// One approved message to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelOrder {
    /// The label.
    pub label: Label,
    /// The public nonce whose secret must be used.
    pub nonce: PublicNonce,
    /// The aggregate nonce.
    pub aggregate_nonce: AggregateNonce,
    /// The digest, computed locally from the approved transaction.
    pub sighash: Sighash,
}

/// Data without which a DID does not resolve, or a proof can not be made again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Artifact {
    /// The proof of one of a member's indexes in one signal.
    SmtProof {
        /// The round.
        round: Round,
        /// The index.
        index: SmtIndex,
        /// The signal: root of the tree.
        signal: SignalBytes,
        /// The transaction that carries it.
        txid: Txid,
        /// The member's nonce, unless the index was empty.
        nonce: Option<SmtNonce>,
        /// The update announced, if any.
        update: Option<UpdateHash>,
        /// The path.
        path: SmtPath,
    },
    /// The CAS announcement of one signal.
    Announcement {
        /// The round.
        round: Round,
        /// The signal: hash of the bytes.
        signal: SignalBytes,
        /// The transaction that carries it.
        txid: Txid,
        /// The bytes.
        announcement: String,
    },
    /// Aggregator: all leaves of one signal's tree, to prove any index later.
    LeafSet {
        /// The round.
        round: Round,
        /// The signal: root of the tree.
        signal: SignalBytes,
        /// The transaction that carries it.
        txid: Txid,
        /// The leaves.
        leaves: Vec<(SmtIndex, LeafValue)>,
    },
    /// Aggregator: an update that was deposited and verified. It belongs to no round: its hash names it.
    Deposit {
        /// The update's hash: SHA-256 of `update`.
        hash: UpdateHash,
        /// The signed update, canonical.
        update: String,
        /// The genesis document of an x1 DID, canonical, if it came along.
        genesis: Option<(Did, String)>,
    },
    /// A refund signed by all: payees and the aggregator keep it. It belongs to no round.
    Refund {
        /// The output it spends.
        outpoint: OutPoint,
        /// Value of that output in sat.
        value_sat: u64,
        /// The signed transaction.
        tx: Transaction,
    },
    /// A signed signal transaction.
    SignedTransaction {
        /// The round.
        round: Round,
        /// The signal.
        signal: SignalBytes,
        /// The transaction.
        tx: Transaction,
    },
}

/// What became of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It changed the state, or is known and harmless.
    Accepted,
    /// It counts for nothing, and why.
    Ignored(Ignored),
    /// It shows that a member misbehaved.
    Blamed(NostrKey),
}

/// Why an input counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ignored {
    /// The author holds no seat.
    NotAMember,
    /// The author is not the cohort's aggregator.
    NotTheAggregator,
    /// Not in this phase of the cohort.
    WrongPhase,
    /// Not the round that is open.
    WrongRound,
    /// Not the session that is open.
    WrongSession,
    /// Known already, and another version of it does not count.
    Duplicate,
    /// The evidence signature is missing or wrong.
    BadEvidence,
    /// It came after its deadline.
    TooLate,
    /// It was refused, and the sender was told.
    Refused(RefusalCode),
    /// A deposit was refused, and the sender was told why.
    DepositRefused(DepositCode),
    /// It contradicts what is known: text says what.
    Contradiction(String),
    /// It is not for this role.
    WrongRole,
    /// A request to sign was refused.
    WillNotSign(String),
    /// A history item that does not prove what it should.
    BadProof,
    /// The driver answered something nobody asked.
    Unasked,
    /// Its sender has said so much of this type that nothing more of it counts for now: see [`super::quota`].
    OverQuota,
}

/// The result of handling one input.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Step {
    /// What became of it.
    pub outcome: Outcome,
    /// What to do, in order.
    pub effects: Vec<Effect>,
}

impl Step {
    /// Accepted, nothing to do.
    pub const fn accepted() -> Self {
        Self {
            outcome: Outcome::Accepted,
            effects: Vec::new(),
        }
    }

    /// Accepted, with effects.
    pub const fn with(effects: Vec<Effect>) -> Self {
        Self {
            outcome: Outcome::Accepted,
            effects,
        }
    }

    /// Whether the input that led here belongs into the log, with `kind` the type of a message or a name of another
    /// input. What does not has changed nothing, and may be repeated without end: a message that counts for nothing, a
    /// question that is answered, the opt-in of somebody who is not seated by it, a tick with nothing due.
    #[must_use]
    pub fn is_logged(&self, kind: &str) -> bool {
        let ignored = matches!(self.outcome, Outcome::Ignored(_));
        let answered = matches!(
            self.outcome,
            Outcome::Ignored(Ignored::Refused(_) | Ignored::Duplicate)
        );
        match kind {
            "history_request" | "seat_request" | "proof_request" => false,
            "opt_in" if answered => false,
            "tick" => !self.effects.is_empty(),
            _ => !(ignored && self.effects.is_empty()),
        }
    }

    /// Ignored.
    pub const fn ignored(reason: Ignored) -> Self {
        Self {
            outcome: Outcome::Ignored(reason),
            effects: Vec::new(),
        }
    }
}

/// The driver's answer to [`Effect::Prepare`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The session.
    pub session: SessionId,
    /// Public nonces, one per label.
    pub nonces: Nonces,
    /// The SMT nonces asked for.
    pub smt_nonces: Vec<(SmtIndex, SmtNonce)>,
}
