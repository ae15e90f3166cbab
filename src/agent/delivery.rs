//! Sending and receiving: envelopes, lanes, chunks, seals. Between the core's messages and Nostr events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::AgentError;
use super::node::{Machine, Node};
use crate::hash::{array_from_hex, to_hex};
use crate::keys::{KeyName, NostrKey, OwnKey};
use crate::nostr::chunks;
use crate::nostr::envelope;
use crate::nostr::seal::{ChannelKey, ConversationKeys};
use crate::protocol::ids::Subject;
use crate::protocol::message::Message;
use crate::time::UnixTime;

/// Type of the message that hands out a channel's secret. It never reaches the core.
pub(super) const CHANNEL_KEY: &str = "channel_key";

/// Type of a channel post that bundles parts for single members.
pub(super) const PARTS: &str = "parts";

/// Bytes of the parts in one post, their names included. A larger post would be cut into two chunks, each
/// a third longer and of no use to anybody before the other is there.
const PARTS_BYTES: usize = chunks::MAX_WHOLE - 64;

/// Bytes that a part's name takes: 64 hexadecimal digits, four quotation marks, colon and comma.
const PART_NAME: usize = 64 + 6;

/// Seconds after which relays may drop a message of a round: its deadline lies within a month.
const ROUND_EXPIRY: u64 = 60 * 86_400;

/// Seconds after which relays may drop a message of formation, or a result.
const LONG_EXPIRY: u64 = 365 * 86_400;

/// Seconds after which relays, and the store, may drop a page of history: whoever still lacks it asks again. Anybody can
/// have as many of them made as are answered.
const ANSWER_EXPIRY: u64 = 7 * 86_400;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChannelGrant {
    /// The channel's secret key, hex.
    secret: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    /// Seat key to NIP-44 payload.
    parts: BTreeMap<KeyName, String>,
}

/// A message ready to be wrapped in an envelope.
pub(super) struct Outgoing {
    pub(super) recipient: NostrKey,
    pub(super) message: envelope::Message,
    pub(super) kind: &'static str,
    /// What it is about, if it belongs to a session.
    pub(super) about: Option<Subject>,
}

/// What came out of a sealed event.
pub(super) enum Opened {
    /// A message for the core.
    Message(Message),
    /// The secret of a channel.
    Channel(ChannelKey),
    /// A post without a part for this member.
    NotForMe,
    /// Nothing to hand on, and why.
    Unreadable(String),
}

/// When relays may drop a message.
pub(super) fn expiry(now: UnixTime, kind: &str) -> UnixTime {
    let round = matches!(
        kind,
        "round_open"
            | "update_deposit"
            | "deposited"
            | "response"
            | "nonce_update"
            | "nonce_request"
            | "sign_request"
            | "parts"
            | "partial_signature"
            | "fallback_signature"
            | "refund_open"
            | "refund_nonces"
            | "refund_request"
            | "refund_partial"
            | "round_request"
            | "refused"
    );
    now.plus(match kind {
        "history" => ANSWER_EXPIRY,
        _ if round => ROUND_EXPIRY,
        _ => LONG_EXPIRY,
    })
}

/// Wraps a message of the core; signs the evidence in it with the seat's key.
pub(super) fn wrap(
    node: &Node,
    mut message: Message,
    recipient: NostrKey,
) -> Result<Outgoing, AgentError> {
    let cohort = node.id.0;
    let sign = |digest: &[u8; 32]| node.own.sign_digest(digest);
    match &mut message {
        Message::CohortAck(body) => body.sign_with(&cohort, sign),
        Message::Response(body) => body.sign_with(&cohort, sign),
        Message::NonceUpdate(body) => body.sign_with(&cohort, sign),
        Message::PartialSignature(body) => body.sign_with(&cohort, sign),
        Message::FallbackSignature(body) => body.sign_with(&cohort, sign),
        Message::RefundNonces(body) => body.sign_with(&cohort, sign),
        Message::RefundPartial(body) => body.sign_with(&cohort, sign),
        _ => {}
    }
    Ok(Outgoing {
        recipient,
        kind: message.type_name(),
        about: message.subject(),
        message: plain(&message)?,
    })
}

fn plain(message: &Message) -> Result<envelope::Message, AgentError> {
    let body = message
        .body()
        .map_err(|error| AgentError::Send(error.to_string()))?;
    Ok(envelope::Message {
        kind: message.type_name().to_owned(),
        body,
    })
}

/// Hands out the channel's secret.
pub(super) fn grant(channel: &ChannelKey, recipient: NostrKey) -> Result<Outgoing, AgentError> {
    let grant = ChannelGrant {
        secret: Zeroizing::new(to_hex(&*channel.expose_secret())),
    };
    Ok(Outgoing {
        recipient,
        kind: CHANNEL_KEY,
        about: None,
        message: envelope::Message::new(CHANNEL_KEY, &grant).map_err(send_error)?,
    })
}

/// Seals each member's part and bundles them in as few channel posts as their size allows.
pub(super) fn bundle(
    conversations: &ConversationKeys,
    own: &OwnKey,
    channel: NostrKey,
    parts: &[(NostrKey, Message)],
) -> Result<Vec<Outgoing>, AgentError> {
    let mut posts = Vec::new();
    let mut bundle = BTreeMap::new();
    let mut bytes = 0;
    let about = parts.first().and_then(|(_, message)| message.subject());
    let post = |parts: BTreeMap<KeyName, String>| -> Result<Outgoing, AgentError> {
        Ok(Outgoing {
            recipient: channel,
            kind: PARTS,
            about,
            message: envelope::Message::new(PARTS, &Parts { parts }).map_err(send_error)?,
        })
    };
    for (key, message) in parts {
        let json = plain(message)?.to_json().map_err(send_error)?;
        let sealed = conversations
            .seal_part(own, *key, json.as_bytes())
            .map_err(|fault| AgentError::Send(fault.to_string()))?;
        let size = PART_NAME + sealed.len();
        if bytes > 0 && bytes + size > PARTS_BYTES {
            posts.push(post(std::mem::take(&mut bundle))?);
            bytes = 0;
        }
        bytes += size;
        bundle.insert(KeyName::from(*key), sealed);
    }
    if !bundle.is_empty() {
        posts.push(post(bundle)?);
    }
    Ok(posts)
}

/// The envelopes of a message: one, or one per chunk.
pub(super) fn split(outgoing: Outgoing) -> Result<Vec<envelope::Message>, AgentError> {
    chunks::split(outgoing.message).map_err(|fault| AgentError::Send(fault.to_string()))
}

/// Reads a whole message that came to a node.
pub(super) fn open(
    conversations: &ConversationKeys,
    node: &Node,
    from: NostrKey,
    message: &envelope::Message,
) -> Opened {
    match message.kind.as_str() {
        CHANNEL_KEY => match message.body::<ChannelGrant>() {
            Ok(grant) => {
                let secret = array_from_hex::<32>(&grant.secret).map(Zeroizing::new);
                match secret.map(|secret| ChannelKey::from_secret(&secret)) {
                    Ok(Ok(channel)) => Opened::Channel(channel),
                    _ => Opened::Unreadable("the channel secret is not a key".into()),
                }
            }
            Err(fault) => Opened::Unreadable(fault.to_string()),
        },
        PARTS => match message.body::<Parts>() {
            Ok(parts) => {
                let Some(part) = parts.parts.get(&KeyName::from(node.own.public())) else {
                    return Opened::NotForMe;
                };
                let inner = conversations
                    .open_part(&node.own, from, part)
                    .map_err(|fault| fault.to_string())
                    .and_then(|bytes| {
                        envelope::Message::from_json(&bytes).map_err(|fault| fault.to_string())
                    });
                match inner {
                    Ok(inner) => parse(&inner),
                    Err(fault) => Opened::Unreadable(fault),
                }
            }
            Err(fault) => Opened::Unreadable(fault.to_string()),
        },
        _ => parse(message),
    }
}

fn parse(message: &envelope::Message) -> Opened {
    match Message::parse(&message.kind, &message.body) {
        Ok(message) => Opened::Message(message),
        Err(fault) => Opened::Unreadable(fault.to_string()),
    }
}

fn send_error(fault: envelope::EnvelopeFault) -> AgentError {
    AgentError::Send(fault.to_string())
}

/// The key channel messages of a node go to, or come from.
pub(super) fn channel_of(node: &Node) -> Option<NostrKey> {
    node.channel.as_ref().map(ChannelKey::public)
}

/// Whether only the aggregator may speak to this node.
pub(super) fn expected_author(node: &Node) -> Option<NostrKey> {
    match &node.machine {
        Machine::Aggregator(_) => None,
        Machine::Participant(machine) => Some(machine.terms().aggregator),
    }
}

/// Whether pieces of long messages are kept that come from this key. A member hears its aggregator only.
pub(super) fn may_send_chunks(node: &Node, from: NostrKey) -> bool {
    match &node.machine {
        Machine::Aggregator(machine) => machine.members().contains(&from),
        Machine::Participant(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Round;
    use crate::protocol::message::RoundResult;

    #[test]
    fn bundles_travel_whole_and_full() {
        let own = OwnKey::from_bytes(&[1; 32]).unwrap();
        let channel = OwnKey::from_bytes(&[2; 32]).unwrap().public();
        let conversations = ConversationKeys::new();
        let parts: Vec<(NostrKey, Message)> = (1..=250u8)
            .map(|n| {
                let member = OwnKey::from_bytes(&[n; 32]).unwrap().public();
                let round = Round(n.into());
                (
                    member,
                    Message::RoundResult(RoundResult { round, tx: None }),
                )
            })
            .collect();
        let posts = bundle(&conversations, &own, channel, &parts).unwrap();
        let count = posts.len();
        let mut named = 0;
        for (position, post) in posts.into_iter().enumerate() {
            let length = post.message.to_json().unwrap().len();
            let body: Parts = post.message.body().unwrap();
            named += body.parts.len();
            assert_eq!(split(post).unwrap().len(), 1, "{length} bytes are cut");
            assert!(position + 1 == count || length > chunks::MAX_WHOLE * 9 / 10);
        }
        assert_eq!(named, parts.len());
        assert!(count > 1);
    }
}
