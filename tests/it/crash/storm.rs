//! kill -9 of whoever it hits, again and again, while rounds go on.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::evidence::check;
use super::world::{Ending, World};

/// Kills of a run of the tests; `BTCR2_KILLS` asks for more.
const KILLS: usize = 12;

/// Milliseconds within which somebody is killed after a round was begun: it takes about as long.
const WITHIN: u64 = 900;

#[test]
fn random_kills_end_with_all_rounds_confirmed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("BTCR2_KILLS").unwrap_or(KILLS);
    let seed = number("BTCR2_SEED").unwrap_or(1) as u64;
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new();
    world.start();
    let mut cohort = world.form();
    let mut done = 0;
    let mut failed = Vec::new();
    while done < kills {
        // Two in a round, of any two.
        for _ in 0..2 {
            let who = random.gen_range(0..3);
            let after = std::time::Duration::from_millis(random.gen_range(0..WITHIN));
            world.kill_later(who, after);
            done += 1;
        }
        if let Ending::Failed(why) = world.round(&mut cohort) {
            failed.push(why);
        }
    }
    let last = world.round(&mut cohort);
    assert!(matches!(last, Ending::Confirmed(_)), "{last:?}");
    let found = check(&world, &cohort);
    eprintln!("{done} kills, {} rounds, {found:?}", cohort.round);
    assert_eq!(failed, [""; 0], "seed {seed}");
    assert!(found.verified >= 2, "{found:?}");
}
