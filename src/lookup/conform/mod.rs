//! Runs sets of the upstream test suite (spec.md §8) from a directory.
//!
//! A set is a directory `<network>/<k1|x1>/<id>/` with `create`, `update` and `resolve`, each of which holds an
//! `input.json` and an `output.json`, or directories with them; beside them `other.json` and `signals.json`. Sets
//! are found at any depth. What a file has beyond the members known here is left alone.

mod create;
mod resolve;
mod set;
mod update;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use self::set::{Kind, Library, Set};
use crate::did::Rule;
use crate::resolver::Strictness;

/// Why a directory could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConformError {
    /// The directory can not be read.
    #[error("{} can not be read: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// There is no set in it.
    #[error(
        "{} holds no set: a set is a directory with create, update or resolve, and an input.json in it",
        path.display()
    )]
    NoSets {
        /// The directory.
        path: PathBuf,
    },
    /// There are too many.
    #[error("{} holds more than {limit} sets; run a part of it", path.display())]
    TooManySets {
        /// The directory.
        path: PathBuf,
        /// The most that are run.
        limit: usize,
    },
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Sets that were found.
    pub sets: usize,
    /// Checks whose result is the expected one.
    pub passed: usize,
    /// Checks whose result is another.
    pub failed: usize,
    /// Checks that could not be made.
    pub skipped: usize,
    /// Every check, in the order of the directory.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether something failed for want of an `invocationTarget`, which sets from before October 2026 lack.
    #[must_use]
    pub fn lacks_invocation_targets(&self) -> bool {
        let rule = Rule::ProofInvocationTargetMismatch.as_str();
        let failed = |check: &&Check| check.verdict == Verdict::Failed;
        self.checks
            .iter()
            .filter(failed)
            .any(|check| check.note.as_ref().is_some_and(|note| note.contains(rule)))
    }
}

/// One input, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The set's directory, below the one that was given.
    pub set: String,
    /// The name the suite gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// What was checked: `create`, `update/02`, `resolve/01`.
    pub kind: String,
    /// What `output.json` says.
    pub expected: String,
    /// What this program says.
    pub got: String,
    /// Whether that is the same.
    pub verdict: Verdict,
    /// What differs, why it was skipped, or what else is worth knowing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Not checked, for the reason in the note.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        })
    }
}

/// Runs every set in a directory, without any network.
///
/// # Errors
/// [`ConformError`]: there is nothing to run. A set that does not conform is no error.
pub async fn run(dir: &Path, strictness: Strictness) -> Result<Report, ConformError> {
    let sets = set::find(dir)?;
    let library = Library::of(&sets);
    let mut checks = Vec::new();
    for set in &sets {
        for case in &set.cases {
            let ended = match case.kind {
                Kind::Create => create::check(case),
                Kind::Update => update::check(set, case, strictness),
                Kind::Resolve => resolve::check(set, case, &library, strictness).await,
            };
            checks.push(ended.of(set, &case.name));
        }
        if let Some(why) = &set.unreadable {
            checks.push(Ended::failed("a set", why.as_str()).of(set, "other.json"));
        }
    }
    let count = |verdict| {
        checks
            .iter()
            .filter(|check| check.verdict == verdict)
            .count()
    };
    Ok(Report {
        sets: sets.len(),
        passed: count(Verdict::Passed),
        failed: count(Verdict::Failed),
        skipped: count(Verdict::Skipped),
        checks,
    })
}

/// How one check ended, before it is filed.
struct Ended {
    expected: String,
    got: String,
    verdict: Verdict,
    note: Option<String>,
}

impl Ended {
    fn new(expected: impl Into<String>, got: impl Into<String>, problems: &[String]) -> Self {
        let (expected, mut got) = (expected.into(), got.into());
        if problems.is_empty() {
            return Self {
                expected,
                got,
                verdict: Verdict::Passed,
                note: None,
            };
        }
        if got == expected {
            got.push_str(", but differs");
        }
        Self {
            expected,
            got,
            verdict: Verdict::Failed,
            note: Some(problems.join("; ")),
        }
    }

    fn failed(expected: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::new(expected, "-", &[problem.into()])
    }

    fn skipped(expected: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            got: "-".to_owned(),
            verdict: Verdict::Skipped,
            note: Some(why.into()),
        }
    }

    /// Adds something worth knowing.
    fn note(mut self, more: impl Into<String>) -> Self {
        let more = more.into();
        self.note = Some(match self.note {
            Some(note) => format!("{note}; {more}"),
            None => more,
        });
        self
    }

    fn of(self, set: &Set, kind: &str) -> Check {
        Check {
            set: set.name.clone(),
            scenario: set.scenario.clone(),
            kind: kind.to_owned(),
            expected: self.expected,
            got: self.got,
            verdict: self.verdict,
            note: self.note,
        }
    }
}

/// Where two values differ first, as a JSON pointer; `None` if they are equal.
fn difference(expected: &Value, got: &Value) -> Option<String> {
    let inner = |name: &str, expected: Option<&Value>, got: Option<&Value>| match (expected, got) {
        (Some(expected), Some(got)) => {
            difference(expected, got).map(|inner| format!("/{name}{inner}"))
        }
        _ => Some(format!("/{name}")),
    };
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a
                .keys()
                .chain(b.keys().filter(|name| !a.contains_key(*name)));
            names
                .filter_map(|name| inner(name, a.get(name), b.get(name)))
                .next()
        }
        (Value::Array(a), Value::Array(b)) => (0..a.len().max(b.len()))
            .find_map(|index| inner(&index.to_string(), a.get(index), b.get(index))),
        _ => (expected != got).then(String::new),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let at = |a, b| difference(&a, &b);
        assert_eq!(
            at(json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 2}]})),
            None
        );
        for (a, b, path) in [
            (json!(1), json!(2), ""),
            (json!({"a": 1}), json!({}), "/a"),
            (json!({}), json!({"a": 1}), "/a"),
            (
                json!({"a": [1, {"b": 2}]}),
                json!({"a": [1, {"b": 3}]}),
                "/a/1/b",
            ),
            (json!([1]), json!([1, 2]), "/1"),
            (json!({"a": {}}), json!({"a": []}), "/a"),
        ] {
            assert_eq!(at(a, b).as_deref(), Some(path));
        }
    }
}
