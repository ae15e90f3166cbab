//! What the regtest chain's mempool accepts: consensus, the part of Bitcoin Core's relay policy that
//! the agent depends on, and replacement after BIP-125. Scripts are verified by Bitcoin Core's own
//! code (libbitcoinconsensus), taproot included.
//!
//! Not modelled: signature operation limits, ancestor and descendant limits, standardness of input
//! scripts beyond what consensus says, version 3 (BIP-431) transactions, packages.

use std::collections::HashSet;

use bitcoin::absolute::LOCK_TIME_THRESHOLD;
use bitcoin::consensus::encode::serialize;
use bitcoin::relative::LockTime as RelativeLockTime;
use bitcoin::{Amount, OutPoint, Script, Transaction, Txid};

use super::regtest::{COINBASE_MATURITY, Coin, RegtestChain};

/// Least fee a transaction pays for relay, and a replacement adds: sat per virtual byte.
const MIN_RELAY_SAT_PER_VB: u64 = 1;

/// Largest weight a transaction may have to be relayed, in weight units.
const MAX_STANDARD_WEIGHT: u64 = 400_000;

/// Smallest transaction that is relayed, in bytes without witnesses (CVE-2017-12842).
const MIN_STANDARD_BASE_SIZE: usize = 65;

/// Longest data carrier script, in bytes.
const MAX_OP_RETURN_SCRIPT: usize = 83;

/// Longest scriptSig that is relayed, in bytes.
const MAX_STANDARD_SCRIPT_SIG: usize = 1650;

/// Most transactions that one replacement may evict (BIP-125 rule 5).
const MAX_EVICTED: usize = 100;

/// Everything libbitcoinconsensus can enforce; taproot needs all spent outputs.
const SCRIPT_FLAGS: u32 =
    bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;

/// Why a transaction is not accepted. `Display` gives the reason in Bitcoin Core's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Fails a check, by consensus or policy, that needs no more words than Core's.
    #[error("{0}")]
    Invalid(&'static str),
    /// An input's script refuses the spend.
    #[error("mandatory-script-verify-flag-failed (Script refused the spend at input {input})")]
    Script {
        /// Index of the input.
        input: usize,
    },
    /// The fee is below the relay minimum.
    #[error("min relay fee not met, {fee} < {required}")]
    RelayFee {
        /// Fee paid, in satoshis.
        fee: u64,
        /// Least fee for its size, in satoshis.
        required: u64,
    },
    /// A mempool transaction that does not signal replacement spends the same output.
    #[error("txn-mempool-conflict")]
    Conflict,
    /// It does not pay enough to replace what it conflicts with.
    #[error("insufficient fee, rejecting replacement {txid}: {why}")]
    ReplacementFee {
        /// The transaction that would replace.
        txid: Txid,
        /// The rule it misses.
        why: &'static str,
    },
    /// An input does not exist or is spent by a confirmed transaction.
    #[error("bad-txns-inputs-missingorspent")]
    MissingInputs,
    /// The mempool has it.
    #[error("txn-already-in-mempool")]
    AlreadyInMempool,
    /// The mempool has it with another witness.
    #[error("txn-same-nonwitness-data-in-mempool")]
    SameTxidInMempool,
    /// A block has it, and at least one of its outputs is unspent.
    #[error("Transaction outputs already in utxo set")]
    AlreadyInChain,
}

impl Reject {
    /// The code with which Bitcoin Core's `sendrawtransaction` reports it.
    #[must_use]
    pub const fn rpc_code(&self) -> i32 {
        match self {
            Self::MissingInputs => -25,
            Self::AlreadyInChain => -27,
            _ => -26,
        }
    }
}

/// A transaction that passed every check.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) fee: Amount,
    /// The coins it spends, in the order of its inputs.
    pub(super) spent: Vec<Coin>,
    /// Mempool transactions it replaces, descendants included.
    pub(super) evicted: HashSet<Txid>,
}

/// Decides whether `tx` may enter the mempool of `chain`.
pub(super) fn accept(chain: &RegtestChain, tx: &Transaction) -> Result<Accepted, Reject> {
    check_structure(tx)?;
    check_standard(tx)?;
    check_final(chain, tx)?;
    check_unknown(chain, tx)?;
    let spent = find_inputs(chain, tx)?;
    check_sequence_locks(chain, tx, &spent)?;
    let fee = check_values(chain, tx, &spent)?;
    let vsize = tx.vsize() as u64;
    let required = vsize.saturating_mul(MIN_RELAY_SAT_PER_VB);
    if fee.to_sat() < required {
        return Err(Reject::RelayFee {
            fee: fee.to_sat(),
            required,
        });
    }
    let evicted = check_replacement(chain, tx, fee)?;
    check_scripts(tx, &spent)?;
    Ok(Accepted {
        fee,
        spent,
        evicted,
    })
}

/// Consensus rules that need nothing but the transaction.
fn check_structure(tx: &Transaction) -> Result<(), Reject> {
    if tx.input.is_empty() {
        return Err(Reject::Invalid("bad-txns-vin-empty"));
    }
    if tx.output.is_empty() {
        return Err(Reject::Invalid("bad-txns-vout-empty"));
    }
    let mut total = Amount::ZERO;
    for output in &tx.output {
        if output.value > Amount::MAX_MONEY {
            return Err(Reject::Invalid("bad-txns-vout-toolarge"));
        }
        total = total
            .checked_add(output.value)
            .filter(|sum| *sum <= Amount::MAX_MONEY)
            .ok_or(Reject::Invalid("bad-txns-txouttotal-toolarge"))?;
    }
    let mut seen = HashSet::new();
    if !tx
        .input
        .iter()
        .all(|input| seen.insert(input.previous_output))
    {
        return Err(Reject::Invalid("bad-txns-inputs-duplicate"));
    }
    if tx.is_coinbase() {
        return Err(Reject::Invalid("coinbase"));
    }
    if tx.input.iter().any(|input| input.previous_output.is_null()) {
        return Err(Reject::Invalid("bad-txns-prevout-null"));
    }
    Ok(())
}

/// Relay policy that needs nothing but the transaction.
fn check_standard(tx: &Transaction) -> Result<(), Reject> {
    if !matches!(tx.version.0, 1 | 2) {
        return Err(Reject::Invalid("version"));
    }
    if tx.weight().to_wu() > MAX_STANDARD_WEIGHT {
        return Err(Reject::Invalid("tx-size"));
    }
    if tx.base_size() < MIN_STANDARD_BASE_SIZE {
        return Err(Reject::Invalid("tx-size-small"));
    }
    for input in &tx.input {
        if input.script_sig.len() > MAX_STANDARD_SCRIPT_SIG {
            return Err(Reject::Invalid("scriptsig-size"));
        }
        if !input.script_sig.is_push_only() {
            return Err(Reject::Invalid("scriptsig-not-pushonly"));
        }
    }
    let mut data_carriers = 0;
    for output in &tx.output {
        let script = &output.script_pubkey;
        if script.is_op_return() {
            data_carriers += 1;
            if script.len() > MAX_OP_RETURN_SCRIPT || !is_pushes_after_op_return(script) {
                return Err(Reject::Invalid("scriptpubkey"));
            }
        } else if !is_standard_payment(script) {
            return Err(Reject::Invalid("scriptpubkey"));
        } else if output.value < script.minimal_non_dust() {
            return Err(Reject::Invalid("dust"));
        }
    }
    if data_carriers > 1 {
        return Err(Reject::Invalid("multi-op-return"));
    }
    Ok(())
}

fn is_pushes_after_op_return(script: &Script) -> bool {
    script
        .as_bytes()
        .get(1..)
        .is_some_and(|data| Script::from_bytes(data).is_push_only())
}

fn is_standard_payment(script: &Script) -> bool {
    script.is_witness_program()
        || script.is_p2pkh()
        || script.is_p2sh()
        || script.is_p2pk()
        || script.is_multisig()
}

/// The lock time allows the next block (BIP-113: by median time).
fn check_final(chain: &RegtestChain, tx: &Transaction) -> Result<(), Reject> {
    let lock = tx.lock_time.to_consensus_u32();
    let now = if lock < LOCK_TIME_THRESHOLD {
        chain.next_height()
    } else {
        chain.median_time_u32()
    };
    let is_final = lock == 0
        || lock < now
        || tx
            .input
            .iter()
            .all(|input| input.sequence == bitcoin::Sequence::MAX);
    if is_final {
        Ok(())
    } else {
        Err(Reject::Invalid("non-final"))
    }
}

fn check_unknown(chain: &RegtestChain, tx: &Transaction) -> Result<(), Reject> {
    let txid = tx.compute_txid();
    if let Some(known) = chain.mempool().get(&txid).map(|entry| &entry.tx) {
        return Err(if known.compute_wtxid() == tx.compute_wtxid() {
            Reject::AlreadyInMempool
        } else {
            Reject::SameTxidInMempool
        });
    }
    let has_unspent_output = (0u32..)
        .zip(&tx.output)
        .any(|(vout, _)| chain.confirmed_coin(&OutPoint::new(txid, vout)).is_some());
    if has_unspent_output {
        return Err(Reject::AlreadyInChain);
    }
    Ok(())
}

/// The coins spent: confirmed and unspent in the chain, or created in the mempool. Whether the
/// mempool spends them too is for the replacement rules.
fn find_inputs(chain: &RegtestChain, tx: &Transaction) -> Result<Vec<Coin>, Reject> {
    tx.input
        .iter()
        .map(|input| {
            let output = &input.previous_output;
            chain
                .confirmed_coin(output)
                .cloned()
                .or_else(|| chain.unconfirmed_coin(output))
                .ok_or(Reject::MissingInputs)
        })
        .collect()
}

/// Relative lock times (BIP-68).
fn check_sequence_locks(
    chain: &RegtestChain,
    tx: &Transaction,
    spent: &[Coin],
) -> Result<(), Reject> {
    if tx.version.0 < 2 {
        return Ok(());
    }
    for (input, coin) in tx.input.iter().zip(spent) {
        let waited_enough = match input.sequence.to_relative_lock_time() {
            None => true,
            Some(RelativeLockTime::Blocks(blocks)) => {
                chain.next_height() >= coin.height.saturating_add(u32::from(blocks.value()))
            }
            Some(RelativeLockTime::Time(units)) => {
                let since = chain.median_time_at(coin.height.saturating_sub(1));
                chain.median_time_u32() >= since.saturating_add(u32::from(units.value()) * 512)
            }
        };
        if !waited_enough {
            return Err(Reject::Invalid("non-BIP68-final"));
        }
    }
    Ok(())
}

fn check_values(chain: &RegtestChain, tx: &Transaction, spent: &[Coin]) -> Result<Amount, Reject> {
    let mut available = Amount::ZERO;
    for coin in spent {
        let age = chain.next_height().saturating_sub(coin.height);
        if coin.coinbase && age < COINBASE_MATURITY {
            return Err(Reject::Invalid("bad-txns-premature-spend-of-coinbase"));
        }
        available = available
            .checked_add(coin.output.value)
            .filter(|sum| *sum <= Amount::MAX_MONEY)
            .ok_or(Reject::Invalid("bad-txns-inputvalues-outofrange"))?;
    }
    let paid: Amount = tx.output.iter().map(|output| output.value).sum();
    available
        .checked_sub(paid)
        .ok_or(Reject::Invalid("bad-txns-in-belowout"))
}

/// BIP-125, with opt-in signalling by the replaced transaction itself.
fn check_replacement(
    chain: &RegtestChain,
    tx: &Transaction,
    fee: Amount,
) -> Result<HashSet<Txid>, Reject> {
    let conflicts: HashSet<Txid> = tx
        .input
        .iter()
        .filter_map(|input| chain.mempool().spender(&input.previous_output))
        .collect();
    if conflicts.is_empty() {
        return Ok(conflicts);
    }
    let txid = tx.compute_txid();
    let too_cheap = |why| Reject::ReplacementFee { txid, why };
    let own_rate = FeeRateFraction::new(fee, tx);
    let mut known_inputs = HashSet::new();
    for conflict in &conflicts {
        let Some(entry) = chain.mempool().get(conflict) else {
            continue;
        };
        let replaced = &entry.tx;
        if !replaced.input.iter().any(|input| input.sequence.is_rbf()) {
            return Err(Reject::Conflict);
        }
        if !own_rate.exceeds(&FeeRateFraction::new(entry.fee, replaced)) {
            return Err(too_cheap("its fee rate is not above the replaced one's"));
        }
        known_inputs.extend(
            replaced
                .input
                .iter()
                .map(|input| input.previous_output.txid),
        );
    }
    let evicted = chain.mempool().with_descendants(conflicts);
    if evicted.len() > MAX_EVICTED {
        return Err(Reject::Invalid("too many potential replacements"));
    }
    for input in &tx.input {
        let parent = input.previous_output.txid;
        if evicted.contains(&parent) {
            return Err(Reject::Invalid("bad-txns-spends-conflicting-tx"));
        }
        if chain.mempool().get(&parent).is_some() && !known_inputs.contains(&parent) {
            return Err(Reject::Invalid("replacement-adds-unconfirmed"));
        }
    }
    let evicted_fees: Amount = evicted
        .iter()
        .filter_map(|txid| chain.mempool().get(txid))
        .map(|entry| entry.fee)
        .sum();
    let relay = Amount::from_sat((tx.vsize() as u64).saturating_mul(MIN_RELAY_SAT_PER_VB));
    if fee < evicted_fees {
        return Err(too_cheap("it pays less than everything it evicts"));
    }
    if fee < evicted_fees + relay {
        return Err(too_cheap("it does not pay for its own relay"));
    }
    Ok(evicted)
}

/// A fee rate that is compared without rounding.
struct FeeRateFraction {
    fee: u128,
    weight: u128,
}

impl FeeRateFraction {
    fn new(fee: Amount, tx: &Transaction) -> Self {
        Self {
            fee: u128::from(fee.to_sat()),
            weight: u128::from(tx.weight().to_wu()),
        }
    }

    const fn exceeds(&self, other: &Self) -> bool {
        self.fee * other.weight > other.fee * self.weight
    }
}

fn check_scripts(tx: &Transaction, spent: &[Coin]) -> Result<(), Reject> {
    let raw = serialize(tx);
    let outputs: Vec<bitcoinconsensus::Utxo> = spent
        .iter()
        .map(|coin| bitcoinconsensus::Utxo {
            script_pubkey: coin.output.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: coin.output.script_pubkey.len() as u32,
            // At most MAX_MONEY, checked before.
            value: coin.output.value.to_sat() as i64,
        })
        .collect();
    for (input, coin) in spent.iter().enumerate() {
        bitcoinconsensus::verify_with_flags(
            coin.output.script_pubkey.as_bytes(),
            coin.output.value.to_sat(),
            &raw,
            Some(&outputs),
            input,
            SCRIPT_FLAGS,
        )
        .map_err(|_| Reject::Script { input })?;
    }
    Ok(())
}
