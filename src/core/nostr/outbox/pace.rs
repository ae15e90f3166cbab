//! How fast a relay is sent to: by the operator's budget, and by what it refused.

use serde::{Deserialize, Serialize};

use super::{CAREFUL, RATE_RETRY, backoff, spread};
use crate::time::UnixTime;

/// After a rate limit, events sent to that relay at once and seconds between such bursts; some public
/// relays take five at a time.
pub(super) const BURST: (usize, u64) = (5, 5);

/// How much a relay may be sent. More waits; nothing is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Events a minute in the long run, 1 to 60 000.
    pub per_minute: u32,
    /// Events at once after a pause, at least 1.
    pub burst: u32,
}

/// A relay's pace. Times in milliseconds where a budget is finer than a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pace {
    budget: Option<Budget>,
    /// When the budget would be untouched again (the "theoretical arrival time" of a leaky bucket).
    spent_until_ms: u64,
    paused_until: UnixTime,
    careful_until: UnixTime,
    strikes: u32,
}

impl Budget {
    fn interval_ms(self) -> u64 {
        60_000 / u64::from(self.per_minute.clamp(1, 60_000))
    }

    fn tolerance_ms(self) -> u64 {
        self.interval_ms() * u64::from(self.burst.max(1) - 1)
    }
}

impl Pace {
    pub fn set_budget(&mut self, budget: Option<Budget>) {
        self.budget = budget;
    }

    /// Whether another event may go now, `sent` being those of this turn.
    pub fn allows(&self, now: UnixTime, sent: usize) -> bool {
        self.paused_until <= now
            && (self.careful_until <= now || sent < BURST.0)
            && self.budget_free_at() <= now
    }

    /// When the next event may go.
    pub fn free_at(&self) -> UnixTime {
        self.paused_until.max(self.budget_free_at())
    }

    fn budget_free_at(&self) -> UnixTime {
        let Some(budget) = self.budget else {
            return UnixTime(0);
        };
        let free_ms = self.spent_until_ms.saturating_sub(budget.tolerance_ms());
        UnixTime(free_ms.div_ceil(1_000))
    }

    /// An event goes.
    pub fn charge(&mut self, now: UnixTime) {
        if let Some(budget) = self.budget {
            let now_ms = now.0.saturating_mul(1_000);
            self.spent_until_ms = self.spent_until_ms.max(now_ms) + budget.interval_ms();
        }
    }

    /// A turn is over in which so many events went.
    pub fn rest(&mut self, now: UnixTime, sent: usize) {
        if self.careful_until > now && sent >= BURST.0 {
            self.paused_until = now.plus(BURST.1);
        }
    }

    /// The relay said that it was too fast; says until when it is left alone.
    pub fn strike(&mut self, now: UnixTime, jitter: u32) -> UnixTime {
        if self.careful_until <= now {
            self.strikes = 0;
        }
        // Answers to events sent before the first refusal are not further strikes.
        if self.paused_until <= now {
            self.strikes = self.strikes.saturating_add(1);
            let wait = spread(backoff(RATE_RETRY, self.strikes), jitter);
            self.paused_until = now.plus(wait);
            self.careful_until = now.plus(wait + CAREFUL);
        }
        self.paused_until
    }

    /// Whether there is nothing to remember.
    pub fn is_idle(&self, now: UnixTime) -> bool {
        self.budget.is_none() && self.careful_until <= now
    }
}
