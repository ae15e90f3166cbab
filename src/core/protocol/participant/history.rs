//! Asking the aggregator for proofs of past rounds, and checking what comes (DESIGN §5 "History").
//!
//! Nothing of an answer is believed: the signals are those the own chain shows or this member signed, a path must
//! lead to one of them, an announcement must hash to it. A leaf that is not empty says nothing by itself: the
//! driver is asked for the nonce of that round and for the updates of the DID ([`Effect::Recall`]), and the leaf
//! counts only if it is made of them.

use std::collections::BTreeSet;

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::Participant;
use super::coverage::IndexState;
use crate::beacon::smt::{EMPTY_LEAF, Leaf};
use crate::hash::{SignalBytes, SmtIndex, SmtNonce, UpdateHash};
use crate::protocol::effect::{Artifact, Effect, Ignored, Outcome, Report, Step};
use crate::protocol::ids::Round;
use crate::protocol::message::{History, HistoryItem, HistoryRequest, Message};
use crate::protocol::terms::CohortBeacon;
use crate::time::UnixTime;

/// Seconds after which a request that was not answered is repeated.
const ASK_AGAIN_SECONDS: u64 = 3_600;

/// Seconds after which a request is repeated that came too soon after others.
const TOO_MANY_SECONDS: u64 = 60;

/// Answers without what is missing after which the next fact from the chain does not ask again at once.
const VAIN_ANSWERS: u8 = 3;

/// The longest time from such an answer to the next request, in seconds.
const LONGEST_VAIN_SECONDS: u64 = 6 * 3_600;

/// A request for the history of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// The first round asked for.
    from: Round,
    /// When it is repeated, unless an answer came.
    again: UnixTime,
}

/// Answers that did not have all that was missing: what an aggregator has lost it may get back from others, but what
/// nobody knows any more is not asked for with every block for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vain {
    /// How many in a row.
    times: u8,
    /// How much was missing after the last one.
    missing: usize,
    /// Until then the same is not asked for again.
    until: UnixTime,
}

/// The driver's answer to [`Effect::Recall`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// The index.
    pub index: SmtIndex,
    /// Its nonces in the rounds that were asked for.
    pub nonces: Vec<(Round, SmtNonce)>,
    /// The hashes of all updates of its DID that are stored.
    pub updates: Vec<UpdateHash>,
}

/// Says how much was saved, if anything.
fn fetched_report(index: SmtIndex, effects: &[Effect]) -> Option<Effect> {
    let saved = effects.iter();
    let saved = saved.filter(|effect| matches!(effect, Effect::Save(_)));
    let proofs = u32::try_from(saved.count()).unwrap_or(u32::MAX);
    (proofs > 0).then_some(Effect::Report(Report::HistoryFetched { index, proofs }))
}

/// What an item of an answer is worth.
enum Verdict {
    /// It proves what happened to the index.
    Proved(Box<Artifact>),
    /// It belongs to the signal; only what this member did in that round can tell what it means.
    Recall,
    /// It proves nothing.
    Bad,
}

impl Participant {
    /// Asks for the history of every index that lacks a proof and is not asked for already.
    pub(super) fn ask_for_history(&mut self) -> Vec<Effect> {
        let now = self.now;
        let wanting: Vec<(SmtIndex, Round)> = self
            .indexes
            .iter()
            .filter(|(_, mine)| matches!(mine.state, IndexState::Covered(_)))
            .filter(|(index, _)| !self.recalling.contains_key(*index))
            .filter_map(|(index, mine)| {
                let asked = self.asked.get(index);
                if asked.is_some_and(|asked| asked.again > now) {
                    return None;
                }
                let missing = self.missing(index);
                let vain = mine.vain.filter(|_| asked.is_none());
                if missing.is_empty()
                    || vain.is_some_and(|vain| vain.until > now && missing.len() <= vain.missing)
                {
                    return None;
                }
                let from = asked.map_or_else(|| self.first_round_of(&missing), |asked| asked.from);
                Some((*index, from))
            })
            .collect();
        wanting
            .into_iter()
            .map(|(index, from)| self.ask_from(index, from))
            .collect()
    }

    fn ask_from(&mut self, index: SmtIndex, from_round: Round) -> Effect {
        let asked = Asked {
            from: from_round,
            again: self.now.plus(ASK_AGAIN_SECONDS),
        };
        self.asked.insert(index, asked);
        self.send(Message::HistoryRequest(HistoryRequest {
            index,
            from_round,
        }))
    }

    /// The first round that can explain one of these signals: signals of rounds this member signed have a
    /// number, others may be of any round.
    fn first_round_of(&self, signals: &BTreeSet<SignalBytes>) -> Round {
        let round_of = |signal: &SignalBytes| {
            let mut given = self.given.iter();
            let signed = given.find(|given| given.signal == *signal);
            signed.map(|given| given.round).or_else(|| {
                // Of a round that is settled, the watch knows the number.
                let mut on_chain = self.unproved.iter();
                let (txid, _) = on_chain.find(|(_, known)| *known == signal)?;
                self.watch.round_of(txid)
            })
        };
        signals
            .iter()
            .map(round_of)
            .min()
            .flatten()
            .unwrap_or(Round(1))
    }

    /// When a request has to be repeated, if one waits.
    ///
    /// A tick that does nothing is not logged, so it must not change anything: what lacks nothing any more waits for no
    /// time.
    pub(super) fn history_due(&self) -> Option<UnixTime> {
        let asked = self.asked.iter();
        let wanting = asked.filter(|(index, _)| self.wants_history(index));
        wanting.map(|(_, asked)| asked.again).min()
    }

    /// Whether something has to be asked for, and may be.
    fn wants_history(&self, index: &SmtIndex) -> bool {
        let covered = self
            .indexes
            .get(index)
            .is_some_and(|mine| matches!(mine.state, IndexState::Covered(_)));
        covered && !self.recalling.contains_key(index) && !self.missing(index).is_empty()
    }

    /// Time passed: requests without an answer are repeated.
    pub(super) fn history_timer(&mut self) -> Step {
        let now = self.now;
        if self.history_due().is_none_or(|at| at > now) {
            return Step::accepted();
        }
        Step::with(self.ask_for_history())
    }

    /// Forgets requests that are of no use any more: something else explained what they asked for.
    pub(super) fn forget_asked(&mut self) {
        let done: Vec<SmtIndex> = self
            .asked
            .keys()
            .filter(|index| self.missing(index).is_empty())
            .copied()
            .collect();
        for index in done {
            self.asked.remove(&index);
        }
    }

    /// The aggregator was asked too often: the same again, a little later.
    pub(super) fn asked_too_often(&mut self) -> Step {
        let soon = self.now.plus(TOO_MANY_SECONDS);
        for asked in self.asked.values_mut() {
            asked.again = asked.again.min(soon);
        }
        Step::accepted()
    }

    pub(super) fn history(&mut self, history: History) -> Step {
        let index = history.index;
        let Some(asked) = self.asked.remove(&index) else {
            return Step::ignored(Ignored::Unasked);
        };
        let mut effects = Vec::new();
        let mut bad = false;
        let mut missing = self.missing(&index);
        let mut recall: Vec<HistoryItem> = Vec::new();
        for item in history.items {
            // Only what is needed is kept: an aggregator may name as many signals as it likes.
            if !missing.contains(&item.signal) {
                continue;
            }
            match self.judge(&index, &item) {
                Verdict::Proved(artifact) => {
                    missing.remove(&item.signal);
                    effects.extend(self.fetched(&index, *artifact));
                }
                Verdict::Recall => recall.push(item),
                Verdict::Bad => bad = true,
            }
        }
        effects.extend(fetched_report(index, &effects));
        // An answer that does not get further would be asked for again for ever.
        let next = history.next.filter(|next| *next > asked.from);
        if let Some(from_round) = next {
            effects.push(self.ask_from(index, from_round));
        }
        if bad {
            effects.push(Effect::Report(Report::Alarm {
                text: format!("the history of index {index} does not verify"),
            }));
        }
        if !recall.is_empty() {
            let rounds = recall.iter().map(|item| item.round).collect();
            effects.push(Effect::Recall { index, rounds });
            self.recalling.entry(index).or_default().extend(recall);
        }
        effects.extend(self.after_answer(&index));
        Step {
            outcome: if bad {
                Outcome::Ignored(Ignored::BadProof)
            } else {
                Outcome::Accepted
            },
            effects,
        }
    }

    /// After a restart: what was to be remembered of past rounds and was not is asked for again. Nothing else is asked of
    /// the aggregator about these indexes meanwhile.
    pub(super) fn recalls_restarted(&self) -> impl Iterator<Item = Effect> {
        self.recalling.iter().map(|(index, items)| Effect::Recall {
            index: *index,
            rounds: items.iter().map(|item| item.round).collect(),
        })
    }

    /// What the driver remembers of past rounds decides about the leaves that wait for it.
    pub(super) fn recalled(&mut self, recalled: &Recalled) -> Step {
        let index = recalled.index;
        let Some(items) = self.recalling.remove(&index) else {
            return Step::ignored(Ignored::Unasked);
        };
        let mut effects = Vec::new();
        let mut foreign = Vec::new();
        for item in items {
            if !self.missing(&index).contains(&item.signal) {
                continue;
            }
            match self.opened(&index, &item, recalled) {
                Some(artifact) => effects.extend(self.fetched(&index, artifact)),
                None => foreign.push(item.round),
            }
        }
        effects.extend(fetched_report(index, &effects));
        // Once: it is as it is, and there is an answer for every request.
        let said = self.indexes.get_mut(&index).map(|mine| &mut mine.foreign);
        if let Some(said) = said {
            foreign.retain(|round| said.insert(*round));
        }
        for round in &foreign {
            effects.push(Effect::Report(Report::Alarm {
                text: format!(
                    "round {round} announced something for index {index} that this agent did not ask for"
                ),
            }));
        }
        effects.extend(self.after_answer(&index));
        Step {
            outcome: if foreign.is_empty() {
                Outcome::Accepted
            } else {
                Outcome::Ignored(Ignored::BadProof)
            },
            effects,
        }
    }

    /// The driver has lost what it had saved for these signals: it is asked for again.
    pub(super) fn lost(&mut self, index: SmtIndex, signals: &[SignalBytes]) -> Step {
        let Some(mine) = self.indexes.get_mut(&index) else {
            return Step::ignored(Ignored::Unasked);
        };
        let before = mine.proved.len();
        for signal in signals {
            mine.proved.remove(signal);
        }
        if mine.proved.len() == before {
            return Step::ignored(Ignored::Duplicate);
        }
        mine.vain = None;
        // An answer on its way may not have all of it.
        self.asked.remove(&index);
        self.look_at_all_signals();
        Step::with(self.ask_for_history())
    }

    /// The user wants what is missing now, whoever was asked before.
    pub(super) fn fetch(&mut self, index: SmtIndex) -> Step {
        if !self.indexes.contains_key(&index) {
            return Step::ignored(Ignored::Unasked);
        }
        let missing = self.missing(&index);
        if missing.is_empty() {
            return Step::accepted();
        }
        let from = self.first_round_of(&missing);
        Step::with(vec![self.ask_from(index, from)])
    }

    fn after_answer(&mut self, index: &SmtIndex) -> Vec<Effect> {
        self.note_vain(index);
        // What is still missing is not asked for again at once, neither for this index nor for another one: that would
        // be a loop with an aggregator that does not have it. The next fact from the chain asks again, or one that comes
        // later the more often it was in vain.
        self.forget_explained();
        self.forget_asked();
        self.after_proofs()
    }

    /// Counts an answer that is complete and did not have all that was missing.
    fn note_vain(&mut self, index: &SmtIndex) {
        if self.asked.contains_key(index) || self.recalling.contains_key(index) {
            return;
        }
        let missing = self.missing(index).len();
        let now = self.now;
        let Some(mine) = self.indexes.get_mut(index) else {
            return;
        };
        if missing == 0 {
            mine.vain = None;
            return;
        }
        // One that had some of it was not in vain.
        let last = mine.vain.filter(|vain| missing >= vain.missing);
        let times = last.map_or(1, |vain| vain.times.saturating_add(1));
        let seconds = times.checked_sub(VAIN_ANSWERS).map_or(0, |beyond| {
            let doubled = 1_u64 << beyond.min(8);
            (ASK_AGAIN_SECONDS * doubled).min(LONGEST_VAIN_SECONDS)
        });
        mine.vain = Some(Vain {
            times,
            missing,
            until: now.plus(seconds),
        });
    }

    fn fetched(&mut self, index: &SmtIndex, artifact: Artifact) -> Option<Effect> {
        let (Artifact::SmtProof { signal, .. } | Artifact::Announcement { signal, .. }) = &artifact
        else {
            return None;
        };
        let announces = match &artifact {
            Artifact::SmtProof { update, .. } => *update,
            Artifact::Announcement { announcement, .. } => {
                let did = self.indexes.get(index)?.did.as_ref()?;
                let map = self.parse_announcement(announcement).ok()?;
                map.update_of(did.as_str())
            }
            _ => None,
        };
        let mine = self.indexes.get_mut(index)?;
        mine.proved.insert(*signal);
        mine.fetched = mine.fetched.saturating_add(1);
        if announces.is_some() && announces == mine.update {
            // A copy of this agent that is gone announced it.
            mine.announced.insert(*signal);
        }
        Some(Effect::Save(artifact))
    }

    /// The transaction of a signal, as this member knows it: never as the aggregator calls it.
    fn txid_of(&self, item: &HistoryItem) -> Option<Txid> {
        let on_chain = self.chain.signals.iter();
        let seen = on_chain.filter(|(_, seen)| seen.signal == item.signal);
        let given = self.given.iter();
        let signed = given.filter(|given| given.signal == item.signal);
        let mut known = seen
            .map(|(txid, _)| *txid)
            .chain(signed.map(|given| given.txid));
        let first = known.next()?;
        Some(if known.any(|txid| txid == item.txid) {
            item.txid
        } else {
            first
        })
    }

    /// Whether an item proves that nothing was announced for the index, or what has to be known to tell.
    fn judge(&self, index: &SmtIndex, item: &HistoryItem) -> Verdict {
        match self.terms.beacon {
            CohortBeacon::Smt => {
                let Some(path) = &item.path else {
                    return Verdict::Bad;
                };
                let leaf = item.leaf.unwrap_or(EMPTY_LEAF);
                if path.verify_leaf_value(index, &leaf, &item.signal).is_err() {
                    return Verdict::Bad;
                }
                if leaf != EMPTY_LEAF {
                    return Verdict::Recall;
                }
                self.proof(index, item, None, None)
                    .map_or(Verdict::Bad, |artifact| Verdict::Proved(Box::new(artifact)))
            }
            CohortBeacon::Cas => {
                let mine = self.indexes.get(index).and_then(|mine| mine.did.as_ref());
                let (Some(text), Some(did)) = (&item.announcement, mine) else {
                    return Verdict::Bad;
                };
                match self.parse_announcement(text) {
                    Ok(map) if map.signal_bytes() == item.signal => {
                        if map.update_of(did.as_str()).is_some() {
                            return Verdict::Recall;
                        }
                    }
                    _ => return Verdict::Bad,
                }
                self.announcement(item)
                    .map_or(Verdict::Bad, |artifact| Verdict::Proved(Box::new(artifact)))
            }
        }
    }

    /// The artifact of an item whose leaf or entry is made of what the driver remembers.
    fn opened(
        &self,
        index: &SmtIndex,
        item: &HistoryItem,
        recalled: &Recalled,
    ) -> Option<Artifact> {
        match self.terms.beacon {
            CohortBeacon::Smt => {
                let value = item.leaf?;
                let mut nonces = recalled.nonces.iter();
                let nonce = nonces.find(|(round, _)| *round == item.round)?.1;
                let updates = recalled.updates.iter().copied().map(Some);
                updates
                    .chain([None])
                    .flat_map(|update| [(Some(nonce), update), (None, update)])
                    .find(|(nonce, update)| {
                        let leaf = Leaf {
                            nonce: *nonce,
                            update: *update,
                        };
                        leaf.value() == value
                    })
                    .and_then(|(nonce, update)| self.proof(index, item, nonce, update))
            }
            CohortBeacon::Cas => {
                let did = self.indexes.get(index)?.did.as_ref()?;
                let map = self.parse_announcement(item.announcement.as_ref()?).ok()?;
                let update = map.update_of(did.as_str())?;
                recalled.updates.contains(&update).then_some(())?;
                self.announcement(item)
            }
        }
    }

    fn proof(
        &self,
        index: &SmtIndex,
        item: &HistoryItem,
        nonce: Option<SmtNonce>,
        update: Option<UpdateHash>,
    ) -> Option<Artifact> {
        Some(Artifact::SmtProof {
            round: item.round,
            index: *index,
            signal: item.signal,
            txid: self.txid_of(item)?,
            nonce,
            update,
            path: item.path.clone()?,
        })
    }

    fn announcement(&self, item: &HistoryItem) -> Option<Artifact> {
        Some(Artifact::Announcement {
            round: item.round,
            signal: item.signal,
            txid: self.txid_of(item)?,
            announcement: item.announcement.clone()?,
        })
    }

    /// The signals for which this member believes to have saved a proof or announcement for an index.
    pub fn proved_signals(&self, index: &SmtIndex) -> impl Iterator<Item = SignalBytes> + '_ {
        let mine = self.indexes.get(index);
        mine.into_iter()
            .flat_map(|mine| mine.proved.iter().copied())
    }
}
