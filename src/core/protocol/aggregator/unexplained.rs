//! Signals on the chain that this store knows nothing of: it is an older copy of itself, and rounds were held since
//! (docs/backup.md).
//!
//! Members keep what they need to prove these signals for themselves. They are asked for it, so that the aggregator can
//! prove any index again, and serve members and strangers (DESIGN §5 "History"). Nothing of an answer is believed: a
//! proof has to lead to a signal that the chain shows, an announcement to hash to it, and the leaves count once the root
//! of their tree is the signal. Only the number of a round is the members' word: most of them decide.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Txid;
use serde::{Deserialize, Serialize};

use super::{Aggregator, NUMBERS_SKIPPED};
use crate::beacon::smt::{EMPTY_LEAF, SmtTree};
use crate::hash::{LeafValue, SignalBytes, SmtIndex, sha256};
use crate::keys::NostrKey;
use crate::protocol::effect::{Artifact, Effect, Ignored, Report, Step, To};
use crate::protocol::ids::{Round, Seat};
use crate::protocol::message::{KeptProofs, KeptSignal, Message, ProofRequest};
use crate::protocol::proof_message::MAX_SIGNALS_ASKED;
use crate::protocol::terms::CohortBeacon;
use crate::time::UnixTime;

/// Signals that are followed: as many as there can be rounds that the numbers left out after a restore stand for.
const MAX_FOLLOWED: usize = NUMBERS_SKIPPED as usize;

/// Seconds after which a member that has not answered is asked again; each time twice as many.
const ASK_AGAIN_SECONDS: u64 = 3_600;

/// And the most: a week.
const LONGEST_WAIT_SECONDS: u64 = 7 * 86_400;

/// Seconds after which the next member is asked for an announcement, of which one suffices.
const NEXT_MEMBER_SECONDS: u64 = 600;

/// What is asked for, and of whom.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Unexplained {
    signals: BTreeMap<SignalBytes, Followed>,
    /// What the members were asked for that have not answered.
    asked: BTreeMap<Seat, Asked>,
}

/// A signal, and what was shown of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Followed {
    /// The transaction it was seen in first.
    txid: Txid,
    height: u32,
    /// Leaves that have a proof.
    leaves: BTreeMap<SmtIndex, LeafValue>,
    /// Who has answered, and of which round each says it is; `None` from who keeps nothing.
    answers: BTreeMap<Seat, Option<Round>>,
    /// The operator was told that something is lacking.
    reported: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Asked {
    signals: BTreeSet<SignalBytes>,
    at: UnixTime,
    wait: u64,
}

impl Asked {
    const fn again(&self) -> UnixTime {
        self.at.plus(self.wait)
    }
}

/// A signal that the aggregator can not prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnexplainedSignal {
    /// The signal.
    pub signal: SignalBytes,
    /// The transaction that carries it.
    pub txid: Txid,
    /// The block.
    pub height: u32,
    /// Seats that have not answered, or keep nothing of it.
    pub lacking: Vec<Seat>,
}

impl Followed {
    /// Takes what a member shows; what it all led to, once that is the whole. Says whether something of it was wrong.
    fn take(
        &mut self,
        item: KeptSignal,
        beacon: CohortBeacon,
        most: usize,
    ) -> (Option<Whole>, bool) {
        let signal = item.signal;
        match beacon {
            CohortBeacon::Cas => match item.announcement {
                Some(text) if sha256(text.as_bytes()) == signal.to_bytes() => {
                    (Some(Whole::Announcement(text)), false)
                }
                wrong => (None, wrong.is_some()),
            },
            CohortBeacon::Smt => {
                let mut wrong = item.proofs.len() > most;
                let mut paths = Vec::new();
                for proof in item.proofs.into_iter().take(most) {
                    let leaf = proof.leaf.unwrap_or(EMPTY_LEAF);
                    let leads = proof.path.verify_leaf_value(&proof.index, &leaf, &signal);
                    if leads.is_err() {
                        wrong = true;
                        continue;
                    }
                    if leaf != EMPTY_LEAF {
                        self.leaves.insert(proof.index, leaf);
                    }
                    paths.push((proof.index, proof.path));
                }
                // A tree costs two hundred hashes a leaf. It is not built while a path shows that a leaf is missing.
                let complete = paths.iter().any(|(index, path)| {
                    let mut occupied = path.occupied(index);
                    occupied.all(|below| self.leaves.range(below).next().is_some())
                });
                let tree = || SmtTree::new(self.leaves.iter().map(|(index, leaf)| (*index, *leaf)));
                let whole = complete && tree().is_ok_and(|tree| tree.root() == signal);
                let leaves = || Whole::Leaves(self.leaves.clone());
                (whole.then(leaves), wrong)
            }
        }
    }

    /// A member has answered. The round that most members say it is of; of several the lowest.
    fn named(&mut self, seat: Seat, round: Option<Round>) -> Option<Round> {
        self.answers.insert(seat, round);
        let mut named: BTreeMap<Round, usize> = BTreeMap::new();
        for round in self.answers.values().flatten() {
            let count = named.entry(*round).or_default();
            *count = count.saturating_add(1);
        }
        let most = named.values().copied().max()?;
        named
            .into_iter()
            .find_map(|(round, count)| (count == most).then_some(round))
    }

    /// Says once that something is lacking.
    fn report(&mut self, seats: u16) -> Option<Effect> {
        let (txid, lacking) = (self.txid, self.lacking(seats));
        let told = std::mem::replace(&mut self.reported, true);
        (!told).then_some(Effect::Report(Report::SignalUnexplained { txid, lacking }))
    }

    fn lacking(&self, seats: u16) -> Vec<Seat> {
        let kept = |seat: &Seat| self.answers.get(seat).is_some_and(Option::is_some);
        (0..seats).map(Seat).filter(|seat| !kept(seat)).collect()
    }
}

/// What a signal was made of.
enum Whole {
    Leaves(BTreeMap<SmtIndex, LeafValue>),
    Announcement(String),
}

impl Whole {
    fn artifact(self, round: Round, signal: SignalBytes, txid: Txid) -> Artifact {
        match self {
            Self::Leaves(leaves) => Artifact::LeafSet {
                round,
                signal,
                txid,
                leaves: leaves.into_iter().collect(),
            },
            Self::Announcement(announcement) => Artifact::Announcement {
                round,
                signal,
                txid,
                announcement,
            },
        }
    }
}

impl Aggregator {
    /// Takes note of signals in blocks that nothing here explains.
    pub(super) fn note_unexplained(&mut self, txids: Vec<Txid>) {
        for txid in txids {
            let Some(seen) = self.chain.signals.get(&txid).copied() else {
                continue;
            };
            let Some(height) = seen.height.filter(|_| !self.watch.knows(&txid)) else {
                continue;
            };
            let full = self.unexplained.signals.len() >= MAX_FOLLOWED;
            // Two rounds may have the same announcement, and a transaction may be replaced: what is kept explains both.
            if full || self.is_kept(&seen.signal) {
                continue;
            }
            let followed = self.unexplained.signals.entry(seen.signal);
            followed.or_insert_with(|| Followed {
                txid,
                height,
                leaves: BTreeMap::new(),
                answers: BTreeMap::new(),
                reported: false,
            });
        }
    }

    /// Whether these bytes were signed by this store, or were explained to it.
    fn is_kept(&self, signal: &SignalBytes) -> bool {
        let mut on_chain = self.chain.signals.iter();
        self.signed.iter().any(|signed| signed.signal == *signal)
            || on_chain.any(|(txid, seen)| seen.signal == *signal && self.watch.knows(txid))
    }

    /// A member shows what it keeps of what it was asked for.
    pub(super) fn kept_proofs(&mut self, from: &NostrKey, kept: KeptProofs) -> Step {
        let Some(seat) = self.seat_of(from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        let Some(mut asked) = self.unexplained.asked.remove(&seat) else {
            return Step::ignored(Ignored::Unasked);
        };
        let mut effects = Vec::new();
        let mut taken = false;
        for item in kept.items {
            if asked.signals.remove(&item.signal) {
                taken = true;
                effects.extend(self.take_kept(seat, item));
            }
        }
        // What an answer leaves out for its length is asked for again. One that says nothing at all is the last one, or
        // there would be no end of it.
        if !taken {
            for signal in asked.signals {
                effects.extend(self.answered(seat, signal, None));
            }
        }
        Step::with(effects)
    }

    fn take_kept(&mut self, seat: Seat, item: KeptSignal) -> Vec<Effect> {
        let (beacon, most) = (self.terms.beacon, usize::from(self.terms.dids_max));
        let signal = item.signal;
        // Rounds that this store knows have their own signals.
        let (watch, last) = (&self.watch, self.last_round);
        let free = |round: &Round| {
            (1..=last).contains(&round.0) && watch.of_round(*round).next().is_none()
        };
        let round = item.round.filter(free);
        let Some(followed) = self.unexplained.signals.get_mut(&signal) else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let (whole, wrong) = followed.take(item, beacon, most);
        if wrong {
            let text = format!("seat {seat} shows proofs of {signal} that do not lead there");
            effects.push(Effect::Report(Report::Alarm { text }));
        }
        let (Some(whole), Some(first)) = (whole, followed.named(seat, round)) else {
            effects.extend(self.answered(seat, signal, round));
            return effects;
        };
        let txid = followed.txid;
        self.unexplained.signals.remove(&signal);
        for asked in self.unexplained.asked.values_mut() {
            asked.signals.remove(&signal);
        }
        let asked = &mut self.unexplained.asked;
        asked.retain(|_, asked| !asked.signals.is_empty());
        // All transactions that carry it are what members signed.
        let on_chain = self.chain.signals.iter();
        for (txid, _) in on_chain.filter(|(_, seen)| seen.signal == signal) {
            self.watch.expect(*txid);
        }
        effects.push(Effect::Save(whole.artifact(first, signal, txid)));
        let report = Report::SignalExplained { round: first, txid };
        effects.push(Effect::Report(report));
        effects
    }

    /// A member has answered, and its answer was not the one that made it whole.
    fn answered(
        &mut self,
        seat: Seat,
        signal: SignalBytes,
        round: Option<Round>,
    ) -> Option<Effect> {
        let seats = self.member_count();
        let followed = self.unexplained.signals.get_mut(&signal)?;
        followed.answers.insert(seat, round);
        let all = followed.answers.len() >= usize::from(seats);
        if all { followed.report(seats) } else { None }
    }

    /// Asks who is due for what it has not answered yet.
    pub(super) fn proofs_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        while let Some((_, seat)) = self.next_asked().filter(|(at, _)| *at <= now) {
            effects.extend(self.ask_for_proofs(now, seat));
        }
    }

    /// When somebody has to be asked.
    pub(super) fn proofs_due(&self) -> Option<UnixTime> {
        self.next_asked().map(|(at, _)| at)
    }

    /// Whom to ask next, and when.
    fn next_asked(&self) -> Option<(UnixTime, Seat)> {
        let Unexplained { signals, asked } = &self.unexplained;
        if signals.is_empty() {
            return None;
        }
        // Of leaves every member has its own. One announcement is enough: others are asked when one takes its time.
        let turn = match self.terms.beacon {
            CohortBeacon::Smt => UnixTime(0),
            CohortBeacon::Cas => {
                let last = asked.values().map(|asked| asked.at).max();
                last.map_or(UnixTime(0), |at| at.plus(NEXT_MEMBER_SECONDS))
            }
        };
        let seats = (0..self.member_count()).map(Seat);
        let lacking = seats.filter(|seat| {
            let mut all = signals.values();
            all.any(|followed| !followed.answers.contains_key(seat))
        });
        let due = lacking.map(|seat| {
            let again = asked.get(&seat).map_or(UnixTime(0), Asked::again);
            (again.max(turn), seat)
        });
        due.min()
    }

    fn ask_for_proofs(&mut self, now: UnixTime, seat: Seat) -> Vec<Effect> {
        let seats = self.member_count();
        let Some(key) = self.key_of(seat) else {
            return Vec::new();
        };
        let Unexplained { signals, asked } = &mut self.unexplained;
        let mut effects = Vec::new();
        let wait = match asked.get(&seat) {
            None => ASK_AGAIN_SECONDS,
            Some(before) => {
                for signal in &before.signals {
                    let followed = signals.get_mut(signal);
                    effects.extend(followed.and_then(|followed| followed.report(seats)));
                }
                before.wait.saturating_mul(2).min(LONGEST_WAIT_SECONDS)
            }
        };
        let lacking = signals.iter();
        let lacking = lacking.filter(|(_, followed)| !followed.answers.contains_key(&seat));
        let mut oldest: Vec<(u32, SignalBytes)> = lacking
            .map(|(signal, followed)| (followed.height, *signal))
            .collect();
        oldest.sort_unstable();
        oldest.truncate(MAX_SIGNALS_ASKED);
        let named: Vec<SignalBytes> = oldest.into_iter().map(|(_, signal)| signal).collect();
        let asking = Asked {
            signals: named.iter().copied().collect(),
            at: now,
            wait,
        };
        asked.insert(seat, asking);
        effects.push(Effect::Send {
            to: To::Key(key),
            message: Message::ProofRequest(ProofRequest { signals: named }),
        });
        effects
    }

    /// Signals on the chain that this aggregator can not prove, the oldest first. Members were asked for what they keep.
    #[must_use]
    pub fn unexplained(&self) -> Vec<UnexplainedSignal> {
        let seats = self.member_count();
        let all = self.unexplained.signals.iter();
        let mut all: Vec<_> = all
            .map(|(signal, followed)| UnexplainedSignal {
                signal: *signal,
                txid: followed.txid,
                height: followed.height,
                lacking: followed.lacking(seats),
            })
            .collect();
        all.sort_unstable_by_key(|unexplained| (unexplained.height, unexplained.signal));
        all
    }
}
