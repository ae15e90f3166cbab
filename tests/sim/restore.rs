//! Old copies of a disk that come back: what `agent/recovery.rs` does with one, and what the former life did since.
//!
//! The process ends for good and another one begins with a copy of its disk of some hours ago. It is a new incarnation:
//! its numbers begin again, what was not delivered is said again, and open rounds are left alone. Everything that it
//! said and signed since the copy was made is known to the checks and not to itself.

use btcr2_core::nostr::outbox::{OutboxInput, Row};
use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::message::{OF_A_ROUND, RegisterItem};
use btcr2_core::protocol::participant::{IndexState, ParticipantInput};
use btcr2_core::protocol::terms::CohortBeacon;

use super::process::Input;
use super::world::{Crashed, World};

impl World {
    /// The copy is made, if it is one to begin again with.
    pub fn copy_disk(&mut self, i: usize) {
        use btcr2_core::protocol::aggregator::Phase;
        // An aggregator whose set froze after the copy has to begin with another cohort (docs/backup.md).
        if i == 0 && *self.processes[0].core.aggregator().phase() != Phase::Active {
            return;
        }
        self.line(30, i, 0, || "its disk is copied".into());
        self.copied = Some(self.processes[i].copy());
    }

    /// The copy comes into the place of the disk.
    pub fn bring_back(&mut self, i: usize) {
        let Some(copy) = self.copied.take() else {
            return;
        };
        self.count("restores");
        self.line(31, i, 0, || "comes back with an old disk".into());
        self.crashes += 1;
        let now = self.clock(i);
        self.processes[i].put_back(copy, now);
        self.checker.forget_life(i);
        let policy = i.checked_sub(1).map(|m| self.config.policies[m]);
        let stale = self.processes[i].take_stale();
        self.processes[i].restart(&self.config.terms, policy);
        self.processes[i].up = true;
        self.tell_money(i);
        self.backfill(i);
        let urls: Vec<_> = self.relays.iter().filter(|r| r.up).collect();
        let urls: Vec<_> = urls.into_iter().map(|r| r.url.clone()).collect();
        self.handle(i, |world| {
            for url in urls {
                world.outbox(i, OutboxInput::RelayUp(url));
            }
            world.say_again(i, &stale);
            if i == 0 {
                let restored = AggregatorInput::Restored;
                world.feed(0, Input::Aggregator(restored)).map(drop)?;
            } else {
                let recovered = ParticipantInput::Recovered;
                world.feed(i, Input::Member(recovered))?;
                world.register_again(i)?;
                world.resume_bindings(i)?;
            }
            world.look(i)
        });
    }

    /// What an earlier incarnation had not delivered gets a number of this one.
    fn say_again(&mut self, i: usize, stale: &[Row]) {
        for row in stale {
            let Ok(mail) = row.event.content.parse::<usize>() else {
                continue;
            };
            let mail = &self.mails[mail];
            if OF_A_ROUND.contains(&mail.kind) {
                continue;
            }
            let (to, payload, instead) = (mail.to, mail.payload.clone(), mail.instead.clone());
            self.post(i, to, payload, instead);
        }
    }

    /// DIDs whose registration was not answered.
    fn register_again(&mut self, i: usize) -> Result<(), Crashed> {
        let me = self.processes[i].public();
        let cas = self.config.terms.beacon == CohortBeacon::Cas;
        let core = self.processes[i].core.member();
        let items: Vec<RegisterItem> = self.processes[i]
            .dids
            .iter()
            .filter(|did| core.index_state(&did.index) == Some(IndexState::Requested))
            .map(|did| RegisterItem {
                index: did.index,
                opening: cas.then(|| did.opening(&self.cohort, me)),
            })
            .collect();
        if items.is_empty() {
            return Ok(());
        }
        self.feed(i, Input::Member(ParticipantInput::Register { items }))
            .map(drop)
    }

    /// Whether the former life of a process announced an update of one of its DIDs that is not on the disk: no
    /// resolution shows what became of it. `agent/former.rs` reads that from relays; here it is simply known.
    pub fn lost_update(&self, i: usize, did: usize) -> bool {
        let process = &self.processes[i];
        let kept = process.disk.updates.get(&did);
        let said = self.checker.said.get(&(i, did)).into_iter().flatten();
        process.lives > 0
            && said
                .clone()
                .any(|update| !kept.is_some_and(|kept| kept.contains(update)))
    }

    /// Whether somebody can not explain its DIDs any more, whatever anybody does.
    pub fn is_anything_lost(&self) -> bool {
        (1..self.processes.len()).any(|i| {
            let dids = 0..self.processes[i].dids.len();
            dids.into_iter().any(|did| self.lost_update(i, did))
        })
    }
}
