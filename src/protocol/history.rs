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
        .filter(|(round, _)| *round >= request.from_round)
        .collect();
    kept.sort_by_key(|(round, _)| *round);
    kept.dedup_by_key(|(round, _)| *round);
    let mut items: Vec<HistoryItem> = Vec::new();
    let mut bytes = 0_usize;
    let mut next = None;
    for (round, artifact) in kept {
        let Some(item) = item(request, artifact) else {
            continue;
        };
        let size = serde_json::to_vec(&item).map_or(usize::MAX, |json| json.len());
        bytes = bytes.saturating_add(size);
        if bytes > max_bytes && !items.is_empty() {
            next = Some(round);
            break;
        }
        items.push(item);
    }
    History {
        index: request.index,
        items,
        next,
    }
}

/// The round an artifact can prove an index in, if it is of that kind.
const fn signed_round(artifact: &Artifact) -> Option<Round> {
    match artifact {
        Artifact::LeafSet { round, .. } | Artifact::Announcement { round, .. } => Some(*round),
        Artifact::SmtProof { .. }
        | Artifact::Deposit { .. }
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
}
