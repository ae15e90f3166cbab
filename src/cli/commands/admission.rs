//! `cohort applicants`, `approve`, `reject`, `code …`; and what is said before work is done.

use std::io::{self, Write as _};
use std::time::Instant;

use super::Context;
use crate::agent::admitting::APPROVAL_WORK_BITS;
use crate::agent::control::Backend as _;
use crate::agent::control::request::{Codes, DecideSeat, Migrate, OneCohort, ReformCohort};
use crate::agent::control::views::AdvertView;
use crate::cli::args::{
    ApproveArgs, CodeCommand, MigrateArgs, OneCohortArgs, ReformArgs, RejectArgs,
};
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::cli::output::now;
use crate::cli::render::{Page, Render as _, duration};
use crate::protocol::Seat;
use crate::protocol::admission::{Admission, work_bits};

/// Hashes that are made to say how long more of them take.
const SAMPLE: u64 = 20_000;

impl Context {
    pub(super) async fn applicants(&self, args: OneCohortArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let cohort = args.cohort;
        self.out
            .view(&daemon.cohort_applicants(OneCohort { cohort }).await?)
    }

    pub(super) async fn approve(&self, args: ApproveArgs) -> Result<(), CliError> {
        self.decide(DecideSeat {
            cohort: args.cohort,
            key: args.key,
            approve: true,
            reason: None,
        })
        .await
    }

    pub(super) async fn reject(&self, args: RejectArgs) -> Result<(), CliError> {
        self.decide(DecideSeat {
            cohort: args.cohort,
            key: args.key,
            approve: false,
            reason: args.reason,
        })
        .await
    }

    async fn decide(&self, decision: DecideSeat) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        self.out.view(&daemon.cohort_decide(decision).await?)
    }

    pub(super) async fn code(&self, command: CodeCommand) -> Result<(), CliError> {
        let (cohort, uses) = match command {
            CodeCommand::New(args) => (args.cohort, Some(args.uses)),
            CodeCommand::List(args) => (args.cohort, None),
        };
        let daemon = daemon(&self.home).await?;
        self.out
            .view(&daemon.cohort_codes(Codes { cohort, uses }).await?)
    }

    pub(super) async fn reform(&self, args: ReformArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        if !args.yes {
            let question =
                "The others are told, with what is known of these seats. Offer them a new cohort?";
            confirm(question, "--yes", "not offered")?;
        }
        let reform = ReformCohort {
            cohort: args.cohort,
            without: args.without.into_iter().map(Seat).collect(),
            reason: args.reason,
            opt_in_s: args.opt_in_deadline,
        };
        self.out.view(&daemon.cohort_reform(reform).await?)
    }

    pub(super) async fn migrate(&self, args: MigrateArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let migrate = |plan| Migrate {
            cohort: args.cohort.clone(),
            plan,
            fee_rate: args.fee_rate,
        };
        if args.plan {
            return self.out.view(&daemon.cohort_migrate(migrate(true)).await?);
        }
        if !args.yes {
            let plan = daemon.cohort_migrate(migrate(true)).await?;
            let mut page = Page::new(now());
            plan.render(&mut page);
            page.line("");
            let _ = io::stderr().lock().write_all(page.as_str().as_bytes());
            confirm(
                "Register, sign and announce these updates?",
                "--yes",
                "not moved",
            )?;
        }
        self.out.view(&daemon.cohort_migrate(migrate(false)).await?)
    }
}

/// How long the work for a seat takes on this machine, in words; `None` if there is none worth a word.
pub(super) fn work_told(advert: &AdvertView, asked: Option<u8>) -> Option<String> {
    let bits = match advert.terms.admission {
        Admission::Open | Admission::Code => return None,
        Admission::Pow(bits) => bits.max(asked.unwrap_or(0)),
        Admission::Approval => asked.unwrap_or(APPROVAL_WORK_BITS),
    };
    let began = Instant::now();
    let sample = (0..SAMPLE).map(|number| work_bits(&advert.cohort, advert.aggregator, number));
    let _ = sample.max();
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let hashes = 1u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
    let seconds = micros.saturating_mul(hashes / SAMPLE) / 1_000_000;
    (seconds > 0).then(|| {
        format!(
            "Proof of work of {bits} bits: about {} of one core, three times that with bad luck.",
            duration(seconds)
        )
    })
}
