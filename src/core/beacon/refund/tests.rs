use bitcoin::consensus::encode::serialize_hex;
use proptest::prelude::*;
use secp256k1::{Keypair, SecretKey};

use super::*;
use crate::beacon::address::beacon_script;
use crate::beacon::signal::signal_of;
use crate::hash::to_hex;

/// The point of secret key 3 has even Y, so the key signs for its own x coordinate.
fn keypair() -> Keypair {
    let mut secret = [0; 32];
    secret[31] = 3;
    Keypair::from_secret_key(SECP256K1, &SecretKey::from_slice(&secret).unwrap())
}

fn script() -> ScriptBuf {
    beacon_script(keypair().x_only_public_key().0)
}

fn output(value: u64) -> BeaconOutput {
    let txid: [u8; 32] = std::array::from_fn(|i| i as u8);
    BeaconOutput {
        outpoint: OutPoint::new(Txid::from_byte_array(txid), 7),
        value: Amount::from_sat(value),
        height: None,
    }
}

fn payee(prefix: [u8; 2], byte: u8) -> ScriptBuf {
    let mut bytes = prefix.to_vec();
    bytes.extend(std::iter::repeat_n(byte, prefix[1].into()));
    ScriptBuf::from_bytes(bytes)
}

fn p2tr() -> ScriptBuf {
    payee([0x51, 0x20], 0x11)
}

fn p2wpkh() -> ScriptBuf {
    payee([0x00, 0x14], 0x22)
}

fn p2wsh() -> ScriptBuf {
    payee([0x00, 0x20], 0x33)
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

fn build(
    value: u64,
    lock_blocks: u16,
    payees: &[ScriptBuf],
    sat_per_vb: u64,
) -> Result<UnsignedRefund, RefundError> {
    build_refund(
        &output(value),
        &script(),
        lock_blocks,
        payees,
        rate(sat_per_vb),
    )
}

fn sign(built: &UnsignedRefund) -> Transaction {
    let message = Message::from_digest(built.sighash());
    let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, &keypair());
    finalize(
        built.tx.clone(),
        &SchnorrSignature::from_bytes(signature.serialize()),
    )
}

/// Transactions, ids and signature hashes were computed by another program from the serialisation rules, BIP-68
/// and BIP-341 alone.
#[test]
fn known_answer_for_one_payee() {
    let payees = [p2tr()];
    let built = build(100_000, 1008, &payees, 5).unwrap();
    assert_eq!(
        serialize_hex(&built.tx),
        "0200000001000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0700000000f0030000017584010000000000225120111111111111111111111111111111111111111111111111111111111111111100000000"
    );
    assert_eq!(built.fee, Amount::from_sat(555));
    assert_eq!(
        to_hex(&built.sighash()),
        "a9d9e3337d45f1275432f0bc14421446b129a609cfcaf5350bbbb2c1e037c2b9"
    );
    let checked = check_refund(
        &built.tx,
        &output(100_000),
        &script(),
        1008,
        &payees,
        &limits(5, 555),
    )
    .unwrap();
    assert_eq!(
        checked.txid.to_string(),
        "02bbc6190f3bb1089a610c8920730a9bbf1e9865af891e3bb758cf5db1667a47"
    );
    assert_eq!(checked.fee, built.fee);
    assert_eq!(checked.sighash, built.sighash());
}

#[test]
fn known_answer_for_three_payees_of_every_kind() {
    let payees = [p2wpkh(), p2tr(), p2wsh()];
    let built = build(100_000, 144, &payees, 3).unwrap();
    assert_eq!(
        serialize_hex(&built.tx),
        "0200000001000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f070000000090000000037d8100000000000016001422222222222222222222222222222222222222227c8100000000000022512011111111111111111111111111111111111111111111111111111111111111117c81000000000000220020333333333333333333333333333333333333333333333333333333333333333300000000"
    );
    assert_eq!(built.fee, Amount::from_sat(555));
    assert_eq!(
        to_hex(&built.sighash()),
        "43479cc2109018a6abcbb0c081cc0cd7fcbc382cbdaed6a70e61c385db8f29bc"
    );
    assert_eq!(signal_of(&built.tx), None, "a refund is never a signal");
}

/// 253 payees: the number of outputs takes three bytes.
#[test]
fn known_answer_for_many_payees() {
    let payees = vec![p2wpkh(); 253];
    let built = build(1_000_000, 65_535, &payees, 2).unwrap();
    assert_eq!(built.fee, Amount::from_sat(15_826));
    assert_eq!(
        built.tx.compute_txid().to_string(),
        "c559339817da5c7a465bdca4f8fc23f84815d4144014e21f0d2c8866dd657a76"
    );
    assert_eq!(
        to_hex(&built.sighash()),
        "bb15efb20e852581bbb4f1aa432b2144075ad92445817b41d1989dcf71f76bb1"
    );
    assert_eq!(sign(&built).weight().to_wu(), 31_652);
}

/// Bitcoin Core's own script verification takes the signed refund; fee and weight are the planned ones.
#[test]
fn consensus_accepts_the_signed_refund_at_the_planned_weight() {
    for (payees, sat_per_vb) in [
        (vec![p2tr()], 1),
        (vec![p2wpkh(), p2wsh()], 7),
        (vec![p2wpkh(); 20], 50),
    ] {
        let built = build(200_000, 12, &payees, sat_per_vb).unwrap();
        let signed = sign(&built);
        let due = rate(sat_per_vb).fee_wu(signed.weight()).unwrap();
        assert_eq!(built.fee, due);
        assert_eq!(signed.compute_txid(), built.tx.compute_txid());
        let script = script();
        let verify = |tx: &Transaction| {
            let spent = [bitcoinconsensus::Utxo {
                script_pubkey: script.as_bytes().as_ptr(),
                script_pubkey_len: script.len() as u32,
                value: 200_000,
            }];
            bitcoinconsensus::verify(script.as_bytes(), 200_000, &serialize(tx), Some(&spent), 0)
        };
        assert_eq!(verify(&signed), Ok(()));
        let checked = verify_refund(&signed, &output(200_000), &script, 12, &payees).unwrap();
        assert_eq!(checked.sighash, built.sighash());

        // A signature commits to the value: with a satoshi more the fee or a share would be another one.
        assert!(verify_refund(&signed, &output(200_001), &script, 12, &payees).is_err());
        let mut bytes = signed.input[0].witness.nth(0).unwrap().to_vec();
        bytes[63] ^= 1;
        let mut forged = signed.clone();
        forged.input[0].witness = Witness::from_slice(&[bytes]);
        assert!(verify(&forged).is_err());
        assert_eq!(
            verify_refund(&forged, &output(200_000), &script, 12, &payees),
            Err(RefundFault::Signature)
        );
        let mut annexed = signed.clone();
        annexed.input[0].witness.push([0x50]);
        assert_eq!(
            verify_refund(&annexed, &output(200_000), &script, 12, &payees),
            Err(RefundFault::Signature)
        );
        assert_eq!(
            verify_refund(&built.tx, &output(200_000), &script, 12, &payees),
            Err(RefundFault::Signature)
        );
    }
}

#[test]
fn every_deviation_has_its_name() {
    let payees = [p2wpkh(), p2tr()];
    let good = build(100_000, 144, &payees, 5).unwrap().tx;
    let check = |tx: &Transaction| {
        check_refund(
            tx,
            &output(100_000),
            &script(),
            144,
            &payees,
            &limits(10, 5000),
        )
    };
    assert!(check(&good).is_ok());
    let fault = |change: &dyn Fn(&mut Transaction)| {
        let mut tx = good.clone();
        change(&mut tx);
        check(&tx).unwrap_err()
    };
    let sat = Amount::from_sat;

    assert_eq!(
        fault(&|tx| tx.version = Version::ONE),
        RefundFault::Version(1)
    );
    assert_eq!(
        fault(&|tx| tx.lock_time = LockTime::from_consensus(7)),
        RefundFault::LockTime(7)
    );
    assert_eq!(fault(&|tx| tx.input.clear()), RefundFault::Inputs(0));
    assert_eq!(
        fault(&|tx| tx.input.push(tx.input[0].clone())),
        RefundFault::Inputs(2)
    );
    let other = OutPoint::new(output(0).outpoint.txid, 8);
    assert_eq!(
        fault(&|tx| tx.input[0].previous_output = other),
        RefundFault::OtherOutput {
            found: other,
            wanted: output(0).outpoint
        }
    );
    // One block less, one more, none at all, the same number of 512-second units, no relative lock.
    for sequence in [143, 145, 0, 0x0040_0090, 0xffff_fffd, 0x8000_0090] {
        assert_eq!(
            fault(&|tx| tx.input[0].sequence = Sequence(sequence)),
            RefundFault::Lock {
                found: sequence,
                lock_blocks: 144
            }
        );
    }
    assert_eq!(
        fault(&|tx| tx.input[0].witness = Witness::from_slice(&[[0; 64]])),
        RefundFault::NotUnsigned
    );
    assert_eq!(
        fault(&|tx| tx.input[0].script_sig = p2wpkh()),
        RefundFault::NotUnsigned
    );
    let outputs = |found| RefundFault::Outputs { found, payees: 2 };
    assert_eq!(fault(&|tx| tx.output.truncate(1)), outputs(1));
    let op_return = TxOut {
        value: Amount::ZERO,
        script_pubkey: ScriptBuf::new_op_return([7; 32]),
    };
    assert_eq!(
        fault(&|tx| tx.output.push(op_return.clone())),
        outputs(3),
        "a refund announces nothing"
    );
    assert_eq!(
        fault(&|tx| tx.output[1] = op_return.clone()),
        RefundFault::NotThePayee(1)
    );
    assert_eq!(
        fault(&|tx| tx.output.swap(0, 1)),
        RefundFault::NotThePayee(0)
    );
    assert_eq!(
        fault(&|tx| tx.output[0].script_pubkey = script()),
        RefundFault::NotThePayee(0)
    );
    assert_eq!(
        fault(&|tx| tx.output[0].value = sat(100_000)),
        RefundFault::PaysTooMuch {
            paid: sat(100_000) + good.output[1].value,
            available: sat(100_000)
        }
    );
    assert!(matches!(
        fault(&|tx| tx.output[0].value = Amount::from_sat(u64::MAX)),
        RefundFault::PaysTooMuch { .. }
    ));
    assert_eq!(
        fault(&|tx| {
            tx.output[0].value -= sat(1);
            tx.output[1].value += sat(1);
        }),
        RefundFault::Shares
    );
    assert_eq!(
        fault(&|tx| tx.output[1].value = sat(1)),
        RefundFault::Shares
    );
}

#[test]
fn the_fee_stays_within_the_limits_and_above_what_nodes_relay() {
    let payees = [p2tr()];
    let with_fee = |fee: u64, limits: SignalLimits| {
        let value = output(100_000);
        let form = Form::new(&value, 144, &payees).unwrap();
        let tx = form.transaction(Amount::from_sat(fee)).unwrap();
        check_refund(&tx, &value, &script(), 144, &payees, &limits).map(|done| done.fee.to_sat())
    };
    let too_high = |fee, limit| {
        Err(RefundFault::FeeTooHigh {
            fee: Amount::from_sat(fee),
            limit: Amount::from_sat(limit),
        })
    };
    // 111 vB at 10 sat/vB.
    assert_eq!(with_fee(1110, limits(10, 5000)), Ok(1110));
    assert_eq!(with_fee(1111, limits(10, 5000)), too_high(1111, 1110));
    assert_eq!(with_fee(1000, limits(10, 1000)), Ok(1000));
    assert_eq!(with_fee(1001, limits(10, 1000)), too_high(1001, 1000));
    assert_eq!(with_fee(111, limits(10, 1000)), Ok(111));
    assert_eq!(
        with_fee(110, limits(10, 1000)),
        Err(RefundFault::FeeTooLow {
            fee: Amount::from_sat(110),
            floor: Amount::from_sat(111)
        })
    );
}

#[test]
fn what_can_not_be_refunded_is_said() {
    assert_eq!(build(1000, 0, &[p2tr()], 1), Err(RefundError::NoLock));
    assert_eq!(build(1000, 1, &[], 1), Err(RefundError::NoPayee));
    for bad in [
        ScriptBuf::new(),
        ScriptBuf::new_op_return([1; 32]),
        ScriptBuf::from_bytes(vec![0x6a; 34]),
        payee([0x52, 0x20], 1),
        payee([0x51, 0x14], 1),
    ] {
        assert_eq!(
            build(100_000, 1, &[p2tr(), bad.clone()], 1),
            Err(RefundError::Payee(1))
        );
        assert!(matches!(
            check_refund(
                &build(100_000, 1, &[p2tr()], 1).unwrap().tx,
                &output(100_000),
                &script(),
                1,
                &[bad],
                &limits(10, 1000)
            ),
            Err(RefundFault::Impossible(RefundError::Payee(0)))
        ));
    }
    assert_eq!(
        build(100_000, 1, &[p2tr()], 0),
        Err(RefundError::FeeRate(0))
    );
    let absurd = FeeRate::from_sat_per_kwu(u64::MAX);
    assert_eq!(
        build_refund(&output(1000), &script(), 1, &[p2tr()], absurd),
        Err(RefundError::FeeRate(u64::MAX))
    );
    // 111 vB at 2 sat/vB and the smallest taproot output; then one satoshi less.
    assert!(build(222 + 330, 1, &[p2tr()], 2).is_ok());
    assert_eq!(
        build(222 + 329, 1, &[p2tr()], 2),
        Err(RefundError::Dust {
            available: Amount::from_sat(551),
            needed: Amount::from_sat(552)
        })
    );
}

#[test]
fn a_refund_matures_when_its_output_is_buried_for_the_lock() {
    // Confirmed in block 100 with a lock of 12: blocks from 112 on may hold it, nodes take it at height 111.
    assert_eq!(matures_at(100, 12), 112);
    assert_eq!(blocks_missing(100, 12, 100), 11);
    assert_eq!(blocks_missing(100, 12, 110), 1);
    assert_eq!(blocks_missing(100, 12, 111), 0);
    assert_eq!(blocks_missing(100, 12, 5000), 0);
    assert_eq!(matures_at(u32::MAX, 12), u32::MAX);
}

proptest! {
    #[test]
    fn what_is_built_passes_the_check_and_divides_everything(
        value in 300_u64..3_000_000,
        lock_blocks in 1_u16..,
        count in 1_usize..30,
        sat_per_kwu in 250_u64..20_000,
    ) {
        let payees: Vec<_> = [p2tr(), p2wpkh(), p2wsh()].into_iter().cycle().take(count).collect();
        let rate = FeeRate::from_sat_per_kwu(sat_per_kwu);
        let output = output(value);
        let needed = refundable_from(&payees, rate).unwrap();
        let built = match build_refund(&output, &script(), lock_blocks, &payees, rate) {
            Ok(built) => built,
            Err(error) => {
                prop_assert_eq!(error, RefundError::Dust { available: output.value, needed });
                prop_assert!(output.value < needed);
                return Ok(());
            }
        };
        prop_assert!(output.value >= needed);
        let limits = SignalLimits { max_fee_rate: rate, max_fee: built.fee };
        let checked = check_refund(&built.tx, &output, &script(), lock_blocks, &payees, &limits).unwrap();
        prop_assert_eq!(checked.fee, built.fee);
        let paid: Amount = built.tx.output.iter().map(|output| output.value).sum();
        prop_assert_eq!(paid + built.fee, output.value);
        let least = built.tx.output.last().unwrap().value;
        let first = built.tx.output[0].value;
        prop_assert!((first - least).to_sat() < count as u64);
    }

    /// One byte changed anywhere: refused, or the same refund at another fee.
    #[test]
    fn a_changed_byte_never_passes_as_the_same(position in 0_usize..94, flip in 1_u8..=255) {
        let payees = [p2tr()];
        let built = build(100_000, 1008, &payees, 5).unwrap();
        let mut bytes = serialize(&built.tx);
        bytes[position] ^= flip;
        let Ok(tx) = bitcoin::consensus::deserialize::<Transaction>(&bytes) else {
            return Ok(());
        };
        if let Ok(checked) = check_refund(&tx, &output(100_000), &script(), 1008, &payees, &limits(50, 5000)) {
            prop_assert_ne!(checked.fee, built.fee);
            prop_assert_ne!(checked.sighash, built.sighash());
            prop_assert!(checked.fee <= Amount::from_sat(5000));
        }
    }
}
