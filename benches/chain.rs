//! Reading a beacon address with 1 000 outputs, the first time and again, and watching 10 000 signed transactions.
//!
//! The requests behind each reading are counted and checked: what costs on a real network is their number. The watch
//! itself makes none: it judges every transaction by the history of its address.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, TapTweak as _};
use bitcoin::secp256k1::{SECP256K1, SecretKey};
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid};
use btcr2_agent::chain::{
    ChainBackend, CoreBackend, EsploraBackend, RegtestChain, RegtestServer, ServerSettings,
    stepping_clock,
};
use btcr2_agent::demo::regtest_node::{RegtestNode, find_bitcoind};
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::chain_view::{ChainView, SpendSeen};
use btcr2_agent::protocol::confirmation::{ConfirmationWatch, WatchState};
use btcr2_agent::time::UnixTime;
use criterion::{Criterion, criterion_group, criterion_main};

const OUTPUTS: usize = 1_000;

/// Transactions on a page of an Esplora server.
const PAGE: usize = 25;

/// Transactions that are watched.
const WATCHED: u32 = 10_000;

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
    let client = || EsploraBackend::new(&server.url(), Duration::from_secs(10)).unwrap();
    let read = |client: &EsploraBackend| {
        let backend = ChainBackend::Esplora(client.clone());
        let before = client.requests();
        let read = runtime.block_on(backend.address_history(&address)).unwrap();
        assert_eq!(read.txs.len(), OUTPUTS);
        client.requests() - before
    };
    group.bench_function("esplora_first", |b| {
        b.iter(|| {
            // The pages, one that shows that there is no further one, and the tip before and after.
            let pages = u64::try_from(OUTPUTS.div_ceil(PAGE)).unwrap();
            let requests = read(&client());
            assert!(requests <= pages + 4, "{requests} requests");
        });
    });
    let known = client();
    read(&known);
    group.bench_function("esplora_after_a_block", |b| {
        b.iter(|| {
            server.chain().lock().unwrap().mine(1);
            // The tip before, its block, what the last six blocks have, and the tip after.
            let last_blocks = u64::try_from((6 * PER_BLOCK).div_ceil(PAGE)).unwrap();
            let requests = read(&known);
            assert!(requests <= last_blocks + 4, "{requests} requests");
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

/// One signal after another from one address, all in blocks: what a new block costs a watch that never gives up.
fn confirmation_watch(c: &mut Criterion) {
    let mut watch = ConfirmationWatch::default();
    let mut chain = ChainView::default();
    let mut input = OutPoint::new(Txid::from_byte_array([1; 32]), 0);
    for n in 0..WATCHED {
        let tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: input,
                ..TxIn::default()
            }],
            output: vec![TxOut {
                value: Amount::from_sat(100_000),
                script_pubkey: address().script_pubkey(),
            }],
        };
        let by = tx.compute_txid();
        watch.complete(Round(n), &tx);
        let height = Some(n);
        chain.spends.insert(input, SpendSeen { by, height });
        input = OutPoint::new(by, 0);
    }
    chain.height = WATCHED;
    let mut group = c.benchmark_group("confirmation_watch_10000_transactions");
    group.bench_function("block", |b| {
        b.iter(|| {
            chain.height += 1;
            watch.follow(&chain, &[]);
            assert!(watch.unknown_spends(&chain).is_empty());
            assert!(watch.due(&chain).is_empty());
        });
    });
    group.bench_function("states", |b| {
        b.iter(|| {
            let settled = watch
                .all()
                .filter(|watched| matches!(watched.state(&chain), WatchState::Final { .. }));
            assert!(settled.count() > 9_000);
        });
    });
}

criterion_group!(benches, funding_scan, confirmation_watch);
criterion_main!(benches);
