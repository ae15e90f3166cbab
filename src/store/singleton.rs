//! Signals of singleton beacons that this agent signed.

use bitcoin::consensus::encode::deserialize;
use bitcoin::{Transaction, Txid};
use rusqlite::{Row, params};

use super::value::{Column, text_enum};
use super::{StoreError, Tx, View};
use crate::time::UnixTime;

/// Where a signal of a singleton beacon stands. All but [`Self::Signed`] is what the chain said last, and moves back
/// when it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpendState {
    /// Signed and stored. The chain does not show it.
    Signed,
    /// The chain backend has it in its mempool, or said that it took it.
    Broadcast,
    /// In a block.
    Confirmed,
    /// In a block deep enough that nobody looks any more.
    Final,
    /// Another transaction spends what it spends.
    Conflicted,
    /// Another transaction spends what it spends, deep in the chain: it can not confirm any more.
    Dead,
}

text_enum!(SpendState {
    Signed => "signed",
    Broadcast => "broadcast",
    Confirmed => "confirmed",
    Final => "final",
    Conflicted => "conflicted",
    Dead => "dead",
});

impl SpendState {
    /// Whether nothing is expected of the chain any more.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Final | Self::Dead)
    }
}

/// Where a signal stands, with the particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendStanding {
    /// The state.
    pub state: SpendState,
    /// The block that holds it or, when it is conflicted or dead, the one it conflicts with; `None` for the mempool.
    pub height: Option<u32>,
    /// The transaction that spends the same.
    pub conflict: Option<Txid>,
    /// Why it was not taken when it was sent last.
    pub reason: Option<String>,
}

impl SpendStanding {
    /// Signed, and nothing else known.
    #[must_use]
    pub const fn signed() -> Self {
        Self {
            state: SpendState::Signed,
            height: None,
            conflict: None,
            reason: None,
        }
    }
}

/// A signal of a singleton beacon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendRow {
    /// The transaction.
    pub txid: Txid,
    /// The DID whose update it announces.
    pub did: String,
    /// The version that update leads to.
    pub target_version: u64,
    /// The beacon's service, as absolute DID URL.
    pub service: String,
    /// The beacon's address.
    pub address: String,
    /// The signed transaction as the network relays it.
    pub raw: Vec<u8>,
    /// What it pays, in sat.
    pub fee: u64,
    /// Where it stands.
    pub standing: SpendStanding,
    /// When it was signed.
    pub created: UnixTime,
}

impl SpendRow {
    /// Its size in virtual bytes; `None` if the stored bytes are no transaction.
    #[must_use]
    pub fn vsize(&self) -> Option<u64> {
        let tx: Transaction = deserialize(&self.raw).ok()?;
        u64::try_from(tx.vsize()).ok()
    }
}

macro_rules! select_spends {
    ($rest:literal) => {
        concat!(
            "SELECT txid, did, target_version, service, address, raw, fee, state, height, conflict,
                    reason, created FROM singleton_spends ",
            $rest
        )
    };
}

impl SpendRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            txid: row.get::<_, Column<Txid>>(0)?.0,
            did: row.get(1)?,
            target_version: row.get::<_, Column<u64>>(2)?.0,
            service: row.get(3)?,
            address: row.get(4)?,
            raw: row.get(5)?,
            fee: row.get::<_, Column<u64>>(6)?.0,
            standing: SpendStanding {
                state: row.get(7)?,
                height: row.get(8)?,
                conflict: row.get::<_, Option<Column<Txid>>>(9)?.map(|txid| txid.0),
                reason: row.get(10)?,
            },
            created: row.get(11)?,
        })
    }
}

impl View<'_> {
    /// One signal.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn spend(&self, txid: Txid) -> Result<Option<SpendRow>, StoreError> {
        self.row(
            select_spends!("WHERE txid = ?1"),
            params![Column(txid)],
            SpendRow::read,
        )
    }

    /// The signals that announce an update: the first one, then what replaced it.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn spends_of(&self, did: &str, target_version: u64) -> Result<Vec<SpendRow>, StoreError> {
        self.rows(
            select_spends!("WHERE did = ?1 AND target_version = ?2 ORDER BY created, fee, txid"),
            params![did, Column(target_version)],
            SpendRow::read,
        )
    }

    /// Every signal the chain has to be asked about, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn open_spends(&self) -> Result<Vec<SpendRow>, StoreError> {
        self.rows(
            select_spends!("WHERE state NOT IN ('final', 'dead') ORDER BY created, fee, txid"),
            [],
            SpendRow::read,
        )
    }
}

impl Tx<'_> {
    /// Stores a signal before it is sent. The same transaction again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if the DID is not stored.
    pub fn insert_spend(&self, row: &SpendRow) -> Result<(), StoreError> {
        let standing = &row.standing;
        self.write(
            "INSERT INTO singleton_spends (txid, did, target_version, service, address, raw, fee,
                                           state, height, conflict, reason, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (txid) DO NOTHING",
            params![
                Column(row.txid),
                row.did,
                Column(row.target_version),
                row.service,
                row.address,
                row.raw,
                Column(row.fee),
                standing.state,
                standing.height,
                standing.conflict.map(Column),
                standing.reason,
                row.created
            ],
        )?;
        Ok(())
    }

    /// Replaces where a signal stands.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if it is not there.
    pub fn set_spend(&self, txid: Txid, standing: &SpendStanding) -> Result<(), StoreError> {
        self.change(
            "UPDATE singleton_spends SET state = ?2, height = ?3, conflict = ?4, reason = ?5
             WHERE txid = ?1",
            params![
                Column(txid),
                standing.state,
                standing.height,
                standing.conflict.map(Column),
                standing.reason
            ],
            || format!("signal {txid}"),
        )
    }
}
