//! An offer to go on without some members.

use super::Participant;
use crate::protocol::conduct::{Conduct, MAX_OFFENCES};
use crate::protocol::effect::{Effect, Ignored, Report, Step};
use crate::protocol::reform::{LeftOut, MAX_REASON, Offer, Reform};
use crate::protocol::terms::Terms;

impl Participant {
    /// Keeps an offer; its user decides. What it says of others is checked where it can be.
    pub(super) fn reform(&mut self, reform: Reform) -> Step {
        let Some((set, keys)) = &self.set else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let (terms, cohort) = match Terms::parse(&reform.terms) {
            Ok(parsed) => parsed,
            Err(error) => return Step::ignored(Ignored::Contradiction(error.to_string())),
        };
        let same = terms.aggregator == self.terms.aggregator
            && terms.network == self.terms.network
            && cohort != self.cohort;
        let known = |left: &LeftOut| set.key_of(left.seat).is_some();
        let few = reform.without.len() <= set.keys.len();
        if !same || !few || reform.without.is_empty() || !reform.without.iter().all(known) {
            let text = "an offer that is not of this cohort's members and aggregator";
            return Step::ignored(Ignored::Contradiction(text.to_owned()));
        }
        if self
            .offer
            .as_ref()
            .is_some_and(|offer| offer.cohort == cohort)
        {
            return Step::ignored(Ignored::Duplicate);
        }
        let verified = |mut left: LeftOut| {
            left.blamed.truncate(MAX_OFFENCES);
            let key = set.key_of(left.seat);
            let proved = left
                .blamed
                .iter()
                .map(|blame| Some(blame.member) == key && blame.verify(&self.cohort, keys).is_ok());
            let proved = proved.collect();
            (left, proved)
        };
        let without: Vec<_> = reform.without.into_iter().map(verified).collect();
        let seats = without.iter().map(|(left, _)| left.seat).collect();
        self.offer = Some(Offer {
            cohort,
            terms,
            relays: reform.relays,
            without,
            reason: reform.reason.chars().take(MAX_REASON).collect(),
        });
        Step::with(vec![Effect::Report(Report::ReformOffered {
            cohort,
            without: seats,
        })])
    }

    /// How the seats behave, as far as this member was told.
    #[must_use]
    pub const fn conduct(&self) -> &Conduct {
        &self.conduct
    }

    /// The cohort that the aggregator offered in the place of this one, the latest.
    #[must_use]
    pub const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }
}
