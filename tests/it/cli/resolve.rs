//! `did resolve`: offline from files, and over the in-process regtest chain.

use std::fs;
use std::path::Path;

use btcr2_agent::did::json::cid;
use btcr2_agent::did::{BeaconKind, Did};
use btcr2_agent::network::Network;
use serde_json::{Value, json};

use super::{home, run, stderr, stdout, words};
use crate::chain::Wallet;
use crate::lookup::{World, external};
use crate::synthetic::{Controller, announcing, cas_announcement};

const SET: &str = "tests/vectors/conform/regtest/k1/qgph7nre";

/// What a set's files say, with the sidecar in a file.
struct Fixture {
    dir: tempfile::TempDir,
    did: String,
    expected: Value,
}

impl Fixture {
    fn new() -> Self {
        let set = Path::new(env!("CARGO_MANIFEST_DIR")).join(SET);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(set.join(name)).unwrap()).unwrap()
        };
        let (input, output) = (read("resolve/input.json"), read("resolve/output.json"));
        let dir = home();
        let sidecar = input["resolutionOptions"]["sidecar"].to_string();
        fs::write(dir.path().join("sidecar.json"), sidecar).unwrap();
        fs::copy(set.join("signals.json"), dir.path().join("signals.json")).unwrap();
        Self {
            dir,
            did: input["did"].as_str().unwrap().to_owned(),
            expected: output,
        }
    }

    /// Runs `did resolve` on the set's files with more flags.
    fn run(&self, flags: &str) -> std::process::Output {
        let dir = self.dir.path().display();
        let line = format!(
            "did resolve {} --sidecar {dir}/sidecar.json --chain {dir}/signals.json --network-free {flags}",
            self.did
        );
        run(self.dir.path(), words(&line))
    }
}

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_result_is_on_stdout_and_nothing_else_is() {
    let set = Fixture::new();
    let output = set.run("--allow-missing-invocation-target");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    let result = json_of(&output);
    assert_eq!(result["didDocument"], set.expected["didDocument"]);
    assert_eq!(
        result["didDocumentMetadata"],
        json!({
            "versionId": "2", "confirmations": 6, "deactivated": false,
            "updated": "2026-09-16T15:01:28Z",
        })
    );
    assert_eq!(
        result["didResolutionMetadata"],
        json!({"contentType": "application/did"})
    );

    let output = set.run("--allow-missing-invocation-target --json");
    let object = json_of(&output);
    assert_eq!(object["ok"], json!(true));
    assert_eq!(object["result"], result);
}

#[test]
fn a_did_that_does_not_resolve_has_a_result_and_exit_status_1() {
    let set = Fixture::new();
    let output = set.run("");
    assert_eq!(output.status.code(), Some(1));
    let result = json_of(&output);
    assert_eq!(result["didDocument"], Value::Null);
    let metadata = &result["didResolutionMetadata"];
    assert_eq!(metadata["error"], "INVALID_DID_UPDATE");
    assert_eq!(metadata["rule"], "proof-invocation-target-mismatch");
    let error = stderr(&output);
    assert!(
        error.starts_with("error: INVALID_DID_UPDATE (proof-invocation-target-mismatch): "),
        "{error}"
    );

    let output = set.run("--json --explain");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    let object = json_of(&output);
    assert_eq!(object["ok"], json!(false));
    assert_eq!(object["error"]["code"], "not_resolved");
    assert_eq!(object["result"]["didResolutionMetadata"], *metadata);
    let walk = object["result"]["walk"].as_array().unwrap();
    assert_eq!(walk.last().unwrap()["step"], "failed");
}

#[test]
fn the_walk_is_explained_beside_the_result() {
    let set = Fixture::new();
    let output = set.run("--allow-missing-invocation-target --explain");
    assert_eq!(output.status.code(), Some(0));
    json_of(&output);
    let walk = stderr(&output);
    for expected in [
        "version 1 from the identifier",
        "version 1 lists SingletonBeacon #initialP2PKH at n4PmTdLkRhxnreFzW2cKE3hYrWmmratT2P: 1 signal",
        "version 2 by update dsbOt751rrDlCfHX8KaR1wNzawP4NKtpU6jaD720C1U",
    ] {
        assert!(walk.contains(expected), "{walk}");
    }
    let shallow = set.run("--allow-missing-invocation-target --explain --min-conf 7");
    assert!(stderr(&shallow).contains("pending until it has 7 confirmations"));
    assert_eq!(json_of(&shallow)["didDocumentMetadata"]["versionId"], "1");
}

#[test]
fn wrong_dids_and_options_are_results_too() {
    let set = Fixture::new();
    let mistyped = format!("{}q", &set.did[..72]);
    let other_method = "did:key:zQ3shaVDoxGWh2YVKV6U4rswJUw4sRnx96RWq1HenR1Jc9FT2";
    for (line, code) in [
        (format!("did resolve {mistyped}"), "INVALID_DID"),
        (format!("did resolve {other_method}"), "INVALID_DID"),
        (
            format!(
                "did resolve {} --version-id 1 --version-time 2026-11-20T12:00:00Z",
                set.did
            ),
            "INVALID_OPTIONS",
        ),
        (
            format!("did resolve {} --version-id x", set.did),
            "INVALID_OPTIONS",
        ),
        (
            format!("did resolve {} --version-time yesterday", set.did),
            "INVALID_OPTIONS",
        ),
        (
            format!("did resolve {} --min-conf 0", set.did),
            "INVALID_OPTIONS",
        ),
    ] {
        let output = run(set.dir.path(), words(&line));
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(
            json_of(&output)["didResolutionMetadata"]["error"],
            code,
            "{line}"
        );
        assert!(stderr(&output).contains(code), "{line}");
    }
    let output = set.run("--version-id 9 --allow-missing-invocation-target");
    assert_eq!(
        json_of(&output)["didResolutionMetadata"]["error"],
        "NOT_FOUND"
    );
    let output = set.run("--version-id 1 --allow-missing-invocation-target");
    assert_eq!(json_of(&output)["didDocumentMetadata"]["versionId"], "1");
}

#[test]
fn missing_sidecar_data_say_where_to_get_them() {
    let set = Fixture::new();
    let line = format!(
        "did resolve {} --chain {}/signals.json",
        set.did,
        set.dir.path().display()
    );
    let output = run(set.dir.path(), words(&line));
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    assert!(error.starts_with("error: MISSING_UPDATE_DATA"), "{error}");
    assert!(
        error.contains(
            "hint: give the DID's sidecar data with --sidecar FILE; `did sidecar <did>` exports"
        ),
        "{error}"
    );
}

#[test]
fn files_that_are_wrong_are_named() {
    let set = Fixture::new();
    let dir = set.dir.path();
    let broken = dir.join("broken.json");
    fs::write(&broken, "{\"genesisDocument\":1,\"genesisDocument\":2}").unwrap();
    let other = Did::from_key(Network::Regtest, &crate::lookup::public_key(1));
    let signet = Did::from_key(Network::Signet, &crate::lookup::public_key(1));
    let at = dir.display();
    for (line, status, expected) in [
        (
            format!("did resolve {} --sidecar {at}/none", set.did),
            1,
            "none can not be read",
        ),
        (
            format!("did resolve {} --sidecar {at}/broken.json", set.did),
            1,
            "INVALID_OPTIONS",
        ),
        (
            format!("did resolve {} --chain {at}/none", set.did),
            1,
            "none can not be read",
        ),
        (
            format!("did resolve {} --chain {at}/broken.json", set.did),
            1,
            "broken.json: ",
        ),
        (
            format!("did resolve {signet} --chain {at}/signals.json"),
            1,
            "of regtest, but the DID is on signet",
        ),
        (
            format!("did resolve {other} --chain {at}/signals.json"),
            1,
            "are those of another DID",
        ),
        (
            format!(
                "did resolve {} --chain http://127.0.0.1:1 --network-free",
                set.did
            ),
            2,
            "--network-free contacts no server",
        ),
        (
            format!(
                "did resolve {} --chain {at}/signals.json --ipfs http://gateway.example",
                set.did
            ),
            2,
            "IPFS gateway URL",
        ),
    ] {
        let output = run(dir, words(&line));
        assert_eq!(
            output.status.code(),
            Some(status),
            "{line}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(expected),
            "{line}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_sidecar_is_read_from_stdin() {
    use std::io::Write as _;
    let set = Fixture::new();
    let dir = set.dir.path().display();
    let line = format!(
        "did resolve {} --sidecar - --chain {dir}/signals.json --allow-missing-invocation-target",
        set.did
    );
    let mut child = super::binary(set.dir.path())
        .args(words(&line))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let sidecar = fs::read(set.dir.path().join("sidecar.json")).unwrap();
    child.stdin.take().unwrap().write_all(&sidecar).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(json_of(&output)["didDocument"], set.expected["didDocument"]);
}

async fn run_apart(home: &Path, line: String) -> std::process::Output {
    let home = home.to_owned();
    tokio::task::spawn_blocking(move || run(&home, words(&line)))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_chain_is_asked_recorded_and_replayed() {
    let world = World::new().await;
    let mut alice = Controller::key_based(Network::Regtest, 71);
    let update = alice.add_service("files");
    world.signal(&Wallet::new(71), announcing(&update));
    world.mine(6);
    let home = home();
    let dir = home.path();
    let config = format!("[chain.regtest]\nurl = \"{}\"\n", world.server.url());
    fs::write(dir.join("config.toml"), config).unwrap();
    fs::write(dir.join("sidecar.json"), alice.sidecar.canonical_bytes()).unwrap();
    let at = dir.display();
    let base = format!(
        "did resolve {} --sidecar {at}/sidecar.json --explain",
        alice.did()
    );

    let live = run_apart(dir, format!("{base} --record {at}/chain.json")).await;
    assert_eq!(live.status.code(), Some(0), "{}", stderr(&live));
    let result = json_of(&live);
    assert_eq!(result["didDocument"], *alice.document.value());
    assert_eq!(result["didDocumentMetadata"]["confirmations"], 6);
    world.mine(3);
    let by_flag = run_apart(dir, format!("{base} --chain {}", world.server.url())).await;
    assert_eq!(json_of(&by_flag)["didDocumentMetadata"]["confirmations"], 9);
    world.server.shutdown().await;

    let gone = run_apart(dir, format!("{base} --json")).await;
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(json_of(&gone)["error"]["code"], "chain_unreachable");
    assert!(json_of(&gone).get("result").is_none());

    let line = format!("{base} --chain {at}/chain.json --network-free");
    let replay = run_apart(dir, line).await;
    assert_eq!(stdout(&replay), stdout(&live));
    assert_eq!(stderr(&replay), stderr(&live));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_network_is_named() {
    let world = World::new().await;
    let did = Did::from_key(Network::Testnet4, &crate::lookup::public_key(1));
    let home = home();
    let line = format!("did resolve {did} --chain {} --json", world.server.url());
    let output = run_apart(home.path(), line).await;
    assert_eq!(output.status.code(), Some(1));
    let error = &json_of(&output)["error"];
    assert_eq!(error["code"], "wrong_network");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("is not on testnet4"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_read_from_a_gateway_only_when_it_is_named() {
    let world = World::new().await;
    let cas = Wallet::new(72);
    let beacons = [("cas", BeaconKind::Cas, cas.address())];
    let (mut bob, genesis) = external(Network::Regtest, 73, &beacons);
    let update = bob.add_service("files");
    let announcement = cas_announcement([(bob.did(), update.hash())]);
    world.signal(&cas, announcement.signal_bytes());
    world.mine(6);
    let stored: std::collections::HashMap<_, _> = [
        genesis.canonical_bytes(),
        update.canonical_bytes(),
        announcement.canonical_bytes(),
    ]
    .map(|bytes| (format!("/ipfs/{}", cid(&bytes)), bytes))
    .into();
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let found = stored.get(request.uri().path()).cloned();
        async move { found.ok_or(axum::http::StatusCode::NOT_FOUND) }
    });
    let listener = tokio::net::TcpListener::bind(crate::chain::LOCALHOST)
        .await
        .unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let home = home();
    let dir = home.path();
    let at = dir.display();
    let base = format!("did resolve {} --chain {}", bob.did(), world.server.url());
    let without = run_apart(dir, base.clone()).await;
    assert_eq!(
        json_of(&without)["didResolutionMetadata"]["error"],
        "NOT_FOUND"
    );
    let line = format!("{base} --ipfs {gateway} --record {at}/chain.json");
    let with = run_apart(dir, line).await;
    assert_eq!(with.status.code(), Some(0), "{}", stderr(&with));
    assert_eq!(json_of(&with)["didDocument"], *bob.document.value());
    // The objects are in the recording.
    let line = format!(
        "did resolve {} --chain {at}/chain.json --network-free",
        bob.did()
    );
    let replay = run_apart(dir, line).await;
    assert_eq!(stdout(&replay), stdout(&with));
    let gone = format!("{base} --ipfs http://127.0.0.1:1 --json");
    let error = json_of(&run_apart(dir, gone).await)["error"].clone();
    assert_eq!(error["code"], "cas_failed");
}
