//! The relay itself, spoken to without the client library.

use super::*;
use btcr2_agent::nostr::Filter;
use btcr2_agent::nostr::outbox::{Refusal, Verdict, classify};
use btcr2_agent::nostr::relay::{Faults, RelayOptions};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn dial(relay: &DevRelay) -> Socket {
    let url = relay.url().as_str();
    tokio_tungstenite::connect_async(url).await.unwrap().0
}

async fn say(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.unwrap();
}

async fn hear(socket: &mut Socket) -> Value {
    let frame = tokio::time::timeout(PATIENCE, socket.next()).await;
    let frame = frame.expect("an answer").unwrap().unwrap();
    serde_json::from_str(frame.to_text().unwrap()).unwrap()
}

#[tokio::test]
async fn garbage_is_answered_and_does_not_end_the_connection() {
    let relay = relay().await;
    let mut socket = dial(&relay).await;
    for garbage in [
        "",
        "{}",
        "[]",
        "[1]",
        "[\"EVENT\"]",
        "[\"EVENT\",{}]",
        "[\"REQ\"]",
        "[\"X\",1]",
    ] {
        say(&mut socket, garbage).await;
        assert_eq!(hear(&mut socket).await[0], "NOTICE", "{garbage}");
    }
    for filters in ["", ",{\"kinds\":\"x\"}", ",{\"nonsense\":1}"] {
        say(&mut socket, format!("[\"REQ\",\"s\"{filters}]")).await;
        assert_eq!(hear(&mut socket).await[0], "CLOSED", "{filters}");
    }
    let mut forged = seal(&key(1), key(2).public(), "x").into_inner();
    forged.content.push('x');
    say(&mut socket, json!(["EVENT", forged]).to_string()).await;
    let answer = hear(&mut socket).await;
    assert_eq!((&answer[0], &answer[2]), (&json!("OK"), &json!(false)));
    say(&mut socket, "[\"REQ\",\"s\",{\"kinds\":[8327]}]").await;
    assert_eq!(hear(&mut socket).await, json!(["EOSE", "s"]));
}

#[tokio::test]
async fn a_subscription_gets_stored_then_live_events_until_it_is_closed() {
    let relay = relay().await;
    let (mut writer, mut reader) = (dial(&relay).await, dial(&relay).await);
    let events: Vec<_> = (0..3u64)
        .map(|i| seal_at(&key(1), key(2).public(), "x", now().minus(10 - i)).into_inner())
        .collect();
    for event in &events[..2] {
        say(&mut writer, json!(["EVENT", event]).to_string()).await;
        assert_eq!(hear(&mut writer).await, json!(["OK", event.id, true, ""]));
    }
    say(&mut writer, json!(["EVENT", events[0]]).to_string()).await;
    assert_eq!(hear(&mut writer).await[3], "duplicate: have this event");
    let request = json!(["REQ", "a", {"#p": [key(2).public()]}, {"ids": [events[0].id]}]);
    say(&mut reader, request.to_string()).await;
    // The newest first, each once although both filters match.
    assert_eq!(hear(&mut reader).await, json!(["EVENT", "a", events[1]]));
    assert_eq!(hear(&mut reader).await, json!(["EVENT", "a", events[0]]));
    assert_eq!(hear(&mut reader).await, json!(["EOSE", "a"]));
    say(&mut writer, json!(["EVENT", events[2]]).to_string()).await;
    assert_eq!(hear(&mut reader).await, json!(["EVENT", "a", events[2]]));
    say(&mut reader, "[\"CLOSE\",\"a\"]").await;
    eventually("the subscription to end", || relay.subscriptions() == 0).await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_off_and_not_left_in_the_dark() {
    let relay = relay().await;
    relay.set_faults(|faults| faults.queue = Some(100_000));
    let mut lazy = dial(&relay).await;
    let request = json!(["REQ", "a", {"#p": [key(2).public()]}]);
    say(&mut lazy, request.to_string()).await;
    eventually("the subscription", || relay.subscriptions() == 1).await;
    // Fills the socket's buffers, then the queue. The writer, who reads, is not cut.
    let mut writer = dial(&relay).await;
    let keys = ConversationKeys::new();
    let mut written = 0;
    while relay.subscriptions() == 1 {
        written += 1;
        assert!(written < 2_000, "the queue has no end");
        let event = keys
            .seal_directed(
                &key(1),
                key(2).public(),
                &[7; 40_000],
                now().minus(written),
                now().plus(60),
            )
            .unwrap();
        say(&mut writer, json!(["EVENT", event]).to_string()).await;
        assert_eq!(hear(&mut writer).await[2], true);
    }
}

#[tokio::test]
async fn refusals_come_in_words_that_are_understood() {
    type Fault = fn(&mut Faults);
    let cases: [(Fault, i64, Refusal); 7] = [
        (|f| f.refuse_kinds = vec![8327], 0, Refusal::Blocked),
        (|f| f.max_bytes = Some(300), 0, Refusal::TooLarge),
        (|f| f.per_minute = Some(0), 0, Refusal::RateLimited),
        (|f| f.pow = 30, 0, Refusal::ProofOfWork(30)),
        (|f| f.window = Some((60, 60)), -90, Refusal::Clock),
        (|f| f.window = Some((60, 60)), 90, Refusal::Clock),
        (
            |f| {
                f.window = Some((60, 60));
                f.clock_ahead = 3_600;
            },
            0,
            Refusal::Clock,
        ),
    ];
    for (fault, shift, expected) in cases {
        let relay = relay().await;
        let mut socket = dial(&relay).await;
        let event = |n: i64| {
            let at = UnixTime(now().0.checked_add_signed(shift).unwrap());
            seal_at(&key(1), key(2).public(), &n.to_string(), at)
        };
        relay.set_faults(fault);
        say(&mut socket, json!(["EVENT", event(1)]).to_string()).await;
        let answer = hear(&mut socket).await;
        assert_eq!(answer[2], false, "{expected:?}");
        let words = answer[3].as_str().unwrap();
        assert_eq!(classify(words), Verdict::Refuses(expected), "{words}");
        relay.set_faults(|faults| *faults = Faults::default());
        say(&mut socket, json!(["EVENT", event(2)]).to_string()).await;
        assert_eq!(hear(&mut socket).await[2], true);
    }
}

#[tokio::test]
async fn the_same_seed_loses_the_same_events() {
    let events: Vec<_> = (0..40)
        .map(|n| seal(&key(1), key(2).public(), &n.to_string()))
        .collect();
    let mut kept = Vec::new();
    for seed in [7, 7, 8] {
        let options = RelayOptions {
            seed,
            ..RelayOptions::default()
        };
        let relay = DevRelay::start_with("127.0.0.1:0".parse().unwrap(), options)
            .await
            .unwrap();
        relay.set_faults(|faults| faults.lose_in = 50);
        let mut socket = dial(&relay).await;
        for event in &events {
            say(&mut socket, json!(["EVENT", event]).to_string()).await;
        }
        eventually("forty events", || relay.counts().events_in == 40).await;
        let stored = relay.stored(&Filter::kind(8327));
        assert_eq!(stored.len() as u64 + relay.counts().lost, 40);
        assert!((8..=32).contains(&stored.len()), "{}", stored.len());
        kept.push(stored);
    }
    assert_eq!(kept[0], kept[1]);
    assert_ne!(kept[0], kept[2]);
}

#[tokio::test(start_paused = true)]
async fn delayed_events_overtake_one_another() {
    let relay = relay().await;
    let delay = (Duration::from_secs(1), Duration::from_secs(3_600));
    relay.set_faults(|faults| faults.delay = Some(delay));
    let (mut writer, mut reader) = (dial(&relay).await, dial(&relay).await);
    say(&mut reader, "[\"REQ\",\"s\",{\"kinds\":[8327]}]").await;
    assert_eq!(hear(&mut reader).await, json!(["EOSE", "s"]));
    let events: Vec<_> = (0..10)
        .map(|n| seal(&key(1), key(2).public(), &n.to_string()))
        .collect();
    for event in &events {
        say(&mut writer, json!(["EVENT", event]).to_string()).await;
        assert_eq!(hear(&mut writer).await[2], true);
    }
    let mut heard = Vec::new();
    while heard.len() < events.len() {
        let frame = reader.next().await.unwrap().unwrap();
        let frame: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        heard.push(frame[2]["id"].as_str().unwrap().to_owned());
    }
    let sent: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
    assert_ne!(heard, sent);
    heard.sort();
    let mut sent = sent;
    sent.sort();
    assert_eq!(heard, sent);
}

#[tokio::test]
async fn a_relay_that_vanished_and_came_back_is_used_again() {
    let relay = relay().await;
    let (alice, bob) = (key(1), key(2));
    let (link, mut events) = connect(&[relay.url()], fast());
    link.set_inbox(&[bob.public()], now().minus(60));
    live(&mut events).await;
    relay.set_faults(|faults| faults.absent = true);
    until(&mut events, "the end of the connection", |event| {
        matches!(event, LinkEvent::Disconnected { .. }).then_some(())
    })
    .await;
    link.publish(&seal(&alice, bob.public(), "into the void"))
        .unwrap();
    relay.set_faults(|faults| faults.absent = false);
    live(&mut events).await;
    link.publish(&seal(&alice, bob.public(), "back")).unwrap();
    loop {
        let text = open(&bob, &next_event(&mut events).await);
        if text == "back" {
            break;
        }
    }
    let took = link.relays()[0].latency.expect("it answered");
    assert!(took < PATIENCE);
}

#[tokio::test]
async fn looking_back_finds_what_was_not_passed_on() {
    let relay = relay().await;
    relay.set_faults(|faults| faults.no_live = true);
    let (alice, bob) = (key(1), key(2));
    let (link, mut events) = connect(&[relay.url()], fast());
    link.set_inbox(&[bob.public()], now().minus(7_200));
    live(&mut events).await;
    let (old, fresh) = (now().minus(3_600), now());
    for (text, at) in [("old", old), ("fresh", fresh)] {
        link.publish(&seal_at(&alice, bob.public(), text, at))
            .unwrap();
    }
    eventually("two events", || relay.counts().events_taken == 2).await;
    link.look_back(now().minus(600));
    assert_eq!(open(&bob, &next_event(&mut events).await), "fresh");
    // Everything is read only by reconciling.
    link.reconcile();
    assert_eq!(open(&bob, &next_event(&mut events).await), "old");
}
