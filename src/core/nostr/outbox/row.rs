//! One message on its way.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{EXPIRY_MARGIN, RESIGN_AFTER, RESIGN_MAX, Refusal, backoff};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::nostr::envelope::Incarnation;
use crate::nostr::event::{EventId, VerifiedEvent};
use crate::nostr::lanes::LaneId;
use crate::nostr::policy::RelayUrl;
use crate::time::UnixTime;

/// A message to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// The signed event.
    pub event: VerifiedEvent,
    /// Its lane; `None` for an advert, which has neither lane nor acknowledgement.
    pub lane: Option<LaneId>,
    /// The incarnation in its envelope.
    pub inc: Incarnation,
    /// Its number on the lane, 0 if it is not counted.
    pub seq: u64,
    /// The message's type, for people.
    pub kind: String,
    /// What it is about, for people, as its sender says it.
    pub about: Option<String>,
    /// Who should acknowledge it: the recipient, for a channel message every member, or nobody.
    pub awaiting: BTreeSet<NostrKey>,
    /// The relays it goes to.
    pub relays: BTreeSet<RelayUrl>,
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The signed event, as it is sent.
    pub event: VerifiedEvent,
    /// Its lane.
    pub lane: Option<LaneId>,
    /// The incarnation in its envelope.
    pub inc: Incarnation,
    /// Its number on the lane.
    pub seq: u64,
    /// The message's type.
    pub kind: String,
    /// What it is about, as its sender said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// When it was queued first.
    pub queued: UnixTime,
    /// When the present event was queued.
    pub signed: UnixTime,
    /// When the present event expires.
    pub expires: UnixTime,
    /// Who has not yet acknowledged.
    pub awaiting: BTreeSet<NostrKey>,
    /// Per relay, how far it got.
    pub relays: BTreeMap<RelayUrl, Delivery>,
    /// Whether enough relays have the present event.
    pub published: bool,
    /// How often it was signed again.
    pub resigned: u32,
    pub(super) resign_at: Option<UnixTime>,
    pub(super) wants_ack: bool,
}

/// How far one event got at one relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// The last answer.
    pub state: DeliveryState,
    /// How often it was sent there.
    pub attempts: u32,
    /// When it is sent there next; `None`: not any more.
    pub next_try: Option<UnixTime>,
    /// The relay's words, if it refused.
    pub words: Option<String>,
}

/// A relay's answer, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryState {
    /// Not asked yet, or no answer yet.
    Pending,
    /// It has the event.
    Ok,
    /// It refused.
    Refused(Refusal),
    /// It was asked and did not answer.
    Silent,
}

/// What is known of a message's delivery, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryReport {
    /// The event.
    pub event: EventId,
    /// The message's type.
    pub kind: String,
    /// The cohort, if it is about one.
    pub cohort: Option<CohortId>,
    /// The recipient, or the channel's key.
    pub to: Option<NostrKey>,
    /// The number on the lane.
    pub seq: u64,
    /// When it was queued first.
    pub queued: UnixTime,
    /// Per relay its last answer and words.
    pub relays: Vec<(RelayUrl, DeliveryState, Option<String>)>,
    /// Whether enough relays have it.
    pub published: bool,
    /// Who has not acknowledged yet.
    pub awaiting: Vec<NostrKey>,
    /// How often it was signed again.
    pub resigned: u32,
}

impl Row {
    /// What is known of the delivery, for people.
    #[must_use]
    pub fn report(&self) -> DeliveryReport {
        DeliveryReport {
            event: self.event.id,
            kind: self.kind.clone(),
            cohort: self.lane.map(|lane| lane.cohort),
            to: self.lane.map(|lane| lane.recipient),
            seq: self.seq,
            queued: self.queued,
            relays: self
                .relays
                .iter()
                .map(|(url, d)| (url.clone(), d.state, d.words.clone()))
                .collect(),
            published: self.published,
            awaiting: self.awaiting.iter().copied().collect(),
            resigned: self.resigned,
        }
    }

    /// Whether anybody was to acknowledge it.
    #[must_use]
    pub const fn wants_ack(&self) -> bool {
        self.wants_ack
    }

    /// When to sign again if nothing happens: unacknowledged for long, or close to the end.
    pub(super) fn plan_resigning(&mut self) {
        let wait = backoff((RESIGN_AFTER, RESIGN_MAX), self.resigned.saturating_add(1));
        let expiry = self.expires.minus(self.expiry_margin());
        let late = self.wants_ack.then(|| self.signed.plus(wait));
        self.resign_at = Some(late.map_or(expiry, |late| late.min(expiry)));
    }

    const fn expiry_margin(&self) -> u64 {
        let tenth = self.expires.since(self.signed) / 10;
        if tenth < EXPIRY_MARGIN {
            tenth
        } else {
            EXPIRY_MARGIN
        }
    }

    pub(super) fn expires_soon(&self, now: UnixTime) -> bool {
        now >= self.expires.minus(self.expiry_margin())
    }
}
