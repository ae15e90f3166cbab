//! The control interface: how the command line talks to a running daemon.
//!
//! One JSON object per line over a unix socket in the home directory (mode 0600, same user only).
//! A request is `{"cmd": "cohort_show", …arguments}`; its answer is `{"ok": true, "result": …}` or
//! `{"ok": false, "error": {"code", "message", "remedy"}}`. The request `{"cmd": "subscribe"}` turns
//! the connection into a stream of events, one object per line.
//!
//! [`Backend`] names every operation once, with the type it takes and the view it returns. The
//! runtime implements it; [`ControlClient`] implements it too, over the socket, so that a command
//! does not know which of the two it speaks to.

pub mod client;
pub mod error;
pub mod event;
pub mod operations;
pub mod request;
mod request_admission;
mod request_keeping;
mod request_money;
mod request_publish;
mod request_refund;
mod request_singleton;
mod request_update;
pub mod server;
pub mod text;
pub mod views;
mod wire;

pub use client::{ControlClient, EventStream};
pub use error::{ErrorCode, Failure};
pub use event::TimelineEvent;
pub use operations::{Backend, Request, answer};
pub use server::{BackendHandler, BindError, ControlServer, Handler, Response};
pub use text::PeerText;

/// Name of the socket in the home directory, where its path is not too long for one.
pub use crate::config::SOCKET_FILE;

/// Longest request line the daemon reads, in bytes. The largest request is a DID patch, and a
/// signed update has to fit a 40 960-byte message (DESIGN §4); the rest is room for escapes.
pub const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// Longest answer line the client reads, in bytes: a cohort of 1 000 members with the delivery of
/// every message to five relays stays below a quarter of it.
pub const MAX_RESPONSE_BYTES: usize = 16 * 1024 * 1024;
