//! Updates of DIDs as people see them, and leaving a cohort with them.

use bitcoin::address::NetworkUnchecked;

use super::AgentBackend;
use super::dids::parse_did;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::dids::{Change, Disclosure, NewBeacon, Route, Standing, Via, update_state};
use crate::agent::launch::{agent_failure, store_failure};
use crate::agent::leaving::{ExitPlan, ExitStep, ExitingDid};
use crate::agent::runtime::Agent;
use crate::did::{Did, Document};
use crate::protocol::aggregator::FINAL_DEPTH;
use crate::store::{Role, UpdateRow};
use crate::time::UnixTime;

/// What whoever leaves a cohort still has to keep, and why (spec.md §3.4, step 4; DESIGN §6, rule 13).
const KEPT_AFTERWARDS: [&str; 2] = [
    "the signed updates, and every proof or announcement of this beacon: a DID whose document listed it once is \
     asked for what explains its signals for ever, also for signals sent after the document dropped it",
    "this agent's store or its recovery bundle: the words alone do not bring these back",
];

impl AgentBackend {
    pub(super) async fn update(&self, args: r::UpdateDid) -> Result<v::DidUpdateView, Failure> {
        let did = parse_did(&args.did)?;
        let network = did.network();
        let disclosure = match args.disclose {
            Some(r::Disclose::Hash) => Disclosure::HashOnly,
            Some(r::Disclose::Update) => Disclosure::Deposit,
            None if self.config().participant.deposit_updates => Disclosure::DepositWhereTaken,
            None => Disclosure::HashOnly,
        };
        let changes = args.changes;
        let (via, changes) = self
            .with(move |agent| {
                let via = agent.via(&args.via)?;
                let mut all = Vec::with_capacity(changes.len());
                for change in changes {
                    all.push(agent.change(change, network)?);
                }
                if args.hand_over {
                    all.push(Change::HandOver);
                }
                Ok((via, all))
            })
            .await?;
        if args.dry_run {
            let proposed = self
                .handle()
                .propose_update(&did, changes, via, disclosure)
                .await
                .map_err(agent_failure)?;
            let next_round_at = self.next_round_of(&proposed.route).await?;
            return Ok(v::DidUpdateView {
                did: did.to_string(),
                from_version: proposed.target_version.saturating_sub(1),
                to_version: proposed.target_version,
                route: route_view(&proposed.route),
                update: None,
                before: value_of(&proposed.before),
                after: value_of(&proposed.after),
                notes: proposed.notes,
                next_round_at,
                announcement: None,
            });
        }
        let queued = self
            .handle()
            .disclose_update(&did, changes, via, disclosure)
            .await
            .map_err(agent_failure)?;
        let update = self
            .with(move |agent| agent.one_update(&queued.did, queued.target_version))
            .await?;
        let next_round_at = self.next_round_of(&queued.route).await?;
        Ok(v::DidUpdateView {
            did: did.to_string(),
            from_version: queued.target_version.saturating_sub(1),
            to_version: queued.target_version,
            route: route_view(&queued.route),
            update: Some(update),
            before: value_of(&queued.before),
            after: value_of(&queued.after),
            notes: queued.notes,
            next_round_at,
            announcement: None,
        })
    }

    /// When the next round of an update's cohort opens, if that is known.
    async fn next_round_of(&self, route: &Route) -> Result<Option<UnixTime>, Failure> {
        let Route::Cohort(cohort) = route else {
            return Ok(None);
        };
        let id = (*cohort, Role::Participant);
        self.with(move |agent| {
            let node = agent.nodes.get(&id);
            Ok(node.and_then(|node| agent.next_round_at(node)))
        })
        .await
    }

    pub(super) async fn remove_beacons_of(
        &self,
        args: r::OneCohort,
    ) -> Result<v::ExitPlanView, Failure> {
        let cohort = self
            .with(move |agent| agent.find_cohort(&args.cohort, Some(Role::Participant)))
            .await?
            .0;
        let (plan, failed) = self
            .handle()
            .remove_beacons(cohort)
            .await
            .map_err(agent_failure)?;
        if let Some(first) = failed.first() {
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                format!("the beacon could not be removed from every DID: {first}"),
            )
            .remedy(
                "`btcr2-agent cohort leave --plan` shows where each DID stands; `btcr2-agent did announce` \
                 announces what is signed",
            ));
        }
        Ok(plan_view(&plan))
    }
}

impl Agent {
    pub(super) fn exit_plan_of(&self, cohort: &r::CohortRef) -> Result<v::ExitPlanView, Failure> {
        let id = self.find_cohort(cohort, Some(Role::Participant))?;
        let plan = self.exit_plan(id.0).map_err(agent_failure)?;
        Ok(plan_view(&plan))
    }

    /// Leaves, unless a DID could never be updated again and its controller has not said that this is meant.
    pub(super) fn leave_with(&mut self, args: &r::LeaveCohort) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(&args.cohort, Some(Role::Participant))?;
        let plan = self.exit_plan(id.0).map_err(agent_failure)?;
        let stuck = plan
            .dids
            .iter()
            .find(|exiting| exiting.step == ExitStep::OnlyBeacon);
        if let (Some(stuck), true, false) = (stuck, plan.ends_for_all, args.abandon) {
            return Err(Failure::new(
                ErrorCode::RefusedByPolicy,
                format!(
                    "{} lists no other beacon that this agent could announce at: after leaving it could never be \
                     updated again",
                    stuck.did
                ),
            )
            .remedy(
                "add one first, with `did update … --add-beacon singleton`; or say --abandon-dids",
            ));
        }
        self.leave_cohort(&args.cohort)
    }

    pub(super) fn updates_view(&self, did: &r::DidRef) -> Result<v::DidUpdatesView, Failure> {
        let did = parse_did(did)?;
        let row = self.did_row(&did).map_err(agent_failure)?;
        let updates = self
            .store
            .view()
            .updates_of(did.as_str())
            .map_err(store_failure)?;
        Ok(v::DidUpdatesView {
            did: row.did,
            version: row.version,
            updates: updates.iter().map(|row| self.update_view(row)).collect(),
        })
    }

    pub(super) fn withdraw_with(
        &mut self,
        args: &r::WithdrawUpdate,
    ) -> Result<v::DidUpdatesView, Failure> {
        let did = parse_did(&args.did)?;
        self.did_row(&did).map_err(agent_failure)?;
        let version = match args.version {
            Some(version) => version,
            None => {
                let updates = self.store.view().updates_of(did.as_str());
                let last = updates.map_err(store_failure)?.pop();
                last.map(|row| row.target_version).ok_or_else(|| {
                    Failure::new(ErrorCode::NotFound, format!("{did} has no update"))
                })?
            }
        };
        self.withdraw_update(&did, version).map_err(agent_failure)?;
        self.updates_view(&args.did)
    }

    fn one_update(&self, did: &Did, version: u64) -> Result<v::UpdateView, Failure> {
        let row = self.store.view().update(did.as_str(), version);
        let row = row.map_err(store_failure)?.ok_or_else(|| {
            Failure::new(
                ErrorCode::Internal,
                "the update that was just stored is gone",
            )
        })?;
        Ok(self.update_view(&row))
    }

    /// The last update, unless it is final.
    pub(super) fn pending_update(&self, did: &str) -> Result<Option<v::UpdateView>, Failure> {
        let updates = self.store.view().updates_of(did).map_err(store_failure)?;
        let last = updates.last().map(|row| self.update_view(row));
        Ok(last.filter(|view| {
            !matches!(
                view.stage,
                v::UpdateStage::Final | v::UpdateStage::Superseded
            )
        }))
    }

    pub(super) fn update_view(&self, row: &UpdateRow) -> v::UpdateView {
        let standing = self.standing_of(row);
        let (stage, confirmations) = match standing {
            _ if row.state == update_state::SUPERSEDED => (v::UpdateStage::Superseded, 0),
            // It can be announced in another way, and then it stands elsewhere.
            None | Some(Standing::Queued) if row.state == update_state::REFUSED => {
                (v::UpdateStage::Refused, 0)
            }
            Some(Standing::Queued) => (v::UpdateStage::Queued, 0),
            Some(Standing::Submitted { .. }) => (v::UpdateStage::Submitted, 0),
            Some(Standing::Signed { .. }) => (v::UpdateStage::Signed, 0),
            Some(Standing::Broadcast { .. }) => (v::UpdateStage::Broadcast, 0),
            Some(standing @ Standing::Confirmed { confirmations, .. }) if standing.is_final() => {
                (v::UpdateStage::Final, confirmations)
            }
            Some(Standing::Confirmed { confirmations, .. }) => {
                (v::UpdateStage::Confirmed, confirmations)
            }
            // Nobody here has to do with it any more: what was stored last.
            None => match row.state.as_str() {
                update_state::FINAL => (v::UpdateStage::Final, FINAL_DEPTH),
                update_state::CONFIRMED => (v::UpdateStage::Confirmed, 1),
                update_state::SIGNED => (v::UpdateStage::Signed, 0),
                _ => (v::UpdateStage::Queued, 0),
            },
        };
        let route = match (row.cohort, &row.service) {
            (Some(cohort), _) => Some(v::RouteView::Cohort(cohort)),
            (None, Some(service)) => Some(v::RouteView::Singleton(service.clone())),
            (None, None) => None,
        };
        v::UpdateView {
            to_version: row.target_version,
            hash: row.hash,
            stage,
            route,
            round: standing.and_then(|standing| standing.round()),
            txid: standing.and_then(|standing| standing.txid()).or(row.txid),
            height: standing
                .and_then(|standing| standing.height())
                .or(row.height),
            confirmations,
            needed: FINAL_DEPTH,
            deposit: self.deposit_view(row),
            reason: row.reason.clone(),
            created: row.created,
        }
    }

    fn via(&self, via: &r::AnnounceBy) -> Result<Via, Failure> {
        Ok(match via {
            r::AnnounceBy::AnyCohort => Via::Cohort(None),
            r::AnnounceBy::Cohort(cohort) => {
                Via::Cohort(Some(self.find_cohort(cohort, Some(Role::Participant))?.0))
            }
            r::AnnounceBy::Singleton { service } => Via::Singleton {
                service: service.clone(),
            },
        })
    }

    fn change(
        &self,
        change: r::DidChange,
        network: crate::network::Network,
    ) -> Result<Change, Failure> {
        Ok(match change {
            r::DidChange::Patch(operations) => Change::Patch(operations.into()),
            r::DidChange::AddService {
                id,
                service_type,
                endpoint,
            } => Change::AddService {
                id,
                kind: service_type,
                endpoint: endpoint.into(),
            },
            r::DidChange::RemoveService { id } => Change::RemoveService { id },
            r::DidChange::AddKey { id } => Change::AddKey { id },
            r::DidChange::RotateKey { id } => Change::RotateKey { id, new_id: None },
            r::DidChange::RemoveKey { id } => Change::RemoveKey { id },
            r::DidChange::AddBeacon { id, beacon } => Change::AddBeacon {
                id,
                beacon: self.new_beacon(&beacon, network)?,
            },
            r::DidChange::RemoveBeacon { beacon } => Change::RemoveBeacon { beacon },
            r::DidChange::Deactivate => Change::Deactivate,
        })
    }

    fn new_beacon(
        &self,
        spec: &r::BeaconSpec,
        network: crate::network::Network,
    ) -> Result<NewBeacon, Failure> {
        Ok(match spec {
            r::BeaconSpec::Cohort(cohort) => {
                NewBeacon::Cohort(self.find_cohort(cohort, Some(Role::Participant))?.0)
            }
            r::BeaconSpec::Own(form) => NewBeacon::Own(*form),
            r::BeaconSpec::Address(kind, text) => {
                let address = text
                    .parse::<bitcoin::Address<NetworkUnchecked>>()
                    .map_err(|error| {
                        Failure::new(
                            ErrorCode::InvalidValue,
                            format!("{text} is no bitcoin address: {error}"),
                        )
                    })?
                    .require_network(network.bitcoin_network())
                    .map_err(|_| {
                        Failure::new(
                            ErrorCode::WrongNetwork,
                            format!("{text} is no address of the DID's network, {network}"),
                        )
                    })?;
                NewBeacon::Address {
                    kind: *kind,
                    address,
                }
            }
        })
    }
}

fn route_view(route: &Route) -> v::RouteView {
    match route {
        Route::Cohort(cohort) => v::RouteView::Cohort(*cohort),
        Route::Singleton(service) => v::RouteView::Singleton(service.clone()),
    }
}

fn value_of(document: &Document) -> serde_json::Value {
    document.value().clone()
}

fn plan_view(plan: &ExitPlan) -> v::ExitPlanView {
    let dids: Vec<v::ExitingDidView> = plan.dids.iter().map(exiting_view).collect();
    let kept = dids
        .iter()
        .any(|did| did.state != v::ExitState::NeverListed);
    let keep = if kept { &KEPT_AFTERWARDS[..] } else { &[] };
    v::ExitPlanView {
        cohort: plan.cohort,
        ends_for_all: plan.ends_for_all,
        members: u32::try_from(plan.members).unwrap_or(u32::MAX),
        dids,
        keep: keep.iter().map(|&text| text.to_owned()).collect(),
    }
}

fn exiting_view(exiting: &ExitingDid) -> v::ExitingDidView {
    let (state, route, reason) = match &exiting.step {
        ExitStep::Remove(route) => (v::ExitState::Listed, Some(route_view(route)), None),
        ExitStep::OnlyBeacon => (
            v::ExitState::OnlyBeacon,
            None,
            Some("add another beacon first, with `did update … --add-beacon singleton`".to_owned()),
        ),
        ExitStep::Waiting(told) => (v::ExitState::Waiting, None, Some(told.clone())),
        ExitStep::Removing(told) => (v::ExitState::Removing, None, Some(told.clone())),
        ExitStep::Former => (v::ExitState::Former, None, None),
        ExitStep::Deactivated => (v::ExitState::Deactivated, None, None),
        ExitStep::NeverListed => (v::ExitState::NeverListed, None, None),
    };
    v::ExitingDidView {
        did: exiting.did.to_string(),
        version: exiting.version,
        state,
        services: exiting.services.clone(),
        route,
        reason,
    }
}
