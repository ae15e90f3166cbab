//! What stands behind signals: looked for in the sidecar first, then in content-addressed storage, and hashed
//! before it is believed (spec.md §3.3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::limits::MAX_RETRIEVED_BYTES;
use super::outcome::Failure;
use super::sidecar::Sidecar;
use super::walk::DataSource;
use super::{CasKind, Request};
use crate::beacon::smt::SmtProof;
use crate::did::json::{JsonError, document_hash, parse_strict};
use crate::did::update::InvalidUpdate;
use crate::did::{Did, ErrorCode, Rule, SignedUpdate};
use crate::hash::{DocumentHash, SignalBytes, SmtIndex, UpdateHash};

/// What a look for an object gave.
#[derive(Debug, Clone)]
pub(super) enum Lookup<T> {
    /// It is there.
    Found(T, DataSource),
    /// It is nowhere, or contradicts what announced it.
    Failed(Failure),
    /// Storage has to be asked.
    Wanted,
}

/// An update as it was announced.
#[derive(Debug, Clone)]
pub(super) enum Announced {
    /// Its parts are well-formed.
    Update(SignedUpdate),
    /// They are not, but it says which version it leads to: whether that matters depends on the version at which
    /// its turn comes.
    Malformed {
        /// The version it would lead to; zero for a negative one.
        target_version: u64,
        /// The hash without `proof`, by which duplicates are known.
        unsigned_hash: DocumentHash,
        /// What is wrong.
        fault: Arc<InvalidUpdate>,
    },
}

impl Announced {
    pub(super) fn target_version(&self) -> u64 {
        match self {
            Self::Update(update) => update.target_version(),
            Self::Malformed { target_version, .. } => *target_version,
        }
    }

    /// Reads an update; fails when it does not even say which version it leads to.
    fn read(value: &Value) -> Result<Self, Failure> {
        let fault = match SignedUpdate::from_value(value) {
            Ok(update) => return Ok(Self::Update(update)),
            Err(fault) => fault,
        };
        let target = value.get("targetVersionId").and_then(integer);
        let (Some(target_version), Some(members)) = (target, value.as_object()) else {
            return Err(Failure::new(fault.code(), fault.to_string()));
        };
        let mut unsigned = members.clone();
        unsigned.remove("proof");
        Ok(Self::Malformed {
            target_version,
            unsigned_hash: document_hash(&Value::Object(unsigned)),
            fault: Arc::new(fault),
        })
    }
}

/// A JSON integer, brought into the range of versions.
fn integer(value: &Value) -> Option<u64> {
    let negative = || value.as_i64().map(|_| 0);
    let huge = || value.as_f64().filter(|n| n.fract() == 0.0);
    let huge = || huge().map(|n| if n > 0.0 { u64::MAX } else { 0 });
    value.as_u64().or_else(negative).or_else(huge)
}

/// The sidecar, and what storage gave.
#[derive(Debug)]
pub(super) struct Objects {
    did: Did,
    index: SmtIndex,
    sidecar: Sidecar,
    /// What storage was asked for and has not given yet.
    wanted: BTreeSet<([u8; 32], CasKind)>,
    genesis: Option<Lookup<Value>>,
    announcements: BTreeMap<SignalBytes, Lookup<Option<UpdateHash>>>,
    updates: BTreeMap<UpdateHash, Lookup<Announced>>,
    retrieved: usize,
}

impl Objects {
    pub(super) fn new(did: Did, sidecar: Sidecar) -> Self {
        Self {
            index: did.smt_index(),
            did,
            sidecar,
            wanted: BTreeSet::new(),
            genesis: None,
            announcements: BTreeMap::new(),
            updates: BTreeMap::new(),
            retrieved: 0,
        }
    }

    /// The document with this hash, which the identifier commits to.
    pub(super) fn genesis(&mut self, hash: DocumentHash) -> Lookup<Value> {
        if let Some(known) = &self.genesis {
            return known.clone();
        }
        let Some(value) = self.sidecar.genesis() else {
            self.wanted
                .insert((hash.to_bytes(), CasKind::GenesisDocument));
            return Lookup::Wanted;
        };
        let found = document_hash(value);
        let lookup = if found == hash {
            Lookup::Found(value.clone(), DataSource::Sidecar)
        } else {
            Lookup::Failed(genesis_mismatch(
                "the sidecar's genesis document",
                found,
                hash,
            ))
        };
        self.genesis = Some(lookup.clone());
        lookup
    }

    /// What the announcement with this hash says about the DID.
    pub(super) fn announced(&mut self, signal: SignalBytes) -> Lookup<Option<UpdateHash>> {
        if let Some(known) = self.announcements.get(&signal) {
            return known.clone();
        }
        let Some(value) = self.sidecar.announcement(&signal) else {
            self.wanted
                .insert((signal.to_bytes(), CasKind::Announcement));
            return Lookup::Wanted;
        };
        let lookup = match entry(value, &self.did) {
            Ok(update) => Lookup::Found(update, DataSource::Sidecar),
            Err(failure) => Lookup::Failed(failure),
        };
        self.announcements.insert(signal, lookup.clone());
        lookup
    }

    /// What the SMT proof for this root says about the DID. Only a sidecar has proofs.
    pub(super) fn proved(&self, root: SignalBytes) -> Result<Option<UpdateHash>, Failure> {
        let mut last_fault = None;
        for value in self.sidecar.proofs_for(&root) {
            let proof = match <SmtProof as serde::Deserialize>::deserialize(value) {
                Ok(proof) => proof,
                Err(error) => {
                    last_fault = Some(error.to_string());
                    continue;
                }
            };
            match proof.verify(&self.index, &root) {
                Ok(()) => return Ok(proof.update()),
                Err(fault) => last_fault = Some(fault.to_string()),
            }
        }
        Err(match last_fault {
            Some(fault) => Failure::broken(
                Rule::SmtProofNotVerified,
                format!("the SMT proof for root {root} does not verify for this DID: {fault}"),
            ),
            None => Failure::broken(
                Rule::SmtProofMissing,
                format!(
                    "the sidecar has no SMT proof for root {root}; the beacon's aggregator can be asked for it"
                ),
            ),
        })
    }

    /// The update with this hash.
    pub(super) fn update(&mut self, hash: UpdateHash) -> Lookup<Announced> {
        if let Some(known) = self.updates.get(&hash) {
            return known.clone();
        }
        let Some(value) = self.sidecar.update(&hash) else {
            self.wanted.insert((hash.to_bytes(), CasKind::Update));
            return Lookup::Wanted;
        };
        let lookup = match Announced::read(value) {
            Ok(update) => Lookup::Found(update, DataSource::Sidecar),
            Err(failure) => Lookup::Failed(of_update(hash, &failure)),
        };
        self.updates.insert(hash, lookup.clone());
        lookup
    }

    /// What the sidecar alone says an announcement holds, for signals that do not count yet.
    pub(super) fn foreseen(&self, signal: SignalBytes) -> Option<Option<UpdateHash>> {
        entry(self.sidecar.announcement(&signal)?, &self.did).ok()
    }

    /// The version that an update leads to, as far as the sidecar can tell.
    pub(super) fn foreseen_version(&self, hash: &UpdateHash) -> Option<u64> {
        let value = self.sidecar.update(hash)?;
        value.get("targetVersionId").and_then(integer)
    }

    /// Takes what storage gave; nothing is believed without its hash.
    pub(super) fn answer(&mut self, hash: &[u8; 32], bytes: Option<&[u8]>) {
        for kind in [
            CasKind::GenesisDocument,
            CasKind::Announcement,
            CasKind::Update,
        ] {
            if !self.wanted.remove(&(*hash, kind)) {
                continue;
            }
            let object = bytes.map(parse_strict);
            match kind {
                CasKind::GenesisDocument => {
                    self.genesis = Some(read_genesis(DocumentHash::from_bytes(*hash), object));
                }
                CasKind::Announcement => {
                    let signal = SignalBytes::from_bytes(*hash);
                    let read = read_announcement(&self.did, signal, object);
                    self.announcements.insert(signal, read);
                }
                CasKind::Update => {
                    let update = UpdateHash::from_bytes(*hash);
                    let size = bytes.map_or(0, <[u8]>::len);
                    self.retrieved = self.retrieved.saturating_add(size);
                    let read = if self.retrieved > MAX_RETRIEVED_BYTES {
                        Lookup::Failed(too_much_retrieved())
                    } else {
                        read_update(update, object)
                    };
                    self.updates.insert(update, read);
                }
            }
        }
    }
}

/// The request for an object.
pub(super) fn request(hash: [u8; 32], kind: CasKind) -> Request {
    Request::Cas { hash, kind }
}

/// Reads the entry of a DID.
fn entry(announcement: &Value, did: &Did) -> Result<Option<UpdateHash>, Failure> {
    let Some(entries) = announcement.as_object() else {
        return Err(Failure::new(
            ErrorCode::InvalidSignalData,
            "the CAS announcement is not a JSON object",
        ));
    };
    let Some(value) = entries.get(did.as_str()) else {
        return Ok(None);
    };
    let hash = value.as_str().and_then(|text| text.parse().ok());
    hash.map(Some).ok_or_else(|| {
        Failure::broken(
            Rule::UpdateMissing,
            "the CAS announcement's entry for this DID is not a hash, so there is no update it could name",
        )
    })
}

type Parsed = Option<Result<Value, JsonError>>;

fn read_genesis(hash: DocumentHash, object: Parsed) -> Lookup<Value> {
    let retrieved = "the genesis document that storage gave";
    match object {
        None => Lookup::Failed(Failure::new(
            ErrorCode::NotFound,
            format!(
                "the genesis document {hash} is neither in the sidecar nor available from storage"
            ),
        )),
        Some(Err(JsonError::TooLong(size))) => Lookup::Failed(too_long(retrieved, size)),
        Some(Err(error)) => Lookup::Failed(Failure::broken(
            Rule::GenesisHashMismatch,
            format!("{retrieved} for {hash} can not be hashed: {error}"),
        )),
        Some(Ok(value)) => {
            let found = document_hash(&value);
            if found == hash {
                Lookup::Found(value, DataSource::Cas)
            } else {
                Lookup::Failed(genesis_mismatch(retrieved, found, hash))
            }
        }
    }
}

fn read_announcement(did: &Did, signal: SignalBytes, object: Parsed) -> Lookup<Option<UpdateHash>> {
    let missing = || {
        format!(
            "the CAS announcement {signal} is neither in the sidecar nor available from storage"
        )
    };
    let value = checked(object, &signal.to_bytes(), "the CAS announcement", missing);
    match value.and_then(|value| entry(&value, did)) {
        Ok(update) => Lookup::Found(update, DataSource::Cas),
        Err(failure) => Lookup::Failed(failure),
    }
}

fn read_update(hash: UpdateHash, object: Parsed) -> Lookup<Announced> {
    let missing =
        || format!("the update {hash} is neither in the sidecar nor available from storage");
    match checked(object, &hash.to_bytes(), "the update", missing) {
        Err(failure) => Lookup::Failed(failure),
        Ok(value) => match Announced::read(&value) {
            Ok(update) => Lookup::Found(update, DataSource::Cas),
            Err(failure) => Lookup::Failed(of_update(hash, &failure)),
        },
    }
}

/// What storage gave, if it has the hash it was asked for by.
fn checked(
    object: Parsed,
    hash: &[u8; 32],
    what: &str,
    missing: impl Fn() -> String,
) -> Result<Value, Failure> {
    let value = match object {
        None => return Err(Failure::broken(Rule::UpdateMissing, missing())),
        Some(Err(JsonError::TooLong(size))) => return Err(too_long(what, size)),
        Some(Err(error)) => {
            return Err(Failure::new(
                ErrorCode::InvalidSignalData,
                format!("{what} that storage gave can not be hashed: {error}"),
            ));
        }
        Some(Ok(value)) => value,
    };
    let found = document_hash(&value);
    if found.as_bytes() == hash {
        Ok(value)
    } else {
        let asked = DocumentHash::from_bytes(*hash);
        Err(Failure::new(
            ErrorCode::InvalidSignalData,
            format!("{what} that storage gave has the hash {found}; {asked} was announced"),
        ))
    }
}

fn of_update(hash: UpdateHash, failure: &Failure) -> Failure {
    Failure {
        message: format!("the update {hash} is malformed: {}", failure.message),
        ..failure.clone()
    }
}

fn genesis_mismatch(what: &str, found: DocumentHash, hash: DocumentHash) -> Failure {
    Failure::broken(
        Rule::GenesisHashMismatch,
        format!("{what} has the hash {found}; the DID commits to {hash}: it is of another DID"),
    )
}

fn too_long(what: &str, size: usize) -> Failure {
    Failure::new(
        ErrorCode::InternalError,
        format!("{what} has {size} bytes, more than this resolver reads"),
    )
}

fn too_much_retrieved() -> Failure {
    Failure::new(
        ErrorCode::InternalError,
        format!(
            "the updates retrieved from storage have more than {MAX_RETRIEVED_BYTES} bytes, more than this resolver keeps"
        ),
    )
}
