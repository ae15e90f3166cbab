use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{Sequence, VarInt};
use proptest::prelude::*;

use super::*;
use crate::beacon::psbt::Place;
use crate::hash::{from_hex, to_hex};

const BIP370: &str = include_str!("../../../../../tests/vectors/psbt/bip370.txt");

/// A published vector of BIP-370, in hex.
fn vector(name: &str) -> &'static str {
    let line = BIP370.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim()
}

fn parse(hex: &str) -> Result<Packet, PsbtFault> {
    Packet::parse(&from_hex(hex).unwrap())
}

/// The unsigned transaction of BIP-370's vectors, with this sequence and lock time.
fn unsigned(sequence: &str, lock_time: &str) -> String {
    format!(
        "02000000010b0ad921419c1c8719735d72dc739f9ea9e0638d1fe4c1eef0f9944084815fc80000000000{sequence}02\
         0008af2f00000000160014c430f64c4756da310dbd1a085572ef299926272c\
         8bbdeb0b000000001600144dd193ac964a56ac1b9e1cca8454fe2f474f8513{lock_time}"
    )
}

#[test]
fn the_vectors_of_bip_370_give_their_transaction() {
    let packet = parse(vector("required-only ")).unwrap();
    assert_eq!((packet.version(), packet.is_modifiable()), (2, false));
    assert_eq!(serialize_hex(packet.tx()), unsigned("ffffffff", "00000000"));
    assert_eq!((packet.prevouts(), packet.fee()), (vec![None], None));

    let packet = parse(vector("all-locktimes ")).unwrap();
    // Both a time and a height are asked for: the height counts.
    assert_eq!(packet.tx().lock_time, LockTime::from_consensus(10_000));
    assert_eq!(serialize_hex(packet.tx()), unsigned("feffffff", "10270000"));
    assert_eq!(
        packet.prevouts()[0].unwrap().value,
        Amount::from_sat(999_999_000)
    );
    assert_eq!(packet.fee(), Some(Amount::from_sat(141)));
    assert!(
        packet
            .psbt()
            .outputs
            .iter()
            .all(|output| output.bip32_derivation.len() == 1)
    );

    assert!(parse(vector("inputs-modifiable ")).unwrap().is_modifiable());
}

/// The published invalid ones, made of the valid one as they were.
#[test]
fn the_invalid_vectors_of_bip_370_are_refused() {
    let valid = vector("all-locktimes ");
    let changed = |from: &str, to: &str| {
        assert!(valid.contains(from), "{from}");
        parse(&valid.replacen(from, to, 1)).unwrap_err()
    };
    let missing = |place, field| PsbtFault::Missing {
        place,
        field,
        version: 2,
    };
    let malformed = |place, field| PsbtFault::Malformed { place, field };
    for (from, to, fault) in [
        ("01020402000000", "", missing(Place::Global, 0x02)),
        ("01040101", "", missing(Place::Global, 0x04)),
        ("01050102", "", missing(Place::Global, 0x05)),
        ("010f0400000000", "", missing(Place::Input(0), 0x0f)),
        (
            "0103080008af2f00000000",
            "",
            missing(Place::Output(0), 0x03),
        ),
        (
            "0104160014c430f64c4756da310dbd1a085572ef299926272c",
            "",
            missing(Place::Output(0), 0x04),
        ),
        (
            "0111048c8dc462",
            "011104ff64cd1d",
            malformed(Place::Input(0), 0x11),
        ),
        (
            "01120410270000",
            "0112040065cd1d",
            malformed(Place::Input(0), 0x12),
        ),
        (
            "01120410270000",
            "01120400000000",
            malformed(Place::Input(0), 0x12),
        ),
        (
            "011004feffffff",
            "011003feffff",
            malformed(Place::Input(0), 0x10),
        ),
        (
            "0103080008af2f00000000",
            "01030800000000000000ff",
            malformed(Place::Output(0), 0x03),
        ),
        ("01fb0402000000", "01fb0403000000", PsbtFault::Version(3)),
        ("01040101", "01040100", PsbtFault::NoInput),
        ("01040101", "010403fd1127", PsbtFault::TooManyParts(10_001)),
    ] {
        assert_eq!(changed(from, to), fault, "{from} -> {to}");
    }
    // Fields of one version in the other.
    let zero = Psbt::serialize(parse(valid).unwrap().psbt());
    let zero = to_hex(&zero);
    assert_eq!(parse(&zero).unwrap().version(), 0);
    let end = zero.find("0001005202000000").unwrap();
    let with = |pair: &str| parse(&format!("{}{pair}{}", &zero[..end], &zero[end..]));
    let other = |field, version| PsbtFault::OtherVersion {
        place: Place::Global,
        field,
        version,
    };
    assert_eq!(with("01020402000000"), Err(other(0x02, 0)));
    assert_eq!(with("01060100"), Err(other(0x06, 0)));
    assert_eq!(with("01fb0402000000"), Err(other(0x00, 2)));
    assert_eq!(with("01fb0400000000").unwrap().version(), 0);
    // What version 2 does not have either: more than there is.
    assert_eq!(zero.matches("0008af2f00000000").count(), 1);
    let too_much = zero.replacen("0008af2f00000000", "00000000000000f0", 1);
    let fault = malformed(Place::Global, 0x00);
    assert_eq!(parse(&too_much), Err(fault));
}

/// Version 2 as it is written: sequence and lock time are said, and nothing else is added.
#[test]
fn version_2_is_written_byte_by_byte() {
    let two = vector("required-only ");
    let expected = two
        .replacen("01020402000000", "0102040200000001030400000000", 1)
        .replacen("010f0400000000", "010f0400000000011004ffffffff", 1);
    let zero = parse(two).unwrap().psbt().serialize();
    assert_eq!(
        to_hex(&zero),
        format!(
            "70736274ff010071{}000000 00",
            unsigned("ffffffff", "00000000")
        )
        .replace(' ', "")
    );
    assert_eq!(to_hex(&Packet::to_version_2(&zero).unwrap()), expected);
    // What is version 2 already stays as it is.
    assert_eq!(
        to_hex(&Packet::to_version_2(&from_hex(two).unwrap()).unwrap()),
        two
    );
    // Everything else is carried along.
    for name in ["all-locktimes ", "inputs-modifiable "] {
        let read = parse(vector(name)).unwrap();
        let again = Packet::to_version_2(&read.psbt().serialize()).unwrap();
        let again = Packet::parse(&again).unwrap();
        assert_eq!((again.version(), again.is_modifiable()), (2, false));
        assert_eq!(again.psbt(), read.psbt(), "{name}");
    }
}

/// Lock times of several inputs, as BIP-370 decides.
#[test]
fn lock_times_are_agreed_on() {
    let time = |n: u32| format!("011104{}", to_hex(&(500_000_000 + n).to_le_bytes()));
    let height = |n: u32| format!("011204{}", to_hex(&n.to_le_bytes()));
    let lock_time = |inputs: [String; 2]| {
        let inputs: String = (1..)
            .zip(inputs)
            .map(|(vout, fields)| {
                let txid = "11".repeat(32);
                format!("010e20{txid}010f040{vout}000000{fields}00")
            })
            .collect();
        let hex = format!(
            "70736274ff0102040200000001030407000000010401020105010101fb040200000000{inputs}\
             01030800000000000000000104000 0"
        );
        parse(&hex.replace(' ', "")).map(|packet| packet.tx().lock_time.to_consensus_u32())
    };
    let none = String::new;
    let both = |t, h| format!("{}{}", time(t), height(h));
    for (inputs, expected) in [
        ([none(), none()], Ok(7)),
        ([none(), time(3)], Ok(500_000_003)),
        ([height(3), none()], Ok(3)),
        ([height(3), height(9)], Ok(9)),
        ([time(3), time(9)], Ok(500_000_009)),
        ([both(1, 8), both(2, 3)], Ok(8)),
        ([both(1, 8), time(2)], Ok(500_000_002)),
        ([both(1, 8), height(9)], Ok(9)),
        ([time(1), height(9)], Err(PsbtFault::LockTimes)),
    ] {
        assert_eq!(lock_time(inputs.clone()), expected, "{inputs:?}");
    }
}

#[test]
fn what_is_no_psbt_is_one_clear_error() {
    let valid = from_hex(vector("all-locktimes ")).unwrap();
    // Cut off anywhere.
    for end in 0..valid.len() {
        let fault = Packet::parse(&valid[..end]).unwrap_err();
        let cut = matches!(fault, PsbtFault::Truncated(_) | PsbtFault::NotAPsbt);
        assert!(cut, "{end}: {fault}");
    }
    let mut longer = valid.clone();
    longer.extend([0; 3]);
    assert_eq!(Packet::parse(&longer), Err(PsbtFault::Trailing(3)));
    // The same key twice, in each kind of map.
    let hex = to_hex(&valid);
    for (pair, place, field) in [
        ("01040101", Place::Global, 0x04),
        ("010f0400000000", Place::Input(0), 0x0f),
        ("0103080008af2f00000000", Place::Output(0), 0x03),
    ] {
        let twice = hex.replacen(pair, &pair.repeat(2), 1);
        assert_eq!(parse(&twice), Err(PsbtFault::Duplicate { place, field }));
    }
    let mut huge = b"psbt\xff".to_vec();
    huge.resize(MAX_BYTES + 1, 0);
    assert_eq!(Packet::parse(&huge), Err(PsbtFault::TooLarge));
    assert_eq!(Packet::from_file(&huge), Err(PsbtFault::TooLarge));
    assert_eq!(
        Packet::from_file(&vec![b'A'; 7 << 20]),
        Err(PsbtFault::TooLarge)
    );
    // A length beyond everything.
    let long = [
        &b"psbt\xff"[..],
        &bitcoin::consensus::serialize(&VarInt(u64::MAX)),
    ]
    .concat();
    assert_eq!(
        Packet::parse(&long),
        Err(PsbtFault::Truncated(Place::Global))
    );
    for text in ["", "psbt", "70736274ff", "not base64!", "AAAA"] {
        assert_eq!(
            Packet::from_file(text.as_bytes()),
            Err(PsbtFault::NotAPsbt),
            "{text}"
        );
    }
    assert_eq!(
        PsbtFault::Duplicate {
            place: Place::Input(3),
            field: 0x1a
        }
        .to_string(),
        "input 3 has the field 0x1a twice"
    );
}

#[test]
fn a_file_is_bytes_or_base64_in_lines() {
    let bytes = from_hex(vector("required-only ")).unwrap();
    let expected = Packet::parse(&bytes).unwrap();
    assert_eq!(Packet::from_file(&bytes), Ok(expected.clone()));
    let text = STANDARD.encode(&bytes);
    assert_eq!(Packet::from_file(text.as_bytes()), Ok(expected.clone()));
    let (one, two) = text.split_at(40);
    let lines = format!("{one}\r\n{two}\n");
    assert_eq!(Packet::from_file(lines.as_bytes()), Ok(expected.clone()));
    assert_eq!(expected.tx().input[0].sequence, Sequence::MAX);
    assert_eq!(expected.extracted(), *expected.tx());
}

proptest! {
    /// Foreign bytes: refused or read, never a panic; what is read is the same in the other version.
    #[test]
    fn changed_bytes_are_read_or_refused(
        vector_name in prop::sample::select(vec!["required-only ", "all-locktimes "]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = from_hex(vector(vector_name)).unwrap();
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            let zero = packet.psbt().serialize();
            let two = Packet::to_version_2(&zero).unwrap();
            let again = Packet::parse(&two).unwrap();
            prop_assert_eq!(again.psbt(), packet.psbt());
            prop_assert_eq!(packet.check().len(), packet.tx().input.len());
        }
    }
}
