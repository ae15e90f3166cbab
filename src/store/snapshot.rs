//! Snapshots: the state of a cohort as of an entry of its log, so that what is older can go.

use rusqlite::{Row, params};

use super::value::{Column, Role};
use super::{StoreError, Tx, View};
use crate::hash::{CohortId, sha256};
use crate::time::UnixTime;

/// A snapshot to store.
#[derive(Debug, Clone, Copy)]
pub struct NewSnapshot<'a> {
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays in it.
    pub role: Role,
    /// The last entry of the log that went into it.
    pub seq: u64,
    /// The number of the format the body is in.
    pub format: u32,
    /// The state, as the caller writes it.
    pub body: &'a str,
    /// When it was taken.
    pub created: UnixTime,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry of the log that went into it.
    pub seq: u64,
    /// The number of the format the body is in.
    pub format: u32,
    /// When it was taken.
    pub created: UnixTime,
    /// The state; none when it is not what was stored.
    pub body: Option<String>,
}

impl Snapshot {
    fn read(cohort: CohortId, role: Role, row: &Row<'_>) -> rusqlite::Result<Self> {
        let (seq, format) = (row.get::<_, Column<u64>>(0)?.0, row.get(1)?);
        let (digest, created): ([u8; 32], UnixTime) = (row.get(2)?, row.get(4)?);
        // Damaged bytes need not be text.
        let body = String::from_utf8_lossy(row.get_ref(3)?.as_bytes()?).into_owned();
        let intact = digest == digest_of(cohort, role, seq, format, created, &body);
        Ok(Self {
            seq,
            format,
            created,
            body: intact.then_some(body),
        })
    }
}

fn digest_of(
    cohort: CohortId,
    role: Role,
    seq: u64,
    format: u32,
    created: UnixTime,
    body: &str,
) -> [u8; 32] {
    let head = format!("{cohort} {} {seq} {format} {}\n", role.name(), created.0);
    sha256(&[head.as_bytes(), body.as_bytes()].concat())
}

impl View<'_> {
    /// The newest snapshot that is older than `before`, or the newest of all; whether it is intact is part of the
    /// answer.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn snapshot_before(
        &self,
        cohort: CohortId,
        role: Role,
        before: Option<u64>,
    ) -> Result<Option<Snapshot>, StoreError> {
        self.row(
            "SELECT seq, format, digest, body, created FROM snapshots
             WHERE cohort = ?1 AND role = ?2 AND (?3 IS NULL OR seq < ?3)
             ORDER BY seq DESC LIMIT 1",
            params![cohort, role, before.map(Column)],
            |row| Snapshot::read(cohort, role, row),
        )
    }

    /// The entry up to which the log of a cohort is gone; 0 where all of it is there.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn log_cut(&self, cohort: CohortId, role: Role) -> Result<u64, StoreError> {
        let cut: Option<Column<u64>> = self.row(
            "SELECT log_cut FROM cohorts WHERE cohort = ?1 AND role = ?2",
            params![cohort, role],
            |row| row.get(0),
        )?;
        Ok(cut.map_or(0, |cut| cut.0))
    }
}

impl Tx<'_> {
    /// Stores a snapshot of what the log of the cohort leads to so far.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if there is one of this entry.
    pub fn insert_snapshot(&self, new: &NewSnapshot<'_>) -> Result<(), StoreError> {
        let (cohort, role, seq) = (new.cohort, new.role, new.seq);
        let digest = digest_of(cohort, role, seq, new.format, new.created, new.body);
        self.write(
            "INSERT INTO snapshots (cohort, role, seq, format, digest, body, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                cohort,
                role,
                Column(seq),
                new.format,
                digest,
                new.body,
                new.created
            ],
        )?;
        Ok(())
    }

    /// Deletes what is older than the last two intact snapshots of a cohort: earlier snapshots, and the log up to the
    /// older one of the two. Returns how many entries went.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn shorten_log(&self, cohort: CohortId, role: Role) -> Result<u64, StoreError> {
        let mut intact = Vec::new();
        let mut before = None;
        while let Some(snapshot) = self.snapshot_before(cohort, role, before)? {
            before = Some(snapshot.seq);
            if snapshot.body.is_some() {
                intact.push(snapshot.seq);
            }
            if intact.len() == 2 {
                break;
            }
        }
        let &[_, cut] = intact.as_slice() else {
            return Ok(0);
        };
        self.write(
            "DELETE FROM snapshots WHERE cohort = ?1 AND role = ?2 AND seq < ?3",
            params![cohort, role, Column(cut)],
        )?;
        let gone = self.write(
            "DELETE FROM log WHERE cohort = ?1 AND role = ?2 AND seq <= ?3",
            params![cohort, role, Column(cut)],
        )?;
        self.change(
            "UPDATE cohorts SET log_cut = ?3 WHERE cohort = ?1 AND role = ?2",
            params![cohort, role, Column(cut)],
            || format!("cohort {}", cohort.short()),
        )?;
        Ok(u64::try_from(gone).unwrap_or(u64::MAX))
    }
}
