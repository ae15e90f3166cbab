//! What is left of agents: every nonce and partial signature they ever said, their stores, their signals.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, Transaction, Txid};
use btcr2_agent::hash::{CohortId, SignalBytes};
use btcr2_agent::keys::{KeySet, NostrKey, OwnKey};
use btcr2_agent::nostr::Event;
use btcr2_agent::nostr::envelope::Envelope;
use btcr2_agent::nostr::seal::ConversationKeys;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::Artifact;
use btcr2_agent::protocol::message::{Message, Partials, SignRequest};
use btcr2_agent::protocol::nonce_audit::{NonceAudit, verify_nonces};
use btcr2_agent::protocol::participant::ParticipantInput;
use btcr2_agent::protocol::set::{CohortSet, key_set};
use btcr2_agent::protocol::terms::Terms;
use btcr2_agent::protocol::{Round, SessionId};
use btcr2_agent::store::{Role, Store};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite;

use super::world::{AGGREGATOR, Cohort, MEMBERS, World};

/// What was read, so that a test can say that it was something.
#[derive(Debug, Default)]
pub struct Found {
    /// Different partial signatures.
    pub partials: usize,
    /// Partial signatures verified against the nonce they name.
    pub verified: usize,
}

/// Everything said in a cohort.
#[derive(Default)]
struct Said {
    audit: NonceAudit,
    requests: BTreeMap<SessionId, Vec<SignRequest>>,
    partials: Vec<(NostrKey, Partials)>,
    set: Option<CohortSet>,
    keys: Option<KeySet>,
}

impl Said {
    fn message(&mut self, cohort: CohortId, author: NostrKey, message: &Message) {
        self.audit.message(cohort, author, message);
        match message {
            Message::SignRequest(request) => {
                let session = SessionId::of_round(cohort, request.round, request.attempt);
                let known = self.requests.entry(session).or_default();
                if !known.contains(request) {
                    known.push(request.clone());
                }
            }
            Message::PartialSignature(body) => self.partials.push((author, body.content.clone())),
            Message::CohortSet(set) => self.set = Some(set.clone()),
            _ => {}
        }
    }
}

/// Reads all that was ever said of nonces in a cohort, from every log, every outbox and the relay, and checks that no
/// nonce is in two places; that every store is whole; and that a round has one signal and one transaction, whoever
/// kept it and however many sessions it took.
pub fn check(world: &World, cohort: &Cohort) -> Found {
    let id = cohort.key();
    let mut said = Said::default();
    for actor in &world.actors {
        let store = actor.store();
        store.check().unwrap();
        read_log(&store, id, &mut said);
    }
    let aggregator = world.actors[AGGREGATOR].root().identity();
    for actor in &world.actors {
        for row in actor.store().view().outbox_of(id).unwrap() {
            read_event(&row.event, id, &aggregator, &mut said);
        }
    }
    let served = on_relay(&world.relay, aggregator.public());
    for event in &served {
        read_event(&event.to_string(), id, &aggregator, &mut said);
    }
    assert_eq!(said.audit.reused(), [], "a nonce is in two places");
    let rows = world.actors[AGGREGATOR].store().view().cohorts().unwrap();
    let row = rows.iter().find(|row| row.cohort == id).unwrap();
    let (terms, _) = Terms::parse(&row.terms).unwrap();
    said.keys = Some(key_set(&terms, &said.set.as_ref().unwrap().keys).unwrap());
    let verified = verify(id, &said);
    check_signals(world, cohort, &said);
    let (nonces, partials) = said.audit.seen();
    assert!(nonces >= partials && !served.is_empty(), "{nonces} nonces");
    Found { partials, verified }
}

fn read_log(store: &Store, id: CohortId, said: &mut Said) {
    let view = store.view();
    for row in view.cohorts().unwrap() {
        if row.cohort != id {
            continue;
        }
        view.replay::<btcr2_agent::store::StoreError>(id, row.role, |entry| {
            if ["channel", "relay_hints", "alarms_seen"].contains(&entry.kind.as_str()) {
                return Ok(());
            }
            match row.role {
                Role::Aggregator => {
                    if let Ok(AggregatorInput::Message { from, message }) =
                        serde_json::from_str(&entry.input)
                    {
                        said.message(id, from, &message);
                    }
                }
                Role::Participant => {
                    let seat = row.seat_key.unwrap();
                    match serde_json::from_str(&entry.input).unwrap() {
                        ParticipantInput::Message { from, message } => {
                            said.message(id, from, &message);
                        }
                        ParticipantInput::Prepared(made) => {
                            said.audit.offered(seat, made.session, &made.nonces);
                        }
                        ParticipantInput::Signed(signed) => {
                            let next = SessionId {
                                attempt: signed.session.attempt + 1,
                                ..signed.session
                            };
                            said.audit.offered(seat, next, &signed.spares);
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    }
}

/// Reads an event to the aggregator or of it: what members say of nonces, and what they were asked to sign. After a
/// snapshot no log has it any more.
fn read_event(json: &str, id: CohortId, aggregator: &OwnKey, said: &mut Said) {
    let event = Event::from_json(json).unwrap().verify().unwrap();
    let keys = ConversationKeys::new();
    let opened = match event.author == aggregator.public() {
        true => keys.open_own(aggregator, &event),
        false => keys.open_directed(aggregator, &event),
    };
    let Ok(plaintext) = opened else { return };
    let envelope = Envelope::decode(&plaintext).unwrap();
    if envelope.cohort != id {
        return;
    }
    let message = envelope.into_message();
    if let Ok(message) = Message::parse(&message.kind, &message.body) {
        said.message(id, event.author, &message);
    }
}

/// Every event that the relay has for the aggregator.
fn on_relay(url: &str, aggregator: NostrKey) -> Vec<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut events = Vec::new();
        let mut until: Option<u64> = None;
        // Relays cap what one question gets: on from the oldest.
        loop {
            let mut filter = json!({"kinds": [8327], "#p": [aggregator.to_string()], "limit": 500});
            if let Some(until) = until {
                filter["until"] = until.into();
            }
            let question = json!(["REQ", "all", filter]).to_string();
            socket
                .send(tungstenite::Message::text(question))
                .await
                .unwrap();
            let before = events.len();
            loop {
                let frame = socket.next().await.unwrap().unwrap();
                let answer: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
                match answer[0].as_str().unwrap() {
                    "EVENT" if !events.contains(&answer[2]) => events.push(answer[2].clone()),
                    "EVENT" => {}
                    "EOSE" => break,
                    _ => panic!("{answer}"),
                }
            }
            until = events
                .iter()
                .map(|e| e["created_at"].as_u64().unwrap())
                .min();
            if events.len() == before {
                return events;
            }
        }
    })
}

/// Verifies every partial signature with the nonce it names, in the session that asked for it.
fn verify(id: CohortId, said: &Said) -> usize {
    let keys = said.keys.as_ref().unwrap();
    let mut verified = 0;
    let mut known = BTreeSet::new();
    for (seat, partials) in &said.partials {
        let session = SessionId::of_round(id, partials.round, partials.attempt);
        let requests = said.requests.get(&session).unwrap();
        assert_eq!(requests.len(), 1, "{session} was asked for in two ways");
        if known.insert((*seat, session)) {
            let checked = verify_nonces(keys, seat, &requests[0], partials);
            verified += checked.unwrap_or_else(|label| panic!("{session}: {label} of {seat}"));
        }
    }
    verified
}

/// What the members of a cohort were asked to sign in a round.
#[derive(Debug, Clone, PartialEq)]
struct Asked {
    txids: BTreeSet<Txid>,
    spent: OutPoint,
    signal: SignalBytes,
}

fn check_signals(world: &World, cohort: &Cohort, said: &Said) {
    let id = cohort.key();
    // Every session of a round asks for the same transactions, and so for the same 32 bytes: unless its signal was
    // replaced, and then for others with these bytes that spend the same.
    let mut asked: BTreeMap<Round, Asked> = BTreeMap::new();
    for request in said.requests.values().flatten() {
        let transactions = request.rungs.iter().map(|rung| &rung.tx.0);
        let announced = &request.rungs[0].tx.0.output.last().unwrap().script_pubkey;
        let this = Asked {
            txids: transactions.map(Transaction::compute_txid).collect(),
            spent: request.rungs[0].tx.0.input[0].previous_output,
            signal: SignalBytes::from_bytes(announced.as_bytes()[2..].try_into().unwrap()),
        };
        let first = asked.entry(request.round).or_insert_with(|| this.clone());
        if cohort.replaced.contains(&request.round.0) {
            first.txids.extend(&this.txids);
            assert_eq!((first.signal, first.spent), (this.signal, this.spent));
        } else {
            assert_eq!(*first, this, "round {} changed", request.round);
        }
    }
    // Rule 10: what was announced keeps its bytes from before the first partial signature on.
    let announced = world.actors[MEMBERS[0]].store();
    for update in announced.view().updates_of(&cohort.dids[0]).unwrap() {
        let signed = ["signed", "confirmed", "final"].contains(&update.state.as_str());
        assert!(
            update.pinned || !signed,
            "version {}",
            update.target_version
        );
    }
    for actor in [AGGREGATOR, MEMBERS[0], MEMBERS[1]].map(|n| &world.actors[n]) {
        let store = actor.store();
        for row in store.view().artifacts_of_cohort(id, Round(0)).unwrap() {
            let (round, signal) = match serde_json::from_slice(&row.bytes).unwrap() {
                Artifact::SmtProof { round, signal, .. }
                | Artifact::LeafSet { round, signal, .. }
                | Artifact::SignedTransaction { round, signal, .. } => (round, signal),
                _ => continue,
            };
            if let Some(asked) = asked.get(&round) {
                assert_eq!(signal, asked.signal, "{} kept another signal", actor.name);
            }
        }
        for row in store.view().transactions_of(id).unwrap() {
            // What is signed through the leaf takes no session.
            let through_leaf = cohort.stalled.contains(&row.round.0);
            let asked = asked.get(&row.round).filter(|_| !through_leaf);
            let known = asked.map(|asked| asked.txids.contains(&row.txid));
            assert!(known.unwrap_or(through_leaf), "{}", actor.name);
        }
    }
    // What the chain has is what the aggregator's store says it has.
    let store = world.actors[AGGREGATOR].store();
    for txid in &cohort.confirmed {
        let row = store.view().transaction(txid.parse().unwrap()).unwrap();
        assert_eq!(row.unwrap().state, "confirmed", "{txid}");
    }
}
