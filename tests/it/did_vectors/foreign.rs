//! Properties of what comes from outside: nothing panics, nothing edited is accepted.

use proptest::prelude::*;

use super::*;

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(".{0,8}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Paths of every value inside `value`, itself included.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                paths(item, &format!("{path}/{i}"), found);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                paths(member, &format!("{path}/{name}"), found);
            }
        }
        _ => (),
    }
}

proptest! {
    #[test]
    fn foreign_text_never_panics(text in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = text.parse::<Did>();
        let _ = format!("did:btcr2:{text}").parse::<Did>();
        let _ = multikey::decode(&text);
        let _ = text.parse::<btcr2_agent::did::datetime::DateTime>();
        let _ = json::parse_strict(&bytes);
        let _ = Document::parse(&bytes);
        let _ = GenesisDocument::parse(&bytes);
        let _ = SignedUpdate::parse(&bytes);
        let _ = DocumentPatch::parse(&bytes);
    }

    /// One edit of a valid identifier is never another valid one (bech32m finds up to four errors).
    #[test]
    fn no_identifier_has_a_neighbour(index in 10usize..73, letter in "[a-z0-9]") {
        let did = Did::from_key(Network::Regtest, &public_key(7)).to_string();
        let mut edited = did.clone();
        edited.replace_range(index..=index, &letter);
        prop_assert_eq!(edited.parse::<Did>().is_ok(), edited == did);
    }

    #[test]
    fn any_key_and_hash_round_trips(secret in prop::array::uniform32(1u8..), hash: [u8; 32], network in 0u8..6) {
        let network = Network::from_number(network).unwrap();
        let key = SecretKey::from_slice(&secret).unwrap().public_key(SECP256K1);
        for did in [Did::from_key(network, &key), Did::from_genesis(network, DocumentHash::from_bytes(hash))] {
            prop_assert_eq!(&did.to_string().parse::<Did>().unwrap(), &did);
        }
        prop_assert_eq!(multikey::decode(&multikey::encode(&key)), Ok(key));
    }

    #[test]
    fn canonical_form_is_a_fixed_point(value in json_value()) {
        let canonical = json::canonicalize(&value).unwrap();
        let parsed = json::parse_strict(&canonical).unwrap();
        prop_assert_eq!(&json::canonicalize(&parsed).unwrap(), &canonical);
        prop_assert_eq!(json::document_hash(&parsed), json::document_hash(&value));
    }

    /// Any member of a document, a patch or an update replaced by anything: no panic, and an update
    /// that differs from the signed one never verifies.
    #[test]
    fn an_edited_update_never_verifies(pick: prop::sample::Index, replacement in json_value()) {
        let [_, source, ..] = corpus_documents();
        let signed = &corpus_updates()[1];
        let mut update = signed.value().clone();
        let mut found = Vec::new();
        paths(&update, "", &mut found);
        *update.pointer_mut(pick.get(&found[..]).as_str()).unwrap() = replacement;
        if let Ok(edited) = SignedUpdate::from_value(&update) {
            prop_assert_eq!(verify(&edited, &source, 2, strict()).is_ok(), edited == *signed);
            let _ = check_times(&edited, UnixTime(0), UnixTime(0));
        }
    }

    #[test]
    fn an_edited_document_never_panics(pick: prop::sample::Index, replacement in json_value()) {
        let mut document = corpus!("genesis-document");
        let mut found = Vec::new();
        paths(&document, "", &mut found);
        *document.pointer_mut(pick.get(&found[..]).as_str()).unwrap() = replacement;
        if let Ok(genesis) = GenesisDocument::from_value(&document)
            && let Ok(document) = genesis.document(Network::Mutinynet)
        {
            prop_assert_eq!(document.id(), &genesis.did(Network::Mutinynet));
            prop_assert_eq!(document.hash(), json::document_hash(document.value()));
        }
    }

    #[test]
    fn any_patch_applies_or_fails(operations in prop::collection::vec(
        (prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test"]), any::<prop::sample::Index>(), any::<prop::sample::Index>(), json_value()),
        0..12,
    )) {
        let [initial, ..] = corpus_documents();
        let mut found = vec!["/service/-".to_owned(), "/new".to_owned(), "bad".to_owned()];
        paths(initial.value(), "", &mut found);
        let operations: Vec<Value> = operations
            .into_iter()
            .map(|(op, path, from, operand)| {
                value!({"op": op, "path": path.get(&found), "from": from.get(&found), "value": operand})
            })
            .collect();
        if let Ok(patch) = DocumentPatch::from_value(&operations.into()) {
            let _ = patch.apply(initial.value());
            let _ = UnsignedUpdate::new(&initial, 1, &patch);
        }
    }
}
