//! What the demo has seen so far, and waiting for what must come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bitcoin::Txid;
use tokio::sync::mpsc;

use super::DemoError;
use crate::agent::control::TimelineEvent;
use crate::agent::{AgentEvent, What};
use crate::cli::progress::Reporter;
use crate::hash::{SignalBytes, SmtIndex};
use crate::protocol::Round;
use crate::protocol::effect::Report;
use crate::store::Role;

/// What was seen of one actor.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) connected: bool,
    pub(super) seated: bool,
    pub(super) acknowledged: bool,
    pub(super) frozen: bool,
    pub(super) tip_ready: bool,
    pub(super) ready_dids: Vec<String>,
    /// The highest version seen of each DID that was updated.
    pub(super) versions: BTreeMap<String, u64>,
    pub(super) bound: Vec<SmtIndex>,
    /// Rounds in which this member gave its partial signature, with what it said.
    pub(super) approved: BTreeMap<Round, SignalBytes>,
    pub(super) updates: u32,
    pub(super) declined: u32,
    pub(super) confirmed: Vec<Txid>,
    pub(super) ended: Option<String>,
}

/// One round, as the aggregator saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenRound {
    pub(super) opened: Option<Instant>,
    pub(super) signal: Option<SignalBytes>,
    pub(super) txid: Option<Txid>,
    pub(super) fee_sat: u64,
    pub(super) vsize: u64,
    pub(super) took: Option<Duration>,
    pub(super) confirmed: bool,
    pub(super) empty: bool,
    pub(super) failed: Option<String>,
}

/// Everything seen.
pub(super) struct World<'r> {
    pub(super) started: Instant,
    pub(super) seen: Vec<Seen>,
    pub(super) names: Vec<String>,
    pub(super) rounds: BTreeMap<Round, SeenRound>,
    events: mpsc::UnboundedReceiver<(usize, AgentEvent)>,
    reporter: &'r dyn Reporter,
    /// With many members only the aggregator's and the first members' lines are shown.
    shown: usize,
}

impl<'r> World<'r> {
    pub(super) fn new(
        started: Instant,
        names: Vec<String>,
        events: mpsc::UnboundedReceiver<(usize, AgentEvent)>,
        reporter: &'r dyn Reporter,
        shown: usize,
    ) -> Self {
        Self {
            started,
            seen: vec![Seen::default(); names.len()],
            names,
            rounds: BTreeMap::new(),
            events,
            reporter,
            shown,
        }
    }

    /// Says something on the timeline.
    pub(super) fn say(&self, actor: &str, step: &'static str, text: &str, data: serde_json::Value) {
        let at_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let event = TimelineEvent::new(at_ms, actor.to_owned(), step, text).with(data);
        self.reporter.event(&event);
    }

    pub(super) fn progress(&self, done: u64, total: u64, text: &str) {
        self.reporter.progress(done, total, text);
    }

    /// Takes in events until `done` says so, or `seconds` have passed.
    pub(super) async fn wait(
        &mut self,
        step: &str,
        seconds: u64,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), DemoError> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            if done(self) {
                return Ok(());
            }
            let failed = self.rounds.iter().find_map(|(round, seen)| {
                let reason = seen.failed.as_ref()?;
                Some(format!("round {round} failed: {reason}"))
            });
            if let Some(failed) = failed {
                return Err(DemoError::Wrong(failed));
            }
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some((actor, event))) => self.take(actor, &event),
                Ok(None) => return Err(DemoError::Wrong("every agent stopped".into())),
                Err(_) => {
                    let waiting = self.names.iter().zip(&self.seen);
                    let seen = waiting
                        .map(|(name, seen)| {
                            format!(
                                "{name}: frozen {}, dids {}",
                                seen.frozen,
                                seen.ready_dids.len()
                            )
                        })
                        .take(4)
                        .collect::<Vec<_>>()
                        .join("; ");
                    return Err(DemoError::Late {
                        step: step.to_owned(),
                        seconds,
                        seen,
                    });
                }
            }
        }
    }

    fn take(&mut self, actor: usize, event: &AgentEvent) {
        let is_aggregator = event.role == Some(Role::Aggregator);
        if actor < self.shown {
            let at_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Some(line) =
                crate::agent::timeline::of_event(at_ms, self.names.get(actor).cloned(), event)
            {
                self.reporter.event(&line);
            }
        }
        let Some(seen) = self.seen.get_mut(actor) else {
            return;
        };
        match &event.what {
            What::Relay { connected, .. } => seen.connected = *connected,
            What::DidReady { did } => seen.ready_dids.push(did.clone()),
            What::DidUpdated { did, version } => {
                let known = seen.versions.entry(did.clone()).or_default();
                *known = (*known).max(*version);
            }
            What::Report(report) => match report {
                Report::Seated { .. } => seen.seated = true,
                Report::SetAcknowledged { .. } => seen.acknowledged = true,
                Report::Frozen { .. } => seen.frozen = true,
                Report::TipChanged { ready, .. } => seen.tip_ready = *ready,
                Report::MayBind { index, .. } => seen.bound.push(*index),
                Report::Responded {
                    updates, declined, ..
                } => {
                    seen.updates += u32::from(*updates);
                    seen.declined += u32::from(*declined);
                }
                Report::SignalFixed { round, signal, .. } if !is_aggregator => {
                    seen.approved.insert(*round, *signal);
                }
                Report::SignalConfirmed { txid, .. } if !is_aggregator => {
                    seen.confirmed.push(*txid);
                }
                Report::Ended { why } => seen.ended = Some(format!("{why:?}")),
                _ => {}
            },
            _ => {}
        }
        if is_aggregator && let What::Report(report) = &event.what {
            self.take_round(report);
        }
    }

    fn take_round(&mut self, report: &Report) {
        let now = Instant::now();
        match report {
            Report::RoundOpened { round, .. } => {
                self.rounds.entry(*round).or_default().opened = Some(now);
            }
            Report::SignalFixed {
                round,
                signal,
                fee_sat,
                ..
            } => {
                let seen = self.rounds.entry(*round).or_default();
                seen.signal = Some(*signal);
                seen.fee_sat = *fee_sat;
            }
            Report::SignalSigned {
                round, txid, vsize, ..
            } => {
                let seen = self.rounds.entry(*round).or_default();
                seen.txid = Some(*txid);
                seen.vsize = *vsize;
            }
            Report::SignalBroadcast { round, .. } => {
                let seen = self.rounds.entry(*round).or_default();
                seen.took = seen.opened.map(|opened| now - opened);
            }
            Report::BroadcastFailed { round, reason } => {
                self.rounds.entry(*round).or_default().failed = Some(reason.clone());
            }
            Report::SignalConfirmed { round, .. } => {
                self.rounds.entry(*round).or_default().confirmed = true;
            }
            Report::RoundEmpty { round } => {
                self.rounds.entry(*round).or_default().empty = true;
            }
            Report::RoundFailed { round, why } => {
                self.rounds.entry(*round).or_default().failed = Some(format!("{why:?}"));
            }
            _ => {}
        }
    }
}
