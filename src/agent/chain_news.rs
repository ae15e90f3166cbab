//! What the polls of the chain found, handed to the cohorts it concerns.

use std::sync::Arc;

use bitcoin::Address;

use super::error::AgentError;
use super::events::What;
use super::node::{Machine, Node, NodeId};
use super::runtime::Agent;
use super::watch::ChainNews;
use crate::beacon::history::{AddressHistory, Changes};
use crate::chain;
use crate::network::Network;

impl Agent {
    pub(super) fn chain_news(&mut self, news: ChainNews) -> Result<(), AgentError> {
        match news {
            ChainNews::Reached { network, height } => {
                self.chain_state(network, Ok(height));
                Ok(())
            }
            ChainNews::Failed { network, error } => {
                self.chain_state(network, Err(error.to_string()));
                Ok(())
            }
            ChainNews::History {
                network,
                address,
                read,
                fee_rate,
            } => self.history_read(network, &address, read, fee_rate),
        }
    }

    /// Takes in the history of an address. What that costs depends on what changed, not on how old the beacon is.
    fn history_read(
        &mut self,
        network: Network,
        address: &Address,
        read: chain::AddressHistory,
        fee_rate: Option<u32>,
    ) -> Result<(), AgentError> {
        self.chain_state(network, Ok(read.tip_height));
        let name = address.to_string();
        let (history, rate) = self.histories.entry(name.clone()).or_insert_with(|| {
            let unread = AddressHistory::new(address.script_pubkey(), 0, []);
            (Arc::new(unread), None)
        });
        *rate = fee_rate;
        // It is copied only while a command still looks at the last one.
        let history_now = Arc::make_mut(history);
        let touched = history_now.read_on(read.above, read.tip_height, read.txs);
        let mut ids = Vec::new();
        for node in self.nodes.values_mut() {
            if node.address().as_ref() == Some(address) {
                history_now.settle(node.min_start());
                node.touched.extend(&touched);
                ids.push(node.id);
            }
        }
        let history = Arc::clone(history);
        for id in ids {
            self.watch_payments(id, &history, &touched);
            self.sync_chain(id, false)?;
            self.resume_signals(id)?;
        }
        self.follow_spends(network, &name, &history)
    }

    fn chain_state(&mut self, network: Network, state: Result<u32, String>) {
        let known = self.chain_states.entry(network).or_default();
        let changed = match &state {
            Ok(_) => known.height.is_none() || known.error.is_some(),
            Err(error) => known.error.as_ref() != Some(error),
        };
        match &state {
            Ok(height) => {
                known.height = Some(*height);
                known.error = None;
            }
            Err(error) => known.error = Some(error.clone()),
        }
        if changed {
            self.emit(None, What::Chain { network, state });
        }
    }

    /// Feeds what the chain shows to a cohort, if it is news to it. A new height alone is news only while
    /// something waits for confirmations, or when `height_too` is set.
    pub(super) fn sync_chain(&mut self, id: NodeId, height_too: bool) -> Result<(), AgentError> {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Ok(());
        };
        let Some(address) = node.address() else {
            return Ok(());
        };
        let Some((history, fee_rate)) = self.histories.get(&address.to_string()) else {
            return Ok(());
        };
        // What is fed is logged: a replay pays the rate that was paid, whatever the settings say by then.
        let fees = self.money.fee_policy(node.terms().network);
        let rate = fees.choose_whole(*fee_rate);
        let (min_start, touched) = (node.min_start(), &node.touched);
        let Some(update) = node.chain().news(history, touched, min_start, Some(rate)) else {
            node.touched = Changes::default();
            return Ok(());
        };
        let quiet = update.signals.is_empty()
            && update.spends.is_empty()
            && update.extra.is_none()
            && update.tip == node.chain().tip
            && !is_other_rate(node, rate);
        if quiet && !height_too && !node.counts_blocks() {
            return Ok(());
        }
        node.touched = Changes::default();
        let input = node.chain_input(update);
        self.feed(id, input)?;
        self.settle_updates(id)
    }
}

/// Whether a fee rate differs by more than a quarter from the one the aggregator would build with.
fn is_other_rate(node: &Node, rate: u32) -> bool {
    let known = node.chain().fee_rate.unwrap_or(0);
    matches!(node.machine, Machine::Aggregator(_)) && known.abs_diff(rate) > known / 4
}
