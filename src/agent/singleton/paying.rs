//! What a singleton signal costs, and what pays for it.

use std::collections::BTreeSet;

use bitcoin::consensus::encode::deserialize;
use bitcoin::{Address, Amount, FeeRate, OutPoint, Transaction, Txid};

use super::super::dids::parse_document;
use super::super::error::AgentError;
use super::super::handle::AgentHandle;
use super::super::runtime::Agent;
use super::following::standing_of;
use crate::beacon::history::AddressHistory;
use crate::beacon::signal::BeaconOutput;
use crate::beacon::singleton::{Coins, FeeOffer, Replaced, SingletonBeacon, SpendError, SpendPlan};
use crate::chain::ChainBackend;
use crate::did::{BeaconKind, Did, Document};
use crate::keys::OwnKey;
use crate::network::Network;
use crate::protocol::fees::{FeePolicy, RateSource};
use crate::store::{SpendRow, SpendState};

/// Blocks within which the signal should confirm, for the fee estimate.
const FEE_TARGET: u16 = 6;

/// Most singleton beacons of a document whose funds are looked at.
const MOST_ROUTES: usize = 8;

/// How to announce an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announce {
    /// The beacon, by its service id; none: the first that can pay.
    pub service: Option<String>,
    /// The fee rate; none: what the chain backend estimates, within the policy. For an update that is announced
    /// already, a rate replaces the transaction by one that pays more.
    pub fee_rate: Option<FeeRate>,
}

/// A singleton beacon whose key this agent has.
#[derive(Debug, Clone)]
struct Route {
    /// Its service, as absolute DID URL.
    service: String,
    beacon: SingletonBeacon,
}

/// What has to be asked of the chain before money moves.
#[derive(Debug)]
pub struct FundsQuestion {
    network: Network,
    backend: ChainBackend,
    routes: Vec<Route>,
}

/// What the chain answered: what each beacon holds, and the fee rate that gets a transaction confirmed soon.
#[derive(Debug)]
pub struct Funds {
    pub(super) network: Network,
    pub(super) backend: ChainBackend,
    held: Vec<(Route, AddressHistory)>,
    estimate: Option<FeeRate>,
}

/// What an announcement costs, or lacks.
#[derive(Debug, Clone)]
pub struct Quote {
    /// The beacon's service.
    pub service: String,
    /// The beacon's address.
    pub address: Address,
    /// The fee rate.
    pub fee_rate: FeeRate,
    /// What the address holds that can be spent now.
    pub spendable: Amount,
    /// What it holds that can be spent once it is confirmed.
    pub waiting: Amount,
    /// What one announcement and four more after it need at this rate, beginning with nothing.
    pub for_five: Amount,
    /// The transaction that would be replaced.
    pub replaces: Option<Txid>,
    /// What is spent, or why it can not be paid.
    pub plan: Result<SpendPlan, SpendError>,
    /// What the owner should know: one sentence each.
    pub warnings: Vec<String>,
    pub(super) beacon: SingletonBeacon,
}

impl AgentHandle {
    /// What announcing an update of a DID would cost now. Nothing is stored.
    ///
    /// # Errors
    /// [`AgentError`]: no beacon of the DID can be used, or the chain can not be asked.
    pub async fn quote_announcement(
        &self,
        did: &Did,
        announce: &Announce,
    ) -> Result<Quote, AgentError> {
        let of = did.clone();
        let document = self
            .with(move |agent| {
                let row = agent.did_row(&of)?;
                parse_document(&row.document)
            })
            .await??;
        let funds = self.ask_funds(&document, announce.service.clone()).await?;
        let (of, announce) = (did.clone(), announce.clone());
        self.with(move |agent| {
            let pending = agent.pending_version(&of)?;
            agent.quote(&of, pending, &funds, &announce)
        })
        .await?
    }

    /// The signal of a DID's pending update that was signed before and may confirm, if there is one.
    ///
    /// # Errors
    /// [`AgentError::UnknownDid`], [`AgentError::Store`].
    pub async fn announced_already(&self, did: &Did) -> Result<Option<SpendRow>, AgentError> {
        let did = did.clone();
        self.with(move |agent| {
            let Some(version) = agent.pending_version(&did)? else {
                return Ok(None);
            };
            let announced = agent.announced_before(&did, version, None)?;
            Ok(announced.map(|(row, _)| row))
        })
        .await?
    }

    /// Asks the chain what the singleton beacons of a document hold.
    pub(super) async fn ask_funds(
        &self,
        document: &Document,
        service: Option<String>,
    ) -> Result<Funds, AgentError> {
        let document = document.clone();
        let question = self
            .with(move |agent| agent.funds_question(&document, service.as_deref()))
            .await??;
        question.ask().await
    }
}

impl FundsQuestion {
    /// Asks.
    ///
    /// # Errors
    /// [`AgentError::Chain`]: the chain server is of another network, or can not be asked.
    pub async fn ask(self) -> Result<Funds, AgentError> {
        let Self {
            network,
            backend,
            routes,
        } = self;
        backend.prove_network(network).await?;
        let estimate = backend.fee_rate(FEE_TARGET).await.ok().flatten();
        let mut held = Vec::with_capacity(routes.len());
        for route in routes {
            let read = backend.address_history(route.beacon.address()).await?;
            let script = route.beacon.script().to_owned();
            held.push((
                route,
                AddressHistory::new(script, read.tip_height, read.txs),
            ));
        }
        Ok(Funds {
            network,
            backend,
            held,
            estimate,
        })
    }
}

impl Agent {
    /// Which beacons of a document this agent can announce through, the cheapest form first (P2TR, P2WPKH, P2PKH),
    /// and whom to ask what they hold.
    ///
    /// # Errors
    /// [`AgentError::Money`] where money may not move; [`AgentError::Refused`] if no beacon can be used.
    pub fn funds_question(
        &self,
        document: &Document,
        service: Option<&str>,
    ) -> Result<FundsQuestion, AgentError> {
        let did = document.id();
        let network = did.network();
        // What it costs is shown to have it paid: that asks for funds.
        let _permit = self.gate.permit(network)?;
        let backend = self.backend_of(network)?;
        let wanted = service.map(|service| document.absolute(&as_url(service)));
        let mut routes = Vec::new();
        let mut useless = Vec::new();
        for listed in document.beacons() {
            if wanted.as_ref().is_some_and(|wanted| *wanted != listed.id) {
                continue;
            }
            if listed.kind != BeaconKind::Singleton {
                if wanted.is_some() {
                    useless.push(format!("{} is a {}", listed.id, listed.kind));
                }
                continue;
            }
            let beacon = match SingletonBeacon::new(listed.address.clone()) {
                Ok(beacon) => beacon,
                Err(error) => {
                    useless.push(error.to_string());
                    continue;
                }
            };
            if self.key_of_beacon(did, &beacon)?.is_none() {
                useless.push(format!(
                    "{} is not an address of this agent's",
                    listed.address
                ));
                continue;
            }
            routes.push(Route {
                service: listed.id.clone(),
                beacon,
            });
        }
        if routes.is_empty() {
            return Err(AgentError::Refused(match wanted {
                _ if !useless.is_empty() => format!(
                    "no beacon of the document can announce the update singly: {}",
                    useless.join("; ")
                ),
                Some(wanted) => format!("the current document lists no beacon {wanted}"),
                None => {
                    "the current document lists no SingletonBeacon: what was announced elsewhere would never be \
                     found; announce the update in a round of a cohort whose beacon it lists"
                        .to_owned()
                }
            }));
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.beacon.form()));
        routes.truncate(MOST_ROUTES);
        Ok(FundsQuestion {
            network,
            backend,
            routes,
        })
    }

    /// What announcing costs, through the first beacon that can pay. `version` is the one the update leads to, if
    /// there is an update.
    ///
    /// # Errors
    /// [`AgentError::Refused`] if a transaction is to be replaced and the chain does not show what it spends.
    pub fn quote(
        &self,
        did: &Did,
        version: Option<u64>,
        funds: &Funds,
        announce: &Announce,
    ) -> Result<Quote, AgentError> {
        let earlier = match version {
            Some(version) if announce.fee_rate.is_some() => {
                self.announced_before(did, version, Some(funds))?
            }
            _ => None,
        };
        let taken = self.taken(did, version)?;
        let mut first = None;
        for (route, history) in &funds.held {
            if earlier
                .as_ref()
                .is_some_and(|(row, _)| row.address != route.beacon.address().to_string())
            {
                continue;
            }
            let quote =
                self.quote_route(route, history, funds, announce, earlier.as_ref(), &taken)?;
            if quote.plan.is_ok() {
                return Ok(quote);
            }
            first.get_or_insert(quote);
        }
        first.ok_or_else(|| {
            AgentError::Refused(
                "the transaction to be replaced spends from another beacon: name that with --service".into(),
            )
        })
    }

    fn quote_route(
        &self,
        route: &Route,
        history: &AddressHistory,
        funds: &Funds,
        announce: &Announce,
        earlier: Option<&(SpendRow, Transaction)>,
        taken: &BTreeSet<OutPoint>,
    ) -> Result<Quote, AgentError> {
        let beacon = &route.beacon;
        let fees = self.spending_fees(funds.network);
        let limit = fees.ceiling_rate();
        let (rate, warnings) = rate_of(announce.fee_rate, funds.estimate, fees);
        let required = match earlier {
            Some((_, tx)) => outputs_spent(tx, history)?,
            None => Vec::new(),
        };
        let others: Vec<BeaconOutput> = history
            .spendable()
            .into_iter()
            .filter(|coin| !taken.contains(&coin.outpoint))
            .collect();
        let spendable = others
            .iter()
            .try_fold(Amount::ZERO, |sum, coin| sum.checked_add(coin.value))
            .unwrap_or(Amount::MAX_MONEY);
        let offer = FeeOffer {
            rate,
            max_rate: limit,
            replaces: earlier.map(|(row, tx)| Replaced {
                fee: Amount::from_sat(row.fee),
                vsize: u64::try_from(tx.vsize()).unwrap_or(u64::MAX),
            }),
        };
        let coins = Coins {
            required: &required,
            others: &others,
        };
        Ok(Quote {
            service: route.service.clone(),
            address: beacon.address().clone(),
            fee_rate: rate,
            spendable,
            waiting: history.not_yet_spendable(),
            for_five: beacon.funding(5, offer.rate).unwrap_or(Amount::MAX_MONEY),
            replaces: earlier.map(|(row, _)| row.txid),
            plan: beacon.plan(coins, offer),
            warnings,
            beacon: beacon.clone(),
        })
    }

    /// The version that the update leads to which is not on the chain yet, if there is one.
    fn pending_version(&self, did: &Did) -> Result<Option<u64>, AgentError> {
        let row = self.did_row(did)?;
        let next = row.version.saturating_add(1);
        let pending = self.store.view().update(did.as_str(), next)?;
        Ok(pending.map(|update| update.target_version))
    }

    /// The signal that announces an update and may confirm: the last one signed.
    pub(super) fn announced_before(
        &self,
        did: &Did,
        version: u64,
        funds: Option<&Funds>,
    ) -> Result<Option<(SpendRow, Transaction)>, AgentError> {
        let alive = |row: &SpendRow| {
            let standing = &row.standing;
            match standing.state {
                SpendState::Signed | SpendState::Broadcast => true,
                // What it conflicts with is in the mempool, and may be outbid.
                SpendState::Conflicted => standing.height.is_none(),
                SpendState::Confirmed | SpendState::Final | SpendState::Dead => false,
            }
        };
        let signed = self.announcements_now(did, version, funds)?;
        Ok(signed.into_iter().rev().find(|(row, _)| alive(row)))
    }

    /// What was signed to announce an update, in the order of signing: where it stands by the histories that were just
    /// read, or else as it is stored.
    pub(super) fn announcements_now(
        &self,
        did: &Did,
        version: u64,
        funds: Option<&Funds>,
    ) -> Result<Vec<(SpendRow, Transaction)>, AgentError> {
        let history_of = |address: &str| {
            let held = funds.map_or(&[][..], |funds| funds.held.as_slice());
            let mut held = held.iter();
            held.find(|(route, _)| route.beacon.address().to_string() == address)
                .map(|(_, history)| history)
        };
        let spends = self.store.view().spends_of(did.as_str(), version)?;
        spends
            .into_iter()
            .map(|mut row| {
                let tx = transaction_of(&row)?;
                // What was settled six blocks deep stays so; the chain is watched for the rest only.
                let open = !matches!(row.standing.state, SpendState::Final | SpendState::Dead);
                if let Some(history) = history_of(&row.address).filter(|_| open) {
                    row.standing = standing_of(&row, &tx, history);
                }
                Ok((row, tx))
            })
            .collect()
    }

    /// Outputs that signals of other updates spend which may still confirm: whatever the chain shows, they are not
    /// spent twice.
    fn taken(&self, did: &Did, version: Option<u64>) -> Result<BTreeSet<OutPoint>, AgentError> {
        let mut taken = BTreeSet::new();
        for row in self.store.view().open_spends()? {
            if row.did != did.as_str() || Some(row.target_version) != version {
                let tx = transaction_of(&row)?;
                taken.extend(tx.input.iter().map(|input| input.previous_output));
            }
        }
        Ok(taken)
    }

    /// The key of a DID that spends from a beacon.
    pub(super) fn key_of_beacon(
        &self,
        did: &Did,
        beacon: &SingletonBeacon,
    ) -> Result<Option<OwnKey>, AgentError> {
        let mut keys = self.held_keys(did)?.into_iter();
        Ok(keys.find(|key| beacon.is_of(key.public().x_only())))
    }

    /// The bounds of what this agent pays by itself, and signs for others, on a network.
    pub(in crate::agent) fn spending_fees(&self, network: Network) -> FeePolicy {
        let fees = self.money.fee_policy(network);
        FeePolicy {
            ceiling: fees.ceiling.min(self.policy.max_fee_rate),
            ..fees
        }
    }

    /// Where the chain of a network is read.
    pub(in crate::agent) fn backend_of(
        &self,
        network: Network,
    ) -> Result<ChainBackend, AgentError> {
        let watch = self.chains.get(&network);
        watch
            .map(|watch| watch.backend.clone())
            .ok_or(AgentError::NoChain(network))
    }
}

/// The stored transaction.
pub(super) fn transaction_of(row: &SpendRow) -> Result<Transaction, AgentError> {
    deserialize(&row.raw).map_err(|_| AgentError::Defect("a stored transaction does not parse"))
}

/// The outputs of the beacon that a transaction spends, as the chain shows them.
fn outputs_spent(
    tx: &Transaction,
    history: &AddressHistory,
) -> Result<Vec<BeaconOutput>, AgentError> {
    tx.input
        .iter()
        .map(|input| {
            let there = history.output(&input.previous_output);
            there
                .map(|output| output.output)
                .ok_or_else(|| {
                    AgentError::Refused(format!(
                        "the output {} that the announcement spends is no longer on the chain: wait until it is back, \
                         or until it is certain that it is not",
                        input.previous_output
                    ))
                })
        })
        .collect()
}

/// The fee rate: what the owner says; else what the policy makes of the estimate.
fn rate_of(
    asked: Option<FeeRate>,
    estimate: Option<FeeRate>,
    fees: FeePolicy,
) -> (FeeRate, Vec<String>) {
    if let Some(rate) = asked {
        return (rate, Vec::new());
    }
    let chosen = fees.choose(estimate);
    let warning = match chosen.by {
        RateSource::Ceiling => Some(format!(
            "nodes estimate {} sat/vB, over the limit of {} (participant.max_fee_rate and the ceiling under [fees]): \
             it may take long",
            estimate.map_or(u64::from(fees.fallback), FeeRate::to_sat_per_vb_ceil),
            fees.ceiling
        )),
        RateSource::Fallback => Some("the chain server has no fee estimate".to_owned()),
        RateSource::Estimate | RateSource::Floor => None,
    };
    (chosen.rate, warning.into_iter().collect())
}

/// A service id as people give it: `initialP2TR`, `#initialP2TR`, or the whole DID URL.
fn as_url(service: &str) -> String {
    if service.starts_with("did:") || service.starts_with('#') {
        service.to_owned()
    } else {
        format!("#{service}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_s_limits_bound_estimates_and_nothing_is_free() {
        let vb = |rate| FeeRate::from_sat_per_vb(rate).unwrap();
        let fees = FeePolicy {
            floor: 2,
            ceiling: 50,
            fallback: 4,
        };
        assert_eq!(rate_of(None, Some(vb(7)), fees), (vb(7), vec![]));
        assert_eq!(rate_of(None, Some(FeeRate::ZERO), fees).0, vb(2));
        let (rate, warnings) = rate_of(None, None, fees);
        assert_eq!((rate, warnings.len()), (vb(4), 1));
        let (rate, warnings) = rate_of(None, Some(vb(900)), fees);
        assert_eq!((rate, warnings.len()), (vb(50), 1));
        // What is asked for is refused by the plan, not bent here.
        assert_eq!(rate_of(Some(vb(900)), Some(vb(3)), fees), (vb(900), vec![]));
    }

    #[test]
    fn services_are_named_as_people_name_them() {
        for named in ["initialP2TR", "#initialP2TR"] {
            assert_eq!(as_url(named), "#initialP2TR");
        }
        assert_eq!(as_url("did:btcr2:x#a"), "did:btcr2:x#a");
    }
}
