//! Signing updates and queueing them (DESIGN §6, rule 10; spec.md §3.2).

use super::changes::{Change, Draft};
use super::depositing::Disclosure;
use super::dids::{binding_state, did_state, update_state};
use super::error::AgentError;
use super::fresh::FreshResolution;
use super::handle::AgentHandle;
use super::node::{Machine, NodeInput};
use super::routing::{Route, Via};
use super::runtime::Agent;
use super::standing::Standing;
use crate::did::{BeaconKind, Did, Document, ErrorCode, UnsignedUpdate};
use crate::fail_point;
use crate::hash::{CohortId, SignalBytes, UpdateHash};
use crate::protocol::effect::Outcome;
use crate::protocol::participant::ParticipantInput;
use crate::store::{ArtifactKey, ArtifactKind, Binding, NewArtifact, NewUpdate, Role, Subject};

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
    /// What will announce it.
    pub route: Route,
    /// What its controller has to know.
    pub notes: Vec<String>,
}

/// An update that could be made: nothing is signed or stored.
#[derive(Debug, Clone)]
pub struct ProposedUpdate {
    /// The DID.
    pub did: Did,
    /// The version it would lead to.
    pub target_version: u64,
    /// The document before.
    pub before: Document,
    /// The document after.
    pub after: Document,
    /// What would announce it.
    pub route: Route,
    /// What its controller has to know.
    pub notes: Vec<String>,
}

/// A checked update, before it is signed.
struct Plan {
    unsigned: UnsignedUpdate,
    draft: Draft,
    route: Route,
    /// Cohorts whose beacon it adds.
    binds: Vec<CohortId>,
    /// Whether the aggregator is shown it.
    deposits: bool,
    /// The version of an earlier update that was refused, whose place it takes.
    refused: Option<u64>,
    notes: Vec<String>,
}

impl AgentHandle {
    /// Resolves a DID of this agent, signs an update of it and queues it. While it resolves, the agent goes on.
    ///
    /// # Errors
    /// [`AgentError::Refused`] while an earlier update is not final, and for everything that the resulting
    /// document would lose; [`AgentError::Unresolvable`] if the DID does not resolve now. Nothing is stored then.
    pub async fn update_did(
        &self,
        did: &Did,
        changes: Vec<Change>,
        via: Via,
    ) -> Result<QueuedUpdate, AgentError> {
        self.disclose_update(did, changes, via, Disclosure::HashOnly)
            .await
    }

    /// Like [`Self::update_did`], and shows the aggregator the update if that is said.
    ///
    /// # Errors
    /// The same; [`AgentError::Refused`] also where the cohort's terms do not go with what is to be disclosed.
    pub async fn disclose_update(
        &self,
        did: &Did,
        changes: Vec<Change>,
        via: Via,
        disclosure: Disclosure,
    ) -> Result<QueuedUpdate, AgentError> {
        let fresh = self.resolve_fresh(did).await?;
        self.with(move |agent| agent.update_did(&fresh, &changes, &via, disclosure))
            .await?
    }

    /// Like [`Self::update_did`], up to where something would be signed and stored.
    ///
    /// # Errors
    /// The same.
    pub async fn propose_update(
        &self,
        did: &Did,
        changes: Vec<Change>,
        via: Via,
        disclosure: Disclosure,
    ) -> Result<ProposedUpdate, AgentError> {
        let fresh = self.resolve_fresh(did).await?;
        self.with(move |agent| agent.propose_update(&fresh, &changes, &via, disclosure))
            .await?
    }
}

impl Agent {
    /// Checks an update from what a resolution just showed, without signing or storing it.
    pub fn propose_update(
        &mut self,
        fresh: &FreshResolution,
        changes: &[Change],
        via: &Via,
        disclosure: Disclosure,
    ) -> Result<ProposedUpdate, AgentError> {
        let plan = self.plan_update(fresh, changes, via, disclosure)?;
        Ok(ProposedUpdate {
            did: fresh.did().clone(),
            target_version: plan.unsigned.target_version(),
            before: fresh.document().clone(),
            after: plan.unsigned.target().clone(),
            route: plan.route,
            notes: plan.notes,
        })
    }

    /// Signs an update from what a resolution just showed, stores it and queues it.
    pub fn update_did(
        &mut self,
        fresh: &FreshResolution,
        changes: &[Change],
        via: &Via,
        disclosure: Disclosure,
    ) -> Result<QueuedUpdate, AgentError> {
        let plan = self.plan_update(fresh, changes, via, disclosure)?;
        let did = fresh.did().clone();
        let after = plan.unsigned.target().clone();
        let target_version = plan.unsigned.target_version();
        let (method, key) = self.signing_key(fresh.document())?;
        let signed = plan
            .unsigned
            .sign(&key, &method)
            .map_err(|error| invalid_update(&error))?;
        let (hash, bytes) = (signed.hash(), signed.canonical_bytes());
        let deposit = match plan.deposits {
            true => Some(self.deposit_of(fresh, &signed)?),
            false => None,
        };
        // From before it can be announced on, no signal is signed that does not cover the DID (rule 13).
        self.begin_binding(&did, &plan.binds)?;
        let pending = self.pending_bindings(&did, &plan.binds)?;
        let created = self.now();
        // The bytes are durable before anything is sent: what is announced is a hash of exactly these.
        self.store.transaction::<_, AgentError>(|tx| {
            for key in &plan.draft.new_keys {
                tx.put_did_key(key)?;
            }
            for binding in &pending {
                tx.put_binding(binding)?;
            }
            // One that was refused, and so never announced, makes room.
            if let Some(refused) = &plan.refused {
                tx.withdraw_update(did.as_str(), *refused)?;
            }
            tx.insert_update(&NewUpdate {
                did: did.as_str(),
                target_version,
                hash,
                bytes: &bytes,
                cohort: plan.route.cohort(),
                service: plan.route.service(),
                state: update_state::QUEUED,
                created,
            })?;
            // Under its hash: an update that is taken back and another one to the same version are two.
            tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: None,
                    subject: Subject::Did(format!("{did}?versionId={target_version}")),
                    kind: ArtifactKind::SignedUpdate,
                    signal: Some(SignalBytes::from_bytes(hash.to_bytes())),
                },
                txid: None,
                bytes: &bytes,
                created,
            })?;
            Ok(())
        })?;
        fail_point!("after", "insert_update");
        if let Route::Cohort(cohort) = &plan.route {
            if let Some(deposit) = deposit {
                self.deposit_in(*cohort, deposit)?;
            }
            self.queue_in(&did, hash, *cohort)?;
        }
        Ok(QueuedUpdate {
            did,
            target_version,
            hash,
            before: fresh.document().clone(),
            after,
            route: plan.route,
            notes: plan.notes,
        })
    }

    /// Everything that can refuse an update, before anything is signed.
    fn plan_update(
        &mut self,
        fresh: &FreshResolution,
        changes: &[Change],
        via: &Via,
        disclosure: Disclosure,
    ) -> Result<Plan, AgentError> {
        let before = fresh.document();
        let row = self.did_row(fresh.did())?;
        if row.state == did_state::REGISTERING {
            return Err(AgentError::Refused(
                "the DID is not ready: its registration or history is not complete".into(),
            ));
        }
        // Rule 10: one update at a time.
        self.require_settled(fresh)?;
        let route = self.route(before, via)?;
        self.may_queue(fresh.did(), &route)?;
        let deposits = self.deposits(&route, disclosure)?;
        let refused = self.refused_update(fresh)?;
        let draft = self.draft(before, changes)?;
        let unsigned = UnsignedUpdate::new(before, fresh.version(), &draft.patch)
            .map_err(|error| invalid_update(&error))?;
        let after = unsigned.target();
        if after == before {
            return Err(AgentError::Refused("the update changes nothing".into()));
        }
        self.require_control(after, &draft, changes)?;
        self.signing_key(before)?;
        let binds = self.new_bindings(before, after)?;
        let mut notes = self.notes(before, after)?;
        notes.extend(self.round_under_way(&route));
        Ok(Plan {
            unsigned,
            draft,
            route,
            binds,
            deposits,
            refused,
            notes,
        })
    }

    /// Says that the round a user may see is not the one that announces the update.
    fn round_under_way(&self, route: &Route) -> Option<String> {
        let node = self.nodes.get(&(route.cohort()?, Role::Participant))?;
        let Machine::Participant(machine) = &node.machine else {
            return None;
        };
        let open = machine.open_round_now().filter(|round| round.responded)?;
        Some(format!(
            "round {} is under way and has this agent's response: the update goes into the one after it",
            open.round
        ))
    }

    fn pending_bindings(
        &self,
        did: &Did,
        cohorts: &[CohortId],
    ) -> Result<Vec<Binding>, AgentError> {
        let known = self.store.view().bindings_of(did.smt_index())?;
        let binds = |binding: &Binding| {
            binding.role == Role::Participant && cohorts.contains(&binding.cohort)
        };
        Ok(known
            .into_iter()
            .filter(binds)
            .map(|binding| Binding {
                state: binding_state::PENDING.into(),
                ..binding
            })
            .collect())
    }

    /// What follows from a change that does not show in the document.
    fn notes(&self, before: &Document, after: &Document) -> Result<Vec<String>, AgentError> {
        let mut notes = Vec::new();
        if after.is_deactivated() {
            notes.push("the DID is deactivated for ever by this update".to_owned());
            return Ok(notes);
        }
        let listed = |document: &Document, address: &bitcoin::Address| {
            let mut beacons = document.beacons().iter();
            beacons.any(|beacon| beacon.address == *address)
        };
        for beacon in before.beacons() {
            if !listed(after, &beacon.address) {
                notes.push(format!(
                    "{} leaves the document: resolvers go on asking what its later signals say, so what explains \
                     them is still kept and still needed",
                    beacon.id
                ));
            }
        }
        let has_own_singleton = self.singleton_of(after, None).is_ok();
        if !has_own_singleton {
            notes.push(
                "no singleton beacon of this agent is left: if its cohorts stop, no update of the DID can be \
                 announced any more"
                    .to_owned(),
            );
        }
        // A key that is taken away, and still spends from a beacon.
        for method in before.verification_methods() {
            let kept = after.verification_methods().iter();
            let Some(key) = method
                .key
                .filter(|key| !kept.clone().any(|m| m.key == Some(*key)))
            else {
                continue;
            };
            let network = after.id().network();
            let spends = |beacon: &&crate::did::BeaconService| {
                beacon.kind == BeaconKind::Singleton
                    && crate::did::KeyAddress::ALL
                        .iter()
                        .any(|form| form.of(network, &key) == beacon.address)
            };
            let ids: Vec<&str> = after
                .beacons()
                .iter()
                .filter(spends)
                .map(|beacon| beacon.id.as_str())
                .collect();
            if !ids.is_empty() {
                notes.push(format!(
                    "the key of {} still spends from {}: whoever has it can send signals there that make the DID \
                     unresolvable. If it may be in other hands, replace these beacons too",
                    method.id,
                    ids.join(", ")
                ));
            }
        }
        Ok(notes)
    }

    /// Takes back an update that nobody can announce yet, and forgets it.
    ///
    /// # Errors
    /// [`AgentError::Refused`] from the moment on at which a round has it, or it was signed for.
    pub fn withdraw_update(&mut self, did: &Did, target_version: u64) -> Result<(), AgentError> {
        let row = self.waiting_update(did, target_version)?;
        let standing = self.standing_of(&row);
        let waits = standing.is_none_or(|standing| standing == Standing::Queued);
        if row.pinned || !waits {
            return Err(AgentError::Refused(format!(
                "the update to version {target_version} can not be taken back: it is {}",
                standing.map_or_else(|| row.state.clone(), |standing| standing.told())
            )));
        }
        if let Some(cohort) = row.cohort {
            let outcome = self.take_back(did, cohort)?;
            super::dids::refused(outcome)?;
        }
        fail_point!("after", "take_back");
        // Machines that were told to count the DID as bound go on doing so, which costs nothing.
        let bindings = self.store.view().bindings_of(did.smt_index())?;
        let unbound = bindings
            .into_iter()
            .filter(|binding| binding.state == binding_state::PENDING)
            .map(|binding| Binding {
                state: binding_state::MAY_BIND.into(),
                ..binding
            });
        self.store.transaction::<_, AgentError>(|tx| {
            for binding in unbound {
                tx.put_binding(&binding)?;
            }
            Ok(tx.withdraw_update(did.as_str(), target_version)?)
        })
    }

    /// Has a cohort's machine forget the update of a DID that waits there.
    pub(super) fn take_back(&mut self, did: &Did, cohort: CohortId) -> Result<Outcome, AgentError> {
        let index = did.smt_index();
        self.feed(
            (cohort, Role::Participant),
            NodeInput::Participant(ParticipantInput::Withdraw { index }),
        )
    }
}

fn invalid_update(error: &dyn std::error::Error) -> AgentError {
    AgentError::Did {
        code: ErrorCode::InvalidDidUpdate,
        reason: error.to_string(),
    }
}
