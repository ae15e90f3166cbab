//! Why a round ended without a signature, and who it is said of.

use serde::{Deserialize, Serialize};

use super::evidence::{Blame, Signed};
use super::ids::{Round, Seat};
use super::message::NonceUpdate;
use super::set::CohortSet;
use crate::hash::CohortId;
use crate::keys::NostrKey;

/// A session of a round that was not signed because a member could not, or says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostSession {
    /// The session.
    pub attempt: u32,
    /// The seat whose nonces were not those of the session.
    pub seat: Seat,
    /// The seat's own signed word that it lost them. Without it this is what the aggregator says: the member signed
    /// with other nonces than the session was made of, or opened the next one without a word about this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Box<Signed<NonceUpdate>>>,
}

impl LostSession {
    /// Whether the seat's own signed word shows it. A lost nonce is an accident before it is anything else: this is
    /// no blame, but who has accidents in every session of every round stops the cohort all the same.
    #[must_use]
    pub fn is_shown(&self, cohort: &CohortId, round: Round, member: &NostrKey) -> bool {
        self.shown.as_ref().is_some_and(|signed| {
            let said = &signed.content;
            said.lost
                && said.round == round
                && said.attempt == self.attempt.saturating_add(1)
                && signed.verifies(cohort, *member)
        })
    }
}

/// Lost sessions that are looked at: no terms allow more in a round.
const MAX_LOST: usize = 16;

/// Why a round failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause", deny_unknown_fields)]
pub enum RoundCause {
    /// These seats did not respond in time. A statement, never evidence.
    NoResponse {
        /// The absent seats.
        absent: Vec<Seat>,
    },
    /// These seats did not sign in time. A statement, never evidence.
    NoSignature {
        /// The absent seats.
        absent: Vec<Seat>,
    },
    /// The sessions the terms allow are used up.
    SessionsUsedUp {
        /// Who could not sign which of them, the first of each session.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lost: Vec<LostSession>,
    },
    /// The tip can not pay for the signal, or is gone.
    NoFunds,
    /// The chain's tip moved under the round.
    TipMoved,
    /// The operator ended the round.
    Operator,
}

impl RoundCause {
    /// The seats it is said of: those that did not answer, or those that lost the most sessions. Who had one accident
    /// beside somebody that had three is not named for it.
    #[must_use]
    pub fn named(&self) -> Vec<Seat> {
        match self {
            Self::NoResponse { absent } | Self::NoSignature { absent } => absent.clone(),
            Self::SessionsUsedUp { lost } => {
                let count = |seat: Seat| lost.iter().filter(|lost| lost.seat == seat).count();
                let most = lost.iter().map(|lost| count(lost.seat)).max();
                let mut seats: Vec<Seat> = lost.iter().map(|lost| lost.seat).collect();
                seats.sort_unstable();
                seats.dedup();
                seats.retain(|seat| Some(count(*seat)) == most);
                seats
            }
            Self::NoFunds | Self::TipMoved | Self::Operator => Vec::new(),
        }
    }

    /// The same with nothing shown that does not show it: what is left verifies from the bodies alone.
    #[must_use]
    pub fn verified(mut self, cohort: &CohortId, round: Round, set: &CohortSet) -> Self {
        if let Self::SessionsUsedUp { lost } = &mut self {
            lost.truncate(MAX_LOST);
            for lost in lost {
                let member = set.key_of(lost.seat);
                if !member.is_some_and(|member| lost.is_shown(cohort, round, &member)) {
                    lost.shown = None;
                }
            }
        }
        self
    }
}

/// A round ended without a signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundFailed {
    /// The round.
    pub round: Round,
    /// Why.
    pub why: RoundCause,
    /// Members shown to have sent something invalid, with the evidence.
    pub blamed: Vec<Blame>,
}
