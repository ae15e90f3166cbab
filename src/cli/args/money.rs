//! `money …` and `tx …`

use clap::{Args, Subcommand};

use crate::agent::control::request::{StopReason, TxRef};

/// Commands on money.
#[derive(Debug, Subcommand)]
pub enum MoneyCommand {
    /// Stop spending and asking for funds, at once and across restarts
    Stop(StopMoneyArgs),
    /// Show whether money may move, on which networks, and how much
    #[command(after_help = "Example:\n  btcr2-agent money status --json")]
    Status,
}

/// Arguments of `money stop`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent money stop\n  \
    btcr2-agent money stop --reason \"a laptop was stolen\"\n\n\
    It writes the file money.stop into the home. An agent that runs signs and sends nothing from then on, and one that \
    is started neither, for as long as the file is there. No command undoes it: remove the file by hand and start the \
    agent again. What is in the mempool already can not be called back.")]
pub struct StopMoneyArgs {
    /// Why, for whoever finds it stopped
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<StopReason>,
}

/// Commands on transactions.
#[derive(Debug, Subcommand)]
pub enum TxCommand {
    /// Explain a transaction: which cohort and round, what it commits to, what it costs
    Decode(DecodeArgs),
}

/// Arguments of `tx decode`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent tx decode 4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b\n  \
    btcr2-agent tx decode 0200000001…\n\n\
    By its id a transaction is found that the running agent signed, keeps, or sees at one of its beacons; any other one \
    is explained when it is given whole, also when no agent runs: then by its form alone.")]
pub struct DecodeArgs {
    /// The transaction in hex, or its id
    #[arg(value_name = "HEX|TXID")]
    pub tx: TxRef,
}
