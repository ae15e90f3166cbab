//! Following aggregators, and being followed.

use std::collections::BTreeSet;

use super::parse_key;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::{agent_failure, store_failure};
use crate::agent::runtime::Agent;
use crate::agent::{AgentError, delivery, outbound};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::nostr::envelope::{self, Envelope};
use crate::nostr::outbox::NewRow;
use crate::nostr::policy::advertised_relays;
use crate::protocol::message::{Message, Subscribe};
use crate::store::{Follow, MetaKey, StoreError};

/// The aggregators that were told, as a JSON list of keys.
const TOLD: MetaKey = MetaKey::new("followed_and_told");

/// The cohort named by messages that belong to none: all zeros, which is no hash of any terms.
pub(in crate::agent) const NO_COHORT: CohortId = CohortId::from_bytes([0; 32]);

impl Agent {
    /// Follows an aggregator; with `tell`, says so to it.
    pub(super) fn follow_aggregator(
        &mut self,
        args: &r::Follow,
    ) -> Result<v::FollowedView, Failure> {
        let (key, hints) = parse_key(&args.aggregator)?;
        if key == self.identity.public() {
            return Err(Failure::new(
                ErrorCode::InvalidValue,
                "this agent's own cohorts need no following",
            ));
        }
        let follow = Follow {
            key,
            relays: advertised_relays(hints.iter().map(String::as_str), false),
            since: self.now(),
        };
        self.store
            .transaction::<_, StoreError>(|tx| tx.follow(&follow))
            .map_err(store_failure)?;
        self.watch_adverts().map_err(agent_failure)?;
        if args.tell {
            self.tell(key, true)?;
        }
        self.followed()
    }

    /// Stops following. An aggregator that was told is told again.
    pub(super) fn unfollow_aggregator(
        &mut self,
        args: &r::Follow,
    ) -> Result<v::FollowedView, Failure> {
        let (key, _) = parse_key(&args.aggregator)?;
        let was_followed = self
            .store
            .transaction::<_, StoreError>(|tx| tx.unfollow(key))
            .map_err(store_failure)?;
        if !was_followed {
            return Err(Failure::new(
                ErrorCode::NotFound,
                format!(
                    "this agent does not follow {}",
                    crate::keys::names::npub(&key)
                ),
            )
            .remedy("`btcr2-agent followed` shows whom it does"));
        }
        self.watch_adverts().map_err(agent_failure)?;
        if self.told()?.contains(&key) {
            self.tell(key, false)?;
        }
        self.followed()
    }

    pub(super) fn followed(&self) -> Result<v::FollowedView, Failure> {
        let now = self.now();
        let view = self.store.view();
        let told = self.told()?;
        let mut open: Vec<NostrKey> = Vec::new();
        for network in Network::ALL {
            let adverts = view.adverts(network, now).map_err(store_failure)?;
            let still_open = adverts.into_iter().filter(|row| row.status == "open");
            open.extend(still_open.map(|row| row.author));
        }
        let follows = view.follows().map_err(store_failure)?;
        Ok(v::FollowedView {
            now,
            followed: follows
                .into_iter()
                .map(|follow| v::FollowView {
                    aggregator: follow.key,
                    since: follow.since,
                    relays: follow
                        .relays
                        .iter()
                        .map(|url| PeerText::new(url.as_str()))
                        .collect(),
                    told: told.contains(&follow.key),
                    open_cohorts: u32::try_from(
                        open.iter().filter(|author| **author == follow.key).count(),
                    )
                    .unwrap_or(u32::MAX),
                })
                .collect(),
        })
    }

    pub(super) fn list_subscribers(&self) -> Result<v::SubscribersView, Failure> {
        let subscribers = self.store.view().subscribers().map_err(store_failure)?;
        Ok(v::SubscribersView {
            now: self.now(),
            subscribers: subscribers
                .into_iter()
                .map(|subscriber| v::SubscriberView {
                    key: subscriber.key,
                    // By the other's clock, which may be wrong.
                    since: subscriber.since.min(self.now()),
                })
                .collect(),
        })
    }

    fn told(&self) -> Result<BTreeSet<NostrKey>, Failure> {
        let list = self.store.view().meta(TOLD).map_err(store_failure)?;
        let list = list.and_then(|list| serde_json::from_str(&list).ok());
        Ok(list.unwrap_or_default())
    }

    /// Sends a Subscribe message: a directed message outside any cohort, from identity to identity. Its
    /// envelope names the cohort of all zeros. It has no lane: nobody acknowledges it, and its number is the
    /// time, so that a later one is told from an earlier one.
    fn tell(&mut self, aggregator: NostrKey, on: bool) -> Result<(), Failure> {
        let now = self.now();
        let body = Message::Subscribe(Subscribe { on });
        let kind = body.type_name();
        let message = envelope::Message {
            kind: kind.to_owned(),
            body: body
                .body()
                .map_err(|error| agent_failure(AgentError::Send(error.to_string())))?,
        };
        let expires = delivery::expiry(now, kind);
        let inc = self.post.lanes.incarnation();
        let mut envelope = Envelope::new(NO_COHORT, inc, now.0, Vec::new(), message);
        let event = outbound::seal(
            &self.conversations,
            &self.identity,
            aggregator,
            &mut envelope,
            now,
            expires,
        )
        .map_err(agent_failure)?;
        let mut told = self.told()?;
        if on {
            told.insert(aggregator);
        } else {
            told.remove(&aggregator);
        }
        let list = serde_json::to_string(&told).unwrap_or_else(|_| "[]".to_owned());
        let row = NewRow {
            event,
            lane: None,
            inc,
            seq: 0,
            kind: kind.to_owned(),
            about: None,
            awaiting: BTreeSet::new(),
            relays: self.write_relays(None),
        };
        let Self { store, post, .. } = self;
        store
            .transaction::<_, AgentError>(|tx| {
                post.queue_row(tx, now, row)?;
                tx.set_meta(TOLD, &list)?;
                Ok(())
            })
            .map_err(agent_failure)?;
        self.send_due(now).map_err(agent_failure)
    }
}
