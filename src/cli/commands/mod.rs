//! The commands: from typed arguments to a view that is printed.

mod admission;
mod announce;
mod backup;
mod cohort;
mod did;
mod doctor;
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

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use serde::Serialize;

use super::args::{Cli, Command, CompletionsArgs, StatusArgs};
use super::backend::{Backend as _, daemon};
use super::error::CliError;
use super::local::default_home;
use super::output::Output;
use super::progress::{TimelineEvent, reporter};
use super::render::{Page, Render};
use crate::agent::control::request::{NoArgs, Subscribe};
use crate::agent::control::{ErrorCode, Failure};
use crate::hash::CohortId;

/// What every command works with.
#[derive(Debug)]
struct Context {
    home: PathBuf,
    out: Output,
}

/// Runs a command to its end.
///
/// Exit status: 0 done, 1 refused or failed, 2 usage.
#[must_use]
pub fn dispatch(cli: Cli) -> ExitCode {
    let json = cli.global.json;
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(json),
    }
}

fn start(cli: Cli) -> Result<(), CliError> {
    // Needs neither a home directory nor a runtime.
    if let Command::Completions(args) = cli.command {
        return completions(&args, Output::new(cli.global.json));
    }
    let home = cli.global.home.map_or_else(default_home, Ok)?;
    let context = Context {
        // The daemon may have been started elsewhere; what it is told must not depend on that.
        home: std::path::absolute(&home).unwrap_or(home),
        out: Output::new(cli.global.json),
    };
    // Commits wait for the disk on the thread they run on: with one thread per core, an agent that waits would
    // hold up the others of the demo.
    let threads =
        std::thread::available_parallelism().map_or(4, |cores| cores.get().saturating_mul(3));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.clamp(4, 32))
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                ErrorCode::Io,
                format!("no runtime could be started: {error}"),
            )
        })?;
    runtime.block_on(context.command(cli.command))
}

impl Context {
    async fn command(&self, command: Command) -> Result<(), CliError> {
        match command {
            Command::Init(args) => self.init(args),
            Command::Recover(args) => self.recover(args).await,
            Command::Backup(args) => self.home_backup(&args),
            Command::Restore(args) => self.restore(&args),
            Command::Takeover(args) => self.takeover(&args),
            Command::Doctor(args) => self.doctor(&args).await,
            Command::Run(args) => self.run(&args).await,
            Command::Demo(args) => self.demo(args).await,
            Command::Cohort(command) => self.cohort(command).await,
            Command::Did(command) => self.did(command).await,
            Command::Money(command) => self.money(command).await,
            Command::Tx(command) => self.tx(command).await,
            Command::Psbt(command) => self.psbt(command).await,
            Command::Key(command) => self.key(command).await,
            Command::Relay(command) => self.relay(command).await,
            Command::Follow(args) => self.follow(args).await,
            Command::Unfollow(args) => self.unfollow(args).await,
            Command::Followed => {
                let daemon = daemon(&self.home).await?;
                self.out.view(&daemon.followed(NoArgs {}).await?)
            }
            Command::Subscribers => {
                let daemon = daemon(&self.home).await?;
                self.out.view(&daemon.subscribers(NoArgs {}).await?)
            }
            Command::Status(args) => self.status(&args).await,
            Command::Resolver(command) => self.resolver(command).await,
            Command::Dev(command) => self.dev(command).await,
            Command::Completions(args) => completions(&args, self.out),
        }
    }

    async fn status(&self, args: &StatusArgs) -> Result<(), CliError> {
        let client = daemon(&self.home).await?;
        self.out.view(&client.status(NoArgs {}).await?)?;
        if args.follow {
            self.watch(None).await?;
        }
        Ok(())
    }

    /// Prints events as they happen, until the user or the daemon stops.
    async fn watch(&self, cohort: Option<CohortId>) -> Result<(), CliError> {
        let client = daemon(&self.home).await?;
        let mut events = client.subscribe(Subscribe { cohort }).await?;
        let reporter = reporter(false);
        loop {
            let event = tokio::select! {
                event = events.next() => event?,
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.map_err(|error| no_signals(&error))?;
                    return Ok(());
                }
            };
            let Some(event) = event else {
                return Err(Failure::new(ErrorCode::NotRunning, "the daemon has stopped").into());
            };
            if self.out.is_json() {
                self.out.json_line(&event)?;
            } else if let Ok(event) = serde_json::from_value::<TimelineEvent>(event.clone()) {
                reporter.event(&event);
            } else {
                // An event of another version, or the note that some were missed.
                let mut page = Page::new(super::output::now());
                page.line(&event.to_string());
                self.out.text(page.as_str())?;
            }
        }
    }
}

/// A completion script, as text or in an object.
#[derive(Serialize)]
struct CompletionsView {
    shell: String,
    script: String,
}

impl Render for CompletionsView {
    fn render(&self, page: &mut Page) {
        page.verbatim(&self.script);
    }
}

fn completions(args: &CompletionsArgs, out: Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "btcr2-agent", &mut script);
    out.view(&CompletionsView {
        shell: args.shell.to_string(),
        script: String::from_utf8_lossy(&script).into_owned(),
    })
}

fn no_signals(error: &io::Error) -> Failure {
    Failure::new(
        ErrorCode::Io,
        format!("signals can not be received: {error}"),
    )
}
