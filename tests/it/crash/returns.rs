//! A member whose store is gone, and made again out of its words: killed at every fail point on its way back that a
//! cohort does not reach otherwise.

use std::collections::BTreeSet;

use btcr2_agent::agent::recovery::restore_words;
use btcr2_agent::agent::system_clock;
use btcr2_agent::config::Home;

use super::evidence::check;
use super::points::{Points, USUAL, is_by_chance, kills, left, read};
use super::world::{AGGREGATOR, Cohort, Ending, World};

/// The member that loses its store: its DID was never updated.
const MEMBER: usize = 2;

/// How often it may lose it until every point has been reached.
const MOST_LOSSES: usize = 12;

/// What the return reaches that nothing else does: of the aggregator, and of the member.
fn reached() -> [Points; 2] {
    let mut world = World::new();
    let dir = world.dir.path().to_owned();
    world.start();
    let mut cohort = world.form();
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    world.lose_store(MEMBER);
    for who in [AGGREGATOR, MEMBER] {
        let actor = &mut world.actors[who];
        actor.record = Some(dir.join(actor.name));
        actor.restart();
    }
    world.came_back(MEMBER, &cohort);
    let mut place = 0;
    [AGGREGATOR, MEMBER].map(|who| {
        let usual = USUAL.iter().flat_map(|points| &points[place]);
        let usual: BTreeSet<&String> = usual.collect();
        place += 1;
        let mut points = read(&dir.join(world.actors[who].name));
        points.retain(|point| !usual.contains(point));
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
fn killed_on_its_way_back_by_its_words_a_member_returns() {
    let points = reached();
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
    let mut cohort = world.form();
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    for (who, points) in [AGGREGATOR, MEMBER].into_iter().zip(&points) {
        world.actors[who].pending.clone_from(points);
    }
    let mut lost = 0;
    while !left(&world).is_empty() {
        assert!(lost < MOST_LOSSES, "{:?}", left(&world));
        world.lose_store(MEMBER);
        for who in [AGGREGATOR, MEMBER] {
            let actor = &mut world.actors[who];
            actor.put_off(is_by_chance);
            actor.lives = usize::MAX;
            actor.restart();
        }
        world.came_back(MEMBER, &cohort);
        lost += 1;
    }
    for who in [AGGREGATOR, MEMBER] {
        world.actors[who].lives = 0;
        world.actors[who].restart();
    }
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    let found = check(&world, &cohort);
    eprintln!("lost {lost} times, {} kills, {found:?}", kills(&world));
    assert!(found.verified > 0, "{found:?}");
}
