//! What the outbox is told, and what it wants done.

use super::pace::Budget;
use super::refusal::Refusal;
use super::row::{NewRow, Row};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::nostr::envelope::Ack;
use crate::nostr::event::{EventId, VerifiedEvent};
use crate::nostr::information::RelayLimits;
use crate::nostr::lanes::LaneId;
use crate::nostr::policy::RelayUrl;

/// A relay's answer to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It has the event.
    Accepted,
    /// It refuses the event, in its words.
    Refused(String),
    /// No answer in time, or no connection.
    Silent,
}

/// What the outbox is told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum OutboxInput {
    /// A message to send. Boxed: an event is large.
    Queued(Box<NewRow>),
    /// What a relay answered to an event that was sent.
    Answer {
        /// The event.
        event: EventId,
        /// The relay.
        relay: RelayUrl,
        /// Its answer.
        outcome: PublishOutcome,
        /// A random number, 0 to 999, to spread retries.
        jitter: u32,
    },
    /// Somebody acknowledged. [`crate::nostr::lanes::Lanes::acked_lane`] says which lane an acknowledgement is of.
    Acked {
        /// Who.
        by: NostrKey,
        /// Our lane.
        lane: LaneId,
        /// What it has.
        ack: Ack,
    },
    /// The protocol knows by other means that a message needs no acknowledgement any more: it was
    /// answered, or its time is over.
    Settled {
        /// The lane.
        lane: LaneId,
        /// The number on it.
        seq: u64,
    },
    /// A relay is connected (again).
    RelayUp(RelayUrl),
    /// A relay is used from now on, also for the messages on their way: for all of them, or for those of
    /// one cohort.
    RelayAdded(RelayUrl, Option<CohortId>),
    /// How much a relay may be sent from now on; `None`: as much as there is.
    Budget(RelayUrl, Option<Budget>),
    /// What a relay says it does not take (NIP-11).
    Limits(RelayUrl, RelayLimits),
    /// Something was sent to a relay beside the outbox.
    Charged(RelayUrl),
    /// A relay is not used any more.
    RelayRemoved(RelayUrl),
    /// A row was signed again, after [`OutboxEffect::Resign`].
    Resigned {
        /// The former event.
        former: EventId,
        /// The new one: same content, fresh time. Boxed: an event is large.
        event: Box<VerifiedEvent>,
    },
    /// A cohort is over: nothing of it is sent any more.
    Dropped(CohortId),
    /// Time passed: [`super::Outbox::next_deadline`] is reached.
    Tick,
}

/// What the outbox wants done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum OutboxEffect {
    /// Store this row as it now is ([`super::Outbox::row`]).
    Store(EventId),
    /// Sign the row again: same plaintext and number, `created_at` now, a fresh expiration; with a NIP-13
    /// nonce of so many bits if a relay wants it. Answer with [`OutboxInput::Resigned`].
    Resign {
        /// The row's present event.
        event: EventId,
        /// Bits of proof of work, at most [`super::MAX_POW`].
        pow: Option<u8>,
    },
    /// The row is done or given up, and no longer here: keep or delete it in the store.
    Closed {
        /// The row as it ended.
        row: Box<Row>,
        /// How.
        end: RowEnd,
    },
    /// Somebody should look: the event is refused for a reason that waiting does not cure.
    Alarm {
        /// The event.
        event: EventId,
        /// The relay.
        relay: RelayUrl,
        /// Why.
        refusal: Refusal,
        /// In the relay's words.
        words: String,
    },
    /// No relay is left that takes the event.
    Undeliverable(EventId),
}

/// How a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowEnd {
    /// Everybody acknowledged it, or it needed no acknowledgement and is published.
    Done,
    /// It expired.
    Expired,
    /// Its cohort is over.
    Dropped,
}
