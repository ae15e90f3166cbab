//! Fresh resolutions: what the chain and the stored artifacts say of a DID now, before another update of it is
//! signed (DESIGN §6, rule 10; spec.md §3.2, steps 2 and 5).

use super::dids::update_state;
use super::error::AgentError;
use super::handle::AgentHandle;
use super::runtime::Agent;
use super::standing::{Standing, not_final};
use crate::did::{Did, Document};
use crate::hash::UpdateHash;
use crate::lookup::{ChainSource, Lookup};
use crate::resolver::{
    Foreseen, ResolutionOptions, Resolved, Said, Sidecar, SignalRef, Strictness, Walk, WalkStep,
};
use crate::store::{AdoptedRow, UpdateRow};
use crate::time::UnixTime;

/// Seconds for which a resolution counts as fresh. Nobody but the holder of the DID's keys can announce an
/// update of it, so that a block or two in between changes nothing; an answer that lay about for hours may.
const FRESH_SECONDS: u64 = 10 * 60;

/// What a resolution of one of this agent's DIDs said just now. Only a resolution makes one.
#[derive(Debug, Clone)]
pub struct FreshResolution {
    did: Did,
    document: Document,
    version: u64,
    confirmations: u32,
    at: UnixTime,
    /// The updates that led here, by the version they lead to.
    applied: Vec<(u64, UpdateHash)>,
    /// Signals that have not enough confirmations yet, and what they will say.
    pending: Vec<(SignalRef, Foreseen)>,
}

impl FreshResolution {
    fn new(did: Did, resolved: Resolved, walk: &Walk, at: UnixTime) -> Self {
        let mut applied = Vec::new();
        let mut pending = Vec::new();
        for step in &walk.steps {
            match step {
                WalkStep::Applied {
                    version, update, ..
                } => applied.push((*version, *update)),
                WalkStep::Signal {
                    signal,
                    said: Said::Pending { announces, .. },
                } => pending.push((signal.clone(), *announces)),
                _ => {}
            }
        }
        Self {
            did,
            document: resolved.document,
            version: resolved.metadata.version_id,
            confirmations: resolved.metadata.confirmations,
            at,
            applied,
            pending,
        }
    }

    /// The DID.
    #[must_use]
    pub const fn did(&self) -> &Did {
        &self.did
    }

    /// The document.
    #[must_use]
    pub const fn document(&self) -> &Document {
        &self.document
    }

    /// Its version, from 1.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Confirmations of the signal that announced it; 0 for the initial document.
    #[must_use]
    pub const fn confirmations(&self) -> u32 {
        self.confirmations
    }
}

/// What a resolution starts from.
pub(super) struct Question {
    lookup: Lookup,
    options: ResolutionOptions,
    sidecar: Sidecar,
}

impl AgentHandle {
    /// Resolves a DID of this agent over its own chain backend with what is stored of it. The agent goes on
    /// meanwhile.
    ///
    /// # Errors
    /// [`AgentError::Unresolvable`] with the rule that was broken; [`AgentError::Lookup`] if the chain could not
    /// be asked.
    pub async fn resolve_fresh(&self, did: &Did) -> Result<FreshResolution, AgentError> {
        let of = did.clone();
        let question = self.with(move |agent| agent.question(&of)).await??;
        let Question {
            lookup,
            options,
            sidecar,
        } = question;
        let resolution = lookup
            .resolve(did, options, sidecar, Strictness::default())
            .await
            .map_err(|error| AgentError::Lookup(error.to_string()))?;
        let resolved = resolution
            .outcome
            .map_err(|failure| AgentError::Unresolvable {
                did: did.to_string(),
                failure,
            })?;
        let at = self.with(|agent| agent.time()).await?;
        Ok(FreshResolution::new(
            did.clone(),
            resolved,
            &resolution.walk,
            at,
        ))
    }
}

impl Agent {
    fn question(&self, did: &Did) -> Result<Question, AgentError> {
        let (sidecar, _) = self.sidecar_of(did)?;
        let backend = self
            .chains
            .get(&did.network())
            .map(|watch| watch.backend.clone())
            .ok_or(AgentError::NoChain(did.network()))?;
        Ok(Question {
            lookup: Lookup::new(ChainSource::Backend(backend)),
            options: ResolutionOptions {
                version: None,
                min_conf: self.min_conf,
            },
            sidecar,
        })
    }

    /// Refuses a further update of a DID while a resolution does not show all that was announced, or shows
    /// something else than what is stored (rule 10).
    pub(super) fn require_settled(&mut self, fresh: &FreshResolution) -> Result<(), AgentError> {
        if self.now().since(fresh.at) > FRESH_SECONDS {
            return Err(AgentError::Refused(
                "the resolution is older than ten minutes: resolve the DID again".into(),
            ));
        }
        let updates = self.store.view().updates_of(fresh.did.as_str())?;
        let stored = |hash: &UpdateHash| updates.iter().any(|row| row.hash == *hash);
        if let Some((version, hash)) = fresh.applied.iter().find(|(_, hash)| !stored(hash)) {
            return Err(self.adopt(fresh, *version, hash)?);
        }
        if let Some(earlier) = updates
            .iter()
            .rev()
            .find(|row| row.target_version > fresh.version)
        {
            return Err(self.in_the_way(earlier));
        }
        // What was announced elsewhere with the same keys, or can not be explained here.
        let foreign = fresh.pending.iter().find_map(|(signal, says)| match says {
            Foreseen::Update { update, .. } if !stored(update) => {
                Some((signal, "announces an update that this agent does not have"))
            }
            Foreseen::Unknown => Some((
                signal,
                "may announce an update: what explains it is not stored",
            )),
            _ => None,
        });
        if let Some((signal, what)) = foreign {
            return Err(AgentError::Refused(format!(
                "the signal {} of the beacon {} is on its way and {what}; {}",
                signal.txid,
                signal.service,
                not_final(signal.confirmations)
            )));
        }
        Ok(())
    }

    /// Which update is in the way, where it is, and what to wait for.
    fn in_the_way(&self, earlier: &UpdateRow) -> AgentError {
        let standing = self.standing_of(earlier).unwrap_or(Standing::Queued);
        AgentError::Refused(format!(
            "an update to version {} exists and is {}",
            earlier.target_version,
            standing.told()
        ))
    }

    /// A version that this agent did not make: it is taken over, and the change is to be looked at again.
    fn adopt(
        &mut self,
        fresh: &FreshResolution,
        version: u64,
        hash: &UpdateHash,
    ) -> Result<AgentError, AgentError> {
        let row = AdoptedRow {
            did: fresh.did.to_string(),
            version: fresh.version,
            document: super::dids::text(&fresh.document.canonical_bytes())?,
            adopted: self.now(),
        };
        let in_the_way: Vec<UpdateRow> = self
            .store
            .view()
            .updates_of(fresh.did.as_str())?
            .into_iter()
            .filter(|row| {
                let lost = |(version, hash): &(u64, UpdateHash)| {
                    row.target_version == *version && row.hash != *hash
                };
                fresh.applied.iter().any(lost)
            })
            .collect();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.adopt(&row)?;
            for mut lost in in_the_way {
                lost.state = update_state::SUPERSEDED.into();
                lost.reason = Some(format!(
                    "version {} is another update, which was announced elsewhere",
                    lost.target_version
                ));
                tx.set_update_state(&lost)?;
            }
            Ok(())
        })?;
        self.rebuild_document(fresh.did.as_str())?;
        Ok(AgentError::Refused(format!(
            "version {version} of the DID was announced elsewhere, by update {hash}, which this agent does not \
             have: it now goes on from the resolved version {}. Look at the document with `btcr2-agent did show \
             {}`, and repeat the update if it still fits",
            fresh.version, fresh.did
        )))
    }
}
