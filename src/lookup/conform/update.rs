//! `update`: from a document and patches to the signed update.
//!
//! A BIP-340 signature is randomised, so that the bytes of two signed updates differ. What is compared is all that
//! is signed; the recorded proof has to verify, and so has one made here with the same key.

use secp256k1::{Keypair, SECP256K1, SecretKey};
use serde_json::Value;

use super::Ended;
use super::set::{Case, Set};
use crate::did::update::UpdateError;
use crate::did::{Document, DocumentPatch, SignedUpdate, UnsignedUpdate, VerifyOptions, verify};
use crate::hash::array_from_hex;
use crate::resolver::Strictness;

pub(super) fn check(set: &Set, case: &Case, strictness: Strictness) -> Ended {
    let (input, output) = match case.files() {
        Ok(files) => files,
        Err(ended) => return ended,
    };
    let Some(recorded) = signed_update(output) else {
        return Ended::skipped("-", "output.json has no signedUpdate");
    };
    let version = recorded.get("targetVersionId").and_then(Value::as_u64);
    let expected = match version {
        Some(version) => format!("update to version {version}"),
        None => "update".to_owned(),
    };
    let made = match make(input) {
        Ok(made) => made,
        Err(Unmade::Unknown(why)) => return Ended::skipped(expected, why),
        Err(Unmade::Wrong(_)) if set.is_negative() => {
            return Ended::skipped(expected, "the update is wrong on purpose");
        }
        Err(Unmade::Wrong(why)) => return Ended::failed(expected, why),
    };
    let got = format!("update to version {}", made.unsigned.target_version());
    let mut problems = differences(made.unsigned.value(), recorded);
    if let Err(why) = verified(recorded, &made, strictness.verify) {
        problems.push(format!("the recorded update: {why}"));
    }
    if let Err(why) = sign(&made) {
        problems.push(format!("an update signed here: {why}"));
    }
    if !problems.is_empty() && set.is_negative() {
        let why = format!("the update is wrong on purpose: {}", problems.join("; "));
        return Ended::skipped(expected, why);
    }
    Ended::new(expected, got, &problems)
}

/// The signed update of an output.
pub(super) fn signed_update(output: &Value) -> Option<&Value> {
    let wrapped = ["signedUpdate", "update", "didUpdateSigned"];
    let found = wrapped.iter().find_map(|name| output.get(name));
    found
        .or(Some(output))
        .filter(|update| update.get("targetVersionId").is_some())
}

/// An update made from an input, and what it takes to sign it.
struct Made {
    source: Document,
    version: u64,
    unsigned: UnsignedUpdate,
    method: String,
    key: Option<Keypair>,
}

enum Unmade {
    Unknown(String),
    Wrong(String),
}

fn make(input: &Value) -> Result<Made, Unmade> {
    let member = |name: &'static str| {
        let found = input.get(name);
        found.ok_or_else(|| Unmade::Unknown(format!("input.json has no {name}")))
    };
    let source = Document::from_value(member("sourceDocument")?)
        .map_err(|error| Unmade::Wrong(format!("sourceDocument: {error}")))?;
    let patch = match input.get("patches").or_else(|| input.get("patch")) {
        Some(patch) => DocumentPatch::from_value(patch),
        None => return Err(Unmade::Unknown("input.json has no patches".to_owned())),
    };
    let patch = patch.map_err(|error| Unmade::Wrong(error.to_string()))?;
    let version = member("sourceVersionId")?;
    let version = version
        .as_u64()
        .or_else(|| version.as_str()?.parse().ok())
        .ok_or_else(|| Unmade::Unknown("sourceVersionId is no version".to_owned()))?;
    let unsigned = UnsignedUpdate::new(&source, version, &patch).map_err(|error| match error {
        // A set may have one, to show that nothing follows a deactivation.
        UpdateError::Deactivated => Unmade::Unknown(error.to_string()),
        error => Unmade::Wrong(error.to_string()),
    })?;
    let method = member("verificationMethodId")?
        .as_str()
        .ok_or_else(|| Unmade::Unknown("verificationMethodId is no text".to_owned()))?;
    let key = input.get("signingMaterial").and_then(Value::as_str);
    let key = key.and_then(|hex| array_from_hex::<32>(hex).ok());
    let key = key.and_then(|bytes| SecretKey::from_slice(&bytes).ok());
    Ok(Made {
        source,
        version,
        unsigned,
        method: method.to_owned(),
        key: key.map(|key| Keypair::from_secret_key(SECP256K1, &key)),
    })
}

/// The members in which a recorded update differs from one made here, apart from the proof.
fn differences(made: &Value, recorded: &Value) -> Vec<String> {
    let names = |value: &Value| -> Vec<String> {
        let members = value.as_object().into_iter().flatten();
        members.map(|(name, _)| name.clone()).collect()
    };
    let mut all = names(made);
    all.extend(names(recorded));
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .filter(|name| name != "proof" && made.get(name) != recorded.get(name))
        .map(|name| format!("{name} differs"))
        .collect()
}

fn verified(recorded: &Value, made: &Made, options: VerifyOptions) -> Result<(), String> {
    let update = SignedUpdate::from_value(recorded).map_err(|error| error.to_string())?;
    let document = verify(&update, &made.source, made.version, options);
    let document = document.map_err(|fault| format!("{fault} ({})", fault.rule()))?;
    if document == *made.unsigned.target() {
        Ok(())
    } else {
        Err("it leads to another document".to_owned())
    }
}

/// Signs with the key of the input, if it has one.
fn sign(made: &Made) -> Result<(), String> {
    let Some(key) = &made.key else {
        return Ok(());
    };
    // The proof is thrown away: no randomness is needed.
    let signed = made
        .unsigned
        .clone()
        .sign_with_aux(key, &made.method, &[0; 32]);
    let signed = signed.map_err(|error| error.to_string())?;
    verify(
        &signed,
        &made.source,
        made.version,
        VerifyOptions::default(),
    )
    .map(|_| ())
    .map_err(|fault| fault.to_string())
}
