//! From chain and sidecar to the document.

use btcr2_agent::chain::ChainError;
use btcr2_agent::did::{ErrorCode, PatchBuilder};
use btcr2_agent::resolver::{Said, VersionChoice, WalkStep};

use super::*;

#[tokio::test]
async fn a_key_based_did_resolves_from_its_singleton_signals() {
    let world = World::new().await;
    let wallet = Wallet::new(1);
    let mut alice = Controller::key_based(Network::Regtest, 1);
    let initial = alice.document.clone();
    let lookup = world.lookup();
    assert_eq!(
        resolved(ask(&alice, &lookup).await.unwrap()).document,
        initial
    );

    let first = alice.add_service("first");
    let second_document = alice.document.clone();
    world.signal(&wallet, announcing(&first));
    let pending = resolved(ask(&alice, &lookup).await.unwrap());
    assert_eq!(pending.metadata.version_id, 1, "unconfirmed");

    world.mine(1);
    let height = world.height();
    world.mine(4);
    let shallow = ask(&alice, &lookup).await.unwrap();
    assert!(shallow.walk.steps.iter().any(|step| matches!(
        step,
        WalkStep::Signal { signal, said: Said::Pending { .. } }
            if signal.confirmations == 5 && signal.height == Some(height)
    )));
    assert_eq!(
        resolved(shallow).metadata.version_id,
        1,
        "five confirmations"
    );

    world.mine(1);
    let found = resolved(ask(&alice, &lookup).await.unwrap());
    assert_eq!(found.document, second_document);
    assert_eq!(found.metadata.version_id, 2);
    assert_eq!(found.metadata.confirmations, 6);
    assert_eq!(found.metadata.updated, Some(world.time_of(height)));

    let last = alice.update(PatchBuilder::deactivate);
    world.signal(&wallet, announcing(&last));
    world.mine(6);
    let found = resolved(ask(&alice, &lookup).await.unwrap());
    assert_eq!(found.document, alice.document);
    assert!(found.metadata.deactivated);
    assert_eq!(found.metadata.version_id, 3);

    // Older versions, by number and by the median time of the block that ended them.
    for version in [
        VersionChoice::Id(2),
        VersionChoice::Time(world.time_of(height).plus(1)),
    ] {
        let options = ResolutionOptions {
            version: Some(version),
            ..ResolutionOptions::default()
        };
        let sidecar = alice.sidecar.clone();
        let found = lookup
            .resolve(alice.did(), options, sidecar, Strictness::default())
            .await;
        assert_eq!(
            resolved(found.unwrap()).document,
            second_document,
            "{version:?}"
        );
    }

    let without = Controller {
        sidecar: Sidecar::default(),
        ..alice
    };
    let failure = ask(&without, &lookup).await.unwrap().outcome.unwrap_err();
    assert_eq!(failure.code, ErrorCode::MissingUpdateData);
}

#[tokio::test]
async fn an_external_did_resolves_from_smt_and_cas_signals() {
    let world = World::new().await;
    let (smt, cas) = (Wallet::new(11), Wallet::new(12));
    let beacons = [
        ("smt", BeaconKind::Smt, smt.address()),
        ("cas", BeaconKind::Cas, cas.address()),
    ];
    let (mut bob, _) = external(Network::Regtest, 2, &beacons);
    let other = Controller::key_based(Network::Regtest, 3);

    // A round of the SMT cohort with an update, and one of the CAS cohort without.
    let first = bob.add_service("first");
    let (root, proofs) = smt_round(&[(other.did(), None), (bob.did(), Some(&first))]);
    bob.sidecar.add_proof(&proofs[1]);
    world.signal(&smt, root);
    let foreign = {
        let mut other = other.clone();
        other.add_service("foreign")
    };
    let announcement = cas_announcement([(other.did(), foreign.hash())]);
    bob.sidecar.add_announcement(&announcement);
    world.signal(&cas, announcement.signal_bytes());
    world.mine(6);
    // The other way round.
    let (root, proofs) = smt_round(&[(other.did(), Some(&foreign)), (bob.did(), None)]);
    bob.sidecar.add_proof(&proofs[1]);
    world.signal(&smt, root);
    let second = bob.add_service("second");
    let announcement = cas_announcement([(bob.did(), second.hash())]);
    bob.sidecar.add_announcement(&announcement);
    world.signal(&cas, announcement.signal_bytes());
    world.mine(6);

    let found = resolved(ask(&bob, &world.lookup()).await.unwrap());
    assert_eq!(found.metadata.version_id, 3);
    assert_eq!(found.document, bob.document);

    // A round nobody told about makes the DID unresolvable.
    world.signal(&smt, SignalBytes::from_bytes([9; 32]));
    world.mine(6);
    let failure = ask(&bob, &world.lookup())
        .await
        .unwrap()
        .outcome
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::MissingUpdateData);
}

#[tokio::test]
async fn each_block_is_asked_for_once() {
    let world = World::new().await;
    let mut carol = Controller::key_based(Network::Regtest, 4);
    let wallet = Wallet::new(4);
    // Three signals in two blocks, the third a duplicate of the second.
    let (first, second) = (carol.add_service("a"), carol.add_service("b"));
    let blocks = [vec![&first], vec![&second, &second]].map(|updates| {
        let mut chain = world.chain.lock().unwrap();
        let coins = updates.iter().map(|_| funded(&mut chain, &wallet, 50_000));
        let coins: Vec<_> = coins.collect();
        for (coin, update) in coins.into_iter().zip(&updates) {
            send(&mut chain, &wallet, coin, announcing(update));
        }
        chain.mine(1)[0]
    });
    world.mine(10);

    let (url, paths) = watched(&world.server.url(), |_| None).await;
    let lookup = Lookup::new(backend(&url));
    let asked_for = |hash: &bitcoin::BlockHash| {
        let path = format!("/block/{hash}");
        paths
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| **seen == path)
            .count()
    };
    for _ in 0..2 {
        let found = resolved(ask(&carol, &lookup).await.unwrap());
        assert_eq!(found.metadata.version_id, 3);
        for hash in &blocks {
            assert_eq!(asked_for(hash), 1, "a clone shares what it learned");
        }
        let clone = lookup.clone();
        assert_eq!(resolved(ask(&carol, &clone).await.unwrap()), found);
    }
}

#[tokio::test]
async fn a_server_of_another_network_is_refused_before_it_is_believed() {
    let world = World::new().await;
    for network in [Network::Signet, Network::Bitcoin, Network::Mutinynet] {
        let alice = Controller::key_based(network, 1);
        let (url, paths) = watched(&world.server.url(), |_| None).await;
        let error = ask(&alice, &Lookup::new(backend(&url))).await.unwrap_err();
        assert!(
            matches!(&error, LookupError::Chain(ChainError::WrongNetwork { .. })),
            "{error}"
        );
        assert!(!error.is_transient());
        assert_eq!(paths.lock().unwrap().as_slice(), ["/block-height/0"]);
    }
}

#[tokio::test]
async fn an_unreachable_server_says_nothing_about_the_did() {
    let url = {
        let world = World::new().await;
        let url = world.server.url();
        world.server.shutdown().await;
        url
    };
    let alice = Controller::key_based(Network::Regtest, 1);
    let error = ask(&alice, &Lookup::new(backend(&url))).await.unwrap_err();
    assert!(
        matches!(&error, LookupError::Chain(ChainError::Unreachable { .. })),
        "{error}"
    );
    assert!(error.is_transient());
}
