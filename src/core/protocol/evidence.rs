//! Evidence: what makes a blame more than a claim (DESIGN §4 "Evidence", rule 7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{Label, Round};
use super::message::{FallbackSignature, NonceUpdate, Nonces, Partials, Response};
use super::refund_message::RefundPartial;
use crate::hash::{CohortId, SchnorrSignature, array_from_hex, bytes_newtype, tagged_hash, to_hex};
use crate::keys::NostrKey;
use crate::keys::musig::{
    AggregateNonce, KeySet, SessionEntry, SessionHash, session_hash, verify_partial,
};

/// Tag of the evidence hash.
const TAG: &str = "btcr2/evidence/1";

/// A body whose author can be shown to have said it.
///
/// `sig` is the seat key's BIP-340 signature of
/// `taggedhash("btcr2/evidence/1", cohort ‖ type ‖ 0x00 ‖ JCS(content))`. It is absent only between the
/// core, which holds no keys, and the runtime, which signs before anything leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    /// What was said.
    pub content: T,
    /// The signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sig: Option<SchnorrSignature>,
}

/// A body that can be evidence: it has a type name on the wire.
pub trait Evidence: Serialize {
    /// The message type.
    const TYPE: &'static str;
}

impl Evidence for super::message::CohortAck {
    const TYPE: &'static str = "cohort_ack";
}
impl Evidence for Response {
    const TYPE: &'static str = "response";
}
impl Evidence for NonceUpdate {
    const TYPE: &'static str = "nonce_update";
}
impl Evidence for Partials {
    const TYPE: &'static str = "partial_signature";
}
impl Evidence for FallbackSignature {
    const TYPE: &'static str = "fallback_signature";
}

/// The digest a seat signs to stand by `content`.
#[must_use]
#[allow(clippy::expect_used)]
pub fn evidence_digest<T: Evidence>(cohort: &CohortId, content: &T) -> [u8; 32] {
    let canonical = serde_json_canonicalizer::to_vec(content)
        .expect("message bodies have string keys and integers below 2^53 only");
    tagged_hash(
        TAG,
        &[cohort.as_bytes(), T::TYPE.as_bytes(), &[0], &canonical],
    )
}

impl<T: Evidence> Signed<T> {
    /// A body that the runtime has yet to sign.
    #[must_use]
    pub const fn unsigned(content: T) -> Self {
        Self { content, sig: None }
    }

    /// Signs with `sign`, which gets the digest.
    pub fn sign_with(
        &mut self,
        cohort: &CohortId,
        sign: impl FnOnce(&[u8; 32]) -> SchnorrSignature,
    ) {
        self.sig = Some(sign(&evidence_digest(cohort, &self.content)));
    }

    /// Whether `author` stands by it.
    #[must_use]
    pub fn verifies(&self, cohort: &CohortId, author: NostrKey) -> bool {
        self.sig
            .is_some_and(|sig| author.verifies(&evidence_digest(cohort, &self.content), &sig))
    }
}

bytes_newtype!(
    /// The 32-byte digest a signature of a transaction input signs (BIP-341). Text: lower-case hex.
    Sighash, 32, to_hex, array_from_hex
);

/// What a session signs under one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelContext {
    /// The aggregate nonce.
    pub aggregate_nonce: AggregateNonce,
    /// The digest.
    pub sighash: Sighash,
}

/// The session hash of a member with these nonces; `None` when a label lacks a nonce or a context.
#[must_use]
pub fn commitment(
    keys: &KeySet,
    nonces: &Nonces,
    session: &BTreeMap<Label, LabelContext>,
) -> Option<SessionHash> {
    if !nonces.keys().eq(session.keys()) {
        return None;
    }
    let entries: Vec<_> = nonces
        .iter()
        .zip(session.values())
        .map(|((label, nonce), context)| SessionEntry {
            label: *label,
            nonce: *nonce,
            aggregate: context.aggregate_nonce,
            sighash: context.sighash.to_bytes(),
        })
        .collect();
    Some(session_hash(keys, &entries))
}

/// What a member did, with the bodies that show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// A partial signature that does not verify for the session it names.
    BadPartial {
        /// The signed body with nonces, session hash and partial signatures.
        partials: Box<Signed<Partials>>,
        /// Which of them is bad.
        label: Label,
        /// What the session signed, label by label, as the session hash commits to it.
        session: BTreeMap<Label, LabelContext>,
    },
    /// A signature through the k-of-n leaf that does not verify for the digest it names.
    BadFallbackSignature {
        /// The signed body with digests and signatures.
        signature: Box<Signed<FallbackSignature>>,
        /// Which of them is bad.
        input: u8,
    },
    /// A partial signature of a refund that does not verify for the session it names.
    BadRefundPartial {
        /// The signed body with nonce, session hash and partial signature.
        partial: Box<Signed<RefundPartial>>,
        /// What the session signed, as the session hash commits to it.
        session: BTreeMap<Label, LabelContext>,
    },
}

impl Fault {
    /// The name of the fault, as in the protocol.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BadPartial { .. } => "bad_partial",
            Self::BadFallbackSignature { .. } => "bad_fallback_signature",
            Self::BadRefundPartial { .. } => "bad_refund_partial",
        }
    }

    /// The same in words: what was sent.
    #[must_use]
    pub const fn told(&self) -> &'static str {
        match self {
            Self::BadPartial { .. } => "a partial signature that does not verify",
            Self::BadFallbackSignature { .. } => {
                "a signature through the k-of-n leaf that does not verify"
            }
            Self::BadRefundPartial { .. } => "a partial signature of a refund that does not verify",
        }
    }

    /// The round it happened in; none for a refund.
    #[must_use]
    pub const fn round(&self) -> Option<Round> {
        match self {
            Self::BadPartial { partials, .. } => Some(partials.content.round),
            Self::BadFallbackSignature { signature, .. } => Some(signature.content.round),
            Self::BadRefundPartial { .. } => None,
        }
    }
}

/// A member shown to have sent something invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blame {
    /// The member's seat key.
    pub member: NostrKey,
    /// What it did.
    pub fault: Fault,
}

/// Why a blame is not proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlameError {
    /// The signature on the evidence is not the member's.
    #[error("the evidence is not signed by the member")]
    NotSigned,
    /// The member is not in the key set.
    #[error("the accused is not in the key set")]
    NotAMember,
    /// The nonces, aggregate nonce or sighash are not those the member committed to: it may be framed.
    #[error("the evidence is of another session than the one the member signed")]
    OtherSession,
    /// What the member sent is valid.
    #[error("the signature is valid")]
    Valid,
}

impl Blame {
    /// Re-verifies the blame from the signed bodies alone, trusting nobody.
    ///
    /// The member's own `session_hash` fixes which nonces, aggregate nonce and sighash its partial was
    /// made for, so an aggregator that shows others can not frame it.
    pub fn verify(&self, cohort: &CohortId, keys: &KeySet) -> Result<(), BlameError> {
        if !keys.contains(&self.member) {
            return Err(BlameError::NotAMember);
        }
        // Whichever it is: nonces, partial signatures and session hash, and what the session signed.
        let (signed, nonces, partials, hash, label, session) = match &self.fault {
            Fault::BadPartial {
                partials,
                label,
                session,
            } => {
                let content = &partials.content;
                let signed = partials.verifies(cohort, self.member);
                let hash = content.session_hash;
                let (nonces, made) = (&content.nonces, &content.partials);
                (signed, nonces, made, hash, label, session)
            }
            Fault::BadFallbackSignature { signature, input } => {
                return self.verify_fallback(cohort, signature, *input);
            }
            Fault::BadRefundPartial { partial, session } => {
                let content = &partial.content;
                let signed = partial.verifies(cohort, self.member);
                let hash = content.session_hash;
                let (nonces, made) = (&content.nonces, &content.partials);
                (signed, nonces, made, hash, &Label::REFUND, session)
            }
        };
        if !signed {
            return Err(BlameError::NotSigned);
        }
        if commitment(keys, nonces, session) != Some(hash) {
            return Err(BlameError::OtherSession);
        }
        let (Some(nonce), Some(partial), Some(context)) =
            (nonces.get(label), partials.get(label), session.get(label))
        else {
            return Err(BlameError::OtherSession);
        };
        match verify_partial(
            keys,
            &self.member,
            nonce,
            &context.aggregate_nonce,
            context.sighash.as_bytes(),
            partial,
        ) {
            Ok(()) => Err(BlameError::Valid),
            Err(_) => Ok(()),
        }
    }

    fn verify_fallback(
        &self,
        cohort: &CohortId,
        signature: &Signed<FallbackSignature>,
        input: u8,
    ) -> Result<(), BlameError> {
        if !signature.verifies(cohort, self.member) {
            return Err(BlameError::NotSigned);
        }
        let content = &signature.content;
        let input = usize::from(input);
        let (Some(sighash), Some(made)) =
            (content.sighashes.get(input), content.signatures.get(input))
        else {
            return Err(BlameError::OtherSession);
        };
        if self.member.verifies(sighash.as_bytes(), made) {
            return Err(BlameError::Valid);
        }
        Ok(())
    }
}
