//! A DID that exists is bound to a cohort by an update of its own, and then updated in a round of it.

use std::time::Duration;

use btcr2_agent::agent::dids::{Via, binding_state};
use btcr2_agent::agent::singleton::{Announce, Registration, Step};
use btcr2_agent::agent::{AgentError, What};
use btcr2_agent::beacon::signal::signal_of;
use btcr2_agent::did::{BeaconKind, Did, KeyAddress};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::FINAL_DEPTH;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::{Role, SpendState};

use tokio::time::Instant;

use super::company::{Company, Known};
use super::play::{PATIENCE, POLL, Play};
use super::singly::{add_service, address_of, at_rate};

impl Play {
    async fn bind(
        &self,
        company: &Company,
        actor: usize,
        did: &Did,
        announce: &Announce,
        patience: Duration,
    ) -> Result<Registration, AgentError> {
        let handle = &self.stage.actors[actor].handle;
        handle
            .register_via_singleton(did, company.id, announce, patience)
            .await
    }

    /// Binds a DID, from nothing to where the chain shows it.
    async fn bound(&mut self, company: &mut Company, actor: usize, did: &Did, announce: &Announce) {
        let mark = self.mark();
        let registration = self
            .bind(company, actor, did, announce, PATIENCE)
            .await
            .unwrap();
        let announced = registration.announced.unwrap();
        assert_eq!(announced.refused, None);
        assert!(matches!(
            registration.step,
            Step::Announced { version: 2, .. }
        ));
        self.stage.mine(1).unwrap();
        self.reaches(actor, mark, did, 2).await;
        assert_eq!(self.step(company, actor, did).await, Step::Bound);
        self.stage.mine(FINAL_DEPTH - 1).unwrap();
        self.stands(actor, mark, announced.spend.row.txid, SpendState::Final)
            .await;
    }

    fn height(&self) -> u32 {
        self.stage
            .chain
            .in_process()
            .unwrap()
            .lock()
            .unwrap()
            .height()
    }

    async fn step(&self, company: &Company, actor: usize, did: &Did) -> Step {
        let (id, did) = (company.id, did.clone());
        self.ask(actor, move |agent| agent.joining_step(&did, id))
            .await
    }

    /// A round's signal goes into a block. What members keep of it is checked by resolving.
    async fn end_round(&mut self, company: &Company, round: Round, mark: usize) {
        self.broadcast(company, round, mark).await;
        self.stage.mine(1).unwrap();
        let confirmed = |report: &Report| matches!(report, Report::SignalConfirmed { round: of, .. } if *of == round);
        let (id, members) = (company.id, company.members.clone());
        self.reported(
            "a confirmation",
            mark,
            id,
            Role::Participant,
            &members,
            confirmed,
        )
        .await;
    }

    /// A round of the cohort in which a DID that came later is updated, and what everybody resolves then.
    async fn update_in_round(&mut self, company: &mut Company, actor: usize, did: &Did) {
        let mark = self.mark();
        let handle = self.stage.actors[actor].handle.clone();
        let via = Via::Cohort(Some(company.id));
        let queued = handle
            .update_did(did, vec![add_service("#by-cohort")], via)
            .await
            .unwrap();
        assert_eq!(queued.target_version, 3);
        let round = self.open_round(company).await;
        self.end_round(company, round, mark).await;
        self.reaches(actor, mark, did, 3).await;
        self.stage.mine(FINAL_DEPTH - 1).unwrap();
        let of = did.clone();
        let (_, missing) = self.ask(actor, move |agent| agent.sidecar_of(&of)).await;
        let of_cohort = missing.iter().filter(|missing| missing.cohort.is_some());
        assert_eq!(of_cohort.count(), 0, "{missing:?}");
        let (version, services) = self.shown_elsewhere(actor, did).await;
        assert_eq!((version, services), (3, vec!["#by-cohort".to_owned()]));
        let resolution = self.resolved_elsewhere(actor, did).await;
        let document = resolution.outcome.unwrap().document;
        let kind = match company.beacon {
            CohortBeacon::Smt => BeaconKind::Smt,
            CohortBeacon::Cas => BeaconKind::Cas,
        };
        let mut beacons = document.beacons().iter();
        let listed = beacons
            .find(|beacon| beacon.address == company.address)
            .unwrap();
        assert_eq!(listed.kind, kind);
    }
}

/// A cohort with a history: one round before the DID comes.
async fn with_history(play: &mut Play, beacon: CohortBeacon, members: &[usize]) -> Company {
    let mut company = play.found(beacon, 0, members).await;
    let dids = play.create_dids(&mut company, &members[..1]).await;
    play.round(&mut company, &dids).await;
    company
}

async fn a_key_s_did_joins(beacon: CohortBeacon, form: KeyAddress, members: &[usize]) {
    let mut play = Play::open(members.len() + 1).await;
    let mut company = with_history(&mut play, beacon, members).await;
    let actor = *members.last().unwrap();
    let did = play.key_did(actor).await;
    play.pay(&address_of(&did, form), 5_000);
    assert_eq!(play.step(&company, actor, &did).await, Step::Unregistered);
    play.bound(&mut company, actor, &did, &at_rate(2)).await;
    play.update_in_round(&mut company, actor, &did).await;
    // The one that was there before goes on as it was.
    let Known { member, did, .. } = company.dids[0].clone();
    assert_eq!(play.shown_elsewhere(member, &did).await.0, 2);
    play.close().await;
}

#[tokio::test]
async fn a_k1_did_joins_an_smt_cohort_by_taproot() {
    a_key_s_did_joins(CohortBeacon::Smt, KeyAddress::P2tr, &[1, 2]).await;
}

#[tokio::test]
async fn a_k1_did_joins_a_cas_cohort_by_p2wpkh() {
    a_key_s_did_joins(CohortBeacon::Cas, KeyAddress::P2wpkh, &[1, 2, 3]).await;
}

#[tokio::test]
async fn a_k1_did_joins_an_smt_cohort_by_p2pkh() {
    a_key_s_did_joins(CohortBeacon::Smt, KeyAddress::P2pkh, &[1, 2, 3]).await;
}

/// An x1 DID whose genesis document lists singleton beacons of its own joins both kinds of cohort, one after the other.
#[tokio::test]
async fn an_x1_did_joins_by_its_own_beacon() {
    for beacon in [CohortBeacon::Cas, CohortBeacon::Smt] {
        let mut play = Play::open(3).await;
        let mut company = with_history(&mut play, beacon, &[1, 2]).await;
        let did = play
            .ask(1, |agent| agent.create_external_did(Network::Regtest))
            .await;
        let of = did.clone();
        let handle = play.stage.actors[1].handle.clone();
        let quote = handle.quote_announcement(&of, &at_rate(2)).await.unwrap();
        play.pay(&quote.address, 9_000);
        play.bound(&mut company, 1, &did, &at_rate(2)).await;
        play.update_in_round(&mut company, 1, &did).await;
        play.close().await;
    }
}

/// While a round that began before the registration may end in a signal, nothing is announced: called again after it,
/// the command goes on. Killed in between, too.
#[tokio::test]
async fn nothing_is_announced_while_an_uncovered_signal_may_confirm() {
    let mut play = Play::open(3).await;
    let mut company = with_history(&mut play, CohortBeacon::Smt, &[1, 2]).await;
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 5_000);

    // A round is open, and member 2 is not there to finish it.
    play.queue(&company, &[0]).await;
    play.stage.kill(2).await.unwrap();
    let mark = play.mark();
    let round = play.open_round(&mut company).await;
    play.responded(&company, mark, &[1]).await;
    let none = Duration::ZERO;
    let registration = play
        .bind(&company, 1, &did, &at_rate(2), none)
        .await
        .unwrap();
    assert!(registration.announced.is_none());
    let registered = |report: &Report| matches!(report, Report::Registered { .. });
    play.reported(
        "a registration",
        mark,
        company.id,
        Role::Participant,
        &[1],
        registered,
    )
    .await;
    // First for the history of the round before, then for the end of this one.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Step::Covered { why } = play.step(&company, 1, &did).await else {
            panic!("the round is open");
        };
        if why.contains(&format!("round {round} began before")) {
            break;
        }
        assert!(Instant::now() < deadline, "{why}");
        // Nobody reports that the history came.
        if let Ok(Some(event)) = tokio::time::timeout(POLL, play.events.recv()).await {
            play.seen.push(event);
        }
    }
    let registration = play
        .bind(&company, 1, &did, &at_rate(2), none)
        .await
        .unwrap();
    assert!(registration.announced.is_none());
    assert_eq!(play.file(1).view().updates_of(did.as_str()).unwrap(), []);

    play.stage.kill(1).await.unwrap();
    play.resume(&[1, 2]).await;
    play.end_round(&company, round, mark).await;
    // The proof that the round's signal says nothing of the DID was asked for and is there.
    play.bound(&mut company, 1, &did, &at_rate(2)).await;
    play.update_in_round(&mut company, 1, &did).await;
    play.close().await;
}

/// Killed after the update and its transaction were stored, and before the transaction was sent.
#[tokio::test]
async fn a_stop_in_the_middle_of_the_binding() {
    let mut play = Play::open(3).await;
    let company = with_history(&mut play, CohortBeacon::Cas, &[1, 2]).await;
    let did = play.key_did(2).await;
    // Registered, and ready.
    play.bind(&company, 2, &did, &at_rate(2), PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(play.step(&company, 2, &did).await, Step::Ready);
    play.pay(&address_of(&did, KeyAddress::P2tr), 5_000);
    let handle = play.stage.actors[2].handle.clone();
    let fresh = handle.resolve_fresh(&did).await.unwrap();
    let document = fresh.document().clone();
    let question = play
        .ask(2, move |agent| agent.funds_question(&document, None))
        .await;
    let funds = question.ask().await.unwrap();
    let id = company.id;
    let signed = play
        .ask(2, move |agent| {
            agent.sign_binding(&fresh, &funds, id, &Announce::default())
        })
        .await;
    play.stage.kill(2).await.unwrap();

    let mark = play.mark();
    play.resume(&[2]).await;
    play.stands(2, mark, signed.row.txid, SpendState::Broadcast)
        .await;
    // The same command goes on: nothing new is signed.
    let registration = play
        .bind(&company, 2, &did, &at_rate(2), PATIENCE)
        .await
        .unwrap();
    assert!(registration.announced.is_none());
    assert!(matches!(
        registration.step,
        Step::Announced { version: 2, .. }
    ));
    let spends = play.file(2).view().spends_of(did.as_str(), 2).unwrap();
    assert_eq!(spends.len(), 1);
    play.stage.mine(1).unwrap();
    play.reaches(2, mark, &did, 2).await;
    assert_eq!(play.step(&company, 2, &did).await, Step::Bound);
    play.close().await;
}

/// An update that a signed signal of the cohort announces is announced singly as well: the same bytes, in the same block.
#[tokio::test]
async fn the_same_update_may_be_announced_twice() {
    let mut play = Play::open(3).await;
    let mut company = with_history(&mut play, CohortBeacon::Smt, &[1, 2]).await;
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 9_000);
    play.bound(&mut company, 1, &did, &at_rate(2)).await;
    let handle = play.stage.actors[1].handle.clone();
    let via = Via::Cohort(Some(company.id));
    let queued = handle
        .update_did(&did, vec![add_service("#twice")], via)
        .await
        .unwrap();
    let mark = play.mark();
    let round = play.open_round(&mut company).await;
    play.broadcast(&company, round, mark).await;
    let announced = play.announce_singly(1, &did, &at_rate(2)).await.unwrap();
    assert_eq!(announced.refused, None);
    let signal = signal_of(&announced.spend.tx).unwrap();
    assert_eq!(signal.as_bytes(), queued.hash.as_bytes());
    play.stage.mine(1).unwrap();
    play.reaches(1, mark, &did, 3).await;
    play.stage.mine(FINAL_DEPTH - 1).unwrap();
    let shown = play.shown_elsewhere(1, &did).await;
    assert_eq!(shown, (3, vec!["#twice".to_owned()]));
    play.close().await;
}

/// A cohort signs a signal with an update and stops: the update is announced singly, and so is the next one.
#[tokio::test]
async fn a_cohort_that_stopped_in_the_middle_holds_nobody() {
    let mut play = Play::open(3).await;
    let mut company = with_history(&mut play, CohortBeacon::Cas, &[1, 2]).await;
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 9_000);
    play.bound(&mut company, 1, &did, &at_rate(2)).await;
    let handle = play.stage.actors[1].handle.clone();
    let via = Via::Cohort(Some(company.id));
    handle
        .update_did(&did, vec![add_service("#three")], via)
        .await
        .unwrap();
    let mark = play.mark();
    let round = play.open_round(&mut company).await;
    play.broadcast(&company, round, mark).await;
    play.stage.kill(0).await.unwrap();
    {
        let chain = play.stage.chain.in_process().unwrap();
        let mut chain = chain.lock().unwrap();
        for txid in chain.mempool_txids() {
            chain.evict(&txid);
        }
    }
    play.announce_singly(1, &did, &at_rate(2)).await.unwrap();
    play.stage.mine(FINAL_DEPTH).unwrap();
    play.reaches(1, mark, &did, 3).await;
    let mark = play.mark();
    play.update_singly(1, &did, "#four").await;
    play.announce_singly(1, &did, &at_rate(2)).await.unwrap();
    play.stage.mine(FINAL_DEPTH).unwrap();
    play.reaches(1, mark, &did, 4).await;
    let shown = play.shown_elsewhere(1, &did).await;
    assert_eq!(shown, (4, vec!["#three".to_owned(), "#four".to_owned()]));
    play.close().await;
}

/// Without funds nothing is stored: the registration stands, and the same command goes on once something is paid.
#[tokio::test]
async fn without_funds_the_registration_stands_and_nothing_else() {
    let mut play = Play::open(3).await;
    let mut company = with_history(&mut play, CohortBeacon::Cas, &[1, 2]).await;
    let did = play.key_did(2).await;
    let error = play
        .bind(&company, 2, &did, &at_rate(2), PATIENCE)
        .await
        .unwrap_err();
    let address = address_of(&did, KeyAddress::P2tr);
    assert!(
        error
            .to_string()
            .starts_with(&format!("send at least 330 sat to {address}")),
        "{error}"
    );
    assert_eq!(play.step(&company, 2, &did).await, Step::Ready);
    assert_eq!(play.file(2).view().updates_of(did.as_str()).unwrap(), []);
    // Not bound yet: the member signs as before.
    let bindings = play.file(2).view().bindings_of(did.smt_index()).unwrap();
    assert_eq!(bindings[0].state, binding_state::MAY_BIND);
    let Known { member, .. } = company.dids[0];
    assert_eq!(member, 1);
    play.round(&mut company, &[0]).await;
    play.pay(&address, 330);
    play.bound(&mut company, 2, &did, &at_rate(2)).await;
    play.close().await;
}

/// A reorganisation takes the update that adds the beacon off the chain while the cohort goes on: every signal from before
/// it was announced on covers the DID, in whatever order the blocks come.
#[tokio::test]
async fn a_reorg_of_the_binding_leaves_the_did_resolvable() {
    let mut play = Play::open(3).await;
    let mut company = with_history(&mut play, CohortBeacon::Smt, &[1, 2]).await;
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2wpkh), 5_000);
    play.stage.mine(FINAL_DEPTH).unwrap();
    let mark = play.mark();
    let registration = play
        .bind(&company, 1, &did, &at_rate(2), PATIENCE)
        .await
        .unwrap();
    let spend = registration.announced.unwrap().spend;
    play.stage.mine(1).unwrap();
    play.reaches(1, mark, &did, 2).await;
    {
        let chain = play.stage.chain.in_process().unwrap();
        let mut chain = chain.lock().unwrap();
        chain.invalidate_tip(1);
        chain.evict(&spend.row.txid);
        chain.mine_empty(2);
    }
    play.reaches(1, mark, &did, 1).await;
    let step = play.step(&company, 1, &did).await;
    assert!(
        matches!(step, Step::Announced { version: 2, .. }),
        "{step:?}"
    );
    // It is sent again; a round of the cohort meanwhile, and both go into the same block.
    play.stands(1, mark, spend.row.txid, SpendState::Broadcast)
        .await;
    play.queued(&company, 0).await;
    let mark = play.mark();
    let round = play.open_round(&mut company).await;
    play.end_round(&company, round, mark).await;
    play.reaches(1, mark, &did, 2).await;
    let height = play.height();
    let stored = play.file(1).view().update(did.as_str(), 2).unwrap();
    assert_eq!(stored.unwrap().height, Some(height), "the same block");
    play.stage.mine(FINAL_DEPTH).unwrap();
    assert_eq!(play.shown_elsewhere(1, &did).await.0, 2);
    play.update_in_round(&mut company, 1, &did).await;
    play.close().await;
}

/// Another update that waits is not overtaken, and a stranger's cohort beacon is not listed.
#[tokio::test]
async fn one_update_at_a_time() {
    let mut play = Play::open(3).await;
    let company = with_history(&mut play, CohortBeacon::Cas, &[1, 2]).await;
    let did = play.key_did(1).await;
    play.pay(&address_of(&did, KeyAddress::P2tr), 5_000);
    play.update_singly(1, &did, "#first").await;
    let error = play
        .bind(&company, 1, &did, &at_rate(2), PATIENCE)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("another update to version 2"),
        "{error}"
    );
    let mark = play.mark();
    play.announce_singly(1, &did, &at_rate(2)).await.unwrap();
    play.stage.mine(FINAL_DEPTH).unwrap();
    play.reaches(1, mark, &did, 2).await;
    let registration = play
        .bind(&company, 1, &did, &at_rate(2), PATIENCE)
        .await
        .unwrap();
    assert!(matches!(
        registration.step,
        Step::Announced { version: 3, .. }
    ));
    let seen = play.seen[mark..].iter();
    let ready = seen.filter(|(_, event)| matches!(event.what, What::Announcement { .. }));
    assert!(ready.count() >= 1);
    play.close().await;
}
