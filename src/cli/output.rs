//! Where results go: text for people, or one JSON object per line.

use std::io::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::error::CliError;
use super::render::{Page, Render};
use crate::agent::control::text::json_for_terminal;
use crate::time::UnixTime;

/// Prints results on stdout.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

/// The object a result is printed as with `--json`.
#[derive(Serialize)]
struct ResultJson<'a, T> {
    ok: bool,
    result: &'a T,
}

impl Output {
    /// Text, or JSON.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON was asked for.
    #[must_use]
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: rendered, or as `{"ok":true,"result":…}`.
    pub fn view<T: Serialize + Render>(self, view: &T) -> Result<(), CliError> {
        if self.json {
            self.json_line(&ResultJson {
                ok: true,
                result: view,
            })
        } else {
            let mut page = Page::new(now());
            view.render(&mut page);
            self.text(page.as_str())
        }
    }

    /// Prints any value as one line of JSON.
    pub fn json_line<T: Serialize>(self, value: &T) -> Result<(), CliError> {
        let json = serde_json::to_string(value).map_err(io::Error::from)?;
        let mut json = json_for_terminal(&json);
        json.push('\n');
        write_stdout(json.as_bytes())
    }

    /// Prints text that is ready.
    pub fn text(self, text: &str) -> Result<(), CliError> {
        write_stdout(text.as_bytes())
    }
}

/// The wall clock, for relative times.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}

fn write_stdout(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}
