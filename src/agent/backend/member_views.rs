//! The members of a cohort as people see them.

use super::delivery::{members, number};
use crate::agent::control::views as v;
use crate::agent::node::{Machine, Node};
use crate::keys::NostrKey;
use crate::protocol::ids::Seat;
use crate::protocol::message::EndCause;
use crate::protocol::participant::MemberPhase;

pub(super) fn member_views(node: &Node, own_seat: Option<Seat>) -> Vec<v::MemberView> {
    let heard = |key: &NostrKey| node.journal.heard.get(key).copied();
    let seats = (0..).map(Seat).zip(members(node));
    match &node.machine {
        Machine::Aggregator(machine) => {
            let round = machine.open_round_now();
            let waiting = machine.waiting_for();
            let state = |seat: Seat, key: &NostrKey| match &round {
                Some(round) if round.blamed.contains(key) => v::MemberState::Blamed,
                _ if waiting.contains(&seat) => v::MemberState::Awaited,
                Some(round) if round.signed.contains(&seat) => v::MemberState::Signed,
                Some(round) if round.responded.contains(&seat) => v::MemberState::Responded,
                _ => v::MemberState::Ready,
            };
            seats
                .map(|(seat, key)| v::MemberView {
                    seat,
                    dids: number(machine.registered_by(seat)),
                    acknowledged_set: machine.has_acknowledged(seat),
                    last_heard_at: heard(&key),
                    state: state(seat, &key),
                    key,
                    waits_for: None,
                    missed_rounds: 0,
                    faults: Vec::new(),
                })
                .collect()
        }
        Machine::Participant(machine) => {
            // Members do not hear each other: what is known is this agent's own part.
            let frozen = matches!(
                machine.phase(),
                MemberPhase::Active | MemberPhase::Ended(EndCause::MemberLeft { .. })
            );
            let round = machine.open_round_now();
            let own = match &round {
                Some(round) if round.signed => v::MemberState::Signed,
                Some(round) if round.attempt > 0 => v::MemberState::Awaited,
                Some(round) if round.responded => v::MemberState::Responded,
                Some(_) => v::MemberState::Awaited,
                None => v::MemberState::Ready,
            };
            seats
                .map(|(seat, key)| {
                    let is_own = own_seat == Some(seat);
                    let dids = if is_own { machine.indexes().count() } else { 0 };
                    v::MemberView {
                        seat,
                        dids: number(dids),
                        acknowledged_set: frozen
                            || (is_own && *machine.phase() == MemberPhase::Acknowledged),
                        last_heard_at: heard(&key),
                        state: if is_own { own } else { v::MemberState::Ready },
                        key,
                        waits_for: None,
                        missed_rounds: 0,
                        faults: Vec::new(),
                    }
                })
                .collect()
        }
    }
}
