//! `psbt …`, `cohort psbt`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::agent::control::request::CohortRef;

/// Commands on PSBTs.
#[derive(Debug, Subcommand)]
pub enum PsbtCommand {
    /// Say what a PSBT does, and check what it says of keys, nonces and signatures; nothing is signed
    Inspect(InspectPsbtArgs),
}

/// Arguments of `psbt inspect`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent psbt inspect signal.psbt\n  \
    btcr2-agent cohort psbt 3f9a0c12 --json | jq -r '.result.psbts[0].psbt' | btcr2-agent psbt inspect -\n\n\
    Versions 0 (BIP-174) and 2 (BIP-370) are read, as bytes or as base64. By itself a PSBT shows its transaction, \
    whether its keys add up to what it spends, and whether its signatures verify; with a running agent also which \
    cohort, round and rung it is of, and whether it is byte for byte the one that was signed here. What can not be so \
    ends with exit status 1.")]
pub struct InspectPsbtArgs {
    /// The file; `-` reads it from stdin
    #[arg(value_name = "FILE|-")]
    pub file: PathBuf,
}

/// Arguments of `cohort psbt`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent cohort psbt 3f9a0c12 --json\n  \
    btcr2-agent cohort psbt 3f9a0c12 --v2    for tools that read version 2 of the format (BIP-370)")]
pub struct CohortPsbtArgs {
    /// Cohort id, or the first four or more digits of it
    pub cohort: CohortRef,
    /// In version 2 of the format (BIP-370) instead of version 0 (BIP-174)
    #[arg(long)]
    pub v2: bool,
}
