//! Storing objects at an IPFS node, over the HTTP RPC of Kubo.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Answer, CasError, Server, printable};
use crate::did::json::cid;
use crate::hash::{sha256, to_hex};

/// The largest object that is stored, in bytes: nodes exchange blocks of up to 1 MiB for certain.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;

/// Bytes of an answer that are read. One object's answer has about 150.
const MAX_ANSWER: usize = 64 * 1024;

/// How long storing one object may take. Pinning is local; announcing it to the network is not waited for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longest credentials, in bytes.
const MAX_CREDENTIALS: usize = 4096;

/// Stores objects at one IPFS node.
pub struct CasPublisher {
    node: Server,
    auth: Option<RpcAuth>,
}

impl fmt::Debug for CasPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CasPublisher")
            .field("host", &self.node.host)
            .field("auth", &self.auth)
            .finish()
    }
}

impl CasPublisher {
    /// A publisher to the node whose RPC is at this base URL (`http://127.0.0.1:5001`); nothing is sent
    /// yet.
    ///
    /// # Errors
    /// [`CasError::Url`]: not https (http for this machine and private networks), or with a user name,
    /// query or fragment.
    pub fn new(rpc: &str, auth: Option<RpcAuth>) -> Result<Self, CasError> {
        let node = Server::parse(rpc, "IPFS RPC", "http://127.0.0.1:5001")?;
        Ok(Self { node, auth })
    }

    /// The node, as host and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.node.host
    }

    /// Stores and pins `bytes` as one raw block and returns its address, which is [`cid`] of the bytes.
    /// Storing what is there already changes nothing.
    ///
    /// # Errors
    /// [`CasError::BlockTooLarge`], before anything is sent; [`CasError::WrongCid`] if the node used
    /// another format; else why it did not answer or refused.
    pub async fn publish(&self, bytes: &[u8]) -> Result<String, CasError> {
        if bytes.len() > MAX_BLOCK_BYTES {
            return Err(CasError::BlockTooLarge { bytes: bytes.len() });
        }
        let expected = cid(bytes);
        // Every setting of the node's own that could give the object another address is overridden.
        let url = format!(
            "{}/api/v0/add?cid-version=1&hash=sha2-256&raw-leaves=true&chunker=size-{MAX_BLOCK_BYTES}\
             &inline=false&trickle=false&wrap-with-directory=false&preserve-mode=false\
             &preserve-mtime=false&only-hash=false&nocopy=false&progress=false&pin=true",
            self.node.base
        );
        // A text cannot contain its own hash, so the boundary does not occur in the object.
        let boundary = format!("btcr2-{}", to_hex(&sha256(bytes)));
        let mut request = bitreq::post(url)
            .with_header(
                "Content-Type",
                format!("multipart/form-data; boundary={boundary}"),
            )
            .with_body(multipart(bytes, &boundary, &expected));
        if let Some(auth) = &self.auth {
            request = request.with_header("Authorization", auth.header().as_str());
        }
        match self.node.send(request, MAX_ANSWER, TIMEOUT).await? {
            Answer::Redirect => Err(self.node.redirected()),
            Answer::TooLarge => Err(self.node.bad_answer("it is too long")),
            Answer::Body { status: 200, bytes } => self.check(&bytes, expected),
            Answer::Body { status, bytes } => Err(self.refusal(status, &bytes)),
        }
    }

    /// The node says one line of JSON per thing it stored: exactly one block, at the expected address.
    fn check(&self, answer: &[u8], expected: String) -> Result<String, CasError> {
        #[derive(Deserialize)]
        struct Added {
            #[serde(rename = "Hash")]
            hash: String,
        }
        let mut added = serde_json::Deserializer::from_slice(answer).into_iter::<Added>();
        let first = match added.next() {
            Some(Ok(first)) => first,
            Some(Err(error)) => return Err(self.node.bad_answer(error.to_string())),
            None => return Err(self.node.bad_answer("it is empty")),
        };
        if first.hash != expected {
            return Err(CasError::WrongCid {
                host: self.node.host.clone(),
                expected,
                returned: printable(&first.hash),
            });
        }
        if added.next().is_some() {
            return Err(self.node.bad_answer("it names more than one object"));
        }
        Ok(expected)
    }

    /// Kubo explains itself as `{"Message": …, "Code": …, "Type": "error"}`.
    fn refusal(&self, status: u16, body: &[u8]) -> CasError {
        #[derive(Deserialize)]
        struct Explained {
            #[serde(rename = "Message")]
            message: String,
        }
        match serde_json::from_slice::<Explained>(body) {
            Ok(explained) => self.node.refused(status, explained.message.as_bytes()),
            Err(_) => self.node.refused(status, body),
        }
    }
}

/// One file of a form (RFC 7578). Its name does not enter the address.
fn multipart(bytes: &[u8], boundary: &str, name: &str) -> Vec<u8> {
    let mut body = format!(
        "--{boundary}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(bytes);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

/// Credentials for a node's RPC. Never printed.
#[derive(Clone)]
pub enum RpcAuth {
    /// A bearer token (RFC 6750).
    Bearer(Zeroizing<String>),
    /// `user:password` (RFC 7617).
    Basic(Zeroizing<String>),
}

impl fmt::Debug for RpcAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(…)",
            Self::Basic(_) => "Basic(…)",
        })
    }
}

/// A text holds no credentials. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("credentials of an IPFS RPC are one line, bearer:TOKEN or basic:USER:PASSWORD")]
pub struct RpcAuthError;

impl RpcAuth {
    /// Reads one line in the form that Kubo's own `API.Authorizations` setting uses: `bearer:TOKEN` or
    /// `basic:USER:PASSWORD`.
    ///
    /// # Errors
    /// [`RpcAuthError`] for anything else, control characters and spaces in a token included.
    pub fn parse(text: &str) -> Result<Self, RpcAuthError> {
        let line = text.trim_end_matches(['\r', '\n']);
        if line.len() > MAX_CREDENTIALS || line.chars().any(char::is_control) {
            return Err(RpcAuthError);
        }
        if let Some(token) = line.strip_prefix("bearer:") {
            let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
            return is_token
                .then(|| Self::Bearer(Zeroizing::new(token.to_owned())))
                .ok_or(RpcAuthError);
        }
        line.strip_prefix("basic:")
            .filter(|pair| {
                pair.split_once(':')
                    .is_some_and(|(user, _)| !user.is_empty())
            })
            .map(|pair| Self::Basic(Zeroizing::new(pair.to_owned())))
            .ok_or(RpcAuthError)
    }

    fn header(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Bearer(token) => format!("Bearer {}", token.as_str()),
            Self::Basic(pair) => format!("Basic {}", STANDARD.encode(pair.as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_two_forms() {
        let header = |text| RpcAuth::parse(text).unwrap().header();
        assert_eq!(header("bearer:abc.def\n").as_str(), "Bearer abc.def");
        // RFC 7617's own example.
        assert_eq!(
            header("basic:Aladdin:open sesame\r\n").as_str(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        for text in [
            "",
            "abc",
            "bearer:",
            "bearer:a b",
            "bearer:a\r\nX-Injected: 1",
            "basic:alice",
            "basic::secret",
            "Bearer abc",
            &format!("bearer:{}", "x".repeat(MAX_CREDENTIALS)),
        ] {
            assert!(RpcAuth::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_no_credentials() {
        let auth = RpcAuth::parse("basic:alice:hunter2").unwrap();
        let publisher = CasPublisher::new("http://127.0.0.1:5001/token", Some(auth)).unwrap();
        let shown = format!("{publisher:?}");
        assert_eq!(
            shown,
            "CasPublisher { host: \"127.0.0.1:5001\", auth: Some(Basic(…)) }"
        );
    }

    #[test]
    fn the_form_holds_the_bytes_and_nothing_else() {
        let body = multipart(b"{}", "B", "bafk");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bafk\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{}\r\n--B--\r\n"
        );
    }
}
