//! Applying a signed update to the current document: steps 6 to 8 of the resolve loop
//! (spec.md §3.4), each rule with its own fault.

use serde_json::Value;

use super::datetime::DateTime;
use super::document::{Document, InvalidDocument, MethodFault};
use super::error::{ErrorCode, Rule};
use super::patch::{DocumentPatch, PatchFault};
use super::update::{
    CAPABILITY_ACTION, CRYPTOSUITE, PROOF_PURPOSE, PROOF_TYPE, SignedUpdate, UPDATE_CONTEXT,
    root_capability,
};
use crate::hash::DocumentHash;
use crate::time::UnixTime;

/// How strict [`verify`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Whether a proof without `invocationTarget` is refused, as the specification says since October
    /// 2026. A wrong one is always refused. Only vectors older than that need `false`.
    pub require_invocation_target: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            require_invocation_target: true,
        }
    }
}

/// The rule an update breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateFault {
    /// A version is missing before it.
    #[error(
        "the update leads to version {target}, but the document is at {current}: a version is missing"
    )]
    VersionSkip {
        /// The current version.
        current: u64,
        /// The update's.
        target: u64,
    },
    /// Its version exists already, from another update.
    #[error("the update leads to version {target}, which another update led to already")]
    Duplicate {
        /// The update's version.
        target: u64,
    },
    /// It starts from another document.
    #[error("sourceHash is {claimed}, but the current document has {actual}")]
    SourceHash {
        /// As the update says.
        claimed: DocumentHash,
        /// As it is.
        actual: DocumentHash,
    },
    /// `@context`.
    #[error("@context is not the array that every update has")]
    UpdateContext,
    /// `proof.@context`.
    #[error("proof.@context is not that of the update")]
    ProofContext,
    /// `proof.proofPurpose`.
    #[error("proof.proofPurpose is not {PROOF_PURPOSE:?}")]
    ProofPurpose,
    /// `proof.capabilityAction`.
    #[error("proof.capabilityAction is not {CAPABILITY_ACTION:?}")]
    CapabilityAction,
    /// `proof.capability`.
    #[error("proof.capability is not the root capability of the DID")]
    Capability,
    /// `proof.invocationTarget`.
    #[error("proof.invocationTarget is not the DID")]
    InvocationTarget,
    /// `proof.verificationMethod` is missing, or not one that may update the document.
    #[error("proof.verificationMethod {id:?} can not authorise the update: {fault}")]
    Method {
        /// The method's id; empty when there is none.
        id: String,
        /// Why not.
        #[source]
        fault: MethodFault,
    },
    /// The signature, or something it is made with.
    #[error("the proof does not verify: {0}")]
    NotVerified(&'static str),
    /// `proof.created`.
    #[error("proof.created is no date and time, or is after the time of the block")]
    CreatedAfterBlock,
    /// `proof.expires`, against the chain.
    #[error("proof.expires is no date and time, or is before the block's median time past")]
    ExpiresBeforeMediantime,
    /// `proof.expires`, against `proof.created`.
    #[error("proof.expires is before proof.created")]
    ExpiresBeforeCreated,
    /// The patch.
    #[error(transparent)]
    Patch(#[from] PatchFault),
    /// The patch changes the `id`.
    #[error("the patch changes the document's id")]
    DocumentId,
    /// The patched document.
    #[error("the patched document does not conform: {0}")]
    NotConformant(#[source] InvalidDocument),
    /// It does not lead where it says.
    #[error("targetHash is {claimed}, but the patched document has {actual}")]
    TargetHash {
        /// As the update says.
        claimed: DocumentHash,
        /// As it is.
        actual: DocumentHash,
    },
}

impl UpdateFault {
    /// The rule that is broken.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        match self {
            Self::VersionSkip { .. } => Rule::VersionSkip,
            Self::Duplicate { .. } => Rule::DuplicateHashMismatch,
            Self::SourceHash { .. } => Rule::SourceHashMismatch,
            Self::UpdateContext => Rule::UpdateContextMismatch,
            Self::ProofContext => Rule::ProofContextMismatch,
            Self::ProofPurpose => Rule::ProofPurposeMismatch,
            Self::CapabilityAction => Rule::ProofCapabilityActionMismatch,
            Self::Capability => Rule::ProofCapabilityMismatch,
            Self::InvocationTarget => Rule::ProofInvocationTargetMismatch,
            Self::Method { fault, .. } => match fault {
                MethodFault::Unauthorized => Rule::ProofMethodUnauthorized,
                MethodFault::NotFound => Rule::ProofMethodNotFound,
            },
            Self::NotVerified(_) => Rule::ProofNotVerified,
            Self::CreatedAfterBlock => Rule::ProofCreatedAfterBlock,
            Self::ExpiresBeforeMediantime => Rule::ProofExpiresBeforeMediantime,
            Self::ExpiresBeforeCreated => Rule::ProofExpiresBeforeCreated,
            Self::Patch(_) => Rule::PatchApplyFailure,
            Self::DocumentId => Rule::DocumentIdMismatch,
            Self::NotConformant(_) => Rule::DocumentNotConformant,
            Self::TargetHash { .. } => Rule::TargetHashMismatch,
        }
    }

    /// The error code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.rule().code()
    }
}

/// Applies the update that follows version `version` of `current`, and returns the next document: steps
/// 7 a to d, f and g.
///
/// Step 7 e needs the block: [`check_times`]. An update for a version that exists already belongs to
/// [`confirm_duplicate`]; here it is a [`UpdateFault::Duplicate`]. Nothing follows a deactivated
/// document; the caller stops there.
pub fn verify(
    update: &SignedUpdate,
    current: &Document,
    version: u64,
    options: VerifyOptions,
) -> Result<Document, UpdateFault> {
    let target = update.target_version();
    if target <= version {
        return Err(UpdateFault::Duplicate { target });
    }
    if target - version > 1 {
        let current = version;
        return Err(UpdateFault::VersionSkip { current, target });
    }
    if update.source_hash() != current.hash() {
        return Err(UpdateFault::SourceHash {
            claimed: update.source_hash(),
            actual: current.hash(),
        });
    }
    check_proof(update, current, options)?;
    apply(update, current)
}

/// Step 6: an update for a version that exists already must be the one that led to it. `history` holds
/// the unsigned hashes of the applied updates, that of version 2 first.
pub fn confirm_duplicate(
    update: &SignedUpdate,
    history: &[DocumentHash],
) -> Result<(), UpdateFault> {
    let target = update.target_version();
    let index = target.checked_sub(2).and_then(|i| usize::try_from(i).ok());
    let applied = index.and_then(|i| history.get(i));
    if applied == Some(&update.unsigned_hash()) {
        Ok(())
    } else {
        Err(UpdateFault::Duplicate { target })
    }
}

/// Step 7 e: `created` and `expires`, where the proof has them, against the block of the signal.
/// `block_time` is its header's, `mediantime` its median time past.
pub fn check_times(
    update: &SignedUpdate,
    block_time: UnixTime,
    mediantime: UnixTime,
) -> Result<(), UpdateFault> {
    let time = |name| {
        let member = update.proof().get(name);
        member.map(|value| {
            value
                .as_str()
                .and_then(|text| text.parse::<DateTime>().ok())
        })
    };
    let created = time("created").map(|time| time.ok_or(UpdateFault::CreatedAfterBlock));
    let expires = time("expires").map(|time| time.ok_or(UpdateFault::ExpiresBeforeMediantime));
    let (created, expires) = (created.transpose()?, expires.transpose()?);
    if created.is_some_and(|created| created > block_time.into()) {
        return Err(UpdateFault::CreatedAfterBlock);
    }
    if expires.is_some_and(|expires| expires < mediantime.into()) {
        return Err(UpdateFault::ExpiresBeforeMediantime);
    }
    if created
        .zip(expires)
        .is_some_and(|(created, expires)| expires < created)
    {
        return Err(UpdateFault::ExpiresBeforeCreated);
    }
    Ok(())
}

fn check_proof(
    update: &SignedUpdate,
    current: &Document,
    options: VerifyOptions,
) -> Result<(), UpdateFault> {
    if !is_update_context(update.value()) {
        return Err(UpdateFault::UpdateContext);
    }
    if !is_update_context(update.proof()) {
        return Err(UpdateFault::ProofContext);
    }
    let did = current.id();
    if update.proof_text("proofPurpose") != Some(PROOF_PURPOSE) {
        return Err(UpdateFault::ProofPurpose);
    }
    if update.proof_text("capabilityAction") != Some(CAPABILITY_ACTION) {
        return Err(UpdateFault::CapabilityAction);
    }
    if update.proof_text("capability") != Some(root_capability(did).as_str()) {
        return Err(UpdateFault::Capability);
    }
    let absent = update.proof().get("invocationTarget").is_none();
    let excused = absent && !options.require_invocation_target;
    if !excused && update.proof_text("invocationTarget") != Some(did.as_str()) {
        return Err(UpdateFault::InvocationTarget);
    }
    check_signature(update, current)
}

fn check_signature(update: &SignedUpdate, current: &Document) -> Result<(), UpdateFault> {
    let id = update.proof_text("verificationMethod").unwrap_or_default();
    let found = current.invocation_method(id);
    let method = found.map_err(|fault| UpdateFault::Method {
        id: id.to_owned(),
        fault,
    })?;
    if update.proof_text("type") != Some(PROOF_TYPE) {
        return Err(UpdateFault::NotVerified("type is not DataIntegrityProof"));
    }
    if update.proof_text("cryptosuite") != Some(CRYPTOSUITE) {
        return Err(UpdateFault::NotVerified(
            "cryptosuite is not bip340-jcs-2025",
        ));
    }
    let key = method.key.ok_or(UpdateFault::NotVerified(
        "the verification method is no secp256k1 Multikey",
    ))?;
    let signature = update.signature().ok_or(UpdateFault::NotVerified(
        "proofValue is not \"z\" and 64 bytes of base58btc",
    ))?;
    let message = secp256k1::Message::from_digest(update.signing_hash());
    secp256k1::SECP256K1
        .verify_schnorr(&signature, &message, &key.x_only_public_key().0)
        .map_err(|_| UpdateFault::NotVerified("the signature is not the verification method's"))
}

fn apply(update: &SignedUpdate, current: &Document) -> Result<Document, UpdateFault> {
    let patch = update.value().get("patch").cloned().unwrap_or_default();
    let patched = DocumentPatch::from_normal(patch)?.apply(current.value())?;
    if patched.get("id").and_then(Value::as_str) != Some(current.id().as_str()) {
        return Err(UpdateFault::DocumentId);
    }
    let target = Document::from_normal(patched).map_err(UpdateFault::NotConformant)?;
    if update.target_hash() != target.hash() {
        return Err(UpdateFault::TargetHash {
            claimed: update.target_hash(),
            actual: target.hash(),
        });
    }
    Ok(target)
}

/// Whether an object's `@context` is the pinned array.
fn is_update_context(object: &Value) -> bool {
    let context = object.get("@context").and_then(Value::as_array);
    context.is_some_and(|context| {
        context
            .iter()
            .map(Value::as_str)
            .eq(UPDATE_CONTEXT.map(Some))
    })
}
