//! Fresh resolutions: what the chain and the stored artifacts say of a DID now, before another update of it is
//! signed (DESIGN §6, rule 10; spec.md §3.2, steps 2 and 5).

use super::dids::update_state;
use super::error::AgentError;
use super::handle::AgentHandle;
use super::runtime::Agent;
use super::standing::{Standing, not_final};
use crate::did::{Did, Document};
use crate::hash::UpdateHash;
use crate::lookup::Lookup;
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

    /// Refuses it when it lay about for too long.
    pub(super) fn require_recent(&self, now: UnixTime) -> Result<(), AgentError> {
        if now.since(self.at) > FRESH_SECONDS {
            return Err(AgentError::Refused(
                "the resolution is older than ten minutes: resolve the DID again".into(),
            ));
        }
        Ok(())
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

    /// The updates that led here.
    pub(super) fn applied(&self) -> impl Iterator<Item = &UpdateHash> {
        self.applied.iter().map(|(_, hash)| hash)
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
        let lookup = self
            .lookups
            .get(&did.network())
            .cloned()
            .ok_or(AgentError::NoChain(did.network()))?;
        Ok(Question {
            lookup,
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
        fresh.require_recent(self.now())?;
        self.require_no_former(fresh)?;
        let view = self.store.view();
        let updates = view.updates_of(fresh.did.as_str())?;
        let adopted = view.adopted(fresh.did.as_str())?;
        let stored = |hash: &UpdateHash| updates.iter().any(|row| row.hash == *hash);
        let known = |version: u64, hash: &UpdateHash| {
            stored(hash) || adopted.as_ref().is_some_and(|row| row.version >= version)
        };
        let news = fresh
            .applied
            .iter()
            .find(|(version, hash)| !known(*version, hash));
        if let Some((version, hash)) = news {
            return Err(self.adopt(fresh, *version, hash)?);
        }
        if let Some(earlier) = updates
            .iter()
            .rev()
            .find(|row| row.target_version > fresh.version && row.state != update_state::REFUSED)
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
        let lost: Vec<UpdateRow> = self
            .store
            .view()
            .updates_of(fresh.did.as_str())?
            .into_iter()
            .filter(|row| {
                let took_it = |(version, hash): &(u64, UpdateHash)| {
                    row.target_version == *version && row.hash != *hash
                };
                fresh.applied.iter().any(took_it)
            })
            .collect();
        // Announced now, it would be another update for a version that there is: the end of the DID.
        for cohort in lost.iter().filter_map(|row| row.cohort) {
            let _ = self.take_back(&fresh.did, cohort)?;
        }
        self.store.transaction::<_, AgentError>(|tx| {
            tx.adopt(&row)?;
            for mut lost in lost {
                lost.state = update_state::SUPERSEDED.into();
                let danger = if lost.pinned {
                    "; it was signed for, and if its signal confirms the DID does not resolve any more"
                } else {
                    ""
                };
                lost.reason = Some(format!(
                    "version {} is another update, which was announced elsewhere{danger}",
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::agent::AgentOptions;
    use crate::agent::dids::Disclosure;
    use crate::agent::dids::{Change, Via};
    use crate::did::{DocumentPatch, SignedUpdate, UnsignedUpdate};
    use crate::hash::SignalBytes;
    use crate::network::Network;
    use crate::resolver::DocumentMetadata;

    const NOW: UnixTime = UnixTime(1_800_000_000);
    const SINGLY: Via = Via::Singleton { service: None };

    fn agent() -> Agent {
        let options = AgentOptions::alone(Arc::new(|| NOW));
        Agent::start(options).unwrap().0
    }

    fn add(id: &str) -> Change {
        Change::AddService {
            id: id.into(),
            kind: "X".into(),
            endpoint: json!("x:"),
        }
    }

    /// An update that somebody else with the same keys made of the document.
    fn elsewhere(
        agent: &Agent,
        source: &Document,
        version: u64,
        note: &str,
    ) -> (SignedUpdate, Document) {
        let patch = json!([{ "op": "add", "path": "/note", "value": note }]);
        let patch = DocumentPatch::from_value(&patch).unwrap();
        let unsigned = UnsignedUpdate::new(source, version, &patch).unwrap();
        let target = unsigned.target().clone();
        let (method, key) = agent.signing_key(source).unwrap();
        (unsigned.sign(&key, &method).unwrap(), target)
    }

    fn resolved(document: &Document, applied: &[&SignedUpdate]) -> FreshResolution {
        FreshResolution {
            did: document.id().clone(),
            document: document.clone(),
            version: 1 + applied.len() as u64,
            confirmations: 6,
            at: NOW,
            applied: applied
                .iter()
                .map(|u| (u.target_version(), u.hash()))
                .collect(),
            pending: Vec::new(),
        }
    }

    fn initial(agent: &mut Agent) -> Document {
        let did = agent.create_key_did(Network::Regtest).unwrap();
        super::super::dids::parse_document(&agent.did_row(&did).unwrap().document).unwrap()
    }

    #[tokio::test]
    async fn what_was_announced_elsewhere_is_taken_over_and_said() {
        let mut agent = agent();
        let first = initial(&mut agent);
        let did = first.id().clone();
        // An own update waits; another one to the same version was announced with the same key.
        let own = agent
            .update_did(
                &resolved(&first, &[]),
                &[add("a")],
                &SINGLY,
                Disclosure::HashOnly,
            )
            .unwrap();
        let (update, second) = elsewhere(&agent, &first, 1, "by another agent");
        let fresh = resolved(&second, &[&update]);
        let refused = agent
            .update_did(&fresh, &[add("b")], &SINGLY, Disclosure::HashOnly)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("version 2 of the DID was announced elsewhere"),
            "{refused}"
        );
        assert!(refused.contains(&update.hash().to_string()), "{refused}");
        let row = agent.did_row(&did).unwrap();
        assert_eq!(
            (row.version, Document::parse(row.document).unwrap()),
            (2, second.clone())
        );
        let lost = agent.store.view().update(did.as_str(), 2).unwrap().unwrap();
        assert_eq!((lost.hash, lost.state.as_str()), (own.hash, "superseded"));
        // It does not come back, and can not be announced any more.
        agent.settle_did(None, did.as_str()).unwrap();
        assert_eq!(agent.did_row(&did).unwrap().version, 2);
        let error = agent
            .reroute_update(&did, 2, &SINGLY)
            .unwrap_err()
            .to_string();
        assert!(error.contains("superseded"), "{error}");

        // Said once; then it goes on from there.
        let next = agent
            .update_did(&fresh, &[add("b")], &SINGLY, Disclosure::HashOnly)
            .unwrap();
        assert_eq!((next.target_version, &next.before), (3, &second));
        let waits = agent
            .update_did(&fresh, &[add("c")], &SINGLY, Disclosure::HashOnly)
            .unwrap_err()
            .to_string();
        assert!(
            waits.contains("an update to version 3 exists and is queued"),
            "{waits}"
        );
        agent.withdraw_update(&did, 3).unwrap();
        let (another, third) = elsewhere(&agent, &second, 2, "again");
        let fresh = resolved(&third, &[&update, &another]);
        let refused = agent
            .update_did(&fresh, &[add("b")], &SINGLY, Disclosure::HashOnly)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("version 3 of the DID was announced elsewhere"),
            "{refused}"
        );
        assert_eq!(agent.did_row(&did).unwrap().version, 3);
    }

    #[tokio::test]
    async fn a_signal_on_its_way_that_is_not_this_agent_s_is_waited_for() {
        let mut agent = agent();
        let first = initial(&mut agent);
        let (update, _) = elsewhere(&agent, &first, 1, "x");
        let with = |says| {
            let mut fresh = resolved(&first, &[]);
            let beacon = &first.beacons()[0];
            let signal = SignalRef {
                service: beacon.id.clone(),
                kind: beacon.kind,
                txid: "33".repeat(32).parse().unwrap(),
                height: Some(7),
                confirmations: 2,
                signal: SignalBytes::from_bytes(update.hash().to_bytes()),
            };
            fresh.pending.push((signal, says));
            fresh
        };
        let foreign = Foreseen::Update {
            update: update.hash(),
            target_version: None,
        };
        for (says, words) in [
            (
                foreign,
                "announces an update that this agent does not have; not final yet: wait for 4",
            ),
            (Foreseen::Unknown, "may announce an update"),
        ] {
            let error = agent
                .update_did(&with(says), &[add("a")], &SINGLY, Disclosure::HashOnly)
                .unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(
            agent.store.view().updates_of(first.id().as_str()).unwrap(),
            []
        );
        agent
            .update_did(
                &with(Foreseen::NoUpdate),
                &[add("a")],
                &SINGLY,
                Disclosure::HashOnly,
            )
            .unwrap();
    }

    #[tokio::test]
    async fn an_old_answer_is_not_fresh() {
        let mut agent = agent();
        let first = initial(&mut agent);
        let mut fresh = resolved(&first, &[]);
        fresh.at = NOW.minus(FRESH_SECONDS + 1);
        let error = agent
            .update_did(&fresh, &[add("a")], &SINGLY, Disclosure::HashOnly)
            .unwrap_err();
        assert!(
            error.to_string().contains("resolve the DID again"),
            "{error}"
        );
        fresh.at = NOW.minus(FRESH_SECONDS);
        agent
            .update_did(&fresh, &[add("a")], &SINGLY, Disclosure::HashOnly)
            .unwrap();
    }

    #[test]
    fn a_resolution_tells_what_it_applied_and_what_comes() {
        let did = Did::from_key(
            Network::Regtest,
            &secp256k1::SecretKey::from_slice(&[1; 32])
                .unwrap()
                .public_key(secp256k1::SECP256K1),
        );
        let document = crate::did::initial_key_document(&did).unwrap();
        let hash = UpdateHash::from_bytes([5; 32]);
        let signal = SignalRef {
            service: "s".into(),
            kind: crate::did::BeaconKind::Singleton,
            txid: "33".repeat(32).parse().unwrap(),
            height: None,
            confirmations: 0,
            signal: SignalBytes::from_bytes([5; 32]),
        };
        let walk = Walk {
            steps: vec![
                WalkStep::Applied {
                    version: 2,
                    update: hash,
                    signal: signal.clone(),
                },
                WalkStep::Signal {
                    signal: signal.clone(),
                    said: Said::Pending {
                        min_conf: 6,
                        announces: Foreseen::Unknown,
                    },
                },
                WalkStep::Signal {
                    signal: signal.clone(),
                    said: Said::NoUpdate,
                },
            ],
        };
        let metadata = DocumentMetadata {
            version_id: 2,
            confirmations: 9,
            deactivated: false,
            updated: None,
        };
        let fresh = FreshResolution::new(did, Resolved { document, metadata }, &walk, NOW);
        assert_eq!((fresh.version(), fresh.confirmations()), (2, 9));
        assert_eq!(fresh.applied, [(2, hash)]);
        assert_eq!(fresh.pending, [(signal, Foreseen::Unknown)]);
    }
}
