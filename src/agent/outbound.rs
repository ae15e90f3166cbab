//! Delivery: which relays took an event, and sending again what none has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::runtime::Agent;
use crate::nostr::event::Event;
use crate::nostr::link::PublishOutcome;
use crate::nostr::{EventId, RelayUrl};
use crate::time::UnixTime;

/// What one relay said to an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayAnswer {
    /// It has it.
    Ok,
    /// It refuses it, in its words.
    Refused(String),
    /// It did not answer.
    Silent,
}

/// The state of an event on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryState {
    /// Answers by relay.
    #[serde(default)]
    pub relays: BTreeMap<RelayUrl, RelayAnswer>,
    /// Times it was sent again.
    #[serde(default)]
    pub resent: u32,
}

/// Seconds between two attempts to publish what too few relays took.
const RESEND_SECONDS: u64 = 30;

impl DeliveryState {
    /// Published: two relays have it, or the only one that is configured.
    #[must_use]
    pub fn is_published(&self, relays: usize) -> bool {
        let took = self
            .relays
            .values()
            .filter(|answer| **answer == RelayAnswer::Ok)
            .count();
        took >= relays.clamp(1, 2)
    }
}

impl Agent {
    pub(super) fn note_published(
        &mut self,
        event: EventId,
        relay: &RelayUrl,
        outcome: &PublishOutcome,
    ) -> Result<(), AgentError> {
        let now = self.now();
        let Some(row) = self.store.view().outbox_event(event)? else {
            return Ok(());
        };
        let mut state: DeliveryState = serde_json::from_str(&row.state).unwrap_or_default();
        let answer = match outcome {
            PublishOutcome::Accepted => RelayAnswer::Ok,
            PublishOutcome::Refused(reason) => {
                tracing::warn!(%relay, reason, kind = row.kind, "an event was refused");
                RelayAnswer::Refused(reason.chars().take(200).collect())
            }
            PublishOutcome::Silent => RelayAnswer::Silent,
        };
        // A relay that has an event keeps having it, whatever it says to the second copy.
        if state.relays.get(relay) != Some(&RelayAnswer::Ok) {
            state.relays.insert(relay.clone(), answer);
        }
        let done = state.is_published(self.link.relays().len());
        if !done {
            let again = now.plus(RESEND_SECONDS);
            self.lanes.next_send = Some(self.lanes.next_send.map_or(again, |at| at.min(again)));
        }
        let json = serde_json::to_string(&state)
            .map_err(|_| AgentError::Defect("a delivery state has no JSON"))?;
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_outbox_state(event, &json, done)?))
    }

    /// Sends again what is not published yet.
    pub(super) fn send_due(&mut self, now: UnixTime) -> Result<(), AgentError> {
        if self.lanes.next_send.is_none_or(|at| now < at) {
            return Ok(());
        }
        self.lanes.next_send = None;
        self.resend_pending()
    }

    pub(super) fn resend_pending(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        let pending = self.store.view().outbox_pending()?;
        let any = !pending.is_empty();
        for row in pending {
            if row.expires <= now {
                self.store.transaction::<_, AgentError>(|tx| {
                    Ok(tx.set_outbox_state(row.event_id, &row.state, true)?)
                })?;
                continue;
            }
            match Event::from_json(&row.event).and_then(Event::verify) {
                Ok(event) => self.publish(&event),
                Err(fault) => tracing::error!(%fault, "a stored event can not be read"),
            }
        }
        if any {
            self.lanes.next_send = Some(now.plus(RESEND_SECONDS));
        }
        Ok(())
    }
}
