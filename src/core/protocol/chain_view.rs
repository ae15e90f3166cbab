//! What the core knows of the chain: facts about one beacon address, fed in as they change.

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, Txid};
use serde::{Deserialize, Serialize};

use crate::beacon::history::{AddressHistory, AddressOutput, Changes, SeenSignal, Tip};
use crate::beacon::signal::BeaconOutput;
use crate::hash::SignalBytes;

/// Outputs beside the tip that a view has: the most valuable ones. A signal spends three of them at most.
pub const MAX_EXTRA: usize = 16;

/// Displaced spends that a view remembers.
const MAX_DISPLACED: usize = 64;

/// The longest line of transactions, each on top of the other, that is looked at: a server may claim what it likes.
const MAX_LINE: usize = 1_000;

/// The output the next signal must spend (rule 4), as the own chain backend sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum TipView {
    /// Nothing usable was ever paid to the address, or it was spent without change.
    #[default]
    NoFunds,
    /// A payment was seen that is not confirmed.
    Unconfirmed {
        /// Its value in sat.
        value_sat: u64,
    },
    /// The tip is spent by a transaction that is not confirmed.
    InFlight {
        /// That transaction.
        by: Txid,
    },
    /// The tip is confirmed and unspent.
    Ready {
        /// The output.
        outpoint: OutPoint,
        /// Its value in sat.
        value_sat: u64,
        /// The block that confirmed it.
        height: u32,
    },
}

/// A beacon signal on the chain: a transaction that spends from the address and ends in 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalSeen {
    /// The 32 bytes.
    pub signal: SignalBytes,
    /// Block that confirmed it; `None` in the mempool.
    pub height: Option<u32>,
}

/// Who spends an output of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendSeen {
    /// The spender.
    pub by: Txid,
    /// Block that confirmed it; `None` in the mempool.
    pub height: Option<u32>,
}

/// An output at the address that nothing spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSeen {
    /// Its value in sat.
    pub value_sat: u64,
    /// Block that confirmed it; `None` in the mempool.
    pub height: Option<u32>,
}

/// The state of the beacon address at one height.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ChainView {
    /// Height of the best block.
    pub height: u32,
    /// The output the next signal must spend.
    pub tip: TipView,
    /// Further confirmed outputs that can be spent, the most valuable first, at most [`MAX_EXTRA`]; empty while
    /// there is no tip that is ready.
    #[serde(default)]
    pub extra: Vec<BeaconOutput>,
    /// Every signal ever sent from the address.
    pub signals: BTreeMap<Txid, SignalSeen>,
    /// Every spent output of the address.
    pub spends: BTreeMap<OutPoint, SpendSeen>,
    /// Every output of the address that nothing spends.
    pub outputs: BTreeMap<OutPoint, OutputSeen>,
    /// Estimated fee rate in sat/vB, when the backend gives one.
    pub fee_rate: Option<u32>,
    /// Transactions that were seen to spend an output, and that another spend took the place of; the last ones. Not of the
    /// chain as it is: what a view has of it comes with what is applied to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<(Txid, OutPoint)>,
}

impl ChainView {
    /// What the core wants to know of an address (rule 4), out of its whole history. The beacon's first tip has at
    /// least `min_start`; `fee_rate` is an estimate in sat/vB.
    #[must_use]
    pub fn of(history: &AddressHistory, min_start: Amount, fee_rate: Option<u32>) -> Self {
        let (tip, extra) = lying(history, min_start);
        let signals = history.signals().into_iter();
        let (mut spends, mut outputs) = (BTreeMap::new(), BTreeMap::new());
        for output in history.outputs() {
            let outpoint = output.output.outpoint;
            match seen_of(&output) {
                (Some(spend), _) => drop(spends.insert(outpoint, spend)),
                (None, seen) => drop(outputs.insert(outpoint, seen)),
            }
        }
        Self {
            height: history.tip_height(),
            tip,
            extra,
            signals: signals.map(|seen| (seen.txid, seen.into())).collect(),
            spends,
            outputs,
            fee_rate,
            displaced: Vec::new(),
        }
    }

    /// The difference that leads from this view to what a history says; `None` when nothing changed. It is as
    /// [`Self::diff`] with [`Self::of`], and looks only at what the history's readings touched since this view was
    /// right.
    #[must_use]
    pub fn news(
        &self,
        history: &AddressHistory,
        touched: &Changes,
        min_start: Amount,
        fee_rate: Option<u32>,
    ) -> Option<ChainUpdate> {
        let Changes::Of(txids, outpoints) = touched else {
            return self.diff(&Self::of(history, min_start, fee_rate));
        };
        let (tip, extra) = lying(history, min_start);
        let mut update = ChainUpdate {
            height: history.tip_height(),
            tip,
            extra: (self.extra != extra).then_some(extra),
            fee_rate,
            ..ChainUpdate::default()
        };
        for txid in txids {
            let seen = history.signal(txid).map(SignalSeen::from);
            if self.signals.get(txid) != seen.as_ref() {
                update.signals.push((*txid, seen));
            }
        }
        for outpoint in outpoints {
            let (spend, output) = match history.output(outpoint).as_ref().map(seen_of) {
                None => (None, None),
                Some((Some(spend), _)) => (Some(spend), None),
                Some((None, output)) => (None, Some(output)),
            };
            if self.spends.get(outpoint) != spend.as_ref() {
                update.spends.push((*outpoint, spend));
            }
            if self.outputs.get(outpoint) != output.as_ref() {
                update.outputs.push((*outpoint, output));
            }
        }
        self.unless_nothing(update)
    }

    /// The difference, if it is one.
    fn unless_nothing(&self, update: ChainUpdate) -> Option<ChainUpdate> {
        let nothing = ChainUpdate {
            height: self.height,
            tip: self.tip,
            fee_rate: self.fee_rate,
            ..ChainUpdate::default()
        };
        (update != nothing).then_some(update)
    }
}

impl From<SeenSignal> for SignalSeen {
    fn from(seen: SeenSignal) -> Self {
        Self {
            signal: seen.signal,
            height: seen.height,
        }
    }
}

/// What spends an output, and what it is while nothing does.
fn seen_of(output: &AddressOutput) -> (Option<SpendSeen>, OutputSeen) {
    let spend = output.spent_by;
    let seen = OutputSeen {
        value_sat: output.output.value.to_sat(),
        height: output.output.height,
    };
    (spend.map(|(by, height)| SpendSeen { by, height }), seen)
}

/// The tip, and what may be spent beside it.
fn lying(history: &AddressHistory, min_start: Amount) -> (TipView, Vec<BeaconOutput>) {
    // Depth is the core's to judge: it gets the height.
    let tip = match history.tip(min_start, 1) {
        Tip::NoFunds { .. } => TipView::NoFunds,
        Tip::Unconfirmed { output, .. } => TipView::Unconfirmed {
            value_sat: output.value.to_sat(),
        },
        Tip::Pending { spent_by, .. } => TipView::InFlight { by: spent_by },
        Tip::Ready { output, .. } => match output.height {
            Some(height) => TipView::Ready {
                outpoint: output.outpoint,
                value_sat: output.value.to_sat(),
                height,
            },
            None => TipView::Unconfirmed {
                value_sat: output.value.to_sat(),
            },
        },
    };
    let extra = match &tip {
        TipView::Ready { outpoint, .. } => history.top_ups(outpoint, MAX_EXTRA),
        _ => Vec::new(),
    };
    (tip, extra)
}

/// What changed since the view the core has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ChainUpdate {
    /// Height of the best block.
    pub height: u32,
    /// The tip.
    pub tip: TipView,
    /// Further outputs that can be spent, if that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Vec<BeaconOutput>>,
    /// New or changed signals; `None` for one that is gone (reorganised away or dropped).
    pub signals: Vec<(Txid, Option<SignalSeen>)>,
    /// New or changed spends; `None` for one that is gone.
    pub spends: Vec<(OutPoint, Option<SpendSeen>)>,
    /// New or changed outputs that nothing spends; `None` for one that is spent or gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<(OutPoint, Option<OutputSeen>)>,
    /// Estimated fee rate in sat/vB.
    pub fee_rate: Option<u32>,
}

impl ChainView {
    /// The difference that leads from this view to `new`; `None` when nothing changed.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Option<ChainUpdate> {
        self.unless_nothing(ChainUpdate {
            height: new.height,
            tip: new.tip,
            extra: (self.extra != new.extra).then(|| new.extra.clone()),
            signals: map_diff(&self.signals, &new.signals),
            spends: map_diff(&self.spends, &new.spends),
            outputs: map_diff(&self.outputs, &new.outputs),
            fee_rate: new.fee_rate,
        })
    }

    /// Applies a difference.
    pub fn apply(&mut self, update: &ChainUpdate) {
        self.height = update.height;
        self.tip = update.tip;
        self.fee_rate = update.fee_rate;
        if let Some(extra) = &update.extra {
            self.extra.clone_from(extra);
            self.extra.truncate(MAX_EXTRA);
        }
        self.note_displaced(update);
        map_apply(&mut self.signals, &update.signals);
        map_apply(&mut self.spends, &update.spends);
        map_apply(&mut self.outputs, &update.outputs);
    }

    /// Notes which spends are about to be displaced, before they are.
    fn note_displaced(&mut self, update: &ChainUpdate) {
        for (output, new) in &update.spends {
            let Some(old) = self.spends.get(output).map(|old| old.by) else {
                continue;
            };
            if new.is_some_and(|new| new.by == old) || self.displaced.contains(&(old, *output)) {
                continue;
            }
            if self.displaced.len() >= MAX_DISPLACED {
                self.displaced.remove(0);
            }
            self.displaced.push((old, *output));
        }
    }

    /// Confirmations of something at `height`: 1 when it is in the best block.
    #[must_use]
    pub const fn confirmations(&self, height: u32) -> u32 {
        match self.height.checked_sub(height) {
            Some(below) => below.saturating_add(1),
            None => 0,
        }
    }

    /// The tip when it has at least `depth` confirmations.
    #[must_use]
    pub fn ready_tip(&self, depth: u8) -> Option<(OutPoint, u64)> {
        match self.tip {
            TipView::Ready {
                outpoint,
                value_sat,
                height,
            } if self.confirmations(height) >= u32::from(depth) => Some((outpoint, value_sat)),
            _ => None,
        }
    }

    /// The tip as an output, when it has at least `depth` confirmations.
    #[must_use]
    pub fn ready_output(&self, depth: u8) -> Option<BeaconOutput> {
        let (outpoint, value_sat) = self.ready_tip(depth)?;
        let height = match self.tip {
            TipView::Ready { height, .. } => Some(height),
            _ => None,
        };
        Some(BeaconOutput {
            outpoint,
            value: Amount::from_sat(value_sat),
            height,
        })
    }

    /// The further outputs with at least `depth` confirmations, each of which a signal may spend beside the tip.
    #[must_use]
    pub fn ready_extra(&self, depth: u8) -> Vec<BeaconOutput> {
        let deep = |output: &&BeaconOutput| {
            output
                .height
                .is_some_and(|height| self.confirmations(height) >= u32::from(depth))
        };
        self.extra.iter().filter(deep).copied().collect()
    }

    /// Whether none of these transactions, which spend `input` all, can confirm any more: another one that spends
    /// it has `depth` confirmations.
    #[must_use]
    pub fn are_dead(&self, txids: &[Txid], input: &OutPoint, depth: u32) -> bool {
        self.spends.get(input).is_some_and(|spend| {
            !txids.contains(&spend.by)
                && spend
                    .height
                    .is_some_and(|height| self.confirmations(height) >= depth)
        })
    }

    /// Whether a transaction that spends `input` can never confirm any more: another one that spends it has
    /// `depth` confirmations.
    #[must_use]
    pub fn is_dead(&self, txid: &Txid, input: &OutPoint, depth: u32) -> bool {
        self.are_dead(std::slice::from_ref(txid), input, depth)
    }

    /// Whether `output` can never be there any more: the transaction that makes it is dead with `depth`
    /// confirmations, or what that one spends can never be there. `input_of` gives what a transaction spends, of those
    /// that are known.
    ///
    /// Of a signal there are several transactions (rungs, replacements). One that was signed on top of the change of
    /// the first ends like this when the chain is reorganised and another one of them comes into a block instead. Who
    /// lost its store has not signed the first, and knows it from the chain as it was before.
    pub fn is_impossible(
        &self,
        output: &OutPoint,
        depth: u32,
        input_of: impl Fn(&Txid) -> Option<OutPoint>,
    ) -> bool {
        let mut maker = output.txid;
        if self.spends.contains_key(output) || self.outputs.contains_key(output) {
            return false;
        }
        for _ in 0..MAX_LINE {
            let displaced = || self.displaced.iter().find(|(txid, _)| *txid == maker);
            let Some(input) = input_of(&maker).or_else(|| displaced().map(|(_, input)| *input))
            else {
                return false;
            };
            if self.spends.contains_key(&input) {
                return self.is_dead(&maker, &input, depth);
            }
            maker = input.txid;
        }
        false
    }
}

fn map_diff<K: Ord + Copy, V: PartialEq + Copy>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<(K, Option<V>)> {
    let changed = new
        .iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .map(|(key, value)| (*key, Some(*value)));
    let gone = old
        .keys()
        .filter(|key| !new.contains_key(key))
        .map(|key| (*key, None));
    changed.chain(gone).collect()
}

fn map_apply<K: Ord + Copy, V: Copy>(map: &mut BTreeMap<K, V>, changes: &[(K, Option<V>)]) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(*key, *value),
            None => map.remove(key),
        };
    }
}

#[cfg(test)]
mod tests;
