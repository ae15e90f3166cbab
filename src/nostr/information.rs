//! Asks a relay what it is (NIP-11), and the time it says it is.
//!
//! Relays the operator uses are asked, over HTTP at the relay's own address.

use std::time::Duration;

pub use btcr2_core::nostr::information::*;

use super::policy::RelayUrl;
use crate::time::UnixTime;

/// What came back: the document and the date beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// What it says of itself; a relay may tell the time and nothing else.
    pub information: Result<RelayInformation, InformationFault>,
    /// The time of its HTTP server (RFC 9110 `Date`), to the second.
    pub date: Option<UnixTime>,
}

/// Asks a relay what it is. No redirect is followed. Only for relays the operator uses: the address is
/// resolved by the HTTP client, which dials private addresses too.
pub async fn describe(url: &RelayUrl, timeout: Duration) -> Described {
    let unreachable = |reason: String| Described {
        information: Err(InformationFault::Unreachable(reason)),
        date: None,
    };
    // ws -> http, wss -> https.
    let address = url.as_str().replacen("ws", "http", 1);
    let request = bitreq::get(address)
        .with_header("Accept", "application/nostr+json")
        .with_max_redirects(0)
        .with_max_headers_size(16 * 1024)
        .with_max_status_line_length(4 * 1024)
        .with_max_body_size(MAX_BYTES);
    let answer = match tokio::time::timeout(timeout, request.send_async()).await {
        Err(_) => return unreachable("none in time".to_owned()),
        Ok(Err(error)) => return unreachable(error.to_string()),
        Ok(Ok(answer)) => answer,
    };
    let date = answer
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("date"))
        .and_then(|(_, value)| UnixTime::from_http_date(value));
    let information = if answer.status_code == 200 {
        RelayInformation::parse(answer.as_bytes())
    } else {
        Err(InformationFault::Status(answer.status_code))
    };
    Described { information, date }
}
