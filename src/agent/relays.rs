//! Relays that aggregators name: hints, followed only after the user joined (DESIGN §4).

use super::delivery;
use super::error::AgentError;
use super::node::{Machine, NodeId};
use super::runtime::Agent;
use crate::nostr::RelayUrl;
use crate::nostr::link::RelayConfig;
use crate::nostr::outbox::OutboxInput;
use crate::nostr::policy::MAX_ADVERTISED;
use crate::protocol::message::{Message, Relays};
use crate::store::{NewLogEntry, Role};

/// Kind of the log entry that keeps an aggregator's relay hints. Not the name of a message: those are
/// logged as inputs of the core, and read back as such.
pub(super) const RELAY_HINTS: &str = "relay_hints";

impl Agent {
    /// Uses a relay from now on, also for what is on its way.
    pub fn use_relay(&mut self, config: RelayConfig) -> Result<(), AgentError> {
        let url = config.url.clone();
        let known = self.link.configs().iter().any(|known| known.url == url);
        if known && self.upkeep.carries(&url, None) {
            return Ok(());
        }
        let budget = config.budget;
        self.upkeep.not_hinted(&url);
        if known {
            // It was used for some cohorts, under the rules for addresses that others name.
            self.link.remove_relay(&url);
        }
        self.link.add_relay(config);
        self.start_description(url.clone());
        self.outbox(OutboxInput::Budget(url.clone(), budget))?;
        self.outbox(OutboxInput::RelayAdded(url, None))
    }

    /// Stops using a relay.
    pub fn drop_relay(&mut self, url: &RelayUrl) -> Result<(), AgentError> {
        self.link.remove_relay(url);
        self.upkeep.not_hinted(url);
        self.outbox(OutboxInput::RelayRemoved(url.clone()))
    }

    /// Remembers the relays an aggregator named for a cohort, and connects to those that may be dialled:
    /// wss, a public host, at most five.
    pub(super) fn learn_relays(&mut self, id: NodeId, relays: &[String]) -> Result<(), AgentError> {
        let now = self.now();
        let relays: Vec<String> = relays
            .iter()
            .filter_map(|url| RelayUrl::parse_advertised(url).ok())
            .take(MAX_ADVERTISED)
            .map(|url| url.to_string())
            .collect();
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if relays.is_empty() || node.relays == relays {
            return Ok(());
        }
        let json = serde_json::to_string(&relays)
            .map_err(|_| AgentError::Defect("relay addresses have no JSON"))?;
        self.store.transaction::<_, AgentError>(|tx| {
            tx.append(&NewLogEntry {
                cohort: id.0,
                role: id.1,
                at: now,
                kind: RELAY_HINTS,
                input: &json,
                outcome: "\"accepted\"",
            })?;
            Ok(())
        })?;
        node.tail.add(json.len());
        node.relays = relays;
        self.connect_hints(id)
    }

    /// Connects to the relays known for a cohort, beside the configured ones.
    pub(super) fn connect_hints(&mut self, id: NodeId) -> Result<(), AgentError> {
        let relays: Vec<RelayUrl> = self
            .nodes
            .get(&id)
            .filter(|node| matches!(node.machine, Machine::Participant(_)) && !node.is_over())
            .map(|node| node.relays.iter())
            .into_iter()
            .flatten()
            .filter_map(|url| RelayUrl::parse_advertised(url).ok())
            .collect();
        for url in relays {
            self.use_hint(id, RelayConfig::advertised(url))?;
        }
        Ok(())
    }

    /// Tells the members of every cohort of this aggregator which relays it uses now.
    pub fn announce_relays(&mut self) -> Result<(), AgentError> {
        let relays: Vec<String> = self.relay_hints().iter().map(ToString::to_string).collect();
        let channels: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.id.1 == Role::Aggregator && node.phase_name() == "active")
            .filter_map(|node| Some((node.id, delivery::channel_of(node)?)))
            .collect();
        for (id, channel) in channels {
            let relays = relays.clone();
            self.send_plain(id, channel, Message::Relays(Relays { relays }))?;
        }
        self.publish_relay_list()
    }
}
