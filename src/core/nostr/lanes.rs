//! Sequence numbers, deduplication and acknowledgements (DESIGN §4, "Envelope").
//!
//! Pure, and saved whole with the messages it decided about: one transaction. A lane's numbers serve
//! deduplication and acknowledgement only; messages are handled in the order in which they arrive.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::chunks::as_pairs;
use super::envelope::{Ack, AckOf, Incarnation, MAX_ACKS, MAX_ALSO};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::time::UnixTime;

/// How far above the first missing number a message may be. An honest sender has fewer unacknowledged.
pub const WINDOW: u64 = 1_024;

/// The most lanes remembered. More than any agent's cohorts have; beyond it, strangers are refused.
pub const MAX_LANES: usize = 65_536;

/// How far the clocks of two copies of one agent may differ before a message of the other one is taken
/// for an old one of ours, in seconds.
const COPY_SKEW: u64 = 600;

/// A lane: what one author sends to one recipient, or to a channel, about one cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneId {
    /// Who writes.
    pub author: NostrKey,
    /// Who reads: a member, the aggregator, or a channel's key.
    pub recipient: NostrKey,
    /// The cohort.
    pub cohort: CohortId,
}

/// All lanes of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lanes {
    incarnation: Incarnation,
    began: UnixTime,
    /// The last number given out.
    #[serde(with = "as_pairs")]
    outgoing: BTreeMap<LaneId, u64>,
    #[serde(with = "as_pairs")]
    incoming: BTreeMap<LaneId, Incoming>,
    /// Cohorts in which peers have counted on for a store that is lost.
    #[serde(skip)]
    anywhere: BTreeSet<CohortId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming {
    inc: Incarnation,
    /// All of `1..=upto` arrived.
    upto: u64,
    /// Arrived above a gap.
    above: BTreeSet<u64>,
    /// Something arrived, or arrived again, since the author was last told.
    untold: bool,
    /// What is known is as old as the bundle this store was restored from: the author may be far ahead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
}

/// What is known of one lane, so that a store can keep lanes one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneState {
    /// The last number given out, on a lane of ours.
    sent: u64,
    /// What arrived, on a lane of somebody else's.
    incoming: Option<Incoming>,
}

/// What a received message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Receipt {
    /// To be handled.
    New,
    /// To be handled; the author's store was restored, and what its lane left unfinished (chunks) is
    /// void.
    NewIncarnation,
    /// Handled before. Its author will be told again.
    Duplicate,
    /// From before the author's store was restored: to be ignored.
    OldIncarnation,
    /// So far ahead that the author can not be honest, or a lane too many: not to be handled and not
    /// acknowledged.
    Refused,
}

/// What an event authored by one of our own keys means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum OwnSighting {
    /// Of this incarnation and not counted: it proves nothing.
    Uncounted,
    /// Of this incarnation, under a number that was given out here: ours, if it says what is stored under that.
    Numbered,
    /// It was sent before this store was restored.
    Earlier,
    /// Sent after this store was restored, by the copy it was restored from: that one still runs. It stops when it
    /// sees what we send, because ours is the higher incarnation.
    Former,
    /// Another copy of this agent goes on with our keys, and this one is the older: stop, and raise an alarm.
    Foreign,
}

impl LaneState {
    /// The state after the store was restored from a bundle: own numbers start again, under a higher incarnation,
    /// and others may have counted on meanwhile.
    #[must_use]
    pub fn resumed(self) -> Self {
        Self {
            sent: 0,
            incoming: self.incoming.map(|incoming| Incoming {
                resumed: true,
                ..incoming
            }),
        }
    }
}

impl Lanes {
    /// The lanes of a new store. `incarnation` is the time of its creation.
    #[must_use]
    pub const fn new(incarnation: Incarnation, now: UnixTime) -> Self {
        Self {
            incarnation,
            began: now,
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            anywhere: BTreeSet::new(),
        }
    }

    /// Lanes of this cohort of which nothing is known may begin at any number: their authors have counted on for a
    /// store that is lost.
    pub fn begin_anywhere(&mut self, cohort: CohortId) {
        self.anywhere.insert(cohort);
    }

    /// The lanes after the store was restored from a backup: numbers start again, under a higher
    /// incarnation. What others have sent stays known as far as the backup knew it.
    #[must_use]
    pub fn restored(self, now: UnixTime) -> Self {
        let incarnation = Incarnation(now.0.max(self.incarnation.0.saturating_add(1)));
        Self {
            incarnation,
            began: now,
            outgoing: BTreeMap::new(),
            ..self
        }
    }

    /// What to store of one lane.
    #[must_use]
    pub fn state(&self, lane: &LaneId) -> LaneState {
        LaneState {
            sent: self.outgoing.get(lane).copied().unwrap_or(0),
            incoming: self.incoming.get(lane).cloned(),
        }
    }

    /// Takes a lane from the store, at the start.
    pub fn restore_lane(&mut self, lane: LaneId, state: LaneState) {
        if state.sent > 0 {
            self.outgoing.insert(lane, state.sent);
        }
        if let Some(incoming) = state.incoming {
            self.incoming.insert(lane, incoming);
        }
    }

    /// Whether any author waits for an acknowledgement.
    #[must_use]
    pub fn any_untold(&self) -> bool {
        self.incoming.values().any(|state| state.untold)
    }

    /// The incarnation to write into envelopes.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The number of the next message on a lane of ours; it is used up.
    pub fn next_seq(&mut self, lane: LaneId) -> u64 {
        let last = self.outgoing.entry(lane).or_insert(0);
        *last = last.saturating_add(1);
        *last
    }

    /// Takes note of a counted message (`seq` ≥ 1) on a lane of somebody else's.
    pub fn receive(&mut self, lane: LaneId, inc: Incarnation, seq: u64) -> Receipt {
        if seq == 0 {
            return Receipt::Refused;
        }
        if !self.incoming.contains_key(&lane) && self.incoming.len() >= MAX_LANES {
            return Receipt::Refused;
        }
        let known = self.incoming.get(&lane);
        if known.is_some_and(|state| inc < state.inc) {
            return Receipt::OldIncarnation;
        }
        let reset = known.is_some_and(|state| inc > state.inc);
        let base = match known {
            Some(state) if !reset => state.upto,
            _ => 0,
        };
        let resumed = match known {
            Some(state) => !reset && state.resumed,
            None => self.anywhere.contains(&lane.cohort),
        };
        if seq > base.saturating_add(WINDOW) && !resumed {
            return Receipt::Refused;
        }
        if reset {
            self.incoming.remove(&lane);
        }
        let state = self.incoming.entry(lane).or_insert_with(|| Incoming {
            inc,
            upto: 0,
            above: BTreeSet::new(),
            untold: false,
            resumed,
        });
        state.untold = true;
        if seq > state.upto.saturating_add(WINDOW) {
            // What lies that far back was for the copy that is gone.
            state.upto = seq.saturating_sub(WINDOW);
            state.above = state.above.split_off(&state.upto.saturating_add(1));
        }
        if seq <= state.upto || !state.above.insert(seq) {
            return Receipt::Duplicate;
        }
        while state.above.remove(&(state.upto + 1)) {
            state.upto += 1;
        }
        if reset {
            Receipt::NewIncarnation
        } else {
            Receipt::New
        }
    }

    /// What to acknowledge in a directed message from `own` to `peer`: what `peer` sent directly and, on
    /// a member's side, what it sent on the channel.
    #[must_use]
    pub fn acks_to(
        &self,
        own: NostrKey,
        peer: NostrKey,
        channel: Option<NostrKey>,
        cohort: CohortId,
    ) -> Vec<Ack> {
        let lane = |recipient| LaneId {
            author: peer,
            recipient,
            cohort,
        };
        let direct = self.ack(&lane(own), AckOf::Direct);
        let channel = channel.and_then(|channel| self.ack(&lane(channel), AckOf::Channel));
        direct.into_iter().chain(channel).collect()
    }

    /// What the aggregator `own` acknowledges in a channel message: to every member that has not been
    /// told, at most [`MAX_ACKS`].
    #[must_use]
    pub fn acks_on_channel(&self, own: NostrKey, cohort: CohortId) -> Vec<Ack> {
        self.untold_lanes(own, cohort)
            .filter_map(|lane| self.ack(lane, AckOf::Member(lane.author.into())))
            .take(MAX_ACKS)
            .collect()
    }

    /// The lanes to `recipient` (a key of ours, or a channel we read) whose author waits for an
    /// acknowledgement. When no message is due to carry it, send one of type [`super::envelope::ACK`].
    pub fn untold_lanes(
        &self,
        recipient: NostrKey,
        cohort: CohortId,
    ) -> impl Iterator<Item = &LaneId> {
        self.incoming
            .iter()
            .filter(move |(lane, state)| {
                state.untold && lane.recipient == recipient && lane.cohort == cohort
            })
            .map(|(lane, _)| lane)
    }

    /// The acknowledgements in `acks` are stored to be sent: from `own` to `peer`, which is a channel or
    /// a key. Those that say less than is known by now stay due.
    pub fn told(
        &mut self,
        own: NostrKey,
        peer: NostrKey,
        channel: Option<NostrKey>,
        cohort: CohortId,
        acks: &[Ack],
    ) {
        for ack in acks {
            let Some(lane) = lane_of(ack.of, own, peer, channel, cohort) else {
                continue;
            };
            let current = self.ack(&lane, ack.of);
            if current.as_ref() == Some(ack)
                && let Some(state) = self.incoming.get_mut(&lane)
            {
                state.untold = false;
            }
        }
    }

    /// The lane of ours that an acknowledgement by `peer`, received by `own`, speaks of. `None`: it speaks
    /// of nothing of ours, or of another incarnation.
    #[must_use]
    pub fn acked_lane(
        &self,
        own: NostrKey,
        peer: NostrKey,
        channel: Option<NostrKey>,
        cohort: CohortId,
        ack: &Ack,
    ) -> Option<LaneId> {
        if ack.inc != self.incarnation {
            return None;
        }
        let recipient = match ack.of {
            AckOf::Direct => peer,
            AckOf::Channel => channel?,
            AckOf::Member(member) if member == own.into() => peer,
            AckOf::Member(_) => return None,
        };
        Some(LaneId {
            author: own,
            recipient,
            cohort,
        })
    }

    /// Judges a message by one of our own keys, on a lane of ours, that came back from a relay. `seq` is 0 for what is
    /// not counted.
    ///
    /// Every number is durable before it is sent under. So a number of our own incarnation that was not given out here
    /// was given out by a twin: a home that was copied by hand, or a machine that was set back to a snapshot.
    pub fn own_message(
        &self,
        lane: &LaneId,
        inc: Incarnation,
        seq: u64,
        created_at: UnixTime,
    ) -> OwnSighting {
        if inc > self.incarnation {
            return OwnSighting::Foreign;
        }
        if inc < self.incarnation {
            return if created_at < self.began.plus(COPY_SKEW) {
                OwnSighting::Earlier
            } else {
                OwnSighting::Former
            };
        }
        if seq == 0 {
            OwnSighting::Uncounted
        } else if seq > self.outgoing.get(lane).copied().unwrap_or(0) {
            OwnSighting::Foreign
        } else {
            OwnSighting::Numbered
        }
    }

    /// Forgets a cohort that is over. Its late messages must be ignored by other means.
    pub fn forget(&mut self, cohort: CohortId) {
        self.outgoing.retain(|lane, _| lane.cohort != cohort);
        self.incoming.retain(|lane, _| lane.cohort != cohort);
    }

    fn ack(&self, lane: &LaneId, of: AckOf) -> Option<Ack> {
        let state = self.incoming.get(lane)?;
        Some(Ack {
            of,
            inc: state.inc,
            upto: state.upto,
            also: state.above.iter().copied().take(MAX_ALSO).collect(),
        })
    }
}

/// The lane of somebody else's that an acknowledgement from `own` to `peer` speaks of.
fn lane_of(
    of: AckOf,
    own: NostrKey,
    peer: NostrKey,
    channel: Option<NostrKey>,
    cohort: CohortId,
) -> Option<LaneId> {
    let (author, recipient) = match of {
        AckOf::Direct => (peer, own),
        AckOf::Channel => (peer, channel?),
        AckOf::Member(member) => (NostrKey::from_bytes(member.as_bytes()).ok()?, own),
    };
    Some(LaneId {
        author,
        recipient,
        cohort,
    })
}

#[cfg(test)]
mod tests;
