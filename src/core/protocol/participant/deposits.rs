//! Depositing updates, as a member lives it (see [`crate::protocol::deposit`]).
//!
//! The choice is the user's, update by update. A deposited update is announced only once the aggregator has
//! verified it; one that it refused goes back to the user with the reason. What this member checks before it
//! signs does not change: a deposit is for the aggregator's eyes, not instead of its own.

use super::{Decline, MemberPhase, MyRound, Participant};
use crate::hash::{SmtIndex, UpdateHash};
use crate::protocol::deposit::{
    DepositCode, DepositRefused, Deposited, DepositedItem, LeafOpening, MAX_REASON_CHARS,
    UpdateDeposit,
};
use crate::protocol::effect::{Effect, Ignored, Report, Step};
use crate::protocol::message::{Message, RefusalCode, Refused};
use crate::protocol::terms::Deposits as Term;
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::round::Planned;

/// Seconds a response waits for a verdict on a deposit, at most, and never more than half of the time there is:
/// others wait for the response. The aggregator that opened the round answers within seconds.
const PATIENCE_SECONDS: u64 = 120;

/// Where a deposit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DepositState {
    /// Sent, not answered.
    Sent,
    /// The aggregator verified it.
    Accepted {
        /// Whether it knows the source document to be the current one.
        anchored: bool,
    },
    /// The aggregator refused it: the update is not announced.
    Refused(DepositRefused),
}

/// The deposit of an index's update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct MyDeposit {
    /// Kept to be sent again to an aggregator that lost it.
    message: UpdateDeposit,
    state: DepositState,
    /// The user knows that it was refused.
    told: bool,
}

impl MyRound {
    /// Until when the response waits for verdicts.
    pub(super) fn patience(opened: UnixTime, respond_by: UnixTime) -> UnixTime {
        opened.plus((respond_by.since(opened) / 2).min(PATIENCE_SECONDS))
    }
}

impl Participant {
    /// Sends a deposit. The update is queued after it, by its hash.
    pub(super) fn deposit(&mut self, message: UpdateDeposit) -> Step {
        let index = message.did.smt_index();
        if self.phase != MemberPhase::Active {
            return Step::ignored(Ignored::WrongPhase);
        }
        if self.terms.deposits == Term::None {
            return contradiction("the terms of this cohort take no deposits");
        }
        let known = self.deposits.get(&index);
        if known.is_some_and(|mine| {
            mine.message == message && !matches!(mine.state, DepositState::Refused(_))
        }) {
            return Step::ignored(Ignored::Duplicate);
        }
        let update = self.indexes.get(&index).and_then(|mine| mine.update);
        if update != Some(message.hash)
            && let Some(why) = self.queue_refusal(&index)
        {
            return contradiction(why);
        }
        let send = self.send(Message::UpdateDeposit(message.clone()));
        let mine = MyDeposit {
            message,
            state: DepositState::Sent,
            told: false,
        };
        self.deposits.insert(index, mine);
        Step::with(vec![send])
    }

    /// Why an update can not be queued: the terms want it deposited.
    pub(super) fn undeposited(&self, index: &SmtIndex, update: UpdateHash) -> Option<&'static str> {
        let required = self.terms.deposits == Term::Required;
        let deposited = matches!(
            self.deposit_of(index, update),
            Some(DepositState::Sent | DepositState::Accepted { .. })
        );
        (required && !deposited)
            .then_some("the terms of this cohort require that updates are deposited")
    }

    /// The user queues a refused update again, and not by another deposit: its hash alone is announced.
    pub(super) fn forget_refused(&mut self, index: &SmtIndex, update: UpdateHash) {
        if matches!(
            self.deposit_of(index, update),
            Some(DepositState::Refused(_))
        ) {
            self.deposits.remove(index);
        }
    }

    /// The aggregator says what became of deposits.
    pub(super) fn deposited(&mut self, now: UnixTime, deposited: Deposited) -> Step {
        let mut effects = Vec::new();
        let mut known = false;
        for item in deposited.items {
            known |= self.verdict(item, &mut effects);
        }
        if !known {
            return Step::ignored(Ignored::Unasked);
        }
        effects.extend(self.give_back());
        effects.extend(self.try_respond(now));
        Step::with(effects)
    }

    /// Takes one verdict; false when it is about nothing that was deposited.
    fn verdict(&mut self, item: DepositedItem, effects: &mut Vec<Effect>) -> bool {
        let DepositedItem { index, update, .. } = item;
        let Some(mine) = self
            .deposits
            .get_mut(&index)
            .filter(|mine| mine.message.hash == update)
        else {
            return false;
        };
        match (item.anchored, item.refused) {
            (Some(anchored), None) => {
                mine.state = DepositState::Accepted { anchored };
                effects.push(Effect::Report(Report::MyDepositAccepted {
                    index,
                    update,
                    anchored,
                }));
            }
            (None, Some(refused)) if refused.code == DepositCode::NotDeposited => {
                // It had it, and lost it: a store that was restored. It gets it again.
                if matches!(mine.state, DepositState::Accepted { .. }) {
                    mine.state = DepositState::Sent;
                    let again = Message::UpdateDeposit(mine.message.clone());
                    effects.push(self.send(again));
                }
            }
            (None, Some(mut refused)) => {
                refused.reason = refused.reason.chars().take(MAX_REASON_CHARS).collect();
                mine.state = DepositState::Refused(refused);
                mine.told = false;
            }
            _ => return false,
        }
        true
    }

    /// Refused updates go back to the user: they are not queued any more.
    ///
    /// Not one that the open round announces: whatever the aggregator said since, it holds a response with it, and
    /// may ask for a signature over it. And not one that was signed for: its bytes stay what they are (rule 10).
    pub(super) fn give_back(&mut self) -> Vec<Effect> {
        let refused: Vec<(SmtIndex, UpdateHash, DepositRefused)> = self
            .deposits
            .iter()
            .filter(|(index, mine)| {
                !mine.told && !self.is_planned(index) && !self.others_may_announce(index)
            })
            .filter_map(|(index, mine)| match &mine.state {
                DepositState::Refused(refused) => {
                    Some((*index, mine.message.hash, refused.clone()))
                }
                _ => None,
            })
            .collect();
        let mut effects = Vec::new();
        for (index, update, DepositRefused { code, reason }) in refused {
            if let Some(mine) = self.deposits.get_mut(&index) {
                mine.told = true;
            }
            if let Some(mine) = self.indexes.get_mut(&index)
                && mine.update == Some(update)
                && mine.announced.is_empty()
            {
                mine.update = None;
            }
            effects.push(Effect::Report(Report::MyDepositRefused {
                index,
                update,
                code,
                reason,
            }));
        }
        effects
    }

    /// The aggregator refused the response of the open round over its deposits: nothing that it asks them for is
    /// announced in this round, so that the round goes on. What stays queued is for the next one.
    pub(super) fn response_refused(&mut self, now: UnixTime, refused: &Refused) -> Vec<Effect> {
        let over_deposits = matches!(
            refused.code,
            RefusalCode::DepositRequired | RefusalCode::WrongLeaf
        );
        let Some(state) = self.round.as_mut().filter(|state| {
            refused.of == "response"
                && refused.round == Some(state.round)
                && over_deposits
                && state.responded
                && !state.without_deposits
                && state.request.is_none()
                && state.signing.is_none()
                && state.sent.is_empty()
        }) else {
            return Vec::new();
        };
        state.without_deposits = true;
        state.responded = false;
        let mut effects = self.try_respond(now);
        effects.extend(self.give_back());
        effects
    }

    /// Whether the response must wait for a verdict.
    pub(super) fn awaits_verdict(&self, now: UnixTime) -> bool {
        let Some(state) = &self.round else {
            return false;
        };
        now <= state.patience
            && !state.without_deposits
            && self.indexes.iter().any(|(index, mine)| {
                let deposit = mine
                    .update
                    .and_then(|update| self.deposit_of(index, update));
                mine.covered_in(state.round) && deposit == Some(&DepositState::Sent)
            })
    }

    /// When a response that waits for a verdict goes out without it.
    pub(super) fn response_due(&self) -> Option<UnixTime> {
        let state = self.round.as_ref()?;
        let waits = !state.responded && state.smt_nonces.is_some() && state.nonces.contains_key(&1);
        waits.then(|| state.patience.plus(1))
    }

    /// Whether an update may be announced now, as far as deposits go.
    pub(super) fn may_announce(&self, index: &SmtIndex, update: UpdateHash) -> bool {
        let accepted = match self.deposit_of(index, update) {
            Some(DepositState::Accepted { .. }) => true,
            Some(_) => return self.terms.deposits == Term::None,
            None => false,
        };
        let without = self
            .round
            .as_ref()
            .is_some_and(|state| state.without_deposits);
        match self.terms.deposits {
            Term::None => true,
            Term::Accepted => !accepted || !without,
            Term::Required => accepted && !without,
        }
    }

    /// What is shown of a leaf: all of it where the update was deposited or the terms require deposits; nothing
    /// of any other.
    pub(super) fn opening_of(&self, index: &SmtIndex, planned: &Planned) -> Option<LeafOpening> {
        let deposited = planned.update.is_some_and(|update| {
            matches!(
                self.deposit_of(index, update),
                Some(DepositState::Accepted { .. })
            )
        });
        let shown = match self.terms.deposits {
            Term::None => false,
            Term::Accepted => deposited,
            Term::Required => true,
        };
        (shown && !planned.leaf.is_empty()).then(|| planned.leaf.into())
    }

    /// What an index says without an update, as the policy wants it.
    pub(super) fn says_idle(&self, update: Option<UpdateHash>) -> bool {
        update.is_none() && self.policy.decline == Decline::Idle
    }

    /// Where the deposit of an update stands, if it was deposited.
    #[must_use]
    pub fn deposit_of(&self, index: &SmtIndex, update: UpdateHash) -> Option<&DepositState> {
        let mine = self.deposits.get(index)?;
        (mine.message.hash == update).then_some(&mine.state)
    }
}

fn contradiction(why: &str) -> Step {
    Step::ignored(Ignored::Contradiction(why.to_owned()))
}
