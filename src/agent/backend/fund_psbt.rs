//! `cohort psbt`, and `cohort fund --psbt`: the refunds of a funding transaction are signed by all before it is sent.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::{Amount, OutPoint};

use super::AgentBackend;
use super::refunds::protection;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::launch::agent_failure;
use crate::agent::money;
use crate::agent::node::{Machine, NodeId, NodeInput};
use crate::agent::{Agent, AgentError};
use crate::beacon::psbt::{Funding, check_funding};
use crate::chain::BroadcastError;
use crate::network::Network;
use crate::protocol::aggregator::AggregatorInput;
use crate::store::Role;

/// Pause between two looks at whether the refunds are complete.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest PSBT that is read, in bytes of base64.
const MAX_PSBT: usize = 200_000;

impl AgentBackend {
    /// Has the refunds of a funding transaction signed, and only then gives it back, or sends it.
    pub(super) async fn fund_psbt(&self, args: r::FundPsbt) -> Result<v::FundPsbtView, Failure> {
        let invalid = |text: String| Failure::new(ErrorCode::InvalidValue, text);
        let text: String = args.psbt.split_whitespace().collect();
        if text.len() > MAX_PSBT {
            return Err(invalid("the PSBT is too long".to_owned()));
        }
        let bytes = STANDARD
            .decode(&text)
            .map_err(|_| invalid("a PSBT is base64, or a file of its bytes".to_owned()))?;
        let cohort = args.cohort.clone();
        let (id, network, seconds, funding) = self
            .with(move |agent| {
                let id = agent.find_cohort(&cohort, Some(Role::Aggregator))?;
                let node = agent.node(id)?;
                let network = node.terms().network;
                let refused = |refused| agent_failure(AgentError::from(refused));
                // Rule 11: what gives a funding transaction back asks somebody to send it.
                let permit = agent.gate.permit(network).map_err(refused)?;
                let Some(script) = node.script() else {
                    return Err(Failure::new(
                        ErrorCode::WrongPhase,
                        format!("cohort {} has no beacon address yet", id.0.short()),
                    ));
                };
                let funding = check_funding(&bytes, &script)
                    .map_err(|fault| Failure::new(ErrorCode::InvalidValue, fault.to_string()))?;
                let amount = funding
                    .outputs
                    .iter()
                    .try_fold(Amount::ZERO, |sum, (_, value)| sum.checked_add(*value))
                    .unwrap_or(Amount::MAX_MONEY);
                let lying = node.chain().outputs.values();
                let holds = lying.fold(0_u64, |sum, seen| sum.saturating_add(seen.value_sat));
                permit
                    .to_ask(amount, Amount::from_sat(holds))
                    .map_err(refused)?;
                // Two rounds of messages, each as long as the terms give a session.
                let seconds = u64::from(node.terms().signing_seconds).saturating_mul(2);
                let outputs = funding
                    .outputs
                    .iter()
                    .map(|(outpoint, value)| (*outpoint, value.to_sat()))
                    .collect();
                agent.command(
                    id,
                    NodeInput::Aggregator(AggregatorInput::Protect { outputs }),
                    "have the refunds signed",
                )?;
                Ok((id, network, seconds, funding))
            })
            .await?;
        let patience = Duration::from_secs(args.wait_s.unwrap_or(seconds));
        let waiting = self.until_protected(id, &funding);
        let outputs = match tokio::time::timeout(patience, waiting).await {
            Ok(outputs) => outputs?,
            Err(_) => {
                return Err(Failure::new(
                    ErrorCode::Timeout,
                    "not every member has signed the refund: the funding transaction is not given back",
                )
                .remedy("send nothing yet; `btcr2-agent cohort show` names who is awaited"));
            }
        };
        let sent = if args.broadcast {
            self.send_funding(network, &funding).await?;
            true
        } else {
            false
        };
        Ok(v::FundPsbtView {
            cohort: id.0,
            network,
            txid: funding.txid,
            outputs,
            replaceable: funding.replaceable,
            signed: funding.signed.is_some(),
            psbt: text,
            sent,
        })
    }

    /// Waits until every output has its refund. A session that failed is said at once, with who did not answer.
    async fn until_protected(
        &self,
        id: NodeId,
        funding: &Funding,
    ) -> Result<Vec<v::OutputView>, Failure> {
        loop {
            let outputs = funding.outputs.clone();
            let found = self
                .with(move |agent| {
                    let node = agent.node(id)?;
                    let Machine::Aggregator(machine) = &node.machine else {
                        return Ok(Vec::new());
                    };
                    let view = |(outpoint, value): &(OutPoint, Amount)| {
                        let (state, absent) = protection(node, outpoint, *value);
                        v::OutputView {
                            outpoint: outpoint.to_string(),
                            value_sat: value.to_sat(),
                            confirmations: 0,
                            protection: state,
                            refund: machine.refund_of(outpoint).map(|kept| kept.txid),
                            blocks_missing: None,
                            absent,
                        }
                    };
                    Ok(outputs.iter().map(view).collect())
                })
                .await?;
            let is = |wanted| move |output: &v::OutputView| output.protection == wanted;
            if found.iter().all(is(v::Protection::Protected)) {
                return Ok(found);
            }
            let settled = |output: &v::OutputView| {
                !matches!(
                    output.protection,
                    v::Protection::Protected | v::Protection::Signing
                )
            };
            if let Some(failed) = found.iter().find(|output| settled(output)) {
                let seats: Vec<String> = failed.absent.iter().map(ToString::to_string).collect();
                let why = if seats.is_empty() {
                    failed.protection.to_string()
                } else {
                    format!("no answer from seat {}", seats.join(", "))
                };
                return Err(Failure::new(
                    ErrorCode::RefusedByPeer,
                    format!("the refund of {} is not signed: {why}", failed.outpoint),
                )
                .remedy("send nothing: it would lie there without a refund; try again later"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn send_funding(&self, network: Network, funding: &Funding) -> Result<(), Failure> {
        let Some(tx) = funding.signed.clone() else {
            return Err(Failure::new(
                ErrorCode::InvalidValue,
                "the refunds are signed, but the funding transaction is not: it can not be sent",
            )
            .remedy("sign and send it with your wallet, or give the signed PSBT"));
        };
        let fee = funding.fee;
        let (permit, backend) = self
            .with(move |agent| {
                let refused = |refused| agent_failure(AgentError::from(refused));
                let permit = agent.gate.permit(network).map_err(refused)?;
                let permit = permit.to_spend(fee).map_err(refused)?;
                Ok((permit, agent.backend_of(network).map_err(agent_failure)?))
            })
            .await?;
        let sent = money::send(permit, &backend, &tx).await;
        sent.map_err(|error: BroadcastError| {
            Failure::new(ErrorCode::ChainUnreachable, error.to_string())
                .remedy("its refunds are signed: it may be sent in any other way")
        })
    }
}

impl Agent {
    /// What is being signed now, as PSBTs.
    pub(super) fn psbts(&self, reference: &r::CohortRef) -> Result<v::PsbtsView, Failure> {
        let id = self.find_cohort(reference, None)?;
        let node = self.node(id)?;
        let unsigned = match &node.machine {
            Machine::Aggregator(machine) => machine.unsigned(),
            Machine::Participant(machine) => machine.unsigned(),
        };
        let Some(keys) = node.key_set().filter(|_| !unsigned.is_empty()) else {
            return Err(Failure::new(
                ErrorCode::NotFound,
                format!("nothing is being signed in cohort {} now", id.0.short()),
            )
            .remedy("ask again while a round or a refund session is open"));
        };
        let psbts = unsigned.iter().map(|unsigned| {
            let psbt = unsigned
                .to_psbt(keys)
                .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
            Ok(v::PsbtView {
                label: unsigned.label,
                txid: unsigned.txid(),
                psbt: STANDARD.encode(psbt.serialize()),
            })
        });
        Ok(v::PsbtsView {
            cohort: id.0,
            network: node.terms().network,
            psbts: psbts.collect::<Result<_, Failure>>()?,
        })
    }
}
