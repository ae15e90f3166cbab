//! Binding a DID that exists to a cohort: by an update that adds the cohort's beacon, announced by a signal of the
//! DID's own (DESIGN §5, "Binding order").
//!
//! Register; acknowledged; history complete; then the update. From before it is stored on, this member signs no
//! signal of the cohort that does not cover the DID, so that whatever confirms in the same block as the update, or
//! after it, can be explained. Before that, no signal may be under way that does not cover it. Every step is stored;
//! asked again, the command goes on where it stands.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::super::causes::refusal;
use super::super::changes::{Change, NewBeacon};
use super::super::dids::{parse_document, update_state};
use super::super::error::AgentError;
use super::super::fresh::FreshResolution;
use super::super::handle::AgentHandle;
use super::super::node::{Machine, NodeId};
use super::super::routing::{Via, lists_beacon_of};
use super::super::runtime::Agent;
use super::super::standing::Standing;
use super::paying::{Announce, Funds};
use super::signing::{Announced, SignedSpend};
use crate::agent::dids::Disclosure;
use crate::did::{Did, Document, SignedUpdate, VerifyOptions, verify};
use crate::hash::CohortId;
use crate::protocol::participant::{BindingState, IndexState};
use crate::store::{Role, UpdateRow};

/// How far a DID is on its way to a cohort's beacon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The cohort does not know of it.
    Unregistered,
    /// The aggregator has not acknowledged the registration.
    Registering,
    /// The aggregator refused the registration.
    Refused {
        /// Why.
        why: String,
    },
    /// The cohort covers it, and something has to happen before its document may list the beacon.
    Covered {
        /// What.
        why: String,
    },
    /// The update that adds the beacon may be announced.
    Ready,
    /// The update is signed and stored, and not announced.
    Stored {
        /// The version it leads to.
        version: u64,
    },
    /// It is announced.
    Announced {
        /// The version it leads to.
        version: u64,
        /// Where it stands.
        standing: Standing,
    },
    /// The document lists the beacon.
    Bound,
}

/// How far a registration came.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Where it stands.
    pub step: Step,
    /// What was announced by this call.
    pub announced: Option<Announced>,
}

impl Step {
    /// For people: where it stands, and what happens next.
    #[must_use]
    pub fn told(&self, cohort: CohortId) -> String {
        let short = cohort.short();
        match self {
            Self::Unregistered => format!("not registered with cohort {short}"),
            Self::Registering => {
                format!(
                    "waits for the aggregator of cohort {short} to acknowledge the registration"
                )
            }
            Self::Refused { why } => format!("cohort {short} refused the registration: {why}"),
            Self::Covered { why } => format!("covered by cohort {short}; {why}"),
            Self::Ready => format!(
                "covered by cohort {short}: the update that adds its beacon may be announced, with `btcr2-agent did \
                 register … --cohort {short} --via singleton`"
            ),
            Self::Stored { version } => format!(
                "the update to version {version} adds the beacon of cohort {short} and is not announced: `btcr2-agent \
                 did announce` does that"
            ),
            Self::Announced { version, standing } => format!(
                "the update to version {version} adds the beacon of cohort {short} and is {}",
                standing.told()
            ),
            Self::Bound => format!("bound to cohort {short}"),
        }
    }
}

impl AgentHandle {
    /// Registers a DID with a cohort, waits until its document may list the beacon, and announces the update that adds
    /// it through the DID's own beacon. After `patience` it says how far it came; called again it goes on from there.
    ///
    /// # Errors
    /// [`AgentError`]: it can not go on, and why.
    pub async fn register_via_singleton(
        &self,
        did: &Did,
        cohort: CohortId,
        announce: &Announce,
        patience: Duration,
    ) -> Result<Registration, AgentError> {
        let deadline = Instant::now() + patience;
        let mut events = self.events();
        let mut asked = false;
        loop {
            let of = did.clone();
            let step = self
                .with(move |agent| agent.joining_step(&of, cohort))
                .await??;
            match step {
                Step::Unregistered | Step::Refused { .. } if !asked => {
                    let of = did.clone();
                    self.with(move |agent| agent.begin_joining(&of, cohort))
                        .await??;
                    asked = true;
                }
                Step::Unregistered | Step::Registering | Step::Covered { .. } => {
                    // Whatever happens may be what is waited for; that some of it was missed changes nothing.
                    if timeout_at(deadline, events.recv()).await.is_err() {
                        return Ok(Registration {
                            step,
                            announced: None,
                        });
                    }
                }
                Step::Ready | Step::Stored { .. } => {
                    let announced = self.announce_binding(did, cohort, announce).await?;
                    let of = did.clone();
                    let step = self
                        .with(move |agent| agent.joining_step(&of, cohort))
                        .await??;
                    return Ok(Registration {
                        step,
                        announced: Some(announced),
                    });
                }
                Step::Refused { .. } | Step::Announced { .. } | Step::Bound => {
                    return Ok(Registration {
                        step,
                        announced: None,
                    });
                }
            }
        }
    }

    async fn announce_binding(
        &self,
        did: &Did,
        cohort: CohortId,
        announce: &Announce,
    ) -> Result<Announced, AgentError> {
        let fresh = self.resolve_fresh(did).await?;
        let funds = self
            .ask_funds(fresh.document(), announce.service.clone())
            .await?;
        let announce = announce.clone();
        let spend = self
            .with(move |agent| agent.sign_binding(&fresh, &funds, cohort, &announce))
            .await??;
        self.send_spend(spend).await
    }
}

impl Agent {
    /// How far a DID is on its way to a cohort's beacon.
    ///
    /// # Errors
    /// [`AgentError::UnknownCohort`], [`AgentError::UnknownDid`], [`AgentError::Store`].
    pub fn joining_step(&self, did: &Did, cohort: CohortId) -> Result<Step, AgentError> {
        let row = self.did_row(did)?;
        let id: NodeId = (cohort, Role::Participant);
        let node = self
            .nodes
            .get(&id)
            .ok_or(AgentError::UnknownCohort(cohort))?;
        let Machine::Participant(machine) = &node.machine else {
            return Err(AgentError::UnknownCohort(cohort));
        };
        let index = did.smt_index();
        let document = parse_document(&row.document)?;
        let listed = lists_beacon_of(&document, node);
        let from = match machine.index_state(&index) {
            None => return Ok(Step::Unregistered),
            Some(IndexState::Requested) => return Ok(Step::Registering),
            Some(IndexState::Refused(code)) => {
                return Ok(Step::Refused {
                    why: refusal(code).to_owned(),
                });
            }
            Some(IndexState::Covered(from)) => from,
        };
        if machine.binding_state(&index) == Some(BindingState::NotYet) {
            let (_, missing) = machine.proof_counts(&index);
            let open = machine.open_round_now().map(|open| open.round);
            let why = match open {
                _ if missing > 0 => {
                    format!(
                        "waits for the history of the beacon: {missing} of its signals are not explained yet"
                    )
                }
                Some(open) if open < from => format!(
                    "round {open} began before the registration and may still end in a signal that does not cover \
                     the DID: wait for its end"
                ),
                _ => format!("waits for round {from}, the first that covers the DID"),
            };
            return Ok(Step::Covered { why });
        }
        if listed {
            return Ok(Step::Bound);
        }
        let next = self
            .store
            .view()
            .update(did.as_str(), row.version.saturating_add(1))?;
        match next {
            Some(update) if self.adds_beacon_of(&update, &document, id)? => {
                let version = update.target_version;
                Ok(match self.announced_singly(&update) {
                    Some(standing) => Step::Announced { version, standing },
                    None => Step::Stored { version },
                })
            }
            _ => Ok(Step::Ready),
        }
    }

    fn begin_joining(&mut self, did: &Did, cohort: CohortId) -> Result<(), AgentError> {
        // Rule 11: it ends in asking for money, or spending some.
        self.gate.permit(did.network())?;
        self.register_did(did, cohort)
    }

    /// Signs the signal that announces the update adding the cohort's beacon, and first the update, unless that is stored
    /// already. Nothing is stored if it can not be paid.
    ///
    /// # Errors
    /// [`AgentError`]: nothing was stored.
    pub fn sign_binding(
        &mut self,
        fresh: &FreshResolution,
        funds: &Funds,
        cohort: CohortId,
        announce: &Announce,
    ) -> Result<SignedSpend, AgentError> {
        let did = fresh.did().clone();
        let id: NodeId = (cohort, Role::Participant);
        let next = fresh.version().saturating_add(1);
        match self.store.view().update(did.as_str(), next)? {
            Some(update) if update.state == update_state::SUPERSEDED => {}
            Some(update) if self.adds_beacon_of(&update, fresh.document(), id)? => {}
            Some(update) => {
                let standing = self.standing_of(&update).unwrap_or(Standing::Queued);
                return Err(AgentError::Refused(format!(
                    "the DID has another update to version {next}, which is {}: the beacon can be added by the one \
                     after it",
                    standing.told()
                )));
            }
            None => {
                // The price does not depend on what is announced.
                let quote = self.quote(&did, Some(next), funds, announce)?;
                quote.plan.clone()?;
                let mut changes = vec![Change::AddBeacon {
                    id: Some(format!("cohort-{}", cohort.short())),
                    beacon: NewBeacon::Cohort(cohort),
                }];
                // The cohort was made in the place of another, whose beacon may never signal again.
                let replaced = self.replaced_services(cohort, fresh.document());
                changes.extend(
                    replaced
                        .into_iter()
                        .map(|beacon| Change::RemoveBeacon { beacon }),
                );
                let via = Via::Singleton {
                    service: Some(quote.service),
                };
                self.update_did(fresh, &changes, &via, Disclosure::HashOnly)?;
            }
        }
        self.sign_announcement(fresh, funds, announce)
    }

    /// Whether a stored update leads from this document to one that lists the cohort's beacon.
    fn adds_beacon_of(
        &self,
        update: &UpdateRow,
        document: &Document,
        id: NodeId,
    ) -> Result<bool, AgentError> {
        let Some(node) = self.nodes.get(&id) else {
            return Ok(false);
        };
        let signed = SignedUpdate::parse(&update.bytes)
            .map_err(|_| AgentError::Defect("a stored update does not parse"))?;
        let source = update.target_version.saturating_sub(1);
        let target = verify(&signed, document, source, VerifyOptions::default());
        Ok(target.is_ok_and(|target| lists_beacon_of(&target, node)))
    }
}
