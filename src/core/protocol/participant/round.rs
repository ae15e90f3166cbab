//! Rounds, as a member lives them: opening, response, result.

use std::collections::BTreeMap;

use super::checks::Approved;
use super::replacing::in_session;
use super::{MemberPhase, Participant};
use crate::beacon::smt::{Leaf, SmtPath};
use crate::hash::{SmtIndex, SmtNonce, UpdateHash};
use crate::protocol::effect::{Artifact, Effect, Ignored, Outcome, Prepared, Report, Step};
use crate::protocol::evidence::{Blame, LabelContext, Signed};
use crate::protocol::ids::{Label, Round, SessionId};
use crate::protocol::message::{
    CasEntry, Entries, Message, NonceUpdate, Nonces, Partials, Proofs, Response, RoundCause,
    RoundFailed, RoundOpen, RoundResult, SignRequest, SmtEntry,
};
use crate::protocol::terms::{CohortBeacon, EmptyRounds, OutputPolicy};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// What this member said for one index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Planned {
    pub(super) leaf: Leaf,
    pub(super) update: Option<UpdateHash>,
    pub(super) idle: bool,
}

/// The open round.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MyRound {
    pub(super) round: Round,
    pub(super) opened: UnixTime,
    respond_by: UnixTime,
    pub(super) plan: BTreeMap<SmtIndex, Planned>,
    /// What a nonce is offered for; a session signs those of them that its transactions have.
    pub(super) labels: Vec<Label>,
    /// SMT nonces of this round, once the driver derived them.
    pub(super) smt_nonces: Option<BTreeMap<SmtIndex, SmtNonce>>,
    /// Until when the response waits for verdicts on deposits.
    pub(super) patience: UnixTime,
    /// The aggregator refused a response over its deposits: this round announces none.
    pub(super) without_deposits: bool,
    pub(super) responded: bool,
    /// My public nonces by attempt.
    pub(super) nonces: BTreeMap<u32, Nonces>,
    /// The latest attempt that nonces were made for on their own, not as spares. No earlier one is signed:
    /// its spares would take the place of these.
    pub(super) offered: u32,
    /// The latest attempt that was asked for with nonces that are gone; 0 if none was.
    pub(super) lost: u32,
    pub(super) proofs: Option<BTreeMap<SmtIndex, SmtPath>>,
    /// A request that is not answered yet.
    pub(super) request: Option<SignRequest>,
    /// What was approved once: nothing else is signed in this round.
    pub(super) approved: Option<Approved>,
    /// One of the approved transactions came back with all signatures: a replacement must pay more than them.
    pub(super) settled: bool,
    /// The attempt the signer is at.
    pub(super) signing: Option<(u32, BTreeMap<Label, LabelContext>)>,
    /// Partial signatures by attempt: re-sent as they are, never made again.
    pub(super) sent: BTreeMap<u32, Partials>,
    pub(super) last_refusal: String,
}

/// The open round as this member has it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRound {
    /// Its number.
    pub round: Round,
    /// When it was opened.
    pub opened: UnixTime,
    /// When the current step ends for this member.
    pub until: UnixTime,
    /// The session this member was asked to sign in; 0 before.
    pub attempt: u32,
    /// Whether this member has responded.
    pub responded: bool,
    /// Whether it has signed.
    pub signed: bool,
    /// Per index what was said: the update if there is one, and whether the answer was "idle".
    pub said: Vec<(SmtIndex, Option<UpdateHash>, bool)>,
}

impl MyRound {
    /// New nonces for an attempt, and the word that the one before can not be signed, where that is so.
    pub(super) const fn nonce_update(&self, attempt: u32, nonces: Nonces) -> NonceUpdate {
        NonceUpdate {
            round: self.round,
            attempt,
            nonces,
            lost: attempt > 1 && self.lost == attempt.saturating_sub(1),
        }
    }
}

impl Participant {
    /// Updates that are announced by what is signed now, or was signed last: those of the round in session, and those
    /// of a fallback that is being signed, also when its round is over. A signature makes them final (rule 10).
    #[must_use]
    pub fn announcing(&self) -> Vec<(SmtIndex, UpdateHash)> {
        let planned = self.round_in_session().into_iter();
        let planned = planned.flat_map(|state| &state.plan);
        let planned = planned.filter_map(|(index, planned)| Some((*index, planned.update?)));
        let through_leaf = self.fallbacks.signing().flat_map(|signal| {
            let of_mine = self.indexes.iter();
            let announced = of_mine.filter(move |(_, mine)| mine.announced.contains(&signal));
            announced.filter_map(|(index, mine)| Some((*index, mine.update?)))
        });
        let all: BTreeMap<SmtIndex, UpdateHash> = planned.chain(through_leaf).collect();
        all.into_iter().collect()
    }

    /// The open round, if there is one.
    #[must_use]
    pub fn open_round_now(&self) -> Option<OwnRound> {
        let state = self.round.as_ref()?;
        let request = state.request.as_ref();
        let sent = state.sent.keys().next_back().copied();
        Some(OwnRound {
            round: state.round,
            opened: state.opened,
            until: request.map_or(state.respond_by, |request| request.sign_by),
            attempt: request.map(|request| request.attempt).or(sent).unwrap_or(0),
            responded: state.responded,
            signed: sent.is_some(),
            said: state
                .plan
                .iter()
                .map(|(index, planned)| (*index, planned.update, planned.idle))
                .collect(),
        })
    }

    pub(super) fn round_open(&mut self, now: UnixTime, open: RoundOpen) -> Step {
        if self.phase == MemberPhase::Acknowledged {
            self.early = Some(open);
            return Step::accepted();
        }
        if self.phase != MemberPhase::Active {
            return Step::ignored(Ignored::WrongPhase);
        }
        if open.round.0 <= self.last_round {
            return Step::ignored(Ignored::WrongRound);
        }
        let Some(seat) = self.seat() else {
            return Step::ignored(Ignored::WrongPhase);
        };
        if now > open.respond_by || self.opened_before_reseat(&open) {
            // Without this member's response nothing comes out of the round: it is over before it began.
            self.last_round = open.round.0;
            self.counted.round_opened(now);
            let mut effects = vec![Effect::Report(Report::RoundMissed { round: open.round })];
            // What waits is asked for again: the aggregator may open the next round for it.
            effects.extend(self.request_round());
            effects.extend(self.after_facts());
            return Step {
                outcome: Outcome::Ignored(Ignored::TooLate),
                effects,
            };
        }
        let covered: Vec<SmtIndex> = self
            .indexes
            .iter()
            .filter(|(_, mine)| mine.covered_in(open.round))
            .map(|(index, _)| *index)
            .collect();
        let claimed = usize::from(open.indexes.get(&seat).copied().unwrap_or(0));
        if claimed > covered.len() {
            // An acknowledgement of a registration is still on its way.
            self.early = Some(open);
            return Step::accepted();
        }
        if claimed < covered.len() {
            let text = format!(
                "round {} covers {claimed} of my {} indexes",
                open.round,
                covered.len()
            );
            // The message that takes an index away may be on its way still.
            self.early = Some(open);
            return Self::contradiction(&text);
        }
        self.last_round = open.round.0;
        self.counted.round_opened(now);
        let session = self.session(open.round, 1);
        let refunds = !self.refund_scripts().is_empty();
        let labels = Label::of_round(self.terms.rungs(), open.inputs, refunds);
        self.kept = None;
        self.round = Some(MyRound {
            round: open.round,
            opened: now,
            respond_by: open.respond_by,
            plan: BTreeMap::new(),
            labels: labels.clone(),
            smt_nonces: None,
            patience: MyRound::patience(now, open.respond_by),
            without_deposits: false,
            responded: false,
            nonces: BTreeMap::new(),
            offered: 1,
            lost: 0,
            proofs: None,
            request: None,
            approved: None,
            settled: false,
            signing: None,
            sent: BTreeMap::new(),
            last_refusal: String::new(),
        });
        Step::with(vec![
            Effect::Report(Report::RoundOpened {
                round: open.round,
                indexes: u32::try_from(covered.len()).unwrap_or(u32::MAX),
            }),
            Effect::Prepare {
                session,
                labels,
                indexes: covered,
            },
        ])
    }

    pub(super) const fn session(&self, round: Round, attempt: u32) -> SessionId {
        SessionId::of_round(self.cohort, round, attempt)
    }

    pub(super) fn prepared(&mut self, now: UnixTime, prepared: Prepared) -> Step {
        let attempt = prepared.session.attempt;
        let Some(round) = self.round_in_session().map(|state| state.round) else {
            return Step::ignored(Ignored::Unasked);
        };
        if prepared.session != self.session(round, attempt) {
            return Step::ignored(Ignored::Unasked);
        }
        let Some(state) = in_session(&mut self.round, &mut self.kept) else {
            return Step::ignored(Ignored::Unasked);
        };
        state.nonces.insert(attempt, prepared.nonces.clone());
        if attempt > 1 || state.responded {
            let update = state.nonce_update(attempt, prepared.nonces);
            return Step::with(vec![
                self.send(Message::NonceUpdate(Signed::unsigned(update))),
            ]);
        }
        state.smt_nonces = Some(prepared.smt_nonces.into_iter().collect());
        Step::with(self.try_respond(now))
    }

    /// Responds to the open round, if that is due, possible, and no verdict on a deposit is worth waiting for.
    pub(super) fn try_respond(&mut self, now: UnixTime) -> Vec<Effect> {
        let wait = self.awaits_verdict(now);
        let plan = self.plan();
        let Some(state) = self
            .round
            .as_mut()
            .filter(|state| !state.responded && !wait)
        else {
            return Vec::new();
        };
        let (Some(plan), Some(nonces)) = (plan, state.nonces.get(&1).cloned()) else {
            return Vec::new();
        };
        state.plan = plan;
        state.responded = true;
        let round = state.round;
        let updates = state.plan.values().filter(|p| p.update.is_some()).count();
        let declined = state.plan.len().saturating_sub(updates);
        let report = Effect::Report(Report::Responded {
            round,
            updates: u16::try_from(updates).unwrap_or(u16::MAX),
            declined: u16::try_from(declined).unwrap_or(u16::MAX),
        });
        self.note_responded();
        let entries = self.entries();
        let response = Response {
            round,
            entries,
            nonces,
        };
        vec![
            self.send(Message::Response(Signed::unsigned(response))),
            report,
        ]
    }

    /// Decides what to say for each index. An update that was signed before and may still confirm is
    /// announced again, byte for byte (rule 10).
    fn plan(&self) -> Option<BTreeMap<SmtIndex, Planned>> {
        let state = self.round.as_ref()?;
        let nonces = state.smt_nonces.as_ref()?;
        let all_sign = self.terms.output_policy == OutputPolicy::Musig2KeyPath;
        let covered = self
            .indexes
            .iter()
            .filter(|(_, mine)| mine.covered_in(state.round));
        let plan = covered.map(|(index, mine)| {
            // What the chain shows and nothing here explains may be an update of this DID, signed by a copy of this
            // agent that is gone: another one for its version would end the DID (rule 10). Where all have to sign, this
            // member does not; where k others can, they must not be told.
            let explained = mine.update.is_none() || all_sign || self.missing(index).is_empty();
            let update = mine.update.filter(|update| {
                explained && !self.update_confirmed(mine, 1) && self.may_announce(index, *update)
            });
            let planned = Planned {
                leaf: Leaf {
                    nonce: nonces.get(index).copied(),
                    update,
                },
                update,
                idle: self.says_idle(update),
            };
            (*index, planned)
        });
        Some(plan.collect())
    }

    fn entries(&self) -> Entries {
        let Some(state) = &self.round else {
            return Entries::Smt(Vec::new());
        };
        match self.terms.beacon {
            CohortBeacon::Smt => Entries::Smt(
                state
                    .plan
                    .iter()
                    .map(|(index, planned)| SmtEntry {
                        index: *index,
                        leaf: (!planned.leaf.is_empty()).then(|| planned.leaf.value()),
                        idle: planned.idle,
                        opened: self.opening_of(index, planned),
                    })
                    .collect(),
            ),
            CohortBeacon::Cas => Entries::Cas(
                state
                    .plan
                    .iter()
                    .filter_map(|(index, planned)| {
                        Some(CasEntry {
                            did: self.indexes.get(index)?.did.clone()?,
                            update: planned.update,
                            idle: planned.idle,
                        })
                    })
                    .collect(),
            ),
        }
    }

    pub(super) fn proofs(&mut self, proofs: Proofs) -> Step {
        let Some(state) = self
            .round
            .as_mut()
            .filter(|state| state.round == proofs.round)
        else {
            return Step::ignored(Ignored::WrongRound);
        };
        if state.proofs.is_some() {
            return Step::ignored(Ignored::Duplicate);
        }
        state.proofs = Some(
            proofs
                .proofs
                .into_iter()
                .map(|proof| (proof.index, proof.path))
                .collect(),
        );
        self.decided()
    }

    pub(super) fn round_result(&mut self, now: UnixTime, result: RoundResult) -> Step {
        if let Some(step) = self.fallback_result(now, &result) {
            return step;
        }
        let round = result.round;
        let Some(tx) = result.tx else {
            return self.round_empty(round);
        };
        let txid = tx.0.compute_txid();
        let Some((_, keys)) = &self.set else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let output_key = keys.output_key();
        let input = tx.0.input.first().map(|input| input.previous_output);
        let spends_nothing = input.is_none_or(|input| self.is_settled(&input));
        let known = self.given.iter_mut().find(|given| given.txid == txid);
        if known.is_none() && spends_nothing {
            // It may have been signed and, since nothing can come of it any more, forgotten.
            return Step::ignored(Ignored::WrongRound);
        }
        let Some(given) = known.filter(|given| given.round >= round) else {
            return Self::contradiction("the result is a transaction this member did not sign");
        };
        if given.round != round {
            // Signed once more in a later round, whose result says the same.
            return Step::ignored(Ignored::WrongRound);
        }
        if given.signed.is_some() {
            return Step::ignored(Ignored::Duplicate);
        }
        if !super::checks::is_complete(&tx.0, &given.sighashes, output_key) {
            return Self::contradiction("the result's signature does not verify");
        }
        given.signed = Some(tx.0.clone());
        self.watch.complete(round, &tx.0);
        let (signal, fee_sat) = (given.signal, given.fee.to_sat());
        let (seconds, vsize) = (now.since(given.opened), tx.0.vsize() as u64);
        let mut others = self.given.iter();
        let bumped = others
            .any(|other| other.round == round && other.txid != txid && other.signed.is_some());
        let report = if bumped {
            Report::SignalBumped {
                round,
                txid,
                vsize,
                fee_sat,
            }
        } else {
            Report::SignalSigned {
                round,
                txid,
                vsize,
                seconds,
            }
        };
        let effects = vec![
            Effect::Save(Artifact::SignedTransaction {
                round,
                signal,
                tx: tx.0,
            }),
            Effect::Report(report),
        ];
        self.keep_round(round, &txid);
        self.end_round(round, effects)
    }

    fn round_empty(&mut self, round: Round) -> Step {
        let Some(state) = self.round.as_ref().filter(|state| state.round == round) else {
            return Step::ignored(Ignored::WrongRound);
        };
        // Nobody but this member can say that it has nothing to announce.
        let idle = state.responded && state.plan.values().all(|planned| planned.idle);
        if !idle || self.terms.empty_rounds != EmptyRounds::Skip || !state.sent.is_empty() {
            return Self::contradiction("the aggregator calls a round empty that is not");
        }
        self.end_round(round, vec![Effect::Report(Report::RoundEmpty { round })])
    }

    pub(super) fn round_failed(&mut self, mut failed: RoundFailed) -> Step {
        let round = failed.round;
        if let Some(why) = self.told(round, Some(failed.why.clone())) {
            failed.why = why;
        }
        let open = self.round.as_ref().map(|state| state.round) == Some(round);
        let replacement = self.replacement_failed(round, failed.why.clone());
        if !open && replacement.is_none() {
            return Step::ignored(Ignored::WrongRound);
        }
        let mut effects = self.blamed(failed.blamed);
        if let Some(failed) = replacement {
            effects.push(failed);
            return Step::with(effects);
        }
        effects.push(Effect::Report(Report::RoundFailed {
            round,
            why: failed.why,
        }));
        self.end_round(round, effects)
    }

    /// Why a round did not go as it should, as the aggregator tells it. Its word is not enough: what is shown and does not
    /// show it stays a claim.
    pub(super) fn told(&self, round: Round, why: Option<RoundCause>) -> Option<RoundCause> {
        match (&self.set, why) {
            (Some((set, _)), Some(why)) => Some(why.verified(&self.cohort, round, set)),
            (_, why) => why,
        }
    }

    /// Whom the aggregator blames in a round, once each. What does not re-verify is shown as a claim.
    pub(super) fn blamed(&self, blamed: Vec<Blame>) -> Vec<Effect> {
        let Some((set, keys)) = &self.set else {
            return Vec::new();
        };
        let blamed = blamed.into_iter().take(set.keys.len());
        let reports = blamed.map(|blame| {
            let proved = blame.verify(&self.cohort, keys).is_ok();
            Effect::Report(Report::MemberBlamed { blame, proved })
        });
        reports.collect()
    }

    /// The round is over: what waits is asked for again, and DIDs that waited for it may bind.
    pub(super) fn end_round(&mut self, round: Round, mut effects: Vec<Effect>) -> Step {
        self.close_fallback(round);
        if self
            .round
            .as_ref()
            .is_some_and(|state| state.round == round)
        {
            self.round = None;
        }
        effects.extend(self.request_round());
        effects.extend(self.after_facts());
        Step::with(effects)
    }

    /// When this member's response is due, if a round waits for it.
    #[must_use]
    pub fn respond_by(&self) -> Option<UnixTime> {
        self.round
            .as_ref()
            .filter(|state| !state.responded)
            .map(|state| state.respond_by)
    }
}
