//! `did announce`, and `did register --via singleton`.

use serde::Serialize;

use super::Context;
use crate::agent::control::request::{AnnounceDid, BindDid, CohortRef, DidRef, UpdateDid};
use crate::agent::control::views::{AnnouncementView, FeeRate, JoiningView};
use crate::agent::control::{Backend as _, ControlClient, ErrorCode, Failure};
use crate::cli::args::AnnounceArgs;
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::cli::render::{AnnouncementWithoutQr, Render};

/// What binds a DID to a cohort.
pub(super) struct Binding {
    pub(super) did: DidRef,
    pub(super) cohort: CohortRef,
    pub(super) service: Option<String>,
    pub(super) fee_rate: Option<FeeRate>,
    pub(super) yes: bool,
}

impl Context {
    /// Shows what it costs, asks, and announces.
    pub(super) async fn announce(&self, args: AnnounceArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let request = AnnounceDid {
            did: args.did.clone(),
            service: args.service.clone(),
            fee_rate: args.fee_rate,
            dry_run: true,
        };
        let quote = daemon.did_announce(request).await?;
        if quote.needed_sat > 0 {
            return self.lacking(&quote, args.no_qr);
        }
        if args.dry_run {
            return self.out.view(&quote);
        }
        ask_to_pay(&quote, args.yes)?;
        let request = AnnounceDid {
            did: args.did,
            service: args.service,
            fee_rate: agreed_rate(args.fee_rate, &quote),
            dry_run: false,
        };
        let announced = daemon.did_announce(request).await?;
        if let Some(reason) = &announced.refused {
            let failure = not_taken(reason);
            return self.unsuccessful(&announced, failure);
        }
        self.out.view(&announced)
    }

    /// Makes an update and announces it. Before anything is signed it is certain that both can be done, and paid.
    pub(super) async fn update_singly(
        &self,
        daemon: &ControlClient,
        mut update: UpdateDid,
        mut announce: AnnounceDid,
        yes: bool,
    ) -> Result<(), CliError> {
        let only_shown = update.dry_run;
        update.dry_run = true;
        let mut proposed = daemon.did_update(update.clone()).await?;
        let mut quote = daemon.did_announce(announce.clone()).await?;
        quote.to_version = Some(proposed.to_version);
        if only_shown {
            proposed.announcement = Some(quote);
            return self.out.view(&proposed);
        }
        if quote.needed_sat > 0 {
            return self.lacking(&quote, false);
        }
        ask_to_pay(&quote, yes)?;
        update.dry_run = false;
        announce.dry_run = false;
        announce.fee_rate = agreed_rate(announce.fee_rate, &quote);
        let mut made = daemon.did_update(update).await?;
        let announced = daemon.did_announce(announce).await?;
        let refused = announced.refused.as_deref().map(not_taken);
        made.announcement = Some(announced);
        match refused {
            Some(failure) => self.unsuccessful(&made, failure),
            None => self.out.view(&made),
        }
    }

    /// Registers, shows what the announcement costs, asks, and goes as far as it can.
    pub(super) async fn bind(&self, binding: Binding) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let Binding {
            did,
            cohort,
            service,
            fee_rate,
            yes,
        } = binding;
        let mut request = BindDid {
            did,
            cohort,
            service,
            fee_rate,
            dry_run: true,
        };
        let now = daemon.did_bind(request.clone()).await?;
        if let Some(quote) = &now.announcement {
            if quote.needed_sat > 0 {
                return self.lacking(quote, false);
            }
            ask_to_pay(quote, yes)?;
            request.fee_rate = agreed_rate(request.fee_rate, quote);
        }
        request.dry_run = false;
        let view: JoiningView = daemon.did_bind(request).await?;
        let refused = view.announcement.as_ref();
        match refused.and_then(|announcement| announcement.refused.as_deref()) {
            Some(reason) => {
                let failure = not_taken(reason);
                self.unsuccessful(&view, failure)
            }
            None => self.out.view(&view),
        }
    }

    /// What to pay first: shown, and the command has not done what it was asked to.
    fn lacking(&self, quote: &AnnouncementView, no_qr: bool) -> Result<(), CliError> {
        let failure = Failure::new(
            ErrorCode::InsufficientFunds,
            format!(
                "send at least {} sat to {}",
                quote.needed_sat, quote.address
            ),
        )
        .remedy("repeat the command once the payment is confirmed");
        if no_qr {
            self.unsuccessful(&AnnouncementWithoutQr(quote), failure)
        } else {
            self.unsuccessful(quote, failure)
        }
    }
}

/// The fee rate whose price was shown: an estimate that rises meanwhile does not make it dearer. For what is announced
/// already a rate would mean another transaction.
fn agreed_rate(asked: Option<FeeRate>, quote: &AnnouncementView) -> Option<FeeRate> {
    asked.or(quote.fee_rate.filter(|_| quote.txid.is_none()))
}

fn ask_to_pay(quote: &AnnouncementView, yes: bool) -> Result<(), CliError> {
    // What was signed before is only sent again.
    if yes || quote.txid.is_some() {
        return Ok(());
    }
    let fee = quote.fee_sat.unwrap_or_default();
    let what = match quote.to_version {
        Some(version) => format!("version {version} of {}", quote.did),
        None => format!("the update of {}", quote.did),
    };
    confirm(
        &format!(
            "Pay {fee} sat on {} from {} to announce {what}?",
            quote.network, quote.address
        ),
        "--yes",
        "not announced",
    )?;
    Ok(())
}

fn not_taken(reason: &str) -> Failure {
    Failure::new(
        ErrorCode::RefusedByPeer,
        format!("the chain did not take the transaction: {reason}"),
    )
    .remedy("it is stored and sent again; `btcr2-agent did show` says where it stands")
}

impl Context {
    /// A command that has a result, and did not do what it was asked to.
    fn unsuccessful<T: Serialize + Render>(
        &self,
        view: &T,
        failure: Failure,
    ) -> Result<(), CliError> {
        if !self.out.is_json() {
            self.out.view(view)?;
        }
        let result = serde_json::to_value(view).unwrap_or_default();
        Err(CliError::Unsuccessful { failure, result })
    }
}
