//! What comes out of a resolution (spec.md §2.7, §2.8).

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde_json::{Value, json};

use super::walk::{Walk, WalkStep};
use crate::did::datetime::DateTime;
use crate::did::{Document, ErrorCode, InvalidDid, Rule};
use crate::time::UnixTime;

/// The media type of the result's document.
pub const CONTENT_TYPE: &str = "application/did";

/// The result of a resolution, and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// The DID that was asked for.
    pub did: String,
    /// The document, or why there is none.
    pub outcome: Result<Resolved, Failure>,
    /// What was found on the way.
    pub walk: Walk,
}

impl Resolution {
    /// The result for what could not even be looked up: an invalid identifier, invalid options.
    #[must_use]
    pub fn refused(did: &str, failure: Failure) -> Self {
        let step = WalkStep::Failed {
            version: 0,
            at: None,
            failure: failure.clone(),
        };
        Self {
            did: did.to_owned(),
            outcome: Err(failure),
            walk: Walk { steps: vec![step] },
        }
    }

    /// The DID Resolution result: `didDocument`, `didDocumentMetadata`, `didResolutionMetadata`.
    ///
    /// Of a failure, `didResolutionMetadata` has `error`, and beside the specification's members `rule` (where one
    /// was broken) and `errorMessage`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.outcome {
            Ok(resolved) => json!({
                "didDocument": resolved.document,
                "didDocumentMetadata": resolved.metadata.to_value(),
                "didResolutionMetadata": { "contentType": CONTENT_TYPE },
            }),
            Err(failure) => json!({
                "didDocument": null,
                "didDocumentMetadata": {},
                "didResolutionMetadata": failure.to_metadata(),
            }),
        }
    }
}

/// A document and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The document.
    pub document: Document,
    /// Its metadata.
    pub metadata: DocumentMetadata,
}

/// What is known about a resolved document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentMetadata {
    /// Its version, 1 for the initial document.
    pub version_id: u64,
    /// Confirmations of the signal that announced its last update, 0 without any update.
    pub confirmations: u32,
    /// Whether the DID is deactivated.
    pub deactivated: bool,
    /// Header time of the block of its last update.
    pub updated: Option<UnixTime>,
}

impl DocumentMetadata {
    /// The `didDocumentMetadata` object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "versionId": self.version_id.to_string(),
            "confirmations": self.confirmations,
            "deactivated": self.deactivated,
        });
        if let (Some(time), Some(members)) = (self.updated, value.as_object_mut()) {
            let time = DateTime::from(time).to_string();
            members.insert("updated".to_owned(), Value::String(time));
        }
        value
    }
}

/// Why there is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error code.
    pub code: ErrorCode,
    /// The rule that was broken, where the specification's test vectors name one.
    pub rule: Option<Rule>,
    /// One sentence that says what is wrong and where.
    pub message: String,
}

impl Failure {
    /// A failure without a named rule.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            rule: None,
            message: message.into(),
        }
    }

    /// A broken rule, with the code that it raises.
    pub fn broken(rule: Rule, message: impl Into<String>) -> Self {
        Self {
            code: rule.code(),
            rule: Some(rule),
            message: message.into(),
        }
    }

    /// The `didResolutionMetadata` object of a failed resolution.
    #[must_use]
    pub fn to_metadata(&self) -> Value {
        let mut value = json!({ "error": self.code.as_str(), "errorMessage": self.message });
        if let (Some(rule), Some(members)) = (self.rule, value.as_object_mut()) {
            members.insert("rule".to_owned(), Value::String(rule.to_string()));
        }
        value
    }
}

impl From<InvalidDid> for Failure {
    fn from(invalid: InvalidDid) -> Self {
        Self {
            code: invalid.code(),
            rule: invalid.rule(),
            message: invalid.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "{} ({rule}): {}", self.code, self.message),
            None => write!(f, "{}: {}", self.code, self.message),
        }
    }
}

impl std::error::Error for Failure {}

impl serde::Serialize for Failure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("Failure", 3)?;
        members.serialize_field("code", self.code.as_str())?;
        members.serialize_field("rule", &self.rule.map(Rule::as_str))?;
        members.serialize_field("message", &self.message)?;
        members.end()
    }
}
