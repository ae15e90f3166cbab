//! What a signal through the leaf announces: read whole, compared with what this member said, and kept.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Txid;

use super::super::Participant;
use super::{Published, Said};
use crate::beacon::smt::{EMPTY_LEAF, SmtTree};
use crate::hash::{SignalBytes, SmtIndex};
use crate::protocol::effect::{Artifact, Effect};
use crate::protocol::ids::Round;
use crate::protocol::message::Announced;
use crate::protocol::terms::CohortBeacon;

impl Participant {
    /// Reads what is announced, strictly, and says which signal it is.
    pub(super) fn read(&self, announced: &Announced) -> Result<(SignalBytes, Published), String> {
        match (self.terms.beacon, announced) {
            (CohortBeacon::Smt, Announced::Smt(leaves)) => {
                let seats = self.set.as_ref().map_or(0, |(set, _)| set.keys.len());
                let most = seats.saturating_mul(self.terms.dids_max.into());
                if leaves.len() > most {
                    return Err(format!(
                        "a fallback announces {} leaves, more than the {most} there can be",
                        leaves.len()
                    ));
                }
                let tree = SmtTree::new(leaves.iter().copied())
                    .map_err(|fault| format!("the leaves of a fallback are no tree: {fault}"))?;
                Ok((tree.root(), Published::Smt(tree)))
            }
            (CohortBeacon::Cas, Announced::Cas(text)) => {
                let map = self.parse_announcement(text)?;
                Ok((map.signal_bytes(), Published::Cas(map)))
            }
            _ => Err("a fallback of another beacon type".into()),
        }
    }

    /// What is announced for each index of mine.
    pub(super) fn what_is_said(
        &self,
        round: Round,
        published: &Published,
    ) -> BTreeMap<SmtIndex, Said> {
        let submitted = self.said_in(round);
        let planned = |index| submitted.and_then(|plan| plan.get(index));
        let taken_back = self.taken_back_in(round);
        let taken_back = |index| taken_back.and_then(|plan| plan.get(index));
        let said = self.indexes.iter().map(|(index, mine)| {
            let said = match published {
                Published::Smt(tree) => match (tree.value_at(index), planned(index)) {
                    (value, Some(planned)) if planned.leaf.value() == value => {
                        Said::Mine(planned.update)
                    }
                    (EMPTY_LEAF, _) => Said::Nothing,
                    (value, _) => match taken_back(index) {
                        Some(planned) if planned.leaf.value() == value => {
                            Said::TakenBack(planned.update)
                        }
                        _ => Said::Foreign,
                    },
                },
                Published::Cas(map) => {
                    let did = mine.did.as_ref();
                    match (
                        did.and_then(|did| map.update_of(did.as_str())),
                        planned(index),
                    ) {
                        (update, Some(planned)) if planned.update == update => Said::Mine(update),
                        (None, _) => Said::Nothing,
                        (update, _) => match taken_back(index) {
                            Some(planned) if planned.update == update => Said::TakenBack(update),
                            _ => Said::Foreign,
                        },
                    }
                }
            };
            (*index, said)
        });
        said.collect()
    }

    /// Rule 3: of a seat that responded each index is as it said, of an absent one each is empty.
    pub(super) fn objection(
        &self,
        round: Round,
        absent: bool,
        said: &BTreeMap<SmtIndex, Said>,
        published: &Published,
    ) -> Option<String> {
        let submitted = self.said_in(round);
        let wrong = said.iter().find(|(index, said)| {
            let mine = submitted.is_some_and(|plan| plan.contains_key(*index));
            match said {
                Said::Foreign | Said::TakenBack(_) => true,
                Said::Nothing => mine && !absent,
                Said::Mine(update) => absent && (update.is_some() || published.has_leaf(index)),
            }
        });
        wrong.map(|(index, said)| match said {
            Said::Foreign => format!("it announces what I did not submit for my index {index}"),
            Said::TakenBack(_) => {
                format!("it announces for my index {index} what I said before that was refused")
            }
            Said::Nothing => format!("it leaves out what I submitted for my index {index}"),
            Said::Mine(_) => format!("it calls my seat absent and announces my index {index}"),
        })
    }

    /// Keeps everything that is announced, and the proofs of my indexes. They count whoever signs.
    pub(super) fn keep(
        &mut self,
        round: Round,
        signal: SignalBytes,
        txid: Txid,
        announced: &Announced,
        published: &Published,
        said: &BTreeMap<SmtIndex, Said>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        // A session that was approved in this round has kept the same already.
        let kept = self
            .round
            .as_ref()
            .filter(|state| state.round == round)
            .filter(|state| {
                let approved = state.approved.as_ref();
                approved.is_some_and(|approved| approved.ladder.signal == signal)
            });
        let kept: BTreeSet<SmtIndex> = kept
            .into_iter()
            .flat_map(|state| state.plan.keys().copied())
            .collect();
        let submitted = self.said_in(round).cloned();
        let taken_back = self.taken_back_in(round).cloned();
        for (index, said) in said {
            let Some(mine) = self.indexes.get_mut(index) else {
                continue;
            };
            let update = match said {
                Said::Foreign => continue,
                Said::Nothing => None,
                Said::Mine(update) | Said::TakenBack(update) => *update,
            };
            if update.is_some() && mine.update == update {
                // k others can announce it without me: nothing else may be announced (rule 10).
                mine.announced.insert(signal);
            }
            mine.proved.insert(signal);
            if kept.contains(index) {
                continue;
            }
            if let Published::Smt(tree) = published {
                let made_of = match said {
                    Said::Mine(_) => submitted.as_ref(),
                    Said::TakenBack(_) => taken_back.as_ref(),
                    Said::Nothing | Said::Foreign => None,
                };
                let leaf = made_of.and_then(|plan| plan.get(index));
                effects.push(Effect::Save(Artifact::SmtProof {
                    round,
                    index: *index,
                    signal,
                    txid,
                    nonce: leaf.and_then(|planned| planned.leaf.nonce),
                    update,
                    path: tree.prove(index),
                }));
            }
        }
        match announced {
            Announced::Smt(leaves) => effects.push(Effect::Save(Artifact::LeafSet {
                round,
                signal,
                txid,
                leaves: leaves.clone(),
            })),
            Announced::Cas(text) if kept.is_empty() => {
                effects.push(Effect::Save(Artifact::Announcement {
                    round,
                    signal,
                    txid,
                    announcement: text.clone(),
                }));
            }
            Announced::Cas(_) => {}
        }
        effects
    }
}
