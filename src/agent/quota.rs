//! How much is answered that is not logged: what a history is asked for (DESIGN §5 "History"), what a seat was told,
//! why a stranger gets no seat. What is logged is bounded by [`crate::protocol::quota`].
//!
//! An answer of history costs a tree for each of its rounds, and nobody else is served meanwhile. So requests are counted
//! per author and minute: members get what a whole restore needs, keys without a seat share a little. Every answer is
//! kept until relays drop it, so they are counted per day as well.

use std::collections::BTreeMap;

use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// Requests of one member in a minute: at 50 rounds a page, a thousand rounds of six DIDs.
pub(super) const MEMBER_REQUESTS: u32 = 120;

/// Requests of one member in a day: at 50 rounds a page, a thousand rounds of 150 DIDs.
const MEMBER_REQUESTS_A_DAY: u32 = 3_000;

/// Times in a day that a member is told that it asks too often.
const TOLD_A_DAY: u32 = 24;

/// Requests of one key without a seat in a minute.
const STRANGER_REQUESTS: u32 = 6;

/// Requests of all keys without a seat in a minute.
const ALL_STRANGERS_REQUESTS: u32 = 30;

/// Requests of all keys without a seat in a day.
const ALL_STRANGERS_REQUESTS_A_DAY: u32 = 3_000;

/// Refusals sent to strangers per minute: enough for honest latecomers, too few to flood relays with.
const REFUSALS_PER_MINUTE: u32 = 30;

/// Times in a day that a seat is told again what it was told: who lost a store asks once an hour until it is.
const SEAT_ANSWERS_A_DAY: u32 = 30;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

/// How often each author was served since a time. As many as are served at all.
#[derive(Debug, Default)]
struct Served {
    began: UnixTime,
    by_author: BTreeMap<NostrKey, u32>,
    strangers: u32,
}

impl Served {
    /// Counts anew when the time is over.
    fn renew(&mut self, now: UnixTime, seconds: u64) {
        if now.since(self.began) >= seconds {
            *self = Self {
                began: now,
                ..Self::default()
            };
        }
    }

    fn of(&self, from: &NostrKey) -> u32 {
        self.by_author.get(from).copied().unwrap_or(0)
    }

    fn count(&mut self, from: NostrKey, member: bool) {
        let count = self.by_author.entry(from).or_default();
        *count = count.saturating_add(1);
        if !member {
            self.strangers = self.strangers.saturating_add(1);
        }
    }
}

/// Requests of history that were answered, in the current minute and in the current day.
#[derive(Debug, Default)]
pub(super) struct HistoryQuota {
    minute: Served,
    day: Served,
    told: Served,
}

impl HistoryQuota {
    /// Counts a request; false if it is one too many.
    pub(super) fn take(&mut self, now: UnixTime, from: NostrKey, member: bool) -> bool {
        self.minute.renew(now, MINUTE);
        self.day.renew(now, DAY);
        let (a_minute, a_day) = if member {
            (MEMBER_REQUESTS, MEMBER_REQUESTS_A_DAY)
        } else {
            (STRANGER_REQUESTS, ALL_STRANGERS_REQUESTS_A_DAY)
        };
        let all = self.minute.strangers >= ALL_STRANGERS_REQUESTS
            || self.day.strangers >= ALL_STRANGERS_REQUESTS_A_DAY;
        if !member && all {
            return false;
        }
        if self.minute.of(&from) >= a_minute || self.day.of(&from) >= a_day {
            return false;
        }
        self.minute.count(from, member);
        self.day.count(from, member);
        true
    }

    /// Whether a member may be told once more that it asks too often.
    pub(super) fn may_tell(&mut self, now: UnixTime, from: NostrKey) -> bool {
        self.told.renew(now, DAY);
        let may = self.told.of(&from) < TOLD_A_DAY;
        if may {
            self.told.count(from, true);
        }
        may
    }
}

/// Answers to messages that change nothing.
#[derive(Debug, Default)]
pub(super) struct Answers {
    refusals: (UnixTime, u32),
    seats: Served,
}

impl Answers {
    /// Counts an answer to a message of this type; false if it is one too many.
    pub(super) fn take(&mut self, now: UnixTime, kind: &str, from: Option<NostrKey>) -> bool {
        match (kind, from) {
            ("opt_in", _) => {
                if now.since(self.refusals.0) >= MINUTE {
                    self.refusals = (now, 0);
                }
                self.refusals.1 = self.refusals.1.saturating_add(1);
                self.refusals.1 <= REFUSALS_PER_MINUTE
            }
            // Only who has a seat is answered: as many as the sets have.
            ("seat_request", Some(from)) => {
                self.seats.renew(now, DAY);
                let may = self.seats.of(&from) < SEAT_ANSWERS_A_DAY;
                if may {
                    self.seats.count(from, true);
                }
                may
            }
            // A history is counted where it is answered.
            _ => true,
        }
    }
}

/// Answers to proof requests of one cohort in an hour: with 32 signals each more than a restored aggregator can ask for,
/// and 2 MiB at most of what would then wait to be sent.
const SHOWN_PER_HOUR: u32 = 60;

/// How often this member has shown its aggregators what it keeps, in the current hour.
#[derive(Debug, Default)]
pub(super) struct ShownQuota {
    began: UnixTime,
    by_cohort: BTreeMap<CohortId, u32>,
}

impl ShownQuota {
    /// Counts a request; false if it is one too many.
    pub(super) fn take(&mut self, now: UnixTime, cohort: CohortId) -> bool {
        if now.since(self.began) >= 3_600 {
            *self = Self {
                began: now,
                ..Self::default()
            };
        }
        let count = self.by_cohort.entry(cohort).or_default();
        if *count >= SHOWN_PER_HOUR {
            return false;
        }
        *count = count.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;

    fn key(n: u8) -> NostrKey {
        OwnKey::from_bytes(&[n; 32]).unwrap().public()
    }

    #[test]
    fn everybody_gets_a_share_and_every_minute_anew() {
        let mut quota = HistoryQuota::default();
        let now = UnixTime(1_000);
        let taken = |quota: &mut HistoryQuota, n: u8, member: bool| {
            (0..1_000)
                .take_while(|_| quota.take(now, key(n), member))
                .count()
        };
        assert_eq!(taken(&mut quota, 1, false), 6);
        // Keys are cheap: all strangers share one bound.
        let others: usize = (2..20).map(|n| taken(&mut quota, n, false)).sum();
        assert_eq!(others, 24);
        assert_eq!(
            quota.minute.by_author.len(),
            5,
            "nothing is kept of who is refused"
        );
        assert_eq!(taken(&mut quota, 30, true), 120, "members have their own");
        assert_eq!(taken(&mut quota, 31, true), 120);
        let next = now.plus(60);
        assert!(quota.take(next, key(1), false) && quota.take(next, key(30), true));
        // A clock that goes back opens nothing.
        assert_eq!(taken(&mut quota, 30, true), 119);
    }

    #[test]
    fn an_aggregator_is_shown_so_much_an_hour() {
        let mut quota = ShownQuota::default();
        let taken = |quota: &mut ShownQuota, at: u64, n: u8| {
            let cohort = CohortId::from_bytes([n; 32]);
            (0..1_000)
                .take_while(|_| quota.take(UnixTime(at), cohort))
                .count()
        };
        assert_eq!(taken(&mut quota, 10_000, 1), 60);
        assert_eq!(taken(&mut quota, 13_599, 1), 0);
        assert_eq!(taken(&mut quota, 13_599, 2), 60, "each cohort has its own");
        assert_eq!(taken(&mut quota, 13_600, 1), 60);
    }

    #[test]
    fn a_day_of_questions_has_its_bounds_too() {
        let begun = UnixTime(86_400);
        let last = begun.plus(86_399);
        for (n, member) in [(30, true), (1, false)] {
            let mut quota = HistoryQuota::default();
            let minutes = (0..1_440).map(|minute| begun.plus(minute * 60));
            let taken =
                minutes.map(|now| (0..200).filter(|_| quota.take(now, key(n), member)).count());
            assert_eq!(taken.sum::<usize>(), 3_000);
            assert!(!quota.take(last, key(n), member));
            let another = quota.take(last, key(n + 1), member);
            assert_eq!(another, member, "strangers share one bound");
        }
        let mut quota = HistoryQuota::default();
        let told = |quota: &mut HistoryQuota, now| {
            (0..100).filter(|_| quota.may_tell(now, key(30))).count()
        };
        assert_eq!(told(&mut quota, last), 24);
        assert_eq!(told(&mut quota, last.plus(86_400)), 24);
    }

    #[test]
    fn what_is_not_logged_is_answered_so_often() {
        let mut answers = Answers::default();
        let now = UnixTime(86_400);
        let taken = |answers: &mut Answers, now, kind: &str, n: u8| {
            (0..1_000)
                .filter(|_| answers.take(now, kind, Some(key(n))))
                .count()
        };
        // Strangers share; who has a seat does not.
        assert_eq!(taken(&mut answers, now, "opt_in", 1), 30);
        assert_eq!(taken(&mut answers, now, "opt_in", 2), 0);
        assert_eq!(taken(&mut answers, now, "seat_request", 1), 30);
        assert_eq!(taken(&mut answers, now, "seat_request", 2), 30);
        assert_eq!(taken(&mut answers, now.plus(60), "opt_in", 2), 30);
        assert_eq!(taken(&mut answers, now.plus(86_399), "seat_request", 1), 0);
        assert_eq!(taken(&mut answers, now.plus(86_400), "seat_request", 1), 30);
        // Counted where it is answered.
        assert_eq!(taken(&mut answers, now, "history_request", 1), 1_000);
    }
}
