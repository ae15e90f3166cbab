//! A copy of a home, made while its agent runs, and a home made of such a copy again.
//!
//! A backup is a directory: a consistent copy of the store, the keystore as it is (encrypted if that is), the settings,
//! and `manifest.json` with the length and SHA-256 of each file. It appears under its name when it is whole.
//!
//! The copy of the store says of itself that it is one. Whichever way it comes into a home, by [`restore`] or by hand,
//! the agent that finds it begins a new incarnation before it sends anything ([`super::recovery::begin_anew`]). Secret
//! nonces are in no file, so that no copy can use one again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::recovery;
use crate::config::{Home, HomeError, write_private};
use crate::hash::{sha256, to_hex};
use crate::store::{Role, Store, StoreError};
use crate::time::UnixTime;

/// The file that describes a backup.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The version of the layout.
const FORMAT: u32 = 1;

/// Files beside the store are settings and keys. What is larger is something else.
const SMALL_FILE_BYTES: u64 = 4 << 20;

/// The largest manifest: hundreds of files.
const MANIFEST_BYTES: u64 = 1 << 20;

/// Beginnings of the names of files that belong to a running process, or are made again.
const NOT_COPIED: [&str; 5] = [
    "agent.lock",
    "agent.sock",
    "store.sqlite",
    "bundle.enc",
    MANIFEST_FILE,
];

/// What a backup is, as `manifest.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The layout: 1.
    pub format: u32,
    /// The version of the program that made it.
    pub program: String,
    /// When it was made.
    pub at: UnixTime,
    /// The schema of the store.
    pub schema: u32,
    /// The incarnation of the store it was copied from.
    pub inc: u64,
    /// The files, by name.
    pub files: BTreeMap<String, CopiedFile>,
    /// Files of the home that are not in it: larger than 4 MiB, not readable, or no plain files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedFile {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

/// What a home was restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The backup.
    pub manifest: Manifest,
    /// The new incarnation.
    pub inc: u64,
    /// How many DIDs are in the store.
    pub dids: usize,
    /// Cohorts that go on, by role.
    pub cohorts: Vec<(crate::hash::CohortId, Role)>,
}

/// Why there is no backup, or none can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file can not be read or written.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something is already where the backup should be.
    #[error("{path} is already there: choose another place, or remove it", path = .path.display())]
    Occupied {
        /// The place.
        path: PathBuf,
    },
    /// The home can not be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The store can not be copied or opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory is not a backup.
    #[error("{path} is not a backup of this program ({reason})", path = .path.display())]
    NotABackup {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// It was made by a newer version.
    #[error(
        "the backup has format {found}, and this program knows format {FORMAT}: use the newer btcr2-agent that wrote it"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A file is not what the manifest says.
    #[error(
        "{file} of the backup is not what it was when it was made: use another backup, or words and bundle with `btcr2-agent recover`"
    )]
    Altered {
        /// The file.
        file: String,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io {
        action,
        path,
        source,
    }
}

/// Copies a home into the directory `out`, which must not exist. An agent may run meanwhile: the store is read as of
/// one moment.
///
/// # Errors
/// [`BackupError`]; nothing is left of the attempt.
pub fn back_up(home: &Home, out: &Path, at: UnixTime) -> Result<Manifest, BackupError> {
    home.check()?;
    if out.symlink_metadata().is_ok() {
        return Err(BackupError::Occupied {
            path: out.to_owned(),
        });
    }
    let beside = beside(out, ".making");
    clear(&beside)?;
    let made = copy_home(home, &beside, at).and_then(|manifest| {
        fs::rename(&beside, out).map_err(io_error("write", out))?;
        sync_parent(out)?;
        Ok(manifest)
    });
    if made.is_err() {
        // The first error is the one to report.
        let _ = clear(&beside);
    }
    made
}

fn copy_home(home: &Home, to: &Path, at: UnixTime) -> Result<Manifest, BackupError> {
    // A directory like a home's: only its owner can open it.
    Home::locate(Some(to), None)?.create()?;
    let mut files = BTreeMap::new();
    let name = file_name(&home.store_path());
    let copy = to.join(&name);
    let (schema, inc) = copy_store(&home.store_path(), &copy, at)?;
    files.insert(name, describe(&copy)?);
    let mut left_out = Vec::new();
    let entries = fs::read_dir(home.root()).map_err(io_error("read", home.root()))?;
    for entry in entries {
        let entry = entry.map_err(io_error("read", home.root()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if NOT_COPIED.iter().any(|not| name.starts_with(not)) || name.ends_with(".new") {
            continue;
        }
        let path = entry.path();
        let found = entry.metadata().map_err(io_error("read", &path))?;
        let bytes = match fs::read(&path) {
            Ok(bytes) if found.is_file() && found.len() <= SMALL_FILE_BYTES => bytes,
            // Without the key a copy is none.
            Err(source) if path == home.keystore_path() => {
                return Err(io_error("read", &path)(source));
            }
            _ => {
                left_out.push(name);
                continue;
            }
        };
        let copy = to.join(&name);
        write_private(&copy, &bytes)?;
        files.insert(name, describe(&copy)?);
    }
    left_out.sort();
    let manifest = Manifest {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        at,
        schema,
        inc,
        files,
        left_out,
    };
    let path = to.join(MANIFEST_FILE);
    let mut json = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| io_error("write", &path)(io::Error::other(error)))?;
    json.push(b'\n');
    write_private(&path, &json)?;
    Ok(manifest)
}

/// Copies the store, marks the copy as one, and reads every page of it again.
fn copy_store(from: &Path, to: &Path, at: UnixTime) -> Result<(u32, u64), BackupError> {
    let store = Store::open_read_only(from)?;
    store.backup_to(to)?;
    let inc = store.view().incarnation()?;
    drop(store);
    let mut copy = Store::open(to)?;
    copy.transaction::<_, StoreError>(|tx| recovery::mark_copy(tx, at))?;
    copy.check()?;
    let schema = copy.view().schema_version()?;
    // Closing it folds SQLite's log into the file.
    drop(copy);
    sync_file(to)?;
    Ok((schema, inc))
}

/// Reads what a backup is, and compares its files with that.
///
/// # Errors
/// [`BackupError::NotABackup`], [`BackupError::Newer`], [`BackupError::Altered`].
pub fn inspect(from: &Path) -> Result<Manifest, BackupError> {
    let path = from.join(MANIFEST_FILE);
    let not = |reason: String| BackupError::NotABackup {
        path: from.to_owned(),
        reason,
    };
    let found = fs::metadata(&path).map_err(|error| not(format!("{MANIFEST_FILE}: {error}")))?;
    if found.len() > MANIFEST_BYTES {
        return Err(not(format!("{MANIFEST_FILE} is too large")));
    }
    let json = fs::read(&path).map_err(io_error("read", &path))?;
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let wrong = |error: serde_json::Error| not(format!("{MANIFEST_FILE}: {error}"));
    let Format { format } = serde_json::from_slice(&json).map_err(wrong)?;
    if format > FORMAT {
        return Err(BackupError::Newer { found: format });
    }
    let manifest: Manifest = serde_json::from_slice(&json).map_err(wrong)?;
    for (name, expected) in &manifest.files {
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(not(format!("{name:?} is not the name of a file")));
        }
        let altered = BackupError::Altered { file: name.clone() };
        match describe(&from.join(name)) {
            Ok(found) if found == *expected => {}
            Ok(_) => return Err(altered),
            Err(BackupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(altered);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(manifest)
}

/// Makes a home of a backup. It must have neither store nor keystore; other files that are there stay. The caller
/// holds it. The keystore is written last: while there is none, a restore that failed can be repeated.
///
/// # Errors
/// [`BackupError`]; store and keystore are not there then.
pub fn restore(home: &Home, from: &Path, now: UnixTime) -> Result<Restored, BackupError> {
    for path in [home.keystore_path(), home.store_path()] {
        if path.symlink_metadata().is_ok() {
            return Err(BackupError::Occupied { path });
        }
    }
    let manifest = inspect(from)?;
    let store_name = file_name(&home.store_path());
    let keystore_name = file_name(&home.keystore_path());
    for name in [&store_name, &keystore_name] {
        if !manifest.files.contains_key(name) {
            return Err(BackupError::NotABackup {
                path: from.to_owned(),
                reason: format!("it has no {name}"),
            });
        }
    }
    let beside = beside(&home.store_path(), ".restoring");
    remove_store(&beside)?;
    let restored = restore_store(&from.join(&store_name), &beside, manifest.clone(), now).and_then(
        |restored| {
            let others = manifest.files.keys();
            for name in others.filter(|name| ![&store_name, &keystore_name].contains(name)) {
                let path = home.root().join(name);
                if path.symlink_metadata().is_err() {
                    copy_private(&from.join(name), &path)?;
                }
            }
            let path = home.store_path();
            fs::rename(&beside, &path).map_err(io_error("write", &path))?;
            sync_parent(&path)?;
            copy_private(&from.join(&keystore_name), &home.keystore_path()).inspect_err(|_| {
                let _ = remove_store(&path);
            })?;
            Ok(restored)
        },
    );
    if restored.is_err() {
        let _ = remove_store(&beside);
    }
    restored
}

fn restore_store(
    from: &Path,
    to: &Path,
    manifest: Manifest,
    now: UnixTime,
) -> Result<Restored, BackupError> {
    copy_private_file(from, to)?;
    let mut store = Store::open(to)?;
    store.check()?;
    let inc = recovery::begin_anew(&mut store, now)?;
    let view = store.view();
    let cohorts = view.live_cohorts()?;
    let restored = Restored {
        manifest,
        inc,
        dids: view.dids()?.len(),
        cohorts: cohorts.iter().map(|row| (row.cohort, row.role)).collect(),
    };
    drop(store);
    sync_file(to)?;
    Ok(restored)
}

fn copy_private(from: &Path, to: &Path) -> Result<(), BackupError> {
    let bytes = fs::read(from).map_err(io_error("read", from))?;
    Ok(write_private(to, &bytes)?)
}

/// Copies a file of any length.
fn copy_private_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut reader = fs::File::open(from).map_err(io_error("read", from))?;
    // Made first, readable by its owner only.
    write_private(to, &[])?;
    let mut writer = fs::OpenOptions::new()
        .write(true)
        .open(to)
        .map_err(io_error("write", to))?;
    io::copy(&mut reader, &mut writer).map_err(io_error("write", to))?;
    writer.sync_all().map_err(io_error("write", to))
}

fn describe(path: &Path) -> Result<CopiedFile, BackupError> {
    // A store has a bound of its own (limits.store_mib), and is read once here.
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    Ok(CopiedFile {
        bytes: bytes.len() as u64,
        sha256: to_hex(&sha256(&bytes)),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    PathBuf::from(beside)
}

/// Removes what an earlier attempt left.
fn clear(dir: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a store with SQLite's companions.
fn remove_store(path: &Path) -> Result<(), BackupError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let file = beside(path, suffix);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &file)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn sync_file(path: &Path) -> Result<(), BackupError> {
    fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(io_error("write", path))
}

#[cfg(unix)]
fn sync_parent(path: &Path) -> Result<(), BackupError> {
    match path.parent() {
        Some(dir) if dir != Path::new("") => sync_file(dir),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_parent(_: &Path) -> Result<(), BackupError> {
    Ok(())
}
