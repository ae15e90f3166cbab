//! Deposits: a member shows the aggregator the update whose hash it wants announced, and the aggregator
//! verifies it completely before it aggregates (spec.md §2.2, §2.3, §3.2, §3.4 steps 6 and 7).
//!
//! Hashes are all that an aggregator needs (spec.md §6.7, P1), so this is a choice: of the terms
//! ([`super::terms::Deposits`]), and within them of the member, update by update. What a deposit buys is a
//! second pair of eyes: a signal that announces an invalid update makes its DID unresolvable for good.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::message::RawJson;
use crate::beacon::smt::Leaf;
use crate::did::document::InvalidDocument;
use crate::did::update::InvalidUpdate;
use crate::did::verify::check_times;
use crate::did::{
    Did, Document, GenesisDocument, IdKind, SignedUpdate, UpdateFault, VerifyOptions,
    initial_key_document, verify,
};
use crate::hash::{DocumentHash, LeafValue, SmtIndex, SmtNonce, UpdateHash};
use crate::network::Network;
use crate::time::UnixTime;

/// Longest update and source document together, in bytes of JSON as they are sent: 128 KiB. A document of a
/// hundred keys has a sixth of it. Checking, logging and keeping them costs the aggregator.
pub const MAX_DEPOSIT_BYTES: usize = 131_072;

/// Characters of a reason that are sent and read: text for people.
pub const MAX_REASON_CHARS: usize = 300;

/// A signed update, and what it is verified against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateDeposit {
    /// The DID; its index is registered to the sender's seat.
    pub did: Did,
    /// The hash that will be announced: the JSON document hash of `update`.
    pub hash: UpdateHash,
    /// The signed update.
    pub update: Box<RawJson>,
    /// What the update starts from. To version 2: `null` for a k1 DID, whose initial document follows from
    /// the identifier, and the genesis document of an x1 DID. To later versions: the current document.
    pub source: Option<Box<RawJson>>,
}

/// What became of deposits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deposited {
    /// One per deposit that something is said of.
    pub items: Vec<DepositedItem>,
}

/// What became of one deposit. Exactly one of `anchored` and `refused` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepositedItem {
    /// The index of the DID.
    pub index: SmtIndex,
    /// The hash the deposit named.
    pub update: UpdateHash,
    /// Verified. Whether the source document is known to be the current one: the initial document, or where
    /// the last update led that was deposited and announced. If not, it is the member's word.
    pub anchored: Option<bool>,
    /// Why it was refused.
    pub refused: Option<DepositRefused>,
}

/// Why a deposit was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepositRefused {
    /// The reason, for programs.
    pub code: DepositCode,
    /// The reason, for people: at most [`MAX_REASON_CHARS`] characters, not to be trusted by a terminal.
    pub reason: String,
}

/// Why a deposit was refused. Stable names: programs match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DepositCode {
    /// The terms take no deposits.
    NotTaken,
    /// Too many, or too many bytes, within an hour.
    TooMany,
    /// More than [`MAX_DEPOSIT_BYTES`].
    TooLarge,
    /// The index of the DID is not registered to the seat.
    NotRegistered,
    /// The DID is of another network than the cohort.
    OtherNetwork,
    /// The update is not a signed update: not strict JSON, or a member is missing or malformed.
    BadUpdate,
    /// The update has another hash than the one named.
    OtherHash,
    /// The source document is missing, or not a document of the DID.
    BadSource,
    /// The update leads to version 2, and the source is not the DID's initial document.
    NotInitial,
    /// The source is not where the last deposited and announced update led.
    NotCurrent,
    /// Another update to the same or a later version was deposited and announced.
    VersionTaken,
    /// The source document is deactivated: nothing follows.
    Deactivated,
    /// `sourceHash` is not the hash of the source document.
    SourceHash,
    /// A member of the update or of its proof is not what the specification wants.
    BadProof,
    /// The verification method may not update the source document.
    NotAuthorized,
    /// The signature does not verify.
    BadSignature,
    /// The proof's `created` or `expires` does not permit an announcement now.
    BadTimes,
    /// The patch is malformed or does not apply.
    BadPatch,
    /// The patch changes the `id`.
    IdChanged,
    /// The patched document does not conform.
    BadTarget,
    /// `targetHash` is not the hash of the patched document.
    TargetHash,
    /// What a response announces was not deposited, or not by this seat. The member deposits again.
    NotDeposited,
    /// SMT: the leaf of a response is not made of what it was opened with.
    WrongLeaf,
}

/// Why a deposit is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DepositFault {
    /// The terms.
    #[error("the terms of this cohort take no deposits")]
    NotTaken,
    /// Quota.
    #[error("too many deposits within an hour: wait, or announce the hash alone")]
    TooMany,
    /// Size.
    #[error(
        "update and source document have {0} bytes; a deposit has at most {MAX_DEPOSIT_BYTES}: announce \
         the hash alone"
    )]
    TooLarge(usize),
    /// Registration.
    #[error("the DID is not registered by this seat: register it first")]
    NotRegistered,
    /// Network.
    #[error("the DID is on {0}, the cohort on {1}")]
    OtherNetwork(Network, Network),
    /// The update's form.
    #[error("it is not a signed update: {0}")]
    BadUpdate(#[from] InvalidUpdate),
    /// The update's hash.
    #[error("the update has the hash {actual}, not the {claimed} that was named")]
    OtherHash {
        /// As it was named.
        claimed: UpdateHash,
        /// As it is.
        actual: UpdateHash,
    },
    /// No source document.
    #[error("the source document is missing")]
    NoSource,
    /// The source's form.
    #[error("the source is not a DID document: {0}")]
    BadSource(#[from] InvalidDocument),
    /// Another DID's document.
    #[error("the source is the document of {0}")]
    OtherDid(Did),
    /// Not the beginning.
    #[error("the source of an update to version 2 is not the DID's initial document")]
    NotInitial,
    /// Not the end.
    #[error(
        "the source document is not the one that the announced update to version {version} led to: \
         resolve the DID again"
    )]
    NotCurrent {
        /// Its version.
        version: u64,
    },
    /// A second update to a version.
    #[error(
        "an update to version {version} of the DID was announced already: a second one would make it \
         unresolvable"
    )]
    VersionTaken {
        /// That version.
        version: u64,
    },
    /// The end of the DID.
    #[error("the source document is deactivated: nothing follows it")]
    Deactivated,
    /// What resolution would refuse.
    #[error("{} ({})", .0, .0.rule())]
    Invalid(#[from] UpdateFault),
    /// The response announces something else.
    #[error("the update that the response announces is not deposited")]
    NotDeposited,
    /// The response opens something else.
    #[error("the leaf is not made of the nonce and the update it was opened with")]
    WrongLeaf,
}

impl DepositFault {
    /// The name for programs.
    #[must_use]
    pub const fn code(&self) -> DepositCode {
        match self {
            Self::NotTaken => DepositCode::NotTaken,
            Self::TooMany => DepositCode::TooMany,
            Self::TooLarge(_) => DepositCode::TooLarge,
            Self::NotRegistered => DepositCode::NotRegistered,
            Self::OtherNetwork(..) => DepositCode::OtherNetwork,
            Self::BadUpdate(_) => DepositCode::BadUpdate,
            Self::OtherHash { .. } => DepositCode::OtherHash,
            Self::NoSource | Self::BadSource(_) | Self::OtherDid(_) => DepositCode::BadSource,
            Self::NotInitial => DepositCode::NotInitial,
            Self::NotCurrent { .. } => DepositCode::NotCurrent,
            Self::VersionTaken { .. } => DepositCode::VersionTaken,
            Self::Deactivated => DepositCode::Deactivated,
            Self::Invalid(fault) => code_of(fault),
            Self::NotDeposited => DepositCode::NotDeposited,
            Self::WrongLeaf => DepositCode::WrongLeaf,
        }
    }

    /// What the member is told.
    #[must_use]
    pub fn refused(&self) -> DepositRefused {
        DepositRefused {
            code: self.code(),
            reason: self.to_string().chars().take(MAX_REASON_CHARS).collect(),
        }
    }
}

const fn code_of(fault: &UpdateFault) -> DepositCode {
    match fault {
        UpdateFault::VersionSkip { .. } | UpdateFault::Duplicate { .. } => {
            DepositCode::VersionTaken
        }
        UpdateFault::SourceHash { .. } => DepositCode::SourceHash,
        UpdateFault::UpdateContext
        | UpdateFault::ProofContext
        | UpdateFault::ProofPurpose
        | UpdateFault::CapabilityAction
        | UpdateFault::Capability
        | UpdateFault::InvocationTarget => DepositCode::BadProof,
        UpdateFault::Method { .. } => DepositCode::NotAuthorized,
        UpdateFault::NotVerified(_) => DepositCode::BadSignature,
        UpdateFault::CreatedAfterBlock
        | UpdateFault::ExpiresBeforeMediantime
        | UpdateFault::ExpiresBeforeCreated => DepositCode::BadTimes,
        UpdateFault::Patch(_) => DepositCode::BadPatch,
        UpdateFault::DocumentId => DepositCode::IdChanged,
        UpdateFault::NotConformant(_) => DepositCode::BadTarget,
        UpdateFault::TargetHash { .. } => DepositCode::TargetHash,
    }
}

/// A deposit that was verified against its own source document.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The update.
    pub update: SignedUpdate,
    /// The document it starts from.
    pub source: DocumentHash,
    /// The document it leads to.
    pub target: Document,
    /// The genesis document, if that is the source.
    pub genesis: Option<GenesisDocument>,
}

impl UpdateDeposit {
    /// Makes the deposit of an update of `source`; `genesis` is needed for the first update of an x1 DID.
    ///
    /// # Errors
    /// [`DepositFault::TooLarge`], so that nothing is signed or stored that can not be deposited;
    /// [`DepositFault::NoSource`] without the genesis document.
    pub fn new(
        update: &SignedUpdate,
        source: &Document,
        genesis: Option<&GenesisDocument>,
    ) -> Result<Self, DepositFault> {
        let did = source.id().clone();
        let bytes = match (update.target_version(), did.kind()) {
            (2, IdKind::Key(_)) => None,
            (2, IdKind::External(_)) => {
                Some(genesis.ok_or(DepositFault::NoSource)?.canonical_bytes())
            }
            _ => Some(source.canonical_bytes()),
        };
        let deposit = Self {
            did,
            hash: update.hash(),
            update: raw(update.canonical_bytes()).ok_or(DepositFault::NoSource)?,
            source: match bytes {
                Some(bytes) => Some(raw(bytes).ok_or(DepositFault::NoSource)?),
                None => None,
            },
        };
        match deposit.bytes() {
            bytes if bytes > MAX_DEPOSIT_BYTES => Err(DepositFault::TooLarge(bytes)),
            _ => Ok(deposit),
        }
    }

    /// Bytes of update and source as they are sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let source = self.source.as_ref().map_or(0, |raw| raw.0.get().len());
        self.update.0.get().len().saturating_add(source)
    }
}

/// Canonical JSON as it travels.
fn raw(bytes: Vec<u8>) -> Option<Box<RawJson>> {
    let text = String::from_utf8(bytes).ok()?;
    let raw = RawValue::from_string(text).ok()?;
    Some(Box::new(RawJson(raw)))
}

/// Checks everything about a deposit that can be checked without the DID's past: its size, that the update
/// has the hash it is announced by, that the source is a document of the DID (to version 2: the initial one),
/// and that the update applies to it as resolution will demand (spec.md §3.4).
///
/// `proof.created` and `proof.expires` are checked as if the signal confirmed `now`.
pub fn verify_deposit(
    network: Network,
    now: UnixTime,
    deposit: &UpdateDeposit,
) -> Result<Verified, DepositFault> {
    let did = &deposit.did;
    if deposit.bytes() > MAX_DEPOSIT_BYTES {
        return Err(DepositFault::TooLarge(deposit.bytes()));
    }
    if did.network() != network {
        return Err(DepositFault::OtherNetwork(did.network(), network));
    }
    let update = SignedUpdate::parse(deposit.update.0.get())?;
    if update.hash() != deposit.hash {
        return Err(DepositFault::OtherHash {
            claimed: deposit.hash,
            actual: update.hash(),
        });
    }
    let version = update.target_version();
    let (source, genesis) = source_document(deposit, version)?;
    if source.is_deactivated() {
        return Err(DepositFault::Deactivated);
    }
    // Whether `source` is at the version before is shown for version 2, where it is the initial document;
    // for later ones the aggregator compares it with what it saw announced.
    let target = verify(
        &update,
        &source,
        version.saturating_sub(1),
        VerifyOptions::default(),
    )?;
    check_times(&update, now, now)?;
    Ok(Verified {
        source: source.hash(),
        update,
        target,
        genesis,
    })
}

fn source_document(
    deposit: &UpdateDeposit,
    version: u64,
) -> Result<(Document, Option<GenesisDocument>), DepositFault> {
    let did = &deposit.did;
    let text = deposit.source.as_ref().map(|raw| raw.0.get());
    if version > 2 {
        let document = Document::parse(text.ok_or(DepositFault::NoSource)?)?;
        if document.id() != did {
            return Err(DepositFault::OtherDid(document.id().clone()));
        }
        return Ok((document, None));
    }
    let Some(initial) = initial_key_document(did) else {
        let genesis = GenesisDocument::parse(text.ok_or(DepositFault::NoSource)?)?;
        if !genesis.matches(did) {
            return Err(DepositFault::NotInitial);
        }
        return Ok((genesis.document(did.network())?, Some(genesis)));
    };
    match text {
        Some(text) if Document::parse(text)?.hash() != initial.hash() => {
            Err(DepositFault::NotInitial)
        }
        _ => Ok((initial, None)),
    }
}

/// What one leaf of a response is made of: shown with a deposit, so that the aggregator sees that the leaf
/// announces what was deposited and nothing else. It discloses nothing about any other index or round.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafOpening {
    /// The nonce of this index in this round, if the leaf has one.
    pub nonce: Option<SmtNonce>,
    /// The update, if there is one.
    pub update: Option<UpdateHash>,
}

impl LeafOpening {
    /// Whether a leaf is made of this.
    #[must_use]
    pub fn opens(&self, leaf: LeafValue) -> bool {
        let Self { nonce, update } = *self;
        let own = Leaf { nonce, update };
        !own.is_empty() && own.value() == leaf
    }
}

impl From<Leaf> for LeafOpening {
    fn from(Leaf { nonce, update }: Leaf) -> Self {
        Self { nonce, update }
    }
}

impl fmt::Debug for LeafOpening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nonce, update } = *self;
        Leaf { nonce, update }.fmt(f)
    }
}
