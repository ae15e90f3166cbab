//! What is inside the ciphertext: `{v, cohort, inc, seq, acks, type, body}` (DESIGN §4).
//!
//! A *lane* is (author, recipient or channel key, cohort). `seq` counts the messages of the lane the
//! envelope travels on, from 1; `inc` is the incarnation of the author's store. `acks` tell what the
//! author has received on other lanes. The author is the event's key and stands nowhere in here.
//!
//! A message that only acknowledges has type [`ACK`] and `seq` 0: it is not counted, not acknowledged and
//! may get lost. Every other message is counted, so that a lane has no gaps for ever.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::seal::MAX_PLAINTEXT;
use crate::hash::CohortId;
use crate::keys::KeyName;

/// Version of the envelope and of the messages inside.
pub const VERSION: u8 = 1;

/// The type of a message that only acknowledges; its body is `{}`.
pub const ACK: &str = "ack";

/// The most acknowledgements in one envelope.
pub const MAX_ACKS: usize = 128;

/// The most out-of-order numbers in one acknowledgement.
pub const MAX_ALSO: usize = 8;

/// The longest message type, in ASCII letters, digits, `-` and `_`.
const MAX_TYPE: usize = 40;

/// Which life of a store wrote a message. A store restored from a backup gets a higher one; so do not
/// count it up, take the time of its creation or restoration in seconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// One message of the protocol: its type and its body, not yet parsed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The type: ASCII letters, digits, `-` and `_`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The body, JSON.
    pub body: Box<RawValue>,
}

/// The plaintext of a directed or channel message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// [`VERSION`].
    pub v: u8,
    /// The cohort the message is about.
    pub cohort: CohortId,
    /// Incarnation of the author's store.
    pub inc: Incarnation,
    /// Number of the message on its lane, from 1; 0 exactly for [`ACK`].
    pub seq: u64,
    /// What the author has received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acks: Vec<Ack>,
    /// The message's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The message's body, JSON.
    pub body: Box<RawValue>,
}

/// The author of the envelope has received, on one lane, all of `1..=upto` and the numbers in `also`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Which lane.
    pub of: AckOf,
    /// The incarnation the numbers belong to. An acknowledgement of another one says nothing.
    pub inc: Incarnation,
    /// Every message up to this one arrived; 0: none.
    pub upto: u64,
    /// Further ones, ascending, all above `upto + 1`, at most [`MAX_ALSO`]. Others may have arrived too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<u64>,
}

/// The lane an [`Ack`] speaks of; always one of the same cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckOf {
    /// In a directed message: the lane from its recipient to its author. Text: `direct`.
    Direct,
    /// In a member's message to the aggregator: the cohort's channel. Text: `channel`.
    Channel,
    /// In a channel message: the directed lane of this member to the aggregator. Text: the key.
    Member(KeyName),
}

/// Why a plaintext is not an envelope, or an envelope can not be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeFault {
    /// Longer than a message may be.
    #[error("the envelope has {0} bytes, more than {MAX_PLAINTEXT}: send the message in chunks")]
    TooLarge(usize),
    /// Not the JSON of an envelope.
    #[error("not an envelope: {0}")]
    Malformed(String),
    /// Another version of the protocol.
    #[error("envelope version {0}, this agent speaks {VERSION}")]
    Version(u8),
    /// `seq` is 0 in a counted message, or is not in one of type [`ACK`].
    #[error("seq counts from 1, and is 0 only for {ACK:?}")]
    Sequence,
    /// The type is empty, too long or has other characters.
    #[error("a message type has 1 to {MAX_TYPE} of A-Z a-z 0-9 - _")]
    Type,
    /// Too many acknowledgements, or one whose `also` is too long, not ascending or not above `upto`.
    #[error("the acknowledgements are not in order")]
    Acks,
}

impl Message {
    /// Makes a message of a type and a body.
    pub fn new<T: Serialize>(kind: &str, body: &T) -> Result<Self, EnvelopeFault> {
        let message = Self {
            kind: kind.to_owned(),
            body: serde_json::value::to_raw_value(body).map_err(malformed)?,
        };
        check_type(&message.kind)?;
        Ok(message)
    }

    /// Parses the body. Strictness is the type's: it should deny unknown fields.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, EnvelopeFault> {
        serde_json::from_str(self.body.get()).map_err(malformed)
    }

    /// The message's JSON.
    pub fn to_json(&self) -> Result<String, EnvelopeFault> {
        serde_json::to_string(self).map_err(malformed)
    }

    /// Parses a message's JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, EnvelopeFault> {
        let message: Self = serde_json::from_slice(json).map_err(malformed)?;
        check_type(&message.kind)?;
        Ok(message)
    }
}

impl Envelope {
    /// Puts a message on a lane.
    #[must_use]
    pub fn new(
        cohort: CohortId,
        inc: Incarnation,
        seq: u64,
        acks: Vec<Ack>,
        message: Message,
    ) -> Self {
        Self {
            v: VERSION,
            cohort,
            inc,
            seq,
            acks,
            kind: message.kind,
            body: message.body,
        }
    }

    /// The message without its envelope.
    #[must_use]
    pub fn into_message(self) -> Message {
        Message {
            kind: self.kind,
            body: self.body,
        }
    }

    /// The plaintext to seal. Acknowledgements that find no room are dropped from the end, and from
    /// `self`: they are repeated in a later envelope.
    pub fn encode(&mut self) -> Result<Vec<u8>, EnvelopeFault> {
        check(self)?;
        let mut json = serde_json::to_vec(self).map_err(malformed)?;
        while json.len() > MAX_PLAINTEXT {
            if self.acks.pop().is_none() {
                return Err(EnvelopeFault::TooLarge(json.len()));
            }
            json = serde_json::to_vec(self).map_err(malformed)?;
        }
        Ok(json)
    }

    /// Parses a plaintext strictly.
    pub fn decode(plaintext: &[u8]) -> Result<Self, EnvelopeFault> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(EnvelopeFault::TooLarge(plaintext.len()));
        }
        let envelope: Self = serde_json::from_slice(plaintext).map_err(malformed)?;
        check(&envelope)?;
        Ok(envelope)
    }
}

impl Ack {
    /// Whether this acknowledges number `seq` of incarnation `inc`.
    #[must_use]
    pub fn covers(&self, inc: Incarnation, seq: u64) -> bool {
        self.inc == inc && (seq <= self.upto || self.also.contains(&seq))
    }
}

impl fmt::Display for AckOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Channel => f.write_str("channel"),
            Self::Member(key) => key.fmt(f),
        }
    }
}

impl Serialize for AckOf {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AckOf {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        match text.as_ref() {
            "direct" => Ok(Self::Direct),
            "channel" => Ok(Self::Channel),
            key => key
                .parse()
                .map(Self::Member)
                .map_err(serde::de::Error::custom),
        }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn malformed(error: serde_json::Error) -> EnvelopeFault {
    EnvelopeFault::Malformed(error.to_string())
}

fn check(envelope: &Envelope) -> Result<(), EnvelopeFault> {
    if envelope.v != VERSION {
        return Err(EnvelopeFault::Version(envelope.v));
    }
    if (envelope.seq == 0) != (envelope.kind == ACK) {
        return Err(EnvelopeFault::Sequence);
    }
    check_type(&envelope.kind)?;
    if envelope.acks.len() > MAX_ACKS || !envelope.acks.iter().all(in_order) {
        return Err(EnvelopeFault::Acks);
    }
    Ok(())
}

fn check_type(kind: &str) -> Result<(), EnvelopeFault> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if kind.is_empty() || kind.len() > MAX_TYPE || !kind.bytes().all(allowed) {
        return Err(EnvelopeFault::Type);
    }
    Ok(())
}

/// `also` is ascending and starts above the first number that is missing.
fn in_order(ack: &Ack) -> bool {
    ack.also.len() <= MAX_ALSO
        && ack
            .also
            .first()
            .is_none_or(|first| *first > ack.upto.saturating_add(1))
        && ack.also.is_sorted_by(|a, b| a < b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelope(acks: Vec<Ack>) -> Envelope {
        let message = Message::new("OptIn", &serde_json::json!({"payee": null})).unwrap();
        Envelope::new(
            CohortId::from_bytes([0xab; 32]),
            Incarnation(7),
            3,
            acks,
            message,
        )
    }

    fn ack(upto: u64, also: &[u64]) -> Ack {
        Ack {
            of: AckOf::Direct,
            inc: Incarnation(1),
            upto,
            also: also.to_vec(),
        }
    }

    #[test]
    fn known_answer() {
        let member = crate::keys::OwnKey::from_bytes(&[1; 32]).unwrap().public();
        let mut envelope = envelope(vec![
            ack(4, &[6, 9]),
            Ack {
                of: AckOf::Member(member.into()),
                ..ack(0, &[])
            },
        ]);
        let json = String::from_utf8(envelope.encode().unwrap()).unwrap();
        let expected = format!(
            r#"{{"v":1,"cohort":"{}","inc":7,"seq":3,"acks":[{{"of":"direct","inc":1,"upto":4,"also":[6,9]}},{{"of":"{member}","inc":1,"upto":0}}],"type":"OptIn","body":{{"payee":null}}}}"#,
            "ab".repeat(32)
        );
        assert_eq!(json, expected);
        let back = Envelope::decode(json.as_bytes()).unwrap();
        assert_eq!(back.acks, envelope.acks);
        assert_eq!(back.body.get(), r#"{"payee":null}"#);
    }

    #[test]
    fn strict() {
        let good = String::from_utf8(envelope(vec![]).encode().unwrap()).unwrap();
        let bad = |from: &str, to: &str| Envelope::decode(good.replace(from, to).as_bytes());
        assert_eq!(
            bad("\"v\":1", "\"v\":2").unwrap_err(),
            EnvelopeFault::Version(2)
        );
        assert_eq!(
            bad("\"seq\":3", "\"seq\":0").unwrap_err(),
            EnvelopeFault::Sequence
        );
        assert_eq!(bad("OptIn", "ack").unwrap_err(), EnvelopeFault::Sequence);
        let ack = good
            .replace("OptIn", "ack")
            .replace("\"seq\":3", "\"seq\":0");
        assert_eq!(Envelope::decode(ack.as_bytes()).unwrap().seq, 0);
        assert_eq!(bad("OptIn", "Opt In").unwrap_err(), EnvelopeFault::Type);
        assert_eq!(bad("OptIn", "").unwrap_err(), EnvelopeFault::Type);
        for (from, to) in [
            ("\"seq\":3", "\"seq\":3,\"seq\":4"),
            ("\"seq\":3", "\"seq\":-3"),
            ("\"seq\":3", "\"seq\":3,\"from\":1"),
            ("\"inc\":7,", ""),
            ("abab", "ABAB"),
        ] {
            assert!(
                matches!(bad(from, to), Err(EnvelopeFault::Malformed(_))),
                "{to}"
            );
        }
    }

    #[test]
    fn acknowledgements_are_in_order() {
        for (upto, also) in [
            (4, vec![5]),
            (4, vec![6, 6]),
            (4, vec![8, 7]),
            (4, (6..6 + 9).collect()),
            (u64::MAX, vec![1]),
        ] {
            let mut bad = envelope(vec![ack(upto, &also)]);
            assert_eq!(bad.encode(), Err(EnvelopeFault::Acks), "{upto} {also:?}");
        }
        assert!(ack(4, &[6]).covers(Incarnation(1), 6));
        assert!(!ack(4, &[6]).covers(Incarnation(1), 5));
        assert!(!ack(4, &[6]).covers(Incarnation(2), 3));
    }

    #[test]
    fn acknowledgements_give_way_to_the_body() {
        let message = Message::new("x", &"b".repeat(MAX_PLAINTEXT - 400)).unwrap();
        let mut envelope = Envelope {
            acks: (0..100).map(|i| ack(i, &[i + 2])).collect(),
            ..envelope(vec![])
        };
        envelope.body = message.body;
        let bytes = envelope.encode().unwrap();
        assert!(bytes.len() <= MAX_PLAINTEXT);
        assert!(!envelope.acks.is_empty() && envelope.acks.len() < 100);
        assert_eq!(Envelope::decode(&bytes).unwrap().acks, envelope.acks);
        envelope.body = Message::new("x", &"b".repeat(MAX_PLAINTEXT)).unwrap().body;
        assert!(matches!(envelope.encode(), Err(EnvelopeFault::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Envelope::decode(&bytes);
        }

        #[test]
        fn damaged_envelopes_are_refused_or_read_the_same(position in 0usize..160, byte in any::<u8>()) {
            let good = envelope(vec![ack(4, &[6])]).encode().unwrap();
            let mut bytes = good.clone();
            let index = position % bytes.len();
            bytes[index] = byte;
            if let Ok(mut read) = Envelope::decode(&bytes) {
                // What is accepted is written back as it was read: nothing is silently dropped.
                let again = read.encode().unwrap();
                prop_assert_eq!(Envelope::decode(&again).unwrap().seq, read.seq);
            }
        }
    }
}
