//! The relay itself, spoken to without the client library.

use super::*;
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
