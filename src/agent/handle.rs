//! Talking to a running agent.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::error::AgentError;
use super::events::AgentEvent;
use super::runtime::Agent;
use crate::keys::NostrKey;
use crate::nostr::link::Link;

/// Something to be done with the agent, between two of its inputs.
pub(super) type Job = Box<dyn FnOnce(&mut Agent) + Send>;

/// A running agent, for those who talk to it. Cheap to clone.
#[derive(Clone)]
pub struct AgentHandle {
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) events: broadcast::Sender<AgentEvent>,
    pub(super) link: Arc<Link>,
    pub(super) identity: NostrKey,
    pub(super) traffic: Arc<Traffic>,
}

/// What an agent has published, each event once per relay it went to.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) events: std::sync::atomic::AtomicU64,
    pub(super) bytes: std::sync::atomic::AtomicU64,
}

impl Traffic {
    pub(super) fn add(&self, relays: usize, event: &crate::nostr::VerifiedEvent) {
        use std::sync::atomic::Ordering::Relaxed;
        let relays = u64::try_from(relays).unwrap_or(u64::MAX);
        let bytes = u64::try_from(event.to_json().len()).unwrap_or(u64::MAX);
        self.events.fetch_add(relays, Relaxed);
        self.bytes.fetch_add(bytes.saturating_mul(relays), Relaxed);
    }
}

impl AgentHandle {
    /// Runs `job` with the agent, between two of its inputs.
    pub async fn with<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Agent) -> R + Send + 'static,
    ) -> Result<R, AgentError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |agent| {
            let _ = answer.send(job(agent));
        });
        self.jobs.send(job).await.map_err(|_| AgentError::Stopped)?;
        answered.await.map_err(|_| AgentError::Stopped)
    }

    /// Everything that happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.events.subscribe()
    }

    /// The connections to the relays.
    #[must_use]
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Events published so far, and their bytes; an event counts once for every relay it was sent to.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        use std::sync::atomic::Ordering::Relaxed;
        (
            self.traffic.events.load(Relaxed),
            self.traffic.bytes.load(Relaxed),
        )
    }

    /// The agent's identity.
    #[must_use]
    pub const fn identity(&self) -> NostrKey {
        self.identity
    }
}
