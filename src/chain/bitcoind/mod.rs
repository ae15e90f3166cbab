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

mod rpc;
mod scan;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::bip158::BlockFilter;
use bitcoin::block::Header;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::Hash as _;
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use bitcoin::{
    Address, Amount, Block, BlockHash, CompactTarget, FeeRate, OutPoint, Script, ScriptBuf,
    Transaction, TxMerkleNode, Txid,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use self::rpc::{CallError, NodeError, Rpc};
use self::scan::{Found, Scan, outputs_to};
use super::error::printable;
use super::{AddressHistory, AddressTx, BlockFacts, BroadcastError, ChainError, Tip, TxStatus};
use crate::time::UnixTime;

pub use self::rpc::CoreLogin;

/// Attempts to read one history while blocks arrive.
const SETTLE_ATTEMPTS: u32 = 5;

/// The longest history that is read, as with an Esplora server.
const MAX_HISTORY: usize = 20_000;

/// Addresses whose history is kept; the one unused for longest is forgotten. An agent watches the
/// beacons of its cohorts, a resolver asks for those of one DID.
const MAX_SCANS: usize = 256;

/// Blocks whose filters are asked for one by one; over a longer way the node scans.
const SHORT_WAY: u32 = 500;

/// Blocks the node scans for one request, which takes seconds on a slow disk.
const SCAN_STEP: u32 = 50_000;

/// How long such a scan may take.
const SCAN_TIMEOUT: Duration = Duration::from_secs(300);

/// A node makes one scan at a time: how often it is asked again while another one runs, and the pause.
const SCAN_TRIES: u32 = 40;
const SCAN_PAUSE: Duration = Duration::from_millis(250);

/// Without a filter index every block is read, of chains up to this height.
const MAX_UNINDEXED: u32 = 5_000;

/// Blocks of such a chain between two marks.
const UNINDEXED_STEP: u32 = 200;

/// Calls in one request.
const BATCH: usize = 100;

/// Blocks in one request: eight full ones in hexadecimal fit the bound on answers.
const BLOCK_BATCH: usize = 8;

/// Unconfirmed transactions of one address that are looked at.
const MAX_UNCONFIRMED: usize = 1_000;

/// A Bitcoin Core node, version 24 or later.
#[derive(Clone)]
pub struct CoreBackend {
    rpc: Arc<Rpc>,
    scans: Arc<Mutex<Scans>>,
}

/// What is known per script, the one asked for last at the end.
#[derive(Default)]
struct Scans {
    known: HashMap<ScriptBuf, Scan>,
    order: VecDeque<ScriptBuf>,
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

    /// See [`super::ChainBackend::address_history`]. When nothing happened since the last time: five
    /// requests.
    pub(super) async fn address_history(
        &self,
        address: &Address,
    ) -> Result<AddressHistory, ChainError> {
        let script = address.script_pubkey();
        // One at a time: a node makes one scan at a time.
        let mut scans = self.scans.lock().await;
        let scan = scans.of(&script);
        for _ in 0..SETTLE_ATTEMPTS {
            let tip = self.tip().await?;
            if !self.follow(&script, scan, tip).await? {
                continue;
            }
            if scan.found().len() > MAX_HISTORY {
                return Err(ChainError::TooLong {
                    host: self.host().to_owned(),
                    address: address.to_string(),
                    limit: MAX_HISTORY,
                });
            }
            let unconfirmed = self.unconfirmed(&script, scan.unspent()).await?;
            let best: BlockHash = self.ask("getbestblockhash", json!([])).await?;
            if best == tip.hash {
                return Ok(history_of(scan, unconfirmed, tip));
            }
        }
        Err(ChainError::Unsettled {
            host: self.host().to_owned(),
            attempts: SETTLE_ATTEMPTS,
        })
    }

    /// Reads what is new up to `tip`; false when the chain moved meanwhile. What was read stays read
    /// when a later part fails.
    async fn follow(&self, script: &Script, scan: &mut Scan, tip: Tip) -> Result<bool, ChainError> {
        while let Some((height, hash)) = scan.mark() {
            if (height, hash) == (tip.height, tip.hash) {
                return Ok(true);
            }
            if height <= tip.height && self.block_hash(height).await? == Some(hash) {
                break;
            }
            scan.step_back(script);
        }
        let indexed = self.has_filters(tip).await?;
        while scan.next_height() <= tip.height {
            let first = scan.next_height();
            let left = tip.height - first;
            let step = match (indexed, left < SHORT_WAY) {
                (false, _) => UNINDEXED_STEP,
                (true, true) => SHORT_WAY,
                (true, false) => SCAN_STEP,
            };
            let last = tip.height.min(first.saturating_add(step - 1));
            let Some(last_hash) = self.block_hash(last).await? else {
                return Ok(false);
            };
            let places = if indexed && !matches!(step, SHORT_WAY) {
                self.scan_blocks(script, first, last).await?
            } else {
                let hashes = self.hashes(first, last).await?;
                if indexed {
                    self.matching(script, hashes).await?
                } else {
                    hashes
                }
            };
            let found = self.touching(script, scan, &places).await?;
            // The hash of a block commits to all before it: what was read is one chain.
            if self.block_hash(last).await? != Some(last_hash) {
                return Ok(false);
            }
            scan.extend(script, found, (last, last_hash));
            if scan.found().len() > MAX_HISTORY {
                break;
            }
        }
        Ok(true)
    }

    /// Whether the node has filters up to `tip`; an error if it has none and the chain is long.
    ///
    /// The filter itself is asked for: `scanblocks` passes over blocks whose filter is not there yet,
    /// without a word.
    async fn has_filters(&self, tip: Tip) -> Result<bool, ChainError> {
        let asked = self
            .rpc
            .call::<Value>("getblockfilter", json!([tip.hash, "basic"]));
        match asked.await {
            Ok(_) => Ok(true),
            Err(CallError::Node(error)) if error.message.contains("not enabled") => {
                if tip.height > MAX_UNINDEXED {
                    return Err(ChainError::Lacks {
                        host: self.host().to_owned(),
                        task: "find the transactions of an address",
                        setting: "blockfilterindex=1",
                    });
                }
                Ok(false)
            }
            Err(CallError::Node(NodeError { code, message }))
                if code == rpc::MISC || message.contains("being indexed") =>
            {
                Err(self.not_ready(&message))
            }
            Err(error) => Err(self.fail("getblockfilter", error)),
        }
    }

    /// The blocks from `first` to `last`, by the node's best chain of this moment.
    async fn hashes(&self, first: u32, last: u32) -> Result<Vec<(u32, BlockHash)>, ChainError> {
        let heights: Vec<u32> = (first..=last).collect();
        let mut hashes = Vec::with_capacity(heights.len());
        for part in heights.chunks(BATCH) {
            let params = part.iter().map(|height| json!([height])).collect();
            let found = self.all("getblockhash", params).await?;
            hashes.extend(part.iter().copied().zip(found));
        }
        Ok(hashes)
    }

    /// Those of `blocks` whose filter says that they may hold something of `script`.
    async fn matching(
        &self,
        script: &Script,
        blocks: Vec<(u32, BlockHash)>,
    ) -> Result<Vec<(u32, BlockHash)>, ChainError> {
        #[derive(Deserialize)]
        struct Filter {
            filter: String,
        }
        let mut matching = Vec::new();
        for part in blocks.chunks(BATCH) {
            let params = part
                .iter()
                .map(|(_, hash)| json!([hash, "basic"]))
                .collect();
            let filters: Vec<Filter> = self.all("getblockfilter", params).await?;
            for ((height, hash), Filter { filter }) in part.iter().zip(filters) {
                let unusable = || self.rpc.bad_answer(format!("the filter of block {hash}"));
                let bytes = Vec::from_hex(&filter).map_err(|_| unusable())?;
                let query = std::iter::once(script.as_bytes());
                if BlockFilter::new(&bytes)
                    .match_any(hash, query)
                    .map_err(|_| unusable())?
                {
                    matching.push((*height, *hash));
                }
            }
        }
        Ok(matching)
    }

    /// As [`Self::matching`], found by the node itself.
    async fn scan_blocks(
        &self,
        script: &Script,
        first: u32,
        last: u32,
    ) -> Result<Vec<(u32, BlockHash)>, ChainError> {
        #[derive(Deserialize)]
        struct Scanned {
            to_height: u32,
            relevant_blocks: Vec<BlockHash>,
            completed: bool,
        }
        let params = json!(["start", [descriptor(script)], first, last, "basic"]);
        let scanned: Scanned = self.scan_call("scanblocks", params).await?;
        if !scanned.completed || scanned.to_height != last {
            return Err(self.not_ready("its scan was aborted"));
        }
        let mut places = Vec::with_capacity(scanned.relevant_blocks.len());
        for part in scanned.relevant_blocks.chunks(BATCH) {
            let params = part.iter().map(|hash| json!([hash, true])).collect();
            let headers: Vec<HeaderInfo> = self.all("getblockheader", params).await?;
            places.extend(
                headers
                    .iter()
                    .map(|header| header.height)
                    .zip(part.iter().copied()),
            );
        }
        places.sort_unstable();
        Ok(places)
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

    /// Reads the blocks at `places` and gives what in them pays `script` or spends from it.
    async fn touching(
        &self,
        script: &Script,
        scan: &Scan,
        places: &[(u32, BlockHash)],
    ) -> Result<Vec<Found>, ChainError> {
        let mut outputs: HashSet<OutPoint> = scan.unspent().into_iter().collect();
        let mut kept = Vec::new();
        for part in places.chunks(BLOCK_BATCH) {
            let params = part.iter().map(|(_, hash)| json!([hash, 0])).collect();
            let blocks = self.rpc.batch::<String>("getblock", params).await?;
            for ((height, hash), block) in part.iter().copied().zip(blocks) {
                let text = block.map_err(|error| self.no_block(height, error))?;
                let block: Block = deserialize_hex(&text)
                    .ok()
                    .filter(|block: &Block| block.block_hash() == hash)
                    .ok_or_else(|| self.rpc.bad_answer(format!("block {hash} is another one")))?;
                for tx in block.txdata {
                    let mut inputs = tx.input.iter();
                    let spends = inputs.any(|input| outputs.contains(&input.previous_output));
                    let mut paid = tx.output.iter();
                    let pays = paid.any(|output| output.script_pubkey.as_script() == script);
                    if pays || spends {
                        let txid = tx.compute_txid();
                        outputs.extend(outputs_to(script, txid, &tx));
                        kept.push(Found {
                            tx,
                            txid,
                            height,
                            hash,
                        });
                    }
                }
            }
        }
        Ok(kept)
    }

    fn no_block(&self, height: u32, error: NodeError) -> ChainError {
        if error.message.contains("pruned") {
            return ChainError::Pruned {
                host: self.host().to_owned(),
                height,
            };
        }
        self.rpc.node_error("getblock", error)
    }

    /// The mempool's transactions that spend `unspent` or pay the script, those that spend what these pay
    /// included.
    async fn unconfirmed(
        &self,
        script: &Script,
        unspent: Vec<OutPoint>,
    ) -> Result<Vec<Transaction>, ChainError> {
        #[derive(Deserialize)]
        struct Activity {
            activity: Vec<Event>,
        }
        #[derive(Deserialize)]
        struct Event {
            blockhash: Option<BlockHash>,
            spend_txid: Option<Txid>,
            txid: Option<Txid>,
        }
        let params = json!([[], [descriptor(script)], true]);
        let activity: Activity = match self.rpc.call("getdescriptoractivity", params).await {
            Ok(activity) => activity,
            Err(CallError::Node(error)) if error.code == rpc::NO_SUCH_METHOD => {
                return self.unconfirmed_spends(script, unspent).await;
            }
            Err(error) => return Err(self.fail("getdescriptoractivity", error)),
        };
        // Spends first: a flood of payments must not hide one.
        let unconfirmed = || {
            activity
                .activity
                .iter()
                .filter(|event| event.blockhash.is_none())
        };
        let mut seen = HashSet::new();
        let txids: Vec<Txid> = unconfirmed()
            .filter_map(|event| event.spend_txid)
            .chain(unconfirmed().filter_map(|event| event.txid))
            .filter(|txid| seen.insert(*txid))
            .take(MAX_UNCONFIRMED)
            .collect();
        self.mempool_txs(&txids).await
    }

    /// As [`Self::unconfirmed`] for nodes before version 29, which can not search their mempool for a
    /// script: payments to it are seen when they confirm, spends at once.
    async fn unconfirmed_spends(
        &self,
        script: &Script,
        unspent: Vec<OutPoint>,
    ) -> Result<Vec<Transaction>, ChainError> {
        #[derive(Deserialize)]
        struct Spent {
            spendingtxid: Option<Txid>,
        }
        let mut found: Vec<Transaction> = Vec::new();
        let mut seen = HashSet::new();
        let mut open = unspent;
        while !open.is_empty() && found.len() < MAX_UNCONFIRMED {
            let mut spenders = Vec::new();
            for part in open.chunks(BATCH) {
                let outputs: Vec<Value> = part
                    .iter()
                    .map(|output| json!({"txid": output.txid, "vout": output.vout}))
                    .collect();
                let spent: Vec<Spent> = self.ask("gettxspendingprevout", json!([outputs])).await?;
                spenders.extend(
                    spent
                        .into_iter()
                        .filter_map(|spent| spent.spendingtxid)
                        .filter(|txid| seen.insert(*txid)),
                );
            }
            let txs = self.mempool_txs(&spenders).await?;
            open = txs
                .iter()
                .flat_map(|tx| outputs_to(script, tx.compute_txid(), tx))
                .collect();
            found.extend(txs);
        }
        Ok(found)
    }

    /// Transactions of the mempool; those that left it meanwhile are left out.
    async fn mempool_txs(&self, txids: &[Txid]) -> Result<Vec<Transaction>, ChainError> {
        const METHOD: &str = "getrawtransaction";
        let mut txs = Vec::with_capacity(txids.len());
        for part in txids.chunks(BATCH) {
            let params = part.iter().map(|txid| json!([txid, false])).collect();
            for (txid, answer) in part
                .iter()
                .zip(self.rpc.batch::<String>(METHOD, params).await?)
            {
                match answer {
                    Ok(text) => {
                        let tx = deserialize_hex(&text)
                            .ok()
                            .filter(|tx: &Transaction| tx.compute_txid() == *txid);
                        txs.push(tx.ok_or_else(|| {
                            self.rpc
                                .bad_answer(format!("transaction {txid} is another one"))
                        })?);
                    }
                    Err(error) if error.code == rpc::NOT_FOUND => {}
                    Err(error) => return Err(self.rpc.node_error(METHOD, error)),
                }
            }
        }
        Ok(txs)
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

impl Scans {
    /// What is known of `script`, which is now the one asked for last.
    fn of(&mut self, script: &ScriptBuf) -> &mut Scan {
        self.order.retain(|other| other != script);
        self.order.push_back(script.clone());
        if self.order.len() > MAX_SCANS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.entry(script.clone()).or_default()
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

fn history_of(scan: &Scan, unconfirmed: Vec<Transaction>, tip: Tip) -> AddressHistory {
    let confirmed: HashSet<Txid> = scan.found().iter().map(|found| found.txid).collect();
    let blocks: BTreeMap<u32, BlockHash> = scan
        .found()
        .iter()
        .map(|found| (found.height, found.hash))
        .collect();
    let mut txs: Vec<AddressTx> = scan
        .found()
        .iter()
        .map(|found| AddressTx {
            tx: found.tx.clone(),
            height: Some(found.height),
        })
        .collect();
    txs.extend(
        unconfirmed
            .into_iter()
            .filter(|tx| !confirmed.contains(&tx.compute_txid()))
            .map(|tx| AddressTx { tx, height: None }),
    );
    AddressHistory {
        tip_height: tip.height,
        tip_hash: tip.hash,
        txs,
        blocks,
    }
}
