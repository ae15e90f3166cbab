//! Asking relays what they are (NIP-11).

use super::*;
use btcr2_agent::nostr::information::{InformationFault, describe};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_relay_says_what_it_is_and_what_time_it_has() {
    let relay = relay().await;
    relay.set_faults(|faults| {
        faults.clock_ahead = -7_200;
        faults.pow = 16;
        faults.max_bytes = Some(70_000);
        faults.require_auth = true;
    });
    let described = describe(relay.url(), PATIENCE).await;
    let said = described.information.unwrap();
    assert_eq!(said.name.as_deref(), Some("btcr2-agent dev relay"));
    assert!(said.software.unwrap().starts_with("btcr2-agent "));
    assert!(said.nips.contains(&42));
    assert_eq!(said.limits.pow, 16);
    assert!(said.limits.auth && !said.limits.payment);
    assert!(said.limits.takes_bytes(70_000) && !said.limits.takes_bytes(70_100));
    let behind = now().since(described.date.unwrap());
    assert!((7_200..7_230).contains(&behind), "{behind}");
    assert_eq!(relay.counts().informed, 1);
    // The same port goes on serving WebSockets.
    relay.set_faults(|faults| *faults = Default::default());
    let (link, mut events) = connect(&[relay.url()], fast());
    link.set_inbox(&[key(2).public()], now().minus(60));
    live(&mut events).await;
}

/// A server that gives everybody this answer.
async fn answering(answer: String) -> RelayUrl {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    RelayUrl::parse(&url).unwrap()
}

#[tokio::test]
async fn what_does_not_say_what_it_is_says_at_most_the_time() {
    let nowhere = describe(&dead_url().await, PATIENCE).await;
    assert!(matches!(
        nowhere.information,
        Err(InformationFault::Unreachable(_))
    ));
    assert_eq!(nowhere.date, None);
    let head = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n";
    let missing = answering(format!(
        "HTTP/1.1 404 Not Found\r\n{head}Content-Length: 0\r\n\r\n"
    ));
    let described = describe(&missing.await, PATIENCE).await;
    assert_eq!(described.information, Err(InformationFault::Status(404)));
    assert_eq!(described.date, Some(UnixTime(784_111_777)));
    let page = answering(format!(
        "HTTP/1.1 200 OK\r\n{head}Content-Length: 6\r\n\r\n<html>"
    ));
    let described = describe(&page.await, PATIENCE).await;
    assert_eq!(described.information, Err(InformationFault::Malformed));
    // Neither a redirect into the operator's network nor a document without end is followed.
    let inside = relay().await;
    let target = inside.url().as_str().replace("ws://", "http://");
    let redirect = answering(format!(
        "HTTP/1.1 302 Found\r\n{head}Location: {target}\r\nContent-Length: 0\r\n\r\n"
    ));
    let described = describe(&redirect.await, PATIENCE).await;
    assert!(described.information.is_err(), "{described:?}");
    assert_eq!(inside.counts().informed, 0);
    let body = format!("{{\"name\":\"{}\"}}", "x".repeat(100_000));
    let endless = answering(format!(
        "HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let described = describe(&endless.await, PATIENCE).await;
    assert!(described.information.is_err(), "{described:?}");
}
