//! `did announce`, and `did register --via singleton`

use clap::{Args, ValueEnum};

use crate::agent::control::request::DidRef;
use crate::agent::control::views::FeeRate;

/// What announces the update that adds a cohort's beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RegisterVia {
    /// A transaction of the DID's own, from a singleton beacon of its document
    Singleton,
}

/// Arguments of `did announce`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent did announce did:btcr2:k1… --dry-run         what it costs, or what to pay first\n  \
    btcr2-agent did announce did:btcr2:k1…\n  \
    btcr2-agent did announce did:btcr2:k1… --fee-rate 20     pay more for what is announced already\n\n\
    The transaction is sent again until it is confirmed. Called again without --fee-rate, the same\n\
    transaction is sent.")]
pub struct AnnounceArgs {
    /// The DID
    pub did: DidRef,
    /// The singleton beacon, by its service id [default: the first that can pay]
    #[arg(long, value_name = "ID")]
    pub service: Option<String>,
    /// Fee rate in sat/vB [default: the chain's estimate, within participant.max_fee_rate]
    #[arg(long, value_name = "RATE")]
    pub fee_rate: Option<FeeRate>,
    /// Only show what it costs, or what to pay first
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not draw a QR code of what to pay
    #[arg(long)]
    pub no_qr: bool,
    /// Do not ask before paying
    #[arg(long, short)]
    pub yes: bool,
}
