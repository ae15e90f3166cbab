//! Changes a user asks for, as patches of a DID document (RFC 6902).

use serde_json::Value;

use super::error::AgentError;
use crate::did::{Document, DocumentPatch, ErrorCode, PatchBuilder};

/// A change to a DID document.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// RFC 6902 operations.
    Patch(Value),
    /// Adds or replaces a service.
    AddService {
        /// Fragment (`#name`) or full id.
        id: String,
        /// Its type.
        kind: String,
        /// Its endpoint.
        endpoint: Value,
    },
    /// Removes a service.
    RemoveService {
        /// Fragment or full id.
        id: String,
    },
    /// Deactivates the DID, for ever.
    Deactivate,
}

/// The patch that makes all `changes`, in order.
pub(super) fn patch_of(before: &Document, changes: &[Change]) -> Result<DocumentPatch, AgentError> {
    let refused = |error: crate::did::patch::PatchFault| AgentError::Did {
        code: ErrorCode::InvalidDidUpdate,
        reason: error.to_string(),
    };
    if let [Change::Patch(operations)] = changes {
        return DocumentPatch::from_value(operations).map_err(refused);
    }
    let mut builder = PatchBuilder::on(before).map_err(refused)?;
    for change in changes {
        builder = match change {
            Change::AddService { id, kind, endpoint } => builder.add_service(id, kind, endpoint),
            Change::RemoveService { id } => builder.remove_service(id),
            Change::Deactivate => builder.deactivate(),
            Change::Patch(_) => {
                return Err(AgentError::Refused(
                    "a patch file can not be combined with other changes".into(),
                ));
            }
        }
        .map_err(refused)?;
    }
    builder.finish().map_err(refused)
}
