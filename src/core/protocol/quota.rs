//! How much of a log a peer can fill.
//!
//! Whatever a message leads to is logged, so a peer that says true and allowed things in a loop would fill the disk.
//! Every type of message therefore has a bound, and a new type does not compile without one: see [`of_member`] and
//! [`of_aggregator`]. A quota is what an honest peer can ever need, and slack. What is beyond it changes nothing, is not
//! answered and is not logged; it counts again when the window is over. Only what is logged is counted, so that a
//! replay of the log counts the same.
//!
//! A window ends after [`WINDOW_SECONDS`], and with every signal that the chain confirms: nobody can make those in a
//! loop, because each takes a block and a fee, and every member's signature. Whoever was away for days hears all at once
//! what was said in them: a window that begins late has room for the hours in which nothing was heard.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::Seat;
use super::message::Message;
use super::terms::Terms;
use crate::time::UnixTime;

/// Seconds after which messages are counted anew.
pub const WINDOW_SECONDS: u64 = 3_600;

/// Hours for which a window has room at most: a year of absence.
const MAX_HOURS: u32 = 8_760;

/// Rounds in a window that open because of what members say is waiting. Further ones open by cadence, by the operator,
/// or in the next window: a member that asks for rounds and then has nothing to announce costs all the others messages.
pub const MAX_REQUESTED_ROUNDS: u32 = 60;

/// What keeps messages of one type from filling a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It counts for nothing in this direction.
    NotTaken,
    /// It is not logged, because it changes nothing; how many are answered is the driver's to bound.
    Answered,
    /// Whom it may come from, and how often, is bounded by how members are admitted.
    Admission,
    /// So many are logged in a window.
    Quota(Quota),
}

/// Messages of one type, of one sender, in one window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// In any case.
    pub base: u32,
    /// For each DID that a seat may register.
    pub per_did: u32,
    /// For each round that was opened in the window, and for the one before it.
    pub per_round: u32,
    /// For each refund session that was opened in the window, and for the one before it.
    pub per_refund: u32,
    /// Of `per_round` and `per_refund`: times the sessions that the terms allow.
    pub per_session: bool,
    /// And as many as rounds open by cadence in a window.
    pub by_cadence: bool,
}

impl Quota {
    const fn of(base: u32) -> Self {
        Self {
            base,
            per_did: 0,
            per_round: 0,
            per_refund: 0,
            per_session: false,
            by_cadence: false,
        }
    }

    const fn and_per_did(self, per_did: u32) -> Self {
        Self { per_did, ..self }
    }

    const fn and_per_round(self, per_round: u32) -> Self {
        Self { per_round, ..self }
    }

    const fn and_per_refund(self, per_refund: u32) -> Self {
        Self { per_refund, ..self }
    }

    const fn and_per_session_of_a_round(self, per_round: u32) -> Self {
        Self {
            per_round,
            per_session: true,
            ..self
        }
    }

    const fn and_per_session_of_a_refund(self, per_refund: u32) -> Self {
        Self {
            per_refund,
            per_session: true,
            ..self
        }
    }

    /// How many that is.
    #[must_use]
    pub fn most(&self, terms: &Terms, rounds: u32, refunds: u32) -> u32 {
        let sessions = if self.per_session {
            u32::from(terms.sessions_max).saturating_add(1)
        } else {
            1
        };
        let of_all = |each: u32, opened: u32| {
            let opened = opened.saturating_add(1);
            each.saturating_mul(sessions).saturating_mul(opened)
        };
        let by_cadence = match u64::from(terms.cadence_seconds) {
            cadence if self.by_cadence && cadence > 0 => WINDOW_SECONDS.div_ceil(cadence),
            _ => 0,
        };
        self.base
            .saturating_add(u32::try_from(by_cadence).unwrap_or(u32::MAX))
            .saturating_add(self.per_did.saturating_mul(terms.dids_max.into()))
            .saturating_add(of_all(self.per_round, rounds))
            .saturating_add(of_all(self.per_refund, refunds))
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        let session = if self.per_session { " and session" } else { "" };
        for (count, what, session) in [
            (self.per_did, "DID", ""),
            (self.per_round, "round", session),
            (self.per_refund, "refund", session),
        ] {
            if count > 0 {
                write!(f, " + {count} a {what}{session}")?;
            }
        }
        if self.by_cadence {
            f.write_str(" + those by cadence")?;
        }
        Ok(())
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTaken => f.write_str("–"),
            Self::Answered => f.write_str("not logged"),
            Self::Admission => f.write_str("as keys are admitted"),
            Self::Quota(quota) => quota.fmt(f),
        }
    }
}

/// What a member can make the aggregator log.
#[must_use]
pub const fn of_member(message: &Message) -> Bound {
    Bound::Quota(match message {
        Message::OptIn(_) => return Bound::Admission,
        Message::HistoryRequest(_) | Message::SeatRequest(_) => return Bound::Answered,
        // Counted only where it was asked for; each explains a signal at least, or is the last one.
        Message::KeptProofs(_) => Quota::of(1_000),
        // Once is enough, and a store that was restored says it again.
        Message::CohortAck(_) => Quota::of(8),
        // Before the set is made, how often a seat is given back is bounded by admission. Later the first one that is
        // meant ends the cohort; what is refused is what comes without that word.
        Message::Leave(_) => Quota::of(8),
        // A new DID, a retry, a proof that was missing. The items of one are as many as a seat may register.
        Message::Register(_) | Message::IndexOpening(_) | Message::RoundRequest(_) => {
            Quota::of(16).and_per_did(2)
        }
        // Its own bound, in deposits and bytes, is narrower: see `aggregator::deposits`.
        Message::UpdateDeposit(_) => Quota::of(32).and_per_did(4),
        // One, one more without its deposits, and those of rounds that are over.
        Message::Response(_) => Quota::of(8).and_per_round(4),
        // Each session may be lost once, and be said again after a restart.
        Message::NonceUpdate(_) | Message::PartialSignature(_) => {
            Quota::of(16).and_per_session_of_a_round(4)
        }
        Message::FallbackSignature(_) => Quota::of(16).and_per_round(16),
        Message::RefundNonces(_) | Message::RefundPartial(_) => {
            Quota::of(16).and_per_session_of_a_refund(4)
        }
        // What a member does not sign, session by session.
        Message::Refused(_) => Quota {
            per_refund: 2,
            ..Quota::of(16).and_per_session_of_a_round(2)
        },
        Message::Accept(_)
        | Message::Waiting(_)
        | Message::Rejected(_)
        | Message::CohortSet(_)
        | Message::Frozen(_)
        | Message::Registered(_)
        | Message::IndexChallenge(_)
        | Message::RoundOpen(_)
        | Message::Deposited(_)
        | Message::NonceRequest(_)
        | Message::SignRequest(_)
        | Message::Proofs(_)
        | Message::FallbackRequest(_)
        | Message::RefundOpen(_)
        | Message::RefundRequest(_)
        | Message::RefundComplete(_)
        | Message::RoundResult(_)
        | Message::RoundFailed(_)
        | Message::History(_)
        | Message::ProofRequest(_)
        | Message::SeatState(_)
        | Message::Release(_)
        | Message::Ended(_)
        | Message::Reform(_)
        | Message::Relays(_)
        | Message::Invite(_)
        | Message::Subscribe(_) => return Bound::NotTaken,
    })
}

/// What the aggregator can make a member log.
#[must_use]
pub const fn of_aggregator(message: &Message) -> Bound {
    Bound::Quota(match message {
        Message::ProofRequest(_) => return Bound::Answered,
        // What is said once, or a few times while a seat is decided about, and again by a store that was restored.
        Message::Accept(_)
        | Message::Waiting(_)
        | Message::Rejected(_)
        | Message::CohortSet(_)
        | Message::Frozen(_)
        | Message::SeatState(_)
        | Message::Release(_)
        | Message::Ended(_)
        | Message::Reform(_)
        | Message::Relays(_)
        | Message::Invite(_) => Quota::of(16),
        // Answers to what a member may say as often.
        Message::Refused(_) | Message::Registered(_) | Message::Deposited(_) => {
            Quota::of(64).and_per_did(6).and_per_round(8)
        }
        Message::IndexChallenge(_) => Quota::of(16).and_per_did(2),
        // By cadence, by requests, and by an operator who tries again.
        Message::RoundOpen(_) => Quota {
            by_cadence: true,
            ..Quota::of(MAX_REQUESTED_ROUNDS.saturating_mul(3))
        },
        Message::NonceRequest(_) | Message::SignRequest(_) => {
            Quota::of(16).and_per_session_of_a_round(4)
        }
        Message::Proofs(_) => Quota::of(8).and_per_round(4),
        Message::FallbackRequest(_) => Quota {
            by_cadence: true,
            ..Quota::of(16).and_per_round(16)
        },
        // Whatever somebody pays to the address gets a session of its own.
        Message::RefundOpen(_) => Quota::of(64),
        Message::RefundRequest(_) => Quota::of(16).and_per_session_of_a_refund(4),
        Message::RefundComplete(_) => Quota::of(128).and_per_round(16).and_per_refund(4),
        // With those that are told once more, to whoever was away for long.
        Message::RoundResult(_) | Message::RoundFailed(_) => Quota {
            by_cadence: true,
            ..Quota::of(64).and_per_round(16)
        },
        // Counted only where it was asked for; a page leads to the request for the next.
        Message::History(_) => Quota::of(10_000),
        Message::OptIn(_)
        | Message::CohortAck(_)
        | Message::Register(_)
        | Message::IndexOpening(_)
        | Message::RoundRequest(_)
        | Message::UpdateDeposit(_)
        | Message::Response(_)
        | Message::NonceUpdate(_)
        | Message::PartialSignature(_)
        | Message::FallbackSignature(_)
        | Message::RefundNonces(_)
        | Message::RefundPartial(_)
        | Message::HistoryRequest(_)
        | Message::KeptProofs(_)
        | Message::SeatRequest(_)
        | Message::Leave(_)
        | Message::Subscribe(_) => return Bound::NotTaken,
    })
}

/// What was logged in the window that is running. As many numbers as there are seats and types of messages.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counted {
    since: UnixTime,
    /// How many hours it has room for beside the first.
    #[serde(default)]
    hours_more: u32,
    rounds: u32,
    requested_rounds: u32,
    refunds: u32,
    by_sender: BTreeMap<Seat, BTreeMap<String, u32>>,
}

/// What a member counts has one sender, which holds no seat.
pub(super) const THE_AGGREGATOR: Seat = Seat(0);

impl Counted {
    /// Whether the window is over. Also where the clock was wrong by more than a window when it began.
    const fn is_over(&self, now: UnixTime) -> bool {
        now.0.abs_diff(self.since.0) >= WINDOW_SECONDS
    }

    /// A signal was confirmed: a new window begins.
    pub(super) fn begin(&mut self, now: UnixTime) {
        *self = Self {
            since: now,
            hours_more: self.hours_more_at(now),
            ..Self::default()
        };
    }

    fn renew(&mut self, now: UnixTime) {
        if self.is_over(now) {
            self.begin(now);
        }
    }

    /// The hours beside the first that a window has room for which begins now.
    fn hours_more_at(&self, now: UnixTime) -> u32 {
        if self.since == UnixTime::default() {
            return 0;
        }
        if !self.is_over(now) {
            return self.hours_more;
        }
        let hours = now.since(self.since) / WINDOW_SECONDS;
        let hours = u32::try_from(hours).unwrap_or(MAX_HOURS).min(MAX_HOURS);
        hours.saturating_sub(1)
    }

    /// Whether one more message of this type may be logged.
    pub(super) fn has_room(
        &self,
        now: UnixTime,
        terms: &Terms,
        sender: Seat,
        kind: &str,
        bound: Bound,
    ) -> bool {
        let Bound::Quota(quota) = bound else {
            return true;
        };
        let counted = self.by_sender.get(&sender);
        let counted = counted.and_then(|kinds| kinds.get(kind));
        let most = quota.most(terms, self.rounds, self.refunds);
        let most = most.saturating_mul(self.hours_more.saturating_add(1));
        self.is_over(now) || counted.is_none_or(|count| *count < most)
    }

    /// A message of this type is logged.
    pub(super) fn count(&mut self, now: UnixTime, sender: Seat, kind: &str, bound: Bound) {
        if !matches!(bound, Bound::Quota(_)) {
            return;
        }
        self.renew(now);
        let counted = self.by_sender.entry(sender).or_default();
        let count = counted.entry(kind.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// A round was opened.
    pub(super) fn round_opened(&mut self, now: UnixTime) {
        self.renew(now);
        self.rounds = self.rounds.saturating_add(1);
    }

    /// A round is opened because of what members say is waiting.
    pub(super) fn round_requested(&mut self, now: UnixTime) {
        self.renew(now);
        self.requested_rounds = self.requested_rounds.saturating_add(1);
    }

    /// Whether one may be opened for that.
    pub(super) const fn may_open_on_request(&self, now: UnixTime) -> bool {
        self.is_over(now) || self.requested_rounds < MAX_REQUESTED_ROUNDS
    }

    /// A refund session was opened.
    pub(super) fn refund_opened(&mut self, now: UnixTime) {
        self.renew(now);
        self.refunds = self.refunds.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::network::Network;
    use crate::protocol::terms::{CohortBeacon, Salt};

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const BOUND: Bound = Bound::Quota(Quota::of(10));

    fn terms() -> Terms {
        let aggregator = OwnKey::from_bytes(&[1; 32]).unwrap().public();
        let salt = Salt::from_bytes([1; 16]);
        Terms::with_defaults(aggregator, Network::Regtest, CohortBeacon::Smt, salt, NOW)
    }

    /// How many of a type are heard at a time.
    fn heard(counted: &mut Counted, now: UnixTime, kind: &str) -> u32 {
        let terms = terms();
        (0..1_000_000)
            .take_while(|_| {
                let room = counted.has_room(now, &terms, THE_AGGREGATOR, kind, BOUND);
                if room {
                    counted.count(now, THE_AGGREGATOR, kind, BOUND);
                }
                room
            })
            .fold(0, |sum, _| sum + 1)
    }

    #[test]
    fn a_window_has_room_for_the_hours_of_silence_before_it() {
        let mut counted = Counted::default();
        assert_eq!(heard(&mut counted, NOW, "a"), 10);
        assert_eq!(heard(&mut counted, NOW, "b"), 10, "each type");
        assert_eq!(heard(&mut counted, NOW.plus(3_599), "a"), 0);
        assert_eq!(heard(&mut counted, NOW.plus(3_600), "a"), 10);
        let later = NOW.plus(3_600 + 24 * 3_600);
        assert_eq!(heard(&mut counted, later, "a"), 240, "a day of silence");
        assert_eq!(heard(&mut counted, later.plus(3_600), "a"), 10);
        // A year is the most; and a clock that was wrong does not hold a window open.
        let centuries = later.plus(1_000 * 365 * 86_400);
        assert_eq!(heard(&mut counted, centuries, "a"), 87_600);
        assert_eq!(heard(&mut counted, later, "a"), 10);
    }

    #[test]
    fn a_signal_that_confirms_begins_a_window_and_takes_no_room_away() {
        let mut counted = Counted::default();
        assert_eq!(heard(&mut counted, NOW, "a"), 10);
        counted.begin(NOW.plus(1));
        assert_eq!(heard(&mut counted, NOW.plus(1), "a"), 10);
        let later = NOW.plus(1 + 48 * 3_600);
        counted.begin(later);
        assert_eq!(heard(&mut counted, later, "a"), 480);
        counted.begin(later.plus(5));
        assert_eq!(heard(&mut counted, later.plus(5), "a"), 480);
    }
}
