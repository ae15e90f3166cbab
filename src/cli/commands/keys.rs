//! `init` and `key …`

use std::io::{self, IsTerminal as _};

use serde::Serialize;

use super::Context;
use crate::agent::control::{ErrorCode, Failure};
use crate::cli::args::{ExportArgs, InitArgs, KeyCommand, PassphraseArgs};
use crate::cli::ask::{confirm, imported, new_passphrase, passphrase, show_words};
use crate::cli::error::CliError;
use crate::cli::local::{self, ImportedRoot, InitPlan, KeystoreState};
use crate::cli::render::{Page, Render};
use crate::cli::secret::Secret;

impl Context {
    pub(super) fn init(&self, args: InitArgs) -> Result<(), CliError> {
        // Before anything is asked.
        if local::keystore_state(&self.home)? != KeystoreState::Absent {
            return Err(Failure::new(
                ErrorCode::AlreadyInitialized,
                format!("{} has a keystore already", self.home.display()),
            )
            .remedy("use another --home; `btcr2-agent key show` shows the key that is there")
            .into());
        }
        let import = if args.import_nsec {
            Some(ImportedRoot::Nsec(imported(None, "nsec")?))
        } else if let Some(file) = &args.import_words {
            Some(ImportedRoot::Words(imported(Some(file), "recovery words")?))
        } else {
            None
        };
        let plan = InitPlan {
            home: self.home.clone(),
            network: args.network,
            passphrase: new_passphrase(&args.passphrase, args.no_passphrase)?,
            import,
        };
        let (view, words) = local::init(plan)?;
        if let Some(words) = words
            && !show_words(&words)?
        {
            tracing::warn!(
                "there is no terminal to show the recovery words on: \
                 `btcr2-agent key export --form words` prints them"
            );
        }
        self.out.view(&view)
    }

    pub(super) async fn key(&self, command: KeyCommand) -> Result<(), CliError> {
        match command {
            KeyCommand::Backup(args) => self.backup(args).await,
            KeyCommand::Show => self.out.view(&local::key_show(&self.home)?),
            KeyCommand::Export(args) => self.export(&args),
        }
    }

    fn export(&self, args: &ExportArgs) -> Result<(), CliError> {
        let unlock = self.unlock(&args.passphrase)?;
        if args.form.is_clear() && !args.yes {
            let place = if io::stdout().is_terminal() {
                "on this screen"
            } else {
                "where stdout goes"
            };
            confirm(
                &format!("Whoever sees the secret is this agent. Print it {place}?"),
                "--yes",
                "not exported",
            )?;
        }
        let secret = local::key_export(&self.home, args.form, unlock)?;
        self.out.view(&ExportedKey {
            form: args.form.name(),
            secret: &secret,
        })
    }

    /// The passphrase, if the keystore has one.
    pub(super) fn unlock(&self, args: &PassphraseArgs) -> Result<Option<Secret>, Failure> {
        match local::keystore_state(&self.home)? {
            KeystoreState::Encrypted => passphrase(args).map(Some),
            KeystoreState::Plain => Ok(None),
            KeystoreState::Absent => Err(Failure::new(
                ErrorCode::NotInitialized,
                format!("there is no key in {}", self.home.display()),
            )
            .remedy("make one with `btcr2-agent init`")),
        }
    }
}

/// The only thing printed that holds a secret, because the user asked for exactly that.
#[derive(Serialize)]
struct ExportedKey<'a> {
    form: &'static str,
    #[serde(serialize_with = "reveal")]
    secret: &'a Secret,
}

fn reveal<S: serde::Serializer>(secret: &&Secret, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(secret.reveal())
}

impl Render for ExportedKey<'_> {
    fn render(&self, page: &mut Page) {
        page.verbatim(self.secret.reveal());
    }
}
