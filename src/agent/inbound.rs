//! What comes from the relays: events to envelopes to inputs.

use super::delivery::{self, Opened};
use super::error::AgentError;
use super::events::What;
use super::node::{Machine, Node, NodeId};
use super::runtime::Agent;
use crate::fail_point;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::nostr::chunks::CHUNK;
use crate::nostr::envelope::{ACK, Envelope};
use crate::nostr::event::{Event, KIND_ADVERT, KIND_DIRECTED};
use crate::nostr::lanes::{LaneId, Receipt};
use crate::nostr::link::LinkEvent;
use crate::nostr::outbox::OutboxInput;
use crate::nostr::relay_list::KIND_RELAY_LIST;
use crate::nostr::seal::{ChannelKey, ConversationKeys};
use crate::nostr::{EventId, RelayUrl, VerifiedEvent};
use crate::protocol::message::Message;
use crate::store::{NewLogEntry, Role};
use crate::time::UnixTime;

impl Agent {
    pub(super) fn link_event(&mut self, event: LinkEvent) -> Result<(), AgentError> {
        match event {
            LinkEvent::Event { relay, event } => self.event(&relay, &event),
            LinkEvent::Published {
                event,
                relay,
                outcome,
            } => {
                self.relay_answered(&relay, &outcome);
                self.note_published(event, relay, outcome)
            }
            LinkEvent::Connected { relay } => {
                self.relay_up(&relay);
                let url = relay.to_string();
                let what = What::Relay {
                    url,
                    connected: true,
                    reason: String::new(),
                };
                self.emit(None, what);
                self.outbox(OutboxInput::RelayUp(relay))
            }
            LinkEvent::Disconnected { relay, reason } => {
                self.relay_down(&relay, &reason);
                self.emit(
                    None,
                    What::Relay {
                        url: relay.to_string(),
                        connected: false,
                        reason,
                    },
                );
                Ok(())
            }
            LinkEvent::Forged { relay, count } => {
                tracing::warn!(%relay, count, "the relay sent forged events");
                self.count("forged_event");
                Ok(())
            }
            LinkEvent::Eose { subscription, .. } => self.caught_up(&subscription),
            LinkEvent::Closed { .. } => Ok(()),
        }
    }

    fn event(&mut self, relay: &RelayUrl, event: &VerifiedEvent) -> Result<(), AgentError> {
        match event.kind {
            KIND_ADVERT => self.advert(relay, event),
            KIND_DIRECTED => self.directed(event),
            KIND_RELAY_LIST => self.relay_list(event),
            _ => Ok(()),
        }
    }

    /// A message to one of this agent's keys, or on a channel it reads.
    fn directed(&mut self, event: &VerifiedEvent) -> Result<(), AgentError> {
        let now = self.now();
        if self.store.view().seen(event.id)? {
            return Ok(());
        }
        self.judge_own(event)?;
        let Some(recipient) = event.tag("p").and_then(|key| key.parse::<NostrKey>().ok()) else {
            self.count("no_recipient");
            return Ok(());
        };
        let from = event.author;
        let plaintext = match self.open_event(event, recipient) {
            Some(Ok(plaintext)) => plaintext,
            Some(Err(fault)) => {
                self.count("undecryptable");
                tracing::debug!(%fault, "not readable");
                return Ok(());
            }
            // Our own words to somebody else, which were judged already.
            None if self.key_of(from).is_some() => return Ok(()),
            None => {
                self.count("not_addressed_to_me");
                return Ok(());
            }
        };
        let envelope = match Envelope::decode(&plaintext) {
            Ok(envelope) => envelope,
            Err(fault) => {
                self.count("malformed_envelope");
                tracing::debug!(%fault, "not an envelope");
                return Ok(());
            }
        };
        let cohort = envelope.cohort;
        let Some(id) = self.node_for(cohort, recipient) else {
            if self.without_cohort(from, envelope)? {
                // Relays serve it again at every start: handled once, or a follower that left would be back.
                let expires = event
                    .expiration()
                    .unwrap_or(event.created_at.plus(86_400 * 400));
                self.store.transaction::<_, AgentError>(|tx| {
                    Ok(tx.mark_seen(event.id, expires).map(drop)?)
                })?;
            }
            return Ok(());
        };
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        // Only the aggregator speaks to a member: nothing of a stranger gets any further.
        if delivery::expected_author(node).is_some_and(|expected| expected != from) {
            self.count("not_the_aggregator");
            return Ok(());
        }
        let lane = LaneId {
            author: from,
            recipient,
            cohort,
        };
        // Pieces are kept until the last one is there: not those of somebody without a seat, for nothing that such
        // a one may say is that long.
        if envelope.kind == CHUNK && !delivery::may_send_chunks(node, from) {
            self.count("chunk_of_a_stranger");
            return Ok(());
        }
        fail_point!("arrived", kind_of_arrival(&envelope.kind));
        self.note_acks(id, from, &envelope.acks)?;
        if envelope.kind == ACK {
            return self.mark_seen(event, lane);
        }
        match self.post.lanes.receive(lane, envelope.inc, envelope.seq) {
            Receipt::New => {}
            Receipt::NewIncarnation => self.post.assembler.forget(&lane),
            Receipt::Duplicate => {
                self.post.owe_ack(now);
                return self.mark_seen(event, lane);
            }
            Receipt::OldIncarnation => {
                self.count("stale_incarnation");
                return self.mark_seen(event, lane);
            }
            Receipt::Refused => {
                self.count("lane_refused");
                return Ok(());
            }
        }
        self.post.owe_ack(now);
        let message = match self.post.assembler.accept(lane, envelope.into_message()) {
            Ok(Some(message)) => message,
            Ok(None) => return self.mark_chunk(event, lane),
            Err(fault) => {
                self.count("bad_chunk");
                tracing::debug!(%fault, "chunk refused");
                return self.mark_seen(event, lane);
            }
        };
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        match delivery::open(&self.conversations, node, from, &message) {
            Opened::Message(message) => {
                self.arrived = Some(Arrived {
                    event: event.id,
                    expires: expiry_of(event),
                    lane,
                });
                if let (Message::Relays(hints), Role::Participant) = (&message, id.1) {
                    self.learn_relays(id, &hints.relays)?;
                }
                let Some(node) = self.nodes.get(&id) else {
                    return Ok(());
                };
                let input = node.message(from, message);
                let unknown_set = node.key_set().is_none();
                self.feed(id, input)?;
                if unknown_set {
                    // The address may just have become known, and its history may be here already.
                    self.sync_chain(id, false)?;
                }
                // Stored with the step it led to, if it led to one.
                if self.arrived.take().is_none() {
                    return Ok(());
                }
            }
            Opened::Channel(channel) => self.learn_channel(id, event, channel)?,
            Opened::NotForMe => {}
            Opened::Unreadable(reason) => {
                self.count("malformed_message");
                self.emit(Some(id), What::Ignored { reason });
            }
        }
        // Marked last: a crash before this line only means that the event is handled again, which the core
        // takes for the repetition it is.
        self.mark_seen(event, lane)
    }

    fn mark_seen(&mut self, event: &VerifiedEvent, lane: LaneId) -> Result<(), AgentError> {
        let expires = event
            .expiration()
            .unwrap_or(event.created_at.plus(86_400 * 400));
        let post = &self.post;
        fail_point!("before", "mark_seen");
        self.store.transaction::<_, AgentError>(|tx| {
            tx.mark_seen(event.id, expires)?;
            post.save_lane(tx, lane)
        })?;
        fail_point!("after", "mark_seen");
        Ok(())
    }

    /// A chunk came that completes nothing yet: kept, because its author will not send it again.
    fn mark_chunk(&mut self, event: &VerifiedEvent, lane: LaneId) -> Result<(), AgentError> {
        let post = &self.post;
        self.store.transaction::<_, AgentError>(|tx| {
            tx.mark_seen(event.id, expiry_of(event))?;
            post.save_lane(tx, lane)?;
            post.save_chunks(tx)
        })?;
        fail_point!("after", "mark_chunk");
        Ok(())
    }

    fn open_event(
        &self,
        event: &VerifiedEvent,
        recipient: NostrKey,
    ) -> Option<Result<Vec<u8>, String>> {
        let text = |fault: crate::nostr::seal::SealFault| fault.to_string();
        if recipient == self.identity.public() {
            let opened = self.conversations.open_directed(&self.identity, event);
            return Some(opened.map_err(text));
        }
        for node in self.nodes.values() {
            let Machine::Participant(machine) = &node.machine else {
                continue;
            };
            if node.own.public() == recipient {
                let opened = self.conversations.open_directed(&node.own, event);
                return Some(opened.map_err(text));
            }
            if let Some(channel) = node.channel.as_ref().filter(|c| c.public() == recipient) {
                let aggregator = machine.terms().aggregator;
                let opened = self.conversations.open_channel(channel, aggregator, event);
                return Some(opened.map_err(text));
            }
        }
        None
    }

    /// Which of this agent's roles in a cohort a key speaks for.
    fn node_for(&self, cohort: CohortId, recipient: NostrKey) -> Option<NodeId> {
        let member = (cohort, Role::Participant);
        if let Some(node) = self.nodes.get(&member) {
            let channel = delivery::channel_of(node);
            // With an identity seat both roles share a key; an aggregator does not write to itself.
            let mine = node.own.public() == recipient || channel == Some(recipient);
            let also_aggregator = recipient == self.identity.public()
                && self.nodes.contains_key(&(cohort, Role::Aggregator));
            if mine && !also_aggregator {
                return Some(member);
            }
        }
        let aggregator = (cohort, Role::Aggregator);
        (recipient == self.identity.public() && self.nodes.contains_key(&aggregator))
            .then_some(aggregator)
    }

    /// A message about a cohort this agent has no part in: an invitation, or a follower. Whether it was one.
    fn without_cohort(&mut self, from: NostrKey, envelope: Envelope) -> Result<bool, AgentError> {
        let (cohort, said) = (envelope.cohort, UnixTime(envelope.seq));
        let message = envelope.into_message();
        match Message::parse(&message.kind, &message.body) {
            Ok(Message::Invite(invite)) => self.invited(from, cohort, &invite)?,
            Ok(Message::Subscribe(subscribe)) => self.subscribed(from, subscribe.on, said)?,
            _ => {
                self.count("unknown_cohort");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A member got the channel's secret: kept as the sealed event it came in, which only the seat's key opens.
    fn learn_channel(
        &mut self,
        id: NodeId,
        event: &VerifiedEvent,
        channel: ChannelKey,
    ) -> Result<(), AgentError> {
        let now = self.now();
        let json = event.to_json();
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        if node.channel.is_some() || id.1 != Role::Participant {
            return Ok(());
        }
        self.store.transaction::<_, AgentError>(|tx| {
            tx.append(&NewLogEntry {
                cohort: id.0,
                role: id.1,
                at: now,
                kind: "channel",
                input: &json,
                outcome: "\"accepted\"",
            })?;
            Ok(())
        })?;
        fail_point!("stored", "channel");
        node.channel = Some(channel);
        node.tail.add(json.len());
        node.sealed = Some(json);
        self.refresh_inbox();
        Ok(())
    }
}

/// A message that is being handled: that it came is stored in the same transaction as what it leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) event: EventId,
    pub(super) expires: UnixTime,
    pub(super) lane: LaneId,
}

/// The type of a message for fail points: acknowledgements are named, what the core handles is by its input.
#[cfg(debug_assertions)]
fn kind_of_arrival(kind: &str) -> &'static str {
    match kind {
        ACK => "ack",
        CHUNK => "chunk",
        delivery::CHANNEL_KEY => "channel_key",
        delivery::PARTS => "parts",
        _ => "message",
    }
}

/// Until when an event's id is remembered: as long as relays may serve it.
fn expiry_of(event: &VerifiedEvent) -> UnixTime {
    event
        .expiration()
        .unwrap_or(event.created_at.plus(86_400 * 400))
}

/// Opens the stored grant of a channel again.
pub(super) fn reopen_channel(
    conversations: &ConversationKeys,
    node: &Node,
    json: &str,
) -> Option<ChannelKey> {
    let event = Event::from_json(json).ok()?.verify().ok()?;
    let plaintext = conversations.open_directed(&node.own, &event).ok()?;
    let envelope = Envelope::decode(&plaintext).ok()?;
    let from = event.author;
    match delivery::open(conversations, node, from, &envelope.into_message()) {
        Opened::Channel(channel) => Some(channel),
        _ => None,
    }
}
