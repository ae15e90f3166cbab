//! The demo: a relay, a regtest chain, one aggregator and n participants, in one process.
//!
//! Every agent is a full agent with its own keys, home and database. They talk to each other through
//! the relay only, and to the chain through their own backends only. The demo itself does what
//! people would: it joins, funds, asks for DIDs and updates, and mines.

pub mod ledger;
pub mod regtest_node;
mod resolving;
mod rounds;
pub mod stage;
mod story;
mod world;

use std::path::PathBuf;

use crate::agent::AgentError;
use crate::agent::control::views::{BeaconType, DemoReport};
use crate::cli::progress::Reporter;

/// What the demo is to show.
#[derive(Debug, Clone)]
pub struct DemoPlan {
    /// The beacon type.
    pub beacon: BeaconType,
    /// Number of members, at least 2.
    pub members: u16,
    /// Number of rounds, at least 1.
    pub rounds: u32,
    /// Where to keep the agents' homes; `None` removes them at the end.
    pub keep: Option<PathBuf>,
    /// What plays the chain.
    pub chain: DemoChain,
}

/// What plays the chain in a demo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DemoChain {
    /// A regtest chain in this process.
    #[default]
    InProcess,
    /// A `bitcoind -regtest` of its own, found in `BITCOIND` or on `PATH`.
    OwnNode,
    /// A running `bitcoind -regtest`.
    Node {
        /// Address of its RPC.
        url: String,
        /// Its cookie file.
        cookie: PathBuf,
    },
}

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// An agent refused or failed.
    #[error("{actor}: {error}")]
    Agent {
        /// Which.
        actor: String,
        /// Why.
        error: AgentError,
    },
    /// A step did not happen in time.
    #[error("{step} did not happen within {seconds} seconds ({seen})")]
    Late {
        /// The step.
        step: String,
        /// How long it was waited for.
        seconds: u64,
        /// What was seen of it.
        seen: String,
    },
    /// A step happened differently than it must.
    #[error("{0}")]
    Wrong(String),
    /// The relay, the chain or a directory could not be set up.
    #[error("the demo can not be set up: {0}")]
    Setup(String),
}

/// Runs the demo. Any failed step is an error that names it.
pub async fn run(plan: DemoPlan, reporter: &dyn Reporter) -> Result<DemoReport, DemoError> {
    story::tell(plan, reporter).await
}
