//! A stage full of agents: starting and stopping them, and waiting for what they report.

use std::path::Path;
use std::time::Duration;

use btcr2_agent::agent::{Agent, AgentError, AgentEvent, What, timeline};
use btcr2_agent::demo::ledger::Ledger;
use btcr2_agent::demo::stage::{Part, Stage};
use btcr2_agent::hash::CohortId;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::store::Role;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

/// Far longer than anything takes: only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often agents look at the chain.
pub const POLL: Duration = Duration::from_millis(50);

/// A stage, its agents, and everything they have reported.
pub struct Play {
    pub stage: Stage,
    pub seen: Vec<(usize, AgentEvent)>,
    pub events: UnboundedReceiver<(usize, AgentEvent)>,
    /// Failed rounds, reorganisations and ends are part of the test.
    pub expects_trouble: bool,
    /// Somebody was restored from an old copy: what it does not know of itself dismays nobody.
    pub forgiving: bool,
    /// How long anything may take; virtual time, where time is virtual.
    pub patience: Duration,
    homes: TempDir,
}

impl Play {
    /// A stage without agents.
    pub async fn empty() -> Self {
        let (sender, events) = unbounded_channel();
        Self {
            stage: Stage::open(sender).await.unwrap(),
            seen: Vec::new(),
            events,
            expects_trouble: false,
            forgiving: false,
            patience: PATIENCE,
            homes: tempfile::tempdir().unwrap(),
        }
    }

    /// A stage without agents on a chain that is made in a directory which is removed at the end.
    pub async fn on(chain: impl AsyncFnOnce(&Path) -> Ledger) -> Self {
        let (sender, events) = unbounded_channel();
        let homes = tempfile::tempdir().unwrap();
        let chain = chain(homes.path()).await;
        Self {
            stage: Stage::open_on(chain, sender).await.unwrap(),
            seen: Vec::new(),
            events,
            expects_trouble: false,
            forgiving: false,
            patience: PATIENCE,
            homes,
        }
    }

    /// A stage with so many agents, connected to its relay.
    pub async fn open(agents: usize) -> Self {
        Self::with_parts(&vec![Part::new(POLL); agents]).await
    }

    /// A stage with an agent for each part.
    pub async fn with_parts(parts: &[Part]) -> Self {
        let mut play = Self::empty().await;
        for part in parts {
            play.enter(part.clone());
        }
        play.connected(0..parts.len()).await;
        play
    }

    pub fn enter(&mut self, part: Part) -> usize {
        let name = format!("agent-{}", self.stage.actors.len());
        let home = self.homes.path().join(&name);
        self.stage.enter_as(&name, &home, part).unwrap()
    }

    /// Waits until each of these is connected to a relay.
    pub async fn connected(&mut self, actors: std::ops::Range<usize>) {
        self.until("connections", 0, |seen| {
            actors.clone().all(|actor| {
                seen.iter().any(|(by, event)| {
                    *by == actor
                        && matches!(
                            event.what,
                            What::Relay {
                                connected: true,
                                ..
                            }
                        )
                })
            })
        })
        .await;
    }

    /// Starts these agents again, and waits until they are connected.
    pub async fn resume(&mut self, actors: &[usize]) {
        let mark = self.mark();
        for actor in actors {
            self.stage.resume(*actor).unwrap();
        }
        self.until("connections", mark, |seen| {
            actors.iter().all(|actor| {
                seen.iter().any(|(by, event)| {
                    by == actor
                        && matches!(
                            event.what,
                            What::Relay {
                                connected: true,
                                ..
                            }
                        )
                })
            })
        })
        .await;
    }

    /// Has an agent do something.
    pub async fn ask<R: Send + 'static>(
        &self,
        actor: usize,
        job: impl FnOnce(&mut Agent) -> Result<R, AgentError> + Send + 'static,
    ) -> R {
        self.stage.ask(actor, job).await.unwrap()
    }

    /// How many events there are: what comes later is after this mark.
    pub fn mark(&self) -> usize {
        self.seen.len()
    }

    /// Takes in events until those after `mark` are what is waited for.
    pub async fn until(
        &mut self,
        what: &str,
        mark: usize,
        done: impl Fn(&[(usize, AgentEvent)]) -> bool,
    ) {
        self.wait(what, mark, false, done).await;
    }

    /// The same while the chain is reorganised, which agents report.
    pub async fn until_despite(
        &mut self,
        what: &str,
        mark: usize,
        done: impl Fn(&[(usize, AgentEvent)]) -> bool,
    ) {
        self.wait(what, mark, true, done).await;
    }

    async fn wait(
        &mut self,
        what: &str,
        mark: usize,
        reorganised: bool,
        done: impl Fn(&[(usize, AgentEvent)]) -> bool,
    ) {
        let deadline = Instant::now() + self.patience;
        while !done(&self.seen[mark..]) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some((actor, event))) => {
                    let expected = reorganised
                        && matches!(event.what, What::Report(Report::SignalReorganised { .. }));
                    if !expected {
                        self.dismay(actor, &event, what);
                    }
                    self.seen.push((actor, event));
                }
                Ok(None) => panic!("every agent stopped before {what}"),
                Err(_) => panic!("waited in vain for {what}:\n{}", self.story()),
            }
        }
    }

    /// Waits until each of `actors` has reported what `pick` takes, of this cohort, after `mark`.
    pub async fn reported(
        &mut self,
        what: &str,
        mark: usize,
        cohort: CohortId,
        role: Role,
        actors: &[usize],
        pick: impl Fn(&Report) -> bool,
    ) {
        self.until(what, mark, |seen| {
            actors.iter().all(|actor| {
                seen.iter().any(|(by, event)| {
                    by == actor
                        && event.cohort == Some(cohort)
                        && event.role == Some(role)
                        && matches!(&event.what, What::Report(report) if pick(report))
                })
            })
        })
        .await;
    }

    /// Among honest agents nothing of this may ever be reported.
    fn dismay(&self, actor: usize, event: &AgentEvent, waiting: &str) {
        if self.expects_trouble {
            return;
        }
        if let What::Report(
            Report::UnknownSpend { .. }
            | Report::RequestRefused { .. }
            | Report::MyRequestRefused { .. }
            | Report::Alarm { .. },
        ) = &event.what
            && self.forgiving
        {
            return;
        }
        if let What::Report(
            report @ (Report::RoundFailed { .. }
            | Report::BroadcastFailed { .. }
            | Report::MemberBlamed { .. }
            | Report::UnknownSpend { .. }
            | Report::SignalReorganised { .. }
            | Report::Alarm { .. }
            | Report::RequestRefused { .. }
            | Report::MyRequestRefused { .. }
            | Report::Ended { .. }),
        ) = &event.what
        {
            panic!(
                "agent {actor} reports {report:?} while waiting for {waiting}:\n{}",
                self.story()
            );
        }
    }

    /// The last events, for a failure's reader.
    fn story(&self) -> String {
        let lines = self.seen.iter().rev().take(60).rev();
        lines
            .map(|(actor, event)| match timeline::of_event(0, None, event) {
                Some(line) => format!("  {actor} {:?} {}\n", event.role, line.text),
                None => format!("  {actor} {:?}\n", event.what),
            })
            .collect()
    }

    /// Stops everybody; an agent that failed meanwhile is an error.
    pub async fn close(self) {
        self.stage.close().await.unwrap();
    }
}

/// Waits for something that nobody reports.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let search = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
