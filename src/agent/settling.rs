//! Moving updates and documents to what the chain says, forwards and back (DESIGN §6, rules 9 and 10).

use super::dids::{did_state, text, update_state};
use super::error::AgentError;
use super::events::What;
use super::node::{Machine, NodeId};
use super::runtime::Agent;
use crate::did::{
    Did, ErrorCode, GenesisDocument, SignedUpdate, VerifyOptions, initial_key_document, verify,
};
use crate::hash::{SmtIndex, UpdateHash};

impl Agent {
    /// Updates that a signed signal announces are pinned: only these bytes may ever be announced for that
    /// version, until the signal is dead.
    pub(super) fn pin_updates(&mut self, id: NodeId) -> Result<(), AgentError> {
        for (index, hash, _) in self.updates_of_node(id) {
            self.with_update(index, hash, |tx, row| {
                if row.state == update_state::QUEUED {
                    row.state = update_state::SIGNED.into();
                    tx.set_update_state(row)?;
                    tx.pin_update(&row.did, row.target_version, true)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Moves documents and updates to what the chain says, forwards and back.
    pub(super) fn settle_updates(&mut self, id: NodeId) -> Result<(), AgentError> {
        for (index, hash, confirmed) in self.updates_of_node(id) {
            let changed = self.with_update(index, hash, |tx, row| {
                let is_confirmed = row.state == update_state::CONFIRMED;
                if confirmed == is_confirmed || (!confirmed && row.state == update_state::QUEUED) {
                    return Ok(None);
                }
                let state = if confirmed {
                    update_state::CONFIRMED
                } else {
                    update_state::SIGNED
                };
                row.state = state.into();
                tx.set_update_state(row)?;
                Ok(Some(row.did.clone()))
            })?;
            if let Some(Some(did)) = changed {
                let version = self.rebuild_document(&did)?;
                self.emit(Some(id), What::DidUpdated { did, version });
            }
        }
        Ok(())
    }

    fn updates_of_node(&self, id: NodeId) -> Vec<(SmtIndex, UpdateHash, bool)> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Vec::new();
        };
        machine
            .indexes()
            .filter_map(|index| {
                let (hash, confirmed) = machine.update_state(&index)?;
                Some((index, hash, confirmed))
            })
            .collect()
    }

    /// Runs `change` on the stored update of an index with this hash, if there is one.
    fn with_update<R>(
        &mut self,
        index: SmtIndex,
        hash: UpdateHash,
        change: impl FnOnce(
            &crate::store::Tx<'_>,
            &mut crate::store::UpdateRow,
        ) -> Result<R, AgentError>,
    ) -> Result<Option<R>, AgentError> {
        let Some(did) = self.did_of_index(&index)? else {
            return Ok(None);
        };
        let found = self
            .store
            .view()
            .updates_of(&did)?
            .into_iter()
            .find(|row| row.hash == hash);
        let Some(mut row) = found else {
            return Ok(None);
        };
        self.store
            .transaction::<_, AgentError>(|tx| change(tx, &mut row))
            .map(Some)
    }

    /// The current document: the initial one with every confirmed update applied and verified.
    fn rebuild_document(&mut self, did: &str) -> Result<u64, AgentError> {
        let mut row = self
            .store
            .view()
            .did(did)?
            .ok_or_else(|| AgentError::UnknownDid(did.to_owned()))?;
        let parsed: Did = did
            .parse()
            .map_err(|_| AgentError::Defect("a stored DID does not parse"))?;
        let mut document = match &row.genesis {
            Some(genesis) => GenesisDocument::parse(genesis)
                .and_then(|genesis| genesis.document(row.network))
                .map_err(|error| AgentError::Did {
                    code: error.code(),
                    reason: error.to_string(),
                })?,
            None => initial_key_document(&parsed)
                .ok_or(AgentError::Defect("a k1 DID has no initial document"))?,
        };
        let mut version = 1;
        for update in self.store.view().updates_of(did)? {
            if update.state != update_state::CONFIRMED || update.target_version != version + 1 {
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
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_did(&row)?))?;
        Ok(version)
    }
}
