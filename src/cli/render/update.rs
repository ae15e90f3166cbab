//! Updates, and leaving a cohort with DIDs.

use super::changes::differences;
use super::{Align, Page, Render, Table};
use crate::agent::control::views::{
    DidUpdateView, DidUpdatesView, ExitPlanView, UpdateStage, UpdateView,
};

use super::when;

/// Where an update is, in a few words.
pub(super) fn progress(update: &UpdateView) -> String {
    let mut text = format!("version {}: {}", update.to_version, update.stage);
    if let Some(round) = update.round {
        text.push_str(&format!(" in round {round}"));
    }
    match update.stage {
        UpdateStage::Broadcast | UpdateStage::Confirmed => {
            text.push_str(&format!(
                ", {} of {} confirmations",
                update.confirmations, update.needed
            ));
        }
        _ => {}
    }
    text
}

impl Render for DidUpdateView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Update of {}", self.did));
        page.field(
            "version",
            &format!("{} to {}", self.from_version, self.to_version),
        );
        page.field("announced by", &self.route.to_string());
        match &self.update {
            Some(update) => {
                page.field("hash", &update.hash.to_string());
                page.field("state", &progress(update));
                page.field_if("deposit", update.deposit.map(|stage| stage.to_string()));
            }
            None => page.field("state", "dry run: nothing was signed or stored"),
        }
        page.field_if(
            "next round",
            self.next_round_at.map(|at| when(page.now(), at)),
        );
        page.heading("Changes");
        for difference in differences(&self.before, &self.after) {
            page.line(&format!(
                "  {} {}  {}",
                difference.mark, difference.path, difference.value
            ));
        }
        if !self.notes.is_empty() {
            page.heading("Notes");
            for note in &self.notes {
                page.line(&format!("  {note}"));
            }
        }
        if let Some(announcement) = &self.announcement {
            announcement.render(page);
        }
    }
}

impl Render for DidUpdatesView {
    fn render(&self, page: &mut Page) {
        page.heading(&self.did);
        page.field("version", &self.version.to_string());
        if self.updates.is_empty() {
            page.line("  No updates.");
            return;
        }
        let mut table = Table::new([
            ("version", Align::Right),
            ("state", Align::Left),
            ("by", Align::Left),
            ("round", Align::Right),
            ("block", Align::Right),
            ("confirmations", Align::Right),
        ]);
        for update in &self.updates {
            let confirmations = match update.stage {
                UpdateStage::Confirmed | UpdateStage::Broadcast => {
                    format!("{} of {}", update.confirmations, update.needed)
                }
                _ => String::new(),
            };
            let text = |value: Option<String>| value.unwrap_or_default();
            table.row([
                update.to_version.to_string(),
                update.stage.to_string(),
                text(update.route.as_ref().map(ToString::to_string)),
                text(update.round.map(|round| round.to_string())),
                text(update.height.map(|height| height.to_string())),
                confirmations,
            ]);
        }
        page.table(&table);
        for update in &self.updates {
            if let Some(reason) = &update.reason {
                page.line(&format!("  version {}: {reason}", update.to_version));
            }
        }
    }
}

impl Render for ExitPlanView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Leaving cohort {}", self.cohort.short()));
        page.field(
            "means",
            &if self.ends_for_all {
                format!(
                    "the beacon ends for all {} members: without this seat nothing can be signed",
                    self.members
                )
            } else {
                "the seat is given up; the other members are not affected".to_owned()
            },
        );
        if self.dids.is_empty() {
            page.line("  No DID of this agent has to do with it.");
        } else {
            let mut table = Table::new([
                ("DID", Align::Left),
                ("version", Align::Right),
                ("state", Align::Left),
                ("removed through", Align::Left),
            ]);
            for did in &self.dids {
                table.row([
                    did.did.clone(),
                    did.version.to_string(),
                    did.state.to_string(),
                    did.route
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                ]);
            }
            page.table(&table);
        }
        for did in &self.dids {
            if let Some(reason) = &did.reason {
                page.line(&format!("  {}: {reason}", did.did));
            }
        }
        if self.dids.iter().any(|did| did.route.is_some()) {
            page.heading("Before");
            page.line(&format!(
                "  `btcr2-agent cohort leave {} --remove-beacons` queues the updates; leave when they are final.",
                self.cohort.short()
            ));
        }
        if !self.keep.is_empty() {
            page.heading("Keep afterwards");
            for kept in &self.keep {
                page.line(&format!("  {kept}"));
            }
        }
    }
}
