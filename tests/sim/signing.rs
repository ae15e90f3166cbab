//! The signers of the run, and the evidence that messages carry.

use std::collections::BTreeMap;

use btcr2_core::hash::SmtIndex;
use btcr2_core::keys::NonceSlot;
use btcr2_core::protocol::effect::{Prepared, SignOrder};
use btcr2_core::protocol::evidence::{Evidence, Signed};
use btcr2_core::protocol::message::{Message, Nonces};
use btcr2_core::protocol::participant::{ParticipantInput, SignedSession};
use btcr2_core::protocol::{Label, SessionId};

use super::members::smt_nonce;
use super::world::World;

impl World {
    pub fn nonces(&mut self, i: usize, session: SessionId, labels: &[Label]) -> Nonces {
        let now = self.clock(i);
        let seat = self.processes[i].public();
        let signer = &mut self.processes[i].signer;
        let make = |label: &Label| {
            let slot = NonceSlot {
                seat,
                session,
                label: *label,
            };
            Some((*label, signer.new_nonces(slot, now).ok()?))
        };
        labels.iter().map_while(make).collect()
    }

    pub fn prepare(
        &mut self,
        i: usize,
        session: SessionId,
        labels: &[Label],
        indexes: &[SmtIndex],
    ) -> Prepared {
        let nonces = self.nonces(i, session, labels);
        let seat = self.processes[i].public();
        let derive = |index: &SmtIndex| {
            let round = session.round()?;
            Some((*index, smt_nonce(seat, round, index)))
        };
        Prepared {
            session,
            nonces,
            smt_nonces: indexes.iter().filter_map(derive).collect(),
        }
    }

    pub fn sign(&mut self, i: usize, order: &SignOrder) -> ParticipantInput {
        let session = order.session;
        let seat = self.processes[i].public();
        let keys = self.processes[i].core.member().set();
        let Some(keys) = keys.map(|(_, keys)| keys.clone()) else {
            return ParticipantInput::SignFailed { session };
        };
        let mut partials = BTreeMap::new();
        for label in &order.labels {
            let slot = NonceSlot {
                seat,
                session,
                label: label.label,
            };
            let signed = self.processes[i].signer.sign(
                slot,
                &label.nonce,
                &keys,
                &label.aggregate_nonce,
                label.sighash.as_bytes(),
            );
            match signed {
                Ok(partial) => {
                    self.check_nonce_use(i, label, &partial);
                    partials.insert(label.label, partial);
                }
                Err(_) => return ParticipantInput::SignFailed { session },
            }
        }
        let next = SessionId {
            attempt: session.attempt + 1,
            ..session
        };
        let spares = self.nonces(i, next, &order.spares);
        ParticipantInput::Signed(SignedSession {
            session,
            partials,
            spares,
        })
    }
}

/// Signs what carries evidence, as `agent/delivery.rs` does.
pub fn sign_evidence(world: &World, i: usize, message: &mut Message) {
    fn sign<T: Evidence>(world: &World, i: usize, body: &mut Signed<T>) {
        let own = &world.processes[i].own;
        body.sign_with(&world.cohort, |digest| own.sign_digest(digest));
    }
    match message {
        Message::CohortAck(body) => sign(world, i, body),
        Message::Response(body) => sign(world, i, body),
        Message::NonceUpdate(body) => sign(world, i, body),
        Message::PartialSignature(body) => sign(world, i, body),
        Message::FallbackSignature(body) => sign(world, i, body),
        Message::RefundNonces(body) => sign(world, i, body),
        Message::RefundPartial(body) => sign(world, i, body),
        _ => {}
    }
}
