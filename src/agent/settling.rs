//! Moving updates, documents and bindings to what the chain says, forwards and back (DESIGN §6, rules 9 and 10).

use super::causes::{end_cause, refusal, round_cause};
use super::dids::{binding_state, did_state, text, update_state};
use super::error::AgentError;
use super::events::What;
use super::node::{Machine, NodeId};
use super::runtime::Agent;
use super::standing::Standing;
use crate::did::{
    Did, Document, ErrorCode, GenesisDocument, SignedUpdate, VerifyOptions, initial_key_document,
    verify,
};
use crate::fail_point;
use crate::hash::{SmtIndex, UpdateHash};
use crate::protocol::effect::Report;
use crate::protocol::ids::Round;
use crate::store::{Binding, DidRow, Role, UpdateRow};

/// Earlier updates of a DID that are looked at again: of those that are final, the last ones may be part of a
/// reorg that nobody expects.
const LOOKED_AT: u32 = 3;

impl Agent {
    /// Updates that a signed signal announces are pinned: only these bytes may ever be announced for that
    /// version, until the signal is dead. Durable before the partial signature exists.
    pub(super) fn pin_updates(&mut self, id: NodeId) -> Result<(), AgentError> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Ok(());
        };
        for (index, hash) in machine.announcing() {
            let Some(row) = self.update_of_index(index, hash)? else {
                continue;
            };
            self.store.transaction::<_, AgentError>(|tx| {
                if row.state == update_state::QUEUED {
                    let state = update_state::SIGNED.into();
                    tx.set_update_state(&UpdateRow {
                        state,
                        ..row.clone()
                    })?;
                }
                tx.pin_update(&row.did, row.target_version, true)?;
                Ok(())
            })?;
            fail_point!("after", "pin");
        }
        Ok(())
    }

    /// Moves the updates of a cohort's DIDs to what the chain says.
    pub(super) fn settle_updates(&mut self, id: NodeId) -> Result<(), AgentError> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Ok(());
        };
        let indexes: Vec<SmtIndex> = machine.indexes().collect();
        for index in indexes {
            if let Some(did) = self.did_of_index(&index)? {
                self.settle_did(Some(id), &did)?;
            }
        }
        Ok(())
    }

    /// Moves the updates of a DID to what the chain says, and its document and bindings with them.
    pub(super) fn settle_did(&mut self, id: Option<NodeId>, did: &str) -> Result<(), AgentError> {
        let settled = (update_state::FINAL, update_state::SUPERSEDED);
        let watched = self
            .store
            .view()
            .updates_to_watch(did, settled, LOOKED_AT)?;
        let mut moved = false;
        for row in watched {
            if row.state == update_state::SUPERSEDED {
                continue;
            }
            let Some(new) = self
                .standing_of(&row)
                .map(|standing| placed(&row, standing))
            else {
                continue;
            };
            if new == row {
                continue;
            }
            moved |= update_state::is_on_chain(&new.state) != update_state::is_on_chain(&row.state);
            fail_point!("before", "settle");
            self.store
                .transaction::<_, AgentError>(|tx| Ok(tx.set_update_state(&new)?))?;
            fail_point!("after", "settle");
        }
        if moved {
            let version = self.rebuild_document(did)?;
            let did = did.to_owned();
            self.emit(id, What::DidUpdated { did, version });
        }
        Ok(())
    }

    /// A round or a cohort ended, or a request was refused: what waits for it says so.
    pub(super) fn explain_updates(
        &mut self,
        id: NodeId,
        report: &Report,
    ) -> Result<(), AgentError> {
        let (round, reason) = match report {
            Report::Responded { round, .. } => return self.submitted(id, *round),
            // A proof may show that a copy of this agent announced what is queued here.
            Report::HistoryFetched { .. } => return self.settle_updates(id),
            Report::RoundFailed { round, why } => (
                Some(*round),
                format!(
                    "round {round} failed ({}): it goes into the next round",
                    round_cause(why)
                ),
            ),
            Report::RoundMissed { round } => (
                None,
                format!(
                    "round {round} was over before this agent could answer: it goes into the next round"
                ),
            ),
            Report::MyRequestRefused { of, code } if of != "opt_in" && of != "register" => (
                None,
                format!("the aggregator refused the {of}: {}", refusal(*code)),
            ),
            Report::Ended { why } => (
                None,
                format!(
                    "the cohort has ended ({}): announce it elsewhere with `btcr2-agent did announce`",
                    end_cause(why)
                ),
            ),
            _ => return Ok(()),
        };
        let waiting = |row: &UpdateRow| {
            row.cohort == Some(id.0)
                && row.state != update_state::REFUSED
                && !update_state::is_on_chain(&row.state)
                && (round.is_none() || row.round == round)
        };
        self.note_updates(id, waiting, |row| {
            row.reason = Some(reason.clone());
            if row.state == update_state::QUEUED {
                row.round = None;
            }
        })
    }

    /// The response of an open round has these updates.
    fn submitted(&mut self, id: NodeId, round: Round) -> Result<(), AgentError> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Ok(());
        };
        let said: Vec<UpdateHash> = machine
            .open_round_now()
            .into_iter()
            .flat_map(|round| round.said)
            .filter_map(|(_, update, _)| update)
            .collect();
        if said.is_empty() {
            return Ok(());
        }
        self.note_updates(
            id,
            |row| said.contains(&row.hash),
            |row| (row.round, row.reason) = (Some(round), None),
        )
    }

    /// Changes what is stored of those updates of a cohort's DIDs that `which` picks.
    fn note_updates(
        &mut self,
        id: NodeId,
        which: impl Fn(&UpdateRow) -> bool,
        note: impl Fn(&mut UpdateRow),
    ) -> Result<(), AgentError> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Ok(());
        };
        let indexes: Vec<SmtIndex> = machine.indexes().collect();
        let mut rows = Vec::new();
        for index in indexes {
            let Some(did) = self.did_of_index(&index)? else {
                continue;
            };
            rows.extend(
                self.store
                    .view()
                    .updates_of(&did)?
                    .into_iter()
                    .filter(&which),
            );
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.store.transaction::<_, AgentError>(|tx| {
            for mut row in rows {
                note(&mut row);
                tx.set_update_state(&row)?;
            }
            Ok(())
        })
    }

    fn update_of_index(
        &self,
        index: SmtIndex,
        hash: UpdateHash,
    ) -> Result<Option<UpdateRow>, AgentError> {
        let Some(did) = self.did_of_index(&index)? else {
            return Ok(None);
        };
        let updates = self.store.view().updates_of(&did)?;
        Ok(updates.into_iter().find(|row| row.hash == hash))
    }

    /// The current document: the initial one, or what was adopted, with every update on the chain applied and
    /// verified.
    pub(super) fn rebuild_document(&mut self, did: &str) -> Result<u64, AgentError> {
        let view = self.store.view();
        let mut row = view
            .did(did)?
            .ok_or_else(|| AgentError::UnknownDid(did.to_owned()))?;
        let parsed: Did = did
            .parse()
            .map_err(|_| AgentError::Defect("a stored DID does not parse"))?;
        let (mut document, mut version) = match view.adopted(did)? {
            Some(adopted) => (
                super::dids::parse_document(&adopted.document)?,
                adopted.version,
            ),
            None => (initial_document(&row, &parsed)?, 1),
        };
        for update in view.updates_of(did)? {
            let next = update.target_version == version.saturating_add(1);
            if !next || !update_state::is_on_chain(&update.state) {
                continue;
            }
            let signed = SignedUpdate::parse(&update.bytes)
                .map_err(|_| AgentError::Defect("a stored update does not parse"))?;
            document =
                verify(&signed, &document, version, VerifyOptions::default()).map_err(|fault| {
                    AgentError::Did {
                        code: ErrorCode::InvalidDidUpdate,
                        reason: fault.to_string(),
                    }
                })?;
            version = update.target_version;
        }
        row.state = if document.is_deactivated() {
            did_state::DEACTIVATED.into()
        } else {
            did_state::ACTIVE.into()
        };
        row.document = text(&document.canonical_bytes())?;
        row.version = version;
        let bindings = self.bindings_now(&parsed, &document)?;
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_did(&row)?;
            for binding in bindings {
                tx.put_binding(&binding)?;
            }
            Ok(())
        })?;
        fail_point!("after", "rebuild_document");
        Ok(version)
    }

    /// The bindings whose word changes with this document.
    fn bindings_now(&self, did: &Did, document: &Document) -> Result<Vec<Binding>, AgentError> {
        let bindings = self.store.view().bindings_of(did.smt_index())?;
        let own = bindings
            .into_iter()
            .filter(|binding| binding.role == Role::Participant);
        Ok(own
            .filter_map(|mut binding| {
                let node = self.nodes.get(&(binding.cohort, Role::Participant))?;
                let lists = super::routing::lists_beacon_of(document, node);
                let word = match (lists, binding.state.as_str()) {
                    (true, _) => binding_state::BOUND,
                    (false, binding_state::BOUND) => binding_state::FORMER,
                    (false, _) => return None,
                };
                (binding.state != word).then(|| {
                    binding.state = word.into();
                    binding
                })
            })
            .collect())
    }
}

/// Version 1 of a DID.
pub(super) fn initial_document(row: &DidRow, did: &Did) -> Result<Document, AgentError> {
    match &row.genesis {
        Some(genesis) => GenesisDocument::parse(genesis)
            .and_then(|genesis| genesis.document(row.network))
            .map_err(|error| AgentError::Did {
                code: error.code(),
                reason: error.to_string(),
            }),
        None => {
            initial_key_document(did).ok_or(AgentError::Defect("a k1 DID has no initial document"))
        }
    }
}

/// The row of an update that stands there.
fn placed(row: &UpdateRow, standing: Standing) -> UpdateRow {
    let mut new = row.clone();
    let state = match standing {
        // Signed for once: when that signal dies, the same bytes go into the next round.
        Standing::Queued | Standing::Submitted { .. } => update_state::QUEUED,
        Standing::Signed { .. } | Standing::Broadcast { .. } => update_state::SIGNED,
        Standing::Confirmed { .. } if standing.is_final() => update_state::FINAL,
        Standing::Confirmed { .. } => update_state::CONFIRMED,
    };
    if update_state::is_on_chain(&row.state) && !standing.is_confirmed() {
        new.reason = Some("its block is no longer part of the chain".into());
    } else if standing.is_confirmed() {
        new.reason = None;
    }
    new.state = state.into();
    new.txid = standing.txid();
    new.height = standing.height();
    if standing != Standing::Queued {
        new.round = standing.round();
    }
    new
}
