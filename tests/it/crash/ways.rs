//! Flows beside rounds: what each reaches that rounds do not, and a kill at each of these points.

use super::flows::{OTHER, SOMETIMES};
use super::points::{Points, USUAL, is_by_chance, kills, left, read};
use super::world::World;

/// Points of three agents, in the order of the world's.
pub type OfAll = [Points; 3];

/// Where a point is that counts here. How messages leave and arrive is the same for all their types.
const PLACES: [&str; 3] = ["stored/", "before/", "after/"];

/// Has everybody write down from now on which points are reached.
pub fn record(world: &mut World) {
    let dir = world.dir.path().to_owned();
    for actor in &mut world.actors {
        actor.record = Some(dir.join(format!("points-{}", actor.name)));
    }
}

/// What was reached since, and is reached in no round.
pub fn recorded(world: &World) -> OfAll {
    let dir = world.dir.path();
    let usual = USUAL.iter().chain([&*OTHER]).flatten().flatten();
    let usual: Vec<&String> = usual.collect();
    [0, 1, 2].map(|who| {
        let mut points = read(&dir.join(format!("points-{}", world.actors[who].name)));
        points.retain(|point| {
            let here = PLACES.iter().any(|place| point.starts_with(place));
            let chance = is_by_chance(point) || SOMETIMES.contains(&point.as_str());
            here && !chance && !point.contains("/report_") && !usual.contains(&point)
        });
        points
    })
}

/// That these points were reached: the flow is what it is meant to be.
pub fn has(points: &OfAll, wanted: [&[&str]; 3]) {
    for (points, wanted) in points.iter().zip(wanted) {
        let lacking = wanted
            .iter()
            .filter(|name| !points.iter().any(|point| point == *name));
        let lacking: Vec<_> = lacking.collect();
        assert!(lacking.is_empty(), "{lacking:?} in {points:?}");
    }
}

/// Kills everybody at each of its points, in as many runs of a flow as that takes.
pub fn kill_at_all(
    world: &mut World,
    points: &OfAll,
    most: usize,
    mut flow: impl FnMut(&mut World),
) {
    for (actor, points) in world.actors.iter_mut().zip(points) {
        actor.pending.clone_from(points);
    }
    for run in 1.. {
        for actor in &mut world.actors {
            actor.put_off(is_by_chance);
            actor.lives = usize::MAX;
            actor.restart();
        }
        flow(world);
        let left = left(world);
        if left.is_empty() {
            eprintln!("{run} runs, {} kills", kills(world));
            break;
        }
        assert!(run < most, "not reached: {left:?}");
    }
    for actor in &mut world.actors {
        actor.lives = 0;
        actor.restart();
    }
}
