//! `cohort applicants`, `approve`, `reject`, `code …`

use clap::{Args, Subcommand};

use super::values::seconds;
use crate::agent::control::request::{CohortRef, KeyRef};
use crate::agent::control::views::FeeRate;

/// Arguments of `cohort approve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  btcr2-agent cohort approve 3f9a0c12 npub1…\n\n\
    A key that has not asked yet gets its seat when it does, however many others wait."
)]
pub struct ApproveArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// Who asks, or may (npub, nprofile or hex)
    #[arg(value_name = "KEY")]
    pub key: KeyRef,
}

/// Arguments of `cohort reject`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  btcr2-agent cohort reject 3f9a0c12 npub1… --reason \"not one of ours\"\n\n\
    A key that has a seat loses it, while the seats are open."
)]
pub struct RejectArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// Who asks, or has a seat (npub, nprofile or hex)
    #[arg(value_name = "KEY")]
    pub key: KeyRef,
    /// Words for it, at most 200 characters
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Commands on invite codes.
#[derive(Debug, Subcommand)]
pub enum CodeCommand {
    /// Make an invite code and show it, once
    New(NewCodeArgs),
    /// List the codes of a cohort, and who entered with them
    #[command(after_help = "Example:\n  btcr2-agent cohort code list 3f9a0c12")]
    List(super::OneCohortArgs),
}

/// Arguments of `cohort code new`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  btcr2-agent cohort code new 3f9a0c12 --uses 5\n\n\
    Only the code's public key is kept: note the code down, or make another one."
)]
pub struct NewCodeArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// How many seats it is good for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub uses: u16,
}

/// Arguments of `cohort reform`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  btcr2-agent cohort reform 3f9a0c12 --without 2 --reason \"away since May\"\n\n\
    The new cohort has the same terms, with a seat for each of the others. They get the offer on the old channel, with \
    what is known of who is left out, and join with `btcr2-agent cohort join`. The old cohort stays as it is: cancel it \
    when the DIDs have moved."
)]
pub struct ReformArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// The seats to go on without, as `cohort show` numbers them
    #[arg(long, required = true, value_name = "SEAT,SEAT", value_delimiter = ',')]
    pub without: Vec<u16>,
    /// Words for the members, at most 200 characters
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Let the others join for this long from now, such as 3d
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    pub opt_in_deadline: Option<u64>,
    /// Do it without asking
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `cohort migrate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort migrate 77aa10b2 --plan     what would be done, and what it costs\n  \
    btcr2-agent cohort migrate 77aa10b2            show that, ask, and do it\n\n\
    Each DID gets one update, which adds the new cohort's beacon and removes the old one's. The DID's own beacon \
    announces it. Give the command again to go on where it stands.")]
pub struct MigrateArgs {
    /// The new cohort: its id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// Only say what would be done, and what it costs
    #[arg(long)]
    pub plan: bool,
    /// At which fee rate, in sat/vB [default: the chain backend's estimate]
    #[arg(long, value_name = "SAT/VB")]
    pub fee_rate: Option<FeeRate>,
    /// Do it without asking
    #[arg(long, short, conflicts_with = "plan")]
    pub yes: bool,
}
