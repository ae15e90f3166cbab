//! What is being signed now, for other tools.

use super::Aggregator;
use crate::beacon::address::beacon_script;
use crate::protocol::export::{Given, Unsigned, of_ladder, of_refund};
use crate::protocol::ids::Label;

impl Aggregator {
    /// The transactions of the open sessions: of the round, once its signal is built, and of the refund that is being
    /// signed, once all nonces are there.
    #[must_use]
    pub fn unsigned(&self) -> Vec<Unsigned> {
        let Some((set, keys)) = &self.set else {
            return Vec::new();
        };
        let script = beacon_script(keys.output_key());
        let mut all = Vec::new();
        if let Some(state) = &self.round
            && let (Some(built), Some(session)) = (&state.built, &state.session)
        {
            let offered = state.nonces.get(&session.attempt);
            let given: Vec<Given<'_>> = offered
                .into_iter()
                .flatten()
                .filter_map(|(seat, nonces)| {
                    Some(Given {
                        member: set.key_of(*seat)?,
                        nonces,
                        partials: session.partials.get(seat).map(|content| &content.partials),
                    })
                })
                .collect();
            all.extend(of_ladder(&built.ladder, &script, &given));
        }
        if let Some((refund, nonces, partials)) = self.refunds.being_signed() {
            let given: Vec<Given<'_>> = nonces
                .iter()
                .filter_map(|(seat, nonces)| {
                    Some(Given {
                        member: set.key_of(*seat)?,
                        nonces,
                        partials: partials.get(seat).map(|content| &content.partials),
                    })
                })
                .collect();
            let prevout = refund.prevout.clone();
            all.push(of_refund(Label::REFUND, &refund.tx, prevout, &given));
        }
        all
    }
}
