//! What is known of how the members of a set behave: rounds they missed, and what they sent that is evidence.
//!
//! It follows from the reports of a role's machine. To the aggregator an absence is what it saw; to a member it is what
//! the aggregator says. Evidence is the same for both: signed bodies that anybody can verify.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::effect::Report;
use super::evidence::Blame;
use super::ids::{Round, Seat};
use super::round_failed::RoundCause;
use super::set::CohortSet;
use serde::{Deserialize, Serialize};

/// Pieces of evidence that are kept of one seat: the last ones.
pub const MAX_OFFENCES: usize = 4;

/// Rounds in a row without an answer after which whoever operates the cohort is told how to go on without the seat,
/// unless told otherwise. It is no term: nothing that a member checks depends on it.
pub const STALLED_AFTER: u16 = 2;

/// Something that a member sent and that is evidence against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offence {
    /// The signed bodies.
    pub blame: Blame,
    /// Whether they re-verified here.
    pub proved: bool,
}

/// How one seat behaves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatConduct {
    /// Rounds in a row that failed, or went on without it, because it did not answer, or lost its nonces again and
    /// again.
    pub missed: u16,
    /// The last of them.
    pub last_missed: Option<Round>,
    /// What it sent, oldest first.
    pub offences: VecDeque<Offence>,
}

impl SeatConduct {
    /// Whether it is reason enough to go on without the seat: evidence, or so many rounds missed in a row.
    #[must_use]
    pub fn stalls(&self, after: u16) -> bool {
        self.missed >= after || self.offences.iter().any(|offence| offence.proved)
    }
}

/// How the seats of a set behave.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conduct {
    seats: BTreeMap<Seat, SeatConduct>,
    /// Seats that the open round goes on without, or because of.
    absent: BTreeSet<Seat>,
}

impl Conduct {
    /// What is known of a seat, if anything.
    #[must_use]
    pub fn of(&self, seat: Seat) -> Option<&SeatConduct> {
        self.seats.get(&seat)
    }

    /// The seats that are reason enough to go on without them: see [`SeatConduct::stalls`].
    pub fn stalling(&self, after: u16) -> impl Iterator<Item = Seat> + '_ {
        let seats = self.seats.iter();
        seats
            .filter(move |(_, conduct)| conduct.stalls(after))
            .map(|(seat, _)| *seat)
    }

    /// Takes note of a report about a set.
    pub(super) fn note(&mut self, report: &Report, set: &CohortSet) {
        match report {
            Report::FallbackOpened {
                round, absent, why, ..
            } => {
                // Who responds and then signs nothing stops the round as well as who is away.
                let mut named = why.as_ref().map(RoundCause::named).unwrap_or_default();
                named.extend(absent);
                self.missed(*round, &named, set);
                self.absent = named.into_iter().collect();
            }
            Report::RoundFailed { round, why } => {
                self.absent.clear();
                let named = why.named();
                if !named.is_empty() {
                    self.missed(*round, &named, set);
                    self.answered(|seat| !named.contains(&seat));
                }
            }
            Report::SignalSigned { .. } | Report::RoundEmpty { .. } => {
                let absent = std::mem::take(&mut self.absent);
                self.answered(|seat| !absent.contains(&seat));
            }
            Report::MemberBlamed { blame, proved } => {
                let Some(seat) = set.seat_of(&blame.member) else {
                    return;
                };
                let offences = &mut self.seats.entry(seat).or_default().offences;
                if offences.iter().any(|known| known.blame == *blame) {
                    return;
                }
                if offences.len() >= MAX_OFFENCES {
                    offences.pop_front();
                }
                offences.push_back(Offence {
                    blame: blame.clone(),
                    proved: *proved,
                });
            }
            _ => {}
        }
    }

    fn missed(&mut self, round: Round, absent: &[Seat], set: &CohortSet) {
        // What the aggregator says of seats that nobody holds is not kept.
        for seat in absent.iter().filter(|seat| set.key_of(**seat).is_some()) {
            let conduct = self.seats.entry(*seat).or_default();
            if conduct.last_missed != Some(round) {
                conduct.missed = conduct.missed.saturating_add(1);
                conduct.last_missed = Some(round);
            }
        }
    }

    fn answered(&mut self, who: impl Fn(Seat) -> bool) {
        for (seat, conduct) in &mut self.seats {
            if who(*seat) {
                conduct.missed = 0;
            }
        }
    }
}
