//! The optimized sparse Merkle tree of SMT beacons (spec.md §5).
//!
//! A binary tree of 256 levels over SHA-256. The index of a DID is `SHA-256(utf8(DID))`; the root
//! splits on its most significant bit, the leaf level on its least significant one. Hashing skips
//! nothing: a subtree with one leaf is still hashed level by level against the empty subtrees. What
//! is *optimized* is the proof, which carries a bit instead of a hash where a sibling is empty.
//!
//! Positions count bits of an index from the root: position 0 is the most significant bit of byte 0,
//! position 255 the least significant bit of byte 31. Levels count from the leaf: the sibling at
//! level `n` is the root of a subtree of height `n`, and stands at position `255 - n`.

use std::sync::LazyLock;

use bitcoin::hashes::{Hash as _, HashEngine as _, sha256 as sha256_engine};

use crate::hash::{LeafValue, SmtIndex, sha256};

mod leaf;
mod path_wire;
mod proof;
mod tree;

pub use leaf::{Leaf, leaf_value};
pub use proof::{MAX_NONCE_LENGTH, ProofFault, ProofNonce, SmtPath, SmtProof};
pub use tree::{SmtError, SmtTree};

/// Levels of the tree, and the bits of an index.
pub const LEVELS: usize = 256;

/// `Z[0]`: the value of an empty leaf, SHA-256 of 64 zero bytes.
pub const EMPTY_LEAF: LeafValue = LeafValue::from_bytes([
    0xf5, 0xa5, 0xfd, 0x42, 0xd1, 0x6a, 0x20, 0x30, 0x27, 0x98, 0xef, 0x6e, 0xd3, 0x09, 0x97, 0x9b,
    0x43, 0x00, 0x3d, 0x23, 0x20, 0xd9, 0xf0, 0xe8, 0xea, 0x98, 0x31, 0xa9, 0x27, 0x59, 0xfb, 0x4b,
]);

/// The index of a DID: `SHA-256(utf8(DID))`.
#[must_use]
pub fn index_of(did: &str) -> SmtIndex {
    SmtIndex::from_bytes(sha256(did.as_bytes()))
}

/// `Z[0]` to `Z[256]`: the root of an empty subtree of each height. `Z[n] = SHA-256(Z[n-1] ‖ Z[n-1])`;
/// `Z[255]` is the last one a proof can use, `Z[256]` the root of an empty tree.
#[must_use]
pub fn empty_roots() -> &'static [[u8; 32]; LEVELS + 1] {
    static EMPTY_ROOTS: LazyLock<[[u8; 32]; LEVELS + 1]> = LazyLock::new(|| {
        let mut roots = [[0; 32]; LEVELS + 1];
        let mut root = EMPTY_LEAF.to_bytes();
        for slot in &mut roots {
            *slot = root;
            root = node_hash(&root, &root);
        }
        roots
    });
    &EMPTY_ROOTS
}

/// The value of a node: `SHA-256(left ‖ right)`.
///
/// By the hasher of the bitcoin crates: as fast as the other one when optimised, and four times as fast in a
/// development build, where nearly all the time of a tree goes into this function.
fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut engine = sha256_engine::Hash::engine();
    engine.input(left);
    engine.input(right);
    sha256_engine::Hash::from_engine(engine).to_byte_array()
}

/// The parent of `node`, which stands on the side that `is_right` says.
fn parent_hash(node: &[u8; 32], sibling: &[u8; 32], is_right: bool) -> [u8; 32] {
    if is_right {
        node_hash(sibling, node)
    } else {
        node_hash(node, sibling)
    }
}

/// The bit of a 256-bit string at a position; position 0 is the most significant bit of byte 0.
#[allow(
    clippy::indexing_slicing,
    reason = "a u8 divided by eight is at most 31"
)]
const fn bit_at(bits: &[u8; 32], position: u8) -> bool {
    bits[(position / 8) as usize] & mask(position) != 0
}

/// The mask of a position within its byte.
const fn mask(position: u8) -> u8 {
    0x80 >> (position % 8)
}

/// The first position at which two indexes differ; `None` when they are equal.
fn first_difference(a: &SmtIndex, b: &SmtIndex) -> Option<u8> {
    (0..=u8::MAX).find(|&position| bit_at(a.as_bytes(), position) != bit_at(b.as_bytes(), position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::to_hex;

    #[test]
    fn the_empty_leaf_is_the_hash_of_64_zero_bytes() {
        assert_eq!(EMPTY_LEAF.to_bytes(), sha256(&[0; 64]));
        assert_eq!(&empty_roots()[0], EMPTY_LEAF.as_bytes());
        assert_eq!(
            to_hex(&empty_roots()[256]),
            "a94774f83825bcbbe43db3998d4c7ad041a742d8a805a620811e49727e279748"
        );
    }

    #[test]
    fn positions_count_from_the_most_significant_bit() {
        let mut bits = [0; 32];
        bits[0] = 0x80;
        bits[31] = 0x01;
        assert!(bit_at(&bits, 0) && bit_at(&bits, 255));
        assert!((1..255).all(|position| !bit_at(&bits, position)));

        let zero = SmtIndex::from_bytes([0; 32]);
        let mut last = [0; 32];
        last[31] = 1;
        assert_eq!(
            first_difference(&zero, &SmtIndex::from_bytes(last)),
            Some(255)
        );
        assert_eq!(
            first_difference(&zero, &SmtIndex::from_bytes(bits)),
            Some(0)
        );
        assert_eq!(first_difference(&zero, &zero), None);
    }
}
