//! Publications: each event waits for this relay's answer alone.

use std::borrow::Cow;
use std::sync::Arc;

use nostr_sdk::prelude::ClientMessage;
use tokio::time::Instant;

use super::super::{LinkEvent, PublishOutcome};
use super::{Connection, MAX_PUBLISHES, Session, wants_auth};
use crate::nostr::event::EventId;

pub(super) struct Publish {
    pub(super) event: Arc<nostr::Event>,
    pub(super) deadline: Instant,
    pub(super) sent: bool,
    pub(super) sent_at: Option<Instant>,
    /// Refused for lack of authentication; sent once more after it.
    pub(super) wants_auth: Option<String>,
    pub(super) repeated: bool,
}

impl Session {
    pub(super) fn publish(&mut self, event: Arc<nostr::Event>) {
        let id = EventId::from_bytes(event.id.to_bytes());
        if self.publishes.contains_key(&id) {
            return;
        }
        let deadline = Instant::now() + self.timings.ok;
        let publish = Publish {
            event,
            deadline,
            sent: false,
            sent_at: None,
            wants_auth: None,
            repeated: false,
        };
        let full = self.publishes.len() >= MAX_PUBLISHES;
        self.publishes.insert(id, publish);
        if full {
            return self.published(id, PublishOutcome::Silent);
        }
        self.deadlines.push_back((deadline, id));
        self.unsent.push_back(id);
        self.send_unsent();
    }

    pub(super) fn send_unsent(&mut self) {
        if !self.is_up() {
            return;
        }
        while let Some(id) = self.unsent.pop_front() {
            let Some(publish) = self.publishes.get(&id).filter(|publish| !publish.sent) else {
                continue;
            };
            if !self.send(ClientMessage::Event(Cow::Borrowed(&publish.event))) {
                self.unsent.push_front(id);
                return;
            }
            if let Some(publish) = self.publishes.get_mut(&id) {
                publish.sent = true;
                publish.sent_at = Some(Instant::now());
            }
        }
    }

    pub(super) fn answer(&mut self, id: EventId, accepted: bool, text: &str) {
        self.attempts = 0;
        let authenticated = matches!(
            self.connection,
            Connection::Up {
                authenticated: true,
                ..
            }
        );
        let Some(publish) = self.publishes.get_mut(&id) else {
            return;
        };
        if let Some(sent_at) = publish.sent_at {
            self.tally.note_latency(sent_at.elapsed());
        }
        if accepted {
            return self.published(id, PublishOutcome::Accepted);
        }
        if self.authenticates && wants_auth(text) && !publish.repeated {
            if authenticated {
                publish.repeated = true;
                publish.sent = false;
                self.unsent.push_back(id);
                return self.send_unsent();
            }
            publish.wants_auth = Some(text.to_owned());
            return;
        }
        self.published(id, PublishOutcome::Refused(text.to_owned()));
    }

    pub(super) fn published(&mut self, id: EventId, outcome: PublishOutcome) {
        if self.publishes.remove(&id).is_some() {
            self.report(LinkEvent::Published {
                event: id,
                relay: self.config.url.clone(),
                outcome,
            });
        }
    }
}
