//! Messages larger than one plaintext travel as numbered chunks under one SHA-256 (DESIGN §4).
//!
//! A chunk is a message of type [`CHUNK`] with its own number on the lane. The bytes that are cut are the
//! JSON of the whole [`Message`]. Every chunk but the last carries exactly [`CHUNK_BYTES`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::envelope::{EnvelopeFault, Message};
use super::lanes::LaneId;
use crate::hash::{array_from_hex, bytes_newtype, from_base64url, sha256, to_base64url, to_hex};

/// The type of a chunk.
pub const CHUNK: &str = "chunk";

/// The largest message that travels whole, in bytes of JSON: what is left of a plaintext beside the
/// envelope and some forty acknowledgements.
pub const MAX_WHOLE: usize = 36_864;

/// Bytes in a chunk: 4/3 of it in base64url, and the rest of the chunk's body, are below [`MAX_WHOLE`].
pub const CHUNK_BYTES: usize = 27_000;

/// The largest message at all, in bytes of JSON: 4 MiB.
pub const MAX_TOTAL: usize = 4 * 1024 * 1024;

/// Unfinished messages kept per lane; the oldest makes room.
pub const MAX_PARALLEL: usize = 4;

const MAX_COUNT: usize = MAX_TOTAL.div_ceil(CHUNK_BYTES);

bytes_newtype!(
    /// SHA-256 of a chunked message's JSON. Text: lower-case hex.
    PayloadHash, 32, to_hex, array_from_hex
);

/// One piece of a large message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// SHA-256 of all pieces joined.
    pub sha256: PayloadHash,
    /// Position, from 0.
    pub index: u16,
    /// Number of pieces, at least 2.
    pub count: u16,
    /// The piece, base64url.
    pub data: String,
}

/// Joins chunks, per lane. Its state is saved with the lanes: a chunk that was acknowledged is not sent
/// again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Assembler {
    #[serde(with = "as_pairs")]
    lanes: BTreeMap<LaneId, Vec<Unfinished>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Unfinished {
    sha256: PayloadHash,
    pieces: Vec<Option<String>>,
}

/// Why a chunk is refused. Each is the sender's doing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkFault {
    /// The message to cut is larger than [`MAX_TOTAL`].
    #[error("the message has {0} bytes, more than the {MAX_TOTAL} allowed")]
    TooLarge(usize),
    /// `index` and `count` do not fit each other, earlier chunks, or the limits.
    #[error("the chunk's number does not fit")]
    Number,
    /// The data is not base64url or not of the length its position demands.
    #[error("the chunk's data is not {CHUNK_BYTES} bytes of base64url")]
    Data,
    /// The joined pieces have another hash.
    #[error("the chunks do not have the announced SHA-256")]
    Hash,
    /// The joined pieces are no message.
    #[error(transparent)]
    Message(#[from] EnvelopeFault),
}

/// Cuts a message if it has to be: returns it as it is, or its chunks in order.
pub fn split(message: Message) -> Result<Vec<Message>, ChunkFault> {
    let json = message.to_json()?;
    if json.len() <= MAX_WHOLE {
        return Ok(vec![message]);
    }
    if json.len() > MAX_TOTAL {
        return Err(ChunkFault::TooLarge(json.len()));
    }
    let hash = PayloadHash::from_bytes(sha256(json.as_bytes()));
    let pieces: Vec<&[u8]> = json.as_bytes().chunks(CHUNK_BYTES).collect();
    let count = u16::try_from(pieces.len()).map_err(|_| ChunkFault::TooLarge(json.len()))?;
    pieces
        .into_iter()
        .zip(0u16..)
        .map(|(piece, index)| {
            let chunk = Chunk {
                sha256: hash,
                index,
                count,
                data: to_base64url(piece),
            };
            Ok(Message::new(CHUNK, &chunk)?)
        })
        .collect()
}

impl Assembler {
    /// Takes a message off a lane: a whole one comes back at once, the last missing chunk brings the
    /// message it completes, any other chunk brings nothing yet.
    pub fn accept(
        &mut self,
        lane: LaneId,
        message: Message,
    ) -> Result<Option<Message>, ChunkFault> {
        if message.kind != CHUNK {
            return Ok(Some(message));
        }
        let chunk: Chunk = message.body()?;
        let (index, count) = (usize::from(chunk.index), usize::from(chunk.count));
        if !(2..=MAX_COUNT).contains(&count) || index >= count {
            return Err(ChunkFault::Number);
        }
        let length = from_base64url(&chunk.data)
            .map_err(|_| ChunkFault::Data)?
            .len();
        let last = index + 1 == count;
        if length == 0 || length > CHUNK_BYTES || (!last && length != CHUNK_BYTES) {
            return Err(ChunkFault::Data);
        }
        let unfinished = self.lanes.entry(lane).or_default();
        let at = match unfinished.iter().position(|u| u.sha256 == chunk.sha256) {
            Some(at) => at,
            None => {
                if unfinished.len() == MAX_PARALLEL {
                    unfinished.remove(0);
                }
                unfinished.push(Unfinished {
                    sha256: chunk.sha256,
                    pieces: vec![None; count],
                });
                unfinished.len() - 1
            }
        };
        let Some(entry) = unfinished.get_mut(at) else {
            return Ok(None);
        };
        if entry.pieces.len() != count {
            return Err(ChunkFault::Number);
        }
        if let Some(piece) = entry.pieces.get_mut(index) {
            *piece = Some(chunk.data);
        }
        if entry.pieces.iter().any(Option::is_none) {
            return Ok(None);
        }
        let done = unfinished.remove(at);
        if unfinished.is_empty() {
            self.lanes.remove(&lane);
        }
        join(&done).map(Some)
    }

    /// Forgets what a lane left unfinished, when its incarnation or its cohort ended.
    pub fn forget(&mut self, lane: &LaneId) {
        self.lanes.remove(lane);
    }
}

fn join(done: &Unfinished) -> Result<Message, ChunkFault> {
    let mut bytes = Vec::new();
    for piece in done.pieces.iter().flatten() {
        bytes.extend(from_base64url(piece).map_err(|_| ChunkFault::Data)?);
    }
    if sha256(&bytes) != done.sha256.to_bytes() {
        return Err(ChunkFault::Hash);
    }
    Ok(Message::from_json(&bytes)?)
}

/// JSON has no maps with structured keys: written as an array of pairs.
pub(super) mod as_pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::CohortId;
    use crate::keys::OwnKey;
    use crate::nostr::envelope::{Envelope, Incarnation};
    use proptest::prelude::*;

    fn lane(author: u8) -> LaneId {
        LaneId {
            author: OwnKey::from_bytes(&[author; 32]).unwrap().public(),
            recipient: OwnKey::from_bytes(&[99; 32]).unwrap().public(),
            cohort: CohortId::from_bytes([1; 32]),
        }
    }

    fn large(bytes: usize, fill: &str) -> Message {
        Message::new("CohortSet", &fill.repeat(bytes)).unwrap()
    }

    #[test]
    fn small_messages_travel_whole() {
        let pieces = split(large(30_000, "a")).unwrap();
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].kind, "CohortSet");
    }

    #[test]
    fn every_chunk_fits_an_envelope() {
        for piece in split(large(100_000, "\u{e9}")).unwrap() {
            assert_eq!(piece.kind, CHUNK);
            let cohort = CohortId::from_bytes([1; 32]);
            let mut envelope =
                Envelope::new(cohort, Incarnation(u64::MAX), u64::MAX, vec![], piece);
            assert!(envelope.encode().unwrap().len() <= MAX_WHOLE + 512);
        }
    }

    #[test]
    fn limits_hold() {
        assert!(matches!(
            split(large(MAX_TOTAL, "a")),
            Err(ChunkFault::TooLarge(_))
        ));
        let mut assembler = Assembler::default();
        let chunk = |index, count, bytes: usize| {
            let chunk = Chunk {
                sha256: PayloadHash::from_bytes([3; 32]),
                index,
                count,
                data: to_base64url(&vec![0; bytes]),
            };
            Message::new(CHUNK, &chunk).unwrap()
        };
        for (index, count, bytes, fault) in [
            (0, 1, 10, ChunkFault::Number),
            (2, 2, 10, ChunkFault::Number),
            (0, 9_999, CHUNK_BYTES, ChunkFault::Number),
            (0, 2, CHUNK_BYTES - 1, ChunkFault::Data),
            (1, 2, CHUNK_BYTES + 1, ChunkFault::Data),
            (1, 2, 0, ChunkFault::Data),
        ] {
            let result = assembler.accept(lane(1), chunk(index, count, bytes));
            assert_eq!(result.unwrap_err(), fault);
        }
        assembler.accept(lane(1), chunk(0, 3, CHUNK_BYTES)).unwrap();
        assert_eq!(
            assembler.accept(lane(1), chunk(1, 2, 5)).unwrap_err(),
            ChunkFault::Number,
            "the count of a message does not change"
        );
        assembler.accept(lane(1), chunk(1, 3, CHUNK_BYTES)).unwrap();
        assert_eq!(
            assembler.accept(lane(1), chunk(2, 3, 5)).unwrap_err(),
            ChunkFault::Hash
        );
    }

    #[test]
    fn the_oldest_unfinished_message_makes_room_and_lanes_are_apart() {
        let messages: Vec<_> = (0..5u8)
            .map(|i| split(large(40_000, &char::from(b'a' + i).to_string())).unwrap())
            .collect();
        let mut assembler = Assembler::default();
        for message in &messages {
            assembler.accept(lane(1), message[0].clone()).unwrap();
        }
        assembler.accept(lane(2), messages[0][0].clone()).unwrap();
        let finish = |assembler: &mut Assembler, author, message: &[Message]| {
            assembler.accept(lane(author), message[1].clone()).unwrap()
        };
        assert!(finish(&mut assembler, 1, &messages[4]).is_some());
        assert!(finish(&mut assembler, 2, &messages[0]).is_some());
        assert!(
            finish(&mut assembler, 1, &messages[0]).is_none(),
            "its first chunk had to make room"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_order_and_repetition_joins_once(
            seed in proptest::collection::vec(any::<prop::sample::Index>(), 12),
            bytes in 40_000usize..150_000,
        ) {
            let message = large(bytes, "z");
            let mut pieces = split(message.clone()).unwrap();
            for (i, index) in seed.iter().enumerate() {
                let at = i % pieces.len();
                let with = index.index(pieces.len());
                pieces.swap(at, with);
            }
            let mut assembler = Assembler::default();
            let mut joined = Vec::new();
            let last = pieces.len() - 1;
            for (i, piece) in pieces.into_iter().enumerate() {
                // A restart between any two chunks loses nothing.
                let saved = serde_json::to_string(&assembler).unwrap();
                assembler = serde_json::from_str(&saved).unwrap();
                if i < last {
                    prop_assert!(assembler.accept(lane(1), piece.clone()).unwrap().is_none());
                }
                joined.extend(assembler.accept(lane(1), piece).unwrap());
            }
            prop_assert_eq!(joined.len(), 1);
            prop_assert_eq!(joined[0].body.get(), message.body.get());
            prop_assert!(assembler.lanes.is_empty());
        }
    }
}
