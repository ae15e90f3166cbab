//! `cohort reform`, `cohort migrate`, and how members behave.

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::journal::RoundRecord;
use crate::agent::launch::agent_failure;
use crate::agent::leaving::ExitStep;
use crate::agent::node::{Machine, Node, NodeId};
use crate::agent::runtime::Agent;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::protocol::conduct::{Conduct, SeatConduct};
use crate::protocol::evidence::Blame;
use crate::protocol::ids::Seat;
use crate::protocol::participant::MemberPhase;
use crate::store::Role;

impl AgentBackend {
    /// Moves every DID that lists the beacon of a cohort to that of the one that took its place: one update each, which
    /// adds the new beacon and removes the old one, announced by the DID's own beacon.
    pub(super) async fn migrate(&self, args: r::Migrate) -> Result<v::MigrationView, Failure> {
        let named = args.cohort.clone();
        let (from, to, dids) = self.with(move |agent| agent.migrating(&named)).await?;
        let mut view = v::MigrationView {
            from,
            to,
            plan: args.plan,
            dids: Vec::new(),
        };
        for (did, removes, problem) in dids {
            let mut row = v::MigratingView {
                did: did.clone(),
                removes,
                joining: None,
                problem: problem.map(|text| PeerText::new(&text)),
            };
            if row.problem.is_none() {
                let bind = r::BindDid {
                    did: did.parse().map_err(|error: r::ParseNameError| {
                        Failure::new(ErrorCode::Internal, error.to_string())
                    })?,
                    cohort: args.cohort.clone(),
                    service: None,
                    fee_rate: args.fee_rate,
                    dry_run: args.plan,
                };
                match self.bind_did(bind).await {
                    Ok(joining) => row.joining = Some(joining),
                    // One DID's trouble is not another one's.
                    Err(failure) => row.problem = Some(PeerText::new(&failure.to_string())),
                }
            }
            view.dids.push(row);
        }
        Ok(view)
    }
}

/// A DID, the services to be removed, and what stands in its way.
type Migrating = (String, Vec<String>, Option<String>);

impl Agent {
    pub(super) fn reform(
        &mut self,
        args: &r::ReformCohort,
        opt_in: u64,
    ) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(&args.cohort, Some(Role::Aggregator))?;
        let reason = args.reason.clone().unwrap_or_default();
        let new = self
            .reform_cohort(id.0, &args.without, &reason, opt_in)
            .map_err(agent_failure)?;
        let mut view = self.cohort_view((new, Role::Aggregator), 0)?;
        view.summary.next_step = Some(format!(
            "offered to the others; they join with `cohort join {new}`. When their DIDs have moved, `cohort cancel {}`",
            id.0.short()
        ));
        Ok(view)
    }

    /// The DIDs that have to move to a cohort, and the cohort they come from.
    fn migrating(
        &self,
        cohort: &r::CohortRef,
    ) -> Result<(CohortId, CohortId, Vec<Migrating>), Failure> {
        let id = self.find_cohort(cohort, Some(Role::Participant))?;
        let Some((old, _)) = self.offered_in(id.0) else {
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                format!("cohort {} took the place of no other", id.0.short()),
            )
            .remedy(
                "name the new cohort; `did register --via singleton` adds a beacon of any cohort",
            ));
        };
        let active = matches!(&self.node(id)?.machine, Machine::Participant(machine)
            if *machine.phase() == MemberPhase::Active);
        if !active {
            let phase = self.summary(self.node(id)?).phase;
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                format!("cohort {} is {phase}: its set is not frozen", id.0.short()),
            )
            .remedy("wait until all of its members acknowledged it"));
        }
        let from = old.id.0;
        let plan = self.exit_plan(from).map_err(agent_failure)?;
        let mut dids = Vec::new();
        for exiting in plan.dids {
            let problem = match exiting.step {
                ExitStep::Remove(_) | ExitStep::Removing(_) => None,
                ExitStep::OnlyBeacon => Some(
                    "its document lists no beacon of its own, which could announce the update: this takes a round of \
                     the old cohort"
                        .to_owned(),
                ),
                ExitStep::Waiting(why) => Some(why),
                ExitStep::Former | ExitStep::Deactivated | ExitStep::NeverListed => continue,
            };
            dids.push((exiting.did.to_string(), exiting.services, problem));
        }
        Ok((from, id.0, dids))
    }

    pub(super) fn reform_view(&self, node: &Node) -> Option<v::ReformView> {
        let offer = node.offer()?;
        let own = match &node.machine {
            Machine::Participant(machine) => machine.my_seat(),
            Machine::Aggregator(_) => None,
        };
        let without = offer.without.iter().map(|(left, proved)| v::LeftOutView {
            seat: left.seat,
            key: key_of(node, left.seat),
            missed_rounds: left.missed,
            faults: left
                .blamed
                .iter()
                .zip(proved)
                .map(|(blame, proved)| fault_view(blame, *proved))
                .collect(),
        });
        Some(v::ReformView {
            cohort: offer.cohort,
            join_by: offer.terms.join_by,
            without: without.collect(),
            reason: (!offer.reason.is_empty()).then(|| PeerText::new(&offer.reason)),
            leaves_me_out: own.is_some_and(|own| offer.leaves_out(own)),
            joined: self.nodes.contains_key(&(offer.cohort, node.id.1)),
        })
    }

    /// What its user can do about members that stall, or about the offer to go on without some.
    pub(super) fn reform_step(&self, node: &Node) -> Option<String> {
        let Some(offer) = self.reform_view(node) else {
            let Machine::Aggregator(machine) = &node.machine else {
                return None;
            };
            let seats: Vec<String> = machine
                .conduct()
                .stalling(self.service.stalled_after)
                .map(|s| s.to_string())
                .collect();
            let members = machine.set().map_or(0, |(set, _)| set.keys.len());
            return (!seats.is_empty() && seats.len() < members).then(|| {
                format!(
                    "it stalls: `cohort reform {} --without {}` goes on without",
                    node.id.0.short(),
                    seats.join(",")
                )
            });
        };
        let new = offer.cohort;
        match node.id.1 {
            Role::Aggregator => None,
            Role::Participant if offer.leaves_me_out => Some(format!(
                "the others are offered to go on without this agent, as cohort {}",
                new.short()
            )),
            Role::Participant if !offer.joined => Some(format!(
                "the aggregator offers to go on without some seats: `cohort join {new}`"
            )),
            Role::Participant => {
                let id: NodeId = (new, Role::Participant);
                let frozen = self
                    .nodes
                    .get(&id)
                    .is_some_and(|node| node.phase_name() == "active");
                frozen.then(|| format!("move its DIDs: `cohort migrate {} --plan`", new.short()))
            }
        }
    }
}

fn key_of(node: &Node, seat: Seat) -> Option<NostrKey> {
    match &node.machine {
        Machine::Aggregator(machine) => machine.set()?.0.key_of(seat),
        Machine::Participant(machine) => machine.set()?.0.key_of(seat),
    }
}

fn fault_view(blame: &Blame, proved: bool) -> v::FaultView {
    v::FaultView {
        fault: blame.fault.name().to_owned(),
        round: blame.fault.round(),
        known_by: if proved {
            v::Knowledge::Evidence
        } else {
            v::Knowledge::Claim
        },
        evidence: serde_json::to_value(blame).unwrap_or_default(),
    }
}

/// Fills in how a member behaves, and what is waited for.
pub(super) fn judge(view: &mut v::MemberView, node: &Node) {
    let conduct: &Conduct = match &node.machine {
        Machine::Aggregator(machine) => machine.conduct(),
        Machine::Participant(machine) => machine.conduct(),
    };
    if let Some(SeatConduct {
        missed, offences, ..
    }) = conduct.of(view.seat)
    {
        view.missed_rounds = *missed;
        let offences = offences.iter();
        view.faults = offences
            .map(|offence| fault_view(&offence.blame, offence.proved))
            .collect();
    }
    if view.state == v::MemberState::Awaited {
        view.waits_for = awaited(node);
    }
}

/// What the current step of a cohort waits for from somebody.
fn awaited(node: &Node) -> Option<String> {
    let round = match &node.machine {
        Machine::Aggregator(machine) => {
            let round = machine.open_round_now();
            round.map(|round| (round.round, round.attempt, machine.wants_nonces()))
        }
        Machine::Participant(machine) => {
            let round = machine.open_round_now();
            round.map(|round| (round.round, round.attempt, false))
        }
    };
    Some(match round {
        None if node.phase_name() == "forming" => "acknowledgement of the set".to_owned(),
        None => return None,
        Some((round, 0, _)) => format!("response to round {round}"),
        Some((round, attempt, true)) => format!("nonces for session {attempt} of round {round}"),
        Some((round, attempt, false)) => format!("signature in session {attempt} of round {round}"),
    })
}

/// Whom a failed round is put down to.
pub(super) fn culprits(
    node: &Node,
    record: &RoundRecord,
    absent: &[Seat],
    absence: v::Knowledge,
) -> Vec<v::CulpritView> {
    let away = absent.iter().map(|seat| v::CulpritView {
        seat: Some(*seat),
        key: key_of(node, *seat),
        did: "absent".to_owned(),
        known_by: absence,
    });
    let seats = super::delivery::members(node);
    let blamed = record.blamed.iter().map(|(key, fault, proved)| {
        let seat = seats.iter().position(|member| member == key);
        v::CulpritView {
            seat: seat.and_then(|seat| u16::try_from(seat).ok()).map(Seat),
            key: Some(*key),
            did: fault.clone().into_owned(),
            known_by: if *proved {
                v::Knowledge::Evidence
            } else {
                v::Knowledge::Claim
            },
        }
    });
    away.chain(blamed).collect()
}
