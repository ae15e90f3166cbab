//! Registration: binding a DID to a seat (DESIGN §3, §5 "Collisions").

use crate::did::genesis::GenesisDocument;
use crate::did::{Did, IdKind};
use crate::hash::{CohortId, SmtIndex, tagged_hash};
use crate::keys::NostrKey;
use crate::network::Network;

use super::message::Opening;

/// Largest genesis document a registration may carry, in bytes: hashing it costs the aggregator.
pub const MAX_GENESIS_BYTES: usize = 32_768;

/// Why an opening does not show that a seat speaks for a DID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpeningFault {
    /// The DID is of another network than the cohort.
    #[error("the DID is on {0}, the cohort on {1}")]
    Network(Network, Network),
    /// The DID does not hash to the index.
    #[error("the DID does not hash to the registered index")]
    Index,
    /// The genesis document is missing, too large, malformed, or of another DID.
    #[error("the genesis document does not belong to the DID: {0}")]
    Genesis(String),
    /// The key is none of the DID's initial document.
    #[error("the key is not in the DID's initial document")]
    ForeignKey,
    /// The signature does not verify.
    #[error("the registration signature does not verify")]
    Signature,
}

/// What a key of the DID signs: `taggedhash("btcr2/registration/1", cohort ‖ seat key ‖ index)`, 32 bytes each.
#[must_use]
pub fn registration_digest(cohort: &CohortId, seat: NostrKey, index: &SmtIndex) -> [u8; 32] {
    tagged_hash(
        "btcr2/registration/1",
        &[cohort.as_bytes(), &seat.to_bytes(), index.as_bytes()],
    )
}

/// Checks that `opening` shows that `seat` speaks for the DID behind `index`.
pub fn verify_opening(
    cohort: &CohortId,
    network: Network,
    seat: NostrKey,
    index: &SmtIndex,
    opening: &Opening,
) -> Result<(), OpeningFault> {
    let did = &opening.did;
    if did.network() != network {
        return Err(OpeningFault::Network(did.network(), network));
    }
    if did.smt_index() != *index {
        return Err(OpeningFault::Index);
    }
    if !is_initial_key(did, opening)? {
        return Err(OpeningFault::ForeignKey);
    }
    let digest = registration_digest(cohort, seat, index);
    if !opening.key.verifies(&digest, &opening.sig) {
        return Err(OpeningFault::Signature);
    }
    Ok(())
}

fn is_initial_key(did: &Did, opening: &Opening) -> Result<bool, OpeningFault> {
    match did.kind() {
        IdKind::Key(key) => Ok(key.x_only_public_key().0 == opening.key.x_only()),
        IdKind::External(_) => {
            let genesis = |text: &str| OpeningFault::Genesis(text.to_owned());
            let text = opening
                .genesis
                .as_ref()
                .ok_or_else(|| genesis("it is missing"))?
                .0
                .get();
            if text.len() > MAX_GENESIS_BYTES {
                return Err(genesis("it is too large"));
            }
            let document = GenesisDocument::parse(text)
                .map_err(|error| OpeningFault::Genesis(error.to_string()))?;
            if !document.matches(did) {
                return Err(genesis("its hash is another"));
            }
            let document = document
                .document(did.network())
                .map_err(|error| OpeningFault::Genesis(error.to_string()))?;
            Ok(document
                .invocation_methods()
                .filter_map(|method| method.key)
                .any(|key| key.x_only_public_key().0 == opening.key.x_only()))
        }
    }
}
