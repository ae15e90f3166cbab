//! A chain that holds nothing but beacon signals, controllers whose DIDs live on it, and a driver that resolves
//! them: a history of any shape in a few lines, without a node.
//!
//! ```ignore
//! let mut alice = Controller::key_based(Network::Regtest, 1);
//! let mut chain = SyntheticChain::at(200);
//! let update = alice.update(|patch| patch.add_service("x", "LinkedDomains", &json!("https://x")));
//! chain.signal_at(150, &alice.beacon("initialP2WPKH"), announcing(&update));
//! let resolved = Question::of(&alice).ask(&chain).outcome.unwrap();
//! ```
// Benches include this file too, and use less of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hashes::Hash as _;
use bitcoin::{Address, BlockHash, Txid};
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::{Leaf, SmtProof, SmtTree};
use btcr2_agent::did::patch::PatchFault;
use btcr2_agent::did::{
    Did, Document, DocumentPatch, GenesisBuilder, GenesisDocument, PatchBuilder, SignedUpdate,
    UnsignedUpdate, initial_key_document, json as strict,
};
use btcr2_agent::hash::{SignalBytes, UpdateHash, sha256};
use btcr2_agent::network::Network;
use btcr2_agent::resolver::{
    BlockRef, ChainSignal, Progress, Request, Resolution, ResolutionOptions, Resolver, Sidecar,
    SignalBlock, Strictness,
};
use btcr2_agent::time::UnixTime;
use secp256k1::{Keypair, Message, SECP256K1};
use serde_json::Value;

/// Header time of the block at a height: ten minutes a block.
pub fn time(height: u32) -> UnixTime {
    UnixTime(1_700_000_000 + u64::from(height) * 600)
}

/// Median time of the block at a height: the time of the block five before it.
pub fn median_time(height: u32) -> UnixTime {
    time(height).minus(3_000)
}

/// The block at a height.
pub fn block(height: u32) -> SignalBlock {
    SignalBlock {
        height,
        hash: BlockHash::from_byte_array(sha256(format!("block {height}").as_bytes())),
        time: time(height),
        median_time: median_time(height),
    }
}

/// The transaction that was sent as number `n`.
pub fn txid(n: u32) -> Txid {
    Txid::from_byte_array(sha256(format!("transaction {n}").as_bytes()))
}

/// What a singleton beacon signals.
pub fn announcing(update: &SignedUpdate) -> SignalBytes {
    SignalBytes::from_bytes(update.hash().to_bytes())
}

/// Signals by address, and where the chain ends.
#[derive(Debug, Clone)]
pub struct SyntheticChain {
    tip: u32,
    signals: BTreeMap<Address, Vec<ChainSignal>>,
    sent: u32,
}

impl SyntheticChain {
    /// An empty chain whose last block has this height.
    pub fn at(tip: u32) -> Self {
        Self {
            tip,
            signals: BTreeMap::new(),
            sent: 0,
        }
    }

    /// The last block.
    pub fn tip(&self) -> BlockRef {
        let SignalBlock { height, hash, .. } = block(self.tip);
        BlockRef { height, hash }
    }

    /// Adds empty blocks.
    pub fn mine(&mut self, blocks: u32) {
        self.tip += blocks;
    }

    /// Puts a signal into the block at a height, above the tip too.
    pub fn signal_at(&mut self, height: u32, address: &Address, signal: SignalBytes) -> Txid {
        self.push(address, signal, Some(block(height)))
    }

    /// Puts a signal into the mempool.
    pub fn unconfirmed(&mut self, address: &Address, signal: SignalBytes) -> Txid {
        self.push(address, signal, None)
    }

    /// Every signal of an address, in the order in which they were sent.
    pub fn signals_of(&self, address: &Address) -> Vec<ChainSignal> {
        self.signals.get(address).cloned().unwrap_or_default()
    }

    fn push(&mut self, address: &Address, signal: SignalBytes, block: Option<SignalBlock>) -> Txid {
        self.sent += 1;
        let txid = txid(self.sent);
        let signal = ChainSignal {
            txid,
            signal,
            block,
        };
        self.signals
            .entry(address.clone())
            .or_default()
            .push(signal);
        txid
    }
}

/// A DID, its key, its current document, and the sidecar its controller keeps.
#[derive(Debug, Clone)]
pub struct Controller {
    pub key: Keypair,
    pub document: Document,
    pub version: u64,
    pub sidecar: Sidecar,
}

/// The key whose secret is this byte, 32 times.
pub fn keypair(number: u8) -> Keypair {
    Keypair::from_seckey_slice(SECP256K1, &[number; 32]).unwrap()
}

impl Controller {
    /// A `k1` DID of the key with this number.
    pub fn key_based(network: Network, number: u8) -> Self {
        let key = keypair(number);
        let did = Did::from_key(network, &key.public_key());
        Self {
            key,
            document: initial_key_document(&did).unwrap(),
            version: 1,
            sidecar: Sidecar::default(),
        }
    }

    /// An `x1` DID whose genesis document has the key with this number as `#initialKey`, and what `add` adds.
    pub fn external(
        network: Network,
        number: u8,
        add: impl FnOnce(GenesisBuilder) -> GenesisBuilder,
    ) -> Self {
        let key = keypair(number);
        let builder = GenesisBuilder::new(network).key("initialKey", &key.public_key());
        Self::with_genesis(network, number, &add(builder).build().unwrap())
    }

    /// An `x1` DID of a genesis document, whose sidecar has it.
    pub fn with_genesis(network: Network, number: u8, genesis: &GenesisDocument) -> Self {
        let mut sidecar = Sidecar::default();
        sidecar.set_genesis(genesis.value());
        Self {
            key: keypair(number),
            document: genesis.document(network).unwrap(),
            version: 1,
            sidecar,
        }
    }

    pub fn did(&self) -> &Did {
        self.document.id()
    }

    /// The address of the current document's beacon with this fragment.
    pub fn beacon(&self, fragment: &str) -> Address {
        let id = format!("{}#{fragment}", self.did());
        let mut beacons = self.document.beacons().iter();
        beacons.find(|b| b.id == id).unwrap().address.clone()
    }

    /// The update that follows the current version, without going there.
    pub fn next_update(
        &self,
        change: impl FnOnce(PatchBuilder) -> Result<PatchBuilder, PatchFault>,
    ) -> SignedUpdate {
        let builder = PatchBuilder::on(&self.document).unwrap();
        self.next_update_by(&change(builder).unwrap().finish().unwrap())
    }

    /// Like [`Self::next_update`], by a patch.
    pub fn next_update_by(&self, patch: &DocumentPatch) -> SignedUpdate {
        UnsignedUpdate::new(&self.document, self.version, patch)
            .unwrap()
            .sign_with_aux(&self.key, "#initialKey", &[0; 32])
            .unwrap()
    }

    /// Makes the update, goes to the version it leads to, and keeps it in the sidecar.
    pub fn update(
        &mut self,
        change: impl FnOnce(PatchBuilder) -> Result<PatchBuilder, PatchFault>,
    ) -> SignedUpdate {
        let update = self.next_update(change);
        self.accept(&update);
        update
    }

    /// Goes to the version an update leads to, and keeps it in the sidecar.
    pub fn accept(&mut self, update: &SignedUpdate) {
        let options = btcr2_agent::did::VerifyOptions::default();
        self.document =
            btcr2_agent::did::verify(update, &self.document, self.version, options).unwrap();
        self.version += 1;
        self.sidecar.add_update(update);
    }

    /// Adds a service with this fragment; each fragment gives another update.
    pub fn add_service(&mut self, fragment: &str) -> SignedUpdate {
        self.update(|patch| service(patch, fragment))
    }

    /// The update that changes with JSON what [`Self::next_update`] made, signed again: a forgery, if need be.
    pub fn forged(&self, change: impl FnOnce(&mut Value)) -> SignedUpdate {
        let mut value = self
            .next_update(|patch| service(patch, "forged"))
            .value()
            .clone();
        change(&mut value);
        resign(value, &self.key)
    }
}

/// Adds a service with this fragment.
pub fn service(patch: PatchBuilder, fragment: &str) -> Result<PatchBuilder, PatchFault> {
    let endpoint = Value::String(format!("https://example.com/{fragment}"));
    patch.add_service(fragment, "LinkedDomains", &endpoint)
}

/// Signs an update anew, whatever it says: SHA-256 of the hashes of the proof without `proofValue` and of the update
/// without `proof`.
pub fn resign(mut update: Value, key: &Keypair) -> SignedUpdate {
    let mut unsigned = update.clone();
    unsigned.as_object_mut().unwrap().remove("proof");
    let proof = update["proof"].as_object_mut().unwrap();
    proof.remove("proofValue");
    let hashes = [
        strict::document_hash(&Value::Object(proof.clone())).to_bytes(),
        strict::document_hash(&unsigned).to_bytes(),
    ];
    let message = Message::from_digest(sha256(&hashes.concat()));
    let signature = SECP256K1.sign_schnorr_with_aux_rand(&message, key, &[0; 32]);
    let text = bs58::encode(signature.serialize()).into_string();
    proof.insert("proofValue".to_owned(), format!("z{text}").into());
    SignedUpdate::from_value(&update).unwrap()
}

/// A CAS announcement of these updates.
pub fn cas_announcement<'a>(
    entries: impl IntoIterator<Item = (&'a Did, UpdateHash)>,
) -> CasAnnouncement {
    let entries = entries
        .into_iter()
        .map(|(did, hash)| (did.to_string(), hash));
    CasAnnouncement::new(entries, |_| true).unwrap()
}

/// The root over these leaves, and the proof for each DID. Empty leaves get one too.
pub fn smt_signal(leaves: &[(&Did, Leaf)]) -> (SignalBytes, Vec<SmtProof>) {
    let occupied = leaves.iter().filter(|(_, leaf)| !leaf.is_empty());
    let tree = SmtTree::new(occupied.map(|(did, leaf)| (did.smt_index(), leaf.value()))).unwrap();
    let proofs = leaves
        .iter()
        .map(|(did, leaf)| SmtProof::from_parts(tree.root(), leaf, tree.prove(&did.smt_index())));
    (tree.root(), proofs.collect())
}

/// Everything a resolution takes but the chain.
#[derive(Debug, Clone)]
pub struct Question {
    pub did: Did,
    pub options: ResolutionOptions,
    pub sidecar: Sidecar,
    pub strictness: Strictness,
    /// Content-addressed storage, which may lie: what it gives for a hash.
    pub storage: BTreeMap<[u8; 32], Vec<u8>>,
}

impl Question {
    /// A DID with the sidecar its controller keeps, by default options.
    pub fn of(controller: &Controller) -> Self {
        Self::new(controller.did(), controller.sidecar.clone())
    }

    /// A DID with a sidecar, by default options.
    pub fn new(did: &Did, sidecar: Sidecar) -> Self {
        Self {
            did: did.clone(),
            options: ResolutionOptions::default(),
            sidecar,
            strictness: Strictness::default(),
            storage: BTreeMap::new(),
        }
    }

    /// By these options.
    pub fn by(mut self, options: ResolutionOptions) -> Self {
        self.options = options;
        self
    }

    /// Stores an object under the hash of its canonical bytes.
    pub fn stored(mut self, object: &Value) -> Self {
        let bytes = strict::canonicalize(object).unwrap();
        self.storage.insert(sha256(&bytes), bytes);
        self
    }

    /// Stores other bytes under a hash.
    pub fn lying(mut self, hash: [u8; 32], bytes: &[u8]) -> Self {
        self.storage.insert(hash, bytes.to_vec());
        self
    }

    /// Resolves, in two orders of answers, which must not matter.
    pub fn ask(&self, chain: &SyntheticChain) -> Resolution {
        let resolution = self.drive(|address| chain.signals_of(address), chain.tip(), false);
        let shuffled = |address: &Address| {
            let mut signals = chain.signals_of(address);
            signals.reverse();
            signals.extend_from_within(..signals.len().min(2));
            signals
        };
        assert_eq!(self.drive(shuffled, chain.tip(), true), resolution);
        resolution
    }

    /// The failure's code and rule, where resolving fails.
    pub fn ask_failing(
        &self,
        chain: &SyntheticChain,
    ) -> (&'static str, Option<&'static str>, String) {
        let failure = self.ask(chain).outcome.unwrap_err();
        let rule = failure.rule.map(|rule| rule.as_str());
        (failure.code.as_str(), rule, failure.message)
    }

    /// Resolves, each answer on its own and in the order that `backwards` says.
    pub fn drive(
        &self,
        signals: impl Fn(&Address) -> Vec<ChainSignal>,
        tip: BlockRef,
        backwards: bool,
    ) -> Resolution {
        let (did, sidecar) = (self.did.clone(), self.sidecar.clone());
        let mut resolver = Resolver::new(did, self.options, sidecar, self.strictness, tip);
        loop {
            let progress = resolver.poll();
            assert_eq!(resolver.poll(), progress, "asking again changes nothing");
            let mut requests = match progress {
                Progress::Done(resolution) => return *resolution,
                Progress::Need(requests) => requests,
            };
            assert!(!requests.is_empty());
            let distinct: BTreeSet<_> = requests.iter().map(|r| format!("{r:?}")).collect();
            assert_eq!(distinct.len(), requests.len());
            if backwards {
                // One at a time: what is left is asked for again.
                requests.reverse();
                requests.truncate(1);
            }
            for request in requests {
                match request {
                    Request::Signals { address } => resolver.signals(&address, signals(&address)),
                    Request::Cas { hash, .. } => {
                        resolver.object(&hash, self.storage.get(&hash).cloned());
                    }
                }
            }
        }
    }
}
