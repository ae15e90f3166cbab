use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::hash::SignalBytes;
use crate::time::UnixTime;

const NETWORK: Network = Network::Regtest;
const ADDRESS: &str = "bcrt1qfw95sv44pyh404rkjsnzp8txvav5eytacekcad";
const OTHER: &str = "n4PmTdLkRhxnreFzW2cKE3hYrWmmratT2P";

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn sample() -> Value {
    json!({
        "format": FORMAT,
        "network": "regtest",
        "tip": {"height": 601, "hash": hex(0xaa)},
        "addresses": {
            ADDRESS: [
                {
                    "txid": hex(1),
                    "signal": hex(2),
                    "block": {"height": 585, "hash": hex(3), "time": 1_790_113_301, "medianTime": 1_790_113_151},
                },
                {"txid": hex(4), "signal": hex(5)},
            ],
            OTHER: [],
        },
        "objects": {"RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o": "e30"},
    })
}

fn read(value: &Value) -> Result<Recording, RecordingError> {
    Recording::parse(value.to_string().as_bytes(), NETWORK)
}

fn address(text: &str) -> Address {
    super::address(text, NETWORK).unwrap()
}

fn signals(text: &str) -> Result<Recording, RecordingError> {
    Recording::parse(text.as_bytes(), NETWORK)
}

/// One entry of the upstream suite, of its set 12a.
fn entry() -> Value {
    json!({
        "update": 1,
        "beaconId": "did:btcr2:x1qfwwah7zf75x9lw4kugpfkukzpagpgfn4pz5pxp9yurvx88yp0wfk3d8qy8#cohortBeacon",
        "address": ADDRESS,
        "txid": "a0f2bfc0ae1f2ca405db10d2755d0f3be858244565544f22d7991b7c97bb1f30",
        "blockHeight": 585,
        "blockHash": "1041b241dc11337f071ec103c0cce80f7782710fd4177e5e0a6d6d81e2622686",
        "blockTime": 1_790_113_301,
        "mediantime": 1_790_113_151,
        "signalBytes": "39d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d5",
        "cohort": {"id": "smt-12", "members": ["12a", "12b"]},
    })
}

#[test]
fn a_recording_is_read_and_written_as_documented() {
    let recording = read(&sample()).unwrap();
    assert_eq!(recording.network(), NETWORK);
    assert_eq!(recording.tip().height, 601);
    assert!(recording.tip_is_noted());
    let [confirmed, waiting] = recording.signals_of(&address(ADDRESS)).unwrap() else {
        panic!("two signals");
    };
    assert_eq!(confirmed.signal, SignalBytes::from_bytes([2; 32]));
    let block = confirmed.block.unwrap();
    assert_eq!(block.time, UnixTime(1_790_113_301));
    assert_eq!(block.median_time, UnixTime(1_790_113_151));
    assert_eq!(confirmed.confirmations(recording.tip()), 17);
    assert_eq!(waiting.block, None);
    assert_eq!(recording.signals_of(&address(OTHER)), Some(&[][..]));
    let elsewhere = address("bcrt1qnazmwtruwr7h4ag2yea3spa2nc3aal23vyw3pl");
    assert_eq!(recording.signals_of(&elsewhere), None, "not looked up");
    assert_eq!(recording.object(&sha256(b"{}")), Some(&b"{}"[..]));

    let written = recording.to_json();
    let value: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(value, sample());
    assert!(written.starts_with("{\n  \"format\": \"btcr2-agent/chain-recording/1\",\n"));
    assert_eq!(read(&value).unwrap().to_json(), written);
}

#[test]
fn the_documented_example_is_one() {
    let text = include_str!("../../../docs/recordings.md");
    let example = text.split("```json\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let recording = signals(example).unwrap();
    assert_eq!(format!("{}\n", recording.to_json().trim_end()), example);
}

#[test]
fn what_is_not_a_recording_is_refused_by_its_member() {
    type Change = fn(&mut Value);
    let rows: [(Change, &str); 24] = [
        (
            |r| r["format"] = json!("btcr2-agent/chain-recording/2"),
            "this version reads",
        ),
        (|r| r["format"] = json!(1), "invalid type"),
        (|r| r["network"] = json!("mainnet"), "unknown variant"),
        (
            |r| r["network"] = json!("signet"),
            "is no address of signet",
        ),
        (|r| r["more"] = json!(1), "unknown field `more`"),
        (|r| r["tip"]["height"] = json!("601"), "invalid type"),
        (|r| r["tip"]["height"] = json!(601.0), "invalid type"),
        (|r| r["tip"]["height"] = json!(-1), "invalid value"),
        (|r| r["tip"]["hash"] = json!("aa"), "docs/recordings.md"),
        (|r| r["tip"]["medianTime"] = json!(1), "unknown field"),
        (
            |r| {
                r["tip"].as_object_mut().unwrap().remove("hash");
            },
            "missing field `hash`",
        ),
        (|r| r["addresses"] = json!([]), "invalid type"),
        (
            |r| r["addresses"]["bc1q"] = json!([]),
            "is no address of regtest",
        ),
        (
            |r| r["addresses"]["BCRT1QNAZMWTRUWR7H4AG2YEA3SPA2NC3AAL23VYW3PL"] = json!([]),
            "is no address of regtest",
        ),
        (
            |r| r["addresses"][ADDRESS][1]["signal"] = json!(hex(0xab).to_uppercase()),
            "hexadecimal",
        ),
        (
            |r| r["addresses"][ADDRESS][1]["confirmed"] = json!(false),
            "unknown field",
        ),
        (
            |r| r["addresses"][ADDRESS][1]["txid"] = json!(hex(1)),
            "recorded twice",
        ),
        (
            |r| r["addresses"][ADDRESS][0]["block"]["medianTime"] = json!(1_790_113_302),
            "after its own",
        ),
        (
            |r| r["addresses"][ADDRESS][0]["block"]["height"] = json!(601),
            "two blocks at height 601",
        ),
        (
            |r| {
                let mut again = r["addresses"][ADDRESS][0].clone();
                again["block"]["time"] = json!(1_790_113_302);
                r["addresses"][OTHER] = json!([again]);
            },
            "contradicts itself about block 0303",
        ),
        (
            |r| r["objects"]["x"] = json!("e30"),
            "the recorded object x",
        ),
        (
            |r| r["objects"]["RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o"] = json!("W10"),
            "has another hash",
        ),
        (
            |r| r["objects"]["RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o"] = json!("e30="),
            "has another hash",
        ),
        (|r| r["objects"] = json!({"a": 1}), "invalid type"),
    ];
    for (change, expected) in rows {
        let mut value = sample();
        change(&mut value);
        let error = read(&value).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    }
}

#[test]
fn names_given_twice_are_refused() {
    let text = sample().to_string();
    for (once, twice) in [
        (r#""network":"#, r#""network":"regtest","network":"#),
        (r#""height":585"#, r#""height":585,"height":585"#),
        (
            &format!(r#""{OTHER}":[]"#),
            &format!(r#""{OTHER}":[],"{OTHER}":[]"#),
        ),
        (r#""objects":{"#, r#""objects":{"a":"","a":"","#),
    ] {
        let changed = text.replacen(once, twice, 1);
        assert_ne!(changed, text);
        let error = signals(&changed).unwrap_err().to_string();
        assert!(
            error.contains("duplicate field") || error.contains("given twice"),
            "{error}"
        );
    }
}

#[test]
fn another_network_is_named() {
    let error = Recording::parse(sample().to_string().as_bytes(), Network::Mutinynet).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the recording is of regtest, but the DID is on mutinynet: record it on mutinynet"
    );
}

#[test]
fn signals_of_the_upstream_suite_are_read_in_every_form() {
    let one = entry();
    for text in [
        json!([one]),
        json!({"signals": [one]}),
        json!({"signal": one}),
        one.clone(),
        // The members of a cohort may each tell.
        json!([one, one]),
    ] {
        let recording = signals(&text.to_string()).unwrap();
        let [signal] = recording.signals_of(&address(ADDRESS)).unwrap() else {
            panic!("one signal: {text}");
        };
        assert_eq!(
            signal.signal.to_string(),
            "39d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d5"
        );
        let block = signal.block.unwrap();
        assert_eq!(block.height, 585);
        assert_eq!(block.median_time, UnixTime(1_790_113_151));
        // All signals there are: another address sent none.
        assert_eq!(recording.signals_of(&address(OTHER)), Some(&[][..]));
        assert_eq!(recording.tip().height, 590, "six confirmations");
        assert!(!recording.tip_is_noted());
    }
    assert_eq!(signals("[]").unwrap(), Recording::without_signals(NETWORK));
}

#[test]
fn signals_name_the_did_they_are_about() {
    let about = |beacon: &str| {
        let mut one = entry();
        one["beaconId"] = json!(beacon);
        signals(&json!([one]).to_string())
    };
    let did: Did = entry()["beaconId"]
        .as_str()
        .unwrap()
        .split('#')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let key: secp256k1::PublicKey = format!(
        "02{}",
        "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    )
    .parse()
    .unwrap();
    let other = Did::from_key(NETWORK, &key);
    assert!(about(&format!("{did}#x")).unwrap().is_about(&did));
    assert!(!about(&format!("{did}#x")).unwrap().is_about(&other));
    assert!(about("#x").unwrap().is_about(&other), "unknown");
    // One of the addresses that test networks share.
    let elsewhere = Did::from_key(Network::Signet, &key);
    let error = about(&format!("{elsewhere}#x")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("of signet, but the DID is on regtest"),
        "{error}"
    );
}

#[test]
fn the_highest_recorded_tip_counts() {
    let mut entries = [entry(), entry()];
    entries[0]["recordedTip"] = json!(601);
    entries[1]["txid"] = json!(hex(7));
    entries[1]["recordedTip"] = json!(599);
    let recording = signals(&json!(entries).to_string()).unwrap();
    assert_eq!(recording.tip().height, 601);
    assert_eq!(
        recording.tip().hash,
        BlockHash::all_zeros(),
        "nobody noted it"
    );
    assert!(recording.tip_is_noted());
    // A tip that is a signal's own block has that block's hash.
    let at = signals(&json!({"signals": [entry()], "recordedTip": 585}).to_string()).unwrap();
    assert_eq!(at.tip().height, 585);
    assert_eq!(at.tip().hash.to_string(), entry()["blockHash"]);
    let written = at.at_height(700).to_json();
    assert_eq!(signals(&written).unwrap().tip().height, 700);
}

#[test]
fn entries_that_are_no_signals_are_refused_by_their_number() {
    type Change = fn(&mut Value);
    let rows: [(Change, &str); 10] = [
        (
            |e| e["address"] = json!(1),
            "entry 1 of the signals: address is not a text",
        ),
        (
            |e| e["address"] = json!("bc1qfw95sv44pyh404rkjsnzp8txvav5eytacekcad"),
            "is no address of regtest",
        ),
        (
            |e| e["txid"] = json!("zz"),
            "entry 1 of the signals: txid is no",
        ),
        (
            |e| e["signalBytes"] = json!("39"),
            "entry 1 of the signals: signalBytes: 1 bytes",
        ),
        (
            |e| e["blockHeight"] = json!("585"),
            "entry 1 of the signals: blockHeight is not",
        ),
        (
            |e| e["blockHeight"] = json!(1u64 << 32),
            "entry 1 of the signals: blockHeight is no",
        ),
        (
            |e| e["mediantime"] = json!(null),
            "entry 1 of the signals: mediantime is not",
        ),
        (
            |e| e["blockTime"] = json!(1_790_199_999),
            "contradicts itself",
        ),
        (|e| e["blockTime"] = json!(1), "after its own"),
        (
            |e| *e = json!([]),
            "entry 1 of the signals: address is not a text",
        ),
    ];
    for (change, expected) in rows {
        let mut second = entry();
        second["txid"] = json!(hex(8));
        change(&mut second);
        let error = signals(&json!([entry(), second]).to_string())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error:?} for {expected:?}");
    }
    for text in ["", "1", "\"x\"", "{\"signals\": 1}", "[[]]", "{", "[1,]"] {
        assert!(signals(text).is_err(), "{text}");
    }
}

#[test]
fn unconfirmed_signals_have_no_block() {
    let mut waiting = entry();
    waiting["blockHeight"] = json!(null);
    let recording = signals(&json!([waiting]).to_string()).unwrap();
    assert_eq!(recording.signals().next().unwrap().block, None);
    assert_eq!(recording.tip().height, 0);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Recording::parse(&bytes, NETWORK);
    }

    #[test]
    fn a_changed_recording_is_refused_or_reads_back(
        at in 0usize..1000,
        byte in any::<u8>(),
    ) {
        let mut bytes = read(&sample()).unwrap().to_json().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(recording) = Recording::parse(&bytes, NETWORK) {
            let written = recording.to_json();
            prop_assert_eq!(Recording::parse(written.as_bytes(), NETWORK).unwrap(), recording);
        }
    }

    #[test]
    fn changed_signals_are_refused_or_read_back(at in 0usize..2000, byte in any::<u8>()) {
        let mut bytes = json!([entry()]).to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(recording) = Recording::parse(&bytes, NETWORK) {
            let written = recording.to_json();
            let again = Recording::parse(written.as_bytes(), NETWORK);
            // The own format is stricter: a block's times are in order.
            if let Ok(again) = again {
                prop_assert_eq!(again.tip(), recording.tip());
                prop_assert!(again.signals().eq(recording.signals()));
            }
        }
    }
}
