//! Sidecars and documents that are large, deep or ambiguous: a clear error or a result, in bounded work.

use btcr2_agent::did::json::{MAX_BYTES, MAX_DEPTH};
use btcr2_agent::resolver::limits::{
    MAX_BEACONS, MAX_PROOFS_PER_ROOT, MAX_SIDECAR_ITEMS, MAX_SIGNALS,
};
use btcr2_agent::resolver::{MAX_SIDECAR_BYTES, Sidecar};
use serde_json::{Value, json};

use super::*;
use crate::synthetic::{Controller, Question, SyntheticChain, announcing, service, time};

const NETWORK: Network = Network::Regtest;

fn refused(text: impl AsRef<[u8]>) -> String {
    let failure = Sidecar::parse(text).unwrap_err();
    assert_eq!(failure.code, ErrorCode::InvalidOptions);
    failure.message
}

#[test]
fn a_name_twice_is_refused_where_it_is() {
    for (text, path, name) in [
        (r#"{"updates":[],"updates":[]}"#, "the sidecar", "updates"),
        (
            r#"{"genesisDocument":{"id":1,"id":1}}"#,
            "sidecar.genesisDocument",
            "id",
        ),
        (
            r#"{"updates":[{},{"a":[{"op":1,"op":2}]}]}"#,
            "sidecar.updates[1]",
            "op",
        ),
        (
            r#"{"casUpdates":[{"did:x":1,"did:x":2}]}"#,
            "sidecar.casUpdates[0]",
            "did:x",
        ),
        (
            r#"{"smtProofs":[{"id":1,"\u0069d":2}]}"#,
            "sidecar.smtProofs[0]",
            "id",
        ),
    ] {
        let message = refused(text);
        assert!(message.starts_with(path), "{message}");
        assert!(
            message.contains(&format!("{name:?} occurs twice")),
            "{message}"
        );
    }
}

#[test]
fn what_is_no_sidecar_is_refused() {
    for (text, expected) in [
        ("", "the sidecar is refused"),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("{} {}", "trailing characters"),
        (r#"{"updates":7}"#, "sidecar.updates is refused"),
        (r#"{"updates":{}}"#, "sidecar.updates is refused"),
        (r#"{"updates":[1,]}"#, "expected value"),
        (r#"{"updates":["\ud800"]}"#, "sidecar.updates[0]"),
        (r#"{"updates":[1e999]}"#, "sidecar.updates[0]"),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
    refused([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]);
}

#[test]
fn size_depth_and_numbers_of_entries_are_bounded() {
    let nested = |n: usize| format!(r#"{{"updates":[{}{}]}}"#, "[".repeat(n), "]".repeat(n));
    assert_eq!(
        Sidecar::parse(nested(MAX_DEPTH)).unwrap().updates().len(),
        1
    );
    let message = refused(nested(MAX_DEPTH + 1));
    assert!(message.starts_with("sidecar.updates[0]: "), "{message}");
    assert!(
        message.contains("nested deeper than 64 levels"),
        "{message}"
    );
    refused(nested(1_000_000));
    refused("[".repeat(1_000_000));
    refused(format!("{{\"x\":{}", "{\"x\":".repeat(500_000)));

    let message = refused(" ".repeat(MAX_SIDECAR_BYTES + 1));
    assert!(
        message.contains("at most 16777216 are accepted"),
        "{message}"
    );
    let long = format!(r#"{{"updates":["{}"]}}"#, "x".repeat(MAX_BYTES));
    let message = refused(long);
    assert!(message.starts_with("sidecar.updates[0]: "), "{message}");
    let many = format!("{{\"smtProofs\":[{}1]}}", "1,".repeat(MAX_SIDECAR_ITEMS));
    assert!(refused(&many).contains("more than 100000 entries"));
    let value: Value = serde_json::from_str(&many).unwrap();
    let failure = Sidecar::from_value(&value).unwrap_err();
    assert!(failure.message.contains("more than 100000 entries"));

    let proof = |n: usize| json!({"id": UpdateHash::from_bytes([1; 32]), "n": n});
    let proofs = |n: usize| json!({"smtProofs": (0..n).map(proof).collect::<Vec<_>>()});
    assert!(Sidecar::from_value(&proofs(MAX_PROOFS_PER_ROOT)).is_ok());
    let failure = Sidecar::from_value(&proofs(MAX_PROOFS_PER_ROOT + 1)).unwrap_err();
    assert!(
        failure.message.contains("different proofs for one root"),
        "{failure}"
    );
}

#[test]
fn a_document_of_300_kilobytes_resolves() {
    let mut alice = Controller::key_based(NETWORK, 61);
    let endpoint = Value::String(format!("https://example.com/{}", "x".repeat(300_000)));
    let large = alice.update(|patch| patch.add_service("large", "LinkedDomains", &endpoint));
    let small = alice.update(|patch| service(patch, "small"));
    assert!(alice.document.canonical_bytes().len() > 300_000);
    let mut chain = SyntheticChain::at(60);
    let beacon = alice.beacon("initialP2PKH");
    chain.signal_at(50, &beacon, announcing(&large));
    chain.signal_at(51, &beacon, announcing(&small));
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(resolved(&resolution).document, alice.document);
    assert_eq!(metadata(&resolution), (3, 10, false, Some(time(51).0)));
    let stored = Question::new(alice.did(), Sidecar::default())
        .stored(large.value())
        .stored(small.value());
    assert_eq!(metadata(&stored.ask(&chain)).0, 3);
}

#[test]
fn an_object_that_is_too_long_says_nothing_about_the_did() {
    let alice = Controller::key_based(NETWORK, 62);
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(
        50,
        &alice.beacon("initialP2TR"),
        btcr2_agent::hash::SignalBytes::from_bytes([1; 32]),
    );
    let question = Question::of(&alice).lying([1; 32], &vec![b' '; MAX_BYTES + 1]);
    let (code, rule, message) = question.ask_failing(&chain);
    assert_eq!((code, rule), ("INTERNAL_ERROR", None));
    assert!(message.contains("1048577 bytes"), "{message}");
}

#[test]
fn signals_and_beacons_are_bounded() {
    let alice = Controller::key_based(NETWORK, 63);
    let mut chain = SyntheticChain::at(60);
    let signal = btcr2_agent::hash::SignalBytes::from_bytes([1; 32]);
    for _ in 0..=MAX_SIGNALS {
        chain.unconfirmed(&alice.beacon("initialP2TR"), signal);
    }
    let question = Question::of(&alice);
    let of = |address: &bitcoin::Address| chain.signals_of(address);
    let resolution = question.drive(of, chain.tip(), false);
    let failure = failure(&resolution);
    assert_eq!(failure.code, ErrorCode::InternalError);
    assert!(
        failure.message.contains("more than 100000 signals"),
        "{failure}"
    );

    let crowded = |beacons: usize| {
        let crowd = Controller::external(NETWORK, 64, |mut builder| {
            for i in 0..beacons {
                let mut program = [0; 20];
                program[..4].copy_from_slice(&(i as u32).to_be_bytes());
                let hash = bitcoin::WPubkeyHash::from_raw_hash(
                    bitcoin::hashes::Hash::from_byte_array(program),
                );
                let address = bitcoin::Address::from_script(
                    &bitcoin::ScriptBuf::new_p2wpkh(&hash),
                    bitcoin::Network::Regtest,
                )
                .unwrap();
                builder = builder.beacon(&format!("b{i}"), BeaconKind::Smt, &address);
            }
            builder
        });
        let tip = SyntheticChain::at(60).tip();
        Question::of(&crowd).drive(|_| Vec::new(), tip, false)
    };
    assert_eq!(metadata(&crowded(MAX_BEACONS)).0, 1);
    let resolution = crowded(MAX_BEACONS + 1);
    assert_eq!(super::failure(&resolution).code, ErrorCode::InternalError);
}
