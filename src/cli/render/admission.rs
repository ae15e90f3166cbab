//! Who wants a seat, and codes.

use super::{Align, Page, Render, Table, npub, relative, short_npub, when};
use crate::agent::control::views::{ApplicantsView, CodesView};

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
