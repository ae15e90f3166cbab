//! Copies of a home, and homes made of them.

use serde::{Deserialize, Serialize};

use super::RecoveredCohortView;
use crate::agent::copies::Sighting;
use crate::time::UnixTime;

/// Answer of `backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeBackupView {
    /// The directory with the backup.
    pub dir: String,
    /// When the store was read.
    pub at: UnixTime,
    /// The incarnation of the store.
    pub inc: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// The files.
    pub files: Vec<String>,
    /// Files of the home that are not in it.
    pub left_out: Vec<String>,
}

/// Answer of `restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreView {
    /// The home.
    pub home: String,
    /// When the backup was made.
    pub backup_at: UnixTime,
    /// By which version of the program.
    pub made_by: String,
    /// The store's new incarnation.
    pub inc: u64,
    /// How many DIDs came back.
    pub dids: usize,
    /// The cohorts that go on.
    pub cohorts: Vec<RecoveredCohortView>,
}

/// Answer of `takeover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverView {
    /// The home.
    pub home: String,
    /// The store's new incarnation.
    pub inc: u64,
    /// The other copy that had been seen, if one had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Sighting>,
}
