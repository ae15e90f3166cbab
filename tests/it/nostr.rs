//! The Nostr layer over real sockets on loopback.

mod faults;
mod information;
mod link;
mod probing;
mod relay;
mod scale;

use std::time::Duration;

use btcr2_agent::keys::{NostrKey, OwnKey};
use btcr2_agent::nostr::link::{Link, LinkEvent, LinkOptions, RelayConfig, Timings};
use btcr2_agent::nostr::relay::DevRelay;
use btcr2_agent::nostr::seal::ConversationKeys;
use btcr2_agent::nostr::{RelayUrl, VerifiedEvent};
use btcr2_agent::time::UnixTime;
use tokio::sync::mpsc::Receiver;

/// Longer than anything takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

fn key(byte: u8) -> OwnKey {
    OwnKey::from_bytes(&[byte; 32]).unwrap()
}

fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.unwrap().as_secs())
}

fn seal(from: &OwnKey, to: NostrKey, text: &str) -> VerifiedEvent {
    seal_at(from, to, text, now())
}

fn seal_at(from: &OwnKey, to: NostrKey, text: &str, at: UnixTime) -> VerifiedEvent {
    ConversationKeys::new()
        .seal_directed(from, to, text.as_bytes(), at, now().plus(3_600))
        .unwrap()
}

fn open(own: &OwnKey, event: &VerifiedEvent) -> String {
    let plaintext = ConversationKeys::new().open_directed(own, event).unwrap();
    String::from_utf8(plaintext).unwrap()
}

async fn relay() -> DevRelay {
    DevRelay::start("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap()
}

/// An address nobody listens on.
async fn dead_url() -> RelayUrl {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    RelayUrl::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap()
}

fn fast() -> LinkOptions {
    LinkOptions {
        auth: None,
        timings: Timings {
            connect: Duration::from_secs(5),
            ok: Duration::from_secs(5),
            eose: Duration::from_millis(400),
            ping: Duration::from_millis(400),
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_millis(400),
            reconcile: Duration::from_secs(3_600),
        },
    }
}

fn connect(urls: &[&RelayUrl], options: LinkOptions) -> (Link, Receiver<LinkEvent>) {
    let relays = urls
        .iter()
        .map(|url| RelayConfig::configured((*url).clone()))
        .collect();
    Link::start(relays, options)
}

/// Reads reports until `pick` takes one.
async fn until<T>(
    events: &mut Receiver<LinkEvent>,
    what: &str,
    mut pick: impl FnMut(LinkEvent) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let event = events.recv().await.expect("the link is alive");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

async fn next_event(events: &mut Receiver<LinkEvent>) -> VerifiedEvent {
    until(events, "an event", |event| match event {
        LinkEvent::Event { event, .. } => Some(event),
        _ => None,
    })
    .await
}

async fn live(events: &mut Receiver<LinkEvent>) {
    until(events, "the end of stored events", |event| {
        matches!(event, LinkEvent::Eose { .. }).then_some(())
    })
    .await;
}

/// Waits for a condition outside of any link.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let search = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
