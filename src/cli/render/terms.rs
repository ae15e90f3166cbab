//! Terms, adverts and what `cohort discover` found.

use super::{
    Align, Page, Render, Table, absolute, duration, npub, relative, sat, short_npub, when,
};
use crate::agent::control::views::{
    AdvertStatus, AdvertView, BeaconType, Deposits, DiscoverView, EmptyRounds, FundBy, TermsView,
};

use crate::protocol::admission::Admission;

impl Render for TermsView {
    fn render(&self, page: &mut Page) {
        page.field("network", self.network.name());
        page.field(
            "beacon",
            match self.beacon {
                BeaconType::Smt => "smt: a sparse Merkle tree; the aggregator sees hashes only",
                BeaconType::Cas => "cas: a map of DIDs to update hashes, seen by all members",
            },
        );
        page.field(
            "members",
            &match self.threshold {
                None => format!("{} (all of them must sign every round)", self.seats),
                Some(threshold) => format!(
                    "{} (all of them sign a round, {threshold} of them one that has stalled)",
                    self.seats
                ),
            },
        );
        page.field_if("risk", self.risk.clone());
        page.field("DIDs per member", &self.dids_per_seat.to_string());
        let opening = match (self.cadence_s, self.pending_trigger) {
            (Some(every), Some(count)) => {
                format!("every {}, or at {count} pending updates", duration(every))
            }
            (Some(every), None) => format!("every {}", duration(every)),
            (None, Some(count)) => format!("at {count} pending updates"),
            (None, None) => "when somebody asks for one".to_owned(),
        };
        page.field("rounds open", &opening);
        page.field("time to respond", &duration(self.response_deadline_s));
        page.field("time to sign", &duration(self.sign_deadline_s));
        page.field("confirmations", &self.depth.to_string());
        page.field("fee rate", &format!("at most {} sat/vB", self.max_fee_rate));
        let ladder: Vec<String> = self.fee_ladder.iter().map(|n| format!("{n}x")).collect();
        page.field(
            "signed at",
            &format!(
                "{} the fee rate, to replace a signal that is stuck",
                ladder.join(", ")
            ),
        );
        page.field(
            "paid by",
            match self.fund_by {
                FundBy::Aggregator => "the aggregator",
                FundBy::Members => "the members, in equal shares",
            },
        );
        page.field(
            "refunds",
            &self.refund_blocks.map_or_else(
                || "none: what is paid in and not used stays there".to_owned(),
                |blocks| format!("to whoever paid, {blocks} blocks after an output was last used"),
            ),
        );
        page.field(
            "empty rounds",
            match self.empty_rounds {
                EmptyRounds::Skip => "no transaction",
                EmptyRounds::Signal => "a signal all the same",
            },
        );
        page.field(
            "updates",
            match self.deposits {
                Deposits::None => "by their hashes only",
                Deposits::Accepted => {
                    "by their hashes; a member may deposit one, and the aggregator verifies and keeps it"
                }
                Deposits::Required => {
                    "all deposited: the aggregator sees DIDs, documents and updates, verifies and keeps them"
                }
            },
        );
        page.field(
            "seats for",
            &match self.admission {
                Admission::Open => "whoever asks".to_owned(),
                Admission::Pow(bits) => format!("whoever does {bits} bits of proof of work"),
                Admission::Approval => "whom the aggregator's operator approves".to_owned(),
                Admission::Code => "whoever has an invite code (`cohort join … --code`)".to_owned(),
            },
        );
        let or_free = |price: Option<u64>| price.map_or_else(|| "none".to_owned(), sat);
        page.field("price of a seat", &or_free(self.cost_enrolment_sat));
        page.field("per announcement", &or_free(self.cost_announcement_sat));
        if let Some(tos) = &self.tos {
            page.field("terms of service", tos.link.as_str());
            page.field("  SHA-256", &tos.sha256.to_string());
        }
        page.field("opt-in until", &when(page.now(), self.opt_in_until));
        for relay in &self.relays {
            page.field("relay", relay.as_str());
        }
    }
}

impl Render for AdvertView {
    fn render(&self, page: &mut Page) {
        let name = self
            .terms
            .name
            .as_ref()
            .map_or("without a name", |name| name.as_str());
        page.heading(&format!("Cohort {} · {name}", self.cohort.short()));
        page.field("id", &self.cohort.to_string());
        page.field("aggregator", &npub(self.aggregator));
        page.field("status", &status(self));
        if let Some(taken) = self.seats_taken {
            page.field(
                "seats taken",
                &format!("{taken} of {} (says the aggregator)", self.terms.seats.max),
            );
        }
        page.field("published", &when(page.now(), self.published_at));
        page.field(
            "served by",
            &format!("{} of {} relays", self.served_by.len(), self.relays_asked),
        );
        self.terms.render(page);
        for objection in &self.policy_objections {
            page.field("policy", objection);
        }
    }
}

impl Render for DiscoverView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.at);
        if self.adverts.is_empty() {
            page.line("No cohort found.");
        } else {
            let mut table = Table::new([
                ("#", Align::Right),
                ("cohort", Align::Left),
                ("name", Align::Left),
                ("network", Align::Left),
                ("beacon", Align::Left),
                ("seats", Align::Right),
                ("status", Align::Left),
                ("opt-in", Align::Left),
                ("rounds", Align::Left),
                ("fee ≤", Align::Right),
                ("relays", Align::Right),
                ("aggregator", Align::Left),
            ]);
            for (number, advert) in (1..).zip(&self.adverts) {
                let number: u32 = number;
                let terms = &advert.terms;
                let taken = advert
                    .seats_taken
                    .map_or_else(|| "?".to_owned(), |taken| taken.to_string());
                table.row([
                    number.to_string(),
                    advert.cohort.short(),
                    terms
                        .name
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    terms.network.to_string(),
                    match terms.deposits {
                        Deposits::None => terms.beacon.to_string(),
                        deposits => format!("{}, deposits {deposits}", terms.beacon),
                    },
                    format!("{taken} of {}", terms.seats),
                    status(advert),
                    relative(page.now(), terms.opt_in_until),
                    terms.cadence_s.map_or_else(
                        || "on demand".to_owned(),
                        |every| format!("every {}", duration(every)),
                    ),
                    terms.max_fee_rate.to_string(),
                    format!("{}/{}", advert.served_by.len(), advert.relays_asked),
                    short_npub(advert.aggregator),
                ]);
            }
            page.table(&table);
        }
        if !self.flawed.is_empty() {
            page.heading(&format!("{} adverts do not count", self.flawed.len()));
            let mut table = Table::new([
                ("event", Align::Left),
                ("author", Align::Left),
                ("why", Align::Left),
            ]);
            for flawed in &self.flawed {
                table.row([
                    flawed.event.chars().take(8).collect(),
                    short_npub(flawed.author),
                    flawed.flaw.clone(),
                ]);
            }
            page.table(&table);
        }
        let incomplete: Vec<_> = self.relays.iter().filter(|relay| !relay.complete).collect();
        if !incomplete.is_empty() {
            page.heading("Relays that did not answer completely");
            for relay in incomplete {
                let reason = relay
                    .reason
                    .as_ref()
                    .map_or("no answer in time", |r| r.as_str());
                page.line(&format!("  {}: {reason}", relay.url));
            }
        }
        page.heading(&format!(
            "Asked {} {} at {}.",
            self.relays.len(),
            if self.relays.len() == 1 {
                "relay"
            } else {
                "relays"
            },
            absolute(self.at)
        ));
        if !self.adverts.is_empty() {
            page.line("Join one with `btcr2-agent cohort join <#>`.");
        }
    }
}

/// Status with what qualifies it.
fn status(advert: &AdvertView) -> String {
    let mut text = match (advert.status, advert.expired) {
        (AdvertStatus::Open | AdvertStatus::Full, true) => "expired".to_owned(),
        (status, _) => status.to_string(),
    };
    for (holds, word) in [
        (advert.joined, "joined"),
        (advert.invitation, "invitation"),
        (advert.followed, "followed"),
    ] {
        if holds {
            text.push_str(", ");
            text.push_str(word);
        }
    }
    text
}
