//! What only some runs of the simulator have (`tests/sim/extras.rs`): each is reached, and breaks no rule.
//!
//! `cargo run --release --example simulate -- --seed N --family F --extra NAME --trace` shows a run.

use std::collections::BTreeMap;

use btcr2_sim::{Extra, Family, run_with};

/// Runs seeds with one of the extras; gives how often each thing happened.
fn hold(extra: Extra, family: Family, seeds: u64) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for seed in 0..seeds {
        let run = run_with(seed, Some(family), Some(extra));
        assert_eq!(run.failure, None, "seed {seed}: {}", run.about);
        for (what, times) in run.counts {
            *counts.entry(what).or_default() += times;
        }
    }
    counts
}

fn reached(counts: &BTreeMap<&'static str, u64>, what: &str, least: u64) {
    let times = counts.get(what).copied().unwrap_or(0);
    assert!(times >= least, "{times} times {what}: {counts:?}");
}

/// A test per line: so many seeds of a family with an extra, and how often what has to happen in them.
macro_rules! extras {
    ($($(#[$says:meta])* $name:ident: $extra:ident, $family:ident, $seeds:literal, [$($what:literal $least:literal),*];)*) => {
        $(
            $(#[$says])*
            #[test]
            fn $name() {
                let counts = hold(Extra::$extra, Family::$family, $seeds);
                $(reached(&counts, $what, $least);)*
            }
        )*
    };
}

extras! {
    /// Rounds that stall are signed by k members, and explained to all.
    stalled_rounds_are_signed_through_the_leaf: Fallback, Faults, 16,
        ["fallbacks opened" 8, "fallback signatures" 8, "spends through the leaf" 6];
    /// Nobody signs through the leaf what it did not check.
    a_bad_aggregator_gets_nothing_through_the_leaf: Fallback, BadAggregator, 32,
        ["fallbacks told" 16, "fallback signatures" 10];
    /// A process comes back with the disk of some hours ago: no nonce signs twice, nothing that conflicts is signed,
    /// and the cohort goes on.
    old_copies_of_a_disk_do_no_harm: Restore, Faults, 16, ["restores" 14];
    /// Updates are announced once the aggregator has verified them, and shown to it only if somebody said so.
    deposited_updates_are_announced: Deposits, Faults, 12,
        ["deposits taken" 12, "responses with deposits" 10];
    /// What members pay is protected before they pay it, and before it is spent.
    members_fund_what_has_its_refund: MembersFund, Faults, 12,
        ["fundings by members" 10, "refunds signed" 40];
    /// Rule 11: while money is stopped nothing is signed and nothing is sent.
    nothing_moves_while_money_is_stopped: MoneyStops, Faults, 16,
        ["switches pulled" 14, "orders to sign that wait" 1];
    /// Members leave, seats are released, cohorts are cancelled: everybody knows, and nothing is signed after it.
    cohorts_end_before_their_time: Leaves, Faults, 24,
        ["members that leave" 2, "cohorts cancelled" 6];
    /// What is stuck is signed again at a higher fee.
    stuck_signals_are_replaced: Stuck, Faults, 24, ["replacements told" 12];
    /// A replacement announces what the signal announced, whatever a bad aggregator asks for.
    a_bad_aggregator_announces_nothing_by_a_replacement: Stuck, BadAggregator, 64, ["replacements told" 6];
}
