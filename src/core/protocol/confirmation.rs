//! The confirmation watch: where every signed transaction of a cohort is, for as long as the cohort is kept.
//!
//! A state is judged anew from what the chain says now ([`Watched::state`]), so that a reorganisation moves it back by
//! itself (design rule 9), also one that is deeper than [`FINAL_DEPTH`]. The watch does not give up: a complete
//! transaction that is neither on the chain nor displaced there is sent again, with every block. The aggregator and
//! every member keep one, so that a signal reaches the chain although its aggregator does not send it.
//!
//! Cohorts live for years, so what a step costs does not depend on how many rounds there were: below
//! [`SETTLED_DEPTH`] of a round only its transaction's id is kept, and only spends that changed are looked at.
//!
//! A round may have several signed transactions, which spend the same output at different fees or were made by
//! different attempts: at most one of them confirms, and each counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bitcoin::{OutPoint, Transaction, Txid};
use serde::{Deserialize, Serialize};

use super::chain_view::{ChainView, SpendSeen};
use super::ids::Round;

/// Confirmations after which a transaction counts as final (spec.md §2.7 `minConf` default).
pub const FINAL_DEPTH: u32 = 6;

/// Confirmations after which a transaction is settled: it is not looked at any more, and what it displaced is forgotten.
pub use crate::beacon::history::SETTLED_DEPTH;

/// Blocks that may pass without a complete transaction being seen before whoever has it sends it. The aggregator's own
/// timer is faster; members, who are many, first give it time.
pub const PATIENCE_BLOCKS: u32 = 2;

/// Where a signed transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum WatchState {
    /// Signed; nobody is known to have given it to the chain.
    Signed,
    /// The chain backend took it; it was not seen in the mempool yet, or dropped out of it.
    Broadcast,
    /// Waiting in the mempool.
    Mempool,
    /// In a block, with fewer than [`FINAL_DEPTH`] confirmations.
    Confirmed {
        /// The block's height.
        height: u32,
    },
    /// In a block, with [`FINAL_DEPTH`] confirmations or more.
    Final {
        /// The block's height.
        height: u32,
    },
    /// Another transaction spends the same output.
    Conflicted {
        /// That transaction.
        by: Txid,
        /// The block it is in; `None` in the mempool.
        height: Option<u32>,
    },
    /// It was in a block that is not in the best chain any more, and is not in the mempool.
    ReorgedOut {
        /// The height of the block that is gone.
        height: u32,
    },
}

impl WatchState {
    /// How near to the end it is, to choose among the transactions of a round.
    const fn rank(self) -> u8 {
        match self {
            Self::Conflicted { .. } => 0,
            Self::Signed => 1,
            Self::ReorgedOut { .. } => 2,
            Self::Broadcast => 3,
            Self::Mempool => 4,
            Self::Confirmed { .. } => 5,
            Self::Final { .. } => 6,
        }
    }
}

impl fmt::Display for WatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signed => f.write_str("signed"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Mempool => f.write_str("in the mempool"),
            Self::Confirmed { height } => write!(f, "confirmed in block {height}"),
            Self::Final { height } => write!(f, "final, in block {height}"),
            Self::Conflicted { by, height: None } => {
                write!(f, "displaced in the mempool by {by}")
            }
            Self::Conflicted {
                by,
                height: Some(height),
            } => write!(f, "displaced by {by} in block {height}"),
            Self::ReorgedOut { height } => {
                write!(f, "reorganised out of block {height}")
            }
        }
    }
}

/// A signed transaction that is watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    /// The round it is about.
    pub round: Round,
    /// Its id.
    pub txid: Txid,
    /// The output its first input spends: the tip it was made for.
    pub input: OutPoint,
    /// The complete transaction, once all signatures are there.
    #[serde(with = "crate::protocol::snapshot::maybe_tx")]
    tx: Option<Transaction>,
    /// Whether the chain backend took it.
    accepted: bool,
    /// The height at which it was last seen in a block.
    was: Option<u32>,
    /// It is so deep in the chain that it is not kept any more.
    settled: bool,
}

impl Watched {
    /// Where it is, by what the chain says now.
    #[must_use]
    pub fn state(&self, chain: &ChainView) -> WatchState {
        match chain.spends.get(&self.input) {
            Some(spend) if spend.by == self.txid => match spend.height {
                Some(height) if chain.confirmations(height) >= FINAL_DEPTH => {
                    WatchState::Final { height }
                }
                Some(height) => WatchState::Confirmed { height },
                None => WatchState::Mempool,
            },
            Some(spend) => WatchState::Conflicted {
                by: spend.by,
                height: spend.height,
            },
            None => match self.was {
                Some(height) => WatchState::ReorgedOut { height },
                None if self.accepted => WatchState::Broadcast,
                None => WatchState::Signed,
            },
        }
    }

    /// The transaction, once all signatures are there.
    #[must_use]
    pub const fn transaction(&self) -> Option<&Transaction> {
        self.tx.as_ref()
    }

    /// Whether all signatures are there, so that it can be sent.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.tx.is_some() || self.settled
    }
}

/// Everything a cohort has signed, and what is to be done about it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfirmationWatch {
    /// In the order of signing, without what is settled.
    signed: Vec<Watched>,
    /// The transaction of each round that is settled.
    settled: BTreeMap<Round, Watched>,
    /// Transactions that may spend the address beside what is in `signed`: refunds of deposits, and what is settled.
    expected: BTreeSet<Txid>,
    /// Refunds of the change of a signal, with the transaction that pays it, while it may be spent.
    #[serde(default)]
    refunds: BTreeMap<Txid, Txid>,
    /// Spends that were not known when they were seen, by what they spend.
    strange: BTreeMap<OutPoint, Txid>,
    /// Spends that were reported as unknown: once each.
    reported: BTreeSet<Txid>,
    /// Per output, the height from which on nothing was seen to spend it, and the height at which a spend was last sent.
    unseen: BTreeMap<OutPoint, Unseen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Unseen {
    since: u32,
    sent: Option<u32>,
}

impl ConfirmationWatch {
    /// Watches a transaction that this agent signed; one that is watched already stays as it is.
    pub fn signed(&mut self, round: Round, txid: Txid, input: OutPoint) {
        if !self.knows(&txid) {
            self.signed.push(Watched {
                round,
                txid,
                input,
                tx: None,
                accepted: false,
                was: None,
                settled: false,
            });
        }
    }

    /// The same for one with all its signatures: it is sent when nobody else does.
    pub fn complete(&mut self, round: Round, tx: &Transaction) {
        let Some(first) = tx.input.first() else {
            return;
        };
        let txid = tx.compute_txid();
        self.signed(round, txid, first.previous_output);
        if let Some(watched) = self.known(&txid).filter(|watched| watched.tx.is_none()) {
            watched.tx = Some(tx.clone());
        }
    }

    /// A transaction that all signed and that is no signal, such as a refund: it raises no alarm.
    pub fn expect(&mut self, txid: Txid) {
        self.expected.insert(txid);
    }

    /// The same for the refund of the change that the transaction `of` pays. It is forgotten once that transaction, or
    /// what spends its change, is settled.
    pub fn expect_refund(&mut self, txid: Txid, of: Txid) {
        self.refunds.insert(txid, of);
    }

    /// The chain backend took a transaction. False if it is not one that is watched.
    pub fn accepted(&mut self, txid: &Txid) -> bool {
        let Some(watched) = self.known(txid) else {
            return false;
        };
        watched.accepted = true;
        true
    }

    fn known(&mut self, txid: &Txid) -> Option<&mut Watched> {
        let mut signed = self.signed.iter_mut();
        signed.find(|watched| watched.txid == *txid)
    }

    /// Takes note of what the chain says now, and of what changed.
    pub fn follow(&mut self, chain: &ChainView, changed: &[(OutPoint, Option<SpendSeen>)]) {
        for (outpoint, spend) in changed {
            match spend {
                Some(spend) if !self.knows(&spend.by) => {
                    self.strange.insert(*outpoint, spend.by);
                }
                _ => {
                    self.strange.remove(outpoint);
                }
            }
        }
        for watched in &mut self.signed {
            let spend = chain.spends.get(&watched.input);
            if let Some(height) = spend
                .filter(|spend| spend.by == watched.txid)
                .and_then(|spend| spend.height)
            {
                watched.was = Some(height);
            }
            match spend {
                Some(_) => {
                    self.unseen.remove(&watched.input);
                }
                None if watched.is_complete() => {
                    self.unseen.entry(watched.input).or_insert(Unseen {
                        since: chain.height,
                        sent: None,
                    });
                }
                None => {}
            }
        }
        self.settle(chain);
    }

    /// Keeps of what is settled only what it was.
    fn settle(&mut self, chain: &ChainView) {
        let deep = |watched: &Watched| {
            let spend = chain.spends.get(&watched.input)?;
            (chain.confirmations(spend.height?) >= SETTLED_DEPTH).then_some(spend.by)
        };
        for watched in &mut self.signed {
            if deep(watched) == Some(watched.txid) {
                self.expected.insert(watched.txid);
                let settled = Watched {
                    tx: None,
                    settled: true,
                    ..watched.clone()
                };
                self.settled.insert(watched.round, settled);
            }
        }
        let input_of = |txid: &Txid| {
            let mut signed = self.signed.iter();
            signed
                .find(|watched| watched.txid == *txid)
                .map(|watched| watched.input)
        };
        let impossible = |input| chain.is_impossible(input, SETTLED_DEPTH, input_of);
        let doomed: Vec<OutPoint> = self
            .unseen
            .keys()
            .filter(|input| impossible(input))
            .copied()
            .collect();
        for input in &doomed {
            self.unseen.remove(input);
        }
        let before = self.signed.len();
        self.signed
            .retain(|watched| deep(watched).is_none() && !doomed.contains(&watched.input));
        if self.signed.len() < before {
            self.forget_refunds(chain);
        }
    }

    /// Forgets refunds of what can not be there any more, or was spent long ago.
    fn forget_refunds(&mut self, chain: &ChainView) {
        let open: BTreeSet<Txid> = self.signed.iter().map(|watched| watched.txid).collect();
        let shallow = |height| chain.confirmations(height) < SETTLED_DEPTH;
        let expected = &mut self.expected;
        self.refunds.retain(|refund, of| {
            let [first, last] = [0, u32::MAX].map(|vout| OutPoint::new(*of, vout));
            let mut spends = chain.spends.range(first..=last).map(|(_, spend)| spend);
            let unspent = chain.outputs.range(first..=last).next().is_some();
            let stays = open.contains(of)
                || unspent
                || spends.clone().any(|spend| spend.height.is_none_or(shallow));
            if !stays && spends.any(|spend| spend.by == *refund) {
                // It is what became of the change: whoever looks at all spends finds it.
                expected.insert(*refund);
            }
            stays
        });
    }

    /// Complete transactions that nobody got onto the chain for [`PATIENCE_BLOCKS`], each at most once a block. Of several
    /// that spend the same output, the one that was signed last: it pays most.
    pub fn due(&mut self, chain: &ChainView) -> Vec<Transaction> {
        let mut due = Vec::new();
        for (input, unseen) in &mut self.unseen {
            let patient = chain.height < unseen.since.saturating_add(PATIENCE_BLOCKS);
            let sent = unseen.sent.is_some_and(|sent| chain.height <= sent);
            if patient || sent {
                continue;
            }
            let mut of_it = self.signed.iter().rev().filter(|w| w.input == *input);
            if let Some(tx) = of_it.find_map(|watched| watched.tx.as_ref()) {
                unseen.sent = Some(chain.height);
                due.push(tx.clone());
            }
        }
        due
    }

    /// Spends of the address that nobody here signed, each once. All n keys sign every spend: somebody else has them, or
    /// the address is not what it was thought to be (spec.md §6.5 item 34).
    pub fn unknown_spends(&mut self, chain: &ChainView) -> Vec<Txid> {
        let unknown = self.unexplained(chain);
        self.reported.extend(&unknown);
        unknown.into_iter().collect()
    }

    /// Such spends that were not reported yet.
    #[must_use]
    pub fn unexplained(&self, chain: &ChainView) -> BTreeSet<Txid> {
        let there = |outpoint, txid: &Txid| {
            let spend = chain.spends.get(outpoint);
            spend.is_some_and(|spend| spend.by == *txid)
        };
        self.strange
            .iter()
            .filter(|(outpoint, txid)| there(outpoint, txid))
            .map(|(_, txid)| *txid)
            .filter(|txid| !self.knows(txid) && !self.reported.contains(txid))
            .collect()
    }

    /// Notes that a spend was reported.
    pub fn reported(&mut self, txid: Txid) {
        self.reported.insert(txid);
    }

    /// Whether a new height alone is news: something that can be sent is not settled.
    #[must_use]
    pub fn counts_blocks(&self, chain: &ChainView) -> bool {
        self.signed
            .iter()
            .filter(|watched| watched.is_complete())
            .any(|watched| match watched.state(chain) {
                WatchState::Final { .. } => false,
                WatchState::Conflicted { height, .. } => {
                    height.is_none_or(|height| chain.confirmations(height) < FINAL_DEPTH)
                }
                _ => true,
            })
    }

    /// Whether a transaction is one that may spend the address.
    #[must_use]
    pub fn knows(&self, txid: &Txid) -> bool {
        self.expected.contains(txid)
            || self.refunds.contains_key(txid)
            || self.signed.iter().any(|watched| watched.txid == *txid)
    }

    /// The round a watched transaction is of.
    #[must_use]
    pub fn round_of(&self, txid: &Txid) -> Option<Round> {
        let mut all = self.all();
        let watched = all.find(|watched| watched.txid == *txid);
        watched.map(|watched| watched.round)
    }

    /// The watched transactions of a round, in the order of signing.
    pub fn of_round(&self, round: Round) -> impl Iterator<Item = &Watched> {
        let open = self.signed.iter();
        let open = open.filter(move |watched| watched.round == round);
        self.settled.get(&round).into_iter().chain(open)
    }

    /// All watched transactions: what is settled, then the others in the order of signing.
    pub fn all(&self) -> impl Iterator<Item = &Watched> {
        self.settled.values().chain(&self.signed)
    }

    /// The transaction of a round that is nearest to its end, and where it is.
    #[must_use]
    pub fn foremost(&self, round: Round, chain: &ChainView) -> Option<(&Watched, WatchState)> {
        self.of_round(round)
            .map(|watched| (watched, watched.state(chain)))
            .max_by_key(|(_, state)| state.rank())
    }
}

#[cfg(test)]
mod tests;
