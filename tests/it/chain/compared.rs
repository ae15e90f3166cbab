//! Several servers that have to agree.

use btcr2_agent::chain::SharedChain;

use super::core_server::{CoreServer, Setup};
use super::*;

/// Two chains with the same blocks, one with an Esplora server and one with a node.
async fn twins(
    fork: impl FnOnce(&SharedChain, &SharedChain),
) -> (RegtestServer, ChainBackend, CoreServer, ChainBackend) {
    let (server, esplora) = serve(ServerSettings::default()).await;
    let other = Arc::new(Mutex::new(chain()));
    fork(&server.chain(), &other);
    let core = CoreServer::start(other, Setup::default()).await;
    let backend = core.backend();
    (server, esplora, core, backend)
}

#[tokio::test]
async fn servers_that_agree_answer_like_one() {
    let wallet = Wallet::new(41);
    let script = wallet.script();
    let (server, esplora, _core, core) = twins(|a, b| {
        for chain in [a, b] {
            let mut chain = chain.lock().unwrap();
            chain.fund(&script, sat(50_000)).unwrap();
            chain.mine(1);
        }
    })
    .await;
    let alone = esplora.address_history(&wallet.address()).await.unwrap();
    for backend in [
        ChainBackend::compared(esplora.clone(), vec![core.clone()]),
        ChainBackend::compared(core.clone(), vec![esplora.clone()]),
    ] {
        backend.prove_network(Network::Regtest).await.unwrap();
        assert!(backend.prove_network(Network::Signet).await.is_err());
        assert_eq!(
            backend.address_history(&wallet.address()).await.unwrap(),
            alone
        );
        assert_eq!(backend.tip().await.unwrap(), esplora.tip().await.unwrap());
        let hash = alone.tip_hash;
        assert_eq!(
            backend.block(hash).await.unwrap(),
            esplora.block(hash).await.unwrap()
        );
        assert!(backend.host().contains(esplora.host()) && backend.host().contains(core.host()));
        assert_eq!(
            backend.fee_rate(6).await.unwrap(),
            Some(FeeRate::from_sat_per_vb(2).unwrap())
        );
    }
    assert!(matches!(
        ChainBackend::compared(esplora.clone(), Vec::new()),
        ChainBackend::Esplora(_)
    ));
    server.shutdown().await;
}

/// A server that hides a payment, at the same tip.
#[tokio::test]
async fn a_hidden_transaction_is_a_disagreement_whoever_hides_it() {
    let wallet = Wallet::new(42);
    let server = busy_server(&wallet, 3).await;
    let honest = CoreServer::start(server.chain(), Setup::default())
        .await
        .backend();
    let signal = server.chain().lock().unwrap().history(&wallet.script()).txs[3].clone();
    let hiding = super::erring_servers::tampering(&server, |_, mut page| {
        page.as_array_mut()
            .unwrap()
            .retain(|tx| tx["vin"][0]["prevout"]["value"] != 50_000);
        page
    })
    .await;
    for (first, second) in [(&honest, &hiding), (&hiding, &honest)] {
        let backend = ChainBackend::compared(first.clone(), vec![second.clone()]);
        let error = backend
            .address_history(&wallet.address())
            .await
            .unwrap_err();
        let ChainError::Disagreement {
            host_a,
            host_b,
            fact,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(
            (host_a.as_str(), host_b.as_str()),
            (first.host(), second.host())
        );
        assert!(!error.is_transient());
        assert!(
            fact.contains(&signal.tx.compute_txid().to_string()),
            "{fact}"
        );
        assert!(
            fact.contains("spends ") && fact.contains("pays 0.00040000 BTC"),
            "{fact}"
        );
        assert!(
            fact.contains(&format!("only {} has", honest.host())),
            "{fact}"
        );
    }
    server.shutdown().await;
}

#[tokio::test]
async fn another_branch_is_a_disagreement_and_being_late_is_not() {
    let wallet = Wallet::new(43);
    let (server, esplora, _core, core) = twins(|a, _| {
        a.lock().unwrap().mine(1);
    })
    .await;
    let backend = ChainBackend::compared(esplora.clone(), vec![core.clone()]);
    let error = backend
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(matches!(error, ChainError::TipsApart { .. }), "{error}");
    assert!(error.is_transient());
    server.shutdown().await;

    let (server, esplora, _core, core) = twins(|a, b| {
        let mut a = a.lock().unwrap();
        a.fund(&Wallet::new(44).script(), sat(9_999)).unwrap();
        a.mine(1);
        b.lock().unwrap().mine(1);
    })
    .await;
    let backend = ChainBackend::compared(esplora.clone(), vec![core.clone()]);
    let error = backend
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(matches!(error, ChainError::Disagreement { .. }), "{error}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_check_that_cannot_be_asked_is_not_passed_over() {
    let wallet = Wallet::new(45);
    let (server, esplora, core, backend) = twins(|_, _| {}).await;
    core.change(|setup| setup.warming_up = Some("Loading"));
    let compared = ChainBackend::compared(esplora.clone(), vec![backend.clone()]);
    let error = compared
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(matches!(error, ChainError::NotReady { .. }), "{error}");

    // A transaction goes to whoever takes it.
    let coin = funded(&mut server.chain().lock().unwrap(), &wallet, 50_000);
    let tx = wallet.spend(&[coin], vec![pay(wallet.script(), 49_000)]);
    let compared = ChainBackend::compared(backend, vec![esplora.clone()]);
    compared.broadcast(&tx).await.unwrap();
    assert_eq!(
        esplora.tx_status(tx.compute_txid()).await.unwrap(),
        TxStatus::Mempool
    );
    server.shutdown().await;
}
