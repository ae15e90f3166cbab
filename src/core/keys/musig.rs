//! Public MuSig2 arithmetic (BIP-327): key sets, nonces, partial signatures and their aggregation.
//!
//! Nothing here is secret, random or slow to undo: the pure core may call all of it. Making nonces and
//! signing is the business of [`super::signer`].
//!
//! A cohort's key set is a list of Nostr keys. Every member's MuSig2 key is `02 ‖ x` (DESIGN §3), the list
//! is in BIP-327 KeySort order, and the aggregate is tweaked as BIP-341 asks of an output **without a
//! script tree**, so that only all members together can spend from the beacon address; where the terms add a
//! script tree, the tweak commits to its root.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use musig2::secp::{MaybePoint, MaybeScalar, Point};
use musig2::{AggNonce, CompactSignature, KeyAggContext, PubNonce};
use secp256k1::{PublicKey, XOnlyPublicKey};

use super::public::NostrKey;
use crate::hash::{SchnorrSignature, array_from_hex, bytes_newtype, tagged_hash, to_hex};
use crate::protocol::ids::Label;

/// The longest key set that is aggregated. A seat is a 16-bit number; there can be no more members.
pub const MAX_KEYS: usize = 1 << 16;

/// The keys of a cohort, aggregated once: BIP-327 KeySort and KeyAgg, then the BIP-341 tweak with an
/// empty script tree, or with the root of one.
///
/// A clone shares the aggregation. Two key sets are equal when they hold the same keys and the same root.
#[derive(Clone)]
pub struct KeySet(Arc<Aggregation>);

struct Aggregation {
    /// In KeySort order: ascending by the 33 bytes `02 ‖ x`.
    keys: Vec<NostrKey>,
    context: KeyAggContext,
    internal: PublicKey,
    output: PublicKey,
    script_root: Option<[u8; 32]>,
}

/// Why a list of keys is not the key set of a cohort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// No key at all.
    #[error("a key set needs at least one key")]
    Empty,
    /// More than [`MAX_KEYS`].
    #[error("{0} keys, a key set has at most {MAX_KEYS}")]
    TooMany(usize),
    /// One key is in the list twice; one member could then sign in two seats.
    #[error("key {0} is in the key set twice: every member needs its own key")]
    Duplicate(NostrKey),
    /// The keys add up to the point at infinity, which nobody can bring about by accident.
    #[error("the keys of the set cancel each other out: replace one")]
    Infinity,
}

impl KeySet {
    /// Sorts and aggregates `keys`, in whatever order they come, and tweaks the aggregate for an output without a
    /// script tree.
    ///
    /// Costs one scalar multiplication a key (about 40 µs): keep the result.
    pub fn new(keys: &[NostrKey]) -> Result<Self, KeySetError> {
        Self::with_script_root(keys, None)
    }

    /// As [`Self::new`], for an output whose script tree has this BIP-341 Merkle root.
    pub fn with_script_root(
        keys: &[NostrKey],
        script_root: Option<[u8; 32]>,
    ) -> Result<Self, KeySetError> {
        if keys.is_empty() {
            return Err(KeySetError::Empty);
        }
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(keys.len()));
        }
        let mut keys = keys.to_vec();
        // All points are `02 ‖ x`, so KeySort's order of the 33 bytes is the order of the x coordinates.
        keys.sort_unstable_by_key(|key| key.to_bytes());
        for (one, next) in keys.iter().zip(keys.iter().skip(1)) {
            if one == next {
                return Err(KeySetError::Duplicate(*one));
            }
        }
        let untweaked = KeyAggContext::new(keys.iter().map(|key| to_point(key.even_point())))
            .map_err(|_| KeySetError::Infinity)?;
        let internal = from_point(untweaked.aggregated_pubkey());
        let context = match &script_root {
            None => untweaked.with_unspendable_taproot_tweak(),
            Some(root) => untweaked.with_taproot_tweak(root),
        }
        .map_err(|_| KeySetError::Infinity)?;
        let output = from_point(context.aggregated_pubkey());
        Ok(Self(Arc::new(Aggregation {
            keys,
            context,
            internal,
            output,
            script_root,
        })))
    }

    /// The keys in BIP-327 KeySort order.
    #[must_use]
    pub fn keys(&self) -> &[NostrKey] {
        &self.0.keys
    }

    /// How many keys there are; at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // a key set is never empty
    pub fn len(&self) -> usize {
        self.0.keys.len()
    }

    /// Where `key` is in [`keys`](Self::keys).
    #[must_use]
    pub fn position(&self, key: &NostrKey) -> Option<usize> {
        let bytes = key.to_bytes();
        self.0
            .keys
            .binary_search_by_key(&bytes, |key| key.to_bytes())
            .ok()
    }

    /// Whether `key` is in the set.
    #[must_use]
    pub fn contains(&self, key: &NostrKey) -> bool {
        self.position(key).is_some()
    }

    /// The aggregate before the tweak: BIP-341's internal key.
    #[must_use]
    pub fn internal_key(&self) -> XOnlyPublicKey {
        self.0.internal.x_only_public_key().0
    }

    /// The aggregate before the tweak, as the point it is: with its parity.
    #[must_use]
    pub fn internal_point(&self) -> PublicKey {
        self.0.internal
    }

    /// The aggregate after the tweak, as the point it is: with its parity.
    #[must_use]
    pub fn output_point(&self) -> PublicKey {
        self.0.output
    }

    /// The aggregate after the tweak: the key in the taproot output, for which signatures verify.
    #[must_use]
    pub fn output_key(&self) -> XOnlyPublicKey {
        self.0.output.x_only_public_key().0
    }

    /// The Merkle root of the output's script tree, if it has one.
    #[must_use]
    pub fn script_root(&self) -> Option<[u8; 32]> {
        self.0.script_root
    }

    /// The aggregation as the `musig2` crate wants it.
    pub(super) fn context(&self) -> &KeyAggContext {
        &self.0.context
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.keys == other.0.keys && self.0.script_root == other.0.script_root)
    }
}

impl Eq for KeySet {}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KeySet({} keys, output key {})",
            self.len(),
            self.output_key()
        )
    }
}

/// Why a text or bytes are not a MuSig2 nonce or partial signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseMusigError {
    /// Not lower-case hex of the right length.
    #[error("not {0} bytes of lower-case hexadecimal")]
    Encoding(usize),
    /// One of the two 33-byte halves of a nonce is no compressed point of secp256k1.
    #[error("half {0} of the nonce is not a point of secp256k1")]
    NotOnCurve(u8),
    /// A partial signature that is not below the order of the curve.
    #[error("the partial signature is not below the order of secp256k1")]
    NotBelowOrder,
}

/// A member's public nonce: two points of secp256k1. Text: hex of the 66 bytes of BIP-327.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicNonce {
    r1: PublicKey,
    r2: PublicKey,
}

impl PublicNonce {
    /// Parses two compressed points; neither may be infinity.
    pub fn from_bytes(bytes: &[u8; 66]) -> Result<Self, ParseMusigError> {
        let (r1, r2) = halves(bytes);
        Ok(Self {
            r1: PublicKey::from_slice(&r1).map_err(|_| ParseMusigError::NotOnCurve(1))?,
            r2: PublicKey::from_slice(&r2).map_err(|_| ParseMusigError::NotOnCurve(2))?,
        })
    }

    /// The 66 bytes of BIP-327.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 66] {
        join(self.r1.serialize(), self.r2.serialize())
    }

    pub(super) fn from_musig2(nonce: &PubNonce) -> Self {
        Self {
            r1: from_point(nonce.R1),
            r2: from_point(nonce.R2),
        }
    }

    fn to_musig2(self) -> PubNonce {
        PubNonce::new(to_point(self.r1), to_point(self.r2))
    }
}

/// The sum of all members' public nonces. Text: hex of the 66 bytes of BIP-327.
///
/// A half may be infinity (33 zero bytes): somebody cheated, and verifying the partial signatures will
/// show who. BIP-327 therefore goes on signing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AggregateNonce {
    r1: Option<PublicKey>,
    r2: Option<PublicKey>,
}

const INFINITY: [u8; 33] = [0; 33];

impl AggregateNonce {
    /// Parses two compressed points, each of which may be infinity.
    pub fn from_bytes(bytes: &[u8; 66]) -> Result<Self, ParseMusigError> {
        let point = |half: [u8; 33], number| {
            if half == INFINITY {
                return Ok(None);
            }
            PublicKey::from_slice(&half)
                .map(Some)
                .map_err(|_| ParseMusigError::NotOnCurve(number))
        };
        let (r1, r2) = halves(bytes);
        Ok(Self {
            r1: point(r1, 1)?,
            r2: point(r2, 2)?,
        })
    }

    /// The 66 bytes of BIP-327.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 66] {
        let bytes = |half: Option<PublicKey>| half.map_or(INFINITY, |point| point.serialize());
        join(bytes(self.r1), bytes(self.r2))
    }

    pub(super) fn to_musig2(self) -> AggNonce {
        let point = |half: Option<PublicKey>| {
            half.map_or(MaybePoint::Infinity, |half| to_point(half).into())
        };
        AggNonce::new(point(self.r1), point(self.r2))
    }
}

/// A member's partial signature: a number below the order of the curve. Text: hex of its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartialSignature([u8; 32]);

impl PartialSignature {
    /// Parses 32 big-endian bytes below the order; zero is allowed, as in BIP-327.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, ParseMusigError> {
        MaybeScalar::from_slice(bytes).map_err(|_| ParseMusigError::NotBelowOrder)?;
        Ok(Self(*bytes))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    pub(super) fn from_musig2(scalar: &MaybeScalar) -> Self {
        Self(scalar.serialize())
    }

    fn to_musig2(self) -> Option<MaybeScalar> {
        MaybeScalar::from_slice(&self.0).ok()
    }
}

/// A point as the `musig2` crate has it, which stands on another version of `secp256k1` than `bitcoin` and `nostr` do.
/// Uncompressed, so that no square root has to be taken.
#[allow(clippy::expect_used)]
pub(super) fn to_point(key: PublicKey) -> Point {
    Point::from_slice(&key.serialize_uncompressed()).expect("65 bytes of a point")
}

/// The way back.
#[allow(clippy::expect_used)]
pub(super) fn from_point(point: Point) -> PublicKey {
    PublicKey::from_slice(&point.serialize_uncompressed()).expect("65 bytes of a point")
}

/// Splits 66 bytes in two halves of 33.
fn halves(bytes: &[u8; 66]) -> ([u8; 33], [u8; 33]) {
    let mut first = [0; 33];
    let mut second = [0; 33];
    let (one, two) = bytes.split_at(33);
    first.copy_from_slice(one);
    second.copy_from_slice(two);
    (first, second)
}

/// Joins two halves of 33 bytes.
fn join(first: [u8; 33], second: [u8; 33]) -> [u8; 66] {
    let mut bytes = [0; 66];
    let (one, two) = bytes.split_at_mut(33);
    one.copy_from_slice(&first);
    two.copy_from_slice(&second);
    bytes
}

/// Hex text forms (Display, Debug, FromStr, serde) of a type that is checked when it is parsed.
macro_rules! hex_text {
    ($name:ident, $len:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.to_bytes()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseMusigError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let bytes = array_from_hex(text).map_err(|_| ParseMusigError::Encoding($len))?;
                Self::from_bytes(&bytes)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_text!(PublicNonce, 66);
hex_text!(AggregateNonce, 66);
hex_text!(PartialSignature, 32);

/// There were no nonces to add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no public nonces to aggregate")]
pub struct NoNonces;

/// Adds up the public nonces of all members (BIP-327 NonceAgg). The order does not matter.
pub fn aggregate_nonces(nonces: &[PublicNonce]) -> Result<AggregateNonce, NoNonces> {
    if nonces.is_empty() {
        return Err(NoNonces);
    }
    // Of one key or more, only a sum that is infinity has no key.
    let sum = |halves: Vec<&PublicKey>| PublicKey::combine_keys(&halves).ok();
    Ok(AggregateNonce {
        r1: sum(nonces.iter().map(|nonce| &nonce.r1).collect()),
        r2: sum(nonces.iter().map(|nonce| &nonce.r2).collect()),
    })
}

/// Why a partial signature is not what its sender owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPartial {
    /// The signer is not in the key set.
    #[error("{0} is not in the key set")]
    UnknownSigner(NostrKey),
    /// The equation of BIP-327 PartialSigVerify does not hold.
    #[error("the partial signature of {0} is wrong for this key set, nonces and message")]
    Invalid(NostrKey),
}

/// Checks one member's partial signature (BIP-327 PartialSigVerify).
///
/// This is how a bad contribution is blamed on its sender: `nonce` must be the one `signer` sent, and
/// `aggregate` must be the sum this verifier computed from what all members sent.
pub fn verify_partial(
    keys: &KeySet,
    signer: &NostrKey,
    nonce: &PublicNonce,
    aggregate: &AggregateNonce,
    sighash: &[u8; 32],
    partial: &PartialSignature,
) -> Result<(), BadPartial> {
    if !keys.contains(signer) {
        return Err(BadPartial::UnknownSigner(*signer));
    }
    if verify_in(
        keys.context(),
        signer.even_point(),
        nonce,
        aggregate,
        sighash,
        partial,
    ) {
        Ok(())
    } else {
        Err(BadPartial::Invalid(*signer))
    }
}

/// [`verify_partial`] for any key aggregation, also one that no cohort has: BIP-327's vectors need that.
pub(super) fn verify_in(
    context: &KeyAggContext,
    signer: PublicKey,
    nonce: &PublicNonce,
    aggregate: &AggregateNonce,
    message: &[u8; 32],
    partial: &PartialSignature,
) -> bool {
    let Some(partial) = partial.to_musig2() else {
        return false;
    };
    let (aggregate, nonce) = (aggregate.to_musig2(), nonce.to_musig2());
    let signer = to_point(signer);
    musig2::verify_partial(context, partial, &aggregate, signer, &nonce, message).is_ok()
}

/// Why partial signatures do not add up to a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// Not one partial signature per key.
    #[error("{got} partial signatures for {want} keys")]
    Count {
        /// How many there are.
        got: usize,
        /// How many keys the set has.
        want: usize,
    },
    /// The sum does not verify for the output key: find the culprit with [`verify_partial`].
    #[error("the partial signatures do not add up to a signature: verify each one")]
    Invalid,
}

/// Adds up all members' partial signatures to one BIP-340 signature (BIP-327 PartialSigAgg) and verifies
/// it for the output key.
pub fn aggregate_partials(
    keys: &KeySet,
    aggregate: &AggregateNonce,
    sighash: &[u8; 32],
    partials: impl IntoIterator<Item = PartialSignature>,
) -> Result<SchnorrSignature, AggregateError> {
    let want = keys.len();
    // One more than wanted is enough to know that there are too many.
    let partials: Vec<_> = partials.into_iter().take(want.saturating_add(1)).collect();
    if partials.len() != want {
        let got = partials.len();
        return Err(AggregateError::Count { got, want });
    }
    let signature = aggregate_in(keys.context(), aggregate, sighash, &partials)
        .ok_or(AggregateError::Invalid)?;
    // The crate has checked its own equation. What goes into a transaction is checked once more by
    // libsecp256k1, the code by which nodes will judge it.
    if NostrKey::new(keys.output_key()).verifies(sighash, &signature) {
        Ok(signature)
    } else {
        Err(AggregateError::Invalid)
    }
}

/// [`aggregate_partials`] for any key aggregation, as [`verify_in`].
pub(super) fn aggregate_in(
    context: &KeyAggContext,
    aggregate: &AggregateNonce,
    message: &[u8; 32],
    partials: &[PartialSignature],
) -> Option<SchnorrSignature> {
    let partials = partials
        .iter()
        .map(|partial| partial.to_musig2())
        .collect::<Option<Vec<_>>>()?;
    let aggregate = aggregate.to_musig2();
    let signature: CompactSignature =
        musig2::aggregate_partial_signatures(context, &aggregate, partials, message).ok()?;
    Some(SchnorrSignature::from_bytes(signature.serialize()))
}

bytes_newtype!(
    /// What a member agreed to sign in one session: see [`session_hash`]. Text: lower-case hex.
    SessionHash, 32, to_hex, array_from_hex
);

/// One labelled message of a session, as one member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEntry {
    /// Which message.
    pub label: Label,
    /// The public nonce this member sent for it.
    pub nonce: PublicNonce,
    /// The aggregate nonce it got back.
    pub aggregate: AggregateNonce,
    /// The sighash it computed itself.
    pub sighash: [u8; 32],
}

/// The session hash of one member (DESIGN §5): BIP-340 tagged hash `btcr2/session/1` of
///
/// ```text
/// u32 number of keys ‖ 32-byte keys in KeySort order ‖ 32-byte output key (which commits to the tweak)
/// ‖ u32 number of entries ‖ per entry, in the session's order:
///   u8 length of the label ‖ label ‖ 66-byte own public nonce ‖ 66-byte aggregate nonce ‖ 32-byte sighash
/// ```
///
/// Integers are big-endian. A stored partial signature is sent again only for the identical hash.
#[must_use]
pub fn session_hash(keys: &KeySet, entries: &[SessionEntry]) -> SessionHash {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let mut preimage = Vec::with_capacity(64 + 32 * keys.len() + 180 * entries.len());
    preimage.extend_from_slice(&count(keys.len()));
    for key in keys.keys() {
        preimage.extend_from_slice(&key.to_bytes());
    }
    preimage.extend_from_slice(&keys.output_key().serialize());
    preimage.extend_from_slice(&count(entries.len()));
    for entry in entries {
        let name = entry.label.to_string();
        preimage.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        preimage.extend_from_slice(name.as_bytes());
        preimage.extend_from_slice(&entry.nonce.to_bytes());
        preimage.extend_from_slice(&entry.aggregate.to_bytes());
        preimage.extend_from_slice(&entry.sighash);
    }
    SessionHash::from_bytes(tagged_hash("btcr2/session/1", &[&preimage]))
}
