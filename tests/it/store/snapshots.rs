//! Snapshots, and what of the log may go because of them.

use btcr2_agent::store::{NewSnapshot, Snapshot};

use super::*;

const ROLE: Role = Role::Participant;

/// A store with a cohort and ten entries of its log, and one of another cohort.
fn logged() -> Store {
    let mut store = Store::open_in_memory().unwrap();
    store.transaction(fill).unwrap();
    store
}

fn fill(tx: &Tx<'_>) -> Result<(), StoreError> {
    tx.insert_cohort(&NewCohort {
        cohort: cohort(1),
        role: ROLE,
        terms: "{}",
        seat_key: Some(key(1)),
        created: NOW,
        state: "active",
    })?;
    for n in 0..10 {
        tx.append(&entry(cohort(1), &n.to_string()))?;
    }
    tx.append(&entry(cohort(2), "0")).map(drop)
}

fn take(tx: &Tx<'_>, seq: u64, body: &str) -> Result<(), StoreError> {
    tx.insert_snapshot(&NewSnapshot {
        cohort: cohort(1),
        role: ROLE,
        seq,
        format: 1,
        body,
        created: NOW,
    })
}

fn entries(store: &Store, after: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let view = store.view();
    view.replay_after(cohort(1), ROLE, after, |entry| {
        found.push(entry.seq);
        Ok::<_, StoreError>(())
    })
    .unwrap();
    found
}

fn newest(store: &Store, before: Option<u64>) -> Option<Snapshot> {
    let view = store.view();
    view.snapshot_before(cohort(1), ROLE, before).unwrap()
}

#[test]
fn the_log_goes_up_to_the_older_of_two_snapshots() {
    let mut store = logged();
    let shorten = |store: &mut Store| {
        store
            .transaction(|tx| tx.shorten_log(cohort(1), ROLE))
            .unwrap()
    };
    assert_eq!(shorten(&mut store), 0, "no snapshot makes up for anything");
    store.transaction(|tx| take(tx, 3, "three")).unwrap();
    assert_eq!(shorten(&mut store), 0, "one may turn out to be damaged");
    store.transaction(|tx| take(tx, 6, "six")).unwrap();
    assert_eq!(shorten(&mut store), 3);
    assert_eq!(entries(&store, 0), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(entries(&store, 6), [7, 8, 9, 10]);
    assert_eq!(store.view().log_cut(cohort(1), ROLE).unwrap(), 3);
    store.transaction(|tx| take(tx, 10, "ten")).unwrap();
    assert_eq!(shorten(&mut store), 3);
    assert_eq!(entries(&store, 0), [7, 8, 9, 10]);
    let bodies = [None, Some(10), Some(6)].map(|before| {
        let found = newest(&store, before)?;
        assert_eq!((found.format, found.created), (1, NOW));
        Some((found.seq, found.body.unwrap()))
    });
    let known = |seq, body: &str| Some((seq, body.to_owned()));
    assert_eq!(bodies, [known(10, "ten"), known(6, "six"), None]);
    // Another cohort's log is its own affair.
    assert_eq!(store.view().last_seq(cohort(2), ROLE).unwrap(), 11);
    assert_eq!(store.view().last_seq(cohort(1), ROLE).unwrap(), 10);
    store.check().unwrap();
}

/// A store whose log has two snapshots, in its directory, and what anybody could open its file with.
fn with_two_snapshots() -> (tempfile::TempDir, Store, rusqlite::Connection) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    store.transaction(fill).unwrap();
    store
        .transaction(|tx| take(tx, 3, "three").and_then(|()| take(tx, 6, "six")))
        .unwrap();
    let shell = rusqlite::Connection::open(&path).unwrap();
    (dir, store, shell)
}

#[test]
fn what_two_snapshots_do_not_make_up_for_stays_even_by_hand() {
    let (_dir, _store, shell) = with_two_snapshots();
    for (sql, rule) in [
        ("DELETE FROM log WHERE seq = 4", "the log is append-only"),
        ("DELETE FROM log WHERE seq = 11", "the log is append-only"),
        (
            "DELETE FROM snapshots",
            "the last two snapshots of a cohort stay",
        ),
        (
            "UPDATE snapshots SET body = 'x'",
            "a snapshot is never changed",
        ),
    ] {
        let error = shell.execute(sql, []).unwrap_err().to_string();
        assert!(error.contains(rule), "{sql}: {error}");
    }
    assert_eq!(shell.execute("DELETE FROM log WHERE seq = 3", []), Ok(1));
}

#[test]
fn a_damaged_snapshot_is_noticed_and_makes_up_for_nothing() {
    let (_dir, mut store, shell) = with_two_snapshots();
    shell
        .execute_batch("DROP TRIGGER snapshots_are_never_changed")
        .unwrap();
    for damage in [
        "body = 'sex'",
        "body = CAST(x'ff' AS TEXT)",
        "format = 2",
        "created = 7",
        "digest = zeroblob(32)",
    ] {
        shell
            .execute("SAVEPOINT before", [])
            .and_then(|_| {
                shell.execute(&format!("UPDATE snapshots SET {damage} WHERE seq = 6"), [])
            })
            .and_then(|_| shell.execute("RELEASE before", []))
            .unwrap();
        assert_eq!(newest(&store, None).unwrap().body, None, "{damage}");
        let gone = store.transaction(|tx| tx.shorten_log(cohort(1), ROLE));
        assert_eq!(gone.unwrap(), 0, "{damage}");
        // Deleting and storing it again is more than this program ever does.
        shell
            .execute_batch("DROP TRIGGER IF EXISTS snapshots_the_last_two_stay; DELETE FROM snapshots WHERE seq = 6")
            .unwrap();
        store.transaction(|tx| take(tx, 6, "six")).unwrap();
    }
    // With two good ones beside it, it goes, and the log with it.
    shell
        .execute("UPDATE snapshots SET body = 'x' WHERE seq = 6", [])
        .unwrap();
    store.transaction(|tx| take(tx, 8, "eight")).unwrap();
    let shorten = |store: &mut Store| {
        store
            .transaction(|tx| tx.shorten_log(cohort(1), ROLE))
            .unwrap()
    };
    assert_eq!(shorten(&mut store), 3);
    store.transaction(|tx| take(tx, 10, "ten")).unwrap();
    assert_eq!(shorten(&mut store), 5);
    assert_eq!(newest(&store, Some(8)), None);
}
