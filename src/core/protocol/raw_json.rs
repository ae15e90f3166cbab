//! JSON that a message carries as it was written: documents and updates, whose bytes are hashed or kept.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Deepest nesting of [`RawJson`]. What reads it accepts less ([`crate::did::json::MAX_DEPTH`]) and says so;
/// what stores it as part of a log entry must not meet more than it can check.
pub const MAX_RAW_DEPTH: usize = 128;

/// JSON kept as it was written.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct RawJson(pub Box<RawValue>);

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(d)?;
        if depth(raw.get()) > MAX_RAW_DEPTH {
            let text = format!("JSON nested deeper than {MAX_RAW_DEPTH} levels");
            return Err(serde::de::Error::custom(text));
        }
        Ok(Self(raw))
    }
}

/// Levels of nesting of valid JSON.
fn depth(json: &str) -> usize {
    let (mut deepest, mut level) = (0_usize, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => level = level.saturating_add(1),
            b'}' | b']' if !in_text => level = level.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(level);
    }
    deepest
}

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}
impl Eq for RawJson {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log entry is checked by a parser that goes a thousand levels deep; a member must not be able to
    /// write one that it refuses.
    #[test]
    fn raw_json_is_only_so_deep() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let parse = |text: &str| serde_json::from_str::<RawJson>(text);
        assert!(parse(&nested(MAX_RAW_DEPTH)).is_ok());
        assert!(parse(&nested(MAX_RAW_DEPTH + 1)).is_err());
        assert!(parse(&nested(16_000)).is_err());
        // Brackets in text are text, however quotation marks are escaped.
        let text = format!(r#"["\\\"{}"]"#, "[".repeat(500));
        assert_eq!(depth(&text), 1);
        assert!(parse(&text).is_ok());
        assert_eq!(depth(r#"{"a":[{"b":[]}],"c":{}}"#), 4);
        assert_eq!(depth("7"), 0);
    }
}
