//! `cohort recover`

use clap::Args;

use crate::agent::control::request::CohortRef;

/// Arguments of `cohort recover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort recover 3f9a0c12 --look   what there is to recover, and in how many blocks\n  \
    btcr2-agent cohort recover 3f9a0c12          send the refunds whose lock is over\n\n\
    A refund pays who funds (see `cohort show`) and spends the beacon's output: rounds need new funds after it.")]
pub struct RecoverFundsArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// Send nothing, only say what there is and when
    #[arg(long)]
    pub look: bool,
    /// Send without asking
    #[arg(long, short)]
    pub yes: bool,
}
