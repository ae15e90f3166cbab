//! A store that was made again out of the words alone: what a seat was told is asked for again.
//!
//! Nothing of the answer is believed that can be checked. The set counts only with this seat's own signature of it, which
//! is among those that froze it. Rounds that were open when the store began are left: the store that is lost may have
//! responded and signed in them. And every index of the seat counts as bound from the start, so that no signal is signed
//! that is not covered by proofs (rule 13).

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{ScriptBuf, Txid};
use serde::{Deserialize, Serialize};

use super::coverage::{BindingState, IndexState, MyIndex};
use super::{MemberPhase, Participant};
use crate::did::Did;
use crate::hash::SmtIndex;
use crate::protocol::effect::{Effect, Ignored, Outcome, Report, Step};
use crate::protocol::ids::{Round, Subject};
use crate::protocol::message::{
    Frozen, Message, RegisteredItem, RoundOpen, SeatRequest, SeatState,
};
use crate::protocol::set::CohortSet;
use crate::protocol::terms::CohortBeacon;
use crate::time::UnixTime;

/// Seconds after which a request that was not answered is repeated.
const ASK_AGAIN_SECONDS: u64 = 3_600;

/// What is behind an index of the seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Regained {
    /// The index.
    pub index: SmtIndex,
    /// The DID, if a key of this agent leads to it. A CAS cohort needs it.
    pub did: Option<Did>,
}

/// A seat that the store knew nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reseat {
    /// When the store began to look.
    since: UnixTime,
    /// When the aggregator is asked again; `None` once it answered.
    again: Option<UnixTime>,
    /// The last round that was opened before the aggregator answered.
    last_round: Option<u32>,
    /// Indexes of the seat behind which no DID was found yet, with the first round that covers them.
    unclaimed: BTreeMap<SmtIndex, Round>,
    /// Whether the chain was looked at: what spent the beacon before is not unknown to the store that is lost.
    looked: bool,
}

impl Participant {
    pub(super) fn begin_reseat(&mut self, payee: Option<ScriptBuf>) -> Step {
        if self.phase != MemberPhase::New {
            return Step::ignored(Ignored::WrongPhase);
        }
        self.phase = MemberPhase::Asked;
        self.payee = payee;
        self.reseat = Some(Reseat {
            since: self.now,
            again: Some(self.now.plus(ASK_AGAIN_SECONDS)),
            last_round: None,
            unclaimed: BTreeMap::new(),
            looked: false,
        });
        Step::with(vec![self.seat_request()])
    }

    pub(super) fn seat_request(&self) -> Effect {
        self.send(Message::SeatRequest(SeatRequest {}))
    }

    /// When the aggregator is asked for the seat again.
    pub(super) fn reseat_due(&self) -> Option<UnixTime> {
        self.reseat.as_ref()?.again
    }

    /// Asks for the seat again, when that is due.
    pub(super) fn ask_for_seat(&mut self) -> Option<Effect> {
        let now = self.now;
        let over = !matches!(
            self.phase,
            MemberPhase::Asked
                | MemberPhase::Seated(_)
                | MemberPhase::Acknowledged
                | MemberPhase::Active
        );
        let reseat = self.reseat.as_mut()?;
        reseat.again.filter(|again| *again <= now)?;
        reseat.again = (!over).then(|| now.plus(ASK_AGAIN_SECONDS));
        (!over).then(|| self.seat_request())
    }

    /// The payee a set must have for this member. What a lost store asked for is not known: then it is what the set says,
    /// and this member acknowledges it only if it could have asked for that.
    pub(super) fn expected_payee(&self, set: &CohortSet) -> Option<ScriptBuf> {
        match self.reseat {
            None => self.payee.clone(),
            Some(_) => set.payees.get(&self.me).cloned(),
        }
    }

    /// Relays that serve the newest first have this before the set. Who never lost a store knows the set by then, because
    /// nothing is frozen without every member's signature; a store that is an old copy does not, nor one that is made anew.
    pub(super) fn keep_frozen(&mut self, frozen: &Frozen) -> Step {
        match self.phase {
            MemberPhase::Asked | MemberPhase::Seated(_) => {
                self.early_frozen = Some(frozen.clone());
                Step::accepted()
            }
            _ => Step::ignored(Ignored::WrongPhase),
        }
    }

    pub(super) fn early_frozen(&mut self) -> Vec<Effect> {
        let frozen = self.early_frozen.take();
        let now = self.now;
        frozen.map_or(Vec::new(), |frozen| self.frozen(now, &frozen).effects)
    }

    /// Whether a message is about a round that the aggregator had opened before it answered: that was for the store that
    /// is lost, which may have responded and signed. Before the answer that is every round that was not opened here.
    pub(super) fn is_of_lost_store(&self, message: &Message) -> bool {
        let (Some(Subject::Round(round)), Some(reseat)) = (message.subject(), &self.reseat) else {
            return false;
        };
        match (reseat.last_round, message) {
            (Some(last), _) => round.0 <= last,
            (None, Message::RoundOpen(_)) => false,
            (None, _) => {
                let open = self.round.as_ref().is_some_and(|open| open.round == round);
                !open && self.given.iter().all(|given| given.round != round)
            }
        }
    }

    /// Whether a round may have been open when this store began, as far as its deadline tells: who learned the set from
    /// relays, and was not answered, knows no more.
    pub(super) fn opened_before_reseat(&self, open: &RoundOpen) -> bool {
        let seconds = u64::from(self.terms.response_seconds);
        let unanswered = self
            .reseat
            .as_ref()
            .filter(|reseat| reseat.last_round.is_none());
        // In the same second: before.
        unanswered.is_some_and(|reseat| open.respond_by <= reseat.since.plus(seconds))
    }

    /// Whether these are what the first look at the chain shows: they were for the lost store to know.
    pub(super) fn spent_before_reseat(&mut self, unknown: &BTreeSet<Txid>) -> bool {
        let Some(reseat) = self.reseat.as_mut().filter(|reseat| !reseat.looked) else {
            return false;
        };
        if self.chain.height > 0 {
            reseat.looked = true;
            for txid in unknown {
                self.watch.reported(*txid);
            }
        }
        true
    }

    /// What the aggregator says it told this seat.
    pub(super) fn seat_state(&mut self, now: UnixTime, state: SeatState) -> Step {
        let Some(reseat) = &mut self.reseat else {
            return Step::ignored(Ignored::Unasked);
        };
        reseat.last_round.get_or_insert(state.last_round);
        let mut effects = Vec::new();
        let set_hash = state.set.hash(&self.cohort);
        if self.set().is_none_or(|(known, _)| *known != state.set) {
            let step = self.cohort_set(state.set);
            effects.extend(step.effects);
            if matches!(step.outcome, Outcome::Ignored(_)) {
                return Step {
                    outcome: step.outcome,
                    effects,
                };
            }
        }
        if self.phase == MemberPhase::Acknowledged && !state.acks.is_empty() {
            let frozen = Frozen {
                set: set_hash,
                acks: state.acks,
            };
            effects.extend(self.frozen(now, &frozen).effects);
        }
        effects.extend(self.learn_registered(&state.items));
        if self.phase == MemberPhase::Active
            && let Some(reseat) = &mut self.reseat
        {
            reseat.again = None;
        }
        if let Some(why) = state.ended {
            effects.extend(self.ended(why).effects);
        }
        effects.extend(self.after_facts());
        Step::with(effects)
    }

    /// Indexes that the aggregator covers for this seat and this store does not know.
    pub(super) fn learn_registered(&mut self, items: &[RegisteredItem]) -> Option<Effect> {
        let most = usize::from(self.terms.dids_max);
        let reseat = self.reseat.as_mut()?;
        let before = reseat.unclaimed.len();
        for item in items {
            let Some(from_round) = item.from_round else {
                continue;
            };
            let room = reseat.unclaimed.len().saturating_add(self.indexes.len()) < most;
            if room && !self.indexes.contains_key(&item.index) {
                reseat.unclaimed.insert(item.index, from_round);
            }
        }
        let new = reseat.unclaimed.len().saturating_sub(before);
        (new > 0).then(|| {
            Effect::Report(Report::SeatRegained {
                indexes: u16::try_from(new).unwrap_or(u16::MAX),
            })
        })
    }

    /// Whether the store began without knowing of this seat.
    #[must_use]
    pub const fn is_reseated(&self) -> bool {
        self.reseat.is_some()
    }

    /// Indexes of this seat of which it is not known whose they are, with the first round that covers each.
    pub fn unclaimed(&self) -> impl Iterator<Item = (SmtIndex, Round)> + '_ {
        let reseat = self.reseat.iter();
        reseat.flat_map(|reseat| reseat.unclaimed.iter().map(|(index, from)| (*index, *from)))
    }

    /// They are covered as before.
    pub(super) fn regained(&mut self, now: UnixTime, items: Vec<Regained>) -> Step {
        let needs_did = self.terms.beacon == CohortBeacon::Cas;
        let Some(reseat) = &mut self.reseat else {
            return Step::ignored(Ignored::Unasked);
        };
        for Regained { index, did } in items {
            if needs_did && did.is_none() {
                continue;
            }
            let Some(from_round) = reseat.unclaimed.remove(&index) else {
                continue;
            };
            self.indexes.entry(index).or_insert_with(|| {
                let did = did.filter(|_| needs_did);
                MyIndex::new(IndexState::Covered(from_round), did, BindingState::Bound)
            });
        }
        let mut effects = Vec::new();
        if let Some(open) = self.early.take() {
            effects.extend(self.round_open(now, open).effects);
        }
        effects.extend(self.after_facts());
        Step::with(effects)
    }
}
