//! The three types of beacon, and which of their signals count.

use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::did::{Rule, SignedUpdate};
use btcr2_agent::hash::SignalBytes;
use btcr2_agent::resolver::{Sidecar, SignalRef};
use serde_json::json;

use super::*;
use crate::synthetic::{
    Controller, Question, SyntheticChain, announcing, block, cas_announcement, smt_signal, time,
};

const NETWORK: Network = Network::Mutinynet;

fn nonce(byte: u8) -> Option<SmtNonce> {
    Some(SmtNonce::from_bytes([byte; 32]))
}

/// An `x1` DID with one beacon of a kind, `#cohort`, and a singleton beacon of its own.
fn member(number: u8, kind: BeaconKind) -> Controller {
    Controller::external(NETWORK, number, |builder| {
        builder
            .beacon("cohort", kind, &address(NETWORK, 200))
            .beacon("own", BeaconKind::Singleton, &address(NETWORK, number))
    })
}

fn smt_leaf(nonce: Option<SmtNonce>, update: Option<&SignedUpdate>) -> Leaf {
    Leaf {
        nonce,
        update: update.map(SignedUpdate::hash),
    }
}

#[test]
fn an_smt_beacon_in_all_four_leaf_modes() {
    // Four members, one root: private update, private silence, public update, public silence.
    let mut members: Vec<_> = (1..=4).map(|n| member(n, BeaconKind::Smt)).collect();
    let private = members[0].add_service("private");
    let public = members[2].add_service("public");
    let leaves = [
        smt_leaf(nonce(1), Some(&private)),
        smt_leaf(nonce(2), None),
        smt_leaf(None, Some(&public)),
        smt_leaf(None, None),
    ];
    let dids: Vec<_> = members.iter().map(|m| m.did().clone()).collect();
    let rows: Vec<_> = dids.iter().zip(leaves).collect();
    let (root, proofs) = smt_signal(&rows);
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(50, &address(NETWORK, 200), root);
    for ((member, proof), version) in members.iter_mut().zip(&proofs).zip([2, 1, 2, 1]) {
        member.sidecar.add_proof(proof);
        let resolution = Question::of(member).ask(&chain);
        assert_eq!(resolved(&resolution).document, member.document);
        let expected = match version {
            1 => (1, 0, false, None),
            _ => (2, 11, false, Some(time(50).0)),
        };
        assert_eq!(metadata(&resolution), expected);
    }
    // The proof of another does not do, whatever its mode.
    for (i, member) in members.iter().enumerate() {
        let mut sidecar = Sidecar::default();
        sidecar.set_genesis(member.sidecar.genesis().unwrap());
        sidecar.add_proof(&proofs[(i + 1) % 4]);
        let failing = Question::new(member.did(), sidecar).ask(&chain);
        assert_eq!(failure(&failing).rule, Some(Rule::SmtProofNotVerified));
    }
}

#[test]
fn of_several_proofs_for_one_root_one_that_verifies_does() {
    let mut alice = member(1, BeaconKind::Smt);
    let bob = member(2, BeaconKind::Smt);
    let update = alice.add_service("x");
    let (mine, theirs) = (smt_leaf(nonce(1), Some(&update)), smt_leaf(nonce(2), None));
    let (root, proofs) = smt_signal(&[(alice.did(), mine), (bob.did(), theirs)]);
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(50, &address(NETWORK, 200), root);
    let good = serde_json::to_value(&proofs[0]).unwrap();
    let of_bob = serde_json::to_value(&proofs[1]).unwrap();
    let mut truncated = good.clone();
    truncated["hashes"] = json!([]);
    let mut padded = good.clone();
    padded["id"] = format!("{}=", good["id"].as_str().unwrap()).into();
    let junk = json!({"id": good["id"], "hashes": "none"});
    for proofs in [
        json!([of_bob, truncated, junk, padded, 7, null, good]),
        json!([good, padded, junk, truncated, of_bob]),
    ] {
        let more = Sidecar::from_value(&json!({"smtProofs": proofs})).unwrap();
        assert_eq!(more.proofs().count(), 4);
        let mut question = Question::of(&alice);
        question.sidecar.merge(more);
        assert_eq!(metadata(&question.ask(&chain)).0, 2);
    }
    // A padded id is passed over: there is no proof.
    let only = Sidecar::from_value(&json!({"smtProofs": [padded]})).unwrap();
    let mut question = Question::of(&alice);
    question.sidecar.merge(only);
    let (code, rule, message) = question.ask_failing(&chain);
    assert_eq!(
        (code, rule),
        ("MISSING_UPDATE_DATA", Some("smt-proof-missing"))
    );
    assert!(message.contains(&root.to_string()), "{message}");
}

#[test]
fn a_cas_beacon_says_something_to_those_it_names() {
    let mut alice = member(1, BeaconKind::Cas);
    let mut bob = member(2, BeaconKind::Cas);
    let carol = member(3, BeaconKind::Cas);
    let updates = [alice.add_service("a"), bob.add_service("b")];
    let map = cas_announcement([
        (alice.did(), updates[0].hash()),
        (bob.did(), updates[1].hash()),
    ]);
    let mut chain = SyntheticChain::at(60);
    chain.signal_at(50, &address(NETWORK, 200), map.signal_bytes());
    for (controller, version) in [(&alice, 2), (&bob, 2), (&carol, 1)] {
        let mut question = Question::of(controller);
        // It is in the sidecar, or in storage.
        let text = serde_json::from_slice(&map.canonical_bytes()).unwrap();
        let stored = question.clone().stored(&text);
        question.sidecar.add_announcement(&map);
        for question in [question, stored] {
            let resolution = question.ask(&chain);
            assert_eq!(resolved(&resolution).document, controller.document);
            assert_eq!(metadata(&resolution).0, version);
        }
        let (code, rule, message) = Question::of(controller).ask_failing(&chain);
        assert_eq!(
            (code, rule),
            ("MISSING_UPDATE_DATA", Some("update-missing"))
        );
        assert!(message.contains("the CAS announcement"), "{message}");
    }
}

#[test]
fn entries_of_a_cas_announcement_are_read_leniently() {
    let alice = member(1, BeaconKind::Cas);
    let did = alice.did().as_str();
    let hash = UpdateHash::from_bytes([7; 32]).to_string();
    let missing = Err(("MISSING_UPDATE_DATA", Some("update-missing")));
    let rows = [
        // What others' entries look like does not matter.
        (json!({"did:btcr2:x1other": 7, "": null}), Ok(1)),
        (json!({}), Ok(1)),
        (json!({did: null}), missing),
        (json!({did: ""}), missing),
        (json!({did: 1}), missing),
        (json!({did: {"hash": hash}}), missing),
        (json!({did: "AA"}), missing),
        (json!({did: format!("{hash}=")}), missing),
        (json!({did: hash}), missing),
        (json!([did]), Err(("INVALID_SIGNAL_DATA", None))),
        (json!(did), Err(("INVALID_SIGNAL_DATA", None))),
    ];
    for (map, expected) in rows {
        let more = Sidecar::from_value(&json!({"casUpdates": [map]})).unwrap();
        let (signal, _) = more.announcements().next().unwrap();
        let mut chain = SyntheticChain::at(60);
        chain.signal_at(50, &address(NETWORK, 200), signal);
        let stored = Question::of(&alice).stored(&map);
        let mut question = Question::of(&alice);
        question.sidecar.merge(more);
        for question in [question, stored] {
            let resolution = question.ask(&chain);
            let found = match &resolution.outcome {
                Ok(resolved) => Ok(resolved.metadata.version_id),
                Err(failure) => Err((failure.code.as_str(), failure.rule.map(Rule::as_str))),
            };
            assert_eq!(found, expected, "{map}");
        }
    }
}

use btcr2_agent::hash as hashes;

#[test]
fn only_deep_enough_signals_count_and_the_rest_is_reported() {
    let mut alice = member(1, BeaconKind::Singleton);
    let update = alice.add_service("x");
    let signal = announcing(&update);
    let mut chain = SyntheticChain::at(60);
    let deep = chain.signal_at(55, &alice.beacon("own"), signal);
    chain.signal_at(56, &alice.beacon("own"), signal);
    chain.signal_at(61, &alice.beacon("cohort"), signal);
    let waiting = chain.unconfirmed(
        &alice.beacon("cohort"),
        hashes::SignalBytes::from_bytes([1; 32]),
    );
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(metadata(&resolution), (2, 6, false, Some(time(55).0)));
    assert_eq!(
        outline(&resolution),
        [
            "initial from sidecar",
            "cohort 2",
            "pending 2",
            "pending ?",
            "own 2",
            "pending 2",
            "says 2",
            "applied 2",
        ]
    );
    let service = |fragment: &str| format!("{}#{fragment}", alice.did());
    let steps = &resolution.walk.steps;
    assert_eq!(
        steps[3],
        WalkStep::Signal {
            signal: SignalRef {
                service: service("cohort"),
                kind: BeaconKind::Singleton,
                txid: waiting,
                height: None,
                confirmations: 0,
                signal: SignalBytes::from_bytes([1; 32]),
            },
            said: Said::Pending {
                min_conf: 6,
                announces: Foreseen::Update {
                    update: UpdateHash::from_bytes([1; 32]),
                    target_version: None,
                },
            },
        }
    );
    assert_eq!(
        steps[7],
        WalkStep::Applied {
            version: 2,
            update: update.hash(),
            signal: SignalRef {
                service: service("own"),
                kind: BeaconKind::Singleton,
                txid: deep,
                height: Some(55),
                confirmations: 6,
                signal,
            },
        }
    );
    let text = resolution.walk.to_string();
    assert!(
        text.contains(
            "(unconfirmed) says: pending until it has 6 confirmations; it announces update "
        ),
        "{text}"
    );

    // The threshold is the asker's: at 7 nothing counts, at 5 the second is a duplicate, and 0 is 1.
    let by = |min_conf| {
        let options = ResolutionOptions {
            min_conf,
            ..ResolutionOptions::default()
        };
        Question::of(&alice).by(options).ask(&chain)
    };
    assert_eq!(metadata(&by(7)), (1, 0, false, None));
    assert_eq!(metadata(&by(u32::MAX)).0, 1);
    assert!(outline(&by(5)).contains(&"duplicate 2".to_owned()));
    assert_eq!(metadata(&by(0)).0, 2);
}

#[test]
fn what_is_pending_is_foreseen_from_the_sidecar_alone() {
    let mut by_smt = member(1, BeaconKind::Smt);
    let mut by_cas = member(2, BeaconKind::Cas);
    let (first, second) = (by_smt.add_service("x"), by_cas.add_service("y"));
    let (root, proofs) = smt_signal(&[(by_smt.did(), smt_leaf(nonce(1), Some(&first)))]);
    let map = cas_announcement([(by_cas.did(), second.hash())]);
    let empty = cas_announcement([]);
    let mut chain = SyntheticChain::at(60);
    let cohort = address(NETWORK, 200);
    for signal in [root, map.signal_bytes(), empty.signal_bytes()] {
        chain.unconfirmed(&cohort, signal);
    }
    by_smt.sidecar.add_proof(&proofs[0]);
    by_cas.sidecar.add_announcement(&map);
    by_cas.sidecar.add_announcement(&empty);
    let mut of_smt = outline(&Question::of(&by_smt).ask(&chain));
    let mut of_cas = outline(&Question::of(&by_cas).ask(&chain));
    of_smt.sort();
    of_cas.sort();
    let rest = ["cohort 3", "initial from sidecar", "own 0"];
    assert_eq!(of_smt[..3], rest);
    assert_eq!(of_smt[3..], ["pending", "pending", "pending 2"]);
    assert_eq!(of_cas[..3], rest);
    assert_eq!(of_cas[3..], ["pending", "pending 2", "pending nothing"]);
}

#[test]
fn a_beacon_counts_from_the_block_of_the_update_that_added_it() {
    // A cohort that has signalled for years: nobody asks for proofs of what came before.
    let mut alice = Controller::key_based(NETWORK, 1);
    let cohort = address(NETWORK, 200);
    let own = alice.beacon("initialP2WPKH");
    let added = alice.update(|patch| patch.add_beacon("cohort", BeaconKind::Smt, &cohort));
    let next = alice.add_service("x");
    let mut chain = SyntheticChain::at(200);
    for height in [10, 20, 99] {
        chain.signal_at(height, &cohort, SignalBytes::from_bytes([height as u8; 32]));
    }
    chain.signal_at(100, &own, announcing(&added));
    let leaves = [smt_leaf(nonce(1), None), smt_leaf(nonce(2), Some(&next))];
    // One in the very block of the update counts.
    for (height, leaf) in [(100, leaves[0]), (120, leaves[1])] {
        let (root, proofs) = smt_signal(&[(alice.did(), leaf)]);
        chain.signal_at(height, &cohort, root);
        alice.sidecar.add_proof(&proofs[0]);
    }
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(metadata(&resolution), (3, 81, false, Some(time(120).0)));
    assert_eq!(
        short_outline(&resolution),
        [
            "initial",
            "initialP2WPKH 1",
            "says 2",
            "applied 2",
            "cohort 5",
            "below 100",
            "below 100",
            "below 100",
            "says nothing",
            "says 3",
            "applied 3",
        ]
    );
    let WalkStep::Scanned {
        version,
        from_height,
        ..
    } = &resolution.walk.steps[6]
    else {
        panic!("{:?}", resolution.walk.steps[6]);
    };
    assert_eq!((*version, *from_height), (2, 100));

    // Without the proof for the block of the update it does not resolve.
    let (mut chain, mut question) = (chain, Question::of(&alice));
    chain.signal_at(100, &cohort, SignalBytes::from_bytes([100; 32]));
    let failing = question.ask(&chain);
    assert_eq!(failure(&failing).rule, Some(Rule::SmtProofMissing));
    assert_eq!(outline(&failing).last().unwrap(), "failed after 2");
    // Not even for the version before.
    question.options = version_one();
    assert_eq!(
        failure(&question.ask(&chain)).rule,
        Some(Rule::SmtProofMissing)
    );
}

fn version_one() -> ResolutionOptions {
    version(1)
}

#[test]
fn of_two_beacons_at_one_address_the_first_is_read() {
    let shared = address(NETWORK, 60);
    for (first, second, version) in [
        (BeaconKind::Singleton, BeaconKind::Cas, Some(2)),
        (BeaconKind::Cas, BeaconKind::Singleton, None),
    ] {
        let mut alice = Controller::external(NETWORK, 5, |builder| {
            builder
                .beacon("first", first, &shared)
                .beacon("second", second, &shared)
        });
        let update = alice.add_service("x");
        let mut chain = SyntheticChain::at(60);
        chain.signal_at(50, &shared, announcing(&update));
        let resolution = Question::of(&alice).ask(&chain);
        match version {
            Some(version) => assert_eq!(metadata(&resolution).0, version),
            None => assert_eq!(failure(&resolution).rule, Some(Rule::UpdateMissing)),
        }
        assert_eq!(outline(&resolution)[1], "first 1");
        assert!(
            !outline(&resolution)
                .iter()
                .any(|line| line.starts_with("second"))
        );
    }
}

#[test]
fn one_transaction_that_spends_from_two_beacons_is_a_signal_of_both() {
    let mut alice = Controller::key_based(NETWORK, 6);
    let update = alice.add_service("x");
    let both = [alice.beacon("initialP2PKH"), alice.beacon("initialP2TR")];
    let signal = btcr2_agent::resolver::ChainSignal {
        txid: crate::synthetic::txid(1),
        signal: announcing(&update),
        block: Some(block(50)),
    };
    let of = |address: &bitcoin::Address| {
        if both.contains(address) {
            vec![signal]
        } else {
            Vec::new()
        }
    };
    let tip = SyntheticChain::at(60).tip();
    let resolution = Question::of(&alice).drive(of, tip, false);
    assert_eq!(metadata(&resolution).0, 2);
    assert_eq!(
        short_outline(&resolution)[3..],
        ["says 2", "says 2", "applied 2", "duplicate 2"]
    );
}
