//! Finding and reading sets.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::ConformError;
use crate::beacon::cas::CasAnnouncement;
use crate::did::json::{canonicalize, document_hash, parse_strict};
use crate::hash::{SignalBytes, UpdateHash};
use crate::lookup::Objects;

/// Most sets of one run; the upstream suite has 236.
const MAX_SETS: usize = 10_000;

/// Deepest directory that is looked into, below the one given.
const MAX_DEPTH: usize = 8;

/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What a case checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Create,
    Update,
    Resolve,
}

const KINDS: [(Kind, &str); 3] = [
    (Kind::Create, "create"),
    (Kind::Update, "update"),
    (Kind::Resolve, "resolve"),
];

/// A set's directory, read.
#[derive(Debug)]
pub(super) struct Set {
    /// Its path below the directory given.
    pub(super) name: String,
    pub(super) scenario: Option<String>,
    pub(super) cases: Vec<Case>,
    pub(super) other: Option<Value>,
    /// `signals.json`, if there is one.
    pub(super) signals: Option<Result<Vec<u8>, String>>,
    /// Why `other.json` could not be read.
    pub(super) unreadable: Option<String>,
}

/// An input and its output.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) kind: Kind,
    /// `create`, `update/02`, `resolve/01`.
    pub(super) name: String,
    /// `None` if the file is not there.
    pub(super) input: Result<Option<Value>, String>,
    pub(super) output: Result<Option<Value>, String>,
}

impl Set {
    pub(super) fn cases(&self, kind: Kind) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.kind == kind)
    }

    /// Whether it is a set of something that must not resolve, so that its update may be wrong on purpose.
    pub(super) fn is_negative(&self) -> bool {
        let first = self.cases(Kind::Resolve).next();
        first.is_some_and(|case| {
            let output = case.output.as_ref().ok().and_then(Option::as_ref);
            output.is_some_and(|output| super::resolve::error_of(output).is_some())
        })
    }

    /// The DID it is about.
    fn did(&self) -> Option<&str> {
        let resolved = self.cases(Kind::Resolve).find_map(|case| {
            let input = case.input.as_ref().ok()?.as_ref()?;
            input.get("did")?.as_str()
        });
        resolved.or_else(|| {
            self.cases(Kind::Create).find_map(|case| {
                let output = case.output.as_ref().ok()?.as_ref()?;
                output.get("did")?.as_str()
            })
        })
    }

    /// The signed updates of its `update` outputs, in their order.
    fn updates(&self) -> Vec<Option<&Value>> {
        self.cases(Kind::Update)
            .map(|case| {
                let output = case.output.as_ref().ok()?.as_ref()?;
                super::update::signed_update(output)
            })
            .collect()
    }
}

impl Case {
    /// Input and output, if both are there.
    pub(super) fn files(&self) -> Result<(&Value, &Value), super::Ended> {
        let of = |file: &'static str, read: &'_ Result<Option<Value>, String>| match read {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(super::Ended::skipped("-", format!("{file} is missing"))),
            Err(why) => Err(super::Ended::failed("-", format!("{file}: {why}"))),
        };
        of("input.json", &self.input)?;
        of("output.json", &self.output)?;
        match (&self.input, &self.output) {
            (Ok(Some(input)), Ok(Some(output))) => Ok((input, output)),
            _ => Err(super::Ended::skipped("-", "input.json is missing")),
        }
    }
}

/// Reads every set below a directory, in the order of their names.
pub(super) fn find(dir: &Path) -> Result<Vec<Set>, ConformError> {
    let mut sets = Vec::new();
    descend(dir, Path::new(""), 0, &mut sets)?;
    if sets.is_empty() {
        return Err(ConformError::NoSets {
            path: dir.to_owned(),
        });
    }
    Ok(sets)
}

fn descend(
    root: &Path,
    below: &Path,
    depth: usize,
    sets: &mut Vec<Set>,
) -> Result<(), ConformError> {
    let path = root.join(below);
    if let Some(set) = read(&path, below) {
        if sets.len() == MAX_SETS {
            return Err(ConformError::TooManySets {
                path: root.to_owned(),
                limit: MAX_SETS,
            });
        }
        sets.push(set);
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Ok(());
    }
    let inner = subdirectories(&path).map_err(|error| ConformError::Io { path, error })?;
    for name in inner {
        descend(root, &below.join(name), depth + 1, sets)?;
    }
    Ok(())
}

/// The names of the directories in a directory, sorted, without hidden ones.
fn subdirectories(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        if !hidden && path.join(&name).is_dir() {
            names.push(PathBuf::from(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Reads the set in a directory, if it is one.
fn read(path: &Path, below: &Path) -> Option<Set> {
    let mut cases = Vec::new();
    for (kind, name) in KINDS {
        let dir = path.join(name);
        let inner = subdirectories(&dir).unwrap_or_default();
        let dirs = std::iter::once(PathBuf::new()).chain(inner);
        for inner in dirs {
            let dir = dir.join(&inner);
            let (input, output) = (dir.join("input.json"), dir.join("output.json"));
            if input.exists() || output.exists() {
                let name = Path::new(name).join(&inner).display().to_string();
                cases.push(Case {
                    kind,
                    name: name.trim_end_matches('/').to_owned(),
                    input: read_json(&input),
                    output: read_json(&output),
                });
            }
        }
    }
    if cases.is_empty() {
        return None;
    }
    let (other, unreadable) = match read_json(&path.join("other.json")) {
        Ok(other) => (other, None),
        Err(why) => (None, Some(why)),
    };
    let scenario = other.as_ref().and_then(|other| other.get("scenarioId"));
    let name = match below.as_os_str().is_empty() {
        // The directory that was given is a set itself.
        true => ".".to_owned(),
        false => below.display().to_string(),
    };
    Some(Set {
        name,
        scenario: scenario.and_then(Value::as_str).map(ToOwned::to_owned),
        cases,
        signals: read_file(&path.join("signals.json")).transpose(),
        other,
        unreadable,
    })
}

/// A JSON file; `None` if it is not there.
fn read_json(path: &Path) -> Result<Option<Value>, String> {
    let Some(bytes) = read_file(path)? else {
        return Ok(None);
    };
    let value = parse_strict(&bytes).map_err(|error| error.to_string())?;
    Ok(Some(value))
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("can not be read: {error}")),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("can not be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("has more than {MAX_FILE_BYTES} bytes"));
    }
    Ok(Some(bytes))
}

/// The objects that the sets of a directory put into content-addressed storage.
#[derive(Debug, Default)]
pub(super) struct Library {
    /// Genesis documents.
    pub(super) genesis: Arc<Objects>,
    /// Genesis documents, signed updates and announcements.
    pub(super) all: Arc<Objects>,
}

impl Library {
    pub(super) fn of(sets: &[Set]) -> Self {
        let (mut geneses, mut all) = (Objects::default(), Objects::default());
        // Who announced what in one signal: members of a cohort are sets of their own.
        let mut announced: BTreeMap<SignalBytes, BTreeMap<String, UpdateHash>> = BTreeMap::new();
        for set in sets {
            if let Some(genesis) = set.other.as_ref().and_then(|o| o.get("genesisDocument")) {
                geneses.insert(bytes(genesis));
                all.insert(bytes(genesis));
            }
            let updates = set.updates();
            for update in updates.iter().flatten() {
                all.insert(bytes(update));
            }
            let Some(did) = set.did() else { continue };
            for (signal, update) in set.announcements() {
                if let Some(Some(update)) = updates.get(update) {
                    let hash = UpdateHash::from_bytes(document_hash(update).to_bytes());
                    let entries = announced.entry(signal).or_default();
                    entries.insert(did.to_owned(), hash);
                }
            }
        }
        for (signal, entries) in announced {
            // The suite does not store announcements; what its sets announced in one signal is one, if it hashes to it.
            let announcement = CasAnnouncement::new(entries, |_| true);
            if let Ok(announcement) = announcement
                && announcement.signal_bytes() == signal
            {
                all.insert(announcement.canonical_bytes());
            }
        }
        Self {
            genesis: Arc::new(geneses),
            all: Arc::new(all),
        }
    }
}

impl Set {
    /// Which update, from 0, which signal announced.
    fn announcements(&self) -> Vec<(SignalBytes, usize)> {
        let Some(Ok(bytes)) = &self.signals else {
            return Vec::new();
        };
        let entries = parse_strict(bytes).unwrap_or_default();
        let entries = entries.as_array().into_iter().flatten();
        entries
            .filter_map(|entry| {
                let signal = entry.get("signalBytes")?.as_str()?.parse().ok()?;
                let number = entry.get("update").and_then(Value::as_u64).unwrap_or(1);
                let index = usize::try_from(number.checked_sub(1)?).ok()?;
                Some((signal, index))
            })
            .collect()
    }
}

/// The canonical bytes, under whose hash an object is stored.
fn bytes(value: &Value) -> Vec<u8> {
    canonicalize(value).unwrap_or_default()
}
