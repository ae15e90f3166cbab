//! Sessions: nonces, partial signatures, blame, and the final signature (DESIGN §5 "Sessions").

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::replacing::in_session;
use super::signals::SignedSignal;
use super::{Aggregator, refuse};
use crate::beacon::signal::BeaconOutput;
use crate::keys::NostrKey;
use crate::keys::musig::{aggregate_nonces, aggregate_partials, verify_partial};
use crate::protocol::effect::{Effect, Ignored, Outcome, Report, Step, To};
use crate::protocol::evidence::{Blame, Fault, LabelContext, Signed, commitment};
use crate::protocol::ids::{Label, Seat};
use crate::protocol::ladder::Ladder;
use crate::protocol::message::{
    LostSession, Message, NonceRequest, NonceUpdate, Nonces, Partials, PrevoutInfo, RefusalCode,
    RoundCause, SignRequest,
};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Rounds whose public nonces are remembered. An honest member draws 32 random bytes per nonce; a repeated
/// one within reach of an attack is one of the rounds that can still be replayed by a restored backup.
const NONCE_MEMORY_ROUNDS: usize = 64;

/// Public nonces seen in recent rounds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SeenNonces {
    #[serde(with = "crate::protocol::snapshot::digests")]
    rounds: VecDeque<BTreeSet<[u8; 32]>>,
}

impl SeenNonces {
    pub(super) fn next_round(&mut self) {
        self.rounds.push_back(BTreeSet::new());
        if self.rounds.len() > NONCE_MEMORY_ROUNDS {
            self.rounds.pop_front();
        }
    }

    /// Remembers these nonces; false when one of them was seen before (then none is remembered).
    pub(super) fn insert_new(&mut self, nonces: &Nonces) -> bool {
        let digests: BTreeSet<[u8; 32]> = nonces
            .values()
            .map(|nonce| crate::hash::sha256(&nonce.to_bytes()))
            .collect();
        let repeated = digests.len() != nonces.len()
            || self.rounds.iter().any(|round| !round.is_disjoint(&digests));
        if repeated {
            return false;
        }
        if self.rounds.is_empty() {
            self.next_round();
        }
        if let Some(round) = self.rounds.back_mut() {
            round.extend(digests);
        }
        true
    }
}

/// The open session of a round.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) attempt: u32,
    /// Until when nonces (before the request) or partial signatures (after it) count.
    pub(super) until: UnixTime,
    /// Set once the request is out: from then on nonces of this attempt do not change.
    pub(super) aggregate: Option<BTreeMap<Label, LabelContext>>,
    pub(super) partials: BTreeMap<Seat, Partials>,
    /// Whether any partial signature was ever received in this round.
    pub(super) ever_partial: bool,
}

impl Session {
    pub(super) const fn new(attempt: u32, until: UnixTime) -> Self {
        Self {
            attempt,
            until,
            aggregate: None,
            partials: BTreeMap::new(),
            ever_partial: false,
        }
    }
}

impl Aggregator {
    /// Sends the signing request if all nonces of the session are in, else asks for the missing ones.
    pub(super) fn start_session(&mut self, now: UnixTime) -> Vec<Effect> {
        let signing = now.plus(self.terms.signing_seconds.into());
        let Some(state) = in_session(&mut self.round, &mut self.kept) else {
            return Vec::new();
        };
        let (Some(built), Some(session)) = (&state.built, &mut state.session) else {
            return Vec::new();
        };
        let round = state.round;
        let attempt = session.attempt;
        let nonces = state.nonces.entry(attempt).or_default();
        let missing: Vec<Seat> = (0..state.members)
            .map(Seat)
            .filter(|seat| !nonces.contains_key(seat))
            .collect();
        session.until = signing;
        if !missing.is_empty() {
            let message = Message::NonceRequest(NonceRequest {
                round,
                attempt,
                seats: missing,
                until: signing,
            });
            return vec![Effect::Send {
                to: To::Channel,
                message,
            }];
        }
        let Some(contexts) = contexts(nonces, &built.ladder) else {
            return self.fail_round(RoundCause::Operator);
        };
        let prevout = |input: &BeaconOutput| PrevoutInfo {
            value_sat: input.value.to_sat(),
            script: built.script.clone(),
        };
        let request = SignRequest {
            round,
            attempt,
            sign_by: signing,
            rungs: built.ladder.to_sign(),
            prevouts: built.ladder.inputs.iter().map(prevout).collect(),
            aggregate_nonces: contexts
                .iter()
                .map(|(label, context)| (*label, context.aggregate_nonce))
                .collect(),
            announcement: built.announcement.clone(),
        };
        session.aggregate = Some(contexts);
        vec![Effect::Send {
            to: To::Channel,
            message: Message::SignRequest(request),
        }]
    }

    pub(super) fn nonce_update(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        signed: &Signed<NonceUpdate>,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !signed.verifies(&self.cohort, from) {
            return Step::ignored(Ignored::BadEvidence);
        }
        let NonceUpdate {
            round,
            attempt,
            nonces,
            ..
        } = &signed.content;
        let refused = |code| refuse(from, "nonce_update", code, Some(*round));
        let state = in_session(&mut self.round, &mut self.kept);
        let Some(state) = state.filter(|state| state.round == *round) else {
            return refused(RefusalCode::NoSuchRound);
        };
        if !nonces.keys().eq(&state.labels) {
            return refused(RefusalCode::Malformed);
        }
        let collecting = match &state.session {
            // Before the request a member may replace what it offered with its response.
            None => *attempt == 1 && state.responses.contains_key(&seat),
            Some(session) => *attempt == session.attempt && session.aggregate.is_none(),
        };
        let lost = match &state.session {
            Some(session) => {
                *attempt == session.attempt.saturating_add(1) && session.aggregate.is_some()
            }
            None => false,
        };
        if !collecting && !lost {
            return Step::ignored(Ignored::WrongSession);
        }
        if state
            .nonces
            .get(attempt)
            .and_then(|by_seat| by_seat.get(&seat))
            == Some(nonces)
        {
            return Step::ignored(Ignored::Duplicate);
        }
        if !self.seen_nonces.insert_new(nonces) {
            return refused(RefusalCode::NonceReused);
        }
        let (attempt, nonces) = (*attempt, nonces.clone());
        if lost {
            let shown = signed.content.lost.then(|| Box::new(signed.clone()));
            return Step::with(self.renew(now, seat, attempt, nonces, shown));
        }
        state
            .nonces
            .entry(attempt)
            .or_default()
            .insert(seat, nonces);
        Step::with(self.renewed(now))
    }

    /// A member can not sign the current session: opens the next one with what nonces there are.
    fn renew(
        &mut self,
        now: UnixTime,
        seat: Seat,
        attempt: u32,
        nonces: Nonces,
        shown: Option<Box<Signed<NonceUpdate>>>,
    ) -> Vec<Effect> {
        let Some(state) = in_session(&mut self.round, &mut self.kept) else {
            return Vec::new();
        };
        let before = attempt.saturating_sub(1);
        // The first that can not sign a session ends it: nobody else has to say so, and this stays bounded.
        if !state.lost.iter().any(|lost| lost.attempt == before) {
            state.lost.push(LostSession {
                attempt: before,
                seat,
                shown,
            });
        }
        if attempt > u32::from(self.terms.sessions_max) {
            let lost = state.lost.clone();
            return self.stalled(now, RoundCause::SessionsUsedUp { lost });
        }
        state
            .nonces
            .entry(attempt)
            .or_default()
            .insert(seat, nonces);
        let ever_partial = state.has_partials();
        state.session = Some(Session {
            ever_partial,
            ..Session::new(attempt, now)
        });
        let round = state.round;
        let mut effects = vec![Effect::Report(Report::SessionLost { round, attempt })];
        effects.extend(self.start_session(now));
        effects
    }

    /// After nonces came in: sends the request once the last missing ones are there.
    fn renewed(&mut self, now: UnixTime) -> Vec<Effect> {
        let complete = self.round_in_session().is_some_and(|state| {
            state.session.as_ref().is_some_and(|session| {
                session.aggregate.is_none() && state.waiting_for().is_empty()
            })
        });
        if complete {
            self.start_session(now)
        } else {
            Vec::new()
        }
    }

    pub(super) fn partials(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        signed: Signed<Partials>,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !signed.verifies(&self.cohort, from) {
            return Step::ignored(Ignored::BadEvidence);
        }
        let content = &signed.content;
        let Some((_, keys)) = &self.set else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let state = in_session(&mut self.round, &mut self.kept);
        let Some(state) = state.filter(|state| state.round == content.round) else {
            return Step::ignored(Ignored::WrongRound);
        };
        let Some(session) = &mut state.session else {
            return Step::ignored(Ignored::WrongSession);
        };
        // Somebody lost its nonces after this member signed: its spares are just what is needed.
        if content.attempt.saturating_add(1) == session.attempt && session.aggregate.is_none() {
            session.ever_partial = true;
            let attempt = session.attempt;
            let known = state.nonces.entry(attempt).or_default();
            if !known.contains_key(&seat)
                && content.spares.keys().eq(&state.labels)
                && self.seen_nonces.insert_new(&content.spares)
            {
                known.insert(seat, content.spares.clone());
                return Step::with(self.renewed(now));
            }
            return Step::ignored(Ignored::WrongSession);
        }
        let Some(contexts) = session
            .aggregate
            .as_ref()
            .filter(|_| content.attempt == session.attempt)
        else {
            return Step::ignored(Ignored::WrongSession);
        };
        if session.partials.contains_key(&seat) {
            return Step::ignored(Ignored::Duplicate);
        }
        // The session hash says which session the member believes it signed. Another one is no fault of
        // anybody that could be shown; it simply is not a signature for this session.
        let offered = state
            .nonces
            .get(&session.attempt)
            .and_then(|by_seat| by_seat.get(&seat));
        let used = offered.is_some_and(|offered| {
            let of_session = offered
                .iter()
                .filter(|(label, _)| contexts.contains_key(label));
            of_session.eq(&content.nonces)
        });
        if !used {
            // It replaced its nonces (after a restart) too late for this session: it can sign the next one.
            let attempt = session.attempt.saturating_add(1);
            let spares = content.spares.clone();
            if spares.keys().eq(&state.labels) && self.seen_nonces.insert_new(&spares) {
                return Step::with(self.renew(now, seat, attempt, spares, None));
            }
            return Step::ignored(Ignored::WrongSession);
        }
        if commitment(keys, &content.nonces, contexts) != Some(content.session_hash)
            || !content.partials.keys().eq(contexts.keys())
        {
            return Step::ignored(Ignored::WrongSession);
        }
        for (label, context) in contexts {
            let (Some(nonce), Some(partial)) =
                (content.nonces.get(label), content.partials.get(label))
            else {
                return Step::ignored(Ignored::WrongSession);
            };
            let verdict = verify_partial(
                keys,
                &from,
                nonce,
                &context.aggregate_nonce,
                context.sighash.as_bytes(),
                partial,
            );
            if verdict.is_err() {
                let blame = Blame {
                    member: from,
                    fault: Fault::BadPartial {
                        partials: Box::new(signed.clone()),
                        label: *label,
                        session: contexts.clone(),
                    },
                };
                // One piece of evidence per member and round is enough; the member may still send a good one.
                if !state.blamed.iter().any(|known| known.member == from) {
                    state.blamed.push(blame.clone());
                }
                return Step {
                    outcome: Outcome::Blamed(from),
                    effects: vec![Effect::Report(Report::MemberBlamed {
                        blame,
                        proved: true,
                    })],
                };
            }
        }
        let attempt = session.attempt;
        session.ever_partial = true;
        session.partials.insert(seat, content.clone());
        let partials = session.partials.len();
        let complete = partials == usize::from(state.members);
        if content.spares.keys().eq(&state.labels) && self.seen_nonces.insert_new(&content.spares) {
            state
                .nonces
                .entry(attempt.saturating_add(1))
                .or_default()
                .insert(seat, content.spares.clone());
        }
        let mut effects = vec![Effect::Report(Report::PartialReceived {
            round: state.round,
            seat,
            partials: u16::try_from(partials).unwrap_or(u16::MAX),
        })];
        if complete {
            effects.extend(self.finish_round(now));
        }
        Step::with(effects)
    }

    /// Adds up the partial signatures of every rung; the first one goes to the chain and to everybody, the others
    /// wait until it turns out to pay too little.
    fn finish_round(&mut self, now: UnixTime) -> Vec<Effect> {
        let (Some(state), Some((_, keys))) = (self.round_in_session(), &self.set) else {
            return Vec::new();
        };
        let (Some(built), Some(session)) = (&state.built, &state.session) else {
            return Vec::new();
        };
        let signature = |(label, context): (&Label, &LabelContext)| {
            let partials = session
                .partials
                .values()
                .filter_map(|content| content.partials.get(label).copied());
            let signature = aggregate_partials(
                keys,
                &context.aggregate_nonce,
                context.sighash.as_bytes(),
                partials,
            );
            Some((*label, signature.ok()?))
        };
        let contexts = session.aggregate.iter().flatten();
        let signatures: Option<BTreeMap<_, _>> = contexts.map(signature).collect();
        let Some(rungs) = signatures.and_then(|signatures| built.ladder.complete(&signatures))
        else {
            // Each partial verified, so their sums do; if not, this machine miscalculates.
            return self.fail_round(RoundCause::Operator);
        };
        if self.round.is_none() {
            return self.replaced(now, rungs);
        }
        let Some(signed) = SignedSignal::new(state.round, &built.ladder, rungs, now) else {
            return self.fail_round(RoundCause::Operator);
        };
        let (opened, deposited) = (state.opened, state.deposited());
        self.deposits
            .announce(&signed.txids(), signed.input(), deposited);
        self.keep_round(false);
        self.signed_total = self.signed_total.saturating_add(1);
        self.signed.push(signed);
        self.send_signed(opened, now)
    }
}

/// Adds up the nonces of all seats for everything the ladder has to be signed, label by label.
fn contexts(
    nonces: &BTreeMap<Seat, Nonces>,
    ladder: &Ladder,
) -> Option<BTreeMap<Label, LabelContext>> {
    ladder
        .digests()
        .into_iter()
        .map(|(label, sighash)| {
            let offered: Option<Vec<_>> = nonces
                .values()
                .map(|by_label| by_label.get(&label).copied())
                .collect();
            let context = LabelContext {
                aggregate_nonce: aggregate_nonces(&offered?).ok()?,
                sighash,
            };
            Some((label, context))
        })
        .collect()
}
