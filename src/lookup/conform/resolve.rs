//! `resolve`: from a DID, options and the signals of the set to a DID Resolution result.

use std::sync::Arc;

use serde_json::{Value, json};

use super::set::{Case, Kind, Library, Set};
use super::{Ended, Verdict, difference};
use crate::did::datetime::DateTime;
use crate::did::{Did, ErrorCode, Rule};
use crate::lookup::{Lookup, Objects, Recording};
use crate::resolver::{Failure, Resolution, ResolutionOptions, Resolved, Sidecar, Strictness};

/// What the suite of September 2026 writes for LATE_PUBLISHING.
const LATE_PUBLISHING_ALIAS: &str = "LATE_PUBLISHING_ERROR";

pub(super) async fn check(
    set: &Set,
    case: &Case,
    library: &Library,
    strictness: Strictness,
) -> Ended {
    let (input, output) = match case.files() {
        Ok(files) => files,
        Err(ended) => return ended,
    };
    let expected = match Expected::read(output) {
        Some(expected) => expected,
        None => {
            return Ended::skipped("-", "output.json has neither a document nor an error");
        }
    };
    let Some(did) = input.get("did").and_then(Value::as_str) else {
        return Ended::skipped(expected.to_string(), "input.json names no did");
    };
    let asked = match Asked::read(did, input) {
        Ok(asked) => asked,
        // The DID or the options are refused before anything is looked up.
        Err(failure) => return expected.compare(&Err(failure), false),
    };
    let (recording, tip_is_known) = match recording(set, &asked.did) {
        Ok(recording) => recording,
        Err(why) => {
            return Ended::failed(expected.to_string(), format!("signals.json: {why}"));
        }
    };
    // A set does not say what content-addressed storage held when its output was made.
    let shelves = [
        (None, None),
        (
            Some(&library.genesis),
            Some("the genesis document came from the directory, as from a CAS"),
        ),
        (
            Some(&library.all),
            Some("objects came from the directory, as from a CAS"),
        ),
    ];
    let mut ended = Ended::failed(expected.to_string(), "not resolved");
    for (shelf, note) in shelves {
        let resolution = match asked.resolve(&recording, shelf, strictness).await {
            Ok(resolution) => resolution,
            Err(why) => return Ended::failed(expected.to_string(), why),
        };
        ended = expected.compare(&resolution.outcome, tip_is_known);
        if ended.verdict == Verdict::Passed {
            return match note {
                Some(note) => ended.note(note),
                None => ended,
            };
        }
        let is_missing = resolution.outcome.is_err_and(|failure| {
            matches!(
                failure.code,
                ErrorCode::NotFound | ErrorCode::MissingUpdateData
            )
        });
        if !is_missing {
            break;
        }
    }
    ended
}

/// The error code of an output, if it is one of a failure.
pub(super) fn error_of(output: &Value) -> Option<&str> {
    let result = result_of(output);
    let metadata = member(result, &["didResolutionMetadata", "resolutionMetadata"])?;
    let error = metadata.get("error")?;
    let text = error
        .as_str()
        .or_else(|| error.get("type")?.as_str())
        .or_else(|| error.get("code")?.as_str())?;
    // Newer drafts of DID Resolution write an URL with the code as its fragment.
    text.rsplit('#').next()
}

/// A DID Resolution result may stand in an envelope.
fn result_of(output: &Value) -> &Value {
    member(output, &["didResolutionResult", "result"]).unwrap_or(output)
}

fn member<'a>(object: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(name))
}

/// What an input asks for.
struct Asked {
    did: Did,
    options: ResolutionOptions,
    sidecar: Sidecar,
}

impl Asked {
    fn read(did: &str, input: &Value) -> Result<Self, Failure> {
        let did: Did = did.parse().map_err(Failure::from)?;
        let none = json!({});
        let options = member(input, &["resolutionOptions", "options"]).unwrap_or(&none);
        let (options, sidecar) = ResolutionOptions::from_json(options)?;
        Ok(Self {
            did,
            options,
            sidecar,
        })
    }

    async fn resolve(
        &self,
        recording: &Recording,
        shelf: Option<&Arc<Objects>>,
        strictness: Strictness,
    ) -> Result<Resolution, String> {
        let mut lookup = Lookup::new(recording.clone());
        if let Some(objects) = shelf {
            lookup = lookup.with_cas(Arc::clone(objects));
        }
        lookup
            .resolve(&self.did, self.options, self.sidecar.clone(), strictness)
            .await
            .map_err(|error| error.to_string())
    }
}

/// The set's signals, as of the tip its outputs were made at, and whether that is known.
fn recording(set: &Set, did: &Did) -> Result<(Recording, bool), String> {
    let recording = match &set.signals {
        None => return Ok((Recording::without_signals(did.network()), false)),
        Some(Err(why)) => return Err(why.clone()),
        Some(Ok(bytes)) => Recording::parse(bytes, did.network()),
    };
    let recording = recording.map_err(|error| error.to_string())?;
    // An output says how deep the block of the last update was, and when that block was mined.
    let seen = set.cases(Kind::Resolve).filter_map(|case| {
        let output = case.output.as_ref().ok()?.as_ref()?;
        let metadata = Expected::metadata(output)?;
        let updated = metadata.get("updated")?.as_str()?;
        let confirmations = metadata.get("confirmations")?.as_u64()?;
        let depth = u32::try_from(confirmations).ok()?.checked_sub(1)?;
        let blocks = recording.signals().filter_map(|signal| signal.block);
        let mut of_that_time =
            blocks.filter(|block| DateTime::from(block.time).to_string() == updated);
        of_that_time.next()?.height.checked_add(depth)
    });
    match seen.max() {
        Some(seen) => {
            let tip = seen.max(recording.tip().height);
            Ok((recording.at_height(tip), true))
        }
        None => {
            let is_noted = recording.tip_is_noted();
            Ok((recording, is_noted))
        }
    }
}

/// What an output says.
enum Expected<'a> {
    Error(&'a str),
    Document {
        document: &'a Value,
        metadata: Option<&'a Value>,
    },
}

impl<'a> Expected<'a> {
    fn read(output: &'a Value) -> Option<Self> {
        if let Some(code) = error_of(output) {
            return Some(Self::Error(code));
        }
        let document = member(result_of(output), &["didDocument", "document"])?;
        document.is_object().then_some(Self::Document {
            document,
            metadata: Self::metadata(output),
        })
    }

    fn metadata(output: &'a Value) -> Option<&'a Value> {
        let names = ["didDocumentMetadata", "documentMetadata", "metadata"];
        member(result_of(output), &names)
    }

    fn compare(&self, got: &Result<Resolved, Failure>, tip_is_known: bool) -> Ended {
        let mut problems = Vec::new();
        let mut alias = false;
        match (self, got) {
            (Self::Error(expected), Err(failure)) => {
                alias = *expected == LATE_PUBLISHING_ALIAS;
                let same = *expected == failure.code.as_str()
                    || (alias && failure.code == ErrorCode::LatePublishing);
                if !same {
                    problems.push(failure.to_string());
                }
            }
            (Self::Error(_), Ok(_)) => problems.push("it resolves".to_owned()),
            (Self::Document { .. }, Err(failure)) => problems.push(failure.to_string()),
            (Self::Document { document, metadata }, Ok(resolved)) => {
                if let Some(path) = difference(document, resolved.document.value()) {
                    problems.push(format!("didDocument differs at {path:?}"));
                }
                if let Some(metadata) = metadata {
                    compare_metadata(metadata, resolved, tip_is_known, &mut problems);
                }
            }
        }
        let rule = got.as_ref().err().and_then(|failure| failure.rule);
        let got = match got {
            Ok(resolved) => version(
                Some(&resolved.metadata.version_id.to_string()),
                resolved.metadata.deactivated,
            ),
            Err(Failure { code, rule, .. }) => match rule {
                Some(rule) => format!("{code} ({rule})"),
                None => code.to_string(),
            },
        };
        let ended = Ended::new(self.to_string(), got, &problems);
        if !problems.is_empty() {
            ended
        } else if alias {
            ended.note("LATE_PUBLISHING_ERROR is taken for LATE_PUBLISHING")
        } else if rule == Some(Rule::ProofInvocationTargetMismatch) {
            ended.note("the rule may be another one than the set is about: its proof has no invocationTarget")
        } else {
            ended
        }
    }
}

impl std::fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(code) => f.write_str(code),
            Self::Document { metadata, .. } => {
                let id = metadata.and_then(|metadata| metadata.get("versionId"));
                let deactivated = metadata.and_then(|metadata| metadata.get("deactivated"));
                f.write_str(&version(
                    id.map(plain).as_deref(),
                    deactivated.and_then(Value::as_bool).unwrap_or_default(),
                ))
            }
        }
    }
}

/// Confirmations grow with the chain: at least the recorded ones are asked for, as the suite does.
fn compare_metadata(
    expected: &Value,
    resolved: &Resolved,
    tip_is_known: bool,
    problems: &mut Vec<String>,
) {
    let got = resolved.metadata;
    if let Some(id) = expected.get("versionId")
        && plain(id) != got.version_id.to_string()
    {
        problems.push(format!("versionId is {}", got.version_id));
    }
    if let Some(deactivated) = expected.get("deactivated")
        && deactivated.as_bool() != Some(got.deactivated)
    {
        problems.push(format!("deactivated is {}", got.deactivated));
    }
    if let Some(updated) = expected.get("updated") {
        let got = got.updated.map(|time| DateTime::from(time).to_string());
        if updated.as_str() != got.as_deref() {
            let got = got.as_deref().unwrap_or("missing");
            problems.push(format!("updated is {got} instead of {}", plain(updated)));
        }
    }
    if let Some(confirmations) = expected.get("confirmations").and_then(Value::as_u64)
        && (tip_is_known || confirmations == 0)
    {
        let got = u64::from(got.confirmations);
        if got < confirmations || (confirmations == 0) != (got == 0) {
            problems.push(format!(
                "confirmations are {got} instead of {confirmations}"
            ));
        }
    }
}

fn version(id: Option<&str>, deactivated: bool) -> String {
    let id = id.map_or_else(|| "a document".to_owned(), |id| format!("version {id}"));
    if deactivated {
        format!("{id}, deactivated")
    } else {
        id
    }
}

/// A text, or the JSON of anything else.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned)
}
