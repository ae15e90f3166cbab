//! Proofs: what a member gets for each of its indexes, in the specification's JSON form (spec.md §2.6).

use std::fmt;

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
