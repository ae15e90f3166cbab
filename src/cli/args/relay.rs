//! `relay …`, `follow` and `unfollow`

use clap::{Args, Subcommand};

use super::values::{relay_url, seconds};
use crate::agent::control::request::KeyRef;
use crate::network::Network;

/// Commands on relays.
#[derive(Debug, Subcommand)]
pub enum RelayCommand {
    /// List the configured relays and their connections
    #[command(after_help = "Example:\n  btcr2-agent relay list")]
    List,
    /// Add a relay, or change one
    Add(AddArgs),
    /// Remove a relay
    Remove(RemoveArgs),
    /// Try relays: connect, write an event of our kind, read it back
    Probe(ProbeArgs),
}

/// Arguments of `relay add`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent relay add wss://relay.example.org\n  \
    btcr2-agent relay add ws://127.0.0.1:7777 --network regtest")]
pub struct AddArgs {
    /// wss://… or ws://…; private and loopback addresses are used only when added by hand
    #[arg(value_parser = relay_url)]
    pub url: String,
    /// Read from it only
    #[arg(long, conflicts_with = "write_only")]
    pub read_only: bool,
    /// Write to it only
    #[arg(long)]
    pub write_only: bool,
    /// Use it for this network only (repeatable)
    #[arg(long = "network", value_name = "NETWORK")]
    pub networks: Vec<Network>,
}

/// Arguments of `relay remove`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent relay remove wss://relay.example.org")]
pub struct RemoveArgs {
    /// The relay
    #[arg(value_parser = relay_url)]
    pub url: String,
}

/// Arguments of `relay probe`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent relay probe                            all configured relays\n  \
    btcr2-agent relay probe wss://relay.example.org")]
pub struct ProbeArgs {
    /// Which relays [default: all configured ones]
    #[arg(value_parser = relay_url, value_name = "URL")]
    pub urls: Vec<String>,
    /// How long to wait for each
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub timeout: Option<u64>,
}

/// Arguments of `follow`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent follow npub1…\n  \
    btcr2-agent follow nprofile1… --tell     the aggregator then lists this agent as a subscriber")]
pub struct FollowArgs {
    /// The aggregator (npub, nprofile or hex)
    #[arg(value_name = "KEY")]
    pub aggregator: KeyRef,
    /// Tell the aggregator
    #[arg(long)]
    pub tell: bool,
}

/// Arguments of `unfollow`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent unfollow npub1…")]
pub struct UnfollowArgs {
    /// The aggregator (npub, nprofile or hex)
    #[arg(value_name = "KEY")]
    pub aggregator: KeyRef,
}
