//! What passes from the relay library into this program: nothing whose signature was not checked here.
//!
//! nostr-relay-pool 0.44 trusts an event whose *claimed* id it has seen before: a relay that repeats id
//! and signature under other content gets the forgery delivered. So every event is checked
//! again, twice: by the pool's admission policy, before any of its code hands the event on, and where
//! the event is converted to our own type. The second check recomputes the id and recognises the pair of
//! id and signature, so the curve operations are done once per event, not once per relay.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use nostr_sdk::prelude::{
    AdmitPolicy, AdmitStatus, BoxedFuture, PolicyError, SubscriptionId, Timestamp,
};
use tokio::sync::Notify;

use crate::hash::SchnorrSignature;
use crate::keys::NostrKey;
use crate::nostr::event::{Event, EventFault, EventId, VerifiedEvent};
use crate::nostr::known::{KnownPairs, Recent};
use crate::nostr::policy::RelayUrl;
use crate::time::UnixTime;

/// Pairs of id and signature known to be good.
const VERIFIED: usize = 8_192;

/// Frames under way between socket and task. A quarter of the library's queue: the count is corrected
/// while frames arrive and may be a few short.
const UNDER_WAY: usize = super::session::LIBRARY_QUEUE / 4;

/// Ids handed on for one subscription, so that the same event from a second relay is not.
const SEEN: usize = 16_384;

/// The checks and memories of one link, shared by its relays.
#[derive(Debug)]
pub(super) struct Gate {
    verified: KnownPairs,
    /// By the name of the subscription: what one has delivered is news to another, whose reader may make more of it.
    seen: Mutex<HashMap<String, Recent<EventId>>>,
    tallies: Mutex<HashMap<String, Arc<Tally>>>,
}

/// What became of one relay's frames.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Whether private addresses may be dialled for this relay.
    pub allow_private: AtomicBool,
    pub connected: AtomicBool,
    /// Events that reached the admission policy, good or bad.
    pub judged: AtomicU64,
    /// Events whose id or signature is wrong.
    pub forged: AtomicU64,
    /// Frames that were no event of ours to judge: malformed, expired, too large, not asked for.
    pub ignored: AtomicU64,
    /// Microseconds an answer to an event takes, averaged; 0 before the first.
    pub latency_us: AtomicU64,
    /// Rings when `forged` grew.
    pub alarm: Notify,
    pub flow: Flow,
}

/// Keeps the library's queue between socket and task from overflowing: the socket is not read while too
/// many frames are under way.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Frames read and, as far as is known, not yet handled.
    under_way: AtomicUsize,
    socket: AtomicWaker,
    /// Rings when the socket waits.
    pub wanted: Notify,
}

/// The pool's admission policy.
#[derive(Debug)]
pub(super) struct Admission(pub Arc<Gate>);

impl Gate {
    pub fn new() -> Self {
        Self {
            verified: KnownPairs::new(VERIFIED),
            seen: Mutex::default(),
            tallies: Mutex::default(),
        }
    }

    /// The tally of a relay.
    pub fn tally(&self, url: &RelayUrl) -> Arc<Tally> {
        let mut tallies = lock(&self.tallies);
        Arc::clone(tallies.entry(url.as_str().to_owned()).or_default())
    }

    /// The tally of a relay the link knows.
    pub fn known_tally(&self, url: &str) -> Option<Arc<Tally>> {
        lock(&self.tallies).get(url.trim_end_matches('/')).cloned()
    }

    /// Converts an event of the library and checks it.
    pub fn check(&self, event: &nostr::Event) -> Result<VerifiedEvent, EventFault> {
        self.verified.verify(from_library(event)?)
    }

    /// Whether this event was not handed on for this subscription before; from now on it was.
    pub fn first_seen(&self, subscription: &str, event: &VerifiedEvent) -> bool {
        let mut seen = lock(&self.seen);
        if let Some(recent) = seen.get_mut(subscription) {
            return recent.insert(event.id);
        }
        let recent = seen.entry(subscription.to_owned());
        recent.or_insert_with(|| Recent::new(SEEN)).insert(event.id)
    }

    /// Lets an event pass once more.
    pub fn forget(&self, id: &EventId) {
        for recent in lock(&self.seen).values_mut() {
            recent.remove(id);
        }
    }

    /// A subscription was closed: what it delivered need not be remembered.
    pub fn forget_subscription(&self, subscription: &str) {
        lock(&self.seen).remove(subscription);
    }
}

impl Flow {
    /// Whether another frame may be read; otherwise the socket is woken when it may.
    pub fn may_read(&self, cx: &Context<'_>) -> bool {
        if self.under_way.load(Ordering::Acquire) < UNDER_WAY {
            return true;
        }
        self.socket.register(cx.waker());
        if self.under_way.load(Ordering::Acquire) < UNDER_WAY {
            return true;
        }
        self.wanted.notify_one();
        false
    }

    pub fn read_one(&self) {
        self.under_way.fetch_add(1, Ordering::AcqRel);
    }

    /// The task knows how many frames are really waiting: the library drops some without a word.
    pub fn correct(&self, waiting: usize) {
        if self.under_way.swap(waiting, Ordering::AcqRel) != waiting {
            self.socket.wake();
        }
    }
}

impl Tally {
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Averages over about the last eight answers.
    pub fn note_latency(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency_us.load(Ordering::Relaxed);
        let average = if before == 0 {
            took
        } else {
            before - before / 8 + took / 8
        };
        self.latency_us.store(average.max(1), Ordering::Relaxed);
    }

    pub fn latency(&self) -> Option<Duration> {
        let micros = self.latency_us.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    pub fn note_forged(&self) {
        Self::add(&self.forged);
        self.alarm.notify_one();
    }
}

impl AdmitPolicy for Admission {
    fn admit_event<'a>(
        &'a self,
        relay_url: &'a nostr::RelayUrl,
        _subscription_id: &'a SubscriptionId,
        event: &'a nostr::Event,
    ) -> BoxedFuture<'a, Result<AdmitStatus, PolicyError>> {
        Box::pin(async move {
            let verdict = self.0.check(event);
            if let Some(tally) = self
                .0
                .known_tally(relay_url.as_str_without_trailing_slash())
            {
                Tally::add(&tally.judged);
                if verdict.is_err() {
                    tally.note_forged();
                }
            }
            Ok(match verdict {
                Ok(_) => AdmitStatus::success(),
                Err(fault) => AdmitStatus::rejected(fault.to_string()),
            })
        })
    }
}

/// Converts the library's event. Checks nothing but the form of the key.
fn from_library(event: &nostr::Event) -> Result<Event, EventFault> {
    Ok(Event {
        id: EventId::from_bytes(event.id.to_bytes()),
        author: NostrKey::from_bytes(&event.pubkey.to_bytes())
            .map_err(|fault| EventFault::Malformed(fault.to_string()))?,
        created_at: UnixTime(event.created_at.as_secs()),
        kind: event.kind.as_u16(),
        tags: event
            .tags
            .iter()
            .map(|tag| tag.as_slice().to_vec())
            .collect(),
        content: event.content.clone(),
        sig: SchnorrSignature::from_bytes(event.sig.serialize()),
    })
}

/// Converts our event for publishing.
pub(super) fn to_library(event: &VerifiedEvent) -> Result<nostr::Event, EventFault> {
    let malformed = |what: &str| EventFault::Malformed(what.to_owned());
    let tags: Result<Vec<nostr::Tag>, _> = event.tags.iter().map(nostr::Tag::parse).collect();
    Ok(nostr::Event::new(
        nostr::EventId::from_byte_array(event.id.to_bytes()),
        nostr::PublicKey::from(event.author.x_only()),
        Timestamp::from(event.created_at.0),
        nostr::Kind::from(event.kind),
        tags.map_err(|_| malformed("a tag is empty"))?,
        event.content.clone(),
        secp256k1::schnorr::Signature::from_slice(event.sig.as_bytes())
            .map_err(|_| malformed("the signature"))?,
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::nostr::event::EventDraft;

    fn event(content: &str) -> VerifiedEvent {
        EventDraft {
            created_at: UnixTime(1_700_000_000),
            kind: 8327,
            tags: vec![vec!["p".into(), "x".into(), "y".into()], vec!["-".into()]],
            content: content.into(),
        }
        .sign(&OwnKey::from_bytes(&[4; 32]).unwrap())
        .unwrap()
    }

    #[test]
    fn conversion_keeps_every_byte() {
        let event = event("h\u{e9}llo \u{0}");
        let library = to_library(&event).unwrap();
        library.verify().unwrap();
        assert_eq!(from_library(&library).unwrap(), event.into_inner());
    }

    #[test]
    fn a_known_id_and_signature_do_not_vouch_for_other_content() {
        let gate = Gate::new();
        let event = event("pay to Alice");
        let good = to_library(&event).unwrap();
        gate.check(&good).unwrap();
        gate.check(&good).unwrap();
        let mut forged = good.clone();
        forged.content = "pay to Mallory".into();
        assert_eq!(gate.check(&forged), Err(EventFault::Id));
        let mut resigned = good;
        resigned.sig = secp256k1::schnorr::Signature::from_slice(&[1; 64]).unwrap();
        assert_eq!(gate.check(&resigned), Err(EventFault::Signature));
    }
}
