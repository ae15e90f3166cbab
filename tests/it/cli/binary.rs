//! The binary without a daemon.

use std::ffi::OsStr;
use std::io::Read as _;
use std::process::Stdio;

use btcr2_agent::cli::args::Cli;
use clap::CommandFactory as _;
use serde_json::{Value, json};

use super::{binary, home, run, stderr, stdout, words};

#[test]
fn the_command_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let home = home();
    let id = "ab".repeat(32);
    for line in [
        "nonsense".to_owned(),
        "cohort".to_owned(),
        "cohort nonsense".to_owned(),
        "cohort join".to_owned(),
        "cohort join npub1qqqqqqqq".to_owned(),
        "cohort join 0".to_owned(),
        "cohort show zz".to_owned(),
        "cohort fund abcd --rounds 0".to_owned(),
        "cohort fund abcd --fee-rate 0".to_owned(),
        "cohort advertise --seats 5-2".to_owned(),
        "cohort advertise --network mainnet".to_owned(),
        "cohort advertise --beacon map".to_owned(),
        "cohort advertise --cadence 7".to_owned(),
        "cohort advertise --tos-link https://example.org".to_owned(),
        format!("cohort advertise --tos-sha256 {id}"),
        "did register --cohort abcd".to_owned(),
        "did register did:btcr2:k1q --new --cohort abcd".to_owned(),
        "did update did:btcr2:k1q".to_owned(),
        "did update did:key:z --deactivate".to_owned(),
        "did update did:btcr2:k1q --deactivate --patch p.json".to_owned(),
        "did resolve".to_owned(),
        "did resolve did:btcr2:k1q --network-free".to_owned(),
        "did resolve did:btcr2:k1q --chain ftp://example.org".to_owned(),
        "did resolve did:btcr2:k1q --chain f --network-free --ipfs https://example.org".to_owned(),
        "did resolve did:btcr2:k1q --timeout 0s".to_owned(),
        "did conform".to_owned(),
        "relay add https://relay.example".to_owned(),
        "relay add wss://r.example --read-only --write-only".to_owned(),
        "init --no-passphrase --passphrase-file f".to_owned(),
        "init --import-nsec --import-words f".to_owned(),
        "demo --members 1".to_owned(),
        "demo --rounds 0".to_owned(),
        "demo --cookie-file f".to_owned(),
        "demo --bitcoind localhost".to_owned(),
        "follow nsec1qqqqqqqq".to_owned(),
        "status --no-such-flag".to_owned(),
    ] {
        let text = run(home.path(), words(&line));
        assert_eq!(text.status.code(), Some(2), "{line}");
        assert!(text.stdout.is_empty(), "{line}");
        assert!(
            stderr(&text).contains("--help"),
            "{line}: {}",
            stderr(&text)
        );

        let json = run(home.path(), words(&line).chain(["--json"]));
        assert_eq!(json.status.code(), Some(2), "{line}");
        assert!(json.stderr.is_empty(), "{line}: {}", stderr(&json));
        let object: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(object["ok"], json!(false), "{line}");
        assert_eq!(object["error"]["code"], json!("usage"), "{line}");
        let message = object["error"]["message"].as_str().unwrap();
        assert!(
            message.len() > 10 && !message.contains('\n'),
            "{line}: {message}"
        );
    }
    assert_eq!(run(home.path(), [""; 0]).status.code(), Some(2));
}

#[test]
fn every_command_has_help_with_an_example() {
    fn walk(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            walk(inner, &path, all);
        }
    }
    let mut all = Vec::new();
    walk(&Cli::command(), &[], &mut all);
    assert!(all.len() >= 51, "{}", all.len());
    let home = home();
    for path in all {
        let output = run(
            home.path(),
            path.iter().map(String::as_str).chain(["--help"]),
        );
        assert_eq!(output.status.code(), Some(0), "{path:?}");
        let help = stdout(&output);
        assert!(help.contains("Example"), "{path:?}: {help}");
        assert!(
            help.contains("--json") && help.contains("--home"),
            "{path:?}"
        );
        let call = format!("btcr2-agent {}", path.join(" "));
        let examples = help.split("Example").nth(1).unwrap();
        assert!(examples.contains(call.trim()), "{path:?}: {examples}");
    }
    let root = run(home.path(), ["--help"]);
    for status in ["0  done", "1  refused or failed", "2  usage"] {
        assert!(stdout(&root).contains(status), "{status}");
    }
}

#[test]
fn without_a_daemon_commands_fail_with_the_remedy() {
    let home = home();
    for line in [
        "status",
        "cohort list",
        "cohort show abcd",
        "cohort join naddr1qqqqqqqq --yes",
        "did list",
        "followed",
        "subscribers",
    ] {
        let output = run(home.path(), words(line));
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(
            stderr(&output),
            format!(
                "error: no daemon is running in {}\nhint: start it with `btcr2-agent run`\n",
                home.path().display()
            ),
            "{line}"
        );
    }
}

#[test]
fn json_and_home_are_accepted_anywhere() {
    let named = home();
    let other = home();
    let flag = named.path().to_str().unwrap();
    let expected = json!({
        "ok": false,
        "error": {
            "code": "not_running",
            "message": format!("no daemon is running in {flag}"),
            "remedy": "start it with `btcr2-agent run`",
        }
    });
    for args in [
        vec!["--json", "--home", flag, "cohort", "list"],
        vec!["cohort", "--json", "list", "--home", flag],
        vec!["cohort", "list", "--home", flag, "--json", "-v"],
    ] {
        let output = run(other.path(), &args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object, expected, "{args:?}");
    }
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let home = home();
    let mut child = binary(home.path())
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut complaint)
        .unwrap();
    assert_eq!(complaint, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_full_disk_is_a_failure() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return;
    };
    let home = home();
    let output = binary(home.path())
        .args(["completions", "zsh"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: stdout can not be written"));
}

#[test]
fn completions_name_the_commands() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(home.path(), ["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("advertise"), "{shell}");
    }
}

#[test]
fn a_wrong_patch_is_refused_before_anything_is_sent() {
    let home = home();
    let patch = home.path().join("patch.json");
    let add = |value: &str| format!(r#"[{{"op":"add","path":"/a","value":{value}}}]"#);
    let deep = add(&format!("{}1{}", "[".repeat(80), "]".repeat(80)));
    let long = add(&format!("\"{}\"", "x".repeat(300_000)));
    for (text, why) in [
        ("", "not an RFC 6902 patch"),
        ("{}", "not an RFC 6902 patch"),
        ("[]", "no operations"),
        (r#"[{"op":"explode","path":"/a"}]"#, "not an RFC 6902 patch"),
        (r#"[{"op":"add","path":"/a"}]"#, "not an RFC 6902 patch"),
        (
            r#"[{"op":"remove","path":"/a","path":"/b"}]"#,
            "\"path\" occurs twice",
        ),
        (&deep, "nested deeper"),
        (&long, "has 262144 bytes or more"),
    ] {
        std::fs::write(&patch, text).unwrap();
        let args = ["did", "update", "did:btcr2:k1q", "--patch"];
        let output = run(
            home.path(),
            args.map(OsStr::new).into_iter().chain([patch.as_os_str()]),
        );
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(stderr(&output).contains(why), "{text}: {}", stderr(&output));
    }
}
