//! The error codes of did:btcr2 and the rules that raise them (spec.md §2.8).

use std::fmt;

/// An error code as a resolver reports it in `didResolutionMetadata.error`. All of them are fatal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The identifier is malformed, or a genesis document does not hash to it.
    InvalidDid,
    /// A DID document does not conform.
    InvalidDidDocument,
    /// An update is malformed, not authorised, or does not lead where it says.
    InvalidDidUpdate,
    /// The data behind a beacon signal contradicts the signal.
    InvalidSignalData,
    /// Two updates claim one version, or a version is missing.
    LatePublishing,
    /// The data behind a beacon signal was not supplied.
    MissingUpdateData,
    /// There is no such DID, or no such version of it.
    NotFound,
    /// The resolution options are malformed or contradict each other.
    InvalidOptions,
    /// The resolver failed; nothing is said about the DID.
    InternalError,
}

impl ErrorCode {
    /// The code's text, as in the specification.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidDid => "INVALID_DID",
            Self::InvalidDidDocument => "INVALID_DID_DOCUMENT",
            Self::InvalidDidUpdate => "INVALID_DID_UPDATE",
            Self::InvalidSignalData => "INVALID_SIGNAL_DATA",
            Self::LatePublishing => "LATE_PUBLISHING",
            Self::MissingUpdateData => "MISSING_UPDATE_DATA",
            Self::NotFound => "NOT_FOUND",
            Self::InvalidOptions => "INVALID_OPTIONS",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident, $id:literal, $code:ident;)*) => {
        /// A rule of resolution whose violation makes it fail, by the id that the upstream test
        /// vectors use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The rule's id.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// The error code its violation raises.
            #[must_use]
            pub const fn code(self) -> ErrorCode {
                match self { $(Self::$name => ErrorCode::$code,)* }
            }
        }
    };
}

rules! {
    /// The identifier's bech32m checksum.
    DidChecksumInvalid, "did-checksum-invalid", InvalidDid;
    /// The identifier's padding bits are zero.
    DidPaddingNonzero, "did-padding-nonzero", InvalidDid;
    /// The identifier's network number is assigned.
    DidNetworkReserved, "did-network-reserved", InvalidDid;
    /// The genesis document hashes to the identifier's genesis bytes.
    GenesisHashMismatch, "genesis-hash-mismatch", InvalidDid;
    /// Every announced update can be retrieved.
    UpdateMissing, "update-missing", MissingUpdateData;
    /// The update's `@context` is the pinned array.
    UpdateContextMismatch, "update-context-mismatch", InvalidDidUpdate;
    /// The proof's `@context` equals the update's.
    ProofContextMismatch, "proof-context-mismatch", InvalidDidUpdate;
    /// `proof.capabilityAction` is `Write`.
    ProofCapabilityActionMismatch, "proof-capability-action-mismatch", InvalidDidUpdate;
    /// `proof.capability` is the root capability of the DID.
    ProofCapabilityMismatch, "proof-capability-mismatch", InvalidDidUpdate;
    /// `proof.invocationTarget` is the DID.
    ProofInvocationTargetMismatch, "proof-invocation-target-mismatch", InvalidDidUpdate;
    /// `proof.proofPurpose` is `capabilityInvocation`.
    ProofPurposeMismatch, "proof-purpose-mismatch", InvalidDidUpdate;
    /// An entry of `capabilityInvocation` names `proof.verificationMethod`.
    ProofMethodUnauthorized, "proof-method-unauthorized", InvalidDidUpdate;
    /// The method which that entry refers to is in `verificationMethod`.
    ProofMethodNotFound, "proof-method-not-found", InvalidDidUpdate;
    /// The signature verifies.
    ProofNotVerified, "proof-not-verified", InvalidDidUpdate;
    /// `sourceHash` is the hash of the current document.
    SourceHashMismatch, "source-hash-mismatch", InvalidDidUpdate;
    /// `targetHash` is the hash of the patched document.
    TargetHashMismatch, "target-hash-mismatch", InvalidDidUpdate;
    /// `targetVersionId` skips no version.
    VersionSkip, "version-skip", LatePublishing;
    /// The patch is well-formed and applies.
    PatchApplyFailure, "patch-apply-failure", InvalidDidUpdate;
    /// The patched document's `id` is the DID.
    DocumentIdMismatch, "document-id-mismatch", InvalidDidUpdate;
    /// The patched document conforms.
    DocumentNotConformant, "document-not-conformant", InvalidDidUpdate;
    /// `proof.created` is not after the block header's time.
    ProofCreatedAfterBlock, "proof-created-after-block", InvalidDidUpdate;
    /// `proof.expires` is not before the block's median time past.
    ProofExpiresBeforeMediantime, "proof-expires-before-mediantime", InvalidDidUpdate;
    /// `proof.expires` is not before `proof.created`.
    ProofExpiresBeforeCreated, "proof-expires-before-created", InvalidDidUpdate;
    /// A second announcement of a version announces the same update.
    DuplicateHashMismatch, "duplicate-hash-mismatch", LatePublishing;
    /// The SMT proof leads to the signal's root.
    SmtProofNotVerified, "smt-proof-not-verified", InvalidSignalData;
    /// There is an SMT proof for every SMT signal.
    SmtProofMissing, "smt-proof-missing", MissingUpdateData;
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
