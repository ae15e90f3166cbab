//! Agents whose logs are shortened as they go: what a start finds then, also where a snapshot is damaged.

use btcr2_agent::agent::AgentError;
use btcr2_agent::demo::DemoError;
use btcr2_agent::demo::stage::Part;
use btcr2_agent::hash::CohortId;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::store::{NewSnapshot, Role, Store, StoreError};
use btcr2_agent::time::UnixTime;
use rusqlite::Connection;

use super::company::Company;
use super::play::{POLL, Play, eventually};

const ROLES: [(usize, Role); 3] = [
    (0, Role::Aggregator),
    (1, Role::Participant),
    (2, Role::Participant),
];

/// A cohort of two whose agents take snapshots all the time, after two rounds.
async fn played(beacon: CohortBeacon) -> (Play, Company, Vec<usize>) {
    let mut part = Part::new(POLL);
    part.snapshot_after = 5;
    let mut play = Play::with_parts(&[part.clone(), part.clone(), part]).await;
    let mut company = play.found(beacon, 0, &[1, 2]).await;
    let dids = play.create_dids(&mut company, &[1, 2]).await;
    play.round(&mut company, &dids[..1]).await;
    play.round(&mut company, &dids[1..]).await;
    for (actor, _) in ROLES {
        play.stage.stop(actor).await.unwrap();
    }
    (play, company, dids)
}

/// What is left of a log: its first and last entry, and how many there are.
fn log(play: &Play, actor: usize, cohort: CohortId, role: Role) -> (u64, u64, u64) {
    let store = play.file(actor);
    let view = store.view();
    let mut first = None;
    let left = view
        .replay::<StoreError>(cohort, role, |entry| {
            first.get_or_insert(entry.seq);
            Ok(())
        })
        .unwrap();
    let last = view.last_seq(cohort, role).unwrap();
    (first.unwrap(), last, left)
}

fn shell(play: &Play, actor: usize, sql: &str) {
    let shell = Connection::open(play.stage.actors[actor].home.store_path()).unwrap();
    shell.execute_batch(sql).unwrap();
}

/// Damages snapshots as a broken disk would.
fn damage(play: &Play, actor: usize, which: &str) {
    let sql = format!(
        "DROP TRIGGER snapshots_are_never_changed;
         UPDATE snapshots SET body = replace(body, 'machine', 'maschine') {which};
         CREATE TRIGGER snapshots_are_never_changed BEFORE UPDATE ON snapshots
         BEGIN SELECT RAISE(ABORT, 'a snapshot is never changed'); END;"
    );
    shell(play, actor, &sql);
}

const NEWEST: &str = "WHERE seq = (SELECT max(seq) FROM snapshots)";

#[tokio::test]
async fn a_cohort_goes_on_from_its_snapshots() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let (mut play, mut company, dids) = played(beacon).await;
        for (actor, role) in ROLES {
            let cut = play.file(actor).view().log_cut(company.id, role).unwrap();
            let (first, last, left) = log(&play, actor, company.id, role);
            assert!(cut > 0 && first > cut && left > 0, "{actor}: {cut} {first}");
            assert!(left < 20 && last > 25, "{actor}: {left} of {last}");
        }
        // The newest snapshot of some is broken: the one before it, and the log since, lead to the same.
        damage(&play, 0, NEWEST);
        damage(&play, 2, NEWEST);
        play.resume(&[2, 0, 1]).await;
        play.check(&company);
        play.round(&mut company, &dids).await;
        // Who registers now needs the proofs of rounds of which there is no log.
        let late = play.create_dids(&mut company, &[1]).await;
        play.round(&mut company, &late).await;
        play.check(&company);
        // Broken ones go when there are two others.
        let cohort = company.id;
        for (actor, role) in [ROLES[0], ROLES[2]] {
            eventually("two good snapshots", || {
                let store = play.file(actor);
                let snapshot = |before| store.view().snapshot_before(cohort, role, before);
                let newest = snapshot(None).unwrap().unwrap();
                let former = snapshot(Some(newest.seq)).unwrap().unwrap();
                newest.body.is_some() && former.body.is_some()
            })
            .await;
        }
        play.close().await;
    }
}

#[tokio::test]
async fn without_a_good_snapshot_nothing_is_guessed() {
    let (mut play, company, _) = played(CohortBeacon::Smt).await;
    let refused = |play: &mut Play, actor: usize| match play.stage.resume(actor) {
        Err(DemoError::Agent { error, .. }) => error,
        other => panic!("{:?}", other.map(drop)),
    };
    damage(&play, 1, "");
    let error = refused(&mut play, 1);
    assert!(matches!(error, AgentError::NoSnapshot(cohort) if cohort == company.id));
    assert!(error.to_string().ends_with("restore the last backup"));

    // One of a newer program is not skipped: the one before it knows less.
    let path = play.stage.actors[0].home.store_path();
    let mut store = Store::open(&path).unwrap();
    let seq = store.view().last_seq(company.id, Role::Aggregator).unwrap() + 1;
    store
        .transaction(|tx| {
            tx.insert_snapshot(&NewSnapshot {
                cohort: company.id,
                role: Role::Aggregator,
                seq,
                format: 9,
                body: "{}",
                created: UnixTime(1),
            })
        })
        .unwrap_or_else(|error: StoreError| panic!("{error}"));
    drop(store);
    let error = refused(&mut play, 0);
    assert!(
        matches!(error, AgentError::NewerSnapshot { found: 9, .. }),
        "{error}"
    );
    // Who has nothing wrong with it starts.
    play.resume(&[2]).await;
    play.close().await;
}
