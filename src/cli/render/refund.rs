//! Refunds: what is protected, and what can be recovered.

use super::round::seats;
use super::{Align, Page, Render, Table, sat};
use crate::agent::control::views::{
    FundPsbtView, OutputView, Protection, PsbtsView, RefundState, RefundsView,
};

/// What lies at a beacon, one line each.
pub(super) fn outputs(outputs: &[OutputView], page: &mut Page) {
    let mut table = Table::new([
        ("output", Align::Left),
        ("value", Align::Right),
        ("confirmations", Align::Right),
        ("if a member vanishes", Align::Left),
    ]);
    for output in outputs {
        let mut fate = output.protection.to_string();
        match (output.protection, output.blocks_missing) {
            (Protection::Protected, Some(0)) => {
                fate.push_str(": `cohort recover` sends its refund");
            }
            (Protection::Protected, Some(blocks)) => {
                fate.push_str(&format!(": its refund can be sent in {blocks} blocks"));
            }
            _ => {}
        }
        if !output.absent.is_empty() {
            fate.push_str(&format!(": no answer from {}", seats(&output.absent)));
        }
        table.row([
            output.outpoint.clone(),
            sat(output.value_sat),
            output.confirmations.to_string(),
            fate,
        ]);
    }
    page.table(&table);
}

impl Render for RefundsView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Refunds of cohort {}", self.cohort.short()));
        page.field("address", &self.address);
        page.field("height", &self.height.to_string());
        if self.refunds.is_empty() {
            page.line("This agent holds no refund of what lies there.");
        }
        for refund in &self.refunds {
            page.heading(&refund.outpoint);
            page.field("value", &sat(refund.value_sat));
            page.field("refund", &refund.txid.to_string());
            page.field("pays", &sat(refund.pays_sat));
            page.field("fee", &sat(refund.fee_sat));
            let state = match (refund.state, refund.blocks_missing, refund.matures_at) {
                (RefundState::Locked, Some(blocks), Some(height)) => {
                    format!("locked for {blocks} more blocks: block {height} may hold it")
                }
                (state, ..) => state.to_string(),
            };
            page.field("state", &state);
            page.field_if("reason", refund.reason.clone());
        }
        if self.without_refund_sat > 0 {
            page.field("without refund here", &sat(self.without_refund_sat));
        }
    }
}

impl Render for FundPsbtView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!("Funding of cohort {}", self.cohort.short()));
        page.field("transaction", &self.txid.to_string());
        outputs(&self.outputs, page);
        let next = match (self.sent, self.signed) {
            (true, _) => "sent",
            (false, true) => "all members signed its refund: it may be sent",
            (false, false) => "all members signed its refund: it may be signed and sent",
        };
        page.field("state", next);
        if self.replaceable && !self.sent {
            page.field(
                "mind",
                "do not raise its fee: the replacement would have no refund",
            );
        }
        if !self.sent {
            page.line("");
            page.base64(&self.psbt);
        }
    }
}

impl Render for PsbtsView {
    fn render(&self, page: &mut Page) {
        for psbt in &self.psbts {
            page.heading(&format!("{} · {}", psbt.label, psbt.txid));
            page.base64(&psbt.psbt);
        }
    }
}
