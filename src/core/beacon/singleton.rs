//! The signal of a singleton beacon: a transaction that one key pays and signs alone (spec.md §4).
//!
//! A singleton beacon is an address of the controller's own key, in one of the three forms that an initial
//! document lists: P2PKH, P2WPKH, or taproot spent by its key path (BIP-86). Its signal is the hash of one
//! signed update. The transaction has version 2 and lock time 0; its inputs are outputs of the address, all with
//! sequence `0xfffffffd`, so that a higher fee can replace it (BIP-125); its outputs are exactly the change back
//! to the address, absent only if it would be dust, then an OP_RETURN that pushes the 32 bytes, value 0, last.
//!
//! One function, [`SingletonBeacon::plan`], says what a signal costs and which outputs pay for it. What people are
//! shown and what is built come from the same plan. Amounts have to come from full transactions whose id is the
//! hash of their bytes, as in [`AddressHistory`](super::history::AddressHistory): a P2PKH signature does not
//! commit to them, so a server that lies about an amount could otherwise turn it into a fee.

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash as _;
use bitcoin::key::TapTweak as _;
use bitcoin::script::PushBytesBuf;
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{
    Address, Amount, FeeRate, PubkeyHash, Script, ScriptBuf, Transaction, TxIn, TxOut, WPubkeyHash,
    Weight, Witness,
};
use secp256k1::{Message, Parity, PublicKey, SECP256K1, SecretKey, XOnlyPublicKey};

use super::signal::{BeaconOutput, SEQUENCE};
use crate::hash::SignalBytes;
use crate::keys::OwnKey;

/// Most outputs of the address that one signal spends: far below what nodes relay (100 000 vB).
pub const MAX_INPUTS: usize = 100;

/// Inputs up to which a cheap signal gathers outputs that it would not need.
pub const GATHER_INPUTS: usize = 20;

/// Up to this fee rate a signal spends small outputs along, so that they do not have to be spent when it is dear.
pub const GATHER_RATE: FeeRate = FeeRate::from_sat_per_vb_u32(5);

/// By how much a replacement has to outbid what it replaces, for its own size: the incremental relay fee that
/// nodes have by default, 1 sat/vB (BIP-125, rule 4).
pub const REPLACEMENT_STEP: FeeRate = FeeRate::from_sat_per_vb_u32(1);

/// The form of a beacon's address, in the order of rising economy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressForm {
    /// Pay to public key hash.
    P2pkh,
    /// Pay to witness public key hash.
    P2wpkh,
    /// Taproot, key path, without scripts.
    P2tr,
}

/// A singleton beacon: an address that one key can spend from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingletonBeacon {
    address: Address,
    script: ScriptBuf,
    form: AddressForm,
}

/// The confirmed outputs of the address that a signal may spend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coins<'a> {
    /// What has to be spent: the inputs of the transaction this one replaces.
    pub required: &'a [BeaconOutput],
    /// What else there is.
    pub others: &'a [BeaconOutput],
}

/// What is paid to the miner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeOffer {
    /// The fee rate.
    pub rate: FeeRate,
    /// The highest fee rate the owner's policy allows.
    pub max_rate: FeeRate,
    /// What the transaction that is replaced pays, if one is.
    pub replaces: Option<Replaced>,
}

/// What a replaced transaction pays. Of several, the one with the highest fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Its fee.
    pub fee: Amount,
    /// Its size in virtual bytes.
    pub vsize: u64,
}

/// Which outputs pay for a signal, and what becomes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendPlan {
    /// What is spent, in the order of the inputs.
    pub inputs: Vec<BeaconOutput>,
    /// What the miner gets: the rate times the size, and what would be dust as change.
    pub fee: Amount,
    /// What returns to the address; `None` if that would be dust.
    pub change: Option<Amount>,
    /// Size of the signed transaction in virtual bytes. An ECDSA signature is shorter by a byte now and then.
    pub vsize: u64,
}

/// A signal to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedSpend {
    /// The transaction, without signatures.
    pub tx: Transaction,
    /// The outputs it spends, in the order of its inputs.
    pub prevouts: Vec<TxOut>,
    /// What it announces.
    pub signal: SignalBytes,
    form: AddressForm,
}

/// Why no signal can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpendError {
    /// The address has a form that one key alone does not spend.
    #[error("{0} is no P2PKH, P2WPKH or taproot address: this program can not spend from it")]
    Form(Address),
    /// The outputs at the address do not pay for a signal.
    #[error("send at least {} sat to {address}: {} sat are there to spend, a signal costs more", send.to_sat(), available.to_sat())]
    Insufficient {
        /// The address.
        address: Address,
        /// The least that one more payment has to bring. Exactly this much leaves nothing for another signal.
        send: Amount,
        /// What is there in outputs that are worth spending.
        available: Amount,
    },
    /// The fee rate is above the owner's limit.
    #[error("a fee rate of {} sat/vB is over the limit of {} sat/vB (participant.max_fee_rate)", per_vb(*rate), per_vb(*limit))]
    OverLimit {
        /// The rate that was asked for.
        rate: FeeRate,
        /// The limit.
        limit: FeeRate,
    },
    /// The transaction that is to be replaced pays as much already.
    #[error("nodes take the replacement only for {} sat/vB or more: use --fee-rate {}", per_vb(*needed), per_vb(*needed))]
    BelowReplaced {
        /// The least whole rate that will do.
        needed: FeeRate,
    },
    /// The fee rate gives a fee beyond all bitcoin.
    #[error("a fee rate of {0} sat per 1000 weight units is out of range")]
    FeeRate(u64),
}

/// The key does not spend from the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address is not one of this key")]
pub struct NotThisKey;

impl SingletonBeacon {
    /// Takes the address of a beacon.
    pub fn new(address: Address) -> Result<Self, SpendError> {
        let script = address.script_pubkey();
        let Some(form) = AddressForm::of(&script) else {
            return Err(SpendError::Form(address));
        };
        Ok(Self {
            address,
            script,
            form,
        })
    }

    /// The address.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its script.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Its form.
    #[must_use]
    pub const fn form(&self) -> AddressForm {
        self.form
    }

    /// Whether `key` spends from it.
    #[must_use]
    pub fn is_of(&self, key: XOnlyPublicKey) -> bool {
        parity_of(&self.script, self.form, key).is_some()
    }

    /// The smallest change nodes relay: 546, 294 or 330 sat.
    #[must_use]
    pub fn dust_limit(&self) -> Amount {
        self.script.minimal_non_dust()
    }

    /// Chooses what to spend and divides it into fee and change. The same arguments give the same plan.
    ///
    /// Outputs that cost more to spend than they hold are left where they are, and never stand in the way.
    /// Of the others the largest are taken, as few as pay the fee and leave change; up to [`GATHER_RATE`] smaller
    /// ones are spent along.
    pub fn plan(&self, coins: Coins<'_>, offer: FeeOffer) -> Result<SpendPlan, SpendError> {
        if offer.rate > offer.max_rate {
            return Err(SpendError::OverLimit {
                rate: offer.rate,
                limit: offer.max_rate,
            });
        }
        self.check_outbids(coins.required.len(), offer)?;
        let worth = self.worth_spending(coins, offer.rate)?;
        let mut inputs = coins.required.to_vec();
        let mut rest = worth.iter().copied();
        let gathered = if offer.rate <= GATHER_RATE {
            GATHER_INPUTS
        } else {
            0
        };
        loop {
            let complete = match self.divide(&inputs, offer)? {
                Some(plan) if plan.change.is_some() && inputs.len() >= gathered => {
                    return Ok(self.in_order(plan));
                }
                complete => complete,
            };
            let next = if inputs.len() < MAX_INPUTS {
                rest.next()
            } else {
                None
            };
            match (next, complete) {
                (Some(next), _) => inputs.push(next),
                (None, Some(plan)) => return Ok(self.in_order(plan)),
                (None, None) => return Err(self.insufficient(&inputs, offer)?),
            }
        }
    }

    /// What has to be at the address, in one output, for so many signals one after the other; each pays the next
    /// from its change. Zero for none.
    pub fn funding(&self, signals: u32, rate: FeeRate) -> Result<Amount, SpendError> {
        let Some(before_last) = signals.checked_sub(1) else {
            return Ok(Amount::ZERO);
        };
        let last = fee(rate, self.vsize(1, false))?.max(self.dust_limit());
        fee(rate, self.vsize(1, true))?
            .checked_mul(u64::from(before_last))
            .and_then(|fees| fees.checked_add(last))
            .filter(|sum| *sum <= Amount::MAX_MONEY)
            .ok_or(SpendError::FeeRate(rate.to_sat_per_kwu()))
    }

    /// The transaction of a plan.
    #[must_use]
    pub fn build(&self, plan: &SpendPlan, signal: SignalBytes) -> UnsignedSpend {
        let input = |coin: &BeaconOutput| TxIn {
            previous_output: coin.outpoint,
            script_sig: ScriptBuf::new(),
            sequence: SEQUENCE,
            witness: Witness::new(),
        };
        let prevout = |coin: &BeaconOutput| TxOut {
            value: coin.value,
            script_pubkey: self.script.clone(),
        };
        let change = plan.change.map(|value| TxOut {
            value,
            script_pubkey: self.script.clone(),
        });
        let announcement = TxOut {
            value: Amount::ZERO,
            script_pubkey: ScriptBuf::new_op_return(signal.as_bytes()),
        };
        UnsignedSpend {
            tx: Transaction {
                version: Version::TWO,
                lock_time: LockTime::ZERO,
                input: plan.inputs.iter().map(input).collect(),
                output: change.into_iter().chain([announcement]).collect(),
            },
            prevouts: plan.inputs.iter().map(prevout).collect(),
            signal,
            form: self.form,
        }
    }

    /// The outputs besides the required ones that bring more than they cost, the largest first.
    fn worth_spending(
        &self,
        coins: Coins<'_>,
        rate: FeeRate,
    ) -> Result<Vec<BeaconOutput>, SpendError> {
        let cost = self.input_cost(rate)?;
        let mut worth: Vec<BeaconOutput> = coins
            .others
            .iter()
            .filter(|coin| coin.value > cost)
            .filter(|coin| {
                let mut required = coins.required.iter();
                !required.any(|known| known.outpoint == coin.outpoint)
            })
            .copied()
            .collect();
        worth.sort_by(|a, b| b.value.cmp(&a.value).then(a.outpoint.cmp(&b.outpoint)));
        worth.dedup_by_key(|coin| coin.outpoint);
        Ok(worth)
    }

    /// Divides what these inputs hold; `None` if they do not pay the fee.
    fn divide(
        &self,
        inputs: &[BeaconOutput],
        offer: FeeOffer,
    ) -> Result<Option<SpendPlan>, SpendError> {
        let Some(sum) = sum_of(inputs).filter(|_| !inputs.is_empty()) else {
            return Ok(None);
        };
        let plan = |fee, change: Option<Amount>| SpendPlan {
            inputs: inputs.to_vec(),
            fee,
            change,
            vsize: self.vsize(inputs.len(), change.is_some()),
        };
        let with_change = self.fee_of(inputs.len(), true, offer)?;
        if let Some(change) = sum.checked_sub(with_change)
            && change >= self.dust_limit()
        {
            return Ok(Some(plan(with_change, Some(change))));
        }
        let needed = self.fee_of(inputs.len(), false, offer)?;
        Ok((sum >= needed).then(|| plan(sum, None)))
    }

    /// The fee of a transaction of this shape, at least what a replacement has to pay.
    fn fee_of(&self, inputs: usize, change: bool, offer: FeeOffer) -> Result<Amount, SpendError> {
        let vsize = self.vsize(inputs, change);
        let own = fee(offer.rate, vsize)?;
        Ok(match offer.replaces {
            Some(replaced) => own.max(outbid(replaced, vsize)?),
            None => own,
        })
    }

    /// Checks that the rate replaces what it should, spending the same inputs (BIP-125, rules 3 and 4; and a higher
    /// rate, which nodes ask for besides). A larger transaction at the same rate replaces it all the more.
    fn check_outbids(&self, inputs: usize, offer: FeeOffer) -> Result<(), SpendError> {
        let Some(replaced) = offer.replaces else {
            return Ok(());
        };
        let vsize = self.vsize(inputs, true);
        let by_fee = outbid(replaced, vsize)?.to_sat().div_ceil(vsize.max(1));
        let by_rate = (replaced.fee.to_sat() / replaced.vsize.max(1)).saturating_add(1);
        let needed = FeeRate::from_sat_per_vb(by_fee.max(by_rate)).unwrap_or(FeeRate::MAX);
        if offer.rate < needed {
            return Err(SpendError::BelowReplaced { needed });
        }
        Ok(())
    }

    /// What one more payment has to bring so that the plan succeeds.
    fn insufficient(
        &self,
        inputs: &[BeaconOutput],
        offer: FeeOffer,
    ) -> Result<SpendError, SpendError> {
        let available = sum_of(inputs).unwrap_or(Amount::MAX_MONEY);
        let needed = self.fee_of(inputs.len().saturating_add(1), false, offer)?;
        let worth = self
            .input_cost(offer.rate)?
            .checked_add(Amount::from_sat(1))
            .unwrap_or(Amount::MAX_MONEY);
        let send = needed
            .checked_sub(available)
            .unwrap_or(Amount::ZERO)
            .max(self.dust_limit())
            .max(worth);
        Ok(SpendError::Insufficient {
            address: self.address.clone(),
            send,
            available,
        })
    }

    /// What it costs to spend one output.
    fn input_cost(&self, rate: FeeRate) -> Result<Amount, SpendError> {
        fee(rate, self.form.input_weight().to_vbytes_ceil())
    }

    /// Virtual bytes of the signed transaction.
    fn vsize(&self, inputs: usize, change: bool) -> u64 {
        let count = u64::try_from(inputs).unwrap_or(u64::MAX);
        // Version and lock time, two counts of one byte each, the OP_RETURN output.
        let mut bytes = 8 + 2 + (8 + 1 + 34);
        if change {
            // Value, length, script.
            bytes += 8 + 1 + u64::try_from(self.script.len()).unwrap_or(u64::MAX);
        }
        let inputs = self.form.input_weight().to_wu().saturating_mul(count);
        Weight::from_wu((4 * bytes + self.form.marker()).saturating_add(inputs)).to_vbytes_ceil()
    }

    /// Inputs in the order of their outpoints, which says nothing about which paid first.
    fn in_order(&self, mut plan: SpendPlan) -> SpendPlan {
        plan.inputs.sort_by_key(|coin| coin.outpoint);
        plan
    }
}

impl AddressForm {
    /// The form of an output script, if it is one of the three.
    #[must_use]
    pub fn of(script: &Script) -> Option<Self> {
        if script.is_p2pkh() {
            Some(Self::P2pkh)
        } else if script.is_p2wpkh() {
            Some(Self::P2wpkh)
        } else if script.is_p2tr() {
            Some(Self::P2tr)
        } else {
            None
        }
    }

    /// Weight of a signed input. An ECDSA signature with its type is at most 71 bytes, as it is made with a low R
    /// and a low S; a Schnorr signature is 64.
    const fn input_weight(self) -> Weight {
        // Outpoint, length of the signature script, sequence.
        let base = 36 + 1 + 4;
        Weight::from_wu(match self {
            Self::P2pkh => 4 * (base + (1 + 71) + (1 + 33)),
            Self::P2wpkh => 4 * base + 1 + (1 + 71) + (1 + 33),
            Self::P2tr => 4 * base + 1 + (1 + 64),
        })
    }

    /// Weight of segwit's marker and flag.
    const fn marker(self) -> u64 {
        match self {
            Self::P2pkh => 0,
            Self::P2wpkh | Self::P2tr => 2,
        }
    }
}

impl UnsignedSpend {
    /// Signs every input: ECDSA with SIGHASH_ALL, or BIP-340 with SIGHASH_DEFAULT and the BIP-86 tweak. Signatures
    /// are deterministic, so that the same plan gives the same bytes.
    ///
    /// An [`OwnKey`] is the key with even Y, and so are the keys of DIDs this program makes. An address that
    /// commits to the point with odd Y, as an imported DID may have it, is the negated secret's: that is used then.
    pub fn sign(self, key: &OwnKey) -> Result<Transaction, NotThisKey> {
        let point = key.public().x_only();
        let script = self.prevouts.first().map(|prevout| &prevout.script_pubkey);
        let script = script.ok_or(NotThisKey)?;
        let parity = parity_of(script, self.form, point).ok_or(NotThisKey)?;
        let witnesses: Vec<(ScriptBuf, Witness)> = match self.form {
            AddressForm::P2tr => (0..self.tx.input.len())
                .map(|index| (ScriptBuf::new(), self.schnorr(index, key)))
                .collect(),
            AddressForm::P2pkh | AddressForm::P2wpkh => {
                let mut secret = key.keypair().secret_key();
                if parity == Parity::Odd {
                    secret = secret.negate();
                }
                let public = PublicKey::from_x_only_public_key(point, parity);
                let signed = (0..self.tx.input.len())
                    .map(|index| self.ecdsa(index, &secret, &public))
                    .collect();
                secret.non_secure_erase();
                signed
            }
        };
        let mut tx = self.tx;
        for (input, (script_sig, witness)) in tx.input.iter_mut().zip(witnesses) {
            input.script_sig = script_sig;
            input.witness = witness;
        }
        Ok(tx)
    }

    #[allow(
        clippy::expect_used,
        reason = "fails only for an input that does not exist or prevouts of another number than inputs"
    )]
    fn schnorr(&self, index: usize, key: &OwnKey) -> Witness {
        let sighash = SighashCache::new(&self.tx)
            .taproot_key_spend_signature_hash(
                index,
                &Prevouts::All(&self.prevouts),
                TapSighashType::Default,
            )
            .expect("one prevout per input");
        let message = Message::from_digest(sighash.to_byte_array());
        let mut tweaked = key.keypair().tap_tweak(SECP256K1, None).to_keypair();
        let signature = SECP256K1.sign_schnorr_no_aux_rand(&message, &tweaked);
        tweaked.non_secure_erase();
        Witness::from_slice(&[signature.serialize()])
    }

    #[allow(
        clippy::expect_used,
        reason = "fails only for an input that does not exist, a script that is not P2WPKH, or pushes above 520 bytes"
    )]
    fn ecdsa(&self, index: usize, secret: &SecretKey, public: &PublicKey) -> (ScriptBuf, Witness) {
        let prevout = self.prevouts.get(index).expect("one prevout per input");
        let mut cache = SighashCache::new(&self.tx);
        let script = &prevout.script_pubkey;
        let all = EcdsaSighashType::All;
        let digest = if self.form == AddressForm::P2pkh {
            let hash = cache.legacy_signature_hash(index, script, all.to_u32());
            hash.expect("the input exists").to_byte_array()
        } else {
            let hash = cache.p2wpkh_signature_hash(index, script, prevout.value, all);
            hash.expect("a P2WPKH input that exists").to_byte_array()
        };
        let message = Message::from_digest(digest);
        let signature = bitcoin::ecdsa::Signature {
            signature: SECP256K1.sign_ecdsa_low_r(&message, secret),
            sighash_type: all,
        };
        let (signature, public) = (signature.to_vec(), public.serialize());
        if self.form == AddressForm::P2wpkh {
            return (
                ScriptBuf::new(),
                Witness::from_slice(&[signature.as_slice(), &public]),
            );
        }
        let push = |bytes: &[u8]| {
            PushBytesBuf::try_from(bytes.to_vec()).expect("a signature or key of at most 73 bytes")
        };
        let script_sig = ScriptBuf::builder()
            .push_slice(push(&signature))
            .push_slice(push(&public))
            .into_script();
        (script_sig, Witness::new())
    }
}

/// Which of the two points with this x coordinate the script pays, if it pays one. A taproot output pays both.
fn parity_of(script: &Script, form: AddressForm, key: XOnlyPublicKey) -> Option<Parity> {
    let pays = |parity| {
        let point = bitcoin::CompressedPublicKey(PublicKey::from_x_only_public_key(key, parity));
        let expected = match form {
            AddressForm::P2pkh => ScriptBuf::new_p2pkh(&PubkeyHash::from(point)),
            AddressForm::P2wpkh => ScriptBuf::new_p2wpkh(&WPubkeyHash::from(point)),
            AddressForm::P2tr => ScriptBuf::new_p2tr(SECP256K1, key, None),
        };
        expected.as_script() == script
    };
    [Parity::Even, Parity::Odd].into_iter().find(|p| pays(*p))
}

fn sum_of(coins: &[BeaconOutput]) -> Option<Amount> {
    coins
        .iter()
        .try_fold(Amount::ZERO, |sum, coin| sum.checked_add(coin.value))
}

/// The fee for a size: what nodes compare with is the rate times whole virtual bytes.
fn fee(rate: FeeRate, vsize: u64) -> Result<Amount, SpendError> {
    rate.fee_vb(vsize)
        .filter(|fee| *fee <= Amount::MAX_MONEY)
        .ok_or(SpendError::FeeRate(rate.to_sat_per_kwu()))
}

/// The least fee with which a transaction of this size replaces another one.
fn outbid(replaced: Replaced, vsize: u64) -> Result<Amount, SpendError> {
    fee(REPLACEMENT_STEP, vsize)?
        .checked_add(replaced.fee)
        .ok_or(SpendError::FeeRate(REPLACEMENT_STEP.to_sat_per_kwu()))
}

const fn per_vb(rate: FeeRate) -> u64 {
    rate.to_sat_per_vb_ceil()
}

#[cfg(test)]
mod tests;
