//! Rounds as they should be: n = 2, 3 and 7, both beacon types, all, none and some updating.

use btcr2_agent::demo::stage::Part;
use btcr2_agent::protocol::participant::Decline;
use btcr2_agent::protocol::terms::{CohortBeacon, EmptyRounds};

use super::play::{POLL, Play};

/// Round 1: everybody updates. Round 2: nobody, so it is empty. A DID made now gets the history of round
/// 1. Round 3: the new DID and every second other one update, the rest decline.
async fn three_rounds(beacon: CohortBeacon, members: usize) {
    let mut play = Play::open(members + 1).await;
    let seats: Vec<usize> = (1..=members).collect();
    let mut company = play.found(beacon, 0, &seats).await;
    let dids = play.create_dids(&mut company, &seats).await;
    play.round(&mut company, &dids).await;

    play.empty_round(&mut company).await;

    let late = play.create_dids(&mut company, &[members]).await;
    let mut some: Vec<usize> = dids.iter().copied().step_by(2).collect();
    some.extend(&late);
    play.round(&mut company, &some).await;

    let versions: Vec<u64> = company.dids.iter().map(|known| known.version).collect();
    let mut expected: Vec<u64> = (0..members).map(|n| 3 - (n as u64 % 2)).collect();
    expected.push(2);
    assert_eq!(versions, expected);
    assert_eq!(company.signals.len(), 2);
    play.close().await;
}

#[tokio::test]
async fn smt_with_two() {
    three_rounds(CohortBeacon::Smt, 2).await;
}

#[tokio::test]
async fn smt_with_three() {
    three_rounds(CohortBeacon::Smt, 3).await;
}

#[tokio::test]
async fn smt_with_seven() {
    three_rounds(CohortBeacon::Smt, 7).await;
}

#[tokio::test]
async fn cas_with_two() {
    three_rounds(CohortBeacon::Cas, 2).await;
}

#[tokio::test]
async fn cas_with_three() {
    three_rounds(CohortBeacon::Cas, 3).await;
}

#[tokio::test]
async fn cas_with_seven() {
    three_rounds(CohortBeacon::Cas, 7).await;
}

/// Under `empty_rounds = signal` silence is announced too: the beacon's cadence says nothing.
#[tokio::test]
async fn silence_is_signalled_when_the_terms_say_so() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        let mut company = play
            .found_with(beacon, 0, &[1, 2], &[], |terms| {
                terms.empty_rounds = EmptyRounds::Signal;
            })
            .await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &[]).await;
        assert!(company.dids.iter().all(|known| known.version == 1));
        play.round(&mut company, &dids[..1]).await;
        assert_eq!(company.signals.len(), 2);
        play.close().await;
    }
}

/// A member that always says "no update", never "idle", makes the round a signal: nobody can tell its
/// silence from an update.
#[tokio::test]
async fn a_private_decline_is_signalled() {
    let mut private = Part::new(POLL);
    private.policy.decline = Decline::NoUpdate;
    let parts = [Part::new(POLL), Part::new(POLL), private];
    let mut play = Play::with_parts(&parts).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &[]).await;
    assert!(company.dids.iter().all(|known| known.version == 1));
    play.close().await;
}

/// Several DIDs of one member, in one and in different rounds, beside a member with none.
#[tokio::test]
async fn a_member_with_three_dids_and_one_with_none() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(4).await;
        let mut company = play.found(beacon, 0, &[1, 2, 3]).await;
        let dids = play.create_dids(&mut company, &[1, 1, 1, 2]).await;
        play.round(&mut company, &dids[..2]).await;
        play.round(&mut company, &dids[1..]).await;
        let versions: Vec<u64> = company.dids.iter().map(|known| known.version).collect();
        assert_eq!(versions, [2, 3, 2, 2]);
        play.close().await;
    }
}

/// Rule 10: while an update is not final no other is signed, and the refusal leaves nothing behind: once
/// it is final, the next one goes through.
#[tokio::test]
async fn a_second_update_waits_until_the_first_is_final() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids[..1]).await;
    let refused = play.try_queue(&company, dids[0]).await.unwrap_err();
    assert!(refused.to_string().contains("not final yet"), "{refused}");
    play.round(&mut company, &dids[..1]).await;
    assert_eq!(company.dids[0].version, 3);
    play.close().await;
}
