//! The relay lists of aggregators (NIP-65): publishing one's own, following those of others.

use std::collections::BTreeSet;

use super::error::AgentError;
use super::node::{Machine, NodeId};
use super::runtime::Agent;
use crate::keys::NostrKey;
use crate::nostr::advert::next_created_at;
use crate::nostr::outbox::NewRow;
use crate::nostr::relay_list::{self, KIND_RELAY_LIST, ListedRelay};
use crate::nostr::{Filter, VerifiedEvent};
use crate::store::MetaKey;

/// Name of the subscription.
const LISTS: &str = "lists";

/// The tags of the list that was published last, with its date.
const LAST_LIST: MetaKey = MetaKey::new("last_relay_list");

impl Agent {
    /// Publishes where this agent reads and writes, if it is an aggregator that advertises and this has
    /// changed. Who takes part only tells nobody.
    pub(super) fn publish_relay_list(&mut self) -> Result<(), AgentError> {
        let advertises = self.nodes.values().any(|node| {
            matches!(node.machine, Machine::Aggregator(_))
                && !node.is_over()
                && !node.terms().invite_only
        });
        if !advertises {
            return Ok(());
        }
        let relays: Vec<ListedRelay> = self
            .link
            .configs()
            .into_iter()
            .filter(|relay| self.upkeep.carries(&relay.url, None))
            .map(|relay| ListedRelay {
                url: relay.url,
                read: relay.read,
                write: relay.write,
            })
            .collect();
        let now = self.now();
        let stored = self.store.view().meta(LAST_LIST)?.unwrap_or_default();
        let (last, tags) = stored.split_once(' ').unwrap_or_default();
        let created_at = next_created_at(now, last.parse().ok().map(crate::time::UnixTime));
        let event = relay_list::encode(&relays, created_at, &self.identity)
            .map_err(|fault| AgentError::Send(fault.to_string()))?;
        let changed = serde_json::to_string(&event.tags)
            .map_err(|_| AgentError::Defect("a relay list has no JSON"))?;
        if changed == tags {
            return Ok(());
        }
        let row = NewRow {
            event,
            lane: None,
            inc: self.post.lanes.incarnation(),
            seq: 0,
            kind: "relay_list".into(),
            about: None,
            awaiting: BTreeSet::new(),
            relays: self.write_relays(None),
        };
        let Self { store, post, .. } = self;
        store.transaction::<_, AgentError>(|tx| {
            post.queue_row(tx, now, row)?;
            tx.set_meta(LAST_LIST, &format!("{created_at} {changed}"))?;
            Ok(())
        })?;
        self.send_due(now)
    }

    /// Watches the lists of the aggregators whose member this agent is.
    pub(super) fn watch_relay_lists(&mut self) {
        let aggregators: BTreeSet<NostrKey> = self
            .memberships()
            .map(|(_, aggregator)| aggregator)
            .collect();
        if aggregators == self.upkeep.lists_of {
            return;
        }
        let filter = Filter::kind(KIND_RELAY_LIST).authors(aggregators.iter().copied());
        let filters = if aggregators.is_empty() {
            Vec::new()
        } else {
            vec![filter]
        };
        self.link.subscribe(LISTS, filters);
        self.upkeep.lists_of = aggregators;
    }

    /// A relay list came: where an aggregator of ours reads is where we write.
    pub(super) fn relay_list(&mut self, event: &VerifiedEvent) -> Result<(), AgentError> {
        let concerned: Vec<NodeId> = self
            .memberships()
            .filter(|(_, aggregator)| *aggregator == event.author)
            .map(|(id, _)| id)
            .collect();
        if concerned.is_empty() || !self.upkeep.lists.is_news(event) {
            return Ok(());
        }
        let relays: Vec<String> = relay_list::reads(event, false)
            .iter()
            .map(ToString::to_string)
            .collect();
        for id in concerned {
            self.learn_relays(id, &relays)?;
        }
        Ok(())
    }

    fn memberships(&self) -> impl Iterator<Item = (NodeId, NostrKey)> {
        let live = self.nodes.values().filter(|node| !node.is_over());
        live.filter_map(|node| match &node.machine {
            Machine::Participant(machine) => Some((node.id, machine.terms().aggregator)),
            Machine::Aggregator(_) => None,
        })
    }
}
