//! A full round over a loopback relay: one aggregator and n members, each a whole agent with its own
//! store and connection, in one process. Half of the members update, the others decline.
//!
//! `cargo bench --bench relay_round` runs every size; `-- --members 20` one of them, `-- --beacon cas` one
//! beacon type, `-- --rounds 5` another number of rounds, of which the median counts.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

use std::time::{Duration, Instant};

use bitcoin::Amount;
use btcr2_agent::agent::dids::{Change, Via};
use btcr2_agent::agent::{AgentError, What};
use btcr2_agent::demo::DemoError;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::protocol::aggregator::FINAL_DEPTH;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use played::{PATIENCE, Played};

mod played;

const SIZES: [usize; 5] = [2, 5, 20, 50, 100];

fn main() {
    // `cargo bench` says so; `cargo test` only wants to know that this builds.
    let mut arguments = std::env::args().skip(1);
    let (mut sizes, mut beacons) = (SIZES.to_vec(), vec![CohortBeacon::Smt, CohortBeacon::Cas]);
    let (mut rounds, mut is_bench) = (5, false);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option needs a value");
        match argument.as_str() {
            "--bench" => is_bench = true,
            "--members" => sizes = vec![value().parse().expect("a number of members")],
            "--rounds" => rounds = value().parse().expect("a number of rounds"),
            "--beacon" => {
                beacons = vec![match value().as_str() {
                    "smt" => CohortBeacon::Smt,
                    "cas" => CohortBeacon::Cas,
                    other => panic!("no beacon type {other}: smt or cas"),
                }];
            }
            // A filter or an option of the standard harness.
            _ => {}
        }
    }
    if !is_bench {
        return;
    }
    println!(
        "A round from its opening; medians of {rounds}. Bytes are of events, as they are published.\n\n\
         beacon members   signed broadcast      cpu   aggregator            each member\n\
         \u{20}                    ms        ms       ms   posts  events     bytes  events   bytes"
    );
    for beacon in beacons {
        for members in &sizes {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut bench = Bench::ready(beacon, *members).await;
                let mut measured = Vec::new();
                for _ in 0..rounds {
                    measured.push(bench.round().await);
                }
                bench.played.stage.close().await.unwrap();
                print_row(beacon, *members, &measured);
            });
        }
    }
}

struct Bench {
    played: Played,
    members: usize,
    _homes: tempfile::TempDir,
}

/// One round's numbers.
struct Measured {
    signed: Duration,
    broadcast: Duration,
    /// Of the whole process, until the transaction was signed.
    cpu: Option<Duration>,
    aggregator: (u64, u64),
    /// Of all members together.
    members: (u64, u64),
    /// What everybody got: channel posts of the aggregator.
    posts: usize,
}

impl Bench {
    /// A funded cohort with a DID for each member.
    async fn ready(beacon: CohortBeacon, members: usize) -> Self {
        let homes = tempfile::tempdir().unwrap();
        // The more agents share the cores, the less often each looks at the chain.
        let poll = 100 + 10 * members as u64;
        let pace = |position| Duration::from_millis(if position == 0 { 100 } else { poll });
        let part = |position| Part::new(pace(position));
        let mut played = Played::enter(members, homes.path(), part).await;
        played.form(beacon, Amount::from_sat(1_000_000)).await;
        Self {
            played,
            members,
            _homes: homes,
        }
    }

    /// Half of the members update; the clock runs from the opening.
    async fn round(&mut self) -> Measured {
        for member in (1..=self.members).step_by(2) {
            self.update(member).await;
        }
        let before = self.traffic();
        let posts = self.posts();
        let cpu = cpu_time();
        let start = Instant::now();
        self.played.open_round().await;
        self.played
            .each(0..=0, |what| {
                matches!(what, What::Report(Report::SignalSigned { .. }))
            })
            .await;
        let signed = start.elapsed();
        let cpu = cpu_time().zip(cpu).map(|(after, before)| after - before);
        self.played
            .each(0..=0, |what| {
                matches!(what, What::Report(Report::SignalBroadcast { .. }))
            })
            .await;
        let broadcast = start.elapsed();
        let after = self.traffic();
        // Final, so that the next round can announce an update of the same DIDs.
        self.played.stage.mine(FINAL_DEPTH).unwrap();
        self.played
            .each(0..=self.members, |what| {
                matches!(what, What::Report(Report::SignalConfirmed { .. }))
            })
            .await;
        let posts = self.posts() - posts;
        let difference = |range: std::ops::RangeInclusive<usize>| {
            range.fold((0, 0), |sum, at| {
                let (events, bytes) = (after[at].0 - before[at].0, after[at].1 - before[at].1);
                (sum.0 + events, sum.1 + bytes)
            })
        };
        Measured {
            signed,
            broadcast,
            cpu,
            aggregator: difference(0..=0),
            members: difference(1..=self.members),
            posts,
        }
    }

    /// Queues an update as soon as the one before is final to this member.
    async fn update(&mut self, member: usize) {
        let started = Instant::now();
        loop {
            let (did, cohort) = (self.played.dids[member - 1].clone(), self.played.cohort);
            let change = Change::AddService {
                id: format!("#service-{}", rand::random::<u32>()),
                kind: "LinkedDomains".into(),
                endpoint: serde_json::json!("https://example.com/"),
            };
            let via = Via::Cohort(Some(cohort));
            let queued = self
                .played
                .stage
                .update(member, &did, vec![change], via)
                .await;
            match queued {
                Ok(_) => return,
                Err(DemoError::Agent {
                    error: AgentError::Refused(_),
                    ..
                }) if started.elapsed() < PATIENCE => {}
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Channel posts of the aggregator on the relay.
    fn posts(&self) -> usize {
        use btcr2_agent::nostr::event::KIND_DIRECTED;
        use btcr2_agent::nostr::filter::Filter;
        let aggregator = self.played.stage.actors[0].handle.identity();
        let filter = Filter::kind(KIND_DIRECTED).authors([aggregator]);
        let events = self.played.stage.relay.stored(&filter);
        // The channel is whom the latest opening went to: no member's key gets so many.
        let mut by_recipient = std::collections::BTreeMap::<&str, usize>::new();
        for event in &events {
            *by_recipient.entry(event.tag("p").unwrap()).or_default() += 1;
        }
        by_recipient.into_values().max().unwrap_or(0)
    }

    fn traffic(&self) -> Vec<(u64, u64)> {
        let actors = self.played.stage.actors.iter();
        actors.map(|actor| actor.handle.traffic()).collect()
    }
}

/// User and system time of this process, where the kernel says so in `/proc`.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything: state is the first field, utime the 12th, stime the 13th.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // The unit is USER_HZ, 100 on every Linux that runs here.
    Some(Duration::from_millis(ticks * 10))
}

fn print_row(beacon: CohortBeacon, members: usize, measured: &[Measured]) {
    let millis = |duration: Duration| duration.as_secs_f64() * 1_000.0;
    let median = |value: &dyn Fn(&Measured) -> f64| {
        let mut values: Vec<f64> = measured.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let count = members as f64;
    println!(
        "{beacon:6} {members:7} {:8.0} {:9.0} {:8.0} {:7.0} {:7.0} {:9.0} {:7.1} {:7.0}",
        median(&|m| millis(m.signed)),
        median(&|m| millis(m.broadcast)),
        median(&|m| m.cpu.map_or(f64::NAN, millis)),
        median(&|m| m.posts as f64),
        median(&|m| m.aggregator.0 as f64),
        median(&|m| m.aggregator.1 as f64),
        median(&|m| m.members.0 as f64 / count),
        median(&|m| m.members.1 as f64 / count),
    );
}
