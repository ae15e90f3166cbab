//! A relay, a chain, an aggregator and two members, each a process; and what it takes to kill them and go on.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use btcr2_agent::agent::control::request::ShowCohort;
use btcr2_agent::agent::control::{ControlClient, Request, SOCKET_FILE};
use btcr2_agent::config::Home;
use btcr2_agent::hash::CohortId;
use btcr2_agent::keys::{RootSecret, keystore};
use btcr2_agent::store::Store;
use serde_json::Value;

use super::disk::error_of;
use crate::cli::processes::{Agent, Process, dev};
use crate::cli::{binary, run, words};

/// How long anything may take: a slow machine that builds and tests at once stays below.
const PATIENCE: Duration = Duration::from_secs(120);

/// SIGABRT, by which a fail point ends its process, and SIGKILL.
const VIOLENT: [i32; 2] = [6, 9];

/// Place of the aggregator among the actors; the members follow.
pub const AGGREGATOR: usize = 0;
pub const MEMBERS: [usize; 2] = [1, 2];

pub struct World {
    pub dir: tempfile::TempDir,
    _servers: [Process; 2],
    pub relay: String,
    pub chain: String,
    pub actors: [Actor; 3],
}

/// An agent's home, its process, and where that is to be killed.
pub struct Actor {
    pub name: &'static str,
    pub home: PathBuf,
    child: Option<Child>,
    /// Points at which it has yet to be killed, in this order.
    pub pending: VecDeque<String>,
    /// How many more times it may be killed before somebody says otherwise.
    pub lives: usize,
    armed: Option<String>,
    /// When it is to be killed, whatever it does.
    doomed: Vec<Instant>,
    /// Where it was killed.
    pub died: Vec<String>,
    pub record: Option<PathBuf>,
    /// Entries of a cohort's log after which it takes a snapshot, if not as many as usual.
    pub snapshot_after: Option<u64>,
    /// Pages its store may have, and how many more when it is full.
    pub pages: Option<(u64, u64)>,
    /// How often it was full.
    pub fulls: usize,
    /// A file with the seconds by which its clock is wrong.
    pub clock: Option<PathBuf>,
}

impl Actor {
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.join("run.log"))
            .unwrap();
        let mut command = binary(&self.home);
        command.args(["run", "--json"]);
        self.armed = self.pending.front().filter(|_| self.lives > 0).cloned();
        if let Some(point) = &self.armed {
            command.env("BTCR2_FAILPOINT", format!("{point}:1"));
        }
        if let Some(path) = &self.record {
            command.env("BTCR2_FAILPOINT_RECORD", path);
        }
        if let Some(entries) = self.snapshot_after {
            command.env("BTCR2_SNAPSHOT_AFTER", entries.to_string());
        }
        if let Some((pages, _)) = self.pages {
            command.env("BTCR2_STORE_PAGES", pages.to_string());
        }
        if let Some(path) = &self.clock {
            command.env("BTCR2_CLOCK_OFFSET", path);
        }
        let child = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Kills it, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
        self.armed = None;
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Starts it again if it was killed; whether it was. A process that ends otherwise is a failure of the test.
    pub fn tend(&mut self) -> bool {
        let now = Instant::now();
        if self.doomed.iter().any(|at| *at <= now) {
            self.doomed.retain(|at| *at > now);
            self.died.push("anywhere".to_owned());
            self.restart();
            return true;
        }
        let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().unwrap()) else {
            return false;
        };
        self.child = None;
        let armed = self.armed.take();
        if let (Some(1), Some((pages, more))) = (status.code(), &mut self.pages) {
            *pages += *more;
            let log = self.log();
            let last = error_of(&log).map(|line| line["error"].to_string());
            let said = last.is_some_and(|error| error.contains("the disk is full"));
            assert!(said, "{} ended for another reason:\n{log}", self.name);
            self.fulls += 1;
            self.start();
            return true;
        }
        let violent = status.signal().is_some_and(|s| VIOLENT.contains(&s));
        assert!(
            violent,
            "{} ended by itself: {status}\n{}",
            self.name,
            self.log()
        );
        let point = armed.unwrap_or_else(|| panic!("{}: {status}\n{}", self.name, self.log()));
        self.pending.retain(|other| *other != point);
        self.died.push(point);
        self.lives = self.lives.saturating_sub(1);
        self.start();
        true
    }

    /// Ends the wait for the point that was not reached: it goes to the end of the queue, or is given up.
    pub fn put_off(&mut self, given_up: impl Fn(&str) -> bool) {
        if let Some(point) = self.armed.take() {
            self.pending.retain(|other| *other != point);
            self.pending
                .extend(Some(point).filter(|point| !given_up(point)));
        }
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("run.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Whether it has written this.
    pub fn said(&self, words: &str) -> Result<(), String> {
        let text = std::fs::read_to_string(self.home.join("run.log")).unwrap_or_default();
        if text.contains(words) {
            Ok(())
        } else {
            Err(self.log())
        }
    }

    /// Whether the log says it `times` times.
    pub fn said_often(&self, words: &str, times: usize) -> Result<(), String> {
        let text = std::fs::read_to_string(self.home.join("run.log")).unwrap_or_default();
        if text.matches(words).count() >= times {
            Ok(())
        } else {
            Err(self.log())
        }
    }

    /// A command's result, or why it failed: also that the daemon was killed meanwhile.
    pub fn ask(&self, line: &str) -> Result<Value, String> {
        if let Some(cohort) = line.strip_prefix("cohort show ") {
            return self.show(cohort);
        }
        let output = run(&self.home, words(line).chain(["--json"]));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        if output.status.success() {
            Ok(answer["result"].clone())
        } else {
            Err(answer["error"].to_string())
        }
    }

    /// What is asked most of the time, without a process for each answer.
    fn show(&self, cohort: &str) -> Result<Value, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let request = Request::CohortShow(ShowCohort {
            cohort: cohort.parse().unwrap(),
            rounds: Some(1),
        });
        runtime.block_on(async {
            let daemon = ControlClient::connect(&self.home.join(SOCKET_FILE)).await;
            let daemon = daemon.map_err(|failure| failure.to_string())?;
            let answer = daemon.call(&request).await;
            answer.map_err(|failure| failure.to_string())
        })
    }

    /// Gives a command and does not wait.
    fn begin(&self, line: &str) -> Child {
        binary(&self.home)
            .args(words(line))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Gives its store more pages, if a command that has ended found the disk full: the daemon lives through that.
    fn tend_after(&mut self, mut command: Child) {
        let mut said = String::new();
        let stderr = command.stderr.take();
        stderr.unwrap().read_to_string(&mut said).unwrap();
        if said.contains("the disk is full")
            && self.child.is_some()
            && let Some((pages, more)) = &mut self.pages
        {
            *pages += *more;
            self.fulls += 1;
            self.kill();
            self.start();
        }
    }

    pub fn root(&self) -> RootSecret {
        let path = Home::locate(Some(&self.home), None)
            .unwrap()
            .keystore_path();
        keystore::open(&std::fs::read_to_string(path).unwrap(), None).unwrap()
    }

    /// What it has stored, also while it runs.
    pub fn store(&self) -> Store {
        let path = Home::locate(Some(&self.home), None).unwrap().store_path();
        Store::open_read_only(&path).unwrap()
    }

    /// Stops it as the system does, and waits until it has ended well.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let asked = std::process::Command::new("kill")
            .arg(child.id().to_string())
            .status();
        assert!(asked.unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// A start that has to fail; returns what it said.
    pub fn fails(&mut self) -> String {
        let output = run(&self.home, ["run", "--json"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.kill();
    }
}

impl World {
    /// Everything is there and nobody runs yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (relay_process, relay) = dev(dir.path(), "relay");
        let (chain_process, chain) = dev(dir.path(), "chain");
        let actors = ["aggregator", "one", "two"].map(|name| {
            let agent = Agent::init(dir.path(), name, &relay, &chain);
            Actor {
                name,
                home: agent.home.clone(),
                child: None,
                pending: VecDeque::new(),
                lives: 0,
                armed: None,
                doomed: Vec::new(),
                died: Vec::new(),
                record: None,
                snapshot_after: None,
                pages: None,
                fulls: 0,
                clock: None,
            }
        });
        // Members are killed more often here than terms usually expect.
        let path = actors[AGGREGATOR].home.join("config.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text + "\n[aggregator]\nmax_nonce_losses = 40\n").unwrap();
        Self {
            dir,
            _servers: [relay_process, chain_process],
            relay,
            chain,
            actors,
        }
    }

    pub fn start(&mut self) {
        for actor in &mut self.actors {
            actor.start();
        }
    }

    /// Repeats `look` until it finds something; whoever is killed meanwhile is started again.
    pub fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for actor in &mut self.actors {
                actor.tend();
            }
            let why = match look(self) {
                Ok(found) => return found,
                Err(why) => why,
            };
            if Instant::now() > deadline {
                let logs = self.actors.iter().map(|a| {
                    let armed = a.armed.as_deref().unwrap_or("-");
                    format!(
                        "{} (died {:?}, waits for {armed}):\n{}",
                        a.name,
                        a.died,
                        a.log()
                    )
                });
                let logs = logs.collect::<Vec<_>>().join("\n\n");
                panic!("{what}: {why}\n{logs}");
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until an actor's answer is as wanted.
    pub fn until(&mut self, who: usize, line: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{} {line}", self.actors[who].name);
        self.wait(&what, |world| match world.actors[who].ask(line) {
            Ok(value) if wanted(&value) => Ok(value),
            Ok(value) => Err(value.to_string()),
            Err(why) => Err(why),
        })
    }

    /// Gives a command until `done` finds what it leads to: the daemon may be killed before it, within it, or
    /// between what it did and its answer.
    pub fn command<T>(
        &mut self,
        who: usize,
        line: &str,
        done: impl Fn(&Actor) -> Result<T, String>,
    ) -> T {
        let what = format!("{} {line}", self.actors[who].name);
        // It may wait for others, who may have to be started again meanwhile.
        let mut running: Option<Child> = None;
        let found = self.wait(&what, |world| {
            let actor = &mut world.actors[who];
            let why = match done(actor) {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            match running.take() {
                None => running = Some(actor.begin(line)),
                Some(mut child) => match child.try_wait().unwrap() {
                    Some(_) => actor.tend_after(child),
                    None => running = Some(child),
                },
            }
            Err(why)
        });
        if let Some(mut child) = running {
            let _ = child.kill();
            child.wait().unwrap();
        }
        found
    }

    /// Kills an actor some time from now, within whatever is waited for then.
    pub fn kill_later(&mut self, who: usize, after: Duration) {
        self.actors[who].doomed.push(Instant::now() + after);
    }

    pub fn dev(&self, line: &str) -> Value {
        let output = run(
            self.dir.path(),
            words(line).chain(["--chain", &self.chain, "--json"]),
        );
        assert!(output.status.success(), "{line}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["result"].clone()
    }

    /// A cohort from its advert to two bound DIDs.
    pub fn form(&mut self) -> Cohort {
        self.form_with("")
    }

    /// Offers a cohort: its id, and the link to it.
    pub fn advertise(&mut self, terms: &str) -> (String, String) {
        let known = self.wait("cohort list", |world| cohorts(&world.actors[AGGREGATOR]));
        let id = self.command(AGGREGATOR, &format!("cohort advertise {terms}"), |actor| {
            let now = cohorts(actor)?;
            now.difference(&known)
                .next()
                .cloned()
                .ok_or_else(|| "none".to_owned())
        });
        let show = format!("cohort show {id}");
        let naddr = self.until(AGGREGATOR, &show, |view| view["naddr"].is_string());
        let naddr = text(&naddr["naddr"]).to_owned();
        (id, naddr)
    }

    /// Asks for a seat, with what the terms may want to see.
    pub fn join(&mut self, who: usize, id: &str, naddr: &str, shown: &str) {
        let show = format!("cohort show {id}");
        let line = format!("cohort join {naddr} --yes {shown}");
        self.command(who, &line, |actor| {
            let view = actor.ask(&show)?;
            let asked = actor.store();
            let row = asked.view().cohorts().map_err(|e| e.to_string())?;
            let new = row
                .iter()
                .any(|row| row.cohort.to_string() == id && row.state == "new");
            if new { Err("new".to_owned()) } else { Ok(view) }
        });
    }

    /// The same with further terms.
    pub fn form_with(&mut self, terms: &str) -> Cohort {
        let line = format!("--seats 2 --dids-per-seat 1-4 --empty-rounds signal {terms}");
        let (id, naddr) = self.advertise(&line);
        let show = format!("cohort show {id}");
        for who in MEMBERS {
            self.join(who, &id, &naddr, "");
        }
        for who in [AGGREGATOR, 1, 2] {
            self.until(who, &show, is_frozen);
        }
        let line = format!("cohort fund {id} --rounds 40");
        let payer = if terms.contains("--fund-by members") {
            MEMBERS[0]
        } else {
            AGGREGATOR
        };
        let fund = self.until(payer, &line, |fund| fund["send_sat"].as_u64() > Some(0));
        // Signals that are replaced at ten times their fee, again and again, cost more than forty rounds.
        let factor = if terms.is_empty() { 1 } else { 40 };
        let send = fund["send_sat"].as_u64().unwrap() * factor;
        let address = text(&fund["address"]);
        self.dev(&format!("dev pay {address} {send}"));
        self.until(payer, &line, |fund| fund["state"] == "confirmed");
        let dids = MEMBERS.map(|who| {
            let line = format!("did create --cohort {id}");
            self.command(who, &line, |actor| {
                let list = actor.ask("did list")?;
                let of_cohort = |did: &Value| {
                    let bindings = did["bindings"].as_array().unwrap();
                    bindings.iter().any(|b| b["cohort"] == id.as_str())
                };
                let mut dids = list["dids"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|d| of_cohort(d));
                dids.next()
                    .map(|did| text(&did["did"]).to_owned())
                    .ok_or_else(|| list.to_string())
            })
        });
        for (who, did) in MEMBERS.into_iter().zip(&dids) {
            self.until(who, &format!("did show {did}"), |view| {
                view["bindings"][0]["stage"] == "bound"
            });
        }
        self.until(AGGREGATOR, &show, |view| {
            let safe = &view["beacon"]["outputs"][0]["protection"];
            phase(view) == "idle" && view["beacon"]["tip"].is_string() && *safe == "protected"
        });
        Cohort {
            id,
            show,
            dids,
            deposits: terms.contains("--deposits"),
            round: 0,
            replaced: BTreeSet::new(),
            stalled: BTreeSet::new(),
            confirmed: Vec::new(),
        }
    }

    /// A round from its opening to six blocks; in it the first member announces an update. Returns how it ended:
    /// the transaction, or the cause.
    pub fn round(&mut self, cohort: &mut Cohort) -> Ending {
        self.round_with(cohort, Twist::Plain)
    }

    /// The same with something in between.
    pub fn round_with(&mut self, cohort: &mut Cohort, twist: Twist) -> Ending {
        let (show, did) = (cohort.show.clone(), cohort.dids[0].clone());
        let round = cohort.round + 1;
        cohort.round = round;
        let mut line =
            format!("did update {did} --add-service s{round},LinkedDomains,https://example.org");
        if cohort.deposits {
            line += " --deposit";
        }
        if let Twist::Stuck { withdrawn } = twist {
            cohort.replaced.insert(round);
            if withdrawn {
                self.queue_and_withdraw(&did, &line);
            }
        }
        self.command(1, &line, |actor| {
            let updates = actor.ask(&format!("did updates {did}"))?;
            let updates = updates["updates"].as_array().unwrap();
            let waits = |u: &Value| u["stage"] == "queued" || u["stage"] == "submitted";
            let waits = updates.iter().any(waits);
            if waits {
                Ok(())
            } else {
                Err(format!("{updates:?}"))
            }
        });
        if twist == Twist::Stalled {
            cohort.stalled.insert(round);
            self.actors[2].kill();
        }
        self.announce(cohort);
        let view = self.until(AGGREGATOR, &show, |view| {
            let last = &view["past_rounds"][0];
            last["round"] == round && last["state"] != "signed"
        });
        if twist == Twist::Stalled {
            self.actors[2].start();
        }
        let last = &view["past_rounds"][0];
        if last["state"] == "failed" {
            return Ending::Failed(last.to_string());
        }
        let mut txid = text(&last["txid"]).to_owned();
        let stuck = matches!(twist, Twist::Stuck { .. });
        if stuck {
            self.bump(cohort);
        }
        self.dev("dev mine 6");
        for who in [AGGREGATOR, 1, 2] {
            let view = self.until(who, &show, |view| {
                let last = &view["past_rounds"][0];
                // While it is replaced, what is in a block then is what counts, and the same for all.
                let same = last["txid"] == txid.as_str();
                let any = who == AGGREGATOR && stuck;
                last["round"] == round && last["state"] == "final" && (same || any)
            });
            txid = text(&view["past_rounds"][0]["txid"]).to_owned();
        }
        self.until(1, &format!("did updates {did}"), |view| {
            let updates = view["updates"].as_array().unwrap();
            updates.iter().all(|update| update["stage"] == "final")
        });
        cohort.confirmed.push(txid.clone());
        Ending::Confirmed(txid)
    }
}

/// What happens in a round besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twist {
    Plain,
    /// The signal is stuck and replaced, in the end by one that nobody had signed yet. The update may have been
    /// withdrawn once and made again.
    Stuck {
        withdrawn: bool,
    },
    /// The second member is away while the round is held, and back when it is signed.
    Stalled,
}

impl World {
    /// Opens the round that is next.
    pub fn announce(&mut self, cohort: &Cohort) {
        let (show, round) = (cohort.show.clone(), cohort.round);
        let line = format!("cohort announce {}", cohort.id);
        self.command(AGGREGATOR, &line, |actor| {
            let view = actor.ask(&show)?;
            let open = view["round"]["round"] == round;
            let over = view["past_rounds"][0]["round"] == round;
            if open || over {
                Ok(())
            } else {
                Err(view.to_string())
            }
        });
    }

    fn queue_and_withdraw(&mut self, did: &str, line: &str) {
        let waiting = |actor: &Actor| {
            let updates = actor.ask(&format!("did updates {did}"))?;
            let mut stages = updates["updates"].as_array().unwrap().iter();
            Ok::<_, String>(stages.any(|u| u["stage"] == "queued" || u["stage"] == "submitted"))
        };
        for (line, wanted) in [(line, true), (&format!("did withdraw {did}"), false)] {
            self.command(1, line, |actor| match waiting(actor)? == wanted {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            });
        }
    }

    /// Has the signal replaced until it pays more than any rung of the ladder that its round signed.
    fn bump(&mut self, cohort: &Cohort) {
        let show = cohort.show.clone();
        let line = format!("cohort bump {}", cohort.id);
        self.command(AGGREGATOR, &line, move |actor| {
            let view = actor.ask(&show)?;
            let last = &view["past_rounds"][0];
            let sent = last["state"] == "broadcast" || last["state"] == "mempool";
            let number = |name: &str| last[name].as_u64().unwrap_or(0);
            // Terms allow 50 sat/vB; ten times what a round begins with is 20.
            if sent && number("fee_sat") > 25 * number("vsize") {
                Ok(())
            } else {
                Err(last.to_string())
            }
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Confirmed(String),
    Failed(String),
}

pub struct Cohort {
    pub id: String,
    pub show: String,
    /// Of the two members.
    pub dids: [String; 2],
    /// Whether updates have to be shown to the aggregator.
    deposits: bool,
    pub round: u32,
    /// Rounds whose signal was replaced by one of a further session.
    pub replaced: BTreeSet<u32>,
    /// Rounds that were signed through the leaf, if they were signed.
    pub stalled: BTreeSet<u32>,
    /// The transactions of its rounds.
    pub confirmed: Vec<String>,
}

impl Cohort {
    pub fn key(&self) -> CohortId {
        self.id.parse().unwrap()
    }
}

fn cohorts(actor: &Actor) -> Result<BTreeSet<String>, String> {
    let list = actor.ask("cohort list --all")?;
    let rows = list["cohorts"].as_array().unwrap().iter();
    Ok(rows.map(|row| text(&row["cohort"]).to_owned()).collect())
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

pub fn phase(view: &Value) -> &str {
    text(&view["summary"]["phase"])
}

fn is_frozen(view: &Value) -> bool {
    ["funding", "idle", "round"].contains(&phase(view))
}
