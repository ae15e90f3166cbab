//! The form in which a path travels between aggregator and member: `collapsed` and `hashes` of
//! spec.md §2.6, without what the member knows itself (root, nonce, update).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{LEVELS, SmtPath};
use crate::hash::{array_from_base64url, to_base64url};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    /// base64url, 32 bytes.
    collapsed: String,
    /// base64url, 32 bytes each, leaf to root.
    hashes: Vec<String>,
}

impl Serialize for SmtPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire {
            collapsed: to_base64url(&self.collapsed),
            hashes: self.hashes.iter().map(|hash| to_base64url(hash)).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SmtPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        if wire.hashes.len() > LEVELS {
            return Err(de::Error::custom("more hashes than the tree has levels"));
        }
        Ok(Self {
            collapsed: array_from_base64url(&wire.collapsed).map_err(de::Error::custom)?,
            hashes: wire
                .hashes
                .iter()
                .map(|hash| array_from_base64url(hash))
                .collect::<Result<_, _>>()
                .map_err(de::Error::custom)?,
        })
    }
}
