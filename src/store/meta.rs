//! Small facts about the store itself.

use rusqlite::params;

use super::{StoreError, Tx, View};

/// A fact kept in `meta` beside the incarnation. The names are this program's, never a stranger's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaKey(&'static str);

impl MetaKey {
    /// A fact with this name.
    ///
    /// # Panics
    /// At compile time, for `inc`, which only [`Tx::raise_incarnation`] writes.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(
            !matches!(name.as_bytes(), b"inc"),
            "the incarnation has its own functions"
        );
        Self(name)
    }
}

impl View<'_> {
    /// The store's incarnation, the `inc` of every envelope (DESIGN §4): 1 in a new store, raised
    /// when a backup is restored, so that peers start its lanes afresh.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not there.
    pub fn incarnation(&self) -> Result<u64, StoreError> {
        self.row("SELECT value FROM meta WHERE key = 'inc'", [], |row| {
            row.get::<_, String>(0)
        })?
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| StoreError::Damaged {
            detail: "the incarnation is missing".to_owned(),
        })
    }

    /// A fact kept under `key`.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn meta(&self, key: MetaKey) -> Result<Option<String>, StoreError> {
        self.row("SELECT value FROM meta WHERE key = ?1", [key.0], |row| {
            row.get(0)
        })
    }
}

impl Tx<'_> {
    /// Raises the incarnation above its present value and above `seen`, the highest one anybody
    /// reported of this agent (0 if unknown), and returns the new one.
    ///
    /// # Errors
    /// [`StoreError`] if reading or writing fails.
    pub fn raise_incarnation(&self, seen: u64) -> Result<u64, StoreError> {
        let raised = self.incarnation()?.max(seen).saturating_add(1);
        self.write(
            "UPDATE meta SET value = ?1 WHERE key = 'inc'",
            [raised.to_string()],
        )?;
        Ok(raised)
    }

    /// Keeps a fact under `key`, replacing what was there.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn set_meta(&self, key: MetaKey, value: &str) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO meta (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            params![key.0, value],
        )?;
        Ok(())
    }
}
