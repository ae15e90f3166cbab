//! One kill at every fail point there is, for both roles.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use super::evidence::check;
use super::world::{AGGREGATOR, Actor, Ending, World};

/// The member that is killed; the other one only waits.
const MEMBER: usize = 1;

/// Kills of one agent in one round. A member that loses its nonces costs the round a session each time.
const KILLS_PER_ROUND: usize = 6;

/// Rounds in which the points of a round must have been reached.
const MOST_ROUNDS: u32 = 60;

/// Cohorts in whose forming the points of forming must have been reached.
const MOST_COHORTS: usize = 16;

/// Points that not every run reaches: they depend on how long something took.
const BY_CHANCE: [&str; 4] = ["resign", "bundle_rename", "mark_chunk", "arrived/chunk"];

/// The points that were reached, in order.
type Points = VecDeque<String>;

fn read(path: &Path) -> Points {
    let text = std::fs::read_to_string(path).unwrap();
    let all = text.lines().map(str::to_owned);
    all.filter(|point| !BY_CHANCE.iter().any(|name| point.contains(name)))
        .collect()
}

/// Runs without a kill, and says what forming and rounds reach: for the aggregator and for a member.
fn reached() -> [[Points; 2]; 2] {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    let record = |stage: &str, actor: &mut Actor| {
        actor.record = Some(dir.join(format!("{stage}-{}", actor.name)));
    };
    world.actors.iter_mut().for_each(|a| record("forming", a));
    world.start();
    let mut cohort = world.form();
    for actor in &mut world.actors {
        record("round", actor);
        actor.restart();
    }
    for _ in 0..2 {
        let ending = world.round(&mut cohort);
        assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
    }
    ["forming", "round"].map(|stage| {
        [AGGREGATOR, MEMBER].map(|who| {
            let name = world.actors[who].name;
            let path: PathBuf = dir.join(format!("{stage}-{name}"));
            let mut points = read(&path);
            // What was left of forming when rounds began.
            points.retain(|point| stage == "forming" || !point.contains("refund_"));
            points
        })
    })
}

fn arm(world: &mut World, points: &[Points; 2]) {
    for (who, points) in [AGGREGATOR, MEMBER].into_iter().zip(points) {
        world.actors[who].pending.clone_from(points);
    }
}

fn left(world: &World) -> Vec<(&'static str, Vec<String>)> {
    let actors = world.actors.iter();
    let left = actors.map(|actor| {
        (
            actor.name,
            actor.pending.iter().cloned().collect::<Vec<_>>(),
        )
    });
    left.filter(|(_, points)| !points.is_empty()).collect()
}

/// Kills both at every point of forming, in as many cohorts as that takes.
fn kill_in_forming(points: &[Points; 2]) {
    let mut world = World::new();
    arm(&mut world, points);
    world.start();
    let mut cohorts = Vec::new();
    while !left(&world).is_empty() {
        assert!(
            cohorts.len() < MOST_COHORTS,
            "not reached: {:?}",
            left(&world)
        );
        for who in [AGGREGATOR, MEMBER] {
            let actor = &mut world.actors[who];
            actor.put_off();
            actor.lives = usize::MAX;
            actor.restart();
        }
        cohorts.push(world.form());
    }
    for actor in &mut world.actors {
        actor.lives = 0;
    }
    for cohort in &mut cohorts {
        assert!(matches!(world.round(cohort), Ending::Confirmed(_)));
        let found = check(&world, cohort);
        assert!(found.partials >= 2, "{found:?}");
    }
    eprintln!(
        "forming: {} cohorts, {} kills",
        cohorts.len(),
        kills(&world)
    );
}

/// Kills both at every point of a round, in as many rounds as that takes.
fn kill_in_rounds(points: &[Points; 2]) {
    let mut world = World::new();
    world.start();
    let mut cohort = world.form();
    arm(&mut world, points);
    let (mut confirmed, mut failed) = (0, Vec::new());
    while !left(&world).is_empty() {
        assert!(
            cohort.round < MOST_ROUNDS,
            "not reached: {:?}",
            left(&world)
        );
        for who in [AGGREGATOR, MEMBER] {
            let actor = &mut world.actors[who];
            actor.put_off();
            actor.lives = KILLS_PER_ROUND;
            actor.restart();
        }
        match world.round(&mut cohort) {
            Ending::Confirmed(_) => confirmed += 1,
            Ending::Failed(why) => failed.push(why),
        }
    }
    for actor in &mut world.actors {
        actor.lives = 0;
    }
    let last = world.round(&mut cohort);
    assert!(matches!(last, Ending::Confirmed(_)), "{last:?}");
    let found = check(&world, &cohort);
    eprintln!(
        "rounds: {confirmed} confirmed, failed {failed:?}, {} kills, {found:?}",
        kills(&world)
    );
    assert!(found.verified >= 2 * confirmed, "{found:?}");
    assert!(failed.is_empty(), "{failed:?}");
}

fn kills(world: &World) -> usize {
    world.actors.iter().map(|actor| actor.died.len()).sum()
}

#[test]
fn killed_at_every_point_a_cohort_goes_on_with_the_same_signal() {
    let [forming, round] = reached();
    for (role, points) in [(0, "aggregator"), (1, "member")].map(|(n, role)| (role, &round[n])) {
        // That they are found at all: some that must be there by what the program does.
        let wanted: &[&str] = match role {
            "aggregator" => &[
                "before/broadcast",
                "after/send_to_chain",
                "sent/sign_request",
            ],
            _ => &[
                "before/sign",
                "signed",
                "stored/signed",
                "sent/partial_signature",
            ],
        };
        let points: BTreeSet<&str> = points.iter().map(String::as_str).collect();
        assert!(
            wanted.iter().all(|name| points.contains(name)),
            "{role}: {points:?}"
        );
    }
    eprintln!(
        "forming {} + {}, round {} + {}",
        forming[0].len(),
        forming[1].len(),
        round[0].len(),
        round[1].len()
    );
    std::thread::scope(|scope| {
        let one = scope.spawn(|| kill_in_forming(&forming));
        let two = scope.spawn(|| kill_in_rounds(&round));
        one.join().unwrap();
        two.join().unwrap();
    });
}
