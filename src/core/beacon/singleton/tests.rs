use bitcoin::consensus::encode::{serialize, serialize_hex};
use bitcoin::{OutPoint, Txid};
use proptest::prelude::*;

use super::*;
use crate::beacon::signal::signal_of;
use crate::did::KeyAddress;
use crate::hash::SignalBytes;
use crate::network::Network;

/// The secret 6 has a point with odd Y, so that the key uses its negation.
fn key(n: u8) -> OwnKey {
    let mut secret = [0; 32];
    secret[31] = n;
    OwnKey::from_bytes(&secret).unwrap()
}

fn beacon(key: &OwnKey, form: KeyAddress, network: Network) -> SingletonBeacon {
    SingletonBeacon::new(form.of(network, &key.public().even_point())).unwrap()
}

fn coin(n: u8, vout: u32, sat: u64) -> BeaconOutput {
    BeaconOutput {
        outpoint: OutPoint::new(Txid::from_byte_array([n; 32]), vout),
        value: Amount::from_sat(sat),
        height: Some(100),
    }
}

fn others(coins: &[BeaconOutput]) -> Coins<'_> {
    Coins {
        required: &[],
        others: coins,
    }
}

fn offer(sat_per_vb: u64) -> FeeOffer {
    FeeOffer {
        rate: FeeRate::from_sat_per_vb(sat_per_vb).unwrap(),
        max_rate: FeeRate::from_sat_per_vb(200).unwrap(),
        replaces: None,
    }
}

fn signal() -> SignalBytes {
    "39d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d5"
        .parse()
        .unwrap()
}

/// Bitcoin Core's own code on every input.
fn core_accepts(tx: &Transaction, prevouts: &[TxOut]) -> bool {
    let spent: Vec<bitcoinconsensus::Utxo> = prevouts
        .iter()
        .map(|prevout| bitcoinconsensus::Utxo {
            script_pubkey: prevout.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: u32::try_from(prevout.script_pubkey.len()).unwrap(),
            value: i64::try_from(prevout.value.to_sat()).unwrap(),
        })
        .collect();
    let flags = bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;
    let raw = serialize(tx);
    prevouts.iter().enumerate().all(|(index, prevout)| {
        let script = prevout.script_pubkey.as_bytes();
        let value = prevout.value.to_sat();
        bitcoinconsensus::verify_with_flags(script, value, &raw, Some(&spent), index, flags).is_ok()
    })
}

/// The form members of a cohort sign, but for the number of inputs.
fn assert_is_signal(beacon: &SingletonBeacon, tx: &Transaction, plan: &SpendPlan) {
    assert_eq!((tx.version, tx.lock_time), (Version::TWO, LockTime::ZERO));
    assert!(tx.input.iter().all(|input| input.sequence.0 == 0xffff_fffd));
    assert_eq!(signal_of(tx), Some(signal()));
    let (last, change) = tx.output.split_last().unwrap();
    assert_eq!(last.value, Amount::ZERO);
    assert_eq!(last.script_pubkey.as_bytes()[..2], [0x6a, 0x20]);
    let expected: Vec<TxOut> = plan
        .change
        .map(|value| TxOut {
            value,
            script_pubkey: beacon.script().to_owned(),
        })
        .into_iter()
        .collect();
    assert_eq!(change, expected);
    let paid: u64 = tx.output.iter().map(|output| output.value.to_sat()).sum();
    let held: u64 = plan.inputs.iter().map(|coin| coin.value.to_sat()).sum();
    assert_eq!(held - paid, plan.fee.to_sat());
}

#[test]
fn bitcoin_core_accepts_every_form_on_every_network_with_one_and_several_inputs() {
    for network in Network::ALL {
        for form in KeyAddress::ALL {
            for secret in [5, 6] {
                let key = key(secret);
                let beacon = beacon(&key, form, network);
                for count in [1, 2, 7] {
                    let coins: Vec<_> = (0..count).map(|n| coin(n, 3, 9_000)).collect();
                    let plan = beacon.plan(others(&coins), offer(3)).unwrap();
                    assert_eq!(plan.inputs.len(), usize::from(count));
                    let unsigned = beacon.build(&plan, signal());
                    let prevouts = unsigned.prevouts.clone();
                    let tx = unsigned.sign(&key).unwrap();
                    assert_is_signal(&beacon, &tx, &plan);
                    assert!(core_accepts(&tx, &prevouts), "{network} {form:?} {count}");
                    // One virtual byte at most for each signature that came out short.
                    let size = u64::try_from(tx.vsize()).unwrap();
                    let short = plan.vsize - size;
                    assert!(short <= u64::from(count), "{form:?}: {short} short");
                    assert_eq!(plan.fee.to_sat(), 3 * plan.vsize);

                    let mut forged = tx.clone();
                    forged.output[0].value -= Amount::from_sat(1);
                    assert!(!core_accepts(&forged, &prevouts), "outputs are signed");
                }
            }
        }
    }
}

/// 154 vB is what the cohort's signal has too; 110 + 31 and 141 + 34 + 9 are the usual sizes of one input and one
/// output, with the 43 bytes of the announcement instead of another output.
#[test]
fn known_sizes() {
    let key = key(5);
    for (form, with_change, without) in [
        (KeyAddress::P2tr, 154, 111),
        (KeyAddress::P2wpkh, 153, 122),
        (KeyAddress::P2pkh, 234, 200),
    ] {
        let beacon = beacon(&key, form, Network::Signet);
        assert_eq!(beacon.vsize(1, true), with_change, "{form:?}");
        assert_eq!(beacon.vsize(1, false), without, "{form:?}");
    }
}

/// Two coins and the secret 3, at 2 sat/vB. The transactions were made by another program from BIP-143, BIP-341,
/// BIP-340 (no auxiliary randomness), RFC 6979 (grinding for a low R as Bitcoin Core does) and nothing else.
#[test]
fn known_answers() {
    for (form, raw, txid) in [
        (
            KeyAddress::P2pkh,
            "02000000020101010101010101010101010101010101010101010101010101010101010101000000006a47304402205762d8c3b407f7327b1c45d25b633c57ae00de1cb2789e25df038118cc659e4d02205327c3b06999c10dae3179ce2541b6449f3f88dad663dc31f503813131e16d5b012102f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9fdffffff0202020202020202020202020202020202020202020202020202020202020202010000006a47304402203441ed9ffce1c55848fce521c6eb82ea692dbb02581234e1754447d0a1a66389022051daf00a7ce4ada63353e10954b39502ab8df5f5887660c475cf8c3e91fbdc7e012102f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9fdffffff02aedb0000000000001976a9147dd65592d0ab2fe0d0257d571abf032cd9db93dc88ac0000000000000000226a2039d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d500000000",
            "08c7621cfebdb47ac9a372dc939083197c7721d5ae00155a59f9e9803e92d461",
        ),
        (
            KeyAddress::P2wpkh,
            "0200000000010201010101010101010101010101010101010101010101010101010101010101010000000000fdffffff02020202020202020202020202020202020202020202020202020202020202020100000000fdffffff02f0dc0000000000001600147dd65592d0ab2fe0d0257d571abf032cd9db93dc0000000000000000226a2039d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d50247304402206089fda590d371e50cb168a2b9ecaef820f7ff49dab2f7c1b31203a84901f92a02204ef75e3f6e187154b847fab1d4a73142228f3ecbeda42490d7e515d7c7f25f40012102f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f902473044022040014ccded5acea16cba9dca875abed6634d8f57eb03078a49b7a6e579f2545602202c1421f8ecea69f9f8f48e4011c1d6637dbfba62dd43624646c3decbfa7931f3012102f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f900000000",
            "c5f04a1a82e2a5f69e98c347243b25650a7f5b4fca414af92c08f278efa52f67",
        ),
        (
            KeyAddress::P2tr,
            "0200000000010201010101010101010101010101010101010101010101010101010101010101010000000000fdffffff02020202020202020202020202020202020202020202020202020202020202020100000000fdffffff0200dd000000000000225120418c46636d9e1a683f58e35b42336e776fdcc3b2d4e39e7a0bf1ab0716e3c5fa0000000000000000226a2039d87738eaba11508bc9c65d3f4df5b0bd7658d75b516c9337f34a902d2e55d50140fff3e3a876c4bf50ded7a6c79d00d90a7060f40da5fdbb2b6b6eb580c88f2276fa144651bbc35d75e4bfd2dbd3f97077349d0a5109ab43b5ed00673b4cdd7265014065012506fb95f7dcab8c2e0ba10fc2a62dfe68364afaf77ece05e1597a2102f26cba128ee7ab1178387327b43d7599a7f79c7306ec025522335350c7e853728700000000",
            "804757c6cf3b187ff0b81ed1efaf350b4fe062d8d4415ac54ed8e40a49436fea",
        ),
    ] {
        let key = key(3);
        let beacon = beacon(&key, form, Network::Regtest);
        let coins = [coin(2, 1, 7_000), coin(1, 0, 50_000)];
        let plan = beacon.plan(others(&coins), offer(2)).unwrap();
        let tx = beacon.build(&plan, signal()).sign(&key).unwrap();
        assert_eq!(serialize_hex(&tx), raw, "{form:?}");
        assert_eq!(tx.compute_txid().to_string(), txid, "{form:?}");
    }
}

#[test]
fn an_address_of_the_odd_point_is_spent_too() {
    let key = key(6);
    let odd = PublicKey::from_x_only_public_key(key.public().x_only(), Parity::Odd);
    for form in KeyAddress::ALL {
        let beacon = SingletonBeacon::new(form.of(Network::Signet, &odd)).unwrap();
        assert!(beacon.is_of(key.public().x_only()));
        let coins = [coin(1, 0, 30_000)];
        let plan = beacon.plan(others(&coins), offer(7)).unwrap();
        let unsigned = beacon.build(&plan, signal());
        let prevouts = unsigned.prevouts.clone();
        assert!(core_accepts(&unsigned.sign(&key).unwrap(), &prevouts));
    }
}

#[test]
fn another_key_signs_nothing_and_other_addresses_are_refused() {
    let (mine, theirs) = (key(3), key(4));
    for form in KeyAddress::ALL {
        let beacon = beacon(&theirs, form, Network::Testnet4);
        assert!(!beacon.is_of(mine.public().x_only()));
        let coins = [coin(1, 0, 30_000)];
        let plan = beacon.plan(others(&coins), offer(7)).unwrap();
        let unsigned = beacon.build(&plan, signal());
        assert_eq!(unsigned.sign(&mine).unwrap_err(), NotThisKey);
    }
    let script = ScriptBuf::new_p2sh(&ScriptBuf::new().script_hash());
    let address = Address::from_script(&script, bitcoin::Network::Signet).unwrap();
    let error = SingletonBeacon::new(address.clone()).unwrap_err();
    assert_eq!(error, SpendError::Form(address));
}

#[test]
fn dust_is_left_alone_and_never_blocks() {
    let key = key(5);
    for (form, cost) in [
        (KeyAddress::P2tr, 58),
        (KeyAddress::P2wpkh, 68),
        (KeyAddress::P2pkh, 147),
    ] {
        let beacon = beacon(&key, form, Network::Regtest);
        let mut coins: Vec<_> = (0..200).map(|n| coin(n, 0, cost * 4)).collect();
        coins.push(coin(201, 0, 20_000));
        let plan = beacon.plan(others(&coins), offer(4)).unwrap();
        assert_eq!(plan.inputs, [coin(201, 0, 20_000)], "{form:?}");
        // One satoshi more than it costs, and it is gathered.
        coins.push(coin(202, 0, cost * 4 + 1));
        let plan = beacon.plan(others(&coins), offer(4)).unwrap();
        assert_eq!(plan.inputs.len(), 2, "{form:?}");
    }
}

#[test]
fn small_payments_add_up_and_are_gathered_only_while_that_is_cheap() {
    let beacon = beacon(&key(5), KeyAddress::P2tr, Network::Regtest);
    let coins: Vec<_> = (0..60).map(|n| coin(n, 0, 5_000 + u64::from(n))).collect();
    // Cheap: as many as are gathered, the largest.
    let plan = beacon.plan(others(&coins), offer(5)).unwrap();
    assert_eq!(plan.inputs.len(), GATHER_INPUTS);
    assert!(plan.inputs.iter().all(|coin| coin.value.to_sat() >= 5_040));
    // Dear: as few as pay. 154 + 58 vB at 40 sat/vB are 8 480 sat.
    let plan = beacon.plan(others(&coins), offer(40)).unwrap();
    assert_eq!(plan.inputs, [coin(58, 0, 5_058), coin(59, 0, 5_059)]);
    assert_eq!(plan.change, Some(Amount::from_sat(10_117 - 40 * 212)));
}

#[test]
fn dust_change_goes_to_the_miner() {
    let key = key(5);
    for (form, dust) in [
        (KeyAddress::P2tr, 330),
        (KeyAddress::P2wpkh, 294),
        (KeyAddress::P2pkh, 546),
    ] {
        let beacon = beacon(&key, form, Network::Regtest);
        let fee = 10 * beacon.vsize(1, true);
        let plan = |sat| beacon.plan(others(&[coin(1, 0, sat)]), offer(10)).unwrap();
        assert_eq!(plan(fee + dust).change, Some(Amount::from_sat(dust)));
        let without = plan(fee + dust - 1);
        assert_eq!(without.change, None);
        assert_eq!(without.fee, Amount::from_sat(fee + dust - 1));
        assert_eq!(without.vsize, beacon.vsize(1, false));
    }
}

#[test]
fn what_lacks_is_named_with_the_address() {
    let beacon = beacon(&key(5), KeyAddress::P2wpkh, Network::Testnet4);
    let error = beacon.plan(others(&[]), offer(10)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "send at least 1220 sat to {}: 0 sat are there to spend, a signal costs more",
            beacon.address()
        )
    );
    let error = beacon.plan(others(&[coin(1, 0, 1_000)]), offer(10));
    let Err(SpendError::Insufficient {
        send, available, ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(available.to_sat(), 1_000);
    assert_eq!(send.to_sat(), 10 * beacon.vsize(2, false) - 1_000);
}

#[test]
fn the_owner_s_limit_holds() {
    let beacon = beacon(&key(5), KeyAddress::P2tr, Network::Regtest);
    let coins = [coin(1, 0, 1_000_000)];
    let mut over = offer(51);
    over.max_rate = FeeRate::from_sat_per_vb(50).unwrap();
    let error = beacon.plan(others(&coins), over).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a fee rate of 51 sat/vB is over the limit of 50 sat/vB (participant.max_fee_rate)"
    );
    over.rate = over.max_rate;
    assert_eq!(
        beacon.plan(others(&coins), over).unwrap().fee.to_sat(),
        50 * 154
    );
    let absurd = FeeOffer {
        rate: FeeRate::MAX,
        max_rate: FeeRate::MAX,
        replaces: None,
    };
    assert!(matches!(
        beacon.plan(others(&coins), absurd),
        Err(SpendError::FeeRate(_))
    ));
}

#[test]
fn a_replacement_spends_the_same_inputs_and_outbids() {
    let key = key(5);
    let beacon = beacon(&key, KeyAddress::P2tr, Network::Regtest);
    let first = [coin(1, 0, 2_000)];
    let before = beacon.plan(others(&first), offer(2)).unwrap();
    assert_eq!(before.fee.to_sat(), 308);
    let more = [coin(1, 0, 2_000), coin(9, 0, 80_000)];
    let replace = |rate| {
        let coins = Coins {
            required: &before.inputs,
            others: &more,
        };
        let mut offer = offer(rate);
        offer.replaces = Some(Replaced {
            fee: before.fee,
            vsize: before.vsize,
        });
        beacon.plan(coins, offer)
    };
    // The same rate does not replace; one more pays 1 sat/vB more than before.
    let error = replace(2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nodes take the replacement only for 3 sat/vB or more: use --fee-rate 3"
    );
    let bumped = replace(8).unwrap();
    assert_eq!(bumped.inputs, before.inputs, "as few as pay");
    assert_eq!(bumped.fee.to_sat(), 8 * 154);
    // Its own input does not pay this any more: another one helps, the first stays.
    let bumped = replace(20).unwrap();
    assert_eq!(bumped.inputs.len(), 2);
    assert!(bumped.inputs.contains(&first[0]));
}

proptest! {
    /// A plan is paid for, within the rate, and what is asked for when it fails is enough, and not too much.
    #[test]
    fn plans_hold_and_what_is_asked_for_is_exactly_enough(
        form in 0..3usize,
        values in prop::collection::vec(1..20_000u64, 0..40),
        rate in 1..150u64,
    ) {
        let beacon = beacon(&key(5), KeyAddress::ALL[form], Network::Signet);
        let mut coins: Vec<_> = (0..).zip(&values).map(|(n, sat)| coin(n, 1, *sat)).collect();
        match beacon.plan(others(&coins), offer(rate)) {
            Ok(plan) => {
                let held: u64 = plan.inputs.iter().map(|coin| coin.value.to_sat()).sum();
                let change = plan.change.map_or(0, Amount::to_sat);
                prop_assert_eq!(held, plan.fee.to_sat() + change);
                prop_assert!(plan.fee.to_sat() >= rate * plan.vsize);
                if plan.change.is_some() {
                    prop_assert_eq!(plan.fee.to_sat(), rate * plan.vsize);
                    prop_assert!(change >= beacon.dust_limit().to_sat());
                }
                prop_assert!(plan.inputs.iter().all(|coin| coins.contains(coin)));
                coins.reverse();
                prop_assert_eq!(beacon.plan(others(&coins), offer(rate)).unwrap(), plan);
            }
            Err(SpendError::Insufficient { send, .. }) => {
                coins.push(coin(200, 0, send.to_sat()));
                prop_assert!(beacon.plan(others(&coins), offer(rate)).is_ok());
                coins.pop();
                if send > beacon.dust_limit() {
                    coins.push(coin(200, 0, send.to_sat() - 1));
                    prop_assert!(beacon.plan(others(&coins), offer(rate)).is_err());
                }
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    /// What `funding` says pays for so many signals one after the other, and one satoshi less does not.
    #[test]
    fn funding_lasts(form in 0..3usize, rate in 1..60u64, signals in 1..6u32) {
        let beacon = beacon(&key(5), KeyAddress::ALL[form], Network::Signet);
        let rate = offer(rate);
        let lasts = |funds: u64| {
            let mut sat = funds;
            (0..signals).all(|_| {
                let plan = beacon.plan(others(&[coin(1, 0, sat)]), rate);
                sat = plan.as_ref().ok().and_then(|plan| plan.change).map_or(0, Amount::to_sat);
                plan.is_ok()
            })
        };
        let funds = beacon.funding(signals, rate.rate).unwrap().to_sat();
        prop_assert!(lasts(funds));
        if signals > 1 || funds > beacon.dust_limit().to_sat() {
            prop_assert!(!lasts(funds - 1));
        }
    }
}
