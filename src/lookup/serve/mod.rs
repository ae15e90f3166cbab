//! A resolver for others: the HTTP(S) binding of the DID Resolution specification, which is also the
//! interface of a driver of the Universal Resolver. `docs/serve.md` describes it.
//!
//! It needs no key, no home and no daemon, and keeps nothing between requests but facts of blocks.
//! Clients are strangers: connections, time, headers, bodies and resolutions under way are bounded, see
//! [`ServeSettings`].

mod answer;
mod asked;
mod connections;
mod negotiate;
mod routes;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Lookup;
use crate::network::Network;
use crate::resolver::Strictness;

/// Bounds of a server, and how strict it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeSettings {
    /// Longest body of a POST, in bytes.
    pub max_body: usize,
    /// Time to read a body, and after that to resolve.
    pub request_time: Duration,
    /// Resolutions under way at once; a further one is turned away. A body is read only once there is a
    /// place, so this times `max_body` is what bodies can take.
    pub max_resolutions: usize,
    /// Connections open at once; further ones wait to be accepted.
    pub max_connections: usize,
    /// Time to send the whole header of a request, and to begin the next one.
    pub header_time: Duration,
    /// Time after which a connection is closed as soon as nothing is under way on it.
    pub connection_time: Duration,
    /// How strictly updates are read.
    pub strictness: Strictness,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            max_body: 4 << 20,
            request_time: Duration::from_secs(30),
            max_resolutions: 32,
            max_connections: 512,
            header_time: Duration::from_secs(10),
            connection_time: Duration::from_secs(300),
            strictness: Strictness::default(),
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address can not be listened on.
    #[error("cannot listen on {address}: {source}; choose another port, or 0 for a free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to resolve with.
    #[error("no chain is served: name at least one network's chain server")]
    NoChain,
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct ResolverServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl ResolverServer {
    /// Serves the DIDs of these networks at `address`; port 0 takes a free one.
    ///
    /// A chain backend has one request under way at a time. A network with several lookups, each with a
    /// backend of its own, resolves as many DIDs at once; the first that is least busy is used.
    ///
    /// It speaks HTTP without TLS: on another address than loopback, something in front has to add it.
    ///
    /// # Errors
    /// [`ServeError`]: the address is taken, or there is no network.
    pub async fn start(
        address: SocketAddr,
        lookups: BTreeMap<Network, Vec<Lookup>>,
        settings: ServeSettings,
    ) -> Result<Self, ServeError> {
        if lookups.values().all(Vec::is_empty) {
            return Err(ServeError::NoChain);
        }
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let app = routes::router(lookups, settings);
        let task = tokio::spawn(connections::accept(listener, app, settings, stop.clone()));
        Ok(Self {
            address,
            stop,
            task: Some(task),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the server: accepts nothing more, finishes what is under way, ten seconds at most.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for ResolverServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
