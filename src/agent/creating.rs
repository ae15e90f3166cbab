//! Making DIDs (DESIGN §5, "Binding order").

use super::dids::{beacon_kind, did_state, text};
use super::error::AgentError;
use super::runtime::Agent;
use crate::did::{Did, GenesisDocument, KeyAddress, initial_key_document};
use crate::hash::CohortId;
use crate::keys::OwnKey;
use crate::network::Network;
use crate::store::{ArtifactKey, ArtifactKind, DidRow, NewArtifact, Role, Subject};

impl Agent {
    /// Makes a k1 DID: it exists as soon as its key does.
    pub fn create_key_did(&mut self, network: Network) -> Result<Did, AgentError> {
        let (counter, key) = self.next_did_key(network)?;
        let did = Did::from_key(network, &key.public().even_point());
        let document = initial_key_document(&did)
            .ok_or(AgentError::Defect("a k1 DID has no initial document"))?;
        let row = DidRow {
            did: did.to_string(),
            network,
            kind: "k1".into(),
            key_index: Some(counter),
            genesis: None,
            document: text(&document.canonical_bytes())?,
            version: 1,
            state: did_state::ACTIVE.into(),
            created: self.now(),
        };
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_did(&row)?))?;
        Ok(did)
    }

    /// Begins an x1 DID whose genesis document lists the cohort's beacon, and a singleton beacon of its own
    /// as fallback. It may be used once its registration is acknowledged and its history complete: then
    /// [`What::DidReady`] is emitted.
    pub fn create_cohort_did(&mut self, cohort: CohortId) -> Result<Did, AgentError> {
        let id = (cohort, Role::Participant);
        let (network, beacon, address) = self.beacon_of(id)?;
        let (counter, key) = self.next_did_key(network)?;
        let point = key.public().even_point();
        let kind = beacon_kind(beacon);
        let genesis =
            GenesisDocument::for_cohort(network, &point, kind, &address, KeyAddress::P2tr)
                .map_err(|error| AgentError::Did {
                    code: error.code(),
                    reason: error.to_string(),
                })?;
        let did = genesis.did(network);
        let document = genesis.document(network).map_err(|error| AgentError::Did {
            code: error.code(),
            reason: error.to_string(),
        })?;
        let genesis_bytes = genesis.canonical_bytes();
        let row = DidRow {
            did: did.to_string(),
            network,
            kind: "x1".into(),
            key_index: Some(counter),
            genesis: Some(text(&genesis_bytes)?),
            document: text(&document.canonical_bytes())?,
            version: 1,
            state: did_state::REGISTERING.into(),
            created: self.now(),
        };
        let now = self.now();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_did(&row)?;
            tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: None,
                    subject: Subject::Did(row.did.clone()),
                    kind: ArtifactKind::GenesisDocument,
                    signal: None,
                },
                txid: None,
                bytes: &genesis_bytes,
                created: now,
            })?;
            Ok(())
        })?;
        self.register_did(&did, cohort)?;
        Ok(did)
    }

    fn next_did_key(&self, network: Network) -> Result<(u32, OwnKey), AgentError> {
        let counter = self.store.view().next_key_index()?;
        let key = self
            .root
            .did_key(network, counter)
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok((counter, key))
    }
}
