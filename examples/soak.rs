//! Many rounds of one cohort over a loopback relay, and what they cost over time: memory, files, descriptors, seconds.
//!
//!     cargo run --release --example soak -- --rounds 10000
//!     cargo run --release --example soak -- --rounds 500 --members 5 --beacon cas --update-every 10 --restart-every 100
//!
//! The agents and the chain are this process, the relay is one of its own, so that what the relay remembers does not
//! count as the agents' memory. Nobody has anything to announce but in every `--update-every`th round, when member 1
//! updates its DID; the others' silence is signalled, so every round has a transaction and a proof for everybody.
//! An update costs a resolution of its DID, which goes through every signal of the beacon: with many rounds, let there be
//! few (`--update-every 100`). "CPU ms a round" is this process' time, which does not depend on what else runs; memory
//! is the agents' and the in-process chain's. `MALLOC_ARENA_MAX=2` in the environment keeps glibc from holding on to
//! what each thread freed. With `--restart-every` all agents are stopped and started again after so many rounds, and they are at the end. A day
//! passes with every tenth round (`--rounds-a-day`; 0: time is as it is), so that what is kept for a month or a year is
//! deleted in a soak, too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bitcoin::{Amount, FeeRate};
use btcr2_agent::agent::What;
use btcr2_agent::agent::dids::{Change, Via};
use btcr2_agent::beacon::signal::funding_needed;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::nostr::RelayUrl;
use btcr2_agent::nostr::link::RelayConfig;
use btcr2_agent::nostr::relay::DevRelay;
use btcr2_agent::protocol::aggregator::FINAL_DEPTH;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::CohortBeacon;
use played::{PATIENCE, Played};

#[path = "../benches/played/mod.rs"]
mod played;

struct Plan {
    rounds: u32,
    members: usize,
    beacon: CohortBeacon,
    report_every: u32,
    update_every: u32,
    restart_every: u32,
    rounds_a_day: u32,
}

/// Seconds by which the agents' clocks are set ahead when a day is over.
const DAY: i64 = 86_400;

fn plan() -> Option<Plan> {
    let mut plan = Plan {
        rounds: 10_000,
        members: 3,
        beacon: CohortBeacon::Smt,
        report_every: 0,
        update_every: 10,
        restart_every: 0,
        rounds_a_day: 10,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--relay" {
            return None;
        }
        let value = arguments.next().expect("the option needs a value");
        let number = || value.parse().expect("a number");
        match argument.as_str() {
            "--rounds" => plan.rounds = number(),
            "--members" => plan.members = value.parse().expect("a number of members"),
            "--report-every" => plan.report_every = number(),
            "--update-every" => plan.update_every = number(),
            "--restart-every" => plan.restart_every = number(),
            "--rounds-a-day" => plan.rounds_a_day = number(),
            "--beacon" => {
                plan.beacon = match value.as_str() {
                    "smt" => CohortBeacon::Smt,
                    "cas" => CohortBeacon::Cas,
                    other => panic!("no beacon type {other}: smt or cas"),
                }
            }
            other => panic!("unknown option {other}; see the head of examples/soak.rs"),
        }
    }
    if plan.report_every == 0 {
        plan.report_every = (plan.rounds / 20).max(1);
    }
    Some(plan)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    match plan() {
        None => runtime.block_on(relay()),
        Some(plan) => runtime.block_on(soak(plan)),
    }
}

/// The relay's process: says where it is, and lives as long as its standard input.
async fn relay() {
    let relay = DevRelay::start((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    println!("{}", relay.url());
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
}

struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_relay() -> (Other, RelayUrl) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("--relay")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = RelayUrl::parse(line.trim()).unwrap();
    (Other(child), url)
}

async fn soak(plan: Plan) {
    let (_relay, url) = start_relay();
    let homes = tempfile::tempdir().unwrap();
    let mut soak = Soak::ready(&plan, &url, homes.path()).await;
    println!(
        "{} members, {} rounds, {} beacon\n\n\
         \u{20}  round   ms a round   CPU ms a round   memory MB   outbox rows   largest store MB   all files MB   descriptors   restart s",
        plan.members, plan.rounds, plan.beacon
    );
    let mut since = Instant::now();
    let mut cpu = cpu_ms();
    for round in 1..=plan.rounds {
        if plan.update_every > 0 && round % plan.update_every == 0 {
            soak.update().await;
        }
        soak.round().await;
        if plan.update_every > 0 && round % plan.update_every == 0 {
            // The next update of the same DID needs this one final.
            soak.played.stage.mine(FINAL_DEPTH).unwrap();
        }
        if plan.rounds_a_day > 0 && round % plan.rounds_a_day == 0 {
            soak.ahead.fetch_add(DAY, Ordering::Relaxed);
        }
        let mut restarted = None;
        if plan.restart_every > 0 && round % plan.restart_every == 0 {
            restarted = Some(soak.restart().await);
        }
        if round % plan.report_every == 0 {
            let rounds = f64::from(plan.report_every);
            let each = since.elapsed().as_secs_f64() * 1e3 / rounds;
            let cpu_now = cpu_ms();
            let cpu_each = cpu
                .zip(cpu_now)
                .map(|(before, now)| (now - before) / rounds);
            cpu = cpu_now;
            let (largest, all) = soak.files();
            let memory = status("VmRSS:")
                .map_or_else(|| "?".into(), |kib| format!("{:.1}", kib as f64 / 1024.0));
            let restarted =
                restarted.map_or_else(|| "-".into(), |took| format!("{:.2}", took.as_secs_f64()));
            println!(
                "{round:>8} {each:>12.1} {:>16} {memory:>11} {:>13} {:>18.1} {:>14.1} {:>13} {restarted:>11}",
                cpu_each.map_or_else(|| "?".into(), |each| format!("{each:.1}")),
                soak.waiting().await,
                megabytes(largest),
                megabytes(all),
                descriptors().map_or_else(|| "?".into(), |open| open.to_string()),
            );
            since = Instant::now();
        }
    }
    soak.check(plan.rounds).await;
    let restarted = soak.restart().await;
    println!("\na start takes {:.2} s", restarted.as_secs_f64());
    soak.round().await;
    for position in 0..=1 {
        println!(
            "\nMB in the store of {}:",
            soak.played.stage.actors[position].name
        );
        for (table, bytes) in soak.tables(position) {
            println!("{:>10.2}  {table}", megabytes(bytes));
        }
    }
    soak.played.stage.close().await.unwrap();
    println!("\nevery round is confirmed, and every member has a proof of each");
}

struct Soak {
    played: Played,
    updates: u32,
    /// Seconds by which all clocks are ahead.
    ahead: Arc<AtomicI64>,
}

impl Soak {
    /// A funded cohort; every member has a DID bound to it.
    async fn ready(plan: &Plan, relay: &RelayUrl, homes: &Path) -> Self {
        let ahead = Arc::<AtomicI64>::default();
        let part = |position| {
            let mut part = Part::new(Duration::from_millis(if position == 0 { 50 } else { 100 }));
            part.relays = vec![RelayConfig::configured(relay.clone())];
            part.policy.decline = Decline::NoUpdate;
            part.ahead = Arc::clone(&ahead);
            part
        };
        let mut played = Played::enter(plan.members, homes, part).await;
        // The chain's miner pays for all; what it estimates is below this.
        let rate = FeeRate::from_sat_per_vb_u32(5);
        let amount = funding_needed(plan.rounds.saturating_add(1), rate);
        let amount = amount.unwrap_or(Amount::from_sat(100_000_000));
        played.form(plan.beacon, amount).await;
        Self {
            played,
            updates: 0,
            ahead,
        }
    }

    /// Member 1 announces one update more.
    async fn update(&mut self) {
        self.updates += 1;
        // Keeps the document small: the service comes and goes.
        let id = "#soak".to_owned();
        let change = if self.updates % 2 == 1 {
            Change::AddService {
                id,
                kind: "LinkedDomains".into(),
                endpoint: serde_json::json!("https://example.com/"),
            }
        } else {
            Change::RemoveService { id }
        };
        let did = self.played.dids[0].clone();
        let started = Instant::now();
        loop {
            let via = Via::Cohort(Some(self.played.cohort));
            match self
                .played
                .stage
                .update(1, &did, vec![change.clone()], via)
                .await
            {
                Ok(_) => return,
                // The one before is not final to this member yet.
                Err(error) if started.elapsed() > PATIENCE => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// From the opening to the confirmation that everybody sees.
    async fn round(&mut self) {
        self.played.open_round().await;
        self.played
            .each(0..=0, |what| {
                matches!(what, What::Report(Report::SignalBroadcast { .. }))
            })
            .await;
        self.played.stage.mine(1).unwrap();
        self.played
            .each(0..=self.played.members, |what| {
                matches!(what, What::Report(Report::SignalConfirmed { .. }))
            })
            .await;
    }

    /// Everybody stops and starts; how long the slowest start took.
    async fn restart(&mut self) -> Duration {
        for position in 0..=self.played.members {
            self.played.stage.stop(position).await.unwrap();
        }
        while self.played.events.try_recv().is_ok() {}
        let mut slowest = Duration::ZERO;
        for position in 0..=self.played.members {
            let started = Instant::now();
            self.played.stage.resume(position).unwrap();
            slowest = slowest.max(started.elapsed());
        }
        self.played.connected().await;
        slowest
    }

    async fn check(&self, rounds: u32) {
        let cohort = self.played.cohort;
        for member in 1..=self.played.members {
            let kept = self
                .played
                .ask(member, move |agent| agent.proofs_kept(cohort))
                .await;
            assert!(
                kept >= rounds as usize,
                "member {member} has {kept} proofs of {rounds} rounds"
            );
        }
    }

    /// Messages that all agents have in memory because they are on their way.
    async fn waiting(&self) -> usize {
        let mut waiting = 0;
        for position in 0..=self.played.members {
            let depth = self
                .played
                .ask(position, |agent| Ok(agent.outbox_depth().0));
            waiting += depth.await;
        }
        waiting
    }

    /// Bytes of each table and index of a store, the largest first.
    fn tables(&self, position: usize) -> Vec<(String, u64)> {
        let path = self.played.stage.actors[position].home.store_path();
        let shell = rusqlite::Connection::open(path).unwrap();
        let sql = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 12";
        let mut statement = shell.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// Bytes of the largest store, and of all files of all agents.
    fn files(&self) -> (u64, u64) {
        let stores =
            self.played.stage.actors.iter().map(|actor| {
                std::fs::metadata(actor.home.store_path()).map_or(0, |file| file.len())
            });
        let all = self.played.stage.actors.iter().map(|actor| {
            let store = actor.home.store_path();
            let files = std::fs::read_dir(store.parent().unwrap())
                .into_iter()
                .flatten();
            files
                .flatten()
                .filter_map(|file| Some(file.metadata().ok()?.len()))
                .sum::<u64>()
        });
        (stores.max().unwrap_or(0), all.sum())
    }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A number of `/proc/self/status`, where there is one.
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Milliseconds of processor time this process took, where the system says so: in hundredths of a second on Linux.
fn cpu_ms() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) * 10.0)
}

/// Open file descriptors of this process, where the system says so.
fn descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}
