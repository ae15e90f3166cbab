//! A resolution, and the table of a conformance run.

use std::io::Write as _;

use serde_json::Value;

use super::{Align, Page, Render, Table};
use crate::agent::control::text::{json_for_terminal, single_line};
use crate::lookup::conform::{Report, Verdict};
use crate::resolver::Walk;

/// Longest line of a walk, in characters.
const MAX_LINE_CHARS: usize = 600;

/// Indented JSON that stays JSON and does nothing to a terminal: what a person should not see raw is escaped.
#[must_use]
pub fn printable_json(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut out = json_for_terminal(&text);
    out.push('\n');
    out
}

/// Prints a walk on stderr, a line for each step: stdout is for the result.
pub fn explain(walk: &Walk) {
    let mut stderr = std::io::stderr().lock();
    for line in walk.to_string().lines() {
        // Nothing can be done about a stderr that is gone.
        let _ = writeln!(stderr, "{}", single_line(line, MAX_LINE_CHARS));
    }
}

impl Render for Report {
    fn render(&self, page: &mut Page) {
        let mut table = Table::new([
            ("set", Align::Left),
            ("kind", Align::Left),
            ("expected", Align::Left),
            ("got", Align::Left),
            ("verdict", Align::Left),
        ]);
        for check in &self.checks {
            table.row([
                check.scenario.as_ref().map_or_else(
                    || check.set.clone(),
                    |scenario| format!("{} {scenario}", check.set),
                ),
                check.kind.clone(),
                check.expected.clone(),
                check.got.clone(),
                check.verdict.to_string(),
            ]);
        }
        page.table(&table);
        for (verdict, heading) in [
            (Verdict::Failed, "Failed"),
            (Verdict::Skipped, "Skipped"),
            (Verdict::Passed, "Passed, and worth knowing"),
        ] {
            let mut noted = self
                .checks
                .iter()
                .filter(|check| check.verdict == verdict && check.note.is_some())
                .peekable();
            if noted.peek().is_some() {
                page.heading(heading);
            }
            for check in noted {
                let note = check.note.as_deref().unwrap_or_default();
                page.line(&format!("  {} {}: {note}", check.set, check.kind));
            }
        }
        page.heading(&format!(
            "{} checks in {} sets: {} passed, {} failed, {} skipped",
            self.checks.len(),
            self.sets,
            self.passed,
            self.failed,
            self.skipped
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_for_a_terminal_is_the_same_json_without_its_dangers() {
        let value = json!({"a\u{9b}31m": ["\u{202e}\u{7f}é\u{200b}", "\n", "\u{e0041}日本"]});
        let text = printable_json(&value);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.contains("\\u009b31m") && text.contains("é") && text.contains("日本"));
        assert!(
            text.chars().all(|c| c == '\n' || !c.is_control())
                && !text.contains(['\u{202e}', '\u{200b}', '\u{e0041}'])
        );
    }
}
