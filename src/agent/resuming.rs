//! After a start: finding what the last process had stored and not yet followed up.
//!
//! A step is durable before anything that follows from it is done (see `feed`). Most of that the core asks for again
//! when it is told of the restart. What it does not know of is here: each function looks at what is stored, and does
//! what is missing. All of them may be run at any time, and change nothing where nothing is missing.

use super::dids::update_state;
use super::error::AgentError;
use super::node::{Machine, NodeId};
use super::runtime::Agent;
use crate::did::Did;
use crate::hash::CohortId;
use crate::protocol::effect::AdvertStatus;
use crate::protocol::participant::{DepositState, IndexState};
use crate::store::{CohortRow, Role, UpdateRow};

impl Agent {
    /// Whether a cohort was stored and nothing ever happened in it: the process ended within the command that was
    /// to begin it, and its advert or opt-in never existed. It is forgotten; who gave the command got no answer.
    pub(super) fn is_unborn(&mut self, row: &CohortRow) -> Result<bool, AgentError> {
        let (cohort, role) = (row.cohort, row.role);
        // What the settings say is stated before anything is done, and the relays that were named with it are noted: a seat
        // that is found by the words would else never be looked for again.
        let stated = ["policy", "max_fee", "money", super::relays::RELAY_HINTS];
        let log = self.store.view().log_tail(cohort, role, 8)?;
        if row.ended.is_some()
            || self
                .store
                .view()
                .snapshot_before(cohort, role, None)?
                .is_some()
            || log
                .iter()
                .any(|entry| !stated.contains(&entry.kind.as_str()))
        {
            return Ok(false);
        }
        tracing::warn!(cohort = %cohort.short(), "a cohort that was not begun before the last end is forgotten");
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.forget_cohort(cohort, role)?))?;
        Ok(true)
    }

    /// What the advert of one of this agent's cohorts should say now.
    pub(super) fn status_to_advertise(&self, cohort: CohortId) -> Option<AdvertStatus> {
        match &self.nodes.get(&(cohort, Role::Aggregator))?.machine {
            Machine::Aggregator(machine) => machine.advert_status(),
            Machine::Participant(_) => None,
        }
    }

    /// Registrations that were stored and not asked for, or acknowledged and not stored.
    pub(super) fn resume_registrations(&mut self) -> Result<(), AgentError> {
        for cohort in self.cohorts_joined() {
            let view = self.store.view();
            let bindings = view.bindings_of_cohort(cohort, Role::Participant)?;
            let requested = bindings
                .iter()
                .filter(|binding| binding.state == super::dids::binding_state::REQUESTED);
            for binding in requested {
                let known = self
                    .member(cohort)
                    .and_then(|machine| machine.index_state(&binding.index));
                let did = binding.did.as_ref().and_then(|did| did.parse::<Did>().ok());
                match (known, did) {
                    (Some(IndexState::Covered(from)), _) => {
                        self.registered((cohort, Role::Participant), binding.index, from)?;
                    }
                    (None, Some(did)) => tolerate(self.register_did(&did, cohort))?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Updates that were stored and not handed to their cohort, or came back from it and were not marked.
    pub(super) fn resume_updates(&mut self) -> Result<(), AgentError> {
        for cohort in self.cohorts_joined() {
            for row in self.queued_in(cohort)? {
                let Ok(did) = row.did.parse::<Did>() else {
                    continue;
                };
                let index = did.smt_index();
                let Some(machine) = self.member(cohort) else {
                    continue;
                };
                let refused = match machine.deposit_of(&index, row.hash) {
                    Some(DepositState::Refused(refused)) => Some(refused.reason.clone()),
                    _ => None,
                };
                if let Some(reason) = refused {
                    self.deposit_refused(index, row.hash, &reason)?;
                    continue;
                }
                let held = machine.update_state(&index).map(|(hash, _)| hash);
                if held == Some(row.hash) {
                    continue;
                }
                match self.queue_in(&did, row.hash, cohort) {
                    Err(error) if !error.is_fatal() => {
                        // As with a deposit that is refused: it goes back to its controller.
                        let new = UpdateRow {
                            state: update_state::REFUSED.into(),
                            reason: Some(format!(
                                "the agent ended before the cohort had it, and now: {error}"
                            )),
                            ..row
                        };
                        self.store
                            .transaction::<_, AgentError>(|tx| Ok(tx.set_update_state(&new)?))?;
                    }
                    queued => queued?,
                }
            }
        }
        Ok(())
    }

    /// Once the chain was read: signals that were signed and not sent are sent, and what is stored of them is what
    /// the chain says.
    pub(super) fn resume_signals(&mut self, id: NodeId) -> Result<(), AgentError> {
        if !self.unresumed.remove(&id) {
            return Ok(());
        }
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        let (mut confirmed, mut gone) = (Vec::new(), Vec::new());
        for row in self.store.view().transactions_of(id.0)? {
            let seen = node.chain().signals.get(&row.txid);
            let height = seen.and_then(|seen| seen.height);
            if height.is_some() && height != row.height {
                confirmed.push((row.txid, height));
            } else if height.is_none() && row.state == "confirmed" {
                // It left the chain, and the process ended before that was said.
                gone.push(row.txid);
            }
        }
        let unsent: Vec<_> = match &node.machine {
            Machine::Aggregator(machine) => machine
                .unsettled()
                .iter()
                .filter(|signal| signal.confirmed_at().is_none())
                .filter(|signal| !machine.chain().signals.contains_key(&signal.txid()))
                .map(|signal| signal.tx().clone())
                .collect(),
            // A member sends what nobody else sends by its own timer.
            Machine::Participant(_) => Vec::new(),
        };
        for (txid, height) in confirmed {
            self.transaction_state(txid, "confirmed", height)?;
        }
        for txid in gone {
            self.transaction_state(txid, "broadcast", None)?;
        }
        for tx in unsent {
            self.broadcast(id, tx);
        }
        Ok(())
    }

    /// The cohorts this agent is a member of, and that go on.
    fn cohorts_joined(&self) -> Vec<CohortId> {
        let members = self.nodes.values().filter(|node| {
            matches!(node.machine, Machine::Participant(_))
                && !node.is_over()
                && node.phase_name() == "active"
        });
        members.map(|node| node.id.0).collect()
    }

    /// The updates that wait for a round of this cohort, and were not signed for.
    fn queued_in(&self, cohort: CohortId) -> Result<Vec<UpdateRow>, AgentError> {
        let mut rows = Vec::new();
        for index in self.member(cohort).into_iter().flat_map(|m| m.indexes()) {
            if let Some(did) = self.did_of_index(&index)? {
                rows.extend(self.store.view().updates_of(&did)?);
            }
        }
        rows.retain(|row| {
            row.cohort == Some(cohort) && row.state == update_state::QUEUED && !row.pinned
        });
        Ok(rows)
    }
}

/// What can not be resumed now is said, and no reason not to start.
fn tolerate(done: Result<(), AgentError>) -> Result<(), AgentError> {
    match done {
        Err(error) if !error.is_fatal() => {
            tracing::warn!(%error, "not resumed");
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::AgentOptions;
    use crate::agent::node::NodeInput;
    use crate::keys::OwnKey;
    use crate::network::Network;
    use crate::protocol::participant::ParticipantInput;
    use crate::protocol::terms::{CohortBeacon, Salt, Terms};
    use crate::time::UnixTime;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    /// A seat that is found by the words names relays before the aggregator is asked. A process that ends in between has
    /// begun nothing: else the seat would be known and never asked for.
    #[tokio::test]
    async fn a_seat_that_was_found_and_not_asked_for_is_found_again() {
        let options = AgentOptions::alone(Arc::new(|| NOW));
        let mut agent = Agent::start(options).unwrap().0;
        let aggregator = OwnKey::from_bytes(&[7; 32]).unwrap().public();
        let terms = |salt| {
            let (network, until) = (Network::Regtest, NOW.plus(3_600));
            let salt = Salt::from_bytes([salt; 16]);
            Terms::with_defaults(aggregator, network, CohortBeacon::Smt, salt, until)
        };
        for (salt, asked) in [(1, false), (2, true)] {
            let terms = terms(salt);
            let id = (terms.cohort_id(), Role::Participant);
            let seat = agent.root.seat(&id.0).public();
            agent.insert_cohort(id, &terms, Some(seat)).unwrap();
            agent
                .learn_relays(id, &["wss://relay.invalid".to_owned()])
                .unwrap();
            agent.state_policy(id).unwrap();
            if asked {
                let reseat = ParticipantInput::Reseat { payee: None };
                agent.feed(id, NodeInput::Participant(reseat)).unwrap();
            }
            let noted = agent.store.view().log_tail(id.0, id.1, 8).unwrap();
            let relays = noted.iter().any(|entry| entry.kind == "relay_hints");
            assert!(relays && noted.len() > 1, "{noted:?}");
            let row = agent.store.view().cohorts().unwrap();
            let row = row.into_iter().find(|row| row.cohort == id.0).unwrap();
            assert_eq!(agent.is_unborn(&row).unwrap(), !asked);
            let rows = agent.store.view().cohorts().unwrap();
            assert_eq!(rows.iter().any(|row| row.cohort == id.0), asked);
        }
    }
}
