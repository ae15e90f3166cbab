//! The simulator of `tests/sim`, over as many seeds as a test may take. `examples/simulate.rs` takes more.
//!
//! A failure names its seed: `cargo run --release --example simulate -- --seed N --family F --trace` shows the run.

use super::sim::{Family, Run, run};

/// Seeds of one test: about half a minute of one core in the development profile.
const SEEDS: u64 = 80;

struct Sum {
    confirmed: u64,
    crashes: u64,
    blamed: u64,
}

fn hold(family: Family, from: u64, seeds: u64) -> Sum {
    let mut sum = Sum {
        confirmed: 0,
        crashes: 0,
        blamed: 0,
    };
    for seed in from..from + seeds {
        let Run {
            about,
            failure,
            confirmed,
            crashes,
            blamed,
            ..
        } = run(seed, Some(family));
        assert_eq!(failure, None, "seed {seed}: {about}");
        sum.confirmed += confirmed;
        sum.crashes += crashes;
        sum.blamed += blamed;
    }
    sum
}

/// Relays, processes and the chain fail, until they do not any more; then every round is confirmed.
#[test]
fn honest_cohorts_live_through_everything() {
    let sum = hold(Family::Faults, 0, SEEDS);
    assert!(sum.confirmed > SEEDS, "{} signals", sum.confirmed);
    assert!(sum.crashes > SEEDS, "{} crashes", sum.crashes);
    assert_eq!(sum.blamed, 0);
}

#[test]
fn honest_cohorts_live_through_everything_else() {
    let sum = hold(Family::Faults, 1_000_000, SEEDS);
    assert!(sum.confirmed > SEEDS, "{} signals", sum.confirmed);
}

/// Members send whatever their keys can sign: nobody signs what it did not check, and nobody honest is blamed.
#[test]
fn bad_members_are_stopped_and_named() {
    let sum = hold(Family::BadMembers, 0, SEEDS);
    assert!(sum.confirmed > SEEDS / 4, "{} signals", sum.confirmed);
    assert!(sum.blamed > 0);
}

/// The aggregator sends whatever its key can sign, to each what it likes.
#[test]
fn a_bad_aggregator_gains_nothing() {
    let sum = hold(Family::BadAggregator, 0, SEEDS);
    assert!(sum.confirmed > SEEDS / 4, "{} signals", sum.confirmed);
}

/// A run is a function of its seed, though secret nonces come from the operating system each time.
#[test]
fn the_same_seed_is_the_same_run() {
    let mut hashes = std::collections::BTreeSet::new();
    for family in [Family::Faults, Family::BadMembers, Family::BadAggregator] {
        for seed in 0..6 {
            let (first, second) = (run(seed, Some(family)), run(seed, Some(family)));
            assert_eq!(first.hash, second.hash, "{}", first.about);
            assert_eq!(first.steps, second.steps);
            hashes.insert(first.hash);
        }
    }
    assert_eq!(hashes.len(), 18, "and another seed is another run");
}
