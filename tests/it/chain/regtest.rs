//! The in-process regtest chain by itself.

use super::*;

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
fn a_block_mined_again_is_another_block() {
    // Same height, same time, same content.
    let mut chain = RegtestChain::new(stepping_clock(START, 0));
    let first = chain.mine_empty(1);
    chain.invalidate_tip(1);
    assert_ne!(chain.mine_empty(1), first);
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
