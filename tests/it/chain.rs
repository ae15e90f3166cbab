//! The chain backends against the in-process regtest chain: over HTTP on loopback, as users have it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::key::{Keypair, TapTweak as _, TweakedKeypair};
use bitcoin::script::PushBytesBuf;
use bitcoin::secp256k1::{Message, SECP256K1, SecretKey};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, FeeRate, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid,
    Witness,
};
use btcr2_agent::chain::{
    AddressHistory, BroadcastError, ChainBackend, ChainError, FundError, RegtestChain,
    RegtestServer, Reject, Rejection, ServerError, ServerSettings, TxStatus, stepping_clock,
};
use btcr2_agent::network::Network;
use btcr2_agent::time::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const START: UnixTime = UnixTime(1_760_000_000);
const LOCALHOST: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn chain() -> RegtestChain {
    RegtestChain::new(stepping_clock(START, 30))
}

async fn serve(settings: ServerSettings) -> (RegtestServer, ChainBackend) {
    let server = RegtestServer::serve(LOCALHOST, chain(), settings)
        .await
        .unwrap();
    let backend = ChainBackend::esplora(&server.url(), Duration::from_secs(10)).unwrap();
    (server, backend)
}

fn sat(value: u64) -> Amount {
    Amount::from_sat(value)
}

/// A taproot output that one key spends by the key path, and what it may be used for.
struct Wallet {
    tweaked: TweakedKeypair,
}

impl Wallet {
    fn new(seed: u8) -> Self {
        let secret = SecretKey::from_slice(&[seed; 32]).unwrap();
        let tweaked = Keypair::from_secret_key(SECP256K1, &secret).tap_tweak(SECP256K1, None);
        Self { tweaked }
    }

    fn script(&self) -> ScriptBuf {
        ScriptBuf::new_p2tr_tweaked(self.tweaked.public_parts().0)
    }

    fn address(&self) -> Address {
        Address::from_script(&self.script(), bitcoin::Network::Regtest).unwrap()
    }

    /// Spends `inputs` to `outputs`, signed.
    fn spend(&self, inputs: &[(OutPoint, TxOut)], outputs: Vec<TxOut>) -> Transaction {
        self.spend_with(
            inputs,
            outputs,
            Sequence::ENABLE_RBF_NO_LOCKTIME,
            LockTime::ZERO,
        )
    }

    fn spend_with(
        &self,
        inputs: &[(OutPoint, TxOut)],
        outputs: Vec<TxOut>,
        sequence: Sequence,
        lock_time: LockTime,
    ) -> Transaction {
        let mut tx = Transaction {
            version: Version::TWO,
            lock_time,
            input: inputs
                .iter()
                .map(|(outpoint, _)| TxIn {
                    previous_output: *outpoint,
                    script_sig: ScriptBuf::new(),
                    sequence,
                    witness: Witness::new(),
                })
                .collect(),
            output: outputs,
        };
        let prevouts: Vec<TxOut> = inputs.iter().map(|(_, output)| output.clone()).collect();
        self.sign(&mut tx, &prevouts);
        tx
    }

    fn sign(&self, tx: &mut Transaction, prevouts: &[TxOut]) {
        for index in 0..prevouts.len() {
            let sighash = SighashCache::new(&*tx)
                .taproot_key_spend_signature_hash(
                    index,
                    &Prevouts::All(prevouts),
                    TapSighashType::Default,
                )
                .unwrap();
            let message = Message::from_digest(sighash.to_byte_array());
            let signature =
                SECP256K1.sign_schnorr_no_aux_rand(&message, &self.tweaked.to_keypair());
            tx.input[index].witness = Witness::from_slice(&[signature.as_ref()]);
        }
    }
}

fn pay(script: ScriptBuf, value: u64) -> TxOut {
    TxOut {
        value: sat(value),
        script_pubkey: script,
    }
}

fn signal_output(bytes: [u8; 32]) -> TxOut {
    pay(ScriptBuf::new_op_return(PushBytesBuf::from(bytes)), 0)
}

/// A confirmed output of `value` at `wallet`.
fn funded(chain: &mut RegtestChain, wallet: &Wallet, value: u64) -> (OutPoint, TxOut) {
    let outpoint = chain.fund(&wallet.script(), sat(value)).unwrap();
    chain.mine(1);
    (outpoint, pay(wallet.script(), value))
}

fn by_txid(history: &AddressHistory) -> HashMap<Txid, (Transaction, Option<u32>)> {
    let map: HashMap<_, _> = history
        .txs
        .iter()
        .map(|entry| (entry.tx.compute_txid(), (entry.tx.clone(), entry.height)))
        .collect();
    assert_eq!(
        map.len(),
        history.txs.len(),
        "a transaction is listed twice"
    );
    map
}

// ---- the chain itself ----

#[test]
fn the_same_calls_give_the_same_chain_and_blocks_are_well_formed() {
    let build = || {
        let mut chain = chain();
        let wallet = Wallet::new(7);
        let (input, output) = funded(&mut chain, &wallet, 90_000);
        let tx = wallet.spend(&[(input, output)], vec![pay(wallet.script(), 80_000)]);
        chain.submit(&tx).unwrap();
        chain.mine(2);
        chain
    };
    let chain = build();
    assert_eq!(chain.tip(), build().tip());
    let genesis = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
    assert_eq!(chain.block(0), Some(&genesis));
    for height in 1..=chain.height() {
        let block = chain.block(height).unwrap();
        let previous = chain.block(height - 1).unwrap().block_hash();
        assert_eq!(block.header.prev_blockhash, previous);
        block.header.validate_pow(block.header.target()).unwrap();
        assert!(block.check_merkle_root());
        assert!(block.check_witness_commitment());
    }
    assert_eq!(chain.block(chain.height() + 1), None);
}

#[test]
fn the_median_time_is_that_of_the_last_eleven_blocks() {
    let mut chain = chain();
    // The blocks at birth are ten minutes apart and end at START.
    assert_eq!(chain.tip().median_time, START.minus(5 * 600));
    chain.mine(11);
    // Eleven blocks at START + 30, + 60, … + 330; the median is the sixth.
    assert_eq!(chain.tip().median_time, START.plus(6 * 30));

    // A clock that stands still: each block is still later than the median of those before it.
    let mut still = RegtestChain::new(stepping_clock(START, 0));
    for _ in 0..40 {
        let before = still.tip().median_time;
        still.mine(1);
        let time = still.block(still.height()).unwrap().header.time;
        assert!(u64::from(time) > before.0);
    }
}

#[test]
fn a_taproot_key_path_spend_is_accepted_and_one_flipped_bit_is_not() {
    let mut chain = chain();
    let wallet = Wallet::new(1);
    let a = funded(&mut chain, &wallet, 50_000);
    let b = funded(&mut chain, &wallet, 60_000);
    let good = wallet.spend(
        &[a, b],
        vec![pay(wallet.script(), 100_000), signal_output([9; 32])],
    );
    for (input, byte) in [(0, 0), (0, 63), (1, 31)] {
        let mut bad = good.clone();
        let mut signature = bad.input[input].witness.to_vec().remove(0);
        signature[byte] ^= 1;
        bad.input[input].witness = Witness::from_slice(&[signature]);
        assert_eq!(chain.submit(&bad), Err(Reject::Script { input }));
    }
    // The signature commits to every output's bytes.
    let mut other_signal = good.clone();
    other_signal.output[1] = signal_output([8; 32]);
    assert_eq!(
        chain.submit(&other_signal),
        Err(Reject::Script { input: 0 })
    );

    let txid = chain.submit(&good).unwrap();
    chain.mine(1);
    assert_eq!(
        chain.transaction(&txid),
        Some(&good),
        "witness and OP_RETURN included"
    );
    assert_eq!(
        chain.tx_status(&txid),
        TxStatus::Confirmed {
            height: chain.height(),
            hash: chain.tip().hash
        }
    );
    assert_eq!(
        chain.unspent(&OutPoint::new(txid, 0)),
        Some(good.output[0].clone())
    );
    assert_eq!(
        chain.unspent(&OutPoint::new(txid, 1)),
        None,
        "OP_RETURN cannot be spent"
    );
}

#[test]
fn what_bitcoin_core_refuses_is_refused_in_its_words() {
    let mut chain = chain();
    let wallet = Wallet::new(2);
    let coin = funded(&mut chain, &wallet, 50_000);
    let to = |value| pay(wallet.script(), value);
    let inputs = std::slice::from_ref(&coin);
    let coinbase = chain.block(chain.height()).unwrap().txdata[0].clone();
    let missing = (
        OutPoint::new(Txid::from_byte_array([3; 32]), 0),
        coin.1.clone(),
    );
    let version = |version, mut tx: Transaction| {
        tx.version = Version(version);
        wallet.sign(&mut tx, std::slice::from_ref(&coin.1));
        tx
    };
    let next = chain.height() + 1;
    let height_lock = |height| LockTime::from_height(height).unwrap();
    let non_final = Sequence::ENABLE_LOCKTIME_NO_RBF;
    let locked = |sequence, lock| wallet.spend_with(inputs, vec![to(49_000)], sequence, lock);
    let after_median = u32::try_from(chain.tip().median_time.0).unwrap();

    let cases: Vec<(Transaction, &str)> = vec![
        (wallet.spend(inputs, vec![]), "bad-txns-vout-empty"),
        (wallet.spend(&[], vec![to(1000)]), "bad-txns-vin-empty"),
        (
            wallet.spend(inputs, vec![to(50_001)]),
            "bad-txns-in-belowout",
        ),
        (
            wallet.spend(inputs, vec![to(Amount::MAX_MONEY.to_sat() + 1)]),
            "bad-txns-vout-toolarge",
        ),
        (
            wallet.spend(inputs, vec![to(Amount::MAX_MONEY.to_sat()), to(1)]),
            "bad-txns-txouttotal-toolarge",
        ),
        (
            wallet.spend(&[coin.clone(), coin.clone()], vec![to(40_000)]),
            "bad-txns-inputs-duplicate",
        ),
        (coinbase.clone(), "coinbase"),
        (
            wallet.spend(&[missing], vec![to(40_000)]),
            "bad-txns-inputs-missingorspent",
        ),
        (
            version(4, wallet.spend(inputs, vec![to(40_000)])),
            "version",
        ),
        (wallet.spend(inputs, vec![to(329), to(40_000)]), "dust"),
        (
            wallet.spend(
                inputs,
                vec![to(40_000), signal_output([1; 32]), signal_output([2; 32])],
            ),
            "multi-op-return",
        ),
        (
            wallet.spend(
                inputs,
                vec![pay(ScriptBuf::from_bytes(vec![0x51; 9]), 40_000)],
            ),
            "scriptpubkey",
        ),
        (
            wallet.spend(
                inputs,
                vec![pay(
                    ScriptBuf::new_op_return(PushBytesBuf::try_from(vec![0; 82]).unwrap()),
                    0,
                )],
            ),
            "scriptpubkey",
        ),
        (
            wallet.spend(inputs, vec![to(50_000)]),
            "min relay fee not met, 0 < 111",
        ),
        (
            wallet.spend(inputs, vec![to(49_890)]),
            "min relay fee not met, 110 < 111",
        ),
        (locked(non_final, height_lock(next)), "non-final"),
        (
            locked(non_final, LockTime::from_time(after_median).unwrap()),
            "non-final",
        ),
        (
            locked(Sequence::from_height(2), LockTime::ZERO),
            "non-BIP68-final",
        ),
        (
            locked(Sequence::from_512_second_intervals(9), LockTime::ZERO),
            "non-BIP68-final",
        ),
    ];
    for (tx, reason) in cases {
        assert_eq!(chain.submit(&tx).unwrap_err().to_string(), reason);
    }
    assert!(chain.mempool_txids().is_empty());

    // Each rule's other side, so that none of them simply refuses everything.
    for tx in [
        locked(non_final, height_lock(next - 1)),
        locked(non_final, LockTime::from_time(after_median - 1).unwrap()),
        locked(Sequence::MAX, height_lock(next + 100)),
        locked(Sequence::from_height(1), LockTime::ZERO),
        wallet.spend(inputs, vec![to(49_889)]),
        wallet.spend(inputs, vec![to(330), to(40_000), signal_output([1; 32])]),
        version(1, locked(Sequence::from_height(2), LockTime::ZERO)),
    ] {
        let txid = chain.submit(&tx).unwrap();
        assert!(chain.evict(&txid));
    }
}

#[test]
fn a_coinbase_cannot_be_spent_before_a_hundred_blocks() {
    let mut chain = chain();
    let spend = |chain: &RegtestChain, height: u32| Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(
                chain.block(height).unwrap().txdata[0].compute_txid(),
                0,
            ),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[[0x51u8]]),
        }],
        output: vec![pay(Wallet::new(1).script(), 4_999_990_000)],
    };
    let next = chain.height() + 1;
    let young = spend(&chain, next - 99);
    assert_eq!(
        chain.submit(&young).unwrap_err().to_string(),
        "bad-txns-premature-spend-of-coinbase"
    );
    chain.submit(&spend(&chain, next - 100)).unwrap();
}

#[test]
fn a_double_spend_is_refused_and_replacement_follows_bip_125() {
    let mut chain = chain();
    let wallet = Wallet::new(3);
    let coin = funded(&mut chain, &wallet, 100_000);
    let other = funded(&mut chain, &wallet, 100_000);
    let inputs = std::slice::from_ref(&coin);
    let paying = |fee: u64| wallet.spend(inputs, vec![pay(wallet.script(), 100_000 - fee)]);

    let first = paying(1_000);
    let first_txid = chain.submit(&first).unwrap();
    assert_eq!(chain.submit(&first), Err(Reject::AlreadyInMempool));
    let child = wallet.spend(
        &[(OutPoint::new(first_txid, 0), first.output[0].clone())],
        vec![pay(wallet.script(), 98_000)],
    );
    let child_txid = chain.submit(&child).unwrap();

    // Higher rate, but less than both it evicts; then enough, but not for its own relay.
    for fee in [999, 1_001, 1_500, 2_000, 2_110] {
        let error = chain.submit(&paying(fee)).unwrap_err();
        assert!(
            matches!(error, Reject::ReplacementFee { .. }),
            "{fee}: {error}"
        );
        assert!(error.to_string().starts_with("insufficient fee"));
    }
    assert_eq!(chain.mempool_txids(), [first_txid, child_txid]);
    // Enough fee, but a lower rate than the one it replaces: many outputs make it large.
    let mut many: Vec<TxOut> = (0..60).map(|_| pay(wallet.script(), 400)).collect();
    many.push(pay(wallet.script(), 100_000 - 60 * 400 - 8_000));
    let error = chain.submit(&wallet.spend(inputs, many)).unwrap_err();
    assert!(error.to_string().contains("fee rate"), "{error}");

    let second_txid = chain.submit(&paying(2_111)).unwrap();
    assert_eq!(
        chain.mempool_txids(),
        [second_txid],
        "the child went with its parent"
    );
    assert_eq!(chain.tx_status(&child_txid), TxStatus::NotFound);

    // One that does not signal stays, whatever is offered.
    let fixed = |fee: u64| {
        let outputs = vec![pay(wallet.script(), 100_000 - fee)];
        wallet.spend_with(
            std::slice::from_ref(&other),
            outputs,
            Sequence::MAX,
            LockTime::ZERO,
        )
    };
    chain.submit(&fixed(500)).unwrap();
    assert_eq!(chain.submit(&fixed(90_000)), Err(Reject::Conflict));

    chain.mine(1);
    assert_eq!(chain.submit(&paying(5_000)), Err(Reject::MissingInputs));
    assert_eq!(chain.submit(&paying(2_111)), Err(Reject::AlreadyInChain));
}

#[test]
fn a_reorganisation_returns_transactions_to_the_mempool() {
    let mut chain = chain();
    let wallet = Wallet::new(4);
    let coin = funded(&mut chain, &wallet, 100_000);
    let first = wallet.spend(
        std::slice::from_ref(&coin),
        vec![pay(wallet.script(), 99_000), signal_output([1; 32])],
    );
    let first_txid = chain.submit(&first).unwrap();
    let before = chain.tip();
    let confirmed_in = chain.mine(1)[0];
    let second = wallet.spend(
        &[(OutPoint::new(first_txid, 0), first.output[0].clone())],
        vec![pay(wallet.script(), 98_000), signal_output([2; 32])],
    );
    let second_txid = chain.submit(&second).unwrap();
    chain.mine(1);
    let height = chain.height();

    assert_eq!(chain.invalidate_tip(2), 2);
    assert_eq!(chain.tip(), before);
    assert_eq!(chain.mempool_txids(), [first_txid, second_txid]);
    assert_eq!(chain.tx_status(&first_txid), TxStatus::Mempool);
    let history = chain.history(&wallet.script());
    let heights: Vec<_> = history.txs.iter().map(|entry| entry.height).collect();
    assert_eq!(heights, [Some(before.height), None, None]);

    // The other branch is longer and does not have them.
    chain.mine_empty(3);
    assert_eq!(chain.height(), height + 1);
    assert_ne!(
        chain.block(before.height + 1).unwrap().block_hash(),
        confirmed_in
    );
    assert_eq!(chain.tx_status(&second_txid), TxStatus::Mempool);
    // On it a conflicting transaction may win.
    let winner = wallet.spend(&[coin], vec![pay(wallet.script(), 50_000)]);
    let winner_txid = chain.submit(&winner).unwrap();
    chain.mine(1);
    assert!(matches!(
        chain.tx_status(&winner_txid),
        TxStatus::Confirmed { .. }
    ));
    assert_eq!(chain.tx_status(&first_txid), TxStatus::NotFound);
    assert_eq!(chain.tx_status(&second_txid), TxStatus::NotFound);
    assert_eq!(chain.submit(&second), Err(Reject::MissingInputs));
}

#[test]
fn undoing_everything_leaves_the_genesis_block_and_no_coins() {
    let mut chain = chain();
    let wallet = Wallet::new(5);
    let coin = funded(&mut chain, &wallet, 100_000);
    let height = chain.height();
    assert_eq!(chain.invalidate_tip(u32::MAX), height);
    assert_eq!(chain.height(), 0);
    // The funding spent a coinbase that no longer exists.
    assert!(chain.mempool_txids().is_empty());
    assert_eq!(chain.unspent(&coin.0), None);
    assert!(chain.history(&wallet.script()).txs.is_empty());
    let error = chain.fund(&wallet.script(), sat(10_000)).unwrap_err();
    assert!(matches!(
        error,
        FundError::Empty {
            available: Amount::ZERO,
            ..
        }
    ));
    chain.mine(101);
    chain.fund(&wallet.script(), sat(10_000)).unwrap();
}

#[test]
fn the_faucet_combines_coins_and_lives_on_its_change() {
    let mut chain = chain();
    let wallet = Wallet::new(6);
    // More than one coinbase, more often than there are mature ones.
    let large = chain
        .fund(&wallet.script(), Amount::from_int_btc(120))
        .unwrap();
    assert_eq!(chain.transaction(&large.txid).unwrap().input.len(), 3);
    for n in 0..30 {
        chain.fund(&wallet.script(), sat(10_000 + n)).unwrap();
    }
    assert_eq!(chain.mempool_txids().len(), 31);
    chain.mine(1);
    assert!(chain.mempool_txids().is_empty());
    let history = chain.history(&wallet.script());
    assert_eq!(history.txs.len(), 31);
    assert!(matches!(
        chain.fund(&wallet.script(), sat(329)),
        Err(FundError::Rejected(Reject::Invalid("dust")))
    ));
}

// ---- the Esplora backend over loopback ----

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

    assert_eq!(client.get_tx(&txid).await.unwrap().as_ref(), Some(spend));
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
    assert_eq!(waiting[0].to_tx(), *spend);
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

// ---- servers that err ----

/// Changes what the regtest server answered: path in, JSON of the answer in and out.
type Tamper = Arc<dyn Fn(&str, serde_json::Value) -> serde_json::Value + Send + Sync>;

/// A server that passes requests on to `server` and tampers with histories on the way back.
async fn tampering(
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

/// A server whose wallet got `payments` payments and spent one of them.
async fn busy_server(wallet: &Wallet, payments: u64) -> RegtestServer {
    let (server, _) = serve(ServerSettings::default()).await;
    let chain = server.chain();
    let mut chain = chain.lock().unwrap();
    let coins: Vec<_> = (0..payments)
        .map(|n| funded(&mut chain, wallet, 50_000 + n))
        .collect();
    let spend = wallet.spend(
        &coins[..1],
        vec![pay(wallet.script(), 40_000), signal_output([4; 32])],
    );
    chain.submit(&spend).unwrap();
    chain.mine(1);
    server
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

/// The body of the answer, which must be a success, to a request without a body.
async fn http(method: &str, url: &str) -> String {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut socket = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

async fn post(url: &str) -> serde_json::Value {
    serde_json::from_str(&http("POST", url).await).unwrap()
}
