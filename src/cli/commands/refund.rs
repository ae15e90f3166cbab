//! `cohort recover`, `cohort fund --psbt`

use std::io::{self, Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Context;
use crate::agent::control::request::{FundPsbt, Recover};
use crate::agent::control::views::RefundState;
use crate::agent::control::{Backend as _, ErrorCode, Failure};
use crate::cli::args::{FundArgs, RecoverFundsArgs};
use crate::cli::ask::confirm;
use crate::cli::backend::daemon;
use crate::cli::error::CliError;
use crate::cli::output::now;
use crate::cli::render::{Page, Render as _};

/// The longest PSBT that is read, in bytes.
const MAX_PSBT: u64 = 200_000;

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
        let mut bytes = Vec::new();
        let path = args.psbt.unwrap_or_default();
        let read = if path.as_os_str() == "-" {
            io::stdin().lock().take(MAX_PSBT).read_to_end(&mut bytes)
        } else {
            std::fs::File::open(&path).and_then(|file| file.take(MAX_PSBT).read_to_end(&mut bytes))
        };
        read.map_err(|error| Failure::new(ErrorCode::Io, format!("{}: {error}", path.display())))?;
        // The bytes themselves, or their base64.
        let psbt = if bytes.starts_with(b"psbt\xff") {
            STANDARD.encode(&bytes)
        } else {
            String::from_utf8_lossy(&bytes).into_owned()
        };
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
