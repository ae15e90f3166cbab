//! The outbox: signed events on their way, and the state of the lanes they belong to.
//!
//! A row is stored in the transaction of the state change that causes it, before the first send;
//! the same bytes are sent again until the message is delivered (DESIGN §4, "Delivery").

use crate::nostr::EventId;
use rusqlite::{Row, params};

use super::value::Column;
use super::{StoreError, Tx, View};
use crate::hash::CohortId;
use crate::keys::public::NostrKey;
use crate::time::UnixTime;

/// A lane: what one author says to one recipient (a seat, the aggregator or the channel key) in one
/// cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// Who signs.
    pub author: NostrKey,
    /// Whom it is encrypted to.
    pub recipient: NostrKey,
    /// The cohort.
    pub cohort: CohortId,
}

/// An event to send.
#[derive(Debug, Clone, Copy)]
pub struct NewOutboxRow<'a> {
    /// The event's id.
    pub event_id: EventId,
    /// The signed event as JSON, sent byte for byte.
    pub event: &'a str,
    /// The cohort it is about, if any.
    pub cohort: Option<CohortId>,
    /// Lane and sequence number of a directed or channel message; none for an advert.
    pub lane: Option<(Lane, u64)>,
    /// The type of message, which is not readable in the event.
    pub kind: &'a str,
    /// When it was signed.
    pub created: UnixTime,
    /// When relays may drop it.
    pub expires: UnixTime,
    /// The state of delivery (per relay, of the peer) as JSON.
    pub state: &'a str,
}

/// An event on its way, or delivered, or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// The event's id.
    pub event_id: EventId,
    /// The signed event as JSON.
    pub event: String,
    /// The cohort it is about.
    pub cohort: Option<CohortId>,
    /// Lane and sequence number.
    pub lane: Option<(Lane, u64)>,
    /// The type of message.
    pub kind: String,
    /// When it was signed.
    pub created: UnixTime,
    /// When relays may drop it.
    pub expires: UnixTime,
    /// The state of delivery as JSON.
    pub state: String,
    /// Nothing is left to do for it.
    pub done: bool,
}

macro_rules! select_outbox {
    ($rest:literal) => {
        concat!(
            "SELECT event_id, event, cohort, lane_author, lane_recipient, seq, type, created,
                    expires, state, done FROM outbox ",
            $rest
        )
    };
}

impl OutboxRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let cohort: Option<CohortId> = row.get(2)?;
        let author: Option<NostrKey> = row.get(3)?;
        let recipient: Option<NostrKey> = row.get(4)?;
        let seq: Option<Column<u64>> = row.get(5)?;
        let lane = match (cohort, author, recipient, seq) {
            (Some(cohort), Some(author), Some(recipient), Some(seq)) => Some((
                Lane {
                    author,
                    recipient,
                    cohort,
                },
                seq.0,
            )),
            _ => None,
        };
        Ok(Self {
            event_id: row.get::<_, Column<EventId>>(0)?.0,
            event: row.get(1)?,
            cohort,
            lane,
            kind: row.get(6)?,
            created: row.get(7)?,
            expires: row.get(8)?,
            state: row.get(9)?,
            done: row.get(10)?,
        })
    }
}

/// The stored state of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneRow {
    /// The lane.
    pub lane: Lane,
    /// Sequence numbers, acknowledgements and the peer's incarnation, as JSON.
    pub state: String,
}

impl View<'_> {
    /// The events for which something is left to do, in the order they were stored.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn outbox_pending(&self) -> Result<Vec<OutboxRow>, StoreError> {
        self.rows(
            select_outbox!("WHERE done = 0 ORDER BY id"),
            [],
            OutboxRow::read,
        )
    }

    /// Every event of a cohort, delivered ones too, in the order they were stored.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn outbox_of(&self, cohort: CohortId) -> Result<Vec<OutboxRow>, StoreError> {
        self.rows(
            select_outbox!("WHERE cohort = ?1 ORDER BY id"),
            params![cohort],
            OutboxRow::read,
        )
    }

    /// The events signed at `since` or later, in the order they were stored.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn outbox_since(&self, since: UnixTime) -> Result<Vec<OutboxRow>, StoreError> {
        self.rows(
            select_outbox!("WHERE created >= ?1 ORDER BY id"),
            params![since],
            OutboxRow::read,
        )
    }

    /// One event.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn outbox_event(&self, event_id: EventId) -> Result<Option<OutboxRow>, StoreError> {
        self.row(
            select_outbox!("WHERE event_id = ?1"),
            params![Column(event_id)],
            OutboxRow::read,
        )
    }

    /// The events under a number of a lane: a message, each time it was signed. A number may have been given out in
    /// several incarnations of the store.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn outbox_numbered(&self, lane: Lane, seq: u64) -> Result<Vec<OutboxRow>, StoreError> {
        self.rows(
            select_outbox!(
                "WHERE cohort = ?1 AND lane_author = ?2 AND lane_recipient = ?3 AND seq = ?4 ORDER BY id"
            ),
            params![lane.cohort, lane.author, lane.recipient, Column(seq)],
            OutboxRow::read,
        )
    }

    /// The state of a lane, as JSON.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn lane(&self, lane: Lane) -> Result<Option<String>, StoreError> {
        self.row(
            "SELECT state FROM lanes WHERE author = ?1 AND recipient = ?2 AND cohort = ?3",
            params![lane.author, lane.recipient, lane.cohort],
            |row| row.get(0),
        )
    }

    /// The lanes of a cohort.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn lanes_of(&self, cohort: CohortId) -> Result<Vec<LaneRow>, StoreError> {
        self.rows(
            "SELECT author, recipient, cohort, state FROM lanes WHERE cohort = ?1
             ORDER BY author, recipient",
            params![cohort],
            |row| {
                Ok(LaneRow {
                    lane: Lane {
                        author: row.get(0)?,
                        recipient: row.get(1)?,
                        cohort: row.get(2)?,
                    },
                    state: row.get(3)?,
                })
            },
        )
    }
}

impl Tx<'_> {
    /// Stores an event to send. The same event again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::OutboxConflict`] if another undone event has the lane's sequence number: two
    /// messages under one number would be one message to the peer. See [`Tx::replace_outbox`].
    pub fn insert_outbox(&self, new: &NewOutboxRow<'_>) -> Result<(), StoreError> {
        let (lane, seq) = (new.lane.map(|(lane, _)| lane), new.lane.map(|(_, seq)| seq));
        let inserted = self.write(
            "INSERT INTO outbox (event_id, event, cohort, lane_author, lane_recipient, seq, type,
                                 created, expires, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
            params![
                Column(new.event_id),
                new.event,
                lane.map(|lane| lane.cohort).or(new.cohort),
                lane.map(|lane| lane.author),
                lane.map(|lane| lane.recipient),
                seq.map(Column),
                new.kind,
                new.created,
                new.expires,
                new.state
            ],
        )?;
        if inserted == 0 && self.outbox_event(new.event_id)?.is_none() {
            return Err(StoreError::OutboxConflict {
                seq: seq.unwrap_or(0),
            });
        }
        Ok(())
    }

    /// Replaces an event by the same message signed again with a fresh date: the old row is done.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if `old` is not there; otherwise as [`Tx::insert_outbox`].
    pub fn replace_outbox(&self, old: EventId, new: &NewOutboxRow<'_>) -> Result<(), StoreError> {
        self.change(
            "UPDATE outbox SET done = 1 WHERE event_id = ?1",
            params![Column(old)],
            || format!("event {old} in the outbox"),
        )?;
        self.insert_outbox(new)
    }

    /// Replaces the state of delivery of an event.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the event is not there.
    pub fn set_outbox_state(
        &self,
        event_id: EventId,
        state: &str,
        done: bool,
    ) -> Result<(), StoreError> {
        self.change(
            "UPDATE outbox SET state = ?2, done = ?3 WHERE event_id = ?1",
            params![Column(event_id), state, done],
            || format!("event {event_id} in the outbox"),
        )
    }

    /// Deletes rows that are done and whose events relays have dropped at `now`. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn prune_outbox(&self, now: UnixTime) -> Result<usize, StoreError> {
        self.write(
            "DELETE FROM outbox WHERE done = 1 AND expires < ?1",
            params![now],
        )
    }

    /// Replaces the state of a lane.
    ///
    /// # Errors
    /// [`StoreError::Rule`] if the state is not JSON.
    pub fn set_lane(&self, lane: Lane, state: &str) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO lanes (author, recipient, cohort, state) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (author, recipient, cohort) DO UPDATE SET state = excluded.state",
            params![lane.author, lane.recipient, lane.cohort, state],
        )?;
        Ok(())
    }
}
