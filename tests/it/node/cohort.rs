//! The whole life of cohorts on a real node: every agent reads it by its RPC, and so do the checks.

use btcr2_agent::agent::What;
use btcr2_agent::chain::CoreLogin;
use btcr2_agent::demo::ledger::Ledger;
use btcr2_agent::demo::regtest_node::RegtestNode;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::Role;

use super::{Node, bitcoind};
use crate::e2e::company::Company;
use crate::e2e::play::{POLL, Play};

/// A stage on a node, with so many agents.
pub async fn stage(agents: usize) -> Option<Play> {
    stage_with(agents, &[]).await
}

/// The same, with options for the node.
pub(super) async fn stage_with(agents: usize, options: &'static [&'static str]) -> Option<Play> {
    let binary = bitcoind()?;
    let mut play = Play::on(async |dir| {
        let node = RegtestNode::start(&binary, &dir.join("bitcoind"), options)
            .await
            .unwrap();
        Ledger::Node(node)
    })
    .await;
    for _ in 0..agents {
        play.enter(Part::new(POLL));
    }
    play.connected(0..agents).await;
    Some(play)
}

impl Play {
    pub fn node(&self) -> &RegtestNode {
        self.stage.chain.node().unwrap()
    }

    /// Waits until aggregator and members have reported the reorganisation of the last signal.
    pub(super) async fn reorganised(&mut self, company: &Company, mark: usize) {
        let txid = company.signals.last().unwrap().txid;
        let everybody: Vec<usize> = std::iter::once(company.aggregator)
            .chain(company.members.iter().copied())
            .collect();
        let id = company.id;
        self.until_despite("a reorganisation", mark, |seen| {
            everybody.iter().all(|actor| {
                seen.iter().any(|(by, event)| {
                    by == actor
                        && event.cohort == Some(id)
                        && matches!(&event.what, What::Report(Report::SignalReorganised { txid: of, .. }) if *of == txid)
                })
            })
        })
        .await;
    }

    /// Waits until everybody has seen the last signal in the block at `height`, and notes it.
    async fn confirmed_again(&mut self, company: &mut Company, mark: usize, height: u32) {
        let txid = company.signals.last().unwrap().txid;
        let (id, members, aggregator) = (company.id, company.members.clone(), [company.aggregator]);
        let at = |report: &Report| matches!(report, Report::SignalConfirmed { txid: of, height: at, .. } if *of == txid && *at == height);
        self.reported(
            "a confirmation",
            mark,
            id,
            Role::Aggregator,
            &aggregator,
            at,
        )
        .await;
        self.reported("a confirmation", mark, id, Role::Participant, &members, at)
            .await;
        company.signals.last_mut().unwrap().height = height;
    }
}

/// Formation, funding, three rounds; then the chain takes the last signal away and gives it back elsewhere.
async fn a_life(beacon: CohortBeacon, members: usize) {
    let Some(mut play) = stage(members + 1).await else {
        return;
    };
    let seats: Vec<usize> = (1..=members).collect();
    let mut company = play.found(beacon, 0, &seats).await;
    let dids = play.create_dids(&mut company, &seats).await;
    play.round(&mut company, &dids).await;
    play.empty_round(&mut company).await;
    play.round(&mut company, &dids[..1]).await;
    play.round(&mut company, &dids[1..]).await;
    assert_eq!(company.signals.len(), 3);

    // A branch without the signal wins: nothing is called confirmed any more.
    let mark = play.mark();
    play.node().undo(1).unwrap();
    play.node().mine_empty(2).unwrap();
    play.reorganised(&company, mark).await;
    // It is mined again, higher.
    let mark = play.mark();
    let height = play.stage.mine(1).unwrap();
    play.confirmed_again(&mut company, mark, height).await;
    // The cohort goes on from there.
    play.round(&mut company, &dids[..1]).await;
    assert_eq!(company.signals.len(), 4);
    play.close().await;
}

#[tokio::test]
async fn an_smt_cohort_lives_on_a_node() {
    a_life(CohortBeacon::Smt, 3).await;
}

#[tokio::test]
async fn a_cas_cohort_lives_on_a_node() {
    a_life(CohortBeacon::Cas, 2).await;
}

/// The node stops in the middle of a round, which a member that is not there holds up, and comes back with
/// another cookie: the round ends well.
#[tokio::test]
async fn a_node_restarts_in_the_middle_of_a_round() {
    let Some(mut play) = stage(4).await else {
        return;
    };
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2, 3]).await;
    let dids = play.create_dids(&mut company, &[1, 2, 3]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids[..2]).await;
    play.stage.kill(3).await.unwrap();
    let round = play.open_round(&mut company).await;
    play.responses(&company, mark, 2).await;
    let Ledger::Node(node) = &mut play.stage.chain else {
        unreachable!("the stage is on a node");
    };
    node.restart().await.unwrap();
    play.resume(&[3]).await;
    play.finish_round(&mut company, round, mark, updates).await;
    play.close().await;
}

/// Also resolves every DID, as a stranger would, with a backend of its own.
#[tokio::test]
async fn the_demo_plays_on_a_node_of_its_own_and_on_one_that_runs() {
    let Some(binary) = bitcoind() else { return };
    let demo = |arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_btcr2-agent"))
            .args(["demo", "--members", "2", "--rounds", "1", "--json"])
            .args(arguments)
            .env("BITCOIND", &binary)
            .output()
            .unwrap()
    };
    let played = demo(&["--bitcoind"]);
    let said = String::from_utf8_lossy(&played.stdout).into_owned();
    assert!(played.status.success(), "{said}");
    assert!(said.contains("\"step\":\"resolved\""), "{said}");

    let node = Node::start(&[]).await.unwrap();
    let CoreLogin::Cookie(cookie) = node.node.login() else {
        panic!("a node of the tests has a cookie");
    };
    let height = node.node.height().unwrap();
    let url = node.node.url();
    let played = demo(&[
        "--beacon",
        "cas",
        "--bitcoind",
        url,
        "--cookie-file",
        cookie.to_str().unwrap(),
    ]);
    let said = String::from_utf8_lossy(&played.stdout).into_owned();
    assert!(played.status.success(), "{said}");
    // The miner's first blocks, the funding and the signal.
    assert!(node.node.height().unwrap() >= height + 112);

    let played = demo(&[
        "--bitcoind",
        "http://127.0.0.1:1",
        "--cookie-file",
        cookie.to_str().unwrap(),
    ]);
    assert!(!played.status.success());
    let said = String::from_utf8_lossy(&played.stdout).into_owned();
    assert!(said.contains("the node can not be asked"), "{said}");
}
