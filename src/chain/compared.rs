//! Several servers that have to agree on what moves money.
//!
//! The first one answers; what the others say is held against it. Where two disagree, neither is
//! believed: which of them lies, or is on a stale fork, is for the operator to find out, and a
//! majority of servers is no better than the one who runs them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::{Address, BlockHash, FeeRate, OutPoint, Script, ScriptBuf, Transaction, Txid};

use super::{
    AddressHistory, BlockFacts, BroadcastError, ChainBackend, ChainError, ReadUpTo, Tip, TxStatus,
};
use crate::network::Network;
use crate::time::UnixTime;

/// Attempts to see all servers at the same last block, and the pause between them. Servers hear of a
/// block within seconds of each other.
const TIP_ATTEMPTS: u32 = 4;
const TIP_PAUSE: Duration = Duration::from_millis(500);

/// A server whose answers are compared with those of others.
#[derive(Clone)]
pub struct ComparedBackend {
    primary: Box<ChainBackend>,
    checks: Arc<[ChainBackend]>,
    host: String,
}

impl fmt::Debug for ComparedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComparedBackend")
            .field("primary", &self.primary)
            .field("checks", &self.checks)
            .finish()
    }
}

impl ComparedBackend {
    pub(super) fn new(primary: ChainBackend, checks: Vec<ChainBackend>) -> Self {
        let names: Vec<&str> = checks.iter().map(ChainBackend::host).collect();
        let host = format!("{} (checked by {})", primary.host(), names.join(", "));
        Self {
            primary: Box::new(primary),
            checks: checks.into(),
            host,
        }
    }

    /// The servers' names, for messages.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The tip of the first server. It says when to look, and moves no money by itself.
    pub(super) async fn tip(&self) -> Result<Tip, ChainError> {
        self.primary.tip().await
    }

    /// The history all servers agree on, at one tip they all have. What the reader has, they agreed on before.
    pub(super) async fn address_history(
        &self,
        address: &Address,
        mut known: Option<ReadUpTo>,
    ) -> Result<AddressHistory, ChainError> {
        let script = address.script_pubkey();
        let mut history = self.primary.address_history_above(address, known).await?;
        let mut attempt = 1;
        'again: loop {
            for check in self.checks.iter() {
                let other = check.address_history_above(address, known).await?;
                if other.above != history.above {
                    // One of them does not have that block: all of it is compared. Nobody names one then.
                    known = None;
                    history = self.primary.address_history(address).await?;
                    continue 'again;
                }
                if other.tip_hash == history.tip_hash {
                    self.compare(&script, &history, check, &other)?;
                    continue;
                }
                if attempt == TIP_ATTEMPTS {
                    return Err(self.apart(&history, check, &other).await?);
                }
                attempt += 1;
                tokio::time::sleep(TIP_PAUSE).await;
                history = self.primary.address_history_above(address, known).await?;
                continue 'again;
            }
            return Ok(history);
        }
    }

    pub(super) async fn tx_status(&self, txid: Txid) -> Result<TxStatus, ChainError> {
        self.primary.tx_status(txid).await
    }

    /// The first server's estimate, or that of the next one that has one.
    pub(super) async fn fee_rate(&self, target_blocks: u16) -> Result<Option<FeeRate>, ChainError> {
        let first = self.primary.fee_rate(target_blocks).await;
        if let Ok(Some(rate)) = first {
            return Ok(Some(rate));
        }
        for check in self.checks.iter() {
            if let Ok(Some(rate)) = check.fee_rate(target_blocks).await {
                return Ok(Some(rate));
            }
        }
        first
    }

    /// Gives the transaction to every server, so that no single one can hold it back. What the first
    /// one says counts, unless it cannot be reached and another one took it.
    pub(super) async fn broadcast(&self, tx: &Transaction) -> Result<(), BroadcastError> {
        let first = self.primary.broadcast(tx).await;
        let mut taken = false;
        for check in self.checks.iter() {
            taken |= check.broadcast(tx).await.is_ok();
        }
        match first {
            Err(BroadcastError::Chain(_)) if taken => Ok(()),
            first => first,
        }
    }

    pub(super) async fn block_hash(&self, height: u32) -> Result<Option<BlockHash>, ChainError> {
        self.primary.block_hash(height).await
    }

    /// A block's place and times, which all servers that have it must give alike: DIDs resolve by them.
    pub(super) async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, ChainError> {
        let Some(facts) = self.primary.block(hash).await? else {
            return Ok(None);
        };
        for check in self.checks.iter() {
            if let Some(other) = check.block(hash).await?
                && other != facts
            {
                let at = |facts: &BlockFacts| {
                    let UnixTime(median) = facts.median_time;
                    format!("at height {} with median time {median}", facts.height)
                };
                let fact = format!("block {hash} is {} or {}", at(&facts), at(&other));
                return Err(self.disagreement(check, fact));
            }
        }
        Ok(Some(facts))
    }

    pub(super) async fn prove_network(&self, network: Network) -> Result<(), ChainError> {
        self.primary.prove_network(network).await?;
        for check in self.checks.iter() {
            check.prove_network(network).await?;
        }
        Ok(())
    }

    /// Compares two histories read at the same tip: the confirmed transactions, by which outputs,
    /// values, spends and signals are given, and the block of each.
    fn compare(
        &self,
        script: &ScriptBuf,
        history: &AddressHistory,
        check: &ChainBackend,
        other: &AddressHistory,
    ) -> Result<(), ChainError> {
        let (ours, theirs) = (confirmed(history), confirmed(other));
        let only = |of: &BTreeMap<Txid, u32>, not: &BTreeMap<Txid, u32>| {
            of.iter()
                .find(|(txid, height)| not.get(*txid) != Some(*height))
                .map(|(txid, height)| (*txid, *height))
        };
        let (txid, height, has, history) = match (only(&ours, &theirs), only(&theirs, &ours)) {
            (Some((txid, height)), _) => (txid, height, self.primary.host(), history),
            (None, Some((txid, height))) => (txid, height, check.host(), other),
            (None, None) => return Ok(()),
        };
        let what = describe(script, history, txid);
        let fact = format!(
            "only {has} has transaction {txid} in block {height} of the address's history at the same last block; it {what}"
        );
        Err(self.disagreement(check, fact))
    }

    /// The error for two servers that did not come to the same tip: merely apart if one of the tips is in
    /// the other's chain.
    async fn apart(
        &self,
        history: &AddressHistory,
        check: &ChainBackend,
        other: &AddressHistory,
    ) -> Result<ChainError, ChainError> {
        let behind = if other.tip_height <= history.tip_height {
            self.primary.block_hash(other.tip_height).await? == Some(other.tip_hash)
        } else {
            check.block_hash(history.tip_height).await? == Some(history.tip_hash)
        };
        if behind {
            return Ok(ChainError::TipsApart {
                host_a: self.primary.host().to_owned(),
                height_a: history.tip_height,
                host_b: check.host().to_owned(),
                height_b: other.tip_height,
            });
        }
        let fact = format!(
            "their last blocks are {} at height {} and {} at height {}, on two branches",
            history.tip_hash, history.tip_height, other.tip_hash, other.tip_height
        );
        Ok(self.disagreement(check, fact))
    }

    fn disagreement(&self, check: &ChainBackend, fact: String) -> ChainError {
        ChainError::Disagreement {
            host_a: self.primary.host().to_owned(),
            host_b: check.host().to_owned(),
            fact,
        }
    }
}

fn confirmed(history: &AddressHistory) -> BTreeMap<Txid, u32> {
    let txs = history.txs.iter();
    txs.filter_map(|entry| Some((entry.tx.compute_txid(), entry.height?)))
        .collect()
}

/// What a transaction of a history does to the address, in words.
fn describe(script: &Script, history: &AddressHistory, txid: Txid) -> String {
    let mut txs = history.txs.iter();
    let Some(found) = txs.find(|entry| entry.tx.compute_txid() == txid) else {
        return "is unknown".to_owned();
    };
    let mut parts = Vec::new();
    let spends: Vec<OutPoint> = found
        .tx
        .input
        .iter()
        .map(|input| input.previous_output)
        .filter(|spent| {
            history.txs.iter().any(|entry| {
                entry.tx.compute_txid() == spent.txid
                    && usize::try_from(spent.vout)
                        .ok()
                        .and_then(|vout| entry.tx.output.get(vout))
                        .is_some_and(|output| output.script_pubkey.as_script() == script)
            })
        })
        .collect();
    parts.extend(spends.iter().map(|spent| format!("spends {spent}")));
    parts.extend(
        (0u32..)
            .zip(&found.tx.output)
            .filter(|(_, output)| output.script_pubkey.as_script() == script)
            .map(|(vout, output)| format!("pays {} to output {vout}", output.value)),
    );
    parts.join(" and ")
}
