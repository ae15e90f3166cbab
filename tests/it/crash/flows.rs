//! One kill at every fail point that rounds with the default terms do not reach: CAS announcements, deposits, an
//! update that is withdrawn, a signal that is replaced, snapshots and the logs they shorten.

use std::collections::BTreeSet;

use super::evidence::check;
use super::points::{Points, USUAL, is_by_chance, kills, left, read};
use super::world::{AGGREGATOR, Cohort, Ending, Twist, World};

/// Terms that differ from the defaults in what has messages of its own.
const TERMS: &str = "--beacon cas --deposits required";

/// The member that is killed; the other one only waits.
const MEMBER: usize = 1;

/// Entries of a log after which there is a snapshot: a round is some more.
const SNAPSHOT_AFTER: u64 = 20;

/// Kills of one agent in one round.
const KILLS_PER_ROUND: usize = 6;

/// Rounds in which these points must have been reached.
const MOST_ROUNDS: u32 = 12;

/// What must be among the points of the aggregator, and of a member: that the flow is what it is meant to be.
const WANTED: [&[&str]; 2] = [
    &["stored/bump", "stored/snapshot", "stored/shorter_log"],
    &[
        "stored/withdraw",
        "stored/deposit",
        "written/snapshot",
        "written/shorter_log",
    ],
];

/// A cohort with these terms whose agents take snapshots often.
fn formed() -> (World, Cohort) {
    let mut world = World::new();
    for actor in &mut world.actors {
        actor.snapshot_after = Some(SNAPSHOT_AFTER);
    }
    world.start();
    let cohort = world.form_with(TERMS);
    (world, cohort)
}

/// Runs without a kill, and says what is reached that the default terms do not: for the aggregator and for a member.
fn reached() -> [Points; 2] {
    let (mut world, mut cohort) = formed();
    let dir = world.dir.path().to_owned();
    for who in [AGGREGATOR, MEMBER] {
        let actor = &mut world.actors[who];
        actor.record = Some(dir.join(format!("flow-{}", actor.name)));
        actor.restart();
    }
    for _ in 0..2 {
        let ending = world.round_with(&mut cohort, Twist::Stuck);
        assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
    }
    let mut place = 0;
    [AGGREGATOR, MEMBER].map(|who| {
        let usual = USUAL.iter().flat_map(|points| &points[place]);
        let usual: BTreeSet<&String> = usual.collect();
        place += 1;
        let mut points = read(&dir.join(format!("flow-{}", world.actors[who].name)));
        points.retain(|point| !usual.contains(point));
        points
    })
}

#[test]
fn killed_at_every_point_of_other_terms_a_cohort_announces() {
    let points = reached();
    eprintln!("{points:?}");
    for (points, wanted) in points.iter().zip(WANTED) {
        for wanted in wanted {
            let found = points.iter().any(|point| point == wanted);
            assert!(found, "{wanted} in {points:?}");
        }
    }
    let (mut world, mut cohort) = formed();
    for (who, points) in [AGGREGATOR, MEMBER].into_iter().zip(&points) {
        world.actors[who].pending.clone_from(points);
    }
    while !left(&world).is_empty() {
        assert!(cohort.round < MOST_ROUNDS, "{:?}", left(&world));
        for who in [AGGREGATOR, MEMBER] {
            let actor = &mut world.actors[who];
            actor.put_off(is_by_chance);
            actor.lives = KILLS_PER_ROUND;
            actor.restart();
        }
        let ending = world.round_with(&mut cohort, Twist::Stuck);
        assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
    }
    for actor in &mut world.actors {
        actor.lives = 0;
    }
    let last = world.round(&mut cohort);
    assert!(matches!(last, Ending::Confirmed(_)), "{last:?}");
    let found = check(&world, &cohort);
    eprintln!(
        "other terms: {} rounds, {} kills, {found:?}",
        cohort.round,
        kills(&world)
    );
    // Two of a round, and two of what replaced its signal.
    let rounds = usize::try_from(cohort.round - 1).unwrap();
    assert!(found.verified >= 4 * rounds, "{found:?}");
}
