//! Directed and channel messages: kind 8327, one `p` tag, `expiration`, content NIP-44 version 2.
//!
//! A *directed* message goes from one key to another. A *channel* is a key pair whose secret every
//! member of a cohort holds: the aggregator encrypts once to its public key, and a message counts only
//! when the aggregator's key signed the event, so members can read and not forge. What only one member
//! may read travels inside a channel message as a *part*, encrypted to its seat (DESIGN §4).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nostr::nips::nip44::v2;
use zeroize::Zeroizing;

use super::event::{Event, EventDraft, EventFault, KIND_DIRECTED, VerifiedEvent};
use super::pow;
use crate::keys::secret::InvalidSecret;
use crate::keys::{NostrKey, OwnKey};
use crate::time::UnixTime;

/// The largest plaintext of one message, in bytes: its event stays below 65 536 bytes of JSON, the
/// default limit of relays, after padding and base64.
pub const MAX_PLAINTEXT: usize = 40_960;

/// Conversation keys kept. More pairs than one agent's cohorts have; strangers can only make it forget.
const MAX_CACHED: usize = 4_096;

/// Why a message can not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealFault {
    /// The plaintext is empty or longer than [`MAX_PLAINTEXT`]: send it in chunks.
    #[error("a plaintext has 1 to {MAX_PLAINTEXT} bytes, this one {0}")]
    Length(usize),
    /// The event is of another kind.
    #[error("kind {0} is not a directed message")]
    Kind(u16),
    /// The event does not have exactly one `p` tag, naming the key that opens it.
    #[error("the message is not addressed to this key, or not to it alone")]
    Recipient,
    /// The author of a channel message is not the aggregator.
    #[error("{0} is not the aggregator of this channel")]
    Author(NostrKey),
    /// Not NIP-44 version 2, or made for another pair of keys.
    #[error("the content can not be decrypted")]
    Undecryptable,
    /// No nonce was found.
    #[error("no proof of work of {0} bits was found")]
    NoWork(u8),
    /// The event can not be signed.
    #[error(transparent)]
    Event(#[from] EventFault),
}

/// The NIP-44 conversation keys already derived, one per pair of keys.
///
/// A conversation key costs a curve multiplication and is the same for every message of a pair, in
/// both directions. The keys are secrets: never printed, overwritten when dropped.
#[derive(Default)]
pub struct ConversationKeys {
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    keys: HashMap<(NostrKey, NostrKey), Zeroizing<[u8; 32]>>,
    order: VecDeque<(NostrKey, NostrKey)>,
}

/// The key pair of a cohort's channel. Its secret is what membership hands out.
pub struct ChannelKey(OwnKey);

impl ConversationKeys {
    /// Starts with no keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Seals a directed message from `own` to `peer` and signs its event.
    ///
    /// `created_at` is the real time: backdated events are refused or missed.
    pub fn seal_directed(
        &self,
        own: &OwnKey,
        peer: NostrKey,
        plaintext: &[u8],
        created_at: UnixTime,
        expiration: UnixTime,
    ) -> Result<VerifiedEvent, SealFault> {
        let content = self.seal_part(own, peer, plaintext)?;
        let draft = EventDraft {
            created_at,
            kind: KIND_DIRECTED,
            tags: vec![
                vec!["p".to_owned(), peer.to_string()],
                vec!["expiration".to_owned(), expiration.to_string()],
            ],
            content,
        };
        Ok(draft.sign(own)?)
    }

    /// Opens a directed message addressed to `own`. The sender is the event's author.
    pub fn open_directed(&self, own: &OwnKey, event: &VerifiedEvent) -> Result<Vec<u8>, SealFault> {
        check_address(event, own.public())?;
        self.open_part(own, event.author, &event.content)
    }

    /// Opens a message that `own` wrote itself: a conversation has one key, from either side.
    pub fn open_own(&self, own: &OwnKey, event: &VerifiedEvent) -> Result<Vec<u8>, SealFault> {
        let recipient = event.tag("p").and_then(|key| key.parse().ok());
        let recipient: NostrKey = recipient.ok_or(SealFault::Recipient)?;
        check_address(event, recipient)?;
        if event.author != own.public() {
            return Err(SealFault::Author(event.author));
        }
        self.open_part(own, recipient, &event.content)
    }

    /// Seals a channel message: once, for all who hold the channel's secret.
    pub fn seal_channel(
        &self,
        aggregator: &OwnKey,
        channel: NostrKey,
        plaintext: &[u8],
        created_at: UnixTime,
        expiration: UnixTime,
    ) -> Result<VerifiedEvent, SealFault> {
        self.seal_directed(aggregator, channel, plaintext, created_at, expiration)
    }

    /// Opens a channel message; it counts only if `aggregator` is its author.
    pub fn open_channel(
        &self,
        channel: &ChannelKey,
        aggregator: NostrKey,
        event: &VerifiedEvent,
    ) -> Result<Vec<u8>, SealFault> {
        if event.author != aggregator {
            return Err(SealFault::Author(event.author));
        }
        self.open_directed(&channel.0, event)
    }

    /// Encrypts bytes from `own` to `peer`, as base64 of a NIP-44 payload, without an event.
    ///
    /// For a part of a channel message that only one member may read.
    pub fn seal_part(
        &self,
        own: &OwnKey,
        peer: NostrKey,
        plaintext: &[u8],
    ) -> Result<String, SealFault> {
        if plaintext.is_empty() || plaintext.len() > MAX_PLAINTEXT {
            return Err(SealFault::Length(plaintext.len()));
        }
        let key = self.conversation_key(own, peer)?;
        let payload = v2::encrypt_to_bytes(&v2::ConversationKey::new(*key), plaintext)
            .map_err(|_| SealFault::Undecryptable)?;
        self.remember(own.public(), peer, key);
        Ok(STANDARD.encode(payload))
    }

    /// Decrypts what `peer` sealed for `own` with [`Self::seal_part`].
    pub fn open_part(
        &self,
        own: &OwnKey,
        peer: NostrKey,
        content: &str,
    ) -> Result<Vec<u8>, SealFault> {
        let payload = STANDARD
            .decode(content)
            .map_err(|_| SealFault::Undecryptable)?;
        if payload.first() != Some(&2) {
            return Err(SealFault::Undecryptable);
        }
        let key = self.conversation_key(own, peer)?;
        let plaintext = v2::decrypt_to_bytes(&v2::ConversationKey::new(*key), &payload)
            .map_err(|_| SealFault::Undecryptable)?;
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(SealFault::Length(plaintext.len()));
        }
        // Only now: a stranger's garbage does not push a member's key out.
        self.remember(own.public(), peer, key);
        Ok(plaintext)
    }

    fn conversation_key(
        &self,
        own: &OwnKey,
        peer: NostrKey,
    ) -> Result<Zeroizing<[u8; 32]>, SealFault> {
        let pair = (own.public(), peer);
        {
            let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(key) = cache.keys.get(&pair) {
                return Ok(key.clone());
            }
        }
        let secret = nostr::SecretKey::from(own.keypair().secret_key());
        let public = nostr::PublicKey::from(peer.x_only());
        let derived =
            v2::ConversationKey::derive(&secret, &public).map_err(|_| SealFault::Undecryptable)?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(derived.as_bytes());
        Ok(key)
    }

    fn remember(&self, own: NostrKey, peer: NostrKey, key: Zeroizing<[u8; 32]>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.keys.insert((own, peer), key).is_none() {
            cache.order.push_back((own, peer));
            if cache.order.len() > MAX_CACHED
                && let Some(oldest) = cache.order.pop_front()
            {
                cache.keys.remove(&oldest);
            }
        }
    }
}

/// Signs a message of ours again, for the outbox: the same ciphertext under a fresh `created_at` and
/// expiration, with `pow` bits of work if a relay wants them (this blocks, see [`pow::mine`]).
///
/// The envelope inside stays as it is: its number is what the recipient knows it by.
pub fn resign(
    own: &OwnKey,
    event: &VerifiedEvent,
    created_at: UnixTime,
    expiration: UnixTime,
    pow: Option<u8>,
) -> Result<VerifiedEvent, SealFault> {
    let mut tags: Vec<Vec<String>> = event
        .tags
        .iter()
        .filter(|tag| {
            !matches!(
                tag.first().map(String::as_str),
                Some("expiration" | "nonce")
            )
        })
        .cloned()
        .collect();
    tags.push(vec!["expiration".to_owned(), expiration.to_string()]);
    let mut draft = EventDraft {
        created_at,
        kind: event.kind,
        tags,
        content: event.content.clone(),
    };
    if let Some(bits) = pow {
        draft = pow::mine(draft, own.public(), bits)?.ok_or(SealFault::NoWork(bits))?;
    }
    Ok(draft.sign(own)?)
}

impl fmt::Debug for ConversationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConversationKeys(secret)")
    }
}

impl ChannelKey {
    /// Makes the key pair of a new channel, from the operating system's generator.
    #[must_use]
    pub fn generate() -> Self {
        loop {
            let mut bytes = Zeroizing::new([0u8; 32]);
            rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, bytes.as_mut());
            // All but 2⁻¹²⁸ of the values are secret keys.
            if let Ok(key) = OwnKey::from_bytes(&bytes) {
                return Self(key);
            }
        }
    }

    /// Takes the secret a member was handed.
    pub fn from_secret(bytes: &[u8; 32]) -> Result<Self, InvalidSecret> {
        OwnKey::from_bytes(bytes).map(Self)
    }

    /// The public key: recipient of the channel's messages, value of their `p` tag.
    #[must_use]
    pub const fn public(&self) -> NostrKey {
        self.0.public()
    }

    /// The secret, to be handed to seated members in a directed message and to nobody else.
    #[must_use]
    pub fn expose_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.keypair().secret_bytes())
    }
}

impl fmt::Debug for ChannelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelKey(secret of {})", self.public())
    }
}

fn check_address(event: &Event, recipient: NostrKey) -> Result<(), SealFault> {
    if event.kind != KIND_DIRECTED {
        return Err(SealFault::Kind(event.kind));
    }
    let mut addressed = event.tags_named("p");
    if addressed.next() != Some(recipient.to_string().as_str()) || addressed.next().is_some() {
        return Err(SealFault::Recipient);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);
    const LATER: UnixTime = UnixTime(1_800_000_000);

    fn key(byte: u8) -> OwnKey {
        OwnKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn small(last: u8) -> OwnKey {
        let mut bytes = [0; 32];
        bytes[31] = last;
        OwnKey::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn nip44_known_answer_opens() {
        // The first two vectors of "encrypt_decrypt" in nip44.vectors.json of the NIP-44 authors, between
        // the secrets 1 and 2. A payload opens from both sides.
        let (one, two) = (small(1), small(2));
        let keys = ConversationKeys::new();
        let a = "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABee0G5VSK0/9YypIObAtDKfYEAjD35uVkHyB0F4DwrcNaCXlCWZKaArsGrY6M9wnuTMxWfp1RTN9Xga8no+kF5Vsb";
        assert_eq!(keys.open_part(&two, one.public(), a).unwrap(), b"a");
        assert_eq!(keys.open_part(&one, two.public(), a).unwrap(), b"a");
        let pizza = "AvAAAAAAAAAAAAAAAAAAAPAAAAAAAAAAAAAAAAAAAAAPSKSK6is9ngkX2+cSq85Th16oRTISAOfhStnixqZziKMDvB0QQzgFZdjLTPicCJaV8nDITO+QfaQ61+KbWQIOO2Yj";
        assert_eq!(
            keys.open_part(&one, two.public(), pizza).unwrap(),
            "\u{1f355}\u{1fac3}".as_bytes()
        );
        assert_eq!(
            crate::hash::to_hex(keys.conversation_key(&one, two.public()).unwrap().as_ref()),
            "c41c775356fd92eadc63ff5a0dc1da211b268cbea22316767095b2871ea1412d"
        );
    }

    #[test]
    fn directed_messages_open_for_the_recipient_alone() {
        let keys = ConversationKeys::new();
        let (alice, bob, carol) = (key(1), key(2), key(3));
        let event = keys
            .seal_directed(&alice, bob.public(), b"hello", NOW, LATER)
            .unwrap();
        assert_eq!(event.kind, 8327);
        assert_eq!(event.tags.len(), 2, "no type, no subject in clear");
        assert_eq!(event.expiration(), Some(LATER));
        assert_eq!(keys.open_directed(&bob, &event).unwrap(), b"hello");
        assert_eq!(
            keys.open_directed(&carol, &event),
            Err(SealFault::Recipient)
        );
    }

    #[test]
    fn a_message_signed_again_is_a_new_event_with_the_old_plaintext() {
        let keys = ConversationKeys::new();
        let (alice, bob) = (key(1), key(2));
        let event = keys
            .seal_directed(&alice, bob.public(), b"hello", NOW, LATER)
            .unwrap();
        let again = resign(&alice, &event, NOW.plus(1_800), LATER.plus(5), Some(6)).unwrap();
        assert_ne!(again.id, event.id);
        assert!(pow::leading_zeros(again.id.as_bytes()) >= 6);
        assert_eq!(again.expiration(), Some(LATER.plus(5)));
        assert_eq!(again.tags_named("expiration").count(), 1);
        assert_eq!(again.created_at, NOW.plus(1_800));
        assert_eq!(keys.open_directed(&bob, &again).unwrap(), b"hello");
        let third = resign(&alice, &again, NOW, LATER, None).unwrap();
        assert_eq!(third.tag("nonce"), None);
    }

    #[test]
    fn a_copied_ciphertext_under_another_author_does_not_open() {
        let keys = ConversationKeys::new();
        let (alice, bob, mallory) = (key(1), key(2), key(66));
        let event = keys
            .seal_directed(&alice, bob.public(), b"pay alice", NOW, LATER)
            .unwrap();
        let stolen = EventDraft {
            created_at: NOW,
            kind: event.kind,
            tags: event.tags.clone(),
            content: event.content.clone(),
        }
        .sign(&mallory)
        .unwrap();
        assert_eq!(
            keys.open_directed(&bob, &stolen),
            Err(SealFault::Undecryptable)
        );
    }

    #[test]
    fn two_recipients_or_another_kind_are_refused() {
        let keys = ConversationKeys::new();
        let (alice, bob) = (key(1), key(2));
        let content = keys.seal_part(&alice, bob.public(), b"x").unwrap();
        let to = |key: &OwnKey| vec!["p".to_owned(), key.public().to_string()];
        let draft = |kind, tags| EventDraft {
            created_at: NOW,
            kind,
            tags,
            content: content.clone(),
        };
        let two = draft(8327, vec![to(&bob), to(&alice)])
            .sign(&alice)
            .unwrap();
        assert_eq!(keys.open_directed(&bob, &two), Err(SealFault::Recipient));
        let other = draft(1059, vec![to(&bob)]).sign(&alice).unwrap();
        assert_eq!(keys.open_directed(&bob, &other), Err(SealFault::Kind(1059)));
    }

    #[test]
    fn members_read_the_channel_and_can_not_write_it() {
        let keys = ConversationKeys::new();
        let (aggregator, member) = (key(1), key(2));
        let channel = ChannelKey::generate();
        let event = keys
            .seal_channel(&aggregator, channel.public(), b"frozen", NOW, LATER)
            .unwrap();
        let handed = ChannelKey::from_secret(&channel.expose_secret()).unwrap();
        assert_eq!(handed.public(), channel.public());
        assert_eq!(
            keys.open_channel(&handed, aggregator.public(), &event)
                .unwrap(),
            b"frozen"
        );
        // A member holds the channel's secret, so it can encrypt; the author gives it away.
        let forged = keys
            .seal_channel(&member, channel.public(), b"forged", NOW, LATER)
            .unwrap();
        assert_eq!(
            keys.open_channel(&handed, aggregator.public(), &forged),
            Err(SealFault::Author(member.public()))
        );
    }

    #[test]
    fn the_largest_plaintext_fits_a_relay_and_more_is_refused() {
        let keys = ConversationKeys::new();
        let (alice, bob) = (key(1), key(2));
        let event = keys
            .seal_directed(&alice, bob.public(), &[7; MAX_PLAINTEXT], NOW, LATER)
            .unwrap();
        assert!(event.to_json().len() <= super::super::event::MAX_SENT_BYTES);
        assert_eq!(
            keys.open_directed(&bob, &event).unwrap(),
            [7; MAX_PLAINTEXT]
        );
        for size in [0, MAX_PLAINTEXT + 1] {
            assert_eq!(
                keys.seal_part(&alice, bob.public(), &vec![7; size]),
                Err(SealFault::Length(size))
            );
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let keys = ConversationKeys::new();
        let (alice, bob) = (key(1), key(2));
        let good = keys.seal_part(&alice, bob.public(), b"x").unwrap();
        let mut version_three = STANDARD.decode(&good).unwrap();
        version_three[0] = 3;
        for bad in [
            "",
            "#2",
            "AA==",
            "not base64!",
            &STANDARD.encode(version_three),
        ] {
            assert_eq!(
                keys.open_part(&bob, alice.public(), bad),
                Err(SealFault::Undecryptable)
            );
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let channel = ChannelKey::from_secret(&[7; 32]).unwrap();
        let secret = crate::hash::to_hex(channel.expose_secret().as_ref());
        assert!(!format!("{channel:?}").contains(&secret));
    }
}
