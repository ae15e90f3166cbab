//! Names of the things a cohort is made of (DESIGN §1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::CohortId;

/// A member's place in a cohort: its position in the order of acceptance, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seat(pub u16);

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One update opportunity of a cohort, from its opening to its signal. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Round(pub u32);

impl Round {
    /// The round after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the sessions of a cohort are about: a round, or the refund of an output that was paid to the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The signal of a round, and the refunds of its change.
    Round(Round),
    /// The refund of an output that is not the change of a signal: the aggregator counts them, from 1.
    Deposit(u32),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Round(round) => write!(f, "{round}"),
            Self::Deposit(number) => write!(f, "deposit {number}"),
        }
    }
}

/// One MuSig2 attempt. The first about a subject is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId {
    /// The cohort.
    pub cohort: CohortId,
    /// What it is about.
    pub subject: Subject,
    /// The attempt at it.
    pub attempt: u32,
}

impl SessionId {
    /// A session of a round.
    #[must_use]
    pub const fn of_round(cohort: CohortId, round: Round, attempt: u32) -> Self {
        Self {
            cohort,
            subject: Subject::Round(round),
            attempt,
        }
    }

    /// The round it belongs to, if it belongs to one.
    #[must_use]
    pub const fn round(&self) -> Option<Round> {
        match self.subject {
            Subject::Round(round) => Some(round),
            Subject::Deposit(_) => None,
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.cohort.short(),
            self.subject,
            self.attempt
        )
    }
}

/// Most rungs of a fee ladder.
pub const MAX_RUNGS: u8 = 3;

/// Most inputs of a signal: the tip and three top-ups.
pub const MAX_INPUTS: u8 = 4;

/// One message a session signs. The order is the session's: signals by rung and input, then refunds by rung.
///
/// Text, on the wire and in the session hash: `signal/<rung>` for the first input, which is the tip;
/// `signal/<rung>/<input>` for a further one, counted from 1; `refund/<rung>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// An input of the transaction that carries the beacon signal.
    Signal {
        /// The rung of the fee ladder, 1 to [`MAX_RUNGS`].
        rung: u8,
        /// The input, 0 to [`MAX_INPUTS`] - 1.
        input: u8,
    },
    /// The refund of an output at the beacon address: of the change of that rung; of a deposit always `refund/1`.
    Refund {
        /// The rung whose change it spends, 1 to [`MAX_RUNGS`].
        rung: u8,
    },
}

/// Text that is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a label: signal/1 to signal/{MAX_RUNGS}, signal/<rung>/<input> or refund/<rung>"
)]
pub struct NotALabel(String);

impl Label {
    /// The lowest rung's first input: what a session about a round always signs.
    pub const SIGNAL: Self = Self::Signal { rung: 1, input: 0 };

    /// The refund of a deposit.
    pub const REFUND: Self = Self::Refund { rung: 1 };

    /// The labels a session about a round may sign with this many rungs and inputs, in order.
    #[must_use]
    pub fn of_round(rungs: u8, inputs: u8, refunds: bool) -> Vec<Self> {
        let rungs = 1..=rungs.clamp(1, MAX_RUNGS);
        let signals = rungs.clone().flat_map(|rung| {
            (0..inputs.clamp(1, MAX_INPUTS)).map(move |input| Self::Signal { rung, input })
        });
        let refunds = rungs.clone().filter(|_| refunds);
        signals
            .chain(refunds.map(|rung| Self::Refund { rung }))
            .collect()
    }

    /// The rung it belongs to.
    #[must_use]
    pub const fn rung(self) -> u8 {
        match self {
            Self::Signal { rung, .. } | Self::Refund { rung } => rung,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal { rung, input: 0 } => write!(f, "signal/{rung}"),
            Self::Signal { rung, input } => write!(f, "signal/{rung}/{input}"),
            Self::Refund { rung } => write!(f, "refund/{rung}"),
        }
    }
}

impl FromStr for Label {
    type Err = NotALabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Every label there is, so that there is one spelling of each.
        Self::of_round(MAX_RUNGS, MAX_INPUTS, true)
            .into_iter()
            .find(|label| label.to_string() == text)
            .ok_or_else(|| NotALabel(text.chars().take(32).collect()))
    }
}

impl Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_one_spelling_and_an_order() {
        let all = Label::of_round(3, 2, true);
        let names: Vec<String> = all.iter().map(Label::to_string).collect();
        assert_eq!(
            names,
            [
                "signal/1",
                "signal/1/1",
                "signal/2",
                "signal/2/1",
                "signal/3",
                "signal/3/1",
                "refund/1",
                "refund/2",
                "refund/3"
            ]
        );
        assert!(all.is_sorted());
        for (label, name) in all.iter().zip(&names) {
            assert_eq!(name.parse(), Ok(*label));
            assert_eq!(serde_json::to_string(label).unwrap(), format!("{name:?}"));
        }
        assert_eq!(Label::of_round(1, 1, false), [Label::SIGNAL]);
        for wrong in [
            "signal",
            "signal/0",
            "signal/4",
            "signal/1/0",
            "signal/1/4",
            "signal/01",
            "refund/1/1",
            "",
        ] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong}");
        }
    }
}
