//! The simulator of `tests/sim`, over as many seeds as a test may take. `tests/sim/examples/simulate.rs` takes more.
//!
//! A failure names its seed: `cargo run --release --example simulate -- --seed N --family F --trace` shows the run.
//! The seeds are split over many tests, so that all cores are at work.
#![allow(missing_docs)]

mod extras;

use btcr2_sim::{Family, Run, run};

/// Seeds of one test: all of them together, with those of the extras, take a minute and a half of one core
/// (docs/simulator.md).
const SEEDS: u64 = 150;

struct Sum {
    confirmed: u64,
    crashes: u64,
    blamed: u64,
}

fn hold(family: Family, from: u64) -> Sum {
    let mut sum = Sum {
        confirmed: 0,
        crashes: 0,
        blamed: 0,
    };
    for seed in from..from + SEEDS {
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
fn honest_cohorts_live_through_everything(from: u64) {
    let sum = hold(Family::Faults, from);
    assert!(sum.confirmed > SEEDS, "{} signals", sum.confirmed);
    assert!(sum.crashes > SEEDS, "{} crashes", sum.crashes);
    assert_eq!(sum.blamed, 0);
}

/// Members send whatever their keys can sign: nobody signs what it did not check, and nobody honest is blamed.
fn bad_members_are_stopped_and_named(from: u64) {
    let sum = hold(Family::BadMembers, from);
    assert!(sum.confirmed > SEEDS / 4, "{} signals", sum.confirmed);
    assert!(sum.blamed > 0);
}

/// The aggregator sends whatever its key can sign, to each what it likes.
fn a_bad_aggregator_gains_nothing(from: u64) {
    let sum = hold(Family::BadAggregator, from);
    assert!(sum.confirmed > SEEDS / 4, "{} signals", sum.confirmed);
}

/// A test for each part of the seeds.
macro_rules! parts {
    ($rule:ident: $($name:ident $from:literal)*) => {
        mod $rule {
            $(
                #[test]
                fn $name() {
                    super::$rule($from);
                }
            )*
        }
    };
}

parts!(honest_cohorts_live_through_everything:
    first 0 second 150 third 300 fourth 1_000_000);
parts!(bad_members_are_stopped_and_named: first 0 second 150 third 300 fourth 1_000_000);
parts!(a_bad_aggregator_gains_nothing: first 0 second 150 third 300 fourth 1_000_000);

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
