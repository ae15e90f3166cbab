//! Export of a DID's sidecar data out of a store with 100 to 1 000 rounds, verified proof by proof; and what the
//! bundle adds for one more round. Time per round must not grow with their number.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::time::Duration;

use btcr2_agent::agent::Clock;
use btcr2_agent::agent::bundle::write_bundle;
use btcr2_agent::agent::sidecar::export;
use btcr2_agent::did::BeaconKind;
use btcr2_agent::keys::RootSecret;
use btcr2_agent::time::UnixTime;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/it/keep/made.rs"]
mod made;

use made::{Made, address};

/// Rounds of a cohort of twenty, every tenth with an update of the DID.
fn cohort(kind: BeaconKind, rounds: u32) -> Made {
    let mut made = Made::x1(kind, &address("beacon"));
    for round in 1..=rounds {
        let update = (round % 10 == 0).then(|| made.service());
        match kind {
            BeaconKind::Smt => made.smt_round(&address("beacon"), round, update.as_ref(), 20),
            _ => made.cas_round(&address("beacon"), round, update.as_ref()),
        };
    }
    made
}

fn sidecar(c: &mut Criterion) {
    let mut group = c.benchmark_group("sidecar_export");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for kind in [BeaconKind::Smt, BeaconKind::Cas] {
        for rounds in [100, 300, 1_000] {
            let made = cohort(kind, rounds);
            let facts = made.facts();
            group.throughput(Throughput::Elements(rounds.into()));
            let id = BenchmarkId::new(kind.name(), rounds);
            group.bench_with_input(id, &made, |b, made| {
                b.iter(|| {
                    let export = export(&made.store.view(), &made.did, &facts).unwrap();
                    assert_eq!(export.missing, []);
                    export.sidecar
                });
            });
        }
    }
    group.finish();
}

fn bundle(c: &mut Criterion) {
    let root = RootSecret::from_secret_bytes(&[1; 32]).unwrap();
    let clock: Clock = Arc::new(|| UnixTime(1_800_000_000));
    let mut group = c.benchmark_group("bundle");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for rounds in [100, 1_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let mut made = Made::x1_at(&store, BeaconKind::Smt, &address("beacon"));
        for round in 1..=rounds {
            made.smt_round(&address("beacon"), round, None, 20);
        }
        group.throughput(Throughput::Elements(rounds.into()));
        group.bench_function(BenchmarkId::new("written_whole", rounds), |b| {
            b.iter(|| {
                let path = dir.path().join("bundle.enc");
                let _ = std::fs::remove_file(&path);
                let (key, identity) = (root.bundle_key(), root.identity().public());
                write_bundle(&path, &store, key, identity, clock.clone(), None).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sidecar, bundle);
criterion_main!(benches);
