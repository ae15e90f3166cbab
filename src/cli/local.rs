//! What works without a daemon: the seams to keys, configuration, relays, chain and demo.
//!
//! Each function says what it promises to the command in front of it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::args::ExportForm;
use super::progress::Reporter;
use super::render::{Page, Render};
use super::secret::Secret;
use crate::agent::control::request::{AddRelay, Discover, ProbeRelays, RemoveRelay};
use crate::agent::control::views::{
    DemoReport, DiscoverView, InitView, KeyView, RelayListView, RelayProbeView,
};
use crate::agent::control::{ErrorCode, Failure};
use crate::network::Network;

/// The home directory when neither `--home` nor `BTCR2_AGENT_HOME` names one: the platform's place
/// for application data.
pub fn default_home() -> Result<PathBuf, Failure> {
    directories::ProjectDirs::from("", "", "btcr2-agent")
        .map(|dirs| dirs.data_local_dir().to_owned())
        .ok_or_else(|| {
            Failure::new(ErrorCode::NotFound, "this user has no home directory")
                .remedy("give --home DIR or set BTCR2_AGENT_HOME")
        })
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

/// Looks whether there is a keystore, without opening it.
pub fn keystore_state(_home: &Path) -> Result<KeystoreState, Failure> {
    Err(not_connected("the keystore"))
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

/// Makes home directory (0700), keystore (0600) and configuration. Returns the recovery words of a
/// generated root, to be shown once. Refuses with `already_initialized` rather than overwrite.
pub fn init(_plan: InitPlan) -> Result<(InitView, Option<Secret>), Failure> {
    Err(not_connected("init"))
}

/// Runs the daemon until `stop` is cancelled: opens keystore, store, relays and chain, serves the
/// control socket, reports what happens.
pub async fn run(
    _home: &Path,
    _passphrase: Option<Secret>,
    _reporter: &dyn Reporter,
    _stop: CancellationToken,
) -> Result<(), Failure> {
    Err(not_connected("run"))
}

pub use crate::demo::DemoPlan;

/// Runs the demo. Any failed step is an error that names it.
pub async fn demo(plan: DemoPlan, reporter: &dyn Reporter) -> Result<DemoReport, Failure> {
    crate::demo::run(plan, reporter)
        .await
        .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))
}

/// The public part of the key. Needs no passphrase.
pub fn key_show(_home: &Path) -> Result<KeyView, Failure> {
    Err(not_connected("key show"))
}

/// The secret in this form. `ncryptsec` is encrypted with the keystore's passphrase and refused for
/// a keystore without one.
pub fn key_export(
    _home: &Path,
    _form: ExportForm,
    _passphrase: Option<Secret>,
) -> Result<Secret, Failure> {
    Err(not_connected("key export"))
}

/// The configured relays; all states are `unused`.
pub fn relay_list(_home: &Path) -> Result<RelayListView, Failure> {
    Err(not_connected("relay list"))
}

/// Adds or changes a relay in the home directory's relays.toml.
pub fn relay_add(_home: &Path, _args: AddRelay) -> Result<RelayListView, Failure> {
    Err(not_connected("relay add"))
}

/// Removes a relay from the home directory's relays.toml; `not_found` when it is not there.
pub fn relay_remove(_home: &Path, _args: RemoveRelay) -> Result<RelayListView, Failure> {
    Err(not_connected("relay remove"))
}

/// Tries relays with a key made for the occasion.
pub async fn relay_probe(_home: &Path, _args: ProbeRelays) -> Result<RelayProbeView, Failure> {
    Err(not_connected("relay probe"))
}

/// Looks for adverts with a key made for the occasion.
pub async fn discover(_home: &Path, _args: Discover) -> Result<DiscoverView, Failure> {
    Err(not_connected("cohort discover"))
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

/// Starts a Nostr relay in memory.
pub async fn dev_relay(_listen: SocketAddr) -> Result<DevServer, Failure> {
    Err(not_connected("dev relay"))
}

/// Starts a regtest chain in memory with an Esplora API, which mines at an interval in seconds or
/// on request only.
pub async fn dev_chain(
    _listen: SocketAddr,
    _block_every_s: Option<u64>,
) -> Result<DevServer, Failure> {
    Err(not_connected("dev chain"))
}

/// Pays from the dev chain's miner and mines a block with it.
pub async fn dev_pay(
    _chain: &str,
    _address: &str,
    _amount_sat: u64,
) -> Result<DevPayView, Failure> {
    Err(not_connected("dev pay"))
}

/// Mines blocks on the dev chain.
pub async fn dev_mine(_chain: &str, _blocks: u32) -> Result<DevMineView, Failure> {
    Err(not_connected("dev mine"))
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

fn not_connected(what: &str) -> Failure {
    Failure::new(
        ErrorCode::NotConnected,
        format!("{what} is not connected in this build yet"),
    )
}
