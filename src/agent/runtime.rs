//! The agent: one owner of store, keys and state machines, driven by what comes in.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Txid;
use tokio::sync::{broadcast, mpsc};

use super::clocks::{Clocks, Slip};
use super::delivery;
use super::error::AgentError;
use super::events::{AgentEvent, ChainState, What};
use super::handle::{AgentHandle, Job, Traffic};
use super::money::MoneyOptions;
use super::node::{Machine, Node, NodeId, NodeInput};
use super::options::{AgentOptions, Clock, ServicePolicy, StandingPolicy};
use super::outbound::Post;
use super::watch::{ChainNews, Watch};
use crate::beacon::history::AddressHistory;
use crate::chain::ChainBackend;
use crate::fail_point;
use crate::hash::SmtIndex;
use crate::keys::{NostrKey, OwnKey, RootSecret, Signer};
use crate::lookup::Lookup;
use crate::network::Network;
use crate::nostr::RelayUrl;
use crate::nostr::envelope::Incarnation;
use crate::nostr::information::Described;
use crate::nostr::link::{Link, LinkEvent};
use crate::nostr::outbox::OutboxInput;
use crate::nostr::seal::ConversationKeys;
use crate::protocol::funding::FundingWatch;
use crate::protocol::money::MoneyGate;
use crate::protocol::participant::{ParticipantInput, SigningPolicy};
use crate::store::Store;
use crate::time::UnixTime;

/// Events a listener may fall behind before it loses some.
const EVENT_BACKLOG: usize = 4_096;

/// Requests waiting for the agent.
const REQUEST_QUEUE: usize = 64;

/// Seconds after which a secret nonce is not used any more (DESIGN §5).
const NONCE_LIFE_SECONDS: u64 = 24 * 3_600;

/// Seconds between two looks for old nonces: there may be thousands.
const NONCES_AGED_EVERY: u64 = 10;

/// Seconds subtracted from "since": peers' clocks may be skewed, and relays late.
pub(super) const INBOX_SLACK_SECONDS: u64 = 2 * 3_600;

/// Counts of what was ignored, by reason: nothing is dropped without one.
pub(super) type Counters = BTreeMap<String, u64>;

/// What comes back from tasks of the agent.
pub(super) enum Internal {
    Broadcast {
        id: NodeId,
        txid: Txid,
        error: Option<String>,
        fee_too_low: bool,
    },
    Spend {
        txid: Txid,
        refused: Option<String>,
    },
    /// What relays serve strangers of this agent's adverts.
    ReadBack(Vec<(RelayUrl, super::upkeep::ServedAdverts)>),
    /// What a relay says it is.
    Described(RelayUrl, Described),
    /// What relays have of seats.
    Seats(super::seats::Found),
}

/// The agent. It is driven by [`Agent::run`]; everything else goes through its [`AgentHandle`].
pub struct Agent {
    pub(super) root: RootSecret,
    pub(super) identity: OwnKey,
    pub(super) signer: Signer,
    /// Writes the encrypted bundle, if there is one. Before the store, so that it is dropped before: the last
    /// connection to close puts SQLite's log away, and must be the one that writes.
    pub(super) bundle: Option<super::bundle::BundleKeeper>,
    pub(super) store: Store,
    pub(super) conversations: ConversationKeys,
    pub(super) link: Arc<Link>,
    pub(super) post: Post,
    pub(super) upkeep: super::upkeep::Upkeep,
    pub(super) relays_known: super::relay_health::RelayLedger,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) chains: BTreeMap<Network, Watch>,
    pub(super) chain_states: BTreeMap<Network, ChainState>,
    /// Resolves DIDs over the same backends; what it learned of blocks is kept.
    pub(super) lookups: BTreeMap<Network, Lookup>,
    pub(super) histories: HashMap<String, (Arc<AddressHistory>, Option<u32>)>,
    pub(super) gate: MoneyGate,
    /// Payments to beacons, as they come and go.
    pub(super) payments: BTreeMap<NodeId, FundingWatch>,
    pub(super) money: MoneyOptions,
    /// Whether it was said that money is stopped.
    pub(super) money_told: bool,
    /// Whether the cohorts were told.
    pub(super) money_synced: bool,
    pub(super) sending: super::singleton::Sending,
    pub(super) policy: SigningPolicy,
    pub(super) standing: StandingPolicy,
    pub(super) service: ServicePolicy,
    pub(super) clock: Clock,
    /// Confirmations a fresh resolution asks for.
    pub(super) min_conf: u32,
    /// Entries of a log after which a snapshot is taken.
    pub(super) snapshot_after: u64,
    pub(super) counters: Counters,
    pub(super) traffic: Arc<Traffic>,
    pub(super) events: broadcast::Sender<AgentEvent>,
    pub(super) internal: mpsc::UnboundedSender<Internal>,
    pub(super) started: UnixTime,
    /// The message that is being handled.
    pub(super) arrived: Option<super::inbound::Arrived>,
    /// Answers of late to what changes nothing.
    pub(super) answers: super::quota::Answers,
    /// Requests for history in the current minute.
    pub(super) history_quota: super::quota::HistoryQuota,
    pub(super) shown_quota: super::quota::ShownQuota,
    /// A step changed memory and could not be stored: the agent must stop, and resume from the store.
    pub(super) broken: Option<String>,
    /// Cohorts whose signals were not looked after since the start: the chain was not read yet.
    pub(super) unresumed: BTreeSet<NodeId>,
    inputs: Option<Inputs>,
    inbox: (Vec<NostrKey>, UnixTime),
    clocks: Clocks,
    /// When nonces were last looked through for old ones.
    nonces_aged: UnixTime,
    /// The copy this store was restored from, should it be running still.
    pub(super) former_copy: Option<super::copies::Sighting>,
    /// What is read again after a start, and what the former copy wrote.
    pub(super) former: super::former::Former,
    /// What the words alone lead to.
    pub(super) seats: super::seats::SeatSearch,
}

/// What the agent was woken by.
enum Came {
    Link(LinkEvent),
    Internal(Internal),
    Job(Job),
    News(ChainNews),
    Time,
}

struct Inputs {
    jobs: mpsc::Receiver<Job>,
    link: mpsc::Receiver<LinkEvent>,
    news: mpsc::Receiver<ChainNews>,
    internal: mpsc::UnboundedReceiver<Internal>,
}

impl Agent {
    /// Opens the connections and rebuilds the state from the log. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`AgentError::AnotherCopy`] if this store's agent has seen another copy of itself.
    pub fn start(mut options: AgentOptions) -> Result<(Self, AgentHandle), AgentError> {
        let now = (options.clock)();
        super::recovery::settle_copy(&mut options.store, now)?;
        super::copies::refuse_if_seen(&options.store)?;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let (jobs, job_receiver) = mpsc::channel(REQUEST_QUEUE);
        let (news_sender, news) = mpsc::channel(REQUEST_QUEUE);
        let (internal_sender, internal) = mpsc::unbounded_channel();
        let budgets: Vec<_> = options
            .relays
            .iter()
            .filter(|relay| relay.budget.is_some())
            .map(|relay| OutboxInput::Budget(relay.url.clone(), relay.budget))
            .collect();
        let (link, link_events) = Link::start(options.relays, options.link);
        let link = Arc::new(link);
        let traffic = Arc::new(Traffic::default());
        let identity = options.root.identity();
        let handle = AgentHandle {
            jobs,
            events: events.clone(),
            link: Arc::clone(&link),
            identity: identity.public(),
            traffic: Arc::clone(&traffic),
        };
        let lookup = |backend: &ChainBackend| {
            let lookup = Lookup::new(backend.clone());
            match &options.cas {
                Some(cas) => lookup.with_cas(cas.clone()),
                None => lookup,
            }
        };
        let lookups = options
            .chains
            .iter()
            .map(|(network, backend, _)| (*network, lookup(backend)))
            .collect();
        let chains = options
            .chains
            .into_iter()
            .map(|(network, backend, every)| {
                let watch = Watch::start(network, backend, every, news_sender.clone());
                (network, watch)
            })
            .collect();
        let incarnation = options.store.view().incarnation()?;
        let bundle = match (&options.bundle, options.store.path()) {
            (Some(path), Some(store)) => Some(super::bundle::BundleKeeper::start(
                path,
                store,
                options.root.bundle_key(),
                identity.public(),
                options.clock.clone(),
            )?),
            _ => None,
        };
        let mut post = Post::load(&options.store, Incarnation(incarnation), now)?;
        let relays_known = super::relay_health::RelayLedger::load(&options.store)?;
        for input in budgets.into_iter().chain(relays_known.limits()) {
            post.outbox.handle(now, input);
        }
        let mut agent = Self {
            post,
            upkeep: super::upkeep::Upkeep::new(options.describe_relays, now),
            relays_known,
            root: options.root,
            identity,
            signer: Signer::new(),
            store: options.store,
            conversations: ConversationKeys::new(),
            link,
            nodes: BTreeMap::new(),
            chains,
            chain_states: BTreeMap::new(),
            lookups,
            histories: HashMap::new(),
            gate: options.money.gate(),
            money: options.money,
            payments: BTreeMap::new(),
            money_told: false,
            money_synced: false,
            sending: super::singleton::Sending::default(),
            policy: options.policy,
            standing: options.standing,
            service: options.service,
            clock: options.clock,
            min_conf: options.min_conf.max(1),
            snapshot_after: options.snapshot_after,
            counters: Counters::new(),
            traffic,
            events,
            internal: internal_sender,
            started: now,
            arrived: None,
            answers: super::quota::Answers::default(),
            history_quota: super::quota::HistoryQuota::default(),
            shown_quota: super::quota::ShownQuota::default(),
            bundle,
            broken: None,
            unresumed: BTreeSet::new(),
            inputs: Some(Inputs {
                jobs: job_receiver,
                link: link_events,
                news,
                internal,
            }),
            inbox: (Vec::new(), UnixTime(0)),
            nonces_aged: now,
            clocks: Clocks::new(now, tokio::time::Instant::now()),
            former_copy: None,
            former: super::former::Former::default(),
            seats: super::seats::SeatSearch::default(),
        };
        agent.replay()?;
        Ok((agent, handle))
    }

    /// Drives the agent until `stop` resolves. An error means that it could not go on; what was not stored
    /// did not happen, and the next start resumes from there.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
        let Some(mut inputs) = self.inputs.take() else {
            return Err(AgentError::Defect("the agent runs already"));
        };
        self.resume()?;
        tokio::pin!(stop);
        loop {
            let wake = self.next_wake();
            let came = tokio::select! {
                biased;
                () = &mut stop => {
                    self.write_states()?;
                    return self.write_relay_health();
                }
                Some(event) = inputs.link.recv() => Came::Link(event),
                Some(internal) = inputs.internal.recv() => Came::Internal(internal),
                Some(job) = inputs.jobs.recv() => Came::Job(job),
                Some(news) = inputs.news.recv() => Came::News(news),
                () = tokio::time::sleep(wake) => Came::Time,
            };
            // First of all: what came may ask for a signature, and this may be a snapshot that was just resumed.
            self.check_clocks()?;
            match came {
                Came::Link(event) => self.link_event(event)?,
                Came::Internal(internal) => self.internal(internal)?,
                Came::Job(job) => job(&mut self),
                Came::News(news) => self.chain_news(news)?,
                Came::Time => {}
            }
            if let Some(reason) = self.broken.take() {
                // The caller of a job got the error; going on would build on what is not stored.
                return Err(AgentError::Broken(reason));
            }
            self.timers()?;
        }
    }

    /// After a start: nonces are gone, unsent events are sent, cohorts are listened to.
    fn resume(&mut self) -> Result<(), AgentError> {
        fail_point!("replayed");
        self.begin_seat_search()?;
        let restored = super::recovery::is_restored(&self.store.view())?;
        self.begin_catching_up(restored)?;
        self.reissue_stale()?;
        let alive = self.nodes.values().filter(|node| !node.is_over());
        let alive: Vec<NodeId> = alive.map(|node| node.id).collect();
        for id in alive {
            self.state_policy(id)?;
        }
        self.tell_money()?;
        // A store that was restored offers no nonces for a round that another copy may be in.
        if !self.resume_recovered()? {
            for id in self.live_memberships() {
                self.feed(id, NodeInput::Participant(ParticipantInput::Restarted))?;
            }
        }
        self.reconcile_artifacts()?;
        self.resume_bindings()?;
        self.resume_seats()?;
        self.resume_updates()?;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.connect_hints(id)?;
            self.settle_updates(id)?;
        }
        self.resume_adverts()?;
        self.refresh_inbox();
        self.refresh_watch();
        self.watch_adverts()?;
        let now = self.now();
        self.send_due(now)?;
        fail_point!("resumed");
        Ok(())
    }

    pub(super) fn now(&self) -> UnixTime {
        (self.clock)()
    }

    fn next_wake(&self) -> Duration {
        let now = self.now();
        let node = self.nodes.values().filter_map(Node::deadline).min();
        let outbox = self.post.deadline();
        let next = [node, outbox].into_iter().flatten().min();
        let seconds = next.map_or(30, |at| at.since(now).min(30));
        // A deadline that has passed is handled by the timers after every input; the floor keeps a timer that
        // can not make progress from spinning.
        Duration::from_millis((seconds * 1_000).max(200))
    }

    fn timers(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        self.look_at_switch()?;
        let due: Vec<(NodeId, NodeInput)> = self
            .nodes
            .values()
            .filter(|node| node.deadline().is_some_and(|at| now >= at))
            .map(|node| (node.id, node.tick()))
            .collect();
        for (id, tick) in due {
            self.feed(id, tick)?;
        }
        self.keep_up(now)?;
        self.take_snapshots(now)?;
        self.seek_seats(now);
        self.send_due(now)
    }

    /// Drops the nonces of a snapshot that was resumed, and those that are too old.
    fn check_clocks(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        let slip = self.clocks.compare(now, tokio::time::Instant::now());
        let Some(slip) = slip else {
            if now.since(self.nonces_aged) >= NONCES_AGED_EVERY {
                self.nonces_aged = now;
                self.signer.drop_nonces_older_than(now, NONCE_LIFE_SECONDS);
            }
            return Ok(());
        };
        self.nonces_aged = now;
        let dropped = self.signer.drop_all_nonces();
        tracing::warn!(
            dropped,
            ?slip,
            "the clocks disagree: all secret nonces were dropped"
        );
        self.emit(None, What::ClockSlipped { slip, dropped });
        // As after a restart: other nonces are offered where that still counts.
        for id in self.live_memberships() {
            self.feed(id, NodeInput::Participant(ParticipantInput::Restarted))?;
        }
        if let Slip::Ahead(_) = slip {
            self.redate()?;
        }
        Ok(())
    }

    fn live_memberships(&self) -> Vec<NodeId> {
        self.nodes
            .values()
            .filter(|node| matches!(node.machine, Machine::Participant(_)) && !node.is_over())
            .map(|node| node.id)
            .collect()
    }

    /// Subscribes to what is addressed to this agent: identity, seats, channels; and to the relay lists of
    /// its aggregators.
    pub(super) fn refresh_inbox(&mut self) {
        self.watch_relay_lists();
        let mut keys = BTreeSet::from([self.identity.public()]);
        let mut own = keys.clone();
        let mut since = self.behind_since().unwrap_or(self.started);
        since = since.min(self.started);
        for node in self.nodes.values().filter(|node| node.reads_inbox()) {
            keys.insert(node.own.public());
            own.insert(node.own.public());
            if let Machine::Participant(_) = node.machine {
                keys.extend(delivery::channel_of(node));
            }
            if !node.is_over() {
                since = since.min(node.last);
            }
        }
        let keys: Vec<NostrKey> = keys.into_iter().collect();
        let own: Vec<NostrKey> = own.into_iter().collect();
        // "Since" moves with the work done; asking again for the same keys only costs the relays.
        if self.inbox.0 != keys {
            let since = since.minus(INBOX_SLACK_SECONDS);
            self.link.set_inbox(&keys, since);
            self.link.set_own(&own, since);
            self.inbox = (keys, since);
        }
    }

    /// Watches the beacon addresses of all cohorts, and of singleton beacons with a signal on its way.
    pub(super) fn refresh_watch(&self) {
        for (network, watch) in &self.chains {
            let addresses = self
                .nodes
                .values()
                .filter(|node| node.terms().network == *network && node.watches_chain())
                .filter_map(Node::address)
                .chain(self.spend_addresses(*network))
                .collect::<BTreeSet<_>>();
            watch.set(addresses.into_iter().collect());
        }
    }

    fn internal(&mut self, internal: Internal) -> Result<(), AgentError> {
        match internal {
            Internal::Spend { txid, refused } => self.spend_sent(txid, refused),
            Internal::ReadBack(found) => self.adverts_served(&found),
            Internal::Described(url, described) => self.described(url, described),
            Internal::Seats(found) => self.seats_found(found),
            Internal::Broadcast {
                id,
                txid,
                error,
                fee_too_low,
            } => {
                let sent = error.is_none();
                if let Some(node) = self.nodes.get(&id) {
                    let input = node.broadcast_input(txid, error, fee_too_low);
                    self.feed(id, input)?;
                }
                if sent {
                    let network = self.nodes.get(&id).map(|node| node.terms().network);
                    if let Some(watch) = network.and_then(|network| self.chains.get(&network)) {
                        watch.nudge();
                    }
                }
                Ok(())
            }
        }
    }

    /// What a task of this agent reported.
    #[cfg(test)]
    pub(super) fn next_internal(&mut self) -> Option<Internal> {
        self.inputs.as_mut()?.internal.try_recv().ok()
    }

    pub(super) fn emit(&self, id: Option<NodeId>, what: What) {
        let _ = self.events.send(AgentEvent {
            at: self.now(),
            cohort: id.map(|(cohort, _)| cohort),
            role: id.map(|(_, role)| role),
            what,
        });
    }

    /// How many messages counted for nothing since the start, by reason.
    #[must_use]
    pub const fn ignored(&self) -> &BTreeMap<String, u64> {
        &self.counters
    }

    pub(super) fn count(&mut self, reason: &str) {
        let count = self.counters.entry(reason.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// The index's DID, among those this agent controls.
    pub(super) fn did_of_index(&self, index: &SmtIndex) -> Result<Option<String>, AgentError> {
        Ok(self
            .store
            .view()
            .bindings_of(*index)?
            .into_iter()
            .find_map(|binding| binding.did))
    }

    pub(super) fn queue_of(id: NodeId, input: NodeInput) -> VecDeque<(NodeId, NodeInput)> {
        VecDeque::from([(id, input)])
    }
}
