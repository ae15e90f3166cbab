//! What is sent again when, to which relay (DESIGN §4, "Delivery").
//!
//! Pure: time, the relays' answers and jitter come in, what to do goes out. A row is stored before the
//! first send, in the transaction of the state change that caused it.
//!
//! - A row is *published* when two relays have its event, or the only one it can go to.
//! - It is *done* when all who should acknowledge it have, or, when nobody should, when it is published
//!   and every relay has answered or was asked in vain for an hour. An acknowledgement is proof of delivery, so relays that still miss the event are then left alone.
//! - A relay that has a budget, or said that it was sent too much, is sent to at that pace, the oldest
//!   message first. What it says it does not take (NIP-11: size, work) is not offered to it.
//! - Until then a relay that was silent or refused for a passing reason gets the same bytes again, later
//!   and later; one that comes back gets them at once.
//! - Published and not acknowledged after [`RESIGN_AFTER`], or close to expiring, the row has to be signed
//!   again with a fresh `created_at` and the same number: relays do not repeat an event they have.

mod exchange;
mod pace;
mod refusal;
mod row;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::exchange::{OutboxEffect, OutboxInput, PublishOutcome, RowEnd};
pub use self::pace::Budget;
use self::pace::Pace;
pub use self::refusal::{Refusal, Verdict, classify};
pub use self::row::{Delivery, DeliveryReport, DeliveryState, NewRow, Row};
use super::chunks::as_pairs;
use super::event::{EventId, VerifiedEvent};
use super::information::RelayLimits;
use super::lanes::LaneId;
use super::policy::RelayUrl;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// Unacknowledged for so long, a message is signed again; the second time after twice as long, and so on
/// up to [`RESIGN_MAX`]. Seconds.
pub const RESIGN_AFTER: u64 = 30 * 60;

/// The longest wait before a message is signed again, in seconds.
pub const RESIGN_MAX: u64 = 12 * 3_600;

/// A message is signed again so long before it expires, in seconds, or a tenth of its life if that is less.
const EXPIRY_MARGIN: u64 = 24 * 3_600;

/// Asked again if the signing was not reported, in seconds.
const RESIGN_REMINDER: u64 = 5 * 60;

/// No answer for so long, in seconds, counts as silence even if nobody says so. More than a link waits.
const ANSWER_TIMEOUT: u64 = 30;

/// First and longest wait after silence or a passing refusal, in seconds.
const RETRY: (u64, u64) = (5, 10 * 60);

/// First and longest wait after `rate-limited`, in seconds. Relays count by the minute or the hour.
const RATE_RETRY: (u64, u64) = (30, 3_600);

/// How long a rate limit makes us careful, in seconds.
const CAREFUL: u64 = 10 * 60;

/// How long a relay that blocks an author is left alone, in seconds.
const BARRED: u64 = 24 * 3_600;

/// How often an event that nobody acknowledges is offered to a relay that does not answer, over about an
/// hour. What is missing somewhere later is found by reading back.
const OFFERS: u32 = 12;

/// The most proof of work done for a relay, in bits: about a second of one core.
pub const MAX_POW: u8 = 20;

/// All messages on their way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbox {
    #[serde(with = "as_pairs")]
    rows: BTreeMap<EventId, Row>,
    pace: BTreeMap<RelayUrl, Pace>,
    limits: BTreeMap<RelayUrl, RelayLimits>,
    /// Authors a relay blocks, by kind, until when.
    #[serde(with = "as_pairs")]
    barred: BTreeMap<(RelayUrl, NostrKey, u16), UnixTime>,
}

impl Outbox {
    /// Takes a row from the store, at the start.
    pub fn restore(&mut self, row: Row) {
        self.rows.insert(row.event.id, row);
    }

    /// Handles one input.
    pub fn handle(&mut self, now: UnixTime, input: OutboxInput) -> Vec<OutboxEffect> {
        let mut effects = Vec::new();
        match input {
            OutboxInput::Queued(row) => self.queue(now, *row, &mut effects),
            OutboxInput::Answer {
                event,
                relay,
                outcome,
                jitter,
            } => self.answer(now, event, &relay, &outcome, jitter, &mut effects),
            OutboxInput::Acked { by, lane, ack } => self.acknowledge(&lane, &mut effects, |row| {
                ack.covers(row.inc, row.seq) && row.awaiting.remove(&by)
            }),
            OutboxInput::Settled { lane, seq } => self.acknowledge(&lane, &mut effects, |row| {
                let settled = row.seq == seq && !row.awaiting.is_empty();
                if settled {
                    row.awaiting.clear();
                }
                settled
            }),
            OutboxInput::RelayUp(relay) => self.relay_up(now, &relay),
            OutboxInput::RelayAdded(relay, cohort) => {
                self.relay_added(now, &relay, cohort, &mut effects);
            }
            OutboxInput::Budget(relay, budget) => {
                self.pace.entry(relay).or_default().set_budget(budget);
            }
            OutboxInput::Limits(relay, limits) => {
                self.limits.insert(relay, limits);
            }
            OutboxInput::Charged(relay) => {
                if let Some(pace) = self.pace.get_mut(&relay) {
                    pace.charge(now);
                }
            }
            OutboxInput::RelayRemoved(relay) => self.relay_removed(&relay, &mut effects),
            OutboxInput::Resigned { former, event } => {
                self.resigned(now, former, *event, &mut effects);
            }
            OutboxInput::Dropped(cohort) => {
                let ids = self.select(|row| row.lane.is_some_and(|lane| lane.cohort == cohort));
                for id in ids {
                    self.close(id, RowEnd::Dropped, &mut effects);
                }
            }
            OutboxInput::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    /// What to send now, the oldest first. Each is taken for sent until an answer comes, or none does for
    /// half a minute.
    pub fn due(&mut self, now: UnixTime) -> Vec<(EventId, RelayUrl)> {
        let mut order: Vec<(UnixTime, u64, EventId)> = self
            .rows
            .values()
            .map(|row| (row.queued, row.seq, row.event.id))
            .collect();
        order.sort_unstable();
        let mut due = Vec::new();
        let mut sent: BTreeMap<RelayUrl, usize> = BTreeMap::new();
        for (_, _, id) in order {
            let Some(row) = self.rows.get_mut(&id) else {
                continue;
            };
            for (url, delivery) in &mut row.relays {
                if delivery.next_try.is_none_or(|at| at > now) {
                    continue;
                }
                if let Some(pace) = self.pace.get_mut(url) {
                    if !pace.allows(now, sent.get(url).copied().unwrap_or(0)) {
                        continue;
                    }
                    pace.charge(now);
                }
                *sent.entry(url.clone()).or_default() += 1;
                delivery.attempts = delivery.attempts.saturating_add(1);
                delivery.next_try = Some(now.plus(ANSWER_TIMEOUT));
                due.push((id, url.clone()));
            }
        }
        for (url, count) in sent {
            if let Some(pace) = self.pace.get_mut(&url) {
                pace.rest(now, count);
            }
        }
        due
    }

    /// When [`Self::due`] or [`OutboxInput::Tick`] has something to do next; `None`: not by itself.
    #[must_use]
    pub fn next_deadline(&self) -> Option<UnixTime> {
        let tries = self.rows.values().flat_map(|row| {
            row.relays.iter().filter_map(|(url, delivery)| {
                let paused = self.pace.get(url).map(Pace::free_at);
                delivery
                    .next_try
                    .map(|at| at.max(paused.unwrap_or_default()))
            })
        });
        let signing = self
            .rows
            .values()
            .flat_map(|row| row.resign_at.into_iter().chain([row.expires]));
        tries.chain(signing).min()
    }

    /// A row by its present event.
    #[must_use]
    pub fn row(&self, event: &EventId) -> Option<&Row> {
        self.rows.get(event)
    }

    /// All rows, in no particular order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    fn queue(&mut self, now: UnixTime, new: NewRow, effects: &mut Vec<OutboxEffect>) {
        let id = new.event.id;
        if self.rows.contains_key(&id) {
            return;
        }
        let expires = new.event.expiration().unwrap_or(UnixTime(u64::MAX));
        let relays = new.relays.into_iter().map(|url| {
            let delivery = self.fresh_delivery(now, &url, &new.event);
            (url, delivery)
        });
        let relays: BTreeMap<_, _> = relays.collect();
        let mut row = Row {
            event: new.event,
            lane: new.lane,
            inc: new.inc,
            seq: new.seq,
            kind: new.kind,
            about: new.about,
            queued: now,
            signed: now,
            expires,
            wants_ack: !new.awaiting.is_empty(),
            awaiting: new.awaiting,
            relays,
            published: false,
            resigned: 0,
            resign_at: None,
        };
        row.plan_resigning();
        self.rows.insert(id, row);
        effects.push(OutboxEffect::Store(id));
        self.settle(id, effects);
    }

    /// Pending, unless the relay is known not to take this event.
    fn fresh_delivery(&self, now: UnixTime, url: &RelayUrl, event: &VerifiedEvent) -> Delivery {
        let refused = |refusal, words: Option<String>| Delivery {
            state: DeliveryState::Refused(refusal),
            attempts: 0,
            next_try: None,
            words,
        };
        let barred = self.barred.get(&(url.clone(), event.author, event.kind));
        if barred.is_some_and(|until| *until > now) {
            return refused(Refusal::Blocked, None);
        }
        if let Some(limits) = self.limits.get(url) {
            let bytes = event.to_json().len();
            if !limits.takes_bytes(bytes) {
                let most = limits.message_bytes.unwrap_or_default();
                let words = format!("it says it takes {most} bytes, this event has {bytes}");
                return refused(Refusal::TooLarge, Some(words));
            }
            // Less is done when it asks: what it says of itself may be old.
            if limits.pow > MAX_POW {
                let words = format!("it says it wants {} bits of work", limits.pow);
                return refused(Refusal::ProofOfWork(limits.pow), Some(words));
            }
        }
        Delivery {
            state: DeliveryState::Pending,
            attempts: 0,
            next_try: Some(now),
            words: None,
        }
    }

    fn answer(
        &mut self,
        now: UnixTime,
        id: EventId,
        relay: &RelayUrl,
        outcome: &PublishOutcome,
        jitter: u32,
        effects: &mut Vec<OutboxEffect>,
    ) {
        let Some(row) = self.rows.get_mut(&id) else {
            return;
        };
        let (author, kind) = (row.event.author, row.event.kind);
        let wants_ack = row.wants_ack;
        let Some(delivery) = row.relays.get_mut(relay) else {
            return;
        };
        if delivery.state == DeliveryState::Ok {
            return;
        }
        let retry = |bounds: (u64, u64), attempts: u32| {
            Some(now.plus(spread(backoff(bounds, attempts), jitter)))
        };
        let refusal = match outcome {
            PublishOutcome::Accepted => None,
            PublishOutcome::Silent => {
                delivery.state = DeliveryState::Silent;
                delivery.next_try = retry(RETRY, delivery.attempts);
                effects.push(OutboxEffect::Store(id));
                if !wants_ack && delivery.attempts >= OFFERS {
                    self.settle(id, effects);
                }
                return;
            }
            PublishOutcome::Refused(words) => match classify(words) {
                Verdict::Has => None,
                Verdict::Refuses(refusal) => {
                    // Bounded: a relay chooses these words.
                    delivery.words = Some(words.chars().take(200).collect());
                    Some(refusal)
                }
            },
        };
        let Some(refusal) = refusal else {
            delivery.state = DeliveryState::Ok;
            delivery.next_try = None;
            delivery.words = None;
            effects.push(OutboxEffect::Store(id));
            return self.settle(id, effects);
        };
        delivery.state = DeliveryState::Refused(refusal);
        let words = delivery.words.clone().unwrap_or_default();
        let mut alarm = false;
        match refusal {
            Refusal::RateLimited => {
                let pace = self.pace.entry(relay.clone()).or_default();
                delivery.next_try = Some(pace.strike(now, jitter));
            }
            Refusal::AuthRequired | Refusal::Other => {
                delivery.next_try = retry(RETRY, delivery.attempts);
            }
            Refusal::Clock => {
                delivery.next_try = retry(RETRY, delivery.attempts);
                alarm = delivery.attempts <= 1;
            }
            Refusal::ProofOfWork(bits) if (1..=MAX_POW).contains(&bits) => {
                delivery.next_try = None;
                effects.push(OutboxEffect::Resign {
                    event: id,
                    pow: Some(bits),
                });
            }
            Refusal::Expired => {
                delivery.next_try = None;
                effects.push(OutboxEffect::Resign {
                    event: id,
                    pow: None,
                });
            }
            Refusal::ProofOfWork(_) | Refusal::Invalid => {
                delivery.next_try = None;
                alarm = true;
            }
            Refusal::TooLarge => delivery.next_try = None,
            Refusal::Blocked => {
                delivery.next_try = None;
                self.barred
                    .insert((relay.clone(), author, kind), now.plus(BARRED));
            }
        }
        effects.push(OutboxEffect::Store(id));
        if alarm {
            effects.push(OutboxEffect::Alarm {
                event: id,
                relay: relay.clone(),
                refusal,
                words,
            });
        }
        self.settle(id, effects);
    }

    fn acknowledge(
        &mut self,
        lane: &LaneId,
        effects: &mut Vec<OutboxEffect>,
        mut take: impl FnMut(&mut Row) -> bool,
    ) {
        let ids = self.select(|row| row.lane.as_ref() == Some(lane));
        for id in ids {
            if self.rows.get_mut(&id).is_some_and(&mut take) {
                effects.push(OutboxEffect::Store(id));
                self.settle(id, effects);
            }
        }
    }

    fn relay_up(&mut self, now: UnixTime, relay: &RelayUrl) {
        for row in self.rows.values_mut() {
            if let Some(delivery) = row.relays.get_mut(relay)
                && matches!(
                    delivery.state,
                    DeliveryState::Silent | DeliveryState::Refused(Refusal::AuthRequired)
                )
            {
                delivery.next_try = Some(now);
            }
        }
    }

    fn relay_added(
        &mut self,
        now: UnixTime,
        relay: &RelayUrl,
        cohort: Option<CohortId>,
        effects: &mut Vec<OutboxEffect>,
    ) {
        let concerned = |row: &Row| match cohort {
            Some(cohort) => row.lane.is_some_and(|lane| lane.cohort == cohort),
            None => true,
        };
        for id in self.select(|row| concerned(row) && !row.relays.contains_key(relay)) {
            let Some(event) = self.rows.get(&id).map(|row| row.event.clone()) else {
                continue;
            };
            let delivery = self.fresh_delivery(now, relay, &event);
            if let Some(row) = self.rows.get_mut(&id) {
                row.relays.insert(relay.clone(), delivery);
                effects.push(OutboxEffect::Store(id));
            }
        }
    }

    fn relay_removed(&mut self, relay: &RelayUrl, effects: &mut Vec<OutboxEffect>) {
        for id in self.select(|row| row.relays.contains_key(relay)) {
            if let Some(row) = self.rows.get_mut(&id) {
                row.relays.remove(relay);
                effects.push(OutboxEffect::Store(id));
                self.settle(id, effects);
            }
        }
        self.pace.remove(relay);
        self.limits.remove(relay);
    }

    fn resigned(
        &mut self,
        now: UnixTime,
        former: EventId,
        event: VerifiedEvent,
        effects: &mut Vec<OutboxEffect>,
    ) {
        let Some(mut row) = self.rows.remove(&former) else {
            return;
        };
        let id = event.id;
        row.signed = now;
        row.expires = event.expiration().unwrap_or(UnixTime(u64::MAX));
        row.event = event;
        row.published = false;
        row.resigned = row.resigned.saturating_add(1);
        let urls: Vec<RelayUrl> = row.relays.keys().cloned().collect();
        row.relays = urls
            .into_iter()
            .map(|url| {
                let delivery = self.fresh_delivery(now, &url, &row.event);
                (url, delivery)
            })
            .collect();
        row.plan_resigning();
        self.rows.insert(id, row);
        effects.push(OutboxEffect::Store(id));
        self.settle(id, effects);
    }

    fn tick(&mut self, now: UnixTime, effects: &mut Vec<OutboxEffect>) {
        for id in self.select(|row| row.expires <= now) {
            self.close(id, RowEnd::Expired, effects);
        }
        for id in self.select(|row| row.resign_at.is_some_and(|at| at <= now)) {
            let Some(row) = self.rows.get_mut(&id) else {
                continue;
            };
            row.resign_at = Some(now.plus(RESIGN_REMINDER));
            // What no relay took yet is sent as it is, unless it is about to expire, or a relay refused it for good:
            // what it does not take today (nobody paid, it knows no such kind) it may take tomorrow.
            let somewhere = row.relays.values().any(|d| d.state == DeliveryState::Ok);
            let refused = row.relays.values().any(|d| d.next_try.is_none());
            if somewhere || refused || row.expires_soon(now) {
                effects.push(OutboxEffect::Resign {
                    event: id,
                    pow: None,
                });
            }
        }
        self.barred.retain(|_, until| *until > now);
        self.pace.retain(|_, pace| !pace.is_idle(now));
    }

    /// Recomputes whether a row is published, and closes it when it is done.
    fn settle(&mut self, id: EventId, effects: &mut Vec<OutboxEffect>) {
        let Some(row) = self.rows.get_mut(&id) else {
            return;
        };
        let have = row
            .relays
            .values()
            .filter(|d| d.state == DeliveryState::Ok)
            .count();
        let possible = row
            .relays
            .values()
            .filter(|d| d.state == DeliveryState::Ok || d.next_try.is_some())
            .count();
        row.published = row.published || have >= possible.clamp(1, 2);
        let acknowledged = row.awaiting.is_empty();
        // Where nobody acknowledges, one relay's OK is no proof that another one's readers see it.
        let offered = |d: &Delivery| d.next_try.is_none() || d.attempts >= OFFERS;
        let everywhere = row.published && row.relays.values().all(offered);
        if acknowledged && (row.wants_ack || everywhere) {
            self.close(id, RowEnd::Done, effects);
        } else if possible == 0 {
            let signing = effects
                .iter()
                .any(|effect| matches!(effect, OutboxEffect::Resign { event, .. } if *event == id));
            if !signing {
                effects.push(OutboxEffect::Undeliverable(id));
            }
        }
    }

    fn close(&mut self, id: EventId, end: RowEnd, effects: &mut Vec<OutboxEffect>) {
        if let Some(row) = self.rows.remove(&id) {
            effects.retain(|effect| *effect != OutboxEffect::Store(id));
            effects.push(OutboxEffect::Closed {
                row: Box::new(row),
                end,
            });
        }
    }

    fn select(&self, wanted: impl Fn(&Row) -> bool) -> Vec<EventId> {
        let rows = self.rows.iter().filter(|(_, row)| wanted(row));
        rows.map(|(id, _)| *id).collect()
    }
}

/// The first wait, doubled for every attempt after the first, up to the longest. Seconds.
fn backoff((first, longest): (u64, u64), attempts: u32) -> u64 {
    let doublings = attempts.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(longest)
}

/// Three quarters to five quarters of `wait`, by a random number from 0 to 999.
const fn spread(wait: u64, jitter: u32) -> u64 {
    let jitter = if jitter < 1_000 { jitter as u64 } else { 999 };
    let spread = wait * (750 + jitter / 2) / 1_000;
    if spread == 0 { 1 } else { spread }
}
