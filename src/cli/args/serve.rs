//! `resolver …`

use std::net::SocketAddr;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::values::{http_url, seconds};
use crate::network::Network;

/// Commands of a resolver for others.
#[derive(Debug, Subcommand)]
pub enum ResolverCommand {
    /// Serve DID resolution over HTTP, as a driver of the Universal Resolver; needs no key and no daemon
    Serve(ServeArgs),
}

/// Arguments of `resolver serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent resolver serve\n  \
    btcr2-agent resolver serve --chain mutinynet=https://mutinynet.com/api --ipfs https://dweb.link\n  \
    btcr2-agent resolver serve --listen 0.0.0.0:8080 --chain bitcoin=http://esplora.lan:3002\n\n\
    Ask it:\n  \
    curl http://127.0.0.1:8080/1.0/identifiers/did:btcr2:k1…\n  \
    curl -H 'Accept: application/did' 'http://127.0.0.1:8080/1.0/identifiers/did:btcr2:k1…?versionId=2'\n  \
    curl --json '{\"sidecar\": …}' http://127.0.0.1:8080/1.0/identifiers/did:btcr2:x1…\n\n\
    It speaks HTTP without TLS: whoever serves more than this machine puts a reverse proxy with TLS before it. Chain \
    servers and gateways are contacted when somebody asks. docs/serve.md has the interface, the table of statuses and \
    the limits.")]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// A network's Esplora server (repeatable); only networks that are named are served then [default: the configured
    /// server of every network]
    #[arg(long, value_name = "NETWORK=URL")]
    pub chain: Vec<NetworkChain>,
    /// An IPFS gateway to read objects from that a sidecar lacks (repeatable) [default: the configured ones]
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub ipfs: Vec<String>,
    /// Accept proofs without invocationTarget, as they were before October 2026. Not for DIDs of today
    #[arg(long)]
    pub allow_missing_invocation_target: bool,
    /// Longest body of a POST, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub max_body: u32,
    /// Time to resolve one DID
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = seconds)]
    pub timeout: u64,
    /// Resolutions under way at once; a further one is told to try again
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,
}

/// The chain server of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkChain {
    /// The network.
    pub network: Network,
    /// Its Esplora base URL.
    pub url: String,
}

impl FromStr for NetworkChain {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (network, url) = text
            .split_once('=')
            .ok_or("NETWORK=URL is expected, such as signet=https://mempool.space/signet/api")?;
        Ok(Self {
            network: network.parse().map_err(|error| format!("{error}"))?,
            url: http_url(url)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_named_by_network() {
        assert_eq!(
            "signet=https://a.example/api?x=y".parse(),
            Ok(NetworkChain {
                network: Network::Signet,
                url: "https://a.example/api?x=y".to_owned()
            })
        );
        for text in [
            "",
            "signet",
            "https://a.example",
            "mainnet=https://a.example",
            "signet=a.example",
        ] {
            assert!(text.parse::<NetworkChain>().is_err(), "{text}");
        }
    }
}
