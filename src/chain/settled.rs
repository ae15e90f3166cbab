//! What was read of addresses in blocks that lie deep, so that a further reading reads only what is newer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint, Script, ScriptBuf, Transaction, Txid};

use super::ReadUpTo;

/// Blocks at the end of the chain that are always read anew: reorganisations mostly reach no deeper, and a server
/// whose index is behind its tip, or one of several behind one name, has caught up by then.
pub(super) const READ_ANEW: u32 = 6;

/// Addresses of which something is kept, as with a Bitcoin Core node.
const MAX_ADDRESSES: usize = 256;

/// Bytes of the transactions that are kept, of all addresses together. Strangers decide how large a history is.
const MAX_BYTES: usize = 128 << 20;

/// The transactions of one address in the blocks up to a height, all of them.
///
/// A block's hash stands for every block below it. So if one of [`Self::blocks`] is in the best chain, whatever is
/// here at its height and below is still true and complete.
#[derive(Debug, Clone, Default)]
pub(super) struct Settled {
    /// By ascending height, inside a block in the order in which servers list them, the last first.
    txs: Vec<Deep>,
    positions: HashMap<Txid, usize>,
    /// The blocks that have them.
    blocks: BTreeMap<u32, BlockHash>,
    bytes: usize,
}

/// A transaction of a deep block.
#[derive(Debug, Clone)]
pub(super) struct Deep {
    pub(super) txid: Txid,
    pub(super) tx: Arc<Transaction>,
    pub(super) height: u32,
}

impl Deep {
    /// Roughly what it takes in memory.
    fn bytes(&self) -> usize {
        // The transaction's parts are larger in memory than on the wire.
        2 * size_of::<Self>() + 2 * self.tx.total_size()
    }
}

impl Settled {
    /// Height of one of its transactions.
    pub(super) fn height_of(&self, txid: &Txid) -> Option<u32> {
        Some(self.get(txid)?.height)
    }

    fn get(&self, txid: &Txid) -> Option<&Deep> {
        self.txs.get(*self.positions.get(txid)?)
    }

    /// Whether an output of one of its transactions, in a block up to `height`, pays the script.
    pub(super) fn pays(&self, output: &OutPoint, script: &Script, height: u32) -> bool {
        let funding = self.get(&output.txid).filter(|deep| deep.height <= height);
        let vout = usize::try_from(output.vout).ok();
        let paid = funding
            .zip(vout)
            .and_then(|(deep, vout)| deep.tx.output.get(vout));
        paid.is_some_and(|paid| paid.script_pubkey.as_script() == script)
    }

    /// The block with something of the address at a height.
    pub(super) fn block(&self, height: u32) -> Option<BlockHash> {
        self.blocks.get(&height).copied()
    }

    /// Whether it has everything up to that block.
    pub(super) fn has(&self, known: ReadUpTo) -> bool {
        self.block(known.height) == Some(known.hash)
    }

    /// Those in blocks above `low` and not above `high`.
    pub(super) fn between(&self, low: Option<u32>, high: u32) -> &[Deep] {
        let first = low.map_or(0, |low| self.txs.partition_point(|deep| deep.height <= low));
        let end = self.txs.partition_point(|deep| deep.height <= high);
        self.txs.get(first..end).unwrap_or_default()
    }

    /// The blocks of those.
    pub(super) fn blocks_between(
        &self,
        low: Option<u32>,
        high: u32,
    ) -> impl Iterator<Item = (u32, BlockHash)> {
        let first = low.map_or(Some(0), |low| low.checked_add(1));
        let some = first.filter(|first| *first <= high);
        let blocks = some.map(|first| self.blocks.range(first..=high));
        blocks.into_iter().flatten().map(|(at, hash)| (*at, *hash))
    }

    /// How many are in blocks up to a height.
    pub(super) fn count(&self, height: u32) -> usize {
        self.between(None, height).len()
    }

    /// Forgets what lies above a height.
    fn cut(&mut self, height: u32) {
        while let Some(gone) = self.txs.pop_if(|deep| deep.height > height) {
            self.positions.remove(&gone.txid);
            self.bytes = self.bytes.saturating_sub(gone.bytes());
        }
        while self
            .blocks
            .last_entry()
            .is_some_and(|last| *last.key() > height)
        {
            self.blocks.pop_last();
        }
    }

    fn extend(&mut self, newer: Newer) {
        for deep in newer.txs {
            self.bytes = self.bytes.saturating_add(deep.bytes());
            self.positions.insert(deep.txid, self.txs.len());
            self.txs.push(deep);
        }
        self.blocks.extend(newer.blocks);
    }
}

/// What a reading found in deep blocks, to be kept.
#[derive(Debug, Default)]
pub(super) struct Newer {
    /// The block that it goes on from, of those that are kept; `None` where it is all there is.
    pub(super) from: Option<ReadUpTo>,
    /// The height up to which something may be kept.
    pub(super) up_to: u32,
    /// By ascending height, above [`Self::from`] and not above [`Self::up_to`].
    pub(super) txs: Vec<Deep>,
    /// Their blocks.
    pub(super) blocks: Vec<(u32, BlockHash)>,
}

/// What is kept, per script. The one asked for longest ago is forgotten first.
#[derive(Debug)]
pub(super) struct SettledHistories {
    known: HashMap<ScriptBuf, (Arc<Settled>, usize)>,
    /// The one asked for last at the end.
    order: VecDeque<ScriptBuf>,
    bytes: usize,
    most_bytes: usize,
}

impl Default for SettledHistories {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            most_bytes: MAX_BYTES,
        }
    }
}

impl SettledHistories {
    /// What is kept of `script`.
    pub(super) fn of(&mut self, script: &ScriptBuf) -> Option<Arc<Settled>> {
        let settled = Arc::clone(&self.known.get(script)?.0);
        self.touch(script);
        Some(settled)
    }

    /// Keeps what a reading found: in place of what was kept of `script`, or behind the part of it that the reading
    /// goes on from. Where that is not kept any more, nothing changes.
    pub(super) fn keep(&mut self, script: &ScriptBuf, newer: Newer) {
        let mut settled = match newer.from {
            None => {
                self.forget(script);
                Arc::default()
            }
            Some(from) => {
                let Some((known, bytes)) = self.known.remove(script) else {
                    return;
                };
                if !known.has(from) {
                    self.known.insert(script.clone(), (known, bytes));
                    return;
                }
                self.bytes = self.bytes.saturating_sub(bytes);
                self.order.retain(|other| other != script);
                known
            }
        };
        // Copied only while somebody else reads on from the same.
        let kept = Arc::make_mut(&mut settled);
        let from = newer.from.map_or(newer.up_to, |from| from.height);
        kept.cut(from.min(newer.up_to));
        kept.extend(newer);
        let bytes = kept.bytes;
        // One that is larger than all may be together would push out every other, and then itself.
        if kept.txs.is_empty() || bytes > self.most_bytes {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.known.insert(script.clone(), (settled, bytes));
        self.order.push_back(script.clone());
        while self.known.len() > MAX_ADDRESSES || self.bytes > self.most_bytes {
            let Some(oldest) = self.order.front().cloned() else {
                break;
            };
            self.forget(&oldest);
        }
    }

    /// Forgets what is kept of `script`.
    pub(super) fn forget(&mut self, script: &ScriptBuf) {
        if let Some((_, bytes)) = self.known.remove(script) {
            self.bytes = self.bytes.saturating_sub(bytes);
            self.order.retain(|other| other != script);
        }
    }

    fn touch(&mut self, script: &ScriptBuf) {
        self.order.retain(|other| other != script);
        self.order.push_back(script.clone());
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, TxOut};

    use super::*;

    fn script(n: u16) -> ScriptBuf {
        ScriptBuf::from_bytes(n.to_be_bytes().to_vec())
    }

    /// Some transactions that pay `to`, one in each block above a height.
    fn paying(to: &ScriptBuf, from: Option<u32>, count: u32) -> Newer {
        let first = from.map_or(0, |from| from + 1);
        let txs = (first..first + count).map(|height| {
            let tx = Transaction {
                version: Version::TWO,
                lock_time: LockTime::from_consensus(height),
                input: Vec::new(),
                output: vec![TxOut {
                    value: Amount::from_sat(1),
                    script_pubkey: to.clone(),
                }],
            };
            Deep {
                txid: tx.compute_txid(),
                tx: tx.into(),
                height,
            }
        });
        Newer {
            from: from.map(block),
            up_to: first + count,
            txs: txs.collect(),
            blocks: (first..first + count)
                .map(|height| (height, block(height).hash))
                .collect(),
        }
    }

    fn block(height: u32) -> ReadUpTo {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&height.to_be_bytes());
        ReadUpTo {
            height,
            hash: BlockHash::from_byte_array(bytes),
        }
    }

    fn settled(to: &ScriptBuf, count: u32) -> Newer {
        paying(to, None, count)
    }

    fn heights(kept: &mut SettledHistories, of: u16) -> Vec<u32> {
        let settled = kept.of(&script(of)).unwrap();
        let txs = settled.between(None, u32::MAX).iter();
        assert!(
            txs.clone()
                .all(|deep| settled.height_of(&deep.txid) == Some(deep.height))
        );
        txs.map(|deep| deep.height).collect()
    }

    #[test]
    fn what_is_newer_comes_behind_the_block_it_goes_on_from() {
        let mut kept = SettledHistories::default();
        let one = script(1);
        kept.keep(&one, settled(&one, 3));
        let former = kept.of(&one).unwrap();
        kept.keep(&one, paying(&one, Some(1), 4));
        assert_eq!(heights(&mut kept, 1), [0, 1, 2, 3, 4, 5]);
        assert_eq!(former.count(u32::MAX), 3, "whoever reads on from it");
        // A block that is not among those that are kept: of another branch, or of a longer reading.
        let mut other = paying(&one, Some(4), 2);
        other.from = Some(ReadUpTo {
            height: 4,
            hash: block(9).hash,
        });
        kept.keep(&one, other);
        kept.keep(&one, paying(&one, Some(7), 2));
        assert_eq!(heights(&mut kept, 1), [0, 1, 2, 3, 4, 5]);
        // The chain is shorter now.
        let mut less = paying(&one, Some(3), 0);
        less.up_to = 2;
        kept.keep(&one, less);
        assert_eq!(heights(&mut kept, 1), [0, 1, 2]);
        let settled = kept.of(&one).unwrap();
        assert!(settled.has(block(2)) && !settled.has(block(3)));
        let blocks: Vec<u32> = settled.blocks_between(Some(0), 9).map(|at| at.0).collect();
        assert_eq!(blocks, [1, 2]);
        kept.keep(&one, paying(&one, None, 1));
        assert_eq!(heights(&mut kept, 1), [0]);
        let bytes = kept.of(&one).unwrap().bytes;
        assert_eq!(kept.bytes, bytes);
    }

    #[test]
    fn the_address_asked_for_longest_ago_is_forgotten_first() {
        let mut kept = SettledHistories::default();
        let last = u16::try_from(MAX_ADDRESSES).unwrap();
        for n in 0..last {
            kept.keep(&script(n), settled(&script(n), 1));
        }
        assert!(kept.of(&script(0)).is_some());
        kept.keep(&script(last), settled(&script(last), 1));
        assert_eq!(kept.known.len(), MAX_ADDRESSES);
        assert!(kept.of(&script(1)).is_none(), "nobody asked for it");
        assert!(kept.of(&script(0)).is_some());
        assert!(kept.of(&script(last)).is_some());
        assert_eq!(kept.order.len(), kept.known.len());
    }

    #[test]
    fn memory_is_bounded_by_bytes_too() {
        let one = settled(&script(0), 1).txs[0].bytes();
        assert!(one > 50, "{one}");
        let mut kept = SettledHistories {
            most_bytes: 10 * one,
            ..SettledHistories::default()
        };
        kept.keep(&script(0), settled(&script(0), 11));
        assert!(kept.of(&script(0)).is_none(), "alone too large");
        for n in 1..4 {
            kept.keep(&script(n), settled(&script(n), 4));
            assert!(kept.bytes <= kept.most_bytes);
        }
        assert!(kept.of(&script(1)).is_none());
        assert!(kept.of(&script(2)).is_some() && kept.of(&script(3)).is_some());
        // The same again takes the place of what was there, and nothing is kept of nothing.
        kept.keep(&script(3), settled(&script(3), 1));
        assert_eq!(kept.bytes, 5 * one);
        kept.keep(&script(2), Newer::default());
        assert_eq!(
            (kept.bytes, kept.known.len(), kept.order.len()),
            (one, 1, 1)
        );
        kept.forget(&script(3));
        assert_eq!((kept.bytes, kept.known.len(), kept.order.len()), (0, 0, 0));
    }
}
