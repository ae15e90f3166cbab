//! Looking for adverts on relays, with a running agent's connections or with connections of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::adverts::{CheckedAdvert, check_advert};
use super::AgentBackend;
use super::parse_key;
use super::terms::{objections, terms_view};
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, PeerText, request as r};
use crate::agent::launch::{relay_by_hand, relay_config, store_failure};
use crate::agent::runtime::Agent;
use crate::config::Config;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::nostr::advert::{self, ShareLink};
use crate::nostr::link::{AdvertQuery, Fetched, Link, LinkOptions, RelayConfig, Timings};
use crate::nostr::{EventId, Filter, RelayUrl, VerifiedEvent};
use crate::protocol::terms::Terms;
use crate::store::{AdvertRow, NewAdvert, Role};
use crate::time::UnixTime;

/// Time that slow relays get, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Adverts that do not count are shown up to this many; anybody can publish more.
const MAX_FLAWED: usize = 200;

/// The longest link that is made for an advert; its relays are hints.
const MAX_HINTS: usize = 5;

/// What relays answered.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) adverts: Vec<FoundAdvert>,
    flawed: Vec<v::FlawedAdvertView>,
    answers: Vec<v::RelayAnswerView>,
}

/// An advert that counts, in its newest version.
#[derive(Debug)]
pub(super) struct FoundAdvert {
    pub(super) checked: CheckedAdvert,
    pub(super) event: VerifiedEvent,
    pub(super) served_by: Vec<RelayUrl>,
}

/// What this agent knows beside the advert.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) followed: BTreeSet<NostrKey>,
    pub(super) joined: BTreeSet<CohortId>,
    pub(super) memberships: usize,
    /// Cohorts this agent aggregates, with the seats taken.
    pub(super) own: BTreeMap<CohortId, u16>,
}

impl AgentBackend {
    /// Looks for adverts, remembers them and says which of them are open.
    pub(super) async fn discover(&self, args: r::Discover) -> Result<v::DiscoverView, Failure> {
        let query = query(&args, self.config())?;
        let timeout = args.timeout_s.map_or(TIMEOUT, Duration::from_secs);
        let found = if args.relays.is_empty() {
            self.search(&query.filter(), timeout).await?
        } else {
            search_at(relays_by_hand(&args.relays)?, &query.filter(), timeout).await?
        };
        let config = self.config().clone();
        self.with(move |agent| {
            agent.remember_adverts(&found)?;
            let context = agent.advert_context()?;
            Ok(view(found, &args, &config, &context, agent.now()))
        })
        .await
    }

    /// Asks this agent's relays.
    pub(super) async fn search(
        &self,
        filter: &Filter,
        timeout: Duration,
    ) -> Result<Found, Failure> {
        let link = self.handle().link();
        let asked: Vec<RelayUrl> = readers(link);
        if asked.is_empty() {
            return Err(no_relays());
        }
        let fetched = link.fetch(filter, timeout).await;
        Ok(sort_out(fetched, &asked))
    }
}

impl Agent {
    /// Keeps found adverts: their terms can be joined by cohort id.
    pub(super) fn remember_adverts(&mut self, found: &Found) -> Result<(), Failure> {
        let seen = self.now();
        for advert in &found.adverts {
            let CheckedAdvert { event, terms } = &advert.checked;
            let json = advert.event.to_json();
            if json.len() > crate::store::ADVERT_BYTES_MAX {
                continue;
            }
            self.store
                .transaction::<_, crate::store::StoreError>(|tx| {
                    for relay in &advert.served_by {
                        tx.put_advert(&NewAdvert {
                            cohort: event.cohort,
                            author: event.author,
                            event_id: event.id,
                            event: &json,
                            content: &event.content,
                            network: terms.network,
                            status: event.status.name(),
                            created_at: event.created_at,
                            expires: event.expires,
                            relay: Some(relay),
                            seen,
                        })?;
                    }
                    Ok(())
                })
                .map_err(store_failure)?;
        }
        Ok(())
    }

    pub(super) fn advert_context(&self) -> Result<Context, Failure> {
        let follows = self.store.view().follows().map_err(store_failure)?;
        let mut context = Context {
            followed: follows.into_iter().map(|follow| follow.key).collect(),
            ..Context::default()
        };
        for node in self.nodes.values() {
            match node.id.1 {
                Role::Aggregator => {
                    let taken = super::delivery::members(node).len();
                    context
                        .own
                        .insert(node.id.0, super::delivery::number(taken));
                }
                Role::Participant => {
                    // Whoever was refused, or whose opt-in was never stored, may ask.
                    if !self.may_ask(node.id.0) {
                        context.joined.insert(node.id.0);
                    }
                    context.memberships += usize::from(!node.is_over());
                }
            }
        }
        Ok(context)
    }
}

/// Looks for adverts without a running agent. Nothing is signed, and nothing remembered.
pub async fn without_agent(
    config: &Config,
    relays: Vec<RelayConfig>,
    args: &r::Discover,
    now: UnixTime,
) -> Result<v::DiscoverView, Failure> {
    let query = query(args, config)?;
    let timeout = args.timeout_s.map_or(TIMEOUT, Duration::from_secs);
    let relays = if args.relays.is_empty() {
        relays
    } else {
        relays_by_hand(&args.relays)?
    };
    let found = search_at(relays, &query.filter(), timeout).await?;
    Ok(view(found, args, config, &Context::default(), now))
}

/// Asks these relays over connections made for the occasion, with no key.
pub(super) async fn search_at(
    relays: Vec<RelayConfig>,
    filter: &Filter,
    timeout: Duration,
) -> Result<Found, Failure> {
    if relays.is_empty() {
        return Err(no_relays());
    }
    let asked: Vec<RelayUrl> = relays.iter().map(|relay| relay.url.clone()).collect();
    let options = LinkOptions {
        auth: None,
        timings: Timings {
            connect: timeout,
            ..Timings::default()
        },
    };
    let (link, mut events) = Link::start(relays, options);
    // Nobody needs the connections' own reports, but the queue must not fill.
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let fetched = link.fetch(filter, timeout).await;
    link.shutdown().await;
    drain.abort();
    Ok(sort_out(fetched, &asked))
}

/// The filter of a cohort's advert.
pub(super) fn filter_of(cohort: CohortId, author: Option<NostrKey>) -> Filter {
    let query = AdvertQuery {
        cohorts: vec![cohort],
        authors: author.into_iter().collect(),
        ..AdvertQuery::default()
    };
    query.filter()
}

fn readers(link: &Link) -> Vec<RelayUrl> {
    let relays = link.relays().into_iter().filter(|relay| relay.read);
    relays.map(|relay| relay.url).collect()
}

fn no_relays() -> Failure {
    Failure::new(ErrorCode::RelaysUnreachable, "there is no relay to ask")
        .remedy("add one with `btcr2-agent relay add <url>`, or name one with --relay")
}

fn relays_by_hand(urls: &[String]) -> Result<Vec<RelayConfig>, Failure> {
    urls.iter()
        .map(|url| {
            let entry = relay_by_hand(url)?;
            Ok(relay_config(&crate::agent::launch::RelaySetting {
                entry,
                source: v::RelaySource::Configured,
            }))
        })
        .collect()
}

fn query(args: &r::Discover, config: &Config) -> Result<AdvertQuery, Failure> {
    let network: Network = args.network.unwrap_or(config.network);
    let authors = match &args.aggregator {
        Some(key) => vec![parse_key(key)?.0],
        None => Vec::new(),
    };
    Ok(AdvertQuery {
        networks: vec![network],
        authors,
        ..AdvertQuery::default()
    })
}

/// Checks every event, keeps the newest version of each advert and who served it.
pub(super) fn sort_out(fetched: Fetched, asked: &[RelayUrl]) -> Found {
    let mut events: BTreeMap<EventId, (VerifiedEvent, Vec<RelayUrl>)> = BTreeMap::new();
    let mut counts: BTreeMap<RelayUrl, u32> = BTreeMap::new();
    for (relay, event) in fetched.events {
        let count = counts.entry(relay.clone()).or_default();
        *count = count.saturating_add(1);
        let (_, served_by) = events
            .entry(event.id)
            .or_insert_with(|| (event, Vec::new()));
        if !served_by.contains(&relay) {
            served_by.push(relay);
        }
    }
    let mut found = Found::default();
    let mut newest: BTreeMap<CohortId, FoundAdvert> = BTreeMap::new();
    for (id, (event, served_by)) in events {
        match check_advert(&event, true) {
            Err(refusal) => {
                if found.flawed.len() < MAX_FLAWED {
                    found.flawed.push(v::FlawedAdvertView {
                        event: id.to_string(),
                        author: event.author,
                        flaw: refusal.to_string(),
                        served_by: served_by.iter().map(ToString::to_string).collect(),
                    });
                }
            }
            Ok(checked) => {
                let advert = FoundAdvert {
                    checked,
                    event,
                    served_by,
                };
                let cohort = advert.checked.event.cohort;
                let older = newest
                    .get(&cohort)
                    .is_some_and(|known| !advert.checked.event.supersedes(&known.checked.event));
                if !older {
                    newest.insert(cohort, advert);
                }
            }
        }
    }
    found.adverts = newest.into_values().collect();
    found
        .adverts
        .sort_by_key(|advert| std::cmp::Reverse(advert.checked.event.created_at));
    found.answers = asked
        .iter()
        .map(|url| {
            let incomplete = fetched.incomplete.iter().find(|(relay, _)| relay == url);
            v::RelayAnswerView {
                url: url.to_string(),
                complete: incomplete.is_none(),
                events: counts.get(url).copied().unwrap_or(0),
                reason: incomplete.map(|(_, reason)| PeerText::new(reason)),
            }
        })
        .collect();
    found
}

fn view(
    found: Found,
    args: &r::Discover,
    config: &Config,
    context: &Context,
    now: UnixTime,
) -> v::DiscoverView {
    let asked = super::delivery::number(found.answers.len());
    let adverts = found
        .adverts
        .iter()
        .map(|advert| advert_view(advert, asked, config, context, now))
        .filter(|view| wanted(view, args))
        .collect();
    v::DiscoverView {
        at: now,
        adverts,
        flawed: if args.all { found.flawed } else { Vec::new() },
        relays: found.answers,
    }
}

/// Filters that relays do not apply: what they serve is not trusted to match.
fn wanted(view: &v::AdvertView, args: &r::Discover) -> bool {
    let seats = view.terms.seats;
    let open = view.status == v::AdvertStatus::Open && !view.expired;
    args.beacon.is_none_or(|beacon| beacon == view.terms.beacon)
        && args
            .network
            .is_none_or(|network| network == view.terms.network)
        && args.min_seats.is_none_or(|min| seats.max >= min)
        && args.max_seats.is_none_or(|max| seats.max <= max)
        && (args.all || open)
}

pub(super) fn advert_view(
    advert: &FoundAdvert,
    asked: u16,
    config: &Config,
    context: &Context,
    now: UnixTime,
) -> v::AdvertView {
    let CheckedAdvert { event, terms } = &advert.checked;
    // What served it is where it can be found, whatever the advert hints at.
    let mut hints = event.relays.clone();
    hints.extend(advert.served_by.iter().cloned());
    hints.dedup();
    hints.truncate(MAX_HINTS);
    v::AdvertView {
        status: match event.status {
            advert::AdvertStatus::Open => v::AdvertStatus::Open,
            advert::AdvertStatus::Full => v::AdvertStatus::Full,
            advert::AdvertStatus::Active => v::AdvertStatus::Active,
            advert::AdvertStatus::Closed => v::AdvertStatus::Closed,
        },
        expired: event.expires < now || terms.join_by < now,
        published_at: event.created_at,
        served_by: advert.served_by.iter().map(ToString::to_string).collect(),
        ..plain_view(
            event.cohort,
            terms,
            &hints,
            &event.relays,
            asked,
            config,
            context,
        )
    }
}

/// The view of terms that came without an advert, or of one that is stored.
pub(super) fn stored_view(
    row: &AdvertRow,
    terms: &Terms,
    config: &Config,
    context: &Context,
    now: UnixTime,
) -> v::AdvertView {
    let invitation = row.status == INVITED;
    v::AdvertView {
        status: match row.status.as_str() {
            "full" => v::AdvertStatus::Full,
            "active" => v::AdvertStatus::Active,
            "closed" => v::AdvertStatus::Closed,
            _ => v::AdvertStatus::Open,
        },
        expired: row.expires < now || terms.join_by < now,
        invitation,
        published_at: row.created_at,
        served_by: row.relays.iter().map(ToString::to_string).collect(),
        ..plain_view(
            row.cohort,
            terms,
            &row.relays,
            &row.relays,
            0,
            config,
            context,
        )
    }
}

/// Status under which invitations are stored.
pub(super) const INVITED: &str = "invited";

fn plain_view(
    cohort: CohortId,
    terms: &Terms,
    hints: &[RelayUrl],
    named: &[RelayUrl],
    asked: u16,
    config: &Config,
    context: &Context,
) -> v::AdvertView {
    let link = ShareLink {
        cohort,
        author: terms.aggregator,
        relays: hints.to_vec(),
    };
    v::AdvertView {
        cohort,
        aggregator: terms.aggregator,
        naddr: link.encode().unwrap_or_default(),
        status: v::AdvertStatus::Open,
        expired: false,
        followed: context.followed.contains(&terms.aggregator),
        joined: context.joined.contains(&cohort),
        invitation: false,
        terms: terms_view(terms, named),
        seats_taken: context.own.get(&cohort).copied(),
        published_at: UnixTime(0),
        served_by: Vec::new(),
        relays_asked: asked,
        policy_objections: objections(terms, config, context.memberships),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OwnKey;
    use crate::nostr::advert::AdvertDraft;
    use crate::protocol::terms::{CohortBeacon, Salt};

    fn url(n: u8) -> RelayUrl {
        RelayUrl::parse(&format!("wss://relay{n}.example.com")).unwrap()
    }

    fn key(n: u8) -> OwnKey {
        OwnKey::from_bytes(&[n; 32]).unwrap()
    }

    fn terms(aggregator: &OwnKey) -> Terms {
        Terms::with_defaults(
            aggregator.public(),
            Network::Regtest,
            CohortBeacon::Smt,
            Salt::from_bytes([1; 16]),
            UnixTime(2_000),
        )
    }

    fn event(terms: &Terms, key: &OwnKey, at: u64, status: advert::AdvertStatus) -> VerifiedEvent {
        let content = terms.canonical();
        let draft = AdvertDraft {
            content: &content,
            network: terms.network,
            status,
            relays: &[],
            created_at: UnixTime(at),
            expiration: UnixTime(9_000),
        };
        advert::encode(&draft, key).unwrap()
    }

    #[test]
    fn the_newest_version_counts_and_who_served_it() {
        let (aggregator, thief) = (key(1), key(2));
        let terms = terms(&aggregator);
        let open = event(&terms, &aggregator, 1_000, advert::AdvertStatus::Open);
        let full = event(&terms, &aggregator, 1_001, advert::AdvertStatus::Full);
        let stolen = event(&terms, &thief, 1_002, advert::AdvertStatus::Open);
        let fetched = Fetched {
            events: vec![
                (url(1), open.clone()),
                (url(2), full.clone()),
                (url(3), full.clone()),
                (url(3), stolen.clone()),
            ],
            incomplete: vec![(url(4), "no connection".into())],
        };
        let asked = [url(1), url(2), url(3), url(4)];
        let found = sort_out(fetched, &asked);
        let [advert] = found.adverts.as_slice() else {
            panic!("{:?}", found.adverts)
        };
        assert_eq!(advert.event, full);
        assert_eq!(advert.served_by, [url(2), url(3)]);
        assert_eq!(found.flawed.len(), 1);
        assert_eq!(found.flawed[0].author, thief.public());
        assert!(found.flawed[0].flaw.contains("another key"));
        let complete: Vec<bool> = found.answers.iter().map(|a| a.complete).collect();
        assert_eq!(complete, [true, true, true, false]);

        // A full cohort is shown only when all are asked for; so are flawed adverts.
        let config = Config::default();
        for (all, shown) in [(false, 0), (true, 1)] {
            let args = r::Discover {
                all,
                ..r::Discover::default()
            };
            let fetched = Fetched {
                events: vec![(url(2), full.clone()), (url(3), stolen.clone())],
                incomplete: Vec::new(),
            };
            let found = sort_out(fetched, &asked);
            let view = view(found, &args, &config, &Context::default(), UnixTime(1_500));
            assert_eq!((view.adverts.len(), view.flawed.len()), (shown, shown));
            for advert in &view.adverts {
                assert_eq!((advert.served_by.len(), advert.relays_asked), (1, 4));
                let link = ShareLink::decode(&advert.naddr, false).unwrap();
                assert_eq!(link.cohort, terms.cohort_id());
                assert_eq!(link.relays, [url(2)]);
            }
        }
    }

    #[test]
    fn expiry_is_by_deadline_and_by_event() {
        let aggregator = key(1);
        let terms = terms(&aggregator);
        let advert = |now| {
            let event = event(&terms, &aggregator, 1_000, advert::AdvertStatus::Open);
            let fetched = Fetched {
                events: vec![(url(1), event)],
                incomplete: Vec::new(),
            };
            let found = sort_out(fetched, &[url(1)]);
            let config = Config::default();
            advert_view(&found.adverts[0], 1, &config, &Context::default(), now).expired
        };
        assert!(!advert(UnixTime(2_000)));
        assert!(advert(UnixTime(2_001)));
        assert!(advert(UnixTime(9_001)));
    }
}
