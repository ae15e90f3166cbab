//! What a resolver needs of a DID of this agent (spec.md §2.7), and what of it is lacking (DESIGN §6, rules 5
//! and 13).
//!
//! The documents of the DID are walked in the order of their versions, as a resolver does. A beacon counts from
//! the height of the update that listed it (spec.md §3.3), the beacons of the initial document from the first
//! block on; and it counts for ever: an address that was listed once is asked for signals also after the document
//! dropped it (spec.md §3.4, caveat of step 4). For every such signal the stored proof or announcement is taken,
//! verified again, and followed to the update that it announces.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bitcoin::{Address, Txid};
use serde::{Deserialize, Serialize};

use super::dids::update_state;
use super::error::AgentError;
use super::node::Machine;
use super::runtime::Agent;
use crate::beacon::cas::CasAnnouncement;
use crate::beacon::history::AddressHistory;
use crate::beacon::smt::{Leaf, SmtProof};
use crate::did::{
    BeaconKind, Did, Document, GenesisDocument, SignedUpdate, VerifyOptions, initial_key_document,
    verify,
};
use crate::hash::{CohortId, SignalBytes, SmtIndex, UpdateHash};
use crate::protocol::effect::Artifact;
use crate::resolver::Sidecar;
use crate::store::{ArtifactKind, DidRow, Role, Subject, UpdateRow, View};

/// What is known of a beacon address, besides what is stored of its signals.
#[derive(Debug, Clone, Default)]
pub struct AddressFacts {
    /// Its complete history, if it was read.
    pub history: Option<Arc<AddressHistory>>,
    /// Signals this agent signed that are not on the chain and may still get there.
    pub signed: Vec<(SignalBytes, Txid)>,
    /// The cohort whose beacon it is, if this agent knows it.
    pub cohort: Option<CohortId>,
    /// The chain was asked for its history just now, in vain.
    pub unreadable: bool,
}

/// What is known, by address.
pub type Facts = BTreeMap<String, AddressFacts>;

/// What a missing artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MissingKind {
    /// The genesis document of an x1 DID.
    GenesisDocument,
    /// The proof for a signal of an SMT beacon.
    SmtProof,
    /// The announcement behind a signal of a CAS beacon.
    CasAnnouncement,
    /// A signed update that a signal announces.
    Update,
    /// Not an artifact: the chain was not asked for the signals of this beacon, so that nobody knows what is
    /// missing.
    Signals,
}

/// Something a resolver will ask for and that this agent can not hand over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingArtifact {
    /// What it is.
    pub kind: MissingKind,
    /// The beacon's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<String>,
    /// The cohort whose beacon it is, if this agent knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<CohortId>,
    /// The signal's transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txid: Option<Txid>,
    /// The signal's 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalBytes>,
    /// The height of its block; absent while it is unconfirmed: it will be needed once it confirms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// The hash of a missing update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateHash>,
    /// Something is stored in its place that does not verify.
    #[serde(default)]
    pub damaged: bool,
    /// How to get it: one sentence.
    pub remedy: String,
}

/// A beacon that a document of the DID lists or listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBeacon {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: BeaconKind,
    /// Its address.
    pub address: String,
    /// The cohort, if this agent knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<CohortId>,
    /// The first version that lists it.
    pub since_version: u64,
    /// The first version after that which does not list it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_version: Option<u64>,
    /// From this height on its signals count; absent while the update that lists it is not on the chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_height: Option<u32>,
    /// Signals that count, those on their way included; absent when the chain was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<usize>,
    /// Of those, the ones that can be explained with what is stored.
    pub explained: usize,
}

/// The sidecar of a DID, and what is not in it.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// What is there, verified.
    pub sidecar: Sidecar,
    /// What is not.
    pub missing: Vec<MissingArtifact>,
    /// Every beacon that counts.
    pub beacons: Vec<KeptBeacon>,
}

impl Agent {
    /// Exactly what a resolver needs of a DID at the chain as this agent last saw it, and what of it is missing.
    ///
    /// The addresses of cohorts are read all the time; a singleton beacon may not have been read, and then only
    /// its known updates are in the sidecar.
    ///
    /// # Errors
    /// [`AgentError::UnknownDid`] if it is not this agent's; [`AgentError::Store`].
    pub fn sidecar_of(&self, did: &Did) -> Result<(Sidecar, Vec<MissingArtifact>), AgentError> {
        let export = self.export_of(did, &self.facts())?;
        Ok((export.sidecar, export.missing))
    }

    /// The same, with facts that were read just now.
    pub(super) fn export_of(&self, did: &Did, facts: &Facts) -> Result<Export, AgentError> {
        export(&self.store.view(), did, facts)
    }

    /// What this agent knows of beacon addresses: those of its cohorts, and those it has read.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        for (address, (history, _)) in &self.histories {
            let known = facts.entry(address.clone()).or_default();
            known.history = Some(Arc::clone(history));
        }
        for node in self.nodes.values() {
            let Some(address) = node.address() else {
                continue;
            };
            let known = facts.entry(address.to_string()).or_default();
            // A member's answer to "how to get it" is the better one.
            if known.cohort.is_none() || node.id.1 == Role::Participant {
                known.cohort = Some(node.id.0);
            }
            if let Machine::Participant(machine) = &node.machine {
                known.signed.extend(machine.live_signals());
            }
        }
        facts
    }
}

/// Makes the sidecar of a DID out of what is stored.
///
/// # Errors
/// [`AgentError::UnknownDid`] if the DID is not stored; [`AgentError::Store`].
pub fn export(view: &View<'_>, did: &Did, facts: &Facts) -> Result<Export, AgentError> {
    let row = view
        .did(did.as_str())?
        .ok_or_else(|| AgentError::UnknownDid(did.to_string()))?;
    let updates = view.updates_of(did.as_str())?;
    let mut walk = Walk {
        view,
        did,
        index: did.smt_index(),
        facts,
        updates: updates.iter().map(|row| (row.hash, row)).collect(),
        taken: BTreeSet::new(),
        heights: HashMap::new(),
        beacons: Vec::new(),
        export: Export::default(),
    };
    walk.documents(&row, &updates)?;
    // Those that were signed for may be announced in a transaction that nobody has seen yet.
    for row in &updates {
        let announced = row.state != update_state::QUEUED && row.state != update_state::SUPERSEDED;
        if row.pinned || announced {
            walk.take_update(row);
        }
    }
    walk.export.beacons = walk.beacons.into_iter().map(|(_, kept)| kept).collect();
    Ok(walk.export)
}

/// One walk over the documents of a DID.
struct Walk<'a> {
    view: &'a View<'a>,
    did: &'a Did,
    index: SmtIndex,
    facts: &'a Facts,
    updates: HashMap<UpdateHash, &'a UpdateRow>,
    taken: BTreeSet<UpdateHash>,
    /// The lowest block that announces an update.
    heights: HashMap<UpdateHash, u32>,
    beacons: Vec<((String, BeaconKind), KeptBeacon)>,
    export: Export,
}

impl Walk<'_> {
    /// Goes from version to version as far as the stored updates lead.
    fn documents(&mut self, row: &DidRow, updates: &[UpdateRow]) -> Result<(), AgentError> {
        let Some(mut document) = self.initial(row) else {
            self.miss(
                MissingKind::GenesisDocument,
                None,
                None,
                None,
                row.genesis.is_some(),
            );
            return self.current(row);
        };
        let mut version = 1;
        let mut from = Some(0);
        self.list(&document, version, from)?;
        for update in updates {
            if update.target_version != version.saturating_add(1) {
                continue;
            }
            let Some(next) = apply(update, &document, version) else {
                break;
            };
            version = update.target_version;
            // An update below an unconfirmed one is unconfirmed.
            from = from.and_then(|_| self.heights.get(&update.hash).copied());
            document = next;
            self.list(&document, version, from)?;
        }
        if version < row.version {
            return self.current(row);
        }
        Ok(())
    }

    /// The document as it was last resolved, where the way there is not stored.
    fn current(&mut self, row: &DidRow) -> Result<(), AgentError> {
        match Document::parse(&row.document) {
            Ok(document) => self.list(&document, row.version, Some(0)),
            Err(_) => Ok(()),
        }
    }

    /// The first document; the genesis document goes into the sidecar.
    fn initial(&mut self, row: &DidRow) -> Option<Document> {
        let Some(genesis) = &row.genesis else {
            return initial_key_document(self.did);
        };
        let genesis = GenesisDocument::parse(genesis)
            .ok()
            .filter(|genesis| genesis.matches(self.did))?;
        self.export.sidecar.set_genesis(genesis.value());
        genesis.document(self.did.network()).ok()
    }

    /// Notes the beacons of a version, and reads the signals of those that are new.
    fn list(
        &mut self,
        document: &Document,
        version: u64,
        from: Option<u32>,
    ) -> Result<(), AgentError> {
        let listed: Vec<(Address, BeaconKind)> = document
            .beacons()
            .iter()
            .map(|beacon| (beacon.address.clone(), beacon.kind))
            .collect();
        for ((address, kind), kept) in &mut self.beacons {
            let still = listed
                .iter()
                .any(|(of, is)| is == kind && of.to_string() == *address);
            if !still {
                kept.until_version.get_or_insert(version);
            }
        }
        for (address, kind) in listed {
            let key = (address.to_string(), kind);
            // An address is read once, whether it left the document meanwhile or not.
            match self.beacons.iter_mut().find(|(known, _)| *known == key) {
                Some((_, kept)) => kept.until_version = None,
                None => {
                    let kept = self.read(&address, kind, version, from)?;
                    self.beacons.push((key, kept));
                }
            }
        }
        Ok(())
    }

    /// Reads the signals of one beacon, and takes what explains them.
    fn read(
        &mut self,
        address: &Address,
        kind: BeaconKind,
        version: u64,
        from: Option<u32>,
    ) -> Result<KeptBeacon, AgentError> {
        let name = address.to_string();
        let known = self.facts.get(&name);
        let cohort = known.and_then(|known| known.cohort);
        let mut kept = KeptBeacon {
            kind,
            address: name.clone(),
            cohort,
            since_version: version,
            until_version: None,
            from_height: from,
            signals: None,
            explained: 0,
        };
        let signed = known.map_or(&[][..], |known| &known.signed);
        let mut signals: Vec<Signal> = Vec::new();
        match known.and_then(|known| known.history.as_ref()) {
            Some(history) => {
                let least = from.unwrap_or(0);
                let seen = history.signals().into_iter();
                signals.extend(
                    seen.map(|seen| Signal {
                        bytes: seen.signal,
                        txid: seen.txid,
                        height: seen.height,
                    })
                    .filter(|signal| signal.height.is_none_or(|height| height >= least)),
                );
            }
            // Singleton beacons need no proofs, and are not watched: what they announced is in the updates.
            None if kind == BeaconKind::Singleton
                && !known.is_some_and(|known| known.unreadable) => {}
            None => {
                self.miss(MissingKind::Signals, Some(&name), None, None, false);
                self.take_all(kind, cohort)?;
            }
        }
        let on_chain: BTreeSet<Txid> = signals.iter().map(|signal| signal.txid).collect();
        let waiting = signed.iter().filter(|(_, txid)| !on_chain.contains(txid));
        signals.extend(waiting.map(|(bytes, txid)| Signal {
            bytes: *bytes,
            txid: *txid,
            height: None,
        }));
        for signal in &signals {
            if self.explain(&name, kind, signal)? {
                kept.explained = kept.explained.saturating_add(1);
            }
        }
        let was_read = known.is_some_and(|known| known.history.is_some());
        kept.signals = was_read.then_some(signals.len());
        Ok(kept)
    }

    /// Takes what explains one signal; says whether all of it was there.
    fn explain(
        &mut self,
        address: &str,
        kind: BeaconKind,
        signal: &Signal,
    ) -> Result<bool, AgentError> {
        let said = match kind {
            BeaconKind::Singleton => Some(UpdateHash::from_bytes(signal.bytes.to_bytes())),
            BeaconKind::Cas => match self.announcement(signal.bytes)? {
                Kept::Good(announcement) => {
                    let said = announcement.update_of(self.did.as_str());
                    self.export.sidecar.add_announcement(&announcement);
                    said
                }
                lost => {
                    let damaged = lost.is_damaged();
                    self.miss(
                        MissingKind::CasAnnouncement,
                        Some(address),
                        Some(signal),
                        None,
                        damaged,
                    );
                    return Ok(false);
                }
            },
            BeaconKind::Smt => match self.proof(signal.bytes)? {
                Kept::Good(proof) => {
                    let said = proof.update();
                    self.export.sidecar.add_proof(&proof);
                    said
                }
                lost => {
                    let damaged = lost.is_damaged();
                    self.miss(
                        MissingKind::SmtProof,
                        Some(address),
                        Some(signal),
                        None,
                        damaged,
                    );
                    return Ok(false);
                }
            },
        };
        let Some(update) = said else {
            return Ok(true);
        };
        if let Some(height) = signal.height {
            let lowest = self.heights.entry(update).or_insert(height);
            *lowest = (*lowest).min(height);
        }
        if self
            .updates
            .get(&update)
            .copied()
            .is_some_and(|row| self.take_update(row))
        {
            return Ok(true);
        }
        let damaged = self.updates.contains_key(&update);
        self.miss(
            MissingKind::Update,
            Some(address),
            Some(signal),
            Some(update),
            damaged,
        );
        Ok(false)
    }

    /// Everything stored that may belong to a beacon whose signals are not known.
    fn take_all(&mut self, kind: BeaconKind, cohort: Option<CohortId>) -> Result<(), AgentError> {
        let signals: Vec<SignalBytes> = match (kind, cohort) {
            (BeaconKind::Smt, _) => self.view.artifact_signals(
                ArtifactKind::SmtProof,
                &Subject::Index(self.index),
                cohort,
            )?,
            (BeaconKind::Cas, Some(_)) => self.view.artifact_signals(
                ArtifactKind::CasAnnouncement,
                &Subject::Round,
                cohort,
            )?,
            _ => Vec::new(),
        };
        for signal in signals {
            match kind {
                BeaconKind::Cas => {
                    if let Kept::Good(announcement) = self.announcement(signal)? {
                        self.export.sidecar.add_announcement(&announcement);
                    }
                }
                _ => {
                    if let Kept::Good(proof) = self.proof(signal)? {
                        self.export.sidecar.add_proof(&proof);
                    }
                }
            }
        }
        Ok(())
    }

    fn announcement(&self, signal: SignalBytes) -> Result<Kept<CasAnnouncement>, AgentError> {
        let kind = ArtifactKind::CasAnnouncement;
        let stored = self
            .view
            .artifacts_for(kind, &Subject::Round, Some(signal))?;
        Ok(Kept::read(&stored, |artifact| {
            let Artifact::Announcement { announcement, .. } = artifact else {
                return None;
            };
            CasAnnouncement::parse_canonical(announcement.as_bytes(), |_| true)
                .ok()
                .filter(|announcement| announcement.signal_bytes() == signal)
        }))
    }

    fn proof(&self, signal: SignalBytes) -> Result<Kept<SmtProof>, AgentError> {
        let subject = Subject::Index(self.index);
        let stored = self
            .view
            .artifacts_for(ArtifactKind::SmtProof, &subject, Some(signal))?;
        Ok(Kept::read(&stored, |artifact| {
            let Artifact::SmtProof {
                nonce,
                update,
                path,
                ..
            } = artifact
            else {
                return None;
            };
            let proof = SmtProof::from_parts(signal, &Leaf { nonce, update }, path);
            proof.verify(&self.index, &signal).is_ok().then_some(proof)
        }))
    }

    /// Puts a stored update into the sidecar; false if its bytes are not what was announced.
    fn take_update(&mut self, row: &UpdateRow) -> bool {
        if self.taken.contains(&row.hash) {
            return true;
        }
        let signed = SignedUpdate::parse(&row.bytes).ok();
        let Some(signed) = signed.filter(|signed| signed.hash() == row.hash) else {
            return false;
        };
        self.export.sidecar.add_update(&signed);
        self.taken.insert(row.hash);
        true
    }

    fn miss(
        &mut self,
        kind: MissingKind,
        beacon: Option<&str>,
        signal: Option<&Signal>,
        update: Option<UpdateHash>,
        damaged: bool,
    ) {
        let cohort = beacon
            .and_then(|address| self.facts.get(address))
            .and_then(|known| known.cohort);
        self.export.missing.push(MissingArtifact {
            kind,
            beacon: beacon.map(str::to_owned),
            cohort,
            txid: signal.map(|signal| signal.txid),
            signal: signal.map(|signal| signal.bytes),
            height: signal.and_then(|signal| signal.height),
            update,
            damaged,
            remedy: remedy(kind, cohort),
        });
    }
}

/// A signal to be explained.
struct Signal {
    bytes: SignalBytes,
    txid: Txid,
    height: Option<u32>,
}

/// What was found in the store.
enum Kept<T> {
    Good(T),
    Damaged,
    Absent,
}

impl<T> Kept<T> {
    /// The first that passes the check.
    fn read(stored: &[crate::store::Artifact], check: impl Fn(Artifact) -> Option<T>) -> Self {
        let good = stored.iter().find_map(|stored| {
            let artifact = serde_json::from_slice(&stored.bytes).ok()?;
            check(artifact)
        });
        match good {
            Some(good) => Self::Good(good),
            None if stored.is_empty() => Self::Absent,
            None => Self::Damaged,
        }
    }

    const fn is_damaged(&self) -> bool {
        matches!(self, Self::Damaged)
    }
}

/// The document that a stored update leads to.
fn apply(update: &UpdateRow, before: &Document, version: u64) -> Option<Document> {
    let signed = SignedUpdate::parse(&update.bytes).ok()?;
    // What the agent stored it has signed or verified; an update from before invocationTarget counts too.
    verify(&signed, before, version, VerifyOptions::default()).ok()
}

/// How to get what is missing.
fn remedy(kind: MissingKind, cohort: Option<CohortId>) -> String {
    match (kind, cohort) {
        (MissingKind::GenesisDocument, _) => {
            "restore it from the bundle (`btcr2-agent recover --bundle`) or from a sidecar exported earlier"
                .to_owned()
        }
        (MissingKind::Update, _) => {
            "nobody can make it again: restore it from the bundle, from a sidecar exported earlier, or from \
             whoever it was handed to"
                .to_owned()
        }
        (MissingKind::Signals, _) => {
            "the chain could not be asked yet: try again when it answers".to_owned()
        }
        (MissingKind::SmtProof | MissingKind::CasAnnouncement, Some(cohort)) => format!(
            "ask the aggregator of cohort {}: `btcr2-agent did verify --fetch`",
            cohort.short()
        ),
        (MissingKind::SmtProof | MissingKind::CasAnnouncement, None) => {
            "this agent is no member of a cohort with this beacon: its aggregator has it".to_owned()
        }
    }
}
