//! `create`: from genesis bytes or a genesis document to the DID and its initial document.

use secp256k1::PublicKey;
use serde_json::Value;

use super::set::Case;
use super::{Ended, difference};
use crate::did::{Did, GenesisDocument, IdKind, initial_key_document};
use crate::hash::{DocumentHash, from_hex};
use crate::network::Network;

pub(super) fn check(case: &Case) -> Ended {
    let (input, output) = match case.files() {
        Ok(files) => files,
        Err(ended) => return ended,
    };
    let expected = output.get("did").or_else(|| output.get("id"));
    let Some(expected) = expected.and_then(Value::as_str).or_else(|| output.as_str()) else {
        return Ended::skipped("-", "output.json names no did");
    };
    let genesis = input.get("genesisDocument");
    let made = match make(input, genesis) {
        Ok(did) => did,
        Err(Unmade::Unknown(why)) => return Ended::skipped(short(expected), why),
        Err(Unmade::Wrong(why)) => return Ended::failed(short(expected), why),
    };
    let mut problems = Vec::new();
    if made.as_str() != expected {
        problems.push(format!("the DID is {made} instead of {expected}"));
    }
    let document = ["didDocument", "initialDocument", "initialDidDocument"];
    if let Some(expected) = document.iter().find_map(|name| output.get(name)) {
        match initial_document(&made, genesis) {
            Ok(Some(made)) => {
                if let Some(path) = difference(expected, &made) {
                    problems.push(format!("the initial document differs at {path:?}"));
                }
            }
            Ok(None) => {
                return Ended::skipped(short(made.as_str()), "input.json has no genesisDocument");
            }
            Err(why) => problems.push(why),
        }
    }
    Ended::new(short(expected), short(made.as_str()), &problems)
}

enum Unmade {
    /// The input is not of a form known here.
    Unknown(String),
    /// It is, and is refused.
    Wrong(String),
}

fn make(input: &Value, genesis: Option<&Value>) -> Result<Did, Unmade> {
    let text = |name: &str| input.get(name).and_then(Value::as_str);
    let unknown = |why: &str| Unmade::Unknown(why.to_owned());
    let network: Network = text("network")
        .ok_or_else(|| unknown("input.json names no network"))?
        .parse()
        .map_err(|_| unknown("input.json names a network that is not known here"))?;
    let version = input.get("version").and_then(Value::as_u64);
    if version.is_some_and(|version| version != 1) {
        return Err(unknown("only version 1 of the identifier is known"));
    }
    let from_document = || {
        let genesis = genesis.ok_or_else(|| unknown("input.json has no genesisBytes"))?;
        let genesis = GenesisDocument::from_value(genesis)
            .map_err(|error| Unmade::Wrong(error.to_string()))?;
        Ok(genesis.did(network))
    };
    let Some(bytes) = text("genesisBytes") else {
        return from_document();
    };
    let bytes = from_hex(bytes).map_err(|error| Unmade::Wrong(format!("genesisBytes: {error}")))?;
    let by_length = match bytes.len() {
        33 => "KEY",
        _ => "EXTERNAL",
    };
    let did = match text("idType").unwrap_or(by_length) {
        "KEY" => {
            let key = PublicKey::from_slice(&bytes)
                .map_err(|error| Unmade::Wrong(format!("genesisBytes: {error}")))?;
            Did::from_key(network, &key)
        }
        "EXTERNAL" => {
            let hash: [u8; 32] = bytes
                .try_into()
                .map_err(|_| Unmade::Wrong("genesisBytes is not a hash".to_owned()))?;
            Did::from_genesis(network, DocumentHash::from_bytes(hash))
        }
        _ => return Err(unknown("idType is neither KEY nor EXTERNAL")),
    };
    if genesis.is_some() && from_document()? != did {
        return Err(Unmade::Wrong(
            "genesisBytes is not the hash of genesisDocument".to_owned(),
        ));
    }
    Ok(did)
}

/// The initial document, `None` if it takes a genesis document that is not there.
fn initial_document(did: &Did, genesis: Option<&Value>) -> Result<Option<Value>, String> {
    if let IdKind::Key(_) = did.kind() {
        return Ok(initial_key_document(did).map(|document| document.value().clone()));
    }
    let Some(genesis) = genesis else {
        return Ok(None);
    };
    let document = GenesisDocument::from_value(genesis)
        .and_then(|genesis| genesis.document(did.network()))
        .map_err(|error| error.to_string())?;
    Ok(Some(document.value().clone()))
}

/// The beginning of a DID.
fn short(did: &str) -> String {
    match did.get(..24) {
        Some(start) => format!("{start}…"),
        None => did.to_owned(),
    }
}
