//! `did update` and `did withdraw`

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::values::{NewBeaconArg, ServiceArg};
use crate::agent::control::request::{CohortRef, DidRef};
use crate::agent::control::views::FeeRate;

/// What announces an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ViaArg {
    /// The next round of a cohort whose beacon the document lists
    #[default]
    Cohort,
    /// A transaction of its own, from a singleton beacon of the document
    Singleton,
}

/// Arguments of `did update`.
#[derive(Debug, Clone, Args)]
#[command(
    group = ArgGroup::new("change")
        .required(true)
        .multiple(true)
        .args([
            "patch",
            "add_service",
            "remove_service",
            "add_key",
            "rotate_key",
            "remove_key",
            "add_beacon",
            "remove_beacon",
            "deactivate",
        ]),
    after_help = "Examples:\n  \
        btcr2-agent did update did:btcr2:x1… --add-service files,LinkedDomains,https://example.org\n  \
        btcr2-agent did update did:btcr2:x1… --rotate-key initialKey --dry-run\n  \
        btcr2-agent did update did:btcr2:k1… --add-beacon cohort:3f9a0c12 --via singleton\n  \
        btcr2-agent did update did:btcr2:x1… --patch patch.json --cohort 3f9a0c12\n  \
        btcr2-agent did update did:btcr2:x1… --remove-service files --deposit\n  \
        btcr2-agent did update did:btcr2:x1… --deactivate\n\n\
        Several changes make one signed update: first the patch, then what is removed, then rotated, then \
        added. Ids are fragments (files), relative (#files) or whole DID URLs. The DID is resolved first; \
        while an earlier update of it is not final nothing is signed."
)]
pub struct UpdateArgs {
    /// The DID
    pub did: DidRef,
    /// RFC 6902 patch: a JSON array of operations; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub patch: Option<PathBuf>,
    /// Add a service (repeatable)
    #[arg(long, value_name = "ID,TYPE,URL")]
    pub add_service: Vec<ServiceArg>,
    /// Remove a service (repeatable)
    #[arg(long, value_name = "ID")]
    pub remove_service: Vec<String>,
    /// Add a new key that may update the DID (repeatable)
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub add_key: Vec<String>,
    /// Replace a key by a new one, everywhere (repeatable)
    #[arg(long, value_name = "ID")]
    pub rotate_key: Vec<String>,
    /// Remove a key (repeatable)
    #[arg(long, value_name = "ID")]
    pub remove_key: Vec<String>,
    /// Add a beacon: cohort:COHORT, singleton[:p2tr|:p2wpkh|:p2pkh] with a new key, or TYPE,ADDRESS (repeatable)
    #[arg(long, value_name = "[ID=]BEACON")]
    pub add_beacon: Vec<NewBeaconArg>,
    /// Remove a beacon (repeatable)
    #[arg(long, value_name = "ID|ADDRESS")]
    pub remove_beacon: Vec<String>,
    /// Deactivate the DID, for ever
    #[arg(long, conflicts_with_all = [
        "patch",
        "add_service",
        "remove_service",
        "add_key",
        "rotate_key",
        "remove_key",
        "add_beacon",
        "remove_beacon",
    ])]
    pub deactivate: bool,
    /// What announces it
    #[arg(long, value_enum, default_value_t)]
    pub via: ViaArg,
    /// The cohort that announces it [default: the only one the document lists]
    #[arg(long, value_name = "ID")]
    pub cohort: Option<CohortRef>,
    /// With --via singleton: the singleton beacon [default: the one that costs least]
    #[arg(long, value_name = "ID", conflicts_with = "cohort")]
    pub service: Option<String>,
    /// Show the aggregator the update and the document it starts from: it verifies them before it announces
    #[arg(long, conflicts_with_all = ["hash_only", "service"])]
    pub deposit: bool,
    /// Show the aggregator the update's hash only [default: unless participant.deposit_updates is set]
    #[arg(long)]
    pub hash_only: bool,
    /// With --via singleton: the fee rate in sat/vB [default: the chain's estimate, within the policy]
    #[arg(long, value_name = "RATE", conflicts_with = "cohort")]
    pub fee_rate: Option<FeeRate>,
    /// Show what would come of it; sign and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Also when no key of this agent could update the DID afterwards
    #[arg(long)]
    pub hand_over: bool,
    /// Do not ask before deactivating, or before paying
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `did withdraw`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent did withdraw did:btcr2:x1…")]
pub struct WithdrawArgs {
    /// The DID
    pub did: DidRef,
    /// The version the update leads to [default: the last one]
    #[arg(long, value_name = "N")]
    pub version_id: Option<u64>,
}
