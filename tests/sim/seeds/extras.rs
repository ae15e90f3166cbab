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

/// Rounds that stall are signed by k members, and explained to all.
#[test]
fn stalled_rounds_are_signed_through_the_leaf() {
    let counts = hold(Extra::Fallback, Family::Faults, 16);
    reached(&counts, "fallbacks opened", 8);
    reached(&counts, "fallback signatures", 8);
    reached(&counts, "spends through the leaf", 6);
}

/// Nobody signs through the leaf what it did not check.
#[test]
fn a_bad_aggregator_gets_nothing_through_the_leaf() {
    let counts = hold(Extra::Fallback, Family::BadAggregator, 32);
    reached(&counts, "fallbacks told", 16);
    reached(&counts, "fallback signatures", 10);
}

/// A process comes back with the disk of some hours ago: no nonce signs twice, nothing that conflicts is signed, and
/// the cohort goes on.
#[test]
fn old_copies_of_a_disk_do_no_harm() {
    let counts = hold(Extra::Restore, Family::Faults, 16);
    reached(&counts, "restores", 14);
}

/// Updates are announced once the aggregator has verified them, and shown to it only if somebody said so.
#[test]
fn deposited_updates_are_announced() {
    let counts = hold(Extra::Deposits, Family::Faults, 12);
    reached(&counts, "deposits taken", 12);
    reached(&counts, "responses with deposits", 10);
}

/// What members pay is protected before they pay it, and before it is spent.
#[test]
fn members_fund_what_has_its_refund() {
    let counts = hold(Extra::MembersFund, Family::Faults, 12);
    reached(&counts, "fundings by members", 10);
    reached(&counts, "refunds signed", 40);
}

/// Rule 11: while money is stopped nothing is signed and nothing is sent.
#[test]
fn nothing_moves_while_money_is_stopped() {
    let counts = hold(Extra::MoneyStops, Family::Faults, 16);
    reached(&counts, "switches pulled", 14);
    let held = ["orders to sign that wait", "transactions held back"];
    let held: u64 = held.iter().filter_map(|what| counts.get(what)).sum();
    assert!(held > 0, "{counts:?}");
}

/// Members leave, seats are released, cohorts are cancelled: everybody knows, and nothing is signed after it.
#[test]
fn cohorts_end_before_their_time() {
    let counts = hold(Extra::Leaves, Family::Faults, 24);
    reached(&counts, "members that leave", 2);
    reached(&counts, "cohorts cancelled", 6);
}
