//! The upstream test suite's sets of September 2026 (`tests/vectors/SOURCES.md`), whole.

use bitcoin::Address;
use btcr2_agent::did::{Rule, json};
use btcr2_agent::resolver::{BlockRef, ChainSignal, Sidecar, SignalBlock, Strictness};
use btcr2_agent::time::UnixTime;
use serde_json::{Value, json};

use super::*;
use crate::synthetic::Question;

const SETS: &str = include_str!("../../vectors/regtest-upstream-2026-09.json");
const TIP: u32 = 601;

fn sets() -> Vec<(String, Value)> {
    let sets: Value = serde_json::from_str(SETS).unwrap();
    sets.as_object().unwrap().clone().into_iter().collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn signals(set: &Value) -> Vec<(Address, ChainSignal)> {
    let all = match set.get("signals") {
        Some(signals) => signals.as_array().unwrap().clone(),
        None => vec![set["signal"].clone()],
    };
    let read = |signal: &Value| {
        let address: Address<_> = text(signal, "address").parse().unwrap();
        let block = SignalBlock {
            height: signal["blockHeight"].as_u64().unwrap().try_into().unwrap(),
            hash: text(signal, "blockHash").parse().unwrap(),
            time: UnixTime(signal["blockTime"].as_u64().unwrap()),
            median_time: UnixTime(signal["mediantime"].as_u64().unwrap()),
        };
        let signal = ChainSignal {
            txid: text(signal, "txid").parse().unwrap(),
            signal: text(signal, "signalBytes").parse().unwrap(),
            block: Some(block),
        };
        (
            address.require_network(bitcoin::Network::Regtest).unwrap(),
            signal,
        )
    };
    all.iter().map(read).collect()
}

fn resolve(set: &Value, options: &Value, strictness: Strictness) -> Resolution {
    let (options, sidecar) = ResolutionOptions::from_json(options).unwrap();
    let did = text(&set["resolveInput"], "did").parse().unwrap();
    let mut question = Question::new(&did, sidecar).by(options);
    question.strictness = strictness;
    let signals = signals(set);
    let tip = BlockRef {
        height: TIP,
        hash: crate::synthetic::block(TIP).hash,
    };
    let of = |address: &Address| {
        let mine = signals.iter().filter(|(a, _)| a == address);
        mine.map(|(_, signal)| *signal).collect::<Vec<_>>()
    };
    let resolution = question.drive(of, tip, false);
    assert_eq!(question.drive(of, tip, true), resolution);
    resolution
}

#[test]
fn every_set_gives_its_document_and_metadata() {
    let mut outcomes = Vec::new();
    for (name, set) in sets() {
        let options = &set["resolveInput"]["resolutionOptions"];
        let resolution = resolve(&set, options, Strictness::before_october_2026());
        let value = resolution.to_value();
        if let Some(error) = set["expect"].get("error") {
            assert_eq!(value["didResolutionMetadata"]["error"], *error, "{name}");
            assert_eq!(value["didDocument"], Value::Null);
            assert_eq!(failure(&resolution).rule, Some(Rule::SmtProofNotVerified));
            outcomes.push((name, 0));
            continue;
        }
        let expect = &set["expect"];
        assert_eq!(value["didDocument"], expect["didDocument"], "{name}");
        let found = &value["didDocumentMetadata"];
        assert_eq!(found["versionId"], expect["versionId"]);
        assert_eq!(found["deactivated"], expect["deactivated"]);
        let height = signals(&set)[0].1.block.unwrap().height;
        assert_eq!(found["confirmations"], TIP - height + 1);
        let updated = expect.get("updated").cloned();
        let updated = updated.unwrap_or_else(|| match height {
            283 => "2026-09-16T15:01:28Z".into(),
            _ => "2026-09-22T21:41:41Z".into(),
        });
        assert_eq!(found["updated"], updated, "{name}");
        assert_eq!(
            value["didResolutionMetadata"],
            json!({"contentType": "application/did"})
        );
        outcomes.push((name, metadata(&resolution).0));
    }
    outcomes.sort();
    let names: Vec<_> = outcomes.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    assert_eq!(
        names,
        [
            ("02-k1-sidecar-update", 2),
            ("07-k1-sidecar-deactivate", 2),
            ("10a-x1-sidecar-update-cas-announcement", 2),
            ("12a-x1-sidecar-update-smt-proof", 2),
            ("25a-x1-smt-update-no-nonce", 2),
            ("n29-x1-smt-proof-hash", 0),
        ]
    );
}

#[test]
fn without_the_switch_they_lack_an_invocation_target() {
    for (name, set) in sets() {
        let options = &set["resolveInput"]["resolutionOptions"];
        let resolution = resolve(&set, options, Strictness::default());
        let rule = if name.starts_with("n29") {
            Rule::SmtProofNotVerified
        } else {
            Rule::ProofInvocationTargetMismatch
        };
        assert_eq!(failure(&resolution).rule, Some(rule), "{name}");
        let value = resolution.to_value();
        let metadata = &value["didResolutionMetadata"];
        assert_eq!(metadata["error"], rule.code().as_str());
        assert_eq!(metadata["rule"], rule.as_str());
        assert_eq!(value["didDocumentMetadata"], json!({}));
    }
}

#[test]
fn the_first_version_of_every_set_is_its_initial_document() {
    for (name, set) in sets() {
        if name.starts_with("n29") {
            continue;
        }
        let mut options = set["resolveInput"]["resolutionOptions"].clone();
        options["versionId"] = "1".into();
        let resolution = resolve(&set, &options, Strictness::before_october_2026());
        let update = &options["sidecar"]["updates"][0];
        let document = resolved(&resolution).document.value();
        assert_eq!(
            json::document_hash(document).to_string(),
            text(update, "sourceHash")
        );
        assert_eq!(metadata(&resolution), (1, 0, false, None), "{name}");
        // At the median time of the block the update counts, a second before it does not.
        let median = signals(&set)[0].1.block.unwrap().median_time.0;
        for (time, version) in [(median, 2), (median - 1, 1)] {
            let mut options = set["resolveInput"]["resolutionOptions"].clone();
            let time = btcr2_agent::did::datetime::DateTime::from(UnixTime(time));
            options["versionTime"] = time.to_string().into();
            let resolution = resolve(&set, &options, Strictness::before_october_2026());
            assert_eq!(metadata(&resolution).0, version);
        }
    }
}

#[test]
fn sets_resolve_from_storage_alone_where_they_can() {
    for (name, set) in sets() {
        let options = &set["resolveInput"]["resolutionOptions"];
        let (_, sidecar) = ResolutionOptions::from_json(options).unwrap();
        let did = text(&set["resolveInput"], "did").parse().unwrap();
        let mut question = Question::new(&did, Sidecar::default());
        question.strictness = Strictness::before_october_2026();
        for object in sidecar.genesis().into_iter() {
            question = question.stored(object);
        }
        for (_, object) in sidecar.updates() {
            question = question.stored(object);
        }
        for (_, object) in sidecar.announcements() {
            question = question.stored(object);
        }
        let signals = signals(&set);
        let tip = BlockRef {
            height: TIP,
            hash: crate::synthetic::block(TIP).hash,
        };
        let of = |address: &Address| {
            let mine = signals.iter().filter(|(a, _)| a == address);
            mine.map(|(_, signal)| *signal).collect::<Vec<_>>()
        };
        let resolution = question.drive(of, tip, true);
        if sidecar.proofs().count() > 0 {
            let failure = failure(&resolution);
            assert_eq!(failure.rule, Some(Rule::SmtProofMissing), "{name}");
        } else {
            assert_eq!(
                *resolved(&resolution).document.value(),
                set["expect"]["didDocument"]
            );
        }
    }
}
