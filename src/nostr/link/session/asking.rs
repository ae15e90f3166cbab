//! Subscriptions, which are kept open whatever the relay says, and readings of stored events.

use std::borrow::Cow;

use nostr_sdk::prelude::{ClientMessage, JsonUtil as _};
use tokio::time::Instant;

use super::super::LinkEvent;
use super::super::gate::Tally;
use super::super::reading::{Reading, Step};
use super::{MAX_READINGS, READING, SEND_AGAIN, SUSPECT_PAGE, Session, wants_auth};
use crate::nostr::event::VerifiedEvent;
use crate::nostr::filter::Filter;
use crate::time::UnixTime;

pub(super) struct Subscription {
    pub(super) filters: Vec<Filter>,
    /// The name of the current REQ on the wire.
    pub(super) wire: String,
    pub(super) phase: Phase,
    pub(super) failures: u32,
    pub(super) stored: usize,
    pub(super) oldest: Option<UnixTime>,
}

#[derive(Clone, Copy)]
pub(super) enum Phase {
    /// No connection.
    Idle,
    /// REQ sent; EOSE has to come until then.
    Asked(Instant),
    Live,
    /// Closed by the relay, or the answer never ended: ask again then.
    Retry(Instant),
}

impl Session {
    pub(super) fn event(&mut self, wire: &str, event: &nostr::Event) {
        let Ok(event) = self.gate.check(event) else {
            return self.tally.note_forged();
        };
        if let Some(reading) = self.readings.get_mut(wire) {
            match reading.take(event) {
                Ok(Some((name, event))) => self.hand_on(&name, event),
                Ok(None) => {}
                Err(()) => Tally::add(&self.tally.ignored),
            }
            return;
        }
        // An earlier REQ of the same subscription may still be delivering.
        let name = wire.split(':').next().unwrap_or_default();
        let Some(subscription) = self.subscriptions.get_mut(name) else {
            return Tally::add(&self.tally.ignored);
        };
        if !subscription.filters.iter().any(|f| f.matches(&event)) {
            return Tally::add(&self.tally.ignored);
        }
        // Also after the deadline for the end of stored events: it may still come.
        if subscription.wire == wire && !matches!(subscription.phase, Phase::Live) {
            subscription.stored += 1;
            subscription.oldest = subscription
                .oldest
                .map_or(Some(event.created_at), |o| Some(o.min(event.created_at)));
        }
        let name = name.to_owned();
        self.hand_on(&name, event);
    }

    fn hand_on(&mut self, subscription: &str, event: VerifiedEvent) {
        if self.gate.first_seen(subscription, &event) {
            self.report(LinkEvent::Event {
                relay: self.config.url.clone(),
                event,
            });
        }
    }

    pub(super) fn end_of_stored(&mut self, wire: &str) {
        self.attempts = 0;
        if let Some(mut reading) = self.readings.remove(wire) {
            let _ = self.close_wire(wire);
            match reading.end_of_page() {
                Step::NextPage => self.start_reading(reading),
                Step::Done(fault) => reading.finish(fault),
            }
            return;
        }
        let Some((name, subscription)) = self.current(wire) else {
            return;
        };
        subscription.phase = Phase::Live;
        subscription.failures = 0;
        let pages = (subscription.stored >= SUSPECT_PAGE)
            .then(|| (subscription.filters.clone(), subscription.oldest));
        self.report(LinkEvent::Eose {
            relay: self.config.url.clone(),
            subscription: name.clone(),
        });
        if let Some((filters, Some(oldest))) = pages {
            let until = Instant::now() + self.timings.eose;
            for filter in filters {
                let page = filter.until(oldest);
                self.start_reading(Reading::deliver(name.clone(), page, until));
            }
        }
    }

    pub(super) fn closed(&mut self, wire: &str, reason: &str) {
        if let Some(mut reading) = self.readings.remove(wire) {
            let waits = self.authenticates && wants_auth(reason) && reading.await_auth();
            if waits || reading.try_later(|failures| Instant::now() + self.backoff(failures)) {
                self.readings.insert(wire.to_owned(), reading);
            } else {
                reading.fail(reason);
            }
            return;
        }
        let failures = match self.current(wire) {
            Some((_, subscription)) => subscription.failures,
            None => return,
        };
        let retry_at = Instant::now() + self.backoff(failures);
        if let Some((name, subscription)) = self.current(wire) {
            subscription.phase = Phase::Retry(retry_at);
            subscription.failures += 1;
            self.report(LinkEvent::Closed {
                relay: self.config.url.clone(),
                subscription: name,
                reason: reason.to_owned(),
            });
        }
    }

    pub(super) fn subscribe(&mut self, name: String, filters: Vec<Filter>) {
        if !self.config.read {
            return;
        }
        let former = self.subscriptions.remove(&name);
        if !filters.is_empty() {
            let subscription = Subscription {
                filters,
                wire: String::new(),
                phase: Phase::Idle,
                failures: 0,
                stored: 0,
                oldest: None,
            };
            self.subscriptions.insert(name.clone(), subscription);
            self.ask(&name);
        }
        // Closed after the new one is open, so that nothing falls in between.
        if let Some(former) = former {
            self.close_wire(&former.wire);
        }
    }

    pub(super) fn ask_all(&mut self) {
        let names: Vec<String> = self.subscriptions.keys().cloned().collect();
        for name in names {
            self.ask(&name);
        }
        for (_, reading) in std::mem::take(&mut self.readings) {
            self.start_reading(reading);
        }
    }

    /// Sends a subscription's REQ, under a new name, and closes the one before.
    pub(super) fn ask(&mut self, name: &str) {
        if !self.is_up() {
            return;
        }
        self.requests += 1;
        let wire = format!("{name}:{}", self.requests);
        let Some(subscription) = self.subscriptions.get(name) else {
            return;
        };
        let sent = self.request(&wire, &subscription.filters);
        let now = Instant::now();
        let phase = if sent {
            Phase::Asked(now + self.timings.eose)
        } else {
            Phase::Retry(now + SEND_AGAIN)
        };
        let Some(subscription) = self.subscriptions.get_mut(name) else {
            return;
        };
        subscription.phase = phase;
        subscription.stored = 0;
        subscription.oldest = None;
        let former = std::mem::replace(&mut subscription.wire, wire);
        self.close_wire(&former);
    }

    fn request(&self, wire: &str, filters: &[Filter]) -> bool {
        let converted: Option<Vec<Cow<'_, nostr::Filter>>> = filters
            .iter()
            .map(|filter| {
                let json = serde_json::to_string(filter).ok()?;
                nostr::Filter::from_json(json).ok().map(Cow::Owned)
            })
            .collect();
        converted.is_some_and(|filters| {
            self.send(ClientMessage::Req {
                subscription_id: Cow::Owned(nostr::SubscriptionId::new(wire)),
                filters,
            })
        })
    }

    fn close_wire(&self, wire: &str) -> bool {
        !wire.is_empty() && self.send(ClientMessage::close(nostr::SubscriptionId::new(wire)))
    }

    /// The subscription whose latest REQ has this name.
    fn current(&mut self, wire: &str) -> Option<(String, &mut Subscription)> {
        let found = self.subscriptions.iter_mut().find(|(_, s)| s.wire == wire);
        found.map(|(name, subscription)| (name.clone(), subscription))
    }

    pub(super) fn reconcile(&mut self) {
        self.reconcile_at = Instant::now() + self.timings.reconcile;
        self.read_again(UnixTime(0));
    }

    /// Reads the stored events of every subscription, as far back as `since` at most.
    pub(super) fn read_again(&mut self, since: UnixTime) {
        if !self.is_up() || self.readings.len() >= MAX_READINGS {
            return;
        }
        let until = Instant::now() + self.timings.eose;
        let filters: Vec<(String, Filter)> = self
            .subscriptions
            .iter()
            .flat_map(|(name, subscription)| {
                let filters = subscription.filters.iter();
                filters.map(|filter| (name.clone(), filter.clone()))
            })
            .collect();
        for (name, mut filter) in filters {
            filter.since = filter.since.max((since > UnixTime(0)).then_some(since));
            self.start_reading(Reading::deliver(name, filter, until));
        }
    }

    /// Asks for a reading's next page; without a connection it waits for one until its deadline.
    pub(super) fn start_reading(&mut self, mut reading: Reading) {
        if !self.config.read {
            return reading.fail("not read from");
        }
        self.requests += 1;
        let wire = format!("{READING}:{}", self.requests);
        if self.is_up() {
            reading.page_asked(Instant::now() + self.timings.eose);
            let sent = self.request(&wire, std::slice::from_ref(reading.page()));
            if !sent && !reading.try_later(|_| Instant::now() + SEND_AGAIN) {
                return reading.fail("the sending queue is full");
            }
        }
        self.readings.insert(wire, reading);
    }

    pub(super) fn overdue(&mut self, name: &str, now: Instant) {
        let Some(subscription) = self.subscriptions.get(name) else {
            return;
        };
        match subscription.phase {
            Phase::Retry(_) => self.ask(name),
            // No end of stored events. Events may come all the same, so the REQ stays open until the
            // next one takes its place.
            Phase::Asked(_) => {
                let at = now + self.backoff(subscription.failures);
                if let Some(subscription) = self.subscriptions.get_mut(name) {
                    subscription.failures += 1;
                    subscription.phase = Phase::Retry(at);
                }
            }
            Phase::Idle | Phase::Live => {}
        }
    }

    pub(super) fn overdue_reading(&mut self, wire: &str, now: Instant) {
        let Some(mut reading) = self.readings.remove(wire) else {
            return;
        };
        self.close_wire(wire);
        if reading.is_later() {
            self.start_reading(reading);
        } else if reading.try_later(|failures| now + self.backoff(failures)) {
            self.readings.insert(wire.to_owned(), reading);
        } else {
            reading.fail("no end of stored events in time");
        }
    }
}
