//! `run`: the daemon.

use std::path::Path;
use std::time::Instant;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::home::keep_identity;
use crate::agent::control::{
    BackendHandler, BindError, ControlServer, ErrorCode, Failure, TimelineEvent,
};
use crate::agent::launch::{self, Launched};
use crate::agent::timeline;
use crate::cli::progress::Reporter;
use crate::cli::secret::Secret;

/// Events that a slow `--follow` may lag behind before it misses some.
const EVENT_BACKLOG: usize = 4_096;

/// Runs the daemon until `stop` is cancelled: opens keystore, store, relays and chain, serves the
/// control socket, reports what happens.
pub async fn run(
    home: &Path,
    passphrase: Option<Secret>,
    mainnet: bool,
    reporter: &dyn Reporter,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let started = Instant::now();
    let at_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let opened = launch::open(home, passphrase.as_ref().map(Secret::reveal))?.with_mainnet(mainnet);
    drop(passphrase);
    let home = opened.home.clone();
    let identity = opened.identity();
    keep_identity(&home, identity, opened.has_words())?;
    let socket = home.prepare_socket().map_err(launch::home_failure)?;
    let Launched {
        agent,
        backend,
        warnings,
        lock,
    } = opened.start()?;

    let (lines, _) = broadcast::channel(EVENT_BACKLOG);
    let handler = BackendHandler::new(backend.clone(), lines.clone());
    let server = ControlServer::bind(&socket, handler).map_err(bind_failure)?;
    let mut events = backend.handle().events();
    let report = |line: &TimelineEvent| {
        reporter.event(line);
        // Nobody may be listening.
        let _ = lines.send(serde_json::to_value(line).unwrap_or_default());
    };
    for warning in warnings {
        tracing::warn!("{warning}");
        report(&TimelineEvent::new(at_ms(), "agent", "warning", warning));
    }
    let serving = tokio::spawn(server.run(stop.clone().cancelled_owned()));
    let mut running = tokio::spawn(agent.run(stop.clone().cancelled_owned()));
    let looker = backend.clone();
    tokio::spawn(async move {
        // An unreachable chain is said in an event, and no reason to stop.
        let _ = looker.check_chains().await;
    });
    let text = format!(
        "{} runs as process {}; commands are taken in {}",
        crate::keys::names::npub(&identity),
        std::process::id(),
        home.root().display()
    );
    report(&TimelineEvent::new(at_ms(), "agent", "started", text));

    let ended = loop {
        tokio::select! {
            // In this order: what happened before the end is still told.
            biased;
            event = events.recv() => match event {
                Ok(event) => {
                    backend.observe(&event);
                    if let Some(line) = timeline::of_event(at_ms(), None, &event) {
                        report(&line);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events were not shown: the reader of this output is slow");
                }
                Err(RecvError::Closed) => break (&mut running).await,
            },
            ended = &mut running => break ended,
        }
    };
    // Also when the agent stopped by itself: without it no command can be answered.
    stop.cancel();
    let _ = serving.await;
    drop(lock);
    match ended {
        Ok(Ok(())) => {
            report(&TimelineEvent::new(at_ms(), "agent", "stopped", "stopped"));
            Ok(())
        }
        Ok(Err(error)) => Err(launch::agent_failure(error)),
        Err(_) => Err(Failure::new(
            ErrorCode::Internal,
            "the agent ended without saying why; see its log",
        )),
    }
}

fn bind_failure(error: BindError) -> Failure {
    let text = error.to_string();
    match error {
        BindError::AlreadyRunning(_) => Failure::new(ErrorCode::AlreadyRunning, text)
            .remedy("stop that daemon, or use another --home"),
        _ => Failure::new(ErrorCode::Io, text),
    }
}
