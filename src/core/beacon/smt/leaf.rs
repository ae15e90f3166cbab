//! Leaves: what a member says about one of its indexes, and the 32 bytes the aggregator sees of it.

use std::fmt;

use super::{EMPTY_LEAF, node_hash};
use crate::hash::{LeafValue, SmtNonce, UpdateHash, sha256};
use serde::{Deserialize, Serialize};

/// What a member says about one index in one round.
///
/// | nonce | update | value | meaning |
/// |---|---|---|---|
/// | yes | yes | `H(H(nonce) ‖ update)` | update, private |
/// | yes | no | `H(H(nonce))` | no update, private |
/// | no | yes | `update` | update, public |
/// | no | no | `Z[0]`, the index stays empty | no update, public |
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The secret nonce of this index in this round. Without it, everybody sees whether there is an update.
    pub nonce: Option<SmtNonce>,
    /// The hash of the signed update this signal announces, if any.
    pub update: Option<UpdateHash>,
}

impl Leaf {
    /// The value that stands in the tree; [`EMPTY_LEAF`] when the index stays empty.
    #[must_use]
    pub fn value(&self) -> LeafValue {
        leaf_value(
            self.nonce.as_ref().map(|nonce| nonce.as_bytes().as_slice()),
            self.update.as_ref(),
        )
    }

    /// Whether the index stays empty, and so is not inserted into the tree.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nonce.is_none() && self.update.is_none()
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("nonce", &self.nonce.map(|_| "(secret)"))
            .field("update", &self.update)
            .finish()
    }
}

/// The value of a leaf for a nonce of any length. The specification's verifier has no length rule, so
/// proofs made elsewhere may carry one that is not 32 bytes.
#[must_use]
pub fn leaf_value(nonce: Option<&[u8]>, update: Option<&UpdateHash>) -> LeafValue {
    match (nonce, update) {
        (Some(nonce), Some(update)) => {
            LeafValue::from_bytes(node_hash(&sha256(nonce), update.as_bytes()))
        }
        (Some(nonce), None) => LeafValue::from_bytes(sha256(&sha256(nonce))),
        (None, Some(update)) => LeafValue::from_bytes(update.to_bytes()),
        (None, None) => EMPTY_LEAF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_nonce() {
        let leaf = Leaf {
            nonce: Some(SmtNonce::from_bytes([7; 32])),
            update: Some(UpdateHash::from_bytes([9; 32])),
        };
        let text = format!("{leaf:?}");
        assert!(!text.contains(&SmtNonce::from_bytes([7; 32]).to_string()));
        assert!(text.contains(&UpdateHash::from_bytes([9; 32]).to_string()));
    }

    #[test]
    fn only_the_public_non_update_is_empty() {
        let nonce = Some(SmtNonce::from_bytes([7; 32]));
        let update = Some(UpdateHash::from_bytes([9; 32]));
        for (nonce, update, empty) in [
            (nonce, update, false),
            (nonce, None, false),
            (None, update, false),
            (None, None, true),
        ] {
            let leaf = Leaf { nonce, update };
            assert_eq!(leaf.is_empty(), empty);
            assert_eq!(leaf.value() == EMPTY_LEAF, empty);
        }
    }
}
