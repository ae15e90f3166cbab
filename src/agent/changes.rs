//! Changes a user asks for, made into one patch of a DID document (RFC 6902), with the keys they need.

use bitcoin::Address;
use serde_json::Value;

use super::dids::beacon_kind;
use super::error::AgentError;
use super::runtime::Agent;
use crate::did::builder::{MAX_DOCUMENT_BYTES, require_another_update};
use crate::did::patch::PatchFault;
use crate::did::{BeaconKind, Document, DocumentPatch, ErrorCode, KeyAddress, PatchBuilder};
use crate::hash::CohortId;
use crate::keys::OwnKey;
use crate::store::{DidKeyRow, Role};

/// A change to a DID document. Ids are fragments (`files`), relative (`#files`) or absolute DID URLs.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// RFC 6902 operations.
    Patch(Value),
    /// Adds a service.
    AddService {
        /// Its id.
        id: String,
        /// Its type.
        kind: String,
        /// Its endpoint.
        endpoint: Value,
    },
    /// Removes a service.
    RemoveService {
        /// Its id.
        id: String,
    },
    /// Adds a new key of this agent that may do what the initial key may.
    AddKey {
        /// The id of its method; none: the first free one.
        id: Option<String>,
    },
    /// Puts a new key of this agent in the place of a method, in every relationship it has.
    RotateKey {
        /// The method to replace.
        id: String,
        /// The id of the new method; none: the first free one.
        new_id: Option<String>,
    },
    /// Removes a key.
    RemoveKey {
        /// Its method.
        id: String,
    },
    /// Adds a beacon.
    AddBeacon {
        /// The id of its service; none: the first free one.
        id: Option<String>,
        /// Which.
        beacon: NewBeacon,
    },
    /// Removes a beacon.
    RemoveBeacon {
        /// Its id or its address.
        beacon: String,
    },
    /// Deactivates the DID, for ever.
    Deactivate,
    /// Says that it is meant when after this update no key of this agent may make another one.
    HandOver,
}

/// A beacon to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewBeacon {
    /// Any address.
    Address {
        /// How its signals are read.
        kind: BeaconKind,
        /// The address, of the DID's network.
        address: Address,
    },
    /// The beacon of a cohort this agent is a member of.
    Cohort(CohortId),
    /// A singleton beacon at an address of a new key of this agent, which signs nothing else.
    Own(KeyAddress),
}

/// A patch, and the keys it names first.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) patch: DocumentPatch,
    pub(super) new_keys: Vec<DidKeyRow>,
}

impl Agent {
    /// The patch that makes all `changes`, in order. Nothing is stored.
    pub(super) fn draft(&self, before: &Document, changes: &[Change]) -> Result<Draft, AgentError> {
        let mut keys = NewKeys {
            agent: self,
            document: before,
            next: self.store.view().next_key_index()?,
            rows: Vec::new(),
        };
        let mut builder = PatchBuilder::on(before).map_err(refused)?;
        for change in changes {
            builder = self.apply(builder, change, &mut keys)?;
        }
        let patch = builder.finish().map_err(refused)?;
        if patch.value().as_array().is_some_and(Vec::is_empty) {
            return Err(AgentError::Refused("the update changes nothing".into()));
        }
        Ok(Draft {
            patch,
            new_keys: keys.rows,
        })
    }

    fn apply(
        &self,
        builder: PatchBuilder,
        change: &Change,
        keys: &mut NewKeys<'_>,
    ) -> Result<PatchBuilder, AgentError> {
        match change {
            Change::Patch(operations) => {
                DocumentPatch::from_value(operations).and_then(|patch| builder.operations(&patch))
            }
            Change::AddService { id, kind, endpoint } => builder.add_service(id, kind, endpoint),
            Change::RemoveService { id } => builder.remove_service(id),
            Change::AddKey { id } => {
                let id = id.clone().unwrap_or_else(|| builder.free_id("key"));
                let key = keys.make(&id)?;
                builder.add_key(&id, &key.public().even_point())
            }
            Change::RotateKey { id, new_id } => {
                let new = new_id.clone().unwrap_or_else(|| builder.free_id("key"));
                let key = keys.make(&new)?;
                builder.rotate_key(id, &new, &key.public().even_point())
            }
            Change::RemoveKey { id } => builder.remove_key(id),
            Change::AddBeacon { id, beacon } => {
                let id = id.clone().unwrap_or_else(|| builder.free_id("beacon"));
                let (kind, address) = match beacon {
                    NewBeacon::Address { kind, address } => (*kind, address.clone()),
                    NewBeacon::Cohort(cohort) => {
                        let (_, beacon, address) = self.beacon_of((*cohort, Role::Participant))?;
                        (beacon_kind(beacon), address)
                    }
                    NewBeacon::Own(form) => {
                        let point = keys.make(&id)?.public().even_point();
                        let network = keys.document.id().network();
                        (BeaconKind::Singleton, form.of(network, &point))
                    }
                };
                builder.add_beacon(&id, kind, &address)
            }
            Change::RemoveBeacon { beacon } => builder.remove_beacon(beacon),
            Change::Deactivate => builder.deactivate(),
            Change::HandOver => Ok(builder),
        }
        .map_err(refused)
    }

    /// Refuses a target that would take the DID out of its controller's hands. The specification allows it.
    pub(super) fn require_control(
        &self,
        target: &Document,
        draft: &Draft,
        changes: &[Change],
    ) -> Result<(), AgentError> {
        let bytes = target.canonical_bytes().len();
        if bytes > MAX_DOCUMENT_BYTES {
            return Err(AgentError::Refused(format!(
                "the document would have {bytes} bytes; at most {MAX_DOCUMENT_BYTES} are allowed, because every \
                 resolver has to carry it"
            )));
        }
        require_another_update(target)
            .map_err(|last| AgentError::Refused(format!("refused: {last}")))?;
        if target.is_deactivated() || changes.contains(&Change::HandOver) {
            return Ok(());
        }
        let did = target.id();
        let mut held = self.held_keys(did)?;
        for row in &draft.new_keys {
            held.push(self.derive_did_key(did.network(), row.key_index)?);
        }
        let may_sign = |key: &OwnKey| {
            let mut methods = target.invocation_methods().filter_map(|method| method.key);
            methods.any(|of| super::held_keys::same_key(&of, key.public()))
        };
        if held.iter().any(may_sign) {
            return Ok(());
        }
        Err(AgentError::Refused(
            "after this update no key of this agent could update the DID: say --hand-over if it is to become \
             somebody else's"
                .into(),
        ))
    }
}

/// Keys made for one draft: numbers that nothing stored uses.
struct NewKeys<'a> {
    agent: &'a Agent,
    document: &'a Document,
    next: u32,
    rows: Vec<DidKeyRow>,
}

impl NewKeys<'_> {
    fn make(&mut self, id: &str) -> Result<OwnKey, AgentError> {
        let did = self.document.id();
        let key = self.agent.derive_did_key(did.network(), self.next)?;
        let name = match id.strip_prefix('#') {
            Some(_) => self.document.absolute(id),
            None if id.starts_with("did:") => id.to_owned(),
            None => format!("{did}#{id}"),
        };
        self.rows.push(self.agent.key_row(did, self.next, &name));
        self.next = self.next.saturating_add(1);
        Ok(key)
    }
}

fn refused(error: PatchFault) -> AgentError {
    AgentError::Did {
        code: ErrorCode::InvalidDidUpdate,
        reason: error.to_string(),
    }
}
