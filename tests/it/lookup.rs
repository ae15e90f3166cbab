//! Looking DIDs up through the real Esplora backend over the in-process regtest chain, and from recordings.

mod live;
mod moving;
mod objects;
mod replay;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::{Address, OutPoint, TxOut};
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::{Leaf, SmtProof, SmtTree};
use btcr2_agent::chain::{
    ChainBackend, RegtestChain, RegtestServer, ServerSettings, SharedChain, stepping_clock,
};
use btcr2_agent::did::{
    BeaconKind, Did, Document, GenesisBuilder, GenesisDocument, KeyAddress, PatchBuilder,
    SignedUpdate, UnsignedUpdate, initial_key_document,
};
use btcr2_agent::hash::{SignalBytes, SmtNonce, UpdateHash};
use btcr2_agent::lookup::{Lookup, LookupError, Recording};
use btcr2_agent::network::Network;
use btcr2_agent::resolver::{Resolution, ResolutionOptions, Resolved, Sidecar, Strictness};
use btcr2_agent::time::UnixTime;
use secp256k1::{Keypair, PublicKey, SECP256K1, SecretKey};
use serde_json::json;

use crate::chain::{LOCALHOST, Wallet, funded, pay, signal_output};

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

pub(crate) fn keypair(number: u8) -> Keypair {
    let secret = SecretKey::from_slice(&[number; 32]).unwrap();
    Keypair::from_secret_key(SECP256K1, &secret)
}

pub(crate) fn public_key(number: u8) -> PublicKey {
    keypair(number).public_key()
}

/// A DID with what its controller keeps. Its `#initialP2TR` address is that of the wallet of the same number.
#[derive(Clone)]
pub(crate) struct Controller {
    pub(crate) key: Keypair,
    pub(crate) document: Document,
    pub(crate) version: u64,
    pub(crate) sidecar: Sidecar,
}

impl Controller {
    pub(crate) fn key_based(network: Network, number: u8) -> Self {
        let did = Did::from_key(network, &public_key(number));
        Self {
            key: keypair(number),
            document: initial_key_document(&did).unwrap(),
            version: 1,
            sidecar: Sidecar::default(),
        }
    }

    /// With a singleton beacon at its key, and further beacons.
    pub(crate) fn external(
        network: Network,
        number: u8,
        beacons: &[(&str, BeaconKind, Address)],
    ) -> (Self, GenesisDocument) {
        let form = KeyAddress::P2tr;
        let singleton = form.of(network, &public_key(number));
        let mut builder = GenesisBuilder::new(network)
            .key("initialKey", &public_key(number))
            .beacon(form.fragment(), BeaconKind::Singleton, &singleton);
        for (fragment, kind, address) in beacons {
            builder = builder.beacon(fragment, *kind, address);
        }
        let genesis = builder.build().unwrap();
        let mut sidecar = Sidecar::default();
        sidecar.set_genesis(genesis.value());
        let controller = Self {
            key: keypair(number),
            document: genesis.document(network).unwrap(),
            version: 1,
            sidecar,
        };
        (controller, genesis)
    }

    pub(crate) fn did(&self) -> &Did {
        self.document.id()
    }

    /// Makes the next update: adds a service of this name.
    pub(crate) fn add_service(&mut self, name: &str) -> SignedUpdate {
        let endpoint = json!(format!("https://{name}.example"));
        let patch = PatchBuilder::on(&self.document)
            .unwrap()
            .add_service(name, "LinkedDomains", &endpoint)
            .unwrap();
        self.update(patch)
    }

    pub(crate) fn deactivate(&mut self) -> SignedUpdate {
        let patch = PatchBuilder::on(&self.document).unwrap();
        self.update(patch.deactivate().unwrap())
    }

    fn update(&mut self, patch: PatchBuilder) -> SignedUpdate {
        let patch = patch.finish().unwrap();
        let update = UnsignedUpdate::new(&self.document, self.version, &patch).unwrap();
        self.document = update.target().clone();
        self.version += 1;
        let update = update
            .sign_with_aux(&self.key, "#initialKey", &[7; 32])
            .unwrap();
        self.sidecar.add_update(&update);
        update
    }

    pub(crate) async fn ask(&self, lookup: &Lookup) -> Result<Resolution, LookupError> {
        self.ask_recorded(lookup)
            .await
            .map(|(resolution, _)| resolution)
    }

    pub(crate) async fn ask_recorded(
        &self,
        lookup: &Lookup,
    ) -> Result<(Resolution, Recording), LookupError> {
        let options = ResolutionOptions::default();
        let (did, sidecar) = (self.did(), self.sidecar.clone());
        lookup
            .resolve_recorded(did, options, sidecar, Strictness::default())
            .await
    }
}

pub(crate) fn resolved(resolution: Resolution) -> Resolved {
    resolution
        .outcome
        .unwrap_or_else(|failure| panic!("{failure}"))
}

pub(crate) fn announcing(update: &SignedUpdate) -> SignalBytes {
    SignalBytes::from_bytes(update.hash().to_bytes())
}

/// What an SMT beacon signals for these members, and the proof of each.
pub(crate) fn smt_signal(
    members: &[(&Did, Option<&SignedUpdate>)],
) -> (SignalBytes, Vec<SmtProof>) {
    let leaf = |number: usize, update: Option<&SignedUpdate>| Leaf {
        nonce: Some(SmtNonce::from_bytes(
            [u8::try_from(number).unwrap() + 1; 32],
        )),
        update: update.map(SignedUpdate::hash),
    };
    let leaves: Vec<_> = (members.iter().enumerate())
        .map(|(number, (did, update))| (did.smt_index(), leaf(number, *update)))
        .collect();
    let tree = SmtTree::new(leaves.iter().map(|(index, leaf)| (*index, leaf.value()))).unwrap();
    let proofs = leaves
        .iter()
        .map(|(index, leaf)| SmtProof::from_parts(tree.root(), leaf, tree.prove(index)))
        .collect();
    (tree.root(), proofs)
}

pub(crate) fn cas_announcement(entries: &[(&Did, &SignedUpdate)]) -> CasAnnouncement {
    let entries = entries
        .iter()
        .map(|(did, update)| (did.to_string(), update.hash()));
    CasAnnouncement::new(entries.collect::<Vec<(String, UpdateHash)>>(), |_| true).unwrap()
}

/// What a proxy does when a path is asked for, before the request is passed on.
type Hook = Arc<dyn Fn(&str) + Send + Sync>;

/// A server in front of another one, that sees every request first. Gives its URL and the paths asked for.
pub(crate) async fn watched(
    upstream: &str,
    hook: impl Fn(&str) + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let (upstream, hook): (String, Hook) = (upstream.to_owned(), Arc::new(hook));
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&paths);
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (upstream, hook, seen) = (upstream.clone(), Arc::clone(&hook), Arc::clone(&seen));
        async move {
            let path = request.uri().path().to_owned();
            seen.lock().unwrap().push(path.clone());
            hook(&path);
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
