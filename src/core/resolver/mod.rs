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
//! | [`limits`] | bounds on the work that strangers' data can cause |
//!
//! What the specification says, and what it leaves open, is in `docs/resolver.md`.

pub mod chain;
mod finding;
mod history;
pub mod limits;
mod objects;
pub mod options;
pub mod outcome;
pub mod sidecar;
pub mod walk;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Address;

use self::finding::{Finding, Horizon, Stop};
use self::history::History;
use self::limits::{MAX_BEACONS, MAX_SIGNALS};
use self::objects::{Lookup, Objects};
use crate::did::{
    BeaconService, Did, Document, ErrorCode, GenesisDocument, IdKind, initial_key_document,
};

pub use self::chain::{BlockRef, ChainSignal, SignalBlock};
pub use self::options::{DEFAULT_MIN_CONF, ResolutionOptions, Strictness, VersionChoice};
pub use self::outcome::{DocumentMetadata, Failure, Resolution, Resolved};
pub use self::sidecar::{MAX_SIDECAR_BYTES, Sidecar};
pub use self::walk::{DataSource, Foreseen, Said, SignalRef, Walk, WalkStep};

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
        /// SHA-256 of its canonical bytes.
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
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// These have to be answered, in any order. The same are asked for again until they are.
    Need(Vec<Request>),
    /// The result.
    Done(Box<Resolution>),
}

/// Resolves one DID as of one tip.
///
/// ```no_run
/// # use btcr2_core::resolver::{Progress, Request, Resolver, ChainSignal};
/// # fn ask_chain(_: &bitcoin::Address) -> Vec<ChainSignal> { Vec::new() }
/// # fn ask_storage(_: &[u8; 32]) -> Option<Vec<u8>> { None }
/// # fn drive(mut resolver: Resolver) {
/// let resolution = loop {
///     match resolver.poll() {
///         Progress::Done(resolution) => break resolution,
///         Progress::Need(requests) => {
///             for request in requests {
///                 match request {
///                     Request::Signals { address } => resolver.signals(&address, ask_chain(&address)),
///                     Request::Cas { hash, .. } => resolver.object(&hash, ask_storage(&hash)),
///                 }
///             }
///         }
///     }
/// };
/// println!("{}", resolution.to_value());
/// # }
/// ```
#[derive(Debug)]
pub struct Resolver {
    did: Did,
    options: ResolutionOptions,
    strictness: Strictness,
    tip: BlockRef,
    objects: Objects,
    /// Answers about addresses; `None` while one is waited for.
    chain: BTreeMap<Address, Option<Vec<ChainSignal>>>,
    /// Addresses that were looked up: each is once, for all time.
    scanned: BTreeSet<Address>,
    /// Signals that wait for what stands behind them.
    findings: Vec<Finding>,
    /// How many signals were seen.
    seen: usize,
    /// `None` until there is an initial document.
    history: Option<History>,
    walk: Walk,
    done: Option<Box<Resolution>>,
}

enum Step {
    Need(Vec<Request>),
    Resolved(Resolved),
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
        Self {
            objects: Objects::new(did.clone(), sidecar),
            did,
            options,
            strictness,
            tip,
            chain: BTreeMap::new(),
            scanned: BTreeSet::new(),
            findings: Vec::new(),
            seen: 0,
            history: None,
            walk: Walk::default(),
            done: None,
        }
    }

    /// Goes on as far as it can, and says what it needs or what came out. Once it is done, it stays done.
    pub fn poll(&mut self) -> Progress {
        if let Some(done) = &self.done {
            return Progress::Done(done.clone());
        }
        let outcome = match self.advance() {
            Ok(Step::Need(requests)) => return Progress::Need(requests),
            Ok(Step::Resolved(resolved)) => Ok(resolved),
            Err(Stop { failure, signal }) => {
                self.walk.push(WalkStep::Failed {
                    version: self.history.as_ref().map_or(0, History::version),
                    at: signal.map(|signal| *signal),
                    failure: failure.clone(),
                });
                Err(failure)
            }
        };
        let resolution = Box::new(Resolution {
            did: self.did.to_string(),
            outcome,
            walk: std::mem::take(&mut self.walk),
        });
        self.done = Some(resolution.clone());
        Progress::Done(resolution)
    }

    /// Answers [`Request::Signals`]: every signal ever sent from `address`, in any order. Unconfirmed ones and
    /// those above the tip are reported, never applied. An answer nobody waits for is ignored, so is a second one.
    pub fn signals(&mut self, address: &Address, mut signals: Vec<ChainSignal>) {
        if let Some(slot @ None) = self.chain.get_mut(address) {
            // A transaction counts once, confirmed if any mention of it is.
            signals.sort_unstable_by_key(|s| (s.txid, s.block.is_none(), s.block, s.signal));
            signals.dedup_by_key(|s| s.txid);
            signals.sort_unstable_by_key(|s| {
                let height = s.block.map(|block| block.height);
                (height.is_none(), height, s.txid)
            });
            *slot = Some(signals);
        }
    }

    /// Answers [`Request::Cas`]; `None` says that the object is not available. The bytes are hashed here. An answer
    /// nobody waits for is ignored, so is a second one.
    pub fn object(&mut self, hash: &[u8; 32], bytes: Option<Vec<u8>>) {
        self.objects.answer(hash, bytes.as_deref());
    }

    fn advance(&mut self) -> Result<Step, Stop> {
        if self.history.is_none() {
            match self.initial_document()? {
                Err(request) => return Ok(Step::Need(vec![request])),
                Ok(document) => self.history = Some(History::new(document)),
            }
        }
        loop {
            if let Some(requests) = self.find_signals()? {
                return Ok(Step::Need(requests));
            }
            let Some(history) = &mut self.history else {
                return Err(Failure::new(ErrorCode::InternalError, "no initial document").into());
            };
            let next =
                history.process_next(self.options.version, self.strictness, &mut self.walk)?;
            if let Some(resolved) = next {
                return Ok(Step::Resolved(resolved));
            }
        }
    }

    /// Version 1, or what has to be asked for it (spec.md §1.3, §1.4).
    fn initial_document(&mut self) -> Result<Result<Document, Request>, Failure> {
        let (document, source) = match self.did.kind() {
            IdKind::Key(_) => (initial_key_document(&self.did), DataSource::Identifier),
            IdKind::External(hash) => {
                let (value, source) = match self.objects.genesis(hash) {
                    Lookup::Found(value, source) => (value, source),
                    Lookup::Failed(failure) => return Err(failure),
                    Lookup::Wanted => {
                        let hash = hash.to_bytes();
                        return Ok(Err(objects::request(hash, CasKind::GenesisDocument)));
                    }
                };
                let document = GenesisDocument::from_value(&value)
                    .and_then(|genesis| genesis.document(self.did.network()))
                    .map_err(|invalid| {
                        let message = format!("the genesis document does not conform: {invalid}");
                        Failure::new(invalid.code(), message)
                    })?;
                (Some(document), source)
            }
        };
        let document = document.ok_or_else(|| {
            Failure::new(ErrorCode::InternalError, "the DID has no initial document")
        })?;
        self.walk.push(WalkStep::Initial {
            source,
            hash: document.hash(),
        });
        Ok(Ok(document))
    }

    /// Looks up the beacons of the current document that were not looked up before, and reads what their signals
    /// say. Returns what has to be asked for, `None` when everything is read.
    fn find_signals(&mut self) -> Result<Option<Vec<Request>>, Stop> {
        if self.findings.is_empty() {
            let new = self.new_beacons()?;
            let mut unanswered = Vec::new();
            for beacon in &new {
                let answer = self.chain.entry(beacon.address.clone()).or_insert(None);
                if answer.is_none() {
                    unanswered.push(Request::Signals {
                        address: beacon.address.clone(),
                    });
                }
            }
            if !unanswered.is_empty() {
                return Ok(Some(unanswered));
            }
            for beacon in &new {
                self.scan(beacon)?;
            }
        }
        let needs = finding::read(&mut self.findings, &mut self.objects);
        if !needs.is_empty() {
            return Ok(Some(needs));
        }
        let findings = std::mem::take(&mut self.findings);
        let announcements = finding::conclude(findings, &mut self.walk)?;
        if let Some(history) = &mut self.history {
            history.announce(announcements);
        }
        Ok(None)
    }

    /// The beacons of the current document at addresses that were not looked up; of several at one address the
    /// first.
    fn new_beacons(&self) -> Result<Vec<BeaconService>, Failure> {
        let mut addresses = BTreeSet::new();
        let beacons = self.history.iter().flat_map(|h| h.document().beacons());
        let new: Vec<_> = beacons
            .filter(|beacon| !self.scanned.contains(&beacon.address))
            .filter(|beacon| addresses.insert(&beacon.address))
            .cloned()
            .collect();
        if self.scanned.len() + new.len() > MAX_BEACONS {
            let message = format!(
                "the DID has had more than {MAX_BEACONS} beacons, more than this resolver looks up"
            );
            return Err(Failure::new(ErrorCode::InternalError, message));
        }
        Ok(new)
    }

    fn scan(&mut self, beacon: &BeaconService) -> Result<(), Failure> {
        self.scanned.insert(beacon.address.clone());
        let answer = self.chain.insert(beacon.address.clone(), Some(Vec::new()));
        let signals = answer.flatten().unwrap_or_default();
        self.seen = self.seen.saturating_add(signals.len());
        if self.seen > MAX_SIGNALS {
            let message = format!(
                "the beacons of this DID sent more than {MAX_SIGNALS} signals, more than this resolver reads"
            );
            return Err(Failure::new(ErrorCode::InternalError, message));
        }
        let (version, from_height) = self
            .history
            .as_ref()
            .map_or((1, 0), |history| (history.version(), history.height()));
        self.walk.push(WalkStep::Scanned {
            version,
            service: beacon.id.clone(),
            kind: beacon.kind,
            address: beacon.address.to_string(),
            from_height,
            signals: signals.len(),
        });
        let horizon = Horizon {
            tip: self.tip,
            min_conf: self.options.min_conf.max(1),
            from_height,
        };
        let found = finding::find(beacon, &signals, horizon, &self.objects, &mut self.walk);
        self.findings.extend(found);
        Ok(())
    }
}
