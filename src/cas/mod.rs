//! Content-addressed storage over the HTTP interfaces of IPFS (spec.md §2.9).
//!
//! An object is the canonical bytes of one JSON artifact, stored as one raw block, so that its address
//! ([`crate::did::json::cid`]) follows from the SHA-256 that did:btcr2 announces. [`CasReader`] gets objects
//! from gateways, [`CasPublisher`] stores them at a node. Neither is made, and nothing is contacted,
//! unless its addresses were configured.
//!
//! Gateways and nodes are strangers: what they send is bounded while it is read and re-hashed before it
//! is used, and an address they name is compared with the one computed here. Redirects are never
//! followed to where a server says, see [`CasReader`].

mod gateway;
mod rpc;

use std::error::Error as _;
use std::io;
use std::time::Duration;

use url::Url;

use crate::config::{Reach, reach};

pub use self::gateway::{CasReader, DEFAULT_TIMEOUT};
pub use self::rpc::{CasPublisher, MAX_BLOCK_BYTES, RpcAuth, RpcAuthError};

/// Longest part of a server's own words that goes into an error, in characters.
const MAX_DETAIL: usize = 200;

/// What this program calls itself.
const USER_AGENT: &str = concat!("btcr2-agent/", env!("CARGO_PKG_VERSION"));

/// Why an object could not be read or stored. Names the server by host and port, never by path: paths
/// may carry access tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CasError {
    /// The URL cannot be used. It is not repeated: it may carry an access token.
    #[error("the {service} URL {problem}: give one such as {example}")]
    Url {
        /// What it is for: `IPFS gateway` or `IPFS RPC`.
        service: &'static str,
        /// What is wrong with it.
        problem: &'static str,
        /// One that could be used.
        example: &'static str,
    },
    /// No connection.
    #[error(
        "cannot reach the IPFS server {host}: {detail}; check the URL, that the server runs, and this machine's network"
    )]
    Unreachable {
        /// Host and port.
        host: String,
        /// The system's words.
        detail: String,
    },
    /// No complete answer in time. That says nothing about whether the object exists.
    #[error("the IPFS server {host} did not answer within {seconds} s; try again or use another")]
    TimedOut {
        /// Host and port.
        host: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server answered with an HTTP error.
    #[error("the IPFS server {host} refused the request with HTTP {status}: {detail}{}", refusal_remedy(*status))]
    Refused {
        /// Host and port.
        host: String,
        /// The HTTP status code.
        status: u16,
        /// The first words of the answer.
        detail: String,
    },
    /// The server redirects, and not to where redirects of gateways are known to lead.
    #[error(
        "the IPFS server {host} redirects elsewhere, which is not followed; set the URL of a gateway that answers itself"
    )]
    Redirected {
        /// Host and port.
        host: String,
    },
    /// The object is larger than what was asked for can be.
    #[error("the IPFS server {host} sends more than the {limit} bytes allowed for {cid}")]
    TooLarge {
        /// Host and port.
        host: String,
        /// The object.
        cid: String,
        /// The most that is read.
        limit: usize,
    },
    /// What was sent does not hash to the object's address.
    #[error("the IPFS server {host} sent other bytes than those of {cid}; do not use this server")]
    WrongBytes {
        /// Host and port.
        host: String,
        /// The object.
        cid: String,
    },
    /// The answer is not what IPFS's HTTP interfaces say.
    #[error(
        "the IPFS server {host} gave an unusable answer: {detail}; check that the URL is right"
    )]
    BadAnswer {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The object does not fit one block, and only a single block has the address that resolvers use.
    #[error(
        "the object has {bytes} bytes and one IPFS block holds at most {MAX_BLOCK_BYTES}; hand it out as sidecar data instead"
    )]
    BlockTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The node stored the object under another address, where no resolver looks for it.
    #[error(
        "the IPFS node {host} stored the object as {returned} instead of {expected}; check that it is Kubo or compatible, and its Import settings"
    )]
    WrongCid {
        /// Host and port.
        host: String,
        /// The address computed here.
        expected: String,
        /// The address it named.
        returned: String,
    },
}

const fn refusal_remedy(status: u16) -> &'static str {
    match status {
        401 | 403 => "; it wants permission: check the credentials, or use another",
        404 | 405 => "; check that the URL is right",
        429 => "; too many requests: wait, or use another",
        500..=599 => "; try again later or use another",
        _ => "",
    }
}

/// The address of a server that may be talked to: https, or http to this machine or a private network,
/// where nobody on the way can read or change what is said.
#[derive(Clone, PartialEq, Eq)]
struct Server {
    /// Without a trailing slash.
    base: String,
    url: Url,
    /// Host and port, for messages.
    host: String,
}

impl Server {
    fn parse(text: &str, service: &'static str, example: &'static str) -> Result<Self, CasError> {
        let bad = |problem| CasError::Url {
            service,
            problem,
            example,
        };
        let url = Url::parse(text.trim()).map_err(|_| bad("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("does not start with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("carries a user name or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("has a query or fragment"));
        }
        let name = url.host().ok_or_else(|| bad("has no host"))?;
        match reach(&name) {
            Reach::Public if url.scheme() == "http" => {
                return Err(bad("is of a public server and not https"));
            }
            Reach::Onion => return Err(bad("is of an onion service, which needs a Tor proxy")),
            Reach::Public | Reach::Local => {}
        }
        let host = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_string(),
        };
        Ok(Self {
            base: url.as_str().trim_end_matches('/').to_owned(),
            url,
            host,
        })
    }

    /// Sends a request. No redirect is followed: the client would go wherever it is sent.
    async fn send(
        &self,
        request: bitreq::Request,
        max_body: usize,
        timeout: Duration,
    ) -> Result<Answer, CasError> {
        let seconds = timeout.as_secs().max(1);
        let sending = request
            .with_header("User-Agent", USER_AGENT)
            .with_timeout(seconds)
            .with_max_redirects(0)
            .with_max_body_size(max_body)
            .with_max_headers_size(64 * 1024)
            .with_max_status_line_length(4 * 1024)
            .send_async();
        // The client's own limit does not cover looking up the name.
        let timed_out = || CasError::TimedOut {
            host: self.host.clone(),
            seconds,
        };
        match tokio::time::timeout(Duration::from_secs(seconds), sending).await {
            Err(_) => Err(timed_out()),
            // The one redirect status that the client hands out.
            Ok(Ok(response)) if response.status_code == 308 => Ok(Answer::Redirect),
            Ok(Ok(response)) => Ok(Answer::Body {
                status: u16::try_from(response.status_code).unwrap_or(0),
                bytes: response.into_bytes(),
            }),
            Ok(Err(error)) => match error {
                bitreq::Error::TooManyRedirections
                | bitreq::Error::InfiniteRedirectionLoop
                | bitreq::Error::RedirectLocationMissing
                | bitreq::Error::InvalidUrl(_) => Ok(Answer::Redirect),
                bitreq::Error::BodyOverflow => Ok(Answer::TooLarge),
                bitreq::Error::IoError(error) if error.kind() == io::ErrorKind::TimedOut => {
                    Err(timed_out())
                }
                bitreq::Error::IoError(_) | bitreq::Error::AddressNotFound => {
                    Err(CasError::Unreachable {
                        host: self.host.clone(),
                        detail: printable(&error.to_string()),
                    })
                }
                other
                    if other
                        .source()
                        .is_some_and(|source| source.is::<io::Error>()) =>
                {
                    Err(CasError::Unreachable {
                        host: self.host.clone(),
                        detail: printable(&other.to_string()),
                    })
                }
                other => Err(self.bad_answer(other.to_string())),
            },
        }
    }

    fn bad_answer(&self, detail: impl AsRef<str>) -> CasError {
        CasError::BadAnswer {
            host: self.host.clone(),
            detail: printable(detail.as_ref()),
        }
    }

    fn refused(&self, status: u16, body: &[u8]) -> CasError {
        CasError::Refused {
            host: self.host.clone(),
            status,
            detail: printable(&String::from_utf8_lossy(body)),
        }
    }

    fn redirected(&self) -> CasError {
        CasError::Redirected {
            host: self.host.clone(),
        }
    }
}

/// What a server did with a request.
enum Answer {
    Body { status: u16, bytes: Vec<u8> },
    Redirect,
    TooLarge,
}

/// A stranger's text made fit for one line of a log.
fn printable(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL)
        .collect();
    let line = line.trim();
    if line.is_empty() {
        "no reason given".to_owned()
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(url: &str) -> &'static str {
        match Server::parse(url, "IPFS gateway", "https://example.org") {
            Err(CasError::Url { problem, .. }) => problem,
            _ => panic!("{url} is accepted"),
        }
    }

    #[test]
    fn urls_that_could_leak_or_mislead_are_refused() {
        for (url, expected) in [
            ("dweb.link", "is not a URL"),
            ("ftp://dweb.link", "does not start with https:// or http://"),
            ("http://dweb.link", "is of a public server and not https"),
            ("https://a:b@dweb.link", "carries a user name or password"),
            ("https://dweb.link/?key=1", "has a query or fragment"),
            ("https://dweb.link/#x", "has a query or fragment"),
            (
                "http://abcdef.onion",
                "is of an onion service, which needs a Tor proxy",
            ),
        ] {
            assert_eq!(problem(url), expected, "{url}");
        }
    }

    #[test]
    fn messages_name_the_host_and_never_the_path() {
        for (url, host) in [
            ("https://dweb.link/token/", "dweb.link"),
            ("https://gateway.example:8443/token", "gateway.example:8443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://ipfs.lan", "ipfs.lan"),
        ] {
            let server = Server::parse(url, "IPFS gateway", "").unwrap();
            assert_eq!(server.host, host);
            assert_eq!(server.base, url.trim_end_matches('/'));
            assert!(!server.redirected().to_string().contains("token"));
        }
    }

    #[test]
    fn foreign_words_are_one_short_line() {
        assert_eq!(printable("a\nb\u{1b}[2J"), "a b [2J");
        assert_eq!(printable("\r\n"), "no reason given");
        assert_eq!(printable(&"x".repeat(5000)).len(), MAX_DETAIL);
    }
}
