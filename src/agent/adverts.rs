//! Adverts: publishing one's own, finding others', invitations and followers.

use bitcoin::ScriptBuf;

use super::admitting::Shown;
use super::error::AgentError;
use super::events::What;
use super::node::{Machine, NodeId, NodeInput};
use super::runtime::Agent;
use crate::fail_point;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::nostr::advert::{self, AdvertDraft, AdvertEvent};
use crate::nostr::link::AdvertQuery;
use crate::nostr::outbox::NewRow;
use crate::nostr::{RelayUrl, VerifiedEvent};
use crate::protocol::aggregator::AggregatorInput;
use crate::protocol::effect::AdvertStatus;
use crate::protocol::funding::dearest_signal;
use crate::protocol::message::Invite;
use crate::protocol::participant::ParticipantInput;
use crate::protocol::terms::{Deposits, Funding, Terms};
use crate::store::{MetaKey, NewAdvert, NewCohort, Role};
use crate::time::UnixTime;

/// Seconds an advert stays with relays (DESIGN §4: formation and results one year).
const ADVERT_LIFE_SECONDS: u64 = 365 * 86_400;

/// An advert is published anew so many seconds before relays drop it: an agent that is away for a season is found still.
const RENEW_BEFORE_SECONDS: u64 = 90 * 86_400;

/// `created_at` of the last advert: it always grows, also when the clock goes back.
const LAST_ADVERT: MetaKey = MetaKey::new("last_advert");

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
    /// Begins a cohort: stores it, publishes its advert, sends invitations. Refunds go to the first address of a
    /// BIP-86 wallet of this agent's words.
    pub fn create_cohort(
        &mut self,
        terms: Terms,
        invited: Vec<NostrKey>,
    ) -> Result<CohortId, AgentError> {
        self.create_cohort_refunding(terms, invited, None)
    }

    /// As [`create_cohort`](Self::create_cohort), with refunds to another script.
    pub fn create_cohort_refunding(
        &mut self,
        terms: Terms,
        invited: Vec<NostrKey>,
        payee: Option<ScriptBuf>,
    ) -> Result<CohortId, AgentError> {
        let payee = payee.or_else(|| self.root.refund_script(terms.network));
        self.gate.permit(terms.network)?;
        terms
            .validate()
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        // What its signals may cost is promised here: nothing afterwards is over the cap.
        self.gate
            .permit(terms.network)?
            .to_spend(dearest_signal(&terms))?;
        if terms.aggregator != self.identity.public() {
            return Err(AgentError::Refused(
                "the terms name another aggregator".into(),
            ));
        }
        let cohort = terms.cohort_id();
        let id = (cohort, Role::Aggregator);
        self.insert_cohort(id, &terms, None)?;
        fail_point!("after", "insert_cohort");
        self.state_policy(id)?;
        let relays = self.relay_hints();
        let relays = relays.iter().map(ToString::to_string).collect();
        self.feed(
            id,
            NodeInput::Aggregator(AggregatorInput::Advertise {
                invited,
                relays,
                payee,
            }),
        )?;
        Ok(cohort)
    }

    /// Asks for a seat under these terms, to which the user agreed.
    pub fn join_cohort(
        &mut self,
        content: &str,
        relays: &[String],
        identity_seat: bool,
        payee: Option<ScriptBuf>,
    ) -> Result<CohortId, AgentError> {
        self.join_cohort_showing(content, relays, identity_seat, payee, Shown::Asked)
    }

    /// As [`join_cohort`](Self::join_cohort), with what shall be shown for the seat.
    pub fn join_cohort_showing(
        &mut self,
        content: &str,
        relays: &[String],
        identity_seat: bool,
        payee: Option<ScriptBuf>,
        shown: Shown,
    ) -> Result<CohortId, AgentError> {
        let (terms, cohort) =
            Terms::parse(content).map_err(|error| AgentError::Refused(error.to_string()))?;
        self.gate.permit(terms.network)?;
        // Only who funds is paid back: nobody else learns an address of this agent's.
        let payee = payee.or_else(|| {
            let funds = terms.funding == Funding::Members;
            funds.then(|| self.root.refund_script(terms.network))?
        });
        if terms.funding == Funding::Members && payee.is_none() {
            return Err(AgentError::Refused(
                "members fund this cohort, and this agent has no words to derive an address for refunds from: name one"
                    .into(),
            ));
        }
        let id = (cohort, Role::Participant);
        // One that was interrupted before the opt-in was stored is taken up where it stopped.
        if !self.may_ask(cohort) {
            return Err(AgentError::Refused(format!(
                "this agent has joined {} already",
                cohort.short()
            )));
        }
        if identity_seat && self.nodes.contains_key(&(cohort, Role::Aggregator)) {
            // Both roles would have one key: nothing could be told apart that either says to the other.
            return Err(AgentError::Refused(
                "this agent is the cohort's aggregator: it can only take a seat with a key of its own for it"
                    .into(),
            ));
        }
        let seat = self.seat_key(cohort, identity_seat);
        let ticket = self.ticket(&terms, seat, shown)?;
        if !self.nodes.contains_key(&id) {
            self.insert_cohort(id, &terms, Some(seat))?;
            fail_point!("after", "insert_membership");
        }
        self.learn_relays(id, relays)?;
        self.refresh_inbox();
        self.state_policy(id)?;
        let input = ParticipantInput::Ticket(ticket);
        self.feed(id, NodeInput::Participant(input))?;
        self.feed(id, NodeInput::Participant(ParticipantInput::Join { payee }))?;
        Ok(cohort)
    }

    pub(super) fn insert_cohort(
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
            .configs()
            .into_iter()
            .map(|relay| relay.url)
            .filter(|url| self.upkeep.carries(url, None))
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
        let last = self.store.view().meta(LAST_ADVERT)?;
        let last = last.and_then(|text| text.parse().ok()).map(UnixTime);
        let content = node.terms().canonical();
        let relays = self.relay_hints();
        let draft = AdvertDraft {
            content: &content,
            network: node.terms().network,
            status,
            relays: &relays,
            created_at: advert::next_created_at(now, last),
            expiration: now.plus(ADVERT_LIFE_SECONDS),
        };
        let event = advert::encode(&draft, &self.identity)
            .map_err(|fault| AgentError::Send(fault.to_string()))?;
        let relays = self.write_relays(None);
        self.upkeep.advertised(id.0, event.clone(), now);
        let inc = self.post.lanes.incarnation();
        let Self { store, post, .. } = self;
        store.transaction::<_, AgentError>(|tx| {
            post.queue_row(
                tx,
                now,
                NewRow {
                    event,
                    lane: None,
                    inc,
                    seq: 0,
                    kind: "advert".into(),
                    about: None,
                    awaiting: std::collections::BTreeSet::new(),
                    relays,
                },
            )?;
            tx.set_meta(LAST_ADVERT, &draft.created_at.to_string())?;
            Ok(())
        })?;
        fail_point!("stored", "advert");
        self.send_due(now)?;
        self.publish_relay_list()
    }

    /// Publishes adverts anew that are about to expire: a cohort may live for years without changing its status.
    pub(super) fn renew_adverts(&mut self, now: UnixTime) -> Result<(), AgentError> {
        let due: Vec<CohortId> = self
            .upkeep
            .expiring(now.plus(RENEW_BEFORE_SECONDS))
            .collect();
        for cohort in due {
            let status = self.status_to_advertise(cohort);
            if let Some(status) = status.filter(|status| *status != AdvertStatus::Closed) {
                self.advertise((cohort, Role::Aggregator), status)?;
            }
        }
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
        let open = found.status == AdvertStatus::Open && now <= terms.join_by;
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
            && self.can_show(terms)
            // Nobody agreed to disclose anything.
            && (terms.deposits != Deposits::Required || standing.deposit_updates)
            && joined < standing.max_cohorts
            && !self
                .nodes
                .contains_key(&(terms.cohort_id(), Role::Participant))
    }

    fn join_by_policy(&mut self, content: &str, relays: Vec<String>) -> Result<(), AgentError> {
        match self.join_cohort(content, &relays, false, None) {
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
        let relays: Vec<RelayUrl> = invite
            .relays
            .iter()
            .filter_map(|url| RelayUrl::parse(url).ok())
            .take(crate::nostr::policy::MAX_ADVERTISED)
            .collect();
        self.keep_invitation(from, cohort, &terms, &relays)?;
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

    /// Keeps terms that came as a message.
    pub(super) fn keep_invitation(
        &mut self,
        from: NostrKey,
        cohort: CohortId,
        terms: &Terms,
        relays: &[RelayUrl],
    ) -> Result<(), AgentError> {
        let now = self.now();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_advert(&NewAdvert {
                cohort,
                author: from,
                network: terms.network,
                event_id: crate::nostr::EventId::from_bytes(cohort.to_bytes()),
                event: "{}",
                content: &terms.canonical(),
                status: "invited",
                created_at: now,
                expires: terms.join_by,
                relay: relays.first(),
                seen: now,
            })?;
            Ok(())
        })
    }

    /// An operator's command to one of its cohorts.
    pub fn command_aggregator(
        &mut self,
        cohort: CohortId,
        input: AggregatorInput,
    ) -> Result<(), AgentError> {
        let id = (cohort, Role::Aggregator);
        self.sync_chain(id, true)?;
        let outcome = self.feed(id, NodeInput::Aggregator(input))?;
        super::dids::refused(outcome)
    }

    /// A member's command to one of its cohorts.
    pub fn command_participant(
        &mut self,
        cohort: CohortId,
        input: ParticipantInput,
    ) -> Result<(), AgentError> {
        let id = (cohort, Role::Participant);
        let outcome = self.feed(id, NodeInput::Participant(input))?;
        super::dids::refused(outcome)
    }

    /// Where to pay, the least that starts a chain of signals, and the fee rate of the next one. Only once
    /// the set is frozen: before, the address may never be spendable.
    pub fn funding(
        &self,
        cohort: CohortId,
    ) -> Result<(bitcoin::Address, bitcoin::Amount, bitcoin::FeeRate), AgentError> {
        let node = [Role::Aggregator, Role::Participant]
            .iter()
            .find_map(|role| self.nodes.get(&(cohort, *role)))
            .ok_or(AgentError::UnknownCohort(cohort))?;
        self.gate
            .permit(node.terms().network)?
            .to_ask(node.min_start(), bitcoin::Amount::ZERO)?;
        let address = node
            .address()
            .filter(|_| node.phase_name() == "active")
            .ok_or_else(|| {
                AgentError::Refused(
                    "the set is not frozen: do not fund an address that not all acknowledged"
                        .into(),
                )
            })?;
        let rate = match &node.machine {
            Machine::Aggregator(machine) => machine.fee_rate(),
            Machine::Participant(_) => {
                bitcoin::FeeRate::from_sat_per_vb(node.chain().fee_rate.unwrap_or(2).into())
                    .unwrap_or(bitcoin::FeeRate::BROADCAST_MIN)
            }
        };
        Ok((address, node.min_start(), rate))
    }

    /// The time by this agent's clock.
    #[must_use]
    pub fn time(&self) -> UnixTime {
        self.now()
    }

    /// This agent's identity.
    #[must_use]
    pub const fn identity_key(&self) -> NostrKey {
        self.identity.public()
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
