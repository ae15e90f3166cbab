//! What an opt-in shows for a seat: work, a code's word, or that of an invited key.

use super::error::AgentError;
use super::node::Machine;
use super::runtime::Agent;
use crate::hash::CohortId;
use crate::keys::{InviteCode, NostrKey, OwnKey};
use crate::protocol::admission::{self, Admission, Ticket, Vouch, VouchAs, vouch_digest};
use crate::protocol::participant::MemberPhase;
use crate::protocol::terms::Terms;
use crate::store::Role;

/// Work shown where the operator decides, in bits: it keeps a place among many that wait, and takes a moment.
pub const APPROVAL_WORK_BITS: u8 = 18;

/// Most work that is done inside the agent's task, which nothing else uses meanwhile.
const INLINE_BITS: u8 = 20;

/// What is shown with an opt-in.
#[derive(Debug)]
pub enum Shown {
    /// What the terms ask for, if this agent can make it by itself and soon.
    Asked,
    /// A code that its user was given.
    Code(InviteCode),
    /// Work that was done elsewhere.
    Work(u64),
}

/// A key's word for the key of a seat.
fn vouch(own: &OwnKey, of: VouchAs, cohort: &CohortId, seat: NostrKey) -> Vouch {
    Vouch {
        key: own.public(),
        sig: own.sign_digest(&vouch_digest(of, cohort, seat)),
    }
}

impl Agent {
    /// The key that takes a seat: that of an earlier request, if there was one, because a cohort has one per agent.
    #[must_use]
    pub fn seat_key(&self, cohort: CohortId, by_identity: bool) -> NostrKey {
        match self.nodes.get(&(cohort, Role::Participant)) {
            Some(node) => node.own.public(),
            None if by_identity => self.identity.public(),
            None => self.root.seat(&cohort).public(),
        }
    }

    /// Whether a seat can be asked for: never asked, interrupted before that was stored, or refused.
    #[must_use]
    pub fn may_ask(&self, cohort: CohortId) -> bool {
        match self
            .nodes
            .get(&(cohort, Role::Participant))
            .map(|node| &node.machine)
        {
            None => true,
            Some(Machine::Participant(machine)) => {
                matches!(machine.phase(), MemberPhase::New | MemberPhase::Refused(_))
            }
            Some(Machine::Aggregator(_)) => false,
        }
    }

    /// Whether this agent can show what terms ask for by itself, and soon.
    pub(super) fn can_show(&self, terms: &Terms) -> bool {
        match terms.admission {
            _ if terms.invite_only => true,
            Admission::Open | Admission::Approval => true,
            Admission::Pow(bits) => bits <= INLINE_BITS,
            Admission::Code => false,
        }
    }

    /// What to show with an opt-in under these terms.
    pub(super) fn ticket(
        &self,
        terms: &Terms,
        seat: NostrKey,
        shown: Shown,
    ) -> Result<Option<Ticket>, AgentError> {
        let cohort = terms.cohort_id();
        match shown {
            Shown::Work(number) => return Ok(Some(Ticket::Work(number))),
            Shown::Code(code) => {
                let own = code.key_in(&cohort);
                let vouch = vouch(&own, VouchAs::Code, &cohort, seat);
                return Ok(Some(Ticket::Code(vouch)));
            }
            Shown::Asked => {}
        }
        if terms.invite_only {
            // Whom the aggregator knows speaks for the key of the seat, which is another one.
            let invited = self.offered_to(cohort).unwrap_or(&self.identity);
            return Ok((invited.public() != seat)
                .then(|| Ticket::Invited(vouch(invited, VouchAs::Invited, &cohort, seat))));
        }
        let bits = match terms.admission {
            Admission::Open => return Ok(None),
            Admission::Code => {
                return Err(AgentError::Refused(
                    "this cohort seats who has an invite code: ask its aggregator for one".into(),
                ));
            }
            Admission::Approval => APPROVAL_WORK_BITS,
            Admission::Pow(bits) if bits > INLINE_BITS => {
                return Err(AgentError::Refused(format!(
                    "this cohort asks for {bits} bits of work, more than are done without being asked to"
                )));
            }
            Admission::Pow(bits) => bits,
        };
        Ok(admission::mine(&cohort, seat, bits).map(Ticket::Work))
    }
}
