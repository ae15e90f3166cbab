//! How much history anybody may ask for (DESIGN §5 "History").
//!
//! An answer costs a tree for each of its rounds, and nobody else is served meanwhile. So requests are counted per
//! author and minute: members get what a whole restore needs, keys without a seat share a little.

use std::collections::BTreeMap;

use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// Requests of one member in a minute: at 50 rounds a page, a thousand rounds of six DIDs.
pub(super) const MEMBER_REQUESTS: u32 = 120;

/// Requests of one key without a seat in a minute.
const STRANGER_REQUESTS: u32 = 6;

/// Requests of all keys without a seat in a minute.
const ALL_STRANGERS_REQUESTS: u32 = 30;

/// Requests in the current minute, by author. Members are as many as their sets have, strangers at most as many
/// as are answered.
#[derive(Debug, Default)]
pub(super) struct HistoryQuota {
    began: UnixTime,
    by_author: BTreeMap<NostrKey, u32>,
    strangers: u32,
}

impl HistoryQuota {
    /// Counts a request; false if it is one too many.
    pub(super) fn take(&mut self, now: UnixTime, from: NostrKey, member: bool) -> bool {
        if now.since(self.began) >= 60 {
            *self = Self {
                began: now,
                ..Self::default()
            };
        }
        let most = if member {
            MEMBER_REQUESTS
        } else {
            STRANGER_REQUESTS
        };
        if !member && self.strangers >= ALL_STRANGERS_REQUESTS {
            return false;
        }
        let count = self.by_author.entry(from).or_default();
        if *count >= most {
            return false;
        }
        *count = count.saturating_add(1);
        if !member {
            self.strangers = self.strangers.saturating_add(1);
        }
        true
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
            quota.by_author.len(),
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
}
