//! HTTP as Esplora servers want it: one request after another, and none while they ask for patience.
//!
//! Public servers limit how often they are asked, with status 429 (or 503) and, often, `Retry-After`. A short wait is
//! waited here. A long one is an error at once, and so is every further question until it is over: nothing is
//! sent that would only make it longer.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitreq::{Client, Method, Proxy, Request, Response};
use serde::de::DeserializeOwned;

use super::ChainError;
use super::error::printable;
use crate::time::UnixTime;

/// Retries of one request after HTTP 429, 500 and 503. The caller retries at its own, slower pace.
const RETRIES: u32 = 2;

/// The wait before the first retry; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// The longest wait inside a request. What is longer is the caller's to know.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The longest wait without word from the server: the limits of public servers are counted per minute.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);

/// The longest that a server is believed to want.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// The longest answer that is read: a page of 50 transactions of the largest size that is relayed, in JSON.
const MAX_ANSWER: usize = 64 << 20;

/// A connection to one server. Not cloneable: what the server asks for holds for everybody who asks it.
pub(super) struct EsploraHttp {
    client: Client,
    base: String,
    host: String,
    proxy: Option<Proxy>,
    timeout: Duration,
    patience: Mutex<Patience>,
    requests: AtomicU64,
}

/// What the server has asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Patience {
    /// No request before.
    until: Option<Instant>,
    /// Refusals in a row.
    refusals: u32,
}

impl Patience {
    /// Notes a refusal at `now` that asked for `retry_after`; `jitter` is a random number that keeps many agents from
    /// coming back in the same moment. Gives the wait.
    fn refused(&mut self, now: Instant, retry_after: Option<Duration>, jitter: u32) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.refusals.min(16));
        self.refusals = self.refusals.saturating_add(1);
        let wait = match retry_after {
            Some(wanted) => wanted.min(LONGEST_RETRY_AFTER),
            None => {
                let wait = doubled.min(LONGEST_BACK_OFF);
                // Up to a quarter more.
                let share = wait / 4;
                wait.saturating_add(share.mul_f64(f64::from(jitter) / f64::from(u32::MAX)))
            }
        };
        self.until = now.checked_add(wait);
        wait
    }

    fn remaining(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }
}

/// An answer that is no success.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The server's status and its words.
    Status { status: u16, message: String },
    /// Anything else.
    Chain(ChainError),
}

impl EsploraHttp {
    /// For the server at `base`, without a slash at its end. Nothing is sent yet.
    pub(super) fn new(
        base: String,
        host: String,
        timeout: Duration,
        proxy: Option<&str>,
    ) -> Result<Self, bitreq::Error> {
        Ok(Self {
            client: Client::new(1),
            base,
            host,
            proxy: proxy.map(Proxy::new_http).transpose()?,
            timeout: timeout.max(Duration::from_secs(1)),
            patience: Mutex::default(),
            requests: AtomicU64::new(0),
        })
    }

    /// Host and port, for messages.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Requests sent so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The JSON at a path.
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        let answer = self.send(Method::Get, path, None).await?;
        serde_json::from_slice(answer.as_bytes()).map_err(|error| self.bad_answer(&error))
    }

    /// The same, with `None` where the server has nothing (404).
    pub(super) async fn found<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<T>, Refusal> {
        match self.json(path).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Refusal::Status { status: 404, .. }) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// The text at a path.
    pub(super) async fn text(&self, path: &str) -> Result<String, Refusal> {
        self.words(self.send(Method::Get, path, None).await?)
    }

    /// Posts a text, and gives the answer's.
    pub(super) async fn post(&self, path: &str, body: String) -> Result<String, Refusal> {
        self.words(self.send(Method::Post, path, Some(body)).await?)
    }

    fn words(&self, answer: Response) -> Result<String, Refusal> {
        let text = answer.as_str().map_err(|error| self.bad_answer(&error))?;
        Ok(text.trim().to_owned())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Response, Refusal> {
        let mut retries = 0;
        loop {
            self.wait().await.map_err(Refusal::Chain)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            let request = self.request(method.clone(), path, body.clone());
            let answer = self.client.send_async(request).await;
            let answer = answer.map_err(|error| Refusal::Chain(self.broken(&error)))?;
            let status = u16::try_from(answer.status_code).unwrap_or_default();
            let message = || answer.as_str().unwrap_or_default().to_owned();
            match status {
                200..=299 => {
                    *self.patience() = Patience::default();
                    return Ok(answer);
                }
                429 | 503 => {
                    let wanted = retry_after(&answer.headers, clock());
                    let wait = self
                        .patience()
                        .refused(Instant::now(), wanted, rand::random());
                    if retries >= RETRIES || wait > LONGEST_PAUSE {
                        return Err(Refusal::Status {
                            status,
                            message: message(),
                        });
                    }
                }
                // Some servers fail for a moment while a block comes in.
                500 if retries < RETRIES => {
                    tokio::time::sleep(FIRST_WAIT.saturating_mul(1 << retries)).await;
                }
                _ => {
                    return Err(Refusal::Status {
                        status,
                        message: message(),
                    });
                }
            }
            retries += 1;
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<String>) -> Request {
        let mut request = Request::new(method, format!("{}{path}", self.base))
            .with_header(
                "user-agent",
                concat!("btcr2-agent/", env!("CARGO_PKG_VERSION")),
            )
            .with_timeout(self.timeout.as_secs())
            .with_max_body_size(MAX_ANSWER);
        if let Some(proxy) = &self.proxy {
            request = request.with_proxy(proxy.clone());
        }
        match body {
            Some(body) => request.with_body(body),
            None => request,
        }
    }

    /// Waits until the server may be asked again, if that is soon.
    async fn wait(&self) -> Result<(), ChainError> {
        let remaining = self.patience().remaining(Instant::now());
        match remaining {
            None => {}
            Some(left) if left <= LONGEST_PAUSE => tokio::time::sleep(left).await,
            Some(left) => {
                return Err(ChainError::RateLimited {
                    host: self.host.clone(),
                    seconds: left.as_secs().max(1),
                });
            }
        }
        Ok(())
    }

    fn patience(&self) -> std::sync::MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bad_answer(&self, error: &dyn std::fmt::Display) -> Refusal {
        Refusal::Chain(ChainError::BadAnswer {
            host: self.host.clone(),
            detail: printable(&error.to_string()),
        })
    }

    fn broken(&self, error: &bitreq::Error) -> ChainError {
        let host = self.host.clone();
        let detail = printable(&error.to_string());
        let transport = error.source().is_some_and(|source| {
            source.is::<io::Error>()
                || !(source.is::<serde_json::Error>() || source.is::<std::str::Utf8Error>())
        });
        if transport {
            ChainError::Unreachable { host, detail }
        } else {
            ChainError::BadAnswer { host, detail }
        }
    }
}

/// How long a `Retry-After` header asks to wait (RFC 9110 §10.2.3): in seconds, or until a date. A date is the server's:
/// it is held against the `Date` of the same answer, so that neither clock has to be right; without one against `now`.
fn retry_after(headers: &BTreeMap<String, String>, now: UnixTime) -> Option<Duration> {
    let value = headers.get("retry-after")?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is more than is believed.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = UnixTime::from_http_date(value)?;
    let date = headers.get("date");
    let now = date
        .and_then(|date| UnixTime::from_http_date(date))
        .unwrap_or(now);
    // A date in the past asks for nothing; nor may it ask to be asked at once, again and again.
    Some(Duration::from_secs(until.since(now))).filter(|wait| !wait.is_zero())
}

fn clock() -> UnixTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(now.map_or(0, |now| now.as_secs()))
}

/// The fee rates of `/fee-estimates`: by target in blocks, in sat/vB.
pub(super) type Estimates = HashMap<u16, f64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_refusals_and_is_what_the_server_says() {
        let now = Instant::now();
        let mut patience = Patience::default();
        let waits: Vec<u128> = (0..13)
            .map(|_| patience.refused(now, None, 0).as_millis())
            .collect();
        assert_eq!(waits[..4], [250, 500, 1_000, 2_000]);
        assert_eq!(waits[11..], [300_000, 300_000]);
        let most = Patience::default().refused(now, None, u32::MAX);
        assert!(most > Duration::from_millis(300) && most < Duration::from_millis(313));

        let wanted = Duration::from_secs(17);
        assert_eq!(patience.refused(now, Some(wanted), u32::MAX), wanted);
        let seconds = Duration::from_secs;
        assert_eq!(patience.remaining(now + seconds(16)), Some(seconds(1)));
        assert_eq!(patience.remaining(now + wanted), None);
        let day = seconds(86_400);
        assert_eq!(patience.refused(now, Some(day), 0), LONGEST_RETRY_AFTER);
    }

    #[test]
    fn a_header_is_seconds_a_date_or_nothing() {
        let headers = |fields: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            fields.iter().map(owned).collect()
        };
        // 07:28:00 of that day.
        let now = UnixTime(1_445_412_480);
        let header = |value: &str| {
            let headers = headers(&[("retry-after", value)]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(header("0"), Some(0));
        assert_eq!(header(" 120 "), Some(120));
        assert_eq!(header(&"9".repeat(40)), Some(u64::MAX));
        assert_eq!(header("Wed, 21 Oct 2015 07:29:30 GMT"), Some(90));
        let past = [
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT",
        ];
        for other in ["", "-1", "1.5", "soon", "Thu, 21 Oct 2015 07:29:30 GMT"]
            .iter()
            .chain(&past)
        {
            assert_eq!(header(other), None, "{other}");
        }
        assert_eq!(retry_after(&BTreeMap::new(), now), None);
        // The server's own clock is what its date is held against.
        let ahead = headers(&[
            ("retry-after", "Wed, 21 Oct 2015 09:00:20 GMT"),
            ("date", "Wed, 21 Oct 2015 09:00:00 GMT"),
        ]);
        assert_eq!(retry_after(&ahead, now), Some(Duration::from_secs(20)));
        let nonsense = headers(&[
            ("retry-after", "Wed, 21 Oct 2015 07:28:20 GMT"),
            ("date", "now"),
        ]);
        assert_eq!(retry_after(&nonsense, now), Some(Duration::from_secs(20)));
    }
}
