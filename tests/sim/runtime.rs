//! The runtime of every process, as `agent/feed.rs` is: what is stored before what, and where it may die.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use btcr2_core::hash::{SignalBytes, SmtIndex, UpdateHash};
use btcr2_core::keys::NostrKey;
use btcr2_core::nostr::outbox::OutboxInput;
use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::effect::{Effect, Outcome, Report, To};
use btcr2_core::protocol::history;
use btcr2_core::protocol::kept::KeptAnswer;
use btcr2_core::protocol::message::{HistoryRequest, Message};
use btcr2_core::protocol::participant::{ParticipantInput, Recalled};

use super::config::{HOUR, MINUTE};
use super::members::smt_nonce;
use super::post::Payload;
use super::process::Input;
use super::signing::sign_evidence;
use super::world::{Crashed, Event, Followup, World};

impl World {
    /// Lets a process do something, and then what is due. A crash ends it.
    pub fn handle(&mut self, i: usize, what: impl FnOnce(&mut Self) -> Result<(), Crashed>) {
        if what(self).is_err() {
            return;
        }
        self.send_due(i);
        self.plan_wake(i);
    }

    pub fn plan_wake(&mut self, i: usize) {
        let process = &mut self.processes[i];
        let due = [process.core_due(), process.outbox_due(), process.write_at];
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

    pub fn tick(&mut self, i: usize) -> Result<(), Crashed> {
        let now = self.clock(i);
        let due = self.processes[i].core_due();
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
    pub fn edge(&mut self, i: usize, stored: bool) -> Result<(), Crashed> {
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

    pub fn stop(&mut self, i: usize, back: u64, stored: bool) {
        self.crashes += 1;
        self.line(11, i, stored.into(), || "dies".into());
        let before = stored.then(|| self.processes[i].core.state());
        self.processes[i].up = false;
        self.processes[i].wake_at = None;
        self.processes[i].queue.clear();
        self.checker.state_at_crash.insert(i, before);
        self.at(back.max(self.now + 1), Event::Restart { who: i });
    }

    pub fn restart(&mut self, i: usize) {
        if self.processes[i].up {
            // An old disk brought it back before.
            return;
        }
        let policy = i.checked_sub(1).map(|m| self.config.policies[m]);
        let now = self.clock(i);
        self.processes[i].restart(&self.config.terms, policy);
        self.processes[i].up = true;
        self.line(12, i, 0, || "starts again".into());
        self.check_replay(i);
        self.checker.resume(i);
        let every = self.config.peers[i].crash_every.filter(|_| !self.is_quiet);
        self.processes[i].fuse = every.map(|n| self.luck.range(1, 2 * n));
        self.tell_money(i);
        if !self.processes[i].up {
            return;
        }
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
    pub fn resume_bindings(&mut self, i: usize) -> Result<(), Crashed> {
        use btcr2_core::protocol::participant::BindingState;
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
    pub fn step(
        &mut self,
        i: usize,
        input: Input,
    ) -> Result<(Outcome, VecDeque<Followup>), Crashed> {
        let now = self.clock(i);
        let step = self.processes[i].step(now, input.clone());
        let outcome = step.outcome.clone();
        self.check_outcome(i, &input, &step);
        let nothing = step.effects.is_empty();
        if matches!(outcome, Outcome::Ignored(_)) && nothing {
            self.count("ignored");
            return Ok((outcome, VecDeque::new()));
        }
        let kind = match &input {
            Input::Aggregator(AggregatorInput::Message { message, .. })
            | Input::Member(ParticipantInput::Message { message, .. }) => message.type_name(),
            _ => "another",
        };
        let logged = step.is_logged(kind);
        let tick = matches!(
            input,
            Input::Aggregator(AggregatorInput::Tick) | Input::Member(ParticipantInput::Tick)
        );
        if nothing && tick {
            return Ok((outcome, VecDeque::new()));
        }
        self.edge(i, false)?;
        self.check_bound(i, &input);
        if logged {
            self.processes[i].disk.log.push((now, input));
        }
        if let Some((id, lane)) = self.processes[i].arrived.take() {
            self.processes[i].disk.seen.insert(id);
            self.processes[i].write_lane(lane);
            self.handled(i);
        }
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
    pub fn send(&mut self, i: usize, to: NostrKey, mut message: Message) {
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

    pub fn send_parts(&mut self, i: usize, parts: Vec<(NostrKey, Message)>) {
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

    pub fn is_silent(&self, i: usize) -> bool {
        let from = self.config.peers[i].silent_from;
        from.is_some_and(|from| self.now >= from)
    }

    pub fn follow(&mut self, i: usize, followup: Followup) -> Result<(), Crashed> {
        let Followup::Effect(effect) = followup;
        let answer = match effect {
            Effect::Prepare {
                session,
                labels,
                indexes,
            } => ParticipantInput::Prepared(self.prepare(i, session, &labels, &indexes)),
            // Rule 11: a session that may not be signed waits.
            Effect::Sign(_) | Effect::SignFallback(_) if self.processes[i].stopped => {
                self.count("orders to sign that wait");
                return Ok(());
            }
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
                let updates = self.updates_of(i, &index);
                ParticipantInput::Recalled(Recalled {
                    index,
                    nonces: rounds
                        .into_iter()
                        .map(|round| (round, smt_nonce(me, round, &index)))
                        .collect(),
                    updates,
                })
            }
            Effect::SignFallback(order) => {
                let signed = self.sign_fallback(i, &order);
                self.edge(i, true)?;
                self.processes[i].queue.push_back(signed);
                return Ok(());
            }
            Effect::Broadcast(tx) => return self.broadcast(i, &tx),
            Effect::AnswerHistory { to, request } => {
                self.answer_history(i, to, &request);
                return Ok(());
            }
            Effect::ShowProofs { signals, .. } => {
                self.show_proofs(i, &signals);
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

    pub fn on_report(&mut self, i: usize, report: Report) {
        if let Report::MayBind { index, .. } = report
            && i > 0
        {
            let bound = ParticipantInput::Bound { index };
            self.processes[i].queue.push_back(Input::Member(bound));
        }
        if i > 0 {
            return;
        }
        match report {
            Report::RoundOpened { round, .. } => self.rounds_opened.push((round, self.now)),
            Report::RoundEmpty { round }
            | Report::RoundFailed { round, .. }
            | Report::SignalConfirmed { round, .. } => {
                self.rounds_over.insert(round);
            }
            _ => {}
        }
    }

    pub fn answer_history(&mut self, i: usize, to: NostrKey, request: &HistoryRequest) {
        let artifacts = &self.processes[i].disk.artifacts;
        let answer = history::answer(request, artifacts, history::MAX_ANSWER_BYTES);
        self.send(i, to, Message::History(answer));
    }

    pub fn show_proofs(&mut self, i: usize, signals: &[SignalBytes]) {
        let mut answer = KeptAnswer::new(history::MAX_ANSWER_BYTES);
        for signal in signals {
            let kept = &self.processes[i].disk.artifacts;
            if !answer.add(*signal, kept) {
                break;
            }
        }
        let aggregator = self.processes[0].public();
        self.send(i, aggregator, Message::KeptProofs(answer.finish()));
    }

    /// The updates of a DID that are on the disk, oldest first.
    pub fn updates_of(&self, i: usize, index: &SmtIndex) -> Vec<UpdateHash> {
        let process = &self.processes[i];
        let did = process.dids.iter().position(|did| did.index == *index);
        let made = did.and_then(|did| process.disk.updates.get(&did).cloned());
        made.unwrap_or_default()
    }
}
