//! JSON Patch (RFC 6902): the change an update makes, and the changes people make.

use bitcoin::Address;
use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::document::{BeaconKind, Document};
use super::initial::beacon_service;
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

/// Makes a patch of a document by naming the changes. Later changes see earlier ones.
///
/// Ids are fragments (`didcomm`), relative (`#didcomm`) or absolute DID URLs; absolute ones are written.
#[derive(Debug, Clone)]
#[must_use]
pub struct PatchBuilder {
    source: Document,
    working: Value,
    operations: Vec<Value>,
}

impl PatchBuilder {
    /// Starts from the current document.
    pub fn on(source: &Document) -> Result<Self, PatchFault> {
        if source.is_deactivated() {
            return Err(PatchFault::Deactivated);
        }
        Ok(Self {
            source: source.clone(),
            working: source.value().clone(),
            operations: Vec::new(),
        })
    }

    /// Adds a service; `endpoint` is a URI, or what else the service's type says.
    pub fn add_service(self, id: &str, kind: &str, endpoint: &Value) -> Result<Self, PatchFault> {
        let id = self.absolute(id);
        let service = json!({ "id": id, "type": kind, "serviceEndpoint": endpoint });
        self.push_service(id, service)
    }

    /// Adds a beacon. Signals of its address count from the block of this update on (spec.md §3.3).
    pub fn add_beacon(
        self,
        id: &str,
        kind: BeaconKind,
        address: &Address,
    ) -> Result<Self, PatchFault> {
        let id = self.absolute(id);
        let service = beacon_service(&id, kind, address);
        self.push_service(id, service)
    }

    /// Removes a service, a beacon too. A DID without a beacon can not be updated any more.
    pub fn remove_service(self, id: &str) -> Result<Self, PatchFault> {
        let id = self.absolute(id);
        let Some(index) = self.position(&id) else {
            return Err(PatchFault::NoSuchService(id));
        };
        self.push(json!({ "op": "remove", "path": format!("/service/{index}") }))
    }

    /// Deactivates the DID, for good.
    pub fn deactivate(self) -> Result<Self, PatchFault> {
        self.push(json!({ "op": "add", "path": "/deactivated", "value": true }))
    }

    /// The patch of everything so far.
    pub fn finish(self) -> Result<DocumentPatch, PatchFault> {
        DocumentPatch::from_value(&Value::Array(self.operations))
    }

    fn push_service(self, id: String, service: Value) -> Result<Self, PatchFault> {
        if self.position(&id).is_some() {
            return Err(PatchFault::ServiceExists(id));
        }
        let operation = if self.working.get("service").is_some() {
            json!({ "op": "add", "path": "/service/-", "value": service })
        } else {
            json!({ "op": "add", "path": "/service", "value": [service] })
        };
        self.push(operation)
    }

    fn push(mut self, operation: Value) -> Result<Self, PatchFault> {
        let step = DocumentPatch::from_value(&Value::Array(vec![operation.clone()]))?;
        self.working = step.apply(&self.working)?;
        self.operations.push(operation);
        Ok(self)
    }

    fn position(&self, id: &str) -> Option<usize> {
        let has_id = |service: &Value| {
            let found = service.get("id").and_then(Value::as_str);
            found.is_some_and(|found| self.source.absolute(found) == id)
        };
        self.working
            .get("service")?
            .as_array()?
            .iter()
            .position(has_id)
    }

    fn absolute(&self, id: &str) -> String {
        if id.starts_with("did:") || id.starts_with('#') {
            self.source.absolute(id)
        } else {
            format!("{}#{id}", self.source.id())
        }
    }
}
