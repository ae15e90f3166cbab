//! The schema and its forward migrations.
//!
//! `user_version` counts the migrations a file has had. A migration, once released, never changes;
//! the next one is appended. A file with a higher number is refused: guessing at a newer layout
//! could lose what a beacon needs for the rest of its life.

use rusqlite::{Connection, TransactionBehavior};

use super::error::StoreError;

/// Marks the file as ours (`PRAGMA application_id`): the ASCII letters `btc2`.
pub(super) const APPLICATION_ID: i64 = 0x6274_6332;

/// The migrations, oldest first.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema/v1.sql"),
    include_str!("schema/v2.sql"),
    include_str!("schema/v3.sql"),
];

/// What a file is, before anything is written to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A new or empty file.
    Empty,
    /// A store that has had this many migrations.
    Version(i64),
    /// A database of another program.
    Foreign,
}

/// Reads what the file is.
pub(super) fn inspect(conn: &Connection) -> Result<Found, StoreError> {
    let number = |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let application = number("application_id")?;
    let version = number("user_version")?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version, tables) {
        (APPLICATION_ID, version, _) => Found::Version(version),
        (0, 0, 0) => Found::Empty,
        _ => Found::Foreign,
    })
}

/// Applies the migrations the file has not had, each in a transaction of its own.
///
/// `from` is the version [`inspect`] found, 0 for an empty file.
pub(super) fn migrate(
    conn: &mut Connection,
    from: i64,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let done = usize::try_from(from).unwrap_or(usize::MAX);
    if from < 0 || from > known {
        return Err(StoreError::NewerSchema { found: from, known });
    }
    for (sql, version) in migrations.iter().zip(1_i64..).skip(done) {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_run_once_in_order_and_keep_what_is_there() {
        let mut conn = Connection::open_in_memory().unwrap();
        assert_eq!(inspect(&conn).unwrap(), Found::Empty);
        let first = "CREATE TABLE t(a INTEGER NOT NULL) STRICT; INSERT INTO t VALUES (7);";
        migrate(&mut conn, 0, &[first]).unwrap();
        assert_eq!(inspect(&conn).unwrap(), Found::Version(1));

        let second = "ALTER TABLE t ADD COLUMN b INTEGER NOT NULL DEFAULT 5;";
        migrate(&mut conn, 1, &[first, second]).unwrap();
        assert_eq!(inspect(&conn).unwrap(), Found::Version(2));
        let row: (i64, i64) = conn
            .query_row("SELECT a, b FROM t", [], |r| Ok((r.get(0)?, r.get(1)?)))
            .unwrap();
        assert_eq!(row, (7, 5));
    }

    #[test]
    fn a_failing_migration_leaves_the_version_before_it() {
        let mut conn = Connection::open_in_memory().unwrap();
        let broken = "CREATE TABLE u(a INTEGER) STRICT; SELECT nonsense;";
        let good = "CREATE TABLE t(a INTEGER) STRICT;";
        assert!(migrate(&mut conn, 0, &[good, broken]).is_err());
        assert_eq!(inspect(&conn).unwrap(), Found::Version(1));
        let tables: i64 = conn
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'u'",
                [],
                |r| r.get(0),
            )
            .unwrap();
        assert_eq!(tables, 0);
    }

    #[test]
    fn a_file_of_version_1_keeps_its_dids_and_learns_their_keys() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, 0, &MIGRATIONS[..1]).unwrap();
        conn.execute_batch(
            "INSERT INTO dids VALUES ('did:btcr2:k1a', 'regtest', 'k1', 3, NULL, '{}', 2, 'active', 7);
             INSERT INTO dids VALUES ('did:btcr2:x1b', 'regtest', 'x1', NULL, '{}', '{}', 1, 'active', 8);
             INSERT INTO updates (did, target_version, hash, bytes, state, created)
                 VALUES ('did:btcr2:k1a', 2, zeroblob(32), x'00', 'confirmed', 9);",
        )
        .unwrap();
        migrate(&mut conn, 1, MIGRATIONS).unwrap();
        let keys: Vec<(String, u32, String, i64)> = conn
            .prepare("SELECT did, key_index, name, created FROM did_keys")
            .unwrap()
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let name = "did:btcr2:k1a#initialKey".to_owned();
        assert_eq!(keys, [("did:btcr2:k1a".to_owned(), 3, name, 7)]);
        let update: (String, Option<String>, Option<u32>) = conn
            .query_row("SELECT state, service, height FROM updates", [], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?))
            })
            .unwrap();
        assert_eq!(update, ("confirmed".to_owned(), None, None));
    }

    #[test]
    fn newer_and_foreign_files_are_told_apart() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE theirs(a)").unwrap();
        assert_eq!(inspect(&conn).unwrap(), Found::Foreign);
        let error = migrate(&mut conn, 9, MIGRATIONS).unwrap_err();
        assert!(matches!(
            error,
            StoreError::NewerSchema { found: 9, known: 3 }
        ));
    }
}
