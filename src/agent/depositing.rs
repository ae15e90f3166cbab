//! Deposits: what a member shows the aggregator of an update, and what an aggregator keeps of it (see
//! [`crate::protocol::deposit`]).

use super::control::PeerText;
use super::control::views::DepositStage;
use super::dids::update_state;
use super::error::AgentError;
use super::fresh::FreshResolution;
use super::node::{Machine, NodeInput};
use super::routing::Route;
use super::runtime::Agent;
use crate::did::{Did, GenesisDocument, SignedUpdate};
use crate::hash::{CohortId, SmtIndex, UpdateHash};
use crate::protocol::deposit::{DepositFault, UpdateDeposit, verify_deposit};
use crate::protocol::participant::{DepositState, ParticipantInput};
use crate::protocol::terms::Deposits;
use crate::store::{ArtifactKey, ArtifactKind, NewArtifact, Role, Subject, Tx, UpdateRow};
use crate::time::UnixTime;

/// What the aggregator is shown of an update: its controller's choice, update by update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disclosure {
    /// Its hash.
    #[default]
    HashOnly,
    /// All of it, with what it is verified against.
    Deposit,
    /// All of it, where the terms of the cohort take deposits.
    DepositWhereTaken,
}

impl Agent {
    /// Whether an update on this route is deposited. Refuses what the terms do not go with: nothing is disclosed
    /// that was not said to be, and nothing is signed that could not be announced.
    pub(super) fn deposits(
        &self,
        route: &Route,
        disclosure: Disclosure,
    ) -> Result<bool, AgentError> {
        let refused = |why: String| Err(AgentError::Refused(why));
        let Some(cohort) = route.cohort() else {
            return match disclosure {
                Disclosure::Deposit => refused(
                    "a singleton beacon has no aggregator to deposit the update with: leave --deposit out".into(),
                ),
                _ => Ok(false),
            };
        };
        let node = self
            .nodes
            .get(&(cohort, Role::Participant))
            .ok_or(AgentError::UnknownCohort(cohort))?;
        let short = cohort.short();
        match (node.terms().deposits, disclosure) {
            (Deposits::None, Disclosure::Deposit) => refused(format!(
                "the terms of cohort {short} take no deposits: leave --deposit out, and its aggregator sees the hash \
                 of the update only"
            )),
            (Deposits::None, _) | (Deposits::Accepted, Disclosure::HashOnly) => Ok(false),
            (Deposits::Accepted | Deposits::Required, _) if disclosure != Disclosure::HashOnly => {
                Ok(true)
            }
            _ => refused(format!(
                "the terms of cohort {short} require that updates are deposited: its aggregator sees the DID, the \
                 document and the update. If that is what you want, add --deposit; if not, announce it through \
                 another beacon of the document"
            )),
        }
    }

    /// The deposit of an update, checked as its receiver will check it: before anything is stored or sent.
    pub(super) fn deposit_of(
        &self,
        fresh: &FreshResolution,
        update: &SignedUpdate,
    ) -> Result<UpdateDeposit, AgentError> {
        let did = fresh.did();
        let genesis = self
            .did_row(did)?
            .genesis
            .map(GenesisDocument::parse)
            .transpose()
            .map_err(|_| AgentError::Defect("a stored genesis document does not parse"))?;
        let refused = |fault: DepositFault| AgentError::Refused(fault.to_string());
        let deposit =
            UpdateDeposit::new(update, fresh.document(), genesis.as_ref()).map_err(refused)?;
        verify_deposit(did.network(), self.now(), &deposit).map_err(refused)?;
        Ok(deposit)
    }

    /// Sends a deposit. It is durable with the step that sends it: the outbox sends it until it arrived.
    pub(super) fn deposit_in(
        &mut self,
        cohort: CohortId,
        deposit: UpdateDeposit,
    ) -> Result<(), AgentError> {
        let input = ParticipantInput::Deposit(Box::new(deposit));
        let outcome = self.feed((cohort, Role::Participant), NodeInput::Participant(input))?;
        super::dids::refused(outcome)
    }

    /// The version of an update that was refused and waits for its controller: another one takes its place.
    pub(super) fn refused_update(
        &self,
        fresh: &FreshResolution,
    ) -> Result<Option<u64>, AgentError> {
        let next = fresh.version().saturating_add(1);
        let row = self.store.view().update(fresh.did().as_str(), next)?;
        Ok(row
            .filter(|row| row.state == update_state::REFUSED && !row.pinned)
            .map(|row| row.target_version))
    }

    /// The aggregator refused a deposited update: it goes back to its controller, with the reason.
    pub(super) fn deposit_refused(
        &mut self,
        index: SmtIndex,
        update: UpdateHash,
        reason: &str,
    ) -> Result<(), AgentError> {
        let Some(did) = self.did_of_index(&index)? else {
            return Ok(());
        };
        let updates = self.store.view().updates_of(&did)?;
        // Signed for already: whatever the aggregator says now, it goes its way.
        let Some(mut row) = updates
            .into_iter()
            .find(|row| row.hash == update && !row.pinned && row.state == update_state::QUEUED)
        else {
            return Ok(());
        };
        row.state = update_state::REFUSED.into();
        row.round = None;
        row.reason = Some(format!(
            "the aggregator refused the deposit: {}",
            PeerText::new(reason)
        ));
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.set_update_state(&row)?))
    }

    /// What became of the deposit of an update, for people.
    pub(super) fn deposit_view(&self, row: &UpdateRow) -> Option<DepositStage> {
        let index = row.did.parse::<Did>().ok()?.smt_index();
        let node = self.nodes.get(&(row.cohort?, Role::Participant))?;
        let Machine::Participant(machine) = &node.machine else {
            return None;
        };
        Some(match machine.deposit_of(&index, row.hash)? {
            DepositState::Sent => DepositStage::Sent,
            DepositState::Accepted { anchored: true } => DepositStage::Verified,
            DepositState::Accepted { anchored: false } => DepositStage::VerifiedNotAnchored,
            DepositState::Refused(_) => DepositStage::Refused,
        })
    }
}

/// Keeps a deposited update by its hash, and the genesis document it came with by its DID. Both belong to no
/// cohort or round, and both names are hashes of what is stored: the same bytes whoever brings them, so that
/// nobody can bring a conflict about.
pub(super) fn save(
    tx: &Tx<'_>,
    now: UnixTime,
    hash: UpdateHash,
    update: &str,
    genesis: Option<&(Did, String)>,
) -> Result<(), AgentError> {
    let put = |subject, kind, bytes: &str| {
        tx.put_artifact(&NewArtifact {
            key: ArtifactKey {
                origin: None,
                subject,
                kind,
                signal: None,
            },
            txid: None,
            bytes: bytes.as_bytes(),
            created: now,
        })
    };
    put(Subject::Update(hash), ArtifactKind::SignedUpdate, update)?;
    if let Some((did, genesis)) = genesis {
        put(
            Subject::Did(did.to_string()),
            ArtifactKind::GenesisDocument,
            genesis,
        )?;
    }
    Ok(())
}
