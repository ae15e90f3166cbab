//! Commands and what they print.
//!
//! [`args`] says what can be typed, [`commands`] turns it into a request to the daemon
//! ([`backend`]) or to this process ([`local`]), [`render`] and [`output`] print the view that comes
//! back, [`error`] what went wrong. With `--json` a command prints one object on stdout,
//! `{"ok":true,"result":…}` or `{"ok":false,"error":{"code","message","remedy"}}`; timelines
//! ([`progress`]) print one object per event.

pub mod args;
pub mod ask;
pub mod backend;
pub mod commands;
pub mod dumps;
pub mod error;
pub mod local;
mod log;
pub mod output;
pub mod picks;
pub mod progress;
pub mod render;
pub mod secret;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

pub use crate::agent::control::views;
use crate::agent::control::{ErrorCode, Failure};
use args::Cli;
pub use commands::dispatch;
use error::CliError;

/// Parses the command line. What remains to be done when there is no command to run (help was
/// asked for, or the line is wrong) is done, and the exit status returned.
pub fn parse<I>(line: I) -> Result<Cli, ExitCode>
where
    I: IntoIterator<Item = OsString>,
{
    let line: Vec<OsString> = line.into_iter().collect();
    let json = line
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "--json");
    Cli::try_parse_from(line).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Help into a closed pipe is fine.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ if json => CliError::Failed(usage(&error)).report(true),
        _ => {
            let _ = error.print();
            ExitCode::from(2)
        }
    })
}

/// The first paragraph of clap's message, which says what is wrong, as one line.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let message: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let message = message.join(" ");
    Failure::new(
        ErrorCode::Usage,
        message.strip_prefix("error: ").unwrap_or(&message),
    )
    .remedy("try --help")
}

/// Sends logs to stderr. `RUST_LOG`, when set, decides what; `-v` and `-vv` otherwise.
pub fn log_to_stderr(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    // The relay library logs forged frames in full at ERROR: what matters of them is counted and reported here.
    let default = match verbose {
        0 => "warn,nostr_relay_pool=off",
        1 => "warn,nostr_relay_pool=off,btcr2_agent=info",
        2 => "info,nostr_relay_pool=off,btcr2_agent=debug",
        _ => "debug,btcr2_agent=trace",
    };
    let filter = std::env::var("RUST_LOG")
        .ok()
        .filter(|directives| !directives.is_empty())
        .map_or_else(|| EnvFilter::new(default), EnvFilter::new);
    // A second call (in tests) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log::HarmlessStderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
