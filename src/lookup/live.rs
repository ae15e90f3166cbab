//! Reading a chain backend for one resolution.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bitcoin::{Address, BlockHash};

use crate::beacon::history::AddressHistory;
use crate::chain::{BlockFacts, ChainBackend, ChainError};
use crate::resolver::{BlockRef, ChainSignal, SignalBlock};

/// Blocks that are kept: a hundred bytes each.
const MAX_BLOCKS: usize = 4096;

/// Facts of blocks. They never change, so that each block is asked for once.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    facts: HashMap<BlockHash, BlockFacts>,
    /// The oldest first.
    order: VecDeque<BlockHash>,
}

impl Blocks {
    fn get(&self, hash: BlockHash) -> Option<BlockFacts> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.facts.get(&hash).copied()
    }

    fn keep(&self, facts: BlockFacts) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.facts.insert(facts.hash, facts).is_none() {
            kept.order.push_back(facts.hash);
        }
        if kept.order.len() > MAX_BLOCKS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.facts.remove(&oldest);
        }
    }
}

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Stopped {
    /// A block that was there is gone, or not there yet: begin again.
    Moved,
    /// The server could not be asked.
    Failed(ChainError),
}

impl From<ChainError> for Stopped {
    fn from(error: ChainError) -> Self {
        Self::Failed(error)
    }
}

/// One resolution's view of a chain backend.
#[derive(Debug)]
pub(super) struct Live<'a> {
    backend: &'a ChainBackend,
    blocks: &'a Blocks,
    /// The tip that the resolution is as of.
    height: u32,
    /// The blocks that were the end of the best chain while something was read.
    tips: BTreeSet<(u32, BlockHash)>,
}

impl<'a> Live<'a> {
    /// Asks for the tip that everything else is read as of.
    pub(super) async fn start(
        backend: &'a ChainBackend,
        blocks: &'a Blocks,
    ) -> Result<(Self, BlockRef), ChainError> {
        let tip = backend.tip().await?;
        let live = Self {
            backend,
            blocks,
            height: tip.height,
            tips: BTreeSet::from([(tip.height, tip.hash)]),
        };
        let tip = BlockRef {
            height: tip.height,
            hash: tip.hash,
        };
        Ok((live, tip))
    }

    /// Every signal ever sent from an address, those still unconfirmed too.
    pub(super) async fn signals(&mut self, address: &Address) -> Result<Vec<ChainSignal>, Stopped> {
        let history = self.backend.address_history(address).await?;
        if history.tip_height < self.height {
            // Another server of the same name, which lags behind: what it does not know yet may matter.
            return Err(Stopped::Moved);
        }
        self.tips.insert((history.tip_height, history.tip_hash));
        let script = address.script_pubkey();
        let seen = AddressHistory::new(script, history.tip_height, history.txs).signals();
        let mut signals = Vec::with_capacity(seen.len());
        for signal in seen {
            let block = match signal.height {
                None => None,
                Some(height) => {
                    let listed = history.blocks.get(&height).copied();
                    Some(self.block(height, listed).await?)
                }
            };
            signals.push(ChainSignal {
                txid: signal.txid,
                signal: signal.signal,
                block,
            });
        }
        Ok(signals)
    }

    /// Whether every block that was a tip is still in the best chain. Then all that was read belongs to one
    /// chain, and nothing of it below the first tip has changed since.
    pub(super) async fn is_unmoved(&self) -> Result<bool, ChainError> {
        for (height, hash) in &self.tips {
            if self.backend.block_hash(*height).await? != Some(*hash) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn block(&self, height: u32, listed: Option<BlockHash>) -> Result<SignalBlock, Stopped> {
        let hash = match listed {
            Some(hash) => hash,
            None => (self.backend.block_hash(height).await?).ok_or(Stopped::Moved)?,
        };
        let facts = match self.blocks.get(hash) {
            Some(facts) => facts,
            None => {
                let facts = (self.backend.block(hash).await?).ok_or(Stopped::Moved)?;
                self.blocks.keep(facts);
                facts
            }
        };
        if facts.height != height {
            return Err(Stopped::Failed(ChainError::BadAnswer {
                host: self.backend.host().to_owned(),
                detail: format!("block {hash} is at height {height} and at {}", facts.height),
            }));
        }
        Ok(SignalBlock {
            height,
            hash,
            time: facts.time,
            median_time: facts.median_time,
        })
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::*;
    use crate::time::UnixTime;

    #[test]
    fn no_more_blocks_are_kept_than_the_limit_and_the_oldest_go_first() {
        let blocks = Blocks::default();
        let hash = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            BlockHash::from_byte_array(bytes)
        };
        for number in 0..MAX_BLOCKS + 10 {
            blocks.keep(BlockFacts {
                height: 1,
                hash: hash(number),
                time: UnixTime(2),
                median_time: UnixTime(1),
            });
            // Once more does not count twice.
            let facts = blocks.get(hash(number)).unwrap();
            blocks.keep(facts);
        }
        let kept = blocks.0.lock().unwrap();
        assert_eq!(kept.facts.len(), MAX_BLOCKS);
        assert_eq!(kept.order.len(), MAX_BLOCKS);
        assert!(!kept.facts.contains_key(&hash(9)));
        assert!(kept.facts.contains_key(&hash(10)));
    }
}
