//! Partially signed transactions (PSBT), as other tools exchange them: BIP-174, version 2 of it (BIP-370), taproot
//! (BIP-371) and MuSig2 (BIP-373) fields.
//!
//! | file | what |
//! |---|---|
//! | `maps` | the key-value maps of both versions, and turning one version into the other |
//! | `packet` | a PSBT that was read: bounded, of either version |
//! | `check` | what a PSBT says of its inputs, compared with itself: keys, nonces, signatures |
//! | `funding` | funding transactions whose outputs can be refunded before they are sent |
//!
//! Nothing is signed from a PSBT: members sign what they rebuilt themselves (DESIGN §6 rule 2). Reading one serves to
//! look at it, and to refund what a funding transaction will pay.

mod check;
mod funding;
mod maps;
mod packet;

pub use check::{CheckedInput, InputFault, MAX_PARTICIPANTS, Signing};
pub use funding::{Funding, FundingFault, check_funding};
pub use maps::{MAX_BYTES, Place, PsbtFault};
pub use packet::Packet;

use bitcoin::psbt::Input;
use bitcoin::{OutPoint, TxOut};

/// BIP-373: the keys that are aggregated, by the aggregate (`PSBT_IN_MUSIG2_PARTICIPANT_PUBKEYS`).
pub const PARTICIPANT_PUBKEYS: u8 = 0x1a;

/// BIP-373: a participant's public nonce (`PSBT_IN_MUSIG2_PUB_NONCE`).
pub const PUB_NONCE: u8 = 0x1b;

/// BIP-373: a participant's partial signature (`PSBT_IN_MUSIG2_PARTIAL_SIG`).
pub const PARTIAL_SIG: u8 = 0x1c;

/// The UTXO given for an input is not the one it spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct WrongUtxo;

/// The output an input spends, as the PSBT has it, if it does. A whole transaction proves itself by its id.
fn utxo_of<'a>(outpoint: &OutPoint, known: &'a Input) -> Result<Option<&'a TxOut>, WrongUtxo> {
    let whole = match &known.non_witness_utxo {
        None => None,
        Some(tx) if tx.compute_txid() != outpoint.txid => return Err(WrongUtxo),
        Some(tx) => {
            let position = usize::try_from(outpoint.vout).map_err(|_| WrongUtxo)?;
            Some(tx.output.get(position).ok_or(WrongUtxo)?)
        }
    };
    match (whole, &known.witness_utxo) {
        (Some(whole), Some(claimed)) if whole != claimed => Err(WrongUtxo),
        (whole, claimed) => Ok(whole.or(claimed.as_ref())),
    }
}
