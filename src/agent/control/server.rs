//! The daemon's side of the socket.

use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::BufReader;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::{ErrorCode, Failure};
use super::operations::{Backend, Request, answer};
use super::request::Subscribe;
use super::wire::{Line, read_line, write_line};
use super::{MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES};

/// Clients served at once: a person's terminals and scripts, not a public service.
const MAX_CLIENTS: usize = 64;

/// How long clients have to take their last answers when the daemon stops: they are on the same
/// machine, so one that needs longer is not reading.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What answers requests. The runtime implements [`Backend`] and wraps it in a [`BackendHandler`];
/// tests implement this directly.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It runs to its end even when the client goes away.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// A receiver of all events from now on.
    fn events(&self) -> broadcast::Receiver<serde_json::Value>;
}

/// Serves a [`Backend`] and a stream of events.
#[derive(Debug)]
pub struct BackendHandler<B> {
    backend: B,
    events: broadcast::Sender<serde_json::Value>,
}

impl<B> BackendHandler<B> {
    /// Serves `backend`; what is sent to `events` reaches every subscriber.
    #[must_use]
    pub const fn new(backend: B, events: broadcast::Sender<serde_json::Value>) -> Self {
        Self { backend, events }
    }
}

impl<B: Backend + 'static> Handler for BackendHandler<B> {
    async fn handle(&self, request: Request) -> Response {
        answer(&self.backend, request).await
    }

    fn events(&self) -> broadcast::Receiver<serde_json::Value> {
        self.events.subscribe()
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// `{"ok": true, "result": …}`
    Done(serde_json::Value),
    /// `{"ok": false, "error": …}`
    Failed(Failure),
}

impl Response {
    /// The response that carries a view, or a failure.
    #[must_use]
    pub fn from_result<T: Serialize>(result: Result<T, Failure>) -> Self {
        match result.map(|view| serde_json::to_value(view)) {
            Ok(Ok(value)) => Self::Done(value),
            Ok(Err(error)) => Self::Failed(Failure::new(
                ErrorCode::Internal,
                format!("the answer can not be written as JSON: {error}"),
            )),
            Err(failure) => Self::Failed(failure),
        }
    }
}

/// The response as it stands on the wire.
#[derive(Serialize, Deserialize)]
struct WireResponse {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (ok, result, error) = match self.clone() {
            Self::Done(value) => (true, Some(value), None),
            Self::Failed(failure) => (false, None, Some(failure)),
        };
        WireResponse { ok, result, error }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let wire = WireResponse::deserialize(d)?;
        match (wire.ok, wire.error) {
            (true, None) => Ok(Self::Done(wire.result.unwrap_or_default())),
            (false, Some(failure)) => Ok(Self::Failed(failure)),
            _ => Err(serde::de::Error::custom("ok and error disagree")),
        }
    }
}

/// Why the socket can not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody answers on it.
    #[error("a daemon is already running: it answers on {0}")]
    AlreadyRunning(PathBuf),
    /// Something else has its name.
    #[error("{0} exists and is not a socket: move it away")]
    NotASocket(PathBuf),
    /// The operating system refuses, for instance because the path is longer than about 100 bytes.
    #[error("the control socket {path} can not be opened: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let message = error.to_string();
        match error {
            BindError::AlreadyRunning(_) => Self::new(ErrorCode::AlreadyRunning, message)
                .remedy("ask it with `btcr2-agent status`, or use another --home"),
            BindError::NotASocket(_) => Self::new(ErrorCode::Io, message),
            BindError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                Self::new(ErrorCode::Io, message)
                    .remedy("choose a --home with a shorter path: socket paths are limited to about 100 bytes")
            }
            BindError::Io { .. } => Self::new(ErrorCode::Io, message),
        }
    }
}

/// The bound socket. Its file is removed on drop.
#[derive(Debug)]
pub struct ControlServer<H> {
    listener: UnixListener,
    handler: Arc<H>,
    file: SocketFile,
}

impl<H: Handler> ControlServer<H> {
    /// Binds the socket (mode 0600). A file left by a daemon that died is replaced; one on which a
    /// daemon answers is not. Must be called within a tokio runtime.
    pub fn bind(path: &Path, handler: H) -> Result<Self, BindError> {
        let io_error = |source| BindError::Io {
            path: path.to_owned(),
            source,
        };
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(io_error)?;
        // Until here the home directory's mode (0700) keeps others out.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
        let metadata = fs::symlink_metadata(path).map_err(io_error)?;
        Ok(Self {
            listener,
            handler: Arc::new(handler),
            file: SocketFile {
                path: path.to_owned(),
                identity: (metadata.dev(), metadata.ino()),
                owner: metadata.uid(),
            },
        })
    }

    /// Serves clients until `shutdown` resolves; then requests that are under way are still answered,
    /// for up to two seconds. An operation that takes longer goes on unheard.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        let mut clients = JoinSet::new();
        let stop = CancellationToken::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => accepted,
                Some(_) = clients.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: give others the time to free some.
                    tracing::warn!(%error, "a control client could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !self.file.is_same_user(&stream) {
                tracing::warn!("a control client of another user was refused");
                continue;
            }
            let handler = Arc::clone(&self.handler);
            let stop = stop.clone();
            let slot = Arc::clone(&slots).try_acquire_owned();
            clients.spawn(async move {
                let (reader, mut writer) = stream.into_split();
                let served = match slot {
                    Ok(_slot) => serve(BufReader::new(reader), &mut writer, handler, &stop).await,
                    Err(_) => {
                        let busy = Failure::new(ErrorCode::Busy, "too many control clients");
                        send(&mut writer, &Response::Failed(busy)).await
                    }
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "a control client went away");
                }
            });
        }
        stop.cancel();
        let all_gone = async { while clients.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, all_gone).await.is_err() {
            tracing::warn!("a control client did not take its last answer in time");
        }
    }
}

/// The socket's file, recognised by device and inode so that another daemon's is never removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    owner: u32,
}

impl SocketFile {
    fn is_same_user(&self, stream: &UnixStream) -> bool {
        stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket file of a daemon that is gone.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    let io_error = |source| BindError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match BlockingStream::connect(path) {
        Ok(_) => Err(BindError::AlreadyRunning(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
    }
}

/// Serves one client: requests in turn, until it leaves or subscribes.
async fn serve<H: Handler>(
    mut reader: BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    handler: Arc<H>,
    stop: &CancellationToken,
) -> io::Result<()> {
    loop {
        let line = tokio::select! {
            line = read_line(&mut reader, MAX_REQUEST_BYTES) => line?,
            () = stop.cancelled() => return Ok(()),
        };
        let line = match line {
            Line::Whole(line) => line,
            Line::End => return Ok(()),
            Line::TooLong => {
                let failure = Failure::new(
                    ErrorCode::TooLarge,
                    format!("the request is longer than {MAX_REQUEST_BYTES} bytes"),
                );
                send(writer, &Response::Failed(failure)).await?;
                continue;
            }
        };
        let response = match serde_json::from_slice(&line) {
            Ok(Request::Subscribe(filter)) => {
                return stream_events(reader, writer, handler.events(), filter, stop).await;
            }
            Ok(request) => {
                let handler = Arc::clone(&handler);
                // A task of its own: a client that hangs up must not stop an operation half-way.
                tokio::spawn(async move { handler.handle(request).await })
                    .await
                    .unwrap_or_else(|_| {
                        Response::Failed(Failure::new(
                            ErrorCode::Internal,
                            "the operation ended without an answer; see the daemon's log",
                        ))
                    })
            }
            Err(error) => Response::Failed(
                Failure::new(
                    ErrorCode::BadRequest,
                    format!("not a request of this version: {error}"),
                )
                .remedy("use the same version for the command and the daemon"),
            ),
        };
        send(writer, &response).await?;
    }
}

/// Sends events until the client leaves or the daemon stops. A client that reads too slowly is
/// told how many events it missed.
async fn stream_events(
    mut reader: BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    mut events: broadcast::Receiver<serde_json::Value>,
    filter: Subscribe,
    stop: &CancellationToken,
) -> io::Result<()> {
    send(writer, &Response::Done(serde_json::Value::Null)).await?;
    let cohort = filter
        .cohort
        .map(|id| serde_json::Value::from(id.to_string()));
    loop {
        let event = tokio::select! {
            // In this order: what happened before the stop is still told.
            biased;
            event = events.recv() => event,
            () = stop.cancelled() => return Ok(()),
            // A subscriber has nothing more to say; this notices that it left.
            line = read_line(&mut reader, MAX_REQUEST_BYTES) => match line? {
                Line::End => return Ok(()),
                Line::Whole(_) | Line::TooLong => continue,
            },
        };
        let event = match event {
            Ok(event) => event,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                serde_json::json!({ "step": "events_missed", "missed": missed })
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        };
        let is_wanted = cohort
            .as_ref()
            .is_none_or(|wanted| event.get("cohort").is_none_or(|of| of == wanted));
        if is_wanted {
            write_line(writer, serde_json::to_vec(&event)?).await?;
        }
    }
}

async fn send(writer: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut json = serde_json::to_vec(response)?;
    if json.len() > MAX_RESPONSE_BYTES {
        let failure = Failure::new(
            ErrorCode::TooLarge,
            format!("the answer is longer than {MAX_RESPONSE_BYTES} bytes"),
        )
        .remedy("ask for less, for instance with a smaller --rounds");
        json = serde_json::to_vec(&Response::Failed(failure))?;
    }
    write_line(writer, json).await
}
