//! `cohort …`

use std::io::{self, Write as _};

use super::Context;
use super::admission::work_told;
use crate::agent::control::request::{
    Advertise, CodeText, CohortRef, Discover, Fund, Invite, Join, JoinTarget, LeaveCohort,
    ListCohorts, OneCohort, ShowCohort, Terms, TosArg,
};
use crate::agent::control::views::{AdvertStatus, AdvertView, CohortPhase};
use crate::agent::control::{Backend as _, ErrorCode, Failure};
use crate::cli::args::values::JoinArg;
use crate::cli::args::{
    AdvertiseArgs, CohortCommand, DiscoverArgs, EndArgs, FundArgs, JoinArgs, LeaveArgs, ShowArgs,
};
use crate::cli::ask::confirm;
use crate::cli::backend::{daemon, daemon_if_running};
use crate::cli::error::CliError;
use crate::cli::output::now;
use crate::cli::render::{FundWithoutQr, Page, Render as _};
use crate::cli::{local, picks};

impl Context {
    pub(super) async fn cohort(&self, command: CohortCommand) -> Result<(), CliError> {
        match command {
            CohortCommand::Advertise(args) => {
                let daemon = daemon(&self.home).await?;
                self.out
                    .view(&daemon.cohort_advertise(advertise(*args)).await?)
            }
            CohortCommand::Discover(args) => self.discover(args).await,
            CohortCommand::Join(args) => self.join(args).await,
            CohortCommand::List(args) => {
                let daemon = daemon(&self.home).await?;
                let list = ListCohorts { all: args.all };
                self.out.view(&daemon.cohort_list(list).await?)
            }
            CohortCommand::Show(args) => self.show(args).await,
            CohortCommand::Fund(args) => self.fund(args).await,
            CohortCommand::Psbt(args) => self.cohort_psbt(args).await,
            CohortCommand::Recover(args) => self.recover_funds(args).await,
            CohortCommand::Announce(args) => {
                let daemon = daemon(&self.home).await?;
                let cohort = args.cohort;
                self.out
                    .view(&daemon.cohort_announce(OneCohort { cohort }).await?)
            }
            CohortCommand::Bump(args) => {
                let daemon = daemon(&self.home).await?;
                let cohort = args.cohort;
                self.out
                    .view(&daemon.cohort_bump(OneCohort { cohort }).await?)
            }
            CohortCommand::Close(args) => {
                let daemon = daemon(&self.home).await?;
                let cohort = args.cohort;
                self.out
                    .view(&daemon.cohort_close(OneCohort { cohort }).await?)
            }
            CohortCommand::Cancel(args) => self.cancel(args).await,
            CohortCommand::Acknowledge(args) => {
                let daemon = daemon(&self.home).await?;
                let cohort = args.cohort;
                self.out
                    .view(&daemon.cohort_acknowledge(OneCohort { cohort }).await?)
            }
            CohortCommand::Leave(args) => self.leave(args).await,
            CohortCommand::Applicants(args) => self.applicants(args).await,
            CohortCommand::Approve(args) => self.approve(args).await,
            CohortCommand::Reject(args) => self.reject(args).await,
            CohortCommand::Code(command) => self.code(command).await,
            CohortCommand::Reform(args) => self.reform(args).await,
            CohortCommand::Migrate(args) => self.migrate(args).await,
            CohortCommand::Invite(args) => {
                let daemon = daemon(&self.home).await?;
                let invite = Invite {
                    cohort: args.cohort,
                    keys: args.keys,
                };
                self.out.view(&daemon.cohort_invite(invite).await?)
            }
        }
    }

    async fn discover(&self, args: DiscoverArgs) -> Result<(), CliError> {
        let request = Discover {
            network: args.network,
            beacon: args.beacon,
            min_seats: args.min_seats,
            max_seats: args.max_seats,
            aggregator: args.aggregator,
            all: args.all,
            relays: args.relays,
            timeout_s: args.timeout,
        };
        let found = match daemon_if_running(&self.home).await? {
            Some(daemon) => daemon.cohort_discover(request).await?,
            None => local::discover(&self.home, request).await?,
        };
        let remembered = picks::remember(&self.home, &found)?;
        self.out.view(&found)?;
        if !remembered && !found.adverts.is_empty() {
            tracing::warn!(
                "the numbers can not be used: there is no home directory yet (`btcr2-agent init`)"
            );
        }
        Ok(())
    }

    async fn join(&self, args: JoinArgs) -> Result<(), CliError> {
        let (target, picked) = match args.target {
            JoinArg::Pick(number) => {
                let pick = picks::recall(&self.home, number)?;
                (pick.target(), Some(pick.cohort))
            }
            JoinArg::Target(JoinTarget::Cohort(cohort)) => {
                (JoinTarget::Cohort(cohort), Some(cohort))
            }
            JoinArg::Target(target) => (target, None),
        };
        let daemon = daemon(&self.home).await?;
        let advert = daemon
            .cohort_terms(Terms {
                target: target.clone(),
            })
            .await?;
        if picked.is_some_and(|picked| picked != advert.cohort) {
            return Err(Failure::new(
                ErrorCode::BadAdvert,
                format!("another cohort, {}, was served in its place", advert.cohort),
            )
            .remedy("run `btcr2-agent cohort discover` again")
            .into());
        }
        may_join(&advert)?;
        if !(args.yes && self.out.is_json()) {
            show_terms(&advert);
        }
        if !self.out.is_json()
            && let Some(told) = work_told(&advert, args.work)
        {
            let _ = writeln!(io::stderr().lock(), "{told}");
        }
        if !args.yes {
            let question = if advert.terms.tos.is_some() {
                "Accept these terms and the terms of service, and ask for a seat?"
            } else {
                "Accept these terms and ask for a seat?"
            };
            confirm(question, "--yes", "not joined")?;
        }
        let join = Join {
            cohort: advert.cohort,
            target,
            seat: args.seat,
            payee: args.payee,
            code: args.code.map(CodeText),
            work: args.work,
        };
        self.out.view(&daemon.cohort_join(join).await?)
    }

    async fn show(&self, args: ShowArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let view = daemon
            .cohort_show(ShowCohort {
                cohort: args.cohort,
                rounds: Some(args.rounds),
            })
            .await?;
        self.out.view(&view)?;
        if args.follow {
            self.watch(Some(view.summary.cohort)).await?;
        }
        Ok(())
    }

    async fn fund(&self, args: FundArgs) -> Result<(), CliError> {
        if args.psbt.is_some() {
            return self.fund_psbt(args).await;
        }
        let daemon = daemon(&self.home).await?;
        let fund = daemon
            .cohort_fund(Fund {
                cohort: args.cohort,
                rounds: Some(args.rounds),
                fee_rate: args.fee_rate,
            })
            .await?;
        if args.no_qr {
            self.out.view(&FundWithoutQr(&fund))
        } else {
            self.out.view(&fund)
        }
    }

    async fn cancel(&self, args: EndArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        if !args.yes {
            let phase = phase(&daemon, &args.cohort).await?;
            let question = if phase.is_frozen() {
                "The beacon ends for all members, who are told; its DIDs need another one. Cancel the cohort?"
            } else {
                "Everybody who opted in is told. Cancel the cohort?"
            };
            confirm(question, "--yes", "not cancelled")?;
        }
        let cohort = args.cohort;
        self.out
            .view(&daemon.cohort_cancel(OneCohort { cohort }).await?)
    }

    async fn leave(&self, args: LeaveArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let cohort = args.cohort;
        let one = OneCohort {
            cohort: cohort.clone(),
        };
        if args.remove_beacons {
            return self.out.view(&daemon.cohort_remove_beacons(one).await?);
        }
        if args.plan {
            return self.out.view(&daemon.cohort_exit_plan(one).await?);
        }
        if !args.yes {
            let plan = daemon.cohort_exit_plan(one).await?;
            let mut page = Page::new(now());
            plan.render(&mut page);
            page.line("");
            let _ = io::stderr().lock().write_all(page.as_str().as_bytes());
            let question = if plan.ends_for_all {
                "Without this seat nothing can be signed: the beacon ends for ALL members, and DIDs \
                 that list it need another one. Leave?"
            } else {
                "The seat is given up. Leave the cohort?"
            };
            confirm(question, "--yes", "not left")?;
        }
        let leave = LeaveCohort {
            cohort,
            abandon: args.abandon_dids,
        };
        self.out.view(&daemon.cohort_leave(leave).await?)
    }
}

/// The phase a cohort is in, to say what ending it means.
async fn phase(
    daemon: &crate::agent::control::ControlClient,
    cohort: &CohortRef,
) -> Result<CohortPhase, Failure> {
    let view = daemon
        .cohort_show(ShowCohort {
            cohort: cohort.clone(),
            rounds: Some(0),
        })
        .await?;
    Ok(view.summary.phase)
}

/// Refuses what can not succeed before the user reads terms. The daemon decides in the end.
fn may_join(advert: &AdvertView) -> Result<(), Failure> {
    let cohort = advert.cohort.short();
    let refusal = |code, message: String| Err(Failure::new(code, message));
    if advert.joined {
        return refusal(
            ErrorCode::WrongPhase,
            format!("this agent has joined cohort {cohort} already"),
        );
    }
    if advert.expired {
        return refusal(
            ErrorCode::BadAdvert,
            format!("cohort {cohort} takes no opt-ins any more: its advert has expired"),
        );
    }
    match advert.status {
        AdvertStatus::Open => Ok(()),
        status => refusal(
            ErrorCode::WrongPhase,
            format!("cohort {cohort} takes no opt-ins: it is {status}"),
        ),
    }
}

/// Shows the terms on stderr: stdout is for the result.
fn show_terms(advert: &AdvertView) {
    let mut page = Page::new(now());
    advert.render(&mut page);
    page.line("");
    let _ = io::stderr().lock().write_all(page.as_str().as_bytes());
}

fn advertise(args: AdvertiseArgs) -> Advertise {
    Advertise {
        name: args.name,
        network: args.network,
        beacon: args.beacon,
        seats: args.seats,
        dids_per_seat: args.dids_per_seat,
        cadence_s: args.cadence,
        pending_trigger: args.pending_trigger,
        response_deadline_s: args.response_deadline,
        sign_deadline_s: args.sign_deadline,
        depth: args.depth,
        max_fee_rate: args.max_fee_rate,
        fee_ladder: args.fee_ladder,
        output_policy: args.output_policy,
        threshold: args.threshold,
        fund_by: args.fund_by,
        refund_blocks: args.refund_blocks,
        refund_to: args.refund_to,
        empty_rounds: args.empty_rounds,
        deposits: args.deposits,
        cost_enrolment_sat: args.cost_enrolment,
        cost_announcement_sat: args.cost_announcement,
        tos: args
            .tos_sha256
            .zip(args.tos_link)
            .map(|(sha256, link)| TosArg { sha256, link }),
        opt_in_s: args.opt_in_deadline,
        // An invitation in a public cohort would be an advert with an extra step; whoever names
        // keys wants these and no others.
        admission: args.admission,
        invite_only: args.invite_only || !args.invite.is_empty(),
        invite: args.invite,
    }
}
