//! Delivery, as `agent/outbound.rs` and `agent/inbound.rs` do it, around the real lanes and the real outbox.
//!
//! An event of a run carries the number of a message in a table instead of a sealed envelope: sealing is tested
//! elsewhere, and ids that do not depend on nonces keep runs reproducible.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use btcr2_core::hash::SchnorrSignature;
use btcr2_core::keys::NostrKey;
use btcr2_core::nostr::envelope::{Ack, Incarnation};
use btcr2_core::nostr::event::KIND_DIRECTED;
use btcr2_core::nostr::lanes::{LaneId, Receipt};
use btcr2_core::nostr::outbox::{NewRow, OutboxEffect, OutboxInput};
use btcr2_core::nostr::{EventDraft, EventId, RelayUrl, VerifiedEvent};
use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::message::Message;
use btcr2_core::protocol::participant::ParticipantInput;
use btcr2_core::time::UnixTime;

use super::process::{Core, Input};
use super::relay::Posted;
use super::world::{Crashed, Event, World};

/// As in `agent/outbound.rs`.
const ACK_DELAY: u64 = 20;
const WRITE_DELAY: u64 = 2;
const EXPIRY: u64 = 60 * 86_400;

/// What an envelope carries.
#[derive(Debug, Clone)]
pub enum Payload {
    Core(Rc<Message>),
    /// A part for each of some members.
    Parts(Vec<(NostrKey, Rc<Message>)>),
    /// The channel's secret.
    Channel,
    Ack,
}

/// An envelope.
#[derive(Debug)]
pub struct Mail {
    pub author: NostrKey,
    pub to: NostrKey,
    pub inc: Incarnation,
    pub seq: u64,
    pub acks: Vec<Ack>,
    pub payload: Payload,
    /// What some processes see instead: a bad aggregator's channel may say something else to each.
    pub instead: BTreeMap<usize, Rc<Message>>,
    pub kind: &'static str,
    pub bytes: usize,
}

impl World {
    /// Numbers a message, puts it into the table, and queues its event: part of the step's commit.
    pub fn post(
        &mut self,
        i: usize,
        to: NostrKey,
        payload: Payload,
        instead: BTreeMap<usize, Rc<Message>>,
    ) {
        let now = self.clock(i);
        let awaiting = self.awaiting(i, to);
        let relays: BTreeSet<RelayUrl> = self.relays.iter().map(|r| r.url.clone()).collect();
        let cohort = self.cohort;
        let acks = self.acks(i, to);
        let channel = self.channel_known_to(i);
        let process = &mut self.processes[i];
        let own = process.public();
        let lane = LaneId {
            author: own,
            recipient: to,
            cohort,
        };
        let seq = process.lanes.next_seq(lane);
        process.lanes.told(own, to, channel, cohort, &acks);
        // Nobody asks for the size unless a relay has a limit.
        let sized = self.relays.iter().any(|r| r.faults.max_bytes.is_some());
        let kind = kind_of(&payload);
        let bytes = if sized { size_of(&payload) } else { 0 };
        let inc = process.lanes.incarnation();
        let mail = self.mails.len();
        self.mails.push(Mail {
            author: own,
            to,
            inc,
            seq,
            acks,
            payload,
            instead,
            kind,
            bytes,
        });
        let process = &mut self.processes[i];
        let event = event(own, now, mail);
        let id = event.id;
        let row = NewRow {
            event,
            lane: Some(lane),
            inc,
            seq,
            kind: kind.to_owned(),
            about: None,
            awaiting,
            relays,
        };
        let _ = process.outbox(now, OutboxInput::Queued(Box::new(row)));
        process.write_row(id);
        process.write_lane(lane);
        self.line(2, i, mail as u64, || format!("posts {kind} as {mail}"));
    }

    fn awaiting(&self, i: usize, to: NostrKey) -> BTreeSet<NostrKey> {
        match &self.processes[i].core {
            Core::Member(_) => BTreeSet::from([to]),
            Core::Aggregator(core) => {
                let members: BTreeSet<NostrKey> = core.members().into_iter().collect();
                if to == self.channel {
                    members
                } else {
                    members.into_iter().filter(|key| *key == to).collect()
                }
            }
        }
    }

    fn acks(&self, i: usize, to: NostrKey) -> Vec<Ack> {
        let process = &self.processes[i];
        let own = process.public();
        if i == 0 && to == self.channel {
            return process.lanes.acks_on_channel(own, self.cohort);
        }
        let channel = self.channel_known_to(i).filter(|_| i > 0);
        process.lanes.acks_to(own, to, channel, self.cohort)
    }

    fn channel_known_to(&self, i: usize) -> Option<NostrKey> {
        self.processes[i].disk.channel.then_some(self.channel)
    }

    /// Whether a process reads what is sent to a key.
    pub fn reads(&self, i: usize, to: NostrKey) -> bool {
        let process = &self.processes[i];
        process.public() == to || (i > 0 && process.disk.channel && to == self.channel)
    }

    /// Sends what is due, and writes what has waited.
    pub fn send_due(&mut self, i: usize) {
        let now = self.clock(i);
        let process = &mut self.processes[i];
        if process.outbox_due().is_some_and(|at| at <= now) {
            let effects = process.outbox(now, OutboxInput::Tick);
            self.outbox_effects(i, effects);
            for (id, relay) in self.processes[i].take_due(now) {
                if let Some(row) = self.processes[i].row(&id) {
                    let mail = number(&row.event);
                    self.publish(i, id, mail, &relay);
                }
            }
        }
        let process = &mut self.processes[i];
        if process.write_at.is_some_and(|at| at <= now) {
            process.write_at = None;
            for id in std::mem::take(&mut process.dirty) {
                process.write_row(id);
            }
        }
        if process.ack_at.is_some_and(|at| at <= now) {
            self.send_acks(i);
        }
    }

    fn send_acks(&mut self, i: usize) {
        let process = &mut self.processes[i];
        process.ack_at = None;
        let own = process.public();
        let mut peers: BTreeSet<NostrKey> = process
            .lanes
            .untold_lanes(own, self.cohort)
            .map(|lane| lane.author)
            .collect();
        if i > 0 && process.disk.channel {
            let untold = process.lanes.untold_lanes(self.channel, self.cohort);
            peers.extend(untold.map(|lane| lane.author));
        }
        for peer in peers {
            let acks = self.acks(i, peer);
            let channel = self.channel_known_to(i);
            let cohort = self.cohort;
            let process = &mut self.processes[i];
            process.lanes.told(own, peer, channel, cohort, &acks);
            let inc = process.lanes.incarnation();
            let mail = self.mails.len();
            self.mails.push(Mail {
                author: own,
                to: peer,
                inc,
                seq: 0,
                acks,
                payload: Payload::Ack,
                instead: BTreeMap::new(),
                kind: "ack",
                bytes: 300,
            });
            let relays: Vec<RelayUrl> = self.relays.iter().map(|r| r.url.clone()).collect();
            for relay in relays {
                self.publish(i, ack_id(mail), mail, &relay);
            }
        }
    }

    fn publish(&mut self, i: usize, event: EventId, mail: usize, url: &RelayUrl) {
        let Some(relay) = self.relays.iter().position(|relay| relay.url == *url) else {
            return;
        };
        let posted = Posted {
            author: self.mails[mail].author,
            to: self.mails[mail].to,
            bytes: self.mails[mail].bytes,
            mail,
            event,
        };
        let delay = self.net.below(3);
        self.at(
            self.now + delay,
            Event::Publish {
                relay,
                from: i,
                posted,
            },
        );
    }

    pub fn outbox(&mut self, i: usize, input: OutboxInput) {
        let now = self.clock(i);
        let effects = self.processes[i].outbox(now, input);
        self.outbox_effects(i, effects);
    }

    fn outbox_effects(&mut self, i: usize, effects: Vec<OutboxEffect>) {
        let now = self.clock(i);
        for effect in effects {
            let process = &mut self.processes[i];
            match effect {
                OutboxEffect::Store(id) => {
                    process.dirty.insert(id);
                    process.write_at.get_or_insert(now.plus(WRITE_DELAY));
                }
                OutboxEffect::Closed { row, .. } => {
                    process.dirty.remove(&row.event.id);
                    process.disk.rows.remove(&row.event.id);
                }
                OutboxEffect::Resign { event: former, .. } => self.resign(i, now, former),
                _ => {}
            }
        }
    }

    fn resign(&mut self, i: usize, now: UnixTime, former: EventId) {
        let process = &mut self.processes[i];
        let Some(row) = process.row(&former) else {
            return;
        };
        let created = now.max(row.event.created_at.plus(1));
        let event = event(process.public(), created, number(&row.event));
        let id = event.id;
        let effects = process.outbox(
            now,
            OutboxInput::Resigned {
                former,
                event: Box::new(event),
            },
        );
        process.disk.rows.remove(&former);
        process.write_row(id);
        process.dirty.remove(&former);
        self.outbox_effects(i, effects);
    }

    /// An event comes from a relay.
    pub fn receive(&mut self, i: usize, posted: &Posted) -> Result<(), Crashed> {
        let id = posted.event;
        if self.processes[i].disk.seen.contains(&id) || !self.reads(i, posted.to) {
            return Ok(());
        }
        let now = self.clock(i);
        let mail = &self.mails[posted.mail];
        let (author, inc, seq, kind) = (mail.author, mail.inc, mail.seq, mail.kind);
        if i > 0 && author != self.processes[0].public() {
            self.count("not_the_aggregator");
            return Ok(());
        }
        self.line(3, i, posted.mail as u64, || {
            format!("receives {kind} ({})", posted.mail)
        });
        let lane = LaneId {
            author,
            recipient: posted.to,
            cohort: self.cohort,
        };
        self.note_acks(i, posted.mail);
        if seq == 0 {
            self.mark_seen(i, id, lane);
            return Ok(());
        }
        match self.processes[i].lanes.receive(lane, inc, seq) {
            Receipt::New | Receipt::NewIncarnation => self.check_number(i, lane, inc, seq),
            Receipt::Duplicate => {
                self.processes[i].ack_at.get_or_insert(now.plus(ACK_DELAY));
                self.mark_seen(i, id, lane);
                return Ok(());
            }
            Receipt::OldIncarnation => {
                self.mark_seen(i, id, lane);
                return Ok(());
            }
            Receipt::Refused => return Ok(()),
        }
        self.processes[i].ack_at.get_or_insert(now.plus(ACK_DELAY));
        let mail = &self.mails[posted.mail];
        let message = match (&mail.payload, mail.instead.get(&i)) {
            (_, Some(instead)) => Some(Rc::clone(instead)),
            (Payload::Core(message), None) => Some(Rc::clone(message)),
            (Payload::Parts(parts), None) => {
                let me = self.processes[i].public();
                let mine = parts.iter().find(|(key, _)| *key == me);
                mine.map(|(_, message)| Rc::clone(message))
            }
            (Payload::Channel, None) => {
                if !self.processes[i].disk.channel {
                    self.processes[i].disk.channel = true;
                    self.backfill(i);
                }
                None
            }
            (Payload::Ack, None) => None,
        };
        if let Some(message) = message {
            self.processes[i].arrived = Some((id, lane));
            let knew = self.processes[i].core.knows_set();
            if i > 0 {
                self.processes[i].heard.push(Rc::clone(&message));
            }
            let message = (*message).clone();
            let input = if i == 0 {
                let from = author;
                Input::Aggregator(AggregatorInput::Message { from, message })
            } else {
                let from = author;
                Input::Member(ParticipantInput::Message { from, message })
            };
            self.feed(i, input)?;
            if !knew && self.processes[i].core.knows_set() {
                self.look_soon(i);
            }
            if self.processes[i].arrived.take().is_none() {
                return Ok(());
            }
        }
        self.mark_seen(i, id, lane);
        Ok(())
    }

    fn note_acks(&mut self, i: usize, mail: usize) {
        let channel = self.channel_known_to(i);
        let mail = &self.mails[mail];
        let (from, acks) = (mail.author, mail.acks.clone());
        let own = self.processes[i].public();
        for ack in acks {
            let lanes = &self.processes[i].lanes;
            if let Some(lane) = lanes.acked_lane(own, from, channel, self.cohort, &ack) {
                let by = from;
                self.outbox(i, OutboxInput::Acked { by, lane, ack });
            }
        }
    }

    fn mark_seen(&mut self, i: usize, id: EventId, lane: LaneId) {
        let process = &mut self.processes[i];
        process.disk.seen.insert(id);
        process.write_lane(lane);
        self.handled(i);
    }

    /// A number of a lane is handled once, unless the process died before that was stored.
    fn check_number(&mut self, i: usize, lane: LaneId, inc: Incarnation, seq: u64) {
        if self.processes[i].handled.contains(&(lane, inc, seq)) {
            self.fail(format!(
                "delivery: process {i} handles number {seq} of a lane again"
            ));
        }
        self.processes[i].handling = Some((lane, inc, seq));
    }

    /// That it was handled is stored.
    pub fn handled(&mut self, i: usize) {
        let process = &mut self.processes[i];
        process.handled.extend(process.handling.take());
    }
}

/// The event of a message: its id depends on everything that a real one depends on. Nobody looks at the signature, and
/// making one would be most of the work of a run.
fn event(author: NostrKey, created_at: UnixTime, mail: usize) -> VerifiedEvent {
    let expires = created_at.plus(EXPIRY).0.to_string();
    let draft = EventDraft {
        created_at,
        kind: KIND_DIRECTED,
        tags: vec![vec!["expiration".to_owned(), expires]],
        content: mail.to_string(),
    };
    draft
        .sign_unchecked(author, |_| SchnorrSignature::from_bytes([0; 64]))
        .expect("a small event")
}

/// The number of the message that an event carries.
fn number(event: &VerifiedEvent) -> usize {
    event.content.parse().expect("a number")
}

/// The event of an acknowledgement, which no outbox holds.
fn ack_id(mail: usize) -> EventId {
    let mut id = [0xac; 32];
    id[24..].copy_from_slice(&(mail as u64).to_be_bytes());
    EventId::from_bytes(id)
}

/// The type of a message.
fn kind_of(payload: &Payload) -> &'static str {
    match payload {
        Payload::Core(message) => message.type_name(),
        Payload::Parts(_) => "parts",
        Payload::Channel => "channel_key",
        Payload::Ack => "ack",
    }
}

/// About how large the event of a message is.
fn size_of(payload: &Payload) -> usize {
    let size = |message: &Message| message.body().map_or(0, |body| body.get().len());
    let plain = match payload {
        Payload::Core(message) => size(message),
        Payload::Parts(parts) => {
            let sizes = parts.iter().map(|(_, part)| size(part) * 4 / 3 + 140);
            sizes.sum()
        }
        Payload::Channel => 90,
        Payload::Ack => 2,
    };
    500 + (plain + 200) * 4 / 3
}
