//! The log: inputs and decisions per cohort, in order. The truth everything else is rebuilt from.

use rusqlite::{Row, params};

use super::value::{Column, Role};
use super::{StoreError, Tx, View};
use crate::hash::CohortId;
use crate::time::UnixTime;

/// An entry to append.
#[derive(Debug, Clone, Copy)]
pub struct NewLogEntry<'a> {
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays in it.
    pub role: Role,
    /// When the input was handled, by the clock the core was given.
    pub at: UnixTime,
    /// What kind of input it is, for people and for counting.
    pub kind: &'a str,
    /// The input as JSON, with everything needed to handle it again. No secrets.
    pub input: &'a str,
    /// What became of it: accepted, ignored with the reason, evidence against a member.
    pub outcome: &'a str,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log of the whole store, from 1, rising.
    pub seq: u64,
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays in it.
    pub role: Role,
    /// When the input was handled.
    pub at: UnixTime,
    /// What kind of input it is.
    pub kind: String,
    /// The input as JSON.
    pub input: String,
    /// What became of it.
    pub outcome: String,
}

impl LogEntry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get::<_, Column<u64>>(0)?.0,
            cohort: row.get(1)?,
            role: row.get(2)?,
            at: row.get(3)?,
            kind: row.get(4)?,
            input: row.get(5)?,
            outcome: row.get(6)?,
        })
    }
}

impl View<'_> {
    /// Hands every entry of a cohort that is left to `each`, oldest first, one at a time; stops at its first
    /// error. Returns how many entries there were.
    ///
    /// # Errors
    /// What `each` returned, or why reading failed.
    pub fn replay<E: From<StoreError>>(
        &self,
        cohort: CohortId,
        role: Role,
        each: impl FnMut(LogEntry) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.replay_after(cohort, role, 0, each)
    }

    /// The same for the entries after one, which a snapshot was taken of.
    ///
    /// # Errors
    /// What `each` returned, or why reading failed.
    pub fn replay_after<E: From<StoreError>>(
        &self,
        cohort: CohortId,
        role: Role,
        after: u64,
        mut each: impl FnMut(LogEntry) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut statement = self.statement(
            "SELECT seq, cohort, role, at, kind, input, outcome FROM log
             WHERE cohort = ?1 AND role = ?2 AND seq > ?3 ORDER BY seq",
        )?;
        let mut rows = statement
            .query(params![cohort, role, Column(after)])
            .map_err(StoreError::from)?;
        let mut count = 0;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            each(LogEntry::read(row).map_err(StoreError::from)?)?;
            count += 1;
        }
        Ok(count)
    }

    /// The newest `limit` entries of a cohort, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn log_tail(
        &self,
        cohort: CohortId,
        role: Role,
        limit: u32,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let mut entries = self.rows(
            "SELECT seq, cohort, role, at, kind, input, outcome FROM log
             WHERE cohort = ?1 AND role = ?2 ORDER BY seq DESC LIMIT ?3",
            params![cohort, role, limit],
            LogEntry::read,
        )?;
        entries.reverse();
        Ok(entries)
    }

    /// The date of the newest entry, of whatever cohort.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn last_entry_at(&self) -> Result<Option<UnixTime>, StoreError> {
        self.row("SELECT at FROM log ORDER BY seq DESC LIMIT 1", [], |row| {
            row.get(0)
        })
    }

    /// The number of the newest entry of a cohort, 0 if it has none.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn last_seq(&self, cohort: CohortId, role: Role) -> Result<u64, StoreError> {
        let last: Option<Column<u64>> = self.row(
            "SELECT seq FROM log WHERE cohort = ?1 AND role = ?2 ORDER BY seq DESC LIMIT 1",
            params![cohort, role],
            |row| row.get(0),
        )?;
        Ok(last.map_or(0, |seq| seq.0))
    }

    /// How many entries of each kind and outcome a cohort has: the counted reasons.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn log_counts(
        &self,
        cohort: CohortId,
        role: Role,
    ) -> Result<Vec<(String, String, u64)>, StoreError> {
        self.rows(
            "SELECT kind, outcome, count(*) FROM log WHERE cohort = ?1 AND role = ?2
             GROUP BY kind, outcome ORDER BY kind, outcome",
            params![cohort, role],
            |row| {
                let count: Column<u64> = row.get(2)?;
                Ok((row.get(0)?, row.get(1)?, count.0))
            },
        )
    }
}

impl Tx<'_> {
    /// Appends an entry and returns its sequence number. Entries are never changed, and deleted only by
    /// [`Tx::shorten_log`].
    ///
    /// # Errors
    /// [`StoreError::Rule`] if the input is not JSON.
    pub fn append(&self, entry: &NewLogEntry<'_>) -> Result<u64, StoreError> {
        self.write(
            "INSERT INTO log (cohort, role, at, kind, input, outcome) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![entry.cohort, entry.role, entry.at, entry.kind, entry.input, entry.outcome],
        )?;
        let seq = self.conn.last_insert_rowid();
        Ok(u64::try_from(seq).unwrap_or(0))
    }
}
