//! The state of everything at once.

use std::time::Duration;

use super::AgentBackend;
use super::confirmations::alarm_view;
use crate::agent::control::views as v;
use crate::agent::control::{Failure, PeerText};
use crate::agent::events::What;
use crate::agent::journal::UNKNOWN_SPEND;
use crate::agent::node::Node;
use crate::agent::runtime::Agent;
use crate::chain::{ChainBackend, ChainError};
use crate::hash::CohortId;
use crate::network::Network;

/// Time a chain server gets to answer `status`.
const LOOK: Duration = Duration::from_secs(3);

impl AgentBackend {
    pub(super) async fn status_view(&self) -> Result<v::StatusView, Failure> {
        self.check_chains().await?;
        let relays = self.relay_views().await?;
        let (home, configured, started) = (
            self.home().root().display().to_string(),
            self.config().network,
            self.inner.started,
        );
        self.with(move |agent| {
            let live: Vec<&Node> = agent
                .nodes
                .values()
                .filter(|node| !node.is_over())
                .collect();
            let delivery = live
                .iter()
                .map(|node| {
                    Ok(v::CohortDeliveryView {
                        cohort: node.id.0,
                        messages: agent.delivery_views(node)?,
                    })
                })
                .collect::<Result<_, Failure>>()?;
            Ok(v::StatusView {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                now: agent.now(),
                started_at: started,
                home,
                identity: agent.identity.public(),
                chains: agent.chain_views(configured),
                relays,
                cohorts: agent.cohort_list(false).cohorts,
                delivery,
                outbox: agent.outbox_view(),
                ignored: agent
                    .counters
                    .iter()
                    .map(|(reason, count)| v::CounterView {
                        reason: reason.clone(),
                        count: *count,
                    })
                    .collect(),
                adverts: agent.advert_views(),
                alarms: agent.alarm_views(),
            })
        })
        .await
    }

    /// Looks at the chains that are in use and that nobody watches yet, where looking tells no stranger
    /// anything new: the operator named the server, or it is on this machine.
    pub async fn check_chains(&self) -> Result<(), Failure> {
        let configured = self.config().network;
        let unwatched: Vec<(Network, ChainBackend)> = self
            .with(move |agent| {
                let in_use = agent.networks_in_use(configured);
                Ok(agent
                    .chains
                    .iter()
                    .filter(|(network, _)| in_use.contains(network))
                    .filter(|(network, _)| !agent.watches(**network))
                    .map(|(network, watch)| (*network, watch.backend.clone()))
                    .collect())
            })
            .await?;
        for (network, backend) in unwatched {
            let by_hand = self.config().chain.of(network).url.is_some();
            if !by_hand && network != Network::Regtest {
                continue;
            }
            let look = async {
                backend.prove_network(network).await?;
                Ok::<_, ChainError>(backend.tip().await?.height)
            };
            let state = match tokio::time::timeout(LOOK, look).await {
                Ok(state) => state.map_err(|error| error.to_string()),
                Err(_) => Err(format!(
                    "the chain server {} did not answer within {} s",
                    backend.host(),
                    LOOK.as_secs()
                )),
            };
            self.with(move |agent| {
                agent.note_chain(network, state);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

impl Agent {
    /// Whether a cohort has its address on this network watched.
    fn watches(&self, network: Network) -> bool {
        let mut nodes = self.nodes.values();
        nodes.any(|node| node.terms().network == network && node.watches_chain())
    }

    fn note_chain(&mut self, network: Network, state: Result<u32, String>) {
        let known = self.chain_states.entry(network).or_default();
        let before = (known.height.is_some(), known.error.clone());
        match &state {
            Ok(height) => {
                known.height = Some(*height);
                known.error = None;
            }
            Err(error) => known.error = Some(error.clone()),
        }
        if before != (known.height.is_some(), known.error.clone()) {
            self.emit(None, What::Chain { network, state });
        }
    }

    fn chain_views(&self, configured: Network) -> Vec<v::ChainView> {
        let in_use = self.networks_in_use(configured);
        self.chains
            .iter()
            .filter(|(network, _)| {
                in_use.contains(network) || self.chain_states.contains_key(network)
            })
            .map(|(network, watch)| {
                let state = self.chain_states.get(network).cloned().unwrap_or_default();
                v::ChainView {
                    network: *network,
                    backend: watch.backend.host().to_owned(),
                    height: state.height,
                    seen_at: None,
                    problem: state.error.map(PeerText::from),
                }
            })
            .collect()
    }

    /// Who serves the advert of one of this agent's cohorts to strangers.
    pub(super) fn advert_view(&self, cohort: CohortId) -> Option<v::AdvertServedView> {
        let mut views = self.advert_views().into_iter();
        views.find(|view| view.cohort == cohort)
    }

    /// Who serves this agent's adverts to strangers.
    fn advert_views(&self) -> Vec<v::AdvertServedView> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let adverts = self.upkeep.adverts.iter();
        adverts
            .map(|(cohort, advert)| {
                let (served, relays) = advert.tally();
                let missing = advert.served.iter().filter_map(|(url, served)| {
                    Some(v::MissingAtView {
                        url: url.to_string(),
                        reason: PeerText::new(served.as_ref().err()?),
                    })
                });
                v::AdvertServedView {
                    cohort: *cohort,
                    checked_at: advert.checked,
                    served: count(served),
                    relays: count(relays),
                    missing: missing.collect(),
                }
            })
            .collect()
    }

    fn relay_alarms(&self) -> Vec<v::AlarmView> {
        let hidden = self.upkeep.adverts.iter().filter(|(_, a)| a.is_hidden());
        let mut alarms: Vec<v::AlarmView> = hidden
            .map(|(cohort, advert)| {
                let (served, relays) = advert.tally();
                v::AlarmView {
                    at: advert.checked.unwrap_or_default(),
                    code: "advert_not_served".to_owned(),
                    text: PeerText::from(format!(
                        "cohort {}: its advert is served by {served} of {relays} relays",
                        cohort.short()
                    )),
                    remedy: Some(
                        "it was sent to them again; `btcr2-agent relay probe` shows what they take"
                            .to_owned(),
                    ),
                }
            })
            .collect();
        if let Some((ahead, relays)) = self.upkeep.clock_off() {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            alarms.push(v::AlarmView {
                at: self.now(),
                code: "clock_off".to_owned(),
                text: PeerText::from(format!(
                    "this machine's clock is {} s {way} the clocks of {relays} relays",
                    ahead.unsigned_abs()
                )),
                remedy: Some(
                    "set the clock (and keep it set, by NTP): relays refuse events dated ahead"
                        .to_owned(),
                ),
            });
        }
        alarms
    }

    fn alarm_views(&self) -> Vec<v::AlarmView> {
        let mut alarms: Vec<v::AlarmView> = self
            .nodes
            .values()
            .flat_map(|node| {
                let over = node.is_over();
                let open = node.journal.open_alarms();
                // The money and the DIDs of a cohort outlive it.
                open.filter(move |alarm| !over || alarm.code == UNKNOWN_SPEND)
                    .map(move |alarm| alarm_view(node, alarm))
            })
            .collect();
        alarms.extend(self.relay_alarms());
        if let Some(sighting) = &self.former_copy {
            alarms.push(v::AlarmView {
                at: sighting.seen_at,
                code: "another_copy".to_owned(),
                text: PeerText::from(sighting.to_string()),
                remedy: Some("stop the other one, for good".to_owned()),
            });
        }
        if self.gate.is_stopped() {
            alarms.push(v::AlarmView {
                at: self.now(),
                code: "money_stopped".to_owned(),
                text: PeerText::from(
                    "money is stopped: nothing is signed or sent, and nobody is asked to pay"
                        .to_owned(),
                ),
                remedy: Some(
                    "`btcr2-agent money status` says since when, and how it is undone".to_owned(),
                ),
            });
        }
        for (network, state) in &self.chain_states {
            if let Some(error) = &state.error {
                alarms.push(v::AlarmView {
                    at: self.now(),
                    code: "chain_unusable".to_owned(),
                    text: PeerText::from(format!("{network}: {error}")),
                    remedy: Some(format!(
                        "until it answers, nothing is done on {network}: check chain.{network}.url in config.toml"
                    )),
                });
            }
        }
        alarms
    }
}
