//! The events the relay keeps.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{EventId, Filter, UnixTime, VerifiedEvent};
use crate::keys::NostrKey;

/// Events kept; the oldest makes room.
const MAX_EVENTS: usize = 200_000;

/// Newest first; among equal times the lowest id (NIP-01).
type Order = (Reverse<UnixTime>, EventId);

/// An event with the JSON it is sent as.
#[derive(Debug)]
pub(super) struct Stored {
    pub event: VerifiedEvent,
    pub json: String,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    by_id: HashMap<EventId, Arc<Stored>>,
    by_time: BTreeSet<Order>,
    by_p: HashMap<String, BTreeSet<Order>>,
    addressed: HashMap<Address, EventId>,
}

/// What a replaceable or addressable event replaces: kind, author, `d`.
type Address = (u16, NostrKey, String);

/// What became of an event.
#[derive(Debug)]
pub(super) enum Insertion {
    /// Kept, or an ephemeral one: to be passed on.
    New(Arc<Stored>),
    Duplicate,
    /// A newer version is here.
    Superseded,
    Expired,
}

impl Store {
    pub fn insert(&mut self, event: VerifiedEvent, now: UnixTime) -> Insertion {
        if is_expired(&event, now) {
            return Insertion::Expired;
        }
        if self.by_id.contains_key(&event.id) {
            return Insertion::Duplicate;
        }
        let stored = Arc::new(Stored {
            json: event.to_json(),
            event,
        });
        let event = &stored.event;
        if (20_000..30_000).contains(&event.kind) {
            return Insertion::New(stored);
        }
        if let Some(address) = address(event) {
            if let Some(current) = self
                .addressed
                .get(&address)
                .and_then(|id| self.by_id.get(id))
            {
                if order(&current.event) < order(event) {
                    return Insertion::Superseded;
                }
                let replaced = current.event.id;
                self.remove(&replaced);
            }
            self.addressed.insert(address, event.id);
        }
        self.by_time.insert(order(event));
        for value in event.tags_named("p") {
            self.by_p
                .entry(value.to_owned())
                .or_default()
                .insert(order(event));
        }
        self.by_id.insert(event.id, Arc::clone(&stored));
        if event.kind == 5 {
            self.delete(event);
        }
        if self.by_id.len() > MAX_EVENTS
            && let Some((_, oldest)) = self.by_time.last().copied()
        {
            self.remove(&oldest);
        }
        Insertion::New(stored)
    }

    /// Events that match and are not expired, the newest first.
    pub fn query(&self, filter: &Filter, now: UnixTime, max: usize) -> Vec<Arc<Stored>> {
        let limit = filter.limit.unwrap_or(max).min(max);
        let found = |order: &Order| self.by_id.get(&order.1);
        let fits = |stored: &&Arc<Stored>| {
            filter.matches(&stored.event) && !is_expired(&stored.event, now)
        };
        if let Some(ids) = &filter.ids {
            let mut events: Vec<_> = ids
                .iter()
                .filter_map(|id| self.by_id.get(id))
                .filter(fits)
                .cloned()
                .collect();
            events.sort_by_key(|stored| order(&stored.event));
            events.truncate(limit);
            return events;
        }
        match filter.tags.get(&'p').map(Vec::as_slice) {
            Some([value]) => match self.by_p.get(value) {
                Some(set) => set
                    .iter()
                    .filter_map(found)
                    .filter(fits)
                    .take(limit)
                    .cloned()
                    .collect(),
                None => Vec::new(),
            },
            Some(values) => {
                let sets = values.iter().filter_map(|value| self.by_p.get(value));
                let union: BTreeSet<&Order> = sets.flatten().collect();
                union
                    .into_iter()
                    .filter_map(found)
                    .filter(fits)
                    .take(limit)
                    .cloned()
                    .collect()
            }
            None => self
                .by_time
                .iter()
                .filter_map(found)
                .filter(fits)
                .take(limit)
                .cloned()
                .collect(),
        }
    }

    /// NIP-09: an author takes back its own events, by id or by address.
    fn delete(&mut self, request: &VerifiedEvent) {
        let mut targets: Vec<EventId> = request
            .tags_named("e")
            .filter_map(|id| id.parse().ok())
            .collect();
        for coordinate in request.tags_named("a") {
            let mut parts = coordinate.splitn(3, ':');
            if let (Some(kind), Some(author), Some(d)) = (parts.next(), parts.next(), parts.next())
                && let (Ok(kind), Ok(author)) = (kind.parse(), author.parse())
            {
                targets.extend(self.addressed.get(&(kind, author, d.to_owned())));
            }
        }
        for id in targets {
            let own = self.by_id.get(&id).is_some_and(|stored| {
                stored.event.author == request.author
                    && stored.event.created_at <= request.created_at
            });
            if own {
                self.remove(&id);
            }
        }
    }

    fn remove(&mut self, id: &EventId) {
        let Some(stored) = self.by_id.remove(id) else {
            return;
        };
        let event = &stored.event;
        self.by_time.remove(&order(event));
        for value in event.tags_named("p") {
            if let Some(set) = self.by_p.get_mut(value) {
                set.remove(&order(event));
                if set.is_empty() {
                    self.by_p.remove(value);
                }
            }
        }
        if let Some(address) = address(event)
            && self.addressed.get(&address) == Some(id)
        {
            self.addressed.remove(&address);
        }
    }
}

fn order(event: &VerifiedEvent) -> Order {
    (Reverse(event.created_at), event.id)
}

fn address(event: &VerifiedEvent) -> Option<Address> {
    let d = match event.kind {
        0 | 3 | 10_000..20_000 => "",
        30_000..40_000 => event.tag("d").unwrap_or_default(),
        _ => return None,
    };
    Some((event.kind, event.author, d.to_owned()))
}

fn is_expired(event: &VerifiedEvent, now: UnixTime) -> bool {
    event
        .expiration()
        .is_some_and(|expiration| expiration < now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::nostr::event::EventDraft;

    const NOW: UnixTime = UnixTime(1_000);

    fn event(author: u8, kind: u16, at: u64, tags: &[[&str; 2]], content: &str) -> VerifiedEvent {
        EventDraft {
            created_at: UnixTime(at),
            kind,
            tags: tags
                .iter()
                .map(|tag| tag.iter().map(|&v| v.to_owned()).collect())
                .collect(),
            content: content.into(),
        }
        .sign(&OwnKey::from_bytes(&[author; 32]).unwrap())
        .unwrap()
    }

    fn contents(store: &Store, filter: &Filter) -> Vec<String> {
        let found = store.query(filter, NOW, 500);
        found.iter().map(|s| s.event.content.clone()).collect()
    }

    #[test]
    fn the_newest_version_of_an_addressable_event_stays() {
        let mut store = Store::default();
        let d = [["d", "x"]];
        store.insert(event(1, 38327, 10, &d, "old"), NOW);
        store.insert(event(1, 38327, 12, &d, "new"), NOW);
        assert!(matches!(
            store.insert(event(1, 38327, 11, &d, "late"), NOW),
            Insertion::Superseded
        ));
        store.insert(event(2, 38327, 11, &d, "other author"), NOW);
        store.insert(event(1, 38327, 5, &[["d", "y"]], "other d"), NOW);
        assert_eq!(
            contents(&store, &Filter::kind(38327)),
            ["new", "other author", "other d"]
        );
    }

    #[test]
    fn of_two_versions_in_one_second_the_lowest_id_stays() {
        let versions = ["a", "b"].map(|content| event(1, 38327, 10, &[["d", "x"]], content));
        let lowest = versions
            .iter()
            .min_by_key(|e| e.id)
            .unwrap()
            .content
            .clone();
        for order in [[0, 1], [1, 0]] {
            let mut store = Store::default();
            for i in order {
                store.insert(versions[i].clone(), NOW);
            }
            assert_eq!(
                contents(&store, &Filter::kind(38327)),
                std::slice::from_ref(&lowest)
            );
        }
    }

    #[test]
    fn the_index_finds_what_a_scan_finds() {
        let mut store = Store::default();
        for i in 0..60u64 {
            let to = ["a", "b", "c"][(i % 3) as usize];
            store.insert(event(1, 8327, i, &[["p", to]], &i.to_string()), NOW);
        }
        let wanted: Vec<String> = (0..60u64)
            .rev()
            .filter(|i| i % 3 != 2)
            .map(|i| i.to_string())
            .collect();
        let filter = Filter::kind(8327).tag('p', ["a", "b"]);
        assert_eq!(contents(&store, &filter), wanted);
        assert_eq!(contents(&store, &filter.clone().limit(3)), wanted[..3]);
        assert_eq!(contents(&store, &filter.until(UnixTime(1))), ["1", "0"]);
        assert!(contents(&store, &Filter::kind(8327).tag('p', ["z"])).is_empty());
    }

    #[test]
    fn expired_events_are_neither_taken_nor_served() {
        let mut store = Store::default();
        let late = event(1, 8327, 1, &[["expiration", "999"]], "gone");
        assert!(matches!(store.insert(late, NOW), Insertion::Expired));
        store.insert(event(1, 8327, 1, &[["expiration", "1001"]], "here"), NOW);
        assert_eq!(contents(&store, &Filter::kind(8327)), ["here"]);
        assert!(
            store
                .query(&Filter::kind(8327), UnixTime(1_002), 500)
                .is_empty()
        );
    }

    #[test]
    fn an_author_deletes_its_own_events_only() {
        let mut store = Store::default();
        let mine = event(1, 8327, 1, &[["p", "a"]], "mine");
        let other = event(2, 8327, 1, &[["p", "a"]], "other");
        let advert = event(1, 38327, 1, &[["d", "x"]], "advert");
        for e in [&mine, &other, &advert] {
            store.insert(e.clone(), NOW);
        }
        let coordinate = format!("38327:{}:x", advert.author);
        let tags = [
            ["e", &mine.id.to_string()],
            ["e", &other.id.to_string()],
            ["a", &coordinate],
        ];
        store.insert(event(1, 5, 2, &tags, ""), NOW);
        assert_eq!(contents(&store, &Filter::kind(8327)), ["other"]);
        assert!(contents(&store, &Filter::kind(38327)).is_empty());
        let by_p = Filter::kind(8327).tag('p', ["a"]);
        assert_eq!(contents(&store, &by_p), ["other"]);
    }
}
