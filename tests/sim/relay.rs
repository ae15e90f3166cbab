//! Relays that store and forward, and lie.

use std::collections::{BTreeMap, BTreeSet};

use btcr2_core::keys::NostrKey;
use btcr2_core::nostr::outbox::PublishOutcome;
use btcr2_core::nostr::{EventId, RelayUrl};

use super::config::RelayFaults;
use super::rng::Rng;

/// An event as it is on its way: every event of a run is about one message of the table of messages.
#[derive(Debug, Clone)]
pub struct Posted {
    pub event: EventId,
    pub author: NostrKey,
    pub to: NostrKey,
    pub mail: usize,
    pub bytes: usize,
}

pub struct Relay {
    pub url: RelayUrl,
    pub faults: RelayFaults,
    /// Whether anybody reaches it.
    pub up: bool,
    /// What it serves, oldest first.
    pub stored: Vec<Posted>,
    ids: BTreeSet<EventId>,
    rate: BTreeMap<NostrKey, (u64, u64)>,
    /// Processes whose subscription it closed.
    pub closed: BTreeSet<usize>,
    /// What a process was not pushed, and finds when it asks again.
    pub missed: BTreeMap<usize, Vec<usize>>,
}

impl Relay {
    pub fn new(number: usize, faults: RelayFaults) -> Self {
        Self {
            url: RelayUrl::parse(&format!("wss://relay{number}.example")).expect("an address"),
            faults,
            up: true,
            stored: Vec::new(),
            ids: BTreeSet::new(),
            rate: BTreeMap::new(),
            closed: BTreeSet::new(),
            missed: BTreeMap::new(),
        }
    }

    /// From now on it does what a relay should.
    pub fn reform(&mut self) {
        self.faults = RelayFaults {
            delay: 2,
            ..RelayFaults::default()
        };
        self.up = true;
    }

    /// What it says to an event, and the event's number if it serves it from now on.
    pub fn publish(
        &mut self,
        now: u64,
        rng: &mut Rng,
        posted: &Posted,
    ) -> (PublishOutcome, Option<usize>) {
        let refused = |text: &str| (PublishOutcome::Refused(text.to_owned()), None);
        if !self.up || rng.permille(self.faults.drops) {
            return (PublishOutcome::Silent, None);
        }
        if self.faults.blocks {
            return refused("blocked: kind 8327 not permitted");
        }
        if self.faults.max_bytes.is_some_and(|max| posted.bytes > max) {
            return refused("invalid: event too large");
        }
        if rng.permille(self.faults.wrong_clock) {
            let words = [
                "invalid: created_at too late",
                "invalid: event expired",
                "error: internal",
            ];
            return refused(words[rng.index(3)]);
        }
        if let Some(most) = self.faults.per_minute {
            let rate = self.rate.entry(posted.author).or_insert((now, 0));
            if now >= rate.0 + 60 {
                *rate = (now, 0);
            }
            rate.1 += 1;
            if rate.1 > most {
                return refused("rate-limited: slow down");
            }
        }
        if self.faults.black_hole || rng.permille(self.faults.forgets) {
            return (PublishOutcome::Accepted, None);
        }
        if !self.ids.insert(posted.event) {
            return (
                PublishOutcome::Refused("duplicate: have this event".into()),
                None,
            );
        }
        self.stored.push(posted.clone());
        (PublishOutcome::Accepted, Some(self.stored.len() - 1))
    }
}
