//! Bitcoin Core's JSON-RPC over HTTP: one call, or several in one request.
//!
//! There are client crates. Those that are maintained bring a second HTTP stack, block the thread, or
//! model hundreds of methods; these two functions over the HTTP client that the Esplora backend has
//! already are all that is needed.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::chain::ChainError;
use crate::chain::error::printable;

/// The largest answer that is read: a batch of blocks in hexadecimal.
const MAX_ANSWER: usize = 80 * 1024 * 1024;

/// The largest cookie or password file that is read, in bytes.
const MAX_LOGIN_FILE: u64 = 4096;

/// With what a node lets one in.
#[derive(Clone)]
pub enum CoreLogin {
    /// A file with one line `user:password`, which the node writes anew at each start: its `.cookie`.
    Cookie(PathBuf),
    /// What `rpcauth` or `rpcuser` and `rpcpassword` in bitcoin.conf allow.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Zeroizing<String>,
    },
}

impl CoreLogin {
    /// User and password, the latter being the first line of a file.
    ///
    /// # Errors
    /// One clause that says why the file cannot be used.
    pub fn from_password_file(user: &str, file: &std::path::Path) -> Result<Self, String> {
        let text = read_login_file(file)?;
        let password = text.lines().next().unwrap_or_default().trim_end();
        if password.is_empty() {
            return Err(format!("{} is empty", file.display()));
        }
        Ok(Self::Password {
            user: user.to_owned(),
            password: Zeroizing::new(password.to_owned()),
        })
    }

    /// The value of the `Authorization` header; the error never repeats what a file holds.
    pub(crate) fn header(&self) -> Result<Zeroizing<String>, String> {
        let pair = match self {
            Self::Cookie(file) => {
                let text = read_login_file(file)?;
                let line = text.lines().next().unwrap_or_default().trim();
                if !line.contains(':') {
                    return Err(format!("{} has no line user:password", file.display()));
                }
                Zeroizing::new(line.to_owned())
            }
            Self::Password { user, password } => {
                Zeroizing::new(format!("{user}:{}", password.as_str()))
            }
        };
        let encoded = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
        Ok(Zeroizing::new(format!("Basic {}", encoded.as_str())))
    }
}

impl fmt::Debug for CoreLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(file) => f.debug_tuple("Cookie").field(file).finish(),
            Self::Password { .. } => f.write_str("Password"),
        }
    }
}

fn read_login_file(file: &std::path::Path) -> Result<Zeroizing<String>, String> {
    let unreadable = |error: &dyn fmt::Display| format!("cannot read {}: {error}", file.display());
    let found = std::fs::metadata(file).map_err(|error| unreadable(&error))?;
    if found.len() > MAX_LOGIN_FILE {
        return Err(unreadable(&"it is too large"));
    }
    std::fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| unreadable(&error))
}

/// An error the node answered with.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct NodeError {
    pub(super) code: i32,
    pub(super) message: String,
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// The node answered with an error.
    Node(NodeError),
    /// There was no usable answer.
    Chain(ChainError),
}

impl From<ChainError> for CallError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

/// The RPC interface of one node.
pub(super) struct Rpc {
    client: bitreq::Client,
    url: String,
    host: String,
    login: CoreLogin,
    /// The header in use; read again when the node does not accept it, which is how it looks when the
    /// node was restarted and wrote another cookie.
    header: Mutex<Option<Zeroizing<String>>>,
    timeout: Duration,
    /// Requests sent, for tests that count them.
    requests: AtomicU64,
}

#[derive(Deserialize)]
struct Reply {
    id: Option<u64>,
    result: Option<Box<RawValue>>,
    error: Option<NodeError>,
}

impl Rpc {
    /// `url` is `http://host:port`, with a path only if a proxy in front of the node wants one.
    pub(super) fn new(url: &str, login: CoreLogin, timeout: Duration) -> Result<Self, ChainError> {
        let bad = |problem| ChainError::Url { problem };
        let url = Url::parse(url.trim()).map_err(|_| bad("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("does not start with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                "carries a user name or password: use cookie_file, or user and password_file",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("has a query or fragment"));
        }
        let name = url.host_str().ok_or_else(|| bad("has no host"))?;
        let host = match url.port_or_known_default() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        Ok(Self {
            client: bitreq::Client::new(1),
            url: url.to_string(),
            host,
            login,
            header: Mutex::new(None),
            timeout: timeout.max(Duration::from_secs(1)),
            requests: AtomicU64::new(0),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Calls `method`. A `null` result is read as an absent `Option`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, CallError> {
        self.call_within(method, params, self.timeout).await
    }

    /// As [`Self::call`], with another bound on the time.
    pub(super) async fn call_within<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
        timeout: Duration,
    ) -> Result<T, CallError> {
        let body = json!({"jsonrpc": "1.0", "id": 0, "method": method, "params": params});
        let answer = self.post(body.to_string(), timeout).await?;
        let reply: Reply = self.parse(&answer)?;
        self.result(method, reply)
    }

    /// Calls `method` once for each of `params`, in one request. One failed call does not fail the
    /// others.
    pub(super) async fn batch<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Vec<Value>,
    ) -> Result<Vec<Result<T, NodeError>>, ChainError> {
        if params.is_empty() {
            return Ok(Vec::new());
        }
        let count = params.len();
        let calls: Vec<Value> = (0u64..)
            .zip(params)
            .map(|(id, params)| json!({"jsonrpc": "1.0", "id": id, "method": method, "params": params}))
            .collect();
        let answer = self
            .post(Value::Array(calls).to_string(), self.timeout)
            .await?;
        if answer.trim_ascii_start().starts_with(b"{") {
            // A batch as a whole is refused with a single reply.
            let refused: Reply = self.parse(&answer)?;
            return match self.result::<Value>(method, refused) {
                Err(CallError::Node(error)) => Err(self.node_error(method, error)),
                Err(CallError::Chain(error)) => Err(error),
                Ok(_) => Err(self.bad_answer(format!("one reply to {count} calls of {method}"))),
            };
        }
        let mut replies: Vec<Reply> = self.parse(&answer)?;
        // The order of replies is the node's choice (JSON-RPC 2.0 §6).
        replies.sort_by_key(|reply| reply.id);
        let in_order = (0u64..)
            .zip(&replies)
            .all(|(id, reply)| reply.id == Some(id));
        if replies.len() != count || !in_order {
            return Err(self.bad_answer(format!(
                "the replies to {count} calls of {method} do not match"
            )));
        }
        replies
            .into_iter()
            .map(|reply| match self.result(method, reply) {
                Ok(result) => Ok(Ok(result)),
                Err(CallError::Node(error)) => Ok(Err(error)),
                Err(CallError::Chain(error)) => Err(error),
            })
            .collect()
    }

    fn result<T: DeserializeOwned>(
        &self,
        method: &'static str,
        reply: Reply,
    ) -> Result<T, CallError> {
        if let Some(error) = reply.error {
            return Err(CallError::Node(error));
        }
        let text = reply.result.as_deref().map_or("null", RawValue::get);
        serde_json::from_str(text).map_err(|error| {
            CallError::Chain(self.bad_answer(format!("the result of {method}: {error}")))
        })
    }

    fn parse<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ChainError> {
        serde_json::from_slice(answer)
            .map_err(|error| self.bad_answer(format!("not a JSON-RPC reply: {error}")))
    }

    /// Sends a request and gives the body of the answer.
    async fn post(&self, body: String, timeout: Duration) -> Result<Vec<u8>, ChainError> {
        let mut new_login = false;
        let mut reconnected = false;
        loop {
            let header = self.header(new_login)?;
            let request = bitreq::post(&self.url)
                .with_header("content-type", "application/json")
                .with_header("authorization", header.as_str())
                .with_timeout(timeout.as_secs().max(1))
                .with_max_redirects(0)
                .with_max_body_size(MAX_ANSWER)
                .with_body(body.clone());
            self.requests.fetch_add(1, Ordering::Relaxed);
            let answer = match self.client.send_async(request).await {
                Ok(answer) => answer,
                // The node closes connections that were idle, and all when it stops. Every call may be
                // repeated: a transaction sent twice is one transaction.
                Err(bitreq::Error::IoError(error))
                    if !reconnected && error.kind() != std::io::ErrorKind::TimedOut =>
                {
                    reconnected = true;
                    continue;
                }
                Err(error) => {
                    return Err(ChainError::Unreachable {
                        host: self.host.clone(),
                        detail: printable(&error.to_string()),
                    });
                }
            };
            match answer.status_code {
                401 if !new_login && matches!(self.login, CoreLogin::Cookie(_)) => new_login = true,
                401 => return Err(self.no_login("it does not accept user and password")),
                403 => {
                    return Err(self.no_login(
                        "it does not allow this machine or user (rpcallowip, rpcwhitelist)",
                    ));
                }
                503 => {
                    return Err(ChainError::NotReady {
                        host: self.host.clone(),
                        detail: printable(answer.as_str().unwrap_or_default()),
                    });
                }
                // Errors of calls come with 500, 404 or 400, and a reply.
                _ if answer.as_bytes().trim_ascii_start().starts_with(b"{")
                    || answer.as_bytes().trim_ascii_start().starts_with(b"[") =>
                {
                    return Ok(answer.into_bytes());
                }
                200 => return Err(self.bad_answer("not a JSON-RPC reply".to_owned())),
                status => {
                    return Err(ChainError::Refused {
                        host: self.host.clone(),
                        status: u16::try_from(status).unwrap_or(0),
                        detail: printable(answer.as_str().unwrap_or_default()),
                    });
                }
            }
        }
    }

    fn header(&self, anew: bool) -> Result<Zeroizing<String>, ChainError> {
        let mut kept = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(header) if !anew => Ok(header.clone()),
            _ => {
                let header = self
                    .login
                    .header()
                    .map_err(|detail| self.no_login(&detail))?;
                *kept = Some(header.clone());
                Ok(header)
            }
        }
    }

    /// The node's error as the caller's.
    pub(super) fn node_error(&self, method: &'static str, error: NodeError) -> ChainError {
        let host = self.host.clone();
        let detail = printable(&error.message);
        match error.code {
            WARMING_UP => ChainError::NotReady { host, detail },
            NO_SUCH_METHOD => ChainError::Rpc {
                host,
                method,
                code: NO_SUCH_METHOD,
                detail: "Bitcoin Core 24 or later is needed".to_owned(),
            },
            code => ChainError::Rpc {
                host,
                method,
                code,
                detail,
            },
        }
    }

    pub(super) fn bad_answer(&self, detail: String) -> ChainError {
        ChainError::BadAnswer {
            host: self.host.clone(),
            detail: printable(&detail),
        }
    }

    fn no_login(&self, detail: &str) -> ChainError {
        ChainError::Login {
            host: self.host.clone(),
            detail: detail.to_owned(),
        }
    }
}

/// Errors that mean something here (Bitcoin Core, src/rpc/protocol.h).
pub(super) const MISC: i32 = -1;
/// No such block or transaction.
pub(super) const NOT_FOUND: i32 = -5;
/// For instance a height above the tip, or a scan while another one runs.
pub(super) const BAD_PARAMETER: i32 = -8;
/// The transaction is in a block, and an output of it is unspent.
pub(super) const IN_CHAIN: i32 = -27;
/// The node is starting.
pub(super) const WARMING_UP: i32 = -28;
/// The node is older than the method.
pub(super) const NO_SUCH_METHOD: i32 = -32_601;
