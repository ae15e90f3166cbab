//! A chain: mempool, blocks, reorganisations, fees. What it accepts was verified by Bitcoin Core's own script code.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid, Witness, Wtxid};
use btcr2_core::beacon::history::{AddressHistory, AddressTx, Tip};
use btcr2_core::protocol::chain_view::{
    ChainView, MAX_EXTRA, OutputSeen, SignalSeen, SpendSeen, TipView,
};

const FLAGS: u32 = bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;

/// Where a transaction is.
#[derive(Debug, Clone)]
pub struct Placed {
    pub tx: Transaction,
    pub height: Option<u32>,
    /// In the order of arrival.
    number: u64,
}

pub struct Chain {
    pub height: u32,
    pub fee_rate: u64,
    pub txs: BTreeMap<Txid, Placed>,
    /// The beacon, once it is known.
    pub script: Option<ScriptBuf>,
    /// The least output that starts a chain of signals, sat.
    pub min_start: u64,
    arrivals: u64,
    cached: Option<Rc<ChainView>>,
    verified: BTreeSet<Wtxid>,
    /// What everything that was ever there spends first.
    inputs: BTreeMap<Txid, OutPoint>,
}

impl Chain {
    pub fn new(max_fee_rate: u32) -> Self {
        Self {
            height: 100,
            fee_rate: 3,
            txs: BTreeMap::new(),
            script: None,
            // docs/protocol.md, "The tip".
            min_start: (250 * u64::from(max_fee_rate) * 444).div_ceil(1_000),
            arrivals: 0,
            cached: None,
            verified: BTreeSet::new(),
            inputs: BTreeMap::new(),
        }
    }

    fn insert(&mut self, tx: Transaction) {
        let first = tx.input[0].previous_output;
        self.inputs.insert(tx.compute_txid(), first);
        self.arrivals += 1;
        let placed = Placed {
            height: None,
            number: self.arrivals,
            tx,
        };
        self.txs.insert(placed.tx.compute_txid(), placed);
        self.cached = None;
    }

    /// Pays to the beacon out of nowhere; unconfirmed.
    pub fn fund(&mut self, sat: u64) {
        let Some(script) = self.script.clone() else {
            return;
        };
        let source = OutPoint::new(Txid::from_byte_array([0xfd; 32]), self.arrivals as u32);
        self.insert(Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![TxIn {
                previous_output: source,
                script_sig: ScriptBuf::new(),
                sequence: bitcoin::Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(sat),
                script_pubkey: script,
            }],
        });
    }

    /// Somebody pays.
    pub fn pay(&mut self, tx: Transaction) {
        self.insert(tx);
    }

    pub fn output(&self, outpoint: &OutPoint) -> Option<&TxOut> {
        let placed = self.txs.get(&outpoint.txid)?;
        placed.tx.output.get(outpoint.vout as usize)
    }

    /// Who spends an output, and where.
    pub fn spender(&self, outpoint: &OutPoint) -> Option<(Txid, Option<u32>)> {
        self.txs.iter().find_map(|(txid, placed)| {
            let spends = |input: &TxIn| input.previous_output == *outpoint;
            placed
                .tx
                .input
                .iter()
                .any(spends)
                .then_some((*txid, placed.height))
        })
    }

    /// Whether an output can never be there any more: what made it, or made what that spent, was replaced by something
    /// that has so many confirmations in what somebody saw.
    pub fn is_impossible(&self, output: &OutPoint, saw: &ChainView, depth: u32) -> bool {
        let mut maker = output.txid;
        while let Some(input) = self.inputs.get(&maker) {
            match saw.spends.get(input) {
                Some(spend) if spend.by == maker => return false,
                Some(spend) => {
                    let deep = |height| saw.confirmations(height) >= depth;
                    return spend.height.is_some_and(deep);
                }
                None => maker = input.txid,
            }
        }
        false
    }

    /// libbitcoinconsensus on every input, once for each transaction with its witnesses.
    pub fn verify(&mut self, tx: &Transaction, spent: &[TxOut]) -> Result<(), String> {
        let wtxid = tx.compute_wtxid();
        if !self.verified.contains(&wtxid) {
            verify_scripts(tx, spent)?;
            self.verified.insert(wtxid);
        }
        Ok(())
    }

    /// What a node does with a transaction.
    pub fn accept(&mut self, tx: &Transaction) -> Result<(), String> {
        if self.txs.contains_key(&tx.compute_txid()) {
            return Ok(());
        }
        let spent: Option<Vec<TxOut>> = tx
            .input
            .iter()
            .map(|input| self.output(&input.previous_output).cloned())
            .collect();
        let spent = spent.ok_or("bad-txns-inputs-missingorspent")?;
        self.verify(tx, &spent)?;
        // BIP-68: only refunds have such a lock, and none is mature in the time of a run.
        if tx
            .input
            .iter()
            .any(|input| input.sequence.is_height_locked())
        {
            return Err("non-BIP68-final".into());
        }
        let fee = |tx: &Transaction, chain: &Self| -> u64 {
            let inputs = tx
                .input
                .iter()
                .filter_map(|i| chain.output(&i.previous_output));
            let inputs: u64 = inputs.map(|output| output.value.to_sat()).sum();
            let outputs: u64 = tx.output.iter().map(|output| output.value.to_sat()).sum();
            inputs.saturating_sub(outputs)
        };
        if fee(tx, self) < tx.vsize() as u64 {
            return Err("mempool min fee not met".into());
        }
        let rivals: BTreeSet<(Txid, Option<u32>)> = tx
            .input
            .iter()
            .filter_map(|input| self.spender(&input.previous_output))
            .collect();
        let mut paid = 0;
        for (rival, height) in &rivals {
            if height.is_some() {
                return Err("bad-txns-inputs-missingorspent".into());
            }
            paid += fee(&self.txs[rival].tx, self);
        }
        if !rivals.is_empty() && fee(tx, self) < paid + tx.vsize() as u64 {
            return Err("insufficient fee, rejecting replacement".into());
        }
        for (rival, _) in rivals {
            self.txs.remove(&rival);
        }
        self.insert(tx.clone());
        Ok(())
    }

    /// A block: takes what pays enough, which may be nothing.
    pub fn mine(&mut self, takes: impl Fn(u64) -> bool) {
        self.height += 1;
        self.cached = None;
        let mut waiting: Vec<(u64, Txid)> = self
            .txs
            .iter()
            .filter(|(_, placed)| placed.height.is_none())
            .map(|(txid, placed)| (placed.number, *txid))
            .collect();
        waiting.sort_unstable();
        for (_, txid) in waiting {
            let placed = &self.txs[&txid];
            let inputs = placed.tx.input.iter();
            let parents: Vec<Option<&Placed>> = inputs
                .map(|input| self.txs.get(&input.previous_output.txid))
                .collect();
            if parents
                .iter()
                .flatten()
                .any(|parent| parent.height.is_none())
            {
                continue;
            }
            let spent: u64 = placed
                .tx
                .input
                .iter()
                .filter_map(|input| self.output(&input.previous_output))
                .map(|output| output.value.to_sat())
                .sum();
            let paid: u64 = placed.tx.output.iter().map(|o| o.value.to_sat()).sum();
            let rate = spent.saturating_sub(paid) / (placed.tx.vsize() as u64).max(1);
            let is_gift = spent == 0;
            if is_gift || takes(rate) {
                let height = self.height;
                if let Some(placed) = self.txs.get_mut(&txid) {
                    placed.height = Some(height);
                }
            }
        }
    }

    /// The last blocks are replaced by empty ones; what they held is in the mempool again, or `forgotten`.
    pub fn reorg(&mut self, blocks: u32, mut forgotten: impl FnMut() -> bool) {
        let first = (self.height + 1).saturating_sub(blocks);
        let out: Vec<Txid> = self
            .txs
            .iter()
            .filter(|(_, placed)| placed.height.is_some_and(|height| height >= first))
            .map(|(txid, _)| *txid)
            .collect();
        for txid in out {
            // Forgotten with what it spends.
            let Some(placed) = self.txs.get_mut(&txid) else {
                continue;
            };
            let funding = placed.tx.input[0].witness.is_empty();
            placed.height = None;
            // Who paid pays again; a signal is the agents' to send again.
            if !funding && forgotten() {
                self.forget(txid);
            }
        }
        self.cached = None;
    }

    /// Forgets a transaction and what spends it.
    fn forget(&mut self, txid: Txid) {
        self.txs.remove(&txid);
        let children: Vec<Txid> = self
            .txs
            .iter()
            .filter(|(_, placed)| {
                let inputs = placed.tx.input.iter();
                inputs
                    .clone()
                    .any(|input| input.previous_output.txid == txid)
            })
            .map(|(txid, _)| *txid)
            .collect();
        for child in children {
            self.forget(child);
        }
    }

    /// The output the next signal must spend, worked out from the rules of docs/protocol.md, without the code of the
    /// library: the outpoint, its value and its height.
    pub fn tip(&self) -> Option<(OutPoint, u64, u32)> {
        let script = self.script.as_ref()?;
        let mut starts: Vec<(u32, [u8; 32], u32, u64)> = Vec::new();
        for (txid, placed) in &self.txs {
            let Some(height) = placed.height else {
                continue;
            };
            for (vout, output) in (0..).zip(&placed.tx.output) {
                if output.script_pubkey == *script && output.value.to_sat() >= self.min_start {
                    starts.push((height, txid.to_byte_array(), vout, output.value.to_sat()));
                }
            }
        }
        starts.sort_unstable();
        let mut visited = BTreeSet::new();
        for (height, txid, vout, value) in starts {
            let mut at = (
                OutPoint::new(Txid::from_byte_array(txid), vout),
                value,
                height,
            );
            if visited.contains(&at.0) {
                continue;
            }
            loop {
                visited.insert(at.0);
                let Some((by, spent_in)) = self.spender(&at.0) else {
                    return Some(at);
                };
                // Spent in the mempool: in flight, nothing to spend now.
                let spent_in = spent_in?;
                let outputs = (0..).zip(&self.txs[&by].tx.output);
                let mut back = outputs.filter(|(_, output)| output.script_pubkey == *script);
                let Some((vout, output)) = back.next() else {
                    break;
                };
                at = (OutPoint::new(by, vout), output.value.to_sat(), spent_in);
            }
        }
        None
    }

    /// What a backend tells the core about the beacon.
    pub fn view(&mut self) -> Option<Rc<ChainView>> {
        if let Some(view) = &self.cached {
            return Some(Rc::clone(view));
        }
        let script = self.script.clone()?;
        let history = AddressHistory::new(
            script,
            self.height,
            self.txs.values().map(|placed| AddressTx {
                tx: placed.tx.clone().into(),
                height: placed.height,
            }),
        );
        let tip = match history.tip(Amount::from_sat(self.min_start), 1) {
            Tip::NoFunds { .. } => TipView::NoFunds,
            Tip::Unconfirmed { output, .. } => TipView::Unconfirmed {
                value_sat: output.value.to_sat(),
            },
            Tip::Pending { spent_by, .. } => TipView::InFlight { by: spent_by },
            Tip::Ready { output, .. } => TipView::Ready {
                outpoint: output.outpoint,
                value_sat: output.value.to_sat(),
                height: output.height?,
            },
        };
        let extra = match &tip {
            TipView::Ready { outpoint, .. } => history.top_ups(outpoint, MAX_EXTRA),
            _ => Vec::new(),
        };
        let mut view = ChainView {
            height: self.height,
            tip,
            extra,
            fee_rate: u32::try_from(self.fee_rate).ok(),
            ..ChainView::default()
        };
        for seen in history.signals() {
            let signal = SignalSeen {
                signal: seen.signal,
                height: seen.height,
            };
            view.signals.insert(seen.txid, signal);
        }
        for seen in history.outputs() {
            let output = seen.output;
            if let Some((by, height)) = seen.spent_by {
                view.spends
                    .insert(output.outpoint, SpendSeen { by, height });
            } else {
                let seen = OutputSeen {
                    value_sat: output.value.to_sat(),
                    height: output.height,
                };
                view.outputs.insert(output.outpoint, seen);
            }
        }
        let view = Rc::new(view);
        self.cached = Some(Rc::clone(&view));
        Some(view)
    }

    pub fn set_fee_rate(&mut self, rate: u64) {
        self.fee_rate = rate;
        self.cached = None;
    }
}

/// libbitcoinconsensus on every input.
pub fn verify_scripts(tx: &Transaction, spent: &[TxOut]) -> Result<(), String> {
    let raw = serialize(tx);
    let utxos: Vec<bitcoinconsensus::Utxo> = spent
        .iter()
        .map(|output| bitcoinconsensus::Utxo {
            script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: output.script_pubkey.len() as u32,
            value: output.value.to_sat() as i64,
        })
        .collect();
    for (at, output) in spent.iter().enumerate() {
        bitcoinconsensus::verify_with_flags(
            output.script_pubkey.as_bytes(),
            output.value.to_sat(),
            &raw,
            Some(&utxos),
            at,
            FLAGS,
        )
        .map_err(|error| format!("mandatory-script-verify-flag-failed {error:?}"))?;
    }
    Ok(())
}
