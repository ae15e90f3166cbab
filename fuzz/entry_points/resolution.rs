//! Targets over what a resolution rests on.

use bitcoin::{Address, BlockHash, Txid, hashes::Hash as _};
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::SmtProof;
use btcr2_agent::did::{
    BeaconKind, Did, Document, DocumentPatch, GenesisBuilder, GenesisDocument, IdKind, KeyAddress,
    SignedUpdate, VerifyOptions, initial_key_document, verify,
};
use btcr2_agent::hash::{SignalBytes, sha256};
use btcr2_agent::network::Network;
use btcr2_agent::resolver::{
    BlockRef, ChainSignal, Progress, Request, Resolution, ResolutionOptions, Resolver, Sidecar,
    SignalBlock, Strictness,
};
use btcr2_agent::time::UnixTime;
use secp256k1::{Keypair, SECP256K1};

/// Signals that a fuzzed sidecar is announced by, at most.
const MAX_ANNOUNCED: usize = 64;

/// A DID's identifier: what is accepted is canonical, and has a document.
pub fn did(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(did) = text.parse::<Did>() else {
        return false;
    };
    assert_eq!(did.as_str(), text);
    match did.kind() {
        IdKind::Key(key) => {
            assert_eq!(Did::from_key(did.network(), &key), did);
            let document = initial_key_document(&did).expect("a key gives a document");
            assert_eq!(*document.id(), did);
        }
        IdKind::External(hash) => {
            assert_eq!(Did::from_genesis(did.network(), hash), did);
        }
    }
    true
}

/// A signed update: its hash is that of its canonical bytes, and applying it keeps the DID.
pub fn update(data: &[u8]) -> bool {
    let Ok(update) = SignedUpdate::parse(data) else {
        return false;
    };
    let again = SignedUpdate::parse(update.canonical_bytes()).expect("canonical bytes are JSON");
    assert_eq!(again, update);
    assert_eq!(*update.hash().as_bytes(), sha256(&update.canonical_bytes()));
    let source = target().1;
    for version in [1, 2, update.target_version() - 1] {
        for require_invocation_target in [true, false] {
            let options = VerifyOptions {
                require_invocation_target,
            };
            if let Ok(document) = verify(&update, &source, version, options) {
                assert_eq!(document.id(), source.id());
                assert_eq!(document.hash(), update.target_hash());
                assert_eq!(version + 1, update.target_version());
            }
        }
    }
    true
}

/// A patch: applying it ends, is bounded, and gives the same each time.
pub fn patch(data: &[u8]) -> bool {
    let Ok(patch) = DocumentPatch::parse(data) else {
        return false;
    };
    let source = target().1;
    if let Ok(patched) = patch.apply(source.value()) {
        assert_eq!(patch.apply(source.value()).ok(), Some(patched.clone()));
        // Whether or not it conforms any more.
        let _ = Document::from_value(&patched);
    }
    true
}

/// An SMT proof: written and read again it is the same, and what it proves is its own root.
pub fn smt_proof(data: &[u8]) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    let claimed = value.as_ref().and_then(SmtProof::claimed_id);
    let Ok(proof) = serde_json::from_slice::<SmtProof>(data) else {
        return false;
    };
    let text = serde_json::to_vec(&proof).expect("a proof can be written");
    assert_eq!(
        serde_json::from_slice::<SmtProof>(&text).ok().as_ref(),
        Some(&proof)
    );
    if let Some(claimed) = claimed {
        assert_eq!(claimed, proof.id());
    }
    let index = target().0.smt_index();
    let other = SignalBytes::from_bytes([0x55; 32]);
    assert!(proof.verify(&index, &other).is_err() || proof.id() == other);
    let _ = proof.verify(&index, &proof.id());
    true
}

/// A CAS announcement: canonical or refused; and to a resolver, whatever storage gives, a result.
pub fn cas_announcement(data: &[u8]) -> bool {
    let announcement = CasAnnouncement::parse_canonical(data, |_| true);
    if let Ok(map) = &announcement {
        assert_eq!(map.canonical_bytes(), data);
        assert_eq!(*map.signal_bytes().as_bytes(), sha256(data));
    }
    let signal = SignalBytes::from_bytes(sha256(data));
    let resolution = resolve(Sidecar::default(), &[(BeaconKind::Cas, signal)], Some(data));
    check(&resolution);
    announcement.is_ok()
}

/// A sidecar: written and read again it is the same; and when all of it is announced, a result.
pub fn sidecar(data: &[u8]) -> bool {
    let Ok(sidecar) = Sidecar::parse(data) else {
        return false;
    };
    let again = Sidecar::parse(sidecar.canonical_bytes()).expect("canonical bytes are a sidecar");
    assert_eq!(again, sidecar);
    let updates = sidecar.updates().map(|(hash, _)| {
        (
            BeaconKind::Singleton,
            SignalBytes::from_bytes(hash.to_bytes()),
        )
    });
    let announcements = sidecar
        .announcements()
        .map(|(hash, _)| (BeaconKind::Cas, hash));
    let proofs = sidecar.proofs().map(|(root, _)| (BeaconKind::Smt, root));
    let signals: Vec<_> = updates
        .chain(announcements)
        .chain(proofs)
        .take(MAX_ANNOUNCED)
        .collect();
    check(&resolve(sidecar, &signals, None));
    true
}

/// Whatever came out can be written down.
fn check(resolution: &Resolution) {
    let value = resolution.to_value();
    assert_eq!(value["didDocument"].is_null(), resolution.outcome.is_err());
    assert!(!resolution.walk.to_string().is_empty());
}

/// The DID that everything is resolved against: one key, and a beacon of each type.
pub fn target() -> (Did, Document, GenesisDocument) {
    let key = Keypair::from_seckey_slice(SECP256K1, &[7; 32]).expect("a valid secret");
    let mut builder = GenesisBuilder::new(Network::Regtest).key("initialKey", &key.public_key());
    for kind in [BeaconKind::Singleton, BeaconKind::Cas, BeaconKind::Smt] {
        builder = builder.beacon(kind.name(), kind, &beacon(kind));
    }
    let genesis = builder.build().expect("it conforms");
    let did = genesis.did(Network::Regtest);
    let document = genesis.document(Network::Regtest).expect("it conforms");
    (did, document, genesis)
}

fn beacon(kind: BeaconKind) -> Address {
    let secret = [kind.name().len() as u8; 32];
    let key = Keypair::from_seckey_slice(SECP256K1, &secret).expect("a valid secret");
    KeyAddress::P2wpkh.of(Network::Regtest, &key.public_key())
}

/// Resolves the target with the signals in blocks of their own; storage gives the same for every hash.
fn resolve(
    mut sidecar: Sidecar,
    signals: &[(BeaconKind, SignalBytes)],
    stored: Option<&[u8]>,
) -> Resolution {
    let (did, _, genesis) = target();
    sidecar.set_genesis(genesis.value());
    let block = |height: u32| SignalBlock {
        height,
        hash: BlockHash::from_byte_array([1; 32]),
        time: UnixTime(1_700_000_000),
        median_time: UnixTime(1_700_000_000),
    };
    let tip = BlockRef {
        height: 1_000,
        hash: BlockHash::from_byte_array([1; 32]),
    };
    let all: Vec<_> = (1u32..)
        .zip(signals)
        .map(|(n, (kind, signal))| {
            let signal = ChainSignal {
                txid: Txid::from_byte_array(sha256(&n.to_be_bytes())),
                signal: *signal,
                block: Some(block(n)),
            };
            (beacon(*kind), signal)
        })
        .collect();
    let options = ResolutionOptions::default();
    let mut resolver = Resolver::new(did, options, sidecar, Strictness::default(), tip);
    loop {
        match resolver.poll() {
            Progress::Done(resolution) => return *resolution,
            Progress::Need(requests) => {
                for request in requests {
                    match request {
                        Request::Signals { address } => {
                            let mine = all.iter().filter(|(at, _)| *at == address);
                            resolver.signals(&address, mine.map(|(_, signal)| *signal).collect());
                        }
                        Request::Cas { hash, .. } => {
                            resolver.object(&hash, stored.map(<[u8]>::to_vec));
                        }
                    }
                }
            }
        }
    }
}
