//! A participant's side of one cohort, as a pure state machine.
//!
//! It believes nothing that it can check: the set, the tip, the transaction and the 32 bytes are
//! recomputed from what it knows itself (rules 2, 3, 4, 10 and 13 of DESIGN §6).

mod checks;
mod coverage;
mod deposits;
mod export;
mod fallback;
mod formation;
mod history;
mod input;
mod policy;
mod reforming;
mod refunds;
mod replacing;
mod reseating;
mod round;
mod session;
mod showing;
mod watch;

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::admission::Ticket;
use super::chain_view::{ChainUpdate, ChainView};
use super::conduct::Conduct;
use super::confirmation::ConfirmationWatch;
use super::effect::{Effect, Ignored, Report, Step, To};
use super::evidence::Sighash;
use super::ids::{Round, Seat, Subject};
use super::message::{EndCause, HistoryItem, Message, Refused, RoundOpen};
use super::quota::{self, Counted, THE_AGGREGATOR};
use super::reform::Offer;
use super::set::CohortSet;
use super::terms::Terms;
use crate::beacon::signal::BeaconOutput;
use crate::hash::{CohortId, SignalBytes, SmtIndex};
use crate::keys::NostrKey;
use crate::keys::musig::KeySet;
use crate::time::UnixTime;

use coverage::MyIndex;
pub use coverage::{BindingState, IndexState};
pub use deposits::DepositState;
use deposits::MyDeposit;
use fallback::Fallbacks;
use history::Asked;
pub use history::Recalled;
pub use input::{ParticipantInput, SignedSession};
pub use policy::{Decline, SigningPolicy};
use refunds::MyRefunds;
pub use reseating::Regained;
use reseating::Reseat;
use round::MyRound;
pub use round::OwnRound;

/// The phase of a membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberPhase {
    /// Nothing was sent.
    New,
    /// The opt-in is out.
    Asked,
    /// The opt-in was refused.
    Refused(super::message::RefusalCode),
    /// A seat is held; the set is not known.
    Seated(Seat),
    /// The set was checked and acknowledged.
    Acknowledged,
    /// All acknowledged: rounds may open.
    Active,
    /// The seat was released.
    Released,
    /// Over.
    Ended(EndCause),
}

/// A transaction this member gave partial signatures for: one rung of a round's signal. It counts as one that may
/// confirm until another transaction that spends the same output has (rule 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GivenPartial {
    /// The round.
    pub round: Round,
    /// The 32 bytes.
    pub signal: SignalBytes,
    /// Its place in the round, lowest fee first, from 1.
    pub rung: u8,
    /// The transaction's id.
    pub txid: Txid,
    /// The tip it spends.
    pub input: OutPoint,
    /// Everything it spends: the tip, then top-ups.
    pub inputs: Vec<BeaconOutput>,
    /// What was signed, input by input.
    pub sighashes: Vec<Sighash>,
    /// What it pays to the miner.
    pub fee: Amount,
    /// The unsigned transaction.
    pub tx: Transaction,
    /// The refund of its change, which was signed with it.
    pub refund: Option<Txid>,
    /// The transaction with all signatures, once the aggregator sent it.
    #[serde(with = "crate::protocol::snapshot::maybe_tx")]
    pub signed: Option<Transaction>,
    opened: UnixTime,
    confirmed: Option<u32>,
}

/// A member of one cohort.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Participant {
    terms: Terms,
    cohort: CohortId,
    me: NostrKey,
    policy: SigningPolicy,
    policy_is_stated: bool,
    phase: MemberPhase,
    payee: Option<ScriptBuf>,
    ticket: Option<Ticket>,
    /// Until when the operator can decide about the seat, if it has to.
    decision_until: Option<UnixTime>,
    #[serde(with = "crate::protocol::snapshot::agreed")]
    set: Option<(CohortSet, KeySet)>,
    script: ScriptBuf,
    chain: ChainView,
    indexes: BTreeMap<SmtIndex, MyIndex>,
    /// The latest deposit of each index.
    deposits: BTreeMap<SmtIndex, MyDeposit>,
    last_round: u32,
    /// An opening that came before what it depends on.
    early: Option<RoundOpen>,
    /// The frozen set, told before the set itself: to a store that lost what it was told of it.
    #[serde(default)]
    early_frozen: Option<super::message::Frozen>,
    round: Option<MyRound>,
    /// The round that was signed last, while its signal may have to be replaced. There is none beside an open one.
    kept: Option<MyRound>,
    /// In the order of signing, without what is settled.
    given: Vec<GivenPartial>,
    /// Signals on the chain that some index has no proof of; also others, until they are looked at.
    unproved: BTreeMap<Txid, SignalBytes>,
    /// Indexes whose history was asked for and has not come, with the first round asked for.
    asked: BTreeMap<SmtIndex, Asked>,
    /// Items of an answer that wait for what the driver remembers of their rounds.
    recalling: BTreeMap<SmtIndex, Vec<HistoryItem>>,
    /// The time of the input that is handled.
    now: UnixTime,
    fallbacks: Fallbacks,
    refunds: MyRefunds,
    /// Where everything this member signed is.
    watch: ConfirmationWatch,
    conduct: Conduct,
    /// The cohort that the aggregator offered in the place of this one.
    offer: Option<Offer>,
    /// The store was made again out of the words alone.
    reseat: Option<Reseat>,
    /// What the aggregator said of late.
    #[serde(default)]
    counted: Counted,
}

impl Participant {
    /// A member-to-be with the key `me`, under valid terms.
    #[must_use]
    pub fn new(terms: Terms, me: NostrKey, policy: SigningPolicy) -> Self {
        Self {
            cohort: terms.cohort_id(),
            terms,
            me,
            policy,
            policy_is_stated: false,
            phase: MemberPhase::New,
            payee: None,
            ticket: None,
            decision_until: None,
            set: None,
            script: ScriptBuf::new(),
            chain: ChainView::default(),
            indexes: BTreeMap::new(),
            deposits: BTreeMap::new(),
            last_round: 0,
            early: None,
            early_frozen: None,
            round: None,
            kept: None,
            given: Vec::new(),
            unproved: BTreeMap::new(),
            asked: BTreeMap::new(),
            recalling: BTreeMap::new(),
            now: UnixTime(0),
            fallbacks: Fallbacks::default(),
            refunds: MyRefunds::default(),
            watch: ConfirmationWatch::default(),
            conduct: Conduct::default(),
            offer: None,
            reseat: None,
            counted: Counted::default(),
        }
    }

    /// When [`ParticipantInput::Tick`] is due, if anything waits: a history to be asked for again, or a response that
    /// goes without a verdict on a deposit.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixTime> {
        let alarm = self.fallbacks.alarm_due();
        let reseat = self.reseat_due();
        let due = [self.history_due(), self.response_due(), alarm, reseat];
        due.into_iter().flatten().min()
    }

    fn tick(&mut self, now: UnixTime) -> Step {
        let mut step = self.history_timer();
        step.effects.extend(self.try_respond(now));
        // A tick that does nothing is not logged, so it must not change anything.
        if self.fallbacks.alarm_due().is_some_and(|at| now >= at) {
            step.effects.extend(self.unknown_spends());
        }
        step.effects.extend(self.ask_for_seat());
        step
    }

    /// Handles one input at time `now`. Total: nothing from outside can make it fail.
    pub fn handle(&mut self, now: UnixTime, input: ParticipantInput) -> Step {
        if let ParticipantInput::Message { from, .. } = &input
            && *from != self.terms.aggregator
        {
            return Step::ignored(Ignored::NotTheAggregator);
        }
        let said = match &input {
            ParticipantInput::Message { message, .. } => {
                Some((message.type_name(), quota::of_aggregator(message)))
            }
            _ => None,
        };
        if let Some((kind, bound)) = said {
            let counted = &self.counted;
            if !counted.has_room(now, &self.terms, THE_AGGREGATOR, kind, bound) {
                return Step::ignored(Ignored::OverQuota);
            }
        }
        self.now = now;
        let step = self.take(now, input);
        if let Some((kind, bound)) = said.filter(|(kind, _)| step.is_logged(kind)) {
            self.counted.count(now, THE_AGGREGATOR, kind, bound);
        }
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

    fn take(&mut self, now: UnixTime, input: ParticipantInput) -> Step {
        match input {
            ParticipantInput::Join { payee } => self.join(payee),
            ParticipantInput::Ticket(ticket) => self.take_ticket(ticket),
            ParticipantInput::Message { message, .. } => self.message(now, message),
            ParticipantInput::Tick => self.tick(now),
            ParticipantInput::Chain(update) => self.chain_changed(&update),
            ParticipantInput::Broadcast { txid, error } => self.broadcast_answer(txid, error),
            ParticipantInput::Prepared(prepared) => match prepared.session.subject {
                Subject::Round(_) => self.prepared(now, prepared),
                Subject::Deposit(number) => self.refund_prepared(number, prepared),
            },
            ParticipantInput::Signed(signed) => match signed.session.subject {
                Subject::Round(_) => self.signed(signed),
                Subject::Deposit(number) => self.refund_signed(number, signed),
            },
            ParticipantInput::SignFailed { session } => match session.subject {
                Subject::Round(_) => self.sign_failed(session),
                Subject::Deposit(number) => self.refund_sign_failed(number, session.attempt),
            },
            ParticipantInput::Register { items } => self.register(items),
            ParticipantInput::Open { index, opening } => self.open_index(index, opening),
            ParticipantInput::Bound { index } => self.bound(index),
            ParticipantInput::Deposit(deposit) => self.deposit(*deposit),
            ParticipantInput::Queue { index, update } => match self.undeposited(&index, update) {
                Some(why) => Step::ignored(Ignored::Contradiction(why.into())),
                None => {
                    self.forget_refused(&index, update);
                    self.queue(index, update)
                }
            },
            ParticipantInput::Withdraw { index } => self.withdraw(index),
            ParticipantInput::Leave { even_if_frozen } => self.leave(even_if_frozen),
            ParticipantInput::Recalled(recalled) => self.recalled(&recalled),
            ParticipantInput::Lost { index, signals } => self.lost(index, &signals),
            ParticipantInput::Fetch { index } => self.fetch(index),
            ParticipantInput::FallbackSigned { round, signatures } => {
                self.fallback_signed(round, signatures)
            }
            ParticipantInput::Policy(policy) => self.follow_policy(policy),
            ParticipantInput::Restarted => {
                let mut step = self.restarted();
                step.effects.extend(self.challenges_restarted());
                step.effects.extend(self.recalls_restarted());
                step.effects.extend(self.refunds_restarted());
                step.effects.extend(self.fallback_restarted());
                step
            }
            ParticipantInput::Recovered => {
                self.refunds_recovered();
                self.fallback_recovered();
                self.recovered()
            }
            ParticipantInput::Reseat { payee } => self.begin_reseat(payee),
            ParticipantInput::Regained { items } => self.regained(now, items),
        }
    }

    fn message(&mut self, now: UnixTime, message: Message) -> Step {
        if self.is_of_lost_store(&message) {
            return Step::ignored(Ignored::WrongRound);
        }
        match message {
            Message::Accept(accept) => self.accepted(accept.seat),
            Message::Waiting(waiting) => self.waits(waiting.until),
            Message::Rejected(rejected) => self.rejected(&rejected.reason),
            Message::Refused(refused) => self.refused(now, &refused),
            Message::Deposited(deposited) => self.deposited(now, deposited),
            Message::CohortSet(set) => self.cohort_set(set),
            Message::Frozen(frozen) => self.frozen(now, &frozen),
            Message::Registered(registered) => self.registered(now, registered),
            Message::IndexChallenge(challenge) => self.challenged(challenge.index),
            Message::RoundOpen(open) => self.round_open(now, open),
            Message::NonceRequest(request) => self.nonce_request(&request),
            Message::SignRequest(request) => self.sign_request(request),
            Message::Proofs(proofs) => self.proofs(proofs),
            Message::FallbackRequest(request) => self.fallback_request(now, request),
            Message::RefundOpen(open) => self.refund_open(&open),
            Message::RefundRequest(request) => self.refund_request(&request),
            Message::RefundComplete(complete) => self.refund_complete(&complete),
            Message::RoundResult(result) => self.round_result(now, result),
            Message::RoundFailed(failed) => self.round_failed(failed),
            Message::History(history) => self.history(history),
            Message::ProofRequest(request) => self.show_proofs(&request),
            Message::SeatState(state) => self.seat_state(now, state),
            Message::Reform(reform) => self.reform(reform),
            Message::Release(release) => self.released(release.reason),
            Message::Ended(ended) => self.ended(ended.why),
            // Hints for the driver.
            Message::Relays(_) | Message::Invite(_) => Step::accepted(),
            _ => Step::ignored(Ignored::WrongRole),
        }
    }

    fn chain_changed(&mut self, update: &ChainUpdate) -> Step {
        let before = (self.chain.tip, self.chain.ready_tip(self.terms.depth));
        self.chain.apply(update);
        self.note_signals(update);
        let mut effects = Vec::new();
        let ready = self.chain.ready_tip(self.terms.depth);
        if (self.chain.tip, ready) != before {
            let report = super::aggregator::tip_report(&self.chain.tip, ready.is_some());
            effects.push(Effect::Report(report));
        }
        effects.extend(self.adopt_seen());
        // Another rung may have taken the place of one that was confirmed: what is so comes last.
        let mut confirmed = Vec::new();
        for given in &mut self.given {
            let seen = self.chain.signals.get(&given.txid);
            let height = seen.and_then(|seen| seen.height);
            let (round, txid) = (given.round, given.txid);
            match (given.confirmed, height) {
                (None, Some(height)) => confirmed.push(Effect::Report(Report::SignalConfirmed {
                    round,
                    txid,
                    height,
                })),
                (Some(_), None) => {
                    effects.push(Effect::Report(Report::SignalReorganised { round, txid }));
                }
                _ => {}
            }
            given.confirmed = height;
        }
        effects.extend(confirmed);
        effects.extend(self.watch_signals(update));
        self.forget_kept();
        self.forget_responded();
        effects.extend(self.after_facts());
        Step::with(effects)
    }

    /// What may have become possible through new facts.
    fn after_facts(&mut self) -> Vec<Effect> {
        self.forget_explained();
        self.forget_asked();
        let mut effects = self.ask_for_history();
        effects.extend(self.after_proofs());
        effects
    }

    /// What a proof, or any other fact, may allow now.
    fn after_proofs(&mut self) -> Vec<Effect> {
        let mut effects = self.give_back();
        effects.extend(self.binding_reports());
        effects.extend(self.try_sign());
        effects.extend(self.try_fallback());
        effects
    }

    /// Partial signatures given for signals that may still confirm: no other spend of the same output has
    /// `depth` confirmations.
    fn live(&self, depth: u32) -> impl Iterator<Item = &GivenPartial> {
        self.given
            .iter()
            .filter(move |given| given.confirmed.is_none() && !self.is_dead(given, depth))
    }

    /// Whether something this member signed can never confirm, with `depth` confirmations of what is in its place.
    #[must_use]
    pub fn is_dead(&self, given: &GivenPartial, depth: u32) -> bool {
        let input_of = |txid: &Txid| {
            let mut signed = self.given.iter();
            signed
                .find(|given| given.txid == *txid)
                .map(|given| given.input)
        };
        self.chain.is_dead(&given.txid, &given.input, depth)
            || self.chain.is_impossible(&given.input, depth, input_of)
    }

    fn refused(&mut self, now: UnixTime, refused: &Refused) -> Step {
        use super::message::RefusalCode as Code;
        if refused.of == "history_request" && refused.code == Code::TooMany {
            return self.asked_too_often();
        }
        if refused.of == "opt_in"
            && self.phase == MemberPhase::Asked
            && refused.code != Code::AlreadyAsked
        {
            self.phase = MemberPhase::Refused(refused.code);
        }
        let mut effects = vec![Effect::Report(Report::MyRequestRefused {
            of: refused.of.chars().take(32).collect(),
            code: refused.code,
        })];
        effects.extend(self.response_refused(now, refused));
        Step::with(effects)
    }

    fn send(&self, message: Message) -> Effect {
        Effect::Send {
            to: To::Key(self.terms.aggregator),
            message,
        }
    }

    fn seat(&self) -> Option<Seat> {
        self.set.as_ref().and_then(|(set, _)| set.seat_of(&self.me))
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

    /// The seat's key.
    #[must_use]
    pub const fn me(&self) -> NostrKey {
        self.me
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> &MemberPhase {
        &self.phase
    }

    /// The set and its keys, once checked.
    #[must_use]
    pub fn set(&self) -> Option<(&CohortSet, &KeySet)> {
        self.set.as_ref().map(|(set, keys)| (set, keys))
    }

    /// What is known of the chain.
    #[must_use]
    pub const fn chain(&self) -> &ChainView {
        &self.chain
    }

    /// Until when the operator can decide about the seat that was asked for, if it has to.
    #[must_use]
    pub fn awaits_decision(&self) -> Option<UnixTime> {
        self.decision_until
            .filter(|_| self.phase == MemberPhase::Asked)
    }

    /// The seat this member holds: its final one once the set is known, before that the one it was given.
    #[must_use]
    pub fn my_seat(&self) -> Option<Seat> {
        self.seat().or(match self.phase {
            MemberPhase::Seated(seat) => Some(seat),
            _ => None,
        })
    }

    /// The open round and whether this member has responded and signed.
    #[must_use]
    pub fn open_round(&self) -> Option<(Round, bool, bool)> {
        self.round
            .as_ref()
            .map(|round| (round.round, round.responded, !round.sent.is_empty()))
    }

    /// Signals this member signed that are not on the chain and may still get there, each with the transaction
    /// that is most likely to carry it.
    pub fn live_signals(&self) -> impl Iterator<Item = (SignalBytes, Txid)> + '_ {
        self.live(super::aggregator::FINAL_DEPTH)
            .filter(|given| self.is_leading(given))
            .map(|given| (given.signal, given.txid))
    }

    /// Whether this is the transaction of its round to expect: the one in a block, else the one the chain has, else
    /// the highest one that the aggregator sent, or before it sent any the lowest.
    #[must_use]
    pub fn is_leading(&self, given: &GivenPartial) -> bool {
        let near = |given: &GivenPartial| {
            let sent = given.signed.is_some();
            let by_fee = if sent {
                given.rung
            } else {
                u8::MAX.saturating_sub(given.rung)
            };
            let seen = self.chain.signals.contains_key(&given.txid);
            (given.confirmed.is_some(), seen, sent, by_fee)
        };
        let rungs = self.given.iter().filter(|other| other.round == given.round);
        rungs.map(near).max() == Some(near(given))
    }

    /// The partial signatures given, oldest first, but for those of rounds that are settled.
    #[must_use]
    pub fn given(&self) -> &[GivenPartial] {
        &self.given
    }
}
