//! Funding transactions that come as PSBTs (BIP-174): whether their outputs at a beacon can be refunded before they
//! are sent.
//!
//! A refund names the output it spends by transaction id, and is signed before anybody pays. So the id has to be
//! final already: every input is a segwit input, whose signature is no part of it. And nobody may pay in who lets
//! others change the transaction.

use bitcoin::psbt::Input;
use bitcoin::{Amount, OutPoint, Script, Transaction, Txid};

use super::{Packet, PsbtFault, WrongUtxo, utxo_of};

/// A funding transaction whose id is final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Funding {
    /// Its id.
    pub txid: Txid,
    /// What it pays to the beacon.
    pub outputs: Vec<(OutPoint, Amount)>,
    /// What it pays to the miner.
    pub fee: Amount,
    /// Whether its sender may still replace it by another one (BIP-125).
    pub replaceable: bool,
    /// The transaction, if it is signed completely.
    pub signed: Option<Transaction>,
}

/// Why a PSBT can not fund a beacon safely.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FundingFault {
    /// Not a PSBT.
    #[error(transparent)]
    NotAPsbt(PsbtFault),
    /// Inputs or outputs may still be added (BIP-370).
    #[error(
        "inputs or outputs can still be added to it: choose all of them first, they are part of its id"
    )]
    Modifiable,
    /// Nothing is paid to the beacon.
    #[error("it pays nothing to the beacon's address")]
    NoPayment,
    /// No input.
    #[error("it has no inputs yet: choose the coins first, they are part of its id")]
    NoInput,
    /// The PSBT does not say what an input spends.
    #[error("input {0} does not say what it spends: add its UTXO")]
    UnknownInput(usize),
    /// The UTXO given for an input is not the one it spends.
    #[error("the UTXO given for input {0} is another one")]
    WrongUtxo(usize),
    /// An input that is not native segwit: its signature would change the transaction's id.
    #[error(
        "input {0} is not native segwit (P2WPKH, P2WSH or taproot): signing it would change the transaction's id, \
         and with it its refund would be void"
    )]
    NotSegwit(usize),
    /// An input may be signed so that others can change the transaction.
    #[error("input {0} is not signed for all inputs and outputs: the transaction could be changed")]
    Sighash(usize),
    /// It pays more than it spends.
    #[error("it pays more than it spends")]
    Negative,
}

/// Reads a PSBT and checks that what it pays to `beacon_script` can be refunded before it is sent.
pub fn check_funding(bytes: &[u8], beacon_script: &Script) -> Result<Funding, FundingFault> {
    let packet = Packet::parse(bytes).map_err(|fault| match fault {
        PsbtFault::NoInput => FundingFault::NoInput,
        fault => FundingFault::NotAPsbt(fault),
    })?;
    if packet.is_modifiable() {
        return Err(FundingFault::Modifiable);
    }
    let (psbt, tx) = (packet.psbt(), packet.tx());
    let mut spent = Amount::ZERO;
    let mut all_signed = true;
    for (place, (input, known)) in tx.input.iter().zip(&psbt.inputs).enumerate() {
        let utxo = utxo_of(&input.previous_output, known)
            .map_err(|WrongUtxo| FundingFault::WrongUtxo(place))?
            .ok_or(FundingFault::UnknownInput(place))?;
        if !utxo.script_pubkey.is_witness_program()
            || known.redeem_script.is_some()
            || known
                .final_script_sig
                .as_ref()
                .is_some_and(|script| !script.is_empty())
        {
            return Err(FundingFault::NotSegwit(place));
        }
        if !signs_everything(known) {
            return Err(FundingFault::Sighash(place));
        }
        spent = spent
            .checked_add(utxo.value)
            .ok_or(FundingFault::WrongUtxo(place))?;
        all_signed &= known.final_script_witness.is_some();
    }
    let txid = tx.compute_txid();
    let outputs: Vec<_> = (0..)
        .zip(&tx.output)
        .filter(|(_, output)| output.script_pubkey.as_script() == beacon_script)
        .map(|(vout, output)| (OutPoint { txid, vout }, output.value))
        .collect();
    if outputs.is_empty() {
        return Err(FundingFault::NoPayment);
    }
    let paid = tx
        .output
        .iter()
        .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value));
    let fee = paid
        .and_then(|paid| spent.checked_sub(paid))
        .ok_or(FundingFault::Negative)?;
    let replaceable = tx.input.iter().any(|input| input.sequence.is_rbf());
    let signed = all_signed.then(|| {
        let mut tx = tx.clone();
        for (input, known) in tx.input.iter_mut().zip(&psbt.inputs) {
            input.witness = known.final_script_witness.clone().unwrap_or_default();
        }
        tx
    });
    Ok(Funding {
        txid,
        outputs,
        fee,
        replaceable,
        signed,
    })
}

/// Whether whatever is said of the input's signatures, asked for or made, covers all inputs and outputs.
fn signs_everything(known: &Input) -> bool {
    // SIGHASH_DEFAULT of taproot, and SIGHASH_ALL.
    let asked = known.sighash_type.is_none_or(|kind| kind.to_u32() <= 1);
    let ecdsa = known.partial_sigs.values();
    let mut ecdsa = ecdsa.map(|signature| signature.sighash_type.to_u32());
    let mut taproot = known
        .tap_key_sig
        .iter()
        .chain(known.tap_script_sigs.values())
        .map(|signature| signature.sighash_type as u8);
    asked && ecdsa.all(|kind| kind == 1) && taproot.all(|kind| kind <= 1)
}

#[cfg(test)]
mod tests;
