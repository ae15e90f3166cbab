//! Logs on a terminal: what relays, peers and servers said is in them.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use crate::agent::control::text::single_line;

/// Where log lines go: stderr, with nothing in them that a terminal would obey but the colours of the log itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct HarmlessStderr;

/// What a further line of one event begins with: only the log itself begins a line at its margin, so that nobody can
/// write a line that looks like another event.
const FURTHER: &str = "    | ";

/// One event of the log. It comes in one piece.
#[derive(Debug)]
pub(super) struct Harmless<W>(W);

impl MakeWriter<'_> for HarmlessStderr {
    type Writer = Harmless<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Harmless(io::stderr())
    }
}

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .write_all(harmless(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The text with its line ends and colours, and otherwise as [`single_line`] has it.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (n, line) in text.split_inclusive('\n').enumerate() {
        if n > 0 {
            out.push_str(FURTHER);
        }
        let mut rest = line.trim_end_matches('\n');
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            out.push_str(&single_line(before, usize::MAX));
            let colour = colour(after);
            if !colour.is_empty() {
                out.push('\u{1b}');
                out.push_str(colour);
            }
            rest = after.get(colour.len()..).unwrap_or_default();
        }
        out.push_str(&single_line(rest, usize::MAX));
        if line.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

/// What of the text behind an escape character sets a colour (ECMA-48 SGR); nothing if it does not.
fn colour(text: &str) -> &str {
    let Some(arguments) = text.strip_prefix('[') else {
        return "";
    };
    let digits = arguments.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    if digits.starts_with('m') {
        let length = text.len().saturating_sub(digits.len()).saturating_add(1);
        return text.get(..length).unwrap_or_default();
    }
    ""
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn colours_and_lines_stay_and_nothing_else_that_a_terminal_obeys() {
        let line = "\u{1b}[2m12:00\u{1b}[0m \u{1b}[33mWARN\u{1b}[0m said\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m \u{202e}txt\u{202c}\n";
        assert_eq!(
            harmless(line),
            "\u{1b}[2m12:00\u{1b}[0m \u{1b}[33mWARN\u{1b}[0m said[2J]0;title31m txt\n"
        );
        assert_eq!(harmless("a\nb\n\nc"), "a\n    | b\n    | \n    | c");
        assert_eq!(harmless("\u{1b}"), "");
        assert_eq!(harmless("\u{1b}[31"), "[31");
    }

    #[test]
    fn what_a_relay_says_is_harmless_in_the_log() {
        use std::sync::{Arc, Mutex};

        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);

        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let kept = Kept::default();
        let into = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || Harmless(into.clone()));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let reason = "no\u{1b}[2J\u{202e}\u{9b}1m\u{200b}\nERROR forged";
            tracing::warn!(reason, said = %reason, "the relay refused: {reason}");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("the relay refused: no"), "{text:?}");
        for bad in ['\u{202e}', '\u{9b}', '\u{200b}', '\u{7}'] {
            assert!(!text.contains(bad), "{text:?}");
        }
        assert!(!text.contains("\u{1b}[2J"), "{text:?}");
        let mut further = text.lines().skip(1);
        assert!(further.all(|line| line.starts_with(FURTHER)), "{text:?}");
        assert!(text.contains("    | ERROR forged"), "{text:?}");
    }
}
