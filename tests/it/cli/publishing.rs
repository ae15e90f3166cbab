//! `did publish`, by the real binary, against a fake daemon and an IPFS node on loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use btcr2_agent::agent::control::request::DidArtifacts;
use btcr2_agent::agent::control::views::{DidArtifactView, DidArtifactsView, PublishedKind};
use btcr2_agent::agent::control::{Request, Response};
use btcr2_agent::did::json::cid;
use serde_json::{Value, json};

use super::{Daemon, done, home, run, stderr, stdout, words};
use crate::cas::ipfs::{Fault, Ipfs};

const DID: &str = "did:btcr2:k1qgph7nrekhzerkmsktp8l7rdtpxh2mw45xp6e90sjvxszpz6au0grssegjx6z";

const GENESIS: &str = r#"{"id":"did:btcr2:_"}"#;
const UPDATE: &str = r#"{"targetVersionId":2}"#;
const ANNOUNCEMENT: &str = "{}";

fn artifact(kind: PublishedKind, version: Option<u64>, canonical: &str) -> DidArtifactView {
    DidArtifactView {
        kind,
        version,
        canonical: canonical.to_owned(),
    }
}

/// A daemon that hands out the selected ones of three artifacts, one in an answer.
fn daemon() -> Daemon {
    Daemon::start(|request| match request {
        Request::DidArtifacts(args) => done(&answer(args)),
        _ => panic!("{request:?}"),
    })
}

fn answer(args: &DidArtifacts) -> DidArtifactsView {
    let all = [
        (
            args.genesis,
            artifact(PublishedKind::GenesisDocument, None, GENESIS),
        ),
        (
            args.updates,
            artifact(PublishedKind::Update, Some(2), UPDATE),
        ),
        (
            args.announcements,
            artifact(PublishedKind::Announcement, None, ANNOUNCEMENT),
        ),
    ];
    let selected: Vec<_> = all.into_iter().filter(|(wanted, _)| *wanted).collect();
    let count = selected.len() as u32;
    let page = selected.into_iter().skip(args.from as usize).take(1);
    DidArtifactsView {
        did: args.did.to_string(),
        artifacts: page.map(|(_, artifact)| artifact).collect(),
        count,
        next: (args.from + 1 < count).then_some(args.from + 1),
        proofs: 3,
        missing: 0,
    }
}

fn line(flags: &str, ipfs: &Ipfs) -> String {
    format!("did publish {DID} {flags} --rpc {}", ipfs.url())
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_published_and_named_by_their_addresses() {
    let (daemon, ipfs) = (daemon(), Ipfs::start().await);
    let flags = "--genesis --updates --announcements --yes --json";
    let output = daemon.run(&line(flags, &ipfs)).await;
    assert!(output.status.success(), "{}", stdout(&output));
    assert_eq!(stderr(&output), "");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        result["result"],
        json!({
            "did": DID,
            "node": format!("127.0.0.1:{}", ipfs.port()),
            "artifacts": [
                {"kind": "genesis_document", "cid": cid(GENESIS.as_bytes()), "bytes": GENESIS.len()},
                {"kind": "update", "version": 2, "cid": cid(UPDATE.as_bytes()), "bytes": UPDATE.len()},
                {"kind": "announcement", "cid": cid(b"{}"), "bytes": 2},
            ],
            "proofs": 3,
            "missing": 0,
        })
    );
    for text in [GENESIS, UPDATE, ANNOUNCEMENT] {
        let cid = cid(text.as_bytes());
        assert_eq!(ipfs.block(&cid).unwrap(), text.as_bytes());
        assert!(ipfs.pinned().contains(&cid));
    }
    // Again, for people; and only what is named.
    let output = daemon.run(&line("--updates -y", &ipfs)).await;
    assert!(output.status.success());
    let text = stderr(&output);
    assert_eq!(text.matches("Warning:").count(), 1, "{text}");
    for words in [
        "public for ever",
        "as sidecar data",
        "SMT proofs (3) can not be published",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let text = stdout(&output);
    assert!(text.contains(&cid(UPDATE.as_bytes())), "{text}");
    assert!(text.contains("update to version 2"), "{text}");
    assert!(!text.contains(&cid(GENESIS.as_bytes())), "{text}");
    assert_eq!(ipfs.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_unasked() {
    let (daemon, ipfs) = (daemon(), Ipfs::start().await);
    let output = daemon.run(&line("--announcements", &ipfs)).await;
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("names all DIDs that updated"), "{text}");
    assert!(text.contains(&cid(b"{}")), "{text}");
    assert!(text.contains("hint: add --yes"), "{text}");
    assert_eq!(ipfs.seen(), [""; 0]);
    // Without a kind it is a wrong line, and no daemon is asked.
    let asked = daemon.seen().len();
    let output = daemon.run(&line("--yes", &ipfs)).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(daemon.seen().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_leaves_what_was_published_and_says_so() {
    let (daemon, ipfs) = (daemon(), Ipfs::start().await);
    for (fault, words) in [
        (Fault::SmallBlocks, "stored the object as bafybe"),
        (
            Fault::Status(500, r#"{"Message":"disk full"}"#.to_owned()),
            "HTTP 500: disk full",
        ),
        (
            Fault::Status(403, "Forbidden".to_owned()),
            "check the credentials",
        ),
    ] {
        ipfs.set(fault);
        let output = daemon
            .run(&line("--updates --genesis --yes --json", &ipfs))
            .await;
        assert_eq!(output.status.code(), Some(1));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["error"]["code"], json!("cas_failed"));
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("0 of 2 published, then: "), "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(answer["result"]["artifacts"], json!([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_no_block_is_refused_after_what_does() {
    let ipfs = Ipfs::start().await;
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let daemon = Daemon::start(move |_| {
        done(&DidArtifactsView {
            did: DID.to_owned(),
            artifacts: vec![
                artifact(PublishedKind::Update, Some(2), UPDATE),
                artifact(PublishedKind::Update, Some(3), &long),
            ],
            count: 2,
            next: None,
            proofs: 0,
            missing: 2,
        })
    });
    let output = daemon.run(&line("--updates --yes", &ipfs)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains(&cid(UPDATE.as_bytes())));
    assert!(stdout(&output).contains("2 missing"), "{}", stdout(&output));
    let text = stderr(&output);
    assert!(
        text.contains("error: 1 of 2 published, then: the object has 1048578 bytes"),
        "{text}"
    );
    assert_eq!(ipfs.pinned(), [cid(UPDATE.as_bytes())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_publish_and_artifacts_that_change_are_refusals() {
    let ipfs = Ipfs::start().await;
    let view = |count, next, artifacts: Vec<DidArtifactView>| DidArtifactsView {
        did: DID.to_owned(),
        artifacts,
        count,
        next,
        proofs: 0,
        missing: 0,
    };
    let none = Daemon::start(move |_| done(&view(0, None, Vec::new())));
    let output = none.run(&line("--genesis --yes", &ipfs)).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("has no genesis document"),
        "{}",
        stderr(&output)
    );

    // One more on every page, and pages that never end.
    let restless = Daemon::start(move |request| match request {
        Request::DidArtifacts(args) => {
            let one = vec![artifact(PublishedKind::Update, Some(2), UPDATE)];
            done(&view(args.from + 2, Some(args.from + 1), one))
        }
        _ => Response::Done(Value::Null),
    });
    let output = restless.run(&line("--updates --yes", &ipfs)).await;
    assert!(
        stderr(&output).contains("changed while they were read"),
        "{}",
        stderr(&output)
    );
    assert_eq!(ipfs.seen(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_node_gets_the_configured_credentials_and_no_other_does() {
    let (daemon, own, other) = (daemon(), Ipfs::start().await, Ipfs::start().await);
    own.want_authorization("Bearer s3cret");
    let home = daemon.home.path().to_owned();
    let auth = home.join("ipfs-auth");
    fs::write(&auth, "bearer:s3cret\n").unwrap();
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600)).unwrap();
    let config = format!(
        "[cas]\nrpc = \"{}\"\nrpc_auth_file = \"{}\"\n",
        own.url(),
        auth.display()
    );
    fs::write(home.join("config.toml"), config).unwrap();
    let configured = format!("did publish {DID} --updates --yes");
    let output = daemon.run(&configured).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(own.pinned(), [cid(UPDATE.as_bytes())]);

    // This node would accept them, if they were sent.
    other.want_authorization("Bearer s3cret");
    let output = daemon.run(&line("--updates --yes", &other)).await;
    assert!(stderr(&output).contains("HTTP 403"), "{}", stderr(&output));
    let named = line(
        &format!("--updates --yes --rpc-auth-file {}", auth.display()),
        &other,
    );
    let output = daemon.run(&named).await;
    assert!(output.status.success(), "{}", stderr(&output));

    // A file that others can read, or with something else in it.
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o644)).unwrap();
    let output = daemon.run(&configured).await;
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&auth, "s3cret\n").unwrap();
    let output = daemon.run(&configured).await;
    let text = stderr(&output);
    assert!(
        text.contains("bearer:TOKEN or basic:USER:PASSWORD"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn without_a_node_or_with_a_public_one_over_http_nothing_starts() {
    let home = home();
    let output = run(home.path(), words(&format!("did publish {DID} --updates")));
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("no IPFS node is configured"), "{text}");
    assert!(text.contains("--rpc http://127.0.0.1:5001"), "{text}");
    let line = format!("did publish {DID} --updates --rpc http://ipfs.example");
    let output = run(home.path(), words(&line));
    assert!(stderr(&output).contains("public server and not https"));
}
