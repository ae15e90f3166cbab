//! `did …`

use clap::{ArgGroup, Args, Subcommand};

use super::announce::{AnnounceArgs, RegisterVia};
use super::keeping::{SidecarArgs, VerifyArgs};
use super::publish::PublishArgs;
use super::resolve::{ConformArgs, ResolveArgs};
use super::update::{UpdateArgs, WithdrawArgs};
use crate::agent::control::request::{CohortRef, DidRef};
use crate::agent::control::views::FeeRate;
use crate::network::Network;

/// Commands on DIDs.
#[derive(Debug, Subcommand)]
pub enum DidCommand {
    /// Create a DID, bound to a cohort's beacon or alone
    Create(CreateArgs),
    /// Register a DID (or one still to be created) with a cohort
    Register(RegisterArgs),
    /// Sign an update and queue it for a cohort's next round, or announce it singly
    Update(Box<UpdateArgs>),
    /// Show every update of a DID, and where each is
    #[command(after_help = "Example:\n  btcr2-agent did updates did:btcr2:x1…")]
    Updates(ShowDidArgs),
    /// Take back an update that is not in a round yet
    Withdraw(WithdrawArgs),
    /// List the DIDs under this agent's control
    #[command(after_help = "Example:\n  btcr2-agent did list")]
    List,
    /// Announce the signed update of a DID by a transaction of its own
    Announce(AnnounceArgs),
    /// Show one DID: document, version, pending update, coverage
    Show(ShowDidArgs),
    /// Export what a resolver needs: genesis document, updates, announcements, proofs
    Sidecar(SidecarArgs),
    /// Compare what is stored with the chain, and resolve with it; fetch what is missing
    Verify(VerifyArgs),
    /// Publish artifacts of a DID to IPFS
    Publish(PublishArgs),
    /// Resolve any DID; needs no daemon
    Resolve(ResolveArgs),
    /// Run sets of the upstream test suite; needs no daemon and no network
    Conform(ConformArgs),
}

/// Arguments of `did create`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent did create                       a k1 DID, from a key alone\n  \
    btcr2-agent did create --x1                  an x1 DID with a key of its own for its beacons\n  \
    btcr2-agent did create --cohort 3f9a0c12     an x1 DID whose genesis document lists the cohort's beacon")]
pub struct CreateArgs {
    /// Bind it to this cohort: registered first, created when its history is covered
    #[arg(long, value_name = "ID")]
    pub cohort: Option<CohortRef>,
    /// Network [default: the cohort's, or the configured one]
    #[arg(long, conflicts_with = "cohort")]
    pub network: Option<Network>,
    /// Without a cohort: from a genesis document, with another key for its singleton beacons than for updates
    #[arg(long, conflicts_with = "cohort")]
    pub x1: bool,
}

/// Arguments of `did register`.
#[derive(Debug, Clone, Args)]
#[command(
    group = ArgGroup::new("what").required(true).args(["did", "new"]),
    after_help = "Examples:\n  \
        btcr2-agent did register did:btcr2:k1… --cohort 3f9a0c12\n  \
        btcr2-agent did register --new --cohort 3f9a0c12\n  \
        btcr2-agent did register did:btcr2:k1… --cohort 3f9a0c12 --via singleton\n\n\
        With --via singleton the cohort's beacon is added to the document as well, by an update that the DID\n\
        announces and pays itself. Called again, it goes on where it stands."
)]
pub struct RegisterArgs {
    /// The DID
    pub did: Option<DidRef>,
    /// Register the index of a DID that is still to be created
    #[arg(long)]
    pub new: bool,
    /// The cohort whose beacon shall cover it
    #[arg(long, value_name = "ID", required = true)]
    pub cohort: CohortRef,
    /// Also add the beacon to the document, by an update announced this way
    #[arg(long, value_name = "WAY", conflicts_with = "new")]
    pub via: Option<RegisterVia>,
    /// The singleton beacon that announces it, by its service id [default: the first that can pay]
    #[arg(long, value_name = "ID", requires = "via")]
    pub service: Option<String>,
    /// Fee rate in sat/vB [default: the chain's estimate, within participant.max_fee_rate]
    #[arg(long, value_name = "RATE", requires = "via")]
    pub fee_rate: Option<FeeRate>,
    /// Do not ask before paying
    #[arg(long, short, requires = "via")]
    pub yes: bool,
}

/// Arguments of `did show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  btcr2-agent did show did:btcr2:x1… --json")]
pub struct ShowDidArgs {
    /// The DID
    pub did: DidRef,
}
