//! DIDs and updates.

use super::update::progress;
use super::{Align, Page, Render, Table};
use crate::agent::control::views::{DidListView, DidView};

const NOT_CREATED: &str = "(not created yet)";

fn state(did: &DidView) -> String {
    match (&did.did, did.deactivated) {
        (None, _) => "registered".to_owned(),
        (Some(_), true) => "deactivated".to_owned(),
        (Some(_), false) => format!("version {}", did.version),
    }
}

impl Render for DidListView {
    fn render(&self, page: &mut Page) {
        if self.dids.is_empty() {
            page.line("No DIDs. Create one with `btcr2-agent did create`.");
            return;
        }
        let mut table = Table::new([
            ("DID", Align::Left),
            ("kind", Align::Left),
            ("network", Align::Left),
            ("state", Align::Left),
            ("cohorts", Align::Left),
            ("pending", Align::Left),
            ("next", Align::Left),
        ]);
        for did in &self.dids {
            let cohorts: Vec<String> = did
                .bindings
                .iter()
                .map(|binding| format!("{} {}", binding.cohort.short(), binding.stage))
                .collect();
            table.row([
                did.did.clone().unwrap_or_else(|| NOT_CREATED.to_owned()),
                did.kind.to_string(),
                did.network.to_string(),
                state(did),
                cohorts.join(", "),
                did.pending.as_ref().map(progress).unwrap_or_default(),
                did.next_step.clone().unwrap_or_default(),
            ]);
        }
        page.table(&table);
    }
}

impl Render for DidView {
    fn render(&self, page: &mut Page) {
        page.heading(self.did.as_deref().unwrap_or(NOT_CREATED));
        page.field("kind", &self.kind.to_string());
        page.field("network", self.network.name());
        page.field("state", &state(self));
        for binding in &self.bindings {
            page.field(
                "cohort",
                &format!(
                    "{}: {}, proofs for {} of {} signals",
                    binding.cohort.short(),
                    binding.stage,
                    binding.covered,
                    binding.signals
                ),
            );
        }
        for beacon in &self.beacons {
            page.field(
                "beacon",
                &format!("{} {} {}", beacon.id, beacon.beacon_type, beacon.address),
            );
        }
        if let Some(update) = &self.pending {
            page.field("pending", &progress(update));
            page.field("  hash", &update.hash.to_string());
            page.field_if("  transaction", update.txid.map(|txid| txid.to_string()));
            page.field_if("  deposit", update.deposit.map(|stage| stage.to_string()));
            page.field_if("  because", update.reason.clone());
        }
        page.field_if("next", self.next_step.clone());
        if let Some(document) = &self.document {
            page.heading("Document");
            page.document(document);
        }
    }
}
