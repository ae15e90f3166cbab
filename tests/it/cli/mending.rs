//! `backup`, `restore`, `takeover` and `doctor`, and what a person sees when a disk fails, by the real binary.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde_json::Value;

use super::processes::{Agent, dev};
use super::{run, stderr, stdout, words};

/// The answer with `--json`, and the exit status.
fn answer(home: &Path, line: &str) -> (Value, Option<i32>) {
    let output = run(home, words(line).chain(["--json"]));
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{line}: {error}: {}{}", stdout(&output), stderr(&output)));
    (value, output.status.code())
}

/// What `doctor` says of an area: state and text of each check.
fn checks<'v>(view: &'v Value, area: &str) -> Vec<(&'v str, &'v str)> {
    let of = view["checks"].as_array().unwrap().iter();
    of.filter(|check| check["area"] == area)
        .map(|check| {
            (
                check["state"].as_str().unwrap(),
                check["text"].as_str().unwrap(),
            )
        })
        .collect()
}

fn dids(agent: &Agent) -> usize {
    agent.done("did list")["dids"].as_array().unwrap().len()
}

#[test]
fn a_running_agent_is_backed_up_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    agent.start();
    agent.done("did create");

    let out = dir.path().join("backup");
    let line = format!("backup {}", out.display());
    let made = agent.done(&line);
    assert_eq!(made["inc"], 1);
    let files: Vec<&str> = made["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f.as_str().unwrap())
        .collect();
    for file in [
        "store.sqlite",
        "keystore.json",
        "identity.json",
        "config.toml",
    ] {
        assert!(files.contains(&file), "{files:?}");
    }
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&out), 0o700);
        for file in files {
            assert_eq!(mode(&out.join(file)), 0o600, "{file}");
        }
    }
    let occupied = agent.ask(&line).unwrap_err();
    assert!(occupied.contains("already there"), "{occupied}");
    agent.done("did create");
    assert_eq!(dids(&agent), 2);
    agent.stop();

    // Nothing is made of a backup that was altered, and nothing is overwritten.
    let altered = dir.path().join("altered");
    std::fs::create_dir(&altered).unwrap();
    for entry in std::fs::read_dir(&out).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), altered.join(entry.file_name())).unwrap();
    }
    let mut store = std::fs::File::options()
        .read(true)
        .write(true)
        .open(altered.join("store.sqlite"))
        .unwrap();
    let mut byte = [0];
    store.seek(SeekFrom::Start(5_000)).unwrap();
    store.read_exact(&mut byte).unwrap();
    store.seek(SeekFrom::Start(5_000)).unwrap();
    store.write_all(&[byte[0] ^ 1]).unwrap();
    let home = dir.path().join("restored");
    let (refused, code) = answer(&home, &format!("restore {}", altered.display()));
    assert_eq!(
        (refused["error"]["code"].as_str(), code),
        (Some("bad_bundle"), Some(1))
    );
    assert!(!home.exists(), "nothing is left of the attempt");
    let (refused, _) = answer(&agent.home, &format!("restore {}", out.display()));
    assert_eq!(refused["error"]["code"], "already_initialized");
    let (refused, _) = answer(&home, &format!("restore {}", dir.path().display()));
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("is not a backup")
    );

    let (restored, code) = answer(&home, &format!("restore {}", out.display()));
    assert_eq!(code, Some(0), "{restored}");
    assert_eq!(
        (
            &restored["result"]["dids"],
            restored["result"]["inc"].as_u64() > Some(1)
        ),
        (&1.into(), true)
    );
    let mut again = Agent::at(home);
    again.start();
    assert_eq!(dids(&again), 1, "as of the backup");
    let healthy = again.done("doctor");
    assert_eq!(healthy["healthy"], true, "{healthy}");
    assert_eq!(checks(&healthy, "artifacts")[0].0, "ok");
    assert_eq!(
        checks(&healthy, "relays"),
        [("warning", "1 of 1 take our events and give them back")]
    );
    assert_eq!(checks(&healthy, "chain")[0].0, "ok");
    again.stop();

    let text = run(&again.home, ["doctor", "--offline"]);
    assert!(text.status.success(), "{}", stdout(&text));
    assert!(
        stdout(&text).contains("intact: every page"),
        "{}",
        stdout(&text)
    );
}

#[test]
fn a_copy_put_in_place_by_hand_begins_anew_and_takeover_raises_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    let out = dir.path().join("backup");
    agent.done(&format!("backup {}", out.display()));
    std::fs::copy(out.join("store.sqlite"), agent.home.join("store.sqlite")).unwrap();
    let store = |view: &Value| {
        checks(view, "store")
            .iter()
            .map(|(_, text)| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let before = agent.done("doctor --offline");
    assert!(store(&before)[0].ends_with("incarnation 1"), "{before}");
    assert!(store(&before)[1].contains("not used yet"), "{before}");
    agent.start();
    agent.stop();
    let after = agent.done("doctor --offline");
    assert!(!store(&after)[0].ends_with("incarnation 1"), "{after}");
    assert_eq!(store(&after).len(), 1);

    let unasked = agent.ask("takeover").unwrap_err();
    assert!(unasked.contains("confirmation_needed"), "{unasked}");
    let first = agent.done("takeover --yes")["inc"].as_u64().unwrap();
    let second = agent.done("takeover --yes")["inc"].as_u64().unwrap();
    assert!(second > first && first > 1_000_000_000, "{first}, {second}");
}

#[test]
fn a_full_store_is_said_and_the_agent_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    let config = agent.home.join("config.toml");
    let roomy = std::fs::read_to_string(&config).unwrap();
    // All the room there is, taken by something else.
    let shell = rusqlite::Connection::open(agent.home.join("store.sqlite")).unwrap();
    shell
        .execute(
            "INSERT INTO meta (key, value) VALUES ('filler', ?1)",
            ["x".repeat(64 << 20)],
        )
        .unwrap();
    drop(shell);
    std::fs::write(&config, format!("{roomy}\n[limits]\nstore_mib = 64\n")).unwrap();
    agent.start();
    let refused = agent.ask("did create").unwrap_err();
    assert!(refused.contains("the disk is full"), "{refused}");
    let (view, _) = answer(&agent.home, "doctor --offline");
    let found = checks(&view["result"], "store");
    assert!(
        found
            .iter()
            .any(|(state, text)| *state == "warning"
                && text.contains("at the limit the agent stops")),
        "{view}"
    );
    agent.stop_if_running();

    std::fs::write(&config, roomy).unwrap();
    agent.start();
    agent.done("did create");
    assert_eq!(dids(&agent), 1);
    agent.stop();
    assert_eq!(agent.done("doctor --offline")["healthy"], true);
}

#[test]
fn a_damaged_page_is_found_at_the_start_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::init(
        dir.path(),
        "agent",
        "ws://127.0.0.1:9",
        "http://127.0.0.1:9",
    );
    let out = dir.path().join("backup");
    agent.done(&format!("backup {}", out.display()));
    let path = agent.home.join("store.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 4_096;
    bytes[last..].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();

    let (refused, code) = answer(&agent.home, "run");
    assert_eq!(
        (refused["error"]["code"].as_str(), code),
        (Some("store_failed"), Some(1))
    );
    let message = refused["error"].to_string();
    assert!(
        message.contains("damaged") && message.contains("btcr2-agent restore"),
        "{message}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "left as it was found");
    let (found, code) = answer(&agent.home, "doctor --offline");
    assert_eq!(
        (found["error"]["code"].as_str(), code),
        (Some("unhealthy"), Some(1))
    );
    assert!(found.to_string().contains("damaged"), "{found}");
    let bad = agent
        .ask(&format!("backup {}", dir.path().join("bad").display()))
        .unwrap_err();
    assert!(bad.contains("damaged"), "{bad}");
    assert!(!dir.path().join("bad").exists());

    // Mended: the damaged one is put away, the backup put in its place.
    let home = dir.path().join("mended");
    let (restored, code) = answer(&home, &format!("restore {}", out.display()));
    assert_eq!(code, Some(0), "{restored}");
    assert_eq!(Agent::at(home).done("doctor --offline")["healthy"], true);
}

#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("nothing");
    let (view, code) = answer(&empty, "doctor --offline");
    assert_eq!(
        (view["error"]["code"].as_str(), code),
        (Some("unhealthy"), Some(1))
    );
    assert!(view.to_string().contains("btcr2-agent init"), "{view}");

    // Relay and chain that are not there.
    let agent = Agent::init(
        dir.path(),
        "agent",
        "ws://127.0.0.1:9",
        "http://127.0.0.1:9",
    );
    let config = agent.home.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let output = run(&agent.home, ["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = stdout(&output);
    for wanted in [
        "FAILED    relays",
        "FAILED    chain",
        "check [chain.regtest] in config.toml",
        "-> ",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    assert!(
        stderr(&output).contains("things have to be mended"),
        "{}",
        stderr(&output)
    );

    std::fs::write(&config, format!("{text}\nnonsense = 1\n")).unwrap();
    let (view, _) = answer(&agent.home, "doctor");
    assert!(view.to_string().contains("nonsense"), "{view}");
    std::fs::write(&config, text).unwrap();

    // The clock is a day before what the log says.
    let shell = rusqlite::Connection::open(agent.home.join("store.sqlite")).unwrap();
    let tomorrow = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        + 86_400;
    shell
        .execute(
            "INSERT INTO log (cohort, role, at, kind, input, outcome)
             VALUES (zeroblob(32), 'participant', ?1, 'tick', '{}', '\"accepted\"')",
            [i64::try_from(tomorrow).unwrap()],
        )
        .unwrap();
    drop(shell);
    let (view, code) = answer(&agent.home, "doctor --offline");
    assert_eq!(code, Some(1));
    assert!(
        view.to_string().contains("this machine's clock is"),
        "{view}"
    );
    assert!(view.to_string().contains("set the clock"), "{view}");
}

/// Breaks one thing after the other in a home without a daemon, and mends it again.
#[test]
fn doctor_finds_each_thing_that_is_broken() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::init(
        dir.path(),
        "agent",
        "ws://127.0.0.1:9",
        "http://127.0.0.1:9",
    );
    let home = agent.home.as_path();
    let look = || {
        let (view, code) = answer(home, "doctor --offline");
        let healthy = view["ok"] == true;
        assert_eq!(code, Some(i32::from(!healthy)));
        view["result"].clone()
    };
    // Each finding has its place, its state, what was found and what to do.
    let finds = |area: &str, state: &str, text: &str, remedy: &str| {
        let view = look();
        let found = view["checks"].as_array().unwrap().iter().any(|check| {
            let says =
                |field: &str, what: &str| check[field].as_str().unwrap_or_default().contains(what);
            check["area"] == area
                && check["state"] == state
                && says("text", text)
                && says("remedy", remedy)
        });
        assert!(found, "{area} {state} {text:?} {remedy:?}: {view:#}");
        // The same for people.
        let output = run(home, ["doctor", "--offline"]);
        let shown = stdout(&output);
        assert!(shown.contains(text) && shown.contains(remedy), "{shown}");
    };
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let shell = || rusqlite::Connection::open(home.join("store.sqlite")).unwrap();
    let meta = |key: &str, value: &str| {
        shell()
            .execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
                [key, value],
            )
            .unwrap();
    };
    assert_eq!(look()["healthy"], true);
    finds("home", "skipped", "no agent runs in it", "btcr2-agent run");

    mode(home, 0o755);
    finds("home", "failed", "", "chmod");
    mode(home, 0o700);
    {
        let lock = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(home.join("agent.lock"))
            .unwrap();
        lock.try_lock().unwrap();
        finds("home", "failed", "takes no commands", "btcr2-agent run");
    }

    let keystore = home.join("keystore.json");
    mode(&keystore, 0o644);
    finds("keys", "failed", "keystore.json", "chmod");
    mode(&keystore, 0o600);
    let sealed = std::fs::read(&keystore).unwrap();
    std::fs::write(&keystore, b"{}").unwrap();
    finds(
        "keys",
        "failed",
        "not a keystore file",
        "btcr2-agent recover",
    );
    std::fs::remove_file(&keystore).unwrap();
    finds("keys", "failed", "there is no key", "btcr2-agent restore");
    std::fs::write(&keystore, &sealed).unwrap();
    mode(&keystore, 0o600);

    let relays = home.join("relays.toml");
    let listed = std::fs::read(&relays).ok();
    std::fs::write(&relays, "[[relay]]\nurl = 7\n").unwrap();
    finds("settings", "failed", "relays.toml", "");
    match listed {
        Some(listed) => std::fs::write(&relays, listed).unwrap(),
        None => std::fs::remove_file(&relays).unwrap(),
    }

    finds("backup", "warning", "there is no bundle", "key backup");
    let bundle = home.join("bundle.enc");
    std::fs::write(&bundle, b"of long ago").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 86_400);
    std::fs::File::options()
        .write(true)
        .open(&bundle)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    finds("backup", "warning", "was written 40 d", "key backup");
    std::fs::remove_file(&bundle).unwrap();

    meta("former_unread_since", "1800000000");
    finds("store", "warning", "it was restored", "relay list");
    meta("former_unread_since", "");
    let announced = format!(
        r#"[{{"cohort":"{0}","round":7,"index":"{1}","said":{{"update":"{1}"}},"tip":null}}]"#,
        "ab".repeat(32),
        "A".repeat(43)
    );
    meta("former_announced", &announced);
    finds("store", "warning", "did not have: 1.", "newer bundle");
    meta("former_announced", "");
    let identity = answer(home, "key show").0["result"]["identity"].clone();
    let sighting = serde_json::json!({
        "author": identity, "cohort": "ab".repeat(32), "inc": 9, "ours": 1,
        "created_at": 1_800_000_000, "seen_at": 1_800_000_001,
    });
    meta("another_copy", &sighting.to_string());
    finds("store", "failed", "another copy of this agent", "takeover");
    meta("another_copy", "");

    let version: i64 = shell()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    shell().pragma_update(None, "user_version", 999).unwrap();
    finds("store", "failed", "999", "");
    shell()
        .pragma_update(None, "user_version", version)
        .unwrap();
    std::fs::rename(home.join("store.sqlite"), home.join("elsewhere")).unwrap();
    finds("store", "failed", "is not there", "btcr2-agent restore");
    std::fs::rename(home.join("elsewhere"), home.join("store.sqlite")).unwrap();
    assert_eq!(look()["healthy"], true);
}

/// DIDs are compared with the chain by the agent that runs.
#[test]
fn doctor_finds_a_did_that_is_not_what_the_chain_says() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    agent.start();
    agent.done("did create");
    agent.stop();
    rusqlite::Connection::open(agent.home.join("store.sqlite"))
        .unwrap()
        .execute("UPDATE dids SET version = 2", [])
        .unwrap();
    agent.start();
    let (view, code) = answer(&agent.home, "doctor");
    assert_eq!(code, Some(1));
    let found = checks(&view["result"], "artifacts");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "failed");
    assert!(
        found[0].1.contains("the chain shows another version"),
        "{found:?}"
    );
    assert!(view.to_string().contains("did verify --fetch"));
    agent.stop();
}
