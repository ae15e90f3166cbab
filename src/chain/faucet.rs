//! Where the regtest chain's money comes from: coinbases pay a script that anybody can spend, and the
//! faucet spends them, change included, in ordinary transactions.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::opcodes::OP_TRUE;
use bitcoin::opcodes::all::OP_RETURN;
use bitcoin::script::Builder;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, Block, OutPoint, Script, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness,
    WitnessMerkleNode,
};

use super::acceptance::Reject;
use super::regtest::{COINBASE_MATURITY, Coin, RegtestChain};

/// Blocks between two halvings of the subsidy on regtest.
const HALVING_INTERVAL: u32 = 150;

/// What the faucet pays for relay, in satoshis per virtual byte.
const FAUCET_FEE_RATE: u64 = 2;

/// Why the faucet did not pay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FundError {
    /// Not enough mature coins.
    #[error(
        "the regtest faucet has {available} to give, not {wanted}: mine blocks or ask for less"
    )]
    Empty {
        /// What was asked for, the fee included.
        wanted: Amount,
        /// What it can spend.
        available: Amount,
    },
    /// The payment itself is not acceptable, for example dust.
    #[error("the regtest faucet's payment was rejected: {0}")]
    Rejected(#[from] Reject),
}

impl RegtestChain {
    pub(super) fn faucet_payment(
        &self,
        script: &Script,
        amount: Amount,
    ) -> Result<Transaction, FundError> {
        let faucet = faucet_script();
        let mut tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: Vec::new(),
            output: vec![
                TxOut {
                    value: amount,
                    script_pubkey: script.to_owned(),
                },
                TxOut {
                    value: Amount::ZERO,
                    script_pubkey: faucet.clone(),
                },
            ],
        };
        let mut available = Amount::ZERO;
        let mut wanted = amount;
        for (output, value) in self.faucet_coins(&faucet) {
            let mut witness = Witness::new();
            witness.push(faucet_redeem_script());
            tx.input.push(TxIn {
                previous_output: output,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                witness,
            });
            available += value;
            let fee = Amount::from_sat((tx.vsize() as u64).saturating_mul(FAUCET_FEE_RATE));
            wanted = amount
                .checked_add(fee)
                .and_then(|sum| sum.checked_add(faucet.minimal_non_dust()))
                .unwrap_or(Amount::MAX_MONEY);
            if available >= wanted {
                if let Some(change) = tx.output.last_mut() {
                    change.value = available - amount - fee;
                }
                return Ok(tx);
            }
        }
        Err(FundError::Empty { wanted, available })
    }

    /// What the faucet can spend: mature confirmed coins, oldest first, then its unconfirmed change.
    fn faucet_coins(&self, faucet: &Script) -> Vec<(OutPoint, Amount)> {
        let mature = |coin: &Coin| {
            !coin.coinbase || self.next_height().saturating_sub(coin.height) >= COINBASE_MATURITY
        };
        let mut confirmed: Vec<(&OutPoint, &Coin)> = self
            .confirmed_coins()
            .filter(|(_, coin)| coin.output.script_pubkey.as_script() == faucet && mature(coin))
            .collect();
        confirmed.sort_by_key(|(output, coin)| (coin.height, **output));
        let confirmed = confirmed
            .into_iter()
            .map(|(output, coin)| (*output, coin.output.value));
        let unconfirmed = self.mempool().iter().flat_map(|(txid, entry)| {
            (0u32..)
                .zip(&entry.tx.output)
                .filter(|(_, output)| output.script_pubkey.as_script() == faucet)
                .map(|(vout, output)| (OutPoint::new(*txid, vout), output.value))
        });
        confirmed
            .chain(unconfirmed)
            .filter(|(output, _)| self.mempool().spender(output).is_none())
            .collect()
    }
}

/// The script behind the faucet's outputs. Anybody can spend them; on regtest that is the point.
fn faucet_redeem_script() -> ScriptBuf {
    Builder::new().push_opcode(OP_TRUE).into_script()
}

fn faucet_script() -> ScriptBuf {
    ScriptBuf::new_p2wsh(&faucet_redeem_script().wscript_hash())
}

/// The coinbase of the block at `height` (BIP-34, BIP-141), paying subsidy and fees to the faucet.
pub(super) fn coinbase(
    height: u32,
    extra_nonce: u64,
    fees: Amount,
    witness_root: &WitnessMerkleNode,
) -> Transaction {
    const RESERVED: [u8; 32] = [0; 32];
    const COMMITMENT_HEADER: [u8; 4] = [0xaa, 0x21, 0xa9, 0xed];
    let commitment = Block::compute_witness_commitment(witness_root, &RESERVED);
    let mut data = [0u8; 36];
    for (to, from) in data
        .iter_mut()
        .zip(COMMITMENT_HEADER.iter().chain(commitment.as_byte_array()))
    {
        *to = *from;
    }
    let subsidy = Amount::ONE_BTC
        .to_sat()
        .saturating_mul(50)
        .checked_shr(height / HALVING_INTERVAL)
        .unwrap_or(0);
    let mut witness = Witness::new();
    witness.push(RESERVED);
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: Builder::new()
                .push_int(i64::from(height))
                .push_slice(extra_nonce.to_le_bytes())
                .into_script(),
            sequence: Sequence::MAX,
            witness,
        }],
        output: vec![
            TxOut {
                value: Amount::from_sat(subsidy) + fees,
                script_pubkey: faucet_script(),
            },
            TxOut {
                value: Amount::ZERO,
                script_pubkey: Builder::new()
                    .push_opcode(OP_RETURN)
                    .push_slice(data)
                    .into_script(),
            },
        ],
    }
}
