//! Joining: from the opt-in to the frozen set.

use bitcoin::ScriptBuf;

use super::{MemberPhase, Participant};
use crate::beacon::address::beacon_script;
use crate::protocol::admission::Ticket;
use crate::protocol::effect::{Effect, Ignored, Report, Step};
use crate::protocol::evidence::{Signed, evidence_digest};
use crate::protocol::ids::Seat;
use crate::protocol::message::{CohortAck, EndCause, Frozen, Leave, Message, OptIn, RefusalCode};
use crate::protocol::set::CohortSet;
use crate::time::UnixTime;

impl Participant {
    pub(super) fn join(&mut self, payee: Option<ScriptBuf>) -> Step {
        // A refusal is the end of one request, not of all: with a code, or more work, another may do.
        let again = matches!(self.phase, MemberPhase::Refused(_));
        if self.phase != MemberPhase::New && !again {
            return Step::ignored(Ignored::WrongPhase);
        }
        self.phase = MemberPhase::Asked;
        self.payee = payee;
        let mut effects = vec![self.opt_in()];
        if again {
            effects.push(Effect::Report(Report::AskedAgain));
        }
        Step::with(effects)
    }

    pub(super) fn take_ticket(&mut self, ticket: Option<Ticket>) -> Step {
        if !matches!(self.phase, MemberPhase::New | MemberPhase::Refused(_)) {
            return Step::ignored(Ignored::WrongPhase);
        }
        self.ticket = ticket;
        Step::accepted()
    }

    pub(super) fn waits(&mut self, until: UnixTime) -> Step {
        if self.phase != MemberPhase::Asked {
            return Step::ignored(Ignored::WrongPhase);
        }
        if self.decision_until == Some(until) {
            return Step::ignored(Ignored::Duplicate);
        }
        self.decision_until = Some(until);
        Step::with(vec![Effect::Report(Report::DecisionPending { until })])
    }

    pub(super) fn rejected(&mut self, reason: &str) -> Step {
        if self.phase != MemberPhase::Asked {
            return Step::ignored(Ignored::WrongPhase);
        }
        self.phase = MemberPhase::Refused(RefusalCode::Rejected);
        let reason = reason.chars().take(200).collect();
        Step::with(vec![Effect::Report(Report::Rejected { reason })])
    }

    fn opt_in(&self) -> Effect {
        self.send(Message::OptIn(OptIn {
            terms: self.cohort,
            tos: self.terms.tos.as_ref().map(|tos| tos.sha256),
            payee: self.payee.clone(),
            ticket: self.ticket.clone(),
        }))
    }

    /// Says again what the aggregator waits for, if it does: it may not have arrived.
    pub(super) fn repeat_formation(&self) -> Vec<Effect> {
        match (&self.phase, &self.set) {
            // What this seat once opted in with is not known.
            (MemberPhase::Asked, _) if self.reseat.is_some() => vec![self.seat_request()],
            (MemberPhase::Asked, _) => vec![self.opt_in()],
            (MemberPhase::Acknowledged, Some((set, _))) => {
                let ack = CohortAck {
                    set: set.hash(&self.cohort),
                };
                vec![self.send(Message::CohortAck(Signed::unsigned(ack)))]
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn accepted(&mut self, seat: Seat) -> Step {
        match self.phase {
            MemberPhase::Asked => {
                self.phase = MemberPhase::Seated(seat);
                Step::with(vec![Effect::Report(Report::Seated { seat })])
            }
            MemberPhase::Seated(_) => Step::ignored(Ignored::Duplicate),
            _ => Step::ignored(Ignored::WrongPhase),
        }
    }

    pub(super) fn cohort_set(&mut self, set: CohortSet) -> Step {
        if let Some((known, _)) = &self.set {
            if *known == set {
                return Step::ignored(Ignored::Duplicate);
            }
            return Self::contradiction("the aggregator shows a second, different key set");
        }
        // The acceptance may still be on its way: the set itself says that there is a seat.
        if !matches!(self.phase, MemberPhase::Asked | MemberPhase::Seated(_)) {
            return Step::ignored(Ignored::WrongPhase);
        }
        let payee = self.expected_payee(&set);
        let keys = match set.verify(&self.terms, self.me, payee.as_ref()) {
            Ok(keys) => keys,
            Err(fault) => return Self::contradiction(&format!("the key set is refused: {fault}")),
        };
        let Some(seat) = set.seat_of(&self.me) else {
            return Self::contradiction("the key set has no seat for me");
        };
        let ack = CohortAck {
            set: set.hash(&self.cohort),
        };
        self.script = beacon_script(keys.output_key());
        let mut effects = Vec::new();
        if payee.is_none() || payee == self.payee {
            effects.push(Effect::Report(Report::SetAcknowledged {
                seat,
                address: set.address.clone(),
            }));
            effects.push(self.send(Message::CohortAck(Signed::unsigned(ack))));
        }
        self.set = Some((set, keys));
        self.phase = MemberPhase::Acknowledged;
        effects.extend(self.early_frozen());
        Step::with(effects)
    }

    pub(super) fn frozen(&mut self, now: UnixTime, frozen: &Frozen) -> Step {
        if self.phase == MemberPhase::Active {
            return Step::ignored(Ignored::Duplicate);
        }
        let (MemberPhase::Acknowledged, Some((set, _))) = (&self.phase, &self.set) else {
            return self.keep_frozen(frozen);
        };
        let hash = set.hash(&self.cohort);
        if frozen.set != hash || frozen.acks.len() != set.keys.len() {
            return Self::contradiction("the frozen set is not the one acknowledged");
        }
        let digest = evidence_digest(&self.cohort, &CohortAck { set: hash });
        let unsigned = set
            .keys
            .iter()
            .zip(&frozen.acks)
            .find(|(key, ack)| !key.verifies(&digest, ack));
        if let Some((key, _)) = unsigned {
            let text = format!("member {} has not acknowledged the set", key.short());
            return Self::contradiction(&text);
        }
        let address = set.address.clone();
        if self.reseat.is_some() {
            // This seat's own signature is among them: it once checked that this is what it had asked for.
            self.payee = set.payees.get(&self.me).cloned();
        }
        self.phase = MemberPhase::Active;
        let mut effects = vec![Effect::Report(Report::Frozen { address })];
        if let Some(open) = self.early.take() {
            effects.extend(self.round_open(now, open).effects);
        }
        effects.extend(self.early_refund());
        Step::with(effects)
    }

    pub(super) fn leave(&mut self, even_if_frozen: bool) -> Step {
        match self.phase {
            MemberPhase::Asked | MemberPhase::Seated(_) => {
                self.phase = MemberPhase::Released;
            }
            MemberPhase::Acknowledged | MemberPhase::Active if even_if_frozen => {}
            _ => return Step::ignored(Ignored::WrongPhase),
        }
        Step::with(vec![self.send(Message::Leave(Leave { even_if_frozen }))])
    }

    pub(super) fn released(&mut self, reason: String) -> Step {
        // A frozen set does not change: only a seat before that can be released.
        if !matches!(self.phase, MemberPhase::Asked | MemberPhase::Seated(_)) {
            return Step::ignored(Ignored::WrongPhase);
        }
        self.phase = MemberPhase::Released;
        let reason = reason.chars().take(200).collect();
        Step::with(vec![Effect::Report(Report::Released { reason })])
    }

    pub(super) fn ended(&mut self, why: EndCause) -> Step {
        if matches!(self.phase, MemberPhase::Ended(_) | MemberPhase::New) {
            return Step::ignored(Ignored::WrongPhase);
        }
        // Signals already signed may still confirm: they, and their artifacts, stay.
        self.round = None;
        self.kept = None;
        self.phase = MemberPhase::Ended(why.clone());
        Step::with(vec![Effect::Report(Report::Ended { why })])
    }

    /// The aggregator contradicts itself or the rules: not acted on, and shown.
    pub(super) fn contradiction(text: &str) -> Step {
        Step {
            outcome: crate::protocol::effect::Outcome::Ignored(Ignored::Contradiction(
                text.to_owned(),
            )),
            effects: vec![Effect::Report(Report::Alarm {
                text: text.to_owned(),
            })],
        }
    }
}
