//! The beacon's byte formats against vectors from elsewhere; see tests/vectors/SOURCES.md.

use std::collections::BTreeMap;

use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::{
    self, Leaf, ProofFault, SmtPath, SmtProof, SmtTree, empty_roots, index_of, leaf_value,
};
use btcr2_agent::hash::{
    LeafValue, SignalBytes, SmtIndex, SmtNonce, UpdateHash, array_from_hex, from_hex, to_hex,
};
use serde::Deserialize;
use serde_json::value::RawValue;

fn golden() -> Golden {
    serde_json::from_str(include_str!("../vectors/smt-golden.json")).unwrap()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Golden {
    z_hex: BTreeMap<usize, String>,
    cases: Vec<Case>,
    raw_index_cases: Vec<RawIndexCase>,
    invalid_proofs: Vec<InvalidProof>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    name: String,
    members: Vec<Member>,
    root_hex: SignalBytes,
    #[serde(rename = "legacyLsbRootHex(do not use)")]
    legacy_root_hex: SignalBytes,
    proofs: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    did: String,
    index_hex: String,
    nonce_hex: Option<String>,
    update_id_hex: Option<String>,
    leaf_hex: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIndexCase {
    name: String,
    leaves: Vec<RawLeaf>,
    root_hex: SignalBytes,
    proofs: Vec<RawPath>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLeaf {
    index_hex: String,
    leaf_hex: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPath {
    index_hex: String,
    collapsed_hex: String,
    hashes_hex: Vec<String>,
}

#[derive(Deserialize)]
struct InvalidProof {
    name: String,
    did: String,
    proof: serde_json::Value,
}

fn bytes32(hex: &str) -> [u8; 32] {
    array_from_hex(hex).unwrap()
}

/// The text without layout. No string in these files holds white space.
fn compact(json: &RawValue) -> String {
    json.get().split_whitespace().collect()
}

#[test]
fn smt_empty_subtrees() {
    let golden = golden();
    assert_eq!(golden.z_hex.len(), 11);
    for (height, expected) in golden.z_hex {
        assert_eq!(to_hex(&empty_roots()[height]), expected, "Z[{height}]");
    }
}

#[test]
fn smt_leaves_roots_and_proofs_byte_for_byte() {
    let cases = golden().cases;
    assert_eq!(cases.len(), 5);
    let mut strangers = 0;
    for case in cases {
        let mut leaves = BTreeMap::new();
        for member in &case.members {
            let index = index_of(&member.did);
            assert_eq!(to_hex(index.as_bytes()), member.index_hex, "{}", case.name);
            let nonce = member
                .nonce_hex
                .as_deref()
                .map(|hex| from_hex(hex).unwrap());
            let update = member
                .update_id_hex
                .as_deref()
                .map(|hex| UpdateHash::from_bytes(bytes32(hex)));
            let value = leaf_value(nonce.as_deref(), update.as_ref());
            assert_eq!(to_hex(value.as_bytes()), member.leaf_hex, "{}", case.name);
            // Our own leaves have nonces of 32 bytes or none.
            if nonce.as_ref().is_none_or(|nonce| nonce.len() == 32) {
                let nonce = nonce.map(|nonce| SmtNonce::from_bytes(nonce.try_into().unwrap()));
                assert_eq!(Leaf { nonce, update }.value(), value);
            }
            leaves.insert(index, value);
        }
        let tree = SmtTree::new(leaves.clone()).unwrap();
        assert_eq!(tree.root(), case.root_hex, "{}", case.name);
        if !case.members.is_empty() {
            assert_ne!(tree.root(), case.legacy_root_hex, "{}", case.name);
        }

        assert!(!case.proofs.is_empty());
        for (did, expected) in &case.proofs {
            let index = index_of(did);
            let proof: SmtProof = serde_json::from_str(expected.get()).unwrap();
            assert_eq!(&tree.prove(&index), proof.path(), "{}: {did}", case.name);
            assert_eq!(proof.leaf_value(), tree.value_at(&index));
            assert_eq!(proof.verify(&index, &case.root_hex), Ok(()));
            assert_eq!(serde_json::to_string(&proof).unwrap(), compact(expected));

            // The same proof from its parts, where the nonce is one we could have made.
            let nonce = match proof.nonce().map(|nonce| nonce.as_bytes().try_into()) {
                None => None,
                Some(Ok(nonce)) => Some(SmtNonce::from_bytes(nonce)),
                Some(Err(_)) => continue,
            };
            let leaf = Leaf {
                nonce,
                update: proof.update(),
            };
            strangers += usize::from(leaf.is_empty());
            let made = SmtProof::from_parts(tree.root(), &leaf, tree.prove(&index));
            assert_eq!(made, proof);
            assert_eq!(made.verify_submitted(&index, &leaf, &case.root_hex), Ok(()));
        }
    }
    assert_eq!(strangers, 3, "proofs of indexes outside the tree");
}

#[test]
fn smt_siblings_at_the_leaf_and_at_the_root() {
    let cases = golden().raw_index_cases;
    assert_eq!(cases.len(), 2);
    for case in cases {
        let leaves: BTreeMap<_, _> = case
            .leaves
            .iter()
            .map(|leaf| {
                (
                    SmtIndex::from_bytes(bytes32(&leaf.index_hex)),
                    LeafValue::from_bytes(bytes32(&leaf.leaf_hex)),
                )
            })
            .collect();
        let tree = SmtTree::new(leaves.clone()).unwrap();
        assert_eq!(tree.root(), case.root_hex, "{}", case.name);
        assert_eq!(case.proofs.len(), 2);
        for expected in case.proofs {
            let index = SmtIndex::from_bytes(bytes32(&expected.index_hex));
            let path = tree.prove(&index);
            assert_eq!(to_hex(&path.collapsed), expected.collapsed_hex);
            let hashes: Vec<_> = path.hashes.iter().map(|hash| to_hex(hash)).collect();
            assert_eq!(hashes, expected.hashes_hex);
            let value = leaves[&index];
            assert_eq!(path.verify_leaf_value(&index, &value, &tree.root()), Ok(()));
        }
    }
}

#[test]
fn smt_invalid_proofs_are_refused_with_the_reason() {
    let rows = golden().invalid_proofs;
    assert_eq!(rows.len(), 8);
    let mut valid = None;
    let mut refused = Vec::new();
    for row in &rows {
        let index = index_of(&row.did);
        let claimed = SmtProof::claimed_id(&row.proof);
        let reason = match serde_json::from_value::<SmtProof>(row.proof.clone()) {
            Err(error) => error.to_string(),
            Ok(proof) => {
                let fault = proof.verify(&index, &claimed.unwrap()).unwrap_err();
                if row.name == "valid proof, wrong DID" {
                    valid = Some(proof);
                }
                match fault {
                    ProofFault::HashCount { hashes, collapsed } => {
                        format!("{hashes} + {collapsed}")
                    }
                    ProofFault::WrongRoot { .. } => "leads elsewhere".to_owned(),
                    other => panic!("{}: {other}", row.name),
                }
            }
        };
        refused.push((row.name.as_str(), claimed.is_some(), reason));
    }
    let refused: Vec<_> = refused
        .iter()
        .map(|(name, has_id, reason)| (*name, *has_id, reason.as_str()))
        .collect();
    assert_eq!(
        refused,
        [
            ("collapsed 31 bytes", true, "31 bytes instead of 32"),
            ("one hash too many", true, "2 + 255"),
            ("hash 31 bytes", true, "31 bytes instead of 32"),
            ("updateId 31 bytes", true, "31 bytes instead of 32"),
            ("updateId removed", true, "leads elsewhere"),
            ("padded base64url", false, "not base64url without padding"),
            ("wrong root", true, "leads elsewhere"),
            ("valid proof, wrong DID", true, "leads elsewhere"),
        ]
    );

    // What most rows are a damaged copy of is valid, so that it is the damage that was refused.
    let valid = valid.unwrap();
    let owner = index_of(&rows[0].did);
    assert_eq!(valid.verify(&owner, &valid.id()), Ok(()));
    let other = SignalBytes::from_bytes([1; 32]);
    assert_eq!(
        valid.verify(&owner, &other),
        Err(ProofFault::WrongId {
            id: valid.id(),
            signal: other
        })
    );
}

#[test]
fn smt_a_sibling_that_is_empty_has_to_be_collapsed() {
    let index = index_of("did:btcr2:member");
    let value = LeafValue::from_bytes([3; 32]);
    let tree = SmtTree::new([
        (index, value),
        (index_of("did:btcr2:other"), LeafValue::from_bytes([4; 32])),
    ])
    .unwrap();
    let canonical = tree.prove(&index);
    let verify = |path: &SmtPath| path.verify_leaf_value(&index, &value, &tree.root());
    assert_eq!(verify(&canonical), Ok(()));

    let siblings = 256 - canonical.hashes.len();
    let mut refused = 0;
    for level in 0..=u8::MAX {
        let position = usize::from(255 - level);
        let mask = 0x80 >> (position % 8);
        if canonical.collapsed[position / 8] & mask == 0 {
            continue;
        }
        // The same root, spelled out: all other siblings stay as they are.
        let mut path = canonical.clone();
        path.collapsed[position / 8] &= !mask;
        let hashes_below = (0..level)
            .filter(|&below| {
                let position = usize::from(255 - below);
                canonical.collapsed[position / 8] & (0x80 >> (position % 8)) == 0
            })
            .count();
        path.hashes
            .insert(hashes_below, empty_roots()[usize::from(level)]);
        assert_eq!(verify(&path), Err(ProofFault::NotCanonical { level }));
        refused += 1;
    }
    assert_eq!(refused, siblings);
}

/// The corpus: two signals with three members each, in every leaf mode.
#[test]
fn corpus_smt_proofs_byte_for_byte() {
    let signals: BTreeMap<String, BTreeMap<String, Box<RawValue>>> = serde_json::from_str(
        include_str!("../vectors/spec-corpus-481822bc/smt-proofs.json"),
    )
    .unwrap();
    assert_eq!(signals.len(), 2);
    for (name, proofs) in signals {
        let parsed: BTreeMap<_, SmtProof> = proofs
            .iter()
            .map(|(did, proof)| (did.clone(), serde_json::from_str(proof.get()).unwrap()))
            .collect();
        assert_eq!(parsed.len(), 3);
        let leaves: BTreeMap<_, _> = parsed
            .iter()
            .map(|(did, proof)| {
                let nonce = proof
                    .nonce()
                    .map(|nonce| SmtNonce::from_bytes(nonce.as_bytes().try_into().unwrap()));
                let update = proof.update();
                (did.clone(), Leaf { nonce, update })
            })
            .collect();
        let tree = SmtTree::new(
            leaves
                .iter()
                .filter(|(_, leaf)| !leaf.is_empty())
                .map(|(did, leaf)| (index_of(did), leaf.value())),
        )
        .unwrap();
        for (did, leaf) in &leaves {
            let index = index_of(did);
            let made = SmtProof::from_parts(tree.root(), leaf, tree.prove(&index));
            assert_eq!(
                serde_json::to_string(&made).unwrap(),
                compact(&proofs[did]),
                "{name}: {did}"
            );
            assert_eq!(parsed[did].verify(&index, &tree.root()), Ok(()));
        }
    }
}

#[test]
fn corpus_cas_announcement_byte_for_byte() {
    let text = include_str!("../vectors/spec-corpus-481822bc/cas-announcement.json");
    let map: BTreeMap<String, UpdateHash> = serde_json::from_str(text).unwrap();
    let announcement =
        CasAnnouncement::new(map.clone(), |did| did.starts_with("did:btcr2:")).unwrap();
    assert_eq!(announcement.len(), 3);
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    let canonical = serde_json_canonicalizer::to_vec(&value).unwrap();
    assert_eq!(announcement.canonical_bytes(), canonical);
    // As the corpus gives it in the intermediates of update 2.
    assert_eq!(
        announcement.signal_bytes().to_string(),
        "6edbcb2d77e540b713df206b69331d308d8593352077cdf227badd59a91d49d4"
    );
    assert_eq!(
        CasAnnouncement::parse_canonical(&canonical, |_| true),
        Ok(announcement.clone())
    );

    // Each cohort member finds its own update.
    let members: BTreeMap<String, serde_json::Value> = serde_json::from_str(include_str!(
        "../vectors/spec-corpus-481822bc/cohort-members.json"
    ))
    .unwrap();
    assert_eq!(members.len(), 2);
    for member in members.values() {
        let update = announcement.update_of(member["did"].as_str().unwrap());
        assert_eq!(update, member["updateHash"].as_str().unwrap().parse().ok());
        assert!(update.is_some());
    }
}

/// Signals that are on upstream's regtest chain.
#[test]
fn upstream_signals() {
    let sets: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("../vectors/regtest-upstream-2026-09.json")).unwrap();
    let parts = |name: &str| {
        let set = &sets[name];
        let input = &set["resolveInput"];
        let signal: SignalBytes = set["signal"]["signalBytes"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        (
            input["did"].as_str().unwrap().to_owned(),
            input["resolutionOptions"]["sidecar"].clone(),
            signal,
        )
    };

    for (name, private) in [
        ("12a-x1-sidecar-update-smt-proof", true),
        ("25a-x1-smt-update-no-nonce", false),
    ] {
        let (did, sidecar, signal) = parts(name);
        let proof: SmtProof = serde_json::from_value(sidecar["smtProofs"][0].clone()).unwrap();
        assert_eq!(proof.verify(&index_of(&did), &signal), Ok(()), "{name}");
        assert_eq!(proof.nonce().is_some(), private);
        assert_eq!(SmtProof::claimed_id(&sidecar["smtProofs"][0]), Some(signal));
        // Its leaf is all an aggregator knows of it.
        let checked = proof
            .path()
            .verify_leaf_value(&index_of(&did), &proof.leaf_value(), &signal);
        assert_eq!(checked, Ok(()));
    }

    // A sibling was tampered with.
    let (did, sidecar, signal) = parts("n29-x1-smt-proof-hash");
    let proof: SmtProof = serde_json::from_value(sidecar["smtProofs"][0].clone()).unwrap();
    assert!(matches!(
        proof.verify(&index_of(&did), &signal),
        Err(ProofFault::WrongRoot { .. })
    ));

    let (did, sidecar, signal) = parts("10a-x1-sidecar-update-cas-announcement");
    let bytes = serde_json_canonicalizer::to_vec(&sidecar["casUpdates"][0]).unwrap();
    let announcement =
        CasAnnouncement::parse_canonical(&bytes, |did| did.starts_with("did:btcr2:")).unwrap();
    assert_eq!(announcement.signal_bytes(), signal);
    assert_eq!(
        announcement.update_of(&did).unwrap().to_string(),
        "HzTsXsnLOWpjbGn931-dkdi3xCQQMFy8MrXCgak3B-o"
    );
}

#[test]
fn smt_the_tree_is_that_of_the_module_constants() {
    let empty = SmtTree::new([]).unwrap();
    assert_eq!(empty.root().as_bytes(), &empty_roots()[smt::LEVELS]);
    let path = empty.prove(&index_of("did:btcr2:anyone"));
    assert_eq!(path.collapsed, [0xff; 32]);
    assert!(path.hashes.is_empty());
}
