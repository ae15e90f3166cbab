//! Sessions, as a member lives them: nonces, the decision to sign, partial signatures, lost nonces.

use super::checks::{Approved, Verdict};
use super::replacing::in_session;
use super::{GivenPartial, Participant, SignedSession};
use crate::protocol::effect::{Artifact, Effect, Ignored, Outcome, Report, Step};
use crate::protocol::evidence::{Signed, commitment};
use crate::protocol::ids::SessionId;
use crate::protocol::message::{
    Message, NonceRequest, Partials, RefusalCode, Refused, SignRequest,
};

impl Participant {
    pub(super) fn nonce_request(&mut self, request: &NonceRequest) -> Step {
        let seat = self.seat();
        let session = self.session(request.round, request.attempt);
        let replaces = self.is_replacing();
        let state = in_session(&mut self.round, &mut self.kept);
        let Some(state) = state.filter(|state| state.round == request.round && state.responded)
        else {
            return Step::ignored(Ignored::WrongRound);
        };
        let asked = seat.is_some_and(|seat| request.seats.contains(&seat));
        let known = state.nonces.contains_key(&request.attempt);
        let allowed = request.attempt <= u32::from(self.terms.sessions_max);
        let unused = !state.sent.contains_key(&request.attempt);
        if let Some(nonces) = state.nonces.get(&request.attempt)
            && asked
            && allowed
            && unused
            && replaces
        {
            // What was offered came after a replacement had ended, and counted for nothing: the same once more.
            let update = state.nonce_update(request.attempt, nonces.clone());
            return Step::with(vec![
                self.send(Message::NonceUpdate(Signed::unsigned(update))),
            ]);
        }
        if !asked || known || !allowed || request.attempt <= state.offered {
            return Step::ignored(Ignored::WrongSession);
        }
        state.offered = request.attempt;
        Step::with(vec![Effect::Prepare {
            session,
            labels: state.labels.clone(),
            indexes: Vec::new(),
        }])
    }

    pub(super) fn sign_request(&mut self, request: SignRequest) -> Step {
        let state = in_session(&mut self.round, &mut self.kept);
        let Some(state) = state.filter(|state| state.round == request.round && state.responded)
        else {
            return Step::ignored(Ignored::WrongRound);
        };
        if state.sent.contains_key(&request.attempt) {
            return Step::ignored(Ignored::Duplicate);
        }
        let last = state.sent.keys().next_back().copied().unwrap_or(0);
        let waiting = state.request.as_ref().map_or(0, |known| known.attempt);
        let earliest = last.saturating_add(1).max(state.offered).max(waiting);
        if request.attempt < earliest || state.signing.is_some() {
            return Step::ignored(Ignored::WrongSession);
        }
        // Built on nonces that a restart has lost.
        let lost = !state.nonces.contains_key(&request.attempt);
        if lost && request.attempt <= u32::from(self.terms.sessions_max) {
            return Step::with(self.lose(request.attempt));
        }
        state.request = Some(request);
        self.decided()
    }

    pub(super) fn decided(&mut self) -> Step {
        let (effects, refused) = self.decide();
        Step {
            outcome: refused.map_or(Outcome::Accepted, |reason| {
                Outcome::Ignored(Ignored::WillNotSign(reason))
            }),
            effects,
        }
    }

    /// Checks the pending request, if there is one, against what is known now.
    pub(super) fn try_sign(&mut self) -> Vec<Effect> {
        self.decide().0
    }

    /// Checks the pending request; orders the signature when everything holds. Also says why it never will.
    fn decide(&mut self) -> (Vec<Effect>, Option<String>) {
        let verdict = self.check_request();
        let state = in_session(&mut self.round, &mut self.kept);
        let (Some(verdict), Some(state)) = (verdict, state) else {
            return (Vec::new(), None);
        };
        let round = state.round;
        let (reason, waiting) = match verdict {
            Verdict::Approved(approved) => return (self.order_signature(*approved), None),
            Verdict::Wait(reason) => (reason, true),
            Verdict::Never(reason) => (reason, false),
        };
        let mut effects = Vec::new();
        if !waiting {
            state.request = None;
            effects.push(self.send(Message::Refused(Refused {
                of: "sign_request".into(),
                code: RefusalCode::WillNotSign,
                round: Some(round),
            })));
        }
        if let Some(state) = in_session(&mut self.round, &mut self.kept)
            && state.last_refusal != reason
        {
            // Once per reason: the chain may ask again with every block.
            state.last_refusal.clone_from(&reason);
            effects.push(Effect::Report(Report::SignRefused {
                round,
                reason: reason.clone(),
                waiting,
            }));
        }
        (effects, (!waiting).then_some(reason))
    }

    fn order_signature(&mut self, approved: Approved) -> Vec<Effect> {
        let mut effects: Vec<Effect> = Vec::new();
        let replaces = self.is_replacing();
        let Some(state) = in_session(&mut self.round, &mut self.kept) else {
            return effects;
        };
        let Some(request) = state.request.take() else {
            return effects;
        };
        let round = state.round;
        let first = state.approved.is_none();
        if let Some(rung) = approved.ladder.rungs.first().filter(|_| first) {
            effects.push(Effect::Report(Report::SignalFixed {
                round,
                attempt: request.attempt,
                signal: approved.ladder.signal,
                txid: rung.txid,
                fee_sat: rung.fee.to_sat(),
            }));
        }
        if let Some(rung) = approved.ladder.rungs.first().filter(|_| replaces) {
            effects.push(Effect::Report(Report::ReplacementOpened {
                round,
                attempt: request.attempt,
                fee_sat: rung.fee.to_sat(),
            }));
        }
        let contexts = approved.contexts.clone();
        let spares = state.labels.clone();
        let order = approved.order(self.session(round, request.attempt), spares);
        let artifacts = if first {
            self.artifacts(&approved)
        } else {
            Vec::new()
        };
        if let Some(state) = in_session(&mut self.round, &mut self.kept) {
            state.signing = Some((request.attempt, contexts));
            // What is signed now has no result yet.
            state.settled = false;
            state.approved = Some(approved);
        }
        // Rule 5: what this member needs for resolution is durable before its partial signature exists.
        effects.extend(artifacts.into_iter().map(Effect::Save));
        effects.push(Effect::Sign(order));
        effects
    }

    /// The proofs or the announcement of the approved signal, for every index of this member.
    fn artifacts(&mut self, approved: &Approved) -> Vec<Artifact> {
        let Some(state) = &self.round else {
            return Vec::new();
        };
        // Which rung confirms is not known yet: the first one stands for all of them, and what is looked up later
        // is looked up by the signal.
        let Some(txid) = approved.ladder.rungs.first().map(|rung| rung.txid) else {
            return Vec::new();
        };
        let (round, signal) = (state.round, approved.ladder.signal);
        // An announcement explains every DID, also one that was not in the round: it was checked to be absent.
        let explains_all = approved.announcement.is_some();
        for (index, mine) in &mut self.indexes {
            if state.plan.contains_key(index) || (explains_all && mine.did.is_some()) {
                mine.proved.insert(signal);
            }
        }
        if let Some(announcement) = &approved.announcement {
            return vec![Artifact::Announcement {
                round,
                signal,
                txid,
                announcement: announcement.clone(),
            }];
        }
        let paths = state.proofs.as_ref();
        state
            .plan
            .iter()
            .filter_map(|(index, planned)| {
                Some(Artifact::SmtProof {
                    round,
                    index: *index,
                    signal,
                    txid,
                    nonce: planned.leaf.nonce,
                    update: planned.leaf.update,
                    path: paths?.get(index)?.clone(),
                })
            })
            .collect()
    }

    pub(super) fn signed(&mut self, signed: SignedSession) -> Step {
        let attempt = signed.session.attempt;
        let Some((_, keys)) = &self.set else {
            return Step::ignored(Ignored::Unasked);
        };
        let before = signed.session.round().map(|round| self.rungs_before(round));
        let state = in_session(&mut self.round, &mut self.kept);
        let Some(state) = state.filter(|state| Some(state.round) == signed.session.round()) else {
            return Step::ignored(Ignored::Unasked);
        };
        let (Some((at, contexts)), Some(approved)) = (state.signing.take(), &state.approved) else {
            return Step::ignored(Ignored::Unasked);
        };
        let mut nonces = state.nonces.get(&attempt).cloned().unwrap_or_default();
        // Nonces were offered for more than the transactions turned out to need; those are never used.
        nonces.retain(|label, _| contexts.contains_key(label));
        let Some(session_hash) = commitment(keys, &nonces, &contexts).filter(|_| at == attempt)
        else {
            return Step::ignored(Ignored::Unasked);
        };
        let content = Partials {
            round: state.round,
            attempt,
            session_hash,
            nonces,
            partials: signed.partials,
            spares: signed.spares.clone(),
        };
        state
            .nonces
            .insert(attempt.saturating_add(1), signed.spares);
        state.sent.insert(attempt, content.clone());
        let ladder = &approved.ladder;
        let before = before.unwrap_or(0);
        let given = (1_u8..)
            .zip(&ladder.rungs)
            .map(|(rung, signed)| GivenPartial {
                round: state.round,
                signal: ladder.signal,
                rung: rung.saturating_add(before),
                txid: signed.txid,
                input: ladder.tip(),
                inputs: ladder.inputs.clone(),
                sighashes: signed.sighashes.clone(),
                fee: signed.fee,
                tx: signed.tx.clone(),
                refund: signed.refund.as_ref().map(|refund| refund.txid),
                signed: None,
                opened: state.opened,
                confirmed: None,
            });
        for (index, planned) in &state.plan {
            if let (Some(update), Some(mine)) = (planned.update, self.indexes.get_mut(index))
                && mine.update == Some(update)
            {
                mine.announced.insert(ladder.signal);
            }
        }
        for given in given {
            let mut known = self.given.iter_mut();
            match known.find(|known| known.txid == given.txid) {
                // A round that failed, and the same said again: its transaction is one of the round that goes on.
                Some(known) if known.round < given.round => {
                    known.round = given.round;
                    known.rung = given.rung;
                    known.opened = given.opened;
                }
                Some(_) => {}
                None => self.given.push(given),
            }
        }
        Step::with(vec![
            self.send(Message::PartialSignature(Signed::unsigned(content))),
        ])
    }

    pub(super) fn sign_failed(&mut self, session: SessionId) -> Step {
        let attempt = session.attempt;
        let state = in_session(&mut self.round, &mut self.kept);
        let Some(state) = state.filter(|state| {
            let ordered = state.signing.as_ref().map(|(attempt, _)| *attempt);
            Some(state.round) == session.round() && ordered == Some(attempt)
        }) else {
            return Step::ignored(Ignored::Unasked);
        };
        state.signing = None;
        Step::with(self.lose(attempt))
    }

    /// The nonces of an attempt are gone: offers fresh ones for the next. Also beyond the last attempt the
    /// terms allow, so that the aggregator can end the round instead of waiting.
    fn lose(&mut self, attempt: u32) -> Vec<Effect> {
        let next = attempt.saturating_add(1);
        let Some(state) = in_session(&mut self.round, &mut self.kept) else {
            return Vec::new();
        };
        state.nonces.remove(&attempt);
        state.request = None;
        state.offered = next;
        state.lost = attempt;
        let (round, labels) = (state.round, state.labels.clone());
        vec![
            Effect::Report(Report::SessionLost {
                round,
                attempt: next,
            }),
            Effect::Prepare {
                session: self.session(round, next),
                labels,
                indexes: Vec::new(),
            },
        ]
    }

    /// The store was made again out of a bundle. What this member did after that was written is not known, and
    /// what it sent last may not have arrived.
    ///
    /// An open round is left: the copy that is gone may have responded and signed in it. Updates stay what they are,
    /// for they may have been announced (rule 10). That no two signals can both confirm does not depend on memory:
    /// what is signed from now on spends the tip that the chain shows (rule 4).
    pub(super) fn recovered(&mut self) -> Step {
        self.round = None;
        self.kept = None;
        self.early = None;
        self.asked.clear();
        self.recalling.clear();
        for mine in self.indexes.values_mut() {
            mine.restored = mine.update.is_some();
        }
        let mut effects = self.repeat_formation();
        effects.extend(self.request_round());
        effects.extend(self.after_facts());
        Step::with(effects)
    }

    /// Secret nonces live in memory only: after a restart the ones that were offered are gone, and fresh
    /// ones are offered where that still counts.
    pub(super) fn restarted(&mut self) -> Step {
        let Some(state) = in_session(&mut self.round, &mut self.kept) else {
            return Step::accepted();
        };
        let round = state.round;
        let lost = state.signing.take().map(|(attempt, _)| attempt);
        let waiting = state.request.as_ref().map(|request| request.attempt);
        let last_sent = state.sent.keys().next_back().copied().unwrap_or(0);
        state.nonces.clear();
        // The session that was asked for can not be signed any more; the next one can.
        if let Some(attempt) = lost.or(waiting) {
            return Step::with(self.lose(attempt));
        }
        // Signed and sent: the outbox sends the same bytes again. Spares are replaced when asked for.
        if last_sent >= state.offered {
            return Step::accepted();
        }
        let (attempt, responded) = (state.offered, state.responded);
        let labels = state.labels.clone();
        let covered = self.indexes.iter();
        let covered = covered.filter(|(_, mine)| !responded && mine.covered_in(round));
        Step::with(vec![Effect::Prepare {
            session: self.session(round, attempt),
            labels,
            indexes: covered.map(|(index, _)| *index).collect(),
        }])
    }
}
