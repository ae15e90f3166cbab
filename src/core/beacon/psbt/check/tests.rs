use bitcoin::psbt::{Psbt, PsbtSighashType};
use bitcoin::{Amount, TapSighashType};

use super::*;
use crate::hash::from_hex;
use crate::keys::OwnKey;

const BIP373: &str = include_str!("../../../../../tests/vectors/psbt/bip373.txt");

/// A published vector of BIP-373.
fn vector(name: &str) -> Psbt {
    let line = BIP373.lines().find_map(|line| line.strip_prefix(name));
    let bytes = from_hex(line.unwrap().trim()).unwrap();
    Packet::parse(&bytes).unwrap().psbt().clone()
}

/// The vector in which three keys aggregate to an internal key and all have signed.
fn signed() -> Psbt {
    vector("internal-key/partials ")
}

fn check(psbt: &Psbt) -> Result<CheckedInput, InputFault> {
    let packet = Packet::parse(&psbt.serialize()).unwrap();
    packet.check().pop().unwrap()
}

/// What is wrong after a change.
fn fault(change: impl FnOnce(&mut Psbt)) -> InputFault {
    let mut psbt = signed();
    change(&mut psbt);
    check(&psbt).unwrap_err()
}

fn of(psbt: &Psbt, field: u8) -> Vec<raw::Key> {
    let keys = psbt.inputs[0].unknown.keys();
    keys.filter(|key| key.type_value == field)
        .cloned()
        .collect()
}

/// Takes out the complete signature, so that partial signatures are what counts.
fn open() -> Psbt {
    let mut psbt = signed();
    psbt.inputs[0].tap_key_sig = None;
    psbt
}

const SIGNATURE: &str = "2e89a7bdf9085c6438d15ddf1a86772a65222244276e9302ffdd9fa93b1c20ae\
                         58a6b11a6be98b151d8582daa84c10017c994d9235b13ec518a94782c67c40e2";

/// The published keys add up to the published internal and output key, and the partial signatures to the published
/// signature.
#[test]
fn the_vectors_of_bip_373_are_verified() {
    let checked = check(&signed()).unwrap();
    let keys = checked.keys.unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!(
        keys.internal_key().to_string(),
        "0b58e337aa4d3852a8c29387c42408d8cfbe3a613a5e397e0a9f01a5fb7107d4"
    );
    assert_eq!(
        keys.output_key().to_string(),
        "2967d2d020a9795da72b51be4f3fca25bb0e57e91c5b3e7a81abfa7232a34942"
    );
    assert_eq!((checked.nonces.len(), checked.partials.len()), (3, 3));
    assert!(checked.unverified.is_empty());
    assert_eq!(checked.foreign_fields, 0);
    let signature: SchnorrSignature = SIGNATURE.parse().unwrap();
    assert_eq!(checked.signing, Signing::KeyPath(signature));
    assert_eq!(check(&open()).unwrap().signing, Signing::AddsUp(signature));
    assert_eq!(
        checked.prevout.unwrap().value,
        Amount::from_sat(100_000_000)
    );
}

/// Other uses of an aggregate are no beacon's: they are read, and nothing is said of them.
#[test]
fn other_aggregates_are_left_alone() {
    for (name, internal) in [
        ("output-key/participants ", false),
        ("script/participants ", true),
    ] {
        let psbt = vector(name);
        assert_eq!(psbt.inputs[0].tap_internal_key.is_some(), internal);
        let checked = check(&psbt).unwrap();
        assert_eq!((checked.keys, checked.foreign_fields), (None, 1), "{name}");
        assert_eq!(checked.signing, Signing::Open);
    }
}

#[test]
fn what_is_missing_is_not_verified_and_not_wrong() {
    // Nonces of two are not enough for any partial signature.
    let mut psbt = open();
    let nonce = of(&psbt, PUB_NONCE).remove(1);
    psbt.inputs[0].unknown.remove(&nonce);
    let checked = check(&psbt).unwrap();
    assert_eq!((checked.nonces.len(), checked.partials.len()), (2, 0));
    assert_eq!(
        (checked.unverified.len(), checked.signing),
        (3, Signing::Open)
    );

    let mut psbt = open();
    let partial = of(&psbt, PARTIAL_SIG).remove(2);
    psbt.inputs[0].unknown.remove(&partial);
    let checked = check(&psbt).unwrap();
    assert_eq!((checked.partials.len(), checked.unverified.len()), (2, 0));
    assert_eq!(checked.signing, Signing::Open);

    // Without the output that is spent there is nothing to verify with.
    let mut psbt = open();
    psbt.inputs[0].witness_utxo = None;
    let checked = check(&psbt).unwrap();
    assert_eq!((checked.sighash, checked.unverified.len()), (None, 3));
    assert_eq!(checked.keys.unwrap().len(), 3);
    let mut psbt = signed();
    psbt.inputs[0].witness_utxo = None;
    assert_eq!(check(&psbt).unwrap().signing, Signing::Unverified);
}

#[test]
fn a_signature_for_another_transaction_is_told() {
    let first = check(&open()).unwrap().partials.first().copied().unwrap();
    let other = |psbt: &mut Psbt| psbt.unsigned_tx.output[0].value -= Amount::from_sat(1);
    assert_eq!(fault(other), InputFault::WrongPartial(first));
    let mut psbt = open();
    other(&mut psbt);
    assert_eq!(check(&psbt), Err(InputFault::WrongPartial(first)));
    let only_signature = |psbt: &mut Psbt| {
        other(psbt);
        psbt.inputs[0].unknown.clear();
    };
    assert_eq!(fault(only_signature), InputFault::WrongSignature);
    // A value that is claimed is signed for, too.
    let claim = |psbt: &mut Psbt| {
        psbt.inputs[0].witness_utxo.as_mut().unwrap().value = Amount::from_sat(7);
    };
    assert_eq!(fault(claim), InputFault::WrongPartial(first));
    // One member's partial signature in the place of another's.
    let swapped = |psbt: &mut Psbt| {
        let keys = of(psbt, PARTIAL_SIG);
        let other = psbt.inputs[0].unknown[&keys[1]].clone();
        psbt.inputs[0].unknown.insert(keys[0].clone(), other);
    };
    assert_eq!(fault(swapped), InputFault::WrongPartial(first));
}

#[test]
fn participants_are_exactly_those_of_the_keys() {
    let list = of(&signed(), PARTICIPANT_PUBKEYS).remove(0);
    let stranger = OwnKey::from_bytes(&[5; 32]).unwrap().public();
    let with = |change: fn(&mut Vec<u8>)| {
        let list = list.clone();
        fault(move |psbt| change(psbt.inputs[0].unknown.get_mut(&list).unwrap()))
    };
    assert_eq!(
        with(|list| list.rotate_left(33)),
        InputFault::NotSorted,
        "another order is another aggregate"
    );
    assert_eq!(with(|list| list[0] = 3), {
        let odd = "03346b99593357107c9d3459e9deba8d3eaf44e6636c85c7f853eb90ba52e8cd00";
        InputFault::OddParticipant(odd.to_owned())
    });
    let malformed = InputFault::Malformed(PARTICIPANT_PUBKEYS);
    assert_eq!(with(|list| list.truncate(98)), malformed);
    assert_eq!(with(Vec::clear), malformed);
    assert_eq!(with(|list| list[0] = 9), malformed);
    assert_eq!(
        with(|list| *list = list.repeat(400)),
        InputFault::TooManyParticipants
    );
    assert!(matches!(
        with(|list| list.truncate(66)),
        InputFault::OtherAggregate { .. }
    ));
    assert!(matches!(
        with(|list| list.copy_within(..33, 33)),
        InputFault::Participants(KeySetError::Duplicate(_))
    ));
    // A nonce, or a partial signature, of a key that is not listed.
    for field in [PUB_NONCE, PARTIAL_SIG] {
        let found = fault(|psbt| {
            let mut key = of(psbt, field).remove(0);
            let value = psbt.inputs[0].unknown[&key].clone();
            key.key[1..33].copy_from_slice(&stranger.to_bytes());
            key.key[0] = 2;
            psbt.inputs[0].unknown.insert(key, value);
        });
        assert_eq!(found, InputFault::NotAParticipant(format!("02{stranger}")));
        assert!(found.to_string().contains("is no participant"));
        let found = fault(|psbt| {
            let key = of(psbt, field).remove(0);
            psbt.inputs[0].unknown.get_mut(&key).unwrap().pop();
        });
        assert_eq!(found, InputFault::Malformed(field));
        let found = fault(|psbt| {
            let mut key = of(psbt, field).remove(0);
            key.key.push(0);
            psbt.inputs[0].unknown.insert(key, vec![0; 32]);
        });
        assert_eq!(found, InputFault::Malformed(field));
    }
    // Two nonces of one member: once under the output key, once under the internal key.
    let found = fault(|psbt| {
        let mut key = of(psbt, PUB_NONCE).remove(0);
        let value = psbt.inputs[0].unknown[&key].clone();
        key.key.truncate(33);
        key.key.extend(&list.key);
        psbt.inputs[0].unknown.insert(key, value);
    });
    assert!(matches!(found, InputFault::Twice(_)), "{found}");
}

#[test]
fn the_output_that_is_spent_is_that_of_the_keys() {
    let found = fault(|psbt| {
        let script = &mut psbt.inputs[0].witness_utxo.as_mut().unwrap().script_pubkey;
        *script = bitcoin::ScriptBuf::from_bytes([&[0x51, 0x20][..], &[2; 32]].concat());
    });
    assert!(matches!(found, InputFault::OtherOutput(_)), "{found}");
    let found = fault(|psbt| {
        let root = bitcoin::hashes::Hash::from_byte_array([1; 32]);
        psbt.inputs[0].tap_merkle_root = Some(root);
    });
    assert!(matches!(found, InputFault::OtherOutput(_)), "{found}");
    let found = fault(|psbt| {
        psbt.inputs[0].non_witness_utxo = Some(psbt.unsigned_tx.clone());
    });
    assert_eq!(found, InputFault::WrongUtxo);
}

#[test]
fn only_what_covers_everything_counts() {
    let single = PsbtSighashType::from(TapSighashType::All);
    let asked = |psbt: &mut Psbt| psbt.inputs[0].sighash_type = Some(single);
    assert_eq!(fault(asked), InputFault::Sighash);
    let signature = |psbt: &mut Psbt| {
        psbt.inputs[0].tap_key_sig.as_mut().unwrap().sighash_type = TapSighashType::All;
    };
    assert_eq!(fault(signature), InputFault::Sighash);
}

#[test]
fn a_final_witness_is_verified() {
    let finalized = |change: fn(&mut Vec<Vec<u8>>)| {
        let mut psbt = open();
        let mut witness = vec![from_hex(SIGNATURE).unwrap()];
        change(&mut witness);
        psbt.inputs[0].final_script_witness = Some(Witness::from_slice(&witness));
        check(&psbt).map(|checked| checked.signing)
    };
    let signature: SchnorrSignature = SIGNATURE.parse().unwrap();
    assert_eq!(finalized(|_| ()), Ok(Signing::KeyPath(signature)));
    assert!(finalized(|_| ()).unwrap().is_verified());
    assert_eq!(
        finalized(|witness| witness[0][9] ^= 1),
        Err(InputFault::WrongSignature)
    );
    assert_eq!(
        finalized(|witness| witness[0].push(1)),
        Err(InputFault::Sighash)
    );
    assert_eq!(
        finalized(|witness| witness[0].truncate(40)),
        Err(InputFault::WrongSignature)
    );
    // An annex, or a leaf that is not the k-of-n leaf of these keys.
    for more in [vec![0x50, 1], vec![0xc0; 33]] {
        let mut psbt = open();
        let witness = [from_hex(SIGNATURE).unwrap(), vec![0x51], more];
        psbt.inputs[0].final_script_witness = Some(Witness::from_slice(&witness));
        assert_eq!(check(&psbt).unwrap().signing, Signing::Unverified);
    }
}

/// The number a leaf ends with, in all of its encodings.
#[test]
fn the_threshold_is_read_out_of_the_leaf() {
    let keys: Vec<NostrKey> = (1..=140)
        .map(|n| OwnKey::from_bytes(&[n; 32]).unwrap().public())
        .collect();
    for k in [1, 2, 16, 17, 80, 81, 96, 97, 127, 128, 140] {
        let leaf = FallbackLeaf::new(&keys, k).unwrap();
        assert_eq!(threshold(leaf.script()), Some(k));
    }
    assert_eq!(threshold(Script::from_bytes(&[])), None);
    assert_eq!(threshold(Script::from_bytes(&[0xac, 0x9c])), None);
}
