//! MuSig2 through the public API: known answers, a second implementation, and properties.
//!
//! The vectors of BIP-327 that need keys or tweaks no cohort has are run in `src/core/keys/bip327_tests.rs`.

use bitcoin::KnownHrp;
use bitcoin::key::TweakedPublicKey;
use btcr2_agent::hash::{CohortId, SchnorrSignature};
use btcr2_agent::keys::musig::{
    AggregateError, BadPartial, KeySetError, NoNonces, ParseMusigError, aggregate_nonces,
    aggregate_partials, session_hash, verify_partial,
};
use btcr2_agent::keys::{
    AggregateNonce, KeySet, NonceSlot, NostrKey, OwnKey, PartialSignature, PublicNonce,
    SessionEntry, Signer,
};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::{Label, Round, SessionId};
use btcr2_agent::time::UnixTime;
use proptest::prelude::*;
use rand::RngCore as _;
use secp256k1_033 as libsecp;
use secp256k1_033::musig as libmusig;

fn key(number: u8) -> OwnKey {
    let mut secret = [0; 32];
    secret[31] = number;
    OwnKey::from_bytes(&secret).unwrap()
}

fn public(numbers: &[u8]) -> Vec<NostrKey> {
    numbers.iter().map(|n| key(*n).public()).collect()
}

fn key_set(numbers: &[u8]) -> KeySet {
    KeySet::new(&public(numbers)).unwrap()
}

fn slot(seat: NostrKey, attempt: u32) -> NonceSlot {
    NonceSlot {
        seat,
        session: SessionId::of_round(CohortId::from_bytes([1; 32]), Round(1), attempt),
        label: Label::SIGNAL,
    }
}

/// What a session of signers produced, in the order of the key set.
struct Session {
    keys: KeySet,
    nonces: Vec<PublicNonce>,
    aggregate: AggregateNonce,
    partials: Vec<PartialSignature>,
}

/// One whole session of the members whose secrets are `numbers`, each with a signer of its own.
fn run(numbers: &[u8], sighash: &[u8; 32]) -> Session {
    let keys = key_set(numbers);
    let mut signers: Vec<(NostrKey, Signer)> = numbers
        .iter()
        .map(|n| {
            let mut signer = Signer::new();
            signer.add_seat(key(*n));
            (key(*n).public(), signer)
        })
        .collect();
    signers.sort_by_key(|(seat, _)| keys.position(seat));
    let nonces: Vec<_> = signers
        .iter_mut()
        .map(|(seat, signer)| signer.new_nonces(slot(*seat, 1), UnixTime(1)).unwrap())
        .collect();
    let aggregate = aggregate_nonces(&nonces).unwrap();
    let partials = signers
        .iter_mut()
        .zip(&nonces)
        .map(|((seat, signer), nonce)| {
            signer
                .sign(slot(*seat, 1), nonce, &keys, &aggregate, sighash)
                .unwrap()
        })
        .collect();
    Session {
        keys,
        nonces,
        aggregate,
        partials,
    }
}

fn verify_one(session: &Session, at: usize, sighash: &[u8; 32]) -> Result<(), BadPartial> {
    verify_partial(
        &session.keys,
        &session.keys.keys()[at],
        &session.nonces[at],
        &session.aggregate,
        sighash,
        &session.partials[at],
    )
}

fn output_verifies(keys: &KeySet, sighash: &[u8; 32], signature: &SchnorrSignature) -> bool {
    NostrKey::new(keys.output_key()).verifies(sighash, signature)
}

#[test]
fn bip327_nonce_aggregation() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/bip327/nonce_agg.json")).unwrap();
    let pick = |case: &serde_json::Value| -> Vec<Result<PublicNonce, ParseMusigError>> {
        case["pnonce_indices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| {
                let text = &vectors["pnonces"][usize::try_from(i.as_u64().unwrap()).unwrap()];
                text.as_str().unwrap().parse()
            })
            .collect()
    };
    let valid = vectors["valid_case"].as_array().unwrap();
    assert_eq!(valid.len(), 2);
    for case in valid {
        let nonces: Vec<_> = pick(case).into_iter().map(Result::unwrap).collect();
        let expected = case["expected"].as_str().unwrap();
        // The second case has infinity in its second half.
        assert_eq!(aggregate_nonces(&nonces).unwrap().to_string(), expected);
        let parsed: AggregateNonce = expected.parse().unwrap();
        assert_eq!(parsed, aggregate_nonces(&nonces).unwrap());
    }
    let invalid = vectors["error_case"].as_array().unwrap();
    assert_eq!(invalid.len(), 3);
    for case in invalid {
        let bad = usize::try_from(case["invalid_nonce_idx"].as_u64().unwrap()).unwrap();
        for (at, nonce) in pick(case).into_iter().enumerate() {
            assert_eq!(nonce.is_err(), at == bad, "{case}");
        }
    }
    assert_eq!(aggregate_nonces(&[]), Err(NoNonces));
}

/// Internal key, output key and addresses, computed by an independent implementation of BIP-327, BIP-341 and
/// BIP-350 that also reproduces BIP-86's first address.
#[test]
fn key_aggregation_known_answers() {
    for (secrets, internal, output, mainnet, signet, regtest) in [
        (
            // 1, 2 and 3: all points even; internal and output key even.
            vec![1, 2, 3],
            "0a8111534296d6fef2b23ad86d0d982b7b2f0fe6a48f03b1827954da2026f8dc",
            "df24a2baa32706323dce49f831742985efc052db033071286954ad369b5cfa65",
            "bc1pmuj29w4ryurry0wwf8urzapfshhuq5kmqvc8z2rf2jkndx6ulfjs9cnlw8",
            "tb1pmuj29w4ryurry0wwf8urzapfshhuq5kmqvc8z2rf2jkndx6ulfjsjs9s5g",
            "bcrt1pmuj29w4ryurry0wwf8urzapfshhuq5kmqvc8z2rf2jkndx6ulfjslf0kpj",
        ),
        (
            // 6 has an odd point, which counts as even; internal and output key odd.
            vec![6, 7, 8],
            "0197774da2b299f7712670d232d1418de5aa32bd91b3c0dc694c1d2c4ab359c7",
            "814d9965c9750a54af779a7f37456b524952d5da34938c356b22e452ffdea0d5",
            "bc1ps9xejewfw599ftmhnflnw3tt2fy494w6xjfccdttytj99l775r2skqg7h0",
            "tb1ps9xejewfw599ftmhnflnw3tt2fy494w6xjfccdttytj99l775r2spg73dq",
            "bcrt1ps9xejewfw599ftmhnflnw3tt2fy494w6xjfccdttytj99l775r2sv35hc6",
        ),
        (
            // A cohort of one still aggregates: its key is not the member's key.
            vec![6],
            "576505b86e00bb07022b91a1f0c85db909263865aca3883180bbd60e9aa8a427",
            "8c5b0e689fa5b47e87248ebc052810bcaeda2fb5b17bb4daf2b4a9064edc623a",
            "bc1p33dsu6yl5k68apey367q22qshjhd5ta4k9amfkhjkj5svnkuvgaqws6ezp",
            "tb1p33dsu6yl5k68apey367q22qshjhd5ta4k9amfkhjkj5svnkuvgaqecvkcw",
            "bcrt1p33dsu6yl5k68apey367q22qshjhd5ta4k9amfkhjkj5svnkuvgaq5pxsd5",
        ),
    ] {
        let keys = key_set(&secrets);
        assert_eq!(keys.internal_key().to_string(), internal);
        assert_eq!(keys.output_key().to_string(), output);
        let tweaked = TweakedPublicKey::dangerous_assume_tweaked(keys.output_key());
        for (network, address) in [
            (Network::Bitcoin, mainnet),
            (Network::Signet, signet),
            (Network::Regtest, regtest),
        ] {
            let hrp = KnownHrp::from(network.bitcoin_network());
            let found = bitcoin::Address::p2tr_tweaked(tweaked, hrp);
            assert_eq!(found.to_string(), address);
            // The same through rust-bitcoin's own BIP-341 tweak of the internal key.
            let secp = bitcoin::secp256k1::SECP256K1;
            let by_bitcoin = bitcoin::Address::p2tr(secp, keys.internal_key(), None, hrp);
            assert_eq!(by_bitcoin, found);
        }
    }
}

#[test]
fn a_key_set_is_sorted_distinct_and_not_empty() {
    let keys = key_set(&[3, 1, 2]);
    let mut sorted = public(&[1, 2, 3]);
    sorted.sort_by_key(|key| key.to_string());
    assert_eq!(keys.keys(), sorted);
    assert_eq!(keys.len(), 3);
    assert_eq!(keys, key_set(&[2, 3, 1]));
    assert_ne!(keys, key_set(&[2, 3, 4]));
    for (at, key) in sorted.iter().enumerate() {
        assert_eq!(keys.position(key), Some(at));
    }
    assert!(!keys.contains(&key(4).public()));
    assert_eq!(KeySet::new(&[]), Err(KeySetError::Empty));
    assert_eq!(
        KeySet::new(&public(&[1, 2, 1])),
        Err(KeySetError::Duplicate(key(1).public()))
    );
}

#[test]
fn cohorts_of_several_sizes_sign() {
    for (numbers, sighash) in [
        (vec![6], [0; 32]),
        (vec![1, 6], [0xff; 32]),
        (vec![6, 7, 8], [3; 32]),
        ((1..=9).collect(), [4; 32]),
    ] {
        let session = run(&numbers, &sighash);
        for at in 0..numbers.len() {
            assert_eq!(verify_one(&session, at, &sighash), Ok(()));
        }
        let signature = aggregate_partials(
            &session.keys,
            &session.aggregate,
            &sighash,
            session.partials.iter().copied(),
        )
        .unwrap();
        assert!(output_verifies(&session.keys, &sighash, &signature));
        // By the other copy of libsecp256k1 too.
        let other = libsecp::XOnlyPublicKey::from_byte_array(session.keys.output_key().serialize());
        libsecp::schnorr::verify(
            &libsecp::schnorr::Signature::from_byte_array(signature.to_bytes()),
            &sighash,
            &other.unwrap(),
        )
        .unwrap();
    }
}

/// Two of ours and one member that runs libsecp256k1's MuSig2: each side verifies what the other made, and both
/// come to the same signature.
#[test]
fn mixed_session_with_libsecp() {
    // 6 has an odd point: as ours and as theirs.
    for (ours, theirs) in [([6, 7], 8_u8), ([7, 8], 6)] {
        let sighash = [0x77; 32];
        let numbers = [ours[0], ours[1], theirs];
        let keys = key_set(&numbers);

        // Their view: plain points, sorted, aggregated and tweaked by their own code.
        let points: Vec<libsecp::PublicKey> = keys
            .keys()
            .iter()
            .map(|key| libsecp::PublicKey::from_slice(&key.even_point().serialize()).unwrap())
            .collect();
        let mut sorted: Vec<&libsecp::PublicKey> = points.iter().collect();
        libsecp::sort_pubkeys(&mut sorted);
        assert_eq!(sorted, points.iter().collect::<Vec<_>>(), "KeySort agrees");
        let mut cache = libmusig::KeyAggCache::new(&sorted);
        assert_eq!(
            cache.agg_pk().to_byte_array(),
            keys.internal_key().serialize()
        );
        let tweak = btcr2_agent::hash::tagged_hash("TapTweak", &[&keys.internal_key().serialize()]);
        cache
            .pubkey_xonly_tweak_add(&libsecp::Scalar::from_be_bytes(tweak).unwrap())
            .unwrap();
        assert_eq!(
            cache.agg_pk().to_byte_array(),
            keys.output_key().serialize()
        );
        let their_secret = key(theirs).keypair().secret_bytes();
        let their_pair = libsecp::Keypair::from_secret_key(
            &libsecp::SecretKey::from_secret_bytes(their_secret).unwrap(),
        );
        let mut random = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut random);
        let (their_secret_nonce, their_nonce) = cache.nonce_gen_with_uniform_randomness(
            libmusig::SessionSecretRand::assume_uniformly_random(random),
            their_pair.public_key(),
            &sighash,
            random,
        );

        // Our view.
        let mut signer = Signer::new();
        let mut nonces: Vec<(NostrKey, PublicNonce)> = Vec::new();
        for number in ours {
            signer.add_seat(key(number));
            let seat = key(number).public();
            let nonce = signer.new_nonces(slot(seat, 1), UnixTime(1)).unwrap();
            nonces.push((seat, nonce));
        }
        let theirs_here = PublicNonce::from_bytes(&their_nonce.serialize()).unwrap();
        nonces.push((key(theirs).public(), theirs_here));
        let aggregate =
            aggregate_nonces(&nonces.iter().map(|(_, nonce)| *nonce).collect::<Vec<_>>()).unwrap();

        // Their session, from our bytes.
        let nonces_there: Vec<_> = nonces
            .iter()
            .map(|(_, n)| libmusig::PublicNonce::from_byte_array(&n.to_bytes()).unwrap())
            .collect();
        let aggregate_there =
            libmusig::AggregatedNonce::new(&nonces_there.iter().collect::<Vec<_>>());
        assert_eq!(aggregate_there.serialize(), aggregate.to_bytes());
        let session = libmusig::Session::new(&cache, aggregate_there, &sighash);
        let their_partial = session.partial_sign(their_secret_nonce, &their_pair, &cache);

        let mut partials = Vec::new();
        for (seat, nonce) in &nonces[..2] {
            let partial = signer
                .sign(slot(*seat, 1), nonce, &keys, &aggregate, &sighash)
                .unwrap();
            let there = libmusig::PartialSignature::from_byte_array(&partial.to_bytes()).unwrap();
            let nonce = libmusig::PublicNonce::from_byte_array(&nonce.to_bytes()).unwrap();
            let point = libsecp::PublicKey::from_slice(&seat.even_point().serialize()).unwrap();
            assert!(session.partial_verify(&cache, &there, &nonce, point));
            partials.push(partial);
        }
        let (their_seat, their_nonce) = nonces[2];
        let theirs_here = PartialSignature::from_bytes(&their_partial.serialize()).unwrap();
        assert_eq!(
            verify_partial(
                &keys,
                &their_seat,
                &their_nonce,
                &aggregate,
                &sighash,
                &theirs_here
            ),
            Ok(())
        );
        partials.push(theirs_here);

        let signature =
            aggregate_partials(&keys, &aggregate, &sighash, partials.iter().copied()).unwrap();
        let partials_there: Vec<_> = partials
            .iter()
            .map(|p| libmusig::PartialSignature::from_byte_array(&p.to_bytes()).unwrap())
            .collect();
        let signature_there = session
            .partial_sig_agg(&partials_there.iter().collect::<Vec<_>>())
            .verify(&cache.agg_pk(), &sighash)
            .unwrap();
        assert_eq!(signature_there.to_byte_array(), signature.to_bytes());
    }
}

#[test]
fn a_bad_partial_is_blamed_on_its_sender_and_nobody_else() {
    let sighash = [9; 32];
    let mut session = run(&[1, 6, 7, 8], &sighash);
    let seats = session.keys.keys().to_vec();
    let good = session.partials[2];
    let mut bytes = good.to_bytes();
    bytes[31] ^= 1;
    let zero = [0; 32];
    for bad in [bytes, zero, session.partials[1].to_bytes()] {
        session.partials[2] = PartialSignature::from_bytes(&bad).unwrap();
        for (at, seat) in seats.iter().enumerate() {
            let expected = if at == 2 {
                Err(BadPartial::Invalid(*seat))
            } else {
                Ok(())
            };
            assert_eq!(verify_one(&session, at, &sighash), expected);
        }
        assert_eq!(
            aggregate_partials(
                &session.keys,
                &session.aggregate,
                &sighash,
                session.partials.iter().copied()
            ),
            Err(AggregateError::Invalid)
        );
    }
    session.partials[2] = good;
    // Another message, another nonce, another aggregate, a stranger.
    assert!(verify_one(&session, 2, &[8; 32]).is_err());
    session.nonces.swap(0, 2);
    assert!(verify_one(&session, 2, &sighash).is_err());
    session.nonces.swap(0, 2);
    let other = run(&[1, 6, 7, 8], &sighash);
    let stranger = key(5).public();
    assert_eq!(
        verify_partial(
            &session.keys,
            &seats[2],
            &session.nonces[2],
            &other.aggregate,
            &sighash,
            &good
        ),
        Err(BadPartial::Invalid(seats[2]))
    );
    assert_eq!(
        verify_partial(
            &session.keys,
            &stranger,
            &session.nonces[2],
            &session.aggregate,
            &sighash,
            &good
        ),
        Err(BadPartial::UnknownSigner(stranger))
    );
}

#[test]
fn every_member_has_to_sign() {
    let sighash = [9; 32];
    let session = run(&[1, 2, 3], &sighash);
    let aggregate = |partials: Vec<PartialSignature>| {
        aggregate_partials(&session.keys, &session.aggregate, &sighash, partials)
    };
    let all = session.partials.clone();
    assert!(aggregate(all.clone()).is_ok());
    for (got, partials) in [
        (0, Vec::new()),
        (2, all[..2].to_vec()),
        (4, [all.clone(), vec![all[0]]].concat()),
    ] {
        assert_eq!(
            aggregate(partials),
            Err(AggregateError::Count { got, want: 3 })
        );
    }
    // An endless iterator ends.
    assert_eq!(
        aggregate_partials(
            &session.keys,
            &session.aggregate,
            &sighash,
            std::iter::repeat(all[0])
        ),
        Err(AggregateError::Count { got: 4, want: 3 })
    );
    assert_eq!(
        aggregate(vec![all[0], all[1], all[1]]),
        Err(AggregateError::Invalid)
    );
}

/// Who sees the others' nonces first can make the sum infinity. Signing goes on, as BIP-327 says, and the
/// cheat is the one whose partial signature fails.
#[test]
fn a_cancelled_aggregate_nonce_does_not_stop_the_blame() {
    let sighash = [5; 32];
    let keys = key_set(&[6, 7]);
    let [honest, cheat] = [key(6).public(), key(7).public()];
    let mut signer = Signer::new();
    signer.add_seat(key(6));
    let nonce = signer.new_nonces(slot(honest, 1), UnixTime(1)).unwrap();
    let mut negated = nonce.to_bytes();
    negated[0] ^= 1;
    negated[33] ^= 1;
    let negated = PublicNonce::from_bytes(&negated).unwrap();
    let aggregate = aggregate_nonces(&[nonce, negated]).unwrap();
    assert_eq!(aggregate.to_bytes(), [0; 66]);
    let partial = signer
        .sign(slot(honest, 1), &nonce, &keys, &aggregate, &sighash)
        .unwrap();
    let check = |seat, nonce| verify_partial(&keys, seat, nonce, &aggregate, &sighash, &partial);
    assert_eq!(check(&honest, &nonce), Ok(()));
    assert_eq!(check(&cheat, &negated), Err(BadPartial::Invalid(cheat)));
}

#[test]
fn session_hash_known_answer_and_commitments() {
    // The points 5G and 6G, 7G and infinity; computed by an independent implementation.
    let entry = SessionEntry {
        label: Label::SIGNAL,
        nonce: "022f8bde4d1a07209355b4a7250a5c5128e88b84bddc619ab7cba8d569b240efe403fff97bd5755eeea420453a14355235d382f6472f8568a18b2f057a1460297556".parse().unwrap(),
        aggregate: "025cbdf0646e5db4eaa398f365f2ea7a0e3d419b7e0330e39ce92bddedcac4f9bc000000000000000000000000000000000000000000000000000000000000000000".parse().unwrap(),
        sighash: [0x5a; 32],
    };
    let keys = key_set(&[1, 2, 3]);
    let hash = session_hash(&keys, &[entry]);
    assert_eq!(
        hash.to_string(),
        "274bf15caae398da01da75b4ca62fd4071c8c2516830b3c2e69f115f63ea945b"
    );
    assert_eq!(hash, session_hash(&key_set(&[3, 2, 1]), &[entry]));

    let mut other_sighash = entry;
    other_sighash.sighash[31] ^= 1;
    let mut other_nonce = entry;
    other_nonce.nonce = run(&[1], &[0; 32]).nonces[0];
    let mut other_aggregate = entry;
    other_aggregate.aggregate = run(&[1], &[0; 32]).aggregate;
    for different in [
        session_hash(&key_set(&[1, 2, 4]), &[entry]),
        session_hash(&keys, &[other_sighash]),
        session_hash(&keys, &[other_nonce]),
        session_hash(&keys, &[other_aggregate]),
        session_hash(&keys, &[]),
        session_hash(&keys, &[entry, entry]),
    ] {
        assert_ne!(different, hash);
    }
}

#[test]
fn wire_texts_are_checked() {
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    assert_eq!(
        order.parse::<PartialSignature>(),
        Err(ParseMusigError::NotBelowOrder)
    );
    let below = order.replace("4141", "4140");
    assert_eq!(
        below.parse::<PartialSignature>().unwrap().to_string(),
        below
    );
    assert_eq!(
        below.to_uppercase().parse::<PartialSignature>(),
        Err(ParseMusigError::Encoding(32))
    );

    let nonce = run(&[1], &[0; 32]).nonces[0].to_string();
    assert_eq!(
        nonce.to_uppercase().parse::<PublicNonce>(),
        Err(ParseMusigError::Encoding(66))
    );
    assert_eq!(
        nonce[..130].parse::<PublicNonce>(),
        Err(ParseMusigError::Encoding(66))
    );
    let infinity = "00".repeat(33);
    let half = format!("{}{infinity}", &nonce[..66]);
    assert_eq!(
        half.parse::<PublicNonce>(),
        Err(ParseMusigError::NotOnCurve(2))
    );
    assert_eq!(half.parse::<AggregateNonce>().unwrap().to_string(), half);
    let both = infinity.repeat(2);
    assert_eq!(both.parse::<AggregateNonce>().unwrap().to_string(), both);
    // Uncompressed and hybrid prefixes, and an x without a point.
    for bad in [
        format!("04{}", &nonce[2..]),
        format!("06{}", &nonce[2..]),
        format!("02{:064x}{}", 5, &nonce[66..]),
    ] {
        assert_eq!(
            bad.parse::<PublicNonce>(),
            Err(ParseMusigError::NotOnCurve(1))
        );
        assert_eq!(
            bad.parse::<AggregateNonce>(),
            Err(ParseMusigError::NotOnCurve(1))
        );
    }
    // serde uses the same text and the same checks.
    let json = serde_json::to_string(&nonce.parse::<PublicNonce>().unwrap()).unwrap();
    assert_eq!(json, format!("\"{nonce}\""));
    assert!(serde_json::from_str::<PublicNonce>(&json).is_ok());
    assert!(serde_json::from_str::<PublicNonce>(&format!("\"{half}\"")).is_err());
    assert!(serde_json::from_str::<PartialSignature>(&format!("\"{order}\"")).is_err());
}

/// Bytes that are often near a valid encoding.
fn nearly_nonce() -> impl Strategy<Value = [u8; 66]> {
    (
        any::<[u8; 32]>(),
        any::<[u8; 32]>(),
        0_u8..5,
        0_u8..5,
        any::<bool>(),
    )
        .prop_map(|(x1, x2, p1, p2, infinity)| {
            let mut bytes = [0; 66];
            bytes[0] = p1;
            bytes[1..33].copy_from_slice(&x1);
            if !infinity {
                bytes[33] = p2;
                bytes[34..].copy_from_slice(&x2);
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn foreign_bytes_parse_to_themselves_or_not_at_all(
        nonce in nearly_nonce(),
        partial in any::<[u8; 32]>(),
        text in "[0-9a-f]{0,140}",
    ) {
        if let Ok(parsed) = PublicNonce::from_bytes(&nonce) {
            prop_assert_eq!(parsed.to_bytes(), nonce);
            prop_assert_eq!(AggregateNonce::from_bytes(&nonce).unwrap().to_bytes(), nonce);
        }
        if let Ok(parsed) = AggregateNonce::from_bytes(&nonce) {
            prop_assert_eq!(parsed.to_bytes(), nonce);
        }
        if let Ok(parsed) = PartialSignature::from_bytes(&partial) {
            prop_assert_eq!(parsed.to_bytes(), partial);
        }
        let _ = text.parse::<PublicNonce>();
        let _ = text.parse::<AggregateNonce>();
        let _ = text.parse::<PartialSignature>();
    }

    /// Our key aggregation is libsecp256k1's, whatever the secrets and their order.
    #[test]
    fn key_sets_agree_with_libsecp(
        secrets in proptest::collection::hash_set(any::<[u8; 32]>(), 1..6),
        turn in any::<proptest::sample::Index>(),
    ) {
        let mut keys: Vec<NostrKey> = secrets
            .iter()
            .filter_map(|secret| OwnKey::from_bytes(secret).ok())
            .map(|key| key.public())
            .collect();
        prop_assume!(!keys.is_empty());
        let set = KeySet::new(&keys).unwrap();
        let at = turn.index(keys.len());
        keys.rotate_left(at);
        prop_assert_eq!(&KeySet::new(&keys).unwrap(), &set);
        let points: Vec<_> = keys
            .iter()
            .map(|key| libsecp::PublicKey::from_slice(&key.even_point().serialize()).unwrap())
            .collect();
        let mut sorted: Vec<_> = points.iter().collect();
        libsecp::sort_pubkeys(&mut sorted);
        let cache = libmusig::KeyAggCache::new(&sorted);
        prop_assert_eq!(cache.agg_pk().to_byte_array(), set.internal_key().serialize());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever signs and whatever is signed: the session ends in a signature, and one flipped bit in one
    /// partial signature is found at its sender.
    #[test]
    fn any_cohort_signs_any_message(
        numbers in proptest::collection::hash_set(1_u8..=255, 1..5),
        sighash in any::<[u8; 32]>(),
        bad in any::<proptest::sample::Index>(),
        bit in 0_usize..256,
    ) {
        let numbers: Vec<u8> = numbers.into_iter().collect();
        let mut session = run(&numbers, &sighash);
        let signature = aggregate_partials(
            &session.keys, &session.aggregate, &sighash, session.partials.iter().copied(),
        ).unwrap();
        prop_assert!(output_verifies(&session.keys, &sighash, &signature));
        let at = bad.index(numbers.len());
        let mut bytes = session.partials[at].to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(partial) = PartialSignature::from_bytes(&bytes) {
            session.partials[at] = partial;
            for member in 0..numbers.len() {
                prop_assert_eq!(verify_one(&session, member, &sighash).is_err(), member == at);
            }
        }
    }
}
