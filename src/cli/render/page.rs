//! A page of text.

use super::table::Table;
use crate::agent::control::text::single_line;
use crate::time::UnixTime;

/// Longest text of a field, in characters.
const MAX_FIELD_CHARS: usize = 600;

/// Width of the labels of fields.
const LABEL_WIDTH: usize = 18;

/// Text under construction. Whatever is added is made harmless for a terminal, except by
/// [`Page::verbatim`].
#[derive(Debug, Clone)]
pub struct Page {
    text: String,
    now: UnixTime,
}

impl Page {
    /// An empty page; relative times count from `now`.
    #[must_use]
    pub const fn new(now: UnixTime) -> Self {
        Self {
            text: String::new(),
            now,
        }
    }

    /// What relative times count from.
    #[must_use]
    pub const fn now(&self) -> UnixTime {
        self.now
    }

    /// The text so far.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Uses another clock, for instance the daemon's.
    pub const fn set_now(&mut self, now: UnixTime) {
        self.now = now;
    }

    /// A line above a group, with an empty line before it unless it is the first.
    pub fn heading(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(text);
    }

    /// One line.
    pub fn line(&mut self, text: &str) {
        self.text.push_str(&single_line(text, MAX_FIELD_CHARS));
        self.text.push('\n');
    }

    /// A label and its value.
    pub fn field(&mut self, label: &str, value: &str) {
        // A long label has a space behind it all the same.
        let width = LABEL_WIDTH.saturating_sub(1);
        self.line(&format!("  {label:<width$} {value}"));
    }

    /// A label and its value, if there is one.
    pub fn field_if(&mut self, label: &str, value: Option<String>) {
        if let Some(value) = value {
            self.field(label, &value);
        }
    }

    /// A table, indented like fields.
    pub fn table(&mut self, table: &Table) {
        for line in table.to_string().lines() {
            self.text.push_str("  ");
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// Lines that this program made itself and that keep their form: a QR code, a JSON document.
    pub fn verbatim(&mut self, text: &str) {
        self.text.push_str(text);
        if !text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// Base64 on one line, whole however long it is, for copying; of anything else only what is base64.
    pub fn base64(&mut self, text: &str) {
        let digit = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        self.text.extend(text.chars().filter(digit));
        self.text.push('\n');
    }

    /// A JSON document, indented. JSON escapes C0 controls only, so that each line is cleaned too.
    pub fn document(&mut self, document: &serde_json::Value) {
        let text = serde_json::to_string_pretty(document).unwrap_or_default();
        for line in text.lines() {
            self.text.push_str("  ");
            self.text.push_str(&single_line(line, 4 * MAX_FIELD_CHARS));
            self.text.push('\n');
        }
    }
}
