//! Histories that are read again: the same as one read for the first time, with a few requests.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Path, State};
use bitcoin::BlockHash;
use btcr2_agent::chain::EsploraBackend;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::erring_servers::tampering;
use super::*;

fn client(url: &str) -> (EsploraBackend, ChainBackend) {
    let client = EsploraBackend::new(url, Duration::from_secs(10)).unwrap();
    (client.clone(), ChainBackend::Esplora(client))
}

/// Unconfirmed transactions of one address that a server lists.
const LISTED_WAITING: usize = 50;

/// Something that happens to the chain.
#[derive(Debug, Clone)]
enum Event {
    /// Payments to the address, into the mempool.
    Pay(u64),
    /// The newest output at the address is spent, and pays back.
    Spend,
    /// Blocks with what waits, one payment each before them.
    Mine(u32, bool),
    /// The last blocks are undone, then so many empty ones are mined.
    Reorganise(u32, u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..30u64).prop_map(Event::Pay),
        Just(Event::Spend),
        (1..9u32, any::<bool>()).prop_map(|(blocks, paid)| Event::Mine(blocks, paid)),
        (1..9u32, any::<bool>()).prop_map(|(blocks, paid)| Event::Mine(blocks, paid)),
        (1..20u32, 0..20u32).prop_map(|(undone, empty)| Event::Reorganise(undone, empty)),
    ]
}

fn happen(chain: &mut RegtestChain, wallet: &Wallet, event: &Event) {
    match event {
        Event::Pay(count) => {
            for n in 0..*count {
                // The faucet may be empty after a reorganisation took its coins.
                let _ = chain.fund(&wallet.script(), sat(20_000 + n));
            }
        }
        Event::Spend => {
            let history = chain.history(&wallet.script());
            let outputs = history.txs.iter().rev().flat_map(|entry| {
                let txid = entry.tx.compute_txid();
                let outputs = (0u32..).zip(entry.tx.output.clone());
                outputs.map(move |(vout, output)| (OutPoint::new(txid, vout), output))
            });
            let mut unspent = outputs.filter(|(outpoint, output)| {
                output.script_pubkey == wallet.script() && chain.unspent(outpoint).is_some()
            });
            if let Some(coin) = unspent.find(|(_, output)| output.value > sat(5_000)) {
                let value = coin.1.value.to_sat() - 1_000;
                let outputs = vec![pay(wallet.script(), value), signal_output([9; 32])];
                let _ = chain.submit(&wallet.spend(&[coin], outputs));
            }
        }
        Event::Mine(blocks, paid) => {
            for n in 0..*blocks {
                if *paid {
                    let _ = chain.fund(&wallet.script(), sat(40_000 + u64::from(n)));
                }
                chain.mine(1);
            }
        }
        Event::Reorganise(undone, empty) => {
            chain.invalidate_tip(*undone);
            chain.mine_empty(*empty);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the chain does between two readings: the one that reads on says what one that begins anew says, and
    /// what the chain itself says, transaction by transaction and in the same order.
    #[test]
    fn a_history_read_on_is_the_one_read_anew(
        events in prop::collection::vec((event(), any::<bool>()), 1..14)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (server, _) = serve(ServerSettings::default()).await;
            let (requests, again) = client(&server.url());
            let wallet = Wallet::new(51);
            let (mut reading_again, mut reading_anew) = (0, 0);
            for (event, read) in events {
                happen(&mut server.chain().lock().unwrap(), &wallet, &event);
                if !read {
                    continue;
                }
                let before = requests.requests();
                let on = again.address_history(&wallet.address()).await.unwrap();
                reading_again += requests.requests() - before;
                let (requests, anew) = client(&server.url());
                let whole = anew.address_history(&wallet.address()).await.unwrap();
                reading_anew += requests.requests();
                prop_assert_eq!(&on, &whole);
                let own = server.chain().lock().unwrap().history(&wallet.script());
                // Of what waits, servers list the newest only: what is cut off there is cut off in both readings.
                let waiting = own.txs.iter().filter(|entry| entry.height.is_none()).count();
                let (mut read, mut there) = (by_txid(&on), by_txid(&own));
                if waiting > LISTED_WAITING {
                    read.retain(|_, (_, height)| height.is_some());
                    there.retain(|_, (_, height)| height.is_some());
                }
                prop_assert_eq!(read, there);
                prop_assert_eq!(on.blocks, own.blocks);
            }
            prop_assert!(reading_again <= reading_anew);
            server.shutdown().await;
            Ok(())
        })?;
    }
}

/// A made-up chain on loopback: a history of any length without the price of mining it.
struct Listing {
    /// Per transaction of the address, the oldest first: txid, JSON, height.
    txs: Mutex<Vec<(Txid, Value)>>,
    height: Mutex<u32>,
    asked: AtomicU64,
}

type Ctx = State<Arc<Listing>>;

/// The block at a height. Its header is nobody's: histories look at hashes only.
fn block_at(height: u32) -> BlockHash {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&height.to_le_bytes());
    BlockHash::from_byte_array(bytes)
}

impl Listing {
    /// Adds a block with `count` payments to `script`.
    fn mine(&self, script: &ScriptBuf, count: u32) {
        let mut height = self.height.lock().unwrap();
        *height += 1;
        for n in 0..count {
            let lock_time = *height * 1_000 + n;
            let tx = Transaction {
                version: Version::TWO,
                lock_time: LockTime::from_consensus(lock_time),
                input: vec![TxIn {
                    previous_output: OutPoint::new(Txid::from_byte_array([3; 32]), n),
                    ..TxIn::default()
                }],
                output: vec![pay(script.clone(), 10_000)],
            };
            let txid = tx.compute_txid();
            let json = json!({
                "txid": txid, "version": 2, "locktime": lock_time, "size": tx.total_size(),
                "weight": tx.weight(), "fee": 100,
                "vin": [{
                    "txid": Txid::from_byte_array([3; 32]), "vout": n, "scriptsig": "", "is_coinbase": false,
                    "prevout": {"scriptpubkey": "51", "value": 10_100}, "sequence": tx.input[0].sequence,
                }],
                "vout": [{"scriptpubkey": script, "value": 10_000}],
                "status": {"confirmed": true, "block_height": *height, "block_hash": block_at(*height)},
            });
            self.txs.lock().unwrap().push((txid, json));
        }
    }

    fn page(&self, after: Option<Txid>) -> String {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let txs = self.txs.lock().unwrap();
        let newest_first = txs.iter().rev();
        let page: Vec<&Value> = match after {
            None => newest_first.take(25).map(|(_, tx)| tx).collect(),
            Some(last) => newest_first
                .skip_while(|(txid, _)| *txid != last)
                .skip(1)
                .take(25)
                .map(|(_, tx)| tx)
                .collect(),
        };
        serde_json::to_string(&page).unwrap()
    }

    async fn serve(self: &Arc<Self>) -> ChainBackend {
        use axum::routing::get;
        let tip = |State(listing): Ctx| async move {
            listing.asked.fetch_add(1, Ordering::SeqCst);
            block_at(*listing.height.lock().unwrap()).to_string()
        };
        let block = |State(listing): Ctx, Path(hash): Path<BlockHash>| async move {
            listing.asked.fetch_add(1, Ordering::SeqCst);
            let height = *listing.height.lock().unwrap();
            assert_eq!(hash, block_at(height));
            let header = json!({
                "id": hash, "height": height, "version": 4, "timestamp": 1_760_000_000, "tx_count": 1,
                "size": 300, "weight": 1_200, "merkle_root": "00".repeat(32), "nonce": 0, "bits": 545_259_519,
                "previousblockhash": block_at(height - 1), "mediantime": 1_760_000_000, "difficulty": 1,
            });
            header.to_string()
        };
        let app = axum::Router::new()
            .route("/blocks/tip/hash", get(tip))
            .route("/block/{hash}", get(block))
            .route(
                "/address/{address}/txs",
                get(|State(listing): Ctx| async move { listing.page(None) }),
            )
            .route(
                "/address/{address}/txs/chain/{last}",
                get(
                    |State(listing): Ctx, Path((_, last)): Path<(String, Txid)>| async move {
                        listing.page(Some(last))
                    },
                ),
            )
            .with_state(Arc::clone(self));
        let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        client(&url).1
    }
}

/// 10 000 transactions are 400 pages, once. After that a block costs its own transactions.
#[tokio::test]
async fn ten_thousand_transactions_are_read_once() {
    let listing = Arc::new(Listing {
        txs: Mutex::default(),
        height: Mutex::new(1_000),
        asked: AtomicU64::new(0),
    });
    let wallet = Wallet::new(52);
    for _ in 0..100 {
        listing.mine(&wallet.script(), 100);
    }
    for _ in 0..6 {
        listing.mine(&wallet.script(), 0);
    }
    let backend = listing.serve().await;
    let read = async || {
        let before = listing.asked.load(Ordering::SeqCst);
        let history = backend.address_history(&wallet.address()).await.unwrap();
        let asked = listing.asked.load(Ordering::SeqCst) - before;
        (history.txs.len(), asked)
    };
    // The tip twice and its block, the pages, and an empty one.
    assert_eq!(read().await, (10_000, 3 + 400 + 1));
    assert_eq!(read().await, (10_000, 3), "nothing happened");
    let mut expected = 10_000;
    for new in [0, 1, 0, 2, 1, 20, 0, 1, 1, 1] {
        listing.mine(&wallet.script(), new);
        expected += usize::try_from(new).unwrap();
        let (count, asked) = read().await;
        assert_eq!(count, expected);
        // One page more where the last six blocks fill the first.
        assert!(asked <= 5, "{asked} requests after a block with {new}");
    }
    // A burst costs its pages, as long as it is among the last six blocks.
    listing.mine(&wallet.script(), 100);
    assert_eq!(read().await, (expected + 100, 3 + 5));
    for _ in 0..6 {
        listing.mine(&wallet.script(), 0);
    }
    assert_eq!(read().await.1, 3 + 5);
    assert_eq!(read().await.1, 3);
}

/// A block comes with every page: what takes longer to read than blocks take to come is read all the same.
#[tokio::test]
async fn a_history_settles_although_blocks_come_faster_than_its_pages() {
    let wallet = Wallet::new(53);
    let (server, _) = serve(ServerSettings::default()).await;
    {
        let chain = server.chain();
        let mut chain = chain.lock().unwrap();
        for n in 0..90 {
            chain.fund(&wallet.script(), sat(20_000 + n)).unwrap();
            if n % 10 == 9 {
                chain.mine(1);
            }
        }
        chain.mine(6);
    }
    let chain = server.chain();
    let backend = tampering(&server, move |path, page| {
        if path.contains("/txs/chain/") {
            chain.lock().unwrap().mine(1);
        }
        page
    })
    .await;
    let read = backend.address_history(&wallet.address()).await.unwrap();
    let own = server.chain().lock().unwrap().history(&wallet.script());
    assert_eq!(own.txs.len(), 90);
    assert_eq!(by_txid(&read), by_txid(&own));
    assert_eq!(read.tip_hash, own.tip_hash);
    server.shutdown().await;
}

/// What a server left out while its index was behind is found when it lists it.
#[tokio::test]
async fn what_was_left_out_once_is_found_later() {
    let wallet = Wallet::new(54);
    let (server, _) = serve(ServerSettings::default()).await;
    for n in 0..40 {
        funded(&mut server.chain().lock().unwrap(), &wallet, 20_000 + n);
    }
    // One of two payments in a block, and everything in the three blocks before it.
    {
        let chain = server.chain();
        let mut chain = chain.lock().unwrap();
        chain.fund(&wallet.script(), sat(90_000)).unwrap();
        chain.fund(&wallet.script(), sat(90_001)).unwrap();
        chain.mine(7);
    }
    let behind = Arc::new(Mutex::new(true));
    let hiding = Arc::clone(&behind);
    let backend = tampering(&server, move |_, mut page| {
        if *hiding.lock().unwrap() {
            let hidden = [90_000, 20_037, 20_038, 20_039].map(Value::from);
            page.as_array_mut()
                .unwrap()
                .retain(|tx| !hidden.contains(&tx["vout"][0]["value"]));
        }
        page
    })
    .await;
    let read = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(read.txs.len(), 38);
    *behind.lock().unwrap() = false;
    server.chain().lock().unwrap().mine(1);
    let read = backend.address_history(&wallet.address()).await.unwrap();
    let own = server.chain().lock().unwrap().history(&wallet.script());
    assert_eq!(by_txid(&read), by_txid(&own));
    server.shutdown().await;
}

/// A server that lists in an order of its own is read whole each time.
#[tokio::test]
async fn pages_without_an_order_are_read_to_their_end() {
    let wallet = Wallet::new(55);
    let (server, _) = serve(ServerSettings::default()).await;
    for n in 0..12 {
        funded(&mut server.chain().lock().unwrap(), &wallet, 20_000 + n);
    }
    server.chain().lock().unwrap().mine(6);
    let backend = tampering(&server, |_, mut page| {
        let txs = page.as_array_mut().unwrap();
        // The last stays last: what follows is asked for after it.
        let rest = txs.len().saturating_sub(1);
        txs[..rest].reverse();
        page
    })
    .await;
    for n in 0..4 {
        let read = backend.address_history(&wallet.address()).await.unwrap();
        let own = server.chain().lock().unwrap().history(&wallet.script());
        assert_eq!(by_txid(&read), by_txid(&own));
        funded(&mut server.chain().lock().unwrap(), &wallet, 30_000 + n);
    }
    server.shutdown().await;
}
