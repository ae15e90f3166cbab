//! The k-of-n leaf on a real node: what k members sign through it is relayed and mined like any signal.

use btcr2_agent::protocol::terms::CohortBeacon;

use super::cohort::stage;
use crate::e2e::fallback::a_stalled_round;

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
