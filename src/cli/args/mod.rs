//! The command line: what can be typed, and what it means.
//!
//! Values are parsed here, once; a wrong one is a usage error (exit status 2) before anything runs.

mod admission;
mod announce;
mod backup;
mod cohort;
mod did;
mod keeping;
mod keys;
mod local;
mod money;
mod psbt;
mod publish;
mod refund;
mod relay;
mod resolve;
mod serve;
mod update;
pub mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use admission::{ApproveArgs, CodeCommand, MigrateArgs, NewCodeArgs, ReformArgs, RejectArgs};
pub use announce::{AnnounceArgs, RegisterVia};
pub use backup::{DoctorArgs, HomeBackupArgs, RestoreArgs, TakeoverArgs};
pub use cohort::{
    AdvertiseArgs, CohortCommand, DiscoverArgs, EndArgs, FundArgs, InviteArgs, JoinArgs, LeaveArgs,
    ListArgs, OneCohortArgs, ShowArgs,
};
pub use did::{CreateArgs, DidCommand, RegisterArgs, ShowDidArgs};
pub use keeping::{BackupArgs, RecoverArgs, SidecarArgs, VerifyArgs};
pub use keys::{ExportArgs, ExportForm, InitArgs, KeyCommand, PassphraseArgs};
pub use local::{ChainArgs, DemoArgs, DevCommand, DevRelayArgs, MineArgs, PayArgs, RunArgs};
pub use money::{DecodeArgs, MoneyCommand, StopMoneyArgs, TxCommand};
pub use psbt::{CohortPsbtArgs, InspectPsbtArgs, PsbtCommand};
pub use publish::PublishArgs;
pub use refund::RecoverFundsArgs;
pub use relay::{AddArgs, FollowArgs, ProbeArgs, RelayCommand, RemoveArgs, UnfollowArgs};
pub use resolve::{ChainArg, ConformArgs, ResolveArgs};
pub use serve::{NetworkChain, ResolverCommand, ServeArgs};
pub use update::{UpdateArgs, ViaArg, WithdrawArgs};

/// Update aggregation for did:btcr2 over Nostr.
#[derive(Debug, Parser)]
#[command(
    name = "btcr2-agent",
    version,
    about = "Aggregates did:btcr2 updates on Bitcoin over Nostr: aggregator and participant in one",
    long_about = "Aggregates did:btcr2 updates on Bitcoin over Nostr.\n\n\
        As an aggregator it advertises cohorts, collects their members' updates and announces them in \
        one Bitcoin transaction. As a participant it finds cohorts, joins them, creates and updates \
        DIDs, checks every signal and co-signs it (MuSig2, all members).",
    after_help = "Examples:\n  \
        btcr2-agent demo                      watch three members announce twice, on a chain of its own\n  \
        btcr2-agent init                      make a key and a home directory\n  \
        btcr2-agent run                       run the daemon; the commands below talk to it\n  \
        btcr2-agent cohort discover           look for cohorts on the configured relays\n\n\
        Exit status:\n  \
        0  done\n  \
        1  refused or failed; one line on stderr says why (with --json: an object on stdout)\n  \
        2  usage: the command line is wrong\n\n\
        Files: `btcr2-agent status` names the home directory; --home or BTCR2_AGENT_HOME choose another.",
    subcommand_required = true,
    arg_required_else_help = true,
    propagate_version = true
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes, before or after its name.
#[derive(Debug, Clone, Args)]
pub struct GlobalArgs {
    /// Print JSON: one object, or one per event, on stdout and nothing else
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,

    /// Home directory: keys, database, configuration, control socket
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "BTCR2_AGENT_HOME",
        help_heading = "Global options"
    )]
    pub home: Option<PathBuf>,

    /// Log more to stderr; twice for details. RUST_LOG, when set, decides instead
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the agent's key and home directory
    Init(InitArgs),
    /// Make a home again on a new machine: out of the recovery words and the bundle
    Recover(RecoverArgs),
    /// Copy the home while the agent runs: store, keystore and settings, as of one moment
    Backup(HomeBackupArgs),
    /// Make a home of a backup
    Restore(RestoreArgs),
    /// Go on with this home after another copy of the agent was seen at work
    Takeover(TakeoverArgs),
    /// Look whether everything the agent needs is in order, and say what to do
    Doctor(DoctorArgs),
    /// Run the daemon: aggregator and participant at once
    Run(RunArgs),
    /// Show a whole cohort at work: relay, chain, aggregator and members, all in this process
    Demo(DemoArgs),
    /// Cohorts: advertise, find, join, fund, watch
    #[command(subcommand, after_help = "Example:\n  btcr2-agent cohort list")]
    Cohort(CohortCommand),
    /// DIDs: create, register with a cohort, update
    #[command(subcommand, after_help = "Example:\n  btcr2-agent did list")]
    Did(DidCommand),
    /// Money: stop it, show what may be done with it
    #[command(subcommand, after_help = "Example:\n  btcr2-agent money status")]
    Money(MoneyCommand),
    /// Transactions: explain one
    #[command(
        subcommand,
        after_help = "Example:\n  btcr2-agent tx decode 4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    )]
    Tx(TxCommand),
    /// Partially signed transactions (PSBT): look at one
    #[command(
        subcommand,
        after_help = "Example:\n  btcr2-agent psbt inspect signal.psbt"
    )]
    Psbt(PsbtCommand),
    /// The agent's key
    #[command(subcommand, after_help = "Example:\n  btcr2-agent key show")]
    Key(KeyCommand),
    /// Relays: list, change, try
    #[command(subcommand, after_help = "Example:\n  btcr2-agent relay probe")]
    Relay(RelayCommand),
    /// Follow an aggregator: hear of its new cohorts, and join those the policy allows
    Follow(FollowArgs),
    /// Stop following an aggregator
    Unfollow(UnfollowArgs),
    /// List the aggregators this agent follows
    #[command(after_help = "Example:\n  btcr2-agent followed --json")]
    Followed,
    /// List who told this aggregator that they follow it
    #[command(after_help = "Example:\n  btcr2-agent subscribers")]
    Subscribers,
    /// Show the daemon's state: relays, chain, cohorts, delivery of every message, alarms
    Status(StatusArgs),
    /// Resolve DIDs for others
    #[command(
        subcommand,
        after_help = "Example:\n  btcr2-agent resolver serve --listen 127.0.0.1:8080"
    )]
    Resolver(ResolverCommand),
    /// For local work: a relay and a chain on this machine
    #[command(
        subcommand,
        after_help = "Example:\n  btcr2-agent dev relay --port 7777"
    )]
    Dev(DevCommand),
    /// Print a shell completion script
    #[command(
        after_help = "Example:\n  btcr2-agent completions bash > ~/.local/share/bash-completion/completions/btcr2-agent"
    )]
    Completions(CompletionsArgs),
}

/// Arguments of `status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  btcr2-agent status\n  btcr2-agent status --follow --json")]
pub struct StatusArgs {
    /// Then print events as they happen, until interrupted
    #[arg(long, short)]
    pub follow: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
