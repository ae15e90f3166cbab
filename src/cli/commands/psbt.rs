//! `psbt inspect`, `cohort psbt`

use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Context;
use crate::agent::backend::inspect_alone;
use crate::agent::control::request::{InspectPsbt, OneCohort};
use crate::agent::control::{Backend as _, ErrorCode, Failure, MAX_REQUEST_BYTES};
use crate::beacon::psbt::{MAX_BYTES, Packet};
use crate::cli::args::{CohortPsbtArgs, PsbtCommand};
use crate::cli::backend::{daemon, daemon_if_running};
use crate::cli::error::CliError;

/// What the rest of a request takes, beside the base64 of a PSBT.
const REQUEST_HEAD: usize = 256;

impl Context {
    pub(super) async fn psbt(&self, command: PsbtCommand) -> Result<(), CliError> {
        let PsbtCommand::Inspect(args) = command;
        let content = read_psbt(&args.file)?;
        // Whatever an agent knows, what is no PSBT is none.
        let alone = inspect_alone(&content)?;
        let psbt = base64(&content);
        let fits = psbt.len() + REQUEST_HEAD <= MAX_REQUEST_BYTES;
        let view = match daemon_if_running(&self.home).await? {
            Some(daemon) if fits => daemon.psbt_inspect(InspectPsbt { psbt }).await?,
            Some(_) => {
                tracing::warn!("the PSBT is too long for the running agent: it is looked at alone");
                alone
            }
            None => alone,
        };
        if view.is_sound() {
            return self.out.view(&view);
        }
        if !self.out.is_json() {
            self.out.view(&view)?;
        }
        let message = match view.problems.as_slice() {
            [one] => format!("the PSBT can not be so: {one}"),
            some => format!("the PSBT can not be so in {} places", some.len()),
        };
        let result = serde_json::to_value(&view)
            .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
        Err(CliError::Unsuccessful {
            failure: Failure::new(ErrorCode::InvalidValue, message),
            result,
        })
    }

    pub(super) async fn cohort_psbt(&self, args: CohortPsbtArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let cohort = args.cohort;
        let mut view = daemon.cohort_psbt(OneCohort { cohort }).await?;
        if args.v2 {
            for psbt in &mut view.psbts {
                let other = |error: String| Failure::new(ErrorCode::Internal, error);
                let bytes = STANDARD
                    .decode(&psbt.psbt)
                    .map_err(|error| other(error.to_string()))?;
                let two = Packet::to_version_2(&bytes).map_err(|fault| other(fault.to_string()))?;
                psbt.psbt = STANDARD.encode(two);
            }
        }
        self.out.view(&view)
    }
}

/// Reads a file, or stdin for `-`: at most what any PSBT may have, and the base64 of it.
pub(super) fn read_psbt(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: io::Error| Failure::new(ErrorCode::Io, format!("{}: {error}", path.display()));
    let most = u64::try_from(MAX_BYTES.saturating_mul(2)).unwrap_or(u64::MAX);
    let mut content = Vec::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(most).read_to_end(&mut content)
    } else {
        std::fs::File::open(path)
            .map_err(failed)?
            .take(most)
            .read_to_end(&mut content)
    };
    read.map_err(failed)?;
    Ok(content)
}

/// A PSBT as a request carries it, whichever form the file has.
pub(super) fn base64(content: &[u8]) -> String {
    if content.starts_with(b"psbt") {
        STANDARD.encode(content)
    } else {
        let text = String::from_utf8_lossy(content);
        text.split_whitespace().collect()
    }
}
