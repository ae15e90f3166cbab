//! The export is what a resolver needs: all of it, and nothing else. The resolver itself is the judge.

use btcr2_agent::agent::sidecar::{Export, MissingKind, export};
use btcr2_agent::did::{BeaconKind, ErrorCode, KeyAddress};
use btcr2_agent::hash::{SignalBytes, sha256};
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::Artifact;
use btcr2_agent::resolver::Sidecar;
use btcr2_agent::store::{ArtifactKind, Subject};
use serde_json::Value;

use super::made::{COHORT, Made, NETWORK, address, key};

const KINDS: [BeaconKind; 2] = [BeaconKind::Smt, BeaconKind::Cas];

fn round(made: &mut Made, kind: BeaconKind, number: u32, updates: bool) -> bitcoin::Txid {
    let update = updates.then(|| made.service());
    let beacon = address("beacon");
    match kind {
        BeaconKind::Smt => made.smt_round(&beacon, number, update.as_ref(), 5),
        _ => made.cas_round(&beacon, number, update.as_ref()),
    }
}

fn exported(made: &Made) -> Export {
    export(&made.store.view(), &made.did, &made.facts()).unwrap()
}

fn version(made: &Made, sidecar: Sidecar) -> Result<u64, ErrorCode> {
    match made.resolve(sidecar).outcome {
        Ok(resolved) => Ok(resolved.metadata.version_id),
        Err(failure) => Err(failure.code),
    }
}

/// The sidecar as it comes out of a file.
fn written(sidecar: &Sidecar) -> Sidecar {
    Sidecar::parse(sidecar.canonical_bytes()).unwrap()
}

/// Every entry of every list, and the genesis document: without any one of them the DID does not resolve.
fn assert_exact(made: &Made, sidecar: &Sidecar, expected: u64) {
    assert_eq!(version(made, written(sidecar)), Ok(expected));
    let whole = sidecar.to_value();
    let mut entries = 0;
    for (name, value) in whole.as_object().unwrap() {
        let without = |change: &dyn Fn(&mut Value)| {
            let mut less = whole.clone();
            change(&mut less);
            version(made, Sidecar::from_value(&less).unwrap())
        };
        match value {
            Value::Array(items) => {
                for at in 0..items.len() {
                    let resolved = without(&|less| {
                        less[name].as_array_mut().unwrap().remove(at);
                    });
                    assert!(
                        resolved.is_err(),
                        "{name}[{at}] is not needed: {resolved:?}"
                    );
                    entries += 1;
                }
            }
            Value::Object(_) => {
                let resolved = without(&|less| {
                    less.as_object_mut().unwrap().remove(name);
                });
                assert!(resolved.is_err(), "{name} is not needed");
                entries += 1;
            }
            _ => assert_eq!(name, "@context"),
        }
    }
    assert!(entries > 1);
}

#[test]
fn a_cohort_s_member_exports_exactly_what_resolves() {
    for kind in KINDS {
        let mut made = Made::x1(kind, &address("beacon"));
        for number in 1..=6 {
            round(&mut made, kind, number, number % 2 == 0);
        }
        assert_eq!(made.version(), 4);
        let export = exported(&made);
        assert_eq!(export.missing, []);
        let beacon = export.beacons.iter().find(|beacon| beacon.kind == kind);
        let beacon = beacon.unwrap();
        assert_eq!((beacon.signals, beacon.explained), (Some(6), 6));
        assert_eq!(beacon.from_height, Some(0));
        // Six proofs or announcements, three updates, one genesis document: the proofs of others are not among them.
        let lists = export.sidecar.updates().len()
            + export.sidecar.announcements().len()
            + export.sidecar.proofs().count();
        assert_eq!(lists, 9);
        assert_exact(&made, &export.sidecar, 4);
    }
}

/// A DID that moved to a cohort by an update, and away again by another one: what was signalled before does not
/// concern it, what is signalled after it left does (spec.md §3.3, and §3.4 the caveat of step 4).
#[test]
fn a_beacon_counts_from_its_update_on_and_for_ever() {
    for kind in KINDS {
        let mut made = Made::k1();
        let single = KeyAddress::P2wpkh.of(NETWORK, &key("alice").keypair().public_key());
        let beacon = address("beacon");
        round(&mut made, kind, 1, false);
        round(&mut made, kind, 2, false);
        let join = made.update(|patch| patch.add_beacon("#cohort", kind, &beacon).unwrap());
        made.announce_singly(&single, &join);
        let joined = made.tip;
        round(&mut made, kind, 3, true);
        let leave = made.update(|patch| patch.remove_service("#cohort").unwrap());
        made.announce_singly(&single, &leave);
        round(&mut made, kind, 4, false);
        round(&mut made, kind, 5, false);
        let export = exported(&made);
        assert_eq!(export.missing, []);
        let of = export.beacons.iter().find(|beacon| beacon.kind == kind);
        let of = of.unwrap();
        assert_eq!(
            (of.since_version, of.until_version, of.from_height),
            (2, Some(4), Some(joined))
        );
        assert_eq!((of.signals, of.explained), (Some(3), 3));
        assert_exact(&made, &export.sidecar, 4);
    }
}

/// A signal in the very block of the update that lists the beacon counts.
#[test]
fn the_block_of_the_update_counts() {
    let mut made = Made::k1();
    let single = KeyAddress::P2pkh.of(NETWORK, &key("alice").keypair().public_key());
    let beacon = address("beacon");
    let join = made.update(|patch| patch.add_beacon("#c", BeaconKind::Smt, &beacon).unwrap());
    made.announce_singly(&single, &join);
    made.tip -= 1;
    made.smt_round(&beacon, 1, None, 3);
    let export = exported(&made);
    assert_eq!(export.sidecar.proofs().count(), 1);
    assert_exact(&made, &export.sidecar, 2);
}

/// An update announced at two beacons counts from the lower one.
#[test]
fn the_lowest_announcement_decides() {
    let mut made = Made::k1();
    let public = key("alice").keypair().public_key();
    let beacon = address("beacon");
    let join = made.update(|patch| patch.add_beacon("#c", BeaconKind::Smt, &beacon).unwrap());
    made.announce_singly(&KeyAddress::P2tr.of(NETWORK, &public), &join);
    made.smt_round(&beacon, 1, None, 3);
    made.announce_singly(&KeyAddress::P2pkh.of(NETWORK, &public), &join);
    let export = exported(&made);
    assert_eq!(export.sidecar.proofs().count(), 1);
    assert_exact(&made, &export.sidecar, 2);
}

#[test]
fn what_is_missing_is_named_with_its_signal_and_how_to_get_it() {
    for kind in KINDS {
        let mut made = Made::x1(kind, &address("beacon"));
        made.forgets = vec![2];
        round(&mut made, kind, 1, false);
        let txid = round(&mut made, kind, 2, false);
        let height = made.tip;
        round(&mut made, kind, 3, true);
        let export = exported(&made);
        let [missing] = export.missing.as_slice() else {
            panic!("{:?}", export.missing);
        };
        let expected = match kind {
            BeaconKind::Smt => MissingKind::SmtProof,
            _ => MissingKind::CasAnnouncement,
        };
        assert_eq!(missing.kind, expected);
        assert_eq!(missing.beacon, Some(address("beacon").to_string()));
        assert_eq!((missing.txid, missing.height), (Some(txid), Some(height)));
        assert_eq!(missing.cohort, Some(COHORT));
        assert!(missing.remedy.contains("did verify --fetch"));
        assert!(!missing.damaged);
        let resolved = version(&made, export.sidecar);
        assert_eq!(resolved, Err(ErrorCode::MissingUpdateData));
    }
}

#[test]
fn what_does_not_verify_is_as_good_as_missing_until_there_is_another() {
    let mut made = Made::x1(BeaconKind::Smt, &address("beacon"));
    made.smt_round(&address("beacon"), 1, None, 3);
    made.forgets = vec![2];
    made.smt_round(&address("beacon"), 2, None, 3);
    let index = made.did.smt_index();
    let rows = made
        .store
        .view()
        .artifacts_of_did(made.did.as_str())
        .unwrap();
    let good: Artifact = serde_json::from_slice(&rows[0].bytes).unwrap();
    let missing = exported(&made).missing;
    let signal = missing[0].signal.unwrap();
    // The proof of round 1 under the signal of round 2.
    made.keep_as(
        Round(2),
        Subject::Index(index),
        ArtifactKind::SmtProof,
        signal,
        &good,
    );
    let missing = exported(&made).missing;
    assert!(missing[0].damaged);
    assert_eq!(missing[0].signal, Some(signal));
    // Fetched again, it lies beside the bad one, under another round.
    made.forgets.clear();
    made.tip -= 1;
    let mut again = Made::x1(BeaconKind::Smt, &address("beacon"));
    again.smt_round(&address("beacon"), 2, None, 3);
    let rows = again
        .store
        .view()
        .artifacts_of_did(again.did.as_str())
        .unwrap();
    let right: Artifact = serde_json::from_slice(&rows[0].bytes).unwrap();
    made.tip += 1;
    made.keep_as(
        Round(3),
        Subject::Index(index),
        ArtifactKind::SmtProof,
        signal,
        &right,
    );
    let export = exported(&made);
    assert_eq!(export.missing, []);
    assert_eq!(version(&made, export.sidecar), Ok(1));
}

/// A signal of a singleton beacon that nobody knows makes the DID unresolvable; so it is missing too.
#[test]
fn an_update_nobody_stored_is_missing() {
    let mut made = Made::k1();
    let single = KeyAddress::P2tr.of(NETWORK, &key("alice").keypair().public_key());
    made.tip += 1;
    let bytes = SignalBytes::from_bytes(sha256(b"of another machine"));
    made.signal(&single, bytes, Some(made.tip));
    let export = exported(&made);
    assert_eq!(export.missing.len(), 1);
    assert_eq!(export.missing[0].kind, MissingKind::Update);
    assert_eq!(
        export.missing[0].update.unwrap().as_bytes(),
        bytes.as_bytes()
    );
    let resolved = version(&made, export.sidecar);
    assert_eq!(resolved, Err(ErrorCode::MissingUpdateData));
}

/// Nobody knows what is missing of a beacon that was not read, but what there is comes along.
#[test]
fn a_beacon_that_was_not_read_is_said_to_be_unknown() {
    for kind in KINDS {
        let mut made = Made::x1(kind, &address("beacon"));
        round(&mut made, kind, 1, true);
        let mut facts = made.facts();
        facts
            .get_mut(&address("beacon").to_string())
            .unwrap()
            .history = None;
        let export = export(&made.store.view(), &made.did, &facts).unwrap();
        assert_eq!(export.missing.len(), 1);
        assert_eq!(export.missing[0].kind, MissingKind::Signals);
        assert_eq!(version(&made, export.sidecar), Ok(2));
    }
}

/// What was signed and is not on the chain yet may get there: its proof comes along.
#[test]
fn a_signed_signal_that_may_still_confirm_is_covered() {
    let mut made = Made::x1(BeaconKind::Smt, &address("beacon"));
    made.smt_round(&address("beacon"), 1, None, 3);
    let rows = made
        .store
        .view()
        .artifacts_of_did(made.did.as_str())
        .unwrap();
    let signal = rows[0].key.signal.unwrap();
    let txid = "11".repeat(32).parse().unwrap();
    let mut facts = made.facts();
    let known = facts.get_mut(&address("beacon").to_string()).unwrap();
    known.signed = vec![(signal, txid), (SignalBytes::from_bytes([9; 32]), txid)];
    known.history = Some(std::sync::Arc::new(
        btcr2_agent::beacon::history::AddressHistory::new(
            address("beacon").script_pubkey(),
            made.tip,
            [],
        ),
    ));
    let export = export(&made.store.view(), &made.did, &facts).unwrap();
    assert_eq!(export.sidecar.proofs().count(), 1);
    assert_eq!(export.missing.len(), 1);
    assert_eq!(
        (export.missing[0].txid, export.missing[0].height),
        (Some(txid), None)
    );
}

#[test]
fn a_genesis_document_of_another_did_is_no_genesis_document() {
    let mut made = Made::x1(BeaconKind::Smt, &address("beacon"));
    made.smt_round(&address("beacon"), 1, None, 3);
    let other = Made::x1(BeaconKind::Cas, &address("other"));
    let mut row = made.store.view().did(made.did.as_str()).unwrap().unwrap();
    row.genesis = other
        .store
        .view()
        .did(other.did.as_str())
        .unwrap()
        .unwrap()
        .genesis;
    let mut store = btcr2_agent::store::Store::open_in_memory().unwrap();
    store
        .transaction::<_, btcr2_agent::store::StoreError>(|tx| tx.put_did(&row))
        .unwrap();
    let export = export(&store.view(), &made.did, &made.facts()).unwrap();
    assert_eq!(export.missing[0].kind, MissingKind::GenesisDocument);
    assert!(export.missing[0].damaged);
    assert!(export.sidecar.genesis().is_none());
}
