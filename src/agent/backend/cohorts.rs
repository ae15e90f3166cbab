//! Cohorts as people see them, and what is done to them.

use super::AgentBackend;
use super::confirmations::alarm_view;
use super::delivery::{delivery_view, members, number};
use super::endings::end_view;
use super::joining::payee_script;
use super::member_views::member_views;
use super::next_steps::next_step;
use super::parse_key;
use super::reforming::judge;
use super::rounds::running_round;
use super::terms::{build_terms, terms_view};
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::agent_failure;
use crate::agent::node::{Machine, Node, NodeId, NodeInput};
use crate::agent::runtime::Agent;
use crate::keys::NostrKey;
use crate::nostr::advert::ShareLink;
use crate::nostr::policy::advertised_relays;
use crate::protocol::aggregator::{AggregatorInput, Phase};
use crate::protocol::chain_view::TipView;
use crate::protocol::effect::{Ignored, Outcome};
use crate::protocol::message::{Message, RoundRequest};
use crate::protocol::participant::{MemberPhase, ParticipantInput};
use crate::protocol::terms::CohortBeacon;
use crate::store::Role;

impl AgentBackend {
    /// Makes a cohort with these terms and publishes its advert.
    pub(super) async fn advertise(&self, args: r::Advertise) -> Result<v::CohortView, Failure> {
        let aggregator = self.handle().identity();
        let mut salt = [0; 16];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut salt);
        let now = self.with(|agent| Ok(agent.now())).await?;
        let terms = build_terms(&args, self.config(), aggregator, salt, now)?;
        let invited = args
            .invite
            .iter()
            .map(|key| parse_key(key).map(|(key, _)| key))
            .collect::<Result<Vec<NostrKey>, Failure>>()?;
        let payee = args
            .refund_to
            .as_deref()
            .map(|address| payee_script(address, terms.network))
            .transpose()?;
        self.use_relays_of(terms.network).await?;
        self.with(move |agent| {
            if agent.link.relays().iter().all(|relay| !relay.write) {
                return Err(Failure::new(
                    ErrorCode::RelaysUnreachable,
                    format!("no relay is configured for {}", terms.network),
                )
                .remedy("add one with `btcr2-agent relay add <url>`"));
            }
            let cohort = agent
                .create_cohort_refunding(terms, invited, payee)
                .map_err(agent_failure)?;
            agent.cohort_view((cohort, Role::Aggregator), 0)
        })
        .await
    }
}

impl Agent {
    /// The cohort a command names, in the role it needs.
    pub(super) fn find_cohort(
        &self,
        reference: &r::CohortRef,
        role: Option<Role>,
    ) -> Result<NodeId, Failure> {
        let named: Vec<NodeId> = self
            .nodes
            .keys()
            .filter(|id| id.0.to_string().starts_with(reference.as_str()))
            .copied()
            .collect();
        let Some(first) = named.first() else {
            return Err(Failure::new(
                ErrorCode::NotFound,
                format!("this agent has no cohort {reference}"),
            )
            .remedy("`btcr2-agent cohort list --all` shows all of them"));
        };
        if let Some(other) = named.iter().find(|id| id.0 != first.0) {
            return Err(Failure::new(
                ErrorCode::Ambiguous,
                format!("{reference} fits both {} and {}", first.0, other.0),
            )
            .remedy("give more digits"));
        }
        // An agent may be both; it is shown as the one that knows more.
        let mut roles = [Role::Aggregator, Role::Participant].into_iter();
        let fits = |wanted: Role| {
            role.is_none_or(|role| role == wanted) && named.iter().any(|id| id.1 == wanted)
        };
        match (roles.find(|wanted| fits(*wanted)), role) {
            (Some(role), _) => Ok((first.0, role)),
            (None, Some(Role::Aggregator)) => Err(Failure::new(
                ErrorCode::WrongRole,
                format!("only the aggregator of {} may do this", first.0.short()),
            )
            .remedy("this agent is a member of it")),
            (None, _) => Err(Failure::new(
                ErrorCode::WrongRole,
                format!("only a member of {} may do this", first.0.short()),
            )
            .remedy("this agent aggregates it")),
        }
    }

    pub(super) fn node(&self, id: NodeId) -> Result<&Node, Failure> {
        self.nodes.get(&id).ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!("this agent has no cohort {}", id.0),
            )
        })
    }

    /// Feeds what a person asked for, and says in words why it counts for nothing if so.
    pub(super) fn command(
        &mut self,
        id: NodeId,
        input: NodeInput,
        what: &str,
    ) -> Result<(), Failure> {
        let outcome = self.feed(id, input).map_err(agent_failure)?;
        let reason = match outcome {
            Outcome::Accepted | Outcome::Blamed(_) | Outcome::Ignored(Ignored::Duplicate) => {
                return Ok(());
            }
            Outcome::Ignored(reason) => reason,
        };
        let phase = self.summary(self.node(id)?).phase;
        let cohort = id.0.short();
        Err(match reason {
            Ignored::Contradiction(why) => {
                Failure::new(ErrorCode::WrongPhase, format!("cannot {what}: {why}"))
            }
            Ignored::TooLate => Failure::new(
                ErrorCode::WrongPhase,
                format!(
                    "too late to {what}: a partial signature was given, so that the signal may confirm whatever is said now"
                ),
            ),
            _ => Failure::new(
                ErrorCode::WrongPhase,
                format!("cannot {what}: cohort {cohort} is {phase}"),
            ),
        })
    }

    pub(super) fn cohort_list(&self, all: bool) -> v::CohortListView {
        let mut nodes: Vec<&Node> = self
            .nodes
            .values()
            .filter(|node| all || !node.is_over())
            .collect();
        nodes.sort_by_key(|node| std::cmp::Reverse((node.created, node.id)));
        v::CohortListView {
            now: self.now(),
            cohorts: nodes.into_iter().map(|node| self.summary(node)).collect(),
        }
    }

    /// Aggregator: opens a round. Member: tells the aggregator that updates wait.
    pub(super) fn announce(&mut self, reference: &r::CohortRef) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(reference, None)?;
        if id.1 == Role::Aggregator {
            // The newest height may be what a refusal would complain of.
            self.sync_chain(id, true).map_err(agent_failure)?;
            self.command(
                id,
                NodeInput::Aggregator(AggregatorInput::OpenRound),
                "open a round",
            )?;
            return self.cohort_view(id, super::DEFAULT_ROUNDS);
        }
        let node = self.node(id)?;
        let Machine::Participant(machine) = &node.machine else {
            return Err(agent_failure(crate::agent::AgentError::Defect(
                "a member's node is not one",
            )));
        };
        if *machine.phase() != MemberPhase::Active {
            let phase = self.summary(node).phase;
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                format!(
                    "no round can be asked for: cohort {} is {phase}",
                    id.0.short()
                ),
            ));
        }
        let pending = machine.waiting_updates();
        if pending == 0 {
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                "no update of this agent waits to be announced",
            )
            .remedy("queue one with `btcr2-agent did update`; members ask for a round by that"));
        }
        let (aggregator, trigger) = (machine.terms().aggregator, machine.terms().pending_trigger);
        let request = Message::RoundRequest(RoundRequest { pending });
        self.send_plain(id, aggregator, request)
            .map_err(agent_failure)?;
        let mut view = self.cohort_view(id, super::DEFAULT_ROUNDS)?;
        view.summary.next_step = Some(if trigger > 0 {
            format!(
                "asked: the aggregator opens a round when {trigger} updates wait in the cohort, and on its schedule"
            )
        } else {
            "asked: the terms leave it to the aggregator when it opens the next round".to_owned()
        });
        Ok(view)
    }

    pub(super) fn close_cohort(
        &mut self,
        reference: &r::CohortRef,
    ) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(reference, Some(Role::Aggregator))?;
        self.command(
            id,
            NodeInput::Aggregator(AggregatorInput::Close),
            "close the seats",
        )?;
        self.cohort_view(id, 0)
    }

    pub(super) fn cancel_cohort(
        &mut self,
        reference: &r::CohortRef,
    ) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(reference, Some(Role::Aggregator))?;
        self.command(
            id,
            NodeInput::Aggregator(AggregatorInput::Cancel),
            "cancel the cohort",
        )?;
        self.cohort_view(id, super::DEFAULT_ROUNDS)
    }

    /// The command line has asked; what leaving ends was said.
    pub(super) fn leave_cohort(
        &mut self,
        reference: &r::CohortRef,
    ) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(reference, Some(Role::Participant))?;
        self.command(
            id,
            NodeInput::Participant(ParticipantInput::Leave {
                even_if_frozen: true,
            }),
            "leave",
        )?;
        self.cohort_view(id, super::DEFAULT_ROUNDS)
    }

    pub(super) fn invite(&mut self, args: &r::Invite) -> Result<v::InviteView, Failure> {
        let id = self.find_cohort(&args.cohort, Some(Role::Aggregator))?;
        let invited = args
            .keys
            .iter()
            .map(|key| parse_key(key).map(|(key, _)| key))
            .collect::<Result<Vec<NostrKey>, Failure>>()?;
        let hints = self.relay_hints();
        let relays = hints.iter().map(ToString::to_string).collect();
        self.command(
            id,
            NodeInput::Aggregator(AggregatorInput::Advertise {
                invited: invited.clone(),
                relays,
                payee: None,
            }),
            "invite",
        )?;
        let node = self.node(id)?;
        let delivery = self
            .sent_by(node)?
            .iter()
            .filter(|row| {
                let to = row.lane.map(|lane| lane.recipient);
                row.kind == "invite" && to.is_some_and(|to| invited.contains(&to))
            })
            .map(|row| delivery_view(node, row))
            .collect();
        Ok(v::InviteView {
            cohort: id.0,
            invited,
            delivery,
        })
    }

    /// One line about a cohort.
    pub(super) fn summary(&self, node: &Node) -> v::CohortSummaryView {
        let terms = node.terms();
        let phase = phase(node);
        let known = members(node).len();
        let fixed = node.key_set().is_some();
        let of = if fixed {
            number(known)
        } else {
            terms.seats_max
        };
        let last = node.journal.rounds.last_key_value();
        let (deadline, waiting_for) = match &node.machine {
            Machine::Aggregator(machine) => {
                let round = machine.open_round_now().map(|round| round.until);
                let deadline = match machine.phase() {
                    Phase::Draft | Phase::Open => Some(terms.join_by),
                    Phase::Forming { ack_by } => Some(*ack_by),
                    Phase::Active => round.or_else(|| machine.next_opening()),
                    Phase::Ended(_) => None,
                };
                (deadline, machine.waiting_for())
            }
            Machine::Participant(machine) => {
                let round = machine.open_round_now();
                let waiting = round
                    .as_ref()
                    .filter(|round| !round.responded || (round.attempt > 0 && !round.signed))
                    .and_then(|_| machine.my_seat());
                let deadline = match machine.phase() {
                    MemberPhase::New | MemberPhase::Asked | MemberPhase::Seated(_) => {
                        Some(terms.join_by)
                    }
                    _ => round.map(|round| round.until),
                };
                (deadline, waiting.into_iter().collect())
            }
        };
        v::CohortSummaryView {
            cohort: node.id.0,
            name: (!terms.name.is_empty()).then(|| PeerText::new(&terms.name)),
            role: role_view(node.id.1),
            network: terms.network,
            beacon: beacon_view(terms.beacon),
            phase,
            members: v::Tally {
                have: number(known),
                of,
            },
            round: last.map(|(round, _)| *round),
            deadline,
            waiting_for,
            next_step: self.next_step(node, phase),
        }
    }

    /// One cohort with everything.
    pub(super) fn cohort_view(&self, id: NodeId, rounds: u32) -> Result<v::CohortView, Failure> {
        let node = self.node(id)?;
        let running = running_round(node);
        let limit = usize::try_from(rounds).unwrap_or(usize::MAX);
        let past_rounds = node
            .journal
            .rounds
            .iter()
            .rev()
            .filter(|(round, _)| Some(**round) != running)
            .take(limit)
            .map(|(round, record)| self.round_view(node, *round, record, false))
            .collect();
        let round = running.map(|round| {
            let record = node.journal.rounds.get(&round).cloned();
            self.round_view(node, round, &record.unwrap_or_default(), true)
        });
        let terms = node.terms();
        let own_seat = match &node.machine {
            Machine::Participant(machine) => machine.my_seat(),
            Machine::Aggregator(_) => None,
        };
        let hints = match id.1 {
            Role::Aggregator => self.relay_hints(),
            Role::Participant => {
                let named = advertised_relays(node.relays.iter().map(String::as_str), true);
                if named.is_empty() {
                    self.relay_hints()
                } else {
                    named
                }
            }
        };
        let link = ShareLink {
            cohort: id.0,
            author: terms.aggregator,
            relays: hints.clone(),
        };
        let naddr = if terms.invite_only {
            None
        } else {
            link.encode().ok()
        };
        Ok(v::CohortView {
            now: self.now(),
            summary: self.summary(node),
            alarms: node
                .journal
                .open_alarms()
                .map(|alarm| alarm_view(node, alarm))
                .collect(),
            aggregator: terms.aggregator,
            naddr,
            advert: (id.1 == Role::Aggregator)
                .then(|| self.advert_view(id.0))
                .flatten(),
            terms: terms_view(terms, &hints),
            own_seat,
            own_key: (id.1 == Role::Participant).then(|| node.own.public()),
            members: {
                let mut members = member_views(node, own_seat);
                for member in &mut members {
                    judge(member, node);
                }
                members
            },
            beacon: self.beacon_view(node),
            round,
            next_round_at: self.next_round_at(node),
            past_rounds,
            delivery: self.delivery_views(node)?,
            reform: self.reform_view(node),
            end: end_view(node),
        })
    }

    /// What its user can do now. Where money may not move nobody is told to pay (rule 11).
    fn next_step(&self, node: &Node, phase: v::CohortPhase) -> Option<String> {
        if phase == v::CohortPhase::Funding
            && let Err(refused) = self.gate.permit(node.terms().network)
        {
            return Some(refused.to_string());
        }
        if let Some(step) = self.reform_step(node) {
            return Some(step);
        }
        next_step(node, phase)
    }

    /// The DID behind an index, or the beginning of the index.
    pub(super) fn name_of(&self, index: &crate::hash::SmtIndex) -> String {
        let did = self.did_of_index(index).ok().flatten();
        did.unwrap_or_else(|| index.to_string().chars().take(16).collect())
    }
}

/// Where a cohort stands.
fn phase(node: &Node) -> v::CohortPhase {
    let frozen = || {
        let chain = node.chain();
        let unfunded = matches!(chain.tip, TipView::NoFunds | TipView::Unconfirmed { .. });
        if running_round(node).is_some() {
            v::CohortPhase::Round
        } else if unfunded && chain.signals.is_empty() {
            v::CohortPhase::Funding
        } else {
            v::CohortPhase::Idle
        }
    };
    match &node.machine {
        Machine::Aggregator(machine) => match machine.phase() {
            Phase::Draft | Phase::Open => v::CohortPhase::Forming,
            Phase::Forming { .. } => v::CohortPhase::Acknowledging,
            Phase::Active => frozen(),
            Phase::Ended(_) => v::CohortPhase::Ended,
        },
        Machine::Participant(machine) => match machine.phase() {
            MemberPhase::New | MemberPhase::Asked => v::CohortPhase::Forming,
            MemberPhase::Seated(_) => v::CohortPhase::Seated,
            MemberPhase::Acknowledged => v::CohortPhase::Acknowledging,
            MemberPhase::Active => frozen(),
            MemberPhase::Refused(_) | MemberPhase::Released | MemberPhase::Ended(_) => {
                v::CohortPhase::Ended
            }
        },
    }
}

pub(super) const fn role_view(role: Role) -> v::Role {
    match role {
        Role::Aggregator => v::Role::Aggregator,
        Role::Participant => v::Role::Participant,
    }
}

pub(super) const fn beacon_view(beacon: CohortBeacon) -> v::BeaconType {
    match beacon {
        CohortBeacon::Smt => v::BeaconType::Smt,
        CohortBeacon::Cas => v::BeaconType::Cas,
    }
}
