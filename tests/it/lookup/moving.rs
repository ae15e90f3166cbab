//! A chain that moves while a DID is looked up.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A DID with an update that is six blocks deep.
async fn updated() -> (World, Controller, Wallet) {
    let world = World::new().await;
    let mut alice = Controller::key_based(Network::Regtest, 1);
    let wallet = Wallet::new(1);
    let update = alice.add_service("files");
    world.signal(&wallet, announcing(&update));
    world.mine(6);
    (world, alice, wallet)
}

/// Paths that start with this.
fn count(paths: &Mutex<Vec<String>>, start: &str) -> usize {
    let paths = paths.lock().unwrap();
    paths.iter().filter(|path| path.starts_with(start)).count()
}

#[tokio::test]
async fn a_reorganisation_between_two_scans_starts_again() {
    let (world, alice, wallet) = updated().await;
    let document = alice.document.clone();
    // After the address with the signal was read, the block with it goes away and the signal comes back
    // eight blocks higher.
    let chain = Arc::clone(&world.chain);
    let reorganisations = AtomicU32::new(0);
    let last = Controller::key_based(Network::Regtest, 1)
        .document
        .beacons()[0]
        .address
        .to_string();
    assert_ne!(last, wallet.address().to_string());
    let (url, paths) = watched(&world.server.url(), move |path| {
        let begins = path.starts_with("/block-height/") && path != "/block-height/0";
        if begins && reorganisations.fetch_add(1, Ordering::SeqCst) == 0 {
            let mut chain = chain.lock().unwrap();
            chain.invalidate_tip(6);
            chain.mine_empty(8);
            chain.mine(6);
        }
        None
    })
    .await;
    let found = resolved(ask(&alice, &Lookup::new(backend(&url))).await.unwrap());
    assert_eq!(found.document, document);
    assert_eq!(found.metadata.version_id, 2);
    assert_eq!(found.metadata.confirmations, 6);
    // Of the new chain, not of the one that was read first.
    let height = world.height() - 5;
    assert_eq!(found.metadata.updated, Some(world.time_of(height)));
    let scans = count(&paths, &format!("/address/{}", wallet.address()));
    assert!(scans > 2, "it was read again: {scans}");
}

#[tokio::test]
async fn a_reorganisation_that_takes_the_signal_away_takes_the_version_away() {
    let (world, alice, wallet) = updated().await;
    let chain = Arc::clone(&world.chain);
    let address = format!("/address/{}", wallet.address());
    let reads = AtomicU32::new(0);
    let (url, _) = watched(&world.server.url(), move |path| {
        // The signal is in the mempool again, after its address was read once.
        if path.starts_with(&address) {
            reads.fetch_add(1, Ordering::SeqCst);
        } else if reads.swap(0, Ordering::SeqCst) > 0 {
            let mut chain = chain.lock().unwrap();
            if chain.mempool_txids().is_empty() {
                chain.invalidate_tip(6);
                chain.mine_empty(7);
            }
        }
        None
    })
    .await;
    let resolution = ask(&alice, &Lookup::new(backend(&url))).await.unwrap();
    assert_eq!(resolved(resolution).metadata.version_id, 1);
}

#[tokio::test]
async fn a_block_that_is_added_does_not_start_it_again() {
    let (world, alice, wallet) = updated().await;
    let chain = Arc::clone(&world.chain);
    let address = format!("/address/{}", wallet.address());
    let mined = AtomicU32::new(0);
    let (url, paths) = watched(&world.server.url(), move |path| {
        if path.starts_with(&address) && mined.fetch_add(1, Ordering::SeqCst) == 0 {
            chain.lock().unwrap().mine(1);
        }
        None
    })
    .await;
    let found = resolved(ask(&alice, &Lookup::new(backend(&url))).await.unwrap());
    // As of the tip it began with.
    assert_eq!(found.metadata.confirmations, 6);
    assert_eq!(count(&paths, "/block-height/0"), 1);
    let later = resolved(ask(&alice, &Lookup::new(backend(&url))).await.unwrap());
    assert_eq!(later.metadata.confirmations, 7);
}

#[tokio::test]
async fn a_chain_that_does_not_settle_is_an_error() {
    let (world, alice, _) = updated().await;
    let chain = Arc::clone(&world.chain);
    let (url, paths) = watched(&world.server.url(), move |path| {
        if path.starts_with("/block-height/") && path != "/block-height/0" {
            let mut chain = chain.lock().unwrap();
            chain.invalidate_tip(1);
            chain.mine(2);
        }
        None
    })
    .await;
    let error = ask(&alice, &Lookup::new(backend(&url))).await.unwrap_err();
    assert!(
        matches!(&error, LookupError::Unsettled { attempts: 4, .. }),
        "{error}"
    );
    assert!(error.is_transient());
    assert_eq!(
        count(&paths, "/block-height/") - 1,
        4,
        "one check an attempt"
    );
}

#[tokio::test]
async fn a_part_of_the_server_that_lags_behind_is_asked_again() {
    let world = World::new().await;
    let (mut alice, _) = external(Network::Regtest, 8, &[]);
    let update = alice.add_service("files");
    world.signal(&Wallet::new(8), announcing(&update));
    let before = world.chain.lock().unwrap().tip().hash.to_string();
    world.mine(1);
    // After the tip was told, the only address is read where the last block is not known yet.
    let tips = AtomicU32::new(0);
    let (url, paths) = watched(&world.server.url(), move |path| {
        let is_tip = path == "/blocks/tip/hash";
        let told = tips.fetch_add(u32::from(is_tip), Ordering::SeqCst) + u32::from(is_tip);
        match told {
            2 | 3 if is_tip => Some(before.clone()),
            2 if path.starts_with("/address/") => Some("[]".to_owned()),
            _ => None,
        }
    })
    .await;
    let options = ResolutionOptions {
        min_conf: 1,
        ..ResolutionOptions::default()
    };
    let sidecar = alice.sidecar.clone();
    let found = Lookup::new(backend(&url))
        .resolve(alice.did(), options, sidecar, Strictness::default())
        .await;
    assert_eq!(resolved(found.unwrap()).metadata.version_id, 2);
    assert!(count(&paths, "/blocks/tip/hash") > 3, "it began again");
}
