//! The tree: built once from the leaves of a round, then asked for the proof of any index.

use super::{
    EMPTY_LEAF, SmtPath, bit_at, empty_roots, first_difference, node_hash, parent_hash, proof,
};
use crate::hash::{LeafValue, SignalBytes, SmtIndex};

/// Why a set of leaves is no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SmtError {
    /// Two leaves claim one index.
    #[error("index {0} is given twice: one index has one leaf")]
    RepeatedIndex(SmtIndex),
    /// A leaf equals `Z[0]`. It would make the proofs of its neighbours non-canonical.
    #[error("the leaf at index {0} has the value of an empty leaf: leave the index out instead")]
    EmptyLeaf(SmtIndex),
}

/// A sparse Merkle tree of 256 levels.
///
/// Only the places where two leaves part are stored, with the hash chains between them computed once.
/// Building costs about `256 - log₂ n` hashes a leaf, the proof of a member none, the proof of any
/// other index at most 255.
#[derive(Debug, Clone)]
pub struct SmtTree {
    root: Option<Subtree>,
    leaves: usize,
}

/// A node that was not skipped, and its value seen from its parent.
#[derive(Debug, Clone)]
struct Subtree {
    node: Node,
    /// The node's value hashed up against empty siblings to the height of a child of the node above
    /// it (for the uppermost: to the root, height 256).
    raised: [u8; 32],
}

#[derive(Debug, Clone)]
enum Node {
    Leaf {
        index: SmtIndex,
        value: LeafValue,
    },
    /// Where leaves part: both children hold at least one.
    Branch {
        /// The position of the index bit that selects the child.
        position: u8,
        hash: [u8; 32],
        left: Box<Subtree>,
        right: Box<Subtree>,
    },
}

impl SmtTree {
    /// Builds the tree of these leaves, in any order. An index that stays empty is simply not given.
    pub fn new(leaves: impl IntoIterator<Item = (SmtIndex, LeafValue)>) -> Result<Self, SmtError> {
        let mut leaves: Vec<_> = leaves.into_iter().collect();
        leaves.sort_unstable();
        for pair in leaves.windows(2) {
            if let [(first, _), (second, _)] = pair
                && first == second
            {
                return Err(SmtError::RepeatedIndex(*first));
            }
        }
        if let Some((index, _)) = leaves.iter().find(|(_, value)| *value == EMPTY_LEAF) {
            return Err(SmtError::EmptyLeaf(*index));
        }
        Ok(Self {
            root: Subtree::build(&leaves, super::LEVELS),
            leaves: leaves.len(),
        })
    }

    /// The root, which is what an SMT beacon signals.
    #[must_use]
    pub fn root(&self) -> SignalBytes {
        let [.., empty] = empty_roots();
        SignalBytes::from_bytes(self.root.as_ref().map_or(*empty, |root| root.raised))
    }

    /// How many leaves are not empty.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.leaves
    }

    /// Whether every leaf is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.leaves == 0
    }

    /// The value at an index; [`EMPTY_LEAF`] where nothing was inserted.
    #[must_use]
    pub fn value_at(&self, index: &SmtIndex) -> LeafValue {
        match self.root.as_ref().map(|root| root.nearest_leaf(index)) {
            Some((found, value)) if found == index => *value,
            _ => EMPTY_LEAF,
        }
    }

    /// The path from an index to the root. Every index has one: that of an index outside the tree
    /// proves its leaf empty.
    #[must_use]
    pub fn prove(&self, index: &SmtIndex) -> SmtPath {
        let mut siblings = Vec::new();
        if let Some(root) = &self.root {
            root.collect_siblings(index, &mut siblings);
        }
        proof::path_of(&siblings)
    }
}

impl Subtree {
    /// The subtree of sorted, distinct leaves that agree above their first parting, raised to `height`.
    /// `None` without leaves. The recursion is at most 256 deep: every branch is below the previous one.
    fn build(leaves: &[(SmtIndex, LeafValue)], height: usize) -> Option<Self> {
        let (first, value) = leaves.first()?;
        let (last, _) = leaves.last()?;
        let node = match first_difference(first, last) {
            None => Node::Leaf {
                index: *first,
                value: *value,
            },
            Some(position) => {
                let split =
                    leaves.partition_point(|(index, _)| !bit_at(index.as_bytes(), position));
                let (left, right) = leaves.split_at_checked(split)?;
                let child_height = usize::from(u8::MAX - position);
                let left = Box::new(Self::build(left, child_height)?);
                let right = Box::new(Self::build(right, child_height)?);
                Node::Branch {
                    position,
                    hash: node_hash(&left.raised, &right.raised),
                    left,
                    right,
                }
            }
        };
        let raised = node.raise(height, first);
        Some(Self { node, raised })
    }

    /// The leaf one ends at by following the bits of `index`: that of the index itself if there is one.
    fn nearest_leaf(&self, index: &SmtIndex) -> (&SmtIndex, &LeafValue) {
        let mut subtree = self;
        loop {
            match &subtree.node {
                Node::Leaf { index, value } => return (index, value),
                Node::Branch {
                    position,
                    left,
                    right,
                    ..
                } => {
                    subtree = if bit_at(index.as_bytes(), *position) {
                        right
                    } else {
                        left
                    }
                }
            }
        }
    }

    /// Appends every sibling of `index` that is not empty, with its position, root to leaf.
    fn collect_siblings(&self, index: &SmtIndex, siblings: &mut Vec<(u8, [u8; 32])>) {
        let (nearest, _) = self.nearest_leaf(index);
        let parting = first_difference(index, nearest);
        let mut subtree = self;
        while let Node::Branch {
            position,
            left,
            right,
            ..
        } = &subtree.node
            && parting.is_none_or(|parting| *position < parting)
        {
            let (on_path, sibling) = if bit_at(index.as_bytes(), *position) {
                (right, left)
            } else {
                (left, right)
            };
            siblings.push((*position, sibling.raised));
            subtree = on_path;
        }
        // An index outside the tree parts from the stored path inside a chain of empty siblings. All
        // that is left below is its sibling there, and everything further down is empty.
        if let Some(parting) = parting {
            let height = usize::from(u8::MAX - parting);
            siblings.push((parting, subtree.node.raise(height, nearest)));
        }
    }
}

impl Node {
    /// The node's value hashed up to `height` along the path of `index`, a leaf below it, against
    /// empty siblings.
    fn raise(&self, height: usize, index: &SmtIndex) -> [u8; 32] {
        let (own_height, hash) = match self {
            Self::Leaf { value, .. } => (0, value.as_bytes()),
            Self::Branch { position, hash, .. } => (super::LEVELS - usize::from(*position), hash),
        };
        (0..=u8::MAX)
            .zip(empty_roots())
            .take(height)
            .skip(own_height)
            .fold(*hash, |hash, (level, empty)| {
                parent_hash(&hash, empty, bit_at(index.as_bytes(), u8::MAX - level))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::sha256;

    /// The specification's definition, level by level, with nothing skipped and nothing shared with
    /// the tree: the value of the subtree of height `256 - depth` that holds these leaves.
    fn naive(leaves: &[(Vec<bool>, [u8; 32])], depth: usize, empty: &[[u8; 32]]) -> [u8; 32] {
        if leaves.is_empty() {
            return empty[256 - depth];
        }
        if depth == 256 {
            assert_eq!(leaves.len(), 1);
            return leaves[0].1;
        }
        let (right, left): (Vec<_>, Vec<_>) =
            leaves.iter().cloned().partition(|(bits, _)| bits[depth]);
        let mut both = naive(&left, depth + 1, empty).to_vec();
        both.extend(naive(&right, depth + 1, empty));
        sha256(&both)
    }

    fn bits(index: &[u8; 32]) -> Vec<bool> {
        index
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1 == 1))
            .collect()
    }

    /// The siblings of `index` by the same definition: leaf to root.
    fn naive_siblings(
        leaves: &[(Vec<bool>, [u8; 32])],
        index: &[bool],
        empty: &[[u8; 32]],
    ) -> Vec<[u8; 32]> {
        (0..256)
            .rev()
            .map(|depth| {
                let other: Vec<_> = leaves
                    .iter()
                    .filter(|(bits, _)| {
                        bits[..depth] == index[..depth] && bits[depth] != index[depth]
                    })
                    .cloned()
                    .collect();
                naive(&other, depth + 1, empty)
            })
            .collect()
    }

    fn naive_empty() -> Vec<[u8; 32]> {
        let mut all = vec![sha256(&[0; 64])];
        for level in 0..256 {
            let both = [all[level], all[level]].concat();
            all.push(sha256(&both));
        }
        all
    }

    /// Indexes that share long prefixes as often as they share none.
    fn index() -> impl Strategy<Value = [u8; 32]> {
        (any::<[u8; 32]>(), 0_usize..=32, 0_u8..4).prop_map(|(random, shared, last)| {
            let mut index = [0xa5; 32];
            index[shared..].copy_from_slice(&random[shared..]);
            if shared == 32 {
                index[31] = last;
            }
            index
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn root_and_every_proof_equal_the_naive_tree(
            leaves in prop::collection::btree_map(index(), any::<[u8; 32]>(), 0..9),
            strangers in prop::collection::vec(index(), 0..4),
        ) {
            let empty = naive_empty();
            let tree = SmtTree::new(
                leaves.iter().map(|(i, v)| (SmtIndex::from_bytes(*i), LeafValue::from_bytes(*v))),
            ).unwrap();
            let reference: Vec<_> = leaves.iter().map(|(i, v)| (bits(i), *v)).collect();
            prop_assert_eq!(tree.root().to_bytes(), naive(&reference, 0, &empty));
            prop_assert_eq!(tree.len(), leaves.len());

            for index in leaves.keys().chain(&strangers) {
                let siblings = naive_siblings(&reference, &bits(index), &empty);
                let mut collapsed = [0_u8; 32];
                let mut hashes = Vec::new();
                for (level, sibling) in siblings.iter().enumerate() {
                    let position = 255 - level;
                    if *sibling == empty[level] {
                        collapsed[position / 8] |= 0x80 >> (position % 8);
                    } else {
                        hashes.push(*sibling);
                    }
                }
                let index = SmtIndex::from_bytes(*index);
                let path = tree.prove(&index);
                prop_assert_eq!(&path.collapsed, &collapsed);
                prop_assert_eq!(&path.hashes, &hashes);
                path.verify_leaf_value(&index, &tree.value_at(&index), &tree.root()).unwrap();
            }
        }
    }

    #[test]
    fn the_order_of_leaves_does_not_matter() {
        let leaves: BTreeMap<_, _> = (0_u8..50)
            .map(|i| {
                (
                    super::super::index_of(&i.to_string()),
                    LeafValue::from_bytes([i + 1; 32]),
                )
            })
            .collect();
        let forth = SmtTree::new(leaves.clone()).unwrap();
        let back = SmtTree::new(leaves.clone().into_iter().rev()).unwrap();
        assert_eq!(forth.root(), back.root());
        for (index, value) in &leaves {
            assert_eq!(forth.prove(index), back.prove(index));
            assert_eq!(forth.value_at(index), *value);
        }
    }

    #[test]
    fn a_repeated_index_and_an_empty_leaf_are_refused() {
        let index = |byte| SmtIndex::from_bytes([byte; 32]);
        let value = |byte| LeafValue::from_bytes([byte; 32]);
        assert_eq!(
            SmtTree::new([
                (index(1), value(1)),
                (index(2), value(2)),
                (index(1), value(3))
            ])
            .unwrap_err(),
            SmtError::RepeatedIndex(index(1))
        );
        assert_eq!(
            SmtTree::new([(index(1), value(1)), (index(2), EMPTY_LEAF)]).unwrap_err(),
            SmtError::EmptyLeaf(index(2))
        );
    }
}
