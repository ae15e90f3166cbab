//! Esplora servers whose answers are cut, altered or out of date.

use super::*;

/// Changes what the regtest server answered: path in, JSON of the answer in and out.
type Tamper = Arc<dyn Fn(&str, serde_json::Value) -> serde_json::Value + Send + Sync>;

/// A server that passes requests on to `server` and tampers with histories on the way back.
pub async fn tampering(
    server: &RegtestServer,
    tamper: impl Fn(&str, serde_json::Value) -> serde_json::Value + Send + Sync + 'static,
) -> ChainBackend {
    let upstream = server.url();
    let tamper: Tamper = Arc::new(tamper);
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (upstream, tamper) = (upstream.clone(), Arc::clone(&tamper));
        async move {
            let path = request.uri().path().to_owned();
            let body = http("GET", &format!("{upstream}{path}")).await;
            if path.contains("/txs") {
                let history = serde_json::from_str(&body).unwrap();
                tamper(&path, history).to_string()
            } else {
                body
            }
        }
    });
    let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    ChainBackend::esplora(&url, Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn short_pages_do_not_end_a_history() {
    let wallet = Wallet::new(21);
    let server = busy_server(&wallet, 16).await;
    for size in [1, 3, 10] {
        let backend = tampering(&server, move |_, mut page| {
            page.as_array_mut().unwrap().truncate(size);
            page
        })
        .await;
        let read = backend.address_history(&wallet.address()).await.unwrap();
        let own = server.chain().lock().unwrap().history(&wallet.script());
        assert_eq!(own.txs.len(), 17);
        assert_eq!(by_txid(&read), by_txid(&own), "page size {size}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_contradictory_history_is_refused() {
    let wallet = Wallet::new(22);
    let server = busy_server(&wallet, 3).await;
    let stranger = Wallet::new(23);
    funded(&mut server.chain().lock().unwrap(), &stranger, 50_000);
    let foreign = http(
        "GET",
        &format!("{}/address/{}/txs", server.url(), stranger.address()),
    )
    .await;
    let foreign: serde_json::Value = serde_json::from_str(&foreign).unwrap();

    let withheld = tampering(&server, |_, mut page| {
        // Oldest last: the payment that was spent.
        if page.as_array().unwrap().len() == 4 {
            page.as_array_mut().unwrap().pop();
        }
        page
    })
    .await;
    let altered = tampering(&server, |_, mut page| {
        if let Some(value) = page.pointer_mut("/0/vout/0/value") {
            *value = 39_999.into();
        }
        page
    })
    .await;
    let padded = tampering(&server, move |path, mut page| {
        if path.ends_with("/txs") {
            page.as_array_mut().unwrap().push(foreign[0].clone());
        }
        page
    })
    .await;
    let endless = tampering(&server, {
        let first = Mutex::new(None);
        move |_, page| first.lock().unwrap().get_or_insert(page).clone()
    })
    .await;
    let future = tampering(&server, |_, mut page| {
        if let Some(height) = page.pointer_mut("/0/status/block_height") {
            *height = 1_000_000.into();
        }
        page
    })
    .await;
    for (backend, expected) in [
        (altered, "hashes to"),
        (padded, "has nothing to do with the address"),
        (endless, "repeats an earlier one"),
        (future, "above the tip"),
    ] {
        let error = backend
            .address_history(&wallet.address())
            .await
            .unwrap_err();
        assert!(matches!(error, ChainError::BadAnswer { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // Paging asks for what follows the shortened page, so the payment turns up after all.
    let read = withheld.address_history(&wallet.address()).await.unwrap();
    assert_eq!(read.txs.len(), 4);
    let withheld = tampering(&server, |_, mut page| {
        page.as_array_mut()
            .unwrap()
            .retain(|tx| tx["vout"][0]["value"] != 50_000);
        page
    })
    .await;
    let error = withheld
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("is not in its history"),
        "{error}"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_history_is_read_again_when_the_tip_moves() {
    let wallet = Wallet::new(24);
    let server = busy_server(&wallet, 3).await;
    let chain = server.chain();
    let moves = Mutex::new(2);
    let script = wallet.script();
    let backend = tampering(&server, move |path, page| {
        let mut left = moves.lock().unwrap();
        if path.ends_with("/txs") && *left > 0 {
            *left -= 1;
            let mut chain = chain.lock().unwrap();
            chain.fund(&script, sat(60_000 + *left)).unwrap();
            chain.mine(1);
        }
        page
    })
    .await;
    let read = backend.address_history(&wallet.address()).await.unwrap();
    let own = server.chain().lock().unwrap().history(&wallet.script());
    assert_eq!(own.txs.len(), 6);
    assert_eq!(read.tip_height, own.tip_height);
    assert_eq!(by_txid(&read), by_txid(&own));

    // Same height, another block: the transactions it had are gone.
    let chain = server.chain();
    let once = Mutex::new(true);
    let backend = tampering(&server, move |path, page| {
        if path.ends_with("/txs") && std::mem::take(&mut *once.lock().unwrap()) {
            let mut chain = chain.lock().unwrap();
            chain.invalidate_tip(1);
            chain.mine_empty(1);
        }
        page
    })
    .await;
    let read = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(read.tip_height, own.tip_height);
    assert_eq!(read.txs.last().unwrap().height, None);

    let chain = server.chain();
    let restless = tampering(&server, move |_, page| {
        chain.lock().unwrap().mine(1);
        page
    })
    .await;
    let error = restless
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(matches!(error, ChainError::Unsettled { .. }), "{error}");
    assert!(error.is_transient());
    server.shutdown().await;
}
