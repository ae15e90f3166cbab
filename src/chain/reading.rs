//! A history put together from the pages of an Esplora server, and from what earlier readings found in deep blocks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint, ScriptBuf, Transaction, Txid};
use esplora_client::EsploraTx;

use super::settled::{Deep, Newer, Settled};
use super::{AddressHistory, AddressTx, ReadUpTo, Tip};

/// A history while its pages come in.
///
/// The pages list the newest first. Once they reach down to a block of what is known, everything up to that block is
/// taken from there, and what they list of it is only compared.
#[derive(Default)]
pub(super) struct Reading {
    /// What the pages list.
    txs: Vec<Listed>,
    position: HashMap<Txid, usize>,
    /// The block of each height at which a transaction was listed.
    blocks: BTreeMap<u32, BlockHash>,
    /// Why the pages do not make up a whole.
    pub(super) gap: Option<&'static str>,
    /// The height listed last, and whether all were listed from the newest to the oldest.
    last_height: Option<u32>,
    unordered: bool,
    /// What earlier readings found.
    known: Option<Arc<Settled>>,
    /// The highest block that is listed and known.
    joint: Option<ReadUpTo>,
    /// Whether what is known up to there is part of this.
    joined: bool,
}

/// A transaction as the server listed it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    txid: Txid,
    tx: Arc<Transaction>,
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

    /// What is known and part of this, up to which height.
    fn base(&self) -> Option<(&Settled, u32)> {
        let joint = self.joint.filter(|_| self.joined)?;
        Some((self.known.as_deref()?, joint.height))
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
                known.height = height;
            }
            return Ok(());
        }
        let is_old = |(known, joint): (&Settled, u32)| {
            let height = known.height_of(&txid);
            height.is_some_and(|height| height <= joint)
        };
        if self.base().is_some_and(is_old) {
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
            tx: Arc::new(tx),
            height,
            claimed_prevouts,
        });
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
        let block = ReadUpTo { height, hash };
        if !self.joined
            && self.known.as_ref().is_some_and(|known| known.has(block))
            && self.joint.is_none_or(|joint| joint.height < height)
        {
            self.joint = Some(block);
        }
    }

    /// Takes in what is known, once the pages reach down to a block of it. True: nothing is missing any more.
    ///
    /// Where pages and known overlap they have to say the same, else one of them is wrong.
    pub(super) fn join(&mut self) -> bool {
        let (Some(joint), Some(known), false) = (self.joint, &self.known, self.joined) else {
            return false;
        };
        let old = |height: &u32| *height <= joint.height;
        let agree = self
            .txs
            .iter()
            .all(|listed| known.height_of(&listed.txid).filter(old) == listed.height.filter(old));
        if !agree {
            self.gap = Some("it lists other transactions in old blocks than before");
        }
        if self.unordered {
            self.gap = Some("its pages are not ordered by height");
        }
        let mut listed = self.blocks.range(..=joint.height);
        if listed.any(|(at, hash)| known.block(*at).is_some_and(|known| known != *hash)) {
            self.gap = Some("one height is given two blocks");
        }
        // Both have these.
        self.txs
            .retain(|listed| !listed.height.as_ref().is_some_and(old));
        self.position = (0..)
            .zip(&self.txs)
            .map(|(at, listed)| (listed.txid, at))
            .collect();
        self.blocks.retain(|height, _| !old(height));
        self.joined = true;
        true
    }

    /// Transactions so far.
    pub(super) fn len(&self) -> usize {
        let known = self.base().map_or(0, |(known, joint)| known.count(joint));
        self.txs.len() + known
    }

    /// Height of the newest block that is listed.
    pub(super) fn newest(&self) -> Option<u32> {
        let listed = self.txs.iter().filter_map(|listed| listed.height).max();
        listed.or(self.base().map(|(_, joint)| joint))
    }

    /// The transaction added last.
    pub(super) fn last(&self) -> Option<&Listed> {
        self.txs.last()
    }

    pub(super) fn unconfirmed(&self) -> usize {
        self.txs.iter().filter(|tx| tx.height.is_none()).count()
    }

    /// Outputs that pay `script` and that no listed transaction spends, the oldest first.
    pub(super) fn unspent_outputs(&self, script: &ScriptBuf) -> VecDeque<OutPoint> {
        let known = self.base().map(|(known, joint)| known.between(None, joint));
        let mut listed: Vec<&Listed> = self.txs.iter().collect();
        listed.sort_by_key(|listed| listed.height.unwrap_or(u32::MAX));
        let txs = known.unwrap_or_default().iter();
        let txs = txs.map(|deep| (deep.txid, &*deep.tx));
        let txs = txs.chain(listed.iter().map(|listed| (listed.txid, &*listed.tx)));
        let spent: HashSet<OutPoint> = txs
            .clone()
            .flat_map(|(_, tx)| tx.input.iter().map(|input| input.previous_output))
            .collect();
        txs.flat_map(|(txid, tx)| outputs_to(script, txid, tx))
            .filter(|output| !spent.contains(output))
            .collect()
    }

    /// What a later reading need not read again, if the chain holds: everything in the blocks up to `height`. `None`
    /// where the pages are no whole, or could not be joined to.
    pub(super) fn settled(&self, height: u32) -> Option<Newer> {
        if self.gap.is_some() || self.unordered {
            return None;
        }
        let deep = |listed: &Listed| {
            Some(Deep {
                txid: listed.txid,
                tx: Arc::clone(&listed.tx),
                height: listed.height.filter(|at| *at <= height)?,
            })
        };
        let mut txs: Vec<Deep> = self.txs.iter().rev().filter_map(deep).collect();
        txs.sort_by_key(|deep| deep.height);
        Some(Newer {
            from: self.joint.filter(|_| self.joined),
            up_to: height,
            txs,
            blocks: self
                .blocks
                .range(..=height)
                .map(|(at, hash)| (*at, *hash))
                .collect(),
        })
    }

    /// Checks that the parts agree, and puts them in order, without what the reader has. The error says what does
    /// not agree.
    pub(super) fn finish(
        &self,
        script: &ScriptBuf,
        tip: Tip,
        reader_has: Option<ReadUpTo>,
    ) -> Result<AddressHistory, String> {
        if let Some(gap) = self.gap {
            return Err(gap.to_owned());
        }
        for listed in &self.txs {
            self.check(listed, script, tip)?;
        }
        let above = reader_has.filter(|block| {
            let known =
                |(known, joint): (&Settled, u32)| block.height <= joint && known.has(*block);
            self.blocks.get(&block.height) == Some(&block.hash) || self.base().is_some_and(known)
        });
        let above = above.map(|block| block.height);
        let is_new = |height: u32| Some(height) > above;
        let mut newer: Vec<&Listed> = self
            .txs
            .iter()
            .filter(|listed| listed.height.is_none_or(is_new))
            // Servers list the newest first.
            .rev()
            .collect();
        newer.sort_by_key(|listed| listed.height.unwrap_or(u32::MAX));
        let base = self.base();
        let known = base.map(|(known, joint)| known.between(above, joint));
        let known_blocks = base.map(|(known, joint)| known.blocks_between(above, joint));
        let blocks = self.blocks.iter().map(|(at, hash)| (*at, *hash));
        Ok(AddressHistory {
            tip_height: tip.height,
            tip_hash: tip.hash,
            above,
            txs: known
                .unwrap_or_default()
                .iter()
                .map(|deep| AddressTx {
                    tx: Arc::clone(&deep.tx),
                    height: Some(deep.height),
                })
                .chain(newer.into_iter().map(|listed| AddressTx {
                    tx: Arc::clone(&listed.tx),
                    height: listed.height,
                }))
                .collect(),
            blocks: blocks
                .filter(|(height, _)| is_new(*height))
                .chain(known_blocks.into_iter().flatten())
                .collect(),
        })
    }

    /// Whether a listed transaction has to do with the address, and all it spends there is listed too.
    fn check(&self, listed: &Listed, script: &ScriptBuf, tip: Tip) -> Result<(), String> {
        let txid = listed.txid;
        if listed.height.is_some_and(|height| height > tip.height) {
            return Err(format!("transaction {txid} is confirmed above the tip"));
        }
        let mut touches = listed.outputs_to(script).next().is_some();
        for (spent, claimed) in &listed.claimed_prevouts {
            let pays = self.pays(spent, script);
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
        Ok(())
    }

    fn pays(&self, output: &OutPoint, script: &ScriptBuf) -> bool {
        let listed = self.position.get(&output.txid);
        let listed = listed.and_then(|at| self.txs.get(*at));
        match (listed, self.base()) {
            (Some(funding), _) => funding.outputs_to(script).any(|paid| paid == *output),
            (None, Some((known, joint))) => known.pays(output, script, joint),
            (None, None) => false,
        }
    }
}

impl Listed {
    pub(super) fn outputs_to<'a>(
        &'a self,
        script: &'a ScriptBuf,
    ) -> impl Iterator<Item = OutPoint> + use<'a> {
        outputs_to(script, self.txid, &self.tx)
    }
}

fn outputs_to<'a>(
    script: &'a ScriptBuf,
    txid: Txid,
    tx: &'a Transaction,
) -> impl Iterator<Item = OutPoint> + use<'a> {
    (0u32..)
        .zip(&tx.output)
        .filter(move |(_, output)| output.script_pubkey == *script)
        .map(move |(vout, _)| OutPoint::new(txid, vout))
}
