//! Fixed keys, DIDs, and what a member holds of them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use btcr2_core::did::Did;
use btcr2_core::hash::{CohortId, SmtIndex, SmtNonce, UpdateHash, sha256};
use btcr2_core::keys::{NostrKey, OwnKey};
use btcr2_core::network::Network;
use btcr2_core::protocol::Round;
use btcr2_core::protocol::message::Opening;
use btcr2_core::protocol::registration::registration_digest;

/// A fixed key by name. There are a few dozen in all runs together; each is made once.
pub fn key(name: &str) -> &'static OwnKey {
    static KEYS: Mutex<BTreeMap<String, &'static OwnKey>> = Mutex::new(BTreeMap::new());
    let mut keys = KEYS.lock().expect("nobody panics with it");
    if let Some(key) = keys.get(name) {
        return key;
    }
    let key: &'static OwnKey = Box::leak(Box::new(new_key(name)));
    keys.insert(name.to_owned(), key);
    key
}

/// The same key for somebody who wants to own it.
pub fn new_key(name: &str) -> OwnKey {
    OwnKey::from_bytes(&sha256(format!("simulated {name}").as_bytes())).expect("a scalar")
}

/// The hash of the `n`th update of a DID.
pub fn update(index: &SmtIndex, n: u32) -> UpdateHash {
    let mut text = index.as_bytes().to_vec();
    text.extend_from_slice(&n.to_be_bytes());
    UpdateHash::from_bytes(sha256(&text))
}

/// The SMT nonce of a member's index in a round: derived, as the agent derives it.
pub fn smt_nonce(seat: NostrKey, round: Round, index: &SmtIndex) -> SmtNonce {
    let mut text = seat.to_bytes().to_vec();
    text.extend_from_slice(&round.0.to_be_bytes());
    text.extend_from_slice(index.as_bytes());
    SmtNonce::from_bytes(sha256(&text))
}

/// A k1 DID and its key.
#[derive(Clone)]
pub struct MyDid {
    pub did: Did,
    pub index: SmtIndex,
    pub key: &'static OwnKey,
}

impl MyDid {
    /// Each is made once, as keys are.
    pub fn named(name: &str) -> Self {
        static DIDS: Mutex<BTreeMap<String, MyDid>> = Mutex::new(BTreeMap::new());
        let mut dids = DIDS.lock().expect("nobody panics with it");
        if let Some(did) = dids.get(name) {
            return did.clone();
        }
        let key = key(name);
        let did = Did::from_key(Network::Regtest, &key.keypair().public_key());
        let mine = Self {
            index: did.smt_index(),
            did,
            key,
        };
        dids.insert(name.to_owned(), mine.clone());
        mine
    }

    /// Shows that `seat` speaks for the DID.
    pub fn opening(&self, cohort: &CohortId, seat: NostrKey) -> Opening {
        let digest = registration_digest(cohort, seat, &self.index);
        Opening {
            did: self.did.clone(),
            key: self.key.public(),
            genesis: None,
            sig: self.key.sign_digest(&digest),
        }
    }
}
