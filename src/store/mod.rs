//! SQLite: log, outbox, artifacts (DESIGN §8).
//!
//! One [`Store`] is one connection, used by one owner. Its API blocks: a commit waits for the disk.
//! Reads go through [`Store::view`]; writes exist only on [`Tx`], so nothing is ever written outside
//! [`Store::transaction`], and a change of state, its log entry, its outbox rows and its artifacts
//! are durable together or not at all (DESIGN §6, rules 5 and 8).
//!
//! What the core thinks in (states, inputs, updates) is opaque here: text, JSON or bytes that the
//! caller serialises. What the store itself enforces, in the schema where possible:
//!
//! - the log and the artifacts are append-only; what goes of the log are entries that two snapshots make up for;
//! - artifacts and updates never change their bytes once others may depend on them;
//! - tables fed by strangers are bounded.
//!
//! | file | tables |
//! |---|---|
//! | `log` | `log` |
//! | `snapshot` | `snapshots`: what the log led to, so that what is older can go |
//! | `cohort` | `cohorts`, `transactions` |
//! | `outbox` | `outbox`, `lanes` |
//! | `artifact` | `artifacts` |
//! | `did` | `dids`, `did_bindings`, `updates` |
//! | `did_key` | `did_keys`, `did_adopted` |
//! | `singleton` | `singleton_spends` |
//! | `advert` | `adverts`, `follows`, `subscribers` |
//! | `seen` | `seen_events` |
//! | `relay` | `relays`, `relay_health` |
//! | `meta` | `meta`: the incarnation, and small facts |
//! | `dump` | rows of many tables as JSON, for the bundle |

mod advert;
mod artifact;
mod cohort;
mod did;
mod did_key;
mod dump;
mod error;
mod log;
mod meta;
mod outbox;
mod relay;
mod schema;
mod seen;
mod singleton;
mod snapshot;
mod value;

use std::cell::Cell;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OpenFlags, Params, Row, TransactionBehavior};

pub use advert::{
    ADVERT_BYTES_MAX, ADVERTS_MAX, ADVERTS_PER_AUTHOR_MAX, AdvertPut, AdvertRow, Follow, NewAdvert,
    Subscriber,
};
pub use artifact::{Artifact, ArtifactKey, ArtifactKind, NewArtifact, Put, Subject};
pub use cohort::{CohortRow, NewCohort, NewTransaction, TransactionRow};
pub use did::{Binding, DidRow, NewUpdate, UpdateRow};
pub use did_key::{AdoptedRow, DidKeyRow};
pub use dump::{DUMP_TABLES, DumpRow, DumpTable, Restoring, dump_table};
pub use error::StoreError;
pub use log::{LogEntry, NewLogEntry};
pub use meta::MetaKey;
pub use outbox::{Lane, LaneRow, NewOutboxRow, OutboxRow};
pub use relay::{RELAY_REASON_BYTES_MAX, RELAYS_REMEMBERED_MAX, RelayHealth, RelayRow};
pub use seen::SEEN_EVENTS_MAX;
pub use singleton::{SpendRow, SpendStanding, SpendState};
pub use snapshot::{NewSnapshot, Snapshot};
pub use value::Role;

/// How long a statement waits for another program that holds the file.
///
/// The home's lock keeps other agents out; what remains is a person's SQLite shell or a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements kept; above the number of statements in this module.
const STATEMENT_CACHE: usize = 160;

/// An open store.
pub struct Store {
    conn: Connection,
}

impl Store {
    /// Opens the store at `path`, creates it when there is none, and migrates it to this program's
    /// schema. On Unix a new file is readable by its owner only.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`], [`StoreError::NotAStore`], [`StoreError::ReadOnly`],
    /// [`StoreError::CannotOpen`], [`StoreError::NoWriteAheadLog`], [`StoreError::Damaged`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| StoreError::CannotOpen {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = connect(path, flags)?;
        // SQLite falls back to reading when it may not write, and would say so at the first write.
        if conn.is_readonly(rusqlite::MAIN_DB)? {
            return Err(StoreError::ReadOnly);
        }
        let found = version_found(&conn, path)?;
        let mode: String =
            conn.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::NoWriteAheadLog { mode });
        }
        prepare(&conn)?;
        schema::migrate(&mut conn, found, schema::MIGRATIONS)?;
        Ok(Self { conn })
    }

    /// Opens an existing store for reading, also while an agent runs. Writes fail with
    /// [`StoreError::ReadOnly`]; an older schema is refused, since it can not be migrated.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = connect(path, flags)?;
        let found = version_found(&conn, path)?;
        if usize::try_from(found) != Ok(schema::MIGRATIONS.len()) {
            return Err(StoreError::ReadOnly);
        }
        prepare(&conn)?;
        Ok(Self { conn })
    }

    /// A store that lives as long as this value, for tests and simulations.
    ///
    /// # Errors
    /// [`StoreError::Sql`] if SQLite itself does not work.
    pub fn open_in_memory() -> Result<Self, StoreError> {
        let mut conn = Connection::open_in_memory()?;
        prepare(&conn)?;
        schema::migrate(&mut conn, 0, schema::MIGRATIONS)?;
        Ok(Self { conn })
    }

    /// The newest schema this program knows.
    #[must_use]
    pub const fn schema_known() -> usize {
        schema::MIGRATIONS.len()
    }

    /// The version of SQLite in this program.
    #[must_use]
    pub fn sqlite_version() -> &'static str {
        rusqlite::version()
    }

    /// The reading half.
    #[must_use]
    pub const fn view(&self) -> View<'_> {
        View { conn: &self.conn }
    }

    /// Runs `work` in one transaction: committed and on disk when this returns `Ok`, without a
    /// trace when it returns an error or panics.
    ///
    /// A transaction in which a statement failed can not be committed, also when `work` swallowed
    /// the error.
    ///
    /// # Errors
    /// What `work` returned, or why the commit failed.
    pub fn transaction<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(StoreError::from)?;
        let tx = Tx {
            view: View { conn: &transaction },
            failed: Cell::new(false),
        };
        let value = work(&tx)?;
        if tx.failed.get() {
            return Err(StoreError::Abandoned.into());
        }
        transaction.commit().map_err(StoreError::from)?;
        Ok(value)
    }

    /// Caps the size of the file (`limits.store_mib`). At the cap, writes fail with
    /// [`StoreError::DiskFull`]. A file that is already larger keeps its size.
    ///
    /// # Errors
    /// [`StoreError::Sql`] if SQLite refuses the number.
    pub fn limit_bytes(&self, bytes: u64) -> Result<(), StoreError> {
        let page: i64 = self
            .conn
            .pragma_query_value(None, "page_size", |row| row.get(0))?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let pages = bytes.checked_div(page).unwrap_or(0).clamp(1, 0xffff_fffe);
        self.conn
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        Ok(())
    }

    /// Writes a consistent copy of the store to `path`, which must not exist.
    ///
    /// Whoever restores the copy calls [`Tx::raise_incarnation`] before anything is sent.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`] if `path` exists or can not be created; [`StoreError::DiskFull`].
    pub fn backup_to(&self, path: &Path) -> Result<(), StoreError> {
        let refused = |reason: String| StoreError::CannotOpen {
            path: path.to_owned(),
            reason,
        };
        if path.exists() {
            return Err(refused("a file is already there".to_owned()));
        }
        create_private(path).map_err(|error| refused(error.to_string()))?;
        let copied = self.copy_to(path);
        if copied.is_err() {
            // Half a backup is worse than none. The first error is the one to report.
            let _ = std::fs::remove_file(path);
        }
        copied
    }

    fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        use rusqlite::backup::{Backup, StepResult};
        let mut copy = Connection::open(path)?;
        let backup = Backup::new(&self.conn, &mut copy)?;
        // One step copies everything; nobody else writes, because the home is locked.
        match backup.step(-1)? {
            StepResult::Done => Ok(()),
            _ => Err(StoreError::Busy),
        }
    }

    /// Checks the structure of every page, not the content of indexes: what a start can afford, some milliseconds a
    /// megabyte.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first fault.
    pub fn check_pages(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .conn
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict == "ok" {
            return Ok(());
        }
        Err(StoreError::Damaged { detail: verdict })
    }

    /// Checks every page and every reference of the store. Takes time in proportion to its size.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first fault.
    pub fn check(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .conn
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(StoreError::Damaged { detail: verdict });
        }
        let mut statement = self.conn.prepare("PRAGMA foreign_key_check")?;
        let mut rows = statement.query([])?;
        if let Some(row) = rows.next()? {
            let table: String = row.get(0)?;
            let detail = format!("a row of {table} refers to a row that is not there");
            return Err(StoreError::Damaged { detail });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.conn.path())
            .finish()
    }
}

/// The reading half of a store, also inside a transaction.
pub struct View<'c> {
    conn: &'c Connection,
}

impl View<'_> {
    fn statement(&self, sql: &'static str) -> Result<CachedStatement<'_>, StoreError> {
        Ok(self.conn.prepare_cached(sql)?)
    }

    fn rows<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.statement(sql)?;
        let rows = statement.query_map(params, read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn row<T>(
        &self,
        sql: &'static str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        use rusqlite::OptionalExtension as _;
        let mut statement = self.statement(sql)?;
        Ok(statement.query_row(params, read).optional()?)
    }
}

/// An open transaction: everything a [`View`] reads, and all the writes.
pub struct Tx<'c> {
    view: View<'c>,
    /// A statement failed, so that what was written so far may be part of a step only.
    failed: Cell<bool>,
}

impl<'c> Deref for Tx<'c> {
    type Target = View<'c>;
    fn deref(&self) -> &View<'c> {
        &self.view
    }
}

impl Tx<'_> {
    /// Runs one writing statement and says how many rows it changed.
    fn write(&self, sql: &'static str, params: impl Params) -> Result<usize, StoreError> {
        // After some errors (a full disk) SQLite has rolled back by itself; a further statement
        // would be committed on its own.
        if self.failed.get() || self.view.conn.is_autocommit() {
            return Err(StoreError::Abandoned);
        }
        let changed = self
            .view
            .statement(sql)
            .and_then(|mut statement| Ok(statement.execute(params)?));
        if changed.is_err() {
            self.failed.set(true);
        }
        changed
    }

    /// Runs one writing statement that must change a row.
    fn change(
        &self,
        sql: &'static str,
        params: impl Params,
        what: impl FnOnce() -> String,
    ) -> Result<(), StoreError> {
        match self.write(sql, params)? {
            0 => Err(StoreError::Missing { what: what() }),
            _ => Ok(()),
        }
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let conn =
        Connection::open_with_flags(path, flags).map_err(|error| StoreError::CannotOpen {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

fn version_found(conn: &Connection, path: &Path) -> Result<i64, StoreError> {
    let known = i64::try_from(schema::MIGRATIONS.len()).unwrap_or(i64::MAX);
    match schema::inspect(conn)? {
        schema::Found::Empty => Ok(0),
        schema::Found::Version(found) if found > known => {
            Err(StoreError::NewerSchema { found, known })
        }
        schema::Found::Version(found) => Ok(found),
        schema::Found::Foreign => Err(StoreError::NotAStore {
            path: path.to_owned(),
        }),
    }
}

fn prepare(conn: &Connection) -> Result<(), StoreError> {
    conn.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    conn.pragma_update(None, "synchronous", "full")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    // The schema of a file somebody sent us runs no functions with side effects.
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

/// Creates an empty file only its owner can read, unless there is a file. SQLite gives its
/// companions (`-wal`, `-shm`) the same permissions.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_open_sets_the_connection_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        for store in [
            Store::open(&path).unwrap(),
            Store::open_read_only(&path).unwrap(),
            Store::open_in_memory().unwrap(),
        ] {
            let number = |pragma: &str| -> i64 {
                store
                    .conn
                    .pragma_query_value(None, pragma, |row| row.get(0))
                    .unwrap()
            };
            assert_eq!(number("synchronous"), 2, "FULL: a commit is on the disk");
            assert_eq!(number("foreign_keys"), 1);
            assert_eq!(number("trusted_schema"), 0);
        }
    }
}
