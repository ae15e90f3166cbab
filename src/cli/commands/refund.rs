//! `cohort recover`, `cohort fund --psbt`

use std::io::{self, Write as _};

use super::Context;
use super::psbt::{base64, read_psbt};
use crate::agent::control::Backend as _;
use crate::agent::control::request::{FundPsbt, Recover};
use crate::agent::control::views::RefundState;
use crate::cli::args::{FundArgs, RecoverFundsArgs};
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::cli::output::now;
use crate::cli::render::{Page, Render as _};

impl Context {
    pub(super) async fn recover_funds(&self, args: RecoverFundsArgs) -> Result<(), CliError> {
        let daemon = daemon(&self.home).await?;
        let recover = |look| Recover {
            cohort: args.cohort.clone(),
            look,
        };
        let found = daemon.cohort_recover(recover(true)).await?;
        let ready = found
            .refunds
            .iter()
            .any(|refund| refund.state == RefundState::Ready);
        if args.look || !ready {
            return self.out.view(&found);
        }
        if !args.yes {
            let mut page = Page::new(now());
            found.render(&mut page);
            page.line("");
            let _ = io::stderr().lock().write_all(page.as_str().as_bytes());
            let question =
                "The beacon's output is spent by its refund: rounds need new funds. Send it?";
            confirm(question, "--yes", "not sent")?;
        }
        self.out.view(&daemon.cohort_recover(recover(false)).await?)
    }

    /// The funding transaction is printed only once it is safe to send.
    pub(super) async fn fund_psbt(&self, args: FundArgs) -> Result<(), CliError> {
        let psbt = base64(&read_psbt(&args.psbt.unwrap_or_default())?);
        let daemon = daemon(&self.home).await?;
        let fund = FundPsbt {
            cohort: args.cohort,
            psbt,
            wait_s: args.wait,
            broadcast: args.broadcast,
        };
        self.out.view(&daemon.cohort_fund_psbt(fund).await?)
    }
}
