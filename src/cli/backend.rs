//! Reaching the daemon of a home directory.

use std::path::Path;

pub use crate::agent::control::Backend;
use crate::agent::control::{ControlClient, ErrorCode, Failure};
use crate::agent::launch;

/// Connects to the daemon; `not_running` when there is none.
pub async fn daemon(home: &Path) -> Result<ControlClient, Failure> {
    let found = launch::home(home)?;
    ControlClient::connect(&found.socket_path())
        .await
        .map_err(|failure| match failure.code {
            // The socket may lie elsewhere; the home is what people know.
            ErrorCode::NotRunning => Failure {
                message: format!("no daemon is running in {}", home.display()),
                ..failure
            },
            _ => failure,
        })
}

/// Connects to the daemon if there is one, for commands that work without.
pub async fn daemon_if_running(home: &Path) -> Result<Option<ControlClient>, Failure> {
    match daemon(home).await {
        Ok(client) => Ok(Some(client)),
        Err(failure) if failure.code == ErrorCode::NotRunning => Ok(None),
        Err(failure) => Err(failure),
    }
}
