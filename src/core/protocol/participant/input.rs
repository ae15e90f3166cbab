//! What happens to a member: everything its state depends on.

use std::collections::BTreeMap;

use bitcoin::{ScriptBuf, Txid};
use serde::{Deserialize, Serialize};

use super::{Recalled, Regained, SigningPolicy};
use crate::hash::{SchnorrSignature, SignalBytes, SmtIndex, UpdateHash};
use crate::keys::NostrKey;
use crate::keys::musig::PartialSignature;
use crate::protocol::admission::Ticket;
use crate::protocol::chain_view::ChainUpdate;
use crate::protocol::deposit::UpdateDeposit;
use crate::protocol::effect::Prepared;
use crate::protocol::ids::{Label, Round, SessionId};
use crate::protocol::message::{Message, Nonces, Opening, RegisterItem};

/// Something that happened to a member of a cohort. The log stores it as JSON; the tag is outside because
/// serde can not read raw JSON and numeric map keys back through an inner one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParticipantInput {
    /// User: ask for a seat. The terms, and their terms of service, were agreed to.
    Join {
        /// Where refunds go, if anywhere.
        payee: Option<ScriptBuf>,
    },
    /// User: what to show with the opt-in. Comes before [`Join`](Self::Join).
    Ticket(Option<Ticket>),
    /// A message whose author was verified.
    Message {
        /// Its author.
        from: NostrKey,
        /// The message.
        message: Message,
    },
    /// Time passed.
    Tick,
    /// The chain changed.
    Chain(ChainUpdate),
    /// What came of [`Effect::Broadcast`](crate::protocol::effect::Effect::Broadcast).
    Broadcast {
        /// The transaction.
        txid: Txid,
        /// `None` if the chain took it, else its reason.
        error: Option<String>,
    },
    /// What came of [`Effect::Prepare`](crate::protocol::effect::Effect::Prepare).
    Prepared(Prepared),
    /// What came of [`Effect::Sign`](crate::protocol::effect::Effect::Sign).
    Signed(SignedSession),
    /// The signer could not sign: its nonce is lost.
    SignFailed {
        /// The session.
        session: SessionId,
    },
    /// What came of [`Effect::SignFallback`](crate::protocol::effect::Effect::SignFallback).
    FallbackSigned {
        /// The round.
        round: Round,
        /// One signature per digest.
        signatures: Vec<SchnorrSignature>,
    },
    /// User: have these indexes covered.
    Register {
        /// The indexes; for a CAS cohort with openings.
        items: Vec<RegisterItem>,
    },
    /// What came of [`Effect::OpenIndex`](crate::protocol::effect::Effect::OpenIndex).
    Open {
        /// The index.
        index: SmtIndex,
        /// The DID and the proof.
        opening: Opening,
    },
    /// The DID behind the index now lists the beacon in its document.
    Bound {
        /// The index.
        index: SmtIndex,
    },
    /// User: show the aggregator this update. Comes before the update is queued.
    Deposit(Box<UpdateDeposit>),
    /// User: announce this update.
    Queue {
        /// The index.
        index: SmtIndex,
        /// Hash of the signed update, whose bytes are stored.
        update: UpdateHash,
    },
    /// User: do not announce it after all.
    Withdraw {
        /// The index.
        index: SmtIndex,
    },
    /// User: leave.
    Leave {
        /// Also when that ends the beacon for all.
        even_if_frozen: bool,
    },
    /// What came of [`Effect::Recall`](crate::protocol::effect::Effect::Recall).
    Recalled(Recalled),
    /// What was saved for these signals is gone from the store.
    Lost {
        /// The index.
        index: SmtIndex,
        /// The signals.
        signals: Vec<SignalBytes>,
    },
    /// User: ask for what is missing of an index, now.
    Fetch {
        /// The index.
        index: SmtIndex,
    },
    /// From now on this is signed without asking. Comes first, and again when the settings changed.
    Policy(SigningPolicy),
    /// The process was restarted: all secret nonces are gone.
    Restarted,
    /// The store was made again out of a bundle: it may be older than what this member did last.
    Recovered,
    /// The store was made again out of the words alone, and there is a trace of a seat: what it was told is asked for.
    Reseat {
        /// Where refunds would have been asked to go.
        payee: Option<ScriptBuf>,
    },
    /// What is behind indexes of a seat that was asked for again.
    Regained {
        /// The indexes.
        items: Vec<Regained>,
    },
}

/// The driver's answer to [`Effect::Sign`](crate::protocol::effect::Effect::Sign).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedSession {
    /// The session.
    pub session: SessionId,
    /// Partial signatures, one per label.
    pub partials: BTreeMap<Label, PartialSignature>,
    /// Public nonces for the next attempt of the round.
    pub spares: Nonces,
}
