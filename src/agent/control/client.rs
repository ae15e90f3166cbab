//! The command line's side of the socket.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::error::{ErrorCode, Failure};
use super::operations::Request;
use super::request::Subscribe;
use super::server::Response;
use super::wire::{Line, read_line, write_line};
use super::{MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES};

/// A connection to a daemon.
#[derive(Debug)]
pub struct ControlClient {
    path: PathBuf,
    /// `None` while a call is under way and after one was cut off: what would be read next then
    /// belongs to that call.
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl ControlClient {
    /// Connects to the daemon that listens on `path`.
    ///
    /// Fails with `not_running` when nobody does.
    pub async fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| connect_failure(path, &error))?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            path: path.to_owned(),
            connection: Mutex::new(Some(Connection {
                reader: BufReader::new(reader),
                writer,
            })),
        })
    }

    /// Sends a request and reads its answer.
    pub async fn call<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let mut slot = self.connection.lock().await;
        let mut connection = slot.take().ok_or_else(|| self.hung_up())?;
        let value = connection.exchange(request, self).await?;
        *slot = Some(connection);
        drop(slot);
        let value = match value {
            Response::Done(value) => value,
            Response::Failed(failure) => return Err(failure),
        };
        serde_json::from_value(value).map_err(|error| {
            Failure::new(
                ErrorCode::Internal,
                format!("the daemon's answer is not of this version: {error}"),
            )
            .remedy("use the same version for the command and the daemon")
        })
    }

    /// Turns the connection into a stream of events.
    pub async fn subscribe(self, filter: Subscribe) -> Result<EventStream, Failure> {
        let mut slot = self.connection.lock().await;
        let mut connection = slot.take().ok_or_else(|| self.hung_up())?;
        drop(slot);
        match connection
            .exchange(&Request::Subscribe(filter), &self)
            .await?
        {
            Response::Done(_) => Ok(EventStream { connection }),
            Response::Failed(failure) => Err(failure),
        }
    }

    fn hung_up(&self) -> Failure {
        Failure::new(
            ErrorCode::NotRunning,
            format!(
                "the daemon on {} stopped before it answered",
                self.path.display()
            ),
        )
        .remedy("look at its log, and start it with `btcr2-agent run`")
    }
}

impl Connection {
    async fn exchange(
        &mut self,
        request: &Request,
        client: &ControlClient,
    ) -> Result<Response, Failure> {
        let json = serde_json::to_vec(request)
            .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
        if json.len() > MAX_REQUEST_BYTES {
            return Err(Failure::new(
                ErrorCode::TooLarge,
                format!("the request is longer than {MAX_REQUEST_BYTES} bytes"),
            ));
        }
        write_line(&mut self.writer, json)
            .await
            .map_err(|_| client.hung_up())?;
        match read_line(&mut self.reader, MAX_RESPONSE_BYTES).await {
            Ok(Line::Whole(line)) => serde_json::from_slice(&line).map_err(|error| {
                Failure::new(
                    ErrorCode::Internal,
                    format!("the daemon's answer is not a response: {error}"),
                )
            }),
            Ok(Line::TooLong) => Err(Failure::new(
                ErrorCode::TooLarge,
                format!("the answer is longer than {MAX_RESPONSE_BYTES} bytes"),
            )),
            Ok(Line::End) | Err(_) => Err(client.hung_up()),
        }
    }
}

/// Events of a daemon, as they happen.
#[derive(Debug)]
pub struct EventStream {
    connection: Connection,
}

impl EventStream {
    /// The next event; `None` when the daemon has stopped.
    pub async fn next(&mut self) -> Result<Option<serde_json::Value>, Failure> {
        loop {
            match read_line(&mut self.connection.reader, MAX_RESPONSE_BYTES).await {
                Ok(Line::Whole(line)) => {
                    return serde_json::from_slice(&line).map(Some).map_err(|error| {
                        Failure::new(ErrorCode::Internal, format!("not an event: {error}"))
                    });
                }
                Ok(Line::TooLong) => {}
                Ok(Line::End) | Err(_) => return Ok(None),
            }
        }
    }
}

fn connect_failure(path: &Path, error: &io::Error) -> Failure {
    let home = path.parent().unwrap_or(path).display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            ErrorCode::NotRunning,
            format!("no daemon is running in {home}"),
        )
        .remedy("start it with `btcr2-agent run`"),
        io::ErrorKind::PermissionDenied => Failure::new(
            ErrorCode::Io,
            format!("the daemon in {home} belongs to another user"),
        ),
        _ => Failure::new(
            ErrorCode::Io,
            format!(
                "the control socket {} can not be opened: {error}",
                path.display()
            ),
        ),
    }
}
