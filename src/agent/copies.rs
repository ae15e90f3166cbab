//! Other copies of this agent: the home it was restored from, a home copied by hand, a machine set back to a snapshot.
//!
//! Two copies announce different things for one DID. Relays show what our own keys have written, so each copy sees the
//! other. The older one stops: its incarnation is the lower one, or its numbers are (DESIGN §4). What it saw is stored,
//! and it does not start again until a person has said that this copy is the one to go on (`takeover`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::events::What;
use super::runtime::Agent;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::nostr::VerifiedEvent;
use crate::nostr::envelope::Envelope;
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
    /// A message that one of our own keys has written. Stops the agent if it is another copy's, and that is newer.
    pub(super) fn judge_own(&mut self, event: &VerifiedEvent) -> Result<(), AgentError> {
        let Some(own) = self.key_of(event.author) else {
            return Ok(());
        };
        // Everything that is numbered is stored here before it is sent.
        if self.store.view().outbox_event(event.id)?.is_some() {
            return Ok(());
        }
        let Some(recipient) = event.tag("p").and_then(|key| key.parse().ok()) else {
            return Ok(());
        };
        let opened = self.conversations.open_own(&own, event).ok();
        let Some(envelope) = opened.and_then(|plaintext| Envelope::decode(&plaintext).ok()) else {
            self.count("own_unreadable");
            return Ok(());
        };
        let lane = LaneId {
            author: event.author,
            recipient,
            cohort: envelope.cohort,
        };
        // Without a cohort of ours there is no count of numbers: only the incarnation tells.
        let ours = self.nodes.keys().any(|(cohort, _)| *cohort == lane.cohort);
        let seq = if ours { envelope.seq } else { 0 };
        let lanes = &self.post.lanes;
        let twin =
            seq > 0 && envelope.inc == lanes.incarnation() && event.created_at > self.started;
        let sighting = Sighting {
            author: event.author,
            cohort: lane.cohort,
            inc: envelope.inc.0,
            ours: lanes.incarnation().0,
            created_at: event.created_at,
            seen_at: self.now(),
        };
        match lanes.own_message(&lane, envelope.inc, seq, event.created_at) {
            // A number of ours under another event: the twin gave it out as well.
            OwnSighting::Foreign | OwnSighting::Ours if twin => self.stop_for(sighting),
            OwnSighting::Foreign => self.stop_for(sighting),
            OwnSighting::Former => {
                self.warn_of(sighting);
                Ok(())
            }
            OwnSighting::Ours | OwnSighting::Earlier => Ok(()),
        }
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
