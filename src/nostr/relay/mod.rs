//! A small relay in memory, on loopback: what the demo and the tests talk through.
//!
//! Speaks NIP-01 (EVENT, REQ, CLOSE; OK, EOSE, CLOSED, NOTICE), NIP-09, NIP-11, NIP-40 and, when asked
//! to, NIP-42. It is our own because of two things the relay in `nostr-relay-builder` 0.44 does: it drops
//! live events for a slow subscriber without a word, and it offers every event to every subscription.
//! Here a subscriber that does not read is disconnected, so that it asks again, and a subscription by
//! `#p` is found through an index. Tests switch [`Faults`] on.

mod faults;
mod information;
mod session;
mod store;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::faults::Dice;
pub use self::faults::Faults;
use self::store::{Store, Stored};
use super::event::{Event, EventId, VerifiedEvent};
use super::filter::Filter;
use super::policy::RelayUrl;
use crate::time::UnixTime;

/// Bytes waiting for one connection: a full answer to a REQ, of events of the largest size, and more. A
/// client this far behind is disconnected.
const MAX_QUEUED: usize = 64 * 1024 * 1024;

/// Subscriptions of one connection, as strfry limits them.
const MAX_SUBSCRIPTIONS: usize = 200;

/// A running relay. Stops when dropped.
#[derive(Debug)]
pub struct DevRelay {
    url: RelayUrl,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What the relay has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Connections accepted.
    pub connections: u64,
    /// EVENT messages received.
    pub events_in: u64,
    /// Of those, newly stored or passed on.
    pub events_taken: u64,
    /// EVENT messages sent.
    pub events_out: u64,
    /// REQ messages received.
    pub requests: u64,
    /// WebSocket pings received.
    pub pings: u64,
    /// Bytes of messages received, without WebSocket framing.
    pub bytes_in: u64,
    /// Bytes of messages sent, without WebSocket framing.
    pub bytes_out: u64,
    /// Events lost on purpose, in either direction.
    pub lost: u64,
    /// Events refused for the rate at which they came.
    pub rate_limited: u64,
    /// Times it was asked what it is (NIP-11).
    pub informed: u64,
}

/// Tells the time.
pub type RelayClock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// How a relay is started.
pub struct RelayOptions {
    /// What it takes for the true time.
    pub clock: RelayClock,
    /// What the chance in its [`Faults`] is seeded with.
    pub seed: u64,
}

struct Shared {
    hub: Mutex<Hub>,
    clock: RelayClock,
    dice: Arc<Dice>,
    faults: watch::Sender<Faults>,
    kick: watch::Sender<u64>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    events_in: AtomicU64,
    events_taken: AtomicU64,
    events_out: AtomicU64,
    requests: AtomicU64,
    pings: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    lost: Arc<AtomicU64>,
    rate_limited: AtomicU64,
    informed: AtomicU64,
}

/// Stored events and live subscriptions, under one lock: an event is either in a REQ's answer or sent
/// to its subscription, never neither.
#[derive(Debug, Default)]
struct Hub {
    store: Store,
    connections: HashMap<u64, Connection>,
    /// Subscriptions all of whose filters name `#p` values, by value.
    by_p: HashMap<String, HashSet<SubscriptionKey>>,
    /// All other subscriptions.
    unindexed: HashSet<SubscriptionKey>,
}

type SubscriptionKey = (u64, String);

#[derive(Debug)]
struct Connection {
    outgoing: Outgoing,
    dice: Arc<Dice>,
    lost: Arc<AtomicU64>,
    subscriptions: HashMap<String, Vec<Filter>>,
}

/// The frames waiting for one connection.
#[derive(Debug, Clone)]
struct Outgoing {
    frames: mpsc::UnboundedSender<String>,
    queued: Arc<AtomicUsize>,
    overflow: CancellationToken,
}

impl DevRelay {
    /// Listens on `address`; port 0 takes a free one. Only for loopback and private networks: there is
    /// no TLS and no protection against abuse.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        Self::start_with(address, RelayOptions::default()).await
    }

    /// The same with a clock and a seed.
    pub async fn start_with(address: SocketAddr, options: RelayOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let url = RelayUrl::parse(&format!("ws://{address}"))
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let shared = Arc::new(Shared {
            hub: Mutex::default(),
            clock: options.clock,
            dice: Arc::new(Dice::new(options.seed)),
            faults: watch::channel(Faults::default()).0,
            kick: watch::channel(0).0,
            counters: Counters::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(accept(
            listener,
            Arc::clone(&shared),
            url.clone(),
            stop.clone(),
        ));
        Ok(Self { url, shared, stop })
    }

    /// The address clients use, `ws://…`.
    #[must_use]
    pub const fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> RelayCounts {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RelayCounts {
            connections: get(&counters.connections),
            events_in: get(&counters.events_in),
            events_taken: get(&counters.events_taken),
            events_out: get(&counters.events_out),
            requests: get(&counters.requests),
            pings: get(&counters.pings),
            bytes_in: get(&counters.bytes_in),
            bytes_out: get(&counters.bytes_out),
            lost: get(&counters.lost),
            rate_limited: get(&counters.rate_limited),
            informed: get(&counters.informed),
        }
    }

    /// Stored events that match, the newest first.
    #[must_use]
    pub fn stored(&self, filter: &Filter) -> Vec<Event> {
        self.shared
            .hub()
            .store
            .query(filter, self.shared.now(), usize::MAX)
            .iter()
            .map(|stored| stored.event.clone().into_inner())
            .collect()
    }

    /// How many subscriptions are open.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        let hub = self.shared.hub();
        hub.connections
            .values()
            .map(|c| c.subscriptions.len())
            .sum()
    }

    /// Sends an event to every live subscription it matches, unchecked and not stored: a relay may claim
    /// anything. Says how many it reached.
    pub fn inject(&self, event: &Event) -> usize {
        let json = event.to_json();
        let hub = self.shared.hub();
        let faults = Faults::default();
        let mut reached = 0;
        for connection in hub.connections.values() {
            for (name, filters) in &connection.subscriptions {
                if filters.iter().any(|filter| filter.matches(event)) {
                    let frame = format!("[\"EVENT\",{},{json}]", serde_json::Value::from(&**name));
                    connection.outgoing.send(frame, &faults);
                    reached += 1;
                }
            }
        }
        reached
    }

    /// Changes the faults, from the next message on.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }

    /// Cuts every connection. Clients may come back.
    pub fn disconnect_all(&self) {
        self.shared.kick.send_modify(|count| *count += 1);
    }

    /// Stops listening and cuts every connection.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }
}

impl Drop for DevRelay {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    url: RelayUrl,
    stop: CancellationToken,
) {
    for id in 0u64.. {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: let others finish first.
                    tracing::warn!(%error, "relay can not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // Small messages, answered one by one: Nagle's algorithm costs 40 ms each.
        let _ = stream.set_nodelay(true);
        shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, url, stop) = (Arc::clone(&shared), url.clone(), stop.clone());
        if shared.faults.borrow().absent {
            continue;
        }
        tokio::spawn(async move {
            if information::is_asked(&stream).await {
                return information::tell(stream, &shared).await;
            }
            session::run(id, stream, Arc::clone(&shared), url, stop).await;
            shared.hub().disconnect(id);
        });
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl fmt::Debug for RelayOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayOptions")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

impl Default for RelayOptions {
    /// This machine's clock, and a seed that is always the same.
    fn default() -> Self {
        Self {
            clock: Arc::new(now),
            seed: 0,
        }
    }
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by this relay's clock.
    fn now(&self) -> UnixTime {
        self.faults.borrow().shift((self.clock)())
    }

    fn count_sent(&self, frame: &str) {
        Self::add(&self.counters.bytes_out, frame.len());
        if frame.starts_with("[\"EVENT\"") {
            self.counters.events_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

impl Hub {
    fn subscribe(&mut self, connection: u64, name: &str, filters: Vec<Filter>) {
        self.unsubscribe(connection, name);
        let key = (connection, name.to_owned());
        if filters.iter().all(|filter| filter.tags.contains_key(&'p')) {
            for value in p_values(&filters) {
                self.by_p
                    .entry(value.clone())
                    .or_default()
                    .insert(key.clone());
            }
        } else {
            self.unindexed.insert(key);
        }
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.subscriptions.insert(name.to_owned(), filters);
        }
    }

    fn unsubscribe(&mut self, connection: u64, name: &str) {
        let Some(filters) = self
            .connections
            .get_mut(&connection)
            .and_then(|connection| connection.subscriptions.remove(name))
        else {
            return;
        };
        let key = (connection, name.to_owned());
        self.unindexed.remove(&key);
        for value in p_values(&filters) {
            if let Some(keys) = self.by_p.get_mut(value) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_p.remove(value);
                }
            }
        }
    }

    fn disconnect(&mut self, connection: u64) {
        let names: Vec<String> = self
            .connections
            .get(&connection)
            .map(|c| c.subscriptions.keys().cloned().collect())
            .unwrap_or_default();
        for name in names {
            self.unsubscribe(connection, &name);
        }
        self.connections.remove(&connection);
    }

    /// Queues an event for every live subscription it matches.
    fn deliver(&self, stored: &Stored, faults: &Faults) {
        let mut reached: HashSet<&SubscriptionKey> = self.unindexed.iter().collect();
        for value in stored.event.tags_named("p") {
            reached.extend(self.by_p.get(value).into_iter().flatten());
        }
        for (connection, name) in reached {
            let Some(connection) = self.connections.get(connection) else {
                continue;
            };
            let matches = connection
                .subscriptions
                .get(name)
                .is_some_and(|filters| filters.iter().any(|f| f.matches(&stored.event)));
            if matches {
                connection.pass_on(name, stored, faults);
            }
        }
    }
}

impl Connection {
    /// Sends a new event, at once or after a delay.
    fn pass_on(&self, name: &str, stored: &Stored, faults: &Faults) {
        let Some(delay) = faults.delay else {
            return self.send_event(name, stored, faults);
        };
        let delay = self.dice.between(delay);
        let (connection, faults) = (self.without_subscriptions(), faults.clone());
        let (name, json, event) = (name.to_owned(), stored.json.clone(), stored.event.clone());
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            connection.send_event(&name, &Stored { event, json }, &faults);
        });
    }

    fn without_subscriptions(&self) -> Self {
        Self {
            outgoing: self.outgoing.clone(),
            dice: Arc::clone(&self.dice),
            lost: Arc::clone(&self.lost),
            subscriptions: HashMap::new(),
        }
    }

    fn send_event(&self, name: &str, stored: &Stored, faults: &Faults) {
        if self.dice.hits(faults.lose_out) {
            // With all its copies: what is lost is lost.
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let json = match &faults.forge {
            None => stored.json.clone(),
            Some(content) => {
                let mut forged = stored.event.clone().into_inner();
                forged.content.clone_from(content);
                forged.to_json()
            }
        };
        let frame = format!("[\"EVENT\",{},{json}]", serde_json::Value::from(name));
        for _ in 0..faults.repeat {
            self.outgoing.send(frame.clone(), faults);
        }
        self.outgoing.send(frame, faults);
    }
}

impl Outgoing {
    /// Queues a frame; cuts the connection when its client does not keep up.
    fn send(&self, frame: String, faults: &Faults) {
        let queued = self.queued.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        if queued > faults.queue.unwrap_or(MAX_QUEUED) || self.frames.send(frame).is_err() {
            self.overflow.cancel();
        }
    }
}

fn p_values(filters: &[Filter]) -> impl Iterator<Item = &String> {
    filters
        .iter()
        .filter_map(|filter| filter.tags.get(&'p'))
        .flatten()
}

fn now() -> UnixTime {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(elapsed.map_or(0, |since| since.as_secs()))
}
