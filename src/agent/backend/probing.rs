//! Trying relays: what an operator wants to know before relying on one, also without a running agent.
//!
//! Each relay is tried with a key made for the occasion, over two connections: one writes what agents
//! write (a message, an advert, the largest message there is), the other reads it back. One event is
//! left there; the next probe says whether it is still served.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::relays::{health_view, millis};
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::{RelaySetting, relay_by_hand};
use crate::agent::relay_health::RelayRecord;
use crate::keys::OwnKey;
use crate::nostr::event::{EventDraft, KIND_ADVERT};
use crate::nostr::information::{RelayLimits, describe};
use crate::nostr::link::{Link, LinkEvent, LinkOptions, PublishOutcome, RelayConfig, Timings};
use crate::nostr::outbox::{Refusal, Verdict, classify};
use crate::nostr::seal::{ConversationKeys, MAX_PLAINTEXT};
use crate::nostr::{EventId, Filter, RelayUrl, VerifiedEvent};
use crate::time::UnixTime;

/// Time one relay gets for each of: connection, answers, reading back. Unless told otherwise.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds after which a relay may drop what a probe wrote.
const PROBE_EXPIRY: u64 = 600;

/// Seconds after which it may drop the event that is left for the next probe.
const LEFT_EXPIRY: u64 = 90 * 86_400;

/// What a probe of one relay found that is worth remembering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The relay.
    pub url: RelayUrl,
    /// An event that was left there, where nothing of an earlier probe is.
    pub left: Option<EventId>,
    connected: bool,
    answer_ms: Option<u64>,
    clock_ahead_s: Option<i64>,
    limits: Option<RelayLimits>,
    reason: String,
}

impl Found {
    /// Adds it to what is known of the relay.
    pub fn keep(&self, known: &mut RelayRecord, now: UnixTime) {
        if self.connected {
            known.worked(now);
        } else {
            known.failed(now, &self.reason);
        }
        let detail = &mut known.detail;
        detail.left = self.left.map(|event| (event, now)).or(detail.left);
        detail.answer_ms = self.answer_ms.or(detail.answer_ms);
        detail.clock_ahead_s = self.clock_ahead_s.or(detail.clock_ahead_s);
        detail.limits = self.limits.or(detail.limits);
    }
}

/// Tries relays. Gives what was found, for people and to be remembered. An event of an earlier probe that is still
/// served goes on ageing.
pub async fn probe(
    settings: &[RelaySetting],
    args: &r::ProbeRelays,
    known: &[RelayRecord],
    now: UnixTime,
) -> Result<(v::RelayProbeView, Vec<Found>), Failure> {
    let urls: Vec<RelayUrl> = if args.urls.is_empty() {
        settings.iter().map(|s| s.entry.url.clone()).collect()
    } else {
        args.urls
            .iter()
            .map(|url| Ok(relay_by_hand(url)?.url))
            .collect::<Result<_, Failure>>()?
    };
    if urls.is_empty() {
        return Err(
            Failure::new(ErrorCode::NotFound, "there is no relay to probe")
                .remedy("name one, or add one with `btcr2-agent relay add <url>`"),
        );
    }
    let timeout = args.timeout_s.map_or(PROBE_TIMEOUT, Duration::from_secs);
    let probes = urls.into_iter().map(|url| {
        let before = known.iter().find(|known| *known.url() == url).cloned();
        probe_one(url, before, timeout, now)
    });
    let (relays, found) = join_all(probes).await.into_iter().unzip();
    Ok((v::RelayProbeView { now, relays }, found))
}

async fn probe_one(
    url: RelayUrl,
    before: Option<RelayRecord>,
    timeout: Duration,
    now: UnixTime,
) -> (v::ProbeView, Found) {
    let mut view = v::ProbeView {
        url: url.to_string(),
        connect_ms: None,
        name: None,
        software: None,
        wrote: None,
        read_back: None,
        answer_ms: None,
        kinds: Vec::new(),
        limits: None,
        clock_ahead_s: None,
        kept: None,
        wants_auth: false,
        wants_pow: 0,
        before: before.as_ref().map(health_view),
        notes: Vec::new(),
    };
    let Some(events) = probe_events(now) else {
        view.notes.push("no event could be made".into());
        let found = found(url, &view, None);
        return (view, found);
    };
    let asked = Instant::now();
    let (described, ()) = tokio::join!(
        describe(&url, timeout),
        write(&url, &events, timeout, &mut view)
    );
    match described.information {
        Ok(said) => {
            view.name = said.name.as_deref().map(PeerText::new);
            view.software = said.software.as_deref().map(PeerText::new);
            view.wants_auth |= said.limits.auth;
            view.wants_pow = view.wants_pow.max(said.limits.pow);
            view.limits = Some(said.limits);
        }
        Err(fault) => view.notes.push(PeerText::new(&fault.to_string())),
    }
    // The date was written between the question and now; half of that is the best guess.
    let passed = asked.elapsed().min(timeout).as_secs() / 2;
    view.clock_ahead_s = described
        .date
        .map(|date| date.0.cast_signed() - now.plus(passed).0.cast_signed());
    if view.connect_ms.is_some() {
        let left = before.and_then(|before| before.detail.left);
        read_back(&url, &events, left, timeout, &mut view).await;
    }
    let still = view.kept.is_some_and(|kept| kept.served);
    let event = events
        .first()
        .filter(|_| view.wrote == Some(true) && !still);
    let found = found(url, &view, event.map(|event| event.id));
    (view, found)
}

fn found(url: RelayUrl, view: &v::ProbeView, left: Option<EventId>) -> Found {
    Found {
        url,
        left,
        connected: view.connect_ms.is_some(),
        answer_ms: view.answer_ms,
        clock_ahead_s: view.clock_ahead_s,
        limits: view.limits,
        reason: view
            .notes
            .first()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

/// Connects and writes the events.
async fn write(
    url: &RelayUrl,
    events: &[VerifiedEvent],
    timeout: Duration,
    view: &mut v::ProbeView,
) {
    let started = Instant::now();
    let (link, mut heard) = open(url, timeout);
    match wait(&mut heard, started + timeout, |event| match event {
        LinkEvent::Connected { .. } => Some(Ok(())),
        LinkEvent::Disconnected { reason, .. } => Some(Err(reason)),
        _ => None,
    })
    .await
    {
        Some(Ok(())) => view.connect_ms = Some(millis(started.elapsed())),
        Some(Err(reason)) => view.notes.push(PeerText::new(&reason)),
        None => view.notes.push("no connection in time".into()),
    }
    if view.connect_ms.is_some() {
        let deadline = Instant::now() + timeout;
        for event in events {
            let answer = write_one(&link, &mut heard, event, deadline).await;
            view.kinds.push(v::KindProbeView {
                kind: event.kind,
                bytes: u32::try_from(event.to_json().len()).unwrap_or(u32::MAX),
                taken: match &answer {
                    Some(PublishOutcome::Accepted) => Some(true),
                    Some(PublishOutcome::Refused(_)) => Some(false),
                    _ => None,
                },
                served: None,
            });
            match answer {
                Some(PublishOutcome::Accepted) => {}
                Some(PublishOutcome::Refused(reason)) => note_refusal(view, event.kind, &reason),
                Some(PublishOutcome::Silent) | None => {
                    let note = format!("no answer to an event of kind {}", event.kind);
                    view.notes.push(PeerText::from(note));
                }
            }
        }
        view.wrote = view.kinds.first().map(|kind| kind.taken == Some(true));
        let state = link.relays().into_iter().next();
        view.answer_ms = state.and_then(|state| state.latency).map(millis);
    }
    link.shutdown().await;
}

/// One event at a time: some relays take five at once at most, and the latency is that of one.
async fn write_one(
    link: &Link,
    heard: &mut mpsc::Receiver<LinkEvent>,
    event: &VerifiedEvent,
    deadline: Instant,
) -> Option<PublishOutcome> {
    let _ = link.publish(event);
    wait(heard, deadline, |answer| match answer {
        LinkEvent::Published {
            event: id, outcome, ..
        } if id == event.id => Some(outcome),
        _ => None,
    })
    .await
}

fn note_refusal(view: &mut v::ProbeView, kind: u16, reason: &str) {
    match classify(reason) {
        Verdict::Refuses(Refusal::AuthRequired) => view.wants_auth = true,
        // It wants some, whatever it says.
        Verdict::Refuses(Refusal::ProofOfWork(bits)) => {
            view.wants_pow = view.wants_pow.max(bits.max(1));
        }
        _ => {}
    }
    view.notes
        .push(PeerText::from(format!("kind {kind}: {reason}")));
}

/// Reads back over another connection what was taken, and what an earlier probe left.
async fn read_back(
    url: &RelayUrl,
    events: &[VerifiedEvent],
    left: Option<(EventId, UnixTime)>,
    timeout: Duration,
    view: &mut v::ProbeView,
) {
    let taken = events.iter().zip(&view.kinds);
    let taken = taken.filter(|(_, kind)| kind.taken == Some(true));
    let mut ids: Vec<EventId> = taken.map(|(event, _)| event.id).collect();
    ids.extend(left.map(|(event, _)| event));
    if ids.is_empty() {
        return;
    }
    let (link, mut heard) = open(url, timeout);
    let drain = tokio::spawn(async move { while heard.recv().await.is_some() {} });
    // Four ids at most: some relays answer longer lists with nothing.
    let filter = Filter {
        ids: Some(ids),
        ..Filter::default()
    };
    let fetched = link.fetch(&filter, timeout).await;
    link.shutdown().await;
    drain.abort();
    let serves = |id: EventId| fetched.events.iter().any(|(_, found)| found.id == id);
    for (kind, event) in view.kinds.iter_mut().zip(events) {
        if kind.taken == Some(true) {
            kind.served = Some(serves(event.id));
        }
    }
    view.read_back = view.kinds.first().and_then(|kind| kind.served);
    if let Some((_, reason)) = fetched.incomplete.first() {
        view.wants_auth |= reason.contains("auth-required");
        view.notes.push(PeerText::new(reason));
    } else {
        let hidden = view.kinds.iter().filter(|kind| kind.served == Some(false));
        let hidden: Vec<u16> = hidden.map(|kind| kind.kind).collect();
        for kind in hidden {
            let note = format!("it took an event of kind {kind} and does not serve it");
            view.notes.push(PeerText::from(note));
        }
        view.kept = left.map(|(event, since)| v::KeptView {
            since,
            served: serves(event),
        });
    }
}

fn open(url: &RelayUrl, timeout: Duration) -> (Link, mpsc::Receiver<LinkEvent>) {
    let options = LinkOptions {
        auth: None,
        timings: Timings {
            connect: timeout,
            ok: timeout,
            ..Timings::default()
        },
    };
    Link::start(vec![RelayConfig::configured(url.clone())], options)
}

async fn wait<T>(
    events: &mut mpsc::Receiver<LinkEvent>,
    deadline: Instant,
    mut pick: impl FnMut(LinkEvent) -> Option<T>,
) -> Option<T> {
    while let Ok(Some(event)) = timeout_at(deadline, events.recv()).await {
        if let Some(found) = pick(event) {
            return Some(found);
        }
    }
    None
}

/// What agents write: a message, which stays for the next probe; an advert, which nobody takes for one;
/// the largest message there is.
fn probe_events(now: UnixTime) -> Option<Vec<VerifiedEvent>> {
    let mut secret = zeroize::Zeroizing::new([0; 32]);
    rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, secret.as_mut_slice());
    let key = OwnKey::from_bytes(&secret).ok()?;
    let keys = ConversationKeys::new();
    let seal = |text: &[u8], expires| {
        let expires = now.plus(expires);
        keys.seal_directed(&key, key.public(), text, now, expires)
            .ok()
    };
    let tag = |name: &str, value: String| vec![name.to_owned(), value];
    let advert = EventDraft {
        created_at: now,
        kind: KIND_ADVERT,
        tags: vec![
            tag("d", "probe".to_owned()),
            tag("t", "btcr2-probe".to_owned()),
            tag("expiration", now.plus(PROBE_EXPIRY).to_string()),
        ],
        content: "probe".to_owned(),
    };
    Some(vec![
        seal(b"probe", LEFT_EXPIRY)?,
        advert.sign(&key).ok()?,
        seal(&[b'x'; MAX_PLAINTEXT], PROBE_EXPIRY)?,
    ])
}
