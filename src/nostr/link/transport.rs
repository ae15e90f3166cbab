//! The WebSocket under the relay library: dialling rules, no Nagle, pings, frame limits.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_wsocket::{ConnectionMode, Message};
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, Stream, StreamExt as _};
use nostr_relay_pool::transport::error::TransportError;
use nostr_relay_pool::transport::websocket::{
    DefaultWebsocketTransport, WebSocketSink, WebSocketStream as LibraryStream, WebSocketTransport,
};
use nostr_sdk::prelude::BoxedFuture;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::{Host, Url};

use super::gate::{Gate, Tally};
use crate::nostr::event::{Event, EventFault, MAX_RECEIVED_BYTES};
use crate::nostr::policy::is_public;

/// The largest frame read at all. Above this the connection ends; an event above
/// [`MAX_RECEIVED_BYTES`] is only skipped, or a stranger could cut us off with one large event.
const MAX_FRAME: usize = 8 * 1024 * 1024;

/// Room for the frame around an event.
const FRAME_HEAD: usize = 512;

/// Read buffer of one connection. The default of 128 KiB is a lot for a hundred agents in one process.
const READ_BUFFER: usize = 8 * 1024;

/// Head start of one address over the next (RFC 8305, Happy Eyeballs).
const ADDRESS_DELAY: Duration = Duration::from_millis(250);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects for the relay pool of one link.
pub(super) struct Transport {
    pub gate: Arc<Gate>,
    /// A ping is sent after so much silence; after as much more the socket counts as dead.
    pub ping: Duration,
}

impl WebSocketTransport for Transport {
    fn support_ping(&self) -> bool {
        // We ping ourselves: the pool does so every 55 seconds only.
        false
    }

    fn connect<'a>(
        &'a self,
        url: &'a Url,
        mode: &'a ConnectionMode,
        timeout: Duration,
    ) -> BoxedFuture<'a, Result<(WebSocketSink, LibraryStream), TransportError>> {
        Box::pin(async move {
            if *mode != ConnectionMode::Direct {
                return DefaultWebsocketTransport.connect(url, mode, timeout).await;
            }
            let tally = self
                .gate
                .known_tally(url.as_str())
                .ok_or_else(|| TransportError::backend(io::Error::other("unknown relay")))?;
            let socket = tokio::time::timeout(timeout, dial(url, &tally))
                .await
                .map_err(|_| TransportError::backend(io::Error::from(io::ErrorKind::TimedOut)))??;
            tally.flow.correct(0);
            let socket = Arc::new(Mutex::new(socket));
            let incoming = Incoming {
                socket: Arc::clone(&socket),
                tally,
                ping: self.ping,
                timer: Box::pin(tokio::time::sleep(self.ping)),
                ping_sent: false,
                unjudged: None,
            };
            let sink: WebSocketSink = Box::new(Outgoing(socket));
            let stream: LibraryStream = Box::pin(incoming);
            Ok((sink, stream))
        })
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

async fn dial(url: &Url, tally: &Tally) -> Result<Socket, TransportError> {
    let stream = connect_tcp(url, tally.allow_private.load(Ordering::Relaxed))
        .await
        .map_err(TransportError::backend)?;
    stream.set_nodelay(true).map_err(TransportError::backend)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    // Boxed: the TLS handshake's state is large.
    let handshake = Box::pin(tokio_tungstenite::client_async_tls_with_config(
        url.as_str(),
        stream,
        Some(config),
        None,
    ));
    let (socket, _) = handshake.await.map_err(TransportError::backend)?;
    Ok(socket)
}

/// Resolves, drops the addresses that must not be dialled, and takes the first that answers.
async fn connect_tcp(url: &Url, allow_private: bool) -> io::Result<TcpStream> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let port = url.port_or_known_default().ok_or_else(invalid)?;
    let mut addresses: Vec<SocketAddr> = match url.host().ok_or_else(invalid)? {
        Host::Ipv4(address) => vec![(IpAddr::from(address), port).into()],
        Host::Ipv6(address) => vec![(IpAddr::from(address), port).into()],
        Host::Domain(name) => tokio::net::lookup_host((name, port)).await?.collect(),
    };
    if !allow_private {
        // Checked on what is dialled, not only on the name: a public name may point inside.
        addresses.retain(|address| is_public(address.ip()));
    }
    let mut attempts: FuturesUnordered<_> = addresses
        .into_iter()
        .zip(0u32..)
        .map(|(address, position)| async move {
            tokio::time::sleep(ADDRESS_DELAY * position).await;
            TcpStream::connect(address).await
        })
        .collect();
    let mut last = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the host has no address that may be dialled",
    );
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The writing half. Both halves are polled by the pool's one task for the connection, so the lock is
/// never contended and wakers are the same.
struct Outgoing(Arc<Mutex<Socket>>);

impl Sink<Message> for Outgoing {
    type Error = TransportError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut *lock(&self.0))
            .poll_ready(cx)
            .map_err(TransportError::backend)
    }

    fn start_send(self: Pin<&mut Self>, item: Message) -> Result<(), Self::Error> {
        Pin::new(&mut *lock(&self.0))
            .start_send(item.into())
            .map_err(TransportError::backend)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut *lock(&self.0))
            .poll_flush(cx)
            .map_err(TransportError::backend)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut *lock(&self.0))
            .poll_close(cx)
            .map_err(TransportError::backend)
    }
}

/// The reading half: pings, skips what is too large, and accounts for every event frame.
struct Incoming {
    socket: Arc<Mutex<Socket>>,
    tally: Arc<Tally>,
    ping: Duration,
    timer: Pin<Box<Sleep>>,
    ping_sent: bool,
    /// The last event frame handed to the pool, and the count of judged events at that time.
    unjudged: Option<(String, u64)>,
}

impl Stream for Incoming {
    type Item = Result<Message, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.account();
        if !this.tally.flow.may_read(cx) {
            // The program does not keep up. Silence is then no sign of a dead socket.
            this.ping_sent = false;
            this.timer.as_mut().reset(Instant::now() + this.ping);
            return Poll::Pending;
        }
        loop {
            let frame = Pin::new(&mut *lock(&this.socket)).poll_next(cx);
            match frame {
                Poll::Ready(Some(Ok(frame))) => {
                    this.ping_sent = false;
                    this.timer.as_mut().reset(Instant::now() + this.ping);
                    if let Some(message) = this.admit(frame) {
                        this.tally.flow.read_one();
                        return Poll::Ready(Some(Ok(message)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(TransportError::backend(error))));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    std::task::ready!(this.timer.as_mut().poll(cx));
                    if let Err(error) = this.ping_or_give_up(cx) {
                        return Poll::Ready(Some(Err(TransportError::backend(error))));
                    }
                }
            }
        }
    }
}

impl Incoming {
    fn admit(&mut self, frame: Frame) -> Option<Message> {
        match frame {
            Frame::Text(text) if is_event(&text) => {
                if text.len() > MAX_RECEIVED_BYTES + FRAME_HEAD {
                    Tally::add(&self.tally.ignored);
                    return None;
                }
                let judged = self.tally.judged.load(Ordering::Relaxed);
                self.unjudged = Some((text.to_string(), judged));
                Some(Message::Text(text.to_string()))
            }
            Frame::Text(text) => Some(Message::Text(text.to_string())),
            Frame::Close(_) => Some(Message::Close(None)),
            // Pings are answered by the WebSocket itself; pongs only had to arrive.
            _ => None,
        }
    }

    /// The pool handles one frame before it asks for the next. An event frame that never reached the
    /// admission policy was dropped by the pool: find out whether because it was forged.
    fn account(&mut self) {
        let Some((frame, judged)) = self.unjudged.take() else {
            return;
        };
        if self.tally.judged.load(Ordering::Relaxed) != judged {
            return;
        }
        match read_event(&frame).map(Event::verify) {
            Some(Err(EventFault::Id | EventFault::Signature)) => self.tally.note_forged(),
            _ => Tally::add(&self.tally.ignored),
        }
    }

    fn ping_or_give_up(&mut self, cx: &mut Context<'_>) -> Result<(), io::Error> {
        if self.ping_sent {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the relay does not answer pings",
            ));
        }
        self.ping_sent = true;
        self.timer.as_mut().reset(Instant::now() + self.ping);
        let mut socket = lock(&self.socket);
        let mut socket = Pin::new(&mut *socket);
        // A full send buffer is as good a reason to wait as a lost ping.
        if socket.as_mut().poll_ready(cx).is_ready() {
            let sent: Result<(), WsError> =
                socket.as_mut().start_send(Frame::Ping(Vec::new().into()));
            if sent.is_ok() {
                let _ = socket.poll_flush(cx);
            }
        }
        Ok(())
    }
}

fn is_event(text: &str) -> bool {
    text.trim_start().starts_with("[\"EVENT\"")
}

fn read_event(frame: &str) -> Option<Event> {
    let parts: Vec<&serde_json::value::RawValue> = serde_json::from_str(frame).ok()?;
    Event::from_json(parts.get(2)?.get()).ok()
}

fn lock(socket: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}
