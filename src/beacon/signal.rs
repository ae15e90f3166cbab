//! The beacon signal transaction, in the one form members sign (spec.md §4, DESIGN §6 rule 2).
//!
//! Version 2, lock time 0; one input with sequence `0xfffffffd`, the tip, spent by the taproot key path
//! with SIGHASH_DEFAULT and no annex; outputs exactly the change to the beacon itself (absent only if it
//! would be dust), then an OP_RETURN that pushes the 32 signal bytes, value 0, last.
//!
//! The aggregator builds it ([`build_signal`]); a member takes the few values that may vary out of what
//! it was sent, builds the transaction of these values itself, and compares bytes ([`check_signal`]).

use bitcoin::absolute::LockTime;
use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::all::{OP_PUSHBYTES_32, OP_RETURN};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, FeeRate, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Weight,
    Witness,
};

use crate::hash::{SchnorrSignature, SignalBytes};

/// The smallest taproot output nodes relay, in satoshis: 3 sat/vB for its 43 bytes and the 67 that spend it.
pub const DUST_LIMIT: Amount = Amount::from_sat(330);

/// The sequence of the input: replaceable (BIP-125), no relative lock time.
pub const SEQUENCE: Sequence = Sequence(0xffff_fffd);

/// Weight of the *signed* transaction with change: 137 bytes, and a witness of 68; 154 vB.
pub const WEIGHT_WITH_CHANGE: Weight = Weight::from_wu(4 * 137 + 68);

/// Weight of the *signed* transaction without change: 94 bytes, and a witness of 68; 111 vB.
pub const WEIGHT_WITHOUT_CHANGE: Weight = Weight::from_wu(4 * 94 + 68);

/// An output at a beacon address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct BeaconOutput {
    /// Where it is.
    pub outpoint: OutPoint,
    /// Its value, in satoshis.
    #[serde(with = "bitcoin::amount::serde::as_sat")]
    pub value: Amount,
    /// Height of the block that holds it; `None` while it is in the mempool.
    pub height: Option<u32>,
}

/// A signal transaction to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedSignal {
    /// The transaction, without its witness.
    pub tx: Transaction,
    /// The output it spends: what its signature commits to beside the transaction.
    pub prevout: TxOut,
    /// What it announces.
    pub signal: SignalBytes,
    /// What it pays to the miner.
    pub fee: Amount,
    /// What returns to the beacon and becomes the next tip; `None` if that would be dust.
    pub change: Option<Amount>,
}

/// What a member allows a signal to cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalLimits {
    /// The highest fee rate.
    pub max_fee_rate: FeeRate,
    /// The highest fee.
    pub max_fee: Amount,
}

/// What a transaction that passed [`check_signal`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedSignal {
    /// Its id, which the witness does not change.
    pub txid: Txid,
    /// What it announces. *Whether* that may be announced is checked elsewhere (DESIGN §6 rule 3).
    pub signal: SignalBytes,
    /// What it pays to the miner.
    pub fee: Amount,
    /// What returns to the beacon; `None` if that would be dust.
    pub change: Option<Amount>,
    /// What is signed for it, computed here from the tip and the transaction.
    pub sighash: [u8; 32],
}

/// Why no signal can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The tip does not pay the fee.
    #[error("the beacon output holds {available}, the signal needs {needed}: {short} short", short = needed.checked_sub(*available).unwrap_or_default())]
    Insufficient {
        /// Value of the tip.
        available: Amount,
        /// The fee of a signal without change.
        needed: Amount,
    },
    /// The fee rate gives a fee beyond all bitcoin.
    #[error("a fee rate of {0} sat per 1000 weight units is out of range")]
    FeeRate(u64),
}

/// Why a member does not sign a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalFault {
    /// Not version 2.
    #[error("version is {0}, not 2")]
    Version(i32),
    /// A lock time.
    #[error("lock time is {0}, not 0")]
    LockTime(u32),
    /// No input.
    #[error("there is no input")]
    NoInput,
    /// More inputs than the tip.
    #[error("there are {0} inputs, not one")]
    ExtraInput(usize),
    /// The input is not the tip.
    #[error("it spends {found}, the tip is {tip}")]
    NotTip {
        /// What it spends.
        found: OutPoint,
        /// What it has to spend.
        tip: OutPoint,
    },
    /// Another sequence.
    #[error("sequence is {0:#010x}, not 0xfffffffd")]
    Sequence(u32),
    /// The transaction brings a witness or a signature script.
    #[error("it is not unsigned")]
    NotUnsigned,
    /// The last output is not `OP_RETURN` and a push of 32 bytes.
    #[error("the last output is not an OP_RETURN with 32 bytes")]
    OpReturnNotLast,
    /// The `OP_RETURN` output burns money.
    #[error("the OP_RETURN output has value {0}, not 0")]
    OpReturnValue(Amount),
    /// More outputs than change and `OP_RETURN`.
    #[error("there are {0} outputs, at most two are allowed")]
    ExtraOutput(usize),
    /// The other output does not pay the beacon.
    #[error("the change does not go to the beacon's own script")]
    ChangeElsewhere,
    /// The change is too small to be relayed.
    #[error("the change of {0} is dust")]
    DustChange(Amount),
    /// There is no change although there could be some.
    #[error("there is no change, and {0} would go to the miner")]
    ChangeMissing(Amount),
    /// More goes out than comes in.
    #[error("the change of {change} is more than the tip's {tip}")]
    ChangeExceedsTip {
        /// The change.
        change: Amount,
        /// Value of the tip.
        tip: Amount,
    },
    /// The fee is over the limit.
    #[error("the fee of {fee} is over the limit of {limit}")]
    FeeTooHigh {
        /// The fee.
        fee: Amount,
        /// The lower one of both limits, for this transaction.
        limit: Amount,
    },
    /// Something else differs from the transaction that these values make.
    #[error("its bytes are not those of a signal transaction")]
    OtherBytes,
}

/// Builds the signal transaction that spends `tip`, at exactly `fee_rate` for its signed weight.
///
/// Change that would be dust goes to the miner instead. `beacon_script` is the script of the tip.
pub fn build_signal(
    tip: &BeaconOutput,
    beacon_script: &Script,
    signal: SignalBytes,
    fee_rate: FeeRate,
) -> Result<UnsignedSignal, SignalError> {
    let Plan { fee, change } = plan(tip.value, fee_rate)?;
    Ok(UnsignedSignal {
        tx: transaction(tip.outpoint, change, beacon_script, signal),
        prevout: TxOut {
            value: tip.value,
            script_pubkey: beacon_script.to_owned(),
        },
        signal,
        fee,
        change,
    })
}

impl UnsignedSignal {
    /// What is signed for it.
    #[must_use]
    pub fn sighash(&self) -> [u8; 32] {
        sighash_of_only_input(&self.tx, &self.prevout)
    }
}

/// The least value of a beacon output from which this number of signals can be paid one after the other,
/// the change of each paying for the next; the last one may leave none. Zero for no rounds.
pub fn funding_needed(rounds: u32, fee_rate: FeeRate) -> Result<Amount, SignalError> {
    let out_of_range = SignalError::FeeRate(fee_rate.to_sat_per_kwu());
    let Some(before_last) = rounds.checked_sub(1) else {
        return Ok(Amount::ZERO);
    };
    let last = fee(fee_rate, WEIGHT_WITHOUT_CHANGE)?.max(DUST_LIMIT);
    fee(fee_rate, WEIGHT_WITH_CHANGE)?
        .checked_mul(u64::from(before_last))
        .and_then(|fees| fees.checked_add(last))
        .filter(|needed| *needed <= Amount::MAX_MONEY)
        .ok_or(out_of_range)
}

/// Checks, before signing, that `tx` is the signal transaction of its own outpoint, change and signal,
/// and that these are the tip and within the limits. Says what it announces, and what to sign.
///
/// `tip` and `beacon_script` have to come from the member's own view of the chain and own derivation of
/// the address, never from the message that brought the transaction.
pub fn check_signal(
    tx: &Transaction,
    tip: &BeaconOutput,
    beacon_script: &Script,
    limits: &SignalLimits,
) -> Result<CheckedSignal, SignalFault> {
    if tx.version != Version::TWO {
        return Err(SignalFault::Version(tx.version.0));
    }
    if tx.lock_time != LockTime::ZERO {
        return Err(SignalFault::LockTime(tx.lock_time.to_consensus_u32()));
    }
    let input = match tx.input.as_slice() {
        [] => return Err(SignalFault::NoInput),
        [input] => input,
        more => return Err(SignalFault::ExtraInput(more.len())),
    };
    if input.previous_output != tip.outpoint {
        return Err(SignalFault::NotTip {
            found: input.previous_output,
            tip: tip.outpoint,
        });
    }
    if input.sequence != SEQUENCE {
        return Err(SignalFault::Sequence(input.sequence.0));
    }
    if !input.witness.is_empty() || !input.script_sig.is_empty() {
        return Err(SignalFault::NotUnsigned);
    }
    let signal = signal_of(tx).ok_or(SignalFault::OpReturnNotLast)?;
    let change = match tx.output.as_slice() {
        [_] => None,
        [change, _] => Some(change),
        more => return Err(SignalFault::ExtraOutput(more.len())),
    };
    if let Some(last) = tx.output.last()
        && last.value != Amount::ZERO
    {
        return Err(SignalFault::OpReturnValue(last.value));
    }
    if change.is_some_and(|change| change.script_pubkey.as_script() != beacon_script) {
        return Err(SignalFault::ChangeElsewhere);
    }
    let change = change.map(|change| change.value);
    let fee = check_amounts(tip.value, change, limits)?;

    let rebuilt = transaction(tip.outpoint, change, beacon_script, signal);
    if serialize(&rebuilt) != serialize(tx) {
        return Err(SignalFault::OtherBytes);
    }
    let prevout = TxOut {
        value: tip.value,
        script_pubkey: beacon_script.to_owned(),
    };
    Ok(CheckedSignal {
        txid: rebuilt.compute_txid(),
        signal,
        fee,
        change,
        sighash: sighash_of_only_input(&rebuilt, &prevout),
    })
}

/// What is signed for the only input of a transaction: BIP-341 signature hash, key path, SIGHASH_DEFAULT, no
/// annex. `None` if it has not exactly one input.
///
/// To sign a signal use [`CheckedSignal::sighash`], which exists only after the check.
#[must_use]
pub fn sighash(tx: &Transaction, prevout: &TxOut) -> Option<[u8; 32]> {
    (tx.input.len() == 1).then(|| sighash_of_only_input(tx, prevout))
}

/// Puts the signature into the witness of the only input: 64 bytes, so SIGHASH_DEFAULT.
#[must_use]
pub fn finalize(mut tx: Transaction, signature: &SchnorrSignature) -> Transaction {
    for input in &mut tx.input {
        input.witness = Witness::from_slice(&[signature.as_bytes()]);
    }
    tx
}

/// The signal a transaction carries: the 32 bytes of its last output, if that is exactly `OP_RETURN` and one
/// push of 32 bytes, whatever its value (spec.md §4). It is a signal of the beacons whose outputs it spends.
#[must_use]
pub fn signal_of(tx: &Transaction) -> Option<SignalBytes> {
    let script = tx.output.last()?.script_pubkey.as_bytes();
    let bytes = script.strip_prefix(&[OP_RETURN.to_u8(), OP_PUSHBYTES_32.to_u8()])?;
    bytes.try_into().ok().map(SignalBytes::from_bytes)
}

/// How the value of a tip is divided.
struct Plan {
    fee: Amount,
    change: Option<Amount>,
}

/// Divides the value of a tip into fee and change.
fn plan(tip: Amount, fee_rate: FeeRate) -> Result<Plan, SignalError> {
    let with_change = fee(fee_rate, WEIGHT_WITH_CHANGE)?;
    if let Some(change) = tip.checked_sub(with_change)
        && change >= DUST_LIMIT
    {
        return Ok(Plan {
            fee: with_change,
            change: Some(change),
        });
    }
    let needed = fee(fee_rate, WEIGHT_WITHOUT_CHANGE)?;
    if tip < needed {
        return Err(SignalError::Insufficient {
            available: tip,
            needed,
        });
    }
    Ok(Plan {
        fee: tip,
        change: None,
    })
}

/// The fee for a weight, rounded up to a whole satoshi.
pub(super) fn fee(fee_rate: FeeRate, weight: Weight) -> Result<Amount, SignalError> {
    fee_rate
        .fee_wu(weight)
        .filter(|fee| *fee <= Amount::MAX_MONEY)
        .ok_or(SignalError::FeeRate(fee_rate.to_sat_per_kwu()))
}

/// Checks the one amount the builder may choose, and gives the fee.
fn check_amounts(
    tip: Amount,
    change: Option<Amount>,
    limits: &SignalLimits,
) -> Result<Amount, SignalFault> {
    // A rate limit that is out of range limits nothing; the absolute limit still holds.
    let limit = fee(limits.max_fee_rate, WEIGHT_WITH_CHANGE)
        .unwrap_or(Amount::MAX_MONEY)
        .min(limits.max_fee);
    let Some(change) = change else {
        // The builder may leave the change out only where a fee within the limits would make it dust. The
        // dust goes to the miner and may lift the fee over the rate limit, never over the absolute one.
        if tip
            .checked_sub(limit)
            .is_some_and(|change| change >= DUST_LIMIT)
        {
            return Err(SignalFault::ChangeMissing(tip));
        }
        if tip > limits.max_fee {
            return Err(SignalFault::FeeTooHigh {
                fee: tip,
                limit: limits.max_fee,
            });
        }
        return Ok(tip);
    };
    if change < DUST_LIMIT {
        return Err(SignalFault::DustChange(change));
    }
    let fee = tip
        .checked_sub(change)
        .ok_or(SignalFault::ChangeExceedsTip { change, tip })?;
    if fee > limit {
        return Err(SignalFault::FeeTooHigh { fee, limit });
    }
    Ok(fee)
}

/// The signal transaction of these values: the only place that says what one looks like.
pub(super) fn transaction(
    tip: OutPoint,
    change: Option<Amount>,
    beacon_script: &Script,
    signal: SignalBytes,
) -> Transaction {
    let change = change.map(|value| TxOut {
        value,
        script_pubkey: beacon_script.to_owned(),
    });
    let announcement = TxOut {
        value: Amount::ZERO,
        script_pubkey: ScriptBuf::new_op_return(signal.as_bytes()),
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: tip,
            script_sig: ScriptBuf::new(),
            sequence: SEQUENCE,
            witness: Witness::new(),
        }],
        output: change.into_iter().chain([announcement]).collect(),
    }
}

#[allow(
    clippy::expect_used,
    reason = "fails only for an input that does not exist or prevouts of another number than inputs"
)]
fn sighash_of_only_input(tx: &Transaction, prevout: &TxOut) -> [u8; 32] {
    SighashCache::new(tx)
        .taproot_key_spend_signature_hash(0, &Prevouts::All(&[prevout]), TapSighashType::Default)
        .expect("one input and its prevout")
        .to_byte_array()
}

#[cfg(test)]
mod tests;
