//! Where an update stands, from what the machines and the chain say now (DESIGN §6, rule 9).

use bitcoin::Txid;

use super::node::{Machine, Node};
use super::runtime::Agent;
use crate::hash::{CohortId, SmtIndex};
use crate::protocol::aggregator::FINAL_DEPTH;
use crate::protocol::ids::Round;
use crate::protocol::participant::Participant;
use crate::store::{Role, UpdateRow};

/// Where an update stands. Of two, the greater is the one nearer to being final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Stored; waits for a round, or to be announced singly.
    Queued,
    /// This member's response to an open round has it: it will be signed.
    Submitted {
        /// The round.
        round: Round,
    },
    /// A signal that announces it was signed by this agent, and may confirm.
    Signed {
        /// The round, unless it is announced singly.
        round: Option<Round>,
        /// The transaction.
        txid: Txid,
    },
    /// The chain's nodes have the transaction.
    Broadcast {
        /// The round, unless it is announced singly.
        round: Option<Round>,
        /// The transaction.
        txid: Txid,
    },
    /// It is in a block.
    Confirmed {
        /// Blocks on top of it, itself included; from [`FINAL_DEPTH`] on it is final.
        confirmations: u32,
        /// The round, unless it is announced singly.
        round: Option<Round>,
        /// The transaction.
        txid: Txid,
        /// The height of the block.
        height: u32,
    },
}

impl Standing {
    /// Whether its signal is on the chain.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }

    /// Whether its signal is as deep as it has to be before the next update.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Confirmed { confirmations, .. } if *confirmations >= FINAL_DEPTH)
    }

    /// The round it is in.
    #[must_use]
    pub const fn round(&self) -> Option<Round> {
        match self {
            Self::Queued => None,
            Self::Submitted { round } => Some(*round),
            Self::Signed { round, .. }
            | Self::Broadcast { round, .. }
            | Self::Confirmed { round, .. } => *round,
        }
    }

    /// The transaction that announces it.
    #[must_use]
    pub const fn txid(&self) -> Option<Txid> {
        match self {
            Self::Queued | Self::Submitted { .. } => None,
            Self::Signed { txid, .. }
            | Self::Broadcast { txid, .. }
            | Self::Confirmed { txid, .. } => Some(*txid),
        }
    }

    /// The height of its block.
    #[must_use]
    pub const fn height(&self) -> Option<u32> {
        match self {
            Self::Confirmed { height, .. } => Some(*height),
            _ => None,
        }
    }

    /// For people: what it is, and what has to happen before another update.
    #[must_use]
    pub fn told(&self) -> String {
        let inside = match self.round() {
            Some(round) => format!(" in round {round}"),
            None => String::new(),
        };
        match self {
            Self::Queued => {
                "queued: `btcr2-agent did withdraw` takes it back while it is not in a round"
                    .to_owned()
            }
            Self::Submitted { .. } => format!("submitted{inside}; {}", not_final(0)),
            Self::Signed { txid, .. } => {
                format!(
                    "signed{inside}, to be announced by {txid}; {}",
                    not_final(0)
                )
            }
            Self::Broadcast { txid, .. } => {
                format!("broadcast{inside} as {txid}; {}", not_final(0))
            }
            Self::Confirmed {
                confirmations,
                txid,
                height,
                ..
            } if self.is_final() => {
                format!("final{inside}: {txid} in block {height} has {confirmations} confirmations")
            }
            Self::Confirmed {
                confirmations,
                txid,
                height,
                ..
            } => format!(
                "confirmed{inside} by {txid} in block {height}; {}",
                not_final(*confirmations)
            ),
        }
    }
}

/// What to wait for, from so many confirmations on.
pub(super) fn not_final(confirmations: u32) -> String {
    match FINAL_DEPTH.saturating_sub(confirmations) {
        FINAL_DEPTH => format!("not final yet: wait for its {FINAL_DEPTH} confirmations"),
        1 => "not final yet: wait for one more block".to_owned(),
        left => format!("not final yet: wait for {left} more blocks"),
    }
}

impl Agent {
    /// Where an update stands, as the cohorts of this agent and its own spends say; `None` when nobody here has
    /// to do with it, as after a recovery.
    pub(super) fn standing_of(&self, row: &UpdateRow) -> Option<Standing> {
        let index = row.did.parse::<crate::did::Did>().ok()?.smt_index();
        let nodes = self
            .nodes
            .values()
            .filter(|node| node.id.1 == Role::Participant);
        nodes
            .filter_map(|node| in_cohort(node, row, index))
            .chain(self.announced_singly(row))
            .max()
    }
}

/// What one cohort says of an update.
fn in_cohort(node: &Node, row: &UpdateRow, index: SmtIndex) -> Option<Standing> {
    let Machine::Participant(machine) = &node.machine else {
        return None;
    };
    let mine = machine
        .update_state(&index)
        .is_some_and(|(hash, _)| hash == row.hash);
    if !mine {
        return known_transaction(machine, node.id.0, row);
    }
    let open = machine.open_round_now().filter(|round| {
        let mut said = round.said.iter();
        round.responded && said.any(|(of, hash, _)| *of == index && *hash == Some(row.hash))
    });
    let submitted = open.map(|open| Standing::Submitted { round: open.round });
    let chain = machine.chain();
    // By the bytes and not by the transaction: whichever transaction carries them, they say the same.
    let announced = machine.announcements(&index).flat_map(|given| {
        let round = Some(given.round);
        let seen = chain
            .signals
            .iter()
            .filter(|(_, seen)| seen.signal == given.signal);
        let on_chain = seen.map(move |(txid, seen)| on_chain(machine, round, *txid, seen.height));
        // Of the rungs of a round the one to expect.
        let alive = !machine.is_dead(given, FINAL_DEPTH) && machine.is_leading(given);
        let signed = alive.then_some(Standing::Signed {
            round,
            txid: given.txid,
        });
        on_chain.chain(signed)
    });
    // Signed by the copy this store was restored from, and seen on the chain.
    let by_a_copy = chain.signals.iter().filter_map(|(txid, seen)| {
        let announces = machine.announced(&index).any(|of| *of == seen.signal);
        announces.then(|| on_chain(machine, None, *txid, seen.height))
    });
    announced
        .chain(by_a_copy)
        .chain(submitted)
        .max()
        .or(Some(Standing::Queued))
}

/// An earlier update, which the machine has put aside for a later one: only its transaction is known.
fn known_transaction(machine: &Participant, cohort: CohortId, row: &UpdateRow) -> Option<Standing> {
    let txid = row.txid.filter(|_| row.cohort == Some(cohort))?;
    let chain = machine.chain();
    Some(match chain.signals.get(&txid) {
        Some(seen) => on_chain(machine, row.round, txid, seen.height),
        // Before the chain was read nothing is known.
        None if chain.height == 0 => return None,
        None => Standing::Signed {
            round: row.round,
            txid,
        },
    })
}

fn on_chain(
    machine: &Participant,
    round: Option<Round>,
    txid: Txid,
    height: Option<u32>,
) -> Standing {
    match height {
        None => Standing::Broadcast { round, txid },
        Some(height) => Standing::Confirmed {
            confirmations: machine.chain().confirmations(height),
            round,
            txid,
            height,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txid() -> Txid {
        "11".repeat(32).parse().unwrap()
    }

    fn confirmed(confirmations: u32) -> Standing {
        Standing::Confirmed {
            confirmations,
            round: Some(Round(3)),
            txid: txid(),
            height: 100,
        }
    }

    #[test]
    fn what_is_nearer_to_final_is_greater() {
        let (round, txid) = (Some(Round(9)), txid());
        let rising = [
            Standing::Queued,
            Standing::Submitted { round: Round(9) },
            Standing::Signed { round, txid },
            Standing::Broadcast { round, txid },
            confirmed(1),
            confirmed(6),
        ];
        assert!(rising.is_sorted());
        let finals: Vec<bool> = rising.iter().map(Standing::is_final).collect();
        assert_eq!(finals, [false, false, false, false, false, true]);
    }

    #[test]
    fn it_says_what_to_wait_for() {
        for (standing, expected) in [
            (confirmed(1), "in round 3 by 1111"),
            (confirmed(1), "not final yet: wait for 5 more blocks"),
            (confirmed(5), "wait for one more block"),
            (confirmed(7), "final in round 3"),
            (
                Standing::Submitted { round: Round(4) },
                "submitted in round 4; not final yet",
            ),
            (
                Standing::Signed {
                    round: None,
                    txid: txid(),
                },
                "signed, to be announced by 1111",
            ),
        ] {
            let told = standing.told();
            assert!(told.contains(expected), "{told}");
        }
        assert!(!confirmed(6).told().contains("not final yet"));
    }
}
