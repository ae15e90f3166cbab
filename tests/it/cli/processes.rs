//! The real binary as separate processes: relay, chain, aggregator and members on loopback.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{binary, run, stderr, stdout, words};

/// How long anything may take: a slow machine that builds and tests at once stays below.
const PATIENCE: Duration = Duration::from_secs(90);

/// A process that ends with the test.
pub(crate) struct Process(pub(super) Child);

impl Process {
    /// Asks it to stop as the system does, and waits.
    pub(super) fn terminate(mut self) -> std::process::ExitStatus {
        let pid = self.0.id().to_string();
        let asked = std::process::Command::new("kill").arg(&pid).status();
        assert!(asked.unwrap().success());
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server of `dev`; returns where it listens.
pub(crate) fn dev(dir: &Path, what: &str) -> (Process, String) {
    let mut child = binary(dir)
        .args(["dev", what, "--port", "0", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    let url = answer["result"]["url"].as_str().unwrap().to_owned();
    (Process(child), url)
}

/// Repeats `look` until it finds something.
pub(super) fn wait<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let why = match look() {
            Ok(found) => return found,
            Err(why) => why,
        };
        assert!(Instant::now() < deadline, "{what}: {why}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An agent's home, and its daemon while it runs.
pub(crate) struct Agent {
    pub(crate) home: PathBuf,
    daemon: Option<Process>,
}

impl Agent {
    pub(crate) fn init(dir: &Path, name: &str, relay: &str, chain: &str) -> Self {
        Self::init_with(dir, name, relay, chain, "--no-passphrase")
    }

    /// One whose key is encrypted.
    pub(super) fn protected(
        dir: &Path,
        name: &str,
        relay: &str,
        chain: &str,
        passphrase: &Path,
    ) -> Self {
        let option = format!("--passphrase-file {}", passphrase.display());
        Self::init_with(dir, name, relay, chain, &option)
    }

    fn init_with(dir: &Path, name: &str, relay: &str, chain: &str, option: &str) -> Self {
        let agent = Self {
            home: dir.join(name),
            daemon: None,
        };
        agent.done(&format!("init {option} --network regtest"));
        let config = agent.home.join("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let chain = format!("\n[chain.regtest]\nurl = \"{chain}\"\npoll = \"1s\"\n");
        std::fs::write(&config, text + &chain).unwrap();
        agent.done(&format!("relay add {relay}"));
        agent
    }

    /// An agent whose home is there already.
    pub(super) const fn at(home: PathBuf) -> Self {
        Self { home, daemon: None }
    }

    /// Starts the daemon and waits until it answers.
    pub(super) fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.join("run.log"))
            .unwrap();
        let child = binary(&self.home)
            .args(["run", "--json"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(Process(child));
        wait("the daemon answers", || self.ask("status"));
    }

    pub(super) fn stop(&mut self) {
        let status = self.daemon.take().unwrap().terminate();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert!(self.ask("status").unwrap_err().contains("not_running"));
    }

    /// Ends the daemon, if it has not ended by itself.
    pub(super) fn stop_if_running(&mut self) {
        self.daemon = None;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("run.log")).unwrap_or_default()
    }

    /// A command's result, or the object of its failure.
    pub(super) fn ask(&self, line: &str) -> Result<Value, String> {
        let output = run(&self.home, words(line).chain(["--json"]));
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{line}: {e}: {}", stdout(&output)));
        if output.status.success() {
            Ok(answer["result"].clone())
        } else {
            assert_eq!(output.status.code(), Some(1), "{line}");
            Err(answer["error"].to_string())
        }
    }

    pub(super) fn done(&self, line: &str) -> Value {
        self.ask(line)
            .unwrap_or_else(|e| panic!("{line}: {e}\n{}", self.log()))
    }

    /// Waits until a command's result is as wanted.
    pub(super) fn wait(&self, line: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{} {line}", self.home.display());
        wait(&what, || match self.ask(line) {
            Ok(value) if wanted(&value) => Ok(value),
            Ok(value) => Err(value.to_string()),
            Err(why) => Err(why),
        })
    }

    pub(super) fn text(&self, line: &str) -> String {
        let output = run(&self.home, words(line));
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        stdout(&output).to_owned()
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(super) fn phase(value: &Value) -> &str {
    text(&value["summary"]["phase"])
}

/// Whether the last round's signal is on its way: the chain took it, or shows it already.
fn is_sent(view: &Value) -> bool {
    ["broadcast", "mempool"]
        .map(Value::from)
        .contains(&view["past_rounds"][0]["state"])
}

#[test]
fn a_cohort_forms_announces_and_survives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut aggregator = Agent::init(dir.path(), "aggregator", &relay, &chain);
    let mut one = Agent::init(dir.path(), "one", &relay, &chain);
    let mut two = Agent::init(dir.path(), "two", &relay, &chain);
    for agent in [&mut aggregator, &mut one, &mut two] {
        agent.start();
    }

    // Advertised, found, joined: by pick and by share link.
    let view = aggregator.done("cohort advertise --name garden --seats 2 --dids-per-seat 1-4");
    let cohort = text(&view["summary"]["cohort"]).to_owned();
    let naddr = text(&view["naddr"]).to_owned();
    let found = one.wait("cohort discover", |found| {
        found["adverts"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    });
    let advert = &found["adverts"][0];
    assert_eq!(advert["cohort"], cohort);
    assert_eq!(advert["terms"]["seats"]["max"], 2);
    assert_eq!(advert["served_by"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&advert["relays_asked"], &advert["expired"]),
        (&1.into(), &false.into())
    );
    // Without a daemon the same is found.
    let stranger = Agent {
        home: dir.path().join("nobody"),
        daemon: None,
    };
    let seen = stranger.done(&format!(
        "cohort discover --network regtest --relay {relay}"
    ));
    assert_eq!(seen["adverts"][0]["cohort"], cohort);
    let early = one.ask(&format!("cohort fund {cohort}")).unwrap_err();
    assert!(early.contains("not_found"), "{early}");
    one.done("cohort join 1 --yes");
    let again = one.ask(&format!("cohort join {cohort} --yes")).unwrap_err();
    assert!(again.contains("joined"), "{again}");
    let forming = one.ask(&format!("cohort fund {cohort}")).unwrap_err();
    assert!(forming.contains("must not be funded"), "{forming}");
    two.done(&format!("cohort join {naddr} --yes"));

    // Frozen: each derived the same address; then funded.
    let show = format!("cohort show {}", &cohort[..8]);
    let address =
        text(&aggregator.wait(&show, |v| phase(v) == "funding")["beacon"]["address"]).to_owned();
    for (member, seats) in [(&one, 2), (&two, 2)] {
        let view = member.wait(&show, |v| phase(v) == "funding");
        assert_eq!(view["beacon"]["address"], address.as_str());
        assert_eq!(view["members"].as_array().unwrap().len(), seats);
    }
    // By the default terms the aggregator pays: it is asked, and members are not.
    let fund = two.done(&format!("cohort fund {cohort} --rounds 3"));
    assert_eq!(fund["send_sat"], 0);
    let fund = aggregator.done(&format!("cohort fund {cohort} --rounds 3"));
    assert_eq!(fund["address"], address.as_str());
    assert_eq!(fund["state"], "awaiting");
    let send = fund["send_sat"].as_u64().unwrap();
    assert!(send >= fund["needed_sat"].as_u64().unwrap());
    stranger.done(&format!("dev pay {address} {send} --chain {chain}"));
    let paid = aggregator.wait(&format!("cohort fund {cohort} --rounds 3"), |fund| {
        fund["state"] == "confirmed"
    });
    assert_eq!(
        (&paid["send_sat"], &paid["balance_sat"]),
        (&0.into(), &send.into())
    );

    // A DID each; nothing is registered before, so no round opens.
    let refused = aggregator
        .ask(&format!("cohort announce {cohort}"))
        .unwrap_err();
    assert!(refused.contains("no DID is registered"), "{refused}");
    let did = |agent: &Agent| {
        let view = agent.done(&format!("did create --cohort {cohort}"));
        assert_eq!(view["bindings"][0]["stage"], "bound", "{view}");
        text(&view["did"]).to_owned()
    };
    let (first, second) = (did(&one), did(&two));
    let idle = one.ask(&format!("cohort announce {cohort}")).unwrap_err();
    assert!(idle.contains("no update of this agent waits"), "{idle}");
    let update =
        format!("did update {first} --add-service files,LinkedDomains,https://example.org");
    let dry = one.done(&format!("{update} --dry-run"));
    assert_eq!(
        (&dry["to_version"], &dry["update"]),
        (&2.into(), &Value::Null)
    );
    assert_eq!(dry["before"]["service"].as_array().unwrap().len(), 2);
    assert_eq!(dry["after"]["service"].as_array().unwrap().len(), 3);
    let updates = format!("did updates {first}");
    assert_eq!(one.done(&updates)["updates"], serde_json::json!([]));
    // Signed, taken back, and signed again.
    one.done(&format!("did update {first} --rotate-key initialKey"));
    assert_eq!(one.done(&updates)["updates"][0]["stage"], "queued");
    let left = one.done(&format!("did withdraw {first}"));
    assert_eq!(left["updates"], serde_json::json!([]));
    let text_of = one.text(&format!("{update} --dry-run"));
    assert!(
        text_of.contains("+ service  {\"id\":\"#files\","),
        "{text_of}"
    );
    let queued = one.done(&update);
    assert_eq!(queued["update"]["to_version"], 2);
    let twice = one.ask(&update).unwrap_err();
    assert!(twice.contains("an update to version 2 exists"), "{twice}");

    // Round 1, from opening to block.
    aggregator.wait(&show, |v| phase(v) == "idle");
    aggregator.done(&format!("cohort announce {cohort}"));
    let signed = aggregator.wait(&show, is_sent);
    let txid = text(&signed["past_rounds"][0]["txid"]).to_owned();
    one.wait(&format!("did show {first}"), |v| {
        v["pending"]["txid"] == txid.as_str()
    });
    stranger.done(&format!("dev mine --chain {chain}"));
    for agent in [&aggregator, &one, &two] {
        let view = agent.wait(&show, |v| v["past_rounds"][0]["state"] == "confirmed");
        assert_eq!(view["past_rounds"][0]["txid"], txid.as_str());
        assert_eq!(view["past_rounds"][0]["confirmations"], 1);
        // Rounds open a day apart, unless the terms say otherwise; members know when the last one was opened.
        let opened = view["past_rounds"][0]["opened_at"].as_u64().unwrap();
        assert_eq!(view["next_round_at"], opened + 86_400);
    }
    one.wait(&format!("did show {first}"), |v| v["version"] == 2);
    let confirmed = one.done(&updates);
    let update_now = &confirmed["updates"][0];
    assert_eq!(update_now["stage"], "confirmed");
    assert_eq!(update_now["txid"], txid.as_str());
    assert_eq!(
        (&update_now["confirmations"], &update_now["needed"]),
        (&1.into(), &6.into())
    );
    assert_eq!(update_now["route"]["cohort"], cohort.as_str());
    let waits = one.ask(&update.replace("files", "more")).unwrap_err();
    assert!(
        waits.contains("not final yet: wait for 5 more blocks"),
        "{waits}"
    );
    assert_eq!(two.done(&format!("did show {second}"))["version"], 1);

    // Delivery is visible: to whom, who took it, who acknowledged.
    let acknowledged = |view: &Value, kind: &str| {
        let messages = view["delivery"].as_array().unwrap();
        let mut of_kind = messages.iter().filter(|m| m["message"] == kind);
        of_kind.all(|m| m["acknowledged"]["have"] == 2)
    };
    let view = aggregator.wait(&show, |v| {
        acknowledged(v, "round_open") && acknowledged(v, "sign_request")
    });
    let messages = view["delivery"].as_array().unwrap();
    for kind in ["round_open", "sign_request", "round_result"] {
        let message = messages.iter().find(|m| m["message"] == kind).unwrap();
        assert_eq!(message["to"], "channel");
        assert_eq!(message["acknowledged"]["of"], 2);
        assert_eq!(message["relays"][0]["receipt"], "ok");
        assert_eq!(message["relays"][0]["relay"], relay.as_str());
    }
    let status = one.done("status");
    let sent: Vec<&str> = status["delivery"][0]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| text(&m["message"]))
        .collect();
    assert!(
        sent.contains(&"response") && sent.contains(&"partial_signature"),
        "{sent:?}"
    );
    assert_eq!(status["chains"][0]["height"], 112);
    let known = status["relays"].as_array().unwrap();
    let own = known.iter().find(|r| r["url"] == relay.as_str()).unwrap();
    assert_eq!(own["state"], "connected");
    assert!(
        own["accepted"].as_u64() > Some(2) && own["received"].as_u64() > Some(2),
        "{own}"
    );
    let page = aggregator.text(&show);
    assert!(page.contains("1/1 ok") && page.contains("2/2"), "{page}");

    // Stopped and started again, everything is back, and the next round spends the change.
    for agent in [&mut aggregator, &mut one, &mut two] {
        agent.stop();
    }
    // What was seen of the relay is remembered, and shown where no agent runs.
    let of_relay = |list: &Value| {
        let known = list["relays"].as_array().unwrap();
        known
            .iter()
            .find(|r| r["url"] == relay.as_str())
            .cloned()
            .unwrap()
    };
    let kept = of_relay(&one.done("relay list"));
    assert_eq!(kept["state"], "unused");
    assert!(
        kept["accepted"].as_u64() >= own["accepted"].as_u64(),
        "{kept}"
    );
    assert!(
        kept["received"].as_u64() >= own["received"].as_u64(),
        "{kept}"
    );
    assert!(kept["answer_ms"].is_u64() && kept["health"]["last_worked"].is_u64());
    for agent in [&mut aggregator, &mut one, &mut two] {
        agent.start();
    }
    let again = of_relay(&one.done("status"));
    assert!(
        again["accepted"].as_u64() >= kept["accepted"].as_u64(),
        "{again}"
    );
    assert_eq!(
        again["health"]["counted_since"],
        kept["health"]["counted_since"]
    );
    for agent in [&aggregator, &one, &two] {
        let view = agent.done(&show);
        assert_eq!(view["past_rounds"][0]["txid"], txid.as_str());
        assert_eq!(view["past_rounds"][0]["state"], "confirmed");
    }
    assert_eq!(one.done("did list")["dids"][0]["version"], 2);
    two.done(&format!(
        "did update {second} --add-service a,LinkedDomains,https://example.net"
    ));
    aggregator.wait(&show, |v| {
        phase(v) == "idle" && v["beacon"]["tip"].is_string()
    });
    let tip = aggregator.done(&show);
    assert!(text(&tip["beacon"]["tip"]).starts_with(&txid));
    aggregator.done(&format!("cohort announce {cohort}"));
    aggregator.wait(&show, |v| v["past_rounds"][0]["round"] == 2 && is_sent(v));
    stranger.done(&format!("dev mine --chain {chain}"));
    two.wait(&format!("did show {second}"), |v| v["version"] == 2);

    // Leaving now ends the beacon for all, and all know why. What it means is said before.
    let plan = two.done(&format!("cohort leave {cohort} --plan"));
    assert_eq!(
        (&plan["ends_for_all"], &plan["members"]),
        (&true.into(), &2.into())
    );
    assert_eq!(plan["dids"][0]["state"], "listed");
    two.done(&format!("cohort leave {cohort} --yes"));
    for agent in [&aggregator, &one] {
        let view = agent.wait(&show, |v| phase(v) == "ended");
        assert_eq!(view["end"]["cause"], "member_left");
    }
    aggregator.stop();
}

#[test]
fn invitations_follows_and_cas() {
    let dir = tempfile::tempdir().unwrap();
    let (_relay, relay) = dev(dir.path(), "relay");
    let (_chain, chain) = dev(dir.path(), "chain");
    let mut aggregator = Agent::init(dir.path(), "aggregator", &relay, &chain);
    let mut member = Agent::init(dir.path(), "member", &relay, &chain);
    aggregator.start();
    member.start();
    let key = |agent: &Agent| text(&agent.done("key show")["identity"]).to_owned();
    let (boss, guest) = (key(&aggregator), key(&member));

    // Followed, and told.
    let followed = member.done(&format!("follow {boss} --tell"));
    assert_eq!(followed["followed"][0]["told"], true);
    aggregator.wait("subscribers", |v| {
        v["subscribers"][0]["key"] == guest.as_str()
    });
    aggregator.done("cohort advertise --seats 2-3");
    member.wait("followed", |v| v["followed"][0]["open_cohorts"] == 1);
    let unfollowed = member.done(&format!("unfollow {boss}"));
    assert_eq!(unfollowed["followed"], serde_json::json!([]));
    aggregator.wait("subscribers", |v| v["subscribers"] == serde_json::json!([]));
    aggregator.stop();
    aggregator.start();
    // Relays serve stored messages at every start, the newest first; a probe of the same relay tells that
    // they were served.
    aggregator.wait("status", |v| {
        v["relays"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["received"].as_u64() > Some(0))
    });
    assert_eq!(
        aggregator.done("subscribers")["subscribers"],
        serde_json::json!([])
    );
    let nobody = member.ask(&format!("unfollow {boss}")).unwrap_err();
    assert!(nobody.contains("does not follow"), "{nobody}");

    // A cohort without advert: only who is invited can join, by its id.
    let view = aggregator.done("cohort advertise --beacon cas --seats 1-2 --invite-only");
    let cohort = text(&view["summary"]["cohort"]).to_owned();
    assert_eq!(view["naddr"], Value::Null);
    let invited = aggregator.done(&format!("cohort invite {cohort} {guest}"));
    assert_eq!(invited["delivery"][0]["message"], "invite");
    wait("the invitation", || {
        member.ask(&format!("cohort join {cohort} --seat identity --yes"))
    });
    aggregator.wait(&format!("cohort show {cohort}"), |v| {
        v["members"].as_array().is_some_and(|all| all.len() == 1)
    });
    let wrong = member.ask(&format!("cohort close {cohort}")).unwrap_err();
    assert!(wrong.contains("wrong_role"), "{wrong}");
    aggregator.done(&format!("cohort close {cohort}"));
    let view = member.wait(&format!("cohort show {cohort}"), |v| phase(v) == "funding");
    assert_eq!(view["terms"]["beacon"], "cas");
    assert_eq!(view["own_key"], guest.as_str());
    // Cancelled: nothing was signed yet.
    aggregator.done(&format!("cohort cancel {cohort} --yes"));
    let view = member.wait(&format!("cohort show {cohort}"), |v| phase(v) == "ended");
    assert_eq!(view["end"]["cause"], "cancelled");
    assert_eq!(
        aggregator.done("cohort list")["cohorts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        aggregator.done("cohort list --all")["cohorts"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    // Relays of a running daemon.
    let probe = member.done("relay probe --timeout 20s ws://127.0.0.1:9 ".trim());
    assert_eq!(probe["relays"][0]["connect_ms"], Value::Null);
    let probe = member.done(&format!("relay probe --timeout 20s {relay}"));
    assert_eq!(probe["relays"][0]["wrote"], true, "{probe}");
    assert_eq!(probe["relays"][0]["read_back"], true, "{probe}");
    let left = member.done(&format!("relay remove {relay}"));
    let urls: Vec<&str> = left["relays"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| text(&r["url"]))
        .collect();
    assert!(!urls.contains(&relay.as_str()), "{urls:?}");
    let gone = member.ask(&format!("relay remove {relay}")).unwrap_err();
    assert!(gone.contains("not_found"), "{gone}");
}

/// The limit is set before anything else, so the simplest long-running command shows it.
#[test]
#[cfg(target_os = "linux")]
fn no_process_of_ours_leaves_a_core_dump() {
    let dir = tempfile::tempdir().unwrap();
    let (relay, _) = dev(dir.path(), "relay");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", relay.0.id())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let fields: Vec<_> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(fields, ["0", "0"], "{line}");
}
