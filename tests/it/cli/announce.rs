//! `did announce`, `did update --via singleton` and `did register --via singleton`: what is shown, asked, and paid.

use btcr2_agent::agent::control::request::{AnnounceDid, BindDid};
use btcr2_agent::agent::control::views::{
    AnnouncementState, AnnouncementView, DidUpdateView, FeeRate, FundView, JoiningStage,
    JoiningView, RouteView,
};
use btcr2_agent::agent::control::{Failure, Request, Response};
use btcr2_agent::hash::{CohortId, UpdateHash};
use btcr2_agent::network::Network;
use serde_json::{Value, json};

use super::processes::{Agent, dev, wait};
use super::{Daemon, done, stderr, stdout};

const DID: &str = "did:btcr2:k1qqpexample";

/// A price, or what lacks of it.
fn quote(needed: u64) -> AnnouncementView {
    AnnouncementView {
        did: DID.to_owned(),
        network: Network::Regtest,
        to_version: Some(2),
        hash: Some(UpdateHash::from_bytes([7; 32])),
        service: format!("{DID}#initialP2TR"),
        address: "bcrt1pexample".to_owned(),
        state: AnnouncementState::NotSigned,
        fee_rate: Some(FeeRate(2000)),
        fee_sat: (needed == 0).then_some(308),
        vsize: (needed == 0).then_some(154),
        change_sat: (needed == 0).then_some(9_692),
        balance_sat: Some(if needed == 0 { 10_000 } else { 0 }),
        unconfirmed_sat: Some(0),
        needed_sat: needed,
        send_sat: if needed == 0 { 0 } else { 1_562 },
        uri: FundView::bip21("bcrt1pexample", if needed == 0 { 0 } else { 1_562 }, ""),
        txid: None,
        replaces: None,
        refused: None,
        warnings: vec!["the chain server has no fee estimate".to_owned()],
    }
}

fn sent(refused: Option<&str>) -> AnnouncementView {
    AnnouncementView {
        state: match refused {
            None => AnnouncementState::Broadcast,
            Some(_) => AnnouncementState::Signed,
        },
        txid: Some("11".repeat(32).parse().unwrap()),
        refused: refused.map(str::to_owned),
        ..quote(0)
    }
}

/// What a daemon asks the chain and its store before it answers.
fn announcing(needed: u64, refused: Option<&'static str>) -> Daemon {
    Daemon::start(move |request| match request {
        Request::DidAnnounce(AnnounceDid { dry_run: true, .. }) => done(&quote(needed)),
        Request::DidAnnounce(_) => done(&sent(refused)),
        Request::DidBind(BindDid { dry_run, .. }) => done(&JoiningView {
            did: DID.to_owned(),
            cohort: CohortId::from_bytes([0xab; 32]),
            stage: JoiningStage::Ready,
            step: "covered".to_owned(),
            announcement: Some(if *dry_run {
                quote(needed)
            } else {
                sent(refused)
            }),
        }),
        Request::DidUpdate(update) => done(&DidUpdateView {
            did: DID.to_owned(),
            from_version: 1,
            to_version: 2,
            route: RouteView::Singleton(format!("{DID}#initialP2TR")),
            update: None,
            before: json!({ "id": DID }),
            after: json!({ "id": DID, "dry": update.dry_run }),
            notes: Vec::new(),
            next_round_at: None,
            announcement: None,
        }),
        _ => Response::Failed(Failure::new(
            btcr2_agent::agent::control::ErrorCode::Internal,
            "unexpected",
        )),
    })
}

/// How often something was to be done, and not only shown.
fn acted(daemon: &Daemon) -> usize {
    let acts = |request: &&Request| match request {
        Request::DidAnnounce(args) => !args.dry_run,
        Request::DidBind(args) => !args.dry_run,
        Request::DidUpdate(args) => !args.dry_run,
        _ => true,
    };
    daemon.seen().iter().filter(acts).count()
}

fn commands() -> [String; 3] {
    [
        format!("did announce {DID}"),
        format!("did update {DID} --add-service a,B,https://c.example --via singleton"),
        format!("did register {DID} --cohort abab --via singleton"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lacks_is_shown_with_a_code_to_pay_it_and_nothing_is_done() {
    let daemon = announcing(333, None);
    for command in commands() {
        let output = daemon.run(&format!("{command} --yes")).await;
        assert_eq!(output.status.code(), Some(1), "{command}");
        let page = stdout(&output);
        for expected in [
            "at least 333 sat",
            "1,562 sat pay for five announcements",
            "bitcoin:bcrt1pexample?amount=0.00001562",
            "██████",
        ] {
            assert!(page.contains(expected), "{expected:?} in {page}");
        }
        let error = stderr(&output);
        assert!(
            error.contains("send at least 333 sat to bcrt1pexample"),
            "{error}"
        );
        let output = daemon.run(&format!("{command} --yes --json")).await;
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], json!("insufficient_funds"));
        assert_eq!(object["result"]["needed_sat"], json!(333));
    }
    let plain = daemon.run(&format!("did announce {DID} --no-qr")).await;
    assert!(stdout(&plain).contains("bcrt1pexample") && !stdout(&plain).contains('█'));
    assert_eq!(acted(&daemon), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_paid_without_a_yes() {
    let daemon = announcing(0, None);
    for command in commands() {
        let output = daemon.run(&format!("{command} --json")).await;
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            object["error"]["code"],
            json!("confirmation_needed"),
            "{command}"
        );
        assert_eq!(acted(&daemon), 0);
    }
    let shown = daemon.run(&format!("did announce {DID} --dry-run")).await;
    assert_eq!(shown.status.code(), Some(0));
    let page = stdout(&shown);
    for expected in ["308 sat (154 vB at 2 sat/vB)", "9,692 sat", "not signed"] {
        assert!(page.contains(expected), "{expected:?} in {page}");
    }
    assert_eq!(acted(&daemon), 0);
    for (acts, command) in [(1, 0), (3, 1), (4, 2)] {
        let command = &commands()[command];
        let output = daemon.run(&format!("{command} --yes")).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{command}: {}",
            stderr(&output)
        );
        assert!(stdout(&output).contains(&"11".repeat(32)), "{command}");
        assert_eq!(acted(&daemon), acts, "{command}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_not_taken_is_a_failure_that_says_so() {
    let daemon = announcing(0, Some("min relay fee not met"));
    for command in commands() {
        let output = daemon.run(&format!("{command} --yes --json")).await;
        assert_eq!(output.status.code(), Some(1), "{command}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], json!("refused_by_peer"));
        let message = object["error"]["message"].as_str().unwrap();
        assert!(message.contains("min relay fee not met"), "{message}");
        assert!(object["result"].to_string().contains(&"11".repeat(32)));
    }
}

/// The binary, a chain and a relay: a DID makes an update and pays for it; a higher fee replaces the transaction.
#[test]
fn a_did_announces_its_own_update() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    agent.start();
    let did = agent.done("did create")["did"].as_str().unwrap().to_owned();
    let update =
        format!("did update {did} --add-service a,LinkedDomains,https://a.example --via singleton");
    let error = agent
        .ask(&format!("{update} --fee-rate 2 --yes"))
        .unwrap_err();
    assert!(error.contains("insufficient_funds"), "{error}");
    // Nothing was signed: the same command makes version 2.
    let price = agent.done(&format!("{update} --fee-rate 2 --dry-run"));
    let lacking = &price["announcement"];
    assert_eq!(lacking["needed_sat"], json!(330));
    let address = lacking["address"].as_str().unwrap();
    agent.done(&format!("dev pay {address} 20000 --chain {chain}"));
    let made = agent.done(&format!("{update} --fee-rate 2 --yes"));
    assert_eq!(made["to_version"], 2);
    assert_eq!(made["announcement"]["fee_sat"], 308);
    let first = made["announcement"]["txid"].as_str().unwrap().to_owned();
    // Sent again: that costs nothing, and nothing is asked.
    let again = agent.done(&format!("did announce {did}"));
    assert_eq!(again["txid"], first.as_str());

    let more = agent.done(&format!("did announce {did} --fee-rate 12.5 --yes"));
    assert_eq!(
        (&more["fee_sat"], &more["fee_rate"]),
        (&1925.into(), &12_500.into())
    );
    assert_eq!(more["replaces"], first.as_str());
    let second = more["txid"].as_str().unwrap();
    agent.done(&format!("dev mine --chain {chain}"));
    let shown = wait("version 2", || {
        let shown = agent.done(&format!("did show {did}"));
        let there = shown["version"] == 2;
        there
            .then(|| shown.clone())
            .ok_or_else(|| shown.to_string())
    });
    assert_eq!(shown["pending"]["txid"], second);
    agent.done(&format!("dev mine 5 --chain {chain}"));
    let error = agent.ask(&format!("did announce {did} --yes")).unwrap_err();
    assert!(error.contains("nothing to announce"), "{error}");
}
