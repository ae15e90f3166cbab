//! The stage: relay, chain and agents in one process. The demo plays on it, and so do benches and tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bitcoin::{Address, Amount};
use rand::rngs::OsRng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::DemoError;
use crate::agent::{
    Agent, AgentError, AgentEvent, AgentHandle, AgentOptions, StandingPolicy, system_clock,
};
use crate::chain::{ChainBackend, RegtestServer};
use crate::config::{Home, write_private};
use crate::keys::{RootSecret, keystore};
use crate::network::Network;
use crate::nostr::link::{LinkOptions, RelayConfig};
use crate::nostr::relay::DevRelay;
use crate::protocol::participant::{Decline, SigningPolicy};
use crate::store::Store;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long an agent's backend waits for the chain.
const CHAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A running agent.
pub struct Actor {
    /// Its name in timelines and errors.
    pub name: String,
    /// How to talk to it.
    pub handle: AgentHandle,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), AgentError>>,
}

/// Relay, chain, agents.
pub struct Stage {
    /// The relay.
    pub relay: DevRelay,
    /// The chain and its Esplora API.
    pub chain: RegtestServer,
    /// The agents, in the order in which they entered.
    pub actors: Vec<Actor>,
    events: mpsc::UnboundedSender<(usize, AgentEvent)>,
}

impl Stage {
    /// Starts the relay and the chain on free loopback ports. Every agent's events go to `events`, with its
    /// position.
    pub async fn open(
        events: mpsc::UnboundedSender<(usize, AgentEvent)>,
    ) -> Result<Self, DemoError> {
        let setup = |error: String| DemoError::Setup(error);
        let relay = DevRelay::start(LOOPBACK)
            .await
            .map_err(|error| setup(error.to_string()))?;
        let chain = RegtestServer::start(LOOPBACK)
            .await
            .map_err(|error| setup(error.to_string()))?;
        Ok(Self {
            relay,
            chain,
            actors: Vec::new(),
            events,
        })
    }

    /// Makes a home in the directory `home` and starts an agent in it, which looks at the chain every
    /// `poll`. Its position is what [`Stage::ask`] and the events name it by.
    pub fn enter(&mut self, name: &str, home: &Path, poll: Duration) -> Result<usize, DemoError> {
        let setup = |error: String| DemoError::Setup(format!("{name}: {error}"));
        let agent_error = |error| DemoError::Agent {
            actor: name.to_owned(),
            error,
        };
        let home = Home::locate(Some(home), None).map_err(|error| setup(error.to_string()))?;
        home.create().map_err(|error| setup(error.to_string()))?;
        let root = RootSecret::generate(&mut OsRng);
        // A demo key protects nothing: no passphrase, and the cheapest scrypt never runs.
        let sealed = keystore::seal(&root, None, keystore::DEFAULT_LOG_N, &mut OsRng)
            .map_err(|error| setup(error.to_string()))?;
        write_private(&home.keystore_path(), sealed.as_bytes())
            .map_err(|error| setup(error.to_string()))?;
        let store = Store::open(&home.store_path())
            .map_err(|error| agent_error(AgentError::from(error)))?;
        let backend = ChainBackend::esplora(&self.chain.url(), CHAIN_TIMEOUT)
            .map_err(|error| setup(error.to_string()))?;
        let options = AgentOptions {
            root,
            store,
            relays: vec![RelayConfig::configured(self.relay.url().clone())],
            link: LinkOptions::default(),
            chains: vec![(Network::Regtest, backend, poll)],
            policy: SigningPolicy {
                max_fee_rate: 50,
                decline: Decline::Idle,
            },
            standing: StandingPolicy::default(),
            clock: system_clock(),
        };
        let (agent, handle) = Agent::start(options).map_err(agent_error)?;
        let position = self.actors.len();
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
        self.actors.push(Actor {
            name: name.to_owned(),
            handle,
            stop,
            task,
        });
        Ok(position)
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

    /// Pays an address from the miner, and mines.
    pub fn fund(&self, address: &Address, amount: Amount) -> Result<u32, DemoError> {
        let chain = self.chain.chain();
        let mut chain = chain
            .lock()
            .map_err(|_| DemoError::Wrong("the chain is poisoned".into()))?;
        chain
            .fund(&address.script_pubkey(), amount)
            .map_err(|error| DemoError::Setup(error.to_string()))?;
        chain.mine(1);
        Ok(chain.height())
    }

    /// Mines blocks; says the new height.
    pub fn mine(&self, blocks: u32) -> Result<u32, DemoError> {
        let chain = self.chain.chain();
        let mut chain = chain
            .lock()
            .map_err(|_| DemoError::Wrong("the chain is poisoned".into()))?;
        chain.mine(blocks);
        Ok(chain.height())
    }

    /// Stops the agents and waits for them.
    pub async fn close(self) -> Result<(), DemoError> {
        for actor in &self.actors {
            let _ = actor.stop.send(true);
        }
        for actor in self.actors {
            match actor.task.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    return Err(DemoError::Agent {
                        actor: actor.name,
                        error,
                    });
                }
                Err(error) => return Err(DemoError::Wrong(format!("{}: {error}", actor.name))),
            }
        }
        self.chain.shutdown().await;
        Ok(())
    }
}
