//! PSBTs.

use super::{Align, Page, Render, Table, sat};
use crate::agent::control::views::{PsbtInspectView, PsbtKeys, PsbtKnownView};

impl Render for PsbtInspectView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("PSBT version {}", self.version));
        for problem in &self.problems {
            page.field("WRONG", problem);
        }
        if let Some(known) = &self.known {
            page.field("known here", &in_words(known, &self.tx.text));
        }
        self.tx.render(page);
        page.heading("Signing");
        let mut table = Table::new([
            ("input", Align::Right),
            ("sat", Align::Right),
            ("keys", Align::Left),
            ("nonces", Align::Right),
            ("partial signatures", Align::Right),
            ("state", Align::Left),
        ]);
        for (place, input) in self.inputs.iter().enumerate() {
            let keys = match input.keys {
                PsbtKeys::AddUp | PsbtKeys::Cohort => {
                    format!("{}: {}", input.participants, input.keys)
                }
                PsbtKeys::NotListed | PsbtKeys::Wrong => input.keys.to_string(),
            };
            let partials = match input.unverified {
                0 => input.partials.to_string(),
                more => format!("{}, {more} not verified", input.partials),
            };
            table.row([
                place.to_string(),
                input.value_sat.map_or_else(|| "?".to_owned(), sat),
                keys,
                input.nonces.to_string(),
                partials,
                input.signing.to_string(),
            ]);
        }
        page.table(&table);
        for (place, input) in self.inputs.iter().enumerate() {
            if let Some(key) = input.internal_key {
                page.field(&format!("internal key {place}"), &key.to_string());
            }
            page.field_if(&format!("script root {place}"), input.script_root.clone());
            if input.foreign_fields > 0 {
                let note = format!(
                    "input {place} has {} MuSig2 fields about other keys, which are not looked at",
                    input.foreign_fields
                );
                page.field("note", &note);
            }
        }
    }
}

/// What the running agent says of it.
fn in_words(known: &PsbtKnownView, what: &str) -> String {
    let cohort = known.cohort.short();
    if !known.identical {
        return format!(
            "NO: it spends from the beacon of cohort {cohort}, and is none of the transactions made or signed here"
        );
    }
    let by = if known.signed_here {
        "signed here"
    } else {
        "made here"
    };
    format!("yes: {what}; identical to the one {by}")
}
