//! The history of an address: which blocks may hold something of it, what they hold, and the mempool.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bitcoin::bip158::BlockFilter;
use bitcoin::consensus::encode::deserialize_hex;
use bitcoin::hex::FromHex as _;
use bitcoin::{Address, Block, BlockHash, OutPoint, Script, ScriptBuf, Transaction, Txid};
use serde::Deserialize;
use serde_json::{Value, json};

use super::rpc::{self, CallError, NodeError};
use super::scan::{Found, Scan, outputs_to};
use super::{CoreBackend, HeaderInfo, descriptor};
use crate::chain::{AddressHistory, AddressTx, ChainError, ReadUpTo, Tip};

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

/// Without a filter index every block is read, of chains up to this height.
const MAX_UNINDEXED: u32 = 5_000;

/// Blocks of such a chain between two marks.
const UNINDEXED_STEP: u32 = 200;

/// Calls in one request.
const BATCH: usize = 100;

/// Blocks in one request: eight full ones in hexadecimal fit the bound on answers.
const BLOCK_BATCH: usize = 8;

/// Outputs asked about in one call.
const OUTPUTS_PER_CALL: usize = 1_000;

/// Unconfirmed transactions of one address that are looked at.
const MAX_UNCONFIRMED: usize = 1_000;

/// What is known per script, the one asked for last at the end.
#[derive(Default)]
pub(super) struct Scans {
    pub(super) known: HashMap<ScriptBuf, Scan>,
    order: VecDeque<ScriptBuf>,
}

impl CoreBackend {
    /// See [`crate::chain::ChainBackend::address_history_above`]. Three requests when nothing happened since the last
    /// time. Unconfirmed payments are listed only while nothing lies unspent at the address.
    pub(in crate::chain) async fn address_history(
        &self,
        address: &Address,
        known: Option<ReadUpTo>,
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
                return Ok(history_of(scan, known, unconfirmed, tip));
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
            let far = tip.height - first >= SHORT_WAY;
            let step = match (indexed, far) {
                (false, _) => UNINDEXED_STEP,
                (true, false) => SHORT_WAY,
                (true, true) => SCAN_STEP,
            };
            let last = tip.height.min(first.saturating_add(step - 1));
            let Some(last_hash) = self.block_hash(last).await? else {
                return Ok(false);
            };
            let places = if indexed && far {
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
                            tx: tx.into(),
                            txid,
                            height,
                            hash,
                        });
                    }
                }
            }
            // Too long, and nobody will ask for the rest.
            if scan.found().len() + kept.len() > MAX_HISTORY {
                break;
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

    /// The mempool's transactions that spend `unspent`, and those that spend what these pay back. Where
    /// nothing lies unspent, everything that pays the script too.
    ///
    /// To find payments the node goes through its whole mempool, which takes it a while on a busy network:
    /// that is done only while the address waits for its first coins.
    async fn unconfirmed(
        &self,
        script: &Script,
        unspent: Vec<OutPoint>,
    ) -> Result<Vec<Transaction>, ChainError> {
        if unspent.is_empty() {
            self.unconfirmed_of(script).await
        } else {
            self.unconfirmed_spends(script, unspent).await
        }
    }

    /// Everything in the mempool that has to do with the script. A node before version 29 can not say:
    /// there, payments are seen when they confirm.
    async fn unconfirmed_of(&self, script: &Script) -> Result<Vec<Transaction>, ChainError> {
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
        const METHOD: &str = "getdescriptoractivity";
        let params = json!([[], [descriptor(script)], true]);
        let activity: Activity = match self.rpc.call(METHOD, params).await {
            Ok(activity) => activity,
            Err(CallError::Node(error)) if error.code == rpc::NO_SUCH_METHOD => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(self.fail(METHOD, error)),
        };
        // Spends first: a flood of payments must not hide one.
        let events = activity.activity.iter();
        let unconfirmed = events.filter(|event| event.blockhash.is_none());
        let spends = unconfirmed.clone().filter_map(|event| event.spend_txid);
        let mut seen = HashSet::new();
        let txids: Vec<Txid> = spends
            .chain(unconfirmed.filter_map(|event| event.txid))
            .filter(|txid| seen.insert(*txid))
            .take(MAX_UNCONFIRMED)
            .collect();
        self.mempool_txs(&txids).await
    }

    async fn unconfirmed_spends(
        &self,
        script: &Script,
        unspent: Vec<OutPoint>,
    ) -> Result<Vec<Transaction>, ChainError> {
        #[derive(Deserialize)]
        struct Spent {
            spendingtxid: Option<Txid>,
            /// Given by a node with `txospenderindex` for a spend in a block: the chain moved.
            blockhash: Option<BlockHash>,
        }
        let mut found: Vec<Transaction> = Vec::new();
        let mut seen = HashSet::new();
        let mut open = unspent;
        while !open.is_empty() && found.len() < MAX_UNCONFIRMED {
            let mut spenders = Vec::new();
            for part in open.chunks(OUTPUTS_PER_CALL) {
                let outputs: Vec<Value> = part
                    .iter()
                    .map(|output| json!({"txid": output.txid, "vout": output.vout}))
                    .collect();
                let spent: Vec<Spent> = self.ask("gettxspendingprevout", json!([outputs])).await?;
                spenders.extend(
                    spent
                        .into_iter()
                        .filter(|spent| spent.blockhash.is_none())
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

fn history_of(
    scan: &Scan,
    known: Option<ReadUpTo>,
    unconfirmed: Vec<Transaction>,
    tip: Tip,
) -> AddressHistory {
    let (above, found) = scan.above(known);
    let confirmed: HashSet<Txid> = found.iter().map(|found| found.txid).collect();
    let blocks: BTreeMap<u32, BlockHash> = found
        .iter()
        .map(|found| (found.height, found.hash))
        .collect();
    let mut txs: Vec<AddressTx> = found
        .iter()
        .map(|found| AddressTx {
            tx: Arc::clone(&found.tx),
            height: Some(found.height),
        })
        .collect();
    txs.extend(
        unconfirmed
            .into_iter()
            .filter(|tx| !confirmed.contains(&tx.compute_txid()))
            .map(|tx| AddressTx {
                tx: tx.into(),
                height: None,
            }),
    );
    AddressHistory {
        tip_height: tip.height,
        tip_hash: tip.hash,
        above,
        txs,
        blocks,
    }
}
