//! The specification's example corpus (`tests/vectors/SOURCES.md`) on a chain made for it: update 2 by its singleton
//! beacon, 3 by its CAS beacon, 4 by its SMT beacon, and a second SMT signal without an update for the DID. The
//! golden trees likewise, in all four leaf modes.

use std::collections::BTreeMap;

use btcr2_agent::beacon::smt::SmtProof;
use btcr2_agent::did::datetime::DateTime;
use btcr2_agent::did::{Did, Document, IdKind, Rule, initial_key_document, json as strict};
use btcr2_agent::hash::{SignalBytes, array_from_hex};
use btcr2_agent::resolver::Sidecar;
use secp256k1::{Keypair, SECP256K1};
use serde_json::{Value, json};

use super::*;
use crate::synthetic::{Controller, Question, SyntheticChain, announcing, median_time, time};

macro_rules! corpus {
    ($file:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/spec-corpus-481822bc/",
            $file,
            ".json"
        )))
        .unwrap()
    };
}

const GOLDEN: &str = include_str!("../../vectors/smt-golden.json");

fn documents() -> [Document; 4] {
    [
        corpus!("initial-did-document"),
        corpus!("did-document-v2"),
        corpus!("did-document-v3"),
        corpus!("did-document-v4"),
    ]
    .map(|document| Document::from_value(&document).unwrap())
}

fn root(proof: &Value) -> SignalBytes {
    SmtProof::claimed_id(proof).unwrap()
}

/// Update 2 in block 100, 3 in 110, 4 in 120, no update in 130; the last block is 140.
fn chain() -> SyntheticChain {
    let sidecar = Sidecar::from_value(&corpus!("sidecar-data")).unwrap();
    let [initial, ..] = documents();
    let [singleton, cas, smt] = initial.beacons() else {
        panic!("three beacons");
    };
    let update = |version: u64| {
        let mut updates = sidecar.updates();
        let (hash, _) = updates
            .find(|(_, update)| update["targetVersionId"] == version)
            .unwrap();
        SignalBytes::from_bytes(hash.to_bytes())
    };
    let did = initial.id().as_str();
    let proofs = corpus!("smt-proofs");
    let announcement = corpus!("cas-announcement");
    assert_eq!(announcement[did], hash_text(update(3)));
    assert_eq!(proofs["signalA"][did]["updateId"], hash_text(update(4)));
    assert_eq!(proofs["signalB"][did].get("updateId"), None);

    let mut chain = SyntheticChain::at(140);
    chain.signal_at(100, &singleton.address, update(2));
    let map = strict::document_hash(&announcement).to_bytes();
    chain.signal_at(110, &cas.address, SignalBytes::from_bytes(map));
    chain.signal_at(120, &smt.address, root(&proofs["signalA"][did]));
    chain.signal_at(130, &smt.address, root(&proofs["signalB"][did]));
    chain
}

fn hash_text(signal: SignalBytes) -> String {
    UpdateHash::from_bytes(signal.to_bytes()).to_string()
}

fn ask(options: ResolutionOptions) -> Resolution {
    let sidecar = Sidecar::parse(corpus!("sidecar-data").to_string()).unwrap();
    let did = documents()[0].id().clone();
    Question::new(&did, sidecar).by(options).ask(&chain())
}

#[test]
fn version_4_with_its_whole_walk() {
    let resolution = ask(ResolutionOptions::default());
    assert_eq!(
        resolution.to_value(),
        json!({
            "didDocument": corpus!("did-document-v4"),
            "didDocumentMetadata": {
                "versionId": "4",
                "confirmations": 21,
                "deactivated": false,
                "updated": DateTime::from(time(120)).to_string(),
            },
            "didResolutionMetadata": { "contentType": "application/did" },
        })
    );
    assert_eq!(
        outline(&resolution),
        [
            "initial from sidecar",
            "service-0 1",
            "service-1 1",
            "service-2 2",
            "says 2",
            "says 3",
            "says 4",
            "says nothing",
            "applied 2",
            "applied 3",
            // Added by update 3; there is nothing at it.
            "service-3 0",
            "applied 4",
        ]
    );
    let text = resolution.walk.to_string();
    assert_eq!(text.lines().count(), 12);
    let first = text.lines().next().unwrap();
    let source = documents()[0].hash();
    assert_eq!(
        first,
        format!("version 1 from the sidecar, document hash {source}")
    );
    let update = corpus!("cas-announcement")[resolution.did.as_str()].clone();
    let update = update.as_str().unwrap();
    let applied = text.lines().nth(9).unwrap();
    assert!(
        applied.starts_with(&format!("version 3 by update {update}, signal ")),
        "{applied}"
    );
    assert!(
        applied.ends_with("(block 110, 31 confirmations)"),
        "{applied}"
    );
    let json = serde_json::to_value(&resolution.walk).unwrap();
    assert_eq!(
        json[0],
        json!({"step": "initial", "source": "sidecar", "hash": source})
    );
    assert_eq!(json[5]["step"], "signal");
    assert_eq!(json[5]["said"], "update");
    assert_eq!(json[5]["update"], update);
    assert_eq!(json[5]["targetVersion"], 3);
    assert_eq!(json[5]["kind"], "CASBeacon");
    assert_eq!(json[5]["height"], 110);
    assert_eq!(json[7]["said"], "noUpdate");
}

#[test]
fn every_earlier_version_by_number_and_by_time() {
    let documents = documents();
    let heights = [0, 100, 110, 120];
    for (i, document) in documents.iter().enumerate() {
        let number = i as u64 + 1;
        let by_id = ask(version(number));
        assert_eq!(resolved(&by_id).document, *document);
        let mut asked = vec![(by_id, number)];
        for (moment, expected) in [
            (median_time(heights[i]), number),
            (median_time(heights[i]).plus(1), number),
            (median_time(heights[i]).minus(1), (number - 1).max(1)),
        ] {
            let by_time = ResolutionOptions {
                version: Some(VersionChoice::Time(moment)),
                ..ResolutionOptions::default()
            };
            asked.push((ask(by_time), expected));
        }
        for (resolution, version) in asked {
            assert_eq!(
                resolved(&resolution).document,
                documents[version as usize - 1]
            );
            let height = heights[version as usize - 1];
            let expected = match height {
                0 => (1, 0, false, None),
                _ => (version, 141 - height, false, Some(time(height).0)),
            };
            assert_eq!(metadata(&resolution), expected);
            // The rest of the history is walked all the same.
            assert!(outline(&resolution).contains(&"applied 4".to_owned()));
        }
    }
    let none = ask(version(5));
    assert_eq!(failure(&none).code, ErrorCode::NotFound);
    assert_eq!(
        failure(&none).message,
        "the version that was asked for does not exist; the latest is 4"
    );
}

#[test]
fn a_cohort_member_needs_its_proof_for_signals_without_an_update_too() {
    let mut sidecar = corpus!("sidecar-data");
    sidecar["smtProofs"].as_array_mut().unwrap().remove(1);
    let sidecar = Sidecar::from_value(&sidecar).unwrap();
    let question = Question::new(documents()[0].id(), sidecar);
    let resolution = question.ask(&chain());
    assert_eq!(failure(&resolution).rule, Some(Rule::SmtProofMissing));
    let outline = outline(&resolution);
    assert_eq!(
        outline[outline.len() - 4..],
        ["says 3", "says 4", "missing", "failed after 1"]
    );
}

/// The secret keys of the members of the golden trees.
fn member_keys() -> Vec<Keypair> {
    let secrets = corpus!("secrets-and-seeds");
    let one = format!("{:064x}", 1);
    ["key0", "a", "b"]
        .map(|name| secrets["secretKeysHex"][name].as_str().unwrap().to_owned())
        .into_iter()
        .chain([one])
        .map(|hex| {
            let secret = array_from_hex::<32>(&hex).unwrap();
            Keypair::from_seckey_slice(SECP256K1, &secret).unwrap()
        })
        .collect()
}

/// A member of a golden tree, with a beacon that signals its root in block 100. The `x1` DID of the corpus has one from
/// the start; a `k1` DID adds it by an update in block 50.
fn golden_member(did: &Did, root: SignalBytes, proof: &Value) -> Resolution {
    let mut chain = SyntheticChain::at(105);
    let (address, mut sidecar) = match did.kind() {
        IdKind::External(_) => {
            let sidecar = json!({"genesisDocument": corpus!("genesis-document")});
            (documents()[0].beacons()[2].address.clone(), sidecar)
        }
        IdKind::Key(key) => {
            let keys = member_keys();
            let mut member = Controller {
                key: *keys.iter().find(|k| k.public_key() == key).unwrap(),
                document: initial_key_document(did).unwrap(),
                version: 1,
                sidecar: Sidecar::default(),
            };
            let cohort = address(did.network(), 9);
            let singleton = member.beacon("initialP2PKH");
            let update =
                member.update(|patch| patch.add_beacon("cohort", BeaconKind::Smt, &cohort));
            chain.signal_at(50, &singleton, announcing(&update));
            (cohort, member.sidecar.to_value())
        }
    };
    sidecar["smtProofs"] = json!([proof]);
    chain.signal_at(100, &address, root);
    Question::new(did, Sidecar::from_value(&sidecar).unwrap()).ask(&chain)
}

#[test]
fn golden_trees_in_all_four_leaf_modes() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let mut modes = BTreeMap::new();
    for case in golden["cases"].as_array().unwrap() {
        for (did, proof) in case["proofs"].as_object().unwrap() {
            let did: Did = did.parse().unwrap();
            let resolution = golden_member(&did, root(proof), proof);
            match proof.get("updateId") {
                None => {
                    assert!(outline(&resolution).contains(&"says nothing".to_owned()));
                    let from = matches!(did.kind(), IdKind::Key(_));
                    assert_eq!(metadata(&resolution).0, 1 + u64::from(from));
                }
                // Nobody has the updates of these trees: resolving fails for the one that the leaf announces.
                Some(update) => {
                    let failure = failure(&resolution);
                    assert_eq!(failure.rule, Some(Rule::UpdateMissing));
                    assert!(failure.message.contains(update.as_str().unwrap()));
                }
            }
            let mode = (
                proof.get("nonce").is_some(),
                proof.get("updateId").is_some(),
            );
            *modes.entry(mode).or_insert(0) += 1;
        }
    }
    let expected = [
        ((false, false), 3),
        ((false, true), 1),
        ((true, false), 2),
        ((true, true), 5),
    ];
    assert_eq!(modes, expected.into());
}

#[test]
fn cohort_members_of_the_corpus_without_an_update() {
    let proofs = corpus!("smt-proofs");
    for (member, signal, says) in [
        ("a", "signalA", "says nothing"),
        ("b", "signalA", "says nothing"),
        ("a", "signalB", "missing"),
        ("b", "signalB", "says nothing"),
    ] {
        let did: Did = corpus!("cohort-members")[member]["did"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let proof = &proofs[signal][did.as_str()];
        let resolution = golden_member(&did, root(proof), proof);
        assert!(
            outline(&resolution).contains(&says.to_owned()),
            "{member} {signal}: {:?}",
            outline(&resolution)
        );
    }
}

#[test]
fn golden_proofs_that_do_not_verify_are_invalid_signal_data() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let case = &golden["cases"][1];
    let true_root: SignalBytes = case["rootHex"].as_str().unwrap().parse().unwrap();
    let rows = golden["invalidProofs"].as_array().unwrap();
    for row in rows {
        let did: Did = row["did"].as_str().unwrap().parse().unwrap();
        let proof = &row["proof"];
        // A proof whose id is malformed is passed over, as if it was not there.
        let claimed = SmtProof::claimed_id(proof);
        let resolution = golden_member(&did, claimed.unwrap_or(true_root), proof);
        let name = row["name"].as_str().unwrap();
        let expected = match name {
            "padded base64url" => Rule::SmtProofMissing,
            _ => Rule::SmtProofNotVerified,
        };
        assert_eq!(failure(&resolution).rule, Some(expected), "{name}");
        assert_eq!(failure(&resolution).code, expected.code());
    }
    assert_eq!(rows.len(), 8);
}
