//! Signals with further inputs beside the tip.

use super::*;

/// An output of the same address as the tip.
fn top_up(n: u8, value: u64) -> BeaconOutput {
    BeaconOutput {
        outpoint: OutPoint::new(Txid::from_byte_array([n; 32]), u32::from(n)),
        value: Amount::from_sat(value),
        height: Some(101),
    }
}

/// BIP-341's common message for several inputs: the hashes of all outpoints, amounts, scripts and sequences are
/// in every input's digest, and only the index differs.
#[test]
fn the_sighash_of_every_input_is_that_of_bip_341() {
    let inputs = [tip(10_000), top_up(1, 20_000), top_up(2, 30_000)];
    let built = build_signal(&inputs, &script(), signal(), rate(3)).unwrap();
    let joined = |part: &dyn Fn(&BeaconOutput) -> Vec<u8>| {
        sha256(&inputs.iter().flat_map(part).collect::<Vec<u8>>())
    };
    let mut script_with_length = vec![34];
    script_with_length.extend(script().as_bytes());
    let mut outputs = built.change.unwrap().to_sat().to_le_bytes().to_vec();
    outputs.extend(&script_with_length);
    outputs.extend([0; 8]);
    outputs.extend([34, 0x6a, 0x20]);
    outputs.extend(signal().as_bytes());
    let sighashes = built.sighashes();
    assert_eq!(sighashes.len(), 3);
    for (index, found) in (0_u32..).zip(sighashes) {
        let mut message = vec![0, 0];
        message.extend(2_u32.to_le_bytes());
        message.extend(0_u32.to_le_bytes());
        message.extend(joined(&|input| serialize(&input.outpoint)));
        message.extend(joined(&|input| input.value.to_sat().to_le_bytes().to_vec()));
        message.extend(joined(&|_| script_with_length.clone()));
        message.extend(joined(&|_| 0xffff_fffd_u32.to_le_bytes().to_vec()));
        message.extend(sha256(&outputs));
        message.push(0);
        message.extend(index.to_le_bytes());
        assert_eq!(
            found,
            tagged_hash("TapSighash", &[&message]),
            "input {index}"
        );
    }
}

/// For every number of inputs, with and without change: the weight that is planned is the weight that is
/// signed, and Bitcoin Core's script code takes every input.
#[test]
fn every_number_of_inputs_has_the_planned_weight_and_verifies() {
    for count in 1..=MAX_INPUTS {
        // A little more than a signal without change costs: with one it would be dust.
        let bare = rate(5).fee_wu(signed_weight(count, false)).unwrap();
        let little = (bare.to_sat() + 100).div_ceil(count as u64);
        for (change, each) in [(true, 50_000), (false, little)] {
            let inputs: Vec<_> = (0..count)
                .map(|n| match n {
                    0 => tip(each),
                    n => top_up(n as u8, each),
                })
                .collect();
            let built = build_signal(&inputs, &script(), signal(), rate(5)).unwrap();
            assert_eq!(built.change.is_some(), change);
            let signatures: Vec<_> = built
                .sighashes()
                .iter()
                .map(|digest| {
                    let message = Message::from_digest(*digest);
                    let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, &keypair());
                    SchnorrSignature::from_bytes(signature.serialize())
                })
                .collect();
            let signed = finalize(built.tx.clone(), &signatures);
            assert_eq!(signed.weight(), signed_weight(count, change), "{count}");
            let script = script();
            let verify = |tx: &Transaction| {
                let spent: Vec<_> = inputs
                    .iter()
                    .map(|input| bitcoinconsensus::Utxo {
                        script_pubkey: script.as_bytes().as_ptr(),
                        script_pubkey_len: script.len() as u32,
                        value: input.value.to_sat() as i64,
                    })
                    .collect();
                (0..count).try_for_each(|at| {
                    bitcoinconsensus::verify(
                        script.as_bytes(),
                        inputs[at].value.to_sat(),
                        &serialize(tx),
                        Some(&spent),
                        at,
                    )
                })
            };
            assert_eq!(verify(&signed), Ok(()));
            if count > 1 {
                let mut swapped = signatures.clone();
                swapped.swap(0, count - 1);
                assert!(verify(&finalize(built.tx, &swapped)).is_err());
            }
        }
    }
}

#[test]
fn dust_is_no_top_up_and_the_most_valuable_ones_are() {
    // An input weighs 230 wu: 57.5 vB, so 288 sat at 5 sat/vB; from 576 on it is worth it.
    let plan = |further: &[BeaconOutput], most| {
        let plan = spend_plan(&tip(10_000), further, rate(5), most).unwrap();
        let used: Vec<u64> = plan
            .inputs
            .iter()
            .map(|input| input.value.to_sat())
            .collect();
        (used, plan.spent.to_sat(), plan.fee.to_sat())
    };
    assert_eq!(plan(&[top_up(1, 575)], 4), (vec![10_000], 10_000, 770));
    let weight = signed_weight(2, true).to_wu();
    assert_eq!(weight, 616 + 230);
    let fee = (weight * 5).div_ceil(4);
    assert_eq!(plan(&[top_up(1, 576)], 4), (vec![10_000, 576], 10_576, fee));
    let five = [600, 330, 5_000, 700, 9_000].map(|value| top_up((value / 100) as u8, value));
    assert_eq!(plan(&five, 4).0, [10_000, 9_000, 5_000, 700]);
    assert_eq!(plan(&five, 2).0, [10_000, 9_000]);
    assert_eq!(plan(&five, 1).0, [10_000]);
    assert_eq!(plan(&five, 0).0, [10_000], "the tip is always spent");
    assert_eq!(plan(&five, 99).0.len(), MAX_INPUTS);
    // The tip among them, or one twice: counted once.
    assert_eq!(plan(&[tip(10_000), five[2], five[2]], 4).0, [10_000, 5_000]);
    // A top-up pays what the tip alone could not.
    let poor = spend_plan(&tip(400), &[top_up(1, 5_000)], rate(5), 4).unwrap();
    assert_eq!(poor.fee.to_sat(), fee);
    assert!(spend_plan(&tip(400), &[], rate(5), 4).is_err());
}

#[test]
fn only_own_outputs_are_top_ups() {
    let further = [top_up(1, 20_000), top_up(2, 30_000)];
    let inputs = [tip(10_000), further[1], further[0]];
    let built = build_signal(&inputs, &script(), signal(), rate(5)).unwrap();
    let limits = limits(5, 50_000);
    let check = |tx: &Transaction, further: &[BeaconOutput]| {
        check_signal(tx, &tip(10_000), further, &script(), &limits)
    };
    let checked = check(&built.tx, &further).unwrap();
    assert_eq!(checked.inputs, inputs);
    assert_eq!(checked.sighashes, built.sighashes());
    assert_eq!(checked.fee, built.fee);

    let missing = SignalFault::NotATopUp(further[1].outpoint);
    assert_eq!(check(&built.tx, &further[..1]), Err(missing.clone()));
    let mut twice = built.tx.clone();
    twice.input[2] = twice.input[1].clone();
    assert_eq!(check(&twice, &further), Err(missing));
    let mut again = built.tx.clone();
    again.input[1] = again.input[0].clone();
    assert_eq!(
        check(&again, &further),
        Err(SignalFault::NotATopUp(tip(0).outpoint))
    );
    let mut last = built.tx.clone();
    last.input.swap(0, 2);
    assert!(matches!(
        check(&last, &further),
        Err(SignalFault::NotTip { .. })
    ));
    let mut sequence = built.tx.clone();
    sequence.input[2].sequence = Sequence(144);
    assert_eq!(check(&sequence, &further), Err(SignalFault::Sequence(144)));
    let many = [1, 2, 3, 4, 5].map(|n| top_up(n, 10_000));
    let too_many = build_signal(&many, &script(), signal(), rate(5)).unwrap();
    assert_eq!(check(&too_many.tx, &many), Err(SignalFault::ExtraInput(5)));
    // The value counts that the own view shows: a false one changes fee and digest.
    let other = [top_up(1, 20_001), further[1]];
    match check(&built.tx, &other) {
        Err(SignalFault::FeeTooHigh { .. }) => {}
        found => panic!("{found:?}"),
    }
}
