//! The beacon signal transaction, in the one form members sign (spec.md §4, DESIGN §6 rules 2 and 4).
//!
//! Version 2, lock time 0; the first input is the tip, further ones are top-ups, all with sequence `0xfffffffd`,
//! spent by the taproot key path with SIGHASH_DEFAULT and no annex; outputs exactly the change to the beacon
//! itself (absent only if it would be dust), then an OP_RETURN that pushes the 32 signal bytes, value 0, last.
//!
//! [`spend_plan`] divides what lies at the address, for whoever shows a balance and for whoever builds. The
//! aggregator builds ([`build_signal`]); a member takes the few values that may vary out of what it was sent,
//! builds the transaction of these values itself, and compares bytes ([`check_signal`]).

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

/// The most inputs of a signal: the tip and three top-ups. Each is one more signature of every member.
pub const MAX_INPUTS: usize = 4;

/// Weight of one signed input: 41 bytes, and a witness of 66; 57.5 vB.
pub const WEIGHT_OF_INPUT: Weight = Weight::from_wu(4 * 41 + 66);

/// Weight of the *signed* transaction with one input and change: 137 bytes, and a witness of 68; 154 vB.
pub const WEIGHT_WITH_CHANGE: Weight = signed_weight(1, true);

/// Weight of the *signed* transaction with one input and no change: 94 bytes, and a witness of 68; 111 vB.
pub const WEIGHT_WITHOUT_CHANGE: Weight = signed_weight(1, false);

/// Weight of the *signed* transaction with this number of inputs, at least one and at most 252.
#[must_use]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "far below 2^64 for any number that fits a transaction"
)]
pub const fn signed_weight(inputs: usize, change: bool) -> Weight {
    // Version, lock time, two counts and the OP_RETURN output; the change output; marker and flag.
    let outputs = if change { 43 + 43 } else { 43 };
    Weight::from_wu(4 * (4 + 4 + 1 + 1 + outputs) + 2 + WEIGHT_OF_INPUT.to_wu() * inputs as u64)
}

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
    /// The outputs it spends, in order: what its signatures commit to beside the transaction.
    pub prevouts: Vec<TxOut>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedSignal {
    /// Its id, which the witness does not change.
    pub txid: Txid,
    /// What it announces. *Whether* that may be announced is checked elsewhere (DESIGN §6 rule 3).
    pub signal: SignalBytes,
    /// What it pays to the miner.
    pub fee: Amount,
    /// What returns to the beacon; `None` if that would be dust.
    pub change: Option<Amount>,
    /// What it spends, in order: the tip, then top-ups.
    pub inputs: Vec<BeaconOutput>,
    /// What is signed for each input, computed here from the outputs and the transaction.
    pub sighashes: Vec<[u8; 32]>,
}

/// Why no signal can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// What is spent does not pay the fee.
    #[error("the beacon output holds {available}, the signal needs {needed}: {short} short", short = needed.checked_sub(*available).unwrap_or_default())]
    Insufficient {
        /// Value of what is spent.
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
    /// More inputs than the tip and the top-ups allowed.
    #[error("there are {0} inputs, more than {MAX_INPUTS}")]
    ExtraInput(usize),
    /// A further input is no output of the beacon that can be spent, or comes twice.
    #[error("input {0} is not a spendable output of the beacon")]
    NotATopUp(OutPoint),
    /// The first input is not the tip.
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
    #[error("the change of {change} is more than the {spent} spent")]
    ChangeExceedsInputs {
        /// The change.
        change: Amount,
        /// Value of all inputs.
        spent: Amount,
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

/// How what lies at a beacon address is spent by the next signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendPlan {
    /// What is spent, in order: the tip, then top-ups, the most valuable first.
    pub inputs: Vec<BeaconOutput>,
    /// The value of all inputs.
    pub spent: Amount,
    /// What goes to the miner.
    pub fee: Amount,
    /// What returns to the beacon; `None` if that would be dust.
    pub change: Option<Amount>,
}

/// Plans the next signal at `fee_rate`: the tip, and of `further` outputs at the address those that are worth
/// it, the most valuable first, at most `most` inputs in all.
///
/// An output that costs more than half its value to spend at this rate stays where it is: dust neither blocks
/// the address nor pays for anything. What is shown to be funded and what is built come from here.
pub fn spend_plan(
    tip: &BeaconOutput,
    further: &[BeaconOutput],
    fee_rate: FeeRate,
    most: usize,
) -> Result<SpendPlan, SignalError> {
    let inputs = worth_spending(tip, further, fee_rate, most)?;
    plan_inputs(inputs, fee_rate)
}

/// Builds the signal transaction that spends exactly `inputs`, the tip first, at `fee_rate` for its signed
/// weight.
///
/// Change that would be dust goes to the miner instead. `beacon_script` is the script of all inputs.
pub fn build_signal(
    inputs: &[BeaconOutput],
    beacon_script: &Script,
    signal: SignalBytes,
    fee_rate: FeeRate,
) -> Result<UnsignedSignal, SignalError> {
    let SpendPlan { fee, change, .. } = plan_inputs(inputs.to_vec(), fee_rate)?;
    Ok(UnsignedSignal {
        tx: transaction(inputs, change, beacon_script, signal),
        prevouts: prevouts(inputs, beacon_script),
        signal,
        fee,
        change,
    })
}

impl UnsignedSignal {
    /// What is signed for each input, in order.
    #[must_use]
    pub fn sighashes(&self) -> Vec<[u8; 32]> {
        sighashes_of(&self.tx, &self.prevouts)
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

/// Checks, before signing, that `tx` is the signal transaction of its own inputs, change and signal, that
/// these inputs are the tip and then some of `further`, and that the fee is within the limits. Says what it
/// announces, and what to sign.
///
/// `tip`, `further` and `beacon_script` have to come from the member's own view of the chain and own
/// derivation of the address, never from the message that brought the transaction.
pub fn check_signal(
    tx: &Transaction,
    tip: &BeaconOutput,
    further: &[BeaconOutput],
    beacon_script: &Script,
    limits: &SignalLimits,
) -> Result<CheckedSignal, SignalFault> {
    if tx.version != Version::TWO {
        return Err(SignalFault::Version(tx.version.0));
    }
    if tx.lock_time != LockTime::ZERO {
        return Err(SignalFault::LockTime(tx.lock_time.to_consensus_u32()));
    }
    let inputs = check_inputs(tx, tip, further)?;
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
    let fee = check_amounts(&inputs, change, limits)?;

    let rebuilt = transaction(&inputs, change, beacon_script, signal);
    if serialize(&rebuilt) != serialize(tx) {
        return Err(SignalFault::OtherBytes);
    }
    Ok(CheckedSignal {
        txid: rebuilt.compute_txid(),
        signal,
        fee,
        change,
        sighashes: sighashes_of(&rebuilt, &prevouts(&inputs, beacon_script)),
        inputs,
    })
}

/// What is signed for each input of a transaction: BIP-341 signature hash, key path, SIGHASH_DEFAULT, no annex.
/// It commits to value and script of every output that is spent. `None` unless there is one per input.
///
/// To sign a signal use [`CheckedSignal::sighashes`], which exist only after the check.
#[must_use]
pub fn sighashes(tx: &Transaction, prevouts: &[TxOut]) -> Option<Vec<[u8; 32]>> {
    (!prevouts.is_empty() && tx.input.len() == prevouts.len()).then(|| sighashes_of(tx, prevouts))
}

/// Puts the signatures into the witnesses, one per input: 64 bytes, so SIGHASH_DEFAULT. An input without a
/// signature stays as it is.
#[must_use]
pub fn finalize(mut tx: Transaction, signatures: &[SchnorrSignature]) -> Transaction {
    for (input, signature) in tx.input.iter_mut().zip(signatures) {
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

/// The tip, then what is worth spending beside it.
fn worth_spending(
    tip: &BeaconOutput,
    further: &[BeaconOutput],
    fee_rate: FeeRate,
    most: usize,
) -> Result<Vec<BeaconOutput>, SignalError> {
    let cost = fee(fee_rate, WEIGHT_OF_INPUT)?;
    let mut worth: Vec<BeaconOutput> = further
        .iter()
        .filter(|output| {
            output.outpoint != tip.outpoint && cost.to_sat() <= output.value.to_sat() / 2
        })
        .copied()
        .collect();
    worth.sort_by_key(|output| (std::cmp::Reverse(output.value), output.outpoint));
    worth.dedup_by_key(|output| output.outpoint);
    worth.truncate(most.clamp(1, MAX_INPUTS).saturating_sub(1));
    worth.insert(0, *tip);
    Ok(worth)
}

/// Divides the value of inputs into fee and change.
fn plan_inputs(inputs: Vec<BeaconOutput>, fee_rate: FeeRate) -> Result<SpendPlan, SignalError> {
    let spent = sum(&inputs);
    let with_change = fee(fee_rate, signed_weight(inputs.len(), true))?;
    if let Some(change) = spent.checked_sub(with_change)
        && change >= DUST_LIMIT
    {
        return Ok(SpendPlan {
            inputs,
            spent,
            fee: with_change,
            change: Some(change),
        });
    }
    let needed = fee(fee_rate, signed_weight(inputs.len(), false))?;
    if spent < needed {
        return Err(SignalError::Insufficient {
            available: spent,
            needed,
        });
    }
    Ok(SpendPlan {
        inputs,
        spent,
        fee: spent,
        change: None,
    })
}

/// The value of outputs; no sum of real ones is beyond all bitcoin.
pub(super) fn sum(outputs: &[BeaconOutput]) -> Amount {
    outputs
        .iter()
        .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
        .unwrap_or(Amount::MAX_MONEY)
}

pub(super) fn prevouts(inputs: &[BeaconOutput], beacon_script: &Script) -> Vec<TxOut> {
    let prevout = |input: &BeaconOutput| TxOut {
        value: input.value,
        script_pubkey: beacon_script.to_owned(),
    };
    inputs.iter().map(prevout).collect()
}

/// The fee for a weight, rounded up to a whole satoshi.
pub(super) fn fee(fee_rate: FeeRate, weight: Weight) -> Result<Amount, SignalError> {
    fee_rate
        .fee_wu(weight)
        .filter(|fee| *fee <= Amount::MAX_MONEY)
        .ok_or(SignalError::FeeRate(fee_rate.to_sat_per_kwu()))
}

/// Checks form and place of the inputs; gives them with the values the own view has of them.
fn check_inputs(
    tx: &Transaction,
    tip: &BeaconOutput,
    further: &[BeaconOutput],
) -> Result<Vec<BeaconOutput>, SignalFault> {
    let Some(first) = tx.input.first() else {
        return Err(SignalFault::NoInput);
    };
    if tx.input.len() > MAX_INPUTS {
        return Err(SignalFault::ExtraInput(tx.input.len()));
    }
    if first.previous_output != tip.outpoint {
        return Err(SignalFault::NotTip {
            found: first.previous_output,
            tip: tip.outpoint,
        });
    }
    let mut inputs: Vec<BeaconOutput> = vec![*tip];
    for input in tx.input.iter().skip(1) {
        let outpoint = input.previous_output;
        let known = further.iter().find(|output| output.outpoint == outpoint);
        let twice = inputs.iter().any(|input| input.outpoint == outpoint);
        match known {
            Some(output) if !twice => inputs.push(*output),
            _ => return Err(SignalFault::NotATopUp(outpoint)),
        }
    }
    for input in &tx.input {
        if input.sequence != SEQUENCE {
            return Err(SignalFault::Sequence(input.sequence.0));
        }
        if !input.witness.is_empty() || !input.script_sig.is_empty() {
            return Err(SignalFault::NotUnsigned);
        }
    }
    Ok(inputs)
}

/// Checks the one amount the builder may choose, and gives the fee.
fn check_amounts(
    inputs: &[BeaconOutput],
    change: Option<Amount>,
    limits: &SignalLimits,
) -> Result<Amount, SignalFault> {
    let spent = sum(inputs);
    // A rate limit that is out of range limits nothing; the absolute limit still holds.
    let limit = fee(limits.max_fee_rate, signed_weight(inputs.len(), true))
        .unwrap_or(Amount::MAX_MONEY)
        .min(limits.max_fee);
    let Some(change) = change else {
        // The builder may leave the change out only where a fee within the limits would make it dust. The
        // dust goes to the miner and may lift the fee over the rate limit, never over the absolute one.
        if spent
            .checked_sub(limit)
            .is_some_and(|change| change >= DUST_LIMIT)
        {
            return Err(SignalFault::ChangeMissing(spent));
        }
        if spent > limits.max_fee {
            return Err(SignalFault::FeeTooHigh {
                fee: spent,
                limit: limits.max_fee,
            });
        }
        return Ok(spent);
    };
    if change < DUST_LIMIT {
        return Err(SignalFault::DustChange(change));
    }
    let fee = spent
        .checked_sub(change)
        .ok_or(SignalFault::ChangeExceedsInputs { change, spent })?;
    if fee > limit {
        return Err(SignalFault::FeeTooHigh { fee, limit });
    }
    Ok(fee)
}

/// The signal transaction of these values: the only place that says what one looks like.
pub(super) fn transaction(
    inputs: &[BeaconOutput],
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
    let input = |output: &BeaconOutput| TxIn {
        previous_output: output.outpoint,
        script_sig: ScriptBuf::new(),
        sequence: SEQUENCE,
        witness: Witness::new(),
    };
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: inputs.iter().map(input).collect(),
        output: change.into_iter().chain([announcement]).collect(),
    }
}

#[allow(
    clippy::expect_used,
    reason = "fails only for an input that does not exist or prevouts of another number than inputs"
)]
fn sighashes_of(tx: &Transaction, prevouts: &[TxOut]) -> Vec<[u8; 32]> {
    let mut cache = SighashCache::new(tx);
    (0..tx.input.len())
        .map(|input| {
            cache
                .taproot_key_spend_signature_hash(
                    input,
                    &Prevouts::All(prevouts),
                    TapSighashType::Default,
                )
                .expect("an input of the transaction, and one prevout per input")
                .to_byte_array()
        })
        .collect()
}

#[cfg(test)]
mod tests;
