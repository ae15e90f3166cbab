//! Drives a [`crate::resolver`]: chain data from a backend or a recording, objects from a CAS.
//!
//! | module | what it is |
//! |---|---|
//! | [`Lookup`] | resolves a DID, as of one tip, within a deadline |
//! | [`recording`] | recorded chain data, as a value and as a file |
//! | [`objects`] | where objects come from that are named by their hash |
//! | [`conform`] | runs sets of the upstream test suite |

pub mod conform;
mod live;
pub mod objects;
pub mod recording;
pub mod serve;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::Address;
use futures_util::StreamExt as _;

use self::live::{Blocks, Live, Stopped};
pub use self::objects::{CasAnswer, CasSource, Objects};
pub use self::recording::{Recording, RecordingError};
use crate::cas::CasError;
use crate::chain::{ChainBackend, ChainError};
use crate::did::Did;
use crate::did::json::{MAX_BYTES, cid_of_hash};
use crate::network::Network;
use crate::resolver::{
    BlockRef, CasKind, ChainSignal, Progress, Request, Resolution, ResolutionOptions, Resolver,
    Sidecar, Strictness,
};

/// Time a resolution may take where nothing else is said. Reading the longest history that is read at all takes
/// a few minutes.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(300);

/// Attempts to resolve while the chain is reorganised.
const MAX_ATTEMPTS: u32 = 4;

/// Bytes of objects that are fetched for one resolution. Bounds what a hostile document can make this program hold.
const MAX_OBJECT_BYTES: usize = 64 << 20;

/// Objects that are fetched at the same time.
const PARALLEL_OBJECTS: usize = 8;

/// Where chain data comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ChainSource {
    /// A chain server.
    Backend(ChainBackend),
    /// Recorded earlier. Objects in the recording are preferred to those of a CAS.
    Recorded(Arc<Recording>),
}

impl From<ChainBackend> for ChainSource {
    fn from(backend: ChainBackend) -> Self {
        Self::Backend(backend)
    }
}

impl From<Recording> for ChainSource {
    fn from(recording: Recording) -> Self {
        Self::Recorded(Arc::new(recording))
    }
}

/// Resolves DIDs. Cheap to clone; clones share connections and the facts of blocks.
#[derive(Debug, Clone)]
pub struct Lookup {
    chain: ChainSource,
    cas: Option<Arc<dyn CasSource>>,
    blocks: Blocks,
    deadline: Duration,
}

/// Why a DID could not be looked up. This says nothing about the DID: what the specification has an error code for
/// is in the [`Resolution`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Content-addressed storage could not be asked.
    #[error("the {} {cid} can not be looked for: {error}", kind_name(*kind))]
    Cas {
        /// What was looked for.
        kind: CasKind,
        /// Its IPFS address.
        cid: String,
        /// Why not.
        error: CasError,
    },
    /// The chain was reorganised, or a part of the server lagged behind, during each of several attempts.
    #[error(
        "the chain server {host} changed its chain during each of {attempts} attempts; try again when it has settled"
    )]
    Unsettled {
        /// Host and port.
        host: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// It took too long.
    #[error("the DID was not resolved within {} seconds; try again, or allow more time", deadline.as_secs())]
    Deadline {
        /// The time it could take.
        deadline: Duration,
    },
    /// The recording is of another network.
    #[error("the recorded chain data are of {found}, but the DID is on {expected}")]
    OtherNetwork {
        /// The recording's.
        found: Network,
        /// The DID's.
        expected: Network,
    },
    /// The recording does not cover a beacon.
    #[error(
        "the recorded chain data say nothing about the beacon address {address}; record them again from a chain server"
    )]
    NotRecorded {
        /// The address.
        address: Address,
    },
    /// More data than any DID needs.
    #[error("the DID needs more than {limit} bytes from content-addressed storage")]
    TooManyObjects {
        /// The most that are fetched.
        limit: usize,
    },
    /// The resolver asks for what it was told. A defect of this program.
    #[error("the resolution does not get any further; please report this")]
    Stuck,
}

impl LookupError {
    /// Whether the same lookup may well succeed later, without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Chain(error) => error.is_transient(),
            Self::Cas { error, .. } => match error {
                CasError::Unreachable { .. } | CasError::TimedOut { .. } => true,
                CasError::Refused { status, .. } => matches!(*status, 429 | 500..=599),
                _ => false,
            },
            Self::Unsettled { .. } | Self::Deadline { .. } => true,
            _ => false,
        }
    }
}

const fn kind_name(kind: CasKind) -> &'static str {
    match kind {
        CasKind::GenesisDocument => "genesis document",
        CasKind::Announcement => "announcement",
        CasKind::Update => "update",
    }
}

impl Lookup {
    /// A lookup without content-addressed storage, with [`DEFAULT_DEADLINE`].
    #[must_use]
    pub fn new(chain: impl Into<ChainSource>) -> Self {
        Self {
            chain: chain.into(),
            cas: None,
            blocks: Blocks::default(),
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Looks for objects here, too.
    #[must_use]
    pub fn with_cas(mut self, cas: impl CasSource + 'static) -> Self {
        self.cas = Some(Arc::new(cas));
        self
    }

    /// Changes how long one resolution may take.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Resolves a DID as of one tip: the chain's, which is still in it when the result is there, or the
    /// recording's.
    ///
    /// # Errors
    /// [`LookupError`]: chain or storage could not be asked. A DID that does not resolve is no such error.
    pub async fn resolve(
        &self,
        did: &Did,
        options: ResolutionOptions,
        sidecar: Sidecar,
        strictness: Strictness,
    ) -> Result<Resolution, LookupError> {
        let recorded = self.resolve_recorded(did, options, sidecar, strictness);
        Ok(recorded.await?.0)
    }

    /// Like [`Self::resolve`], and gives what it was told: with the recording, the same DID, options and sidecar
    /// give the same result again.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_recorded(
        &self,
        did: &Did,
        options: ResolutionOptions,
        sidecar: Sidecar,
        strictness: Strictness,
    ) -> Result<(Resolution, Recording), LookupError> {
        let start = |tip| Resolver::new(did.clone(), options, sidecar.clone(), strictness, tip);
        let work = async {
            match &self.chain {
                ChainSource::Backend(backend) => self.resolve_live(did, backend, start).await,
                ChainSource::Recorded(recording) => {
                    self.resolve_offline(did, recording, start).await
                }
            }
        };
        let deadline = self.deadline;
        tokio::time::timeout(deadline, work)
            .await
            .unwrap_or(Err(LookupError::Deadline { deadline }))
    }

    async fn resolve_live(
        &self,
        did: &Did,
        backend: &ChainBackend,
        start: impl Fn(BlockRef) -> Resolver,
    ) -> Result<(Resolution, Recording), LookupError> {
        backend.prove_network(did.network()).await?;
        let mut objects = Fetched::default();
        for _ in 0..MAX_ATTEMPTS {
            let (mut live, tip) = Live::start(backend, &self.blocks).await?;
            let mut run = Run::new(start(tip), Recording::new(did.network(), tip));
            let resolution = loop {
                let asked = match run.next()? {
                    Next::Done(resolution) => break Some(resolution),
                    Next::Asked(asked) => asked,
                };
                match run.answer_from(&mut live, asked.addresses).await {
                    Ok(()) => {}
                    Err(Stopped::Moved) => break None,
                    Err(Stopped::Failed(error)) => return Err(error.into()),
                }
                self.fetch(&mut objects, &asked.objects, None).await?;
                run.answer_objects(&objects, &asked.objects);
            };
            if let Some(resolution) = resolution
                && live.is_unmoved().await?
            {
                return Ok((resolution, run.recording));
            }
        }
        Err(LookupError::Unsettled {
            host: backend.host().to_owned(),
            attempts: MAX_ATTEMPTS,
        })
    }

    async fn resolve_offline(
        &self,
        did: &Did,
        recording: &Recording,
        start: impl Fn(BlockRef) -> Resolver,
    ) -> Result<(Resolution, Recording), LookupError> {
        if recording.network() != did.network() {
            return Err(LookupError::OtherNetwork {
                found: recording.network(),
                expected: did.network(),
            });
        }
        let mut objects = Fetched::default();
        let tip = recording.tip();
        let mut run = Run::new(start(tip), Recording::new(did.network(), tip));
        loop {
            let asked = match run.next()? {
                Next::Done(resolution) => return Ok((resolution, run.recording)),
                Next::Asked(asked) => asked,
            };
            for address in asked.addresses {
                let Some(signals) = recording.signals_of(&address) else {
                    return Err(LookupError::NotRecorded { address });
                };
                run.answer(&address, signals.to_vec());
            }
            self.fetch(&mut objects, &asked.objects, Some(recording))
                .await?;
            run.answer_objects(&objects, &asked.objects);
        }
    }

    /// Fetches objects that were not looked for yet.
    async fn fetch(
        &self,
        objects: &mut Fetched,
        wanted: &[Wanted],
        recording: Option<&Recording>,
    ) -> Result<(), LookupError> {
        let mut missing = Vec::new();
        for wanted in wanted {
            if objects.by_hash.contains_key(&wanted.hash) {
                continue;
            }
            if let Some(bytes) = recording.and_then(|recording| recording.object(&wanted.hash)) {
                objects.keep(wanted.hash, Some(bytes.to_vec()))?;
            } else {
                missing.push(*wanted);
            }
        }
        let Some(cas) = &self.cas else {
            for wanted in missing {
                objects.keep(wanted.hash, None)?;
            }
            return Ok(());
        };
        let mut answers = futures_util::stream::iter(missing)
            .map(|wanted| async move { (wanted, cas.get(&wanted.hash, MAX_BYTES).await) })
            .buffer_unordered(PARALLEL_OBJECTS);
        while let Some((wanted, answer)) = answers.next().await {
            let found = answer.map_err(|error| LookupError::Cas {
                kind: wanted.kind,
                cid: cid_of_hash(&wanted.hash),
                error,
            })?;
            objects.keep(wanted.hash, found.filter(|bytes| bytes.len() <= MAX_BYTES))?;
        }
        Ok(())
    }
}

/// Objects that were looked for, and what was found.
#[derive(Debug, Default)]
struct Fetched {
    by_hash: HashMap<[u8; 32], Option<Vec<u8>>>,
    bytes: usize,
}

impl Fetched {
    fn keep(&mut self, hash: [u8; 32], found: Option<Vec<u8>>) -> Result<(), LookupError> {
        self.bytes += found.as_ref().map_or(0, Vec::len);
        if self.bytes > MAX_OBJECT_BYTES {
            let limit = MAX_OBJECT_BYTES;
            return Err(LookupError::TooManyObjects { limit });
        }
        self.by_hash.insert(hash, found);
        Ok(())
    }
}

/// An object that a resolver needs.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    hash: [u8; 32],
    kind: CasKind,
}

/// What a resolver needs next.
struct Asked {
    addresses: Vec<Address>,
    objects: Vec<Wanted>,
}

enum Next {
    Asked(Asked),
    Done(Resolution),
}

/// A resolver at work, and what it was told.
struct Run {
    resolver: Resolver,
    recording: Recording,
    /// The objects it was told about.
    objects: HashSet<[u8; 32]>,
    /// Whether it was told anything new since it was asked last.
    answered: bool,
}

impl Run {
    fn new(resolver: Resolver, recording: Recording) -> Self {
        Self {
            resolver,
            recording,
            objects: HashSet::new(),
            answered: true,
        }
    }

    fn next(&mut self) -> Result<Next, LookupError> {
        let requests = match self.resolver.poll() {
            Progress::Done(resolution) => return Ok(Next::Done(*resolution)),
            Progress::Need(requests) => requests,
        };
        if !std::mem::take(&mut self.answered) {
            return Err(LookupError::Stuck);
        }
        let mut asked = Asked {
            addresses: Vec::new(),
            objects: Vec::new(),
        };
        for request in requests {
            match request {
                Request::Signals { address } => asked.addresses.push(address),
                Request::Cas { hash, kind } => asked.objects.push(Wanted { hash, kind }),
            }
        }
        Ok(Next::Asked(asked))
    }

    async fn answer_from(
        &mut self,
        live: &mut Live<'_>,
        addresses: Vec<Address>,
    ) -> Result<(), Stopped> {
        for address in addresses {
            let signals = live.signals(&address).await?;
            self.answer(&address, signals);
        }
        Ok(())
    }

    fn answer(&mut self, address: &Address, signals: Vec<ChainSignal>) {
        self.answered |= self.recording.signals_of(address).is_none();
        self.recording.add_signals(address, signals.clone());
        self.resolver.signals(address, signals);
    }

    fn answer_objects(&mut self, objects: &Fetched, wanted: &[Wanted]) {
        for Wanted { hash, .. } in wanted {
            let found = objects.by_hash.get(hash).cloned().flatten();
            if let Some(bytes) = &found {
                self.recording.add_object(*hash, bytes.clone());
            }
            self.resolver.object(hash, found);
            self.answered |= self.objects.insert(*hash);
        }
    }
}
