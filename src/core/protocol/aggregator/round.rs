//! Rounds: opening, responses, and the signal that comes out of them (DESIGN §5 "Round").

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hashes::Hash as _;
use bitcoin::{FeeRate, ScriptBuf, Txid};

use super::deposits::{self, Accepted, Unshown};
use super::fallback::Fallback;
use super::session::Session;
use super::{Aggregator, refuse};
use crate::beacon::address::beacon_script;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::signal::signed_weight;
use crate::beacon::smt::{EMPTY_LEAF, SmtTree};
use crate::did::Did;
use crate::hash::{LeafValue, SmtIndex, UpdateHash};
use crate::keys::NostrKey;
use crate::protocol::effect::{Artifact, Effect, Ignored, Report, Step, To};
use crate::protocol::evidence::{Blame, Signed};
use crate::protocol::ids::{Label, Round, Seat};
use crate::protocol::ladder::{self, Ground, Ladder};
use crate::protocol::message::{
    Entries, IndexProof, LostSession, Message, Nonces, Proofs, RefusalCode, Response, RoundCause,
    RoundFailed, RoundResult,
};
use crate::protocol::terms::{CohortBeacon, EmptyRounds};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Fee rate in sat/vB when the chain backend has no estimate.
const FALLBACK_FEE_RATE: u32 = 2;

/// What a seat's entries say, checked against its indexes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Entered {
    pub(super) leaves: Vec<(SmtIndex, LeafValue)>,
    pub(super) updates: Vec<(Did, UpdateHash)>,
    /// Which of them were deposited and verified.
    deposited: Vec<(SmtIndex, Accepted)>,
    pub(super) idle: bool,
}

/// The signal of a round, fixed once: every session of the round signs the same transactions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Built {
    pub(super) ladder: Ladder,
    /// The script of every output that is spent.
    pub(super) script: ScriptBuf,
    pub(super) announcement: Option<String>,
}

/// The open round.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RoundState {
    pub(super) round: Round,
    pub(super) opened: UnixTime,
    pub(super) respond_by: UnixTime,
    pub(super) indexes: BTreeMap<Seat, BTreeMap<SmtIndex, Option<Did>>>,
    pub(super) members: u16,
    /// How many inputs the signal may have.
    pub(super) inputs: u8,
    /// What every member offers a nonce for; a session signs those of them that its transactions have.
    pub(super) labels: Vec<Label>,
    pub(super) responses: BTreeMap<Seat, Entered>,
    /// Nonces each seat offered, by attempt.
    pub(super) nonces: BTreeMap<u32, BTreeMap<Seat, Nonces>>,
    pub(super) built: Option<Built>,
    pub(super) session: Option<Session>,
    /// Sessions that a member could not sign, at most one entry each.
    pub(super) lost: Vec<LostSession>,
    /// The way out, once the round has stalled and the terms have one.
    pub(super) fallback: Option<Box<Fallback>>,
    pub(super) blamed: Vec<Blame>,
}

impl Built {
    /// The id that names its signal in proofs until one of its transactions has confirmed: the first rung's.
    fn txid(&self) -> Txid {
        let txids = self.ladder.txids();
        txids.first().copied().unwrap_or_else(Txid::all_zeros)
    }
}

impl RoundState {
    pub(super) const fn deadline(&self) -> UnixTime {
        // Deadlines count inclusively: the timer acts one second later.
        match (&self.fallback, &self.session) {
            (Some(fallback), _) => fallback.until().plus(1),
            (None, Some(session)) => session.until.plus(1),
            (None, None) => self.respond_by.plus(1),
        }
    }

    pub(super) fn has_partials(&self) -> bool {
        let fallback = self.fallback.as_ref();
        self.session.as_ref().is_some_and(|s| s.ever_partial)
            || fallback.is_some_and(|fallback| fallback.signed().next().is_some())
    }

    pub(super) fn responses(&self) -> usize {
        self.responses.len()
    }

    pub(super) fn partials(&self) -> usize {
        self.session.as_ref().map_or(0, |s| s.partials.len())
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = Seat> + use<> {
        (0..self.members).map(Seat)
    }

    /// The deposits that its signal announces.
    pub(super) fn deposited(&self) -> Vec<(SmtIndex, Accepted)> {
        let entered = self.responses.values();
        entered
            .flat_map(|entered| entered.deposited.clone())
            .collect()
    }

    /// Seats this round waits for now.
    pub(super) fn waiting_for(&self) -> Vec<Seat> {
        let in_already: BTreeSet<Seat> = match &self.session {
            _ if self.fallback.is_some() => {
                let fallback = self.fallback.iter();
                fallback.flat_map(|fallback| fallback.signed()).collect()
            }
            None => self.responses.keys().copied().collect(),
            Some(session) if session.aggregate.is_none() => self
                .nonces
                .get(&session.attempt)
                .map(|nonces| nonces.keys().copied().collect())
                .unwrap_or_default(),
            Some(session) => session.partials.keys().copied().collect(),
        };
        self.seats()
            .filter(|seat| !in_already.contains(seat))
            .collect()
    }
}

/// The open round, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRound {
    /// Its number.
    pub round: Round,
    /// When it was opened.
    pub opened: UnixTime,
    /// When the current step ends.
    pub until: UnixTime,
    /// The session: 0 while responses come in.
    pub attempt: u32,
    /// Seats that have responded.
    pub responded: BTreeSet<Seat>,
    /// Seats that have signed in the current session.
    pub signed: BTreeSet<Seat>,
    /// Members shown to have sent something invalid.
    pub blamed: Vec<NostrKey>,
}

impl Aggregator {
    /// The highest fee rate the terms allow.
    pub(super) fn fee_ceiling(&self) -> FeeRate {
        FeeRate::from_sat_per_vb(self.terms.max_fee_rate.into()).unwrap_or(FeeRate::BROADCAST_MIN)
    }

    /// The open round, if there is one.
    #[must_use]
    pub fn open_round_now(&self) -> Option<OpenRound> {
        let state = self.round_in_session()?;
        let session = state.session.as_ref();
        Some(OpenRound {
            round: state.round,
            opened: state.opened,
            until: state.fallback.as_ref().map_or_else(
                || session.map_or(state.respond_by, |session| session.until),
                |fallback| fallback.until(),
            ),
            attempt: session.map_or(0, |session| session.attempt),
            responded: state.responses.keys().copied().collect(),
            signed: match (&state.fallback, session) {
                (Some(fallback), _) => fallback.signed().collect(),
                (None, Some(session)) => session.partials.keys().copied().collect(),
                (None, None) => BTreeSet::new(),
            },
            blamed: state.blamed.iter().map(|blame| blame.member).collect(),
        })
    }

    /// Whether the open session waits for nonces, not for signatures.
    #[must_use]
    pub fn wants_nonces(&self) -> bool {
        self.round_in_session().is_some_and(|state| {
            let session = state.session.as_ref();
            state.fallback.is_none() && session.is_some_and(|session| session.aggregate.is_none())
        })
    }

    /// The fee rate of the next signal: the backend's estimate within the terms.
    #[must_use]
    pub fn fee_rate(&self) -> FeeRate {
        let rate = self
            .chain
            .fee_rate
            .unwrap_or(FALLBACK_FEE_RATE)
            .clamp(1, self.terms.max_fee_rate);
        FeeRate::from_sat_per_vb(rate.into()).unwrap_or(FeeRate::BROADCAST_MIN)
    }

    pub(super) fn response(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        signed: Signed<Response>,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !signed.verifies(&self.cohort, from) {
            return Step::ignored(Ignored::BadEvidence);
        }
        let refused = |code| refuse(from, "response", code, Some(signed.content.round));
        let Some(state) = &self.round else {
            return refused(RefusalCode::NoSuchRound);
        };
        if state.round != signed.content.round {
            return refused(RefusalCode::NoSuchRound);
        }
        if state.responses.contains_key(&seat) || state.session.is_some() {
            return Step::ignored(Ignored::Duplicate);
        }
        if now > state.respond_by {
            return Step::ignored(Ignored::TooLate);
        }
        let expected = state.indexes.get(&seat);
        let entries = &signed.content.entries;
        let mut entered = match check_entries(self.terms.beacon, expected, entries) {
            Ok(entered) => entered,
            Err(code) => return refused(code),
        };
        match self.check_deposits(seat, entries) {
            Ok(deposited) => entered.deposited = deposited,
            Err(Unshown { code, items }) => {
                // First why, index by index: the member answers the refusal itself.
                let mut step = refused(code);
                if !items.is_empty() {
                    step.effects.insert(0, deposits::tell(from, items));
                }
                return step;
            }
        }
        let nonces = signed.content.nonces.clone();
        if !nonces.keys().eq(&state.labels) {
            return refused(RefusalCode::Malformed);
        }
        if !self.seen_nonces.insert_new(&nonces) {
            return refused(RefusalCode::NonceReused);
        }
        let Some(state) = &mut self.round else {
            return refused(RefusalCode::NoSuchRound);
        };
        state.nonces.entry(1).or_default().insert(seat, nonces);
        state.responses.insert(seat, entered);
        let round = state.round;
        let responses = state.responses.len();
        let complete = responses == usize::from(state.members);
        let mut effects = vec![Effect::Report(Report::ResponseReceived {
            round,
            seat,
            responses: u16::try_from(responses).unwrap_or(u16::MAX),
        })];
        if complete {
            effects.extend(self.all_responded(now));
        }
        Step::with(effects)
    }

    fn all_responded(&mut self, now: UnixTime) -> Vec<Effect> {
        let Some(state) = &self.round else {
            return Vec::new();
        };
        let round = state.round;
        let all_idle = state.responses.values().all(|entered| entered.idle);
        if all_idle && self.terms.empty_rounds == EmptyRounds::Skip {
            self.round = None;
            return vec![
                Effect::Send {
                    to: To::Channel,
                    message: Message::RoundResult(RoundResult { round, tx: None }),
                },
                Effect::Report(Report::RoundEmpty { round }),
            ];
        }
        match self.build() {
            Ok((built, proofs, artifact)) => {
                let fixed = built.ladder.rungs.first().map(|rung| {
                    Effect::Report(Report::SignalFixed {
                        round,
                        attempt: 1,
                        signal: built.ladder.signal,
                        txid: rung.txid,
                        fee_sat: rung.fee.to_sat(),
                    })
                });
                let mut effects = vec![
                    // Durable before anybody signs: whoever asks for this round's history gets it.
                    Effect::Save(artifact),
                ];
                effects.extend(fixed);
                if !proofs.is_empty() {
                    effects.push(Effect::SendParts(proofs));
                }
                if let Some(state) = &mut self.round {
                    state.built = Some(built);
                    state.session = Some(Session::new(1, now));
                }
                effects.extend(self.start_session(now));
                effects
            }
            Err(why) => self.fail_round(why),
        }
    }

    /// Builds tree or map, and the transactions that announce it.
    #[allow(clippy::type_complexity)]
    fn build(&self) -> Result<(Built, Vec<(NostrKey, Message)>, Artifact), RoundCause> {
        let (Some(state), Some((set, keys))) = (&self.round, &self.set) else {
            return Err(RoundCause::Operator);
        };
        let plan = self
            .spend_plan(state.inputs.into())
            .and_then(Result::ok)
            .ok_or(RoundCause::NoFunds)?;
        let script = beacon_script(keys.output_key());
        let payees = self.refund_scripts();
        let ground = Ground {
            script: &script,
            lock_blocks: self.terms.refund_blocks,
            payees: &payees,
        };
        let ceiling = self.ceiling_for(signed_weight(plan.inputs.len(), true));
        let rates = ladder::rates(self.fee_rate(), &self.terms.fee_ladder, ceiling);
        let built = |signal, announcement| {
            let ladder = Ladder::build(plan.inputs.clone(), signal, &rates, &ground).ok();
            Ok(Built {
                ladder: ladder
                    .and_then(|ladder| ladder.within(|fee| self.may_pay(fee)))
                    .ok_or(RoundCause::NoFunds)?,
                script: script.clone(),
                announcement,
            })
        };
        let round = state.round;
        match self.terms.beacon {
            CohortBeacon::Smt => {
                let leaves: Vec<(SmtIndex, LeafValue)> = state
                    .responses
                    .values()
                    .flat_map(|entered| entered.leaves.iter().copied())
                    .collect();
                // Entries were checked one by one: distinct indexes, no empty leaf.
                let tree =
                    SmtTree::new(leaves.iter().copied()).map_err(|_| RoundCause::Operator)?;
                let built: Built = built(tree.root(), None)?;
                let proofs = state
                    .indexes
                    .iter()
                    .filter_map(|(seat, indexes)| {
                        let proofs = indexes
                            .keys()
                            .map(|index| IndexProof {
                                index: *index,
                                path: tree.prove(index),
                            })
                            .collect();
                        let message = Message::Proofs(Proofs { round, proofs });
                        Some((set.key_of(*seat)?, message))
                    })
                    .collect();
                let artifact = Artifact::LeafSet {
                    round,
                    signal: built.ladder.signal,
                    txid: built.txid(),
                    leaves,
                };
                Ok((built, proofs, artifact))
            }
            CohortBeacon::Cas => {
                let updates = state
                    .responses
                    .values()
                    .flat_map(|entered| entered.updates.iter())
                    .map(|(did, update)| (did.to_string(), *update));
                let announcement =
                    CasAnnouncement::new(updates, |_| true).map_err(|_| RoundCause::Operator)?;
                let text = String::from_utf8(announcement.canonical_bytes())
                    .map_err(|_| RoundCause::Operator)?;
                let built: Built = built(announcement.signal_bytes(), Some(text.clone()))?;
                let artifact = Artifact::Announcement {
                    round,
                    signal: built.ladder.signal,
                    txid: built.txid(),
                    announcement: text,
                };
                Ok((built, Vec::new(), artifact))
            }
        }
    }

    /// Ends the open round without a signature and tells everybody why.
    pub(super) fn fail_round(&mut self, why: RoundCause) -> Vec<Effect> {
        let Some(state) = self.round.take() else {
            return self.fail_replacement(why);
        };
        let round = state.round;
        vec![
            Effect::Send {
                to: To::Channel,
                message: Message::RoundFailed(RoundFailed {
                    round,
                    why: why.clone(),
                    blamed: state.blamed,
                }),
            },
            Effect::Report(Report::RoundFailed { round, why }),
        ]
    }

    pub(super) fn round_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        let Some(state) = self.round_in_session() else {
            return;
        };
        if now < state.deadline() {
            return;
        }
        let absent = state.waiting_for();
        let why = match &state.session {
            _ if state.fallback.is_some() => RoundCause::NoSignature { absent },
            Some(session) if session.aggregate.is_some() => RoundCause::NoSignature { absent },
            _ => RoundCause::NoResponse { absent },
        };
        effects.extend(self.stalled(now, why));
    }
}

/// Checks that entries cover exactly the seat's indexes of this round, once each, with values a tree or
/// map can hold.
fn check_entries(
    beacon: CohortBeacon,
    expected: Option<&BTreeMap<SmtIndex, Option<Did>>>,
    entries: &Entries,
) -> Result<Entered, RefusalCode> {
    let none = BTreeMap::new();
    let expected = expected.unwrap_or(&none);
    let mut seen = BTreeSet::new();
    let mut entered = Entered {
        idle: true,
        ..Entered::default()
    };
    match (beacon, entries) {
        (CohortBeacon::Smt, Entries::Smt(entries)) => {
            for entry in entries {
                if !expected.contains_key(&entry.index) || !seen.insert(entry.index) {
                    return Err(RefusalCode::WrongEntries);
                }
                entered.idle &= entry.idle;
                match entry.leaf {
                    // It would make a neighbour's proof non-canonical.
                    Some(leaf) if leaf == EMPTY_LEAF => return Err(RefusalCode::EmptyLeaf),
                    Some(leaf) => entered.leaves.push((entry.index, leaf)),
                    None => {}
                }
            }
        }
        (CohortBeacon::Cas, Entries::Cas(entries)) => {
            for entry in entries {
                let index = entry.did.smt_index();
                if !expected.contains_key(&index) || !seen.insert(index) {
                    return Err(RefusalCode::WrongEntries);
                }
                entered.idle &= entry.idle && entry.update.is_none();
                if let Some(update) = entry.update {
                    entered.updates.push((entry.did.clone(), update));
                }
            }
        }
        _ => return Err(RefusalCode::WrongEntries),
    }
    if seen.len() != expected.len() {
        return Err(RefusalCode::WrongEntries);
    }
    Ok(entered)
}
