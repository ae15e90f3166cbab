//! What a DID document must look like, read once into typed parts (spec.md §2.1; DID Core 1.1).
//!
//! Only what the data model requires is checked; members this program does not know are left alone.

use std::collections::BTreeSet;

use bitcoin::address::NetworkUnchecked;
use secp256k1::PublicKey;
use serde_json::{Map, Value};

use super::document::{BeaconKind, InvalidDocument};
use super::multikey;

/// The contexts every did:btcr2 document names, in the order in which it is written here.
pub(super) const DOCUMENT_CONTEXT: [&str; 2] = [
    "https://www.w3.org/ns/did/v1.1",
    "https://btcr2.dev/context/v1",
];

/// The verification relationships of DID Core.
const RELATIONSHIPS: [&str; 5] = [
    "authentication",
    "assertionMethod",
    "keyAgreement",
    "capabilityInvocation",
    "capabilityDelegation",
];

/// A verification method, with its id made absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerificationMethod {
    /// The absolute DID URL.
    pub id: String,
    /// The key, when the method is a secp256k1 Multikey; only such a one can sign updates.
    pub key: Option<PublicKey>,
}

/// An entry of `capabilityInvocation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Invocation {
    /// An absolute DID URL.
    Reference(String),
    Embedded(VerificationMethod),
}

/// A beacon service whose address was not yet matched with a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UncheckedBeacon {
    pub id: String,
    pub path: String,
    pub kind: BeaconKind,
    pub address: bitcoin::Address<NetworkUnchecked>,
}

/// The parts of a document that this method needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub methods: Vec<VerificationMethod>,
    pub invocations: Vec<Invocation>,
    pub beacons: Vec<UncheckedBeacon>,
    pub deactivated: bool,
}

/// Makes a DID URL absolute: `#key` means the document's own `subject#key`.
pub(super) fn absolute(subject: &str, url: &str) -> String {
    if url.starts_with(['#', '?', '/']) {
        format!("{subject}{url}")
    } else {
        url.to_owned()
    }
}

/// Reads a document whose `id` is `subject`.
pub(super) fn read(value: &Value, subject: &str) -> Result<Parts, InvalidDocument> {
    let document = value.as_object().ok_or(InvalidDocument::NotAnObject)?;
    check_context(document)?;
    check_strings(document, "controller", true)?;
    check_strings(document, "alsoKnownAs", false)?;
    let deactivated = match document.get("deactivated") {
        None => false,
        Some(Value::Bool(value)) => *value,
        Some(_) => return Err(member("deactivated", "true or false")),
    };
    Ok(Parts {
        methods: read_methods(document, subject)?,
        invocations: read_relationships(document, subject)?,
        beacons: read_services(document, subject)?,
        deactivated,
    })
}

fn check_context(document: &Map<String, Value>) -> Result<(), InvalidDocument> {
    let context = array(document, "@context")?.ok_or(InvalidDocument::Context)?;
    if !context.iter().all(|c| c.is_string() || c.is_object()) {
        return Err(member("@context", "an array of strings and objects"));
    }
    let names = |url: &&str| context.iter().any(|c| c.as_str() == Some(*url));
    if DOCUMENT_CONTEXT.iter().all(names) {
        Ok(())
    } else {
        Err(InvalidDocument::Context)
    }
}

fn check_strings(
    document: &Map<String, Value>,
    name: &str,
    single: bool,
) -> Result<(), InvalidDocument> {
    match document.get(name) {
        None => Ok(()),
        Some(Value::String(_)) if single => Ok(()),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => Ok(()),
        Some(_) if single => Err(member(name, "a string or an array of strings")),
        Some(_) => Err(member(name, "an array of strings")),
    }
}

fn read_methods(
    document: &Map<String, Value>,
    subject: &str,
) -> Result<Vec<VerificationMethod>, InvalidDocument> {
    let mut ids = BTreeSet::new();
    let mut methods = Vec::new();
    for (i, item) in array(document, "verificationMethod")?
        .into_iter()
        .flatten()
        .enumerate()
    {
        let path = format!("verificationMethod[{i}]");
        let method = read_method(item, &path, subject)?;
        if !ids.insert(method.id.clone()) {
            return Err(InvalidDocument::RepeatedId {
                path,
                id: method.id,
            });
        }
        methods.push(method);
    }
    Ok(methods)
}

fn read_method(
    item: &Value,
    path: &str,
    subject: &str,
) -> Result<VerificationMethod, InvalidDocument> {
    let object = item.as_object().ok_or_else(|| member(path, "an object"))?;
    let id = string(object, path, "id")?;
    let kind = string(object, path, "type")?;
    string(object, path, "controller")?;
    let key = object
        .get("publicKeyMultibase")
        .and_then(Value::as_str)
        .filter(|_| kind == "Multikey")
        .and_then(|text| multikey::decode(text).ok());
    Ok(VerificationMethod {
        id: absolute(subject, id),
        key,
    })
}

/// Checks every relationship and returns the entries of `capabilityInvocation`.
fn read_relationships(
    document: &Map<String, Value>,
    subject: &str,
) -> Result<Vec<Invocation>, InvalidDocument> {
    let mut invocations = Vec::new();
    for name in RELATIONSHIPS {
        for (i, item) in array(document, name)?.into_iter().flatten().enumerate() {
            let entry = match item {
                Value::String(reference) => Invocation::Reference(absolute(subject, reference)),
                _ => Invocation::Embedded(read_method(item, &format!("{name}[{i}]"), subject)?),
            };
            if name == "capabilityInvocation" {
                invocations.push(entry);
            }
        }
    }
    Ok(invocations)
}

fn read_services(
    document: &Map<String, Value>,
    subject: &str,
) -> Result<Vec<UncheckedBeacon>, InvalidDocument> {
    let mut ids = BTreeSet::new();
    let mut beacons = Vec::new();
    for (i, item) in array(document, "service")?
        .into_iter()
        .flatten()
        .enumerate()
    {
        let path = format!("service[{i}]");
        let service = item.as_object().ok_or_else(|| member(&path, "an object"))?;
        let id = match service.get("id") {
            None => None,
            Some(Value::String(id)) => Some(absolute(subject, id)),
            Some(_) => return Err(member(format!("{path}.id"), "a string")),
        };
        if let Some(id) = &id
            && !ids.insert(id.clone())
        {
            let id = id.clone();
            return Err(InvalidDocument::RepeatedId { path, id });
        }
        let kind = match service.get("type") {
            Some(Value::String(kind)) => BeaconKind::from_name(kind),
            Some(Value::Array(kinds)) if kinds.iter().all(Value::is_string) => None,
            _ => {
                return Err(member(
                    format!("{path}.type"),
                    "a string or an array of strings",
                ));
            }
        };
        let endpoint = match service.get("serviceEndpoint") {
            Some(endpoint @ (Value::String(_) | Value::Object(_) | Value::Array(_))) => endpoint,
            _ => {
                let path = format!("{path}.serviceEndpoint");
                return Err(member(path, "a string, an object or an array"));
            }
        };
        if let Some(kind) = kind {
            let id = id.ok_or_else(|| member(format!("{path}.id"), "a string"))?;
            let address = endpoint
                .as_str()
                .and_then(parse_endpoint)
                .ok_or_else(|| InvalidDocument::Endpoint { path: path.clone() })?;
            beacons.push(UncheckedBeacon {
                id,
                path,
                kind,
                address,
            });
        }
    }
    Ok(beacons)
}

/// `bitcoin:<address>`, with or without BIP-321 parameters.
fn parse_endpoint(endpoint: &str) -> Option<bitcoin::Address<NetworkUnchecked>> {
    let (scheme, rest) = endpoint.split_once(':')?;
    let address = rest.split_once('?').map_or(rest, |(address, _)| address);
    scheme
        .eq_ignore_ascii_case("bitcoin")
        .then(|| address.parse().ok())?
}

fn array<'a>(
    object: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a Vec<Value>>, InvalidDocument> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(member(name, "an array")),
    }
}

fn string<'a>(
    object: &'a Map<String, Value>,
    path: &str,
    name: &str,
) -> Result<&'a str, InvalidDocument> {
    object
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| member(format!("{path}.{name}"), "a string"))
}

fn member(path: impl Into<String>, expected: &'static str) -> InvalidDocument {
    InvalidDocument::Member {
        path: path.into(),
        expected,
    }
}
