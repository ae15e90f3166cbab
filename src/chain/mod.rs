//! Chain backends, and the in-process regtest chain.
//!
//! A [`ChainBackend`] answers what the agent asks of Bitcoin: the tip, the complete history of an
//! address, the state of a transaction, a fee estimate, and broadcast. One backend exists,
//! [`EsploraBackend`]; Bitcoin Core RPC becomes a second variant. The demo and the tests run against
//! [`RegtestServer`], which serves a [`RegtestChain`] over the same Esplora API on loopback, so that
//! the backend they exercise is the one real users have.
//!
//! Nothing here remembers what it was told. After a reorganisation the next answer differs, and the
//! caller moves its own states back (design rule 9). [`Tip::hash`] tells that one happened.

mod acceptance;
mod esplora;
mod esplora_json;
mod faucet;
mod mempool;
mod reading;
mod regtest;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bitcoin::{Address, BlockHash, FeeRate, Transaction, Txid};

use crate::network::Network;
use crate::time::UnixTime;

pub use crate::beacon::history::AddressTx;

pub use self::acceptance::Reject;
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

/// Every transaction that pays an address or spends from it, read at one tip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressHistory {
    /// Height of the tip at which the history is complete.
    pub tip_height: u32,
    /// Hash of that tip.
    pub tip_hash: BlockHash,
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
}

impl ChainBackend {
    /// The backend of an Esplora server, see [`EsploraBackend::new`].
    ///
    /// # Errors
    /// [`ChainError::Url`] when `base_url` cannot be used.
    pub fn esplora(base_url: &str, timeout: Duration) -> Result<Self, ChainError> {
        EsploraBackend::new(base_url, timeout).map(Self::Esplora)
    }

    /// The name of the server for messages: host and port, never a path (paths carry access tokens).
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Esplora(backend) => backend.host(),
        }
    }

    /// The end of the best chain.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn tip(&self) -> Result<Tip, ChainError> {
        match self {
            Self::Esplora(backend) => backend.tip().await,
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
        match self {
            Self::Esplora(backend) => backend.address_history(address).await,
        }
    }

    /// Where a transaction is.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn tx_status(&self, txid: Txid) -> Result<TxStatus, ChainError> {
        match self {
            Self::Esplora(backend) => backend.tx_status(txid).await,
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
        }
    }

    /// The hash of the best chain's block at `height`, `None` above the tip.
    ///
    /// # Errors
    /// [`ChainError`]: the server could not be asked or its answer not be used.
    pub async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        match self {
            Self::Esplora(backend) => backend.block_hash(height).await,
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
        }
    }

    /// Makes sure that the server follows `network`: its genesis block, and for signets, which all
    /// share one genesis block, also the first block after it. Call it before anything else is
    /// believed, and again after a reconnect.
    ///
    /// # Errors
    /// [`ChainError::WrongNetwork`], or why the server could not be asked.
    pub async fn prove_network(&self, network: Network) -> Result<(), ChainError> {
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

/// Why a question to the chain has no answer. Names the server by host and port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The URL cannot be used. It is not repeated: it may carry an access token.
    #[error(
        "the chain server's URL {problem}: give an Esplora base URL such as https://mempool.space/signet/api"
    )]
    Url {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No connection, or no answer in time.
    #[error(
        "cannot reach the chain server {host}: {detail}; check the URL, that the server runs, and this machine's network"
    )]
    Unreachable {
        /// Host and port.
        host: String,
        /// The system's words.
        detail: String,
    },
    /// The server answered with an HTTP error.
    #[error("the chain server {host} refused the request with HTTP {status}: {detail}; {}", refusal_remedy(*status))]
    Refused {
        /// Host and port.
        host: String,
        /// The HTTP status code.
        status: u16,
        /// The first words of the answer.
        detail: String,
    },
    /// The answer is not what the Esplora API says, or contradicts itself.
    #[error(
        "the chain server {host} gave an unusable answer: {detail}; check that the URL is an Esplora base URL (most end in /api), or use another server"
    )]
    BadAnswer {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The chain moved in each of several attempts to read one history.
    #[error(
        "the chain server {host} changed its tip {attempts} times while one address was read; try again, or use a server whose index keeps up"
    )]
    Unsettled {
        /// Host and port.
        host: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// An address has more transactions than the agent is ready to read.
    #[error(
        "the history of {address} on the chain server {host} has more than {limit} transactions; such an address cannot serve as a beacon"
    )]
    TooLong {
        /// Host and port.
        host: String,
        /// The address.
        address: String,
        /// The most that are read.
        limit: usize,
    },
    /// The server follows another chain.
    #[error(
        "the chain server {host} is not on {network}: its block {height} is {}, expected {expected}; set the URL of a {network} server",
        Found(found)
    )]
    WrongNetwork {
        /// Host and port.
        host: String,
        /// The network it should be on.
        network: Network,
        /// The height of the block that gives it away.
        height: u32,
        /// The hash `network` has there.
        expected: BlockHash,
        /// The hash the server has there.
        found: Option<BlockHash>,
    },
}

impl ChainError {
    /// Whether the same question may well be answered later, without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unsettled { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 429 | 500..=599),
            Self::Url { .. }
            | Self::BadAnswer { .. }
            | Self::TooLong { .. }
            | Self::WrongNetwork { .. } => false,
        }
    }
}

const fn refusal_remedy(status: u16) -> &'static str {
    match status {
        401 | 403 => "the server wants permission: use another server or your own",
        404 => "check that the URL is an Esplora base URL (most end in /api)",
        429 => "too many requests: wait, or use your own server",
        500..=599 => "the server has a problem: try again later or use another server",
        _ => "check that the URL is an Esplora base URL, or use another server",
    }
}

struct Found<'a>(&'a Option<BlockHash>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hash) => hash.fmt(f),
            None => f.write_str("missing"),
        }
    }
}

/// Why a broadcast did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The node looked at the transaction and refused it.
    #[error("the node behind {host} rejected transaction {txid}: {reason}")]
    Rejected {
        /// Host and port of the chain server.
        host: String,
        /// The transaction.
        txid: Txid,
        /// The node's reason in its own words, such as `txn-mempool-conflict`.
        reason: String,
    },
    /// It is unknown whether the network has the transaction.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl BroadcastError {
    /// What a rejection means for the sender; `None` when there was none.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        match self {
            Self::Rejected { reason, .. } => Some(Rejection::of(reason)),
            Self::Chain(_) => None,
        }
    }
}

/// Bitcoin Core's reasons for a rejection, grouped by what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// It pays too little, to be relayed or to replace what it conflicts with: pay more.
    FeeTooLow,
    /// A conflicting transaction that does not allow replacement waits in the mempool.
    Conflict,
    /// An input is unknown or spent: look at the address again.
    InputsMissingOrSpent,
    /// A time lock has not run out: wait.
    NotYet,
    /// Anything else, bad signatures included: the transaction must change.
    Invalid,
}

impl Rejection {
    fn of(reason: &str) -> Self {
        const BY_WORD: [(&str, Rejection); 8] = [
            ("insufficient fee", Rejection::FeeTooLow),
            ("min relay fee not met", Rejection::FeeTooLow),
            ("mempool min fee not met", Rejection::FeeTooLow),
            ("mempool full", Rejection::FeeTooLow),
            ("txn-mempool-conflict", Rejection::Conflict),
            ("missingorspent", Rejection::InputsMissingOrSpent),
            ("non-final", Rejection::NotYet),
            ("non-BIP68-final", Rejection::NotYet),
        ];
        BY_WORD
            .iter()
            .find(|(word, _)| reason.contains(word))
            .map_or(Self::Invalid, |(_, kind)| *kind)
    }
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

    #[test]
    fn rejections_are_grouped_by_what_can_be_done() {
        for (reason, kind) in [
            ("min relay fee not met, 10 < 141", Rejection::FeeTooLow),
            (
                "insufficient fee, rejecting replacement",
                Rejection::FeeTooLow,
            ),
            ("txn-mempool-conflict", Rejection::Conflict),
            (
                "bad-txns-inputs-missingorspent",
                Rejection::InputsMissingOrSpent,
            ),
            ("non-final", Rejection::NotYet),
            (
                "mandatory-script-verify-flag-failed (Invalid Schnorr signature)",
                Rejection::Invalid,
            ),
        ] {
            assert_eq!(Rejection::of(reason), kind, "{reason}");
        }
    }
}
