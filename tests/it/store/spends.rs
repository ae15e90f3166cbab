//! Signals of singleton beacons: stored before they are sent, never changed, and open until the chain has decided.

use btcr2_agent::store::{SpendRow, SpendStanding, SpendState, Store, StoreError};

use super::*;

fn spend(n: u8, target_version: u64) -> SpendRow {
    SpendRow {
        txid: txid(n),
        did: DID.to_owned(),
        target_version,
        service: format!("{DID}#initialP2TR"),
        address: "bcrt1p".to_owned(),
        raw: vec![n; 3],
        fee: 300 + u64::from(n),
        standing: SpendStanding::signed(),
        created: NOW,
    }
}

#[test]
fn a_spend_keeps_its_bytes_and_moves_with_the_chain() {
    let mut store = Store::open_in_memory().unwrap();
    let unknown = store.transaction(|tx| tx.insert_spend(&spend(1, 2)));
    assert!(
        matches!(unknown, Err(StoreError::Rule { .. })),
        "{unknown:?}"
    );
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.insert_spend(&spend(1, 2))?;
            tx.insert_spend(&spend(2, 2))?;
            tx.insert_spend(&spend(3, 3))
        })
        .unwrap();
    let view = store.view();
    assert_eq!(view.spend(txid(1)).unwrap(), Some(spend(1, 2)));
    assert_eq!(view.spends_of(DID, 2).unwrap(), [spend(1, 2), spend(2, 2)]);
    assert_eq!(view.open_spends().unwrap().len(), 3);

    for state in [
        SpendState::Broadcast,
        SpendState::Confirmed,
        SpendState::Final,
        SpendState::Dead,
        SpendState::Conflicted,
        SpendState::Signed,
    ] {
        let standing = SpendStanding {
            state,
            height: (state != SpendState::Signed).then_some(7),
            conflict: (state == SpendState::Conflicted).then(|| txid(9)),
            reason: Some("why".to_owned()),
        };
        store
            .transaction(|tx| {
                tx.set_spend(txid(1), &standing)?;
                // Stored again, as after a restart: it stands where it stood.
                tx.insert_spend(&spend(1, 2))
            })
            .unwrap();
        let stored = store.view().spend(txid(1)).unwrap().unwrap();
        assert_eq!(
            stored,
            SpendRow {
                standing,
                ..spend(1, 2)
            }
        );
        let open = store.view().open_spends().unwrap();
        assert_eq!(open.contains(&stored), !state.is_over(), "{state:?}");
    }
    let missing = store.transaction(|tx| tx.set_spend(txid(8), &SpendStanding::signed()));
    assert!(
        matches!(missing, Err(StoreError::Missing { .. })),
        "{missing:?}"
    );
}

#[test]
fn a_signed_transaction_is_not_changed_or_deleted_by_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut store = Store::open(&path).unwrap();
    store
        .transaction(|tx| {
            tx.put_did(&did())?;
            tx.insert_spend(&spend(1, 2))
        })
        .unwrap();
    drop(store);
    let conn = rusqlite::Connection::open(&path).unwrap();
    for forbidden in [
        "UPDATE singleton_spends SET raw = x'00'",
        "UPDATE singleton_spends SET target_version = 3",
        "DELETE FROM singleton_spends",
    ] {
        let error = conn.execute(forbidden, []).unwrap_err().to_string();
        assert!(error.contains("a signed transaction"), "{error}");
    }
    conn.execute("UPDATE singleton_spends SET state = 'broadcast'", [])
        .unwrap();
}
