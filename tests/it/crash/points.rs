//! One kill at every fail point there is, for both roles.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::evidence::check;
use super::world::{AGGREGATOR, Actor, Ending, World};

/// The member that is killed; the other one only waits.
const MEMBER: usize = 1;

/// Kills of one agent in one round. A member that loses its nonces costs the round a session each time.
const KILLS_PER_ROUND: usize = 6;

/// Rounds in which the points of a round must have been reached.
const MOST_ROUNDS: u32 = 60;

/// Cohorts of one set of agents: every one makes their start longer.
const COHORTS: usize = 6;

/// Sets of agents in whose forming the points of forming must have been reached.
const MOST_WORLDS: usize = 5;

/// Points that not every run reaches: they depend on how long something took. They are tried once, and need not be met.
const BY_CHANCE: [&str; 8] = [
    "write_states",
    "resign",
    "bundle_",
    "mark_chunk",
    "arrived/chunk",
    "arrived/ack",
    "sent/ack",
    // What is not logged: a question, or a repetition.
    "mark_seen",
];

/// The points that were reached, in order.
pub type Points = VecDeque<String>;

/// What forming and rounds of a cohort with the default terms reach, for the aggregator and for a member.
pub static USUAL: LazyLock<[[Points; 2]; 2]> = LazyLock::new(|| reached(2));

pub fn is_by_chance(point: &str) -> bool {
    BY_CHANCE.iter().any(|name| point.contains(name))
}

pub fn read(path: &Path) -> Points {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (last, first): (Vec<_>, Vec<_>) = text
        .lines()
        .map(str::to_owned)
        .partition(|p| is_by_chance(p));
    first.into_iter().chain(last).collect()
}

/// Runs without a kill, and says what forming and rounds reach: for the aggregator and for a member.
fn reached(rounds: u32) -> [[Points; 2]; 2] {
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
    for _ in 0..rounds {
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

/// The points that have to be reached and were not.
pub fn left(world: &World) -> Vec<(&'static str, Vec<String>)> {
    let left = world.actors.iter().map(|actor| {
        let points = actor.pending.iter().filter(|point| !is_by_chance(point));
        (actor.name, points.cloned().collect::<Vec<_>>())
    });
    left.filter(|(_, points)| !points.is_empty()).collect()
}

/// Kills both at every point of forming, in as many cohorts as that takes.
fn kill_in_forming(points: &[Points; 2]) {
    let mut points = points.clone();
    for _ in 0..MOST_WORLDS {
        let mut world = World::new();
        arm(&mut world, &points);
        world.start();
        let mut cohorts = Vec::new();
        while cohorts.len() < COHORTS && !left(&world).is_empty() {
            for who in [AGGREGATOR, MEMBER] {
                let actor = &mut world.actors[who];
                actor.put_off(is_by_chance);
                actor.lives = usize::MAX;
                actor.restart();
            }
            cohorts.push(world.form());
        }
        for actor in &mut world.actors {
            actor.lives = 0;
        }
        let last = cohorts.last_mut().unwrap();
        assert!(matches!(world.round(last), Ending::Confirmed(_)));
        for cohort in &cohorts {
            let found = check(&world, cohort);
            // Of the refund of what was paid, at least.
            assert!(found.partials >= 2, "{found:?}");
        }
        eprintln!(
            "forming: {} cohorts, {} kills",
            cohorts.len(),
            kills(&world)
        );
        points = [AGGREGATOR, MEMBER].map(|who| world.actors[who].pending.clone());
        if left(&world).is_empty() {
            return;
        }
    }
    panic!("not reached: {points:?}");
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
            actor.put_off(is_by_chance);
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

pub fn kills(world: &World) -> usize {
    world.actors.iter().map(|actor| actor.died.len()).sum()
}

/// That points are found at all: some that must be there by what the program does.
fn has(points: &Points, wanted: &[&str]) {
    let missing = wanted
        .iter()
        .filter(|name| !points.iter().any(|point| point == *name));
    assert_eq!(missing.count(), 0, "{wanted:?} in {points:?}");
}

#[test]
fn killed_at_every_point_of_forming_a_cohort_forms_and_announces() {
    let [forming, _] = &*USUAL;
    has(
        &forming[0],
        &["stored/advertise", "before/advertise", "sent/frozen"],
    );
    has(
        &forming[1],
        &["stored/join", "after/store_did", "stored/signed"],
    );
    kill_in_forming(forming);
}

#[test]
fn killed_at_every_point_of_a_round_a_cohort_announces_the_same_signal() {
    let [_, round] = &*USUAL;
    has(
        &round[0],
        &[
            "before/broadcast",
            "after/send_to_chain",
            "sent/sign_request",
        ],
    );
    has(
        &round[1],
        &[
            "before/sign",
            "signed",
            "pinned",
            "stored/signed",
            "sent/partial_signature",
        ],
    );
    kill_in_rounds(round);
}
