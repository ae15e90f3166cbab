//! A member that has lost its store, and was made again out of its words, asks for what it knew of its seat.

use super::{Aggregator, Phase};
use crate::keys::NostrKey;
use crate::protocol::effect::{Effect, Ignored, Step, To};
use crate::protocol::ids::Seat;
use crate::protocol::message::{Accept, Message, SeatState};

impl Aggregator {
    /// Says again what a seat was told: the author's key is its proof. Nothing changes by it, and whoever has no seat
    /// gets no answer.
    pub(super) fn seat_request(&self, from: NostrKey) -> Step {
        let send = |message| Effect::Send {
            to: To::Key(from),
            message,
        };
        let Some((set, _)) = &self.set else {
            let position = self.applicants.iter().position(|member| member.key == from);
            let seat = position.and_then(|position| u16::try_from(position).ok());
            return seat.map_or(Step::ignored(Ignored::NotAMember), |seat| {
                Step::with(vec![send(Message::Accept(Accept { seat: Seat(seat) }))])
            });
        };
        let Some(seat) = set.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        let all = self.acks.len() == set.keys.len();
        let acks = if all {
            self.acks.values().copied().collect()
        } else {
            Vec::new()
        };
        let ended = match &self.phase {
            Phase::Ended(why) => Some(why.clone()),
            _ => None,
        };
        let mut effects = Vec::new();
        if ended.is_none() {
            effects.push(Effect::GrantChannel(vec![from]));
        }
        effects.push(send(Message::SeatState(SeatState {
            set: set.clone(),
            acks,
            items: self.registered_items(seat),
            last_round: self.last_round,
            ended,
        })));
        let refunds = self.refunds_given().into_iter();
        effects.extend(refunds.map(Message::RefundComplete).map(send));
        Step::with(effects)
    }
}
