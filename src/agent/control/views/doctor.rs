//! Whether everything an agent needs is in order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::agent::control::PeerText;

/// Answer of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorView {
    /// The home.
    pub home: String,
    /// Version of this program.
    pub version: String,
    /// Whether nothing failed. Warnings do not count.
    pub healthy: bool,
    /// What was looked at, in this order.
    pub checks: Vec<CheckView>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What it belongs to.
    pub area: Area,
    /// How it is.
    pub state: CheckState,
    /// What was found: one sentence.
    pub text: PeerText,
    /// What to do, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// The home directory, and who holds it.
    Home,
    /// The settings.
    Settings,
    /// The keystore.
    Keys,
    /// The store.
    Store,
    /// Backup and bundle.
    Backup,
    /// Versions of program, schema and daemon.
    Versions,
    /// This machine's clock.
    Clock,
    /// The relays.
    Relays,
    /// The chain backends.
    Chain,
    /// What resolution of this agent's DIDs needs.
    Artifacts,
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Home => "home",
            Self::Settings => "settings",
            Self::Keys => "keys",
            Self::Store => "store",
            Self::Backup => "backup",
            Self::Versions => "versions",
            Self::Clock => "clock",
            Self::Relays => "relays",
            Self::Chain => "chain",
            Self::Artifacts => "artifacts",
        })
    }
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// In order.
    Ok,
    /// Not looked at; the text says why.
    Skipped,
    /// Works, and should be looked after.
    Warning,
    /// Has to be mended.
    Failed,
}

impl fmt::Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        })
    }
}
