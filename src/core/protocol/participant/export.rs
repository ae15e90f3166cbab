//! What this member approved in the open round, for other tools.

use super::Participant;
use crate::protocol::export::{Given, Unsigned, of_ladder};

impl Participant {
    /// The transactions this member approved in the open round, with its own nonces and partial signatures.
    #[must_use]
    pub fn unsigned(&self) -> Vec<Unsigned> {
        let Some(state) = &self.round else {
            return Vec::new();
        };
        let Some(approved) = &state.approved else {
            return Vec::new();
        };
        let sent = state.sent.iter().next_back();
        let given: Vec<Given<'_>> = sent
            .map(|(_, content)| Given {
                member: self.me,
                nonces: &content.nonces,
                partials: Some(&content.partials),
            })
            .into_iter()
            .collect();
        of_ladder(&approved.ladder, &self.script, &given)
    }
}
