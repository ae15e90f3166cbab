//! Formation: from the first opt-in to the frozen set (DESIGN §5 "Formation").

use bitcoin::ScriptBuf;

use super::admission::Entry;
use super::{Aggregator, Phase, refuse};
use crate::keys::NostrKey;
use crate::protocol::effect::{AdvertStatus, Effect, Ignored, Outcome, Report, Step, To};
use crate::protocol::evidence::Signed;
use crate::protocol::ids::Seat;
use crate::protocol::message::{
    Accept, CohortAck, EndCause, Frozen, Invite, Leave, Message, OptIn, RefusalCode, Release,
};
use crate::protocol::set::{CohortSet, payee_is_allowed};
use crate::protocol::terms::Funding;
use crate::time::UnixTime;

impl Aggregator {
    pub(super) fn advertise(
        &mut self,
        invited: Vec<NostrKey>,
        relays: &[String],
        payee: Option<ScriptBuf>,
    ) -> Step {
        if !matches!(self.phase, Phase::Draft | Phase::Open) {
            return Step::ignored(Ignored::WrongPhase);
        }
        if payee.as_ref().is_some_and(|payee| !payee_is_allowed(payee)) {
            return Step::ignored(Ignored::Refused(RefusalCode::BadPayee));
        }
        self.phase = Phase::Open;
        // Inviting further keys does not take the payee back.
        self.payee = payee.or(self.payee.take());
        let mut effects = Vec::new();
        effects.extend(self.advert(AdvertStatus::Open));
        for key in invited {
            if self.gate.invite(key) {
                effects.push(Effect::Send {
                    to: To::Key(key),
                    message: Message::Invite(Invite {
                        terms: self.terms.canonical(),
                        relays: relays.to_vec(),
                    }),
                });
            }
        }
        Step::with(effects)
    }

    /// Publishes the advert, unless the cohort is offered to invited keys only: then there is none, ever.
    pub(super) fn advert(&self, status: AdvertStatus) -> Option<Effect> {
        (!self.terms.invite_only).then_some(Effect::Advertise(status))
    }

    /// What the advert should say now; `None` if there is none.
    #[must_use]
    pub const fn advert_status(&self) -> Option<AdvertStatus> {
        if self.terms.invite_only {
            return None;
        }
        match self.phase {
            Phase::Draft => None,
            Phase::Open => Some(AdvertStatus::Open),
            Phase::Forming { .. } => Some(AdvertStatus::Full),
            Phase::Active => Some(AdvertStatus::Active),
            Phase::Ended(_) => Some(AdvertStatus::Closed),
        }
    }

    pub(super) fn opt_in(&mut self, now: UnixTime, from: NostrKey, opt_in: OptIn) -> Step {
        let refuse = |code| {
            let mut step = refuse(from, "opt_in", code, None);
            step.effects.push(Effect::Report(Report::RequestRefused {
                member: from,
                code,
            }));
            step
        };
        if let Some(position) = self.applicants.iter().position(|member| member.key == from) {
            // The first opt-in counts (a later one could swap the payee behind everybody's back), and a
            // repeated one only means that the acceptance was not seen.
            let same = self
                .applicants
                .get(position)
                .is_some_and(|member| member.payee == opt_in.payee);
            return match u16::try_from(position) {
                Ok(seat) if same => Step {
                    outcome: Outcome::Ignored(Ignored::Duplicate),
                    effects: vec![accept(from, Seat(seat))],
                },
                _ => refuse(RefusalCode::AlreadyAsked),
            };
        }
        if let Some(step) = self.asked_again(from, &opt_in) {
            return step;
        }
        if !matches!(self.phase, Phase::Open) {
            return refuse(RefusalCode::Closed);
        }
        if let Err(code) = self.agrees(now, &opt_in) {
            return refuse(code);
        }
        match self.entry(from, &opt_in) {
            Ok(Entry::Seat) => Step::with(self.seat(now, from, opt_in.payee)),
            Ok(Entry::Wait { work }) => {
                match self.wait_for_operator(now, from, opt_in.payee, work) {
                    Ok(effects) => Step::with(effects),
                    Err(code) => refuse(code),
                }
            }
            Err(code) => refuse(code),
        }
    }

    /// Whether an opt-in agrees to the terms, and comes in time.
    fn agrees(&self, now: UnixTime, opt_in: &OptIn) -> Result<(), RefusalCode> {
        if opt_in.terms != self.cohort {
            return Err(RefusalCode::WrongTerms);
        }
        if opt_in.tos != self.terms.tos.as_ref().map(|tos| tos.sha256) {
            return Err(RefusalCode::TosNotAccepted);
        }
        if now > self.terms.join_by {
            return Err(RefusalCode::Closed);
        }
        if opt_in.payee.as_ref().is_some_and(|p| !payee_is_allowed(p)) {
            return Err(RefusalCode::BadPayee);
        }
        if self.terms.funding == Funding::Members && opt_in.payee.is_none() {
            return Err(RefusalCode::PayeeRequired);
        }
        if self.applicants.len() >= usize::from(self.terms.seats_max) {
            return Err(RefusalCode::Full);
        }
        Ok(())
    }

    pub(super) fn close(&mut self, now: UnixTime) -> Step {
        if !matches!(self.phase, Phase::Open) {
            return Step::ignored(Ignored::WrongPhase);
        }
        if self.applicants.len() < usize::from(self.terms.seats_min) {
            return Step::ignored(Ignored::Contradiction(format!(
                "{} of at least {} seats are taken",
                self.applicants.len(),
                self.terms.seats_min
            )));
        }
        Step::with(self.form(now))
    }

    /// Closes the seats and publishes the set.
    pub(super) fn form(&mut self, now: UnixTime) -> Vec<Effect> {
        let members: Vec<(NostrKey, Option<ScriptBuf>)> = self
            .applicants
            .iter()
            .map(|member| (member.key, member.payee.clone()))
            .collect();
        let seated = u16::try_from(members.len()).unwrap_or(u16::MAX);
        let Ok((set, keys)) = CohortSet::build(&self.terms, &members, self.payee.as_ref()) else {
            // Applicants are distinct valid keys, so only an empty set gets here.
            return self.end(EndCause::NotEnoughMembers { seated });
        };
        let mut effects = vec![
            Effect::GrantChannel(set.keys.clone()),
            Effect::Send {
                to: To::Channel,
                message: Message::CohortSet(set.clone()),
            },
        ];
        effects.extend(self.turn_away());
        effects.extend(self.advert(AdvertStatus::Full));
        effects.push(Effect::Report(Report::SetFormed {
            members: seated,
            address: set.address.clone(),
        }));
        self.set = Some((set, keys));
        self.phase = Phase::Forming {
            ack_by: now.plus(self.terms.formation_seconds.into()),
        };
        effects
    }

    /// Says again what formed the cohort: it may have been on its way when the store was lost. Who knows it already takes
    /// no notice.
    pub(super) fn repeat_formation(&self) -> Vec<Effect> {
        let Some((set, _)) = &self.set else {
            let seats = self.applicants.iter().zip(0..);
            return seats
                .map(|(member, seat)| accept(member.key, Seat(seat)))
                .collect();
        };
        let to_all = |message| Effect::Send {
            to: To::Channel,
            message,
        };
        let mut effects = match self.phase {
            Phase::Forming { .. } | Phase::Active => vec![
                Effect::GrantChannel(set.keys.clone()),
                to_all(Message::CohortSet(set.clone())),
            ],
            _ => Vec::new(),
        };
        if matches!(self.phase, Phase::Active) {
            effects.push(to_all(Message::Frozen(Frozen {
                set: set.hash(&self.cohort),
                acks: self.acks.values().copied().collect(),
            })));
        }
        effects
    }

    pub(super) fn cohort_ack(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        ack: &Signed<CohortAck>,
    ) -> Step {
        let Some((set, _)) = &self.set else {
            return Step::ignored(Ignored::WrongPhase);
        };
        let Some(seat) = set.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if ack.content.set != set.hash(&self.cohort) {
            return Step::ignored(Ignored::Contradiction("another set".into()));
        }
        let Some(sig) = ack.sig.filter(|_| ack.verifies(&self.cohort, from)) else {
            return Step::ignored(Ignored::BadEvidence);
        };
        if !matches!(self.phase, Phase::Forming { .. }) || self.acks.contains_key(&seat) {
            return Step::ignored(Ignored::Duplicate);
        }
        let (members, set_hash, address) =
            (set.keys.len(), set.hash(&self.cohort), set.address.clone());
        self.acks.insert(seat, sig);
        let mut effects = vec![Effect::Report(Report::AckReceived {
            seat,
            acks: u16::try_from(self.acks.len()).unwrap_or(u16::MAX),
        })];
        if self.acks.len() == members {
            self.phase = Phase::Active;
            self.next_open = self.after_cadence(now);
            effects.push(Effect::Send {
                to: To::Channel,
                message: Message::Frozen(Frozen {
                    set: set_hash,
                    acks: self.acks.values().copied().collect(),
                }),
            });
            effects.extend(self.advert(AdvertStatus::Active));
            effects.push(Effect::Report(Report::Frozen { address }));
        }
        Step::with(effects)
    }

    pub(super) fn leave(&mut self, from: NostrKey, leave: Leave) -> Step {
        if self.set.is_none() {
            let before = self.applicants.len();
            self.applicants.retain(|member| member.key != from);
            if self.applicants.len() < before {
                self.gate.gave_back(from);
                return Step::accepted();
            }
            return if self.withdraw_opt_in(from) {
                Step::accepted()
            } else {
                Step::ignored(Ignored::NotAMember)
            };
        }
        match self.seat_of(&from) {
            None => Step::ignored(Ignored::NotAMember),
            Some(_) if !leave.even_if_frozen => refuse(from, "leave", RefusalCode::Closed, None),
            Some(seat) => Step::with(self.end(EndCause::MemberLeft { seat })),
        }
    }

    pub(super) fn release(&mut self, member: NostrKey, reason: &str) -> Step {
        if !matches!(self.phase, Phase::Open) {
            return Step::ignored(Ignored::WrongPhase);
        }
        let Some(position) = self.applicants.iter().position(|m| m.key == member) else {
            return Step::ignored(Ignored::NotAMember);
        };
        self.applicants.remove(position);
        Step::with(vec![Effect::Send {
            to: To::Key(member),
            message: Message::Release(Release {
                seat: Seat(u16::try_from(position).unwrap_or(u16::MAX)),
                reason: reason.chars().take(200).collect(),
            }),
        }])
    }

    pub(super) fn formation_timer(&mut self, now: UnixTime, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Open if now > self.terms.join_by => {
                let seated = u16::try_from(self.applicants.len()).unwrap_or(u16::MAX);
                effects.extend(if seated >= self.terms.seats_min {
                    self.form(now)
                } else {
                    self.end(EndCause::NotEnoughMembers { seated })
                });
            }
            Phase::Forming { ack_by } if now > *ack_by => {
                let absent = self.waiting_for();
                effects.extend(self.end(EndCause::NotAcknowledged { absent }));
            }
            _ => {}
        }
    }
}

fn accept(to: NostrKey, seat: Seat) -> Effect {
    Effect::Send {
        to: To::Key(to),
        message: Message::Accept(Accept { seat }),
    }
}
