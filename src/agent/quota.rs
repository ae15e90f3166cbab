//! How much history anybody may ask for (DESIGN §5 "History").
//!
//! An answer costs a tree for each of its rounds, and nobody else is served meanwhile. So requests are counted per
//! author and minute: members get what a whole restore needs, keys without a seat share a little.

use std::collections::BTreeMap;

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
}
