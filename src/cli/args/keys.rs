//! `init` and `key …`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::network::Network;

/// Where the passphrase of the keystore comes from; asked for on the terminal otherwise.
#[derive(Debug, Clone, Default, Args)]
pub struct PassphraseArgs {
    /// Read the keystore's passphrase from the first line of a file [env: BTCR2_AGENT_PASSPHRASE_FILE]
    // The variable is read where the passphrase is: an exported one must not conflict with flags.
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// Arguments of `init`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent init                                    asks for a passphrase, shows recovery words once\n  \
    btcr2-agent init --network signet --passphrase-file pass.txt\n  \
    btcr2-agent init --import-words words.txt           restore from recovery words\n  \
    btcr2-agent init --import-nsec < nsec.txt           use an existing Nostr key")]
pub struct InitArgs {
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Protect the keystore with no passphrase (for automation: whoever reads the file has the key)
    #[arg(long, conflicts_with = "passphrase_file")]
    pub no_passphrase: bool,
    /// Use an existing Nostr key: an nsec1… is read from the terminal, or from stdin
    #[arg(long, conflicts_with = "import_words")]
    pub import_nsec: bool,
    /// Restore from recovery words in a file; `-` reads the terminal, or stdin
    #[arg(long, value_name = "FILE")]
    pub import_words: Option<PathBuf>,
    /// Network that new cohorts and DIDs are for, unless a command says otherwise
    #[arg(long)]
    pub network: Option<Network>,
}

/// Commands on the agent's key.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show the public key and how it is stored
    #[command(after_help = "Example:\n  btcr2-agent key show --json")]
    Show,
    /// Bring the encrypted bundle up to date, and copy it
    Backup(super::keeping::BackupArgs),
    /// Print the secret: anyone who has it is this agent
    Export(ExportArgs),
}

/// Arguments of `key export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    btcr2-agent key export --form ncryptsec      the identity key, encrypted with a passphrase (NIP-49)\n  \
    btcr2-agent key export --form words --yes    the recovery words, in clear")]
pub struct ExportArgs {
    /// What to print
    #[arg(long, value_enum, default_value_t)]
    pub form: ExportForm,
    /// Where the passphrase comes from.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Print a secret in clear without asking
    #[arg(long, short)]
    pub yes: bool,
}

/// Form of an exported secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ExportForm {
    /// The identity key, encrypted with the keystore's passphrase (NIP-49)
    #[default]
    Ncryptsec,
    /// The identity key, in clear (NIP-19)
    Nsec,
    /// The recovery words, in clear (BIP-39): identity, seats, DID keys and SMT nonces
    Words,
}

impl ExportForm {
    /// Whether whoever sees the output has the key.
    #[must_use]
    pub const fn is_clear(self) -> bool {
        !matches!(self, Self::Ncryptsec)
    }

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ncryptsec => "ncryptsec",
            Self::Nsec => "nsec",
            Self::Words => "words",
        }
    }
}
