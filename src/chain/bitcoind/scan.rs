//! What is known of one script, up to a block, and how far back a reorganisation reaches.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::{BlockHash, OutPoint, Script, Transaction, Txid};

use crate::chain::ReadUpTo;

/// Places in the chain that are remembered, so that a reorganisation forgets little.
const MAX_MARKS: usize = 64;

/// A transaction of a block.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) tx: Arc<Transaction>,
    pub(super) txid: Txid,
    pub(super) height: u32,
    pub(super) hash: BlockHash,
}

/// Every transaction that pays a script or spends from it, in the blocks up to the last mark.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    /// Blocks up to which everything was read, by ascending height.
    marks: Vec<(u32, BlockHash)>,
    /// In chain order.
    found: Vec<Found>,
    /// The outputs that pay the script and that none of them spends.
    unspent: BTreeSet<OutPoint>,
}

impl Scan {
    /// The block up to which everything was read.
    pub(super) fn mark(&self) -> Option<(u32, BlockHash)> {
        self.marks.last().copied()
    }

    /// Height of the first block that was not read.
    pub(super) fn next_height(&self) -> u32 {
        self.mark()
            .map_or(0, |(height, _)| height.saturating_add(1))
    }

    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    /// Takes in what blocks above the last mark hold, in chain order, and marks `(height, hash)` as the block
    /// up to which everything was read.
    pub(super) fn extend(
        &mut self,
        script: &Script,
        found: Vec<Found>,
        (height, hash): (u32, BlockHash),
    ) {
        follow(&mut self.unspent, script, &found);
        self.found.extend(found);
        self.marks.push((height, hash));
        if self.marks.len() > MAX_MARKS {
            // Every second one of the older half: the farther back, the farther apart.
            let mut position = 0;
            self.marks.retain(|_| {
                position += 1;
                position > MAX_MARKS / 2 || position % 2 == 0
            });
        }
    }

    /// Forgets the last mark, because its block is not in the best chain any more, and everything above
    /// the mark before it.
    pub(super) fn step_back(&mut self, script: &Script) {
        self.marks.pop();
        let next = self.next_height();
        self.found.retain(|found| found.height < next);
        self.unspent.clear();
        follow(&mut self.unspent, script, &self.found);
    }

    /// What lies above a block that the reader names, if that is where the scan found something: else everything.
    pub(super) fn above(&self, known: Option<ReadUpTo>) -> (Option<u32>, &[Found]) {
        let part = known.and_then(|known| {
            let next = self
                .found
                .partition_point(|found| found.height <= known.height);
            let last = self.found.get(next.checked_sub(1)?)?;
            let same = (last.height, last.hash) == (known.height, known.hash);
            same.then_some((Some(known.height), self.found.get(next..)?))
        });
        part.unwrap_or((None, &self.found))
    }

    /// Outputs that pay the script and that no block read so far spends.
    pub(super) fn unspent(&self) -> Vec<OutPoint> {
        self.unspent.iter().copied().collect()
    }
}

/// Moves a set of unspent outputs on by transactions in chain order.
fn follow(unspent: &mut BTreeSet<OutPoint>, script: &Script, found: &[Found]) {
    for found in found {
        for input in &found.tx.input {
            unspent.remove(&input.previous_output);
        }
        unspent.extend(outputs_to(script, found.txid, &found.tx));
    }
}

/// The outputs of `tx` that pay `script`.
pub(super) fn outputs_to<'a>(
    script: &'a Script,
    txid: Txid,
    tx: &'a Transaction,
) -> impl Iterator<Item = OutPoint> + 'a {
    (0u32..)
        .zip(&tx.output)
        .filter(move |(_, output)| output.script_pubkey.as_script() == script)
        .map(move |(vout, _)| OutPoint::new(txid, vout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::hashes::Hash as _;
    use bitcoin::opcodes::OP_TRUE;
    use bitcoin::script::Builder;

    fn hash(n: u16) -> BlockHash {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        BlockHash::from_byte_array(bytes)
    }

    #[test]
    fn marks_stay_few_and_the_last_ones_stay() {
        let mut scan = Scan::default();
        let script = Builder::new().push_opcode(OP_TRUE).into_script();
        for n in 0..1_000 {
            scan.extend(&script, Vec::new(), (u32::from(n), hash(n)));
            assert!(scan.marks.len() <= MAX_MARKS);
        }
        assert_eq!(scan.mark(), Some((999, hash(999))));
        assert!(scan.marks.is_sorted());
        let recent: Vec<u32> = scan
            .marks
            .iter()
            .rev()
            .take(16)
            .map(|mark| mark.0)
            .collect();
        let expected: Vec<u32> = (984..1_000).rev().collect();
        assert_eq!(recent, expected);
        for _ in 0..MAX_MARKS {
            scan.step_back(&script);
        }
        assert_eq!(scan.next_height(), 0, "and then from the start");
    }
}
