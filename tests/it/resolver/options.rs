//! Resolution options and sidecars, as they are read and written.

use btcr2_agent::did::ErrorCode;
use btcr2_agent::resolver::{DEFAULT_MIN_CONF, ResolutionOptions, Sidecar};
use btcr2_agent::time::UnixTime;
use serde_json::{Value, json};

use super::*;
use crate::synthetic::{Controller, cas_announcement, smt_signal};

fn read(value: Value) -> Result<ResolutionOptions, String> {
    match ResolutionOptions::from_json(&value) {
        Ok((options, _)) => Ok(options),
        Err(failure) => {
            assert_eq!(failure.code, ErrorCode::InvalidOptions);
            assert_eq!(failure.rule, None);
            Err(failure.message)
        }
    }
}

fn options(version: Option<VersionChoice>, min_conf: u32) -> ResolutionOptions {
    ResolutionOptions { version, min_conf }
}

#[test]
fn options_are_read() {
    assert_eq!(DEFAULT_MIN_CONF, 6);
    let id = |id| Some(VersionChoice::Id(id));
    for (value, expected) in [
        (json!({}), options(None, 6)),
        (
            json!({"accept": "application/did", "sidecar": {}}),
            options(None, 6),
        ),
        (json!({"versionId": "1"}), options(id(1), 6)),
        (json!({"versionId": "12"}), options(id(12), 6)),
        // Integers that no version has.
        (json!({"versionId": "0"}), options(id(0), 6)),
        (json!({"versionId": "-4"}), options(id(0), 6)),
        (json!({"versionId": "007"}), options(id(7), 6)),
        (
            json!({"versionTime": "2026-09-16T15:01:28Z", "minConf": 1}),
            options(Some(VersionChoice::Time(UnixTime(1_789_570_888))), 1),
        ),
        (json!({"minConf": 144}), options(None, 144)),
        (json!({"minConf": 7.0}), options(None, 7)),
        (
            json!({"minConf": 99_999_999_999u64}),
            options(None, u32::MAX),
        ),
    ] {
        assert_eq!(read(value.clone()), Ok(expected), "{value}");
    }
    assert_eq!(
        ResolutionOptions::from_text(Some("3"), None, Some("2")),
        Ok(options(id(3), 2))
    );
    assert_eq!(
        ResolutionOptions::from_text(None, Some("1970-01-01T00:00:00Z"), None),
        Ok(options(Some(VersionChoice::Time(UnixTime(0))), 6))
    );
    assert_eq!(
        ResolutionOptions::from_text(None, None, None),
        Ok(ResolutionOptions::default())
    );
}

#[test]
fn bad_options_are_refused_by_name() {
    for (value, expected) in [
        (json!([]), "not a JSON object"),
        (json!({"versionId": 2}), "versionId is not a string"),
        (json!({"versionId": null}), "versionId is not a string"),
        (json!({"versionId": ""}), "versionId is not an integer"),
        (json!({"versionId": "-"}), "versionId is not an integer"),
        (json!({"versionId": "1.5"}), "versionId is not an integer"),
        (json!({"versionId": "+1"}), "versionId is not an integer"),
        (json!({"versionId": " 1"}), "versionId is not an integer"),
        (json!({"versionId": "１"}), "versionId is not an integer"),
        (
            json!({"versionId": "9007199254740992"}),
            "versionId is not an integer",
        ),
        (
            json!({"versionId": "9".repeat(40)}),
            "versionId is not an integer",
        ),
        (json!({"versionTime": 5}), "versionTime is not a string"),
        (
            json!({"versionTime": "2026-09-16"}),
            "versionTime is not a UTC time",
        ),
        (
            json!({"versionTime": "2026-09-16T15:01:28.5Z"}),
            "versionTime is not a UTC time",
        ),
        (
            json!({"versionTime": "2026-09-16T15:01:28+00:00"}),
            "versionTime is not a UTC time",
        ),
        (
            json!({"versionId": "1", "versionTime": "2026-09-16T15:01:28Z"}),
            "exclude each other",
        ),
        (json!({"minConf": 0}), "minConf is not an integer from 1"),
        (json!({"minConf": -1}), "minConf is not an integer from 1"),
        (json!({"minConf": 1.5}), "minConf is not an integer from 1"),
        (json!({"minConf": "6"}), "minConf is not an integer from 1"),
        (json!({"minConf": null}), "minConf is not an integer from 1"),
        (json!({"sidecar": []}), "sidecar is not a JSON object"),
        (
            json!({"sidecar": {"updates": {}}}),
            "sidecar.updates is not an array",
        ),
    ] {
        let message = read(value.clone()).unwrap_err();
        assert!(message.contains(expected), "{value}: {message}");
    }
    for (id, time, conf) in [
        (Some("x"), None, None),
        (None, Some("x"), None),
        (None, None, Some("0")),
        (None, None, Some("six")),
        (Some("1"), Some("2026-09-16T15:01:28Z"), None),
    ] {
        let failure = ResolutionOptions::from_text(id, time, conf).unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidOptions);
    }
}

fn full() -> (Sidecar, Value) {
    let mut alice = Controller::external(Network::Regtest, 51, |builder| builder);
    let (second, third) = (alice.add_service("a"), alice.add_service("b"));
    let leaf = btcr2_agent::beacon::smt::Leaf {
        nonce: Some(SmtNonce::from_bytes([1; 32])),
        update: Some(second.hash()),
    };
    let (_, proofs) = smt_signal(&[(alice.did(), leaf)]);
    let map = cas_announcement([(alice.did(), third.hash())]);
    let mut sidecar = alice.sidecar.clone();
    sidecar.add_announcement(&map);
    sidecar.add_proof(&proofs[0]);
    let value = json!({
        "@context": "https://btcr2.dev/context/v1",
        "genesisDocument": alice.sidecar.genesis().unwrap(),
        "updates": [second.value(), third.value()],
        "casUpdates": [{alice.did().as_str(): third.hash()}],
        "smtProofs": [proofs[0]],
    });
    (sidecar, value)
}

#[test]
fn a_sidecar_is_written_as_the_specification_has_it_and_read_again() {
    let (sidecar, value) = full();
    assert_eq!(sidecar.to_value(), value);
    assert_eq!(
        sidecar.canonical_bytes(),
        btcr2_agent::did::json::canonicalize(&value).unwrap()
    );
    assert_eq!(Sidecar::from_value(&value).unwrap(), sidecar);
    assert_eq!(Sidecar::parse(value.to_string()).unwrap(), sidecar);
    assert_eq!(Sidecar::parse(sidecar.canonical_bytes()).unwrap(), sidecar);
    let (_, from_options) = ResolutionOptions::from_json(&json!({"sidecar": value})).unwrap();
    assert_eq!(from_options, sidecar);
    assert_eq!(sidecar.updates().len(), 2);
    for (hash, update) in sidecar.updates() {
        let parsed = btcr2_agent::did::SignedUpdate::from_value(update).unwrap();
        assert_eq!(parsed.hash(), hash);
    }
    let empty = Sidecar::default();
    assert!(empty.is_empty() && !sidecar.is_empty());
    assert_eq!(
        empty.to_value(),
        json!({"@context": "https://btcr2.dev/context/v1"})
    );
    assert_eq!(Sidecar::parse("{}").unwrap(), empty);
}

#[test]
fn members_that_are_null_unknown_or_unused_do_no_harm() {
    let value = json!({
        "genesisDocument": null, "updates": null, "casUpdates": null, "smtProofs": null,
        "@context": 7, "notes": {"updates": [1]},
    });
    assert!(Sidecar::from_value(&value).unwrap().is_empty());
    assert!(Sidecar::parse(value.to_string()).unwrap().is_empty());
    let odd = json!({
        "updates": [null, 1, "x", {}, []],
        "casUpdates": [[], {"a": 1}],
        "smtProofs": [null, {}, {"id": 3}, "AA"],
    });
    let sidecar = Sidecar::from_value(&odd).unwrap();
    assert_eq!(
        (sidecar.updates().len(), sidecar.announcements().len()),
        (5, 2)
    );
    assert_eq!(sidecar.proofs().count(), 0);
    assert_eq!(Sidecar::parse(odd.to_string()).unwrap(), sidecar);
}

#[test]
fn merging_adds_what_is_missing() {
    let (sidecar, value) = full();
    let mut parts = Vec::new();
    for name in ["genesisDocument", "updates", "casUpdates", "smtProofs"] {
        parts.push(Sidecar::from_value(&json!({name: value[name]})).unwrap());
    }
    let mut merged = Sidecar::default();
    for part in parts.iter().rev().chain(&parts) {
        merged.merge(part.clone());
    }
    assert_eq!(merged, sidecar);
    // What is there stays.
    let other = Sidecar::from_value(&json!({"genesisDocument": {"id": "x"}})).unwrap();
    merged.merge(other);
    assert_eq!(merged, sidecar);
}

#[test]
fn equal_entries_count_once_however_they_are_written() {
    let (sidecar, value) = full();
    let mut text = value.to_string();
    text = text.replacen("\"updates\":[", "\"updates\":[ ", 1);
    let mut twice = value.clone();
    for name in ["updates", "casUpdates", "smtProofs"] {
        let items = twice[name].as_array_mut().unwrap();
        let mut again = items.clone();
        again.reverse();
        items.extend(again);
    }
    assert_eq!(Sidecar::parse(text).unwrap(), sidecar);
    assert_eq!(Sidecar::from_value(&twice).unwrap(), sidecar);
    // 2.0 and 2e0 are the number 2.
    let written = value
        .to_string()
        .replace("\"targetVersionId\":2", "\"targetVersionId\":2e0");
    assert_ne!(written, value.to_string());
    assert_eq!(Sidecar::parse(written).unwrap(), sidecar);
}
