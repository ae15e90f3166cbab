//! The way to the tip: from the first payment to a beacon, through every signal's change, to the output that the next
//! signal has to spend.

use std::collections::BTreeSet;

use bitcoin::{Amount, OutPoint, Txid};

use super::{AddressHistory, SETTLED_DEPTH};
use crate::beacon::signal::BeaconOutput;

/// Which output the next signal has to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tip {
    /// Nothing at the address can start a chain of signals.
    NoFunds {
        /// What lies there unspent in outputs below the minimum.
        too_small: Amount,
    },
    /// The tip is there, without enough confirmations yet.
    Unconfirmed {
        /// The tip.
        output: BeaconOutput,
        /// How many it has, 0 in the mempool.
        confirmations: u32,
        /// How many it needs.
        needed: u32,
    },
    /// A transaction spends the tip that is in the mempool, or that pays nothing back and is not deep enough
    /// yet to end the chain.
    Pending {
        /// The tip.
        output: BeaconOutput,
        /// The transaction that spends it.
        spent_by: Txid,
        /// How many confirmations that has, 0 in the mempool.
        confirmations: u32,
        /// How many it needs.
        needed: u32,
    },
    /// The tip can be spent.
    Ready {
        /// The tip.
        output: BeaconOutput,
        /// How many confirmations it has.
        confirmations: u32,
    },
}

/// An output on the way from the first start of a chain of signals to the tip, so deep that nothing before it changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkpoint {
    /// The chains were started with this at least.
    min_start: Amount,
    link: BeaconOutput,
    /// Whatever led to it is in blocks up to this height.
    pub(super) up_to: u32,
}

impl AddressHistory {
    /// The output the next signal has to spend (DESIGN §6 rule 4).
    ///
    /// A chain of signals starts at the oldest confirmed output of at least `min_start` and goes on through the
    /// output that each confirmed spender pays back to the address (the first, should there be several).
    /// Where a spender pays nothing back, the next chain starts at the next oldest output. The tip, and a
    /// spender that ends a chain, need `depth` confirmations, at least one.
    #[must_use]
    pub fn tip(&self, min_start: Amount, depth: u32) -> Tip {
        let needed = depth.max(1);
        self.find_tip(min_start, needed, |_| {})
            .unwrap_or_else(|| self.unstarted(min_start, needed))
    }

    /// Goes the way to the tip once as far as nothing on it changes any more, so that [`Self::tip`] with this minimum
    /// goes on from there, also after the history was read on.
    pub fn settle(&mut self, min_start: Amount) {
        let Some(up_to) = self.tip_height.checked_sub(SETTLED_DEPTH - 1) else {
            return;
        };
        let mut last = None;
        self.find_tip(min_start, SETTLED_DEPTH, |link| {
            if link.height.is_some_and(|height| height <= up_to) {
                last = Some(*link);
            }
        });
        if let Some(link) = last {
            self.checkpoint = Some(Checkpoint {
                min_start,
                link,
                up_to,
            });
        }
    }

    /// The tip where a confirmed output starts a chain that has not ended. `reached` is given each link of that way,
    /// or of its last part.
    pub(super) fn find_tip(
        &self,
        min_start: Amount,
        needed: u32,
        mut reached: impl FnMut(&BeaconOutput),
    ) -> Option<Tip> {
        let mut visited = BTreeSet::new();
        let usable = |known: &Checkpoint| {
            known.min_start == min_start && self.confirmations(Some(known.up_to)) >= needed
        };
        // What came before it comes before it still, and what ended on the way to it is over.
        if let Some(known) = self.checkpoint.filter(usable)
            && let Some(tip) = self.walk(known.link, needed, &mut visited, &mut reached)
        {
            return Some(tip);
        }
        visited.clear();
        for start in self.every_output() {
            if start.height.is_some()
                && start.value >= min_start
                && !visited.contains(&start.outpoint)
                && let Some(tip) = self.walk(start, needed, &mut visited, &mut reached)
            {
                return Some(tip);
            }
        }
        None
    }

    /// Goes along a chain of signals; `None` if it ended, or leads to what is visited.
    fn walk(
        &self,
        mut link: BeaconOutput,
        needed: u32,
        visited: &mut BTreeSet<OutPoint>,
        reached: &mut impl FnMut(&BeaconOutput),
    ) -> Option<Tip> {
        while visited.insert(link.outpoint) {
            reached(&link);
            let Some((spent_by, height)) = self.spender(&link.outpoint) else {
                return Some(self.unspent_tip(link, needed));
            };
            let confirmations = self.confirmations(height);
            let spender = self.entry(&spent_by);
            let paid_back = spender.and_then(|entry| entry.outputs_at(&self.script).next());
            match paid_back {
                Some(change) if confirmations > 0 => link = change,
                // The chain ends: the next start is looked for.
                None if confirmations >= needed => return None,
                _ => {
                    return Some(Tip::Pending {
                        output: link,
                        spent_by,
                        confirmations,
                        needed,
                    });
                }
            }
        }
        None
    }

    /// Nothing confirmed can start a chain: what may, once it confirms.
    fn unstarted(&self, min_start: Amount, needed: u32) -> Tip {
        let mut unspent = self.unspent();
        let start = unspent.find(|output| output.height.is_none() && output.value >= min_start);
        match start {
            Some(start) => self.unspent_tip(start, needed),
            None => Tip::NoFunds {
                too_small: self
                    .unspent()
                    .try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))
                    .unwrap_or(Amount::MAX_MONEY),
            },
        }
    }

    fn unspent_tip(&self, output: BeaconOutput, needed: u32) -> Tip {
        let confirmations = self.confirmations(output.height);
        if confirmations < needed {
            Tip::Unconfirmed {
                output,
                confirmations,
                needed,
            }
        } else {
            Tip::Ready {
                output,
                confirmations,
            }
        }
    }
}
