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
                || spends
                    .clone()
                    .any(|spend| spend.height.is_none_or(shallow));
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
mod tests {
    use super::*;
    use crate::protocol::chain_view::OutputSeen;
    use bitcoin::hashes::Hash as _;
    use bitcoin::{Amount, ScriptBuf, Sequence, TxIn, TxOut, Witness};

    fn tip(n: u8) -> OutPoint {
        OutPoint::new(Txid::from_byte_array([n; 32]), 0)
    }

    fn tx(input: OutPoint, sat: u64) -> Transaction {
        Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![TxIn {
                previous_output: input,
                script_sig: ScriptBuf::new(),
                sequence: Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(sat),
                script_pubkey: ScriptBuf::new(),
            }],
        }
    }

    /// A chain at `height` on which the tip is spent so.
    fn chain(height: u32, spend: Option<(Txid, Option<u32>)>) -> ChainView {
        let mut view = ChainView {
            height,
            ..ChainView::default()
        };
        if let Some((by, height)) = spend {
            view.spends.insert(tip(9), SpendSeen { by, height });
        }
        view
    }

    /// Follows the tip, whatever was known of it.
    fn follow(watch: &mut ConfirmationWatch, view: &ChainView) {
        let spend = view.spends.get(&tip(9)).copied();
        watch.follow(view, &[(tip(9), spend)]);
    }

    fn state(watch: &mut ConfirmationWatch, txid: Txid, view: &ChainView) -> WatchState {
        follow(watch, view);
        let watched = watch.all().find(|watched| watched.txid == txid).unwrap();
        watched.state(view)
    }

    #[test]
    fn every_state_is_reached_and_left() {
        let signal = tx(tip(9), 1_000);
        let (id, rival) = (signal.compute_txid(), tip(4).txid);
        let mut watch = ConfirmationWatch::default();
        watch.complete(Round(1), &signal);
        let mut is = |spend, height, wanted| {
            let view = chain(height, spend);
            assert_eq!(state(&mut watch, id, &view), wanted, "{wanted}");
        };
        is(None, 100, WatchState::Signed);
        is(Some((id, None)), 100, WatchState::Mempool);
        let confirmed = WatchState::Confirmed { height: 101 };
        is(Some((id, Some(101))), 101, confirmed);
        is(Some((id, Some(101))), 105, confirmed);
        let last = WatchState::Final { height: 101 };
        is(Some((id, Some(101))), 106, last);
        // A reorganisation, deeper than what counts as final: first gone, then waiting, then higher up.
        is(None, 107, WatchState::ReorgedOut { height: 101 });
        is(Some((id, None)), 107, WatchState::Mempool);
        is(
            Some((id, Some(108))),
            108,
            WatchState::Confirmed { height: 108 },
        );
        // And one that puts another transaction in its place.
        let displaced = |height| WatchState::Conflicted { by: rival, height };
        is(Some((rival, None)), 108, displaced(None));
        is(Some((rival, Some(109))), 109, displaced(Some(109)));
        is(None, 110, WatchState::ReorgedOut { height: 108 });
    }

    #[test]
    fn taken_by_the_backend_is_not_seen_in_the_mempool() {
        let signal = tx(tip(9), 1_000);
        let mut watch = ConfirmationWatch::default();
        assert!(!watch.accepted(&signal.compute_txid()), "not watched");
        watch.complete(Round(1), &signal);
        assert!(watch.accepted(&signal.compute_txid()));
        let view = chain(100, None);
        assert_eq!(
            state(&mut watch, signal.compute_txid(), &view),
            WatchState::Broadcast
        );
    }

    #[test]
    fn what_nobody_gets_onto_the_chain_is_sent_with_every_block() {
        let signal = tx(tip(9), 1_000);
        let id = signal.compute_txid();
        let mut watch = ConfirmationWatch::default();
        let sent = |watch: &mut ConfirmationWatch, height, spend| {
            let view = chain(height, spend);
            follow(watch, &view);
            let due = watch.due(&view);
            assert!(due.iter().all(|tx| *tx == signal));
            (due.len(), watch.counts_blocks(&view))
        };
        watch.signed(Round(1), id, tip(9));
        assert_eq!(sent(&mut watch, 90, None), (0, false), "not complete");
        watch.complete(Round(1), &tx(tip(9), 1_000));
        assert_eq!(sent(&mut watch, 100, None), (0, true));
        assert_eq!(sent(&mut watch, 101, None), (0, true), "others first");
        assert_eq!(sent(&mut watch, 102, None), (1, true));
        assert_eq!(sent(&mut watch, 102, None), (0, true), "once a block");
        assert_eq!(sent(&mut watch, 103, None), (1, true));
        assert_eq!(sent(&mut watch, 104, Some((id, None))), (0, true));
        assert_eq!(sent(&mut watch, 110, Some((id, Some(105)))), (0, false));
        // Long after it was final.
        assert_eq!(sent(&mut watch, 120, None), (0, true));
        assert_eq!(sent(&mut watch, 122, None), (1, true));
        // Displaced: sending it would not help. It is settled when that is.
        let rival = tip(4).txid;
        assert_eq!(sent(&mut watch, 123, Some((rival, Some(123)))), (0, true));
        assert_eq!(sent(&mut watch, 128, Some((rival, Some(123)))), (0, false));
    }

    /// Three fee variants of one signal, and a transaction of an earlier attempt that never got all signatures.
    #[test]
    fn a_round_is_as_far_as_the_best_of_its_transactions() {
        let mut watch = ConfirmationWatch::default();
        let rungs = [tx(tip(9), 900), tx(tip(9), 700), tx(tip(9), 100)];
        watch.signed(Round(7), tip(3).txid, tip(9));
        for rung in &rungs {
            watch.complete(Round(7), rung);
        }
        let [first, second, third] = rungs.each_ref().map(Transaction::compute_txid);
        let best = |watch: &ConfirmationWatch, view: &ChainView| {
            let (watched, state) = watch.foremost(Round(7), view).unwrap();
            (watched.txid, state)
        };
        let view = chain(100, None);
        follow(&mut watch, &view);
        assert_eq!(best(&watch, &view), (third, WatchState::Signed));
        let later = chain(102, None);
        assert_eq!(watch.due(&later), [rungs[2].clone()], "it pays most");
        let view = chain(102, Some((first, None)));
        assert_eq!(best(&watch, &view), (first, WatchState::Mempool));
        let view = chain(103, Some((second, Some(103))));
        let confirmed = WatchState::Confirmed { height: 103 };
        assert_eq!(best(&watch, &view), (second, confirmed));
        follow(&mut watch, &view);
        assert_eq!(watch.unknown_spends(&view), [], "each of them was signed");
        let view = chain(103, Some((tip(3).txid, Some(103))));
        assert_eq!(best(&watch, &view), (tip(3).txid, confirmed));
        assert_eq!(watch.of_round(Round(7)).count(), 4);
        assert_eq!(watch.foremost(Round(8), &view).map(|(w, _)| w.txid), None);
    }

    #[test]
    fn a_spend_nobody_signed_is_reported_once() {
        let mut watch = ConfirmationWatch::default();
        let (thief, refund) = (tip(4).txid, tip(5).txid);
        watch.expect(refund);
        let mut unknown = |spend| {
            let view = chain(101, spend);
            follow(&mut watch, &view);
            watch.unknown_spends(&view)
        };
        assert_eq!(unknown(Some((refund, None))), []);
        assert_eq!(unknown(Some((thief, None))), [thief]);
        assert_eq!(unknown(Some((thief, Some(101)))), []);
        // One that is gone again, and one that was explained before anybody looked.
        let mut watch = ConfirmationWatch::default();
        follow(&mut watch, &chain(100, Some((thief, None))));
        follow(&mut watch, &chain(100, None));
        assert_eq!(watch.unknown_spends(&chain(100, None)), []);
        let view = chain(100, Some((thief, None)));
        follow(&mut watch, &view);
        watch.signed(Round(1), thief, tip(9));
        assert_eq!(watch.unknown_spends(&view), []);
    }

    /// A hundred blocks down there is no way back: what the round was is known still, and nothing of it is looked at.
    #[test]
    fn what_is_settled_is_remembered_and_not_kept() {
        let mut watch = ConfirmationWatch::default();
        let rungs = [tx(tip(9), 900), tx(tip(9), 700)];
        for rung in &rungs {
            watch.complete(Round(7), rung);
        }
        let [loser, winner] = rungs.each_ref().map(Transaction::compute_txid);
        let view = chain(101 + SETTLED_DEPTH - 2, Some((winner, Some(101))));
        follow(&mut watch, &view);
        assert_eq!((watch.signed.len(), watch.settled.len()), (2, 0));
        let view = chain(101 + SETTLED_DEPTH - 1, Some((winner, Some(101))));
        follow(&mut watch, &view);
        assert_eq!((watch.signed.len(), watch.settled.len()), (0, 1));
        // Whoever tells of them again does not bring them back.
        watch.complete(Round(7), &rungs[1]);
        assert!(watch.signed.is_empty());
        let (watched, state) = watch.foremost(Round(7), &view).unwrap();
        assert_eq!((watched.txid, watched.is_complete()), (winner, true));
        assert_eq!(state, WatchState::Final { height: 101 });
        assert!(watch.knows(&winner) && !watch.knows(&loser));
        assert_eq!(watch.unknown_spends(&view), []);
        assert!(!watch.counts_blocks(&view) && watch.due(&view).is_empty());
    }

    /// Every rung has a refund of its change: of what is settled one may be used still, until its change is spent.
    #[test]
    fn refunds_are_forgotten_with_the_change_they_spend() {
        let mut watch = ConfirmationWatch::default();
        let rungs = [tx(tip(9), 900), tx(tip(9), 700)];
        let [loser, winner] = rungs.each_ref().map(Transaction::compute_txid);
        let refunds = [tip(5).txid, tip(6).txid];
        for ((rung, refund), of) in rungs.iter().zip(refunds).zip([loser, winner]) {
            watch.complete(Round(7), rung);
            watch.expect_refund(refund, of);
        }
        let deep = 101 + SETTLED_DEPTH - 1;
        let change = OutPoint::new(winner, 0);
        let mut view = chain(deep - 1, Some((winner, Some(101))));
        let lies = OutputSeen {
            value_sat: 700,
            height: Some(101),
        };
        view.outputs.insert(change, lies);
        follow(&mut watch, &view);
        assert!(refunds.iter().all(|refund| watch.knows(refund)));
        view.height = deep;
        follow(&mut watch, &view);
        assert!(!watch.knows(&refunds[0]) && watch.knows(&refunds[1]));
        // The next signal is signed; it, or the refund in its place, spends the change, and is settled.
        let next = tx(change, 600);
        for by in [next.compute_txid(), refunds[1]] {
            let json = serde_json::to_string(&watch).unwrap();
            let mut watch: ConfirmationWatch = serde_json::from_str(&json).unwrap();
            watch.complete(Round(8), &next);
            let height = Some(deep + 1);
            let mut view = view.clone();
            view.outputs.clear();
            view.spends.insert(change, SpendSeen { by, height });
            for (blocks, known) in [(1, true), (SETTLED_DEPTH, by == refunds[1])] {
                view.height = deep + blocks;
                follow(&mut watch, &view);
                assert_eq!(watch.knows(&refunds[1]), known);
                assert!(watch.unknown_spends(&view).is_empty());
            }
            assert!(watch.refunds.is_empty() && watch.signed.is_empty());
        }
    }
}
