//! Resolution of did:btcr2 (spec.md §1.3, §1.4, §3.3, §3.4), without any input or output.
//!
//! A [`Resolver`] says what it needs ([`Resolver::poll`] gives [`Request`]s), and whoever drives it answers:
//! with every signal ever sent from an address, and with objects by their hash. It knows no clock, no socket and
//! no file, believes nothing without hashing it, and gives the same result in whatever order the answers come.
//!
//! | module | what it is |
//! |---|---|
//! | [`options`] | resolution options, and how strict to be |
//! | [`sidecar`] | what the controller hands over: genesis document, updates, CAS announcements, SMT proofs |
//! | [`chain`] | what a chain source tells |
//! | [`outcome`] | the result: document and metadata, or why there is none |
//! | [`walk`] | the explanation: what was found, and what became of it |

pub mod chain;
pub mod options;
pub mod outcome;
pub mod sidecar;
pub mod walk;

use bitcoin::Address;

use crate::did::{Did, ErrorCode};

pub use self::chain::{BlockRef, ChainSignal, SignalBlock};
pub use self::options::{DEFAULT_MIN_CONF, ResolutionOptions, Strictness, VersionChoice};
pub use self::outcome::{DocumentMetadata, Failure, Resolution, Resolved};
pub use self::sidecar::{MAX_SIDECAR_BYTES, Sidecar};
pub use self::walk::{Walk, WalkStep};

/// What a resolver has to be told before it can go on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// Every signal ever sent from an address: answer with [`Resolver::signals`].
    Signals {
        /// The beacon's address, of the DID's network.
        address: Address,
    },
    /// An object in content-addressed storage: answer with [`Resolver::object`].
    Cas {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// What it should be.
        kind: CasKind,
    },
}

/// What is looked for in content-addressed storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CasKind {
    /// The genesis document of an `x1` identifier.
    GenesisDocument,
    /// The announcement behind the signal of a CAS beacon.
    Announcement,
    /// A signed update.
    Update,
}

/// How far a resolver is.
#[derive(Debug)]
pub enum Progress {
    /// These have to be answered, in any order. The same are asked for again until they are.
    Need(Vec<Request>),
    /// The result.
    Done(Box<Resolution>),
}

/// Resolves one DID as of one tip.
#[derive(Debug)]
pub struct Resolver {
    did: Did,
}

impl Resolver {
    /// Starts to resolve `did` as of the block `tip`, the end of the best chain.
    ///
    /// The caller makes sure that `tip` is still in the best chain when the result is there, and starts again if
    /// it is not.
    #[must_use]
    pub fn new(
        did: Did,
        options: ResolutionOptions,
        sidecar: Sidecar,
        strictness: Strictness,
        tip: BlockRef,
    ) -> Self {
        let _ = (options, sidecar, strictness, tip);
        Self { did }
    }

    /// Goes on as far as it can, and says what it needs or what came out. Once it is done, it stays done.
    pub fn poll(&mut self) -> Progress {
        Progress::Done(Box::new(Resolution {
            did: self.did.to_string(),
            outcome: Err(Failure::new(ErrorCode::InternalError, "not written yet")),
            walk: Walk::default(),
        }))
    }

    /// Answers [`Request::Signals`]: every signal ever sent from `address`, in any order. Unconfirmed ones and
    /// those above the tip are reported, never applied. An answer nobody waits for is ignored, so is a second one.
    pub fn signals(&mut self, address: &Address, signals: Vec<ChainSignal>) {
        let _ = (address, signals);
    }

    /// Answers [`Request::Cas`]; `None` says that the object is not available. The bytes are hashed here. An answer
    /// nobody waits for is ignored, so is a second one.
    pub fn object(&mut self, hash: &[u8; 32], bytes: Option<Vec<u8>>) {
        let _ = (hash, bytes);
    }
}
