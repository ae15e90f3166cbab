//! `did sidecar`, `did verify`, `key backup` and `recover`

use std::path::Path;

use serde::Serialize;

use super::Context;
use crate::agent::control::request::{Backup, SidecarOf, VerifyDids};
use crate::agent::control::{Backend as _, ErrorCode, Failure};
use crate::agent::launch;
use crate::cli::args::{BackupArgs, RecoverArgs, SidecarArgs, VerifyArgs};
use crate::cli::ask::{imported, new_passphrase};
use crate::cli::backend::{daemon, daemon_if_running};
use crate::cli::error::CliError;
use crate::cli::local::{self, ImportedRoot, RecoverPlan};
use crate::cli::render::missing_line;
use crate::config::write_private;
use crate::did::json::canonicalize;

impl Context {
    pub(super) async fn sidecar(&self, args: SidecarArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let view = daemon.did_sidecar(SidecarOf { did: args.did }).await?;
        let mut bytes = canonicalize(&view.sidecar)
            .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
        bytes.push(b'\n');
        if let Some(out) = &args.out {
            write_private(out, &bytes).map_err(launch::home_failure)?;
        }
        if !self.out.is_json() {
            match &args.out {
                Some(_) => self.out.view(&view)?,
                None => self.out.text(&String::from_utf8_lossy(&bytes))?,
            }
            if args.out.is_none() {
                for missing in &view.missing {
                    tracing::warn!("missing: {}", missing_line(missing));
                }
            }
        }
        if view.complete || args.allow_missing {
            return if self.out.is_json() {
                self.out.view(&view)
            } else {
                Ok(())
            };
        }
        let count = view.missing.len();
        let failure = incomplete(format!(
            "{count} of the things a resolver will ask for {} missing",
            if count == 1 { "is" } else { "are" }
        ))
        .remedy(
            "`btcr2-agent did verify --fetch` asks for them; --allow-missing takes what is there",
        );
        unsuccessful(failure, &view)
    }

    pub(super) async fn verify(&self, args: VerifyArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let verify = VerifyDids {
            did: args.did,
            fetch: args.fetch,
            wait_s: args.wait,
        };
        let view = daemon.did_verify(verify).await?;
        if view.is_healthy() {
            return self.out.view(&view);
        }
        if !self.out.is_json() {
            self.out.view(&view)?;
        }
        let unhealthy = view.dids.iter().filter(|did| !did.is_healthy()).count();
        let failure = incomplete(match unhealthy {
            1 => "one DID is incomplete or at risk".to_owned(),
            some => format!("{some} DIDs are incomplete or at risk"),
        });
        unsuccessful(failure, &view)
    }

    pub(super) async fn backup(&self, args: BackupArgs) -> Result<(), CliError> {
        let out = args.out.as_deref().map(absolute).transpose()?;
        if let Some(daemon) = daemon_if_running(&self.home).await? {
            return self.out.view(&daemon.key_backup(Backup { out }).await?);
        }
        let passphrase = self.unlock(&args.passphrase)?;
        let view = local::key_backup(&self.home, passphrase, out)?;
        self.out.view(&view)
    }

    pub(super) async fn recover(&self, args: RecoverArgs) -> Result<(), CliError> {
        // Before anything is asked.
        local::check_empty(&self.home)?;
        let import = match &args.nsec_file {
            Some(file) => ImportedRoot::Nsec(imported(Some(file), "nsec")?),
            None => {
                let file = args.words_file.as_deref();
                ImportedRoot::Words(imported(file, "recovery words")?)
            }
        };
        let plan = RecoverPlan {
            home: self.home.clone(),
            network: args.network,
            import,
            bundle: args.bundle,
            accept_truncated: args.accept_truncated,
            dids: args.did,
            scan: !args.no_scan,
            chain: args.chain,
            passphrase: new_passphrase(&args.passphrase, args.no_passphrase)?,
        };
        self.out.view(&local::recover(plan).await?)
    }
}

fn incomplete(message: String) -> Failure {
    Failure::new(ErrorCode::Incomplete, message)
}

/// Ends with a result that is a failure; as text it was printed already.
fn unsuccessful<T: Serialize>(failure: Failure, view: &T) -> Result<(), CliError> {
    let result = serde_json::to_value(view)
        .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
    Err(CliError::Unsuccessful { failure, result })
}

/// The daemon has another working directory.
fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        let message = format!("{} can not be found: {error}", path.display());
        Failure::new(ErrorCode::Io, message)
    })
}
