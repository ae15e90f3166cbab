//! What a transaction is to a beacon, by its form alone (DESIGN §6 rule 2).

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, Script, ScriptBuf, Transaction, TxIn, Weight};

use super::refund::is_payee;
use super::signal::signal_of;

/// The leaf version of tapscript, without the parity bit (BIP-342).
const TAPSCRIPT: u8 = 0xc0;

/// Witness of an input that is still to be signed by the taproot key path: one item of 64 bytes.
const KEY_PATH_WITNESS: Weight = Weight::from_wu(66);

/// What a transaction that spends from a beacon is, by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpendForm {
    /// A signal, by the key path or still unsigned.
    Signal,
    /// A signal signed through a leaf of the output.
    FallbackSignal,
    /// A refund: locked by BIP-68, paying exactly whom refunds pay.
    Refund,
    /// None of these.
    Other,
}

/// The form of a transaction that spends from a beacon whose refunds pay `payees`, in this order, after
/// `refund_blocks` blocks.
#[must_use]
pub fn spend_form(tx: &Transaction, payees: &[ScriptBuf], refund_blocks: u16) -> SpendForm {
    if signal_of(tx).is_some() {
        return if tx.input.iter().any(spends_leaf) {
            SpendForm::FallbackSignal
        } else {
            SpendForm::Signal
        };
    }
    let pays_payees = !payees.is_empty()
        && tx
            .output
            .iter()
            .map(|output| output.script_pubkey.as_script())
            .eq(payees.iter().map(ScriptBuf::as_script));
    let locked = refund_blocks > 0
        && tx.input.len() == 1
        && tx
            .input
            .iter()
            .all(|input| input.sequence.to_consensus_u32() == u32::from(refund_blocks));
    if pays_payees && locked {
        SpendForm::Refund
    } else {
        SpendForm::Other
    }
}

/// What a transaction of which nothing else is known has the form of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoneForm {
    /// A signal, of whatever beacon.
    Signal,
    /// A signal signed through a leaf of the output.
    FallbackSignal,
    /// A refund: one input, locked for a number of blocks, and equal shares to segwit outputs.
    Refund {
        /// The lock.
        lock_blocks: u16,
    },
    /// None of these.
    Other,
}

/// The form of a transaction, without knowing what it spends or whom it should pay.
#[must_use]
pub fn lone_form(tx: &Transaction) -> LoneForm {
    if signal_of(tx).is_some() {
        return if tx.input.iter().any(spends_leaf) {
            LoneForm::FallbackSignal
        } else {
            LoneForm::Signal
        };
    }
    match refund_lock(tx) {
        Some(lock_blocks) => LoneForm::Refund { lock_blocks },
        None => LoneForm::Other,
    }
}

/// The lock of what has the form of a refund (rule 2, second form), whomever it pays.
fn refund_lock(tx: &Transaction) -> Option<u16> {
    let [input] = tx.input.as_slice() else {
        return None;
    };
    // A lock of blocks is all there is in the sequence: no other bit is set (BIP-68).
    let lock = u16::try_from(input.sequence.to_consensus_u32()).ok()?;
    let (first, others) = tx.output.split_first()?;
    let plain = tx.version == Version::TWO && tx.lock_time == LockTime::ZERO && lock > 0;
    let payees = tx
        .output
        .iter()
        .all(|output| is_payee(&output.script_pubkey));
    let share = others.first().unwrap_or(first).value;
    let equal = others.iter().all(|output| output.value == share);
    // The satoshis that can not be divided go to the first.
    let remainder = first.value.checked_sub(share)?;
    let divided = u64::try_from(tx.output.len()).is_ok_and(|n| remainder < Amount::from_sat(n));
    (plain && payees && equal && divided).then_some(lock)
}

/// Whether every input has a witness or a script.
#[must_use]
pub fn is_signed(tx: &Transaction) -> bool {
    tx.input
        .iter()
        .all(|input| !input.witness.is_empty() || !input.script_sig.is_empty())
}

/// The weight once every input that has nothing yet is signed by the taproot key path.
#[must_use]
pub fn signed_weight_of(tx: &Transaction) -> Weight {
    let unsigned = tx
        .input
        .iter()
        .filter(|input| input.witness.is_empty() && input.script_sig.is_empty())
        .count();
    if unsigned == 0 {
        return tx.weight();
    }
    let segwit = tx.input.iter().any(|input| !input.witness.is_empty());
    // Where no input has a witness, marker and flag are still to come; where one has, an empty one is counted.
    let (head, each) = if segwit {
        (0, KEY_PATH_WITNESS.to_wu().saturating_sub(1))
    } else {
        // Every other input has a script and an empty witness, one byte.
        let signed = tx.input.len().saturating_sub(unsigned);
        (
            2_u64.saturating_add(u64::try_from(signed).unwrap_or(u64::MAX)),
            KEY_PATH_WITNESS.to_wu(),
        )
    };
    let more = u64::try_from(unsigned)
        .unwrap_or(u64::MAX)
        .saturating_mul(each)
        .saturating_add(head);
    Weight::from_wu(tx.weight().to_wu().saturating_add(more))
}

/// What an output is, in words, given the beacon's script.
#[must_use]
pub fn output_in_words(tx: &Transaction, position: usize, beacon: Option<&Script>) -> &'static str {
    let Some(output) = tx.output.get(position) else {
        return "";
    };
    let last = position.saturating_add(1) == tx.output.len();
    if last && signal_of(tx).is_some() {
        "the signal: 32 bytes"
    } else if beacon.is_some_and(|script| output.script_pubkey.as_script() == script) {
        "back to the beacon"
    } else if output.script_pubkey.is_op_return() {
        "data, not a signal"
    } else {
        ""
    }
}

/// Whether an input is signed through a leaf: the last item of its witness, without an annex, is a control block of
/// tapscript (BIP-341).
fn spends_leaf(input: &TxIn) -> bool {
    let mut items: Vec<&[u8]> = input.witness.iter().collect();
    if items.len() >= 2 && items.last().and_then(|item| item.first()) == Some(&0x50) {
        items.pop();
    }
    items.len() >= 2
        && items.last().is_some_and(|block| {
            let whole = block
                .len()
                .checked_sub(33)
                .is_some_and(|path| path % 32 == 0);
            whole && block.first().is_some_and(|first| first & 0xfe == TAPSCRIPT)
        })
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash as _;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, FeeRate, OutPoint, Sequence, TxOut, Txid, Witness};

    use super::*;
    use crate::beacon::signal::{WEIGHT_WITH_CHANGE, WEIGHT_WITHOUT_CHANGE};

    fn payee(fill: u8) -> ScriptBuf {
        let mut bytes = vec![0x51, 0x20];
        bytes.extend([fill; 32]);
        ScriptBuf::from_bytes(bytes)
    }

    fn tx(sequence: u32, outputs: Vec<ScriptBuf>) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::new(Txid::from_byte_array([7; 32]), 0),
                script_sig: ScriptBuf::new(),
                sequence: Sequence(sequence),
                witness: Witness::new(),
            }],
            output: outputs
                .into_iter()
                .map(|script_pubkey| TxOut {
                    value: Amount::from_sat(1_000),
                    script_pubkey,
                })
                .collect(),
        }
    }

    fn signal() -> Transaction {
        tx(
            0xffff_fffd,
            vec![payee(1), ScriptBuf::new_op_return([9; 32])],
        )
    }

    #[test]
    fn forms_are_told_apart() {
        let (a, b) = (payee(2), payee(3));
        let payees = [a.clone(), b.clone()];
        assert_eq!(spend_form(&signal(), &payees, 1_008), SpendForm::Signal);
        let refund = tx(1_008, vec![a.clone(), b.clone()]);
        assert_eq!(spend_form(&refund, &payees, 1_008), SpendForm::Refund);
        assert_eq!(
            spend_form(&refund, &payees, 1_009),
            SpendForm::Other,
            "another lock"
        );
        assert_eq!(
            spend_form(&refund, &[], 1_008),
            SpendForm::Other,
            "no payees"
        );
        let swapped = tx(1_008, vec![b, a.clone()]);
        assert_eq!(spend_form(&swapped, &payees, 1_008), SpendForm::Other);
        let other = tx(0xffff_fffd, vec![a]);
        assert_eq!(spend_form(&other, &payees, 1_008), SpendForm::Other);
        assert_eq!(spend_form(&other, &payees, 0), SpendForm::Other);
    }

    #[test]
    fn forms_are_told_without_knowing_anything_else() {
        assert_eq!(lone_form(&signal()), LoneForm::Signal);
        let (a, b) = (payee(2), payee(3));
        let refund = tx(144, vec![a.clone(), b.clone()]);
        let locked = LoneForm::Refund { lock_blocks: 144 };
        assert_eq!(lone_form(&refund), locked);
        type Change = fn(&mut Transaction);
        let others: [Change; 9] = [
            |tx| tx.version = Version::ONE,
            |tx| tx.lock_time = LockTime::from_consensus(9),
            |tx| tx.input.push(tx.input[0].clone()),
            |tx| tx.input[0].sequence = Sequence(0xffff_fffd),
            |tx| tx.input[0].sequence = Sequence(0),
            // A lock of time.
            |tx| tx.input[0].sequence = Sequence(0x0040_0001),
            |tx| tx.output[1].value = Amount::from_sat(998),
            |tx| tx.output[1].value = Amount::from_sat(1_001),
            |tx| tx.output[0].script_pubkey = ScriptBuf::from_bytes(vec![0x51]),
        ];
        for (n, change) in others.into_iter().enumerate() {
            let mut other = refund.clone();
            change(&mut other);
            assert_eq!(lone_form(&other), LoneForm::Other, "{n}");
        }
        let mut odd = refund;
        odd.output[0].value = Amount::from_sat(1_001);
        assert_eq!(lone_form(&odd), locked, "an odd satoshi goes to the first");
        assert_eq!(
            lone_form(&tx(7, vec![a])),
            LoneForm::Refund { lock_blocks: 7 }
        );
        assert_eq!(lone_form(&tx(7, Vec::new())), LoneForm::Other);
    }

    #[test]
    fn a_leaf_in_the_witness_shows_a_fallback() {
        let mut block = vec![0xc1];
        block.extend([5; 32]);
        for (witness, form) in [
            (vec![vec![1; 64]], SpendForm::Signal),
            (vec![vec![1; 64], vec![0x50, 2]], SpendForm::Signal),
            (
                vec![vec![1; 64], vec![0x51], block.clone()],
                SpendForm::FallbackSignal,
            ),
            (
                vec![vec![1; 64], vec![0x51], block.clone(), vec![0x50]],
                SpendForm::FallbackSignal,
            ),
            (
                vec![vec![1; 64], vec![0x51], vec![0xc1; 34]],
                SpendForm::Signal,
            ),
        ] {
            let mut tx = signal();
            tx.input[0].witness = Witness::from_slice(&witness);
            assert_eq!(spend_form(&tx, &[], 0), form, "{witness:?}");
            let alone = match form {
                SpendForm::FallbackSignal => LoneForm::FallbackSignal,
                _ => LoneForm::Signal,
            };
            assert_eq!(lone_form(&tx), alone);
        }
    }

    #[test]
    fn the_size_is_that_of_the_signed_transaction() {
        let unsigned = signal();
        assert!(!is_signed(&unsigned));
        assert_eq!(signed_weight_of(&unsigned), WEIGHT_WITH_CHANGE);
        let mut signed = unsigned.clone();
        signed.input[0].witness = Witness::from_slice(&[[1; 64]]);
        assert!(is_signed(&signed));
        assert_eq!(signed_weight_of(&signed), WEIGHT_WITH_CHANGE);
        assert_eq!(signed.weight(), WEIGHT_WITH_CHANGE);
        let bare = tx(0xffff_fffd, vec![ScriptBuf::new_op_return([9; 32])]);
        assert_eq!(signed_weight_of(&bare), WEIGHT_WITHOUT_CHANGE);
        // Two inputs, one of them signed: the same as both signed.
        let mut both = signed.clone();
        both.input.push(signed.input[0].clone());
        let mut half = both.clone();
        half.input[1].witness = Witness::new();
        assert_eq!(signed_weight_of(&half), both.weight());
        let rate = FeeRate::from_sat_per_vb_u32(1);
        assert_eq!(
            rate.fee_wu(signed_weight_of(&bare)),
            Some(Amount::from_sat(111))
        );
    }

    #[test]
    fn outputs_have_words() {
        let beacon = payee(1);
        let tx = signal();
        assert_eq!(output_in_words(&tx, 0, Some(&beacon)), "back to the beacon");
        assert_eq!(output_in_words(&tx, 0, None), "");
        assert_eq!(output_in_words(&tx, 1, None), "the signal: 32 bytes");
        assert_eq!(output_in_words(&tx, 2, None), "");
    }
}
