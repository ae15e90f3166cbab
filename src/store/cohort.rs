//! Cohorts this agent has a part in, and their transactions: projections of the log.

use bitcoin::Txid;
use rusqlite::{Row, params};

use super::value::{Column, Role};
use super::{StoreError, Tx, View};
use crate::hash::CohortId;
use crate::keys::public::NostrKey;
use crate::protocol::ids::Round;
use crate::time::UnixTime;

/// A cohort to store.
#[derive(Debug, Clone, Copy)]
pub struct NewCohort<'a> {
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays in it.
    pub role: Role,
    /// The canonical terms, whose SHA-256 is the cohort id.
    pub terms: &'a str,
    /// The *public* key of this agent's seat; none for the aggregator.
    pub seat_key: Option<NostrKey>,
    /// When this agent began to take part.
    pub created: UnixTime,
    /// The state to begin with, as the caller writes it.
    pub state: &'a str,
}

/// A cohort this agent has, or had, a part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortRow {
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays in it.
    pub role: Role,
    /// The canonical terms.
    pub terms: String,
    /// The public key of this agent's seat.
    pub seat_key: Option<NostrKey>,
    /// When this agent began to take part.
    pub created: UnixTime,
    /// The state as of the last log entry.
    pub state: String,
    /// When it ended, and how (cause, by whom, evidence; as the caller writes it).
    pub ended: Option<(UnixTime, String)>,
}

macro_rules! select_cohorts {
    ($rest:literal) => {
        concat!(
            "SELECT cohort, role, terms, seat_key, created, state, ended, ending FROM cohorts ",
            $rest
        )
    };
}

impl CohortRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let ended: Option<UnixTime> = row.get(6)?;
        let ending: Option<String> = row.get(7)?;
        Ok(Self {
            cohort: row.get(0)?,
            role: row.get(1)?,
            terms: row.get(2)?,
            seat_key: row.get(3)?,
            created: row.get(4)?,
            state: row.get(5)?,
            ended: ended.map(|at| (at, ending.unwrap_or_default())),
        })
    }
}

/// A transaction to store.
#[derive(Debug, Clone, Copy)]
pub struct NewTransaction<'a> {
    /// Its id.
    pub txid: Txid,
    /// The cohort whose beacon it spends.
    pub cohort: CohortId,
    /// The round it ends.
    pub round: Round,
    /// The transaction as the network relays it.
    pub raw: &'a [u8],
    /// Its state, as the caller writes it.
    pub state: &'a str,
    /// When it was signed or first seen.
    pub created: UnixTime,
}

/// A transaction of a cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRow {
    /// Its id.
    pub txid: Txid,
    /// The cohort whose beacon it spends.
    pub cohort: CohortId,
    /// The round it ends.
    pub round: Round,
    /// The transaction as the network relays it.
    pub raw: Vec<u8>,
    /// Its state as the chain last said.
    pub state: String,
    /// The height of the block it is in.
    pub height: Option<u32>,
    /// When it was signed or first seen.
    pub created: UnixTime,
}

macro_rules! select_transactions {
    ($rest:literal) => {
        concat!(
            "SELECT txid, cohort, round, raw, state, height, created FROM transactions ",
            $rest
        )
    };
}

impl TransactionRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            txid: row.get::<_, Column<Txid>>(0)?.0,
            cohort: row.get(1)?,
            round: row.get(2)?,
            raw: row.get(3)?,
            state: row.get(4)?,
            height: row.get(5)?,
            created: row.get(6)?,
        })
    }
}

impl View<'_> {
    /// One cohort in one role.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn cohort(&self, cohort: CohortId, role: Role) -> Result<Option<CohortRow>, StoreError> {
        self.row(
            select_cohorts!("WHERE cohort = ?1 AND role = ?2"),
            params![cohort, role],
            CohortRow::read,
        )
    }

    /// Every cohort, ended ones too, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn cohorts(&self) -> Result<Vec<CohortRow>, StoreError> {
        self.rows(
            select_cohorts!("ORDER BY created, cohort, role"),
            [],
            CohortRow::read,
        )
    }

    /// The cohorts that have not ended, oldest first: those to replay at start.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn live_cohorts(&self) -> Result<Vec<CohortRow>, StoreError> {
        self.rows(
            select_cohorts!("WHERE ended IS NULL ORDER BY created, cohort, role"),
            [],
            CohortRow::read,
        )
    }

    /// The cohorts whose id starts with these lower-case hex digits, for the command line.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn cohorts_starting_with(&self, hex: &str) -> Result<Vec<CohortRow>, StoreError> {
        self.rows(
            select_cohorts!(
                "WHERE substr(lower(hex(cohort)), 1, length(?1)) = ?1 ORDER BY created, cohort, role"
            ),
            [hex],
            CohortRow::read,
        )
    }

    /// One transaction.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn transaction(&self, txid: Txid) -> Result<Option<TransactionRow>, StoreError> {
        self.row(
            select_transactions!("WHERE txid = ?1"),
            params![Column(txid)],
            TransactionRow::read,
        )
    }

    /// The transactions of a cohort, by round, then by age.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn transactions_of(&self, cohort: CohortId) -> Result<Vec<TransactionRow>, StoreError> {
        self.rows(
            select_transactions!("WHERE cohort = ?1 ORDER BY round, created, txid"),
            params![cohort],
            TransactionRow::read,
        )
    }

    /// The transactions in one state, oldest first: what a chain watcher has to look at.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn transactions_in(&self, state: &str) -> Result<Vec<TransactionRow>, StoreError> {
        self.rows(
            select_transactions!("WHERE state = ?1 ORDER BY created, txid"),
            [state],
            TransactionRow::read,
        )
    }
}

impl Tx<'_> {
    /// Stores a cohort. The same cohort again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::CohortConflict`] if it is there with other terms or another seat key.
    pub fn insert_cohort(&self, new: &NewCohort<'_>) -> Result<(), StoreError> {
        let inserted = self.write(
            "INSERT INTO cohorts (cohort, role, terms, seat_key, created, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (cohort, role) DO NOTHING",
            params![
                new.cohort,
                new.role,
                new.terms,
                new.seat_key,
                new.created,
                new.state
            ],
        )?;
        if inserted == 0 {
            let there = self.cohort(new.cohort, new.role)?;
            if there.is_none_or(|row| row.terms != new.terms || row.seat_key != new.seat_key) {
                return Err(StoreError::CohortConflict { cohort: new.cohort });
            }
        }
        Ok(())
    }

    /// Replaces the projected state of a cohort.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the cohort is not there.
    pub fn set_cohort_state(
        &self,
        cohort: CohortId,
        role: Role,
        state: &str,
    ) -> Result<(), StoreError> {
        self.change(
            "UPDATE cohorts SET state = ?3 WHERE cohort = ?1 AND role = ?2",
            params![cohort, role, state],
            || format!("cohort {}", cohort.short()),
        )
    }

    /// Takes the end of a cohort back: a refused member asks for a seat once more.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn reopen_cohort(&self, cohort: CohortId, role: Role) -> Result<(), StoreError> {
        self.change(
            "UPDATE cohorts SET ended = NULL, ending = NULL WHERE cohort = ?1 AND role = ?2",
            params![cohort, role],
            || format!("cohort {}", cohort.short()),
        )
    }

    /// Records the end of a cohort: its last state, when, and how. The first end stands; a later
    /// one changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the cohort is not there.
    pub fn end_cohort(
        &self,
        cohort: CohortId,
        role: Role,
        state: &str,
        at: UnixTime,
        ending: &str,
    ) -> Result<(), StoreError> {
        self.change(
            "UPDATE cohorts SET state = iif(ended IS NULL, ?3, state),
                 ending = iif(ended IS NULL, ?5, ending), ended = coalesce(ended, ?4)
             WHERE cohort = ?1 AND role = ?2",
            params![cohort, role, state, at, ending],
            || format!("cohort {}", cohort.short()),
        )
    }

    /// Deletes a cohort in which nothing ever happened: its log, which stays, has nothing but settings.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not there, or has other entries in the log.
    pub fn forget_cohort(&self, cohort: CohortId, role: Role) -> Result<(), StoreError> {
        self.change(
            "DELETE FROM cohorts WHERE cohort = ?1 AND role = ?2
             AND NOT EXISTS (SELECT 1 FROM log WHERE cohort = ?1 AND role = ?2 
                             AND kind NOT IN ('policy', 'max_fee', 'money', 'relay_hints'))
             AND NOT EXISTS (SELECT 1 FROM snapshots WHERE cohort = ?1 AND role = ?2)",
            params![cohort, role],
            || format!("cohort {} without a log", cohort.short()),
        )
    }

    /// Stores a transaction. One that is there keeps its bytes, state and height.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn insert_transaction(&self, new: &NewTransaction<'_>) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO transactions (txid, cohort, round, raw, state, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (txid) DO NOTHING",
            params![
                Column(new.txid),
                new.cohort,
                new.round,
                new.raw,
                new.state,
                new.created
            ],
        )?;
        Ok(())
    }

    /// Replaces the state of a transaction and the height of its block; a reorganisation takes the
    /// height away again.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the transaction is not there.
    pub fn set_transaction_state(
        &self,
        txid: Txid,
        state: &str,
        height: Option<u32>,
    ) -> Result<(), StoreError> {
        self.change(
            "UPDATE transactions SET state = ?2, height = ?3 WHERE txid = ?1",
            params![Column(txid), state, height],
            || format!("transaction {txid}"),
        )
    }
}
