//! What goes wrong on the way to a running agent, as one line with a remedy.

use crate::agent::backup::BackupError;
use crate::agent::bundle::BundleError;
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::error::AgentError;
use crate::config::{ConfigError, Home, HomeError, RelayError};
use crate::keys::keystore::KeystoreError;
use crate::store::StoreError;

/// A failure of the home directory.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn home_failure(error: HomeError) -> Failure {
    let code = match &error {
        HomeError::Locked { .. } => ErrorCode::AlreadyRunning,
        HomeError::Missing { .. } => ErrorCode::NotInitialized,
        _ => ErrorCode::Io,
    };
    split(code, &error.to_string())
}

/// A failure of the settings.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn config_failure(error: ConfigError) -> Failure {
    Failure::new(ErrorCode::BadConfig, error.to_string())
        .remedy("correct the setting; the comments in config.toml say what is allowed")
}

/// A failure of relays.toml.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn relay_failure(error: RelayError) -> Failure {
    Failure::new(ErrorCode::BadConfig, error.to_string()).remedy("correct relays.toml")
}

/// A failure of the store.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn store_failure(error: StoreError) -> Failure {
    split(ErrorCode::StoreFailed, &error.to_string())
}

/// A failure of the bundle.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn bundle_failure(error: BundleError) -> Failure {
    let text = error.to_string();
    let code = match error {
        BundleError::Store(error) => return store_failure(error),
        BundleError::Io { .. } => ErrorCode::Io,
        BundleError::WrongWords => ErrorCode::WrongPassphrase,
        _ => ErrorCode::BadBundle,
    };
    split(code, &text)
}

/// A failure of a backup.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn backup_failure(error: BackupError) -> Failure {
    let text = error.to_string();
    let code = match error {
        BackupError::Store(error) => return store_failure(error),
        BackupError::Home(error) => return home_failure(error),
        BackupError::Io { .. } | BackupError::Occupied { .. } => ErrorCode::Io,
        _ => ErrorCode::BadBundle,
    };
    split(code, &text)
}

/// A failure of the keystore.
#[must_use]
pub fn keystore_failure(home: &Home, error: &KeystoreError) -> Failure {
    let file = home.keystore_path();
    let file = file.display();
    match error {
        KeystoreError::WrongPassphrase => Failure::new(
            ErrorCode::WrongPassphrase,
            "wrong passphrase, or the keystore file was altered",
        )
        .remedy("try again; with the recovery words a new home can be made: `btcr2-agent init --import-words`"),
        KeystoreError::NeedsPassphrase => Failure::new(
            ErrorCode::PassphraseNeeded,
            format!("{file} is encrypted"),
        )
        .remedy("give --passphrase-file FILE"),
        other => Failure::new(ErrorCode::Io, format!("{file}: {other}")),
    }
}

/// A failure of the runtime.
#[must_use]
#[allow(clippy::needless_pass_by_value)] // for map_err
pub fn agent_failure(error: AgentError) -> Failure {
    let text = error.to_string();
    let code = match error {
        AgentError::Store(error) => return store_failure(error),
        AgentError::Bundle(error) => return bundle_failure(error),
        AgentError::Money(_) => ErrorCode::RefusedByMoneyGate,
        AgentError::Log { .. }
        | AgentError::NewerSnapshot { .. }
        | AgentError::NoSnapshot(_)
        | AgentError::Broken(_) => ErrorCode::StoreFailed,
        AgentError::UnknownCohort(_) | AgentError::UnknownDid(_) | AgentError::UnknownRelay(_) => {
            ErrorCode::NotFound
        }
        AgentError::Refused(_) => ErrorCode::WrongPhase,
        AgentError::Did { .. } => ErrorCode::InvalidValue,
        AgentError::Spend(crate::beacon::singleton::SpendError::Insufficient { .. }) => {
            return Failure::new(ErrorCode::InsufficientFunds, text).remedy(
                "`btcr2-agent did announce … --dry-run` shows what to pay, with a QR code",
            );
        }
        AgentError::Spend(crate::beacon::singleton::SpendError::OverLimit { .. }) => {
            ErrorCode::RefusedByPolicy
        }
        AgentError::Spend(_) => ErrorCode::InvalidValue,
        AgentError::NoChain(_) | AgentError::Lookup(_) | AgentError::Chain(_) => {
            ErrorCode::ChainUnreachable
        }
        AgentError::Unresolvable { .. } => ErrorCode::NotResolved,
        AgentError::AnotherCopy(_) => {
            return Failure::new(ErrorCode::AnotherCopy, text).remedy(
                "stop one of the two for good; to go on with this home: `btcr2-agent takeover`",
            );
        }
        AgentError::Stopped => {
            return Failure::new(ErrorCode::NotRunning, text)
                .remedy("look at its log, and start it with `btcr2-agent run`");
        }
        AgentError::Send(_) | AgentError::Defect(_) => ErrorCode::Internal,
    };
    split(code, &text)
}

/// Errors of the lower layers are one sentence, a colon or semicolon, and the remedy.
fn split(code: ErrorCode, text: &str) -> Failure {
    match text.split_once("; ").or_else(|| text.rsplit_once(": ")) {
        Some((message, remedy)) if is_advice(remedy) => Failure::new(code, message).remedy(remedy),
        _ => Failure::new(code, text),
    }
}

/// Whether a clause tells what to do.
fn is_advice(clause: &str) -> bool {
    const VERBS: [&str; 14] = [
        "check",
        "choose",
        "close",
        "free",
        "give",
        "make",
        "one agent per home",
        "put",
        "remove",
        "run",
        "set",
        "stop",
        "use",
        "one",
    ];
    VERBS.iter().any(|verb| {
        clause
            .strip_prefix(verb)
            .is_some_and(|rest| rest.starts_with([' ', ';', ':']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_of_lower_layers_become_hints() {
        let failure = split(
            ErrorCode::StoreFailed,
            "the store has schema version 9, and this program knows versions up to 1: use the newer btcr2-agent that wrote it",
        );
        assert_eq!(
            failure.remedy.as_deref(),
            Some("use the newer btcr2-agent that wrote it")
        );
        let failure = split(ErrorCode::Io, "cannot read /x: permission denied");
        assert_eq!(failure.message, "cannot read /x: permission denied");
        assert_eq!(failure.remedy, None);
    }
}
