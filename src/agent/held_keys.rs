//! The keys of this agent's DIDs. The store has their numbers; a key is derived when it signs, and never stored.

use bitcoin::Address;

use super::error::AgentError;
use super::runtime::Agent;
use crate::did::{Did, Document, KeyAddress};
use crate::keys::{NostrKey, OwnKey};
use crate::network::Network;
use crate::store::DidKeyRow;

impl Agent {
    /// The keys of a DID, the newest first: after a rotation it is the new key that signs.
    pub(super) fn held_keys(&self, did: &Did) -> Result<Vec<OwnKey>, AgentError> {
        let mut rows = self.store.view().did_keys(did.as_str())?;
        rows.reverse();
        rows.iter()
            .map(|row| self.derive_did_key(did.network(), row.key_index))
            .collect()
    }

    /// The method that signs the next update of a document, by its id, and its key.
    pub(super) fn signing_key(&self, document: &Document) -> Result<(String, OwnKey), AgentError> {
        let method_of = |key: &OwnKey| {
            document
                .invocation_methods()
                .find(|method| method.key.is_some_and(|of| same_key(&of, key.public())))
                .map(|method| method.id.clone())
        };
        self.held_keys(document.id())?
            .into_iter()
            .find_map(|key| method_of(&key).map(|id| (id, key)))
            .ok_or_else(|| {
                AgentError::Refused(
                    "no key of this agent may update the document: its capabilityInvocation names other keys"
                        .into(),
                )
            })
    }

    /// The key that spends from an address of a DID, and the form of the address, if it is one of the DID's keys.
    pub(super) fn key_of_address(
        &self,
        did: &Did,
        address: &Address,
    ) -> Result<Option<(KeyAddress, OwnKey)>, AgentError> {
        let network = did.network();
        let form_of = |key: &OwnKey| {
            let point = key.public().even_point();
            let mut forms = KeyAddress::ALL.into_iter();
            forms.find(|form| form.of(network, &point) == *address)
        };
        let mut keys = self.held_keys(did)?.into_iter();
        Ok(keys.find_map(|key| form_of(&key).map(|form| (form, key))))
    }

    /// The number of the next key, and the key.
    pub(super) fn next_did_key(&self, network: Network) -> Result<(u32, OwnKey), AgentError> {
        let number = self.store.view().next_key_index()?;
        Ok((number, self.derive_did_key(network, number)?))
    }

    /// A key by its number.
    pub(super) fn derive_did_key(
        &self,
        network: Network,
        number: u32,
    ) -> Result<OwnKey, AgentError> {
        self.root
            .did_key(network, number)
            .map_err(|error| AgentError::Refused(error.to_string()))
    }

    /// What is stored of a key that was made for a method or beacon of a DID.
    pub(super) fn key_row(&self, did: &Did, key_index: u32, name: &str) -> DidKeyRow {
        DidKeyRow {
            did: did.to_string(),
            key_index,
            name: name.to_owned(),
            created: self.now(),
        }
    }
}

/// Whether a public key of a document is this key. Only the x coordinate counts: BIP-340 has no other.
pub(super) fn same_key(of: &secp256k1::PublicKey, key: NostrKey) -> bool {
    of.x_only_public_key().0 == key.x_only()
}
