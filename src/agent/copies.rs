//! Other copies of this agent: the home it was restored from, a home copied by hand, a machine set back to a snapshot.
//!
//! Two copies announce different things for one DID. Relays show what our own keys have written, so each copy sees the
//! other. The older one stops: its incarnation is the lower one, or its numbers are (DESIGN §4). What it saw is stored,
//! and it does not start again until a person has said that this copy is the one to go on (`takeover`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::backend::NO_COHORT;
use super::error::AgentError;
use super::events::What;
use super::outbound::store_lane;
use super::runtime::Agent;
use crate::hash::CohortId;
use crate::keys::{NostrKey, OwnKey};
use crate::nostr::VerifiedEvent;
use crate::nostr::envelope::Envelope;
use crate::nostr::event::Event;
use crate::nostr::lanes::{LaneId, OwnSighting};
use crate::store::{MetaKey, Store, StoreError, Tx, View};
use crate::time::UnixTime;

/// The other copy that was seen, as JSON; empty if there is none.
const SEEN: MetaKey = MetaKey::new("another_copy");

/// A message by a key of ours that this copy did not send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sighting {
    /// The key: the identity or a seat.
    pub author: NostrKey,
    /// The cohort it is about.
    pub cohort: CohortId,
    /// The incarnation of the store it was sent from.
    pub inc: u64,
    /// The incarnation of this store.
    pub ours: u64,
    /// When it was signed, by the other copy's clock.
    pub created_at: UnixTime,
    /// When it was seen.
    pub seen_at: UnixTime,
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "another copy of this agent is at work: key {} wrote in cohort {} from incarnation {} of the store, and \
             this home is incarnation {}",
            self.author.short(),
            self.cohort.short(),
            self.inc,
            self.ours
        )
    }
}

/// The other copy that was seen.
///
/// # Errors
/// [`StoreError`] if reading fails.
pub fn seen(view: &View<'_>) -> Result<Option<Sighting>, StoreError> {
    let text = view.meta(SEEN)?.filter(|text| !text.is_empty());
    text.map(|text| {
        serde_json::from_str(&text).map_err(|error| StoreError::Damaged {
            detail: format!("the note of another copy: {error}"),
        })
    })
    .transpose()
}

/// Refuses to go on with a store whose agent has seen another copy of itself.
pub(super) fn refuse_if_seen(store: &Store) -> Result<(), AgentError> {
    match seen(&store.view())? {
        Some(sighting) => Err(AgentError::AnotherCopy(Box::new(sighting))),
        None => Ok(()),
    }
}

/// Forgets the other copy.
pub(super) fn forget(tx: &Tx<'_>) -> Result<(), StoreError> {
    tx.set_meta(SEEN, "")
}

impl Agent {
    /// A message that one of our own keys has written. Stops the agent if another copy of it wrote that, and this one
    /// is not the newer.
    ///
    /// Only what no history of this store explains is another copy's: a higher incarnation, a number that was not given
    /// out here, or one that was given out for something else. Everything numbered is stored before it is sent, so that
    /// neither a crash nor a message that was signed again nor a relay that serves old events looks like one.
    pub(super) fn judge_own(&mut self, event: &VerifiedEvent) -> Result<(), AgentError> {
        let Some(own) = self.key_of(event.author) else {
            return Ok(());
        };
        if self.store.view().outbox_event(event.id)?.is_some() {
            return Ok(());
        }
        let Some(recipient) = event.tag("p").and_then(|key| key.parse().ok()) else {
            return Ok(());
        };
        let opened = self.conversations.open_own(&own, event).ok();
        let read = opened.and_then(|plaintext| {
            let envelope = Envelope::decode(&plaintext).ok()?;
            Some((envelope, plaintext))
        });
        let Some((envelope, plaintext)) = read else {
            self.count("own_unreadable");
            return Ok(());
        };
        let lane = LaneId {
            author: event.author,
            recipient,
            cohort: envelope.cohort,
        };
        // A message outside any cohort has the time for its number: only the incarnation tells.
        let seq = if lane.cohort == NO_COHORT {
            0
        } else {
            envelope.seq
        };
        let lanes = &self.post.lanes;
        let ours = lanes.incarnation();
        let sighting = Sighting {
            author: event.author,
            cohort: lane.cohort,
            inc: envelope.inc.0,
            ours: ours.0,
            created_at: event.created_at,
            seen_at: self.now(),
        };
        match lanes.own_message(&lane, envelope.inc, seq, event.created_at) {
            OwnSighting::Foreign => self.stop_for(sighting),
            OwnSighting::Numbered if self.said_otherwise(&own, lane, &envelope, &plaintext)? => {
                self.stop_for(sighting)
            }
            OwnSighting::Former => {
                self.recollect(lane, envelope)?;
                self.warn_of(sighting);
                Ok(())
            }
            OwnSighting::Earlier => self.recollect(lane, envelope),
            OwnSighting::Numbered | OwnSighting::Uncounted => Ok(()),
        }
    }

    /// Whether this store gave a message's number out for another one: signed again, a message keeps every byte. What was
    /// delivered and has expired is not kept: that proves nothing.
    fn said_otherwise(
        &self,
        own: &OwnKey,
        lane: LaneId,
        seen: &Envelope,
        plaintext: &[u8],
    ) -> Result<bool, AgentError> {
        let mut otherwise = false;
        for row in self
            .store
            .view()
            .outbox_numbered(store_lane(lane), seen.seq)?
        {
            let event = Event::from_json(&row.event).ok();
            let event = event.and_then(|event| event.verify().ok());
            let Some(said) = event.and_then(|event| self.conversations.open_own(own, &event).ok())
            else {
                continue;
            };
            if said == plaintext {
                return Ok(false);
            }
            // Under the same number of an earlier incarnation: another message.
            otherwise |= Envelope::decode(&said).is_ok_and(|said| said.inc == seen.inc);
        }
        Ok(otherwise)
    }

    fn stop_for(&mut self, sighting: Sighting) -> Result<(), AgentError> {
        tracing::error!(%sighting, "this agent stops");
        self.signer.drop_all_nonces();
        let json = serde_json::to_string(&sighting)
            .map_err(|_| AgentError::Defect("a sighting has no JSON"))?;
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_meta(SEEN, &json)?))?;
        self.emit(
            None,
            What::AnotherCopy {
                sighting: sighting.clone(),
                stops: true,
            },
        );
        Err(AgentError::AnotherCopy(Box::new(sighting)))
    }

    /// The copy this store was restored from runs on. It stops by itself when it sees us.
    fn warn_of(&mut self, sighting: Sighting) {
        let known = self.former_copy.replace(sighting.clone());
        if known.is_none() {
            tracing::error!(%sighting, "the former copy is still running");
            let what = What::AnotherCopy {
                sighting,
                stops: false,
            };
            self.emit(None, what);
        }
    }
}
