//! A cohort's public advert: addressable kind 38327 (DESIGN §4), and the link that shares it.
//!
//! The content is the cohort's *terms* as canonical JSON (RFC 8785); the cohort's id is its SHA-256 and
//! stands in `d`. So terms can not change under an id, while the status can: a new version keeps content
//! and `d`. This module checks what the event alone can show. Whether the author is the aggregator of the
//! terms, and `n` their network, is for [`crate::protocol`], which knows terms.

use std::fmt;
use std::str::FromStr;

use nostr::nips::nip01::Coordinate;
use nostr::nips::nip19::{FromBech32 as _, Nip19Coordinate, ToBech32 as _};

use super::event::{EventDraft, EventFault, EventId, KIND_ADVERT, VerifiedEvent};
use super::policy::{RelayUrl, advertised_relays};
use crate::hash::{CohortId, sha256};
use crate::keys::{NostrKey, OwnKey};
use crate::network::Network;
pub use crate::protocol::effect::AdvertStatus;
use crate::time::UnixTime;

/// The longest terms, in bytes of canonical JSON.
pub const MAX_TERMS: usize = 16_384;

/// The longest share link read, in bytes: five relays of the longest kind fit.
const MAX_LINK: usize = 3_000;

/// The tag `t` of every advert.
const TOPIC: &str = "btcr2";

/// What an advert is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertDraft<'a> {
    /// The terms, canonical JSON.
    pub content: &'a str,
    /// The terms' network.
    pub network: Network,
    /// The cohort's status.
    pub status: AdvertStatus,
    /// Where the aggregator reads and writes; hints, not terms.
    pub relays: &'a [RelayUrl],
    /// From [`next_created_at`].
    pub created_at: UnixTime,
    /// When relays may forget it.
    pub expiration: UnixTime,
}

/// An advert whose signature, id and content agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertEvent {
    /// The event's id.
    pub id: EventId,
    /// SHA-256 of the content.
    pub cohort: CohortId,
    /// Who signed it. Counts only if it is the aggregator of the terms.
    pub author: NostrKey,
    /// The terms, canonical JSON.
    pub content: String,
    /// The network of the tag. Counts only if it is the terms'.
    pub network: Network,
    /// The cohort's status.
    pub status: AdvertStatus,
    /// Relays that may be dialled, at most five.
    pub relays: Vec<RelayUrl>,
    /// When this version was made.
    pub created_at: UnixTime,
    /// When it expires.
    pub expires: UnixTime,
}

/// A reference to an advert: what a share link holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareLink {
    /// The cohort.
    pub cohort: CohortId,
    /// The advert's author.
    pub author: NostrKey,
    /// Where it may be found.
    pub relays: Vec<RelayUrl>,
}

/// Why an event is not an advert, or can not become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertFault {
    /// Another kind of event.
    #[error("kind {0} is not an advert")]
    Kind(u16),
    /// A tag is missing, repeated, or has a value nobody knows.
    #[error("the advert's tag {0:?} is missing, repeated or unknown")]
    Tag(&'static str),
    /// The content is longer than terms may be.
    #[error("the terms have {0} bytes, more than the {MAX_TERMS} allowed")]
    TooLong(usize),
    /// The content is not a JSON object in canonical form.
    #[error("the terms are not canonical JSON (RFC 8785)")]
    NotCanonical,
    /// `d` is not the SHA-256 of the content: the terms were edited.
    #[error("the cohort's id is not the hash of its terms")]
    Id,
    /// Not a `nostr:naddr1…` of an advert.
    #[error("not a share link of a cohort: it starts with nostr:naddr1")]
    Link,
    /// The event can not be signed.
    #[error(transparent)]
    Event(#[from] EventFault),
}

/// The cohort's id: SHA-256 of its canonical terms.
#[must_use]
pub fn cohort_id(content: &str) -> CohortId {
    CohortId::from_bytes(sha256(content.as_bytes()))
}

/// The time to put on the next version of an advert: relays keep the version with the later
/// `created_at`, so it must grow even when the clock does not. `last` has to be stored.
#[must_use]
pub fn next_created_at(now: UnixTime, last: Option<UnixTime>) -> UnixTime {
    last.map_or(now, |last| now.max(last.plus(1)))
}

/// Signs an advert.
pub fn encode(draft: &AdvertDraft<'_>, key: &OwnKey) -> Result<VerifiedEvent, AdvertFault> {
    check_content(draft.content)?;
    let tag = |name: &str, value: &dyn fmt::Display| vec![name.to_owned(), value.to_string()];
    let mut tags = vec![
        tag("d", &cohort_id(draft.content)),
        tag("t", &TOPIC),
        tag("n", &draft.network),
        tag("s", &draft.status),
        tag("expiration", &draft.expiration),
    ];
    tags.extend(draft.relays.iter().map(|url| tag("relay", url)));
    let event = EventDraft {
        created_at: draft.created_at,
        kind: KIND_ADVERT,
        tags,
        content: draft.content.to_owned(),
    };
    Ok(event.sign(key)?)
}

/// Reads an advert. `allow_private` lets relay hints name private hosts; see [`advertised_relays`].
pub fn decode(event: &VerifiedEvent, allow_private: bool) -> Result<AdvertEvent, AdvertFault> {
    if event.kind != KIND_ADVERT {
        return Err(AdvertFault::Kind(event.kind));
    }
    check_content(&event.content)?;
    let cohort: CohortId = single(event, "d")?;
    if cohort != cohort_id(&event.content) {
        return Err(AdvertFault::Id);
    }
    if !event.tags_named("t").any(|topic| topic == TOPIC) {
        return Err(AdvertFault::Tag("t"));
    }
    Ok(AdvertEvent {
        id: event.id,
        cohort,
        author: event.author,
        content: event.content.clone(),
        network: single(event, "n")?,
        status: single(event, "s")?,
        relays: advertised_relays(event.tags_named("relay"), allow_private),
        created_at: event.created_at,
        expires: UnixTime(single(event, "expiration")?),
    })
}

impl AdvertEvent {
    /// Whether this version replaces `other` (NIP-01): it is later, or of the same second with the lower
    /// id. Relays may serve an old version long after.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.created_at, other.id) > (other.created_at, self.id)
    }

    /// The link that shares it.
    pub fn share_link(&self) -> Result<String, AdvertFault> {
        let link = ShareLink {
            cohort: self.cohort,
            author: self.author,
            relays: self.relays.clone(),
        };
        link.encode()
    }
}

impl ShareLink {
    /// `nostr:naddr1…` (NIP-19, NIP-21).
    pub fn encode(&self) -> Result<String, AdvertFault> {
        let coordinate = Coordinate::new(
            nostr::Kind::from(KIND_ADVERT),
            nostr::PublicKey::from(self.author.x_only()),
        )
        .identifier(self.cohort.to_string());
        let relays: Result<Vec<_>, _> = self
            .relays
            .iter()
            .map(|url| nostr::RelayUrl::parse(url.as_str()))
            .collect();
        let address = Nip19Coordinate::new(coordinate, relays.map_err(|_| AdvertFault::Link)?)
            .to_bech32()
            .map_err(|_| AdvertFault::Link)?;
        Ok(format!("nostr:{address}"))
    }

    /// Reads a link, with or without `nostr:`.
    pub fn decode(text: &str, allow_private: bool) -> Result<Self, AdvertFault> {
        let text = text.trim();
        let address = text.strip_prefix("nostr:").unwrap_or(text);
        if address.len() > MAX_LINK {
            return Err(AdvertFault::Link);
        }
        let address = Nip19Coordinate::from_bech32(address).map_err(|_| AdvertFault::Link)?;
        if address.coordinate.kind.as_u16() != KIND_ADVERT {
            return Err(AdvertFault::Link);
        }
        let relays = address.relays.iter().map(nostr::RelayUrl::as_str);
        Ok(Self {
            cohort: address
                .coordinate
                .identifier
                .parse()
                .map_err(|_| AdvertFault::Link)?,
            author: NostrKey::from_bytes(&address.coordinate.public_key.to_bytes())
                .map_err(|_| AdvertFault::Link)?,
            relays: advertised_relays(relays, allow_private),
        })
    }
}

/// The value of a tag that stands exactly once: of several, relays would index all and readers one.
fn single<T: FromStr>(event: &VerifiedEvent, name: &'static str) -> Result<T, AdvertFault> {
    let fault = AdvertFault::Tag(name);
    let mut values = event.tags_named(name);
    match (values.next(), values.next()) {
        (Some(value), None) => value.parse().map_err(|_| fault),
        _ => Err(fault),
    }
}

/// A JSON object that is its own canonical form. This also rules out repeated keys.
fn check_content(content: &str) -> Result<(), AdvertFault> {
    if content.len() > MAX_TERMS {
        return Err(AdvertFault::TooLong(content.len()));
    }
    let value: serde_json::Value =
        serde_json::from_str(content).map_err(|_| AdvertFault::NotCanonical)?;
    let canonical =
        serde_json_canonicalizer::to_string(&value).map_err(|_| AdvertFault::NotCanonical)?;
    if !value.is_object() || canonical != content {
        return Err(AdvertFault::NotCanonical);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTENT: &str = r#"{"network":"signet","salt":"abc","seats":3}"#;

    fn key() -> OwnKey {
        OwnKey::from_bytes(&[3; 32]).unwrap()
    }

    fn relays(count: usize) -> Vec<RelayUrl> {
        (0..count)
            .map(|i| RelayUrl::parse(&format!("wss://relay{i}.example.com")).unwrap())
            .collect()
    }

    fn draft<'a>(content: &'a str, relays: &'a [RelayUrl]) -> AdvertDraft<'a> {
        AdvertDraft {
            content,
            network: Network::Signet,
            status: AdvertStatus::Open,
            relays,
            created_at: UnixTime(1_700_000_000),
            expiration: UnixTime(1_731_536_000),
        }
    }

    /// Signs an advert after changing its tags and content.
    fn altered(change: impl FnOnce(&mut EventDraft)) -> Result<AdvertEvent, AdvertFault> {
        let event = encode(&draft(CONTENT, &relays(2)), &key()).unwrap();
        let event = event.into_inner();
        let mut draft = EventDraft {
            created_at: event.created_at,
            kind: event.kind,
            tags: event.tags,
            content: event.content,
        };
        change(&mut draft);
        decode(&draft.sign(&key()).unwrap(), false)
    }

    #[test]
    fn known_answer() {
        let hints = relays(2);
        let event = encode(&draft(CONTENT, &hints), &key()).unwrap();
        assert_eq!(event.kind, 38327);
        // Computed with sha256sum over the content.
        assert_eq!(
            event.tag("d"),
            Some("014700a76e8977f1c52fcaaa07e0b7f5c31c90299f4c3ba0a4512d453f999900")
        );
        let advert = decode(&event, false).unwrap();
        assert_eq!(advert.cohort, cohort_id(CONTENT));
        assert_eq!(advert.author, key().public());
        assert_eq!(advert.content, CONTENT);
        assert_eq!(advert.network, Network::Signet);
        assert_eq!(advert.status, AdvertStatus::Open);
        assert_eq!(advert.relays, hints);
        assert_eq!(advert.expires, UnixTime(1_731_536_000));
    }

    #[test]
    fn edited_terms_do_not_pass_under_the_old_id() {
        assert!(altered(|_| {}).is_ok());
        assert_eq!(
            altered(|draft| draft.content = CONTENT.replace('3', "4")),
            Err(AdvertFault::Id)
        );
        assert_eq!(
            altered(|draft| draft.tags[0][1] = "00".repeat(32)),
            Err(AdvertFault::Id)
        );
    }

    #[test]
    fn terms_are_canonical() {
        for content in [
            r#"{"b":1,"a":2}"#,
            r#"{"a": 1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1.0}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":"\u0041"}"#,
            "[]",
            "\"x\"",
            "",
        ] {
            assert_eq!(
                altered(|draft| {
                    draft.content = content.into();
                    draft.tags[0][1] = cohort_id(content).to_string();
                }),
                Err(AdvertFault::NotCanonical),
                "{content}"
            );
            assert_eq!(
                encode(&draft(content, &[]), &key()),
                Err(AdvertFault::NotCanonical)
            );
        }
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_TERMS));
        assert!(matches!(
            encode(&draft(&long, &[]), &key()),
            Err(AdvertFault::TooLong(_))
        ));
    }

    #[test]
    fn tags_are_there_once_and_known() {
        for (index, name) in [(0, "d"), (1, "t"), (2, "n"), (3, "s"), (4, "expiration")] {
            let fault = Err(AdvertFault::Tag(name));
            assert_eq!(altered(|d| drop(d.tags.remove(index))), fault, "{name}");
            assert_eq!(altered(|d| d.tags[index][1] = "?".into()), fault, "{name}");
            if name != "t" {
                let twice = |d: &mut EventDraft| d.tags.push(d.tags[index].clone());
                assert_eq!(altered(twice), fault, "{name} twice");
            }
        }
        assert_eq!(altered(|d| d.kind = 38383), Err(AdvertFault::Kind(38383)));
    }

    #[test]
    fn hints_are_filtered() {
        let hint = |url: &str| vec!["relay".to_owned(), url.to_owned()];
        let advert = altered(|draft| {
            draft.tags.push(hint("ws://relay.example.com"));
            draft.tags.push(hint("wss://192.168.1.1"));
            draft.tags.push(hint("wss://relay0.example.com/"));
            for i in 0..9 {
                draft.tags.push(hint(&format!("wss://more{i}.example.com")));
            }
        })
        .unwrap();
        assert_eq!(advert.relays.len(), 5);
        assert_eq!(advert.relays[..2], relays(2));
        assert_eq!(advert.relays[2].as_str(), "wss://more0.example.com");
    }

    #[test]
    fn versions_are_ordered_also_when_the_clock_stands_still() {
        let version = |at: u64, id: u8| {
            let mut advert = altered(|_| {}).unwrap();
            advert.created_at = UnixTime(at);
            advert.id = EventId::from_bytes([id; 32]);
            advert
        };
        assert!(version(2, 9).supersedes(&version(1, 1)));
        assert!(!version(1, 1).supersedes(&version(2, 9)));
        assert!(version(1, 1).supersedes(&version(1, 2)));
        assert!(!version(1, 2).supersedes(&version(1, 1)));
        assert!(!version(1, 1).supersedes(&version(1, 1)));
        assert_eq!(next_created_at(UnixTime(5), None), UnixTime(5));
        assert_eq!(next_created_at(UnixTime(5), Some(UnixTime(5))), UnixTime(6));
        assert_eq!(
            next_created_at(UnixTime(5), Some(UnixTime(9))),
            UnixTime(10)
        );
        assert_eq!(next_created_at(UnixTime(5), Some(UnixTime(2))), UnixTime(5));
    }

    #[test]
    fn share_links() {
        let advert = altered(|_| {}).unwrap();
        let link = advert.share_link().unwrap();
        assert!(link.starts_with("nostr:naddr1"), "{link}");
        let read = ShareLink::decode(&link, false).unwrap();
        assert_eq!(read.cohort, advert.cohort);
        assert_eq!(read.author, advert.author);
        assert_eq!(read.relays, advert.relays);
        assert_eq!(
            ShareLink::decode(link.strip_prefix("nostr:").unwrap(), false),
            Ok(read)
        );
        let private = ShareLink {
            relays: vec![RelayUrl::parse("ws://127.0.0.1:7777").unwrap()],
            ..ShareLink::decode(&link, false).unwrap()
        };
        let text = private.encode().unwrap();
        assert!(ShareLink::decode(&text, false).unwrap().relays.is_empty());
        assert_eq!(ShareLink::decode(&text, true).unwrap(), private);
        for bad in [
            "",
            "nostr:",
            "nostr:naddr1",
            &link[..link.len() - 1],
            "npub1x",
        ] {
            assert_eq!(
                ShareLink::decode(bad, false),
                Err(AdvertFault::Link),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(nostr:)?(naddr1)?[a-z0-9]{0,200}") {
            let _ = ShareLink::decode(&text, true);
        }
    }
}
