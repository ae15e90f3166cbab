//! Sending singleton signals until they are confirmed, and where they stand (DESIGN §6, rule 9).

use std::collections::BTreeSet;

use bitcoin::{Address, Transaction, Txid};

use super::super::error::AgentError;
use super::super::events::What;
use super::super::money::send;
use super::super::node::Machine;
use super::super::runtime::{Agent, Internal};
use super::super::standing::Standing;
use super::paying::transaction_of;
use crate::beacon::history::AddressHistory;
use crate::did::Did;
use crate::network::Network;
use crate::protocol::aggregator::FINAL_DEPTH;
use crate::store::{SpendRow, SpendStanding, SpendState, UpdateRow};

/// Seconds between two attempts to have a signal taken by the chain. Nodes forget what does not pay, and a server
/// may have been away.
const SEND_AGAIN_SECONDS: u64 = 300;

impl Agent {
    /// The addresses whose signals have to be followed.
    pub(in crate::agent) fn spend_addresses(&self, network: Network) -> BTreeSet<Address> {
        let rows = self.store.view().open_spends().unwrap_or_default();
        rows.iter()
            .filter(|row| network_of(row) == Some(network))
            .filter_map(|row| {
                let address = row.address.parse::<Address<_>>().ok()?;
                address.require_network(network.bitcoin_network()).ok()
            })
            .collect()
    }

    /// Moves the signals of an address to what its history says, and sends what the chain does not have.
    pub(in crate::agent) fn follow_spends(
        &mut self,
        network: Network,
        address: &str,
        history: &AddressHistory,
    ) -> Result<(), AgentError> {
        let rows: Vec<SpendRow> = self
            .store
            .view()
            .open_spends()?
            .into_iter()
            .filter(|row| row.address == address && network_of(row) == Some(network))
            .collect();
        let mut settled = BTreeSet::new();
        let mut unseen = Vec::new();
        for row in rows {
            let tx = transaction_of(&row)?;
            let standing = standing_of(&row, &tx, history);
            if standing != row.standing {
                self.move_spend(&row, &standing)?;
                // The chain had it and lost it: at once, and not when the time for it comes.
                self.sending.attempts.remove(&row.txid);
            }
            // Also when only the height grew: confirmations are counted from it.
            settled.insert(row.did.clone());
            if standing.state == SpendState::Signed
                || (standing.state == SpendState::Conflicted && standing.height.is_none())
            {
                unseen.push((row, tx));
            }
        }
        for (row, tx) in unseen {
            if self.is_last(&row)? {
                self.send_again(network, row.txid, tx);
            }
        }
        for did in settled {
            self.settle_did(None, &did)?;
        }
        self.refresh_watch();
        Ok(())
    }

    /// Where the signals stand that announce an update singly; the best of them.
    pub(in crate::agent) fn announced_singly(&self, row: &UpdateRow) -> Option<Standing> {
        let spends = self.store.view().spends_of(&row.did, row.target_version);
        let spends = spends.inspect_err(|error| tracing::error!(%error, "signals can not be read"));
        let network = row.did.parse::<Did>().ok()?.network();
        let tip = self
            .chain_states
            .get(&network)
            .and_then(|chain| chain.height);
        let standing = |spend: &SpendRow| {
            let txid = spend.txid;
            match (spend.standing.state, spend.standing.height) {
                (SpendState::Confirmed, Some(height)) => Some(Standing::Confirmed {
                    confirmations: confirmations(tip, height),
                    round: None,
                    txid,
                    height,
                }),
                (SpendState::Final, Some(height)) => Some(Standing::Confirmed {
                    confirmations: confirmations(tip, height).max(FINAL_DEPTH),
                    round: None,
                    txid,
                    height,
                }),
                (SpendState::Broadcast, _) => Some(Standing::Broadcast { round: None, txid }),
                (SpendState::Dead, _) => None,
                // Signed for once: it may confirm, whatever is in its way now.
                _ => Some(Standing::Signed { round: None, txid }),
            }
        };
        spends.ok()?.iter().filter_map(standing).max()
    }

    /// What the chain said to a signal that was sent.
    pub(in crate::agent) fn spend_sent(
        &mut self,
        txid: Txid,
        refused: Option<String>,
    ) -> Result<(), AgentError> {
        let Some(row) = self.store.view().spend(txid)? else {
            return Ok(());
        };
        let mut standing = row.standing.clone();
        // The history may have been read meanwhile, and knows more.
        match &refused {
            None if standing.state == SpendState::Signed => standing.state = SpendState::Broadcast,
            _ => {}
        }
        standing.reason.clone_from(&refused);
        if standing != row.standing {
            self.move_spend(&row, &standing)?;
            self.settle_did(None, &row.did)?;
        }
        let watch = network_of(&row).and_then(|network| self.chains.get(&network));
        if refused.is_none()
            && let Some(watch) = watch
        {
            watch.nudge();
        }
        Ok(())
    }

    fn move_spend(&mut self, row: &SpendRow, standing: &SpendStanding) -> Result<(), AgentError> {
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_spend(row.txid, standing)?))?;
        if standing.state == SpendState::Dead {
            self.unpin_if_dead(row)?;
        }
        self.emit(
            None,
            What::Announcement {
                did: row.did.clone(),
                version: row.target_version,
                txid: row.txid,
                standing: standing.clone(),
            },
        );
        Ok(())
    }

    /// Releases the pin on an update's bytes when nothing that announces them can confirm any more (rule 10).
    fn unpin_if_dead(&mut self, row: &SpendRow) -> Result<(), AgentError> {
        let view = self.store.view();
        let spends = view.spends_of(&row.did, row.target_version)?;
        let alive = spends
            .iter()
            .any(|spend| spend.standing.state != SpendState::Dead);
        let Some(update) = view.update(&row.did, row.target_version)? else {
            return Ok(());
        };
        let Ok(did) = row.did.parse::<Did>() else {
            return Ok(());
        };
        let index = did.smt_index();
        let in_cohorts = self.nodes.values().any(|node| match &node.machine {
            Machine::Participant(machine) => {
                let mine = machine.update_state(&index);
                mine.is_some_and(|(hash, _)| hash == update.hash)
                    && machine.announcements(&index).next().is_some()
            }
            Machine::Aggregator(_) => false,
        });
        if alive || in_cohorts {
            return Ok(());
        }
        self.store.transaction::<_, AgentError>(|tx| {
            Ok(tx.pin_update(&row.did, row.target_version, false)?)
        })
    }

    /// Whether no later transaction replaces this one.
    fn is_last(&self, row: &SpendRow) -> Result<bool, AgentError> {
        let spends = self.store.view().spends_of(&row.did, row.target_version)?;
        let mut alive = spends
            .iter()
            .rev()
            .filter(|spend| !spend.standing.state.is_over());
        Ok(alive.next().is_some_and(|last| last.txid == row.txid))
    }

    /// Sends a signal that the chain does not show, unless that was tried a moment ago.
    fn send_again(&mut self, network: Network, txid: Txid, tx: Transaction) {
        let now = self.now();
        let attempt = self.sending.attempts.get(&txid);
        if attempt.is_some_and(|at| now.since(*at) < SEND_AGAIN_SECONDS) {
            return;
        }
        // The gate decides here too: what was signed while it was open is not sent after it was closed.
        let (Ok(permit), Ok(backend)) = (self.gate.permit(network), self.backend_of(network))
        else {
            return;
        };
        self.sending.attempts.insert(txid, now);
        let internal = self.internal.clone();
        tokio::spawn(async move {
            let refused = send(permit, &backend, &tx).await.err();
            let refused = refused.map(|error| error.to_string());
            let _ = internal.send(Internal::Spend { txid, refused });
        });
    }
}

fn network_of(row: &SpendRow) -> Option<Network> {
    row.did.parse::<Did>().ok().map(|did| did.network())
}

/// Blocks from one at `height` to the tip, itself included; one while the tip is not known.
fn confirmations(tip: Option<u32>, height: u32) -> u32 {
    tip.map_or(1, |tip| tip.saturating_sub(height).saturating_add(1))
}

/// Where a signal stands, as the history of its address says.
pub(super) fn standing_of(
    row: &SpendRow,
    tx: &Transaction,
    history: &AddressHistory,
) -> SpendStanding {
    let on_chain = |state, height| SpendStanding {
        state,
        height,
        conflict: None,
        reason: None,
    };
    match history.height_of(&row.txid) {
        Some(Some(height)) if history.confirmations(Some(height)) >= FINAL_DEPTH => {
            return on_chain(SpendState::Final, Some(height));
        }
        Some(Some(height)) => return on_chain(SpendState::Confirmed, Some(height)),
        Some(None) => return on_chain(SpendState::Broadcast, None),
        None => {}
    }
    // The conflict that is deepest in the chain decides.
    let conflict = tx
        .input
        .iter()
        .filter_map(|input| history.spender(&input.previous_output))
        .max_by_key(|(txid, height)| (history.confirmations(*height), *txid));
    match conflict {
        None => SpendStanding {
            state: SpendState::Signed,
            height: None,
            conflict: None,
            reason: row.standing.reason.clone(),
        },
        Some((txid, height)) => SpendStanding {
            state: if history.confirmations(height) >= FINAL_DEPTH {
                SpendState::Dead
            } else {
                SpendState::Conflicted
            },
            height,
            conflict: Some(txid),
            reason: row.standing.reason.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::absolute::LockTime;
    use bitcoin::consensus::encode::serialize;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, OutPoint, ScriptBuf, TxIn, TxOut};

    use super::*;
    use crate::beacon::history::AddressTx;
    use crate::time::UnixTime;

    fn tx(input: OutPoint, sat: u64) -> Transaction {
        Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: input,
                ..TxIn::default()
            }],
            output: vec![TxOut {
                value: Amount::from_sat(sat),
                script_pubkey: ScriptBuf::new_op_return([0; 32]),
            }],
        }
    }

    fn outpoint(n: u8) -> OutPoint {
        OutPoint::new(bitcoin::hashes::Hash::from_byte_array([n; 32]), 0)
    }

    fn row(tx: &Transaction) -> SpendRow {
        SpendRow {
            txid: tx.compute_txid(),
            did: "did:btcr2:x".into(),
            target_version: 2,
            service: "#s".into(),
            address: "a".into(),
            raw: serialize(tx),
            fee: 300,
            standing: SpendStanding {
                reason: Some("it was refused".into()),
                ..SpendStanding::signed()
            },
            created: UnixTime(1),
        }
    }

    /// The standing at a tip, with these transactions in blocks or in the mempool.
    fn at(tip: u32, seen: &[(&Transaction, Option<u32>)]) -> SpendStanding {
        let mine = tx(outpoint(1), 5);
        let history = AddressHistory::new(
            ScriptBuf::new(),
            tip,
            seen.iter().map(|(tx, height)| AddressTx {
                tx: (*tx).clone().into(),
                height: *height,
            }),
        );
        standing_of(&row(&mine), &mine, &history)
    }

    #[test]
    fn a_signal_stands_where_the_chain_says_and_moves_back() {
        let (mine, rival) = (tx(outpoint(1), 5), tx(outpoint(1), 6));
        let rival_txid = rival.compute_txid();
        let unseen = at(100, &[]);
        assert_eq!(unseen.state, SpendState::Signed);
        assert_eq!(unseen.reason.as_deref(), Some("it was refused"));
        assert_eq!(at(100, &[(&mine, None)]).state, SpendState::Broadcast);
        assert_eq!(at(100, &[(&mine, None)]).reason, None);
        for (tip, state) in [
            (100, SpendState::Confirmed),
            (104, SpendState::Confirmed),
            (105, SpendState::Final),
        ] {
            let seen = at(tip, &[(&mine, Some(100))]);
            assert_eq!((seen.state, seen.height), (state, Some(100)), "{tip}");
        }
        for (tip, height, state) in [
            (100, None, SpendState::Conflicted),
            (100, Some(100), SpendState::Conflicted),
            (105, Some(100), SpendState::Dead),
        ] {
            let seen = at(tip, &[(&rival, height)]);
            assert_eq!((seen.state, seen.conflict), (state, Some(rival_txid)));
            assert_eq!(seen.height, height);
        }
        // A rival in the mempool is nothing once this one is in a block.
        let both = at(100, &[(&rival, None), (&mine, Some(99))]);
        assert_eq!((both.state, both.conflict), (SpendState::Confirmed, None));
    }
}
