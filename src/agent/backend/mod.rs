//! The operations of the control interface, carried out on a running agent.
//!
//! Everything about state goes through [`AgentHandle::with`], between two inputs of the agent; what waits
//! for relays or a chain server waits outside, so that nobody's slowness stops the agent.
//!
//! | file | operations |
//! |---|---|
//! | `status` | `status` |
//! | `cohorts` | the views of cohorts, and what is done to them |
//! | `delivery` | where messages stand |
//! | `admitting` | who is seated: applicants, codes, the work of an opt-in |
//! | `terms` | terms from arguments and settings; the written policy |
//! | `discover` | looking for adverts, also without a running agent |
//! | `joining` | `cohort terms`, `cohort join` |
//! | `funding` | `cohort fund` |
//! | `fund_psbt` | `cohort psbt`, `cohort fund --psbt` |
//! | `reforming` | `cohort reform`, `cohort migrate`; how members behave |
//! | `refunds` | `cohort recover`, and which outputs are protected |
//! | `money` | `money status`, `money stop` |
//! | `decoding`, `lone_tx` | `tx decode`, with and without a running agent |
//! | `inspecting` | `psbt inspect`, likewise |
//! | `recognising` | which of the transactions that were signed here one is |
//! | `dids` | DIDs |
//! | `keeping` | `did sidecar`, `did verify`, `key backup` |
//! | `singleton` | announcing updates by a transaction of their own |
//! | `updates` | their updates; what leaving a cohort means for them |
//! | `publishing` | `did publish`: the artifacts |
//! | `relays` | relays, also without a running agent |
//! | `probing` | trying relays, likewise |
//! | `follows` | whom this agent follows, and who follows it |

mod admitting;
mod bumping;
mod cohorts;
mod confirmations;
mod decoding;
mod delivery;
mod dids;
pub mod discover;
mod endings;
mod follows;
mod fund_psbt;
mod funding;
mod inspecting;
mod joining;
pub(in crate::agent) mod keeping;
mod lone_tx;
mod member_views;
mod money;
mod next_steps;
pub mod probing;
mod publishing;
mod recognising;
mod reforming;
mod refunds;
pub mod relays;
mod rounds;
mod singleton;
mod status;
mod terms;
mod updates;

pub(super) use follows::NO_COHORT;
pub use inspecting::inspect_alone;
pub use lone_tx::explain_alone;
pub use money::money_at_rest;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::control::{Backend, ErrorCode, Failure, request as r, views as v};
use super::events::{AgentEvent, What};
use super::handle::AgentHandle;
use super::launch::agent_failure;
use super::options::system_clock;
use super::runtime::Agent;
use crate::config::{Config, Home};
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// Carries out the commands of the control interface. Cheap to clone.
#[derive(Clone)]
pub struct AgentBackend {
    inner: Arc<Inner>,
}

struct Inner {
    agent: AgentHandle,
    home: Home,
    config: Config,
    started: UnixTime,
    relays: Mutex<BTreeMap<String, RelaySeen>>,
}

/// What was seen of a relay's connection.
#[derive(Debug, Clone)]
struct RelaySeen {
    connected: bool,
    since: UnixTime,
    reason: String,
}

impl std::fmt::Debug for AgentBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentBackend")
            .field("home", &self.inner.home)
            .finish_non_exhaustive()
    }
}

impl AgentBackend {
    /// The operations of a running agent, with its home and settings.
    #[must_use]
    pub fn new(agent: AgentHandle, home: Home, config: Config) -> Self {
        Self {
            inner: Arc::new(Inner {
                agent,
                home,
                config,
                started: system_clock()(),
                relays: Mutex::default(),
            }),
        }
    }

    /// The agent.
    #[must_use]
    pub fn handle(&self) -> &AgentHandle {
        &self.inner.agent
    }

    /// Takes note of an event, for what is shown of connections.
    pub fn observe(&self, event: &AgentEvent) {
        if let What::Relay {
            url,
            connected,
            reason,
        } = &event.what
        {
            let seen = RelaySeen {
                connected: *connected,
                since: event.at,
                reason: reason.clone(),
            };
            self.relays_seen().insert(url.clone(), seen);
        }
    }

    fn relays_seen(&self) -> MutexGuard<'_, BTreeMap<String, RelaySeen>> {
        self.inner
            .relays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn home(&self) -> &Home {
        &self.inner.home
    }

    fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Runs `job` with the agent.
    async fn with<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Agent) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        self.inner.agent.with(job).await.map_err(agent_failure)?
    }
}

impl Backend for AgentBackend {
    async fn status(&self, _: r::NoArgs) -> Result<v::StatusView, Failure> {
        self.status_view().await
    }

    async fn cohort_advertise(&self, args: r::Advertise) -> Result<v::CohortView, Failure> {
        self.advertise(args).await
    }

    async fn cohort_discover(&self, args: r::Discover) -> Result<v::DiscoverView, Failure> {
        self.discover(args).await
    }

    async fn cohort_terms(&self, args: r::Terms) -> Result<v::AdvertView, Failure> {
        self.look_up(&args.target).await
    }

    async fn cohort_join(&self, args: r::Join) -> Result<v::CohortView, Failure> {
        self.join(args).await
    }

    async fn cohort_list(&self, args: r::ListCohorts) -> Result<v::CohortListView, Failure> {
        self.with(move |agent| Ok(agent.cohort_list(args.all)))
            .await
    }

    async fn cohort_show(&self, args: r::ShowCohort) -> Result<v::CohortView, Failure> {
        let rounds = args.rounds.unwrap_or(DEFAULT_ROUNDS);
        self.with(move |agent| {
            let id = agent.find_cohort(&args.cohort, None)?;
            agent.cohort_view(id, rounds)
        })
        .await
    }

    async fn cohort_fund(&self, args: r::Fund) -> Result<v::FundView, Failure> {
        self.fund(args).await
    }

    async fn cohort_fund_psbt(&self, args: r::FundPsbt) -> Result<v::FundPsbtView, Failure> {
        self.fund_psbt(args).await
    }

    async fn cohort_recover(&self, args: r::Recover) -> Result<v::RefundsView, Failure> {
        self.recover(args).await
    }

    async fn money_status(&self, _: r::NoArgs) -> Result<v::MoneyView, Failure> {
        self.money().await
    }

    async fn money_stop(&self, args: r::StopMoney) -> Result<v::MoneyView, Failure> {
        self.stop_money(args).await
    }

    async fn tx_decode(&self, args: r::DecodeTx) -> Result<v::TxView, Failure> {
        self.decode(args).await
    }

    async fn psbt_inspect(&self, args: r::InspectPsbt) -> Result<v::PsbtInspectView, Failure> {
        self.inspect(args).await
    }

    async fn cohort_psbt(&self, args: r::OneCohort) -> Result<v::PsbtsView, Failure> {
        self.with(move |agent| agent.psbts(&args.cohort)).await
    }

    async fn cohort_announce(&self, args: r::OneCohort) -> Result<v::CohortView, Failure> {
        self.with(move |agent| agent.announce(&args.cohort)).await
    }

    async fn cohort_bump(&self, args: r::OneCohort) -> Result<v::CohortView, Failure> {
        self.with(move |agent| agent.bump(&args.cohort)).await
    }

    async fn cohort_close(&self, args: r::OneCohort) -> Result<v::CohortView, Failure> {
        self.with(move |agent| agent.close_cohort(&args.cohort))
            .await
    }

    async fn cohort_cancel(&self, args: r::OneCohort) -> Result<v::CohortView, Failure> {
        self.with(move |agent| agent.cancel_cohort(&args.cohort))
            .await
    }

    async fn cohort_acknowledge(&self, args: r::OneCohort) -> Result<v::CohortView, Failure> {
        self.with(move |agent| agent.acknowledge(&args)).await
    }

    async fn cohort_leave(&self, args: r::LeaveCohort) -> Result<v::CohortView, Failure> {
        self.with(move |agent| agent.leave_with(&args)).await
    }

    async fn cohort_invite(&self, args: r::Invite) -> Result<v::InviteView, Failure> {
        self.with(move |agent| agent.invite(&args)).await
    }

    async fn cohort_applicants(&self, args: r::OneCohort) -> Result<v::ApplicantsView, Failure> {
        self.with(move |agent| agent.applicants(&args.cohort, None))
            .await
    }

    async fn cohort_decide(&self, args: r::DecideSeat) -> Result<v::ApplicantsView, Failure> {
        self.with(move |agent| agent.decide_seat(&args)).await
    }

    async fn cohort_codes(&self, args: r::Codes) -> Result<v::CodesView, Failure> {
        self.codes(args).await
    }

    async fn cohort_reform(&self, args: r::ReformCohort) -> Result<v::CohortView, Failure> {
        let opt_in = args
            .opt_in_s
            .unwrap_or(self.config().aggregator.formation.seconds());
        self.with(move |agent| agent.reform(&args, opt_in)).await
    }

    async fn cohort_migrate(&self, args: r::Migrate) -> Result<v::MigrationView, Failure> {
        self.migrate(args).await
    }

    async fn did_create(&self, args: r::CreateDid) -> Result<v::DidView, Failure> {
        self.create_did(args).await
    }

    async fn did_register(&self, args: r::RegisterDid) -> Result<v::DidView, Failure> {
        self.with(move |agent| agent.register_with(&args)).await
    }

    async fn did_update(&self, args: r::UpdateDid) -> Result<v::DidUpdateView, Failure> {
        self.update(args).await
    }

    async fn did_announce(&self, args: r::AnnounceDid) -> Result<v::AnnouncementView, Failure> {
        self.announce_did(args).await
    }

    async fn did_bind(&self, args: r::BindDid) -> Result<v::JoiningView, Failure> {
        self.bind_did(args).await
    }

    async fn did_list(&self, _: r::NoArgs) -> Result<v::DidListView, Failure> {
        self.with(|agent| agent.did_list()).await
    }

    async fn did_show(&self, args: r::OneDid) -> Result<v::DidView, Failure> {
        self.with(move |agent| agent.did_view(args.did.as_str(), true))
            .await
    }

    async fn did_sidecar(&self, args: r::SidecarOf) -> Result<v::SidecarView, Failure> {
        self.sidecar(args).await
    }

    async fn did_verify(&self, args: r::VerifyDids) -> Result<v::VerifyView, Failure> {
        self.verify(args).await
    }

    async fn key_backup(&self, args: r::Backup) -> Result<v::BackupView, Failure> {
        self.backup(args).await
    }

    async fn did_updates(&self, args: r::OneDid) -> Result<v::DidUpdatesView, Failure> {
        self.with(move |agent| agent.updates_view(&args.did)).await
    }

    async fn did_withdraw(&self, args: r::WithdrawUpdate) -> Result<v::DidUpdatesView, Failure> {
        self.with(move |agent| agent.withdraw_with(&args)).await
    }

    async fn cohort_exit_plan(&self, args: r::OneCohort) -> Result<v::ExitPlanView, Failure> {
        self.with(move |agent| agent.exit_plan_of(&args.cohort))
            .await
    }

    async fn cohort_remove_beacons(&self, args: r::OneCohort) -> Result<v::ExitPlanView, Failure> {
        self.remove_beacons_of(args).await
    }

    async fn did_artifacts(&self, args: r::DidArtifacts) -> Result<v::DidArtifactsView, Failure> {
        self.with(move |agent| agent.artifacts(&args)).await
    }

    async fn relay_list(&self, _: r::NoArgs) -> Result<v::RelayListView, Failure> {
        self.list_relays().await
    }

    async fn relay_add(&self, args: r::AddRelay) -> Result<v::RelayListView, Failure> {
        self.add_relay(args).await
    }

    async fn relay_remove(&self, args: r::RemoveRelay) -> Result<v::RelayListView, Failure> {
        self.remove_relay(args).await
    }

    async fn relay_probe(&self, args: r::ProbeRelays) -> Result<v::RelayProbeView, Failure> {
        self.probe_relays(args).await
    }

    async fn follow(&self, args: r::Follow) -> Result<v::FollowedView, Failure> {
        self.with(move |agent| agent.follow_aggregator(&args)).await
    }

    async fn unfollow(&self, args: r::Follow) -> Result<v::FollowedView, Failure> {
        self.with(move |agent| agent.unfollow_aggregator(&args))
            .await
    }

    async fn followed(&self, _: r::NoArgs) -> Result<v::FollowedView, Failure> {
        self.with(|agent| agent.followed()).await
    }

    async fn subscribers(&self, _: r::NoArgs) -> Result<v::SubscribersView, Failure> {
        self.with(|agent| agent.list_subscribers()).await
    }
}

/// Past rounds shown unless told otherwise.
const DEFAULT_ROUNDS: u32 = 10;

/// The key somebody named, with the relay hints that came with it.
fn parse_key(text: &r::KeyRef) -> Result<(NostrKey, Vec<String>), Failure> {
    crate::keys::names::parse_public_key(text.as_str())
        .map_err(|error| Failure::new(ErrorCode::InvalidValue, error.to_string()))
}
