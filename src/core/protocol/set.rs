//! The key set of a cohort: who signs, and where the beacon is (DESIGN §5 "Formation").

use std::collections::BTreeMap;

use bitcoin::ScriptBuf;
use serde::{Deserialize, Serialize};

use super::ids::Seat;
use super::message::SetHash;
use super::terms::{Funding, OutputPolicy, Terms};
use crate::beacon::address::beacon_address;
use crate::beacon::fallback::{FallbackLeaf, LeafError};
use crate::hash::{CohortId, tagged_hash};
use crate::keys::NostrKey;
use crate::keys::musig::KeySet;

/// The set as the aggregator publishes it and every member recomputes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortSet {
    /// The members' keys; the position of a key is its seat. MuSig2 sorts them itself (BIP-327 KeySort).
    pub keys: Vec<NostrKey>,
    /// The beacon address: taproot output of the aggregate key, with no script tree or with the k-of-n leaf,
    /// as the terms' output policy says.
    pub address: String,
    /// Where refunds go, for members that named a payee, and for the aggregator if it did.
    pub payees: BTreeMap<NostrKey, ScriptBuf>,
}

/// Why a member does not acknowledge a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetFault {
    /// The number of keys is outside the terms.
    #[error("{0} keys, but the terms say {1} to {2}")]
    Count(usize, u16, u16),
    /// A key appears twice, or can not be aggregated.
    #[error("the keys are not distinct members: {0}")]
    Keys(String),
    /// There is no k-of-n leaf of these keys.
    #[error("the terms ask for a k-of-n leaf: {0}")]
    Leaf(#[from] LeafError),
    /// The own key is missing.
    #[error("my key is not in the set")]
    NotMe,
    /// The address is not the one these keys give.
    #[error("the address is {claimed}, but these keys give {computed}")]
    Address {
        /// What the aggregator claims.
        claimed: String,
        /// What the keys give.
        computed: String,
    },
    /// A payee is not a member's, or not a P2WPKH, P2WSH or P2TR script.
    #[error("payee of {0} is not a member's or the aggregator's P2WPKH, P2WSH or P2TR script")]
    Payee(NostrKey),
    /// Members fund, and one of them has no payee.
    #[error("members fund, and {0} has no payee for its share of a refund")]
    NoPayee(NostrKey),
    /// My payee was changed or dropped.
    #[error("my payee is not the one I asked for")]
    MyPayee,
}

/// Whether a script may receive a refund: segwit only (a refund's id must not change), and never an
/// output that could be read as a beacon signal (rule 2).
#[must_use]
pub fn payee_is_allowed(script: &ScriptBuf) -> bool {
    script.is_p2wpkh() || script.is_p2wsh() || script.is_p2tr()
}

/// The keys of a cohort as its output policy combines them: the only way from a list of seats to a key set, and so
/// to the beacon's address, its script and its signatures.
pub fn key_set(terms: &Terms, keys: &[NostrKey]) -> Result<KeySet, SetFault> {
    let root = match terms.output_policy {
        OutputPolicy::Musig2KeyPath => None,
        OutputPolicy::KOfN(threshold) => {
            let leaf = FallbackLeaf::new(keys, threshold)?;
            Some(leaf.merkle_root())
        }
    };
    KeySet::with_script_root(keys, root).map_err(|error| SetFault::Keys(error.to_string()))
}

/// The leaf beside the key of a set, if the terms have the output policy `k-of-n`.
#[must_use]
pub fn fallback_leaf(terms: &Terms, keys: &KeySet) -> Option<FallbackLeaf> {
    match terms.output_policy {
        OutputPolicy::Musig2KeyPath => None,
        OutputPolicy::KOfN(threshold) => FallbackLeaf::new(keys.keys(), threshold).ok(),
    }
}

impl CohortSet {
    /// Builds the set of these members, in seat order. `payee` is the aggregator's own.
    pub fn build(
        terms: &Terms,
        members: &[(NostrKey, Option<ScriptBuf>)],
        payee: Option<&ScriptBuf>,
    ) -> Result<(Self, KeySet), SetFault> {
        let keys: Vec<NostrKey> = members.iter().map(|(key, _)| *key).collect();
        let key_set = key_set(terms, &keys)?;
        let aggregator = payee.map(|payee| (terms.aggregator, payee.clone()));
        let payees = aggregator
            .into_iter()
            .chain(
                members
                    .iter()
                    .filter_map(|(key, payee)| Some((*key, payee.clone()?))),
            )
            .collect();
        let address = beacon_address(key_set.output_key(), terms.network).to_string();
        let set = Self {
            keys,
            address,
            payees,
        };
        Ok((set, key_set))
    }

    /// Checks everything a member must check before it acknowledges: distinct keys, its own in it once,
    /// the count within the terms, the address recomputed, payees refundable and its own unchanged.
    pub fn verify(
        &self,
        terms: &Terms,
        own: NostrKey,
        own_payee: Option<&ScriptBuf>,
    ) -> Result<KeySet, SetFault> {
        let count = self.keys.len();
        if count < terms.seats_min.into() || count > terms.seats_max.into() {
            return Err(SetFault::Count(count, terms.seats_min, terms.seats_max));
        }
        let key_set = key_set(terms, &self.keys)?;
        if !key_set.contains(&own) {
            return Err(SetFault::NotMe);
        }
        let computed = beacon_address(key_set.output_key(), terms.network).to_string();
        if computed != self.address {
            return Err(SetFault::Address {
                claimed: self.address.chars().take(100).collect(),
                computed,
            });
        }
        for (key, payee) in &self.payees {
            let known = key_set.contains(key) || *key == terms.aggregator;
            if !known || !payee_is_allowed(payee) {
                return Err(SetFault::Payee(*key));
            }
        }
        if terms.funding == Funding::Members
            && let Some(key) = self.keys.iter().find(|key| !self.payees.contains_key(key))
        {
            return Err(SetFault::NoPayee(*key));
        }
        if self.payees.get(&own) != own_payee {
            return Err(SetFault::MyPayee);
        }
        Ok(key_set)
    }

    /// `taggedhash("btcr2/set/1", cohort ‖ JCS(set))`: what a member acknowledges.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn hash(&self, cohort: &CohortId) -> SetHash {
        let canonical =
            serde_json_canonicalizer::to_vec(self).expect("a set has string keys and no numbers");
        SetHash::from_bytes(tagged_hash("btcr2/set/1", &[cohort.as_bytes(), &canonical]))
    }

    /// Whom refunds pay, in equal shares and in this order: who funds. Empty when there are no refunds.
    #[must_use]
    pub fn refund_scripts(&self, terms: &Terms) -> Vec<ScriptBuf> {
        if terms.refund_blocks == 0 {
            return Vec::new();
        }
        match terms.funding {
            Funding::Aggregator => self
                .payees
                .get(&terms.aggregator)
                .cloned()
                .into_iter()
                .collect(),
            Funding::Members => {
                let scripts = self.keys.iter().map(|key| self.payees.get(key).cloned());
                scripts.collect::<Option<_>>().unwrap_or_default()
            }
        }
    }

    /// The seat of a key.
    #[must_use]
    pub fn seat_of(&self, key: &NostrKey) -> Option<Seat> {
        self.keys
            .iter()
            .position(|member| member == key)
            .and_then(|position| u16::try_from(position).ok())
            .map(Seat)
    }

    /// The key in a seat.
    #[must_use]
    pub fn key_of(&self, seat: Seat) -> Option<NostrKey> {
        self.keys.get(usize::from(seat.0)).copied()
    }
}
