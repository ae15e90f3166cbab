//! The run: a queue of events in the order of time, and the runtime of every process, as `agent/feed.rs` is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::rc::Rc;

use bitcoin::Transaction;
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::hash::{CohortId, SmtIndex};
use btcr2_agent::keys::{NonceSlot, NostrKey};
use btcr2_agent::nostr::EventId;
use btcr2_agent::nostr::link::PublishOutcome;
use btcr2_agent::nostr::outbox::OutboxInput;
use btcr2_agent::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_agent::protocol::effect::{Effect, Ignored, Outcome, Prepared, Report, SignOrder, To};
use btcr2_agent::protocol::evidence::{Evidence, Signed};
use btcr2_agent::protocol::history;
use btcr2_agent::protocol::message::{HistoryRequest, Message, Nonces};
use btcr2_agent::protocol::participant::{ParticipantInput, Recalled, SignedSession};
use btcr2_agent::protocol::{Label, Round, SessionId};
use btcr2_agent::time::UnixTime;

use super::adversary::Adversary;
use super::chain::Chain;
use super::check::Checker;
use super::config::{Config, HOUR, MINUTE, START};
use super::members::{key, smt_nonce, update};
use super::post::{Mail, Payload};
use super::process::{Input, Process, Saw};
use super::relay::{Posted, Relay};
use super::rng::Rng;

/// After the end of the chaos, this long until everything that was refused, barred or backed off is tried again: a
/// relay that blocked an author is left alone for a day, and a message is signed again every twelve hours at least.
const SETTLING: u64 = 40 * HOUR;

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
    /// The rule that was broken.
    pub failure: Option<String>,
    /// What happened, if it was kept.
    pub trace: Vec<String>,
}

enum Followup {
    Effect(Effect),
}

pub struct World {
    pub config: Config,
    pub now: u64,
    pub cohort: CohortId,
    pub channel: NostrKey,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    next: u64,
    pub mails: Vec<Mail>,
    pub relays: Vec<Relay>,
    pub processes: Vec<Process>,
    pub chain: Chain,
    /// One generator per purpose.
    pub net: Rng,
    luck: Rng,
    pub adversary: Adversary,
    pub checker: Checker,
    funded: bool,
    rounds_opened: Vec<(Round, u64)>,
    is_quiet: bool,
    keep: bool,
    trace: Vec<String>,
    hash: u64,
    steps: u64,
    crashes: u64,
    counts: BTreeMap<&'static str, u64>,
    failure: Option<String>,
    done: bool,
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
                Process::new(id, &config.terms, policy, dids, faults, UnixTime(START))
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
            is_quiet: false,
            keep: false,
            trace: Vec::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            crashes: 0,
            counts: BTreeMap::new(),
            failure: None,
            done: false,
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
            self.happen(event);
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
            failure: self.failure,
            trace: self.trace,
        }
    }

    fn begin(&mut self) {
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
        self.at(self.now + MINUTE, Event::Operate);
        self.at(self.now + 10 * MINUTE, Event::Block);
        self.at(self.config.quiet_at, Event::Quiet);
    }

    // ---- what happens ---------------------------------------------------------------------------------------

    fn happen(&mut self, event: Event) {
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
            Event::Invent { who } => {
                if self.processes[who].up {
                    self.handle(who, |world| {
                        world.invent(who);
                        Ok(())
                    });
                }
                let pause = self.adversary.rng.range(10 * MINUTE, 12 * HOUR);
                self.at(self.now + pause, Event::Invent { who });
            }
        }
    }

    fn on_publish(&mut self, relay: usize, from: usize, posted: Posted) {
        let id = posted.event.id;
        let (outcome, stored) = self.relays[relay].publish(self.now, &mut self.net, &posted);
        let silent = outcome == PublishOutcome::Silent;
        let wait = if silent { 15 } else { self.net.below(2) };
        if self.mails[posted.mail].seq > 0 {
            self.at(
                self.now + wait,
                Event::Answer {
                    to: from,
                    event: id,
                    relay,
                    outcome,
                },
            );
        }
        let Some(at) = stored else { return };
        for to in 0..self.processes.len() {
            if self.reads(to, posted.to) {
                self.push(relay, to, at);
            }
        }
    }

    /// The relay pushes one of its events to a subscriber, or should.
    fn push(&mut self, relay: usize, to: usize, at: usize) {
        let it = &mut self.relays[relay];
        if self.net.permille(it.faults.closes) && it.closed.insert(to) {
            let reopened = self.now + self.net.range(MINUTE, 20 * MINUTE);
            self.at(reopened, Event::Reopen { to, relay });
        }
        let it = &mut self.relays[relay];
        if it.closed.contains(&to) || self.net.permille(it.faults.misses) {
            it.missed.entry(to).or_default().push(at);
            return;
        }
        let (delay, repeats) = (it.faults.delay, it.faults.repeats);
        let first = self.now + self.net.below(delay + 1);
        self.at(first, Event::Deliver { to, relay, at });
        if self.net.permille(repeats) {
            for _ in 0..self.net.range(1, 3) {
                let again = self.now + self.net.below(2 * delay + 60);
                self.at(again, Event::Deliver { to, relay, at });
            }
        }
    }

    /// A process pages through what the relay has and it was not pushed, newest first.
    fn ask_again(&mut self, to: usize, relay: usize) {
        let reachable = self.relays[relay].up && self.processes[to].up;
        if !reachable || self.relays[relay].closed.contains(&to) {
            return;
        }
        let mut missed = self.relays[relay].missed.remove(&to).unwrap_or_default();
        missed.sort_unstable();
        if self.relays[relay].faults.no_eose && missed.len() > 5 {
            let rest = missed.drain(..missed.len() - 5).collect();
            self.relays[relay].missed.insert(to, rest);
        }
        for at in missed.into_iter().rev() {
            self.at(self.now + 1, Event::Deliver { to, relay, at });
        }
    }

    /// Everything the relays have for a process, newest first: at a start, and when it learns another key.
    pub fn backfill(&mut self, to: usize) {
        for relay in 0..self.relays.len() {
            let it = &self.relays[relay];
            let fresh = |(at, posted): (usize, &Posted)| {
                let new = !self.processes[to].disk.seen.contains(&posted.event.id);
                (self.reads(to, posted.to) && new).then_some(at)
            };
            let mine: Vec<usize> = it.stored.iter().enumerate().filter_map(fresh).collect();
            self.relays[relay].missed.insert(to, mine);
            self.ask_again(to, relay);
        }
    }

    fn relay_back(&mut self, relay: usize) {
        self.relays[relay].up = true;
        self.line(5, relay, 0, || "this relay is back".into());
        let url = self.relays[relay].url.clone();
        for i in 0..self.processes.len() {
            if self.processes[i].up {
                let url = url.clone();
                self.handle(i, |world| {
                    world.outbox(i, OutboxInput::RelayUp(url));
                    Ok(())
                });
                self.ask_again(i, relay);
            }
        }
        if let Some(every) = self.relays[relay].faults.vanishes {
            let at = self.now + self.luck.range(HOUR, HOUR + every);
            self.at(at, Event::RelayGone { relay });
        }
    }

    /// The chaos is over: one relay is honest, everybody is there, nobody crashes, and blocks take what pays.
    fn quiet(&mut self) {
        self.is_quiet = true;
        self.line(6, 0, 0, || "the chaos is over".into());
        self.relays[0].reform();
        self.relays[0].closed.clear();
        self.config.chain.reorgs = 0;
        self.config.chain.rejects = 0;
        self.config.chain.fee_peak = 5;
        self.config.chain.fee_changes = 0;
        self.config.chain.block_every = HOUR;
        self.chain.set_fee_rate(3);
        for i in 0..self.processes.len() {
            self.processes[i].fuse = None;
        }
        self.relay_back(0);
    }

    // ---- the chain ------------------------------------------------------------------------------------------

    fn block(&mut self) {
        let faults = self.config.chain.clone();
        let rate = self.chain.fee_rate;
        if self.luck.permille(faults.reorgs) {
            let depth = self.luck.range(1, u64::from(faults.reorg_depth)) as u32;
            let luck = &mut self.luck;
            self.chain.reorg(depth, || luck.permille(faults.forgets));
            self.line(7, 0, depth.into(), || format!("reorganisation of {depth}"));
        }
        if self.luck.permille(faults.fee_changes) {
            let rate = self.luck.range(1, faults.fee_peak);
            self.chain.set_fee_rate(rate);
            self.line(8, 0, rate, || format!("the fee rate is {rate}"));
        }
        if self.luck.permille(faults.gifts) && self.funded {
            let sat = *self.luck.pick(&[400, 3_000, 20_000, 60_000]);
            self.chain.fund(sat);
        }
        let stingy = !self.is_quiet;
        self.chain.mine(|paid| !stingy || paid + 1 >= rate);
        let height = self.chain.height;
        self.line(9, 0, height.into(), || format!("block {height}"));
        self.check_chain();
        self.chain_changed();
        let next = self.luck.range(1, 2 * faults.block_every);
        self.at(self.now + next, Event::Block);
    }

    fn chain_changed(&mut self) {
        for i in 0..self.processes.len() {
            self.look_soon(i);
        }
    }

    pub fn look_soon(&mut self, i: usize) {
        if !std::mem::replace(&mut self.processes[i].look_pending, true) {
            let lag = self.net.below(self.config.chain.lag + 1);
            self.at(self.now + lag, Event::Look { to: i });
        }
    }

    /// A process asks its chain backend.
    fn look(&mut self, i: usize) -> Result<(), Crashed> {
        if !self.processes[i].core.knows_set() {
            return Ok(());
        }
        let Some(view) = self.chain.view() else {
            return Ok(());
        };
        let Some(diff) = self.processes[i].core.chain().diff(&view) else {
            return Ok(());
        };
        let tip = self.chain.tip();
        let values = view.outputs.iter().map(|(at, seen)| (*at, seen.value_sat));
        self.processes[i].values_seen.extend(values);
        let before = self.processes[i].saw.replace(Saw { view, tip });
        let input = if i == 0 {
            Input::Aggregator(AggregatorInput::Chain(diff))
        } else {
            Input::Member(ParticipantInput::Chain(diff))
        };
        let logged = self.processes[i].disk.log.len();
        let fed = self.feed(i, input);
        if fed.is_err() && self.processes[i].disk.log.len() == logged {
            // It died before that was stored.
            self.processes[i].saw = before;
        }
        fed?;
        self.check_confirmations(i);
        Ok(())
    }

    fn broadcast(&mut self, i: usize, tx: &Transaction) -> Result<(), Crashed> {
        self.check_broadcast(i, tx);
        let txid = tx.compute_txid();
        let error = if self.luck.permille(self.config.chain.rejects) {
            Some("the node is busy".to_owned())
        } else {
            self.chain.accept(tx).err()
        };
        self.line(10, i, u64::from(error.is_none()), || {
            format!("broadcasts {txid}: {error:?}")
        });
        if error.is_none() {
            self.check_chain();
            self.chain_changed();
        }
        let fee_too_low = error.as_ref().is_some_and(|error| error.contains("fee"));
        let input = if i == 0 {
            Input::Aggregator(AggregatorInput::Broadcast {
                txid,
                error,
                fee_too_low,
            })
        } else {
            Input::Member(ParticipantInput::Broadcast { txid, error })
        };
        self.processes[i].queue.push_back(input);
        Ok(())
    }

    // ---- processes ------------------------------------------------------------------------------------------

    /// Lets a process do something, and then what is due. A crash ends it.
    pub fn handle(&mut self, i: usize, what: impl FnOnce(&mut Self) -> Result<(), Crashed>) {
        if what(self).is_err() {
            return;
        }
        self.send_due(i);
        self.plan_wake(i);
    }

    fn plan_wake(&mut self, i: usize) {
        let process = &self.processes[i];
        let own = process.core.deadline();
        let due = [own, process.outbox.next_deadline(), process.write_at];
        let Some(due) = due.into_iter().flatten().chain(process.ack_at).min() else {
            return;
        };
        // Its clock to the run's.
        let at = due.0.saturating_add_signed(-process.faults.skew);
        let at = at.max(self.now + 1);
        if process.wake_at.is_none_or(|planned| at < planned) {
            self.processes[i].wake_at = Some(at);
            self.at(at, Event::Wake { to: i });
        }
    }

    fn tick(&mut self, i: usize) -> Result<(), Crashed> {
        let now = self.clock(i);
        let due = self.processes[i].core.deadline();
        if due.is_some_and(|at| now >= at) {
            let input = if i == 0 {
                Input::Aggregator(AggregatorInput::Tick)
            } else {
                Input::Member(ParticipantInput::Tick)
            };
            self.feed(i, input)?;
        }
        Ok(())
    }

    /// A place where the process may die. `stored`: nothing in memory is ahead of the disk.
    fn edge(&mut self, i: usize, stored: bool) -> Result<(), Crashed> {
        let Some(fuse) = &mut self.processes[i].fuse else {
            return Ok(());
        };
        *fuse = fuse.saturating_sub(1);
        if *fuse > 0 {
            return Ok(());
        }
        let back = match self.luck.below(4) {
            0 => self.luck.range(MINUTE, 8 * HOUR),
            _ => self.luck.range(1, 5 * MINUTE),
        };
        self.stop(i, self.now + back, stored);
        Err(Crashed)
    }

    fn stop(&mut self, i: usize, back: u64, stored: bool) {
        self.crashes += 1;
        self.line(11, i, stored.into(), || "dies".into());
        let before = stored.then(|| self.processes[i].core.state());
        self.processes[i].up = false;
        self.processes[i].wake_at = None;
        self.processes[i].queue.clear();
        self.checker.state_at_crash.insert(i, before);
        self.at(back.max(self.now + 1), Event::Restart { who: i });
    }

    fn restart(&mut self, i: usize) {
        let policy = i.checked_sub(1).map(|m| self.config.policies[m]);
        let now = self.clock(i);
        self.processes[i].restart(&self.config.terms, policy, UnixTime(START));
        self.processes[i].up = true;
        self.line(12, i, 0, || "starts again".into());
        self.check_replay(i);
        let every = self.config.peers[i].crash_every.filter(|_| !self.is_quiet);
        self.processes[i].fuse = every.map(|n| self.luck.range(1, 2 * n));
        self.backfill(i);
        let urls: Vec<_> = self.relays.iter().filter(|r| r.up).collect();
        let urls: Vec<_> = urls.into_iter().map(|r| r.url.clone()).collect();
        let _ = now;
        self.handle(i, |world| {
            for url in urls {
                world.outbox(i, OutboxInput::RelayUp(url));
            }
            if i > 0 {
                world.feed(i, Input::Member(ParticipantInput::Restarted))?;
                world.resume_bindings(i)?;
            }
            world.look(i)
        });
    }

    /// A report may have been lost with the process: what may be bound is bound now.
    fn resume_bindings(&mut self, i: usize) -> Result<(), Crashed> {
        use btcr2_agent::protocol::participant::BindingState;
        let core = self.processes[i].core.member();
        let ready: Vec<SmtIndex> = core
            .indexes()
            .filter(|index| core.binding_state(index) == Some(BindingState::MayBind))
            .collect();
        for index in ready {
            self.feed(i, Input::Member(ParticipantInput::Bound { index }))?;
        }
        Ok(())
    }

    /// Feeds one input, and what follows from it.
    pub fn feed(&mut self, i: usize, input: Input) -> Result<Outcome, Crashed> {
        let mut first = None;
        self.processes[i].queue.push_back(input);
        while let Some(input) = self.processes[i].queue.pop_front() {
            let (outcome, followups) = self.step(i, input)?;
            first.get_or_insert(outcome);
            for followup in followups {
                self.edge(i, true)?;
                self.follow(i, followup)?;
            }
        }
        Ok(first.unwrap_or(Outcome::Accepted))
    }

    /// One step of a machine: everything that is durable together.
    fn step(&mut self, i: usize, input: Input) -> Result<(Outcome, VecDeque<Followup>), Crashed> {
        let now = self.clock(i);
        let step = self.processes[i].core.handle(now, input.clone());
        let outcome = step.outcome.clone();
        self.check_outcome(i, &input, &step);
        let nothing = step.effects.is_empty();
        if matches!(outcome, Outcome::Ignored(_)) && nothing {
            self.count("ignored");
            return Ok((outcome, VecDeque::new()));
        }
        let is = |name: &str| matches!(&input, Input::Aggregator(AggregatorInput::Message { message, .. }) if message.type_name() == name);
        let stranger = is("opt_in") && matches!(outcome, Outcome::Ignored(Ignored::Refused(_)));
        let tick = matches!(
            input,
            Input::Aggregator(AggregatorInput::Tick) | Input::Member(ParticipantInput::Tick)
        );
        if nothing && tick {
            return Ok((outcome, VecDeque::new()));
        }
        self.edge(i, false)?;
        if !stranger && !is("history_request") {
            self.processes[i].disk.log.push((now, input.clone()));
        }
        if let Some((id, lane)) = self.processes[i].arrived.take() {
            let state = self.processes[i].lanes.state(&lane);
            self.processes[i].disk.seen.insert(id);
            self.processes[i].disk.lanes.insert(lane, state);
            self.handled(i);
        }
        self.check_bound(i, &input);
        let mut followups = VecDeque::new();
        for effect in step.effects {
            match effect {
                Effect::Send { to, message } => {
                    let to = match to {
                        To::Key(key) => key,
                        To::Channel => self.channel,
                    };
                    self.send(i, to, message);
                }
                Effect::SendParts(parts) => self.send_parts(i, parts),
                Effect::GrantChannel(keys) => {
                    for key in keys {
                        self.post(i, key, Payload::Channel, BTreeMap::new());
                    }
                }
                Effect::Save(artifact) => {
                    self.check_artifact(i, &artifact);
                    self.processes[i].disk.artifacts.push(artifact);
                }
                other => followups.push_back(Followup::Effect(other)),
            }
        }
        self.send_due(i);
        Ok((outcome, followups))
    }

    /// Signs the evidence of a message and sends it; a bad peer sends what it likes instead.
    fn send(&mut self, i: usize, to: NostrKey, mut message: Message) {
        if self.is_silent(i) {
            return;
        }
        sign_evidence(self, i, &mut message);
        if self.is_bad(i) {
            self.send_badly(i, to, message);
            return;
        }
        self.check_message(i, &message);
        self.post(i, to, Payload::Core(Rc::new(message)), BTreeMap::new());
    }

    fn send_parts(&mut self, i: usize, parts: Vec<(NostrKey, Message)>) {
        let bad = self.is_bad(i);
        let parts = parts
            .into_iter()
            .filter_map(|(key, part)| {
                let part = if bad {
                    self.adversary.alter_or_drop(part)?
                } else {
                    part
                };
                Some((key, Rc::new(part)))
            })
            .collect();
        self.post(i, self.channel, Payload::Parts(parts), BTreeMap::new());
    }

    fn is_silent(&self, i: usize) -> bool {
        let from = self.config.peers[i].silent_from;
        from.is_some_and(|from| self.now >= from)
    }

    fn follow(&mut self, i: usize, followup: Followup) -> Result<(), Crashed> {
        let Followup::Effect(effect) = followup;
        let answer = match effect {
            Effect::Prepare {
                session,
                labels,
                indexes,
            } => ParticipantInput::Prepared(self.prepare(i, session, &labels, &indexes)),
            Effect::Sign(order) => {
                let signed = self.sign(i, &order);
                // The nonces are used up; that is not stored yet.
                self.edge(i, true)?;
                signed
            }
            Effect::OpenIndex(index) => {
                let process = &self.processes[i];
                let me = process.public();
                let Some(did) = process.dids.iter().find(|did| did.index == index) else {
                    return Ok(());
                };
                let opening = did.opening(&self.cohort, me);
                ParticipantInput::Open { index, opening }
            }
            Effect::Recall { index, rounds } => {
                let me = self.processes[i].public();
                let made = self.updates_made(i, &index);
                ParticipantInput::Recalled(Recalled {
                    index,
                    nonces: rounds
                        .into_iter()
                        .map(|round| (round, smt_nonce(me, round, &index)))
                        .collect(),
                    updates: (1..=made).map(|n| update(&index, n)).collect(),
                })
            }
            Effect::Broadcast(tx) => return self.broadcast(i, &tx),
            Effect::AnswerHistory { to, request } => {
                self.answer_history(i, to, &request);
                return Ok(());
            }
            Effect::Report(report) => {
                self.check_report(i, &report);
                self.on_report(i, report);
                return Ok(());
            }
            Effect::Advertise(_) => return Ok(()),
            other => panic!("not simulated: {other:?}"),
        };
        self.processes[i].queue.push_back(Input::Member(answer));
        Ok(())
    }

    fn on_report(&mut self, i: usize, report: Report) {
        if let Report::MayBind { index, .. } = report
            && i > 0
        {
            let bound = ParticipantInput::Bound { index };
            self.processes[i].queue.push_back(Input::Member(bound));
        }
        if let Report::RoundOpened { round, .. } = report
            && i == 0
        {
            self.rounds_opened.push((round, self.now));
        }
    }

    fn answer_history(&mut self, i: usize, to: NostrKey, request: &HistoryRequest) {
        let artifacts = &self.processes[i].disk.artifacts;
        let answer = history::answer(request, artifacts, history::MAX_ANSWER_BYTES);
        self.send(i, to, Message::History(answer));
    }

    pub fn updates_made(&self, i: usize, index: &SmtIndex) -> u32 {
        let process = &self.processes[i];
        let did = process.dids.iter().position(|did| did.index == *index);
        did.and_then(|did| process.disk.updates.get(&did).copied())
            .unwrap_or(0)
    }

    // ---- the signer -----------------------------------------------------------------------------------------

    fn nonces(&mut self, i: usize, session: SessionId, labels: &[Label]) -> Nonces {
        let now = self.clock(i);
        let seat = self.processes[i].public();
        let signer = &mut self.processes[i].signer;
        let make = |label: &Label| {
            let slot = NonceSlot {
                seat,
                session,
                label: *label,
            };
            Some((*label, signer.new_nonces(slot, now).ok()?))
        };
        labels.iter().map_while(make).collect()
    }

    fn prepare(
        &mut self,
        i: usize,
        session: SessionId,
        labels: &[Label],
        indexes: &[SmtIndex],
    ) -> Prepared {
        let nonces = self.nonces(i, session, labels);
        let seat = self.processes[i].public();
        let derive = |index: &SmtIndex| {
            let round = session.round()?;
            Some((*index, smt_nonce(seat, round, index)))
        };
        Prepared {
            session,
            nonces,
            smt_nonces: indexes.iter().filter_map(derive).collect(),
        }
    }

    fn sign(&mut self, i: usize, order: &SignOrder) -> ParticipantInput {
        let session = order.session;
        let seat = self.processes[i].public();
        let keys = self.processes[i].core.member().set();
        let Some(keys) = keys.map(|(_, keys)| keys.clone()) else {
            return ParticipantInput::SignFailed { session };
        };
        let mut partials = BTreeMap::new();
        for label in &order.labels {
            let slot = NonceSlot {
                seat,
                session,
                label: label.label,
            };
            let signed = self.processes[i].signer.sign(
                slot,
                &label.nonce,
                &keys,
                &label.aggregate_nonce,
                label.sighash.as_bytes(),
            );
            match signed {
                Ok(partial) => {
                    self.check_nonce_use(i, label, &partial);
                    partials.insert(label.label, partial);
                }
                Err(_) => return ParticipantInput::SignFailed { session },
            }
        }
        let next = SessionId {
            attempt: session.attempt + 1,
            ..session
        };
        let spares = self.nonces(i, next, &order.spares);
        ParticipantInput::Signed(SignedSession {
            session,
            partials,
            spares,
        })
    }
}

/// Signs what carries evidence, as `agent/delivery.rs` does.
pub fn sign_evidence(world: &World, i: usize, message: &mut Message) {
    fn sign<T: Evidence>(world: &World, i: usize, body: &mut Signed<T>) {
        let own = &world.processes[i].own;
        body.sign_with(&world.cohort, |digest| own.sign_digest(digest));
    }
    match message {
        Message::CohortAck(body) => sign(world, i, body),
        Message::Response(body) => sign(world, i, body),
        Message::NonceUpdate(body) => sign(world, i, body),
        Message::PartialSignature(body) => sign(world, i, body),
        Message::FallbackSignature(body) => sign(world, i, body),
        Message::RefundNonces(body) => sign(world, i, body),
        Message::RefundPartial(body) => sign(world, i, body),
        _ => {}
    }
}

// ---- users and the operator ---------------------------------------------------------------------------------

impl World {
    /// Every half hour somebody looks at each agent and does what there is to do.
    fn operate(&mut self) {
        for i in 1..self.processes.len() {
            if self.processes[i].up {
                self.handle(i, |world| world.use_member(i));
            }
        }
        if self.processes[0].up {
            self.handle(0, Self::operate_aggregator);
        }
        self.finish();
        self.at(self.now + 30 * MINUTE, Event::Operate);
    }

    fn use_member(&mut self, i: usize) -> Result<(), Crashed> {
        use btcr2_agent::protocol::message::RegisterItem;
        use btcr2_agent::protocol::participant::{BindingState, MemberPhase};
        use btcr2_agent::protocol::terms::CohortBeacon;
        let leaves = self.config.peers[i].leaves_at;
        if leaves.is_some_and(|at| self.now >= at) {
            self.config.peers[i].leaves_at = None;
            self.left = true;
            let leave = ParticipantInput::Leave {
                even_if_frozen: true,
            };
            self.feed(i, Input::Member(leave))?;
        }
        if *self.processes[i].core.member().phase() != MemberPhase::Active {
            return Ok(());
        }
        let cas = self.config.terms.beacon == CohortBeacon::Cas;
        let me = self.processes[i].public();
        let core = self.processes[i].core.member();
        let late = core.chain().signals.is_empty();
        let fresh = self.processes[i].dids.iter();
        let fresh = fresh.take(if late {
            self.config.early_dids
        } else {
            usize::MAX
        });
        let items: Vec<RegisterItem> = fresh
            .filter(|did| core.index_state(&did.index).is_none())
            .map(|did| RegisterItem {
                index: did.index,
                opening: cas.then(|| did.opening(&self.cohort, me)),
            })
            .collect();
        if !items.is_empty() {
            self.feed(i, Input::Member(ParticipantInput::Register { items }))?;
        }
        for did in 0..self.processes[i].dids.len() {
            let index = self.processes[i].dids[did].index;
            let core = self.processes[i].core.member();
            let bound = core.binding_state(&index) == Some(BindingState::Bound);
            if bound && core.queue_refusal(&index).is_none() && self.luck.one_in(3) {
                let n = self.processes[i].disk.updates.entry(did).or_default();
                *n += 1;
                let update = update(&index, *n);
                self.feed(i, Input::Member(ParticipantInput::Queue { index, update }))?;
            }
        }
        Ok(())
    }

    fn operate_aggregator(&mut self) -> Result<(), Crashed> {
        self.fund_once();
        let core = self.processes[0].core.aggregator();
        if core.open_refusal().is_some() {
            return Ok(());
        }
        let opened = self.rounds_opened.len();
        let settled = self.settled_at();
        let early = self.now < settled && opened >= self.config.rounds_before as usize;
        let early_dids = self.config.early_dids;
        let all: usize = self
            .processes
            .iter()
            .map(|p| p.dids.len().min(early_dids))
            .sum();
        let waits = core.registered() < all && self.now < settled + 6 * HOUR;
        let waits = waits && !self.is_bad_somewhere();
        if early || waits || opened >= 8 {
            return Ok(());
        }
        self.feed(0, Input::Aggregator(AggregatorInput::OpenRound))?;
        Ok(())
    }

    /// Pays to the beacon once all have acknowledged the set.
    fn fund_once(&mut self) {
        let core = self.processes[0].core.aggregator();
        if self.funded || *core.phase() != Phase::Active {
            return;
        }
        self.funded = true;
        self.chain.script = core.set().map(|(_, keys)| beacon_script(keys.output_key()));
        self.chain.fund(self.config.funds);
        self.line(13, 0, 0, || "the beacon is funded".into());
        self.chain_changed();
    }

    pub fn is_bad_somewhere(&self) -> bool {
        self.config.peers.iter().any(|peer| peer.bad)
    }

    /// From then on nothing of the chaos is left: neither in the world nor in what was put off because of it.
    fn settled_at(&self) -> u64 {
        if self.config.quiet_at == START {
            START
        } else {
            self.config.quiet_at + SETTLING
        }
    }

    /// The rounds that have to end well: opened after everything had time to settle.
    pub fn settled_rounds(&self) -> Vec<Round> {
        let from = self.settled_at();
        let rounds = self.rounds_opened.iter();
        rounds
            .filter(|(_, at)| *at >= from)
            .map(|(round, _)| *round)
            .collect()
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    fn finish(&mut self) {
        if !matches!(self.processes[0].core.aggregator().phase(), Phase::Ended(_)) {
            let settled = self.settled_rounds();
            let ended = settled
                .iter()
                .filter(|round| self.checker.ended_well(**round, &self.config));
            if ended.count() < self.config.rounds as usize {
                return;
            }
        } else if self.now < self.settled_at() {
            return;
        }
        self.done = true;
    }
}
