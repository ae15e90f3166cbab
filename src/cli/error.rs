//! How a command ends: what is printed, and the exit status.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use crate::agent::control::{
    ErrorCode, Failure,
    text::{json_for_terminal, single_line},
};

/// Longest line printed for a failure, in characters.
const MAX_ERROR_CHARS: usize = 600;

/// Why a command ended early.
#[derive(Debug)]
pub enum CliError {
    /// It was refused or it failed.
    Failed(Failure),
    /// It has a result, and the result is a failure. Text was printed already; JSON is printed with the failure,
    /// for a command prints one object.
    Unsuccessful {
        /// What is wrong.
        failure: Failure,
        /// The result.
        result: serde_json::Value,
    },
    /// Nobody reads stdout any more (`… | head`): that is not a failure.
    OutputClosed,
    /// Stdout can not be written, for instance because the disk is full.
    OutputFailed(io::Error),
}

impl CliError {
    /// Prints the failure, `error: …` and `hint: …` on stderr or with `json` one object on stdout,
    /// and returns the exit status: 0 done, 1 refused or failed, 2 usage.
    pub fn report(self, json: bool) -> ExitCode {
        let mut result = None;
        let failure = match self {
            Self::Failed(failure) => failure,
            Self::Unsuccessful {
                failure,
                result: of,
            } => {
                result = Some(of);
                failure
            }
            Self::OutputClosed => return ExitCode::SUCCESS,
            Self::OutputFailed(error) => {
                Failure::new(ErrorCode::Io, format!("stdout can not be written: {error}"))
            }
        };
        // Nothing can be done about a stderr or stdout that is gone now.
        let _ = if json {
            print_json(&failure, result.as_ref())
        } else {
            print_text(&failure)
        };
        match failure.code {
            ErrorCode::Usage => ExitCode::from(2),
            _ => ExitCode::from(1),
        }
    }
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for CliError {
    /// For writes to stdout only; other input and output errors say what they are about.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::OutputFailed(error),
        }
    }
}

/// The object a failure is printed as with `--json`.
#[derive(Serialize)]
struct FailureJson<'a> {
    ok: bool,
    error: &'a Failure,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a serde_json::Value>,
}

fn print_json(failure: &Failure, result: Option<&serde_json::Value>) -> io::Result<()> {
    let object = FailureJson {
        ok: false,
        error: failure,
        result,
    };
    let mut json = json_for_terminal(&serde_json::to_string(&object)?);
    json.push('\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(json.as_bytes())?;
    stdout.flush()
}

fn print_text(failure: &Failure) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    writeln!(
        stderr,
        "error: {}",
        single_line(&failure.message, MAX_ERROR_CHARS)
    )?;
    if let Some(remedy) = &failure.remedy {
        writeln!(stderr, "hint: {}", single_line(remedy, MAX_ERROR_CHARS))?;
    }
    Ok(())
}
