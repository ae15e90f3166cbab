//! A node that restarts, lacks an index, is pruned, or does not let one in.

use bitcoin::Amount;
use btcr2_agent::chain::{ChainBackend, ChainError, CoreLogin, TxStatus};

use super::{Node, PATIENCE};
use crate::chain::{Wallet, pay, signal_output};

/// The same backend before, during and after: the node's cookie is another one then.
#[tokio::test]
async fn a_restart_in_the_middle_of_polling() {
    let Some(mut node) = Node::start(&[]).await else {
        return;
    };
    let (backend, wallet) = (node.backend(), Wallet::new(61));
    let output = node
        .node
        .fund(&wallet.script(), Amount::from_sat(60_000))
        .unwrap();
    node.node.mine(1).unwrap();
    let tx = wallet.spend(
        &[(output, pay(wallet.script(), 60_000))],
        vec![pay(wallet.script(), 59_000), signal_output([1; 32])],
    );
    backend.broadcast(&tx).await.unwrap();
    let before = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(before.txs.len(), 2);

    node.node.halt().await.unwrap();
    let error = backend
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    let error = backend.broadcast(&tx).await.unwrap_err();
    assert_eq!(error.rejection(), None, "{error}");

    node.node.resume().await.unwrap();
    let after = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(after, before, "the node keeps its mempool");
    node.node.mine(1).unwrap();
    assert!(matches!(
        backend.tx_status(tx.compute_txid()).await.unwrap(),
        TxStatus::Confirmed { .. }
    ));
    assert_eq!(
        backend
            .address_history(&wallet.address())
            .await
            .unwrap()
            .txs[1]
            .height,
        Some(112)
    );
}

#[tokio::test]
async fn a_node_without_filter_index_serves_short_chains_and_then_says_what_it_lacks() {
    let Some(node) = Node::start(&["-blockfilterindex=0", "-txindex=0"]).await else {
        return;
    };
    let (backend, wallet) = (node.backend(), Wallet::new(62));
    let output = node
        .node
        .fund(&wallet.script(), Amount::from_sat(60_000))
        .unwrap();
    node.node.mine(1).unwrap();
    let history = backend.address_history(&wallet.address()).await.unwrap();
    assert_eq!(history.txs.len(), 1);
    // Not known from an address that was read, but unspent.
    assert!(matches!(
        node.backend().tx_status(output.txid).await.unwrap(),
        TxStatus::Confirmed { height: 111, .. }
    ));
    let coinbase = node.node.block(7).unwrap().txdata[0].compute_txid();
    assert!(matches!(
        node.backend().tx_status(coinbase).await.unwrap(),
        TxStatus::Confirmed { height: 7, .. }
    ));
    let spent = node.node.block(111).unwrap().txdata[1].input[0]
        .previous_output
        .txid;
    let error = node.backend().tx_status(spent).await.unwrap_err();
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
    node.node.mine(5_000).unwrap();
    let error = backend
        .address_history(&wallet.address())
        .await
        .unwrap_err();
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
    assert!(
        error.to_string().contains("set blockfilterindex=1"),
        "{error}"
    );
}

#[tokio::test]
async fn a_pruned_node_names_the_block_that_is_gone() {
    // The smallest block files, so that little has to be mined before one can go.
    let options = ["-txindex=0", "-prune=1", "-fastprune"];
    let Some(node) = Node::start(&options).await else {
        return;
    };
    let wallet = Wallet::new(63);
    node.node
        .fund(&wallet.script(), Amount::from_sat(60_000))
        .unwrap();
    let paid = node.node.mine(1).unwrap();
    let knowing = node.backend();
    knowing.address_history(&wallet.address()).await.unwrap();
    node.node.mine(900).unwrap();
    let pruned: u32 = node
        .node
        .call("pruneblockchain", serde_json::json!([500]))
        .unwrap();
    assert!(pruned >= paid, "pruned up to {pruned}");
    let error = node
        .backend()
        .address_history(&wallet.address())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ChainError::Pruned { height, .. } if height == paid),
        "{error}"
    );
    // What was read before goes on.
    let history = knowing.address_history(&wallet.address()).await.unwrap();
    assert_eq!((history.txs.len(), history.tip_height), (1, paid + 900));
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let Some(node) = Node::start(&[]).await else {
        return;
    };
    let login = CoreLogin::Password {
        user: "alice".to_owned(),
        password: "hunter2".to_owned().into(),
    };
    let backend = ChainBackend::core(node.node.url(), login, PATIENCE).unwrap();
    let error = backend.tip().await.unwrap_err();
    assert!(matches!(error, ChainError::Login { .. }), "{error}");
    assert!(!format!("{error} {error:?} {backend:?}").contains("hunter2"));
}
