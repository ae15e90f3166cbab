//! The aggregator's side of one cohort, as a pure state machine.
//!
//! `handle(now, input)` changes the state and returns what to do. Its state is a function of its inputs:
//! replaying the logged inputs gives the same state, and the driver discards the effects of a replay.

mod admission;
mod deposits;
mod export;
mod fallback;
mod formation;
mod input;
mod money;
mod opening;
mod reforming;
mod refunds;
mod registry;
mod replacing;
mod round;
mod seats;
mod session;
mod signals;
mod unexplained;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, ScriptBuf, Txid};
use serde::{Deserialize, Serialize};

use super::chain_view::{ChainUpdate, ChainView, TipView};
use super::conduct::Conduct;
use super::confirmation::ConfirmationWatch;
pub use super::confirmation::FINAL_DEPTH;
use super::effect::{AdvertStatus, Effect, Ignored, Report, Step, To};
use super::ids::{Round, Seat};
use super::message::{EndCause, Ended, Message, RefusalCode, Refused, RoundCause};
use super::quota::{self, Bound, Counted};
use super::reform::Offer;
use super::set::CohortSet;
use super::terms::Terms;
use crate::hash::{CohortId, SchnorrSignature};
use crate::keys::NostrKey;
use crate::keys::musig::KeySet;
use crate::time::UnixTime;

use admission::Gate;
pub use admission::{
    Decision, KnownCode, MAX_CODES, MAX_GIVEN_BACK, MAX_RETURNS, MAX_WAITING, WaitingOptIn,
};
use deposits::Deposits;
pub use input::AggregatorInput;
pub use opening::OpenRefusal;
use refunds::Refunds;
pub use refunds::{KeptRefund, RefundProgress};
use registry::Registry;
use replacing::Kept;
pub use round::OpenRound;
use round::RoundState;
pub use signals::SignedSignal;
use unexplained::Unexplained;
pub use unexplained::UnexplainedSignal;

/// Seconds between two attempts to send an unconfirmed signal again.
const REBROADCAST_SECONDS: u64 = 60;

/// Numbers of rounds, and of refunds' sessions, left out by a store that was restored from an older copy: three years
/// of daily rounds.
const NUMBERS_SKIPPED: u32 = 1_000;

/// The phase of a cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not advertised yet.
    Draft,
    /// Seats are being taken.
    Open,
    /// The set is published; acknowledgements are coming in.
    Forming {
        /// When they are due.
        ack_by: UnixTime,
    },
    /// The set is frozen; rounds may open.
    Active,
    /// Over.
    Ended(EndCause),
}

/// A member before the set is closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Applicant {
    key: NostrKey,
    payee: Option<ScriptBuf>,
}

/// The aggregator of one cohort.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregator {
    terms: Terms,
    cohort: CohortId,
    phase: Phase,
    gate: Gate,
    /// Where refunds to the aggregator go.
    payee: Option<ScriptBuf>,
    /// Before the set is closed, in order of acceptance.
    applicants: Vec<Applicant>,
    #[serde(with = "crate::protocol::snapshot::agreed")]
    set: Option<(CohortSet, KeySet)>,
    acks: BTreeMap<Seat, SchnorrSignature>,
    registry: Registry,
    chain: ChainView,
    deposits: Deposits,
    last_round: u32,
    /// When the next scheduled round is due.
    next_open: Option<UnixTime>,
    pending: BTreeMap<Seat, u16>,
    round: Option<RoundState>,
    /// The last round that was signed, while its signal may have to be replaced.
    kept: Option<Kept>,
    /// Public nonces seen in recent rounds, to refuse one that is offered twice.
    seen_nonces: session::SeenNonces,
    /// Signals signed so far that are not final, oldest first.
    signed: Vec<SignedSignal>,
    signed_total: u32,
    refunds: Refunds,
    /// Where everything that was signed is, also what is final.
    watch: ConfirmationWatch,
    /// The gate permits no money.
    money_stopped: bool,
    conduct: Conduct,
    /// The cohort that was offered in the place of this one.
    offer: Option<Offer>,
    /// The highest fee of one transaction that the gate permits, once it was told.
    max_fee: Option<Amount>,
    /// Signals on the chain that were signed by a later copy of this store.
    #[serde(default)]
    unexplained: Unexplained,
    /// What members said of late.
    #[serde(default)]
    counted: Counted,
}

impl Aggregator {
    /// An aggregator for these terms, which must be valid.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            cohort: terms.cohort_id(),
            terms,
            phase: Phase::Draft,
            gate: Gate::default(),
            payee: None,
            applicants: Vec::new(),
            set: None,
            acks: BTreeMap::new(),
            registry: Registry::default(),
            chain: ChainView::default(),
            deposits: Deposits::default(),
            last_round: 0,
            next_open: None,
            pending: BTreeMap::new(),
            round: None,
            kept: None,
            seen_nonces: session::SeenNonces::default(),
            signed: Vec::new(),
            signed_total: 0,
            refunds: Refunds::default(),
            watch: ConfirmationWatch::default(),
            money_stopped: false,
            conduct: Conduct::default(),
            offer: None,
            max_fee: None,
            unexplained: Unexplained::default(),
            counted: Counted::default(),
        }
    }

    /// Handles one input at time `now`. Total: nothing from outside can make it fail.
    pub fn handle(&mut self, now: UnixTime, input: AggregatorInput) -> Step {
        // After the end only the past is served: signals still confirm, and histories are still asked for.
        if let (Phase::Ended(_), AggregatorInput::Message { message, .. }) = (&self.phase, &input)
            && !matches!(
                message,
                Message::HistoryRequest(_) | Message::SeatRequest(_) | Message::KeptProofs(_)
            )
        {
            return Step::ignored(Ignored::WrongPhase);
        }
        let said = self.said(&input);
        if let Some((seat, kind, bound)) = said
            && !self.counted.has_room(now, &self.terms, seat, kind, bound)
        {
            return Step::ignored(Ignored::OverQuota);
        }
        let kind = match &input {
            AggregatorInput::Message { message, .. } => Some(message.type_name()),
            _ => None,
        };
        let mut step = match input {
            AggregatorInput::Advertise {
                invited,
                relays,
                payee,
            } => self.advertise(invited, &relays, payee),
            AggregatorInput::Message { from, message } => self.message(now, from, message),
            AggregatorInput::Tick => Step::accepted(),
            AggregatorInput::Chain(update) => self.chain_changed(now, &update),
            AggregatorInput::Broadcast {
                txid,
                error,
                fee_too_low,
            } => self.broadcast_answer(now, txid, error, fee_too_low),
            AggregatorInput::Bump => self.bump(now),
            AggregatorInput::Close => self.close(now),
            AggregatorInput::OpenRound => match self.open_refusal() {
                None => self.open_round(now),
                Some(why) => Step::ignored(Ignored::Contradiction(why.to_string())),
            },
            AggregatorInput::Protect { outputs } => self.protect(outputs),
            AggregatorInput::Release { member, reason } => self.release(member, &reason),
            AggregatorInput::Decide(decision) => self.decide(now, decision),
            AggregatorInput::Reform {
                terms,
                relays,
                without,
                reason,
            } => self.reform(&terms, relays, &without, &reason),
            AggregatorInput::Cancel => self.cancel(),
            AggregatorInput::Restored => self.restored(),
            AggregatorInput::Money { permitted } => self.money(permitted),
            AggregatorInput::MaxFee { sat } => {
                self.max_fee = Some(Amount::from_sat(sat));
                Step::accepted()
            }
        };
        // What is not logged must not change anything: what is due is done by the next input, a tick at the latest.
        if kind.is_some_and(|kind| !step.is_logged(kind)) {
            return step;
        }
        if let Some((seat, kind, bound)) = said {
            self.counted.count(now, seat, kind, bound);
        }
        self.timers(now, &mut step.effects);
        for effect in &step.effects {
            let Effect::Report(report) = effect else {
                continue;
            };
            if let Some((set, _)) = &self.set {
                self.conduct.note(report, set);
            }
            if matches!(report, Report::SignalConfirmed { .. }) {
                self.counted.begin(now);
            }
        }
        step
    }

    /// The seat that speaks, the type of what it says, and what bounds it.
    fn said(&self, input: &AggregatorInput) -> Option<(Seat, &'static str, Bound)> {
        let AggregatorInput::Message { from, message } = input else {
            return None;
        };
        let seat = self.seat_of(from)?;
        Some((seat, message.type_name(), quota::of_member(message)))
    }

    /// When [`AggregatorInput::Tick`] must be fed at the latest, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixTime> {
        // Deadlines count inclusively: what they end is ended one second later.
        let phase = match &self.phase {
            Phase::Open => Some(self.terms.join_by.plus(1)),
            Phase::Forming { ack_by } => Some(ack_by.plus(1)),
            _ => None,
        };
        let round = self.round_in_session().map(RoundState::deadline);
        let opening = match (self.next_open, &self.phase) {
            (Some(at), Phase::Active) if self.open_refusal().is_none() => Some(at),
            _ => None,
        };
        let rebroadcast = self
            .unconfirmed()
            .map(|signal| signal.last_sent().plus(REBROADCAST_SECONDS))
            .min();
        let (index, refund) = (self.registry.deadline(), self.refund_deadline());
        let proofs = self.proofs_due();
        [phase, round, opening, rebroadcast, index, refund, proofs]
            .into_iter()
            .flatten()
            .min()
    }

    fn message(&mut self, now: UnixTime, from: NostrKey, message: Message) -> Step {
        match message {
            Message::OptIn(opt_in) => self.opt_in(now, from, opt_in),
            Message::CohortAck(ack) => self.cohort_ack(now, from, &ack),
            Message::Leave(leave) => self.leave(from, leave),
            Message::Register(register) => self.register(now, from, register),
            Message::IndexOpening(opening) => self.index_opening(from, opening),
            Message::RoundRequest(request) => self.round_request(from, request),
            Message::UpdateDeposit(deposit) => self.deposit(now, from, &deposit),
            Message::Response(response) => self.response(now, from, response),
            Message::NonceUpdate(update) => self.nonce_update(now, from, &update),
            Message::PartialSignature(partials) => self.partials(now, from, partials),
            Message::FallbackSignature(signature) => self.fallback_signature(now, from, signature),
            Message::RefundNonces(nonces) => self.refund_nonces(now, from, &nonces),
            Message::RefundPartial(partial) => self.refund_partial(now, from, partial),
            // Anybody, about any index: whoever controls a DID that lists the beacon needs its proofs for
            // ever, also without a seat. The driver bounds how many it answers.
            Message::HistoryRequest(request) => {
                Step::with(vec![Effect::AnswerHistory { to: from, request }])
            }
            Message::SeatRequest(_) => self.seat_request(from),
            Message::KeptProofs(kept) => self.kept_proofs(&from, kept),
            Message::Refused(refused) => self.member_refused(from, &refused),
            _ => Step::ignored(Ignored::WrongRole),
        }
    }

    /// Everything that becomes due by itself, after every input.
    fn timers(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        self.formation_timer(now, effects);
        self.registry_timer(now, effects);
        self.round_timer(now, effects);
        self.opening_timer(now, effects);
        self.replacement_timer(now, effects);
        self.rebroadcast_timer(now, effects);
        self.refund_timer(now, effects);
        self.proofs_timer(now, effects);
    }

    fn chain_changed(&mut self, now: UnixTime, update: &ChainUpdate) -> Step {
        let before = (self.chain.tip, self.chain.ready_tip(self.terms.depth));
        self.chain.apply(update);
        let mut effects = Vec::new();
        let ready = self.chain.ready_tip(self.terms.depth);
        if (self.chain.tip, ready) != before {
            effects.push(Effect::Report(tip_report(&self.chain.tip, ready.is_some())));
        }
        for signal in &mut self.signed {
            effects.extend(signal.look(&self.chain).into_iter().map(Effect::Report));
        }
        effects.extend(self.watch_signals(update));
        self.note_unexplained(update.signals.iter().map(|(txid, _)| *txid).collect());
        effects.extend(self.tip_moved());
        effects.extend(self.replacement_after_chain());
        self.refunds_after_chain();
        // What is final, or can never confirm any more, needs no watching.
        let chain = &self.chain;
        let dead = self.signed.iter();
        let dead = dead.filter(|signal| self.is_dead(signal, FINAL_DEPTH));
        let dead: BTreeSet<Txid> = dead.map(SignedSignal::txid).collect();
        self.signed.retain(|signal| {
            let is_final = signal
                .confirmed_at()
                .is_some_and(|height| chain.confirmations(height) >= FINAL_DEPTH);
            !is_final && !dead.contains(&signal.txid())
        });
        effects.extend(self.bump_stuck(now));
        Step::with(effects)
    }

    /// Whether no transaction of a signal can confirm any more.
    fn is_dead(&self, signal: &SignedSignal, depth: u32) -> bool {
        signal.is_dead(&self.chain, depth, &self.signed)
    }

    /// Ends the round when the output its transaction spends is not the tip any more: no member would sign
    /// it, and the deadline may be days away.
    fn tip_moved(&mut self) -> Vec<Effect> {
        if self.fallback_is_stranded() {
            return self.fail_round(RoundCause::TipMoved);
        }
        let Some(built) = self.round.as_ref().and_then(|round| round.built.as_ref()) else {
            return Vec::new();
        };
        let stays = match self.chain.tip {
            TipView::Ready { outpoint, .. } => outpoint == built.ladder.tip(),
            // Whoever broadcasts first: the round's own transaction is on its way.
            TipView::InFlight { by } => built.ladder.txids().contains(&by),
            TipView::NoFunds | TipView::Unconfirmed { .. } => false,
        };
        if stays {
            return Vec::new();
        }
        self.fail_round(RoundCause::TipMoved)
    }

    fn unconfirmed(&self) -> impl Iterator<Item = &SignedSignal> {
        self.signed
            .iter()
            .filter(|signal| signal.confirmed_at().is_none())
    }

    fn rebroadcast_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        for signal in &mut self.signed {
            effects.extend(signal.repeat(now, &self.chain));
        }
    }

    fn cancel(&mut self) -> Step {
        if matches!(self.phase, Phase::Ended(_)) {
            return Step::ignored(Ignored::WrongPhase);
        }
        // From the first partial signature on, a signal may come out of the round whatever is said now.
        if self.round.as_ref().is_some_and(RoundState::has_partials) {
            return Step::ignored(Ignored::TooLate);
        }
        Step::with(self.end(EndCause::Cancelled))
    }

    /// Gives up the open round, or what would replace the last signal, and the open refund: each may have been signed
    /// after the copy was made. And leaves out the numbers that rounds and refunds may have had since: members ignore
    /// what has a number that they have seen. Attempts count within those, so that they begin anew with them.
    fn restored(&mut self) -> Step {
        self.last_round = self.last_round.saturating_add(NUMBERS_SKIPPED);
        self.refunds_restored(NUMBERS_SKIPPED);
        let mut effects = self.fail_round(RoundCause::Operator);
        self.kept = None;
        let all = self.chain.signals.keys().copied().collect();
        self.note_unexplained(all);
        effects.extend(self.repeat_formation());
        Step::with(effects)
    }

    /// Ends the cohort and tells everybody why.
    fn end(&mut self, why: EndCause) -> Vec<Effect> {
        let ended = Message::Ended(Ended { why: why.clone() });
        let mut effects = Vec::new();
        if self.set.is_some() {
            effects.push(Effect::Send {
                to: To::Channel,
                message: ended.clone(),
            });
        }
        // Before the set is closed nobody has the channel.
        if self.acks.is_empty() && !matches!(self.phase, Phase::Active) {
            effects.extend(self.member_keys().into_iter().map(|key| Effect::Send {
                to: To::Key(key),
                message: ended.clone(),
            }));
        }
        effects.extend(self.turn_away());
        effects.extend(self.advert(AdvertStatus::Closed));
        effects.push(Effect::Report(Report::Ended { why: why.clone() }));
        self.round = None;
        self.kept = None;
        self.phase = Phase::Ended(why);
        effects
    }

    fn member_refused(&self, from: NostrKey, refused: &Refused) -> Step {
        if self.seat_of(&from).is_none() {
            return Step::ignored(Ignored::NotAMember);
        }
        Step::with(vec![Effect::Report(Report::RequestRefused {
            member: from,
            code: refused.code,
        })])
    }

    fn member_keys(&self) -> Vec<NostrKey> {
        match &self.set {
            Some((set, _)) => set.keys.clone(),
            None => self.applicants.iter().map(|member| member.key).collect(),
        }
    }

    fn seat_of(&self, key: &NostrKey) -> Option<Seat> {
        self.set.as_ref().and_then(|(set, _)| set.seat_of(key))
    }

    fn key_of(&self, seat: Seat) -> Option<NostrKey> {
        self.set.as_ref().and_then(|(set, _)| set.key_of(seat))
    }

    /// The cohort's id.
    #[must_use]
    pub const fn cohort(&self) -> CohortId {
        self.cohort
    }

    /// The terms.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The set and its keys, once the seats are closed.
    #[must_use]
    pub fn set(&self) -> Option<(&CohortSet, &KeySet)> {
        self.set.as_ref().map(|(set, keys)| (set, keys))
    }

    /// Members seated so far, in seat order.
    #[must_use]
    pub fn members(&self) -> Vec<NostrKey> {
        self.member_keys()
    }

    /// Seats that acknowledged the set.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.acks.len()
    }

    /// What is known of the chain.
    #[must_use]
    pub const fn chain(&self) -> &ChainView {
        &self.chain
    }

    /// The open round, if any: its number, its responses and its partial signatures so far.
    #[must_use]
    pub fn open_round_progress(&self) -> Option<(Round, usize, usize)> {
        self.round
            .as_ref()
            .map(|round| (round.round, round.responses(), round.partials()))
    }

    /// Seats the open round waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<Seat> {
        match (&self.phase, self.round_in_session()) {
            (Phase::Forming { .. }, _) => (0..self.member_count())
                .map(Seat)
                .filter(|seat| !self.acks.contains_key(seat))
                .collect(),
            (_, Some(round)) => round.waiting_for(),
            _ => Vec::new(),
        }
    }

    /// The number of the last round that was opened, 0 if none was.
    #[must_use]
    pub const fn last_round(&self) -> u32 {
        self.last_round
    }

    /// Signals signed so far.
    #[must_use]
    pub const fn signals_signed(&self) -> u32 {
        self.signed_total
    }

    /// Signals that are signed and not final yet.
    #[must_use]
    pub fn unsettled(&self) -> &[SignedSignal] {
        &self.signed
    }

    /// Whether a seat acknowledged the set.
    #[must_use]
    pub fn has_acknowledged(&self, seat: Seat) -> bool {
        self.acks.contains_key(&seat)
    }

    /// Indexes a seat has registered.
    #[must_use]
    pub fn registered_by(&self, seat: Seat) -> usize {
        self.registry.count(seat)
    }

    /// When the next scheduled round is due, if rounds open by schedule.
    #[must_use]
    pub const fn next_opening(&self) -> Option<UnixTime> {
        self.next_open
    }

    /// Deposited updates that were verified and wait to be announced.
    #[must_use]
    pub fn deposits_waiting(&self) -> usize {
        self.deposits.waiting()
    }

    /// Indexes registered.
    #[must_use]
    pub fn registered(&self) -> usize {
        self.registry.len()
    }

    fn member_count(&self) -> u16 {
        self.set
            .as_ref()
            .and_then(|(set, _)| u16::try_from(set.keys.len()).ok())
            .unwrap_or(0)
    }
}

fn refuse(to: NostrKey, of: &str, code: RefusalCode, round: Option<Round>) -> Step {
    let message = Message::Refused(Refused {
        of: of.to_owned(),
        code,
        round,
    });
    Step {
        outcome: super::effect::Outcome::Ignored(Ignored::Refused(code)),
        effects: vec![Effect::Send {
            to: To::Key(to),
            message,
        }],
    }
}

/// How a tip is reported.
pub(super) const fn tip_report(tip: &TipView, ready: bool) -> Report {
    let value_sat = match tip {
        TipView::Ready { value_sat, .. } | TipView::Unconfirmed { value_sat } => *value_sat,
        TipView::NoFunds | TipView::InFlight { .. } => 0,
    };
    Report::TipChanged { value_sat, ready }
}
