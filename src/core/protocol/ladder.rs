//! The fee ladder: what one session of a round signs (DESIGN §5 "Sessions", §6 rules 2 and 4).
//!
//! A signal that pays too little gets stuck, and to sign another one takes every member. So a session signs the
//! same 32 bytes, spending the same outputs, at several fees at once: the rungs. All of them spend the tip, so at
//! most one can confirm. With the signal of a rung comes the refund of its change, if there is one: the money is
//! on its way back before it is spent.

use std::collections::BTreeMap;

use bitcoin::{Amount, FeeRate, OutPoint, Script, ScriptBuf, Transaction, Txid};

use super::evidence::Sighash;
use super::ids::{Label, MAX_RUNGS};
use super::message::{RungToSign, TxHex};
use crate::beacon::refund::{self, MIN_FEE_RATE, RefundFault, build_refund, check_refund};
use crate::beacon::signal::{
    self, BeaconOutput, CheckedSignal, SignalError, SignalFault, SignalLimits, UnsignedSignal,
    build_signal, check_signal, signed_weight,
};
use crate::hash::{SchnorrSignature, SignalBytes};
use serde::{Deserialize, Serialize};

/// What every transaction of a cohort has in common: where its beacon is, and where refunds go.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// The script of the beacon.
    pub script: &'a Script,
    /// The lock of refunds in blocks.
    pub lock_blocks: u16,
    /// Whom refunds pay; empty when there are none.
    pub payees: &'a [ScriptBuf],
}

/// The refund of a rung's change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RungRefund {
    /// The change it spends.
    pub change: BeaconOutput,
    /// The transaction, unsigned.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// What is signed for it.
    pub sighash: Sighash,
}

/// The signal at one fee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// The transaction, unsigned.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// What it pays to the miner.
    pub fee: Amount,
    /// What is signed for each input.
    pub sighashes: Vec<Sighash>,
    /// The refund of its change, if there is change and refunds are made.
    pub refund: Option<RungRefund>,
}

/// What one session signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    /// What every rung spends: the tip, then top-ups.
    pub inputs: Vec<BeaconOutput>,
    /// The 32 bytes of every rung.
    pub signal: SignalBytes,
    /// The rungs, lowest fee first; at least one, at most [`MAX_RUNGS`].
    pub rungs: Vec<Rung>,
}

/// A rung with all its signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRung {
    /// The signal.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// What it pays to the miner.
    pub fee: Amount,
    /// Its change, and the refund of it.
    pub refund: Option<(BeaconOutput, Transaction)>,
}

impl SignedRung {
    /// What it pays for its weight.
    #[must_use]
    pub fn fee_rate(&self) -> FeeRate {
        let per_kwu = self.fee.to_sat().saturating_mul(1_000);
        FeeRate::from_sat_per_kwu(per_kwu.checked_div(self.tx.weight().to_wu()).unwrap_or(0))
    }
}

/// Why a member does not sign a ladder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LadderFault {
    /// No rung, or more than the terms have.
    #[error("there are {found} rungs, the terms allow 1 to {most}")]
    Rungs {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: u8,
    },
    /// A signal is not one that may be signed.
    #[error("rung {rung}: {fault}")]
    Signal {
        /// The rung, from 1.
        rung: usize,
        /// What is wrong with it.
        fault: SignalFault,
    },
    /// A rung spends something else than the first one, or in another order.
    #[error("rung {0} does not spend what the first one spends")]
    OtherInputs(usize),
    /// A rung announces something else than the first one.
    #[error("rung {0} announces other bytes than the first one")]
    OtherSignal(usize),
    /// A rung pays no more than the one before it.
    #[error("rung {rung} pays {fee}, no more than the {before} before it")]
    NotHigher {
        /// The rung, from 1.
        rung: usize,
        /// Its fee.
        fee: Amount,
        /// The fee of the rung before it.
        before: Amount,
    },
    /// A refund is not one that may be signed.
    #[error("the refund of rung {rung}: {fault}")]
    Refund {
        /// The rung, from 1.
        rung: usize,
        /// What is wrong with it.
        fault: RefundFault,
    },
    /// The change of a rung has no refund.
    #[error("the change of rung {0} has no refund")]
    RefundMissing(usize),
    /// A refund comes with a rung that has none.
    #[error("rung {0} has nothing to be refunded")]
    RefundOfNothing(usize),
}

impl LadderFault {
    /// Whether the own view of the chain may lag behind the aggregator's, so that a later one may agree.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Signal {
                fault: SignalFault::NotTip { .. } | SignalFault::NotATopUp(_),
                ..
            }
        )
    }
}

/// The fee rates of a ladder: these multiples of the round's, up to the ceiling. What the ceiling caps to the rung
/// before is left out.
#[must_use]
pub fn rates(base: FeeRate, multiples: &[u8], ceiling: FeeRate) -> Vec<FeeRate> {
    let mut rates: Vec<FeeRate> = Vec::new();
    for multiple in multiples {
        let rate = base
            .checked_mul(u64::from(*multiple))
            .unwrap_or(FeeRate::MAX)
            .min(ceiling);
        if rates.last().is_none_or(|before| *before < rate) {
            rates.push(rate);
        }
    }
    rates.truncate(usize::from(MAX_RUNGS));
    rates
}

impl Ladder {
    /// Builds the rungs that `inputs` can pay, one per rate. An error is the first rung's.
    pub fn build(
        inputs: Vec<BeaconOutput>,
        signal: SignalBytes,
        rates: &[FeeRate],
        ground: &Ground<'_>,
    ) -> Result<Self, SignalError> {
        let mut rungs: Vec<Rung> = Vec::new();
        for rate in rates {
            let unsigned = match build_signal(&inputs, ground.script, signal, *rate) {
                Ok(unsigned) => unsigned,
                Err(error) if rungs.is_empty() => return Err(error),
                Err(_) => break,
            };
            // Without change all goes to the miner already: a higher rate gives the same transaction.
            if rungs
                .last()
                .is_some_and(|before| before.fee >= unsigned.fee)
            {
                break;
            }
            rungs.push(Rung::of(&unsigned, *rate, ground));
        }
        Ok(Self {
            inputs,
            signal,
            rungs,
        })
    }

    /// The rungs whose fee may be paid; `None` if there are none. A rung without change can cost more than its rate.
    #[must_use]
    pub fn within(mut self, may_pay: impl Fn(Amount) -> bool) -> Option<Self> {
        self.rungs.retain(|rung| may_pay(rung.fee));
        (!self.rungs.is_empty()).then_some(self)
    }

    /// Checks, before signing, every transaction of a request: each rung is a signal within the limits that spends
    /// `tip` and some of `further`, all spend and announce the same, each pays more than the one before, and the
    /// change of each is refunded exactly where it can be.
    ///
    /// `tip`, `further` and `ground` come from the member's own view of the chain, its set and its terms; `limits`
    /// are its own and the terms'.
    pub fn check(
        request: &[RungToSign],
        most: u8,
        tip: &BeaconOutput,
        further: &[BeaconOutput],
        ground: &Ground<'_>,
        limits: &SignalLimits,
    ) -> Result<Self, LadderFault> {
        let found = request.len();
        if found > usize::from(most) {
            return Err(LadderFault::Rungs { found, most });
        }
        let mut ladder: Option<Self> = None;
        for (rung, to_sign) in (1..).zip(request) {
            let of_rung = signal_limits(limits, to_sign.tx.0.input.len());
            let checked = check_signal(&to_sign.tx.0, tip, further, ground.script, &of_rung)
                .map_err(|fault| LadderFault::Signal { rung, fault })?;
            if let Some(ladder) = &ladder {
                if ladder.inputs != checked.inputs {
                    return Err(LadderFault::OtherInputs(rung));
                }
                if ladder.signal != checked.signal {
                    return Err(LadderFault::OtherSignal(rung));
                }
                let before = ladder.rungs.last().map_or(Amount::ZERO, |rung| rung.fee);
                if checked.fee <= before {
                    let fee = checked.fee;
                    return Err(LadderFault::NotHigher { rung, fee, before });
                }
            }
            let refund = checked_refund(rung, to_sign, &checked, ground, limits)?;
            ladder
                .get_or_insert_with(|| Self {
                    inputs: checked.inputs.clone(),
                    signal: checked.signal,
                    rungs: Vec::new(),
                })
                .rungs
                .push(Rung {
                    tx: to_sign.tx.0.clone(),
                    txid: checked.txid,
                    fee: checked.fee,
                    sighashes: sighashes(&checked.sighashes),
                    refund,
                });
        }
        ladder.ok_or(LadderFault::Rungs { found, most })
    }

    /// What is signed, label by label.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<Label, Sighash> {
        let mut digests = BTreeMap::new();
        for (rung, signed) in (1..).zip(&self.rungs) {
            for (input, sighash) in (0..).zip(&signed.sighashes) {
                digests.insert(Label::Signal { rung, input }, *sighash);
            }
            if let Some(refund) = &signed.refund {
                digests.insert(Label::Refund { rung }, refund.sighash);
            }
        }
        digests
    }

    /// Its transactions, as a request carries them.
    #[must_use]
    pub fn to_sign(&self) -> Vec<RungToSign> {
        let rung = |rung: &Rung| RungToSign {
            tx: TxHex(rung.tx.clone()),
            refund: rung.refund.as_ref().map(|refund| TxHex(refund.tx.clone())),
        };
        self.rungs.iter().map(rung).collect()
    }

    /// The transactions' ids, lowest fee first.
    #[must_use]
    pub fn txids(&self) -> Vec<Txid> {
        self.rungs.iter().map(|rung| rung.txid).collect()
    }

    /// The tip it spends.
    #[must_use]
    pub fn tip(&self) -> OutPoint {
        self.inputs
            .first()
            .map_or_else(OutPoint::null, |input| input.outpoint)
    }

    /// Puts the signatures in their places; `None` if one is missing.
    #[must_use]
    pub fn complete(
        &self,
        signatures: &BTreeMap<Label, SchnorrSignature>,
    ) -> Option<Vec<SignedRung>> {
        let complete = |(number, rung): (u8, &Rung)| {
            let own = (0..)
                .zip(&rung.sighashes)
                .map(|(input, _)| {
                    let label = Label::Signal {
                        rung: number,
                        input,
                    };
                    signatures.get(&label).copied()
                })
                .collect::<Option<Vec<_>>>()?;
            let refund = match &rung.refund {
                None => None,
                Some(refund) => {
                    let signature = signatures.get(&Label::Refund { rung: number })?;
                    let tx = refund::finalize(refund.tx.clone(), signature);
                    Some((refund.change, tx))
                }
            };
            Some(SignedRung {
                tx: signal::finalize(rung.tx.clone(), &own),
                txid: rung.txid,
                fee: rung.fee,
                refund,
            })
        };
        (1..).zip(&self.rungs).map(complete).collect()
    }
}

impl Rung {
    fn of(unsigned: &UnsignedSignal, rate: FeeRate, ground: &Ground<'_>) -> Self {
        let txid = unsigned.tx.compute_txid();
        Self {
            txid,
            fee: unsigned.fee,
            sighashes: sighashes(&unsigned.sighashes()),
            refund: unsigned
                .change
                .and_then(|change| refund_of(&change_output(txid, change), rate, ground)),
            tx: unsigned.tx.clone(),
        }
    }
}

/// The change of a signal, which is its first output.
const fn change_output(txid: Txid, value: Amount) -> BeaconOutput {
    BeaconOutput {
        outpoint: OutPoint { txid, vout: 0 },
        value,
        height: None,
    }
}

/// The refund of change, at the rate of its signal, or where that would leave dust at the least rate there is.
fn refund_of(change: &BeaconOutput, rate: FeeRate, ground: &Ground<'_>) -> Option<RungRefund> {
    let Ground {
        script,
        lock_blocks,
        payees,
    } = *ground;
    let build = |rate: FeeRate| build_refund(change, script, lock_blocks, payees, rate);
    let unsigned = build(rate.max(MIN_FEE_RATE))
        .or_else(|_| build(MIN_FEE_RATE))
        .ok()?;
    Some(RungRefund {
        change: *change,
        txid: unsigned.tx.compute_txid(),
        sighash: Sighash::from_bytes(unsigned.sighash()),
        tx: unsigned.tx,
    })
}

fn checked_refund(
    rung: usize,
    to_sign: &RungToSign,
    checked: &CheckedSignal,
    ground: &Ground<'_>,
    limits: &SignalLimits,
) -> Result<Option<RungRefund>, LadderFault> {
    let change = checked
        .change
        .map(|change| change_output(checked.txid, change))
        // What is too little to come back at the least rate has no refund.
        .filter(|change| refund_of(change, MIN_FEE_RATE, ground).is_some());
    let (change, tx) = match (change, &to_sign.refund) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(LadderFault::RefundMissing(rung)),
        (None, Some(_)) => return Err(LadderFault::RefundOfNothing(rung)),
        (Some(change), Some(tx)) => (change, &tx.0),
    };
    let limits = SignalLimits {
        max_fee_rate: limits.max_fee_rate.max(MIN_FEE_RATE),
        ..*limits
    };
    let checked = check_refund(
        tx,
        &change,
        ground.script,
        ground.lock_blocks,
        ground.payees,
        &limits,
    )
    .map_err(|fault| LadderFault::Refund { rung, fault })?;
    Ok(Some(RungRefund {
        change,
        tx: tx.clone(),
        txid: checked.txid,
        sighash: Sighash::from_bytes(checked.sighash),
    }))
}

/// What a signal with this number of inputs may cost.
fn signal_limits(limits: &SignalLimits, inputs: usize) -> SignalLimits {
    SignalLimits {
        // Without change the remainder goes to the miner; it is dust at most.
        max_fee: limits
            .max_fee_rate
            .fee_wu(signed_weight(inputs, true))
            .and_then(|fee| fee.checked_add(signal::DUST_LIMIT))
            .unwrap_or(Amount::MAX_MONEY)
            .min(limits.max_fee),
        ..*limits
    }
}

fn sighashes(digests: &[[u8; 32]]) -> Vec<Sighash> {
    digests.iter().copied().map(Sighash::from_bytes).collect()
}
