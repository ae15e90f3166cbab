//! Refunds of what lies at the beacon address (DESIGN §6 rule 2, second form).
//!
//! Every output at the address gets a refund that all members signed: the change of a signal in the round that
//! makes it ([`Aggregator::keep_refund`]), everything else in a refund session of its own, one at a time. Until
//! then it is unprotected: a member that vanishes would lock it up for good. A session may also be held for an
//! output that is not on the chain yet, before anybody pays ([`AggregatorInput::Protect`]).
//!
//! [`AggregatorInput::Protect`]: super::AggregatorInput::Protect

mod signing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};

use super::{Aggregator, FINAL_DEPTH, Phase};
use crate::beacon::refund::{MIN_FEE_RATE, UnsignedRefund, refundable_from};
use crate::beacon::signal::BeaconOutput;
use crate::protocol::effect::{Artifact, Effect, Ignored, Report, Step, To};
use crate::protocol::evidence::LabelContext;
use crate::protocol::ids::Seat;
use crate::protocol::message::{Message, Nonces, TxHex};
use crate::protocol::refund_message::{RefundComplete, RefundOpen, RefundPartial};
use crate::protocol::terms::Funding;
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Seconds until a session that failed is held again: members that were away may be back.
const RETRY_SECONDS: u64 = 3_600;

/// Outputs of funding transactions that wait for their refund at one time.
const MAX_PROMISED: usize = 16;

/// Refunds that are remembered for outputs the chain does not show: the change of rungs that were not sent,
/// and of funding that was not made. What is forgotten here is still stored.
const MAX_UNSEEN: usize = 64;

/// A refund that is signed by all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRefund {
    /// Value of the output it spends.
    pub value: Amount,
    /// The signed transaction.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
}

/// The session that is being held, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundProgress {
    /// The output.
    pub outpoint: OutPoint,
    /// Seats whose nonces, and then whose partial signatures, are awaited.
    pub waiting_for: Vec<Seat>,
    /// Until when.
    pub until: UnixTime,
}

/// What the aggregator knows of refunds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Refunds {
    /// Number of the last session.
    last: u32,
    session: Option<RefundSession>,
    kept: BTreeMap<OutPoint, KeptRefund>,
    /// The order in which they were kept.
    order: Vec<OutPoint>,
    /// Every refund members were asked to sign: what it spends is no unknown spend.
    known: BTreeSet<Txid>,
    /// Outputs that are not on the chain yet, with their value in sat.
    promised: BTreeMap<OutPoint, u64>,
    failed: BTreeMap<OutPoint, Failed>,
}

/// A refund that is being signed, and what came of each seat.
type BeingSigned<'a> = (
    &'a UnsignedRefund,
    &'a BTreeMap<Seat, Nonces>,
    &'a BTreeMap<Seat, RefundPartial>,
);

impl Refunds {
    pub(super) fn being_signed(&self) -> Option<BeingSigned<'_>> {
        let session = self.session.as_ref()?;
        Some((session.built.as_ref()?, &session.nonces, &session.partials))
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Failed {
    retry_at: UnixTime,
    absent: Vec<Seat>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct RefundSession {
    deposit: u32,
    attempt: u32,
    outpoint: OutPoint,
    value_sat: u64,
    until: UnixTime,
    nonces: BTreeMap<Seat, Nonces>,
    /// Built once: every attempt of a session signs the same transaction.
    built: Option<UnsignedRefund>,
    /// Set once the request is out: from then on the nonces of this attempt do not change.
    context: Option<LabelContext>,
    partials: BTreeMap<Seat, RefundPartial>,
}

impl RefundSession {
    const fn open(&self) -> RefundOpen {
        RefundOpen {
            deposit: self.deposit,
            attempt: self.attempt,
            outpoint: self.outpoint,
            value_sat: self.value_sat,
            until: self.until,
        }
    }

    const fn output(&self) -> BeaconOutput {
        BeaconOutput {
            outpoint: self.outpoint,
            value: Amount::from_sat(self.value_sat),
            height: None,
        }
    }

    fn waiting_for(&self, members: u16) -> Vec<Seat> {
        let here = |seat: &Seat| match self.context {
            None => self.nonces.contains_key(seat),
            Some(_) => self.partials.contains_key(seat),
        };
        (0..members).map(Seat).filter(|seat| !here(seat)).collect()
    }
}

impl Aggregator {
    /// Operator: hold refund sessions for outputs that are going to be paid to the address.
    pub(super) fn protect(&mut self, outputs: Vec<(OutPoint, u64)>) -> Step {
        let contradiction = |text: String| Step::ignored(Ignored::Contradiction(text));
        if self.phase != Phase::Active {
            return Step::ignored(Ignored::WrongPhase);
        }
        let scripts = self.refund_scripts();
        if scripts.is_empty() {
            return contradiction("this cohort has no refunds".into());
        }
        let least = match refundable_from(&scripts, self.fee_rate()) {
            Ok(least) => least.to_sat(),
            Err(error) => return contradiction(error.to_string()),
        };
        if let Some((outpoint, _)) = outputs.iter().find(|(_, value_sat)| *value_sat < least) {
            return contradiction(format!(
                "{outpoint} is too small: {least} sat can be refunded at the current fee rate"
            ));
        }
        let kept = &self.refunds.kept;
        let new: Vec<_> = outputs
            .into_iter()
            .filter(|(outpoint, value_sat)| {
                kept.get(outpoint)
                    .is_none_or(|kept| kept.value.to_sat() != *value_sat)
            })
            .collect();
        if self.refunds.promised.len().saturating_add(new.len()) > MAX_PROMISED {
            return contradiction(format!(
                "more than {MAX_PROMISED} outputs wait for their refund"
            ));
        }
        for (outpoint, value_sat) in new {
            self.refunds.failed.remove(&outpoint);
            self.refunds.promised.insert(outpoint, value_sat);
        }
        Step::accepted()
    }

    /// Keeps a refund that all members signed, and hands it to the payees. `output` is what it spends.
    pub(super) fn keep_refund(&mut self, output: &BeaconOutput, tx: Transaction) -> Vec<Effect> {
        let outpoint = output.outpoint;
        let txid = tx.compute_txid();
        let value_sat = output.value.to_sat();
        let kept = KeptRefund {
            value: output.value,
            tx: tx.clone(),
            txid,
        };
        self.refunds.known.insert(txid);
        self.watch.expect(txid);
        self.refunds.promised.remove(&outpoint);
        self.refunds.failed.remove(&outpoint);
        if self.refunds.kept.insert(outpoint, kept).is_none() {
            self.refunds.order.push(outpoint);
        }
        let mut effects = vec![
            Effect::Save(Artifact::Refund {
                outpoint,
                value_sat,
                tx: tx.clone(),
            }),
            Effect::Report(Report::RefundComplete {
                outpoint,
                value_sat,
                txid,
            }),
        ];
        if self.terms.funding == Funding::Members {
            let complete = RefundComplete {
                outpoint,
                value_sat,
                tx: TxHex(tx),
            };
            effects.extend(self.member_keys().into_iter().map(|member| Effect::Send {
                to: To::Key(member),
                message: Message::RefundComplete(complete.clone()),
            }));
        }
        effects
    }

    /// The refunds that members hold of outputs that are there to be refunded.
    pub(super) fn refunds_given(&self) -> Vec<RefundComplete> {
        if self.terms.funding != Funding::Members {
            return Vec::new();
        }
        let unspent = |outpoint: &OutPoint| self.chain.outputs.contains_key(outpoint);
        let kept = self.refunds.kept.iter();
        kept.filter(|(outpoint, _)| unspent(outpoint))
            .map(|(outpoint, kept)| RefundComplete {
                outpoint: *outpoint,
                value_sat: kept.value.to_sat(),
                tx: TxHex(kept.tx.clone()),
            })
            .collect()
    }

    /// The signed refund of an output.
    #[must_use]
    pub fn refund_of(&self, outpoint: &OutPoint) -> Option<&KeptRefund> {
        self.refunds.kept.get(outpoint)
    }

    /// Whether members were asked to sign this transaction as a refund.
    #[must_use]
    pub fn is_refund(&self, txid: &Txid) -> bool {
        self.refunds.known.contains(txid)
    }

    /// The refund session that is being held.
    #[must_use]
    pub fn refund_session(&self) -> Option<RefundProgress> {
        let session = self.refunds.session.as_ref()?;
        Some(RefundProgress {
            outpoint: session.outpoint,
            waiting_for: session.waiting_for(self.member_count()),
            until: session.until,
        })
    }

    /// Whether an output waits for its refund session, or has it now.
    #[must_use]
    pub fn refund_is_awaited(&self, outpoint: &OutPoint) -> bool {
        let session = self.refunds.session.as_ref();
        session.is_some_and(|session| session.outpoint == *outpoint)
            || self.refunds.promised.contains_key(outpoint)
    }

    /// Seats that did not answer in the last refund session of an output, if that failed.
    #[must_use]
    pub fn refund_failed(&self, outpoint: &OutPoint) -> Option<&[Seat]> {
        let failed = self.refunds.failed.get(outpoint)?;
        Some(&failed.absent)
    }

    /// Where refunds of this cohort pay; empty if it has none.
    #[must_use]
    pub fn refund_scripts(&self) -> Vec<ScriptBuf> {
        self.set
            .as_ref()
            .map(|(set, _)| set.refund_scripts(&self.terms))
            .unwrap_or_default()
    }

    /// Where members fund, the refund of what a signal spends comes first: members do not sign before. An output too
    /// small to be refunded is exempt.
    pub(super) fn must_be_protected(&self, outpoint: &OutPoint, value_sat: u64) -> bool {
        let scripts = self.refund_scripts();
        if self.terms.funding != Funding::Members || scripts.is_empty() {
            return false;
        }
        let least = refundable_from(&scripts, MIN_FEE_RATE).map_or(u64::MAX, Amount::to_sat);
        value_sat >= least && !self.refunds.kept.contains_key(outpoint)
    }

    /// Ends a session that is over its time, and opens the next one.
    pub(super) fn refund_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Active {
            self.refunds.session = None;
            return;
        }
        if let Some(session) = &self.refunds.session
            && now > session.until
        {
            effects.extend(self.fail_refund(now));
        }
        if self.refunds.session.is_none()
            && let Some((outpoint, value_sat)) = self.next_unprotected(now)
        {
            effects.extend(self.open_refund(now, outpoint, value_sat));
        }
    }

    pub(super) fn refund_deadline(&self) -> Option<UnixTime> {
        if self.phase != Phase::Active {
            return None;
        }
        if let Some(session) = &self.refunds.session {
            return Some(session.until.plus(1));
        }
        // What can not be tried again now (it is not there, or too small at today's fee) waits for the input that
        // makes it possible, not for a time: a tick that does nothing is not logged, so it must not change anything.
        self.unprotected()
            .filter_map(|(outpoint, ..)| self.refunds.failed.get(&outpoint))
            .map(|failed| failed.retry_at)
            .min()
    }

    /// What the chain has changed: forgets what can not matter any more.
    pub(super) fn refunds_after_chain(&mut self) {
        let Self { refunds, chain, .. } = self;
        let Refunds {
            kept,
            order,
            promised,
            failed,
            ..
        } = refunds;
        failed.retain(|outpoint, _| chain.outputs.contains_key(outpoint));
        promised.retain(|outpoint, _| !chain.spends.contains_key(outpoint));
        let is_past = |outpoint: &OutPoint| {
            let spend = chain.spends.get(outpoint);
            spend.is_some_and(|spend| {
                let height = spend.height;
                height.is_some_and(|height| chain.confirmations(height) >= FINAL_DEPTH)
            })
        };
        let is_unseen = |outpoint: &OutPoint| {
            !chain.outputs.contains_key(outpoint) && !chain.spends.contains_key(outpoint)
        };
        let unseen = order.iter().filter(|outpoint| is_unseen(outpoint)).count();
        let mut too_many = unseen.saturating_sub(MAX_UNSEEN);
        order.retain(|outpoint| {
            let surplus = too_many > 0 && is_unseen(outpoint);
            if surplus {
                too_many = too_many.saturating_sub(1);
            }
            if surplus || is_past(outpoint) {
                kept.remove(outpoint);
                return false;
            }
            true
        });
    }

    /// The output whose session is held next: what somebody waits for to pay, then what was not tried yet, then
    /// by value, so that many small payments do not keep a large one waiting.
    fn next_unprotected(&self, now: UnixTime) -> Option<(OutPoint, u64)> {
        let refunds = &self.refunds;
        self.unprotected()
            .filter(|(outpoint, ..)| {
                let failed = refunds.failed.get(outpoint);
                failed.is_none_or(|failed| now >= failed.retry_at)
            })
            .min_by_key(|(outpoint, value_sat, promised)| {
                let tried = refunds.failed.contains_key(outpoint);
                (!*promised, tried, Reverse(*value_sat), *outpoint)
            })
            .map(|(outpoint, value_sat, _)| (outpoint, value_sat))
    }

    /// Outputs whose refund can be made and is not kept, with their value in sat, and whether somebody waits for it
    /// to pay.
    fn unprotected(&self) -> impl Iterator<Item = (OutPoint, u64, bool)> + '_ {
        let refunds = &self.refunds;
        let least = refundable_from(&self.refund_scripts(), self.fee_rate());
        let least = least.map_or(u64::MAX, Amount::to_sat);
        let promised = refunds
            .promised
            .iter()
            .map(|(outpoint, value_sat)| (*outpoint, *value_sat, true));
        let seen = self
            .chain
            .outputs
            .iter()
            .map(|(outpoint, seen)| (*outpoint, seen.value_sat, false));
        promised
            .chain(seen)
            .filter(move |(outpoint, value_sat, _)| {
                let kept = refunds.kept.get(outpoint);
                let protected = kept.is_some_and(|kept| kept.value.to_sat() == *value_sat);
                *value_sat >= least && !protected
            })
    }

    fn open_refund(&mut self, now: UnixTime, outpoint: OutPoint, value_sat: u64) -> Vec<Effect> {
        self.refunds.last = self.refunds.last.saturating_add(1);
        self.counted.refund_opened(now);
        let session = RefundSession {
            deposit: self.refunds.last,
            attempt: 1,
            outpoint,
            value_sat,
            until: now.plus(self.terms.signing_seconds.into()),
            nonces: BTreeMap::new(),
            built: None,
            context: None,
            partials: BTreeMap::new(),
        };
        let open = session.open();
        self.refunds.session = Some(session);
        vec![
            Effect::Send {
                to: To::Channel,
                message: Message::RefundOpen(open),
            },
            Effect::Report(Report::RefundOpened {
                outpoint,
                value_sat,
            }),
        ]
    }

    /// The store is an older copy of itself: the open session may have gone on without it, and further ones may have been
    /// held. The output is taken up again under a number that nobody has seen.
    pub(super) fn refunds_restored(&mut self, skipped: u32) {
        self.refunds.session = None;
        self.refunds.last = self.refunds.last.saturating_add(skipped);
    }

    fn fail_refund(&mut self, now: UnixTime) -> Vec<Effect> {
        let Some(session) = self.refunds.session.take() else {
            return Vec::new();
        };
        let absent = session.waiting_for(self.member_count());
        let outpoint = session.outpoint;
        // Whoever was about to pay has not, and is told to ask again.
        self.refunds.promised.remove(&outpoint);
        let failed = Failed {
            retry_at: now.plus(RETRY_SECONDS),
            absent: absent.clone(),
        };
        self.refunds.failed.insert(outpoint, failed);
        vec![Effect::Report(Report::RefundFailed { outpoint, absent })]
    }
}
