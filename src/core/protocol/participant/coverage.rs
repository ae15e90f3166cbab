//! What a member has covered: its indexes, their proofs, and when a DID may be bound to the beacon
//! (DESIGN §5 "History", rules 10 and 13).

use std::collections::BTreeSet;

use super::history::Vain;
use super::{MemberPhase, Participant};
use crate::beacon::cas::CasAnnouncement;
use crate::did::Did;
use crate::hash::{SignalBytes, SmtIndex, UpdateHash};
use crate::protocol::aggregator::FINAL_DEPTH;
use crate::protocol::effect::{Effect, Ignored, Report, Step};
use crate::protocol::ids::Round;
use crate::protocol::message::{
    IndexOpening, Message, Opening, RefusalCode, Register, RegisterItem, Registered, RoundRequest,
};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Where a registration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexState {
    /// Asked for.
    Requested,
    /// Covered from this round on.
    Covered(Round),
    /// Refused.
    Refused(RefusalCode),
}

/// Where the binding of a DID to the beacon stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindingState {
    /// Not registered yet, or the history is incomplete: a document that lists the beacon would not resolve.
    NotYet,
    /// The DID may be created with, or updated to list, the beacon.
    MayBind,
    /// The DID lists the beacon, or an update that adds it is about to be announced: from then on no signal is
    /// signed that does not cover the index.
    Bound,
}

/// One index of this member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MyIndex {
    pub(super) state: IndexState,
    /// CAS: the DID itself.
    pub(super) did: Option<Did>,
    pub(super) binding: BindingState,
    /// The update to announce, until it is confirmed and another one is queued.
    pub(super) update: Option<UpdateHash>,
    /// Signals this member signed that announce `update`.
    pub(super) announced: BTreeSet<SignalBytes>,
    /// Signals for which a verified proof or announcement is kept.
    pub(super) proved: BTreeSet<SignalBytes>,
    pub(super) fetched: u32,
    /// `update` comes from a bundle: whether a copy that is gone announced it is not known.
    pub(super) restored: bool,
    /// Another seat claims it: this one was asked to open it, and has not.
    pub(super) challenged: bool,
    /// How its history was asked for last, when the answer had not all that was missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vain: Option<Vain>,
    /// Rounds that announced something nobody here knows, which was said once: there are few, but where a store was lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) foreign: BTreeSet<Round>,
}

impl MyIndex {
    /// An index of which nothing else is known yet. CAS: with its DID.
    pub(super) const fn new(state: IndexState, did: Option<Did>, binding: BindingState) -> Self {
        Self {
            state,
            did,
            binding,
            update: None,
            announced: BTreeSet::new(),
            proved: BTreeSet::new(),
            fetched: 0,
            restored: false,
            challenged: false,
            vain: None,
            foreign: BTreeSet::new(),
        }
    }

    pub(super) const fn covered_in(&self, round: Round) -> bool {
        matches!(self.state, IndexState::Covered(from) if from.0 <= round.0)
    }
}

impl Participant {
    pub(super) fn register(&mut self, items: Vec<RegisterItem>) -> Step {
        if self.phase != MemberPhase::Active {
            return Step::ignored(Ignored::WrongPhase);
        }
        for item in &items {
            let did = item.opening.as_ref().map(|opening| opening.did.clone());
            let known = self.indexes.entry(item.index);
            let index = known
                .or_insert_with(|| MyIndex::new(IndexState::Requested, None, BindingState::NotYet));
            if matches!(index.state, IndexState::Refused(_)) {
                index.state = IndexState::Requested;
            }
            index.did = did.or(index.did.take());
        }
        self.look_at_all_signals();
        Step::with(vec![self.send(Message::Register(Register { items }))])
    }

    pub(super) fn registered(&mut self, now: UnixTime, registered: Registered) -> Step {
        let Some(seat) = self.seat() else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let mut effects = Vec::new();
        effects.extend(self.learn_registered(&registered.items));
        for item in registered.items {
            let Some(mine) = self.indexes.get_mut(&item.index) else {
                continue;
            };
            let index = item.index;
            match (item.from_round, item.refused) {
                (Some(from_round), None) if mine.state == IndexState::Requested => {
                    mine.state = IndexState::Covered(from_round);
                    effects.push(Effect::Report(Report::Registered {
                        seat,
                        index,
                        from_round,
                    }));
                }
                (None, Some(code)) if mine.binding == BindingState::Bound => {
                    // A DID that lists the beacon and is not covered dies with the next signal: without its
                    // proof this member will not sign one (rule 13), and its user must know.
                    effects.push(Effect::Report(Report::Alarm {
                        text: format!("the aggregator no longer covers index {index} ({code:?})"),
                    }));
                }
                (None, Some(code)) => {
                    mine.state = IndexState::Refused(code);
                    effects.push(Effect::Report(Report::MyRequestRefused {
                        of: "register".into(),
                        code,
                    }));
                }
                _ => {}
            }
        }
        if let Some(open) = self.early.take() {
            effects.extend(self.round_open(now, open).effects);
        }
        effects.extend(self.after_facts());
        Step::with(effects)
    }

    pub(super) fn challenged(&mut self, index: SmtIndex) -> Step {
        let Some(mine) = self.indexes.get_mut(&index) else {
            return Step::ignored(Ignored::Unasked);
        };
        mine.challenged = true;
        Step::with(vec![Effect::OpenIndex(index)])
    }

    /// After a restart: openings that were asked for and not made are asked for again.
    pub(super) fn challenges_restarted(&self) -> impl Iterator<Item = Effect> {
        let open = self.indexes.iter().filter(|(_, mine)| mine.challenged);
        open.map(|(index, _)| Effect::OpenIndex(*index))
    }

    pub(super) fn open_index(&mut self, index: SmtIndex, opening: Opening) -> Step {
        let Some(mine) = self.indexes.get_mut(&index) else {
            return Step::ignored(Ignored::Unasked);
        };
        mine.challenged = false;
        let message = Message::IndexOpening(IndexOpening { index, opening });
        Step::with(vec![self.send(message)])
    }

    /// Signals that a DID which lists the beacon must be able to explain: all that the chain shows from
    /// this address, and all this member signed that may still confirm.
    ///
    /// Those that every index has a proof of are left out: there are as many as there were rounds.
    fn needed(&self) -> impl Iterator<Item = SignalBytes> {
        let chain = &self.chain.signals;
        let on_chain = self.unproved.iter().filter(|(txid, signal)| {
            let seen = chain.get(*txid);
            seen.is_some_and(|seen| seen.signal == **signal)
        });
        let signed = self.live(FINAL_DEPTH).map(|given| given.signal);
        on_chain.map(|(_, signal)| *signal).chain(signed)
    }

    /// Signals for which `index` lacks a proof. An index that is not registered lacks all that others may lack.
    pub(super) fn missing(&self, index: &SmtIndex) -> BTreeSet<SignalBytes> {
        let mine = self.indexes.get(index);
        self.needed()
            .filter(|signal| mine.is_none_or(|mine| !mine.proved.contains(signal)))
            .collect()
    }

    /// Parses an announcement strictly: canonical, no duplicate keys, valid DIDs of the cohort's network.
    pub(super) fn parse_announcement(&self, text: &str) -> Result<CasAnnouncement, String> {
        let network = self.terms.network;
        CasAnnouncement::parse_canonical(text.as_bytes(), |key| {
            key.parse::<Did>().is_ok_and(|did| did.network() == network)
        })
        .map_err(|error| error.to_string())
    }

    /// Reports indexes whose DIDs may now be bound. The order of DESIGN §5: registered, acknowledged,
    /// history complete, and no round in flight that does not cover the index.
    pub(super) fn binding_reports(&mut self) -> Vec<Effect> {
        let ready: Vec<SmtIndex> = self
            .indexes
            .iter()
            .filter(|(index, mine)| {
                mine.binding == BindingState::NotYet && self.may_bind(index, mine)
            })
            .map(|(index, _)| *index)
            .collect();
        let mut effects = Vec::new();
        for index in ready {
            if let Some(mine) = self.indexes.get_mut(&index) {
                mine.binding = BindingState::MayBind;
                let proofs = mine.fetched;
                effects.push(Effect::Report(Report::MayBind { index, proofs }));
            }
        }
        effects
    }

    fn may_bind(&self, index: &SmtIndex, mine: &MyIndex) -> bool {
        let IndexState::Covered(from_round) = mine.state else {
            return false;
        };
        // A round opened before the registration counts does not cover the index, but may still signal; its
        // opening may also be on its way still.
        let in_flight = self
            .round
            .as_ref()
            .is_some_and(|round| round.round < from_round);
        let unseen = Round(self.last_round).next() < from_round;
        !in_flight && !unseen && self.missing(index).is_empty()
    }

    pub(super) fn bound(&mut self, index: SmtIndex) -> Step {
        let Some(mine) = self.indexes.get(&index) else {
            return Step::ignored(Ignored::Unasked);
        };
        match mine.binding {
            BindingState::Bound => Step::accepted(),
            BindingState::MayBind if self.may_bind(&index, mine) => {
                if let Some(mine) = self.indexes.get_mut(&index) {
                    mine.binding = BindingState::Bound;
                }
                Step::accepted()
            }
            _ => {
                if let Some(mine) = self.indexes.get_mut(&index) {
                    mine.binding = BindingState::NotYet;
                }
                Step::ignored(Ignored::Contradiction(
                    "the history of this index is not complete".into(),
                ))
            }
        }
    }

    /// Whether the update queued for an index is on the chain with `depth` confirmations.
    pub(super) fn update_confirmed(&self, mine: &MyIndex, depth: u32) -> bool {
        self.chain.signals.values().any(|seen| {
            mine.announced.contains(&seen.signal)
                && seen
                    .height
                    .is_some_and(|height| self.chain.confirmations(height) >= depth)
        })
    }

    pub(super) fn queue(&mut self, index: SmtIndex, update: UpdateHash) -> Step {
        let known = self.indexes.get(&index).and_then(|mine| mine.update);
        if known == Some(update) {
            return Step::ignored(Ignored::Duplicate);
        }
        if let Some(why) = self.queue_refusal(&index) {
            return Step::ignored(Ignored::Contradiction(why.into()));
        }
        if let Some(mine) = self.indexes.get_mut(&index) {
            mine.update = Some(update);
            mine.announced.clear();
            mine.restored = false;
        }
        Step::with(self.request_round())
    }

    /// Why no new update of this index can be queued now, or `None` when one can. Whoever signs and stores
    /// an update asks first: what is stored for a version is the only one there will be (rule 10).
    #[must_use]
    pub fn queue_refusal(&self, index: &SmtIndex) -> Option<&'static str> {
        let Some(mine) = self.indexes.get(index) else {
            return Some("the DID is not registered");
        };
        // Bytes that were signed may confirm; nothing else may be announced until they are final.
        let announced =
            mine.restored || !mine.announced.is_empty() || self.others_may_announce(index);
        let locked = announced && !self.update_confirmed(mine, FINAL_DEPTH);
        (locked || self.is_planned(index))
            .then_some("an earlier update of this DID is being announced and not final yet")
    }

    /// Whether the open round announces an update of this index: what was responded will be signed.
    pub(super) fn is_planned(&self, index: &SmtIndex) -> bool {
        self.round
            .as_ref()
            .and_then(|round| round.plan.get(index))
            .is_some_and(|planned| planned.update.is_some())
    }

    pub(super) fn withdraw(&mut self, index: SmtIndex) -> Step {
        let planned = self.is_planned(&index) || self.others_may_announce(&index);
        match self.indexes.get_mut(&index) {
            Some(mine) if mine.announced.is_empty() && !mine.restored && !planned => {
                mine.update = None;
                Step::accepted()
            }
            Some(_) => Step::ignored(Ignored::TooLate),
            None => Step::ignored(Ignored::Unasked),
        }
    }

    /// Updates waiting to be announced. One in a signal that is signed by all waits for the chain only.
    #[must_use]
    pub fn waiting_updates(&self) -> u16 {
        let signed: BTreeSet<SignalBytes> = self
            .live(FINAL_DEPTH)
            .filter(|given| given.signed.is_some())
            .map(|given| given.signal)
            .collect();
        let waiting = self
            .indexes
            .values()
            .filter(|mine| {
                mine.update.is_some()
                    && mine.announced.is_disjoint(&signed)
                    && !self.update_confirmed(mine, 1)
            })
            .count();
        u16::try_from(waiting).unwrap_or(u16::MAX)
    }

    /// Tells the aggregator that something waits, so that its pending count can open a round.
    pub(super) fn request_round(&self) -> Vec<Effect> {
        let pending = self.waiting_updates();
        if pending == 0 || self.phase != MemberPhase::Active {
            return Vec::new();
        }
        vec![self.send(Message::RoundRequest(RoundRequest { pending }))]
    }

    /// The registration state of an index, if it was ever asked for.
    #[must_use]
    pub fn index_state(&self, index: &SmtIndex) -> Option<IndexState> {
        self.indexes.get(index).map(|mine| mine.state)
    }

    /// How far the binding of an index is.
    #[must_use]
    pub fn binding_state(&self, index: &SmtIndex) -> Option<BindingState> {
        self.indexes.get(index).map(|mine| mine.binding)
    }

    /// The update queued or announced last for an index, and whether it is on the chain.
    #[must_use]
    pub fn update_state(&self, index: &SmtIndex) -> Option<(UpdateHash, bool)> {
        let mine = self.indexes.get(index)?;
        Some((mine.update?, self.update_confirmed(mine, 1)))
    }

    /// Signals this member signed that announce the update queued for an index, oldest first.
    pub fn announcements(&self, index: &SmtIndex) -> impl Iterator<Item = &super::GivenPartial> {
        let announced = self.indexes.get(index).map(|mine| &mine.announced);
        self.given
            .iter()
            .filter(move |given| announced.is_some_and(|set| set.contains(&given.signal)))
    }

    /// Every signal that announces the update queued for an index, whoever signed it: also a copy of this agent that
    /// this store was not told of.
    pub fn announced(&self, index: &SmtIndex) -> impl Iterator<Item = &SignalBytes> {
        let mine = self.indexes.get(index);
        mine.into_iter().flat_map(|mine| mine.announced.iter())
    }

    /// Every index asked for.
    pub fn indexes(&self) -> impl Iterator<Item = SmtIndex> + '_ {
        self.indexes.keys().copied()
    }

    /// How many signals an index has proofs for, and how many it lacks.
    #[must_use]
    pub fn proof_counts(&self, index: &SmtIndex) -> (usize, usize) {
        let have = self.indexes.get(index).map_or(0, |mine| mine.proved.len());
        (have, self.missing(index).len())
    }
}
