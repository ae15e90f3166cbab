//! `doctor`

use super::Context;
use crate::agent::control::{ErrorCode, Failure};
use crate::cli::args::DoctorArgs;
use crate::cli::backend::daemon_if_running;
use crate::cli::error::CliError;
use crate::cli::local;

impl Context {
    pub(super) async fn doctor(&self, args: &DoctorArgs) -> Result<(), CliError> {
        // A daemon that does not answer is one of the things to look for.
        let daemon = daemon_if_running(&self.home).await;
        let view = local::doctor(&self.home, daemon, args.offline).await?;
        if view.healthy {
            return self.out.view(&view);
        }
        if !self.out.is_json() {
            self.out.view(&view)?;
        }
        let failed = local::failed(&view);
        let failure = Failure::new(
            ErrorCode::Unhealthy,
            match failed {
                1 => "one thing has to be mended".to_owned(),
                some => format!("{some} things have to be mended"),
            },
        );
        let result = serde_json::to_value(&view)
            .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?;
        Err(CliError::Unsuccessful { failure, result })
    }
}
