//! Every rule of `failure-rules.json`, broken once in a whole resolution, with its id and its code.

use std::collections::BTreeMap;

use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::did::datetime::DateTime;
use btcr2_agent::did::{Did, GenesisBuilder, GenesisDocument, InvalidDid, Rule, SignedUpdate};
use btcr2_agent::resolver::Sidecar;
use serde_json::{Value, json};

use super::*;
use crate::synthetic::{
    Controller, Question, SyntheticChain, announcing, keypair, median_time, resign, smt_signal,
    time,
};

const RULES: &str = include_str!("../../vectors/failure-rules.json");
const HEIGHT: u32 = 150;

fn alice() -> Controller {
    Controller::key_based(Network::Testnet4, 21)
}

/// Alice's update, in a block at [`HEIGHT`].
fn announced(update: &SignedUpdate) -> Resolution {
    announced_by(alice(), update)
}

fn announced_by(mut controller: Controller, update: &SignedUpdate) -> Resolution {
    let mut chain = SyntheticChain::at(200);
    let beacons = controller.document.beacons();
    chain.signal_at(HEIGHT, &beacons[0].address, announcing(update));
    controller.sidecar.add_update(update);
    Question::of(&controller).ask(&chain)
}

/// Alice's update with one member of its proof changed, signed all the same.
fn proof(member: &str, value: impl Into<Value>) -> Resolution {
    let value = value.into();
    announced(&alice().forged(|update| update["proof"][member] = value))
}

fn patched(patch: Value) -> Resolution {
    announced(&alice().forged(|update| update["patch"] = patch))
}

fn at(time: btcr2_agent::time::UnixTime) -> String {
    DateTime::from(time).to_string()
}

/// Who resolves an invalid identifier gets no further.
fn identifier(text: &str) -> Resolution {
    let invalid: InvalidDid = text.parse::<Did>().unwrap_err();
    Resolution::refused(text, invalid.into())
}

/// An `x1` DID with an SMT beacon that signalled in a block at [`HEIGHT`].
fn cohort_member(keep: impl FnOnce(&Did, &mut Sidecar, Value)) -> Resolution {
    let network = Network::Signet;
    let beacon = address(network, 77);
    let mut member = Controller::external(network, 22, |builder| {
        builder.beacon("cohort", BeaconKind::Smt, &beacon)
    });
    let leaf = Leaf {
        nonce: Some(SmtNonce::from_bytes([9; 32])),
        update: None,
    };
    let (root, proofs) = smt_signal(&[(member.did(), leaf)]);
    let mut chain = SyntheticChain::at(200);
    chain.signal_at(HEIGHT, &beacon, root);
    let did = member.did().clone();
    let proof = serde_json::to_value(&proofs[0]).unwrap();
    keep(&did, &mut member.sidecar, proof);
    Question::of(&member).ask(&chain)
}

fn broken(rule: Rule) -> Resolution {
    let alice = alice();
    let did = alice.did().to_string();
    match rule {
        Rule::DidChecksumInvalid => identifier(&did.replace("k1q", "k1p")),
        Rule::DidPaddingNonzero => {
            identifier("did:btcr2:x1qrm2yjspwgyeq7k8980n2twxmezmd0pzyd4qpwm7h7c23wgr6u3rn9xu22r")
        }
        Rule::DidNetworkReserved => {
            let data = [&[7u8][..], &keypair(1).public_key().serialize()].concat();
            let hrp = bech32::Hrp::parse("k").unwrap();
            let text = bech32::encode::<bech32::Bech32m>(hrp, &data).unwrap();
            identifier(&format!("did:btcr2:{text}"))
        }
        Rule::GenesisHashMismatch => {
            let other = Controller::external(Network::Signet, 23, |builder| builder);
            let mine = Controller::external(Network::Signet, 24, |builder| builder);
            Question::new(mine.did(), other.sidecar).ask(&SyntheticChain::at(9))
        }
        Rule::UpdateMissing => {
            let mut chain = SyntheticChain::at(200);
            let update = alice.forged(|_| ());
            let beacon = alice.beacon("initialP2PKH");
            chain.signal_at(HEIGHT, &beacon, announcing(&update));
            Question::of(&alice).ask(&chain)
        }
        Rule::UpdateContextMismatch => announced(&alice.forged(|update| {
            update["@context"].as_array_mut().unwrap().reverse();
        })),
        Rule::ProofContextMismatch => proof("@context", json!(["https://w3id.org/zcap/v1"])),
        Rule::ProofCapabilityActionMismatch => proof("capabilityAction", "Read"),
        Rule::ProofCapabilityMismatch => proof("capability", format!("urn:zcap:root:{did}")),
        Rule::ProofInvocationTargetMismatch => proof("invocationTarget", format!("{did}#")),
        Rule::ProofPurposeMismatch => proof("proofPurpose", "assertionMethod"),
        Rule::ProofMethodUnauthorized => proof("verificationMethod", format!("{did}#other")),
        Rule::ProofMethodNotFound => {
            let network = Network::Regtest;
            let key = keypair(25);
            let beacon = address(network, 25);
            let built = GenesisBuilder::new(network)
                .key("initialKey", &key.public_key())
                .beacon("singleton", BeaconKind::Singleton, &beacon)
                .build()
                .unwrap();
            let mut genesis = built.value().clone();
            let invocations = genesis["capabilityInvocation"].as_array_mut().unwrap();
            invocations.push("did:btcr2:_#ghost".into());
            let genesis = GenesisDocument::from_value(&genesis).unwrap();
            let controller = Controller::with_genesis(network, 25, &genesis);
            let ghost = format!("{}#ghost", controller.did());
            let update =
                controller.forged(|update| update["proof"]["verificationMethod"] = ghost.into());
            announced_by(controller, &update)
        }
        Rule::ProofNotVerified => {
            let update = alice.forged(|_| ());
            announced(&resign(update.value().clone(), &keypair(99)))
        }
        Rule::SourceHashMismatch => announced(&alice.forged(|update| {
            update["sourceHash"] = update["targetHash"].clone();
        })),
        Rule::TargetHashMismatch => announced(&alice.forged(|update| {
            update["targetHash"] = update["sourceHash"].clone();
        })),
        Rule::VersionSkip => {
            announced(&alice.forged(|update| update["targetVersionId"] = 3.into()))
        }
        Rule::PatchApplyFailure => patched(json!([{"op": "test", "path": "/id", "value": "x"}])),
        Rule::DocumentIdMismatch => {
            let other = Controller::key_based(Network::Testnet4, 26);
            patched(json!([{"op": "replace", "path": "/id", "value": other.did()}]))
        }
        Rule::DocumentNotConformant => patched(json!([{"op": "remove", "path": "/@context"}])),
        Rule::ProofCreatedAfterBlock => proof("created", at(time(HEIGHT).plus(1))),
        Rule::ProofExpiresBeforeMediantime => proof("expires", at(median_time(HEIGHT).minus(1))),
        Rule::ProofExpiresBeforeCreated => announced(&alice.forged(|update| {
            update["proof"]["created"] = at(time(HEIGHT).minus(1)).into();
            update["proof"]["expires"] = at(time(HEIGHT).minus(2)).into();
        })),
        Rule::DuplicateHashMismatch => {
            let mut controller = alice;
            let first = controller.next_update(|patch| crate::synthetic::service(patch, "first"));
            let second = controller.next_update(|patch| crate::synthetic::service(patch, "second"));
            let mut chain = SyntheticChain::at(200);
            for (height, fragment, update) in [
                (HEIGHT, "initialP2PKH", &first),
                (HEIGHT + 1, "initialP2TR", &second),
            ] {
                chain.signal_at(height, &controller.beacon(fragment), announcing(update));
                controller.sidecar.add_update(update);
            }
            Question::of(&controller).ask(&chain)
        }
        Rule::SmtProofNotVerified => cohort_member(|_, sidecar, mut proof| {
            proof["nonce"] = SmtNonce::from_bytes([8; 32]).to_string().into();
            let lie = Sidecar::from_value(&json!({"smtProofs": [proof]})).unwrap();
            sidecar.merge(lie);
        }),
        Rule::SmtProofMissing => cohort_member(|_, _, _| ()),
        other => panic!("{other} is new: break it here"),
    }
}

#[test]
fn every_rule_is_reached_with_its_code() {
    let vectors: Value = serde_json::from_str(RULES).unwrap();
    let listed: BTreeMap<String, String> = vectors["rules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row[0].as_str().unwrap().into(),
                row[1].as_str().unwrap().into(),
            )
        })
        .collect();
    let mut reached = BTreeMap::new();
    for rule in Rule::ALL {
        let resolution = broken(*rule);
        let failure = failure(&resolution);
        assert_eq!(failure.rule, Some(*rule), "{failure}");
        let value = resolution.to_value();
        assert_eq!(value["didDocument"], Value::Null);
        assert_eq!(value["didDocumentMetadata"], json!({}));
        let metadata = &value["didResolutionMetadata"];
        assert_eq!(metadata["errorMessage"], failure.message);
        assert_eq!(
            failure.to_string(),
            format!("{} ({rule}): {}", failure.code, failure.message)
        );
        match resolution.walk.steps.last() {
            Some(WalkStep::Failed { failure: last, .. }) => assert_eq!(last, failure),
            other => panic!("{rule}: the walk ends with {other:?}"),
        }
        reached.insert(
            metadata["rule"].as_str().unwrap().to_owned(),
            metadata["error"].as_str().unwrap().to_owned(),
        );
    }
    assert_eq!(reached, listed);
}

#[test]
fn the_boundaries_of_time_hold() {
    let controller = alice();
    for (created, expires) in [
        (Some(time(HEIGHT)), None),
        (None, Some(median_time(HEIGHT))),
        (Some(time(HEIGHT)), Some(time(HEIGHT))),
    ] {
        let update = controller.forged(|update| {
            for (name, moment) in [("created", created), ("expires", expires)] {
                if let Some(moment) = moment {
                    update["proof"][name] = at(moment).into();
                }
            }
        });
        assert_eq!(
            metadata(&announced(&update)),
            (2, 51, false, Some(time(HEIGHT).0))
        );
    }
}

#[test]
fn a_fatal_update_names_transaction_block_and_version() {
    let resolution = broken(Rule::ProofPurposeMismatch);
    let message = &failure(&resolution).message;
    let txid = crate::synthetic::txid(1);
    assert!(
        message.contains(&format!(
            "to version 2, announced by transaction {txid} in block 150: proof.proofPurpose is not"
        )),
        "{message}"
    );
}

#[test]
fn malformed_updates_fail_at_the_version_they_claim() {
    // Written by hand: what is no update can not be made.
    let alice = alice();
    let good = alice.forged(|_| ()).value().clone();
    let announce = |changes: &[(&str, Value)], first: Option<&SignedUpdate>| {
        let mut value = good.clone();
        for (path, to) in changes {
            *value.pointer_mut(path).unwrap() = to.clone();
        }
        let sidecar = Sidecar::from_value(&json!({"updates": [value]})).unwrap();
        let (hash, _) = sidecar.updates().next().unwrap();
        let mut question = Question::new(alice.did(), sidecar);
        let mut chain = SyntheticChain::at(200);
        if let Some(first) = first {
            question.sidecar.add_update(first);
            chain.signal_at(HEIGHT, &alice.beacon("initialP2PKH"), announcing(first));
        }
        let signal = btcr2_agent::hash::SignalBytes::from_bytes(hash.to_bytes());
        chain.signal_at(HEIGHT + 1, &alice.beacon("initialP2TR"), signal);
        question.ask(&chain)
    };
    let code = |resolution: &Resolution| (failure(resolution).code, failure(resolution).rule);
    let invalid = ErrorCode::InvalidDidUpdate;
    for (changes, rule) in [
        (vec![("/patch", json!({}))], Some(Rule::PatchApplyFailure)),
        (vec![("/proof", json!(7))], Some(Rule::ProofNotVerified)),
        (
            vec![("/sourceHash", json!("x"))],
            Some(Rule::SourceHashMismatch),
        ),
        (
            vec![("/targetHash", json!(null))],
            Some(Rule::TargetHashMismatch),
        ),
        (vec![("/targetVersionId", json!("2"))], None),
        (vec![("/targetVersionId", json!(1))], None),
        (vec![("/targetVersionId", json!(0))], None),
        (vec![("/targetVersionId", json!(-3))], None),
        (vec![("/targetVersionId", json!(2.5))], None),
    ] {
        assert_eq!(
            code(&announce(&changes, None)),
            (invalid, rule),
            "{changes:?}"
        );
    }
    // Too far away is late publishing before anything else is looked at.
    let late = (ErrorCode::LatePublishing, Some(Rule::VersionSkip));
    for version in [json!(3), json!(1e300)] {
        let changes = [("/targetVersionId", version), ("/patch", json!({}))];
        assert_eq!(code(&announce(&changes, None)), late);
    }
    // For a version that exists only the hash without proof counts.
    let first = alice.forged(|_| ());
    let again = announce(&[("/proof", json!("gone"))], Some(&first));
    assert_eq!(metadata(&again).0, 2);
    assert!(outline(&again).contains(&"duplicate 2".to_owned()));
    let other = announce(&[("/patch", json!({}))], Some(&first));
    let duplicate = (ErrorCode::LatePublishing, Some(Rule::DuplicateHashMismatch));
    assert_eq!(code(&other), duplicate);
    let below = announce(&[("/targetVersionId", json!(1))], Some(&first));
    assert_eq!(code(&below), (invalid, None));
}
