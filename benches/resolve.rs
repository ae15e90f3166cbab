//! Resolution: a DID with 1, 10 and 100 updates, and one whose cohort beacon sent 1 000 signals.
//!
//! Everything is in the sidecar, and the chain answers at once: what is measured is the resolver's own work.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../tests/it/synthetic.rs"]
mod synthetic;

use std::hint::black_box;

use bitcoin::Address;
use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::did::{BeaconKind, KeyAddress};
use btcr2_agent::hash::SmtNonce;
use btcr2_agent::network::Network;
use btcr2_agent::resolver::{Progress, Request, Resolution, Resolver, Sidecar};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use synthetic::{
    Controller, Question, SyntheticChain, announcing, cas_announcement, keypair, smt_signal,
};

const NETWORK: Network = Network::Signet;
const SIGNALS: u8 = 250;

fn resolver(question: &Question, chain: &SyntheticChain) -> Resolver {
    let Question {
        did,
        options,
        sidecar,
        strictness,
        ..
    } = question.clone();
    Resolver::new(did, options, sidecar, strictness, chain.tip())
}

fn resolve(mut resolver: Resolver, chain: &SyntheticChain) -> Box<Resolution> {
    loop {
        match resolver.poll() {
            Progress::Done(resolution) => return resolution,
            Progress::Need(requests) => {
                for request in requests {
                    let Request::Signals { address } = request else {
                        panic!("everything is in the sidecar");
                    };
                    resolver.signals(&address, chain.signals_of(&address));
                }
            }
        }
    }
}

/// A `k1` DID with this many updates, announced in turn at its three beacons.
fn updated(updates: u32) -> (Question, SyntheticChain) {
    let mut controller = Controller::key_based(NETWORK, 1);
    let beacons = ["initialP2PKH", "initialP2WPKH", "initialP2TR"].map(|f| controller.beacon(f));
    let mut chain = SyntheticChain::at(1_000);
    for i in 0..updates {
        // A service in turn replaced, so that the document keeps its size.
        let update = controller.update(|patch| {
            let patch = match i {
                0 => patch,
                _ => patch.remove_service(&format!("s{}", i - 1))?,
            };
            synthetic::service(patch, &format!("s{i}"))
        });
        chain.signal_at(100 + i, &beacons[i as usize % 3], announcing(&update));
    }
    (Question::of(&controller), chain)
}

/// An `x1` DID whose cohort beacon of 16 members sent 1 000 signals, every 250th with an update.
fn cohort(kind: BeaconKind) -> (Question, SyntheticChain) {
    let beacon: Address = KeyAddress::P2tr.of(NETWORK, &keypair(200).public_key());
    let add = |number| {
        Controller::external(NETWORK, number, |builder| {
            builder.beacon("cohort", kind, &beacon)
        })
    };
    let mut me = add(1);
    let others: Vec<_> = (2..17).map(add).collect();
    let mut chain = SyntheticChain::at(5_000);
    for round in 0..u32::from(SIGNALS) * 4 {
        let update =
            (round % u32::from(SIGNALS) == 0).then(|| me.add_service(&format!("s{round}")));
        let signal = if kind == BeaconKind::Cas {
            let mine = update.iter().map(|update| (me.did(), update.hash()));
            let theirs = others.iter().map(|other| {
                let byte = [u8::try_from(round % 256).unwrap(); 32];
                (other.did(), btcr2_agent::hash::UpdateHash::from_bytes(byte))
            });
            let map = cas_announcement(mine.chain(theirs));
            me.sidecar.add_announcement(&map);
            map.signal_bytes()
        } else {
            let mut nonce = [7; 32];
            nonce[..4].copy_from_slice(&round.to_be_bytes());
            let leaf = |update| Leaf {
                nonce: Some(SmtNonce::from_bytes(nonce)),
                update,
            };
            let mine = (me.did(), leaf(update.as_ref().map(|update| update.hash())));
            let theirs = others.iter().map(|other| (other.did(), leaf(None)));
            let rows: Vec<_> = std::iter::once(mine).chain(theirs).collect();
            let (root, proofs) = smt_signal(&rows);
            me.sidecar.add_proof(&proofs[0]);
            root
        };
        chain.signal_at(1_000 + round, &beacon, signal);
    }
    (Question::of(&me), chain)
}

fn bench_resolve(c: &mut Criterion) {
    let mut group = c.benchmark_group("resolve");
    for updates in [1, 10, 100] {
        let (question, chain) = updated(updates);
        let resolution = resolve(resolver(&question, &chain), &chain);
        let version = resolution.outcome.unwrap().metadata.version_id;
        assert_eq!(version, u64::from(updates) + 1);
        group.throughput(Throughput::Elements(updates.into()));
        group.bench_with_input(BenchmarkId::new("updates", updates), &chain, |b, chain| {
            b.iter_batched(
                || resolver(&question, chain),
                |resolver| resolve(black_box(resolver), chain),
                BatchSize::SmallInput,
            );
        });
    }
    for (name, kind) in [("smt", BeaconKind::Smt), ("cas", BeaconKind::Cas)] {
        let (question, chain) = cohort(kind);
        let resolution = resolve(resolver(&question, &chain), &chain);
        assert_eq!(resolution.outcome.unwrap().metadata.version_id, 5);
        group.throughput(Throughput::Elements(1_000));
        group.bench_function(format!("{name}_signals/1000"), |b| {
            b.iter_batched(
                || resolver(&question, &chain),
                |resolver| resolve(black_box(resolver), &chain),
                BatchSize::LargeInput,
            );
        });
        let bytes = question.sidecar.canonical_bytes();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{name}_sidecar/1000"), |b| {
            b.iter(|| Sidecar::parse(black_box(&bytes)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, bench_resolve);
criterion_main!(benches);
