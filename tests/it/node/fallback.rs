//! The k-of-n leaf on a real node: what k members sign through it is relayed and mined like any signal.

use btcr2_agent::protocol::terms::CohortBeacon;

use super::cohort::stage;
use crate::e2e::fallback::{a_stalled_round, a_stuck_fallback};

async fn on_a_node(beacon: CohortBeacon, members: usize, k: u16) {
    let Some(mut play) = stage(members + 1).await else {
        return;
    };
    a_stalled_round(&mut play, beacon, members, k).await;
    play.close().await;
}

#[tokio::test]
async fn one_of_two_cas() {
    on_a_node(CohortBeacon::Cas, 2, 1).await;
}

#[tokio::test]
async fn two_of_three_cas() {
    on_a_node(CohortBeacon::Cas, 3, 2).await;
}

#[tokio::test]
async fn two_of_five_smt() {
    on_a_node(CohortBeacon::Smt, 5, 2).await;
}

/// It waits in the node's mempool, which takes the other in its place.
#[tokio::test]
async fn a_stuck_one_is_replaced() {
    let Some(mut play) = stage(4).await else {
        return;
    };
    a_stuck_fallback(&mut play, CohortBeacon::Cas, 3, 2).await;
    play.close().await;
}
