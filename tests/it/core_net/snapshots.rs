//! State as it is written down: of every format there ever was, and how much of it there is after years.
//!
//! That a machine which comes back from its snapshot goes on as if nothing had been is tested by every test here: see
//! `Net::replay`.

use std::fs;
use std::path::Path;

use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{Aggregator, Phase};
use btcr2_agent::protocol::confirmation::{SETTLED_DEPTH, WatchState};
use btcr2_agent::protocol::effect::Outcome;
use btcr2_agent::protocol::participant::{MemberPhase, Participant};
use btcr2_agent::protocol::snapshot::FORMAT;
use btcr2_agent::protocol::terms::CohortBeacon;
use serde_json::{Value, json};

use super::fallback::{BEACONS, leave, setup};
use super::net::{Net, Setup};

fn path(format: u32, name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/snapshots");
    dir.join(format!("{format}-{name}.json"))
        .to_string_lossy()
        .into_owned()
}

/// Cohorts with everything that a state may have in it, in the middle of their third round.
fn cohorts() -> Vec<(&'static str, Net)> {
    let busy = |setup: Setup| {
        let mut net = Net::ready(setup);
        net.queue(0, 0, "first");
        net.round();
        net.mine(8);
        net.round();
        net.mine(8);
        net
    };
    let mut signing = busy(Setup::smt(3).refunds());
    signing.queue(1, 0, "second");
    signing.hold = Some("partial_signature");
    signing.open();
    let mut stalled = busy(setup(CohortBeacon::Cas, 3, 2));
    stalled.queue(0, 0, "second");
    let _ = leave(&mut stalled, &[2]);
    stalled.open();
    stalled.hold = Some("fallback_signature");
    stalled.advance(70);
    vec![("smt-signing", signing), ("cas-fallback", stalled)]
}

/// Writes down what this program would read back: once for every new format, `cargo test --test it
/// write_the_snapshots -- --ignored`.
#[test]
#[ignore = "writes files that are committed"]
fn write_the_snapshots_of_this_format() {
    for (name, net) in cohorts() {
        let written = json!({ "aggregator": net.agg, "participant": net.nodes[0].core });
        fs::write(path(FORMAT, name), format!("{written}\n")).unwrap();
    }
}

/// Whether all that is in `old` is in `new`, which may have fields more.
fn is_part_of(old: &Value, new: &Value, at: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let at = format!("{at}.{key}");
                is_part_of(
                    value,
                    new.get(key).unwrap_or_else(|| panic!("{at} is gone")),
                    &at,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            assert_eq!(old.len(), new.len(), "{at}");
            for (place, (old, new)) in old.iter().zip(new).enumerate() {
                is_part_of(old, new, &format!("{at}[{place}]"));
            }
        }
        _ => assert_eq!(old, new, "{at}"),
    }
}

/// Logs are deleted because of snapshots: whoever can not read them has lost the cohort.
#[test]
fn snapshots_of_every_format_are_read() {
    for format in 1..=FORMAT {
        for name in ["smt-signing", "cas-fallback"] {
            let text = fs::read_to_string(path(format, name)).unwrap();
            let written: Value = serde_json::from_str(&text).unwrap();
            let text = |role: &str| written[role].to_string();
            let agg: Aggregator = serde_json::from_str(&text("aggregator")).unwrap();
            let member: Participant = serde_json::from_str(&text("participant")).unwrap();
            is_part_of(&written["aggregator"], &json!(agg), "aggregator");
            is_part_of(&written["participant"], &json!(member), "participant");

            assert_eq!(
                (agg.phase(), member.phase()),
                (&Phase::Active, &MemberPhase::Active)
            );
            assert_eq!((agg.last_round(), agg.signals_signed()), (3, 2));
            let (set, keys) = agg.set().unwrap();
            assert_eq!(member.set(), Some((set, keys)));
            assert_eq!(member.terms().cohort_id(), agg.cohort());
            assert_eq!(agg.open_round_progress().unwrap().0, Round(3));
            assert_eq!(agg.chain(), member.chain());
        }
    }
}

/// A hundred blocks on, nothing is kept of a round but what it was; and the cohort goes on.
#[test]
fn what_is_settled_takes_no_place() {
    for beacon in BEACONS {
        let mut net = Net::ready(Setup::new(beacon, 2));
        net.queue(0, 0, "first");
        let first = net.round();
        net.round();
        let last = net.round();
        for node in &net.nodes {
            assert!(node.core.given().len() >= 3);
        }
        net.mine(SETTLED_DEPTH);
        for node in &net.nodes {
            let core = &node.core;
            let left: Vec<_> = core.given().iter().map(|given| given.txid).collect();
            let of_first = left.contains(&first.compute_txid());
            // The last one pays the tip, the first one announces the only update there is.
            assert!(left.contains(&last.compute_txid()));
            assert_eq!(of_first, node.me() == net.nodes[0].me());
            assert_eq!(left.len(), 1 + usize::from(of_first));
            assert_eq!(core.watch().all().count(), 3);
            let (_, state) = core.watch().foremost(Round(2), core.chain()).unwrap();
            assert!(matches!(state, WatchState::Final { .. }));
            for did in &node.dids {
                // In a CAS cohort, two rounds in which nobody has an update have the same signal.
                let (have, lack) = core.proof_counts(&did.index);
                assert!(have >= 2 && lack == 0, "{have} {lack}");
            }
        }
        // What is queued next is not the same update, and who registers now gets the proofs of all rounds.
        assert_eq!(net.queue(0, 0, "second"), Outcome::Accepted);
        net.next_round_works();
        net.mine(SETTLED_DEPTH);
        net.round();
    }
}
