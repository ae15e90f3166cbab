//! The Bitcoin Core backend against the node, and an Esplora server that repeats the node's blocks.

use bitcoin::{Amount, FeeRate, OutPoint, Transaction};
use btcr2_agent::chain::{
    AddressHistory, BroadcastError, ChainBackend, ChainError, CoreBackend, Rejection, TxStatus,
};
use btcr2_agent::network::Network;

use super::{Node, PATIENCE};
use crate::chain::{Wallet, by_txid, pay, signal_output};

/// A confirmed output of `value` at the wallet.
fn funded(node: &Node, wallet: &Wallet, value: u64) -> (OutPoint, bitcoin::TxOut) {
    let output = node
        .node
        .fund(&wallet.script(), Amount::from_sat(value))
        .unwrap();
    node.node.mine(1).unwrap();
    (output, pay(wallet.script(), value))
}

fn signal(wallet: &Wallet, coin: &(OutPoint, bitcoin::TxOut), fee: u64, bytes: u8) -> Transaction {
    let rest = coin.1.value.to_sat() - fee;
    wallet.spend(
        std::slice::from_ref(coin),
        vec![pay(wallet.script(), rest), signal_output([bytes; 32])],
    )
}

/// What the node's own commands say of the address is what the backend says.
async fn checked(node: &Node, backend: &ChainBackend, wallet: &Wallet) -> AddressHistory {
    let read = backend.address_history(&wallet.address()).await.unwrap();
    let own = node.node.history(&wallet.script()).unwrap();
    let own: std::collections::HashMap<_, _> = own
        .into_iter()
        .map(|entry| (entry.tx.compute_txid(), ((*entry.tx).clone(), entry.height)))
        .collect();
    assert_eq!(by_txid(&read), own);
    assert_eq!(read.tip_height, node.node.height().unwrap());
    for entry in &read.txs {
        let txid = entry.tx.compute_txid();
        match (backend.tx_status(txid).await.unwrap(), entry.height) {
            (TxStatus::Mempool, None) => {}
            (TxStatus::Confirmed { height, hash }, Some(at)) => {
                assert_eq!(height, at);
                assert_eq!(read.blocks[&height], hash);
                assert_eq!(node.node.block(height).unwrap().block_hash(), hash);
            }
            other => panic!("{txid}: {other:?}"),
        }
    }
    read
}

fn heights(history: &AddressHistory) -> Vec<Option<u32>> {
    history.txs.iter().map(|entry| entry.height).collect()
}

/// One that drops a signal, and one that replaces it by another.
#[tokio::test]
async fn histories_follow_reorganisations() {
    // Below and above the length from which on the node scans by itself.
    for blocks in [0, 700] {
        let Some(node) = Node::start(&[]).await else {
            return;
        };
        let backend = node.backend();
        let wallet = Wallet::new(51);
        backend.prove_network(Network::Regtest).await.unwrap();
        assert!(matches!(
            backend.prove_network(Network::Testnet4).await,
            Err(ChainError::WrongNetwork { .. })
        ));
        node.node.mine(blocks).unwrap();
        assert!(checked(&node, &backend, &wallet).await.txs.is_empty());
        let coin = funded(&node, &wallet, 100_000);
        assert_eq!(checked(&node, &backend, &wallet).await.txs.len(), 1);
        let first = signal(&wallet, &coin, 1_000, 1);
        backend.broadcast(&first).await.unwrap();
        backend
            .broadcast(&first)
            .await
            .expect("already in the mempool");
        let base = node.node.height().unwrap();
        assert_eq!(
            heights(&checked(&node, &backend, &wallet).await),
            [Some(base), None]
        );
        node.node.mine(1).unwrap();
        let confirmed = checked(&node, &backend, &wallet).await;
        assert_eq!(heights(&confirmed), [Some(base), Some(base + 1)]);
        backend.broadcast(&first).await.expect("already in a block");

        // Dropped: the branch that wins does not have it.
        node.node.undo(1).unwrap();
        node.node.mine_empty(2).unwrap();
        let dropped = checked(&node, &backend, &wallet).await;
        assert_eq!(heights(&dropped), [Some(base), None]);
        assert_eq!(dropped.tip_height, base + 2);

        // Back in a block, and then replaced: the branch that wins has another signal in its place.
        node.node.mine(1).unwrap();
        assert_eq!(
            heights(&checked(&node, &backend, &wallet).await),
            [Some(base), Some(base + 3)]
        );
        node.node.undo(1).unwrap();
        let second = signal(&wallet, &coin, 5_000, 2);
        backend
            .broadcast(&second)
            .await
            .expect("it pays more than the one it replaces");
        node.node.mine(1).unwrap();
        let replaced = checked(&node, &backend, &wallet).await;
        assert_eq!(heights(&replaced), [Some(base), Some(base + 3)]);
        assert_eq!(*replaced.txs[1].tx, second);
        let error = backend.broadcast(&first).await.unwrap_err();
        assert_eq!(
            error.rejection(),
            Some(Rejection::InputsMissingOrSpent),
            "{error}"
        );
        // A backend that never saw any of this says the same.
        assert_eq!(
            node.backend()
                .address_history(&wallet.address())
                .await
                .unwrap(),
            replaced
        );
    }
}

/// The node's reasons, and what they mean to who sent the transaction.
#[tokio::test]
async fn a_rejection_says_what_can_be_done() {
    let Some(node) = Node::start(&[]).await else {
        return;
    };
    let (backend, wallet) = (node.backend(), Wallet::new(53));
    let coin = funded(&node, &wallet, 100_000);
    let broadcast = async |tx: &Transaction| -> Rejection {
        let error = backend.broadcast(tx).await.unwrap_err();
        let BroadcastError::Rejected { txid, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*txid, tx.compute_txid());
        error.rejection().unwrap()
    };
    let free = signal(&wallet, &coin, 1, 1);
    assert_eq!(broadcast(&free).await, Rejection::FeeTooLow);
    let mut forged = signal(&wallet, &coin, 1_000, 1);
    let mut signature = forged.input[0].witness.to_vec().remove(0);
    signature[9] ^= 1;
    forged.input[0].witness = bitcoin::Witness::from_slice(&[signature]);
    assert_eq!(broadcast(&forged).await, Rejection::Invalid);
    let early = wallet.spend_with(
        std::slice::from_ref(&coin),
        vec![pay(wallet.script(), 90_000)],
        bitcoin::Sequence::from_height(1_008),
        bitcoin::absolute::LockTime::ZERO,
    );
    assert_eq!(broadcast(&early).await, Rejection::NotYet);
    backend
        .broadcast(&signal(&wallet, &coin, 1_000, 1))
        .await
        .unwrap();
    let cheap = signal(&wallet, &coin, 1_001, 2);
    assert_eq!(broadcast(&cheap).await, Rejection::FeeTooLow);
    node.node.mine(1).unwrap();
    assert_eq!(broadcast(&cheap).await, Rejection::InputsMissingOrSpent);
}

#[tokio::test]
async fn fees_and_balances() {
    let Some(node) = Node::start(&[]).await else {
        return;
    };
    let wallet = Wallet::new(54);
    // A node that has seen no fees has no estimate.
    assert_eq!(node.backend().fee_rate(6).await.unwrap(), None::<FeeRate>);
    let core = CoreBackend::new(node.node.url(), node.node.login().clone(), PATIENCE).unwrap();
    funded(&node, &wallet, 12_345);
    let coin = funded(&node, &wallet, 50_000);
    assert_eq!(
        core.balance(&wallet.address()).await.unwrap(),
        Amount::from_sat(62_345)
    );
    let spend = wallet.spend(&[coin], vec![pay(Wallet::new(55).script(), 49_000)]);
    node.backend().broadcast(&spend).await.unwrap();
    assert_eq!(
        core.balance(&wallet.address()).await.unwrap(),
        Amount::from_sat(62_345),
        "blocks only"
    );
    node.node.mine(1).unwrap();
    assert_eq!(
        core.balance(&wallet.address()).await.unwrap(),
        Amount::from_sat(12_345)
    );
}

/// An address with 1000 outputs costs requests by the blocks it is in, and next to nothing when asked again.
#[tokio::test]
async fn a_thousand_outputs_take_few_requests() {
    let Some(node) = Node::start(&[]).await else {
        return;
    };
    let wallet = Wallet::new(56);
    let coin = funded(&node, &wallet, 10_000_000);
    let mut outputs = vec![pay(wallet.script(), 1_000); 999];
    outputs.push(pay(wallet.script(), 8_000_000));
    node.backend()
        .broadcast(&wallet.spend(&[coin], outputs))
        .await
        .unwrap();
    node.node.mine(600).unwrap();
    let core = CoreBackend::new(node.node.url(), node.node.login().clone(), PATIENCE).unwrap();
    let backend = ChainBackend::Core(core.clone());
    let read = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(read.txs.len(), 2);
    assert!(core.requests() < 16, "{}", core.requests());
    let before = core.requests();
    backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(core.requests() - before, 3);
    node.node.mine(1).unwrap();
    let before = core.requests();
    backend.address_history(&wallet.address()).await.unwrap();
    let after_a_block = core.requests() - before;
    assert!(after_a_block <= 9, "{after_a_block}");
}
