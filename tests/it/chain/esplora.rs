//! The Esplora backend and the server of the regtest chain, over loopback.

use super::*;

#[tokio::test]
async fn a_history_of_several_pages_equals_the_chains_own() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let wallet = Wallet::new(11);
    let address = wallet.address();
    let empty = backend.address_history(&address).await.unwrap();
    assert!(empty.txs.is_empty());

    let chain = server.chain();
    {
        let mut chain = chain.lock().unwrap();
        // 25 is exactly one page, 77 is three and a bit, several to a block.
        for n in 0..25 {
            funded(&mut chain, &wallet, 20_000 + n);
        }
    }
    for (blocks, per_block) in [(0, 0), (26, 2)] {
        {
            let mut chain = chain.lock().unwrap();
            for _ in 0..blocks {
                for n in 0..per_block {
                    chain.fund(&wallet.script(), sat(30_000 + n)).unwrap();
                }
                chain.mine(1);
            }
        }
        let read = backend.address_history(&address).await.unwrap();
        let own = chain.lock().unwrap().history(&wallet.script());
        assert_eq!(read.tip_height, own.tip_height);
        assert_eq!(by_txid(&read), by_txid(&own));
        let heights: Vec<_> = read.txs.iter().map(|entry| entry.height).collect();
        assert!(heights.is_sorted());
    }
    // Spends, an OP_RETURN, and unconfirmed ones on top.
    {
        let mut chain = chain.lock().unwrap();
        let coin = funded(&mut chain, &wallet, 100_000);
        let spend = wallet.spend(
            &[coin],
            vec![pay(wallet.script(), 99_000), signal_output([5; 32])],
        );
        let txid = chain.submit(&spend).unwrap();
        chain.mine(1);
        let next = wallet.spend(
            &[(OutPoint::new(txid, 0), spend.output[0].clone())],
            vec![pay(wallet.script(), 98_000), signal_output([6; 32])],
        );
        chain.submit(&next).unwrap();
        chain.fund(&wallet.script(), sat(12_345)).unwrap();
    }
    let read = backend.address_history(&address).await.unwrap();
    let own = chain.lock().unwrap().history(&wallet.script());
    assert_eq!(read.txs.len(), 25 + 52 + 2 + 2);
    assert_eq!(by_txid(&read), by_txid(&own));
    assert_eq!(
        read.txs
            .iter()
            .filter(|entry| entry.height.is_none())
            .count(),
        2
    );
    assert!(
        read.txs
            .iter()
            .rev()
            .take(2)
            .all(|entry| entry.height.is_none())
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_flood_of_payments_does_not_hide_a_spend() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let wallet = Wallet::new(12);
    let (first, second) = {
        let chain = server.chain();
        let mut chain = chain.lock().unwrap();
        let coin = funded(&mut chain, &wallet, 100_000);
        let first = wallet.spend(
            &[coin],
            vec![pay(wallet.script(), 99_000), signal_output([1; 32])],
        );
        let first_txid = chain.submit(&first).unwrap();
        let second = wallet.spend(
            &[(OutPoint::new(first_txid, 0), first.output[0].clone())],
            vec![pay(wallet.script(), 98_000), signal_output([2; 32])],
        );
        chain.submit(&second).unwrap();
        for n in 0..70 {
            chain.fund(&wallet.script(), sat(5_000 + n)).unwrap();
        }
        (first.compute_txid(), second.compute_txid())
    };
    let read = by_txid(&backend.address_history(&wallet.address()).await.unwrap());
    assert!(
        read.contains_key(&first),
        "pushed off the list of 50 by later payments"
    );
    assert!(read.contains_key(&second));
    server.shutdown().await;
}

#[tokio::test]
async fn tip_status_and_fees_follow_the_chain() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let wallet = Wallet::new(13);
    let chain = server.chain();
    assert_eq!(backend.tip().await.unwrap(), chain.lock().unwrap().tip());
    assert_eq!(
        backend
            .tx_status(Txid::from_byte_array([1; 32]))
            .await
            .unwrap(),
        TxStatus::NotFound
    );
    let coin = funded(&mut chain.lock().unwrap(), &wallet, 50_000);
    let tx = wallet.spend(
        &[coin],
        vec![pay(wallet.script(), 49_000), signal_output([3; 32])],
    );
    let txid = tx.compute_txid();
    backend.broadcast(&tx).await.unwrap();
    assert_eq!(backend.tx_status(txid).await.unwrap(), TxStatus::Mempool);
    backend
        .broadcast(&tx)
        .await
        .expect("already in the mempool");

    let hash = chain.lock().unwrap().mine(1)[0];
    let tip = backend.tip().await.unwrap();
    assert_eq!(tip, chain.lock().unwrap().tip());
    assert_eq!(tip.hash, hash);
    let confirmed = TxStatus::Confirmed {
        height: tip.height,
        hash,
    };
    assert_eq!(backend.tx_status(txid).await.unwrap(), confirmed);
    backend.broadcast(&tx).await.expect("already in a block");

    // Also when its outputs are spent and the node only sees that its inputs are.
    let next = wallet.spend(
        &[(OutPoint::new(txid, 0), tx.output[0].clone())],
        vec![pay(wallet.script(), 48_000)],
    );
    backend.broadcast(&next).await.unwrap();
    chain.lock().unwrap().mine(1);
    backend
        .broadcast(&tx)
        .await
        .expect("already in a block, and spent");

    chain.lock().unwrap().invalidate_tip(2);
    assert_eq!(backend.tx_status(txid).await.unwrap(), TxStatus::Mempool);
    chain.lock().unwrap().mine_empty(1);
    let reorganised = backend.tip().await.unwrap();
    assert_eq!(reorganised.height, tip.height);
    assert_ne!(reorganised.hash, tip.hash);
    assert_eq!(reorganised, chain.lock().unwrap().tip());

    let rate = FeeRate::from_sat_per_vb(2).unwrap();
    assert_eq!(backend.fee_rate(6).await.unwrap(), Some(rate));
    assert_eq!(backend.fee_rate(0).await.unwrap(), Some(rate));
    server.shutdown().await;

    let silent = ServerSettings {
        fee_estimate: None,
        ..ServerSettings::default()
    };
    let (server, backend) = serve(silent).await;
    assert_eq!(backend.fee_rate(6).await.unwrap(), None);
    server.shutdown().await;
}

#[tokio::test]
async fn a_rejection_carries_the_nodes_reason() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let wallet = Wallet::new(14);
    let coin = funded(&mut server.chain().lock().unwrap(), &wallet, 50_000);
    let inputs = std::slice::from_ref(&coin);
    let mut bad = wallet.spend(inputs, vec![pay(wallet.script(), 49_000)]);
    let mut signature = bad.input[0].witness.to_vec().remove(0);
    signature[5] ^= 0x40;
    bad.input[0].witness = Witness::from_slice(&[signature]);
    let error = backend.broadcast(&bad).await.unwrap_err();
    let BroadcastError::Rejected { txid, reason, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*txid, bad.compute_txid());
    assert!(
        reason.starts_with("mandatory-script-verify-flag-failed"),
        "{reason}"
    );
    assert_eq!(error.rejection(), Some(Rejection::Invalid));

    let paying = |fee: u64| wallet.spend(inputs, vec![pay(wallet.script(), 50_000 - fee)]);
    backend.broadcast(&paying(1_000)).await.unwrap();
    let error = backend.broadcast(&paying(1_001)).await.unwrap_err();
    assert_eq!(error.rejection(), Some(Rejection::FeeTooLow), "{error}");
    server.chain().lock().unwrap().mine(1);
    let error = backend.broadcast(&paying(2_000)).await.unwrap_err();
    assert_eq!(
        error.rejection(),
        Some(Rejection::InputsMissingOrSpent),
        "{error}"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_of_another_network_is_refused() {
    let (server, backend) = serve(ServerSettings::default()).await;
    backend.prove_network(Network::Regtest).await.unwrap();
    for network in Network::ALL {
        if network == Network::Regtest {
            continue;
        }
        let error = backend.prove_network(network).await.unwrap_err();
        assert!(
            matches!(error, ChainError::WrongNetwork { height: 0, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(network.name()));
    }
    assert_eq!(backend.block_hash(1_000_000).await.unwrap(), None);
    server.shutdown().await;
}

#[tokio::test]
async fn signets_are_told_apart_by_their_first_block() {
    let genesis = "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6";
    let signet = "00000086d6b2636cb2a392d45edc4ec544a10024d30141c9adf4bfd9de533b53";
    let mutinynet = "000002855893a0a9b24eaffc5efc770558a326fee4fc10c9da22fc19cd2954f9";
    for (first, right, wrong) in [
        (signet, Network::Signet, Network::Mutinynet),
        (mutinynet, Network::Mutinynet, Network::Signet),
    ] {
        let app = axum::Router::new()
            .route(
                "/block-height/0",
                axum::routing::get(move || async move { genesis }),
            )
            .route(
                "/block-height/1",
                axum::routing::get(move || async move { first }),
            );
        let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let backend = ChainBackend::esplora(&url, Duration::from_secs(10)).unwrap();
        backend.prove_network(right).await.unwrap();
        let error = backend.prove_network(wrong).await.unwrap_err();
        assert!(
            matches!(error, ChainError::WrongNetwork { height: 1, network, .. } if network == wrong),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_gone_gives_one_clear_error() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let host = server.address().to_string();
    backend.tip().await.unwrap();
    server.shutdown().await;
    let error = backend.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot reach the chain server {host}: "))
    );
}

#[tokio::test]
async fn a_server_that_is_no_esplora_gives_a_clear_error() {
    let (server, _) = serve(ServerSettings::default()).await;
    let wrong_path = format!("{}/api", server.url());
    let backend = ChainBackend::esplora(&wrong_path, Duration::from_secs(10)).unwrap();
    let error = backend.tip().await.unwrap_err();
    assert!(
        matches!(error, ChainError::Refused { status: 404, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("/api"));
    server.shutdown().await;
}

#[tokio::test]
async fn the_server_is_for_this_machine_only() {
    let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let error = RegtestServer::start(everywhere).await.unwrap_err();
    assert!(matches!(error, ServerError::NotLoopback(address) if address == everywhere));
}

#[tokio::test]
async fn funding_and_mining_over_http() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let wallet = Wallet::new(15);
    let url = server.url();
    let funding = format!(
        "{url}/dev/fund?address={}&amount_sat=70000",
        wallet.address()
    );
    let answer = post(&funding).await;
    let txid: Txid = answer["txid"].as_str().unwrap().parse().unwrap();
    assert_eq!(answer["vout"], 0);
    assert_eq!(backend.tx_status(txid).await.unwrap(), TxStatus::Mempool);
    let before = backend.tip().await.unwrap().height;
    let answer = post(&format!("{url}/dev/mine?n=3")).await;
    assert_eq!(answer["height"], before + 3);
    assert_eq!(answer["hashes"].as_array().unwrap().len(), 3);
    let status = backend.tx_status(txid).await.unwrap();
    assert_eq!(status.confirmations(before + 3), 3);
    let history = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(history.txs[0].tx.output[0], pay(wallet.script(), 70_000));
    assert_eq!(history.txs[0].height, Some(before + 1));
    server.shutdown().await;
}

#[tokio::test]
async fn other_esplora_requests_agree_with_the_chain() {
    let wallet = Wallet::new(17);
    let server = busy_server(&wallet, 2).await;
    let client = esplora_client::Builder::new(&server.url())
        .build_async()
        .unwrap();
    let (tip, block, history) = {
        let chain = server.chain();
        let chain = chain.lock().unwrap();
        let block = chain.block(chain.height()).unwrap().clone();
        (chain.tip(), block, chain.history(&wallet.script()))
    };
    let spend = &history.txs.last().unwrap().tx;
    let txid = spend.compute_txid();

    assert_eq!(client.get_height().await.unwrap(), tip.height);
    assert_eq!(
        client.get_header_by_hash(&tip.hash).await.unwrap(),
        block.header
    );
    assert_eq!(
        client.get_block_by_hash(&tip.hash).await.unwrap(),
        Some(block.clone())
    );
    let txids: Vec<Txid> = block.txdata.iter().map(Transaction::compute_txid).collect();
    assert_eq!(client.get_block_txids(&tip.hash).await.unwrap(), txids);
    let before = client
        .get_block_status(&block.header.prev_blockhash)
        .await
        .unwrap();
    assert_eq!(
        (before.in_best_chain, before.next_best),
        (true, Some(tip.hash))
    );
    let coinbase = client.get_tx_info(&txids[0]).await.unwrap().unwrap();
    assert_eq!(coinbase.to_tx(), block.txdata[0]);

    assert_eq!(client.get_tx(&txid).await.unwrap().as_ref(), Some(&**spend));
    assert_eq!(
        client
            .get_tx(&Txid::from_byte_array([1; 32]))
            .await
            .unwrap(),
        None
    );
    let info = client.get_tx_info(&txid).await.unwrap().unwrap();
    assert_eq!(info.fee, sat(10_000));
    assert_eq!(
        info.previous_outputs(),
        [Some(pay(wallet.script(), 50_000))]
    );
    let status = client.get_tx_status(&txid).await.unwrap();
    assert_eq!(
        (status.block_height, status.block_hash),
        (Some(tip.height), Some(tip.hash))
    );
    let spent = spend.input[0].previous_output;
    let outspend = client
        .get_output_status(&spent.txid, spent.vout.into())
        .await
        .unwrap();
    assert_eq!(outspend.unwrap().txid, Some(txid));

    let utxos = client.get_address_utxos(&wallet.address()).await.unwrap();
    let mut values: Vec<u64> = utxos.iter().map(|utxo| utxo.value.to_sat()).collect();
    values.sort_unstable();
    assert_eq!(values, [40_000, 50_001]);
    assert_eq!(
        client.get_scripthash_utxos(&wallet.script()).await.unwrap(),
        utxos
    );
    let by_hash = client
        .get_scripthash_txs(&wallet.script(), None)
        .await
        .unwrap();
    assert_eq!(
        by_hash,
        client
            .get_address_txs(&wallet.address(), None)
            .await
            .unwrap()
    );
    assert_eq!(by_hash.len(), 3);

    post(&format!("{}/dev/invalidate?n=1", server.url())).await;
    let waiting = client
        .get_mempool_address_txs(&wallet.address())
        .await
        .unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].to_tx(), **spend);
    post(&format!("{}/dev/mine-empty", server.url())).await;
    let info: serde_json::Value =
        serde_json::from_str(&http("GET", &format!("{}/dev/info", server.url())).await).unwrap();
    assert_eq!(info["height"], tip.height);
    assert_eq!(info["mempool"], 1);
    server.shutdown().await;
}

#[tokio::test]
async fn automatic_mining_confirms_what_is_broadcast() {
    for delay in [Duration::ZERO, Duration::from_millis(20)] {
        let settings = ServerSettings {
            auto_mine: Some(delay),
            ..ServerSettings::default()
        };
        let (server, backend) = serve(settings).await;
        let wallet = Wallet::new(16);
        let output = server
            .chain()
            .lock()
            .unwrap()
            .fund(&wallet.script(), sat(40_000))
            .unwrap();
        if !delay.is_zero() {
            let confirmed = async {
                while backend.tx_status(output.txid).await.unwrap() == TxStatus::Mempool {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), confirmed)
                .await
                .unwrap();
        }
        let status = backend.tx_status(output.txid).await.unwrap();
        assert_eq!(status.confirmations(backend.tip().await.unwrap().height), 1);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (server, _) = serve(ServerSettings::default()).await;
    let host = server.address();
    let mut socket = TcpStream::connect(host).await.unwrap();
    let requests = format!(
        "GET /blocks/tip/hash HTTP/1.1\r\nhost: {host}\r\n\r\n\
         GET /dev/info HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    socket.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    // The Esplora client reuses a connection only when it is told that it stays open.
    assert_eq!(
        answers.matches("connection: keep-alive").count(),
        1,
        "{answers}"
    );
    assert!(answers.contains("\"network\":\"regtest\""), "{answers}");
    server.shutdown().await;
}

/// Every request goes by the proxy, which is told the server's name and nothing else.
#[tokio::test]
async fn an_http_proxy_is_used_when_one_is_set() {
    let (server, direct) = serve(ServerSettings::default()).await;
    let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let target = head.split(' ').nth(1).unwrap().to_owned();
            heard.lock().unwrap().push(head);
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut upstream = TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    let backend =
        ChainBackend::esplora_through(&server.url(), Duration::from_secs(10), Some(&proxy))
            .unwrap();
    assert_eq!(backend.tip().await.unwrap(), direct.tip().await.unwrap());
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.is_empty());
    let host = server.url().trim_start_matches("http://").to_owned();
    for head in asked {
        assert!(head.starts_with(&format!("CONNECT {host} ")), "{head}");
    }
    server.shutdown().await;

    let nobody = ChainBackend::esplora_through(
        "http://127.0.0.1:1",
        Duration::from_secs(2),
        Some("http://127.0.0.1:1"),
    );
    let error = nobody.unwrap().tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
}
