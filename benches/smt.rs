//! The sparse Merkle tree: building, proving, verifying.
//!
//! Building a large tree takes seconds (about 250 hashes a leaf, half a microsecond to two microseconds each),
//! which is too long to sample: it is timed once and printed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use btcr2_agent::beacon::smt::{Leaf, SmtProof, SmtTree, index_of};
use btcr2_agent::hash::{LeafValue, SmtIndex, SmtNonce, UpdateHash, sha256};
use criterion::{BenchmarkId, Criterion, Throughput};

/// The sizes that are sampled.
const SAMPLED: [u64; 2] = [100, 1_000];
/// The sizes that are built once.
const ONCE: [u64; 2] = [10_000, 100_000];

fn leaf(number: u64) -> (SmtIndex, Leaf) {
    let random = |what: &str| sha256(format!("{what} {number}").as_bytes());
    let leaf = Leaf {
        nonce: Some(SmtNonce::from_bytes(random("nonce"))),
        update: number
            .is_multiple_of(2)
            .then(|| UpdateHash::from_bytes(random("update"))),
    };
    (index_of(&format!("did:btcr2:{number}")), leaf)
}

fn leaves(count: u64) -> Vec<(SmtIndex, LeafValue)> {
    (0..count)
        .map(|number| {
            let (index, leaf) = leaf(number);
            (index, leaf.value())
        })
        .collect()
}

fn build(leaves: &[(SmtIndex, LeafValue)]) -> SmtTree {
    SmtTree::new(leaves.iter().copied()).unwrap()
}

fn prove_all(tree: &SmtTree, leaves: &[(SmtIndex, LeafValue)]) {
    for (index, _) in leaves {
        black_box(tree.prove(index));
    }
}

fn sampled(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smt/build and root");
    for count in SAMPLED {
        let leaves = leaves(count);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| build(&leaves).root());
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("smt/all proofs");
    for count in SAMPLED {
        let leaves = leaves(count);
        let tree = build(&leaves);
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| prove_all(&tree, &leaves));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("smt/one");
    let tree = build(&leaves(1_000));
    let (index, leaf) = leaf(500);
    let stranger = index_of("did:btcr2:stranger");
    let proof = SmtProof::from_parts(tree.root(), &leaf, tree.prove(&index));
    let json = serde_json::to_string(&proof).unwrap();
    group.bench_function("proof of a stranger", |bencher| {
        bencher.iter(|| tree.prove(&stranger));
    });
    group.bench_function("verification", |bencher| {
        bencher.iter(|| proof.verify(&index, &tree.root()).unwrap());
    });
    group.bench_function("parse", |bencher| {
        bencher.iter(|| serde_json::from_str::<SmtProof>(&json).unwrap());
    });
    group.finish();
}

fn once(count: u64) {
    let leaves = leaves(count);
    let started = Instant::now();
    let tree = build(&leaves);
    let built = started.elapsed();
    let started = Instant::now();
    prove_all(&tree, &leaves);
    let proved = started.elapsed();
    println!(
        "smt/once: {count} leaves, build and root {built:.2?}, all proofs {proved:.2?}, root {}",
        tree.root()
    );
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .nresamples(2_000)
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    sampled(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` only asks whether benches run.
    if std::env::args().any(|argument| argument == "--bench") {
        ONCE.into_iter().for_each(once);
    }
}
