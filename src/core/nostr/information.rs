//! What a relay tells of itself (NIP-11).
//!
//! Everything in it is a claim and a stranger's text; a missing field proves nothing. What it says of limits spares events that
//! would be refused; what it says wrongly shows when events are refused all the same.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The largest document that should be read, in bytes. Real ones have some thousand.
pub const MAX_BYTES: usize = 64 * 1024;

/// The longest name or software kept, in characters.
const MAX_TEXT: usize = 100;

/// What a relay says it is and takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayInformation {
    /// Its name, cut to 100 characters; foreign text.
    pub name: Option<String>,
    /// Its software and version, cut likewise; foreign text.
    pub software: Option<String>,
    /// The NIPs it says it supports.
    pub nips: Vec<u16>,
    /// Its limits.
    pub limits: RelayLimits,
}

/// What a relay says it does not take or give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayLimits {
    /// The largest message it reads, in bytes of JSON, framing included.
    pub message_bytes: Option<u64>,
    /// Most subscriptions of a connection.
    pub subscriptions: Option<u32>,
    /// Most events one REQ brings.
    pub limit: Option<u32>,
    /// Bits of work it wants (NIP-13).
    pub pow: u8,
    /// It wants authentication before anything else (NIP-42).
    pub auth: bool,
    /// It wants to be paid first.
    pub payment: bool,
    /// Only some may write.
    pub restricted_writes: bool,
}

/// Why nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InformationFault {
    /// No answer.
    #[error("no answer to the question what it is (NIP-11): {0}")]
    Unreachable(String),
    /// An answer with another status than 200.
    #[error("it does not say what it is (NIP-11): status {0}")]
    Status(i32),
    /// Not a JSON object.
    #[error("what it says of itself (NIP-11) is not a JSON object")]
    Malformed,
}

impl RelayInformation {
    /// Reads a document. Relays write what they like into it: a field of another form than NIP-11 says is
    /// taken for missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, InformationFault> {
        let document: Map<String, Value> = bytes
            .get(..bytes.len().min(MAX_BYTES))
            .and_then(|bytes| serde_json::from_slice(bytes).ok())
            .ok_or(InformationFault::Malformed)?;
        let text = |name: &str| {
            let text = document.get(name)?.as_str()?.trim();
            (!text.is_empty()).then(|| text.chars().take(MAX_TEXT).collect::<String>())
        };
        let software = text("software").map(|software| match text("version") {
            Some(version) => format!("{software} {version}")
                .chars()
                .take(MAX_TEXT)
                .collect(),
            None => software,
        });
        let nips = document.get("supported_nips").and_then(Value::as_array);
        let empty = Map::new();
        let limitation = document.get("limitation").and_then(Value::as_object);
        Ok(Self {
            name: text("name"),
            software,
            nips: nips
                .into_iter()
                .flatten()
                .filter_map(|nip| u16::try_from(nip.as_u64()?).ok())
                .take(200)
                .collect(),
            limits: RelayLimits::of(limitation.unwrap_or(&empty)),
        })
    }
}

impl RelayLimits {
    fn of(limitation: &Map<String, Value>) -> Self {
        let number = |name: &str| limitation.get(name).and_then(Value::as_u64);
        let small = |name: &str| number(name).and_then(|n| u32::try_from(n).ok());
        let flag = |name: &str| limitation.get(name).and_then(Value::as_bool) == Some(true);
        Self {
            message_bytes: number("max_message_length").filter(|bytes| *bytes > 0),
            subscriptions: small("max_subscriptions").filter(|most| *most > 0),
            limit: small("max_limit").filter(|most| *most > 0),
            pow: number("min_pow_difficulty")
                .map_or(0, |bits| u8::try_from(bits).unwrap_or(u8::MAX)),
            auth: flag("auth_required"),
            payment: flag("payment_required"),
            restricted_writes: flag("restricted_writes"),
        }
    }

    /// Whether an event of so many bytes of JSON fits into a message.
    #[must_use]
    pub const fn takes_bytes(&self, bytes: usize) -> bool {
        /// `["EVENT",` and `]`.
        const FRAME: u64 = 10;
        match self.message_bytes {
            Some(most) => (bytes as u64).saturating_add(FRAME) <= most,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_as_strfry_writes_it() {
        let text = br#"{"contact":"","description":"d","limitation":{"max_limit":500,"max_message_length":131072,"max_subscriptions":20},"name":"nos.lol","software":"git+https://github.com/hoytech/strfry.git","supported_nips":[1,2,4,9,11,28,40,45,70,77],"version":"1.1.3"}"#;
        let information = RelayInformation::parse(text).unwrap();
        assert_eq!(information.name.as_deref(), Some("nos.lol"));
        assert_eq!(
            information.software.as_deref(),
            Some("git+https://github.com/hoytech/strfry.git 1.1.3")
        );
        assert_eq!(information.nips.len(), 10);
        assert_eq!(
            information.limits,
            RelayLimits {
                message_bytes: Some(131_072),
                subscriptions: Some(20),
                limit: Some(500),
                ..RelayLimits::default()
            }
        );
        assert!(information.limits.takes_bytes(131_062));
        assert!(!information.limits.takes_bytes(131_063));
    }

    #[test]
    fn nothing_said_is_no_limit_and_nonsense_is_nothing_said() {
        for text in [
            r"{}",
            r#"{"limitation":{}}"#,
            r#"{"limitation":null,"supported_nips":"all"}"#,
            r#"{"limitation":{"max_message_length":-1,"max_limit":"many","auth_required":"no","max_subscriptions":0}}"#,
        ] {
            let information = RelayInformation::parse(text.as_bytes()).unwrap();
            assert_eq!(information.limits, RelayLimits::default(), "{text}");
        }
        for text in ["", "[]", "<html>", "{"] {
            let parsed = RelayInformation::parse(text.as_bytes());
            assert_eq!(parsed, Err(InformationFault::Malformed), "{text}");
        }
    }

    #[test]
    fn demands_are_read() {
        let text = br#"{"limitation":{"min_pow_difficulty":28,"auth_required":true,"payment_required":true,"restricted_writes":true}}"#;
        let limits = RelayInformation::parse(text).unwrap().limits;
        assert_eq!(limits.pow, 28);
        assert!(limits.auth && limits.payment && limits.restricted_writes);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = RelayInformation::parse(&bytes);
        }
    }
}
