//! Leaving a cohort: which DIDs still list its beacon, and how they get rid of it first.

use super::changes::Change;
use super::dids::{did_state, parse_document};
use super::error::AgentError;
use super::handle::AgentHandle;
use super::node::{Machine, Node};
use super::routing::{Route, Via, lists_beacon_of};
use super::runtime::Agent;
use super::settling::initial_document;
use super::singleton::Announce;
use crate::did::{Did, Document, SignedUpdate, VerifyOptions, verify};
use crate::hash::CohortId;
use crate::protocol::participant::MemberPhase;
use crate::store::{DidRow, Role};

/// What leaving a cohort means for this agent's DIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitPlan {
    /// The cohort.
    pub cohort: CohortId,
    /// The set is frozen: without this seat nothing can be signed, so that leaving ends the beacon for all.
    pub ends_for_all: bool,
    /// Members of the set, this agent included; 0 while it is not known.
    pub members: usize,
    /// The DIDs that have to do with it, oldest first.
    pub dids: Vec<ExitingDid>,
}

/// A DID that has to do with a cohort that is to be left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitingDid {
    /// The DID.
    pub did: Did,
    /// Its version.
    pub version: u64,
    /// The services of its document that list the beacon.
    pub services: Vec<String>,
    /// Where it stands.
    pub step: ExitStep,
}

/// Where a DID stands on its way out of a cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitStep {
    /// An update that removes the beacon can be made, and would be announced there.
    Remove(Route),
    /// Its document lists no other beacon that this agent could announce at: another one has to be added first.
    OnlyBeacon,
    /// An earlier update is not final: which one, and where it is.
    Waiting(String),
    /// The update that removes the beacon is on its way: where it is.
    Removing(String),
    /// An earlier document listed the beacon. Its signals still have to be explained (DESIGN §6, rule 13).
    Former,
    /// It is deactivated.
    Deactivated,
    /// It was registered and no document of it ever listed the beacon.
    NeverListed,
}

impl AgentHandle {
    /// Signs, for every DID that lists a cohort's beacon and can do without, the update that removes it, and queues
    /// it for the next round; where the cohort has ended, announces it singly. Gives the plan as it is then, and
    /// what went wrong with which DID.
    ///
    /// # Errors
    /// [`AgentError::UnknownCohort`] if this agent is no member of it.
    pub async fn remove_beacons(
        &self,
        cohort: CohortId,
    ) -> Result<(ExitPlan, Vec<String>), AgentError> {
        let plan = self.with(move |agent| agent.exit_plan(cohort)).await??;
        let mut failed = Vec::new();
        for exiting in plan.dids {
            let ExitStep::Remove(route) = exiting.step else {
                continue;
            };
            let service = route.service().map(str::to_owned);
            let via = match route {
                Route::Cohort(cohort) => Via::Cohort(Some(cohort)),
                Route::Singleton(service) => Via::Singleton {
                    service: Some(service),
                },
            };
            let changes = exiting
                .services
                .into_iter()
                .map(|beacon| Change::RemoveBeacon { beacon })
                .collect();
            let did = &exiting.did;
            if let Err(error) = self.update_did(did, changes, via).await {
                failed.push(format!("{did}: {error}"));
            } else if service.is_some() {
                let announce = Announce {
                    service,
                    fee_rate: None,
                };
                if let Err(error) = self.announce_did(did, &announce).await {
                    failed.push(format!("{did}: signed, and not announced: {error}"));
                }
            }
        }
        let plan = self.with(move |agent| agent.exit_plan(cohort)).await??;
        Ok((plan, failed))
    }
}

impl Agent {
    /// What leaving a cohort means: which DIDs still list its beacon, and what announces the update that removes it.
    ///
    /// # Errors
    /// [`AgentError::UnknownCohort`] if this agent is no member of it.
    pub fn exit_plan(&self, cohort: CohortId) -> Result<ExitPlan, AgentError> {
        let id = (cohort, Role::Participant);
        let node = self
            .nodes
            .get(&id)
            .ok_or(AgentError::UnknownCohort(cohort))?;
        let ends_for_all = matches!(&node.machine, Machine::Participant(machine)
            if matches!(machine.phase(), MemberPhase::Acknowledged | MemberPhase::Active));
        let mut dids = Vec::new();
        for row in self.store.view().dids()? {
            let Ok(did) = row.did.parse::<Did>() else {
                continue;
            };
            let bindings = self.store.view().bindings_of(did.smt_index())?;
            let registered = bindings
                .iter()
                .any(|binding| binding.cohort == cohort && binding.role == Role::Participant);
            if let Some(exiting) = self.exiting(node, &row, did, registered)? {
                dids.push(exiting);
            }
        }
        Ok(ExitPlan {
            cohort,
            ends_for_all,
            members: node.key_set().map_or(0, |keys| keys.len()),
            dids,
        })
    }

    /// Where a DID stands; `None` if it has nothing to do with the cohort.
    fn exiting(
        &self,
        node: &Node,
        row: &DidRow,
        did: Did,
        registered: bool,
    ) -> Result<Option<ExitingDid>, AgentError> {
        let document = parse_document(&row.document)?;
        let listed = lists_beacon_of(&document, node);
        if !listed && !registered {
            return Ok(None);
        }
        let address = node.address();
        let services = document
            .beacons()
            .iter()
            .filter(|beacon| Some(&beacon.address) == address.as_ref())
            .map(|beacon| beacon.id.clone())
            .collect();
        let step = if row.state == did_state::DEACTIVATED {
            ExitStep::Deactivated
        } else if listed {
            self.way_out(node, row, &document)?
        } else if self.listed_once(node, row, &did)? {
            ExitStep::Former
        } else {
            ExitStep::NeverListed
        };
        Ok(Some(ExitingDid {
            did,
            version: row.version,
            services,
            step,
        }))
    }

    /// How a DID that lists the beacon gets rid of it.
    fn way_out(
        &self,
        node: &Node,
        row: &DidRow,
        document: &Document,
    ) -> Result<ExitStep, AgentError> {
        let last = self.store.view().updates_of(&row.did)?.pop();
        if let Some(last) = last.filter(|last| last.target_version > row.version) {
            let told = self
                .standing_of(&last)
                .map_or_else(|| last.state.clone(), |standing| standing.told());
            let told = format!("the update to version {} is {told}", last.target_version);
            let after = SignedUpdate::parse(&last.bytes).ok().and_then(|update| {
                verify(&update, document, row.version, VerifyOptions::default()).ok()
            });
            let removes = after.is_some_and(|after| !lists_beacon_of(&after, node));
            return Ok(if removes {
                ExitStep::Removing(told)
            } else {
                ExitStep::Waiting(told)
            });
        }
        let others = document.beacons().iter().any(|beacon| {
            let elsewhere = Some(&beacon.address) != node.address().as_ref();
            elsewhere && self.may_announce_at(document, beacon)
        });
        if !others {
            return Ok(ExitStep::OnlyBeacon);
        }
        // The cohort's own round costs this DID nothing; once it has ended, only a singleton is left.
        let own = Via::Cohort(Some(node.id.0));
        let route = self
            .route(document, &own)
            .or_else(|_| self.route(document, &Via::Singleton { service: None }))
            .or_else(|_| self.route(document, &Via::Cohort(None)));
        Ok(route.map_or(ExitStep::OnlyBeacon, ExitStep::Remove))
    }

    /// Whether this agent could announce an update at a beacon of a document.
    fn may_announce_at(&self, document: &Document, beacon: &crate::did::BeaconService) -> bool {
        let by_key = self.key_of_address(document.id(), &beacon.address);
        if matches!(by_key, Ok(Some(_))) {
            return true;
        }
        self.nodes.values().any(|node| {
            node.id.1 == Role::Participant
                && node.address().as_ref() == Some(&beacon.address)
                && self.route(document, &Via::Cohort(Some(node.id.0))).is_ok()
        })
    }

    /// Whether one of the stored documents of a DID listed the beacon.
    fn listed_once(&self, node: &Node, row: &DidRow, did: &Did) -> Result<bool, AgentError> {
        let mut document = initial_document(row, did)?;
        let mut version = 1;
        for update in self.store.view().updates_of(&row.did)? {
            if lists_beacon_of(&document, node) {
                return Ok(true);
            }
            let next = SignedUpdate::parse(&update.bytes).ok().and_then(|signed| {
                verify(&signed, &document, version, VerifyOptions::default()).ok()
            });
            if let Some(next) = next {
                (document, version) = (next, update.target_version);
            }
        }
        Ok(lists_beacon_of(&document, node))
    }
}
