//! One connection of a client to the relay.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;

use super::store::Insertion;
use super::{Connection, Event, Faults, Filter, MAX_SUBSCRIPTIONS, Outgoing, RelayUrl, Shared};
use crate::time::UnixTime;

/// Stored events one filter of a REQ brings at most, as strfry limits it.
pub(super) const MAX_LIMIT: usize = 500;

pub(super) const MAX_FILTERS: usize = 20;
pub(super) const MAX_SUBSCRIPTION_NAME: usize = 64;
pub(super) const MAX_FRAME: usize = 512 * 1024;
const KIND_AUTH: u16 = 22_242;

struct Session {
    id: u64,
    shared: Arc<Shared>,
    url: RelayUrl,
    challenge: String,
    authenticated: bool,
    outgoing: Outgoing,
    /// Events of the minute that began then.
    minute: (UnixTime, u32),
}

/// Serves one client until it leaves, falls behind, or the relay stops.
pub(super) async fn run(
    id: u64,
    stream: TcpStream,
    shared: Arc<Shared>,
    url: RelayUrl,
    stop: CancellationToken,
) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_FRAME));
    let Ok(socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else {
        return;
    };
    let (mut sink, mut source) = socket.split();
    let (frames, mut queue) = mpsc::unbounded_channel();
    let outgoing = Outgoing {
        frames,
        queued: Arc::default(),
        overflow: CancellationToken::new(),
    };
    let (queued, overflow) = (Arc::clone(&outgoing.queued), outgoing.overflow.clone());
    let mut faults = shared.faults.subscribe();
    let mut kick = shared.kick.subscribe();
    shared.hub().connections.insert(
        id,
        Connection {
            outgoing: outgoing.clone(),
            dice: Arc::clone(&shared.dice),
            lost: Arc::clone(&shared.counters.lost),
            subscriptions: HashMap::new(),
        },
    );
    let mut session = Session {
        id,
        shared: Arc::clone(&shared),
        url,
        challenge: crate::hash::to_hex(&rand::random::<[u8; 16]>()),
        authenticated: false,
        outgoing,
        minute: (UnixTime(0), 0),
    };
    if faults.borrow_and_update().require_auth {
        session.challenge();
    }
    let mut batch = Vec::new();
    loop {
        if faults.borrow_and_update().absent {
            return;
        }
        if faults.borrow_and_update().frozen {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = kick.changed() => return,
                _ = faults.changed() => continue,
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = overflow.cancelled() => return,
            _ = kick.changed() => return,
            _ = faults.changed() => {}
            frame = source.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    Shared::add(&shared.counters.bytes_in, text.len());
                    session.handle(text.as_str());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(Message::Ping(_))) => Shared::add(&shared.counters.pings, 1),
                Some(Ok(_)) => {}
            },
            count = queue.recv_many(&mut batch, 256) => {
                if count == 0 {
                    return;
                }
                let write = async {
                    for frame in batch.drain(..) {
                        queued.fetch_sub(frame.len(), Ordering::Relaxed);
                        shared.count_sent(&frame);
                        sink.feed(Message::text(frame)).await?;
                    }
                    sink.flush().await
                };
                // The client may not be reading: then only this ends it.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = overflow.cancelled() => return,
                    _ = kick.changed() => return,
                    written = write => if written.is_err() {
                        return;
                    },
                }
            }
        }
    }
}

impl Session {
    fn handle(&mut self, text: &str) {
        let Ok(parts) = serde_json::from_str::<Vec<&RawValue>>(text) else {
            return self.notice("error: not a JSON array");
        };
        let command = parts
            .first()
            .and_then(|part| serde_json::from_str::<&str>(part.get()).ok());
        match (command, parts.get(1..).unwrap_or_default()) {
            (Some("EVENT"), [event]) => self.event(event.get()),
            (Some("REQ"), [name, filters @ ..]) => self.request(name.get(), filters),
            (Some("CLOSE"), [name]) => {
                if let Ok(name) = serde_json::from_str::<String>(name.get()) {
                    self.shared.hub().unsubscribe(self.id, &name);
                }
            }
            (Some("AUTH"), [event]) => self.auth(event.get()),
            _ => self.notice("error: unknown command"),
        }
    }

    fn event(&mut self, json: &str) {
        let counters = &self.shared.counters;
        counters.events_in.fetch_add(1, Ordering::Relaxed);
        let faults = self.faults();
        if faults.silent {
            return;
        }
        if self.shared.dice.hits(faults.lose_in) {
            counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let event = match Event::from_json(json) {
            Ok(event) => event,
            Err(fault) => return self.notice(&format!("invalid: {fault}")),
        };
        let id = event.id.to_string();
        if faults.require_auth && !self.authenticated {
            self.challenge();
            return self.ok(&id, false, "auth-required: authenticate to publish");
        }
        let now = self.shared.now();
        if self.is_too_fast(faults.per_minute, now) {
            return self.ok(&id, false, "rate-limited: slow down there chief");
        }
        if let Some(reason) = faults.objection(&event, json.len(), now) {
            return self.ok(&id, false, &reason);
        }
        let event = match event.verify() {
            Ok(event) => event,
            Err(fault) => return self.ok(&id, false, &format!("invalid: {fault}")),
        };
        if faults.forget {
            return self.ok(&id, true, "");
        }
        let mut hub = self.shared.hub();
        match hub.store.insert(event, now) {
            Insertion::New(stored) => {
                let counters = &self.shared.counters;
                counters.events_taken.fetch_add(1, Ordering::Relaxed);
                self.ok(&id, true, "");
                if !faults.no_live {
                    hub.deliver(&stored, &faults);
                }
            }
            Insertion::Duplicate => self.ok(&id, true, "duplicate: have this event"),
            Insertion::Superseded => self.ok(&id, true, "duplicate: have a newer event"),
            Insertion::Expired => self.ok(&id, false, "invalid: event expired"),
        }
    }

    /// Counts an event, and says whether there were too many in its minute.
    fn is_too_fast(&mut self, limit: Option<u32>, now: UnixTime) -> bool {
        let Some(limit) = limit else {
            return false;
        };
        if now.since(self.minute.0) >= 60 {
            self.minute = (now, 0);
        }
        self.minute.1 = self.minute.1.saturating_add(1);
        let too_fast = self.minute.1 > limit;
        if too_fast {
            let counter = &self.shared.counters.rate_limited;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        too_fast
    }

    fn request(&self, name: &str, filters: &[&RawValue]) {
        self.shared
            .counters
            .requests
            .fetch_add(1, Ordering::Relaxed);
        let Ok(name) = serde_json::from_str::<String>(name) else {
            return self.notice("error: a subscription id is a string");
        };
        let faults = self.faults();
        if let Some(reason) = &faults.close {
            return self.closed(&name, reason);
        }
        if faults.require_auth && !self.authenticated {
            self.challenge();
            return self.closed(&name, "auth-required: authenticate to read");
        }
        if name.is_empty()
            || name.len() > MAX_SUBSCRIPTION_NAME
            || filters.is_empty()
            || filters.len() > MAX_FILTERS
        {
            return self.closed(&name, "error: bad req: too many filters or a bad name");
        }
        let parsed: Result<Vec<Filter>, _> = filters
            .iter()
            .map(|filter| serde_json::from_str(filter.get()))
            .collect();
        let filters = match parsed {
            Ok(filters) => filters,
            Err(error) => return self.closed(&name, &format!("error: bad req: {error}")),
        };
        let max = faults.page.unwrap_or(MAX_LIMIT);
        let mut hub = self.shared.hub();
        let Some(connection) = hub.connections.get(&self.id) else {
            return;
        };
        if connection.subscriptions.len() >= MAX_SUBSCRIPTIONS
            && !connection.subscriptions.contains_key(&name)
        {
            return self.closed(&name, "error: too many concurrent REQs");
        }
        let mut sent = std::collections::HashSet::new();
        for filter in &filters {
            let mut found = hub.store.query(filter, self.shared.now(), max);
            if faults.shuffle {
                self.shared.dice.shuffle(&mut found);
            }
            for stored in found {
                if sent.insert(stored.event.id) {
                    connection.send_event(&name, &stored, &faults);
                }
            }
        }
        if !faults.no_eose {
            self.send(&serde_json::json!(["EOSE", name]));
        }
        hub.subscribe(self.id, &name, filters);
    }

    fn auth(&mut self, json: &str) {
        let Ok(event) = Event::from_json(json) else {
            return self.notice("invalid: not an event");
        };
        let id = event.id.to_string();
        let for_us = event.kind == KIND_AUTH
            && event.tag("challenge") == Some(&self.challenge)
            && event.tag("relay").and_then(|url| RelayUrl::parse(url).ok())
                == Some(self.url.clone())
            && event.created_at.plus(600) > (self.shared.clock)();
        if for_us && event.verify().is_ok() {
            self.authenticated = true;
            self.ok(&id, true, "");
        } else {
            self.ok(&id, false, "invalid: not this connection's challenge");
        }
    }

    fn faults(&self) -> Faults {
        self.shared.faults.borrow().clone()
    }

    fn challenge(&self) {
        self.send(&serde_json::json!(["AUTH", self.challenge]));
    }

    fn ok(&self, id: &str, accepted: bool, text: &str) {
        self.send(&serde_json::json!(["OK", id, accepted, text]));
    }

    fn closed(&self, name: &str, text: &str) {
        self.send(&serde_json::json!(["CLOSED", name, text]));
    }

    fn notice(&self, text: &str) {
        self.send(&serde_json::json!(["NOTICE", text]));
    }

    fn send(&self, message: &Value) {
        self.outgoing.send(message.to_string(), &self.faults());
    }
}
