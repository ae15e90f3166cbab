//! The task of one relay: its connection, subscriptions, publications and readings of stored events.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nostr_relay_pool::{RelayNotification, RelayOptions, RelayStatus};
use nostr_sdk::prelude::{Client, ClientMessage, JsonUtil as _, Relay, RelayMessage};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::gate::{Gate, Tally};
use super::reading::{Reading, Step};
use super::{LinkEvent, PublishOutcome, RelayConfig, Timings};
use crate::nostr::event::{EventId, VerifiedEvent};
use crate::nostr::filter::Filter;
use crate::time::UnixTime;

/// Reports waiting for the program. Beyond this the library's queue, and so the socket, is not read.
const MAX_BACKLOG: usize = 1_024;

/// Messages the library keeps for us. [`super::gate::Flow`] keeps it from overflowing; should it all the
/// same, the subscriptions are asked again.
pub(super) const LIBRARY_QUEUE: usize = 256;

/// Events waiting for this relay's answer. Beyond this a publication fails at once; the outbox repeats.
const MAX_PUBLISHES: usize = 4_096;

/// So many stored events on a live subscription that the relay may have cut them off at its limit.
pub(super) const SUSPECT_PAGE: usize = 50;

/// Readings under way at once, beyond which no further reconciliation starts.
const MAX_READINGS: usize = 64;

/// When the library's sending queue is full.
const SEND_AGAIN: Duration = Duration::from_millis(50);

const READING: &str = "r";

pub(super) enum Command {
    Publish(Arc<nostr::Event>),
    /// Without filters the subscription is closed.
    Subscribe(String, Vec<Filter>),
    Fetch(Filter, Duration, oneshot::Sender<FetchAnswer>),
    Reconcile,
}

/// The events, and why there may be more.
pub(super) type FetchAnswer = (Vec<VerifiedEvent>, Option<String>);

type Dialled = Result<(Relay, broadcast::Receiver<RelayNotification>), String>;

pub(super) struct Session {
    config: RelayConfig,
    timings: Timings,
    client: Client,
    gate: Arc<Gate>,
    tally: Arc<Tally>,
    authenticates: bool,
    commands: mpsc::UnboundedReceiver<Command>,
    out: mpsc::Sender<LinkEvent>,
    backlog: VecDeque<LinkEvent>,
    connection: Connection,
    /// Attempts since the relay last answered anything.
    attempts: u32,
    reported_forged: u64,
    subscriptions: BTreeMap<String, Subscription>,
    publishes: HashMap<EventId, Publish>,
    /// The publishes by deadline; an id may be gone from the map, or be there anew.
    deadlines: VecDeque<(Instant, EventId)>,
    unsent: VecDeque<EventId>,
    readings: BTreeMap<String, Reading>,
    reconcile_at: Instant,
    /// Counts REQs, so that each has a name of its own and a late answer to an earlier one is told apart.
    requests: u64,
}

enum Connection {
    Down {
        retry_at: Instant,
    },
    Dialling(JoinHandle<Dialled>),
    Up {
        relay: Relay,
        notes: broadcast::Receiver<RelayNotification>,
        authenticated: bool,
    },
}

struct Subscription {
    filters: Vec<Filter>,
    /// The name of the current REQ on the wire.
    wire: String,
    phase: Phase,
    failures: u32,
    stored: usize,
    oldest: Option<UnixTime>,
}

#[derive(Clone, Copy)]
enum Phase {
    /// No connection.
    Idle,
    /// REQ sent; EOSE has to come until then.
    Asked(Instant),
    Live,
    /// Closed by the relay, or the answer never ended: ask again then.
    Retry(Instant),
}

struct Publish {
    event: Arc<nostr::Event>,
    deadline: Instant,
    sent: bool,
    /// Refused for lack of authentication; sent once more after it.
    wants_auth: Option<String>,
    repeated: bool,
}

impl Session {
    pub fn new(
        config: RelayConfig,
        timings: Timings,
        client: Client,
        gate: Arc<Gate>,
        authenticates: bool,
        commands: mpsc::UnboundedReceiver<Command>,
        out: mpsc::Sender<LinkEvent>,
    ) -> Self {
        let now = Instant::now();
        Self {
            tally: gate.tally(&config.url),
            config,
            timings,
            client,
            gate,
            authenticates,
            commands,
            out,
            backlog: VecDeque::new(),
            connection: Connection::Down { retry_at: now },
            attempts: 0,
            reported_forged: 0,
            subscriptions: BTreeMap::new(),
            publishes: HashMap::new(),
            deadlines: VecDeque::new(),
            unsent: VecDeque::new(),
            readings: BTreeMap::new(),
            reconcile_at: now + timings.reconcile,
            requests: 0,
        }
    }

    /// Runs until the link is dropped or nobody reads its events.
    pub async fn run(mut self) {
        let out = self.out.clone();
        loop {
            let deadline = self.next_deadline();
            let reading = self.backlog.len() < MAX_BACKLOG;
            if let Connection::Up { notes, .. } = &self.connection
                && reading
            {
                self.tally.flow.correct(notes.len());
            }
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                permit = out.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.backlog.pop_front() {
                            permit.send(event);
                        }
                    }
                    Err(_) => break,
                },
                progress = self.connection.progress(reading) => match progress {
                    Progress::Dialled(Ok((relay, notes))) => self.up(relay, notes),
                    Progress::Dialled(Err(reason)) => self.down(reason),
                    Progress::Note(Ok(note)) => self.note(note),
                    Progress::Note(Err(RecvError::Lagged(_))) => self.ask_all(),
                    Progress::Note(Err(RecvError::Closed)) => self.down("closed".to_owned()),
                },
                // Corrected at the start of the next turn.
                () = self.tally.flow.wanted.notified() => {}
                () = self.tally.alarm.notified() => self.report_forged(),
                () = tokio::time::sleep_until(deadline) => self.tick(),
            }
        }
        if let Connection::Dialling(task) = &self.connection {
            task.abort();
        }
        self.tally.connected.store(false, Ordering::Relaxed);
        let _ = self
            .client
            .pool()
            .force_remove_relay(self.config.url.as_str())
            .await;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Publish(event) => self.publish(event),
            Command::Subscribe(name, filters) => self.subscribe(name, filters),
            Command::Fetch(filter, timeout, answer) => {
                let until = Instant::now() + timeout;
                self.start_reading(Reading::collect(filter, until, answer));
            }
            Command::Reconcile => self.reconcile(),
        }
    }

    // Connection

    fn dial(&mut self) {
        let pool = self.client.pool().clone();
        let url = self.config.url.clone();
        let timeout = self.timings.connect;
        let options = RelayOptions::new()
            .read(self.config.read)
            .write(self.config.write)
            // Connecting, pinging and keeping subscriptions are this task's business.
            .reconnect(false)
            .ping(false)
            .notification_channel_size(LIBRARY_QUEUE);
        // A fresh relay object each time: one that was told to disconnect at the wrong moment never
        // connects again.
        self.connection = Connection::Dialling(tokio::spawn(async move {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            let _ = pool.force_remove_relay(url.as_str()).await;
            pool.add_relay(url.as_str(), options)
                .await
                .map_err(|e| text(&e))?;
            let relay = pool.relay(url.as_str()).await.map_err(|e| text(&e))?;
            let notes = relay.notifications();
            relay.try_connect(timeout).await.map_err(|e| text(&e))?;
            Ok((relay, notes))
        }));
    }

    fn up(&mut self, relay: Relay, notes: broadcast::Receiver<RelayNotification>) {
        if relay.status() != RelayStatus::Connected {
            return self.down("closed at once".to_owned());
        }
        self.connection = Connection::Up {
            relay,
            notes,
            authenticated: false,
        };
        self.tally.connected.store(true, Ordering::Relaxed);
        self.report(LinkEvent::Connected {
            relay: self.config.url.clone(),
        });
        self.ask_all();
        self.unsent = self.deadlines.iter().map(|(_, id)| *id).collect();
        self.send_unsent();
    }

    fn down(&mut self, reason: String) {
        let was_up = self.tally.connected.swap(false, Ordering::Relaxed);
        if let Connection::Up { relay, .. } = &self.connection {
            relay.disconnect();
        }
        let retry_at = Instant::now() + self.backoff(self.attempts);
        self.connection = Connection::Down { retry_at };
        if was_up || self.attempts == 0 {
            self.report(LinkEvent::Disconnected {
                relay: self.config.url.clone(),
                reason: reason.clone(),
            });
        }
        self.attempts = self.attempts.saturating_add(1);
        for subscription in self.subscriptions.values_mut() {
            subscription.phase = Phase::Idle;
        }
        // What was sent may have arrived or not: the outbox sends it again.
        let sent = self.publishes.iter().filter(|(_, publish)| publish.sent);
        for id in sent.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.published(id, PublishOutcome::Silent);
        }
        for (_, reading) in std::mem::take(&mut self.readings) {
            reading.fail(&reason);
        }
    }

    /// Exponential, with jitter of a quarter either way, so that agents do not come back all at once.
    fn backoff(&self, attempts: u32) -> Duration {
        let doubled = self.timings.backoff * 2u32.saturating_pow(attempts.min(16));
        let capped = doubled.min(self.timings.backoff_max);
        capped.mul_f64(0.75 + rand::random::<f64>() / 2.0)
    }

    /// Hands a message to the library; `false` when there is no connection or its queue is full.
    fn send(&self, message: ClientMessage<'_>) -> bool {
        match &self.connection {
            Connection::Up { relay, .. } => relay.send_msg(message).is_ok(),
            _ => false,
        }
    }

    fn is_up(&self) -> bool {
        matches!(self.connection, Connection::Up { .. })
    }

    // What the relay says

    fn note(&mut self, note: RelayNotification) {
        match note {
            RelayNotification::Message { message } => self.message(message),
            RelayNotification::RelayStatus {
                status: RelayStatus::Disconnected | RelayStatus::Terminated | RelayStatus::Banned,
            } => self.down("the connection ended".to_owned()),
            RelayNotification::Shutdown => self.down("shut down".to_owned()),
            RelayNotification::Authenticated => self.authenticated(),
            RelayNotification::AuthenticationFailed => self.authentication_failed(),
            _ => {}
        }
    }

    fn message(&mut self, message: RelayMessage<'static>) {
        match message {
            RelayMessage::Event {
                subscription_id,
                event,
            } => self.event(subscription_id.as_str(), &event),
            RelayMessage::EndOfStoredEvents(id) => self.end_of_stored(id.as_str()),
            RelayMessage::Closed {
                subscription_id,
                message,
            } => self.closed(subscription_id.as_str(), &message),
            RelayMessage::Ok {
                event_id,
                status,
                message,
            } => self.answer(EventId::from_bytes(event_id.to_bytes()), status, &message),
            RelayMessage::Notice(text) => {
                tracing::debug!(relay = %self.config.url, notice = %text, "relay notice");
            }
            _ => {}
        }
    }

    fn event(&mut self, wire: &str, event: &nostr::Event) {
        let Ok(event) = self.gate.check(event) else {
            return self.tally.note_forged();
        };
        if let Some(reading) = self.readings.get_mut(wire) {
            match reading.take(event) {
                Ok(Some(event)) => self.hand_on(event),
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
        self.hand_on(event);
    }

    fn hand_on(&mut self, event: VerifiedEvent) {
        if self.gate.first_seen(&event) {
            self.report(LinkEvent::Event {
                relay: self.config.url.clone(),
                event,
            });
        }
    }

    fn end_of_stored(&mut self, wire: &str) {
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
            subscription: name,
        });
        if let Some((filters, Some(oldest))) = pages {
            let until = Instant::now() + self.timings.eose;
            for filter in filters {
                self.start_reading(Reading::deliver(filter.until(oldest), until));
            }
        }
    }

    fn closed(&mut self, wire: &str, reason: &str) {
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

    fn authenticated(&mut self) {
        if let Connection::Up { authenticated, .. } = &mut self.connection {
            *authenticated = true;
        }
        let closed: Vec<String> = self
            .subscriptions
            .iter()
            .filter(|(_, s)| matches!(s.phase, Phase::Retry(_)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in closed {
            self.ask(&name);
        }
        let waiting: Vec<String> = self
            .readings
            .iter()
            .filter(|(_, reading)| reading.awaits_auth())
            .map(|(wire, _)| wire.clone())
            .collect();
        for wire in waiting {
            if let Some(reading) = self.readings.remove(&wire) {
                self.start_reading(reading);
            }
        }
        for (id, publish) in &mut self.publishes {
            if publish.wants_auth.take().is_some() {
                publish.repeated = true;
                publish.sent = false;
                self.unsent.push_back(*id);
            }
        }
        self.send_unsent();
    }

    fn authentication_failed(&mut self) {
        let refused: Vec<(EventId, String)> = self
            .publishes
            .iter()
            .filter_map(|(id, publish)| Some((*id, publish.wants_auth.clone()?)))
            .collect();
        for (id, reason) in refused {
            self.published(id, PublishOutcome::Refused(reason));
        }
    }

    // Subscriptions

    fn subscribe(&mut self, name: String, filters: Vec<Filter>) {
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

    fn ask_all(&mut self) {
        let names: Vec<String> = self.subscriptions.keys().cloned().collect();
        for name in names {
            self.ask(&name);
        }
        for (_, reading) in std::mem::take(&mut self.readings) {
            self.start_reading(reading);
        }
    }

    /// Sends a subscription's REQ, under a new name, and closes the one before.
    fn ask(&mut self, name: &str) {
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

    // Stored events

    fn reconcile(&mut self) {
        self.reconcile_at = Instant::now() + self.timings.reconcile;
        if !self.is_up() || self.readings.len() >= MAX_READINGS {
            return;
        }
        let until = Instant::now() + self.timings.eose;
        let filters: Vec<Filter> = self
            .subscriptions
            .values()
            .flat_map(|subscription| subscription.filters.clone())
            .collect();
        for filter in filters {
            self.start_reading(Reading::deliver(filter, until));
        }
    }

    /// Asks for a reading's next page; without a connection it waits for one until its deadline.
    fn start_reading(&mut self, mut reading: Reading) {
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

    // Publications

    fn publish(&mut self, event: Arc<nostr::Event>) {
        let id = EventId::from_bytes(event.id.to_bytes());
        if self.publishes.contains_key(&id) {
            return;
        }
        let deadline = Instant::now() + self.timings.ok;
        let publish = Publish {
            event,
            deadline,
            sent: false,
            wants_auth: None,
            repeated: false,
        };
        let full = self.publishes.len() >= MAX_PUBLISHES;
        self.publishes.insert(id, publish);
        if full {
            return self.published(id, PublishOutcome::Silent);
        }
        self.deadlines.push_back((deadline, id));
        self.unsent.push_back(id);
        self.send_unsent();
    }

    fn send_unsent(&mut self) {
        if !self.is_up() {
            return;
        }
        while let Some(id) = self.unsent.pop_front() {
            let Some(publish) = self.publishes.get(&id).filter(|publish| !publish.sent) else {
                continue;
            };
            if !self.send(ClientMessage::Event(Cow::Borrowed(&publish.event))) {
                self.unsent.push_front(id);
                return;
            }
            if let Some(publish) = self.publishes.get_mut(&id) {
                publish.sent = true;
            }
        }
    }

    fn answer(&mut self, id: EventId, accepted: bool, text: &str) {
        self.attempts = 0;
        let authenticated = matches!(
            self.connection,
            Connection::Up {
                authenticated: true,
                ..
            }
        );
        let Some(publish) = self.publishes.get_mut(&id) else {
            return;
        };
        if accepted {
            return self.published(id, PublishOutcome::Accepted);
        }
        if self.authenticates && wants_auth(text) && !publish.repeated {
            if authenticated {
                publish.repeated = true;
                publish.sent = false;
                self.unsent.push_back(id);
                return self.send_unsent();
            }
            publish.wants_auth = Some(text.to_owned());
            return;
        }
        self.published(id, PublishOutcome::Refused(text.to_owned()));
    }

    fn published(&mut self, id: EventId, outcome: PublishOutcome) {
        if self.publishes.remove(&id).is_some() {
            self.report(LinkEvent::Published {
                event: id,
                relay: self.config.url.clone(),
                outcome,
            });
        }
    }

    // Time

    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let mut next = self.reconcile_at;
        match &self.connection {
            Connection::Down { retry_at } => next = next.min(*retry_at),
            Connection::Up { .. } if !self.unsent.is_empty() => next = next.min(now + SEND_AGAIN),
            _ => {}
        }
        for subscription in self.subscriptions.values() {
            if let Phase::Asked(at) | Phase::Retry(at) = subscription.phase {
                next = next.min(at);
            }
        }
        if let Some((at, _)) = self.deadlines.front() {
            next = next.min(*at);
        }
        for reading in self.readings.values() {
            next = next.min(reading.deadline());
        }
        next
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if let Connection::Down { retry_at } = self.connection
            && retry_at <= now
        {
            self.dial();
        }
        self.send_unsent();
        while let Some((at, id)) = self.deadlines.front().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_front();
            let Some(publish) = self.publishes.get(&id).filter(|p| p.deadline <= now) else {
                continue;
            };
            let refused = publish.wants_auth.clone();
            let outcome = refused.map_or(PublishOutcome::Silent, PublishOutcome::Refused);
            self.published(id, outcome);
        }
        let due: Vec<String> = self
            .subscriptions
            .iter()
            .filter(|(_, s)| matches!(s.phase, Phase::Asked(at) | Phase::Retry(at) if at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.overdue(&name, now);
        }
        let late: Vec<String> = self
            .readings
            .iter()
            .filter(|(_, reading)| reading.deadline() <= now)
            .map(|(wire, _)| wire.clone())
            .collect();
        for wire in late {
            self.overdue_reading(&wire, now);
        }
        if self.reconcile_at <= now {
            self.reconcile();
        }
    }

    fn overdue(&mut self, name: &str, now: Instant) {
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

    fn overdue_reading(&mut self, wire: &str, now: Instant) {
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

    fn report_forged(&mut self) {
        let forged = self.tally.forged.load(Ordering::Relaxed);
        let count = forged - self.reported_forged;
        self.reported_forged = forged;
        if count > 0 {
            self.report(LinkEvent::Forged {
                relay: self.config.url.clone(),
                count,
            });
        }
    }

    fn report(&mut self, event: LinkEvent) {
        self.backlog.push_back(event);
    }
}

enum Progress {
    Dialled(Dialled),
    Note(Result<RelayNotification, RecvError>),
}

impl Connection {
    /// Waits for what the connection does next. Can be dropped at any time without loss.
    async fn progress(&mut self, reading: bool) -> Progress {
        match self {
            Self::Dialling(task) => {
                Progress::Dialled(task.await.unwrap_or_else(|e| Err(e.to_string())))
            }
            Self::Up { notes, .. } if reading => Progress::Note(notes.recv().await),
            _ => std::future::pending().await,
        }
    }
}

/// strfry writes `ERROR: auth-required: …` where NIP-42 says `auth-required: …`.
fn wants_auth(reason: &str) -> bool {
    reason.to_ascii_lowercase().contains("auth-required")
}
