//! Making DIDs (DESIGN §5, "Binding order").

use super::dids::{beacon_kind, did_state, text};
use super::error::AgentError;
use super::runtime::Agent;
use crate::did::initial::INITIAL_KEY;
use crate::did::{
    BeaconKind, Did, Document, GenesisBuilder, GenesisDocument, InvalidDocument, KeyAddress,
    initial_key_document,
};
use crate::fail_point;
use crate::hash::CohortId;
use crate::network::Network;
use crate::store::{ArtifactKey, ArtifactKind, DidRow, NewArtifact, Role, Subject};

/// A DID to be stored.
pub(super) struct NewDid<'a> {
    pub(super) did: &'a Did,
    pub(super) document: &'a Document,
    pub(super) genesis: Option<&'a GenesisDocument>,
    pub(super) state: &'static str,
    /// Its keys by number, with the fragment of what each is for; the first is that of its initial document.
    pub(super) keys: &'a [(u32, &'a str)],
    /// The cohort that is to cover it from its first signal on.
    pub(super) cohort: Option<CohortId>,
}

impl Agent {
    /// Makes a k1 DID: it exists as soon as its key does.
    pub fn create_key_did(&mut self, network: Network) -> Result<Did, AgentError> {
        let (number, key) = self.next_did_key(network)?;
        let did = Did::from_key(network, &key.public().even_point());
        let document = initial_key_document(&did)
            .ok_or(AgentError::Defect("a k1 DID has no initial document"))?;
        self.store_did(&NewDid {
            did: &did,
            document: &document,
            genesis: None,
            state: did_state::ACTIVE,
            keys: &[(number, INITIAL_KEY)],
            cohort: None,
        })?;
        Ok(did)
    }

    /// Makes an x1 DID that no cohort has to do with. Its genesis document has one key that may do everything, and
    /// singleton beacons in the three forms of a second key, which signs nothing but signals: whoever gets hold of
    /// the one can not do what the other may (spec.md §6.6, S9).
    pub fn create_external_did(&mut self, network: Network) -> Result<Did, AgentError> {
        let (number, _) = self.next_did_key(network)?;
        let spending = number.saturating_add(1);
        let genesis = self.external_genesis(network, number)?;
        let did = genesis.did(network);
        self.store_did(&NewDid {
            did: &did,
            document: &genesis.document(network).map_err(invalid)?,
            genesis: Some(&genesis),
            state: did_state::ACTIVE,
            keys: &[
                (number, INITIAL_KEY),
                (spending, KeyAddress::P2tr.fragment()),
            ],
            cohort: None,
        })?;
        Ok(did)
    }

    /// The genesis document of an x1 DID that no cohort has to do with: of the key `number` and the one after it.
    pub(super) fn external_genesis(
        &self,
        network: Network,
        number: u32,
    ) -> Result<GenesisDocument, AgentError> {
        let key = self.derive_did_key(network, number)?;
        let spender = self.derive_did_key(network, number.saturating_add(1))?;
        let point = spender.public().even_point();
        let mut genesis = GenesisBuilder::new(network).key(INITIAL_KEY, &key.public().even_point());
        for form in KeyAddress::ALL {
            let address = form.of(network, &point);
            genesis = genesis.beacon(form.fragment(), BeaconKind::Singleton, &address);
        }
        genesis.build().map_err(invalid)
    }

    /// Begins an x1 DID whose genesis document lists the cohort's beacon, and a singleton beacon of its own
    /// as fallback. It may be used once its registration is acknowledged and its history complete: then
    /// [`What::DidReady`](super::What::DidReady) is emitted.
    pub fn create_cohort_did(&mut self, cohort: CohortId) -> Result<Did, AgentError> {
        let id = (cohort, Role::Participant);
        let (network, beacon, address) = self.beacon_of(id)?;
        let (number, key) = self.next_did_key(network)?;
        let point = key.public().even_point();
        let kind = beacon_kind(beacon);
        let genesis =
            GenesisDocument::for_cohort(network, &point, kind, &address, KeyAddress::P2tr)
                .map_err(invalid)?;
        let did = genesis.did(network);
        self.store_did(&NewDid {
            did: &did,
            document: &genesis.document(network).map_err(invalid)?,
            genesis: Some(&genesis),
            state: did_state::REGISTERING,
            keys: &[(number, INITIAL_KEY)],
            cohort: Some(cohort),
        })?;
        fail_point!("after", "store_did");
        self.register_did(&did, cohort)?;
        Ok(did)
    }

    /// Stores a DID with the numbers of its keys, and its genesis document for as long as it lives.
    pub(super) fn store_did(&mut self, new: &NewDid<'_>) -> Result<(), AgentError> {
        let created = self.now();
        let genesis = new.genesis.map(GenesisDocument::canonical_bytes);
        let row = DidRow {
            did: new.did.to_string(),
            network: new.did.network(),
            kind: if genesis.is_none() { "k1" } else { "x1" }.into(),
            key_index: new.keys.first().map(|(number, _)| *number),
            genesis: genesis.as_deref().map(text).transpose()?,
            document: text(&new.document.canonical_bytes())?,
            version: 1,
            state: new.state.into(),
            created,
        };
        let keys = new.keys.iter().map(|(number, fragment)| {
            self.key_row(new.did, *number, &format!("{}#{fragment}", new.did))
        });
        let keys: Vec<_> = keys.collect();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_did(&row)?;
            for key in &keys {
                tx.put_did_key(key)?;
            }
            if let Some(cohort) = new.cohort {
                // With the DID: a start after a crash finds that it has to be registered.
                tx.put_binding(&super::registering::requested(cohort, new.did))?;
            }
            if let Some(bytes) = &genesis {
                tx.put_artifact(&NewArtifact {
                    key: ArtifactKey {
                        origin: None,
                        subject: Subject::Did(row.did.clone()),
                        kind: ArtifactKind::GenesisDocument,
                        signal: None,
                    },
                    txid: None,
                    bytes,
                    created,
                })?;
            }
            Ok(())
        })
    }
}

fn invalid(error: InvalidDocument) -> AgentError {
    AgentError::Did {
        code: error.code(),
        reason: error.to_string(),
    }
}
