//! The DIDs of this agent: made, registered, updated.

use bitcoin::Address;

pub use super::changes::Change;
use super::changes::patch_of;
use super::error::AgentError;
use super::events::What;
use super::node::{Machine, Node, NodeId, NodeInput};
use super::runtime::Agent;
use crate::did::{
    BeaconKind, Did, Document, ErrorCode, GenesisDocument, KeyAddress, SignedUpdate,
    UnsignedUpdate, VerifyOptions, initial_key_document, verify,
};
use crate::hash::{CohortId, SmtIndex, UpdateHash};
use crate::keys::OwnKey;
use crate::network::Network;
use crate::protocol::effect::{Ignored, Outcome};
use crate::protocol::ids::Round;
use crate::protocol::message::{Opening, RawJson, RegisterItem};
use crate::protocol::participant::{BindingState, ParticipantInput};
use crate::protocol::registration::registration_digest;
use crate::protocol::terms::CohortBeacon;
use crate::store::{
    ArtifactKey, ArtifactKind, Binding, DidRow, NewArtifact, NewUpdate, Role, Subject,
};

/// States of a DID, as they are stored.
pub mod did_state {
    /// Registered; its history is not complete, so it must not be used yet.
    pub const REGISTERING: &str = "registering";
    /// It may be used.
    pub const ACTIVE: &str = "active";
    /// An update deactivated it.
    pub const DEACTIVATED: &str = "deactivated";
}

/// States of an update, as they are stored.
pub mod update_state {
    /// It waits for a round.
    pub const QUEUED: &str = "queued";
    /// A partial signature over a signal that announces it was given.
    pub const SIGNED: &str = "signed";
    /// Its signal is on the chain.
    pub const CONFIRMED: &str = "confirmed";
}

/// An update that was signed and queued.
#[derive(Debug, Clone)]
pub struct QueuedUpdate {
    /// The DID.
    pub did: Did,
    /// The version it leads to.
    pub target_version: u64,
    /// Its hash.
    pub hash: UpdateHash,
    /// The document before.
    pub before: Document,
    /// The document after.
    pub after: Document,
    /// The cohort that will announce it.
    pub cohort: CohortId,
}

impl Agent {
    /// Makes a k1 DID: it exists as soon as its key does.
    pub fn create_key_did(&mut self, network: Network) -> Result<Did, AgentError> {
        let (counter, key) = self.next_did_key(network)?;
        let did = Did::from_key(network, &key.public().even_point());
        let document = initial_key_document(&did)
            .ok_or(AgentError::Defect("a k1 DID has no initial document"))?;
        let row = DidRow {
            did: did.to_string(),
            network,
            kind: "k1".into(),
            key_index: Some(counter),
            genesis: None,
            document: text(&document.canonical_bytes())?,
            version: 1,
            state: did_state::ACTIVE.into(),
            created: self.now(),
        };
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_did(&row)?))?;
        Ok(did)
    }

    /// Begins an x1 DID whose genesis document lists the cohort's beacon, and a singleton beacon of its own
    /// as fallback. It may be used once its registration is acknowledged and its history complete: then
    /// [`What::DidReady`] is emitted.
    pub fn create_cohort_did(&mut self, cohort: CohortId) -> Result<Did, AgentError> {
        let id = (cohort, Role::Participant);
        let (network, beacon, address) = self.beacon_of(id)?;
        let (counter, key) = self.next_did_key(network)?;
        let point = key.public().even_point();
        let kind = beacon_kind(beacon);
        let genesis =
            GenesisDocument::for_cohort(network, &point, kind, &address, KeyAddress::P2tr)
                .map_err(|error| AgentError::Did {
                    code: error.code(),
                    reason: error.to_string(),
                })?;
        let did = genesis.did(network);
        let document = genesis.document(network).map_err(|error| AgentError::Did {
            code: error.code(),
            reason: error.to_string(),
        })?;
        let genesis_bytes = genesis.canonical_bytes();
        let row = DidRow {
            did: did.to_string(),
            network,
            kind: "x1".into(),
            key_index: Some(counter),
            genesis: Some(text(&genesis_bytes)?),
            document: text(&document.canonical_bytes())?,
            version: 1,
            state: did_state::REGISTERING.into(),
            created: self.now(),
        };
        let now = self.now();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_did(&row)?;
            tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: None,
                    subject: Subject::Did(row.did.clone()),
                    kind: ArtifactKind::GenesisDocument,
                    signal: None,
                },
                txid: None,
                bytes: &genesis_bytes,
                created: now,
            })?;
            Ok(())
        })?;
        self.register_did(&did, cohort)?;
        Ok(did)
    }

    /// Has a DID of this agent covered by a cohort from its next round on.
    pub fn register_did(&mut self, did: &Did, cohort: CohortId) -> Result<(), AgentError> {
        let id = (cohort, Role::Participant);
        let (network, beacon, _) = self.beacon_of(id)?;
        if did.network() != network {
            return Err(AgentError::Refused(format!(
                "the DID is on {}, the cohort on {network}",
                did.network()
            )));
        }
        let index = did.smt_index();
        let opening = match beacon {
            CohortBeacon::Smt => None,
            CohortBeacon::Cas => Some(self.opening(id, did)?),
        };
        let binding = Binding {
            cohort,
            role: Role::Participant,
            index,
            did: Some(did.to_string()),
            from_round: Round(0),
            state: "requested".into(),
        };
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_binding(&binding)?))?;
        let items = vec![RegisterItem { index, opening }];
        let outcome = self.feed(
            id,
            NodeInput::Participant(ParticipantInput::Register { items }),
        )?;
        refused(outcome)
    }

    /// The proof that this agent's seat speaks for a DID.
    fn opening(&self, id: NodeId, did: &Did) -> Result<Opening, AgentError> {
        let row = self.did_row(did)?;
        let key = self.did_key(&row)?;
        let seat = self
            .nodes
            .get(&id)
            .ok_or(AgentError::UnknownCohort(id.0))?
            .own
            .public();
        let digest = registration_digest(&id.0, seat, &did.smt_index());
        let genesis = row
            .genesis
            .map(serde_json::value::RawValue::from_string)
            .transpose()
            .map_err(|_| AgentError::Defect("a stored genesis document is not JSON"))?;
        Ok(Opening {
            did: did.clone(),
            key: key.public(),
            genesis: genesis.map(|raw| Box::new(RawJson(raw))),
            sig: key.sign_digest(&digest),
        })
    }

    /// The core asks to open an index that somebody else claims.
    pub(super) fn open_index(
        &self,
        id: NodeId,
        index: SmtIndex,
    ) -> Result<Option<NodeInput>, AgentError> {
        let Some(did) = self
            .did_of_index(&index)?
            .and_then(|did| did.parse::<Did>().ok())
        else {
            return Ok(None);
        };
        let opening = self.opening(id, &did)?;
        Ok(Some(NodeInput::Participant(ParticipantInput::Open {
            index,
            opening,
        })))
    }

    /// A registration was acknowledged.
    pub(super) fn registered(
        &mut self,
        id: NodeId,
        index: SmtIndex,
        from_round: Round,
    ) -> Result<(), AgentError> {
        let binding = Binding {
            cohort: id.0,
            role: Role::Participant,
            index,
            did: self.did_of_index(&index)?,
            from_round,
            state: "covered".into(),
        };
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_binding(&binding)?))
    }

    /// The history of an index is complete. A DID whose genesis document lists the beacon is bound by that; for
    /// others an update that adds the beacon may now be announced.
    pub(super) fn may_bind(
        &mut self,
        id: NodeId,
        index: SmtIndex,
    ) -> Result<Option<NodeInput>, AgentError> {
        let Some(did) = self.did_of_index(&index)? else {
            return Ok(None);
        };
        let Some(mut row) = self.store.view().did(&did)? else {
            return Ok(None);
        };
        let address = self
            .nodes
            .get(&id)
            .and_then(Node::address)
            .map(|address| address.to_string());
        let document = Document::parse(&row.document).map_err(|error| AgentError::Did {
            code: error.code(),
            reason: error.to_string(),
        })?;
        let lists = document
            .beacons()
            .iter()
            .any(|beacon| Some(beacon.address.to_string()) == address);
        let from_round = Round(0);
        let state = if lists { "bound" } else { "may_bind" };
        let known = self.store.view().bindings_of(index)?;
        let from_round = known
            .iter()
            .find(|binding| binding.cohort == id.0)
            .map_or(from_round, |binding| binding.from_round);
        let binding = Binding {
            cohort: id.0,
            role: Role::Participant,
            index,
            did: Some(did.clone()),
            from_round,
            state: state.into(),
        };
        row.state = did_state::ACTIVE.into();
        self.store.transaction::<_, AgentError>(|tx| {
            tx.put_did(&row)?;
            tx.put_binding(&binding)?;
            Ok(())
        })?;
        if !lists {
            return Ok(None);
        }
        self.emit(Some(id), What::DidReady { did });
        Ok(Some(NodeInput::Participant(ParticipantInput::Bound {
            index,
        })))
    }

    /// Signs an update and queues it for the cohort's next round.
    pub fn update_did(
        &mut self,
        did: &Did,
        changes: &[Change],
        cohort: Option<CohortId>,
    ) -> Result<QueuedUpdate, AgentError> {
        let row = self.did_row(did)?;
        let index = did.smt_index();
        if row.state == did_state::REGISTERING {
            return Err(AgentError::Refused(
                "the DID is not ready: its registration or history is not complete".into(),
            ));
        }
        let cohort = self.cohort_for(index, cohort)?;
        let id = (cohort, Role::Participant);
        let before = parse_document(&row.document)?;
        // Rule 10: one update at a time.
        let target = row.version.saturating_add(1);
        if let Some(earlier) = self.store.view().update(did.as_str(), target)? {
            return Err(AgentError::Refused(format!(
                "an update to version {target} exists and is {}: wait until it is final",
                earlier.state
            )));
        }
        // Asked before anything is stored: an update that is refused must not hold its version for ever.
        if let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
            && let Some(why) = machine.queue_refusal(&index)
        {
            return Err(AgentError::Refused(why.into()));
        }
        let patch = patch_of(&before, changes)?;
        let did_error = |code: ErrorCode, reason: String| AgentError::Did { code, reason };
        let unsigned = UnsignedUpdate::new(&before, row.version, &patch)
            .map_err(|error| did_error(ErrorCode::InvalidDidUpdate, error.to_string()))?;
        let after = unsigned.target().clone();
        let key = self.did_key(&row)?;
        let method = before
            .invocation_methods()
            .find(|method| {
                method
                    .key
                    .is_some_and(|k| k.x_only_public_key().0 == key.public().x_only())
            })
            .map(|method| method.id.clone())
            .ok_or_else(|| {
                AgentError::Refused("no key of this agent may update the document".into())
            })?;
        let signed = unsigned
            .sign(&key, &method)
            .map_err(|error| did_error(ErrorCode::InvalidDidUpdate, error.to_string()))?;
        let hash = signed.hash();
        let bytes = signed.canonical_bytes();
        let now = self.now();
        // The bytes are durable before anything is sent: what is announced is a hash of exactly these.
        self.store.transaction::<_, AgentError>(|tx| {
            tx.insert_update(&NewUpdate {
                did: did.as_str(),
                target_version: target,
                hash,
                bytes: &bytes,
                cohort: Some(cohort),
                state: update_state::QUEUED,
                created: now,
            })?;
            tx.put_artifact(&NewArtifact {
                key: ArtifactKey {
                    origin: None,
                    subject: Subject::Did(format!("{did}?versionId={target}")),
                    kind: ArtifactKind::SignedUpdate,
                    signal: None,
                },
                txid: None,
                bytes: &bytes,
                created: now,
            })?;
            Ok(())
        })?;
        let outcome = self.feed(
            id,
            NodeInput::Participant(ParticipantInput::Queue {
                index,
                update: hash,
            }),
        )?;
        refused(outcome)?;
        Ok(QueuedUpdate {
            did: did.clone(),
            target_version: target,
            hash,
            before,
            after,
            cohort,
        })
    }

    /// The cohort to announce in: the one named, or the only one the DID is bound to.
    fn cohort_for(
        &self,
        index: SmtIndex,
        wanted: Option<CohortId>,
    ) -> Result<CohortId, AgentError> {
        let bound: Vec<CohortId> = self
            .nodes
            .values()
            .filter_map(|node| match &node.machine {
                Machine::Participant(machine)
                    if machine.binding_state(&index) == Some(BindingState::Bound) =>
                {
                    Some(node.id.0)
                }
                _ => None,
            })
            .collect();
        match (wanted, bound.as_slice()) {
            (Some(cohort), bound) if bound.contains(&cohort) => Ok(cohort),
            (None, [cohort]) => Ok(*cohort),
            (None, [_, _, ..]) => Err(AgentError::Refused(
                "the DID is bound to several cohorts: name one with --cohort".into(),
            )),
            _ => Err(AgentError::Refused(
                "the DID's document does not list that cohort's beacon: an update announced there \
                 would never be found"
                    .into(),
            )),
        }
    }

    /// Updates that a signed signal announces are pinned: only these bytes may ever be announced for that
    /// version, until the signal is dead.
    pub(super) fn pin_updates(&mut self, id: NodeId) -> Result<(), AgentError> {
        for (index, hash, _) in self.updates_of_node(id) {
            self.with_update(index, hash, |tx, row| {
                if row.state == update_state::QUEUED {
                    row.state = update_state::SIGNED.into();
                    tx.set_update_state(row)?;
                    tx.pin_update(&row.did, row.target_version, true)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Moves documents and updates to what the chain says, forwards and back.
    pub(super) fn settle_updates(&mut self, id: NodeId) -> Result<(), AgentError> {
        for (index, hash, confirmed) in self.updates_of_node(id) {
            let changed = self.with_update(index, hash, |tx, row| {
                let is_confirmed = row.state == update_state::CONFIRMED;
                if confirmed == is_confirmed || (!confirmed && row.state == update_state::QUEUED) {
                    return Ok(None);
                }
                let state = if confirmed {
                    update_state::CONFIRMED
                } else {
                    update_state::SIGNED
                };
                row.state = state.into();
                tx.set_update_state(row)?;
                Ok(Some(row.did.clone()))
            })?;
            if let Some(Some(did)) = changed {
                let version = self.rebuild_document(&did)?;
                self.emit(Some(id), What::DidUpdated { did, version });
            }
        }
        Ok(())
    }

    /// Verified proofs and announcements kept for this agent's DIDs in a cohort: an SMT proof per DID and
    /// signal, a CAS announcement per signal.
    pub fn proofs_kept(&self, cohort: CohortId) -> Result<usize, AgentError> {
        let artifacts = self.store.view().artifacts_of_cohort(cohort, Round(0))?;
        let is_proof =
            |kind| matches!(kind, ArtifactKind::SmtProof | ArtifactKind::CasAnnouncement);
        Ok(artifacts
            .iter()
            .filter(|kept| is_proof(kept.key.kind))
            .count())
    }

    fn updates_of_node(&self, id: NodeId) -> Vec<(SmtIndex, UpdateHash, bool)> {
        let Some(Machine::Participant(machine)) = self.nodes.get(&id).map(|node| &node.machine)
        else {
            return Vec::new();
        };
        machine
            .indexes()
            .filter_map(|index| {
                let (hash, confirmed) = machine.update_state(&index)?;
                Some((index, hash, confirmed))
            })
            .collect()
    }

    /// Runs `change` on the stored update of an index with this hash, if there is one.
    fn with_update<R>(
        &mut self,
        index: SmtIndex,
        hash: UpdateHash,
        change: impl FnOnce(
            &crate::store::Tx<'_>,
            &mut crate::store::UpdateRow,
        ) -> Result<R, AgentError>,
    ) -> Result<Option<R>, AgentError> {
        let Some(did) = self.did_of_index(&index)? else {
            return Ok(None);
        };
        let found = self
            .store
            .view()
            .updates_of(&did)?
            .into_iter()
            .find(|row| row.hash == hash);
        let Some(mut row) = found else {
            return Ok(None);
        };
        self.store
            .transaction::<_, AgentError>(|tx| change(tx, &mut row))
            .map(Some)
    }

    /// The current document: the initial one with every confirmed update applied and verified.
    fn rebuild_document(&mut self, did: &str) -> Result<u64, AgentError> {
        let mut row = self
            .store
            .view()
            .did(did)?
            .ok_or_else(|| AgentError::UnknownDid(did.to_owned()))?;
        let parsed: Did = did
            .parse()
            .map_err(|_| AgentError::Defect("a stored DID does not parse"))?;
        let mut document = match &row.genesis {
            Some(genesis) => GenesisDocument::parse(genesis)
                .and_then(|genesis| genesis.document(row.network))
                .map_err(|error| AgentError::Did {
                    code: error.code(),
                    reason: error.to_string(),
                })?,
            None => initial_key_document(&parsed)
                .ok_or(AgentError::Defect("a k1 DID has no initial document"))?,
        };
        let mut version = 1;
        for update in self.store.view().updates_of(did)? {
            if update.state != update_state::CONFIRMED || update.target_version != version + 1 {
                continue;
            }
            let signed = SignedUpdate::parse(&update.bytes)
                .map_err(|_| AgentError::Defect("a stored update does not parse"))?;
            document =
                verify(&signed, &document, version, VerifyOptions::default()).map_err(|fault| {
                    AgentError::Did {
                        code: ErrorCode::InvalidDidUpdate,
                        reason: fault.to_string(),
                    }
                })?;
            version = update.target_version;
        }
        row.state = if document.is_deactivated() {
            did_state::DEACTIVATED.into()
        } else {
            did_state::ACTIVE.into()
        };
        row.document = text(&document.canonical_bytes())?;
        row.version = version;
        self.store
            .transaction::<_, AgentError>(|tx| Ok(tx.put_did(&row)?))?;
        Ok(version)
    }

    fn beacon_of(&self, id: NodeId) -> Result<(Network, CohortBeacon, Address), AgentError> {
        let node = self.nodes.get(&id).ok_or(AgentError::UnknownCohort(id.0))?;
        let active = matches!(&node.machine, Machine::Participant(machine)
            if *machine.phase() == crate::protocol::participant::MemberPhase::Active);
        let address = node.address().filter(|_| active).ok_or_else(|| {
            AgentError::Refused(
                "the cohort's set is not frozen: nobody can bind a DID to its beacon yet".into(),
            )
        })?;
        Ok((node.terms().network, node.terms().beacon, address))
    }

    fn next_did_key(&self, network: Network) -> Result<(u32, OwnKey), AgentError> {
        let counter = self.store.view().next_key_index()?;
        let key = self
            .root
            .did_key(network, counter)
            .map_err(|error| AgentError::Refused(error.to_string()))?;
        Ok((counter, key))
    }

    /// The stored row of a DID this agent controls.
    pub(super) fn did_row(&self, did: &Did) -> Result<DidRow, AgentError> {
        self.store
            .view()
            .did(did.as_str())?
            .ok_or_else(|| AgentError::UnknownDid(did.to_string()))
    }

    fn did_key(&self, row: &DidRow) -> Result<OwnKey, AgentError> {
        let counter = row.key_index.ok_or_else(|| {
            AgentError::Refused(format!("the key of {} is not this agent's", row.did))
        })?;
        self.root
            .did_key(row.network, counter)
            .map_err(|error| AgentError::Refused(error.to_string()))
    }
}

const fn beacon_kind(beacon: CohortBeacon) -> BeaconKind {
    match beacon {
        CohortBeacon::Smt => BeaconKind::Smt,
        CohortBeacon::Cas => BeaconKind::Cas,
    }
}

fn text(bytes: &[u8]) -> Result<String, AgentError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| AgentError::Defect("canonical JSON is not UTF-8"))
}

fn parse_document(text: &str) -> Result<Document, AgentError> {
    Document::parse(text).map_err(|error| AgentError::Did {
        code: error.code(),
        reason: error.to_string(),
    })
}

/// Turns an ignored command into an error its user sees.
pub(super) fn refused(outcome: Outcome) -> Result<(), AgentError> {
    match outcome {
        Outcome::Accepted | Outcome::Blamed(_) => Ok(()),
        Outcome::Ignored(Ignored::Contradiction(text)) => Err(AgentError::Refused(text)),
        Outcome::Ignored(Ignored::Duplicate) => Ok(()),
        Outcome::Ignored(reason) => Err(AgentError::Refused(format!(
            "not possible now: {}",
            serde_json::to_string(&reason).unwrap_or_default()
        ))),
    }
}
