use super::pace::BURST;
use super::*;
use crate::keys::OwnKey;
use crate::nostr::envelope::{Ack, AckOf, Incarnation};
use crate::nostr::event::EventDraft;
use proptest::prelude::*;

const NOW: UnixTime = UnixTime(1_700_000_000);
const DAY: u64 = 86_400;

fn key(byte: u8) -> OwnKey {
    OwnKey::from_bytes(&[byte; 32]).unwrap()
}

fn url(number: u8) -> RelayUrl {
    RelayUrl::parse(&format!("wss://relay{number}.example.com")).unwrap()
}

fn lane() -> LaneId {
    LaneId {
        author: key(1).public(),
        recipient: key(2).public(),
        cohort: CohortId::from_bytes([1; 32]),
    }
}

fn event(created_at: UnixTime, content: &str) -> VerifiedEvent {
    EventDraft {
        created_at,
        kind: 8327,
        tags: vec![vec![
            "expiration".into(),
            created_at.plus(30 * DAY).to_string(),
        ]],
        content: content.into(),
    }
    .sign(&key(1))
    .unwrap()
}

fn row(seq: u64, relays: &[u8], awaiting: &[u8]) -> NewRow {
    NewRow {
        event: event(NOW, &seq.to_string()),
        lane: Some(lane()),
        inc: Incarnation(7),
        seq,
        kind: "OptIn".into(),
        about: None,
        awaiting: awaiting.iter().map(|i| key(*i).public()).collect(),
        relays: relays.iter().map(|i| url(*i)).collect(),
    }
}

fn queue(outbox: &mut Outbox, row: NewRow) -> EventId {
    let id = row.event.id;
    let effects = outbox.handle(NOW, OutboxInput::Queued(Box::new(row)));
    assert_eq!(effects, [OutboxEffect::Store(id)]);
    id
}

fn answer(
    outbox: &mut Outbox,
    now: UnixTime,
    event: EventId,
    relay: u8,
    outcome: PublishOutcome,
) -> Vec<OutboxEffect> {
    outbox.handle(
        now,
        OutboxInput::Answer {
            event,
            relay: url(relay),
            outcome,
            jitter: 500,
        },
    )
}

fn refuse(
    outbox: &mut Outbox,
    now: UnixTime,
    event: EventId,
    relay: u8,
    words: &str,
) -> Vec<OutboxEffect> {
    answer(
        outbox,
        now,
        event,
        relay,
        PublishOutcome::Refused(words.into()),
    )
}

fn ack(by: u8, upto: u64, also: &[u64]) -> OutboxInput {
    OutboxInput::Acked {
        by: key(by).public(),
        lane: lane(),
        ack: Ack {
            of: AckOf::Direct,
            inc: Incarnation(7),
            upto,
            also: also.to_vec(),
        },
    }
}

fn ended(effects: &[OutboxEffect]) -> Option<RowEnd> {
    effects.iter().find_map(|effect| match effect {
        OutboxEffect::Closed { end, .. } => Some(*end),
        _ => None,
    })
}

fn due_relays(outbox: &mut Outbox, now: UnixTime) -> Vec<RelayUrl> {
    outbox.due(now).into_iter().map(|(_, url)| url).collect()
}

#[test]
fn published_means_two_relays_or_the_only_one() {
    let published = |relays: &[u8], accepting: &[u8]| {
        let mut outbox = Outbox::default();
        let id = queue(&mut outbox, row(1, relays, &[2]));
        let _ = outbox.due(NOW);
        for relay in accepting {
            answer(&mut outbox, NOW, id, *relay, PublishOutcome::Accepted);
        }
        outbox.row(&id).unwrap().published
    };
    assert!(!published(&[1, 2, 3], &[1]));
    assert!(published(&[1, 2, 3], &[1, 3]));
    assert!(published(&[1], &[1]));
    assert!(!published(&[1, 2], &[2]));
}

#[test]
fn with_a_dead_and_a_refusing_relay_the_third_goes_on() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1, 2, 3], &[2]));
    assert_eq!(due_relays(&mut outbox, NOW), [url(1), url(2), url(3)]);
    assert_eq!(outbox.due(NOW), [], "each is asked once until it answers");
    answer(&mut outbox, NOW, id, 1, PublishOutcome::Silent);
    refuse(&mut outbox, NOW, id, 2, "blocked: no");
    answer(&mut outbox, NOW, id, 3, PublishOutcome::Accepted);
    assert!(
        !outbox.row(&id).unwrap().published,
        "the dead one may come back"
    );
    // The dead one is tried later and later; the others are left alone.
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let next = outbox.next_deadline().unwrap();
        waits.push(next.since(now));
        now = next;
        assert_eq!(due_relays(&mut outbox, now), [url(1)]);
        answer(&mut outbox, now, id, 1, PublishOutcome::Silent);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600]);
    // The acknowledgement settles it all the same.
    let effects = outbox.handle(now, ack(2, 1, &[]));
    assert_eq!(ended(&effects), Some(RowEnd::Done));
    assert_eq!(outbox.next_deadline(), None);
}

#[test]
fn a_relay_that_comes_back_is_asked_at_once() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1], &[]));
    let _ = outbox.due(NOW);
    answer(&mut outbox, NOW, id, 1, PublishOutcome::Silent);
    assert_eq!(outbox.due(NOW.plus(1)), []);
    outbox.handle(NOW.plus(1), OutboxInput::RelayUp(url(1)));
    assert_eq!(due_relays(&mut outbox, NOW.plus(1)), [url(1)]);
    let effects = answer(&mut outbox, NOW.plus(1), id, 1, PublishOutcome::Accepted);
    assert_eq!(
        ended(&effects),
        Some(RowEnd::Done),
        "nobody has to acknowledge"
    );
}

#[test]
fn no_answer_at_all_counts_as_silence() {
    let mut outbox = Outbox::default();
    queue(&mut outbox, row(1, &[1], &[2]));
    assert_eq!(outbox.due(NOW).len(), 1);
    assert_eq!(outbox.due(NOW.plus(ANSWER_TIMEOUT - 1)).len(), 0);
    assert_eq!(outbox.due(NOW.plus(ANSWER_TIMEOUT)).len(), 1);
}

#[test]
fn acknowledgements_by_number_incarnation_and_everybody() {
    let mut outbox = Outbox::default();
    let first = queue(&mut outbox, row(1, &[1], &[2]));
    let second = queue(&mut outbox, row(2, &[1], &[2, 3]));
    let third = queue(&mut outbox, row(3, &[1], &[2]));
    let other = OutboxInput::Acked {
        by: key(2).public(),
        lane: lane(),
        ack: Ack {
            of: AckOf::Direct,
            inc: Incarnation(6),
            upto: 9,
            also: vec![],
        },
    };
    assert_eq!(outbox.handle(NOW, other), []);
    assert_eq!(
        outbox.handle(NOW, ack(4, 9, &[])),
        [],
        "a stranger's word counts nothing"
    );
    // 1 and 3 arrived, 2 did not.
    let effects = outbox.handle(NOW, ack(2, 1, &[3]));
    let closed = effects
        .iter()
        .filter(|e| matches!(e, OutboxEffect::Closed { .. }));
    assert_eq!(closed.count(), 2);
    assert!(outbox.row(&first).is_none() && outbox.row(&third).is_none());
    // 2 needs both.
    assert_eq!(
        outbox.handle(NOW, ack(2, 3, &[])),
        [OutboxEffect::Store(second)]
    );
    let effects = outbox.handle(NOW, ack(3, 2, &[]));
    assert_eq!(ended(&effects), Some(RowEnd::Done));
}

#[test]
fn what_the_protocol_settles_needs_no_acknowledgement() {
    let mut outbox = Outbox::default();
    queue(&mut outbox, row(4, &[1], &[2, 3]));
    let settled = |seq| OutboxInput::Settled { lane: lane(), seq };
    assert_eq!(outbox.handle(NOW, settled(5)), []);
    assert_eq!(ended(&outbox.handle(NOW, settled(4))), Some(RowEnd::Done));
}

#[test]
fn unacknowledged_for_half_an_hour_it_is_signed_again_under_the_same_number() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(5, &[1, 2], &[2]));
    let _ = outbox.due(NOW);
    answer(&mut outbox, NOW, id, 1, PublishOutcome::Accepted);
    answer(&mut outbox, NOW, id, 2, PublishOutcome::Accepted);
    assert_eq!(outbox.next_deadline(), Some(NOW.plus(RESIGN_AFTER)));
    assert_eq!(
        outbox.handle(NOW.plus(RESIGN_AFTER - 1), OutboxInput::Tick),
        []
    );
    let now = NOW.plus(RESIGN_AFTER);
    let resign = OutboxEffect::Resign {
        event: id,
        pow: None,
    };
    assert_eq!(
        outbox.handle(now, OutboxInput::Tick),
        std::slice::from_ref(&resign)
    );
    assert_eq!(outbox.handle(now, OutboxInput::Tick), [], "asked once");
    let reminder = now.plus(RESIGN_REMINDER);
    assert_eq!(outbox.handle(reminder, OutboxInput::Tick), [resign]);

    let fresh = event(reminder, "5 again");
    let effects = outbox.handle(
        reminder,
        OutboxInput::Resigned {
            former: id,
            event: Box::new(fresh.clone()),
        },
    );
    assert_eq!(effects, [OutboxEffect::Store(fresh.id)]);
    assert!(outbox.row(&id).is_none());
    let row = outbox.row(&fresh.id).unwrap();
    assert_eq!((row.seq, row.published, row.queued), (5, false, NOW));
    assert_eq!(due_relays(&mut outbox, reminder), [url(1), url(2)]);
    // The next time it waits twice as long.
    for relay in [1, 2] {
        answer(
            &mut outbox,
            reminder,
            fresh.id,
            relay,
            PublishOutcome::Accepted,
        );
    }
    assert_eq!(
        outbox.next_deadline(),
        Some(reminder.plus(2 * RESIGN_AFTER))
    );
    // The peer got the first event meanwhile: the number counts, not the event.
    assert_eq!(
        ended(&outbox.handle(reminder, ack(2, 5, &[]))),
        Some(RowEnd::Done)
    );
}

#[test]
fn what_no_relay_took_is_not_signed_again_before_it_is_about_to_expire() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1], &[2]));
    let _ = outbox.due(NOW);
    answer(&mut outbox, NOW, id, 1, PublishOutcome::Silent);
    let late = NOW.plus(RESIGN_AFTER);
    assert_eq!(outbox.handle(late, OutboxInput::Tick), []);
    let close = NOW.plus(29 * DAY);
    assert_eq!(
        outbox.handle(close, OutboxInput::Tick),
        [OutboxEffect::Resign {
            event: id,
            pow: None
        }]
    );
    let over = NOW.plus(30 * DAY);
    assert_eq!(
        ended(&outbox.handle(over, OutboxInput::Tick)),
        Some(RowEnd::Expired)
    );
}

/// A relay that blocks us may be paid tomorrow, and one that is gone be gone for good: the message is offered again
/// to the one that refused it, though no relay ever took it.
#[test]
fn what_a_relay_refused_for_good_is_offered_again_later() {
    let mut outbox = Outbox::default();
    let mut id = queue(&mut outbox, row(1, &[1, 2], &[2]));
    let _ = outbox.due(NOW);
    refuse(&mut outbox, NOW, id, 1, "blocked: kind 8327 not permitted");
    answer(&mut outbox, NOW, id, 2, PublishOutcome::Silent);
    let mut now = NOW;
    let mut signed = 0;
    // An author that is blocked is left alone for a day.
    while now < NOW.plus(BARRED) {
        assert!(!due_relays(&mut outbox, now).contains(&url(1)), "{now}");
        now = now.plus(RESIGN_AFTER);
        let resign = OutboxEffect::Resign {
            event: id,
            pow: None,
        };
        if outbox.handle(now, OutboxInput::Tick).contains(&resign) {
            signed += 1;
            let fresh = event(now, &format!("1 again, {signed}"));
            let former = std::mem::replace(&mut id, fresh.id);
            let event = Box::new(fresh);
            outbox.handle(now, OutboxInput::Resigned { former, event });
        }
    }
    // Twice as long each time: after 0.5, 1.5, 3.5, 7.5 and 15.5 hours.
    assert_eq!(signed, 5);
    let next = outbox.row(&id).unwrap().resign_at.unwrap();
    let fresh = event(next, "1 at last");
    let (former, last) = (id, fresh.id);
    let event = Box::new(fresh);
    assert_eq!(outbox.handle(next, OutboxInput::Tick).len(), 1);
    outbox.handle(next, OutboxInput::Resigned { former, event });
    assert!(due_relays(&mut outbox, next).contains(&url(1)));
    answer(&mut outbox, next, last, 1, PublishOutcome::Accepted);
    assert_eq!(
        ended(&outbox.handle(next, ack(2, 1, &[]))),
        Some(RowEnd::Done)
    );
}

#[test]
fn a_rate_limit_slows_everything_for_that_relay_and_nothing_else() {
    let mut outbox = Outbox::default();
    let ids: Vec<_> = (1..=20)
        .map(|seq| queue(&mut outbox, row(seq, &[1, 2], &[2])))
        .collect();
    assert_eq!(outbox.due(NOW).len(), 40);
    for id in &ids {
        answer(&mut outbox, NOW, *id, 2, PublishOutcome::Accepted);
    }
    for id in &ids[..5] {
        answer(&mut outbox, NOW, *id, 1, PublishOutcome::Accepted);
    }
    for id in &ids[5..] {
        refuse(&mut outbox, NOW, *id, 1, "rate-limited: slow down");
    }
    // Fifteen refusals of one burst are one strike.
    let first_pause = spread(RATE_RETRY.0, 500);
    assert_eq!(outbox.due(NOW.plus(first_pause - 1)), []);
    let mut now = NOW.plus(first_pause);
    assert_eq!(outbox.next_deadline(), Some(now));
    // Afterwards in small bursts.
    let mut bursts = Vec::new();
    loop {
        let due = outbox.due(now);
        if due.is_empty() {
            break;
        }
        bursts.push(due.len());
        for (id, relay) in due {
            assert_eq!(relay, url(1));
            answer(&mut outbox, now, id, 1, PublishOutcome::Accepted);
        }
        now = now.plus(BURST.1);
    }
    assert_eq!(bursts, [5, 5, 5]);
    // Refused once more, it waits twice as long.
    let id = queue(&mut outbox, row(21, &[1], &[2]));
    let _ = outbox.due(now);
    refuse(&mut outbox, now, id, 1, "rate-limited: again");
    assert_eq!(outbox.next_deadline(), Some(now.plus(2 * first_pause)));
}

#[test]
fn a_budget_is_kept_from_the_first_event_on() {
    let mut outbox = Outbox::default();
    let budget = Budget {
        per_minute: 20,
        burst: 5,
    };
    outbox.handle(NOW, OutboxInput::Budget(url(1), Some(budget)));
    for seq in 1..=30 {
        queue(&mut outbox, row(seq, &[1, 2], &[2]));
    }
    // The relay without a budget gets everything at once, the other one five, and then one every three
    // seconds, the oldest first.
    let mut sent: Vec<(u64, u64)> = Vec::new();
    let mut now = NOW;
    let mut unbounded = 0;
    while sent.len() < 30 {
        for (id, relay) in outbox.due(now) {
            if relay == url(2) {
                unbounded += 1;
            } else {
                sent.push((now.since(NOW), outbox.row(&id).unwrap().seq));
            }
            answer(
                &mut outbox,
                now,
                id,
                if relay == url(2) { 2 } else { 1 },
                PublishOutcome::Accepted,
            );
        }
        assert!(sent.len() == 30 || outbox.next_deadline().unwrap() > now);
        now = outbox.next_deadline().unwrap();
    }
    assert_eq!(unbounded, 30);
    let expected: Vec<(u64, u64)> = (1..=30)
        .map(|n: u64| (n.saturating_sub(5) * 3, n))
        .collect();
    assert_eq!(sent, expected);
    // What goes beside the outbox is paid from the same purse.
    let later = now.plus(60);
    for _ in 0..4 {
        outbox.handle(later, OutboxInput::Charged(url(1)));
    }
    for seq in 31..=33 {
        queue(&mut outbox, row(seq, &[1], &[2]));
    }
    assert_eq!(due_relays(&mut outbox, later), [url(1)]);
}

#[test]
fn what_a_relay_says_it_does_not_take_is_not_offered_to_it() {
    let mut outbox = Outbox::default();
    let small = RelayLimits {
        message_bytes: Some(100),
        ..RelayLimits::default()
    };
    let workers = RelayLimits {
        pow: MAX_POW + 1,
        ..RelayLimits::default()
    };
    let payable = RelayLimits {
        pow: MAX_POW,
        message_bytes: Some(100_000),
        ..RelayLimits::default()
    };
    for (relay, limits) in [(1, small), (2, workers), (3, payable)] {
        outbox.handle(NOW, OutboxInput::Limits(url(relay), limits));
    }
    let id = queue(&mut outbox, row(1, &[1, 2, 3], &[2]));
    assert_eq!(due_relays(&mut outbox, NOW), [url(3)]);
    let states = |outbox: &Outbox| -> Vec<DeliveryState> {
        let relays = &outbox.row(&id).unwrap().relays;
        relays.values().map(|delivery| delivery.state).collect()
    };
    assert_eq!(
        states(&outbox),
        [
            DeliveryState::Refused(Refusal::TooLarge),
            DeliveryState::Refused(Refusal::ProofOfWork(MAX_POW + 1)),
            DeliveryState::Pending
        ]
    );
    // The one that is left is enough.
    answer(&mut outbox, NOW, id, 3, PublishOutcome::Accepted);
    assert!(outbox.row(&id).unwrap().published);
}

#[test]
fn what_nobody_acknowledges_goes_on_until_every_relay_was_offered_it() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1, 2, 3], &[]));
    let _ = outbox.due(NOW);
    // Two liars say OK; the third is slow.
    answer(&mut outbox, NOW, id, 1, PublishOutcome::Accepted);
    answer(&mut outbox, NOW, id, 2, PublishOutcome::Accepted);
    assert!(outbox.row(&id).unwrap().published);
    let mut now = NOW;
    answer(&mut outbox, now, id, 3, PublishOutcome::Silent);
    for _ in 1..OFFERS - 1 {
        now = outbox.next_deadline().unwrap();
        assert_eq!(due_relays(&mut outbox, now), [url(3)]);
        let effects = answer(&mut outbox, now, id, 3, PublishOutcome::Silent);
        assert_eq!(effects, [OutboxEffect::Store(id)]);
    }
    now = outbox.next_deadline().unwrap();
    assert!(now.since(NOW) > 1_800 && now.since(NOW) < 7_200);
    assert_eq!(due_relays(&mut outbox, now), [url(3)]);
    let effects = answer(&mut outbox, now, id, 3, PublishOutcome::Silent);
    assert_eq!(ended(&effects), Some(RowEnd::Done));
}

#[test]
fn a_relay_of_one_cohort_gets_that_cohort_s_messages_only() {
    let mut outbox = Outbox::default();
    let mine = queue(&mut outbox, row(1, &[1], &[2]));
    let other = NewRow {
        event: event(NOW, "other"),
        lane: Some(LaneId {
            cohort: CohortId::from_bytes([2; 32]),
            ..lane()
        }),
        ..row(1, &[1], &[2])
    };
    let other = queue(&mut outbox, other);
    outbox.handle(NOW, OutboxInput::RelayAdded(url(2), Some(lane().cohort)));
    assert!(outbox.row(&mine).unwrap().relays.contains_key(&url(2)));
    assert!(!outbox.row(&other).unwrap().relays.contains_key(&url(2)));
}

#[test]
fn a_kind_that_is_blocked_does_not_block_the_author_s_other_kinds() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1, 2], &[2]));
    let _ = outbox.due(NOW);
    refuse(&mut outbox, NOW, id, 1, "blocked: kind 8327 not permitted");
    let advert = EventDraft {
        created_at: NOW,
        kind: 38327,
        tags: Vec::new(),
        content: "advert".into(),
    };
    let advert = NewRow {
        event: advert.sign(&key(1)).unwrap(),
        lane: None,
        ..row(0, &[1], &[])
    };
    let advert = queue(&mut outbox, advert);
    let due = outbox.due(NOW);
    assert!(due.contains(&(advert, url(1))), "{due:?}");
}

#[test]
fn refusals_by_reason() {
    let case = |words: &str| {
        let mut outbox = Outbox::default();
        let id = queue(&mut outbox, row(1, &[1, 2], &[2]));
        let _ = outbox.due(NOW);
        let effects = refuse(&mut outbox, NOW, id, 1, words);
        let delivery = outbox.row(&id).unwrap().relays[&url(1)].clone();
        let alarm = effects
            .iter()
            .any(|e| matches!(e, OutboxEffect::Alarm { .. }));
        let resign = effects.iter().find_map(|e| match e {
            OutboxEffect::Resign { pow, .. } => Some(*pow),
            _ => None,
        });
        (delivery.next_try.is_some(), alarm, resign)
    };
    assert_eq!(case("duplicate: have it"), (false, false, None));
    assert_eq!(case("auth-required: who"), (true, false, None));
    assert_eq!(case("error: database"), (true, false, None));
    assert_eq!(case("invalid: created_at too late"), (true, true, None));
    assert_eq!(case("invalid: event expired"), (false, false, Some(None)));
    assert_eq!(case("invalid: bad tag"), (false, true, None));
    assert_eq!(case("pow: 16 bits needed"), (false, false, Some(Some(16))));
    assert_eq!(case("pow: 28 bits needed"), (false, true, None));
    assert_eq!(case("blocked: spam"), (false, false, None));
}

#[test]
fn a_relay_that_blocks_an_author_is_spared_its_later_messages() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1, 2], &[2]));
    let _ = outbox.due(NOW);
    refuse(&mut outbox, NOW, id, 1, "blocked: not in our web of trust");
    queue(&mut outbox, row(2, &[1, 2], &[2]));
    assert_eq!(due_relays(&mut outbox, NOW), [url(2)]);
    // With one relay left, that one is enough.
    let effects = answer(&mut outbox, NOW, id, 2, PublishOutcome::Accepted);
    assert_eq!(effects, [OutboxEffect::Store(id)]);
    assert!(outbox.row(&id).unwrap().published);
    // Tried anew after a day.
    let later = NOW.plus(BARRED + 1);
    outbox.handle(later, OutboxInput::Tick);
    let third = row(3, &[1], &[2]);
    outbox.handle(later, OutboxInput::Queued(Box::new(third)));
    assert!(due_relays(&mut outbox, later).contains(&url(1)));
}

#[test]
fn without_any_relay_left_somebody_is_told() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1], &[2]));
    let _ = outbox.due(NOW);
    let effects = refuse(&mut outbox, NOW, id, 1, "blocked: no");
    assert_eq!(
        effects,
        [OutboxEffect::Store(id), OutboxEffect::Undeliverable(id)]
    );
    // A relay added later takes it.
    outbox.handle(NOW, OutboxInput::RelayAdded(url(2), None));
    assert_eq!(due_relays(&mut outbox, NOW), [url(2)]);
    let effects = outbox.handle(NOW, OutboxInput::RelayRemoved(url(2)));
    assert!(effects.contains(&OutboxEffect::Undeliverable(id)));
}

#[test]
fn a_finished_cohort_sends_no_more() {
    let mut outbox = Outbox::default();
    queue(&mut outbox, row(1, &[1], &[2]));
    let effects = outbox.handle(NOW, OutboxInput::Dropped(lane().cohort));
    assert_eq!(ended(&effects), Some(RowEnd::Dropped));
    assert_eq!(outbox.due(NOW), []);
}

#[test]
fn the_report_says_to_whom_where_and_who_is_missing() {
    let mut outbox = Outbox::default();
    let id = queue(&mut outbox, row(1, &[1, 2], &[2, 3]));
    let _ = outbox.due(NOW);
    refuse(&mut outbox, NOW, id, 1, "blocked: no");
    answer(&mut outbox, NOW, id, 2, PublishOutcome::Accepted);
    outbox.handle(NOW, ack(3, 1, &[]));
    let report = outbox.row(&id).unwrap().report();
    assert_eq!(report.to, Some(key(2).public()));
    assert_eq!(report.awaiting, [key(2).public()]);
    assert!(report.published);
    let blocked = DeliveryState::Refused(Refusal::Blocked);
    assert_eq!(
        report.relays,
        [
            (url(1), blocked, Some("blocked: no".into())),
            (url(2), DeliveryState::Ok, None)
        ]
    );
}

#[derive(Debug, Clone)]
enum Happening {
    Wait(u64),
    Due,
    Answer(usize, u8, u8),
    Ack(u64),
    Up(u8),
    Resign(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1u64..4_000).prop_map(Happening::Wait),
        Just(Happening::Due),
        (0usize..4, 1u8..4, 0u8..7).prop_map(|(e, r, a)| Happening::Answer(e, r, a)),
        (0u64..4).prop_map(Happening::Ack),
        (1u8..4).prop_map(Happening::Up),
        (0usize..4).prop_map(Happening::Resign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens in whatever order: a relay that has an event is not sent it again, a closed row
    /// is silent, every open row has a next deadline, and a restart at any point changes nothing.
    #[test]
    fn rules_hold_in_any_order(happenings in proptest::collection::vec(happening(), 0..60)) {
        let words = ["duplicate: x", "rate-limited: x", "auth-required: x", "error: x", "invalid: x"];
        let mut outbox = Outbox::default();
        let mut ids: Vec<EventId> =
            (1..=4).map(|seq| queue(&mut outbox, row(seq, &[1, 2, 3], &[2]))).collect();
        let mut now = NOW;
        for happening in happenings {
            let input = match happening {
                Happening::Wait(seconds) => {
                    now = now.plus(seconds);
                    OutboxInput::Tick
                }
                Happening::Due => {
                    for (id, relay) in outbox.clone().due(now) {
                        let row = outbox.row(&id).unwrap();
                        prop_assert_ne!(row.relays[&relay].state, DeliveryState::Ok);
                        prop_assert!(!row.awaiting.is_empty());
                    }
                    let _ = outbox.due(now);
                    OutboxInput::Tick
                }
                Happening::Answer(event, relay, kind) => OutboxInput::Answer {
                    event: ids[event],
                    relay: url(relay),
                    outcome: match kind {
                        0 => PublishOutcome::Accepted,
                        1 => PublishOutcome::Silent,
                        n => PublishOutcome::Refused(words[usize::from(n) - 2].into()),
                    },
                    jitter: u32::from(kind) * 160,
                },
                Happening::Ack(upto) => ack(2, upto, &[]),
                Happening::Up(relay) => OutboxInput::RelayUp(url(relay)),
                Happening::Resign(index) => {
                    let fresh = event(now, &format!("{index} at {now}"));
                    let former = std::mem::replace(&mut ids[index], fresh.id);
                    if outbox.row(&former).is_none() {
                        ids[index] = former;
                    }
                    OutboxInput::Resigned { former, event: Box::new(fresh) }
                }
            };
            let saved = serde_json::to_string(&outbox).unwrap();
            let mut restarted: Outbox = serde_json::from_str(&saved).unwrap();
            let effects = outbox.handle(now, input.clone());
            prop_assert_eq!(&restarted.handle(now, input), &effects);
            prop_assert_eq!(&restarted, &outbox);
            for row in outbox.rows() {
                prop_assert!(!row.awaiting.is_empty(), "done rows are closed");
            }
            let open = outbox.rows().count();
            prop_assert_eq!(outbox.next_deadline().is_some(), open > 0);
        }
    }
}
