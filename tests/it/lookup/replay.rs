//! A recording gives the same result again, without a network.

use btcr2_agent::resolver::VersionChoice;

use super::*;

/// A DID with signals from three kinds of beacons, one unconfirmed, one too shallow.
async fn busy() -> (World, Controller) {
    let world = World::new().await;
    let (single, smt, cas) = (Wallet::new(6), Wallet::new(31), Wallet::new(32));
    let beacons = [
        ("smt", BeaconKind::Smt, smt.address()),
        ("cas", BeaconKind::Cas, cas.address()),
    ];
    let (mut bob, _) = external(Network::Regtest, 6, &beacons);
    let first = bob.add_service("first");
    let (root, proofs) = smt_round(&[(bob.did(), Some(&first))]);
    bob.sidecar.add_proof(&proofs[0]);
    world.signal(&smt, root);
    world.mine(6);
    let second = bob.add_service("second");
    let announcement = cas_announcement([(bob.did(), second.hash())]);
    bob.sidecar.add_announcement(&announcement);
    world.signal(&cas, announcement.signal_bytes());
    world.signal(&single, announcing(&second));
    world.mine(6);
    let third = bob.add_service("third");
    world.signal(&single, announcing(&third));
    world.mine(2);
    world.signal(&single, announcing(&third));
    (world, bob)
}

#[tokio::test]
async fn a_recording_replays_to_the_identical_result() {
    let (world, bob) = busy().await;
    let (live, recording) = ask_recorded(&bob, &world.lookup()).await.unwrap();
    assert_eq!(live.outcome.as_ref().unwrap().metadata.version_id, 3);
    let text = recording.to_json();
    // The world goes on; the recording does not.
    world.mine(20);
    world.server.shutdown().await;

    let read = Recording::parse(text.as_bytes(), Network::Regtest).unwrap();
    assert_eq!(read, recording);
    let offline = Lookup::new(read);
    let (again, recorded) = ask_recorded(&bob, &offline).await.unwrap();
    assert_eq!(again, live, "document, metadata and walk");
    assert_eq!(recorded.to_json(), text);

    // Other options walk the same history.
    let options = ResolutionOptions {
        version: Some(VersionChoice::Id(2)),
        min_conf: 2,
    };
    let sidecar = bob.sidecar.clone();
    let second = offline
        .resolve(bob.did(), options, sidecar, Strictness::default())
        .await;
    assert_eq!(resolved(second.unwrap()).metadata.version_id, 2);
}

#[tokio::test]
async fn a_recording_of_other_beacons_is_no_empty_chain() {
    let (world, bob) = busy().await;
    let (_, recording) = ask_recorded(&bob, &world.lookup()).await.unwrap();
    let other = Controller::key_based(Network::Regtest, 7);
    let error = ask(&other, &Lookup::new(recording)).await.unwrap_err();
    let LookupError::NotRecorded { address } = &error else {
        panic!("{error}");
    };
    assert_eq!(*address, other.document.beacons()[0].address);
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_recording_of_another_network_is_refused() {
    let (world, bob) = busy().await;
    let (_, recording) = ask_recorded(&bob, &world.lookup()).await.unwrap();
    // Signet and mutinynet write the same addresses: the network is compared, not only they.
    for network in [Network::Signet, Network::Mutinynet, Network::Bitcoin] {
        let other = Controller::key_based(network, 1);
        let error = ask(&other, &Lookup::new(recording.clone())).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, LookupError::OtherNetwork { found: Network::Regtest, expected }
                if expected == network),
            "{error}"
        );
        let text = recording.to_json();
        assert!(Recording::parse(text.as_bytes(), network).is_err());
    }
}
