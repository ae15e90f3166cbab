//! Not taking relays at their word: looking back for what they held back, reading back one's own
//! adverts as a stranger, asking them what they are.
//!
//! Relays say OK and serve nobody, pass nothing on, or lose what they had. What is found missing is sent
//! again; what stays missing is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::AgentError;
use super::node::{Machine, NodeId};
use super::runtime::{Agent, INBOX_SLACK_SECONDS, Internal};
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::nostr::event::KIND_ADVERT;
use crate::nostr::information::{Described, RelayInformation, describe};
use crate::nostr::link::{Link, LinkOptions, RelayConfig};
use crate::nostr::outbox::OutboxInput;
use crate::nostr::relay_list::RelayLists;
use crate::nostr::{EventId, Filter, RelayUrl, VerifiedEvent};
use crate::protocol::effect::AdvertStatus;
use crate::store::Role;
use crate::time::UnixTime;

/// Seconds between two looks back while something is waited for. Relays that do not pass on what they
/// have cost this much a message, and not the hour until everything is read again.
const LOOK_BACK_EVERY: u64 = 300;

/// Seconds after which a new advert is read back: relays that are asked again in between have answered.
const READ_BACK_AFTER: u64 = 30;

/// Seconds between two readings of own adverts.
const READ_BACK_EVERY: u64 = 3_600;

/// How long relays get to answer a reading of own adverts.
const READ_BACK_WITHIN: Duration = Duration::from_secs(20);

/// Seconds between two questions what a relay is, and after the start.
const DESCRIBE_EVERY: u64 = 86_400;

/// How long a relay gets to say what it is.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// Seconds between two looks for what need not be stored any more.
const TIDY_EVERY: u64 = 3_600;

/// Seconds for which it is known how a relay behaved that is not used any more.
const RELAY_HEALTH_KEPT: u64 = 90 * 86_400;

/// Seconds by which a relay's clock may differ from ours before somebody should look: relays refuse
/// events 900 seconds ahead, and answers to dates take seconds.
pub(super) const CLOCK_TOLERANCE: u64 = 120;

/// What is known of relays beyond their answers.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    describes: bool,
    look_back_at: UnixTime,
    read_back_at: Option<UnixTime>,
    reading_back: bool,
    describe_at: UnixTime,
    tidy_at: UnixTime,
    /// Own adverts as they were published last, by cohort.
    pub(super) adverts: BTreeMap<CohortId, OwnAdvert>,
    /// What relays said they are.
    pub(super) described: BTreeMap<RelayUrl, Description>,
    /// The aggregators whose relay lists are watched, and the newest that came.
    pub(super) lists_of: BTreeSet<NostrKey>,
    pub(super) lists: RelayLists,
    /// Relays that are used for certain cohorts only, because their aggregators named them.
    hints: BTreeMap<RelayUrl, BTreeSet<CohortId>>,
}

/// An advert of this agent.
#[derive(Debug)]
pub(super) struct OwnAdvert {
    event: VerifiedEvent,
    /// When it was read back last.
    pub(super) checked: Option<UnixTime>,
    /// Who served it then, and why the others did not.
    pub(super) served: BTreeMap<RelayUrl, Result<(), String>>,
}

/// What a relay said it is.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) information: Option<RelayInformation>,
    /// Seconds by which its clock is ahead of ours.
    pub(super) clock_ahead: Option<i64>,
}

/// What one relay serves strangers of own adverts; `Err`: it did not answer, and why.
pub(super) type ServedAdverts = Result<BTreeMap<CohortId, EventId>, String>;

impl Upkeep {
    pub(super) fn new(describes: bool, now: UnixTime) -> Self {
        Self {
            describes,
            look_back_at: now.plus(LOOK_BACK_EVERY),
            describe_at: now,
            tidy_at: now,
            ..Self::default()
        }
    }

    /// Notes an advert that is on its way to the relays.
    pub(super) fn advertised(&mut self, cohort: CohortId, event: VerifiedEvent, now: UnixTime) {
        let advert = OwnAdvert {
            event,
            checked: None,
            served: BTreeMap::new(),
        };
        self.adverts.insert(cohort, advert);
        let at = now.plus(READ_BACK_AFTER);
        self.read_back_at = Some(self.read_back_at.map_or(at, |before| before.min(at)));
    }

    /// Cohorts whose advert relays may drop by then.
    pub(super) fn expiring(&self, by: UnixTime) -> impl Iterator<Item = CohortId> + '_ {
        let adverts = self.adverts.iter();
        let expiring = adverts.filter(move |(_, own)| {
            let expires = own.event.expiration();
            expires.is_some_and(|expires| expires <= by)
        });
        expiring.map(|(cohort, _)| *cohort)
    }

    /// Whether a cohort's messages go to this relay.
    pub(super) fn carries(&self, relay: &RelayUrl, cohort: Option<CohortId>) -> bool {
        self.hints
            .get(relay)
            .is_none_or(|cohorts| cohort.is_some_and(|cohort| cohorts.contains(&cohort)))
    }

    pub(super) fn hinted(&mut self, relay: RelayUrl, cohort: CohortId) {
        self.hints.entry(relay).or_default().insert(cohort);
    }

    /// The relay is used for everything, or not at all.
    pub(super) fn not_hinted(&mut self, relay: &RelayUrl) {
        self.hints.remove(relay);
    }

    /// By how much this machine's clock is ahead of what most relays say, if it is too much; behind if
    /// negative.
    pub(super) fn clock_off(&self) -> Option<(i64, usize)> {
        let mut said: Vec<i64> = self
            .described
            .values()
            .filter_map(|description| description.clock_ahead)
            .collect();
        said.sort_unstable();
        let median = *said.get(said.len() / 2)?;
        let agree = said
            .iter()
            .filter(|said| {
                said.signum() == median.signum() && said.unsigned_abs() > CLOCK_TOLERANCE
            })
            .count();
        // One relay alone may be wrong itself.
        (median.unsigned_abs() > CLOCK_TOLERANCE && agree >= said.len().min(2) && agree >= 1)
            .then_some((-median, agree))
    }
}

impl OwnAdvert {
    /// How many relays serve it to strangers, of how many.
    pub(super) fn tally(&self) -> (usize, usize) {
        let served = self.served.values().filter(|served| served.is_ok());
        (served.count(), self.served.len())
    }

    /// Whether too few serve it: fewer than two, or not even the only one.
    pub(super) fn is_hidden(&self) -> bool {
        let (served, of) = self.tally();
        self.checked.is_some() && served < of.min(2)
    }
}

impl Agent {
    /// Finds the adverts that were published before the start.
    pub(super) fn resume_adverts(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        let mine: Vec<CohortId> = self
            .nodes
            .values()
            .filter(|node| matches!(node.machine, Machine::Aggregator(_)))
            .map(|node| node.id.0)
            .collect();
        for cohort in mine {
            let rows = self.store.view().outbox_of(cohort)?;
            let adverts = rows.iter().filter(|row| row.kind == "advert");
            let newest = adverts.max_by_key(|row| row.created);
            let event = newest
                .and_then(|row| crate::nostr::Event::from_json(&row.event).ok())
                .and_then(|event| event.verify().ok());
            // What relays have says something else than the cohort is: the process ended between the step that
            // changed it and the advert.
            let told = event.as_ref().and_then(|event| event.tag("s"));
            let status = self.status_to_advertise(cohort);
            // Of a cohort that has ended nothing may be left on the relays, nor here.
            let over = status == Some(AdvertStatus::Closed);
            let expired = event
                .as_ref()
                .is_none_or(|event| event.expiration().is_some_and(|at| at <= now));
            let differs = status.is_some_and(|status| told != Some(status.name()));
            let differs = differs && !(over && expired);
            match (status, event) {
                (Some(status), _) if differs => {
                    self.advertise((cohort, Role::Aggregator), status)?
                }
                (_, Some(event)) if !over => self.upkeep.advertised(cohort, event, now),
                _ => {}
            }
        }
        Ok(())
    }

    /// Does what is due.
    pub(super) fn keep_up(&mut self, now: UnixTime) -> Result<(), AgentError> {
        if self.upkeep.tidy_at <= now {
            self.upkeep.tidy_at = now.plus(TIDY_EVERY);
            self.tidy(now)?;
            self.renew_adverts(now)?;
        }
        if self.upkeep.look_back_at <= now {
            self.upkeep.look_back_at = now.plus(LOOK_BACK_EVERY);
            if self.waits_for_somebody() {
                self.link.look_back(now.minus(INBOX_SLACK_SECONDS));
            }
        }
        if self.upkeep.read_back_at.is_some_and(|at| at <= now) && !self.upkeep.reading_back {
            self.start_read_back(now);
        }
        if self.upkeep.describes && self.upkeep.describe_at <= now {
            self.upkeep.describe_at = now.plus(DESCRIBE_EVERY);
            let relays = self.link.configs();
            let urls = relays.into_iter().map(|relay| relay.url);
            for url in urls.filter(|url| self.upkeep.carries(url, None)) {
                self.start_description(url);
            }
        }
        Ok(())
    }

    /// Deletes what has had its time: what was delivered and what was handled, once relays have dropped it too, adverts
    /// that expired, and what was noted of relays long ago.
    fn tidy(&mut self, now: UnixTime) -> Result<(), AgentError> {
        let gone = self.store.transaction::<_, AgentError>(|tx| {
            let outbox = tx.prune_outbox(now)?;
            let seen = tx.prune_seen(now)?;
            let adverts = tx.prune_adverts(now)?;
            let health = tx.prune_relay_health(now.minus(RELAY_HEALTH_KEPT))?;
            Ok((outbox, seen, adverts, health))
        })?;
        if gone != (0, 0, 0, 0) {
            let (outbox, seen, adverts, health) = gone;
            tracing::debug!(outbox, seen, adverts, health, "tidied up");
        }
        Ok(())
    }

    /// Whether a message from somebody would change something.
    fn waits_for_somebody(&self) -> bool {
        let mut nodes = self.nodes.values().filter(|node| !node.is_over());
        nodes.any(|node| node.deadline().is_some() || node.phase_name() != "active")
            || self.post.outbox.rows().any(|row| row.wants_ack())
    }

    /// Asks a relay what it is, beside everything else.
    pub(super) fn start_description(&self, url: RelayUrl) {
        if !self.upkeep.describes {
            return;
        }
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let described = describe(&url, DESCRIBE_WITHIN).await;
            let _ = internal.send(Internal::Described(url, described));
        });
    }

    pub(super) fn described(
        &mut self,
        url: RelayUrl,
        described: Described,
    ) -> Result<(), AgentError> {
        let now = self.now();
        if let Err(fault) = &described.information {
            tracing::debug!(relay = %url, %fault, "the relay does not say what it is");
        }
        let information = described.information.ok();
        let clock_ahead = described.date.map(|date| difference(date, now));
        if information.is_some() || clock_ahead.is_some() {
            let known = self.relays_known.change(&url, now);
            known.detail.limits = information.as_ref().map(|said| said.limits);
            known.detail.clock_ahead_s = clock_ahead;
        }
        if let Some(information) = &information {
            self.outbox(OutboxInput::Limits(url.clone(), information.limits))?;
        }
        self.upkeep.described.insert(
            url,
            Description {
                information,
                clock_ahead,
            },
        );
        Ok(())
    }

    /// Looks for own adverts on every relay, over connections of a stranger.
    fn start_read_back(&mut self, now: UnixTime) {
        self.upkeep.read_back_at = Some(now.plus(READ_BACK_EVERY));
        self.upkeep.adverts.retain(|cohort, _| {
            let id = (*cohort, crate::store::Role::Aggregator);
            self.nodes.get(&id).is_some_and(|node| !node.is_over())
        });
        let relays: Vec<RelayConfig> = self
            .link
            .configs()
            .into_iter()
            .filter(|relay| relay.write && self.upkeep.carries(&relay.url, None))
            .map(|relay| RelayConfig {
                read: true,
                ..relay
            })
            .collect();
        if relays.is_empty() || self.upkeep.adverts.is_empty() {
            return;
        }
        self.upkeep.reading_back = true;
        let cohorts: Vec<CohortId> = self.upkeep.adverts.keys().copied().collect();
        let (author, internal) = (self.identity.public(), self.internal.clone());
        tokio::spawn(async move {
            let found = read_back(relays, author, &cohorts).await;
            let _ = internal.send(Internal::ReadBack(found));
        });
    }

    /// Notes who serves own adverts, and sends them again to who does not.
    pub(super) fn adverts_served(
        &mut self,
        found: &[(RelayUrl, ServedAdverts)],
    ) -> Result<(), AgentError> {
        let now = self.now();
        self.upkeep.reading_back = false;
        let mut missing: Vec<(VerifiedEvent, RelayUrl)> = Vec::new();
        let mut hidden = 0;
        for (cohort, advert) in &mut self.upkeep.adverts {
            advert.checked = Some(now);
            advert.served.clear();
            for (url, served) in found {
                let verdict = match served {
                    Err(reason) => Err(reason.clone()),
                    Ok(served) if served.get(cohort) == Some(&advert.event.id) => Ok(()),
                    Ok(_) => {
                        missing.push((advert.event.clone(), url.clone()));
                        Err("it does not serve it to a stranger".to_owned())
                    }
                };
                advert.served.insert(url.clone(), verdict);
            }
            if advert.is_hidden() {
                let (served, of) = advert.tally();
                tracing::warn!(%cohort, served, of, "the advert is hardly served to strangers");
                hidden += 1;
            }
        }
        for _ in 0..hidden {
            self.count("advert_not_served");
        }
        for (event, url) in missing {
            self.publish_to(&event, &url);
            self.outbox(OutboxInput::Charged(url))?;
        }
        Ok(())
    }

    /// Connects to a relay that the aggregator of one cohort named.
    pub(super) fn use_hint(&mut self, id: NodeId, config: RelayConfig) -> Result<(), AgentError> {
        let url = config.url.clone();
        let known = self.link.configs().iter().any(|known| known.url == url);
        if known && self.upkeep.carries(&url, None) {
            return Ok(());
        }
        self.upkeep.hinted(url.clone(), id.0);
        if !known {
            self.link.add_relay(config);
        }
        self.outbox(OutboxInput::RelayAdded(url, Some(id.0)))
    }
}

async fn read_back(
    relays: Vec<RelayConfig>,
    author: NostrKey,
    cohorts: &[CohortId],
) -> Vec<(RelayUrl, ServedAdverts)> {
    let urls: Vec<RelayUrl> = relays.iter().map(|relay| relay.url.clone()).collect();
    // Without a key: what a relay serves its friends only, nobody else finds.
    let (link, mut events) = Link::start(relays, LinkOptions::default());
    let drain = tokio::spawn(async move { while events.recv().await.is_some() {} });
    let filter = Filter::kind(KIND_ADVERT)
        .authors([author])
        .tag('d', cohorts);
    let fetched = link.fetch(&filter, READ_BACK_WITHIN).await;
    link.shutdown().await;
    drain.abort();
    let served = |url: RelayUrl| {
        let missing = fetched.incomplete.iter().find(|(of, _)| *of == url);
        let found: BTreeMap<CohortId, EventId> = fetched
            .events
            .iter()
            .filter(|(of, _)| *of == url)
            .filter_map(|(_, event)| Some((event.tag("d")?.parse().ok()?, event.id)))
            .collect();
        match missing {
            Some((_, reason)) if found.is_empty() => (url, Err(reason.clone())),
            _ => (url, Ok(found)),
        }
    };
    urls.into_iter().map(served).collect()
}

/// Seconds by which `theirs` is ahead of `ours`.
fn difference(theirs: UnixTime, ours: UnixTime) -> i64 {
    let seconds = |time: UnixTime| i64::try_from(time.0).unwrap_or(i64::MAX);
    seconds(theirs).saturating_sub(seconds(ours))
}

#[cfg(test)]
mod tests {
    use super::super::node::NodeInput;
    use super::*;
    use crate::protocol::aggregator::AggregatorInput;

    fn url(number: usize) -> RelayUrl {
        RelayUrl::parse(&format!("wss://relay{number}.example.com")).unwrap()
    }

    fn off(said: &[Option<i64>]) -> Option<(i64, usize)> {
        let mut upkeep = Upkeep::new(true, UnixTime(0));
        for (number, clock_ahead) in said.iter().enumerate() {
            let description = Description {
                information: None,
                clock_ahead: *clock_ahead,
            };
            upkeep.described.insert(url(number), description);
        }
        upkeep.clock_off()
    }

    #[test]
    fn a_clock_is_off_when_most_relays_say_so() {
        assert_eq!(off(&[]), None);
        assert_eq!(off(&[None, Some(3), Some(-2)]), None);
        assert_eq!(off(&[Some(0), Some(7_200), Some(1)]), None, "one liar");
        assert_eq!(off(&[Some(7_200), Some(7_201), Some(1)]), Some((-7_200, 2)));
        assert_eq!(off(&[Some(-400), Some(-401), None]), Some((400, 2)));
        assert_eq!(off(&[Some(-400)]), Some((400, 1)));
        assert_eq!(off(&[Some(-400), Some(400)]), None);
    }

    /// Years without a change of status: relays have an advert at any time, and hear of it about once a year.
    #[tokio::test]
    async fn adverts_of_cohorts_that_live_on_are_renewed_in_time() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicU64, Ordering};

        use crate::agent::AgentOptions;
        use crate::network::Network;
        use crate::protocol::terms::{CohortBeacon, Salt, Terms};

        const DAY: u64 = 86_400;
        let begun = UnixTime(1_800_000_000);
        let clock = Arc::new(AtomicU64::new(begun.0));
        let told = Arc::clone(&clock);
        let options = AgentOptions::alone(Arc::new(move || UnixTime(told.load(Ordering::Relaxed))));
        let mut agent = Agent::start(options).unwrap().0;
        let terms = |agent: &Agent, salt| {
            Terms::with_defaults(
                agent.identity_key(),
                Network::Regtest,
                CohortBeacon::Smt,
                Salt::from_bytes([salt; 16]),
                begun.plus(2_000 * DAY),
            )
        };
        let lives = agent.create_cohort(terms(&agent, 1), Vec::new()).unwrap();
        let ended = agent.create_cohort(terms(&agent, 2), Vec::new()).unwrap();
        let mut invited = terms(&agent, 3);
        invited.invite_only = true;
        let invited = agent.create_cohort(invited, Vec::new()).unwrap();
        let cancel = AggregatorInput::Cancel;
        agent
            .feed((ended, Role::Aggregator), NodeInput::Aggregator(cancel))
            .unwrap();
        let closed = agent.upkeep.adverts[&ended].event.id;
        let of = |agent: &Agent| agent.upkeep.adverts[&lives].event.clone();
        let first = of(&agent);
        assert_eq!(first.expiration(), Some(begun.plus(365 * DAY)));
        let mut published = vec![(0, first.clone())];
        for day in 1..=1_200 {
            let now = begun.plus(day * DAY);
            clock.store(now.0, Ordering::Relaxed);
            agent.keep_up(now).unwrap();
            let event = of(&agent);
            assert!(
                event.expiration().unwrap() > now.plus(80 * DAY),
                "day {day}"
            );
            if published.last().unwrap().1.id != event.id {
                published.push((day, event));
            }
        }
        let days: Vec<u64> = published.iter().map(|(day, _)| *day).collect();
        assert_eq!(days, [0, 275, 550, 825, 1_100]);
        for (_, event) in &published {
            // The same cohort in the same state: relays replace one by the other.
            assert_eq!(event.content, first.content);
            for tag in ["d", "s", "n"] {
                assert_eq!(event.tag(tag), first.tag(tag));
            }
        }
        assert!(published.is_sorted_by_key(|(_, event)| event.created_at));
        assert!(!agent.upkeep.adverts.contains_key(&invited));
        let left = agent.upkeep.adverts.get(&ended).map(|own| own.event.id);
        assert!(
            left.is_none_or(|left| left == closed),
            "what is over expires"
        );
    }

    #[test]
    fn a_relay_of_one_cohort_carries_no_other() {
        let mut upkeep = Upkeep::new(false, UnixTime(0));
        let [one, two] = [1, 2].map(|byte| CohortId::from_bytes([byte; 32]));
        upkeep.hinted(url(1), one);
        assert!(upkeep.carries(&url(1), Some(one)));
        assert!(!upkeep.carries(&url(1), Some(two)) && !upkeep.carries(&url(1), None));
        assert!(upkeep.carries(&url(2), Some(one)) && upkeep.carries(&url(2), None));
        upkeep.not_hinted(&url(1));
        assert!(upkeep.carries(&url(1), None));
    }
}
