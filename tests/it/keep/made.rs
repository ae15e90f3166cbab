//! A DID with its whole past, made up: documents, updates, signals on a chain of paper, and a store that holds what
//! an agent would have kept.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, BlockHash, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid,
    Witness,
};
use btcr2_agent::agent::sidecar::{AddressFacts, Facts};
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::history::{AddressHistory, AddressTx};
use btcr2_agent::beacon::smt::{Leaf, SmtTree};
use btcr2_agent::did::{
    BeaconKind, Did, Document, GenesisDocument, KeyAddress, PatchBuilder, SignedUpdate,
    UnsignedUpdate, initial_key_document,
};
use btcr2_agent::hash::{CohortId, LeafValue, SignalBytes, SmtIndex, SmtNonce, UpdateHash, sha256};
use btcr2_agent::keys::OwnKey;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::Artifact;
use btcr2_agent::resolver::{
    BlockRef, ChainSignal, Progress, Request, Resolution, ResolutionOptions, Resolver, Sidecar,
    SignalBlock, Strictness,
};
use btcr2_agent::store::{
    ArtifactKey, ArtifactKind, DidRow, NewArtifact, NewUpdate, Store, StoreError, Subject,
};
use btcr2_agent::time::UnixTime;

pub const NETWORK: Network = Network::Regtest;

/// The cohort whose artifacts are stored.
pub const COHORT: CohortId = CohortId::from_bytes([0xc0; 32]);

/// A key by name.
pub fn key(name: &str) -> OwnKey {
    OwnKey::from_bytes(&sha256(name.as_bytes())).unwrap()
}

/// An address by name.
pub fn address(name: &str) -> Address {
    KeyAddress::P2tr.of(NETWORK, &key(name).keypair().public_key())
}

/// A DID, its store and its chain.
pub struct Made {
    pub store: Store,
    pub did: Did,
    pub tip: u32,
    key: OwnKey,
    document: Document,
    version: u64,
    chain: BTreeMap<String, Beacon>,
    /// Artifacts of these rounds are not stored.
    pub forgets: Vec<u32>,
}

struct Beacon {
    address: Address,
    last: OutPoint,
    txs: Vec<AddressTx>,
}

impl Made {
    /// An x1 DID that lists a cohort's beacon from the beginning.
    pub fn x1(kind: BeaconKind, beacon: &Address) -> Self {
        Self::x1_in(Store::open_in_memory().unwrap(), kind, beacon)
    }

    /// The same in a file.
    pub fn x1_at(path: &Path, kind: BeaconKind, beacon: &Address) -> Self {
        Self::x1_in(Store::open(path).unwrap(), kind, beacon)
    }

    fn x1_in(store: Store, kind: BeaconKind, beacon: &Address) -> Self {
        let key = key("alice");
        let point = key.keypair().public_key();
        let genesis =
            GenesisDocument::for_cohort(NETWORK, &point, kind, beacon, KeyAddress::P2tr).unwrap();
        let did = genesis.did(NETWORK);
        let document = genesis.document(NETWORK).unwrap();
        let text = String::from_utf8(genesis.canonical_bytes()).unwrap();
        Self::begin(store, did, key, document, Some(text))
    }

    /// A k1 DID: three singleton beacons and nothing else.
    pub fn k1() -> Self {
        let key = key("alice");
        let did = Did::from_key(NETWORK, &key.keypair().public_key());
        let document = initial_key_document(&did).unwrap();
        let store = Store::open_in_memory().unwrap();
        Self::begin(store, did, key, document, None)
    }

    fn begin(
        mut store: Store,
        did: Did,
        key: OwnKey,
        document: Document,
        genesis: Option<String>,
    ) -> Self {
        let row = DidRow {
            did: did.to_string(),
            network: NETWORK,
            kind: if genesis.is_some() { "x1" } else { "k1" }.into(),
            key_index: Some(0),
            genesis,
            document: String::from_utf8(document.canonical_bytes()).unwrap(),
            version: 1,
            state: "active".into(),
            created: UnixTime(1),
        };
        store
            .transaction::<_, StoreError>(|tx| tx.put_did(&row))
            .unwrap();
        Self {
            store,
            did,
            tip: 100,
            key,
            document,
            version: 1,
            chain: BTreeMap::new(),
            forgets: Vec::new(),
        }
    }

    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Signs an update and stores it.
    pub fn update(&mut self, change: impl FnOnce(PatchBuilder) -> PatchBuilder) -> SignedUpdate {
        let patch = change(PatchBuilder::on(&self.document).unwrap())
            .finish()
            .unwrap();
        let unsigned = UnsignedUpdate::new(&self.document, self.version, &patch).unwrap();
        let after = unsigned.target().clone();
        let signed = unsigned.sign(&self.key, "#initialKey").unwrap();
        let new = NewUpdate {
            did: self.did.as_str(),
            target_version: self.version + 1,
            hash: signed.hash(),
            bytes: &signed.canonical_bytes(),
            cohort: None,
            service: None,
            state: "confirmed",
            created: UnixTime(2),
        };
        self.store
            .transaction::<_, StoreError>(|tx| tx.insert_update(&new).map(drop))
            .unwrap();
        self.document = after;
        self.version += 1;
        signed
    }

    /// An update that adds a service.
    pub fn service(&mut self) -> SignedUpdate {
        let name = format!("#service-{}", self.version + 1);
        let endpoint = "https://example.com/".into();
        self.update(|patch| {
            patch
                .add_service(&name, "LinkedDomains", &endpoint)
                .unwrap()
        })
    }

    /// Announces an update at a singleton beacon, in a new block.
    pub fn announce_singly(&mut self, beacon: &Address, update: &SignedUpdate) -> Txid {
        let bytes = SignalBytes::from_bytes(update.hash().to_bytes());
        self.tip += 1;
        self.signal(beacon, bytes, Some(self.tip))
    }

    /// A round of an SMT cohort in a new block, with leaves of others; what belongs to the DID is stored.
    pub fn smt_round(
        &mut self,
        beacon: &Address,
        round: u32,
        update: Option<&SignedUpdate>,
        others: u32,
    ) -> Txid {
        let index = self.did.smt_index();
        let leaf = Leaf {
            nonce: Some(SmtNonce::from_bytes(sha256(&round.to_be_bytes()))),
            update: update.map(SignedUpdate::hash),
        };
        let mut leaves = vec![(index, leaf.value())];
        for n in 0..others {
            let mut seed = n.to_be_bytes().to_vec();
            seed.extend(round.to_be_bytes());
            let other = SmtIndex::from_bytes(sha256(&n.to_be_bytes()));
            leaves.push((other, LeafValue::from_bytes(sha256(&seed))));
        }
        let tree = SmtTree::new(leaves.iter().copied()).unwrap();
        let signal = tree.root();
        self.tip += 1;
        let txid = self.signal(beacon, signal, Some(self.tip));
        for (of, value) in &leaves {
            let own = *of == index;
            self.keep(
                Round(round),
                Subject::Index(*of),
                ArtifactKind::SmtProof,
                &Artifact::SmtProof {
                    round: Round(round),
                    index: *of,
                    signal,
                    txid,
                    nonce: leaf.nonce.filter(|_| own),
                    // Of somebody else's DID, made to look announced.
                    update: match own {
                        true => leaf.update,
                        false => Some(UpdateHash::from_bytes(value.to_bytes())),
                    },
                    path: tree.prove(of),
                },
            );
            if !own && leaves.len() > 2 {
                // One stranger's proof is enough to be left out.
                break;
            }
        }
        txid
    }

    /// A round of a CAS cohort in a new block.
    pub fn cas_round(
        &mut self,
        beacon: &Address,
        round: u32,
        update: Option<&SignedUpdate>,
    ) -> Txid {
        let other = Did::from_key(NETWORK, &key("bob").keypair().public_key());
        let mut entries = vec![(
            other.to_string(),
            UpdateHash::from_bytes(sha256(&round.to_be_bytes())),
        )];
        entries.extend(update.map(|update| (self.did.to_string(), update.hash())));
        let announcement = CasAnnouncement::new(entries, |_| true).unwrap();
        let signal = announcement.signal_bytes();
        self.tip += 1;
        let txid = self.signal(beacon, signal, Some(self.tip));
        self.keep(
            Round(round),
            Subject::Round,
            ArtifactKind::CasAnnouncement,
            &Artifact::Announcement {
                round: Round(round),
                signal,
                txid,
                announcement: String::from_utf8(announcement.canonical_bytes()).unwrap(),
            },
        );
        txid
    }

    fn keep(&mut self, round: Round, subject: Subject, kind: ArtifactKind, artifact: &Artifact) {
        if self.forgets.contains(&round.0) {
            return;
        }
        let (Artifact::SmtProof { signal, .. } | Artifact::Announcement { signal, .. }) = artifact
        else {
            unreachable!()
        };
        self.keep_as(round, subject, kind, *signal, artifact);
    }

    /// Stores an artifact under whatever key.
    pub fn keep_as(
        &mut self,
        round: Round,
        subject: Subject,
        kind: ArtifactKind,
        signal: SignalBytes,
        artifact: &Artifact,
    ) {
        let bytes = serde_json::to_vec(artifact).unwrap();
        self.store
            .transaction::<_, StoreError>(|tx| {
                tx.put_artifact(&NewArtifact {
                    key: ArtifactKey {
                        origin: Some((COHORT, round)),
                        subject,
                        kind,
                        signal: Some(signal),
                    },
                    txid: None,
                    bytes: &bytes,
                    created: UnixTime(3),
                })
            })
            .unwrap();
    }

    /// A transaction that spends from the beacon and ends in 32 bytes.
    pub fn signal(&mut self, beacon: &Address, bytes: SignalBytes, height: Option<u32>) -> Txid {
        let script = beacon.script_pubkey();
        let beacon = self.chain.entry(beacon.to_string()).or_insert_with(|| {
            let coin = OutPoint::new(Txid::from_byte_array(sha256(script.as_bytes())), 0);
            let funding = transaction(coin, vec![output(&script)]);
            Beacon {
                address: beacon.clone(),
                last: OutPoint::new(funding.compute_txid(), 0),
                txs: vec![AddressTx {
                    tx: funding.into(),
                    height: Some(99),
                }],
            }
        });
        let op_return = [&[0x6a, 0x20], bytes.as_bytes().as_slice()].concat();
        let data = TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::from_bytes(op_return),
        };
        let tx = transaction(beacon.last, vec![output(&script), data]);
        let txid = tx.compute_txid();
        beacon.last = OutPoint::new(txid, 0);
        beacon.txs.push(AddressTx {
            tx: tx.into(),
            height,
        });
        txid
    }

    fn history(&self, address: &Address) -> AddressHistory {
        let txs = self.chain.get(&address.to_string());
        let txs = txs.map(|beacon| beacon.txs.clone()).unwrap_or_default();
        AddressHistory::new(address.script_pubkey(), self.tip, txs)
    }

    /// What an agent knows that has read every beacon of every document.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        for beacon in self.chain.values() {
            facts.insert(
                beacon.address.to_string(),
                AddressFacts {
                    history: Some(Arc::new(self.history(&beacon.address))),
                    cohort: Some(COHORT),
                    ..AddressFacts::default()
                },
            );
        }
        facts
    }

    /// Resolves offline, with this sidecar and nothing else.
    pub fn resolve(&self, sidecar: Sidecar) -> Resolution {
        let tip = BlockRef {
            height: self.tip,
            hash: block(self.tip),
        };
        let options = ResolutionOptions {
            min_conf: 1,
            ..ResolutionOptions::default()
        };
        let strictness = Strictness::default();
        let mut resolver = Resolver::new(self.did.clone(), options, sidecar, strictness, tip);
        loop {
            let requests = match resolver.poll() {
                Progress::Done(resolution) => return *resolution,
                Progress::Need(requests) => requests,
            };
            for request in requests {
                match request {
                    Request::Signals { address } => {
                        let seen = self.history(&address).signals();
                        let signals = seen.into_iter().map(|seen| ChainSignal {
                            txid: seen.txid,
                            signal: seen.signal,
                            block: seen.height.map(|height| SignalBlock {
                                height,
                                hash: block(height),
                                time: UnixTime(1_800_000_000 + u64::from(height) * 600),
                                median_time: UnixTime(1_799_990_000 + u64::from(height) * 600),
                            }),
                        });
                        resolver.signals(&address, signals.collect());
                    }
                    Request::Cas { hash, .. } => resolver.object(&hash, None),
                }
            }
        }
    }
}

fn block(height: u32) -> BlockHash {
    BlockHash::from_byte_array(sha256(&height.to_be_bytes()))
}

fn output(script: &ScriptBuf) -> TxOut {
    TxOut {
        value: Amount::from_sat(50_000),
        script_pubkey: script.clone(),
    }
}

fn transaction(input: OutPoint, output: Vec<TxOut>) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: input,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output,
    }
}
