//! Answers to history requests, out of what the aggregator kept (DESIGN §5 "History").
//!
//! An aggregator keeps the leaf set or the announcement of every round that reached a signing request,
//! and proves *any* index from it: one that was never registered is proved empty.

use super::effect::Artifact;
use super::ids::Round;
use super::message::{History, HistoryItem, HistoryRequest};
use crate::beacon::smt::{EMPTY_LEAF, SmtTree};

/// The most bytes the items of one answer should have: what is left of a message of 40 960 bytes after
/// the envelope.
pub const MAX_ANSWER_BYTES: usize = 36_864;

/// The most leaves that are hashed for one answer: a round is a whole tree to build, and nobody else is served
/// meanwhile.
pub const MAX_ANSWER_LEAVES: usize = 20_000;

/// Answers `request` out of `artifacts`, which may be in any order and of any kind and round.
///
/// Items are added, oldest round first, while their JSON stays within `max_bytes`; one item is given in any
/// case, so that the asker always gets further. `next` names the first round left out.
#[must_use]
pub fn answer<'a>(
    request: &HistoryRequest,
    artifacts: impl IntoIterator<Item = &'a Artifact>,
    max_bytes: usize,
) -> History {
    let mut kept: Vec<(Round, &Artifact)> = artifacts
        .into_iter()
        .filter_map(|artifact| Some((signed_round(artifact)?, artifact)))
        .collect();
    kept.sort_by_key(|(round, _)| *round);
    let mut answer = Answer::new(request, max_bytes);
    for (_, artifact) in kept {
        if !answer.add(artifact) {
            break;
        }
    }
    answer.finish()
}

/// An answer in the making: artifacts are given oldest round first, until it has enough.
#[derive(Debug)]
pub struct Answer<'r> {
    request: &'r HistoryRequest,
    max_bytes: usize,
    items: Vec<HistoryItem>,
    bytes: usize,
    leaves: usize,
    last: Option<Round>,
    next: Option<Round>,
}

impl<'r> Answer<'r> {
    /// An answer whose items have at most `max_bytes`, unless the first alone has more.
    #[must_use]
    pub const fn new(request: &'r HistoryRequest, max_bytes: usize) -> Self {
        Self {
            request,
            max_bytes,
            items: Vec::new(),
            bytes: 0,
            leaves: 0,
            last: None,
            next: None,
        }
    }

    /// Adds what an artifact says, if anything; false once the answer is full.
    pub fn add(&mut self, artifact: &Artifact) -> bool {
        let Some(round) = signed_round(artifact) else {
            return true;
        };
        if round < self.request.from_round || self.last == Some(round) {
            return true;
        }
        if self.next.is_some() {
            return false;
        }
        let leaves = match artifact {
            Artifact::LeafSet { leaves, .. } => leaves.len(),
            _ => 0,
        };
        self.leaves = self.leaves.saturating_add(leaves);
        let full = self.leaves > MAX_ANSWER_LEAVES && !self.items.is_empty();
        let item = if full {
            None
        } else {
            item(self.request, artifact)
        };
        if let Some(item) = item {
            let size = serde_json::to_vec(&item).map_or(usize::MAX, |json| json.len());
            self.bytes = self.bytes.saturating_add(size);
            if self.bytes <= self.max_bytes || self.items.is_empty() {
                self.items.push(item);
                self.last = Some(round);
                return true;
            }
        } else if !full {
            return true;
        }
        self.next = Some(round);
        false
    }

    /// The answer.
    #[must_use]
    pub fn finish(self) -> History {
        History {
            index: self.request.index,
            items: self.items,
            next: self.next,
        }
    }
}

/// The round an artifact can prove an index in, if it is of that kind.
const fn signed_round(artifact: &Artifact) -> Option<Round> {
    match artifact {
        Artifact::LeafSet { round, .. } | Artifact::Announcement { round, .. } => Some(*round),
        Artifact::SmtProof { .. }
        | Artifact::Deposit { .. }
        | Artifact::Refund { .. }
        | Artifact::SignedTransaction { .. } => None,
    }
}

fn item(request: &HistoryRequest, artifact: &Artifact) -> Option<HistoryItem> {
    match artifact {
        Artifact::LeafSet {
            round,
            signal,
            txid,
            leaves,
        } => {
            // A kept leaf set was a tree once; one that is none any more was damaged in the store, and
            // nothing can be proved from it.
            let tree = SmtTree::new(leaves.iter().copied()).ok()?;
            let leaf = tree.value_at(&request.index);
            Some(HistoryItem {
                round: *round,
                signal: *signal,
                txid: *txid,
                path: Some(tree.prove(&request.index)),
                leaf: (leaf != EMPTY_LEAF).then_some(leaf),
                announcement: None,
            })
        }
        Artifact::Announcement {
            round,
            signal,
            txid,
            announcement,
        } => Some(HistoryItem {
            round: *round,
            signal: *signal,
            txid: *txid,
            path: None,
            leaf: None,
            announcement: Some(announcement.clone()),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{LeafValue, SignalBytes, SmtIndex};
    use bitcoin::Txid;
    use bitcoin::hashes::Hash as _;

    fn leaf_set(round: u32, leaves: &[(u8, u8)]) -> Artifact {
        let leaves: Vec<_> = leaves
            .iter()
            .map(|(index, value)| {
                (
                    SmtIndex::from_bytes([*index; 32]),
                    LeafValue::from_bytes([*value; 32]),
                )
            })
            .collect();
        Artifact::LeafSet {
            round: Round(round),
            signal: SmtTree::new(leaves.iter().copied()).unwrap().root(),
            txid: Txid::from_byte_array([1; 32]),
            leaves,
        }
    }

    fn announcement(round: u32, text: &str) -> Artifact {
        Artifact::Announcement {
            round: Round(round),
            signal: SignalBytes::from_bytes(crate::hash::sha256(text.as_bytes())),
            txid: Txid::from_byte_array([2; 32]),
            announcement: text.into(),
        }
    }

    fn request(index: u8, from_round: u32) -> HistoryRequest {
        HistoryRequest {
            index: SmtIndex::from_bytes([index; 32]),
            from_round: Round(from_round),
        }
    }

    #[test]
    fn an_index_is_proved_in_every_round_whether_it_had_a_leaf_or_not() {
        // Out of order, as a store may give them.
        let kept = [
            leaf_set(3, &[]),
            leaf_set(1, &[(1, 9), (2, 8)]),
            leaf_set(2, &[(2, 7)]),
        ];
        let history = answer(&request(1, 1), &kept, MAX_ANSWER_BYTES);
        assert_eq!(history.next, None);
        let rounds: Vec<u32> = history.items.iter().map(|item| item.round.0).collect();
        assert_eq!(rounds, [1, 2, 3]);
        let leaves: Vec<_> = history.items.iter().map(|item| item.leaf).collect();
        assert_eq!(
            leaves,
            [Some(LeafValue::from_bytes([9; 32])), None, None],
            "only round 1 had a leaf at this index"
        );
        for item in &history.items {
            let value = item.leaf.unwrap_or(EMPTY_LEAF);
            item.path
                .as_ref()
                .unwrap()
                .verify_leaf_value(&history.index, &value, &item.signal)
                .unwrap();
        }
    }

    #[test]
    fn rounds_before_the_one_asked_for_and_other_artifacts_are_left_out() {
        let kept = [
            announcement(1, "{}"),
            announcement(2, r#"{"did":"x"}"#),
            Artifact::SignedTransaction {
                round: Round(2),
                signal: SignalBytes::from_bytes([0; 32]),
                tx: bitcoin::Transaction {
                    version: bitcoin::transaction::Version::TWO,
                    lock_time: bitcoin::absolute::LockTime::ZERO,
                    input: Vec::new(),
                    output: Vec::new(),
                },
            },
        ];
        let history = answer(&request(1, 2), &kept, MAX_ANSWER_BYTES);
        assert_eq!(history.items.len(), 1);
        assert_eq!(history.items[0].round, Round(2));
        assert_eq!(
            history.items[0].announcement.as_deref(),
            Some(r#"{"did":"x"}"#)
        );
        assert!(history.items[0].path.is_none());
    }

    #[test]
    fn long_answers_are_cut_and_continued_and_every_round_comes_once() {
        let kept: Vec<_> = (1..=7).map(|round| announcement(round, "{}")).collect();
        let one = serde_json::to_vec(&answer(&request(1, 7), &kept, 0).items[0])
            .unwrap()
            .len();
        for (max_bytes, answers) in [(0, 7), (one, 7), (2 * one, 4), (7 * one, 1)] {
            let mut rounds = Vec::new();
            let mut from = Some(Round(1));
            let mut count = 0;
            while let Some(round) = from {
                let history = answer(&request(1, round.0), &kept, max_bytes);
                rounds.extend(history.items.iter().map(|item| item.round.0));
                from = history.next;
                count += 1;
            }
            assert_eq!(rounds, [1, 2, 3, 4, 5, 6, 7]);
            assert_eq!(count, answers, "with {max_bytes} bytes an answer");
        }
    }

    /// A thousand rounds: every page is full, and no round is given twice or left out.
    #[test]
    fn a_thousand_rounds_come_in_full_pages() {
        let kept: Vec<_> = (1..=1_000u32)
            .map(|round| {
                let leaves: Vec<(u8, u8)> = (0..4u8)
                    .map(|n| (n.wrapping_mul(64), round.to_le_bytes()[0]))
                    .collect();
                leaf_set(round, &leaves)
            })
            .collect();
        let (mut from, mut rounds, mut pages) = (Some(Round(1)), Vec::new(), 0);
        while let Some(round) = from {
            let request = request(64, round.0);
            let mut answer = Answer::new(&request, MAX_ANSWER_BYTES);
            let rest = kept.iter().skip(usize::try_from(round.0).unwrap() - 1);
            let read = rest.take_while(|artifact| answer.add(artifact)).count();
            let history = answer.finish();
            assert_eq!(read, history.items.len(), "nothing is read in vain");
            let json = serde_json::to_vec(&history).unwrap();
            assert!(json.len() < 40_960, "{} bytes", json.len());
            assert!(history.next.is_none() || json.len() > 35_000);
            rounds.extend(history.items.iter().map(|item| item.round.0));
            (from, pages) = (history.next, pages + 1);
        }
        assert_eq!(rounds, (1..=1_000).collect::<Vec<_>>());
        assert!((8..20).contains(&pages), "{pages}");
    }

    /// Large trees end an answer before its bytes do.
    #[test]
    fn an_answer_hashes_a_bounded_number_of_leaves() {
        let large = |round: u32| {
            let leaves: Vec<_> = (0..12_000u32)
                .map(|n| {
                    let index = crate::hash::sha256(&n.to_be_bytes());
                    (SmtIndex::from_bytes(index), LeafValue::from_bytes([7; 32]))
                })
                .collect();
            Artifact::LeafSet {
                round: Round(round),
                signal: SignalBytes::from_bytes([0; 32]),
                txid: Txid::from_byte_array([1; 32]),
                leaves,
            }
        };
        let kept = [large(1), large(2)];
        let first = answer(&request(1, 1), &kept, MAX_ANSWER_BYTES);
        assert_eq!((first.items.len(), first.next), (1, Some(Round(2))));
        let second = answer(&request(1, 2), &kept, MAX_ANSWER_BYTES);
        assert_eq!((second.items.len(), second.next), (1, None));
    }
}
