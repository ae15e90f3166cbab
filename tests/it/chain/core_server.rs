//! A stand-in for a Bitcoin Core node: the RPC methods the backend uses, answered from the in-process chain.
//!
//! What a real node answers is tested against a real node (`node/`). This one runs everywhere, shares its chain
//! with the Esplora server, and can lack, refuse and forget things at will.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use bitcoin::bip158::BlockFilter;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use bitcoin::{Block, BlockHash};
use btcr2_agent::chain::{CoreLogin, SharedChain};
use serde_json::{Value, json};

use super::*;

/// How the node is set up, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Setup {
    pub filter_index: bool,
    pub tx_index: bool,
    /// Its version knows `getdescriptoractivity`.
    pub searches_mempool: bool,
    /// Blocks below this height are deleted.
    pub pruned_below: u32,
    /// It is starting, with these words.
    pub warming_up: Option<&'static str>,
    /// Scans it refuses because another one runs.
    pub busy_scans: u32,
    /// `user:password` it accepts.
    pub login: String,
    /// BTC per 1000 vbytes.
    pub fee_rate: Option<f64>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            filter_index: true,
            tx_index: false,
            searches_mempool: true,
            pruned_below: 0,
            warming_up: None,
            busy_scans: 0,
            login: "__cookie__:first".to_owned(),
            fee_rate: None,
        }
    }
}

pub struct CoreServer {
    pub setup: Arc<Mutex<Setup>>,
    pub url: String,
    pub requests: Arc<AtomicU64>,
    /// Methods called, in their order.
    pub calls: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Shared {
    chain: SharedChain,
    setup: Arc<Mutex<Setup>>,
    requests: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<String>>>,
}

type Answer = Result<Value, (i32, String)>;

impl CoreServer {
    pub async fn start(chain: SharedChain, setup: Setup) -> Self {
        let shared = Shared {
            chain,
            setup: Arc::new(Mutex::new(setup)),
            requests: Arc::default(),
            calls: Arc::default(),
        };
        let app = axum::Router::new()
            .fallback(serve_rpc)
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            setup: shared.setup,
            url,
            requests: shared.requests,
            calls: shared.calls,
        }
    }

    /// A backend with the password it accepts.
    pub fn backend(&self) -> ChainBackend {
        let login = self.setup.lock().unwrap().login.clone();
        let (user, password) = login.split_once(':').unwrap();
        let login = CoreLogin::Password {
            user: user.to_owned(),
            password: password.to_owned().into(),
        };
        ChainBackend::core(&self.url, login, Duration::from_secs(10)).unwrap()
    }

    pub fn change(&self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.setup.lock().unwrap());
    }

    pub fn called(&self, method: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| *call == method).count()
    }
}

async fn serve_rpc(State(shared): State<Shared>, headers: HeaderMap, request: Request) -> Response {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let setup = shared.setup.lock().unwrap().clone();
    let expected = base64::engine::general_purpose::STANDARD.encode(&setup.login);
    let given = headers
        .get(header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap());
    if given != Some(format!("Basic {expected}").as_str()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let body = axum::body::to_bytes(request.into_body(), 10_000_000)
        .await
        .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    match body {
        Value::Array(calls) => {
            // Any order is allowed.
            let replies: Vec<Value> = calls
                .iter()
                .rev()
                .map(|call| reply(&shared, call).0)
                .collect();
            axum::Json(Value::Array(replies)).into_response()
        }
        call => {
            let (reply, status) = reply(&shared, &call);
            (status, axum::Json(reply)).into_response()
        }
    }
}

fn reply(shared: &Shared, call: &Value) -> (Value, StatusCode) {
    let method = call["method"].as_str().unwrap();
    shared.calls.lock().unwrap().push(method.to_owned());
    let warming_up = shared.setup.lock().unwrap().warming_up;
    let answer = match warming_up {
        Some(words) => Err((-28, words.to_owned())),
        None => answer(shared, method, call["params"].as_array().unwrap()),
    };
    match answer {
        Ok(result) => (
            json!({"id": call["id"], "result": result, "error": null}),
            StatusCode::OK,
        ),
        Err((code, message)) => (
            json!({"id": call["id"], "result": null, "error": {"code": code, "message": message}}),
            if code == -32_601 {
                StatusCode::NOT_FOUND
            } else {
                StatusCode::INTERNAL_SERVER_ERROR
            },
        ),
    }
}

fn answer(shared: &Shared, method: &str, params: &[Value]) -> Answer {
    let mut chain = shared.chain.lock().unwrap();
    let mut setup = shared.setup.lock().unwrap();
    let chain = &mut *chain;
    let tip = chain.tip();
    match method {
        "getblockchaininfo" => Ok(json!({
            "blocks": tip.height, "headers": tip.height, "bestblockhash": tip.hash,
            "mediantime": tip.median_time.0, "initialblockdownload": false,
        })),
        "getbestblockhash" => Ok(json!(tip.hash)),
        "getblockhash" => {
            let height = params[0].as_u64().unwrap() as u32;
            let block = chain.block(height);
            let hash = block.map(|block| json!(block.block_hash()));
            hash.ok_or((-8, "Block height out of range".to_owned()))
        }
        "getblockheader" => {
            let (height, block) = find(chain, &params[0])?;
            Ok(json!({
                "height": height, "version": block.header.version.to_consensus(),
                "merkleroot": block.header.merkle_root, "time": block.header.time,
                "mediantime": median_time(chain, height), "nonce": block.header.nonce,
                "bits": format!("{:08x}", block.header.bits.to_consensus()),
                "previousblockhash": (height > 0).then_some(block.header.prev_blockhash),
            }))
        }
        "getblock" => {
            let (height, block) = find(chain, &params[0])?;
            if height < setup.pruned_below {
                return Err((-1, "Block not available (pruned data)".to_owned()));
            }
            Ok(json!(serialize_hex(block)))
        }
        "getblockfilter" | "scanblocks" if !setup.filter_index => {
            Err((-1, "Index is not enabled for filtertype basic".to_owned()))
        }
        "getblockfilter" => {
            let (_, block) = find(chain, &params[0])?;
            Ok(json!({"filter": filter(chain, block).content.as_hex().to_string()}))
        }
        "scanblocks" => {
            if setup.busy_scans > 0 {
                setup.busy_scans -= 1;
                return Err((
                    -8,
                    "Scan already in progress, use action \"abort\" or \"status\"".to_owned(),
                ));
            }
            let script = script(&params[1][0]);
            let (first, last) = (params[2].as_u64().unwrap(), params[3].as_u64().unwrap());
            let relevant: Vec<BlockHash> = (first..=last)
                .map(|height| chain.block(height as u32).unwrap())
                .filter(|block| {
                    let query = std::iter::once(script.as_bytes());
                    filter(chain, block)
                        .match_any(&block.block_hash(), query)
                        .unwrap()
                })
                .map(Block::block_hash)
                .collect();
            Ok(
                json!({"from_height": first, "to_height": last, "relevant_blocks": relevant, "completed": true}),
            )
        }
        "getdescriptoractivity" if !setup.searches_mempool => {
            Err((-32_601, "Method not found".to_owned()))
        }
        "getdescriptoractivity" => {
            let script = script(&params[1][0]);
            let mut activity = Vec::new();
            for entry in chain.history(&script).txs {
                if entry.height.is_some() {
                    continue;
                }
                let txid = entry.tx.compute_txid();
                let pays = entry
                    .tx
                    .output
                    .iter()
                    .any(|output| output.script_pubkey == script);
                activity.push(if pays {
                    json!({"type": "receive", "txid": txid})
                } else {
                    json!({"type": "spend", "spend_txid": txid, "prevout_txid": txid})
                });
            }
            Ok(json!({"activity": activity}))
        }
        "gettxspendingprevout" => {
            let outputs = params[0].as_array().unwrap().iter().map(|output| {
                let txid = output["txid"].as_str().unwrap().parse().unwrap();
                let outpoint = OutPoint::new(txid, output["vout"].as_u64().unwrap() as u32);
                let spender = chain.mempool_txids().into_iter().find(|txid| {
                    let tx = chain.transaction(txid).unwrap();
                    tx.input
                        .iter()
                        .any(|input| input.previous_output == outpoint)
                });
                match spender {
                    Some(spender) => json!({"spendingtxid": spender}),
                    None => json!({}),
                }
            });
            Ok(outputs.collect())
        }
        "getrawtransaction" => {
            let txid: Txid = params[0].as_str().unwrap().parse().unwrap();
            let tx = chain.transaction(&txid).cloned();
            match (chain.tx_status(&txid), tx) {
                (TxStatus::Mempool, Some(tx)) if params[1] == json!(false) => Ok(json!(serialize_hex(&tx))),
                (TxStatus::Mempool, _) => Ok(json!({})),
                (TxStatus::Confirmed { height, hash }, _) if setup.tx_index => {
                    Ok(json!({"blockhash": hash, "confirmations": tip.height + 1 - height}))
                }
                _ if setup.tx_index => Err((-5, "No such mempool or blockchain transaction".to_owned())),
                _ => Err((-5, "No such mempool transaction. Use -txindex or provide a block hash to enable blockchain transaction queries".to_owned())),
            }
        }
        "gettxout" => {
            let txid: Txid = params[0].as_str().unwrap().parse().unwrap();
            let output = OutPoint::new(txid, params[1].as_u64().unwrap() as u32);
            match (chain.tx_status(&txid), chain.unspent(&output)) {
                (TxStatus::Confirmed { height, .. }, Some(_)) => {
                    Ok(json!({"bestblock": tip.hash, "confirmations": tip.height + 1 - height}))
                }
                _ => Ok(Value::Null),
            }
        }
        "sendrawtransaction" => {
            let tx: Transaction = deserialize_hex(params[0].as_str().unwrap()).unwrap();
            match chain.submit(&tx) {
                Ok(txid) => Ok(json!(txid)),
                Err(Reject::AlreadyInMempool) => Ok(json!(tx.compute_txid())),
                Err(reject) => Err((reject.rpc_code(), reject.to_string())),
            }
        }
        "estimatesmartfee" => Ok(match setup.fee_rate {
            Some(rate) => json!({"feerate": rate, "blocks": 2}),
            None => json!({"errors": ["Insufficient data or no feerate found"], "blocks": 0}),
        }),
        "scantxoutset" => {
            let script = script(&params[1][0]);
            let mut sum = 0;
            for entry in chain.history(&script).txs {
                let txid = entry.tx.compute_txid();
                for vout in 0..entry.tx.output.len() as u32 {
                    let unspent = chain.unspent(&OutPoint::new(txid, vout));
                    sum += unspent
                        .filter(|output| output.script_pubkey == script)
                        .map_or(0, |output| output.value.to_sat());
                }
            }
            Ok(json!({"success": true, "total_amount": sum as f64 / 1e8}))
        }
        other => panic!("the backend calls {other}"),
    }
}

fn find<'a>(chain: &'a RegtestChain, hash: &Value) -> Result<(u32, &'a Block), (i32, String)> {
    let hash: BlockHash = hash.as_str().unwrap().parse().unwrap();
    (0..=chain.height())
        .rev()
        .map(|height| (height, chain.block(height).unwrap()))
        .find(|(_, block)| block.block_hash() == hash)
        .ok_or((-5, "Block not found".to_owned()))
}

fn median_time(chain: &RegtestChain, height: u32) -> u32 {
    let first = height.saturating_sub(10);
    let mut times: Vec<u32> = (first..=height)
        .map(|height| chain.block(height).unwrap().header.time)
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn filter(chain: &RegtestChain, block: &Block) -> BlockFilter {
    BlockFilter::new_script_filter(block, |output| {
        let tx = chain.transaction(&output.txid).unwrap();
        Ok(tx.output[output.vout as usize].script_pubkey.clone())
    })
    .unwrap()
}

/// The script of `raw(…)`.
fn script(descriptor: &Value) -> ScriptBuf {
    let text = descriptor.as_str().unwrap();
    let hex = text
        .strip_prefix("raw(")
        .unwrap()
        .strip_suffix(')')
        .unwrap();
    ScriptBuf::from_bytes(Vec::from_hex(hex).unwrap())
}
