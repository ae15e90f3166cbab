//! What a member signs without asking anybody.
//!
//! The policy is an input like others, so that the log says which one held when something was signed. With the policy
//! of today, a replay of yesterday's log could refuse what was signed then, and forget that it may confirm (rules 4
//! and 10).

use bitcoin::{Amount, FeeRate};
use serde::{Deserialize, Serialize};

use super::Participant;
use crate::protocol::effect::Step;

/// What this member says for a DID that has nothing to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Decline {
    /// "Nothing, and skip the round if nobody has anything": costs nobody anything, tells the aggregator.
    #[default]
    Idle,
    /// "No update", which with an SMT beacon looks like an update to everybody.
    NoUpdate,
}

/// What this member signs without asking anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningPolicy {
    /// Highest fee rate in sat/vB; the terms' ceiling applies too.
    pub max_fee_rate: u32,
    /// Highest fee of one transaction in sat.
    pub max_fee_sat: u64,
    /// What to say for DIDs without an update.
    pub decline: Decline,
}

impl SigningPolicy {
    /// The highest fee rate under terms with this ceiling, in sat/vB.
    #[must_use]
    pub fn fee_rate_under(&self, ceiling: u32) -> FeeRate {
        FeeRate::from_sat_per_vb_u32(self.max_fee_rate.min(ceiling))
    }

    /// The highest fee of one transaction.
    #[must_use]
    pub const fn max_fee(&self) -> Amount {
        Amount::from_sat(self.max_fee_sat)
    }
}

impl Participant {
    /// The policy that the log states; `None` for a member whose log is older than policies in it.
    #[must_use]
    pub fn stated_policy(&self) -> Option<SigningPolicy> {
        self.policy_is_stated.then_some(self.policy)
    }

    /// From now on this policy holds. What was signed before stays signed.
    pub(super) fn follow_policy(&mut self, policy: SigningPolicy) -> Step {
        self.policy = policy;
        self.policy_is_stated = true;
        Step::accepted()
    }
}
