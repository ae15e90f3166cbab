//! Relays added by hand, and what was seen of all of them.

use crate::nostr::RelayUrl;
use rusqlite::{Row, params};

use super::value::Column;
use super::{StoreError, Tx, View};
use crate::network::Network;
use crate::time::UnixTime;

/// The most bytes kept of a reason a relay gave: it is a stranger's text.
pub const RELAY_REASON_BYTES_MAX: usize = 512;

/// A relay added by hand, in addition to those of `relays.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRow {
    /// Its address. A trailing slash makes no difference.
    pub url: RelayUrl,
    /// Events are asked from it.
    pub read: bool,
    /// Events are sent to it.
    pub write: bool,
    /// The networks it is used for; empty for all.
    pub networks: Vec<Network>,
    /// Who added it (a command, a channel message), as the caller writes it.
    pub source: String,
    /// When.
    pub added: UnixTime,
}

/// The most relays of which something is remembered. Aggregators name relays: their number has to have an end.
pub const RELAYS_REMEMBERED_MAX: u64 = 256;

/// What was seen of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayHealth {
    /// Its address.
    pub url: RelayUrl,
    /// When something last worked.
    pub last_ok: Option<UnixTime>,
    /// When something last failed.
    pub last_failure: Option<UnixTime>,
    /// Failures since something last worked.
    pub failures_in_row: u32,
    /// What the last failure was, in the relay's or our words.
    pub reason: Option<String>,
    /// What was counted and measured, as JSON: the caller's.
    pub detail: String,
}

impl RelayHealth {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            url: row.get::<_, Column<RelayUrl>>(0)?.0,
            last_ok: row.get(1)?,
            last_failure: row.get(2)?,
            failures_in_row: row.get(3)?,
            reason: row.get(4)?,
            detail: row.get(5)?,
        })
    }
}

impl View<'_> {
    /// The relays added by hand, by address.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn relays(&self) -> Result<Vec<RelayRow>, StoreError> {
        self.rows(
            "SELECT url, read, write, networks, source, added FROM relays ORDER BY url",
            [],
            |row| {
                Ok(RelayRow {
                    url: row.get::<_, Column<RelayUrl>>(0)?.0,
                    read: row.get(1)?,
                    write: row.get(2)?,
                    networks: row.get::<_, Column<Vec<Network>>>(3)?.0,
                    source: row.get(4)?,
                    added: row.get(5)?,
                })
            },
        )
    }

    /// What was seen of every relay, by address.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn relay_health(&self) -> Result<Vec<RelayHealth>, StoreError> {
        self.rows(
            "SELECT url, last_ok, last_failure, failures_in_row, reason, detail FROM relay_health
             ORDER BY url",
            [],
            RelayHealth::read,
        )
    }
}

impl Tx<'_> {
    /// Adds a relay, or replaces how it is used.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn put_relay(&self, relay: &RelayRow) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO relays (url, read, write, networks, source, added)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (url) DO UPDATE SET read = excluded.read, write = excluded.write,
                 networks = excluded.networks, source = excluded.source",
            params![
                Column(relay.url.clone()),
                relay.read,
                relay.write,
                Column(relay.networks.clone()),
                relay.source,
                relay.added
            ],
        )?;
        Ok(())
    }

    /// Removes a relay that was added by hand; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn remove_relay(&self, url: &RelayUrl) -> Result<bool, StoreError> {
        self.write(
            "DELETE FROM relays WHERE url = ?1",
            params![Column(url.clone())],
        )
        .map(|removed| removed > 0)
    }

    /// Records that something worked.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn relay_ok(&self, url: &RelayUrl, at: UnixTime) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO relay_health (url, last_ok) VALUES (?1, ?2)
             ON CONFLICT (url) DO UPDATE SET last_ok = excluded.last_ok, failures_in_row = 0",
            params![Column(url.clone()), at],
        )?;
        Ok(())
    }

    /// Records that something failed; of `reason`, [`RELAY_REASON_BYTES_MAX`] bytes are kept.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn relay_failed(
        &self,
        url: &RelayUrl,
        at: UnixTime,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO relay_health (url, last_failure, failures_in_row, reason)
             VALUES (?1, ?2, 1, ?3)
             ON CONFLICT (url) DO UPDATE SET last_failure = excluded.last_failure,
                 failures_in_row = failures_in_row + 1, reason = excluded.reason",
            params![Column(url.clone()), at, cut(reason)],
        )?;
        Ok(())
    }

    /// Records all that is known of a relay; of `reason`, [`RELAY_REASON_BYTES_MAX`] bytes are kept. Where there are
    /// [`RELAYS_REMEMBERED_MAX`] others, that of which nothing was seen for longest is forgotten.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if the detail is not JSON.
    pub fn put_relay_health(&self, health: &RelayHealth) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO relay_health (url, last_ok, last_failure, failures_in_row, reason, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (url) DO UPDATE SET last_ok = excluded.last_ok,
                 last_failure = excluded.last_failure, failures_in_row = excluded.failures_in_row,
                 reason = excluded.reason, detail = excluded.detail",
            params![
                Column(health.url.clone()),
                health.last_ok,
                health.last_failure,
                health.failures_in_row,
                health.reason.as_deref().map(cut),
                health.detail
            ],
        )?;
        self.write(
            "DELETE FROM relay_health WHERE url IN (
                 SELECT url FROM relay_health WHERE url <> ?1 AND url NOT IN (SELECT url FROM relays)
                 ORDER BY max(coalesce(last_ok, 0), coalesce(last_failure, 0)) DESC, url
                 LIMIT -1 OFFSET ?2)",
            params![Column(health.url.clone()), Column(RELAYS_REMEMBERED_MAX - 1)],
        )?;
        Ok(())
    }

    /// Records what a probe of a relay found, as JSON.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if `detail` is not JSON.
    pub fn set_relay_detail(&self, url: &RelayUrl, detail: &str) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO relay_health (url, detail) VALUES (?1, ?2)
             ON CONFLICT (url) DO UPDATE SET detail = excluded.detail",
            params![Column(url.clone()), detail],
        )?;
        Ok(())
    }

    /// Forgets relays of which nothing was seen since `before` and that were not added by hand.
    /// Returns how many.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn prune_relay_health(&self, before: UnixTime) -> Result<usize, StoreError> {
        self.write(
            "DELETE FROM relay_health
             WHERE max(coalesce(last_ok, 0), coalesce(last_failure, 0)) < ?1
               AND url NOT IN (SELECT url FROM relays)",
            params![before],
        )
    }
}

/// The longest start of `reason` within the limit that does not cut a character.
fn cut(reason: &str) -> &str {
    let mut end = RELAY_REASON_BYTES_MAX;
    loop {
        match reason.get(..end.min(reason.len())) {
            Some(start) => return start,
            None => end -= 1,
        }
    }
}
