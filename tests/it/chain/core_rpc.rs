//! The Bitcoin Core backend against a stand-in for a node, beside the Esplora backend on the same chain.

use std::sync::atomic::Ordering;

use btcr2_agent::chain::{CoreBackend, CoreLogin};

use super::core_server::{CoreServer, Setup};
use super::*;

async fn both(setup: Setup) -> (RegtestServer, ChainBackend, CoreServer, ChainBackend) {
    let (server, esplora) = serve(ServerSettings::default()).await;
    let core = CoreServer::start(server.chain(), setup).await;
    let backend = core.backend();
    (server, esplora, core, backend)
}

/// Both backends tell the same history, and it is this long.
async fn same(esplora: &ChainBackend, core: &ChainBackend, wallet: &Wallet, length: usize) {
    let theirs = esplora.address_history(&wallet.address()).await.unwrap();
    let ours = core.address_history(&wallet.address()).await.unwrap();
    assert_eq!(ours.txs.len(), length);
    assert_eq!(by_txid(&ours), by_txid(&theirs));
    assert_eq!(
        (ours.tip_height, ours.tip_hash, &ours.blocks),
        (theirs.tip_height, theirs.tip_hash, &theirs.blocks)
    );
    let heights: Vec<u32> = ours
        .txs
        .iter()
        .map(|entry| entry.height.unwrap_or(u32::MAX))
        .collect();
    assert!(heights.is_sorted());
}

/// Payments, spends and unconfirmed ones; mined, undone, replaced: at each step both backends say the same.
async fn a_life(setup: Setup, blocks_before: u32) {
    let payments_show = setup.searches_mempool;
    let (server, esplora, _core, core) = both(setup).await;
    let chain = server.chain();
    let wallet = Wallet::new(31);
    chain.lock().unwrap().mine(blocks_before);
    same(&esplora, &core, &wallet, 0).await;

    let coin = funded(&mut chain.lock().unwrap(), &wallet, 100_000);
    same(&esplora, &core, &wallet, 1).await;
    let first = wallet.spend(
        std::slice::from_ref(&coin),
        vec![pay(wallet.script(), 99_000), signal_output([1; 32])],
    );
    let first_txid = chain.lock().unwrap().submit(&first).unwrap();
    let second = wallet.spend(
        &[(OutPoint::new(first_txid, 0), first.output[0].clone())],
        vec![pay(wallet.script(), 98_000), signal_output([2; 32])],
    );
    let second_txid = chain.lock().unwrap().submit(&second).unwrap();
    same(&esplora, &core, &wallet, 3).await;
    chain.lock().unwrap().mine(1);
    same(&esplora, &core, &wallet, 3).await;
    assert_eq!(
        core.tx_status(second_txid).await.unwrap(),
        esplora.tx_status(second_txid).await.unwrap()
    );

    // Dropped: back in the mempool, and another block at its height.
    chain.lock().unwrap().invalidate_tip(1);
    chain.lock().unwrap().mine_empty(1);
    same(&esplora, &core, &wallet, 3).await;
    // Replaced: another spend of the same coin is mined instead.
    chain.lock().unwrap().evict(&first_txid);
    let other = wallet.spend(
        &[coin],
        vec![pay(wallet.script(), 97_000), signal_output([3; 32])],
    );
    let other_txid = chain.lock().unwrap().submit(&other).unwrap();
    chain.lock().unwrap().mine(1);
    same(&esplora, &core, &wallet, 2).await;
    assert!(matches!(
        core.tx_status(other_txid).await.unwrap(),
        TxStatus::Confirmed { .. }
    ));

    // Undone far below what was read last.
    chain.lock().unwrap().invalidate_tip(6);
    chain.lock().unwrap().mine_empty(2);
    let unconfirmed = esplora.address_history(&wallet.address()).await.unwrap();
    assert_eq!(unconfirmed.txs.len(), 2);
    assert!(unconfirmed.txs.iter().all(|entry| entry.height.is_none()));
    if payments_show {
        same(&esplora, &core, &wallet, 2).await;
    } else {
        // The payment is not seen, and so neither is what spends it, until it confirms.
        assert!(
            core.address_history(&wallet.address())
                .await
                .unwrap()
                .txs
                .is_empty()
        );
    }
    chain.lock().unwrap().mine(600);
    same(&esplora, &core, &wallet, 2).await;
    server.shutdown().await;
}

#[tokio::test]
async fn histories_equal_those_of_an_esplora_server() {
    a_life(Setup::default(), 0).await;
}

#[tokio::test]
async fn histories_found_by_a_scan_of_the_node_are_the_same() {
    a_life(Setup::default(), 700).await;
}

#[tokio::test]
async fn histories_of_a_short_chain_need_no_index() {
    let setup = Setup {
        filter_index: false,
        ..Setup::default()
    };
    a_life(setup, 0).await;
}

#[tokio::test]
async fn an_older_node_shows_unconfirmed_spends() {
    let setup = Setup {
        searches_mempool: false,
        ..Setup::default()
    };
    a_life(setup, 0).await;
}

#[tokio::test]
async fn a_question_asked_again_costs_little() {
    let (server, _, core, backend) = both(Setup::default()).await;
    let wallet = Wallet::new(32);
    let chain = server.chain();
    chain.lock().unwrap().mine(600);
    for n in 0..12 {
        funded(&mut chain.lock().unwrap(), &wallet, 50_000 + n);
    }
    let address = wallet.address();
    let spent = |before| core.requests.load(Ordering::Relaxed) - before;
    assert_eq!(
        backend.address_history(&address).await.unwrap().txs.len(),
        12
    );
    assert_eq!(
        core.called("getblock"),
        12,
        "no block is read that has nothing of the address"
    );
    assert!(spent(0) < 20, "{}", spent(0));
    let before = core.requests.load(Ordering::Relaxed);
    assert_eq!(
        backend.address_history(&address).await.unwrap().txs.len(),
        12
    );
    assert_eq!(spent(before), 3);
    chain.lock().unwrap().mine(5);
    funded(&mut chain.lock().unwrap(), &wallet, 70_000);
    let before = core.requests.load(Ordering::Relaxed);
    assert_eq!(
        backend.address_history(&address).await.unwrap().txs.len(),
        13
    );
    assert!(spent(before) <= 11, "{}", spent(before));
    assert_eq!(core.called("getblock"), 13);
    assert_eq!(core.called("scanblocks"), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn what_the_node_lacks_is_named() {
    let (server, _, core, backend) = both(Setup::default()).await;
    let wallet = Wallet::new(33);
    let chain = server.chain();
    let coin = funded(&mut chain.lock().unwrap(), &wallet, 50_000);

    // A node that pruned the block it would need.
    let height = chain.lock().unwrap().height();
    core.change(|setup| setup.pruned_below = height + 1);
    let error = backend
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    let expected = ChainError::Pruned {
        host: backend.host().to_owned(),
        height,
    };
    assert_eq!(error, expected);
    assert!(error.to_string().contains("-reindex"));
    core.change(|setup| setup.pruned_below = height);
    backend
        .address_history(&wallet.address())
        .await
        .expect("only older blocks are gone");

    // Without txindex: what has an unspent output is found, and what is unknown is not called missing.
    let moved = wallet.spend(&[coin], vec![pay(wallet.script(), 49_000)]);
    let txid = chain.lock().unwrap().submit(&moved).unwrap();
    let fresh = core.backend();
    assert_eq!(fresh.tx_status(txid).await.unwrap(), TxStatus::Mempool);
    chain.lock().unwrap().mine(1);
    let place = TxStatus::Confirmed {
        height: height + 1,
        hash: chain.lock().unwrap().tip().hash,
    };
    assert_eq!(fresh.tx_status(txid).await.unwrap(), place);
    let coin = (OutPoint::new(txid, 0), moved.output[0].clone());
    let next = wallet.spend(&[coin], vec![pay(wallet.script(), 48_000)]);
    chain.lock().unwrap().submit(&next).unwrap();
    chain.lock().unwrap().mine(1);
    let error = fresh.tx_status(txid).await.unwrap_err();
    assert!(
        matches!(
            error,
            ChainError::Lacks {
                setting: "txindex=1",
                ..
            }
        ),
        "{error}"
    );
    // The one that read the address knows.
    backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(backend.tx_status(txid).await.unwrap(), place);
    core.change(|setup| setup.tx_index = true);
    assert_eq!(fresh.tx_status(txid).await.unwrap(), place);
    let nothing = Txid::from_byte_array([1; 32]);
    assert_eq!(fresh.tx_status(nothing).await.unwrap(), TxStatus::NotFound);

    core.change(|setup| setup.filter_index = false);
    chain.lock().unwrap().mine(5_000);
    let error = fresh.address_history(&wallet.address()).await.unwrap_err();
    assert!(
        matches!(
            error,
            ChainError::Lacks {
                setting: "blockfilterindex=1",
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.is_transient());
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_that_is_starting_or_busy_is_asked_again() {
    let (server, _, core, backend) = both(Setup::default()).await;
    core.change(|setup| setup.warming_up = Some("Loading block index…"));
    let error = backend.tip().await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().contains("Loading block index"), "{error}");
    let tx = Wallet::new(35).spend(&[], vec![pay(Wallet::new(35).script(), 1)]);
    let error = backend.broadcast(&tx).await.unwrap_err();
    assert!(
        matches!(error, BroadcastError::Chain(ChainError::NotReady { .. })),
        "{error}"
    );
    core.change(|setup| setup.warming_up = None);
    backend.tip().await.unwrap();

    server.chain().lock().unwrap().mine(600);
    core.change(|setup| setup.busy_scans = 2);
    backend
        .address_history(&Wallet::new(35).address())
        .await
        .unwrap();
    assert_eq!(core.called("scanblocks"), 3);

    let nobody = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let login = CoreLogin::Password {
        user: "u".to_owned(),
        password: "p".to_owned().into(),
    };
    let gone = ChainBackend::core(&url, login, Duration::from_secs(2)).unwrap();
    let error = gone.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
    server.shutdown().await;
}

#[tokio::test]
async fn a_new_cookie_is_read_and_no_credential_is_shown() {
    let (server, _, core, _) = both(Setup::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".cookie");
    let login = CoreLogin::Cookie(file.clone());
    let backend = ChainBackend::core(&core.url, login, Duration::from_secs(10)).unwrap();
    let error = backend.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Login { .. }), "{error}");
    assert!(error.is_transient(), "the node writes it when it starts");
    std::fs::write(&file, "__cookie__:first\n").unwrap();
    backend.tip().await.unwrap();
    // The node restarts.
    core.change(|setup| setup.login = "__cookie__:second".to_owned());
    let error = backend.tip().await.unwrap_err();
    assert!(error.to_string().contains("does not accept"), "{error}");
    assert!(!error.to_string().contains("first"));
    std::fs::write(&file, "__cookie__:second\n").unwrap();
    backend.tip().await.unwrap();

    let secret = CoreLogin::Password {
        user: "alice".to_owned(),
        password: "hunter2".to_owned().into(),
    };
    let refused = ChainBackend::core(&core.url, secret.clone(), Duration::from_secs(10)).unwrap();
    let before = core.requests.load(Ordering::Relaxed);
    let error = refused.tip().await.unwrap_err();
    assert_eq!(
        core.requests.load(Ordering::Relaxed) - before,
        1,
        "the same password is not tried twice"
    );
    for shown in [
        format!("{refused:?}"),
        format!("{secret:?}"),
        error.to_string(),
        format!("{error:?}"),
    ] {
        assert!(
            !shown.contains("hunter2") && !shown.contains("alice"),
            "{shown}"
        );
    }
    let error = ChainBackend::core(
        "http://alice:hunter2@127.0.0.1:1",
        secret,
        Duration::from_secs(1),
    )
    .unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_transaction_is_broadcast_refused_or_known_already() {
    let (server, _, core, backend) = both(Setup::default()).await;
    let wallet = Wallet::new(36);
    let chain = server.chain();
    let coin = funded(&mut chain.lock().unwrap(), &wallet, 50_000);
    let inputs = std::slice::from_ref(&coin);
    let paying = |fee: u64| wallet.spend(inputs, vec![pay(wallet.script(), 50_000 - fee)]);
    let tx = paying(1_000);
    backend.broadcast(&tx).await.unwrap();
    backend
        .broadcast(&tx)
        .await
        .expect("already in the mempool");
    let error = backend.broadcast(&paying(1_001)).await.unwrap_err();
    assert_eq!(error.rejection(), Some(Rejection::FeeTooLow), "{error}");
    chain.lock().unwrap().mine(1);
    backend.broadcast(&tx).await.expect("already in a block");
    let next = wallet.spend(
        &[(OutPoint::new(tx.compute_txid(), 0), tx.output[0].clone())],
        vec![pay(wallet.script(), 48_000)],
    );
    backend.broadcast(&next).await.unwrap();
    chain.lock().unwrap().mine(1);
    backend.address_history(&wallet.address()).await.unwrap();
    backend
        .broadcast(&tx)
        .await
        .expect("already in a block, and spent");
    // Without having read the address nobody can say so; the coins are gone all the same.
    let error = core.backend().broadcast(&tx).await.unwrap_err();
    assert_eq!(
        error.rejection(),
        Some(Rejection::InputsMissingOrSpent),
        "{error}"
    );
    let error = backend.broadcast(&paying(2_000)).await.unwrap_err();
    assert_eq!(
        error.rejection(),
        Some(Rejection::InputsMissingOrSpent),
        "{error}"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn tips_blocks_fees_and_balances() {
    let (server, esplora, core, backend) = both(Setup::default()).await;
    let wallet = Wallet::new(37);
    let tip = esplora.tip().await.unwrap();
    assert_eq!(backend.tip().await.unwrap(), tip);
    for height in [0, 1, 60, tip.height] {
        let hash = backend.block_hash(height).await.unwrap().unwrap();
        assert_eq!(Some(hash), esplora.block_hash(height).await.unwrap());
        let facts = backend.block(hash).await.unwrap();
        assert_eq!(facts, esplora.block(hash).await.unwrap());
        assert_eq!(facts.unwrap().height, height);
    }
    assert_eq!(backend.block_hash(tip.height + 1).await.unwrap(), None);
    assert_eq!(
        backend
            .block(bitcoin::BlockHash::from_byte_array([9; 32]))
            .await
            .unwrap(),
        None
    );
    backend.prove_network(Network::Regtest).await.unwrap();
    let error = backend.prove_network(Network::Signet).await.unwrap_err();
    assert!(
        matches!(error, ChainError::WrongNetwork { height: 0, .. }),
        "{error}"
    );

    assert_eq!(backend.fee_rate(6).await.unwrap(), None);
    core.change(|setup| setup.fee_rate = Some(0.000_123_45));
    // 12.345 sat/vB are 3086.25 sat per 1000 weight units.
    assert_eq!(
        backend.fee_rate(0).await.unwrap(),
        Some(FeeRate::from_sat_per_kwu(3_087))
    );

    let login = CoreLogin::Password {
        user: "__cookie__".to_owned(),
        password: "first".to_owned().into(),
    };
    let core = CoreBackend::new(&core.url, login, Duration::from_secs(10)).unwrap();
    assert_eq!(core.balance(&wallet.address()).await.unwrap(), sat(0));
    funded(&mut server.chain().lock().unwrap(), &wallet, 12_345);
    funded(&mut server.chain().lock().unwrap(), &wallet, 54_321);
    assert_eq!(core.balance(&wallet.address()).await.unwrap(), sat(66_666));
    server.shutdown().await;
}
