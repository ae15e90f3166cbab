//! A real `bitcoind -regtest`, started or connected to, with a miner and a purse but no wallet.
//!
//! The miner's coins go to a script that anybody can spend: on a private chain that is the point. Calls
//! block their thread for the milliseconds that a node on this machine takes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hex::DisplayHex as _;
use bitcoin::opcodes::OP_TRUE;
use bitcoin::opcodes::all::OP_DROP;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, Block, BlockHash, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn,
    TxOut, Txid, Witness,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::DemoError;
use crate::chain::{AddressTx, ChainBackend, ChainError, CoreLogin};

/// Blocks after which a coinbase output can be spent.
const COINBASE_MATURITY: u32 = 100;

/// Blocks mined at the start: some coins are mature then.
const FIRST_BLOCKS: u32 = COINBASE_MATURITY + 10;

/// What a payment from the purse leaves to the miner.
const FEE: Amount = Amount::from_sat(20_000);

/// Blocks for one call.
const BLOCKS_PER_CALL: u32 = 500;

/// How long a node may take to start; 0.15 s on an idle machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at whether it has started.
const START_PAUSE: Duration = Duration::from_millis(20);

/// Ports tried: another process may take a free one first.
const START_TRIES: u32 = 4;

/// How long a call may take, in seconds.
const CALL_SECONDS: u64 = 60;

/// Why a node did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// It did not start.
    #[error("bitcoind did not start: {0}")]
    Start(String),
    /// It is on another network than regtest.
    #[error("the node is on {0}, not on regtest: its coins are not for a demo")]
    NotRegtest(String),
    /// There is no connection, or no usable answer.
    #[error("the node can not be asked: {0}")]
    Unreachable(String),
    /// It refused a call.
    #[error("the node refused {method}: {message} (RPC error {code})")]
    Refused {
        /// The RPC method.
        method: String,
        /// The node's error code.
        code: i64,
        /// The node's words.
        message: String,
    },
    /// The miner has no mature coin of that value.
    #[error("the miner has no mature coin that pays {0}")]
    Empty(Amount),
}

impl From<NodeError> for DemoError {
    fn from(error: NodeError) -> Self {
        Self::Setup(error.to_string())
    }
}

/// A `bitcoind -regtest`. One that was started is killed when this is dropped.
pub struct RegtestNode {
    url: String,
    login: CoreLogin,
    process: Option<Process>,
    purse: Mutex<Purse>,
}

struct Process {
    child: Child,
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    extra: Vec<String>,
}

/// The miner's state.
struct Purse {
    /// Height of the next coinbase to spend.
    next: u32,
    /// Goes into the miner's script after blocks were undone: the same block again would be one that is
    /// known to be invalid.
    branch: i64,
}

/// The `bitcoind` of `BITCOIND`, else of `PATH`.
#[must_use]
pub fn find_bitcoind() -> Option<PathBuf> {
    let named = std::env::var_os("BITCOIND").filter(|name| !name.is_empty());
    if let Some(named) = named {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH")?;
    let name = OsStr::new(if cfg!(windows) {
        "bitcoind.exe"
    } else {
        "bitcoind"
    });
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

impl RegtestNode {
    /// Starts a node on free loopback ports, without peers, with its files in `dir`; `extra` are further
    /// options, which win over its own.
    ///
    /// # Errors
    /// [`NodeError::Start`] with the end of what the node said.
    pub async fn start(binary: &Path, dir: &Path, extra: &[&str]) -> Result<Self, NodeError> {
        std::fs::create_dir_all(dir).map_err(|error| NodeError::Start(error.to_string()))?;
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let mut last = NodeError::Start("no port is free".to_owned());
        for _ in 0..START_TRIES {
            let port = free_port()?;
            let child = spawn(binary, dir, port, &extra)?;
            let mut node = Self {
                url: format!("http://127.0.0.1:{port}"),
                login: CoreLogin::Cookie(dir.join("regtest").join(".cookie")),
                process: Some(Process {
                    child,
                    binary: binary.to_owned(),
                    dir: dir.to_owned(),
                    port,
                    extra: extra.clone(),
                }),
                purse: Mutex::new(Purse { next: 1, branch: 0 }),
            };
            match node.ready().await {
                Ok(()) => {
                    node.mine(FIRST_BLOCKS)?;
                    return Ok(node);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to a running node and mines there until its miner has coins.
    ///
    /// # Errors
    /// [`NodeError::NotRegtest`], or why it can not be asked.
    pub async fn connect(url: &str, login: CoreLogin) -> Result<Self, NodeError> {
        let node = Self {
            url: url.trim_end_matches('/').to_owned(),
            login,
            process: None,
            purse: Mutex::new(Purse { next: 1, branch: 0 }),
        };
        let info: Value = node.call("getblockchaininfo", json!([]))?;
        let chain = info.get("chain").and_then(Value::as_str).unwrap_or("?");
        if chain != "regtest" {
            return Err(NodeError::NotRegtest(chain.to_owned()));
        }
        let height = node.height()?;
        node.purse().next = height.saturating_add(1);
        node.mine(FIRST_BLOCKS)?;
        Ok(node)
    }

    /// Address of its RPC.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How its RPC is entered.
    #[must_use]
    pub const fn login(&self) -> &CoreLogin {
        &self.login
    }

    /// A backend of its own for an agent.
    ///
    /// # Errors
    /// As [`ChainBackend::core`].
    pub fn backend(&self, timeout: Duration) -> Result<ChainBackend, ChainError> {
        ChainBackend::core(&self.url, self.login.clone(), timeout)
    }

    /// Stops the node in good order and starts it again on the same port: it writes another cookie, and
    /// keeps its chain and its mempool.
    ///
    /// # Errors
    /// [`NodeError::Start`], also when the node was not started here.
    pub async fn restart(&mut self) -> Result<(), NodeError> {
        self.halt().await?;
        self.resume().await
    }

    /// Stops the node in good order.
    ///
    /// # Errors
    /// [`NodeError::Start`] when it was not started here or does not end.
    pub async fn halt(&mut self) -> Result<(), NodeError> {
        let _: Value = self.call("stop", json!([]))?;
        let Some(process) = &mut self.process else {
            return Err(NodeError::Start("it was not started here".to_owned()));
        };
        let deadline = Instant::now() + START_PATIENCE;
        while process.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                return Err(NodeError::Start("it does not stop".to_owned()));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        Ok(())
    }

    /// Starts a stopped node again.
    ///
    /// # Errors
    /// [`NodeError::Start`] with the end of what the node said.
    pub async fn resume(&mut self) -> Result<(), NodeError> {
        let Some(process) = &mut self.process else {
            return Err(NodeError::Start("it was not started here".to_owned()));
        };
        process.child = spawn(&process.binary, &process.dir, process.port, &process.extra)?;
        self.ready().await
    }

    /// Waits until the node answers.
    async fn ready(&mut self) -> Result<(), NodeError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if let Some(process) = &mut self.process
                && !process.child.try_wait().is_ok_and(|ended| ended.is_none())
            {
                return Err(NodeError::Start(last_words(&process.dir)));
            }
            match self.call::<Value>("getblockchaininfo", json!([])) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(START_PAUSE).await,
            }
        }
    }

    /// Calls an RPC method.
    ///
    /// # Errors
    /// [`NodeError::Refused`] or [`NodeError::Unreachable`].
    pub fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, NodeError> {
        let unreachable = |error: String| NodeError::Unreachable(error);
        let header = self.login.header().map_err(unreachable)?;
        let body = json!({"jsonrpc": "1.0", "id": 0, "method": method, "params": params});
        let answer = bitreq::post(&self.url)
            .with_header("authorization", header.as_str())
            .with_timeout(CALL_SECONDS)
            .with_body(body.to_string())
            .send()
            .map_err(|error| unreachable(error.to_string()))?;
        let mut reply: Value = serde_json::from_slice(answer.as_bytes())
            .map_err(|_| unreachable(format!("HTTP {}", answer.status_code)))?;
        if let Some(error) = reply.get("error").filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(Value::as_str);
            return Err(NodeError::Refused {
                method: method.to_owned(),
                code: error.get("code").and_then(Value::as_i64).unwrap_or(0),
                message: message.unwrap_or_default().to_owned(),
            });
        }
        let result = reply.get_mut("result").map(Value::take).unwrap_or_default();
        serde_json::from_value(result).map_err(|error| unreachable(format!("{method}: {error}")))
    }

    /// Height of the last block.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn height(&self) -> Result<u32, NodeError> {
        self.call("getblockcount", json!([]))
    }

    /// Mines blocks with what waits in the mempool; says the new height.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn mine(&self, blocks: u32) -> Result<u32, NodeError> {
        let address = self.miner_address();
        let mut left = blocks;
        while left > 0 {
            let now = left.min(BLOCKS_PER_CALL);
            let _: Value = self.call("generatetoaddress", json!([now, address]))?;
            left -= now;
        }
        self.height()
    }

    /// Mines blocks with none of the mempool; says the new height.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn mine_empty(&self, blocks: u32) -> Result<u32, NodeError> {
        let address = self.miner_address();
        for _ in 0..blocks {
            let _: Value = self.call("generateblock", json!([address, []]))?;
        }
        self.height()
    }

    /// Undoes the last blocks. Their transactions return to the mempool where they are valid.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn undo(&self, blocks: u32) -> Result<(), NodeError> {
        let first = self.height()?.saturating_sub(blocks).saturating_add(1);
        let hash: BlockHash = self.call("getblockhash", json!([first]))?;
        self.purse().branch += 1;
        let _: Value = self.call("invalidateblock", json!([hash]))?;
        Ok(())
    }

    /// Pays a script from the miner's coins, as output 0 of a transaction in the mempool.
    ///
    /// # Errors
    /// [`NodeError::Empty`], or as [`Self::call`].
    pub fn fund(&self, script: &Script, amount: Amount) -> Result<OutPoint, NodeError> {
        let txid = self.pay(vec![TxOut {
            value: amount,
            script_pubkey: script.to_owned(),
        }])?;
        Ok(OutPoint::new(txid, 0))
    }

    /// Pays these outputs from one of the miner's coins; what is left goes to the miner's script.
    ///
    /// # Errors
    /// [`NodeError::Empty`], or as [`Self::call`].
    pub fn pay(&self, mut outputs: Vec<TxOut>) -> Result<Txid, NodeError> {
        let amount: Amount = outputs.iter().map(|output| output.value).sum();
        let redeem = redeem_script(0);
        let purse = ScriptBuf::new_p2wsh(&redeem.wscript_hash());
        loop {
            let height = {
                let mut state = self.purse();
                let height = state.next;
                state.next = height.saturating_add(1);
                height
            };
            let missing = height.saturating_add(COINBASE_MATURITY - 1);
            let missing = missing.saturating_sub(self.height()?);
            if missing > 0 {
                self.mine(missing)?;
            }
            let block = self.block(height)?;
            let coin = block.txdata.first().and_then(|coinbase| {
                let output = coinbase.output.first()?;
                (output.script_pubkey == purse)
                    .then(|| (OutPoint::new(coinbase.compute_txid(), 0), output.value))
            });
            // Blocks of another branch, or of another miner, pay somebody else.
            let Some((input, value)) = coin else {
                continue;
            };
            let rest = amount
                .checked_add(FEE)
                .and_then(|needed| value.checked_sub(needed))
                .ok_or(NodeError::Empty(amount))?;
            outputs.push(TxOut {
                value: rest,
                script_pubkey: purse,
            });
            let mut witness = Witness::new();
            witness.push(redeem.as_bytes());
            let tx = Transaction {
                version: Version::TWO,
                lock_time: LockTime::ZERO,
                input: vec![TxIn {
                    previous_output: input,
                    script_sig: ScriptBuf::new(),
                    sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                    witness,
                }],
                output: outputs,
            };
            return self.call("sendrawtransaction", json!([serialize_hex(&tx)]));
        }
    }

    /// The block at a height.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn block(&self, height: u32) -> Result<Block, NodeError> {
        let hash: BlockHash = self.call("getblockhash", json!([height]))?;
        let text: String = self.call("getblock", json!([hash, 0]))?;
        deserialize_hex(&text).map_err(|error| NodeError::Unreachable(error.to_string()))
    }

    /// A transaction of chain or mempool.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, NodeError> {
        match self.call::<String>("getrawtransaction", json!([txid, false])) {
            Ok(text) => deserialize_hex(&text)
                .map(Some)
                .map_err(|error| NodeError::Unreachable(error.to_string())),
            Err(NodeError::Refused { code: -5, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the node itself says happened to a script, confirmed first.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn history(&self, script: &Script) -> Result<Vec<AddressTx>, NodeError> {
        let descriptor = format!("raw({})", script.as_bytes().as_hex());
        // Waits until the index has the last block, which a scan would pass over without a word.
        let best: BlockHash = self.call("getbestblockhash", json!([]))?;
        let _: Value = self.call("getblockfilter", json!([best, "basic"]))?;
        let found: Value = self.call("scanblocks", json!(["start", [descriptor]]))?;
        let blocks = found.get("relevant_blocks").cloned().unwrap_or_default();
        let params = json!([blocks, [descriptor], true]);
        let found: Value = self.call("getdescriptoractivity", params)?;
        let events = found.get("activity").and_then(Value::as_array);
        let mut places = BTreeSet::new();
        for event in events.into_iter().flatten() {
            let txid = event.get("spend_txid").or_else(|| event.get("txid"));
            let txid = txid
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok());
            let height = event.get("height").and_then(Value::as_u64);
            let height = height.and_then(|height| u32::try_from(height).ok());
            if let Some(txid) = txid {
                places.insert((height.is_none(), height, txid));
            }
        }
        let mut txs = Vec::new();
        for (_, height, txid) in places {
            if let Some(tx) = self.transaction(&txid)? {
                txs.push(AddressTx {
                    tx: tx.into(),
                    height,
                });
            }
        }
        Ok(txs)
    }

    fn miner_address(&self) -> String {
        let script = redeem_script(self.purse().branch);
        Address::p2wsh(&script, bitcoin::Network::Regtest).to_string()
    }

    fn purse(&self) -> std::sync::MutexGuard<'_, Purse> {
        self.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the miner's coins are spent with.
fn redeem_script(branch: i64) -> ScriptBuf {
    let script = Builder::new();
    let script = if branch == 0 {
        script
    } else {
        script.push_int(branch).push_opcode(OP_DROP)
    };
    script.push_opcode(OP_TRUE).into_script()
}

fn free_port() -> Result<u16, NodeError> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    free.map(|address| address.port())
        .map_err(|error| NodeError::Start(error.to_string()))
}

fn spawn(binary: &Path, dir: &Path, port: u16, extra: &[String]) -> Result<Child, NodeError> {
    let log = std::fs::File::create(dir.join("stderr.txt"))
        .map_err(|error| NodeError::Start(error.to_string()))?;
    Command::new(binary)
        .arg("-regtest")
        .arg(format!("-datadir={}", dir.display()))
        // No configuration of the user's: it could name another network.
        .arg("-noconf")
        .arg(format!("-rpcport={port}"))
        .args([
            "-server=1",
            "-listen=0",
            "-connect=0",
            "-dnsseed=0",
            "-printtoconsole=0",
        ])
        .args([
            "-blockfilterindex=1",
            "-txindex=1",
            "-rpcworkqueue=512",
            "-dbcache=16",
            "-par=1",
        ])
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| NodeError::Start(format!("{}: {error}", binary.display())))
}

/// The end of what a node that ended said.
fn last_words(dir: &Path) -> String {
    let said = std::fs::read_to_string(dir.join("stderr.txt")).unwrap_or_default();
    let lines: Vec<&str> = said.lines().rev().take(3).collect();
    if lines.is_empty() {
        return "it ended without a word".to_owned();
    }
    lines.into_iter().rev().collect::<Vec<_>>().join(" ")
}
