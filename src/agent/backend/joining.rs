//! Looking a cohort up, and joining it.

use std::time::Duration;

use bitcoin::address::NetworkUnchecked;
use bitcoin::{Address, ScriptBuf};

use super::AgentBackend;
use super::discover::{FoundAdvert, INVITED, advert_view, filter_of, search_at, stored_view};
use super::terms::objections;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::launch::{agent_failure, store_failure};
use crate::config;
use crate::hash::CohortId;
use crate::keys::NostrKey;
use crate::network::Network;
use crate::nostr::advert::ShareLink;
use crate::nostr::event::Event;
use crate::nostr::link::RelayConfig;
use crate::nostr::{RelayUrl, advert};
use crate::protocol::terms::Terms;
use crate::store::{AdvertRow, Role};

/// Time that relays get to serve an advert.
const TIMEOUT: Duration = Duration::from_secs(8);

/// What was named: the cohort, its aggregator and where it may be found.
struct Named {
    cohort: CohortId,
    author: Option<NostrKey>,
    hints: Vec<RelayUrl>,
}

impl AgentBackend {
    /// Fetches and checks a cohort's advert.
    ///
    /// This agent's relays are asked first. Only if none of them has it, the relays of a share link are, those
    /// that are public and `wss`: whoever pasted the link named them. They get a question and nothing else, on
    /// a connection without a key. The relays of the advert itself are not contacted before joining.
    pub(super) async fn look_up(&self, target: &r::JoinTarget) -> Result<v::AdvertView, Failure> {
        let named = named(target)?;
        let of = named.cohort;
        let offered = self
            .with(move |agent| agent.remember_offer(of).map_err(agent_failure))
            .await?;
        if offered {
            // It came from the aggregator, over a channel: relays have nothing to add.
            return self.stored(of).await;
        }
        let filter = filter_of(named.cohort, named.author);
        let mut found = match self.search(&filter, TIMEOUT).await {
            Ok(found) => found,
            Err(failure) if named.hints.is_empty() => return Err(failure),
            Err(_) => super::discover::Found::default(),
        };
        let mut asked = self.handle().link().relays().len();
        if found.adverts.is_empty() && !named.hints.is_empty() {
            let known = self.handle().link().relays();
            let relays: Vec<RelayConfig> = named
                .hints
                .iter()
                .filter(|url| known.iter().all(|relay| relay.url != **url))
                .cloned()
                .map(RelayConfig::advertised)
                .collect();
            if !relays.is_empty() {
                asked += relays.len();
                found = search_at(relays, &filter, TIMEOUT).await?;
            }
        }
        let config = self.config().clone();
        let asked = super::delivery::number(asked);
        self.with(move |agent| {
            agent.remember_adverts(&found)?;
            let context = agent.advert_context()?;
            let now = agent.now();
            let advert: Option<&FoundAdvert> = found
                .adverts
                .iter()
                .find(|advert| advert.checked.event.cohort == named.cohort);
            if let Some(advert) = advert {
                return Ok(advert_view(advert, asked, &config, &context, now));
            }
            // An invitation, or an advert seen before.
            let row = agent.store.view().advert(named.cohort);
            let row = row.map_err(store_failure)?.ok_or_else(|| {
                Failure::new(
                    ErrorCode::NotFound,
                    format!("no relay served an advert of cohort {}", named.cohort.short()),
                )
                .remedy("check the link, or name more relays: `btcr2-agent cohort discover --relay <url>`")
            })?;
            let (terms, _) = Terms::parse(&row.content).map_err(bad_terms)?;
            Ok(stored_view(&row, &terms, &config, &context, now))
        })
        .await
    }

    /// Terms that are stored: of an offer.
    async fn stored(&self, cohort: CohortId) -> Result<v::AdvertView, Failure> {
        let config = self.config().clone();
        self.with(move |agent| {
            let context = agent.advert_context()?;
            let row = agent.store.view().advert(cohort).map_err(store_failure)?;
            let row = row.ok_or_else(|| {
                Failure::new(ErrorCode::NotFound, "the offer is not known any more")
            })?;
            let (terms, _) = Terms::parse(&row.content).map_err(bad_terms)?;
            Ok(stored_view(&row, &terms, &config, &context, agent.now()))
        })
        .await
    }

    /// Asks for a seat under terms that were shown: the cohort id is their hash.
    pub(super) async fn join(&self, args: r::Join) -> Result<v::CohortView, Failure> {
        let named = named(&args.target)?;
        if named.cohort != args.cohort {
            return Err(Failure::new(
                ErrorCode::BadAdvert,
                "the terms that were agreed to are of another cohort than the one named",
            ));
        }
        let cohort = args.cohort;
        self.with(move |agent| agent.remember_offer(cohort).map_err(agent_failure))
            .await?;
        let read = move |agent: &mut crate::agent::Agent| {
            agent.store.view().advert(cohort).map_err(store_failure)
        };
        let row = match self.with(read).await? {
            Some(row) => row,
            None => {
                self.look_up(&args.target).await?;
                self.with(read).await?.ok_or_else(|| {
                    Failure::new(ErrorCode::NotFound, "the advert is not known any more")
                        .remedy("look it up again")
                })?
            }
        };
        let (terms, _) = Terms::parse(&row.content).map_err(bad_terms)?;
        self.use_relays_of(terms.network).await?;
        let config = self.config().clone();
        let identity_seat =
            args.seat == r::SeatKey::Identity || config.privacy.seat == config::SeatKey::Identity;
        let payee = args
            .payee
            .as_deref()
            .map(|address| payee_script(address, terms.network))
            .transpose()?;
        let seat = self
            .with(move |agent| {
                if !agent.may_ask(cohort) {
                    return Err(Failure::new(
                        ErrorCode::WrongPhase,
                        format!("this agent has joined cohort {} already", cohort.short()),
                    ));
                }
                Ok(agent.seat_key(cohort, identity_seat))
            })
            .await?;
        let shown = self.shown(&terms, seat, &args).await?;
        self.with(move |agent| {
            may_join(&row, &terms, agent.now())?;
            let context = agent.advert_context()?;
            if let Some(objection) = objections(&terms, &config, context.memberships).first() {
                return Err(Failure::new(
                    ErrorCode::RefusedByPolicy,
                    format!("this agent's policy forbids it: {objection}"),
                )
                .remedy(
                    "change the setting in config.toml and restart, if that is what you want",
                ));
            }
            let hints: Vec<String> = hints_of(&row).iter().map(ToString::to_string).collect();
            if hints.is_empty() && agent.link.relays().iter().all(|relay| !relay.write) {
                return Err(Failure::new(
                    ErrorCode::RelaysUnreachable,
                    "there is no relay to send the opt-in to",
                )
                .remedy("add one with `btcr2-agent relay add <url>`"));
            }
            let cohort = agent
                .join_cohort_showing(&row.content, &hints, identity_seat, payee, shown)
                .map_err(agent_failure)?;
            agent.cohort_view((cohort, Role::Participant), 0)
        })
        .await
    }
}

fn may_join(row: &AdvertRow, terms: &Terms, now: crate::time::UnixTime) -> Result<(), Failure> {
    let cohort = row.cohort.short();
    if row.expires < now || terms.join_by < now {
        return Err(Failure::new(
            ErrorCode::BadAdvert,
            format!("cohort {cohort} takes no opt-ins any more: its time to join is over"),
        ));
    }
    if row.status != INVITED && row.status != advert::AdvertStatus::Open.name() {
        return Err(Failure::new(
            ErrorCode::WrongPhase,
            format!("cohort {cohort} takes no opt-ins: it is {}", row.status),
        ));
    }
    Ok(())
}

/// Where the aggregator says it reads: of its advert, else where the invitation named.
fn hints_of(row: &AdvertRow) -> Vec<RelayUrl> {
    let event = Event::from_json(&row.event).and_then(Event::verify);
    match event.map(|event| advert::decode(&event, true)) {
        Ok(Ok(event)) => event.relays,
        _ => row.relays.clone(),
    }
}

fn named(target: &r::JoinTarget) -> Result<Named, Failure> {
    match target {
        r::JoinTarget::Cohort(cohort) => Ok(Named {
            cohort: *cohort,
            author: None,
            hints: Vec::new(),
        }),
        r::JoinTarget::Naddr(naddr) => {
            let link = ShareLink::decode(naddr.as_str(), false).map_err(|error| {
                Failure::new(ErrorCode::InvalidValue, error.to_string())
                    .remedy("copy the whole link; its last characters are a checksum")
            })?;
            Ok(Named {
                cohort: link.cohort,
                author: Some(link.author),
                hints: link.relays,
            })
        }
    }
}

pub(super) fn payee_script(address: &str, network: Network) -> Result<ScriptBuf, Failure> {
    let wrong = || {
        Failure::new(
            ErrorCode::InvalidValue,
            format!("{address} is not an address on {network}"),
        )
    };
    let address: Address<NetworkUnchecked> = address.parse().map_err(|_| wrong())?;
    let address = address
        .require_network(network.bitcoin_network())
        .map_err(|_| wrong())?;
    let script = address.script_pubkey();
    if crate::protocol::set::payee_is_allowed(&script) {
        Ok(script)
    } else {
        Err(Failure::new(
            ErrorCode::InvalidValue,
            "refunds are paid to P2WPKH, P2WSH or P2TR addresses only",
        ))
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn bad_terms(error: crate::protocol::terms::TermsError) -> Failure {
    Failure::new(ErrorCode::BadAdvert, error.to_string())
}
