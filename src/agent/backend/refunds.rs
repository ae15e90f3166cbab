//! `cohort recover`, and which outputs of a beacon are protected.

use std::collections::BTreeMap;

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Amount, OutPoint, Transaction};

use super::AgentBackend;
use crate::agent::Agent;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::launch::{agent_failure, store_failure};
use crate::agent::money;
use crate::agent::node::{Machine, Node};
use crate::beacon::history::AddressHistory;
use crate::beacon::refund::{MIN_FEE_RATE, blocks_missing, matures_at, refundable_from};
use crate::chain::ChainError;
use crate::protocol::Seat;
use crate::protocol::aggregator::KeptRefund;
use crate::protocol::effect::Artifact;
use crate::protocol::terms::Funding;

impl Agent {
    /// What lies at a beacon, and whether it comes back should a member vanish.
    pub(super) fn output_views(&self, node: &Node) -> Vec<v::OutputView> {
        let chain = node.chain();
        let mut outputs: Vec<_> = chain.outputs.iter().collect();
        outputs.sort_by_key(|(outpoint, seen)| (seen.height.unwrap_or(u32::MAX), **outpoint));
        let lock = node.terms().refund_blocks;
        outputs
            .into_iter()
            .map(|(outpoint, seen)| {
                let value = Amount::from_sat(seen.value_sat);
                let (protection, absent) = protection(node, outpoint, value);
                let kept = kept(node, outpoint).filter(|kept| kept.value == value);
                let missing = |height| blocks_missing(height, lock, chain.height);
                v::OutputView {
                    outpoint: outpoint.to_string(),
                    value_sat: seen.value_sat,
                    confirmations: seen.height.map_or(0, |height| chain.confirmations(height)),
                    protection,
                    refund: kept.map(|kept| kept.txid),
                    blocks_missing: kept.and(seen.height).map(missing),
                    absent,
                }
            })
            .collect()
    }
}

fn kept<'a>(node: &'a Node, outpoint: &OutPoint) -> Option<&'a KeptRefund> {
    match &node.machine {
        Machine::Aggregator(machine) => machine.refund_of(outpoint),
        Machine::Participant(machine) => machine.refund_of(outpoint),
    }
}

/// Whether an output comes back, and who did not answer when that was to be seen to.
pub(super) fn protection(
    node: &Node,
    outpoint: &OutPoint,
    value: Amount,
) -> (v::Protection, Vec<Seat>) {
    let (scripts, rate) = match &node.machine {
        Machine::Aggregator(machine) => (machine.refund_scripts(), machine.fee_rate()),
        Machine::Participant(machine) => (machine.refund_scripts(), MIN_FEE_RATE),
    };
    if scripts.is_empty() {
        return (v::Protection::NoRefunds, Vec::new());
    }
    if kept(node, outpoint).is_some_and(|kept| kept.value == value) {
        return (v::Protection::Protected, Vec::new());
    }
    let state = match &node.machine {
        Machine::Aggregator(machine) if machine.refund_is_awaited(outpoint) => {
            v::Protection::Signing
        }
        Machine::Participant(machine)
            if machine.terms().funding == Funding::Aggregator
                && machine.signed_refund(outpoint) =>
        {
            v::Protection::WithPayees
        }
        _ if refundable_from(&scripts, rate).is_ok_and(|least| value < least) => {
            v::Protection::TooSmall
        }
        _ => v::Protection::Unprotected,
    };
    let absent = match &node.machine {
        Machine::Aggregator(machine) => machine.refund_failed(outpoint).unwrap_or_default(),
        Machine::Participant(_) => &[],
    };
    (state, absent.to_vec())
}

impl AgentBackend {
    /// Sends the refunds this agent holds whose lock is over; says of the others how long it lasts.
    pub(super) async fn recover(&self, args: r::Recover) -> Result<v::RefundsView, Failure> {
        let r::Recover { cohort, look } = args;
        let (id, address, script, network, lock, backend, held) = self
            .with(move |agent| {
                let id = agent.find_cohort(&cohort, None)?;
                let node = agent.node(id)?;
                let (network, lock) = (node.terms().network, node.terms().refund_blocks);
                let (Some(address), Some(script)) = (node.address(), node.script()) else {
                    return Err(Failure::new(
                        ErrorCode::WrongPhase,
                        format!("cohort {} has no beacon address", id.0.short()),
                    ));
                };
                let backend = agent
                    .chains
                    .get(&network)
                    .map(|watch| watch.backend.clone());
                let stored = agent.store.view().refunds_of_cohort(id.0);
                let mut held: BTreeMap<OutPoint, Vec<(u64, Transaction)>> = BTreeMap::new();
                for stored in stored.map_err(store_failure)? {
                    if let Ok(Artifact::Refund {
                        outpoint,
                        value_sat,
                        tx,
                    }) = serde_json::from_slice(&stored.bytes)
                    {
                        held.entry(outpoint).or_default().push((value_sat, tx));
                    }
                }
                Ok((id, address, script, network, lock, backend, held))
            })
            .await?;
        let backend = backend.ok_or_else(|| {
            Failure::new(
                ErrorCode::ChainUnreachable,
                format!("no chain backend is configured for {}", network),
            )
        })?;
        let unread = |error: ChainError| {
            Failure::new(ErrorCode::ChainUnreachable, error.to_string())
                .remedy("nothing was sent; try again when the chain can be read")
        };
        backend.prove_network(network).await.map_err(unread)?;
        let history = backend.address_history(&address).await.map_err(unread)?;
        let history = AddressHistory::new(script, history.tip_height, history.txs);
        let height = history.tip_height();
        let mut view = v::RefundsView {
            cohort: id.0,
            network,
            address: address.to_string(),
            height,
            refunds: Vec::new(),
            without_refund_sat: 0,
        };
        for lying in history.outputs() {
            if lying.spent_by.is_some() {
                continue;
            }
            let output = lying.output;
            let value_sat = output.value.to_sat();
            let refunds = held.get(&output.outpoint).map_or(&[][..], Vec::as_slice);
            let refund = refunds.iter().find(|(value, _)| *value == value_sat);
            let Some((_, tx)) = refund else {
                view.without_refund_sat = view.without_refund_sat.saturating_add(value_sat);
                continue;
            };
            let paid: u64 = tx.output.iter().map(|output| output.value.to_sat()).sum();
            let missing = output
                .height
                .map(|confirmed| blocks_missing(confirmed, lock, height));
            let (state, reason) = match missing {
                None => (v::RefundState::NotConfirmed, None),
                Some(0) if look => (v::RefundState::Ready, None),
                Some(0) => {
                    let fee = Amount::from_sat(value_sat.saturating_sub(paid));
                    // Rule 11: sending money back is a path of money too.
                    let permit = self
                        .with(move |agent| {
                            let permit = agent.gate.permit(network);
                            permit
                                .and_then(|permit| permit.to_spend(fee))
                                .map_err(|refused| agent_failure(refused.into()))
                        })
                        .await?;
                    match money::send(permit, &backend, tx).await {
                        Ok(()) => (v::RefundState::Sent, None),
                        Err(error) => (v::RefundState::Refused, Some(error.to_string())),
                    }
                }
                Some(_) => (v::RefundState::Locked, None),
            };
            view.refunds.push(v::RefundItem {
                outpoint: output.outpoint.to_string(),
                value_sat,
                txid: tx.compute_txid(),
                tx: serialize_hex(tx),
                pays_sat: paid,
                fee_sat: value_sat.saturating_sub(paid),
                matures_at: output.height.map(|confirmed| matures_at(confirmed, lock)),
                blocks_missing: missing,
                state,
                reason,
            });
        }
        Ok(view)
    }
}
