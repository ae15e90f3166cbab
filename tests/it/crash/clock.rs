//! Clocks that are set while an agent runs, and machines that are resumed.

use std::collections::BTreeMap;

use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::message::Nonces;
use btcr2_agent::protocol::participant::ParticipantInput;
use btcr2_agent::store::{Role, StoreError};

use super::evidence::check;
use super::world::{AGGREGATOR, Cohort, Ending, World};

const DAY: i64 = 86_400;

/// Opens a round that waits for the second member, so that the first one has nonces out; shifts the first one's
/// clock; lets the second one go on.
fn shifted_in_a_round(offset: i64) -> World {
    let mut world = World::new();
    let clock = world.dir.path().join("clock");
    std::fs::write(&clock, "0").unwrap();
    world.actors[1].clock = Some(clock.clone());
    world.start();
    let mut cohort = world.form();
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));

    world.actors[2].kill();
    let show = cohort.show.clone();
    let line = format!("cohort announce {}", cohort.id);
    world.command(AGGREGATOR, &line, |actor| {
        let view = actor.ask(&show)?;
        let open = view["round"]["round"] == 2;
        if open { Ok(()) } else { Err(view.to_string()) }
    });
    world.until(AGGREGATOR, &show, |view| {
        view["round"]["responses"]["have"] == 1
    });
    std::fs::write(&clock, offset.to_string()).unwrap();
    // The clocks are compared with every input and timer.
    world.wait("the clocks are compared", |world| {
        world.actors[1].said("the clocks disagree: all secret nonces were dropped")
    });
    // Set right again, as after the time is synchronised: the machine notices that as well.
    std::fs::write(&clock, "0").unwrap();
    world.wait("the clocks are compared again", |world| {
        let words = "the clocks disagree: all secret nonces were dropped";
        world.actors[1].said_often(words, 2)
    });
    world.actors[2].start();
    world.until(AGGREGATOR, &show, |view| {
        view["past_rounds"][0]["round"] == 2 && view["past_rounds"][0]["txid"].is_string()
    });
    let (first, used) = nonces_of(&world, &cohort, Round(2));
    assert!(
        !used.is_empty() && !used.contains(&first),
        "signed with what had to be dropped"
    );
    world.dev("dev mine 6");
    for who in [AGGREGATOR, 1, 2] {
        world.until(who, &show, |view| {
            view["past_rounds"][0]["state"] == "final"
        });
    }
    cohort.round = 2;
    assert!(matches!(world.round(&mut cohort), Ending::Confirmed(_)));
    let found = check(&world, &cohort);
    assert!(found.verified >= 6, "{found:?}");
    world
}

/// The first nonces that the first member made for a round, and all those it signed with.
fn nonces_of(world: &World, cohort: &Cohort, round: Round) -> (Nonces, Vec<Nonces>) {
    let (mut first, mut offered, mut used) = (None, BTreeMap::new(), Vec::new());
    let store = world.actors[1].store();
    let (view, role) = (store.view(), Role::Participant);
    let read = view.replay::<StoreError>(cohort.key(), role, |entry| {
        match serde_json::from_str(&entry.input) {
            Ok(ParticipantInput::Prepared(made)) if made.session.round() == Some(round) => {
                first.get_or_insert_with(|| made.nonces.clone());
                offered.insert(made.session.attempt, made.nonces);
            }
            Ok(ParticipantInput::Signed(signed)) if signed.session.round() == Some(round) => {
                let attempt = signed.session.attempt;
                used.push(offered.get(&attempt).unwrap().clone());
                offered.insert(attempt + 1, signed.spares);
            }
            _ => {}
        }
        Ok(())
    });
    read.unwrap();
    (first.unwrap(), used)
}

#[test]
fn a_clock_that_is_set_back_a_day_drops_the_nonces_and_the_round_ends_well() {
    let mut world = shifted_in_a_round(-DAY);
    // Started with a clock that is wrong, it says so, and loses nothing.
    let actor = &mut world.actors[1];
    actor.stop();
    let clock = actor.clock.clone().unwrap();
    std::fs::write(&clock, (-DAY).to_string()).unwrap();
    actor.start();
    world.wait("the warning", |world| {
        world.actors[1].said("minutes behind the last entry of the log: set it")
    });
    world.actors[1].store().check().unwrap();
}

#[test]
fn a_machine_that_was_resumed_drops_its_nonces_and_the_round_ends_well() {
    // Asleep for two hours: the wall clock jumps, the monotonic one does not.
    shifted_in_a_round(7_200);
}
