//! DIDs this agent controls, where they are registered, and their updates.

use bitcoin::Txid;
use rusqlite::{Row, params};

use super::artifact::Put;
use super::value::{Column, Role};
use super::{StoreError, Tx, View};
use crate::hash::{CohortId, SmtIndex, UpdateHash};
use crate::network::Network;
use crate::protocol::ids::Round;
use crate::time::UnixTime;

/// A DID under this agent's control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DidRow {
    /// The DID.
    pub did: String,
    /// The network it lives on.
    pub network: Network,
    /// Whether it commits to a key or to a genesis document, as the caller names it.
    pub kind: String,
    /// Its number in the derivation of DID keys; none for a key that was imported.
    pub key_index: Option<u32>,
    /// The genesis document of an x1 DID, in its canonical form.
    pub genesis: Option<String>,
    /// The document as last resolved.
    pub document: String,
    /// The version of `document`, from 1.
    pub version: u64,
    /// Its state, as the caller writes it.
    pub state: String,
    /// When it was made.
    pub created: UnixTime,
}

macro_rules! select_dids {
    ($rest:literal) => {
        concat!(
            "SELECT did, network, kind, key_index, genesis, document, version, state, created
             FROM dids ",
            $rest
        )
    };
}

impl DidRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            did: row.get(0)?,
            network: row.get(1)?,
            kind: row.get(2)?,
            key_index: row.get(3)?,
            genesis: row.get(4)?,
            document: row.get(5)?,
            version: row.get::<_, Column<u64>>(6)?.0,
            state: row.get(7)?,
            created: row.get(8)?,
        })
    }
}

/// The registration of an index, and with it of a DID, with a cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The cohort.
    pub cohort: CohortId,
    /// The part this agent plays in it: a participant's bindings are of its own DIDs.
    pub role: Role,
    /// The index, SHA-256 of the DID.
    pub index: SmtIndex,
    /// The DID, unless the aggregator of an SMT cohort does not know it.
    pub did: Option<String>,
    /// The first round whose signal concerns the DID.
    pub from_round: Round,
    /// Its state, as the caller writes it.
    pub state: String,
}

macro_rules! select_bindings {
    ($rest:literal) => {
        concat!(
            "SELECT cohort, role, idx, did, from_round, state FROM did_bindings ",
            $rest
        )
    };
}

impl Binding {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cohort: row.get(0)?,
            role: row.get(1)?,
            index: row.get(2)?,
            did: row.get(3)?,
            from_round: row.get(4)?,
            state: row.get(5)?,
        })
    }
}

/// An update to store.
#[derive(Debug, Clone, Copy)]
pub struct NewUpdate<'a> {
    /// The DID.
    pub did: &'a str,
    /// The version the update leads to.
    pub target_version: u64,
    /// The hash a beacon announces.
    pub hash: UpdateHash,
    /// The signed update, byte for byte as it was hashed.
    pub bytes: &'a [u8],
    /// The cohort it is submitted to, if one is to announce it.
    pub cohort: Option<CohortId>,
    /// The singleton beacon that announces it, if no cohort does.
    pub service: Option<&'a str>,
    /// Its state, as the caller writes it.
    pub state: &'a str,
    /// When it was signed.
    pub created: UnixTime,
}

/// An update of a DID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateRow {
    /// The DID.
    pub did: String,
    /// The version the update leads to.
    pub target_version: u64,
    /// The hash a beacon announces.
    pub hash: UpdateHash,
    /// The signed update.
    pub bytes: Vec<u8>,
    /// The cohort it is submitted to.
    pub cohort: Option<CohortId>,
    /// The singleton beacon that announces it, where no cohort does.
    pub service: Option<String>,
    /// The round it is in.
    pub round: Option<Round>,
    /// The transaction that announces it.
    pub txid: Option<Txid>,
    /// The block with that transaction.
    pub height: Option<u32>,
    /// Its state, as the caller writes it.
    pub state: String,
    /// Why it is in that state, where there is more to say.
    pub reason: Option<String>,
    /// A partial signature over a signal that announces it has left, and the signal is not dead:
    /// nothing else may be announced for this version (DESIGN §6, rule 10).
    pub pinned: bool,
    /// When it was signed.
    pub created: UnixTime,
}

macro_rules! select_updates {
    ($rest:literal) => {
        concat!(
            "SELECT did, target_version, hash, bytes, cohort, service, round, txid, height, state,
                    reason, pinned, created FROM updates ",
            $rest
        )
    };
}

impl UpdateRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            did: row.get(0)?,
            target_version: row.get::<_, Column<u64>>(1)?.0,
            hash: row.get(2)?,
            bytes: row.get(3)?,
            cohort: row.get(4)?,
            service: row.get(5)?,
            round: row.get(6)?,
            txid: row.get::<_, Option<Column<Txid>>>(7)?.map(|txid| txid.0),
            height: row.get(8)?,
            state: row.get(9)?,
            reason: row.get(10)?,
            pinned: row.get(11)?,
            created: row.get(12)?,
        })
    }
}

impl View<'_> {
    /// One DID.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn did(&self, did: &str) -> Result<Option<DidRow>, StoreError> {
        self.row(select_dids!("WHERE did = ?1"), [did], DidRow::read)
    }

    /// Every DID, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn dids(&self) -> Result<Vec<DidRow>, StoreError> {
        self.rows(select_dids!("ORDER BY created, did"), [], DidRow::read)
    }

    /// The bindings of a cohort, by index.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn bindings_of_cohort(
        &self,
        cohort: CohortId,
        role: Role,
    ) -> Result<Vec<Binding>, StoreError> {
        self.rows(
            select_bindings!("WHERE cohort = ?1 AND role = ?2 ORDER BY idx"),
            params![cohort, role],
            Binding::read,
        )
    }

    /// The bindings of an index, in whatever cohort.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn bindings_of(&self, index: SmtIndex) -> Result<Vec<Binding>, StoreError> {
        self.rows(
            select_bindings!("WHERE idx = ?1 ORDER BY cohort, role"),
            params![index],
            Binding::read,
        )
    }

    /// The update of a DID to a version.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn update(&self, did: &str, target_version: u64) -> Result<Option<UpdateRow>, StoreError> {
        self.row(
            select_updates!("WHERE did = ?1 AND target_version = ?2"),
            params![did, Column(target_version)],
            UpdateRow::read,
        )
    }

    /// The updates of a DID, by version.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn updates_of(&self, did: &str) -> Result<Vec<UpdateRow>, StoreError> {
        self.rows(
            select_updates!("WHERE did = ?1 ORDER BY target_version"),
            [did],
            UpdateRow::read,
        )
    }

    /// The updates of a DID whose standing may still change, by version: those in none of the states `settled`,
    /// and the last `last` whatever their state.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn updates_to_watch(
        &self,
        did: &str,
        settled: (&str, &str),
        last: u32,
    ) -> Result<Vec<UpdateRow>, StoreError> {
        self.rows(
            select_updates!(
                "WHERE did = ?1 AND (state NOT IN (?2, ?3) OR target_version >
                     (SELECT max(target_version) FROM updates WHERE did = ?1) - ?4)
                 ORDER BY target_version"
            ),
            params![did, settled.0, settled.1, last],
            UpdateRow::read,
        )
    }

    /// The updates in a state, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn updates_in(&self, state: &str) -> Result<Vec<UpdateRow>, StoreError> {
        self.rows(
            select_updates!("WHERE state = ?1 ORDER BY created, did, target_version"),
            [state],
            UpdateRow::read,
        )
    }
}

impl Tx<'_> {
    /// Stores a DID, or replaces its document, version and state. Network, kind, key, genesis and
    /// creation stay as they were first stored.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn put_did(&self, row: &DidRow) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO dids (did, network, kind, key_index, genesis, document, version, state,
                               created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (did) DO UPDATE SET document = excluded.document,
                 version = excluded.version, state = excluded.state",
            params![
                row.did,
                row.network,
                row.kind,
                row.key_index,
                row.genesis,
                row.document,
                Column(row.version),
                row.state,
                row.created
            ],
        )?;
        Ok(())
    }

    /// Stores a binding, or replaces its state. A DID learned later is added; the first round stays.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn put_binding(&self, binding: &Binding) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO did_bindings (cohort, role, idx, did, from_round, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (cohort, role, idx) DO UPDATE SET state = excluded.state,
                 did = coalesce(did, excluded.did)",
            params![
                binding.cohort,
                binding.role,
                binding.index,
                binding.did,
                binding.from_round,
                binding.state
            ],
        )?;
        Ok(())
    }

    /// Stores an update of a stored DID. The same bytes again change nothing.
    ///
    /// # Errors
    /// [`StoreError::UpdateConflict`] if the DID has another update to this version; see
    /// [`Tx::supersede_update`]. [`StoreError::Rule`] if the DID is not stored.
    pub fn insert_update(&self, new: &NewUpdate<'_>) -> Result<Put, StoreError> {
        let inserted = self.write(
            "INSERT INTO updates (did, target_version, hash, bytes, cohort, service, state, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (did, target_version) DO NOTHING",
            params![
                new.did,
                Column(new.target_version),
                new.hash,
                new.bytes,
                new.cohort,
                new.service,
                new.state,
                new.created
            ],
        )?;
        if inserted > 0 {
            return Ok(Put::Stored);
        }
        match self.update(new.did, new.target_version)? {
            Some(there) if there.hash == new.hash && there.bytes == new.bytes => {
                Ok(Put::AlreadyThere)
            }
            _ => Err(conflict(new)),
        }
    }

    /// Puts an update in the place of another one to the same version that nobody can announce any
    /// more: one that is not pinned.
    ///
    /// # Errors
    /// [`StoreError::UpdateConflict`] if the update there is pinned.
    pub fn supersede_update(&self, new: &NewUpdate<'_>) -> Result<Put, StoreError> {
        match self.update(new.did, new.target_version)? {
            None => {}
            Some(there) if there.bytes == new.bytes => return Ok(Put::AlreadyThere),
            Some(there) if there.pinned => return Err(conflict(new)),
            Some(_) => {
                self.write(
                    "DELETE FROM updates WHERE did = ?1 AND target_version = ?2",
                    params![new.did, Column(new.target_version)],
                )?;
            }
        }
        self.insert_update(new)
    }

    /// Forgets an update that nobody can announce any more: one that is not pinned.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if it is pinned; [`StoreError::Missing`] if it is not there.
    pub fn withdraw_update(&self, did: &str, target_version: u64) -> Result<(), StoreError> {
        self.change(
            "DELETE FROM updates WHERE did = ?1 AND target_version = ?2",
            params![did, Column(target_version)],
            || format!("update of {did} to version {target_version}"),
        )
    }

    /// Replaces where an update stands: route, round, transaction, block, state and reason are written
    /// as they are in `row`; its DID, version, bytes and pin are not touched.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the update is not there.
    pub fn set_update_state(&self, row: &UpdateRow) -> Result<(), StoreError> {
        self.change(
            "UPDATE updates SET cohort = ?3, service = ?4, round = ?5, txid = ?6, height = ?7,
                    state = ?8, reason = ?9
             WHERE did = ?1 AND target_version = ?2",
            params![
                row.did,
                Column(row.target_version),
                row.cohort,
                row.service,
                row.round,
                row.txid.map(Column),
                row.height,
                row.state,
                row.reason
            ],
            || format!("update of {} to version {}", row.did, row.target_version),
        )
    }

    /// Pins an update before a partial signature over a signal that announces it leaves, or
    /// releases it when that signal is dead (a conflicting transaction has confirmed).
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the update is not there.
    pub fn pin_update(
        &self,
        did: &str,
        target_version: u64,
        pinned: bool,
    ) -> Result<(), StoreError> {
        self.change(
            "UPDATE updates SET pinned = ?3 WHERE did = ?1 AND target_version = ?2",
            params![did, Column(target_version), pinned],
            || format!("update of {did} to version {target_version}"),
        )
    }
}

fn conflict(new: &NewUpdate<'_>) -> StoreError {
    StoreError::UpdateConflict {
        did: new.did.to_owned(),
        target_version: new.target_version,
    }
}
