//! Seats that the words alone lead to.
//!
//! A seat's key is derived from the cohort's id, so whoever has the words and sees an advert knows the key that its seat
//! would have. A home that was made again out of its words asks its relays for adverts, then for what these keys wrote
//! or were sent. Where there is a trace, the membership begins anew: the aggregator is asked for what it told the seat,
//! and the DIDs behind the indexes it names are derived again.
//!
//! What is left out: cohorts whose advert no relay has any more, unless they were joined by an invitation that relays
//! still have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::creating::NewDid;
use super::dids::{beacon_kind, binding_state, did_state, parse_document};
use super::error::AgentError;
use super::node::{Machine, Node, NodeId, NodeInput};
use super::recovery::{KEYS_TRIED, key_did};
use super::routing::lists_beacon_of;
use super::runtime::{Agent, Internal};
use crate::did::initial::INITIAL_KEY;
use crate::did::{Did, Document, GenesisDocument, KeyAddress, initial_key_document};
use crate::fail_point;
use crate::hash::{CohortId, SmtIndex};
use crate::keys::NostrKey;
use crate::nostr::advert;
use crate::nostr::envelope::Envelope;
use crate::nostr::event::{Event, KIND_DIRECTED};
use crate::nostr::link::{AdvertQuery, Fetched};
use crate::nostr::{Filter, VerifiedEvent};
use crate::protocol::ids::Round;
use crate::protocol::participant::{ParticipantInput, Regained};
use crate::protocol::terms::{Funding, Terms};
use crate::store::{AdvertRow, Binding, MetaKey, Role, StoreError, Tx};
use crate::time::UnixTime;

/// When the store was made out of the words alone; only such a store has it.
const WORDS_ALONE: MetaKey = MetaKey::new("made_of_words_at");

/// How long seats are looked for: relays that were away may be back, and invitations come in meanwhile.
const SOUGHT_FOR_SECONDS: u64 = 7 * 86_400;

/// Seconds until relays are asked again that were not connected.
const RETRY_SECONDS: u64 = 5;

/// Seconds between the first two searches that were answered: what the first one could not know has come by then.
const SECOND_SEARCH_SECONDS: u64 = 60;

/// Seconds between further searches.
const SEARCH_EVERY_SECONDS: u64 = 3_600;

/// How long relays get to answer one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Keys that one question names: relays limit its length.
const KEYS_AT_ONCE: usize = 200;

/// Keys of DIDs that are tried after the last one that led to an index of the seat.
const GAP: u32 = 100;

/// The search for seats of a store that was made out of the words alone.
#[derive(Debug, Default)]
pub(super) struct SeatSearch {
    /// Until when; `None`: there is nothing to look for.
    until: Option<UnixTime>,
    /// When the relays are asked next; `None` while they are.
    next: Option<UnixTime>,
    answered: bool,
}

/// What relays said to a search.
#[derive(Debug)]
pub(super) enum Found {
    Adverts(Fetched),
    Traces(Fetched),
}

/// A cohort of which this agent may be a member.
struct Candidate {
    row: AdvertRow,
    terms: Terms,
    seat: NostrKey,
}

/// Notes that a store was made out of the words alone.
pub(super) fn mark_words_alone(tx: &Tx<'_>, now: UnixTime) -> Result<(), StoreError> {
    tx.set_meta(WORDS_ALONE, &now.to_string())
}

impl Agent {
    /// After a start, before anything is handled: whether seats are looked for.
    pub(super) fn begin_seat_search(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        let text = self.store.view().meta(WORDS_ALONE)?;
        let made = text.and_then(|text| text.parse().ok()).map(UnixTime);
        let until = made.map(|made| made.plus(SOUGHT_FOR_SECONDS));
        self.seats.until = until.filter(|until| now < *until);
        self.seats.next = self.seats.until.and(Some(now));
        for id in self.reseated() {
            self.post.lanes.begin_anywhere(id.0);
        }
        Ok(())
    }

    /// After a start: what was learned of a seat and not followed up is.
    pub(super) fn resume_seats(&mut self) -> Result<(), AgentError> {
        for id in self.reseated() {
            if let Some(input) = self.regain(id)? {
                self.feed(id, input)?;
            }
        }
        Ok(())
    }

    /// Memberships of which the store knew nothing when it was made.
    fn reseated(&self) -> Vec<NodeId> {
        let reseated = |node: &&Node| matches!(&node.machine, Machine::Participant(machine) if machine.is_reseated());
        self.nodes
            .values()
            .filter(reseated)
            .map(|node| node.id)
            .collect()
    }

    /// Whether relays have still to be asked for seats.
    pub(super) fn seeks_seats(&self) -> bool {
        self.seats.until.is_some() && !self.seats.answered
    }

    /// Asks relays for adverts, when that is due.
    pub(super) fn seek_seats(&mut self, now: UnixTime) {
        if self.seats.until.is_some_and(|until| until <= now) {
            self.seats = SeatSearch::default();
        }
        if self.seats.next.is_none_or(|at| at > now) {
            return;
        }
        self.seats.next = None;
        let query = AdvertQuery {
            networks: self.chains.keys().copied().collect(),
            ..AdvertQuery::default()
        };
        let (link, internal) = (self.link.clone(), self.internal.clone());
        tokio::spawn(async move {
            let fetched = link.fetch(&query.filter(), ANSWER_WITHIN).await;
            let _ = internal.send(Internal::Seats(Found::Adverts(fetched)));
        });
    }

    /// What relays said.
    pub(super) fn seats_found(&mut self, found: Found) -> Result<(), AgentError> {
        match found {
            Found::Adverts(fetched) => {
                for (relay, event) in &fetched.events {
                    self.advert(relay, event)?;
                }
                if self.is_unanswered(&fetched) {
                    return Ok(());
                }
                self.seek_traces()
            }
            Found::Traces(fetched) => {
                let unanswered = self.is_unanswered(&fetched);
                let began = self.follow_traces(&fetched)?;
                if unanswered {
                    return Ok(());
                }
                let after = if self.seats.answered {
                    SEARCH_EVERY_SECONDS
                } else {
                    SECOND_SEARCH_SECONDS
                };
                self.seats.answered = true;
                self.seats.next = Some(self.now().plus(after));
                self.seats_read(began)
            }
        }
    }

    /// No relay answered in full: they are asked again soon.
    fn is_unanswered(&mut self, fetched: &Fetched) -> bool {
        let reads = self
            .link
            .configs()
            .iter()
            .filter(|relay| relay.read)
            .count();
        let unanswered = reads == 0 || fetched.incomplete.len() >= reads;
        if unanswered {
            self.seats.next = Some(self.now().plus(RETRY_SECONDS));
        }
        unanswered
    }

    /// Cohorts that are known here, and that this agent knows no seat in.
    fn candidates(&self) -> Result<Vec<Candidate>, AgentError> {
        let now = self.now();
        let mut candidates = Vec::new();
        for network in self.chains.keys() {
            for row in self.store.view().adverts(*network, now)? {
                let known = self.nodes.contains_key(&(row.cohort, Role::Participant));
                if known || row.author == self.identity.public() {
                    continue;
                }
                let Ok((terms, _)) = Terms::parse(&row.content) else {
                    continue;
                };
                let seat = self.root.seat(&row.cohort).public();
                candidates.push(Candidate { row, terms, seat });
            }
        }
        Ok(candidates)
    }

    /// Asks relays for what the keys wrote that this agent's seats in known cohorts would have.
    fn seek_traces(&self) -> Result<(), AgentError> {
        let mut keys: Vec<NostrKey> = vec![self.identity.public()];
        keys.extend(self.candidates()?.into_iter().map(|found| found.seat));
        let (link, internal) = (self.link.clone(), self.internal.clone());
        tokio::spawn(async move {
            let mut all = Fetched::default();
            for keys in keys.chunks(KEYS_AT_ONCE) {
                let wrote = Filter::kind(KIND_DIRECTED).authors(keys.iter().copied());
                let was_sent = Filter::kind(KIND_DIRECTED).tag('p', keys);
                for filter in [wrote, was_sent] {
                    let fetched = link.fetch(&filter, ANSWER_WITHIN).await;
                    all.events.extend(fetched.events);
                    all.incomplete.extend(fetched.incomplete);
                }
            }
            all.incomplete.sort();
            all.incomplete.dedup_by(|one, other| one.0 == other.0);
            let _ = internal.send(Internal::Seats(Found::Traces(all)));
        });
        Ok(())
    }

    /// Takes up the seats that left a trace; whether there was one.
    fn follow_traces(&mut self, fetched: &Fetched) -> Result<bool, AgentError> {
        let mut keys = BTreeSet::new();
        let mut by_identity = BTreeSet::new();
        for (_, event) in &fetched.events {
            let recipient = event.tag("p").and_then(|key| key.parse::<NostrKey>().ok());
            keys.insert(event.author);
            keys.extend(recipient);
            by_identity.extend(self.cohort_of_own(event, recipient));
        }
        let mut began = false;
        for candidate in self.candidates()? {
            let written = (candidate.row.cohort, candidate.terms.aggregator);
            let seat = if keys.contains(&candidate.seat) {
                candidate.seat
            } else if by_identity.contains(&written) {
                self.identity.public()
            } else {
                continue;
            };
            self.begin_seat(&candidate, seat)?;
            began = true;
        }
        Ok(began)
    }

    /// Of a message that the identity wrote: about which cohort, and to whom.
    fn cohort_of_own(
        &self,
        event: &VerifiedEvent,
        recipient: Option<NostrKey>,
    ) -> Option<(CohortId, NostrKey)> {
        if event.author != self.identity.public() {
            return None;
        }
        let plaintext = self.conversations.open_own(&self.identity, event).ok()?;
        let envelope = Envelope::decode(&plaintext).ok()?;
        Some((envelope.cohort, recipient?))
    }

    /// Begins a membership anew: the aggregator is asked for what it told the seat.
    fn begin_seat(&mut self, candidate: &Candidate, seat: NostrKey) -> Result<(), AgentError> {
        let Candidate { row, terms, .. } = candidate;
        tracing::info!(cohort = %row.cohort, "relays have traces of a seat of this agent");
        let id = (row.cohort, Role::Participant);
        self.insert_cohort(id, terms, Some(seat))?;
        fail_point!("after", "insert_seat");
        self.post.lanes.begin_anywhere(id.0);
        let event = Event::from_json(&row.event).and_then(Event::verify);
        let hints = match event.map(|event| advert::decode(&event, true)) {
            Ok(Ok(event)) => event.relays,
            _ => row.relays.clone(),
        };
        let hints: Vec<String> = hints.iter().map(ToString::to_string).collect();
        self.learn_relays(id, &hints)?;
        self.refresh_inbox();
        self.state_policy(id)?;
        let funds = terms.funding == Funding::Members;
        let payee = funds.then(|| self.root.refund_script(terms.network));
        let payee = payee.flatten();
        self.feed(
            id,
            NodeInput::Participant(ParticipantInput::Reseat { payee }),
        )?;
        Ok(())
    }

    /// Which DIDs are behind the indexes that the aggregator covers for a seat: those that are known here, and those
    /// that a key of this agent leads to.
    pub(super) fn regain(&mut self, id: NodeId) -> Result<Option<NodeInput>, AgentError> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Ok(None);
        };
        let mut wanted: BTreeMap<SmtIndex, Round> = machine.unclaimed().collect();
        if wanted.is_empty() || machine.set().is_none() {
            return Ok(None);
        }
        let mut items = Vec::new();
        for row in self.store.view().dids()? {
            let Ok(did) = row.did.parse::<Did>() else {
                continue;
            };
            if let Some(from_round) = wanted.remove(&did.smt_index()) {
                self.bind_again(id, &did, from_round)?;
                items.push(regained(did));
            }
        }
        let (mut number, mut last) = (0, 0);
        while !wanted.is_empty() && number < KEYS_TRIED && number <= last + GAP {
            for (did, genesis) in self.dids_of_key(id, number) {
                let Some(from_round) = wanted.remove(&did.smt_index()) else {
                    continue;
                };
                self.keep_again(&did, genesis.as_ref(), number)?;
                self.bind_again(id, &did, from_round)?;
                items.push(regained(did));
                last = number;
            }
            number += 1;
        }
        for index in wanted.into_keys() {
            tracing::warn!(cohort = %id.0, %index, "no key of this agent leads to a DID that its seat registered");
            items.push(Regained { index, did: None });
        }
        fail_point!("after", "regain");
        Ok(Some(NodeInput::Participant(ParticipantInput::Regained {
            items,
        })))
    }

    /// The DIDs that this agent makes of a key: an x1 DID of the cohort, a k1 DID, an x1 DID of no cohort.
    fn dids_of_key(&self, id: NodeId, number: u32) -> Vec<(Did, Option<GenesisDocument>)> {
        let Some(node) = self.nodes.get(&id) else {
            return Vec::new();
        };
        let network = node.terms().network;
        let mut dids = Vec::new();
        let key = self.root.did_key(network, number).ok();
        let of_cohort = node.address().zip(key).and_then(|(address, key)| {
            let (point, kind) = (key.public().even_point(), beacon_kind(node.terms().beacon));
            GenesisDocument::for_cohort(network, &point, kind, &address, KeyAddress::P2tr).ok()
        });
        let alone = self.external_genesis(network, number).ok();
        let genesis = [of_cohort, alone].into_iter().flatten();
        dids.extend(genesis.map(|genesis| (genesis.did(network), Some(genesis))));
        dids.extend(key_did(&self.root, network, number).map(|did| (did, None)));
        dids
    }

    /// Stores a DID that was derived again, as it was when it was made.
    fn keep_again(
        &mut self,
        did: &Did,
        genesis: Option<&GenesisDocument>,
        number: u32,
    ) -> Result<(), AgentError> {
        let document: Option<Document> = match genesis {
            Some(genesis) => genesis.document(did.network()).ok(),
            None => initial_key_document(did),
        };
        let document = document.ok_or(AgentError::Defect("a derived DID has no document"))?;
        let singly = genesis.is_some_and(|genesis| {
            self.external_genesis(did.network(), number)
                .is_ok_and(|alone| alone.did(did.network()) == genesis.did(did.network()))
        });
        let mut keys = vec![(number, INITIAL_KEY)];
        if singly {
            keys.push((number.saturating_add(1), KeyAddress::P2tr.fragment()));
        }
        self.store_did(&NewDid {
            did,
            document: &document,
            genesis,
            state: did_state::ACTIVE,
            keys: &keys,
            cohort: None,
        })
    }

    /// The binding of a DID to a cohort that covers it. A document that does not list the beacon may have been followed by
    /// one that does.
    fn bind_again(&mut self, id: NodeId, did: &Did, from_round: Round) -> Result<(), AgentError> {
        let row = self.did_row(did)?;
        let document = parse_document(&row.document)?;
        let node = self.nodes.get(&id);
        let lists = node.is_some_and(|node| lists_beacon_of(&document, node));
        let state = if lists {
            binding_state::BOUND
        } else {
            binding_state::FORMER
        };
        let binding = Binding {
            cohort: id.0,
            role: Role::Participant,
            index: did.smt_index(),
            did: Some(did.to_string()),
            from_round,
            state: state.into(),
        };
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_binding(&binding)?))
    }
}

fn regained(did: Did) -> Regained {
    Regained {
        index: did.smt_index(),
        did: Some(did),
    }
}
