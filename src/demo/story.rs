//! What happens in the demo, act by act.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bitcoin::Amount;
use rand::RngCore as _;
use rand::rngs::OsRng;
use serde_json::json;
use tokio::sync::mpsc;

use super::ledger::Ledger;
use super::stage::Stage;
use super::world::World;
use super::{DemoError, DemoPlan};
use crate::agent::adverts::check_advert;
use crate::agent::control::views::{
    BeaconType, DemoAgent, DemoReport, DemoResolved, DemoRound, DemoTraffic,
};
use crate::agent::timeline::short_did;
use crate::beacon::signal::funding_needed;
use crate::cli::progress::Reporter;
use crate::did::Did;
use crate::hash::CohortId;
use crate::network::Network;
use crate::nostr::link::AdvertQuery;
use crate::protocol::Round;
use crate::protocol::terms::{CohortBeacon, Salt, Terms};

/// Seconds a step may take, plus one per ten members.
const STEP_SECONDS: u64 = 30;

/// Actors whose lines are shown; with more members the timeline would be a flood.
pub(super) const SHOWN: usize = 8;

pub(super) async fn tell(plan: DemoPlan, reporter: &dyn Reporter) -> Result<DemoReport, DemoError> {
    if plan.members < 2 || plan.members > 1_000 || plan.rounds < 1 {
        return Err(DemoError::Wrong(
            "the demo needs 2 to 1000 members and at least one round".into(),
        ));
    }
    let scratch = Scratch::new(plan.keep.clone())?;
    let chain = Ledger::open(&plan.chain, &scratch.path().join("bitcoind")).await?;
    let (sender, events) = mpsc::unbounded_channel();
    let started = Instant::now();
    let names: Vec<String> = std::iter::once("aggregator".to_owned())
        .chain((1..=plan.members).map(|n| format!("member {n}")))
        .collect();
    let mut story = Story {
        limit: STEP_SECONDS + u64::from(plan.members) / 5,
        steps: 6 + u64::from(plan.rounds),
        done: 0,
        world: World::new(started, names, events, reporter, SHOWN),
        stage: Stage::open_on(chain, sender).await?,
        plan,
        dids: Vec::new(),
    };
    let result = story.play(scratch.path()).await;
    let closed = story.stage.close().await;
    let report = result?;
    closed?;
    Ok(report)
}

pub(super) struct Story<'r> {
    pub(super) plan: DemoPlan,
    pub(super) stage: Stage,
    pub(super) world: World<'r>,
    limit: u64,
    steps: u64,
    done: u64,
    /// Every DID.
    pub(super) dids: Vec<DemoDid>,
}

/// A DID of the demo, and what it must resolve to.
pub(super) struct DemoDid {
    /// The member that controls it.
    pub(super) owner: usize,
    pub(super) did: Did,
    /// Services added by updates, by their fragments; each update made a version.
    pub(super) services: Vec<String>,
    pub(super) deactivated: bool,
}

impl DemoDid {
    /// The version that its updates lead to.
    pub(super) fn version(&self) -> u64 {
        let updates = self.services.len() + usize::from(self.deactivated);
        1 + u64::try_from(updates).unwrap_or(u64::MAX - 1)
    }
}

impl Story<'_> {
    async fn play(&mut self, homes: &Path) -> Result<DemoReport, DemoError> {
        self.enter(homes).await?;
        let cohort = self.form().await?;
        let address = self.fund(cohort).await?;
        self.first_dids(cohort).await?;
        for round in 1..=self.plan.rounds {
            self.round(cohort, Round(round)).await?;
            if round < self.plan.rounds {
                // Between two rounds: this DID's genesis lists a beacon that has announced before, so it needs a
                // proof of every earlier signal first.
                let member =
                    1 + usize::try_from(round).unwrap_or(0) % usize::from(self.plan.members);
                self.create_did(member, cohort).await?;
                self.wait_for_dids("the new DID's history").await?;
            }
        }
        self.check()?;
        let resolved = self.resolve_all().await?;
        let proved = self.proofs(cohort).await?;
        self.report(address, &proved, resolved)
    }

    /// Proofs and announcements in each agent's store, the aggregator's first.
    async fn proofs(&self, cohort: CohortId) -> Result<Vec<u32>, DemoError> {
        let mut proofs = vec![0];
        for position in 1..self.stage.actors.len() {
            let kept = self
                .stage
                .ask(position, move |agent| agent.proofs_kept(cohort));
            proofs.push(u32::try_from(kept.await?).unwrap_or(u32::MAX));
        }
        Ok(proofs)
    }

    /// Starts every agent.
    async fn enter(&mut self, homes: &Path) -> Result<(), DemoError> {
        let relay = self.stage.relay.url().to_string();
        let chain = self.stage.chain.url();
        self.world.say(
            "demo",
            "stage",
            &format!("a relay at {relay}, a regtest chain at {chain}"),
            json!({ "relay": relay, "chain": chain }),
        );
        // The more agents share two cores, the less often each looks at the chain.
        let poll = Duration::from_millis(100 + 10 * u64::from(self.plan.members));
        for (position, name) in self.world.names.clone().iter().enumerate() {
            let home = homes.join(name.replace(' ', "-"));
            let pace = if position == 0 {
                Duration::from_millis(100)
            } else {
                poll
            };
            self.stage.enter(name, &home, pace)?;
        }
        let all = self.world.names.len();
        self.wait("every agent's connection to the relay", move |world| {
            world.seen.iter().take(all).all(|seen| seen.connected)
        })
        .await?;
        self.step("agents are connected");
        Ok(())
    }

    /// Advert, opt-ins, set, acknowledgements.
    async fn form(&mut self) -> Result<CohortId, DemoError> {
        let members = self.plan.members;
        let beacon = match self.plan.beacon {
            BeaconType::Smt => CohortBeacon::Smt,
            BeaconType::Cas => CohortBeacon::Cas,
        };
        let cohort = self
            .stage
            .ask(0, move |agent| {
                let mut salt = [0; 16];
                OsRng.fill_bytes(&mut salt);
                let now = agent.time();
                let mut terms = Terms::with_defaults(
                    agent.identity_key(),
                    Network::Regtest,
                    beacon,
                    Salt::from_bytes(salt),
                    now.plus(3_600),
                );
                terms.name = "demo".into();
                terms.seats_min = members;
                terms.seats_max = members;
                agent.create_cohort(terms, Vec::new())
            })
            .await?;
        self.world.say(
            "aggregator",
            "advertised",
            &format!(
                "advertises a {beacon} cohort for {members} members: {}",
                cohort.short()
            ),
            json!({ "cohort": cohort }),
        );
        for position in 1..=usize::from(members) {
            self.join(position, cohort).await?;
        }
        self.step("everybody opted in");
        self.wait("the frozen set", |world| {
            world
                .seen
                .iter()
                .skip(1)
                .all(|seen| seen.frozen && seen.acknowledged)
        })
        .await?;
        self.step("the set is frozen");
        Ok(cohort)
    }

    /// A participant finds the advert through a relay filter, checks it, and opts in.
    async fn join(&mut self, position: usize, cohort: CohortId) -> Result<(), DemoError> {
        let link = std::sync::Arc::clone(self.stage.actor(position)?.handle.link());
        let filter = AdvertQuery {
            networks: vec![Network::Regtest],
            statuses: vec![crate::nostr::advert::AdvertStatus::Open],
            ..AdvertQuery::default()
        }
        .filter();
        let deadline = Instant::now() + Duration::from_secs(self.limit);
        loop {
            let fetched = link.fetch(&filter, Duration::from_secs(5)).await;
            let found = fetched
                .events
                .iter()
                .filter_map(|(_, event)| check_advert(event, true).ok())
                .find(|advert| advert.event.cohort == cohort);
            if let Some(advert) = found {
                if position < SHOWN {
                    let actor = self.world.names.get(position).cloned().unwrap_or_default();
                    let text = format!(
                        "found cohort {} by {}, terms and id agree; opts in",
                        cohort.short(),
                        advert.terms.aggregator.short()
                    );
                    self.world
                        .say(&actor, "opted_in", &text, json!({ "cohort": cohort }));
                }
                let relays: Vec<String> = advert
                    .event
                    .relays
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                let content = advert.event.content;
                self.stage
                    .ask(position, move |agent| {
                        agent.join_cohort(&content, &relays, false, None)
                    })
                    .await?;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(DemoError::Late {
                    step: "finding the advert".into(),
                    seconds: self.limit,
                    seen: format!("{} events", fetched.events.len()),
                });
            }
        }
    }

    /// Pays the beacon address for all rounds.
    async fn fund(&mut self, cohort: CohortId) -> Result<String, DemoError> {
        let rounds = self.plan.rounds;
        let (address, amount) = self
            .stage
            .ask(0, move |agent| {
                let (address, least, rate) = agent.funding(cohort)?;
                let needed = funding_needed(rounds.saturating_add(1), rate)
                    .unwrap_or(Amount::from_sat(100_000));
                Ok((address, needed.max(least)))
            })
            .await?;
        let height = self.stage.fund(&address, amount)?;
        self.world.say(
            "chain",
            "funded",
            &format!("{} sat paid to the beacon in block {height}", amount.to_sat()),
            json!({ "address": address.to_string(), "amount_sat": amount.to_sat(), "height": height }),
        );
        self.wait("the funding's confirmation", |world| {
            world.seen.first().is_some_and(|seen| seen.tip_ready)
        })
        .await?;
        self.step("the beacon is funded");
        Ok(address.to_string())
    }

    /// One DID for each member, two for the first.
    async fn first_dids(&mut self, cohort: CohortId) -> Result<(), DemoError> {
        for position in 1..=usize::from(self.plan.members) {
            self.create_did(position, cohort).await?;
        }
        self.create_did(1, cohort).await?;
        self.wait_for_dids("the registration of every DID").await?;
        self.step("every DID is bound to the beacon");
        Ok(())
    }

    async fn create_did(&mut self, position: usize, cohort: CohortId) -> Result<(), DemoError> {
        let did = self
            .stage
            .ask(position, move |agent| agent.create_cohort_did(cohort))
            .await?;
        if position < SHOWN {
            let actor = self.world.names.get(position).cloned().unwrap_or_default();
            let text = format!("registers {}", short_did(did.as_str()));
            self.world
                .say(&actor, "did_registered", &text, json!({ "did": did }));
        }
        self.dids.push(DemoDid {
            owner: position,
            did,
            services: Vec::new(),
            deactivated: false,
        });
        Ok(())
    }

    async fn wait_for_dids(&mut self, step: &str) -> Result<(), DemoError> {
        let wanted: Vec<(usize, Did)> = self
            .dids
            .iter()
            .map(|known| (known.owner, known.did.clone()))
            .collect();
        self.wait(step, move |world| {
            wanted.iter().all(|(position, did)| {
                world
                    .seen
                    .get(*position)
                    .is_some_and(|seen| seen.ready_dids.iter().any(|known| known == did.as_str()))
            })
        })
        .await
    }

    /// What must hold at the end.
    fn check(&self) -> Result<(), DemoError> {
        for (name, seen) in self.world.names.iter().zip(&self.world.seen).skip(1) {
            if seen.approved.len() != self.world.rounds.len() {
                return Err(DemoError::Wrong(format!(
                    "{name} checked {} of {} signals",
                    seen.approved.len(),
                    self.world.rounds.len()
                )));
            }
        }
        Ok(())
    }

    fn report(
        &self,
        address: String,
        proved: &[u32],
        dids: Vec<DemoResolved>,
    ) -> Result<DemoReport, DemoError> {
        let rounds = self
            .world
            .rounds
            .iter()
            .map(|(round, seen)| {
                let missing = || DemoError::Wrong(format!("round {round} has no signal"));
                Ok(DemoRound {
                    round: *round,
                    txid: seen.txid.ok_or_else(missing)?,
                    signal: seen.signal.ok_or_else(missing)?,
                    vsize: seen.vsize,
                    fee_sat: seen.fee_sat,
                    took_ms: millis(seen.took.ok_or_else(missing)?),
                })
            })
            .collect::<Result<_, DemoError>>()?;
        let agents = self
            .world
            .names
            .iter()
            .zip(&self.world.seen)
            .zip(&self.stage.actors)
            .enumerate()
            .map(|(position, ((name, seen), actor))| {
                let dids = self.dids.iter().filter(|known| known.owner == position);
                let (events, bytes) = actor.handle.traffic();
                DemoAgent {
                    actor: name.clone(),
                    dids: u16::try_from(dids.count()).unwrap_or(u16::MAX),
                    announced: seen.updates,
                    declined: seen.declined,
                    proved: proved.get(position).copied().unwrap_or(0),
                    relays: vec![DemoTraffic {
                        relay: self.stage.relay.url().to_string(),
                        events,
                        bytes,
                    }],
                }
            })
            .collect();
        Ok(DemoReport {
            beacon: self.plan.beacon,
            address,
            took_ms: millis(self.world.started.elapsed()),
            rounds,
            agents,
            dids,
        })
    }

    pub(super) async fn wait(
        &mut self,
        step: &str,
        done: impl Fn(&World<'_>) -> bool,
    ) -> Result<(), DemoError> {
        self.world.wait(step, self.limit, done).await
    }

    pub(super) fn step(&mut self, text: &str) {
        self.done += 1;
        self.world.progress(self.done, self.steps, text);
    }
}

/// The directory of the demo's homes; removed at the end unless it is to be kept.
struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    fn new(keep: Option<PathBuf>) -> Result<Self, DemoError> {
        let setup = |path: &Path, error: std::io::Error| {
            DemoError::Setup(format!("{}: {error}", path.display()))
        };
        if let Some(path) = keep {
            std::fs::create_dir_all(&path).map_err(|error| setup(&path, error))?;
            let mut entries = std::fs::read_dir(&path).map_err(|error| setup(&path, error))?;
            if entries.next().is_some() {
                return Err(DemoError::Setup(format!(
                    "{} is not empty: give --keep a new directory",
                    path.display()
                )));
            }
            return Ok(Self { path, keep: true });
        }
        let mut random = [0; 8];
        OsRng.fill_bytes(&mut random);
        let name = format!("btcr2-demo-{}", crate::hash::to_hex(&random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|error| setup(&path, error))?;
        Ok(Self { path, keep: false })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
