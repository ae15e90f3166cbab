//! Signing a singleton signal, storing it, and handing it to the chain.

use bitcoin::Transaction;
use bitcoin::consensus::encode::serialize;

use super::super::error::AgentError;
use super::super::fresh::FreshResolution;
use super::super::handle::AgentHandle;
use super::super::money::send;
use super::super::node::Machine;
use super::super::routing::Via;
use super::super::runtime::Agent;
use super::super::standing::Standing;
use super::paying::{Announce, Funds, Quote};
use crate::chain::{BroadcastError, ChainBackend};
use crate::did::{Did, Document, ErrorCode, SignedUpdate, VerifyOptions, verify};
use crate::hash::{SignalBytes, UpdateHash};
use crate::network::Network;
use crate::protocol::aggregator::FINAL_DEPTH;
use crate::protocol::money::MoneyPermit;
use crate::store::{SpendRow, SpendStanding, UpdateRow};

/// A signal that was signed and stored.
#[derive(Debug, Clone)]
pub struct SignedSpend {
    /// Its row in the store.
    pub row: SpendRow,
    /// The transaction.
    pub tx: Transaction,
    /// What it costs; `None` if it was signed before.
    pub quote: Option<Quote>,
    backend: ChainBackend,
}

/// What came of an announcement.
#[derive(Debug, Clone)]
pub struct Announced {
    /// What was signed.
    pub spend: SignedSpend,
    /// Why the chain did not take it. It stays stored, and is sent again.
    pub refused: Option<String>,
}

impl AgentHandle {
    /// Announces the pending update of a DID through one of its own beacons. Called again, it sends the same
    /// transaction again; with a fee rate it replaces it.
    ///
    /// # Errors
    /// [`AgentError`]: nothing was signed. What the chain says to a signed transaction is in the answer.
    pub async fn announce_did(
        &self,
        did: &Did,
        announce: &Announce,
    ) -> Result<Announced, AgentError> {
        let fresh = self.resolve_fresh(did).await?;
        let funds = self
            .ask_funds(fresh.document(), announce.service.clone())
            .await?;
        let announce = announce.clone();
        let spend = self
            .with(move |agent| agent.sign_announcement(&fresh, &funds, &announce))
            .await??;
        self.send_spend(spend).await
    }

    /// Sends what was stored, and notes what the chain said to it.
    pub(super) async fn send_spend(&self, spend: SignedSpend) -> Result<Announced, AgentError> {
        let network = spend.network()?;
        let permit = self.with(move |agent| agent.gate.permit(network)).await?;
        let refused = match permit {
            Ok(permit) => spend
                .send(permit)
                .await
                .err()
                .map(|error| error.to_string()),
            Err(refused) => Some(refused.to_string()),
        };
        let (txid, reason) = (spend.row.txid, refused.clone());
        self.with(move |agent| agent.spend_sent(txid, reason))
            .await??;
        Ok(Announced { spend, refused })
    }
}

impl SignedSpend {
    /// Hands the transaction to the network. One that is there already counts as taken.
    ///
    /// # Errors
    /// [`BroadcastError`], with the node's reason.
    pub async fn send(&self, permit: MoneyPermit) -> Result<(), BroadcastError> {
        send(permit, &self.backend, &self.tx).await
    }

    fn network(&self) -> Result<Network, AgentError> {
        let did: Result<Did, _> = self.row.did.parse();
        did.map(|did| did.network())
            .map_err(|_| AgentError::Defect("a stored signal is of no DID"))
    }
}

impl Agent {
    /// Signs the signal that announces the pending update of a DID, and stores it. What was signed before comes back
    /// as it is, unless a fee rate is given that replaces it.
    ///
    /// `fresh` has to show the version before the update's.
    ///
    /// # Errors
    /// [`AgentError`]: nothing was stored.
    pub fn sign_announcement(
        &mut self,
        fresh: &FreshResolution,
        funds: &Funds,
        announce: &Announce,
    ) -> Result<SignedSpend, AgentError> {
        let did = fresh.did();
        let update = self.pending_update_after(fresh)?;
        let version = update.target_version;
        let signed = self.announcements_now(did, version, Some(funds))?;
        if let Some((row, _)) = signed.iter().find(|(row, _)| row.standing.is_on_chain()) {
            return Err(AgentError::Refused(format!(
                "the update to version {version} is on the chain, announced by {}: wait for its {FINAL_DEPTH} \
                 confirmations",
                row.txid
            )));
        }
        if let Some((row, tx)) = self.announced_before(did, version, Some(funds))?
            && announce.fee_rate.is_none()
        {
            return Ok(SignedSpend {
                row,
                tx,
                quote: None,
                backend: funds.backend.clone(),
            });
        }
        let after = target_of(&update, fresh)?;
        self.require_same_bytes(did, &update)?;
        let quote = self.quote(did, Some(version), funds, announce)?;
        let plan = quote.plan.clone()?;
        // Asked for now, not when the chain was asked: money may have been stopped meanwhile.
        let permit = self.gate.permit(funds.network)?.to_spend(plan.fee)?;
        // From here on this member signs no cohort's signal that the new document could not explain (rule 13).
        let binds = self.new_bindings(fresh.document(), &after)?;
        self.begin_binding(did, &binds)?;
        let via = Via::Singleton {
            service: Some(quote.service.clone()),
        };
        self.reroute_update(did, version, &via)?;
        let key = self
            .key_of_beacon(did, &quote.beacon)?
            .ok_or(AgentError::Defect("the beacon's key was there before"))?;
        let signal = SignalBytes::from_bytes(*update.hash.as_bytes());
        let tx = quote
            .beacon
            .build(&plan, signal)
            .sign(&key)
            .map_err(|_| AgentError::Defect("the beacon is of this key"))?;
        let row = SpendRow {
            txid: tx.compute_txid(),
            did: did.to_string(),
            target_version: version,
            service: quote.service.clone(),
            address: quote.address.to_string(),
            raw: serialize(&tx),
            fee: plan.fee.to_sat(),
            standing: SpendStanding::signed(),
            created: self.now(),
        };
        self.store_spend(&permit, &row)?;
        self.refresh_watch();
        Ok(SignedSpend {
            row,
            tx,
            quote: Some(quote),
            backend: funds.backend.clone(),
        })
    }

    /// Stores a signed signal before it is sent: the transaction, the pin on the update's bytes, and where the update
    /// stands, together.
    fn store_spend(&mut self, permit: &MoneyPermit, row: &SpendRow) -> Result<(), AgentError> {
        let network = row.did.parse::<Did>().map(|did| did.network());
        if network != Ok(permit.network()) {
            return Err(AgentError::Defect(
                "money was permitted for another network",
            ));
        }
        let now = self.now();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.insert_spend(row)?;
            tx.pin_update(&row.did, row.target_version, true)?;
            Ok(())
        })?;
        self.sending.attempts.insert(row.txid, now);
        self.settle_did(None, &row.did)
    }

    /// The update that follows what a resolution shows.
    fn pending_update_after(&self, fresh: &FreshResolution) -> Result<UpdateRow, AgentError> {
        let did = fresh.did();
        fresh.require_recent(self.now())?;
        let next = fresh.version().saturating_add(1);
        let view = self.store.view();
        let Some(update) = view.update(did.as_str(), next)? else {
            let last = view.updates_of(did.as_str())?.pop();
            return Err(AgentError::Refused(match last {
                Some(last) if last.target_version > next => format!(
                    "the DID resolves to version {}, and the stored update leads to version {}: the one before it \
                     is not final yet",
                    fresh.version(),
                    last.target_version
                ),
                _ => format!(
                    "there is nothing to announce: the DID resolves to version {}, and no update of that version is \
                     stored; make one with `btcr2-agent did update`",
                    fresh.version()
                ),
            }));
        };
        if let Some(standing) = self.standing_of(&update).filter(Standing::is_confirmed) {
            return Err(AgentError::Refused(format!(
                "the update to version {next} is {}",
                standing.told()
            )));
        }
        Ok(update)
    }

    /// Rule 10: while a cohort's signal that this agent signed may confirm, nothing but what it announces is announced
    /// for that version. What a cohort announces of an earlier version, and may still announce, is the same update
    /// once more: a cohort that stopped in the middle holds nobody.
    fn require_same_bytes(&self, did: &Did, update: &UpdateRow) -> Result<(), AgentError> {
        let index = did.smt_index();
        let stored = self.store.view().updates_of(did.as_str())?;
        let known = |hash: UpdateHash| stored.iter().any(|row| row.hash == hash);
        for node in self.nodes.values() {
            let Machine::Participant(machine) = &node.machine else {
                continue;
            };
            let announced = machine.update_state(&index).map(|(hash, _)| hash);
            if announced.is_some_and(|hash| hash != update.hash && !known(hash))
                && let Some(why) = machine.queue_refusal(&index)
            {
                return Err(AgentError::Refused(format!(
                    "cohort {} signed a signal with another update of this DID: {why}",
                    node.id.0.short()
                )));
            }
        }
        Ok(())
    }
}

/// The document an update leads to, verified as a resolver would.
fn target_of(update: &UpdateRow, fresh: &FreshResolution) -> Result<Document, AgentError> {
    let signed = SignedUpdate::parse(&update.bytes)
        .map_err(|_| AgentError::Defect("a stored update does not parse"))?;
    let options = VerifyOptions::default();
    verify(&signed, fresh.document(), fresh.version(), options).map_err(|fault| AgentError::Did {
        code: ErrorCode::InvalidDidUpdate,
        reason: format!(
            "the stored update does not fit the resolved document: {fault}; take it back with `btcr2-agent did \
             withdraw`"
        ),
    })
}
