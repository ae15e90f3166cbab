//! The stage: relay, chain and agents in one process. The demo plays on it, and so do benches and tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bitcoin::{Address, Amount};
use rand::rngs::OsRng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::DemoError;
use super::ledger::{CHAIN_TIMEOUT, Ledger};
use crate::agent::dids::{Change, QueuedUpdate, Via};
use crate::agent::money::{MoneyOptions, StopFile};
use crate::agent::{
    Agent, AgentError, AgentEvent, AgentHandle, AgentOptions, Clock, ServicePolicy, StandingPolicy,
    snapshot_after, system_clock,
};
use crate::chain::RegtestServer;
use crate::config::{Home, write_private};
use crate::did::Did;
use crate::keys::{RootSecret, keystore};
use crate::network::Network;
use crate::nostr::link::{LinkOptions, RelayConfig, Timings};
use crate::nostr::relay::DevRelay;
use crate::protocol::participant::{Decline, SigningPolicy};
use crate::resolver::DEFAULT_MIN_CONF;
use crate::store::Store;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How an agent is to play, besides its name and home.
#[derive(Debug, Clone)]
pub struct Part {
    /// Time between two looks at the chain.
    pub poll: Duration,
    /// Its relays; none: the stage's own.
    pub relays: Vec<RelayConfig>,
    /// Waiting times of its connections.
    pub timings: Timings,
    /// Caps and fee rates; the kill switch is the home's.
    pub money: MoneyOptions,
    /// What it signs without asking.
    pub policy: SigningPolicy,
    /// What it joins by itself.
    pub standing: StandingPolicy,
    /// Whether it keeps the encrypted bundle, as a daemon does.
    pub bundle: bool,
    /// Confirmations the last update of a DID needs before the next one.
    pub min_conf: u32,
    /// Whether it asks relays what they are.
    pub describe_relays: bool,
    /// Entries of a log after which it takes a snapshot.
    pub snapshot_after: u64,
    /// Seconds by which its clock is ahead of this machine's. It may be set while it plays; clones share it.
    pub ahead: Arc<AtomicI64>,
}

impl Part {
    /// A part on the stage's relay, with every other default.
    #[must_use]
    pub fn new(poll: Duration) -> Self {
        Self {
            poll,
            relays: Vec::new(),
            timings: Timings::default(),
            money: MoneyOptions::default(),
            policy: SigningPolicy {
                max_fee_rate: 50,
                max_fee_sat: 50_000,
                decline: Decline::Idle,
            },
            standing: StandingPolicy::default(),
            bundle: false,
            min_conf: DEFAULT_MIN_CONF,
            describe_relays: false,
            snapshot_after: snapshot_after(),
            ahead: Arc::default(),
        }
    }

    /// Its clock on a stage with the clock `stage`.
    fn clock(&self, stage: Clock) -> Clock {
        let ahead = Arc::clone(&self.ahead);
        Arc::new(move || {
            let seconds = ahead.load(Ordering::Relaxed);
            if seconds < 0 {
                stage().minus(seconds.unsigned_abs())
            } else {
                stage().plus(seconds.unsigned_abs())
            }
        })
    }
}

/// An agent, running or stopped.
pub struct Actor {
    /// Its name in timelines and errors.
    pub name: String,
    /// How to talk to it. While it is stopped every answer is [`AgentError::Stopped`].
    pub handle: AgentHandle,
    /// Its home.
    pub home: Home,
    part: Part,
    /// What ends its task, and the task; none while it is stopped.
    running: Option<Running>,
}

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), AgentError>>,
}

/// Relay, chain, agents.
pub struct Stage {
    /// The relay.
    pub relay: DevRelay,
    /// The chain.
    pub chain: Ledger,
    /// The agents, in the order in which they entered.
    pub actors: Vec<Actor>,
    /// The clock of agents that enter from now on.
    pub clock: Clock,
    /// How long agents that enter from now on wait for one answer of the chain.
    pub chain_timeout: Duration,
    events: mpsc::UnboundedSender<(usize, AgentEvent)>,
}

impl Stage {
    /// Starts the relay and the chain on free loopback ports. Every agent's events go to `events`, with its
    /// position.
    pub async fn open(
        events: mpsc::UnboundedSender<(usize, AgentEvent)>,
    ) -> Result<Self, DemoError> {
        let setup = |error: String| DemoError::Setup(error);
        let chain = RegtestServer::start(LOOPBACK)
            .await
            .map_err(|error| setup(error.to_string()))?;
        Self::open_on(Ledger::InProcess(chain), events).await
    }

    /// The same on a chain that is there already.
    pub async fn open_on(
        chain: Ledger,
        events: mpsc::UnboundedSender<(usize, AgentEvent)>,
    ) -> Result<Self, DemoError> {
        let relay = DevRelay::start(LOOPBACK)
            .await
            .map_err(|error| DemoError::Setup(error.to_string()))?;
        Ok(Self {
            relay,
            chain,
            actors: Vec::new(),
            clock: system_clock(),
            chain_timeout: CHAIN_TIMEOUT,
            events,
        })
    }

    /// Makes a home in the directory `home` and starts an agent in it, which looks at the chain every
    /// `poll`. Its position is what [`Stage::ask`] and the events name it by.
    pub fn enter(&mut self, name: &str, home: &Path, poll: Duration) -> Result<usize, DemoError> {
        self.enter_as(name, home, Part::new(poll))
    }

    /// Makes a home in the directory `home` and starts an agent in it that plays `part`.
    pub fn enter_as(&mut self, name: &str, home: &Path, part: Part) -> Result<usize, DemoError> {
        let setup = |error: String| DemoError::Setup(format!("{name}: {error}"));
        let home = Home::locate(Some(home), None).map_err(|error| setup(error.to_string()))?;
        home.create().map_err(|error| setup(error.to_string()))?;
        let root = RootSecret::generate(&mut OsRng);
        // A demo key protects nothing: no passphrase, and the cheapest scrypt never runs.
        let sealed = keystore::seal(&root, None, keystore::DEFAULT_LOG_N, &mut OsRng)
            .map_err(|error| setup(error.to_string()))?;
        write_private(&home.keystore_path(), sealed.as_bytes())
            .map_err(|error| setup(error.to_string()))?;
        let position = self.actors.len();
        let (handle, running) = self.start(position, name, &home, &part, root)?;
        self.actors.push(Actor {
            name: name.to_owned(),
            handle,
            home,
            part,
            running: Some(running),
        });
        Ok(position)
    }

    /// Starts an agent in a home that is there already, as another actor.
    pub fn enter_again(&mut self, name: &str, home: &Path, part: Part) -> Result<usize, DemoError> {
        let setup = |error: String| DemoError::Setup(format!("{name}: {error}"));
        let home = Home::locate(Some(home), None).map_err(|error| setup(error.to_string()))?;
        let position = self.actors.len();
        let (handle, running) = self.start(position, name, &home, &part, root_in(name, &home)?)?;
        self.actors.push(Actor {
            name: name.to_owned(),
            handle,
            home,
            part,
            running: Some(running),
        });
        Ok(position)
    }

    /// Starts an agent with the store of its home, as its daemon would.
    fn start(
        &self,
        position: usize,
        name: &str,
        home: &Home,
        part: &Part,
        root: RootSecret,
    ) -> Result<(AgentHandle, Running), DemoError> {
        let agent_error = |error| DemoError::Agent {
            actor: name.to_owned(),
            error,
        };
        let store = Store::open(&home.store_path())
            .map_err(|error| agent_error(AgentError::from(error)))?;
        let backend = self.chain.backend_within(self.chain_timeout)?;
        let relays = if part.relays.is_empty() {
            vec![RelayConfig::configured(self.relay.url().clone())]
        } else {
            part.relays.clone()
        };
        let options = AgentOptions {
            root,
            store,
            relays,
            link: LinkOptions {
                auth: None,
                timings: part.timings,
            },
            chains: vec![(Network::Regtest, backend, part.poll)],
            money: MoneyOptions {
                switch: Some(StopFile::in_home(home)),
                ..part.money.clone()
            },
            policy: part.policy,
            standing: part.standing.clone(),
            service: ServicePolicy::default(),
            bundle: part.bundle.then(|| home.bundle_path()),
            cas: None,
            min_conf: part.min_conf,
            describe_relays: part.describe_relays,
            snapshot_after: part.snapshot_after,
            clock: part.clock(self.clock.clone()),
        };
        let (agent, handle) = Agent::start(options).map_err(agent_error)?;
        let mut heard = handle.events();
        let events = self.events.clone();
        tokio::spawn(async move {
            loop {
                match heard.recv().await {
                    Ok(event) => {
                        if events.send((position, event)).is_err() {
                            return;
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(agent.run(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Ok((handle, Running { stop, task }))
    }

    /// Stops an agent in good order, as a daemon that is told to end.
    pub async fn stop(&mut self, position: usize) -> Result<(), DemoError> {
        let actor = self.actor_mut(position)?;
        let Some(running) = actor.running.take() else {
            return Ok(());
        };
        let _ = running.stop.send(true);
        let ended = running.task.await;
        actor.hang_up();
        ended_well(&actor.name, ended)
    }

    /// Ends an agent between two of its inputs, without a last word.
    pub async fn kill(&mut self, position: usize) -> Result<(), DemoError> {
        let actor = self.actor_mut(position)?;
        if let Some(running) = actor.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
        actor.hang_up();
        Ok(())
    }

    /// Starts a stopped agent again: the same home, keys and store, another process for all it knows.
    pub fn resume(&mut self, position: usize) -> Result<(), DemoError> {
        let actor = self.actor(position)?;
        let (name, home, part) = (actor.name.clone(), actor.home.clone(), actor.part.clone());
        let root = root_in(&name, &home)?;
        let (handle, running) = self.start(position, &name, &home, &part, root)?;
        let actor = self.actor_mut(position)?;
        actor.handle = handle;
        actor.running = Some(running);
        Ok(())
    }

    fn actor_mut(&mut self, position: usize) -> Result<&mut Actor, DemoError> {
        self.actors
            .get_mut(position)
            .ok_or_else(|| DemoError::Wrong(format!("there is no actor {position}")))
    }

    /// An actor of this stage.
    pub fn actor(&self, position: usize) -> Result<&Actor, DemoError> {
        self.actors
            .get(position)
            .ok_or_else(|| DemoError::Wrong(format!("there is no actor {position}")))
    }

    /// Has one agent do something, between two of its inputs.
    pub async fn ask<R: Send + 'static>(
        &self,
        position: usize,
        job: impl FnOnce(&mut Agent) -> Result<R, AgentError> + Send + 'static,
    ) -> Result<R, DemoError> {
        let actor = self.actor(position)?;
        let failed = |error| DemoError::Agent {
            actor: actor.name.clone(),
            error,
        };
        actor
            .handle
            .with(job)
            .await
            .map_err(failed)?
            .map_err(failed)
    }

    /// Has one agent resolve, sign and queue an update of a DID.
    pub async fn update(
        &self,
        position: usize,
        did: &Did,
        changes: Vec<Change>,
        via: Via,
    ) -> Result<QueuedUpdate, DemoError> {
        let actor = self.actor(position)?;
        let queued = actor.handle.update_did(did, changes, via).await;
        queued.map_err(|error| DemoError::Agent {
            actor: actor.name.clone(),
            error,
        })
    }

    /// Pays an address from the miner, and mines.
    pub fn fund(&self, address: &Address, amount: Amount) -> Result<u32, DemoError> {
        self.chain.fund(&address.script_pubkey(), amount)?;
        self.chain.mine(1)
    }

    /// Mines blocks; says the new height.
    pub fn mine(&self, blocks: u32) -> Result<u32, DemoError> {
        self.chain.mine(blocks)
    }

    /// Stops the agents and waits for them.
    pub async fn close(mut self) -> Result<(), DemoError> {
        for running in self
            .actors
            .iter()
            .filter_map(|actor| actor.running.as_ref())
        {
            let _ = running.stop.send(true);
        }
        for position in 0..self.actors.len() {
            self.stop(position).await?;
        }
        self.chain.shutdown().await;
        Ok(())
    }
}

impl Actor {
    /// Closes the connections that a handle still keeps after its agent has gone.
    fn hang_up(&self) {
        let link = self.handle.link();
        for relay in link.relays() {
            link.remove_relay(&relay.url);
        }
    }
}

/// The root secret of a home, whose keystore has no passphrase here.
fn root_in(name: &str, home: &Home) -> Result<RootSecret, DemoError> {
    let setup = |error: String| DemoError::Setup(format!("{name}: {error}"));
    let sealed =
        std::fs::read_to_string(home.keystore_path()).map_err(|error| setup(error.to_string()))?;
    keystore::open(&sealed, None).map_err(|error| setup(error.to_string()))
}

fn ended_well(
    name: &str,
    ended: Result<Result<(), AgentError>, tokio::task::JoinError>,
) -> Result<(), DemoError> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(DemoError::Agent {
            actor: name.to_owned(),
            error,
        }),
        Err(error) => Err(DemoError::Wrong(format!("{name}: {error}"))),
    }
}
