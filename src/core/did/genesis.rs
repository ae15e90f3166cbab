//! The genesis document of an `x1` identifier (spec.md §1.4).

use std::fmt;
use std::sync::Arc;

use bitcoin::Address;
use secp256k1::PublicKey;
use serde_json::{Value, json};

use super::conformance::{self, DOCUMENT_CONTEXT};
use super::document::{BeaconKind, Document, InvalidDocument};
use super::identifier::{Did, IdKind};
use super::initial::{INITIAL_KEY, KeyAddress, beacon_service, multikey_method};
use super::json;
use crate::hash::DocumentHash;
use crate::network::Network;

/// The `id` of every genesis document, replaced by the DID that its hash gives.
pub const PLACEHOLDER: &str = "did:btcr2:_";

/// Fragment of the cohort's beacon in a genesis document made by [`GenesisDocument::for_cohort`].
pub const COHORT_BEACON: &str = "cohortBeacon";

/// A genesis document: a DID document about `did:btcr2:_`.
///
/// It names no network; an identifier and a document follow only once one is given. Cloning copies a
/// pointer.
#[derive(Clone)]
pub struct GenesisDocument(Arc<Inner>);

struct Inner {
    value: Value,
    hash: DocumentHash,
}

impl GenesisDocument {
    /// The genesis document of a cohort's member: one key that may do everything, the cohort's beacon,
    /// and a singleton beacon at the key's own address, so that the DID can leave a dead cohort.
    ///
    /// `kind` and `address` are the cohort's. A DID whose genesis lists a beacon needs data for *every*
    /// signal that beacon ever sent (spec.md §3.3): complete the history before creating it.
    pub fn for_cohort(
        network: Network,
        key: &PublicKey,
        kind: BeaconKind,
        address: &Address,
        fallback: KeyAddress,
    ) -> Result<Self, InvalidDocument> {
        GenesisBuilder::new(network)
            .key(INITIAL_KEY, key)
            .beacon(
                fallback.fragment(),
                BeaconKind::Singleton,
                &fallback.of(network, key),
            )
            .beacon(COHORT_BEACON, kind, address)
            .build()
    }

    /// Parses and checks a genesis document. Whether its addresses belong to the DID's network shows in
    /// [`Self::document`].
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidDocument> {
        Self::from_normal(json::parse_strict(text)?)
    }

    /// Checks a genesis document that was built in memory.
    pub fn from_value(value: &Value) -> Result<Self, InvalidDocument> {
        Self::parse(json::canonical_bytes(value))
    }

    fn from_normal(value: Value) -> Result<Self, InvalidDocument> {
        let object = value.as_object().ok_or(InvalidDocument::NotAnObject)?;
        let id = object.get("id").and_then(Value::as_str);
        match id.ok_or(InvalidDocument::NoId)? {
            PLACEHOLDER => (),
            other => return Err(InvalidDocument::NotPlaceholder(other.to_owned())),
        }
        conformance::read(&value, PLACEHOLDER)?;
        let hash = json::document_hash(&value);
        Ok(Self(Arc::new(Inner { value, hash })))
    }

    /// The JSON, as parsed.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.0.value
    }

    /// The canonical (RFC 8785) bytes.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        json::canonical_bytes(&self.0.value)
    }

    /// The JSON document hash: the identifier's genesis bytes.
    #[must_use]
    pub fn hash(&self) -> DocumentHash {
        self.0.hash
    }

    /// The identifier it gives on a network.
    #[must_use]
    pub fn did(&self, network: Network) -> Did {
        Did::from_genesis(network, self.hash())
    }

    /// Whether `did` commits to it.
    #[must_use]
    pub fn matches(&self, did: &Did) -> bool {
        did.kind() == IdKind::External(self.hash())
    }

    /// The initial document on a network: every `did:btcr2:_` in the text replaced by the DID. It is
    /// refused if a beacon's address belongs to another network.
    pub fn document(&self, network: Network) -> Result<Document, InvalidDocument> {
        let mut value = self.0.value.clone();
        replace(&mut value, self.did(network).as_str());
        // The replacement may have made two names of an object one, or the text too long.
        Document::from_value(&value)
    }
}

/// Replaces the placeholder in every string and name of a value, which is what replacing it in the
/// JSON text does: no character of it is ever escaped.
fn replace(value: &mut Value, did: &str) {
    match value {
        Value::String(text) if text.contains(PLACEHOLDER) => {
            *text = text.replace(PLACEHOLDER, did);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, did)),
        Value::Object(members) => {
            members.values_mut().for_each(|member| replace(member, did));
            if members.keys().any(|name| name.contains(PLACEHOLDER)) {
                *members = std::mem::take(members)
                    .into_iter()
                    .map(|(name, member)| (name.replace(PLACEHOLDER, did), member))
                    .collect();
            }
        }
        _ => (),
    }
}

impl PartialEq for GenesisDocument {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for GenesisDocument {}

impl fmt::Debug for GenesisDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GenesisDocument(hash {})", self.0.hash)
    }
}

impl serde::Serialize for GenesisDocument {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.value.serialize(s)
    }
}

/// Builds a genesis document. Fragments are given without `#`.
#[derive(Debug, Clone)]
#[must_use]
pub struct GenesisBuilder {
    network: Network,
    methods: Vec<Value>,
    references: Vec<String>,
    services: Vec<Value>,
}

impl GenesisBuilder {
    /// Starts a document for a DID on `network`.
    pub const fn new(network: Network) -> Self {
        Self {
            network,
            methods: Vec::new(),
            references: Vec::new(),
            services: Vec::new(),
        }
    }

    /// Adds a key which may authenticate, assert, and invoke and delegate capabilities (updates are one).
    pub fn key(mut self, fragment: &str, key: &PublicKey) -> Self {
        let id = format!("{PLACEHOLDER}#{fragment}");
        self.methods.push(multikey_method(&id, PLACEHOLDER, key));
        self.references.push(id);
        self
    }

    /// Adds a beacon.
    pub fn beacon(mut self, fragment: &str, kind: BeaconKind, address: &Address) -> Self {
        let id = format!("{PLACEHOLDER}#{fragment}");
        self.services.push(beacon_service(&id, kind, address));
        self
    }

    /// Finishes the document; refuses a repeated fragment and an address of another network.
    pub fn build(self) -> Result<GenesisDocument, InvalidDocument> {
        let genesis = GenesisDocument::from_value(&json!({
            "@context": DOCUMENT_CONTEXT,
            "id": PLACEHOLDER,
            "verificationMethod": self.methods,
            "authentication": self.references,
            "assertionMethod": self.references,
            "capabilityInvocation": self.references,
            "capabilityDelegation": self.references,
            "service": self.services,
        }))?;
        genesis.document(self.network)?;
        Ok(genesis)
    }
}
