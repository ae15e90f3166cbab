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
