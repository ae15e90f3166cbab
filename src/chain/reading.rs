//! A history put together from the pages of an Esplora server.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bitcoin::{BlockHash, OutPoint, ScriptBuf, Transaction, Txid};
use esplora_client::EsploraTx;

use super::{AddressHistory, AddressTx, Tip};

/// A history while its pages come in.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) txs: Vec<Listed>,
    position: HashMap<Txid, usize>,
    /// The block of each height at which a transaction was listed.
    blocks: BTreeMap<u32, BlockHash>,
    /// Why the pages do not make up a whole.
    pub(super) gap: Option<&'static str>,
}

/// A transaction as the server listed it.
pub(super) struct Listed {
    txid: Txid,
    tx: Transaction,
    height: Option<u32>,
    /// The outputs it spends, with the script the server says each has.
    claimed_prevouts: Vec<(OutPoint, Option<ScriptBuf>)>,
}

impl Reading {
    /// Adds a transaction, or learns that a known one confirmed in between. The error is the txid it
    /// really has.
    pub(super) fn add(&mut self, listed: EsploraTx) -> Result<(), Txid> {
        let tx = listed.to_tx();
        let txid = tx.compute_txid();
        if txid != listed.txid {
            return Err(txid);
        }
        let height = listed
            .status
            .block_height
            .filter(|_| listed.status.confirmed);
        if let Some((height, hash)) = height.zip(listed.status.block_hash)
            && *self.blocks.entry(height).or_insert(hash) != hash
        {
            self.gap = Some("one height is given two blocks");
        }
        if let Some(known) = self
            .position
            .get(&txid)
            .and_then(|at| self.txs.get_mut(*at))
        {
            known.height = known.height.or(height);
            return Ok(());
        }
        let claimed_prevouts = listed
            .vin
            .into_iter()
            .map(|vin| {
                let script = vin.prevout.map(|prevout| prevout.scriptpubkey);
                (OutPoint::new(vin.txid, vin.vout), script)
            })
            .collect();
        self.position.insert(txid, self.txs.len());
        self.txs.push(Listed {
            txid,
            tx,
            height,
            claimed_prevouts,
        });
        Ok(())
    }

    pub(super) fn unconfirmed(&self) -> usize {
        self.txs.iter().filter(|tx| tx.height.is_none()).count()
    }

    /// Outputs that pay `script` and that no listed transaction spends, the oldest first.
    pub(super) fn unspent_outputs(&self, script: &ScriptBuf) -> VecDeque<OutPoint> {
        let spent: HashSet<OutPoint> = self
            .txs
            .iter()
            .flat_map(|listed| listed.tx.input.iter().map(|input| input.previous_output))
            .collect();
        let mut txs: Vec<&Listed> = self.txs.iter().collect();
        txs.sort_by_key(|listed| listed.height.unwrap_or(u32::MAX));
        txs.into_iter()
            .flat_map(|listed| listed.outputs_to(script))
            .filter(|output| !spent.contains(output))
            .collect()
    }

    /// Checks that the parts agree, and puts them in order. The error says what does not.
    pub(super) fn finish(self, script: &ScriptBuf, tip: Tip) -> Result<AddressHistory, String> {
        if let Some(gap) = self.gap {
            return Err(gap.to_owned());
        }
        for listed in &self.txs {
            let txid = listed.txid;
            if listed.height.is_some_and(|height| height > tip.height) {
                return Err(format!("transaction {txid} is confirmed above the tip"));
            }
            let mut touches = listed.outputs_to(script).next().is_some();
            for (spent, claimed) in &listed.claimed_prevouts {
                let funding = self
                    .position
                    .get(&spent.txid)
                    .and_then(|at| self.txs.get(*at));
                let pays = funding.is_some_and(|funding| {
                    funding.outputs_to(script).any(|output| output == *spent)
                });
                if claimed.as_ref() == Some(script) && !pays {
                    return Err(format!(
                        "transaction {txid} spends from the address, but the payment {spent} is not in its history"
                    ));
                }
                touches |= pays;
            }
            if !touches {
                return Err(format!(
                    "transaction {txid} has nothing to do with the address"
                ));
            }
        }
        let mut txs: Vec<AddressTx> = self
            .txs
            .into_iter()
            // Servers list the newest first.
            .rev()
            .map(|listed| AddressTx {
                tx: listed.tx,
                height: listed.height,
            })
            .collect();
        txs.sort_by_key(|entry| entry.height.unwrap_or(u32::MAX));
        Ok(AddressHistory {
            tip_height: tip.height,
            tip_hash: tip.hash,
            txs,
            blocks: self.blocks,
        })
    }
}

impl Listed {
    pub(super) fn outputs_to(&self, script: &ScriptBuf) -> impl Iterator<Item = OutPoint> {
        (0u32..)
            .zip(&self.tx.output)
            .filter(move |(_, output)| output.script_pubkey == *script)
            .map(|(vout, _)| OutPoint::new(self.txid, vout))
    }
}
