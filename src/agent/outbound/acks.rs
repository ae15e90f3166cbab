//! Acknowledgements, of others and of our own.

use std::collections::BTreeSet;

use super::seal;
use crate::agent::delivery;
use crate::agent::error::AgentError;
use crate::agent::node::{Machine, NodeId};
use crate::agent::runtime::Agent;
use crate::fail_point;
use crate::keys::NostrKey;
use crate::nostr::envelope::{self, ACK, AckOf, Envelope};
use crate::nostr::outbox::OutboxInput;
use crate::time::UnixTime;

impl Agent {
    /// Tells authors what has arrived, where no message has carried it. An acknowledgement is not counted,
    /// not stored and not repeated: if it is lost, the author sends again and gets another.
    pub(super) fn send_acks(&mut self, now: UnixTime) -> Result<(), AgentError> {
        self.post.ack_at = None;
        let mut due: BTreeSet<(NodeId, NostrKey)> = BTreeSet::new();
        for node in self.nodes.values() {
            let own = node.own.public();
            let channel = delivery::channel_of(node);
            for lane in self.post.lanes.untold_lanes(own, node.id.0) {
                due.insert((node.id, lane.author));
            }
            if let (Machine::Participant(machine), Some(channel)) = (&node.machine, channel) {
                for _ in self.post.lanes.untold_lanes(channel, node.id.0) {
                    due.insert((node.id, machine.terms().aggregator));
                }
            }
        }
        for (id, peer) in due {
            let Some(node) = self.nodes.get(&id) else {
                continue;
            };
            let acks = self.post.acks(node, peer);
            let message = envelope::Message::new(ACK, &serde_json::json!({}))
                .map_err(|fault| AgentError::Send(fault.to_string()))?;
            let inc = self.post.lanes.incarnation();
            let mut envelope = Envelope::new(id.0, inc, 0, acks, message);
            let expires = delivery::expiry(now, "parts");
            let event = seal(
                &self.conversations,
                &node.own,
                peer,
                &mut envelope,
                now,
                expires,
            )?;
            let channel = delivery::channel_of(node);
            self.post
                .lanes
                .told(node.own.public(), peer, channel, id.0, &envelope.acks);
            self.publish(&event, id.0)?;
            fail_point!("sent", "ack");
        }
        Ok(())
    }

    /// Takes note of what a peer says it has.
    pub(in crate::agent) fn note_acks(
        &mut self,
        id: NodeId,
        from: NostrKey,
        acks: &[envelope::Ack],
    ) -> Result<(), AgentError> {
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        let own = node.own.public();
        // The aggregator's own channel is what a member's `channel` acknowledgement speaks of.
        let channel = delivery::channel_of(node);
        let found: Vec<_> = acks
            .iter()
            .filter_map(|ack| {
                let lanes = &self.post.lanes;
                let lane = lanes.acked_lane(own, from, channel, id.0, ack)?;
                Some((lane, ack.clone()))
            })
            .collect();
        for (lane, ack) in found {
            let by = match ack.of {
                AckOf::Member(_) | AckOf::Direct | AckOf::Channel => from,
            };
            self.outbox(OutboxInput::Acked { by, lane, ack })?;
        }
        Ok(())
    }
}
