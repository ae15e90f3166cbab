//! Objects from content-addressed storage.

use std::future::pending;

use btcr2_agent::cas::CasError;
use btcr2_agent::did::ErrorCode;
use btcr2_agent::lookup::{CasAnswer, CasSource, Objects};

use super::*;

/// A storage that cannot be reached.
#[derive(Debug)]
struct Unreachable;

impl CasSource for Unreachable {
    fn get<'a>(&'a self, _: &'a [u8; 32], _: usize) -> CasAnswer<'a> {
        Box::pin(async {
            Err(CasError::Unreachable {
                host: "gateway.example".into(),
                detail: "refused".into(),
            })
        })
    }
}

/// A storage that never answers.
#[derive(Debug)]
struct Silent;

impl CasSource for Silent {
    fn get<'a>(&'a self, _: &'a [u8; 32], _: usize) -> CasAnswer<'a> {
        Box::pin(pending())
    }
}

/// A storage that gives something else.
#[derive(Debug)]
struct Lying;

impl CasSource for Lying {
    fn get<'a>(&'a self, _: &'a [u8; 32], _: usize) -> CasAnswer<'a> {
        Box::pin(async { Ok(Some(b"{}".to_vec())) })
    }
}

/// An `x1` DID whose genesis document, announcement and update are in storage only, on its own chain.
async fn stored() -> (World, Controller, Objects) {
    let world = World::new().await;
    let cas = Wallet::new(21);
    let beacons = [("cas", BeaconKind::Cas, cas.address())];
    let (mut bob, genesis) = external(Network::Regtest, 5, &beacons);
    let update = bob.add_service("files");
    let announcement = cas_announcement([(bob.did(), update.hash())]);
    world.signal(&cas, announcement.signal_bytes());
    world.mine(6);
    let mut objects = Objects::default();
    objects.insert(genesis.canonical_bytes());
    objects.insert(update.canonical_bytes());
    objects.insert(announcement.canonical_bytes());
    bob.sidecar = Sidecar::default();
    (world, bob, objects)
}

#[tokio::test]
async fn what_the_sidecar_lacks_comes_from_storage() {
    let (world, bob, objects) = stored().await;
    let lookup = world.lookup();
    let failure = ask(&bob, &lookup).await.unwrap().outcome.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NotFound, "without any storage");

    let (resolution, recording) = ask_recorded(&bob, &lookup.clone().with_cas(objects))
        .await
        .unwrap();
    let found = resolved(resolution);
    assert_eq!(found.document, bob.document);
    assert_eq!(found.metadata.version_id, 2);

    // The recording holds what came from there.
    let offline = Lookup::new(recording);
    assert_eq!(resolved(ask(&bob, &offline).await.unwrap()), found);
    // And is preferred to a storage that would fail.
    let offline = offline.with_cas(Unreachable);
    assert_eq!(resolved(ask(&bob, &offline).await.unwrap()), found);
}

#[tokio::test]
async fn a_storage_that_cannot_be_asked_is_no_missing_object() {
    let (world, bob, _) = stored().await;
    let error = ask(&bob, &world.lookup().with_cas(Unreachable))
        .await
        .unwrap_err();
    assert!(matches!(&error, LookupError::Cas { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("the genesis document bafkrei") && text.contains("gateway.example"),
        "{text}"
    );
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_storage_that_gives_something_else_is_not_believed() {
    let (world, bob, _) = stored().await;
    let (resolution, recording) = ask_recorded(&bob, &world.lookup().with_cas(Lying))
        .await
        .unwrap();
    assert!(resolution.outcome.is_err());
    // What is recorded resolves to the same error, without what was not believed.
    assert!(!recording.to_json().contains("objects"));
    let again = ask(&bob, &Lookup::new(recording)).await.unwrap();
    assert_eq!(
        again.outcome.unwrap_err().code,
        ErrorCode::NotFound,
        "nothing that has the hash was there"
    );
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_end_itself() {
    let (world, bob, _) = stored().await;
    let deadline = Duration::from_millis(200);
    let lookup = world.lookup().with_cas(Silent).with_deadline(deadline);
    let error = ask(&bob, &lookup).await.unwrap_err();
    assert!(matches!(&error, LookupError::Deadline { .. }), "{error}");
    assert!(error.is_transient());
}
