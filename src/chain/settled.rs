//! What was read of addresses in blocks that lie deep, so that a further reading reads only what is newer.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bitcoin::{BlockHash, ScriptBuf, Txid};

use super::reading::Listed;

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
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The newest first, as the server listed them.
    pub(super) txs: Vec<Arc<Listed>>,
    /// Heights of these transactions.
    pub(super) heights: HashMap<Txid, u32>,
    /// The blocks that have them.
    pub(super) blocks: BTreeMap<u32, BlockHash>,
}

impl Settled {
    /// Roughly what it takes in memory.
    fn bytes(&self) -> usize {
        self.txs.iter().map(|listed| listed.bytes()).sum()
    }
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

    /// Keeps `settled`, in place of what was kept of `script`.
    pub(super) fn keep(&mut self, script: &ScriptBuf, settled: Settled) {
        self.forget(script);
        let bytes = settled.bytes();
        // One that is larger than all may be together would push out every other, and then itself.
        if settled.txs.is_empty() || bytes > self.most_bytes {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.known
            .insert(script.clone(), (Arc::new(settled), bytes));
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
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, Transaction, TxOut};

    use super::*;

    fn script(n: u16) -> ScriptBuf {
        ScriptBuf::from_bytes(n.to_be_bytes().to_vec())
    }

    /// Some transactions that pay `to`.
    fn settled(to: &ScriptBuf, count: u32) -> Settled {
        let txs = (0..count).map(|n| {
            let tx = Transaction {
                version: Version::TWO,
                lock_time: LockTime::from_consensus(n),
                input: Vec::new(),
                output: vec![TxOut {
                    value: Amount::from_sat(1),
                    script_pubkey: to.clone(),
                }],
            };
            Arc::new(Listed::paying(tx, n))
        });
        Settled {
            txs: txs.collect(),
            ..Settled::default()
        }
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
        let one = settled(&script(0), 1).bytes();
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
        kept.keep(&script(2), Settled::default());
        assert_eq!(
            (kept.bytes, kept.known.len(), kept.order.len()),
            (one, 1, 1)
        );
        kept.forget(&script(3));
        assert_eq!((kept.bytes, kept.known.len(), kept.order.len()), (0, 0, 0));
    }
}
