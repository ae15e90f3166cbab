//! What a session costs: key aggregation, nonces, partial signatures and their aggregation, for cohorts of 10, 100
//! and 1000 members. One core.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use btcr2_agent::hash::CohortId;
use btcr2_agent::keys::musig::{aggregate_nonces, aggregate_partials, verify_partial};
use btcr2_agent::keys::{KeySet, NonceSlot, NostrKey, OwnKey, Signer};
use btcr2_agent::protocol::{Label, Round, SessionId};
use btcr2_agent::time::UnixTime;
use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};

const SIGHASH: [u8; 32] = [7; 32];

fn key(number: u32) -> OwnKey {
    let mut secret = [0; 32];
    secret[..4].copy_from_slice(&number.to_be_bytes());
    OwnKey::from_bytes(&secret).unwrap()
}

fn slot(seat: NostrKey, attempt: u32) -> NonceSlot {
    NonceSlot {
        seat,
        session: SessionId::of_round(CohortId::from_bytes([1; 32]), Round(1), attempt),
        label: Label::SIGNAL,
    }
}

fn musig(c: &mut Criterion) {
    let mut group = c.benchmark_group("musig");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    for n in [10_u32, 100, 1000] {
        let members: Vec<NostrKey> = (1..=n).map(|i| key(i).public()).collect();
        let keys = KeySet::new(&members).unwrap();
        let mut signer = Signer::new();
        (1..=n).for_each(|i| signer.add_seat(key(i)));
        let nonces: Vec<_> = members
            .iter()
            .map(|seat| signer.new_nonces(slot(*seat, 1), UnixTime(1)).unwrap())
            .collect();
        let texts: Vec<[u8; 66]> = nonces.iter().map(|nonce| nonce.to_bytes()).collect();
        let aggregate = aggregate_nonces(&nonces).unwrap();
        let partials: Vec<_> = members
            .iter()
            .zip(&nonces)
            .map(|(seat, nonce)| {
                signer
                    .sign(slot(*seat, 1), nonce, &keys, &aggregate, &SIGHASH)
                    .unwrap()
            })
            .collect();

        group.bench_function(BenchmarkId::new("key_agg_and_tweak", n), |b| {
            b.iter(|| KeySet::new(&members).unwrap());
        });
        group.bench_function(BenchmarkId::new("nonce_parse_all", n), |b| {
            b.iter(|| {
                for text in &texts {
                    std::hint::black_box(btcr2_agent::keys::PublicNonce::from_bytes(text).unwrap());
                }
            });
        });
        group.bench_function(BenchmarkId::new("nonce_agg", n), |b| {
            b.iter(|| aggregate_nonces(&nonces).unwrap());
        });
        // Each signature needs a nonce of its own; only signing is timed, its own verification included.
        let mut attempt = 1;
        group.bench_function(BenchmarkId::new("partial_sign", n), |b| {
            let cell = std::cell::RefCell::new(&mut signer);
            b.iter_batched(
                || {
                    attempt += 1;
                    let slot = slot(members[0], attempt);
                    let nonce = cell.borrow_mut().new_nonces(slot, UnixTime(1)).unwrap();
                    (slot, nonce)
                },
                |(slot, nonce)| {
                    cell.borrow_mut()
                        .sign(slot, &nonce, &keys, &aggregate, &SIGHASH)
                        .unwrap()
                },
                BatchSize::PerIteration,
            );
        });
        let verify = |i: usize| {
            verify_partial(
                &keys,
                &members[i],
                &nonces[i],
                &aggregate,
                &SIGHASH,
                &partials[i],
            )
            .unwrap();
        };
        group.bench_function(BenchmarkId::new("partial_verify_one", n), |b| {
            b.iter(|| verify(0));
        });
        group.bench_function(BenchmarkId::new("sig_agg_and_verify", n), |b| {
            b.iter(|| {
                aggregate_partials(&keys, &aggregate, &SIGHASH, partials.iter().copied()).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, musig);
criterion_main!(benches);
