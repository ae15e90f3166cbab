//! Public key types: all the rest of the program may know of keys.

use std::fmt;
use std::str::FromStr;

use secp256k1::{Parity, PublicKey, XOnlyPublicKey, schnorr};

use crate::hash::{SchnorrSignature, array_from_hex, bytes_newtype, to_hex};

/// A Nostr public key (BIP-340 x-only), which in a cohort is also a member's MuSig2 key.
///
/// MuSig2 (BIP-327) takes 33-byte keys. Ours is always the point with even Y, `02 ‖ x`: the owner
/// negates its secret when its own point has odd Y (see [`crate::keys`]). This is the only place
/// where the parity of public keys is decided. Text: 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NostrKey(XOnlyPublicKey);

bytes_newtype!(
    /// The 32 bytes of a Nostr key used as a name: compared, never computed with. Parsing one does not
    /// look for the point, which for lists of a hundred keys is most of the cost. Text: lower-case hex.
    KeyName, 32, to_hex, array_from_hex
);

impl From<NostrKey> for KeyName {
    fn from(key: NostrKey) -> Self {
        Self::from_bytes(key.to_bytes())
    }
}

/// Why a text or bytes are not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseKeyError {
    /// Not 64 lower-case hex digits.
    #[error("a public key is 64 lower-case hex digits")]
    Encoding,
    /// The x coordinate is of no point on secp256k1.
    #[error("no point of secp256k1 has this x coordinate")]
    NotOnCurve,
}

impl NostrKey {
    /// Wraps a parsed x-only key.
    #[must_use]
    pub const fn new(key: XOnlyPublicKey) -> Self {
        Self(key)
    }

    /// Parses 32 bytes of x coordinate.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, ParseKeyError> {
        XOnlyPublicKey::from_slice(bytes)
            .map(Self)
            .map_err(|_| ParseKeyError::NotOnCurve)
    }

    /// The 32 bytes of the x coordinate.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        self.0.serialize()
    }

    /// The x-only key.
    #[must_use]
    pub const fn x_only(self) -> XOnlyPublicKey {
        self.0
    }

    /// The point with even Y, as MuSig2 uses it: `02 ‖ x`.
    #[must_use]
    pub fn even_point(self) -> PublicKey {
        PublicKey::from_x_only_public_key(self.0, Parity::Even)
    }

    /// Whether `signature` is this key's BIP-340 signature of the 32-byte `digest`.
    #[must_use]
    pub fn verifies(self, digest: &[u8; 32], signature: &SchnorrSignature) -> bool {
        let Ok(signature) = schnorr::Signature::from_slice(signature.as_bytes()) else {
            return false;
        };
        let message = secp256k1::Message::from_digest(*digest);
        secp256k1::SECP256K1
            .verify_schnorr(&signature, &message, &self.0)
            .is_ok()
    }

    /// The first eight hex digits, for people.
    #[must_use]
    pub fn short(self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for NostrKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.to_bytes()))
    }
}

impl fmt::Debug for NostrKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NostrKey({self})")
    }
}

impl FromStr for NostrKey {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = array_from_hex(text).map_err(|_| ParseKeyError::Encoding)?;
        Self::from_bytes(&bytes)
    }
}

impl serde::Serialize for NostrKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for NostrKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
