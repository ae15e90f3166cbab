//! Delivery: what was sent to whom, which relays took it, who acknowledged, and sending again.
//!
//! The decisions are those of [`Outbox`]; this file stores its rows and carries out its effects. A row is
//! stored with the step that caused it; answers and acknowledgements are written a little later, in
//! bundles: losing one only means that bytes are sent once more.

mod acks;
mod rows;

use std::collections::{BTreeSet, HashMap};

use rand::Rng as _;

use super::delivery::{self, Outgoing};
use super::error::AgentError;
use super::node::{Machine, Node, NodeId};
use super::runtime::Agent;
use crate::fail_point;
use crate::hash::CohortId;
use crate::keys::{NostrKey, OwnKey};
use crate::nostr::envelope::{self, Envelope, Incarnation};
use crate::nostr::lanes::{LaneId, LaneState, Lanes};
use crate::nostr::link::PublishOutcome;
use crate::nostr::outbox::{
    DeliveryReport, NewRow, Outbox, OutboxEffect, OutboxInput, Row, RowEnd,
};
use crate::nostr::seal::{ConversationKeys, resign};
use crate::nostr::{EventId, RelayUrl, VerifiedEvent};
use crate::protocol::message::Message;
use crate::store::{MetaKey, Store, Tx};
use crate::time::UnixTime;
use rows::{insert_row, lane_id, new_outbox_row, state_json};
pub(super) use rows::{read_row, store_lane};

/// Seconds after which an acknowledgement travels alone if no message carried it: most are carried.
const ACK_DELAY: u64 = 20;

/// Seconds between two writings of delivery states that nothing depends on.
const WRITE_DELAY: u64 = 2;

/// Seconds after which a date is far back: peers ask for what is two hours older than they need.
const OLD_DATE: u64 = 3_600;

/// The chunks that wait for others.
const ASSEMBLER: MetaKey = MetaKey::new("unfinished_chunks");

/// Everything about delivery that is in memory.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) lanes: Lanes,
    pub(super) outbox: Outbox,
    pub(super) assembler: crate::nostr::chunks::Assembler,
    /// Undelivered rows of an earlier incarnation: their numbers mean nothing any more.
    pub(super) stale: Vec<Row>,
    dirty: BTreeSet<EventId>,
    write_at: Option<UnixTime>,
    ack_at: Option<UnixTime>,
}

impl Post {
    /// Reads lanes and undelivered events from the store.
    pub(super) fn load(store: &Store, inc: Incarnation, now: UnixTime) -> Result<Self, AgentError> {
        let mut lanes = Lanes::new(inc, now);
        let mut outbox = Outbox::default();
        let mut stale = Vec::new();
        let unreadable = |what: &str, error: serde_json::Error| AgentError::Log {
            seq: 0,
            reason: format!("{what}: {error}"),
        };
        let view = store.view();
        for cohort in view.cohorts()? {
            for row in view.lanes_of(cohort.cohort)? {
                let state: LaneState =
                    serde_json::from_str(&row.state).map_err(|e| unreadable("a lane", e))?;
                lanes.restore_lane(lane_id(row.lane), state);
            }
        }
        for row in view.outbox_pending()? {
            let row = read_row(&row).map_err(|e| unreadable("the outbox", e))?;
            if row.lane.is_some() && row.inc < inc {
                stale.push(row);
            } else {
                outbox.restore(row);
            }
        }
        // A chunk that was acknowledged is not sent again: what is unfinished has to survive.
        let assembler = match view.meta(ASSEMBLER)? {
            Some(json) => serde_json::from_str(&json).map_err(|e| unreadable("chunks", e))?,
            None => crate::nostr::chunks::Assembler::default(),
        };
        Ok(Self {
            lanes,
            outbox,
            assembler,
            stale,
            dirty: BTreeSet::new(),
            write_at: None,
            ack_at: None,
        })
    }

    /// When something has to be done by itself.
    pub(super) fn deadline(&self) -> Option<UnixTime> {
        [self.outbox.next_deadline(), self.write_at, self.ack_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Notes that something came that its author should be told of.
    pub(super) fn owe_ack(&mut self, now: UnixTime) {
        self.ack_at.get_or_insert(now.plus(ACK_DELAY));
    }

    pub(super) fn save_lane(&self, tx: &Tx<'_>, lane: LaneId) -> Result<(), AgentError> {
        let json = serde_json::to_string(&self.lanes.state(&lane))
            .map_err(|_| AgentError::Defect("a lane has no JSON"))?;
        tx.set_lane(store_lane(lane), &json)?;
        Ok(())
    }

    /// Stores the chunks that wait for others.
    pub(super) fn save_chunks(&self, tx: &Tx<'_>) -> Result<(), AgentError> {
        let json = serde_json::to_string(&self.assembler)
            .map_err(|_| AgentError::Defect("chunks have no JSON"))?;
        tx.set_meta(ASSEMBLER, &json)?;
        Ok(())
    }

    /// Seals a message in one event per chunk and queues them, in the transaction of the step behind it.
    #[allow(clippy::too_many_arguments)] // each is another part of the agent, borrowed apart
    pub(super) fn queue(
        &mut self,
        tx: &Tx<'_>,
        conversations: &ConversationKeys,
        node: &Node,
        outgoing: Outgoing,
        relays: &BTreeSet<RelayUrl>,
        now: UnixTime,
    ) -> Result<(), AgentError> {
        let kind = outgoing.kind;
        let about = outgoing
            .about
            .and_then(|about| serde_json::to_string(&about).ok());
        let lane = LaneId {
            author: node.own.public(),
            recipient: outgoing.recipient,
            cohort: node.id.0,
        };
        for message in delivery::split(outgoing)? {
            let named = (kind, about.clone());
            self.queue_one(tx, conversations, node, lane, named, message, relays, now)?;
        }
        self.save_lane(tx, lane)
    }

    /// Numbers, seals and queues one envelope. The lane is saved by the caller.
    #[allow(clippy::too_many_arguments)] // each is another part of the agent, borrowed apart
    fn queue_one(
        &mut self,
        tx: &Tx<'_>,
        conversations: &ConversationKeys,
        node: &Node,
        lane: LaneId,
        (kind, about): (&str, Option<String>),
        message: envelope::Message,
        relays: &BTreeSet<RelayUrl>,
        now: UnixTime,
    ) -> Result<(), AgentError> {
        let recipient = lane.recipient;
        let expires = delivery::expiry(now, kind);
        let seq = self.lanes.next_seq(lane);
        let acks = self.acks(node, recipient);
        let inc = self.lanes.incarnation();
        let mut envelope = Envelope::new(lane.cohort, inc, seq, acks, message);
        let event = seal(
            conversations,
            &node.own,
            recipient,
            &mut envelope,
            now,
            expires,
        )?;
        let channel = delivery::channel_of(node);
        self.lanes
            .told(lane.author, recipient, channel, lane.cohort, &envelope.acks);
        let row = NewRow {
            event,
            lane: Some(lane),
            inc,
            seq,
            kind: kind.to_owned(),
            about,
            awaiting: awaiting(node, recipient),
            relays: relays.clone(),
        };
        self.queue_row(tx, now, row)
    }

    /// Queues again, under a number of this incarnation, what an earlier one had not delivered.
    pub(super) fn reissue(
        &mut self,
        tx: &Tx<'_>,
        conversations: &ConversationKeys,
        node: &Node,
        row: &Row,
        relays: &BTreeSet<RelayUrl>,
        now: UnixTime,
    ) -> Result<(), AgentError> {
        let opened = conversations.open_own(&node.own, &row.event).ok();
        let envelope = opened.and_then(|plaintext| Envelope::decode(&plaintext).ok());
        if let (Some(lane), Some(envelope)) = (row.lane, envelope) {
            let message = envelope.into_message();
            self.queue_one(
                tx,
                conversations,
                node,
                lane,
                (&row.kind, row.about.clone()),
                message,
                relays,
                now,
            )?;
            self.save_lane(tx, lane)?;
        }
        Ok(())
    }

    /// Puts away a row of an earlier incarnation.
    pub(super) fn close_stale(tx: &Tx<'_>, row: &Row) -> Result<(), AgentError> {
        tx.set_outbox_state(row.event.id, &state_json(row)?, true)?;
        Ok(())
    }

    /// Queues a signed event.
    pub(super) fn queue_row(
        &mut self,
        tx: &Tx<'_>,
        now: UnixTime,
        row: NewRow,
    ) -> Result<(), AgentError> {
        let id = row.event.id;
        // Storing is done right here; other effects of queueing (no relay takes it) show in the report.
        let _ = self.outbox.handle(now, OutboxInput::Queued(Box::new(row)));
        let Some(row) = self.outbox.row(&id) else {
            return Ok(());
        };
        insert_row(tx, row)
    }

    fn acks(&self, node: &Node, recipient: NostrKey) -> Vec<envelope::Ack> {
        let own = node.own.public();
        let channel = delivery::channel_of(node);
        if channel == Some(recipient) {
            return self.lanes.acks_on_channel(own, node.id.0);
        }
        let channel = channel.filter(|_| matches!(node.machine, Machine::Participant(_)));
        self.lanes.acks_to(own, recipient, channel, node.id.0)
    }
}

impl Agent {
    /// Tells the outbox something, and carries out what it wants.
    pub(super) fn outbox(&mut self, input: OutboxInput) -> Result<(), AgentError> {
        let now = self.now();
        let effects = self.post.outbox.handle(now, input);
        self.outbox_effects(now, effects)
    }

    fn outbox_effects(
        &mut self,
        now: UnixTime,
        effects: Vec<OutboxEffect>,
    ) -> Result<(), AgentError> {
        for effect in effects {
            match effect {
                OutboxEffect::Store(id) => {
                    self.post.dirty.insert(id);
                    self.post.write_at.get_or_insert(now.plus(WRITE_DELAY));
                }
                OutboxEffect::Closed { row, end } => self.close_row(&row, end)?,
                OutboxEffect::Resign { event, pow } => self.resign(now, event, pow)?,
                OutboxEffect::Alarm {
                    relay,
                    refusal,
                    words,
                    ..
                } => {
                    tracing::warn!(%relay, ?refusal, words, "a relay refuses our events for good");
                    self.count("refused_by_relay");
                }
                OutboxEffect::Undeliverable(event) => {
                    tracing::error!(%event, "no relay takes this event");
                    self.count("undeliverable");
                }
            }
        }
        Ok(())
    }

    fn close_row(&mut self, row: &Row, end: RowEnd) -> Result<(), AgentError> {
        if end == RowEnd::Expired {
            tracing::warn!(kind = row.kind, "an event expired before it was delivered");
            self.count("expired_undelivered");
        }
        self.post.dirty.remove(&row.event.id);
        let state = state_json(row)?;
        let id = row.event.id;
        fail_point!("before", "close_row");
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_outbox_state(id, &state, true)?))?;
        fail_point!("after", "close_row");
        Ok(())
    }

    /// Signs a message again: the same plaintext and number under a fresh date.
    fn resign(
        &mut self,
        now: UnixTime,
        former: EventId,
        pow: Option<u8>,
    ) -> Result<(), AgentError> {
        let Some(row) = self.post.outbox.row(&former) else {
            return Ok(());
        };
        let old = row.event.clone();
        let life = old
            .expiration()
            .map_or(86_400, |expires| expires.since(old.created_at));
        let expires = now.plus(life);
        let Some(own) = self.key_of(old.author) else {
            return Ok(());
        };
        // The envelope stays as it is: its number is what the recipient knows it by. Work is capped at a second.
        let event = resign(&own, &old, now.max(old.created_at.plus(1)), expires, pow)
            .map_err(|fault| AgentError::Send(fault.to_string()))?;
        let id = event.id;
        let effects = self.post.outbox.handle(
            now,
            OutboxInput::Resigned {
                former,
                event: Box::new(event),
            },
        );
        if let Some(row) = self.post.outbox.row(&id) {
            let state = state_json(row)?;
            let json = row.event.to_json();
            let new = new_outbox_row(row, &json, &state);
            self.store
                .transaction::<_, AgentError>(|tx| Ok(tx.replace_outbox(former, &new)?))?;
            fail_point!("after", "resign");
        }
        self.post.dirty.remove(&former);
        self.outbox_effects(now, effects)
    }

    /// The clock was behind and is set right: what is dated far back is signed again now, because peers ask relays by
    /// date.
    pub(super) fn redate(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        let rows = self.post.outbox.rows();
        let old: Vec<EventId> = rows
            .filter(|row| row.lane.is_some() && now.since(row.event.created_at) > OLD_DATE)
            .map(|row| row.event.id)
            .collect();
        for id in old {
            self.resign(now, id, None)?;
        }
        Ok(())
    }

    /// The secret of one of this agent's keys.
    pub(super) fn key_of(&self, author: NostrKey) -> Option<OwnKey> {
        if author == self.identity.public() {
            return Some(self.root.identity());
        }
        self.nodes
            .values()
            .find(|node| node.own.public() == author)
            .map(|node| self.root.seat(&node.id.0))
    }

    /// Sends what is due now, and writes what has waited long enough.
    pub(super) fn send_due(&mut self, now: UnixTime) -> Result<(), AgentError> {
        if self.post.outbox.next_deadline().is_some_and(|at| at <= now) {
            let effects = self.post.outbox.handle(now, OutboxInput::Tick);
            self.outbox_effects(now, effects)?;
            let mut events: HashMap<EventId, VerifiedEvent> = HashMap::new();
            for (id, relay) in self.post.outbox.due(now) {
                if !events.contains_key(&id)
                    && let Some(row) = self.post.outbox.row(&id)
                {
                    events.insert(id, row.event.clone());
                }
                if let Some(event) = events.get(&id) {
                    #[cfg(debug_assertions)]
                    let kind = self
                        .post
                        .outbox
                        .row(&id)
                        .map(|row| rows::kind_name(&row.kind));
                    fail_point!("unsent", kind.unwrap_or("none"));
                    self.publish_to(event, &relay);
                    fail_point!("sent", kind.unwrap_or("none"));
                }
            }
        }
        if self.post.write_at.is_some_and(|at| at <= now) {
            self.write_states()?;
        }
        self.write_relay_health_due(now)?;
        if self.post.ack_at.is_some_and(|at| at <= now) {
            self.send_acks(now)?;
        }
        Ok(())
    }

    /// Writes delivery states that changed.
    pub(super) fn write_states(&mut self) -> Result<(), AgentError> {
        self.post.write_at = None;
        let dirty = std::mem::take(&mut self.post.dirty);
        if dirty.is_empty() {
            return Ok(());
        }
        let outbox = &self.post.outbox;
        fail_point!("before", "write_states");
        self.store.transaction::<_, AgentError>(|tx| {
            for id in dirty {
                if let Some(row) = outbox.row(&id) {
                    tx.set_outbox_state(id, &state_json(row)?, false)?;
                }
            }
            Ok(())
        })?;
        fail_point!("after", "write_states");
        Ok(())
    }

    pub(super) fn note_published(
        &mut self,
        event: EventId,
        relay: RelayUrl,
        outcome: PublishOutcome,
    ) -> Result<(), AgentError> {
        let jitter = rand::thread_rng().gen_range(0..1_000);
        #[cfg(debug_assertions)]
        let kind = self
            .post
            .outbox
            .row(&event)
            .map(|row| rows::kind_name(&row.kind));
        fail_point!("answered", kind.unwrap_or("none"));
        self.outbox(OutboxInput::Answer {
            event,
            relay,
            outcome,
            jitter,
        })
    }

    /// How far every message of a cohort got that is not delivered yet.
    #[must_use]
    pub fn deliveries(&self, cohort: CohortId) -> Vec<DeliveryReport> {
        self.post
            .outbox
            .rows()
            .map(Row::report)
            .filter(|report| report.cohort == Some(cohort))
            .collect()
    }

    /// Messages on their way, and since when the oldest is.
    #[must_use]
    pub fn outbox_depth(&self) -> (usize, Option<UnixTime>) {
        let rows = self.post.outbox.rows();
        let oldest = self.post.outbox.rows().map(|row| row.queued).min();
        (rows.count(), oldest)
    }

    /// The relays a cohort's messages go to: this agent's own, and those its aggregator named, where it
    /// reads. Without a cohort this agent's own.
    pub(super) fn write_relays(&self, cohort: Option<CohortId>) -> BTreeSet<RelayUrl> {
        let relays = self.link.configs().into_iter();
        relays
            .filter(|relay| relay.write && self.upkeep.carries(&relay.url, cohort))
            .map(|relay| relay.url)
            .collect()
    }

    /// Sends one event to one relay.
    pub(super) fn publish_to(&self, event: &VerifiedEvent, relay: &RelayUrl) {
        match self.link.publish_to(event, relay) {
            Ok(true) => self.traffic.add(1, event),
            Ok(false) => {}
            Err(fault) => tracing::error!(%fault, "an event of ours can not be published"),
        }
    }

    /// Sends one event of a cohort to every relay, once. It does not wait for a budget, and is charged.
    fn publish(&mut self, event: &VerifiedEvent, cohort: CohortId) -> Result<(), AgentError> {
        for url in self.write_relays(Some(cohort)) {
            self.publish_to(event, &url);
            self.outbox(OutboxInput::Charged(url))?;
        }
        Ok(())
    }

    /// Sends a message that no state of the core depends on.
    pub(super) fn send_plain(
        &mut self,
        id: NodeId,
        to: NostrKey,
        message: Message,
    ) -> Result<(), AgentError> {
        let now = self.now();
        let relays = self.write_relays(Some(id.0));
        let Self {
            nodes,
            store,
            post,
            conversations,
            ..
        } = self;
        let node = nodes.get(&id).ok_or(AgentError::UnknownCohort(id.0))?;
        let outgoing = delivery::wrap(node, message, to)?;
        store.transaction::<_, AgentError>(|tx| {
            post.queue(tx, conversations, node, outgoing, &relays, now)
        })?;
        fail_point!("stored", "plain");
        self.send_due(now)
    }
}

pub(super) fn seal(
    conversations: &ConversationKeys,
    own: &OwnKey,
    recipient: NostrKey,
    envelope: &mut Envelope,
    now: UnixTime,
    expires: UnixTime,
) -> Result<VerifiedEvent, AgentError> {
    let plaintext = envelope
        .encode()
        .map_err(|fault| AgentError::Send(fault.to_string()))?;
    conversations
        .seal_directed(own, recipient, &plaintext, now, expires)
        .map_err(|fault| AgentError::Send(fault.to_string()))
}

/// Who should acknowledge a message: its recipient if it is a member or the aggregator, all members if
/// it goes to the channel. Strangers owe nothing.
fn awaiting(node: &Node, recipient: NostrKey) -> BTreeSet<NostrKey> {
    match &node.machine {
        Machine::Participant(_) => BTreeSet::from([recipient]),
        Machine::Aggregator(machine) => {
            let members: BTreeSet<NostrKey> = machine.members().into_iter().collect();
            if delivery::channel_of(node) == Some(recipient) {
                members
            } else {
                members
                    .into_iter()
                    .filter(|key| *key == recipient)
                    .collect()
            }
        }
    }
}
