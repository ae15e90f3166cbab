//! Signed events (NIP-01).

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::hash::{SchnorrSignature, array_from_hex, bytes_newtype, sha256, to_hex};
use crate::keys::{NostrKey, OwnKey};
use crate::time::UnixTime;

/// Kind of a cohort's advert: addressable (DESIGN §4).
pub const KIND_ADVERT: u16 = 38327;

/// Kind of directed and channel messages: regular, so that relays keep them (DESIGN §4).
pub const KIND_DIRECTED: u16 = 8327;

/// The largest event we publish, in bytes of JSON: strfry's default limit.
pub const MAX_SENT_BYTES: usize = 65_536;

/// The largest event we read, in bytes of JSON. More than we send, because other software may.
pub const MAX_RECEIVED_BYTES: usize = 131_072;

/// By how many bytes an event's JSON is longer than what its id is the hash of: the id, the signature and the names of
/// the fields instead of a leading zero.
const JSON_EXTRA: usize = 253;

/// The most tags an event may have, as strfry limits them.
const MAX_TAGS: usize = 2_000;

bytes_newtype!(
    /// An event's id: SHA-256 of its NIP-01 serialisation. Text: lower-case hex.
    EventId, 32, to_hex, array_from_hex
);

/// A signed event. Nothing about it is known to be true until [`Event::verify`] said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// SHA-256 of the serialisation, as claimed.
    pub id: EventId,
    /// The key the signature is checked against.
    #[serde(rename = "pubkey")]
    pub author: NostrKey,
    /// When the author says it was made, in seconds.
    pub created_at: UnixTime,
    /// What it is (NIP-01 kinds).
    pub kind: u16,
    /// Tags: each a name followed by values.
    pub tags: Vec<Vec<String>>,
    /// The content; for our directed kinds base64 of a NIP-44 payload.
    pub content: String,
    /// BIP-340 signature of the id.
    pub sig: SchnorrSignature,
}

/// An event before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDraft {
    /// When it is made. Never set back: relays and peers drop old events.
    pub created_at: UnixTime,
    /// What it is.
    pub kind: u16,
    /// Tags: each a name followed by values.
    pub tags: Vec<Vec<String>>,
    /// The content.
    pub content: String,
}

/// An event whose id was recomputed and whose signature was checked: the only form that is opened.
/// Reading one from JSON checks it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Event", into = "Event")]
pub struct VerifiedEvent(Event);

/// Why an event is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventFault {
    /// The JSON is longer than the limit that applies.
    #[error("the event has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Bytes of JSON.
        size: usize,
        /// The limit, [`MAX_SENT_BYTES`] or [`MAX_RECEIVED_BYTES`].
        limit: usize,
    },
    /// Not the JSON of an event: a field is missing, unknown, repeated or of another form.
    #[error("not a Nostr event: {0}")]
    Malformed(String),
    /// More tags than any relay takes, or a tag without a name.
    #[error("the tags of the event are too many or one has no name")]
    Tags,
    /// The id is not the hash of the event: somebody altered it.
    #[error("the event's id is not the hash of its content")]
    Id,
    /// The signature is not the author's.
    #[error("the event's signature is not its author's")]
    Signature,
}

impl EventDraft {
    /// Signs the draft. Refuses what relays would not take.
    pub fn sign(self, key: &OwnKey) -> Result<VerifiedEvent, EventFault> {
        self.sign_unchecked(key.public(), |id| key.sign_digest(id))
    }

    /// Signs the draft with whatever holds the key of `author`: `sign` gets the id and returns its BIP-340 signature,
    /// which is not checked. For simulations, where a signature costs more than everything else and nobody reads it.
    #[doc(hidden)]
    pub fn sign_unchecked(
        self,
        author: NostrKey,
        sign: impl FnOnce(&[u8; 32]) -> SchnorrSignature,
    ) -> Result<VerifiedEvent, EventFault> {
        check_tags(&self.tags)?;
        let serialised = self.serialise(author);
        let size = serialised.len() + JSON_EXTRA;
        if size > MAX_SENT_BYTES {
            return Err(EventFault::TooLarge {
                size,
                limit: MAX_SENT_BYTES,
            });
        }
        let id = EventId::from_bytes(sha256(&serialised));
        Ok(VerifiedEvent(Event {
            id,
            author,
            created_at: self.created_at,
            kind: self.kind,
            tags: self.tags,
            content: self.content,
            sig: sign(id.as_bytes()),
        }))
    }

    /// What the id is the hash of (NIP-01).
    pub(super) fn serialise(&self, author: NostrKey) -> Vec<u8> {
        serialise(
            author,
            self.created_at,
            self.kind,
            &self.tags,
            &self.content,
        )
    }
}

impl Event {
    /// Reads an event's JSON strictly: no unknown or repeated field, bounded in size.
    pub fn from_json(json: &str) -> Result<Self, EventFault> {
        if json.len() > MAX_RECEIVED_BYTES {
            return Err(EventFault::TooLarge {
                size: json.len(),
                limit: MAX_RECEIVED_BYTES,
            });
        }
        let event: Self =
            serde_json::from_str(json).map_err(|e| EventFault::Malformed(e.to_string()))?;
        check_tags(&event.tags)?;
        Ok(event)
    }

    /// The event's JSON, without white space, in the order of NIP-01.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, integers and arrays of strings always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Recomputes the id and checks the BIP-340 signature.
    pub fn verify(self) -> Result<VerifiedEvent, EventFault> {
        if self.computed_id() != self.id {
            return Err(EventFault::Id);
        }
        if !self.author.verifies(self.id.as_bytes(), &self.sig) {
            return Err(EventFault::Signature);
        }
        Ok(VerifiedEvent(self))
    }

    /// What the id should be.
    #[must_use]
    pub fn computed_id(&self) -> EventId {
        EventId::from_bytes(sha256(&serialise(
            self.author,
            self.created_at,
            self.kind,
            &self.tags,
            &self.content,
        )))
    }

    /// The first value of the first tag called `name`: the only value relays index.
    #[must_use]
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| first_value(tag, name))
    }

    /// The first values of all tags called `name`, in order.
    pub fn tags_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.tags
            .iter()
            .filter_map(move |tag| first_value(tag, name))
    }

    /// When the event expires (NIP-40), if it says so in a form that can be read.
    #[must_use]
    pub fn expiration(&self) -> Option<UnixTime> {
        self.tag("expiration")?.parse().ok().map(UnixTime)
    }
}

impl VerifiedEvent {
    /// Takes an event whose (id, signature) pair was verified before, after recomputing the id.
    ///
    /// An id commits to everything but the signature, so the pair decides: this saves the curve
    /// operations when a second relay delivers the same event.
    ///
    /// The caller answers for it: with a pair that was never verified this is a forgery. So it is for
    /// [`KnownPairs`](super::known::KnownPairs) alone.
    pub(super) fn from_known_pair(event: Event) -> Result<Self, EventFault> {
        if event.computed_id() != event.id {
            return Err(EventFault::Id);
        }
        Ok(Self(event))
    }

    /// The event, by value.
    #[must_use]
    pub fn into_inner(self) -> Event {
        self.0
    }
}

impl TryFrom<Event> for VerifiedEvent {
    type Error = EventFault;
    fn try_from(event: Event) -> Result<Self, EventFault> {
        event.verify()
    }
}

impl From<VerifiedEvent> for Event {
    fn from(event: VerifiedEvent) -> Self {
        event.0
    }
}

impl Deref for VerifiedEvent {
    type Target = Event;
    fn deref(&self) -> &Event {
        &self.0
    }
}

impl fmt::Display for VerifiedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} by {}", self.0.id, self.0.author.short())
    }
}

fn first_value<'a>(tag: &'a [String], name: &str) -> Option<&'a str> {
    match tag {
        [tag_name, value, ..] if tag_name == name => Some(value),
        _ => None,
    }
}

fn check_tags(tags: &[Vec<String>]) -> Result<(), EventFault> {
    if tags.len() > MAX_TAGS || tags.iter().any(Vec::is_empty) {
        return Err(EventFault::Tags);
    }
    Ok(())
}

/// `[0, author, created_at, kind, tags, content]` without white space (NIP-01).
///
/// serde_json escapes exactly what NIP-01 names, and other control characters as `\u00xx`, as every
/// other implementation does.
fn serialise(
    author: NostrKey,
    created_at: UnixTime,
    kind: u16,
    tags: &[Vec<String>],
    content: &str,
) -> Vec<u8> {
    // Numbers, strings and arrays of strings always serialise.
    serde_json::to_vec(&(0u8, author, created_at, kind, tags, content)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> OwnKey {
        OwnKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn draft(content: &str) -> EventDraft {
        EventDraft {
            created_at: UnixTime(1_700_000_000),
            kind: KIND_DIRECTED,
            tags: vec![
                vec!["p".into(), key(9).public().to_string()],
                vec!["expiration".into(), "1700003600".into()],
            ],
            content: content.into(),
        }
    }

    #[test]
    fn known_event_of_another_implementation_verifies() {
        // From the test data of rust-nostr (a published text note), id and signature made elsewhere.
        let json = r#"{"content":"uRuvYr585B80L6rSJiHocw==?iv=oh6LVqdsYYol3JfFnXTbPA==","created_at":1640839235,"id":"2be17aa3031bdcb006f0fce80c146dea9c1c0268b0af2398bb673365c6444d45","kind":4,"pubkey":"f86c44a2de95d9149b51c6a29afeabba264c18e2fa7c49de93424a0c56947785","sig":"a5d9290ef9659083c490b303eb7ee41356d8778ff19f2f91776c8dc4443388a64ffcf336e61af4c25c05ac3ae952d1ced889ed655b67790891222aaa15b99fdd","tags":[["p","13adc511de7e1cfcf1c6b7f6365fb5a03442d7bcacf565ea57fa7770912c023d"]]}"#;
        let event = Event::from_json(json).unwrap().verify().unwrap();
        assert_eq!(event.kind, 4);
        let mut altered = event.clone().into_inner();
        altered.content.push('x');
        assert_eq!(altered.verify(), Err(EventFault::Id));
        let mut resigned = event.into_inner();
        resigned.sig = SchnorrSignature::from_bytes([1; 64]);
        assert_eq!(resigned.verify(), Err(EventFault::Signature));
    }

    #[test]
    fn ids_agree_with_the_nostr_crate_also_for_odd_characters() {
        for content in [
            "",
            "\"\\\n\r\t\u{8}\u{c}\u{1}\u{7f}/é\u{2028}\u{1f600}",
            "{}",
        ] {
            let event = draft(content).sign(&key(3)).unwrap();
            let other: nostr::Event = nostr::JsonUtil::from_json(event.to_json()).unwrap();
            other.verify().unwrap();
            assert_eq!(other.id.to_hex(), event.id.to_string());
        }
    }

    #[test]
    fn json_is_strict_and_bounded() {
        let event = draft("hello").sign(&key(3)).unwrap();
        let json = event.to_json();
        assert_eq!(Event::from_json(&json).unwrap(), event.clone().into_inner());
        assert!(matches!(
            Event::from_json(&json.replacen('{', "{\"extra\":1,", 1)),
            Err(EventFault::Malformed(_))
        ));
        assert!(matches!(
            Event::from_json(&json.replacen('{', "{\"kind\":1,", 1)),
            Err(EventFault::Malformed(_)),
        ));
        let long = format!("{json}{}", " ".repeat(MAX_RECEIVED_BYTES));
        assert!(matches!(
            Event::from_json(&long),
            Err(EventFault::TooLarge { .. })
        ));
        let mut unnamed = draft("");
        unnamed.tags.push(vec![]);
        assert_eq!(unnamed.sign(&key(3)), Err(EventFault::Tags));
    }

    #[test]
    fn the_size_is_known_before_there_is_any_json() {
        for content in ["", "hello", "\"\\\n\u{1}é"] {
            let draft = draft(content);
            let serialised = draft.serialise(key(3).public()).len();
            let json = draft.sign(&key(3)).unwrap().to_json();
            assert_eq!(json.len(), serialised + JSON_EXTRA);
        }
    }

    #[test]
    fn signing_refuses_what_relays_refuse() {
        assert!(draft(&"a".repeat(64_000)).sign(&key(1)).is_ok());
        assert!(matches!(
            draft(&"a".repeat(MAX_SENT_BYTES)).sign(&key(1)),
            Err(EventFault::TooLarge {
                limit: MAX_SENT_BYTES,
                ..
            })
        ));
    }

    #[test]
    fn tags_are_read_by_name() {
        let event = draft("").sign(&key(1)).unwrap();
        let elsewhere = draft("").sign_unchecked(key(1).public(), |id| key(1).sign_digest(id));
        // The signatures differ: each has random bytes in it.
        assert_eq!(elsewhere.unwrap().id, event.id);
        assert_eq!(event.expiration(), Some(UnixTime(1_700_003_600)));
        assert_eq!(event.tag("p"), Some(key(9).public().to_string().as_str()));
        assert_eq!(event.tag("d"), None);
    }
}
