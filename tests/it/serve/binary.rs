//! `resolver serve`, by the real binary.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use btcr2_agent::chain::RegtestServer;
use btcr2_agent::did::json::canonicalize;

use super::*;
use crate::cas::ipfs::Ipfs;

/// Ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(home: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btcr2-agent"));
    command
        .env_clear()
        .env("BTCR2_AGENT_HOME", home)
        .args(["resolver", "serve"])
        .args(args)
        .stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_without_home_or_daemon_until_it_is_stopped() {
    let chain = RegtestServer::start(ANY_PORT).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("never made");
    let url = chain.url();
    let named = format!("regtest={url}");
    let mut child = command(
        &home,
        &[
            "--listen",
            "127.0.0.1:0",
            "--chain",
            &named,
            "--ipfs",
            "http://127.0.0.1:9",
            "--max-body",
            "1",
            "--json",
        ],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut process = Process(child);
    let answer: Value = serde_json::from_str(&line).unwrap();
    let view = &answer["result"];
    let host = url.strip_prefix("http://").unwrap();
    assert_eq!(
        view["networks"],
        json!([{"network": "regtest", "chain": host}])
    );
    assert_eq!(view["gateways"], json!(["127.0.0.1:9"]));
    assert_eq!(view["warnings"], json!([]));

    let base = view["url"].as_str().unwrap();
    let did = {
        let key = btcr2_agent::keys::OwnKey::from_bytes(&[5; 32]).unwrap();
        btcr2_agent::did::Did::from_key(Network::Regtest, &key.public().even_point())
    };
    let resolved = send(bitreq::get(format!("{base}/1.0/identifiers/{did}"))).await;
    assert_eq!(resolved.status, 200, "{resolved:?}");
    let long = bitreq::post(format!("{base}/1.0/identifiers/{did}")).with_body(" ".repeat(1025));
    assert_eq!(send(long).await.status, 413);
    assert!(!home.exists(), "nothing is written");

    let pid = process.0.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert_eq!(process.0.wait().unwrap().code(), Some(0));
}

/// `did resolve` and `resolver serve` read the same gateways.
#[tokio::test(flavor = "multi_thread")]
async fn configured_gateways_are_read_unless_the_network_is_not_to_be_used() {
    let ipfs = Ipfs::start().await;
    let set = set(CAS);
    let sidecar = sidecar_of(&set);
    let updates = sidecar["updates"].as_array().unwrap().iter();
    let announcements = sidecar["casUpdates"].as_array().unwrap().iter();
    for object in updates
        .chain(announcements)
        .chain([&sidecar["genesisDocument"]])
    {
        ipfs.put(&canonicalize(object).unwrap());
    }
    let home = tempfile::tempdir().unwrap();
    let config = format!("[cas]\ngateways = [\"{}\"]\n", ipfs.url());
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let signals = home.path().join("signals.json");
    std::fs::write(&signals, json!([set["signal"]]).to_string()).unwrap();
    let resolve = async |network_free: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btcr2-agent"));
        command
            .env_clear()
            .env("BTCR2_AGENT_HOME", home.path())
            .args([
                "did",
                "resolve",
                &did_of(&set),
                "--allow-missing-invocation-target",
            ])
            .arg("--chain")
            .arg(&signals)
            .args(network_free.then_some("--network-free"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let alone = resolve(true).await;
    assert_eq!(alone["didResolutionMetadata"]["error"], json!("NOT_FOUND"));
    assert_eq!(ipfs.seen(), [""; 0]);
    let found = resolve(false).await;
    assert_eq!(found["didDocument"], set["expect"]["didDocument"]);
    assert_eq!(ipfs.seen().len(), 3);
}

#[test]
fn wrong_lines_and_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (args, code, words) in [
        (vec!["--chain", "signet"], 2, "NETWORK=URL is expected"),
        (
            vec!["--chain", "mainnet=https://a.example"],
            2,
            "unknown network",
        ),
        (
            vec!["--chain", "signet=ftp://a.example"],
            2,
            "http:// or https://",
        ),
        (
            vec![
                "--chain",
                "signet=https://a.example",
                "--chain",
                "signet=https://b.example",
            ],
            2,
            "--chain names signet twice",
        ),
        (vec!["--ipfs", "a.example"], 2, "http:// or https://"),
        (
            vec!["--ipfs", "http://ipfs.example"],
            1,
            "public server and not https",
        ),
        (vec!["--timeout", "0s"], 2, "a duration is"),
        (vec!["--concurrency", "0"], 2, "0 is not in 1..=1000"),
        (vec!["--max-body", "16385"], 2, "16385 is not in 1..=16384"),
        (vec!["--listen", "localhost"], 2, "invalid"),
    ] {
        let output = command(dir.path(), &args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
    std::fs::write(
        dir.path().join("config.toml"),
        "[cas]\ngateways = [\"ipfs\"]\n",
    )
    .unwrap();
    let output = command(dir.path(), &[]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("line 2: cas.gateways"), "{stderr}");
}
