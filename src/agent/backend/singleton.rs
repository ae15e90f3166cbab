//! Announcing updates singly, and binding a DID to a cohort that way.

use std::time::Duration;

use bitcoin::{Amount, FeeRate};

use super::AgentBackend;
use crate::agent::control::views as v;
use crate::agent::control::{Failure, request as r};
use crate::agent::launch::{agent_failure, store_failure};
use crate::agent::runtime::Agent;
use crate::agent::singleton::{Announce, Announced, Quote, Registration, Step};
use crate::beacon::singleton::SpendError;
use crate::did::Did;
use crate::hash::CohortId;
use crate::store::{Role, SpendRow, SpendState};

/// How long a registration is waited for. Relays and the aggregator answer within seconds or not soon; called again,
/// the command goes on.
const PATIENCE: Duration = Duration::from_secs(60);

impl AgentBackend {
    /// Announces the pending update of a DID, or says what that would cost.
    pub(super) async fn announce_did(
        &self,
        args: r::AnnounceDid,
    ) -> Result<v::AnnouncementView, Failure> {
        let did = super::dids::parse_did(&args.did)?;
        let announce = announce_of(args.service, args.fee_rate);
        if args.dry_run {
            return self.quote(&did, &announce).await;
        }
        let announced = self
            .handle()
            .announce_did(&did, &announce)
            .await
            .map_err(agent_failure)?;
        self.with(move |agent| agent.announced_view(&did, &announced))
            .await
    }

    /// Registers a DID with a cohort and adds the cohort's beacon to its document, as far as that can go now.
    pub(super) async fn bind_did(&self, args: r::BindDid) -> Result<v::JoiningView, Failure> {
        let did = super::dids::parse_did(&args.did)?;
        let announce = announce_of(args.service, args.fee_rate);
        let (of, name) = (did.clone(), args.cohort);
        let (cohort, step) = self
            .with(move |agent| {
                let (cohort, _) = agent.find_cohort(&name, Some(Role::Participant))?;
                let step = agent.joining_step(&of, cohort).map_err(agent_failure)?;
                Ok((cohort, step))
            })
            .await?;
        if args.dry_run {
            let announcement = match step {
                Step::Announced { .. } | Step::Bound => None,
                _ => Some(self.quote(&did, &announce).await?),
            };
            return Ok(joining_view(&did, cohort, &step, announcement));
        }
        let Registration { step, announced } = self
            .handle()
            .register_via_singleton(&did, cohort, &announce, PATIENCE)
            .await
            .map_err(agent_failure)?;
        let announcement = match announced {
            Some(announced) => {
                let of = did.clone();
                let view = self.with(move |agent| agent.announced_view(&of, &announced));
                Some(view.await?)
            }
            None => None,
        };
        Ok(joining_view(&did, cohort, &step, announcement))
    }

    async fn quote(&self, did: &Did, announce: &Announce) -> Result<v::AnnouncementView, Failure> {
        let announced = self.handle().announced_already(did).await;
        if let Some(row) = announced.map_err(agent_failure)?
            && announce.fee_rate.is_none()
        {
            let of = did.clone();
            return self.with(move |agent| agent.spend_view(&of, &row)).await;
        }
        let quote = self
            .handle()
            .quote_announcement(did, announce)
            .await
            .map_err(agent_failure)?;
        let of = did.clone();
        self.with(move |agent| agent.quote_view(&of, &quote)).await
    }
}

impl Agent {
    fn quote_view(&self, did: &Did, quote: &Quote) -> Result<v::AnnouncementView, Failure> {
        let mut view = view_of(did, &quote.service, &quote.address.to_string());
        show_quote(&mut view, quote);
        match &quote.plan {
            Ok(_) => {}
            Err(SpendError::Insufficient { send, .. }) => {
                let send = send.to_sat();
                view.needed_sat = send;
                view.send_sat = send.max(quote.for_five.to_sat());
                // Rule 11: what is shown here is asked for, within the caps.
                let holds = quote.spendable.checked_add(quote.waiting);
                self.gate
                    .permit(did.network())
                    .and_then(|permit| {
                        let asked = Amount::from_sat(view.send_sat);
                        permit.to_ask(asked, holds.unwrap_or(Amount::MAX_MONEY))
                    })
                    .map_err(|refused| agent_failure(refused.into()))?;
                let label = format!("{} {}", did.network(), quote.service);
                view.uri = v::FundView::bip21(&view.address, view.send_sat, &label);
            }
            Err(error) => return Err(agent_failure(error.clone().into())),
        }
        let row = self.did_row(did).map_err(agent_failure)?;
        let next = row.version.saturating_add(1);
        let update = self.store.view().update(did.as_str(), next);
        if let Some(update) = update.map_err(store_failure)? {
            view.to_version = Some(update.target_version);
            view.hash = Some(update.hash);
        }
        Ok(view)
    }

    fn announced_view(
        &self,
        did: &Did,
        announced: &Announced,
    ) -> Result<v::AnnouncementView, Failure> {
        let spend = &announced.spend;
        let store = self.store.view();
        // As it stands now: the chain may have answered already.
        let stored = store.spend(spend.row.txid);
        let stored = stored.map_err(store_failure)?;
        let row: &SpendRow = stored.as_ref().unwrap_or(&spend.row);
        let mut view = self.spend_view(did, row)?;
        if let Some(quote) = &spend.quote {
            show_quote(&mut view, quote);
        }
        view.refused.clone_from(&announced.refused);
        Ok(view)
    }

    /// What was signed, as it stands.
    fn spend_view(&self, did: &Did, row: &SpendRow) -> Result<v::AnnouncementView, Failure> {
        let mut view = view_of(did, &row.service, &row.address);
        let update = self.store.view().update(did.as_str(), row.target_version);
        view.hash = update.map_err(store_failure)?.map(|update| update.hash);
        view.to_version = Some(row.target_version);
        view.fee_sat = Some(row.fee);
        view.vsize = row.vsize();
        view.txid = Some(row.txid);
        view.state = state_of(row.standing.state);
        view.refused.clone_from(&row.standing.reason);
        Ok(view)
    }
}

/// What can be said of every announcement.
fn view_of(did: &Did, service: &str, address: &str) -> v::AnnouncementView {
    v::AnnouncementView {
        did: did.to_string(),
        network: did.network(),
        to_version: None,
        hash: None,
        service: service.to_owned(),
        address: address.to_owned(),
        state: v::AnnouncementState::NotSigned,
        fee_rate: None,
        fee_sat: None,
        vsize: None,
        change_sat: None,
        balance_sat: None,
        unconfirmed_sat: None,
        needed_sat: 0,
        send_sat: 0,
        uri: v::FundView::bip21(address, 0, ""),
        txid: None,
        replaces: None,
        refused: None,
        warnings: Vec::new(),
    }
}

fn show_quote(view: &mut v::AnnouncementView, quote: &Quote) {
    view.fee_rate = Some(shown_rate(quote.fee_rate));
    view.balance_sat = Some(quote.spendable.to_sat());
    view.unconfirmed_sat = Some(quote.waiting.to_sat());
    view.replaces = quote.replaces;
    view.warnings.clone_from(&quote.warnings);
    if let Ok(plan) = &quote.plan {
        view.fee_sat = Some(plan.fee.to_sat());
        view.vsize = Some(plan.vsize);
        view.change_sat = plan.change.map(Amount::to_sat);
    }
}

fn joining_view(
    did: &Did,
    cohort: CohortId,
    step: &Step,
    announcement: Option<v::AnnouncementView>,
) -> v::JoiningView {
    v::JoiningView {
        did: did.to_string(),
        cohort,
        stage: match step {
            Step::Unregistered => v::JoiningStage::Unregistered,
            Step::Registering => v::JoiningStage::Registering,
            Step::Refused { .. } => v::JoiningStage::Refused,
            Step::Covered { .. } => v::JoiningStage::Covered,
            Step::Ready => v::JoiningStage::Ready,
            Step::Stored { .. } => v::JoiningStage::Stored,
            Step::Announced { .. } => v::JoiningStage::Announced,
            Step::Bound => v::JoiningStage::Bound,
        },
        step: step.told(cohort),
        announcement,
    }
}

const fn state_of(state: SpendState) -> v::AnnouncementState {
    match state {
        SpendState::Signed => v::AnnouncementState::Signed,
        SpendState::Broadcast => v::AnnouncementState::Broadcast,
        SpendState::Confirmed => v::AnnouncementState::Confirmed,
        SpendState::Final => v::AnnouncementState::Final,
        SpendState::Conflicted => v::AnnouncementState::Conflicted,
        SpendState::Dead => v::AnnouncementState::Dead,
    }
}

fn announce_of(service: Option<String>, fee_rate: Option<v::FeeRate>) -> Announce {
    Announce {
        service,
        fee_rate: fee_rate.map(|rate| FeeRate::from_sat_per_kwu(rate.0.div_ceil(4))),
    }
}

const fn shown_rate(rate: FeeRate) -> v::FeeRate {
    v::FeeRate(rate.to_sat_per_kwu().saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fee_rates_are_shown_as_they_are_given() {
        for thousandths in [1_000, 1_500, 2_000, 25_000] {
            let announce = announce_of(None, Some(v::FeeRate(thousandths)));
            let rate = announce.fee_rate.unwrap();
            assert_eq!(shown_rate(rate), v::FeeRate(thousandths));
            assert_eq!(rate.to_sat_per_kwu() * 4, thousandths);
        }
    }
}
