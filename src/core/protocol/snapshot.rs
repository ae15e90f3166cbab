//! State as JSON: how the two machines are written down whole, so that a log need not be replayed from its beginning.
//!
//! [`Aggregator`](super::aggregator::Aggregator) and [`Participant`](super::participant::Participant) are `Serialize` and
//! `Deserialize`, field by field. Nothing secret is in them. What can be computed from the rest (the aggregated keys) is
//! not written but made again. Who stores a snapshot says [`FORMAT`] with it: a machine reads its own format and
//! nothing newer.
//!
//! The format lives as long as the stores do, because the log before a snapshot is deleted. So a new field gets
//! `#[serde(default)]`, and what can not be read any more gets another number and code that reads the old one;
//! `tests/vectors/snapshots/` has one of every format, which must stay readable.

/// The number of the format in which this program writes.
pub const FORMAT: u32 = 1;

/// A set with its aggregated keys: the set, and the root of the output's script tree. The rest is computed.
pub(super) mod agreed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::hash::{array_from_hex, to_hex};
    use crate::keys::musig::KeySet;
    use crate::protocol::set::CohortSet;

    #[derive(Serialize)]
    struct Written<'a> {
        set: &'a CohortSet,
        script_root: Option<String>,
    }

    #[derive(Deserialize)]
    struct Read {
        set: CohortSet,
        script_root: Option<String>,
    }

    pub fn serialize<S: Serializer>(
        agreed: &Option<(CohortSet, KeySet)>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        let written = agreed.as_ref().map(|(set, keys)| Written {
            set,
            script_root: keys.script_root().map(|root| to_hex(&root)),
        });
        written.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<(CohortSet, KeySet)>, D::Error> {
        let Some(read) = Option::<Read>::deserialize(d)? else {
            return Ok(None);
        };
        let root = match read.script_root {
            Some(root) => Some(array_from_hex(&root).map_err(serde::de::Error::custom)?),
            None => None,
        };
        let keys = KeySet::with_script_root(&read.set.keys, root);
        let keys = keys.map_err(serde::de::Error::custom)?;
        Ok(Some((read.set, keys)))
    }
}

/// A transaction, if there is one, as consensus-serialised hex.
pub(super) mod maybe_tx {
    use bitcoin::Transaction;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::protocol::message::TxHex;

    pub fn serialize<S: Serializer>(tx: &Option<Transaction>, s: S) -> Result<S::Ok, S::Error> {
        let hex = tx.as_ref().map(bitcoin::consensus::encode::serialize_hex);
        hex.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Transaction>, D::Error> {
        Ok(Option::<TxHex>::deserialize(d)?.map(|tx| tx.0))
    }
}

/// Digests, as one text of hex.
pub(super) mod digests {
    use std::collections::{BTreeSet, VecDeque};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::hash::{from_hex, to_hex};

    pub fn serialize<S: Serializer>(
        sets: &VecDeque<BTreeSet<[u8; 32]>>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = sets
            .iter()
            .map(|set| to_hex(&set.iter().flatten().copied().collect::<Vec<u8>>()))
            .collect();
        texts.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<VecDeque<BTreeSet<[u8; 32]>>, D::Error> {
        let read = |text: String| {
            let bytes = from_hex(&text).map_err(serde::de::Error::custom)?;
            let (digests, rest) = bytes.as_chunks::<32>();
            if !rest.is_empty() {
                return Err(serde::de::Error::custom("digests are 32 bytes each"));
            }
            Ok(digests.iter().copied().collect())
        };
        let texts = Vec::<String>::deserialize(d)?;
        texts.into_iter().map(read).collect()
    }
}
