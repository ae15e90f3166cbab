//! The table of operations: every request, what it takes and which view answers it.

use std::future::Future;

use serde::{Deserialize, Serialize};

use super::client::ControlClient;
use super::error::Failure;
use super::request as r;
use super::server::Response;
use super::views as v;

/// Writes the request enum, the backend trait, its implementation over the socket and the
/// dispatch of the server from one table, so that none of the four can miss an operation.
macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $method:ident($args:ty) -> $view:ty;)*) => {
        /// A request, tagged by `cmd`; the arguments stand beside the tag.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "cmd", rename_all = "snake_case")]
        #[non_exhaustive]
        #[allow(clippy::large_enum_variant, reason = "one request at a time is in memory per client")]
        pub enum Request {
            $($(#[$doc])* $variant($args),)*
            /// Turns the connection into a stream of events.
            Subscribe(r::Subscribe),
        }

        /// Everything a running agent can be asked to do.
        pub trait Backend: Send + Sync {
            $($(#[$doc])*
            fn $method(&self, args: $args) -> impl Future<Output = Result<$view, Failure>> + Send;)*
        }

        impl Backend for ControlClient {
            $(async fn $method(&self, args: $args) -> Result<$view, Failure> {
                self.call(&Request::$variant(args)).await
            })*
        }

        /// Carries out one request on a backend.
        ///
        /// [`Request::Subscribe`] is the server's own and is answered with `bad_request` here.
        pub async fn answer<B: Backend>(backend: &B, request: Request) -> Response {
            match request {
                $(Request::$variant(args) => Response::from_result(backend.$method(args).await),)*
                Request::Subscribe(_) => Response::Failed(Failure::new(
                    super::ErrorCode::BadRequest,
                    "subscribe is answered by the connection, not by the agent",
                )),
            }
        }
    };
}

operations! {
    /// The state of the daemon, its relays, chain and cohorts.
    Status = status(r::NoArgs) -> v::StatusView;
    /// Makes and publishes an advert (or sends its terms to invited keys only).
    CohortAdvertise = cohort_advertise(r::Advertise) -> v::CohortView;
    /// Looks for adverts on relays.
    CohortDiscover = cohort_discover(r::Discover) -> v::DiscoverView;
    /// Fetches and checks one cohort's advert, to show its terms before joining.
    CohortTerms = cohort_terms(r::Terms) -> v::AdvertView;
    /// Opts in.
    CohortJoin = cohort_join(r::Join) -> v::CohortView;
    /// The cohorts of this agent, in both roles.
    CohortList = cohort_list(r::ListCohorts) -> v::CohortListView;
    /// One cohort with members, rounds and delivery.
    CohortShow = cohort_show(r::ShowCohort) -> v::CohortView;
    /// What to pay, where, for how many rounds.
    CohortFund = cohort_fund(r::Fund) -> v::FundView;
    /// Has the refunds of a funding transaction signed by all before it is given back or sent.
    CohortFundPsbt = cohort_fund_psbt(r::FundPsbt) -> v::FundPsbtView;
    /// What is being signed now, as PSBTs for other tools.
    CohortPsbt = cohort_psbt(r::OneCohort) -> v::PsbtsView;
    /// Sends the refunds this agent holds whose lock is over.
    CohortRecover = cohort_recover(r::Recover) -> v::RefundsView;
    /// Aggregator: opens a round now. Member: asks for one.
    CohortAnnounce = cohort_announce(r::OneCohort) -> v::CohortView;
    /// Aggregator: sends the unconfirmed signal at its next higher fee.
    CohortBump = cohort_bump(r::OneCohort) -> v::CohortView;
    /// Aggregator: takes no more opt-ins and fixes the set with the members seated so far.
    CohortClose = cohort_close(r::OneCohort) -> v::CohortView;
    /// Aggregator: ends the cohort; refused from the first partial signature on.
    CohortCancel = cohort_cancel(r::OneCohort) -> v::CohortView;
    /// The user has seen a cohort's alarms: they are not shown any more.
    CohortAcknowledge = cohort_acknowledge(r::OneCohort) -> v::CohortView;
    /// Member: leaves; after the set froze this ends the beacon for all.
    CohortLeave = cohort_leave(r::LeaveCohort) -> v::CohortView;
    /// Aggregator: sends the terms directly to more keys.
    CohortInvite = cohort_invite(r::Invite) -> v::InviteView;
    /// Aggregator: who waits for a decision about a seat.
    CohortApplicants = cohort_applicants(r::OneCohort) -> v::ApplicantsView;
    /// Aggregator: gives a key a seat, or none.
    CohortDecide = cohort_decide(r::DecideSeat) -> v::ApplicantsView;
    /// Aggregator: the invite codes of a cohort; makes one.
    CohortCodes = cohort_codes(r::Codes) -> v::CodesView;
    /// Aggregator: makes a cohort without some seats, and offers it to the others.
    CohortReform = cohort_reform(r::ReformCohort) -> v::CohortView;
    /// Member: moves DIDs from a cohort's beacon to that of the one that took its place.
    CohortMigrate = cohort_migrate(r::Migrate) -> v::MigrationView;
    /// Creates a DID.
    DidCreate = did_create(r::CreateDid) -> v::DidView;
    /// Registers a DID, or the index of a new one, with a cohort.
    DidRegister = did_register(r::RegisterDid) -> v::DidView;
    /// Signs an update and queues it for a cohort's next round.
    DidUpdate = did_update(r::UpdateDid) -> v::DidUpdateView;
    /// The DIDs under this agent's control.
    DidList = did_list(r::NoArgs) -> v::DidListView;
    /// One DID with its document.
    DidShow = did_show(r::OneDid) -> v::DidView;
    /// Artifacts of a DID of this agent, as they can be published.
    DidArtifacts = did_artifacts(r::DidArtifacts) -> v::DidArtifactsView;
    /// What a resolver needs of a DID, as the chain is now.
    DidSidecar = did_sidecar(r::SidecarOf) -> v::SidecarView;
    /// Compares what is stored of DIDs with the chain, and asks for what is missing.
    DidVerify = did_verify(r::VerifyDids) -> v::VerifyView;
    /// Brings the encrypted bundle up to date, and copies it.
    KeyBackup = key_backup(r::Backup) -> v::BackupView;
    /// The configured relays and their connections.
    RelayList = relay_list(r::NoArgs) -> v::RelayListView;
    /// Adds or changes a relay.
    RelayAdd = relay_add(r::AddRelay) -> v::RelayListView;
    /// Removes a relay.
    RelayRemove = relay_remove(r::RemoveRelay) -> v::RelayListView;
    /// Tries relays: connection, write, read back.
    RelayProbe = relay_probe(r::ProbeRelays) -> v::RelayProbeView;
    /// Follows an aggregator.
    Follow = follow(r::Follow) -> v::FollowedView;
    /// Stops following an aggregator.
    Unfollow = unfollow(r::Follow) -> v::FollowedView;
    /// The aggregators this agent follows.
    Followed = followed(r::NoArgs) -> v::FollowedView;
    /// Who told this aggregator that they follow it.
    Subscribers = subscribers(r::NoArgs) -> v::SubscribersView;
    /// Announces the pending update of a DID through one of its own beacons.
    DidAnnounce = did_announce(r::AnnounceDid) -> v::AnnouncementView;
    /// Registers a DID with a cohort, and adds the cohort's beacon to its document by an update announced singly.
    DidBind = did_bind(r::BindDid) -> v::JoiningView;
    /// Every update of a DID, and where each is.
    DidUpdates = did_updates(r::OneDid) -> v::DidUpdatesView;
    /// Takes back an update that nobody can announce yet.
    DidWithdraw = did_withdraw(r::WithdrawUpdate) -> v::DidUpdatesView;
    /// What leaving a cohort would mean for this agent's DIDs and for the other members.
    CohortExitPlan = cohort_exit_plan(r::OneCohort) -> v::ExitPlanView;
    /// Whether money may move, on which networks, and how much.
    MoneyStatus = money_status(r::NoArgs) -> v::MoneyView;
    /// Stops spending and asking for funds, at once and across restarts. No operation undoes it.
    MoneyStop = money_stop(r::StopMoney) -> v::MoneyView;
    /// Explains a transaction.
    TxDecode = tx_decode(r::DecodeTx) -> v::TxView;
    /// Says what a PSBT does, what of it is so, and whether it is one that is known here. Signs nothing.
    PsbtInspect = psbt_inspect(r::InspectPsbt) -> v::PsbtInspectView;
    /// Queues the updates that take a cohort's beacon out of this agent's DIDs.
    CohortRemoveBeacons = cohort_remove_beacons(r::OneCohort) -> v::ExitPlanView;
}
