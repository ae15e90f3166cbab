//! What happens to the aggregator: everything its state depends on.

use bitcoin::{OutPoint, ScriptBuf, Txid};
use serde::{Deserialize, Serialize};

use super::Decision;
use crate::keys::NostrKey;
use crate::protocol::chain_view::ChainUpdate;
use crate::protocol::ids::Seat;
use crate::protocol::message::Message;

/// Something that happened to the aggregator of a cohort. The log stores it as JSON; the tag is outside
/// because serde can not read raw JSON and numeric map keys back through an inner one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregatorInput {
    /// Begin: publish the advert, or invite.
    Advertise {
        /// Keys that may opt in when the terms are invite-only; they get the terms as a message.
        invited: Vec<NostrKey>,
        /// Relays to name in invitations.
        relays: Vec<String>,
        /// Where refunds to the aggregator go, if anywhere: a P2WPKH, P2WSH or P2TR script.
        payee: Option<ScriptBuf>,
    },
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
        /// Whether the reason is that it pays too little.
        #[serde(default)]
        fee_too_low: bool,
    },
    /// Operator: send the unconfirmed signal at its next higher fee.
    Bump,
    /// Operator: form with the seats taken so far.
    Close,
    /// Operator: open a round now.
    OpenRound,
    /// Operator: have the refunds of these outputs signed, with their value in sat, before somebody pays them.
    Protect {
        /// What is going to be paid to the beacon address.
        outputs: Vec<(OutPoint, u64)>,
    },
    /// Operator: free a seat before the set is closed.
    Release {
        /// The member.
        member: NostrKey,
        /// Words for it.
        reason: String,
    },
    /// Operator: who is seated.
    Decide(Decision),
    /// Operator: offer the members a new cohort without some seats.
    Reform {
        /// Its canonical terms.
        terms: String,
        /// Relays to name.
        relays: Vec<String>,
        /// The seats that are left out.
        without: Vec<Seat>,
        /// Words for people.
        reason: String,
    },
    /// Operator: end the cohort.
    Cancel,
    /// The store is an older copy of itself: rounds may have been held since that it does not know.
    Restored,
    /// The money gate: whether it permits money on the cohort's network.
    Money {
        /// Whether it does.
        permitted: bool,
    },
    /// The money gate: the highest fee of one transaction.
    MaxFee {
        /// In sat.
        sat: u64,
    },
}
