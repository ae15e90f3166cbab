//! One kill at every fail point that a cohort with the default terms does not reach: CAS announcements, deposits,
//! signals that are replaced, rounds that stall and are signed through a k-of-n leaf, a member that comes back by its
//! words alone. And a list of what no flow reaches.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use btcr2_agent::agent::recovery::restore_words;
use btcr2_agent::agent::system_clock;
use btcr2_agent::config::Home;
use btcr2_agent::protocol::message::Message;

use super::evidence::check;
use super::points::{Points, USUAL, is_by_chance, kills, left, read};
use super::world::{AGGREGATOR, Cohort, Ending, Twist, World};

/// Terms that differ from the defaults in all that has messages of its own. A round that stalls does so for so long.
const TERMS: &str =
    "--beacon cas --deposits required --output-policy k-of-n --threshold 1 --response-deadline 20s";

/// The member that is killed, and the one that is away or loses its store.
const MEMBER: usize = 1;
const OTHER: usize = 2;

/// Kills of one agent in one round.
const KILLS_PER_ROUND: usize = 6;

/// Rounds with one twist in which its points must have been reached.
const MOST_ROUNDS: usize = 12;

const TWISTS: [Twist; 3] = [Twist::Withdrawn, Twist::Bumped, Twist::Away];

/// What was not reached before, of the aggregator and of one member.
type Both = [Points; 2];

/// What each twist reaches that nothing before it did.
static TWISTED: LazyLock<Vec<Both>> = LazyLock::new(|| {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    world.start();
    let mut cohort = world.form_with(TERMS);
    let mut known = usual();
    let mut new = Vec::new();
    for (number, twist) in TWISTS.into_iter().enumerate() {
        let name = format!("twist-{number}");
        record(&mut world, [AGGREGATOR, MEMBER], Some((&dir, &name)));
        let ending = world.round_with(&mut cohort, twist);
        assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
        new.push(news(
            &world,
            [AGGREGATOR, MEMBER],
            (&dir, &name),
            &mut known,
        ));
    }
    new
});

/// What the return of a member by its words alone reaches.
static RETURNED: LazyLock<Both> = LazyLock::new(|| {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    world.start();
    let mut cohort = world.form_with("--beacon cas");
    let ending = world.round(&mut cohort);
    assert!(matches!(ending, Ending::Confirmed(_)), "{ending:?}");
    let mut known = usual();
    for both in TWISTED.iter() {
        for (who, points) in both.iter().enumerate() {
            known[who].extend(points.iter().cloned());
        }
    }
    world.lose_store(OTHER);
    record(&mut world, [AGGREGATOR, OTHER], Some((&dir, "words")));
    world.came_back(OTHER, &cohort);
    news(&world, [AGGREGATOR, OTHER], (&dir, "words"), &mut known)
});

/// What is reached with the default terms.
fn usual() -> [BTreeSet<String>; 2] {
    let mut known = [BTreeSet::new(), BTreeSet::new()];
    for points in USUAL.iter() {
        for (who, points) in points.iter().enumerate() {
            known[who].extend(points.iter().cloned());
        }
    }
    known
}

/// Starts these agents again, with or without a file for what they reach.
fn record(world: &mut World, who: [usize; 2], file: Option<(&Path, &str)>) {
    for actor in who {
        let actor = &mut world.actors[actor];
        actor.record = file.map(|(dir, name)| dir.join(format!("{name}-{}", actor.name)));
        actor.restart();
    }
}

/// What was recorded and not known before; it is now.
fn news(
    world: &World,
    who: [usize; 2],
    (dir, name): (&Path, &str),
    known: &mut [BTreeSet<String>; 2],
) -> Both {
    let mut place = 0;
    who.map(|actor| {
        let mut points = read(&dir.join(format!("{name}-{}", world.actors[actor].name)));
        points.retain(|point| known[place].insert(point.clone()));
        place += 1;
        points
    })
}

impl World {
    /// A member's store is gone, and made again out of its words.
    fn lose_store(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        actor.kill();
        let home = Home::locate(Some(&actor.home), None).unwrap();
        let store = home.store_path();
        for suffix in ["", "-wal", "-shm"] {
            let mut path = store.clone().into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_file(home.bundle_path());
        restore_words(&store, &actor.root(), &[], system_clock()()).unwrap();
    }

    /// Waits until the member has its seat and its DID again.
    fn came_back(&mut self, who: usize, cohort: &Cohort) {
        let did = cohort.dids[who - 1].clone();
        self.until(who, &cohort.show, |view| view["summary"]["phase"] == "idle");
        self.until(who, &format!("did show {did}"), |view| {
            view["bindings"][0]["stage"] == "bound"
        });
        self.until(who, "did verify --fetch", |view| {
            let dids = view["dids"].as_array().unwrap();
            dids.iter()
                .all(|did| did["missing"].as_array().unwrap().is_empty())
        });
    }
}

#[test]
fn killed_at_every_point_of_other_terms_a_cohort_announces() {
    let mut world = World::new();
    world.start();
    let mut cohort = world.form_with(TERMS);
    let mut rounds = Vec::new();
    for (twist, points) in TWISTS.into_iter().zip(TWISTED.iter()) {
        for (who, points) in [AGGREGATOR, MEMBER].into_iter().zip(points) {
            world.actors[who].pending.clone_from(points);
        }
        let mut held = 0;
        while !left(&world).is_empty() {
            assert!(held < MOST_ROUNDS, "{twist:?}: {:?}", left(&world));
            for who in [AGGREGATOR, MEMBER] {
                let actor = &mut world.actors[who];
                actor.put_off(is_by_chance);
                actor.lives = KILLS_PER_ROUND;
                actor.restart();
            }
            let ending = world.round_with(&mut cohort, twist);
            assert!(
                matches!(ending, Ending::Confirmed(_)),
                "{twist:?} {ending:?}"
            );
            held += 1;
        }
        for who in [AGGREGATOR, MEMBER] {
            world.actors[who].lives = 0;
            world.actors[who].pending.clear();
            world.actors[who].restart();
        }
        rounds.push(held);
    }
    let last = world.round(&mut cohort);
    assert!(matches!(last, Ending::Confirmed(_)), "{last:?}");
    let found = check(&world, &cohort);
    eprintln!(
        "other terms: {rounds:?} rounds, {} kills, {found:?}",
        kills(&world)
    );
    assert!(found.verified > 0, "{found:?}");
}

#[test]
fn killed_on_its_way_back_by_its_words_a_member_returns() {
    let points = &*RETURNED;
    for wanted in [
        "stored/reseat",
        "stored/seat_state",
        "after/insert_seat",
        "after/regain",
    ] {
        assert!(
            points[1].iter().any(|point| point == wanted),
            "{wanted} in {points:?}"
        );
    }
    let mut world = World::new();
    world.start();
    let mut cohort = world.form_with("--beacon cas");
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    for (who, points) in [AGGREGATOR, OTHER].into_iter().zip(points) {
        world.actors[who].pending.clone_from(points);
    }
    let mut lost = 0;
    while !left(&world).is_empty() {
        assert!(lost < MOST_ROUNDS, "{:?}", left(&world));
        world.lose_store(OTHER);
        for who in [AGGREGATOR, OTHER] {
            let actor = &mut world.actors[who];
            actor.put_off(is_by_chance);
            actor.lives = usize::MAX;
            actor.restart();
        }
        world.came_back(OTHER, &cohort);
        lost += 1;
    }
    for who in [AGGREGATOR, OTHER] {
        world.actors[who].lives = 0;
        world.actors[who].restart();
    }
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    let found = check(&world, &cohort);
    eprintln!("lost {lost} times, {} kills, {found:?}", kills(&world));
    assert!(found.verified > 0, "{found:?}");
}

/// Points that no flow reaches, by what they are about: refusals and ends are stored like everything else, and lead to
/// nothing but a message.
const NOT_REACHED: &[&str] = &[
    // Admission, and the end of a cohort.
    "waiting",
    "rejected",
    "refused",
    "release",
    "leave",
    "ended",
    "reform",
    "invite",
    "decide",
    "cancel",
    "close",
    // Disputes and failures.
    "index_challenge",
    "index_opening",
    "open",
    "round_failed",
    "nonce_update",
    "sign_failed",
    // What happens with an older copy of a store, and with money (tests/it/core_net/money.rs).
    "restored",
    "recovered",
    "lost",
    "fetch",
    "protect",
    "refund_complete",
    // Messages that are no inputs of a cohort.
    "subscribe",
    "relays",
    "proofs",
    // Stored only if it changed something.
    "tick",
    "opt_in",
    "history_request",
    "seat_request",
    "restarted",
];

/// Every point with a name in the source, and the storing of every kind of input, is passed in one of the flows, or is
/// listed as one that is not.
#[test]
fn every_point_is_reached_or_listed() {
    let mut reached: BTreeSet<String> = usual().into_iter().flatten().collect();
    let both = TWISTED.iter().chain([&*RETURNED]);
    reached.extend(both.flatten().flatten().cloned());
    let mut points = BTreeSet::new();
    let mut sources = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if !path.ends_with("failpoint.rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            points.extend(text.split("fail_point!(").skip(1).filter_map(named));
            if path.ends_with("agent/feed.rs") {
                let (_, kinds) = text.split_once("fn kind_of(").unwrap();
                let kinds = kinds.split("=> \"").skip(1);
                points.extend(
                    kinds.map(|rest| format!("stored/{}", rest.split('"').next().unwrap())),
                );
            }
        }
    }
    points.extend(Message::TYPES.iter().map(|name| format!("stored/{name}")));
    assert!(points.len() > 80, "{points:?}");
    let listed = |point: &&String| {
        let what = point.split('/').next_back().unwrap();
        NOT_REACHED.contains(&what) || is_by_chance(point)
    };
    let unknown: Vec<_> = points
        .difference(&reached)
        .filter(|point| !listed(point))
        .collect();
    assert_eq!(
        unknown,
        [] as [&String; 0],
        "no flow reaches these; the flows are to be extended"
    );
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
