//! Copies of a home.

use super::{Page, Render, thousands, when};
use crate::agent::control::views::{HomeBackupView, RestoreView, TakeoverView};

impl Render for HomeBackupView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Backed up into {}", self.dir));
        page.field("as of", &when(page.now(), self.at));
        page.field("files", &self.files.join(", "));
        page.field("bytes", &thousands(self.bytes));
        if !self.left_out.is_empty() {
            page.field("not in it", &self.left_out.join(", "));
        }
        page.line("  Restore it into an empty home: btcr2-agent restore DIR --home HOME");
        page.line(
            "  Only what happened before is in it: make another one after updates, and keep the words elsewhere.",
        );
    }
}

impl Render for RestoreView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Restored into {}", self.home));
        page.field("backup of", &when(page.now(), self.backup_at));
        page.field("made by", &format!("btcr2-agent {}", self.made_by));
        page.field("DIDs", &self.dids.to_string());
        for cohort in &self.cohorts {
            page.field(
                "cohort",
                &format!("{} as {}: goes on", cohort.cohort.short(), cohort.role),
            );
        }
        page.heading("Next");
        page.line("  Make sure that the former copy of this agent never runs again.");
        page.line("  Start the agent: btcr2-agent run");
        page.line("  Compare everything with the chain, and fetch what is missing: btcr2-agent did verify --fetch");
        if !self.cohorts.is_empty() {
            page.line(
                "  What the former copy announced after the backup was made is looked for on the relays: until a \
                 block has decided about it, its DID gets no further update.",
            );
        }
    }
}

impl Render for TakeoverView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("{} is the copy that goes on.", self.home));
        page.field("incarnation", &self.inc.to_string());
        if let Some(seen) = &self.seen {
            page.field("seen before", &seen.to_string());
        }
        page.line("  Start the agent: btcr2-agent run");
    }
}
