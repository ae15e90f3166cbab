//! One cohort of this agent in one role: the machine, and the keys it speaks with.

use bitcoin::{Address, Amount, FeeRate, ScriptBuf, Txid};
use serde::{Deserialize, Serialize};

use super::error::AgentError;
use super::journal::Journal;
use crate::beacon::address::{beacon_address, beacon_script};
use crate::beacon::history::Changes;
use crate::beacon::signal::WEIGHT_WITHOUT_CHANGE;
use crate::hash::CohortId;
use crate::keys::musig::KeySet;
use crate::keys::{NostrKey, OwnKey};
use crate::nostr::seal::ChannelKey;
use crate::protocol::aggregator::{Aggregator, AggregatorInput, FINAL_DEPTH, Phase};
use crate::protocol::chain_view::{ChainUpdate, ChainView, TipView};
use crate::protocol::confirmation::ConfirmationWatch;
use crate::protocol::effect::Step;
use crate::protocol::message::Message;
use crate::protocol::participant::{MemberPhase, Participant, ParticipantInput};
use crate::protocol::terms::Terms;
use crate::store::Role;
use crate::time::UnixTime;

/// Which node of this agent: it may be aggregator and member of the same cohort.
pub(super) type NodeId = (CohortId, Role);

/// The state machine of a role.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Machine {
    Aggregator(Box<Aggregator>),
    Participant(Box<Participant>),
}

/// An input for either machine, as it is logged.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum NodeInput {
    Aggregator(AggregatorInput),
    Participant(ParticipantInput),
}

impl NodeInput {
    /// Reads a logged input. The role decides: some inputs of both machines look alike.
    pub(super) fn read(role: Role, json: &str) -> Result<Self, serde_json::Error> {
        match role {
            Role::Aggregator => serde_json::from_str(json).map(Self::Aggregator),
            Role::Participant => serde_json::from_str(json).map(Self::Participant),
        }
    }

    /// Who wrote the message, if the input is one.
    const fn author(&self) -> Option<NostrKey> {
        match self {
            Self::Aggregator(AggregatorInput::Message { from, .. })
            | Self::Participant(ParticipantInput::Message { from, .. }) => Some(*from),
            _ => None,
        }
    }
}

/// A cohort of this agent.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) machine: Machine,
    /// The key this node signs and encrypts with: the seat's, or the identity for the aggregator.
    pub(super) own: OwnKey,
    /// The channel, once it is known.
    pub(super) channel: Option<ChannelKey>,
    /// Relays the aggregator named: hints.
    pub(super) relays: Vec<String>,
    pub(super) created: UnixTime,
    /// When the last input was handled.
    pub(super) last: UnixTime,
    /// What happened, for people: rebuilt by replay like everything else here.
    pub(super) journal: Journal,
    /// The event in which a member got the channel's secret, sealed as it came.
    pub(super) sealed: Option<String>,
    /// The log since the last snapshot.
    pub(super) tail: super::snapshots::Tail,
    /// What may have changed at the address since the machine was told.
    pub(super) touched: Changes,
}

impl Node {
    /// Handles an input; the caller logs it and carries out the effects.
    pub(super) fn handle(&mut self, now: UnixTime, input: NodeInput) -> Result<Step, AgentError> {
        self.last = now;
        let from = input.author();
        let step = match (&mut self.machine, input) {
            (Machine::Aggregator(machine), NodeInput::Aggregator(input)) => {
                machine.handle(now, input)
            }
            (Machine::Participant(machine), NodeInput::Participant(input)) => {
                machine.handle(now, input)
            }
            _ => return Err(AgentError::Defect("an input for the other role")),
        };
        self.journal.note(now, from, &step);
        Ok(step)
    }

    pub(super) fn message(&self, from: NostrKey, message: Message) -> NodeInput {
        match self.machine {
            Machine::Aggregator(_) => {
                NodeInput::Aggregator(AggregatorInput::Message { from, message })
            }
            Machine::Participant(_) => {
                NodeInput::Participant(ParticipantInput::Message { from, message })
            }
        }
    }

    pub(super) const fn tick(&self) -> NodeInput {
        match self.machine {
            Machine::Aggregator(_) => NodeInput::Aggregator(AggregatorInput::Tick),
            Machine::Participant(_) => NodeInput::Participant(ParticipantInput::Tick),
        }
    }

    pub(super) const fn chain_input(&self, update: ChainUpdate) -> NodeInput {
        match self.machine {
            Machine::Aggregator(_) => NodeInput::Aggregator(AggregatorInput::Chain(update)),
            Machine::Participant(_) => NodeInput::Participant(ParticipantInput::Chain(update)),
        }
    }

    pub(super) const fn broadcast_input(
        &self,
        txid: Txid,
        error: Option<String>,
        fee_too_low: bool,
    ) -> NodeInput {
        match self.machine {
            Machine::Aggregator(_) => NodeInput::Aggregator(AggregatorInput::Broadcast {
                txid,
                error,
                fee_too_low,
            }),
            Machine::Participant(_) => {
                NodeInput::Participant(ParticipantInput::Broadcast { txid, error })
            }
        }
    }

    /// Where everything that was signed is.
    pub(super) const fn watch(&self) -> &ConfirmationWatch {
        match &self.machine {
            Machine::Aggregator(machine) => machine.watch(),
            Machine::Participant(machine) => machine.watch(),
        }
    }

    pub(super) fn deadline(&self) -> Option<UnixTime> {
        match &self.machine {
            Machine::Aggregator(machine) => machine.deadline(),
            // The deadlines of a round are the aggregator's to enforce: a member's are its own patience.
            Machine::Participant(machine) => machine.deadline(),
        }
    }

    pub(super) fn terms(&self) -> &Terms {
        match &self.machine {
            Machine::Aggregator(machine) => machine.terms(),
            Machine::Participant(machine) => machine.terms(),
        }
    }

    pub(super) fn key_set(&self) -> Option<&KeySet> {
        match &self.machine {
            Machine::Aggregator(machine) => machine.set().map(|(_, keys)| keys),
            Machine::Participant(machine) => machine.set().map(|(_, keys)| keys),
        }
    }

    pub(super) const fn chain(&self) -> &ChainView {
        match &self.machine {
            Machine::Aggregator(machine) => machine.chain(),
            Machine::Participant(machine) => machine.chain(),
        }
    }

    pub(super) fn script(&self) -> Option<ScriptBuf> {
        Some(beacon_script(self.key_set()?.output_key()))
    }

    /// The beacon address, once the set is known.
    pub(super) fn address(&self) -> Option<Address> {
        Some(beacon_address(
            self.key_set()?.output_key(),
            self.terms().network,
        ))
    }

    /// The least output that starts a chain of signals: one that can pay for a signal at the terms' ceiling.
    /// A function of the terms, so that every member and the aggregator name the same tip.
    pub(super) fn min_start(&self) -> Amount {
        FeeRate::from_sat_per_vb(self.terms().max_fee_rate.into())
            .and_then(|rate| rate.fee_wu(WEIGHT_WITHOUT_CHANGE))
            .unwrap_or(Amount::MAX_MONEY)
    }

    pub(super) fn is_over(&self) -> bool {
        match &self.machine {
            Machine::Aggregator(machine) => matches!(machine.phase(), Phase::Ended(_)),
            Machine::Participant(machine) => matches!(
                machine.phase(),
                MemberPhase::Ended(_) | MemberPhase::Released | MemberPhase::Refused(_)
            ),
        }
    }

    /// Whether the chain of this cohort matters still: a beacon that ended may have signals unconfirmed.
    pub(super) fn watches_chain(&self) -> bool {
        self.key_set().is_some()
    }

    /// Whether a new height alone is news: something waits for confirmations.
    pub(super) fn counts_blocks(&self) -> bool {
        let chain = self.chain();
        let shallow = |height: u32| chain.confirmations(height) < FINAL_DEPTH;
        let tip_waits = match chain.tip {
            TipView::Ready { height, .. } => {
                chain.confirmations(height) < u32::from(self.terms().depth)
            }
            TipView::Unconfirmed { .. } | TipView::InFlight { .. } => true,
            TipView::NoFunds => false,
        };
        let signal_waits = chain
            .signals
            .values()
            .any(|signal| signal.height.is_none_or(shallow));
        tip_waits || signal_waits || self.watch().counts_blocks(chain)
    }

    /// A word for the phase.
    pub(super) fn phase_name(&self) -> &'static str {
        match &self.machine {
            Machine::Aggregator(machine) => match machine.phase() {
                Phase::Draft => "draft",
                Phase::Open => "open",
                Phase::Forming { .. } => "forming",
                Phase::Active => "active",
                Phase::Ended(_) => "ended",
            },
            Machine::Participant(machine) => match machine.phase() {
                MemberPhase::New => "new",
                MemberPhase::Asked => "asked",
                MemberPhase::Refused(_) => "refused",
                MemberPhase::Seated(_) => "seated",
                MemberPhase::Acknowledged => "acknowledged",
                MemberPhase::Active => "active",
                MemberPhase::Released => "released",
                MemberPhase::Ended(_) => "ended",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_input_is_read_as_its_own_role_s() {
        let inputs = [
            NodeInput::Aggregator(AggregatorInput::Tick),
            NodeInput::Participant(ParticipantInput::Tick),
            NodeInput::Aggregator(AggregatorInput::Chain(ChainUpdate::default())),
            NodeInput::Participant(ParticipantInput::Chain(ChainUpdate::default())),
        ];
        for input in inputs {
            let role = match &input {
                NodeInput::Aggregator(_) => Role::Aggregator,
                NodeInput::Participant(_) => Role::Participant,
            };
            let json = serde_json::to_string(&input).unwrap();
            assert_eq!(NodeInput::read(role, &json).unwrap(), input);
        }
    }
}
