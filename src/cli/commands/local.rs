//! `run`, `demo` and `dev …`

use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Context, no_signals};
use crate::agent::control::{ErrorCode, Failure};
use crate::cli::args::{DemoArgs, DevCommand, RunArgs};
use crate::cli::error::CliError;
use crate::cli::local::{self, DemoPlan, DevServer, DevServerView};
use crate::cli::progress::reporter;

impl Context {
    pub(super) async fn run(&self, args: &RunArgs) -> Result<(), CliError> {
        let passphrase = self.unlock(&args.passphrase)?;
        let stop = CancellationToken::new();
        let reporter = reporter(self.out.is_json());
        let work = local::run(
            &self.home,
            passphrase,
            args.mainnet,
            reporter.as_ref(),
            stop.clone(),
        );
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return Ok(done?),
            interrupted = interrupted() => interrupted?,
        }
        stop.cancel();
        tracing::info!("stopping; once more stops at once");
        tokio::select! {
            done = &mut work => Ok(done?),
            interrupted = interrupted() => {
                interrupted?;
                Err(Failure::new(ErrorCode::Internal, "stopped before everything was put away").into())
            }
        }
    }

    pub(super) async fn demo(&self, args: DemoArgs) -> Result<(), CliError> {
        let reporter = reporter(self.out.is_json());
        let plan = DemoPlan {
            beacon: args.beacon,
            members: args.members,
            rounds: args.rounds,
            chain: args.chain(),
            keep: args.keep,
        };
        let report = tokio::select! {
            report = local::demo(plan, reporter.as_ref()) => report?,
            interrupted = interrupted() => {
                interrupted?;
                return Err(Failure::new(ErrorCode::Declined, "interrupted").into());
            }
        };
        reporter.close(&report);
        Ok(())
    }

    pub(super) async fn dev(&self, command: DevCommand) -> Result<(), CliError> {
        match command {
            DevCommand::Relay(args) => {
                let listen = SocketAddr::new(args.listen, args.port);
                self.serve(local::dev_relay(listen).await?).await
            }
            DevCommand::Chain(args) => {
                let listen = SocketAddr::new(args.listen, args.port);
                self.serve(local::dev_chain(listen, args.block_every).await?)
                    .await
            }
            DevCommand::Pay(args) => self
                .out
                .view(&local::dev_pay(&args.chain, &args.address, args.amount).await?),
            DevCommand::Mine(args) => self
                .out
                .view(&local::dev_mine(&args.chain, args.blocks).await?),
        }
    }

    /// Says where a server listens and serves until interrupted.
    async fn serve(&self, server: DevServer) -> Result<(), CliError> {
        self.out.view(&DevServerView { url: server.url })?;
        tokio::select! {
            done = server.running => Ok(done?),
            interrupted = interrupted() => Ok(interrupted?),
        }
    }
}

/// Resolves when the user (ctrl-c) or the system (SIGTERM) asks to stop.
pub(super) async fn interrupted() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| no_signals(&error))?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|error| no_signals(&error)),
        _ = terminate.recv() => Ok(()),
    }
}
