//! What a link does when relays misbehave.

use super::*;
use btcr2_agent::nostr::Filter;
use btcr2_agent::nostr::link::PublishOutcome;

#[tokio::test]
async fn a_forged_event_under_a_known_id_and_signature_is_dropped() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let (a, _a_events) = connect(&[relay.url()], fast());
    let (b, mut b_events) = connect(&[relay.url()], fast());
    b.set_inbox(&[bob.public()], now().minus(60));
    let event = seal(&alice, bob.public(), "pay to Alice");
    a.publish(&event).unwrap();
    // The first REQ brings the true event, and the library remembers its id as verified.
    assert_eq!(open(&bob, &next_event(&mut b_events).await), "pay to Alice");

    // From now on the relay serves other content under that id and signature.
    let forged = seal(&key(66), bob.public(), "pay to Mallory")
        .content
        .clone();
    relay.set_faults(|faults| faults.forge = Some(forged));
    let filter = Filter::kind(8327).tag('p', [bob.public()]);
    let fetched = b.fetch(&filter, PATIENCE).await;
    assert_eq!(fetched.events, [], "the forgery must not come through");
    let count = until(&mut b_events, "the alarm", |event| match event {
        LinkEvent::Forged { count, .. } => Some(count),
        _ => None,
    })
    .await;
    assert_eq!(count, 1);

    // The subscription is no way in either: not for the id known, nor for one never seen before.
    b.forget(&event.id);
    b.reconcile();
    forged_more(&mut b_events).await;
    a.publish(&seal(&alice, bob.public(), "second")).unwrap();
    forged_more(&mut b_events).await;
    // And the relay's honest answer still does come through.
    relay.set_faults(|faults| faults.forge = None);
    b.reconcile();
    assert_eq!(next_event(&mut b_events).await.author, alice.public());
    assert_eq!(b.relays()[0].forged, 3);
}

async fn forged_more(events: &mut Receiver<LinkEvent>) {
    until(events, "an alarm", |event| match event {
        LinkEvent::Forged { count, .. } => {
            assert_eq!(count, 1);
            Some(())
        }
        LinkEvent::Event { event, .. } => panic!("came through: {}", event.content),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn publishing_waits_neither_for_a_dead_relay_nor_for_a_refusing_or_silent_one() {
    let (good, refusing, silent) = (relay().await, relay().await, relay().await);
    let dead = dead_url().await;
    refusing.set_faults(|faults| faults.refuse = Some("blocked: kind 8327 not permitted".into()));
    silent.set_faults(|faults| faults.silent = true);
    let mut options = fast();
    options.timings.ok = Duration::from_millis(700);
    let urls = [&dead, refusing.url(), silent.url(), good.url()];
    let (link, mut events) = connect(&urls, options);
    let event = seal(&key(1), key(2).public(), "hello");
    assert_eq!(link.publish(&event).unwrap(), 4);
    let mut answers = Vec::new();
    while answers.len() < 4 {
        answers.push(
            until(&mut events, "four answers", |event| match event {
                LinkEvent::Published { relay, outcome, .. } => Some((relay, outcome)),
                _ => None,
            })
            .await,
        );
    }
    let of = |url: &RelayUrl| answers.iter().find(|(u, _)| u == url).unwrap().1.clone();
    assert_eq!(of(good.url()), PublishOutcome::Accepted);
    assert_eq!(
        of(refusing.url()),
        PublishOutcome::Refused("blocked: kind 8327 not permitted".into())
    );
    assert_eq!(of(&dead), PublishOutcome::Silent);
    assert_eq!(of(silent.url()), PublishOutcome::Silent);
    // The answers came in the order of how long the relays took, not of the list.
    let early: Vec<_> = answers[..2].iter().map(|(url, _)| url.clone()).collect();
    assert!(early.contains(good.url()) && early.contains(refusing.url()));
}

#[tokio::test]
async fn a_closed_subscription_is_opened_again_whatever_the_prefix() {
    for reason in [
        "ERROR: auth-required: relay needs serviceUrl to be configured before AUTH can work",
        "auth-required: who are you",
        "blocked: not now",
        "rate-limited: slow down",
        "",
    ] {
        let relay = relay().await;
        relay.set_faults(|faults| faults.close = Some(reason.into()));
        let (alice, bob) = (key(1), key(2));
        let (link, mut events) = connect(&[relay.url()], fast());
        link.set_inbox(&[bob.public()], now().minus(60));
        for _ in 0..2 {
            let told = until(&mut events, "CLOSED", |event| match event {
                LinkEvent::Closed { reason, .. } => Some(reason),
                _ => None,
            })
            .await;
            assert_eq!(told, reason);
        }
        relay.set_faults(|faults| faults.close = None);
        live(&mut events).await;
        link.publish(&seal(&alice, bob.public(), "heard")).unwrap();
        assert_eq!(open(&bob, &next_event(&mut events).await), "heard");
    }
}

#[tokio::test]
async fn a_subscription_without_end_of_stored_events_is_asked_again() {
    let relay = relay().await;
    relay.set_faults(|faults| faults.no_eose = true);
    let (alice, bob) = (key(1), key(2));
    let (link, mut events) = connect(&[relay.url()], fast());
    link.set_inbox(&[bob.public()], now().minus(60));
    eventually("three requests", || relay.counts().requests >= 3).await;
    // Meanwhile live events arrive.
    link.publish(&seal(&alice, bob.public(), "live")).unwrap();
    assert_eq!(open(&bob, &next_event(&mut events).await), "live");
    let fetched = link
        .fetch(&Filter::kind(1), Duration::from_millis(300))
        .await;
    assert_eq!(fetched.incomplete.len(), 1, "no end is not an empty answer");
    relay.set_faults(|faults| faults.no_eose = false);
    live(&mut events).await;
    eventually("one subscription to be left", || relay.subscriptions() == 1).await;
}

#[tokio::test]
async fn a_half_open_socket_is_noticed_and_replaced() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let (link, mut events) = connect(&[relay.url()], fast());
    link.set_inbox(&[bob.public()], now().minus(60));
    live(&mut events).await;
    relay.set_faults(|faults| faults.frozen = true);
    until(&mut events, "the dead socket to be noticed", |event| {
        matches!(event, LinkEvent::Disconnected { .. }).then_some(())
    })
    .await;
    relay.set_faults(|faults| faults.frozen = false);
    live(&mut events).await;
    link.publish(&seal(&alice, bob.public(), "back")).unwrap();
    assert_eq!(open(&bob, &next_event(&mut events).await), "back");
}

#[tokio::test]
async fn an_idle_connection_is_kept_by_pings() {
    let relay = relay().await;
    let mut options = fast();
    options.timings.ping = Duration::from_millis(150);
    let (link, mut events) = connect(&[relay.url()], options);
    link.set_inbox(&[key(2).public()], now().minus(60));
    live(&mut events).await;
    eventually("five pings", || relay.counts().pings >= 5).await;
    assert_eq!(relay.counts().connections, 1);
    assert!(link.relays()[0].connected);
}

#[tokio::test]
async fn a_relay_that_demands_authentication_is_used_with_the_key_and_told_without() {
    let relay = relay().await;
    relay.set_faults(|faults| faults.require_auth = true);
    let (alice, bob) = (key(1), key(2));
    let (with, mut with_events) = connect(
        &[relay.url()],
        LinkOptions {
            auth: Some(key(2)),
            ..fast()
        },
    );
    with.set_inbox(&[bob.public()], now().minus(60));
    with.publish(&seal(&alice, bob.public(), "let me in"))
        .unwrap();
    let mut accepted = false;
    let mut received = false;
    while !(accepted && received) {
        until(&mut with_events, "both", |event| {
            match event {
                LinkEvent::Published { outcome, .. } => {
                    assert_eq!(outcome, PublishOutcome::Accepted);
                    accepted = true;
                }
                LinkEvent::Event { event, .. } => {
                    assert_eq!(open(&bob, &event), "let me in");
                    received = true;
                }
                _ => return None,
            }
            Some(())
        })
        .await;
    }
    let fetched = with.fetch(&Filter::kind(8327), PATIENCE).await;
    assert_eq!((fetched.events.len(), fetched.incomplete.len()), (1, 0));

    let (without, mut without_events) = connect(&[relay.url()], fast());
    without
        .publish(&seal(&alice, bob.public(), "no key"))
        .unwrap();
    let outcome = until(&mut without_events, "the refusal", |event| match event {
        LinkEvent::Published { outcome, .. } => Some(outcome),
        _ => None,
    })
    .await;
    assert!(
        matches!(&outcome, PublishOutcome::Refused(text) if text.starts_with("auth-required")),
        "{outcome:?}"
    );
    let fetched = without.fetch(&Filter::kind(8327), PATIENCE).await;
    assert_eq!(fetched.incomplete.len(), 1, "not served is not empty");
}

#[tokio::test]
async fn duplicates_and_strays_are_not_reported() {
    let relay = relay().await;
    relay.set_faults(|faults| faults.repeat = 1);
    let (alice, bob) = (key(1), key(2));
    let (link, mut events) = connect(&[relay.url()], fast());
    link.set_inbox(&[bob.public()], now().minus(60));
    live(&mut events).await;
    let sent: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|text| seal(&alice, bob.public(), text))
        .collect();
    for event in &sent {
        link.publish(event).unwrap();
        assert_eq!(next_event(&mut events).await.id, event.id);
    }
    assert_eq!(relay.counts().events_out, 6);
}
