//! `run`, `demo` and `dev …`

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::keys::PassphraseArgs;
use super::values::{http_url, seconds};
use crate::agent::control::views::BeaconType;
use crate::demo::DemoChain;

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent run                                  in the foreground; ctrl-c stops it\n  \
    btcr2-agent run --mainnet                        with mainnet, if config.toml allows it too\n  \
    btcr2-agent run --passphrase-file pass.txt --json >> events.jsonl")]
pub struct RunArgs {
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Use mainnet as well; config.toml must say `mainnet = true` in the table money
    #[arg(long)]
    pub mainnet: bool,
}

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent demo\n  \
    btcr2-agent demo --beacon cas --members 7 --rounds 3\n  \
    btcr2-agent demo --bitcoind                      on a bitcoind -regtest of its own\n  \
    btcr2-agent demo --json | jq -r .step")]
pub struct DemoArgs {
    /// Beacon type
    #[arg(long, value_enum, default_value_t)]
    pub beacon: BeaconType,
    /// Members, each a full agent
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub members: u16,
    /// Rounds; the last of three or more deactivates a DID
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Keep the agents' homes in this directory instead of deleting them
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Use a real node instead of the chain in this process: a bitcoind of its own, found in BITCOIND or on
    /// PATH, or the one with this RPC address; regtest only
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "", value_parser = node_url)]
    pub bitcoind: Option<String>,
    /// The cookie file of the node at --bitcoind URL
    #[arg(long, value_name = "FILE", requires = "bitcoind")]
    pub cookie_file: Option<PathBuf>,
}

impl DemoArgs {
    /// What plays the chain.
    #[must_use]
    pub fn chain(&self) -> DemoChain {
        match self.bitcoind.as_deref() {
            None => DemoChain::InProcess,
            Some("") => DemoChain::OwnNode,
            Some(url) => DemoChain::Node {
                url: url.to_owned(),
                cookie: self.cookie_file.clone().unwrap_or_else(default_cookie),
            },
        }
    }
}

/// Where Bitcoin Core keeps the cookie of its regtest chain by default.
fn default_cookie() -> PathBuf {
    let home = directories::UserDirs::new().map(|dirs| dirs.home_dir().to_owned());
    home.unwrap_or_default().join(".bitcoin/regtest/.cookie")
}

/// An address, or nothing.
fn node_url(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Ok(String::new());
    }
    http_url(text)
}

/// Commands for work on one machine.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Run a Nostr relay on this machine; nothing is kept when it stops
    Relay(DevRelayArgs),
    /// Run a regtest chain with an Esplora API on this machine; nothing is kept when it stops
    Chain(ChainArgs),
    /// Pay from the dev chain's miner to an address, and mine it
    Pay(PayArgs),
    /// Mine blocks on the dev chain
    Mine(MineArgs),
}

/// Arguments of `dev relay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent dev relay --port 7777")]
pub struct DevRelayArgs {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen: IpAddr,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 7777)]
    pub port: u16,
}

/// Arguments of `dev chain`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent dev chain --port 3002 --block-every 10s")]
pub struct ChainArgs {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub listen: IpAddr,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 3002)]
    pub port: u16,
    /// Mine a block at this interval; otherwise only `dev mine` and `dev pay` do
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub block_every: Option<u64>,
}

/// Arguments of `dev pay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent dev pay bcrt1p… 100000")]
pub struct PayArgs {
    /// Address to pay to
    pub address: String,
    /// Amount in sat
    #[arg(value_name = "SAT", value_parser = clap::value_parser!(u64).range(1..=2_100_000_000_000_000))]
    pub amount: u64,
    /// The dev chain's Esplora API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3002", value_parser = http_url)]
    pub chain: String,
}

/// Arguments of `dev mine`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent dev mine 6")]
pub struct MineArgs {
    /// How many blocks
    #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub blocks: u32,
    /// The dev chain's Esplora API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3002", value_parser = http_url)]
    pub chain: String,
}
