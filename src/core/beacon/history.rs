//! What the chain says about one beacon address (spec.md §3.3, DESIGN §6 rule 4). A pure view: whoever asks
//! the chain passes the complete history of the address in.
//!
//! A beacon may have ten thousand signals, and is looked at with every block. So a history is made once, and then read
//! on ([`AddressHistory::read_on`]): what that costs, and what is asked of it then, depends on what is new.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bitcoin::{Amount, OutPoint, Script, ScriptBuf, Transaction, Txid};

use self::tip::Checkpoint;
use super::signal::{BeaconOutput, signal_of};
use crate::hash::SignalBytes;

pub use self::tip::Tip;

mod tip;

/// Confirmations after which the output of a coinbase can be spent: 100 blocks on top of its own.
const COINBASE_MATURITY: u32 = 101;

/// Confirmations after which a transaction is settled: a coinbase may be spent then, so that Bitcoin itself goes by it
/// that no reorganisation is as deep.
pub const SETTLED_DEPTH: u32 = 100;

/// A transaction that pays to the address or spends from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressTx {
    /// The transaction.
    pub tx: Arc<Transaction>,
    /// Height of the block that holds it; `None` while it is in the mempool.
    pub height: Option<u32>,
}

/// The complete history of one address, as of one chain tip.
///
/// The order in which transactions were given does not matter. Each counts once, confirmed if any
/// copy was; one from the mempool that a confirmed one conflicts with does not count.
#[derive(Debug, Clone)]
pub struct AddressHistory {
    script: ScriptBuf,
    tip_height: u32,
    /// In the order of height, then txid; those of the mempool last.
    txs: Vec<Entry>,
    /// Where each is in `txs`.
    positions: HashMap<Txid, usize>,
    /// Which transaction spends what. Where two do, in the mempool, the one with the lower txid.
    spenders: HashMap<OutPoint, (Txid, Option<u32>)>,
    /// The outputs at the address that none of them spends, in the order of `txs`.
    unspent: BTreeMap<Place, Amount>,
    /// From where the way to the tip goes on.
    checkpoint: Option<Checkpoint>,
}

/// Where an output stands among those of its address: whether it is in the mempool, height, transaction, number.
type Place = (bool, u32, Txid, u32);

#[derive(Debug, Clone)]
struct Entry {
    txid: Txid,
    tx: Arc<Transaction>,
    height: Option<u32>,
}

/// What a further reading of an address touched: everything that may be different from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Anything.
    All,
    /// These transactions, and the outputs that they make or spend.
    Of(BTreeSet<Txid>, BTreeSet<OutPoint>),
}

impl Default for Changes {
    fn default() -> Self {
        Self::Of(BTreeSet::new(), BTreeSet::new())
    }
}

impl Changes {
    /// Adds what was touched since.
    pub fn extend(&mut self, later: &Self) {
        match (self, later) {
            (Self::Of(txids, outpoints), Self::Of(more_txids, more_outpoints)) => {
                txids.extend(more_txids);
                outpoints.extend(more_outpoints);
            }
            (Self::All, _) => {}
            (all, Self::All) => *all = Self::All,
        }
    }

    fn touch(&mut self, entry: &Entry, script: &Script) {
        if let Self::Of(txids, outpoints) = self {
            txids.insert(entry.txid);
            outpoints.extend(entry.spends());
            outpoints.extend(entry.outputs_at(script).map(|output| output.outpoint));
        }
    }
}

/// An output at the address, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressOutput {
    /// The output.
    pub output: BeaconOutput,
    /// The transaction that spends it, with its height (`None` in the mempool).
    pub spent_by: Option<(Txid, Option<u32>)>,
}

/// A signal of the beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenSignal {
    /// Its transaction.
    pub txid: Txid,
    /// Height of its block; `None` in the mempool, where resolution does not count it.
    pub height: Option<u32>,
    /// What it announces.
    pub signal: SignalBytes,
}

/// A transaction that spends from the address and that nobody here knows. The key of an n-of-n address that
/// signs without us is compromised (spec.md §6.5 item 34).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownSpend {
    /// The transaction.
    pub txid: Txid,
    /// Height of its block; `None` in the mempool.
    pub height: Option<u32>,
    /// What it announces, if it has the form of a signal. One nobody can explain makes the DIDs that
    /// list the beacon unresolvable.
    pub signal: Option<SignalBytes>,
}

impl AddressHistory {
    /// Takes the complete history of the address with this script, in any order, and the height of the chain's last
    /// block.
    #[must_use]
    pub fn new(
        script: ScriptBuf,
        tip_height: u32,
        txs: impl IntoIterator<Item = AddressTx>,
    ) -> Self {
        let mut new = Self {
            script,
            tip_height,
            txs: Vec::new(),
            positions: HashMap::new(),
            spenders: HashMap::new(),
            unspent: BTreeMap::new(),
            checkpoint: None,
        };
        new.read_on(None, tip_height, txs);
        new
    }

    /// Takes what a later reading says: all transactions of the address that are in the mempool or in blocks above
    /// `above`, where nothing changed up to that height; all there are where it is `None`.
    pub fn read_on(
        &mut self,
        above: Option<u32>,
        tip_height: u32,
        txs: impl IntoIterator<Item = AddressTx>,
    ) -> Changes {
        let mut changes = match above {
            Some(_) => Changes::default(),
            None => Changes::All,
        };
        let stays = |height: Option<u32>| height.is_some_and(|height| Some(height) <= above);
        while let Some(last) = self.txs.pop_if(|entry| !stays(entry.height)) {
            self.unlink(&last);
            changes.touch(&last, &self.script);
        }
        if self
            .checkpoint
            .is_some_and(|checkpoint| !stays(Some(checkpoint.up_to)))
        {
            self.checkpoint = None;
        }
        self.tip_height = tip_height;
        let mut new: Vec<Entry> = txs
            .into_iter()
            .map(|AddressTx { tx, height }| Entry {
                txid: tx.compute_txid(),
                tx,
                height,
            })
            .collect();
        new.sort_by_key(|entry| (mempool_last(entry.height), entry.txid));
        for entry in new {
            let known = stays(entry.height) || self.positions.contains_key(&entry.txid);
            let displaced = || {
                entry.height.is_none()
                    && entry.spends().any(|outpoint| {
                        let spender = self.spenders.get(&outpoint);
                        spender.is_some_and(|(_, height)| height.is_some())
                    })
            };
            if !known && !displaced() {
                changes.touch(&entry, &self.script);
                self.link(entry);
            }
        }
        changes
    }

    /// Adds what comes after everything else.
    fn link(&mut self, entry: Entry) {
        for outpoint in entry.spends() {
            self.spenders
                .entry(outpoint)
                .or_insert((entry.txid, entry.height));
            if let Some(output) = self.output_at(&outpoint) {
                self.unspent.remove(&place(&output));
            }
        }
        for output in entry.outputs_at(&self.script) {
            if !self.spenders.contains_key(&output.outpoint) {
                self.unspent.insert(place(&output), output.value);
            }
        }
        self.positions.insert(entry.txid, self.txs.len());
        self.txs.push(entry);
    }

    /// Undoes [`Self::link`] of what was added last.
    fn unlink(&mut self, entry: &Entry) {
        self.positions.remove(&entry.txid);
        for output in entry.outputs_at(&self.script) {
            self.unspent.remove(&place(&output));
        }
        for outpoint in entry.spends() {
            let spender = self.spenders.get(&outpoint);
            if spender.is_some_and(|(by, _)| *by == entry.txid) {
                self.spenders.remove(&outpoint);
                if let Some(output) = self.output_at(&outpoint) {
                    self.unspent.insert(place(&output), output.value);
                }
            }
        }
    }

    fn entry(&self, txid: &Txid) -> Option<&Entry> {
        self.txs.get(*self.positions.get(txid)?)
    }

    /// An output at the address, spent or not.
    fn output_at(&self, outpoint: &OutPoint) -> Option<BeaconOutput> {
        let entry = self.entry(&outpoint.txid)?;
        let vout = usize::try_from(outpoint.vout).ok()?;
        let output = entry.tx.output.get(vout)?;
        (output.script_pubkey == self.script).then_some(BeaconOutput {
            outpoint: *outpoint,
            value: output.value,
            height: entry.height,
        })
    }

    /// The script of the address.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Height of the chain's last block.
    #[must_use]
    pub const fn tip_height(&self) -> u32 {
        self.tip_height
    }

    /// How many confirmations something at this height has: 1 in the last block, 0 in the mempool. What was
    /// seen above the last block known has 1.
    #[must_use]
    pub fn confirmations(&self, height: Option<u32>) -> u32 {
        height.map_or(0, |height| {
            self.tip_height.saturating_sub(height).saturating_add(1)
        })
    }

    /// Every output at the address, in the order of height, txid, output number; those of the mempool last.
    #[must_use]
    pub fn outputs(&self) -> Vec<AddressOutput> {
        self.every_output()
            .map(|output| self.what_became_of(output))
            .collect()
    }

    fn every_output(&self) -> impl Iterator<Item = BeaconOutput> {
        self.txs
            .iter()
            .flat_map(|entry| entry.outputs_at(&self.script))
    }

    fn what_became_of(&self, output: BeaconOutput) -> AddressOutput {
        AddressOutput {
            output,
            spent_by: self.spender(&output.outpoint),
        }
    }

    /// One output of the address, and what became of it; `None` if there is no such output.
    #[must_use]
    pub fn output(&self, outpoint: &OutPoint) -> Option<AddressOutput> {
        let output = self.output_at(outpoint)?;
        Some(self.what_became_of(output))
    }

    /// The outputs at the address that nothing known here spends, in the order of [`Self::outputs`].
    pub fn unspent(&self) -> impl Iterator<Item = BeaconOutput> {
        self.unspent
            .iter()
            .map(|((mempool, height, txid, vout), value)| BeaconOutput {
                outpoint: OutPoint::new(*txid, *vout),
                value: *value,
                height: (!mempool).then_some(*height),
            })
    }

    /// Whether anything was ever paid to the address.
    #[must_use]
    pub fn was_paid(&self) -> bool {
        self.every_output().next().is_some()
    }

    /// The confirmed outputs at the address that nothing known here spends, a coinbase only once it is mature, in
    /// the order of [`Self::outputs`]. Their amounts are in transactions whose id commits to them.
    #[must_use]
    pub fn spendable(&self) -> Vec<BeaconOutput> {
        self.unspent()
            .filter(|output| self.is_ripe(output))
            .collect()
    }

    fn is_ripe(&self, output: &BeaconOutput) -> bool {
        let entry = self.entry(&output.outpoint.txid);
        let needed = if entry.is_some_and(|entry| entry.tx.is_coinbase()) {
            COINBASE_MATURITY
        } else {
            1
        };
        self.confirmations(output.height) >= needed
    }

    /// The outputs that may be spent beside the tip (DESIGN §6 rule 4): those of [`Self::spendable`] without it,
    /// the most valuable `most` of them, in that order. Whoever pays many small amounts to the address fills no
    /// list with them and hides no payment of more.
    #[must_use]
    pub fn top_ups(&self, tip: &OutPoint, most: usize) -> Vec<BeaconOutput> {
        let mut further = self.spendable();
        further.retain(|output| output.outpoint != *tip);
        further.sort_by_key(|output| (std::cmp::Reverse(output.value), output.outpoint));
        further.truncate(most);
        further
    }

    /// What lies at the address unspent and can not be spent yet: unconfirmed, or of a coinbase that is not
    /// mature.
    #[must_use]
    pub fn not_yet_spendable(&self) -> Amount {
        self.unspent()
            .filter(|output| !self.is_ripe(output))
            .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
            .unwrap_or(Amount::MAX_MONEY)
    }

    /// Where a transaction of this history is: `Some(None)` in the mempool; `None` if it is not in it.
    #[must_use]
    pub fn height_of(&self, txid: &Txid) -> Option<Option<u32>> {
        self.entry(txid).map(|entry| entry.height)
    }

    /// A transaction of this history.
    #[must_use]
    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        self.entry(txid).map(|entry| &*entry.tx)
    }

    /// The transaction of this history that spends an output, with its height (`None` in the mempool).
    #[must_use]
    pub fn spender(&self, outpoint: &OutPoint) -> Option<(Txid, Option<u32>)> {
        self.spenders.get(outpoint).copied()
    }

    /// Every signal of the beacon: a transaction that spends an output of the address and whose last output
    /// is a signal. In the order of height, txid; those of the mempool last.
    #[must_use]
    pub fn signals(&self) -> Vec<SeenSignal> {
        self.spends_from()
            .filter_map(|entry| entry.signal())
            .collect()
    }

    /// A signal of the beacon; `None` if there is no such transaction, or it is none.
    #[must_use]
    pub fn signal(&self, txid: &Txid) -> Option<SeenSignal> {
        let entry = self.entry(txid).filter(|entry| self.is_spend(entry))?;
        entry.signal()
    }

    /// Every transaction that spends from the address and is not among `known`, signals and others alike.
    #[must_use]
    pub fn unknown_spends(&self, known: &BTreeSet<Txid>) -> Vec<UnknownSpend> {
        self.spends_from()
            .filter(|entry| !known.contains(&entry.txid))
            .map(|entry| UnknownSpend {
                txid: entry.txid,
                height: entry.height,
                signal: signal_of(&entry.tx),
            })
            .collect()
    }

    fn spends_from(&self) -> impl Iterator<Item = &Entry> {
        self.txs.iter().filter(|entry| self.is_spend(entry))
    }

    fn is_spend(&self, entry: &Entry) -> bool {
        entry
            .spends()
            .any(|outpoint| self.output_at(&outpoint).is_some())
    }
}

/// What was looked up before makes no difference.
impl PartialEq for AddressHistory {
    fn eq(&self, other: &Self) -> bool {
        let all = |history: &Self| -> Vec<AddressTx> {
            let txs = history.txs.iter();
            txs.map(|entry| AddressTx {
                tx: Arc::clone(&entry.tx),
                height: entry.height,
            })
            .collect()
        };
        (&self.script, self.tip_height) == (&other.script, other.tip_height)
            && all(self) == all(other)
    }
}

impl Eq for AddressHistory {}

impl Entry {
    /// What it spends; nothing for a coinbase.
    fn spends(&self) -> impl Iterator<Item = OutPoint> {
        self.tx
            .input
            .iter()
            .map(|input| input.previous_output)
            .filter(|outpoint| !outpoint.is_null())
    }

    fn outputs_at(&self, script: &Script) -> impl Iterator<Item = BeaconOutput> {
        (0..)
            .zip(&self.tx.output)
            .filter(move |(_, output)| output.script_pubkey.as_script() == script)
            .map(|(vout, output)| BeaconOutput {
                outpoint: OutPoint::new(self.txid, vout),
                value: output.value,
                height: self.height,
            })
    }

    fn signal(&self) -> Option<SeenSignal> {
        Some(SeenSignal {
            txid: self.txid,
            height: self.height,
            signal: signal_of(&self.tx)?,
        })
    }
}

fn place(output: &BeaconOutput) -> Place {
    let (mempool, height) = mempool_last(output.height);
    (mempool, height, output.outpoint.txid, output.outpoint.vout)
}

/// Sorts heights, what has none last.
const fn mempool_last(height: Option<u32>) -> (bool, u32) {
    match height {
        Some(height) => (false, height),
        None => (true, 0),
    }
}

#[cfg(test)]
mod tests;
