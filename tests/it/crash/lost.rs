//! One kill at every fail point of the ways back: an aggregator restored from a backup that is older than a round, a
//! member restored and without its proofs, a member made again of its words alone. In between a round that fails.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use btcr2_agent::agent::backup::{back_up, restore};
use btcr2_agent::agent::recovery::restore_words;
use btcr2_agent::agent::system_clock;
use btcr2_agent::config::Home;
use btcr2_agent::keys::RootSecret;
use btcr2_agent::protocol::Round;
use btcr2_agent::store::{ArtifactKind, Role, StoreError};

use super::evidence::check;
use super::ways::{self, OfAll};
use super::world::{AGGREGATOR, Actor, Cohort, Ending, World};

/// The deadline is what the round takes that fails, and longer than an answer. Where members fund, each is sent the
/// refund of every round.
const TERMS: &str = "--fund-by members --response-deadline 15s";

/// Rounds whose numbers a restored aggregator leaves out.
const LEFT_OUT: u32 = 1_000;

/// Runs in which the points must have been reached.
const MOST_RUNS: usize = 5;

const WANTED: [&[&str]; 3] = [
    &[
        "stored/restored",
        "stored/kept_proofs",
        "stored/seat_request",
    ],
    &[
        "stored/proof_request",
        "stored/recovered",
        "stored/lost",
        "stored/recalled",
        "stored/refund_complete",
        "stored/round_failed",
    ],
    &[
        "after/insert_seat",
        "stored/reseat",
        "stored/seat_state",
        "after/regain",
        "stored/regained",
    ],
];

/// What is reached in one run without a kill.
pub static LOST: LazyLock<OfAll> = LazyLock::new(|| {
    let (mut world, mut cohort) = formed();
    ways::record(&mut world);
    for actor in &mut world.actors {
        actor.restart();
    }
    lost_and_back(&mut world, &mut cohort, 0);
    ways::recorded(&world)
});

fn formed() -> (World, Cohort) {
    let mut world = World::new();
    world.start();
    let cohort = world.form_with(TERMS);
    (world, cohort)
}

fn lost_and_back(world: &mut World, cohort: &mut Cohort, run: usize) {
    aggregator_restored(world, cohort, run);
    one_away(world, cohort);
    member_by_its_words(world, cohort, run);
    member_restored(world, run);
    confirmed(world, cohort);
}

/// A round that ends well; one may be late.
fn confirmed(world: &mut World, cohort: &mut Cohort) {
    let endings: Vec<Ending> = (0..3)
        .map(|_| world.round(cohort))
        .take_while(|ending| !matches!(ending, Ending::Confirmed(_)))
        .collect();
    assert!(endings.len() < 3, "{endings:?}");
}

/// Moves an agent that does not run into another home, which is made of a backup.
fn into_backup(actor: &mut Actor, backup: &Path, to: PathBuf) {
    let home = Home::locate(Some(&to), None).unwrap();
    home.create().unwrap();
    restore(&home, backup, system_clock()()).unwrap();
    actor.home = to;
}

fn copy_of(actor: &Actor, to: &Path) {
    let home = Home::locate(Some(&actor.home), None).unwrap();
    back_up(&home, to, system_clock()()).unwrap();
}

/// How often the log of an aggregator says that it was restored.
fn restored(actor: &Actor, cohort: &Cohort) -> u32 {
    let mut times = 0;
    let store = actor.store();
    let view = store.view();
    view.replay::<StoreError>(cohort.key(), Role::Aggregator, |entry| {
        times += u32::from(entry.kind == "restored");
        Ok(())
    })
    .unwrap();
    times
}

/// A round is newer than the backup. Members show what it was made of.
fn aggregator_restored(world: &mut World, cohort: &mut Cohort, run: usize) {
    let dir = world.dir.path().to_owned();
    let backup = dir.join(format!("aggregator-backup-{run}"));
    copy_of(&world.actors[AGGREGATOR], &backup);
    let (before, known) = (cohort.round, restored(&world.actors[AGGREGATOR], cohort));
    confirmed(world, cohort);
    let lost = cohort.round;
    // It knows of the signal, and not that it sent it.
    cohort.confirmed.pop();
    let aggregator = &mut world.actors[AGGREGATOR];
    aggregator.kill();
    into_backup(aggregator, &backup, dir.join(format!("aggregator-{run}")));
    aggregator.start();
    let id = cohort.key();
    world.wait("the leaves of the lost round", |world| {
        let store = world.actors[AGGREGATOR].store();
        let artifacts = store.view().artifacts_of_cohort(id, Round(lost));
        let artifacts = artifacts.map_err(|error| error.to_string())?;
        let found = artifacts.iter().any(|artifact| {
            artifact.key.kind == ArtifactKind::LeafSet
                && artifact.key.origin == Some((id, Round(lost)))
        });
        if found {
            Ok(())
        } else {
            Err(format!("round {lost} of {artifacts:?}"))
        }
    });
    // All have to sign the refund of an output that it does not know to be protected, before somebody goes away.
    let show = cohort.show.clone();
    world.until(AGGREGATOR, &show, |view| {
        view["beacon"]["outputs"][0]["protection"] == "protected"
    });
    // Killed after it was told and before that was noted, it is told again.
    let times = restored(&world.actors[AGGREGATOR], cohort) - known;
    assert!((1..=2).contains(&times), "{times}");
    cohort.round = before + LEFT_OUT * times;
}

/// The second member is away, and all have to sign: the round ends without.
fn one_away(world: &mut World, cohort: &mut Cohort) {
    world.actors[2].kill();
    cohort.round += 1;
    let round = cohort.round;
    world.announce(cohort);
    for who in [AGGREGATOR, 1] {
        let show = cohort.show.clone();
        world.until(who, &show, |view| {
            let last = &view["past_rounds"][0];
            last["round"] == round && last["state"] == "failed"
        });
    }
}

/// The second member has nothing but its words, and settings.
fn member_by_its_words(world: &mut World, cohort: &Cohort, run: usize) {
    let home = world.dir.path().join(format!("two-{run}"));
    let relay = world.relay.clone();
    let actor = &mut world.actors[2];
    let words = actor.root().words().unwrap();
    let root = RootSecret::from_words(words.expose()).unwrap();
    let made = Home::locate(Some(&home), None).unwrap();
    made.create().unwrap();
    restore_words(&made.store_path(), &root, &[], system_clock()()).unwrap();
    for file in ["keystore.json", "config.toml", "identity.json"] {
        std::fs::copy(actor.home.join(file), home.join(file)).unwrap();
    }
    actor.home = home;
    // Relays that were added are in the store that is lost.
    actor.ask(&format!("relay add {relay}")).unwrap();
    actor.start();
    world.until(2, &format!("did show {}", cohort.dids[1]), |view| {
        view["bindings"][0]["stage"] == "bound"
    });
}

/// The first member is restored from a backup that has everything, and then loses what proves signals.
fn member_restored(world: &mut World, run: usize) {
    let dir = world.dir.path().to_owned();
    let backup = dir.join(format!("one-backup-{run}"));
    let actor = &mut world.actors[1];
    actor.kill();
    copy_of(actor, &backup);
    into_backup(actor, &backup, dir.join(format!("one-{run}")));
    let store = Home::locate(Some(&actor.home), None).unwrap().store_path();
    let db = rusqlite::Connection::open(store).unwrap();
    db.execute_batch(
        "BEGIN IMMEDIATE;
         DROP TRIGGER artifacts_are_never_deleted;
         DELETE FROM artifacts WHERE kind = 'smt_proof';
         CREATE TRIGGER artifacts_are_never_deleted BEFORE DELETE ON artifacts
             BEGIN SELECT RAISE(ABORT, 'artifacts are never deleted'); END;
         COMMIT;",
    )
    .unwrap();
    drop(db);
    actor.start();
    world.wait("the proofs of the first member", |world| {
        let verified = world.actors[1].ask("did verify --fetch --wait 5s")?;
        let missing = verified["dids"][0]["missing"].as_array();
        if missing.is_some_and(Vec::is_empty) {
            Ok(())
        } else {
            Err(verified.to_string())
        }
    });
}

#[test]
fn killed_at_every_point_of_the_ways_back_nothing_is_lost_that_can_be_had_again() {
    let points = &*LOST;
    ways::has(points, WANTED);
    let (mut world, mut cohort) = formed();
    let mut run = 0;
    ways::kill_at_all(&mut world, points, MOST_RUNS, |world| {
        lost_and_back(world, &mut cohort, run);
        run += 1;
    });
    confirmed(&mut world, &mut cohort);
    let found = check(&world, &cohort);
    assert!(found.verified >= 2, "{found:?}");
}
