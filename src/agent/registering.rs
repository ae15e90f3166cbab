//! Having a cohort cover a DID, up to the point where its document may list the beacon (DESIGN §5, "Binding
//! order").

use super::dids::{binding_state, did_state, parse_document, refused};
use super::error::AgentError;
use super::events::What;
use super::node::{Machine, NodeId, NodeInput};
use super::routing::lists_beacon_of;
use super::runtime::Agent;
use crate::did::Did;
use crate::fail_point;
use crate::hash::{CohortId, SmtIndex};
use crate::protocol::ids::Round;
use crate::protocol::message::{Opening, RawJson, RegisterItem};
use crate::protocol::participant::{BindingState, ParticipantInput};
use crate::protocol::registration::registration_digest;
use crate::protocol::terms::CohortBeacon;
use crate::store::{Binding, Role};

/// The binding of a DID whose registration is about to be asked for.
pub(super) fn requested(cohort: CohortId, did: &Did) -> Binding {
    Binding {
        cohort,
        role: Role::Participant,
        index: did.smt_index(),
        did: Some(did.to_string()),
        from_round: Round(0),
        state: binding_state::REQUESTED.into(),
    }
}

impl Agent {
    /// Has a DID of this agent covered by a cohort from its next round on.
    pub fn register_did(&mut self, did: &Did, cohort: CohortId) -> Result<(), AgentError> {
        let id = (cohort, Role::Participant);
        let (network, beacon, _) = self.beacon_of(id)?;
        if did.network() != network {
            return Err(AgentError::Refused(format!(
                "the DID is on {}, the cohort on {network}",
                did.network()
            )));
        }
        let index = did.smt_index();
        let opening = match beacon {
            CohortBeacon::Smt => None,
            CohortBeacon::Cas => Some(self.opening(id, did)?),
        };
        let binding = requested(cohort, did);
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_binding(&binding)?))?;
        fail_point!("after", "put_binding");
        let items = vec![RegisterItem { index, opening }];
        let outcome = self.feed(
            id,
            NodeInput::Participant(ParticipantInput::Register { items }),
        )?;
        refused(outcome)
    }

    /// The proof that this agent's seat speaks for a DID.
    fn opening(&self, id: NodeId, did: &Did) -> Result<Opening, AgentError> {
        let row = self.did_row(did)?;
        let key = self.initial_key(&row)?;
        let seat = self
            .nodes
            .get(&id)
            .ok_or(AgentError::UnknownCohort(id.0))?
            .own
            .public();
        let digest = registration_digest(&id.0, seat, &did.smt_index());
        let genesis = row
            .genesis
            .map(serde_json::value::RawValue::from_string)
            .transpose()
            .map_err(|_| AgentError::Defect("a stored genesis document is not JSON"))?;
        Ok(Opening {
            did: did.clone(),
            key: key.public(),
            genesis: genesis.map(|raw| Box::new(RawJson(raw))),
            sig: key.sign_digest(&digest),
        })
    }

    /// The core asks to open an index that somebody else claims.
    pub(super) fn open_index(
        &self,
        id: NodeId,
        index: SmtIndex,
    ) -> Result<Option<NodeInput>, AgentError> {
        let Some(did) = self
            .did_of_index(&index)?
            .and_then(|did| did.parse::<Did>().ok())
        else {
            return Ok(None);
        };
        let opening = match self.opening(id, &did) {
            // Whoever aggregates may ask for any index at any time: a DID whose first key is elsewhere, as an adopted
            // one's, is no reason to stop.
            Err(error) if !error.is_fatal() => {
                tracing::warn!(%error, "an index that somebody else claims is not opened");
                return Ok(None);
            }
            opening => opening?,
        };
        Ok(Some(NodeInput::Participant(ParticipantInput::Open {
            index,
            opening,
        })))
    }

    /// A registration was acknowledged.
    pub(super) fn registered(
        &mut self,
        id: NodeId,
        index: SmtIndex,
        from_round: Round,
    ) -> Result<(), AgentError> {
        let binding = Binding {
            cohort: id.0,
            role: Role::Participant,
            index,
            did: self.did_of_index(&index)?,
            from_round,
            state: binding_state::COVERED.into(),
        };
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_binding(&binding)?))
    }

    /// The history of an index is complete. A DID whose genesis document lists the beacon is bound by that; for
    /// others an update that adds the beacon may now be announced.
    pub(super) fn may_bind(
        &mut self,
        id: NodeId,
        index: SmtIndex,
    ) -> Result<Option<NodeInput>, AgentError> {
        let Some(did) = self.did_of_index(&index)? else {
            return Ok(None);
        };
        let Some(mut row) = self.store.view().did(&did)? else {
            return Ok(None);
        };
        let document = parse_document(&row.document)?;
        let node = self.nodes.get(&id);
        let lists = node.is_some_and(|node| lists_beacon_of(&document, node));
        let from_round = Round(0);
        let state = if lists {
            binding_state::BOUND
        } else {
            binding_state::MAY_BIND
        };
        let known = self.store.view().bindings_of(index)?;
        let from_round = known
            .iter()
            .find(|binding| binding.cohort == id.0)
            .map_or(from_round, |binding| binding.from_round);
        let binding = Binding {
            cohort: id.0,
            role: Role::Participant,
            index,
            did: Some(did.clone()),
            from_round,
            state: state.into(),
        };
        if row.state == did_state::REGISTERING {
            row.state = did_state::ACTIVE.into();
        }
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_did(&row)?;
            tx.put_binding(&binding)?;
            Ok(())
        })?;
        fail_point!("after", "may_bind");
        if !lists {
            return Ok(None);
        }
        self.emit(Some(id), What::DidReady { did });
        Ok(Some(NodeInput::Participant(ParticipantInput::Bound {
            index,
        })))
    }

    /// After a start: the process may have ended between a step and what follows from it. A DID whose document
    /// lists a beacon, or is about to, must count as bound before another signal is signed (rule 13).
    pub(super) fn resume_bindings(&mut self) -> Result<(), AgentError> {
        self.resume_registrations()?;
        let mut waiting = Vec::new();
        for node in self.nodes.values() {
            let Machine::Participant(machine) = &node.machine else {
                continue;
            };
            let may_bind = machine
                .indexes()
                .filter(|index| machine.binding_state(index) == Some(BindingState::MayBind));
            waiting.extend(may_bind.map(|index| (node.id, index)));
        }
        for (id, index) in waiting {
            let stored = self.store.view().bindings_of(index)?;
            let binds = stored.iter().any(|binding| {
                let word = binding.state.as_str();
                let binds = [
                    binding_state::PENDING,
                    binding_state::BOUND,
                    binding_state::FORMER,
                ];
                binding.cohort == id.0 && binding.role == Role::Participant && binds.contains(&word)
            });
            let input = if binds {
                Some(NodeInput::Participant(ParticipantInput::Bound { index }))
            } else {
                self.may_bind(id, index)?
            };
            if let Some(input) = input {
                self.feed(id, input)?;
            }
        }
        Ok(())
    }
}
