//! The entry points of the fuzz targets, with random bytes and with valid input that was damaged a little.

#[path = "../../fuzz/entry_points.rs"]
mod targets;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use btcr2_agent::beacon::smt::{Leaf, SmtProof, SmtTree};
use btcr2_agent::did::{PatchBuilder, SignedUpdate, UnsignedUpdate};
use btcr2_agent::hash::{SmtNonce, from_hex};
use proptest::prelude::*;
use proptest::sample::Index;
use secp256k1::{Keypair, SECP256K1};
use serde_json::{Value, json};

const BIP370: &str = include_str!("../vectors/psbt/bip370.txt");
const BIP373: &str = include_str!("../vectors/psbt/bip373.txt");
const UPSTREAM: &str = include_str!("../vectors/regtest-upstream-2026-09.json");

/// An update of the DID that the entry points resolve.
fn signed_update() -> SignedUpdate {
    let document = targets::target().1;
    let endpoint = "https://example.com".into();
    let patch = PatchBuilder::on(&document)
        .unwrap()
        .add_service("x", "LinkedDomains", &endpoint)
        .unwrap();
    let key = Keypair::from_seckey_slice(SECP256K1, &[7; 32]).unwrap();
    UnsignedUpdate::new(&document, 1, &patch.finish().unwrap())
        .unwrap()
        .sign_with_aux(&key, "#initialKey", &[0; 32])
        .unwrap()
}

fn proof() -> SmtProof {
    let index = targets::target().0.smt_index();
    let leaf = Leaf {
        nonce: Some(SmtNonce::from_bytes([1; 32])),
        update: Some(signed_update().hash()),
    };
    let tree = SmtTree::new([(index, leaf.value())]).unwrap();
    SmtProof::from_parts(tree.root(), &leaf, tree.prove(&index))
}

/// Valid input of every kind, and every sidecar of the upstream suite.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let (did, _, genesis) = targets::target();
    let update = signed_update();
    let announcement = json!({did.as_str(): update.hash()});
    let sidecar = json!({
        "genesisDocument": genesis.value(),
        "updates": [update.value()],
        "casUpdates": [announcement],
        "smtProofs": [proof()],
    });
    let mut seeds = vec![
        did.to_string().into_bytes(),
        update.canonical_bytes(),
        update.value()["patch"].to_string().into_bytes(),
        serde_json::to_vec(&proof()).unwrap(),
        announcement.to_string().into_bytes(),
        sidecar.to_string().into_bytes(),
    ];
    let sets: Value = serde_json::from_str(UPSTREAM).unwrap();
    for set in sets.as_object().unwrap().values() {
        let sidecar = &set["resolveInput"]["resolutionOptions"]["sidecar"];
        seeds.push(sidecar.to_string().into_bytes());
        seeds.push(set["resolveInput"]["did"].as_str().unwrap().into());
    }
    for vectors in [BIP370, BIP373] {
        for line in vectors.lines() {
            let psbt = from_hex(line.split_once(' ').unwrap().1).unwrap();
            seeds.push(STANDARD.encode(&psbt).into_bytes());
            seeds.push(psbt);
        }
    }
    seeds
});

fn all(data: &[u8]) {
    targets::did(data);
    targets::update(data);
    targets::patch(data);
    targets::smt_proof(data);
    targets::cas_announcement(data);
    targets::sidecar(data);
    targets::psbt(data);
}

#[test]
fn valid_input_passes_every_entry_point() {
    for seed in &*SEEDS {
        all(seed);
    }
    for nothing in ["", "{}", "[]", "null", "0"] {
        all(nothing.as_bytes());
    }
}

/// Changes, removes or repeats a few bytes.
fn damaged(mut data: Vec<u8>, damage: &[(Index, Option<u8>, usize)]) -> Vec<u8> {
    for (at, byte, length) in damage {
        if data.is_empty() {
            break;
        }
        let at = at.index(data.len());
        let end = data.len().min(at + length);
        match byte {
            Some(byte) => data[at] = *byte,
            None if length % 2 == 0 => drop(data.drain(at..end)),
            None => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
        all(&data);
    }

    #[test]
    fn damaged_input(
        seed in any::<Index>(),
        damage in prop::collection::vec((any::<Index>(), prop::option::of(any::<u8>()), 1usize..40), 1..4),
    ) {
        all(&damaged(seed.get(&SEEDS).clone(), &damage));
    }

    #[test]
    fn operations_of_any_shape(
        operations in prop::collection::vec(
            (
                prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]),
                prop::sample::select(vec!["", "/id", "/service", "/service/0", "/service/-", "/@context/1", "/x~1y", "/a/b"]),
                prop::sample::select(vec!["", "/service", "/service/1", "/verificationMethod/0", "/proof"]),
            ),
            0..12,
        ),
    ) {
        let patch: Vec<_> = operations
            .into_iter()
            .map(|(op, path, from)| json!({"op": op, "path": path, "from": from, "value": {"id": path}}))
            .collect();
        targets::patch(Value::from(patch).to_string().as_bytes());
    }
}
