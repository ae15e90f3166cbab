//! `did sidecar`, `did verify`, `key backup` and `recover`, by the real binary.

use std::path::Path;

use serde_json::Value;

use super::processes::{Agent, dev};
use super::{binary, run, stderr, stdout, words};

fn words_of(agent: &Agent) -> String {
    let exported = agent.done("key export --form words --yes");
    exported["secret"].as_str().unwrap().to_owned()
}

fn answer(home: &Path, line: &str) -> (Value, Option<i32>) {
    let output = run(home, words(line).chain(["--json"]));
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{line}: {error}: {}{}", stdout(&output), stderr(&output)));
    (value, output.status.code())
}

#[test]
fn a_did_is_exported_verified_backed_up_and_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    agent.start();
    let did = agent.done("did create")["did"].as_str().unwrap().to_owned();
    let other = agent.done("did create --x1")["did"]
        .as_str()
        .unwrap()
        .to_owned();

    // Exported to a file only its owner can read, and to stdout for the next program.
    let out = dir.path().join("alice.json");
    let exported = agent.done(&format!("did sidecar {other} --out {}", out.display()));
    assert_eq!(exported["complete"], true);
    let file: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(file, exported["sidecar"]);
    assert!(file["genesisDocument"].is_object());
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&out).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let piped = run(&agent.home, ["did", "sidecar", &other]);
    assert_eq!(stdout(&piped).as_bytes(), std::fs::read(&out).unwrap());
    let resolved = agent.done(&format!(
        "did resolve {other} --sidecar {} --chain {chain} --min-conf 1",
        out.display()
    ));
    assert_eq!(resolved["didDocument"]["id"], other.as_str());

    // All is well with both.
    let verified = agent.done("did verify");
    assert_eq!(verified["dids"].as_array().unwrap().len(), 2);
    for checked in verified["dids"].as_array().unwrap() {
        assert_eq!(checked["resolution"]["version"], 1, "{checked}");
        assert_eq!(checked["missing"], serde_json::json!([]));
    }
    let text = run(&agent.home, ["did", "verify", &did]);
    assert!(stdout(&text).contains("complete"), "{}", stdout(&text));
    let unknown = agent.ask("did verify did:btcr2:k1qgpabc").unwrap_err();
    assert!(unknown.contains("invalid_value"), "{unknown}");

    // Backed up while it runs, and when it does not.
    let copy = dir.path().join("copy.bundle");
    let backup = agent.done(&format!("key backup --out {}", copy.display()));
    assert_eq!(
        (&backup["dids"], &backup["copy"]),
        (&2.into(), &copy.display().to_string().into())
    );
    assert_eq!(backup["bytes"], std::fs::metadata(&copy).unwrap().len());
    let recovery_words = words_of(&agent);
    agent.stop();
    let offline = dir.path().join("offline.bundle");
    agent.done(&format!("key backup --out {}", offline.display()));
    assert_eq!(
        std::fs::read(&offline).unwrap(),
        std::fs::read(&copy).unwrap()
    );

    // On another machine.
    let file = dir.path().join("words.txt");
    std::fs::write(&file, &recovery_words).unwrap();
    let home = dir.path().join("new");
    let recover = format!(
        "recover --words-file {} --no-passphrase --network regtest --bundle ",
        file.display()
    );
    let wrong = dir.path().join("wrong.txt");
    std::fs::write(
        &wrong,
        "leader monkey parrot ring guide accident before fence cannon height naive bean",
    )
    .unwrap();
    let not_mine = recover.replace("words.txt", "wrong.txt");
    let (refused, code) = answer(&home, &format!("{not_mine}{}", copy.display()));
    assert_eq!(code, Some(1));
    assert!(
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains("these words")
    );
    let cut = dir.path().join("cut.bundle");
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes.pop();
    std::fs::write(&cut, bytes).unwrap();
    let (refused, _) = answer(&home, &format!("{recover}{}", cut.display()));
    assert_eq!(refused["error"]["code"], "bad_bundle");
    let left: Vec<_> = std::fs::read_dir(&home)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "agent.lock")
        .collect();
    assert_eq!(left, [] as [String; 0], "nothing half-written");

    let (recovered, code) = answer(&home, &format!("{recover}{}", copy.display()));
    assert_eq!(code, Some(0), "{recovered}");
    let dids = recovered["result"]["dids"].as_array().unwrap().clone();
    assert_eq!(dids.len(), 2);
    let again = run(&home, words(&format!("{recover}{}", copy.display())));
    assert!(
        stderr(&again).contains("is there already"),
        "{}",
        stderr(&again)
    );
    assert!(!stderr(&again).contains(&recovery_words));
    let config = home.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let settings = format!("{text}\n[chain.regtest]\nurl = \"{chain}\"\npoll = \"1s\"\n");
    std::fs::write(&config, settings).unwrap();
    let mut new = Agent::at(home);
    new.start();
    let verified = new.done("did verify");
    assert_eq!(verified["dids"].as_array().unwrap().len(), 2);
    let listed = new.done("did list");
    let listed: Vec<&str> = listed["dids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|did| did["did"].as_str().unwrap())
        .collect();
    assert!(listed.contains(&did.as_str()) && listed.contains(&other.as_str()));
}

/// Without the bundle: k1 DIDs that are named or were paid come back, of others it is said what is lacking.
#[test]
fn the_words_alone_say_what_they_can_not_restore() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut agent = Agent::init(dir.path(), "agent", &relay, &chain);
    agent.start();
    let created = agent.done("did create");
    let (paid, beacon) = (created["did"].as_str().unwrap(), &created["beacons"][1]);
    let address = beacon["address"].as_str().unwrap();
    let named = agent.done("did create")["did"].as_str().unwrap().to_owned();
    let x1 = agent.done("did create --x1")["did"]
        .as_str()
        .unwrap()
        .to_owned();
    let stranger = dir.path().join("nobody");
    let pay = format!("dev pay {address} 50000 --chain {chain}");
    assert!(run(&stranger, words(&pay)).status.success());
    let file = dir.path().join("words.txt");
    std::fs::write(&file, words_of(&agent)).unwrap();
    let home = dir.path().join("new");
    let foreign = "did:btcr2:k1qgpfnrvsaarwvmrzu7drs358x6smujp0xh5h49jtjk8k4dcmx57ttesaej8pu";
    let line = format!(
        "recover --words-file {} --no-passphrase --network regtest --chain {chain} \
         --did {named} --did {x1} --did {foreign}",
        file.display()
    );
    let (recovered, code) = answer(&home, &line);
    assert_eq!(code, Some(0), "{recovered}");
    let lacks = |did: &str| {
        let dids = recovered["result"]["dids"].as_array().unwrap();
        let found = dids.iter().find(|of| of["did"] == did);
        found.unwrap_or_else(|| panic!("{did} is not in {recovered}"))["lacks"].clone()
    };
    assert_eq!(lacks(paid), Value::Null, "found on the chain");
    assert_eq!(lacks(&named), Value::Null);
    assert_eq!(lacks(&x1), serde_json::json!(["genesis_document"]));
    assert_eq!(lacks(foreign), serde_json::json!(["key"]));
    let new = Agent::at(home);
    let shown = binary(&new.home)
        .args(["key", "show", "--json"])
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        shown["result"]["identity"],
        agent.done("key show")["identity"]
    );
}
