//! Identifiers, document hashes and updates: what resolution does most.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use btcr2_agent::did::{
    Did, Document, PatchBuilder, SignedUpdate, UnsignedUpdate, VerifyOptions, initial_key_document,
    json, verify,
};
use btcr2_agent::network::Network;
use criterion::{Criterion, criterion_group, criterion_main};
use secp256k1::{Keypair, SECP256K1};

fn did(c: &mut Criterion) {
    let key = Keypair::from_seckey_slice(SECP256K1, &[7; 32]).unwrap();
    let did = Did::from_key(Network::Signet, &key.public_key());
    let document = initial_key_document(&did).unwrap();
    let text = document.canonical_bytes();
    let patch = PatchBuilder::on(&document).unwrap();
    let endpoint = "https://example.com".into();
    let patch = patch
        .add_service("x", "LinkedDomains", &endpoint)
        .unwrap()
        .finish()
        .unwrap();
    let unsigned = UnsignedUpdate::new(&document, 1, &patch).unwrap();
    let signed = unsigned
        .clone()
        .sign_with_aux(&key, "#initialKey", &[0; 32])
        .unwrap();
    let update = signed.canonical_bytes();

    c.bench_function("did/decode", |b| {
        b.iter(|| black_box(did.as_str()).parse::<Did>().unwrap())
    });
    c.bench_function("document/hash", |b| {
        b.iter(|| json::document_hash(black_box(document.value())))
    });
    c.bench_function("document/parse", |b| {
        b.iter(|| Document::parse(black_box(&text)).unwrap())
    });
    c.bench_function("document/initial", |b| {
        b.iter(|| initial_key_document(black_box(&did)).unwrap())
    });
    c.bench_function("update/parse", |b| {
        b.iter(|| SignedUpdate::parse(black_box(&update)).unwrap())
    });
    c.bench_function("update/verify", |b| {
        b.iter(|| verify(black_box(&signed), &document, 1, VerifyOptions::default()).unwrap());
    });
}

criterion_group!(benches, did);
criterion_main!(benches);
