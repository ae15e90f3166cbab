//! JSON Patch (RFC 6902): the change an update makes. The changes people name become one in
//! [`super::builder`].

use json_patch::PatchOperation;
use serde_json::Value;

use super::json::{self, JsonError, MAX_BYTES, MAX_DEPTH};

/// Most operations of a patch that are applied.
pub const MAX_OPERATIONS: usize = 1024;

/// A well-formed patch: the operations, and the JSON that is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentPatch {
    value: Value,
    operations: Vec<PatchOperation>,
}

/// Why a patch is malformed, does not apply, or can not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchFault {
    /// Not JSON this program accepts.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not an array of RFC 6902 operations.
    #[error("the patch is not an array of RFC 6902 operations: {0}")]
    Malformed(serde_json::Error),
    /// More than [`MAX_OPERATIONS`].
    #[error("the patch has {0} operations; at most {MAX_OPERATIONS} are applied")]
    TooMany(usize),
    /// An operation fails, `test` included.
    #[error("the patch does not apply: {0}")]
    Apply(#[from] json_patch::PatchError),
    /// Operation `0` would nest deeper than [`MAX_DEPTH`] or copy more than [`MAX_BYTES`].
    #[error("operation {0} of the patch makes the document too deep or too large")]
    TooLarge(usize),
    /// The service to add is there already.
    #[error("the document has a service {0:?} already; choose another id or remove it first")]
    ServiceExists(String),
    /// The service to remove is not there.
    #[error("the document has no service {0:?}")]
    NoSuchService(String),
    /// The verification method to add is there already.
    #[error("the document has a verification method {0:?} already; choose another id")]
    MethodExists(String),
    /// The verification method to remove or replace is not there.
    #[error("the document has no verification method {0:?}")]
    NoSuchMethod(String),
    /// The beacon to remove is not there.
    #[error("the document has no beacon {0:?}: name it by its id or by its address")]
    NoSuchBeacon(String),
    /// The address is a beacon's already.
    #[error("the document lists {address} already, as {id}")]
    BeaconExists {
        /// The address.
        address: String,
        /// The service that lists it.
        id: String,
    },
    /// An id that is empty, or holds white space or control characters.
    #[error("{0:?} is no id: a fragment such as files, or a DID URL, is expected")]
    Id(String),
    /// The DID is deactivated, for good.
    #[error("the DID is deactivated and can not be changed any more")]
    Deactivated,
}

impl DocumentPatch {
    /// Reads a patch given as JSON.
    pub fn from_value(value: &Value) -> Result<Self, PatchFault> {
        Self::parse(json::canonical_bytes(value))
    }

    /// Parses a patch.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, PatchFault> {
        Self::from_normal(json::parse_strict(text)?)
    }

    /// Reads a patch whose JSON came through [`json::parse_strict`].
    pub(super) fn from_normal(value: Value) -> Result<Self, PatchFault> {
        // Counted before they are built.
        if let Some(items) = value.as_array()
            && items.len() > MAX_OPERATIONS
        {
            return Err(PatchFault::TooMany(items.len()));
        }
        let operations = <Vec<PatchOperation> as serde::Deserialize>::deserialize(&value)
            .map_err(PatchFault::Malformed)?;
        Ok(Self { value, operations })
    }

    /// The JSON that is hashed.
    #[must_use]
    pub const fn value(&self) -> &Value {
        &self.value
    }

    /// Applies the operations in order; the first that fails fails the patch.
    pub fn apply(&self, source: &Value) -> Result<Value, PatchFault> {
        let mut document = source.clone();
        // Copies can double a document again and again; what they may copy together is bounded.
        let mut budget = MAX_BYTES;
        for (i, operation) in self.operations.iter().enumerate() {
            charge(&document, operation, &mut budget).ok_or(PatchFault::TooLarge(i))?;
            json_patch::patch_unsafe(&mut document, std::slice::from_ref(operation)).map_err(
                |mut error| {
                    error.operation = i;
                    error
                },
            )?;
        }
        Ok(document)
    }
}

/// `None` if the operation would put a value deeper than [`MAX_DEPTH`] or exceed the budget.
fn charge(document: &Value, operation: &PatchOperation, budget: &mut usize) -> Option<()> {
    let inserted = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Move(from) => document.pointer(from.from.as_str()),
        PatchOperation::Copy(from) => document.pointer(from.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    // Where `from` does not exist, applying will say so.
    let Some(inserted) = inserted else {
        return Some(());
    };
    let (depth, weight) = measure(inserted);
    *budget = budget.checked_sub(weight)?;
    (operation.path().count() + depth <= MAX_DEPTH).then_some(())
}

/// Levels of nesting of a value, and roughly its bytes.
fn measure(value: &Value) -> (usize, usize) {
    let inner = |(depth, weight): (usize, usize), child: &Value| {
        let (child_depth, child_weight) = measure(child);
        (depth.max(child_depth + 1), weight + child_weight)
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => (0, 8),
        Value::String(text) => (0, 8 + text.len()),
        Value::Array(items) => items.iter().fold((1, 8), inner),
        Value::Object(members) => {
            let names: usize = members.keys().map(|name| 8 + name.len()).sum();
            members.values().fold((1, 8 + names), inner)
        }
    }
}

impl TryFrom<json_patch::Patch> for DocumentPatch {
    type Error = PatchFault;

    fn try_from(patch: json_patch::Patch) -> Result<Self, PatchFault> {
        #[allow(clippy::expect_used)]
        let value = serde_json::to_value(&patch).expect("operations have string names only");
        Self::from_value(&value)
    }
}
