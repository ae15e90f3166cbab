//! What is wrong at the edges ends in one clear line, exit status 1 or 2, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::processes::{Agent, dev, wait};
use super::{home, run, stderr, stdout, words};

/// An `error:` line, and at most one `hint:` line after it.
fn one_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", stdout(output));
    let text = stderr(output).to_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("error: ") && lines.len() <= 2,
        "{text}"
    );
    assert!(
        lines.get(1).is_none_or(|l| l.starts_with("hint: ")),
        "{text}"
    );
    text
}

fn fails(home: &Path, line: &str) -> String {
    one_line(&run(home, words(line)))
}

fn init(home: &Path) {
    let output = run(home, words("init --no-passphrase --network regtest"));
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_new_home_is_private_and_not_made_twice() {
    let dir = home();
    let home = dir.path().join("agent");
    init(&home);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home), 0o700);
    for file in [
        "keystore.json",
        "config.toml",
        "store.sqlite",
        "identity.json",
    ] {
        assert_eq!(mode(&home.join(file)), 0o600, "{file}");
    }
    let before = fs::read(home.join("keystore.json")).unwrap();
    let text = fails(&home, "init --no-passphrase");
    assert!(text.contains("has a keystore already"), "{text}");
    assert_eq!(fs::read(home.join("keystore.json")).unwrap(), before);

    // The words restore the same identity elsewhere.
    let words_text = run(&home, words("key export --form words --yes"));
    assert_eq!(stdout(&words_text).split_whitespace().count(), 12);
    let file = dir.path().join("words.txt");
    fs::write(&file, stdout(&words_text)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let restored = dir.path().join("restored");
    let args = format!("init --no-passphrase --import-words {}", file.display());
    assert!(run(&restored, words(&args)).status.success());
    let identity = |home: &Path| -> Value {
        let output = run(home, words("key show --json"));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["result"]["identity"].clone()
    };
    assert_eq!(identity(&home), identity(&restored));

    // A home others can open is refused, with the command that mends it.
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    let text = fails(&home, "run");
    assert!(text.contains("chmod 700"), "{text}");
}

#[test]
fn settings_that_are_not_understood_refuse_to_start() {
    let dir = home();
    let home = dir.path().join("agent");
    init(&home);
    for (text, words) in [
        ("network = ", "not TOML"),
        ("colour = \"red\"", "colour"),
        ("[participant]\nmax_member = 3", "max_member"),
        ("network = \"mainnet\"", "network"),
        ("[limits]\nrelays = 0", "1 to 64 relays"),
        ("relays = [\"https://relay.example\"]", "wss://"),
        ("[chain.regtest]\nurl = \"ftp://x\"", "chain.regtest.url"),
        (
            "[chain.regtest]\nbackend = \"bitcoind\"",
            "chain.regtest.backend",
        ),
        ("[privacy]\nproxy = \"127.0.0.1:9050\"", "privacy.proxy"),
    ] {
        fs::write(home.join("config.toml"), text).unwrap();
        for line in ["run", "relay list"] {
            let error = fails(&home, line);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
    fs::write(home.join("config.toml"), "").unwrap();
    fs::write(home.join("relays.toml"), "[[relay]]\nurl = \"http://x\"\n").unwrap();
    let error = fails(&home, "run");
    assert!(error.contains("relays.toml, line 1"), "{error}");
    fs::remove_file(home.join("relays.toml")).unwrap();
    let wrong = run(&home, words("relay add https://relay.example"));
    assert_eq!(wrong.status.code(), Some(2));
    assert!(run(&home, words("relay list")).status.success());
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let dir = home();
    let agent = dir.path().join("agent");
    let pass = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        format!("--passphrase-file {}", file.display())
    };
    let (right, wrong) = (pass("right", "correct horse\n"), pass("wrong", "battery\n"));
    let made = run(&agent, words(&format!("init {right}")));
    assert!(made.status.success(), "{}", stderr(&made));
    let text = fails(&agent, &format!("run {wrong}"));
    assert!(text.contains("wrong passphrase"), "{text}");
    assert!(!text.contains("battery"));
    let text = fails(&agent, "run");
    assert!(text.contains("--passphrase-file"), "{text}");
    let export = run(&agent, words(&format!("key export {right}")));
    assert!(
        stdout(&export).starts_with("ncryptsec1"),
        "{}",
        stderr(&export)
    );
    // The public part needs none.
    assert!(stdout(&run(&agent, words("key show"))).contains("npub1"));
}

#[test]
fn newer_stores_and_homes_that_are_held_are_left_alone() {
    let dir = home();
    let home = dir.path().join("agent");
    init(&home);
    let lock = fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(home.join("agent.lock"))
        .unwrap();
    lock.lock().unwrap();
    fs::write(home.join("agent.lock"), "4711\n").unwrap();
    for line in ["run", "relay add ws://127.0.0.1:1"] {
        let text = fails(&home, line);
        assert!(text.contains("is held by process 4711"), "{text}");
    }
    drop(lock);

    let store = home.join("store.sqlite");
    let before = {
        let connection = rusqlite::Connection::open(&store).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        fs::read(&store).unwrap()
    };
    let text = fails(&home, "run");
    assert!(text.contains("schema version 99"), "{text}");
    assert_eq!(fs::read(&store).unwrap(), before);
    let missing = fails(&dir.path().join("nowhere"), "run");
    assert!(missing.contains("btcr2-agent init"), "{missing}");
}

#[test]
fn dead_relays_and_chains_are_shown_and_stop_nothing() {
    let dir = home();
    let (_relay, relay) = dev(dir.path(), "relay");
    // A port nobody listens on.
    let mut agent = Agent::init(dir.path(), "agent", &relay, "http://127.0.0.1:9");
    agent.done("relay add ws://127.0.0.1:9");
    agent.start();
    let status = wait("both failures are shown", || {
        let status = agent.done("status");
        let relays = status["relays"].as_array().unwrap();
        let dead = relays
            .iter()
            .find(|r| r["url"] == "ws://127.0.0.1:9")
            .unwrap();
        let shown = dead["state"] == "waiting" && status["chains"][0]["problem"].is_string();
        if shown {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    });
    let problem = status["chains"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("cannot reach"), "{problem}");
    assert_eq!(status["alarms"][0]["code"], "chain_unusable");
    // One relay answers, so that adverts go out and are found; the other is named.
    agent.done("cohort advertise --seats 2");
    let found = wait("the advert", || {
        let found = agent.done("cohort discover --timeout 2s");
        match found["adverts"].as_array().map(Vec::len) {
            Some(1) => Ok(found),
            _ => Err(found.to_string()),
        }
    });
    let answers = found["relays"].as_array().unwrap();
    let dead = answers
        .iter()
        .find(|r| r["url"] == "ws://127.0.0.1:9")
        .unwrap();
    assert_eq!(dead["complete"], false);
}

#[test]
fn a_chain_of_another_network_is_not_used() {
    let dir = home();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    let config = agent.home.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text
        .replace("network = \"regtest\"", "network = \"signet\"")
        .replace("[chain.regtest]\nurl", "[chain.signet]\nurl");
    fs::write(&config, format!("{text}\n[participant]\n")).unwrap();
    fs::write(
        agent.home.join("relays.toml"),
        format!("[[relay]]\nurl = \"{relay}\"\n"),
    )
    .unwrap();
    agent.start();
    let status = agent.done("status");
    let problem = status["chains"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("is not on signet"), "{problem}");
    assert_eq!(status["chains"][0]["height"], Value::Null);
    // Mainnet is refused where money or DIDs begin.
    for line in [
        "did create --network bitcoin",
        "cohort advertise --network bitcoin",
    ] {
        let refused = agent.ask(line).unwrap_err();
        assert!(refused.contains("mainnet"), "{line}: {refused}");
    }
}
