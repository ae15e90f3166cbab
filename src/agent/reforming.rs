//! Going on without some members: the aggregator's offer, and what a member makes of it.

use rand::RngCore as _;

use super::error::AgentError;
use super::node::{Machine, Node, NodeInput};
use super::routing::lists_beacon_of;
use super::runtime::Agent;
use crate::did::Document;
use crate::hash::CohortId;
use crate::keys::OwnKey;
use crate::nostr::RelayUrl;
use crate::protocol::admission::Admission;
use crate::protocol::aggregator::{AggregatorInput, Decision};
use crate::protocol::ids::Seat;
use crate::protocol::reform::Offer;
use crate::protocol::terms::{OutputPolicy, Salt, Terms};
use crate::store::Role;

impl Node {
    /// The cohort that was offered in the place of this one.
    pub(super) fn offer(&self) -> Option<&Offer> {
        match &self.machine {
            Machine::Aggregator(machine) => machine.offer(),
            Machine::Participant(machine) => machine.offer(),
        }
    }
}

impl Agent {
    /// Makes a new cohort with the terms of one of this agent's, without some of its seats, and offers it to the others
    /// in one message on the old channel. Each of them vouches with its old seat's key for the one of its new seat.
    ///
    /// # Errors
    /// [`AgentError`]: nothing was offered.
    pub fn reform_cohort(
        &mut self,
        cohort: CohortId,
        without: &[Seat],
        reason: &str,
        opt_in_seconds: u64,
    ) -> Result<CohortId, AgentError> {
        let id = (cohort, Role::Aggregator);
        let node = self
            .nodes
            .get(&id)
            .ok_or(AgentError::UnknownCohort(cohort))?;
        let Machine::Aggregator(machine) = &node.machine else {
            return Err(AgentError::Defect("an aggregator's node is not one"));
        };
        let Some((set, _)) = machine.set() else {
            return Err(AgentError::Refused(
                "its set is not made yet: release a seat with `cohort reject`, and another one can take it".into(),
            ));
        };
        if let Some(seat) = without.iter().find(|seat| set.key_of(**seat).is_none()) {
            return Err(AgentError::Refused(format!("it has no seat {seat}")));
        }
        let remaining = machine.members_without(without);
        let mut salt = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut salt);
        let terms = terms_without(
            node.terms(),
            remaining.len(),
            Salt::from_bytes(salt),
            self.now().plus(opt_in_seconds),
        )?;
        let content = terms.canonical();
        let new = self.create_cohort(terms, Vec::new())?;
        let invite = AggregatorInput::Decide(Decision::Invite { keys: remaining });
        self.command_aggregator(new, invite)?;
        let relays = self.relay_hints();
        let relays = relays.iter().map(ToString::to_string).collect();
        let reform = AggregatorInput::Reform {
            terms: content,
            relays,
            without: without.to_vec(),
            reason: reason.to_owned(),
        };
        let outcome = self.feed(id, NodeInput::Aggregator(reform))?;
        super::dids::refused(outcome)?;
        Ok(new)
    }

    /// The membership in which a cohort was offered in the place of another.
    pub(super) fn offered_in(&self, cohort: CohortId) -> Option<(&Node, &Offer)> {
        let members = self.nodes.values();
        members
            .filter(|node| node.id.1 == Role::Participant)
            .filter_map(|node| Some((node, node.offer()?)))
            .find(|(_, offer)| offer.cohort == cohort)
    }

    /// The key to which a cohort was offered in the place of another.
    pub(super) fn offered_to(&self, cohort: CohortId) -> Option<&OwnKey> {
        self.offered_in(cohort).map(|(node, _)| &node.own)
    }

    /// Keeps the terms of an offered cohort where those of invitations are. Whether it is one.
    pub(super) fn remember_offer(&mut self, cohort: CohortId) -> Result<bool, AgentError> {
        let Some((node, offer)) = self.offered_in(cohort) else {
            return Ok(false);
        };
        let (from, terms) = (node.terms().aggregator, offer.terms.clone());
        let mut relays: Vec<RelayUrl> = offer
            .relays
            .iter()
            .filter_map(|url| RelayUrl::parse(url).ok())
            .collect();
        relays.truncate(crate::nostr::policy::MAX_ADVERTISED);
        if self.store.view().advert(cohort)?.is_none() {
            self.keep_invitation(from, cohort, &terms, &relays)?;
        }
        Ok(true)
    }

    /// The services of a document that list the beacon of the cohort that another one was offered in the place of.
    pub(super) fn replaced_services(&self, cohort: CohortId, document: &Document) -> Vec<String> {
        let Some((old, _)) = self.offered_in(cohort) else {
            return Vec::new();
        };
        if !lists_beacon_of(document, old) {
            return Vec::new();
        }
        let address = old.address();
        let beacons = document.beacons().iter();
        beacons
            .filter(|beacon| Some(&beacon.address) == address.as_ref())
            .map(|beacon| beacon.id.clone())
            .collect()
    }
}

/// The same terms for so many members, who are invited.
fn terms_without(
    old: &Terms,
    members: usize,
    salt: Salt,
    join_by: crate::time::UnixTime,
) -> Result<Terms, AgentError> {
    let seats = u16::try_from(members).unwrap_or(u16::MAX);
    let least = match old.output_policy {
        OutputPolicy::Musig2KeyPath => 1,
        // With all of them the leaf would be no fallback.
        OutputPolicy::KOfN(threshold) => threshold.saturating_add(1),
    };
    if seats < least {
        return Err(AgentError::Refused(format!(
            "{members} members are left, and its terms need {least}: advertise another cohort"
        )));
    }
    let terms = Terms {
        salt,
        join_by,
        seats_min: old.seats_min.min(seats).max(least),
        seats_max: seats,
        invite_only: true,
        admission: Admission::Open,
        ..old.clone()
    };
    terms
        .validate()
        .map_err(|error| AgentError::Refused(error.to_string()))?;
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::network::Network;
    use crate::protocol::terms::CohortBeacon;
    use crate::time::UnixTime;

    #[test]
    fn the_new_terms_are_the_old_ones_for_fewer() {
        let key = OwnKey::from_bytes(&[3; 32]).unwrap().public();
        let mut old = Terms::with_defaults(
            key,
            Network::Regtest,
            CohortBeacon::Cas,
            Salt::from_bytes([1; 16]),
            UnixTime(1_000),
        );
        old.seats_min = 3;
        old.seats_max = 5;
        old.admission = Admission::Code;
        let without = |old: &Terms, members| {
            terms_without(old, members, Salt::from_bytes([2; 16]), UnixTime(9_000))
        };
        let new = without(&old, 4).unwrap();
        assert_eq!((new.seats_min, new.seats_max), (3, 4));
        assert!(new.invite_only && new.admission.is_open());
        assert_eq!(
            (new.beacon, new.join_by),
            (CohortBeacon::Cas, UnixTime(9_000))
        );
        assert_ne!(new.cohort_id(), old.cohort_id());
        let two = without(&old, 2).unwrap();
        assert_eq!((two.seats_min, two.seats_max), (2, 2));
        assert!(without(&old, 0).is_err());
        old.output_policy = OutputPolicy::KOfN(2);
        assert_eq!(without(&old, 3).unwrap().seats_min, 3);
        assert!(without(&old, 2).is_err());
    }
}
