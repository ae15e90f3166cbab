//! The `signals.json` of the upstream test suite: an array of entries, one per signal and beacon.
//!
//! Also read: an object with `signals` (an array) or `signal` (one entry), and one entry alone. Members that are
//! not known here are left alone, for the suite adds some now and then.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Txid;
use serde_json::Value;

use super::{Recording, RecordingError};
use crate::did::Did;
use crate::did::json::parse_strict;
use crate::hash::SignalBytes;
use crate::network::Network;
use crate::resolver::{ChainSignal, DEFAULT_MIN_CONF, SignalBlock};
use crate::time::UnixTime;

/// Names the suite uses, or used, for one thing.
const TIP: [&str; 2] = ["recordedTip", "tip"];
const HEIGHT: [&str; 2] = ["blockHeight", "height"];
const TIME: [&str; 2] = ["blockTime", "time"];
const MEDIAN: [&str; 3] = ["mediantime", "medianTime", "medianTimePast"];
const SIGNAL: [&str; 2] = ["signalBytes", "signal"];

pub(super) fn parse(bytes: &[u8], network: Network) -> Result<Recording, RecordingError> {
    let value = parse_strict(bytes)?;
    let mut tips: Vec<u32> = Vec::new();
    let top_level = member(&value, &TIP);
    tips.extend(top_level.and_then(height_of));
    let entries: Vec<&Value> = match (&value, value.get("signals"), value.get("signal")) {
        (Value::Array(entries), _, _) | (_, Some(Value::Array(entries)), _) => {
            entries.iter().collect()
        }
        // The signal bytes of a single entry are a text.
        (_, None, Some(entry @ Value::Object(_))) => vec![entry],
        (entry, None, _) => vec![entry],
        (_, Some(_), _) => {
            return Err(RecordingError::Entry {
                index: 0,
                problem: "signals is not an array".to_owned(),
            });
        }
    };

    let mut addresses: BTreeMap<String, Vec<ChainSignal>> = BTreeMap::new();
    let mut subjects = BTreeSet::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let wrong = |problem: String| RecordingError::Entry { index, problem };
        let text = text(entry, &["address"]).map_err(wrong)?;
        let address = super::address(text, network).ok_or_else(|| RecordingError::Address {
            address: text.to_owned(),
            network,
        })?;
        let signal = signal(entry).map_err(wrong)?;
        if let Some(did) = subject(entry) {
            // Test networks share the addresses that begin with m and n.
            if did.network() != network {
                return Err(RecordingError::OtherNetwork {
                    found: did.network(),
                    expected: network,
                });
            }
            subjects.insert(did.to_string());
        }
        tips.extend(member(entry, &TIP).and_then(height_of));
        let known = addresses.entry(address.to_string()).or_default();
        // Members of one cohort may repeat their shared signal.
        if !known.contains(&signal) {
            known.push(signal);
        }
    }
    let highest = addresses
        .values()
        .flatten()
        .filter_map(|signal| signal.block)
        .map(|block| block.height)
        .max();
    let settled = highest.map_or(0, |height| height.saturating_add(DEFAULT_MIN_CONF - 1));
    let noted = tips.into_iter().max();
    let mut recording = Recording {
        addresses,
        subjects,
        ..Recording::without_signals(network)
    };
    recording = recording.at_height(noted.unwrap_or(settled));
    recording.tip_is_noted = noted.is_some();
    recording.check()?;
    Ok(recording)
}

/// The DID whose beacon an entry names; a relative id names none.
fn subject(entry: &Value) -> Option<Did> {
    let id = entry.get("beaconId")?.as_str()?;
    id.split('#').next()?.parse().ok()
}

fn signal(entry: &Value) -> Result<ChainSignal, String> {
    let signal = text(entry, &SIGNAL)?;
    let signal: SignalBytes = signal
        .parse()
        .map_err(|error| format!("signalBytes: {error}"))?;
    let txid: Txid = text(entry, &["txid"])?
        .parse()
        .map_err(|_| "txid is no transaction id".to_owned())?;
    let block = if member(entry, &HEIGHT).is_none_or(Value::is_null) {
        None
    } else {
        Some(SignalBlock {
            height: number(entry, &HEIGHT)?
                .try_into()
                .map_err(|_| "blockHeight is no height".to_owned())?,
            hash: text(entry, &["blockHash"])?
                .parse()
                .map_err(|_| "blockHash is no block hash".to_owned())?,
            time: UnixTime(number(entry, &TIME)?),
            median_time: UnixTime(number(entry, &MEDIAN)?),
        })
    };
    Ok(ChainSignal {
        txid,
        signal,
        block,
    })
}

/// The first of several names that an object has.
fn member<'a>(object: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| object.get(name))
}

fn text<'a>(entry: &'a Value, names: &[&str]) -> Result<&'a str, String> {
    let found = member(entry, names).and_then(Value::as_str);
    found.ok_or_else(|| format!("{} is not a text", names.first().unwrap_or(&"")))
}

fn number(entry: &Value, names: &[&str]) -> Result<u64, String> {
    let found = member(entry, names).and_then(Value::as_u64);
    found.ok_or_else(|| {
        format!(
            "{} is not a whole number from 0 on",
            names.first().unwrap_or(&"")
        )
    })
}

/// A height given as a number, or as the height of a block.
fn height_of(tip: &Value) -> Option<u32> {
    let number = tip.as_u64().or_else(|| member(tip, &HEIGHT)?.as_u64())?;
    number.try_into().ok()
}
