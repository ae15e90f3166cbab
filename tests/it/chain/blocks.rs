//! Blocks: their place, their times, and whether to believe a server about them.

use bitcoin::BlockHash;

use super::*;

/// A server that passes requests on and changes what it says about blocks.
async fn lying(
    server: &RegtestServer,
    change: impl Fn(&mut serde_json::Value) + Send + Sync + 'static,
) -> ChainBackend {
    let (upstream, change) = (server.url(), Arc::new(change));
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (upstream, change) = (upstream.clone(), Arc::clone(&change));
        async move {
            let path = request.uri().path().to_owned();
            let body = http("GET", &format!("{upstream}{path}")).await;
            if !path.starts_with("/block/") {
                return body;
            }
            let mut block = serde_json::from_str(&body).unwrap();
            change(&mut block);
            block.to_string()
        }
    });
    let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    ChainBackend::esplora(&url, Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn every_block_is_what_the_chain_has() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let chain = server.chain();
    let hashes = chain.lock().unwrap().mine(3);
    for height in [0, 1, 60, 111, 113] {
        let hash = backend.block_hash(height).await.unwrap().unwrap();
        let facts = backend.block(hash).await.unwrap().unwrap();
        let header_time = chain.lock().unwrap().block(height).unwrap().header.time;
        assert_eq!((facts.height, facts.hash), (height, hash));
        assert_eq!(facts.time, UnixTime(header_time.into()));
        assert!(facts.median_time <= facts.time);
    }
    let last = backend.block(hashes[2]).await.unwrap().unwrap();
    let tip = chain.lock().unwrap().tip();
    assert_eq!(
        (last.height, last.median_time),
        (tip.height, tip.median_time)
    );
    // Five blocks of thirty seconds before its own time, the clock being what it is.
    let median = |height: u32| chain.lock().unwrap().block(height).unwrap().header.time;
    let mut times: Vec<_> = (103..=113).map(median).collect();
    times.sort_unstable();
    assert_eq!(last.median_time, UnixTime(times[5].into()));

    let unknown = BlockHash::from_byte_array([7; 32]);
    assert_eq!(backend.block(unknown).await.unwrap(), None);
    server.shutdown().await;
}

#[tokio::test]
async fn a_history_names_its_tip_and_the_blocks_of_its_transactions() {
    let (server, backend) = serve(ServerSettings::default()).await;
    let wallet = Wallet::new(41);
    let chain = server.chain();
    for n in 0..3 {
        funded(&mut chain.lock().unwrap(), &wallet, 50_000 + n);
    }
    chain
        .lock()
        .unwrap()
        .fund(&wallet.script(), sat(1_000))
        .unwrap();
    let read = backend.address_history(&wallet.address()).await.unwrap();
    let own = chain.lock().unwrap().history(&wallet.script());
    assert_eq!(read.tip_hash, backend.tip().await.unwrap().hash);
    assert_eq!(read.blocks.len(), 3);
    assert_eq!((read.tip_hash, read.blocks), (own.tip_hash, own.blocks));
    server.shutdown().await;
}

#[tokio::test]
async fn a_block_whose_header_has_another_hash_is_refused() {
    let (server, honest) = serve(ServerSettings::default()).await;
    let hash = server.chain().lock().unwrap().mine(1)[0];
    assert!(honest.block(hash).await.unwrap().is_some());
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 5] = [
        (
            |b| b["timestamp"] = (b["timestamp"].as_u64().unwrap() + 1).into(),
            "header of another",
        ),
        (|b| b["timestamp"] = u64::MAX.into(), "header of another"),
        (
            |b| b["nonce"] = (b["nonce"].as_u64().unwrap() ^ 1).into(),
            "header of another",
        ),
        (|b| b["id"] = "00".repeat(32).into(), "header of another"),
        (
            |b| b["mediantime"] = (b["timestamp"].as_u64().unwrap() + 1).into(),
            "median time after its own",
        ),
    ];
    for (change, expected) in changes {
        let backend = lying(&server, change).await;
        let error = backend.block(hash).await.unwrap_err();
        assert!(matches!(error, ChainError::BadAnswer { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    server.shutdown().await;
}
