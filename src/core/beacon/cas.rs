//! The announcement of a CAS beacon: a map from DID to update hash (spec.md §2.5).
//!
//! Its signal is the SHA-256 of its canonical bytes (RFC 8785). A member signs only over an announcement
//! whose bytes are canonical (DESIGN §6 rule 3): with two texts for one map, or a key twice, two readers
//! could disagree on what was announced.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::hash::{SignalBytes, UpdateHash, sha256};

/// A CAS announcement. A DID that is not in it has no update in this signal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CasAnnouncement {
    /// Sorted bytewise, which for ASCII is RFC 8785's order.
    entries: BTreeMap<String, UpdateHash>,
}

/// Why entries or bytes are no announcement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CasError {
    /// The bytes are not a JSON object of texts, a value is not 32 bytes of base64url, or a key is repeated.
    #[error("not a map from DID to update hash: {0}")]
    Malformed(String),
    /// A DID is given twice.
    #[error("{0} is given twice: one DID has one update in a signal")]
    RepeatedDid(String),
    /// A key is not a DID of this network.
    #[error("{0:?} is not a DID that can be announced here")]
    InvalidDid(String),
    /// The bytes are another text of the map than the canonical one.
    #[error("the bytes are not canonical (RFC 8785)")]
    NotCanonical,
}

impl CasAnnouncement {
    /// Makes an announcement of these entries, in any order. `is_valid_did` says which keys are DIDs of
    /// the beacon's network; keys with characters that JSON would escape are refused whatever it says.
    pub fn new(
        entries: impl IntoIterator<Item = (String, UpdateHash)>,
        is_valid_did: impl Fn(&str) -> bool,
    ) -> Result<Self, CasError> {
        let mut map = BTreeMap::new();
        for (did, update) in entries {
            if !is_plain(&did) || !is_valid_did(&did) {
                return Err(CasError::InvalidDid(did));
            }
            if map.contains_key(&did) {
                return Err(CasError::RepeatedDid(did));
            }
            map.insert(did, update);
        }
        Ok(Self { entries: map })
    }

    /// Reads canonical bytes, and nothing else: the result's [`Self::canonical_bytes`] are `bytes`.
    pub fn parse_canonical(
        bytes: &[u8],
        is_valid_did: impl Fn(&str) -> bool,
    ) -> Result<Self, CasError> {
        let entries: Entries = serde_json::from_slice(bytes)
            .map_err(|error| CasError::Malformed(error.to_string()))?;
        let announcement = Self::new(entries.0, is_valid_did)?;
        if announcement.canonical_bytes() != bytes {
            return Err(CasError::NotCanonical);
        }
        Ok(announcement)
    }

    /// The canonical bytes (RFC 8785): what is hashed, stored, and put into content-addressed storage.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let members: Vec<_> = self
            .entries
            .iter()
            .map(|(did, update)| format!("\"{did}\":\"{update}\""))
            .collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    }

    /// What the beacon signals: SHA-256 of the canonical bytes.
    #[must_use]
    pub fn signal_bytes(&self) -> SignalBytes {
        SignalBytes::from_bytes(sha256(&self.canonical_bytes()))
    }

    /// The update announced for a DID, if any.
    #[must_use]
    pub fn update_of(&self, did: &str) -> Option<UpdateHash> {
        self.entries.get(did).copied()
    }

    /// Every DID with its update, in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, UpdateHash)> {
        self.entries
            .iter()
            .map(|(did, update)| (did.as_str(), *update))
    }

    /// How many DIDs have an update.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is announced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Whether JSON writes the text as it is.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// The members of a JSON object in their order, repeated ones included.
struct Entries(Vec<(String, UpdateHash)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of update hashes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(did) = map.next_key::<String>()? {
                    let update = map
                        .next_value::<UpdateHash>()
                        .map_err(|error| de::Error::custom(format!("{did:?}: {error}")))?;
                    entries.push((did, update));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(byte: u8) -> UpdateHash {
        UpdateHash::from_bytes([byte; 32])
    }

    fn any_did(did: &str) -> bool {
        did.starts_with("did:")
    }

    fn parse(text: &str) -> Result<CasAnnouncement, CasError> {
        CasAnnouncement::parse_canonical(text.as_bytes(), any_did)
    }

    const A: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    const B: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI";

    #[test]
    fn entries_are_sorted_and_looked_up() {
        let announcement = CasAnnouncement::new(
            [("did:b".to_owned(), hash(2)), ("did:a".to_owned(), hash(1))],
            any_did,
        )
        .unwrap();
        let text = format!(r#"{{"did:a":"{A}","did:b":"{B}"}}"#);
        assert_eq!(announcement.canonical_bytes(), text.as_bytes());
        assert_eq!(parse(&text).unwrap(), announcement);
        assert_eq!(announcement.update_of("did:a"), Some(hash(1)));
        assert_eq!(announcement.update_of("did:c"), None);
        assert_eq!(
            announcement.iter().collect::<Vec<_>>(),
            [("did:a", hash(1)), ("did:b", hash(2))]
        );
    }

    #[test]
    fn an_empty_announcement_is_one() {
        let empty = parse("{}").unwrap();
        assert!(empty.is_empty());
        assert_eq!(
            empty.signal_bytes().to_string(),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }

    #[test]
    fn other_texts_of_the_same_map_are_refused() {
        for text in [
            format!(r#"{{"did:b":"{B}","did:a":"{A}"}}"#),
            format!(r#"{{"did:a": "{A}"}}"#),
            format!("{{\"did:a\":\"{A}\"}}\n"),
            format!(r#"{{"did\u003aa":"{A}"}}"#),
        ] {
            assert_eq!(parse(&text), Err(CasError::NotCanonical), "{text}");
        }
    }

    #[test]
    fn repeated_keys_are_refused_even_with_equal_values() {
        for second in [A, B] {
            assert_eq!(
                parse(&format!(r#"{{"did:a":"{A}","did:a":"{second}"}}"#)),
                Err(CasError::RepeatedDid("did:a".to_owned()))
            );
        }
        assert_eq!(
            CasAnnouncement::new(
                [("did:a".to_owned(), hash(1)), ("did:a".to_owned(), hash(1))],
                any_did
            ),
            Err(CasError::RepeatedDid("did:a".to_owned()))
        );
    }

    #[test]
    fn bad_keys_are_refused() {
        assert_eq!(
            parse(&format!(r#"{{"urn:a":"{A}"}}"#)),
            Err(CasError::InvalidDid("urn:a".to_owned()))
        );
        // A lax validator does not make an ambiguous text possible.
        for did in ["did:\u{e9}", "did:\"", "did:\\", "did: ", "did:\n"] {
            assert_eq!(
                CasAnnouncement::new([(did.to_owned(), hash(1))], |_| true),
                Err(CasError::InvalidDid(did.to_owned()))
            );
        }
    }

    #[test]
    fn bad_values_and_other_json_are_refused() {
        for text in [
            r#"{"did:a":"AA"}"#.to_owned(),
            format!(r#"{{"did:a":"{A}="}}"#),
            r#"{"did:a":null}"#.to_owned(),
            r#"{"did:a":{}}"#.to_owned(),
            "[]".to_owned(),
            format!(r#"{{"did:a":"{A}"}} {{}}"#),
            "[".repeat(100_000),
        ] {
            assert!(
                matches!(parse(&text), Err(CasError::Malformed(_))),
                "{text:.40}"
            );
        }
        assert!(
            CasAnnouncement::parse_canonical(b"\xff", any_did).is_err(),
            "not UTF-8"
        );
    }

    proptest! {
        #[test]
        fn canonical_bytes_are_rfc_8785(
            entries in prop::collection::btree_map("did:btcr2:[kx]1[a-z0-9]{1,9}", any::<[u8; 32]>(), 0..9),
        ) {
            let announcement = CasAnnouncement::new(
                entries.iter().rev().map(|(did, hash)| (did.clone(), UpdateHash::from_bytes(*hash))),
                any_did,
            ).unwrap();
            let value: serde_json::Value = entries
                .iter()
                .map(|(did, hash)| (did.clone(), UpdateHash::from_bytes(*hash).to_string().into()))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let reference = serde_json_canonicalizer::to_vec(&value).unwrap();
            prop_assert_eq!(announcement.canonical_bytes(), reference.clone());
            prop_assert_eq!(CasAnnouncement::parse_canonical(&reference, any_did), Ok(announcement));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(announcement) = CasAnnouncement::parse_canonical(&bytes, |_| true) {
                prop_assert_eq!(announcement.canonical_bytes(), bytes);
            }
        }

        #[test]
        fn what_parses_is_canonical(text in r#"\{("did:[ab]":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"[, ]{0,2}){0,3}\}"#) {
            if let Ok(announcement) = parse(&text) {
                prop_assert_eq!(announcement.canonical_bytes(), text.into_bytes());
            }
        }
    }
}
