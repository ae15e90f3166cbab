//! The initial document of a `k1` identifier, and the addresses of a single key (spec.md §1.3).

use bitcoin::{Address, CompressedPublicKey, KnownHrp};
use secp256k1::{PublicKey, SECP256K1};
use serde_json::{Value, json};

use super::conformance::DOCUMENT_CONTEXT;
use super::document::{BeaconKind, Document};
use super::identifier::{Did, IdKind};
use super::multikey;
use crate::network::Network;

/// Fragment of the key of an initial document.
pub const INITIAL_KEY: &str = "initialKey";

/// The address forms of one public key, in the order in which an initial document lists them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum KeyAddress {
    /// Pay to public key hash.
    P2pkh,
    /// Pay to witness public key hash.
    P2wpkh,
    /// Taproot key path: BIP-341 tweak of the x-only key without scripts, as BIP-86 has it.
    P2tr,
}

impl KeyAddress {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::P2pkh, Self::P2wpkh, Self::P2tr];

    /// The key's address of this form.
    #[must_use]
    pub fn of(self, network: Network, key: &PublicKey) -> Address {
        let network = network.bitcoin_network();
        let compressed = CompressedPublicKey(*key);
        match self {
            Self::P2pkh => Address::p2pkh(compressed, network),
            Self::P2wpkh => Address::p2wpkh(&compressed, KnownHrp::from(network)),
            Self::P2tr => {
                let internal = key.x_only_public_key().0;
                Address::p2tr(SECP256K1, internal, None, KnownHrp::from(network))
            }
        }
    }

    /// The fragment of its beacon in an initial document.
    #[must_use]
    pub const fn fragment(self) -> &'static str {
        match self {
            Self::P2pkh => "initialP2PKH",
            Self::P2wpkh => "initialP2WPKH",
            Self::P2tr => "initialP2TR",
        }
    }
}

/// The initial document of a `k1` identifier: its key, and a singleton beacon per address form.
/// `None` for an `x1` identifier, whose genesis document has to be supplied.
#[must_use]
pub fn initial_key_document(did: &Did) -> Option<Document> {
    let IdKind::Key(key) = did.kind() else {
        return None;
    };
    let method = format!("{did}#{INITIAL_KEY}");
    let service: Vec<Value> = KeyAddress::ALL
        .into_iter()
        .map(|form| {
            let address = form.of(did.network(), &key);
            let id = format!("{did}#{}", form.fragment());
            beacon_service(&id, BeaconKind::Singleton, &address)
        })
        .collect();
    let value = json!({
        "@context": DOCUMENT_CONTEXT,
        "id": did,
        "verificationMethod": [multikey_method(&method, did.as_str(), &key)],
        "authentication": [method],
        "assertionMethod": [method],
        "capabilityInvocation": [method],
        "capabilityDelegation": [method],
        "service": service,
    });
    #[allow(clippy::expect_used)]
    let document = Document::from_normal(value).expect("an initial document conforms");
    Some(document)
}

/// A verification method of type Multikey.
pub(super) fn multikey_method(id: &str, controller: &str, key: &PublicKey) -> Value {
    json!({
        "id": id,
        "type": "Multikey",
        "controller": controller,
        "publicKeyMultibase": multikey::encode(key),
    })
}

/// The service entry of a beacon.
pub(super) fn beacon_service(id: &str, kind: BeaconKind, address: &Address) -> Value {
    json!({
        "id": id,
        "type": kind.name(),
        "serviceEndpoint": format!("bitcoin:{address}"),
    })
}
