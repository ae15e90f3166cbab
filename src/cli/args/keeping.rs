//! `did sidecar`, `did verify`, `key backup` and `recover`

use std::path::PathBuf;

use clap::Args;

use super::keys::PassphraseArgs;
use super::values::{http_url, seconds};
use crate::agent::control::request::DidRef;
use crate::network::Network;

/// Arguments of `did sidecar`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent did sidecar did:btcr2:x1… --out alice.json\n  \
        btcr2-agent did sidecar did:btcr2:x1… | btcr2-agent did resolve did:btcr2:x1… --sidecar -\n\n\
        The chain is read first, so that the sidecar data are complete for every signal there is now. Missing \
        things are listed on stderr, and the exit status is 1.")]
pub struct SidecarArgs {
    /// The DID
    pub did: DidRef,
    /// Write to this file, readable by you only, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Succeed also when something is missing
    #[arg(long)]
    pub allow_missing: bool,
}

/// Arguments of `did verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent did verify\n  \
        btcr2-agent did verify did:btcr2:x1… --fetch\n\n\
        For each DID: every beacon of its documents, former ones too, is read from the chain; each signal must be \
        explained by a stored and verified proof or announcement, each update must be there, and the DID must resolve \
        with exactly these. If anything is missing or at risk the exit status is 1.")]
pub struct VerifyArgs {
    /// The DID [default: all of this agent]
    pub did: Option<DidRef>,
    /// Ask the aggregators for what is missing, and wait for it
    #[arg(long)]
    pub fetch: bool,
    /// How long to wait for aggregators
    #[arg(long, value_name = "DURATION", requires = "fetch", value_parser = seconds)]
    pub wait: Option<u64>,
}

/// Arguments of `key backup`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent key backup                       bring bundle.enc in the home up to date\n  \
        btcr2-agent key backup --out /media/usb/agent.bundle\n\n\
        The bundle holds what the recovery words do not restore: genesis documents, signed updates, proofs and \
        announcements, memberships. It is encrypted with a key of the words; a running agent writes it within \
        seconds of every change. `btcr2-agent recover` makes a home of words and bundle.")]
pub struct BackupArgs {
    /// Copy the bundle to this file, readable by you only; an older copy is replaced
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where the passphrase comes from, if no agent runs.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// Arguments of `recover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent recover --bundle /media/usb/agent.bundle       asks for the words and a new passphrase\n  \
        btcr2-agent recover --words-file words.txt --passphrase-file pass.txt --bundle agent.bundle\n  \
        btcr2-agent recover --did did:btcr2:k1… --network signet   the words alone\n\n\
        The home must be empty: nothing is ever overwritten, and a recovery that fails leaves nothing behind. Stop \
        the former agent before, for good: two copies of one agent endanger its DIDs.\n\n\
        The words alone restore the identity, and k1 DIDs that are named or found on the chain. Once the agent runs it \
        finds its seats by relays and aggregators, and derives the DIDs that it had there. Every updated DID needs its \
        signed updates: those are in the bundle only.")]
pub struct RecoverArgs {
    /// Read the recovery words from the first line of a file; `-` reads stdin [default: asks]
    #[arg(long, value_name = "FILE", conflicts_with = "nsec_file")]
    pub words_file: Option<PathBuf>,
    /// The agent was made of an imported nsec: read it from the first line of a file
    #[arg(long, value_name = "FILE")]
    pub nsec_file: Option<PathBuf>,
    /// The bundle: bundle.enc of the former home, or a copy made by `key backup`
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Take a bundle that ends within a write, up to where it is whole
    #[arg(long, requires = "bundle")]
    pub accept_truncated: bool,
    /// A DID of these words (repeatable); k1 DIDs are restored, of x1 DIDs it is said what is lacking
    #[arg(long, value_name = "DID", conflicts_with = "bundle")]
    pub did: Vec<DidRef>,
    /// Do not look on the chain for k1 DIDs that were used
    #[arg(long, conflicts_with = "bundle")]
    pub no_scan: bool,
    /// The Esplora server to look on [default: the configured one]
    #[arg(long, value_name = "URL", value_parser = http_url, conflicts_with_all = ["bundle", "no_scan"])]
    pub chain: Option<String>,
    /// Network of new cohorts and DIDs, and on which is looked for DIDs
    #[arg(long)]
    pub network: Option<Network>,
    /// Where the passphrase of the new keystore comes from.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Protect the keystore with no passphrase (for automation: whoever reads the file has the key)
    #[arg(long, conflicts_with = "passphrase_file")]
    pub no_passphrase: bool,
}
