//! Clocks that jump: a machine resumed from a snapshot, and a clock set back a day and right again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use btcr2_agent::agent::What;
use btcr2_agent::agent::clocks::Slip;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::protocol::effect::Report;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::{Role, StoreError};

use super::play::{POLL, Play, eventually};

const DAY: i64 = 86_400;

impl Play {
    /// Sets an agent's clock, and waits until it has noticed: so many nonces dropped at least.
    async fn set_clock(&mut self, actor: usize, clock: &Arc<AtomicI64>, ahead: i64, least: usize) {
        let mark = self.mark();
        let by = ahead - clock.swap(ahead, Ordering::Relaxed);
        self.until("the clocks to be compared", mark, |seen| {
            seen.iter().any(|(of, event)| {
                let What::ClockSlipped { slip, dropped } = event.what else {
                    return false;
                };
                let seconds = match slip {
                    Slip::Ahead(seconds) => i64::try_from(seconds).unwrap(),
                    Slip::Back(seconds) => -i64::try_from(seconds).unwrap(),
                };
                *of == actor && dropped >= least && (seconds - by).abs() < 60
            })
        })
        .await;
    }

    fn sessions_lost(&self, mark: usize) -> usize {
        let lost = |what: &What| matches!(what, What::Report(Report::SessionLost { .. }));
        let seen = self.seen[mark..].iter();
        seen.filter(|(by, event)| *by == 0 && lost(&event.what))
            .count()
    }
}

/// Member 1 has its nonces out; its machine is resumed from a snapshot; then the last member comes.
#[tokio::test]
async fn a_resumed_snapshot_drops_its_nonces_and_offers_others() {
    let parts: Vec<Part> = (0..4).map(|_| Part::new(POLL)).collect();
    let clock = Arc::clone(&parts[1].ahead);
    let mut play = Play::with_parts(&parts).await;
    let mut company = play.found(CohortBeacon::Smt, 0, &[1, 2, 3]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids).await;
    play.stage.kill(3).await.unwrap();
    let round = play.open_round(&mut company).await;
    play.responses(&company, mark, 2).await;

    play.set_clock(1, &clock, 120, 1).await;
    let id = company.id;
    eventually("other nonces", || {
        let mut taken = false;
        let view = play.file(0);
        view.view()
            .replay::<StoreError>(id, Role::Aggregator, |entry| {
                taken |= entry.kind == "nonce_update";
                Ok(())
            })
            .unwrap();
        taken
    })
    .await;
    play.resume(&[3]).await;
    play.finish_round(&mut company, round, mark, updates).await;
    assert_eq!(play.sessions_lost(mark), 0);
    play.round(&mut company, &dids[..1]).await;
    play.close().await;
}

/// What a member says while its clock is a day behind reaches nobody: peers ask relays by date. When the clock is
/// right again it is said again, and the round goes on.
#[tokio::test]
async fn a_clock_set_back_a_day_holds_a_round_up_until_it_is_right() {
    let parts: Vec<Part> = (0..4).map(|_| Part::new(POLL)).collect();
    let clock = Arc::clone(&parts[1].ahead);
    let mut play = Play::with_parts(&parts).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2, 3]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    let mark = play.mark();
    let updates = play.queue(&company, &dids).await;
    play.stage.kill(3).await.unwrap();
    let round = play.open_round(&mut company).await;
    play.responses(&company, mark, 2).await;

    play.set_clock(1, &clock, -DAY, 1).await;
    play.resume(&[3]).await;
    play.responses(&company, mark, 3).await;
    play.set_clock(1, &clock, 0, 0).await;
    play.finish_round(&mut company, round, mark, updates).await;
    play.round(&mut company, &dids[..1]).await;
    play.close().await;
}
