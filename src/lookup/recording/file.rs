//! The recording's own file format, version 1 (docs/recordings.md).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use bitcoin::{Address, BlockHash, Txid};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeserializeMacro, Serialize};

use super::{Recording, RecordingError};
use crate::hash::{DocumentHash, SignalBytes, from_base64url, to_base64url};
use crate::network::Network;
use crate::resolver::{BlockRef, ChainSignal, SignalBlock};
use crate::time::UnixTime;

/// The `format` of a recording.
pub const FORMAT: &str = "btcr2-agent/chain-recording/1";

#[derive(Serialize, DeserializeMacro)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    network: Network,
    tip: TipText,
    addresses: Members<Vec<SignalText>>,
    #[serde(default, skip_serializing_if = "Members::is_empty")]
    objects: Members<String>,
}

#[derive(Serialize, DeserializeMacro)]
#[serde(deny_unknown_fields)]
struct TipText {
    height: u32,
    hash: BlockHash,
}

#[derive(Serialize, DeserializeMacro)]
#[serde(deny_unknown_fields)]
struct SignalText {
    txid: Txid,
    signal: SignalBytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<BlockText>,
}

#[derive(Serialize, DeserializeMacro)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BlockText {
    height: u32,
    hash: BlockHash,
    time: u64,
    median_time: u64,
}

/// Whether the text is an object with a member `format`: then it is one of ours, or of a later version.
pub(super) fn names_a_format(bytes: &[u8]) -> bool {
    #[derive(DeserializeMacro)]
    struct Probe {
        #[serde(default)]
        format: Option<de::IgnoredAny>,
    }
    // An array would be read as the struct's members in order.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    is_object && serde_json::from_slice::<Probe>(bytes).is_ok_and(|probe| probe.format.is_some())
}

pub(super) fn parse(bytes: &[u8]) -> Result<Recording, RecordingError> {
    let probe: Named = serde_json::from_slice(bytes)?;
    if probe.format != FORMAT {
        return Err(RecordingError::Format(probe.format));
    }
    let file: File = serde_json::from_slice(bytes)?;
    let network = file.network;
    let tip = BlockRef {
        height: file.tip.height,
        hash: file.tip.hash,
    };
    let mut recording = Recording::new(network, tip);
    for (text, signals) in file.addresses.0 {
        let address = address(&text, network)?;
        let signals = signals.into_iter().map(SignalText::into_signal).collect();
        recording.add_signals(&address, signals);
    }
    for (text, content) in file.objects.0 {
        let wrong = || RecordingError::Object(text.clone());
        let hash: DocumentHash = text.parse().map_err(|_| wrong())?;
        let bytes = from_base64url(&content).map_err(|_| wrong())?;
        // Inserted as it is: the check says if it is something else.
        recording.objects.insert(hash.to_bytes(), bytes);
    }
    recording.check()?;
    Ok(recording)
}

/// What is read of a recording of any version.
#[derive(DeserializeMacro)]
struct Named {
    format: String,
}

/// An address in its own spelling: the key under which it is looked for.
fn address(text: &str, network: Network) -> Result<Address, RecordingError> {
    super::address(text, network)
        .filter(|address| address.to_string() == text)
        .ok_or_else(|| RecordingError::Address {
            address: text.to_owned(),
            network,
        })
}

pub(super) fn write(recording: &Recording) -> String {
    let file = File {
        format: FORMAT.to_owned(),
        network: recording.network,
        tip: TipText {
            height: recording.tip.height,
            hash: recording.tip.hash,
        },
        addresses: Members(
            recording
                .addresses
                .iter()
                .map(|(address, signals)| {
                    let signals = signals.iter().map(SignalText::of).collect();
                    (address.clone(), signals)
                })
                .collect(),
        ),
        objects: Members(
            recording
                .objects
                .iter()
                .map(|(hash, bytes)| (to_base64url(hash), to_base64url(bytes)))
                .collect(),
        ),
    };
    #[allow(clippy::expect_used)]
    let mut text = serde_json::to_string_pretty(&file)
        .expect("texts, numbers and maps with text keys have a JSON form");
    text.push('\n');
    text
}

impl SignalText {
    fn into_signal(self) -> ChainSignal {
        ChainSignal {
            txid: self.txid,
            signal: self.signal,
            block: self.block.map(|block| SignalBlock {
                height: block.height,
                hash: block.hash,
                time: UnixTime(block.time),
                median_time: UnixTime(block.median_time),
            }),
        }
    }

    fn of(signal: &ChainSignal) -> Self {
        Self {
            txid: signal.txid,
            signal: signal.signal,
            block: signal.block.map(|block| BlockText {
                height: block.height,
                hash: block.hash,
                time: block.time.0,
                median_time: block.median_time.0,
            }),
        }
    }
}

/// An object of any names, none of them twice.
#[derive(Serialize)]
#[serde(transparent)]
struct Members<T>(BTreeMap<String, T>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Members<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = BTreeMap<String, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if members.contains_key(&name) {
                        return Err(de::Error::custom(format_args!("{name:?} is given twice")));
                    }
                    members.insert(name, value);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Reader(PhantomData)).map(Self)
    }
}
