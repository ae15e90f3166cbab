//! The store: what is promised about its file, and its rules.

use std::path::Path;

use btcr2_agent::hash::{CohortId, SignalBytes, SmtIndex, UpdateHash, sha256};
use btcr2_agent::keys::public::NostrKey;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::ids::Round;
use btcr2_agent::store::{
    ADVERT_BYTES_MAX, ADVERTS_PER_AUTHOR_MAX, AdvertPut, ArtifactKey, ArtifactKind, Binding,
    DidRow, Follow, Lane, MetaKey, NewAdvert, NewArtifact, NewCohort, NewLogEntry, NewOutboxRow,
    NewTransaction, NewUpdate, Put, RELAY_REASON_BYTES_MAX, RelayRow, Role, Store, StoreError,
    Subject, Subscriber, Tx, UpdateRow,
};
use btcr2_agent::time::UnixTime;
use nostr::{EventId, RelayUrl};

const NOW: UnixTime = UnixTime(1_790_000_000);
const DID: &str = "did:btcr2:x1qtestvector";

fn cohort(n: u32) -> CohortId {
    CohortId::from_bytes(sha256(&n.to_be_bytes()))
}

fn event(n: u32) -> EventId {
    EventId::from_byte_array(sha256(&n.to_le_bytes()))
}

fn key(n: u8) -> NostrKey {
    let secret = secp256k1::SecretKey::from_slice(&[n; 32]).unwrap();
    NostrKey::new(secret.x_only_public_key(secp256k1::SECP256K1).0)
}

fn signal(n: u8) -> SignalBytes {
    SignalBytes::from_bytes([n; 32])
}

fn txid(n: u8) -> bitcoin::Txid {
    bitcoin::hashes::Hash::from_byte_array([n; 32])
}

fn relay(host: &str) -> RelayUrl {
    RelayUrl::parse(&format!("wss://{host}.example")).unwrap()
}

fn entry(cohort: CohortId, input: &str) -> NewLogEntry<'_> {
    NewLogEntry {
        cohort,
        role: Role::Participant,
        at: NOW,
        kind: "advert",
        input,
        outcome: "accepted",
    }
}

fn outbox(n: u32, lane: Option<(Lane, u64)>) -> NewOutboxRow<'static> {
    NewOutboxRow {
        event_id: event(n),
        event: r#"{"kind":8327}"#,
        cohort: Some(cohort(1)),
        lane,
        kind: "opt_in",
        created: NOW,
        expires: NOW.plus(60),
        state: r#"{"relays":{}}"#,
    }
}

fn lane() -> Lane {
    Lane {
        author: key(1),
        recipient: key(2),
        cohort: cohort(1),
    }
}

fn proof(bytes: &[u8]) -> NewArtifact<'_> {
    NewArtifact {
        key: ArtifactKey {
            origin: Some((cohort(1), Round(3))),
            subject: Subject::Index(SmtIndex::from_bytes(sha256(DID.as_bytes()))),
            kind: ArtifactKind::SmtProof,
            signal: Some(signal(9)),
        },
        txid: Some(txid(4)),
        bytes,
        created: NOW,
    }
}

fn did() -> DidRow {
    DidRow {
        did: DID.to_owned(),
        network: Network::Mutinynet,
        kind: "external".to_owned(),
        key_index: Some(4),
        genesis: Some("{}".to_owned()),
        document: "{}".to_owned(),
        version: 1,
        state: "active".to_owned(),
        created: NOW,
    }
}

fn update(bytes: &[u8]) -> NewUpdate<'_> {
    NewUpdate {
        did: DID,
        target_version: 2,
        hash: UpdateHash::from_bytes(sha256(bytes)),
        bytes,
        cohort: Some(cohort(1)),
        state: "queued",
        created: NOW,
    }
}

/// Commits one step as the agent does: log, outbox, projection and artifact together.
fn step(tx: &Tx<'_>, n: u32) -> Result<(), StoreError> {
    let state = format!("after {n}");
    tx.insert_cohort(&NewCohort {
        cohort: cohort(1),
        role: Role::Participant,
        terms: "{}",
        seat_key: Some(key(1)),
        created: NOW,
        state: "new",
    })?;
    tx.append(&entry(cohort(1), &format!(r#"{{"n":{n}}}"#)))?;
    tx.set_cohort_state(cohort(1), Role::Participant, &state)?;
    tx.insert_outbox(&outbox(n, Some((lane(), u64::from(n)))))?;
    let mut artifact = proof(b"proof");
    artifact.key.origin = Some((cohort(1), Round(n)));
    tx.put_artifact(&artifact)?;
    Ok(())
}

/// What [`step`] left behind: log entries, pending events, state, artifacts.
fn footprint(store: &Store) -> (u64, usize, Option<String>, usize) {
    let view = store.view();
    let mut inputs = Vec::new();
    let entries = view
        .replay(cohort(1), Role::Participant, |entry| {
            inputs.push(entry.input);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    for (position, input) in inputs.iter().enumerate() {
        assert_eq!(input, &format!(r#"{{"n":{}}}"#, position + 1));
    }
    (
        entries,
        view.outbox_pending().unwrap().len(),
        view.cohort(cohort(1), Role::Participant)
            .unwrap()
            .map(|row| row.state),
        view.artifacts_of_cohort(cohort(1), Round(0)).unwrap().len(),
    )
}

fn after(steps: u32) -> (u64, usize, Option<String>, usize) {
    (
        u64::from(steps),
        steps as usize,
        (steps > 0).then(|| format!("after {steps}")),
        steps as usize,
    )
}

fn shell(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}

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
    assert_eq!(pragma("user_version"), "1");
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
        StoreError::NewerSchema { found: 7, known: 1 }
    ));
    assert_eq!(
        newer.to_string(),
        "the store has schema version 7, and this program knows versions up to 1: \
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
fn the_log_replays_one_cohort_and_role_in_order() {
    let mut store = Store::open_in_memory().unwrap();
    store
        .transaction(|tx| {
            for n in 1..=9_u32 {
                let input = format!(r#"{{"n":{n}}}"#);
                let role = if n % 3 == 0 {
                    Role::Aggregator
                } else {
                    Role::Participant
                };
                let seq = tx.append(&NewLogEntry {
                    role,
                    ..entry(cohort(n % 2), &input)
                })?;
                assert_eq!(seq, u64::from(n));
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let inputs = |role, cohort| {
        let mut seen = Vec::new();
        store
            .view()
            .replay(cohort, role, |entry| {
                assert_eq!(
                    (entry.at, &*entry.kind, &*entry.outcome),
                    (NOW, "advert", "accepted")
                );
                seen.push(entry.seq);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        seen
    };
    assert_eq!(inputs(Role::Participant, cohort(1)), [1, 5, 7]);
    assert_eq!(inputs(Role::Aggregator, cohort(1)), [3, 9]);
    assert_eq!(inputs(Role::Participant, cohort(0)), [2, 4, 8]);
    let tail = store
        .view()
        .log_tail(cohort(1), Role::Participant, 2)
        .unwrap();
    assert_eq!(tail.iter().map(|e| e.seq).collect::<Vec<_>>(), [5, 7]);
    assert_eq!(
        store
            .view()
            .log_counts(cohort(1), Role::Participant)
            .unwrap(),
        [("advert".to_owned(), "accepted".to_owned(), 3)]
    );

    // An error of the replayer stops it and is handed back as it is.
    #[derive(Debug)]
    enum Mine {
        Store(#[allow(dead_code)] StoreError),
        Enough(u64),
    }
    impl From<StoreError> for Mine {
        fn from(error: StoreError) -> Self {
            Self::Store(error)
        }
    }
    let stopped = store.view().replay(cohort(1), Role::Participant, |entry| {
        Err(Mine::Enough(entry.seq))
    });
    assert!(matches!(stopped, Err(Mine::Enough(1))), "{stopped:?}");
}

#[test]
fn cohorts_are_projections_with_one_beginning_and_one_end() {
    let mut store = Store::open_in_memory().unwrap();
    let new = NewCohort {
        cohort: cohort(1),
        role: Role::Aggregator,
        terms: r#"{"v":1}"#,
        seat_key: None,
        created: NOW,
        state: "forming",
    };
    let participant = NewCohort {
        role: Role::Participant,
        seat_key: Some(key(3)),
        created: NOW.plus(1),
        ..new
    };
    store
        .transaction(|tx| {
            tx.insert_cohort(&new)?;
            tx.insert_cohort(&participant)?;
            tx.set_cohort_state(cohort(1), Role::Aggregator, "frozen")?;
            tx.insert_cohort(&new)?;
            assert_eq!(
                tx.cohort(cohort(1), Role::Aggregator)?.unwrap().state,
                "frozen"
            );
            tx.end_cohort(
                cohort(1),
                Role::Aggregator,
                "cancelled",
                NOW.plus(2),
                "by me",
            )?;
            tx.end_cohort(cohort(1), Role::Aggregator, "failed", NOW.plus(9), "again")?;
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let rows = store.view().cohorts().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].ended, Some((NOW.plus(2), "by me".to_owned())));
    assert_eq!(rows[0].state, "cancelled");
    assert_eq!(rows[1].seat_key, Some(key(3)));
    assert_eq!(store.view().live_cohorts().unwrap(), rows[1..]);
    let prefix = cohort(1).short();
    assert_eq!(store.view().cohorts_starting_with(&prefix).unwrap(), rows);
    assert_eq!(store.view().cohorts_starting_with("ffff%").unwrap(), []);

    let other = NewCohort {
        seat_key: Some(key(4)),
        ..participant
    };
    let error = store
        .transaction(|tx| tx.insert_cohort(&other))
        .unwrap_err();
    assert!(matches!(error, StoreError::CohortConflict { .. }));
    let error = store
        .transaction(|tx| tx.set_cohort_state(cohort(2), Role::Aggregator, "frozen"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the store has no cohort {}", cohort(2).short())
    );
}

#[test]
fn transactions_keep_their_bytes_and_follow_the_chain_both_ways() {
    let mut store = Store::open_in_memory().unwrap();
    let new = NewTransaction {
        txid: txid(1),
        cohort: cohort(1),
        round: Round(2),
        raw: b"raw",
        state: "signed",
        created: NOW,
    };
    store
        .transaction(|tx| {
            tx.insert_transaction(&new)?;
            tx.set_transaction_state(txid(1), "confirmed", Some(812_345))?;
            tx.insert_transaction(&NewTransaction {
                raw: b"other",
                ..new
            })
        })
        .unwrap();
    let row = store.view().transaction(txid(1)).unwrap().unwrap();
    assert_eq!(
        (&*row.raw, &*row.state, row.height),
        (&b"raw"[..], "confirmed", Some(812_345))
    );
    assert_eq!(
        store.view().transactions_of(cohort(1)).unwrap(),
        std::slice::from_ref(&row)
    );
    assert_eq!(store.view().transactions_in("confirmed").unwrap(), [row]);
    store
        .transaction(|tx| tx.set_transaction_state(txid(1), "signed", None))
        .unwrap();
    let row = store.view().transaction(txid(1)).unwrap().unwrap();
    assert_eq!((&*row.state, row.height), ("signed", None));
    assert_eq!(store.view().transactions_in("confirmed").unwrap(), []);
}

#[test]
fn a_sequence_number_of_a_lane_is_one_undone_event() {
    let mut store = Store::open_in_memory().unwrap();
    let first = outbox(1, Some((lane(), 1)));
    let advert = NewOutboxRow {
        cohort: None,
        ..outbox(7, None)
    };
    store
        .transaction(|tx| {
            tx.insert_outbox(&first)?;
            tx.insert_outbox(&first)?;
            tx.insert_outbox(&outbox(2, Some((lane(), 2))))?;
            tx.insert_outbox(&advert)
        })
        .unwrap();
    let conflict = store
        .transaction(|tx| tx.insert_outbox(&outbox(3, Some((lane(), 1)))))
        .unwrap_err();
    assert!(matches!(conflict, StoreError::OutboxConflict { seq: 1 }));

    let again = NewOutboxRow {
        created: NOW.plus(30),
        ..outbox(3, Some((lane(), 1)))
    };
    store
        .transaction(|tx| {
            tx.replace_outbox(event(1), &again)?;
            tx.set_outbox_state(event(2), r#"{"acked":true}"#, true)
        })
        .unwrap();
    let pending = store.view().outbox_pending().unwrap();
    let ids: Vec<_> = pending.iter().map(|row| row.event_id).collect();
    assert_eq!(ids, [event(7), event(3)], "in the order they were stored");
    assert_eq!(pending[0].lane, None);
    assert_eq!(pending[1].lane, Some((lane(), 1)));
    assert_eq!(pending[1].created, NOW.plus(30));
    assert_eq!(pending[1].event, r#"{"kind":8327}"#);
    let all = store.view().outbox_of(cohort(1)).unwrap();
    assert_eq!(
        all.iter().map(|row| row.done).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(all[1].state, r#"{"acked":true}"#);

    let pruned = store
        .transaction(|tx| tx.prune_outbox(NOW.plus(61)))
        .unwrap();
    assert_eq!(pruned, 2, "what is done and expired; never what is pending");
    assert_eq!(store.view().outbox_pending().unwrap().len(), 2);
}

#[test]
fn lanes_keep_their_last_state() {
    let mut store = Store::open_in_memory().unwrap();
    let back = Lane {
        author: key(2),
        recipient: key(1),
        ..lane()
    };
    store
        .transaction(|tx| {
            tx.set_lane(lane(), r#"{"seq":1}"#)?;
            tx.set_lane(lane(), r#"{"seq":2}"#)?;
            tx.set_lane(back, r#"{"seq":9}"#)
        })
        .unwrap();
    assert_eq!(store.view().lane(lane()).unwrap().unwrap(), r#"{"seq":2}"#);
    assert_eq!(store.view().lanes_of(cohort(1)).unwrap().len(), 2);
    assert_eq!(store.view().lanes_of(cohort(2)).unwrap(), []);
}

#[test]
fn the_incarnation_rises_above_everything_seen() {
    let mut store = Store::open_in_memory().unwrap();
    let note = MetaKey::new("last_advert");
    let raised = store
        .transaction(|tx| {
            assert_eq!(tx.raise_incarnation(0)?, 2);
            tx.set_meta(note, "1")?;
            tx.set_meta(note, "2")?;
            tx.raise_incarnation(40)
        })
        .map_err(|error: StoreError| error)
        .unwrap();
    assert_eq!(raised, 41);
    assert_eq!(store.view().incarnation().unwrap(), 41);
    assert_eq!(store.view().meta(note).unwrap().as_deref(), Some("2"));
    assert_eq!(store.view().meta(MetaKey::new("other")).unwrap(), None);
}

#[test]
fn artifacts_are_stored_once_and_never_replaced() {
    let mut store = Store::open_in_memory().unwrap();
    let put = store
        .transaction(|tx| tx.put_artifact(&proof(b"the proof")))
        .unwrap();
    assert_eq!(put, Put::Stored);
    let put = store
        .transaction(|tx| tx.put_artifact(&proof(b"the proof")))
        .unwrap();
    assert_eq!(put, Put::AlreadyThere);
    let error = store
        .transaction(|tx| tx.put_artifact(&proof(b"another")))
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::ArtifactConflict { .. }));
    assert!(
        text.contains("smt_proof of index:") && text.contains(&"09".repeat(32)),
        "{text}"
    );

    let key = proof(b"").key;
    let found = store
        .view()
        .artifact(key.kind, &key.subject, key.signal)
        .unwrap()
        .unwrap();
    assert_eq!(found.bytes, b"the proof");
    assert_eq!(found.key, key);
    assert_eq!(found.txid, Some(txid(4)));
    let missing = store
        .view()
        .artifact(key.kind, &key.subject, Some(signal(1)))
        .unwrap();
    assert_eq!(missing, None);
}

#[test]
fn everything_about_a_did_is_found_by_name_and_by_index() {
    let mut store = Store::open_in_memory().unwrap();
    let at = |round, subject, kind, signal| ArtifactKey {
        origin: Some((cohort(1), Round(round))),
        subject,
        kind,
        signal,
    };
    let named = Subject::Did(DID.to_owned());
    let keys = [
        ArtifactKey {
            origin: None,
            subject: named.clone(),
            kind: ArtifactKind::GenesisDocument,
            signal: None,
        },
        at(
            2,
            named.clone(),
            ArtifactKind::SignedUpdate,
            Some(signal(2)),
        ),
        proof(b"").key,
        at(
            3,
            Subject::Round,
            ArtifactKind::CasAnnouncement,
            Some(signal(9)),
        ),
        at(
            4,
            Subject::Transaction(txid(4)),
            ArtifactKind::RawTx,
            Some(signal(9)),
        ),
        at(
            5,
            Subject::Did("did:btcr2:k1other".to_owned()),
            ArtifactKind::SignedUpdate,
            None,
        ),
    ];
    store
        .transaction(|tx| {
            for key in &keys {
                let new = NewArtifact {
                    key: key.clone(),
                    txid: None,
                    bytes: b"same bytes",
                    created: NOW,
                };
                assert_eq!(tx.put_artifact(&new)?, Put::Stored);
                assert_eq!(tx.put_artifact(&new)?, Put::AlreadyThere);
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let of_did = store.view().artifacts_of_did(DID).unwrap();
    assert_eq!(
        of_did.iter().map(|a| a.key.clone()).collect::<Vec<_>>(),
        keys[..3]
    );
    let later = store
        .view()
        .artifacts_of_cohort(cohort(1), Round(3))
        .unwrap();
    assert_eq!(
        later.iter().map(|a| a.key.clone()).collect::<Vec<_>>(),
        keys[2..]
    );
}

#[test]
fn one_update_per_did_and_target_version() {
    let mut store = Store::open_in_memory().unwrap();
    let orphan = store
        .transaction(|tx| tx.insert_update(&update(b"a")))
        .unwrap_err();
    assert!(
        matches!(orphan, StoreError::Rule { .. }),
        "the DID comes first: {orphan:?}"
    );
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            assert_eq!(tx.insert_update(&update(b"a"))?, Put::Stored);
            assert_eq!(tx.insert_update(&update(b"a"))?, Put::AlreadyThere);
            let next = NewUpdate {
                target_version: 3,
                ..update(b"c")
            };
            assert_eq!(tx.insert_update(&next)?, Put::Stored);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let conflict = store
        .transaction(|tx| tx.insert_update(&update(b"b")))
        .unwrap_err();
    assert!(matches!(
        conflict,
        StoreError::UpdateConflict {
            target_version: 2,
            ..
        }
    ));

    // Before a partial left, another update may take its place; after, only when the signal died.
    let put = store
        .transaction(|tx| tx.supersede_update(&update(b"b")))
        .unwrap();
    assert_eq!(put, Put::Stored);
    store.transaction(|tx| tx.pin_update(DID, 2, true)).unwrap();
    let conflict = store
        .transaction(|tx| tx.supersede_update(&update(b"a")))
        .unwrap_err();
    assert!(matches!(
        conflict,
        StoreError::UpdateConflict {
            target_version: 2,
            ..
        }
    ));
    let put = store
        .transaction(|tx| tx.supersede_update(&update(b"b")))
        .unwrap();
    assert_eq!(put, Put::AlreadyThere);

    let mut row = store.view().update(DID, 2).unwrap().unwrap();
    assert_eq!((&*row.bytes, row.pinned), (&b"b"[..], true));
    row.state = "announced".to_owned();
    row.round = Some(Round(6));
    row.txid = Some(txid(8));
    row.reason = Some("waits for a block".to_owned());
    row.bytes = b"not written".to_vec();
    store.transaction(|tx| tx.set_update_state(&row)).unwrap();
    let stored = store.view().update(DID, 2).unwrap().unwrap();
    assert_eq!(
        stored,
        UpdateRow {
            bytes: b"b".to_vec(),
            ..row
        }
    );
    assert_eq!(store.view().updates_in("announced").unwrap(), [stored]);

    store
        .transaction(|tx| tx.pin_update(DID, 2, false))
        .unwrap();
    let put = store
        .transaction(|tx| tx.supersede_update(&update(b"a")))
        .unwrap();
    assert_eq!(put, Put::Stored);
    let versions: Vec<_> = store.view().updates_of(DID).unwrap();
    assert_eq!(
        versions
            .iter()
            .map(|u| u.target_version)
            .collect::<Vec<_>>(),
        [2, 3]
    );
    assert_eq!(versions[0].bytes, b"a");
}

#[test]
fn a_pinned_update_resists_a_shell_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.sqlite");
    let mut store = Store::open(&path).unwrap();
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.insert_update(&update(b"a"))?;
            tx.pin_update(DID, 2, true)
        })
        .unwrap();
    let shell = shell(&path);
    for sql in ["UPDATE updates SET bytes = x'00'", "DELETE FROM updates"] {
        assert!(
            shell
                .execute(sql, [])
                .unwrap_err()
                .to_string()
                .contains("pinned update")
        );
    }
}

#[test]
fn dids_keep_their_origin_and_change_their_document() {
    let mut store = Store::open_in_memory().unwrap();
    assert_eq!(store.view().next_key_index().unwrap(), 0);
    let changed = DidRow {
        document: r#"{"id":"x"}"#.to_owned(),
        version: 2,
        state: "deactivated".to_owned(),
        kind: "other".to_owned(),
        genesis: None,
        key_index: Some(1),
        ..did()
    };
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.put_did(&changed)
        })
        .unwrap();
    let expected = DidRow {
        document: changed.document.clone(),
        version: 2,
        state: changed.state.clone(),
        ..did()
    };
    assert_eq!(store.view().did(DID).unwrap(), Some(expected.clone()));
    assert_eq!(store.view().dids().unwrap(), [expected]);
    assert_eq!(store.view().next_key_index().unwrap(), 5);
}

#[test]
fn bindings_learn_a_did_and_keep_their_first_round() {
    let mut store = Store::open_in_memory().unwrap();
    let index = SmtIndex::from_bytes(sha256(DID.as_bytes()));
    let first = Binding {
        cohort: cohort(1),
        role: Role::Aggregator,
        index,
        did: None,
        from_round: Round(2),
        state: "registered".to_owned(),
    };
    let learned = Binding {
        did: Some(DID.to_owned()),
        from_round: Round(5),
        state: "proved".to_owned(),
        ..first.clone()
    };
    store
        .transaction(|tx| {
            tx.put_binding(&first)?;
            tx.put_binding(&learned)?;
            tx.put_binding(&Binding {
                did: None,
                ..learned.clone()
            })
        })
        .unwrap();
    let expected = Binding {
        from_round: Round(2),
        ..learned
    };
    let view = store.view();
    assert_eq!(
        view.bindings_of_cohort(cohort(1), Role::Aggregator)
            .unwrap(),
        std::slice::from_ref(&expected)
    );
    assert_eq!(view.bindings_of(index).unwrap(), [expected]);
    assert_eq!(
        view.bindings_of_cohort(cohort(1), Role::Participant)
            .unwrap(),
        []
    );
}

fn advert(n: u32, author: u8) -> NewAdvert<'static> {
    NewAdvert {
        cohort: cohort(n),
        author: key(author),
        event_id: event(n),
        event: r#"{"kind":38327}"#,
        content: "{}",
        network: Network::Signet,
        status: "open",
        created_at: NOW,
        expires: NOW.plus(1_000),
        relay: None,
        seen: NOW.plus(u64::from(n)),
    }
}

#[test]
fn the_newest_advert_of_a_cohort_stands() {
    let mut store = Store::open_in_memory().unwrap();
    let (a, b) = (relay("a"), relay("b"));
    let first = NewAdvert {
        relay: Some(&a),
        ..advert(1, 1)
    };
    let full = NewAdvert {
        event_id: event(2),
        created_at: NOW.plus(1),
        status: "full",
        relay: Some(&b),
        ..first.clone()
    };
    // Same second: the lower id wins, whichever comes first.
    let (low, high) = match event(3).as_bytes() < event(4).as_bytes() {
        true => (event(3), event(4)),
        false => (event(4), event(3)),
    };
    let tie = |id| NewAdvert {
        event_id: id,
        created_at: NOW.plus(5),
        ..first.clone()
    };
    let stranger = NewAdvert {
        author: key(9),
        event_id: event(5),
        created_at: NOW.plus(99),
        ..first.clone()
    };
    store
        .transaction(|tx| {
            assert_eq!(tx.put_advert(&first)?, AdvertPut::New);
            assert_eq!(tx.put_advert(&first)?, AdvertPut::Same);
            assert_eq!(tx.put_advert(&full)?, AdvertPut::Newer);
            assert_eq!(tx.put_advert(&first)?, AdvertPut::Older);
            let row = tx.advert(cohort(1))?.unwrap();
            assert_eq!(
                (&*row.status, row.relays),
                ("full", vec![a.clone(), b.clone()])
            );
            assert_eq!(tx.put_advert(&tie(high))?, AdvertPut::Newer);
            assert_eq!(tx.put_advert(&tie(low))?, AdvertPut::Newer);
            assert_eq!(tx.put_advert(&tie(high))?, AdvertPut::Older);
            assert_eq!(tx.put_advert(&stranger)?, AdvertPut::Older);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let rows = store.view().adverts(Network::Signet, NOW).unwrap();
    assert_eq!(
        rows.iter().map(|row| row.event_id).collect::<Vec<_>>(),
        [low]
    );
    assert_eq!(rows[0].author, key(1));
    assert_eq!(store.view().adverts(Network::Testnet4, NOW).unwrap(), []);
    assert_eq!(
        store
            .view()
            .adverts(Network::Signet, NOW.plus(1_001))
            .unwrap(),
        []
    );
    let pruned = store
        .transaction(|tx| tx.prune_adverts(NOW.plus(1_001)))
        .unwrap();
    assert_eq!(pruned, 1);

    let long = "x".repeat(ADVERT_BYTES_MAX + 1);
    let error = store
        .transaction(|tx| {
            tx.put_advert(&NewAdvert {
                event: &long,
                ..advert(6, 1)
            })
        })
        .unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
}

#[test]
fn one_author_can_not_fill_the_adverts_and_what_matters_stays() {
    let mut store = Store::open_in_memory().unwrap();
    let per_author = u32::try_from(ADVERTS_PER_AUTHOR_MAX).unwrap();
    store
        .transaction(|tx| {
            // A cohort of the flooder that this agent joined, and an honest author.
            tx.insert_cohort(&NewCohort {
                cohort: cohort(1),
                role: Role::Participant,
                terms: "{}",
                seat_key: Some(key(3)),
                created: NOW,
                state: "joined",
            })?;
            tx.put_advert(&advert(1, 1))?;
            tx.put_advert(&advert(2, 2))?;
            for n in 10..10 + per_author + 50 {
                assert_eq!(tx.put_advert(&advert(n, 1))?, AdvertPut::New);
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let view = store.view();
    let rows = view.adverts(Network::Signet, NOW).unwrap();
    let flooder = rows.iter().filter(|row| row.author == key(1)).count();
    assert_eq!(
        flooder,
        per_author as usize + 1,
        "the share, and the joined one"
    );
    assert!(view.advert(cohort(1)).unwrap().is_some());
    assert!(view.advert(cohort(2)).unwrap().is_some());
    assert!(
        view.advert(cohort(10)).unwrap().is_none(),
        "the oldest went"
    );
    assert!(view.advert(cohort(10 + per_author + 49)).unwrap().is_some());
}

#[test]
fn follows_and_subscribers_are_kept_and_bounded() {
    let mut store = Store::open_in_memory().unwrap();
    let follow = Follow {
        key: key(1),
        relays: vec![relay("a")],
        since: NOW,
    };
    store
        .transaction(|tx| {
            tx.follow(&follow)?;
            tx.follow(&Follow {
                relays: vec![],
                since: NOW.plus(1),
                ..follow.clone()
            })?;
            for n in 1..=3 {
                let added = tx.subscribe(
                    Subscriber {
                        key: key(n),
                        since: NOW,
                    },
                    2,
                )?;
                assert_eq!(added, n <= 2);
            }
            assert!(!tx.subscribe(
                Subscriber {
                    key: key(1),
                    since: NOW
                },
                9
            )?);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(
        store.view().follows().unwrap(),
        [Follow {
            relays: vec![],
            ..follow
        }]
    );
    assert_eq!(store.view().subscribers().unwrap().len(), 2);
    store
        .transaction(|tx| {
            assert!(tx.unfollow(key(1))? && !tx.unfollow(key(1))?);
            assert!(tx.unsubscribe(key(2))? && !tx.unsubscribe(key(3))?);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(store.view().follows().unwrap(), []);
    assert_eq!(store.view().subscribers().unwrap().len(), 1);
}

#[test]
fn relays_are_one_row_each_and_their_health_is_counted() {
    let mut store = Store::open_in_memory().unwrap();
    let slash = RelayUrl::parse("wss://a.example/").unwrap();
    let row = RelayRow {
        url: relay("a"),
        read: true,
        write: false,
        networks: vec![Network::Signet, Network::Regtest],
        source: "relays add".to_owned(),
        added: NOW,
    };
    let reason = "é".repeat(RELAY_REASON_BYTES_MAX);
    store
        .transaction(|tx| {
            tx.put_relay(&row)?;
            tx.put_relay(&RelayRow {
                url: slash.clone(),
                write: true,
                ..row.clone()
            })?;
            tx.relay_failed(&slash, NOW, "connection refused")?;
            tx.relay_failed(&relay("a"), NOW.plus(1), &reason)?;
            tx.relay_ok(&relay("b"), NOW)?;
            tx.set_relay_detail(&relay("b"), r#"{"history":true}"#)
        })
        .unwrap();
    assert_eq!(
        store.view().relays().unwrap(),
        [RelayRow { write: true, ..row }]
    );
    let health = store.view().relay_health().unwrap();
    assert_eq!(health.len(), 2);
    assert_eq!(
        (health[0].failures_in_row, health[0].last_failure),
        (2, Some(NOW.plus(1)))
    );
    let kept = health[0].reason.clone().unwrap();
    assert_eq!(kept, "é".repeat(RELAY_REASON_BYTES_MAX / 2));
    assert_eq!(
        (health[1].last_ok, &*health[1].detail),
        (Some(NOW), r#"{"history":true}"#)
    );
    let pruned = store
        .transaction(|tx| {
            tx.relay_ok(&relay("a"), NOW.plus(2))?;
            tx.prune_relay_health(NOW.plus(10))
        })
        .map_err(|error: StoreError| error)
        .unwrap();
    assert_eq!(pruned, 1, "a was added by hand and stays");
    let health = store.view().relay_health().unwrap();
    assert_eq!(
        (health[0].failures_in_row, health[0].last_ok),
        (0, Some(NOW.plus(2)))
    );
    assert!(store.transaction(|tx| tx.remove_relay(&slash)).unwrap());
    assert_eq!(store.view().relays().unwrap(), []);
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
