//! Answers to questions about past rounds, out of what is stored: history, and what a member keeps.
//!
//! They are made in the transaction in which the question counts as handled. Made after it, an answer would be lost with
//! a process that ends in between, and who asked would wait an hour before it asks again.

use std::collections::BTreeMap;

use super::error::AgentError;
use super::node::{Machine, Node};
use super::quota::{HistoryQuota, ShownQuota};
use crate::hash::{CohortId, SignalBytes, SmtIndex};
use crate::keys::NostrKey;
use crate::protocol::effect::Artifact;
use crate::protocol::history::{Answer, MAX_ANSWER_BYTES};
use crate::protocol::kept::KeptAnswer;
use crate::protocol::message::{HistoryRequest, Message, RefusalCode, Refused};
use crate::store::{ArtifactKind, StoreError, Subject, View};
use crate::time::UnixTime;

/// What answers to questions may use.
pub(super) struct Answering<'a> {
    pub(super) now: UnixTime,
    pub(super) history: &'a mut HistoryQuota,
    pub(super) shown: &'a mut ShownQuota,
    pub(super) counters: &'a mut BTreeMap<String, u64>,
}

impl Answering<'_> {
    fn count(&mut self, what: &str) {
        let count = self.counters.entry(what.to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    /// The aggregator proves past rounds to whoever asks.
    pub(super) fn history(
        &mut self,
        view: &View<'_>,
        node: &Node,
        to: NostrKey,
        request: &HistoryRequest,
    ) -> Result<Option<Message>, AgentError> {
        let member = match &node.machine {
            Machine::Aggregator(machine) => machine.members().contains(&to),
            Machine::Participant(_) => false,
        };
        if !self.history.take(self.now, to, member) {
            self.count("too_many_history_requests");
            // A stranger gets no answer that it could cause at will, and a member a few.
            let told = member && self.history.may_tell(self.now, to);
            let refused = Refused {
                of: "history_request".into(),
                code: RefusalCode::TooMany,
                round: None,
            };
            return Ok(told.then_some(Message::Refused(refused)));
        }
        let mut answer = Answer::new(request, MAX_ANSWER_BYTES);
        view.each_signed_round(node.id.0, request.from_round, |artifact| {
            match serde_json::from_slice(&artifact.bytes) {
                Ok(artifact) => answer.add(&artifact),
                // Damaged in the store: nothing can be proved from it.
                Err(_) => true,
            }
        })?;
        Ok(Some(Message::History(answer.finish())))
    }

    /// A member shows the aggregator what it keeps of rounds that the aggregator lost (docs/backup.md). One that asks too
    /// often is not answered: it asks again.
    pub(super) fn kept(
        &mut self,
        view: &View<'_>,
        cohort: CohortId,
        indexes: &[SmtIndex],
        signals: &[SignalBytes],
    ) -> Result<Option<Message>, AgentError> {
        if !self.shown.take(self.now, cohort) {
            self.count("too_many_proof_requests");
            return Ok(None);
        }
        let mut answer = KeptAnswer::new(MAX_ANSWER_BYTES);
        for signal in signals {
            let kept = kept_of(view, cohort, indexes, *signal)?;
            if !answer.add(*signal, &kept) {
                break;
            }
        }
        Ok(Some(Message::KeptProofs(answer.finish())))
    }
}

/// What is kept of one signal. Another cohort may have had the same one; what lies beside something damaged has no
/// cohort.
fn kept_of(
    view: &View<'_>,
    cohort: CohortId,
    indexes: &[SmtIndex],
    signal: SignalBytes,
) -> Result<Vec<Artifact>, StoreError> {
    let announcement = (ArtifactKind::CasAnnouncement, Subject::Round);
    let proofs = indexes.iter();
    let proofs = proofs.map(|index| (ArtifactKind::SmtProof, Subject::Index(*index)));
    let mut kept = Vec::new();
    for (kind, subject) in [announcement].into_iter().chain(proofs) {
        let rows = view.artifacts_for(kind, &subject, Some(signal))?;
        let own = rows
            .iter()
            .filter(|row| row.key.origin.is_none_or(|(of, _)| of == cohort));
        // What was damaged in the store proves nothing.
        kept.extend(own.filter_map(|row| serde_json::from_slice(&row.bytes).ok()));
    }
    Ok(kept)
}
