//! Where updates stand when things go wrong: a round is missed, a block is taken back.

use btcr2_agent::agent::What;
use btcr2_agent::protocol::message::RoundCause;

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

        play.announce(&mut company, FINAL_DEPTH).await;
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
    play.announce(&mut company, 2).await;
    let row = play.settled(1, &did, 2, update_state::CONFIRMED).await;
    let (txid, height) = (row.txid.unwrap(), row.height.unwrap());
    assert_eq!(play.document(1, &did).0, 2);

    play.expects_trouble = true;
    let mark = play.mark();
    {
        let chain = play.stage.chain.chain();
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
