//! The regtest chain on loopback: the part of the Esplora HTTP API that wallets use, and `/dev/`.
//!
//! Beyond Esplora's API:
//!
//! | request | answer |
//! |---|---|
//! | `GET /dev/info` | network, tip, size of the mempool |
//! | `POST /dev/mine?n=1` | mines `n` blocks (at most 1000), gives their hashes and the height |
//! | `POST /dev/mine-empty?n=1` | the same, leaving the mempool alone |
//! | `POST /dev/fund?address=..&amount_sat=..` | pays from the faucet, gives `txid` and `vout` |
//! | `POST /dev/invalidate?n=1` | undoes the last `n` blocks |

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use bitcoin::address::NetworkUnchecked;
use bitcoin::consensus::encode::{deserialize, serialize, serialize_hex};
use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::hex::FromHex as _;
use bitcoin::{Address, Amount, BlockHash, FeeRate, OutPoint, ScriptBuf, Transaction, Txid};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::esplora_json::{BlockJson, BlockStatusJson, OutspendJson, StatusJson, TxJson, UtxoJson};
use super::regtest::{Located, RegtestChain, system_clock};
use super::{FundError, Reject};

/// Confirmed transactions on one page of a history.
const CHAIN_PAGE: usize = 25;

/// Unconfirmed transactions that a history lists.
const MEMPOOL_PAGE: usize = 50;

/// Blocks that one request may mine or undo.
const MAX_BLOCKS_PER_REQUEST: u32 = 1000;

/// How long a shutdown waits for requests that are being answered.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The chain as the server and its owner share it. Never hold the lock across an await.
pub type SharedChain = Arc<Mutex<RegtestChain>>;

/// How a [`RegtestServer`] behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerSettings {
    /// Mine a block this long after a transaction entered the mempool; zero: before the request that
    /// brought it is answered. `None`: only when told to.
    pub auto_mine: Option<Duration>,
    /// What `/fee-estimates` says for every target; `None`: no estimates, like a young regtest node.
    pub fee_estimate: Option<FeeRate>,
}

impl Default for ServerSettings {
    /// No automatic mining; 2 sat/vB.
    fn default() -> Self {
        Self {
            auto_mine: None,
            fee_estimate: Some(FeeRate::from_sat_per_vb_u32(2)),
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Anybody who reaches the server can mine and spend: it is for this machine only.
    #[error("the regtest server listens on loopback only, not on {0}: use 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for a free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A running regtest chain with its HTTP server. Dropping it stops the server.
#[derive(Debug)]
pub struct RegtestServer {
    address: SocketAddr,
    chain: SharedChain,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl RegtestServer {
    /// Starts a new chain, on the computer's clock, at `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError`]: not a loopback address, or it is taken.
    pub async fn start(address: SocketAddr) -> Result<Self, ServerError> {
        let chain = RegtestChain::new(system_clock());
        Self::serve(address, chain, ServerSettings::default()).await
    }

    /// Serves an existing chain.
    ///
    /// # Errors
    /// [`ServerError`]: not a loopback address, or it is taken.
    pub async fn serve(
        address: SocketAddr,
        mut chain: RegtestChain,
        settings: ServerSettings,
    ) -> Result<Self, ServerError> {
        if !address.ip().is_loopback() {
            return Err(ServerError::NotLoopback(address));
        }
        let failed = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;

        let entered = Arc::new(Notify::new());
        chain.set_mine_on_entry(settings.auto_mine == Some(Duration::ZERO));
        let notify = Arc::clone(&entered);
        chain.set_entry_listener(Box::new(move || notify.notify_one()));
        let chain: SharedChain = Arc::new(Mutex::new(chain));

        let stop = CancellationToken::new();
        let app = router(Arc::new(Shared {
            chain: Arc::clone(&chain),
            settings,
        }));
        // Small answers must not wait for the client's delayed acknowledgement.
        let listener = listener.tap_io(|socket| {
            let _ = socket.set_nodelay(true);
        });
        let miner = settings
            .auto_mine
            .filter(|delay| !delay.is_zero())
            .map(|delay| mine_after(Arc::clone(&chain), entered, delay));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let shutdown = stopped.clone().cancelled_owned();
            let serving = async move {
                let _ = axum::serve(listener, app)
                    .with_graceful_shutdown(shutdown)
                    .await;
            };
            tokio::select! {
                () = serving => {}
                () = async { match miner {
                    Some(miner) => miner.await,
                    None => std::future::pending().await,
                } } => {}
                () = async {
                    stopped.cancelled().await;
                    tokio::time::sleep(SHUTDOWN_GRACE).await;
                } => {}
            }
        });
        Ok(Self {
            address: bound,
            chain,
            stop,
            task: Some(task),
        })
    }

    /// The Esplora base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The chain, to mine, fund and look at without HTTP.
    #[must_use]
    pub fn chain(&self) -> SharedChain {
        Arc::clone(&self.chain)
    }

    /// Stops the server: answers what was asked, two seconds at most, and closes the port.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for RegtestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn mine_after(chain: SharedChain, entered: Arc<Notify>, delay: Duration) {
    loop {
        entered.notified().await;
        tokio::time::sleep(delay).await;
        let mut chain = lock(&chain);
        if !chain.mempool_txids().is_empty() {
            chain.mine(1);
        }
    }
}

fn lock(chain: &SharedChain) -> MutexGuard<'_, RegtestChain> {
    // A panic elsewhere leaves a chain that is at worst stale; it is for development only.
    chain.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared {
    chain: SharedChain,
    settings: ServerSettings,
}

impl Shared {
    fn chain(&self) -> MutexGuard<'_, RegtestChain> {
        lock(&self.chain)
    }
}

type Ctx = State<Arc<Shared>>;
type Answer = Result<Response, Failure>;

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/blocks/tip/height", get(tip_height))
        .route("/blocks/tip/hash", get(tip_hash))
        .route("/block-height/{height}", get(block_hash))
        .route("/block/{hash}", get(block))
        .route("/block/{hash}/{what}", get(block_part))
        .route("/tx", post(broadcast))
        .route("/tx/{txid}", get(tx))
        .route("/tx/{txid}/{what}", get(tx_part))
        .route("/tx/{txid}/outspend/{vout}", get(outspend))
        .route("/{kind}/{of}/txs", get(history))
        .route("/{kind}/{of}/txs/mempool", get(history_mempool))
        .route("/{kind}/{of}/txs/chain", get(history_chain))
        .route("/{kind}/{of}/txs/chain/{last}", get(history_chain_after))
        .route("/{kind}/{of}/utxo", get(utxo))
        .route("/fee-estimates", get(fee_estimates))
        .route("/dev/info", get(dev_info))
        .route("/dev/mine", post(dev_mine))
        .route("/dev/mine-empty", post(dev_mine_empty))
        .route("/dev/fund", post(dev_fund))
        .route("/dev/invalidate", post(dev_invalidate))
        .layer(middleware::from_fn(keep_alive))
        .with_state(shared)
}

/// HTTP/1.1 keeps connections alive unasked, but some clients reuse one only when told so.
async fn keep_alive(request: Request, next: Next) -> Response {
    let closing = request.headers().contains_key(header::CONNECTION);
    let mut response = next.run(request).await;
    if !closing {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    response
}

async fn tip_height(State(shared): Ctx) -> String {
    shared.chain().height().to_string()
}

async fn tip_hash(State(shared): Ctx) -> String {
    shared.chain().tip().hash.to_string()
}

async fn block_hash(State(shared): Ctx, Path(height): Path<String>) -> Answer {
    let height = parse::<u32>(&height, "Invalid height")?;
    let chain = shared.chain();
    let block = chain.chain_block(height).ok_or(NOT_FOUND_BLOCK)?;
    Ok(block.hash.to_string().into_response())
}

async fn block(State(shared): Ctx, Path(hash): Path<String>) -> Answer {
    let hash = parse::<BlockHash>(&hash, "Invalid hex string")?;
    let chain = shared.chain();
    let (height, block) = chain.find_block(&hash).ok_or(NOT_FOUND_BLOCK)?;
    Ok(Json(BlockJson::new(height, block)).into_response())
}

async fn block_part(State(shared): Ctx, Path((hash, what)): Path<(String, String)>) -> Answer {
    let hash = parse::<BlockHash>(&hash, "Invalid hex string")?;
    let chain = shared.chain();
    let found = chain.find_block(&hash);
    if what == "status" {
        let height = found.map(|(height, _)| height);
        let next = height.and_then(|height| chain.chain_block(height.saturating_add(1)));
        let status = BlockStatusJson {
            in_best_chain: height.is_some(),
            height,
            next_best: next.map(|block| block.hash),
        };
        return Ok(Json(status).into_response());
    }
    let (_, entry) = found.ok_or(NOT_FOUND_BLOCK)?;
    match what.as_str() {
        "header" => Ok(serialize_hex(&entry.block.header).into_response()),
        "raw" => Ok(serialize(&entry.block).into_response()),
        "txids" => {
            let txids: Vec<Txid> = entry
                .block
                .txdata
                .iter()
                .map(Transaction::compute_txid)
                .collect();
            Ok(Json(txids).into_response())
        }
        _ => Err(NO_SUCH_ENDPOINT),
    }
}

async fn tx(State(shared): Ctx, Path(txid): Path<String>) -> Answer {
    let txid = parse::<Txid>(&txid, "Invalid hex string")?;
    let chain = shared.chain();
    let located = chain.locate(&txid).ok_or(NOT_FOUND_TX)?;
    Ok(Json(TxJson::new(&located)).into_response())
}

async fn tx_part(State(shared): Ctx, Path((txid, what)): Path<(String, String)>) -> Answer {
    let txid = parse::<Txid>(&txid, "Invalid hex string")?;
    let chain = shared.chain();
    let located = chain.locate(&txid).ok_or(NOT_FOUND_TX)?;
    match what.as_str() {
        "status" => Ok(Json(StatusJson::new(&located)).into_response()),
        "hex" => Ok(serialize_hex(located.tx).into_response()),
        "raw" => Ok(serialize(located.tx).into_response()),
        "outspends" => {
            let outspends: Vec<OutspendJson> = (0u32..)
                .zip(&located.tx.output)
                .map(|(vout, _)| OutspendJson::new(chain.spender(&OutPoint::new(txid, vout))))
                .collect();
            Ok(Json(outspends).into_response())
        }
        _ => Err(NO_SUCH_ENDPOINT),
    }
}

async fn outspend(State(shared): Ctx, Path((txid, vout)): Path<(String, String)>) -> Answer {
    let txid = parse::<Txid>(&txid, "Invalid hex string")?;
    let vout = parse::<u32>(&vout, "Invalid output index")?;
    let chain = shared.chain();
    if chain.locate(&txid).is_none() {
        return Err(NOT_FOUND_TX);
    }
    let spender = chain.spender(&OutPoint::new(txid, vout));
    Ok(Json(OutspendJson::new(spender)).into_response())
}

async fn broadcast(State(shared): Ctx, body: String) -> Answer {
    let tx = Vec::<u8>::from_hex(body.trim())
        .ok()
        .and_then(|raw| deserialize::<Transaction>(&raw).ok())
        .ok_or_else(|| {
            rpc_failure(
                -22,
                "TX decode failed. Make sure the tx has at least one input.",
            )
        })?;
    match shared.chain().submit(&tx) {
        Ok(txid) => Ok(txid.to_string().into_response()),
        // As sendrawtransaction does: what waits already is announced again.
        Err(Reject::AlreadyInMempool | Reject::SameTxidInMempool) => {
            Ok(tx.compute_txid().to_string().into_response())
        }
        Err(reject) => Err(rpc_failure(reject.rpc_code(), &reject.to_string())),
    }
}

async fn history(State(shared): Ctx, Path((kind, of)): Path<(String, String)>) -> Answer {
    let chain = shared.chain();
    let script = find_script(&chain, &kind, &of)?;
    let unconfirmed = chain.unconfirmed_of(&script).into_iter().rev();
    let confirmed = chain.confirmed_of(&script, None).rev();
    Ok(tx_list(
        unconfirmed
            .take(MEMPOOL_PAGE)
            .chain(confirmed.take(CHAIN_PAGE)),
    ))
}

async fn history_mempool(State(shared): Ctx, Path((kind, of)): Path<(String, String)>) -> Answer {
    let chain = shared.chain();
    let script = find_script(&chain, &kind, &of)?;
    let unconfirmed = chain.unconfirmed_of(&script).into_iter().rev();
    Ok(tx_list(unconfirmed.take(MEMPOOL_PAGE)))
}

async fn history_chain(State(shared): Ctx, Path((kind, of)): Path<(String, String)>) -> Answer {
    let chain = shared.chain();
    let script = find_script(&chain, &kind, &of)?;
    let confirmed = chain.confirmed_of(&script, None).rev();
    Ok(tx_list(confirmed.take(CHAIN_PAGE)))
}

async fn history_chain_after(
    State(shared): Ctx,
    Path((kind, of, last)): Path<(String, String, String)>,
) -> Answer {
    let last = parse::<Txid>(&last, "Invalid hex string")?;
    let chain = shared.chain();
    let script = find_script(&chain, &kind, &of)?;
    let confirmed = chain.confirmed_of(&script, Some(&last)).rev();
    Ok(tx_list(confirmed.take(CHAIN_PAGE)))
}

async fn utxo(State(shared): Ctx, Path((kind, of)): Path<(String, String)>) -> Answer {
    let chain = shared.chain();
    let script = find_script(&chain, &kind, &of)?;
    let mut unspent = Vec::new();
    for located in chain.located_history(&script) {
        let txid = located.tx.compute_txid();
        for (vout, _) in (0u32..).zip(&located.tx.output) {
            let output = OutPoint::new(txid, vout);
            if let Some(found) = chain
                .unspent(&output)
                .filter(|found| found.script_pubkey == script)
            {
                unspent.push(UtxoJson::new(output, found.value, &located));
            }
        }
    }
    Ok(Json(unspent).into_response())
}

async fn fee_estimates(State(shared): Ctx) -> Json<BTreeMap<u16, f64>> {
    let mut estimates = BTreeMap::new();
    if let Some(rate) = shared.settings.fee_estimate {
        // Exact: fee rates that occur are far below 2^53.
        let sat_per_vb = rate.to_sat_per_kwu() as f64 / 250.0;
        for target in [1, 2, 3, 6, 12, 24, 144, 504, 1008] {
            estimates.insert(target, sat_per_vb);
        }
    }
    Json(estimates)
}

async fn dev_info(State(shared): Ctx) -> Response {
    let chain = shared.chain();
    let tip = chain.tip();
    Json(json!({
        "network": "regtest",
        "height": tip.height,
        "hash": tip.hash,
        "median_time": tip.median_time,
        "mempool": chain.mempool_txids().len(),
    }))
    .into_response()
}

#[derive(Deserialize)]
struct Blocks {
    #[serde(default = "one")]
    n: u32,
}

const fn one() -> u32 {
    1
}

impl Blocks {
    fn checked(&self) -> Result<u32, Failure> {
        if self.n > MAX_BLOCKS_PER_REQUEST {
            return Err(Failure::bad_request("n is at most 1000 blocks a request"));
        }
        Ok(self.n)
    }
}

async fn dev_mine(State(shared): Ctx, Query(blocks): Query<Blocks>) -> Answer {
    let mut chain = shared.chain();
    let hashes = chain.mine(blocks.checked()?);
    Ok(Json(json!({"height": chain.height(), "hashes": hashes})).into_response())
}

async fn dev_mine_empty(State(shared): Ctx, Query(blocks): Query<Blocks>) -> Answer {
    let mut chain = shared.chain();
    let hashes = chain.mine_empty(blocks.checked()?);
    Ok(Json(json!({"height": chain.height(), "hashes": hashes})).into_response())
}

async fn dev_invalidate(State(shared): Ctx, Query(blocks): Query<Blocks>) -> Answer {
    let mut chain = shared.chain();
    let undone = chain.invalidate_tip(blocks.checked()?);
    Ok(Json(json!({"height": chain.height(), "undone": undone})).into_response())
}

#[derive(Deserialize)]
struct Funding {
    address: String,
    amount_sat: u64,
}

async fn dev_fund(State(shared): Ctx, Query(funding): Query<Funding>) -> Answer {
    let script = regtest_script(&funding.address)?;
    let amount = Amount::from_sat(funding.amount_sat);
    let output = shared.chain().fund(&script, amount)?;
    Ok(Json(json!({"txid": output.txid, "vout": output.vout})).into_response())
}

/// The script meant by `/address/:address` or `/scripthash/:hash`.
fn find_script(chain: &RegtestChain, kind: &str, of: &str) -> Result<ScriptBuf, Failure> {
    match kind {
        "address" => regtest_script(of),
        "scripthash" => {
            let hash = parse::<sha256::Hash>(of, "Invalid hex string")?;
            // A script that never occurred has an empty history, like any other unused one.
            Ok(chain
                .known_scripts()
                .find(|script| sha256::Hash::hash(script.as_bytes()) == hash)
                .map(ToOwned::to_owned)
                .unwrap_or_default())
        }
        _ => Err(NO_SUCH_ENDPOINT),
    }
}

fn regtest_script(address: &str) -> Result<ScriptBuf, Failure> {
    let address = parse::<Address<NetworkUnchecked>>(address, "Invalid Bitcoin address")?;
    address
        .require_network(bitcoin::Network::Regtest)
        .map(|address| address.script_pubkey())
        .map_err(|_| Failure::bad_request("Address on invalid network"))
}

/// What the callers give has the newest first.
fn tx_list<'a>(page: impl Iterator<Item = Located<'a>>) -> Response {
    let page: Vec<Located<'_>> = page.collect();
    Json(page.iter().map(TxJson::new).collect::<Vec<_>>()).into_response()
}

/// An error as Esplora servers send it: a status and a line of text.
struct Failure {
    status: StatusCode,
    text: std::borrow::Cow<'static, str>,
}

const NOT_FOUND_BLOCK: Failure = Failure::not_found("Block not found");
const NOT_FOUND_TX: Failure = Failure::not_found("Transaction not found");
const NO_SUCH_ENDPOINT: Failure = Failure::not_found("endpoint does not exist");

impl Failure {
    const fn not_found(text: &'static str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            text: std::borrow::Cow::Borrowed(text),
        }
    }

    const fn bad_request(text: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text: std::borrow::Cow::Borrowed(text),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, self.text.into_owned()).into_response()
    }
}

impl From<FundError> for Failure {
    fn from(error: FundError) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            text: error.to_string().into(),
        }
    }
}

fn rpc_failure(code: i32, message: &str) -> Failure {
    let error = json!({"code": code, "message": message});
    Failure {
        status: StatusCode::BAD_REQUEST,
        text: format!("sendrawtransaction RPC error: {error}").into(),
    }
}

fn parse<T: FromStr>(text: &str, problem: &'static str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::bad_request(problem))
}
