//! What a link does over relays that behave.

use super::*;
use btcr2_agent::hash::CohortId;
use btcr2_agent::network::Network;
use btcr2_agent::nostr::advert::AdvertStatus;
use btcr2_agent::nostr::event::EventDraft;
use btcr2_agent::nostr::link::{AdvertQuery, PublishOutcome};
use btcr2_agent::nostr::{Event, Filter};

#[tokio::test]
async fn two_agents_talk_through_a_relay() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let (a, mut a_events) = connect(&[relay.url()], fast());
    let (b, mut b_events) = connect(&[relay.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(60));
    live(&mut b_events).await;

    let sent = seal(&alice, bob.public(), "hello");
    assert_eq!(a.publish(&sent).unwrap(), 1);
    let (id, outcome) = until(&mut a_events, "the answer", |event| match event {
        LinkEvent::Published { event, outcome, .. } => Some((event, outcome)),
        _ => None,
    })
    .await;
    assert_eq!((id, outcome), (sent.id, PublishOutcome::Accepted));
    let received = next_event(&mut b_events).await;
    assert_eq!(received.author, alice.public());
    assert_eq!(open(&bob, &received), "hello");
}

#[tokio::test]
async fn what_was_missed_while_offline_comes_at_the_next_start() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let (b, mut b_events) = connect(&[relay.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(60));
    live(&mut b_events).await;
    b.shutdown().await;
    eventually("the relay to notice", || relay.subscriptions() == 0).await;

    let (a, mut a_events) = connect(&[relay.url()], fast());
    for text in ["one", "two"] {
        a.publish(&seal(&alice, bob.public(), text)).unwrap();
        until(&mut a_events, "OK", |event| {
            matches!(event, LinkEvent::Published { .. }).then_some(())
        })
        .await;
    }
    let (b, mut b_events) = connect(&[relay.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(60));
    let mut texts = Vec::new();
    for _ in 0..2 {
        texts.push(open(&bob, &next_event(&mut b_events).await));
    }
    texts.sort();
    assert_eq!(texts, ["one", "two"]);
}

#[tokio::test]
async fn a_cut_connection_comes_back_with_what_was_missed() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let (b, mut b_events) = connect(&[relay.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(60));
    live(&mut b_events).await;
    let (a, _a_events) = connect(&[relay.url()], fast());
    relay.disconnect_all();
    until(&mut b_events, "the cut", |event| {
        matches!(event, LinkEvent::Disconnected { .. }).then_some(())
    })
    .await;
    // Published while nobody may be connected: kept until the connection is back.
    a.publish(&seal(&alice, bob.public(), "still here"))
        .unwrap();
    assert_eq!(open(&bob, &next_event(&mut b_events).await), "still here");
}

#[tokio::test]
async fn an_event_on_two_relays_is_reported_once() {
    let (one, two) = (relay().await, relay().await);
    let (alice, bob) = (key(1), key(2));
    let (a, _a_events) = connect(&[one.url(), two.url()], fast());
    let (b, mut b_events) = connect(&[one.url(), two.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(60));
    live(&mut b_events).await;
    live(&mut b_events).await;
    let first = seal(&alice, bob.public(), "first");
    assert_eq!(a.publish(&first).unwrap(), 2);
    let all = Filter::kind(8327);
    eventually("both relays to have it", || {
        one.stored(&all).len() == 1 && two.stored(&all).len() == 1
    })
    .await;
    // Both relays repeat it; then a second message shows that no copy is between them.
    b.reconcile();
    assert_eq!(next_event(&mut b_events).await.id, first.id);
    let second = seal(&alice, bob.public(), "second");
    a.publish(&second).unwrap();
    assert_eq!(next_event(&mut b_events).await.id, second.id);
    // Forgotten on purpose, it comes once more.
    b.forget(&first.id);
    b.reconcile();
    assert_eq!(next_event(&mut b_events).await.id, first.id);
}

/// What an agent's key wrote to a key that the agent does not read yet: seen by who watches the author, it comes again
/// as soon as the recipient's key is there. An aggregator that is a member of its own cohort lives on that.
#[tokio::test]
async fn what_one_subscription_delivered_another_delivers_too() {
    let relay = relay().await;
    let (author, channel) = (key(1), key(2));
    let (link, mut events) = connect(&[relay.url()], fast());
    let since = now().minus(60);
    link.set_own(&[author.public()], since);
    link.set_inbox(&[author.public()], since);
    for _ in 0..2 {
        live(&mut events).await;
    }
    let sent = seal(&author, channel.public(), "to the channel");
    link.publish(&sent).unwrap();
    assert_eq!(next_event(&mut events).await.id, sent.id);

    link.set_inbox(&[author.public(), channel.public()], since);
    assert_eq!(next_event(&mut events).await.id, sent.id);
    // Once for each: a further message shows that no copy is between them.
    link.reconcile();
    let second = seal(&author, key(3).public(), "to somebody else");
    link.publish(&second).unwrap();
    assert_eq!(next_event(&mut events).await.id, second.id);
}

#[tokio::test]
async fn stored_events_beyond_the_relays_limit_are_paged() {
    let relay = relay().await;
    relay.set_faults(|faults| faults.page = Some(60));
    let (alice, bob) = (key(1), key(2));
    let (a, mut a_events) = connect(&[relay.url()], fast());
    let start = now().minus(1_000);
    // Five events a second, so that a page ends inside a second.
    for i in 0..203u64 {
        let event = seal_at(&alice, bob.public(), &i.to_string(), start.plus(i / 5));
        a.publish(&event).unwrap();
    }
    let mut stored = 0;
    while stored < 203 {
        until(&mut a_events, "OK", |event| {
            matches!(event, LinkEvent::Published { .. }).then_some(())
        })
        .await;
        stored += 1;
    }

    let filter = Filter::kind(8327).tag('p', [bob.public()]);
    let fetched = a.fetch(&filter, PATIENCE).await;
    assert_eq!(fetched.incomplete, []);
    assert_eq!(fetched.events.len(), 203);
    let newest = a.fetch(&filter.clone().limit(70), PATIENCE).await;
    assert_eq!(newest.events.len(), 70);
    assert!(
        newest
            .events
            .iter()
            .all(|(_, e)| e.created_at >= start.plus(26))
    );

    let (b, mut b_events) = connect(&[relay.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(7_200));
    let mut texts = std::collections::BTreeSet::new();
    while texts.len() < 203 {
        texts.insert(open(&bob, &next_event(&mut b_events).await));
    }
}

#[tokio::test]
async fn fetch_tells_a_missing_answer_from_an_empty_one() {
    let relay = relay().await;
    let dead = dead_url().await;
    let (link, _events) = connect(&[relay.url(), &dead], fast());
    let fetched = link.fetch(&Filter::kind(8327), PATIENCE).await;
    assert!(fetched.events.is_empty());
    let missing: Vec<_> = fetched.incomplete.iter().map(|(url, _)| url).collect();
    assert_eq!(missing, [&dead]);
}

#[tokio::test]
async fn adverts_are_watched_by_network_status_and_author() {
    let relay = relay().await;
    let (link, mut events) = connect(&[relay.url()], fast());
    let advert = |author: u8, d: u8, network: &str, status: &str| {
        let tag = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        EventDraft {
            created_at: now(),
            kind: 38327,
            tags: vec![
                tag("d", &CohortId::from_bytes([d; 32]).to_string()),
                tag("t", "btcr2"),
                tag("n", network),
                tag("s", status),
            ],
            content: "{}".into(),
        }
        .sign(&key(author))
        .unwrap()
    };
    let wanted = advert(1, 1, "signet", "open");
    for event in [
        &advert(1, 2, "regtest", "open"),
        &advert(1, 3, "signet", "closed"),
        &advert(2, 4, "signet", "open"),
        &wanted,
    ] {
        link.publish(event).unwrap();
    }
    let all = Filter::kind(38327);
    eventually("four adverts", || relay.stored(&all).len() == 4).await;
    link.set_adverts(Some(&AdvertQuery {
        networks: vec![Network::Signet],
        authors: vec![key(1).public()],
        statuses: vec![AdvertStatus::Open],
        cohorts: vec![],
    }));
    assert_eq!(next_event(&mut events).await.id, wanted.id);
    // By id only, whatever its state.
    link.set_adverts(Some(&AdvertQuery {
        cohorts: vec![CohortId::from_bytes([3; 32])],
        ..AdvertQuery::default()
    }));
    assert_eq!(next_event(&mut events).await.tag("s"), Some("closed"));
}

#[tokio::test]
async fn relays_come_and_go() {
    let (one, two) = (relay().await, relay().await);
    let (alice, bob) = (key(1), key(2));
    let (link, mut events) = connect(&[one.url()], fast());
    link.set_inbox(&[bob.public()], now().minus(60));
    live(&mut events).await;
    // A relay added later gets the subscriptions there are.
    link.add_relay(RelayConfig::configured(two.url().clone()));
    live(&mut events).await;
    assert!(link.relays().iter().all(|relay| relay.connected));
    let (other, _other_events) = connect(&[two.url()], fast());
    other
        .publish(&seal(&alice, bob.public(), "by two"))
        .unwrap();
    assert_eq!(open(&bob, &next_event(&mut events).await), "by two");
    link.remove_relay(two.url());
    eventually("the connection to end", || two.subscriptions() == 0).await;
    assert_eq!(link.relays().len(), 1);
    let event = seal(&alice, bob.public(), "x");
    assert!(!link.publish_to(&event, two.url()).unwrap());
}

#[tokio::test]
async fn read_only_and_write_only_relays_are_used_as_such() {
    let (read, write) = (relay().await, relay().await);
    let config = |relay: &DevRelay, reads| RelayConfig {
        read: reads,
        write: !reads,
        ..RelayConfig::configured(relay.url().clone())
    };
    let (link, mut events) = Link::start(vec![config(&read, true), config(&write, false)], fast());
    link.set_inbox(&[key(2).public()], now().minus(60));
    assert_eq!(
        link.publish(&seal(&key(1), key(2).public(), "x")).unwrap(),
        1
    );
    live(&mut events).await;
    let all = Filter::kind(8327);
    eventually("the event", || write.stored(&all).len() == 1).await;
    assert!(read.stored(&all).is_empty());
    assert_eq!(write.counts().requests, 0);
}

#[tokio::test]
async fn an_advertised_relay_on_loopback_is_not_dialled() {
    let relay = relay().await;
    // A public name could resolve to loopback; the address itself is judged at the dial too.
    let config = RelayConfig::advertised(relay.url().clone());
    let (_link, mut events) = Link::start(vec![config], fast());
    let reason = until(&mut events, "the refusal", |event| match event {
        LinkEvent::Disconnected { reason, .. } => Some(reason),
        _ => None,
    })
    .await;
    assert!(reason.contains("may be dialled"), "{reason}");
    assert_eq!(relay.counts().connections, 0);
}

#[tokio::test]
async fn a_slow_program_loses_nothing() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let mut options = fast();
    options.timings.ping = PATIENCE;
    options.timings.eose = PATIENCE;
    let (b, mut b_events) = connect(&[relay.url()], options);
    b.set_inbox(&[bob.public()], now().minus(7_200));
    live(&mut b_events).await;
    let (a, _a_events) = connect(&[relay.url()], fast());
    // More than all queues on the way hold, and nobody reads.
    let count = 2_500;
    let start = now().minus(1_000);
    let keys = ConversationKeys::new();
    let events: Vec<Event> = (0..count)
        .map(|i| {
            // Not all in one second: what a relay's limit cuts off within a second can not be paged.
            let at = start.plus(i / 10);
            let event = keys
                .seal_directed(&alice, bob.public(), b"x", at, now().plus(600))
                .unwrap();
            a.publish(&event).unwrap();
            event.into_inner()
        })
        .collect();
    eventually("the relay to have them", || {
        relay.counts().events_taken == count
    })
    .await;
    let mut missing: std::collections::BTreeSet<_> = events.iter().map(|e| e.id).collect();
    while !missing.is_empty() {
        missing.remove(&next_event(&mut b_events).await.id);
    }
    // By waiting, not by asking again and again.
    assert_eq!((relay.counts().requests, b.relays()[0].ignored), (1, 0));
}
