//! Giving a cohort's transactions to the chain.

use bitcoin::{Amount, Transaction};

use super::error::AgentError;
use super::money;
use super::node::{Node, NodeId};
use super::runtime::{Agent, Internal};
use crate::chain::{BroadcastError, Rejection};
use crate::fail_point;

impl Agent {
    /// Sends a transaction to the chain, if the gate permits it.
    pub(super) fn broadcast(&mut self, id: NodeId, tx: Transaction) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let network = node.terms().network;
        let txid = tx.compute_txid();
        let fee = self.fee_at_beacon(node, &tx);
        let internal = self.internal.clone();
        let permit = self.gate.permit(network).and_then(|permit| match fee {
            Some(fee) => permit.to_spend(fee),
            // What it spends was not seen on the chain: its fee was checked by those who signed it.
            None => Ok(permit),
        });
        let cleared = permit
            .map_err(AgentError::from)
            .and_then(|permit| Ok((permit, self.backend_of(network)?)));
        match cleared {
            Ok((permit, backend)) => {
                tokio::spawn(async move {
                    // Another server may have answered since: nothing goes to one of another chain.
                    let result = match backend.prove_network(network).await {
                        Ok(()) => {
                            fail_point!("before", "send_to_chain");
                            let sent = money::send(permit, &backend, &tx).await;
                            fail_point!("after", "send_to_chain");
                            sent
                        }
                        Err(error) => Err(error.into()),
                    };
                    let error = result.err();
                    let rejection = error.as_ref().and_then(BroadcastError::rejection);
                    let _ = internal.send(Internal::Broadcast {
                        id,
                        txid,
                        error: error.map(|error| error.to_string()),
                        fee_too_low: rejection == Some(Rejection::FeeTooLow),
                    });
                });
            }
            Err(refused) => {
                let _ = internal.send(Internal::Broadcast {
                    id,
                    txid,
                    error: Some(refused.to_string()),
                    fee_too_low: false,
                });
            }
        }
    }

    /// What a transaction pays, if all it spends lies at the cohort's beacon and was seen there.
    fn fee_at_beacon(&self, node: &Node, tx: &Transaction) -> Option<Amount> {
        let address = node.address()?;
        let (history, _) = self.histories.get(&address.to_string())?;
        let spent = tx.input.iter().try_fold(Amount::ZERO, |sum, input| {
            let found = history.output(&input.previous_output)?;
            sum.checked_add(found.output.value)
        })?;
        let paid = tx
            .output
            .iter()
            .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))?;
        spent.checked_sub(paid)
    }
}
