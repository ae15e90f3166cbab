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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::did::initial::{KeyAddress, initial_key_document};
    use crate::did::multikey;

    fn key(number: u8) -> secp256k1::PublicKey {
        let secret = secp256k1::SecretKey::from_slice(&[number; 32]).unwrap();
        secret.public_key(secp256k1::SECP256K1)
    }

    fn document() -> Value {
        let did = Did::from_key(Network::Signet, &key(1));
        initial_key_document(&did).unwrap().value().clone()
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut value = document();
        change(&mut value);
        let error = Document::from_value(&value).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidDidDocument);
        error.to_string()
    }

    fn accepted(change: impl FnOnce(&mut Value)) -> Document {
        let mut value = document();
        change(&mut value);
        let accepted = Document::from_value(&value).unwrap();
        assert_eq!(*accepted.value(), value);
        accepted
    }

    #[test]
    fn what_does_not_conform_is_refused_by_its_path() {
        type Change = fn(&mut Value);
        let rows: [(Change, &str); 25] = [
            (|d| *d = json!([]), "not a JSON object"),
            (|d| d["id"] = json!(7), "id is missing"),
            (
                |d| d["id"] = json!("did:btcr2:_"),
                "not a did:btcr2 identifier",
            ),
            (|d| d["@context"] = json!("x"), "@context is not an array"),
            (
                |d| d["@context"] = json!([]),
                "@context is not an array with",
            ),
            (
                |d| d["@context"][0] = json!(0),
                "@context is not an array of",
            ),
            (
                |d| d["@context"][1] = json!("https://btcr2.dev/context/v2"),
                "@context is not",
            ),
            (
                |d| d["controller"] = json!([1]),
                "controller is not a string or",
            ),
            (
                |d| d["alsoKnownAs"] = json!("x"),
                "alsoKnownAs is not an array of strings",
            ),
            (
                |d| d["deactivated"] = json!("true"),
                "deactivated is not true or false",
            ),
            (
                |d| d["verificationMethod"] = json!({}),
                "verificationMethod is not an array",
            ),
            (
                |d| d["verificationMethod"][0] = json!("x"),
                "verificationMethod[0] is not an object",
            ),
            (
                |d| d["verificationMethod"][0]["id"] = json!(1),
                "verificationMethod[0].id is not",
            ),
            (
                |d| d["verificationMethod"][0]["type"] = json!([]),
                "verificationMethod[0].type is",
            ),
            (
                |d| d["verificationMethod"][0]["controller"] = json!(null),
                "verificationMethod[0].controller is not a string",
            ),
            (
                |d| d["authentication"] = json!("#initialKey"),
                "authentication is not an array",
            ),
            (
                |d| d["keyAgreement"] = json!([7]),
                "keyAgreement[0] is not an object",
            ),
            (
                |d| d["capabilityInvocation"] = json!([{}]),
                "capabilityInvocation[0].id is not",
            ),
            (|d| d["service"] = json!(null), "service is not an array"),
            (
                |d| d["service"][1] = json!("x"),
                "service[1] is not an object",
            ),
            (
                |d| d["service"][2]["id"] = json!({}),
                "service[2].id is not a string",
            ),
            (
                |d| d["service"][2]["type"] = json!([3]),
                "service[2].type is not",
            ),
            (
                |d| d["service"][2]["serviceEndpoint"] = json!(3),
                "service[2].serviceEndpoint is",
            ),
            (
                |d| d["service"][2]["serviceEndpoint"] = json!("https://example.com"),
                "service[2].serviceEndpoint of a beacon",
            ),
            (
                |d| d["service"][2]["serviceEndpoint"] = json!(["bitcoin:x"]),
                "service[2].serviceEndpoint of a beacon",
            ),
        ];
        for (change, expected) in rows {
            let message = refused(change);
            assert!(message.contains(expected), "{message:?} for {expected:?}");
        }
    }

    #[test]
    fn repeated_ids_are_found_however_they_are_written() {
        let message = refused(|d| {
            let copy = json!({"id": "#initialP2TR", "type": "x", "serviceEndpoint": "x:"});
            d["service"].as_array_mut().unwrap().push(copy);
        });
        assert!(message.contains("service[3] repeats the id"), "{message}");
        let message = refused(|d| {
            let mut copy = d["verificationMethod"][0].clone();
            copy["id"] = json!("#initialKey");
            d["verificationMethod"].as_array_mut().unwrap().push(copy);
        });
        assert!(
            message.contains("verificationMethod[1] repeats"),
            "{message}"
        );
    }

    #[test]
    fn what_this_program_does_not_know_is_left_alone() {
        let known = accepted(|_| ());
        let other = accepted(|d| {
            d["unknown"] = json!({"deep": [1.5, null]});
            let services = d["service"].as_array_mut().unwrap();
            services.push(json!({"type": ["A", "B"], "serviceEndpoint": {"uri": "x:"}}));
            services.push(json!({"type": "SingletonBeacon2", "serviceEndpoint": "https://x"}));
            let method = json!({"id": "#ed", "type": "Multikey", "controller": "did:key:z",
                "publicKeyMultibase": "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"});
            d["verificationMethod"].as_array_mut().unwrap().push(method);
        });
        assert_ne!(known.hash(), other.hash());
        assert_ne!(known, other);
        assert_eq!(known.beacons(), other.beacons());
        assert_eq!(other.verification_methods()[1].key, None);
    }

    #[test]
    fn a_bare_document_conforms_but_nobody_can_update_it() {
        let did = Did::from_key(Network::Bitcoin, &key(1));
        let bare = json!({"@context": conformance::DOCUMENT_CONTEXT, "id": did});
        let bare = Document::from_value(&bare).unwrap();
        assert!(bare.beacons().is_empty());
        assert_eq!(bare.invocation_methods().count(), 0);
        assert_eq!(
            bare.invocation_method("#initialKey"),
            Err(MethodFault::Unauthorized)
        );
        assert!(!bare.is_deactivated());
    }

    #[test]
    fn beacons_are_read_by_type_scheme_and_network() {
        let address = KeyAddress::P2wpkh.of(Network::Signet, &key(2));
        let with = |endpoint: String, kind: &str| {
            let (endpoint, kind) = (json!(endpoint), json!(kind));
            accepted(move |d| {
                d["service"][0]["serviceEndpoint"] = endpoint;
                d["service"][0]["type"] = kind;
            })
        };
        for (kind, name) in [
            (BeaconKind::Singleton, "SingletonBeacon"),
            (BeaconKind::Cas, "CASBeacon"),
            (BeaconKind::Smt, "SMTBeacon"),
        ] {
            let document = with(format!("bitcoin:{address}"), name);
            assert_eq!(document.beacons()[0].kind, kind);
            assert_eq!(document.beacons()[0].address, address);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        let with_parameters = with(format!("BITCOIN:{address}?label=x&amount=1"), "SMTBeacon");
        assert_eq!(with_parameters.beacons()[0].address, address);

        let foreign = KeyAddress::P2wpkh.of(Network::Regtest, &key(2));
        let message = refused(|d| {
            d["service"][0]["serviceEndpoint"] = json!(format!("bitcoin:{foreign}"));
        });
        assert!(
            message.contains("no address of the DID's network, signet"),
            "{message}"
        );
    }

    #[test]
    fn methods_by_reference_embedded_and_relative() {
        let method = |id: &str, number| {
            json!({"id": id, "type": "Multikey", "controller": "did:x:y",
                "publicKeyMultibase": multikey::encode(&key(number))})
        };
        let document = accepted(|d| {
            let methods = d["verificationMethod"].as_array_mut().unwrap();
            methods.push(method("#second", 2));
            methods.push(method("did:x:y#third", 3));
            d["authentication"] = json!([method("#embedded-elsewhere", 4)]);
            d["capabilityInvocation"] = json!([
                "#initialKey",
                format!("{}#second", d["id"].as_str().unwrap()),
                "did:x:y#third",
                method("#embedded", 5),
                "#embedded-elsewhere"
            ]);
        });
        let keys: Vec<_> = document.invocation_methods().map(|m| m.key).collect();
        assert_eq!(keys, [1, 2, 3, 5].map(|number| Some(key(number))));
        for (id, number) in [
            ("#initialKey", 1),
            ("#second", 2),
            ("did:x:y#third", 3),
            ("#embedded", 5),
        ] {
            for id in [id.to_owned(), document.absolute(id)] {
                assert_eq!(
                    document.invocation_method(&id).unwrap().key,
                    Some(key(number))
                );
            }
        }
        let fault = document.invocation_method("#embedded-elsewhere");
        assert_eq!(fault, Err(MethodFault::NotFound));
        assert_eq!(
            document.invocation_method(""),
            Err(MethodFault::Unauthorized)
        );
        assert_eq!(
            document.invocation_method("second"),
            Err(MethodFault::Unauthorized)
        );
    }
}
