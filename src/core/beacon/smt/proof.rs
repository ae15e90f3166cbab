//! Proofs: what a member gets for each of its indexes, in the specification's JSON form (spec.md §2.6).

use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::{LEVELS, Leaf, bit_at, empty_roots, leaf_value, mask, parent_hash};
use crate::hash::{
    LeafValue, ParseHashError, SignalBytes, SmtIndex, SmtNonce, UpdateHash, array_from_base64url,
    bytes_newtype, from_base64url, to_base64url,
};

/// Longest nonce accepted in a proof, in bytes. The specification sets no limit and recommends 32 bytes;
/// this one only bounds memory.
pub const MAX_NONCE_LENGTH: usize = 1024;

/// The siblings of one index, leaf to root. Empty ones are a bit, the others a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtPath {
    /// Bit `255 - n` is set where the sibling at level `n` is empty. Position 0 is the most
    /// significant bit of byte 0.
    pub collapsed: [u8; 32],
    /// The other siblings, leaf to root.
    pub hashes: Vec<[u8; 32]>,
}

/// Why a proof does not prove what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofFault {
    /// Hashes and collapsed levels do not add up to 256.
    #[error("the proof has {hashes} hashes and {collapsed} collapsed levels, together not 256")]
    HashCount {
        /// Number of hashes.
        hashes: usize,
        /// Number of bits set in `collapsed`.
        collapsed: usize,
    },
    /// A hash is that of an empty subtree, which has to be collapsed.
    #[error("the proof is not canonical: its sibling at level {level} is empty and not collapsed")]
    NotCanonical {
        /// Height of the sibling's subtree, 0 at the leaf.
        level: u8,
    },
    /// The proof says it is for another signal.
    #[error("the proof is for root {id}, the signal is {signal}")]
    WrongId {
        /// The `id` member of the proof.
        id: SignalBytes,
        /// The signal.
        signal: SignalBytes,
    },
    /// The leaf, the index and the path lead to another root.
    #[error("the proof leads to root {computed}, the signal is {signal}")]
    WrongRoot {
        /// The root the proof leads to.
        computed: SignalBytes,
        /// The signal.
        signal: SignalBytes,
    },
    /// The nonce is not the one that was submitted.
    #[error("the proof's nonce is not the submitted one")]
    WrongNonce,
    /// The update id is not the one that was submitted.
    #[error("the proof announces {found:?}, submitted was {submitted:?}")]
    WrongUpdate {
        /// The `updateId` member of the proof.
        found: Option<UpdateHash>,
        /// What the member submitted.
        submitted: Option<UpdateHash>,
    },
}

impl SmtPath {
    /// Checks that this leaf value at this index is under the root `signal`: for whoever does not know
    /// the nonce (the aggregator), or does not need it.
    pub fn verify_leaf_value(
        &self,
        index: &SmtIndex,
        value: &LeafValue,
        signal: &SignalBytes,
    ) -> Result<(), ProofFault> {
        let computed = self.root_of(index, value)?;
        if computed != *signal {
            return Err(ProofFault::WrongRoot {
                computed,
                signal: *signal,
            });
        }
        Ok(())
    }

    /// The indexes below each sibling that is not empty: each such range has a leaf.
    pub fn occupied(&self, index: &SmtIndex) -> impl Iterator<Item = RangeInclusive<SmtIndex>> {
        let siblings = (0..=u8::MAX).filter(|position| !bit_at(&self.collapsed, *position));
        siblings.map(|position| below_sibling(index, position))
    }

    /// The root that this leaf value at this index leads to.
    fn root_of(&self, index: &SmtIndex, value: &LeafValue) -> Result<SignalBytes, ProofFault> {
        let collapsed = self
            .collapsed
            .iter()
            .map(|byte| byte.count_ones() as usize)
            .sum();
        let miscounted = ProofFault::HashCount {
            hashes: self.hashes.len(),
            collapsed,
        };
        if self.hashes.len().saturating_add(collapsed) != LEVELS {
            return Err(miscounted);
        }
        let mut hashes = self.hashes.iter();
        let mut node = value.to_bytes();
        for (level, empty) in (0..=u8::MAX).zip(empty_roots()) {
            let position = u8::MAX - level;
            let sibling = if bit_at(&self.collapsed, position) {
                empty
            } else {
                let Some(hash) = hashes.next() else {
                    return Err(miscounted);
                };
                if hash == empty {
                    return Err(ProofFault::NotCanonical { level });
                }
                hash
            };
            node = parent_hash(&node, sibling, bit_at(index.as_bytes(), position));
        }
        Ok(SignalBytes::from_bytes(node))
    }
}

/// The indexes below the sibling of `index` at a position: they share the bits before it, and not the one there.
fn below_sibling(index: &SmtIndex, position: u8) -> RangeInclusive<SmtIndex> {
    let (mut first, mut last) = (index.to_bytes(), index.to_bytes());
    for (at, (low, high)) in (0_u8..).zip(first.iter_mut().zip(&mut last)) {
        // The bits of this byte that are free: those behind the position.
        let free = match at.cmp(&(position / 8)) {
            Ordering::Less => 0,
            Ordering::Equal => mask(position).saturating_sub(1),
            Ordering::Greater => u8::MAX,
        };
        if at == position / 8 {
            *low ^= mask(position);
            *high ^= mask(position);
        }
        *low &= !free;
        *high |= free;
    }
    SmtIndex::from_bytes(first)..=SmtIndex::from_bytes(last)
}

/// The path with these siblings that are not empty, given with their positions from root to leaf.
pub(super) fn path_of(siblings: &[(u8, [u8; 32])]) -> SmtPath {
    let mut collapsed = [0xff; 32];
    for (position, _) in siblings {
        if let Some(byte) = collapsed.get_mut(usize::from(position / 8)) {
            *byte &= !mask(*position);
        }
    }
    SmtPath {
        collapsed,
        hashes: siblings.iter().rev().map(|(_, hash)| *hash).collect(),
    }
}

/// The nonce of a proof, of any length up to [`MAX_NONCE_LENGTH`]. Ours are 32 bytes ([`SmtNonce`]); the
/// specification's verifier accepts every length. Text: base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct ProofNonce(Vec<u8>);

impl ProofNonce {
    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<SmtNonce> for ProofNonce {
    fn from(nonce: SmtNonce) -> Self {
        Self(nonce.as_bytes().to_vec())
    }
}

impl fmt::Debug for ProofNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProofNonce({} secret bytes)", self.0.len())
    }
}

/// An SMT proof: path, and what is needed to compute the leaf value (spec.md §2.6).
///
/// In JSON: `id`, `nonce`?, `updateId`?, `collapsed`, `hashes`, every value base64url without padding. An
/// optional member is absent, not `null`. Other members are ignored and not kept: the proof itself is
/// never hashed, so they can not change what it proves, and the specification does not forbid them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmtProof {
    id: SignalBytes,
    nonce: Option<ProofNonce>,
    update: Option<UpdateHash>,
    path: SmtPath,
}

impl SmtProof {
    /// Puts a proof together from the root, what the owner of the index said, and the tree's path.
    #[must_use]
    pub fn from_parts(root: SignalBytes, leaf: &Leaf, path: SmtPath) -> Self {
        Self {
            id: root,
            nonce: leaf.nonce.map(ProofNonce::from),
            update: leaf.update,
            path,
        }
    }

    /// The `id` member of what may be a proof. A resolver looks proofs up by this, and passes over those
    /// whose id is malformed, whatever else is wrong with them (spec.md §3.3).
    #[must_use]
    pub fn claimed_id(value: &serde_json::Value) -> Option<SignalBytes> {
        let text = value.get("id")?.as_str()?;
        array_from_base64url(text).ok().map(SignalBytes::from_bytes)
    }

    /// The root this proof is for.
    #[must_use]
    pub const fn id(&self) -> SignalBytes {
        self.id
    }

    /// The nonce of the leaf, absent when the leaf is public.
    #[must_use]
    pub const fn nonce(&self) -> Option<&ProofNonce> {
        self.nonce.as_ref()
    }

    /// The hash of the announced update; `None` when the signal has no update for the index.
    #[must_use]
    pub const fn update(&self) -> Option<UpdateHash> {
        self.update
    }

    /// The siblings.
    #[must_use]
    pub const fn path(&self) -> &SmtPath {
        &self.path
    }

    /// The value of the leaf this proof is about.
    #[must_use]
    pub fn leaf_value(&self) -> LeafValue {
        leaf_value(
            self.nonce.as_ref().map(ProofNonce::as_bytes),
            self.update.as_ref(),
        )
    }

    /// Checks the proof for an index under a signal, as a resolver does (spec.md §5).
    pub fn verify(&self, index: &SmtIndex, signal: &SignalBytes) -> Result<(), ProofFault> {
        if self.id != *signal {
            return Err(ProofFault::WrongId {
                id: self.id,
                signal: *signal,
            });
        }
        self.path
            .verify_leaf_value(index, &self.leaf_value(), signal)
    }

    /// Checks the proof as the owner of the index does before it signs (DESIGN §6 rule 3): also that nonce
    /// and update are exactly what it submitted.
    pub fn verify_submitted(
        &self,
        index: &SmtIndex,
        submitted: &Leaf,
        signal: &SignalBytes,
    ) -> Result<(), ProofFault> {
        if self.nonce != submitted.nonce.map(ProofNonce::from) {
            return Err(ProofFault::WrongNonce);
        }
        if self.update != submitted.update {
            return Err(ProofFault::WrongUpdate {
                found: self.update,
                submitted: submitted.update,
            });
        }
        self.verify(index, signal)
    }
}

bytes_newtype!(
    /// Value of a node. Text: base64url.
    NodeHash, 32, to_base64url, array_from_base64url
);

/// The JSON form, in the specification's order of members.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    id: NodeHash,
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    nonce: Option<ProofNonce>,
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    update_id: Option<UpdateHash>,
    collapsed: NodeHash,
    #[serde(deserialize_with = "bounded_hashes")]
    hashes: Vec<NodeHash>,
}

impl Serialize for SmtProof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire {
            id: NodeHash::from_bytes(self.id.to_bytes()),
            nonce: self.nonce.clone(),
            update_id: self.update,
            collapsed: NodeHash::from_bytes(self.path.collapsed),
            hashes: self
                .path
                .hashes
                .iter()
                .map(|hash| NodeHash::from_bytes(*hash))
                .collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SmtProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        Ok(Self {
            id: SignalBytes::from_bytes(wire.id.to_bytes()),
            nonce: wire.nonce,
            update: wire.update_id,
            path: SmtPath {
                collapsed: wire.collapsed.to_bytes(),
                hashes: wire.hashes.iter().map(|hash| *hash.as_bytes()).collect(),
            },
        })
    }
}

impl Serialize for ProofNonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_base64url(&self.0))
    }
}

impl<'de> Deserialize<'de> for ProofNonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        // Four characters carry three bytes: longer texts need not be decoded to be refused.
        if text.len() > MAX_NONCE_LENGTH.div_ceil(3) * 4 {
            return Err(de::Error::custom(ParseHashError::WrongLength(
                text.len() / 4 * 3,
                MAX_NONCE_LENGTH,
            )));
        }
        let bytes = from_base64url(&text).map_err(de::Error::custom)?;
        if bytes.len() > MAX_NONCE_LENGTH {
            return Err(de::Error::custom(ParseHashError::WrongLength(
                bytes.len(),
                MAX_NONCE_LENGTH,
            )));
        }
        Ok(Self(bytes))
    }
}

/// Reads an optional member that is there: `null` is not a way to leave it out.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Reads at most 256 hashes; a longer list is refused at its 257th element.
fn bounded_hashes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeHash>, D::Error> {
    struct Hashes;

    impl<'de> Visitor<'de> for Hashes {
        type Value = Vec<NodeHash>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {LEVELS} hashes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut hashes = Vec::new();
            while let Some(hash) = list.next_element()? {
                if hashes.len() == LEVELS {
                    return Err(de::Error::invalid_length(LEVELS + 1, &self));
                }
                hashes.push(hash);
            }
            Ok(hashes)
        }
    }

    deserializer.deserialize_seq(Hashes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::beacon::smt::{SmtTree, index_of};

    const FULL: &str = "__________________________________________8";
    const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

    fn leaf(nonce: u8, update: Option<u8>) -> Leaf {
        Leaf {
            nonce: Some(SmtNonce::from_bytes([nonce; 32])),
            update: update.map(|byte| UpdateHash::from_bytes([byte; 32])),
        }
    }

    fn parse(text: &str) -> Result<SmtProof, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_owner_checks_that_nothing_was_exchanged() {
        let index = index_of("did:btcr2:mine");
        let mine = leaf(1, Some(2));
        let tree = SmtTree::new([(index, mine.value())]).unwrap();
        let proof = SmtProof::from_parts(tree.root(), &mine, tree.prove(&index));
        let check = |submitted| proof.verify_submitted(&index, &submitted, &tree.root());
        assert_eq!(check(mine), Ok(()));
        assert_eq!(check(leaf(9, Some(2))), Err(ProofFault::WrongNonce));
        assert_eq!(
            check(Leaf {
                nonce: None,
                ..mine
            }),
            Err(ProofFault::WrongNonce)
        );
        assert_eq!(
            check(leaf(1, None)),
            Err(ProofFault::WrongUpdate {
                found: mine.update,
                submitted: None
            })
        );
        let other = index_of("did:btcr2:other");
        assert!(matches!(
            proof.verify_submitted(&other, &mine, &tree.root()),
            Err(ProofFault::WrongRoot { .. })
        ));
    }

    #[test]
    fn optional_members_are_absent_and_unknown_ones_ignored() {
        let minimal = format!(r#"{{"id":"{ONE}","collapsed":"{FULL}","hashes":[]}}"#);
        let proof = parse(&minimal).unwrap();
        assert_eq!((proof.nonce(), proof.update()), (None, None));
        assert_eq!(serde_json::to_string(&proof).unwrap(), minimal);
        let extended =
            format!(r#"{{"note":{{"x":[1]}},"id":"{ONE}","collapsed":"{FULL}","hashes":[]}}"#);
        assert_eq!(parse(&extended).unwrap(), proof);
    }

    #[test]
    fn malformed_members_are_refused() {
        let base = format!(r#""id":"{ONE}","collapsed":"{FULL}","hashes":[]"#);
        for (members, reason) in [
            (format!(r#"{base},"nonce":null"#), "null"),
            (format!(r#"{base},"updateId":null"#), "null"),
            (format!(r#"{base},"nonce":"A""#), "base64url"),
            (format!(r#"{base},"nonce":"AA==""#), "base64url"),
            (format!(r#"{base},"id":"{ONE}""#), "duplicate field `id`"),
            (
                format!(r#"{base},"nonce":"AA","nonce":"AA""#),
                "duplicate field `nonce`",
            ),
            (format!(r#""id":"{ONE}","hashes":[]"#), "missing field"),
            (
                format!(r#""id":"{ONE}","collapsed":"{FULL}""#),
                "missing field",
            ),
            (
                format!(r#""id":"{ONE}","collapsed":"{FULL}","hashes":{{}}"#),
                "a list of at most 256 hashes",
            ),
        ] {
            let error = parse(&format!("{{{members}}}")).unwrap_err();
            assert!(error.contains(reason), "{members}: {error}");
        }
    }

    #[test]
    fn lists_and_nonces_are_bounded() {
        let with_hashes = |count: usize| {
            let hashes = vec![format!("\"{ONE}\""); count].join(",");
            parse(&format!(
                r#"{{"id":"{ONE}","collapsed":"{FULL}","hashes":[{hashes}]}}"#
            ))
        };
        assert_eq!(with_hashes(256).unwrap().path().hashes.len(), 256);
        assert!(with_hashes(257).unwrap_err().contains("257"));

        let with_nonce = |length: usize| {
            let nonce = to_base64url(&vec![7; length]);
            parse(&format!(
                r#"{{"id":"{ONE}","nonce":"{nonce}","collapsed":"{FULL}","hashes":[]}}"#
            ))
        };
        for length in [0, 1, 32, MAX_NONCE_LENGTH] {
            let proof = with_nonce(length).unwrap();
            assert_eq!(proof.nonce().unwrap().as_bytes().len(), length);
        }
        for length in [MAX_NONCE_LENGTH + 1, MAX_NONCE_LENGTH * 2] {
            assert!(with_nonce(length).unwrap_err().contains("1024"));
        }
    }

    #[test]
    fn too_few_and_too_many_siblings_are_counted() {
        let index = index_of("did:btcr2:mine");
        let value = LeafValue::from_bytes([1; 32]);
        let tree = SmtTree::new([
            (index, value),
            (index_of("did:btcr2:b"), LeafValue::from_bytes([2; 32])),
        ])
        .unwrap();
        let path = tree.prove(&index);
        let verify = |path: &SmtPath| path.verify_leaf_value(&index, &value, &tree.root());
        assert_eq!(verify(&path), Ok(()));

        let mut fewer = path.clone();
        fewer.hashes.clear();
        assert_eq!(
            verify(&fewer),
            Err(ProofFault::HashCount {
                hashes: 0,
                collapsed: 255
            })
        );
        let mut more = path.clone();
        more.hashes.push([9; 32]);
        assert_eq!(
            verify(&more),
            Err(ProofFault::HashCount {
                hashes: 2,
                collapsed: 255
            })
        );
        let mut none = path;
        none.collapsed = [0xff; 32];
        assert_eq!(
            verify(&none),
            Err(ProofFault::HashCount {
                hashes: 1,
                collapsed: 256
            })
        );
    }

    #[test]
    fn debug_hides_the_nonce() {
        let nonce = SmtNonce::from_bytes([7; 32]);
        let proof = SmtProof::from_parts(
            SignalBytes::from_bytes([1; 32]),
            &leaf(7, None),
            path_of(&[]),
        );
        assert!(!format!("{proof:?}").contains(&nonce.to_string()));
        assert!(format!("{proof:?}").contains("32 secret bytes"));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            members in prop::collection::vec(
                r#""(id|nonce|updateId|collapsed|hashes)":("[A-Za-z0-9_-]{43}"|\[("[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]",?){0,3}\]|null|1)"#,
                0..6,
            ),
            random in prop::collection::vec(any::<[u8; 32]>(), 0..300),
            collapsed in any::<[u8; 32]>(),
            index in any::<[u8; 32]>(),
        ) {
            let index = SmtIndex::from_bytes(index);
            let signal = SignalBytes::from_bytes([0; 32]);
            let texts = [
                bytes,
                format!("{{{}}}", members.join(",")).into_bytes(),
            ];
            for text in texts {
                if let Ok(proof) = serde_json::from_slice::<SmtProof>(&text) {
                    prop_assert!(proof.verify(&index, &signal).is_err());
                }
                if let Ok(value) = serde_json::from_slice(&text) {
                    let _ = SmtProof::claimed_id(&value);
                }
            }
            let path = SmtPath { collapsed, hashes: random };
            let verified = path.verify_leaf_value(&index, &LeafValue::from_bytes([1; 32]), &signal);
            prop_assert!(verified.is_err());
        }

        #[test]
        fn json_round_trips(
            nonce in any::<Option<[u8; 32]>>(),
            update in any::<Option<[u8; 32]>>(),
            siblings in prop::collection::btree_map(any::<u8>(), any::<[u8; 32]>(), 0..20),
            root in any::<[u8; 32]>(),
        ) {
            let leaf = Leaf {
                nonce: nonce.map(SmtNonce::from_bytes),
                update: update.map(UpdateHash::from_bytes),
            };
            let siblings: Vec<_> = siblings.into_iter().collect();
            let proof = SmtProof::from_parts(SignalBytes::from_bytes(root), &leaf, path_of(&siblings));
            prop_assert_eq!(proof.leaf_value(), leaf.value());
            let text = serde_json::to_string(&proof).unwrap();
            prop_assert_eq!(serde_json::from_str::<SmtProof>(&text).unwrap(), proof.clone());
            let value = serde_json::to_value(&proof).unwrap();
            prop_assert_eq!(SmtProof::claimed_id(&value), Some(proof.id()));
            prop_assert_eq!(serde_json::from_value::<SmtProof>(value).unwrap(), proof);
        }
    }
}
