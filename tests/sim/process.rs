//! One agent of the run: what is on its disk, and what is in its memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bitcoin::OutPoint;
use btcr2_core::did::Document;
use btcr2_core::hash::UpdateHash;
use btcr2_core::keys::{NostrKey, OwnKey, Signer};
use btcr2_core::nostr::EventId;
use btcr2_core::nostr::RelayUrl;
use btcr2_core::nostr::envelope::Incarnation;
use btcr2_core::nostr::lanes::{LaneId, LaneState, Lanes};
use btcr2_core::nostr::outbox::{Outbox, OutboxEffect, OutboxInput, Row};
use btcr2_core::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_core::protocol::chain_view::ChainView;
use btcr2_core::protocol::effect::{Artifact, Step};
use btcr2_core::protocol::message::Message;
use btcr2_core::protocol::participant::{Participant, ParticipantInput, SigningPolicy};
use btcr2_core::protocol::terms::Terms;
use btcr2_core::time::UnixTime;

use super::config::PeerFaults;
use super::members::{MyDid, key, new_key};

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
    fn handle(&mut self, now: UnixTime, input: Input) -> Step {
        match (self, input) {
            (Self::Aggregator(core), Input::Aggregator(input)) => core.handle(now, input),
            (Self::Member(core), Input::Member(input)) => core.handle(now, input),
            _ => panic!("an input of the other role"),
        }
    }

    fn deadline(&self) -> Option<UnixTime> {
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
#[derive(Default, Clone)]
pub struct Disk {
    pub log: Vec<(UnixTime, Input)>,
    pub lanes: BTreeMap<LaneId, LaneState>,
    pub rows: BTreeMap<EventId, Row>,
    pub seen: BTreeSet<EventId>,
    pub artifacts: Vec<Artifact>,
    /// Whether it holds the channel's secret.
    pub channel: bool,
    /// The updates of each DID that were made, in their order.
    pub updates: BTreeMap<usize, Vec<UpdateHash>>,
    /// Where each update leads, if updates are real ones.
    pub documents: BTreeMap<UpdateHash, Document>,
}

/// A copy of a disk, with what belongs to it.
pub struct Copy {
    disk: Disk,
    saw: Option<Saw>,
    handled: BTreeSet<(LaneId, Incarnation, u64)>,
}

/// What its chain backend showed it last, with the tip as the simulator works it out.
#[derive(Clone)]
pub struct Saw {
    pub view: Rc<ChainView>,
    pub tip: Option<(OutPoint, u64, u32)>,
}

/// When somebody wants to be woken: `None` if that has to be worked out.
#[derive(Default)]
struct Due {
    core: Option<Option<UnixTime>>,
    outbox: Option<Option<UnixTime>>,
}

pub struct Process {
    pub id: usize,
    pub own: &'static OwnKey,
    pub faults: PeerFaults,
    pub dids: Vec<MyDid>,
    pub disk: Disk,
    /// When its store began: the incarnation.
    began: UnixTime,
    /// How often it came back with an old disk.
    pub lives: u32,
    /// Whether its kill switch is pulled.
    pub stopped: bool,
    /// Whether its disk is copied one day, or it starts again for another reason than a crash.
    pub is_copied: bool,
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
    outbox: Outbox,
    /// When core and outbox want to be woken, as long as nothing happened to them since that was worked out.
    due: Due,
    pub dirty: BTreeSet<EventId>,
    pub write_at: Option<UnixTime>,
    pub ack_at: Option<UnixTime>,
    /// What arrived and is being handled.
    pub arrived: Option<(EventId, LaneId)>,
    pub queue: VecDeque<Input>,
    /// Numbers that were handled, and the one that is being handled.
    pub handled: BTreeSet<(LaneId, Incarnation, u64)>,
    pub handling: Option<(LaneId, Incarnation, u64)>,
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
                .map(|j| MyDid::named(&format!("did {j} of {name}")))
                .collect(),
            disk: Disk::default(),
            began: now,
            lives: 0,
            stopped: false,
            is_copied: false,
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
            due: Due::default(),
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
        process.signer.add_seat(new_key(&name));
        process
    }

    pub fn public(&self) -> NostrKey {
        self.own.public()
    }

    /// Its clock.
    pub fn clock(&self, now: u64) -> UnixTime {
        UnixTime(now.saturating_add_signed(self.faults.skew))
    }

    /// Gives the machine an input.
    pub fn step(&mut self, now: UnixTime, input: Input) -> Step {
        self.due.core = None;
        self.core.handle(now, input)
    }

    /// When the machine wants to be woken.
    pub fn core_due(&mut self) -> Option<UnixTime> {
        let core = &self.core;
        *self.due.core.get_or_insert_with(|| core.deadline())
    }

    /// Gives the outbox an input.
    pub fn outbox(&mut self, now: UnixTime, input: OutboxInput) -> Vec<OutboxEffect> {
        self.due.outbox = None;
        self.outbox.handle(now, input)
    }

    /// When the outbox wants to be woken.
    pub fn outbox_due(&mut self) -> Option<UnixTime> {
        let outbox = &self.outbox;
        *self
            .due
            .outbox
            .get_or_insert_with(|| outbox.next_deadline())
    }

    /// What is to be sent now.
    pub fn take_due(&mut self, now: UnixTime) -> Vec<(EventId, RelayUrl)> {
        self.due.outbox = None;
        self.outbox.due(now)
    }

    pub fn row(&self, id: &EventId) -> Option<&Row> {
        self.outbox.row(id)
    }

    /// Writes a row of the outbox to the disk, as it is now.
    pub fn write_row(&mut self, id: EventId) {
        if let Some(row) = self.outbox.row(&id).filter(|_| self.is_mortal()) {
            self.disk.rows.insert(id, row.clone());
        }
    }

    /// Writes how far a lane is.
    pub fn write_lane(&mut self, lane: LaneId) {
        if self.is_mortal() {
            let state = self.lanes.state(&lane);
            self.disk.lanes.insert(lane, state);
        }
    }

    /// Whether it ever dies: the rows and lanes on the disk of others are never read.
    fn is_mortal(&self) -> bool {
        self.faults.crash_every.is_some() || self.faults.away.is_some() || self.is_copied
    }

    /// A consistent copy of the disk.
    pub fn copy(&self) -> Copy {
        Copy {
            disk: self.disk.clone(),
            saw: self.saw.clone(),
            handled: self.handled.clone(),
        }
    }

    /// An old copy takes the place of the disk: another incarnation begins, as with `agent/recovery.rs`.
    pub fn put_back(&mut self, copy: Copy, now: UnixTime) {
        self.disk = copy.disk;
        self.saw = copy.saw;
        self.handled = copy.handled;
        self.began = UnixTime(now.0.max(self.began.0 + 1));
        self.lives += 1;
        self.reread = 0;
        self.wake_at = None;
        self.fuse = None;
        for state in self.disk.lanes.values_mut() {
            *state = state.clone().resumed();
        }
    }

    /// Takes the rows of an earlier incarnation from the disk.
    pub fn take_stale(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.disk.rows).into_values().collect()
    }

    /// Forgets everything that is in memory, and comes back with what is on the disk: as `agent/runtime.rs` does.
    /// Every logged input goes through its JSON.
    pub fn restart(&mut self, terms: &Terms, policy: Option<SigningPolicy>) {
        let started = self.began;
        self.core = new_core(self.id, terms, policy);
        self.signer = Signer::new();
        self.signer.add_seat(new_key(&name(self.id)));
        self.lanes = Lanes::new(Incarnation(started.0), started);
        for (lane, state) in &self.disk.lanes {
            self.lanes.restore_lane(*lane, state.clone());
        }
        self.outbox = Outbox::default();
        self.due = Due::default();
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

    /// The state that a start would lead to now.
    pub fn replayed(&self, terms: &Terms, policy: Option<SigningPolicy>) -> String {
        let mut core = new_core(self.id, terms, policy);
        for (at, input) in &self.disk.log {
            let _ = core.handle(*at, reread(input));
        }
        core.state()
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
