//! `cohort applicants`, `approve`, `reject`, `code …`

use clap::{Args, Subcommand};

use crate::agent::control::request::{CohortRef, KeyRef};

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
