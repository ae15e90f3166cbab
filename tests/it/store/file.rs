//! Opening, crashing, filling up, being somebody else's: the file as a whole.

use super::*;

#[test]
fn a_new_file_gets_the_schema_and_its_promises() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.view().incarnation().unwrap(), 1);
    store.check().unwrap();
    drop(store);

    let shell = shell(&path);
    let pragma = |name: &str| -> String {
        shell
            .pragma_query_value(None, name, |row| {
                row.get::<_, rusqlite::types::Value>(0).map(|v| match v {
                    rusqlite::types::Value::Integer(n) => n.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    other => panic!("{other:?}"),
                })
            })
            .unwrap()
    };
    assert_eq!(pragma("user_version"), "3");
    assert_eq!(pragma("journal_mode"), "wal");
    let loose: i64 = shell
        .query_row(
            "SELECT count(*) FROM pragma_table_list
             WHERE schema = 'main' AND type = 'table' AND strict = 0 AND name NOT LIKE 'sqlite_%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(loose, 0, "every table is STRICT");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_file_of_version_0_is_migrated_and_a_migrated_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    // SQLite itself writes a header with user_version 0 when it sets the journal mode.
    shell(&path)
        .pragma_update(None, "journal_mode", "wal")
        .unwrap();
    let mut store = Store::open(&path).unwrap();
    store.transaction(|tx| step(tx, 1)).unwrap();
    drop(store);
    assert_eq!(footprint(&Store::open(&path).unwrap()), after(1));
}

#[test]
fn newer_foreign_and_damaged_files_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, prepare: &dyn Fn(&Path)| {
        let path = dir.path().join(name);
        prepare(&path);
        let before = std::fs::read(&path).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            before,
            "{name} was written to"
        );
        error
    };

    let newer = refused("newer", &|path| {
        drop(Store::open(path).unwrap());
        shell(path).pragma_update(None, "user_version", 7).unwrap();
    });
    assert!(matches!(
        newer,
        StoreError::NewerSchema { found: 7, known: 3 }
    ));
    assert_eq!(
        newer.to_string(),
        "the store has schema version 7, and this program knows versions up to 3: \
         use the newer btcr2-agent that wrote it"
    );

    let foreign = refused("foreign", &|path| {
        shell(path).execute_batch("CREATE TABLE theirs(a)").unwrap();
    });
    assert!(matches!(foreign, StoreError::NotAStore { .. }));
    assert!(foreign.to_string().contains("another program"));

    let damaged = refused("damaged", &|path| {
        std::fs::write(path, [b'x'; 8_192]).unwrap();
    });
    assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged:?}");
    assert!(damaged.to_string().contains("restore the last backup"));
}

#[test]
fn log_and_artifacts_can_not_be_changed_or_deleted_even_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    store.transaction(|tx| step(tx, 1)).unwrap();
    let shell = shell(&path);
    for (sql, rule) in [
        ("UPDATE log SET outcome = 'other'", "the log is append-only"),
        ("DELETE FROM log", "the log is append-only"),
        (
            "UPDATE artifacts SET bytes = x'00'",
            "artifacts are never changed",
        ),
        ("DELETE FROM artifacts", "artifacts are never deleted"),
    ] {
        let error = shell.execute(sql, []).unwrap_err().to_string();
        assert!(error.contains(rule), "{sql}: {error}");
    }
    assert_eq!(footprint(&store), after(1));
}

#[test]
fn an_error_or_a_panic_leaves_no_trace_of_the_step() {
    let mut store = Store::open_in_memory().unwrap();
    store.transaction(|tx| step(tx, 1)).unwrap();

    let error = store
        .transaction(|tx| {
            step(tx, 2)?;
            assert_eq!(tx.outbox_pending()?.len(), 2, "visible inside");
            Err::<(), _>(StoreError::Missing {
                what: "a reason to go on".to_owned(),
            })
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "the store has no a reason to go on");
    assert_eq!(footprint(&store), after(1));

    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.transaction(|tx| {
            step(tx, 2).unwrap();
            if tx.outbox_pending().unwrap().len() == 2 {
                panic!("in the middle of a step");
            }
            Ok::<_, StoreError>(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(footprint(&store), after(1));

    store.transaction(|tx| step(tx, 2)).unwrap();
    assert_eq!(footprint(&store), after(2));
}

#[test]
fn a_swallowed_failure_still_undoes_the_whole_step() {
    let mut store = Store::open_in_memory().unwrap();
    let error = store
        .transaction(|tx| {
            step(tx, 1)?;
            let refused = tx.append(&entry(cohort(1), "not json")).unwrap_err();
            assert!(matches!(refused, StoreError::Rule { .. }), "{refused:?}");
            Ok::<_, StoreError>(())
        })
        .unwrap_err();
    assert!(matches!(error, StoreError::Abandoned));
    assert_eq!(footprint(&store), after(0));
}

#[test]
fn a_store_that_was_never_closed_is_whole_when_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    for n in 1..=20 {
        store.transaction(|tx| step(tx, n)).unwrap();
    }
    // What a killed process leaves: the file and its write-ahead log as they are, nothing folded in.
    let crashed = dir.path().join("crashed");
    std::fs::create_dir(&crashed).unwrap();
    for name in ["store.sqlite", "store.sqlite-wal"] {
        std::fs::copy(dir.path().join(name), crashed.join(name)).unwrap();
    }
    std::mem::forget(store);

    let crashed = crashed.join("store.sqlite");
    let store = Store::open(&crashed).unwrap();
    store.check().unwrap();
    assert_eq!(footprint(&store), after(20));
    drop(store);

    // A torn last write: that step is gone, the ones before it are whole.
    let torn = dir.path().join("torn.sqlite");
    std::fs::copy(&path, &torn).unwrap();
    let wal = std::fs::read(dir.path().join("store.sqlite-wal")).unwrap();
    std::fs::write(dir.path().join("torn.sqlite-wal"), &wal[..wal.len() - 100]).unwrap();
    let store = Store::open(&torn).unwrap();
    store.check().unwrap();
    assert_eq!(footprint(&store), after(19));
}

#[test]
fn a_full_disk_is_said_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    store.transaction(|tx| step(tx, 1)).unwrap();
    store.limit_bytes(1).unwrap();
    let big = vec![7; 4_000_000];
    let mut fill = |swallow: bool| {
        store.transaction(|tx| {
            step(tx, 2)?;
            match tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: None,
                    subject: Subject::Did(DID.to_owned()),
                    kind: ArtifactKind::GenesisDocument,
                    signal: None,
                },
                txid: None,
                bytes: &big,
                created: NOW,
            }) {
                Err(StoreError::DiskFull) if swallow => {
                    // SQLite may have rolled back already: nothing may be written after it.
                    let next = tx.append(&entry(cohort(1), r#"{"n":3}"#)).unwrap_err();
                    assert!(matches!(next, StoreError::Abandoned));
                    Ok(())
                }
                other => other.map(drop),
            }
        })
    };
    let error = fill(false).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("nothing of this step was written")
    );
    assert!(matches!(fill(true).unwrap_err(), StoreError::Abandoned));
    assert_eq!(footprint(&store), after(1));

    // Room again: the same step goes through.
    store.limit_bytes(1 << 30).unwrap();
    store.transaction(|tx| step(tx, 2)).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    store.check().unwrap();
    assert_eq!(footprint(&store), after(2));
}

#[test]
fn a_read_only_store_reads_and_says_why_it_does_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut writer = Store::open(&path).unwrap();
    writer.transaction(|tx| step(tx, 1)).unwrap();

    // Beside the running writer.
    let mut reader = Store::open_read_only(&path).unwrap();
    assert_eq!(footprint(&reader), after(1));
    let error = reader.transaction(|tx| step(tx, 2)).unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("make its file and directory writable")
    );
    writer.transaction(|tx| step(tx, 2)).unwrap();
    assert_eq!(footprint(&reader), after(2));
}

#[cfg(unix)]
#[test]
fn a_read_only_directory_is_said_and_the_content_stays() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    store.transaction(|tx| step(tx, 1)).unwrap();
    drop(store);

    mode(dir.path(), 0o500);
    // The superuser may write anywhere but where the kernel refuses everybody.
    let superuser = std::fs::File::create(dir.path().join("probe")).is_ok();
    let fresh = if superuser {
        Path::new("/proc/store.sqlite").to_owned()
    } else {
        dir.path().join("new.sqlite")
    };
    let error = Store::open(&fresh).unwrap_err();
    assert!(matches!(error, StoreError::CannotOpen { .. }), "{error:?}");
    assert!(error.to_string().contains(&*fresh.to_string_lossy()));
    assert!(error.to_string().contains("you may write to it"));
    if !superuser {
        mode(&path, 0o400);
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly), "{error:?}");
        mode(&path, 0o600);
    }
    mode(dir.path(), 0o700);
    assert_eq!(footprint(&Store::open(&path).unwrap()), after(1));
}

#[test]
fn a_backup_is_a_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("store.sqlite")).unwrap();
    store.transaction(|tx| step(tx, 1)).unwrap();
    let copy = dir.path().join("backup.sqlite");
    store.backup_to(&copy).unwrap();
    assert!(matches!(
        store.backup_to(&copy).unwrap_err(),
        StoreError::CannotOpen { .. }
    ));
    store.transaction(|tx| step(tx, 2)).unwrap();

    let mut restored = Store::open(&copy).unwrap();
    restored.check().unwrap();
    assert_eq!(footprint(&restored), after(1));
    assert_eq!(
        restored.transaction(|tx| tx.raise_incarnation(1)).unwrap(),
        2
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
