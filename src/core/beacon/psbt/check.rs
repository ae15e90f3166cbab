//! What a PSBT says of its inputs, compared with itself: whether the keys it lists (BIP-373) add up to the internal key
//! (BIP-371) and this, with the script tree, to the output that is spent; whether nonces and partial signatures are of
//! these keys and verify; whether a signature that is complete verifies.
//!
//! All of it is arithmetic on what the PSBT itself holds. That the output exists, and whose it is, only a chain and a
//! cohort's set can say.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::psbt::{Input, raw};
use bitcoin::sighash::TapSighashType;
use bitcoin::taproot;
use bitcoin::{OutPoint, Script, Transaction, TxOut, Witness};
use secp256k1::{Parity, PublicKey, XOnlyPublicKey};

use super::{PARTIAL_SIG, PARTICIPANT_PUBKEYS, PUB_NONCE, Packet, utxo_of};
use crate::beacon::fallback::FallbackLeaf;
use crate::beacon::signal::{BeaconOutput, sighashes};
use crate::hash::{SchnorrSignature, to_hex};
use crate::keys::NostrKey;
use crate::keys::musig::{
    KeySet, KeySetError, PartialSignature, PublicNonce, aggregate_nonces, aggregate_partials,
    verify_partial,
};

/// The most keys of one aggregate: as many as a cohort may have seats.
pub const MAX_PARTICIPANTS: usize = 1_000;

/// What an input says that is consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedInput {
    /// What it spends.
    pub outpoint: OutPoint,
    /// The output it spends, if that is said. A claim; a signature commits to it.
    pub prevout: Option<TxOut>,
    /// The keys that are aggregated, if they are listed: in BIP-327 KeySort order, adding up to the internal key, and
    /// with the script tree to the output that is spent.
    pub keys: Option<KeySet>,
    /// What all members sign: BIP-341, key path, SIGHASH_DEFAULT. `None` unless all that is spent is said.
    pub sighash: Option<[u8; 32]>,
    /// Whose public nonces are there.
    pub nonces: BTreeSet<NostrKey>,
    /// Whose partial signatures are there and verify.
    pub partials: BTreeSet<NostrKey>,
    /// Whose partial signatures are there and can not be verified, because nonces or outputs are missing.
    pub unverified: BTreeSet<NostrKey>,
    /// How far it is signed.
    pub signing: Signing,
    /// MuSig2 fields about other keys or leaves than the internal key, which are not looked at.
    pub foreign_fields: usize,
}

/// How far an input is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// No complete signature.
    Open,
    /// Every partial signature is there; they add up to this signature, which verifies.
    AddsUp(SchnorrSignature),
    /// It has a signature by the taproot key path, which verifies.
    KeyPath(SchnorrSignature),
    /// It is signed through a k-of-n leaf of the listed keys, which verifies; the number is k.
    Leaf(u16),
    /// It has a final witness or script of a kind that is not verified here.
    Unverified,
}

impl Signing {
    /// Whether there is a complete signature that verifies.
    #[must_use]
    pub const fn is_verified(self) -> bool {
        matches!(self, Self::AddsUp(_) | Self::KeyPath(_) | Self::Leaf(_))
    }
}

/// Why what an input says can not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputFault {
    /// The UTXO given for it is not the one it spends.
    #[error("the output given for it is not the one it spends")]
    WrongUtxo,
    /// A MuSig2 field whose key or value has another form.
    #[error("its MuSig2 field {0:#04x} is malformed")]
    Malformed(u8),
    /// More participants than are looked at.
    #[error("it lists more than {MAX_PARTICIPANTS} participants")]
    TooManyParticipants,
    /// A participant whose point has odd Y: no cohort has one.
    #[error("participant {0} is no key of a cohort: its point has odd Y")]
    OddParticipant(String),
    /// The participants are not in the order in which cohorts aggregate.
    #[error("its participants are not in KeySort order (BIP-327)")]
    NotSorted,
    /// The participants make no key set.
    #[error("its participants: {0}")]
    Participants(KeySetError),
    /// The participants add up to another aggregate.
    #[error("its participants add up to {found}, not to the internal key {internal}")]
    OtherAggregate {
        /// What they add up to, a compressed point in hex.
        found: String,
        /// The aggregate it names, likewise: the internal key.
        internal: String,
    },
    /// The internal key and the script tree make another output than the one that is spent.
    #[error(
        "its internal key and script tree make the output key {0}, which is not the one it spends"
    )]
    OtherOutput(XOnlyPublicKey),
    /// A nonce or partial signature of a key that is no participant.
    #[error("{0} gave a nonce or partial signature and is no participant")]
    NotAParticipant(String),
    /// Two nonces, or two partial signatures, of one participant.
    #[error("participant {0} gave two nonces or two partial signatures")]
    Twice(NostrKey),
    /// A partial signature that does not verify: another transaction, another nonce, or a forgery.
    #[error(
        "the partial signature of {0} does not verify for this transaction, these keys and nonces"
    )]
    WrongPartial(NostrKey),
    /// Another signature hash type than SIGHASH_DEFAULT.
    #[error("it is not signed for all inputs and outputs (SIGHASH_DEFAULT)")]
    Sighash,
    /// A complete signature that does not verify.
    #[error("its signature does not verify for this transaction and the output it spends")]
    WrongSignature,
}

impl Packet {
    /// Checks every input, in order.
    #[must_use]
    pub fn check(&self) -> Vec<Result<CheckedInput, InputFault>> {
        let tx = self.tx();
        let prevouts: Option<Vec<TxOut>> = self
            .prevouts()
            .into_iter()
            .map(Option::<&TxOut>::cloned)
            .collect();
        let digests = prevouts
            .as_ref()
            .and_then(|prevouts| sighashes(tx, prevouts));
        let spending = Spending {
            tx,
            prevouts: prevouts.as_deref(),
        };
        let mut known = KnownSets::default();
        tx.input
            .iter()
            .zip(&self.psbt().inputs)
            .enumerate()
            .map(|(place, (input, fields))| {
                let outpoint = input.previous_output;
                let prevout = utxo_of(&outpoint, fields).map_err(|_| InputFault::WrongUtxo)?;
                let sighash = digests
                    .as_ref()
                    .and_then(|digests| digests.get(place))
                    .copied();
                let checked = CheckedInput {
                    outpoint,
                    prevout: prevout.cloned(),
                    keys: None,
                    sighash,
                    nonces: BTreeSet::new(),
                    partials: BTreeSet::new(),
                    unverified: BTreeSet::new(),
                    signing: Signing::Open,
                    foreign_fields: 0,
                };
                checked.of(place, fields, &spending, &mut known)
            })
            .collect()
    }
}

/// Key sets that were aggregated already, by their list and script root: inputs of one beacon share theirs.
type KnownSets = BTreeMap<(Vec<u8>, Option<[u8; 32]>), Result<KeySet, KeySetError>>;

struct Spending<'a> {
    tx: &'a Transaction,
    prevouts: Option<&'a [TxOut]>,
}

impl CheckedInput {
    fn of(
        mut self,
        place: usize,
        fields: &Input,
        spending: &Spending<'_>,
        known: &mut KnownSets,
    ) -> Result<Self, InputFault> {
        self.keys = self.listed_keys(fields, known)?;
        let nonces = self.given(fields, PUB_NONCE, |bytes| {
            PublicNonce::from_bytes(bytes.try_into().ok()?).ok()
        })?;
        let partials = self.given(fields, PARTIAL_SIG, |bytes| {
            PartialSignature::from_bytes(bytes.try_into().ok()?).ok()
        })?;
        self.nonces = nonces.keys().copied().collect();
        let asked = fields.sighash_type;
        let is_default = asked.is_none_or(|kind| {
            kind.taproot_hash_ty()
                .is_ok_and(|kind| kind == TapSighashType::Default)
        });
        if !is_default && !partials.is_empty() {
            return Err(InputFault::Sighash);
        }
        self.verify_partials(&nonces, &partials)?;
        self.verify_signature(place, fields, spending)?;
        Ok(self)
    }

    /// The keys that add up to the internal key. Aggregates of other keys are left alone.
    fn listed_keys(
        &mut self,
        fields: &Input,
        known: &mut KnownSets,
    ) -> Result<Option<KeySet>, InputFault> {
        let mut listed = None;
        for (key, value) in of_type(fields, PARTICIPANT_PUBKEYS) {
            let aggregate = PublicKey::from_slice(&key.key)
                .map_err(|_| InputFault::Malformed(PARTICIPANT_PUBKEYS))?;
            if Some(aggregate.x_only_public_key().0) == fields.tap_internal_key {
                // Both parities of one key would be two fields; the points are compared below.
                listed = listed.or(Some((aggregate, value)));
            } else {
                self.foreign_fields = self.foreign_fields.saturating_add(1);
            }
        }
        let Some((aggregate, list)) = listed else {
            return Ok(None);
        };
        let members = participants(list)?;
        let root = fields
            .tap_merkle_root
            .map(|root| *AsRef::<[u8; 32]>::as_ref(&root));
        let keys = known
            .entry((list.clone(), root))
            .or_insert_with(|| KeySet::with_script_root(&members, root))
            .clone()
            .map_err(InputFault::Participants)?;
        if keys.keys() != members {
            return Err(InputFault::NotSorted);
        }
        if keys.internal_point() != aggregate {
            return Err(InputFault::OtherAggregate {
                found: keys.internal_point().to_string(),
                internal: aggregate.to_string(),
            });
        }
        let spent = self.prevout.as_ref();
        let spends_other =
            spent.is_some_and(|spent| output_key(&spent.script_pubkey) != Some(keys.output_key()));
        if spends_other {
            return Err(InputFault::OtherOutput(keys.output_key()));
        }
        Ok(Some(keys))
    }

    /// The nonces, or the partial signatures, for the key path.
    fn given<T>(
        &mut self,
        fields: &Input,
        field: u8,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<BTreeMap<NostrKey, T>, InputFault> {
        let mut given = BTreeMap::new();
        for (key, value) in of_type(fields, field) {
            let malformed = || InputFault::Malformed(field);
            let (participant, rest) = key.key.split_at_checked(33).ok_or_else(malformed)?;
            let (aggregate, leaf) = rest.split_at_checked(33).ok_or_else(malformed)?;
            let point = PublicKey::from_slice(participant).map_err(|_| malformed())?;
            let aggregate = PublicKey::from_slice(aggregate).map_err(|_| malformed())?;
            if !matches!(leaf.len(), 0 | 32) {
                return Err(malformed());
            }
            let parsed = parse(value).ok_or_else(malformed)?;
            // BIP-373 names the output key here; some tools name the internal key it comes from.
            let ours = self.keys.as_ref().filter(|keys| {
                leaf.is_empty()
                    && (aggregate == keys.output_point() || aggregate == keys.internal_point())
            });
            let Some(keys) = ours else {
                self.foreign_fields = self.foreign_fields.saturating_add(1);
                continue;
            };
            let (x, parity) = point.x_only_public_key();
            let member = NostrKey::new(x);
            if parity != Parity::Even || !keys.contains(&member) {
                return Err(InputFault::NotAParticipant(to_hex(participant)));
            }
            if given.insert(member, parsed).is_some() {
                return Err(InputFault::Twice(member));
            }
        }
        Ok(given)
    }

    fn verify_partials(
        &mut self,
        nonces: &BTreeMap<NostrKey, PublicNonce>,
        partials: &BTreeMap<NostrKey, PartialSignature>,
    ) -> Result<(), InputFault> {
        let (Some(keys), Some(sighash)) = (&self.keys, self.sighash) else {
            self.unverified = partials.keys().copied().collect();
            return Ok(());
        };
        let all: Vec<PublicNonce> = nonces.values().copied().collect();
        let aggregate = match aggregate_nonces(&all) {
            Ok(aggregate) if all.len() == keys.len() => aggregate,
            _ => {
                self.unverified = partials.keys().copied().collect();
                return Ok(());
            }
        };
        for (member, partial) in partials {
            let wrong = || InputFault::WrongPartial(*member);
            let nonce = nonces.get(member).ok_or_else(wrong)?;
            verify_partial(keys, member, nonce, &aggregate, &sighash, partial)
                .map_err(|_| wrong())?;
            self.partials.insert(*member);
        }
        if partials.len() == keys.len() {
            let signature =
                aggregate_partials(keys, &aggregate, &sighash, partials.values().copied())
                    .map_err(|_| InputFault::WrongSignature)?;
            self.signing = Signing::AddsUp(signature);
        }
        Ok(())
    }

    fn verify_signature(
        &mut self,
        place: usize,
        fields: &Input,
        spending: &Spending<'_>,
    ) -> Result<(), InputFault> {
        let key = self
            .prevout
            .as_ref()
            .and_then(|spent| output_key(&spent.script_pubkey));
        if let Some(signature) = &fields.tap_key_sig {
            self.signing = self.key_path(key, signature)?;
        }
        let scripted = fields
            .final_script_sig
            .as_ref()
            .is_some_and(|script| !script.is_empty());
        let witness = match &fields.final_script_witness {
            Some(witness) if !witness.is_empty() => witness,
            _ if scripted => {
                self.signing = Signing::Unverified;
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.signing = match (key, witness.len(), witness.nth(0)) {
            (Some(_), 1, Some(bytes)) => {
                let signature = taproot::Signature::from_slice(bytes)
                    .map_err(|_| InputFault::WrongSignature)?;
                self.key_path(key, &signature)?
            }
            (Some(_), ..) => self.through_leaf(place, witness, spending)?,
            (None, ..) => Signing::Unverified,
        };
        Ok(())
    }

    fn key_path(
        &self,
        key: Option<XOnlyPublicKey>,
        signature: &taproot::Signature,
    ) -> Result<Signing, InputFault> {
        if signature.sighash_type != TapSighashType::Default {
            return Err(InputFault::Sighash);
        }
        let (Some(key), Some(sighash)) = (key, self.sighash) else {
            return Ok(Signing::Unverified);
        };
        let signature = SchnorrSignature::from_bytes(signature.signature.serialize());
        if NostrKey::new(key).verifies(&sighash, &signature) {
            Ok(Signing::KeyPath(signature))
        } else {
            Err(InputFault::WrongSignature)
        }
    }

    /// A witness through a leaf: the k-of-n leaf of the listed keys is the only one that is known.
    fn through_leaf(
        &self,
        place: usize,
        witness: &Witness,
        spending: &Spending<'_>,
    ) -> Result<Signing, InputFault> {
        let script = witness.second_to_last().map(Script::from_bytes);
        let leaf = self.keys.as_ref().zip(script).and_then(|(keys, script)| {
            let leaf = FallbackLeaf::new(keys.keys(), threshold(script)?).ok()?;
            (leaf.script().as_script() == script).then_some((keys, leaf))
        });
        let (Some((keys, leaf)), Some(prevouts)) = (leaf, spending.prevouts) else {
            return Ok(Signing::Unverified);
        };
        let script = self.prevout.as_ref().map(|spent| &spent.script_pubkey);
        let inputs: Vec<BeaconOutput> = spending
            .tx
            .input
            .iter()
            .zip(prevouts)
            .map(|(input, spent)| BeaconOutput {
                outpoint: input.previous_output,
                value: spent.value,
                height: None,
            })
            .collect();
        // All inputs of a signal are the beacon's. Of another transaction nothing is said.
        let one_script = prevouts
            .iter()
            .all(|spent| Some(&spent.script_pubkey) == script);
        let digest = script
            .filter(|_| one_script)
            .and_then(|script| leaf.sighashes(spending.tx, &inputs, script))
            .and_then(|digests| digests.get(place).copied());
        let Some(digest) = digest else {
            return Ok(Signing::Unverified);
        };
        leaf.check_witness(witness, keys.internal_key(), &digest)
            .map_err(|_| InputFault::WrongSignature)?;
        Ok(Signing::Leaf(leaf.threshold()))
    }
}

/// The fields of a type that the `bitcoin` crate does not know.
fn of_type(fields: &Input, field: u8) -> impl Iterator<Item = (&raw::Key, &Vec<u8>)> {
    let unknown = fields.unknown.iter();
    unknown.filter(move |(key, _)| key.type_value == field)
}

/// A list of compressed keys, all with even Y.
fn participants(list: &[u8]) -> Result<Vec<NostrKey>, InputFault> {
    if list.len() > MAX_PARTICIPANTS.saturating_mul(33) {
        return Err(InputFault::TooManyParticipants);
    }
    let keys = list.chunks_exact(33);
    if list.is_empty() || !keys.remainder().is_empty() {
        return Err(InputFault::Malformed(PARTICIPANT_PUBKEYS));
    }
    keys.map(|bytes| {
        let point =
            PublicKey::from_slice(bytes).map_err(|_| InputFault::Malformed(PARTICIPANT_PUBKEYS))?;
        match point.x_only_public_key() {
            (key, Parity::Even) => Ok(NostrKey::new(key)),
            (_, Parity::Odd) => Err(InputFault::OddParticipant(to_hex(bytes))),
        }
    })
    .collect()
}

/// The key of a taproot output.
fn output_key(script: &Script) -> Option<XOnlyPublicKey> {
    let key = script.is_p2tr().then(|| script.as_bytes().get(2..))??;
    XOnlyPublicKey::from_slice(key).ok()
}

/// The number a k-of-n leaf ends with, before its OP_NUMEQUAL.
fn threshold(script: &Script) -> Option<u16> {
    let bytes = script.as_bytes();
    let before = bytes.split_last()?.1;
    match before {
        // OP_1 to OP_16, as one byte.
        [.., small @ 0x51..=0x60] if before.get(before.len().checked_sub(2)?) != Some(&0x01) => {
            Some(u16::from(small.saturating_sub(0x50)))
        }
        [.., 0x02, low, high] => Some(u16::from_le_bytes([*low, *high])),
        [.., 0x01, low] => Some(u16::from(*low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
