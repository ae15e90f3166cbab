//! Driving a stage full of agents: who joins what, who updates, what is waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use bitcoin::{Address, Amount, OutPoint, Transaction, Txid};
use btcr2_agent::agent::adverts::check_advert;
use btcr2_agent::agent::dids::{Change, QueuedUpdate};
use btcr2_agent::agent::{Agent, AgentError, AgentEvent, What, timeline};
use btcr2_agent::demo::DemoError;
use btcr2_agent::demo::stage::{Part, Stage};
use btcr2_agent::did::Did;
use btcr2_agent::hash::{CohortId, SignalBytes, UpdateHash};
use btcr2_agent::network::Network;
use btcr2_agent::nostr::link::AdvertQuery;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{AggregatorInput, FINAL_DEPTH};
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::store::Role;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

/// Far longer than anything takes: only a failure waits for it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often agents look at the chain.
pub const POLL: Duration = Duration::from_millis(50);

/// Paid to every beacon: enough for many rounds.
const FUNDS: Amount = Amount::from_sat(100_000);

/// A stage, its agents, and everything they have reported.
pub struct Play {
    pub stage: Stage,
    pub seen: Vec<(usize, AgentEvent)>,
    events: UnboundedReceiver<(usize, AgentEvent)>,
    homes: TempDir,
}

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
    pub txid: Txid,
    pub tx: Transaction,
    pub height: u32,
    pub signal: SignalBytes,
    /// By DID.
    pub updates: BTreeMap<String, UpdateHash>,
}

impl Play {
    /// A stage without agents.
    pub async fn empty() -> Self {
        let (sender, events) = unbounded_channel();
        Self {
            stage: Stage::open(sender).await.unwrap(),
            seen: Vec::new(),
            events,
            homes: tempfile::tempdir().unwrap(),
        }
    }

    /// A stage with so many agents, connected to its relay.
    pub async fn open(agents: usize) -> Self {
        Self::with_parts(&vec![Part::new(POLL); agents]).await
    }

    /// A stage with an agent for each part.
    pub async fn with_parts(parts: &[Part]) -> Self {
        let mut play = Self::empty().await;
        for part in parts {
            play.enter(part.clone());
        }
        play.connected(0..parts.len()).await;
        play
    }

    pub fn enter(&mut self, part: Part) -> usize {
        let name = format!("agent-{}", self.stage.actors.len());
        let home = self.homes.path().join(&name);
        self.stage.enter_as(&name, &home, part).unwrap()
    }

    /// Waits until each of these is connected to a relay.
    pub async fn connected(&mut self, actors: std::ops::Range<usize>) {
        self.until("connections", 0, |seen| {
            actors.clone().all(|actor| {
                seen.iter().any(|(by, event)| {
                    *by == actor
                        && matches!(
                            event.what,
                            What::Relay {
                                connected: true,
                                ..
                            }
                        )
                })
            })
        })
        .await;
    }

    /// Starts these agents again, and waits until they are connected.
    pub async fn resume(&mut self, actors: &[usize]) {
        let mark = self.mark();
        for actor in actors {
            self.stage.resume(*actor).unwrap();
        }
        self.until("connections", mark, |seen| {
            actors.iter().all(|actor| {
                seen.iter().any(|(by, event)| {
                    by == actor
                        && matches!(
                            event.what,
                            What::Relay {
                                connected: true,
                                ..
                            }
                        )
                })
            })
        })
        .await;
    }

    /// Waits until these members have responded to the round that opened after `mark`.
    pub async fn responded(&mut self, company: &Company, mark: usize, members: &[usize]) {
        self.reported(
            "responses",
            mark,
            company.id,
            Role::Participant,
            members,
            |r| matches!(r, Report::Responded { .. }),
        )
        .await;
    }

    /// Waits until the aggregator has so many responses.
    pub async fn responses(&mut self, company: &Company, mark: usize, count: u16) {
        let aggregator = [company.aggregator];
        self.reported(
            "responses",
            mark,
            company.id,
            Role::Aggregator,
            &aggregator,
            |r| matches!(r, Report::ResponseReceived { responses, .. } if *responses == count),
        )
        .await;
    }

    /// Has an agent do something.
    pub async fn ask<R: Send + 'static>(
        &self,
        actor: usize,
        job: impl FnOnce(&mut Agent) -> Result<R, AgentError> + Send + 'static,
    ) -> R {
        self.stage.ask(actor, job).await.unwrap()
    }

    /// How many events there are: what comes later is after this mark.
    pub fn mark(&self) -> usize {
        self.seen.len()
    }

    /// Takes in events until those after `mark` are what is waited for.
    pub async fn until(
        &mut self,
        what: &str,
        mark: usize,
        done: impl Fn(&[(usize, AgentEvent)]) -> bool,
    ) {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.seen[mark..]) {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some((actor, event))) => {
                    self.dismay(actor, &event, what);
                    self.seen.push((actor, event));
                }
                Ok(None) => panic!("every agent stopped before {what}"),
                Err(_) => panic!("waited in vain for {what}:\n{}", self.story()),
            }
        }
    }

    /// Waits until each of `actors` has reported what `pick` takes, of this cohort, after `mark`.
    pub async fn reported(
        &mut self,
        what: &str,
        mark: usize,
        cohort: CohortId,
        role: Role,
        actors: &[usize],
        pick: impl Fn(&Report) -> bool,
    ) {
        self.until(what, mark, |seen| {
            actors.iter().all(|actor| {
                seen.iter().any(|(by, event)| {
                    by == actor
                        && event.cohort == Some(cohort)
                        && event.role == Some(role)
                        && matches!(&event.what, What::Report(report) if pick(report))
                })
            })
        })
        .await;
    }

    /// Among honest agents nothing of this may ever be reported.
    fn dismay(&self, actor: usize, event: &AgentEvent, waiting: &str) {
        if let What::Report(
            report @ (Report::RoundFailed { .. }
            | Report::BroadcastFailed { .. }
            | Report::MemberBlamed { .. }
            | Report::UnknownSpend { .. }
            | Report::SignalReorganised { .. }
            | Report::Alarm { .. }
            | Report::RequestRefused { .. }
            | Report::MyRequestRefused { .. }
            | Report::Ended { .. }),
        ) = &event.what
        {
            panic!(
                "agent {actor} reports {report:?} while waiting for {waiting}:\n{}",
                self.story()
            );
        }
    }

    /// The last events, for a failure's reader.
    fn story(&self) -> String {
        let lines = self.seen.iter().rev().take(60).rev();
        lines
            .map(|(actor, event)| match timeline::of_event(0, None, event) {
                Some(line) => format!("  {actor} {:?} {}\n", event.role, line.text),
                None => format!("  {actor} {:?}\n", event.what),
            })
            .collect()
    }

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
        }
    }

    /// The one output at the address.
    fn funding_output(&self, address: &Address) -> OutPoint {
        let chain = self.stage.chain.chain();
        let chain = chain.lock().unwrap();
        let script = address.script_pubkey();
        let history = chain.history(&script);
        assert_eq!(history.txs.len(), 1, "funded once");
        let tx = &history.txs[0].tx;
        let vout = tx.output.iter().position(|o| o.script_pubkey == script);
        OutPoint::new(tx.compute_txid(), u32::try_from(vout.unwrap()).unwrap())
    }

    /// An agent finds the advert on its relays, checks it and opts in.
    async fn join(&self, member: usize, cohort: CohortId, by_identity: bool) {
        let link = std::sync::Arc::clone(self.stage.actors[member].handle.link());
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
            }
        };
        let advert = tokio::time::timeout(PATIENCE, search)
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

    /// Signs and queues an update of each of these DIDs; gives the announcement to expect.
    pub async fn queue(
        &mut self,
        company: &Company,
        updating: &[usize],
    ) -> BTreeMap<String, UpdateHash> {
        let mut updates = BTreeMap::new();
        if updating
            .iter()
            .any(|place| company.dids[*place].version > 1)
        {
            // A further update has to wait until the one before is final.
            self.stage.mine(FINAL_DEPTH - 1).unwrap();
        }
        for place in updating {
            let queued = self.queued(company, *place).await;
            assert_eq!(queued.target_version, company.dids[*place].version + 1);
            updates.insert(queued.did.to_string(), queued.hash);
        }
        updates
    }

    /// Queues an update as soon as the member has seen the one before deep enough in the chain.
    pub async fn queued(&mut self, company: &Company, place: usize) -> QueuedUpdate {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_queue(company, place).await {
                Ok(queued) => return queued,
                Err(DemoError::Agent {
                    error: AgentError::Refused(why),
                    ..
                }) if why.contains("not final yet") && Instant::now() < deadline => {}
                Err(error) => panic!("not queued: {error}"),
            }
            // Nothing is reported when only the height grows.
            if let Ok(Some(event)) = tokio::time::timeout(POLL, self.events.recv()).await {
                self.seen.push(event);
            }
        }
    }

    /// Signs an update of a DID to its next version and queues it, if the agent agrees.
    pub async fn try_queue(
        &self,
        company: &Company,
        place: usize,
    ) -> Result<QueuedUpdate, DemoError> {
        let Known {
            member,
            did,
            version,
        } = company.dids[place].clone();
        let (id, service) = (company.id, service_name(version + 1));
        self.stage
            .ask(member, move |agent| {
                let change = Change::AddService {
                    id: service,
                    kind: "LinkedDomains".into(),
                    endpoint: serde_json::json!("https://example.com/"),
                };
                agent.update_did(&did, &[change], Some(id))
            })
            .await
    }

    pub async fn open_round(&mut self, company: &mut Company) -> Round {
        let id = company.id;
        company.rounds += 1;
        self.ask(company.aggregator, move |agent| {
            agent.command_aggregator(id, AggregatorInput::OpenRound)
        })
        .await;
        Round(company.rounds)
    }

    /// A round in which these DIDs are updated and all others decline, up to its confirmation.
    pub async fn round(&mut self, company: &mut Company, updating: &[usize]) {
        let mark = self.mark();
        let updates = self.queue(company, updating).await;
        let round = self.open_round(company).await;
        self.finish_round(company, round, mark, updates).await;
    }

    /// Waits for a round's broadcast, has it mined and sees it confirmed by everybody.
    pub async fn finish_round(
        &mut self,
        company: &mut Company,
        round: Round,
        mark: usize,
        updates: BTreeMap<String, UpdateHash>,
    ) {
        self.broadcast(company, round, mark).await;
        let height = self.stage.mine(1).unwrap();
        self.confirmed(company, round, mark, height, updates).await;
    }

    /// Waits for the aggregator's word that the chain took the round's transaction.
    pub async fn broadcast(&mut self, company: &Company, round: Round, mark: usize) {
        let aggregator = [company.aggregator];
        self.reported(
            "a broadcast",
            mark,
            company.id,
            Role::Aggregator,
            &aggregator,
            |report| matches!(report, Report::SignalBroadcast { round: of, .. } if *of == round),
        )
        .await;
    }

    /// Waits until everybody has seen the round's transaction in the block at `height`, and notes it.
    pub async fn confirmed(
        &mut self,
        company: &mut Company,
        round: Round,
        mark: usize,
        height: u32,
        updates: BTreeMap<String, UpdateHash>,
    ) {
        let txid = self.seen[mark..]
            .iter()
            .find_map(|(_, event)| match &event.what {
                What::Report(Report::SignalBroadcast { round: of, txid })
                    if *of == round && event.cohort == Some(company.id) =>
                {
                    Some(*txid)
                }
                _ => None,
            });
        let txid = txid.expect("the broadcast was waited for");
        let signal = self.seen[mark..]
            .iter()
            .find_map(|(_, event)| match &event.what {
                What::Report(Report::SignalFixed {
                    txid: of, signal, ..
                }) if *of == txid => Some(*signal),
                _ => None,
            });
        let confirmed = |report: &Report| {
            matches!(report, Report::SignalConfirmed { txid: of, height: at, .. }
                if *of == txid && *at == height)
        };
        let (id, aggregator) = (company.id, [company.aggregator]);
        self.reported(
            "a confirmation",
            mark,
            id,
            Role::Aggregator,
            &aggregator,
            confirmed,
        )
        .await;
        self.reported(
            "a confirmation",
            mark,
            id,
            Role::Participant,
            &company.members,
            confirmed,
        )
        .await;
        for known in &mut company.dids {
            if updates.contains_key(known.did.as_str()) {
                known.version += 1;
            }
        }
        let updated: Vec<&Known> = company
            .dids
            .iter()
            .filter(|known| updates.contains_key(known.did.as_str()))
            .collect();
        self.until("updated documents", mark, |seen| {
            updated.iter().all(|known| {
                seen.iter().any(|(by, event)| {
                    *by == known.member
                        && matches!(&event.what, What::DidUpdated { did, version }
                            if *did == known.did.as_str() && *version == known.version)
                })
            })
        })
        .await;
        let chain = self.stage.chain.chain();
        let tx = chain.lock().unwrap().transaction(&txid).cloned();
        company.signals.push(Announced {
            round,
            txid,
            tx: tx.expect("the transaction is in the chain"),
            height,
            signal: signal.expect("the signal was fixed before it was broadcast"),
            updates,
        });
        self.check(company);
        company.tip = OutPoint::new(txid, 0);
    }

    /// A round in which nobody has anything to say: it ends Empty, and the chain never hears of it.
    pub async fn empty_round(&mut self, company: &mut Company) {
        let mark = self.mark();
        let before = self.transactions(&company.address);
        let round = self.open_round(company).await;
        let empty =
            |report: &Report| matches!(report, Report::RoundEmpty { round: of } if *of == round);
        let (id, aggregator) = (company.id, [company.aggregator]);
        self.reported(
            "an empty round",
            mark,
            id,
            Role::Aggregator,
            &aggregator,
            empty,
        )
        .await;
        self.reported(
            "an empty round",
            mark,
            id,
            Role::Participant,
            &company.members,
            empty,
        )
        .await;
        assert_eq!(self.transactions(&company.address), before);
        let signed = self.seen[mark..].iter().any(|(_, event)| {
            event.cohort == Some(id)
                && matches!(
                    event.what,
                    What::Report(Report::SignalFixed { .. } | Report::SignalSigned { .. })
                )
        });
        assert!(!signed, "an empty round builds no signal");
        self.check(company);
    }

    /// Every transaction at the address, the mempool's included.
    fn transactions(&self, address: &Address) -> Vec<Txid> {
        let chain = self.stage.chain.chain();
        let chain = chain.lock().unwrap();
        let history = chain.history(&address.script_pubkey());
        history.txs.iter().map(|at| at.tx.compute_txid()).collect()
    }

    /// Stops everybody; an agent that failed meanwhile is an error.
    pub async fn close(self) {
        self.stage.close().await.unwrap();
    }
}

/// The service that the update to a version adds.
pub fn service_name(version: u64) -> String {
    format!("#service-{version}")
}

/// Waits for something that nobody reports.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let search = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
