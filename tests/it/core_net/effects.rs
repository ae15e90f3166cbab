//! What the runtime will do: carry out effects, in order, with signers, artifacts and the chain.

use std::collections::BTreeMap;

use btcr2_agent::hash::{CohortId, SmtIndex};
use btcr2_agent::keys::{NonceSlot, NostrKey, OwnKey};
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::effect::{Artifact, Effect, Outcome, Prepared, Report, SignOrder, To};
use btcr2_agent::protocol::evidence::{Evidence, Signed};
use btcr2_agent::protocol::history;
use btcr2_agent::protocol::kept::KeptAnswer;
use btcr2_agent::protocol::message::Message;
use btcr2_agent::protocol::participant::{
    IndexState, Participant, ParticipantInput, Recalled, SignedSession,
};
use btcr2_agent::protocol::{Label, Round, SessionId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::net::{Dest, Mail, Net};
use super::node::smt_nonce;

impl Net {
    pub fn agg_effect(&mut self, effect: Effect) {
        let from = self.agg_key.public();
        match effect {
            Effect::Send { to, message } => self.send(from, to, message),
            Effect::SendParts(parts) => {
                for (key, message) in parts {
                    self.send(from, To::Key(key), message);
                }
            }
            Effect::GrantChannel(keys) => {
                for node in &mut self.nodes {
                    node.in_channel |= keys.contains(&node.key.public());
                }
            }
            Effect::Advertise(status) => self.adverts.push(status),
            Effect::Save(artifact) => self.agg_saved.push(stored(artifact)),
            Effect::Broadcast(tx) => {
                assert!(
                    self.signed_txs().iter().any(|(_, kept)| *kept == tx),
                    "rule 5: kept before it is broadcast"
                );
                if self.broadcasts {
                    let error = self.chain.accept(&tx).err();
                    let fee_too_low = error.as_ref().is_some_and(|why| why.contains("fee"));
                    let txid = tx.compute_txid();
                    self.agg_input(AggregatorInput::Broadcast {
                        txid,
                        error,
                        fee_too_low,
                    });
                    self.sync();
                }
            }
            Effect::AnswerHistory { to, request } => {
                let answer = history::answer(&request, &self.agg_saved, self.history_bytes);
                self.send(from, To::Key(to), Message::History(answer));
            }
            Effect::Report(report) => self.agg_reports.push(report),
            other => panic!("not an effect of an aggregator: {other:?}"),
        }
    }

    pub fn member_effect(&mut self, i: usize, effect: Effect) {
        match effect {
            Effect::Send { to, mut message } => {
                assert_eq!(to, To::Key(self.agg_key.public()));
                let cohort = self.agg.cohort();
                let node = &self.nodes[i];
                sign_evidence(&node.key, &cohort, &mut message);
                match &message {
                    Message::PartialSignature(body) => self.check_rule_5(i, body.content.round),
                    Message::FallbackSignature(body) => self.check_rule_5(i, body.content.round),
                    _ => {}
                }
                let from = self.nodes[i].me();
                self.send(from, to, message);
            }
            Effect::Prepare {
                session,
                labels,
                indexes,
            } => self.prepare(i, session, &labels, &indexes),
            Effect::Sign(order) => self.sign(i, &order),
            Effect::SignFallback(order) => {
                if std::mem::take(&mut self.nodes[i].dies_at_sign) {
                    return self.restart(i);
                }
                let key = &self.nodes[i].key;
                let digests = order.sighashes.iter();
                let signatures = digests.map(|digest| key.sign_digest(digest.as_bytes()));
                let signed = ParticipantInput::FallbackSigned {
                    round: order.round,
                    signatures: signatures.collect(),
                };
                self.input(i, signed);
            }
            Effect::OpenIndex(index) => {
                if std::mem::take(&mut self.nodes[i].dies_at_open) {
                    return self.restart(i);
                }
                let node = &self.nodes[i];
                if let Some(did) = node.dids.iter().find(|did| did.index == index) {
                    let opening = did.opening(&self.agg.cohort(), node.me());
                    self.input(i, ParticipantInput::Open { index, opening });
                }
            }
            Effect::Save(artifact) => self.nodes[i].saved.push(stored(artifact)),
            Effect::Broadcast(tx) => {
                let kept = self.nodes[i].saved.iter().any(
                    |artifact| matches!(artifact, Artifact::SignedTransaction { tx: kept, .. } if *kept == tx),
                );
                assert!(kept, "kept before it is broadcast");
                self.nodes[i].sent.push(tx.clone());
                let error = self.chain.accept(&tx).err();
                let txid = tx.compute_txid();
                self.input(i, ParticipantInput::Broadcast { txid, error });
                self.sync();
            }
            Effect::ShowProofs { signals, .. } => {
                let mut answer = KeptAnswer::new(self.history_bytes);
                let saved = &self.nodes[i].saved;
                let shown = signals.iter().map(|signal| answer.add(*signal, saved));
                assert!(shown.take_while(|more| *more).count() > 0);
                let from = self.nodes[i].me();
                let to = To::Key(self.agg_key.public());
                self.send(from, to, Message::KeptProofs(answer.finish()));
            }
            Effect::Recall { index, rounds } => {
                if std::mem::take(&mut self.nodes[i].dies_at_recall) {
                    return self.restart(i);
                }
                let me = self.nodes[i].me();
                let nonces = rounds
                    .into_iter()
                    .map(|round| (round, smt_nonce(me, round, &index)))
                    .collect();
                let recalled = Recalled {
                    index,
                    nonces,
                    updates: self.nodes[i].updates.clone(),
                };
                self.input(i, ParticipantInput::Recalled(recalled));
            }
            Effect::Report(report) => {
                let binds = self.nodes[i].binds;
                self.nodes[i].reports.push(report.clone());
                if let Report::MayBind { index, .. } = report
                    && binds
                {
                    let outcome = self.input(i, ParticipantInput::Bound { index });
                    assert_eq!(outcome, Outcome::Accepted);
                }
            }
            other => panic!("not an effect of a member: {other:?}"),
        }
    }

    fn prepare(&mut self, i: usize, session: SessionId, labels: &[Label], indexes: &[SmtIndex]) {
        let now = self.now;
        let node = &mut self.nodes[i];
        if std::mem::take(&mut node.hangs_at_prepare) {
            return;
        }
        if std::mem::take(&mut node.dies_at_prepare) {
            return self.restart(i);
        }
        let seat = node.key.public();
        let nonces = labels
            .iter()
            .map(|label| {
                let label = *label;
                let slot = NonceSlot {
                    seat,
                    session,
                    label,
                };
                (label, node.signer.new_nonces(slot, now).unwrap())
            })
            .collect();
        let smt_nonces = indexes
            .iter()
            .map(|index| (*index, smt_nonce(seat, session.round().unwrap(), index)))
            .collect();
        let prepared = Prepared {
            session,
            nonces,
            smt_nonces,
        };
        self.input(i, ParticipantInput::Prepared(prepared));
    }

    fn sign(&mut self, i: usize, order: &SignOrder) {
        let now = self.now;
        let node = &mut self.nodes[i];
        if std::mem::take(&mut node.dies_at_sign) {
            return self.restart(i);
        }
        let seat = node.key.public();
        let (_, keys) = node.core.set().unwrap();
        let keys = keys.clone();
        let session = order.session;
        let mut partials = BTreeMap::new();
        for label in &order.labels {
            let slot = NonceSlot {
                seat,
                session,
                label: label.label,
            };
            let signed = node.signer.sign(
                slot,
                &label.nonce,
                &keys,
                &label.aggregate_nonce,
                label.sighash.as_bytes(),
            );
            let Ok(partial) = signed else {
                self.input(i, ParticipantInput::SignFailed { session });
                return;
            };
            assert!(
                node.used_nonces.insert(label.nonce.to_bytes()),
                "rule 1: a nonce signs once"
            );
            partials.insert(label.label, partial);
        }
        let next = SessionId {
            attempt: session.attempt + 1,
            ..session
        };
        let spares = order
            .spares
            .iter()
            .map(|label| {
                let label = *label;
                let slot = NonceSlot {
                    seat,
                    session: next,
                    label,
                };
                (label, node.signer.new_nonces(slot, now).unwrap())
            })
            .collect();
        let signed = SignedSession {
            session,
            partials,
            spares,
        };
        self.input(i, ParticipantInput::Signed(signed));
    }

    /// Every index of the member that the round covers has its proof or announcement saved.
    fn check_rule_5(&self, i: usize, of: Round) {
        let node = &self.nodes[i];
        for did in &node.dids {
            let covered = matches!(
                node.core.index_state(&did.index),
                Some(IndexState::Covered(from)) if from <= of
            );
            let saved = node.saved.iter().any(|artifact| match artifact {
                Artifact::SmtProof { round, index, .. } => *round == of && *index == did.index,
                Artifact::Announcement { round, .. } => *round == of,
                _ => false,
            });
            assert!(saved || !covered, "rule 5: saved before the partial leaves");
        }
    }

    fn send(&mut self, from: NostrKey, to: To, message: Message) {
        let aggregator = self.agg_key.public();
        let dests: Vec<Dest> = match to {
            To::Key(key) if key == aggregator => vec![Dest::Aggregator],
            To::Key(key) => match self.nodes.iter().position(|node| node.key.public() == key) {
                Some(i) => vec![Dest::Member(i)],
                None => {
                    self.elsewhere.push((key, message.clone()));
                    Vec::new()
                }
            },
            To::Channel => (0..self.nodes.len())
                .filter(|i| self.nodes[*i].in_channel)
                .map(Dest::Member)
                .collect(),
        };
        for to in dests {
            let mail = Mail {
                from,
                to,
                message: message.clone(),
            };
            if self.record {
                self.archive.push(mail.clone());
            }
            if self.duplicate {
                self.mail.push_back(mail.clone());
            }
            self.mail.push_back(mail);
        }
    }

    /// Feeds the recorded inputs to fresh cores. At some places, other ones in every log, the core is replaced by what
    /// comes back from its snapshot, as if the process had ended there and had begun again with it.
    fn replay(&self) {
        let mut agg = Aggregator::new(self.agg.terms().clone());
        for (at, (now, input, step)) in self.agg_log.iter().enumerate() {
            // The log is stored as JSON.
            let text = serde_json::to_string(input).unwrap();
            let input = serde_json::from_str(&text).unwrap();
            assert_eq!(agg.handle(*now, input), *step, "replayed: {text}");
            if snapshot_at(at, self.agg_log.len()) {
                agg = reread(&agg);
            }
        }
        assert_eq!(agg, self.agg);
        assert_eq!(format!("{agg:?}"), format!("{:?}", self.agg));
        for node in &self.nodes {
            let mut core = Participant::new(node.core.terms().clone(), node.me(), node.policy);
            for (at, (now, input, step)) in node.log.iter().enumerate() {
                let text = serde_json::to_string(input).unwrap();
                let input = serde_json::from_str(&text).unwrap();
                assert_eq!(core.handle(*now, input), *step, "replayed: {text}");
                if snapshot_at(at, node.log.len()) {
                    core = reread(&core);
                }
            }
            assert_eq!(core, node.core);
            assert_eq!(format!("{core:?}"), format!("{:?}", node.core));
        }
    }
}

/// Whether a log of this length has a snapshot after its entry `at`: ten of them, or one after each.
const fn snapshot_at(at: usize, length: usize) -> bool {
    let every = if length < 10 { 1 } else { length / 10 };
    at % every == length % every
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.record && !std::thread::panicking() {
            self.replay();
        }
    }
}

/// A machine as it comes back from a snapshot.
fn reread<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(machine: &T) -> T {
    let text = serde_json::to_string(machine).unwrap();
    let read: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(read, *machine);
    // What is equal to a machine may still print differently, where a field is left out of the comparison.
    assert_eq!(format!("{read:?}"), format!("{machine:?}"));
    read
}

/// As it comes back from a store.
fn stored(artifact: Artifact) -> Artifact {
    let text = serde_json::to_string(&artifact).unwrap();
    let read: Artifact = serde_json::from_str(&text).unwrap();
    assert_eq!(read, artifact);
    read
}

fn sign_evidence(key: &OwnKey, cohort: &CohortId, message: &mut Message) {
    fn sign<T: Evidence>(key: &OwnKey, cohort: &CohortId, body: &mut Signed<T>) {
        assert!(body.sig.is_none());
        body.sign_with(cohort, |digest| key.sign_digest(digest));
    }
    match message {
        Message::CohortAck(body) => sign(key, cohort, body),
        Message::Response(body) => sign(key, cohort, body),
        Message::NonceUpdate(body) => sign(key, cohort, body),
        Message::PartialSignature(body) => sign(key, cohort, body),
        Message::FallbackSignature(body) => sign(key, cohort, body),
        Message::RefundNonces(body) => sign(key, cohort, body),
        Message::RefundPartial(body) => sign(key, cohort, body),
        _ => {}
    }
}
