//! What is kept of DIDs, and what came back.

use super::{Align, Page, Render, Table, when};
use crate::agent::control::views::{
    BackupView, DidCheckView, RecoverView, SidecarView, VerifyView,
};
use crate::agent::recovery::Lack;
use crate::agent::sidecar::{KeptBeacon, MissingArtifact, MissingKind};

const fn name(kind: MissingKind) -> &'static str {
    match kind {
        MissingKind::GenesisDocument => "genesis document",
        MissingKind::SmtProof => "SMT proof",
        MissingKind::CasAnnouncement => "CAS announcement",
        MissingKind::Update => "signed update",
        MissingKind::Signals => "the chain's answer",
    }
}

/// One line for something that is missing.
pub fn missing_line(missing: &MissingArtifact) -> String {
    let mut text = name(missing.kind).to_owned();
    if missing.damaged {
        text.push_str(" (what is stored does not verify)");
    }
    if let Some(update) = &missing.update {
        text.push_str(&format!(" {update}"));
    }
    if let Some(beacon) = &missing.beacon {
        text.push_str(&format!(" of beacon {beacon}"));
    }
    match (&missing.txid, missing.height) {
        (Some(txid), Some(height)) => text.push_str(&format!(", signal {txid} in block {height}")),
        (Some(txid), None) => text.push_str(&format!(", signal {txid}, not confirmed")),
        (None, _) => {}
    }
    format!("{text}: {}", missing.remedy)
}

fn beacons(page: &mut Page, beacons: &[KeptBeacon]) {
    let mut table = Table::new([
        ("beacon", Align::Left),
        ("type", Align::Left),
        ("cohort", Align::Left),
        ("versions", Align::Left),
        ("from block", Align::Right),
        ("signals", Align::Right),
        ("explained", Align::Right),
    ]);
    for beacon in beacons {
        let versions = match beacon.until_version {
            Some(until) => format!("{} until {until}", beacon.since_version),
            None => format!("{} on", beacon.since_version),
        };
        table.row([
            beacon.address.clone(),
            beacon.kind.to_string(),
            beacon
                .cohort
                .map(|cohort| cohort.short())
                .unwrap_or_default(),
            versions,
            beacon
                .from_height
                .map_or_else(|| "-".into(), |height| height.to_string()),
            beacon
                .signals
                .map_or_else(|| "not read".into(), |signals| signals.to_string()),
            beacon.explained.to_string(),
        ]);
    }
    page.table(&table);
}

impl Render for SidecarView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Sidecar data of {}", self.did));
        beacons(page, &self.beacons);
        for missing in &self.missing {
            page.field("missing", &missing_line(missing));
        }
        if self.complete {
            page.line("  Complete: a resolver finds everything it asks for.");
        }
    }
}

impl Render for VerifyView {
    fn render(&self, page: &mut Page) {
        if self.dids.is_empty() {
            page.line("No DIDs.");
        }
        for did in &self.dids {
            check(page, did);
        }
        if let Some(asked) = self.asked {
            page.heading(&match asked {
                0 => "No aggregator had to be asked.".to_owned(),
                1 => "One aggregator was asked for what was missing.".to_owned(),
                asked => format!("Aggregators were asked for what was missing, {asked} times."),
            });
        }
    }
}

fn check(page: &mut Page, did: &DidCheckView) {
    page.heading(&did.did);
    beacons(page, &did.beacons);
    let resolution = &did.resolution;
    let resolves = match (resolution.version, &resolution.error) {
        (Some(version), _) if version != did.version => format!(
            "to version {version}, but version {} is stored here: see whether its last update was mined",
            did.version
        ),
        (Some(version), _) if resolution.deactivated => {
            format!("to version {version}, deactivated")
        }
        (Some(1), _) => "to version 1".to_owned(),
        (Some(version), _) => format!(
            "to version {version}, {} confirmations",
            resolution.confirmations
        ),
        (None, Some(error)) => format!("NOT: {error}"),
        (None, None) => "NOT".to_owned(),
    };
    page.field("resolves", &resolves);
    for missing in &did.missing {
        page.field("missing", &missing_line(missing));
    }
    for risk in &did.risks {
        page.field("at risk", &format!("{}; {}", risk.text, risk.remedy));
    }
    if did.is_healthy() {
        page.field("health", "complete");
    }
}

impl Render for BackupView {
    fn render(&self, page: &mut Page) {
        page.heading("The bundle is up to date.");
        page.field("file", &self.file);
        page.field_if("copy", self.copy.clone());
        page.field("written", &when(page.now(), self.state.at));
        page.field(
            "holds",
            &format!(
                "{} DIDs, {} cohorts, {} artifacts; {} bytes",
                self.state.dids, self.state.cohorts, self.state.artifacts, self.state.bytes
            ),
        );
        page.line("  Keep the copy and the words apart: who has both has the agent.");
    }
}

impl Render for RecoverView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Recovered into {}", self.home));
        page.field("identity", &super::npub(self.identity));
        page.field("network", self.network.name());
        match self.bundle_at {
            Some(at) => page.field("bundle of", &when(page.now(), at)),
            None => page.field("bundle", "none: only what the words restore"),
        }
        if self.lost_bytes > 0 {
            page.field(
                "lost",
                &format!(
                    "{} bytes at the bundle's end that were not whole",
                    self.lost_bytes
                ),
            );
        }
        for did in &self.dids {
            let lacks: Vec<&str> = did.lacks.iter().map(|lack| lack_text(*lack)).collect();
            let lacks = if lacks.is_empty() {
                String::new()
            } else {
                format!("; lacks {}", lacks.join(", "))
            };
            page.field(
                "DID",
                &format!("{} version {}{lacks}", did.did, did.version),
            );
        }
        for cohort in &self.cohorts {
            let goes_on = match (cohort.role.as_str(), cohort.resumes) {
                (_, true) => "goes on",
                ("aggregator", false) => {
                    "has ended: if it had not, this bundle is of a release that kept no aggregator's log; a backup has it \
                     (`btcr2-agent restore`). Its past rounds are proved on"
                }
                _ => "had ended",
            };
            page.field(
                "cohort",
                &format!("{} as {}: {goes_on}", cohort.cohort.short(), cohort.role),
            );
        }
        if let Some(why) = &self.not_scanned {
            page.field("not scanned", why);
        }
        page.heading("Next");
        page.line("  Make sure that the former copy of this agent never runs again.");
        page.line("  Start the agent: btcr2-agent run");
        if self.bundle_at.is_none() {
            page.line(
                "  While it runs it looks for its seats on the relays, asks their aggregators what it was told, and \
                 derives its DIDs again: `btcr2-agent cohort list` shows what came back. Signed updates do not come \
                 back: what the chain, the proofs and the announcements have of them is a hash. Nor do cohorts that \
                 it was the aggregator of. Only a bundle or a backup has both (`btcr2-agent recover --bundle`, \
                 `btcr2-agent restore`): a DID that was updated can be neither resolved nor updated without.",
            );
        }
        page.line("  Compare everything with the chain, and fetch what is missing: btcr2-agent did verify --fetch");
        if !self.cohorts.is_empty() {
            page.line(
                "  What the former copy announced after the bundle was written is looked for on the relays: until a \
                 block has decided about it, its DID gets no further update.",
            );
        }
    }
}

const fn lack_text(lack: Lack) -> &'static str {
    match lack {
        Lack::GenesisDocument => {
            "its genesis document (in the bundle, or in a sidecar exported earlier)"
        }
        Lack::Updates => {
            "its signed updates, which do not follow from the words (in the bundle, in a sidecar exported earlier, or \
             with an aggregator that they were deposited with)"
        }
        Lack::Key => "a key: none of the first thousand of these words is its own",
    }
}
