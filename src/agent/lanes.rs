//! Sequence numbers of what was sent, and dedupe of what came in, as the store has them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::error::AgentError;
use crate::keys::NostrKey;
use crate::nostr::chunks::Assembler;
use crate::nostr::envelope::{Ack, AckOf, Incarnation, MAX_ALSO};
use crate::nostr::lanes::LaneId;
use crate::store::{Lane, Store, Tx};
use crate::time::UnixTime;

/// Out-of-order numbers remembered per lane. A peer that skips more loses the messages before the gap's
/// end only until they are asked for again; a hostile one can not fill memory.
const MAX_SPARSE: usize = 256;

/// One lane, in the direction it has for this agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LaneState {
    /// The last number sent.
    #[serde(default)]
    sent: u64,
    /// The incarnation of the peer whose messages are counted.
    #[serde(default)]
    inc: Incarnation,
    /// All up to this number came.
    #[serde(default)]
    upto: u64,
    /// Further ones.
    #[serde(default)]
    sparse: BTreeSet<u64>,
    /// What the peer acknowledged of ours, in our current incarnation.
    #[serde(default)]
    acked: u64,
}

/// What to do with a number that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Not seen before.
    New,
    /// Seen before.
    Repeated,
    /// Of an earlier life of the peer's store.
    Stale,
}

/// All lanes of this agent.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<LaneId, LaneState>,
    /// What each member has of the channels this agent writes, as far as it said so to this process.
    channel_acks: BTreeMap<(LaneId, NostrKey), u64>,
    pub(super) assembler: Assembler,
    pub(super) next_send: Option<UnixTime>,
}

impl Lanes {
    pub(super) fn load(store: &Store) -> Result<Self, AgentError> {
        let mut lanes = BTreeMap::new();
        for cohort in store.view().cohorts()? {
            for row in store.view().lanes_of(cohort.cohort)? {
                let state = serde_json::from_str(&row.state).map_err(|error| AgentError::Log {
                    seq: 0,
                    reason: format!("lane state: {error}"),
                })?;
                lanes.insert(lane_id(row.lane), state);
            }
        }
        Ok(Self {
            lanes,
            ..Self::default()
        })
    }

    /// The next number of a lane this agent writes, stored with the message that uses it.
    pub(super) fn next(&mut self, tx: &Tx<'_>, lane: LaneId) -> Result<u64, AgentError> {
        let state = self.lanes.entry(lane).or_default();
        state.sent = state.sent.saturating_add(1);
        let seq = state.sent;
        self.save(tx, lane)?;
        Ok(seq)
    }

    /// Notes a number that came; stored with what it led to.
    pub(super) fn arrive(&mut self, lane: LaneId, inc: Incarnation, seq: u64) -> Arrival {
        let state = self.lanes.entry(lane).or_default();
        if inc < state.inc {
            return Arrival::Stale;
        }
        if inc > state.inc {
            state.inc = inc;
            state.upto = 0;
            state.sparse.clear();
        }
        if seq <= state.upto || !state.sparse.insert(seq) {
            return Arrival::Repeated;
        }
        while state.sparse.remove(&state.upto.saturating_add(1)) {
            state.upto = state.upto.saturating_add(1);
        }
        while state.sparse.len() > MAX_SPARSE {
            state.sparse.pop_first();
        }
        Arrival::New
    }

    /// What this agent has of a lane, to tell its author.
    pub(super) fn ack(&self, lane: &LaneId, of: AckOf) -> Option<Ack> {
        let state = self.lanes.get(lane)?;
        if state.upto == 0 && state.sparse.is_empty() {
            return None;
        }
        let upto = state.upto;
        let above = state.sparse.iter().copied().filter(|seq| *seq > upto + 1);
        Some(Ack {
            of,
            inc: state.inc,
            upto,
            also: above.take(MAX_ALSO).collect(),
        })
    }

    /// Notes what a peer has of a lane this agent writes.
    pub(super) fn acked(&mut self, lane: LaneId, inc: Incarnation, own: Incarnation, upto: u64) {
        if inc != own {
            return;
        }
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.acked = state.acked.max(upto.min(state.sent));
        }
    }

    /// Notes what a member has of a channel this agent writes.
    pub(super) fn acked_on_channel(
        &mut self,
        lane: LaneId,
        member: NostrKey,
        inc: Incarnation,
        own: Incarnation,
        upto: u64,
    ) {
        let sent = self.lanes.get(&lane).map_or(0, |state| state.sent);
        if inc == own {
            let acked = self.channel_acks.entry((lane, member)).or_default();
            *acked = (*acked).max(upto.min(sent));
        }
    }

    /// Up to which number a member has acknowledged a channel this agent writes.
    pub(super) fn channel_acked(&self, lane: &LaneId, member: &NostrKey) -> u64 {
        self.channel_acks
            .get(&(*lane, *member))
            .copied()
            .unwrap_or(0)
    }

    /// Up to which number the peer has acknowledged a lane this agent writes.
    pub(super) fn acked_upto(&self, lane: &LaneId) -> u64 {
        self.lanes.get(lane).map_or(0, |state| state.acked)
    }

    pub(super) fn save(&self, tx: &Tx<'_>, lane: LaneId) -> Result<(), AgentError> {
        let state = self.lanes.get(&lane).cloned().unwrap_or_default();
        let json = serde_json::to_string(&state)
            .map_err(|_| AgentError::Defect("a lane's state has no JSON"))?;
        tx.set_lane(store_lane(lane), &json)?;
        Ok(())
    }

    pub(super) const fn deadline(&self) -> Option<UnixTime> {
        self.next_send
    }
}

pub(super) const fn store_lane(lane: LaneId) -> Lane {
    Lane {
        author: lane.author,
        recipient: lane.recipient,
        cohort: lane.cohort,
    }
}

const fn lane_id(lane: Lane) -> LaneId {
    LaneId {
        author: lane.author,
        recipient: lane.recipient,
        cohort: lane.cohort,
    }
}
