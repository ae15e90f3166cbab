//! Who is seated: what was handed out, who waits for the operator, and what the operator decided.
//!
//! Keys cost nothing, so nothing here may be filled by keys alone. A place among those that wait is kept by work: who
//! comes when all places are taken needs more work than the least that is there. Nobody is put out by who came later
//! with as much. And the operator can approve a key before it asks: then it needs no place.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::ScriptBuf;
use serde::{Deserialize, Serialize};

use super::{Aggregator, Applicant, Phase, refuse};
use crate::keys::NostrKey;
use crate::protocol::admission::{Admission, MAX_WORK_BITS, Ticket, VouchAs, work_bits};
use crate::protocol::effect::{Effect, Ignored, Outcome, Report, Step, To};
use crate::protocol::ids::Seat;
use crate::protocol::message::{Accept, Message, OptIn, RefusalCode, Refused, Rejected, Waiting};
use crate::time::UnixTime;

/// Opt-ins that wait for the operator.
pub const MAX_WAITING: usize = 256;

/// Codes of one cohort.
pub const MAX_CODES: usize = 1_000;

/// Keys that the operator decided about and that hold no seat.
const MAX_DECIDED: usize = 10_000;

/// How often one key may give its seat back before the set is made and ask again: once by mistake, once more for good
/// measure. Each time costs two entries of the log.
pub const MAX_RETURNS: u8 = 3;

/// Seats of one cohort that may be given back in all. Keys cost nothing, so that a bound per key alone is none. After
/// it who has no seat needs the operator's approval, or an invitation, to get one.
pub const MAX_GIVEN_BACK: u16 = 1_000;

/// Something the operator decided about who is seated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// This key gets a seat, now or when it asks.
    Approve {
        /// The key.
        key: NostrKey,
    },
    /// This key gets no seat, or loses the one it has.
    Reject {
        /// The key.
        key: NostrKey,
        /// Words for it.
        reason: String,
    },
    /// Whoever this key vouches for gets a seat.
    Code {
        /// The public key of a code.
        key: NostrKey,
        /// How many seats it is good for.
        uses: u16,
    },
    /// These keys may take a seat each, or vouch for the key of one. They are told another way.
    Invite {
        /// The keys.
        keys: Vec<NostrKey>,
    },
}

/// An opt-in that waits for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingOptIn {
    /// The key that asks.
    pub key: NostrKey,
    /// When it asked.
    pub asked: UnixTime,
    /// The work it showed, in bits.
    pub work: u8,
    payee: Option<ScriptBuf>,
    withdrawn: bool,
}

/// A code as the aggregator knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownCode {
    /// How many seats it is good for.
    pub uses: u16,
    /// Who entered with it.
    pub used: BTreeSet<NostrKey>,
}

/// Everything about admission beside the terms.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Gate {
    invited: BTreeSet<NostrKey>,
    /// For which seat's key an invited key vouched.
    vouched: BTreeMap<NostrKey, NostrKey>,
    approved: BTreeSet<NostrKey>,
    rejected: BTreeSet<NostrKey>,
    waiting: Vec<WaitingOptIn>,
    codes: BTreeMap<NostrKey, KnownCode>,
    /// Who gave a seat back, how often.
    #[serde(default)]
    returned: BTreeMap<NostrKey, u8>,
    /// How many seats were given back in all.
    #[serde(default)]
    given_back: u16,
}

impl Gate {
    /// Notes an invitation; false if it is known.
    pub(super) fn invite(&mut self, key: NostrKey) -> bool {
        self.invited.insert(key)
    }

    /// A key gave its seat back.
    pub(super) fn gave_back(&mut self, key: NostrKey) {
        self.given_back = self.given_back.saturating_add(1);
        let count = self.returned.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    /// Whether a key went in and out too often.
    fn is_restless(&self, key: &NostrKey) -> bool {
        let returned = self.returned.get(key);
        returned.is_some_and(|count| *count >= MAX_RETURNS)
    }
}

/// What becomes of an opt-in that is in order.
pub(super) enum Entry {
    /// It gets a seat.
    Seat,
    /// The operator decides.
    Wait {
        /// The work it shows.
        work: u8,
    },
}

impl Aggregator {
    /// What the terms and the operator say to a key.
    pub(super) fn entry(&mut self, from: NostrKey, opt_in: &OptIn) -> Result<Entry, RefusalCode> {
        let (cohort, gate) = (self.cohort, &mut self.gate);
        if gate.rejected.contains(&from) {
            return Err(RefusalCode::Rejected);
        }
        if gate.is_restless(&from) {
            return Err(RefusalCode::TooMany);
        }
        if gate.invited.contains(&from) || gate.approved.contains(&from) {
            return Ok(Entry::Seat);
        }
        if let Some(Ticket::Invited(vouch)) = &opt_in.ticket {
            let free = gate
                .vouched
                .get(&vouch.key)
                .is_none_or(|seat| *seat == from);
            let known = gate.invited.contains(&vouch.key) && !gate.rejected.contains(&vouch.key);
            if !known || !free || !vouch.verifies(VouchAs::Invited, &cohort, from) {
                return Err(RefusalCode::NotInvited);
            }
            gate.vouched.insert(vouch.key, from);
            return Ok(Entry::Seat);
        }
        if self.terms.invite_only {
            return Err(RefusalCode::NotInvited);
        }
        // Who approves everybody by hand sees them come and go.
        if gate.given_back >= MAX_GIVEN_BACK && self.terms.admission != Admission::Approval {
            return Err(RefusalCode::TooMany);
        }
        let work = match opt_in.ticket {
            Some(Ticket::Work(number)) => work_bits(&cohort, from, number),
            _ => 0,
        };
        match self.terms.admission {
            Admission::Open => Ok(Entry::Seat),
            Admission::Pow(bits) if work >= bits => Ok(Entry::Seat),
            Admission::Pow(_) => Err(RefusalCode::WorkRequired),
            // What terms could not ask for earns no better place.
            Admission::Approval => Ok(Entry::Wait {
                work: work.min(MAX_WORK_BITS),
            }),
            Admission::Code => {
                let Some(Ticket::Code(vouch)) = &opt_in.ticket else {
                    return Err(RefusalCode::BadCode);
                };
                let code = gate.codes.get_mut(&vouch.key);
                let code = code
                    .filter(|_| vouch.verifies(VouchAs::Code, &cohort, from))
                    .ok_or(RefusalCode::BadCode)?;
                let full = code.used.len() >= usize::from(code.uses);
                if full && !code.used.contains(&from) {
                    return Err(RefusalCode::CodeUsedUp);
                }
                code.used.insert(from);
                Ok(Entry::Seat)
            }
        }
    }

    /// An opt-in that was seen before and waits, if it is one.
    pub(super) fn asked_again(&mut self, from: NostrKey, opt_in: &OptIn) -> Option<Step> {
        let until = self.terms.join_by;
        let cohort = self.cohort;
        let known = self
            .gate
            .waiting
            .iter_mut()
            .find(|known| known.key == from)?;
        if known.payee != opt_in.payee || known.withdrawn {
            return Some(refuse(from, "opt_in", RefusalCode::AlreadyAsked, None));
        }
        let work = match opt_in.ticket {
            Some(Ticket::Work(number)) => work_bits(&cohort, from, number).min(MAX_WORK_BITS),
            _ => 0,
        };
        let effects = vec![wait(from, until)];
        if work > known.work {
            known.work = work;
            return Some(Step::with(effects));
        }
        Some(Step {
            outcome: Outcome::Ignored(Ignored::Duplicate),
            effects,
        })
    }

    /// Gives an opt-in a place among those that wait, if there is one for its work.
    pub(super) fn wait_for_operator(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        payee: Option<ScriptBuf>,
        work: u8,
    ) -> Result<Vec<Effect>, RefusalCode> {
        let mut effects = Vec::new();
        let waiting = &mut self.gate.waiting;
        if waiting.len() >= MAX_WAITING {
            let least = waiting.iter().map(|known| known.work).min().unwrap_or(0);
            if work <= least {
                return Err(RefusalCode::TooMany);
            }
            // Of those with the least work the one that came last.
            if let Some(place) = waiting.iter().rposition(|known| known.work == least) {
                let out = waiting.remove(place);
                effects.push(refusal(out.key, RefusalCode::TooMany));
            }
        }
        waiting.push(WaitingOptIn {
            key: from,
            asked: now,
            work,
            payee,
            withdrawn: false,
        });
        effects.push(wait(from, self.terms.join_by));
        effects.push(Effect::Report(Report::AwaitsDecision {
            member: from,
            waiting: u16::try_from(self.waiting_opt_ins().count()).unwrap_or(u16::MAX),
        }));
        Ok(effects)
    }

    /// Whoever waited does not want a seat any more. Its place stays taken: leaving and asking again would else be a
    /// way to fill the log.
    pub(super) fn withdraw_opt_in(&mut self, from: NostrKey) -> bool {
        let mut waiting = self.gate.waiting.iter_mut();
        match waiting.find(|known| known.key == from && !known.withdrawn) {
            Some(known) => {
                known.withdrawn = true;
                true
            }
            None => false,
        }
    }

    pub(super) fn decide(&mut self, now: UnixTime, decision: Decision) -> Step {
        if !matches!(self.phase, Phase::Draft | Phase::Open) {
            return Step::ignored(Ignored::WrongPhase);
        }
        let decided = self.gate.approved.len().max(self.gate.rejected.len());
        if decided >= MAX_DECIDED {
            return Step::ignored(Ignored::Contradiction(format!(
                "{MAX_DECIDED} keys were decided about"
            )));
        }
        match decision {
            Decision::Approve { key } => self.approve(now, key),
            Decision::Reject { key, reason } => self.reject(key, &reason),
            Decision::Code { key, uses } => {
                if self.gate.codes.len() >= MAX_CODES || uses == 0 {
                    return Step::ignored(Ignored::Contradiction(format!(
                        "a code is for one seat at least, and a cohort has {MAX_CODES} codes at most"
                    )));
                }
                let used = BTreeSet::new();
                let known = self.gate.codes.entry(key);
                known.or_insert(KnownCode { uses, used });
                Step::accepted()
            }
            Decision::Invite { keys } => {
                self.gate.invited.extend(keys);
                Step::accepted()
            }
        }
    }

    fn approve(&mut self, now: UnixTime, key: NostrKey) -> Step {
        self.gate.rejected.remove(&key);
        self.gate.returned.remove(&key);
        if self.applicants.iter().any(|member| member.key == key) {
            return Step::ignored(Ignored::Duplicate);
        }
        let mut waiting = self.gate.waiting.iter();
        let place = waiting.position(|known| known.key == key);
        let asked = place.map(|place| self.gate.waiting.remove(place));
        match asked.filter(|asked| !asked.withdrawn) {
            Some(asked) => Step::with(self.seat(now, key, asked.payee)),
            None => {
                // It has not asked, or found no place: it gets its seat when it asks (again).
                self.gate.approved.insert(key);
                Step::accepted()
            }
        }
    }

    fn reject(&mut self, key: NostrKey, reason: &str) -> Step {
        self.gate.approved.remove(&key);
        self.gate.rejected.insert(key);
        if self.applicants.iter().any(|member| member.key == key) {
            return self.release(key, reason);
        }
        let mut waiting = self.gate.waiting.iter();
        let Some(place) = waiting.position(|known| known.key == key) else {
            return Step::accepted();
        };
        self.gate.waiting.remove(place);
        let reason = reason.chars().take(200).collect();
        Step::with(vec![Effect::Send {
            to: To::Key(key),
            message: Message::Rejected(Rejected { reason }),
        }])
    }

    /// Seats a key; closes the seats with the last one.
    pub(super) fn seat(
        &mut self,
        now: UnixTime,
        key: NostrKey,
        payee: Option<ScriptBuf>,
    ) -> Vec<Effect> {
        let Ok(seat) = u16::try_from(self.applicants.len()) else {
            return vec![refusal(key, RefusalCode::Full)];
        };
        self.applicants.push(Applicant { key, payee });
        let taken = seat.saturating_add(1);
        let mut effects = vec![
            Effect::Send {
                to: To::Key(key),
                message: Message::Accept(Accept { seat: Seat(seat) }),
            },
            Effect::Report(Report::SeatTaken { member: key, taken }),
        ];
        if taken == self.terms.seats_max {
            effects.extend(self.form(now));
        }
        effects
    }

    /// Tells whoever waits that no seat is given any more.
    pub(super) fn turn_away(&mut self) -> Vec<Effect> {
        let waiting = std::mem::take(&mut self.gate.waiting);
        let waiting = waiting.into_iter().filter(|known| !known.withdrawn);
        waiting
            .map(|known| refusal(known.key, RefusalCode::Closed))
            .collect()
    }

    /// Who waits for the operator, in the order of asking.
    pub fn waiting_opt_ins(&self) -> impl Iterator<Item = &WaitingOptIn> {
        self.gate.waiting.iter().filter(|known| !known.withdrawn)
    }

    /// The codes that were handed out, by their public keys.
    #[must_use]
    pub const fn codes(&self) -> &BTreeMap<NostrKey, KnownCode> {
        &self.gate.codes
    }
}

fn wait(to: NostrKey, until: UnixTime) -> Effect {
    Effect::Send {
        to: To::Key(to),
        message: Message::Waiting(Waiting { until }),
    }
}

fn refusal(to: NostrKey, code: RefusalCode) -> Effect {
    Effect::Send {
        to: To::Key(to),
        message: Message::Refused(Refused {
            of: "opt_in".to_owned(),
            code,
            round: None,
        }),
    }
}
