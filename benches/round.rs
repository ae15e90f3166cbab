//! A whole round in the pure core, signers included, for cohorts of 10, 100 and 500 members: from the opening
//! to the signed transaction, every message handled by every member. One core, no network.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

use std::time::Duration;

use btcr2_agent::protocol::terms::CohortBeacon;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

#[path = "../tests/it/core_net/chain.rs"]
mod chain;
#[path = "../tests/it/core_net/effects.rs"]
mod effects;
#[path = "../tests/it/core_net/net.rs"]
mod net;
#[path = "../tests/it/core_net/node.rs"]
mod node;

use net::{Net, Setup};

fn round(c: &mut Criterion) {
    let mut group = c.benchmark_group("core_round");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1));
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        for n in [10, 100, 500] {
            let mut setup = Setup::new(beacon, n);
            setup.record = false;
            let mut net = Net::ready(setup);
            let mut rounds = 0;
            group.bench_function(BenchmarkId::new(beacon.to_string(), n), |b| {
                let cell = std::cell::RefCell::new(&mut net);
                b.iter_batched(
                    || {
                        // The previous round's updates are final before the clock runs.
                        let mut net = cell.borrow_mut();
                        net.mine(6);
                        rounds += 1;
                        for i in 0..n {
                            net.queue(i, 0, &format!("{rounds} {i}"));
                        }
                        net.run();
                    },
                    |()| cell.borrow_mut().open(),
                    BatchSize::PerIteration,
                );
            });
            assert_eq!(net.agg.signals_signed(), net.agg.last_round());
        }
    }
    group.finish();
}

criterion_group!(benches, round);
criterion_main!(benches);
