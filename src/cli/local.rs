//! What works without a daemon, and the daemon itself.
//!
//! Each function says what it promises to the command in front of it.

mod backup;
mod daemon;
mod dev;
mod doctor;
mod home;
mod recover;
mod relays;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::progress::Reporter;
use super::render::{Page, Render};
use super::secret::Secret;
use crate::agent::control::views::DemoReport;
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::launch;
use crate::config::Home;
use crate::network::Network;

pub use backup::{back_up, restore, takeover};
pub use daemon::run;
pub use dev::{dev_chain, dev_mine, dev_pay, dev_relay};
pub use doctor::{doctor, failed};
pub use home::{init, key_export, key_show, keystore_state};
pub use recover::{check_empty, key_backup, recover};
pub use relays::{discover, relay_add, relay_list, relay_probe, relay_remove};

/// The home directory when neither `--home` nor `BTCR2_AGENT_HOME` names one: the platform's place
/// for application data.
pub fn default_home() -> Result<PathBuf, Failure> {
    Home::locate(None, None)
        .map(|home| home.root().to_owned())
        .map_err(launch::home_failure)
}

/// What a home directory's keystore is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeystoreState {
    /// There is none: `init` may make one.
    Absent,
    /// It opens without a passphrase.
    Plain,
    /// It needs a passphrase.
    Encrypted,
}

/// A root secret to start from.
#[derive(Debug)]
pub enum ImportedRoot {
    /// Recovery words as typed, not checked yet.
    Words(Secret),
    /// An nsec as typed, not checked yet.
    Nsec(Secret),
}

/// What `init` is to make.
#[derive(Debug)]
pub struct InitPlan {
    /// The home directory, which may not exist yet.
    pub home: PathBuf,
    /// The network for new cohorts and DIDs; `None` keeps the configuration's default.
    pub network: Option<Network>,
    /// `None` leaves the keystore unprotected, as the user asked.
    pub passphrase: Option<Secret>,
    /// `None` generates a root secret.
    pub import: Option<ImportedRoot>,
}

/// What `recover` is to make, and out of what.
#[derive(Debug)]
pub struct RecoverPlan {
    /// The home directory, which must have no keystore and no store.
    pub home: PathBuf,
    /// The network for new cohorts and DIDs; `None` keeps the configuration's default.
    pub network: Option<Network>,
    /// The root secret.
    pub import: ImportedRoot,
    /// The bundle; without one, only what the root secret restores.
    pub bundle: Option<PathBuf>,
    /// Take a bundle that ends within a write.
    pub accept_truncated: bool,
    /// DIDs that are the root secret's.
    pub dids: Vec<crate::agent::control::request::DidRef>,
    /// Look on the chain for k1 DIDs that were used.
    pub scan: bool,
    /// The Esplora server to look on; `None` is the configured one.
    pub chain: Option<String>,
    /// `None` leaves the keystore unprotected, as the user asked.
    pub passphrase: Option<Secret>,
}

pub use crate::demo::DemoPlan;

/// Runs the demo. Any failed step is an error that names it.
pub async fn demo(plan: DemoPlan, reporter: &dyn Reporter) -> Result<DemoReport, Failure> {
    crate::demo::run(plan, reporter)
        .await
        .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
}

/// A server of `dev`, listening already.
pub struct DevServer {
    /// Where.
    pub url: String,
    /// Serves until it fails or is dropped.
    pub running: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>,
}

impl std::fmt::Debug for DevServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevServer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Answer of `dev relay` and `dev chain`, when they listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevServerView {
    /// Where.
    pub url: String,
}

/// Answer of `dev pay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevPayView {
    /// The payment.
    pub txid: bitcoin::Txid,
    /// The height of the block with it.
    pub height: u32,
}

/// Answer of `dev mine`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevMineView {
    /// The height of the tip.
    pub height: u32,
}

impl Render for DevServerView {
    fn render(&self, page: &mut Page) {
        page.line(&format!("Listening on {}. Ctrl-c stops it.", self.url));
    }
}

impl Render for DevPayView {
    fn render(&self, page: &mut Page) {
        page.line(&format!("Paid in {}, block {}.", self.txid, self.height));
    }
}

impl Render for DevMineView {
    fn render(&self, page: &mut Page) {
        page.line(&format!("The tip is block {}.", self.height));
    }
}
