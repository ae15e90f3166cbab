//! Recorded chain data: what a resolution was told about the chain, as a value and as a file.
//!
//! The file format is in `docs/recordings.md`. Whoever has a recording, the DID and its sidecar comes to the same
//! result without any network. A recording is a claim of whoever made it: nothing in it is proved.

mod file;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::address::NetworkUnchecked;
use bitcoin::hashes::Hash as _;
use bitcoin::{Address, BlockHash, Txid};

use crate::did::Did;
use crate::did::json::{JsonError, MAX_BYTES};
use crate::hash::{sha256, to_base64url};
use crate::network::Network;
use crate::resolver::{BlockRef, ChainSignal, SignalBlock};

pub use file::FORMAT;

/// Longest recording that is read, in bytes.
pub const MAX_RECORDING_BYTES: usize = 128 << 20;

/// Most signals of one address; as many transactions as are read from a chain server.
const MAX_SIGNALS: usize = 20_000;

/// Chain data as of one tip, for one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    network: Network,
    tip: BlockRef,
    addresses: BTreeMap<String, Vec<ChainSignal>>,
    objects: BTreeMap<[u8; 32], Vec<u8>>,
    /// The DIDs whose beacons a `signals.json` names.
    subjects: BTreeSet<String>,
    /// Whether somebody noted the tip's height, or it was made up.
    tip_is_noted: bool,
    /// Whether an address that is not in it sent no signal. Otherwise nobody knows.
    exhaustive: bool,
}

/// Why bytes are no recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// Longer than [`MAX_RECORDING_BYTES`].
    #[error("the recording has {0} bytes; at most {MAX_RECORDING_BYTES} are read")]
    TooLong(usize),
    /// Not the JSON of a recording: a member is missing, unknown, given twice or of another type.
    #[error("the recording is not of the form docs/recordings.md describes: {0}")]
    Form(#[from] serde_json::Error),
    /// Not JSON at all, or JSON two readers could understand differently.
    #[error("the signals are not JSON: {0}")]
    Json(#[from] JsonError),
    /// `format` is another one.
    #[error("the recording's format is {0:?}; this version reads {FORMAT:?} and signals.json")]
    Format(String),
    /// It was made on another network than the DID's.
    #[error("the recording is of {found}, but the DID is on {expected}: record it on {expected}")]
    OtherNetwork {
        /// The recording's.
        found: Network,
        /// The DID's.
        expected: Network,
    },
    /// A key of `addresses`, or the address of a signal, is not one of the network.
    #[error("{address:?} in the recording is no address of {network}")]
    Address {
        /// The text.
        address: String,
        /// The network.
        network: Network,
    },
    /// An entry of a `signals.json` is not a signal.
    #[error("entry {index} of the signals: {problem}")]
    Entry {
        /// Its number, from 0.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A transaction is listed twice for one address.
    #[error("transaction {txid} is recorded twice for {address}")]
    RepeatedSignal {
        /// The address.
        address: String,
        /// The transaction.
        txid: Txid,
    },
    /// Too many signals.
    #[error("{address} has more than {MAX_SIGNALS} recorded signals")]
    TooManySignals {
        /// The address.
        address: String,
    },
    /// Two entries say different things about one block.
    #[error("the recording contradicts itself about block {0}")]
    Block(BlockHash),
    /// Two blocks stand at one height.
    #[error("the recording has two blocks at height {0}")]
    Height(u32),
    /// A block's median time is after its own time, which no block's is.
    #[error("block {0} of the recording has a median time after its own")]
    MedianTime(BlockHash),
    /// An object is not what its key says.
    #[error("the recorded object {0} has another hash")]
    Object(String),
    /// An object is longer than any JSON this program reads.
    #[error("the recorded object {0} has more than {MAX_BYTES} bytes")]
    LongObject(String),
}

impl Recording {
    /// An empty recording.
    pub(super) const fn new(network: Network, tip: BlockRef) -> Self {
        Self {
            network,
            tip,
            addresses: BTreeMap::new(),
            objects: BTreeMap::new(),
            subjects: BTreeSet::new(),
            tip_is_noted: true,
            exhaustive: false,
        }
    }

    /// Reads recorded chain data for a DID of `network`: a recording of this program, or a `signals.json` of the
    /// upstream test suite, see [`Self::from_signals`].
    ///
    /// # Errors
    /// [`RecordingError`], naming the member.
    pub fn parse(bytes: &[u8], network: Network) -> Result<Self, RecordingError> {
        if bytes.len() > MAX_RECORDING_BYTES {
            return Err(RecordingError::TooLong(bytes.len()));
        }
        if !file::names_a_format(bytes) {
            return Self::from_signals(bytes, network);
        }
        let recording = file::parse(bytes)?;
        if recording.network == network {
            Ok(recording)
        } else {
            Err(RecordingError::OtherNetwork {
                found: recording.network,
                expected: network,
            })
        }
    }

    /// Reads the `signals.json` of a set of the upstream test suite (spec.md §8): all signals there are, so that
    /// an address without an entry sent none.
    ///
    /// The tip is the highest `recordedTip`. Where there is none, it is the height at which the last signal has
    /// as many confirmations as resolution asks for by default. Its hash is not known (all zeros) unless a signal is
    /// in that block.
    ///
    /// # Errors
    /// [`RecordingError`], naming the entry.
    pub fn from_signals(bytes: &[u8], network: Network) -> Result<Self, RecordingError> {
        upstream::parse(bytes, network)
    }

    /// A recording of a chain on which nobody ever sent a signal.
    #[must_use]
    pub fn without_signals(network: Network) -> Self {
        let tip = BlockRef {
            height: 0,
            hash: BlockHash::all_zeros(),
        };
        Self {
            tip_is_noted: false,
            exhaustive: true,
            ..Self::new(network, tip)
        }
    }

    /// The file: JSON with two spaces of indent, a member per line, in a fixed order.
    #[must_use]
    pub fn to_json(&self) -> String {
        file::write(self)
    }

    /// The network.
    #[must_use]
    pub const fn network(&self) -> Network {
        self.network
    }

    /// The end of the best chain as of which it was made.
    #[must_use]
    pub const fn tip(&self) -> BlockRef {
        self.tip
    }

    /// Whether it may tell about a DID: a `signals.json` names the DIDs whose beacons it has signals of, and is as
    /// good as empty for all others.
    #[must_use]
    pub fn is_about(&self, did: &Did) -> bool {
        self.subjects.is_empty() || self.subjects.contains(did.as_str())
    }

    /// Whether the tip's height was recorded. A `signals.json` without it gets a height that makes its last
    /// signal deep enough, so that numbers of confirmations say nothing.
    #[must_use]
    pub const fn tip_is_noted(&self) -> bool {
        self.tip_is_noted
    }

    /// The same data as of a tip at another height, whose hash is not known unless a signal is in that block.
    #[must_use]
    pub fn at_height(mut self, height: u32) -> Self {
        self.tip = self.block_at(height);
        self.tip_is_noted = true;
        self
    }

    /// Every signal ever sent from an address; `None` if it was not looked up when the recording was made.
    #[must_use]
    pub fn signals_of(&self, address: &Address) -> Option<&[ChainSignal]> {
        let found = self.addresses.get(&address.to_string());
        found
            .map(Vec::as_slice)
            .or_else(|| self.exhaustive.then_some(&[]))
    }

    /// Every signal, of whatever address.
    pub fn signals(&self) -> impl Iterator<Item = &ChainSignal> {
        self.addresses.values().flatten()
    }

    /// The bytes of an object that came from content-addressed storage.
    #[must_use]
    pub fn object(&self, hash: &[u8; 32]) -> Option<&[u8]> {
        self.objects.get(hash).map(Vec::as_slice)
    }

    /// Adds what an address sent.
    pub(super) fn add_signals(&mut self, address: &Address, mut signals: Vec<ChainSignal>) {
        // One order, so that the same facts give the same file.
        signals.sort_by_key(|signal| {
            let height = signal.block.map_or(u32::MAX, |block| block.height);
            (height, signal.txid)
        });
        self.addresses.insert(address.to_string(), signals);
    }

    /// Adds an object if it is what its hash says: anything else is as good as absent.
    pub(super) fn add_object(&mut self, hash: [u8; 32], bytes: Vec<u8>) {
        if sha256(&bytes) == hash {
            self.objects.insert(hash, bytes);
        }
    }

    /// The block at a height, with a hash of zeros if no signal is in it.
    fn block_at(&self, height: u32) -> BlockRef {
        let mut blocks = self.signals().filter_map(|signal| signal.block);
        let found = blocks.find(|block| block.height == height);
        BlockRef {
            height,
            hash: found.map_or_else(BlockHash::all_zeros, |block| block.hash),
        }
    }

    /// What every recording keeps to, whatever it was read from.
    fn check(&self) -> Result<(), RecordingError> {
        let mut times: BTreeMap<BlockHash, SignalBlock> = BTreeMap::new();
        let mut heights = BTreeMap::from([(self.tip.height, self.tip.hash)]);
        for (address, signals) in &self.addresses {
            if signals.len() > MAX_SIGNALS {
                let address = address.clone();
                return Err(RecordingError::TooManySignals { address });
            }
            let mut txids = BTreeSet::new();
            if let Some(twice) = signals.iter().find(|signal| !txids.insert(signal.txid)) {
                return Err(RecordingError::RepeatedSignal {
                    address: address.clone(),
                    txid: twice.txid,
                });
            }
            for block in signals.iter().filter_map(|signal| signal.block) {
                if block.median_time > block.time {
                    return Err(RecordingError::MedianTime(block.hash));
                }
                if *times.entry(block.hash).or_insert(block) != block {
                    return Err(RecordingError::Block(block.hash));
                }
                if *heights.entry(block.height).or_insert(block.hash) != block.hash {
                    return Err(RecordingError::Height(block.height));
                }
            }
        }
        for (hash, bytes) in &self.objects {
            if bytes.len() > MAX_BYTES {
                return Err(RecordingError::LongObject(to_base64url(hash)));
            }
            if sha256(bytes) != *hash {
                return Err(RecordingError::Object(to_base64url(hash)));
            }
        }
        Ok(())
    }
}

/// An address of a network, in whatever case it is written.
fn address(text: &str, network: Network) -> Option<Address> {
    let address: Address<NetworkUnchecked> = text.parse().ok()?;
    address.require_network(network.bitcoin_network()).ok()
}

#[cfg(test)]
mod tests;
