//! Signing updates and queueing them (DESIGN §6, rule 10).

use super::changes::{Change, patch_of};
use super::dids::{did_state, parse_document, refused, update_state};
use super::error::AgentError;
use super::node::{Machine, NodeInput};
use super::runtime::Agent;
use crate::did::{Did, Document, ErrorCode, UnsignedUpdate};
use crate::hash::{CohortId, SmtIndex, UpdateHash};
use crate::protocol::participant::{BindingState, ParticipantInput};
use crate::store::{ArtifactKey, ArtifactKind, NewArtifact, NewUpdate, Role, Subject};

/// An update that was signed and queued.
#[derive(Debug, Clone)]
pub struct QueuedUpdate {
    /// The DID.
    pub did: Did,
    /// The version it leads to.
    pub target_version: u64,
    /// Its hash.
    pub hash: UpdateHash,
    /// The document before.
    pub before: Document,
    /// The document after.
    pub after: Document,
    /// The cohort that will announce it.
    pub cohort: CohortId,
}

impl Agent {
    /// Signs an update and queues it for the cohort's next round.
    pub fn update_did(
        &mut self,
        did: &Did,
        changes: &[Change],
        cohort: Option<CohortId>,
    ) -> Result<QueuedUpdate, AgentError> {
        let row = self.did_row(did)?;
        let index = did.smt_index();
        if row.state == did_state::REGISTERING {
            return Err(AgentError::Refused(
                "the DID is not ready: its registration or history is not complete".into(),
            ));
        }
        let cohort = self.cohort_for(index, cohort)?;
        let id = (cohort, Role::Participant);
        let before = parse_document(&row.document)?;
        // Rule 10: one update at a time.
        let target = row.version.saturating_add(1);
        if let Some(earlier) = self.store.view().update(did.as_str(), target)? {
            return Err(AgentError::Refused(format!(
                "an update to version {target} exists and is {}: wait until it is final",
                earlier.state
            )));
        }
        // Asked before anything is stored: an update that is refused must not hold its version for ever.
        if let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
            && let Some(why) = machine.queue_refusal(&index)
        {
            return Err(AgentError::Refused(why.into()));
        }
        let patch = patch_of(&before, changes)?;
        let did_error = |code: ErrorCode, reason: String| AgentError::Did { code, reason };
        let unsigned = UnsignedUpdate::new(&before, row.version, &patch)
            .map_err(|error| did_error(ErrorCode::InvalidDidUpdate, error.to_string()))?;
        let after = unsigned.target().clone();
        let key = self.did_key(&row)?;
        let method = before
            .invocation_methods()
            .find(|method| {
                method
                    .key
                    .is_some_and(|k| k.x_only_public_key().0 == key.public().x_only())
            })
            .map(|method| method.id.clone())
            .ok_or_else(|| {
                AgentError::Refused("no key of this agent may update the document".into())
            })?;
        let signed = unsigned
            .sign(&key, &method)
            .map_err(|error| did_error(ErrorCode::InvalidDidUpdate, error.to_string()))?;
        let hash = signed.hash();
        let bytes = signed.canonical_bytes();
        let now = self.now();
        // The bytes are durable before anything is sent: what is announced is a hash of exactly these.
        self.store.transaction::<_, AgentError>(|tx| {
            tx.insert_update(&NewUpdate {
                did: did.as_str(),
                target_version: target,
                hash,
                bytes: &bytes,
                cohort: Some(cohort),
                service: None,
                state: update_state::QUEUED,
                created: now,
            })?;
            tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: None,
                    subject: Subject::Did(format!("{did}?versionId={target}")),
                    kind: ArtifactKind::SignedUpdate,
                    signal: None,
                },
                txid: None,
                bytes: &bytes,
                created: now,
            })?;
            Ok(())
        })?;
        let outcome = self.feed(
            id,
            NodeInput::Participant(ParticipantInput::Queue {
                index,
                update: hash,
            }),
        )?;
        refused(outcome)?;
        Ok(QueuedUpdate {
            did: did.clone(),
            target_version: target,
            hash,
            before,
            after,
            cohort,
        })
    }

    /// The cohort to announce in: the one named, or the only one the DID is bound to.
    fn cohort_for(
        &self,
        index: SmtIndex,
        wanted: Option<CohortId>,
    ) -> Result<CohortId, AgentError> {
        let bound: Vec<CohortId> = self
            .nodes
            .values()
            .filter_map(|node| match &node.machine {
                Machine::Participant(machine)
                    if machine.binding_state(&index) == Some(BindingState::Bound) =>
                {
                    Some(node.id.0)
                }
                _ => None,
            })
            .collect();
        match (wanted, bound.as_slice()) {
            (Some(cohort), bound) if bound.contains(&cohort) => Ok(cohort),
            (None, [cohort]) => Ok(*cohort),
            (None, [_, _, ..]) => Err(AgentError::Refused(
                "the DID is bound to several cohorts: name one with --cohort".into(),
            )),
            _ => Err(AgentError::Refused(
                "the DID's document does not list that cohort's beacon: an update announced there \
                 would never be found"
                    .into(),
            )),
        }
    }
}
