//! Text somebody else wrote, made safe to show.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// Text from a peer, a relay or a server: what it may do to a terminal is gone by construction.
///
/// Control characters (C0, DEL, C1), the characters that reorder or hide text (bidirectional
/// controls, zero-width and invisible ones, tags) are removed, line breaks and tabs become spaces,
/// and at most [`PeerText::MAX_CHARS`] characters are kept.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PeerText(String);

impl PeerText {
    /// Characters kept; longer texts end in `…`.
    pub const MAX_CHARS: usize = 240;

    /// Makes a safe text of any text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(single_line(text, Self::MAX_CHARS))
    }

    /// The safe text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing is left to show.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for PeerText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for PeerText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Display for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for PeerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for PeerText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

/// One line of at most `max_chars` harmless characters; a cut text ends in `…`.
#[must_use]
pub fn single_line(text: &str, max_chars: usize) -> String {
    let mut kept = text.chars().filter_map(harmless);
    let mut out: String = kept.by_ref().take(max_chars).collect();
    if kept.next().is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// JSON with every character escaped that must not reach a terminal: the same to a program, harmless where somebody looks
/// at it. JSON itself escapes C0 controls only.
#[must_use]
pub fn json_for_terminal(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // White space between the parts of a document is no text.
        if matches!(c, '\n' | '\r' | '\t') || harmless(c) == Some(c) {
            out.push(c);
            continue;
        }
        // Outside of strings JSON has ASCII only, so this is inside one.
        for unit in c.encode_utf16(&mut [0; 2]) {
            out.push_str(&format!("\\u{unit:04x}"));
        }
    }
    out
}

/// The character to show for `c`, or `None` when it must not reach a terminal.
fn harmless(c: char) -> Option<char> {
    match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
        c if c.is_control() => None,
        // Soft hyphen, Arabic letter mark, Mongolian vowel separator: invisible.
        '\u{00ad}' | '\u{061c}' | '\u{180e}' => None,
        // Zero-width characters and the bidirectional marks, embeddings and overrides.
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => None,
        // Word joiner, invisible operators, bidirectional isolates, deprecated format characters.
        '\u{2060}'..='\u{206f}' => None,
        // Byte order mark, interlinear annotation, tag characters and variation selectors beyond the basic plane: all that
        // is invisible there.
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => None,
        // Hangul fillers: letters that show nothing.
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => None,
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_reordering_are_gone_and_letters_stay() {
        let hostile = "ok\u{1b}[2J\u{9b}31m\u{7} \u{202e}drawkcab\u{2066}x\u{2069}\u{200b}\n Grüße 日本 \u{feff}\u{e0041}";
        assert_eq!(
            PeerText::new(hostile).as_str(),
            "ok[2J31m drawkcabx  Grüße 日本 "
        );
    }

    #[test]
    fn json_is_the_same_to_a_program_and_harmless_to_a_terminal() {
        let hostile =
            "a\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{2028}\u{e0041}\n \\u202e Grüße 日本 🜁 \"\\";
        let value = serde_json::json!({ hostile: [hostile, 1, null] });
        for json in [
            serde_json::to_string(&value).unwrap(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let safe = json_for_terminal(&json);
            let read: serde_json::Value = serde_json::from_str(&safe).unwrap();
            assert_eq!(read, value);
            let shown = safe.replace('\n', "");
            assert!(shown.chars().all(|c| harmless(c) == Some(c)), "{safe}");
            assert!(safe.contains("\\u202e") && safe.contains("\\udb40\\udc41"));
            assert!(safe.contains("Grüße 日本 🜁"));
        }
    }

    #[test]
    fn what_shows_nothing_is_gone() {
        assert_eq!(single_line("a\u{3164}\u{115f}\u{ffa0}\u{e0101}b", 9), "ab");
    }

    #[test]
    fn length_is_capped_in_characters() {
        let text = PeerText::new(&"é".repeat(PeerText::MAX_CHARS + 1));
        assert_eq!(text.as_str().chars().count(), PeerText::MAX_CHARS);
        assert!(text.as_str().ends_with('…'));
        let exact = PeerText::new(&"é".repeat(PeerText::MAX_CHARS));
        assert_eq!(exact.as_str().chars().count(), PeerText::MAX_CHARS);
        assert!(exact.as_str().ends_with('é'));
    }

    #[test]
    fn deserialising_cleans_too() {
        let text: PeerText = serde_json::from_str("\"a\\u001b[31mb\"").unwrap();
        assert_eq!(text.as_str(), "a[31mb");
    }

    proptest::proptest! {
        #[test]
        fn nothing_dangerous_survives(
            text in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::char::any(),
                    proptest::char::range('\0', '\u{ff}'),
                    proptest::char::range('\u{2000}', '\u{20ff}'),
                ],
                0..400,
            )
        ) {
            let text: String = text.into_iter().collect();
            let safe = PeerText::new(&text);
            let is_safe = |c: char| !c.is_control() && !['\u{202e}', '\u{2066}', '\u{200b}'].contains(&c);
            proptest::prop_assert!(safe.as_str().chars().all(is_safe));
            proptest::prop_assert!(safe.as_str().chars().count() <= PeerText::MAX_CHARS);
            proptest::prop_assert_eq!(PeerText::new(safe.as_str()), safe);
        }
    }
}
