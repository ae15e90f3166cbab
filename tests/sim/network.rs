//! What relays do with the events of a run, and when the chaos ends.

use btcr2_core::nostr::outbox::OutboxInput;
use btcr2_core::nostr::outbox::PublishOutcome;

use super::config::{HOUR, MINUTE};
use super::relay::Posted;
use super::world::{Event, World};

impl World {
    pub fn on_publish(&mut self, relay: usize, from: usize, posted: Posted) {
        let id = posted.event;
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
    pub fn push(&mut self, relay: usize, to: usize, at: usize) {
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
    pub fn ask_again(&mut self, to: usize, relay: usize) {
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
                let new = !self.processes[to].disk.seen.contains(&posted.event);
                (self.reads(to, posted.to) && new).then_some(at)
            };
            let mine: Vec<usize> = it.stored.iter().enumerate().filter_map(fresh).collect();
            self.relays[relay].missed.insert(to, mine);
            self.ask_again(to, relay);
        }
    }

    pub fn relay_back(&mut self, relay: usize) {
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
    pub fn quiet(&mut self) {
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
}
