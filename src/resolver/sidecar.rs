//! Sidecar data (spec.md §2.7): what the controller hands to whoever resolves the DID.

use std::collections::BTreeMap;

use serde_json::Value;

use super::outcome::Failure;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::smt::SmtProof;
use crate::did::SignedUpdate;
use crate::hash::{SignalBytes, UpdateHash};

/// Longest sidecar accepted, in bytes.
pub const MAX_SIDECAR_BYTES: usize = 16 << 20;

/// Everything of a sidecar, by the hash under which a resolver looks for it.
///
/// Lenient where the specification is: an update is any JSON with the hash that was announced, and is read when
/// it is announced. Two equal entries count once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sidecar {
    genesis: Option<Value>,
    updates: BTreeMap<UpdateHash, Value>,
    announcements: BTreeMap<SignalBytes, Value>,
    proofs: BTreeMap<SignalBytes, Vec<Value>>,
}

impl Sidecar {
    /// Parses a sidecar.
    ///
    /// # Errors
    /// INVALID_OPTIONS, naming the member.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, Failure> {
        let _ = text;
        Ok(Self::default())
    }

    /// Reads a sidecar from JSON in memory.
    ///
    /// # Errors
    /// INVALID_OPTIONS, naming the member.
    pub fn from_value(value: &Value) -> Result<Self, Failure> {
        let _ = value;
        Ok(Self::default())
    }

    /// The JSON form. What is empty is left out.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Null
    }

    /// The canonical (RFC 8785) bytes of the JSON form.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Sets the genesis document.
    pub fn set_genesis(&mut self, genesis: &Value) {
        self.genesis = Some(genesis.clone());
    }

    /// Adds a signed update.
    pub fn add_update(&mut self, update: &SignedUpdate) {
        self.updates.insert(update.hash(), update.value().clone());
    }

    /// Adds the announcement of a CAS beacon.
    pub fn add_announcement(&mut self, announcement: &CasAnnouncement) {
        let _ = announcement;
    }

    /// Adds an SMT proof.
    pub fn add_proof(&mut self, proof: &SmtProof) {
        let _ = proof;
    }

    /// Adds everything of another sidecar. Its genesis document counts only where there is none.
    pub fn merge(&mut self, other: Self) {
        let _ = other;
    }

    /// The genesis document.
    #[must_use]
    pub const fn genesis(&self) -> Option<&Value> {
        self.genesis.as_ref()
    }

    /// The updates, by their hash.
    pub fn updates(&self) -> impl ExactSizeIterator<Item = (UpdateHash, &Value)> {
        self.updates.iter().map(|(hash, value)| (*hash, value))
    }

    /// The CAS announcements, by the signal that announced them.
    pub fn announcements(&self) -> impl ExactSizeIterator<Item = (SignalBytes, &Value)> {
        self.announcements
            .iter()
            .map(|(hash, value)| (*hash, value))
    }

    /// The SMT proofs, by the root they claim.
    pub fn proofs(&self) -> impl Iterator<Item = (SignalBytes, &Value)> {
        let all = self.proofs.iter();
        all.flat_map(|(root, proofs)| proofs.iter().map(|proof| (*root, proof)))
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
