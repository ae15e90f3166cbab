//! `money stop`, `money status`, `run --mainnet` and `tx decode`, by the real binary.

use btcr2_agent::agent::control::views::{
    MainnetState, MoneyView, StoppedView, TxInputView, TxKind, TxOutputView, TxView,
};
use btcr2_agent::agent::control::{PeerText, Request};
use btcr2_agent::time::UnixTime;
use serde_json::{Value, json};

use super::{Daemon, done, home, run, stderr, stdout, words};

/// A home with an agent, and the directory it goes away with.
fn init() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = home();
    let agent = dir.path().join("agent");
    let made = run(&agent, words("init --no-passphrase --network signet"));
    assert!(made.status.success(), "{}", stderr(&made));
    (dir, agent)
}

fn result(output: &std::process::Output) -> Value {
    let object: Value = serde_json::from_str(stdout(output)).unwrap();
    assert_eq!(object["ok"], json!(true), "{object}");
    object["result"].clone()
}

#[test]
fn money_is_stopped_without_an_agent_and_stays_stopped() {
    let (_dir, agent) = init();
    let status = run(&agent, words("money status --json"));
    let view = result(&status);
    assert_eq!(view.get("stopped"), None);
    assert_eq!(
        (&view["mainnet"], &view["running"]),
        (&json!("off"), &json!(false))
    );
    assert_eq!(view["max_fee_sat"], json!(50_000));

    let stop = run(&agent, ["money", "stop", "--reason", "a laptop was stolen"]);
    assert!(stop.status.success(), "{}", stderr(&stop));
    let page = stdout(&stop);
    for expected in [
        "MONEY IS STOPPED",
        "a laptop was stolen",
        "by hand",
        "money.stop",
    ] {
        assert!(page.contains(expected), "{expected:?} in {page}");
    }
    assert!(agent.join("money.stop").is_file());
    let again = run(&agent, words("money stop --reason other"));
    assert!(again.status.success());
    let view = result(&run(&agent, words("money status --json")));
    assert_eq!(view["stopped"]["reason"], json!("a laptop was stolen"));
    assert_eq!(view["stopped"]["file"], json!(true));

    // No command undoes it; removing the file does.
    let help = run(&agent, words("money --help"));
    let commands: Vec<&str> = stdout(&help)
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(commands, ["stop", "status", "help"]);
    std::fs::remove_file(agent.join("money.stop")).unwrap();
    let view = result(&run(&agent, words("money status --json")));
    assert_eq!(view.get("stopped"), None);
}

#[test]
fn nothing_is_stopped_where_there_is_no_agent() {
    let dir = home();
    let missing = dir.path().join("nowhere");
    let output = run(&missing, words("money stop"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("there is no agent in"),
        "{}",
        stderr(&output)
    );
    assert!(!missing.exists());
}

#[test]
fn mainnet_is_not_switched_on_by_one_hand() {
    let (_dir, agent) = init();
    let refused = run(&agent, words("run --mainnet"));
    assert_eq!(refused.status.code(), Some(1));
    let why = stderr(&refused);
    assert!(why.contains("config.toml does not allow mainnet"), "{why}");

    let path = agent.join("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config + "\n[money]\nmainnet = true\n").unwrap();
    let view = result(&run(&agent, words("money status --json")));
    assert_eq!(view["mainnet"], json!("allowed_only"));
    // This home's key can be read by whoever reads the file.
    let refused = run(&agent, words("run --mainnet"));
    assert_eq!(refused.status.code(), Some(1));
    let why = stderr(&refused);
    assert!(why.contains("needs a keystore with a passphrase"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_is_told_and_has_the_file_already() {
    let view = MoneyView {
        now: UnixTime(1_800_000_000),
        running: true,
        stopped: Some(StoppedView {
            at: Some(UnixTime(1_800_000_000)),
            reason: Some(PeerText::new("now")),
            file: true,
        }),
        switch: "/home/alice/money.stop".to_owned(),
        mainnet: MainnetState::On,
        max_fee_sat: 1,
        max_funding_sat: 2,
        max_balance_sat: 3,
        fees: Vec::new(),
    };
    let daemon = Daemon::start(move |_| done(&view));
    let output = daemon.run("money stop --reason now").await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("MONEY IS STOPPED"));
    assert!(daemon.home.path().join("money.stop").is_file());
    match daemon.seen().as_slice() {
        [Request::MoneyStop(stop)] => assert_eq!(stop.reason.as_ref().unwrap().as_str(), "now"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decoded_transaction_is_told_to_people() {
    let txid = "ab".repeat(32).parse().unwrap();
    let view = TxView {
        txid,
        kind: TxKind::Signal,
        text: "the signal of round 7 of cohort abababab".to_owned(),
        network: None,
        cohort: None,
        name: None,
        round: None,
        rung: Some(2),
        did: None,
        version: None,
        signal: None,
        commits_to: Vec::new(),
        inputs: vec![TxInputView {
            outpoint: "aa:0".to_owned(),
            value_sat: None,
            what: "not known here".to_owned(),
        }],
        outputs: vec![TxOutputView {
            value_sat: 9_692,
            to: "bcrt1pexample".to_owned(),
            what: "back to the beacon".to_owned(),
        }],
        fee_sat: Some(308),
        vsize: 154,
        weight: 616,
        lock_blocks: None,
        fee_rate: Some(btcr2_agent::agent::control::views::FeeRate(2_000)),
        signed: true,
        height: Some(102),
        confirmations: Some(3),
        warnings: vec!["a note".to_owned()],
    };
    let daemon = Daemon::start(move |_| done(&view));
    let output = daemon.run(&format!("tx decode {}", "AB".repeat(32))).await;
    let page = stdout(&output);
    for expected in [
        "the signal of round 7",
        "308 sat (154 vB at 2 sat/vB)",
        "block 102, 3 confirmations",
        "back to the beacon",
        "not known here",
        "a note",
    ] {
        assert!(page.contains(expected), "{expected:?} in {page}");
    }
    match daemon.seen().as_slice() {
        [Request::TxDecode(decode)] => assert_eq!(decode.tx.txid(), Some(txid)),
        other => panic!("{other:?}"),
    }
    for bad in ["abc", "zz", &"ab".repeat(40), &"xy".repeat(32)] {
        let output = daemon.run(&format!("tx decode {bad}")).await;
        assert_eq!(output.status.code(), Some(2), "{bad}");
    }
}
