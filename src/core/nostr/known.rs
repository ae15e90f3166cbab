//! Events that several relays deliver are verified once.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::event::{Event, EventFault, EventId, VerifiedEvent};
use crate::hash::SchnorrSignature;

/// A set that forgets its oldest members.
#[derive(Debug)]
pub struct Recent<T> {
    members: HashSet<T>,
    order: VecDeque<T>,
    capacity: usize,
}

/// Remembers which pairs of id and signature are good, and spares them the curve operations.
///
/// An id commits to all of an event but its signature (NIP-01), so a pair that was good once is good for every event
/// whose id, computed again, is the one of the pair.
#[derive(Debug)]
pub struct KnownPairs(Mutex<Recent<(EventId, SchnorrSignature)>>);

impl<T: Copy + Eq + Hash> Recent<T> {
    /// An empty set of at most `capacity` members.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            members: HashSet::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// Whether it is in the set.
    pub fn contains(&self, member: &T) -> bool {
        self.members.contains(member)
    }

    /// Adds a member; whether it is new.
    pub fn insert(&mut self, member: T) -> bool {
        if !self.members.insert(member) {
            return false;
        }
        self.order.push_back(member);
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.members.remove(&oldest);
            }
        }
        true
    }

    /// Takes a member out.
    pub fn remove(&mut self, member: &T) {
        if self.members.remove(member) {
            self.order.retain(|other| other != member);
        }
    }
}

impl KnownPairs {
    /// Remembers the last `capacity` pairs.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(Recent::new(capacity)))
    }

    /// Checks an event: always its id, and its signature unless the pair is known.
    ///
    /// # Errors
    /// [`EventFault::Id`], [`EventFault::Signature`].
    pub fn verify(&self, event: Event) -> Result<VerifiedEvent, EventFault> {
        let pair = (event.id, event.sig);
        if self.pairs().contains(&pair) {
            return VerifiedEvent::from_known_pair(event);
        }
        // Not under the lock: other threads have events to check as well.
        let event = event.verify()?;
        self.pairs().insert(pair);
        Ok(event)
    }

    fn pairs(&self) -> MutexGuard<'_, Recent<(EventId, SchnorrSignature)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::nostr::event::EventDraft;
    use crate::time::UnixTime;

    #[test]
    fn a_known_pair_vouches_for_its_own_content_only() {
        let pairs = KnownPairs::new(8);
        let draft = EventDraft {
            created_at: UnixTime(1_700_000_000),
            kind: 1,
            tags: vec![],
            content: "pay to Alice".into(),
        };
        let good = draft.sign(&OwnKey::from_bytes(&[4; 32]).unwrap()).unwrap();
        let good = good.into_inner();
        let mut forged = good.clone();
        forged.content = "pay to Mallory".into();
        let mut resigned = good.clone();
        resigned.sig = SchnorrSignature::from_bytes([1; 64]);
        for _ in 0..2 {
            assert_eq!(pairs.verify(forged.clone()), Err(EventFault::Id));
            assert_eq!(pairs.verify(resigned.clone()), Err(EventFault::Signature));
            assert_eq!(pairs.verify(good.clone()).unwrap().into_inner(), good);
        }
    }

    #[test]
    fn memory_is_bounded_and_forgets_on_request() {
        let mut recent = Recent::new(2);
        assert!(recent.insert(1) && recent.insert(2) && !recent.insert(1));
        assert!(recent.insert(3));
        assert!(!recent.contains(&1) && recent.contains(&2));
        recent.remove(&2);
        assert!(recent.insert(2));
        assert_eq!(recent.order.len(), recent.members.len());
    }
}
