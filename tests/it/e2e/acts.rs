//! What a cohort does: updates are queued, rounds open, are broadcast, confirmed and checked.

use std::collections::BTreeMap;

use bitcoin::{Address, OutPoint, Txid};
use btcr2_agent::agent::dids::{Change, QueuedUpdate, Via};
use btcr2_agent::agent::{AgentError, What};
use btcr2_agent::demo::DemoError;
use btcr2_agent::hash::UpdateHash;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{AggregatorInput, FINAL_DEPTH};
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::store::Role;
use tokio::time::Instant;

use super::company::{Announced, Company, Known};
use super::play::{POLL, Play};

impl Play {
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
        let deadline = Instant::now() + self.patience;
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
        let change = Change::AddService {
            id: service_name(version + 1),
            kind: "LinkedDomains".into(),
            endpoint: serde_json::json!("https://example.com/"),
        };
        let via = Via::Cohort(Some(company.id));
        self.stage.update(member, &did, vec![change], via).await
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
        let tx = self.stage.chain.transaction(&txid).unwrap();
        company.signals.push(Announced {
            round,
            txid,
            first: txid,
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
        let history = self.stage.chain.history(&address.script_pubkey()).unwrap();
        history.iter().map(|at| at.tx.compute_txid()).collect()
    }
}

/// The service that the update to a version adds.
pub fn service_name(version: u64) -> String {
    format!("#service-{version}")
}
