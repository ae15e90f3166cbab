//! The refund of a beacon output, in the one form members sign (DESIGN §6 rule 2, second form).
//!
//! An output at the beacon address can be spent by all members together only. So that no member who vanishes
//! takes the money along, all of them sign its refund *before* anybody depends on the output: a transaction that
//! pays it back to the payees frozen with the cohort's set, and that no block may hold until the output has been
//! buried for the terms' number of blocks (BIP-68). Signals are made long before that; a refund that never
//! becomes valid, because a signal spent its output, costs nothing.
//!
//! Version 2, lock time 0; one input, the beacon output, with the lock as its sequence, spent by the taproot key
//! path with SIGHASH_DEFAULT and no annex; one output per payee, in their order, all with the same share; the
//! satoshis that can not be divided go to the first. The fee is the only value that may vary. No output is an
//! OP_RETURN, so a refund is never a signal.

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, FeeRate, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Weight,
    Witness,
};
use secp256k1::{Message, SECP256K1, XOnlyPublicKey, schnorr};

use super::signal::{BeaconOutput, SignalLimits};
use crate::hash::SchnorrSignature;
use serde::{Deserialize, Serialize};

/// The lowest fee rate of a refund: what nodes relay by default. A refund that pays less would wait for nobody
/// knows what, so members do not sign it.
pub const MIN_FEE_RATE: FeeRate = FeeRate::from_sat_per_vb_u32(1);

/// Weight of the witness: segwit marker and flag, one item, 64 bytes of signature.
const WITNESS_WEIGHT: Weight = Weight::from_wu(68);

/// A refund to be signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsignedRefund {
    /// The transaction, without its witness.
    pub tx: Transaction,
    /// The output it spends: what its signature commits to beside the transaction.
    pub prevout: TxOut,
    /// What it pays to the miner.
    pub fee: Amount,
}

/// What a transaction that passed [`check_refund`] or [`verify_refund`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedRefund {
    /// Its id, which the witness does not change.
    pub txid: Txid,
    /// What it pays to the miner.
    pub fee: Amount,
    /// What is signed for it, computed here from the output and the transaction.
    pub sighash: [u8; 32],
}

/// Why no refund can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefundError {
    /// A lock of 0 blocks: the refund could be sent at once and race with every signal.
    #[error("a refund needs a lock of at least one block")]
    NoLock,
    /// Nobody to pay to.
    #[error("a refund needs at least one payee")]
    NoPayee,
    /// A payee's script is not one of the three that may be paid.
    #[error("payee {0} is not a P2WPKH, P2WSH or P2TR script")]
    Payee(usize),
    /// The fee rate is below [`MIN_FEE_RATE`], or gives a fee beyond all bitcoin.
    #[error("a fee rate of {0} sat per 1000 weight units is out of range")]
    FeeRate(u64),
    /// After the fee a share would be too small to be relayed.
    #[error(
        "the output holds {available}: divided among the payees that is dust, it needs {needed}"
    )]
    Dust {
        /// Value of the output.
        available: Amount,
        /// The least value that can be refunded at this fee rate.
        needed: Amount,
    },
}

/// Why a member does not sign a refund, or does not believe one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefundFault {
    /// These terms and this set know no refunds, or none of this output.
    #[error("there is no refund of this output: {0}")]
    Impossible(RefundError),
    /// Not version 2.
    #[error("version is {0}, not 2")]
    Version(i32),
    /// A lock time.
    #[error("lock time is {0}, not 0")]
    LockTime(u32),
    /// Not exactly one input.
    #[error("there are {0} inputs, not one")]
    Inputs(usize),
    /// It spends another output.
    #[error("it spends {found}, not {wanted}")]
    OtherOutput {
        /// What it spends.
        found: OutPoint,
        /// What it has to spend.
        wanted: OutPoint,
    },
    /// The sequence is not the lock of the terms.
    #[error("sequence is {found:#010x}, not the lock of {lock_blocks} blocks")]
    Lock {
        /// The sequence.
        found: u32,
        /// The lock of the terms.
        lock_blocks: u16,
    },
    /// The transaction brings a witness or a signature script.
    #[error("it is not unsigned")]
    NotUnsigned,
    /// Not one output per payee.
    #[error("there are {found} outputs for {payees} payees")]
    Outputs {
        /// How many outputs there are.
        found: usize,
        /// How many payees.
        payees: usize,
    },
    /// An output pays somebody else.
    #[error("output {0} does not pay the payee in its place")]
    NotThePayee(usize),
    /// More goes out than comes in.
    #[error("it pays {paid}, the output holds {available}")]
    PaysTooMuch {
        /// The sum of its outputs.
        paid: Amount,
        /// Value of the output.
        available: Amount,
    },
    /// The fee is over the limit.
    #[error("the fee of {fee} is over the limit of {limit}")]
    FeeTooHigh {
        /// The fee.
        fee: Amount,
        /// The lower one of both limits, for this transaction.
        limit: Amount,
    },
    /// The fee is less than nodes relay, so the refund could not be sent.
    #[error("the fee of {fee} is below {floor}, which nodes relay")]
    FeeTooLow {
        /// The fee.
        fee: Amount,
        /// The least fee.
        floor: Amount,
    },
    /// The shares are not equal, or one is dust.
    #[error("the shares are not equal parts above dust")]
    Shares,
    /// Something else differs from the transaction that these values make.
    #[error("its bytes are not those of a refund")]
    OtherBytes,
    /// It is not signed by the key of the beacon output.
    #[error("its signature is not one of the beacon output's key")]
    Signature,
}

/// Whether a script may receive a refund: segwit version 0 and taproot only, so that nothing about the payee can
/// change a refund's id, and never an output that could be read as a beacon signal (rule 2).
#[must_use]
pub fn is_payee(script: &Script) -> bool {
    script.is_p2wpkh() || script.is_p2wsh() || script.is_p2tr()
}

/// Builds the refund of `output` to `payees`, at exactly `fee_rate` for its signed weight.
///
/// `beacon_script` is the script of the output; `lock_blocks` is the term `refund_blocks`.
pub fn build_refund(
    output: &BeaconOutput,
    beacon_script: &Script,
    lock_blocks: u16,
    payees: &[ScriptBuf],
    fee_rate: FeeRate,
) -> Result<UnsignedRefund, RefundError> {
    let form = Form::new(output, lock_blocks, payees)?;
    let out_of_range = RefundError::FeeRate(fee_rate.to_sat_per_kwu());
    let fee = Some(fee_rate)
        .filter(|rate| *rate >= MIN_FEE_RATE)
        .and_then(|rate| form.fee(rate))
        .ok_or(out_of_range)?;
    let tx = form.transaction(fee).ok_or_else(|| RefundError::Dust {
        available: output.value,
        needed: form.needed(fee),
    })?;
    Ok(UnsignedRefund {
        tx,
        prevout: TxOut {
            value: output.value,
            script_pubkey: beacon_script.to_owned(),
        },
        fee,
    })
}

impl UnsignedRefund {
    /// What is signed for it.
    #[must_use]
    pub fn sighash(&self) -> [u8; 32] {
        sighash(&self.tx, &self.prevout)
    }
}

/// The least value of an output that [`build_refund`] can refund.
pub fn refundable_from(payees: &[ScriptBuf], fee_rate: FeeRate) -> Result<Amount, RefundError> {
    let nothing = BeaconOutput {
        outpoint: OutPoint::null(),
        value: Amount::ZERO,
        height: None,
    };
    let form = Form::new(&nothing, 1, payees)?;
    let fee = Some(fee_rate)
        .filter(|rate| *rate >= MIN_FEE_RATE)
        .and_then(|rate| form.fee(rate))
        .ok_or(RefundError::FeeRate(fee_rate.to_sat_per_kwu()))?;
    Ok(form.needed(fee))
}

/// Checks, before signing, that `tx` is the refund of `output` to `payees` for its own fee, and that the fee is
/// within the limits. Says what to sign.
///
/// `beacon_script`, `lock_blocks` and `payees` have to come from the member's own set and terms. The output's
/// place and value may come from the aggregator: the signature commits to both, so one for an output that does
/// not exist, or has another value, is good for nothing.
pub fn check_refund(
    tx: &Transaction,
    output: &BeaconOutput,
    beacon_script: &Script,
    lock_blocks: u16,
    payees: &[ScriptBuf],
    limits: &SignalLimits,
) -> Result<CheckedRefund, RefundFault> {
    let form = Form::new(output, lock_blocks, payees).map_err(RefundFault::Impossible)?;
    let checked = form.check(tx, beacon_script)?;
    // A rate limit that is out of range limits nothing; the absolute limit still holds.
    let limit = form
        .fee(limits.max_fee_rate)
        .unwrap_or(Amount::MAX_MONEY)
        .min(limits.max_fee);
    if checked.fee > limit {
        return Err(RefundFault::FeeTooHigh {
            fee: checked.fee,
            limit,
        });
    }
    Ok(checked)
}

/// Checks that `tx` is a refund of `output` to `payees`, whatever its fee, and signed by the key of
/// `beacon_script`: with it the money comes back once the lock is over.
pub fn verify_refund(
    tx: &Transaction,
    output: &BeaconOutput,
    beacon_script: &Script,
    lock_blocks: u16,
    payees: &[ScriptBuf],
) -> Result<CheckedRefund, RefundFault> {
    let form = Form::new(output, lock_blocks, payees).map_err(RefundFault::Impossible)?;
    let mut unsigned = tx.clone();
    let [input] = unsigned.input.as_mut_slice() else {
        return Err(RefundFault::Inputs(tx.input.len()));
    };
    let witness = std::mem::take(&mut input.witness);
    let checked = form.check(&unsigned, beacon_script)?;
    let key = beacon_script
        .is_p2tr()
        .then(|| beacon_script.as_bytes().get(2..))
        .flatten()
        .and_then(|key| XOnlyPublicKey::from_slice(key).ok())
        .ok_or(RefundFault::Signature)?;
    // 64 bytes, so SIGHASH_DEFAULT; nothing else in the witness, so key path and no annex.
    let signature = (witness.len() == 1)
        .then(|| witness.nth(0))
        .flatten()
        .and_then(|bytes| schnorr::Signature::from_slice(bytes).ok())
        .ok_or(RefundFault::Signature)?;
    SECP256K1
        .verify_schnorr(&signature, &Message::from_digest(checked.sighash), &key)
        .map_err(|_| RefundFault::Signature)?;
    Ok(checked)
}

/// Puts the signature into the witness of the input: 64 bytes, so SIGHASH_DEFAULT.
#[must_use]
pub fn finalize(mut tx: Transaction, signature: &SchnorrSignature) -> Transaction {
    for input in &mut tx.input {
        input.witness = Witness::from_slice(&[signature.as_bytes()]);
    }
    tx
}

/// Height of the first block that may hold the refund of an output confirmed at `height` (BIP-68). Nodes take it
/// when the best block is the one before.
#[must_use]
pub const fn matures_at(height: u32, lock_blocks: u16) -> u32 {
    height.saturating_add(lock_blocks as u32)
}

/// How many more blocks have to come before nodes take the refund of an output confirmed at `height`.
#[must_use]
pub const fn blocks_missing(height: u32, lock_blocks: u16, best: u32) -> u32 {
    matures_at(height, lock_blocks).saturating_sub(best.saturating_add(1))
}

/// Everything about a refund but its fee.
struct Form<'a> {
    output: &'a BeaconOutput,
    lock_blocks: u16,
    payees: &'a [ScriptBuf],
}

impl<'a> Form<'a> {
    fn new(
        output: &'a BeaconOutput,
        lock_blocks: u16,
        payees: &'a [ScriptBuf],
    ) -> Result<Self, RefundError> {
        if lock_blocks == 0 {
            return Err(RefundError::NoLock);
        }
        if payees.is_empty() {
            return Err(RefundError::NoPayee);
        }
        if let Some(place) = payees.iter().position(|payee| !is_payee(payee)) {
            return Err(RefundError::Payee(place));
        }
        Ok(Self {
            output,
            lock_blocks,
            payees,
        })
    }

    /// How many payees there are: at least one.
    fn payees(&self) -> u64 {
        u64::try_from(self.payees.len()).unwrap_or(u64::MAX).max(1)
    }

    /// The share below which nodes do not relay one of the outputs.
    fn dust(&self) -> Amount {
        let each = self.payees.iter().map(|payee| payee.minimal_non_dust());
        each.max().unwrap_or(Amount::ZERO)
    }

    /// The least value from which every share is relayed, after `fee`.
    fn needed(&self, fee: Amount) -> Amount {
        self.dust()
            .checked_mul(self.payees())
            .and_then(|shares| shares.checked_add(fee))
            .unwrap_or(Amount::MAX_MONEY)
    }

    /// The fee at a rate, rounded up to a whole satoshi; `None` beyond all bitcoin.
    fn fee(&self, rate: FeeRate) -> Option<Amount> {
        let outputs = self.payees.iter().map(|payee| TxOut {
            value: Amount::ZERO,
            script_pubkey: payee.clone(),
        });
        let base = self.of_outputs(outputs.collect()).base_size();
        let weight = Weight::from_non_witness_data_size(u64::try_from(base).ok()?);
        rate.fee_wu(weight.checked_add(WITNESS_WEIGHT)?)
            .filter(|fee| *fee <= Amount::MAX_MONEY)
    }

    /// The refund that pays `fee`; `None` if a share would be dust.
    fn transaction(&self, fee: Amount) -> Option<Transaction> {
        let paid = self.output.value.checked_sub(fee)?.to_sat();
        let share = Amount::from_sat(paid.checked_div(self.payees())?);
        let remainder = Amount::from_sat(paid.checked_rem(self.payees())?);
        if share < self.dust() {
            return None;
        }
        let mut outputs: Vec<_> = self
            .payees
            .iter()
            .map(|payee| TxOut {
                value: share,
                script_pubkey: payee.clone(),
            })
            .collect();
        let first = outputs.first_mut()?;
        first.value = share.checked_add(remainder)?;
        Some(self.of_outputs(outputs))
    }

    /// The refund with these outputs: the only place that says what one looks like.
    fn of_outputs(&self, output: Vec<TxOut>) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: self.output.outpoint,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::from_height(self.lock_blocks),
                witness: Witness::new(),
            }],
            output,
        }
    }

    /// Takes the fee out of an unsigned transaction, builds the refund that pays it, and compares bytes.
    fn check(
        &self,
        tx: &Transaction,
        beacon_script: &Script,
    ) -> Result<CheckedRefund, RefundFault> {
        if tx.version != Version::TWO {
            return Err(RefundFault::Version(tx.version.0));
        }
        if tx.lock_time != LockTime::ZERO {
            return Err(RefundFault::LockTime(tx.lock_time.to_consensus_u32()));
        }
        let [input] = tx.input.as_slice() else {
            return Err(RefundFault::Inputs(tx.input.len()));
        };
        if input.previous_output != self.output.outpoint {
            return Err(RefundFault::OtherOutput {
                found: input.previous_output,
                wanted: self.output.outpoint,
            });
        }
        if input.sequence != Sequence::from_height(self.lock_blocks) {
            return Err(RefundFault::Lock {
                found: input.sequence.0,
                lock_blocks: self.lock_blocks,
            });
        }
        if !input.witness.is_empty() || !input.script_sig.is_empty() {
            return Err(RefundFault::NotUnsigned);
        }
        if tx.output.len() != self.payees.len() {
            return Err(RefundFault::Outputs {
                found: tx.output.len(),
                payees: self.payees.len(),
            });
        }
        let pairs = tx.output.iter().zip(self.payees);
        for (place, (output, payee)) in pairs.enumerate() {
            if output.script_pubkey != *payee {
                return Err(RefundFault::NotThePayee(place));
            }
        }
        let available = self.output.value;
        let paid = tx
            .output
            .iter()
            .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
            .unwrap_or(Amount::MAX);
        let fee = available
            .checked_sub(paid)
            .ok_or(RefundFault::PaysTooMuch { paid, available })?;
        let floor = self.fee(MIN_FEE_RATE).unwrap_or(Amount::MAX_MONEY);
        if fee < floor {
            return Err(RefundFault::FeeTooLow { fee, floor });
        }
        let rebuilt = self.transaction(fee).ok_or(RefundFault::Shares)?;
        if rebuilt.output != tx.output {
            return Err(RefundFault::Shares);
        }
        if serialize(&rebuilt) != serialize(tx) {
            return Err(RefundFault::OtherBytes);
        }
        let prevout = TxOut {
            value: available,
            script_pubkey: beacon_script.to_owned(),
        };
        Ok(CheckedRefund {
            txid: rebuilt.compute_txid(),
            fee,
            sighash: sighash(&rebuilt, &prevout),
        })
    }
}

#[allow(
    clippy::expect_used,
    reason = "fails only for an input that does not exist or prevouts of another number than inputs"
)]
fn sighash(tx: &Transaction, prevout: &TxOut) -> [u8; 32] {
    SighashCache::new(tx)
        .taproot_key_spend_signature_hash(0, &Prevouts::All(&[prevout]), TapSighashType::Default)
        .expect("a refund has one input, and its prevout is given")
        .to_byte_array()
}

#[cfg(test)]
mod tests;
