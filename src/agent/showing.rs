//! Showing the aggregator of a cohort what this member keeps of rounds that it lost (docs/backup.md).

use super::error::AgentError;
use super::node::{Machine, NodeId};
use super::runtime::Agent;
use crate::hash::{SignalBytes, SmtIndex};
use crate::protocol::effect::Artifact;
use crate::protocol::history::MAX_ANSWER_BYTES;
use crate::protocol::kept::KeptAnswer;
use crate::protocol::message::Message;
use crate::store::{ArtifactKind, Subject};

impl Agent {
    pub(super) fn show_proofs(
        &mut self,
        id: NodeId,
        indexes: &[SmtIndex],
        signals: &[SignalBytes],
    ) -> Result<(), AgentError> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Ok(());
        };
        let aggregator = machine.terms().aggregator;
        if !self.shown_quota.take(self.now(), id.0) {
            // It asks again.
            self.count("too_many_proof_requests");
            return Ok(());
        }
        let mut answer = KeptAnswer::new(MAX_ANSWER_BYTES);
        for signal in signals {
            let kept = self.kept_of(id, indexes, *signal)?;
            if !answer.add(*signal, &kept) {
                break;
            }
        }
        self.send_plain(id, aggregator, Message::KeptProofs(answer.finish()))
    }

    /// What is kept of one signal. Another cohort may have had the same one; what lies beside something damaged has no
    /// cohort.
    fn kept_of(
        &self,
        id: NodeId,
        indexes: &[SmtIndex],
        signal: SignalBytes,
    ) -> Result<Vec<Artifact>, AgentError> {
        let view = self.store.view();
        let announcement = (ArtifactKind::CasAnnouncement, Subject::Round);
        let proofs = indexes.iter();
        let proofs = proofs.map(|index| (ArtifactKind::SmtProof, Subject::Index(*index)));
        let mut kept = Vec::new();
        for (kind, subject) in [announcement].into_iter().chain(proofs) {
            let rows = view.artifacts_for(kind, &subject, Some(signal))?;
            let own = rows.iter().filter(|row| {
                let origin = row.key.origin;
                origin.is_none_or(|(cohort, _)| cohort == id.0)
            });
            // What was damaged in the store proves nothing.
            kept.extend(own.filter_map(|row| serde_json::from_slice(&row.bytes).ok()));
        }
        Ok(kept)
    }
}
