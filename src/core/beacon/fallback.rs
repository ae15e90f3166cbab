//! The k-of-n leaf of a beacon whose terms have the output policy `k-of-n` (spec.md §6.6 S2).
//!
//! The taproot output of such a beacon has a script tree of one leaf beside its n-of-n key (BIP-341, BIP-342):
//!
//! ```text
//! <key 1> OP_CHECKSIG <key 2> OP_CHECKSIGADD … <key n> OP_CHECKSIGADD <k> OP_NUMEQUAL
//! ```
//!
//! over the x-only keys of the seats in ascending order, which is also the order of BIP-327 KeySort. A signal that
//! is signed through it has the same form as any other; only its witness differs: one element per key, the last
//! key's first, a signature or nothing, then the leaf's script and the control block.
//!
//! The price is in the terms: any k seats can announce bytes that make DIDs of others unresolvable, and such a
//! witness publishes all n seat keys.

use std::collections::BTreeMap;

use bitcoin::hashes::Hash as _;
use bitcoin::key::TapTweak as _;
use bitcoin::opcodes::all::{OP_CHECKSIG, OP_CHECKSIGADD, OP_NUMEQUAL};
use bitcoin::script::Builder;
use bitcoin::secp256k1::{Parity, SECP256K1};
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{ControlBlock, LeafVersion, TapLeafHash, TapNodeHash, TaprootMerkleBranch};
use bitcoin::{
    Amount, FeeRate, Script, ScriptBuf, Transaction, VarInt, Weight, Witness, XOnlyPublicKey,
};

use super::signal::{
    BeaconOutput, DUST_LIMIT, SignalError, SignalLimits, UnsignedSignal, fee, prevouts, sum,
    transaction,
};
use crate::hash::{SchnorrSignature, SignalBytes};
use crate::keys::NostrKey;
use serde::{Deserialize, Serialize};

/// The most keys a leaf can have: a script may have 1 000 elements on its stack (BIP-342), which are the n
/// signatures and the key that is looked at.
pub const MAX_KEYS: usize = 999;

/// The bytes of a signature with SIGHASH_DEFAULT, and what says their length.
const SIGNATURE_BYTES: u64 = 1 + 64;

/// The most that is too little to be change: a satoshi less than [`DUST_LIMIT`].
const MOST_DUST: Amount = Amount::from_sat(329);

/// The weight of the output that is the change.
const CHANGE_WEIGHT: Weight = Weight::from_wu(4 * 43);

/// Why there is no such leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// Too many keys for a script's stack.
    #[error("{0} keys, a k-of-n leaf has at most {MAX_KEYS}")]
    TooManyKeys(usize),
    /// No signature at all, or more than there are keys, would be needed.
    #[error("{threshold} of {keys} keys can not sign: the threshold is 1 to the number of seats")]
    Threshold {
        /// Signatures needed.
        threshold: u16,
        /// Keys there are.
        keys: usize,
    },
    /// One key is in the list twice; its seat could sign for two.
    #[error("key {0} is in the leaf twice")]
    Duplicate(NostrKey),
}

/// Why a witness is not one of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessFault {
    /// Not an element for each key, the script and the control block.
    #[error("the witness has {found} elements, not {expected}")]
    Elements {
        /// What it has.
        found: usize,
        /// What it must have.
        expected: usize,
    },
    /// The script or the control block is of another output.
    #[error("the witness does not reveal the leaf of this beacon")]
    OtherLeaf,
    /// A signature that does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(NostrKey),
    /// Not exactly as many signatures as the leaf asks for.
    #[error("{found} signatures, the leaf asks for exactly {threshold}")]
    Count {
        /// Signatures there are.
        found: usize,
        /// Signatures asked for.
        threshold: u16,
    },
}

/// A k-of-n leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackLeaf {
    threshold: u16,
    /// Ascending by their x coordinates.
    keys: Vec<NostrKey>,
    script: ScriptBuf,
}

impl FallbackLeaf {
    /// The leaf of these keys, in whatever order they come, for `threshold` signatures.
    pub fn new(keys: &[NostrKey], threshold: u16) -> Result<Self, LeafError> {
        if keys.len() > MAX_KEYS {
            return Err(LeafError::TooManyKeys(keys.len()));
        }
        if threshold == 0 || usize::from(threshold) > keys.len() {
            return Err(LeafError::Threshold {
                threshold,
                keys: keys.len(),
            });
        }
        let mut keys = keys.to_vec();
        keys.sort_unstable_by_key(|key| key.to_bytes());
        for (one, next) in keys.iter().zip(keys.iter().skip(1)) {
            if one == next {
                return Err(LeafError::Duplicate(*one));
            }
        }
        let mut script = Builder::new();
        for (position, key) in keys.iter().enumerate() {
            let check = if position == 0 {
                OP_CHECKSIG
            } else {
                OP_CHECKSIGADD
            };
            script = script.push_x_only_key(&key.x_only()).push_opcode(check);
        }
        let script = script
            .push_int(threshold.into())
            .push_opcode(OP_NUMEQUAL)
            .into_script();
        Ok(Self {
            threshold,
            keys,
            script,
        })
    }

    /// How many signatures a spend carries: exactly so many, not one more.
    #[must_use]
    pub const fn threshold(&self) -> u16 {
        self.threshold
    }

    /// The leaf's script.
    #[must_use]
    pub const fn script(&self) -> &ScriptBuf {
        &self.script
    }

    /// `taggedhash("TapLeaf", 0xc0 ‖ script)`.
    #[must_use]
    pub fn hash(&self) -> TapLeafHash {
        TapLeafHash::from_script(&self.script, LeafVersion::TapScript)
    }

    /// The root of the tree, of which the leaf is all: what the output key commits to.
    #[must_use]
    pub fn merkle_root(&self) -> [u8; 32] {
        TapNodeHash::from(self.hash()).to_byte_array()
    }

    /// The output key of this leaf under an internal key, and whether its point has odd Y.
    #[must_use]
    pub fn output_key(&self, internal: XOnlyPublicKey) -> (XOnlyPublicKey, Parity) {
        let root = TapNodeHash::from(self.hash());
        let (key, parity) = internal.tap_tweak(SECP256K1, Some(root));
        (key.to_x_only_public_key(), parity)
    }

    /// What shows that the leaf is one of the output: version and parity, internal key, an empty path; 33 bytes.
    #[must_use]
    pub fn control_block(&self, internal: XOnlyPublicKey) -> Vec<u8> {
        let block = ControlBlock {
            leaf_version: LeafVersion::TapScript,
            output_key_parity: self.output_key(internal).1,
            internal_key: internal,
            merkle_branch: TaprootMerkleBranch::default(),
        };
        block.serialize()
    }

    /// The weight of the witness of one input that is spent through the leaf. The two weight units of a
    /// transaction's segwit marker and flag come on top, once.
    #[must_use]
    pub fn witness_weight(&self) -> Weight {
        let keys = self.keys.len() as u64;
        let signed = u64::from(self.threshold);
        let script = self.script.len() as u64;
        let bytes = VarInt(keys.saturating_add(2)).size() as u64
            + signed * SIGNATURE_BYTES
            + keys.saturating_sub(signed)
            + VarInt(script).size() as u64
            + script
            + (1 + 33);
        Weight::from_wu(bytes)
    }

    /// The weight of a signal transaction once all its inputs are signed through the leaf.
    #[must_use]
    pub fn signed_weight(&self, unsigned: &Transaction) -> Weight {
        let witnesses = self
            .witness_weight()
            .to_wu()
            .saturating_mul(unsigned.input.len() as u64);
        // Marker and flag.
        Weight::from_wu(unsigned.weight().to_wu().saturating_add(witnesses + 2))
    }

    /// Builds the signal transaction that spends exactly `inputs`, the tip first, through the leaf, at `fee_rate` for
    /// its signed weight.
    ///
    /// It has the form of [`build_signal`](super::signal::build_signal), whose change would be larger.
    pub fn build(
        &self,
        inputs: &[BeaconOutput],
        beacon_script: &Script,
        signal: SignalBytes,
        fee_rate: FeeRate,
    ) -> Result<UnsignedSignal, SignalError> {
        let form = |change| transaction(inputs, change, beacon_script, signal);
        let spent = sum(inputs);
        let with_change = fee(fee_rate, self.signed_weight(&form(Some(DUST_LIMIT))))?;
        let change = spent
            .checked_sub(with_change)
            .filter(|change| *change >= DUST_LIMIT);
        let needed = fee(fee_rate, self.signed_weight(&form(None)))?;
        if change.is_none() && spent < needed {
            return Err(SignalError::Insufficient {
                available: spent,
                needed,
            });
        }
        Ok(UnsignedSignal {
            tx: form(change),
            prevouts: prevouts(inputs, beacon_script),
            signal,
            fee: change.map_or(spent, |_| with_change),
            change,
        })
    }

    /// What a signal that is signed through the leaf may cost under these limits, for
    /// [`check_signal`](super::signal::check_signal): the rate counts for the weight it has then. Without change
    /// the remainder goes to the miner; it is dust at most.
    #[must_use]
    pub fn limits(&self, tx: &Transaction, limits: &SignalLimits) -> SignalLimits {
        let (change, dust) = match tx.output.len() {
            1 => (CHANGE_WEIGHT, MOST_DUST),
            _ => (Weight::ZERO, Amount::ZERO),
        };
        let weight = self.signed_weight(tx).checked_add(change);
        SignalLimits {
            // A rate would count for the weight of a signature by all; what counts is the fee.
            max_fee_rate: FeeRate::MAX,
            max_fee: weight
                .and_then(|weight| limits.max_fee_rate.fee_wu(weight))
                .and_then(|fee| fee.checked_add(dust))
                .unwrap_or(Amount::MAX_MONEY)
                .min(limits.max_fee),
        }
    }

    /// What a seat signs for each input of a signal transaction that spends `inputs`, outputs of `beacon_script`:
    /// BIP-341 signature hash of a tapscript, SIGHASH_DEFAULT, no annex. `None` unless these are its inputs, in order.
    #[must_use]
    pub fn sighashes(
        &self,
        tx: &Transaction,
        inputs: &[BeaconOutput],
        beacon_script: &Script,
    ) -> Option<Vec<[u8; 32]>> {
        let spent = tx.input.iter().map(|input| &input.previous_output);
        if inputs.is_empty() || !spent.eq(inputs.iter().map(|input| &input.outpoint)) {
            return None;
        }
        let prevouts = prevouts(inputs, beacon_script);
        let mut cache = SighashCache::new(tx);
        (0..inputs.len())
            .map(|input| {
                let digest = cache.taproot_script_spend_signature_hash(
                    input,
                    &Prevouts::All(&prevouts),
                    self.hash(),
                    TapSighashType::Default,
                );
                digest.ok().map(|digest| digest.to_byte_array())
            })
            .collect()
    }

    /// The witness of an input with these signatures, the first `threshold` of them in the order of keys; `None`
    /// if there are fewer. They are not verified here.
    #[must_use]
    pub fn witness(
        &self,
        internal: XOnlyPublicKey,
        signatures: &BTreeMap<NostrKey, SchnorrSignature>,
    ) -> Option<Witness> {
        let threshold = usize::from(self.threshold);
        let mut taken = 0;
        let mut elements: Vec<Vec<u8>> = Vec::with_capacity(self.keys.len().saturating_add(2));
        for key in &self.keys {
            let signature = signatures.get(key).filter(|_| taken < threshold);
            taken += usize::from(signature.is_some());
            elements.push(signature.map_or_else(Vec::new, |sig| sig.as_bytes().to_vec()));
        }
        if taken < threshold {
            return None;
        }
        // The script looks at the first key first, so its signature has to be on top of the stack.
        elements.reverse();
        elements.push(self.script.to_bytes());
        elements.push(self.control_block(internal));
        Some(Witness::from_slice(&elements))
    }

    /// Checks that `witness` spends an output of this leaf under `internal`: script and control block, and exactly
    /// `threshold` signatures of `sighash`, each in its key's place.
    pub fn check_witness(
        &self,
        witness: &Witness,
        internal: XOnlyPublicKey,
        sighash: &[u8; 32],
    ) -> Result<(), WitnessFault> {
        let expected = self.keys.len().saturating_add(2);
        if witness.len() != expected {
            return Err(WitnessFault::Elements {
                found: witness.len(),
                expected,
            });
        }
        let script = witness.second_to_last();
        if script != Some(self.script.as_bytes())
            || witness.last() != Some(self.control_block(internal).as_slice())
        {
            return Err(WitnessFault::OtherLeaf);
        }
        let mut found = 0_usize;
        for (key, element) in self.keys.iter().rev().zip(witness.iter()) {
            if element.is_empty() {
                continue;
            }
            let verifies = <[u8; 64]>::try_from(element)
                .is_ok_and(|bytes| key.verifies(sighash, &SchnorrSignature::from_bytes(bytes)));
            if !verifies {
                return Err(WitnessFault::Signature(*key));
            }
            found = found.saturating_add(1);
        }
        if found != usize::from(self.threshold) {
            return Err(WitnessFault::Count {
                found,
                threshold: self.threshold,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
