//! Live connections to the relays.
//!
//! A [`Link`] has one task per relay: it connects and reconnects with back-off, keeps the subscriptions
//! open whatever the relay says, publishes and reports each answer, and pages stored events. No relay
//! waits for another. What arrives is checked ([`VerifiedEvent`]) and handed on once.
//!
//! Nothing is lost silently. While the program reads too slowly, the sockets are not read either, and
//! relays keep what they can not send or cut the connection. Stored events are asked for at every
//! connection and once an hour, page by page. Delivery is at least once: who reads must tolerate a
//! repetition. One thing can not be had from a relay: more events of one second than it sends at once.

mod database;
mod gate;
mod reading;
mod session;
mod transport;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use nostr_sdk::prelude::{Client, ClientOptions, RelayPoolOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::database::NoDatabase;
use self::gate::{Admission, Gate};
use self::session::{Command, Session};
use self::transport::Transport;
use super::advert::AdvertStatus;
use super::event::{EventFault, EventId, KIND_ADVERT, KIND_DIRECTED, VerifiedEvent};
use super::filter::Filter;
use super::outbox::Budget;
pub use super::outbox::PublishOutcome;
use super::policy::RelayUrl;
use crate::keys::{NostrKey, OwnKey};
use crate::network::Network;
use crate::time::UnixTime;

/// Events waiting for the program before the relay tasks stop reading.
const EVENT_QUEUE: usize = 256;

/// Keys in one filter of the inbox. Relays limit values per filter, nostream to 2500.
const KEYS_PER_FILTER: usize = 300;

/// Filters in one subscription; nostream's limit.
const MAX_FILTERS: usize = 10;

/// The name of the subscription that [`Link::set_inbox`] opens.
pub const INBOX: &str = "inbox";

/// The name of the subscription that [`Link::set_own`] opens.
pub const OWN: &str = "own";

const ADVERTS: &str = "adverts";

/// A relay and what it is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    /// Its address.
    pub url: RelayUrl,
    /// Whether to read from it.
    pub read: bool,
    /// Whether to publish to it.
    pub write: bool,
    /// Whether its host may be, or resolve to, a private or loopback address.
    pub allow_private: bool,
    /// How much it may be sent. The outbox keeps to it; a link sends what it is given.
    pub budget: Option<Budget>,
}

/// How a link behaves.
#[derive(Debug, Default)]
pub struct LinkOptions {
    /// The key that answers relays which demand authentication (NIP-42). It tells the relay who asks.
    pub auth: Option<OwnKey>,
    /// Waiting times.
    pub timings: Timings,
}

/// Waiting times of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// For a connection to be made, TLS included.
    pub connect: Duration,
    /// For the answer to an event.
    pub ok: Duration,
    /// For the end of stored events.
    pub eose: Duration,
    /// Silence before a ping, and again before the socket counts as dead.
    pub ping: Duration,
    /// The first wait before another attempt; it doubles, with jitter.
    pub backoff: Duration,
    /// The longest wait before another attempt.
    pub backoff_max: Duration,
    /// Between two full readings of the inbox.
    pub reconcile: Duration,
}

/// What a link reports.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// An event that matches a subscription, its signature checked. Each is reported once for every subscription it
    /// matches, from the first relay that has it: one that is nothing to the reader of what it has written itself
    /// may be for its inbox, as soon as that has the key it is addressed to.
    Event {
        /// Who delivered it.
        relay: RelayUrl,
        /// The event.
        event: VerifiedEvent,
    },
    /// A relay has sent its stored events for a subscription.
    Eose {
        /// Which relay.
        relay: RelayUrl,
        /// [`INBOX`], [`OWN`], `adverts`, or the name given to [`Link::subscribe`].
        subscription: String,
    },
    /// A relay closed a subscription. It is asked again after a while.
    Closed {
        /// Which relay.
        relay: RelayUrl,
        /// Which subscription.
        subscription: String,
        /// The relay's words.
        reason: String,
    },
    /// A relay is connected.
    Connected {
        /// Which relay.
        relay: RelayUrl,
    },
    /// A connection ended, or the first attempt to make it failed. It is tried again.
    Disconnected {
        /// Which relay.
        relay: RelayUrl,
        /// Why, in the words of the library.
        reason: String,
    },
    /// What became of one event at one relay.
    Published {
        /// The event.
        event: EventId,
        /// Which relay.
        relay: RelayUrl,
        /// What it said.
        outcome: PublishOutcome,
    },
    /// A relay sent events whose id or signature is wrong. They were dropped.
    Forged {
        /// Which relay.
        relay: RelayUrl,
        /// How many since the last report.
        count: u64,
    },
}

/// Which adverts to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdvertQuery {
    /// Only these networks; empty: all.
    pub networks: Vec<Network>,
    /// Only these aggregators; empty: all.
    pub authors: Vec<NostrKey>,
    /// Only these statuses; empty: all.
    pub statuses: Vec<AdvertStatus>,
    /// Only these cohorts; empty: all.
    pub cohorts: Vec<crate::hash::CohortId>,
}

/// What [`Link::fetch`] found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fetched {
    /// Events with the relay that had them. The same event may come from several.
    pub events: Vec<(RelayUrl, VerifiedEvent)>,
    /// Relays whose answer is missing or not whole, and why. An empty answer proves nothing when there
    /// are any.
    pub incomplete: Vec<(RelayUrl, String)>,
}

/// The state of one relay, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayState {
    /// Which relay.
    pub url: RelayUrl,
    /// Whether it is read from.
    pub read: bool,
    /// Whether it is written to.
    pub write: bool,
    /// Whether it is connected now.
    pub connected: bool,
    /// Events it served since the start, good or bad.
    pub received: u64,
    /// Forged events dropped since the start.
    pub forged: u64,
    /// Frames ignored since the start: malformed, expired, too large, not asked for.
    pub ignored: u64,
    /// How long it takes to answer an event, averaged over the last ones; none before the first answer.
    pub latency: Option<Duration>,
}

/// Connections to a set of relays. Dropping it closes them.
#[derive(Debug)]
pub struct Link {
    client: Client,
    gate: Arc<Gate>,
    events: mpsc::Sender<LinkEvent>,
    authenticates: bool,
    timings: Timings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    relays: BTreeMap<RelayUrl, Handle>,
    subscriptions: BTreeMap<String, Vec<Filter>>,
}

#[derive(Debug)]
struct Handle {
    config: RelayConfig,
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl RelayConfig {
    /// A relay from the operator's own configuration, read and written, wherever it is.
    #[must_use]
    pub const fn configured(url: RelayUrl) -> Self {
        Self {
            url,
            read: true,
            write: true,
            allow_private: true,
            budget: None,
        }
    }

    /// A relay somebody else named, read and written, in the public internet only.
    #[must_use]
    pub fn advertised(url: RelayUrl) -> Self {
        Self {
            allow_private: false,
            ..Self::configured(url)
        }
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(8),
            ok: Duration::from_secs(10),
            eose: Duration::from_secs(15),
            ping: Duration::from_secs(25),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            reconcile: Duration::from_secs(3_600),
        }
    }
}

impl Link {
    /// Starts the connections. Must be called within a tokio runtime; returns at once.
    #[must_use]
    pub fn start(
        relays: Vec<RelayConfig>,
        options: LinkOptions,
    ) -> (Self, mpsc::Receiver<LinkEvent>) {
        let gate = Arc::new(Gate::new());
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let pool = RelayPoolOptions::new()
            .automatic_authentication(options.auth.is_some())
            // Nobody listens to the pool's own channel; each relay has one.
            .notification_channel_size(1);
        let mut builder = Client::builder()
            .websocket_transport(Transport {
                gate: Arc::clone(&gate),
                ping: options.timings.ping,
            })
            .admit_policy(Admission(Arc::clone(&gate)))
            .database(NoDatabase)
            .opts(ClientOptions::new().autoconnect(false).pool(pool));
        if let Some(key) = &options.auth {
            let secret = nostr::SecretKey::from(key.keypair().secret_key());
            builder = builder.signer(nostr::Keys::new(secret));
        }
        let link = Self {
            client: builder.build(),
            gate,
            events,
            authenticates: options.auth.is_some(),
            timings: options.timings,
            state: Mutex::default(),
        };
        for relay in relays {
            link.add_relay(relay);
        }
        (link, receiver)
    }

    /// Adds a relay with the current subscriptions. One that is there already stays as it is.
    pub fn add_relay(&self, config: RelayConfig) {
        let mut state = self.state();
        if state.relays.contains_key(&config.url) {
            return;
        }
        let tally = self.gate.tally(&config.url);
        tally
            .allow_private
            .store(config.allow_private, Ordering::Relaxed);
        let (commands, inbox) = mpsc::unbounded_channel();
        for (name, filters) in &state.subscriptions {
            let _ = commands.send(Command::Subscribe(name.clone(), filters.clone()));
        }
        let session = Session::new(
            config.clone(),
            self.timings,
            self.client.clone(),
            Arc::clone(&self.gate),
            self.authenticates,
            inbox,
            self.events.clone(),
        );
        let handle = Handle {
            config: config.clone(),
            commands,
            task: tokio::spawn(session.run()),
        };
        state.relays.insert(config.url, handle);
    }

    /// Closes the connection to a relay and forgets it.
    pub fn remove_relay(&self, url: &RelayUrl) {
        self.state().relays.remove(url);
    }

    /// The state of every relay.
    #[must_use]
    pub fn relays(&self) -> Vec<RelayState> {
        let state = self.state();
        let relays = state.relays.iter().map(|(url, handle)| {
            let tally = self.gate.tally(url);
            RelayState {
                url: url.clone(),
                read: handle.config.read,
                write: handle.config.write,
                received: tally.judged.load(Ordering::Relaxed),
                connected: tally.connected.load(Ordering::Relaxed),
                forged: tally.forged.load(Ordering::Relaxed),
                ignored: tally.ignored.load(Ordering::Relaxed),
                latency: tally.latency(),
            }
        });
        relays.collect()
    }

    /// How every relay is used.
    #[must_use]
    pub fn configs(&self) -> Vec<RelayConfig> {
        let state = self.state();
        let handles = state.relays.values();
        handles.map(|handle| handle.config.clone()).collect()
    }

    /// Sends an event to one relay. Returns at once; [`LinkEvent::Published`] tells the outcome. `false`:
    /// there is no such relay to write to.
    pub fn publish_to(&self, event: &VerifiedEvent, url: &RelayUrl) -> Result<bool, EventFault> {
        let event = Arc::new(gate::to_library(event)?);
        let state = self.state();
        Ok(state
            .relays
            .get(url)
            .is_some_and(|handle| handle.publish(event)))
    }

    /// Sends an event to every relay that is written to. Returns at once, with their number.
    pub fn publish(&self, event: &VerifiedEvent) -> Result<usize, EventFault> {
        let event = Arc::new(gate::to_library(event)?);
        let state = self.state();
        let relays = state.relays.values();
        Ok(relays
            .filter(|handle| handle.publish(Arc::clone(&event)))
            .count())
    }

    /// Watches directed and channel messages to `keys` made at `since` or later, on every relay read
    /// from. Replaces the former inbox; without keys there is none.
    pub fn set_inbox(&self, keys: &[NostrKey], since: UnixTime) {
        let filters = keys
            .chunks(KEYS_PER_FILTER)
            .take(MAX_FILTERS)
            .map(|keys| Filter::kind(KIND_DIRECTED).tag('p', keys).since(since))
            .collect();
        self.subscribe(INBOX, filters);
    }

    /// Watches messages that `keys` themselves have written, at `since` or later: what another copy of this agent
    /// sends. Replaces the former set.
    pub fn set_own(&self, keys: &[NostrKey], since: UnixTime) {
        let filters = keys
            .chunks(KEYS_PER_FILTER)
            .take(MAX_FILTERS)
            .map(|keys| {
                Filter::kind(KIND_DIRECTED)
                    .authors(keys.iter().copied())
                    .since(since)
            })
            .collect();
        self.subscribe(OWN, filters);
    }

    /// Watches adverts. Replaces the former query; `None` ends it.
    pub fn set_adverts(&self, query: Option<&AdvertQuery>) {
        let filters = query.map(AdvertQuery::filter).into_iter().collect();
        self.subscribe(ADVERTS, filters);
    }

    /// Opens or replaces a subscription by name; without filters it is closed. The name must not contain
    /// `:`.
    pub fn subscribe(&self, name: &str, filters: Vec<Filter>) {
        let mut state = self.state();
        for handle in state.relays.values() {
            let _ = handle
                .commands
                .send(Command::Subscribe(name.to_owned(), filters.clone()));
        }
        if filters.is_empty() {
            state.subscriptions.remove(name);
            self.gate.forget_subscription(name);
        } else {
            state.subscriptions.insert(name.to_owned(), filters);
        }
    }

    /// Asks all relays read from for stored events, page by page, and waits for them at most `timeout`.
    /// What it returns is not reported as [`LinkEvent::Event`]. Keep reading the reports meanwhile: a link
    /// whose reports pile up stops reading its relays.
    pub async fn fetch(&self, filter: &Filter, timeout: Duration) -> Fetched {
        let answers = {
            let state = self.state();
            let readers = state.relays.values().filter(|handle| handle.config.read);
            let answers = readers.map(|handle| {
                let (sender, receiver) = oneshot::channel();
                let command = Command::Fetch(filter.clone(), timeout, sender);
                let _ = handle.commands.send(command);
                let url = handle.config.url.clone();
                async move { (url, receiver.await) }
            });
            join_all(answers.collect::<Vec<_>>())
        };
        let mut fetched = Fetched::default();
        for (url, answer) in answers.await {
            let (events, fault) = answer.unwrap_or((Vec::new(), Some("closed".to_owned())));
            fetched
                .events
                .extend(events.into_iter().map(|event| (url.clone(), event)));
            fetched.incomplete.extend(fault.map(|fault| (url, fault)));
        }
        fetched
    }

    /// Reads the stored events of every subscription again, page by page, on every connected relay. New
    /// ones are reported as usual.
    pub fn reconcile(&self) {
        for handle in self.state().relays.values() {
            let _ = handle.commands.send(Command::Reconcile);
        }
    }

    /// The same for events made at `since` or later only: cheap, and finds what a relay had and did not
    /// pass on.
    pub fn look_back(&self, since: UnixTime) {
        for handle in self.state().relays.values() {
            let _ = handle.commands.send(Command::LookBack(since));
        }
    }

    /// Lets an event be reported once more, because its first delivery could not be processed. Call
    /// [`Self::reconcile`] afterwards.
    pub fn forget(&self, id: &EventId) {
        self.gate.forget(id);
    }

    /// Closes all connections and waits for their tasks.
    pub async fn shutdown(self) {
        let relays = std::mem::take(&mut self.state().relays);
        let tasks: Vec<_> = relays.into_values().map(|handle| handle.task).collect();
        join_all(tasks).await;
        self.client.shutdown().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    fn publish(&self, event: Arc<nostr::Event>) -> bool {
        self.config.write && self.commands.send(Command::Publish(event)).is_ok()
    }
}

impl AdvertQuery {
    /// The filter: the kind and at most three tags, as relays allow.
    #[must_use]
    pub fn filter(&self) -> Filter {
        let mut filter = Filter::kind(KIND_ADVERT);
        if self.cohorts.is_empty() {
            filter = filter.tag('t', ["btcr2"]);
        } else {
            filter = filter.tag('d', &self.cohorts);
        }
        if !self.networks.is_empty() {
            filter = filter.tag('n', &self.networks);
        }
        if !self.statuses.is_empty() {
            filter = filter.tag('s', &self.statuses);
        }
        if !self.authors.is_empty() {
            filter = filter.authors(self.authors.iter().copied());
        }
        filter
    }
}
