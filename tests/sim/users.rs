//! Users and the operator: what is done at each agent when there is something to do.

use btcr2_core::beacon::address::beacon_script;
use btcr2_core::protocol::Round;
use btcr2_core::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_core::protocol::participant::ParticipantInput;
use btcr2_core::protocol::terms::Funding;

use super::config::{DAY, Family, HOUR, MINUTE, START};
use super::extras::{Departure, Extra};
use super::members::update;
use super::process::Input;
use super::world::{Crashed, Event, SETTLING, World};

impl World {
    /// Every half hour somebody looks at each agent and does what there is to do.
    pub fn operate(&mut self) {
        for i in 1..self.processes.len() {
            if self.processes[i].up {
                self.handle(i, |world| world.use_member(i));
            }
        }
        if matches!(self.config.departs, Some((Departure::Leave(_), _))) {
            let _ = self.depart();
        }
        if self.processes[0].up {
            self.handle(0, Self::operate_aggregator);
        }
        self.finish();
        let pause = if self.is_settling() {
            2 * HOUR
        } else {
            30 * MINUTE
        };
        self.at(self.now + pause, Event::Operate);
    }

    pub fn use_member(&mut self, i: usize) -> Result<(), Crashed> {
        use btcr2_core::protocol::message::RegisterItem;
        use btcr2_core::protocol::participant::{BindingState, MemberPhase};
        use btcr2_core::protocol::terms::CohortBeacon;
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
            let free = bound && core.queue_refusal(&index).is_none();
            // One that waits is taken back now and then, more seldom where each is shown to the aggregator.
            let waits = core.update_state(&index).is_some_and(|(_, seen)| !seen);
            let real = self.config.extras.contains(&Extra::Deposits);
            let often = if real && waits { 40 } else { 3 };
            if free && !self.lost_update(i, did) && self.luck.one_in(often) {
                // Another one for the same version takes the place of one that was never announced.
                let (version, source) = self.final_version(i, did);
                let update = if real {
                    self.make_real_update(i, did, (version, source))?
                } else {
                    let made = self.processes[i].disk.updates.entry(did).or_default();
                    let number = made.len() as u32 + 1_000 * self.processes[i].lives;
                    update(&index, number)
                };
                self.checker.versions.insert(update, version + 1);
                let made = self.processes[i].disk.updates.entry(did).or_default();
                made.push(update);
                self.feed(i, Input::Member(ParticipantInput::Queue { index, update }))?;
            }
        }
        Ok(())
    }

    pub fn operate_aggregator(&mut self) -> Result<(), Crashed> {
        if matches!(
            self.config.departs,
            Some((Departure::Release(_) | Departure::Cancel, _))
        ) {
            self.depart()?;
        }
        if self.config.terms.funding == Funding::Members {
            if *self.processes[0].core.aggregator().phase() == Phase::Active {
                self.fund_by_members()?;
            }
        } else {
            self.fund_once();
        }
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
    pub fn fund_once(&mut self) {
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
    pub fn settled_at(&self) -> u64 {
        if self.config.quiet_at == START || self.config.family != Family::Faults {
            START
        } else {
            self.config.quiet_at + SETTLING
        }
    }

    /// The chaos is over, and what was put off because of it is not: there is not much to see until it is.
    pub fn is_settling(&self) -> bool {
        self.is_quiet && self.now + 4 * HOUR < self.settled_at()
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

    pub fn finish(&mut self) {
        let phase = self.processes[0].core.aggregator().phase();
        let ended = matches!(phase, Phase::Ended(_));
        let active = *phase == Phase::Active;
        let rounds = self.config.rounds as usize;
        self.done = if self.config.family != Family::Faults {
            let stuck = !active && self.now >= START + DAY;
            ended || stuck || self.rounds_over.len() >= rounds
        } else if ended {
            // Everybody has the time to hear of it.
            let ended_at = *self.ended_at.get_or_insert(self.now);
            self.now >= self.settled_at().max(ended_at + SETTLING)
        } else {
            let settled = self.settled_rounds();
            let well = |round: &&Round| self.checker.ended_well(**round);
            settled.iter().filter(well).count() >= rounds
        };
    }
}
