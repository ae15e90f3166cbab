//! A cohort as a test knows it, and how it comes about: advert, joining, funds, DIDs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Address, Amount, OutPoint, Transaction, Txid};
use btcr2_agent::agent::What;
use btcr2_agent::agent::adverts::check_advert;
use btcr2_agent::did::Did;
use btcr2_agent::hash::{CohortId, SignalBytes, UpdateHash};
use btcr2_agent::network::Network;
use btcr2_agent::nostr::link::AdvertQuery;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::store::Role;

use super::play::{POLL, Play};

/// Paid to every beacon: enough for many rounds.
const FUNDS: Amount = Amount::from_sat(100_000);

/// A cohort as the test knows it: what the agents' own files are compared with.
pub struct Company {
    pub id: CohortId,
    pub beacon: CohortBeacon,
    pub aggregator: usize,
    pub members: Vec<usize>,
    pub address: Address,
    pub dids: Vec<Known>,
    pub signals: Vec<Announced>,
    /// What the next signal must spend.
    pub tip: OutPoint,
    /// Rounds opened so far.
    pub rounds: u32,
    /// Rounds that are signed through a k-of-n leaf.
    pub fallbacks: BTreeSet<Round>,
    /// Rounds held since the backup that the aggregator was restored from: it knows what they announced, and no more.
    pub forgotten: BTreeSet<Round>,
}

/// A DID, who controls it and the version it must be at.
#[derive(Debug, Clone)]
pub struct Known {
    pub member: usize,
    pub did: Did,
    pub version: u64,
}

/// A signal on the chain, with what it announces.
pub struct Announced {
    pub round: Round,
    /// The transaction that confirmed.
    pub txid: Txid,
    /// The one that proofs and announcements name: the first that was signed, at the lowest fee.
    pub first: Txid,
    pub tx: Transaction,
    pub height: u32,
    pub signal: SignalBytes,
    /// By DID.
    pub updates: BTreeMap<String, UpdateHash>,
}

impl Play {
    /// Advertises a cohort, has everybody join, freezes the set and funds the beacon.
    pub async fn found(
        &mut self,
        beacon: CohortBeacon,
        aggregator: usize,
        members: &[usize],
    ) -> Company {
        self.found_with(beacon, aggregator, members, &[], |_| {})
            .await
    }

    /// The same with other terms, and with these members on the seat of their identity.
    pub async fn found_with(
        &mut self,
        beacon: CohortBeacon,
        aggregator: usize,
        members: &[usize],
        by_identity: &[usize],
        change: impl FnOnce(&mut Terms) + Send + 'static,
    ) -> Company {
        let mark = self.mark();
        let seats = u16::try_from(members.len()).unwrap();
        let id = self
            .ask(aggregator, move |agent| {
                let mut terms = Terms::with_defaults(
                    agent.identity_key(),
                    Network::Regtest,
                    beacon,
                    Salt::from_bytes(rand::random()),
                    agent.time().plus(3_600),
                );
                terms.seats_min = seats;
                terms.seats_max = seats;
                change(&mut terms);
                agent.create_cohort(terms, Vec::new())
            })
            .await;
        for member in members {
            self.join(*member, id, by_identity.contains(member)).await;
        }
        self.reported("a frozen set", mark, id, Role::Participant, members, |r| {
            matches!(r, Report::Frozen { .. })
        })
        .await;
        let (address, least) = self
            .ask(aggregator, move |agent| {
                let (address, least, _) = agent.funding(id)?;
                Ok((address, least))
            })
            .await;
        assert!(least <= FUNDS);
        self.stage.fund(&address, FUNDS).unwrap();
        let ready = |report: &Report| matches!(report, Report::TipChanged { ready: true, .. });
        self.reported("funds", mark, id, Role::Aggregator, &[aggregator], ready)
            .await;
        self.reported("funds", mark, id, Role::Participant, members, ready)
            .await;
        let tip = self.funding_output(&address);
        Company {
            id,
            beacon,
            aggregator,
            members: members.to_vec(),
            address,
            dids: Vec::new(),
            signals: Vec::new(),
            tip,
            rounds: 0,
            fallbacks: BTreeSet::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// The one output at the address.
    fn funding_output(&self, address: &Address) -> OutPoint {
        let script = address.script_pubkey();
        let history = self.stage.chain.history(&script).unwrap();
        assert_eq!(history.len(), 1, "funded once");
        let tx = &history[0].tx;
        let vout = tx.output.iter().position(|o| o.script_pubkey == script);
        OutPoint::new(tx.compute_txid(), u32::try_from(vout.unwrap()).unwrap())
    }

    /// An agent finds the advert on its relays, checks it and opts in.
    async fn join(&self, member: usize, cohort: CohortId, by_identity: bool) {
        let link = Arc::clone(self.stage.actors[member].handle.link());
        let query = AdvertQuery {
            networks: vec![Network::Regtest],
            ..AdvertQuery::default()
        };
        let search = async {
            loop {
                // A relay that never answers costs the whole of this.
                let fetched = link
                    .fetch(&query.filter(), Duration::from_millis(400))
                    .await;
                let adverts = fetched.events.iter();
                let found = adverts
                    .filter_map(|(_, event)| check_advert(event, true).ok())
                    .find(|advert| advert.event.cohort == cohort);
                if let Some(advert) = found {
                    return advert;
                }
                // Relays that answer at once would keep virtual time from passing.
                tokio::time::sleep(POLL).await;
            }
        };
        let advert = tokio::time::timeout(self.patience, search)
            .await
            .unwrap_or_else(|_| panic!("agent {member} finds no advert"));
        let relays = advert.event.relays.iter().map(ToString::to_string);
        let (content, relays) = (advert.event.content, relays.collect::<Vec<_>>());
        self.ask(member, move |agent| {
            agent.join_cohort(&content, &relays, by_identity, None)
        })
        .await;
    }

    /// Each of these members makes a DID bound to the beacon; waits until all may be used. Gives their
    /// places in [`Company::dids`].
    pub async fn create_dids(&mut self, company: &mut Company, members: &[usize]) -> Vec<usize> {
        let (mark, id) = (self.mark(), company.id);
        let first = company.dids.len();
        for member in members {
            let did = self
                .ask(*member, move |agent| agent.create_cohort_did(id))
                .await;
            company.dids.push(Known {
                member: *member,
                did,
                version: 1,
            });
        }
        let wanted = company.dids[first..].to_vec();
        self.until("usable DIDs", mark, |seen| {
            wanted.iter().all(|known| {
                seen.iter().any(|(by, event)| {
                    *by == known.member
                        && matches!(&event.what, What::DidReady { did } if *did == known.did.as_str())
                })
            })
        })
        .await;
        (first..company.dids.len()).collect()
    }
}
