//! `did conform`: sets of the upstream layout, transcribed and made here, and sets that must fail.

use std::fs;
use std::path::{Path, PathBuf};

use bitcoin::hashes::Hash as _;
use bitcoin::{BlockHash, Txid};
use btcr2_agent::did::datetime::DateTime;
use btcr2_agent::did::{BeaconKind, Did, Document, KeyAddress, PatchBuilder, SignedUpdate};
use btcr2_agent::hash::{SignalBytes, sha256, to_hex};
use btcr2_agent::network::Network;
use btcr2_agent::time::UnixTime;
use serde_json::{Value, json};

use super::{home, run, stderr, stdout};
use crate::lookup::{external, public_key};
use crate::synthetic::{Controller, announcing, cas_announcement, keypair};

const BEFORE_OCTOBER: &str = "--allow-missing-invocation-target";

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/conform")
}

fn conform(dir: &Path, flags: &[&str]) -> std::process::Output {
    let home = home();
    let mut line = vec!["did", "conform", dir.to_str().unwrap()];
    line.extend(flags);
    run(home.path(), line)
}

/// The checks of a run with `--json`, and its exit status.
fn checks(dir: &Path, flags: &[&str]) -> (i32, Vec<Value>) {
    let output = conform(dir, &[flags, &["--json"]].concat());
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    let code = output.status.code().unwrap();
    assert_eq!(object["ok"], json!(code == 0));
    (code, object["result"]["checks"].as_array().unwrap().clone())
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string_pretty(value).unwrap()).unwrap();
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Copies a committed set and gives its directory inside `to`.
fn copy(set: &str, to: &Path) -> PathBuf {
    fn tree(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                tree(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = to.join(set);
    tree(&committed().join(set), &to);
    to
}

#[test]
fn the_committed_sets_are_those_of_the_transcription() {
    let upstream: Value =
        serde_json::from_str(include_str!("../../vectors/regtest-upstream-2026-09.json")).unwrap();
    for (scenario, vector) in upstream.as_object().unwrap() {
        let dir = committed().join(vector["path"].as_str().unwrap());
        assert_eq!(read(&dir.join("other.json"))["scenarioId"], json!(scenario));
        assert_eq!(
            read(&dir.join("resolve/input.json")),
            vector["resolveInput"]
        );
        let output = read(&dir.join("resolve/output.json"));
        let expect = &vector["expect"];
        if expect.get("error").is_some() {
            assert_eq!(output["didResolutionMetadata"]["error"], expect["error"]);
        } else {
            assert_eq!(output["didDocument"], expect["didDocument"]);
            for name in ["versionId", "deactivated", "updated"] {
                assert_eq!(output["didDocumentMetadata"].get(name), expect.get(name));
            }
        }
        let mut signals = read(&dir.join("signals.json"));
        for signal in signals.as_array_mut().unwrap() {
            assert_eq!(
                signal.as_object_mut().unwrap().remove("update"),
                Some(json!(1))
            );
        }
        let of = vector.get("signals").cloned();
        assert_eq!(signals, of.unwrap_or_else(|| json!([vector["signal"]])));
    }
    assert_eq!(upstream.as_object().unwrap().len(), 6);
}

#[test]
fn the_sets_of_september_pass_with_the_switch() {
    let output = conform(&committed(), &[BEFORE_OCTOBER]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.ends_with("\n18 checks in 6 sets: 18 passed, 0 failed, 0 skipped\n"),
        "{text}"
    );
    for (set, kind, expected) in [
        (
            "02-k1-sidecar-update",
            "create",
            "did:btcr2:k1qgph7nrekhze…",
        ),
        (
            "07-k1-sidecar-deactivate",
            "resolve",
            "version 2, deactivated",
        ),
        (
            "10a-x1-sidecar-update-cas-announcement",
            "resolve",
            "version 2",
        ),
        (
            "12a-x1-sidecar-update-smt-proof",
            "update",
            "update to version 2",
        ),
        ("25a-x1-smt-update-no-nonce", "resolve", "version 2"),
        ("n29-x1-smt-proof-hash", "resolve", "INVALID_SIGNAL_DATA"),
    ] {
        let line = text
            .lines()
            .find(|line| line.contains(set) && line.contains(&format!(" {kind} ")))
            .unwrap();
        assert!(
            line.contains(expected) && line.ends_with("passed"),
            "{line}"
        );
    }
}

#[test]
fn without_the_switch_they_fail_and_it_is_said_why() {
    let output = conform(&committed(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(
        text.ends_with("18 checks in 6 sets: 7 passed, 10 failed, 1 skipped\n"),
        "{text}"
    );
    assert!(text.contains("proof-invocation-target-mismatch"), "{text}");
    let error = stderr(&output);
    assert!(
        error.starts_with("error: 10 of 18 checks failed\nhint: "),
        "{error}"
    );
    assert!(error.contains(BEFORE_OCTOBER), "{error}");
}

#[test]
fn a_broken_set_fails_by_what_is_broken() {
    type Break = fn(&Path);
    fn change(path: &Path, pointer: &str, value: Value) {
        let mut content = read(path);
        *content.pointer_mut(pointer).expect(pointer) = value;
        write(path, &content);
    }
    let rows: [(Break, &str, &str); 10] = [
        (
            |set| {
                change(
                    &set.join("resolve/output.json"),
                    "/didDocument/service/3/type",
                    json!("X"),
                )
            },
            "resolve",
            "didDocument differs at \"/service/3/type\"",
        ),
        (
            |set| {
                change(
                    &set.join("resolve/output.json"),
                    "/didDocumentMetadata/versionId",
                    json!("3"),
                )
            },
            "resolve",
            "versionId is 2",
        ),
        (
            |set| {
                change(
                    &set.join("resolve/output.json"),
                    "/didDocumentMetadata/deactivated",
                    json!(true),
                )
            },
            "resolve",
            "deactivated is false",
        ),
        (
            |set| {
                let time = json!("2026-09-16T15:01:29Z");
                change(
                    &set.join("resolve/output.json"),
                    "/didDocumentMetadata/updated",
                    time,
                );
            },
            "resolve",
            "updated is 2026-09-16T15:01:28Z instead of 2026-09-16T15:01:29Z",
        ),
        (
            // Too few blocks for what the output says, the tip being noted and the time removed.
            |set| {
                let output = set.join("resolve/output.json");
                let metadata = json!({"versionId": "2", "confirmations": 8});
                change(&output, "/didDocumentMetadata", metadata);
                let signals = set.join("signals.json");
                let mut content = read(&signals);
                content[0]["recordedTip"] = json!(289);
                write(&signals, &content);
            },
            "resolve",
            "confirmations are 7 instead of 8",
        ),
        (
            |set| {
                change(
                    &set.join("signals.json"),
                    "/0/signalBytes",
                    json!("00".repeat(32)),
                )
            },
            "resolve",
            "MISSING_UPDATE_DATA",
        ),
        (
            |set| change(&set.join("signals.json"), "/0/txid", json!(1)),
            "resolve",
            "signals.json: entry 0 of the signals: txid",
        ),
        (
            |set| {
                change(
                    &set.join("create/output.json"),
                    "/did",
                    json!("did:btcr2:k1q"),
                )
            },
            "create",
            "the DID is did:btcr2:k1qgph7nre",
        ),
        (
            |set| {
                change(
                    &set.join("update/output.json"),
                    "/signedUpdate/targetVersionId",
                    json!(3),
                )
            },
            "update",
            "targetVersionId differs",
        ),
        (
            |set| fs::write(set.join("update/input.json"), "{\"a\":1,\"a\":2}").unwrap(),
            "update",
            "input.json: ",
        ),
    ];
    for (broken, kind, expected) in rows {
        let dir = home();
        broken(&copy("regtest/k1/qgph7nre", dir.path()));
        let (code, checks) = checks(dir.path(), &[BEFORE_OCTOBER]);
        assert_eq!(code, 1, "{expected}");
        assert_eq!(checks.len(), 3);
        for check in checks {
            let is_broken = check["kind"] == kind;
            let verdict = if is_broken { "failed" } else { "passed" };
            assert_eq!(check["verdict"], verdict, "{expected}: {check}");
            assert_eq!(check["set"], "regtest/k1/qgph7nre");
            if is_broken {
                let note = check["note"].as_str().unwrap();
                assert!(note.contains(expected), "{note:?} for {expected:?}");
            }
        }
    }
}

#[test]
fn an_error_that_is_another_or_none_fails() {
    for (set, expected, got) in [
        ("regtest/k1/qgph7nre", "INVALID_DID", "version 2"),
        (
            "regtest/x1/qgncuznq",
            "MISSING_UPDATE_DATA",
            "INVALID_SIGNAL_DATA (smt-proof-not-verified)",
        ),
    ] {
        let dir = home();
        let output = copy(set, dir.path()).join("resolve/output.json");
        let result = json!({
            "didDocument": null,
            "didDocumentMetadata": {},
            "didResolutionMetadata": {"error": expected},
        });
        write(&output, &result);
        let (code, checks) = checks(dir.path(), &[BEFORE_OCTOBER]);
        assert_eq!(code, 1);
        let check = checks
            .iter()
            .find(|check| check["kind"] == "resolve")
            .unwrap();
        assert_eq!(
            (&check["verdict"], &check["expected"], &check["got"]),
            (&json!("failed"), &json!(expected), &json!(got))
        );
    }
}

#[test]
fn what_can_not_be_checked_is_skipped_with_the_reason() {
    let dir = home();
    let set = copy("regtest/k1/qgph7nre", dir.path());
    fs::remove_file(set.join("resolve/output.json")).unwrap();
    write(&set.join("update/input.json"), &json!({"did": "x"}));
    write(
        &set.join("create/input.json"),
        &json!({"network": "custom"}),
    );
    let (code, checks) = checks(dir.path(), &[BEFORE_OCTOBER]);
    assert_eq!(code, 0);
    let notes: Vec<_> = checks
        .iter()
        .map(|check| check["note"].as_str().unwrap())
        .collect();
    assert!(
        checks.iter().all(|check| check["verdict"] == "skipped"),
        "{checks:?}"
    );
    assert_eq!(
        notes,
        [
            "input.json names a network that is not known here",
            "input.json has no sourceDocument",
            "output.json is missing",
        ]
    );
}

#[test]
fn a_directory_without_sets_is_refused() {
    let dir = home();
    let output = conform(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("holds no set"),
        "{}",
        stderr(&output)
    );
    let missing = conform(&dir.path().join("nowhere"), &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        stderr(&missing).contains("can not be read"),
        "{}",
        stderr(&missing)
    );
}

#[test]
fn one_set_alone_is_run() {
    let set = committed().join("regtest/x1/qgxluz9h");
    let (code, checks) = checks(&set, &[BEFORE_OCTOBER]);
    assert_eq!(code, 0);
    assert_eq!(checks.len(), 3);
    assert_eq!(checks[0]["set"], ".");
}

/// A set that is being made: what the upstream generator writes.
struct Making {
    dir: PathBuf,
    signals: Vec<Value>,
    updates: usize,
}

impl Making {
    fn new(root: &Path, id: &str, scenario: &str, did: &Did, genesis: Option<&Value>) -> Self {
        let kind = if did.as_str().contains(":k1") {
            "k1"
        } else {
            "x1"
        };
        let dir = root.join(did.network().name()).join(kind).join(id);
        let (id_type, bytes) = match did.kind() {
            btcr2_agent::did::IdKind::Key(key) => ("KEY", to_hex(&key.serialize())),
            btcr2_agent::did::IdKind::External(hash) => ("EXTERNAL", to_hex(hash.as_bytes())),
        };
        write(
            &dir.join("create/input.json"),
            &json!({
                "idType": id_type, "version": 1, "network": did.network(), "genesisBytes": bytes,
            }),
        );
        write(&dir.join("create/output.json"), &json!({"did": did}));
        let mut other = json!({"scenarioId": scenario});
        if let Some(genesis) = genesis {
            other["genesisDocument"] = genesis.clone();
        }
        write(&dir.join("other.json"), &other);
        Self {
            dir,
            signals: Vec::new(),
            updates: 0,
        }
    }

    /// Writes an update's files; it starts from `source`.
    fn update(&mut self, number: u8, source: &Document, version: u64, update: &SignedUpdate) {
        self.updates += 1;
        let dir = self.dir.join(format!("update/{:02}", self.updates));
        let input = json!({
            "sourceDocument": source,
            "patches": update.value()["patch"],
            "sourceVersionId": version,
            "verificationMethodId": format!("{}#initialKey", source.id()),
            "beaconId": source.beacons()[0].id,
            "signingMaterial": to_hex(&keypair(number).secret_bytes()),
        });
        write(&dir.join("input.json"), &input);
        write(&dir.join("output.json"), &json!({"signedUpdate": update}));
    }

    fn signal(
        &mut self,
        update: usize,
        address: impl std::fmt::Display,
        height: u32,
        signal: SignalBytes,
    ) {
        let txid = sha256(format!("{height} {}", self.signals.len()).as_bytes());
        self.signals.push(json!({
            "update": update,
            "address": address.to_string(),
            "txid": Txid::from_byte_array(txid),
            "blockHeight": height,
            "blockHash": BlockHash::from_byte_array(sha256(&height.to_le_bytes())),
            "blockTime": time(height).0,
            "mediantime": time(height).0 - 300,
            "signalBytes": signal,
        }));
        write(&self.dir.join("signals.json"), &json!(self.signals));
    }

    fn resolve(&self, number: Option<u8>, did: &str, options: Value, output: Value) {
        let dir = match number {
            None => self.dir.join("resolve"),
            Some(number) => self.dir.join(format!("resolve/{number:02}")),
        };
        let input = json!({"did": did, "resolutionOptions": options});
        write(&dir.join("input.json"), &input);
        write(&dir.join("output.json"), &output);
    }
}

fn time(height: u32) -> UnixTime {
    UnixTime(1_790_000_000 + u64::from(height) * 100)
}

fn found(document: &Document, version: u64, at: Option<(u32, u32)>) -> Value {
    let mut metadata = json!({
        "versionId": version.to_string(),
        "confirmations": at.map_or(0, |(_, confirmations)| confirmations),
        "deactivated": document.is_deactivated(),
    });
    if let Some((height, _)) = at {
        metadata["updated"] = json!(DateTime::from(time(height)).to_string());
    }
    json!({
        "didResolutionMetadata": {"contentType": "application/did"},
        "didDocument": document,
        "didDocumentMetadata": metadata,
    })
}

fn failed(code: &str) -> Value {
    json!({
        "didDocument": null,
        "didDocumentMetadata": {},
        "didResolutionMetadata": {"error": code, "errorMessage": "some words"},
    })
}

/// A DID with two updates and a duplicate, and the options of the suite's sub-vectors.
fn options_and_a_duplicate(root: &Path, network: Network) {
    let mut alice = Controller::key_based(network, 41);
    let did = alice.did().to_string();
    let mut set = Making::new(root, "qoptions", "22-options", alice.did(), None);
    let address = KeyAddress::P2wpkh.of(network, &public_key(41));
    let mut documents = vec![alice.document.clone()];
    for (name, height) in [("a", 1000), ("b", 1010)] {
        let (source, version) = (alice.document.clone(), alice.version);
        let update = alice.add_service(name);
        set.update(41, &source, version, &update);
        set.signal(set.updates, &address, height, announcing(&update));
        documents.push(alice.document.clone());
    }
    let first = alice.sidecar.updates().next().unwrap().0;
    let first = SignalBytes::from_bytes(first.to_bytes());
    set.signal(1, &address, 1020, first);

    let sidecar = alice.sidecar.to_value();
    let with = |more: Value| {
        let mut options = json!({"sidecar": sidecar});
        options
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        options
    };
    let second = Some((1000, 45));
    let third = Some((1010, 35));
    let at = |height: u32, later: u64| {
        let time = time(height).minus(300).plus(later);
        DateTime::from(time).to_string()
    };
    let rows = [
        (json!({}), found(&documents[2], 3, third)),
        (json!({"versionId": "1"}), found(&documents[0], 1, None)),
        (json!({"versionId": "2"}), found(&documents[1], 2, second)),
        (json!({"versionId": "3"}), found(&documents[2], 3, third)),
        (json!({"versionId": "9"}), failed("NOT_FOUND")),
        (
            json!({"versionTime": at(999, 99)}),
            found(&documents[0], 1, None),
        ),
        (
            json!({"versionTime": at(1000, 0)}),
            found(&documents[1], 2, second),
        ),
        (
            json!({"versionTime": at(1010, 1)}),
            found(&documents[2], 3, third),
        ),
        (
            json!({"versionId": "2", "versionTime": at(1000, 0)}),
            failed("INVALID_OPTIONS"),
        ),
        (json!({"minConf": 1_000_000}), found(&documents[0], 1, None)),
    ];
    for (number, (options, output)) in (0..).zip(rows) {
        let number = (number > 0).then_some(number);
        set.resolve(number, &did, with(options), output);
    }
}

/// Two members of a CAS cohort whose every object is in a CAS, and one whose update nobody has.
fn stored_and_withheld(root: &Path, network: Network) {
    let shared = KeyAddress::P2wpkh.of(network, &public_key(50));
    let beacons = [("cohortBeacon", BeaconKind::Cas, shared.clone())];
    let mut members: Vec<_> = [51, 52]
        .map(|number| (number, external(network, number, &beacons)))
        .into();
    let updates: Vec<_> = members
        .iter_mut()
        .map(|(_, (member, _))| {
            let before = member.document.clone();
            (before, member.add_service("files"))
        })
        .collect();
    let entries: Vec<_> = members
        .iter()
        .zip(&updates)
        .map(|((_, (member, _)), (_, update))| (member.did(), update.hash()))
        .collect();
    let signal = cas_announcement(entries).signal_bytes();
    for ((number, (member, genesis)), (before, update)) in members.iter().zip(&updates) {
        let name = format!("09-{number}");
        let id = format!("qstored{number}");
        let mut set = Making::new(root, &id, &name, member.did(), Some(genesis.value()));
        set.update(*number, before, 1, update);
        set.signal(1, &shared, 500, signal);
        let output = found(&member.document, 2, Some((500, 9)));
        set.resolve(None, member.did().as_str(), json!({}), output);
    }

    let (mut carol, genesis) = external(network, 53, &[]);
    let before = carol.document.clone();
    let update = carol.add_service("files");
    let mut set = Making::new(root, "qwithheld", "n05", carol.did(), Some(genesis.value()));
    set.update(53, &before, 1, &update);
    let address = KeyAddress::P2tr.of(network, &public_key(53));
    set.signal(1, address, 500, announcing(&update));
    let options = json!({"sidecar": {"genesisDocument": genesis}});
    set.resolve(
        None,
        carol.did().as_str(),
        options,
        failed("MISSING_UPDATE_DATA"),
    );
    // Its genesis document is stored, its update is not.
    set.resolve(
        Some(1),
        carol.did().as_str(),
        json!({}),
        failed("MISSING_UPDATE_DATA"),
    );
}

/// Two different second versions, an identifier with a mistyped character, and an update after the end.
fn failures_and_the_end(root: &Path, network: Network) {
    let address = KeyAddress::P2pkh.of(network, &public_key(61));
    let alice = Controller::key_based(network, 61);
    let (mut one, mut other) = (alice.clone(), alice.clone());
    let (first, second) = (one.add_service("one"), other.add_service("other"));
    let mut set = Making::new(root, "qlate", "n28", alice.did(), None);
    set.update(61, &alice.document, 1, &first);
    set.signal(1, &address, 700, announcing(&first));
    set.signal(2, &address, 701, announcing(&second));
    let sidecar = json!({"sidecar": {"updates": [first, second]}});
    set.resolve(
        None,
        alice.did().as_str(),
        sidecar,
        failed("LATE_PUBLISHING_ERROR"),
    );

    let bob = Controller::key_based(network, 62);
    let set = Making::new(root, "qtyped", "n01", bob.did(), None);
    let last = if bob.did().as_str().ends_with('q') {
        "p"
    } else {
        "q"
    };
    let mistyped = format!("{}{last}", &bob.did().as_str()[..72]);
    set.resolve(None, &mistyped, json!({}), failed("INVALID_DID"));

    let mut carol = Controller::key_based(network, 63);
    let address = KeyAddress::P2tr.of(network, &public_key(63));
    let mut set = Making::new(root, "qended", "21", carol.did(), None);
    let before = carol.document.clone();
    let end = carol.update(PatchBuilder::deactivate);
    set.update(63, &before, 1, &end);
    set.signal(1, &address, 800, announcing(&end));
    let ended = carol.document.clone();
    // An update that a controller should never have made.
    let patch = PatchBuilder::on(&before).unwrap();
    let patch = patch
        .add_service("x", "X", &json!("https://x"))
        .unwrap()
        .finish()
        .unwrap();
    let mut late =
        json!({"targetVersionId": 3, "sourceHash": ended.hash(), "targetHash": ended.hash()});
    late["patch"] = patch.value().clone();
    late["proof"] = json!({});
    let late = SignedUpdate::from_value(&late).unwrap();
    set.update(63, &ended, 2, &late);
    set.signal(2, &address, 810, announcing(&late));
    let options = json!({"sidecar": {"updates": [end, late]}});
    let output = found(&ended, 2, Some((800, 16)));
    set.resolve(None, carol.did().as_str(), options.clone(), output);
    let mut third = options;
    third["versionId"] = json!("3");
    set.resolve(Some(1), carol.did().as_str(), third, failed("NOT_FOUND"));
}

#[test]
fn sets_of_every_network_pass_by_the_rules_of_today() {
    let dir = home();
    for network in [Network::Mutinynet, Network::Bitcoin] {
        options_and_a_duplicate(dir.path(), network);
    }
    for network in [Network::Testnet4, Network::Signet] {
        stored_and_withheld(dir.path(), network);
    }
    for network in [Network::Testnet3, Network::Regtest] {
        failures_and_the_end(dir.path(), network);
    }
    let (code, checks) = checks(dir.path(), &[]);
    let bad: Vec<_> = checks
        .iter()
        .filter(|check| check["verdict"] == "failed")
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(code, 0);
    let count = |verdict: &str| {
        let of = checks.iter().filter(|check| check["verdict"] == verdict);
        of.count()
    };
    // Twice each: thirteen; three, three, four; three, two, five of which one is an update after the end.
    assert_eq!(count("passed"), 2 * (13 + 10 + 9));
    assert_eq!(count("skipped"), 2);
    let note = |scenario: &str, kind: &str| {
        let check = checks
            .iter()
            .find(|check| check["scenario"] == scenario && check["kind"] == kind);
        check.unwrap()["note"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(note("09-51", "resolve").contains("as from a CAS"));
    assert!(note("n05", "resolve/01").contains("the genesis document came from the directory"));
    assert_eq!(note("n05", "resolve"), "");
    assert!(note("n28", "resolve").contains("taken for LATE_PUBLISHING"));
    assert!(note("21", "update/02").contains("deactivated"));
    assert_eq!(note("22-options", "resolve"), "");
}

#[test]
fn depth_is_checked_against_the_tip_the_outputs_were_made_at() {
    let dir = home();
    options_and_a_duplicate(dir.path(), Network::Mutinynet);
    let output = dir
        .path()
        .join("mutinynet/k1/qoptions/resolve/02/output.json");
    let mut content = read(&output);
    // One more than the other outputs' tip gives.
    assert_eq!(content["didDocumentMetadata"]["confirmations"], json!(45));
    content["didDocumentMetadata"]["confirmations"] = json!(0);
    write(&output, &content);
    let (code, checks) = checks(dir.path(), &[]);
    assert_eq!(code, 1);
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check["verdict"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["kind"], "resolve/02");
    assert_eq!(failed[0]["note"], "confirmations are 45 instead of 0");
}
