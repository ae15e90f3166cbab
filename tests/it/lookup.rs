//! Looking DIDs up through the real Esplora backend over the in-process regtest chain, and from recordings.

mod live;
mod moving;
mod objects;
mod replay;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::{Address, OutPoint, TxOut};
use btcr2_agent::beacon::smt::{Leaf, SmtProof};
use btcr2_agent::chain::{
    ChainBackend, RegtestChain, RegtestServer, ServerSettings, SharedChain, stepping_clock,
};
use btcr2_agent::did::{
    BeaconKind, Did, GenesisBuilder, GenesisDocument, KeyAddress, SignedUpdate,
};
use btcr2_agent::hash::{SignalBytes, SmtNonce};
use btcr2_agent::lookup::{Lookup, LookupError, Recording};
use btcr2_agent::network::Network;
use btcr2_agent::resolver::{Resolution, ResolutionOptions, Resolved, Sidecar, Strictness};
use btcr2_agent::time::UnixTime;
use secp256k1::PublicKey;

use crate::chain::{LOCALHOST, Wallet, funded, pay, signal_output};
use crate::synthetic::{Controller, announcing, cas_announcement, keypair, smt_signal};

/// Time of the first block after the ones the chain is born with.
const START: UnixTime = UnixTime(1_760_000_000);

/// A regtest chain with its server, and beacons that anybody here can spend from.
pub(crate) struct World {
    pub(crate) server: RegtestServer,
    pub(crate) chain: SharedChain,
}

impl World {
    pub(crate) async fn new() -> Self {
        let chain = RegtestChain::new(stepping_clock(START, 600));
        let server = RegtestServer::serve(LOCALHOST, chain, ServerSettings::default())
            .await
            .unwrap();
        let chain = server.chain();
        Self { server, chain }
    }

    pub(crate) fn backend(&self) -> ChainBackend {
        backend(&self.server.url())
    }

    pub(crate) fn lookup(&self) -> Lookup {
        Lookup::new(self.backend())
    }

    /// Sends a signal from a wallet's address into the mempool. Its funds are mined first.
    pub(crate) fn signal(&self, wallet: &Wallet, signal: SignalBytes) {
        let mut chain = self.chain.lock().unwrap();
        let coin = funded(&mut chain, wallet, 50_000);
        send(&mut chain, wallet, coin, signal);
    }

    pub(crate) fn mine(&self, blocks: u32) {
        self.chain.lock().unwrap().mine(blocks);
    }

    pub(crate) fn height(&self) -> u32 {
        self.chain.lock().unwrap().height()
    }

    /// The header time of a block, as a resolution says it.
    pub(crate) fn time_of(&self, height: u32) -> UnixTime {
        let chain = self.chain.lock().unwrap();
        UnixTime(chain.block(height).unwrap().header.time.into())
    }
}

/// Spends a coin to its own address, with a signal as the last output.
pub(crate) fn send(
    chain: &mut RegtestChain,
    wallet: &Wallet,
    coin: (OutPoint, TxOut),
    signal: SignalBytes,
) {
    let outputs = vec![
        pay(wallet.script(), 40_000),
        signal_output(signal.to_bytes()),
    ];
    let tx = wallet.spend(&[coin], outputs);
    chain.submit(&tx).unwrap();
}

pub(crate) fn backend(url: &str) -> ChainBackend {
    ChainBackend::esplora(url, Duration::from_secs(10)).unwrap()
}

pub(crate) fn public_key(number: u8) -> PublicKey {
    keypair(number).public_key()
}

/// An `x1` DID with a singleton beacon at its key, and further beacons. The `#initialP2TR` address of either kind of
/// DID is that of the wallet of the same number.
pub(crate) fn external(
    network: Network,
    number: u8,
    beacons: &[(&str, BeaconKind, Address)],
) -> (Controller, GenesisDocument) {
    let form = KeyAddress::P2tr;
    let singleton = form.of(network, &public_key(number));
    let mut builder = GenesisBuilder::new(network)
        .key("initialKey", &public_key(number))
        .beacon(form.fragment(), BeaconKind::Singleton, &singleton);
    for (fragment, kind, address) in beacons {
        builder = builder.beacon(fragment, *kind, address);
    }
    let genesis = builder.build().unwrap();
    let controller = Controller::with_genesis(network, number, &genesis);
    (controller, genesis)
}

/// Resolves the DID with the sidecar its controller keeps.
pub(crate) async fn ask(
    controller: &Controller,
    lookup: &Lookup,
) -> Result<Resolution, LookupError> {
    let recorded = ask_recorded(controller, lookup);
    recorded.await.map(|(resolution, _)| resolution)
}

/// Like [`ask`], with the recording.
pub(crate) async fn ask_recorded(
    controller: &Controller,
    lookup: &Lookup,
) -> Result<(Resolution, Recording), LookupError> {
    let options = ResolutionOptions::default();
    let (did, sidecar) = (controller.did(), controller.sidecar.clone());
    lookup
        .resolve_recorded(did, options, sidecar, Strictness::default())
        .await
}

pub(crate) fn resolved(resolution: Resolution) -> Resolved {
    resolution
        .outcome
        .unwrap_or_else(|failure| panic!("{failure}"))
}

/// What an SMT beacon signals for these members, each with a nonce, and the proof of each.
pub(crate) fn smt_round(members: &[(&Did, Option<&SignedUpdate>)]) -> (SignalBytes, Vec<SmtProof>) {
    let leaves: Vec<_> = (1..)
        .zip(members)
        .map(|(number, (did, update))| {
            let leaf = Leaf {
                nonce: Some(SmtNonce::from_bytes([number; 32])),
                update: update.map(SignedUpdate::hash),
            };
            (*did, leaf)
        })
        .collect();
    smt_signal(&leaves)
}

/// What a proxy does when a path is asked for: it answers itself, or passes the request on.
type Hook = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A server in front of another one, that sees every request first. Gives its URL and the paths asked for.
pub(crate) async fn watched(
    upstream: &str,
    hook: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let (upstream, hook): (String, Hook) = (upstream.to_owned(), Arc::new(hook));
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&paths);
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (upstream, hook, seen) = (upstream.clone(), Arc::clone(&hook), Arc::clone(&seen));
        async move {
            let path = request.uri().path().to_owned();
            seen.lock().unwrap().push(path.clone());
            if let Some(answer) = hook(&path) {
                return (axum::http::StatusCode::OK, answer.into_bytes());
            }
            let answer = bitreq::get(format!("{upstream}{path}"))
                .send_async()
                .await
                .unwrap();
            let status = u16::try_from(answer.status_code).unwrap();
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            (status, answer.into_bytes())
        }
    });
    let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, paths)
}
