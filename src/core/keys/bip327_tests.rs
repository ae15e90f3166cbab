//! BIP-327's own test vectors, run through this crate's types and functions.
//!
//! The vectors use keys with odd Y, other tweaks and repeated keys, which no cohort has, so they enter below
//! [`super::KeySet`]: its construction is pinned by known answers in `tests/it/musig_vectors.rs`.

use musig2::secp::{MaybeScalar, Scalar};
use musig2::{KeyAggContext, SecNonce};
use secp256k1::{PublicKey, SecretKey, XOnlyPublicKey};
use serde_json::Value;

use super::musig::{
    AggregateNonce, PartialSignature, PublicNonce, aggregate_in, aggregate_nonces, from_point,
    to_point, verify_in,
};
use crate::hash::{array_from_hex, from_hex};

fn load(json: &str) -> Value {
    serde_json::from_str(json).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// The elements of `pool` at the indices in `indices`.
fn pick<'a>(pool: &'a Value, indices: &Value) -> Vec<&'a str> {
    list(indices)
        .iter()
        .map(|i| text(&pool[usize::try_from(i.as_u64().unwrap()).unwrap()]))
        .collect()
}

fn index(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn points(texts: &[&str]) -> Option<Vec<PublicKey>> {
    texts
        .iter()
        .map(|t| {
            // As BIP-327: plain keys are the compressed form only.
            let bytes: [u8; 33] = array_from_hex(t).ok()?;
            PublicKey::from_slice(&bytes).ok()
        })
        .collect()
}

fn nonces(texts: &[&str]) -> Vec<PublicNonce> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

/// The key aggregation of a case, with its tweaks.
fn context(vectors: &Value, case: &Value) -> Option<KeyAggContext> {
    let keys = points(&pick(&vectors["pubkeys"], &case["key_indices"]))?;
    let mut context = KeyAggContext::new(keys.into_iter().map(to_point)).unwrap();
    if case["tweak_indices"].is_array() {
        let tweaks = pick(&vectors["tweaks"], &case["tweak_indices"]);
        for (tweak, x_only) in tweaks.iter().zip(list(&case["is_xonly"])) {
            let tweak = Scalar::from_slice(&from_hex(tweak).unwrap()).ok()?;
            context = context.with_tweak(tweak, x_only == 1).ok()?;
        }
    }
    Some(context)
}

#[test]
fn key_agg() {
    let vectors = load(include_str!("../../../tests/vectors/bip327/key_agg.json"));
    let cases = list(&vectors["valid_case"]);
    assert_eq!(cases.len(), 4);
    for case in cases {
        let key = from_point(context(&vectors, case).unwrap().aggregated_pubkey());
        assert_eq!(
            key.x_only_public_key().0.to_string(),
            text(&case["expected"])
        );
    }
    let cases = list(&vectors["error_case"]);
    assert_eq!(cases.len(), 5);
    for case in cases {
        assert!(context(&vectors, case).is_none(), "{case}");
    }
}

#[test]
fn sign_and_verify() {
    let vectors = load(include_str!(
        "../../../tests/vectors/bip327/sign_verify.json"
    ));
    let secret: SecretKey = text(&vectors["sk"]).parse().unwrap();
    let scalar = Scalar::from_slice(&secret.secret_bytes()).unwrap();
    let nonce: PublicNonce = text(&vectors["pubnonces"][0]).parse().unwrap();
    let message = array_from_hex(text(&vectors["msgs"][0])).unwrap();
    let sign = |context: &KeyAggContext, aggregate: &AggregateNonce| {
        let secnonce: SecNonce = text(&vectors["secnonces"][0]).parse().unwrap();
        assert_eq!(PublicNonce::from_musig2(&secnonce.public_nonce()), nonce);
        let aggregate = aggregate.to_musig2();
        musig2::sign_partial::<MaybeScalar>(context, scalar, secnonce, &aggregate, message)
            .ok()
            .map(|scalar| PartialSignature::from_musig2(&scalar))
    };

    let cases = list(&vectors["valid_case"]);
    assert_eq!(cases.len(), 4);
    for case in cases {
        let context = context(&vectors, case).unwrap();
        // The second of these is infinity twice: signing goes on, as BIP-327 wants.
        let aggregate = text(&vectors["aggnonces"][index(&case["aggnonce_index"])]);
        let aggregate: AggregateNonce = aggregate.parse().unwrap();
        let partial = sign(&context, &aggregate).unwrap();
        assert_eq!(partial.to_string(), text(&case["expected"]));
        let signer = secret.public_key(secp256k1::SECP256K1);
        assert!(verify_in(
            &context, signer, &nonce, &aggregate, &message, &partial
        ));
    }

    let cases = list(&vectors["sign_error_case"]);
    assert_eq!(cases.len(), 6);
    for case in cases {
        let aggregate = text(&vectors["aggnonces"][index(&case["aggnonce_index"])]);
        match text(&case["error"]) {
            // The signer's key is not in the list, or a key of the list is not on the curve.
            "MUSIG_PUBKEY" => {
                let aggregate = aggregate.parse().unwrap();
                assert!(
                    context(&vectors, case).is_none_or(|c| sign(&c, &aggregate).is_none()),
                    "{case}"
                );
            }
            "MUSIG_AGGNONCE" => assert!(aggregate.parse::<AggregateNonce>().is_err(), "{case}"),
            "MUSIG_SECNONCE" => assert!(
                text(&vectors["secnonces"][index(&case["secnonce_index"])])
                    .parse::<SecNonce>()
                    .is_err()
            ),
            other => panic!("unknown error {other}"),
        }
    }

    let cases = list(&vectors["verify_fail_case"]);
    assert_eq!(cases.len(), 3);
    for case in cases {
        let partial = text(&case["sig"]).parse::<PartialSignature>();
        if text(&case["error"]) == "MUSIG_SIG" {
            assert!(partial.is_err(), "not below the order");
            continue;
        }
        let nonces = nonces(&pick(&vectors["pubnonces"], &case["nonce_indices"]));
        let signer = index(&case["signer_index"]);
        assert!(!verify_in(
            &context(&vectors, case).unwrap(),
            points(&pick(&vectors["pubkeys"], &case["key_indices"])).unwrap()[signer],
            &nonces[signer],
            &aggregate_nonces(&nonces).unwrap(),
            &message,
            &partial.unwrap(),
        ));
    }

    let cases = list(&vectors["verify_error_case"]);
    assert_eq!(cases.len(), 2);
    for case in cases {
        match text(&case["error"]) {
            "MUSIG_PUBNONCE" => assert!(
                pick(&vectors["pubnonces"], &case["nonce_indices"])[0]
                    .parse::<PublicNonce>()
                    .is_err()
            ),
            "MUSIG_PUBKEY" => assert!(context(&vectors, case).is_none()),
            other => panic!("unknown error {other}"),
        }
    }
}

#[test]
fn tweaks() {
    let vectors = load(include_str!("../../../tests/vectors/bip327/tweak.json"));
    let secret: SecretKey = text(&vectors["sk"]).parse().unwrap();
    let scalar = Scalar::from_slice(&secret.secret_bytes()).unwrap();
    let aggregate: AggregateNonce = text(&vectors["aggnonce"]).parse().unwrap();
    let message = array_from_hex(text(&vectors["msg"])).unwrap();
    let cases = list(&vectors["valid_case"]);
    assert_eq!(cases.len(), 5);
    for case in cases {
        let nonces = nonces(&pick(&vectors["pubnonces"], &case["nonce_indices"]));
        assert_eq!(aggregate_nonces(&nonces).unwrap(), aggregate);
        let context = context(&vectors, case).unwrap();
        let secnonce: SecNonce = text(&vectors["secnonce"]).parse().unwrap();
        let partial: MaybeScalar =
            musig2::sign_partial(&context, scalar, secnonce, &aggregate.to_musig2(), message)
                .unwrap();
        let partial = PartialSignature::from_musig2(&partial);
        assert_eq!(partial.to_string(), text(&case["expected"]));
        assert!(verify_in(
            &context,
            secret.public_key(secp256k1::SECP256K1),
            &nonces[index(&case["signer_index"])],
            &aggregate,
            &message,
            &partial,
        ));
    }
    for case in list(&vectors["error_case"]) {
        assert!(context(&vectors, case).is_none(), "tweak above the order");
    }
}

#[test]
fn signature_aggregation() {
    let vectors = load(include_str!("../../../tests/vectors/bip327/sig_agg.json"));
    let message = array_from_hex(text(&vectors["msg"])).unwrap();
    let run = |case: &Value| {
        let context = context(&vectors, case).unwrap();
        let aggregate = text(&case["aggnonce"]).parse().unwrap();
        let partials = pick(&vectors["psigs"], &case["psig_indices"])
            .iter()
            .map(|t| t.parse::<PartialSignature>().ok())
            .collect::<Option<Vec<_>>>()?;
        aggregate_in(&context, &aggregate, &message, &partials)
    };
    let cases = list(&vectors["valid_case"]);
    assert_eq!(cases.len(), 4);
    for case in cases {
        assert_eq!(run(case).unwrap().to_string(), text(&case["expected"]));
    }
    assert_eq!(run(&vectors["error_case"][0]), None);
}

/// The crate's NonceGen is BIP-327's: what [`super::signer`] feeds it is hashed as the BIP says.
#[test]
fn nonce_generation() {
    let vectors = load(include_str!("../../../tests/vectors/bip327/nonce_gen.json"));
    let case = &vectors["test_case"][1];
    let key: PublicKey = text(&case["pk"]).parse().unwrap();
    let seed: [u8; 32] = array_from_hex(text(&case["rand_"])).unwrap();
    let nonce = SecNonce::build_with_pubkey(seed, to_point(key)).build();
    assert_eq!(
        crate::hash::to_hex(&nonce.serialize()),
        text(&case["expected_secnonce"])
    );

    let case = &vectors["test_case"][0];
    let bytes = |name: &str| from_hex(text(&case[name])).unwrap();
    let aggregate =
        XOnlyPublicKey::from_slice(&bytes("aggpk")).map(|x| x.public_key(secp256k1::Parity::Even));
    let secret = Scalar::from_slice(&bytes("sk")).unwrap();
    let nonce = SecNonce::generate(
        seed,
        secret,
        to_point(aggregate.unwrap()),
        bytes("msg"),
        bytes("extra_in"),
    );
    assert_eq!(
        crate::hash::to_hex(&nonce.serialize()),
        text(&case["expected_secnonce"])
    );
    assert_eq!(
        PublicNonce::from_musig2(&nonce.public_nonce()).to_string(),
        text(&case["expected_pubnonce"])
    );
}
