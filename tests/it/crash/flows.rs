//! One kill at every fail point that rounds with the default terms do not reach: CAS announcements, deposits, an
//! update that is withdrawn, a signal that is replaced, snapshots and the logs they shorten.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use btcr2_agent::protocol::message::Message;

use super::ends::ENDS;
use super::evidence::check;
use super::leaf::LEAF;
use super::lost::LOST;
use super::points::{Points, USUAL, is_by_chance, kills, left, read};
use super::world::{AGGREGATOR, Cohort, Ending, Twist, World};

/// Terms that differ from the defaults in what has messages of its own.
const TERMS: &str = "--beacon cas --deposits required";

/// The member that is killed; the other one only waits.
const MEMBER: usize = 1;

/// Entries of a log after which there is a snapshot: a round is some more.
const SNAPSHOT_AFTER: u64 = 20;

/// Kills of one agent in one round.
const KILLS_PER_ROUND: usize = 10;

/// Rounds in which these points must have been reached. A seat may make ten deposits within an hour.
const MOST_ROUNDS: u32 = 8;

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

/// Reached where an update is withdrawn, which uses up a deposit.
const OF_WITHDRAWING: [&str; 3] = ["written/withdraw", "stored/withdraw", "after/take_back"];

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

/// What is reached here that is not with the default terms: for the aggregator and for a member.
pub static OTHER: LazyLock<[Points; 2]> = LazyLock::new(reached);

/// Runs without a kill, and reads what was reached.
fn reached() -> [Points; 2] {
    let (mut world, mut cohort) = formed();
    let dir = world.dir.path().to_owned();
    for who in [AGGREGATOR, MEMBER] {
        let actor = &mut world.actors[who];
        actor.record = Some(dir.join(format!("flow-{}", actor.name)));
        actor.restart();
    }
    for _ in 0..2 {
        let ending = world.round_with(&mut cohort, Twist::Stuck { withdrawn: true });
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
    let points = &*OTHER;
    for (points, wanted) in points.iter().zip(WANTED) {
        for wanted in wanted {
            let found = points.iter().any(|point| point == wanted);
            assert!(found, "{wanted} in {points:?}");
        }
    }
    let (mut world, mut cohort) = formed();
    for (who, points) in [AGGREGATOR, MEMBER].into_iter().zip(points) {
        let (first, rest): (Vec<_>, Vec<_>) = points
            .iter()
            .cloned()
            .partition(|point| OF_WITHDRAWING.contains(&point.as_str()));
        world.actors[who].pending = first.into_iter().chain(rest).collect();
    }
    while !left(&world).is_empty() {
        assert!(cohort.round < MOST_ROUNDS, "{:?}", left(&world));
        for who in [AGGREGATOR, MEMBER] {
            let actor = &mut world.actors[who];
            actor.put_off(is_by_chance);
            actor.lives = KILLS_PER_ROUND;
            actor.restart();
        }
        let pending = &world.actors[MEMBER].pending;
        let withdrawn = pending
            .iter()
            .any(|point| OF_WITHDRAWING.contains(&point.as_str()));
        let ending = world.round_with(&mut cohort, Twist::Stuck { withdrawn });
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

/// Points that nobody is killed at, with the reason.
const NOT_KILLED_AT: &[(&str, &str)] = &[
    ("stored/index_challenge", DISPUTE),
    ("stored/index_opening", DISPUTE),
    (
        "stored/invite",
        "an invitation to a cohort that was joined already changes nothing",
    ),
    ("stored/money", "regtest is never switched off"),
    ("stored/open", DISPUTE),
    (
        "stored/plain",
        "of relays, which are not advertised on loopback, and of subscriptions",
    ),
    (
        "stored/protect",
        "of a funding transaction that somebody else made",
    ),
    ("stored/relays", "relays on loopback are never advertised"),
    (
        "stored/sign_failed",
        "a process that has lost its nonces was told so when it began",
    ),
    ("stored/subscribe", "outside of cohorts: no log has it"),
    ("stored/unknown", "a word for reasons, not a kind of input"),
];

/// Why nobody is killed in a dispute.
const DISPUTE: &str = "two seats that claim one DID: no agent claims another's";

/// Neither one nor the other: reached where something takes long, or after a kill.
pub const SOMETIMES: [&str; 6] = [
    "stored/tick",
    "stored/nonce_request",
    "stored/nonce_update",
    "stored/history",
    "stored/history_request",
    // What is known to be missing is asked for again.
    "stored/fetch",
];

/// Every point with a name in the source, and the storing of every kind of input, is one that agents are killed at, or
/// is listed as one that is not.
#[test]
fn every_point_is_killed_at_or_listed() {
    let both = USUAL.iter().chain([&*OTHER]).flatten();
    let ways = [&*ENDS, &*LEAF, &*LOST].into_iter().flatten();
    let reached: BTreeSet<String> = both.chain(ways).flatten().cloned().collect();
    let mut points = named_points();
    points.extend(Message::TYPES.iter().map(|name| format!("stored/{name}")));
    points.retain(|point| !is_by_chance(point) && !SOMETIMES.contains(&point.as_str()));
    assert!(points.len() > 80, "{points:?}");
    let found: Vec<&str> = points.difference(&reached).map(String::as_str).collect();
    let listed: Vec<&str> = NOT_KILLED_AT.iter().map(|(point, _)| *point).collect();
    assert_eq!(found, listed);
}

fn named_points() -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    let mut sources = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            let inside = std::fs::read_dir(path).unwrap();
            sources.extend(inside.map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.ends_with("failpoint.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        points.extend(text.split("fail_point!(").skip(1).filter_map(named));
        if path.ends_with("agent/input_names.rs") {
            let (_, kinds) = text.split_once("fn kind_of(").unwrap();
            let kinds = kinds.split("=> \"").skip(1);
            let kinds = kinds.map(|rest| rest.split('"').next().unwrap());
            points.extend(kinds.map(|kind| format!("stored/{kind}")));
        }
    }
    points
}

/// The name of a point whose parts are both in the source.
fn named(call: &str) -> Option<String> {
    let mut parts = call.split(')').next()?.split(',').map(str::trim);
    let quoted = |text: &str| Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    let place = quoted(parts.next()?)?;
    match parts.next() {
        None => Some(place),
        Some(what) => Some(format!("{place}/{}", quoted(what)?)),
    }
}
