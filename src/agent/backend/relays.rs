//! Relays: listing and changing them, also without a running agent.

use std::collections::BTreeSet;

use super::{AgentBackend, probing};
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::{
    RelaySetting, agent_failure, home_failure, relay_by_hand, relay_config, relay_failure,
    relay_settings, store_failure,
};
use crate::agent::relay_health::RelayRecord;
use crate::agent::runtime::Agent;
use crate::config::{Config, Home, Provenance, RelayList, write_private};
use crate::network::Network;
use crate::nostr::RelayUrl;
use crate::nostr::information::RelayLimits;
use crate::nostr::link::RelayState;
use crate::store::{RelayRow, Store};
use crate::time::UnixTime;

impl AgentBackend {
    fn settings(&self, by_hand: &[RelayRow]) -> Result<Vec<RelaySetting>, Failure> {
        relay_settings(self.home(), self.config(), by_hand)
    }

    async fn added_by_hand(&self) -> Result<Vec<RelayRow>, Failure> {
        self.with(|agent| agent.store.view().relays().map_err(store_failure))
            .await
    }

    /// Connects to the relays of a network, where they are not connected to yet.
    pub(super) async fn use_relays_of(&self, network: Network) -> Result<(), Failure> {
        let limit = usize::try_from(self.config().limits.relays).unwrap_or(usize::MAX);
        let settings = self.settings(&self.added_by_hand().await?)?;
        self.with(move |agent| {
            for setting in settings {
                let wanted = setting.entry.networks.contains(&network);
                if wanted && agent.link.relays().len() < limit {
                    agent
                        .use_relay(relay_config(&setting))
                        .map_err(agent_failure)?;
                }
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn list_relays(&self) -> Result<v::RelayListView, Failure> {
        let relays = self.relay_views().await?;
        let now = self.with(|agent| Ok(agent.now())).await?;
        Ok(v::RelayListView { now, relays })
    }

    /// Every configured and every connected relay.
    pub(super) async fn relay_views(&self) -> Result<Vec<v::RelayView>, Failure> {
        let settings = self.settings(&self.added_by_hand().await?)?;
        let (records, said) = self
            .with(move |agent| {
                agent.count_relays();
                Ok((agent.relays_known.records(), agent.said_by_relays()))
            })
            .await?;
        let states = self.handle().link().relays();
        let seen = self.relays_seen().clone();
        let mut views: Vec<v::RelayView> = settings.iter().map(unused_view).collect();
        for state in &states {
            let known = views.iter().any(|view| view.url == state.url.as_str());
            if !known {
                views.push(cohort_relay(state));
            }
        }
        for view in &mut views {
            if let Some(record) = records.iter().find(|r| r.url().as_str() == view.url) {
                remembered(view, record);
            }
            if let Some(state) = states.iter().find(|s| s.url.as_str() == view.url) {
                let seen = seen.get(&view.url);
                view.answer_ms = state.latency.map(millis).or(view.answer_ms);
                view.since = seen.map(|seen| seen.since);
                let (state, reason) = match seen {
                    _ if state.connected => (v::RelayState::Connected, None),
                    Some(seen) if !seen.connected => {
                        (v::RelayState::Waiting, Some(PeerText::new(&seen.reason)))
                    }
                    _ => (v::RelayState::Connecting, None),
                };
                view.state = state;
                view.reason = reason.or(view.reason.take());
            }
            if let Some((_, ahead, limits)) = said.iter().find(|(url, ..)| *url == view.url) {
                view.clock_ahead_s = ahead.or(view.clock_ahead_s);
                view.limits = limits.or(view.limits);
            }
        }
        Ok(views)
    }

    pub(super) async fn add_relay(&self, args: r::AddRelay) -> Result<v::RelayListView, Failure> {
        let entry = relay_by_hand(&args.url)?;
        self.with(move |agent| {
            let now = agent.now();
            add(&mut agent.store, &args, now)
        })
        .await?;
        let settings = self.settings(&self.added_by_hand().await?)?;
        let setting = settings.into_iter().find(|s| s.entry.url == entry.url);
        let configured = self.config().network;
        self.with(move |agent| {
            // A relay that is there with another use is connected to anew.
            agent.drop_relay(&entry.url).map_err(agent_failure)?;
            let networks = agent.networks_in_use(configured);
            if let Some(setting) = setting
                && setting.entry.networks.iter().any(|n| networks.contains(n))
            {
                agent
                    .use_relay(relay_config(&setting))
                    .map_err(agent_failure)?;
            }
            agent.announce_relays().map_err(agent_failure)
        })
        .await?;
        self.list_relays().await
    }

    pub(super) async fn remove_relay(
        &self,
        args: r::RemoveRelay,
    ) -> Result<v::RelayListView, Failure> {
        let (home, config) = (self.home().clone(), self.config().clone());
        self.with(move |agent| {
            let url = remove(&home, &config, &mut agent.store, &args.url)?;
            agent.drop_relay(&url).map_err(agent_failure)?;
            agent.announce_relays().map_err(agent_failure)
        })
        .await?;
        self.list_relays().await
    }

    pub(super) async fn probe_relays(
        &self,
        args: r::ProbeRelays,
    ) -> Result<v::RelayProbeView, Failure> {
        let settings = self.settings(&self.added_by_hand().await?)?;
        let (now, known) = self
            .with(|agent| Ok((agent.now(), agent.relays_known.records())))
            .await?;
        let (view, found) = probing::probe(&settings, &args, &known, now).await?;
        self.with(move |agent| {
            for one in found {
                let known = agent.relays_known.change(&one.url, now);
                one.keep(known, now);
            }
            agent.write_relay_health().map_err(agent_failure)
        })
        .await?;
        Ok(view)
    }
}

impl Agent {
    pub(super) fn networks_in_use(&self, configured: Network) -> BTreeSet<Network> {
        let live = self.nodes.values().filter(|node| !node.is_over());
        let mut networks: BTreeSet<Network> = live.map(|node| node.terms().network).collect();
        networks.insert(configured);
        networks
    }

    /// By address, how far a relay's clock is ahead and what it says it takes.
    fn said_by_relays(&self) -> Vec<(String, Option<i64>, Option<RelayLimits>)> {
        let described = self.upkeep.described.iter();
        described
            .map(|(url, said)| {
                let limits = said.information.as_ref().map(|said| said.limits);
                (url.to_string(), said.clock_ahead, limits)
            })
            .collect()
    }
}

pub(super) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Relays as they are configured, and what was seen of them, when no agent runs.
#[must_use]
pub fn unused(settings: &[RelaySetting], known: &[RelayRecord], now: UnixTime) -> v::RelayListView {
    let view = |setting: &RelaySetting| {
        let mut view = unused_view(setting);
        if let Some(record) = known.iter().find(|r| *r.url() == setting.entry.url) {
            remembered(&mut view, record);
        }
        view
    };
    v::RelayListView {
        now,
        relays: settings.iter().map(view).collect(),
    }
}

/// Fills in what is remembered of a relay.
fn remembered(view: &mut v::RelayView, record: &RelayRecord) {
    let detail = &record.detail;
    view.accepted = detail.accepted;
    view.refused = detail.refused;
    view.silent = detail.silent;
    view.received = detail.received;
    view.answer_ms = detail.answer_ms;
    view.clock_ahead_s = detail.clock_ahead_s;
    view.limits = detail.limits;
    view.reason = detail.words.as_deref().map(PeerText::new);
    view.health = Some(health_view(record));
}

pub(super) fn health_view(record: &RelayRecord) -> v::RelayHealthView {
    let row = record.row();
    v::RelayHealthView {
        counted_since: record.detail.since,
        last_worked: row.last_ok,
        last_failed: row.last_failure,
        failures_in_row: row.failures_in_row,
        failure: row.reason.as_deref().map(PeerText::new),
    }
}

fn unused_view(setting: &RelaySetting) -> v::RelayView {
    let entry = &setting.entry;
    let all = entry.networks.len() == Network::ALL.len();
    v::RelayView {
        url: entry.url.to_string(),
        read: entry.read,
        write: entry.write,
        networks: if all {
            Vec::new()
        } else {
            entry.networks.clone()
        },
        source: setting.source,
        state: v::RelayState::Unused,
        since: None,
        accepted: 0,
        refused: 0,
        silent: 0,
        received: 0,
        answer_ms: None,
        clock_ahead_s: None,
        limits: None,
        budget: setting.entry.budget,
        health: None,
        reason: None,
    }
}

fn cohort_relay(state: &RelayState) -> v::RelayView {
    v::RelayView {
        url: state.url.to_string(),
        read: state.read,
        write: state.write,
        networks: Vec::new(),
        source: v::RelaySource::Cohort,
        state: v::RelayState::Connecting,
        since: None,
        accepted: 0,
        refused: 0,
        silent: 0,
        received: 0,
        answer_ms: None,
        clock_ahead_s: None,
        limits: None,
        budget: None,
        health: None,
        reason: None,
    }
}

/// Adds a relay, or changes how it is used.
pub fn add(store: &mut Store, args: &r::AddRelay, now: UnixTime) -> Result<(), Failure> {
    let entry = relay_by_hand(&args.url)?;
    if !args.read && !args.write {
        return Err(Failure::new(
            ErrorCode::InvalidValue,
            "a relay that is neither read nor written is of no use",
        ));
    }
    let row = RelayRow {
        url: entry.url,
        read: args.read,
        write: args.write,
        networks: args.networks.clone(),
        source: "command".to_owned(),
        added: now,
    };
    store
        .transaction::<_, crate::store::StoreError>(|tx| tx.put_relay(&row))
        .map_err(store_failure)
}

/// Removes a relay from where it was configured. One of the defaults goes by a list of the home's own
/// without it.
pub fn remove(
    home: &Home,
    config: &Config,
    store: &mut Store,
    url: &str,
) -> Result<RelayUrl, Failure> {
    let url = relay_by_hand(url)?.url;
    if config.relays.contains(&url) {
        return Err(Failure::new(
            ErrorCode::WrongPhase,
            format!("{url} is set by `relays` in config.toml or the environment"),
        )
        .remedy("remove it there and restart"));
    }
    let added = store
        .transaction::<_, crate::store::StoreError>(|tx| tx.remove_relay(&url))
        .map_err(store_failure)?;
    let list = RelayList::load(home).map_err(relay_failure)?;
    let listed = config.relays.is_empty() && list.entries().iter().any(|entry| entry.url == url);
    if !added && !listed {
        return Err(
            Failure::new(ErrorCode::NotFound, format!("{url} is not configured"))
                .remedy("`btcr2-agent relay list` shows those that are"),
        );
    }
    if listed {
        let path = home.relays_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                RelayList::embedded_text().to_owned()
            }
            Err(error) => {
                return Err(Failure::new(
                    ErrorCode::Io,
                    format!("cannot read {}: {error}", path.display()),
                ));
            }
        };
        let shorter = without(&text, &url).ok_or_else(|| {
            Failure::new(
                ErrorCode::Io,
                format!("{url} could not be taken out of {}", path.display()),
            )
            .remedy("remove its [[relay]] table by hand")
        })?;
        RelayList::parse(&shorter, &path, Provenance::ByHand).map_err(relay_failure)?;
        write_private(&path, shorter.as_bytes()).map_err(home_failure)?;
    }
    Ok(url)
}

/// A list's text without one relay's table; comments elsewhere stay. `None` if the relay is not in it.
fn without(text: &str, url: &RelayUrl) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_table = |line: &str| line.trim_start().starts_with("[[");
    let starts: Vec<usize> = (0..lines.len())
        .filter(|at| lines.get(*at).is_some_and(|line| is_table(line)))
        .collect();
    for (position, start) in starts.iter().enumerate() {
        let end = starts.get(position + 1).copied().unwrap_or(lines.len());
        let block = lines.get(*start..end)?.join("\n");
        let list = RelayList::parse(&block, std::path::Path::new(""), Provenance::ByHand).ok();
        let is_it = list.is_some_and(|list| list.entries().iter().any(|entry| entry.url == *url));
        if is_it {
            let kept = lines.get(..*start)?.iter().chain(lines.get(end..)?);
            let mut text = kept.copied().collect::<Vec<_>>().join("\n");
            text.push('\n');
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_taken_out_and_the_rest_stays() {
        let text = "# mine\n[[relay]]\nurl = \"wss://a.example\"\n# why b\n\n[[relay]]\nurl = \"wss://b.example/\"\nread = false\n[[relay]]\nurl = \"wss://c.example\"\n";
        let url = RelayUrl::parse("wss://b.example").unwrap();
        let shorter = without(text, &url).unwrap();
        assert_eq!(
            shorter,
            "# mine\n[[relay]]\nurl = \"wss://a.example\"\n# why b\n\n[[relay]]\nurl = \"wss://c.example\"\n"
        );
        assert_eq!(without(&shorter, &url), None);
        let embedded = RelayList::embedded().unwrap();
        for entry in embedded.entries() {
            let text = without(RelayList::embedded_text(), &entry.url).unwrap();
            let path = std::path::Path::new("relays.toml");
            let list = RelayList::parse(&text, path, Provenance::ByHand).unwrap();
            assert_eq!(list.entries().len() + 1, embedded.entries().len());
        }
    }
}
