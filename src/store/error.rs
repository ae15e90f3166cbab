//! What can go wrong with the store, in words a person can act on.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::hash::CohortId;

/// Why the store could not be opened, read or written.
///
/// Whatever the variant, a transaction that ended with an error left the store as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file can not be opened or created.
    #[error(
        "cannot open the store {path}: {reason}; check that its directory exists and that you may write to it",
        path = .path.display()
    )]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// What the operating system or SQLite said.
        reason: String,
    },
    /// A newer program wrote this store.
    #[error(
        "the store has schema version {found}, and this program knows versions up to {known}: use the newer btcr2-agent that wrote it"
    )]
    NewerSchema {
        /// The version in the file.
        found: i64,
        /// The newest version this program can read.
        known: i64,
    },
    /// The file is a database of another program.
    #[error("{path} is an SQLite database of another program: give the agent another home", path = .path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// Write-ahead logging is refused, as on network file systems.
    #[error(
        "the store can not use write-ahead logging here (SQLite chose {mode:?}): put the home on a local disk"
    )]
    NoWriteAheadLog {
        /// The journal mode SQLite fell back to.
        mode: String,
    },
    /// The disk is full, or the store reached the size it may have.
    #[error(
        "the disk is full, or the store reached limits.store_mib: nothing of this step was written; free space or raise the limit"
    )]
    DiskFull,
    /// The file or its directory is read-only.
    #[error(
        "the store is read-only: nothing was written; make its file and directory writable, or stop the program that opened it read-only"
    )]
    ReadOnly,
    /// Another program holds the file.
    #[error(
        "another program holds the store (a shell, a backup, a second agent): close it and try again"
    )]
    Busy,
    /// The content is not what was written.
    #[error(
        "the store is damaged ({detail}): stop the agent, keep a copy of the file and restore the last backup with `btcr2-agent restore`"
    )]
    Damaged {
        /// What was found.
        detail: String,
    },
    /// Reading or writing the disk failed.
    #[error("the disk failed under the store ({detail}): check the disk before you start again")]
    Disk {
        /// What SQLite said.
        detail: String,
    },
    /// A statement of this transaction had failed before, so that it must not be committed.
    #[error("a statement of this transaction failed earlier: nothing of it was written")]
    Abandoned,
    /// A dumped row is not one that this program writes.
    #[error("the dump has {what}, which is none of this program's")]
    Foreign {
        /// What it has.
        what: String,
    },
    /// Other bytes are stored under the key of an artifact.
    #[error(
        "other bytes are already stored as {kind} of {subject} under the signal {signal}: artifacts never change"
    )]
    ArtifactConflict {
        /// The kind of artifact, by its name in the store.
        kind: &'static str,
        /// The DID, index or transaction it belongs to.
        subject: String,
        /// The signal's bytes in hex, `none` without one.
        signal: String,
    },
    /// Another update of this DID has this target version.
    #[error(
        "{did} already has an update to version {target_version}: for one DID and target version there is one update"
    )]
    UpdateConflict {
        /// The DID.
        did: String,
        /// The version both updates lead to.
        target_version: u64,
    },
    /// A cohort with these values exists in this role, with other terms.
    #[error("cohort {} is already stored with other terms or another seat key", .cohort.short())]
    CohortConflict {
        /// The cohort.
        cohort: CohortId,
    },
    /// Another event that is not done has the lane's sequence number, or the event's text differs.
    #[error("another undone event has sequence number {seq} of this lane")]
    OutboxConflict {
        /// The sequence number.
        seq: u64,
    },
    /// The row to change is not there.
    #[error("the store has no {what}")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// A value is larger than its table takes.
    #[error("{what} has {bytes} bytes, more than the {max} the store takes")]
    TooLarge {
        /// What the value is.
        what: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The largest size in bytes.
        max: usize,
    },
    /// A rule of the schema refused the write: a fault of this program.
    #[error(
        "the store refused a write by its own rules ({detail}): this is a defect, please report it"
    )]
    Rule {
        /// The rule, as SQLite names it.
        detail: String,
    },
    /// Anything else SQLite reports: a fault of this program.
    #[error("the store failed ({detail}): this is a defect, please report it")]
    Sql {
        /// What SQLite said.
        detail: String,
    },
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let detail = error.to_string();
        match &error {
            E::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::DiskFull,
                ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::ReadOnly,
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed => Self::Busy,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged { detail },
                ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => Self::Disk { detail },
                ErrorCode::ConstraintViolation => Self::Rule { detail },
                _ => Self::Sql { detail },
            },
            // A value that was written by a typed function reads back as its type, or the file changed.
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..) => Self::Damaged { detail },
            _ => Self::Sql { detail },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi;

    #[test]
    fn every_failure_a_person_can_act_on_has_its_own_words() {
        let says = |code: i32| {
            StoreError::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
                .to_string()
        };
        assert!(says(ffi::SQLITE_FULL).starts_with("the disk is full"));
        assert!(says(ffi::SQLITE_READONLY_DIRECTORY).starts_with("the store is read-only"));
        assert!(says(ffi::SQLITE_BUSY_SNAPSHOT).starts_with("another program holds the store"));
        assert!(says(ffi::SQLITE_CORRUPT_INDEX).contains("restore the last backup"));
        assert!(says(ffi::SQLITE_NOTADB).contains("restore the last backup"));
        assert!(says(ffi::SQLITE_IOERR_FSYNC).starts_with("the disk failed"));
        assert!(says(ffi::SQLITE_CONSTRAINT_TRIGGER).contains("by its own rules"));
    }
}
