//! Cohorts whose terms let k members sign a round that has stalled: whole agents, some of which die before the round
//! and come back after it.

use btcr2_agent::agent::What;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::{CohortBeacon, OutputPolicy};
use btcr2_agent::store::{Role, Store};

use super::company::Company;
use super::play::Play;
use super::replacing::Replaced;

/// Seconds to respond: longer than any response takes, and waited for once in a test.
const RESPONSE: u32 = 15;

/// A round with everybody; one without all but k members, who come back when it is signed; one with everybody again,
/// in which who was away has something to announce.
pub async fn a_stalled_round(
    play: &mut Play,
    beacon: CohortBeacon,
    members: usize,
    k: u16,
) -> Company {
    let seats: Vec<usize> = (1..=members).collect();
    let mut company = play
        .found_with(beacon, 0, &seats, &[], move |terms| {
            terms.output_policy = OutputPolicy::KOfN(k);
            terms.response_seconds = RESPONSE;
        })
        .await;
    let dids = play.create_dids(&mut company, &seats).await;
    play.round(&mut company, &dids).await;

    let away: Vec<usize> = seats[usize::from(k)..].to_vec();
    let mark = play.mark();
    let updates = play.queue(&company, &dids[..1]).await;
    for member in &away {
        play.stage.kill(*member).await.unwrap();
    }
    let round = play.open_round(&mut company).await;
    company.fallbacks.insert(round);
    play.broadcast(&company, round, mark).await;
    // Rule 10: no session ever signed this round, and its update is pinned all the same.
    let first = &company.dids[dids[0]];
    let store = play.stage.actors[first.member].home.store_path();
    let store = Store::open_read_only(&store).unwrap();
    let rows = store.view().updates_of(first.did.as_str()).unwrap();
    let row = rows
        .iter()
        .find(|row| updates.values().any(|hash| *hash == row.hash));
    assert!(
        row.is_some_and(|row| row.pinned && row.state != "queued"),
        "{row:?}"
    );
    // They find what was published without them, and make their own proofs of it.
    play.resume(&away).await;
    let id = company.id;
    play.reported(
        "the result",
        mark,
        id,
        Role::Participant,
        &away,
        |report| matches!(report, Report::SignalSigned { round: of, .. } if *of == round),
    )
    .await;
    play.finish_round(&mut company, round, mark, updates).await;

    play.round(&mut company, &dids[members - 1..]).await;
    assert_eq!(company.signals.len(), 3);
    company
}

/// A signal that k members signed through the leaf is stuck, and those k sign it again; one of them was restarted in
/// between. Who was away finds both, and goes on from the one that is mined.
pub async fn a_stuck_fallback(play: &mut Play, beacon: CohortBeacon, members: usize, k: u16) {
    let seats: Vec<usize> = (1..=members).collect();
    let mut company = play
        .found_with(beacon, 0, &seats, &[], move |terms| {
            terms.output_policy = OutputPolicy::KOfN(k);
            terms.response_seconds = RESPONSE;
        })
        .await;
    let dids = play.create_dids(&mut company, &seats).await;
    play.round(&mut company, &dids).await;

    let (present, away) = seats.split_at(usize::from(k));
    let mark = play.mark();
    let updates = play.queue(&company, &dids[..1]).await;
    for member in away {
        play.stage.kill(*member).await.unwrap();
    }
    let round = play.open_round(&mut company).await;
    company.fallbacks.insert(round);
    let signed =
        |report: &Report| matches!(report, Report::SignalSigned { round: of, .. } if *of == round);
    let id = company.id;
    play.reported("a signal", mark, id, Role::Aggregator, &[0], signed)
        .await;
    play.reported("the result", mark, id, Role::Participant, present, signed)
        .await;
    let first = play.seen[mark..]
        .iter()
        .find_map(|(_, event)| match &event.what {
            What::Report(Report::SignalSigned { txid, .. }) => Some(*txid),
            _ => None,
        });
    let first = first.unwrap();

    let again = play.mark();
    play.stage.kill(present[0]).await.unwrap();
    play.bump(&company).await;
    play.resume(&present[..1]).await;
    let txid = play.bumped(&company, again).await;
    play.taken(&company, again, txid).await;
    play.told(&company, again, present, txid).await;
    assert_ne!(txid, first);
    assert!(play.is_on_chain(&company, txid) && !play.is_on_chain(&company, first));
    play.resume(away).await;
    play.told(&company, again, away, txid).await;
    let replaced = Replaced {
        round,
        mark,
        updates,
        sent: vec![first, txid],
    };
    play.mine_replaced(&mut company, replaced).await;

    play.round(&mut company, &dids[members - 1..]).await;
    assert_eq!(company.signals.len(), 3);
}

async fn in_process(beacon: CohortBeacon, members: usize, k: u16) {
    let mut play = Play::open(members + 1).await;
    a_stalled_round(&mut play, beacon, members, k).await;
    play.close().await;
}

#[tokio::test]
async fn two_of_three_smt() {
    in_process(CohortBeacon::Smt, 3, 2).await;
}

#[tokio::test]
async fn two_of_four_cas() {
    in_process(CohortBeacon::Cas, 4, 2).await;
}

#[tokio::test]
async fn a_stuck_fallback_smt() {
    let mut play = Play::open(4).await;
    a_stuck_fallback(&mut play, CohortBeacon::Smt, 3, 2).await;
    play.close().await;
}
