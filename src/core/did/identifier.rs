//! The identifier: `did:btcr2:` and a bech32m string (spec.md §1.1, §1.2).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use bech32::primitives::decode::UncheckedHrpstring;
use bech32::{Bech32m, Hrp};
use secp256k1::PublicKey;

use super::error::{ErrorCode, Rule};
use crate::hash::{DocumentHash, SmtIndex, sha256};
use crate::network::Network;

/// What every did:btcr2 identifier starts with.
pub const PREFIX: &str = "did:btcr2:";

/// Length of the longest identifier: prefix, `k1`, 55 groups of data, 6 of checksum.
const MAX_LEN: usize = 73;
const HRP_KEY: Hrp = Hrp::parse_unchecked("k");
const HRP_EXTERNAL: Hrp = Hrp::parse_unchecked("x");

/// A valid did:btcr2 identifier of a known network.
///
/// It is equal, ordered and hashed as its text, so that a sorted map of identifiers has the order of
/// RFC 8785. Cloning copies a pointer and the decoded parts. Text (Display, FromStr, serde): the DID.
#[derive(Clone)]
pub struct Did {
    text: Arc<str>,
    network: Network,
    kind: IdKind,
}

/// What an identifier commits to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// `k1…`: a public key, from which the initial document is derived.
    Key(PublicKey),
    /// `x1…`: the hash of a genesis document, which has to be supplied.
    External(DocumentHash),
}

/// Why a text is not a did:btcr2 identifier this program accepts. The code is always INVALID_DID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDid {
    /// Upper-case letters; bech32 allows them, did:btcr2 does not.
    #[error("the DID contains upper-case letters; write it in lower case")]
    UpperCase,
    /// Another method, or no DID at all.
    #[error("the DID does not start with {PREFIX:?}")]
    Prefix,
    /// Longer or shorter than any identifier.
    #[error("the DID has {0} characters; an identifier with k1 has 73 and one with x1 has 71")]
    TextLength(usize),
    /// Not human-readable part, `1`, and bech32 characters.
    #[error("the DID is not bech32: a character does not belong there")]
    Characters,
    /// The bech32m checksum fails; also for a bech32 (not m) checksum.
    #[error("the DID's checksum is wrong: a character was mistyped or lost")]
    Checksum,
    /// Neither `k` nor `x`.
    #[error("the DID's identifier starts with {0:?} instead of k1 or x1")]
    UnknownKind(String),
    /// More than four padding bits, or some that are not zero.
    #[error("the DID's padding bits are not zero")]
    Padding,
    /// The version nibble is not zero (version 1).
    #[error("the DID is of version {0}; only version 1 is known")]
    Version(u8),
    /// A network number nobody has assigned.
    #[error("the DID's network number {0} is reserved")]
    ReservedNetwork(u8),
    /// A network number for private use.
    #[error("the DID's network number {0} is a custom network, which is not configured")]
    CustomNetwork(u8),
    /// Not 33 bytes (`k`) or 32 bytes (`x`) after the first.
    #[error("the DID carries {found} genesis bytes instead of {expected}")]
    GenesisLength {
        /// Bytes of this kind of identifier.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The 33 bytes are no compressed public key.
    #[error("the DID's key is not a compressed point of secp256k1")]
    Key,
    /// Encoding what was decoded gives another text.
    #[error("the DID is not in its canonical form")]
    NotCanonical,
}

impl InvalidDid {
    /// The error code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::InvalidDid
    }

    /// The rule, where the upstream vectors have one.
    #[must_use]
    pub const fn rule(&self) -> Option<Rule> {
        match self {
            Self::Checksum => Some(Rule::DidChecksumInvalid),
            Self::Padding => Some(Rule::DidPaddingNonzero),
            Self::ReservedNetwork(_) => Some(Rule::DidNetworkReserved),
            _ => None,
        }
    }
}

impl Did {
    /// The `k1` identifier of a public key, of either parity.
    #[must_use]
    pub fn from_key(network: Network, key: &PublicKey) -> Self {
        Self::from_kind(network, IdKind::Key(*key))
    }

    /// The `x1` identifier of a genesis document's hash.
    #[must_use]
    pub fn from_genesis(network: Network, hash: DocumentHash) -> Self {
        Self::from_kind(network, IdKind::External(hash))
    }

    fn from_kind(network: Network, kind: IdKind) -> Self {
        Self {
            text: encode(network, &kind).into(),
            network,
            kind,
        }
    }

    /// The identifier's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The network it lives on.
    #[must_use]
    pub const fn network(&self) -> Network {
        self.network
    }

    /// What it commits to.
    #[must_use]
    pub const fn kind(&self) -> IdKind {
        self.kind
    }

    /// Its index in a sparse Merkle tree: SHA-256 of the text (spec.md §5).
    #[must_use]
    pub fn smt_index(&self) -> SmtIndex {
        SmtIndex::from_bytes(sha256(self.text.as_bytes()))
    }
}

fn encode(network: Network, kind: &IdKind) -> String {
    // Version 1 is 0 in the high nibble; the network number is the low nibble.
    let mut data = Vec::with_capacity(34);
    data.push(network.number());
    let hrp = match kind {
        IdKind::Key(key) => {
            data.extend_from_slice(&key.serialize());
            HRP_KEY
        }
        IdKind::External(hash) => {
            data.extend_from_slice(hash.as_bytes());
            HRP_EXTERNAL
        }
    };
    #[allow(clippy::expect_used)]
    let encoded = bech32::encode_lower::<Bech32m>(hrp, &data)
        .expect("63 characters are within bech32m's length limit");
    format!("{PREFIX}{encoded}")
}

impl FromStr for Did {
    type Err = InvalidDid;

    fn from_str(text: &str) -> Result<Self, InvalidDid> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidDid::UpperCase);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidDid::Prefix)?;
        if text.len() > MAX_LEN {
            return Err(InvalidDid::TextLength(text.len()));
        }
        let unchecked = UncheckedHrpstring::new(encoded).map_err(|_| InvalidDid::Characters)?;
        if !unchecked.has_valid_checksum::<Bech32m>() {
            return Err(InvalidDid::Checksum);
        }
        let checked = unchecked.remove_checksum::<Bech32m>();
        let hrp = checked.hrp();
        if hrp != HRP_KEY && hrp != HRP_EXTERNAL {
            return Err(InvalidDid::UnknownKind(hrp.to_lowercase()));
        }
        checked
            .validate_segwit_padding()
            .map_err(|_| InvalidDid::Padding)?;

        let data: Vec<u8> = checked.byte_iter().collect();
        let Some((&first, genesis)) = data.split_first() else {
            return Err(InvalidDid::TextLength(text.len()));
        };
        let (version, number) = (first >> 4, first & 0x0f);
        if version != 0 {
            return Err(InvalidDid::Version(version + 1));
        }
        let network = Network::from_number(number).ok_or(match number {
            12..=15 => InvalidDid::CustomNetwork(number),
            _ => InvalidDid::ReservedNetwork(number),
        })?;
        let length = |expected| InvalidDid::GenesisLength {
            expected,
            found: genesis.len(),
        };
        let kind = if hrp == HRP_KEY {
            let bytes: [u8; 33] = genesis.try_into().map_err(|_| length(33))?;
            IdKind::Key(PublicKey::from_slice(&bytes).map_err(|_| InvalidDid::Key)?)
        } else {
            let bytes: [u8; 32] = genesis.try_into().map_err(|_| length(32))?;
            IdKind::External(DocumentHash::from_bytes(bytes))
        };
        let did = Self::from_kind(network, kind);
        if did.as_str() == text {
            Ok(did)
        } else {
            Err(InvalidDid::NotCanonical)
        }
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Did({})", self.text)
    }
}

impl AsRef<str> for Did {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Did {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Did {}

impl PartialOrd for Did {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Did {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Did {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl serde::Serialize for Did {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Did {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
