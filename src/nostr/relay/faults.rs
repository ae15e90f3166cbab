//! What the relay can be told to do wrong, and the dice it does it with.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::{Event, UnixTime};
use crate::nostr::pow::leading_zeros;

/// Misbehaviour on demand, for tests. All off at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Refuse every event with this text.
    pub refuse: Option<String>,
    /// Refuse events of these kinds.
    pub refuse_kinds: Vec<u16>,
    /// Refuse events of more bytes of JSON.
    pub max_bytes: Option<usize>,
    /// Refuse what one connection sends in a minute beyond so many events.
    pub per_minute: Option<u32>,
    /// Refuse events with fewer bits of work (NIP-13).
    pub pow: u8,
    /// Refuse events dated further back, or further ahead, than so many seconds by this relay's clock.
    pub window: Option<(u64, u64)>,
    /// Seconds this relay's clock is ahead of the true time; behind if negative.
    pub clock_ahead: i64,
    /// Take no event and say nothing.
    pub silent: bool,
    /// Of a hundred events that arrive lose so many, without a word.
    pub lose_in: u8,
    /// Of a hundred events to be sent, stored or new, lose so many.
    pub lose_out: u8,
    /// Say OK and forget the event.
    pub forget: bool,
    /// Send every event so many times more.
    pub repeat: usize,
    /// Pass on new events later, each after a random time between these two: they overtake one another.
    pub delay: Option<(Duration, Duration)>,
    /// Answer a REQ with its stored events in any order, instead of the newest first.
    pub shuffle: bool,
    /// Serve stored events, but pass on no new ones.
    pub no_live: bool,
    /// Answer every REQ with CLOSED and this text.
    pub close: Option<String>,
    /// Never end the stored events.
    pub no_eose: bool,
    /// Serve every event with this content, under its true id and signature.
    pub forge: Option<String>,
    /// Demand NIP-42 authentication for everything.
    pub require_auth: bool,
    /// Keep the sockets open and neither read nor write.
    pub frozen: bool,
    /// Cut every connection, and every new one.
    pub absent: bool,
    /// Answer a REQ with at most so many stored events.
    pub page: Option<usize>,
    /// Cut off a client that is so many bytes behind, instead of 64 MiB.
    pub queue: Option<usize>,
    /// What it tells of itself (NIP-11) instead of the truth.
    pub info: Option<Value>,
}

impl Faults {
    /// Why this relay does not take an event, by kind, size, work and date.
    pub(super) fn objection(&self, event: &Event, bytes: usize, now: UnixTime) -> Option<String> {
        if let Some(reason) = &self.refuse {
            return Some(reason.clone());
        }
        if self.refuse_kinds.contains(&event.kind) {
            return Some(format!("blocked: kind {} not permitted", event.kind));
        }
        if self.max_bytes.is_some_and(|max| bytes > max) {
            return Some(format!("invalid: event too large: {bytes}"));
        }
        if leading_zeros(event.id.as_bytes()) < self.pow.into() {
            return Some(format!("pow: {} bits needed", self.pow));
        }
        let (back, ahead) = self.window?;
        if event.created_at > now.plus(ahead) {
            return Some("invalid: created_at too late".to_owned());
        }
        (event.created_at < now.minus(back)).then(|| "invalid: created_at too early".to_owned())
    }

    /// What this relay takes for the time.
    pub(super) const fn shift(&self, now: UnixTime) -> UnixTime {
        let by = self.clock_ahead.unsigned_abs();
        if self.clock_ahead < 0 {
            now.minus(by)
        } else {
            now.plus(by)
        }
    }
}

/// The chance that faults depend on: the same seed, the same throws.
#[derive(Debug)]
pub(super) struct Dice(Mutex<StdRng>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// True in so many of a hundred cases.
    pub fn hits(&self, percent: u8) -> bool {
        percent > 0 && self.rng().gen_range(0..100) < percent
    }

    pub fn between(&self, (least, most): (Duration, Duration)) -> Duration {
        self.rng().gen_range(least..=most.max(least))
    }

    pub fn shuffle<T>(&self, things: &mut [T]) {
        things.shuffle(&mut *self.rng());
    }

    fn rng(&self) -> MutexGuard<'_, StdRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
