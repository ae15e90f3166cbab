use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::psbt::{Psbt, PsbtSighashType};
use bitcoin::transaction::Version;
use bitcoin::{EcdsaSighashType, ScriptBuf, Sequence, TapSighashType, TxIn, TxOut, Witness};
use proptest::prelude::*;

use super::*;

fn script(prefix: [u8; 2], byte: u8) -> ScriptBuf {
    let mut bytes = prefix.to_vec();
    bytes.extend(std::iter::repeat_n(byte, prefix[1].into()));
    ScriptBuf::from_bytes(bytes)
}

fn beacon() -> ScriptBuf {
    script([0x51, 0x20], 7)
}

fn p2wpkh() -> ScriptBuf {
    script([0x00, 0x14], 1)
}

fn input(byte: u8) -> TxIn {
    TxIn {
        previous_output: OutPoint::new(Txid::from_byte_array([byte; 32]), 1),
        script_sig: ScriptBuf::new(),
        sequence: Sequence::MAX,
        witness: Witness::new(),
    }
}

fn pay(sat: u64, script_pubkey: ScriptBuf) -> TxOut {
    TxOut {
        value: Amount::from_sat(sat),
        script_pubkey,
    }
}

/// Two inputs, a payment to the beacon between two others.
fn psbt() -> Psbt {
    let tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input(1), input(2)],
        output: vec![
            pay(10_000, p2wpkh()),
            pay(60_000, beacon()),
            pay(1_000, script([0x00, 0x20], 5)),
        ],
    };
    let mut psbt = Psbt::from_unsigned_tx(tx).unwrap();
    psbt.inputs[0].witness_utxo = Some(pay(50_000, p2wpkh()));
    psbt.inputs[1].witness_utxo = Some(pay(30_000, script([0x51, 0x20], 9)));
    psbt
}

fn check(psbt: &Psbt) -> Result<Funding, FundingFault> {
    check_funding(&psbt.serialize(), &beacon())
}

#[test]
fn what_is_paid_to_the_beacon_is_found_with_its_final_place() {
    let psbt = psbt();
    let funding = check(&psbt).unwrap();
    let txid = psbt.unsigned_tx.compute_txid();
    assert_eq!(funding.txid, txid);
    let paid = (OutPoint { txid, vout: 1 }, Amount::from_sat(60_000));
    assert_eq!(funding.outputs, [paid]);
    assert_eq!(funding.fee, Amount::from_sat(9_000));
    assert!(!funding.replaceable);
    assert_eq!(funding.signed, None);
}

#[test]
fn signatures_do_not_change_the_id_and_make_it_complete() {
    let mut signed = psbt();
    signed.inputs[0].final_script_witness = Some(Witness::from_slice(&[[3; 72]]));
    assert_eq!(check(&signed).unwrap().signed, None, "one is missing");
    signed.inputs[1].final_script_witness = Some(Witness::from_slice(&[[4; 64]]));
    let funding = check(&signed).unwrap();
    let tx = funding.signed.unwrap();
    assert_eq!(tx.compute_txid(), check(&psbt()).unwrap().txid);
    assert_eq!(tx.input[1].witness.nth(0).unwrap(), [4; 64]);
    let mut replaceable = psbt();
    replaceable.unsigned_tx.input[1].sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
    assert!(check(&replaceable).unwrap().replaceable);
}

/// A whole previous transaction shows by its id that the output is what it is said to be.
#[test]
fn a_whole_previous_transaction_is_checked() {
    let previous = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![input(9)],
        output: vec![pay(1, p2wpkh()), pay(50_000, p2wpkh())],
    };
    let mut psbt = psbt();
    psbt.unsigned_tx.input[0].previous_output.txid = previous.compute_txid();
    psbt.inputs[0].non_witness_utxo = Some(previous.clone());
    assert!(check(&psbt).is_ok());
    psbt.inputs[0].witness_utxo = None;
    assert_eq!(check(&psbt).unwrap().fee, Amount::from_sat(9_000));
    psbt.inputs[0].witness_utxo = Some(pay(50_001, p2wpkh()));
    assert_eq!(check(&psbt), Err(FundingFault::WrongUtxo(0)));
    psbt.unsigned_tx.input[0].previous_output.vout = 2;
    assert_eq!(check(&psbt), Err(FundingFault::WrongUtxo(0)));
    let mut other = psbt.clone();
    other.unsigned_tx.input[0].previous_output.txid = Txid::from_byte_array([5; 32]);
    assert_eq!(check(&other), Err(FundingFault::WrongUtxo(0)));
}

/// Version 2 (BIP-370) is the same transaction, unless something can still be added to it.
#[test]
fn version_2_is_taken_once_it_is_complete() {
    let two = Packet::to_version_2(&psbt().serialize()).unwrap();
    assert_ne!(two, psbt().serialize());
    assert_eq!(check_funding(&two, &beacon()), check(&psbt()));
    let flags = |flags: u8| {
        let mut changed = two.clone();
        // Before the field of the version, 0xfb.
        let version = two
            .windows(3)
            .position(|pair| pair == [1, 0xfb, 4])
            .unwrap();
        changed.splice(version..version, [1, 0x06, 1, flags]);
        check_funding(&changed, &beacon())
    };
    assert_eq!(flags(0), check(&psbt()));
    assert_eq!(flags(1), Err(FundingFault::Modifiable));
    assert_eq!(flags(2), Err(FundingFault::Modifiable));
}

#[test]
fn every_fault_has_its_name() {
    type Change = fn(&mut Psbt);
    let cases: [(FundingFault, Change); 9] = [
        (FundingFault::NoPayment, |p| {
            p.unsigned_tx.output[1].script_pubkey = p2wpkh();
        }),
        (FundingFault::UnknownInput(1), |p| {
            p.inputs[1].witness_utxo = None
        }),
        // P2PKH, and P2SH whatever is inside it.
        (FundingFault::NotSegwit(0), |p| {
            let p2pkh =
                ScriptBuf::from_bytes([&[0x76, 0xa9, 0x14][..], &[1; 20], &[0x88, 0xac]].concat());
            p.inputs[0].witness_utxo = Some(pay(50_000, p2pkh));
        }),
        (FundingFault::NotSegwit(0), |p| {
            let p2sh = ScriptBuf::from_bytes([&[0xa9, 0x14][..], &[1; 20], &[0x87]].concat());
            p.inputs[0].witness_utxo = Some(pay(50_000, p2sh));
        }),
        (FundingFault::NotSegwit(1), |p| {
            p.inputs[1].final_script_sig = Some(p2wpkh());
        }),
        (FundingFault::NotSegwit(1), |p| {
            p.inputs[1].redeem_script = Some(p2wpkh())
        }),
        (FundingFault::Sighash(0), |p| {
            p.inputs[0].sighash_type = Some(PsbtSighashType::from(EcdsaSighashType::None));
        }),
        (FundingFault::Sighash(1), |p| {
            let kind = TapSighashType::AllPlusAnyoneCanPay;
            p.inputs[1].sighash_type = Some(PsbtSighashType::from(kind));
        }),
        (FundingFault::Negative, |p| {
            p.unsigned_tx.output[0].value = Amount::from_sat(19_001);
        }),
    ];
    for (fault, change) in cases {
        let mut psbt = psbt();
        change(&mut psbt);
        assert_eq!(check(&psbt), Err(fault));
    }
    assert!(matches!(
        check_funding(b"", &beacon()),
        Err(FundingFault::NotAPsbt(_))
    ));
    assert!(matches!(
        check_funding(&serialize(&psbt().unsigned_tx), &beacon()),
        Err(FundingFault::NotAPsbt(_))
    ));
}

proptest! {
    /// Foreign bytes: refused or read, never a panic, and what is read has the id of its own transaction.
    #[test]
    fn a_changed_byte_is_read_or_refused(position in 0_usize..400, value: u8) {
        let mut bytes = psbt().serialize();
        let position = position % bytes.len();
        bytes[position] = value;
        if let Ok(funding) = check_funding(&bytes, &beacon()) {
            let read = Psbt::deserialize(&bytes).unwrap();
            prop_assert_eq!(funding.txid, read.unsigned_tx.compute_txid());
        }
    }
}
