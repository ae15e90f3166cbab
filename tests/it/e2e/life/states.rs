//! Where updates stand when things go wrong: a round is missed, a block is taken back.

use btcr2_agent::agent::What;
use btcr2_agent::protocol::message::RoundCause;
use btcr2_agent::store::Store;
use rusqlite::Connection;

use super::*;

/// A member is away from a round: nothing of it is announced, everybody's update says so, and the next round
/// announces them all.
#[tokio::test]
async fn updates_of_a_missed_round_go_into_the_next() {
    for beacon in BEACONS {
        let mut play = Play::open(4).await;
        let mut company = play
            .found_with(beacon, 0, &[1, 2, 3], &[], |terms| {
                terms.response_seconds = 15
            })
            .await;
        play.create_dids(&mut company, &[1, 3]).await;
        let (here, away) = (company.dids[0].did.clone(), company.dids[1].did.clone());
        let via = in_round(&company);
        play.updated(1, &here, vec![service("a")], via.clone())
            .await;
        let waiting = play.updated(3, &away, vec![service("b")], via).await;
        play.expects_trouble = true;
        play.stage.kill(3).await.unwrap();
        let (id, mark) = (company.id, play.mark());
        let round = play.open_round(&mut company).await;
        let failed = |report: &Report| {
            matches!(report, Report::RoundFailed { round: of, why: RoundCause::NoResponse { .. } }
                if *of == round)
        };
        play.reported(
            "the end of the round",
            mark,
            id,
            Role::Participant,
            &[1, 2],
            failed,
        )
        .await;
        let row = play.settled(1, &here, 2, update_state::QUEUED).await;
        let reason = row.reason.unwrap_or_default();
        assert!(reason.contains("round 1 failed"), "{reason}");
        assert!(reason.contains("goes into the next round"), "{reason}");
        assert!(!row.pinned && row.round.is_none());

        let mark = play.mark();
        play.resume(&[3]).await;
        let missed =
            |report: &Report| matches!(report, Report::RoundMissed { round: of } if *of == round);
        play.reported(
            "the late opening",
            mark,
            id,
            Role::Participant,
            &[3],
            missed,
        )
        .await;
        let row = play.row(3, &away, 2).unwrap();
        assert_eq!((row.hash, row.state.as_str()), (waiting.hash, "queued"));
        let reason = row.reason.unwrap_or_default();
        assert!(reason.contains("round 1 was over"), "{reason}");

        play.announce_round(&mut company, FINAL_DEPTH).await;
        for (member, did) in [(1, &here), (3, &away)] {
            let row = play.settled(member, did, 2, update_state::FINAL).await;
            assert_eq!(
                (row.round.map(|round| round.0), row.reason),
                (Some(2), None)
            );
            play.resolves(member, did, 2).await;
        }
        play.close().await;
    }
}

/// The block with the signal is replaced by empty ones: document and update go back, and forwards again when it is
/// mined once more.
#[tokio::test]
async fn a_reorg_takes_an_update_back() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    play.create_dids(&mut company, &[1, 2]).await;
    let (did, via) = (company.dids[0].did.clone(), in_round(&company));
    play.updated(1, &did, vec![service("a")], via.clone()).await;
    play.announce_round(&mut company, 2).await;
    let row = play.settled(1, &did, 2, update_state::CONFIRMED).await;
    let (txid, height) = (row.txid.unwrap(), row.height.unwrap());
    assert_eq!(play.document(1, &did).0, 2);

    play.expects_trouble = true;
    let mark = play.mark();
    {
        let chain = play.stage.chain.in_process().unwrap();
        let mut chain = chain.lock().unwrap();
        assert_eq!(chain.invalidate_tip(2), 2);
        chain.mine_empty(3);
    }
    play.until("the document going back", mark, |seen| {
        seen.iter().any(|(by, event)| {
            *by == 1 && matches!(&event.what, What::DidUpdated { version: 1, .. })
        })
    })
    .await;
    let row = play.settled(1, &did, 2, update_state::SIGNED).await;
    assert!(
        row.pinned,
        "the signal may confirm again: no other update may be announced"
    );
    assert_eq!((row.txid, row.height), (Some(txid), None));
    assert!(row.reason.unwrap().contains("no longer part of the chain"));
    assert_eq!(play.document(1, &did).0, 1);
    play.refused(1, &did, service("b"), via, "broadcast in round 1")
        .await;

    play.stage.mine(FINAL_DEPTH).unwrap();
    let row = play.settled(1, &did, 2, update_state::FINAL).await;
    assert_eq!((row.txid, row.reason), (Some(txid), None));
    assert!(row.height.unwrap() > height);
    play.resolves(1, &did, 2).await;
    play.close().await;
}

/// The block with the signal is replaced, the step that takes it back is stored, and the process ends before the word
/// about the transaction is: at the next start it is "broadcast", not "confirmed", and confirms again. Agents that are
/// dead while the chain turns find out the same way.
#[tokio::test]
async fn a_start_takes_back_what_was_reorganised_away_while_the_process_was_dead() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.expects_trouble = true;
    play.round(&mut company, &dids[..1]).await;
    let (id, signal) = (company.id, company.signals.last().unwrap().txid);
    let stored = |play: &Play, actor: usize| {
        let row = play.file(actor).view().transaction(signal).unwrap();
        row.map(|row| (row.state, row.height.is_some()))
    };
    let confirmed = Some(("confirmed".to_owned(), true));
    let broadcast = Some(("broadcast".to_owned(), false));
    eventually("the signal to be confirmed", || {
        stored(&play, 0) == confirmed
    })
    .await;

    // Dead while the chain turns.
    play.stage.stop(0).await.unwrap();
    {
        let chain = play.stage.chain.in_process().unwrap();
        let mut chain = chain.lock().unwrap();
        assert_eq!(chain.invalidate_tip(1), 1);
        chain.mine_empty(2);
    }
    assert_eq!(stored(&play, 0), confirmed);
    play.resume(&[0]).await;
    eventually("the signal to be taken back", || {
        stored(&play, 0) == broadcast
    })
    .await;

    // Dead between the step and what follows from it.
    play.stage.stop(0).await.unwrap();
    let shell = Connection::open(play.stage.actors[0].home.store_path()).unwrap();
    let confirm = "UPDATE transactions SET state = 'confirmed', height = 7";
    assert!(shell.execute(confirm, []).unwrap() > 0);
    drop(shell);
    assert_eq!(stored(&play, 0), confirmed);
    play.resume(&[0]).await;
    eventually("the word to follow the step", || {
        stored(&play, 0) == broadcast
    })
    .await;

    let mark = play.mark();
    play.stage.mine(1).unwrap();
    let seen =
        |report: &Report| matches!(report, Report::SignalConfirmed { txid, .. } if *txid == signal);
    play.reported("the confirmation", mark, id, Role::Aggregator, &[0], seen)
        .await;
    eventually("the signal to be confirmed", || {
        stored(&play, 0) == confirmed
    })
    .await;
    play.close().await;
}

/// A DID made while a round is on its way, which does not cover it, may not be used before that round is over and
/// its signal proved; then it is updated and resolves, with a proof for that first signal too.
#[tokio::test]
async fn a_did_made_during_a_round_resolves_after_it() {
    for beacon in BEACONS {
        let mut play = Play::open(3).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        play.create_dids(&mut company, &[1, 2]).await;
        let via = in_round(&company);
        let early = company.dids[0].did.clone();
        play.updated(1, &early, vec![service("a")], via.clone())
            .await;
        // Held by a member that is not there.
        play.stage.kill(2).await.unwrap();
        let (id, mark) = (company.id, play.mark());
        let round = play.open_round(&mut company).await;
        play.responded(&company, mark, &[1]).await;
        let late = play.ask(1, move |agent| agent.create_cohort_did(id)).await;
        let registered = |report: &Report| matches!(report, Report::Registered { from_round, .. } if from_round.0 == 2);
        play.reported(
            "the registration",
            mark,
            id,
            Role::Participant,
            &[1],
            registered,
        )
        .await;
        let row = play.file(1).view().did(late.as_str()).unwrap().unwrap();
        assert_eq!(row.state, "registering");
        let not_ready = "its registration or history is not complete";
        play.refused(1, &late, service("b"), via.clone(), not_ready)
            .await;

        play.resume(&[2]).await;
        play.broadcast(&company, round, mark).await;
        play.stage.mine(FINAL_DEPTH).unwrap();
        let name = late.to_string();
        play.until("the late DID", mark, |seen| {
            seen.iter().any(|(by, event)| {
                *by == 1 && matches!(&event.what, What::DidReady { did } if *did == name)
            })
        })
        .await;
        play.resolves(1, &late, 1).await;
        play.updated(1, &late, vec![service("b")], via).await;
        play.announce_round(&mut company, FINAL_DEPTH).await;
        play.settled(1, &late, 2, update_state::FINAL).await;
        play.resolves(1, &late, 2).await;
        play.resolves(1, &early, 2).await;
        play.close().await;
    }
}

/// The process ends between the signing of an update that adds a beacon and the step that makes the machine count
/// the DID: the next start makes up for it before anything else is signed (rule 13).
#[tokio::test]
async fn a_binding_is_resumed_after_a_crash() {
    let mut play = Play::open(3).await;
    let company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let (id, mark) = (company.id, play.mark());
    let did = play
        .ask(1, |agent| agent.create_key_did(Network::Regtest))
        .await;
    let of = did.clone();
    play.ask(1, move |agent| agent.register_did(&of, id)).await;
    let may_bind = |report: &Report| matches!(report, Report::MayBind { .. });
    play.reported(
        "the registration",
        mark,
        id,
        Role::Participant,
        &[1],
        may_bind,
    )
    .await;
    let told_bound = |play: &Play| {
        let mut told = false;
        play.file(1)
            .view()
            .replay(id, Role::Participant, |entry| {
                told |= entry.kind == "bound";
                Ok::<_, StoreError>(())
            })
            .unwrap();
        told
    };
    play.stage.kill(1).await.unwrap();
    assert!(!told_bound(&play));
    {
        let mut store = Store::open(&play.stage.actors[1].home.store_path()).unwrap();
        let mut binding = store.view().bindings_of(did.smt_index()).unwrap().remove(0);
        assert_eq!(binding.state, "may_bind");
        binding.state = "pending".into();
        store
            .transaction::<_, StoreError>(|tx| tx.put_binding(&binding))
            .unwrap();
    }
    play.resume(&[1]).await;
    assert!(told_bound(&play));
    play.close().await;
}
