//! Showing the aggregator what this member keeps: its store is an older copy of itself (docs/backup.md).

use super::Participant;
use crate::protocol::effect::{Effect, Ignored, Step};
use crate::protocol::message::ProofRequest;
use crate::protocol::proof_message::MAX_SIGNALS_ASKED;

impl Participant {
    /// Who has a seat shows what the aggregator once knew: the values of its leaves, where they stood, announcements.
    /// Nothing changes by it.
    pub(super) fn show_proofs(&self, request: &ProofRequest) -> Step {
        if self.seat().is_none() {
            return Step::ignored(Ignored::WrongPhase);
        }
        let signals = request.signals.iter().copied();
        Step::with(vec![Effect::ShowProofs {
            indexes: self.indexes.keys().copied().collect(),
            signals: signals.take(MAX_SIGNALS_ASKED).collect(),
        }])
    }
}
