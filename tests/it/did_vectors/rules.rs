//! Each rule of the resolve loop's steps 6 to 8, violated once, and nothing else with it.

use super::*;

/// Signs whatever the update and its proof say, so that only the rule in question is broken.
pub(super) fn resign(mut update: Value, key: &Keypair) -> SignedUpdate {
    let mut proof = update.as_object_mut().unwrap().remove("proof").unwrap();
    proof.as_object_mut().unwrap().remove("proofValue");
    let hash = |value: &Value| *json::document_hash(value).as_bytes();
    let digest = sha256(&[hash(&proof), hash(&update)].concat());
    let message = secp256k1::Message::from_digest(digest);
    let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, key);
    let encoded = bs58::encode(signature.serialize()).into_string();
    proof["proofValue"] = format!("z{encoded}").into();
    update["proof"] = proof;
    SignedUpdate::from_value(&update).unwrap()
}

/// Changes corpus update 3, signs it again with the right key, and returns the rule that catches it.
fn broken(change: impl FnOnce(&mut Value)) -> Rule {
    broken_with("key0", change)
}

fn broken_with(key: &str, change: impl FnOnce(&mut Value)) -> Rule {
    let [_, source, ..] = corpus_documents();
    let mut update = corpus!("signed-update-3");
    change(&mut update);
    let update = resign(update, &corpus_key(key));
    let fault = verify(&update, &source, 2, strict()).unwrap_err();
    assert_eq!(fault.code(), fault.rule().code());
    fault.rule()
}

#[test]
fn signing_again_changes_nothing_else() {
    let [_, source, target, _] = corpus_documents();
    let update = resign(corpus!("signed-update-3"), &corpus_key("key0"));
    assert_eq!(verify(&update, &source, 2, strict()).unwrap(), target);
}

#[test]
fn rule_source_hash() {
    let rule = broken(|update| update["sourceHash"] = update["targetHash"].clone());
    assert_eq!(rule, Rule::SourceHashMismatch);
}

#[test]
fn rule_contexts() {
    let changes: [fn(&mut Value); 5] = [
        |context| context[1] = "https://w3id.org/zcap/v2".into(),
        |context| context.as_array_mut().unwrap().swap(0, 1),
        |context| context.as_array_mut().unwrap().truncate(3),
        |context| context.as_array_mut().unwrap().push(value!({})),
        |context| *context = "https://w3id.org/json-ld-patch/v1".into(),
    ];
    for change in changes {
        let rule = broken(|update| change(&mut update["@context"]));
        assert_eq!(rule, Rule::UpdateContextMismatch);
        let rule = broken(|update| change(&mut update["proof"]["@context"]));
        assert_eq!(rule, Rule::ProofContextMismatch);
    }
}

fn remove(update: &mut Value, name: &str) {
    update["proof"]
        .as_object_mut()
        .unwrap()
        .remove(name)
        .unwrap();
}

#[test]
fn rules_of_the_capability() {
    let did = text(&corpus!("initial-did-document"), "/id").to_owned();
    let unescaped = format!("urn:zcap:root:{did}");
    let lower = format!("urn:zcap:root:{}", did.replace(':', "%3a"));
    let other = Did::from_genesis(Network::Mutinynet, DocumentHash::from_bytes([1; 32]));
    for (member, wrong, rule) in [
        (
            "proofPurpose",
            vec!["assertionMethod"],
            Rule::ProofPurposeMismatch,
        ),
        (
            "capabilityAction",
            vec!["Read", "write"],
            Rule::ProofCapabilityActionMismatch,
        ),
        (
            "capability",
            vec![&unescaped, &lower],
            Rule::ProofCapabilityMismatch,
        ),
        (
            "invocationTarget",
            vec![other.as_str(), ""],
            Rule::ProofInvocationTargetMismatch,
        ),
    ] {
        for wrong in wrong {
            assert_eq!(
                broken(|update| update["proof"][member] = wrong.into()),
                rule
            );
        }
        assert_eq!(broken(|update| update["proof"][member] = Value::Null), rule);
        assert_eq!(
            broken(|update| remove(update, member)),
            rule,
            "without {member}"
        );
    }
}

#[test]
fn a_wrong_invocation_target_is_refused_even_where_none_is_required() {
    let [_, source, ..] = corpus_documents();
    let mut update = corpus!("signed-update-3");
    update["proof"]["invocationTarget"] = "did:btcr2:_".into();
    let update = resign(update, &corpus_key("key0"));
    let fault = verify(&update, &source, 2, BEFORE_OCTOBER).unwrap_err();
    assert_eq!(fault.rule(), Rule::ProofInvocationTargetMismatch);
}

#[test]
fn rules_of_the_method() {
    // key-1 is in verificationMethod and in authentication, and signs for itself.
    let rule = broken_with("key1", |update| {
        let id = text(update, "/proof/verificationMethod").replace("#key-0", "#key-1");
        update["proof"]["verificationMethod"] = id.into();
    });
    assert_eq!(rule, Rule::ProofMethodUnauthorized);
    let rule = broken(|update| remove(update, "verificationMethod"));
    assert_eq!(rule, Rule::ProofMethodUnauthorized);

    // A reference without its method.
    let mut genesis = corpus!("genesis-document");
    genesis["capabilityInvocation"] = value!(["#key-0", "did:btcr2:_#ghost"]);
    let genesis = GenesisDocument::from_value(&genesis).unwrap();
    let source = genesis.document(Network::Mutinynet).unwrap();
    let unsigned = || {
        let patch = PatchBuilder::on(&source).unwrap().deactivate().unwrap();
        UnsignedUpdate::new(&source, 1, &patch.finish().unwrap()).unwrap()
    };
    assert!(matches!(
        unsigned().to_sign("#ghost").unwrap_err(),
        SignError::Method {
            fault: MethodFault::NotFound,
            ..
        }
    ));
    let signed = unsigned()
        .sign_with_aux(&corpus_key("key0"), "#key-0", &[0; 32])
        .unwrap();
    let mut ghost = signed.value().clone();
    ghost["proof"]["verificationMethod"] = format!("{}#ghost", source.id()).into();
    let ghost = resign(ghost, &corpus_key("key0"));
    let fault = verify(&ghost, &source, 1, strict()).unwrap_err();
    assert_eq!(fault.rule(), Rule::ProofMethodNotFound);
    // A relative id means the document's own method, in the proof as in the document.
    let mut relative = signed.value().clone();
    relative["proof"]["verificationMethod"] = "#key-0".into();
    let relative = resign(relative, &corpus_key("key0"));
    assert!(
        verify(&relative, &source, 1, strict())
            .unwrap()
            .is_deactivated()
    );
}

#[test]
fn rule_proof_verifies() {
    let rule = Rule::ProofNotVerified;
    // Another key signs.
    assert_eq!(broken_with("key1", |_| ()), rule);
    for (member, wrong) in [("type", "Proof"), ("cryptosuite", "bip340-rdfc-2025")] {
        assert_eq!(
            broken(|update| update["proof"][member] = wrong.into()),
            rule
        );
    }
    // What was signed changes afterwards: the update, the proof, the signature.
    let [_, source, ..] = corpus_documents();
    let signature = text(&corpus!("signed-update-3"), "/proof/proofValue").to_owned();
    let bytes = bs58::decode(&signature[1..]).into_vec().unwrap();
    let encode = |bytes: &[u8]| format!("z{}", bs58::encode(bytes).into_string());
    let mut flipped = bytes.clone();
    flipped[63] ^= 1;
    let changes: Vec<(&str, Value)> = vec![
        ("/unknown", 1.into()),
        ("/proof/unknown", 1.into()),
        ("/proof/proofValue", encode(&flipped).into()),
        ("/proof/proofValue", encode(&bytes[..63]).into()),
        (
            "/proof/proofValue",
            encode(&[&bytes[..], &[0]].concat()).into(),
        ),
        ("/proof/proofValue", signature[1..].into()),
        ("/proof/proofValue", format!("{signature}0").into()),
        ("/proof/proofValue", "z".repeat(100_000).into()),
        ("/proof/proofValue", Value::Null),
    ];
    for (path, wrong) in changes {
        let mut update = corpus!("signed-update-3");
        let (parent, name) = path.rsplit_once('/').unwrap();
        update.pointer_mut(parent).unwrap()[name] = wrong;
        let update = SignedUpdate::from_value(&update).unwrap();
        let fault = verify(&update, &source, 2, strict()).unwrap_err();
        assert_eq!(fault.rule(), rule, "{path}");
    }
    // An unknown member is no fault when it is signed.
    let mut update = corpus!("signed-update-3");
    update["unknown"] = 1.into();
    verify(&resign(update, &corpus_key("key0")), &source, 2, strict()).unwrap();
}

#[test]
fn rules_of_the_patch() {
    let failing = [
        value!([{"op":"remove","path":"/nope"}]),
        value!([{"op":"test","path":"/id","value":"another"}]),
        value!([{"op":"replace","path":"/service/9","value":{}}]),
        value!([{"op":"add","path":"/service/01","value":{}}]),
        value!([{"op":"frobnicate","path":"/service"}]),
        value!([{"op":"add","path":"/service/-"}]),
        value!([{"op":"add","path":"service/-","value":{}}]),
        value!([{"op":"add","path":"/deactivated","value":true},{"op":"test","path":"/service","value":[]}]),
        value!([7]),
    ];
    for patch in failing {
        let rule = broken(|update| update["patch"] = patch.clone());
        assert_eq!(rule, Rule::PatchApplyFailure, "{patch}");
    }
    let rule = broken(|update| {
        let other = Did::from_genesis(Network::Mutinynet, DocumentHash::from_bytes([1; 32]));
        update["patch"] = value!([{"op":"replace","path":"/id","value":other}]);
    });
    assert_eq!(rule, Rule::DocumentIdMismatch);
    for patch in [
        value!([{"op":"replace","path":"/verificationMethod","value":"none"}]),
        value!([{"op":"remove","path":"/@context/1"}]),
        value!([{"op":"remove","path":"/service/0/type"}]),
        value!([{"op":"replace","path":"/service/0/serviceEndpoint","value":"bitcoin:1BgGZ9tcN4rm9KBzDn7KprQz87SZ26SAMH"}]),
    ] {
        let rule = broken(|update| update["patch"] = patch.clone());
        assert_eq!(rule, Rule::DocumentNotConformant, "{patch}");
    }
    let rule = broken(|update| update["targetHash"] = update["sourceHash"].clone());
    assert_eq!(rule, Rule::TargetHashMismatch);
}

#[test]
fn a_patch_can_not_exhaust_memory() {
    // Each copy doubles the document. Twelve pass the bound, and are harmless should it be gone.
    let bomb: Vec<Value> = (0..12)
        .map(|i| value!({"op":"copy","from":"","path":format!("/x{i}")}))
        .collect();
    let rule = broken(|update| update["patch"] = bomb.into());
    assert_eq!(rule, Rule::PatchApplyFailure);
    // Nesting one level deeper with every step.
    let nest: Vec<Value> = (0..100)
        .flat_map(|_| {
            [
                value!({"op":"move","from":"/service","path":"/tmp"}),
                value!({"op":"add","path":"/service","value":[]}),
                value!({"op":"move","from":"/tmp","path":"/service/0"}),
            ]
        })
        .collect();
    let rule = broken(|update| update["patch"] = nest.into());
    assert_eq!(rule, Rule::PatchApplyFailure);
    let many = vec![value!({"op":"test","path":"/deactivated/","value":null}); 1025];
    assert!(DocumentPatch::from_value(&many.into()).is_err());
}

#[test]
fn malformed_updates_are_refused_where_they_are_parsed() {
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut update = corpus!("signed-update-3");
        change(&mut update);
        let error = SignedUpdate::from_value(&update).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidDidUpdate);
        error
    };
    assert!(matches!(
        refused(&|u| *u = value!([])),
        InvalidUpdate::NotAnObject
    ));
    assert!(matches!(
        refused(&|u| u["patch"] = value!({})),
        InvalidUpdate::Patch
    ));
    assert!(matches!(
        refused(&|u| u["proof"] = value!([])),
        InvalidUpdate::Proof
    ));
    for version in [
        value!(1),
        value!(0),
        value!(-2),
        value!(2.5),
        value!("2"),
        value!(1e300),
        Value::Null,
    ] {
        let error = refused(&|u| u["targetVersionId"] = version.clone());
        assert!(matches!(error, InvalidUpdate::TargetVersion), "{version}");
    }
    for hash in [
        value!("AA"),
        value!("Rd9NR_kzIdbPBf9V5Srr5lkr3Qw6pUjrpuuZfo1YL8o="),
        value!("Rd9NR_kzIdbPBf9V5Srr5lkr3Qw6pUjrpuuZfo1YL8p"),
        value!(1),
    ] {
        for name in ["sourceHash", "targetHash"] {
            let error = refused(&|u| u[name] = hash.clone());
            assert!(matches!(error, InvalidUpdate::Hash { name: n, .. } if n == name));
        }
    }
    // An integer is an integer however it is written.
    let text = corpus!("signed-update-3")
        .to_string()
        .replace(r#""targetVersionId":3"#, r#""targetVersionId":30e-1"#);
    assert_eq!(SignedUpdate::parse(&text).unwrap(), corpus_updates()[1]);
    let twice = text.replacen('{', r#"{"targetVersionId":3,"#, 1);
    assert!(matches!(
        SignedUpdate::parse(&twice),
        Err(InvalidUpdate::Json(_))
    ));
}

#[test]
fn rules_of_time() {
    let with = |created: Option<Value>, expires: Option<Value>| {
        let mut update = corpus!("signed-update-3");
        for (name, time) in [("created", created), ("expires", expires)] {
            if let Some(time) = time {
                update["proof"][name] = time;
            }
        }
        let update = resign(update, &corpus_key("key0"));
        let [_, source, ..] = corpus_documents();
        verify(&update, &source, 2, strict()).unwrap();
        // The block of upstream set 02: header 2026-09-16T15:01:28Z, median 14:58:58.
        let times = (UnixTime(1_789_570_888), UnixTime(1_789_570_738));
        check_times(&update, times.0, times.1).map_err(|fault| {
            assert_eq!(fault.code(), ErrorCode::InvalidDidUpdate);
            fault.rule()
        })
    };
    let at = |text: &str| Some(Value::from(text));
    assert_eq!(with(None, None), Ok(()));
    assert_eq!(with(at("2026-09-16T15:01:28Z"), None), Ok(()));
    let after = Err(Rule::ProofCreatedAfterBlock);
    assert_eq!(with(at("2026-09-16T15:01:29Z"), None), after);
    assert_eq!(with(at("2026-09-16T15:01:28.001Z"), None), after);
    assert_eq!(with(at("2026-09-16T16:01:28+01:00"), None), Ok(()));
    assert_eq!(with(at("yesterday"), None), after);
    assert_eq!(with(Some(1.into()), None), after);
    assert_eq!(with(None, at("2026-09-16T14:58:58Z")), Ok(()));
    let before = Err(Rule::ProofExpiresBeforeMediantime);
    assert_eq!(with(None, at("2026-09-16T14:58:57Z")), before);
    assert_eq!(with(None, Some(Value::Null)), before);
    assert_eq!(
        with(at("2026-09-16T15:00:00Z"), at("2026-09-16T15:00:00Z")),
        Ok(())
    );
    assert_eq!(
        with(at("2026-09-16T15:00:00Z"), at("2026-09-16T14:59:59Z")),
        Err(Rule::ProofExpiresBeforeCreated)
    );
}
