//! Replacing a signal that does not confirm by the one that pays more.

use crate::agent::control::request as r;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure};
use crate::agent::launch::agent_failure;
use crate::agent::node::{Machine, NodeInput};
use crate::agent::runtime::Agent;
use crate::protocol::aggregator::AggregatorInput;
use crate::store::Role;

impl Agent {
    /// Aggregator: sends the unconfirmed signal at its next higher fee.
    pub(super) fn bump(&mut self, reference: &r::CohortRef) -> Result<v::CohortView, Failure> {
        let id = self.find_cohort(reference, Some(Role::Aggregator))?;
        // It may have confirmed meanwhile.
        self.sync_chain(id, true).map_err(agent_failure)?;
        if let Machine::Aggregator(machine) = &self.node(id)?.machine
            && let Some(why) = machine.bump_refusal()
        {
            return Err(
                Failure::new(ErrorCode::WrongPhase, format!("nothing to replace: {why}"))
                    .remedy("`btcr2-agent cohort show` says what became of the last signal"),
            );
        }
        self.command(
            id,
            NodeInput::Aggregator(AggregatorInput::Bump),
            "replace the signal",
        )?;
        self.cohort_view(id, super::DEFAULT_ROUNDS)
    }
}
