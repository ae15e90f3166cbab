//! What relays did, remembered over restarts: how often they took what they were sent, when they last worked, how
//! long they take to answer.
//!
//! It is counted in memory and written a minute later, in bundles: nothing depends on it but what people are shown and
//! what is offered to a relay before it has said again what it takes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::runtime::Agent;
use crate::nostr::information::RelayLimits;
use crate::nostr::link::PublishOutcome;
use crate::nostr::outbox::OutboxInput;
use crate::nostr::{EventId, RelayUrl};
use crate::store::{RELAYS_REMEMBERED_MAX, RelayHealth, Store, StoreError, Tx};
use crate::time::UnixTime;

/// Seconds between two writings.
const WRITE_DELAY: u64 = 60;

/// Seconds after which a relay of which nothing was seen is forgotten, with what a probe left there.
const FORGET_AFTER: u64 = 90 * 86_400;

/// What was counted and measured of a relay: [`RelayHealth::detail`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayDetail {
    /// The event that a probe left there, and when.
    pub left: Option<(EventId, UnixTime)>,
    /// Since when it is counted.
    pub since: Option<UnixTime>,
    /// Events it took.
    pub accepted: u64,
    /// Events it refused.
    pub refused: u64,
    /// Events it did not answer.
    pub silent: u64,
    /// Events it served.
    pub received: u64,
    /// Milliseconds it takes to answer an event, averaged over the last ones.
    pub answer_ms: Option<u64>,
    /// Seconds by which its clock was ahead when it was asked last; behind if negative.
    pub clock_ahead_s: Option<i64>,
    /// What it said last that it takes.
    pub limits: Option<RelayLimits>,
    /// Why it refused an event last.
    pub words: Option<String>,
}

/// The most characters kept of a relay's words.
const MAX_WORDS: usize = 200;

/// What is known of one relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayRecord {
    row: RelayHealth,
    /// What was counted and measured.
    pub detail: RelayDetail,
}

impl RelayRecord {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(url: RelayUrl) -> Self {
        Self {
            row: RelayHealth {
                url,
                last_ok: None,
                last_failure: None,
                failures_in_row: 0,
                reason: None,
                detail: String::new(),
            },
            detail: RelayDetail::default(),
        }
    }

    /// What the store has. Of a detail that does not read nothing is taken: it is for people.
    fn stored(row: RelayHealth) -> Self {
        Self {
            detail: serde_json::from_str(&row.detail).unwrap_or_default(),
            row,
        }
    }

    /// The relay.
    #[must_use]
    pub const fn url(&self) -> &RelayUrl {
        &self.row.url
    }

    /// When something last worked, when something last failed, how often since something worked, and why.
    #[must_use]
    pub const fn row(&self) -> &RelayHealth {
        &self.row
    }

    fn put(&self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let row = RelayHealth {
            detail: serde_json::to_string(&self.detail).unwrap_or_else(|_| "{}".to_owned()),
            ..self.row.clone()
        };
        tx.put_relay_health(&row)
    }

    /// When something was last seen of it.
    fn seen(&self) -> UnixTime {
        self.row
            .last_ok
            .max(self.row.last_failure)
            .unwrap_or_default()
    }

    /// Something worked.
    pub fn worked(&mut self, now: UnixTime) {
        self.row.last_ok = Some(now);
        self.row.failures_in_row = 0;
    }

    /// Something failed.
    pub fn failed(&mut self, now: UnixTime, reason: &str) {
        self.row.last_failure = Some(now);
        self.row.failures_in_row = self.row.failures_in_row.saturating_add(1);
        self.row.reason = Some(reason.chars().take(MAX_WORDS).collect());
    }

    fn answered(&mut self, now: UnixTime, outcome: &PublishOutcome) {
        let detail = &mut self.detail;
        match outcome {
            PublishOutcome::Accepted => {
                detail.accepted = detail.accepted.saturating_add(1);
                self.worked(now);
            }
            // It is there, and answers.
            PublishOutcome::Refused(words) => {
                detail.refused = detail.refused.saturating_add(1);
                detail.words = Some(words.chars().take(MAX_WORDS).collect());
                self.worked(now);
            }
            PublishOutcome::Silent => {
                detail.silent = detail.silent.saturating_add(1);
                self.failed(now, "it did not answer");
            }
        }
    }
}

/// What is known of relays.
#[derive(Debug, Default)]
pub(super) struct RelayLedger {
    records: BTreeMap<RelayUrl, RelayRecord>,
    changed: BTreeSet<RelayUrl>,
    /// Those that are connected.
    up: BTreeSet<RelayUrl>,
    /// What each connection had served when it was counted.
    counted: BTreeMap<RelayUrl, u64>,
    write_at: Option<UnixTime>,
}

impl RelayLedger {
    /// Reads what was known before.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let rows = store.view().relay_health()?.into_iter();
        let records = rows.map(|row| (row.url.clone(), RelayRecord::stored(row)));
        Ok(Self {
            records: records.collect(),
            ..Self::default()
        })
    }

    /// What relays said they take, for an outbox that has not asked them yet.
    pub(super) fn limits(&self) -> impl Iterator<Item = OutboxInput> + '_ {
        let records = self.records.iter();
        records.filter_map(|(url, record)| {
            Some(OutboxInput::Limits(url.clone(), record.detail.limits?))
        })
    }

    pub(super) fn records(&self) -> Vec<RelayRecord> {
        self.records.values().cloned().collect()
    }

    pub(super) fn of(&self, url: &RelayUrl) -> Option<&RelayRecord> {
        self.records.get(url)
    }

    /// The record of a relay, to be changed. That of which nothing was seen for longest makes room.
    pub(super) fn change(&mut self, url: &RelayUrl, now: UnixTime) -> &mut RelayRecord {
        let most = usize::try_from(RELAYS_REMEMBERED_MAX).unwrap_or(usize::MAX);
        if !self.records.contains_key(url) && self.records.len() >= most {
            let oldest = self.records.values().min_by_key(|record| record.seen());
            if let Some(url) = oldest.map(|record| record.url().clone()) {
                self.records.remove(&url);
                self.changed.remove(&url);
                self.counted.remove(&url);
            }
        }
        self.changed.insert(url.clone());
        self.write_at.get_or_insert(now.plus(WRITE_DELAY));
        let new = || RelayRecord::new(url.clone());
        let record = self.records.entry(url.clone()).or_insert_with(new);
        record.detail.since.get_or_insert(now);
        record
    }
}

impl Agent {
    pub(super) fn relay_up(&mut self, relay: &RelayUrl) {
        let now = self.now();
        self.relays_known.up.insert(relay.clone());
        self.relays_known.change(relay, now).worked(now);
    }

    pub(super) fn relay_down(&mut self, relay: &RelayUrl, reason: &str) {
        let now = self.now();
        self.relays_known.up.remove(relay);
        self.relays_known.change(relay, now).failed(now, reason);
    }

    pub(super) fn relay_answered(&mut self, relay: &RelayUrl, outcome: &PublishOutcome) {
        let now = self.now();
        // Who is not connected was not asked.
        if self.relays_known.up.contains(relay) {
            self.relays_known.change(relay, now).answered(now, outcome);
        }
    }

    /// Takes over what the connections have counted by themselves.
    pub(super) fn count_relays(&mut self) {
        let now = self.now();
        for state in self.link.relays() {
            let ledger = &mut self.relays_known;
            let before = ledger.counted.get(&state.url).copied().unwrap_or(0);
            // A connection that was made anew counts anew.
            let more = match state.received.checked_sub(before) {
                Some(more) => more,
                None => state.received,
            };
            let answer_ms = state
                .latency
                .map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
            let known = ledger.of(&state.url);
            let known = known.and_then(|record| record.detail.answer_ms);
            if more == 0 && (answer_ms.is_none() || answer_ms == known) {
                continue;
            }
            ledger.counted.insert(state.url.clone(), state.received);
            let up = ledger.up.contains(&state.url);
            let record = ledger.change(&state.url, now);
            record.detail.received = record.detail.received.saturating_add(more);
            record.detail.answer_ms = answer_ms.or(known);
            // What came before a connection ended may be counted after that.
            if more > 0 && up {
                record.worked(now);
            }
        }
    }

    /// Writes what has waited long enough.
    pub(super) fn write_relay_health_due(&mut self, now: UnixTime) -> Result<(), AgentError> {
        match self.relays_known.write_at {
            Some(at) if at <= now => self.write_relay_health(),
            _ => Ok(()),
        }
    }

    /// Writes what has changed, and forgets what is old.
    pub(super) fn write_relay_health(&mut self) -> Result<(), AgentError> {
        self.count_relays();
        let now = self.now();
        let Self {
            relays_known,
            store,
            ..
        } = self;
        relays_known.write_at = None;
        let changed = std::mem::take(&mut relays_known.changed);
        if changed.is_empty() {
            return Ok(());
        }
        store.transaction::<_, AgentError>(|tx| {
            for record in changed.iter().filter_map(|url| relays_known.of(url)) {
                record.put(tx)?;
            }
            tx.prune_relay_health(now.minus(FORGET_AFTER))?;
            Ok(())
        })
    }
}

/// What is known of relays, where no agent runs.
///
/// # Errors
/// [`StoreError`] if reading fails.
pub fn known(store: &Store) -> Result<Vec<RelayRecord>, StoreError> {
    Ok(RelayLedger::load(store)?.records.into_values().collect())
}

/// Changes what is known of one relay, where no agent runs.
///
/// # Errors
/// [`StoreError`] if reading or writing fails.
pub fn note(
    store: &mut Store,
    now: UnixTime,
    url: &RelayUrl,
    change: impl FnOnce(&mut RelayRecord),
) -> Result<(), StoreError> {
    let mut ledger = RelayLedger::load(store)?;
    let record = ledger.change(url, now);
    change(record);
    store.transaction::<_, StoreError>(|tx| record.put(tx))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);

    fn url(number: u64) -> RelayUrl {
        RelayUrl::parse(&format!("wss://relay{number}.example.com")).unwrap()
    }

    #[test]
    fn what_a_relay_did_is_counted() {
        let mut ledger = RelayLedger::default();
        let refused = PublishOutcome::Refused("blocked: ".to_owned() + &"é".repeat(300));
        for outcome in [
            &PublishOutcome::Accepted,
            &PublishOutcome::Silent,
            &PublishOutcome::Silent,
        ] {
            ledger.change(&url(1), NOW.plus(5)).answered(NOW, outcome);
        }
        let record = ledger.of(&url(1)).unwrap();
        assert_eq!((record.detail.accepted, record.detail.silent), (1, 2));
        assert_eq!(
            (record.row.failures_in_row, record.row.last_ok),
            (2, Some(NOW))
        );
        assert_eq!(record.detail.since, Some(NOW.plus(5)));
        // A refusal is an answer.
        ledger.change(&url(1), NOW).answered(NOW.plus(9), &refused);
        let record = ledger.of(&url(1)).unwrap();
        assert_eq!((record.row.failures_in_row, record.detail.refused), (0, 1));
        assert_eq!(record.row.last_ok, Some(NOW.plus(9)));
        assert_eq!(
            record.detail.words.as_ref().unwrap().chars().count(),
            MAX_WORDS
        );
        assert_eq!(ledger.write_at, Some(NOW.plus(5 + WRITE_DELAY)));
    }

    #[test]
    fn so_many_are_remembered_in_memory_and_in_the_store() {
        let mut ledger = RelayLedger::default();
        let mut store = Store::open_in_memory().unwrap();
        let most = RELAYS_REMEMBERED_MAX;
        let urls: Vec<RelayUrl> = (0..most + 40).map(url).collect();
        for (at, url) in (0..).zip(&urls) {
            let now = NOW.plus(at);
            ledger.change(url, now).worked(now);
            note(&mut store, now, url, |record| record.worked(now)).unwrap();
        }
        let stored = known(&store).unwrap();
        let kept: BTreeSet<&RelayUrl> = urls.iter().skip(40).collect();
        assert_eq!(ledger.records.keys().collect::<BTreeSet<_>>(), kept);
        assert_eq!(
            stored.iter().map(RelayRecord::url).collect::<BTreeSet<_>>(),
            kept
        );
        assert!(ledger.changed.iter().all(|url| kept.contains(url)));
    }

    #[test]
    fn a_detail_of_another_version_reads() {
        let row = |detail: &str| RelayHealth {
            detail: detail.to_owned(),
            ..RelayRecord::new(url(1)).row
        };
        let event = EventId::from_bytes([7; 32]);
        let former = format!(r#"{{"left":["{event}",5],"news":1}}"#);
        let left = RelayRecord::stored(row(&former)).detail.left;
        assert_eq!(left, Some((event, UnixTime(5))));
        for nothing in ["{}", "[]", ""] {
            let detail = RelayRecord::stored(row(nothing)).detail;
            assert_eq!(detail, RelayDetail::default());
        }
    }
}
