//! Changes that must not be made: each has its own words, and leaves nothing behind.

use serde_json::{Value, json};

use super::*;

/// Everything that an update could leave in the store.
fn traces(play: &Play, did: &Did) -> (usize, usize, u32, String) {
    let store = play.file(1);
    let view = store.view();
    (
        view.updates_of(did.as_str()).unwrap().len(),
        view.did_keys(did.as_str()).unwrap().len(),
        view.next_key_index().unwrap(),
        view.did(did.as_str()).unwrap().unwrap().document,
    )
}

fn deep(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

#[tokio::test]
async fn every_bad_change_is_refused_with_its_reason_and_leaves_nothing() {
    let mut play = Play::open(2).await;
    let company = play.found(CohortBeacon::Smt, 0, &[1]).await;
    let did = play
        .ask(1, |agent| agent.create_key_did(Network::Regtest))
        .await;
    let address = KeyAddress::P2wpkh.of(
        Network::Regtest,
        &secp256k1::SecretKey::from_slice(&[9; 32])
            .unwrap()
            .public_key(secp256k1::SECP256K1),
    );
    let before = traces(&play, &did);
    let patch = |operations: Value| vec![Change::Patch(operations)];
    let remove = |path: &str| json!({ "op": "remove", "path": path });
    let id = |id: &str| id.to_owned();
    let rows: Vec<(Vec<Change>, &str)> = vec![
        (vec![], "changes nothing"),
        (patch(json!([])), "changes nothing"),
        (
            patch(json!([{ "op": "test", "path": "/id", "value": did }])),
            "changes nothing",
        ),
        (patch(json!({})), "not an array of RFC 6902"),
        (
            patch(json!([{ "op": "explode", "path": "/" }])),
            "not an array of RFC 6902",
        ),
        (patch(json!([remove("/service/7")])), "does not apply"),
        (
            patch(
                json!([{ "op": "test", "path": "/id", "value": "did:x:y" }, remove("/service/0")]),
            ),
            "does not apply",
        ),
        (
            patch(json!([{ "op": "replace", "path": "/id", "value": "did:btcr2:_" }])),
            "changes the document's id",
        ),
        (
            patch(json!([{ "op": "add", "path": "/service/0/type", "value": 7 }])),
            "does not conform",
        ),
        (
            patch(json!([{ "op": "add", "path": "/note", "value": "x".repeat(300_000) }])),
            "bytes; at most 262144",
        ),
        (
            patch(json!([{ "op": "add", "path": "/note", "value": "x".repeat(2 << 20) }])),
            "at most 1048576",
        ),
        (
            patch(json!([{ "op": "add", "path": "/note", "value": deep(70) }])),
            "nested deeper",
        ),
        (
            patch(json!([remove("/service")])),
            "no beacon would be left",
        ),
        (
            patch(json!([remove("/capabilityInvocation/0")])),
            "no secp256k1 key would be left",
        ),
        (
            vec![Change::RemoveKey {
                id: id("initialKey"),
            }],
            "no secp256k1 key would be left",
        ),
        (
            patch(
                json!([{ "op": "replace", "path": "/verificationMethod/0/publicKeyMultibase",
                "value": "zQ3shmsvzTjQkcy2FqajPhNSSU4bWrUw3MP2YWsGsf49cMnMH" }]),
            ),
            "no key of this agent could update the DID",
        ),
        (vec![Change::RemoveService { id: id("x") }], "no service"),
        (vec![Change::RemoveBeacon { beacon: id("x") }], "no beacon"),
        (
            vec![Change::AddKey {
                id: Some(id("a b")),
            }],
            "is no id",
        ),
        (
            vec![Change::AddKey {
                id: Some(id("initialKey")),
            }],
            "already",
        ),
        (
            vec![Change::RotateKey {
                id: id("nobody"),
                new_id: None,
            }],
            "no verification method",
        ),
        (
            vec![Change::AddBeacon {
                id: None,
                beacon: NewBeacon::Address {
                    kind: BeaconKind::Smt,
                    address,
                },
            }],
            "no member of a cohort with the beacon",
        ),
        (
            vec![Change::AddBeacon {
                id: None,
                beacon: NewBeacon::Cohort(company.id),
            }],
            "is not registered with cohort",
        ),
    ];
    for (changes, why) in rows {
        let said = format!("{changes:?}").chars().take(200).collect::<String>();
        let error = play
            .try_update(1, &did, changes, SINGLY)
            .await
            .expect_err(&said);
        assert!(
            error.contains(why),
            "{error:?} instead of {why:?} for {said}"
        );
        assert_eq!(traces(&play, &did), before, "{said}");
    }

    // What is meant is done: the DID becomes somebody else's, and this agent can do nothing more.
    let foreign = json!([{ "op": "replace", "path": "/verificationMethod/0/publicKeyMultibase",
        "value": "zQ3shmsvzTjQkcy2FqajPhNSSU4bWrUw3MP2YWsGsf49cMnMH" }]);
    let meant = vec![Change::Patch(foreign), Change::HandOver];
    let handle = play.stage.actors[1].handle.clone();
    handle
        .propose_update(&did, meant, SINGLY, Disclosure::HashOnly)
        .await
        .unwrap();
    play.close().await;
}

/// An update that waits can be taken back and replaced by another one; one that a round has can not.
#[tokio::test]
async fn an_update_is_withdrawn_while_nobody_has_it() {
    let mut play = Play::open(3).await;
    let mut company = play.found(CohortBeacon::Cas, 0, &[1, 2]).await;
    play.create_dids(&mut company, &[1, 2]).await;
    let (did, via) = (company.dids[0].did.clone(), in_round(&company));
    let first = play
        .updated(1, &did, vec![service("one")], via.clone())
        .await;
    let of = did.clone();
    play.ask(1, move |agent| agent.withdraw_update(&of, 2))
        .await;
    assert_eq!(play.row(1, &did, 2), None);
    let second = play.updated(1, &did, vec![service("better")], via).await;
    assert_ne!(first.hash, second.hash);

    play.announce_round(&mut company, 1).await;
    play.settled(1, &did, 2, update_state::CONFIRMED).await;
    let of = did.clone();
    let refused = play
        .stage
        .ask(1, move |agent| agent.withdraw_update(&of, 2))
        .await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("version 2 is confirmed"), "{refused}");
    play.stage.mine(FINAL_DEPTH - 1).unwrap();
    play.settled(1, &did, 2, update_state::FINAL).await;
    let document = play.resolves(1, &did, 2).await;
    assert_eq!(document, second.after);
    play.close().await;
}
