//! Adverts: publishing one's own, finding others', invitations and followers.

use super::error::AgentError;
use super::node::{Machine, NodeId, NodeInput};
use super::runtime::{Agent, What};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::nostr::advert::{self, AdvertDraft, AdvertEvent};
use crate::nostr::link::AdvertQuery;
use crate::nostr::{RelayUrl, VerifiedEvent};
use crate::protocol::aggregator::AggregatorInput;
use crate::protocol::effect::AdvertStatus;
use crate::protocol::message::Invite;
use crate::protocol::participant::ParticipantInput;
use crate::protocol::terms::Terms;
use crate::store::{NewAdvert, NewCohort, NewLogEntry, NewOutboxRow, Role, Subscriber};
use crate::time::UnixTime;

/// Type under which adverts stand in the outbox.
pub(super) const ADVERT_KIND: &str = "advert";

/// Seconds an advert stays with relays: longer than a cohort takes to form, and renewed while it lives.
const ADVERT_LIFE_SECONDS: u64 = 30 * 86_400;

/// Kind of the log entry that keeps an aggregator's relay hints. Not the name of a message: those are
/// logged as inputs of the core.
pub(super) const RELAY_HINTS: &str = "relay_hints";

/// Followers an aggregator lists. They are strangers: they must not fill the store.
const MAX_SUBSCRIBERS: u64 = 10_000;

/// Why an advert counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertRefusal {
    /// The event is not an advert.
    #[error(transparent)]
    Codec(#[from] advert::AdvertFault),
    /// The terms are not valid.
    #[error(transparent)]
    Terms(#[from] crate::protocol::terms::TermsError),
    /// Somebody else signed it than the aggregator its terms name.
    #[error("the advert is signed by another key than its terms' aggregator")]
    Author,
    /// The `n` tag is of another network than the terms.
    #[error("the advert's network tag is not its terms' network")]
    Network,
}

/// An advert that counts: author, id and content agree.
#[derive(Debug, Clone)]
pub struct CheckedAdvert {
    /// The event's fields.
    pub event: AdvertEvent,
    /// The terms.
    pub terms: Terms,
}

/// Checks everything an advert must satisfy (DESIGN §4 "Advert").
pub fn check_advert(
    event: &VerifiedEvent,
    allow_private: bool,
) -> Result<CheckedAdvert, AdvertRefusal> {
    let event = advert::decode(event, allow_private)?;
    let (terms, _) = Terms::parse(&event.content)?;
    if terms.aggregator != event.author {
        return Err(AdvertRefusal::Author);
    }
    if terms.network != event.network {
        return Err(AdvertRefusal::Network);
    }
    Ok(CheckedAdvert { event, terms })
}

impl Agent {
    /// Begins a cohort: stores it, publishes its advert, sends invitations.
    pub fn create_cohort(
        &mut self,
        terms: Terms,
        invited: Vec<NostrKey>,
    ) -> Result<CohortId, AgentError> {
        self.gate.permit(terms.network)?;
        terms
            .validate()
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        if terms.aggregator != self.identity.public() {
            return Err(AgentError::Refused(
                "the terms name another aggregator".into(),
            ));
        }
        let cohort = terms.cohort_id();
        let id = (cohort, Role::Aggregator);
        self.insert_cohort(id, &terms, None)?;
        let relays = self.relay_hints();
        let relays = relays.iter().map(ToString::to_string).collect();
        self.feed(
            id,
            NodeInput::Aggregator(AggregatorInput::Advertise { invited, relays }),
        )?;
        Ok(cohort)
    }

    /// Asks for a seat under these terms, to which the user agreed.
    pub fn join_cohort(
        &mut self,
        content: &str,
        relays: Vec<String>,
        identity_seat: bool,
        payee: Option<bitcoin::ScriptBuf>,
    ) -> Result<CohortId, AgentError> {
        let (terms, cohort) =
            Terms::parse(content).map_err(|error| AgentError::Refused(error.to_string()))?;
        self.gate.permit(terms.network)?;
        let id = (cohort, Role::Participant);
        if self.nodes.contains_key(&id) {
            return Err(AgentError::Refused(format!(
                "this agent has joined {} already",
                cohort.short()
            )));
        }
        let seat = if identity_seat {
            self.identity.public()
        } else {
            self.root.seat(&cohort).public()
        };
        self.insert_cohort(id, &terms, Some(seat))?;
        self.keep_relays(id, relays)?;
        self.refresh_inbox();
        self.feed(id, NodeInput::Participant(ParticipantInput::Join { payee }))?;
        Ok(cohort)
    }

    /// Keeps where the aggregator says it can be reached, also for the next start.
    fn keep_relays(&mut self, id: NodeId, relays: Vec<String>) -> Result<(), AgentError> {
        let json = serde_json::to_string(&relays)
            .map_err(|_| AgentError::Defect("a list of relays has no JSON"))?;
        let at = self.now();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.append(&NewLogEntry {
                cohort: id.0,
                role: id.1,
                at,
                kind: RELAY_HINTS,
                input: &json,
                outcome: "\"accepted\"",
            })?;
            Ok(())
        })?;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.relays = relays;
        }
        Ok(())
    }

    fn insert_cohort(
        &mut self,
        id: NodeId,
        terms: &Terms,
        seat: Option<NostrKey>,
    ) -> Result<(), AgentError> {
        let created = self.now();
        let node = self.new_node(id, terms.clone(), seat, created);
        self.store.transaction::<_, AgentError>(|tx| {
            tx.insert_cohort(&NewCohort {
                cohort: id.0,
                role: id.1,
                terms: &terms.canonical(),
                seat_key: seat,
                created,
                state: node.phase_name(),
            })?;
            Ok(())
        })?;
        if let Machine::Participant(_) = node.machine {
            let own = if node.own.public() == self.identity.public() {
                self.root.identity()
            } else {
                self.root.seat(&id.0)
            };
            self.signer.add_seat(own);
        }
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Relays to name in adverts: those of this agent.
    pub(super) fn relay_hints(&self) -> Vec<RelayUrl> {
        self.link
            .relays()
            .into_iter()
            .map(|state| state.url)
            .take(crate::nostr::policy::MAX_ADVERTISED)
            .collect()
    }

    /// Publishes the advert of a cohort with a status. Content and id stay; `created_at` always grows, also
    /// when the clock does not, because relays keep the version with the later one.
    pub(super) fn advertise(&mut self, id: NodeId, status: AdvertStatus) -> Result<(), AgentError> {
        let now = self.now();
        let Some(node) = self.nodes.get(&id) else {
            return Ok(());
        };
        if node.terms().invite_only {
            return Ok(());
        }
        let last = self
            .store
            .view()
            .outbox_of(id.0)?
            .iter()
            .filter(|row| row.kind == ADVERT_KIND)
            .map(|row| row.created)
            .max();
        let content = node.terms().canonical();
        let relays = self.relay_hints();
        let draft = AdvertDraft {
            content: &content,
            network: node.terms().network,
            status: match status {
                AdvertStatus::Open => advert::AdvertStatus::Open,
                AdvertStatus::Full => advert::AdvertStatus::Full,
                AdvertStatus::Active => advert::AdvertStatus::Active,
                AdvertStatus::Closed => advert::AdvertStatus::Closed,
            },
            relays: &relays,
            created_at: advert::next_created_at(now, last),
            expiration: now.plus(ADVERT_LIFE_SECONDS),
        };
        let event = advert::encode(&draft, &self.identity)
            .map_err(|fault| AgentError::Send(fault.to_string()))?;
        self.store.transaction::<_, AgentError>(|tx| {
            tx.insert_outbox(&NewOutboxRow {
                event_id: event.id,
                event: &event.to_json(),
                cohort: Some(id.0),
                lane: None,
                kind: ADVERT_KIND,
                created: event.created_at,
                expires: draft.expiration,
                state: "{}",
            })?;
            Ok(())
        })?;
        self.publish(&event);
        Ok(())
    }

    /// An advert came: checked, kept, reported; joined if the standing policy says so.
    pub(super) fn advert(
        &mut self,
        relay: &RelayUrl,
        event: &VerifiedEvent,
    ) -> Result<(), AgentError> {
        let checked = match check_advert(event, true) {
            Ok(checked) => checked,
            Err(refusal) => {
                self.count("bad_advert");
                tracing::debug!(%refusal, "advert ignored");
                return Ok(());
            }
        };
        let now = self.now();
        let CheckedAdvert {
            event: found,
            terms,
        } = checked;
        let relays: Vec<String> = found.relays.iter().map(ToString::to_string).collect();
        let json = event.to_json();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_advert(&NewAdvert {
                cohort: found.cohort,
                author: found.author,
                network: terms.network,
                event_id: event.id,
                event: &json,
                content: &found.content,
                status: found.status.name(),
                created_at: found.created_at,
                expires: found.expires,
                relay: Some(relay),
                seen: now,
            })?;
            Ok(())
        })?;
        self.emit(
            Some((found.cohort, Role::Participant)),
            What::AdvertFound {
                aggregator: found.author,
                status: found.status.name().to_owned(),
            },
        );
        let open = found.status == advert::AdvertStatus::Open && now <= terms.join_by;
        if open && self.follows(found.author)? && self.policy_allows(&terms) {
            self.join_by_policy(&found.content, relays)?;
        }
        Ok(())
    }

    fn follows(&self, aggregator: NostrKey) -> Result<bool, AgentError> {
        let follows = self.store.view().follows()?;
        Ok(follows.iter().any(|follow| follow.key == aggregator))
    }

    /// Whether the written policy lets this agent join by itself.
    pub(super) fn policy_allows(&self, terms: &Terms) -> bool {
        let standing = &self.standing;
        let joined = self
            .nodes
            .values()
            .filter(|node| node.id.1 == Role::Participant && !node.is_over())
            .count();
        standing.auto_join
            && standing.allowed_aggregators.contains(&terms.aggregator)
            && standing.allowed_networks.contains(&terms.network)
            && terms.seats_max <= standing.max_members
            && terms.max_fee_rate <= standing.max_fee_rate
            && terms.tos.is_none()
            && joined < standing.max_cohorts
            && !self
                .nodes
                .contains_key(&(terms.cohort_id(), Role::Participant))
    }

    fn join_by_policy(&mut self, content: &str, relays: Vec<String>) -> Result<(), AgentError> {
        match self.join_cohort(content, relays, false, None) {
            Err(error) if !error.is_fatal() => {
                tracing::warn!(%error, "the policy's cohort was not joined");
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Terms that came as a message: kept like an advert, but nobody else can see them.
    pub(super) fn invited(
        &mut self,
        from: NostrKey,
        cohort: CohortId,
        invite: &Invite,
    ) -> Result<(), AgentError> {
        let Ok((terms, id)) = Terms::parse(&invite.terms) else {
            self.count("bad_invite");
            return Ok(());
        };
        if id != cohort || terms.aggregator != from {
            self.count("bad_invite");
            return Ok(());
        }
        let now = self.now();
        let relays: Vec<RelayUrl> = invite
            .relays
            .iter()
            .filter_map(|url| RelayUrl::parse(url).ok())
            .take(crate::nostr::policy::MAX_ADVERTISED)
            .collect();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_advert(&NewAdvert {
                cohort,
                author: from,
                network: terms.network,
                event_id: crate::nostr::EventId::from_bytes(cohort.to_bytes()),
                event: "{}",
                content: &invite.terms,
                status: "invited",
                created_at: now,
                expires: terms.join_by,
                relay: relays.first(),
                seen: now,
            })?;
            Ok(())
        })?;
        self.emit(
            Some((cohort, Role::Participant)),
            What::AdvertFound {
                aggregator: from,
                status: "invited".into(),
            },
        );
        if self.follows(from)? && self.policy_allows(&terms) {
            self.join_by_policy(&invite.terms, invite.relays.clone())?;
        }
        Ok(())
    }

    /// Somebody follows this aggregator, or stops.
    pub(super) fn subscribed(&mut self, from: NostrKey, on: bool) -> Result<(), AgentError> {
        let since = self.now();
        self.store.transaction::<_, AgentError>(|tx| {
            if on {
                tx.subscribe(Subscriber { key: from, since }, MAX_SUBSCRIBERS)?;
            } else {
                tx.unsubscribe(from)?;
            }
            Ok(())
        })
    }

    /// Watches the adverts of followed aggregators.
    pub fn watch_adverts(&self) -> Result<(), AgentError> {
        let authors: Vec<NostrKey> = self
            .store
            .view()
            .follows()?
            .into_iter()
            .map(|follow| follow.key)
            .collect();
        let query = AdvertQuery {
            authors,
            ..AdvertQuery::default()
        };
        self.link
            .set_adverts((!query.authors.is_empty()).then_some(&query));
        Ok(())
    }

    /// Watches all adverts of some networks.
    pub fn watch_networks(&self, networks: Vec<Network>) {
        let query = AdvertQuery {
            networks,
            ..AdvertQuery::default()
        };
        self.link.set_adverts(Some(&query));
    }

    /// Terms known from an advert or an invitation, if they are still open at `now`.
    pub fn known_terms(
        &self,
        cohort: CohortId,
        now: UnixTime,
    ) -> Result<Option<(String, Vec<RelayUrl>)>, AgentError> {
        let Some(row) = self.store.view().advert(cohort)? else {
            return Ok(None);
        };
        let fresh = row.expires > now;
        Ok(fresh.then_some((row.content, row.relays)))
    }
}
