//! The regtest chain's unconfirmed transactions.

use std::collections::{HashMap, HashSet};

use bitcoin::{Amount, OutPoint, Transaction, Txid};

use super::regtest::Coin;

/// An unconfirmed transaction.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) tx: Transaction,
    pub(super) fee: Amount,
    /// The coins it spends, in the order of its inputs.
    pub(super) spent: Vec<Coin>,
}

/// Unconfirmed transactions, none of which conflict, parents before children.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    order: Vec<Txid>,
    entries: HashMap<Txid, Entry>,
    spenders: HashMap<OutPoint, Txid>,
}

impl Mempool {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn get(&self, txid: &Txid) -> Option<&Entry> {
        self.entries.get(txid)
    }

    /// Entries in the order in which they came, which puts parents first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Txid, &Entry)> {
        self.order
            .iter()
            .filter_map(|txid| self.entries.get_key_value(txid))
    }

    /// The unconfirmed transaction that spends `output`.
    pub(super) fn spender(&self, output: &OutPoint) -> Option<Txid> {
        self.spenders.get(output).copied()
    }

    pub(super) fn insert(&mut self, txid: Txid, entry: Entry) {
        for input in &entry.tx.input {
            self.spenders.insert(input.previous_output, txid);
        }
        self.order.push(txid);
        self.entries.insert(txid, entry);
    }

    /// Removes exactly `txids`. Children of theirs stay; see [`Self::with_descendants`].
    pub(super) fn remove(&mut self, txids: &HashSet<Txid>) {
        if txids.is_empty() {
            return;
        }
        self.order.retain(|txid| !txids.contains(txid));
        self.entries.retain(|txid, _| !txids.contains(txid));
        self.spenders.retain(|_, spender| !txids.contains(spender));
    }

    /// `txids` and everything that depends on their outputs.
    pub(super) fn with_descendants(&self, txids: HashSet<Txid>) -> HashSet<Txid> {
        let mut found = txids;
        // Children come after their parents, so one pass reaches all generations.
        for (txid, entry) in self.iter() {
            let mut parents = entry
                .tx
                .input
                .iter()
                .map(|input| input.previous_output.txid);
            if parents.any(|parent| found.contains(&parent)) {
                found.insert(*txid);
            }
        }
        found
    }

    pub(super) fn take(&mut self) -> Vec<Transaction> {
        let mut old = std::mem::take(self);
        old.order
            .iter()
            .filter_map(|txid| old.entries.remove(txid))
            .map(|entry| entry.tx)
            .collect()
    }
}
