//! What is being signed, as PSBTs (BIP-174, BIP-371) with MuSig2 fields (BIP-373), so that other tools can look at it.
//!
//! Nothing is signed from a PSBT: members sign what they rebuilt themselves (DESIGN §6 rule 2). Version 0 of the
//! format, which the `bitcoin` crate reads and writes; [`Packet`](crate::beacon::psbt::Packet) reads it, and turns it
//! into version 2.

use std::collections::BTreeMap;

use bitcoin::hashes::Hash as _;
use bitcoin::psbt::{Psbt, raw};
use bitcoin::taproot::TapNodeHash;
use bitcoin::{ScriptBuf, Transaction, TxOut, Txid};

use super::ids::Label;
use super::ladder::Ladder;
use super::message::Nonces;
use crate::beacon::psbt::{PARTIAL_SIG, PARTICIPANT_PUBKEYS, PUB_NONCE};
use crate::keys::NostrKey;
use crate::keys::musig::{KeySet, PartialSignature, PublicNonce};

/// A transaction that is being signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// Its name: the label of its first input (`signal/1`, `refund/1`).
    pub label: Label,
    /// The transaction, without witnesses.
    pub tx: Transaction,
    /// What it spends, in the order of its inputs.
    pub prevouts: Vec<TxOut>,
    /// What is known of members' contributions, by input.
    pub shares: Vec<Share>,
}

/// What a member gave for an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The input.
    pub input: usize,
    /// The member.
    pub member: NostrKey,
    /// Its public nonce.
    pub nonce: PublicNonce,
    /// Its partial signature.
    pub partial: Option<PartialSignature>,
}

/// What members gave for the labels of a session.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The member.
    pub member: NostrKey,
    /// Its public nonces.
    pub nonces: &'a Nonces,
    /// Its partial signatures, once it signed.
    pub partials: Option<&'a BTreeMap<Label, PartialSignature>>,
}

impl Given<'_> {
    fn share(&self, input: usize, label: Label) -> Option<Share> {
        Some(Share {
            input,
            member: self.member,
            nonce: *self.nonces.get(&label)?,
            partial: self
                .partials
                .and_then(|partials| partials.get(&label))
                .copied(),
        })
    }
}

/// Every transaction of a ladder: for each rung the signal, and the refund of its change.
#[must_use]
pub fn of_ladder(ladder: &Ladder, script: &ScriptBuf, given: &[Given<'_>]) -> Vec<Unsigned> {
    let prevout = |value| TxOut {
        value,
        script_pubkey: script.clone(),
    };
    let inputs: Vec<TxOut> = ladder
        .inputs
        .iter()
        .map(|input| prevout(input.value))
        .collect();
    let mut all = Vec::new();
    for (rung, made) in (1..).zip(&ladder.rungs) {
        let label = |input| Label::Signal { rung, input };
        let shares = (0..)
            .zip(&made.tx.input)
            .flat_map(|(input, _)| {
                let at = usize::from(input);
                given
                    .iter()
                    .filter_map(move |given| given.share(at, label(input)))
            })
            .collect();
        all.push(Unsigned {
            label: label(0),
            tx: made.tx.clone(),
            prevouts: inputs.clone(),
            shares,
        });
        if let (Some(refund), Some(change)) = (&made.refund, made.tx.output.first()) {
            let label = Label::Refund { rung };
            all.push(of_refund(label, &refund.tx, prevout(change.value), given));
        }
    }
    all
}

/// A refund.
#[must_use]
pub fn of_refund(label: Label, tx: &Transaction, prevout: TxOut, given: &[Given<'_>]) -> Unsigned {
    Unsigned {
        label,
        tx: tx.clone(),
        prevouts: vec![prevout],
        shares: given
            .iter()
            .filter_map(|given| given.share(0, label))
            .collect(),
    }
}

impl Unsigned {
    /// Its id.
    #[must_use]
    pub fn txid(&self) -> Txid {
        self.tx.compute_txid()
    }

    /// As a PSBT: what is spent, the internal key (and the root of the script tree, if there is one), the keys that
    /// are aggregated, and every nonce and partial signature that is known.
    ///
    /// # Errors
    /// The transaction is not unsigned.
    pub fn to_psbt(&self, keys: &KeySet) -> Result<Psbt, bitcoin::psbt::Error> {
        let mut psbt = Psbt::from_unsigned_tx(self.tx.clone())?;
        let participants: Vec<u8> = keys
            .keys()
            .iter()
            .flat_map(|key| key.even_point().serialize())
            .collect();
        let output = keys.output_point().serialize();
        for (place, (input, prevout)) in psbt.inputs.iter_mut().zip(&self.prevouts).enumerate() {
            input.witness_utxo = Some(prevout.clone());
            input.tap_internal_key = Some(keys.internal_key());
            input.tap_merkle_root = keys.script_root().map(TapNodeHash::from_byte_array);
            let mut field = |type_value, key: Vec<u8>, value: Vec<u8>| {
                input.unknown.insert(raw::Key { type_value, key }, value);
            };
            let aggregate = keys.internal_point().serialize().to_vec();
            field(PARTICIPANT_PUBKEYS, aggregate, participants.clone());
            for share in self.shares.iter().filter(|share| share.input == place) {
                // The key that signs is the output key: the key path, so no leaf hash follows.
                let mut key = share.member.even_point().serialize().to_vec();
                key.extend(output);
                field(PUB_NONCE, key.clone(), share.nonce.to_bytes().to_vec());
                if let Some(partial) = share.partial {
                    field(PARTIAL_SIG, key, partial.to_bytes().to_vec());
                }
            }
        }
        Ok(psbt)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::{Amount, FeeRate, OutPoint};

    use super::*;
    use crate::beacon::address::beacon_script;
    use crate::beacon::refund::build_refund;
    use crate::beacon::signal::BeaconOutput;
    use crate::hash::{CohortId, to_hex};
    use crate::keys::OwnKey;
    use crate::keys::signer::{NonceSlot, Signer};
    use crate::protocol::ids::{SessionId, Subject};
    use crate::time::UnixTime;

    /// The fields of BIP-373, byte by byte, and that another reader of PSBTs takes them.
    #[test]
    fn a_refund_s_psbt_has_the_fields_of_bip_373() {
        let owns: Vec<OwnKey> = (1..=3)
            .map(|n| OwnKey::from_bytes(&[n; 32]).unwrap())
            .collect();
        let members: Vec<NostrKey> = owns.iter().map(OwnKey::public).collect();
        let keys = KeySet::new(&members).unwrap();
        let script = beacon_script(keys.output_key());
        let output = BeaconOutput {
            outpoint: OutPoint::new(Txid::from_byte_array([9; 32]), 4),
            value: Amount::from_sat(50_000),
            height: None,
        };
        let rate = FeeRate::from_sat_per_vb(3).unwrap();
        let refund =
            build_refund(&output, &script, 144, std::slice::from_ref(&script), rate).unwrap();
        let mut signer = Signer::new();
        let mut nonces = Vec::new();
        for own in owns {
            let seat = own.public();
            signer.add_seat(own);
            let slot = NonceSlot {
                seat,
                session: SessionId {
                    cohort: CohortId::from_bytes([1; 32]),
                    subject: Subject::Deposit(1),
                    attempt: 1,
                },
                label: Label::REFUND,
            };
            let nonce = signer.new_nonces(slot, UnixTime(1)).unwrap();
            nonces.push(Nonces::from([(Label::REFUND, nonce)]));
        }
        let partial = PartialSignature::from_bytes(&[7; 32]).unwrap();
        let partials = BTreeMap::from([(Label::REFUND, partial)]);
        let given: Vec<Given<'_>> = members
            .iter()
            .zip(&nonces)
            .map(|(member, nonces)| Given {
                member: *member,
                nonces,
                partials: (*member == members[1]).then_some(&partials),
            })
            .collect();
        let unsigned = of_refund(Label::REFUND, &refund.tx, refund.prevout.clone(), &given);
        let psbt = unsigned.to_psbt(&keys).unwrap();
        let read = Psbt::deserialize(&psbt.serialize()).unwrap();
        assert_eq!(read, psbt);
        let input = &read.inputs[0];
        assert_eq!(input.witness_utxo, Some(refund.prevout));
        assert_eq!(input.tap_internal_key, Some(keys.internal_key()));
        assert_eq!(input.tap_merkle_root, None);
        let of = |kind| {
            let fields = input.unknown.iter();
            fields
                .filter(|(key, _)| key.type_value == kind)
                .map(|(key, value)| (key.key.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        let participants = of(0x1a);
        assert_eq!(participants.len(), 1);
        assert_eq!(
            to_hex(&participants[0].0)[2..],
            keys.internal_key().to_string()
        );
        let listed: String = keys.keys().iter().map(|key| format!("02{key}")).collect();
        assert_eq!(to_hex(&participants[0].1), listed);
        let shown = of(0x1b);
        assert_eq!(shown.len(), 3);
        for (member, nonces) in members.iter().zip(&nonces) {
            let key = format!("02{member}");
            let (found, value) = shown
                .iter()
                .find(|(found, _)| to_hex(found).starts_with(&key))
                .unwrap();
            assert_eq!(found.len(), 66, "no leaf hash: the key path");
            assert_eq!(to_hex(&found[34..]), keys.output_key().to_string());
            assert_eq!(value.as_slice(), nonces[&Label::REFUND].to_bytes());
        }
        let made = of(0x1c);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].1, [7; 32]);
        assert!(to_hex(&made[0].0).starts_with(&format!("02{}", members[1])));
    }
}
