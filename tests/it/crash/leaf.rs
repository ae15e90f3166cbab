//! One kill at every fail point of rounds that stall and are signed through the k-of-n leaf, while one member is away.

use std::sync::LazyLock;

use super::evidence::check;
use super::points::Points;
use super::ways::{self, OfAll};
use super::world::{Cohort, Ending, Twist, World};

/// One of two may sign what has stalled. The deadline is what a round takes here, and longer than an answer.
const TERMS: &str = "--output-policy k-of-n --threshold 1 --response-deadline 8s";

/// Rounds in which the points must have been reached.
const MOST_ROUNDS: usize = 8;

const WANTED: [&[&str]; 3] = [
    &["stored/fallback_signature"],
    &[
        "stored/fallback_request",
        "before/sign_fallback",
        "stored/fallback_signed",
    ],
    &[],
];

/// What is reached in two such rounds without a kill.
pub static LEAF: LazyLock<OfAll> = LazyLock::new(|| {
    let (mut world, mut cohort) = formed();
    ways::record(&mut world);
    for actor in &mut world.actors {
        actor.restart();
    }
    for _ in 0..2 {
        stalled(&mut world, &mut cohort);
    }
    let [aggregator, one, _] = ways::recorded(&world);
    // Who is away may be asked all the same, before it is; another time it is not.
    [aggregator, one, Points::default()]
});

fn formed() -> (World, Cohort) {
    let mut world = World::new();
    world.start();
    let cohort = world.form_with(TERMS);
    (world, cohort)
}

fn stalled(world: &mut World, cohort: &mut Cohort) {
    let ending = world.round_with(cohort, Twist::Stalled);
    assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
}

#[test]
fn killed_at_every_point_of_the_leaf_a_stalled_round_is_signed() {
    let points = &*LEAF;
    ways::has(points, WANTED);
    let (mut world, mut cohort) = formed();
    ways::kill_at_all(&mut world, points, MOST_ROUNDS, |world| {
        stalled(world, &mut cohort);
    });
    // Everybody is back, and all sign again.
    let last = world.round(&mut cohort);
    assert!(matches!(last, Ending::Confirmed(_)), "{last:?}");
    let found = check(&world, &cohort);
    assert!(found.verified >= 2, "{found:?}");
}
