//! What to pay to a beacon, and where that stands.

use std::sync::Arc;

use bitcoin::{Amount, FeeRate};

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::events::What;
use crate::agent::launch::agent_failure;
use crate::agent::node::{Machine, Node, NodeId};
use crate::agent::runtime::Agent;
use crate::beacon::history::{AddressHistory, Changes};
use crate::beacon::signal::WEIGHT_WITH_CHANGE;
use crate::chain::ChainError;
use crate::protocol::aggregator::Phase;
use crate::protocol::funding::{Funding, FundingRules, FundingState};
use crate::protocol::participant::MemberPhase;
use crate::protocol::terms::{self, Terms};
use crate::store::Role;

/// Rounds to pay for unless told otherwise.
const DEFAULT_ROUNDS: u32 = 10;

/// Blocks within which a signal should confirm, for the fee estimate.
const FEE_TARGET: u16 = 6;

impl AgentBackend {
    /// Address, amount and state; refused before the set is frozen and where money may not move.
    pub(super) async fn fund(&self, args: r::Fund) -> Result<v::FundView, Failure> {
        let rounds = args.rounds.unwrap_or(DEFAULT_ROUNDS).max(1);
        let cohort = args.cohort.clone();
        let (id, address, terms, known, backend) = self
            .with(move |agent| {
                let id = agent.payer_of(agent.find_cohort(&cohort, None)?);
                let node = agent.node(id)?;
                // Rule 11: asking somebody to pay is a path of money too.
                agent
                    .gate
                    .permit(node.terms().network)
                    .map_err(|refused| agent_failure(refused.into()))?;
                let Some(address) = node.address().filter(|_| is_frozen(node)) else {
                    let phase = agent.summary(node).phase;
                    return Err(Failure::new(
                        ErrorCode::WrongPhase,
                        format!("cohort {} is {phase}: it must not be funded", id.0.short()),
                    )
                    .remedy("wait until all members have acknowledged the set; only then can what is paid be spent"));
                };
                let terms = node.terms().clone();
                let backend = agent
                    .chains
                    .get(&terms.network)
                    .map(|watch| watch.backend.clone());
                let known = agent.histories.get(&address.to_string()).cloned();
                Ok((id, address, terms, known, backend))
            })
            .await?;
        let mut warnings = Vec::new();
        let mut history = known.as_ref().map(|(history, _)| Arc::clone(history));
        let mut estimate = known
            .and_then(|(_, rate)| rate)
            .map(FeeRate::from_sat_per_vb_u32);
        match backend {
            None => warnings.push(format!(
                "no chain backend is configured for {}",
                terms.network
            )),
            Some(backend) => {
                let look = async {
                    backend.prove_network(terms.network).await?;
                    let history = backend.address_history(&address).await?;
                    let rate = backend.fee_rate(FEE_TARGET).await.ok().flatten();
                    Ok::<_, ChainError>((history, rate))
                };
                match look.await {
                    Ok((read, rate)) => {
                        history = Some(Arc::new(AddressHistory::new(
                            address.script_pubkey(),
                            read.tip_height,
                            read.txs,
                        )));
                        estimate = rate.or(estimate);
                    }
                    Err(error) => warnings.push(format!("the balance may be old: {error}")),
                }
            }
        }
        self.with(move |agent| {
            agent.fund_view(id, history.as_deref(), estimate, &args, rounds, warnings)
        })
        .await
    }
}

impl Agent {
    /// This agent in the role that pays, if it has that one too.
    fn payer_of(&self, id: NodeId) -> NodeId {
        let role = match self.nodes.get(&id).map(|node| node.terms().funding) {
            Some(terms::Funding::Members) => Role::Participant,
            _ => Role::Aggregator,
        };
        let payer = (id.0, role);
        if self.nodes.contains_key(&payer) {
            payer
        } else {
            id
        }
    }

    /// The rules by which outputs at a cohort's beacon count, at the rate its next signal would pay.
    pub(super) fn funding_rules(&self, node: &Node, estimate: Option<u32>) -> FundingRules {
        let terms = node.terms();
        let fees = self.money.fee_policy(terms.network);
        let rate = fees.choose_whole(estimate).clamp(1, terms.max_fee_rate);
        FundingRules {
            min_start: node.min_start(),
            depth: terms.depth.into(),
            fee_rate: FeeRate::from_sat_per_vb_u32(rate),
        }
    }

    /// What lies at a cohort's beacon, as it was read last; `None` before that.
    pub(super) fn funding_of(&self, node: &Node) -> Option<Funding> {
        let address = node.address()?;
        let (history, estimate) = self.histories.get(&address.to_string())?;
        let rules = self.funding_rules(node, *estimate);
        let gone = self
            .payments
            .get(&node.id)
            .is_some_and(crate::protocol::funding::FundingWatch::has_lapsed);
        Some(Funding::of(history, rules, gone))
    }

    /// Follows payments to a cohort's beacon. What is there when the address is first read is no news.
    pub(in crate::agent) fn watch_payments(
        &mut self,
        id: NodeId,
        history: &AddressHistory,
        touched: &Changes,
    ) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let rules = self.funding_rules(node, node.chain().fee_rate);
        let first = !self.payments.contains_key(&id);
        let touched = if first { &Changes::All } else { touched };
        let watch = self.payments.entry(id).or_default();
        let moved = watch.observe(history, touched, rules);
        for moved in moved.into_iter().filter(|_| !first) {
            self.emit(Some(id), What::Payment(moved));
        }
    }

    fn fund_view(
        &self,
        id: NodeId,
        history: Option<&AddressHistory>,
        estimate: Option<FeeRate>,
        args: &r::Fund,
        rounds: u32,
        mut warnings: Vec<String>,
    ) -> Result<v::FundView, Failure> {
        let node = self.node(id)?;
        let (Some(address), Some(script)) = (node.address(), node.script()) else {
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                format!("cohort {} has no address yet", id.0.short()),
            ));
        };
        let terms = node.terms();
        let whole =
            estimate.map(|rate| u32::try_from(rate.to_sat_per_vb_ceil()).unwrap_or(u32::MAX));
        let mut rules = self.funding_rules(node, whole);
        if let Some(asked) = args.fee_rate {
            rules.fee_rate = FeeRate::from_sat_per_kwu(asked.0.div_ceil(4));
        }
        let rate = args
            .fee_rate
            .unwrap_or_else(|| v::FeeRate(rules.fee_rate.to_sat_per_kwu().saturating_mul(4)));
        let gone = self
            .payments
            .get(&id)
            .is_some_and(crate::protocol::funding::FundingWatch::has_lapsed);
        let empty = AddressHistory::new(script, 0, []);
        let funding = Funding::of(history.unwrap_or(&empty), rules, gone);
        let out_of_range = |error: crate::beacon::signal::SignalError| {
            Failure::new(ErrorCode::InvalidValue, error.to_string())
        };
        let request = funding.request(rounds).map_err(out_of_range)?;
        let members = node.key_set().map_or(0, |keys| keys.keys().len());
        let members = u16::try_from(members).unwrap_or(u16::MAX);
        let share = match terms.funding {
            terms::Funding::Aggregator => None,
            terms::Funding::Members => Some(funding.share(rounds, members).map_err(out_of_range)?),
        };
        let send = match (terms.funding, id.1) {
            (terms::Funding::Aggregator, Role::Aggregator) => request.send,
            (terms::Funding::Members, Role::Participant) => {
                share.map_or(request.send, |share| share.min(request.send))
            }
            _ => Amount::ZERO,
        };
        // What is shown is asked for, within the caps.
        let holds = funding
            .confirmed
            .checked_add(funding.unconfirmed)
            .unwrap_or(Amount::MAX_MONEY);
        self.gate
            .permit(terms.network)
            .and_then(|permit| permit.to_ask(send, holds))
            .map_err(|refused| agent_failure(refused.into()))?;
        warnings.extend(advice(&funding, terms, id.1, request.send, send));
        let address = address.to_string();
        let label = format!("btcr2 cohort {}", id.0.short());
        Ok(v::FundView {
            cohort: id.0,
            network: terms.network,
            state: state_view(funding.state),
            balance_sat: funding.confirmed.to_sat(),
            unconfirmed_sat: funding.unconfirmed.to_sat(),
            rounds,
            fee_rate: rate,
            signal_vsize: WEIGHT_WITH_CHANGE.to_vbytes_ceil(),
            fee_per_round_sat: rules
                .fee_rate
                .fee_wu(WEIGHT_WITH_CHANGE)
                .map_or(0, Amount::to_sat),
            needed_sat: request.needed.to_sat(),
            runway: funding.runway,
            payer: match terms.funding {
                terms::Funding::Aggregator => v::Payer::Aggregator,
                terms::Funding::Members => v::Payer::Members,
            },
            share_sat: share.map(Amount::to_sat),
            send_sat: send.to_sat(),
            uri: v::FundView::bip21(&address, send.to_sat(), &label),
            address,
            warnings,
        })
    }
}

/// What to know before paying.
fn advice(
    funding: &Funding,
    terms: &Terms,
    role: Role,
    missing: Amount,
    send: Amount,
) -> Vec<String> {
    let mut advice = Vec::new();
    if funding.tip.is_none() && send > Amount::ZERO {
        advice.push(format!(
            "pay it in ONE payment: the first has to start the beacon alone, and is at least one signal at the terms' \
             ceiling of {} sat/vB",
            terms.max_fee_rate
        ));
    }
    if funding.dust > Amount::ZERO {
        advice.push(format!(
            "{} sat are in outputs that cost more than they are worth: they are never spent, and block nothing",
            funding.dust.to_sat()
        ));
    }
    if missing > Amount::ZERO && send == Amount::ZERO {
        advice.push(match (terms.funding, role) {
            (terms::Funding::Aggregator, _) => {
                "the terms say that the aggregator pays: what you pay all the same would be refunded to it".to_owned()
            }
            (terms::Funding::Members, _) => format!(
                "the terms say that the members pay: {} sat are missing in all",
                missing.to_sat()
            ),
        });
    }
    if send > Amount::ZERO && terms.refund_blocks == 0 {
        advice.push(
            "there are no refunds in these terms: if one member vanishes for good, what was paid is lost".to_owned(),
        );
    }
    if terms.funding == terms::Funding::Members && send > Amount::ZERO {
        advice.push(
            "pay from an address of your own; a refund pays every member the same share, whoever paid".to_owned(),
        );
    }
    advice
}

/// Whether every member acknowledged the set: before, what is paid may never be spent.
fn is_frozen(node: &Node) -> bool {
    match &node.machine {
        Machine::Aggregator(machine) => *machine.phase() == Phase::Active,
        Machine::Participant(machine) => *machine.phase() == MemberPhase::Active,
    }
}

pub(super) const fn state_view(state: FundingState) -> v::FundState {
    match state {
        FundingState::Awaiting => v::FundState::Awaiting,
        FundingState::Seen => v::FundState::Seen,
        FundingState::Confirmed => v::FundState::Confirmed,
        FundingState::Short => v::FundState::Short,
        FundingState::Spent => v::FundState::Spent,
        FundingState::Lapsed => v::FundState::Lapsed,
    }
}
