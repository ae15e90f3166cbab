//! DIDs as people see them, and what is done with them.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::dids::{binding_state, did_state};
use crate::agent::events::What;
use crate::agent::launch::{agent_failure, store_failure};
use crate::agent::node::Machine;
use crate::agent::routing::lists_beacon_of;
use crate::agent::runtime::Agent;
use crate::agent::singleton::Step;
use crate::did::{Did, Document};
use crate::hash::{CohortId, SmtIndex};
use crate::protocol::participant::{BindingState, IndexState};
use crate::store::{DidRow, Role};

/// How long `did create` waits for the registration and the history. Relays and the aggregator answer within
/// seconds or not soon.
const READY_WITHIN: Duration = Duration::from_secs(60);

impl AgentBackend {
    /// Creates a DID; one bound to a cohort is waited for until it may be used.
    pub(super) async fn create_did(&self, args: r::CreateDid) -> Result<v::DidView, Failure> {
        let Some(cohort) = args.cohort else {
            let network = args.network.unwrap_or(self.config().network);
            let external = args.external;
            return self
                .with(move |agent| {
                    agent
                        .gate
                        .permit(network)
                        .map_err(|refused| agent_failure(refused.into()))?;
                    let did = if external {
                        agent.create_external_did(network)
                    } else {
                        agent.create_key_did(network)
                    }
                    .map_err(agent_failure)?;
                    agent.did_view(did.as_str(), true)
                })
                .await;
        };
        let mut events = self.handle().events();
        let network = args.network;
        let did = self
            .with(move |agent| {
                let id = agent.find_cohort(&cohort, Some(Role::Participant))?;
                let of = agent.node(id)?.terms().network;
                if network.is_some_and(|network| network != of) {
                    return Err(Failure::new(
                        ErrorCode::WrongNetwork,
                        format!("cohort {} is on {of}", id.0.short()),
                    ));
                }
                agent.create_cohort_did(id.0).map_err(agent_failure)
            })
            .await?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match timeout_at(deadline, events.recv()).await {
                Ok(Ok(event)) => match event.what {
                    What::DidReady { did: ready } if ready == did.as_str() => break,
                    _ => {}
                },
                // The view says how far it is.
                Ok(Err(RecvError::Closed)) | Err(_) => break,
                Ok(Err(RecvError::Lagged(_))) => {
                    let text = did.to_string();
                    let ready = self
                        .with(move |agent| Ok(agent.did_is_ready(&text)))
                        .await?;
                    if ready {
                        break;
                    }
                }
            }
        }
        self.with(move |agent| agent.did_view(did.as_str(), true))
            .await
    }
}

impl Agent {
    fn did_is_ready(&self, did: &str) -> bool {
        let row = self.store.view().did(did).ok().flatten();
        row.is_some_and(|row| row.state != did_state::REGISTERING)
    }

    /// Registers a DID with a cohort, or a new one.
    pub(super) fn register_with(&mut self, args: &r::RegisterDid) -> Result<v::DidView, Failure> {
        let id = self.find_cohort(&args.cohort, Some(Role::Participant))?;
        let did = match &args.did {
            Some(did) => {
                let did = parse_did(did)?;
                self.did_row(&did).map_err(agent_failure)?;
                self.register_did(&did, id.0).map_err(agent_failure)?;
                did
            }
            None => self.create_cohort_did(id.0).map_err(agent_failure)?,
        };
        self.did_view(did.as_str(), true)
    }

    pub(super) fn did_list(&self) -> Result<v::DidListView, Failure> {
        let rows = self.store.view().dids().map_err(store_failure)?;
        let dids = rows
            .iter()
            .map(|row| self.view_of(row, false))
            .collect::<Result<_, _>>()?;
        Ok(v::DidListView { dids })
    }

    pub(super) fn did_view(&self, did: &str, with_document: bool) -> Result<v::DidView, Failure> {
        let row = self.store.view().did(did).map_err(store_failure)?;
        let row = row.ok_or_else(|| {
            Failure::new(
                ErrorCode::NotFound,
                format!("this agent does not control {did}"),
            )
            .remedy("`btcr2-agent did list` shows those it does")
        })?;
        self.view_of(&row, with_document)
    }

    fn view_of(&self, row: &DidRow, with_document: bool) -> Result<v::DidView, Failure> {
        let did: Did = parse_did_text(&row.did)?;
        let index = did.smt_index();
        let document = Document::parse(&row.document)
            .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
        let bindings: Vec<v::DidBindingView> = self
            .store
            .view()
            .bindings_of(index)
            .map_err(store_failure)?
            .into_iter()
            .filter(|binding| binding.role == Role::Participant)
            .map(|binding| self.binding_view(binding.cohort, index, &document))
            .collect();
        let beacons = document
            .beacons()
            .iter()
            .map(|beacon| v::DidBeaconView {
                id: beacon.id.clone(),
                beacon_type: beacon.kind.name().to_owned(),
                address: beacon.address.to_string(),
            })
            .collect();
        let next_step = self.next_step_of(row, &bindings);
        Ok(v::DidView {
            did: Some(row.did.clone()),
            kind: if row.kind == "k1" {
                v::DidKind::K1
            } else {
                v::DidKind::X1
            },
            network: row.network,
            version: row.version,
            deactivated: row.state == did_state::DEACTIVATED,
            bindings,
            beacons,
            pending: self.pending_update(&row.did)?,
            document: if with_document {
                serde_json::from_str(&row.document).ok()
            } else {
                None
            },
            next_step,
        })
    }

    fn binding_view(
        &self,
        cohort: CohortId,
        index: SmtIndex,
        document: &Document,
    ) -> v::DidBindingView {
        let node = self.nodes.get(&(cohort, Role::Participant));
        let machine = match node.map(|node| &node.machine) {
            Some(Machine::Participant(machine)) => Some(machine),
            _ => None,
        };
        let (have, lack) = machine.map_or((0, 0), |machine| machine.proof_counts(&index));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let stage = match machine
            .map(|machine| (machine.index_state(&index), machine.binding_state(&index)))
        {
            Some((_, Some(BindingState::Bound))) => self.bound_stage(cohort, index, document),
            Some((_, Some(BindingState::MayBind))) => v::BindingStage::Ready,
            Some((Some(IndexState::Covered(_)), _)) => v::BindingStage::History,
            _ => v::BindingStage::Registering,
        };
        v::DidBindingView {
            cohort,
            stage,
            covered: count(have),
            signals: count(have.saturating_add(lack)),
        }
    }

    /// A DID that counts as bound: by its document, by an earlier one, or by one that is on its way.
    fn bound_stage(
        &self,
        cohort: CohortId,
        index: SmtIndex,
        document: &Document,
    ) -> v::BindingStage {
        let node = self.nodes.get(&(cohort, Role::Participant));
        if node.is_some_and(|node| lists_beacon_of(document, node)) {
            return v::BindingStage::Bound;
        }
        let step = self.joining_step(document.id(), cohort);
        if matches!(step, Ok(Step::Stored { .. } | Step::Announced { .. })) {
            return v::BindingStage::Pending;
        }
        let stored = self.store.view().bindings_of(index).unwrap_or_default();
        let pending = stored
            .iter()
            .any(|binding| binding.cohort == cohort && binding.state == binding_state::PENDING);
        if pending {
            v::BindingStage::Pending
        } else {
            v::BindingStage::Former
        }
    }

    fn next_step_of(&self, row: &DidRow, bindings: &[v::DidBindingView]) -> Option<String> {
        let refused = bindings.iter().find_map(|binding| {
            let node = self.nodes.get(&(binding.cohort, Role::Participant))?;
            let Machine::Participant(machine) = &node.machine else {
                return None;
            };
            let did: Did = row.did.parse().ok()?;
            match machine.index_state(&did.smt_index()) {
                Some(IndexState::Refused(code)) => Some(format!(
                    "cohort {} refused the registration: {}",
                    binding.cohort.short(),
                    crate::agent::causes::refusal(code)
                )),
                _ => None,
            }
        });
        if refused.is_some() {
            return refused;
        }
        if row.state == did_state::REGISTERING {
            return Some(
                "still registering: do not use it yet; `did show` says when it is bound".to_owned(),
            );
        }
        let did: Did = row.did.parse().ok()?;
        bindings
            .iter()
            .filter(|binding| {
                !matches!(
                    binding.stage,
                    v::BindingStage::Bound | v::BindingStage::Former
                )
            })
            .find_map(|binding| {
                let step = self.joining_step(&did, binding.cohort).ok()?;
                Some(step.told(binding.cohort))
            })
    }
}

pub(super) fn parse_did(did: &r::DidRef) -> Result<Did, Failure> {
    parse_did_text(did.as_str())
}

pub(super) fn parse_did_text(did: &str) -> Result<Did, Failure> {
    did.parse().map_err(|error: crate::did::InvalidDid| {
        Failure::new(ErrorCode::InvalidValue, format!("{did}: {error}"))
    })
}
