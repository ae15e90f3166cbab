//! The key-value maps a PSBT is made of (BIP-174), and the difference between version 0 and version 2 (BIP-370).
//!
//! Version 0 keeps the unsigned transaction in the global map; version 2 spreads it over all maps. The `bitcoin` crate
//! reads version 0 only, so version 2 is turned into version 0 here, and back for whoever wants to have it.

use std::collections::BTreeMap;
use std::fmt;

use bitcoin::absolute::LockTime;
use bitcoin::consensus::{Decodable as _, deserialize, serialize};
use bitcoin::hashes::Hash as _;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, VarInt, Witness,
};

/// The longest PSBT that is read, in bytes: a signal of four inputs with nonces and partial signatures of 1 000 members
/// has a third of it.
pub const MAX_BYTES: usize = 4 << 20;

/// The most inputs, and the most outputs, of a transaction that is read.
const MAX_PARTS: usize = 10_000;

const MAGIC: &[u8] = b"psbt\xff";

/// Lock times from here on are times, below it heights.
const FIRST_TIME: u32 = 500_000_000;

/// The fields whose place differs between the versions, by their type.
mod field {
    pub(super) const UNSIGNED_TX: u8 = 0x00;
    pub(super) const TX_VERSION: u8 = 0x02;
    pub(super) const FALLBACK_LOCKTIME: u8 = 0x03;
    pub(super) const INPUT_COUNT: u8 = 0x04;
    pub(super) const OUTPUT_COUNT: u8 = 0x05;
    pub(super) const TX_MODIFIABLE: u8 = 0x06;
    pub(super) const VERSION: u8 = 0xfb;
    pub(super) const GLOBAL_OF_2: [u8; 5] = [
        TX_VERSION,
        FALLBACK_LOCKTIME,
        INPUT_COUNT,
        OUTPUT_COUNT,
        TX_MODIFIABLE,
    ];

    pub(super) const PREVIOUS_TXID: u8 = 0x0e;
    pub(super) const OUTPUT_INDEX: u8 = 0x0f;
    pub(super) const SEQUENCE: u8 = 0x10;
    pub(super) const REQUIRED_TIME: u8 = 0x11;
    pub(super) const REQUIRED_HEIGHT: u8 = 0x12;
    pub(super) const INPUT_OF_2: [u8; 5] = [
        PREVIOUS_TXID,
        OUTPUT_INDEX,
        SEQUENCE,
        REQUIRED_TIME,
        REQUIRED_HEIGHT,
    ];

    pub(super) const AMOUNT: u8 = 0x03;
    pub(super) const SCRIPT: u8 = 0x04;
    pub(super) const OUTPUT_OF_2: [u8; 2] = [AMOUNT, SCRIPT];
}

/// A map of a PSBT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The one about the whole transaction.
    Global,
    /// The one of an input, counted from 0.
    Input(usize),
    /// The one of an output, counted from 0.
    Output(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("the global map"),
            Self::Input(place) => write!(f, "input {place}"),
            Self::Output(place) => write!(f, "output {place}"),
        }
    }
}

/// Why bytes are not a PSBT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PsbtFault {
    /// More than [`MAX_BYTES`].
    #[error("it is longer than the {MAX_BYTES} bytes that are read of a PSBT")]
    TooLarge,
    /// Neither the bytes of a PSBT nor their base64.
    #[error("it is not a PSBT: neither its bytes (they begin with `psbt`) nor their base64")]
    NotAPsbt,
    /// It ends inside a map.
    #[error("it is cut off in {0}")]
    Truncated(Place),
    /// Something follows its last map.
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    /// A key occurs twice in a map.
    #[error("{place} has the field {field:#04x} twice")]
    Duplicate {
        /// The map.
        place: Place,
        /// The field's type.
        field: u8,
    },
    /// A version that is not known.
    #[error("it is version {0} of the format; versions 0 and 2 are read")]
    Version(u32),
    /// A field that this version must have.
    #[error("{place} has no field {field:#04x}, which version {version} needs")]
    Missing {
        /// The map.
        place: Place,
        /// The field's type.
        field: u8,
        /// The version.
        version: u8,
    },
    /// A field of the other version.
    #[error("{place} has the field {field:#04x}, which does not belong into version {version}")]
    OtherVersion {
        /// The map.
        place: Place,
        /// The field's type.
        field: u8,
        /// The version.
        version: u8,
    },
    /// A field whose value (or key) has another form.
    #[error("the field {field:#04x} of {place} is malformed")]
    Malformed {
        /// The map.
        place: Place,
        /// The field's type.
        field: u8,
    },
    /// No input.
    #[error("it has no inputs")]
    NoInput,
    /// More inputs or outputs than are read.
    #[error("it has {0} inputs or outputs, more than the {MAX_PARTS} that are read")]
    TooManyParts(u64),
    /// Inputs that can not be in one transaction.
    #[error("its inputs ask for both a time and a height as lock time")]
    LockTimes,
    /// A field common to both versions is malformed.
    #[error("it is malformed: {0}")]
    Content(String),
}

/// A map: whole keys (the type's byte first) to values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

/// All maps of a PSBT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maps {
    /// 0 or 2.
    version: u8,
    global: Map,
    inputs: Vec<Map>,
    outputs: Vec<Map>,
}

impl Maps {
    /// Reads all maps to the last byte, and sees that the fields that differ by version are those of its own.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, PsbtFault> {
        if bytes.len() > MAX_BYTES {
            return Err(PsbtFault::TooLarge);
        }
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(PsbtFault::NotAPsbt)?;
        let global = Map::read(&mut rest, Place::Global)?;
        let version = global.version()?;
        let (inputs, outputs) = global.counts(version)?;
        let mut maps = Self {
            version,
            global,
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        // Every map has a byte at least: what is declared and not there ends as cut off, before much is kept.
        for place in 0..inputs {
            maps.inputs.push(Map::read(&mut rest, Place::Input(place))?);
        }
        for place in 0..outputs {
            maps.outputs
                .push(Map::read(&mut rest, Place::Output(place))?);
        }
        if !rest.is_empty() {
            return Err(PsbtFault::Trailing(rest.len()));
        }
        maps.check_version()?;
        Ok(maps)
    }

    /// The version it has.
    pub(super) const fn version(&self) -> u8 {
        self.version
    }

    /// Bit 0: inputs may be added; bit 1: outputs (BIP-370). Nothing may be in version 0.
    pub(super) fn modifiable(&self) -> u8 {
        let flags = self.global.value(field::TX_MODIFIABLE);
        flags.and_then(|flags| flags.first()).copied().unwrap_or(0)
    }

    /// The same in version 0.
    pub(super) fn into_version_0(mut self) -> Result<Self, PsbtFault> {
        if self.version == 0 {
            return Ok(self);
        }
        let tx = self.transaction()?;
        self.global.remove(&field::GLOBAL_OF_2);
        self.global.remove(&[field::VERSION]);
        self.global.set(field::UNSIGNED_TX, serialize(&tx));
        for map in &mut self.inputs {
            map.remove(&field::INPUT_OF_2);
        }
        for map in &mut self.outputs {
            map.remove(&field::OUTPUT_OF_2);
        }
        self.version = 0;
        Ok(self)
    }

    /// The same in version 2, to which nothing can be added.
    pub(super) fn into_version_2(mut self) -> Result<Self, PsbtFault> {
        if self.version == 2 {
            return Ok(self);
        }
        let tx = self.global.unsigned_tx()?;
        let count = |parts: usize| serialize(&VarInt::from(parts));
        let global = &mut self.global;
        global.remove(&[field::UNSIGNED_TX]);
        global.set(field::TX_VERSION, tx.version.0.to_le_bytes().to_vec());
        let lock_time = tx.lock_time.to_consensus_u32();
        global.set(field::FALLBACK_LOCKTIME, lock_time.to_le_bytes().to_vec());
        global.set(field::INPUT_COUNT, count(tx.input.len()));
        global.set(field::OUTPUT_COUNT, count(tx.output.len()));
        global.set(field::VERSION, 2_u32.to_le_bytes().to_vec());
        for (map, input) in self.inputs.iter_mut().zip(&tx.input) {
            let spent = input.previous_output;
            map.set(field::PREVIOUS_TXID, spent.txid.to_byte_array().to_vec());
            map.set(field::OUTPUT_INDEX, spent.vout.to_le_bytes().to_vec());
            let sequence = input.sequence.to_consensus_u32();
            map.set(field::SEQUENCE, sequence.to_le_bytes().to_vec());
        }
        for (map, output) in self.outputs.iter_mut().zip(&tx.output) {
            map.set(field::AMOUNT, output.value.to_sat().to_le_bytes().to_vec());
            map.set(field::SCRIPT, output.script_pubkey.to_bytes());
        }
        self.version = 2;
        Ok(self)
    }

    /// Their bytes.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let maps = [&self.global].into_iter().chain(&self.inputs);
        for map in maps.chain(&self.outputs) {
            for (key, value) in &map.0 {
                bytes.extend(serialize(key));
                bytes.extend(serialize(value));
            }
            bytes.push(0);
        }
        bytes
    }

    /// No field of the other version; the fields of its own have their form.
    fn check_version(&self) -> Result<(), PsbtFault> {
        let inputs = (0..).map(Place::Input).zip(&self.inputs);
        let outputs = (0..).map(Place::Output).zip(&self.outputs);
        if self.version == 0 {
            self.global
                .without(&field::GLOBAL_OF_2, Place::Global, self.version)?;
            for (place, map) in inputs {
                map.without(&field::INPUT_OF_2, place, self.version)?;
            }
            for (place, map) in outputs {
                map.without(&field::OUTPUT_OF_2, place, self.version)?;
            }
            return Ok(());
        }
        self.global
            .without(&[field::UNSIGNED_TX], Place::Global, self.version)?;
        self.transaction().map(|_| ())
    }

    /// The unsigned transaction of version 2.
    fn transaction(&self) -> Result<Transaction, PsbtFault> {
        let input: Vec<TxIn> = (0..)
            .map(Place::Input)
            .zip(&self.inputs)
            .map(|(place, map)| map.input(place))
            .collect::<Result<_, _>>()?;
        let output = (0..)
            .map(Place::Output)
            .zip(&self.outputs)
            .map(|(place, map)| map.output(place))
            .collect::<Result<_, _>>()?;
        if self.global.value(field::TX_MODIFIABLE).is_some() {
            self.global
                .fixed::<1>(field::TX_MODIFIABLE, Place::Global)?;
        }
        let version = self.global.needed::<4>(field::TX_VERSION, Place::Global)?;
        Ok(Transaction {
            version: Version(i32::from_le_bytes(version)),
            lock_time: self.lock_time()?,
            input,
            output,
        })
    }

    /// The lock time that all inputs agree on (BIP-370, "Determining Lock Time").
    fn lock_time(&self) -> Result<LockTime, PsbtFault> {
        let (mut time, mut height) = (Some(0), Some(0));
        let mut asked = false;
        for (place, map) in (0..).map(Place::Input).zip(&self.inputs) {
            let wants_time = map.number(field::REQUIRED_TIME, place)?;
            let wants_height = map.number(field::REQUIRED_HEIGHT, place)?;
            if wants_time.is_some_and(|time| time < FIRST_TIME) {
                return Err(malformed(place, field::REQUIRED_TIME));
            }
            if wants_height.is_some_and(|height| height == 0 || height >= FIRST_TIME) {
                return Err(malformed(place, field::REQUIRED_HEIGHT));
            }
            if wants_time.is_none() && wants_height.is_none() {
                continue;
            }
            asked = true;
            let later = |so_far: Option<u32>, wants: Option<u32>| Some(so_far?.max(wants?));
            time = later(time, wants_time);
            height = later(height, wants_height);
        }
        let fallback = self
            .global
            .number(field::FALLBACK_LOCKTIME, Place::Global)?
            .unwrap_or(0);
        let lock_time = match (asked, height, time) {
            (false, ..) => fallback,
            (true, Some(height), _) => height,
            (true, None, Some(time)) => time,
            (true, None, None) => return Err(PsbtFault::LockTimes),
        };
        Ok(LockTime::from_consensus(lock_time))
    }
}

impl Map {
    /// Reads pairs up to the byte 0 that ends a map.
    fn read(rest: &mut &[u8], place: Place) -> Result<Self, PsbtFault> {
        let mut map = Self::default();
        loop {
            let key = take(rest, place)?;
            let Some(first) = key.first() else {
                return Ok(map);
            };
            let value = take(rest, place)?;
            if map.0.insert(key.to_vec(), value.to_vec()).is_some() {
                return Err(PsbtFault::Duplicate {
                    place,
                    field: *first,
                });
            }
        }
    }

    /// The value of a field that has no key data.
    fn value(&self, field: u8) -> Option<&[u8]> {
        self.0.get([field].as_slice()).map(Vec::as_slice)
    }

    fn set(&mut self, field: u8, value: Vec<u8>) {
        self.0.insert(vec![field], value);
    }

    fn remove(&mut self, fields: &[u8]) {
        self.0
            .retain(|key, _| key.first().is_none_or(|first| !fields.contains(first)));
    }

    /// That none of these fields is there, with key data or without.
    fn without(&self, fields: &[u8], place: Place, version: u8) -> Result<(), PsbtFault> {
        let mut types = self.0.keys().filter_map(|key| key.first());
        match types.find(|first| fields.contains(first)) {
            Some(field) => Err(PsbtFault::OtherVersion {
                place,
                field: *field,
                version,
            }),
            None => Ok(()),
        }
    }

    /// A field's value of a fixed length.
    fn fixed<const N: usize>(&self, field: u8, place: Place) -> Result<Option<[u8; N]>, PsbtFault> {
        self.value(field)
            .map(|value| value.try_into().map_err(|_| malformed(place, field)))
            .transpose()
    }

    fn number(&self, field: u8, place: Place) -> Result<Option<u32>, PsbtFault> {
        Ok(self.fixed(field, place)?.map(u32::from_le_bytes))
    }

    /// A field of version 2 that has to be there.
    fn needed<const N: usize>(&self, field: u8, place: Place) -> Result<[u8; N], PsbtFault> {
        self.fixed(field, place)?.ok_or(PsbtFault::Missing {
            place,
            field,
            version: 2,
        })
    }

    fn version(&self) -> Result<u8, PsbtFault> {
        match self.number(field::VERSION, Place::Global)? {
            None | Some(0) => Ok(0),
            Some(2) => Ok(2),
            Some(other) => Err(PsbtFault::Version(other)),
        }
    }

    /// How many inputs and outputs there are.
    fn counts(&self, version: u8) -> Result<(usize, usize), PsbtFault> {
        let (inputs, outputs) = if version == 0 {
            let tx = self.unsigned_tx()?;
            (tx.input.len() as u64, tx.output.len() as u64)
        } else {
            self.without(&[field::UNSIGNED_TX], Place::Global, version)?;
            (
                self.count(field::INPUT_COUNT)?,
                self.count(field::OUTPUT_COUNT)?,
            )
        };
        let within = |count: u64| {
            usize::try_from(count)
                .ok()
                .filter(|count| *count <= MAX_PARTS)
                .ok_or(PsbtFault::TooManyParts(count))
        };
        match (within(inputs)?, within(outputs)?) {
            (0, _) => Err(PsbtFault::NoInput),
            counts => Ok(counts),
        }
    }

    fn count(&self, field: u8) -> Result<u64, PsbtFault> {
        let value = self.value(field).ok_or(PsbtFault::Missing {
            place: Place::Global,
            field,
            version: 2,
        })?;
        let count: VarInt = deserialize(value).map_err(|_| malformed(Place::Global, field))?;
        Ok(count.0)
    }

    /// The unsigned transaction of version 0. It has no witnesses, so that one without inputs would read as one with.
    fn unsigned_tx(&self) -> Result<Transaction, PsbtFault> {
        let field = field::UNSIGNED_TX;
        let value = self.value(field).ok_or(PsbtFault::Missing {
            place: Place::Global,
            field,
            version: 0,
        })?;
        // Version, then the number of inputs.
        if value.get(4) == Some(&0) {
            return Err(PsbtFault::NoInput);
        }
        let tx: Transaction = deserialize(value).map_err(|_| malformed(Place::Global, field))?;
        // As in version 2: there is no such amount.
        if tx.output.iter().any(|out| out.value > Amount::MAX_MONEY) {
            return Err(malformed(Place::Global, field));
        }
        Ok(tx)
    }

    fn input(&self, place: Place) -> Result<TxIn, PsbtFault> {
        let txid = self.needed(field::PREVIOUS_TXID, place)?;
        let vout = self.needed(field::OUTPUT_INDEX, place)?;
        let sequence = self.number(field::SEQUENCE, place)?;
        Ok(TxIn {
            previous_output: OutPoint {
                txid: Txid::from_byte_array(txid),
                vout: u32::from_le_bytes(vout),
            },
            script_sig: ScriptBuf::new(),
            sequence: sequence.map_or(Sequence::MAX, Sequence),
            witness: Witness::new(),
        })
    }

    fn output(&self, place: Place) -> Result<TxOut, PsbtFault> {
        let sat = u64::from_le_bytes(self.needed(field::AMOUNT, place)?);
        let script = self.value(field::SCRIPT).ok_or(PsbtFault::Missing {
            place,
            field: field::SCRIPT,
            version: 2,
        })?;
        let value = Amount::from_sat(sat);
        if value > Amount::MAX_MONEY {
            return Err(malformed(place, field::AMOUNT));
        }
        Ok(TxOut {
            value,
            script_pubkey: ScriptBuf::from_bytes(script.to_vec()),
        })
    }
}

const fn malformed(place: Place, field: u8) -> PsbtFault {
    PsbtFault::Malformed { place, field }
}

/// Takes bytes with their length before them.
fn take<'a>(rest: &mut &'a [u8], place: Place) -> Result<&'a [u8], PsbtFault> {
    let truncated = PsbtFault::Truncated(place);
    let VarInt(length) = VarInt::consensus_decode(rest).map_err(|_| truncated.clone())?;
    let taken = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    let (taken, left) = taken.ok_or(truncated)?;
    *rest = left;
    Ok(taken)
}
