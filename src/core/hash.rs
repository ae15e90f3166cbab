//! 32-byte values, one newtype per meaning and encoding.
//!
//! The did:btcr2 specification writes 32-byte hashes in JSON as base64url without padding and puts
//! the raw bytes on chain; Nostr and Bitcoin write hex. A value that was parsed once is never a
//! string again, and a leaf can not be passed where an update hash is wanted.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bitcoin::hex::{DisplayHex as _, FromHex as _};
use sha2::{Digest as _, Sha256};

/// Why a text is not the 32-byte value it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseHashError {
    /// Not base64url without padding (RFC 4648 §5), or its unused bits are not zero.
    #[error("not base64url without padding")]
    NotBase64Url,
    /// Not lower-case hexadecimal.
    #[error("not lower-case hexadecimal")]
    NotHex,
    /// The text decodes, to another number of bytes.
    #[error("{0} bytes instead of {1}")]
    WrongLength(usize, usize),
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// BIP-340 tagged hash: `SHA-256(SHA-256(tag) ‖ SHA-256(tag) ‖ part₀ ‖ part₁ ‖ …)`.
#[must_use]
pub fn tagged_hash(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag = sha256(tag.as_bytes());
    let mut hasher = Sha256::new();
    hasher.update(tag);
    hasher.update(tag);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Encodes bytes as base64url without padding.
#[must_use]
pub fn to_base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64url without padding; refuses padding, foreign characters and non-zero pad bits.
pub fn from_base64url(text: &str) -> Result<Vec<u8>, ParseHashError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| ParseHashError::NotBase64Url)
}

/// Decodes exactly `N` bytes of base64url without padding.
pub fn array_from_base64url<const N: usize>(text: &str) -> Result<[u8; N], ParseHashError> {
    let bytes = from_base64url(text)?;
    let length = bytes.len();
    bytes
        .try_into()
        .map_err(|_| ParseHashError::WrongLength(length, N))
}

/// Encodes bytes as lower-case hexadecimal.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.to_lower_hex_string()
}

/// Decodes exactly `N` bytes of lower-case hexadecimal.
pub fn array_from_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseHashError> {
    let bytes = from_hex(text)?;
    let length = bytes.len();
    bytes
        .try_into()
        .map_err(|_| ParseHashError::WrongLength(length, N))
}

/// Decodes lower-case hexadecimal of any even length.
pub fn from_hex(text: &str) -> Result<Vec<u8>, ParseHashError> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ParseHashError::NotHex);
    }
    Vec::<u8>::from_hex(text).map_err(|_| ParseHashError::NotHex)
}

/// Defines a fixed-size byte newtype whose text form (Display, FromStr, serde) is one encoding.
macro_rules! bytes_newtype {
    ($(#[$doc:meta])* $name:ident, $len:literal, $encode:path, $decode:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The raw bytes, by value.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; $len] {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&$encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::hash::ParseHashError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $decode(text).map(Self)
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
pub(crate) use bytes_newtype;

bytes_newtype!(
    /// SHA-256 of an aggregator's terms of service. Text: lower-case hex.
    TosHash, 32, to_hex, array_from_hex
);

bytes_newtype!(
    /// JSON document hash: SHA-256 of the RFC 8785 form (spec.md §3.1). Text: base64url.
    DocumentHash, 32, to_base64url, array_from_base64url
);
bytes_newtype!(
    /// Hash of a *signed* update, proof included: what a beacon announces (spec.md §3.1). Text: base64url.
    UpdateHash, 32, to_base64url, array_from_base64url
);
bytes_newtype!(
    /// The 32 bytes of a beacon signal: an SMT root or the hash of a CAS announcement (spec.md §4).
    /// Text: lower-case hex, as in the transaction.
    SignalBytes, 32, to_hex, array_from_hex
);
bytes_newtype!(
    /// Index of a DID in the sparse Merkle tree: `SHA-256(utf8(DID))` (spec.md §5). Text: base64url.
    SmtIndex, 32, to_base64url, array_from_base64url
);
bytes_newtype!(
    /// Value of a leaf of the sparse Merkle tree, by leaf mode (spec.md §5). Text: base64url.
    LeafValue, 32, to_base64url, array_from_base64url
);
bytes_newtype!(
    /// Secret SMT nonce of one DID in one round. Kept for the life of the DID; it is disclosed only to
    /// those who get the proof. Text: base64url.
    SmtNonce, 32, to_base64url, array_from_base64url
);
bytes_newtype!(
    /// Identity of a cohort: SHA-256 of its canonical terms (DESIGN §4). Text: lower-case hex.
    CohortId, 32, to_hex, array_from_hex
);
bytes_newtype!(
    /// A BIP-340 signature. Text: lower-case hex.
    SchnorrSignature, 64, to_hex, array_from_hex
);

impl CohortId {
    /// The first eight hex digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

/// Prints bytes as hex in Debug output of types that hold public byte strings.
pub struct HexDebug<'a>(pub &'a [u8]);

impl fmt::Debug for HexDebug<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tagged_hash_known_answer() {
        // Computed independently: SHA-256(SHA-256("TapTweak") twice), the tag of BIP-341.
        assert_eq!(
            to_hex(&tagged_hash("TapTweak", &[])),
            "8aa4229474ab0100b2d6f0687f031d1fc9d8eef92a042ad97d279bff456b15e4"
        );
    }

    #[test]
    fn base64url_is_strict() {
        let good = to_base64url(&[0xff; 32]);
        assert_eq!(good.len(), 43);
        assert_eq!(array_from_base64url::<32>(&good), Ok([0xff; 32]));
        assert_eq!(
            array_from_base64url::<32>(&format!("{good}=")),
            Err(ParseHashError::NotBase64Url)
        );
        // The last character of 43 carries two pad bits; '9' sets one of them.
        let mut bad = good.clone();
        bad.pop();
        bad.push('9');
        assert_eq!(
            array_from_base64url::<32>(&bad),
            Err(ParseHashError::NotBase64Url)
        );
        assert_eq!(
            array_from_base64url::<32>("AA"),
            Err(ParseHashError::WrongLength(1, 32))
        );
    }

    #[test]
    fn hex_refuses_upper_case() {
        assert_eq!(from_hex("AB"), Err(ParseHashError::NotHex));
        assert_eq!(from_hex("ab").unwrap(), vec![0xab]);
    }
}
