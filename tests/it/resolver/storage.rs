//! Content-addressed storage: what is asked for, and what happens when it lies.

use btcr2_agent::did::{Document, Rule, json as strict};
use btcr2_agent::hash::SignalBytes;
use btcr2_agent::resolver::{
    BlockRef, CasKind, Progress, Request, ResolutionOptions, Resolver, Sidecar, Strictness,
};
use serde_json::{Value, json};

use super::*;
use crate::synthetic::{Controller, Question, SyntheticChain, announcing, cas_announcement};

const NETWORK: Network = Network::Signet;

/// An `x1` DID whose second version a CAS beacon announced in block 50, and everything that is stored of it.
struct Stored {
    controller: Controller,
    chain: SyntheticChain,
    genesis: Value,
    map: Value,
    update: Value,
}

fn stored() -> Stored {
    let cohort = address(NETWORK, 200);
    let mut controller = Controller::external(NETWORK, 41, |builder| {
        builder.beacon("cohort", BeaconKind::Cas, &cohort)
    });
    let update = controller.add_service("x");
    let map = cas_announcement([(controller.did(), update.hash())]);
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(50, &cohort, map.signal_bytes());
    Stored {
        genesis: controller.sidecar.genesis().unwrap().clone(),
        map: serde_json::from_slice(&map.canonical_bytes()).unwrap(),
        update: update.value().clone(),
        controller,
        chain,
    }
}

impl Stored {
    fn question(&self) -> Question {
        Question::new(self.controller.did(), Sidecar::default())
    }

    fn objects(&self) -> [(&Value, CasKind); 3] {
        [
            (&self.genesis, CasKind::GenesisDocument),
            (&self.map, CasKind::Announcement),
            (&self.update, CasKind::Update),
        ]
    }
}

fn hash(value: &Value) -> [u8; 32] {
    strict::document_hash(value).to_bytes()
}

#[test]
fn a_did_resolves_from_storage_alone() {
    let stored = stored();
    let mut question = stored.question();
    for (object, _) in stored.objects() {
        question = question.stored(object);
    }
    let resolution = question.ask(&stored.chain);
    assert_eq!(resolved(&resolution).document, stored.controller.document);
    assert_eq!(
        outline(&resolution),
        ["initial from storage", "cohort 1", "says 2", "applied 2"]
    );
    let WalkStep::Signal { said, .. } = &resolution.walk.steps[2] else {
        panic!("{:?}", resolution.walk.steps[2]);
    };
    assert!(matches!(
        said,
        Said::Update {
            source: DataSource::Cas,
            ..
        }
    ));
    // The same bytes in another layout are the same JSON.
    let mut question = stored.question();
    for (object, _) in stored.objects() {
        let text = serde_json::to_string_pretty(object).unwrap();
        question = question.lying(hash(object), text.as_bytes());
    }
    assert_eq!(question.ask(&stored.chain), resolution);
}

#[test]
fn what_is_nowhere_has_its_code() {
    let stored = stored();
    for (left_out, expected) in [
        (CasKind::GenesisDocument, ("NOT_FOUND", None)),
        (
            CasKind::Announcement,
            ("MISSING_UPDATE_DATA", Some("update-missing")),
        ),
        (
            CasKind::Update,
            ("MISSING_UPDATE_DATA", Some("update-missing")),
        ),
    ] {
        let mut question = stored.question();
        let mut wanted = String::new();
        for (object, kind) in stored.objects() {
            if kind == left_out {
                wanted = strict::document_hash(object).to_string();
                if kind == CasKind::Announcement {
                    wanted = SignalBytes::from_bytes(hash(object)).to_string();
                }
            } else {
                question = question.stored(object);
            }
        }
        let (code, rule, message) = question.ask_failing(&stored.chain);
        assert_eq!((code, rule), expected);
        assert!(message.contains(&wanted), "{message} should name {wanted}");
        assert!(message.contains("neither in the sidecar nor"), "{message}");
    }
}

#[test]
fn storage_that_lies_is_found_out() {
    let stored = stored();
    let other = Controller::external(NETWORK, 42, |builder| builder);
    let other_update = other.forged(|_| ());
    let lies: [(CasKind, Vec<Vec<u8>>); 3] = [
        (
            CasKind::GenesisDocument,
            vec![
                other.sidecar.canonical_bytes(),
                strict::canonicalize(other.sidecar.genesis().unwrap()).unwrap(),
            ],
        ),
        (CasKind::Announcement, vec![b"{}".to_vec()]),
        (CasKind::Update, vec![other_update.canonical_bytes()]),
    ];
    for (lie, texts) in lies {
        let mut texts = texts;
        texts.extend([
            Vec::new(),
            b"<html>".to_vec(),
            vec![0xff; 64],
            br#"{"a":1,"a":1}"#.to_vec(),
            b"[".repeat(100_000),
        ]);
        for text in texts {
            let mut question = stored.question();
            for (object, kind) in stored.objects() {
                question = if kind == lie {
                    question.lying(hash(object), &text)
                } else {
                    question.stored(object)
                };
            }
            let (code, rule, message) = question.ask_failing(&stored.chain);
            let expected = match lie {
                CasKind::GenesisDocument => ("INVALID_DID", Some("genesis-hash-mismatch")),
                _ => ("INVALID_SIGNAL_DATA", None),
            };
            assert_eq!((code, rule), expected, "{message}");
        }
    }
}

#[test]
fn bytes_with_the_right_sha256_that_are_no_json_of_it_are_refused() {
    // The signal is the hash of a text that is JSON, but not its canonical form.
    let text = b"{ }";
    let signal = SignalBytes::from_bytes(btcr2_agent::hash::sha256(text));
    let stored = stored();
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(50, &address(NETWORK, 200), signal);
    let question = Question::of(&stored.controller).lying(signal.to_bytes(), text);
    assert_eq!(question.ask_failing(&chain).0, "INVALID_SIGNAL_DATA");
}

#[test]
fn the_sidecar_comes_first_and_must_be_right_too() {
    let stored = stored();
    let other = Controller::external(NETWORK, 42, |builder| builder);
    // A genesis document of another DID in the sidecar is not repaired by storage.
    let mut question = stored.question().stored(&stored.genesis);
    question
        .sidecar
        .set_genesis(other.sidecar.genesis().unwrap());
    let (code, rule, message) = question.ask_failing(&stored.chain);
    assert_eq!((code, rule), ("INVALID_DID", Some("genesis-hash-mismatch")));
    assert!(message.contains("it is of another DID"), "{message}");
    // With everything in the sidecar nothing is asked of storage.
    let mut complete = Question::of(&stored.controller);
    let map = json!({"casUpdates": [stored.map]});
    complete.sidecar.merge(Sidecar::from_value(&map).unwrap());
    assert_eq!(metadata(&complete.ask(&stored.chain)).0, 2);
    assert!(complete.storage.is_empty());
}

#[test]
fn a_genesis_document_is_what_it_should_be() {
    let good = Controller::external(NETWORK, 43, |builder| {
        builder.beacon("b", BeaconKind::Singleton, &address(NETWORK, 43))
    });
    let genesis = good.sidecar.genesis().unwrap().clone();
    let asked = |genesis: &Value| {
        let did = btcr2_agent::did::Did::from_genesis(NETWORK, strict::document_hash(genesis));
        let mut sidecar = Sidecar::default();
        sidecar.set_genesis(genesis);
        let question = Question::new(&did, sidecar);
        let stored = Question::new(&did, Sidecar::default()).stored(genesis);
        let resolution = question.ask(&SyntheticChain::at(1));
        let from_storage = stored.ask(&SyntheticChain::at(1));
        assert_eq!(
            from_storage.outcome.as_ref().err(),
            resolution.outcome.as_ref().err()
        );
        resolution
    };
    let resolution = asked(&genesis);
    assert_eq!(resolved(&resolution).document, good.document);
    let expected = Document::from_value(good.document.value()).unwrap();
    assert_eq!(resolved(&resolution).document, expected);
    let rows: [(&str, Value, &str); 5] = [
        ("/id", json!("did:btcr2:x1q"), "instead of \"did:btcr2:_\""),
        ("/id", json!(good.did()), "instead of \"did:btcr2:_\""),
        ("/@context", json!([]), "@context is not an array with"),
        (
            "/service/0/serviceEndpoint",
            json!("bitcoin:x"),
            "service[0].serviceEndpoint",
        ),
        (
            "/service/0/serviceEndpoint",
            json!(format!("bitcoin:{}", address(Network::Regtest, 1))),
            "no address of the DID's network, signet",
        ),
    ];
    for (path, value, expected) in rows {
        let mut genesis = genesis.clone();
        *genesis.pointer_mut(path).unwrap() = value;
        let resolution = asked(&genesis);
        let failure = failure(&resolution);
        assert_eq!(failure.code, ErrorCode::InvalidDidDocument);
        assert!(failure.message.contains(expected), "{failure}");
    }
    for not_a_document in [json!([]), json!("x"), json!(7)] {
        let code = failure(&asked(&not_a_document)).code;
        assert_eq!(code, ErrorCode::InvalidDidDocument);
    }
    // A key-based DID has no use for one, whatever it is.
    let key_based = Controller::key_based(NETWORK, 44);
    let mut question = Question::of(&key_based);
    question.sidecar.set_genesis(&genesis);
    assert_eq!(metadata(&question.ask(&SyntheticChain::at(1))).0, 1);
}

#[test]
fn nothing_is_asked_for_on_behalf_of_what_can_not_matter() {
    let mut alice = Controller::key_based(NETWORK, 45);
    let own = alice.beacon("initialP2PKH");
    let cohort = address(NETWORK, 200);
    let added = alice.update(|patch| patch.add_beacon("cohort", BeaconKind::Smt, &cohort));
    let hash_of = |byte| SignalBytes::from_bytes([byte; 32]);
    let tip = BlockRef {
        height: 60,
        hash: crate::synthetic::block(60).hash,
    };
    // Three updates that nobody has; one unconfirmed, and one too young.
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(10, &own, announcing(&added));
    chain.signal_at(20, &own, hash_of(1));
    chain.signal_at(30, &own, hash_of(2));
    chain.signal_at(40, &own, hash_of(5));
    chain.signal_at(58, &own, hash_of(3));
    chain.unconfirmed(&own, hash_of(4));
    let mut resolver = Resolver::new(
        alice.did().clone(),
        ResolutionOptions::default(),
        alice.sidecar.clone(),
        Strictness::default(),
        tip,
    );
    let mut addresses: Vec<_> = alice.document.beacons()[..3]
        .iter()
        .map(|b| b.address.clone())
        .collect();
    let need = |requests: &[Request]| Progress::Need(requests.to_vec());
    let signals = |address: &bitcoin::Address| Request::Signals {
        address: address.clone(),
    };
    let all: Vec<_> = addresses.iter().map(signals).collect();
    assert_eq!(resolver.poll(), need(&all));
    // Answers that nobody waits for mean nothing.
    resolver.signals(&cohort, chain.signals_of(&own));
    resolver.object(&[1; 32], Some(b"{}".to_vec()));
    assert_eq!(resolver.poll(), need(&all));
    for address in addresses.drain(..).rev() {
        assert!(matches!(resolver.poll(), Progress::Need(_)));
        resolver.signals(&address, chain.signals_of(&address));
    }
    let update = |byte| Request::Cas {
        hash: [byte; 32],
        kind: CasKind::Update,
    };
    assert_eq!(resolver.poll(), need(&[update(1), update(2), update(5)]));
    // The second is known to fail: the first is still asked for, the third can not matter any more.
    resolver.object(&[2; 32], None);
    assert_eq!(resolver.poll(), need(&[update(1)]));
    resolver.object(&[1; 32], None);
    let Progress::Done(done) = resolver.poll() else {
        panic!("every answer is there");
    };
    assert_eq!(failure(&done).rule, Some(Rule::UpdateMissing));
    assert!(
        failure(&done)
            .message
            .contains(&UpdateHash::from_bytes([1; 32]).to_string())
    );
    // Done stays done.
    resolver.signals(&own, Vec::new());
    resolver.object(&[1; 32], None);
    assert_eq!(resolver.poll(), Progress::Done(done));
}

#[test]
fn one_hash_can_be_wanted_as_two_things() {
    // A singleton and a CAS beacon signal the same 32 bytes: an announcement can not be an update.
    let cohort = address(NETWORK, 200);
    let alice = Controller::external(NETWORK, 46, |builder| {
        builder.beacon("cas", BeaconKind::Cas, &cohort).beacon(
            "own",
            BeaconKind::Singleton,
            &address(NETWORK, 46),
        )
    });
    let map = cas_announcement([]);
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(50, &cohort, map.signal_bytes());
    chain.signal_at(51, &alice.beacon("own"), map.signal_bytes());
    let question = Question::of(&alice).stored(&json!({}));
    let resolution = question.ask(&chain);
    assert_eq!(failure(&resolution).code, ErrorCode::InvalidDidUpdate);
    assert_eq!(
        outline(&resolution)[3..],
        ["says nothing", "invalid", "failed after 1"]
    );
}
