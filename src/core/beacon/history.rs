//! What the chain says about one beacon address (spec.md §3.3, DESIGN §6 rule 4). A pure view: whoever asks
//! the chain passes the complete history of the address in.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, OutPoint, Script, Transaction, Txid};

use super::signal::{BeaconOutput, signal_of};
use crate::hash::SignalBytes;

/// Confirmations after which the output of a coinbase can be spent: 100 blocks on top of its own.
const COINBASE_MATURITY: u32 = 101;

/// A transaction that pays to the address or spends from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressTx {
    /// The transaction.
    pub tx: Transaction,
    /// Height of the block that holds it; `None` while it is in the mempool.
    pub height: Option<u32>,
}

/// The complete history of one address, as of one chain tip.
///
/// The order in which transactions were given does not matter. Each counts once, confirmed if any
/// copy was; one from the mempool that a confirmed one conflicts with does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressHistory {
    tip_height: u32,
    /// In the order of height, then txid; those of the mempool last.
    txs: Vec<Entry>,
    /// Which transaction spends what. Where two do, in the mempool, the one with the lower txid.
    spenders: BTreeMap<OutPoint, (Txid, Option<u32>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    txid: Txid,
    tx: Transaction,
    height: Option<u32>,
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

/// Which output the next signal has to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tip {
    /// Nothing at the address can start a chain of signals.
    NoFunds {
        /// What lies there unspent in outputs below the minimum.
        too_small: Amount,
    },
    /// The tip is there, without enough confirmations yet.
    Unconfirmed {
        /// The tip.
        output: BeaconOutput,
        /// How many it has, 0 in the mempool.
        confirmations: u32,
        /// How many it needs.
        needed: u32,
    },
    /// A transaction spends the tip that is in the mempool, or that pays nothing back and is not deep enough
    /// yet to end the chain.
    Pending {
        /// The tip.
        output: BeaconOutput,
        /// The transaction that spends it.
        spent_by: Txid,
        /// How many confirmations that has, 0 in the mempool.
        confirmations: u32,
        /// How many it needs.
        needed: u32,
    },
    /// The tip can be spent.
    Ready {
        /// The tip.
        output: BeaconOutput,
        /// How many confirmations it has.
        confirmations: u32,
    },
}

impl AddressHistory {
    /// Takes the complete history of an address, in any order, and the height of the chain's last block.
    #[must_use]
    pub fn new(tip_height: u32, txs: impl IntoIterator<Item = AddressTx>) -> Self {
        let mut txs: Vec<_> = txs
            .into_iter()
            .map(|AddressTx { tx, height }| Entry {
                txid: tx.compute_txid(),
                tx,
                height,
            })
            .collect();
        txs.sort_by_key(|entry| (mempool_last(entry.height), entry.txid));
        let mut seen = BTreeSet::new();
        txs.retain(|entry| seen.insert(entry.txid));

        let spent_on_chain: BTreeSet<_> = txs
            .iter()
            .filter(|entry| entry.height.is_some())
            .flat_map(Entry::spends)
            .collect();
        txs.retain(|entry| {
            entry.height.is_some()
                || !entry
                    .spends()
                    .any(|outpoint| spent_on_chain.contains(&outpoint))
        });

        let mut spenders = BTreeMap::new();
        for entry in &txs {
            for outpoint in entry.spends() {
                spenders
                    .entry(outpoint)
                    .or_insert((entry.txid, entry.height));
            }
        }
        Self {
            tip_height,
            txs,
            spenders,
        }
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
    pub fn outputs(&self, script: &Script) -> Vec<AddressOutput> {
        self.txs
            .iter()
            .flat_map(|entry| entry.outputs_at(script))
            .map(|output| AddressOutput {
                output,
                spent_by: self.spenders.get(&output.outpoint).copied(),
            })
            .collect()
    }

    /// The confirmed outputs at the address that nothing known here spends, a coinbase only once it is mature, in
    /// the order of [`Self::outputs`]. Their amounts are in transactions whose id commits to them.
    #[must_use]
    pub fn spendable(&self, script: &Script) -> Vec<BeaconOutput> {
        let ripe = |entry: &&Entry| {
            let needed = if entry.tx.is_coinbase() {
                COINBASE_MATURITY
            } else {
                1
            };
            self.confirmations(entry.height) >= needed
        };
        self.txs
            .iter()
            .filter(ripe)
            .flat_map(|entry| entry.outputs_at(script))
            .filter(|output| !self.spenders.contains_key(&output.outpoint))
            .collect()
    }

    /// The outputs that may be spent beside the tip (DESIGN §6 rule 4): those of [`Self::spendable`] without it,
    /// the most valuable `most` of them, in that order. Whoever pays many small amounts to the address fills no
    /// list with them and hides no payment of more.
    #[must_use]
    pub fn top_ups(&self, script: &Script, tip: &OutPoint, most: usize) -> Vec<BeaconOutput> {
        let mut further = self.spendable(script);
        further.retain(|output| output.outpoint != *tip);
        further.sort_by_key(|output| (std::cmp::Reverse(output.value), output.outpoint));
        further.truncate(most);
        further
    }

    /// What lies at the address unspent and can not be spent yet: unconfirmed, or of a coinbase that is not
    /// mature.
    #[must_use]
    pub fn not_yet_spendable(&self, script: &Script) -> Amount {
        let ripe = self.spendable(script);
        self.outputs(script)
            .iter()
            .filter(|output| output.spent_by.is_none() && !ripe.contains(&output.output))
            .try_fold(Amount::ZERO, |sum, output| {
                sum.checked_add(output.output.value)
            })
            .unwrap_or(Amount::MAX_MONEY)
    }

    /// Where a transaction of this history is: `Some(None)` in the mempool; `None` if it is not in it.
    #[must_use]
    pub fn height_of(&self, txid: &Txid) -> Option<Option<u32>> {
        let found = self.txs.iter().find(|entry| entry.txid == *txid);
        found.map(|entry| entry.height)
    }

    /// A transaction of this history.
    #[must_use]
    pub fn transaction(&self, txid: &Txid) -> Option<&Transaction> {
        let found = self.txs.iter().find(|entry| entry.txid == *txid);
        found.map(|entry| &entry.tx)
    }

    /// The transaction of this history that spends an output, with its height (`None` in the mempool).
    #[must_use]
    pub fn spender(&self, outpoint: &OutPoint) -> Option<(Txid, Option<u32>)> {
        self.spenders.get(outpoint).copied()
    }

    /// Every signal of the beacon: a transaction that spends an output of the address and whose last output
    /// is a signal. In the order of height, txid; those of the mempool last.
    #[must_use]
    pub fn signals(&self, script: &Script) -> Vec<SeenSignal> {
        self.spends_from(script)
            .filter_map(|entry| {
                Some(SeenSignal {
                    txid: entry.txid,
                    height: entry.height,
                    signal: signal_of(&entry.tx)?,
                })
            })
            .collect()
    }

    /// Every transaction that spends from the address and is not among `known`, signals and others alike.
    #[must_use]
    pub fn unknown_spends(&self, script: &Script, known: &BTreeSet<Txid>) -> Vec<UnknownSpend> {
        self.spends_from(script)
            .filter(|entry| !known.contains(&entry.txid))
            .map(|entry| UnknownSpend {
                txid: entry.txid,
                height: entry.height,
                signal: signal_of(&entry.tx),
            })
            .collect()
    }

    /// The output the next signal has to spend (DESIGN §6 rule 4).
    ///
    /// A chain of signals starts at the oldest confirmed output of at least `min_start` and goes on through the
    /// output that each confirmed spender pays back to the address (the first, should there be several).
    /// Where a spender pays nothing back, the next chain starts at the next oldest output. The tip, and a
    /// spender that ends a chain, need `depth` confirmations, at least one.
    #[must_use]
    pub fn tip(&self, script: &Script, min_start: Amount, depth: u32) -> Tip {
        let needed = depth.max(1);
        let outputs = self.outputs(script);
        let mut paid_back = BTreeMap::new();
        for output in &outputs {
            paid_back
                .entry(output.output.outpoint.txid)
                .or_insert(output);
        }
        let mut visited = BTreeSet::new();
        for start in &outputs {
            if start.output.height.is_none()
                || start.output.value < min_start
                || visited.contains(&start.output.outpoint)
            {
                continue;
            }
            let mut link = start;
            while visited.insert(link.output.outpoint) {
                let Some((spent_by, height)) = link.spent_by else {
                    return self.unspent_tip(link.output, needed);
                };
                let confirmations = self.confirmations(height);
                match paid_back.get(&spent_by) {
                    Some(change) if confirmations > 0 => link = change,
                    // The chain ends: the link is visited, and the next start is looked for.
                    None if confirmations >= needed => {}
                    _ => {
                        return Tip::Pending {
                            output: link.output,
                            spent_by,
                            confirmations,
                            needed,
                        };
                    }
                }
            }
        }
        // Nothing confirmed can start a chain: say what may, once it confirms.
        let mut unspent = outputs
            .iter()
            .filter(|output| output.spent_by.is_none())
            .map(|output| output.output);
        if let Some(start) = unspent
            .clone()
            .find(|output| output.height.is_none() && output.value >= min_start)
        {
            return self.unspent_tip(start, needed);
        }
        Tip::NoFunds {
            too_small: unspent
                .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
                .unwrap_or(Amount::MAX_MONEY),
        }
    }

    fn unspent_tip(&self, output: BeaconOutput, needed: u32) -> Tip {
        let confirmations = self.confirmations(output.height);
        if confirmations < needed {
            Tip::Unconfirmed {
                output,
                confirmations,
                needed,
            }
        } else {
            Tip::Ready {
                output,
                confirmations,
            }
        }
    }

    fn spends_from(&self, script: &Script) -> impl Iterator<Item = &Entry> {
        let outpoints: BTreeSet<_> = self
            .txs
            .iter()
            .flat_map(|entry| entry.outputs_at(script))
            .map(|output| output.outpoint)
            .collect();
        self.txs
            .iter()
            .filter(move |entry| entry.spends().any(|outpoint| outpoints.contains(&outpoint)))
    }
}

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
