//! Wall and monotonic clock, compared: a machine that was resumed from a snapshot shows in them.
//!
//! The copy that was resumed before may have used the nonces in this memory. So whenever the two clocks have gone on
//! by different times, all secret nonces are dropped, before anything else is handled (DESIGN §5).

use tokio::time::Instant;

use crate::time::UnixTime;

/// Seconds by which the clocks may differ: more is a resumed snapshot, or a clock that was set.
const SLIP_SECONDS: u64 = 60;

/// Seconds after which the comparison starts anew, so that a slow drift is none.
const COMPARED_EVERY: u64 = 10;

/// How a clock moved against the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slip {
    /// The wall clock is ahead of what passed, by seconds: suspended, resumed from a snapshot, or set.
    Ahead(u64),
    /// The wall clock was set back, by seconds against what passed.
    Back(u64),
}

/// The last comparison.
#[derive(Debug)]
pub(super) struct Clocks {
    wall: UnixTime,
    monotonic: Instant,
}

impl Clocks {
    pub(super) const fn new(wall: UnixTime, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// Compares the clocks. A slip is told once.
    pub(super) fn compare(&mut self, wall: UnixTime, monotonic: Instant) -> Option<Slip> {
        let passed = monotonic
            .saturating_duration_since(self.monotonic)
            .as_secs();
        let expected = self.wall.plus(passed);
        let slip = if wall < self.wall || wall.plus(SLIP_SECONDS) < expected {
            Some(Slip::Back(expected.since(wall)))
        } else if wall > expected.plus(SLIP_SECONDS) {
            Some(Slip::Ahead(wall.since(expected)))
        } else {
            None
        };
        if slip.is_some() || passed > COMPARED_EVERY {
            *self = Self { wall, monotonic };
        }
        slip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn clocks_that_agree_within_a_minute_are_left_alone() {
        let start = Instant::now();
        let mut clocks = Clocks::new(UnixTime(1_000_000), start);
        let (mut wall, mut passed) = (1_000_000, 0);
        // A drift of five seconds in eleven, for ever, is no snapshot.
        for _ in 0..100 {
            wall += 16;
            passed += 11;
            let monotonic = start + Duration::from_secs(passed);
            assert_eq!(clocks.compare(UnixTime(wall), monotonic), None);
        }
    }

    #[test]
    fn more_than_a_minute_is_a_slip_in_either_direction_and_told_once() {
        let start = Instant::now();
        let at = |passed| start + Duration::from_secs(passed);
        for (wall, passed, slip) in [
            (1_000_060, 0, None),
            (1_000_061, 0, Some(Slip::Ahead(61))),
            (1_000_100, 5, Some(Slip::Ahead(95))),
            (1_000_000, 60, None),
            (1_000_000, 61, Some(Slip::Back(61))),
            // Whatever passed: time does not run backwards.
            (999_999, 0, Some(Slip::Back(1))),
            (913_600, 10, Some(Slip::Back(86_410))),
        ] {
            let mut clocks = Clocks::new(UnixTime(1_000_000), start);
            assert_eq!(clocks.compare(UnixTime(wall), at(passed)), slip, "{wall}");
            assert_eq!(clocks.compare(UnixTime(wall), at(passed)), None, "{wall}");
        }
    }
}
