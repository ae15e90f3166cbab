//! Chain facts from a Bitcoin Core node, over its JSON-RPC; no wallet is used.
//!
//! The node is the operator's own and is believed. What it can not answer is an error that names the
//! setting it lacks; a history is complete or it is an error.
//!
//! The history of an address is read from the blocks that the node's compact filters (BIP-157, BIP-158,
//! `blockfilterindex=1`) say may hold something of it: with `scanblocks` over a long way, filter by
//! filter over a short one. What was read is kept with the hash of the block it reaches to, so that
//! the next question costs what happened since; a reorganisation is known by these hashes. A node
//! without that index serves short chains only, whose blocks are all read.
//!
//! Where the history of an address breaks off because it is too long, it stays so: nothing is read
//! again.

mod history;
mod rpc;
mod scan;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::block::Header;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::hashes::Hash as _;
use bitcoin::hex::DisplayHex as _;
use bitcoin::{
    Address, Amount, BlockHash, CompactTarget, FeeRate, Script, Transaction, TxMerkleNode, Txid,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use self::history::Scans;
use self::rpc::{CallError, NodeError, Rpc};
use self::scan::Scan;
use super::error::printable;
use super::{BlockFacts, BroadcastError, ChainError, Tip, TxStatus};
use crate::time::UnixTime;

pub use self::rpc::CoreLogin;

/// How long such a scan may take.
const SCAN_TIMEOUT: Duration = Duration::from_secs(300);

/// A node makes one scan at a time: how often it is asked again while another one runs, and the pause.
const SCAN_TRIES: u32 = 40;
const SCAN_PAUSE: Duration = Duration::from_millis(250);

/// A Bitcoin Core node, version 24 or later.
#[derive(Clone)]
pub struct CoreBackend {
    rpc: Arc<Rpc>,
    scans: Arc<Mutex<Scans>>,
}

impl fmt::Debug for CoreBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreBackend")
            .field("host", &self.rpc.host())
            .finish_non_exhaustive()
    }
}

impl CoreBackend {
    /// A backend for the node at `url` (`http://127.0.0.1:8332`); nothing is sent yet, and a cookie file
    /// is read with the first request. `timeout` bounds one request, except for scans, rounded up to
    /// whole seconds.
    ///
    /// # Errors
    /// [`ChainError::Url`]: not an http or https URL, or one with a user name, query or fragment.
    pub fn new(url: &str, login: CoreLogin, timeout: Duration) -> Result<Self, ChainError> {
        Ok(Self {
            rpc: Arc::new(Rpc::new(url, login, timeout)?),
            scans: Arc::default(),
        })
    }

    /// Host and port, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        self.rpc.host()
    }

    /// Requests sent so far, those of all clones together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.rpc.requests()
    }

    /// See [`super::ChainBackend::tip`]. One request.
    pub(super) async fn tip(&self) -> Result<Tip, ChainError> {
        #[derive(Deserialize)]
        struct Info {
            blocks: u32,
            headers: u32,
            bestblockhash: BlockHash,
            mediantime: u64,
            initialblockdownload: bool,
        }
        let info: Info = self.ask("getblockchaininfo", json!([])).await?;
        if info.initialblockdownload && info.blocks < info.headers {
            return Err(ChainError::NotReady {
                host: self.host().to_owned(),
                detail: format!(
                    "it is downloading the chain and has block {} of {}",
                    info.blocks, info.headers
                ),
            });
        }
        Ok(Tip {
            height: info.blocks,
            hash: info.bestblockhash,
            median_time: UnixTime(info.mediantime),
        })
    }

    /// See [`super::ChainBackend::block_hash`].
    pub(super) async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        match self.rpc.call("getblockhash", json!([height])).await {
            Ok(hash) => Ok(Some(hash)),
            Err(CallError::Node(error)) if error.code == rpc::BAD_PARAMETER => Ok(None),
            Err(error) => Err(self.fail("getblockhash", error)),
        }
    }

    /// See [`super::ChainBackend::block`].
    pub(super) async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, ChainError> {
        let header: HeaderInfo = match self.rpc.call("getblockheader", json!([hash, true])).await {
            Ok(header) => header,
            Err(CallError::Node(error)) if error.code == rpc::NOT_FOUND => return Ok(None),
            Err(error) => return Err(self.fail("getblockheader", error)),
        };
        if header.computed_hash() != Some(hash) {
            let detail = format!("block {hash} has a header of another block");
            return Err(self.rpc.bad_answer(detail));
        }
        Ok(Some(BlockFacts {
            height: header.height,
            hash,
            time: UnixTime(header.time),
            median_time: UnixTime(header.mediantime),
        }))
    }

    /// See [`super::ChainBackend::tx_status`]. The mempool and the transactions of addresses that were
    /// read are known without `txindex`, and so is one with an unspent output among its first.
    pub(super) async fn tx_status(&self, txid: Txid) -> Result<TxStatus, ChainError> {
        #[derive(Deserialize)]
        struct Info {
            blockhash: Option<BlockHash>,
            #[serde(default)]
            confirmations: i64,
        }
        let asked = self.rpc.call("getrawtransaction", json!([txid, true]));
        let error = match asked.await {
            Ok(Info {
                blockhash: None, ..
            }) => return Ok(TxStatus::Mempool),
            // With txindex the node remembers blocks that a reorganisation took away.
            Ok(Info {
                blockhash: Some(hash),
                confirmations,
            }) if confirmations > 0 => {
                return match self.block(hash).await? {
                    Some(block) => Ok(TxStatus::Confirmed {
                        height: block.height,
                        hash,
                    }),
                    None => Err(self
                        .rpc
                        .bad_answer(format!("block {hash} of transaction {txid} is missing"))),
                };
            }
            Ok(_) => return Ok(TxStatus::NotFound),
            Err(CallError::Node(error)) if error.code == rpc::NOT_FOUND => error,
            Err(error) => return Err(self.fail("getrawtransaction", error)),
        };
        if error.message.contains("being indexed") {
            return Err(self.not_ready(&error.message));
        }
        if !error.message.contains("txindex") {
            return Ok(TxStatus::NotFound);
        }
        if let Some((height, hash)) = self.remembered_place(txid).await
            && self.block_hash(height).await? == Some(hash)
        {
            return Ok(TxStatus::Confirmed { height, hash });
        }
        match self.place_of_unspent(txid).await? {
            Some((height, hash)) => Ok(TxStatus::Confirmed { height, hash }),
            None => Err(ChainError::Lacks {
                host: self.host().to_owned(),
                task: "say whether a transaction of no watched address is in a block",
                setting: "txindex=1",
            }),
        }
    }

    /// See [`super::ChainBackend::fee_rate`].
    pub(super) async fn fee_rate(&self, target_blocks: u16) -> Result<Option<FeeRate>, ChainError> {
        #[derive(Deserialize)]
        struct Estimate {
            /// In BTC per 1000 virtual bytes; absent as long as the node has seen too little.
            feerate: Option<f64>,
        }
        // The node takes 1 to 1008.
        let target = target_blocks.clamp(1, 1_008);
        let estimate: Estimate = self.ask("estimatesmartfee", json!([target])).await?;
        let Some(rate) = estimate.feerate else {
            return Ok(None);
        };
        let per_kvb = Amount::from_btc(rate)
            .map_err(|_| self.rpc.bad_answer(format!("a fee rate of {rate}")))?;
        let rate = FeeRate::from_sat_per_kwu(per_kvb.to_sat().div_ceil(4));
        Ok(Some(rate).filter(|rate| *rate > FeeRate::ZERO))
    }

    /// See [`super::ChainBackend::broadcast`].
    pub(super) async fn broadcast(&self, tx: &Transaction) -> Result<(), BroadcastError> {
        const METHOD: &str = "sendrawtransaction";
        let txid = tx.compute_txid();
        let error = match self.rpc.call(METHOD, json!([serialize_hex(tx)])).await {
            Ok(answered) if txid == answered => return Ok(()),
            Ok(answered) => {
                let detail = format!("sent transaction {txid}, it acknowledged {answered}");
                return Err(self.rpc.bad_answer(detail).into());
            }
            Err(CallError::Node(error)) if error.code == rpc::IN_CHAIN => return Ok(()),
            Err(CallError::Node(error))
                if !matches!(error.code, rpc::WARMING_UP | rpc::NO_SUCH_METHOD) =>
            {
                error
            }
            Err(error) => return Err(self.fail(METHOD, error).into()),
        };
        // What is in a block with all outputs spent, the node refuses for its missing inputs.
        match self.tx_status(txid).await {
            Ok(TxStatus::Mempool | TxStatus::Confirmed { .. }) => Ok(()),
            Ok(TxStatus::NotFound) | Err(ChainError::Lacks { .. }) => {
                Err(BroadcastError::Rejected {
                    host: self.host().to_owned(),
                    txid,
                    reason: printable(&error.message),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What lies unspent in blocks at `address`, in satoshis, from the node's set of unspent outputs: it
    /// needs no index, and takes a minute or two on a full chain.
    ///
    /// # Errors
    /// [`ChainError`]: the node could not be asked or its answer not be used.
    pub async fn balance(&self, address: &Address) -> Result<Amount, ChainError> {
        #[derive(Deserialize)]
        struct Scanned {
            success: bool,
            total_amount: f64,
        }
        let params = json!(["start", [descriptor(&address.script_pubkey())]]);
        let scanned: Scanned = self.scan_call("scantxoutset", params).await?;
        if !scanned.success {
            return Err(self.not_ready("its scan was aborted"));
        }
        Amount::from_btc(scanned.total_amount).map_err(|_| {
            self.rpc
                .bad_answer("a balance that is no amount".to_owned())
        })
    }

    /// Calls what the node does one at a time only, and waits while it does another.
    async fn scan_call<T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        for _ in 0..SCAN_TRIES {
            match self
                .rpc
                .call_within(method, params.clone(), SCAN_TIMEOUT)
                .await
            {
                Err(CallError::Node(error)) if error.message.contains("already in progress") => {
                    tokio::time::sleep(SCAN_PAUSE).await;
                }
                other => return other.map_err(|error| self.fail(method, error)),
            }
        }
        Err(self.not_ready("another scan is running"))
    }

    /// The block that held a transaction when the history of its address was read.
    async fn remembered_place(&self, txid: Txid) -> Option<(u32, BlockHash)> {
        let scans = self.scans.lock().await;
        let found = scans.known.values().flat_map(Scan::found);
        found
            .filter(|found| found.txid == txid)
            .map(|found| (found.height, found.hash))
            .last()
    }

    /// The block of a transaction one of whose first outputs is unspent.
    async fn place_of_unspent(&self, txid: Txid) -> Result<Option<(u32, BlockHash)>, ChainError> {
        #[derive(Deserialize)]
        struct Unspent {
            bestblock: BlockHash,
            confirmations: u32,
        }
        let params = (0..4).map(|vout| json!([txid, vout, false])).collect();
        let outputs: Vec<Option<Unspent>> = self.all("gettxout", params).await?;
        let Some(unspent) = outputs.into_iter().flatten().next() else {
            return Ok(None);
        };
        let best = self.block(unspent.bestblock).await?;
        let height = best.and_then(|best| {
            best.height
                .checked_add(1)?
                .checked_sub(unspent.confirmations)
        });
        let Some(height) = height else {
            return Ok(None);
        };
        Ok(self.block_hash(height).await?.map(|hash| (height, hash)))
    }

    /// Calls `method` once for each of `params`; all must succeed.
    async fn all<T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        params: Vec<Value>,
    ) -> Result<Vec<T>, ChainError> {
        let answers = self.rpc.batch(method, params).await?;
        answers
            .into_iter()
            .map(|answer| answer.map_err(|error| self.moved_or(method, error)))
            .collect()
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        let asked = self.rpc.call(method, params).await;
        asked.map_err(|error| self.fail(method, error))
    }

    fn fail(&self, method: &'static str, error: CallError) -> ChainError {
        match error {
            CallError::Chain(error) => error,
            CallError::Node(error) => self.rpc.node_error(method, error),
        }
    }

    /// What one of many calls was refused with: a block that was there a moment ago is gone because the
    /// chain moved.
    fn moved_or(&self, method: &'static str, error: NodeError) -> ChainError {
        match error.code {
            rpc::BAD_PARAMETER | rpc::NOT_FOUND => ChainError::Unsettled {
                host: self.host().to_owned(),
                attempts: 1,
            },
            _ => self.rpc.node_error(method, error),
        }
    }

    fn not_ready(&self, detail: &str) -> ChainError {
        ChainError::NotReady {
            host: self.host().to_owned(),
            detail: printable(detail),
        }
    }
}

/// `getblockheader`, as far as it is used.
#[derive(Deserialize)]
struct HeaderInfo {
    height: u32,
    version: i32,
    #[serde(rename = "merkleroot")]
    merkle_root: TxMerkleNode,
    time: u64,
    mediantime: u64,
    nonce: u32,
    bits: String,
    previousblockhash: Option<BlockHash>,
}

impl HeaderInfo {
    /// The hash of the header that the fields make up; `None` if they make up none.
    fn computed_hash(&self) -> Option<BlockHash> {
        let header = Header {
            version: bitcoin::block::Version::from_consensus(self.version),
            prev_blockhash: self.previousblockhash.unwrap_or_else(BlockHash::all_zeros),
            merkle_root: self.merkle_root,
            time: u32::try_from(self.time).ok()?,
            bits: CompactTarget::from_unprefixed_hex(&self.bits).ok()?,
            nonce: self.nonce,
        };
        Some(header.block_hash())
    }
}

/// An output descriptor for exactly this script.
fn descriptor(script: &Script) -> String {
    format!("raw({})", script.as_bytes().as_hex())
}
