//! Chain backends, and the in-process regtest chain.
//!
//! A [`ChainBackend`] answers what the agent asks of Bitcoin: the tip, the complete history of an
//! address, the state of a transaction, a fee estimate, and broadcast. It speaks the Esplora HTTP API
//! ([`EsploraBackend`]) or the JSON-RPC of Bitcoin Core ([`CoreBackend`]), or asks several servers and
//! compares what they say ([`ComparedBackend`]). The demo and most tests run against
//! [`RegtestServer`], which serves a [`RegtestChain`] over the Esplora API on loopback, so that the
//! backend they exercise is the one real users have; some run against a real node.
//!
//! Nothing here lives longer than the block it came from. What a backend keeps of a history is found again by block
//! hash, or dropped. After a reorganisation the next answer differs, and the caller moves its own states back (design
//! rule 9). [`Tip::hash`] tells that one happened.

mod acceptance;
mod bitcoind;
mod compared;
mod error;
mod esplora;
mod esplora_http;
mod esplora_json;
mod faucet;
mod mempool;
mod reading;
mod regtest;
mod server;
mod settled;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use bitcoin::{Address, BlockHash, FeeRate, Transaction, Txid};

use crate::network::Network;
use crate::time::UnixTime;

pub use crate::beacon::history::AddressTx;

pub use self::acceptance::Reject;
pub use self::bitcoind::{CoreBackend, CoreLogin};
pub use self::compared::ComparedBackend;
pub use self::error::{BroadcastError, ChainError, Rejection};
pub use self::esplora::EsploraBackend;
pub use self::faucet::FundError;
pub use self::regtest::{Clock, RegtestChain, stepping_clock, system_clock};
pub use self::server::{RegtestServer, ServerError, ServerSettings, SharedChain};

/// The block at the end of the best chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Blocks below this one; the genesis block has height 0.
    pub height: u32,
    /// Its hash. Same height and another hash: the chain was reorganised.
    pub hash: BlockHash,
    /// Median time of this block and the ten before it (BIP-113), which `versionTime` and `expires`
    /// are compared with (spec.md §3.4).
    pub median_time: UnixTime,
}

/// A block's place in the chain, and its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockFacts {
    /// Blocks below it.
    pub height: u32,
    /// Its hash.
    pub hash: BlockHash,
    /// The time in its header, which the miner chose.
    pub time: UnixTime,
    /// Median time of this block and the ten before it (BIP-113).
    pub median_time: UnixTime,
}

/// Where a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// The backend does not know it: never seen, evicted, or replaced.
    NotFound,
    /// Valid and waiting.
    Mempool,
    /// In the best chain.
    Confirmed {
        /// Height of its block.
        height: u32,
        /// Hash of its block.
        hash: BlockHash,
    },
}

impl TxStatus {
    /// Confirmations as seen from `tip_height`: 1 in the tip itself, 0 when unconfirmed.
    #[must_use]
    pub const fn confirmations(self, tip_height: u32) -> u32 {
        match self {
            Self::Confirmed { height, .. } if height <= tip_height => {
                (tip_height - height).saturating_add(1)
            }
            _ => 0,
        }
    }
}

/// A block up to which a reader has all transactions of an address: it need not be told of them again. A block's hash
/// stands for every block below it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadUpTo {
    /// The block's height.
    pub height: u32,
    /// The block's hash.
    pub hash: BlockHash,
}

/// Every transaction that pays an address or spends from it, read at one tip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressHistory {
    /// Height of the tip at which the history is complete.
    pub tip_height: u32,
    /// Hash of that tip.
    pub tip_hash: BlockHash,
    /// What is in blocks up to this height is left out, because the reader has it; `None`: nothing is.
    pub above: Option<u32>,
    /// Confirmed ones first, by ascending height, then the unconfirmed. Inside a block and inside the
    /// mempool no order is promised. No txid occurs twice.
    pub txs: Vec<AddressTx>,
    /// The blocks that hold the confirmed ones, by height. A server may leave some out.
    pub blocks: BTreeMap<u32, BlockHash>,
}

/// A source of chain facts. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChainBackend {
    /// An Esplora HTTP server.
    Esplora(EsploraBackend),
    /// A Bitcoin Core node.
    Core(CoreBackend),
    /// Several of these, which have to agree.
    Compared(ComparedBackend),
}

impl AddressHistory {
    /// The block up to which nobody need be told of this history again, if there is one as deep as
    /// `settled::READ_ANEW` with something in it.
    #[must_use]
    pub fn read_up_to(&self) -> Option<ReadUpTo> {
        let deep = self.tip_height.checked_sub(settled::READ_ANEW)?;
        let (height, hash) = self.blocks.range(..=deep).next_back()?;
        Some(ReadUpTo {
            height: *height,
            hash: *hash,
        })
    }
}

impl ChainBackend {
    /// The backend of an Esplora server, see [`EsploraBackend::new`].
    ///
    /// # Errors
    /// [`ChainError::Url`] when `base_url` cannot be used.
    pub fn esplora(base_url: &str, timeout: Duration) -> Result<Self, ChainError> {
        EsploraBackend::new(base_url, timeout).map(Self::Esplora)
    }

    /// The same by way of an HTTP proxy, see [`EsploraBackend::through`].
    ///
    /// # Errors
    /// [`ChainError::Url`] when `base_url` cannot be used.
    pub fn esplora_through(
        base_url: &str,
        timeout: Duration,
        proxy: Option<&str>,
    ) -> Result<Self, ChainError> {
        EsploraBackend::through(base_url, timeout, proxy).map(Self::Esplora)
    }

    /// The backend of a Bitcoin Core node, see [`CoreBackend::new`].
    ///
    /// # Errors
    /// [`ChainError::Url`] when `url` cannot be used.
    pub fn core(url: &str, login: CoreLogin, timeout: Duration) -> Result<Self, ChainError> {
        CoreBackend::new(url, login, timeout).map(Self::Core)
    }

    /// `primary`, with every fact that moves money compared with what `checks` say.
    #[must_use]
    pub fn compared(primary: Self, checks: Vec<Self>) -> Self {
        if checks.is_empty() {
            return primary;
        }
        Self::Compared(ComparedBackend::new(primary, checks))
    }

    /// The name of the server for messages: host and port, never a path (paths carry access tokens).
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Esplora(backend) => backend.host(),
            Self::Core(backend) => backend.host(),
            Self::Compared(backend) => backend.host(),
        }
    }

    /// The end of the best chain.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn tip(&self) -> Result<Tip, ChainError> {
        match self {
            Self::Esplora(backend) => backend.tip().await,
            Self::Core(backend) => backend.tip().await,
            Self::Compared(backend) => Box::pin(backend.tip()).await,
        }
    }

    /// The complete history of `address`, consistent with one tip.
    ///
    /// All confirmed transactions are there, and every unconfirmed one that spends from the address.
    /// Unconfirmed payments *to* it may be left out when very many wait at once.
    ///
    /// # Errors
    /// [`ChainError`]; a history that cannot be shown to be complete is an error, never a short list.
    pub async fn address_history(&self, address: &Address) -> Result<AddressHistory, ChainError> {
        self.address_history_above(address, None).await
    }

    /// The same, without what the reader has already, if the block up to which it has it is still in the best chain.
    ///
    /// # Errors
    /// As [`Self::address_history`].
    pub async fn address_history_above(
        &self,
        address: &Address,
        known: Option<ReadUpTo>,
    ) -> Result<AddressHistory, ChainError> {
        match self {
            Self::Esplora(backend) => backend.address_history(address, known).await,
            Self::Core(backend) => backend.address_history(address, known).await,
            Self::Compared(backend) => Box::pin(backend.address_history(address, known)).await,
        }
    }

    /// Where a transaction is.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn tx_status(&self, txid: Txid) -> Result<TxStatus, ChainError> {
        match self {
            Self::Esplora(backend) => backend.tx_status(txid).await,
            Self::Core(backend) => backend.tx_status(txid).await,
            Self::Compared(backend) => Box::pin(backend.tx_status(txid)).await,
        }
    }

    /// The fee rate at which a transaction is expected to confirm within `target_blocks`; `None` when
    /// the backend has no estimate. It is a stranger's number: bound it by policy before use.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn fee_rate(&self, target_blocks: u16) -> Result<Option<FeeRate>, ChainError> {
        match self {
            Self::Esplora(backend) => backend.fee_rate(target_blocks).await,
            Self::Core(backend) => backend.fee_rate(target_blocks).await,
            Self::Compared(backend) => Box::pin(backend.fee_rate(target_blocks)).await,
        }
    }

    /// Hands a transaction to the network. A transaction the server has already, in its mempool or in
    /// a block, counts as success, so calling it again is safe. `Ok` says that the server accepted
    /// it, not that it will confirm.
    ///
    /// # Errors
    /// [`BroadcastError::Rejected`] with the node's reason, or [`BroadcastError::Chain`] when it is
    /// unknown what became of the transaction: call again.
    pub async fn broadcast(&self, tx: &Transaction) -> Result<(), BroadcastError> {
        match self {
            Self::Esplora(backend) => backend.broadcast(tx).await,
            Self::Core(backend) => backend.broadcast(tx).await,
            Self::Compared(backend) => Box::pin(backend.broadcast(tx)).await,
        }
    }

    /// The hash of the best chain's block at `height`, `None` above the tip.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        match self {
            Self::Esplora(backend) => backend.block_hash(height).await,
            Self::Core(backend) => backend.block_hash(height).await,
            Self::Compared(backend) => Box::pin(backend.block_hash(height)).await,
        }
    }

    /// Height and times of a block, `None` if the server does not have it. It may be one that a
    /// reorganisation took out of the best chain.
    ///
    /// Hash and header time are proved by each other; height and median time are the server's word.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, ChainError> {
        match self {
            Self::Esplora(backend) => backend.block(hash).await,
            Self::Core(backend) => backend.block(hash).await,
            Self::Compared(backend) => Box::pin(backend.block(hash)).await,
        }
    }

    /// Makes sure that the server follows `network`: its genesis block, and for signets, which all
    /// share one genesis block, also the first block after it. Call it before anything else is
    /// believed, and again after a reconnect.
    ///
    /// # Errors
    /// [`ChainError::WrongNetwork`], or why the server could not be asked.
    pub async fn prove_network(&self, network: Network) -> Result<(), ChainError> {
        if let Self::Compared(backend) = self {
            return Box::pin(backend.prove_network(network)).await;
        }
        for (height, expected) in network_markers(network) {
            let found = self.block_hash(height).await?;
            if found != Some(expected) {
                return Err(ChainError::WrongNetwork {
                    host: self.host().to_owned(),
                    network,
                    height,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// The blocks that tell `network` from every other one, as (height, hash).
fn network_markers(network: Network) -> Vec<(u32, BlockHash)> {
    // A signet's genesis block does not commit to its challenge (BIP-325); block 1 is signed by it.
    let first_block = match network {
        Network::Signet => Some("00000086d6b2636cb2a392d45edc4ec544a10024d30141c9adf4bfd9de533b53"),
        Network::Mutinynet => {
            Some("000002855893a0a9b24eaffc5efc770558a326fee4fc10c9da22fc19cd2954f9")
        }
        Network::Bitcoin | Network::Testnet3 | Network::Testnet4 | Network::Regtest => None,
    };
    let genesis = bitcoin::constants::genesis_block(network.bitcoin_network()).block_hash();
    let mut markers = vec![(0, genesis)];
    if let Some(hash) = first_block {
        #[allow(clippy::expect_used)]
        let hash = BlockHash::from_str(hash).expect("the constants above are 64 hex digits");
        markers.push((1, hash));
    }
    markers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_told_from_every_other() {
        for a in Network::ALL {
            for b in Network::ALL {
                assert_eq!(network_markers(a) == network_markers(b), a == b, "{a} {b}");
            }
        }
        assert_eq!(
            network_markers(Network::Signet)[0],
            network_markers(Network::Mutinynet)[0],
            "if signets ever differ in their genesis block, block 1 is no longer needed"
        );
    }

    #[test]
    fn confirmations_count_the_block_itself() {
        let hash = network_markers(Network::Regtest)[0].1;
        let status = TxStatus::Confirmed { height: 7, hash };
        assert_eq!(status.confirmations(7), 1);
        assert_eq!(status.confirmations(12), 6);
        assert_eq!(status.confirmations(6), 0);
        assert_eq!(TxStatus::Mempool.confirmations(12), 0);
    }
}
