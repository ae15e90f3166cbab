//! When a round opens, and why it does not.

use std::collections::BTreeMap;
use std::fmt;

use bitcoin::{OutPoint, Txid};

use super::round::RoundState;
use super::{Aggregator, Phase};
use crate::beacon::signal::{MAX_INPUTS, SignalError, SpendPlan, spend_plan};
use crate::keys::NostrKey;
use crate::protocol::effect::{Effect, Ignored, Report, Step, To};
use crate::protocol::ids::{Label, Round, Seat};
use crate::protocol::message::{Message, RoundOpen, RoundRequest};
use crate::time::UnixTime;

/// Why no round can open now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenRefusal {
    /// The set is not frozen, or the cohort has ended.
    NotActive,
    /// A round is open.
    RoundOpen(Round),
    /// The previous signal has too few confirmations.
    PreviousUnconfirmed(Txid),
    /// The beacon has no confirmed output with enough confirmations.
    NoTip,
    /// The tip can not pay for a signal.
    TipTooSmall {
        /// Its value in sat.
        have_sat: u64,
        /// What a signal needs in sat.
        need_sat: u64,
    },
    /// Members fund, and the refund of the tip is not signed by all yet.
    TipUnprotected(OutPoint),
    /// The money gate permits none.
    MoneyStopped,
    /// The money gate does not even permit the least fee of a signal.
    FeeOverCap {
        /// The least fee in sat.
        fee_sat: u64,
        /// What is permitted, in sat.
        max_sat: u64,
    },
    /// Nobody registered a DID.
    NothingRegistered,
    /// A seat has fewer DIDs registered than the terms ask for.
    TooFewDids(Seat),
}

impl fmt::Display for OpenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotActive => f.write_str("the cohort is not active"),
            Self::RoundOpen(round) => write!(f, "round {round} is open"),
            Self::PreviousUnconfirmed(txid) => {
                write!(f, "the previous signal {txid} has too few confirmations")
            }
            Self::NoTip => f.write_str("the beacon address has no confirmed funds"),
            Self::TipTooSmall { have_sat, need_sat } => {
                write!(
                    f,
                    "the beacon holds {have_sat} sat, a signal needs {need_sat}"
                )
            }
            Self::TipUnprotected(outpoint) => {
                write!(
                    f,
                    "the refund of {outpoint} is not signed by all members yet"
                )
            }
            Self::MoneyStopped => f.write_str("money is stopped: see `btcr2-agent money status`"),
            Self::FeeOverCap { fee_sat, max_sat } => {
                write!(
                    f,
                    "a signal costs at least {fee_sat} sat, more than money.max_fee_sat, {max_sat}"
                )
            }
            Self::NothingRegistered => f.write_str("no DID is registered"),
            Self::TooFewDids(seat) => {
                write!(
                    f,
                    "seat {seat} has fewer DIDs registered than the terms ask"
                )
            }
        }
    }
}

impl Aggregator {
    /// Why no round can be opened now, or `None` when one can.
    #[must_use]
    pub fn open_refusal(&self) -> Option<OpenRefusal> {
        if !matches!(self.phase, Phase::Active) {
            return Some(OpenRefusal::NotActive);
        }
        if self.money_stopped {
            return Some(OpenRefusal::MoneyStopped);
        }
        if let Some((fee, most)) = self.dearer_than_allowed() {
            return Some(OpenRefusal::FeeOverCap {
                fee_sat: fee.to_sat(),
                max_sat: most.to_sat(),
            });
        }
        if let Some(round) = &self.round {
            return Some(OpenRefusal::RoundOpen(round.round));
        }
        if self.registry.len() == 0 {
            return Some(OpenRefusal::NothingRegistered);
        }
        let lacking = |seat: &Seat| self.registry.count(*seat) < self.terms.dids_min.into();
        if let Some(seat) = (0..self.member_count()).map(Seat).find(lacking) {
            return Some(OpenRefusal::TooFewDids(seat));
        }
        let depth = u32::from(self.terms.depth);
        let waiting = |signal: &&super::SignedSignal| {
            let deep = signal
                .confirmed_at()
                .is_some_and(|height| self.chain.confirmations(height) >= depth);
            !deep && !self.is_dead(signal, depth)
        };
        if let Some(signal) = self.signed.iter().find(waiting) {
            return Some(OpenRefusal::PreviousUnconfirmed(signal.txid()));
        }
        match self.spend_plan(MAX_INPUTS) {
            Some(Ok(plan)) => {
                let unprotected = plan
                    .inputs
                    .iter()
                    .find(|input| self.must_be_protected(&input.outpoint, input.value.to_sat()));
                unprotected.map(|input| OpenRefusal::TipUnprotected(input.outpoint))
            }
            Some(Err(SignalError::Insufficient { available, needed })) => {
                Some(OpenRefusal::TipTooSmall {
                    have_sat: available.to_sat(),
                    need_sat: needed.to_sat(),
                })
            }
            Some(Err(_)) | None => Some(OpenRefusal::NoTip),
        }
    }

    /// What the next signal spends, with this many inputs at most; `None` without a tip that is deep enough.
    pub(super) fn spend_plan(&self, most: usize) -> Option<Result<SpendPlan, SignalError>> {
        let tip = self.chain.ready_output(self.terms.depth)?;
        let mut further = self.chain.ready_extra(self.terms.depth);
        // What waits for its refund is no top-up yet, and nobody has to wait for it: whoever pays something to the
        // address would else hold up rounds.
        further.retain(|output| !self.must_be_protected(&output.outpoint, output.value.to_sat()));
        Some(spend_plan(&tip, &further, self.fee_rate(), most))
    }

    pub(super) fn after_cadence(&self, now: UnixTime) -> Option<UnixTime> {
        (self.terms.cadence_seconds > 0).then(|| now.plus(self.terms.cadence_seconds.into()))
    }

    pub(super) fn opening_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        let by_cadence = self.next_open.is_some_and(|at| now >= at);
        let trigger = u32::from(self.terms.pending_trigger);
        let waiting: u32 = self.pending.values().map(|n| u32::from(*n)).sum();
        let by_count = trigger > 0 && waiting >= trigger && self.counted.may_open_on_request(now);
        if (by_cadence || by_count) && self.open_refusal().is_none() {
            if !by_cadence {
                self.counted.round_requested(now);
            }
            effects.extend(self.open_round(now).effects);
        }
    }

    pub(super) fn round_request(&mut self, from: NostrKey, request: RoundRequest) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if self.pending.insert(seat, request.pending) == Some(request.pending) {
            return Step::ignored(Ignored::Duplicate);
        }
        Step::accepted()
    }

    pub(super) fn open_round(&mut self, now: UnixTime) -> Step {
        let round = Round(self.last_round).next();
        let indexes = self.registry.snapshot(round);
        let respond_by = now.plus(self.terms.response_seconds.into());
        let counts = indexes
            .iter()
            .map(|(seat, set)| (*seat, u16::try_from(set.len()).unwrap_or(u16::MAX)))
            .collect();
        let total: usize = indexes.values().map(BTreeMap::len).sum();
        let planned = self.spend_plan(MAX_INPUTS).and_then(Result::ok);
        let inputs = planned.map_or(1, |plan| u8::try_from(plan.inputs.len()).unwrap_or(1));
        let labels = Label::of_round(
            self.terms.rungs(),
            inputs,
            !self.refund_scripts().is_empty(),
        );
        self.last_round = round.0;
        self.counted.round_opened(now);
        self.kept = None;
        self.next_open = self.after_cadence(now);
        self.pending.clear();
        self.seen_nonces.next_round();
        self.round = Some(RoundState {
            round,
            opened: now,
            respond_by,
            indexes,
            members: self.member_count(),
            inputs,
            labels,
            responses: BTreeMap::new(),
            nonces: BTreeMap::new(),
            built: None,
            session: None,
            lost: Vec::new(),
            fallback: None,
            blamed: Vec::new(),
        });
        Step::with(vec![
            Effect::Send {
                to: To::Channel,
                message: Message::RoundOpen(RoundOpen {
                    round,
                    respond_by,
                    indexes: counts,
                    inputs,
                }),
            },
            Effect::Report(Report::RoundOpened {
                round,
                indexes: u32::try_from(total).unwrap_or(u32::MAX),
            }),
        ])
    }
}
