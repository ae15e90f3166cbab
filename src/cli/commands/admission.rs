//! `cohort applicants`, `approve`, `reject`, `code …`; and what is said before work is done.

use std::time::Instant;

use super::Context;
use crate::agent::admitting::APPROVAL_WORK_BITS;
use crate::agent::control::Backend as _;
use crate::agent::control::request::{Codes, DecideSeat, OneCohort};
use crate::agent::control::views::AdvertView;
use crate::cli::args::{ApproveArgs, CodeCommand, OneCohortArgs, RejectArgs};
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::cli::render::duration;
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
