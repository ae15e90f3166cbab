//! Signals that no node mines at any fee that was signed for them: whole agents sign them again, over their relays.

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Txid};
use btcr2_agent::agent::What;
use btcr2_agent::hash::UpdateHash;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::{CohortBeacon, OutputPolicy};
use btcr2_agent::store::Role;

use super::company::{Announced, Company};
use super::play::Play;

/// A round of which one signal is replaced.
pub struct Replaced {
    pub round: Round,
    pub mark: usize,
    pub updates: BTreeMap<String, UpdateHash>,
    /// The transactions that were sent, lowest fee first.
    pub sent: Vec<Txid>,
}

impl Play {
    /// The operator wants the signal to pay more.
    pub async fn bump(&self, company: &Company) {
        let id = company.id;
        self.ask(company.aggregator, move |agent| {
            agent.command_aggregator(id, AggregatorInput::Bump)
        })
        .await;
    }

    /// Waits until the aggregator has gone on to another transaction after `mark`, and gives the last of them.
    pub async fn bumped(&mut self, company: &Company, mark: usize) -> Txid {
        let (id, aggregator) = (company.id, [company.aggregator]);
        let bumped = |report: &Report| matches!(report, Report::SignalBumped { .. });
        self.reported("a bump", mark, id, Role::Aggregator, &aggregator, bumped)
            .await;
        self.last_bump(company, mark)
    }

    fn last_bump(&self, company: &Company, mark: usize) -> Txid {
        let mut events = self.seen[mark..].iter().rev();
        events
            .find_map(|(by, event)| match &event.what {
                What::Report(Report::SignalBumped { txid, .. })
                    if *by == company.aggregator && event.cohort == Some(company.id) =>
                {
                    Some(*txid)
                }
                _ => None,
            })
            .expect("a bump was reported")
    }

    /// Waits until the chain has taken this transaction from the aggregator.
    pub async fn taken(&mut self, company: &Company, mark: usize, txid: Txid) {
        let (id, aggregator) = (company.id, [company.aggregator]);
        let taken = |report: &Report| matches!(report, Report::SignalBroadcast { txid: of, .. } if *of == txid);
        self.reported(
            "a broadcast",
            mark,
            id,
            Role::Aggregator,
            &aggregator,
            taken,
        )
        .await;
    }

    /// Waits until each of these members has this transaction with all its signatures.
    pub async fn told(&mut self, company: &Company, mark: usize, members: &[usize], txid: Txid) {
        let told = |report: &Report| matches!(report, Report::SignalBumped { txid: of, .. } | Report::SignalSigned { txid: of, .. } if *of == txid);
        self.reported(
            "a result",
            mark,
            company.id,
            Role::Participant,
            members,
            told,
        )
        .await;
    }

    /// Mines what was sent last, and sees everybody's files say what they must.
    pub async fn mine_replaced(&mut self, company: &mut Company, replaced: Replaced) {
        let Replaced {
            round,
            mark,
            updates,
            sent,
        } = replaced;
        let (first, txid) = (sent[0], *sent.last().unwrap());
        let height = self.stage.mine(1).unwrap();
        let confirmed = |report: &Report| {
            matches!(report, Report::SignalConfirmed { txid: of, height: at, .. }
                if *of == txid && *at == height)
        };
        let (id, aggregator) = (company.id, [company.aggregator]);
        let members = company.members.clone();
        for (role, actors) in [
            (Role::Aggregator, &aggregator[..]),
            (Role::Participant, &members),
        ] {
            self.reported("a confirmation", mark, id, role, actors, confirmed)
                .await;
        }
        for known in &mut company.dids {
            if updates.contains_key(known.did.as_str()) {
                known.version += 1;
            }
        }
        let updated: Vec<_> = company
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
        let signal = self.seen[mark..]
            .iter()
            .find_map(|(_, event)| match &event.what {
                What::Report(Report::SignalFixed {
                    txid: of, signal, ..
                }) if *of == first => Some(*signal),
                _ => None,
            });
        let tx = self.stage.chain.transaction(&txid).unwrap().unwrap();
        company.signals.push(Announced {
            round,
            txid,
            first,
            tx,
            height,
            signal: signal.expect("the signal was fixed"),
            updates,
        });
        self.check(company);
        company.tip = OutPoint::new(txid, 0);
    }

    /// A round whose rungs are all out; the chain has the highest, or none of them takes enough.
    pub async fn exhausted(&mut self, company: &mut Company, updating: &[usize]) -> Replaced {
        let mark = self.mark();
        let updates = self.queue(company, updating).await;
        let round = self.open_round(company).await;
        self.broadcast(company, round, mark).await;
        let mut sent: Vec<Txid> = self.broadcasts(company, mark);
        for _ in 1..3 {
            let mark = self.mark();
            self.bump(company).await;
            let txid = self.bumped(company, mark).await;
            self.taken(company, mark, txid).await;
            sent.push(txid);
        }
        Replaced {
            round,
            mark,
            updates,
            sent,
        }
    }

    fn broadcasts(&self, company: &Company, mark: usize) -> Vec<Txid> {
        let events = self.seen[mark..].iter();
        events
            .filter_map(|(_, event)| match &event.what {
                What::Report(Report::SignalBroadcast { txid, .. })
                    if event.cohort == Some(company.id) =>
                {
                    Some(*txid)
                }
                _ => None,
            })
            .collect()
    }

    /// The spends of the output in the mempool and in blocks: one at a time.
    pub fn is_on_chain(&self, company: &Company, txid: Txid) -> bool {
        let script = company.address.script_pubkey();
        let history = self.stage.chain.history(&script).unwrap();
        history.iter().any(|entry| entry.tx.compute_txid() == txid)
    }
}

/// All three rungs are out and none is mined. One member's process dies, and with it the nonces it would sign the
/// replacement with; it comes back, and all sign. What they sign is mined, resolves, and is built upon.
pub async fn a_stuck_ladder(play: &mut Play, beacon: CohortBeacon, members: usize, k: Option<u16>) {
    let seats: Vec<usize> = (1..=members).collect();
    let mut company = play
        .found_with(beacon, 0, &seats, &[], move |terms| {
            if let Some(k) = k {
                terms.output_policy = OutputPolicy::KOfN(k);
            }
        })
        .await;
    let dids = play.create_dids(&mut company, &seats).await;
    play.round(&mut company, &dids).await;
    let mut replaced = play.exhausted(&mut company, &dids[..1]).await;
    let top = *replaced.sent.last().unwrap();
    assert!(play.is_on_chain(&company, top));

    let mark = play.mark();
    play.stage.kill(members).await.unwrap();
    play.bump(&company).await;
    play.resume(&[members]).await;
    let txid = play.bumped(&company, mark).await;
    play.taken(&company, mark, txid).await;
    play.told(&company, mark, &seats, txid).await;
    let opened = |report: &Report| matches!(report, Report::ReplacementOpened { .. });
    play.reported(
        "a request",
        mark,
        company.id,
        Role::Participant,
        &seats,
        opened,
    )
    .await;
    assert!(!play.is_on_chain(&company, top), "it was replaced");
    replaced.sent.push(txid);
    play.mine_replaced(&mut company, replaced).await;

    play.round(&mut company, &dids[members - 1..]).await;
    assert_eq!(company.signals.len(), 3);
}

/// The same with the aggregator's process: it dies while the members are asked, and finishes after its restart.
async fn with_a_restart_of_the_aggregator(play: &mut Play) {
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mut replaced = play.exhausted(&mut company, &dids[..1]).await;
    let mark = play.mark();
    play.stage.kill(2).await.unwrap();
    play.bump(&company).await;
    play.stage.kill(0).await.unwrap();
    play.resume(&[0, 2]).await;
    let txid = play.bumped(&company, mark).await;
    play.taken(&company, mark, txid).await;
    play.told(&company, mark, &[1, 2], txid).await;
    replaced.sent.push(txid);
    play.mine_replaced(&mut company, replaced).await;
    play.round(&mut company, &dids[1..]).await;
}

#[tokio::test]
async fn a_replacement_over_a_relay_smt() {
    let mut play = Play::open(4).await;
    a_stuck_ladder(&mut play, CohortBeacon::Smt, 3, None).await;
    play.close().await;
}

#[tokio::test]
async fn a_replacement_over_a_relay_cas_with_a_leaf() {
    let mut play = Play::open(3).await;
    a_stuck_ladder(&mut play, CohortBeacon::Cas, 2, Some(1)).await;
    play.close().await;
}

#[tokio::test]
async fn a_replacement_and_a_restart_of_the_aggregator() {
    let mut play = Play::open(3).await;
    with_a_restart_of_the_aggregator(&mut play).await;
    play.close().await;
}
