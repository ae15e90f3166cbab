//! A PSBT that was read, of either version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::psbt::Psbt;
use bitcoin::{Amount, Transaction, TxOut, Txid};

use super::maps::{MAX_BYTES, Maps, PsbtFault};
use super::utxo_of;

/// A PSBT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    version: u8,
    modifiable: u8,
    psbt: Psbt,
}

impl Packet {
    /// Reads the bytes of a PSBT, of version 0 or 2. Nothing may follow it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PsbtFault> {
        let maps = Maps::read(bytes)?;
        let (version, modifiable) = (maps.version(), maps.modifiable());
        // The crate reads its own form of version 0: a field it knows is where it looks for it.
        let bytes = maps.into_version_0()?.write();
        let psbt =
            Psbt::deserialize(&bytes).map_err(|error| PsbtFault::Content(error.to_string()))?;
        let tx = &psbt.unsigned_tx;
        if tx.input.len() != psbt.inputs.len() || tx.output.len() != psbt.outputs.len() {
            return Err(PsbtFault::NotAPsbt);
        }
        Ok(Self {
            version,
            modifiable,
            psbt,
        })
    }

    /// Reads what a file holds: the bytes of a PSBT, or their base64 on one line or several.
    pub fn from_file(content: &[u8]) -> Result<Self, PsbtFault> {
        if content.starts_with(b"psbt") {
            return Self::parse(content);
        }
        // Base64 has four digits for three bytes; line breaks are few.
        if content.len() > MAX_BYTES.saturating_mul(3) / 2 {
            return Err(PsbtFault::TooLarge);
        }
        let digits: Vec<u8> = content
            .iter()
            .copied()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let bytes = STANDARD.decode(digits).map_err(|_| PsbtFault::NotAPsbt)?;
        Self::parse(&bytes)
    }

    /// The bytes of a PSBT in version 2 (BIP-370), whichever it has.
    pub fn to_version_2(bytes: &[u8]) -> Result<Vec<u8>, PsbtFault> {
        Ok(Maps::read(bytes)?.into_version_2()?.write())
    }

    /// Which version it had: 0 or 2.
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.version
    }

    /// Whether inputs or outputs may still be added, so that its id is not final (BIP-370).
    #[must_use]
    pub const fn is_modifiable(&self) -> bool {
        self.modifiable & 0b11 != 0
    }

    /// What it says, as version 0.
    #[must_use]
    pub const fn psbt(&self) -> &Psbt {
        &self.psbt
    }

    /// The transaction, without signatures.
    #[must_use]
    pub const fn tx(&self) -> &Transaction {
        &self.psbt.unsigned_tx
    }

    /// Its id. Where every input is segwit, signatures do not change it.
    #[must_use]
    pub fn txid(&self) -> Txid {
        self.tx().compute_txid()
    }

    /// What each input spends; `None` where it is not said, or said of another output.
    #[must_use]
    pub fn prevouts(&self) -> Vec<Option<&TxOut>> {
        let inputs = self.tx().input.iter().zip(&self.psbt.inputs);
        inputs
            .map(|(input, known)| utxo_of(&input.previous_output, known).ok().flatten())
            .collect()
    }

    /// What goes to the miner, if all that is spent is said. A claim, until a signature or a chain confirms it.
    #[must_use]
    pub fn fee(&self) -> Option<Amount> {
        let prevouts = self.prevouts();
        let spent = prevouts.iter().try_fold(Amount::ZERO, |sum, prevout| {
            sum.checked_add((*prevout)?.value)
        })?;
        let outputs = self.tx().output.iter();
        let paid = outputs
            .map(|output| output.value)
            .try_fold(Amount::ZERO, Amount::checked_add)?;
        spent.checked_sub(paid)
    }

    /// The transaction with the final witnesses it has, wherever they are.
    #[must_use]
    pub fn extracted(&self) -> Transaction {
        let mut tx = self.tx().clone();
        for (input, known) in tx.input.iter_mut().zip(&self.psbt.inputs) {
            input.witness = known.final_script_witness.clone().unwrap_or_default();
            input.script_sig = known.final_script_sig.clone().unwrap_or_default();
        }
        tx
    }
}

#[cfg(test)]
mod tests;
