//! Reading objects from IPFS gateways, as raw blocks (the Trustless Gateway specification).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use url::Host;

use super::{Answer, CasError, Server};
use crate::did::json::cid_of_hash;
use crate::hash::sha256;

/// How long one gateway may take for one object, where nothing else is said. Gateways that have to look
/// for an object in the network take tens of seconds; a resolver has many waiting for it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of an error page that are read before its status counts.
const ERROR_PAGE: usize = 64 * 1024;

/// Reads objects from IPFS gateways. Cheap to clone.
///
/// The gateways are asked one after another, in the order they were given, until one has the object.
///
/// Some gateways answer `https://host/ipfs/<cid>` with a redirect to `https://<cid>.ipfs.host/`, and a
/// local node redirects from `localhost`, not from `127.0.0.1`. Where such a redirect leads is known
/// without reading it, so it is computed and followed once; the `Location` a server sends is never
/// used. A gateway can therefore not make this program talk to another host: not to a private address,
/// and not without TLS.
#[derive(Clone)]
pub struct CasReader {
    gateways: Arc<[Server]>,
    timeout: Duration,
}

impl fmt::Debug for CasReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.hosts()).finish()
    }
}

impl CasReader {
    /// A reader of the gateways at these base URLs (`https://dweb.link`, `http://127.0.0.1:8080`);
    /// nothing is sent yet. `timeout` bounds one gateway's answer, rounded up to whole seconds.
    ///
    /// # Errors
    /// [`CasError::Url`]: not https (http for this machine and private networks), or with a user name,
    /// query or fragment.
    pub fn new<S: AsRef<str>>(
        gateways: impl IntoIterator<Item = S>,
        timeout: Duration,
    ) -> Result<Self, CasError> {
        let parse = |url: S| check_gateway(url.as_ref());
        Ok(Self {
            gateways: gateways.into_iter().map(parse).collect::<Result<_, _>>()?,
            timeout,
        })
    }

    /// Whether there is no gateway: then no object is ever found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty()
    }

    /// The gateways, as host and port.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.gateways.iter().map(|gateway| gateway.host.as_str())
    }

    /// The object with this SHA-256, of at most `limit` bytes.
    ///
    /// `None` says that every gateway answered and none has it (HTTP 404, 410 or 451) or found it in
    /// its own time (504). The bytes are those that were asked for: they were re-hashed.
    ///
    /// # Errors
    /// The first gateway's failure, when none had the object and not all said so: then it is not known
    /// whether it exists.
    pub async fn get(&self, hash: &[u8; 32], limit: usize) -> Result<Option<Vec<u8>>, CasError> {
        let cid = cid_of_hash(hash);
        let mut failure = None;
        for gateway in self.gateways.iter() {
            match self.get_from(gateway, hash, &cid, limit).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => tracing::debug!(%cid, host = gateway.host, "not at this gateway"),
                Err(error) => {
                    tracing::debug!(%cid, %error, "gateway failed");
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    async fn get_from(
        &self,
        gateway: &Server,
        hash: &[u8; 32],
        cid: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, CasError> {
        let ask = async |url: String| {
            let request = bitreq::get(url).with_header("Accept", "application/vnd.ipld.raw");
            gateway
                .send(request, limit.max(ERROR_PAGE), self.timeout)
                .await
        };
        let mut answer = ask(format!("{}/ipfs/{cid}?format=raw", gateway.base)).await?;
        if matches!(answer, Answer::Redirect)
            && let Some(elsewhere) = redirect_target(gateway, cid)
        {
            answer = ask(elsewhere).await?;
        }
        let too_large = || CasError::TooLarge {
            host: gateway.host.clone(),
            cid: cid.to_owned(),
            limit,
        };
        match answer {
            Answer::Redirect => Err(gateway.redirected()),
            Answer::TooLarge => Err(too_large()),
            Answer::Body { status: 200, bytes } if bytes.len() > limit => Err(too_large()),
            Answer::Body { status: 200, bytes } if sha256(&bytes) == *hash => Ok(Some(bytes)),
            Answer::Body { status: 200, .. } => Err(CasError::WrongBytes {
                host: gateway.host.clone(),
                cid: cid.to_owned(),
            }),
            Answer::Body {
                status: 404 | 410 | 451 | 504,
                ..
            } => Ok(None),
            Answer::Body { status, bytes } => Err(gateway.refused(status, &bytes)),
        }
    }
}

fn check_gateway(url: &str) -> Result<Server, CasError> {
    Server::parse(url, "IPFS gateway", "https://dweb.link")
}

/// Where a redirect of this gateway legitimately leads: the Subdomain Gateway specification's address of
/// the object, or for `localhost`, whose subdomains few systems resolve, the same node by its address.
fn redirect_target(gateway: &Server, cid: &str) -> Option<String> {
    // A gateway below a path has no subdomain form.
    if gateway.url.path() != "/" {
        return None;
    }
    let Some(Host::Domain(name)) = gateway.url.host() else {
        return None;
    };
    let scheme = gateway.url.scheme();
    let port = gateway.url.port().map(|port| format!(":{port}"));
    let port = port.unwrap_or_default();
    Some(if name == "localhost" {
        format!("{scheme}://127.0.0.1{port}/ipfs/{cid}?format=raw")
    } else {
        format!("{scheme}://{cid}.ipfs.{name}{port}/?format=raw")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_the_objects_own_subdomain_or_nowhere() {
        let target = |url: &str| redirect_target(&check_gateway(url).unwrap(), "bafkabc");
        assert_eq!(
            target("https://dweb.link").as_deref(),
            Some("https://bafkabc.ipfs.dweb.link/?format=raw")
        );
        assert_eq!(
            target("https://gateway.example:8443/").as_deref(),
            Some("https://bafkabc.ipfs.gateway.example:8443/?format=raw")
        );
        assert_eq!(
            target("http://localhost:8080").as_deref(),
            Some("http://127.0.0.1:8080/ipfs/bafkabc?format=raw")
        );
        assert_eq!(target("http://127.0.0.1:8080"), None);
        assert_eq!(target("http://[::1]:8080"), None);
        assert_eq!(target("https://example.org/gateway"), None);
    }

    #[test]
    fn debug_shows_hosts_only() {
        let reader = CasReader::new(["https://a.example/secret/"], DEFAULT_TIMEOUT).unwrap();
        assert_eq!(format!("{reader:?}"), "[\"a.example\"]");
    }
}
