//! An aggregator's relay list (NIP-65, kind 10002): where it writes, and where it reads.
//!
//! A member writes where the aggregator reads. The advert says where that is, and the channel when it
//! changes; the list says it also to members that were away, and to whoever follows the aggregator. Only
//! aggregators publish one: a member's identity is nobody's business.

use std::collections::BTreeMap;

use super::event::{EventDraft, EventFault, VerifiedEvent};
use super::policy::{MAX_ADVERTISED, RelayUrl, advertised_relays};
use crate::keys::{NostrKey, OwnKey};
use crate::time::UnixTime;

/// Kind of a relay list: replaceable.
pub const KIND_RELAY_LIST: u16 = 10_002;

/// Authors whose newest list is remembered.
const MAX_AUTHORS: usize = 1_024;

/// A relay of a list, and what its author does there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRelay {
    /// Its address.
    pub url: RelayUrl,
    /// The author reads there.
    pub read: bool,
    /// The author writes there.
    pub write: bool,
}

/// Signs a list. Relays that are neither read nor written are left out.
pub fn encode(
    relays: &[ListedRelay],
    created_at: UnixTime,
    key: &OwnKey,
) -> Result<VerifiedEvent, EventFault> {
    let tags = relays.iter().filter_map(|relay| {
        let marker = match (relay.read, relay.write) {
            (true, true) => None,
            (true, false) => Some("read"),
            (false, true) => Some("write"),
            (false, false) => return None,
        };
        let mut tag = vec!["r".to_owned(), relay.url.to_string()];
        tag.extend(marker.map(str::to_owned));
        Some(tag)
    });
    EventDraft {
        created_at,
        kind: KIND_RELAY_LIST,
        tags: tags.collect(),
        content: String::new(),
    }
    .sign(key)
}

/// Where the author of a list reads: the first five relays that may be dialled. Anything that is not a
/// relay to dial is left out, and so is a marker nobody knows.
#[must_use]
pub fn reads(event: &VerifiedEvent, allow_private: bool) -> Vec<RelayUrl> {
    let relays = event.tags.iter().filter_map(|tag| match &tag[..] {
        [name, url] if name == "r" => Some(url.as_str()),
        [name, url, marker, ..] if name == "r" && (marker == "read" || marker.is_empty()) => {
            Some(url.as_str())
        }
        _ => None,
    });
    let mut relays = advertised_relays(relays, allow_private);
    relays.truncate(MAX_ADVERTISED);
    relays
}

/// The newest list of each author. Relays serve old ones, in any order.
#[derive(Debug, Default)]
pub struct RelayLists(BTreeMap<NostrKey, UnixTime>);

impl RelayLists {
    /// Whether a list is news: later than all that came before. When there are too many authors the one
    /// with the oldest list is forgotten.
    pub fn is_news(&mut self, event: &VerifiedEvent) -> bool {
        let known = self.0.get(&event.author);
        if event.kind != KIND_RELAY_LIST || known.is_some_and(|at| *at >= event.created_at) {
            return false;
        }
        self.0.insert(event.author, event.created_at);
        if self.0.len() > MAX_AUTHORS {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at);
            if let Some(author) = oldest.map(|(author, _)| *author) {
                self.0.remove(&author);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> OwnKey {
        OwnKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn url(text: &str) -> RelayUrl {
        RelayUrl::parse(text).unwrap()
    }

    fn listed(text: &str, read: bool, write: bool) -> ListedRelay {
        ListedRelay {
            url: url(text),
            read,
            write,
        }
    }

    #[test]
    fn a_list_as_nip_65_writes_it() {
        let relays = [
            listed("wss://alicerelay.example.com", true, true),
            listed("wss://expensive-relay.example2.com", false, true),
            listed("wss://nostr-relay.example.com", true, false),
            listed("wss://unused.example.com", false, false),
        ];
        let event = encode(&relays, UnixTime(1_700_000_000), &key(1)).unwrap();
        assert_eq!((event.kind, event.content.as_str()), (10_002, ""));
        let tags: Vec<Vec<&str>> = event
            .tags
            .iter()
            .map(|tag| tag.iter().map(String::as_str).collect())
            .collect();
        assert_eq!(
            tags,
            [
                vec!["r", "wss://alicerelay.example.com"],
                vec!["r", "wss://expensive-relay.example2.com", "write"],
                vec!["r", "wss://nostr-relay.example.com", "read"],
            ]
        );
        assert_eq!(
            reads(&event, false),
            [
                url("wss://alicerelay.example.com"),
                url("wss://nostr-relay.example.com")
            ]
        );
    }

    #[test]
    fn a_list_leads_nowhere_inside_and_to_five_relays_at_most() {
        let tag = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect();
        let mut tags: Vec<Vec<String>> = vec![
            tag(&["r"]),
            tag(&["r", "nonsense"]),
            tag(&["r", "ws://plain.example.com"]),
            tag(&["r", "wss://127.0.0.1"]),
            tag(&["r", "wss://a.example.com", "sing"]),
            tag(&["p", "wss://b.example.com"]),
            tag(&["r", "wss://c.example.com", ""]),
        ];
        tags.extend((0..9).map(|n| tag(&["r", &format!("wss://r{n}.example.com")])));
        let draft = EventDraft {
            created_at: UnixTime(1),
            kind: KIND_RELAY_LIST,
            tags,
            content: String::new(),
        };
        let found = reads(&draft.sign(&key(1)).unwrap(), false);
        assert_eq!(found.len(), MAX_ADVERTISED);
        assert_eq!(found[0], url("wss://c.example.com"));
        assert_eq!(found[1], url("wss://r0.example.com"));
    }

    #[test]
    fn only_a_later_list_is_news_and_memory_is_bounded() {
        let mut lists = RelayLists::default();
        let list = |byte, at| encode(&[], UnixTime(at), &key(byte)).unwrap();
        assert!(lists.is_news(&list(1, 10)));
        assert!(!lists.is_news(&list(1, 10)) && !lists.is_news(&list(1, 9)));
        assert!(lists.is_news(&list(2, 9)));
        assert!(lists.is_news(&list(1, 11)));
        let mut secret = [1u8; 32];
        for n in 0..=u16::try_from(MAX_AUTHORS).unwrap() {
            secret[..2].copy_from_slice(&n.to_be_bytes());
            let author = OwnKey::from_bytes(&secret).unwrap();
            lists.is_news(&encode(&[], UnixTime(100), &author).unwrap());
        }
        assert!(lists.0.len() <= MAX_AUTHORS);
    }
}
