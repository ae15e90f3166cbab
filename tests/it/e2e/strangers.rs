//! What outsiders do at the relay while a round is open: everybody ignores it, counts it, and finishes.

use btcr2_agent::agent::What;
use btcr2_agent::hash::CohortId;
use btcr2_agent::keys::{NostrKey, OwnKey};
use btcr2_agent::nostr::VerifiedEvent;
use btcr2_agent::nostr::envelope::{Envelope, Incarnation, Message};
use btcr2_agent::nostr::event::{Event, EventDraft, KIND_DIRECTED};
use btcr2_agent::nostr::filter::Filter;
use btcr2_agent::nostr::link::{Link, LinkOptions, RelayConfig};
use btcr2_agent::nostr::seal::ConversationKeys;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::Role;
use btcr2_agent::time::UnixTime;
use serde_json::json;

use super::play::{PATIENCE, POLL, Play, eventually};

fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime(since.unwrap().as_secs())
}

/// A well-formed message of somebody who has no part in the cohort.
fn message(from: &OwnKey, to: NostrKey, cohort: CohortId, kind: &str, seq: u64) -> VerifiedEvent {
    let body = match kind {
        "leave" => json!({ "even_if_frozen": true }),
        "ended" => json!({ "why": "cancelled" }),
        "round_request" => json!({ "pending": 3 }),
        "opt_in" => json!({ "terms": cohort }),
        "release" => json!({ "reason": "go" }),
        // The first of many pieces that never come.
        "chunk" => json!({
            "sha256": "5a".repeat(32),
            "index": 0,
            "count": 100,
            "data": "A".repeat(36_000),
        }),
        _ => unreachable!(),
    };
    let message = Message::new(kind, &body).unwrap();
    let mut envelope = Envelope::new(cohort, Incarnation(1), seq, Vec::new(), message);
    let plaintext = envelope.encode().unwrap();
    ConversationKeys::new()
        .seal_directed(from, to, &plaintext, now(), now().plus(3_600))
        .unwrap()
}

impl Play {
    /// Waits until an agent has counted so many messages for nothing, for this reason.
    async fn ignored(&self, actor: usize, reason: &'static str, at_least: u64) {
        let search = async {
            loop {
                let counted = self
                    .ask(actor, move |agent| Ok(agent.ignored().get(reason).copied()))
                    .await;
                if counted.unwrap_or(0) >= at_least {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(PATIENCE, search).await.is_err() {
            let all = self.ask(actor, |agent| Ok(agent.ignored().clone())).await;
            panic!("agent {actor} has not ignored {reason} {at_least} times: {all:?}");
        }
    }

    /// Waits until an agent's connection has dropped a forged event.
    async fn has_dropped_forgeries(&self, actor: usize) {
        let link = self.stage.actors[actor].handle.link();
        eventually("a forgery to be dropped", || {
            link.relays().iter().any(|relay| relay.forged > 0)
        })
        .await;
    }
}

#[tokio::test]
async fn forgeries_and_replays_in_mid_round_count_for_nothing() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(4).await;
        let mut company = play.found(beacon, 0, &[1, 2, 3]).await;
        let dids = play.create_dids(&mut company, &[1, 2, 3]).await;
        let mark = play.mark();
        let updates = play.queue(&company, &dids[..2]).await;
        play.stage.kill(3).await.unwrap();
        let round = play.open_round(&mut company).await;
        play.responses(&company, mark, 2).await;

        // The round is open and waits for member 3. Now come the others.
        let stranger = OwnKey::from_bytes(&[0x5a; 32]).unwrap();
        let relay = RelayConfig::configured(play.stage.relay.url().clone());
        let (link, _reports) = Link::start(vec![relay], LinkOptions::default());
        let aggregator = play.stage.actors[0].handle.identity();
        let seats: Vec<NostrKey> = [1, 2]
            .iter()
            .map(|member| {
                let store = play.file(*member);
                let row = store.view().cohort(company.id, Role::Participant).unwrap();
                row.unwrap().seat_key.unwrap()
            })
            .collect();

        // Well-formed messages of a stranger.
        for (seq, kind) in (1..).zip(["leave", "round_request"]) {
            let event = message(&stranger, aggregator, company.id, kind, seq);
            link.publish(&event).unwrap();
        }
        for seat in &seats {
            for (seq, kind) in (1..).zip(["ended", "release"]) {
                let event = message(&stranger, *seat, company.id, kind, seq);
                link.publish(&event).unwrap();
            }
        }
        let piece = message(&stranger, aggregator, company.id, "chunk", 3);
        link.publish(&piece).unwrap();
        play.ignored(0, "not_a_member", 2).await;
        play.ignored(0, "chunk_of_a_stranger", 1).await;
        play.ignored(1, "not_the_aggregator", 2).await;
        play.ignored(2, "not_the_aggregator", 2).await;

        // Everything that was said so far, once more; and once more with a stranger as its author.
        let said = play.stage.relay.stored(&Filter::kind(KIND_DIRECTED));
        assert!(said.len() > 10);
        for event in &said {
            play.stage.relay.inject(event);
        }
        let to_aggregator: Vec<&Event> = said
            .iter()
            .filter(|event| event.tag("p") == Some(&aggregator.to_string()))
            .filter(|event| event.author != stranger.public())
            .collect();
        for event in &to_aggregator {
            let stolen = EventDraft {
                created_at: event.created_at,
                kind: event.kind,
                tags: event.tags.clone(),
                content: event.content.clone(),
            };
            link.publish(&stolen.sign(&stranger).unwrap()).unwrap();
        }
        let stolen = u64::try_from(to_aggregator.len()).unwrap();
        assert!(stolen >= 3);
        play.ignored(0, "undecryptable", stolen).await;

        // Others' names under a stranger's signature: to the aggregator as its members, to members and on
        // the channel as the aggregator.
        let by_aggregator = said.iter().filter(|event| event.author == aggregator);
        let mut recipients: Vec<NostrKey> = by_aggregator
            .filter_map(|event| event.tag("p")?.parse().ok())
            .collect();
        recipients.sort_unstable();
        recipients.dedup();
        assert_eq!(recipients.len(), 4, "three seats and the channel");
        let as_aggregator = recipients.iter().map(|to| (aggregator, *to, "ended"));
        let as_member = seats.iter().map(|seat| (*seat, aggregator, "leave"));
        for (author, to, kind) in as_aggregator.chain(as_member) {
            let mut event = message(&stranger, to, company.id, kind, 1).into_inner();
            event.author = author;
            event.id = event.computed_id();
            assert!(event.clone().verify().is_err());
            play.stage.relay.inject(&event);
        }
        for actor in 0..3 {
            play.has_dropped_forgeries(actor).await;
        }

        // Nobody has moved: the round ends as if nothing had been.
        play.resume(&[3]).await;
        play.finish_round(&mut company, round, mark, updates).await;
        let lost = play.seen[mark..]
            .iter()
            .any(|(_, event)| matches!(event.what, What::Report(Report::SessionLost { .. })));
        assert!(!lost);
        play.round(&mut company, &dids[2..]).await;
        link.shutdown().await;
        play.close().await;
    }
}

/// Keys that each ask for a seat once, and send what nobody can read.
const STRANGERS: u64 = 1_000;

/// Refusals in a minute (agent/quota.rs), and the flood lasts into a second and a third one at most.
const REFUSALS: usize = 90;

#[tokio::test]
async fn a_round_goes_on_in_a_flood_of_strangers() {
    let mut play = Play::open(3).await;
    // The operator is told of requests that are refused.
    play.forgiving = true;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids).await;
    play.stage.kill(2).await.unwrap();
    let round = play.open_round(&mut company).await;
    play.responses(&company, mark, 1).await;

    let aggregator = play.stage.actors[0].handle.identity();
    let sent = |play: &Play| {
        let sent = play.stage.relay.stored(&Filter::kind(KIND_DIRECTED));
        sent.iter()
            .filter(|event| event.author == aggregator)
            .count()
    };
    let before = sent(&play);
    let cohort = company.id;
    let log = |play: &Play| {
        let store = play.file(0);
        let last = store.view().last_seq(cohort, Role::Aggregator);
        last.unwrap()
    };
    let logged = log(&play);
    for n in 0..STRANGERS {
        let mut secret = [0x5a; 32];
        secret[..8].copy_from_slice(&n.to_be_bytes());
        let stranger = OwnKey::from_bytes(&secret).unwrap();
        let asks = message(&stranger, aggregator, company.id, "opt_in", 1);
        let mut garbage = EventDraft {
            created_at: asks.created_at,
            kind: asks.kind,
            tags: asks.tags.clone(),
            content: asks.content.clone(),
        };
        garbage.content.replace_range(40..44, "AAAA");
        play.stage.relay.inject(&garbage.sign(&stranger).unwrap());
        play.stage.relay.inject(&asks);
        if n == STRANGERS / 2 {
            // In the midst of it the last member comes back, and the round is signed.
            play.resume(&[2]).await;
        }
    }
    play.finish_round(&mut company, round, mark, updates).await;
    play.ignored(0, "refused", STRANGERS).await;
    play.ignored(0, "undecryptable", STRANGERS).await;

    // They were heard, few were answered, and nothing of it is kept.
    let told = play
        .seen
        .iter()
        .filter(|(_, event)| matches!(event.what, What::Report(Report::RequestRefused { .. })));
    let told = told.count();
    assert!((1..=REFUSALS).contains(&told), "{told} refusals");
    let answered = sent(&play) - before;
    assert!(answered < REFUSALS + 60, "{answered} events");
    let grown = log(&play) - logged;
    assert!(grown < 60, "{grown} entries");
    play.round(&mut company, &dids).await;
    play.close().await;
}
