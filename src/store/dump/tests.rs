use super::*;
use crate::hash::{CohortId, SignalBytes};
use crate::network::Network;
use crate::protocol::ids::Round;
use crate::store::{
    ArtifactKey, ArtifactKind, DidRow, NewArtifact, NewCohort, NewLogEntry, NewUpdate, Role,
    Subject,
};
use crate::time::UnixTime;

fn cohort() -> CohortId {
    CohortId::from_bytes([0xe7; 32])
}

/// A bit of everything, with bytes that are text and bytes that are not.
fn filled(path: &Path) -> Store {
    let mut store = Store::open(path).unwrap();
    let signal = SignalBytes::from_bytes([0x41; 32]);
    store
        .transaction::<_, StoreError>(|tx| {
            for role in [Role::Participant, Role::Aggregator] {
                tx.insert_cohort(&NewCohort {
                    cohort: cohort(),
                    role,
                    terms: "{}",
                    seat_key: None,
                    created: UnixTime(1),
                    state: "active",
                })?;
                tx.append(&NewLogEntry {
                    cohort: cohort(),
                    role,
                    at: UnixTime(2),
                    kind: "tick",
                    input: "\"tick\"",
                    outcome: "\"accepted\"",
                })?;
            }
            tx.put_did(&DidRow {
                did: "did:btcr2:k1x".into(),
                network: Network::Regtest,
                kind: "k1".into(),
                key_index: Some(4),
                genesis: None,
                document: "{}".into(),
                version: 1,
                state: "active".into(),
                created: UnixTime(3),
            })?;
            tx.insert_update(&NewUpdate {
                did: "did:btcr2:k1x",
                target_version: 2,
                hash: crate::hash::UpdateHash::from_bytes([0xff; 32]),
                bytes: b"{\"a\":1}",
                cohort: Some(cohort()),
                service: None,
                state: "signed",
                created: UnixTime(4),
            })?;
            tx.pin_update("did:btcr2:k1x", 2, true)?;
            tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: Some((cohort(), Round(1))),
                    subject: Subject::Round,
                    kind: ArtifactKind::CasAnnouncement,
                    signal: Some(signal),
                },
                txid: None,
                bytes: &[0, 159, 146, 150],
                created: UnixTime(5),
            })?;
            tx.raise_incarnation(0)?;
            Ok(())
        })
        .unwrap();
    store
}

/// All rows of all tables.
fn rows(store: &mut Store) -> Vec<(&'static str, DumpRow)> {
    let mut rows = Vec::new();
    store
        .snapshot::<_, StoreError>(|view| {
            for table in DUMP_TABLES {
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

#[test]
fn a_store_is_made_again_of_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(&dir.path().join("a"));
    let dumped = rows(&mut store);
    let names: Vec<&str> = dumped.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.iter().filter(|name| **name == "cohorts").count(), 2);
    assert_eq!(
        names.iter().filter(|name| **name == "log").count(),
        1,
        "an aggregator's log stays where it is"
    );
    let path = dir.path().join("b");
    let version = store.view().schema_version().unwrap();
    let mut restoring = Restoring::begin(&path, version).unwrap();
    for (table, row) in &dumped {
        restoring.row(table, &row.key, Some(&row.json)).unwrap();
    }
    restoring.finish().unwrap();
    let mut copy = Store::open(&path).unwrap();
    assert_eq!(rows(&mut copy), dumped);
    assert_eq!(
        copy.view().incarnation().unwrap(),
        1,
        "whoever restores raises it"
    );
    let update = copy.view().update("did:btcr2:k1x", 2).unwrap().unwrap();
    assert!(update.pinned);
}

#[test]
fn the_last_row_under_a_key_counts_and_what_is_gone_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(&dir.path().join("a"));
    let dumped = rows(&mut store);
    let (_, did) = dumped.iter().find(|(name, _)| *name == "dids").unwrap();
    let (_, update) = dumped.iter().find(|(name, _)| *name == "updates").unwrap();
    let path = dir.path().join("b");
    let mut restoring = Restoring::begin(&path, 1).unwrap();
    let former = did.json.replace("\"active\"", "\"registering\"");
    assert_ne!(former, did.json);
    restoring.row("dids", &did.key, Some(&former)).unwrap();
    let second: Map<String, Value> = serde_json::from_str(&update.json).unwrap();
    assert!(second.contains_key("pinned"));
    restoring.row("dids", &did.key, Some(&did.json)).unwrap();
    restoring.row("dids", "[\"other\"]", Some(&former)).unwrap();
    restoring.row("dids", "[\"other\"]", None).unwrap();
    restoring.finish().unwrap();
    let copy = Store::open(&path).unwrap();
    let dids = copy.view().dids().unwrap();
    assert_eq!(dids.len(), 1);
    assert_eq!(dids[0].state, "active");
}

#[test]
fn rows_that_no_store_of_ours_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, Option<&str>); 6] = [
        ("sqlite_schema", Some("{\"name\":\"x\"}")),
        ("log", None),
        ("log", Some("[]")),
        ("log", Some("{}")),
        ("log", Some("{\"seq); DROP TABLE log; --\":1}")),
        ("artifacts", Some("{\"id\":{\"base64\":\"AA\"}}")),
    ];
    for (at, (table, row)) in cases.into_iter().enumerate() {
        let path = dir.path().join(at.to_string());
        let mut restoring = Restoring::begin(&path, 1).unwrap();
        assert!(restoring.row(table, "[1]", row).is_err(), "{table} {row:?}");
    }
    let newer = u32::try_from(schema::MIGRATIONS.len()).unwrap() + 1;
    for version in [0, newer] {
        let begun = Restoring::begin(&dir.path().join("v"), version);
        assert!(matches!(begun, Err(StoreError::NewerSchema { .. })));
    }
    // A reference to nothing.
    let mut store = filled(&dir.path().join("a"));
    let dumped = rows(&mut store);
    let (_, update) = dumped.iter().find(|(name, _)| *name == "updates").unwrap();
    let version = store.view().schema_version().unwrap();
    let mut restoring = Restoring::begin(&dir.path().join("r"), version).unwrap();
    restoring
        .row("updates", &update.key, Some(&update.json))
        .unwrap();
    assert!(restoring.finish().is_err());
}

#[test]
fn appended_rows_are_dumped_from_where_the_last_dump_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    let view = store.view();
    let table = dump_table("artifacts").unwrap();
    let row = view.dump_one(table, 1).unwrap().unwrap();
    assert_eq!(row.number, 1);
    assert_eq!(view.dump_one(table, 2).unwrap(), None);
    let mut more = 0;
    view.dump::<StoreError>(table, 1, |_| {
        more += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(more, 0);
}
