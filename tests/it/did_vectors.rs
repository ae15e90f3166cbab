//! did:btcr2 vectors (`tests/vectors/SOURCES.md`): identifiers, documents, hashes, updates.

use std::sync::LazyLock;

use btcr2_agent::did::document::MethodFault;
use btcr2_agent::did::error::{ErrorCode, Rule};
use btcr2_agent::did::update::{InvalidUpdate, SignError, UpdateError};
use btcr2_agent::did::verify::{check_times, confirm_duplicate};
use btcr2_agent::did::{
    BeaconKind, Did, Document, DocumentPatch, GenesisBuilder, GenesisDocument, IdKind, InvalidDid,
    InvalidDocument, KeyAddress, PatchBuilder, SignedUpdate, UnsignedUpdate, VerifyOptions,
    initial_key_document, json, multikey, verify,
};
use btcr2_agent::hash::{DocumentHash, UpdateHash, array_from_hex, sha256, to_hex};
use btcr2_agent::keys::OwnKey;
use btcr2_agent::network::Network;
use btcr2_agent::time::UnixTime;
use secp256k1::{Keypair, PublicKey, SECP256K1, SecretKey};
use serde_json::{Value, json as value};

const DID_ENCODING: &str = include_str!("../vectors/did-encoding.json");
const CANONICALIZE: &str = include_str!("../vectors/canonicalize.json");
const CID: &str = include_str!("../vectors/cid.json");
const FAILURE_RULES: &str = include_str!("../vectors/failure-rules.json");
const UPSTREAM: &str = include_str!("../vectors/regtest-upstream-2026-09.json");

macro_rules! corpus {
    ($file:literal) => {
        parse(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/spec-corpus-481822bc/",
            $file,
            ".json"
        )))
    };
}

mod foreign;
mod making;
mod rules;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).unwrap().as_str().unwrap()
}

fn keypair(hex: &str) -> Keypair {
    let secret = SecretKey::from_slice(&array_from_hex::<32>(hex).unwrap()).unwrap();
    Keypair::from_secret_key(SECP256K1, &secret)
}

fn public_key(number: u8) -> PublicKey {
    SecretKey::from_slice(&[number; 32])
        .unwrap()
        .public_key(SECP256K1)
}

const BEFORE_OCTOBER: VerifyOptions = VerifyOptions {
    require_invocation_target: false,
};

fn strict() -> VerifyOptions {
    VerifyOptions::default()
}

// ---------------------------------------------------------------- identifiers

#[test]
fn valid_identifiers_decode_and_encode() {
    let vectors = parse(DID_ENCODING);
    let rows = vectors["valid"].as_array().unwrap();
    for row in rows {
        let did: Did = text(row, "/did").parse().unwrap();
        assert_eq!(did.to_string(), row["did"]);
        assert_eq!(serde_json::to_value(&did).unwrap(), row["did"]);
        assert_eq!(
            serde_json::from_value::<Did>(row["did"].clone()).unwrap(),
            did
        );
        let network: Network = text(row, "/network").parse().unwrap();
        assert_eq!(did.network(), network);
        assert_eq!(format!("{:02x}", network.number()), row["firstByteHex"]);
        match did.kind() {
            IdKind::Key(key) => {
                assert_eq!(row["idType"], "KEY");
                assert_eq!(to_hex(&key.serialize()), row["genesisBytesHex"]);
                assert_eq!(Did::from_key(network, &key), did);
                for form in KeyAddress::ALL {
                    let name = serde_json::to_value(form).unwrap();
                    let expected = text(&row["addresses"], &format!("/{}", name.as_str().unwrap()));
                    assert_eq!(form.of(network, &key).to_string(), expected);
                }
                let document = initial_key_document(&did).unwrap();
                assert_eq!(*document.value(), row["initialDocument"]);
                assert_eq!(
                    document.hash(),
                    json::document_hash(&row["initialDocument"])
                );
                assert_eq!(Document::from_value(document.value()).unwrap(), document);
            }
            IdKind::External(hash) => {
                assert_eq!(row["idType"], "EXTERNAL");
                assert_eq!(to_hex(hash.as_bytes()), row["genesisBytesHex"]);
                assert_eq!(Did::from_genesis(network, hash), did);
                assert!(initial_key_document(&did).is_none());
            }
        }
    }
    assert_eq!(rows.len(), 13);
}

#[test]
fn invalid_identifiers_are_refused_with_the_reason() {
    let vectors = parse(DID_ENCODING);
    let length = |expected, found| InvalidDid::GenesisLength { expected, found };
    let reasons = [
        ("upper case (whole DID)", InvalidDid::UpperCase),
        (
            "upper-case method-specific id (valid bech32m otherwise)",
            InvalidDid::UpperCase,
        ),
        ("mixed case", InvalidDid::UpperCase),
        ("checksum", InvalidDid::Checksum),
        ("bech32 (not bech32m) checksum", InvalidDid::Checksum),
        ("unknown HRP", InvalidDid::UnknownKind("y".into())),
        ("reserved network value 6", InvalidDid::ReservedNetwork(6)),
        ("reserved network value 11", InvalidDid::ReservedNetwork(11)),
        ("version 2 (high nibble 1)", InvalidDid::Version(2)),
        ("high nibble f", InvalidDid::Version(16)),
        (
            "custom network 12: reject unless configured",
            InvalidDid::CustomNetwork(12),
        ),
        ("k with 32 bytes", length(33, 32)),
        ("x with 33 bytes", length(32, 33)),
        ("not a valid SEC compressed key prefix", InvalidDid::Key),
        ("x coordinate not on curve/over p", InvalidDid::Key),
        (
            "non-zero padding bits (x: 33 bytes = 264 bits -> 53 groups, 1 pad bit)",
            InvalidDid::Padding,
        ),
        ("wrong method", InvalidDid::Prefix),
        ("no did:btcr2: prefix", InvalidDid::Prefix),
    ];
    let rows = vectors["invalid"].as_array().unwrap();
    assert_eq!(rows.len(), reasons.len());
    for (row, (why, reason)) in rows.iter().zip(reasons) {
        assert_eq!(row["why"], why);
        let error = text(row, "/did").parse::<Did>().unwrap_err();
        assert_eq!(error, reason, "{why}");
        assert_eq!(error.code(), ErrorCode::InvalidDid);
        assert!(serde_json::from_value::<Did>(row["did"].clone()).is_err());
    }
}

#[test]
fn every_network_number_and_other_lengths() {
    let key = public_key(1).serialize();
    for number in 0..=255u8 {
        let data = [&[number][..], &key].concat();
        let encoded = bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse("k").unwrap(), &data);
        let decoded = format!("did:btcr2:{}", encoded.unwrap()).parse::<Did>();
        match number {
            0..=5 => assert_eq!(decoded.unwrap().network().number(), number),
            6..=11 => assert_eq!(decoded, Err(InvalidDid::ReservedNetwork(number))),
            12..=15 => assert_eq!(decoded, Err(InvalidDid::CustomNetwork(number))),
            _ => assert_eq!(decoded, Err(InvalidDid::Version(number / 16 + 1))),
        }
    }
    for bytes in 0..=34usize {
        let encoded =
            bech32::encode::<bech32::Bech32m>(bech32::Hrp::parse("x").unwrap(), &vec![0; bytes]);
        let decoded = format!("did:btcr2:{}", encoded.unwrap()).parse::<Did>();
        match bytes {
            0 => assert_eq!(decoded, Err(InvalidDid::TextLength(18))),
            33 => assert!(decoded.is_ok()),
            34 => assert_eq!(
                decoded,
                Err(InvalidDid::GenesisLength {
                    expected: 32,
                    found: 33
                })
            ),
            _ => assert_eq!(
                decoded,
                Err(InvalidDid::GenesisLength {
                    expected: 32,
                    found: bytes - 1
                })
            ),
        }
    }
}

#[test]
fn keys_of_both_parities_keep_theirs() {
    // d = 1 has even Y, d = 6 odd.
    for (last, first) in [(1, 2), (6, 3)] {
        let mut secret = [0; 32];
        secret[31] = last;
        let key = SecretKey::from_slice(&secret)
            .unwrap()
            .public_key(SECP256K1);
        assert_eq!(key.serialize()[0], first);
        let did = Did::from_key(Network::Signet, &key);
        assert_eq!(
            did.to_string().parse::<Did>().unwrap().kind(),
            IdKind::Key(key)
        );
        let method = &initial_key_document(&did).unwrap().verification_methods()[0].clone();
        assert_eq!(method.key, Some(key));
    }
}

#[test]
fn identifiers_sort_as_their_text_and_index_by_its_hash() {
    let vectors = parse(DID_ENCODING);
    let mut dids: Vec<Did> = vectors["valid"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| text(row, "/did").parse().unwrap())
        .collect();
    dids.sort();
    let texts: Vec<String> = dids.iter().map(Did::to_string).collect();
    let mut sorted = texts.clone();
    sorted.sort();
    assert_eq!(texts, sorted);
    for did in dids {
        assert_eq!(
            *did.smt_index().as_bytes(),
            sha256(did.to_string().as_bytes())
        );
    }
}

// ---------------------------------------------------------------- JSON

#[test]
fn canonical_form_and_hash() {
    let vectors = parse(CANONICALIZE);
    let rows = vectors["cases"].as_array().unwrap();
    for row in rows {
        let parsed = json::parse_strict(text(row, "/json"));
        // Two rows show what JavaScript does with input that is refused here.
        if ["lone surrogate", "duplicate keys last wins"].contains(&text(row, "/name")) {
            assert!(parsed.is_err(), "{}", row["name"]);
            continue;
        }
        let parsed = parsed.unwrap();
        let canonical = json::canonicalize(&parsed).unwrap();
        assert_eq!(
            std::str::from_utf8(&canonical).unwrap(),
            row["canonical"],
            "{}",
            row["name"]
        );
        let hash = json::document_hash(&parsed);
        assert_eq!(hash.to_string(), row["base64url"]);
        assert_eq!(to_hex(hash.as_bytes()), row["sha256Hex"]);
        assert_eq!(json::parse_strict(&canonical).unwrap(), parsed);
    }
    assert_eq!(rows.len(), 26);
}

#[test]
fn ipfs_addresses() {
    let vectors = parse(CID);
    let rows = vectors["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let content = text(row, "/contentUtf8").as_bytes();
        assert_eq!(to_hex(&sha256(content)), row["sha256Hex"]);
        assert_eq!(json::cid(content), row["cid"]);
        assert_eq!(json::cid_of_hash(&sha256(content)), row["cid"]);
    }
}

#[test]
fn rules_have_the_ids_and_codes_of_the_vectors() {
    let vectors = parse(FAILURE_RULES);
    let rows = vectors["rules"].as_array().unwrap();
    let listed: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (text(row, "/0"), text(row, "/1")))
        .collect();
    let ours: Vec<(&str, &str)> = Rule::ALL
        .iter()
        .map(|rule| (rule.as_str(), rule.code().as_str()))
        .collect();
    assert_eq!(ours, listed);
}

// ---------------------------------------------------------------- upstream sets

struct Upstream {
    name: String,
    set: Value,
    did: Did,
    source: Document,
    update: SignedUpdate,
}

fn upstream() -> Vec<Upstream> {
    let sets = parse(UPSTREAM);
    let sets = sets.as_object().unwrap();
    let read = |(name, set): (&String, &Value)| {
        let did: Did = text(set, "/resolveInput/did").parse().unwrap();
        let sidecar = &set["resolveInput"]["resolutionOptions"]["sidecar"];
        let source = if let IdKind::Key(_) = did.kind() {
            initial_key_document(&did).unwrap()
        } else {
            let genesis = GenesisDocument::from_value(&sidecar["genesisDocument"]).unwrap();
            assert!(genesis.matches(&did), "{name}");
            assert_eq!(genesis.did(did.network()), did);
            assert!(!genesis.matches(&genesis.did(Network::Regtest).network_sibling()));
            genesis.document(did.network()).unwrap()
        };
        let update = SignedUpdate::from_value(&sidecar["updates"][0]).unwrap();
        Upstream {
            name: name.clone(),
            set: set.clone(),
            did,
            source,
            update,
        }
    };
    sets.iter().map(read).collect()
}

trait Sibling {
    fn network_sibling(&self) -> Did;
}

impl Sibling for Did {
    /// An identifier of the same network that commits to something else.
    fn network_sibling(&self) -> Did {
        Did::from_genesis(self.network(), DocumentHash::from_bytes([9; 32]))
    }
}

#[test]
fn upstream_updates_start_from_the_initial_documents() {
    let sets = upstream();
    assert_eq!(sets.len(), 6);
    for set in &sets {
        assert_eq!(set.source.id(), &set.did);
        assert_eq!(set.update.source_hash(), set.source.hash(), "{}", set.name);
        assert_eq!(set.update.target_version(), 2);
        let beacon = set
            .set
            .pointer("/signals/0")
            .unwrap_or_else(|| &set.set["signal"]);
        let found = set
            .source
            .beacons()
            .iter()
            .find(|b| b.id == beacon["beaconId"]);
        assert_eq!(found.unwrap().address.to_string(), beacon["address"]);
    }
}

#[test]
fn upstream_updates_lead_to_the_expected_documents() {
    for set in upstream() {
        let next = verify(&set.update, &set.source, 1, BEFORE_OCTOBER).unwrap();
        assert_eq!(next.hash(), set.update.target_hash());
        if set.name != "n29-x1-smt-proof-hash" {
            assert_eq!(
                *next.value(),
                set.set["expect"]["didDocument"],
                "{}",
                set.name
            );
            assert_eq!(
                next.is_deactivated(),
                set.set["expect"]["deactivated"].as_bool().unwrap()
            );
        }
        // They pre-date invocationTarget, which is required by default.
        let fault = verify(&set.update, &set.source, 1, strict()).unwrap_err();
        assert_eq!(fault.rule(), Rule::ProofInvocationTargetMismatch);
    }
}

#[test]
fn upstream_signals_announce_the_update_hash() {
    for set in upstream() {
        let sidecar = &set.set["resolveInput"]["resolutionOptions"]["sidecar"];
        let announced = if let Some(signal) = set.set.pointer("/signals/0/signalBytes") {
            UpdateHash::from_bytes(array_from_hex(signal.as_str().unwrap()).unwrap()).to_string()
        } else if let Some(map) = sidecar.pointer("/casUpdates/0") {
            let signal = to_hex(json::document_hash(map).as_bytes());
            assert_eq!(signal, set.set["signal"]["signalBytes"]);
            text(map, &format!("/{}", set.did)).to_owned()
        } else {
            text(sidecar, "/smtProofs/0/updateId").to_owned()
        };
        assert_eq!(set.update.hash().to_string(), announced, "{}", set.name);
    }
}

#[test]
fn an_upstream_update_is_remade_from_its_secret() {
    let mut remade = 0;
    for set in upstream() {
        let Some(secret) = set.set["genesisSecret"].as_str() else {
            continue;
        };
        // The old form, without invocationTarget.
        let old = rules::resign(set.update.value().clone(), &keypair(secret));
        verify(&old, &set.source, 1, BEFORE_OCTOBER).unwrap();

        let key = OwnKey::from_bytes(&array_from_hex(secret).unwrap()).unwrap();
        let patch = DocumentPatch::from_value(&set.update.value()["patch"]).unwrap();
        let unsigned = UnsignedUpdate::new(&set.source, 1, &patch).unwrap();
        assert_eq!(unsigned.hash(), set.update.unsigned_hash());
        let signed = unsigned.sign(&key, "#initialKey").unwrap();
        let next = verify(&signed, &set.source, 1, strict()).unwrap();
        assert_eq!(*next.value(), set.set["expect"]["didDocument"]);
        remade += 1;
    }
    assert_eq!(remade, 2);
}

// ---------------------------------------------------------------- the specification's corpus

/// Versions 1 to 4.
fn corpus_documents() -> [Document; 4] {
    static DOCUMENTS: LazyLock<[Document; 4]> = LazyLock::new(|| {
        [
            corpus!("initial-did-document"),
            corpus!("did-document-v2"),
            corpus!("did-document-v3"),
            corpus!("did-document-v4"),
        ]
        .map(|document| Document::from_value(&document).unwrap())
    });
    DOCUMENTS.clone()
}

/// The updates to versions 2 to 4.
fn corpus_updates() -> [SignedUpdate; 3] {
    static UPDATES: LazyLock<[SignedUpdate; 3]> = LazyLock::new(|| {
        [
            corpus!("signed-update-2"),
            corpus!("signed-update-3"),
            corpus!("signed-update-4"),
        ]
        .map(|update| SignedUpdate::from_value(&update).unwrap())
    });
    UPDATES.clone()
}

fn corpus_key(name: &str) -> Keypair {
    keypair(text(
        &corpus!("secrets-and-seeds"),
        &format!("/secretKeysHex/{name}"),
    ))
}

fn corpus_aux(name: &str) -> [u8; 32] {
    array_from_hex(text(
        &corpus!("secrets-and-seeds"),
        &format!("/auxRandHex/{name}"),
    ))
    .unwrap()
}

#[test]
fn corpus_genesis_document() {
    let genesis = GenesisDocument::from_value(&corpus!("genesis-document")).unwrap();
    let [initial, ..] = corpus_documents();
    assert_eq!(genesis.did(Network::Mutinynet), *initial.id());
    assert!(genesis.matches(initial.id()));
    assert_eq!(genesis.document(Network::Mutinynet).unwrap(), initial);
    let kinds: Vec<_> = initial.beacons().iter().map(|beacon| beacon.kind).collect();
    assert_eq!(
        kinds,
        [BeaconKind::Singleton, BeaconKind::Cas, BeaconKind::Smt]
    );
    // The same genesis document on a network where its addresses mean nothing.
    let error = genesis.document(Network::Regtest).unwrap_err();
    assert!(matches!(error, InvalidDocument::EndpointNetwork { .. }));
}

#[test]
fn corpus_updates_are_rebuilt_byte_for_byte() {
    let documents = corpus_documents();
    let expected = corpus_updates();
    let unsigned_rows = [
        corpus!("unsigned-update-2"),
        corpus!("unsigned-update-3"),
        corpus!("unsigned-update-4"),
    ];
    for (i, update) in expected.iter().enumerate() {
        let version = i as u64 + 1;
        let patch = DocumentPatch::from_value(&update.value()["patch"]).unwrap();
        let unsigned = UnsignedUpdate::new(&documents[i], version, &patch).unwrap();
        assert_eq!(*unsigned.value(), unsigned_rows[i]);
        assert_eq!(unsigned.target(), &documents[i + 1]);
        assert_eq!(unsigned.target_version(), version + 1);
        assert_eq!(unsigned.hash(), update.unsigned_hash());
        // key0 is 03…: a point with odd Y.
        let signed = unsigned
            .sign_with_aux(
                &corpus_key("key0"),
                "#key-0",
                &corpus_aux(&format!("update-{}", version + 1)),
            )
            .unwrap();
        assert_eq!(signed.value(), update.value());
        assert_eq!(signed.hash(), update.hash());
    }
}

#[test]
fn corpus_intermediate_values_of_update_2() {
    let [update, ..] = corpus_updates();
    let [initial, ..] = corpus_documents();
    let expected = corpus!("intermediates-update-2");
    let patch = DocumentPatch::from_value(&update.value()["patch"]).unwrap();
    let unsigned = UnsignedUpdate::new(&initial, 1, &patch).unwrap();
    let jcs = |value: &Value| String::from_utf8(json::canonicalize(value).unwrap()).unwrap();
    assert_eq!(jcs(unsigned.value()), expected["jcsUnsignedUpdate"]);
    assert_eq!(
        to_hex(unsigned.hash().as_bytes()),
        expected["sha256UnsignedUpdate"]
    );
    let config = corpus!("data-integrity-config");
    assert_eq!(jcs(&config), expected["jcsProofConfig"]);
    let request = unsigned.to_sign("#key-0").unwrap();
    assert_eq!(to_hex(&request.digest()), expected["signingHash"]);
    assert_eq!(
        update.value()["proof"]["proofValue"],
        expected["proofValue"]
    );
    let signature = text(&expected, "/signatureHex").parse().unwrap();
    assert_eq!(request.finish(&signature).unwrap(), update);
    assert_eq!(
        String::from_utf8(update.canonical_bytes()).unwrap(),
        expected["jcsSignedUpdate"]
    );
    assert_eq!(to_hex(update.hash().as_bytes()), expected["updateHashHex"]);
    assert_eq!(update.hash().to_string(), expected["updateHashB64u"]);
}

#[test]
fn corpus_updates_verify_in_order_and_nowhere_else() {
    let documents = corpus_documents();
    let updates = corpus_updates();
    let mut history = Vec::new();
    for (i, update) in updates.iter().enumerate() {
        let version = i as u64 + 1;
        let next = verify(update, &documents[i], version, strict()).unwrap();
        assert_eq!(next.value(), documents[i + 1].value());
        history.push(update.unsigned_hash());

        if version > 1 {
            let fault = verify(update, &documents[i - 1], version - 1, strict()).unwrap_err();
            assert_eq!(fault.rule(), Rule::VersionSkip);
            assert_eq!(fault.code(), ErrorCode::LatePublishing);
        }
        let fault = verify(update, &documents[i], version + 1, strict()).unwrap_err();
        assert_eq!(fault.rule(), Rule::DuplicateHashMismatch);
        for duplicate in &updates[..=i] {
            confirm_duplicate(duplicate, &history).unwrap();
        }
        for later in &updates[i + 1..] {
            assert!(confirm_duplicate(later, &history).is_err());
        }
    }
    history[1] = history[0];
    let fault = confirm_duplicate(&updates[1], &history).unwrap_err();
    assert_eq!(fault.code(), ErrorCode::LatePublishing);
}

#[test]
fn corpus_cohort_members() {
    let members = corpus!("cohort-members");
    for name in ["a", "b"] {
        let member = &members[name];
        let did: Did = text(member, "/did").parse().unwrap();
        let key = corpus_key(name);
        assert_eq!(Did::from_key(Network::Mutinynet, &key.public_key()), did);
        let initial = initial_key_document(&did).unwrap();
        assert_eq!(*initial.value(), member["initialDocument"]);
        let patch = DocumentPatch::from_value(&member["signedUpdate"]["patch"]).unwrap();
        let aux = corpus_aux(&format!("cohort-{name}"));
        let signed = UnsignedUpdate::new(&initial, 1, &patch)
            .unwrap()
            .sign_with_aux(&key, "#initialKey", &aux)
            .unwrap();
        assert_eq!(*signed.value(), member["signedUpdate"]);
        assert_eq!(signed.hash().to_string(), member["updateHash"]);
        verify(&signed, &initial, 1, strict()).unwrap();
    }
}
