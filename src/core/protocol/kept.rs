//! Answers to proof requests, out of what a member kept (docs/protocol.md#proof_request).
//!
//! A member keeps of every signal the proofs of its own indexes, or the announcement. Together members can give an
//! aggregator back what it lost: it needs every leaf that is not empty.

use std::collections::BTreeMap;

use super::effect::Artifact;
use super::ids::Round;
use super::message::{KeptProof, KeptProofs, KeptSignal};
use crate::beacon::smt::{EMPTY_LEAF, Leaf};
use crate::hash::{SignalBytes, sha256};

/// An answer in the making: what is kept is given signal by signal, in the order they were asked for.
#[derive(Debug)]
pub struct KeptAnswer {
    max_bytes: usize,
    bytes: usize,
    items: Vec<KeptSignal>,
}

impl KeptAnswer {
    /// An answer whose items have at most `max_bytes`, unless the first alone has more.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: 0,
            items: Vec::new(),
        }
    }

    /// Adds what these artifacts say of a signal, nothing included; false once the answer is full. Whatever does not lead
    /// to the signal, because it is of another one or was damaged, is left out.
    pub fn add<'a>(
        &mut self,
        signal: SignalBytes,
        artifacts: impl IntoIterator<Item = &'a Artifact>,
    ) -> bool {
        let item = kept(signal, artifacts);
        let size = serde_json::to_vec(&item).map_or(usize::MAX, |json| json.len());
        let bytes = self.bytes.saturating_add(size);
        if bytes > self.max_bytes && !self.items.is_empty() {
            return false;
        }
        self.bytes = bytes;
        self.items.push(item);
        true
    }

    /// The answer.
    #[must_use]
    pub fn finish(self) -> KeptProofs {
        KeptProofs { items: self.items }
    }
}

fn kept<'a>(signal: SignalBytes, artifacts: impl IntoIterator<Item = &'a Artifact>) -> KeptSignal {
    let mut of_round: Option<Round> = None;
    let mut proofs = BTreeMap::new();
    let mut text = None;
    for artifact in artifacts {
        match artifact {
            Artifact::SmtProof {
                round,
                index,
                signal: of,
                nonce,
                update,
                path,
                ..
            } if *of == signal && !proofs.contains_key(index) => {
                let made = Leaf {
                    nonce: *nonce,
                    update: *update,
                };
                let leaf = made.value();
                if path.verify_leaf_value(index, &leaf, &signal).is_ok() {
                    of_round.get_or_insert(*round);
                    let proof = KeptProof {
                        index: *index,
                        leaf: (leaf != EMPTY_LEAF).then_some(leaf),
                        path: path.clone(),
                    };
                    proofs.insert(*index, proof);
                }
            }
            Artifact::Announcement {
                round,
                announcement,
                ..
            } if text.is_none() && sha256(announcement.as_bytes()) == signal.to_bytes() => {
                of_round.get_or_insert(*round);
                text = Some(announcement.clone());
            }
            _ => {}
        }
    }
    KeptSignal {
        signal,
        round: of_round,
        proofs: proofs.into_values().collect(),
        announcement: text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beacon::smt::SmtTree;
    use crate::hash::{LeafValue, SmtIndex, SmtNonce};
    use bitcoin::Txid;
    use bitcoin::hashes::Hash as _;

    fn announcement(round: u32, text: &str) -> Artifact {
        Artifact::Announcement {
            round: Round(round),
            signal: SignalBytes::from_bytes(sha256(text.as_bytes())),
            txid: Txid::from_byte_array([2; 32]),
            announcement: text.into(),
        }
    }

    #[test]
    fn what_leads_to_the_signal_is_shown_and_nothing_that_is_secret() {
        let index = |n: u8| SmtIndex::from_bytes([n; 32]);
        let nonce = SmtNonce::from_bytes([7; 32]);
        let mine = Leaf {
            nonce: Some(nonce),
            update: None,
        };
        let leaves = [
            (index(1), mine.value()),
            (index(9), LeafValue::from_bytes([5; 32])),
        ];
        let tree = SmtTree::new(leaves).unwrap();
        let proof = |n: u8, nonce| Artifact::SmtProof {
            round: Round(4),
            index: index(n),
            signal: tree.root(),
            txid: Txid::from_byte_array([1; 32]),
            nonce,
            update: None,
            path: tree.prove(&index(n)),
        };
        // The last one was damaged: its nonce is another one.
        let other = SmtNonce::from_bytes([8; 32]);
        let artifacts = [proof(1, Some(nonce)), proof(2, None), proof(9, Some(other))];
        let mut answer = KeptAnswer::new(1_000_000);
        assert!(answer.add(tree.root(), &artifacts));
        let item = answer.finish().items.remove(0);
        assert_eq!((item.round, item.announcement), (Some(Round(4)), None));
        let shown: Vec<_> = item.proofs.iter().map(|p| (p.index, p.leaf)).collect();
        assert_eq!(shown, [(index(1), Some(mine.value())), (index(2), None)]);
        for proof in &item.proofs {
            let leaf = proof.leaf.unwrap_or(EMPTY_LEAF);
            let verified = proof
                .path
                .verify_leaf_value(&proof.index, &leaf, &tree.root());
            assert_eq!(verified, Ok(()));
        }
    }

    #[test]
    fn an_answer_is_cut_and_says_of_what_it_does_not_have_that_it_does_not() {
        let kept: Vec<_> = (1..=3)
            .map(|n| announcement(n, &format!("{{\"did\":\"{n}\"}}")))
            .collect();
        let signals: Vec<_> = (0..=3)
            .map(|n| SignalBytes::from_bytes(sha256(format!("{{\"did\":\"{n}\"}}").as_bytes())))
            .collect();
        let answer = |max_bytes| {
            let mut answer = KeptAnswer::new(max_bytes);
            let taken = signals
                .iter()
                .take_while(|signal| answer.add(**signal, &kept));
            let taken = taken.count();
            let items = answer.finish().items;
            assert_eq!(taken, items.len());
            items
        };
        let all = answer(usize::MAX);
        let rounds: Vec<_> = all.iter().map(|item| item.round).collect();
        assert_eq!(
            rounds,
            [None, Some(Round(1)), Some(Round(2)), Some(Round(3))]
        );
        assert!(all[0].announcement.is_none() && all[3].announcement.is_some());
        let two = serde_json::to_vec(&all[..2]).unwrap().len() - 3;
        assert_eq!(answer(two).len(), 2);
        assert_eq!(answer(0).len(), 1, "one in any case");
    }
}
