//! Who is what to whom: identity seats, several cohorts at once, both roles in one agent.

use btcr2_agent::network::Network;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::store::Role;

use super::play::Play;

/// A member that took its seat with its identity key, beside one with a key of its own for the cohort.
#[tokio::test]
async fn a_seat_of_the_identity() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(3).await;
        let mut company = play.found_with(beacon, 0, &[1, 2], &[1], |_| {}).await;
        for (member, by_identity) in [(1, true), (2, false)] {
            let store = play.file(member);
            let row = store.view().cohort(company.id, Role::Participant).unwrap();
            let identity = play.stage.actors[member].handle.identity();
            assert_eq!(row.unwrap().seat_key == Some(identity), by_identity);
        }
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids).await;
        play.close().await;
    }
}

/// An SMT and a CAS cohort of one aggregator that share members: their rounds are open at the same time
/// and end in the same block.
#[tokio::test]
async fn two_cohorts_at_once() {
    let mut play = Play::open(5).await;
    let mut trees = play.found(CohortBeacon::Smt, 0, &[1, 2, 3]).await;
    let mut maps = play.found(CohortBeacon::Cas, 0, &[2, 3, 4]).await;
    assert_ne!(trees.address, maps.address);
    let in_trees = play.create_dids(&mut trees, &[1, 2, 3]).await;
    let in_maps = play.create_dids(&mut maps, &[2, 3, 4, 4]).await;
    for _ in 0..2 {
        let mark = play.mark();
        let tree_updates = play.queue(&trees, &in_trees[..2]).await;
        let map_updates = play.queue(&maps, &in_maps[1..]).await;
        let tree_round = play.open_round(&mut trees).await;
        let map_round = play.open_round(&mut maps).await;
        play.broadcast(&trees, tree_round, mark).await;
        play.broadcast(&maps, map_round, mark).await;
        let height = play.stage.mine(1).unwrap();
        play.confirmed(&mut trees, tree_round, mark, height, tree_updates)
            .await;
        play.confirmed(&mut maps, map_round, mark, height, map_updates)
            .await;
    }
    assert_eq!((trees.signals.len(), maps.signals.len()), (2, 2));
    play.close().await;
}

/// Each of two agents is a member of the other's cohort, at the same time.
#[tokio::test]
async fn aggregators_are_participants_too() {
    let mut play = Play::open(3).await;
    let mut first = play.found(CohortBeacon::Smt, 0, &[1, 2]).await;
    let mut second = play.found(CohortBeacon::Cas, 1, &[0, 2]).await;
    let in_first = play.create_dids(&mut first, &[1, 2]).await;
    let in_second = play.create_dids(&mut second, &[0, 2]).await;
    let mark = play.mark();
    let first_updates = play.queue(&first, &in_first).await;
    let second_updates = play.queue(&second, &in_second).await;
    let first_round = play.open_round(&mut first).await;
    let second_round = play.open_round(&mut second).await;
    play.broadcast(&first, first_round, mark).await;
    play.broadcast(&second, second_round, mark).await;
    let height = play.stage.mine(1).unwrap();
    play.confirmed(&mut first, first_round, mark, height, first_updates)
        .await;
    play.confirmed(&mut second, second_round, mark, height, second_updates)
        .await;
    play.close().await;
}

/// An aggregator takes a seat in its own cohort, with a key of its own for it.
#[tokio::test]
async fn an_aggregator_is_a_member_of_its_own_cohort() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut play = Play::open(2).await;
        let mut company = play.found(beacon, 0, &[0, 1]).await;
        let dids = play.create_dids(&mut company, &[0, 1]).await;
        play.round(&mut company, &dids).await;
        play.round(&mut company, &dids[..1]).await;
        play.close().await;
    }
}

/// With its identity for a seat, an aggregator would speak to itself under one key: it is refused.
#[tokio::test]
async fn an_aggregator_has_no_identity_seat_in_its_own_cohort() {
    let play = Play::open(1).await;
    let refused = play
        .stage
        .ask(0, |agent| {
            let terms = Terms::with_defaults(
                agent.identity_key(),
                Network::Regtest,
                CohortBeacon::Smt,
                Salt::from_bytes([7; 16]),
                agent.time().plus(3_600),
            );
            agent.create_cohort(terms.clone(), Vec::new())?;
            agent.join_cohort(&terms.canonical(), &[], true, None)
        })
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("aggregator"), "{refused}");
    play.close().await;
}
