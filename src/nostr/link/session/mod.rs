//! The task of one relay: its connection, and what goes over it.

mod asking;
mod publishing;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nostr_relay_pool::{RelayNotification, RelayOptions, RelayStatus};
use nostr_sdk::prelude::{Client, ClientMessage, Relay, RelayMessage};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::asking::{Phase, Subscription};
use self::publishing::Publish;
use super::gate::{Gate, Tally};
use super::reading::Reading;
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
    LookBack(UnixTime),
}

/// The events, and why there may be more.
pub(super) type FetchAnswer = (Vec<VerifiedEvent>, Option<String>);

type Dialled = Result<(Box<Relay>, broadcast::Receiver<RelayNotification>), String>;

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
        relay: Box<Relay>,
        notes: broadcast::Receiver<RelayNotification>,
        authenticated: bool,
    },
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
            Command::LookBack(since) => self.read_again(since),
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
            Ok((Box::new(relay), notes))
        }));
    }

    fn up(&mut self, relay: Box<Relay>, notes: broadcast::Receiver<RelayNotification>) {
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

// Lives only from the select to its arm.
#[allow(clippy::large_enum_variant)]
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
