//! Which of the transactions that were made or signed here one is.
//!
//! The id of a transaction commits to all of its bytes but the signatures: what has the id of one that is known here is
//! that one, byte for byte.

use bitcoin::{OutPoint, Transaction, TxOut, Txid};

use crate::agent::node::{Machine, Node};
use crate::protocol::aggregator::Aggregator;
use crate::protocol::export::Unsigned;
use crate::protocol::ids::{Label, Round};
use crate::protocol::participant::Participant;

/// A transaction of a cohort that was made or signed here.
#[derive(Debug, Clone)]
pub(super) struct Recognised {
    /// Its rung in the round, from 1, counted on in replacement sessions; of a refund that of the signal whose change it
    /// spends. Absent of what was paid in, and of rounds that are over.
    pub(super) rung: Option<u8>,
    /// The round, unless it is the refund of what was paid in.
    pub(super) round: Option<Round>,
    /// The transaction, where it is kept.
    pub(super) tx: Option<Transaction>,
    /// Whether this agent gave its signature, as a member.
    pub(super) signed_here: bool,
}

impl Node {
    /// The transaction with this id, if it is one of this cohort that was made or signed here.
    pub(super) fn recognise(&self, txid: &Txid) -> Option<Recognised> {
        let known = match &self.machine {
            Machine::Aggregator(machine) => of_aggregator(machine, txid),
            Machine::Participant(machine) => of_participant(machine, txid),
        };
        known.or_else(|| {
            // A fallback, or a round that is over.
            let mut watched = self.watch().all();
            let watched = watched.find(|watched| watched.txid == *txid)?;
            Some(Recognised {
                rung: None,
                round: Some(watched.round),
                tx: None,
                signed_here: matches!(self.machine, Machine::Participant(_)),
            })
        })
    }

    /// An output of such a transaction.
    pub(super) fn recognised_output(&self, outpoint: &OutPoint) -> Option<TxOut> {
        let tx = self.recognise(&outpoint.txid)?.tx?;
        let position = usize::try_from(outpoint.vout).ok()?;
        tx.output.get(position).cloned()
    }
}

fn of_aggregator(machine: &Aggregator, txid: &Txid) -> Option<Recognised> {
    let signed = machine.unsettled().iter().find_map(|signal| {
        let (rung, tx) = signal.find(txid)?;
        Some(Recognised {
            rung: Some(rung),
            round: Some(signal.round),
            tx: Some(tx.clone()),
            signed_here: false,
        })
    });
    let round = machine.open_round_now().map(|open| open.round);
    signed
        .or_else(|| being_signed(machine.unsigned(), txid, round, |_| false))
        .or_else(|| machine.is_refund(txid).then(|| refund(false)))
}

fn of_participant(machine: &Participant, txid: &Txid) -> Option<Recognised> {
    let given = machine.given().iter().find_map(|given| {
        let tx = if given.txid == *txid {
            Some(given.signed.as_ref().unwrap_or(&given.tx).clone())
        } else if given.refund == Some(*txid) {
            let held = machine.refund_of(&OutPoint::new(given.txid, 0));
            held.map(|held| held.tx.clone())
        } else {
            return None;
        };
        Some(Recognised {
            rung: Some(given.rung),
            round: Some(given.round),
            tx,
            signed_here: true,
        })
    });
    let round = machine.open_round_now().map(|open| open.round);
    let me = machine.me();
    let by_me = |unsigned: &Unsigned| {
        let mut shares = unsigned.shares.iter();
        shares.any(|share| share.member == me && share.partial.is_some())
    };
    given
        .or_else(|| being_signed(machine.unsigned(), txid, round, by_me))
        .or_else(|| machine.is_refund(txid).then(|| refund(true)))
}

/// Among the transactions of open sessions. Those of the round come first; the refund of a deposit is no round's.
fn being_signed(
    unsigned: Vec<Unsigned>,
    txid: &Txid,
    round: Option<Round>,
    signed_here: impl Fn(&Unsigned) -> bool,
) -> Option<Recognised> {
    let signals: Vec<Txid> = unsigned
        .iter()
        .filter(|unsigned| matches!(unsigned.label, Label::Signal { .. }))
        .map(Unsigned::txid)
        .collect();
    let found = unsigned
        .into_iter()
        .find(|unsigned| unsigned.txid() == *txid)?;
    let of_round = matches!(found.label, Label::Signal { .. })
        || found
            .tx
            .input
            .iter()
            .any(|input| signals.contains(&input.previous_output.txid));
    Some(Recognised {
        rung: Some(found.label.rung()).filter(|_| of_round),
        round: round.filter(|_| of_round),
        signed_here: signed_here(&found),
        tx: Some(found.tx),
    })
}

/// The refund of an output that was paid in.
const fn refund(signed_here: bool) -> Recognised {
    Recognised {
        rung: None,
        round: None,
        tx: None,
        signed_here,
    }
}
