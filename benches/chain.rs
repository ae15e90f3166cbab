//! Reading a beacon address with 1 000 outputs: the first time, and again.
//!
//! The requests behind each reading are counted and checked: what costs on a real network is their number.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bitcoin::key::{Keypair, TapTweak as _};
use bitcoin::secp256k1::{SECP256K1, SecretKey};
use bitcoin::{Address, Amount, ScriptBuf, TxOut};
use btcr2_agent::chain::{
    ChainBackend, CoreBackend, RegtestChain, RegtestServer, ServerSettings, stepping_clock,
};
use btcr2_agent::demo::regtest_node::{RegtestNode, find_bitcoind};
use btcr2_agent::time::UnixTime;
use criterion::{Criterion, criterion_group, criterion_main};

const OUTPUTS: usize = 1_000;

/// Outputs paid in one block.
const PER_BLOCK: usize = 20;

fn address() -> Address {
    let secret = SecretKey::from_slice(&[7; 32]).unwrap();
    let key = Keypair::from_secret_key(SECP256K1, &secret).tap_tweak(SECP256K1, None);
    let script = ScriptBuf::new_p2tr_tweaked(key.public_parts().0);
    Address::from_script(&script, bitcoin::Network::Regtest).unwrap()
}

fn funding_scan(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let address = address();
    let mut group = c.benchmark_group("funding_scan_1000_outputs");
    group.sample_size(10);

    let mut chain = RegtestChain::new(stepping_clock(UnixTime(1_760_000_000), 30));
    for _ in 0..OUTPUTS / PER_BLOCK {
        for _ in 0..PER_BLOCK {
            chain
                .fund(&address.script_pubkey(), Amount::from_sat(10_000))
                .unwrap();
        }
        chain.mine(1);
    }
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = runtime
        .block_on(RegtestServer::serve(
            loopback,
            chain,
            ServerSettings::default(),
        ))
        .unwrap();
    let esplora = ChainBackend::esplora(&server.url(), Duration::from_secs(10)).unwrap();
    group.bench_function("esplora", |b| {
        b.iter(|| {
            let read = runtime.block_on(esplora.address_history(&address)).unwrap();
            assert_eq!(read.txs.len(), OUTPUTS);
        });
    });

    let Some(binary) = find_bitcoind() else {
        eprintln!("no bitcoind in BITCOIND or on PATH: the node's part is left out");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let node = runtime
        .block_on(RegtestNode::start(&binary, dir.path(), &[]))
        .unwrap();
    let output = TxOut {
        value: Amount::from_sat(10_000),
        script_pubkey: address.script_pubkey(),
    };
    for _ in 0..OUTPUTS / PER_BLOCK {
        node.pay(vec![output.clone(); PER_BLOCK]).unwrap();
        node.mine(1).unwrap();
    }
    let core =
        || CoreBackend::new(node.url(), node.login().clone(), Duration::from_secs(30)).unwrap();
    let read = |core: &CoreBackend| {
        let backend = ChainBackend::Core(core.clone());
        let read = runtime.block_on(backend.address_history(&address)).unwrap();
        assert_eq!(read.txs.len(), OUTPUTS / PER_BLOCK);
    };
    group.bench_function("core_first", |b| {
        b.iter(|| {
            let core = core();
            read(&core);
            // Blocks come eight to a request; headers, hashes and filters a hundred.
            assert!(core.requests() < 50, "{} requests", core.requests());
        });
    });
    let known = core();
    read(&known);
    group.bench_function("core_again", |b| {
        b.iter(|| {
            let before = known.requests();
            read(&known);
            assert_eq!(known.requests() - before, 3);
        });
    });
}

criterion_group!(benches, funding_scan);
criterion_main!(benches);
