//! `backup`, `restore`, `takeover` and `doctor`

use std::path::PathBuf;

use clap::Args;

/// Arguments of `backup`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent backup /media/usb/agent-2026-11-21      a directory that must not exist\n  \
        btcr2-agent backup \"$HOME/backups/$(date +%F)\" --json\n\n\
        Works while the agent runs, and asks for no passphrase. The directory holds a consistent copy of the store, \
        the keystore as it is, and the settings. Whoever has it and the passphrase has the agent: an unencrypted \
        keystore needs none. `btcr2-agent restore` makes a home of it.")]
pub struct HomeBackupArgs {
    /// The directory to make
    #[arg(value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `restore`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  \
        btcr2-agent restore /media/usb/agent-2026-11-21 --home ~/agent\n\n\
        The home must have neither keystore nor store. Stop the agent the backup was made of before, for good: when \
        both run, the one that was not restored stops by itself as soon as it sees the other on a relay.\n\
        Open rounds are left, numbers begin anew, and nothing that was signed before can be signed again with the \
        same nonce: nonces are in no file.")]
pub struct RestoreArgs {
    /// The backup: a directory made by `btcr2-agent backup`
    #[arg(value_name = "DIR")]
    pub from: PathBuf,
}

/// Arguments of `takeover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  \
        btcr2-agent takeover\n\n\
        For a home whose agent stopped because another copy of it was at work, and for a machine that was set back to \
        a snapshot. The other copy must be stopped for good. The store gets a higher incarnation, and open rounds are \
        left.")]
pub struct TakeoverArgs {
    /// The other copy is stopped: do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        btcr2-agent doctor\n  \
        btcr2-agent doctor --offline               home, keys and store only\n  \
        btcr2-agent doctor --json | jq '.result.checks[] | select(.state != \"ok\")'\n\n\
        Looks at home, settings, keys, store, backup, versions, clock, relays, chain, and at what resolution of this \
        agent's DIDs needs; says what to do. Changes nothing. The exit status is 1 if something failed; warnings do \
        not count.")]
pub struct DoctorArgs {
    /// Ask neither relays nor chain
    #[arg(long)]
    pub offline: bool,
}
