//! Status, relays, keys and follows.

use super::cohort::{alarms, summaries};
use super::round::delivery;
use super::{Align, Page, Render, Table, absolute, npub, relative, thousands, when};
use crate::agent::control::views::{
    AdvertServedView, FollowedView, InitView, KeyView, RelayHealthView, RelayListView,
    RelayProbeView, RelayState, RelayView, StatusView, SubscribersView,
};

impl Render for StatusView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        page.heading(&format!(
            "btcr2-agent {}, process {}",
            self.version, self.pid
        ));
        page.field("home", &self.home);
        page.field("identity", &npub(self.identity));
        page.field("running since", &when(page.now(), self.started_at));
        for chain in &self.chains {
            let state = match (&chain.problem, chain.height) {
                (Some(problem), _) => format!("unusable: {problem}"),
                (None, Some(height)) => format!("block {}", thousands(height.into())),
                (None, None) => "not asked yet".to_owned(),
            };
            page.field(
                "chain",
                &format!("{} {}: {state}", chain.network, chain.backend),
            );
        }
        page.field(
            "outbox",
            &format!(
                "{} to publish, {} to be acknowledged{}",
                self.outbox.unpublished,
                self.outbox.unacknowledged,
                self.outbox
                    .oldest_at
                    .map(|at| format!(", the oldest sent {}", relative(page.now(), at)))
                    .unwrap_or_default()
            ),
        );
        for counter in &self.ignored {
            page.field(
                "ignored",
                &format!("{} × {}", thousands(counter.count), counter.reason),
            );
        }
        if !self.alarms.is_empty() {
            page.heading("Needs you");
            alarms(&self.alarms, page);
        }
        page.heading("Relays");
        let (used, unused): (Vec<RelayView>, Vec<RelayView>) = self
            .relays
            .iter()
            .cloned()
            .partition(|relay| relay.state != RelayState::Unused);
        if used.is_empty() {
            relays(&self.relays, page);
        } else {
            relays(&used, page);
            if !unused.is_empty() {
                page.line(&format!(
                    "  {} more for networks that are not in use: `btcr2-agent relay list`",
                    unused.len()
                ));
            }
        }
        if !self.adverts.is_empty() {
            page.heading("Adverts, as strangers are served them");
        }
        for advert in &self.adverts {
            let cohort = advert.cohort.short();
            page.line(&format!("  cohort {cohort}: {}", served(advert, page)));
            missing(advert, page);
        }
        page.heading("Cohorts");
        if self.cohorts.is_empty() {
            page.line("  none");
        } else {
            summaries(&self.cohorts, page);
        }
        for cohort in self
            .delivery
            .iter()
            .filter(|cohort| !cohort.messages.is_empty())
        {
            page.heading(&format!("Delivery in cohort {}", cohort.cohort.short()));
            delivery(&cohort.messages, page);
        }
    }
}

/// Who serves an advert, and when that was so.
pub(super) fn served(advert: &AdvertServedView, page: &Page) -> String {
    match advert.checked_at {
        None => "not read back yet".to_owned(),
        Some(at) => format!(
            "served by {} of {} relays, read back {}",
            advert.served,
            advert.relays,
            relative(page.now(), at)
        ),
    }
}

/// Who does not serve it, and why.
pub(super) fn missing(advert: &AdvertServedView, page: &mut Page) {
    for missing in &advert.missing {
        page.line(&format!("    not by {}: {}", missing.url, missing.reason));
    }
}

/// When a relay last worked, and for how long it has not.
fn health(health: &RelayHealthView, page: &Page) -> String {
    let worked = health.last_worked.map(|at| relative(page.now(), at));
    match (worked, health.failures_in_row) {
        (Some(worked), 0) => worked,
        (Some(worked), 1) => format!("{worked}, one failure since"),
        (Some(worked), some) => format!("{worked}, {} failures since", thousands(some.into())),
        (None, 0) => String::new(),
        (None, _) => "never".to_owned(),
    }
}

fn relays(relays: &[RelayView], page: &mut Page) {
    if relays.is_empty() {
        page.line("  none; add one with `btcr2-agent relay add <url>`");
        return;
    }
    let mut table = Table::new([
        ("relay", Align::Left),
        ("use", Align::Left),
        ("networks", Align::Left),
        ("source", Align::Left),
        ("state", Align::Left),
        ("since", Align::Left),
        ("last worked", Align::Left),
        ("ok", Align::Right),
        ("refused", Align::Right),
        ("silent", Align::Right),
        ("received", Align::Right),
        ("answers in", Align::Right),
        ("clock", Align::Right),
        ("last words", Align::Left),
    ]);
    for relay in relays {
        let networks: Vec<&str> = relay
            .networks
            .iter()
            .map(|network| network.name())
            .collect();
        let usage = match (relay.read, relay.write) {
            (true, true) => "read, write",
            (true, false) => "read",
            (false, true) => "write",
            (false, false) => "off",
        };
        table.row([
            relay.url.clone(),
            usage.to_owned(),
            if networks.is_empty() {
                "all".to_owned()
            } else {
                networks.join(", ")
            },
            relay.source.to_string(),
            relay.state.to_string(),
            relay
                .since
                .map(|since| relative(page.now(), since))
                .unwrap_or_default(),
            relay
                .health
                .as_ref()
                .map(|known| health(known, page))
                .unwrap_or_default(),
            counted(relay, relay.accepted),
            counted(relay, relay.refused),
            counted(relay, relay.silent),
            counted(relay, relay.received),
            relay
                .answer_ms
                .map(|ms| format!("{} ms", thousands(ms)))
                .unwrap_or_default(),
            relay.clock_ahead_s.map(clock).unwrap_or_default(),
            relay
                .reason
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ]);
    }
    page.table(&table.without_empty_columns());
    let since = relays
        .iter()
        .filter_map(|relay| relay.health.as_ref()?.counted_since);
    if let Some(since) = since.min() {
        page.line(&format!("  Counted since {}.", when(page.now(), since)));
    }
}

/// A count; nothing where nothing was ever seen of the relay.
fn counted(relay: &RelayView, count: u64) -> String {
    if relay.health.is_none() && count == 0 {
        return String::new();
    }
    thousands(count)
}

/// The difference of a relay's clock from this machine's.
fn clock(ahead: i64) -> String {
    let by = thousands(ahead.unsigned_abs());
    match ahead {
        // A date has whole seconds, and takes one to arrive.
        -1..=1 => "right".to_owned(),
        ahead if ahead > 0 => format!("{by} s ahead"),
        _ => format!("{by} s behind"),
    }
}

impl Render for RelayListView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        relays(&self.relays, page);
    }
}

impl Render for RelayProbeView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        let mut table = Table::new([
            ("relay", Align::Left),
            ("connected", Align::Right),
            ("answers in", Align::Right),
            ("wrote", Align::Left),
            ("read back", Align::Left),
            ("largest", Align::Left),
            ("takes", Align::Right),
            ("clock", Align::Right),
            ("kept since", Align::Left),
            ("worked before", Align::Left),
            ("auth", Align::Left),
            ("work", Align::Right),
            ("name", Align::Left),
            ("software", Align::Left),
        ]);
        let answer = |answer: Option<bool>| match answer {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "not tried".to_owned(),
        };
        for relay in &self.relays {
            table.row([
                relay.url.clone(),
                relay
                    .connect_ms
                    .map_or_else(|| "no".to_owned(), |ms| format!("{} ms", thousands(ms))),
                relay
                    .answer_ms
                    .map(|ms| format!("{} ms", thousands(ms)))
                    .unwrap_or_default(),
                answer(relay.wrote),
                answer(relay.read_back),
                relay
                    .kinds
                    .iter()
                    .max_by_key(|kind| kind.bytes)
                    .map(|kind| answer(kind.served.or(kind.taken)))
                    .unwrap_or_default(),
                relay
                    .limits
                    .and_then(|limits| limits.message_bytes)
                    .map(|bytes| format!("{} B", thousands(bytes)))
                    .unwrap_or_default(),
                relay.clock_ahead_s.map(clock).unwrap_or_default(),
                match relay.kept {
                    Some(kept) if kept.served => absolute(kept.since),
                    Some(kept) => format!("lost since {}", absolute(kept.since)),
                    None => String::new(),
                },
                relay
                    .before
                    .as_ref()
                    .map(|known| health(known, page))
                    .unwrap_or_default(),
                if relay.wants_auth { "wanted" } else { "no" }.to_owned(),
                if relay.wants_pow == 0 {
                    String::new()
                } else {
                    format!("{} bits", relay.wants_pow)
                },
                relay
                    .name
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                relay
                    .software
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]);
        }
        page.table(&table);
        for relay in &self.relays {
            for note in &relay.notes {
                page.line(&format!("  {}: {note}", relay.url));
            }
        }
    }
}

impl Render for FollowedView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        if self.followed.is_empty() {
            page.line("No aggregator is followed. Follow one with `btcr2-agent follow <npub>`.");
            return;
        }
        let mut table = Table::new([
            ("aggregator", Align::Left),
            ("since", Align::Left),
            ("told", Align::Left),
            ("open cohorts", Align::Right),
        ]);
        for follow in &self.followed {
            table.row([
                npub(follow.aggregator),
                relative(page.now(), follow.since),
                if follow.told { "yes" } else { "no" }.to_owned(),
                follow.open_cohorts.to_string(),
            ]);
        }
        page.table(&table);
    }
}

impl Render for SubscribersView {
    fn render(&self, page: &mut Page) {
        page.set_now(self.now);
        if self.subscribers.is_empty() {
            page.line("Nobody has told this agent that they follow it.");
            return;
        }
        let mut table = Table::new([("key", Align::Left), ("since", Align::Left)]);
        for subscriber in &self.subscribers {
            table.row([npub(subscriber.key), relative(page.now(), subscriber.since)]);
        }
        page.table(&table);
    }
}

impl Render for InitView {
    fn render(&self, page: &mut Page) {
        page.heading("The agent is ready.");
        page.field("home", &self.home);
        page.field("identity", &npub(self.identity));
        page.field("key from", &self.origin.to_string());
        page.field("network", self.network.name());
        page.field("keystore", protection(self.encrypted));
        page.line("Start it with `btcr2-agent run`.");
    }
}

impl Render for KeyView {
    fn render(&self, page: &mut Page) {
        page.field("identity", &npub(self.identity));
        page.field("hex", &self.identity.to_string());
        page.field("key from", &self.origin.to_string());
        page.field("keystore", protection(self.encrypted));
        page.field("file", &self.file);
    }
}

const fn protection(encrypted: bool) -> &'static str {
    if encrypted {
        "encrypted with a passphrase"
    } else {
        "not encrypted: whoever reads the file has the key"
    }
}
