//! Which index belongs to which seat, and what happens when two claim one (DESIGN §5 "Collisions").

use std::collections::BTreeMap;

use super::{Aggregator, Phase};
use crate::did::Did;
use crate::hash::SmtIndex;
use crate::keys::NostrKey;
use crate::protocol::effect::{Effect, Ignored, Report, Step, To};
use crate::protocol::ids::{Round, Seat};
use crate::protocol::message::{
    IndexChallenge, IndexOpening, Message, Opening, RefusalCode, Register, RegisterItem,
    Registered, RegisteredItem,
};
use crate::protocol::registration::verify_opening;
use crate::protocol::terms::CohortBeacon;
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Items one registration message may have: the most a seat may register.
const MAX_ITEMS: usize = 1_000;

/// One registered index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    seat: Seat,
    /// CAS: the DID; its registration proof was checked.
    did: Option<Did>,
    from_round: Round,
    /// SMT: the holder showed that it speaks for the DID, so a later claimant can not take the index.
    opened: bool,
}

/// Two seats claim one index; who opens it keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Challenge {
    claimant: Seat,
    until: UnixTime,
    claimant_opened: bool,
}

/// All registered indexes of a cohort. Bounded by seats times DIDs per seat.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Registry {
    entries: BTreeMap<SmtIndex, Entry>,
    challenges: BTreeMap<SmtIndex, Challenge>,
}

impl Registry {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn count(&self, seat: Seat) -> usize {
        self.entries.values().filter(|e| e.seat == seat).count()
    }

    /// Whether a seat holds an index.
    pub(super) fn holds(&self, seat: Seat, index: &SmtIndex) -> bool {
        self.entries.get(index).is_some_and(|e| e.seat == seat)
    }

    pub(super) fn deadline(&self) -> Option<UnixTime> {
        self.challenges.values().map(|c| c.until.plus(1)).min()
    }

    /// What a round covers: per seat its indexes, with the DID where it is known.
    pub(super) fn snapshot(&self, round: Round) -> BTreeMap<Seat, BTreeMap<SmtIndex, Option<Did>>> {
        let mut seats: BTreeMap<Seat, BTreeMap<SmtIndex, Option<Did>>> = BTreeMap::new();
        for (index, entry) in &self.entries {
            if entry.from_round <= round {
                seats
                    .entry(entry.seat)
                    .or_default()
                    .insert(*index, entry.did.clone());
            }
        }
        seats
    }
}

impl Aggregator {
    pub(super) fn register(&mut self, now: UnixTime, from: NostrKey, register: Register) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !matches!(self.phase, Phase::Active) {
            return Step::ignored(Ignored::WrongPhase);
        }
        if register.items.len() > MAX_ITEMS {
            return super::refuse(from, "register", RefusalCode::TooManyDids, None);
        }
        let mut effects = Vec::new();
        let mut items = Vec::new();
        for RegisterItem { index, opening } in register.items {
            let outcome = self.register_one(now, seat, from, index, opening, &mut effects);
            let (from_round, refused) = match outcome {
                Ok(Some(round)) => (Some(round), None),
                // A challenge decides; the answer follows.
                Ok(None) => continue,
                Err(code) => (None, Some(code)),
            };
            items.push(RegisteredItem {
                index,
                from_round,
                refused,
            });
        }
        if !items.is_empty() {
            effects.push(self.registered_message(from, items));
        }
        Step::with(effects)
    }

    fn register_one(
        &mut self,
        now: UnixTime,
        seat: Seat,
        from: NostrKey,
        index: SmtIndex,
        opening: Option<Opening>,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Round>, RefusalCode> {
        let opened = match &opening {
            Some(opening) => {
                verify_opening(&self.cohort, self.terms.network, from, &index, opening)
                    .map_err(|_| RefusalCode::BadRegistration)?;
                true
            }
            None if self.terms.beacon == CohortBeacon::Cas => {
                return Err(RefusalCode::BadRegistration);
            }
            None => false,
        };
        if let Some(entry) = self.registry.entries.get_mut(&index) {
            if entry.seat == seat {
                entry.opened |= opened;
                return Ok(Some(entry.from_round));
            }
            if self.terms.beacon == CohortBeacon::Cas || entry.opened {
                return Err(RefusalCode::IndexTaken);
            }
            if self.registry.count(seat) >= usize::from(self.terms.dids_max) {
                return Err(RefusalCode::TooManyDids);
            }
            return self.challenge(now, seat, from, index, opened, effects);
        }
        if self.registry.count(seat) >= usize::from(self.terms.dids_max) {
            return Err(RefusalCode::TooManyDids);
        }
        let from_round = Round(self.last_round).next();
        self.registry.entries.insert(
            index,
            Entry {
                seat,
                // An SMT member may open its index ahead of a conflict; the DID is forgotten again.
                did: opening
                    .filter(|_| self.terms.beacon == CohortBeacon::Cas)
                    .map(|opening| opening.did),
                from_round,
                opened,
            },
        );
        effects.push(Effect::Report(Report::Registered {
            seat,
            index,
            from_round,
        }));
        Ok(Some(from_round))
    }

    fn challenge(
        &mut self,
        now: UnixTime,
        seat: Seat,
        from: NostrKey,
        index: SmtIndex,
        opened: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Round>, RefusalCode> {
        if let Some(open) = self.registry.challenges.get_mut(&index) {
            if open.claimant != seat {
                // One conflict at a time; the claimant may ask again when it is settled.
                return Err(RefusalCode::IndexTaken);
            }
            open.claimant_opened |= opened;
            return Ok(None);
        }
        let until = now.plus(self.terms.response_seconds.into());
        self.registry.challenges.insert(
            index,
            Challenge {
                claimant: seat,
                until,
                claimant_opened: opened,
            },
        );
        let holder = self
            .registry
            .entries
            .get(&index)
            .and_then(|entry| self.key_of(entry.seat));
        for key in [holder, Some(from)].into_iter().flatten() {
            effects.push(Effect::Send {
                to: To::Key(key),
                message: Message::IndexChallenge(IndexChallenge { index, until }),
            });
        }
        Ok(None)
    }

    pub(super) fn index_opening(&mut self, from: NostrKey, message: IndexOpening) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        let IndexOpening { index, opening } = message;
        let network = self.terms.network;
        if verify_opening(&self.cohort, network, from, &index, &opening).is_err() {
            return super::refuse(from, "index_opening", RefusalCode::BadRegistration, None);
        }
        if let Some(entry) = self.registry.entries.get_mut(&index)
            && entry.seat == seat
        {
            entry.opened = true;
            // The holder is right: the claimant need not be waited for.
            return Step::with(self.settle(index));
        }
        match self.registry.challenges.get_mut(&index) {
            Some(challenge) if challenge.claimant == seat => {
                challenge.claimant_opened = true;
                Step::accepted()
            }
            _ => Step::ignored(Ignored::Unasked),
        }
    }

    /// Ends the conflict about an index: who opened it has it; if both did, the earlier holder; if
    /// neither, nobody.
    fn settle(&mut self, index: SmtIndex) -> Vec<Effect> {
        let Some(challenge) = self.registry.challenges.remove(&index) else {
            return Vec::new();
        };
        let Some(entry) = self.registry.entries.get(&index) else {
            return Vec::new();
        };
        let holder = entry.seat;
        let claimant_wins = !entry.opened && challenge.claimant_opened;
        let mut effects = Vec::new();
        let item = |from_round, refused| RegisteredItem {
            index,
            from_round,
            refused,
        };
        let mut tell = |this: &Self, seat, item| {
            if let Some(key) = this.key_of(seat) {
                effects.push(this.registered_message(key, vec![item]));
            }
        };
        if entry.opened {
            tell(
                self,
                challenge.claimant,
                item(None, Some(RefusalCode::IndexTaken)),
            );
            return effects;
        }
        self.registry.entries.remove(&index);
        tell(self, holder, item(None, Some(RefusalCode::BadRegistration)));
        if claimant_wins {
            let from_round = Round(self.last_round).next();
            self.registry.entries.insert(
                index,
                Entry {
                    seat: challenge.claimant,
                    did: None,
                    from_round,
                    opened: true,
                },
            );
            tell(self, challenge.claimant, item(Some(from_round), None));
        } else {
            tell(
                self,
                challenge.claimant,
                item(None, Some(RefusalCode::BadRegistration)),
            );
        }
        effects
    }

    pub(super) fn registry_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        let due: Vec<SmtIndex> = self
            .registry
            .challenges
            .iter()
            .filter(|(_, challenge)| now > challenge.until)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            effects.extend(self.settle(index));
        }
    }

    /// The indexes of a seat, as it was told.
    pub(super) fn registered_items(&self, seat: Seat) -> Vec<RegisteredItem> {
        let entries = self.registry.entries.iter();
        entries
            .filter(|(_, entry)| entry.seat == seat)
            .map(|(index, entry)| RegisteredItem {
                index: *index,
                from_round: Some(entry.from_round),
                refused: None,
            })
            .collect()
    }

    fn registered_message(&self, to: NostrKey, items: Vec<RegisteredItem>) -> Effect {
        Effect::Send {
            to: To::Key(to),
            message: Message::Registered(Registered {
                items,
                last_round: self.last_round,
            }),
        }
    }
}
