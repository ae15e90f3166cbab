//! `backup`, `restore` and `takeover`

use super::Context;
use crate::cli::args::{HomeBackupArgs, RestoreArgs, TakeoverArgs};
use crate::cli::ask::confirm;
use crate::cli::error::CliError;
use crate::cli::local;

impl Context {
    pub(super) fn home_backup(&self, args: &HomeBackupArgs) -> Result<(), CliError> {
        self.out.view(&local::back_up(&self.home, &args.out)?)
    }

    pub(super) fn restore(&self, args: &RestoreArgs) -> Result<(), CliError> {
        self.out.view(&local::restore(&self.home, &args.from)?)
    }

    pub(super) fn takeover(&self, args: &TakeoverArgs) -> Result<(), CliError> {
        if !args.yes {
            confirm(
                "Is every other copy of this agent stopped for good?",
                "--yes",
                "not taken over",
            )?;
        }
        self.out.view(&local::takeover(&self.home)?)
    }
}
