//! The command line, by the real binary; the control socket, in this process.

mod announce;
mod bad_input;
mod binary;
mod conform;
mod control;
mod daemon;
mod keeping;
mod members;
mod mending;
mod money;
pub(crate) mod processes;
mod psbt;
mod publishing;
mod render;
mod render_cohort;
mod resolve;
mod service;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use btcr2_agent::agent::control::{
    ControlClient, ControlServer, Handler, Request, Response, SOCKET_FILE,
};
use serde_json::Value;
use tokio::sync::{broadcast, oneshot};

/// The binary with a home directory and nothing else from the environment.
pub(crate) fn binary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btcr2-agent"));
    command
        .env_clear()
        .env("BTCR2_AGENT_HOME", home)
        .stdin(Stdio::null());
    command
}

pub(crate) fn run<I, S>(home: &Path, args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    binary(home).args(args).output().unwrap()
}

pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Answers with what the test says and keeps the requests.
struct Fake {
    answer: Box<dyn Fn(&Request) -> Response + Send + Sync>,
    seen: Arc<Mutex<Vec<Request>>>,
    events: broadcast::Sender<Value>,
}

impl Handler for Fake {
    async fn handle(&self, request: Request) -> Response {
        self.seen.lock().unwrap().push(request.clone());
        (self.answer)(&request)
    }

    fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }
}

/// A fake daemon in a home directory; it stops when dropped.
struct Daemon {
    home: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Request>>>,
    events: broadcast::Sender<Value>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Daemon {
    fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let home = home();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = broadcast::Sender::new(4);
        let fake = Fake {
            answer: Box::new(answer),
            seen: Arc::clone(&seen),
            events: events.clone(),
        };
        let server = ControlServer::bind(&home.path().join(SOCKET_FILE), fake).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self {
            home,
            seen,
            events,
            stop: Some(stop),
            running: Some(running),
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join(SOCKET_FILE)
    }

    async fn client(&self) -> ControlClient {
        ControlClient::connect(&self.socket()).await.unwrap()
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// Runs the binary against this daemon, away from the runtime's threads.
    async fn run(&self, line: &str) -> Output {
        let home = self.home.path().to_owned();
        let line = line.to_owned();
        tokio::task::spawn_blocking(move || run(&home, words(&line)))
            .await
            .unwrap()
    }
}

fn done(value: &impl serde::Serialize) -> Response {
    Response::Done(serde_json::to_value(value).unwrap())
}
