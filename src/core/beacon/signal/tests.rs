mod inputs;

use bitcoin::consensus::encode::{deserialize_hex, serialize_hex};
use bitcoin::hashes::sha256d;
use proptest::prelude::*;
use secp256k1::{Keypair, Message, SECP256K1, SecretKey};

use super::*;
use crate::beacon::address::beacon_script;
use crate::hash::{sha256, tagged_hash, to_hex};

/// The point of secret key 3 has even Y, so the key signs for its own x coordinate.
fn keypair() -> Keypair {
    let mut secret = [0; 32];
    secret[31] = 3;
    Keypair::from_secret_key(SECP256K1, &SecretKey::from_slice(&secret).unwrap())
}

fn script() -> ScriptBuf {
    beacon_script(keypair().x_only_public_key().0)
}

fn tip(value: u64) -> BeaconOutput {
    let txid: [u8; 32] = std::array::from_fn(|i| i as u8);
    BeaconOutput {
        outpoint: OutPoint::new(Txid::from_byte_array(txid), 7),
        value: Amount::from_sat(value),
        height: Some(100),
    }
}

fn signal() -> SignalBytes {
    "39d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d5"
        .parse()
        .unwrap()
}

fn rate(sat_per_vb: u64) -> FeeRate {
    FeeRate::from_sat_per_vb(sat_per_vb).unwrap()
}

fn limits(sat_per_vb: u64, max_fee: u64) -> SignalLimits {
    SignalLimits {
        max_fee_rate: rate(sat_per_vb),
        max_fee: Amount::from_sat(max_fee),
    }
}

fn build(value: u64, sat_per_vb: u64) -> Result<UnsignedSignal, SignalError> {
    build_signal(&[tip(value)], &script(), signal(), rate(sat_per_vb))
}

fn check(
    tx: &Transaction,
    value: u64,
    limits: &SignalLimits,
) -> Result<CheckedSignal, SignalFault> {
    check_signal(tx, &tip(value), &[], &script(), limits)
}

/// Both transactions, their ids and signature hashes were computed by another program from the
/// serialisation rules and BIP-341 alone.
#[test]
fn known_answer_with_change() {
    let built = build(100_000, 5).unwrap();
    assert_eq!(
        serialize_hex(&built.tx),
        "0200000001000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0700000000fdffffff029e83010000000000225120f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f90000000000000000226a2039d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d500000000"
    );
    assert_eq!(built.fee, Amount::from_sat(770));
    assert_eq!(built.change, Some(Amount::from_sat(99_230)));
    assert_eq!(
        to_hex(&built.sighashes()[0]),
        "9d9bdbe163ee593ebd78ab24d7b58f6d6c31a87d3935d2f27212f107382e7ea3"
    );

    let checked = check(&built.tx, 100_000, &limits(5, 770)).unwrap();
    assert_eq!(
        checked.txid.to_string(),
        "80b86d91368c7e8779dd886b8895caf3d985090b08958ffee60204f3e28d86f5"
    );
    assert_eq!(checked.signal, signal());
    assert_eq!(checked.fee, built.fee);
    assert_eq!(checked.change, built.change);
    assert_eq!(checked.sighashes, built.sighashes());
    assert_eq!(checked.inputs, [tip(100_000)]);
}

#[test]
fn known_answer_without_change() {
    // 1000 sat at 5 sat/vB would leave 230 sat of change, which is dust.
    let built = build(1000, 5).unwrap();
    assert_eq!(
        serialize_hex(&built.tx),
        "0200000001000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0700000000fdffffff010000000000000000226a2039d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d500000000"
    );
    assert_eq!(built.fee, Amount::from_sat(1000));
    assert_eq!(built.change, None);

    let checked = check(&built.tx, 1000, &limits(5, 1000)).unwrap();
    assert_eq!(
        checked.txid.to_string(),
        "18db3a3f2bf99f1c5ce4cfc98c8eacc33b9f0a12ab086e8b88aaf7861dac209a"
    );
    assert_eq!(
        to_hex(&checked.sighashes[0]),
        "2824c4e7de2ffe05cd0b11057b5ac3e256662315500c6e5163f59ef9e51f5c2b"
    );
}

/// BIP-341, "Common signature message", written out field by field.
#[test]
fn the_sighash_is_that_of_bip_341() {
    for (value, sat_per_vb) in [(100_000, 1), (54_321, 17), (1000, 5)] {
        let built = build(value, sat_per_vb).unwrap();
        let outpoint = serialize(&tip(value).outpoint);
        let mut script_with_length = vec![34];
        script_with_length.extend(script().as_bytes());
        let mut outputs = Vec::new();
        if let Some(change) = built.change {
            outputs.extend(change.to_sat().to_le_bytes());
            outputs.extend(&script_with_length);
        }
        outputs.extend([0; 8]);
        outputs.extend([34, 0x6a, 0x20]);
        outputs.extend(signal().as_bytes());

        let mut message = Vec::new();
        message.push(0); // epoch
        message.push(0); // hash_type: SIGHASH_DEFAULT
        message.extend(2_u32.to_le_bytes()); // nVersion
        message.extend(0_u32.to_le_bytes()); // nLockTime
        message.extend(sha256(&outpoint)); // sha_prevouts
        message.extend(sha256(&value.to_le_bytes())); // sha_amounts
        message.extend(sha256(&script_with_length)); // sha_scriptpubkeys
        message.extend(sha256(&0xffff_fffd_u32.to_le_bytes())); // sha_sequences
        message.extend(sha256(&outputs)); // sha_outputs
        message.push(0); // spend_type: key path, no annex
        message.extend(0_u32.to_le_bytes()); // input_index
        let expected = tagged_hash("TapSighash", &[&message]);

        assert_eq!(built.sighashes(), [expected]);
        assert_eq!(sighashes(&built.tx, &built.prevouts), Some(vec![expected]));
    }
}

#[test]
fn there_is_no_sighash_for_another_number_of_prevouts() {
    let built = build(100_000, 1).unwrap();
    let mut tx = built.tx.clone();
    tx.input.push(tx.input[0].clone());
    assert_eq!(sighashes(&tx, &built.prevouts), None);
    tx.input.clear();
    assert_eq!(sighashes(&tx, &built.prevouts), None);
}

/// Bitcoin Core's own script verification takes the signed transaction, and its weight is the planned one.
#[test]
fn consensus_accepts_the_signed_transaction_at_the_planned_weight() {
    for (value, weight, virtual_size) in [
        (100_000, WEIGHT_WITH_CHANGE, 154),
        (1000, WEIGHT_WITHOUT_CHANGE, 111),
    ] {
        let built = build(value, 5).unwrap();
        let message = Message::from_digest(built.sighashes()[0]);
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, &keypair());
        let signature = SchnorrSignature::from_bytes(signature.serialize());
        let signed = finalize(built.tx.clone(), &[signature]);

        assert_eq!(signed.weight(), weight);
        assert_eq!(signed.vsize(), virtual_size);
        assert_eq!(signed.compute_txid(), built.tx.compute_txid());

        let script = script();
        let verify = |tx: &Transaction| {
            let spent = [bitcoinconsensus::Utxo {
                script_pubkey: script.as_bytes().as_ptr(),
                script_pubkey_len: script.len() as u32,
                value: value as i64,
            }];
            bitcoinconsensus::verify(script.as_bytes(), value, &serialize(tx), Some(&spent), 0)
        };
        assert_eq!(verify(&signed), Ok(()));
        let mut other = signature.to_bytes();
        other[63] ^= 1;
        let forged = finalize(built.tx, &[SchnorrSignature::from_bytes(other)]);
        assert!(verify(&forged).is_err());
    }
}

#[test]
fn change_is_kept_from_the_dust_limit_on() {
    // 154 vB at 10 sat/vB.
    let exact = build(1540 + 330, 10).unwrap();
    assert_eq!(exact.change, Some(DUST_LIMIT));
    assert_eq!(exact.fee, Amount::from_sat(1540));
    let below = build(1540 + 329, 10).unwrap();
    assert_eq!(below.change, None);
    assert_eq!(below.fee, Amount::from_sat(1869));
}

#[test]
fn a_tip_that_can_not_pay_is_named_with_what_is_short() {
    assert!(build(1110, 10).is_ok());
    let error = build(1109, 10).unwrap_err();
    assert_eq!(
        error,
        SignalError::Insufficient {
            available: Amount::from_sat(1109),
            needed: Amount::from_sat(1110),
        }
    );
    assert!(
        error.to_string().contains("0.00000001 BTC short"),
        "{error}"
    );
}

#[test]
fn an_absurd_fee_rate_is_refused_everywhere() {
    let absurd = FeeRate::from_sat_per_kwu(u64::MAX);
    let error = SignalError::FeeRate(u64::MAX);
    assert_eq!(
        build_signal(&[tip(1000)], &script(), signal(), absurd),
        Err(error)
    );
    assert_eq!(funding_needed(1, absurd), Err(error));
    assert!(funding_needed(u32::MAX, rate(1_000_000)).is_err());
    // As a limit it limits nothing.
    let built = build(100_000, 5).unwrap();
    let limits = SignalLimits {
        max_fee_rate: absurd,
        max_fee: Amount::from_sat(770),
    };
    assert!(check(&built.tx, 100_000, &limits).is_ok());
}

#[test]
fn every_deviation_has_its_name() {
    let value = 100_000;
    let generous = limits(1000, 50_000);
    let good = build(value, 5).unwrap().tx;
    assert!(check(&good, value, &generous).is_ok());
    let fault = |change: &dyn Fn(&mut Transaction)| {
        let mut tx = good.clone();
        change(&mut tx);
        check(&tx, value, &generous).unwrap_err()
    };
    let foreign = ScriptBuf::new_op_return([1; 4]);

    assert_eq!(
        fault(&|tx| tx.version = Version::ONE),
        SignalFault::Version(1)
    );
    assert_eq!(
        fault(&|tx| tx.version = Version(3)),
        SignalFault::Version(3)
    );
    assert_eq!(
        fault(&|tx| tx.lock_time = LockTime::from_consensus(500)),
        SignalFault::LockTime(500)
    );
    assert_eq!(fault(&|tx| tx.input.clear()), SignalFault::NoInput);
    assert_eq!(
        fault(&|tx| tx.input.push(TxIn {
            previous_output: OutPoint::new(Txid::all_zeros(), 0),
            ..tx.input[0].clone()
        })),
        SignalFault::NotATopUp(OutPoint::new(Txid::all_zeros(), 0))
    );
    let other = OutPoint::new(tip(value).outpoint.txid, 8);
    assert_eq!(
        fault(&|tx| tx.input[0].previous_output = other),
        SignalFault::NotTip {
            found: other,
            tip: tip(value).outpoint
        }
    );
    for sequence in [0xffff_ffff, 0xffff_fffe, 0, 144] {
        assert_eq!(
            fault(&|tx| tx.input[0].sequence = Sequence(sequence)),
            SignalFault::Sequence(sequence)
        );
    }
    assert_eq!(
        fault(&|tx| tx.input[0].witness = Witness::from_slice(&[[0; 64]])),
        SignalFault::NotUnsigned
    );
    assert_eq!(
        fault(&|tx| tx.input[0].script_sig = foreign.clone()),
        SignalFault::NotUnsigned
    );

    let last = SignalFault::OpReturnNotLast;
    assert_eq!(fault(&|tx| tx.output.swap(0, 1)), last);
    assert_eq!(fault(&|tx| tx.output.clear()), last);
    assert_eq!(fault(&|tx| tx.output.truncate(1)), last);
    let with_script = |script: Vec<u8>| {
        fault(&|tx| tx.output[1].script_pubkey = ScriptBuf::from_bytes(script.clone()))
    };
    let bytes = signal().to_bytes();
    assert_eq!(with_script([&[0x6a, 0x1f], &bytes[..31]].concat()), last);
    assert_eq!(
        with_script([&[0x6a, 0x21], &bytes[..], &[0]].concat()),
        last
    );
    assert_eq!(
        with_script([&[0x6a, 0x20], &bytes[..], &[0x51]].concat()),
        last
    );
    // OP_PUSHDATA1 pushes the same bytes, in another script.
    assert_eq!(
        with_script([&[0x6a, 0x4c, 0x20], &bytes[..]].concat()),
        last
    );
    assert_eq!(with_script([&[0x51, 0x20], &bytes[..]].concat()), last);

    assert_eq!(
        fault(&|tx| tx.output[1].value = Amount::from_sat(1)),
        SignalFault::OpReturnValue(Amount::from_sat(1))
    );
    assert_eq!(
        fault(&|tx| tx.output.insert(0, tx.output[0].clone())),
        SignalFault::ExtraOutput(3)
    );
    assert_eq!(
        fault(&|tx| tx.output[0].script_pubkey = foreign.clone()),
        SignalFault::ChangeElsewhere
    );
    let mut other_key = script().into_bytes();
    other_key[33] ^= 1;
    let other_key = ScriptBuf::from_bytes(other_key);
    assert_eq!(
        fault(&|tx| tx.output[0].script_pubkey = other_key.clone()),
        SignalFault::ChangeElsewhere
    );
}

#[test]
fn every_bad_amount_has_its_name() {
    let value = 100_000;
    let check_change = |change: Option<u64>, limits: SignalLimits| {
        let change = change.map(Amount::from_sat);
        let tx = transaction(&[tip(value)], change, &script(), signal());
        check(&tx, value, &limits).map(|checked| checked.fee.to_sat())
    };
    let too_high = |fee, limit| {
        Err(SignalFault::FeeTooHigh {
            fee: Amount::from_sat(fee),
            limit: Amount::from_sat(limit),
        })
    };

    // The rate limit: 154 vB at 10 sat/vB.
    assert_eq!(check_change(Some(98_460), limits(10, 50_000)), Ok(1540));
    assert_eq!(
        check_change(Some(98_459), limits(10, 50_000)),
        too_high(1541, 1540)
    );
    // The absolute limit.
    assert_eq!(check_change(Some(99_000), limits(10, 1000)), Ok(1000));
    assert_eq!(
        check_change(Some(98_999), limits(10, 1000)),
        too_high(1001, 1000)
    );
    // Amounts no builder makes.
    assert_eq!(
        check_change(Some(329), limits(1000, 100_000)),
        Err(SignalFault::DustChange(Amount::from_sat(329)))
    );
    assert_eq!(
        check_change(Some(100_001), limits(10, 1000)),
        Err(SignalFault::ChangeExceedsInputs {
            change: Amount::from_sat(100_001),
            spent: Amount::from_sat(100_000)
        })
    );
    assert!(check_change(Some(u64::MAX), limits(10, 1000)).is_err());
    assert_eq!(
        check_change(None, limits(10, 100_000)),
        Err(SignalFault::ChangeMissing(Amount::from_sat(100_000)))
    );
}

#[test]
fn change_may_be_missing_only_where_it_would_be_dust() {
    let check_without_change = |value: u64, limits: SignalLimits| {
        let tx = transaction(&[tip(value)], None, &script(), signal());
        check(&tx, value, &limits).map(|checked| checked.fee.to_sat())
    };
    // At 10 sat/vB a fee of 1540 is allowed, so change from 330 on has to return.
    assert_eq!(check_without_change(1869, limits(10, 5000)), Ok(1869));
    assert_eq!(
        check_without_change(1870, limits(10, 5000)),
        Err(SignalFault::ChangeMissing(Amount::from_sat(1870)))
    );
    // The absolute limit holds for the dust, too.
    assert_eq!(check_without_change(1700, limits(10, 1700)), Ok(1700));
    assert_eq!(
        check_without_change(1701, limits(10, 1700)),
        Err(SignalFault::FeeTooHigh {
            fee: Amount::from_sat(1701),
            limit: Amount::from_sat(1700)
        })
    );
}

#[test]
fn signals_are_found_in_the_last_output_only() {
    let built = build(100_000, 5).unwrap();
    assert_eq!(signal_of(&built.tx), Some(signal()));
    let mut tx = built.tx.clone();
    tx.output[1].value = Amount::from_sat(5);
    assert_eq!(signal_of(&tx), Some(signal()), "the value does not matter");
    tx.output.swap(0, 1);
    assert_eq!(signal_of(&tx), None);
    tx.output.clear();
    assert_eq!(signal_of(&tx), None);
}

#[test]
fn beacon_outputs_keep_their_json_form() {
    let text = format!(
        r#"{{"outpoint":"{}:7","value":100000,"height":100}}"#,
        tip(0).outpoint.txid
    );
    assert_eq!(serde_json::to_string(&tip(100_000)).unwrap(), text);
    assert_eq!(
        serde_json::from_str::<BeaconOutput>(&text).unwrap(),
        tip(100_000)
    );
}

#[test]
fn funding_known_answers() {
    let needed = |rounds, rate| funding_needed(rounds, rate).map(Amount::to_sat);
    assert_eq!(needed(0, rate(5)), Ok(0));
    assert_eq!(needed(1, rate(5)), Ok(555));
    assert_eq!(
        needed(1, rate(1)),
        Ok(330),
        "an output is no less than dust"
    );
    assert_eq!(needed(2, rate(5)), Ok(770 + 555));
    assert_eq!(needed(100, rate(2)), Ok(99 * 308 + 330));
    // 0.3 sat/vB: 46.2 sat are rounded up.
    assert_eq!(needed(3, FeeRate::from_sat_per_kwu(75)), Ok(2 * 47 + 330));
}

/// How many signals can be built one after the other from this value.
fn rounds_paid(value: Amount, fee_rate: FeeRate, most: u32) -> u32 {
    let mut tip = tip(value.to_sat());
    for round in 0..most {
        match build_signal(&[tip], &script(), signal(), fee_rate) {
            Ok(UnsignedSignal {
                change: Some(change),
                ..
            }) => tip.value = change,
            Ok(_) => return round + 1,
            Err(_) => return round,
        }
    }
    most
}

proptest! {
    #[test]
    fn funding_is_enough_and_one_satoshi_less_is_not(rounds in 1_u32..40, sat_per_kwu in 0_u64..100_000) {
        let fee_rate = FeeRate::from_sat_per_kwu(sat_per_kwu);
        let needed = funding_needed(rounds, fee_rate).unwrap();
        prop_assert_eq!(rounds_paid(needed, fee_rate, rounds), rounds);
        let less = needed - Amount::from_sat(1);
        if rounds > 1 || needed > DUST_LIMIT {
            prop_assert!(rounds_paid(less, fee_rate, rounds) < rounds);
        }
    }

    #[test]
    fn what_is_built_at_the_limit_passes_the_check(value in 330_u64..50_000, sat_per_kwu in 0_u64..20_000) {
        let fee_rate = FeeRate::from_sat_per_kwu(sat_per_kwu);
        if let Ok(built) = build_signal(&[tip(value)], &script(), signal(), fee_rate) {
            let limits = SignalLimits { max_fee_rate: fee_rate, max_fee: built.fee };
            let checked = check(&built.tx, value, &limits).unwrap();
            prop_assert_eq!(checked.fee, built.fee);
            prop_assert_eq!(checked.change, built.change);
            let spent = built.change.unwrap_or_default() + built.fee;
            prop_assert_eq!(spent, Amount::from_sat(value));
        }
    }

    /// One byte changed anywhere: refused, or another signal or a smaller change of the same form.
    #[test]
    fn a_changed_byte_never_passes_as_the_same(position in 0_usize..137, flip in 1_u8..=255) {
        let value = 100_000;
        let built = build(value, 5).unwrap();
        let mut bytes = serialize(&built.tx);
        bytes[position] ^= flip;
        let Ok(tx) = bitcoin::consensus::deserialize::<Transaction>(&bytes) else {
            return Ok(());
        };
        if let Ok(checked) = check(&tx, value, &limits(1000, 50_000)) {
            prop_assert!(checked.signal != built.signal || checked.change != built.change);
            prop_assert_ne!(checked.sighashes, built.sighashes());
            prop_assert!(checked.fee <= Amount::from_sat(50_000));
        }
    }
}

#[test]
fn txids_are_double_hashes_of_the_stripped_transaction() {
    let built = build(100_000, 5).unwrap();
    let stripped = serialize(&built.tx);
    assert_eq!(stripped.len(), 137);
    assert_eq!(
        built.tx.compute_txid().to_byte_array(),
        sha256d::Hash::hash(&stripped).to_byte_array()
    );
    let again: Transaction = deserialize_hex(&serialize_hex(&built.tx)).unwrap();
    assert!(check(&again, 100_000, &limits(5, 770)).is_ok());
}
