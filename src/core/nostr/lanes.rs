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
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use proptest::prelude::*;

    const INC: Incarnation = Incarnation(7);
    const NOW: UnixTime = UnixTime(1_000_000);

    fn key(byte: u8) -> NostrKey {
        OwnKey::from_bytes(&[byte; 32]).unwrap().public()
    }

    fn cohort() -> CohortId {
        CohortId::from_bytes([1; 32])
    }

    fn lane(author: u8, recipient: u8) -> LaneId {
        LaneId {
            author: key(author),
            recipient: key(recipient),
            cohort: cohort(),
        }
    }

    fn lanes() -> Lanes {
        Lanes::new(INC, NOW)
    }

    #[test]
    fn each_lane_counts_for_itself() {
        let mut lanes = lanes();
        let other_cohort = LaneId {
            cohort: CohortId::from_bytes([2; 32]),
            ..lane(1, 2)
        };
        assert_eq!(lanes.next_seq(lane(1, 2)), 1);
        assert_eq!(lanes.next_seq(lane(1, 2)), 2);
        assert_eq!(lanes.next_seq(lane(1, 3)), 1);
        assert_eq!(lanes.next_seq(other_cohort), 1);
    }

    #[test]
    fn duplicates_gaps_and_the_window() {
        let mut lanes = lanes();
        let lane = lane(2, 1);
        assert_eq!(lanes.receive(lane, INC, 1), Receipt::New);
        assert_eq!(lanes.receive(lane, INC, 1), Receipt::Duplicate);
        assert_eq!(lanes.receive(lane, INC, 3), Receipt::New);
        assert_eq!(lanes.receive(lane, INC, 3), Receipt::Duplicate);
        let ack = |lanes: &Lanes| lanes.acks_to(key(1), key(2), None, cohort()).remove(0);
        assert_eq!((ack(&lanes).upto, ack(&lanes).also), (1, vec![3]));
        assert_eq!(lanes.receive(lane, INC, 2), Receipt::New);
        assert_eq!((ack(&lanes).upto, ack(&lanes).also), (3, vec![]));
        assert_eq!(lanes.receive(lane, INC, 3 + WINDOW + 1), Receipt::Refused);
        assert_eq!(lanes.receive(lane, INC, 3 + WINDOW), Receipt::New);
        assert_eq!(lanes.receive(lane, INC, 0), Receipt::Refused);
        assert_eq!(lanes.receive(lane, INC, u64::MAX), Receipt::Refused);
    }

    /// A store restored from an old bundle: own numbers begin again, and the author may have counted on far beyond
    /// the window.
    #[test]
    fn a_resumed_lane_catches_up_with_its_author() {
        let mut before = lanes();
        let (theirs, ours) = (lane(2, 1), lane(1, 2));
        for seq in 1..=5 {
            assert_eq!(before.receive(theirs, INC, seq), Receipt::New);
        }
        assert_eq!(before.next_seq(ours), 1);
        let mut after = Lanes::new(Incarnation(9_999), NOW);
        for lane in [theirs, ours] {
            let json = serde_json::to_string(&before.state(&lane).resumed()).unwrap();
            after.restore_lane(lane, serde_json::from_str(&json).unwrap());
        }
        assert_eq!(after.next_seq(ours), 1, "under another incarnation");
        assert_eq!(after.receive(theirs, INC, 5), Receipt::Duplicate);
        assert_eq!(after.receive(theirs, INC, 6), Receipt::New);
        let far = 5_000;
        assert_eq!(after.receive(theirs, INC, far), Receipt::New);
        assert_eq!(after.receive(theirs, INC, far), Receipt::Duplicate);
        assert_eq!(after.receive(theirs, INC, far - 1), Receipt::New);
        let back = after.receive(theirs, INC, far - WINDOW);
        assert_eq!(back, Receipt::Duplicate, "for the copy that is gone");
        assert_eq!(after.receive(theirs, INC, far + 1), Receipt::New);
        let ack = after.acks_to(key(1), key(2), None, cohort()).remove(0);
        assert_eq!(ack.upto, far + 1 - WINDOW);
    }

    #[test]
    fn a_lane_that_a_lost_store_knew_begins_anywhere() {
        let mut lanes = lanes();
        let from = lane(2, 1);
        let far = WINDOW + 5_000;
        assert_eq!(lanes.receive(from, Incarnation(7), far), Receipt::Refused);
        lanes.begin_anywhere(cohort());
        assert_eq!(lanes.receive(from, Incarnation(7), far), Receipt::New);
        // What relays have of before, as far as the window reaches; and each once.
        assert_eq!(lanes.receive(from, Incarnation(7), far - 1), Receipt::New);
        let old = far - WINDOW;
        assert_eq!(lanes.receive(from, Incarnation(7), old), Receipt::Duplicate);
        assert_eq!(lanes.receive(from, Incarnation(7), far), Receipt::Duplicate);
        // Known once, it stays so after a restart; a store that its author restored counts from one.
        let state = lanes.state(&from);
        let mut again = Lanes::new(INC, NOW);
        again.restore_lane(from, state);
        let further = far + 2 * WINDOW;
        assert_eq!(again.receive(from, Incarnation(7), further), Receipt::New);
        assert_eq!(
            again.receive(from, Incarnation(8), 1),
            Receipt::NewIncarnation
        );
    }

    #[test]
    fn a_higher_incarnation_resets_and_a_lower_one_is_ignored() {
        let mut lanes = lanes();
        let lane = lane(2, 1);
        for seq in 1..=5 {
            assert_eq!(lanes.receive(lane, Incarnation(10), seq), Receipt::New);
        }
        // The peer restored a backup and counts from 1.
        let restored = Incarnation(20);
        assert_eq!(lanes.receive(lane, restored, 1), Receipt::NewIncarnation);
        assert_eq!(lanes.receive(lane, restored, 2), Receipt::New);
        assert_eq!(
            lanes.receive(lane, Incarnation(10), 6),
            Receipt::OldIncarnation
        );
        let ack = lanes.acks_to(key(1), key(2), None, cohort()).remove(0);
        assert_eq!((ack.inc, ack.upto), (restored, 2));
        // A refused message resets nothing.
        assert_eq!(
            lanes.receive(lane, Incarnation(30), WINDOW + 1),
            Receipt::Refused
        );
        assert_eq!(lanes.receive(lane, restored, 3), Receipt::New);
    }

    #[test]
    fn our_restored_store_counts_anew_under_a_higher_incarnation() {
        let mut lanes = lanes();
        lanes.next_seq(lane(1, 2));
        let _ = lanes.receive(lane(2, 1), INC, 1);
        let backup = serde_json::to_string(&lanes).unwrap();
        let lanes: Lanes = serde_json::from_str(&backup).unwrap();
        let mut restored = lanes.restored(NOW.plus(50));
        assert!(restored.incarnation() > INC);
        assert_eq!(restored.next_seq(lane(1, 2)), 1);
        assert_eq!(restored.receive(lane(2, 1), INC, 1), Receipt::Duplicate);
        // The clock of the restoring machine may be behind.
        let behind = Lanes::new(Incarnation(900), NOW).restored(UnixTime(5));
        assert_eq!(behind.incarnation(), Incarnation(901));
    }

    #[test]
    fn a_copy_of_this_agent_is_noticed() {
        let mut lanes = Lanes::new(Incarnation(100), NOW);
        let mine = lane(1, 2);
        for _ in 0..3 {
            lanes.next_seq(mine);
        }
        let judge =
            |inc, seq, created| lanes.own_message(&mine, Incarnation(inc), seq, UnixTime(created));
        // What is not counted (acknowledgements) has number 0.
        assert_eq!(judge(100, 0, NOW.0 + 5_000), OwnSighting::Uncounted);
        for seq in 1..=3 {
            // Signed again as often as need be, at whatever time.
            assert_eq!(judge(100, seq, NOW.0 + 5_000), OwnSighting::Numbered);
            assert_eq!(judge(100, seq, NOW.0 - 5_000), OwnSighting::Numbered);
        }
        assert_eq!(judge(99, 9, NOW.0 - 5_000), OwnSighting::Earlier);
        assert_eq!(judge(99, 9, NOW.0 + 5_000), OwnSighting::Former);
        assert_eq!(judge(101, 1, NOW.0 - 5_000), OwnSighting::Foreign);
        // A twin of this very incarnation counts on by itself.
        assert_eq!(judge(100, 4, NOW.0), OwnSighting::Foreign);
        let other = lanes.own_message(&lane(1, 3), Incarnation(100), 1, NOW);
        assert_eq!(other, OwnSighting::Foreign);
    }

    #[test]
    fn acknowledgements_stay_due_until_told_and_again_after_a_repetition() {
        let (own, channel) = (key(1), key(9));
        let mut lanes = lanes();
        for member in [2, 3] {
            assert_eq!(lanes.receive(lane(member, 1), INC, 1), Receipt::New);
        }
        let acks = lanes.acks_on_channel(own, cohort());
        assert_eq!(acks.len(), 2);
        assert!(
            acks.iter()
                .any(|ack| ack.of == AckOf::Member(key(2).into()))
        );
        // Another message arrives between composing and storing.
        assert_eq!(lanes.receive(lane(3, 1), INC, 2), Receipt::New);
        lanes.told(own, channel, Some(channel), cohort(), &acks);
        let due = lanes.acks_on_channel(own, cohort());
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].of, due[0].upto), (AckOf::Member(key(3).into()), 2));
        lanes.told(own, channel, Some(channel), cohort(), &due);
        assert_eq!(lanes.untold_lanes(own, cohort()).count(), 0);
        // A repetition shows that the author does not know.
        assert_eq!(lanes.receive(lane(2, 1), INC, 1), Receipt::Duplicate);
        assert_eq!(lanes.acks_on_channel(own, cohort()).len(), 1);
    }

    #[test]
    fn a_member_acknowledges_both_lanes_of_the_aggregator() {
        let (aggregator, member, channel) = (key(1), key(2), key(9));
        let mut lanes = lanes();
        let _ = lanes.receive(lane(1, 2), INC, 1);
        let _ = lanes.receive(lane(1, 9), INC, 1);
        let _ = lanes.receive(lane(1, 9), INC, 2);
        let acks = lanes.acks_to(member, aggregator, Some(channel), cohort());
        let said: Vec<_> = acks.iter().map(|ack| (ack.of, ack.upto)).collect();
        assert_eq!(said, [(AckOf::Direct, 1), (AckOf::Channel, 2)]);
        lanes.told(member, aggregator, Some(channel), cohort(), &acks);
        assert_eq!(lanes.untold_lanes(channel, cohort()).count(), 0);
        assert_eq!(lanes.untold_lanes(member, cohort()).count(), 0);

        // The aggregator reads them as its own lanes.
        let its = Lanes::new(INC, NOW);
        let of = |ack| its.acked_lane(aggregator, member, Some(channel), cohort(), ack);
        assert_eq!(of(&acks[0]), Some(lane(1, 2)));
        assert_eq!(of(&acks[1]), Some(lane(1, 9)));
        let foreign = Ack {
            inc: Incarnation(8),
            ..acks[0].clone()
        };
        assert_eq!(of(&foreign), None);
        // On the channel a member finds the one meant for it.
        let on_channel = |of| Ack {
            of,
            ..acks[0].clone()
        };
        let mine = on_channel(AckOf::Member(member.into()));
        let other = on_channel(AckOf::Member(key(3).into()));
        let read = |ack| its.acked_lane(member, aggregator, Some(channel), cohort(), ack);
        assert_eq!(read(&mine), Some(lane(2, 1)));
        assert_eq!(read(&other), None);
    }

    #[test]
    fn a_finished_cohort_is_forgotten() {
        let mut lanes = lanes();
        lanes.next_seq(lane(1, 2));
        let _ = lanes.receive(lane(2, 1), INC, 1);
        lanes.forget(cohort());
        assert_eq!(lanes, Lanes::new(INC, NOW));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Against a plain set: whatever the order, losses and repetitions, a number is new exactly once,
        /// and an acknowledgement covers nothing that did not arrive.
        #[test]
        fn agrees_with_a_set(numbers in proptest::collection::vec(1u64..60, 0..120)) {
            let mut lanes = lanes();
            let lane = lane(2, 1);
            let (own, peer) = (lane.recipient, lane.author);
            let mut arrived = BTreeSet::new();
            for seq in numbers {
                let receipt = lanes.receive(lane, INC, seq);
                let expected = if arrived.insert(seq) { Receipt::New } else { Receipt::Duplicate };
                prop_assert_eq!(receipt, expected);
                let saved = serde_json::to_string(&lanes).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Lanes>(&saved).unwrap(), &lanes);
                let ack = lanes.acks_to(own, peer, None, cohort()).remove(0);
                for seq in 1..60 {
                    prop_assert!(!ack.covers(INC, seq) || arrived.contains(&seq));
                }
                prop_assert!((1..=ack.upto).all(|seq| arrived.contains(&seq)));
                prop_assert!(!arrived.contains(&(ack.upto + 1)));
                // What is said fits an envelope.
                prop_assert!(ack.also.len() <= MAX_ALSO);
                prop_assert!(ack.also.iter().all(|seq| *seq > ack.upto + 1));
            }
        }
    }
}
