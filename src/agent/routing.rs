//! Which beacon announces an update: only one that the current document lists is ever looked at (spec.md §3.2,
//! step 4; §3.3).

use super::dids::{beacon_kind, update_state};
use super::error::AgentError;
use super::node::{Machine, Node, NodeInput};
use super::runtime::Agent;
use crate::did::{BeaconKind, BeaconService, Did, Document};
use crate::hash::{CohortId, SmtIndex};
use crate::protocol::participant::{BindingState, MemberPhase, ParticipantInput};
use crate::store::Role;

/// Through what an update is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// A round of this cohort; none: the only one whose beacon the document lists.
    Cohort(Option<CohortId>),
    /// A transaction of its own.
    Singleton {
        /// The singleton beacon, by its service's id; none: one that a key of this agent spends from.
        service: Option<String>,
    },
}

/// Through what an update is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The next round of this cohort.
    Cohort(CohortId),
    /// The singleton beacon with this service id (absolute).
    Singleton(String),
}

impl Route {
    /// The cohort, if it is one.
    #[must_use]
    pub const fn cohort(&self) -> Option<CohortId> {
        match self {
            Self::Cohort(cohort) => Some(*cohort),
            Self::Singleton(_) => None,
        }
    }

    /// The singleton beacon's service, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Cohort(_) => None,
            Self::Singleton(service) => Some(service),
        }
    }
}

/// Whether a document lists the beacon of a cohort, with its type.
pub(super) fn lists_beacon_of(document: &Document, node: &Node) -> bool {
    let Some(address) = node.address() else {
        return false;
    };
    let kind = beacon_kind(node.terms().beacon);
    let mut listed = document.beacons().iter();
    listed.any(|beacon| beacon.address == address && beacon.kind == kind)
}

impl Agent {
    /// Chooses the beacon of the *current* document that announces an update.
    pub(super) fn route(&self, document: &Document, via: &Via) -> Result<Route, AgentError> {
        match via {
            Via::Cohort(Some(cohort)) => {
                self.may_announce(document, *cohort)?;
                Ok(Route::Cohort(*cohort))
            }
            Via::Cohort(None) => self.only_cohort(document).map(Route::Cohort),
            Via::Singleton { service } => self
                .singleton_of(document, service.as_deref())
                .map(|beacon| Route::Singleton(beacon.id.clone())),
        }
    }

    /// Refuses a cohort that can not announce updates of this document.
    fn may_announce(&self, document: &Document, cohort: CohortId) -> Result<(), AgentError> {
        let refused = |why: String| Err(AgentError::Refused(why));
        let short = cohort.short();
        let node = self
            .nodes
            .get(&(cohort, Role::Participant))
            .ok_or(AgentError::UnknownCohort(cohort))?;
        if !lists_beacon_of(document, node) {
            return refused(format!(
                "the DID's current document does not list the beacon of cohort {short}: an update announced \
                 there would never be found. Add it with an update that is announced through a beacon that is \
                 listed (`btcr2-agent did register … --via singleton`)"
            ));
        }
        let Machine::Participant(machine) = &node.machine else {
            return refused(format!("this agent is no member of cohort {short}"));
        };
        if *machine.phase() != MemberPhase::Active {
            return refused(format!(
                "cohort {short} is {}: no round of it will announce anything. Use another beacon, such as with \
                 --via singleton",
                node.phase_name()
            ));
        }
        let index = document.id().smt_index();
        if machine.binding_state(&index) != Some(BindingState::Bound) {
            return refused(format!(
                "the registration of the DID with cohort {short} is not complete: `btcr2-agent did show` says \
                 what is missing"
            ));
        }
        Ok(())
    }

    fn only_cohort(&self, document: &Document) -> Result<CohortId, AgentError> {
        let listed =
            |node: &&Node| node.id.1 == Role::Participant && lists_beacon_of(document, node);
        let listed: Vec<CohortId> = self
            .nodes
            .values()
            .filter(listed)
            .map(|node| node.id.0)
            .collect();
        let able: Vec<CohortId> = listed
            .iter()
            .copied()
            .filter(|cohort| self.may_announce(document, *cohort).is_ok())
            .collect();
        match (able.as_slice(), listed.as_slice()) {
            ([cohort], _) => Ok(*cohort),
            ([_, _, ..], _) => Err(AgentError::Refused(
                "the document lists the beacons of several cohorts: name one with --cohort".into(),
            )),
            // The reason why the listed one is not able.
            ([], [cohort, ..]) => self.may_announce(document, *cohort).map(|()| *cohort),
            ([], []) => Err(AgentError::Refused(
                "the DID's current document does not list the beacon of any cohort of this agent: an update \
                 announced in a round would never be found. Use --via singleton"
                    .into(),
            )),
        }
    }

    /// The singleton beacon that is named, or the one that is cheapest to spend from, if a key of this agent does.
    pub(super) fn singleton_of<'d>(
        &self,
        document: &'d Document,
        service: Option<&str>,
    ) -> Result<&'d BeaconService, AgentError> {
        let did = document.id();
        let wanted = service.map(|name| absolute(did, name));
        let mut best = None;
        for beacon in document.beacons() {
            let named = wanted.as_ref().is_none_or(|id| *id == beacon.id);
            if !named || beacon.kind != BeaconKind::Singleton {
                continue;
            }
            if let Some((form, _)) = self.key_of_address(did, &beacon.address)? {
                // In the order of KeyAddress a later form costs less to spend.
                if best.as_ref().is_none_or(|(than, _)| form > *than) {
                    best = Some((form, beacon));
                }
            }
        }
        best.map(|(_, beacon)| beacon).ok_or_else(|| {
            AgentError::Refused(match service {
                Some(name) => format!(
                    "the DID's current document has no singleton beacon {name} that a key of this agent spends \
                     from"
                ),
                None => "the DID's current document has no singleton beacon that a key of this agent spends from"
                    .to_owned(),
            })
        })
    }

    /// Cohorts of this agent whose beacon `after` lists and `before` does not: the DID binds to them by this
    /// update. Refuses beacons that would make the DID unresolvable.
    pub(super) fn new_bindings(
        &self,
        before: &Document,
        after: &Document,
    ) -> Result<Vec<CohortId>, AgentError> {
        let index = after.id().smt_index();
        let mut binding = Vec::new();
        for beacon in after.beacons() {
            let known =
                |of: &&BeaconService| of.address == beacon.address && of.kind == beacon.kind;
            if before.beacons().iter().any(|of| known(&of)) {
                continue;
            }
            let mut nodes = self.nodes.values();
            let node = nodes.find(|node| {
                node.id.1 == Role::Participant && node.address().as_ref() == Some(&beacon.address)
            });
            match node {
                Some(node) => {
                    self.may_bind_now(beacon, node, index)?;
                    binding.push(node.id.0);
                }
                None if beacon.kind != BeaconKind::Singleton => {
                    return Err(AgentError::Refused(format!(
                        "this agent is no member of a cohort with the beacon {}: nobody would give it what \
                         explains that beacon's signals, and without that the DID does not resolve. Join the \
                         cohort and register the DID first",
                        beacon.address
                    )));
                }
                None => {}
            }
        }
        Ok(binding)
    }

    fn may_bind_now(
        &self,
        beacon: &BeaconService,
        node: &Node,
        index: SmtIndex,
    ) -> Result<(), AgentError> {
        let short = node.id.0.short();
        let kind = beacon_kind(node.terms().beacon);
        if beacon.kind != kind {
            return Err(AgentError::Refused(format!(
                "{} is the beacon of cohort {short} and a {kind}, not a {}",
                beacon.address, beacon.kind
            )));
        }
        let Machine::Participant(machine) = &node.machine else {
            return Ok(());
        };
        match machine.binding_state(&index) {
            Some(BindingState::MayBind | BindingState::Bound) => Ok(()),
            Some(BindingState::NotYet) => Err(AgentError::Refused(format!(
                "cohort {short} does not cover the DID completely yet: the registration, the history of earlier \
                 signals or a round that began before is outstanding (`btcr2-agent did show`)"
            ))),
            None => Err(AgentError::Refused(format!(
                "the DID is not registered with cohort {short}: `btcr2-agent did register {} --cohort {short}`",
                beacon.id.split_once('#').map_or("", |(did, _)| did)
            ))),
        }
    }

    /// From now on no signal of these cohorts is signed that does not cover the DID (rule 13): an update that
    /// lists their beacons is about to be announced.
    pub(super) fn begin_binding(
        &mut self,
        did: &Did,
        cohorts: &[CohortId],
    ) -> Result<(), AgentError> {
        let index = did.smt_index();
        for cohort in cohorts {
            let id = (*cohort, Role::Participant);
            let outcome = self.feed(
                id,
                NodeInput::Participant(ParticipantInput::Bound { index }),
            )?;
            super::dids::refused(outcome)?;
        }
        Ok(())
    }

    /// Asked before anything is stored: an update that a machine refuses must not hold its version for ever.
    pub(super) fn may_queue(&self, did: &Did, route: &Route) -> Result<(), AgentError> {
        let node = route
            .cohort()
            .and_then(|cohort| self.nodes.get(&(cohort, Role::Participant)));
        if let Some(Machine::Participant(machine)) = node.map(|node| &node.machine)
            && let Some(why) = machine.queue_refusal(&did.smt_index())
        {
            return Err(AgentError::Refused(why.into()));
        }
        Ok(())
    }

    /// Hands an update that waits to a cohort's machine, for its next round.
    pub(super) fn queue_in(
        &mut self,
        did: &Did,
        hash: crate::hash::UpdateHash,
        cohort: CohortId,
    ) -> Result<(), AgentError> {
        let input = ParticipantInput::Queue {
            index: did.smt_index(),
            update: hash,
        };
        let outcome = self.feed((cohort, Role::Participant), NodeInput::Participant(input))?;
        super::dids::refused(outcome)
    }

    /// Gives an update that waits another route; the bytes stay the same. What was signed for once may still be
    /// announced there as well: that is the same update twice, which every resolver accepts (spec.md §3.4, step 6).
    ///
    /// # Errors
    /// [`AgentError::Refused`] if the document does not list the beacon, the update is on the chain, or no such
    /// update waits.
    pub fn reroute_update(
        &mut self,
        did: &Did,
        target_version: u64,
        via: &Via,
    ) -> Result<Route, AgentError> {
        let document = super::dids::parse_document(&self.did_row(did)?.document)?;
        let route = self.route(&document, via)?;
        let mut row = self.waiting_update(did, target_version)?;
        if row.cohort == route.cohort() && row.service.as_deref() == route.service() {
            return Ok(route);
        }
        self.may_queue(did, &route)?;
        if let Some(old) = row.cohort {
            // Refused where it was signed for or submitted: then it stays there too.
            let _ = self.take_back(did, old)?;
        }
        row.cohort = route.cohort();
        row.service = route.service().map(str::to_owned);
        row.reason = None;
        if row.state == update_state::REFUSED {
            row.state = update_state::QUEUED.into();
        }
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_update_state(&row)?))?;
        if let Route::Cohort(cohort) = &route {
            self.queue_in(did, row.hash, *cohort)?;
        }
        Ok(route)
    }

    /// An update that is not on the chain.
    pub(super) fn waiting_update(
        &self,
        did: &Did,
        target_version: u64,
    ) -> Result<crate::store::UpdateRow, AgentError> {
        let row = self.store.view().update(did.as_str(), target_version)?;
        let row = row.ok_or_else(|| {
            AgentError::Refused(format!("the DID has no update to version {target_version}"))
        })?;
        if update_state::is_on_chain(&row.state) || row.state == update_state::SUPERSEDED {
            return Err(AgentError::Refused(format!(
                "the update to version {target_version} is {}",
                row.state
            )));
        }
        Ok(row)
    }
}

fn absolute(did: &Did, name: &str) -> String {
    match name.strip_prefix('#') {
        Some(fragment) => format!("{did}#{fragment}"),
        None if name.starts_with("did:") => name.to_owned(),
        None => format!("{did}#{name}"),
    }
}
