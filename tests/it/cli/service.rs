//! docs/btcr2-agent.service: what it starts is an agent that runs, and stops when it is told to.

use std::path::Path;
use std::process::{Command, Stdio};

use super::processes::{Agent, Process, dev, wait};

const UNIT: &str = include_str!("../../../docs/btcr2-agent.service");

/// The values of a setting of the unit.
fn settings(name: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(setting, _)| *setting == name)
        .map(|(_, value)| value)
        .collect()
}

#[test]
fn the_unit_starts_an_agent_that_stops_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let (_relay, relay) = dev(dir, "relay");
    let (_chain, chain) = dev(dir, "chain");
    // What systemd puts where the unit says.
    let credentials = dir.join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let [credential] = settings("LoadCredential")[..] else {
        panic!("one credential");
    };
    let (name, _) = credential.split_once(':').unwrap();
    let passphrase = credentials.join(name);
    std::fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    let agent = Agent::protected(dir, "home", &relay, &chain, &passphrase);

    let [start] = settings("ExecStart")[..] else {
        panic!("one command");
    };
    let mut words = start.split(' ');
    let program = Path::new(words.next().unwrap());
    assert_eq!(program.file_name().unwrap(), "btcr2-agent");
    let [state] = settings("StateDirectory")[..] else {
        panic!("one state directory");
    };
    let state = format!("/var/lib/{state}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btcr2-agent"));
    command.args(words).env_clear();
    for variable in settings("Environment") {
        let (name, value) = variable.split_once('=').unwrap();
        let value = value.replace("%d", credentials.to_str().unwrap());
        command.env(name, value.replace(&state, agent.home.to_str().unwrap()));
    }
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let daemon = Process(command.stderr(Stdio::null()).spawn().unwrap());
    let pid = wait("the daemon answers", || agent.ask("status"))["pid"].as_u64();
    assert_eq!(pid, Some(daemon.0.id().into()));
    assert_eq!(daemon.terminate().code(), Some(0));
}
