//! The order of updates: duplicates, late publishing, removed beacons, history, deactivation.

use btcr2_agent::did::{Rule, SignedUpdate};
use btcr2_agent::resolver::Resolution;
use btcr2_agent::time::UnixTime;

use super::*;
use crate::synthetic::{
    Controller, Question, SyntheticChain, announcing, keypair, median_time, resign, service, time,
};

const NETWORK: Network = Network::Bitcoin;

fn alice() -> Controller {
    Controller::key_based(NETWORK, 31)
}

/// A chain with updates announced at heights, by fragments of the initial beacons.
fn chain(controller: &Controller, signals: &[(u32, &str, &SignedUpdate)]) -> SyntheticChain {
    let initial = Controller::key_based(NETWORK, 31);
    assert_eq!(initial.did(), controller.did());
    let mut chain = SyntheticChain::at(1_000);
    for (height, fragment, update) in signals {
        let address = match *fragment {
            "pkh" => initial.beacon("initialP2PKH"),
            "wpkh" => initial.beacon("initialP2WPKH"),
            "tr" => initial.beacon("initialP2TR"),
            _ => address(NETWORK, 60),
        };
        chain.signal_at(*height, &address, announcing(update));
    }
    chain
}

fn by_time(time: UnixTime) -> ResolutionOptions {
    ResolutionOptions {
        version: Some(VersionChoice::Time(time)),
        ..ResolutionOptions::default()
    }
}

fn rule(resolution: &Resolution) -> Option<Rule> {
    failure(resolution).rule
}

#[test]
fn the_same_update_in_two_beacons_counts_once_from_its_first_block() {
    let mut alice = alice();
    let updates = [alice.add_service("a"), alice.add_service("b")];
    let chain = chain(
        &alice,
        &[
            (300, "tr", &updates[0]),
            (200, "pkh", &updates[0]),
            (250, "wpkh", &updates[1]),
            (260, "pkh", &updates[1]),
            // Long after.
            (900, "wpkh", &updates[0]),
        ],
    );
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(resolved(&resolution).document, alice.document);
    assert_eq!(metadata(&resolution), (3, 751, false, Some(time(250).0)));
    let outline = outline(&resolution);
    assert_eq!(
        outline[outline.len() - 5..],
        [
            "applied 2",
            "duplicate 2",
            "duplicate 2",
            "applied 3",
            "duplicate 3"
        ]
    );
}

#[test]
fn a_duplicate_is_the_same_update_whatever_its_proof() {
    let mut alice = alice();
    let update = alice.add_service("a");
    // Signed again: another proof, another hash, the same update.
    let mut again = update.value().clone();
    again["proof"]["created"] = "2023-12-01T00:00:00Z".into();
    let again = resign(again, &keypair(1));
    assert_ne!(again.hash(), update.hash());
    alice.sidecar.add_update(&again);
    let twice = chain(&alice, &[(200, "pkh", &update), (201, "tr", &again)]);
    assert_eq!(metadata(&Question::of(&alice).ask(&twice)).0, 2);
    // First, its proof counts.
    let before = chain(&alice, &[(201, "pkh", &update), (200, "tr", &again)]);
    let resolution = Question::of(&alice).ask(&before);
    assert_eq!(rule(&resolution), Some(Rule::ProofNotVerified));
}

#[test]
fn another_update_of_a_version_is_late_publishing_before_and_after() {
    let mut alice = alice();
    let secret = alice.next_update(|patch| service(patch, "secret"));
    let public = alice.add_service("public");
    let next = alice.add_service("next");
    alice.sidecar.add_update(&secret);
    for (heights, after) in [
        ([100, 200, 300], 2),
        ([400, 200, 300], 2),
        ([250, 200, 300], 2),
    ] {
        let chain = chain(
            &alice,
            &[
                (heights[0], "tr", &secret),
                (heights[1], "pkh", &public),
                (heights[2], "pkh", &next),
            ],
        );
        let resolution = Question::of(&alice).ask(&chain);
        assert_eq!(rule(&resolution), Some(Rule::DuplicateHashMismatch));
        let last = outline(&resolution).pop().unwrap();
        assert_eq!(last, format!("failed after {after}"));
        // The state of long ago is gone with it.
        for options in [
            version(1),
            version(2),
            by_time(time(50)),
            by_time(time(220)),
        ] {
            let resolution = Question::of(&alice).by(options).ask(&chain);
            assert_eq!(rule(&resolution), Some(Rule::DuplicateHashMismatch));
        }
    }
}

#[test]
fn a_missing_version_is_late_publishing_too() {
    let mut alice = alice();
    let first = alice.add_service("a");
    let skipped = alice.add_service("b");
    let third = alice.add_service("c");
    let chain = |deep: u32| {
        chain(
            &alice,
            &[
                (100, "pkh", &first),
                (deep, "tr", &skipped),
                (300, "pkh", &third),
            ],
        )
    };
    // The one between is announced, but not deep enough.
    let resolution = Question::of(&alice).ask(&chain(996));
    assert_eq!(rule(&resolution), Some(Rule::VersionSkip));
    assert_eq!(failure(&resolution).code, ErrorCode::LatePublishing);
    // Announced out of order, but there: versions decide, not heights.
    let resolution = Question::of(&alice).ask(&chain(995));
    assert_eq!(metadata(&resolution), (4, 701, false, Some(time(300).0)));
}

#[test]
fn a_historical_request_walks_the_whole_history() {
    let mut alice = alice();
    let updates: Vec<_> = ["a", "b", "c"].map(|f| alice.add_service(f)).into();
    let announced = [
        (100, "pkh", &updates[0]),
        (200, "tr", &updates[1]),
        (300, "wpkh", &updates[2]),
    ];
    let good = chain(&alice, &announced);
    let times = [None, Some(100), Some(200), Some(300)];
    let expect = |version: usize| match times[version - 1] {
        None => (1, 0, false, None),
        Some(height) => (version as u64, 1_001 - height, false, Some(time(height).0)),
    };
    for number in 1..=4 {
        let resolution = Question::of(&alice).by(version(number as u64)).ask(&good);
        assert_eq!(metadata(&resolution), expect(number));
        let outline = outline(&resolution);
        assert!(outline.contains(&"applied 4".to_owned()));
        assert!(outline.contains(&format!("requested {number}")));
    }
    for number in [0, 5, u64::MAX] {
        let resolution = Question::of(&alice).by(version(number)).ask(&good);
        assert_eq!(failure(&resolution).code, ErrorCode::NotFound);
        assert_eq!(rule(&resolution), None);
    }
    // By time nothing is ever not found; the boundary is the median time, inclusive.
    for (moment, number) in [
        (UnixTime(0), 1),
        (median_time(100).minus(1), 1),
        (median_time(100), 2),
        (median_time(200).minus(1), 2),
        (median_time(200), 3),
        (median_time(300), 4),
        (UnixTime(u64::MAX), 4),
    ] {
        let resolution = Question::of(&alice).by(by_time(moment)).ask(&good);
        assert_eq!(metadata(&resolution), expect(number), "{moment}");
        let requested = resolution.walk.steps.iter().find_map(|step| match step {
            WalkStep::Requested { version, ended } => Some((*version, *ended)),
            _ => None,
        });
        let height = [100, 200, 300].get(number - 1).copied();
        assert_eq!(
            requested,
            height.map(|h| (number as u64, Some(median_time(h))))
        );
    }
    // A later fault is fatal for what came before, too.
    let broken = alice.forged(|update| update["proof"]["proofPurpose"] = "authentication".into());
    alice.sidecar.add_update(&broken);
    let mut signals = announced.to_vec();
    signals.push((400, "pkh", &broken));
    let bad = chain(&alice, &signals);
    for options in [version(1), version(3), by_time(time(150))] {
        let resolution = Question::of(&alice).by(options).ask(&bad);
        assert_eq!(rule(&resolution), Some(Rule::ProofPurposeMismatch));
    }
}

#[test]
fn a_duplicate_after_the_time_does_not_end_the_walk_before_it() {
    let mut alice = alice();
    let updates = [alice.add_service("a"), alice.add_service("b")];
    let chain = chain(
        &alice,
        &[
            (100, "pkh", &updates[0]),
            (900, "tr", &updates[0]),
            (200, "pkh", &updates[1]),
        ],
    );
    let resolution = Question::of(&alice).by(by_time(time(300))).ask(&chain);
    assert_eq!(metadata(&resolution), (3, 801, false, Some(time(200).0)));
}

#[test]
fn nothing_counts_from_a_beacon_that_the_document_does_not_list_any_more() {
    let mut alice = alice();
    let rotated = address(NETWORK, 60);
    let updates = [
        alice.add_service("a"),
        alice.update(|patch| {
            patch
                .remove_service("initialP2PKH")?
                .add_beacon("new", BeaconKind::Singleton, &rotated)
        }),
        alice.add_service("b"),
    ];
    // Who took the old key announces a version 4 of their own, and a version 2.
    let thief = {
        let mut thief = Controller {
            version: 3,
            ..alice.clone()
        };
        thief.document = {
            let mut before = Controller::key_based(NETWORK, 31);
            before.accept(&updates[0]);
            before.accept(&updates[1]);
            before.document
        };
        thief.next_update(|patch| service(patch, "thief"))
    };
    let other = Controller::key_based(NETWORK, 31).next_update(|patch| service(patch, "other"));
    alice.sidecar.add_update(&thief);
    alice.sidecar.add_update(&other);
    let announced = vec![
        (100, "pkh", &updates[0]),
        // The update that removes the beacon is announced at it.
        (200, "pkh", &updates[1]),
        (300, "pkh", &thief),
        (310, "new", &updates[2]),
        (150, "new", &thief),
    ];
    let resolution = Question::of(&alice).ask(&chain(&alice, &announced));
    assert_eq!(resolved(&resolution).document, alice.document);
    assert_eq!(metadata(&resolution), (4, 691, false, Some(time(310).0)));
    let outline_of = short_outline(&resolution);
    assert_eq!(
        outline_of,
        [
            "initial",
            "initialP2PKH 3",
            "says 2",
            "says 3",
            "says 4",
            "applied 2",
            "applied 3",
            "new 2",
            "below 200",
            "says 4",
            "dropped 4",
            "applied 4",
        ]
    );
    // It does not reach the duplicate check either, nor a version that only it would reach.
    let mut more = announced.clone();
    more.truncate(3);
    let resolution = Question::of(&alice).ask(&chain(&alice, &more));
    assert_eq!(metadata(&resolution).0, 3);
    let question = Question::of(&alice).by(version(4));
    assert_eq!(
        failure(&question.ask(&chain(&alice, &more))).code,
        ErrorCode::NotFound
    );
    // But while the beacon was listed, it did: another version 2 is fatal whenever it was sent.
    let mut more = announced.clone();
    more.push((400, "pkh", &other));
    let resolution = Question::of(&alice).ask(&chain(&alice, &more));
    assert_eq!(rule(&resolution), Some(Rule::DuplicateHashMismatch));
    // And its data is still asked for.
    let mut lost = chain(&alice, &announced);
    let nobody = btcr2_agent::hash::SignalBytes::from_bytes([3; 32]);
    lost.signal_at(
        500,
        &Controller::key_based(NETWORK, 31).beacon("initialP2PKH"),
        nobody,
    );
    let resolution = Question::of(&alice).ask(&lost);
    assert_eq!(rule(&resolution), Some(Rule::UpdateMissing));
}

#[test]
fn a_beacon_that_is_added_again_is_not_looked_up_again() {
    let mut alice = alice();
    let old = alice.beacon("initialP2PKH");
    let updates = [
        alice.update(|patch| patch.remove_service("initialP2PKH")),
        alice.update(|patch| patch.add_beacon("again", BeaconKind::Singleton, &old)),
        alice.add_service("x"),
    ];
    let chain = chain(
        &alice,
        &[
            (100, "pkh", &updates[0]),
            (200, "tr", &updates[1]),
            (300, "pkh", &updates[2]),
        ],
    );
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(metadata(&resolution).0, 4);
    let scans = outline(&resolution);
    assert_eq!(scans.iter().filter(|line| line.ends_with(" 2")).count(), 3);
    assert!(!scans.contains(&"again 2".to_owned()));
}

#[test]
fn updates_alternate_between_beacons_that_updates_add() {
    let mut alice = alice();
    let new = address(NETWORK, 60);
    let updates = [
        alice.update(|patch| patch.add_beacon("new", BeaconKind::Singleton, &new)),
        alice.add_service("a"),
        alice.add_service("b"),
    ];
    let chain = chain(
        &alice,
        &[
            (100, "pkh", &updates[0]),
            (200, "new", &updates[1]),
            (300, "pkh", &updates[2]),
        ],
    );
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(metadata(&resolution), (4, 701, false, Some(time(300).0)));
}

#[test]
fn deactivation_ends_it() {
    let mut alice = alice();
    let first = alice.add_service("a");
    let end = alice.update(|patch| patch.deactivate());
    // Nobody can make this one; somebody may announce it all the same.
    let mut after = end.value().clone();
    after["targetVersionId"] = 4.into();
    let after = resign(after, &alice.key);
    alice.sidecar.add_update(&after);
    let chain = chain(
        &alice,
        &[
            (100, "pkh", &first),
            (200, "tr", &end),
            (300, "pkh", &after),
            (301, "tr", &first),
        ],
    );
    let resolution = Question::of(&alice).ask(&chain);
    assert_eq!(metadata(&resolution), (3, 801, true, Some(time(200).0)));
    assert_eq!(resolved(&resolution).document.value()["deactivated"], true);
    let outline = outline(&resolution);
    assert_eq!(
        outline[outline.len() - 4..],
        [
            "applied 2",
            "duplicate 2",
            "applied 3",
            "deactivated 3, 1 ignored"
        ]
    );
    let value = resolution.to_value();
    assert_eq!(value["didDocumentMetadata"]["deactivated"], true);
    // Before, it was not.
    let before = Question::of(&alice).by(version(2)).ask(&chain);
    assert_eq!(metadata(&before), (2, 901, false, Some(time(100).0)));
    let by_time = Question::of(&alice)
        .by(by_time(median_time(200)))
        .ask(&chain);
    assert_eq!(metadata(&by_time).0, 3);
    let beyond = Question::of(&alice).by(version(4)).ask(&chain);
    assert_eq!(failure(&beyond).code, ErrorCode::NotFound);
}

#[test]
fn a_rotated_key_signs_only_what_comes_after() {
    use btcr2_agent::did::{DocumentPatch, multikey};
    let mut alice = alice();
    let method = format!("{}#second", alice.did());
    let second = keypair(32);
    let patch = DocumentPatch::from_value(&serde_json::json!([
        {"op": "add", "path": "/verificationMethod/-", "value": {
            "id": method, "type": "Multikey", "controller": alice.did(),
            "publicKeyMultibase": multikey::encode(&second.public_key())}},
        {"op": "replace", "path": "/capabilityInvocation", "value": [method]},
    ]))
    .unwrap();
    let rotated = alice.next_update_by(&patch);
    alice.accept(&rotated);
    let options = btcr2_agent::did::UnsignedUpdate::new(
        &alice.document,
        2,
        &service(
            btcr2_agent::did::PatchBuilder::on(&alice.document).unwrap(),
            "x",
        )
        .unwrap()
        .finish()
        .unwrap(),
    );
    let by_second = options
        .unwrap()
        .sign_with_aux(&second, "#second", &[0; 32])
        .unwrap();
    alice.accept(&by_second);
    let good = chain(&alice, &[(100, "pkh", &rotated), (200, "pkh", &by_second)]);
    assert_eq!(metadata(&Question::of(&alice).ask(&good)).0, 3);
    let mut by_first = by_second.value().clone();
    by_first["proof"]["verificationMethod"] = format!("{}#initialKey", alice.did()).into();
    let by_first = resign(by_first, &alice.key);
    alice.sidecar.add_update(&by_first);
    let bad = chain(&alice, &[(100, "pkh", &rotated), (200, "pkh", &by_first)]);
    let resolution = Question::of(&alice).ask(&bad);
    assert_eq!(rule(&resolution), Some(Rule::ProofMethodUnauthorized));
}
