//! Genesis documents, patches and signatures of our own making.

use super::*;

#[test]
fn a_member_s_genesis_document_on_every_network() {
    for (i, network) in Network::ALL.into_iter().enumerate() {
        let key = public_key(i as u8 + 1);
        let cohort = KeyAddress::P2tr.of(network, &public_key(99));
        let kind = [BeaconKind::Smt, BeaconKind::Cas][i % 2];
        let fallback = [KeyAddress::P2tr, KeyAddress::P2wpkh][i / 2 % 2];
        let genesis = GenesisDocument::for_cohort(network, &key, kind, &cohort, fallback).unwrap();
        let did = genesis.did(network);
        assert!(genesis.matches(&did));
        assert_eq!(genesis.hash(), json::document_hash(genesis.value()));
        let again = GenesisDocument::parse(genesis.canonical_bytes()).unwrap();
        assert_eq!(again.hash(), genesis.hash());

        let document = genesis.document(network).unwrap();
        assert_eq!(*document.id(), did);
        assert!(
            !String::from_utf8(document.canonical_bytes())
                .unwrap()
                .contains("did:btcr2:_")
        );
        let beacons: Vec<_> = document
            .beacons()
            .iter()
            .map(|beacon| (beacon.kind, beacon.address.clone()))
            .collect();
        assert_eq!(
            beacons,
            [
                (BeaconKind::Singleton, fallback.of(network, &key)),
                (kind, cohort)
            ]
        );
        let methods: Vec<_> = document.invocation_methods().collect();
        assert_eq!(methods.len(), 1);
        assert_eq!(methods[0].id, format!("{did}#initialKey"));
        assert_eq!(methods[0].key, Some(key));
        for name in ["authentication", "assertionMethod", "capabilityDelegation"] {
            assert_eq!(document.value()[name], value!([methods[0].id]));
        }
    }
}

#[test]
fn a_genesis_document_has_the_placeholder_and_the_network_s_addresses() {
    let key = public_key(1);
    let foreign = KeyAddress::P2tr.of(Network::Bitcoin, &key);
    let build = |builder: GenesisBuilder| builder.build().unwrap_err();
    let error = build(GenesisBuilder::new(Network::Regtest).beacon("b", BeaconKind::Smt, &foreign));
    assert!(
        matches!(error, InvalidDocument::EndpointNetwork { .. }),
        "{error}"
    );
    let error = build(
        GenesisBuilder::new(Network::Regtest)
            .key("k", &key)
            .key("k", &key),
    );
    assert!(
        matches!(error, InvalidDocument::RepeatedId { .. }),
        "{error}"
    );

    let mut document = corpus!("genesis-document");
    for id in [
        "did:btcr2:__",
        "did:btcr2:_#",
        "",
        text(&corpus!("initial-did-document"), "/id"),
    ] {
        document["id"] = id.into();
        let error = GenesisDocument::from_value(&document).unwrap_err();
        assert!(matches!(error, InvalidDocument::NotPlaceholder(_)), "{id}");
        assert_eq!(error.code(), ErrorCode::InvalidDidDocument);
    }
    assert!(Document::from_value(&corpus!("genesis-document")).is_err());
}

#[test]
fn the_placeholder_is_replaced_as_in_the_text() {
    let mut genesis = corpus!("genesis-document");
    genesis["note"] = value!({"about did:btcr2:_ \u{e9}\"": ["did:btcr2:_did:btcr2:_x", 1.5]});
    let genesis = GenesisDocument::from_value(&genesis).unwrap();
    let did = genesis.did(Network::Mutinynet);
    let textual = String::from_utf8(genesis.canonical_bytes())
        .unwrap()
        .replace("did:btcr2:_", did.as_str());
    let document = genesis.document(Network::Mutinynet).unwrap();
    assert_eq!(document, Document::parse(&textual).unwrap());
    assert!(document.value()["note"][format!("about {did} \u{e9}\"")][0].is_string());
}

#[test]
fn a_document_is_changed_by_naming_the_changes() {
    let did = Did::from_key(Network::Regtest, &public_key(3));
    let source = initial_key_document(&did).unwrap();
    let address = KeyAddress::P2tr.of(Network::Regtest, &public_key(4));
    let patch = PatchBuilder::on(&source)
        .unwrap()
        .add_beacon("cohortBeacon", BeaconKind::Smt, &address)
        .unwrap()
        .remove_service("#initialP2PKH")
        .unwrap()
        .add_service("didcomm", "DIDCommMessaging", &"https://example.com".into())
        .unwrap()
        .remove_service(&format!("{did}#initialP2TR"))
        .unwrap()
        .finish()
        .unwrap();
    let next = UnsignedUpdate::new(&source, 1, &patch)
        .unwrap()
        .target()
        .clone();
    let ids: Vec<_> = next
        .beacons()
        .iter()
        .map(|b| b.id.replace(did.as_str(), ""))
        .collect();
    assert_eq!(ids, ["#initialP2WPKH", "#cohortBeacon"]);
    assert_eq!(next.beacons()[1].address, address);
    assert_eq!(next.value()["service"][2]["type"], "DIDCommMessaging");

    let builder = || PatchBuilder::on(&source).unwrap();
    assert!(builder().remove_service("nope").is_err());
    assert!(
        builder()
            .add_beacon("initialP2TR", BeaconKind::Cas, &address)
            .is_err()
    );
    // A beacon on another network does not get into a document.
    let foreign = KeyAddress::P2tr.of(Network::Bitcoin, &public_key(4));
    let patch = builder()
        .add_beacon("b", BeaconKind::Cas, &foreign)
        .unwrap()
        .finish()
        .unwrap();
    assert!(matches!(
        UnsignedUpdate::new(&source, 1, &patch),
        Err(UpdateError::NotConformant(_))
    ));

    let patch = builder().deactivate().unwrap().finish().unwrap();
    let end = UnsignedUpdate::new(&source, 1, &patch)
        .unwrap()
        .target()
        .clone();
    assert!(end.is_deactivated());
    assert!(PatchBuilder::on(&end).is_err());
    assert!(matches!(
        UnsignedUpdate::new(&end, 2, &patch),
        Err(UpdateError::Deactivated)
    ));
}

#[test]
fn only_the_method_s_key_signs() {
    let source = initial_key_document(&Did::from_key(Network::Testnet4, &public_key(5))).unwrap();
    let unsigned = || {
        let patch = PatchBuilder::on(&source).unwrap().deactivate().unwrap();
        UnsignedUpdate::new(&source, 1, &patch.finish().unwrap()).unwrap()
    };
    let (own, other) = (
        OwnKey::from_bytes(&[5; 32]).unwrap(),
        OwnKey::from_bytes(&[6; 32]).unwrap(),
    );
    let signed = unsigned().sign(&own, "#initialKey").unwrap();
    assert!(
        verify(&signed, &source, 1, strict())
            .unwrap()
            .is_deactivated()
    );
    assert!(matches!(
        unsigned().sign(&other, "#initialKey"),
        Err(SignError::OtherKey(_))
    ));
    assert!(matches!(
        unsigned().sign(&own, "#other"),
        Err(SignError::Method { .. })
    ));
    let request = unsigned().to_sign("#initialKey").unwrap();
    let foreign = other.sign_digest(&request.digest());
    assert!(matches!(
        request.finish(&foreign),
        Err(SignError::Signature(_))
    ));
    for version in [0, 1 << 53, u64::MAX] {
        let patch = DocumentPatch::from_value(&value!([])).unwrap();
        assert!(matches!(
            UnsignedUpdate::new(&source, version, &patch),
            Err(UpdateError::Version(v)) if v == version
        ));
    }
}
