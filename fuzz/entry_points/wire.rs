//! Targets over what comes from relays, aggregators and members.

use btcr2_agent::keys::{NostrKey, OwnKey};
use btcr2_agent::lookup::recording::Recording;
use btcr2_agent::network::Network;
use btcr2_agent::nostr::advert::{self, ShareLink};
use btcr2_agent::nostr::chunks::Assembler;
use btcr2_agent::nostr::envelope::{Envelope, Message as Inner};
use btcr2_agent::nostr::event::KIND_ADVERT;
use btcr2_agent::nostr::information::RelayInformation;
use btcr2_agent::nostr::lanes::LaneId;
use btcr2_agent::nostr::policy::{MAX_ADVERTISED, RelayUrl, advertised_relays};
use btcr2_agent::nostr::{Event, EventDraft, VerifiedEvent, relay_list};
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::effect::Step;
use btcr2_agent::protocol::message::Message;
use btcr2_agent::protocol::participant::{Decline, Participant, ParticipantInput, SigningPolicy};
use btcr2_agent::protocol::terms::Terms;
use btcr2_agent::resolver::ResolutionOptions;
use btcr2_agent::time::UnixTime;
use serde::de::DeserializeOwned;

/// The longest log that is replayed, in inputs.
const MAX_INPUTS: usize = 400;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

fn own() -> OwnKey {
    OwnKey::from_bytes(&[7; 32]).expect("a valid secret")
}

/// The event with its content and tags, but by a key of ours, so that what is behind the signature is reached.
fn signed(event: &Event) -> Option<VerifiedEvent> {
    let draft = EventDraft {
        created_at: event.created_at,
        kind: event.kind,
        tags: event.tags.clone(),
        content: event.content.clone(),
    };
    draft.sign(&own()).ok()
}

/// A Nostr event: what is read is written the same; and an advert or a relay list in it is read or refused.
pub fn event(data: &[u8]) -> bool {
    let Some(Ok(event)) = text(data).map(Event::from_json) else {
        return false;
    };
    let again = Event::from_json(&event.to_json()).expect("written by this library");
    assert_eq!(again, event);
    let valid = event.clone().verify().is_ok();
    if let Some(mine) = signed(&event) {
        assert_eq!(mine.computed_id(), mine.id);
        let hosts = relay_list::reads(&mine, false);
        assert!(hosts.len() <= MAX_ADVERTISED);
        if let Ok(advert) = advert::decode(&mine, false) {
            assert_eq!(mine.kind, KIND_ADVERT);
            assert_eq!(advert.cohort, advert::cohort_id(&advert.content));
            assert!(advert.relays.len() <= MAX_ADVERTISED);
            if let Ok((terms, id)) = Terms::parse(&advert.content) {
                assert_eq!((terms.cohort_id(), id), (advert.cohort, advert.cohort));
            }
        }
    }
    valid
}

/// The plaintext of a message: strict, and the message inside as well; chunks are joined or refused.
pub fn envelope(data: &[u8]) -> bool {
    let Ok(mut envelope) = Envelope::decode(data) else {
        return false;
    };
    let bytes = envelope.encode().expect("it was in order");
    let again = Envelope::decode(&bytes).expect("written by this library");
    assert_eq!(again.acks, envelope.acks);
    let lane = LaneId {
        author: own().public(),
        recipient: own().public(),
        cohort: envelope.cohort,
    };
    let mut assembler = Assembler::default();
    let inner = envelope.into_message();
    match assembler.accept(lane, inner) {
        Ok(Some(inner)) => body(&inner),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// `{type, body}`: strict, and what is read is written the same.
pub fn message(data: &[u8]) -> bool {
    Inner::from_json(data).is_ok_and(|inner| body(&inner))
}

fn body(inner: &Inner) -> bool {
    let Ok(message) = Message::parse(&inner.kind, &inner.body) else {
        return false;
    };
    assert_eq!(message.type_name(), inner.kind);
    let written = message.body().expect("it was read");
    let again = Message::parse(&inner.kind, &written).expect("written by this library");
    assert_eq!(again, message);
    true
}

/// Terms: canonical or refused, and the cohort's id is their hash.
pub fn terms(data: &[u8]) -> bool {
    let Some(Ok((terms, id))) = text(data).map(Terms::parse) else {
        return false;
    };
    assert_eq!(terms.canonical().as_bytes(), data);
    assert_eq!(terms.cohort_id(), id);
    true
}

/// A share link: what is read leads to hosts that may be dialled, and is written and read the same.
pub fn share_link(data: &[u8]) -> bool {
    let Some(Ok(link)) = text(data).map(|text| ShareLink::decode(text, false)) else {
        return false;
    };
    assert!(link.relays.len() <= MAX_ADVERTISED);
    let written = link.encode().expect("it was read");
    let again = ShareLink::decode(&written, false).expect("written by this library");
    assert_eq!((again.cohort, again.author), (link.cohort, link.author));
    assert_eq!(again.relays, link.relays);
    true
}

/// A relay's address: what is read stands for itself; what an advert may name is `wss`.
pub fn relay_url(data: &[u8]) -> bool {
    let Some(text) = text(data) else { return false };
    let Ok(url) = RelayUrl::parse(text) else {
        return false;
    };
    assert_eq!(RelayUrl::parse(url.as_str()).as_ref(), Ok(&url));
    for dialled in advertised_relays([text], false) {
        assert!(dialled.as_str().starts_with("wss://"));
    }
    true
}

/// What a relay tells of itself (NIP-11).
pub fn relay_information(data: &[u8]) -> bool {
    let Ok(information) = RelayInformation::parse(data) else {
        return false;
    };
    assert!(information.nips.len() <= 200);
    true
}

/// Recorded chain data: what is read is written and read the same.
pub fn recording(data: &[u8]) -> bool {
    let Ok(recording) = Recording::parse(data, Network::Regtest) else {
        return false;
    };
    let again = Recording::parse(recording.to_json().as_bytes(), Network::Regtest);
    assert_eq!(
        again.expect("written by this library").to_json(),
        recording.to_json()
    );
    true
}

/// The resolution options of a request.
pub fn options(data: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice(data) else {
        return false;
    };
    ResolutionOptions::from_json(&value).is_ok()
}

/// The log of a member: its terms, its key, and one `[time, input]` a line. Replaying it twice gives the same steps.
pub fn participant(data: &[u8]) -> bool {
    replay(data, |terms, me| {
        let policy = SigningPolicy {
            max_fee_rate: 50,
            max_fee_sat: 50_000,
            decline: Decline::NoUpdate,
        };
        let mut core = Participant::new(terms, me, policy);
        move |now, input: ParticipantInput| core.handle(now, input)
    })
}

/// The log of an aggregator: as of [`participant`].
pub fn aggregator(data: &[u8]) -> bool {
    replay(data, |terms, _| {
        let mut core = Aggregator::new(terms);
        move |now, input: AggregatorInput| core.handle(now, input)
    })
}

/// Feeds two cores the same inputs. Lines that can not be read are left out, so that damage hits one input at a time;
/// whether anything at all was fed comes back.
fn replay<I, C>(data: &[u8], core: impl Fn(Terms, NostrKey) -> C) -> bool
where
    I: DeserializeOwned + Clone,
    C: FnMut(UnixTime, I) -> Step,
{
    let Some(text) = text(data) else { return false };
    let mut lines = text.lines();
    let Some((Ok((terms, _)), Some(Ok(me)))) = lines.next().map(|terms| {
        (
            Terms::parse(terms),
            lines.next().map(str::parse::<NostrKey>),
        )
    }) else {
        return false;
    };
    let (mut one, mut two) = (core(terms.clone(), me), core(terms, me));
    let mut fed = false;
    for line in lines.take(MAX_INPUTS) {
        let Ok((now, input)) = serde_json::from_str::<(UnixTime, I)>(line) else {
            continue;
        };
        assert_eq!(one(now, input.clone()), two(now, input));
        fed = true;
    }
    fed
}
