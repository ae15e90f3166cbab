//! What a chain source tells a resolver.

use bitcoin::{BlockHash, Txid};

use crate::hash::SignalBytes;
use crate::time::UnixTime;

/// A block of the best chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BlockRef {
    /// Blocks below it; the genesis block has height 0.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
}

/// The block that holds a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct SignalBlock {
    /// Blocks below it.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// The time in its header, which `updated` and `proof.created` are about.
    pub time: UnixTime,
    /// Median time of it and the ten before it (BIP-113), which `versionTime` and `proof.expires` are about.
    pub median_time: UnixTime,
}

/// A transaction that spends from an address and whose last output carries 32 bytes (spec.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct ChainSignal {
    /// The transaction.
    pub txid: Txid,
    /// The 32 bytes.
    pub signal: SignalBytes,
    /// Its block; `None` while it is unconfirmed.
    pub block: Option<SignalBlock>,
}

impl ChainSignal {
    /// Confirmations as seen from a tip: 1 in the tip itself, 0 when unconfirmed or above the tip.
    #[must_use]
    pub fn confirmations(&self, tip: BlockRef) -> u32 {
        let depth = self.block.and_then(|b| tip.height.checked_sub(b.height));
        depth.map_or(0, |depth| depth.saturating_add(1))
    }
}
