//! Adverts seen, aggregators followed, and who subscribed to ours.

use crate::nostr::{EventId, RelayUrl};
use rusqlite::{Row, params};

use super::value::Column;
use super::{StoreError, Tx, View};
use crate::hash::CohortId;
use crate::keys::public::NostrKey;
use crate::network::Network;
use crate::time::UnixTime;

/// The most adverts kept. With [`ADVERT_BYTES_MAX`] this bounds the table to a few hundred MB in
/// the worst case; honest adverts take two or three KB each.
pub const ADVERTS_MAX: u64 = 10_000;

/// The most adverts kept of one author who is not followed, so that one key can not push out
/// everybody else's.
pub const ADVERTS_PER_AUTHOR_MAX: u64 = 200;

/// The largest advert event kept, in bytes of JSON.
pub const ADVERT_BYTES_MAX: usize = 16_384;

/// The most relays remembered per advert.
const ADVERT_RELAYS_MAX: usize = 16;

/// An advert that was checked: author, `d` tag, canonical content and network agree (DESIGN §4).
#[derive(Debug, Clone)]
pub struct NewAdvert<'a> {
    /// The cohort.
    pub cohort: CohortId,
    /// The aggregator.
    pub author: NostrKey,
    /// The event's id.
    pub event_id: EventId,
    /// The signed event as JSON.
    pub event: &'a str,
    /// Its content, the canonical terms.
    pub content: &'a str,
    /// The network of the terms.
    pub network: Network,
    /// The status it announces.
    pub status: &'a str,
    /// When it was signed, as it says.
    pub created_at: UnixTime,
    /// When it stops counting.
    pub expires: UnixTime,
    /// Where it was seen.
    pub relay: Option<&'a RelayUrl>,
    /// When it was seen.
    pub seen: UnixTime,
}

/// A stored advert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertRow {
    /// The cohort.
    pub cohort: CohortId,
    /// The aggregator.
    pub author: NostrKey,
    /// The event's id.
    pub event_id: EventId,
    /// The signed event as JSON.
    pub event: String,
    /// Its content, the canonical terms.
    pub content: String,
    /// The network of the terms.
    pub network: Network,
    /// The status it announces.
    pub status: String,
    /// When it was signed, as it says.
    pub created_at: UnixTime,
    /// When it stops counting.
    pub expires: UnixTime,
    /// Where it was seen.
    pub relays: Vec<RelayUrl>,
    /// When an advert of this cohort was first seen.
    pub first_seen: UnixTime,
}

/// What became of an advert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvertPut {
    /// The first one of its cohort.
    New,
    /// It replaced an older one.
    Newer,
    /// It was there; the relay was added where new.
    Same,
    /// A newer one is there, or the event is of another author than the first: nothing changed.
    Older,
}

/// An aggregator whose adverts are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// Its identity.
    pub key: NostrKey,
    /// Relays to look at, beside our own.
    pub relays: Vec<RelayUrl>,
    /// Since when.
    pub since: UnixTime,
}

/// Somebody who asked this aggregator to be told of new cohorts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscriber {
    /// The key to tell.
    pub key: NostrKey,
    /// Since when.
    pub since: UnixTime,
}

macro_rules! select_adverts {
    ($rest:literal) => {
        concat!(
            "SELECT cohort, author, event_id, event, content, network, status, created_at, expires,
                    relays, first_seen FROM adverts ",
            $rest
        )
    };
}

impl AdvertRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            cohort: row.get(0)?,
            author: row.get(1)?,
            event_id: row.get::<_, Column<EventId>>(2)?.0,
            event: row.get(3)?,
            content: row.get(4)?,
            network: row.get(5)?,
            status: row.get(6)?,
            created_at: row.get(7)?,
            expires: row.get(8)?,
            relays: row.get::<_, Column<Vec<RelayUrl>>>(9)?.0,
            first_seen: row.get(10)?,
        })
    }
}

impl View<'_> {
    /// The advert of a cohort, expired or not.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn advert(&self, cohort: CohortId) -> Result<Option<AdvertRow>, StoreError> {
        self.row(
            select_adverts!("WHERE cohort = ?1"),
            params![cohort],
            AdvertRow::read,
        )
    }

    /// The adverts of a network that have not expired at `now`, newest first.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn adverts(&self, network: Network, now: UnixTime) -> Result<Vec<AdvertRow>, StoreError> {
        self.rows(
            select_adverts!(
                "WHERE network = ?1 AND expires >= ?2 ORDER BY created_at DESC, cohort"
            ),
            params![network, now],
            AdvertRow::read,
        )
    }

    /// The aggregators followed.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn follows(&self) -> Result<Vec<Follow>, StoreError> {
        self.rows(
            "SELECT key, relays, since FROM follows ORDER BY since, key",
            [],
            |row| {
                Ok(Follow {
                    key: row.get(0)?,
                    relays: row.get::<_, Column<Vec<RelayUrl>>>(1)?.0,
                    since: row.get(2)?,
                })
            },
        )
    }

    /// Who subscribed to this aggregator's adverts.
    ///
    /// # Errors
    /// [`StoreError`] if reading fails.
    pub fn subscribers(&self) -> Result<Vec<Subscriber>, StoreError> {
        self.rows(
            "SELECT key, since FROM subscribers ORDER BY since, key",
            [],
            |row| {
                Ok(Subscriber {
                    key: row.get(0)?,
                    since: row.get(1)?,
                })
            },
        )
    }
}

impl Tx<'_> {
    /// Stores an advert if it is the newest of its cohort: the later `created_at`, and for equal
    /// ones the lower event id (NIP-01). Makes room within [`ADVERTS_PER_AUTHOR_MAX`] and
    /// [`ADVERTS_MAX`] first.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] for an event above [`ADVERT_BYTES_MAX`].
    pub fn put_advert(&self, new: &NewAdvert<'_>) -> Result<AdvertPut, StoreError> {
        if new.event.len() > ADVERT_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "the advert",
                bytes: new.event.len(),
                max: ADVERT_BYTES_MAX,
            });
        }
        let there = self.advert(new.cohort)?;
        let put = match &there {
            None => AdvertPut::New,
            Some(row) if row.author != new.author => return Ok(AdvertPut::Older),
            Some(row) if row.event_id == new.event_id => AdvertPut::Same,
            Some(row) if supersedes(new, row) => AdvertPut::Newer,
            Some(_) => return Ok(AdvertPut::Older),
        };
        let mut relays = there.map_or_else(Vec::new, |row| row.relays);
        if let Some(relay) = new.relay
            && relays.len() < ADVERT_RELAYS_MAX
            && !relays.contains(relay)
        {
            relays.push(relay.clone());
        }
        if put == AdvertPut::New {
            self.make_room_for_advert(new, ADVERTS_PER_AUTHOR_MAX, ADVERTS_MAX)?;
        }
        self.write(
            "INSERT INTO adverts (cohort, author, event_id, event, content, network, status,
                                  created_at, expires, relays, first_seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (cohort) DO UPDATE SET event_id = excluded.event_id,
                 event = excluded.event, status = excluded.status,
                 created_at = excluded.created_at, expires = excluded.expires,
                 relays = excluded.relays",
            params![
                new.cohort,
                new.author,
                Column(new.event_id),
                new.event,
                new.content,
                new.network,
                new.status,
                new.created_at,
                new.expires,
                Column(relays),
                new.seen
            ],
        )?;
        Ok(put)
    }

    /// Deletes as many adverts as needed for one more: of the author first, then of all. Expired
    /// ones go first, then the longest known. What a person took part in or follows stays.
    fn make_room_for_advert(
        &self,
        new: &NewAdvert<'_>,
        per_author: u64,
        total: u64,
    ) -> Result<(), StoreError> {
        self.write(
            "DELETE FROM adverts WHERE cohort IN (
                 SELECT cohort FROM adverts WHERE author = ?1
                     AND author NOT IN (SELECT key FROM follows)
                     AND cohort NOT IN (SELECT cohort FROM cohorts)
                 ORDER BY expires < ?2, first_seen DESC, cohort LIMIT -1 OFFSET ?3)",
            params![new.author, new.seen, Column(per_author.saturating_sub(1))],
        )?;
        let count = self
            .row("SELECT count(*) FROM adverts", [], |row| {
                row.get::<_, Column<u64>>(0)
            })?
            .map_or(0, |count| count.0);
        let excess = (count + 1).saturating_sub(total);
        if excess > 0 {
            self.write(
                "DELETE FROM adverts WHERE cohort IN (
                     SELECT cohort FROM adverts WHERE author NOT IN (SELECT key FROM follows)
                         AND cohort NOT IN (SELECT cohort FROM cohorts)
                     ORDER BY expires >= ?1, first_seen, cohort LIMIT ?2)",
                params![new.seen, Column(excess)],
            )?;
        }
        Ok(())
    }

    /// Deletes the adverts that expired before `now`, except of cohorts this agent has a part in.
    /// Returns how many.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn prune_adverts(&self, now: UnixTime) -> Result<usize, StoreError> {
        self.write(
            "DELETE FROM adverts WHERE expires < ?1
                 AND cohort NOT IN (SELECT cohort FROM cohorts)",
            params![now],
        )
    }

    /// Follows an aggregator, or replaces the relays to look at.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn follow(&self, follow: &Follow) -> Result<(), StoreError> {
        self.write(
            "INSERT INTO follows (key, relays, since) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET relays = excluded.relays",
            params![follow.key, Column(follow.relays.clone()), follow.since],
        )?;
        Ok(())
    }

    /// Stops following; says whether the aggregator was followed.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn unfollow(&self, key: NostrKey) -> Result<bool, StoreError> {
        self.write("DELETE FROM follows WHERE key = ?1", params![key])
            .map(|removed| removed > 0)
    }

    /// Adds a subscriber, or moves on the time at which it said so; says whether something changed. `max` bounds the
    /// table: above it nobody is added.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn subscribe(&self, subscriber: Subscriber, max: u64) -> Result<bool, StoreError> {
        self.write(
            "INSERT INTO subscribers (key, since) SELECT ?1, ?2
             WHERE (SELECT count(*) FROM subscribers) < ?3
                 OR EXISTS (SELECT 1 FROM subscribers WHERE key = ?1)
             ON CONFLICT (key) DO UPDATE SET since = excluded.since WHERE since < excluded.since",
            params![subscriber.key, subscriber.since, Column(max)],
        )
        .map(|added| added > 0)
    }

    /// Removes a subscriber that has said nothing else since `said`; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`] if writing fails.
    pub fn unsubscribe(&self, key: NostrKey, said: UnixTime) -> Result<bool, StoreError> {
        self.write(
            "DELETE FROM subscribers WHERE key = ?1 AND since <= ?2",
            params![key, said],
        )
        .map(|removed| removed > 0)
    }
}

fn supersedes(new: &NewAdvert<'_>, old: &AdvertRow) -> bool {
    let lower_id = new.event_id.as_bytes() < old.event_id.as_bytes();
    new.created_at > old.created_at || (new.created_at == old.created_at && lower_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::sha256;
    use crate::store::Store;

    #[test]
    fn a_full_table_makes_room_expired_first_then_longest_known_never_the_followed() {
        let mut store = Store::open_in_memory().unwrap();
        let now = UnixTime(1_000);
        let key = |n: u8| {
            let secret = secp256k1::SecretKey::from_slice(&[n; 32]).unwrap();
            NostrKey::new(secret.x_only_public_key(secp256k1::SECP256K1).0)
        };
        let advert = |n: u8| NewAdvert {
            cohort: CohortId::from_bytes(sha256(&[n])),
            author: key(n),
            event_id: EventId::from_bytes([n; 32]),
            event: "{}",
            content: "{}",
            network: Network::Signet,
            status: "open",
            created_at: now,
            // Number 4 has expired when room is made.
            expires: if n == 4 { now } else { now.plus(1_000) },
            relay: None,
            seen: now.plus(u64::from(n)),
        };
        store
            .transaction(|tx| {
                tx.follow(&Follow {
                    key: key(1),
                    relays: vec![],
                    since: now,
                })?;
                for n in 1..=5 {
                    tx.put_advert(&advert(n))?;
                }
                let left = |total| {
                    tx.make_room_for_advert(&advert(9), 200, total)?;
                    let rows = tx.adverts(Network::Signet, UnixTime(0))?;
                    let mut left: Vec<_> =
                        rows.iter().map(|row| row.event_id.as_bytes()[0]).collect();
                    left.sort_unstable();
                    Ok::<_, StoreError>(left)
                };
                assert_eq!(left(6)?, [1, 2, 3, 4, 5]);
                assert_eq!(left(5)?, [1, 2, 3, 5]);
                assert_eq!(left(3)?, [1, 5]);
                assert_eq!(left(1)?, [1]);
                Ok::<_, StoreError>(())
            })
            .unwrap();
    }
}
