use bitcoin::consensus::encode::serialize;
use bitcoin::{OutPoint, TxOut, Txid};

use super::*;
use crate::beacon::address::beacon_script;
use crate::beacon::signal::{SignalFault, check_signal};
use crate::hash::to_hex;
use crate::keys::OwnKey;

/// The key with this small secret; negated where its point has odd Y.
fn key(secret: u8) -> OwnKey {
    let mut bytes = [0; 32];
    bytes[31] = secret;
    OwnKey::from_bytes(&bytes).unwrap()
}

fn public(secrets: impl IntoIterator<Item = u8>) -> Vec<NostrKey> {
    secrets
        .into_iter()
        .map(|secret| key(secret).public())
        .collect()
}

fn internal(secret: u8) -> XOnlyPublicKey {
    key(secret).public().x_only()
}

/// A signal transaction that spends outputs of the leaf of 100 000 sat each.
struct Spend {
    tx: Transaction,
    inputs: Vec<BeaconOutput>,
    script: ScriptBuf,
}

impl Spend {
    fn sighashes(&self, leaf: &FallbackLeaf) -> Vec<[u8; 32]> {
        let digests = leaf.sighashes(&self.tx, &self.inputs, &self.script);
        digests.unwrap()
    }

    /// The digest of the only input.
    fn sighash(&self, leaf: &FallbackLeaf) -> [u8; 32] {
        let [digest] = self.sighashes(leaf).try_into().unwrap();
        digest
    }

    /// Bitcoin Core's own verification of every input.
    fn accepts(&self, tx: &Transaction) -> bool {
        consensus(tx, &prevouts(&self.inputs, &self.script))
    }
}

fn spend(leaf: &FallbackLeaf, internal: XOnlyPublicKey, inputs: u8) -> Spend {
    let script = beacon_script(leaf.output_key(internal).0);
    let inputs: Vec<BeaconOutput> = (0..inputs)
        .map(|number| BeaconOutput {
            outpoint: OutPoint::new(
                Txid::from_byte_array(std::array::from_fn(|i| i as u8 + number)),
                7,
            ),
            value: Amount::from_sat(100_000),
            height: None,
        })
        .collect();
    let signal: SignalBytes = "39d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d5"
        .parse()
        .unwrap();
    let change = Some(Amount::from_sat(90_000));
    Spend {
        tx: transaction(&inputs, change, &script, signal),
        inputs,
        script,
    }
}

fn signatures(
    signers: impl IntoIterator<Item = u8>,
    sighash: &[u8; 32],
) -> BTreeMap<NostrKey, SchnorrSignature> {
    signers
        .into_iter()
        .map(|secret| {
            let key = key(secret);
            (key.public(), key.sign_digest(sighash))
        })
        .collect()
}

fn consensus(tx: &Transaction, prevouts: &[TxOut]) -> bool {
    let raw = serialize(tx);
    let spent: Vec<bitcoinconsensus::Utxo> = prevouts
        .iter()
        .map(|output| bitcoinconsensus::Utxo {
            script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: u32::try_from(output.script_pubkey.len()).unwrap(),
            value: i64::try_from(output.value.to_sat()).unwrap(),
        })
        .collect();
    let flags = bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;
    prevouts.iter().enumerate().all(|(input, output)| {
        bitcoinconsensus::verify_with_flags(
            output.script_pubkey.as_bytes(),
            output.value.to_sat(),
            &raw,
            Some(&spent),
            input,
            flags,
        )
        .is_ok()
    })
}

/// Scripts, leaf hashes, output keys, control blocks and the signature hash were computed by another program from
/// BIP-340, BIP-341 and BIP-342 alone.
#[test]
fn known_answers() {
    let leaf = FallbackLeaf::new(&public([3, 1, 2]), 2).unwrap();
    assert_eq!(
        leaf.script().to_hex_string(),
        concat!(
            "2079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798ac",
            "20c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5ba",
            "20f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9ba",
            "529c"
        )
    );
    assert_eq!(
        to_hex(&leaf.merkle_root()),
        "d98e12c453600f2b11ee3b7c0047b218477e0e328694177b3fa12a206eb4e95d"
    );
    // The output key has odd Y under one internal key and even Y under the other.
    let (output, parity) = leaf.output_key(internal(4));
    assert_eq!(
        (output.to_string().as_str(), parity),
        (
            "1bc1b431d5f326793e23edfe07f43f6cc12359ac76f9d090ca0e700286ae19f9",
            Parity::Odd
        )
    );
    assert_eq!(
        to_hex(&leaf.control_block(internal(4))),
        "c1e493dbf1c10d80f3581e4904930b1404cc6c13900ee0758474fa94abe8c4cd13"
    );
    let (output, parity) = leaf.output_key(internal(3));
    assert_eq!(
        (output.to_string().as_str(), parity),
        (
            "23ebafdc699c1196a79ed8ffcfe7a6b1a37ee19aa1c8d8059e89760404ff3d36",
            Parity::Even
        )
    );
    assert_eq!(
        to_hex(&leaf.control_block(internal(3))),
        "c0f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"
    );
    let spend = spend(&leaf, internal(3), 1);
    assert_eq!(
        to_hex(&spend.sighash(&leaf)),
        "c7153c757511d017f74376267555a7a0213fd858f4f7112207244ed787219a39"
    );
    assert_eq!(leaf.sighashes(&spend.tx, &[], &spend.script), None);
    let mut other = spend.inputs.clone();
    other[0].outpoint.vout += 1;
    assert_eq!(leaf.sighashes(&spend.tx, &other, &spend.script), None);

    let one_of_two = FallbackLeaf::new(&public([5, 1]), 1).unwrap();
    assert_eq!(
        one_of_two.script().to_hex_string(),
        concat!(
            "202f8bde4d1a07209355b4a7250a5c5128e88b84bddc619ab7cba8d569b240efe4ac",
            "2079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798ba",
            "519c"
        )
    );
}

/// The threshold as a number that has no opcode, of one byte and of two.
#[test]
fn high_thresholds_are_pushed_minimally() {
    let leaf = FallbackLeaf::new(&public(1..=18), 17).unwrap();
    assert_eq!(leaf.script().len(), 615);
    assert_eq!(leaf.script().as_bytes()[612..], [0x01, 0x11, 0x9c]);
    assert_eq!(
        to_hex(&leaf.merkle_root()),
        "741292e80b1ed1a8269d148ac1b55b30c11f5e36d10b55a859da80228ebad648"
    );
    let leaf = FallbackLeaf::new(&public(1..=200), 128).unwrap();
    assert!(
        leaf.script()
            .as_bytes()
            .ends_with(&[0x02, 0x80, 0x00, 0x9c])
    );
    assert_eq!(
        to_hex(&leaf.merkle_root()),
        "b874f749f814d0e11cd087a1d47bf933668734d658afbc48977d54225e207e52"
    );
}

/// The witness of two of three, element by element.
#[test]
fn the_last_keys_signature_comes_first() {
    let leaf = FallbackLeaf::new(&public([1, 2, 3]), 2).unwrap();
    let made = signatures([1, 3], &[7; 32]);
    let witness = leaf.witness(internal(4), &made).unwrap();
    let elements: Vec<Vec<u8>> = witness.iter().map(<[u8]>::to_vec).collect();
    // By x coordinate the keys are in the order 1, 2, 3.
    let of = |secret: u8| made[&key(secret).public()].as_bytes().to_vec();
    let expected = vec![
        of(3),
        Vec::new(),
        of(1),
        leaf.script().to_bytes(),
        leaf.control_block(internal(4)),
    ];
    assert_eq!(elements, expected);
}

/// Which k of the n sign does not matter: the chain takes it, its weight is the one foretold, and it is recognised.
#[test]
fn the_chain_takes_what_any_k_sign() {
    for (n, k, inputs) in [
        (1, 1, 1),
        (2, 1, 1),
        (3, 2, 1),
        (3, 3, 2),
        (5, 2, 3),
        (7, 4, 1),
        (20, 19, 2),
        (100, 60, 1),
    ] {
        let leaf = FallbackLeaf::new(&public(1..=n), k).unwrap();
        let spend = spend(&leaf, internal(200), inputs);
        let (mut tx, unsigned) = (spend.tx.clone(), spend.tx.weight());
        // The last k sign; where there is room, one more than needed.
        let first = (n - u8::try_from(k).unwrap()).max(1);
        for (input, sighash) in spend.sighashes(&leaf).into_iter().enumerate() {
            let made = signatures(first..=n, &sighash);
            let witness = leaf.witness(internal(200), &made).unwrap();
            assert_eq!(
                leaf.check_witness(&witness, internal(200), &sighash),
                Ok(())
            );
            tx.input[input].witness = witness;
        }
        assert!(spend.accepts(&tx), "{k} of {n}");
        let foretold = leaf.witness_weight().to_wu() * u64::from(inputs) + 2;
        assert_eq!((tx.weight() - unsigned).to_wu(), foretold, "{k} of {n}");
    }
}

/// Fewer than k can not spend, nor can k with a signature for something else or in another's place: neither for
/// the chain nor for a member that is shown the transaction.
#[test]
fn nothing_less_is_taken() {
    let leaf = FallbackLeaf::new(&public(1..=5), 3).unwrap();
    let spend = spend(&leaf, internal(9), 1);
    let sighash = spend.sighash(&leaf);
    assert_eq!(
        leaf.witness(internal(9), &signatures([1, 2], &sighash)),
        None
    );
    let good = leaf
        .witness(internal(9), &signatures([1, 2, 4], &sighash))
        .unwrap();
    let elements: Vec<Vec<u8>> = good.iter().map(<[u8]>::to_vec).collect();
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut elements = elements.clone();
        change(&mut elements);
        let mut tx = spend.tx.clone();
        tx.input[0].witness = Witness::from_slice(&elements);
        assert!(!spend.accepts(&tx));
        leaf.check_witness(&tx.input[0].witness, internal(9), &sighash)
            .unwrap_err()
    };
    let signed: Vec<usize> = (0..5).filter(|at| !elements[*at].is_empty()).collect();
    let count = |found| WitnessFault::Count {
        found,
        threshold: 3,
    };
    assert_eq!(with(&|all| all[signed[0]].clear()), count(2));
    assert!(matches!(
        with(&|all| all[signed[0]][0] ^= 1),
        WitnessFault::Signature(_)
    ));
    assert!(matches!(
        with(&|all| all.swap(signed[0], signed[1])),
        WitnessFault::Signature(_)
    ));
    assert!(matches!(
        with(&|all| all[5][1] ^= 1),
        WitnessFault::OtherLeaf
    ));
    assert!(matches!(
        with(&|all| all[6][0] ^= 1),
        WitnessFault::OtherLeaf
    ));
    assert_eq!(
        with(&|all| all.truncate(6)),
        WitnessFault::Elements {
            found: 6,
            expected: 7
        }
    );
    // One more than k is too many: the script counts exactly.
    let fifth = key(5).sign_digest(&sighash).as_bytes().to_vec();
    let place = leaf.keys.iter().rev().position(|k| *k == key(5).public());
    assert_eq!(
        with(&|all| all[place.unwrap()].clone_from(&fifth)),
        count(4)
    );
}

#[test]
fn leaves_that_can_not_be() {
    let three = public([1, 2, 3]);
    let refused = |threshold| LeafError::Threshold { threshold, keys: 3 };
    assert_eq!(FallbackLeaf::new(&three, 0), Err(refused(0)));
    assert_eq!(FallbackLeaf::new(&three, 4), Err(refused(4)));
    assert_eq!(
        FallbackLeaf::new(&public([1, 2, 1]), 2),
        Err(LeafError::Duplicate(key(1).public()))
    );
    let many: Vec<NostrKey> = (1..=1_000_u16)
        .map(|n| {
            let mut bytes = [0; 32];
            bytes[30..].copy_from_slice(&n.to_be_bytes());
            OwnKey::from_bytes(&bytes).unwrap().public()
        })
        .collect();
    assert_eq!(
        FallbackLeaf::new(&many, 2),
        Err(LeafError::TooManyKeys(1_000))
    );
    assert!(FallbackLeaf::new(&many[..999], 999).is_ok());
}

/// The most keys a leaf can have still run within the limits of a script.
#[test]
fn the_largest_leaf_can_be_spent() {
    let keys: Vec<OwnKey> = (1..=999_u16)
        .map(|n| {
            let mut bytes = [0; 32];
            bytes[30..].copy_from_slice(&n.to_be_bytes());
            OwnKey::from_bytes(&bytes).unwrap()
        })
        .collect();
    let public: Vec<NostrKey> = keys.iter().map(OwnKey::public).collect();
    let leaf = FallbackLeaf::new(&public, 700).unwrap();
    let spend = spend(&leaf, internal(9), 1);
    let sighash = spend.sighash(&leaf);
    let mut tx = spend.tx.clone();
    let made = keys
        .iter()
        .map(|key| (key.public(), key.sign_digest(&sighash)))
        .collect();
    tx.input[0].witness = leaf.witness(internal(9), &made).unwrap();
    assert!(spend.accepts(&tx));
}

/// The rate that is asked for is the rate of the signed transaction, and at that ceiling a member signs it; one sat
/// more it does not.
#[test]
fn the_fee_is_for_what_the_witness_weighs() {
    let leaf = FallbackLeaf::new(&public(1..=5), 3).unwrap();
    let script = beacon_script(leaf.output_key(internal(9)).0);
    let tip = |value| BeaconOutput {
        outpoint: OutPoint::new(Txid::from_byte_array([3; 32]), 1),
        value: Amount::from_sat(value),
        height: None,
    };
    let signal = SignalBytes::from_bytes([8; 32]);
    let rate = FeeRate::from_sat_per_vb(7).unwrap();
    let build = |value| leaf.build(&[tip(value)], &script, signal, rate);
    let check = |tx: &Transaction, value| {
        let own = SignalLimits {
            max_fee_rate: rate,
            max_fee: Amount::MAX_MONEY,
        };
        let limits = leaf.limits(tx, &own);
        check_signal(tx, &tip(value), &[], &script, &limits)
    };

    let built = build(100_000).unwrap();
    let mut signed = built.tx.clone();
    let digests = leaf.sighashes(&signed, &[tip(100_000)], &script).unwrap();
    let sighash = digests[0];
    let made = signatures([1, 2, 3], &sighash);
    signed.input[0].witness = leaf.witness(internal(9), &made).unwrap();
    assert_eq!(signed.weight(), leaf.signed_weight(&built.tx));
    assert_eq!(Some(built.fee), rate.fee_wu(signed.weight()));
    assert_eq!(check(&built.tx, 100_000).unwrap().fee, built.fee);
    let mut dearer = built.tx.clone();
    dearer.output[0].value -= Amount::ONE_SAT;
    assert!(matches!(
        check(&dearer, 100_000),
        Err(SignalFault::FeeTooHigh { .. })
    ));

    // A limit in sat holds as well.
    let poor = SignalLimits {
        max_fee_rate: rate,
        max_fee: built.fee - Amount::ONE_SAT,
    };
    assert_eq!(leaf.limits(&built.tx, &poor).max_fee, poor.max_fee);

    // Down to what leaves dust for change, and to what pays no signal at all.
    let with_change = built.fee.to_sat();
    let least = build(with_change + 330).unwrap();
    assert_eq!(least.change, Some(DUST_LIMIT));
    let none = build(with_change + 329).unwrap();
    assert_eq!((none.change, none.fee.to_sat()), (None, with_change + 329));
    assert!(check(&none.tx, with_change + 329).is_ok());
    assert!(matches!(
        check(&none.tx, with_change + 330),
        Err(SignalFault::FeeTooHigh { .. })
    ));
    let needed = with_change - 43 * 7;
    assert!(build(needed).unwrap().change.is_none());
    assert_eq!(
        build(needed - 1),
        Err(SignalError::Insufficient {
            available: Amount::from_sat(needed - 1),
            needed: Amount::from_sat(needed),
        })
    );
}
