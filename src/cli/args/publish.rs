//! `did publish`

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::values::http_url;
use crate::agent::control::request::DidRef;

/// Arguments of `did publish`.
#[derive(Debug, Clone, Args)]
#[command(
    group = ArgGroup::new("kinds")
        .required(true)
        .multiple(true)
        .args(["updates", "announcements", "genesis"]),
    after_help = "Examples:\n  \
        btcr2-agent did publish did:btcr2:x1… --genesis --updates --announcements\n  \
        btcr2-agent did publish did:btcr2:k1… --updates --rpc http://127.0.0.1:5001 --yes\n\n\
        Each artifact becomes one pinned block of an IPFS node, at the address (CID) that resolvers compute from the \
        chain. Nothing is ever published unless this command is run. What is published is public for ever. \
        Publishing again changes nothing.\n\n\
        SMT proofs can not be published: resolvers take them from sidecar data only (`did sidecar`). The specification \
        advises against handing out one DID's data in both ways. An update that only waits for a round is not \
        published."
)]
pub struct PublishArgs {
    /// The DID, one of this agent's
    pub did: DidRef,
    /// Publish its signed updates
    #[arg(long)]
    pub updates: bool,
    /// Publish the announcements of its CAS beacons. They name the other DIDs that updated in the same rounds
    #[arg(long)]
    pub announcements: bool,
    /// Publish its genesis document
    #[arg(long)]
    pub genesis: bool,
    /// The RPC of the IPFS node [default: the configured cas.rpc]
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub rpc: Option<String>,
    /// A private file with the RPC's credentials, bearer:TOKEN or basic:USER:PASSWORD [default, without --rpc: the
    /// configured cas.rpc_auth_file]
    #[arg(long, value_name = "FILE")]
    pub rpc_auth_file: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}
