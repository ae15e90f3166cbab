//! What this member said in rounds that others may still sign through the leaf.
//!
//! From the moment a response is sent, k others can announce what it says: also after this member was told that the
//! round failed, and before it hears that they were asked. So what was said is kept until a later signal is final,
//! which spends what that one would have spent, and every signal on the chain is explained. Until then an update that
//! was said counts as one that may confirm (rule 10).

use std::collections::BTreeMap;

use super::super::Participant;
use super::super::round::Planned;
use super::{Fallbacks, REMEMBERED};
use crate::hash::SmtIndex;
use crate::protocol::aggregator::FINAL_DEPTH;
use crate::protocol::ids::Round;
use crate::protocol::terms::OutputPolicy;

/// What was said in a round.
pub(super) type Plan = BTreeMap<SmtIndex, Planned>;

impl Participant {
    /// The open round was responded to.
    pub(in super::super) fn note_responded(&mut self) {
        let OutputPolicy::KOfN(_) = self.terms.output_policy else {
            return;
        };
        let Some(state) = &self.round else {
            return;
        };
        let Fallbacks {
            responded,
            taken_back,
            ..
        } = &mut self.fallbacks;
        // One that the aggregator refused was said all the same: it is signed, and nobody can unsay it.
        if let Some(before) = responded.insert(state.round, state.plan.clone()) {
            taken_back.insert(state.round, before);
        }
        if responded.len() > REMEMBERED {
            responded.pop_first();
        }
        taken_back.retain(|round, _| responded.contains_key(round));
    }

    /// What was said in a round, if it was responded to.
    pub(super) fn said_in(&self, round: Round) -> Option<&Plan> {
        let open = self.round.as_ref();
        let open = open.filter(|state| state.round == round && state.responded);
        open.map(|state| &state.plan)
            .or_else(|| self.fallbacks.responded.get(&round))
    }

    /// What was said first in a round, if the aggregator refused that over its deposits.
    pub(super) fn taken_back_in(&self, round: Round) -> Option<&Plan> {
        self.fallbacks.taken_back.get(&round)
    }

    /// Whether others may announce what is queued for an index: it was said in a round that is not decided.
    pub(in super::super) fn others_may_announce(&self, index: &SmtIndex) -> bool {
        let queued = self.indexes.get(index).and_then(|mine| mine.update);
        let taken_back = self.fallbacks.taken_back.values();
        let mut said = self.fallbacks.responded.values().chain(taken_back);
        queued.is_some()
            && said.any(|plan| {
                let planned = plan.get(index);
                planned.is_some_and(|planned| planned.update == queued)
            })
    }

    /// Forgets what was said in rounds that the chain has decided: all signals are one chain (rule 4), so that a final
    /// one leaves no room for one of an earlier round that is not there yet.
    pub(in super::super) fn forget_responded(&mut self) {
        let is_final = |height| self.chain.confirmations(height) >= FINAL_DEPTH;
        let given = self.given.iter();
        let last = given
            .filter(|given| given.confirmed.is_some_and(is_final))
            .map(|given| given.round)
            .max();
        let Some(last) = last else {
            return;
        };
        let explained = |plan: &Plan| plan.keys().all(|index| self.missing(index).is_empty());
        let decided: Vec<Round> = self
            .fallbacks
            .responded
            .range(..last)
            .filter(|(_, plan)| explained(plan))
            .map(|(round, _)| *round)
            .collect();
        for round in decided {
            self.fallbacks.responded.remove(&round);
            self.fallbacks.taken_back.remove(&round);
        }
    }
}
