//! Rebuilding cohorts from what is stored, at a start.

use super::error::AgentError;
use super::node::{Machine, Node, NodeId, NodeInput};
use super::runtime::Agent;
use crate::beacon::history::Changes;
use crate::hash::CohortId;
use crate::keys::{NostrKey, OwnKey};
use crate::nostr::seal::ChannelKey;
use crate::protocol::aggregator::Aggregator;
use crate::protocol::participant::Participant;
use crate::protocol::terms::Terms;
use crate::store::Role;
use crate::time::UnixTime;

impl Agent {
    /// Rebuilds every cohort from its last snapshot and the log since. Effects of the past are not carried out again.
    pub(super) fn replay(&mut self) -> Result<(), AgentError> {
        let rows = self.store.view().cohorts()?;
        for row in rows {
            if self.is_unborn(&row)? {
                continue;
            }
            let (terms, cohort) = Terms::parse(&row.terms).map_err(|error| AgentError::Log {
                seq: 0,
                reason: error.to_string(),
            })?;
            let id = (cohort, row.role);
            let mut node = self.new_node(id, terms, row.seat_key, row.created);
            let entries = self.store.view();
            let conversations = &self.conversations;
            let after = super::snapshots::restore(&entries, conversations, &mut node)?;
            entries.replay_after::<AgentError>(cohort, row.role, after, |entry| {
                node.tail.add(entry.input.len());
                let unreadable = |reason: String| AgentError::Log {
                    seq: entry.seq,
                    reason,
                };
                match entry.kind.as_str() {
                    "channel" => {
                        node.channel =
                            super::inbound::reopen_channel(conversations, &node, &entry.input);
                        node.sealed = Some(entry.input);
                    }
                    super::alarms::ALARMS_SEEN => node.journal.acknowledge(),
                    super::relays::RELAY_HINTS => {
                        node.relays = serde_json::from_str(&entry.input)
                            .map_err(|error| unreadable(error.to_string()))?;
                    }
                    _ => {
                        let input = NodeInput::read(id.1, &entry.input)
                            .map_err(|error| unreadable(error.to_string()))?;
                        let _ = node.handle(entry.at, input)?;
                    }
                }
                Ok(())
            })?;
            if let Machine::Participant(_) = node.machine {
                self.signer
                    .add_seat(self.seat_secret(id.0, node.own.public()));
            }
            self.unresumed.insert(id);
            self.nodes.insert(id, node);
        }
        Ok(())
    }

    pub(super) fn new_node(
        &self,
        id: NodeId,
        terms: Terms,
        seat: Option<NostrKey>,
        created: UnixTime,
    ) -> Node {
        let policy = self.policy_on(terms.network);
        let (machine, own, channel) = match id.1 {
            Role::Aggregator => {
                let channel = self.root.channel(&id.0);
                let secret = zeroize::Zeroizing::new(channel.keypair().secret_bytes());
                (
                    Machine::Aggregator(Box::new(Aggregator::new(terms))),
                    self.root.identity(),
                    ChannelKey::from_secret(&secret).ok(),
                )
            }
            Role::Participant => {
                let seat = seat.unwrap_or_else(|| self.root.seat(&id.0).public());
                (
                    Machine::Participant(Box::new(Participant::new(terms, seat, policy))),
                    self.seat_secret(id.0, seat),
                    None,
                )
            }
        };
        Node {
            id,
            machine,
            own,
            channel,
            relays: Vec::new(),
            created,
            last: created,
            journal: super::journal::Journal::default(),
            sealed: None,
            tail: super::snapshots::Tail::default(),
            touched: Changes::All,
        }
    }

    /// The secret of a seat: derived for the cohort, or the identity when it was joined with that.
    fn seat_secret(&self, cohort: CohortId, seat: NostrKey) -> OwnKey {
        if seat == self.identity.public() {
            self.root.identity()
        } else {
            self.root.seat(&cohort)
        }
    }
}
