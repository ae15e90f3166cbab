//! Months that pass: what was kept for its time goes, what DIDs live by stays, and the cohort goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use btcr2_agent::demo::stage::Part;
use btcr2_agent::protocol::terms::CohortBeacon;
use rusqlite::Connection;

use super::play::{POLL, Play, eventually};

const DAY: i64 = 86_400;

impl Play {
    /// Rows of a table in an agent's store, by kind.
    fn rows_of(
        &self,
        actor: usize,
        table: &str,
        kind: &str,
        filter: &str,
    ) -> BTreeMap<String, i64> {
        let shell = Connection::open(self.stage.actors[actor].home.store_path()).unwrap();
        let sql = format!("SELECT {kind}, count(*) FROM {table} WHERE {filter} GROUP BY 1");
        let mut statement = shell.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// What agents keep for ever.
    fn kept_for_ever(&self, actors: usize) -> Vec<BTreeMap<String, i64>> {
        (0..actors)
            .flat_map(|actor| {
                [
                    self.rows_of(actor, "artifacts", "kind", "1"),
                    self.rows_of(actor, "transactions", "'transactions'", "1"),
                    self.rows_of(actor, "updates", "state", "1"),
                ]
            })
            .collect()
    }

    /// Messages on their way from any agent.
    fn waiting(&self, actors: usize) -> i64 {
        let of = |actor| {
            self.rows_of(actor, "outbox", "'all'", "done = 0")
                .into_values()
                .sum::<i64>()
        };
        (0..actors).map(of).sum()
    }
}

/// Everybody's clock goes on by days at once, as if all machines had slept: three weeks, while the last round's messages
/// are not acknowledged yet, then two months and a year more.
#[tokio::test]
async fn what_was_delivered_goes_in_time_and_the_cohort_goes_on() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut part = Part::new(POLL);
        part.snapshot_after = 5;
        let clock = Arc::clone(&part.ahead);
        let mut play = Play::with_parts(&vec![part; 3]).await;
        let mut company = play.found(beacon, 0, &[1, 2]).await;
        let dids = play.create_dids(&mut company, &[1, 2]).await;
        play.round(&mut company, &dids[..1]).await;
        let mut ahead = 0;
        // Rounds are on the relays for sixty days, the forming for a year.
        for (days, rounds_stay, forming_stays) in
            [(20, true, true), (75, false, true), (400, false, false)]
        {
            let sent = |play: &Play, kind: &str| {
                let filter = format!("type = '{kind}'");
                let rows = play.rows_of(0, "outbox", "'all'", &filter);
                rows.into_values().sum::<i64>()
            };
            let seen = |play: &Play| {
                let rows = play.rows_of(1, "seen_events", "'all'", "1");
                rows.into_values().sum::<i64>()
            };
            assert!(sent(&play, "round_open") > 0);
            let kept = play.kept_for_ever(3);
            let before = seen(&play);
            ahead += days * DAY;
            clock.store(ahead, Ordering::Relaxed);
            for actor in 0..3 {
                // Whoever is asked looks at the clock, and does what is due.
                play.ask(actor, |_| Ok(())).await;
            }
            eventually(
                &format!("what had its time after {days} days to go"),
                || {
                    (sent(&play, "round_open") > 0) == rounds_stay
                        && (sent(&play, "frozen") > 0) == forming_stays
                        && (rounds_stay || seen(&play) < before)
                },
            )
            .await;
            assert_eq!(play.kept_for_ever(3), kept, "after {days} days");
            play.round(&mut company, &dids).await;
            play.check(&company);
            eventually("everything to be delivered", || play.waiting(3) == 0).await;
        }
        play.close().await;
    }
}
