//! What to pay to a beacon, and where that stands.

use bitcoin::{Amount, FeeRate, Script};

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::launch::agent_failure;
use crate::agent::node::Machine;
use crate::beacon::history::AddressHistory;
use crate::beacon::signal::{
    DUST_LIMIT, WEIGHT_WITH_CHANGE, WEIGHT_WITHOUT_CHANGE, funding_needed,
};
use crate::chain::ChainError;
use crate::protocol::aggregator::Phase;
use crate::protocol::participant::MemberPhase;

/// Fee rate in sat/vB when the chain backend has no estimate, as the aggregator has it.
pub(super) const FALLBACK_FEE_RATE: u32 = 2;

/// Rounds to pay for unless told otherwise.
const DEFAULT_ROUNDS: u32 = 10;

/// Blocks within which a signal should confirm, for the fee estimate.
const FEE_TARGET: u16 = 6;

/// Unspent funds at an address, in sat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Funds {
    pub(super) confirmed: u64,
    pub(super) unconfirmed: u64,
    /// The largest single output: a chain of signals starts from one.
    pub(super) largest: u64,
    pub(super) largest_confirmed: u64,
    pub(super) outputs: usize,
}

impl Funds {
    pub(super) fn of(history: &AddressHistory, script: &Script) -> Self {
        let mut funds = Self::default();
        for output in history.outputs(script) {
            if output.spent_by.is_some() {
                continue;
            }
            let sat = output.output.value.to_sat();
            funds.outputs += 1;
            funds.largest = funds.largest.max(sat);
            if output.output.height.is_some() {
                funds.confirmed = funds.confirmed.saturating_add(sat);
                funds.largest_confirmed = funds.largest_confirmed.max(sat);
            } else {
                funds.unconfirmed = funds.unconfirmed.saturating_add(sat);
            }
        }
        funds
    }
}

/// Signals that a tip of this value pays for, one after the other.
pub(super) fn rounds_left(tip_sat: u64, rate: FeeRate) -> u32 {
    let fee = |weight| rate.fee_wu(weight).map_or(u64::MAX, Amount::to_sat);
    let last = fee(WEIGHT_WITHOUT_CHANGE).max(DUST_LIMIT.to_sat());
    match tip_sat.checked_sub(last) {
        None => 0,
        Some(rest) => {
            let before = rest / fee(WEIGHT_WITH_CHANGE).max(1);
            u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
        }
    }
}

impl AgentBackend {
    /// Address, amount and state; refused before the set is frozen and where money may not move.
    pub(super) async fn fund(&self, args: r::Fund) -> Result<v::FundView, Failure> {
        let rounds = args.rounds.unwrap_or(DEFAULT_ROUNDS).max(1);
        let cohort = args.cohort.clone();
        let (id, address, script, min_start, terms, estimate, backend) = self
            .with(move |agent| {
                let id = agent.find_cohort(&cohort, None)?;
                let node = agent.node(id)?;
                // Rule 11: asking somebody to pay is a path of money too.
                agent
                    .gate
                    .permit(node.terms().network)
                    .map_err(|refused| agent_failure(refused.into()))?;
                let frozen = match &node.machine {
                    Machine::Aggregator(machine) => *machine.phase() == Phase::Active,
                    Machine::Participant(machine) => *machine.phase() == MemberPhase::Active,
                };
                let (Some(address), Some(script), true) = (node.address(), node.script(), frozen)
                else {
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
                Ok((
                    id,
                    address,
                    script,
                    node.min_start().to_sat(),
                    terms,
                    node.chain().fee_rate,
                    backend,
                ))
            })
            .await?;
        let mut warnings = Vec::new();
        let mut funds = Funds::default();
        let mut chain_rate = estimate;
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
                    Ok((history, rate)) => {
                        let history = AddressHistory::new(history.tip_height, history.txs);
                        funds = Funds::of(&history, &script);
                        let whole = |rate: FeeRate| {
                            u32::try_from(rate.to_sat_per_vb_ceil()).unwrap_or(u32::MAX)
                        };
                        chain_rate = rate.map(whole).or(chain_rate);
                    }
                    Err(error) => warnings.push(format!("the balance is not known: {error}")),
                }
            }
        }
        // What the aggregator will use: its estimate, within the terms.
        let rate = args.fee_rate.unwrap_or_else(|| {
            let rate = chain_rate.unwrap_or(FALLBACK_FEE_RATE);
            v::FeeRate(u64::from(rate.clamp(1, terms.max_fee_rate)) * 1_000)
        });
        let fee_rate = FeeRate::from_sat_per_kwu(rate.0.div_ceil(4));
        let needed = funding_needed(rounds, fee_rate)
            .map_err(|error| Failure::new(ErrorCode::InvalidValue, error.to_string()))?
            .to_sat()
            .max(min_start);
        let has_tip = funds.largest >= min_start;
        let state = if funds.largest_confirmed >= min_start {
            v::FundState::Funded
        } else if funds.unconfirmed > 0 {
            v::FundState::Seen
        } else if funds.confirmed > 0 {
            v::FundState::Short
        } else {
            v::FundState::Awaiting
        };
        if min_start == needed && rounds_left(min_start, fee_rate) > rounds {
            warnings.push(format!(
                "{min_start} sat is the least that can start a beacon: one signal at the terms' ceiling of {} sat/vB",
                terms.max_fee_rate
            ));
        }
        let send = if has_tip { 0 } else { needed };
        if send > 0 {
            warnings.push("pay it in ONE payment: a signal spends one output".to_owned());
        } else if funds.largest < needed {
            warnings.push(format!(
                "the beacon's output pays for {} more rounds at this rate; another payment is used only when that one is spent",
                rounds_left(funds.largest, fee_rate)
            ));
        }
        let address = address.to_string();
        let label = format!("btcr2 cohort {}", id.0.short());
        Ok(v::FundView {
            cohort: id.0,
            network: terms.network,
            state,
            balance_sat: funds.confirmed,
            unconfirmed_sat: funds.unconfirmed,
            rounds,
            fee_rate: rate,
            signal_vsize: WEIGHT_WITH_CHANGE.to_vbytes_ceil(),
            fee_per_round_sat: fee_rate
                .fee_wu(WEIGHT_WITH_CHANGE)
                .map_or(0, Amount::to_sat),
            needed_sat: needed,
            send_sat: send,
            uri: v::FundView::bip21(&address, send, &label),
            address,
            warnings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_left_is_the_inverse_of_what_rounds_need() {
        for rate in [1, 2, 7, 50] {
            let rate = FeeRate::from_sat_per_vb(rate).unwrap();
            assert_eq!(rounds_left(0, rate), 0);
            for rounds in [1, 2, 3, 10, 500] {
                let needed = funding_needed(rounds, rate).unwrap().to_sat();
                assert_eq!(rounds_left(needed, rate), rounds, "{rounds} at {rate}");
                assert_eq!(rounds_left(needed - 1, rate), rounds - 1);
            }
        }
    }
}
