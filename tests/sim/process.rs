//! One agent of the run: what is on its disk, and what is in its memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bitcoin::OutPoint;
use btcr2_agent::keys::{NostrKey, OwnKey, Signer};
use btcr2_agent::nostr::EventId;
use btcr2_agent::nostr::envelope::Incarnation;
use btcr2_agent::nostr::lanes::{LaneId, LaneState, Lanes};
use btcr2_agent::nostr::outbox::{Outbox, Row};
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::chain_view::ChainView;
use btcr2_agent::protocol::effect::{Artifact, Step};
use btcr2_agent::protocol::message::Message;
use btcr2_agent::protocol::participant::{Participant, ParticipantInput, SigningPolicy};
use btcr2_agent::protocol::terms::Terms;
use btcr2_agent::time::UnixTime;

use super::config::PeerFaults;
use super::members::{MyDid, key};

/// An input of either machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Aggregator(AggregatorInput),
    Member(ParticipantInput),
}

/// Either machine.
pub enum Core {
    Aggregator(Box<Aggregator>),
    Member(Box<Participant>),
}

impl Core {
    pub fn handle(&mut self, now: UnixTime, input: Input) -> Step {
        match (self, input) {
            (Self::Aggregator(core), Input::Aggregator(input)) => core.handle(now, input),
            (Self::Member(core), Input::Member(input)) => core.handle(now, input),
            _ => panic!("an input of the other role"),
        }
    }

    pub fn deadline(&self) -> Option<UnixTime> {
        match self {
            Self::Aggregator(core) => core.deadline(),
            Self::Member(core) => core.deadline(),
        }
    }

    pub fn chain(&self) -> &ChainView {
        match self {
            Self::Aggregator(core) => core.chain(),
            Self::Member(core) => core.chain(),
        }
    }

    pub fn knows_set(&self) -> bool {
        match self {
            Self::Aggregator(core) => core.set().is_some(),
            Self::Member(core) => core.set().is_some(),
        }
    }

    pub fn member(&self) -> &Participant {
        match self {
            Self::Member(core) => core,
            Self::Aggregator(_) => panic!("not a member"),
        }
    }

    pub fn aggregator(&self) -> &Aggregator {
        match self {
            Self::Aggregator(core) => core,
            Self::Member(_) => panic!("not the aggregator"),
        }
    }

    /// The state as text, without what a replay does not have to know: the time of the last input, and when a signal
    /// that the chain has was looked after last. Both move with ticks that change nothing else and are not logged.
    pub fn state(&self) -> String {
        match self {
            Self::Aggregator(core) => without(&format!("{core:?}"), ", last_sent: UnixTime("),
            Self::Member(core) => without(&format!("{core:?}"), ", now: UnixTime("),
        }
    }
}

/// The text without a field that holds a time.
fn without(text: &str, field: &str) -> String {
    let mut parts = text.split(field);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept += part.split_once(')').map_or("", |(_, after)| after);
    }
    kept
}

/// What survives a crash.
#[derive(Default)]
pub struct Disk {
    pub log: Vec<(UnixTime, Input)>,
    pub lanes: BTreeMap<LaneId, LaneState>,
    pub rows: BTreeMap<EventId, Row>,
    pub seen: BTreeSet<EventId>,
    pub artifacts: Vec<Artifact>,
    /// Whether it holds the channel's secret.
    pub channel: bool,
    /// How many updates of each DID were made.
    pub updates: BTreeMap<usize, u32>,
}

/// What its chain backend showed it last, with the tip as the simulator works it out.
#[derive(Clone)]
pub struct Saw {
    pub view: Rc<ChainView>,
    pub tip: Option<(OutPoint, u64, u32)>,
}

pub struct Process {
    pub id: usize,
    pub own: OwnKey,
    pub faults: PeerFaults,
    pub dids: Vec<MyDid>,
    pub disk: Disk,
    pub up: bool,
    /// Steps until the next crash.
    pub fuse: Option<u64>,
    pub wake_at: Option<u64>,
    pub look_pending: bool,
    /// What it saw of the chain, as stored.
    pub saw: Option<Saw>,
    /// Values of everything it ever saw at the beacon.
    pub values_seen: BTreeMap<OutPoint, u64>,
    /// Everything its aggregator ever told it, for the checks.
    pub heard: Vec<Rc<Message>>,

    // In memory only.
    pub core: Core,
    pub signer: Signer,
    pub lanes: Lanes,
    pub outbox: Outbox,
    pub dirty: BTreeSet<EventId>,
    pub write_at: Option<UnixTime>,
    pub ack_at: Option<UnixTime>,
    /// What arrived and is being handled.
    pub arrived: Option<(EventId, LaneId)>,
    pub queue: VecDeque<Input>,
    /// Numbers that were handled, and the one that is being handled.
    pub handled: BTreeSet<(LaneId, u64)>,
    pub handling: Option<(LaneId, u64)>,
    /// How much of the log went through its JSON already.
    reread: usize,
}

impl Process {
    pub fn new(
        id: usize,
        terms: &Terms,
        policy: Option<SigningPolicy>,
        dids: usize,
        faults: PeerFaults,
        now: UnixTime,
    ) -> Self {
        let name = name(id);
        let mut process = Self {
            id,
            own: key(&name),
            faults,
            dids: (0..dids)
                .map(|j| MyDid::new(&format!("did {j} of {name}")))
                .collect(),
            disk: Disk::default(),
            up: true,
            fuse: None,
            wake_at: None,
            look_pending: false,
            saw: None,
            values_seen: BTreeMap::new(),
            heard: Vec::new(),
            core: new_core(id, terms, policy),
            signer: Signer::new(),
            lanes: Lanes::new(Incarnation(now.0), now),
            outbox: Outbox::default(),
            dirty: BTreeSet::new(),
            write_at: None,
            ack_at: None,
            arrived: None,
            queue: VecDeque::new(),
            handled: BTreeSet::new(),
            handling: None,
            reread: 0,
        };
        process.disk.channel = id == 0;
        process.signer.add_seat(key(&name));
        process
    }

    pub fn public(&self) -> NostrKey {
        self.own.public()
    }

    /// Its clock.
    pub fn clock(&self, now: u64) -> UnixTime {
        UnixTime(now.saturating_add_signed(self.faults.skew))
    }

    /// Forgets everything that is in memory, and comes back with what is on the disk: as `agent/runtime.rs` does.
    /// Every logged input goes through its JSON.
    pub fn restart(&mut self, terms: &Terms, policy: Option<SigningPolicy>, started: UnixTime) {
        self.core = new_core(self.id, terms, policy);
        self.signer = Signer::new();
        self.signer.add_seat(key(&name(self.id)));
        self.lanes = Lanes::new(Incarnation(started.0), started);
        for (lane, state) in &self.disk.lanes {
            self.lanes.restore_lane(*lane, state.clone());
        }
        self.outbox = Outbox::default();
        for row in self.disk.rows.values() {
            self.outbox.restore(row.clone());
        }
        self.dirty.clear();
        self.write_at = None;
        self.ack_at = None;
        self.arrived = None;
        self.handling = None;
        self.queue.clear();
        for (_, input) in self.disk.log.iter_mut().skip(self.reread) {
            *input = reread(input);
        }
        self.reread = self.disk.log.len();
        for (at, input) in &self.disk.log {
            let _ = self.core.handle(*at, input.clone());
        }
    }
}

fn new_core(id: usize, terms: &Terms, policy: Option<SigningPolicy>) -> Core {
    match policy {
        Some(policy) if id > 0 => Core::Member(Box::new(Participant::new(
            terms.clone(),
            key(&name(id)).public(),
            policy,
        ))),
        _ => Core::Aggregator(Box::new(Aggregator::new(terms.clone()))),
    }
}

/// The input as it comes back from the store.
fn reread(input: &Input) -> Input {
    match input {
        Input::Aggregator(input) => {
            let text = serde_json::to_string(input).expect("an input has JSON");
            let read = serde_json::from_str(&text).expect("it can be read");
            Input::Aggregator(read)
        }
        Input::Member(input) => {
            let text = serde_json::to_string(input).expect("an input has JSON");
            let read = serde_json::from_str(&text).expect("it can be read");
            Input::Member(read)
        }
    }
}

/// What a process is called; its key is derived from it.
pub fn name(id: usize) -> String {
    match id {
        0 => "aggregator".to_owned(),
        _ => format!("member {id}"),
    }
}
