//! One kill at every fail point of admission by hand, and of what ends a cohort: seats given back, a cohort cancelled,
//! left, and offered anew without one.

use std::sync::LazyLock;

use serde_json::Value;

use super::ways::{self, OfAll};
use super::world::{AGGREGATOR, Actor, World, phase, text};

/// Runs of the flow in which its points must have been reached.
const MOST_RUNS: usize = 6;

const WANTED: [&[&str]; 3] = [
    &[
        "stored/decide",
        "stored/close",
        "stored/cancel",
        "stored/reform",
        "stored/leave",
    ],
    &[
        "stored/waiting",
        "stored/release",
        "stored/ended",
        "stored/reform",
        "stored/leave",
    ],
    &["stored/rejected", "stored/refused", "stored/ended"],
];

/// What is reached in a run without a kill.
pub static ENDS: LazyLock<OfAll> = LazyLock::new(|| {
    let mut world = World::new();
    ways::record(&mut world);
    world.start();
    admitted_and_ended(&mut world);
    ways::recorded(&world)
});

fn show(id: &str) -> String {
    format!("cohort show {id}")
}

fn so(found: bool) -> Result<(), String> {
    if found {
        Ok(())
    } else {
        Err("not yet".to_owned())
    }
}

/// Who waits for the operator, by key, and how many have a seat.
fn applicants(actor: &Actor, id: &str) -> Result<(Vec<String>, u64), String> {
    let view = actor.ask(&format!("cohort applicants {id}"))?;
    let waiting = view["waiting"].as_array().unwrap().iter();
    let waiting = waiting.map(|one| text(&one["key"]).to_owned()).collect();
    Ok((waiting, view["seats_taken"].as_u64().unwrap()))
}

/// Three cohorts: one whose operator decides, one that asks for a code, one that freezes and ends.
fn admitted_and_ended(world: &mut World) {
    by_hand(world);
    by_code(world);
    frozen(world);
}

/// One is turned down, one gets a seat and loses it, and nothing comes of the cohort.
fn by_hand(world: &mut World) {
    let (id, naddr) = world.advertise("--seats 2-3 --admission approval");
    let keys = [1, 2].map(|who| {
        world.join(who, &id, &naddr, "");
        let view = world.until(who, &show(&id), |view| view["own_key"].is_string());
        text(&view["own_key"]).to_owned()
    });
    world.wait("both to wait", |world| {
        let (waiting, _) = applicants(&world.actors[AGGREGATOR], &id)?;
        so(keys.iter().all(|key| waiting.contains(key)))
    });
    for who in [1, 2] {
        world.until(who, &show(&id), |view| {
            let next = view["summary"]["next_step"].as_str();
            next.is_some_and(|next| next.contains("decision"))
        });
    }
    let line = format!("cohort reject {id} {} --reason unknown", keys[1]);
    world.command(AGGREGATOR, &line, |actor| {
        so(!applicants(actor, &id)?.0.contains(&keys[1]))
    });
    let ended = |view: &Value| !view["end"].is_null();
    let view = world.until(2, &show(&id), ended);
    assert_eq!(view["end"]["cause"], "rejected", "{view}");
    world.command(
        AGGREGATOR,
        &format!("cohort approve {id} {}", keys[0]),
        |actor| so(applicants(actor, &id)?.1 == 1),
    );
    world.until(1, &show(&id), |view| phase(view) == "seated");
    world.command(
        AGGREGATOR,
        &format!("cohort reject {id} {}", keys[0]),
        |actor| so(applicants(actor, &id)?.1 == 0),
    );
    world.until(1, &show(&id), ended);
    cancel(world, &id);
}

fn cancel(world: &mut World, id: &str) {
    world.command(AGGREGATOR, &format!("cohort cancel {id} --yes"), |actor| {
        so(phase(&actor.ask(&show(id))?) == "ended")
    });
}

/// One enters with a code, and the other one with the same.
fn by_code(world: &mut World) {
    let (id, naddr) = world.advertise("--seats 2 --admission code");
    // Shown once: who is killed before it is shown makes another one.
    let code = world.wait("a code", |world| {
        let made = world.actors[AGGREGATOR].ask(&format!("cohort code new {id}"))?;
        Ok(text(&made["code"]).to_owned())
    });
    let shown = format!("--code {code}");
    world.join(1, &id, &naddr, &shown);
    world.until(1, &show(&id), |view| phase(view) == "seated");
    world.join(2, &id, &naddr, &shown);
    let view = world.until(2, &show(&id), |view| !view["end"].is_null());
    assert_eq!(view["end"]["cause"], "refused", "{view}");
    cancel(world, &id);
    world.until(1, &show(&id), |view| phase(view) == "ended");
}

/// Closed with two of three, offered anew without one of them, and left by the other.
fn frozen(world: &mut World) {
    let (id, naddr) = world.advertise("--seats 2-3");
    for who in [1, 2] {
        world.join(who, &id, &naddr, "");
        world.until(who, &show(&id), |view| phase(view) == "seated");
    }
    world.command(AGGREGATOR, &format!("cohort close {id}"), |actor| {
        so(actor.ask(&show(&id))?["beacon"]["address"].is_string())
    });
    for who in [AGGREGATOR, 1, 2] {
        world.until(who, &show(&id), |view| phase(view) == "funding");
    }
    let view = world.until(2, &show(&id), |view| view["own_seat"].is_u64());
    let line = format!(
        "cohort reform {id} --without {} --reason away --yes",
        view["own_seat"]
    );
    world.command(AGGREGATOR, &line, |actor| {
        so(!actor.ask(&show(&id))?["reform"].is_null())
    });
    world.until(1, &show(&id), |view| !view["reform"].is_null());
    world.command(1, &format!("cohort leave {id} --yes"), |actor| {
        so(phase(&actor.ask(&show(&id))?) == "ended")
    });
    for who in [AGGREGATOR, 2] {
        world.until(who, &show(&id), |view| phase(view) == "ended");
    }
}

#[test]
fn killed_at_every_point_of_admission_and_of_the_end_everybody_knows_where_it_stands() {
    let points = &*ENDS;
    ways::has(points, WANTED);
    let mut world = World::new();
    world.start();
    ways::kill_at_all(&mut world, points, MOST_RUNS, admitted_and_ended);
    // And once more: nothing that went wrong on the way is in it.
    admitted_and_ended(&mut world);
    for actor in &world.actors {
        actor.store().check().unwrap();
    }
}
