//! Offering the members of a cohort to go on without some of them.

use super::Aggregator;
use crate::keys::NostrKey;
use crate::protocol::conduct::Conduct;
use crate::protocol::effect::{Effect, Ignored, Report, Step, To};
use crate::protocol::ids::Seat;
use crate::protocol::message::Message;
use crate::protocol::reform::{LeftOut, MAX_REASON, Offer, Reform};
use crate::protocol::terms::Terms;

impl Aggregator {
    /// Tells all members of a new cohort without some seats. Also after the end: a member that left is a reason.
    pub(super) fn reform(
        &mut self,
        terms: &str,
        relays: Vec<String>,
        without: &[Seat],
        reason: &str,
    ) -> Step {
        let contradiction = |text: &str| Step::ignored(Ignored::Contradiction(text.to_owned()));
        let Some((set, _)) = &self.set else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let Ok((parsed, cohort)) = Terms::parse(terms) else {
            return contradiction("the new terms are not valid");
        };
        if parsed.aggregator != self.terms.aggregator || cohort == self.cohort {
            return contradiction("the new terms are not of another cohort of this aggregator");
        }
        if without.is_empty() || without.iter().any(|seat| set.key_of(*seat).is_none()) {
            return contradiction("name seats of the set to go on without");
        }
        let left = |seat: &Seat| {
            let conduct = self.conduct.of(*seat);
            let offences = conduct.iter().flat_map(|conduct| &conduct.offences);
            LeftOut {
                seat: *seat,
                missed: conduct.map_or(0, |conduct| conduct.missed),
                blamed: offences.map(|offence| offence.blame.clone()).collect(),
            }
        };
        let mut seats = without.to_vec();
        seats.sort_unstable();
        seats.dedup();
        let without: Vec<LeftOut> = seats.iter().map(left).collect();
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let proved = |left: &LeftOut| (left.clone(), vec![true; left.blamed.len()]);
        self.offer = Some(Offer {
            cohort,
            terms: parsed,
            relays: relays.clone(),
            without: without.iter().map(proved).collect(),
            reason: reason.clone(),
        });
        Step::with(vec![
            Effect::Send {
                to: To::Channel,
                message: Message::Reform(Reform {
                    terms: terms.to_owned(),
                    relays,
                    without,
                    reason,
                }),
            },
            Effect::Report(Report::ReformOffered {
                cohort,
                without: seats,
            }),
        ])
    }

    /// The members' keys but for these seats.
    #[must_use]
    pub fn members_without(&self, without: &[Seat]) -> Vec<NostrKey> {
        let seats = (0..).map(Seat).zip(self.member_keys());
        seats
            .filter(|(seat, _)| !without.contains(seat))
            .map(|(_, key)| key)
            .collect()
    }

    /// How the seats behave.
    #[must_use]
    pub const fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// The cohort that was offered in the place of this one.
    #[must_use]
    pub const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }
}
