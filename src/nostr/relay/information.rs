//! What the relay tells of itself over HTTP (NIP-11).

use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::session::{MAX_FILTERS, MAX_FRAME, MAX_LIMIT, MAX_SUBSCRIPTION_NAME};
use super::{MAX_SUBSCRIPTIONS, Shared};
use crate::nostr::event::MAX_RECEIVED_BYTES;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 4_096;

/// Whether a new connection asks for information instead of a WebSocket. Looks without reading; a
/// request that does not come in one piece is taken for a WebSocket's.
pub(super) async fn is_asked(stream: &TcpStream) -> bool {
    let mut head = [0; MAX_HEAD];
    let Ok(length) = stream.peek(&mut head).await else {
        return false;
    };
    let head = String::from_utf8_lossy(head.get(..length).unwrap_or_default());
    let head = head.to_ascii_lowercase();
    head.contains("\r\n\r\n") && !head.contains("upgrade: websocket")
}

/// Answers one such request.
pub(super) async fn tell(mut stream: TcpStream, shared: &Shared) {
    shared.counters.informed.fetch_add(1, Ordering::Relaxed);
    let faults = shared.faults.borrow().clone();
    let document = faults.info.clone().unwrap_or_else(|| {
        json!({
            "name": "btcr2-agent dev relay",
            "software": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "supported_nips": [1, 9, 11, 40, 42],
            "limitation": {
                "max_message_length": faults.max_bytes.map_or(MAX_FRAME, |max| max + 64),
                "max_event_bytes": faults.max_bytes.unwrap_or(MAX_RECEIVED_BYTES),
                "max_subscriptions": MAX_SUBSCRIPTIONS,
                "max_filters": MAX_FILTERS,
                "max_limit": faults.page.unwrap_or(MAX_LIMIT),
                "max_subid_length": MAX_SUBSCRIPTION_NAME,
                "min_pow_difficulty": faults.pow,
                "auth_required": faults.require_auth,
                "restricted_writes": false,
            },
        })
    });
    let body = document.to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/nostr+json\r\nDate: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        shared.now().to_http_date(),
        body.len(),
    );
    // The request is taken in, or closing would reset the connection before the answer is read.
    let mut head = [0; MAX_HEAD];
    let _ = stream.read(&mut head).await;
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
