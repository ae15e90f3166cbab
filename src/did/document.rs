//! A conformant DID document (spec.md §2.1).

use std::fmt;
use std::sync::Arc;

use bitcoin::Address;
use serde_json::Value;

use super::conformance::{self, Invocation, Parts};
use super::error::ErrorCode;
use super::identifier::{Did, InvalidDid};
use super::json::{self, JsonError};
use crate::hash::DocumentHash;
use crate::network::Network;

pub use super::conformance::VerificationMethod;

/// The kinds of beacon, by the `type` of their service.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum BeaconKind {
    /// One DID, one update: the signal is the update's hash.
    #[serde(rename = "SingletonBeacon")]
    Singleton,
    /// The signal is the hash of a map from DIDs to update hashes.
    #[serde(rename = "CASBeacon")]
    Cas,
    /// The signal is the root of a sparse Merkle tree.
    #[serde(rename = "SMTBeacon")]
    Smt,
}

impl BeaconKind {
    /// The `type` of the service.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Singleton => "SingletonBeacon",
            Self::Cas => "CASBeacon",
            Self::Smt => "SMTBeacon",
        }
    }

    /// The kind of beacon with this service `type`, if it is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Singleton, Self::Cas, Self::Smt]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

impl fmt::Display for BeaconKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A beacon that a document lists.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BeaconService {
    /// The service's absolute id.
    pub id: String,
    /// How its signals are read.
    pub kind: BeaconKind,
    /// The address whose spends are signals, valid on the DID's network.
    pub address: Address,
}

/// Why JSON is not a conformant DID document. The code is always INVALID_DID_DOCUMENT.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDocument {
    /// Not JSON, or JSON two readers could understand differently.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A document is an object.
    #[error("the document is not a JSON object")]
    NotAnObject,
    /// The two contexts of every did:btcr2 document are not both there.
    #[error(
        "@context is not an array with https://www.w3.org/ns/did/v1.1 and https://btcr2.dev/context/v1"
    )]
    Context,
    /// `id` is missing or no string.
    #[error("id is missing")]
    NoId,
    /// `id` is no did:btcr2 identifier.
    #[error("id is not a did:btcr2 identifier: {0}")]
    Id(#[from] InvalidDid),
    /// `id` is not the placeholder a genesis document has.
    #[error("id of a genesis document is {0:?} instead of \"did:btcr2:_\"")]
    NotPlaceholder(String),
    /// A member has a value of the wrong type, or is missing.
    #[error("{path} is not {expected}")]
    Member {
        /// Where, in the manner of `service[0].type`.
        path: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// Two verification methods, or two services, have one id.
    #[error("{path} repeats the id {id:?}")]
    RepeatedId {
        /// The second one.
        path: String,
        /// The id.
        id: String,
    },
    /// A beacon's endpoint is no address.
    #[error("{path}.serviceEndpoint of a beacon is not \"bitcoin:\" and an address")]
    Endpoint {
        /// The service.
        path: String,
    },
    /// A beacon's address belongs to another network.
    #[error("{path}.serviceEndpoint is no address of the DID's network, {network}")]
    EndpointNetwork {
        /// The service.
        path: String,
        /// The DID's network.
        network: Network,
    },
}

impl InvalidDocument {
    /// The error code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidDidDocument
    }
}

/// Why a verification method may not invoke the capability to update a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodFault {
    /// No entry of `capabilityInvocation` names it.
    #[error("it is not listed in capabilityInvocation")]
    Unauthorized,
    /// `capabilityInvocation` refers to it, but it is not in `verificationMethod`.
    #[error("capabilityInvocation refers to it, but verificationMethod does not contain it")]
    NotFound,
}

/// A DID document that conforms, exactly as parsed: unknown members stay, and count in its hash.
///
/// Cloning copies a pointer. Equal means equal canonical bytes.
#[derive(Clone)]
pub struct Document(Arc<Inner>);

struct Inner {
    value: Value,
    did: Did,
    methods: Vec<VerificationMethod>,
    invocations: Vec<Invocation>,
    beacons: Vec<BeaconService>,
    deactivated: bool,
    hash: DocumentHash,
}

impl Document {
    /// Parses and checks a document.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidDocument> {
        Self::from_normal(json::parse_strict(text)?)
    }

    /// Checks a document that was built in memory.
    pub fn from_value(value: &Value) -> Result<Self, InvalidDocument> {
        Self::parse(json::canonical_bytes(value))
    }

    /// Checks a document whose JSON came through [`json::parse_strict`].
    pub(super) fn from_normal(value: Value) -> Result<Self, InvalidDocument> {
        let id = value
            .as_object()
            .ok_or(InvalidDocument::NotAnObject)?
            .get("id");
        let id = id.and_then(Value::as_str).ok_or(InvalidDocument::NoId)?;
        let did: Did = id.parse()?;
        let Parts {
            methods,
            invocations,
            beacons,
            deactivated,
        } = conformance::read(&value, did.as_str())?;
        let network = did.network();
        let beacons = beacons
            .into_iter()
            .map(|beacon| {
                let address = beacon
                    .address
                    .require_network(network.bitcoin_network())
                    .map_err(|_| InvalidDocument::EndpointNetwork {
                        path: beacon.path,
                        network,
                    })?;
                Ok(BeaconService {
                    id: beacon.id,
                    kind: beacon.kind,
                    address,
                })
            })
            .collect::<Result<_, InvalidDocument>>()?;
        let hash = json::document_hash(&value);
        Ok(Self(Arc::new(Inner {
            value,
            did,
            methods,
            invocations,
            beacons,
            deactivated,
            hash,
        })))
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

    /// The JSON document hash.
    #[must_use]
    pub fn hash(&self) -> DocumentHash {
        self.0.hash
    }

    /// The DID it describes.
    #[must_use]
    pub fn id(&self) -> &Did {
        &self.0.did
    }

    /// Its beacons, in its order.
    #[must_use]
    pub fn beacons(&self) -> &[BeaconService] {
        &self.0.beacons
    }

    /// Its `verificationMethod`, in its order.
    #[must_use]
    pub fn verification_methods(&self) -> &[VerificationMethod] {
        &self.0.methods
    }

    /// The methods that may sign updates: those `capabilityInvocation` embeds or refers to.
    pub fn invocation_methods(&self) -> impl Iterator<Item = &VerificationMethod> {
        self.0.invocations.iter().filter_map(|entry| match entry {
            Invocation::Embedded(method) => Some(method),
            Invocation::Reference(id) => self.method(id),
        })
    }

    /// The method with this id (absolute, or relative like `#key`), if it may sign updates
    /// (spec.md §3.4 step 7 d).
    pub fn invocation_method(&self, id: &str) -> Result<&VerificationMethod, MethodFault> {
        let id = self.absolute(id);
        let names = |entry: &&Invocation| match entry {
            Invocation::Embedded(method) => method.id == id,
            Invocation::Reference(reference) => *reference == id,
        };
        match self.0.invocations.iter().find(names) {
            None => Err(MethodFault::Unauthorized),
            Some(Invocation::Embedded(method)) => Ok(method),
            Some(Invocation::Reference(id)) => self.method(id).ok_or(MethodFault::NotFound),
        }
    }

    /// Makes a DID URL of this document absolute: `#key` becomes `did:btcr2:…#key`.
    #[must_use]
    pub fn absolute(&self, url: &str) -> String {
        conformance::absolute(self.0.did.as_str(), url)
    }

    /// Whether the DID was deactivated for good.
    #[must_use]
    pub fn is_deactivated(&self) -> bool {
        self.0.deactivated
    }

    fn method(&self, id: &str) -> Option<&VerificationMethod> {
        self.0.methods.iter().find(|method| method.id == id)
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for Document {}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({}, hash {})", self.0.did, self.0.hash)
    }
}

impl serde::Serialize for Document {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.value.serialize(s)
    }
}
