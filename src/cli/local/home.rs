//! `init` and `key …`: the home directory and what is in it at first.

use std::path::Path;

use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};

use super::{ImportedRoot, InitPlan, KeystoreState};
use crate::agent::control::views::{InitView, KeyOrigin, KeyView};
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::launch;
use crate::cli::args::ExportForm;
use crate::cli::secret::Secret;
use crate::config::{Config, Home, write_private};
use crate::keys::keystore::{self, DEFAULT_LOG_N};
use crate::keys::{NostrKey, RootSecret};
use crate::network::Network;

/// The line of the default settings that names the network.
const NETWORK_LINE: &str = "#network = \"signet\"";

/// The public part of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    identity: NostrKey,
    origin: KeyOrigin,
}

impl Identity {
    pub(super) const fn of(identity: NostrKey, origin: KeyOrigin) -> Self {
        Self { identity, origin }
    }
}

/// Looks whether there is a keystore, without opening it.
pub fn keystore_state(home: &Path) -> Result<KeystoreState, Failure> {
    let home = launch::home(home)?;
    let Some(text) = launch::read_keystore(&home)? else {
        return Ok(KeystoreState::Absent);
    };
    let encrypted =
        keystore::is_encrypted(&text).map_err(|error| launch::keystore_failure(&home, &error))?;
    Ok(if encrypted {
        KeystoreState::Encrypted
    } else {
        KeystoreState::Plain
    })
}

/// Makes home directory (0700), keystore (0600) and configuration. Returns the recovery words of a
/// generated root, to be shown once. Refuses with `already_initialized` rather than overwrite.
///
/// The keystore is written last: while there is none, an interrupted `init` can be repeated.
pub fn init(plan: InitPlan) -> Result<(InitView, Option<Secret>), Failure> {
    let home = launch::home(&plan.home)?;
    home.create().map_err(launch::home_failure)?;
    let lock = home.lock().map_err(launch::home_failure)?;
    if launch::read_keystore(&home)?.is_some() {
        return Err(Failure::new(
            ErrorCode::AlreadyInitialized,
            format!("{} has a keystore already", home.root().display()),
        )
        .remedy("use another --home"));
    }
    let root_failure = |error: crate::keys::root::RootError| {
        Failure::new(ErrorCode::InvalidValue, error.to_string())
    };
    let (root, origin) = match &plan.import {
        None => (RootSecret::generate(&mut OsRng), KeyOrigin::Generated),
        Some(ImportedRoot::Words(words)) => (
            RootSecret::from_words(words.reveal()).map_err(root_failure)?,
            KeyOrigin::Words,
        ),
        Some(ImportedRoot::Nsec(nsec)) => (
            RootSecret::from_nsec(nsec.reveal().trim()).map_err(root_failure)?,
            KeyOrigin::Nsec,
        ),
    };
    let passphrase = plan.passphrase.as_ref().map(Secret::reveal);
    let sealed = keystore::seal(&root, passphrase, DEFAULT_LOG_N, &mut OsRng)
        .map_err(|error| launch::keystore_failure(&home, &error))?;
    let config = write_config(&home, plan.network)?;
    launch::open_store(&home, &config)?;
    let identity = Identity {
        identity: root.identity().public(),
        origin,
    };
    write_identity(&home, identity)?;
    write_private(&home.keystore_path(), sealed.as_bytes()).map_err(launch::home_failure)?;
    drop(lock);
    let words = match origin {
        KeyOrigin::Generated => root
            .words()
            .map(|words| Secret::from(words.expose().to_owned())),
        KeyOrigin::Words | KeyOrigin::Nsec => None,
    };
    let view = InitView {
        home: home.root().display().to_string(),
        identity: identity.identity,
        network: config.network,
        encrypted: plan.passphrase.is_some(),
        origin,
    };
    Ok((view, words))
}

/// Writes the settings, unless there are some already: those are the user's.
pub(super) fn write_config(home: &Home, network: Option<Network>) -> Result<Config, Failure> {
    let path = home.config_path();
    if !path.exists() {
        let text = Config::default_toml();
        let text = match network {
            Some(network) => text.replacen(NETWORK_LINE, &format!("network = \"{network}\""), 1),
            None => text.to_owned(),
        };
        write_private(&path, text.as_bytes()).map_err(launch::home_failure)?;
    }
    let config = launch::load_config(home)?;
    match network {
        Some(network) if network != config.network => Err(Failure::new(
            ErrorCode::BadConfig,
            format!(
                "{} is there already, and its network is {}, not {network}",
                path.display(),
                config.network
            ),
        )
        .remedy("change it there, or leave --network out")),
        _ => Ok(config),
    }
}

pub(super) fn write_identity(home: &Home, identity: Identity) -> Result<(), Failure> {
    let mut json = serde_json::to_string(&identity)
        .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    json.push('\n');
    write_private(&home.identity_path(), json.as_bytes()).map_err(launch::home_failure)
}

/// Writes the public part of the key where a restored home lacks it.
pub(super) fn keep_identity(home: &Home, identity: NostrKey, words: bool) -> Result<(), Failure> {
    let known = read_identity(home);
    if known.is_some_and(|known| known.identity == identity) {
        return Ok(());
    }
    let origin = if words {
        KeyOrigin::Words
    } else {
        KeyOrigin::Nsec
    };
    write_identity(home, Identity { identity, origin })
}

fn read_identity(home: &Home) -> Option<Identity> {
    let text = std::fs::read_to_string(home.identity_path()).ok()?;
    serde_json::from_str(&text).ok()
}

/// The public part of the key. Needs no passphrase.
pub fn key_show(home: &Path) -> Result<KeyView, Failure> {
    let home = launch::home(home)?;
    let text = launch::read_keystore(&home)?.ok_or_else(|| launch::no_keystore(&home))?;
    let failed = |error| launch::keystore_failure(&home, &error);
    let encrypted = keystore::is_encrypted(&text).map_err(failed)?;
    let identity = match (read_identity(&home), encrypted) {
        (Some(identity), _) => identity,
        (None, false) => {
            let root = keystore::open(&text, None).map_err(failed)?;
            Identity {
                identity: root.identity().public(),
                origin: if root.words().is_some() {
                    KeyOrigin::Words
                } else {
                    KeyOrigin::Nsec
                },
            }
        }
        (None, true) => {
            return Err(Failure::new(
                ErrorCode::NotFound,
                format!("{} is missing", home.identity_path().display()),
            )
            .remedy("`btcr2-agent run` writes it again"));
        }
    };
    Ok(KeyView {
        identity: identity.identity,
        encrypted,
        origin: identity.origin,
        file: home.keystore_path().display().to_string(),
    })
}

/// The secret in this form. `ncryptsec` is encrypted with the keystore's passphrase and refused for
/// a keystore without one.
pub fn key_export(
    home: &Path,
    form: ExportForm,
    passphrase: Option<Secret>,
) -> Result<Secret, Failure> {
    let home = launch::home(home)?;
    let text = launch::read_keystore(&home)?.ok_or_else(|| launch::no_keystore(&home))?;
    let failed = |error| launch::keystore_failure(&home, &error);
    let passphrase = passphrase.as_ref().map(Secret::reveal);
    let root = keystore::open(&text, passphrase).map_err(failed)?;
    match (form, passphrase) {
        (ExportForm::Nsec, _) => Ok(Secret::from(root.nsec().expose().to_owned())),
        (ExportForm::Words, _) => root
            .words()
            .map(|words| Secret::from(words.expose().to_owned()))
            .ok_or_else(|| {
                Failure::new(
                    ErrorCode::NotFound,
                    "there are no recovery words: the key was imported as nsec",
                )
                .remedy("export it with --form nsec or --form ncryptsec")
            }),
        (ExportForm::Ncryptsec, Some(passphrase)) => {
            keystore::ncryptsec(&root, passphrase, DEFAULT_LOG_N, &mut OsRng)
                .map(Secret::from)
                .map_err(failed)
        }
        (ExportForm::Ncryptsec, None) => Err(Failure::new(
            ErrorCode::PassphraseNeeded,
            "the keystore has no passphrase to encrypt the key with",
        )
        .remedy("export it in clear with --form nsec")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_settings_have_the_line_that_init_changes() {
        let text = Config::default_toml();
        assert_eq!(text.matches(NETWORK_LINE).count(), 1);
    }
}
