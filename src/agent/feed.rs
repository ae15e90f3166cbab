//! Feeding the core: log, effects, outbox and artifacts in one transaction, then everything else.

use std::collections::VecDeque;

use bitcoin::Transaction;

use super::answering::Answering;
use super::delivery::{self, Outgoing};
use super::error::AgentError;
use super::events::What;
use super::input_names::{kind_of, reason_name};
use super::node::{NodeId, NodeInput};
use super::runtime::Agent;
use super::saving::save;
use crate::fail_point;
use crate::hash::SmtIndex;
use crate::keys::NostrKey;
use crate::keys::signer::NonceSlot;
use crate::protocol::aggregator::AggregatorInput;
use crate::protocol::effect::{
    AdvertStatus, Effect, FallbackOrder, Outcome, Prepared, Report, SignOrder, Step, To,
};
use crate::protocol::ids::{Label, Round, SessionId};
use crate::protocol::message::Nonces;
use crate::protocol::participant::{ParticipantInput, Recalled, SignedSession};
use crate::store::{NewLogEntry, Role};

/// What is left to do once a step is durable.
enum Followup {
    Prepare {
        session: SessionId,
        labels: Vec<Label>,
        indexes: Vec<SmtIndex>,
    },
    Sign(SignOrder),
    SignFallback(FallbackOrder),
    Broadcast(Transaction),
    OpenIndex(SmtIndex),
    Recall {
        index: SmtIndex,
        rounds: Vec<Round>,
    },
    Advertise(AdvertStatus),
    Report(Report),
}

impl Followup {
    /// A word for it, for fail points.
    #[cfg(debug_assertions)]
    fn name(&self) -> String {
        let name = match self {
            Self::Prepare { .. } => "prepare",
            Self::Sign(_) => "sign",
            Self::SignFallback(_) => "sign_fallback",
            Self::Broadcast(_) => "broadcast",
            Self::OpenIndex(_) => "open_index",
            Self::Recall { .. } => "recall",
            Self::Advertise(_) => "advertise",
            Self::Report(report) => {
                let json = serde_json::to_value(report).unwrap_or_default();
                let event = json.get("event").and_then(serde_json::Value::as_str);
                return format!("report_{}", event.unwrap_or("unknown"));
            }
        };
        name.to_owned()
    }
}

impl Agent {
    /// Feeds one input to a cohort, and what follows from it. An error that is fatal leaves the store as it
    /// was before the step.
    pub(super) fn feed(&mut self, id: NodeId, input: NodeInput) -> Result<Outcome, AgentError> {
        let mut queue = Self::queue_of(id, input);
        let mut first = None;
        while let Some((id, input)) = queue.pop_front() {
            let step = self.step(id, input);
            // The machine has moved; if that was not stored, memory is ahead of the disk.
            if let Err(error) = &step {
                self.broken.get_or_insert_with(|| error.to_string());
            }
            let (outcome, followups) = step?;
            first.get_or_insert(outcome);
            for followup in followups {
                #[cfg(debug_assertions)]
                let name = followup.name();
                fail_point!("before", name);
                let followed = self.follow(id, followup, &mut queue);
                if let Err(error) = &followed {
                    self.broken.get_or_insert_with(|| error.to_string());
                }
                followed?;
                #[cfg(debug_assertions)]
                if !name.starts_with("report_") {
                    fail_point!("after", name);
                }
            }
        }
        Ok(first.unwrap_or(Outcome::Accepted))
    }

    /// One step: everything that must be durable together is.
    fn step(
        &mut self,
        id: NodeId,
        input: NodeInput,
    ) -> Result<(Outcome, Vec<Followup>), AgentError> {
        let now = self.now();
        let json = serde_json::to_string(&input)
            .map_err(|_| AgentError::Defect("an input has no JSON"))?;
        let kind = kind_of(&input);
        let from = author_of(&input);
        let relays = self.write_relays(Some(id.0));
        let Self {
            nodes,
            store,
            post,
            conversations,
            answers,
            arrived,
            history_quota,
            shown_quota,
            counters,
            ..
        } = self;
        let node = nodes.get_mut(&id).ok_or(AgentError::UnknownCohort(id.0))?;
        let (phase, was_over) = (node.phase_name(), node.is_over());
        let step = node.handle(now, input)?;
        let logged = step.is_logged(kind);
        let Step { outcome, effects } = step;
        if let Outcome::Ignored(reason) = &outcome {
            counters
                .entry(reason_name(reason))
                .and_modify(|count| *count = count.saturating_add(1))
                .or_insert(1);
            tracing::debug!(cohort = %id.0.short(), kind, ?reason, "ignored");
        }
        // Nothing changed: strangers and repetitions do not fill the log. They are answered while the budget lasts.
        if !logged && (effects.is_empty() || !answers.take(now, kind, from)) {
            return Ok((outcome, Vec::new()));
        }
        let node = &*node;
        let mut answering = Answering {
            now,
            history: history_quota,
            shown: shown_quota,
            counters,
        };
        let followups = store.transaction::<_, AgentError>(|tx| {
            let text = serde_json::to_string(&outcome)
                .map_err(|_| AgentError::Defect("an outcome has no JSON"))?;
            if logged {
                tx.append(&NewLogEntry {
                    cohort: id.0,
                    role: id.1,
                    at: now,
                    kind,
                    input: &json,
                    outcome: &text,
                })?;
            }
            if let Some(arrived) = arrived {
                tx.mark_seen(arrived.event, arrived.expires)?;
                post.save_lane(tx, arrived.lane)?;
            }
            let mut followups = Vec::new();
            for effect in effects {
                let mut send = |outgoing: Outgoing| {
                    post.queue(tx, conversations, node, outgoing, &relays, now)
                };
                match effect {
                    Effect::Send { to, message } => {
                        let recipient = match to {
                            To::Key(key) => key,
                            To::Channel => delivery::channel_of(node)
                                .ok_or(AgentError::Defect("the channel is not known"))?,
                        };
                        send(delivery::wrap(node, message, recipient)?)?;
                    }
                    Effect::SendParts(parts) => {
                        let channel = delivery::channel_of(node)
                            .ok_or(AgentError::Defect("the channel is not known"))?;
                        let posts = delivery::bundle(conversations, &node.own, channel, &parts)?;
                        for post in posts {
                            send(post)?;
                        }
                    }
                    Effect::GrantChannel(members) => {
                        let channel = node
                            .channel
                            .as_ref()
                            .ok_or(AgentError::Defect("the channel is not known"))?;
                        for member in members {
                            send(delivery::grant(channel, member)?)?;
                        }
                    }
                    Effect::Save(artifact) => save(tx, id, now, &artifact)?,
                    Effect::Advertise(status) => followups.push(Followup::Advertise(status)),
                    Effect::Prepare {
                        session,
                        labels,
                        indexes,
                    } => {
                        followups.push(Followup::Prepare {
                            session,
                            labels,
                            indexes,
                        });
                    }
                    Effect::Sign(order) => followups.push(Followup::Sign(order)),
                    Effect::SignFallback(order) => followups.push(Followup::SignFallback(order)),
                    Effect::Broadcast(tx) => followups.push(Followup::Broadcast(tx)),
                    Effect::AnswerHistory { to, request } => {
                        if let Some(answer) = answering.history(tx, node, to, &request)? {
                            send(delivery::wrap(node, answer, to)?)?;
                        }
                    }
                    Effect::ShowProofs { indexes, signals } => {
                        let shown = answering.kept(tx, id.0, &indexes, &signals)?;
                        if let Some(answer) = shown {
                            let to = node.terms().aggregator;
                            send(delivery::wrap(node, answer, to)?)?;
                        }
                    }
                    Effect::OpenIndex(index) => followups.push(Followup::OpenIndex(index)),
                    Effect::Recall { index, rounds } => {
                        followups.push(Followup::Recall { index, rounds });
                    }
                    Effect::Report(report) => followups.push(Followup::Report(report)),
                }
            }
            if node.phase_name() != phase {
                tx.set_cohort_state(id.0, id.1, node.phase_name())?;
            }
            if was_over && !node.is_over() {
                tx.reopen_cohort(id.0, id.1)?;
            }
            if node.is_over() {
                tx.end_cohort(id.0, id.1, node.phase_name(), now, &text)?;
            }
            fail_point!("written", kind);
            Ok(followups)
        })?;
        fail_point!("stored", kind);
        *arrived = None;
        let moved = node.phase_name() != phase;
        if let Some(node) = nodes.get_mut(&id).filter(|_| logged) {
            node.tail.add(json.len());
        }
        if moved {
            self.refresh_inbox();
            self.refresh_watch();
        }
        self.send_due(now)?;
        Ok((outcome, followups))
    }

    /// Carries out what a durable step leads to. Answers become further inputs.
    fn follow(
        &mut self,
        id: NodeId,
        followup: Followup,
        queue: &mut VecDeque<(NodeId, NodeInput)>,
    ) -> Result<(), AgentError> {
        match followup {
            Followup::Prepare {
                session,
                labels,
                indexes,
            } => {
                if let Some(input) = self.prepare(id, session, &labels, &indexes) {
                    queue.push_back((id, input));
                }
            }
            // Rule 11: a partial signature spends. A session that is not signed waits.
            Followup::Sign(_) if !self.may_sign(id) => {}
            Followup::Sign(order) => {
                // Rule 10, also in a session that follows one in which the process ended: durable before the
                // partial signature exists.
                self.pin_updates(id)?;
                fail_point!("pinned");
                queue.push_back((id, self.sign(id, &order)));
            }
            Followup::SignFallback(_) if !self.may_sign(id) => {}
            Followup::SignFallback(order) => {
                self.pin_updates(id)?;
                fail_point!("pinned");
                queue.extend(self.sign_fallback(id, &order));
            }
            Followup::Broadcast(tx) => self.broadcast(id, tx),
            Followup::OpenIndex(index) => {
                if let Some(input) = self.open_index(id, index)? {
                    queue.push_back((id, input));
                }
            }
            Followup::Recall { index, rounds } => {
                let recalled = self.recall(id, index, &rounds)?;
                queue.push_back((id, recalled));
            }
            Followup::Advertise(status) => self.advertise(id, status)?,
            Followup::Report(report) => {
                self.on_report(id, &report, queue)?;
                self.emit(Some(id), What::Report(report));
            }
        }
        Ok(())
    }

    fn nonces(&mut self, id: NodeId, session: SessionId, labels: &[Label]) -> Option<Nonces> {
        let now = self.now();
        let seat = self.nodes.get(&id)?.own.public();
        labels
            .iter()
            .map(|label| {
                let label = *label;
                let slot = NonceSlot {
                    seat,
                    session,
                    label,
                };
                match self.signer.new_nonces(slot, now) {
                    Ok(nonce) => {
                        fail_point!("nonce");
                        Some((label, nonce))
                    }
                    Err(error) => {
                        tracing::error!(%error, "no nonce");
                        None
                    }
                }
            })
            .collect()
    }

    fn prepare(
        &mut self,
        id: NodeId,
        session: SessionId,
        labels: &[Label],
        indexes: &[SmtIndex],
    ) -> Option<NodeInput> {
        let nonces = self.nonces(id, session, labels)?;
        let smt_nonces = indexes
            .iter()
            .filter_map(|index| {
                let nonce = self
                    .root
                    .smt_nonce(&session.cohort, session.round()?, index);
                Some((*index, nonce))
            })
            .collect();
        Some(NodeInput::Participant(ParticipantInput::Prepared(
            Prepared {
                session,
                nonces,
                smt_nonces,
            },
        )))
    }

    fn sign(&mut self, id: NodeId, order: &SignOrder) -> NodeInput {
        let session = order.session;
        let failed = NodeInput::Participant(ParticipantInput::SignFailed { session });
        let Some(node) = self.nodes.get(&id) else {
            return failed;
        };
        let (Some(keys), seat) = (node.key_set().cloned(), node.own.public()) else {
            return failed;
        };
        let mut partials = std::collections::BTreeMap::new();
        for label in &order.labels {
            let slot = NonceSlot {
                seat,
                session,
                label: label.label,
            };
            match self.signer.sign(
                slot,
                &label.nonce,
                &keys,
                &label.aggregate_nonce,
                label.sighash.as_bytes(),
            ) {
                Ok(partial) => {
                    fail_point!("signed");
                    partials.insert(label.label, partial);
                }
                Err(error) => {
                    tracing::warn!(%error, "not signed");
                    return failed;
                }
            }
        }
        let next = SessionId {
            attempt: session.attempt.saturating_add(1),
            ..session
        };
        let spares = self.nonces(id, next, &order.spares).unwrap_or_default();
        NodeInput::Participant(ParticipantInput::Signed(SignedSession {
            session,
            partials,
            spares,
        }))
    }

    /// Signs digests of a transaction with the seat's own key (BIP-340), as evidence is signed. They are BIP-341
    /// digests, tagged `TapSighash`; evidence is tagged `btcr2/evidence/1`, and the id of a Nostr event has no tag:
    /// no signature of one kind is one of another.
    fn sign_fallback(&self, id: NodeId, order: &FallbackOrder) -> Option<(NodeId, NodeInput)> {
        let own = &self.nodes.get(&id)?.own;
        let digests = order.sighashes.iter();
        let signatures = digests.map(|digest| own.sign_digest(digest.as_bytes()));
        let signed = ParticipantInput::FallbackSigned {
            round: order.round,
            signatures: signatures.collect(),
        };
        Some((id, NodeInput::Participant(signed)))
    }

    /// What this agent knows of an index in past rounds: its nonces, which are derived, and its updates.
    fn recall(
        &self,
        id: NodeId,
        index: SmtIndex,
        rounds: &[Round],
    ) -> Result<NodeInput, AgentError> {
        let nonces = rounds
            .iter()
            .map(|round| (*round, self.root.smt_nonce(&id.0, *round, &index)))
            .collect();
        let updates = match self.did_of_index(&index)? {
            Some(did) => self.store.view().updates_of(&did)?,
            None => Vec::new(),
        };
        Ok(NodeInput::Participant(ParticipantInput::Recalled(
            Recalled {
                index,
                nonces,
                updates: updates.iter().map(|update| update.hash).collect(),
            },
        )))
    }

    pub(super) fn transaction_state(
        &mut self,
        txid: bitcoin::Txid,
        state: &str,
        height: Option<u32>,
    ) -> Result<(), AgentError> {
        if self.store.view().transaction(txid)?.is_none() {
            // A member sees the signal on the chain before the aggregator's result came.
            return Ok(());
        }
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_transaction_state(txid, state, height)?))
    }

    /// Reports that change what is stored of DIDs and transactions.
    fn on_report(
        &mut self,
        id: NodeId,
        report: &Report,
        queue: &mut VecDeque<(NodeId, NodeInput)>,
    ) -> Result<(), AgentError> {
        if id.1 == Role::Participant {
            self.explain_updates(id, report)?;
        }
        match report {
            Report::MayBind { index, .. } => {
                if let Some(input) = self.may_bind(id, *index)? {
                    queue.push_back((id, input));
                }
            }
            Report::Registered {
                index, from_round, ..
            } if id.1 == Role::Participant => self.registered(id, *index, *from_round)?,
            Report::SeatRegained { .. } | Report::Frozen { .. } if id.1 == Role::Participant => {
                queue.extend(self.regain(id)?.map(|input| (id, input)));
            }
            Report::MyDepositRefused {
                index,
                update,
                reason,
                ..
            } => self.deposit_refused(*index, *update, reason)?,
            // Rule 9: these states are what the chain said, and move back when it changes its mind.
            Report::SignalBroadcast { txid, .. } | Report::SignalReorganised { txid, .. } => {
                self.transaction_state(*txid, "broadcast", None)?;
            }
            Report::SignalConfirmed { txid, height, .. } => {
                self.transaction_state(*txid, "confirmed", Some(*height))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Who sent a message.
const fn author_of(input: &NodeInput) -> Option<NostrKey> {
    match input {
        NodeInput::Aggregator(AggregatorInput::Message { from, .. })
        | NodeInput::Participant(ParticipantInput::Message { from, .. }) => Some(*from),
        _ => None,
    }
}
