//! A cohort of whole agents on a stage, for what measures it from outside: a bench, the soak.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use bitcoin::Amount;
use btcr2_agent::agent::adverts::check_advert;
use btcr2_agent::agent::{Agent, AgentError, AgentEvent, What};
use btcr2_agent::demo::stage::{Part, Stage};
use btcr2_agent::did::Did;
use btcr2_agent::hash::CohortId;
use btcr2_agent::network::Network;
use btcr2_agent::nostr::link::AdvertQuery;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::store::Role;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The aggregator is agent 0.
pub struct Played {
    pub stage: Stage,
    pub events: UnboundedReceiver<(usize, AgentEvent)>,
    pub cohort: CohortId,
    pub members: usize,
    /// The DID of member n + 1 at n.
    pub dids: Vec<Did>,
}

impl Played {
    /// Agents that are connected to a relay; each plays the part that `part` gives for its position.
    pub async fn enter(members: usize, homes: &Path, part: impl Fn(usize) -> Part) -> Self {
        let (sender, events) = unbounded_channel();
        let mut stage = Stage::open(sender).await.unwrap();
        for position in 0..=members {
            let name = format!("agent-{position}");
            let home = homes.join(&name);
            stage.enter_as(&name, &home, part(position)).unwrap();
        }
        let mut played = Self {
            stage,
            events,
            cohort: CohortId::from_bytes([0; 32]),
            members,
            dids: Vec::new(),
        };
        played.connected().await;
        played
    }

    pub async fn connected(&mut self) {
        let is = |what: &What| {
            matches!(
                what,
                What::Relay {
                    connected: true,
                    ..
                }
            )
        };
        self.each(0..=self.members, is).await;
    }

    /// A frozen cohort with so much money at its address, and a DID for each member.
    pub async fn form(&mut self, beacon: CohortBeacon, amount: Amount) {
        let seats = u16::try_from(self.members).unwrap();
        self.cohort = self
            .ask(0, move |agent| {
                let mut terms = Terms::with_defaults(
                    agent.identity_key(),
                    Network::Regtest,
                    beacon,
                    Salt::from_bytes(rand::random()),
                    agent.time().plus(3_600),
                );
                terms.seats_min = seats;
                terms.seats_max = seats;
                agent.create_cohort(terms, Vec::new())
            })
            .await;
        let link = std::sync::Arc::clone(self.stage.actors[1].handle.link());
        let filter = AdvertQuery::default().filter();
        let content = loop {
            let fetched = link.fetch(&filter, Duration::from_secs(5)).await;
            let adverts = fetched.events.iter();
            let mut checked = adverts.filter_map(|(_, event)| check_advert(event, true).ok());
            if let Some(advert) = checked.next() {
                break advert.event.content;
            }
        };
        for member in 1..=self.members {
            let content = content.clone();
            self.ask(member, move |agent| {
                agent.join_cohort(&content, &[], false, None)
            })
            .await;
        }
        self.each(1..=self.members, |what| {
            matches!(what, What::Report(Report::Frozen { .. }))
        })
        .await;
        let cohort = self.cohort;
        let address = self.ask(0, move |agent| Ok(agent.funding(cohort)?.0)).await;
        self.stage.fund(&address, amount).unwrap();
        self.each(0..=self.members, |what| {
            matches!(what, What::Report(Report::TipChanged { ready: true, .. }))
        })
        .await;
        for member in 1..=self.members {
            let did = self
                .ask(member, move |agent| agent.create_cohort_did(cohort))
                .await;
            self.dids.push(did);
        }
        self.each(1..=self.members, |what| {
            matches!(what, What::DidReady { .. })
        })
        .await;
    }

    /// Opens a round, and forgets what was heard before.
    pub async fn open_round(&mut self) {
        while self.events.try_recv().is_ok() {}
        let cohort = self.cohort;
        self.ask(0, move |agent| {
            agent.command_aggregator(cohort, AggregatorInput::OpenRound)
        })
        .await;
    }

    pub async fn ask<R: Send + 'static>(
        &self,
        actor: usize,
        job: impl FnOnce(&mut Agent) -> Result<R, AgentError> + Send + 'static,
    ) -> R {
        self.stage.ask(actor, job).await.unwrap()
    }

    /// Waits until each of these agents has said it once more.
    pub async fn each(&mut self, actors: RangeInclusive<usize>, pick: impl Fn(&What) -> bool) {
        let mut missing: BTreeSet<usize> = actors.collect();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !missing.is_empty() {
            let next = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let (actor, event) = next.expect("it takes too long").expect("agents run");
            // What a member reports beside the aggregator counts for the aggregator's role alone.
            let own = actor != 0 || event.role != Some(Role::Participant);
            if own && pick(&event.what) {
                missing.remove(&actor);
            }
        }
    }
}
