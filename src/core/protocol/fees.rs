//! Which fee rate a transaction pays: what the chain backend estimates, within bounds, or a fixed rate without one.
//!
//! The bounds are the operator's. What the terms of a cohort and the limits of its members allow holds besides.

use bitcoin::FeeRate;

/// The bounds of fee rates on one network, in sat/vB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeePolicy {
    /// Never less: nodes do not relay below 1, and some ask for more.
    pub floor: u32,
    /// Never more, whatever is estimated.
    pub ceiling: u32,
    /// When there is no estimate.
    pub fallback: u32,
}

impl Default for FeePolicy {
    fn default() -> Self {
        Self {
            floor: 1,
            ceiling: 200,
            fallback: 2,
        }
    }
}

/// A fee rate, and what decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenRate {
    /// The rate.
    pub rate: FeeRate,
    /// What decided.
    pub by: RateSource,
}

/// What decided a fee rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateSource {
    /// The backend's estimate, as it is.
    Estimate,
    /// The floor: the estimate is lower.
    Floor,
    /// The ceiling: the estimate is higher.
    Ceiling,
    /// The fixed rate: there is no estimate.
    Fallback,
}

impl FeePolicy {
    /// The rate to pay. Where the floor is above the ceiling, the ceiling holds.
    #[must_use]
    pub fn choose(&self, estimate: Option<FeeRate>) -> ChosenRate {
        let (floor, ceiling) = (self.floor_rate(), self.ceiling_rate());
        let (wanted, by) = match estimate {
            Some(rate) => (rate, RateSource::Estimate),
            None => (
                FeeRate::from_sat_per_vb_u32(self.fallback),
                RateSource::Fallback,
            ),
        };
        let (rate, by) = if wanted > ceiling {
            (ceiling, RateSource::Ceiling)
        } else if wanted < floor {
            (floor.min(ceiling), RateSource::Floor)
        } else {
            (wanted, by)
        };
        ChosenRate { rate, by }
    }

    /// The rate to pay in whole sat/vB, rounded up, as the terms and the signals of cohorts count.
    #[must_use]
    pub fn choose_whole(&self, estimate: Option<u32>) -> u32 {
        let chosen = self.choose(estimate.map(FeeRate::from_sat_per_vb_u32));
        u32::try_from(chosen.rate.to_sat_per_vb_ceil()).unwrap_or(u32::MAX)
    }

    /// The lowest rate.
    #[must_use]
    pub const fn floor_rate(&self) -> FeeRate {
        FeeRate::from_sat_per_vb_u32(self.floor)
    }

    /// The highest rate.
    #[must_use]
    pub const fn ceiling_rate(&self) -> FeeRate {
        FeeRate::from_sat_per_vb_u32(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FeePolicy = FeePolicy {
        floor: 3,
        ceiling: 40,
        fallback: 5,
    };

    #[test]
    fn estimates_stay_within_the_bounds_and_their_absence_has_a_rate() {
        let vb = |rate| FeeRate::from_sat_per_vb_u32(rate);
        for (estimate, rate, by) in [
            (None, 5, RateSource::Fallback),
            (Some(0), 3, RateSource::Floor),
            (Some(2), 3, RateSource::Floor),
            (Some(3), 3, RateSource::Estimate),
            (Some(17), 17, RateSource::Estimate),
            (Some(40), 40, RateSource::Estimate),
            (Some(41), 40, RateSource::Ceiling),
            (Some(u32::MAX), 40, RateSource::Ceiling),
        ] {
            let chosen = POLICY.choose(estimate.map(vb));
            assert_eq!(chosen, ChosenRate { rate: vb(rate), by }, "{estimate:?}");
            assert_eq!(POLICY.choose_whole(estimate), rate);
        }
        // Fractions of a sat/vB are kept where the transaction can pay them, and rounded up where it counts whole.
        let between = FeeRate::from_sat_per_kwu(1_000);
        assert_eq!(POLICY.choose(Some(between)).rate, between);
    }

    #[test]
    fn bounds_that_cross_give_the_lower_rate() {
        let crossed = FeePolicy {
            floor: 9,
            ceiling: 4,
            fallback: 7,
        };
        for estimate in [None, Some(1), Some(6), Some(100)] {
            assert_eq!(crossed.choose_whole(estimate), 4, "{estimate:?}");
        }
    }
}
