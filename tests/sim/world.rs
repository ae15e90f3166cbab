//! The run: a queue of events in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bitcoin::Transaction;
use btcr2_core::beacon::address::beacon_script;
use btcr2_core::hash::CohortId;
use btcr2_core::keys::NostrKey;
use btcr2_core::nostr::EventId;
use btcr2_core::nostr::outbox::OutboxInput;
use btcr2_core::nostr::outbox::PublishOutcome;
use btcr2_core::protocol::Round;
use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::effect::Effect;
use btcr2_core::protocol::participant::ParticipantInput;
use btcr2_core::time::UnixTime;

use super::adversary::Adversary;
use super::chain::Chain;
use super::check::Checker;
use super::config::{Config, HOUR, MINUTE, START};
use super::extras::{Restore, Stops};
use super::members::key;
use super::post::Mail;
use super::process::{Copy, Input, Process};
use super::relay::{Posted, Relay};
use super::rng::Rng;

/// After the end of the chaos, this long until everything that was refused, barred or backed off is tried again: a
/// relay that blocked an author is left alone for a day, and a message is signed again every twelve hours at least.
pub const SETTLING: u64 = 40 * HOUR;

/// Events handled in one run at most; more is a livelock.
const MAX_STEPS: u64 = 400_000;

/// The process died on the way: nothing of what was to follow happens.
#[derive(Debug)]
pub struct Crashed;

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    Publish {
        relay: usize,
        from: usize,
        posted: Posted,
    },
    Answer {
        to: usize,
        event: EventId,
        relay: usize,
        outcome: PublishOutcome,
    },
    Deliver {
        to: usize,
        relay: usize,
        at: usize,
    },
    /// The hourly reconcile: what was not pushed is found.
    Reconcile {
        to: usize,
    },
    Reopen {
        to: usize,
        relay: usize,
    },
    Wake {
        to: usize,
    },
    Look {
        to: usize,
    },
    Block,
    Restart {
        who: usize,
    },
    Away {
        who: usize,
    },
    RelayGone {
        relay: usize,
    },
    RelayBack {
        relay: usize,
    },
    Quiet,
    Operate,
    /// A copy of its disk is made, and later put into its place.
    CopyDisk {
        who: usize,
    },
    BringBack {
        who: usize,
    },
    /// The kill switch is pulled, and let go.
    StopMoney {
        who: usize,
    },
    AllowMoney {
        who: usize,
    },
    Invent {
        who: usize,
    },
}

/// What came of a run.
#[derive(Debug)]
pub struct Run {
    pub seed: u64,
    pub about: String,
    pub steps: u64,
    /// Of the whole trace: the same for the same seed, whatever the nonces were.
    pub hash: u64,
    pub crashes: u64,
    pub confirmed: u64,
    pub blamed: u64,
    /// How often each thing happened that is worth counting.
    pub counts: BTreeMap<&'static str, u64>,
    /// The rule that was broken.
    pub failure: Option<String>,
    /// What happened, if it was kept.
    pub trace: Vec<String>,
}

pub enum Followup {
    Effect(Effect),
}

pub struct World {
    pub config: Config,
    pub now: u64,
    pub cohort: CohortId,
    pub channel: NostrKey,
    pub queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub events: BTreeMap<u64, Event>,
    pub next: u64,
    pub mails: Vec<Mail>,
    pub relays: Vec<Relay>,
    pub processes: Vec<Process>,
    pub chain: Chain,
    /// One generator per purpose.
    pub net: Rng,
    pub luck: Rng,
    pub adversary: Adversary,
    pub checker: Checker,
    pub funded: bool,
    pub rounds_opened: Vec<(Round, u64)>,
    /// Those that came to an end at the aggregator, however honest it is.
    pub rounds_over: BTreeSet<Round>,
    pub is_quiet: bool,
    pub keep: bool,
    pub trace: Vec<String>,
    pub hash: u64,
    pub steps: u64,
    pub crashes: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub failure: Option<String>,
    pub done: bool,
    /// A copy of a disk that is to come back.
    pub copied: Option<Copy>,
    /// When the cohort was seen to be over.
    pub ended_at: Option<u64>,
    /// What the members are going to pay to the beacon.
    pub funding: Option<Transaction>,
    /// Somebody left: a beacon of all members ends with that.
    pub left: bool,
}

impl World {
    pub fn new(config: Config) -> Self {
        let mut rng = Rng::new(config.seed);
        let relays = config.relays.iter().cloned().enumerate();
        let relays = relays.map(|(i, faults)| Relay::new(i, faults)).collect();
        let processes = (0..=config.members)
            .map(|id| {
                let policy = id.checked_sub(1).map(|i| config.policies[i]);
                let dids = id.checked_sub(1).map_or(0, |i| config.dids[i]);
                let faults = config.peers[id].clone();
                let mut process =
                    Process::new(id, &config.terms, policy, dids, faults, UnixTime(START));
                process.is_copied = config.restore.is_some_and(|restore| restore.who == id)
                    || config.money_stops.is_some_and(|stops| stops.who == id);
                process
            })
            .collect();
        let adversary = Adversary::new(rng.fork(), &config);
        Self {
            now: START,
            cohort: config.terms.cohort_id(),
            channel: key("channel").public(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next: 0,
            mails: Vec::new(),
            relays,
            processes,
            chain: Chain::new(config.terms.max_fee_rate),
            net: rng.fork(),
            luck: rng.fork(),
            adversary,
            checker: Checker::new(&config),
            funded: false,
            rounds_opened: Vec::new(),
            rounds_over: BTreeSet::new(),
            is_quiet: false,
            keep: false,
            trace: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            crashes: 0,
            counts: BTreeMap::new(),
            failure: None,
            done: false,
            copied: None,
            ended_at: None,
            funding: None,
            left: false,
            config,
        }
    }

    /// Keeps a line per step.
    pub fn keeping_trace(mut self) -> Self {
        self.keep = true;
        self
    }

    // ---- the queue of events --------------------------------------------------------------------------------

    pub fn at(&mut self, time: u64, event: Event) {
        self.next += 1;
        self.queue.push(Reverse((time.max(self.now), self.next)));
        self.events.insert(self.next, event);
    }

    /// A line of the trace: hashed as numbers, written out if somebody reads it.
    pub fn line(&mut self, what: u64, who: usize, number: u64, text: impl FnOnce() -> String) {
        for word in [self.now, what, who as u64, number] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.keep {
            let seconds = self.now - START;
            let (h, m, s) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
            let line = format!("{h:>4}:{m:02}:{s:02} [{who}] {}", text());
            self.trace.push(line);
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    pub fn clock(&self, i: usize) -> UnixTime {
        self.processes[i].clock(self.now)
    }

    pub fn is_bad(&self, i: usize) -> bool {
        self.config.peers[i].bad
    }

    pub fn run(mut self) -> Run {
        self.begin();
        while let Some(Reverse((time, number))) = self.queue.pop() {
            if self.done || self.failure.is_some() {
                break;
            }
            if time > self.config.end_at {
                break;
            }
            self.now = time;
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.fail("livelock: too many events".into());
                break;
            }
            let Some(event) = self.events.remove(&number) else {
                continue;
            };
            // A machine that panics broke a rule as well, and the seed has to be known.
            let happened = catch_unwind(AssertUnwindSafe(|| self.happen(event)));
            if let Err(panic) = happened {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                self.failure = Some(format!("panicked: {}", text.unwrap_or_default()));
            }
        }
        if self.failure.is_none() {
            self.check_end();
        }
        Run {
            seed: self.config.seed,
            about: self.config.describe(),
            steps: self.steps,
            hash: self.hash,
            crashes: self.crashes,
            confirmed: self.confirmed_signals(),
            blamed: self.checker.blames,
            counts: self.counts,
            failure: self.failure,
            trace: self.trace,
        }
    }

    pub fn begin(&mut self) {
        let payee = |name: &str| {
            let payee = key(&format!("payee of {name}"));
            beacon_script(payee.keypair().x_only_public_key().0)
        };
        let payees = self.config.payees;
        let advertise = AggregatorInput::Advertise {
            invited: Vec::new(),
            relays: Vec::new(),
            payee: payees.then(|| payee("aggregator")),
        };
        self.handle(0, |world| {
            world.feed(0, Input::Aggregator(advertise)).map(drop)
        });
        for i in 1..=self.config.members {
            let join = ParticipantInput::Join {
                payee: payees.then(|| payee(&format!("member {i}"))),
            };
            let policy = ParticipantInput::Policy(self.config.policies[i - 1]);
            self.handle(i, |world| {
                world.feed(i, Input::Member(policy))?;
                world.feed(i, Input::Member(join)).map(drop)
            });
        }
        for i in 0..self.processes.len() {
            let faults = self.config.peers[i].clone();
            self.processes[i].fuse = faults.crash_every.map(|n| self.luck.range(1, 2 * n));
            let at = self.now + self.luck.below(HOUR);
            self.at(at, Event::Reconcile { to: i });
            if let Some((at, _)) = faults.away {
                self.at(at, Event::Away { who: i });
            }
            if faults.bad && self.config.invents > 0 {
                self.at(self.now + HOUR, Event::Invent { who: i });
            }
        }
        for relay in 0..self.relays.len() {
            let faults = self.relays[relay].faults.clone();
            if let Some(every) = faults.vanishes {
                let at = self.now + self.luck.below(every);
                self.at(at, Event::RelayGone { relay });
            }
            if let Some(at) = faults.gone_at {
                self.at(at, Event::RelayGone { relay });
            }
        }
        if let Some(Stops { who, from, until }) = self.config.money_stops {
            self.at(from, Event::StopMoney { who });
            self.at(until, Event::AllowMoney { who });
        }
        if let Some(Restore { who, copied_at, at }) = self.config.restore {
            self.at(copied_at, Event::CopyDisk { who });
            self.at(at, Event::BringBack { who });
        }
        self.at(self.now + MINUTE, Event::Operate);
        self.at(self.now + 10 * MINUTE, Event::Block);
        self.at(self.config.quiet_at, Event::Quiet);
    }

    // ---- what happens ---------------------------------------------------------------------------------------

    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Publish {
                relay,
                from,
                posted,
            } => self.on_publish(relay, from, posted),
            Event::Answer {
                to,
                event,
                relay,
                outcome,
            } => {
                if self.processes[to].up {
                    let relay = self.relays[relay].url.clone();
                    let jitter = self.net.below(1_000) as u32;
                    self.handle(to, |world| {
                        let input = OutboxInput::Answer {
                            event,
                            relay,
                            outcome,
                            jitter,
                        };
                        world.outbox(to, input);
                        Ok(())
                    });
                }
            }
            Event::Deliver { to, relay, at } => {
                let reachable = self.relays[relay].up && self.processes[to].up;
                if !reachable {
                    self.relays[relay].missed.entry(to).or_default().push(at);
                    return;
                }
                let posted = self.relays[relay].stored[at].clone();
                self.handle(to, |world| world.receive(to, &posted));
            }
            Event::Reconcile { to } => {
                for relay in 0..self.relays.len() {
                    self.ask_again(to, relay);
                }
                self.at(self.now + HOUR, Event::Reconcile { to });
            }
            Event::Reopen { to, relay } => {
                self.relays[relay].closed.remove(&to);
                self.ask_again(to, relay);
            }
            Event::Wake { to } => {
                if self.processes[to].wake_at == Some(self.now) && self.processes[to].up {
                    self.processes[to].wake_at = None;
                    self.handle(to, |world| world.tick(to));
                }
            }
            Event::Look { to } => {
                self.processes[to].look_pending = false;
                if self.processes[to].up {
                    self.handle(to, |world| world.look(to));
                }
            }
            Event::Block => self.block(),
            Event::Restart { who } => self.restart(who),
            Event::Away { who } => {
                if self.processes[who].up && !self.is_quiet {
                    let (_, long) = self.config.peers[who].away.unwrap_or_default();
                    let back = (self.now + long).min(self.config.quiet_at.max(self.now + 1));
                    self.stop(who, back, true);
                }
            }
            Event::RelayGone { relay } => {
                if self.is_quiet && relay == 0 {
                    return;
                }
                self.relays[relay].up = false;
                self.line(4, relay, 0, || "this relay vanishes".into());
                let faults = &self.relays[relay].faults;
                let for_good = faults.gone_at.is_some_and(|at| self.now >= at);
                if !for_good {
                    let back = self.now + self.luck.range(MINUTE, 12 * HOUR);
                    self.at(back, Event::RelayBack { relay });
                }
            }
            Event::RelayBack { relay } => self.relay_back(relay),
            Event::Quiet => self.quiet(),
            Event::Operate => self.operate(),
            Event::CopyDisk { who } => self.copy_disk(who),
            Event::BringBack { who } => self.bring_back(who),
            Event::StopMoney { who } => self.stop_money(who),
            Event::AllowMoney { who } => self.allow_money(who),
            Event::Invent { who } => {
                if self.processes[who].up {
                    self.handle(who, |world| {
                        world.invent(who);
                        Ok(())
                    });
                }
                let pause = self.adversary.rng.range(10 * MINUTE, 4 * HOUR);
                self.at(self.now + pause, Event::Invent { who });
            }
        }
    }
}
