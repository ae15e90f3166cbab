//! Who wants a seat, and codes.

use super::{Align, Page, Render, Table, npub, relative, short_npub, when};
use crate::agent::control::views::{ApplicantsView, CodesView, MigrationView, ReformView};

impl Render for ApplicantsView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        let short = self.cohort.short();
        if let Some(decided) = &self.decided {
            page.line(decided);
        }
        page.heading(&format!("Applicants of cohort {short}"));
        page.field("admission", &self.admission.to_string());
        page.field(
            "seats taken",
            &format!("{} of {}", self.seats_taken, self.seats),
        );
        page.field("decide until", &when(page.now(), self.until));
        page.field(
            "waiting",
            &format!("{} of {}", self.waiting.len(), self.waiting_max),
        );
        if self.waiting.is_empty() {
            return;
        }
        let mut table = Table::new([
            ("key", Align::Left),
            ("asked", Align::Left),
            ("work", Align::Right),
        ]);
        for waiting in &self.waiting {
            table.row([
                npub(waiting.key),
                relative(page.now(), waiting.asked_at),
                format!("{} bits", waiting.work_bits),
            ]);
        }
        page.table(&table);
        page.line(&format!(
            "Decide with `btcr2-agent cohort approve {short} <key>` or `cohort reject {short} <key>`."
        ));
    }
}

impl Render for CodesView {
    fn render(&self, page: &mut Page) {
        let short = self.cohort.short();
        if let Some(code) = &self.code {
            page.heading(&format!("A new code of cohort {short}"));
            page.field("code", code);
            page.field_if("share link", self.naddr.clone());
            page.field(
                "note",
                "only its public key is kept: this is the one time that it is shown",
            );
            page.field(
                "to enter",
                &format!("btcr2-agent cohort join <link> --code {code}"),
            );
        }
        page.heading(&format!("Codes of cohort {short}"));
        if self.codes.is_empty() {
            page.line("None. Make one with `btcr2-agent cohort code new`.");
            return;
        }
        let mut table = Table::new([
            ("code's key", Align::Left),
            ("used", Align::Right),
            ("by", Align::Left),
        ]);
        for code in &self.codes {
            let by: Vec<String> = code
                .used_by
                .iter()
                .take(3)
                .map(|key| short_npub(*key))
                .collect();
            let more = if code.used_by.len() > 3 { ", …" } else { "" };
            table.row([
                short_npub(code.key),
                format!("{} of {}", code.used_by.len(), code.uses),
                format!("{}{more}", by.join(", ")),
            ]);
        }
        page.table(&table);
    }
}

impl Render for ReformView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!(
            "Offered in its place: cohort {}",
            self.cohort.short()
        ));
        page.field("id", &self.cohort.to_string());
        page.field("join until", &when(page.now(), self.join_by));
        page.field_if("reason", self.reason.as_ref().map(ToString::to_string));
        for left in &self.without {
            let who = left.key.map(short_npub).unwrap_or_default();
            let mut why = Vec::new();
            if left.missed_rounds > 0 {
                why.push(format!(
                    "did not answer {} rounds in a row",
                    left.missed_rounds
                ));
            }
            why.extend(
                left.faults
                    .iter()
                    .map(|f| format!("{} ({})", f.fault, f.known_by)),
            );
            if why.is_empty() {
                why.push("no reason in what it did".to_owned());
            }
            page.field(
                "without",
                &format!("seat {} {who}: {}", left.seat, why.join(", ")),
            );
        }
        if self.leaves_me_out {
            page.field("note", "this agent's seat is left out");
        }
    }
}

impl Render for MigrationView {
    fn render(&self, page: &mut Page) {
        let (from, to) = (self.from.short(), self.to.short());
        let what = if self.plan { "Plan" } else { "Move" };
        page.heading(&format!("{what}: DIDs of cohort {from} to cohort {to}"));
        if self.dids.is_empty() {
            page.line("No DID of this agent lists the beacon of the old cohort.");
        }
        for migrating in &self.dids {
            match &migrating.joining {
                Some(joining) => joining.render(page),
                None => page.heading(&migrating.did),
            }
            if !migrating.removes.is_empty() {
                page.field("removes", &migrating.removes.join(", "));
            }
            if let Some(problem) = &migrating.problem {
                page.field("problem", problem.as_str());
            }
        }
    }
}
