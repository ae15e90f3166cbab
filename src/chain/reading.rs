//! A history put together from the pages of an Esplora server, and from what earlier readings found in deep blocks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint, ScriptBuf, Transaction, Txid};
use esplora_client::EsploraTx;

use super::settled::Settled;
use super::{AddressHistory, AddressTx, Tip};

/// A history while its pages come in.
#[derive(Default)]
pub(super) struct Reading {
    txs: Vec<Arc<Listed>>,
    position: HashMap<Txid, usize>,
    /// The block of each height at which a transaction was listed.
    blocks: BTreeMap<u32, BlockHash>,
    /// Why the pages do not make up a whole.
    pub(super) gap: Option<&'static str>,
    /// The height listed last, and whether all were listed from the newest to the oldest.
    last_height: Option<u32>,
    unordered: bool,
    /// What earlier readings found, until it is joined.
    known: Option<Arc<Settled>>,
    /// The highest block that is listed and known.
    joint: Option<u32>,
}

/// A transaction as the server listed it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    txid: Txid,
    tx: Transaction,
    height: Option<u32>,
    /// The outputs it spends, with the script the server says each has.
    claimed_prevouts: Vec<(OutPoint, Option<ScriptBuf>)>,
}

impl Reading {
    /// A reading that needs no pages below the first block that `known` has too.
    pub(super) fn beyond(known: Option<Arc<Settled>>) -> Self {
        Self {
            known,
            ..Self::default()
        }
    }

    /// Adds a transaction, or learns that a listed one confirmed in between. The error is the txid it
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
        if let Some(height) = height {
            self.place(height, listed.status.block_hash);
        }
        if let Some(known) = self
            .position
            .get(&txid)
            .and_then(|at| self.txs.get_mut(*at))
        {
            if known.height.is_none() && height.is_some() {
                Arc::make_mut(known).height = height;
            }
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
        self.push(Arc::new(Listed {
            txid,
            tx,
            height,
            claimed_prevouts,
        }));
        Ok(())
    }

    /// Notes that something is listed in the block at `height`.
    fn place(&mut self, height: u32, hash: Option<BlockHash>) {
        self.unordered |= self.last_height.is_some_and(|last| height > last);
        self.last_height = Some(height);
        let Some(hash) = hash else {
            return;
        };
        if *self.blocks.entry(height).or_insert(hash) != hash {
            self.gap = Some("one height is given two blocks");
        }
        let known = self.known.as_ref();
        if known.is_some_and(|known| known.blocks.get(&height) == Some(&hash)) {
            self.joint = self.joint.max(Some(height));
        }
    }

    fn push(&mut self, listed: Arc<Listed>) {
        self.position.insert(listed.txid, self.txs.len());
        self.txs.push(listed);
    }

    /// Takes in what is known, once the pages reach down to a block of it. True: nothing is missing any more.
    ///
    /// The pages list the newest first, so they have everything above that block; what is known has everything up to
    /// it. Where they overlap they have to say the same, else one of them is wrong.
    pub(super) fn join(&mut self) -> bool {
        let Some((joint, known)) = self.joint.zip(self.known.take_if(|_| self.joint.is_some()))
        else {
            return false;
        };
        let agree = self.txs.iter().all(|listed| {
            let kept = known.heights.get(&listed.txid).filter(|at| **at <= joint);
            let listed = listed.height.filter(|height| *height <= joint);
            kept.copied() == listed
        });
        if !agree {
            self.gap = Some("it lists other transactions in old blocks than before");
        }
        if self.unordered {
            self.gap = Some("its pages are not ordered by height");
        }
        for listed in &known.txs {
            let old = listed.height.is_some_and(|height| height <= joint);
            if old && !self.position.contains_key(&listed.txid) {
                self.push(Arc::clone(listed));
            }
        }
        for (height, hash) in known.blocks.range(..=joint) {
            if *self.blocks.entry(*height).or_insert(*hash) != *hash {
                self.gap = Some("one height is given two blocks");
            }
        }
        true
    }

    /// Transactions so far.
    pub(super) fn len(&self) -> usize {
        self.txs.len()
    }

    /// Height of the newest block that is listed.
    pub(super) fn newest(&self) -> Option<u32> {
        self.txs.iter().filter_map(|listed| listed.height).max()
    }

    /// The transaction added last.
    pub(super) fn last(&self) -> Option<&Listed> {
        self.txs.last().map(|listed| &**listed)
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
        let mut txs: Vec<&Arc<Listed>> = self.txs.iter().collect();
        txs.sort_by_key(|listed| listed.height.unwrap_or(u32::MAX));
        txs.into_iter()
            .flat_map(|listed| listed.outputs_to(script))
            .filter(|output| !spent.contains(output))
            .collect()
    }

    /// What a later reading need not read again, if the chain holds: everything in the blocks up to `height`. `None`
    /// where the pages are no whole, or could not be joined to.
    pub(super) fn settled(&self, height: u32) -> Option<Settled> {
        if self.gap.is_some() || self.unordered {
            return None;
        }
        let deep = |listed: &&Arc<Listed>| listed.height.is_some_and(|at| at <= height);
        let txs: Vec<Arc<Listed>> = self.txs.iter().filter(deep).cloned().collect();
        let heights = txs.iter().filter_map(|tx| Some((tx.txid, tx.height?)));
        Some(Settled {
            heights: heights.collect(),
            blocks: self
                .blocks
                .range(..=height)
                .map(|(at, hash)| (*at, *hash))
                .collect(),
            txs,
        })
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
            .iter()
            // Servers list the newest first.
            .rev()
            .map(|listed| AddressTx {
                tx: listed.tx.clone(),
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

    /// Roughly what it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        let prevouts = self.claimed_prevouts.iter();
        let prevouts = prevouts.map(|(_, script)| 64 + script.as_ref().map_or(0, |s| s.len()));
        // The transaction's parts are larger in memory than on the wire.
        size_of::<Self>() + 2 * self.tx.total_size() + prevouts.sum::<usize>()
    }

    /// A transaction of a block.
    #[cfg(test)]
    pub(super) fn paying(tx: Transaction, height: u32) -> Self {
        Self {
            txid: tx.compute_txid(),
            tx,
            height: Some(height),
            claimed_prevouts: Vec::new(),
        }
    }
}
