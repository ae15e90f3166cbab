//! `resolver …`

use std::collections::BTreeMap;
use std::time::Duration;

use super::Context;
use super::local::interrupted;
use crate::agent::chains::backend_of;
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::launch;
use crate::cas::{CasReader, DEFAULT_TIMEOUT};
use crate::chain::ChainBackend;
use crate::cli::args::{ResolverCommand, ServeArgs};
use crate::cli::error::CliError;
use crate::cli::render::{ServedNetwork, ServingView};
use crate::lookup::Lookup;
use crate::lookup::serve::{ResolverServer, ServeError, ServeSettings};
use crate::network::Network;
use crate::resolver::Strictness;

/// Connections to each chain server, opened when there is that much to do. A connection has one request under
/// way at a time; public servers count the connections of a client.
const CONNECTIONS: usize = 4;

/// Longest time for one request to a chain server, in seconds.
const CHAIN_TIMEOUT_S: u64 = 20;

/// The servers of each network's chain.
type Chains = BTreeMap<Network, Vec<ChainBackend>>;

impl Context {
    pub(super) async fn resolver(&self, command: ResolverCommand) -> Result<(), CliError> {
        match command {
            ResolverCommand::Serve(args) => self.serve_resolver(&args).await,
        }
    }

    async fn serve_resolver(&self, args: &ServeArgs) -> Result<(), CliError> {
        let (chains, gateways) = self.sources(args)?;
        let time = Duration::from_secs(args.timeout);
        let reader = CasReader::new(&gateways, DEFAULT_TIMEOUT.min(time))
            .map_err(|error| Failure::new(ErrorCode::InvalidValue, error.to_string()))?;
        let mut networks = Vec::new();
        let mut lookups = BTreeMap::new();
        for (network, backends) in chains {
            let chain = backends
                .first()
                .map(|backend| backend.host().to_owned())
                .unwrap_or_default();
            let lines = backends
                .into_iter()
                .map(|backend| {
                    let lookup = Lookup::new(backend);
                    if reader.is_empty() {
                        lookup
                    } else {
                        lookup.with_cas(reader.clone())
                    }
                })
                .collect();
            networks.push(ServedNetwork { network, chain });
            lookups.insert(network, lines);
        }
        let settings = ServeSettings {
            max_body: usize::try_from(args.max_body)
                .unwrap_or(usize::MAX)
                .saturating_mul(1024),
            request_time: time,
            max_resolutions: args.concurrency.into(),
            strictness: if args.allow_missing_invocation_target {
                Strictness::before_october_2026()
            } else {
                Strictness::default()
            },
            ..ServeSettings::default()
        };
        let server = ResolverServer::start(args.listen, lookups, settings)
            .await
            .map_err(|error| {
                let code = match error {
                    ServeError::Listen { .. } => ErrorCode::Io,
                    _ => ErrorCode::InvalidValue,
                };
                Failure::new(code, error.to_string())
            })?;
        self.out.view(&ServingView {
            url: server.url(),
            networks,
            gateways: reader.hosts().map(str::to_owned).collect(),
            warnings: warnings(args, &server),
        })?;
        interrupted().await?;
        tracing::info!("stopping; once more stops at once");
        tokio::select! {
            () = server.shutdown() => Ok(()),
            interrupted = interrupted() => Ok(interrupted?),
        }
    }

    /// The chain servers and gateways: those named, else those of the settings of the home, if there is one.
    fn sources(&self, args: &ServeArgs) -> Result<(Chains, Vec<String>), Failure> {
        let patience = Duration::from_secs(CHAIN_TIMEOUT_S.min(args.timeout));
        let mut chains = BTreeMap::new();
        for chain in &args.chain {
            let backends = lines(|| {
                ChainBackend::esplora(&chain.url, patience).map_err(|error| {
                    Failure::new(
                        ErrorCode::InvalidValue,
                        format!("{}: {error}", chain.network),
                    )
                })
            })?;
            if chains.insert(chain.network, backends).is_some() {
                return Err(Failure::new(
                    ErrorCode::Usage,
                    format!("--chain names {} twice", chain.network),
                ));
            }
        }
        let mut gateways = args.ipfs.clone();
        if chains.is_empty() || gateways.is_empty() {
            let config = launch::load_config(&launch::home(&self.home)?)?;
            if chains.is_empty() {
                for network in Network::ALL {
                    let chain = config.chain.of(network);
                    let backends = lines(|| backend_of(chain, network, patience))?;
                    chains.insert(network, backends);
                }
            }
            if gateways.is_empty() {
                let configured = config.cas.gateways.iter();
                gateways = configured.map(ToString::to_string).collect();
            }
        }
        Ok((chains, gateways))
    }
}

/// The backends of one network, each with a connection of its own.
fn lines(
    backend: impl Fn() -> Result<ChainBackend, Failure>,
) -> Result<Vec<ChainBackend>, Failure> {
    (0..CONNECTIONS).map(|_| backend()).collect()
}

fn warnings(args: &ServeArgs, server: &ResolverServer) -> Vec<String> {
    let mut warnings = Vec::new();
    if !server.address().ip().is_loopback() {
        warnings.push(
            "others can reach this address, and it speaks HTTP without TLS: put a reverse proxy with TLS before it"
                .to_owned(),
        );
    }
    if args.allow_missing_invocation_target {
        warnings.push(
            "proofs without invocationTarget are accepted: other resolvers will refuse what this one resolves"
                .to_owned(),
        );
    }
    warnings
}
