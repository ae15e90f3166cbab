//! `did resolve` and `did conform`

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use super::values::{http_url, seconds};

/// Arguments of `did resolve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent did resolve did:btcr2:k1…                             from the chain alone\n  \
        btcr2-agent did resolve did:btcr2:x1… --sidecar alice.json --explain\n  \
        btcr2-agent did resolve did:btcr2:x1… --sidecar alice.json --version-time 2026-11-20T12:00:00Z\n  \
        btcr2-agent did resolve did:btcr2:x1… --sidecar alice.json --record alice-chain.json\n  \
        btcr2-agent did resolve did:btcr2:x1… --sidecar alice.json --chain alice-chain.json --network-free\n\n\
        stdout gets the DID Resolution result: didDocument, didDocumentMetadata, didResolutionMetadata. If the DID \
        does not resolve, the result says so, stderr names the error code and the rule, and the exit status is 1. With \
        --json the result stands in {\"ok\":…,\"result\":…}, with the walk if --explain is given.\n\n\
        A signal counts from 6 confirmations on (--min-conf). Unconfirmed and shallow signals are shown by --explain \
        as pending and never applied. docs/recordings.md describes the files of --record and --chain.")]
pub struct ResolveArgs {
    /// The DID
    pub did: String,
    /// The DID's sidecar data: genesis document, updates, announcements, proofs; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub sidecar: Option<PathBuf>,
    /// The document of this version, from 1
    #[arg(long, value_name = "N")]
    pub version_id: Option<String>,
    /// The document as of this time, such as 2026-11-20T12:00:00Z, by the median time of blocks
    #[arg(long, value_name = "T")]
    pub version_time: Option<String>,
    /// Confirmations a signal needs before it counts [default: 6]
    #[arg(long, value_name = "N")]
    pub min_conf: Option<String>,
    /// Where chain data comes from: an Esplora URL, or a recording [default: the configured server of the DID's network]
    #[arg(long, value_name = "URL|FILE")]
    pub chain: Option<ChainArg>,
    /// Contact nothing and nobody: chain data must come from a file
    #[arg(long, requires = "chain", conflicts_with = "ipfs")]
    pub network_free: bool,
    /// An IPFS gateway to read objects from that the sidecar lacks (repeatable) [default: the
    /// configured ones]. It learns what is looked for
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub ipfs: Vec<String>,
    /// Accept proofs without invocationTarget, as they were before October 2026. Not for DIDs of today
    #[arg(long)]
    pub allow_missing_invocation_target: bool,
    /// Say on stderr what was found and what became of it: every beacon and every signal
    #[arg(long)]
    pub explain: bool,
    /// Save the chain data and objects that were used, for --chain
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Give up after this time
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = seconds)]
    pub timeout: u64,
}

/// Where chain data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainArg {
    /// An Esplora server.
    Url(String),
    /// A recording.
    File(PathBuf),
}

impl FromStr for ChainArg {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err("the URL of an Esplora server or the name of a file is expected");
        }
        if text.contains("://") {
            return http_url(text).map(Self::Url);
        }
        Ok(Self::File(Path::new(text).to_owned()))
    }
}

/// Arguments of `did conform`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent did conform did-btcr2-test-suite\n  \
    btcr2-agent did conform did-btcr2-test-suite/regtest/k1 --allow-missing-invocation-target --json\n\n\
    A set is a directory with create, update or resolve, each holding input.json and output.json (or numbered \
    directories with them), and beside them other.json and signals.json, as dcdpr/did-btcr2-test-suite lays them out: \
    <network>/<k1|x1>/<id>/. Sets are found at any depth. Chain data come from signals.json alone: an address without \
    an entry sent no signal.\n\n\
    Compared are: the DID (create); everything that is signed, and that the recorded proof verifies (update); document, \
    versionId, deactivated, updated, error code, and that confirmations are at least the recorded ones where the tip is \
    known (resolve). LATE_PUBLISHING_ERROR counts as LATE_PUBLISHING. What can not be checked is skipped, with the \
    reason. Exit status 1 if any check failed.\n\n\
    Objects that a set expects in a CAS are taken from the directory's own files, only after the set came out \
    as missing data without them.")]
pub struct ConformArgs {
    /// A directory with sets, or one set
    pub dir: PathBuf,
    /// Accept proofs without invocationTarget, which sets from before October 2026 lack
    #[arg(long)]
    pub allow_missing_invocation_target: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_sources_are_told_apart() {
        let url = "https://example.org/api";
        assert_eq!(url.parse(), Ok(ChainArg::Url(url.into())));
        assert_eq!("a/b.json".parse(), Ok(ChainArg::File("a/b.json".into())));
        for text in ["", "ftp://example.org", "file:///a"] {
            assert!(text.parse::<ChainArg>().is_err(), "{text}");
        }
    }
}
