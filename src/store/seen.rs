//! Ids of events that were handled, so that the same event from a second relay is not handled again.

use crate::nostr::EventId;
use rusqlite::params;

use super::value::Column;
use super::{StoreError, Tx, View};
use crate::time::UnixTime;

/// The most ids kept. An id takes about 100 bytes of disk, so this is about 20 MB.
///
/// Forgetting one is harmless: lanes have sequence numbers of their own. A stranger who sends more
/// than this costs us a second look at old events, not correctness.
pub const SEEN_EVENTS_MAX: u64 = 200_000;

/// Insertions between two looks at the bound.
const PRUNE_EVERY: i64 = 4_096;

impl View<'_> {
    /// Whether an event was marked as seen and is not forgotten yet.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn seen(&self, event_id: EventId) -> Result<bool, StoreError> {
        self.row(
            "SELECT 1 FROM seen_events WHERE event_id = ?1",
            params![Column(event_id)],
            |_| Ok(()),
        )
        .map(|found| found.is_some())
    }
}

impl Tx<'_> {
    /// Marks an event as seen until `expires`; says whether it is new. Call it after the signature
    /// was checked, else a stranger can make us ignore an event he only knows the id of.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn mark_seen(&self, event_id: EventId, expires: UnixTime) -> Result<bool, StoreError> {
        let inserted = self.write(
            "INSERT INTO seen_events (event_id, expires) VALUES (?1, ?2)
             ON CONFLICT (event_id) DO NOTHING",
            params![Column(event_id), expires],
        )?;
        if inserted > 0 && self.conn.last_insert_rowid() % PRUNE_EVERY == 0 {
            self.keep_newest_seen(SEEN_EVENTS_MAX)?;
        }
        Ok(inserted > 0)
    }

    /// Forgets the events that expired before `now`, and the oldest above [`SEEN_EVENTS_MAX`].
    /// Returns how many.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn prune_seen(&self, now: UnixTime) -> Result<usize, StoreError> {
        let expired = self.write("DELETE FROM seen_events WHERE expires < ?1", params![now])?;
        Ok(expired + self.keep_newest_seen(SEEN_EVENTS_MAX)?)
    }

    fn keep_newest_seen(&self, max: u64) -> Result<usize, StoreError> {
        self.write(
            "DELETE FROM seen_events WHERE id <=
                 (SELECT id FROM seen_events ORDER BY id DESC LIMIT 1 OFFSET ?1)",
            [Column(max)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn id(n: u32) -> EventId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        EventId::from_bytes(bytes)
    }

    #[test]
    fn the_oldest_ids_go_first() {
        let mut store = Store::open_in_memory().unwrap();
        store
            .transaction(|tx| {
                for n in 0..10 {
                    assert!(tx.mark_seen(id(n), UnixTime(100))?);
                    assert!(!tx.mark_seen(id(n), UnixTime(200))?);
                }
                assert_eq!(tx.keep_newest_seen(4)?, 6);
                assert_eq!(tx.keep_newest_seen(4)?, 0);
                assert!(!tx.seen(id(5))?);
                assert!(tx.seen(id(6))?);
                assert_eq!(tx.prune_seen(UnixTime(100))?, 0);
                assert_eq!(tx.prune_seen(UnixTime(101))?, 4);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
