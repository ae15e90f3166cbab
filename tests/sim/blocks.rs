//! Blocks, reorganisations and fees, and what the processes see of the chain.

use bitcoin::Transaction;
use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::participant::ParticipantInput;

use super::process::{Input, Saw};
use super::world::{Crashed, Event, World};

impl World {
    pub fn block(&mut self) {
        let faults = self.config.chain.clone();
        let rate = self.chain.fee_rate;
        let mut is_empty = false;
        if self.luck.permille(faults.reorgs) {
            let depth = self.luck.range(1, u64::from(faults.reorg_depth)) as u32;
            let luck = &mut self.luck;
            self.chain.reorg(depth, || luck.permille(faults.forgets));
            // Whoever mined the new blocks may not have seen what was in the old ones.
            is_empty = self.luck.one_in(2);
            self.line(7, 0, depth.into(), || format!("reorganisation of {depth}"));
        }
        if self.luck.permille(faults.fee_changes) {
            let rate = self.luck.range(1, faults.fee_peak);
            self.chain.set_fee_rate(rate);
            self.line(8, 0, rate, || format!("the fee rate is {rate}"));
        }
        if self.luck.permille(faults.gifts) && self.funded {
            let sat = *self.luck.pick(&[400, 3_000, 20_000, 60_000]);
            self.chain.fund(sat);
        }
        let stingy = !self.is_quiet;
        self.chain
            .mine(|paid| !is_empty && (!stingy || paid + 1 >= rate));
        let height = self.chain.height;
        self.line(9, 0, height.into(), || format!("block {height}"));
        self.check_chain();
        self.chain_changed();
        let slower = if self.is_settling() { 4 } else { 1 };
        let next = self.luck.range(1, 2 * faults.block_every * slower);
        self.at(self.now + next, Event::Block);
    }

    pub fn chain_changed(&mut self) {
        for i in 0..self.processes.len() {
            self.look_soon(i);
        }
    }

    pub fn look_soon(&mut self, i: usize) {
        if !std::mem::replace(&mut self.processes[i].look_pending, true) {
            let lag = self.net.below(self.config.chain.lag + 1);
            self.at(self.now + lag, Event::Look { to: i });
        }
    }

    /// A process asks its chain backend.
    pub fn look(&mut self, i: usize) -> Result<(), Crashed> {
        if !self.processes[i].core.knows_set() {
            return Ok(());
        }
        let Some(view) = self.chain.view() else {
            return Ok(());
        };
        let Some(diff) = self.processes[i].core.chain().diff(&view) else {
            return Ok(());
        };
        let tip = self.chain.tip();
        let values = view.outputs.iter().map(|(at, seen)| (*at, seen.value_sat));
        self.processes[i].values_seen.extend(values);
        let before = self.processes[i].saw.replace(Saw { view, tip });
        let input = if i == 0 {
            Input::Aggregator(AggregatorInput::Chain(diff))
        } else {
            Input::Member(ParticipantInput::Chain(diff))
        };
        let logged = self.processes[i].disk.log.len();
        let fed = self.feed(i, input);
        if fed.is_err() && self.processes[i].disk.log.len() == logged {
            // It died before that was stored.
            self.processes[i].saw = before;
        }
        fed?;
        self.check_confirmations(i);
        Ok(())
    }

    pub fn broadcast(&mut self, i: usize, tx: &Transaction) -> Result<(), Crashed> {
        self.check_broadcast(i, tx);
        let txid = tx.compute_txid();
        let error = if self.processes[i].stopped {
            self.count("transactions held back");
            Some("money is stopped".to_owned())
        } else if self.luck.permille(self.config.chain.rejects) {
            Some("the node is busy".to_owned())
        } else {
            self.chain.accept(tx).err()
        };
        self.line(10, i, u64::from(error.is_none()), || {
            format!("broadcasts {txid}: {error:?}")
        });
        if error.is_none() {
            self.check_chain();
            self.chain_changed();
        }
        let fee_too_low = error.as_ref().is_some_and(|error| error.contains("fee"));
        let input = if i == 0 {
            Input::Aggregator(AggregatorInput::Broadcast {
                txid,
                error,
                fee_too_low,
            })
        } else {
            Input::Member(ParticipantInput::Broadcast { txid, error })
        };
        self.processes[i].queue.push_back(input);
        Ok(())
    }
}
