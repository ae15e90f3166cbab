//! The encrypted bundle and what is made of it, over stores in files.

use std::path::Path;
use std::sync::Arc;

use btcr2_agent::agent::Clock;
use btcr2_agent::agent::bundle::{BundleError, BundleKeeper, inspect_bundle, write_bundle};
use btcr2_agent::agent::recovery::{Lack, key_did, key_number, restore_bundle, restore_words};
use btcr2_agent::agent::sidecar::export;
use btcr2_agent::did::{BeaconKind, Did};
use btcr2_agent::hash::CohortId;
use btcr2_agent::keys::RootSecret;
use btcr2_agent::network::Network;
use btcr2_agent::store::{
    DUMP_TABLES, DumpRow, MetaKey, NewCohort, NewLogEntry, NewSnapshot, Role, Store, StoreError,
};
use btcr2_agent::time::UnixTime;

use super::made::{Made, NETWORK, address};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn clock() -> Clock {
    Arc::new(|| NOW)
}

fn root(n: u8) -> RootSecret {
    RootSecret::from_secret_bytes(&[n; 32]).unwrap()
}

fn write(dir: &Path) -> Result<u64, BundleError> {
    let root = root(1);
    let state = write_bundle(
        &dir.join("bundle.enc"),
        &dir.join("store"),
        root.bundle_key(),
        root.identity().public(),
        clock(),
        None,
    )?;
    Ok(state.bytes)
}

fn restored(dir: &Path, name: &str) -> Result<Store, BundleError> {
    restore(dir, name, 1, false)
}

fn restore(dir: &Path, name: &str, key: u8, accept: bool) -> Result<Store, BundleError> {
    let (path, bundle) = (dir.join(name), dir.join("bundle.enc"));
    restore_bundle(&path, &bundle, &root(key), accept, NOW)?;
    Ok(Store::open(&path).unwrap())
}

/// All rows that a bundle has, but for what recovery changes on purpose.
fn rows(store: &mut Store) -> Vec<(&'static str, DumpRow)> {
    let mut rows = Vec::new();
    store
        .snapshot::<_, StoreError>(|view| {
            for table in DUMP_TABLES.iter().filter(|table| table.name != "meta") {
                view.dump::<StoreError>(table, 0, |row| {
                    rows.push((table.name, row));
                    Ok(())
                })?;
            }
            Ok(())
        })
        .unwrap();
    rows
}

fn made(dir: &Path) -> Made {
    let mut made = Made::x1_at(&dir.join("store"), BeaconKind::Smt, &address("beacon"));
    for round in 1..=3 {
        let update = made.service();
        made.smt_round(&address("beacon"), round, Some(&update), 3);
    }
    made
}

#[test]
fn a_store_comes_back_out_of_its_bundle_and_the_did_resolves() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    write(dir.path()).unwrap();
    let mut copy = restored(dir.path(), "copy").unwrap();
    assert_eq!(rows(&mut copy), rows(&mut made.store));
    assert_eq!(
        copy.view().incarnation().unwrap(),
        NOW.0,
        "above any that was used"
    );
    let export = export(&copy.view(), &made.did, &made.facts()).unwrap();
    assert_eq!(export.missing, []);
    let resolved = made.resolve(export.sidecar).outcome.unwrap();
    assert_eq!(resolved.metadata.version_id, 4);
    // Nothing of it can be read without the key.
    let bytes = std::fs::read(dir.path().join("bundle.enc")).unwrap();
    for clear in ["did:btcr2", "smt_proof", "genesis"] {
        let found = bytes.windows(clear.len()).any(|at| at == clear.as_bytes());
        assert!(!found, "{clear}");
    }
}

/// A second recovery has a higher incarnation than the first, whatever the clock says.
#[test]
fn every_recovery_has_an_incarnation_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    write(dir.path()).unwrap();
    drop(restored(dir.path(), "first").unwrap());
    let again = dir.path().join("again");
    std::fs::create_dir(&again).unwrap();
    std::fs::rename(dir.path().join("first"), again.join("store")).unwrap();
    write(&again).unwrap();
    let second = restored(&again, "second").unwrap();
    assert_eq!(second.view().incarnation().unwrap(), NOW.0 + 1);
}

#[test]
fn only_what_is_new_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    let path = dir.path().join("bundle.enc");
    let first = write(dir.path()).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert_eq!(
        write(dir.path()).unwrap(),
        first,
        "nothing new, nothing written"
    );
    made.smt_round(&address("beacon"), 4, None, 3);
    let second = write(dir.path()).unwrap();
    let after = std::fs::read(&path).unwrap();
    assert!(after.starts_with(&before), "what is there stays as it is");
    assert!(
        second - first < 4_000,
        "{} bytes for one round",
        second - first
    );
    let mut copy = restored(dir.path(), "copy").unwrap();
    assert_eq!(rows(&mut copy), rows(&mut made.store));
}

/// A document that changes again and again does not make the file grow for ever.
#[test]
fn a_file_full_of_superseded_rows_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    let root = root(1);
    let keeper = BundleKeeper::start(
        &dir.path().join("bundle.enc"),
        &dir.path().join("store"),
        root.bundle_key(),
        root.identity().public(),
        clock(),
    )
    .unwrap();
    let mut largest = 0;
    for n in 0..12 {
        let mut row = made.store.view().did(made.did.as_str()).unwrap().unwrap();
        row.document = format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(200_000));
        made.store
            .transaction::<_, StoreError>(|tx| tx.put_did(&row))
            .unwrap();
        let written = keeper.write(None).blocking_recv().unwrap().unwrap();
        assert_eq!(written.dids, 1);
        largest = largest.max(written.bytes);
    }
    assert!(largest < 1_700_000, "{largest}");
    drop(keeper);
    let mut copy = restored(dir.path(), "copy").unwrap();
    assert_eq!(rows(&mut copy), rows(&mut made.store));
}

/// A cohort goes on for years, and its log is shortened behind snapshots: the file is written anew in time, and what
/// comes out of it then is what the store has.
#[test]
fn a_log_that_is_shortened_makes_the_bundle_no_longer_than_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    let (cohort, role) = (CohortId::from_bytes([4; 32]), Role::Participant);
    made.store
        .transaction::<_, StoreError>(|tx| {
            tx.insert_cohort(&NewCohort {
                cohort,
                role,
                terms: "{}",
                seat_key: Some(root(2).identity().public()),
                created: NOW,
                state: "active",
            })
        })
        .unwrap();
    let input = format!("{{\"x\":\"{}\"}}", "y".repeat(200));
    let root = root(1);
    let keeper = BundleKeeper::start(
        &dir.path().join("bundle.enc"),
        &dir.path().join("store"),
        root.bundle_key(),
        root.identity().public(),
        clock(),
    )
    .unwrap();
    let (mut sizes, mut length) = (Vec::new(), Vec::new());
    for n in 1..=16 {
        made.store
            .transaction::<_, StoreError>(|tx| {
                let mut seq = 0;
                for _ in 0..1_000 {
                    seq = tx.append(&NewLogEntry {
                        cohort,
                        role,
                        at: NOW,
                        kind: "chain",
                        input: &input,
                        outcome: "{}",
                    })?;
                }
                tx.insert_snapshot(&NewSnapshot {
                    cohort,
                    role,
                    seq,
                    format: 1,
                    body: "{}",
                    created: UnixTime(NOW.0 + n),
                })?;
                tx.shorten_log(cohort, role)
            })
            .unwrap();
        length.push(
            made.store
                .view()
                .replay::<StoreError>(cohort, role, |_| Ok(()))
                .unwrap(),
        );
        let written = keeper.write(None).blocking_recv().unwrap().unwrap();
        sizes.push(written.bytes);
    }
    drop(keeper);
    assert!(length[2..].iter().all(|left| *left == 1_000), "{length:?}");
    let (one, largest) = (sizes[0], *sizes.iter().max().unwrap());
    assert!(one > 200_000 && largest < 5 * one, "{sizes:?}");
    let shorter = sizes.windows(2).filter(|two| two[1] < two[0]);
    assert!(shorter.count() >= 3, "{sizes:?}");
    let mut copy = restored(dir.path(), "copy").unwrap();
    assert_eq!(rows(&mut copy), rows(&mut made.store));
}

/// The thread follows the store by itself, and writes a last time when it is stopped.
#[test]
fn the_keeper_writes_what_came_last_when_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    let root = root(1);
    let start = || {
        BundleKeeper::start(
            &dir.path().join("bundle.enc"),
            &dir.path().join("store"),
            root.bundle_key(),
            root.identity().public(),
            clock(),
        )
        .unwrap()
    };
    let keeper = start();
    keeper.write(None).blocking_recv().unwrap().unwrap();
    made.smt_round(&address("beacon"), 4, None, 3);
    drop(keeper);
    let mut copy = restored(dir.path(), "copy").unwrap();
    assert_eq!(rows(&mut copy), rows(&mut made.store));
    // And goes on where it stopped.
    let before = std::fs::read(dir.path().join("bundle.enc")).unwrap();
    made.smt_round(&address("beacon"), 5, None, 3);
    let out = dir.path().join("out");
    let written = start().write(Some(out.clone())).blocking_recv();
    let written = written.unwrap().unwrap();
    let after = std::fs::read(&out).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(after.len() as u64, written.bytes);
}

#[test]
fn other_words_an_altered_and_a_foreign_file_are_told_apart_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    write(dir.path()).unwrap();
    let path = dir.path().join("bundle.enc");
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], key: u8| {
        std::fs::write(&path, bytes).unwrap();
        let error = restore(dir.path(), "copy", key, false).unwrap_err();
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("copy"))
            .collect();
        assert_eq!(left, [] as [String; 0], "nothing half-written");
        error
    };
    assert!(matches!(refused(&good, 2), BundleError::WrongWords));
    let mut bad = good.clone();
    let at = bad.len() / 2;
    bad[at] ^= 1;
    assert!(matches!(refused(&bad, 1), BundleError::Tampered { .. }));
    assert!(matches!(
        refused(b"SQLite format 3\0", 1),
        BundleError::NotABundle { .. }
    ));
    assert!(matches!(refused(b"", 1), BundleError::NotABundle { .. }));
    let mut newer = good.clone();
    newer[8] = 2;
    assert!(matches!(
        refused(&newer, 1),
        BundleError::Version { found: 2 }
    ));
    for cut in [1, 20, good.len() / 2] {
        let error = refused(&good[..good.len() - cut], 1);
        assert!(matches!(error, BundleError::Truncated { .. }), "{error}");
        assert!(error.to_string().contains("--accept-truncated") || cut > 20);
    }
}

/// A file cut within its second write is what it was after the first.
#[test]
fn a_torn_write_loses_itself_and_nothing_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    write(dir.path()).unwrap();
    let first = rows(&mut made.store);
    let path = dir.path().join("bundle.enc");
    let whole = std::fs::metadata(&path).unwrap().len();
    made.smt_round(&address("beacon"), 4, None, 3);
    let second = write(dir.path()).unwrap();
    assert!(second > whole);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(second - 7).unwrap();
    let end = inspect_bundle(&path, &root(1).bundle_key()).unwrap();
    assert_eq!(end.lost, second - 7 - whole);
    assert!(matches!(
        restored(dir.path(), "strict"),
        Err(BundleError::Truncated { .. })
    ));
    let mut copy = restore(dir.path(), "copy", 1, true).unwrap();
    assert_eq!(rows(&mut copy), first);
    // The agent whose write it was does it again.
    write(dir.path()).unwrap();
    let mut again = restored(dir.path(), "again").unwrap();
    assert_eq!(rows(&mut again), rows(&mut made.store));
}

/// A bundle may be all that is left of something: one that is not of this store is never overwritten.
#[test]
fn the_bundle_of_another_store_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path());
    write(dir.path()).unwrap();
    let old = std::fs::read(dir.path().join("bundle.enc")).unwrap();
    for file in ["store", "store-wal", "store-shm"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    let mut other = Made::x1_at(
        &dir.path().join("store"),
        BeaconKind::Cas,
        &address("other"),
    );
    write(dir.path()).unwrap();
    let beside = dir.path().join(format!("bundle.enc.{}.old", NOW.0));
    assert_eq!(std::fs::read(beside).unwrap(), old);
    let mut copy = restored(dir.path(), "copy").unwrap();
    assert_eq!(rows(&mut copy), rows(&mut other.store));
}

/// Bundles are read by later releases: a store of the first schema is restored and migrated.
#[test]
fn a_bundle_of_the_first_schema_is_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = made(dir.path());
    let mut dumped = rows(&mut made.store);
    // As the first release would have written it.
    let later = ["did_keys", "did_adopted", "singleton_spends"];
    dumped.retain(|(table, _)| !later.contains(table));
    let path = dir.path().join("old");
    let mut restoring = btcr2_agent::store::Restoring::begin(&path, 1).unwrap();
    for (table, row) in &dumped {
        let mut object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&row.json).unwrap();
        if *table == "updates" {
            object.retain(|name, _| name != "service" && name != "height");
        }
        let json = serde_json::Value::Object(object).to_string();
        restoring.row(table, &row.key, Some(&json)).unwrap();
    }
    restoring.finish().unwrap();
    let store = Store::open(&path).unwrap();
    let keys = store.view().did_keys(made.did.as_str()).unwrap();
    assert_eq!(keys.len(), 1, "what the migration adds is there");
    let export = export(&store.view(), &made.did, &made.facts()).unwrap();
    assert_eq!(export.missing, []);
}

#[test]
fn the_words_alone_bring_k1_dids_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(3);
    let wanted: Vec<Did> = [0, 4]
        .into_iter()
        .map(|number| key_did(&root, NETWORK, number).unwrap())
        .collect();
    assert_eq!(key_number(&root, &wanted[1]), Some(4));
    let foreign = key_did(&super::bundle::root(4), NETWORK, 0).unwrap();
    assert_eq!(key_number(&root, &foreign), None);
    let path = dir.path().join("store");
    let inc = restore_words(&path, &root, &[(NETWORK, 0), (NETWORK, 4)], NOW).unwrap();
    assert_eq!(inc, NOW.0);
    let store = Store::open(&path).unwrap();
    let rows = store.view().dids().unwrap();
    let dids: Vec<&str> = rows.iter().map(|row| row.did.as_str()).collect();
    assert_eq!(dids.len(), 2);
    assert!(wanted.iter().all(|did| dids.contains(&did.as_str())));
    assert_eq!(store.view().next_key_index().unwrap(), 5);
    assert_eq!(store.view().meta(MetaKey::new("recovered")).unwrap(), None);
    assert_ne!(Lack::Key, Lack::GenesisDocument);
    assert!(
        restore_words(
            &dir.path().join("x"),
            &root,
            &[(Network::Signet, u32::MAX)],
            NOW
        )
        .is_err()
    );
    assert!(!dir.path().join("x").exists());
}
