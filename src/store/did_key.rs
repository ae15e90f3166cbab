//! Keys of DIDs, by their numbers, and documents adopted from a resolution.

use rusqlite::{Row, params};

use super::value::Column;
use super::{StoreError, Tx, View};
use crate::time::UnixTime;

/// A key of a DID. The key itself is derived from its number when it is needed, and never stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DidKeyRow {
    /// The DID.
    pub did: String,
    /// Its number in the derivation of DID keys.
    pub key_index: u32,
    /// What it was made for, a verification method or a beacon, as absolute DID URL.
    pub name: String,
    /// When it was made.
    pub created: UnixTime,
}

/// A document that a resolution showed and the stored updates do not lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptedRow {
    /// The DID.
    pub did: String,
    /// The version it was resolved to.
    pub version: u64,
    /// The document, in its canonical form.
    pub document: String,
    /// When.
    pub adopted: UnixTime,
}

impl View<'_> {
    /// The keys of a DID, oldest number first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn did_keys(&self, did: &str) -> Result<Vec<DidKeyRow>, StoreError> {
        self.rows(
            "SELECT did, key_index, name, created FROM did_keys WHERE did = ?1 ORDER BY key_index",
            [did],
            |row: &Row<'_>| {
                Ok(DidKeyRow {
                    did: row.get(0)?,
                    key_index: row.get(1)?,
                    name: row.get(2)?,
                    created: row.get(3)?,
                })
            },
        )
    }

    /// The number of the next DID key that nothing stored uses.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn next_key_index(&self) -> Result<u32, StoreError> {
        self.row(
            "SELECT coalesce(max(used) + 1, 0) FROM
                 (SELECT max(key_index) AS used FROM dids
                  UNION ALL SELECT max(key_index) FROM did_keys)",
            [],
            |row| row.get(0),
        )
        .map(|next| next.unwrap_or(0))
    }

    /// What was adopted for a DID last.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn adopted(&self, did: &str) -> Result<Option<AdoptedRow>, StoreError> {
        self.row(
            "SELECT did, version, document, adopted FROM did_adopted WHERE did = ?1",
            [did],
            |row| {
                Ok(AdoptedRow {
                    did: row.get(0)?,
                    version: row.get::<_, Column<u64>>(1)?.0,
                    document: row.get(2)?,
                    adopted: row.get(3)?,
                })
            },
        )
    }
}

impl Tx<'_> {
    /// Stores the number of a key. One that is there stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if the DID is not stored.
    pub fn put_did_key(&self, key: &DidKeyRow) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO did_keys (did, key_index, name, created) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (did, key_index) DO NOTHING",
            params![key.did, key.key_index, key.name, key.created],
        )?;
        Ok(())
    }

    /// Stores what a resolution showed, in the place of what it showed before.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if the DID is not stored.
    pub fn adopt(&self, row: &AdoptedRow) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO did_adopted (did, version, document, adopted) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (did) DO UPDATE SET version = excluded.version,
                 document = excluded.document, adopted = excluded.adopted",
            params![row.did, Column(row.version), row.document, row.adopted],
        )?;
        Ok(())
    }
}
