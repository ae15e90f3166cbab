//! What plays the chain on a stage: the chain in this process, or a real node.

use std::path::Path;
use std::time::Duration;

use bitcoin::{Amount, Block, OutPoint, Script, Transaction, Txid};

use super::regtest_node::{RegtestNode, find_bitcoind};
use super::{DemoChain, DemoError};
use crate::chain::{AddressTx, ChainBackend, CoreLogin, RegtestServer, SharedChain};

/// How long an agent's backend waits for the chain.
pub const CHAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A regtest chain with a miner and a purse.
pub enum Ledger {
    /// The chain in this process; agents read it over its Esplora API.
    InProcess(RegtestServer),
    /// A node; agents read it over its RPC.
    Node(RegtestNode),
}

impl Ledger {
    /// Opens what a demo asks for; a node of its own keeps its files in `dir`.
    ///
    /// # Errors
    /// [`DemoError::Setup`] says what is missing.
    pub async fn open(chain: &DemoChain, dir: &Path) -> Result<Self, DemoError> {
        let setup = |error: String| DemoError::Setup(error);
        match chain {
            DemoChain::InProcess => {
                let loopback = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
                let server = RegtestServer::start(loopback).await;
                server
                    .map(Self::InProcess)
                    .map_err(|error| setup(error.to_string()))
            }
            DemoChain::OwnNode => {
                let binary = find_bitcoind().ok_or_else(|| {
                    setup("no bitcoind: put it on PATH, name it in BITCOIND, or run without --bitcoind".to_owned())
                })?;
                let node = RegtestNode::start(&binary, dir, &[]).await;
                node.map(Self::Node)
                    .map_err(|error| setup(error.to_string()))
            }
            DemoChain::Node { url, cookie } => {
                let login = CoreLogin::Cookie(cookie.clone());
                let node = RegtestNode::connect(url, login).await;
                node.map(Self::Node)
                    .map_err(|error| setup(error.to_string()))
            }
        }
    }

    /// The chain itself, if it is in this process: for tests that reorganise it or empty its mempool.
    #[must_use]
    pub fn in_process(&self) -> Option<SharedChain> {
        match self {
            Self::InProcess(server) => Some(server.chain()),
            Self::Node(_) => None,
        }
    }

    /// An own backend for an agent.
    pub fn backend(&self) -> Result<ChainBackend, DemoError> {
        self.backend_within(CHAIN_TIMEOUT)
    }

    /// The same with another time for one answer.
    pub fn backend_within(&self, timeout: Duration) -> Result<ChainBackend, DemoError> {
        let backend = match self {
            Self::InProcess(server) => ChainBackend::esplora(&server.url(), timeout),
            Self::Node(node) => node.backend(timeout),
        };
        backend.map_err(|error| DemoError::Setup(error.to_string()))
    }

    /// Where the chain is reached.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::InProcess(server) => server.url(),
            Self::Node(node) => node.url().to_owned(),
        }
    }

    /// The node, if it is one.
    #[must_use]
    pub const fn node(&self) -> Option<&RegtestNode> {
        match self {
            Self::InProcess(_) => None,
            Self::Node(node) => Some(node),
        }
    }

    /// Pays a script from the miner's purse, unconfirmed.
    pub fn fund(&self, script: &Script, amount: Amount) -> Result<OutPoint, DemoError> {
        match self {
            Self::InProcess(server) => {
                let chain = server.chain();
                let mut chain = chain.lock().map_err(|_| poisoned())?;
                chain
                    .fund(script, amount)
                    .map_err(|error| DemoError::Setup(error.to_string()))
            }
            Self::Node(node) => node.fund(script, amount).map_err(DemoError::from),
        }
    }

    /// Mines blocks; says the new height.
    pub fn mine(&self, blocks: u32) -> Result<u32, DemoError> {
        match self {
            Self::InProcess(server) => {
                let chain = server.chain();
                let mut chain = chain.lock().map_err(|_| poisoned())?;
                chain.mine(blocks);
                Ok(chain.height())
            }
            Self::Node(node) => node.mine(blocks).map_err(DemoError::from),
        }
    }

    /// A transaction of the chain or the mempool.
    pub fn transaction(&self, txid: &Txid) -> Result<Option<Transaction>, DemoError> {
        match self {
            Self::InProcess(server) => {
                let chain = server.chain();
                let chain = chain.lock().map_err(|_| poisoned())?;
                Ok(chain.transaction(txid).cloned())
            }
            Self::Node(node) => node.transaction(txid).map_err(DemoError::from),
        }
    }

    /// The block at a height.
    pub fn block(&self, height: u32) -> Result<Block, DemoError> {
        match self {
            Self::InProcess(server) => {
                let chain = server.chain();
                let chain = chain.lock().map_err(|_| poisoned())?;
                let block = chain.block(height).cloned();
                block.ok_or_else(|| DemoError::Wrong(format!("there is no block {height}")))
            }
            Self::Node(node) => node.block(height).map_err(DemoError::from),
        }
    }

    /// Every transaction that pays a script or spends from it, confirmed ones first, as the chain itself
    /// has it: not by way of an agent's backend.
    pub fn history(&self, script: &Script) -> Result<Vec<AddressTx>, DemoError> {
        match self {
            Self::InProcess(server) => {
                let chain = server.chain();
                let chain = chain.lock().map_err(|_| poisoned())?;
                Ok(chain.history(script).txs)
            }
            Self::Node(node) => node.history(script).map_err(DemoError::from),
        }
    }

    /// Stops what was started.
    pub async fn shutdown(self) {
        match self {
            Self::InProcess(server) => server.shutdown().await,
            // Killed when it is dropped.
            Self::Node(node) => drop(node),
        }
    }
}

fn poisoned() -> DemoError {
    DemoError::Wrong("the chain is poisoned".into())
}
