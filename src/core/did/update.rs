//! Unsigned and signed updates (spec.md §2.2, §2.3, §3.1, §3.2).

use std::fmt;
use std::sync::Arc;

use secp256k1::{Keypair, SECP256K1, XOnlyPublicKey, schnorr};
use serde_json::{Value, json};

use super::document::{Document, InvalidDocument, MethodFault};
use super::error::ErrorCode;
use super::identifier::Did;
use super::json::{self, JsonError};
use super::patch::{DocumentPatch, PatchFault};
use crate::hash::{DocumentHash, ParseHashError, SchnorrSignature, UpdateHash, sha256};
use crate::keys::{NostrKey, OwnKey};

/// The `@context` of every update and of its proof: exactly these, in this order (spec.md §2.2).
pub const UPDATE_CONTEXT: [&str; 4] = [
    "https://w3id.org/json-ld-patch/v1",
    "https://w3id.org/zcap/v1",
    "https://w3id.org/security/data-integrity/v2",
    "https://btcr2.dev/context/v1",
];

pub(super) const PROOF_TYPE: &str = "DataIntegrityProof";
pub(super) const CRYPTOSUITE: &str = "bip340-jcs-2025";
pub(super) const PROOF_PURPOSE: &str = "capabilityInvocation";
pub(super) const CAPABILITY_ACTION: &str = "Write";

/// JSON integers above are not exact (2^53).
const MAX_VERSION: u64 = 1 << 53;

/// An update that is not signed yet: it applies, keeps the `id`, and leads to a conformant document.
#[derive(Debug, Clone)]
pub struct UnsignedUpdate {
    source: Document,
    target: Document,
    target_version: u64,
    value: Value,
}

/// Why no update can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// The source is deactivated.
    #[error("the DID is deactivated and can not be updated any more")]
    Deactivated,
    /// The source version is zero, or not exact in JSON.
    #[error("{0} is no version of a DID document; a fresh resolution gives it, from 1")]
    Version(u64),
    /// The patch is malformed or does not apply.
    #[error(transparent)]
    Patch(#[from] PatchFault),
    /// The patch changes the document's `id`.
    #[error("the patch changes the document's id")]
    IdChanged,
    /// The patched document does not conform.
    #[error("the patched document does not conform: {0}")]
    NotConformant(InvalidDocument),
}

/// Why an update can not be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The method may not sign updates of the source document.
    #[error("the verification method {id:?} can not sign an update: {fault}")]
    Method {
        /// The method's id.
        id: String,
        /// Why not.
        #[source]
        fault: MethodFault,
    },
    /// The method is no secp256k1 Multikey.
    #[error(
        "the verification method {0:?} is no secp256k1 Multikey, the only kind that signs updates"
    )]
    NotMultikey(String),
    /// The signing key is not the method's.
    #[error("the key that signs is not the key of the verification method {0:?}")]
    OtherKey(String),
    /// The signature is not one of the method's key over this update.
    #[error("the signature does not verify with the key of the verification method {0:?}")]
    Signature(String),
}

impl UnsignedUpdate {
    /// Applies `patch` to `source`, which is version `source_version` (1 is the initial document).
    ///
    /// The version must come from a fresh resolution, not from a counter: a wrong one can kill the DID
    /// (spec.md §3.2).
    pub fn new(
        source: &Document,
        source_version: u64,
        patch: &DocumentPatch,
    ) -> Result<Self, UpdateError> {
        if source.is_deactivated() {
            return Err(UpdateError::Deactivated);
        }
        if source_version == 0 || source_version >= MAX_VERSION {
            return Err(UpdateError::Version(source_version));
        }
        let patched = patch.apply(source.value())?;
        if patched.get("id").and_then(Value::as_str) != Some(source.id().as_str()) {
            return Err(UpdateError::IdChanged);
        }
        let target = Document::from_value(&patched).map_err(UpdateError::NotConformant)?;
        let target_version = source_version + 1;
        let value = json!({
            "@context": UPDATE_CONTEXT,
            "patch": patch.value(),
            "sourceHash": source.hash(),
            "targetHash": target.hash(),
            "targetVersionId": target_version,
        });
        Ok(Self {
            source: source.clone(),
            target,
            target_version,
            value,
        })
    }

    /// The JSON.
    #[must_use]
    pub const fn value(&self) -> &Value {
        &self.value
    }

    /// The document it leads to.
    #[must_use]
    pub const fn target(&self) -> &Document {
        &self.target
    }

    /// The version it leads to.
    #[must_use]
    pub const fn target_version(&self) -> u64 {
        self.target_version
    }

    /// Its JSON document hash, which the history of a DID keeps.
    #[must_use]
    pub fn hash(&self) -> DocumentHash {
        json::document_hash(&self.value)
    }

    /// Signs with a method of the *source* document, given by its id (absolute, or like `#initialKey`).
    pub fn sign(self, key: &OwnKey, method: &str) -> Result<SignedUpdate, SignError> {
        let request = self.to_sign(method)?;
        request.require_key(key.public().x_only())?;
        let signature = key.sign_digest(&request.digest());
        request.finish(&signature)
    }

    /// Like [`Self::sign`], with the auxiliary randomness of BIP-340 given: the same input gives the same
    /// proof.
    pub fn sign_with_aux(
        self,
        key: &Keypair,
        method: &str,
        aux_rand: &[u8; 32],
    ) -> Result<SignedUpdate, SignError> {
        let request = self.to_sign(method)?;
        request.require_key(key.x_only_public_key().0)?;
        let message = secp256k1::Message::from_digest(request.digest());
        let signature = SECP256K1.sign_schnorr_with_aux_rand(&message, key, aux_rand);
        request.finish(&SchnorrSignature::from_bytes(signature.serialize()))
    }

    /// Prepares what a signer elsewhere signs.
    pub fn to_sign(self, method: &str) -> Result<UpdateToSign, SignError> {
        let id = self.source.absolute(method);
        let found = self.source.invocation_method(&id);
        let method = found.map_err(|fault| SignError::Method {
            id: id.clone(),
            fault,
        })?;
        let key = method
            .key
            .ok_or_else(|| SignError::NotMultikey(id.clone()))?;
        let did = self.source.id();
        let proof = json!({
            "@context": UPDATE_CONTEXT,
            "type": PROOF_TYPE,
            "cryptosuite": CRYPTOSUITE,
            "verificationMethod": id,
            "proofPurpose": PROOF_PURPOSE,
            "capability": root_capability(did),
            "capabilityAction": CAPABILITY_ACTION,
            "invocationTarget": did,
        });
        Ok(UpdateToSign {
            digest: signing_hash(&self.value, &proof),
            key: key.x_only_public_key().0,
            method: id,
            update: self.value,
            proof,
        })
    }
}

/// An update with everything but its signature.
#[derive(Debug, Clone)]
pub struct UpdateToSign {
    update: Value,
    proof: Value,
    method: String,
    key: XOnlyPublicKey,
    digest: [u8; 32],
}

impl UpdateToSign {
    /// The 32 bytes to sign with BIP-340 (spec.md §3.1).
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The x-only key that has to sign.
    #[must_use]
    pub const fn key(&self) -> XOnlyPublicKey {
        self.key
    }

    /// Adds the signature, if it verifies.
    pub fn finish(mut self, signature: &SchnorrSignature) -> Result<SignedUpdate, SignError> {
        if !NostrKey::new(self.key).verifies(&self.digest, signature) {
            return Err(SignError::Signature(self.method));
        }
        let text = bs58::encode(signature.as_bytes()).into_string();
        insert(
            &mut self.proof,
            "proofValue",
            Value::String(format!("z{text}")),
        );
        insert(&mut self.update, "proof", self.proof);
        #[allow(clippy::expect_used)]
        let signed = SignedUpdate::from_normal(self.update).expect("it was built from valid parts");
        Ok(signed)
    }

    fn require_key(&self, key: XOnlyPublicKey) -> Result<(), SignError> {
        if key == self.key {
            Ok(())
        } else {
            Err(SignError::OtherKey(self.method.clone()))
        }
    }
}

fn insert(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

/// A copy of an object without one member.
pub(super) fn without(object: &Value, name: &str) -> Value {
    let members = object.as_object().into_iter().flatten();
    members
        .filter(|(member, _)| *member != name)
        .map(|(member, value)| (member.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// `SHA-256(JDH(proof without proofValue) ‖ JDH(update without proof))` (spec.md §3.1).
pub(super) fn signing_hash(update: &Value, proof: &Value) -> [u8; 32] {
    let (proof, update) = (json::document_hash(proof), json::document_hash(update));
    sha256(&[*proof.as_bytes(), *update.as_bytes()].concat())
}

/// The root capability to write a DID's document: `urn:zcap:root:` and the DID as
/// `encodeURIComponent` writes it, of whose characters only `:` changes.
#[must_use]
pub fn root_capability(did: &Did) -> String {
    format!("urn:zcap:root:{}", did.as_str().replace(':', "%3A"))
}

/// A signed update whose parts are well-formed. That it is *valid* only [`super::verify()`] says.
///
/// Kept exactly as parsed, unknown members too, for they count in its hash. Cloning copies a pointer.
#[derive(Clone)]
pub struct SignedUpdate(Arc<Inner>);

struct Inner {
    value: Value,
    unsigned: Value,
    source_hash: DocumentHash,
    target_hash: DocumentHash,
    target_version: u64,
    hash: UpdateHash,
    unsigned_hash: DocumentHash,
}

/// Why JSON is not a signed update. The code is always INVALID_DID_UPDATE.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUpdate {
    /// Not JSON, or JSON two readers could understand differently.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// An update is an object.
    #[error("the update is not a JSON object")]
    NotAnObject,
    /// `patch` is missing or no array.
    #[error("patch is not an array")]
    Patch,
    /// `proof` is missing or no object.
    #[error("proof is not an object")]
    Proof,
    /// `sourceHash` or `targetHash` is missing or not 32 bytes of base64url.
    #[error("{name} is not a hash: {error}")]
    Hash {
        /// The member.
        name: &'static str,
        /// What is wrong with it.
        error: ParseHashError,
    },
    /// `targetVersionId` is missing, not an integer, or below 2.
    #[error("targetVersionId is not an integer from 2 on")]
    TargetVersion,
}

impl InvalidUpdate {
    /// The error code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidDidUpdate
    }
}

impl SignedUpdate {
    /// Parses a signed update.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidUpdate> {
        Self::from_normal(json::parse_strict(text)?)
    }

    /// Reads a signed update from JSON in memory.
    pub fn from_value(value: &Value) -> Result<Self, InvalidUpdate> {
        Self::parse(json::canonical_bytes(value))
    }

    fn from_normal(value: Value) -> Result<Self, InvalidUpdate> {
        let object = value.as_object().ok_or(InvalidUpdate::NotAnObject)?;
        if !object.get("patch").is_some_and(Value::is_array) {
            return Err(InvalidUpdate::Patch);
        }
        if !object.get("proof").is_some_and(Value::is_object) {
            return Err(InvalidUpdate::Proof);
        }
        let hash = |name| {
            let text = object.get(name).and_then(Value::as_str).unwrap_or_default();
            let parsed = text.parse::<DocumentHash>();
            parsed.map_err(|error| InvalidUpdate::Hash { name, error })
        };
        let (source_hash, target_hash) = (hash("sourceHash")?, hash("targetHash")?);
        let target_version = object
            .get("targetVersionId")
            .and_then(Value::as_u64)
            .filter(|version| (2..=MAX_VERSION).contains(version))
            .ok_or(InvalidUpdate::TargetVersion)?;
        let unsigned = without(&value, "proof");
        Ok(Self(Arc::new(Inner {
            hash: UpdateHash::from_bytes(json::document_hash(&value).to_bytes()),
            unsigned_hash: json::document_hash(&unsigned),
            unsigned,
            source_hash,
            target_hash,
            target_version,
            value,
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

    /// What a beacon announces: the JSON document hash, proof included.
    #[must_use]
    pub fn hash(&self) -> UpdateHash {
        self.0.hash
    }

    /// The JSON document hash without the top-level `proof`, by which duplicates are known.
    #[must_use]
    pub fn unsigned_hash(&self) -> DocumentHash {
        self.0.unsigned_hash
    }

    /// The hash of the document it starts from.
    #[must_use]
    pub fn source_hash(&self) -> DocumentHash {
        self.0.source_hash
    }

    /// The hash of the document it leads to.
    #[must_use]
    pub fn target_hash(&self) -> DocumentHash {
        self.0.target_hash
    }

    /// The version it leads to, at least 2.
    #[must_use]
    pub fn target_version(&self) -> u64 {
        self.0.target_version
    }

    /// A member of the proof that is a string.
    pub(super) fn proof_text(&self, name: &str) -> Option<&str> {
        self.proof().get(name).and_then(Value::as_str)
    }

    pub(super) fn proof(&self) -> &Value {
        self.0.value.get("proof").unwrap_or(&Value::Null)
    }

    /// The 32 bytes the proof signs.
    pub(super) fn signing_hash(&self) -> [u8; 32] {
        signing_hash(&self.0.unsigned, &without(self.proof(), "proofValue"))
    }

    /// The proof's signature: `z`, base58btc, exactly 64 bytes.
    pub(super) fn signature(&self) -> Option<schnorr::Signature> {
        // Base58 decoding takes quadratic time; 64 bytes are at most 88 characters.
        let text = self
            .proof_text("proofValue")
            .filter(|text| text.len() <= 89)?;
        let bytes = bs58::decode(text.strip_prefix('z')?).into_vec().ok()?;
        schnorr::Signature::from_slice(&bytes).ok()
    }
}

impl PartialEq for SignedUpdate {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for SignedUpdate {}

impl fmt::Debug for SignedUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            target_version,
            hash,
            ..
        } = &*self.0;
        write!(f, "SignedUpdate(to version {target_version}, hash {hash})")
    }
}

impl serde::Serialize for SignedUpdate {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.value.serialize(s)
    }
}
