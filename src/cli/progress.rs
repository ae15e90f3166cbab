//! Timelines: what `demo`, `run` and `--follow` show while things happen.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::output::now;
use super::render::{Page, Render};
use super::views::DemoReport;
pub use crate::agent::control::TimelineEvent;
use crate::agent::control::text::{json_for_terminal, single_line};

/// Width of the actor's column: `member 100` and `aggregator` fit.
const ACTOR_WIDTH: usize = 11;

/// Where a timeline goes. Reporting never fails and never stops the work: when nobody reads stdout
/// any more, the rest is dropped.
pub trait Reporter: Send + Sync {
    /// Shows one event.
    fn event(&self, event: &TimelineEvent);

    /// How much of the whole is done; what is going on now.
    fn progress(&self, done: u64, total: u64, text: &str);

    /// Shows the closing report of a demo, after the last event.
    fn close(&self, report: &DemoReport);
}

/// The reporter for this command: JSON when asked for, a live display on a terminal, plain lines
/// otherwise.
#[must_use]
pub fn reporter(json: bool) -> Box<dyn Reporter> {
    if json {
        Box::new(Json::default())
    } else if io::stdout().is_terminal() && io::stderr().is_terminal() {
        Box::new(Terminal::default())
    } else {
        Box::new(Plain::default())
    }
}

/// One line for people: seconds since the start, who, what.
#[must_use]
pub fn line(event: &TimelineEvent) -> String {
    format!(
        "{:>4}.{:03}  {:<ACTOR_WIDTH$}  {}",
        event.at_ms / 1000,
        event.at_ms % 1000,
        single_line(&event.actor, 40),
        event.text
    )
}

/// Stdout, until nobody reads it any more.
#[derive(Debug, Default)]
struct Lines {
    closed: AtomicBool,
}

impl Lines {
    fn print(&self, text: &str) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.write_all(b"\n"))
            .and_then(|()| stdout.flush());
        if written.is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }
}

/// Plain lines on stdout, and tables at the end.
#[derive(Debug, Default)]
pub struct Plain {
    lines: Lines,
}

impl Reporter for Plain {
    fn event(&self, event: &TimelineEvent) {
        self.lines.print(&line(event));
    }

    fn progress(&self, _done: u64, _total: u64, _text: &str) {}

    fn close(&self, report: &DemoReport) {
        self.lines.print(&closing(report));
    }
}

/// One JSON object per event on stdout and nothing else. The closing report is an event of the step
/// `report`.
#[derive(Debug, Default)]
pub struct Json {
    lines: Lines,
}

/// The closing report as an event.
#[derive(Serialize)]
struct ReportEvent<'a> {
    at_ms: u64,
    actor: &'static str,
    step: &'static str,
    data: &'a DemoReport,
}

impl Json {
    fn print<T: Serialize>(&self, value: &T) {
        match serde_json::to_string(value) {
            Ok(json) => self.lines.print(&json_for_terminal(&json)),
            Err(error) => tracing::error!(%error, "an event can not be written as JSON"),
        }
    }
}

impl Reporter for Json {
    fn event(&self, event: &TimelineEvent) {
        self.print(event);
    }

    fn progress(&self, _done: u64, _total: u64, _text: &str) {}

    fn close(&self, report: &DemoReport) {
        self.print(&ReportEvent {
            at_ms: report.took_ms,
            actor: "demo",
            step: "report",
            data: report,
        });
    }
}

/// The lines of [`Plain`] with a live bar below them.
#[derive(Debug)]
pub struct Terminal {
    lines: Lines,
    bar: ProgressBar,
}

impl Default for Terminal {
    fn default() -> Self {
        let bar = ProgressBar::new(0);
        // The template is fixed and parses; the plain bar is as good if it did not.
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>7} {bar:32} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self {
            lines: Lines::default(),
            bar,
        }
    }
}

impl Reporter for Terminal {
    fn event(&self, event: &TimelineEvent) {
        self.bar.suspend(|| self.lines.print(&line(event)));
    }

    fn progress(&self, done: u64, total: u64, text: &str) {
        self.bar.enable_steady_tick(Duration::from_millis(120));
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(single_line(text, 60));
    }

    fn close(&self, report: &DemoReport) {
        self.bar.finish_and_clear();
        self.lines.print(&closing(report));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Also when the demo failed: the error line must not stand behind a bar.
        self.bar.finish_and_clear();
    }
}

fn closing(report: &DemoReport) -> String {
    let mut page = Page::new(now());
    report.render(&mut page);
    format!("\n{}", page.as_str().trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_align_and_are_harmless() {
        let event = |at_ms, actor: &'static str, text| TimelineEvent::new(at_ms, actor, "s", text);
        assert_eq!(
            line(&event(7, "aggregator", "advertises")),
            "   0.007  aggregator   advertises"
        );
        assert_eq!(
            line(&event(12_034, "member 2", "a\u{1b}[2Jb\nc")),
            "  12.034  member 2     a[2Jb c"
        );
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event = TimelineEvent::new(5, "chain", "mined", "block 102")
            .with(serde_json::json!({ "height": 102 }));
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"at_ms":5,"actor":"chain","step":"mined","text":"block 102","data":{"height":102}}"#
        );
    }
}
