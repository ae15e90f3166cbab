//! Whether what is stored still explains every signal, and having again what does not (DESIGN §6, rules 5 and
//! 13).
//!
//! Three things are compared: what the machines believe to be saved, what the store has, and what the chain shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::Address;

use super::error::AgentError;
use super::node::{Machine, Node, NodeId, NodeInput};
use super::runtime::Agent;
use super::sidecar::{Export, Facts, MissingKind};
use crate::beacon::history::AddressHistory;
use crate::did::{BeaconKind, Did};
use crate::hash::{CohortId, SignalBytes, SmtIndex};
use crate::network::Network;
use crate::protocol::effect::Outcome;
use crate::protocol::participant::{IndexState, Participant, ParticipantInput};
use crate::protocol::terms::CohortBeacon;
use crate::store::{ArtifactKind, Role, Subject};

/// Something that endangers a DID without being a missing artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Risk {
    /// A stable name.
    pub(super) code: &'static str,
    /// What is the matter: one sentence.
    pub(super) text: String,
    /// What to do: one sentence.
    pub(super) remedy: String,
}

impl Agent {
    /// After a start: what a machine believes to be saved and the store does not have is asked for again.
    pub(super) fn reconcile_artifacts(&mut self) -> Result<(), AgentError> {
        let mut lost: Vec<(NodeId, SmtIndex, Vec<SignalBytes>)> = Vec::new();
        for node in self.nodes.values() {
            let Machine::Participant(machine) = &node.machine else {
                continue;
            };
            let view = self.store.view();
            let announcements = match machine.terms().beacon {
                CohortBeacon::Cas => {
                    let kind = ArtifactKind::CasAnnouncement;
                    view.artifact_signals(kind, &Subject::Round, None)?
                }
                CohortBeacon::Smt => Vec::new(),
            };
            let announcements: BTreeSet<SignalBytes> = announcements.into_iter().collect();
            for index in machine.indexes() {
                let stored = match machine.terms().beacon {
                    CohortBeacon::Cas => None,
                    CohortBeacon::Smt => {
                        let subject = Subject::Index(index);
                        let proofs =
                            view.artifact_signals(ArtifactKind::SmtProof, &subject, None)?;
                        Some(proofs.into_iter().collect::<BTreeSet<_>>())
                    }
                };
                let stored = stored.as_ref().unwrap_or(&announcements);
                let signals: Vec<SignalBytes> = machine
                    .proved_signals(&index)
                    .filter(|signal| !stored.contains(signal))
                    .collect();
                if !signals.is_empty() {
                    lost.push((node.id, index, signals));
                }
            }
        }
        for (id, index, signals) in lost {
            let count = signals.len();
            tracing::warn!(cohort = %id.0.short(), %index, count, "stored proofs are gone: asking for them");
            let input = ParticipantInput::Lost { index, signals };
            self.feed(id, NodeInput::Participant(input))?;
        }
        Ok(())
    }

    /// Every beacon address of these DIDs, with the network it is on.
    pub(super) fn beacons_to_read(
        &self,
        dids: &[Did],
    ) -> Result<BTreeSet<(Network, Address)>, AgentError> {
        let facts = self.facts();
        let mut beacons = BTreeSet::new();
        for did in dids {
            for beacon in self.export_of(did, &facts)?.beacons {
                let address = beacon.address.parse::<Address<_>>().ok();
                // It stood in a document that was checked.
                if let Some(address) = address {
                    beacons.insert((did.network(), address.assume_checked()));
                }
            }
        }
        Ok(beacons)
    }

    /// What is known of addresses, with histories that were read just now; `None` for those that could not be.
    pub(super) fn facts_with(
        &self,
        read: impl IntoIterator<Item = (Address, Option<Arc<AddressHistory>>)>,
    ) -> Facts {
        let mut facts = self.facts();
        for (address, history) in read {
            let known = facts.entry(address.to_string()).or_default();
            known.unreadable = history.is_none();
            if history.is_some() {
                known.history = history;
            }
        }
        facts
    }

    /// What endangers a DID besides what is missing.
    pub(super) fn risks_of(&self, did: &Did, export: &Export, facts: &Facts) -> Vec<Risk> {
        let index = did.smt_index();
        let mut risks = Vec::new();
        for beacon in &export.beacons {
            if beacon.kind == BeaconKind::Singleton {
                continue;
            }
            let listed = beacon.until_version.is_none();
            let Some((cohort, machine)) = beacon
                .cohort
                .and_then(|cohort| Some((cohort, self.member(cohort)?)))
            else {
                if listed {
                    risks.push(Risk {
                        code: "no_seat",
                        text: format!(
                            "this agent has no seat in the cohort of {}, and nobody saves its proofs for the DID",
                            beacon.address
                        ),
                        remedy: "remove the beacon by an update, and get the proofs of its later signals \
                                 from its aggregator"
                            .into(),
                    });
                }
                continue;
            };
            let covered = matches!(machine.index_state(&index), Some(IndexState::Covered(_)));
            if listed && !covered {
                risks.push(Risk {
                    code: "not_covered",
                    text: format!("cohort {} does not cover the DID", cohort.short()),
                    remedy: format!(
                        "`btcr2-agent did register {did} --cohort {}`",
                        cohort.short()
                    ),
                });
            }
            risks.extend(unknown_spends(cohort, machine, &beacon.address, facts));
        }
        risks
    }

    /// Asks for what is missing of a DID and an aggregator can prove; says how many cohorts were asked.
    pub(super) fn fetch_missing(
        &mut self,
        did: &Did,
        export: &Export,
    ) -> Result<usize, AgentError> {
        let index = did.smt_index();
        let mut of_cohort: std::collections::BTreeMap<CohortId, Vec<SignalBytes>> =
            std::collections::BTreeMap::new();
        for missing in &export.missing {
            let provable = matches!(
                missing.kind,
                MissingKind::SmtProof | MissingKind::CasAnnouncement
            );
            if let (true, Some(cohort), Some(signal)) = (provable, missing.cohort, missing.signal) {
                of_cohort.entry(cohort).or_default().push(signal);
            }
        }
        let mut asked = 0;
        for (cohort, signals) in of_cohort {
            let id = (cohort, Role::Participant);
            if self.member(cohort).is_none() {
                continue;
            }
            let lost = ParticipantInput::Lost { index, signals };
            let lost = self.feed(id, NodeInput::Participant(lost))?;
            let mut outcome = lost.clone();
            if lost != Outcome::Accepted {
                // The machine knows that it lacks them, and may have asked long ago.
                let fetch = ParticipantInput::Fetch { index };
                outcome = self.feed(id, NodeInput::Participant(fetch))?;
            }
            asked += usize::from(outcome == Outcome::Accepted);
        }
        Ok(asked)
    }

    /// This agent as a member of a cohort.
    pub(super) fn member(&self, cohort: CohortId) -> Option<&Participant> {
        match &self.nodes.get(&(cohort, Role::Participant))?.machine {
            Machine::Participant(machine) => Some(machine),
            Machine::Aggregator(_) => None,
        }
    }
}

/// Spends of a beacon of which this agent's log knows nothing: n of n sign every one.
fn unknown_spends(
    cohort: CohortId,
    machine: &Participant,
    address: &str,
    facts: &Facts,
) -> Option<Risk> {
    let known = facts.get(address)?;
    let history = known.history.as_ref()?;
    let signed: BTreeSet<_> = machine.given().iter().map(|given| given.txid).collect();
    let mut unknown = history.unknown_spends(&signed);
    // Signatures of rounds that are settled are not kept; their transactions are known.
    unknown.retain(|spend| !machine.watch().knows(&spend.txid));
    let first = unknown.first()?;
    Some(Risk {
        code: "unknown_spend",
        text: format!(
            "{} spends of the beacon of cohort {} are not in this agent's log, the first of them {}",
            unknown.len(),
            cohort.short(),
            first.txid
        ),
        remedy: "if this home was restored from an older bundle, they are what its former copy signed: fetch \
                 their proofs; if not, somebody else has the seat's key: update to a document without the beacon"
            .into(),
    })
}

impl Node {
    /// Whether messages to its keys still matter: also after the end, answers about the past do.
    pub(super) fn reads_inbox(&self) -> bool {
        !self.is_over() || (matches!(self.machine, Machine::Participant(_)) && self.watches_chain())
    }
}
