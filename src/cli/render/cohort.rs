//! Cohorts and their funding.

use super::round::{delivery, past_rounds, seats};
use super::{Align, Page, Render, Table, absolute, npub, qr_code, relative, sat, short_npub, when};
use crate::agent::control::views::{
    AlarmView, CohortListView, CohortSummaryView, CohortView, FaultView, FundView, InviteView, Role,
};

/// What needs a person, with what to do.
pub(super) fn alarms(alarms: &[AlarmView], page: &mut Page) {
    for alarm in alarms {
        page.line(&format!(
            "  ALARM {} since {}: {}",
            alarm.code,
            absolute(alarm.at),
            alarm.text
        ));
        if let Some(remedy) = &alarm.remedy {
            page.line(&format!("    {remedy}"));
        }
    }
}

/// Cohorts, one line each.
pub(super) fn summaries(cohorts: &[CohortSummaryView], page: &mut Page) {
    let mut table = Table::new([
        ("cohort", Align::Left),
        ("name", Align::Left),
        ("role", Align::Left),
        ("network", Align::Left),
        ("beacon", Align::Left),
        ("phase", Align::Left),
        ("members", Align::Right),
        ("round", Align::Right),
        ("deadline", Align::Left),
        ("next", Align::Left),
    ]);
    for cohort in cohorts {
        let next = match (&cohort.next_step, cohort.waiting_for.as_slice()) {
            (Some(step), _) => step.clone(),
            (None, []) => String::new(),
            (None, waiting) => format!("waiting for {}", seats(waiting)),
        };
        table.row([
            cohort.cohort.short(),
            cohort
                .name
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            cohort.role.to_string(),
            cohort.network.to_string(),
            cohort.beacon.to_string(),
            cohort.phase.to_string(),
            cohort.members.to_string(),
            cohort
                .round
                .map(|round| round.to_string())
                .unwrap_or_default(),
            cohort
                .deadline
                .map(|at| relative(page.now(), at))
                .unwrap_or_default(),
            next,
        ]);
    }
    page.table(&table);
}

impl Render for CohortListView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        if self.cohorts.is_empty() {
            page.line("No cohorts. Find one with `btcr2-agent cohort discover`.");
        } else {
            summaries(&self.cohorts, page);
        }
    }
}

impl Render for CohortView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        let summary = &self.summary;
        let name = summary
            .name
            .as_ref()
            .map_or("without a name", |name| name.as_str());
        page.heading(&format!("Cohort {} · {name}", summary.cohort.short()));
        alarms(&self.alarms, page);
        page.field("id", &summary.cohort.to_string());
        page.field("role", &summary.role.to_string());
        page.field("phase", &summary.phase.to_string());
        let deadline = summary
            .deadline
            .filter(|at| Some(*at) != self.next_round_at);
        page.field_if("deadline", deadline.map(|at| when(page.now(), at)));
        page.field_if(
            "next round",
            self.next_round_at.map(|at| when(page.now(), at)),
        );
        if !summary.waiting_for.is_empty() {
            page.field("waiting for", &seats(&summary.waiting_for));
        }
        page.field_if("next", summary.next_step.clone());
        if let Some(end) = &self.end {
            end.render(page);
        }
        page.field("aggregator", &npub(self.aggregator));
        page.field_if("own seat", self.own_seat.map(|seat| seat.to_string()));
        page.field_if("own key", self.own_key.map(npub));
        page.field_if("share link", self.naddr.clone());
        if let Some(advert) = &self.advert {
            page.field("advert", &super::agent::served(advert, page));
            super::agent::missing(advert, page);
        }

        page.heading("Terms");
        self.terms.render(page);

        if let Some(beacon) = &self.beacon {
            page.heading("Beacon");
            page.field("address", &beacon.address);
            page.field("balance", &sat(beacon.balance_sat));
            if beacon.unconfirmed_sat > 0 {
                page.field("unconfirmed", &sat(beacon.unconfirmed_sat));
            }
            page.field_if("funding", beacon.funding.map(|state| state.to_string()));
            page.field_if("next spends", beacon.tip.clone());
            if !beacon.outputs.is_empty() {
                super::refund::outputs(&beacon.outputs, page);
            }
            page.field_if(
                "pays for",
                beacon.rounds_left.map(|n| format!("{n} rounds")),
            );
            if beacon.dust_sat > 0 {
                page.field("dust", &format!("{}, never spent", sat(beacon.dust_sat)));
            }
        }

        if !self.members.is_empty() {
            page.heading(&format!("Members {}", summary.members));
            let mut table = Table::new([
                ("seat", Align::Right),
                ("key", Align::Left),
                ("DIDs", Align::Right),
                ("set", Align::Left),
                ("state", Align::Left),
                ("last heard", Align::Left),
                ("waits for", Align::Left),
                ("missed", Align::Right),
                ("evidence against it", Align::Left),
            ]);
            for member in &self.members {
                let own = if self.own_seat == Some(member.seat) {
                    " (this agent)"
                } else {
                    ""
                };
                // Members do not hear each other: of others a member knows what the set says.
                let known = summary.role == Role::Aggregator || !own.is_empty();
                let told = |text: String| if known { text } else { String::new() };
                table.row([
                    member.seat.to_string(),
                    format!("{}{own}", short_npub(member.key)),
                    told(member.dids.to_string()),
                    if member.acknowledged_set {
                        "acknowledged"
                    } else {
                        "open"
                    }
                    .to_owned(),
                    told(member.state.to_string()),
                    member
                        .last_heard_at
                        .map_or_else(|| told("never".to_owned()), |at| relative(page.now(), at)),
                    member.waits_for.clone().unwrap_or_default(),
                    member.missed_rounds.to_string(),
                    faults(&member.faults),
                ]);
            }
            page.table(&table.without_empty_columns());
        }
        if let Some(reform) = &self.reform {
            reform.render(page);
        }
        if let Some(round) = &self.round {
            round.render(page);
        }
        if !self.delivery.is_empty() {
            page.heading("Delivery");
            delivery(&self.delivery, page);
        }
        if !self.past_rounds.is_empty() {
            page.heading("Past rounds");
            past_rounds(&self.past_rounds, page);
        }
    }
}

/// Evidence in a few words.
fn faults(faults: &[FaultView]) -> String {
    let told = |fault: &FaultView| match fault.round {
        Some(round) => format!("{} in round {round} ({})", fault.fault, fault.known_by),
        None => format!("{} ({})", fault.fault, fault.known_by),
    };
    let told: Vec<String> = faults.iter().map(told).collect();
    told.join(", ")
}

/// A [`FundView`] without its QR code, for `--no-qr`.
#[derive(Debug, serde::Serialize)]
#[serde(transparent)]
pub struct FundWithoutQr<'a>(pub &'a FundView);

impl Render for FundWithoutQr<'_> {
    fn render(&self, page: &mut Page) {
        let fund = self.0;
        page.heading(&format!("Funding of cohort {}", fund.cohort.short()));
        page.field("network", fund.network.name());
        page.field("address", &fund.address);
        page.field("state", &fund.state.to_string());
        page.field("paid by", &fund.payer.to_string());
        page.field("balance", &sat(fund.balance_sat));
        if fund.unconfirmed_sat > 0 {
            page.field("unconfirmed", &sat(fund.unconfirmed_sat));
        }
        page.field("pays for", &format!("{} rounds", fund.runway));
        page.field(
            "one round",
            &format!(
                "{} ({} vB at {} sat/vB)",
                sat(fund.fee_per_round_sat),
                fund.signal_vsize,
                fund.fee_rate
            ),
        );
        page.field(
            &format!("{} rounds need", fund.rounds),
            &sat(fund.needed_sat),
        );
        page.field_if("a share", fund.share_sat.map(sat));
        if fund.send_sat == 0 && fund.runway >= fund.rounds {
            page.field("to send", "nothing: the balance is enough");
        } else if fund.send_sat == 0 {
            page.field("to send", "nothing: others pay");
        } else {
            page.field("to send", &sat(fund.send_sat));
        }
        page.field("URI", &fund.uri);
        for warning in &fund.warnings {
            page.field("note", warning);
        }
    }
}

impl Render for FundView {
    fn render(&self, page: &mut Page) {
        FundWithoutQr(self).render(page);
        if self.send_sat > 0
            && let Some(code) = qr_code(&self.uri)
        {
            page.verbatim("");
            page.verbatim(&code);
        }
    }
}

impl Render for InviteView {
    fn render(&self, page: &mut Page) {
        page.heading(&format!(
            "Terms of cohort {} sent to {} keys",
            self.cohort.short(),
            self.invited.len()
        ));
        for key in &self.invited {
            page.line(&format!("  {}", npub(*key)));
        }
        if !self.delivery.is_empty() {
            page.heading("Delivery");
            delivery(&self.delivery, page);
        }
    }
}
